// Shows script errors on the page: without this a button would silently do nothing. Loaded before
// every other script, and without any of them.
let bar = null;

function show(what) {
  const text = `This page has a fault (${what}). Reload it; if that does not help, please report it.`;
  if (bar) {
    bar.firstElementChild.textContent = text;
    bar.hidden = false;
    return;
  }
  bar = document.createElement("div");
  bar.id = "script-error";
  bar.setAttribute("role", "alert");
  const words = document.createElement("p");
  bar.append(words, button("Reload", () => location.reload()), button("Close", () => (bar.hidden = true)));
  document.body.append(bar);
  words.textContent = text; // last, so that screen readers announce it
}

function button(words, press) {
  const node = document.createElement("button");
  node.type = "button";
  node.className = "second";
  node.textContent = words;
  node.addEventListener("click", press);
  return node;
}

window.addEventListener("error", (event) => {
  if (event.target instanceof HTMLScriptElement) show("a script could not be loaded");
  // Browsers report this as an error; it only delays a redraw to the next frame.
  else if (event instanceof ErrorEvent && !event.message.startsWith("ResizeObserver loop")) {
    show(event.error?.message ?? event.message);
  }
}, true);
window.addEventListener("unhandledrejection", (event) => show(event.reason?.message ?? String(event.reason)));
