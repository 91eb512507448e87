// Keeps the store in step with the server: the board at the start, then each change as it happens.
import { get } from "./api.js";
import { happened, now } from "./store.js";
import { hush, tell } from "./tell.js";

const AGAIN = 2000; // ms until the next try where the browser itself has given up
const SILENT = 2500; // ms without a stream before the page says so
const REST = 400; // ms without a change before the result's count of changes is requested

let stream = null;
let newest = 0; // the newest version heard of: changes may come while the board is still on its way
let loading = null;
let resting = 0;
let silence = null; // started when the stream breaks, cancelled when it is back

function heard() {
  clearTimeout(silence);
  silence = null;
}

export function connect() {
  stream = new EventSource("/api/events");
  stream.addEventListener("open", () => {
    heard();
    newest = 0; // a studio that was started again may count anew
    load();
  });
  stream.addEventListener("board", (event) => change(JSON.parse(event.data)));
  stream.addEventListener("work", (event) => happened("worked", { work: JSON.parse(event.data) }));
  stream.addEventListener("result", () => judge());
  stream.addEventListener("error", () => {
    silence ??= setTimeout(() => happened("lost"), SILENT);
    if (stream.readyState !== EventSource.CLOSED) return; // it tries again by itself
    load(); // says why: perhaps the cookie is no longer good
    setTimeout(connect, AGAIN);
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
    hush();
    happened("loaded", { board });
    if (board.result !== null) await judge();
  } catch (error) {
    if (error.status === 0) return;
    heard(); // it does answer, if only to refuse
    tell(error);
  }
}

function change(delta) {
  newest = Math.max(newest, delta.version);
  const held = now().board;
  if (!held || delta.version <= held.version) return;
  if (delta.version !== held.version + 1) {
    load();
    return;
  }
  happened("changed", { delta });
  if (!now().result) return;
  clearTimeout(resting);
  resting = setTimeout(() => judge(), REST);
}

async function judge() {
  try {
    happened("judged", { result: await get("/api/result") });
  } catch (error) {
    if (error.status !== 0 && error.status !== 404) tell(error);
  }
}
