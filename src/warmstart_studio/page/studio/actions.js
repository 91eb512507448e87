// Changes of the board. The change itself comes back as an event, as in every other tab.
import { post } from "./api.js";
import { dispatch, getState } from "./store.js";
import { announce } from "./dom.js";
import { has, taskOf } from "./tasks.js";
import { count } from "./format.js";
import { showError } from "./messages.js";

async function send(path, data, words) {
  try {
    await post(path, data);
    if (words) announce(words);
    return true;
  } catch (error) {
    showError(error);
    return false;
  }
}

// Gives pictures another label: a class, all labels of a set, or a number.
export function move(ids, label) {
  const going = ids.filter((id) => getState().board.labels.get(id) !== label);
  if (!going.length) return Promise.resolve(true);
  dispatch("selectionChanged", { ids: [] });
  return send("/api/label", { ids: going, label }, `${taskOf(getState()).leaves ? "Moved" : "Set"} ${count(going.length, "picture")} to ${taskOf(getState()).format(label)}.`);
}

// Puts pictures into a column: they move to the class; of several labels it is added, or removed
// where all of them have it.
export function assign(ids, name) {
  const { board } = getState(), task = taskOf(getState());
  if (task.leaves) return move(ids, name);
  if (!task.isNamed || task.isFixed(name)) return Promise.resolve(true);
  const on = ids.some((id) => !has(board.labels.get(id), name));
  const words = on ? `Added the label ${name} to ${count(ids.length, "picture")}.` : `Removed the label ${name} from ${count(ids.length, "picture")}.`;
  return send("/api/label", { ids, label: name, on }, words);
}

export function removePictures(ids) {
  if (!ids.length) return Promise.resolve(true);
  dispatch("selectionChanged", { ids: [] });
  return send("/api/label", { ids, label: null }, `Took ${count(ids.length, "picture")} off the board.`);
}

export function confirmLabels(ids, label) {
  return send("/api/confirm", { ids }, `Confirmed ${taskOf(getState()).format(label)}.`);
}

export function undo() {
  const what = getState().board?.undo;
  return what ? send("/api/undo", {}, `Undone: ${what}.`) : Promise.resolve(false);
}

export function redo() {
  const what = getState().board?.redo;
  return what ? send("/api/redo", {}, `Redone: ${what}.`) : Promise.resolve(false);
}

export function addClass(name) {
  return send("/api/classes", { add: name }, `Added the ${taskOf(getState()).one} ${name}.`);
}

export function renameClass(name, other) {
  return send("/api/classes", { rename: [name, other] }, `Renamed ${name} to ${other}.`);
}

export function removeClass(name) {
  return send("/api/classes", { remove: name }, `Removed the ${taskOf(getState()).one} ${name}.`);
}

export async function train(budget, settings = []) {
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
