// One picture in, one answer out. Nothing is loaded from other hosts or stored.
import { showAnswer, showRows, showHeat, hideHeat } from "./answer.js";

const $ = (id) => document.getElementById(id);
const SCREENS = ["login", "choose", "answer", "error"];
let about = null; // the answer of GET /metadata
let current = null; // the input
let turn = 0; // an answer that arrives after the next input was chosen is dropped

// ---- requests --------------------------------------------------------------------------------

class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function token() {
  const value = new URLSearchParams(location.hash.slice(1)).get("token");
  if (value) {
    sessionStorage.setItem("token", value);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
}

async function call(path, options = {}) {
  const secret = token();
  const headers = { ...options.headers, ...(secret ? { Authorization: `Bearer ${secret}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new RequestError(0, "");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new RequestError(response.status, problem.detail || response.statusText);
}

// A text is sent as JSON, anything else as a file.
function request(input) {
  if (typeof input !== "string") return { method: "POST", body: form(input) };
  const headers = { "Content-Type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify({ text: input }) };
}

function isText() {
  return about?.kind === "text";
}

function isPicture() {
  return !about || about.kind === "image";
}

function form(file) {
  const body = new FormData();
  body.append("file", file, file.name || noun());
  return body;
}

// ---- screens -------------------------------------------------------------------------------

function show(name) {
  for (const screen of SCREENS) $(screen).hidden = screen !== name;
  $("busy").textContent = "";
}

function start() {
  turn += 1;
  current = null;
  for (const id of ["file", "camera"]) $(id).value = "";
  show("choose");
  $(isText() ? "text" : "file").focus({ preventScroll: true });
}

function fail(error) {
  if (error.status === 401) {
    $("wrong-token").hidden = !token();
    sessionStorage.removeItem("token");
    show("login");
    $("token").value = "";
    $("token").focus();
    return;
  }
  const [wrong, cure] = explainError(error);
  $("error-title").textContent = wrong;
  $("error-hint").textContent = cure;
  $("retry").hidden = current !== null && ![0, 408, 503].includes(error.status);
  show("error");
  ($("retry").hidden ? $("back") : $("retry")).focus();
}

function explainError(error) {
  if (error.status === 0) {
    return ["The server does not answer", "Start it again, then try once more."];
  }
  if (error.status === 503) return ["The server is overloaded", "Try again in a moment."];
  if (error.status === 413) return [`This ${noun()} is too large`, `${error.message}.`];
  if (error.status === 422) return [`This ${noun()} cannot be read`, `${error.message}.`];
  if (error.status) return ["Something went wrong", `${error.message}.`];
  return ["Something went wrong", "Reload this page."];
}

function noun() {
  return { text: "text", audio: "clip", table: "table" }[about?.kind] || "picture";
}

// ---- a picture -----------------------------------------------------------------------------

async function classify(file) {
  if (!file) return;
  const number = ++turn;
  current = file;
  const most = about?.limits?.body_bytes;
  if (most && file.size > most) {
    fail(new RequestError(413, `It has ${mega(file.size)} MB; the limit is ${mega(most)} MB`));
    return;
  }
  $("busy").textContent = "Classifying …";
  try {
    const response = await call("/predict", request(file));
    const { answers } = await response.json();
    if (number !== turn) return;
    hideHeat();
    $("explain").disabled = false;
    $("explain").textContent = "What mattered?";
    show("answer");
    if (about.kind === "table") showRows(answers);
    else showAnswer(answers[0], file, about.kind);
    showNeighbours(about.kind === "table" ? [] : answers[0].nearest, number);
    $("words").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  } catch (error) {
    if (number === turn) fail(error);
  }
}

function mega(bytes) {
  return (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
}

async function showNeighbours(nearest, number) {
  const three = nearest.slice(0, 3);
  const pictures = about?.pictures ? await Promise.all(three.map(thumbnail)) : three.map(() => null);
  if (number !== turn) {
    pictures.forEach((url) => url && URL.revokeObjectURL(url));
    return;
  }
  $("nearest").replaceChildren(...three.map((one, n) => neighbour(one, pictures[n])));
  $("neighbours").hidden = three.length === 0;
}

async function thumbnail(one) {
  try {
    const response = await call(`/examples/${one.index}/thumbnail`);
    return URL.createObjectURL(await response.blob());
  } catch {
    return null; // moved or changed: its label is still useful
  }
}

function neighbour(one, url) {
  const item = document.createElement("li");
  if (url) {
    const image = document.createElement("img");
    image.alt = "";
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
    item.append(image);
  }
  const label = document.createElement("span");
  label.textContent = one.label;
  item.append(label);
  return item;
}

async function explain() {
  const button = $("explain");
  if (!$("heat").hidden) {
    hideHeat();
    button.textContent = "What mattered?";
    return;
  }
  const number = turn;
  button.disabled = true;
  button.textContent = "Covering regions …";
  try {
    const response = await call("/explain", { method: "POST", body: form(current) });
    const map = await response.json();
    if (number !== turn) return;
    showHeat(map);
    button.textContent = "Hide what mattered";
  } catch (error) {
    if (number === turn) fail(error);
  } finally {
    button.disabled = false;
  }
}

// ---- inputs --------------------------------------------------------------------------------

// Of several files the first is answered, with a note.
function useFirst(transfer) {
  const files = transfer?.files ?? [];
  if (!files.length || isText()) return false;
  $("first-only").textContent = `One ${noun()} at a time: this is the first of ${files.length}.`;
  $("first-only").hidden = files.length < 2;
  classify(files[0]);
  return true;
}

for (const id of ["file", "camera"]) {
  $(id).addEventListener("change", (event) => useFirst(event.target));
}
document.addEventListener("paste", (event) => {
  if (useFirst(event.clipboardData)) event.preventDefault();
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  useFirst(event.dataTransfer);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && $("choose").hidden && $("login").hidden) start();
});
$("drop").addEventListener("click", (event) => {
  if (event.target === $("drop") || event.target.tagName === "P") $("file").click();
});
$("again").addEventListener("click", start);
$("back").addEventListener("click", start);
$("explain").addEventListener("click", explain);
$("retry").addEventListener("click", () => (current ? classify(current) : introduce()));
$("text-form").addEventListener("submit", (event) => {
  event.preventDefault();
  classify($("text").value);
});
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  introduce();
});
window.addEventListener("hashchange", introduce);

// ---- start ---------------------------------------------------------------------------------

async function introduce() {
  try {
    about = await (await call("/metadata")).json();
  } catch (error) {
    fail(error);
    return;
  }
  document.title = about.name;
  $("title").textContent = about.name;
  $("summary").textContent = [about.readiness?.line, about.promise].filter(Boolean).join(" ");
  $("classes").textContent = `Classes: ${some(about.labels)}.`;
  $("drop").hidden = isText();
  $("text-form").hidden = !isText();
  $("explain").hidden = !isPicture();
  if (about.accept) $("file").accept = about.accept;
  for (const id of ["camera", "photograph"]) $(id).hidden = !isPicture();
  for (const element of document.querySelectorAll(".noun")) element.textContent = `a ${noun()}`;
  $("choose").ariaLabel = `Choose a ${noun()}`;
  $("preview").alt = `Your ${noun()}`;
  for (const id of ["again", "back"]) $(id).textContent = `Another ${noun()}`;
  $("model-line").textContent = `· ${about.base} · warmstart ${about.warmstart}`;
  if (current) classify(current);
  else show("choose");
}

function some(labels) {
  return labels.length <= 24 ? labels.join(", ") : `${labels.slice(0, 24).join(", ")}, … (${labels.length} in all)`;
}

introduce();
