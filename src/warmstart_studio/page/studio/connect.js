// Keeps the store in step with the server: the board at the start, then each change as it happens.
import { get } from "./api.js";
import { dispatch, getState } from "./store.js";
import { hideError, showError } from "./messages.js";

const RETRY = 2000; // ms until the next try where the browser itself has given up
const SILENT = 2500; // ms without a stream before the page says so
const REST = 400; // ms without a change before the result's count of changes is requested

let stream = null;
let newest = 0; // the newest version heard of: changes may come while the board is still on its way
let loading = null;
let resting = 0;
let silence = null; // started when the stream breaks, cancelled when it is back

function stopSilence() {
  clearTimeout(silence);
  silence = null;
}

export function connect() {
  stream = new EventSource("/api/events");
  stream.addEventListener("open", () => {
    stopSilence();
    newest = 0; // a studio that was started again may count anew
    load();
  });
  stream.addEventListener("board", (event) => change(JSON.parse(event.data)));
  stream.addEventListener("work", (event) => dispatch("workUpdated", { work: JSON.parse(event.data) }));
  stream.addEventListener("result", () => loadResult());
  stream.addEventListener("error", () => {
    silence ??= setTimeout(() => dispatch("connectionLost"), SILENT);
    if (stream.readyState !== EventSource.CLOSED) return; // it tries again by itself
    load(); // says why: perhaps the cookie is no longer good
    setTimeout(connect, RETRY);
  });
}

function load() {
  loading ??= fetchBoard().finally(() => (loading = null));
  return loading;
}

async function fetchBoard() {
  try {
    let board = await get("/api/board");
    while (board.version < newest) board = await get("/api/board");
    hideError();
    dispatch("boardLoaded", { board });
    if (board.result !== null) await loadResult();
  } catch (error) {
    if (error.status === 0) return;
    stopSilence(); // it does answer, if only to refuse
    showError(error);
  }
}

function change(delta) {
  newest = Math.max(newest, delta.version);
  const board = getState().board;
  if (!board || delta.version <= board.version) return;
  if (delta.version !== board.version + 1) {
    load();
    return;
  }
  dispatch("boardChanged", { delta });
  if (!getState().result) return;
  clearTimeout(resting);
  resting = setTimeout(() => loadResult(), REST);
}

async function loadResult() {
  try {
    dispatch("resultLoaded", { result: await get("/api/result") });
  } catch (error) {
    if (error.status !== 0 && error.status !== 404) showError(error);
  }
}
