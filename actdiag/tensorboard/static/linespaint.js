/**
 * The drawing of curves: the healthy band, the values, the steps, the curves and their names; and of the cursor.
 */

import { FONT, columnOf, drawSteps, stepTicks } from "./draw.js";

const SWATCH = 14;
const LETTER = 6.2;

/** Draw everything but the cursor into a box. `shown`: {scale, axis, series}. */
export function paintLines(ctx, box, shown, colors) {
  paintBand(ctx, box, shown.scale, colors);
  paintValues(ctx, box, shown.scale, colors);
  drawSteps(ctx, box, stepTicks(shown.axis.first, shown.axis.last, box.width), colors);
  for (const one of shown.series) paintSeries(ctx, box, one, shown, colors);
  if (shown.series.length > 1) paintNames(ctx, box, shown.series, colors);
}

function paintBand(ctx, box, { healthy }, colors) {
  if (!healthy) return;
  const [from, to] = healthy;
  ctx.fillStyle = colors.healthy;
  ctx.fillRect(box.left, box.top + box.height * (1 - to), box.width, box.height * (to - from));
}

function paintValues(ctx, box, { ticks }, colors) {
  ctx.font = FONT;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  for (const { at, text } of ticks) {
    const y = Math.round(box.top + box.height * (1 - at)) + 0.5;
    ctx.strokeStyle = colors.grid;
    ctx.beginPath();
    ctx.moveTo(box.left, y);
    ctx.lineTo(box.left + box.width, y);
    ctx.stroke();
    ctx.fillStyle = colors.quiet;
    ctx.fillText(text, box.left - 8, y);
  }
}

function paintSeries(ctx, box, one, { scale, axis }, colors) {
  const { first, last, low, high, color, shade } = one;
  const toX = (step) => box.left + ((columnOf(axis.first, axis.last, step) + 0.5) / axis.first.length) * box.width;
  const toY = (value) => box.top + box.height * (1 - Math.min(Math.max(scale.position(value), -0.02), 1.02));
  for (const [from, to] of stretches(low)) {
    const at = Array.from({ length: to - from }, (_, i) => ({
      x: (toX(first[from + i]) + toX(last[from + i])) / 2,
      high: toY(high[from + i]),
      low: toY(low[from + i]),
    }));
    paintBetween(ctx, at, shade ? colors.shade : color);
    if (!shade) paintCurve(ctx, at, color);
  }
}

/** What lies between the least and the most of each column. */
function paintBetween(ctx, at, color) {
  ctx.fillStyle = color;
  ctx.beginPath();
  at.forEach(({ x, high }, i) => (i ? ctx.lineTo(x, high) : ctx.moveTo(x, high)));
  for (const { x, low } of [...at].reverse()) ctx.lineTo(x, low);
  ctx.closePath();
  ctx.fill();
}

function paintCurve(ctx, at, color) {
  ctx.strokeStyle = color;
  ctx.lineWidth = 1.5;
  ctx.lineJoin = "round";
  ctx.beginPath();
  at.forEach(({ x, high }, i) => (i ? ctx.lineTo(x, high) : ctx.moveTo(x, high)));
  if (at.length === 1) {
    ctx.moveTo(at[0].x - 2, at[0].high); // one step alone would be a dot that nobody sees
    ctx.lineTo(at[0].x + 2, at[0].high);
    ctx.lineWidth = 4;
  }
  ctx.stroke();
  ctx.lineWidth = 1;
}

/** Names stand above the curves: on them they would be crossed out. */
function paintNames(ctx, box, series, colors) {
  ctx.font = FONT;
  ctx.textBaseline = "top";
  ctx.textAlign = "left";
  let x = box.left;
  for (const { name, color, shade } of series) {
    ctx.fillStyle = shade ? colors.shade : color;
    ctx.fillRect(x, box.top - (shade ? 17 : 14), 10, shade ? 8 : 3);
    ctx.fillStyle = colors.ink;
    ctx.fillText(name, x + SWATCH, box.top - 18);
    x += 2 * SWATCH + LETTER * name.length;
  }
}

/** Draw a cursor at a column of an axis of so many, firm or faint. */
export function paintLineCursor(ctx, box, column, columns, firm) {
  const x = Math.round(box.left + ((column + 0.5) / columns) * box.width) + 0.5;
  ctx.globalAlpha = firm ? 1 : 0.5;
  ctx.setLineDash(firm ? [] : [3, 3]);
  ctx.beginPath();
  ctx.moveTo(x, box.top);
  ctx.lineTo(x, box.top + box.height);
  ctx.stroke();
  ctx.globalAlpha = 1;
  ctx.setLineDash([]);
}

/** Stretches without a gap: [from, to) of columns that hold numbers. */
function stretches(values) {
  const found = [];
  let from = -1;
  for (let i = 0; i <= values.length; i++) {
    const there = i < values.length && !Number.isNaN(values[i]);
    if (there && from < 0) from = i;
    if (!there && from >= 0) {
      found.push([from, i]);
      from = -1;
    }
  }
  return found;
}
