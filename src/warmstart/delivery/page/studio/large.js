// One picture, large: what it is called, what the model says, and another label for it.
import { original, thumbnail } from "./api.js";
import { focusPicture } from "./board.js";
import { isTyping, make, write } from "./dom.js";
import { move, takeOff } from "./moves.js";
import { now, subscribe } from "./store.js";
import { number, percent } from "./words.js";

let box = null; // the dialog, while it is open
let ids = []; // the pictures to go through, as they were when it was opened
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
  // Kinds of files that browsers cannot show have a thumbnail all the same.
  parts.image.addEventListener("error", () => {
    if (parts.image.src.includes("/pictures/")) parts.image.src = thumbnail(ids[at]);
  });
  parts.name = make("h2", { id: "large-name", tabindex: "-1", autofocus: true });
  parts.said = make("p", { role: "status" });
  parts.label = make("select", { change: (event) => relabel(event.target.value) });
  parts.place = make("p", { class: "quiet" });
  parts.facts = make("p", { class: "quiet" });
  box = make("dialog", { class: "large-picture", "aria-labelledby": "large-name", keydown: pressed, close: closed },
    make("figure", {}, parts.image),
    make("div", { class: "beside" }, parts.name, parts.facts, parts.said,
      make("label", { class: "row" }, "Label", parts.label),
      make("div", { class: "row" },
        make("button", { class: "second", click: () => go(-1), "aria-label": "Picture before" }, "←"),
        parts.place,
        make("button", { class: "second", click: () => go(1), "aria-label": "Next picture" }, "→")),
      make("div", { class: "row" },
        make("button", { click: () => box.close() }, "Close"),
        make("button", { class: "plain", click: remove }, "Take off the board"))));
}

function closed() {
  box.remove();
  box = null;
  // The focus goes to the picture that was looked at last.
  if (now().place === "pictures") focusPicture(ids[at]);
  if (document.activeElement === document.body) document.querySelector(".place:not([hidden]) h1")?.focus();
}

function draw() {
  const { board, result } = now();
  const id = ids[at];
  const label = board.labels.get(id) ?? null;
  const facts = board.facts.get(id) ?? { name: "Picture" };
  if (parts.shown !== id) parts.image.src = original(id);
  parts.shown = id;
  write(parts.name, facts.name);
  write(parts.facts, facts.width ? `${number(facts.width)} × ${number(facts.height)}${PARTS[facts.part] ?? ""}` : "");
  write(parts.said, opinion(result, id, label));
  const keyed = board.classes.map((name, n) => make("option", { value: name }, n < 9 ? `${n + 1}  ${name}` : name));
  parts.label.replaceChildren(...(label === null ? [make("option", { value: "" }, "off the board")] : []), ...keyed);
  parts.label.value = label ?? "";
  write(parts.place, `${number(at + 1)} of ${number(ids.length)}`);
}

const PARTS = { test: ", kept for the test", holdout: ", kept out of the learning" };

function opinion(result, id, label) {
  if (!result) return "";
  const wrong = result.wrong[id];
  const doubt = result.suspects.find((one) => one.id === id && one.label === label);
  if (wrong && wrong.label === label) return `The model says ${wrong.label} too.`;
  if (wrong) {
    const taken = `When it had not seen this picture, the model took it for ${wrong.label} (${percent(wrong.probability)}).`;
    return doubt?.believed ? `${taken} The label looks wrong.` : taken;
  }
  return doubt?.believed ? `The label looks wrong; the picture looks like ${doubt.suggested}.` : "";
}

function go(by) {
  at = (at + by + ids.length) % ids.length;
  draw();
}

function relabel(label) {
  if (label) move([ids[at]], label);
}

async function remove() {
  await takeOff([ids[at]]);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  const name = /^[1-9]$/.test(event.key) ? now().board.classes[event.key - 1] : null;
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
