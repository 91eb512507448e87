// Shows errors in one line at the top, until it is closed or replaced.
import { $, write } from "./dom.js";
import { now } from "./store.js";

export function tell(error) {
  if (error.status === 0 && !now().isAlive) return; // the page already says so
  if (error.status === undefined) console.error(error); // a fault of the page itself
  $("trouble").hidden = false;
  const isOurs = error.status === undefined;
  write($("trouble").firstElementChild, isOurs ? "Something went wrong. Reload this page." : error.message);
}

export function hush() {
  $("trouble").hidden = true;
}

export function watchTrouble() {
  $("trouble").querySelector("button").addEventListener("click", hush);
}
