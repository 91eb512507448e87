// The columns. On each change only the columns, and in them only the pictures, that differ are touched.
import { $, make, write } from "./dom.js";
import { Column, newClass } from "./column.js";
import { columnsOf, dispatch, markOf, getState, sizesOf } from "./store.js";
import { taskOf } from "./tasks.js";

const columns = new Map(); // class to its column, in order
const end = make("button", { class: "plain new", click: newClass }, "New class");
let anchor = null; // where a range begins

export function showBoard(state, before) {
  if (!state.board || state.place !== "pictures") return;
  const isOther = state.place !== before.place || state.board !== before.board || state.result !== before.result
    || state.filter !== before.filter;
  const about = aboutOf(state);
  if (isOther) refill(state, about);
  else if (state.selection !== before.selection) for (const { grid } of columns.values()) redraw(grid, about);
  if (isOther || state.shownClass !== before.shownClass) pick(state.shownClass);
}

function aboutOf(state) {
  return (id) => ({
    name: nameOf(state, id),
    mark: markOf(state, id),
    isSelected: state.selection.has(id),
  });
}

// Of a picture with a number, that too: the columns say it only roughly.
function nameOf(state, id) {
  const name = state.board.facts.get(id)?.name ?? "picture";
  return taskOf(state).isNamed ? name : `${name}, ${taskOf(state).format(state.board.labels.get(id))}`;
}

function redraw(grid, about) {
  grid.about = about;
  grid.draw();
}

function refill(state, about) {
  const ids = columnsOf(state), sizes = sizesOf(state), task = taskOf(state);
  end.hidden = !task.isNamed;
  write(end, `New ${task.one}`);
  for (const [name, column] of columns) if (!ids.has(name)) forget(name, column);
  if (!end.isConnected) $("board").append(end);
  [...ids].forEach(([name, its], place) => {
    if (!columns.has(name)) columns.set(name, new Column(name));
    const column = columns.get(name);
    const here = $("board").children[place];
    if (here !== column.element) $("board").insertBefore(column.element, here ?? end);
    column.show({ ids: its, size: sizes.get(name), place, about, filter: state.filter });
  });
  const inOrder = [...ids.keys()].map((name) => [name, columns.get(name)]);
  columns.clear();
  for (const [name, column] of inOrder) columns.set(name, column);
}

function forget(name, column) {
  column.element.remove();
  columns.delete(name);
}

// A narrow window shows one class at a time; the style sheet hides the others.
function pick(name) {
  for (const [other, { element, grid }] of columns) {
    element.classList.toggle("shown", other === name);
    grid.draw();
  }
}

// ---- finding and choosing pictures -------------------------------------------------------------

export function columnAt(place) {
  return [...columns.values()][place] ?? null;
}

export function columnOf(target) {
  return columns.get(target.closest?.(".column")?.dataset.class) ?? null;
}

export function pictureAt(target) {
  return target.closest?.("#board .picture")?.dataset.id ?? null;
}

export function focusPicture(id) {
  const { grid } = [...columns.values()].find((one) => one.grid.places.has(id)) ?? {};
  grid?.focus(id);
}

export function neighbour(column, side) {
  const shown = [...columns.values()].filter(({ element, grid }) => element.offsetParent && grid.ids.length);
  return shown[shown.indexOf(column) + (side === "left" ? -1 : 1)] ?? null;
}

export function select(id, { isRange = false, isMore = false } = {}) {
  const { selection } = getState();
  const column = [...columns.values()].find(({ grid }) => grid.places.has(id));
  const start = column?.grid.places.get(anchor);
  if (isRange && start !== undefined) {
    const stop = column.grid.places.get(id);
    const range = column.grid.ids.slice(Math.min(start, stop), Math.max(start, stop) + 1);
    dispatch("selectionChanged", { ids: isMore ? [...selection, ...range] : range });
    return;
  }
  anchor = id;
  if (!isMore && !isRange) dispatch("selectionChanged", { ids: [id] });
  else if (selection.has(id)) dispatch("selectionChanged", { ids: [...selection].filter((one) => one !== id) });
  else dispatch("selectionChanged", { ids: [...selection, id] });
}

// Called before pictures go: the focus moves on to the next that stays, so that keys can follow fast.
export function stepPast(ids) {
  const going = new Set(ids);
  for (const { grid } of columns.values()) {
    if (!going.has(grid.active)) continue;
    const place = grid.places.get(grid.active);
    const next = grid.ids.slice(place + 1).find((id) => !going.has(id))
      ?? grid.ids.slice(0, place).findLast((id) => !going.has(id));
    const hadFocus = grid.cells.get(grid.active) === document.activeElement;
    if (next && hadFocus) grid.focus(next);
  }
}
