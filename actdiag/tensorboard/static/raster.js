/**
 * A raster: rows by columns of color, with labels, an axis of steps, a cursor, keys and a zoom. Layers by time, octaves by
 * time and units by time are drawn by it.
 *
 * The picture is one pixel a cell, stretched; the cursor lives on a canvas of its own, so that it moves without redrawing.
 */

import { THEMES } from "./color.js";
import { h } from "./dom.js";
import { AXIS, FONT, MONO, columnOf, drawSteps, prepare, stepTicks } from "./draw.js";
import { middle } from "./format.js";
import { theme } from "./host.js";
import { hideTip, showTip, speak } from "./tip.js";

const GAP = 8;
const BRACKET = 9;
const LABEL = 13;
const DRAG = 6;
const EMPTY = { rows: 0, columns: 0, first: [], last: [], pixels: new Uint32Array(0), rowHeight: 20, label: () => "", brackets: [], describe: () => ({}) };

/**
 * `on`: open(row, column), fold(row), label(row), bracket(key), zoom(firstStep, lastStep) or zoom(null), move(row, column); all may be left out.
 *
 * `show(model)` draws {rows, columns, first, last, pixels, rowHeight, label(row), strong(row), brackets: [{from, to, depth, key, text}],
 * labels: rows that have one, if not as many as there is room for, describe(row, column) -> {head, value, lines}, marks: [{step,
 * text}]}.
 */
