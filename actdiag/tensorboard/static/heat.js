/**
 * Layers by time, in the colors of one metric: the picture of a run's health.
 */

import { h } from "./dom.js";
import { columnOf } from "./draw.js";
import { exact, plural, rangeOf, spread, stepsOf, valueOf, whole } from "./format.js";
import { theme } from "./host.js";
import { LEGEND, Legend } from "./legend.js";
import { Panel } from "./panel.js";
import { Raster } from "./raster.js";
import { healthyWords, painter, scaleOf, worst } from "./scale.js";
import { combine, rowsOf } from "./tree.js";

const TALL = 20;
const MOST_HEIGHT = 600;
const LEAST = 3;
const TABLE_COLUMNS = 10;
const BELOW_LEGEND = 8;

/** Height of one of so many rows: readable if there are few, never less than one can point at. */
export const rowHeight = (rows) => Math.min(TALL, Math.max(LEAST, MOST_HEIGHT / Math.max(1, rows)));

/** A panel with a heatmap. */
export class Heat {
  #on;
  #shown = null;
  #pointed = "";
  #legend = new Legend();
  #raster;
  #panel;

  /** `on`: open(layer, step), fold(module), unfold(module), zoom(from, to). */
  constructor(on) {
    this.#on = on;
    this.#raster = new Raster("heatmap", {
      open: (row, column) => this.#open(row, this.#shown.data.last[column]),
      label: (row) => this.#open(row, null),
      fold: (row) => this.#fold(row),
      bracket: (key) => on.fold(key),
      zoom: (from, to) => on.zoom(from, to),
    });
    this.#panel = new Panel(this, h("div", {}, this.#legend.node, this.#raster.node));
    this.node = this.#panel.node;
    this.controls = this.#panel.controls;
  }

  /**
   * Draw a `stat` frame: {title, note, metric, data, folded, filter, zoomed, scale, at}; `scale` may be that of another chart,
   * to be compared with; `at`, [layer, step], is where the cursor is put, once.
   */
  show(next) {
    const { data, metric } = next;
    const columns = data.first.length;
    const there = data.rows.map((_, r) => data.high.subarray(r * columns, (r + 1) * columns).some((value) => !Number.isNaN(value)));
    const tree = rowsOf(data.rows, next.folded, next.filter, (r) => there[r]);
    const { low, high } = combine(tree.rows, data.low, data.high, columns);
    const scale = next.scale ?? scaleOf(metric, [data.low, data.high]);
    this.#shown = { ...next, ...tree, low, high, scale, columns };
    const left = there.filter((one) => !one).length;
    const leftOut = left ? `; ${plural(left, "row")} to which it does not apply ${left === 1 ? "is" : "are"} left out` : "";
    this.#panel.title(next.title, `${next.note}${leftOut}`);
    this.#legend.show(scale);
    const size = `${plural(tree.rows.length, "row")}, ${plural(columns, "column")} of steps`;
    this.#raster.name(`${next.title}: ${size}. Arrow keys move, Enter opens a layer, f folds, + and - zoom.`);
    this.#raster.show(this.#model());
    this.#point(next.at);
  }

  #model() {
    const { rows, brackets, data, columns, zoomed } = this.#shown;
    return {
      rows: rows.length, columns, first: data.first, last: data.last, pixels: this.#colored(), rowHeight: rowHeight(rows.length),
      label: (row) => rows[row].label,
      strong: (row) => rows[row].key !== null,
      keyOf: (row) => data.rows[rows[row].members[0]],
      rowOf: (name) => rowOf(rows, data.rows, name),
      describe: (row, column) => this.#describe(row, column),
      brackets, zoomed,
    };
  }

  #point(at) {
    const told = JSON.stringify(at ?? null);
    if (!at || told === this.#pointed) return;
    this.#pointed = told;
    const { rows, data } = this.#shown;
    const row = rowOf(rows, data.rows, at[0]);
    if (row >= 0) this.#raster.point(row, columnOf(data.first, data.last, at[1]));
  }

  #colored() {
    const { low, high, scale } = this.#shown;
    const paint = painter(scale, theme());
    const pixels = new Uint32Array(low.length);
    for (let i = 0; i < low.length; i++) pixels[i] = paint(worst(scale, low[i], high[i]));
    return pixels;
  }

  #open(row, step) {
    const { key, members } = this.#shown.rows[row];
    if (key !== null) this.#on.unfold(key);
    else this.#on.open(this.#shown.data.rows[members[0]], step);
  }

  #fold(row) {
    const { key } = this.#shown.rows[row];
    if (key !== null) return this.#on.unfold(key);
    const inside = this.#shown.brackets.filter((b) => row >= b.from && row < b.to);
    if (inside.length) this.#on.fold(inside.reduce((a, b) => (b.depth > a.depth ? b : a)).key);
  }

  #describe(row, column) {
    const { rows, low, high, columns, metric, data } = this.#shown;
    const at = row * columns + column;
    const { key, label, members } = rows[row];
    const lines = [stepsOf(data.first[column], data.last[column]), healthyWords(metric)].filter(Boolean);
    return { head: key === null ? data.rows[members[0]] : label, value: rangeOf(metric, low[at], high[at]), lines };
  }

  /** Draw anew, in the theme of now. */
  redraw() {
    if (this.#shown) this.show(this.#shown);
  }

  /** Width of the drawing. */
  get width() {
    return this.#raster.node.clientWidth;
  }

  /** Whether something is being asked for. */
  busy(is) {
    this.#panel.busy(is);
  }

  /** Say why there is nothing new. */
  fail(text) {
    this.#panel.fail(text);
  }

  /** Width and height of legend and raster. */
  size() {
    const { width, height } = this.#raster.size();
    return { width, height: height + LEGEND + BELOW_LEGEND };
  }

  /** Draw legend and raster at a place of any canvas. */
  paint(ctx, x, y, colors) {
    this.#legend.paint(ctx, x, y, this.#raster.size().width);
    this.#raster.paint(ctx, x, y + LEGEND + BELOW_LEGEND, colors);
  }

  /** The rows that are shown, at some of the steps. */
  table() {
    const { rows, low, high, columns, metric, data, scale } = this.#shown;
    const chosen = spread(columns, TABLE_COLUMNS);
    const value = (r, c) => valueOf(metric, worst(scale, low[r * columns + c], high[r * columns + c]));
    return {
      heads: ["layer", ...chosen.map((c) => `step ${whole(data.last[c])}`)],
      rows: rows.map(({ label }, r) => [label, ...chosen.map((c) => value(r, c))]),
    };
  }

  /** All layers and all columns. */
  numbers() {
    const { data, metric, columns } = this.#shown;
    const rows = [["layer", "first_step", "last_step", `${metric.name}_low`, `${metric.name}_high`]];
    data.rows.forEach((name, r) => {
      for (let c = 0; c < columns; c++) {
        rows.push([name, data.first[c], data.last[c], exact(data.low[r * columns + c]), exact(data.high[r * columns + c])]);
      }
    });
    return rows;
  }
}

/** The row that a layer is in; -1 if in none. */
const rowOf = (rows, names, name) => rows.findIndex(({ members }) => members.some((i) => names[i] === name));
