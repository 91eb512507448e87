// Uploads pictures in batches, with progress and refusals.
import { upload } from "./api.js";
import { $, make, set, write } from "./dom.js";
import { askName, askNumber } from "./dialogs.js";
import { getState } from "./store.js";
import { taskOf } from "./tasks.js";
import { count, number } from "./format.js";
import { chosenFolder } from "./folders.js";
import { showError } from "./messages.js";

const FILES = 32, BYTES = 32e6; // the most that one request may carry
const LEFT_OUT = [400, 413, 422], BUSY = [408, 503]; // by the status of the response
const PAUSE = 2000; // ms
const SHOWN = 200; // lines of refused files

let waiting = []; // { file, label, split, folder }, in order
let total = 0, done = 0, already = 0;
let refused = []; // { name, why }
let isSending = false;
let drop = ""; // id of one drop: all of it is one step to undo

// Files that cannot be pictures are not sent.
function reasonAgainst(file) {
  if (file.size > BYTES) return "is larger than 32 MB";
  if (file.size === 0) return "is empty";
  if (file.type && !/^(image|audio)\//.test(file.type)) return "is not a picture";
  return null; // unknown type: the server decides
}

export function add(files, notes = []) {
  if (!isSending) [total, done, already, refused] = [0, 0, 0, []];
  refused.push(...notes);
  waiting.push(...files);
  total += files.length;
  if (!isSending && waiting.length) send();
  show();
}

// The next files of one class, split and folder for one request. Reading the sizes of a thousand files at once
// would freeze the page.
function nextFiles() {
  const { label, split = "train", folder = "" } = waiting[0];
  const isNext = (one) => one?.label === label && (one.split ?? "train") === split && (one.folder ?? "") === folder;
  const files = [];
  let bytes = 0;
  while (files.length < FILES && isNext(waiting[0])) {
    const { file } = waiting[0];
    const why = reasonAgainst(file);
    if (!why && files.length && bytes + file.size > BYTES) break;
    waiting.shift();
    if (why) {
      refused.push({ name: file.name, why });
      done += 1;
    } else {
      files.push(file);
      bytes += file.size;
    }
  }
  return { label, split, folder, files };
}

// Leaves out what the server refuses; retries where it is busy.
async function sendSome({ label, split, folder, files }) {
  const where = new URLSearchParams({ label, split, folder, batch: drop });
  for (;;) {
    try {
      const answer = await upload(`/api/pictures?${where}`, files);
      already += answer.known.length;
      refused.push(...answer.refused, ...answer.known.filter((one) => one.label !== label)
        .map(({ name, label: other }) => ({ name, why: `is under ${other} already` })));
      return;
    } catch (error) {
      if (LEFT_OUT.includes(error.status)) {
        refused.push(...files.map(({ name }) => ({ name, why: `was not added: ${error.message}` })));
        return;
      }
      if (!BUSY.includes(error.status)) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}

async function send() {
  isSending = true;
  drop = `${Date.now()}-${Math.random()}`;
  try {
    while (waiting.length) {
      const some = nextFiles();
      if (!some.files.length) continue;
      await sendSome(some);
      done += some.files.length;
      show();
    }
  } catch (error) {
    const missing = total - done;
    waiting = [];
    showError(error);
    refused.push({ name: count(missing, "picture"), why: missing === 1 ? "was not added" : "were not added" });
  }
  isSending = false;
  show();
}

function show() {
  $("adding").hidden = !isSending || done >= total;
  write($("adding-words"), `Adding ${number(done)} of ${number(total)}`);
  set($("adding-bar"), "max", Math.max(total, 1));
  $("adding-bar").value = done;
  if (isSending && done < total) return;
  const words = [];
  if (already) words.push(`${count(already, "picture was", "pictures were")} on the board already.`);
  if (refused.length) words.push(`${count(refused.length, "file was", "files were")} left out:`);
  $("refused").hidden = words.length === 0;
  write($("refused-words"), words.join(" "));
  $("refused-list").replaceChildren(...refused.slice(0, SHOWN).map((one) => make("li", {}, reason(one))));
  if (refused.length > SHOWN) $("refused-list").append(make("li", {}, `and ${number(refused.length - SHOWN)} more`));
}

// Some reasons begin with the name of the file.
function reason({ name, why }) {
  return why.startsWith(name) ? why : `${name} ${why}`;
}

export function watchUploads() {
  $("adding-stop").addEventListener("click", () => {
    total -= waiting.length;
    waiting = [];
    show();
  });
  $("refused-close").addEventListener("click", () => ($("refused").hidden = true));
  // Leaving now would lose what was not sent yet.
  window.addEventListener("beforeunload", (event) => isSending && event.preventDefault());
}

// ---- choosing ----------------------------------------------------------------------------------

async function chosenFiles(attributes) {
  const input = make("input", { type: "file", hidden: true, ...attributes });
  document.body.append(input);
  const files = await new Promise((resolve) => {
    input.addEventListener("change", () => resolve([...input.files]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
  input.remove();
  return files;
}

export async function chooseFolders() {
  const { named, notes } = chosenFolder(await chosenFiles({ webkitdirectory: true, multiple: true }));
  add(named, notes);
}

export async function choosePhotographs(column = null) {
  const files = await chosenFiles({ accept: getState().board.accept, multiple: true });
  if (!files.length) return;
  const title = `What ${files.length === 1 ? "does this photograph" : "do these photographs"} show?`;
  const askLabel = taskOf(getState()).isNamed ? askName : askNumber;
  const label = column ?? await askLabel({ title, button: "Add", others: getState().board.classes });
  if (label) add(files.map((file) => ({ file, label })));
}

// Without a live camera the device's own camera app may help.
export async function takePhotographs(label) {
  const files = await chosenFiles({ accept: "image/*", capture: "environment" });
  add(files.map((file) => ({ file, label })));
}
