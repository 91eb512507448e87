// Small helpers for making elements. Text goes in as text, never as HTML.

export const $ = (id) => document.getElementById(id);

// make("button", { class: "plain", click: f, "aria-label": "Close" }, "Close"): functions become listeners.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function table(heads, rows, caption) {
  return make("table", {},
    make("caption", { class: "visually-hidden" }, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows));
}

// Writing the same text would cause a new layout.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function set(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// Announced by screen readers, also the same sentence twice.
export function announce(text) {
  const region = $("message");
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}

export function isTyping(target) {
  return target instanceof Element
    && target.matches("input:not([type=radio], [type=checkbox], [type=file]), textarea, select");
}
