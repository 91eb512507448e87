// Shows errors in one line at the top, until it is closed or replaced.
import { $, write } from "./dom.js";
import { getState } from "./store.js";

export function showError(error) {
  if (error.status === 0 && !getState().isAlive) return; // the page already says so
  if (error.status === undefined) console.error(error); // a fault of the page itself
  $("error").hidden = false;
  const isOurs = error.status === undefined;
  write($("error").firstElementChild, isOurs ? "Something went wrong. Reload this page." : error.message);
}

export function hideError() {
  $("error").hidden = true;
}

export function watchErrors() {
  $("error").querySelector("button").addEventListener("click", hideError);
}
