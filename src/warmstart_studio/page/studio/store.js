// The state of the page, one value that is never changed in place. Views compare the value before
// with the value after and update only what differs.
import { taskOf } from "./tasks.js";

const IDLE = {
  state: "idle", number: null, budget: null, stage: "", done: 0, of: null, seconds_left: null,
  notes: [], curves: [], error: null, turn: 0,
};

const begin = {
  board: null, // name, classes, facts: Map of id to picture, labels: Map of id to class or null
  work: IDLE,
  result: null, // the answer of GET /api/result
  selection: new Set(),
  place: "pictures",
  filter: "all",
  shownClass: null, // the one class that a narrow window shows
  isAlive: true,
};

// ---- reducers: pure, one per action -----------------------------------------------------------

function boardLoaded(state, { board }) {
  const facts = new Map(board.pictures.map((one) => [one.id, one]));
  const labels = new Map(board.pictures.map((one) => [one.id, one.label]));
  const next = { ...state, board: { ...board, pictures: undefined, facts, labels, confirmed: new Map(Object.entries(board.confirmed)) }, work: newer(state.work, board.work), isAlive: true };
  return trimmed(board.result === null ? { ...next, result: null } : next);
}

function boardChanged(state, { delta }) {
  const old = state.board;
  const facts = delta.pictures.length ? new Map(old.facts) : old.facts;
  for (const one of delta.pictures) facts.set(one.id, one);
  const labels = new Map(old.labels);
  for (const one of delta.pictures) labels.set(one.id, one.label ?? null);
  for (const [id, label] of Object.entries(delta.labels)) labels.set(id, label);
  const confirmed = new Map(old.confirmed);
  for (const [id, label] of Object.entries(delta.confirmed)) confirmed.set(id, label);
  const { version, classes, undo, redo, problem } = delta;
  return trimmed({ ...state, board: { ...old, version, classes, undo, redo, problem, facts, labels, confirmed } });
}

// Nothing stays selected or shown that is no longer on the board.
function trimmed(state) {
  const { labels } = state.board;
  const columns = [...taskOf(state).columns(state.board, () => true).keys()];
  const isHere = (id) => (labels.get(id) ?? null) !== null;
  const stays = [...state.selection].filter(isHere);
  const selection = stays.length === state.selection.size ? state.selection : new Set(stays);
  const shownClass = columns.includes(state.shownClass) ? state.shownClass : columns[0] ?? null;
  return { ...state, selection, shownClass };
}

function resultLoaded(state, { result }) {
  return { ...state, result };
}

// Progress may overtake a board that is still loading.
function newer(old, work) {
  return work.turn < old.turn ? old : work;
}

const reducers = {
  boardLoaded, boardChanged, resultLoaded,
  workUpdated: (state, { work }) => ({ ...state, work: newer(state.work, { ...IDLE, ...work }) }),
  selectionChanged: (state, { ids }) => ({ ...state, selection: new Set(ids) }),
  placeChanged: (state, { place }) => ({ ...state, place }),
  filterChanged: (state, { filter }) => ({ ...state, filter, selection: new Set() }),
  shownClassChanged: (state, { name }) => ({ ...state, shownClass: name, selection: new Set() }),
  connectionLost: (state) => ({ ...state, isAlive: false }),
};

function reduce(state, action) {
  return reducers[action.kind](state, action);
}

// ---- the store ---------------------------------------------------------------------------------

let current = begin;
const views = [];

export function getState() {
  return current;
}

export function dispatch(kind, values = {}) {
  const before = current;
  current = reduce(current, { kind, ...values });
  for (const view of views) view(current, before);
}

export function subscribe(view) {
  views.push(view);
}

// ---- selectors ---------------------------------------------------------------------------------

const issuesById = new WeakMap(); // result to its label issues by id
function issueOf(result, id) {
  if (!issuesById.has(result)) issuesById.set(result, new Map(result.label_issues.map((one) => [one.id, one])));
  return issuesById.get(result).get(id);
}

// Changed or confirmed labels are closed.
export function isOpen({ board }, { id, label }) {
  return board.labels.get(id) === label && board.confirmed.get(id) !== label;
}

function hasIssue(state, id) {
  const issue = state.result && issueOf(state.result, id);
  return Boolean(issue?.is_issue) && isOpen(state, issue);
}

function isWrong(state, id) {
  const wrong = state.result?.mistakes[id];
  return Boolean(wrong) && taskOf(state).isOpen(wrong, state.board.labels.get(id));
}

export function markOf(state, id) {
  const { result } = state, task = taskOf(state);
  if (hasIssue(state, id)) return { kind: "label-issue", words: `looks like ${task.format(issueOf(result, id).suggested)}` };
  if (isWrong(state, id)) return { kind: "wrong", words: task.predictedAs(result.mistakes[id]) };
  return null;
}

function passes(state, id) {
  if (state.filter === "wrong") return isWrong(state, id);
  return state.filter === "all" || hasIssue(state, id);
}

// The pictures of each class that the filter lets through, in the order they came.
export function columnsOf(state) {
  return taskOf(state).columns(state.board, (id) => passes(state, id));
}

export function sizesOf(state) {
  return new Map([...taskOf(state).columns(state.board, () => true)].map(([name, ids]) => [name, ids.length]));
}

// How many pictures each filter would show.
export function filterSizes(state) {
  const sizes = { all: 0, wrong: 0, "label-issue": 0 };
  for (const [id, label] of state.board.labels) {
    if (label === null) continue;
    for (const filter of Object.keys(sizes)) if (passes({ ...state, filter }, id)) sizes[filter] += 1;
  }
  return sizes;
}

export function isBusy({ work }) {
  return work.state === "working" || work.state === "stopping";
}
