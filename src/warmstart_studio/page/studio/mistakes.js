// The mistakes of the newest model, the most confident ones first.
import { thumbnail } from "./api.js";
import { make, set, write } from "./dom.js";
import { openLarge } from "./large_picture.js";
import { setNumber } from "./keys.js";
import { assign, removePictures } from "./actions.js";
import { dispatch, getState } from "./store.js";
import { taskOf } from "./tasks.js";
import { percent } from "./format.js";

const FIRST = 48; // shown at once; more on request

export function mistakes(result) {
  const confidence = (id) => result.mistakes[id].probability ?? result.mistakes[id].error;
  const ids = Object.keys(result.mistakes).sort((one, other) => confidence(other) - confidence(one));
  const list = make("ul", { class: "mistakes" });
  const more = make("button", { class: "plain", click: () => fill(list, ids, result, more) });
  fill(list, ids, result, more);
  list.addEventListener("keydown", (event) => pressed(event, list));
  return make("section", {},
    make("h2", {}, ids.length ? `Mistakes (${ids.length})` : "No mistakes"),
    ids.length > 0 && hint(), list, more);
}

function hint() {
  const words = `Each was held out of the training of the model that got it wrong. ${taskOf(getState()).keyHint}`;
  return make("p", { class: "quiet" }, words,
    make("a", { href: "#pictures", click: () => dispatch("filterChanged", { filter: "wrong" }) }, "See them on the board"));
}

function fill(list, ids, result, more) {
  const shown = list.children.length;
  const next = ids.slice(shown, shown + FIRST);
  list.append(...next.map((id) => item(id, ids, result)));
  if (shown) list.children[shown].firstElementChild.focus();
  more.hidden = list.children.length >= ids.length;
  write(more, `Show more (${ids.length - list.children.length})`);
  updateLabels(list.parentElement, getState());
}

function item(id, ids, result) {
  const button = make("button", { class: "picture", "data-id": id, click: () => openLarge(id, ids) },
    make("img", { src: thumbnail(id), alt: "", width: 96, height: 96, loading: "lazy" }));
  return make("li", {}, button,
    make("span", { class: "was" }), make("span", { class: "quiet" }, taskOf(getState()).predictedAs(result.mistakes[id])));
}

// Updates the label of each picture in place.
export function updateLabels(section, { board, result }) {
  for (const button of section?.querySelectorAll(".mistakes .picture") ?? []) {
    const { id } = button.dataset;
    const label = board.labels.get(id) ?? null;
    const wrong = result.mistakes[id], task = taskOf({ board });
    if (!wrong) continue;
    const isFixed = label === null || !task.isOpen(wrong, label);
    const named = label === null ? "off the board" : task.format(label);
    const confidence = wrong.probability === undefined ? "" : ` (${percent(wrong.probability)})`;
    write(button.nextElementSibling, named);
    const name = board.facts.get(id)?.name ?? "picture";
    set(button, "aria-label", `${name}, ${named}, ${task.predictedAs(wrong)}${confidence}`);
    set(button, "data-mark", isFixed ? "fixed" : "wrong");
  }
}

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

function pressed(event, list) {
  const button = event.target.closest(".picture");
  if (!button || event.ctrlKey || event.metaKey || event.altKey) return;
  const name = /^[1-9]$/.test(event.key) ? getState().board.classes[event.key - 1] : null;
  const buttons = [...list.querySelectorAll(".picture")];
  const place = buttons.indexOf(button);
  if (event.key in STEPS) buttons[place + across(event.key, buttons) * STEPS[event.key]]?.focus();
  else if (event.key === "n" && !taskOf(getState()).isNamed) setNumber([button.dataset.id]);
  else if (name || event.key === "Delete") {
    if (name) assign([button.dataset.id], name);
    else removePictures([button.dataset.id]);
    buttons[place + 1]?.focus();
  } else return;
  event.preventDefault();
}

// Up and down move by a row.
function across(key, buttons) {
  if (key === "ArrowLeft" || key === "ArrowRight") return 1;
  const isBelow = (button) => button.offsetTop > buttons[0].offsetTop;
  const first = buttons.findIndex(isBelow);
  return first === -1 ? buttons.length : first;
}
