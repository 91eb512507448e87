// The pictures of one class. Only those in sight are in the page, so thousands cost no more than
// some dozens; the one that has the focus stays, wherever the others are scrolled to.
import { make, set, write } from "./dom.js";
import { number } from "./format.js";
import { thumbnail } from "./api.js";

const GAP = 8, STEP = 96 + GAP; // a picture of 96 px and the gap
const SIDE = 10; // room beside the pictures for the outline of what has the focus
const SPARE = 3; // rows above and below those in sight

export class Grid {
  constructor(name) {
    this.ids = [];
    this.places = new Map(); // id to its place in ids
    this.cells = new Map(); // id to the button, of those in the page
    this.active = null; // the one that Tab reaches
    this.across = 1;
    this.space = make("div", { class: "space", role: "listbox", "aria-multiselectable": "true" });
    this.element = make("div", { class: "pictures", scroll: () => this.draw() }, this.space);
    this.name(name);
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  name(name) {
    set(this.space, "aria-label", name);
  }

  // `about(id)` says what a picture shows: { name, mark, isSelected }.
  show(ids, about) {
    const index = this.places.get(this.active) ?? 0;
    const hadFocus = this.cells.get(this.active) === document.activeElement && this.active !== null;
    this.ids = ids;
    this.about = about;
    this.places = new Map(ids.map((id, place) => [id, place]));
    // The next picture takes the place, and the focus, of one that went.
    if (!this.places.has(this.active)) {
      this.active = ids[Math.min(index, ids.length - 1)] ?? null;
      this.draw();
      if (hadFocus && this.active !== null) this.focus(this.active);
    } else this.draw();
    return hadFocus && this.active === null; // the focus is lost: the column finds it a place
  }

  draw() {
    const width = this.element.clientWidth;
    if (!width || !this.about) return; // not on show; drawn as soon as it is
    this.across = Math.max(1, Math.floor((width - SIDE + GAP) / STEP));
    this.space.style.height = `${Math.ceil(this.ids.length / this.across) * STEP}px`;
    const top = Math.floor(this.element.scrollTop / STEP) - SPARE;
    const rows = Math.ceil(this.element.clientHeight / STEP) + 2 * SPARE;
    const from = Math.max(0, top * this.across);
    const seen = this.ids.slice(from, Math.max(0, (top + rows + 1) * this.across));
    if (this.active !== null && !seen.includes(this.active)) {
      if (this.places.get(this.active) < from) seen.unshift(this.active);
      else seen.push(this.active);
    }
    this.keepOnly(new Set(seen));
    // In the page they stand in their order too, for whoever reads it from top to bottom.
    let next = this.space.firstElementChild;
    for (const id of seen) {
      const cell = this.put(id, next);
      if (cell === next) next = next.nextElementSibling;
    }
    set(this.space, "role", this.ids.length ? "listbox" : "presentation");
  }

  keepOnly(wanted) {
    for (const [id, cell] of this.cells) {
      if (wanted.has(id)) continue;
      cell.remove();
      this.cells.delete(id);
    }
  }

  put(id, next) {
    const cell = this.cells.get(id) ?? picture(id);
    this.cells.set(id, cell);
    if (cell !== next) this.space.insertBefore(cell, next);
    const place = this.places.get(id);
    const { name, mark, isSelected } = this.about(id);
    cell.style.left = `${(place % this.across) * STEP}px`;
    cell.style.top = `${Math.floor(place / this.across) * STEP}px`;
    cell.tabIndex = id === this.active ? 0 : -1;
    set(cell, "aria-posinset", place + 1);
    set(cell, "aria-setsize", this.ids.length);
    set(cell, "aria-selected", isSelected);
    set(cell, "aria-label", mark ? `${name}, ${mark.words}` : name);
    set(cell, "data-mark", mark ? mark.kind : null);
    write(cell.lastChild, mark ? mark.words : "");
    return cell;
  }

  focus(id) {
    const place = this.places.get(id);
    if (place === undefined) return;
    this.active = id;
    const y = Math.floor(place / this.across) * STEP;
    const height = this.element.clientHeight;
    if (y < this.element.scrollTop) this.element.scrollTop = y;
    else if (y + STEP > this.element.scrollTop + height) this.element.scrollTop = y + STEP - height;
    this.draw();
    this.cells.get(id)?.focus({ preventScroll: true });
  }

  // The picture that is on show at this place of the screen, for going over from another column.
  beside(y, side) {
    if (!this.ids.length) return null;
    const row = Math.max(0, Math.round((y + this.element.scrollTop) / STEP));
    const place = row * this.across + (side === "left" ? 0 : this.across - 1);
    return this.ids[Math.min(place, this.ids.length - 1)];
  }

  // Where the picture stands: its column, and its height on the screen.
  where(id) {
    const place = this.places.get(id);
    return {
      place, column: place % this.across,
      y: Math.floor(place / this.across) * STEP - this.element.scrollTop,
      isLast: place === this.ids.length - 1,
      page: Math.max(1, Math.floor(this.element.clientHeight / STEP)) * this.across,
    };
  }
}

function picture(id) {
  const image = make("img", { src: thumbnail(id), alt: "", width: 96, height: 96, decoding: "async", draggable: "false" });
  image.addEventListener("error", () => image.classList.add("broken"), { once: true });
  return make("button", {
    class: "picture", role: "option", type: "button", draggable: "true", "data-id": id, tabindex: "-1",
  }, image, make("span", { class: "mark-words", "aria-hidden": "true" }));
}

export function sized(name, size) {
  return `${name}, ${number(size)} ${size === 1 ? "picture" : "pictures"}`;
}
