// Questions in a dialog; each answers with a promise.
import { make } from "./dom.js";
import { getState } from "./store.js";
import { taskOf } from "./tasks.js";

// A dialog that goes when it is closed; `build(close)` gives what stands in it.
export function dialog(title, build, attributes = {}) {
  const heading = make("h2", {}, title);
  const box = make("dialog", { "aria-label": title, ...attributes }, heading);
  const close = (value = null) => {
    box.answer = value;
    box.close();
  };
  box.append(...build(close, box));
  document.body.append(box);
  box.showModal();
  return new Promise((resolve) => box.addEventListener("close", () => {
    box.remove();
    resolve(box.answer ?? null);
  }));
}

// Asks for the name of a class; null where it was not given.
export function askName({ title, button, value = "", others = [] }) {
  const list = make("datalist", { id: "names" }, ...others.map((name) => make("option", { value: name })));
  const input = make("input", { type: "text", required: true, maxlength: 100, autocomplete: "off", value, list: "names" });
  const answer = dialog(title, (close) => [make("form", {
    submit: (event) => {
      event.preventDefault();
      if (input.value.trim()) close(input.value.trim());
    },
  }, make("label", {}, `Name of the ${taskOf(getState()).one}`, input), list, make("div", { class: "row" },
    make("button", {}, button), cancel(close)))]);
  input.select();
  return answer;
}

// Asks for a number; null where none was given.
export function askNumber({ title, value = "" }) {
  const input = make("input", { type: "number", step: "any", required: true, autocomplete: "off", value });
  const answer = dialog(title, (close) => [make("form", {
    submit: (event) => {
      event.preventDefault();
      if (input.value.trim()) close(input.value.trim());
    },
  }, make("label", {}, "Number", input), make("div", { class: "row" }, make("button", {}, "Set"), cancel(close)))]);
  input.select();
  return answer;
}

// Offers some things to do with a line that says what they mean.
export function choose(title, text, options) {
  return dialog(title, (close) => [
    text ? make("p", { class: "quiet" }, text) : "",
    make("div", { class: "stack" },
      ...options.map(([value, words]) => make("button", { class: "second", click: () => close(value) }, words)),
      cancel(close)),
  ]);
}

export function cancel(close) {
  return make("button", { class: "plain", type: "button", click: () => close() }, "Cancel");
}
