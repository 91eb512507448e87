// The row above the board: add, filter, undo and redo; and the bar for the selection.
import { $, make, set, write } from "./dom.js";
import { chooseFolders, choosePhotographs } from "./uploads.js";
import { openCamera } from "./camera.js";
import { newClass } from "./column.js";
import { choose } from "./dialogs.js";
import { moveAll, setNumber, removeAll } from "./keys.js";
import { openLarge } from "./large_picture.js";
import { redo, undo } from "./actions.js";
import { filterSizes, dispatch, getState, sizesOf } from "./store.js";
import { taskOf } from "./tasks.js";
import { count, number } from "./format.js";

const FILTERS = { all: "All", wrong: "Mistakes", "label-issue": "Label looks wrong" };
const WAYS = {
  folders: ["Choose folders", chooseFolders],
  photographs: ["Choose photographs", () => choosePhotographs()],
  camera: ["Camera", () => openCamera()],
  class: ["New class", newClass],
};

async function offer() {
  const task = taskOf(getState());
  if (!task.isNamed) { // folders and the camera have no numbers
    choosePhotographs();
    return;
  }
  const words = (name) => (name === "class" ? `New ${task.one}` : WAYS[name][0]);
  const way = await choose("Add pictures", "Or drop folders and photographs anywhere on the board.",
    Object.keys(WAYS).map((name) => [name, words(name)]));
  if (way) WAYS[way][1]();
}

export function watchToolbar() {
  const [folders, ...others] = ["folders", "photographs", "camera"].map((name) => WAYS[name]);
  $("empty").querySelector(".ways").append(
    make("button", { click: folders[1] }, folders[0]),
    ...others.map(([words, go]) => make("button", { class: "second", click: go }, words)));
  $("add").addEventListener("click", offer);
  $("undo").addEventListener("click", undo);
  $("redo").addEventListener("click", redo);
  $("class-shown").addEventListener("change", (event) => dispatch("shownClassChanged", { name: event.target.value }));
  for (const [value, words] of Object.entries(FILTERS)) {
    $("filter").append(make("label", {},
      make("input", { type: "radio", name: "filter", value, change: () => dispatch("filterChanged", { filter: value }) }),
      make("span", {}, words)));
  }
  $("move-to").addEventListener("change", (event) => {
    moveAll([...getState().selection], event.target.value);
    event.target.value = "";
  });
  $("set-number").addEventListener("click", () => setNumber([...getState().selection]));
  $("open").addEventListener("click", () => openLarge([...getState().selection][0], getState().selection));
  $("remove").addEventListener("click", () => removeAll([...getState().selection]));
  $("clear").addEventListener("click", () => dispatch("selectionChanged", { ids: [] }));
}

// ---- showing -----------------------------------------------------------------------------------

export function showToolbar(state, before) {
  const { board } = state;
  if (!board || state.place !== "pictures") return;
  const isOther = board !== before.board || state.place !== before.place;
  const isOtherResult = state.result !== before.result || state.filter !== before.filter;
  if (isOther) {
    const isEmpty = board.classes.length === 0 && board.labels.size === 0;
    showTask(taskOf(state));
    $("empty").hidden = !isEmpty;
    $("tools").hidden = isEmpty && !board.undo && !board.redo;
    $("board").hidden = isEmpty;
    $("add").hidden = $("filter").hidden = $("one-class").hidden = isEmpty;
    step($("undo"), "Undo", board.undo);
    step($("redo"), "Redo", board.redo);
  }
  if (isOther || state.shownClass !== before.shownClass) showClasses(state);
  if (isOther || isOtherResult) showFilter(state);
  if (isOther || state.selection !== before.selection) showSelected(state);
}

function showTask(task) {
  write($("one-class-words"), task.one[0].toUpperCase() + task.one.slice(1));
  write($("move-words"), task.assign);
  $("move-to").parentElement.hidden = !task.isNamed;
  $("set-number").hidden = task.isNamed;
}

function step(button, words, what) {
  button.disabled = what === null;
  write(button, what === null ? words : `${words}: ${what}`);
  set(button, "title", what === null ? null : `${words}: ${what}`);
}

function showClasses(state) {
  const options = [...sizesOf(state)].map(([name, size]) => make("option", { value: name }, `${name} (${number(size)})`));
  $("class-shown").replaceChildren(...options);
  $("class-shown").value = state.shownClass ?? "";
  $("move-to").replaceChildren(make("option", { value: "" }, "…"),
    ...state.board.classes.map((name, n) => make("option", { value: name }, n < 9 ? `${n + 1}  ${name}` : name)));
}

function showFilter(state) {
  const sizes = filterSizes(state);
  for (const input of $("filter").querySelectorAll("input")) {
    input.checked = input.value === state.filter;
    const words = input.value === "label-issue" && !taskOf(state).isNamed ? "Number looks wrong" : FILTERS[input.value];
    const isCounted = input.value !== "all" && state.result;
    write(input.nextElementSibling, isCounted ? `${words} ${number(sizes[input.value])}` : words);
  }
  // Before the first result there is nothing to filter.
  $("filter").hidden = !state.board.labels.size || (!state.result && state.filter === "all");
}

function showSelected({ selection }) {
  const hadFocus = $("selected").contains(document.activeElement);
  $("selected").hidden = selection.size === 0;
  write($("selected-words"), `${count(selection.size, "picture")} selected`);
  // The bar disappeared with the focused button.
  if (hadFocus && selection.size === 0) (document.querySelector("#board .picture[tabindex='0']") ?? $("add")).focus();
}
