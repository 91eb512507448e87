// Changes of the board. The change itself comes back as an event, as in every other tab.
import { post } from "./api.js";
import { happened, now } from "./store.js";
import { say } from "./dom.js";
import { has, taskOf } from "./tasks.js";
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

// Gives pictures another label: a class, all labels of a set, or a number.
export function move(ids, label) {
  const going = ids.filter((id) => now().board.labels.get(id) !== label);
  if (!going.length) return Promise.resolve(true);
  happened("selected", { ids: [] });
  return send("/api/label", { ids: going, label }, `${taskOf(now()).leaves ? "Moved" : "Set"} ${count(going.length, "picture")} to ${taskOf(now()).said(label)}.`);
}

// Puts pictures into a column: they move to the class; of several labels it is added, or removed
// where all of them have it.
export function give(ids, name) {
  const { board } = now(), task = taskOf(now());
  if (task.leaves) return move(ids, name);
  if (!task.isNamed || task.isFixed(name)) return Promise.resolve(true);
  const on = ids.some((id) => !has(board.labels.get(id), name));
  const words = on ? `Added the label ${name} to ${count(ids.length, "picture")}.` : `Removed the label ${name} from ${count(ids.length, "picture")}.`;
  return send("/api/label", { ids, label: name, on }, words);
}

export function takeOff(ids) {
  if (!ids.length) return Promise.resolve(true);
  happened("selected", { ids: [] });
  return send("/api/label", { ids, label: null }, `Took ${count(ids.length, "picture")} off the board.`);
}

export function keep(ids, label) {
  return send("/api/keep", { ids }, `Confirmed ${taskOf(now()).said(label)}.`);
}

export function undo() {
  const what = now().board?.undo;
  return what ? send("/api/undo", {}, `Undone: ${what}.`) : Promise.resolve(false);
}

export function redo() {
  const what = now().board?.redo;
  return what ? send("/api/redo", {}, `Redone: ${what}.`) : Promise.resolve(false);
}

export function addClass(name) {
  return send("/api/classes", { add: name }, `Added the ${taskOf(now()).one} ${name}.`);
}

export function renameClass(name, other) {
  return send("/api/classes", { rename: [name, other] }, `Renamed ${name} to ${other}.`);
}

export function removeClass(name) {
  return send("/api/classes", { remove: name }, `Removed the ${taskOf(now()).one} ${name}.`);
}

export async function learn(budget, settings = []) {
  const isBegun = await send("/api/fit", { budget, settings }, "Training begins.");
  if (isBegun) location.hash = "result";
  return isBegun;
}

export function stop() {
  return send("/api/stop", {}, "Stopping.");
}

export function resume() {
  return send("/api/resume", {}, "Resuming.");
}
