// Label issues, each with its corrections.
import { thumbnail } from "./api.js";
import { $, make } from "./dom.js";
import { openLarge } from "./large.js";
import { keep, move, takeOff } from "./moves.js";
import { isOpen, now } from "./store.js";
import { taskOf } from "./tasks.js";

const FIRST = 12;
let most = FIRST;

export function showDoubts(section, state) {
  const doubts = state.result.suspects.filter((one) => isOpen(state, one));
  const hadFocus = section.contains(document.activeElement);
  const place = [...section.querySelectorAll("li")].findIndex((line) => line.contains(document.activeElement));
  section.hidden = state.result.suspects.length === 0;
  section.replaceChildren(make("h2", {}, title(doubts)), note(doubts), list(doubts, state), more(section, doubts, state));
  if (hadFocus) refocus(section, place);
}

function title(doubts) {
  const one = taskOf(now()).isNamed ? "label" : "number", all = `${one[0].toUpperCase()}${one.slice(1)}s`;
  if (!doubts.length) return `No ${one} issues left`;
  return doubts.some(({ believed }) => believed) ? `${all} that look wrong` : `${all} that the model contradicts most`;
}

function note(doubts) {
  if (!doubts.length || doubts.some(({ believed }) => believed)) return "";
  return make("p", { class: "quiet" }, "No label issues found: the model's own mistakes explain these.");
}

function list(doubts, state) {
  return make("ul", { class: "doubtful" }, ...doubts.slice(0, most).map((doubt) => item(doubt, doubts, state)));
}

function more(section, doubts, state) {
  if (doubts.length <= most) return "";
  return make("button", {
    class: "plain", click: () => {
      most += FIRST;
      showDoubts(section, state);
    },
  }, `Show more (${doubts.length - most})`);
}

function item({ id, label, suggested, believed }, doubts, { board }) {
  const name = board.facts.get(id)?.name ?? "picture", { said } = taskOf({ board });
  return make("li", {},
    make("button", {
      class: "picture", "data-mark": believed && "suspect", "aria-label": `${name}, open it large`,
      click: () => openLarge(id, doubts.map((one) => one.id)),
    }, make("img", { src: thumbnail(id), alt: "", width: 96, height: 96, loading: "lazy" })),
    make("div", {}, make("p", {}, `labelled ${said(label)}, looks like ${said(suggested)}`),
      make("div", { class: "row" },
        make("button", { class: "second", click: () => move([id], suggested) }, `It is ${said(suggested)}`),
        make("button", { class: "second", click: () => keep([id], label) }, `Keep ${said(label)}`),
        make("button", { class: "plain", "aria-label": `Remove ${name}`, click: () => takeOff([id]) }, "Remove"))));
}

// The next label takes the place of the corrected one, so Enter can be pressed again.
function refocus(section, place) {
  const items = section.querySelectorAll("li");
  const target = items[Math.min(Math.max(place, 0), items.length - 1)]?.querySelector(".second");
  (target ?? $("judged").querySelector("h1")).focus();
}
