// Learning that takes longer: what it would cost and how it would go about it, before it begins.
import { get } from "./api.js";
import { make, table, write } from "./dom.js";
import { cancel, dialog } from "./dialogs.js";
import { learn } from "./moves.js";
import { number } from "./words.js";

const BUDGETS = [
  ["balanced", "Balanced", "tunes the layers where your pictures gain from it"],
  ["thorough", "Thorough", "tries more and trains longer"],
];
const REST = 500; // ms without typing, after which the plan is asked for

export function openDeeper() {
  const asked = { budget: "balanced", changes: new Map(), rest: 0, turn: null };
  dialog("Learn deeper", (close) => {
    asked.words = make("p", { role: "status", class: "large" });
    asked.problem = make("p", { role: "alert", class: "warn" });
    asked.plan = make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Plan" });
    asked.begin = make("button", { disabled: true, click: () => close([asked.budget, settingsOf(asked)]) }, "Learn");
    const end = make("div", { class: "row" }, asked.begin, cancel(close));
    return [choice(asked), asked.words, asked.problem, asked.plan, end];
  }, { class: "deeper" }).then((given) => {
    clearTimeout(asked.rest);
    asked.turn?.abort();
    if (given) learn(...given);
  });
  ask(asked);
}

function choice(asked) {
  const pick = (event) => {
    asked.budget = event.target.value;
    ask(asked);
  };
  return make("fieldset", { class: "budgets" }, make("legend", { class: "away" }, "How long"),
    ...BUDGETS.map(([value, name, text]) => make("label", {},
      make("input", { type: "radio", name: "budget", value, checked: value === asked.budget, change: pick }),
      make("strong", {}, name), make("span", { class: "quiet" }, text))));
}

const settingsOf = ({ changes }) => [...changes].map(([path, value]) => `${path}=${value}`);

async function ask(asked) {
  asked.turn?.abort();
  const turn = asked.turn = new AbortController();
  asked.begin.disabled = true;
  write(asked.words, "Working out the plan …");
  write(asked.problem, "");
  const query = new URLSearchParams({ budget: asked.budget });
  for (const setting of settingsOf(asked)) query.append("settings", setting);
  try {
    const forecast = await get(`/api/forecast?${query}`, turn.signal);
    if (turn === asked.turn) show(asked, forecast);
  } catch (error) {
    if (error.name === "AbortError") return;
    write(asked.words, "");
    write(asked.problem, error.message);
  }
}

function show(asked, { words, memory_mb: memory, rows, problem }) {
  asked.begin.disabled = problem !== null;
  write(asked.words, problem ? "" : `Takes ${words}, ${number(memory)} MB of memory`);
  write(asked.problem, problem ?? "");
  if (!rows.length) return;
  // Whoever is typing in a row goes on there when the table is made anew.
  const focused = document.activeElement?.dataset?.path;
  const lines = rows.map((row) => line(asked, row));
  asked.plan.replaceChildren(table(["What", "Value", "Because", "The rule says"], lines, "What it will do, and why"));
  if (focused) asked.plan.querySelector(`[data-path="${CSS.escape(focused)}"]`)?.focus();
}

function line(asked, row) {
  return make("tr", {},
    make("th", { scope: "row" }, row.what),
    make("td", {}, row.path ? field(asked, row) : row.value),
    make("td", { class: "quiet" }, row.because),
    make("td", { class: "quiet" }, row.rule && row.rule !== row.value ? row.rule : ""));
}

function field(asked, { path, value, what }) {
  return make("input", {
    type: "text", value: asked.changes.get(path) ?? value, "aria-label": what, "data-path": path, autocomplete: "off",
    input: (event) => {
      asked.begin.disabled = true;
      const typed = event.target.value.trim();
      if (typed) asked.changes.set(path, typed);
      else asked.changes.delete(path); // empty: back to what the rule says
      clearTimeout(asked.rest);
      asked.rest = setTimeout(() => ask(asked), REST);
    },
  });
}
