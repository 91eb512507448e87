// One picture, large: its name, the prediction, and its label.
import { original, thumbnail } from "./api.js";
import { focusPicture } from "./board.js";
import { isTyping, make, write } from "./dom.js";
import { assign, move, removePictures } from "./actions.js";
import { getState, subscribe } from "./store.js";
import { has, taskOf } from "./tasks.js";
import { number, percent } from "./format.js";

let box = null; // the dialog, while it is open
let ids = []; // the pictures to page through
let at = 0;
const parts = {};

export function openLarge(id, among) {
  if (box) return;
  ids = [...among];
  at = Math.max(0, ids.indexOf(id));
  build();
  document.body.append(box);
  box.showModal();
  draw();
}

function build() {
  parts.shown = null; // the picture is a new element
  parts.image = make("img", { alt: "" });
  // Files that browsers cannot show have a thumbnail.
  parts.image.addEventListener("error", () => {
    if (parts.image.src.includes("/pictures/")) parts.image.src = thumbnail(ids[at]);
  });
  parts.name = make("h2", { id: "large-name", tabindex: "-1", autofocus: true });
  parts.opinion = make("p", { role: "status" });
  parts.label = make("div", { class: "row labels" });
  parts.place = make("p", { class: "quiet" });
  parts.facts = make("p", { class: "quiet" });
  box = make("dialog", { class: "large-picture", "aria-labelledby": "large-name", keydown: pressed, close: closed },
    make("figure", {}, parts.image),
    make("div", { class: "beside" }, parts.name, parts.facts, parts.opinion,
      parts.label,
      make("div", { class: "row" },
        make("button", { class: "second", click: () => go(-1), "aria-label": "Picture before" }, "←"),
        parts.place,
        make("button", { class: "second", click: () => go(1), "aria-label": "Next picture" }, "→")),
      make("div", { class: "row" },
        make("button", { click: () => box.close() }, "Close"),
        make("button", { class: "plain", click: remove }, "Remove from the board"))));
}

function closed() {
  box.remove();
  box = null;
  // The focus goes to the last picture.
  if (getState().place === "pictures") focusPicture(ids[at]);
  if (document.activeElement === document.body) document.querySelector(".place:not([hidden]) h1")?.focus();
}

function draw() {
  const { board, result } = getState();
  const id = ids[at];
  const label = board.labels.get(id) ?? null;
  const facts = board.facts.get(id) ?? { name: "Picture" };
  if (parts.shown !== id) parts.image.src = original(id);
  parts.shown = id;
  write(parts.name, facts.name);
  write(parts.facts, facts.width ? `${number(facts.width)} × ${number(facts.height)}${SPLITS[facts.split] ?? ""}` : "");
  write(parts.opinion, opinion(result, id, label));
  parts.label.replaceChildren(...LABELS[board.task ?? "classify"](board, label));
  write(parts.place, `${number(at + 1)} of ${number(ids.length)}`);
}

// Inputs for the label: a list of classes, a box for each of several labels, a field for a number.
const LABELS = {
  classify(board, label) {
    const options = board.classes.map((name, n) => make("option", { value: name }, n < 9 ? `${n + 1}  ${name}` : name));
    const list = make("select", { change: (event) => relabel(event.target.value) },
      ...(label === null ? [make("option", { value: "" }, "off the board")] : []), ...options);
    list.value = label ?? "";
    return [make("label", { class: "row" }, "Label", list)];
  },
  multilabel: (board, label) => board.classes.map((name, n) => {
    const tick = make("input", { type: "checkbox", change: () => relabel(name) });
    tick.checked = has(label, name);
    return make("label", { class: "check" }, tick, n < 9 ? `${n + 1}  ${name}` : name);
  }),
  regress(board, label) {
    const field = make("input", {
      type: "number", step: "any", value: label ?? "",
      change: (event) => event.target.value.trim() && move([ids[at]], String(Number(event.target.value))),
    });
    return [make("label", { class: "row" }, "Number", field)];
  },
};

const SPLITS = { test: ", test set", holdout: ", validation set" };

function opinion(result, id, label) {
  if (!result) return "";
  const wrong = result.mistakes[id];
  const issue = result.label_issues.find((one) => one.id === id && one.label === label);
  const task = taskOf(getState());
  if (wrong && wrong.label === label) return `The model predicts ${task.format(wrong.label)} too.`;
  if (wrong) {
    const confidence = wrong.probability === undefined ? "" : ` (${percent(wrong.probability)})`;
    const prediction = `Held out, it was predicted as ${task.format(wrong.label)}${confidence}.`;
    return issue?.is_issue ? `${prediction} The ${task.isNamed ? "label" : "number"} looks wrong.` : prediction;
  }
  return issue?.is_issue ? `The ${task.isNamed ? "label" : "number"} looks wrong; the picture looks like ${task.format(issue.suggested)}.` : "";
}

function go(by) {
  at = (at + by + ids.length) % ids.length;
  draw();
}

function relabel(label) {
  if (label) assign([ids[at]], label);
}

async function remove() {
  await removePictures([ids[at]]);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  const name = /^[1-9]$/.test(event.key) ? getState().board.classes[event.key - 1] : null;
  if (name) relabel(name);
  else if (event.key === "ArrowLeft") go(-1);
  else if (event.key === "ArrowRight") go(1);
  else if (event.key === "Delete") remove();
  else return;
  event.preventDefault();
}

subscribe((state, before) => {
  if (box && (state.board !== before.board || state.result !== before.result)) draw();
});
