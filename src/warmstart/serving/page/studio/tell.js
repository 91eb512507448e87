// One line at the top for what went wrong; it stays until it is closed or something else comes.
import { $, write } from "./dom.js";
import { now } from "./store.js";

export function tell(error) {
  if (error.status === 0 && !now().isAlive) return; // the page says already that nothing answers
  if (error.status === undefined) console.error(error); // a fault of the page itself
  $("trouble").hidden = false;
  const isOurs = error.status === undefined;
  write($("trouble").firstElementChild, isOurs ? "That did not work. Load this page again." : error.message);
}

export function hush() {
  $("trouble").hidden = true;
}

export function watchTrouble() {
  $("trouble").querySelector("button").addEventListener("click", hush);
}
