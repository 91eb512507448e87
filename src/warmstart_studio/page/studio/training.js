// Progress of training: stage, time left, curves and notes.
import { $, make, announce, write } from "./dom.js";
import { progressWords } from "./bar.js";
import { curves } from "./plots.js";
import { train, resume, stop } from "./actions.js";
import { getState } from "./store.js";
import { left } from "./format.js";

const parts = {};

function build() {
  parts.title = make("h1", { tabindex: "-1" });
  parts.stage = make("p", { class: "large", id: "stage" });
  parts.bar = make("progress", { "aria-labelledby": "stage" });
  parts.left = make("p", { class: "quiet" });
  parts.stop = make("button", { class: "second", click: stop }, "Stop");
  parts.resume = make("button", { click: resume }, "Resume");
  parts.again = make("button", { click: () => train(parts.budget ?? "fast") }, "Train again");
  parts.curve = make("figure", { class: "curves" });
  parts.notes = make("dl", { class: "notes" });
  $("work").append(parts.title, parts.stage, parts.bar, parts.left,
    make("div", { class: "row" }, parts.stop, parts.resume, parts.again), parts.curve, parts.notes);
}

const TITLES = { working: "Training", stopping: "Stopping", stopped: "Stopped", failed: "Training failed" };

export function showTraining(state, before) {
  const { work } = state;
  if (work === before.work && state.result === before.result && state.place === before.place) return;
  if (!parts.title) build();
  $("work").hidden = work.state === "idle";
  if (work.state === "idle") return;
  const isBusy = work.state === "working" || work.state === "stopping";
  write(parts.title, TITLES[work.state]);
  parts.budget = work.budget;
  showStage(work, isBusy);
  parts.stop.hidden = !isBusy;
  parts.stop.disabled = work.state === "stopping";
  parts.resume.hidden = work.state !== "stopped";
  parts.again.hidden = isBusy;
  parts.again.className = work.state === "stopped" ? "second" : "";
  showCurves(work.curves);
  showNotes(work.notes);
  announceStage(work, before.work);
}

function showStage(work, isBusy) {
  write(parts.stage, work.state === "failed" ? work.error ?? "" : progressWords(work));
  parts.bar.hidden = !isBusy;
  if (work.of) {
    parts.bar.max = work.of;
    parts.bar.value = work.done;
  } else parts.bar.removeAttribute("value"); // unknown: an indeterminate bar
  write(parts.left, hint(work));
}

function hint(work) {
  if (work.state === "stopped") {
    return "Resume where it stopped, or train again with the present board.";
  }
  if (work.state === "failed") return "Your pictures and labels are unchanged.";
  return work.state === "working" ? left(work.seconds_left) : "";
}

function showCurves(folds) {
  parts.curve.hidden = !folds.some(({ points }) => points.length > 1);
  const drawn = JSON.stringify(folds);
  if (parts.curve.hidden || parts.drawn === drawn) return;
  parts.drawn = drawn;
  const score = getState().board?.task === "classify" ? "Accuracy" : "Score";
  const key = (kind, words) => make("li", {}, make("span", { class: `key ${kind}` }), words);
  const legend = make("ul", { class: "legend" }, ...folds.map(({ fold }, n) => key(`fold-${n % 3}`, fold)),
    folds.some(({ probe }) => probe !== null) && key("probe", "linear probe (a new output layer on the frozen network)"));
  const caption = make("figcaption", { class: "quiet" },
    "Each fold holds some pictures out and trains on the others. An epoch is one pass over those.");
  parts.curve.replaceChildren(curves(folds, `${score} on held-out pictures`), legend, caption);
}

// Notes are only appended during a run.
function showNotes(notes) {
  const shown = parts.notes.children.length;
  const isSame = notes.length >= shown && (!shown || parts.first === notes[0].text);
  if (!isSame) parts.notes.replaceChildren();
  parts.first = notes[0]?.text;
  for (const { title, text } of notes.slice(parts.notes.children.length)) {
    parts.notes.append(make("div", {}, make("dt", {}, title), make("dd", {}, text)));
  }
}

// Screen readers announce the stages and the end, not each count.
function announceStage(work, before) {
  if (work.state !== before.state && work.state !== "working") announce(`${TITLES[work.state]}. ${work.error ?? ""}`);
  else if (work.stage !== before.stage) announce(`${work.stage}. ${left(work.seconds_left)}`);
}
