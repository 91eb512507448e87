// What a person does to the board. The change itself comes back as an event, as in every other tab.
import { post } from "./api.js";
import { happened, now } from "./store.js";
import { say } from "./dom.js";
import { count } from "./words.js";
import { tell } from "./tell.js";

async function send(path, data, words) {
  try {
    await post(path, data);
    if (words) say(words);
    return true;
  } catch (error) {
    tell(error);
    return false;
  }
}

export function move(ids, label) {
  const going = ids.filter((id) => now().board.labels.get(id) !== label);
  if (!going.length) return Promise.resolve(true);
  happened("selected", { ids: [] });
  return send("/api/label", { ids: going, label }, `Moved ${count(going.length, "picture")} to ${label}.`);
}

export function takeOff(ids) {
  if (!ids.length) return Promise.resolve(true);
  happened("selected", { ids: [] });
  return send("/api/label", { ids, label: null }, `Took ${count(ids.length, "picture")} off the board.`);
}

export function keep(ids, label) {
  return send("/api/keep", { ids }, `Kept ${label}.`);
}

export function undo() {
  const what = now().board?.undo;
  return what ? send("/api/undo", {}, `Undone: ${what}.`) : Promise.resolve(false);
}

export function redo() {
  const what = now().board?.redo;
  return what ? send("/api/redo", {}, `Done again: ${what}.`) : Promise.resolve(false);
}

export function addClass(name) {
  return send("/api/classes", { add: name }, `Added the class ${name}.`);
}

export function renameClass(name, other) {
  return send("/api/classes", { rename: [name, other] }, `Renamed ${name} to ${other}.`);
}

export function removeClass(name) {
  return send("/api/classes", { remove: name }, `Removed the class ${name}.`);
}

export async function learn(budget, settings = []) {
  const isBegun = await send("/api/fit", { budget, settings }, "Learning begins.");
  if (isBegun) location.hash = "result";
  return isBegun;
}

export function stop() {
  return send("/api/stop", {}, "Stopping.");
}

export function goOn() {
  return send("/api/resume", {}, "Going on.");
}
