// The studio's page: connects the views to the store, the places to the address, and the server.
import { connect } from "./studio/connect.js";
import { $, write } from "./studio/dom.js";
import { dispatch, getState, subscribe } from "./studio/store.js";
import { showBoard } from "./studio/board.js";
import { showBar, watchBar } from "./studio/bar.js";
import { showToolbar, watchToolbar } from "./studio/toolbar.js";
import { showTraining } from "./studio/training.js";
import { showResult } from "./studio/result.js";
import { buildTryModel } from "./studio/try_model.js";
import { watchUploads } from "./studio/uploads.js";
import { watchBoard } from "./studio/keys.js";
import { watchDrag } from "./studio/drag.js";
import { hideError, watchErrors } from "./studio/messages.js";

const PLACES = ["pictures", "result", "try"];
const FILTERS = ["all", "wrong", "label-issue"];
const GONE = "The studio does not answer; start it again.";

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
  // The empty alert is filled last, so that screen readers announce it.
  $("offline").hidden = state.isAlive;
  write($("offline"), state.isAlive ? "" : GONE);
  if (state.board) {
    write($("name"), state.board.name);
    $("name").title = state.board.place;
    document.title = `${state.board.name} · warmstart studio`;
  }
}

// Where the focused element disappears, as Train does once pressed, the title gets the focus.
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
    // Without storage the page begins at the pictures.
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
  if (!PLACES.includes(wanted) || wanted === getState().place) return;
  hideError();
  dispatch("placeChanged", { place: wanted });
  window.scrollTo(0, 0);
}

// Views that need a visible place come after showPlace.
const views = [noteFocus, showPlace, showToolbar, showBoard, showBar, showTraining, showResult, keepFocus, remember];
views.forEach(subscribe);
for (const watch of [watchToolbar, watchBoard, watchBar, watchDrag, watchUploads, watchErrors, buildTryModel]) watch();
window.addEventListener("hashchange", go);

const { place, filter } = remembered();
if (FILTERS.includes(filter)) dispatch("filterChanged", { filter });
if (!location.hash && PLACES.includes(place)) history.replaceState(null, "", `#${place}`);
go();
connect();
