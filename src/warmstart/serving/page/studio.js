// The studio's page: puts the views on the store, the places on the address, and connects.
import { connect } from "./studio/connect.js";
import { $, write } from "./studio/dom.js";
import { happened, now, subscribe } from "./studio/store.js";
import { showBoard } from "./studio/board.js";
import { showBar, watchBar } from "./studio/bar.js";
import { showTools, watchTools } from "./studio/tools.js";
import { showLearning } from "./studio/learning.js";
import { showResult } from "./studio/result.js";
import { buildTry } from "./studio/tryit.js";
import { watchAdding } from "./studio/adding.js";
import { watchBoard } from "./studio/keys.js";
import { watchDrag } from "./studio/drag.js";
import { hush, watchTrouble } from "./studio/tell.js";

const PLACES = ["pictures", "result", "try"];
const FILTERS = ["all", "wrong", "doubted"];
const GONE = "The studio does not answer; start it again where it ran.";

function showPlace(state, before) {
  if (state.place === before.place && state.board === before.board && state.isAlive === before.isAlive) return;
  for (const place of PLACES) {
    $(`place-${place}`).hidden = place !== state.place || !state.board;
    const link = document.querySelector(`nav a[href="#${place}"]`);
    if (place === state.place) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.dataset.place = state.place;
  $("bar").hidden = !state.board;
  // The empty alert is filled only now, so that it is read out.
  $("gone").hidden = state.isAlive;
  write($("gone"), state.isAlive ? "" : GONE);
  if (state.board) {
    write($("name"), state.board.name);
    $("name").title = state.board.place;
    document.title = `${state.board.name} · warmstart studio`;
  }
}

// What had the focus may be gone from sight, as Learn is once it was pressed; then the title has it.
let focused = null;

function noteFocus() {
  focused = document.activeElement;
}

function keepFocus() {
  const isLost = document.activeElement === document.body || document.activeElement?.closest("[hidden]");
  if (focused === document.body || !isLost) return;
  const titles = [...document.querySelectorAll("main h1")];
  titles.find((title) => !title.closest("[hidden]"))?.focus({ preventScroll: true });
}

function remember(state, before) {
  if (state.place === before.place && state.filter === before.filter) return;
  try {
    localStorage.setItem("studio", JSON.stringify({ place: state.place, filter: state.filter }));
  } catch {
    // The browser keeps nothing: the page begins at the pictures.
  }
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem("studio")) ?? {};
  } catch {
    return {};
  }
}

function go() {
  const wanted = location.hash.slice(1);
  if (!PLACES.includes(wanted) || wanted === now().place) return;
  hush();
  happened("went", { place: wanted });
  window.scrollTo(0, 0);
}

// Views that need the place on show come after the one that shows it.
const views = [noteFocus, showPlace, showTools, showBoard, showBar, showLearning, showResult, keepFocus, remember];
views.forEach(subscribe);
for (const watch of [watchTools, watchBoard, watchBar, watchDrag, watchAdding, watchTrouble, buildTry]) watch();
window.addEventListener("hashchange", go);

const { place, filter } = remembered();
if (FILTERS.includes(filter)) happened("filtered", { filter });
if (!location.hash && PLACES.includes(place)) history.replaceState(null, "", `#${place}`);
go();
connect();
