// Keys and pointer on the board: choosing pictures, moving them, opening one.
import { $, isTyping } from "./dom.js";
import { columnAt, columnOf, neighbour, pictureAt, select, stepPast } from "./board.js";
import { rename } from "./column.js";
import { openLarge } from "./large_picture.js";
import { askNumber } from "./dialogs.js";
import { assign, move, redo, removePictures, undo } from "./actions.js";
import { dispatch, getState } from "./store.js";
import { taskOf } from "./tasks.js";

// ---- on a picture ------------------------------------------------------------------------------

const STEPS = {
  ArrowUp: ({ place }, { across }) => place - across,
  ArrowDown: ({ place, isLast }, { across, ids }) => (isLast ? place : Math.min(place + across, ids.length - 1)),
  Home: () => 0,
  End: (_, { ids }) => ids.length - 1,
  PageUp: ({ place, page }) => Math.max(0, place - page),
  PageDown: ({ place, page }, { ids }) => Math.min(ids.length - 1, place + page),
};

// Left and right go over to the column beside, where there is one on show.
function sideways(id, column, side) {
  const { grid } = column;
  const { place, column: x, y, isLast } = grid.where(id);
  const isEdge = side === "left" ? x === 0 : x === grid.across - 1 || isLast;
  const beside = isEdge ? neighbour(column, side) : null;
  if (beside) beside.grid.focus(beside.grid.beside(y, side === "left" ? "right" : "left"));
  else grid.focus(grid.ids[place + (side === "left" ? -1 : 1)]);
  beside?.element.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function step(event, id, column) {
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    sideways(id, column, event.key === "ArrowLeft" ? "left" : "right");
  } else column.grid.focus(column.grid.ids[STEPS[event.key](column.grid.where(id), column.grid)]);
  const there = pictureAt(document.activeElement);
  if (event.shiftKey && there) {
    if (!getState().selection.size) select(id);
    select(there, { isRange: true });
  }
}

// Keys act on the selection, and without one on the picture that has the focus.
function chosen(id) {
  const { selection } = getState();
  return selection.size ? [...selection] : [id];
}

export function moveAll(ids, name) {
  if (taskOf(getState()).leaves) stepPast(ids);
  return assign(ids, name);
}

// Asks for one number for all of them.
export async function setNumber(ids) {
  const value = ids.length === 1 ? getState().board.labels.get(ids[0]) : "";
  const number = await askNumber({ title: ids.length === 1 ? "Its number" : `The number of ${ids.length} pictures`, value });
  if (number !== null) await move(ids, String(Number(number)));
}

export function removeAll(ids) {
  stepPast(ids);
  return removePictures(ids);
}

function onPicture(event, id) {
  const column = columnOf(event.target);
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
  if (event.key in STEPS || event.key === "ArrowLeft" || event.key === "ArrowRight") step(event, id, column);
  else if (event.key === " ") select(id, { isMore: true });
  else if (event.key === "Enter") openLarge(id, column.grid.ids);
  else if (event.key === "Delete" || event.key === "Backspace") removeAll(chosen(id));
  else if (event.key === "F2") rename(column.name);
  else if (event.key === "a" && (event.ctrlKey || event.metaKey)) dispatch("selectionChanged", { ids: column.grid.ids });
  else if (isPlain && event.key === "n" && !taskOf(getState()).isNamed) setNumber(chosen(id));
  else if (isPlain && /^[1-9]$/.test(event.key)) {
    const target = columnAt(Number(event.key) - 1);
    if (target) moveAll(chosen(id), target.name);
  } else return;
  event.preventDefault();
}

function pressed(event) {
  const id = pictureAt(event.target);
  if (id) {
    onPicture(event, id);
    return;
  }
  const column = columnOf(event.target);
  if (event.key === "F2" && column) rename(column.name);
}

// ---- from anywhere -----------------------------------------------------------------------------

function pressedAnywhere(event) {
  if (event.key === "Escape" && getState().selection.size && !document.querySelector("dialog[open]")) {
    dispatch("selectionChanged", { ids: [] });
  }
  if (!(event.ctrlKey || event.metaKey) || event.altKey || isTyping(event.target)) return;
  const key = event.key.toLowerCase();
  if (key === "z" && !event.shiftKey) undo();
  else if (key === "y" || key === "z") redo();
  else return;
  event.preventDefault();
}

// ---- pointer -----------------------------------------------------------------------------------

function clicked(event) {
  const id = pictureAt(event.target);
  if (!id) return;
  columnOf(event.target).grid.focus(id);
  select(id, { isRange: event.shiftKey, isMore: event.ctrlKey || event.metaKey || isCoarse.matches });
}
// A finger has no Ctrl: each touch adds to the selection or takes away from it.
const isCoarse = window.matchMedia("(pointer: coarse)");

function doubleClicked(event) {
  const id = pictureAt(event.target);
  if (id) openLarge(id, columnOf(event.target).grid.ids);
}

export function watchBoard() {
  const board = $("board");
  board.addEventListener("keydown", pressed);
  // Some browsers click a button when Space is let go, whatever became of its going down.
  board.addEventListener("keyup", (event) => event.key === " " && pictureAt(event.target) && event.preventDefault());
  board.addEventListener("click", clicked);
  board.addEventListener("dblclick", doubleClicked);
  document.addEventListener("keydown", pressedAnywhere);
}
