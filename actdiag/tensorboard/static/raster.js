/**
 * A raster: rows by columns of color, with labels, an axis of steps, a cursor, keys and a zoom. Layers by time, octaves by
 * time and units by time are drawn by it.
 *
 * The picture is one pixel a cell, stretched; the cursor lives on a canvas of its own, so that it moves without redrawing.
 */

import { THEMES } from "./color.js";
import { h } from "./dom.js";
import { columnOf, prepare } from "./draw.js";
import { theme } from "./host.js";
import { Plane } from "./plane.js";
import { paintCursor, paintDrag, paintRaster } from "./rasterpaint.js";
import { hideTip, showTip, showsTip, speak } from "./tip.js";

const DRAG = 6;
const DOUBLE_MS = 250;
const FAR = 10;
const ZOOM = 0.5;
const EMPTY = {
  rows: 0, columns: 0, first: [], last: [], pixels: new Uint32Array(0), rowHeight: 20, label: () => "", strong: () => false,
  keyOf: (row) => row, rowOf: (key) => key, brackets: [], marks: [], labels: null, describe: () => ({}), zoomed: false,
};

/** Rows by columns of color. */
export class Raster {
  #on;
  #base = h("canvas", {});
  #overlay = h("canvas", { class: "overlay" });
  #model = EMPTY;
  #plane = new Plane(EMPTY, 0);
  #cursor = { row: 0, column: Infinity };
  #drag = null;
  #pointer = null;
  #touched = "";
  #waiting = 0;
  #keys = {
    ArrowUp: () => this.#move(-1, 0),
    ArrowDown: () => this.#move(1, 0),
    ArrowLeft: () => this.#move(0, -1),
    ArrowRight: () => this.#move(0, 1),
    PageUp: () => this.#move(-FAR, 0),
    PageDown: () => this.#move(FAR, 0),
    Home: () => this.#move(0, -this.#model.columns),
    End: () => this.#move(0, this.#model.columns),
    Enter: () => this.#open(),
    " ": () => this.#open(),
    f: () => this.#on.fold?.(this.#held().row),
    "+": () => this.#zoomBy(ZOOM),
    "=": () => this.#zoomBy(ZOOM),
    "-": () => this.#unzoom(),
    Escape: () => this.#unzoom(),
  };

  /**
   * `kind` in words, and what is done `on`: open(row, column), fold(row), label(row), bracket(key), zoom(firstStep, lastStep)
   * or zoom(null, null); all may be left out.
   */
  constructor(kind, on = {}) {
    this.#on = on;
    this.node = h("div", { class: "raster", tabindex: 0, role: "application", "aria-roledescription": kind }, this.#base, this.#overlay);
    this.#listen();
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  /**
   * Draw {rows, columns, first, last, pixels, rowHeight, label(row), strong(row), brackets: [{from, to, depth, key, text}],
   * labels: rows that have one, if not as many as there is room for, describe(row, column) -> {head, value, lines}, marks:
   * [{step, text}], zoomed, keyOf(row), rowOf(key)}. The cursor stays at the key and the step that it was at.
   */
  show(next) {
    const [was, { row, column }] = [this.#model, this.#held()];
    this.#model = { ...EMPTY, ...next };
    if (was.rows && Number.isFinite(this.#cursor.column)) {
      const at = this.#model.rowOf(was.keyOf(row));
      this.#cursor = { row: at < 0 ? row : at, column: columnOf(this.#model.first, this.#model.last, was.last[column]) };
    }
    this.#measure();
    this.node.style.height = `${this.#plane.size.height}px`;
    this.draw();
    if (showsTip(this)) this.#tellAgain();
  }

  /** Draw anew, in the size and the theme of now. */
  draw() {
    if (!this.node.clientWidth) return;
    const { width, height } = this.#measure().size;
    this.paint(prepare(this.#base, width, height), 0, 0, THEMES[theme()]);
    this.#drawCursor();
  }

  /** Draw everything but the cursor at a place of any canvas. */
  paint(ctx, x, y, colors) {
    paintRaster(ctx, x, y, this.#plane, colors);
  }

  /** Width and height as drawn. */
  size() {
    return this.#plane.size;
  }

  /** What a screen reader says of it. */
  name(text) {
    this.node.setAttribute("aria-label", text);
  }

  /** Put the cursor at a row and a column. */
  point(row, column) {
    this.#cursor = { row, column };
    this.#drawCursor();
  }

  #measure() {
    this.#plane = new Plane(this.#model, this.node.clientWidth);
    return this.#plane;
  }

  #held() {
    const { rows, columns } = this.#model;
    return { row: Math.min(Math.max(this.#cursor.row, 0), rows - 1), column: Math.min(Math.max(this.#cursor.column, 0), columns - 1) };
  }

  #drawCursor() {
    const { width, height } = this.#plane.size;
    const colors = THEMES[theme()];
    const ctx = prepare(this.#overlay, width, height);
    if (this.#drag?.moved) paintDrag(ctx, this.#plane, this.#drag, colors);
    if (this.#model.rows && this.#model.columns && this.node.matches(":focus, :hover")) paintCursor(ctx, this.#plane, this.#held(), colors);
  }

  #listen() {
    const on = (type, listener) => this.node.addEventListener(type, listener);
    on("pointermove", (event) => this.#hover(event));
    on("pointerleave", ({ pointerType }) => pointerType !== "touch" && this.#leave()); // a finger leaves when it is lifted
    on("pointerdown", (event) => this.#press(event));
    on("pointerup", (event) => this.#release(event));
    on("pointercancel", () => this.#leave());
    on("dblclick", () => this.#unzoom());
    on("focus", () => this.#drawCursor());
    on("blur", () => this.#leave());
    on("keydown", (event) => this.#type(event));
  }

  #place({ clientX, clientY }) {
    const box = this.node.getBoundingClientRect();
    return this.#plane.at(clientX - box.left, clientY - box.top);
  }

  #hover(event) {
    this.#pointer = { clientX: event.clientX, clientY: event.clientY };
    const at = this.#place(event);
    if (this.#drag) {
      this.#drag.to = this.#plane.clamped(at.x);
      this.#drag.moved ||= Math.abs(this.#drag.to - this.#drag.from) > DRAG;
    }
    this.node.style.cursor = at.inside ? "crosshair" : at.inGutter ? "pointer" : "default";
    if (at.inside) this.#cursor = { row: at.row, column: at.column };
    this.#tell(at);
    this.#drawCursor();
  }

  #tell(at) {
    const told = this.#told(at);
    if (told) showTip(this, told, this.#pointer.clientX, this.#pointer.clientY);
    else hideTip(this);
  }

  #told(at) {
    const { model } = this.#plane;
    if (!model.rows || !model.columns) return null;
    if (at.inside) return model.describe(at.row, at.column);
    if (!at.inGutter) return null;
    const bracket = this.#plane.bracketAt(at);
    if (bracket) return { head: bracket.key, value: bracket.text };
    return this.#on.label ? { head: model.label(at.row), value: model.strong(at.row) ? "Unfold" : "Open" } : { head: "", value: model.label(at.row) };
  }

  /** What the tooltip says of data that have come while it is seen. */
  #tellAgain() {
    if (this.#pointer) this.#tell(this.#place(this.#pointer));
    else if (this.#model.rows && this.#model.columns) this.#tellCursor();
    else hideTip(this);
  }

  #tellCursor() {
    const { row, column } = this.#held();
    const { x0, x1, y0, y1 } = this.#plane.cell(row, column);
    const box = this.node.getBoundingClientRect();
    showTip(this, this.#model.describe(row, column), box.left + (x0 + x1) / 2, box.top + (y0 + y1) / 2);
  }

  #leave() {
    this.#drag = null;
    this.#pointer = null;
    hideTip(this);
    this.#drawCursor();
  }

  #press(event) {
    const at = this.#place(event);
    if (event.button !== 0 || !at.inside) return;
    this.#drag = { from: at.x, to: at.x, moved: false };
    this.node.setPointerCapture(event.pointerId);
  }

  #release(event) {
    const at = this.#place(event);
    const drag = this.#drag;
    this.#drag = null;
    if (drag?.moved) this.#zoomTo(drag);
    else if (drag && at.inside) this.#click(event, at);
    else if (at.inGutter && event.button === 0) this.#clickGutter(at);
    this.#drawCursor();
  }

  /** A finger has no hovering: its first touch of a cell tells, the second opens. */
  #click(event, { row, column }) {
    clearTimeout(this.#waiting);
    const here = `${row} ${column}`;
    const told = event.pointerType !== "touch" || this.#touched === here;
    this.#touched = here;
    if (!told) return this.#hover(event);
    if (!this.#model.zoomed) return this.#on.open?.(row, column);
    this.#waiting = setTimeout(() => this.#on.open?.(row, column), DOUBLE_MS); // a second click would show all steps
  }

  #unzoom() {
    clearTimeout(this.#waiting);
    this.#on.zoom?.(null, null);
  }

  #clickGutter(at) {
    const bracket = this.#plane.bracketAt(at);
    if (bracket) this.#on.bracket?.(bracket.key);
    else this.#on.label?.(at.row);
  }

  #type(event) {
    const act = this.#keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey || !this.#model.rows || !this.#model.columns) return;
    if (event.key === "Escape" && !this.#model.zoomed) return hideTip(this);
    event.preventDefault();
    act();
  }

  #open() {
    this.#on.open?.(this.#held().row, this.#held().column);
  }

  #zoomTo({ from, to }) {
    const [left, right] = [Math.min(from, to), Math.max(from, to)].map((x) => this.#plane.columnAt(x));
    this.#on.zoom?.(this.#model.first[left], this.#model.last[right]);
  }

  #zoomBy(factor) {
    const { first, last, columns } = this.#model;
    const { column } = this.#held();
    const half = Math.max(1, (columns * factor) / 2);
    this.#on.zoom?.(first[Math.max(0, Math.round(column - half))], last[Math.min(columns - 1, Math.round(column + half))]);
  }

  #move(rows, columns) {
    const { row, column } = this.#held();
    this.#cursor = { row: row + rows, column: column + columns };
    this.#cursor = this.#held();
    this.#pointer = null;
    this.#drawCursor();
    speak(this.#model.describe(this.#cursor.row, this.#cursor.column));
    this.#tellCursor();
  }
}
