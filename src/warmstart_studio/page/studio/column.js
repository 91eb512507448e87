// One class: its name, count and actions, and its pictures below.
import { make, set, write } from "./dom.js";
import { Grid, sized } from "./grid.js";
import { askName, choose } from "./dialogs.js";
import { addClass, removeClass, renameClass } from "./actions.js";
import { choosePhotographs } from "./uploads.js";
import { getState, sizesOf } from "./store.js";
import { taskOf } from "./tasks.js";
import { count, number } from "./format.js";

export class Column {
  constructor(name) {
    this.name = name;
    this.grid = new Grid(name);
    this.key = make("kbd", { "aria-hidden": "true" });
    this.title = make("button", { class: "plain title", title: "Rename (F2)", click: () => rename(this.name) }, name);
    this.size = make("span", { class: "quiet size" });
    this.hint = make("p", { class: "quiet hint" });
    this.more = make("button", { class: "plain", "aria-label": `More about ${name}`, click: () => more(this.name) }, "⋯");
    const addMore = () => choosePhotographs(this.name), isFixed = taskOf(getState()).isFixed(name);
    this.title.disabled = this.more.hidden = isFixed;
    if (isFixed) this.title.title = "";
    const add = make("button", { class: "plain", "aria-label": `Add to ${name}`, click: addMore }, "Add");
    add.hidden = isFixed;
    this.element = make("section", { class: "column", "aria-label": name, "data-class": name },
      make("div", { class: "head" }, this.key, make("h2", {}, this.title), this.size, add, this.more),
      this.hint, this.grid.element);
  }

  // `size` counts all of the class, `ids` only what the filter lets through.
  show({ ids, size, place, about, filter }) {
    const isFiltered = filter !== "all";
    write(this.key, place < 9 && !taskOf(getState()).isFixed(this.name) ? String(place + 1) : "");
    write(this.size, isFiltered ? `${number(ids.length)} of ${number(size)}` : number(size));
    set(this.size, "aria-label", count(size, "picture"));
    set(this.size, "role", "img");
    this.grid.name(sized(this.name, ids.length));
    this.hint.hidden = ids.length > 0;
    write(this.hint, isFiltered || taskOf(getState()).isFixed(this.name) ? "None here." : "Drop pictures here.");
    if (this.grid.show(ids, about)) this.title.focus();
  }
}

export async function rename(name) {
  if (taskOf(getState()).isFixed(name)) return;
  const other = await askName({ title: `Rename ${name}`, button: "Rename", value: name });
  if (!other || other === name) return;
  if (await renameClass(name, other)) focusHead(other);
}

// The column of the new name comes with the event; the focus waits for it.
function focusHead(name, tries = 20) {
  const head = document.querySelector(`[data-class="${CSS.escape(name)}"] .title`);
  if (head) head.focus();
  else if (tries) setTimeout(() => focusHead(name, tries - 1), 50);
}

async function more(name) {
  const size = sizesOf(getState()).get(name) ?? 0, task = taskOf(getState());
  const end = task.leaves ? `removes its ${count(size, "picture")} from the board too. Undo brings them back.`
    : `removes it from ${count(size, "picture")}; they stay.`;
  const text = size > 0 && `Removing the ${task.one} ${end}`;
  const chosen = await choose(name, text, [["rename", "Rename"], ["remove", `Remove the ${task.one}`]]);
  if (chosen === "rename") rename(name);
  if (chosen === "remove") removeClass(name);
}

export async function newClass() {
  const name = await askName({ title: `New ${taskOf(getState()).one}`, button: "Add" });
  if (name && await addClass(name)) focusHead(name);
}
