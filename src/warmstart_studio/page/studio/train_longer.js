// Longer training: its time, memory and plan before it begins.
import { get } from "./api.js";
import { make, table, write } from "./dom.js";
import { cancel, dialog } from "./dialogs.js";
import { train } from "./actions.js";
import { number } from "./format.js";

const BUDGETS = [
  ["balanced", "Balanced", "fine-tunes layers where that helps your pictures"],
  ["thorough", "Thorough", "tries more and trains longer"],
];
const REST = 500; // ms without typing before the plan is requested

export function openTrainLonger() {
  const request = { budget: "balanced", changes: new Map(), rest: 0, turn: null };
  dialog("Train longer", (close) => {
    request.words = make("p", { role: "status", class: "large" });
    request.problem = make("p", { role: "alert", class: "warn" });
    request.plan = make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Plan" });
    request.begin = make("button", { disabled: true, click: () => close([request.budget, settingsOf(request)]) }, "Train");
    const buttons = make("div", { class: "row" }, request.begin, cancel(close));
    return [budgets(request), request.words, request.problem, request.plan, buttons];
  }, { class: "train-longer" }).then((choice) => {
    clearTimeout(request.rest);
    request.turn?.abort();
    if (choice) train(...choice);
  });
  ask(request);
}

function budgets(request) {
  const pick = (event) => {
    request.budget = event.target.value;
    ask(request);
  };
  return make("fieldset", { class: "budgets" }, make("legend", { class: "visually-hidden" }, "How long"),
    ...BUDGETS.map(([value, name, text]) => make("label", {},
      make("input", { type: "radio", name: "budget", value, checked: value === request.budget, change: pick }),
      make("strong", {}, name), make("span", { class: "quiet" }, text))));
}

const settingsOf = ({ changes }) => [...changes].map(([path, value]) => `${path}=${value}`);

async function ask(request) {
  request.turn?.abort();
  const turn = request.turn = new AbortController();
  request.begin.disabled = true;
  write(request.words, "Computing the plan …");
  write(request.problem, "");
  const query = new URLSearchParams({ budget: request.budget });
  for (const setting of settingsOf(request)) query.append("settings", setting);
  try {
    const forecast = await get(`/api/forecast?${query}`, turn.signal);
    if (turn === request.turn) show(request, forecast);
  } catch (error) {
    if (error.name === "AbortError") return;
    write(request.words, "");
    write(request.problem, error.message);
  }
}

function show(request, { words, memory_mb: memory, rows, problem }) {
  request.begin.disabled = problem !== null;
  write(request.words, problem ? "" : `Takes ${words}, ${number(memory)} MB of memory`);
  write(request.problem, problem ?? "");
  if (!rows.length) return;
  // The field that is being edited keeps the focus in the new table.
  const focused = document.activeElement?.dataset?.path;
  const lines = rows.map((row) => line(request, row));
  request.plan.replaceChildren(table(["What", "Value", "Because", "Default"], lines, "The plan, and why"));
  if (focused) request.plan.querySelector(`[data-path="${CSS.escape(focused)}"]`)?.focus();
}

function line(request, row) {
  return make("tr", {},
    make("th", { scope: "row" }, row.name),
    make("td", {}, row.path ? field(request, row) : row.value),
    make("td", { class: "quiet" }, row.because),
    make("td", { class: "quiet" }, row.rule && row.rule !== row.value ? row.rule : ""));
}

function field(request, { path, value, name }) {
  return make("input", {
    type: "text", value: request.changes.get(path) ?? value, "aria-label": name, "data-path": path, autocomplete: "off",
    input: (event) => {
      request.begin.disabled = true;
      const typed = event.target.value.trim();
      if (typed) request.changes.set(path, typed);
      else request.changes.delete(path); // empty: the default
      clearTimeout(request.rest);
      request.rest = setTimeout(() => ask(request), REST);
    },
  });
}
