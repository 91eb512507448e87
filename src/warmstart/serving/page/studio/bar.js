// The bar above every place: the estimate, what training needs, and its button.
import { $, make, set, write } from "./dom.js";
import { learn } from "./moves.js";
import { openDeeper } from "./deeper.js";
import { isBusy, now } from "./store.js";
import { count, number } from "./words.js";

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
  $("learn").disabled = why !== null && !isWorking;
  $("deeper").hidden = isWorking || why !== null;
  $("learn").hidden = isWorking && state.place === "result";
  set($("learn"), "class", isWorking ? "second" : null);
  write($("learn"), isWorking ? progressWords(work) : learnWords(result));
}

function showEstimate(result) {
  const { estimate, compared } = result ?? {};
  const isPlain = !result || result.task === "classify";
  const figure = estimate ? estimate.words + (isPlain ? "" : ` ${result.right}`) : "";
  const words = [figure, compared?.words].filter(Boolean).join(" · ");
  if ($("estimate").textContent !== words) {
    $("estimate").replaceChildren(figure, make("span", { class: "quiet" }, words.slice(figure.length)));
  }
  set($("estimate"), "title", estimate ? `${capital(result.right)} on held-out pictures` : null);
  $("estimate").hidden = words === "";
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);

function learnWords(result) {
  if (!result) return "Train";
  // The button trains quickly; after a longer training that is different.
  const again = result.budget === "fast" ? "Train again" : "Train again quickly";
  return result.changed ? `${again} (${count(result.changed, "change")})` : again;
}

export function progressWords(work) {
  if (work.state === "stopping") return "Stopping …";
  if (!work.stage) return "Starting …";
  return work.of ? `${work.stage} ${number(work.done)} of ${number(work.of)}` : `${work.stage} …`;
}

export function watchBar() {
  $("learn").addEventListener("click", () => {
    if (isBusy(now())) location.hash = "result";
    else learn("fast");
  });
  $("deeper").addEventListener("click", openDeeper);
}
