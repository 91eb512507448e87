// A result: whether the model can be used, the figures, then what to do next.
import { $, make, table, write } from "./dom.js";
import { scale, scatter } from "./plots.js";
import { train } from "./actions.js";
import { mistakes, updateLabels } from "./mistakes.js";
import { showLabelIssues } from "./label_issues.js";
import { downloads } from "./downloads.js";
import { openLarge } from "./large_picture.js";
import { isBusy } from "./store.js";
import { taskOf } from "./tasks.js";
import { thumbnail } from "./api.js";
import { count, share, span } from "./format.js";

const FEW = 8; // pictures beside a finding
const parts = {};
let shown = null; // the number of the result that stands there

export function showResult(state, before) {
  if (state.place !== "result" || !state.board) return;
  const { result, work } = state;
  const isWorking = isBusy(state);
  $("result-content").hidden = isWorking || !result;
  $("no-model").hidden = Boolean(result) || work.state !== "idle";
  write($("no-model-words"), taskOf(state).startHint);
  if (!result || isWorking) return;
  if (shown !== result.number) build(state);
  else if (state.result === before.result && state.board === before.board
    && state.place === before.place) return;
  showChanged(state);
  updateLabels(parts.mistakes, state);
  showLabelIssues(parts.issues, state);
}

function build({ result }) {
  shown = result.number;
  parts.count = null; // the note of changes is a new one
  parts.changed = make("div", { class: "note changed", role: "status" });
  parts.issues = make("section", { class: "label-issues" });
  parts.mistakes = mistakes(result);
  $("result-content").replaceChildren(...[
    parts.changed, head(result), findings(result), nextSteps(result), weakest(result),
    eachLabel(result), against(result), parts.issues, parts.mistakes, downloads(result),
  ].filter(Boolean));
}

function head(result) {
  const { estimate, test, majority } = result;
  return make("section", { class: "answer", "aria-label": "Answer" },
    make("h1", { tabindex: "-1" }, result.headline),
    make("p", {}, result.verdict.sentence),
    estimate && make("p", { class: "large" }, `${estimate.words} ${result.score_words}`,
      make("span", { class: "quiet" }, `, on ${count(estimate.n, "held-out picture")}`)),
    estimate && scale(estimate, majority, result.score_words),
    test && make("p", {}, `${test.words} on the test set of ${count(test.n, "picture")}.${test.more ? ` There ${test.more}` : ""}`),
    ...result.use.map((sentence) => make("p", {}, sentence)),
    make("p", { class: "quiet" }, result.shipped),
    result.comparison && make("p", {}, `Compared with the previous result: ${result.comparison.words}.`));
}

function showChanged({ result }) {
  const { n_changes: changed } = result;
  parts.changed.hidden = !changed;
  if (parts.count === changed) return;
  parts.count = changed;
  parts.changed.replaceChildren(
    make("p", {}, `${count(changed, "change")} to the board ${changed === 1 ? "is" : "are"} not in this model yet.`),
    make("button", { click: () => train("fast") }, "Train again"));
}

function nextSteps({ next_steps: steps }) {
  if (!steps.length) return null;
  return titled("What to do next", make("ol", { class: "cards" },
    ...steps.map(({ title, text }) => make("li", {}, make("h3", {}, title), make("p", {}, text)))));
}

function weakest({ classes }) {
  if (!classes.length) return null;
  const weakestFirst = [...classes].sort((one, other) => one.recall - other.recall);
  const heads = ["Class", "Recall", "Pictures", "Most often confused with"];
  const attributes = { class: "wide classes", tabindex: "0", role: "region", "aria-label": "Each class" };
  return titled("Each class, the weakest first", make("div", attributes,
    table(heads, weakestFirst.map(classLine), "Recall of each class")));
}

// Of several labels, each by itself, the weakest first.
function eachLabel({ labels }) {
  if (!labels?.length) return null;
  const weakestFirst = [...labels].sort((one, other) => (one.average_precision ?? 0) - (other.average_precision ?? 0));
  const heads = ["Label", "Average precision", "Pictures", "Precision", "Recall"];
  const attributes = { class: "wide classes", tabindex: "0", role: "region", "aria-label": "Each label" };
  return titled("Labels, the weakest first", make("div", attributes, table(heads, weakestFirst.map((one) => make("tr", {},
    make("th", { scope: "row" }, one.name), make("td", {}, one.average_precision === null ? "–" : share(one.average_precision)),
    make("td", {}, String(one.n)), make("td", {}, share(one.precision)), make("td", {}, share(one.recall)))),
  "Scores of each label")));
}

// Predicted against true numbers.
function against({ numbers, half_width: half }) {
  if (!numbers?.length) return null;
  const band = half === null ? "" : ` The band holds 9 of 10 (± ${half.toPrecision(3)}).`;
  return titled("Predicted against true", scatter(numbers, half),
    make("p", { class: "quiet" }, `A dot is a held-out picture; on the line the prediction is right.${band}`));
}

function classLine(one) {
  const fill = make("span", { class: "fill" });
  fill.style.width = `${100 * one.recall}%`;
  return make("tr", {},
    make("th", { scope: "row" }, one.name),
    make("td", { class: "measured" }, make("span", { class: "track" }, fill),
      `${share(one.recall)} (${span(one.low, one.high)})`),
    make("td", {}, String(one.n)),
    make("td", {}, one.confused_with ? `${one.confused_with} (${one.n_confused} of ${one.n})` : "–"));
}

function findings(result) {
  if (!result.findings.length) return null;
  return titled("Findings", make("ul", { class: "findings" }, ...result.findings.map(({ sentence, ids }) =>
    make("li", {}, make("p", {}, sentence), ids.length ? strip(ids) : null))));
}

function strip(ids) {
  const pictures = ids.slice(0, FEW).map((id, n) => make("button", {
    class: "picture small", "aria-label": `Picture ${n + 1} of ${ids.length}, open it large`,
    click: () => openLarge(id, ids),
  }, make("img", { src: thumbnail(id), alt: "", width: 64, height: 64, loading: "lazy" })));
  const others = ids.length > FEW && make("span", { class: "quiet" }, `and ${ids.length - FEW} more`);
  return make("div", { class: "row" }, ...pictures, others);
}

function titled(title, ...children) {
  return make("section", {}, make("h2", {}, title), ...children);
}

