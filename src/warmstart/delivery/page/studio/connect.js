// Keeps the store in step with the server: the board at the start, then each change as it happens.
import { get } from "./api.js";
import { happened, now } from "./store.js";

const AGAIN = 2000; // ms until the next try where the browser itself has given up
const REST = 400; // ms without a change, after which the result's count of changes is asked again

let stream = null;
let newest = 0; // the newest version heard of: changes may come while the board is still on its way
let loading = null;
let resting = 0;

export function connect(tell) {
  stream = new EventSource("/api/events");
  stream.addEventListener("open", () => {
    newest = 0; // a studio that was started again may count anew
    load(tell);
  });
  stream.addEventListener("board", (event) => change(JSON.parse(event.data), tell));
  stream.addEventListener("work", (event) => happened("worked", { work: JSON.parse(event.data) }));
  stream.addEventListener("result", () => judge(tell));
  stream.addEventListener("error", () => {
    happened("lost");
    if (stream.readyState !== EventSource.CLOSED) return; // it tries again by itself
    load(tell); // says why: perhaps the cookie is no longer good
    setTimeout(() => connect(tell), AGAIN);
  });
}

function load(tell) {
  loading ??= fetchBoard(tell).finally(() => (loading = null));
  return loading;
}

async function fetchBoard(tell) {
  try {
    let board = await get("/api/board");
    if (board.version < newest) board = await get("/api/board");
    happened("loaded", { board });
    if (board.result !== null) await judge(tell);
  } catch (error) {
    if (error.status !== 0) tell(error);
  }
}

function change(delta, tell) {
  newest = Math.max(newest, delta.version);
  const held = now().board;
  if (!held || delta.version <= held.version) return;
  if (delta.version !== held.version + 1) {
    load(tell);
    return;
  }
  happened("changed", { delta });
  if (!now().result) return;
  clearTimeout(resting);
  resting = setTimeout(() => judge(tell), REST);
}

async function judge(tell) {
  try {
    happened("judged", { result: await get("/api/result") });
  } catch (error) {
    if (error.status !== 0 && error.status !== 404) tell(error);
  }
}
