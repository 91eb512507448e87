// Tries the model on a new picture: words first, then bars and the three most similar pictures.
import { thumbnail, upload } from "./api.js";
import { $, make, write } from "./dom.js";
import { live, startCamera, still, stopCamera } from "./camera.js";
import { dialog } from "./dialogs.js";
import { getState, subscribe } from "./store.js";
import { taskOf } from "./tasks.js";
import { percent } from "./format.js";

const BARS = 5;
const parts = {};
let turn = 0; // an answer that arrives after the next picture was chosen is dropped
let url = null;

export function buildTryModel() {
  const attributes = { type: "file", change: (event) => useFirst(event.target) };
  parts.file = make("input", { ...attributes, id: "try-file", class: "visually-hidden" });
  parts.capture = make("input", { ...attributes, accept: "image/*", capture: "environment", hidden: true });
  parts.title = make("h1", { class: "visually-hidden", tabindex: "-1" }, "Try it");
  parts.drop = make("div", { class: "drop" },
    make("p", { class: "large desk" }, "Drop a picture here"), make("p", { class: "large mobile" }, "Choose a picture"),
    make("div", { class: "row" }, parts.file, make("label", { for: "try-file", class: "button" }, "Choose a picture"),
      parts.capture, make("button", { class: "second", click: photograph }, "Camera")),
    make("p", { class: "quiet desk" }, "or paste one"));
  parts.noModel = make("div", { class: "no-model" }, make("p", { class: "large" }, "No model yet"),
    make("p", { class: "quiet" }, "Train once; then it can classify new pictures."),
    make("p", {}, make("a", { class: "button", href: "#pictures" }, "Go to pictures")));
  parts.busy = make("p", { class: "quiet", role: "status" });
  parts.problem = make("p", { class: "large warn", role: "alert" });
  parts.answer = make("div", { class: "prediction", hidden: true });
  $("place-try").append(parts.title, parts.noModel, parts.problem, parts.answer, parts.drop, parts.busy);
  document.addEventListener("paste", (event) => isHere() && useFirst(event.clipboardData) && event.preventDefault());
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && parts.drop.classList.remove("over"));
  document.addEventListener("drop", dropped);
}

const isHere = () => getState().place === "try" && getState().result !== null;

function over(event) {
  if (!isHere()) return;
  event.preventDefault();
  parts.drop.classList.add("over");
}

function dropped(event) {
  if (getState().place === "try") event.preventDefault(); // else the browser would open it
  parts.drop.classList.remove("over");
  if (isHere()) useFirst(event.dataTransfer);
}

function useFirst(transfer) {
  const [file] = transfer?.files ?? [];
  if (file) classify(file);
  if (transfer === parts.file || transfer === parts.capture) transfer.value = "";
  return Boolean(file);
}

async function classify(file) {
  const request = ++turn;
  write(parts.busy, "Classifying …");
  write(parts.problem, "");
  try {
    const answer = await upload("/api/predict", [file]);
    if (request === turn) show(answer, file);
  } catch (error) {
    if (request !== turn) return;
    parts.answer.hidden = true;
    write(parts.problem, error.message);
  }
  if (request === turn) write(parts.busy, "");
}

function show(answer, file) {
  if (url) URL.revokeObjectURL(url);
  url = URL.createObjectURL(file);
  const image = make("img", { src: url, alt: "Your picture" });
  image.addEventListener("error", () => (image.hidden = true)); // of a kind that browsers cannot show
  const words = make("h2", { tabindex: "-1", class: "words" }, answer.words);
  parts.answer.replaceChildren(make("figure", {}, image), make("div", { class: "beside" },
    words, remark(answer), bars(answer.scores), neighbours(answer.nearest)));
  parts.answer.hidden = false;
  words.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function remark(answer) {
  if (answer.value !== undefined) return numberRemark(answer);
  const words = answer.ood
    ? `Out of distribution: no training picture is like this. The closest of its ${taskOf(getState()).many} is ${answer.label}.`
    : answer.confident === null ? "It was trained on too few pictures to guarantee an error rate." : "";
  return words && make("p", { class: "quiet" }, words);
}

function numberRemark({ ood, label, low }) {
  if (ood) return make("p", { class: "quiet" }, `Out of distribution: no training picture is like this. Its prediction is ${label}.`);
  const words = low === null ? "It was trained on too few pictures to predict an interval."
    : "For 9 of 10 pictures like the training pictures, the true number is in this interval.";
  return make("p", { class: "quiet" }, words);
}

function bars(scores) {
  if (!Object.keys(scores).length) return "";
  // An object lists names that are numbers first, in their own order: sort by probability.
  const most = Object.entries(scores).sort(([, one], [, other]) => other - one).slice(0, BARS);
  return make("ol", { class: "bars", "aria-label": `Probability of each ${taskOf(getState()).one}` }, ...most.map(([label, probability]) => {
    const fill = make("div", { class: "fill" });
    fill.style.width = `${100 * probability}%`;
    return make("li", {}, make("span", {}, label), make("span", { class: "quiet" }, percent(probability)),
      make("div", { class: "track" }, fill));
  }));
}

function neighbours(nearest) {
  if (!nearest.length) return "";
  return make("div", {}, make("h3", {}, "Most similar training pictures"),
    make("ul", { class: "nearest" }, ...nearest.slice(0, 3).map(({ id, label }) => make("li", {},
      id ? make("img", { src: thumbnail(id), alt: "", width: 144, height: 144 }) : "", make("span", {}, taskOf(getState()).format(label))))));
}

async function photograph() {
  const stream = await startCamera();
  if (!stream) {
    parts.capture.click();
    return;
  }
  const file = await dialog("Camera", (close) => {
    const video = live(stream);
    const shoot = async () => video.videoWidth && close(await still(video));
    window.addEventListener("hashchange", () => close(), { once: true });
    return [video, make("div", { class: "row" }, make("button", { autofocus: true, click: shoot }, "Take a picture"),
      make("button", { class: "second", click: () => close() }, "Cancel"))];
  }, { class: "camera" });
  stopCamera(stream);
  if (file) classify(file);
}

subscribe((state, before) => {
  if (!parts.drop || (state.result === before.result && state.place === before.place)) return;
  if (state.board) parts.file.accept = state.board.accept;
  parts.noModel.hidden = state.result !== null;
  parts.drop.hidden = state.result === null;
});
