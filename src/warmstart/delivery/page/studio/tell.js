// One line at the top for what went wrong; it stays until it is closed or something else comes.
import { $, write } from "./dom.js";

export function tell(error) {
  if (error.status === undefined) console.error(error);
  $("trouble").hidden = false;
  write($("trouble").firstElementChild, error.status === undefined ? "That did not work. Load this page again." : error.message);
}

export function hush() {
  $("trouble").hidden = true;
}

export function watchTrouble() {
  $("trouble").querySelector("button").addEventListener("click", hush);
}
