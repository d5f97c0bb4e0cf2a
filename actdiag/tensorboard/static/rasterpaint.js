/**
 * The drawing of a raster: cells, labels, brackets, marked steps; and of its cursor, on a canvas above.
 */

import { h } from "./dom.js";
import { FONT, MONO, columnOf, drawSteps, stepTicks } from "./draw.js";
import { ending } from "./format.js";
import { BRACKET, GAP, LABEL } from "./plane.js";

const MARK_ROOM = 90;

/** Draw everything but the cursor at a place of any canvas. */
export function paintRaster(ctx, x, y, plane, colors) {
  const { model } = plane;
  const area = { left: plane.left + x, top: plane.top + y, width: plane.width, height: plane.height };
  ctx.imageSmoothingEnabled = false;
  if (model.rows && model.columns) ctx.drawImage(imageOf(model), area.left, area.top, area.width, area.height);
  drawSteps(ctx, area, stepTicks(model.first, model.last, area.width), colors);
  paintLabels(ctx, area, plane, colors);
  for (const bracket of plane.brackets) paintBracket(ctx, x, area.top, bracket, model.rowHeight, colors);
  for (const mark of model.marks) paintMark(ctx, area, mark, model, colors);
}

function imageOf({ rows, columns, pixels }) {
  const canvas = h("canvas", { width: columns, height: rows });
  const bytes = new Uint8ClampedArray(pixels.buffer, pixels.byteOffset, 4 * pixels.length);
  canvas.getContext("2d").putImageData(new ImageData(bytes, columns, rows), 0, 0);
  return canvas;
}

/** Rows whose labels there is room for: the strong ones first, of the others what does not touch a label. */
export function labelledRows({ rows, rowHeight, strong }) {
  const apart = Math.max(1, Math.ceil(LABEL / rowHeight));
  const all = Array.from({ length: rows }, (_, row) => row);
  const covered = new Uint8Array(rows);
  const found = [];
  for (const row of [...all.filter(strong), ...all]) {
    if (covered[row]) continue;
    covered.fill(1, Math.max(0, row - apart + 1), row + apart);
    found.push(row);
  }
  return found.sort((a, b) => a - b);
}

function paintLabels(ctx, { left, top }, { model, letters }, colors) {
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  for (const row of model.labels ?? labelledRows(model)) {
    const strong = model.strong(row);
    ctx.font = strong ? `600 ${MONO}` : MONO;
    ctx.fillStyle = strong ? colors.ink : colors.quiet;
    const y = Math.max((row + 0.5) * model.rowHeight, LABEL / 2 - 1); // the first of thin rows would be cut off
    ctx.fillText(ending(model.label(row), letters), left - GAP, top + y);
  }
}

function paintBracket(ctx, x, top, { from, to, depth }, rowHeight, colors) {
  const at = x + 4 + depth * BRACKET;
  ctx.strokeStyle = colors.line;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  ctx.moveTo(at + 4, top + from * rowHeight + 1.5);
  ctx.lineTo(at, top + from * rowHeight + 1.5);
  ctx.lineTo(at, top + to * rowHeight - 1.5);
  ctx.lineTo(at + 4, top + to * rowHeight - 1.5);
  ctx.stroke();
  ctx.lineWidth = 1;
}

function paintMark(ctx, area, { step, text }, { first, last, columns }, colors) {
  const column = columnOf(first, last, step);
  if (column >= columns) return;
  const x = Math.round(area.left + ((column + 0.5) / columns) * area.width) + 0.5;
  ctx.strokeStyle = colors.ink;
  ctx.setLineDash([3, 3]);
  ctx.beginPath();
  ctx.moveTo(x, area.top);
  ctx.lineTo(x, area.top + area.height);
  ctx.stroke();
  ctx.setLineDash([]);
  if (!text) return;
  const atEnd = x > area.left + area.width - MARK_ROOM;
  ctx.font = FONT;
  ctx.fillStyle = colors.ink;
  ctx.textBaseline = "top";
  ctx.textAlign = atEnd ? "right" : "left";
  ctx.fillText(text, x + (atEnd ? -4 : 4), area.top + 3);
}

/** Draw the cursor: its row and its column faintly, its cell in full. */
export function paintCursor(ctx, plane, { row, column }, colors) {
  const { left, top, width, height } = plane;
  const { x0, x1, y0, y1 } = plane.cell(row, column);
  ctx.strokeStyle = colors.cursor;
  ctx.lineWidth = 1;
  ctx.globalAlpha = 0.35;
  ctx.strokeRect(left + 0.5, Math.round(y0) - 0.5, width - 1, Math.max(2, Math.round(y1 - y0) + 1));
  ctx.strokeRect(Math.round(x0) - 0.5, top + 0.5, Math.max(2, Math.round(x1 - x0) + 1), height - 1);
  ctx.globalAlpha = 1;
  ctx.strokeRect(Math.round(x0) - 1, Math.round(y0) - 1, Math.max(3, x1 - x0 + 2), Math.max(3, y1 - y0 + 2));
}

/** Shade what is dragged over. */
export function paintDrag(ctx, { top, height }, { from, to }, colors) {
  ctx.fillStyle = colors.shade;
  ctx.fillRect(Math.min(from, to), top, Math.abs(to - from), height);
}
