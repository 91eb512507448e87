// An error of a page's own script is told to whoever looks at the page: without this a button would
// only do nothing. Loaded before every other script, and without any of them.
let bar = null;

function show(what) {
  const text = `This page has a fault (${what}). Load it again; if that does not help, please report it.`;
  if (bar) {
    bar.firstElementChild.textContent = text;
    bar.hidden = false;
    return;
  }
  bar = document.createElement("div");
  bar.id = "fault";
  bar.setAttribute("role", "alert");
  const words = document.createElement("p");
  bar.append(words, button("Load again", () => location.reload()), button("Close", () => (bar.hidden = true)));
  document.body.append(bar);
  words.textContent = text; // only now, so that it is read out
}

function button(words, press) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "second";
  made.textContent = words;
  made.addEventListener("click", press);
  return made;
}

window.addEventListener("error", (event) => {
  if (event.target instanceof HTMLScriptElement) show("a script could not be loaded");
  // Browsers call this an error, and only put a redrawing off to the next frame.
  else if (event instanceof ErrorEvent && !event.message.startsWith("ResizeObserver loop")) {
    show(event.error?.message ?? event.message);
  }
}, true);
window.addEventListener("unhandledrejection", (event) => show(event.reason?.message ?? String(event.reason)));
