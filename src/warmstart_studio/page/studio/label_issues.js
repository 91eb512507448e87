// Label issues, each with its corrections.
import { thumbnail } from "./api.js";
import { $, make } from "./dom.js";
import { openLarge } from "./large_picture.js";
import { confirmLabels, move, removePictures } from "./actions.js";
import { isOpen, getState } from "./store.js";
import { taskOf } from "./tasks.js";

const FIRST = 12;
let most = FIRST;

export function showLabelIssues(section, state) {
  const issues = state.result.label_issues.filter((one) => isOpen(state, one));
  const hadFocus = section.contains(document.activeElement);
  const place = [...section.querySelectorAll("li")].findIndex((line) => line.contains(document.activeElement));
  section.hidden = state.result.label_issues.length === 0;
  section.replaceChildren(make("h2", {}, title(issues)), note(issues), list(issues, state), more(section, issues, state));
  if (hadFocus) refocus(section, place);
}

function title(issues) {
  const one = taskOf(getState()).isNamed ? "label" : "number", all = `${one[0].toUpperCase()}${one.slice(1)}s`;
  if (!issues.length) return `No ${one} issues left`;
  return issues.some(({ is_issue: isIssue }) => isIssue) ? `${all} that look wrong` : `${all} that the model contradicts most`;
}

function note(issues) {
  if (!issues.length || issues.some(({ is_issue: isIssue }) => isIssue)) return "";
  return make("p", { class: "quiet" }, "No label issues found: the model's own mistakes explain these.");
}

function list(issues, state) {
  return make("ul", { class: "issue-list" }, ...issues.slice(0, most).map((issue) => item(issue, issues, state)));
}

function more(section, issues, state) {
  if (issues.length <= most) return "";
  return make("button", {
    class: "plain", click: () => {
      most += FIRST;
      showLabelIssues(section, state);
    },
  }, `Show more (${issues.length - most})`);
}

function item({ id, label, suggested, is_issue: isIssue }, issues, { board }) {
  const name = board.facts.get(id)?.name ?? "picture", { format } = taskOf({ board });
  return make("li", {},
    make("button", {
      class: "picture", "data-mark": isIssue && "label-issue", "aria-label": `${name}, open it large`,
      click: () => openLarge(id, issues.map((one) => one.id)),
    }, make("img", { src: thumbnail(id), alt: "", width: 96, height: 96, loading: "lazy" })),
    make("div", {}, make("p", {}, `labelled ${format(label)}, looks like ${format(suggested)}`),
      make("div", { class: "row" },
        make("button", { class: "second", click: () => move([id], suggested) }, `It is ${format(suggested)}`),
        make("button", { class: "second", click: () => confirmLabels([id], label) }, `Keep ${format(label)}`),
        make("button", { class: "plain", "aria-label": `Remove ${name}`, click: () => removePictures([id]) }, "Remove"))));
}

// The next label takes the place of the corrected one, so Enter can be pressed again.
function refocus(section, place) {
  const items = section.querySelectorAll("li");
  const target = items[Math.min(Math.max(place, 0), items.length - 1)]?.querySelector(".second");
  (target ?? $("result-content").querySelector("h1")).focus();
}
