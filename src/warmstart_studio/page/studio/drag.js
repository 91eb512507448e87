// Dragging: pictures from column to column, and files from outside onto a column or the page.
import { $ } from "./dom.js";
import { columnOf, pictureAt, select } from "./board.js";
import { askName } from "./dialogs.js";
import { add } from "./uploads.js";
import { dropped } from "./folders.js";
import { moveAll } from "./keys.js";
import { getState } from "./store.js";
import { taskOf } from "./tasks.js";
import { showError } from "./messages.js";

const OURS = "application/x-warmstart-pictures";
let over = null; // the column or drop zone that is marked

function mark(element) {
  if (over === element) return;
  over?.classList.remove("over");
  over = element;
  over?.classList.add("over");
}

function begun(event) {
  const id = pictureAt(event.target);
  if (!id) return;
  if (!getState().selection.has(id)) select(id);
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData(OURS, "");
}

const holds = (event, kind) => event.dataTransfer.types.includes(kind);

function moved(event) {
  if (getState().place !== "pictures") return;
  const column = columnOf(event.target);
  const isOurs = holds(event, OURS), task = taskOf(getState());
  if (!isOurs && !holds(event, "Files")) return;
  if (column ? task.isFixed(column.name) : isOurs) {
    mark(null);
    return;
  }
  event.preventDefault();
  event.dataTransfer.dropEffect = isOurs ? "move" : "copy";
  mark(column?.element ?? ($("empty").hidden ? $("board") : $("empty")));
}

async function fell(event) {
  if (getState().place !== "pictures") return;
  event.preventDefault();
  mark(null);
  const column = columnOf(event.target);
  if (holds(event, OURS)) {
    if (column) moveAll([...getState().selection], column.name);
    return;
  }
  if (!taskOf(getState()).isNamed) {
    showError({ status: 422, message: "Pictures need a number each here: add them with Add, or to the table that the studio is begun from." });
    return;
  }
  const { named, loose, notes } = await dropped(event.dataTransfer);
  if (column && !taskOf(getState()).isFixed(column.name)) {
    add([...named, ...loose].map((one) => ({ ...one, label: column.name })), notes);
    return;
  }
  add(named, notes);
  if (!loose.length) return;
  const label = await askName({ title: "What do these photographs show?", button: "Add", others: getState().board.classes });
  if (label) add(loose.map(({ file }) => ({ file, label })));
}

export function watchDrag() {
  document.addEventListener("dragstart", begun);
  document.addEventListener("dragover", moved);
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && mark(null));
  document.addEventListener("dragend", () => mark(null));
  document.addEventListener("drop", fell);
}