export function raster(kind, on = {}) {
  const base = h("canvas", {});
  const overlay = h("canvas", { class: "overlay" });
  const node = h("div", { class: "raster", tabindex: 0, role: "application", "aria-roledescription": kind }, base, overlay);
  let model = EMPTY;
  let cursor = { row: 0, column: Infinity };
  let drag = null;

  /** Brackets that are tall enough to be seen and hit. */
  const brackets = () => model.brackets.filter(({ from, to }) => (to - from) * model.rowHeight >= LABEL);
  const depth = () => Math.max(0, ...brackets().map((b) => b.depth + 1));
  const gutter = () => {
    const longest = Math.max(0, ...sample(model.rows).map((row) => model.label(row).length));
    const room = Math.min(Math.max(longest * 6.7, 30), 230, node.clientWidth * 0.34);
    return Math.round(room + depth() * BRACKET + 2 * GAP);
  };
  const area = () => {
    const left = gutter();
    return { left, top: 2, width: Math.max(40, node.clientWidth - left - 2), height: Math.max(1, Math.round(model.rows * model.rowHeight)) };
  };

  function draw() {
    if (!node.clientWidth) return;
    const size = { width: node.clientWidth, height: area().height + AXIS + 4 };
    paint(prepare(base, size.width, size.height), 0, 0, THEMES[theme()]);
    drawCursor();
  }

  /** Draw everything but the cursor at a place of any canvas. */
  function paint(ctx, x, y, colors) {
    const own = area();
    const at = { ...own, left: own.left + x, top: own.top + y };
    ctx.imageSmoothingEnabled = false;
    if (model.rows && model.columns) ctx.drawImage(image(), at.left, at.top, at.width, at.height);
    drawSteps(ctx, at, stepTicks(model.first, model.last, at.width), colors);
    drawLabels(ctx, at, x, colors);
    for (const { step, text } of model.marks ?? []) drawMark(ctx, at, step, text, colors);
  }

  function image() {
    const canvas = h("canvas", { width: model.columns, height: model.rows });
    const pixels = new ImageData(new Uint8ClampedArray(model.pixels.buffer, model.pixels.byteOffset, 4 * model.pixels.length), model.columns, model.rows);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas;
  }

  function drawLabels(ctx, { left, top }, x, colors) {
    const every = Math.max(1, Math.ceil(LABEL / model.rowHeight));
    const most = Math.floor((left - x - 2 * GAP - depth() * BRACKET) / 6.7);
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    const labelled = model.labels ?? Array.from({ length: Math.ceil(model.rows / every) }, (_, i) => i * every);
    for (const row of labelled) {
      const strong = model.strong?.(row);
      ctx.font = strong ? `600 ${MONO}` : MONO;
      ctx.fillStyle = strong ? colors.ink : colors.quiet;
      ctx.fillText(middle(model.label(row), most), left - GAP, top + (row + (model.labels ? 1 : Math.min(every, model.rows - row)) / 2) * model.rowHeight);
    }
    ctx.strokeStyle = colors.line;
    ctx.lineWidth = 1.5;
    for (const { from, to, depth: deep } of brackets()) {
      const at = x + 4 + deep * BRACKET;
      ctx.beginPath();
      ctx.moveTo(at + 4, top + from * model.rowHeight + 1.5);
      ctx.lineTo(at, top + from * model.rowHeight + 1.5);
      ctx.lineTo(at, top + to * model.rowHeight - 1.5);
      ctx.lineTo(at + 4, top + to * model.rowHeight - 1.5);
      ctx.stroke();
    }
    ctx.lineWidth = 1;
  }

  function drawMark(ctx, at, step, text, colors) {
    const column = model.first.findIndex((_, i) => model.last[i] >= step);
    if (column < 0) return;
    const x = Math.round(at.left + ((column + 0.5) / model.columns) * at.width) + 0.5;
    ctx.strokeStyle = colors.ink;
    ctx.setLineDash([3, 3]);
    ctx.beginPath();
    ctx.moveTo(x, at.top);
    ctx.lineTo(x, at.top + at.height);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.font = FONT;
    ctx.fillStyle = colors.ink;
    ctx.textBaseline = "top";
    ctx.textAlign = x > at.left + at.width - 90 ? "right" : "left";
    ctx.fillText(text, x + (ctx.textAlign === "left" ? 4 : -4), at.top + 3);
  }

  function drawCursor() {
    const { left, top, width, height } = area();
    const ctx = prepare(overlay, node.clientWidth, height + AXIS + 4);
    const colors = THEMES[theme()];
    if (drag?.moved) {
      ctx.fillStyle = colors.shade;
      ctx.fillRect(Math.min(drag.x, drag.to), top, Math.abs(drag.to - drag.x), height);
    }
    if (!model.rows || !model.columns || !node.matches(":focus, :hover, .held")) return;
    const { row, column } = held();
    ctx.strokeStyle = colors.cursor;
    ctx.lineWidth = 1;
    const [x0, x1] = [left + (column / model.columns) * width, left + ((column + 1) / model.columns) * width];
    const [y0, y1] = [top + row * model.rowHeight, top + (row + 1) * model.rowHeight];
    ctx.globalAlpha = 0.35;
    ctx.strokeRect(left + 0.5, Math.round(y0) - 0.5, width - 1, Math.max(2, Math.round(y1 - y0) + 1));
    ctx.strokeRect(Math.round(x0) - 0.5, top + 0.5, Math.max(2, Math.round(x1 - x0) + 1), height - 1);
    ctx.globalAlpha = 1;
    ctx.strokeRect(Math.round(x0) - 1, Math.round(y0) - 1, Math.max(3, x1 - x0 + 2), Math.max(3, y1 - y0 + 2));
  }

  const held = () => ({
    row: Math.min(Math.max(cursor.row, 0), model.rows - 1),
    column: Math.min(Math.max(cursor.column, 0), model.columns - 1),
  });

  function place(event) {
    const box = node.getBoundingClientRect();
    const { left, top, width, height } = area();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    return {
      x, y, inside: x >= left && x < left + width && y >= top && y < top + height, inGutter: x < left && y >= top && y < top + height,
      row: Math.floor((y - top) / model.rowHeight), column: Math.floor(((x - left) / width) * model.columns),
    };
  }

  function bracketAt({ x, row }) {
    return brackets().find((b) => row >= b.from && row < b.to && x >= b.depth * BRACKET && x < (b.depth + 1) * BRACKET);
  }

  node.addEventListener("pointermove", (event) => {
    const at = place(event);
    if (drag) {
      drag.to = Math.min(Math.max(at.x, area().left), area().left + area().width);
      drag.moved ||= Math.abs(drag.to - drag.x) > DRAG;
    }
    const bracket = at.inGutter ? bracketAt(at) : null;
    node.style.cursor = at.inside ? "crosshair" : at.inGutter ? "pointer" : "default";
    if (bracket) showTip({ head: bracket.key, value: bracket.text }, event.clientX, event.clientY);
    else if (at.inGutter && model.rows) showTip({ head: model.label(at.row), value: model.strong?.(at.row) ? "Unfold" : "Open" }, event.clientX, event.clientY);
    else if (!at.inside || !model.rows) hideTip();
    else {
      cursor = { row: at.row, column: at.column };
      showTip(model.describe(at.row, at.column), event.clientX, event.clientY);
      on.move?.(at.row, at.column);
    }
    drawCursor();
  });
  node.addEventListener("pointerleave", () => (hideTip(), drawCursor()));
  node.addEventListener("pointerdown", (event) => {
    const at = place(event);
    if (event.button !== 0 || !at.inside) return;
    drag = { x: at.x, to: at.x, moved: false };
    node.setPointerCapture(event.pointerId);
  });
  node.addEventListener("pointerup", (event) => {
    const at = place(event);
    const done = drag;
    drag = null;
    if (done?.moved) zoomTo(done.x, done.to);
    else if (done && at.inside) on.open?.(at.row, at.column);
    else if (at.inGutter) {
      const bracket = bracketAt(at);
      if (bracket) on.bracket?.(bracket.key);
      else on.label?.(at.row);
    }
    drawCursor();
  });
  node.addEventListener("dblclick", () => on.zoom?.(null));
  node.addEventListener("focus", drawCursor);
  node.addEventListener("blur", drawCursor);

  function zoomTo(x0, x1) {
    const { left, width } = area();
    const column = (x) => Math.min(Math.max(Math.floor(((x - left) / width) * model.columns), 0), model.columns - 1);
    on.zoom?.(model.first[column(Math.min(x0, x1))], model.last[column(Math.max(x0, x1))]);
  }

  function zoomBy(factor) {
    const { column } = held();
    const half = Math.max(1, (model.columns * factor) / 2);
    const [from, to] = [Math.max(0, Math.round(column - half)), Math.min(model.columns - 1, Math.round(column + half))];
    on.zoom?.(model.first[from], model.last[to]);
  }

  const KEYS = {
    ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0), ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1),
    PageUp: () => move(-10, 0), PageDown: () => move(10, 0), Home: () => move(0, -Infinity), End: () => move(0, Infinity),
    Enter: () => on.open?.(held().row, held().column), " ": () => on.open?.(held().row, held().column),
    f: () => on.fold?.(held().row), "+": () => zoomBy(0.5), "=": () => zoomBy(0.5), "-": () => on.zoom?.(null), Escape: () => (hideTip(), on.zoom?.(null)),
  };
  node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !model.rows || !KEYS[event.key]) return;
    if (event.key === "Escape" && !model.zoomed) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  function move(rows, columns) {
    const by = event2step(columns, model.columns);
    const from = held();
    cursor = { row: Math.min(Math.max(from.row + rows, 0), model.rows - 1), column: Math.min(Math.max(from.column + by, 0), model.columns - 1) };
    drawCursor();
    speak(model.describe(cursor.row, cursor.column));
    const { left, top, width } = area();
    const box = node.getBoundingClientRect();
    showTip(model.describe(cursor.row, cursor.column), box.left + left + ((cursor.column + 0.5) / model.columns) * width, box.top + top + (cursor.row + 0.5) * model.rowHeight);
    on.move?.(cursor.row, cursor.column);
  }

  new ResizeObserver(() => draw()).observe(node);
  return {
    node,
    paint,
    draw,
    size: () => ({ width: node.clientWidth, height: area().height + AXIS + 4 }),
    show: (next) => {
      const was = Number.isFinite(cursor.column) && model.rows ? [model.keyOf?.(held().row), model.last[held().column]] : null;
      model = { ...EMPTY, ...next };
      if (was) cursor = { row: model.rowOf?.(was[0]) ?? cursor.row, column: Math.max(0, columnOf(model.first, model.last, was[1])) };
      node.style.height = `${area().height + AXIS + 4}px`;
      draw();
    },
    name: (text) => node.setAttribute("aria-label", text),
    /** Put the cursor somewhere and keep it shown. */
    hold: (row, column) => {
      cursor = { row, column };
      node.classList.add("held");
      drawCursor();
    },
    cursor: held,
  };
}

const event2step = (columns, all) => (Number.isFinite(columns) ? columns : Math.sign(columns) * all);

/** Rows whose labels tell how wide labels are: all of few, some of many. */
function sample(rows) {
  const every = Math.max(1, Math.floor(rows / 300));
  return Array.from({ length: Math.ceil(rows / every) }, (_, i) => i * every);
}
