// The bar above every place: the estimate, what training needs, and its button.
import { $, make, set, write } from "./dom.js";
import { train } from "./actions.js";
import { openTrainLonger } from "./train_longer.js";
import { isBusy, getState } from "./store.js";
import { count, number } from "./format.js";

export function showBar(state, before) {
  if (!state.board) return;
  const isSame = state.board === before.board && state.result === before.result && state.work === before.work
    && state.place === before.place;
  if (isSame) return;
  const { result, work } = state;
  showEstimate(result);
  const why = state.board.problem || null; // why training is not possible yet
  const isWorking = isBusy(state);
  write($("why-not"), why ?? "");
  $("why-not").hidden = why === null || isWorking;
  $("train").disabled = why !== null && !isWorking;
  $("train-longer").hidden = isWorking || why !== null;
  $("train").hidden = isWorking && state.place === "result";
  set($("train"), "class", isWorking ? "second" : null);
  write($("train"), isWorking ? progressWords(work) : trainWords(result));
}

function showEstimate(result) {
  const { estimate, comparison } = result ?? {};
  const isPlain = !result || result.task === "classify";
  const figure = estimate ? estimate.words + (isPlain ? "" : ` ${result.score_words}`) : "";
  const words = [figure, comparison?.words].filter(Boolean).join(" · ");
  if ($("estimate").textContent !== words) {
    $("estimate").replaceChildren(figure, make("span", { class: "quiet" }, words.slice(figure.length)));
  }
  set($("estimate"), "title", estimate ? `${capital(result.score_words)} on held-out pictures` : null);
  $("estimate").hidden = words === "";
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);

function trainWords(result) {
  if (!result) return "Train";
  // The button trains quickly; after a longer training that is different.
  const again = result.budget === "fast" ? "Train again" : "Train again quickly";
  return result.n_changes ? `${again} (${count(result.n_changes, "change")})` : again;
}

export function progressWords(work) {
  if (work.state === "stopping") return "Stopping …";
  if (!work.stage) return "Starting …";
  return work.of ? `${work.stage} ${number(work.done)} of ${number(work.of)}` : `${work.stage} …`;
}

export function watchBar() {
  $("train").addEventListener("click", () => {
    if (isBusy(getState())) location.hash = "result";
    else train("fast");
  });
  $("train-longer").addEventListener("click", openTrainLonger);
}
