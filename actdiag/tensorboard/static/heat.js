/**
 * Layers by time, in the colors of one metric: the picture of a run's health.
 */

import { h } from "./dom.js";
import { exact, plural, rangeOf, stepsOf, valueOf, whole } from "./format.js";
import { theme } from "./host.js";
import { LEGEND, legend } from "./legend.js";
import { panel } from "./panel.js";
import { raster } from "./raster.js";
import { healthyWords, painter, scaleOf, worst } from "./scale.js";
import { combine, rowsOf } from "./tree.js";

const TALL = 20;
const MOST_HEIGHT = 600;
const LEAST = 3;
const TABLE_COLUMNS = 10;

/** Height of one of so many rows: readable if there are few, never less than one can point at. */
export const rowHeight = (rows) => Math.min(TALL, Math.max(LEAST, MOST_HEIGHT / Math.max(1, rows)));

/**
 * A heatmap panel. `show({title, note, metric, data, folded, filter, marks, scale})` draws a `stat` frame; `scale` may be
 * that of another chart, to be compared with. `on`: open(layer, step), fold(module), unfold(module), zoom(from, to), move(name, column).
 */
export function heat(on) {
  let shown = null;
  const picture = raster("heatmap", {
    open: (row, column) => openRow(row, shown.data.last[column]),
    label: (row) => openRow(row, null),
    fold: (row) => foldRow(row),
    bracket: (key) => on.fold?.(key),
    zoom: (from, to) => on.zoom?.(from, to),
    move: (row, column) => on.move?.(nameOf(row), column),
  });
  const scaleNode = legend();
  const own = panel(
    {
      size: () => ({ width: picture.size().width, height: picture.size().height + LEGEND + 8 }),
      paint: (ctx, x, y, colors) => {
        scaleNode.paint(ctx, x, y, picture.size().width);
        picture.paint(ctx, x, y + LEGEND + 8, colors);
      },
      table,
      numbers,
    },
    h("div", {}, scaleNode.node, picture.node),
  );

  const nameOf = (row) => shown.data.rows[shown.rows[row].members[0]];

  function openRow(row, step) {
    const { key } = shown.rows[row];
    if (key !== null) on.unfold?.(key);
    else on.open?.(nameOf(row), step);
  }

  function foldRow(row) {
    const { key } = shown.rows[row];
    if (key !== null) return on.unfold?.(key);
    const inside = shown.brackets.filter((b) => row >= b.from && row < b.to);
    if (inside.length) on.fold?.(inside.reduce((a, b) => (b.depth > a.depth ? b : a)).key);
  }

  function show(next) {
    const { data, metric } = next;
    const columns = data.first.length;
    const there = data.rows.map((_, r) => data.high.subarray(r * columns, (r + 1) * columns).some((value) => !Number.isNaN(value)));
    const { rows, brackets } = rowsOf(data.rows, next.folded, next.filter, (r) => there[r]);
    const { low, high } = combine(rows, data.low, data.high, columns);
    const scale = next.scale ?? scaleOf(metric, [data.low, data.high]);
    shown = { ...next, rows, brackets, low, high, scale, columns };
    const left = there.filter((one) => !one).length;
    own.title(next.title, `${next.note}${left ? `; ${plural(left, "row")} to which it does not apply ${left === 1 ? "is" : "are"} left out` : ""}`);
    scaleNode.show(scale);
    picture.name(`${next.title}: ${rows.length} rows, ${columns} columns of steps. Arrow keys move, Enter opens a layer, f folds, + and - zoom.`);
    picture.show({
      rows: rows.length, columns, first: data.first, last: data.last, pixels: colored(), rowHeight: rowHeight(rows.length),
      label: (row) => rows[row].label, strong: (row) => rows[row].key !== null, keyOf: (row) => data.rows[rows[row].members[0]], rowOf: (name) => rows.findIndex(({ members }) => members.some((i) => data.rows[i] === name)), brackets, describe, marks: next.marks, zoomed: next.zoomed,
    });
  }

  function colored() {
    const { low, high, scale } = shown;
    const paint = painter(scale, theme());
    const pixels = new Uint32Array(low.length);
    for (let i = 0; i < low.length; i++) pixels[i] = paint(worst(scale, low[i], high[i]));
    return pixels;
  }

  function describe(row, column) {
    const { rows, low, high, columns, metric, data } = shown;
    const at = row * columns + column;
    const lines = [stepsOf(data.first[column], data.last[column]), healthyWords(metric)];
    return { head: rows[row].key === null ? data.rows[rows[row].members[0]] : rows[row].label, value: rangeOf(metric, low[at], high[at]), lines: lines.filter(Boolean) };
  }

  function table() {
    const { rows, low, high, columns, metric, data, scale } = shown;
    const chosen = spread(columns, TABLE_COLUMNS);
    return {
      heads: ["layer", ...chosen.map((c) => `step ${whole(data.last[c])}`)],
      rows: rows.map((row, r) => [row.label, ...chosen.map((c) => valueOf(metric, worst(scale, low[r * columns + c], high[r * columns + c])))]),
    };
  }

  function numbers() {
    const { data, metric, columns } = shown;
    const rows = [["layer", "first_step", "last_step", `${metric.name}_low`, `${metric.name}_high`]];
    data.rows.forEach((name, r) => {
      for (let c = 0; c < columns; c++) rows.push([name, data.first[c], data.last[c], exact(data.low[r * columns + c]), exact(data.high[r * columns + c])]);
    });
    return rows;
  }

  return {
    ...own, show,
    redraw: () => shown && show(shown),
    scale: () => shown?.scale,
    /** Put the cursor at a layer and a step. */
    hold: (name, step) => {
      const row = shown?.rows.findIndex(({ members }) => members.some((i) => shown.data.rows[i] === name)) ?? -1;
      if (row < 0) return;
      const column = step === null ? shown.columns - 1 : shown.data.last.findIndex((last) => last >= step);
      picture.hold(row, column < 0 ? shown.columns - 1 : column);
    },
    width: () => picture.node.clientWidth,
  };
}

/** About `n` of so many columns, evenly, the last always. */
export function spread(columns, n) {
  const many = Math.min(columns, n);
  return Array.from({ length: many }, (_, i) => Math.round(((i + 1) * columns) / many) - 1);
}
