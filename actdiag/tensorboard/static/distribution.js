/**
 * The distribution of a layer's values, or of their gradient, over time: octaves of both signs, small ones in the middle.
 */

import { SPECIAL, ramp } from "./color.js";
import { exact, number, percent, plural, spread, whole } from "./format.js";
import { theme } from "./host.js";
import { Panel } from "./panel.js";
import { Raster } from "./raster.js";

const HEIGHT = 216;
const TABLE_COLUMNS = 8;
const LABEL = 14;

/** [from, to] of the values that a bin holds; bins are those of a `histogram` frame. */
export function boundsOf({ bottom, top }, bin) {
  const k = bin - (top - bottom);
  if (k === 0) return [-(2 ** bottom), 2 ** bottom];
  return k > 0 ? [2 ** (bottom + k - 1), 2 ** (bottom + k)] : [-(2 ** (bottom - k)), -(2 ** (bottom - k - 1))];
}

/** A panel with a distribution over time. */
export class Distribution {
  #shown = null;
  #raster;
  #panel;

  /** `on`: step(step), zoom(from, to). */
  constructor(on) {
    const open = (_row, column) => on.step(this.#shown.data.step[column]);
    this.#raster = new Raster("distribution over time", { open, zoom: on.zoom });
    this.#panel = new Panel(this, this.#raster.node);
    this.node = this.#panel.node;
  }

  /** Draw a `histogram` frame: {title, note, data, step, zoomed}. */
  show(next) {
    const { data } = next;
    const [bins, columns] = [2 * (data.top - data.bottom) + 1, data.step.length];
    this.#shown = { ...next, bins, columns };
    this.#panel.title(next.title, next.note);
    this.#raster.name(`${next.title}: ${plural(bins, "octave")}, ${plural(columns, "step")}. Arrow keys move, Enter marks a step.`);
    this.#raster.show({
      rows: bins, columns, first: data.step, last: data.step, pixels: this.#colored(), rowHeight: HEIGHT / bins, labels: this.#labelled(),
      label: (row) => this.#label(row),
      strong: (row) => this.#binOf(row) === data.top - data.bottom,
      keyOf: (row) => boundsOf(data, bins - 1 - row)[0],
      rowOf: (from) => Array.from({ length: bins }, (_, row) => row).findIndex((row) => boundsOf(data, bins - 1 - row)[0] === from),
      describe: (row, column) => this.#describe(row, column),
      marks: next.step === null ? [] : [{ step: next.step, text: "" }],
      zoomed: next.zoomed,
    });
  }

  #binOf(row) {
    return this.#shown.bins - 1 - row;
  }

  #share(row, column) {
    return this.#shown.data.share[this.#binOf(row) * this.#shown.columns + column];
  }

  #label(row) {
    const [from, to] = boundsOf(this.#shown.data, this.#binOf(row));
    if (from < 0 && to > 0) return "near 0";
    return number(Number((from < 0 ? to : from).toPrecision(2)));
  }

  /** Rows that have a label: the middle, and octaves at the same distance to both sides of it. */
  #labelled() {
    const { data, bins } = this.#shown;
    const every = Math.max(1, Math.ceil(LABEL / (HEIGHT / bins)));
    return Array.from({ length: bins }, (_, row) => row).filter((row) => (row - (data.top - data.bottom)) % every === 0);
  }

  /** The root of a share, so that thin tails are seen; darkest is the largest share there is. */
  #colored() {
    const { data, bins, columns } = this.#shown;
    const most = data.share.reduce((a, b) => (b > a ? b : a), 1e-9);
    const colors = ramp("depth", theme());
    const pixels = new Uint32Array(bins * columns);
    for (let row = 0; row < bins; row++) {
      for (let c = 0; c < columns; c++) {
        const share = this.#share(row, c);
        pixels[row * columns + c] = Number.isNaN(share) ? SPECIAL[theme()].none : colors[Math.round(255 * Math.sqrt(share / most))];
      }
    }
    return pixels;
  }

  #words(row) {
    const [from, to] = boundsOf(this.#shown.data, this.#binOf(row)).map((v) => number(Number(v.toPrecision(3))));
    return `${from} to ${to}`;
  }

  #describe(row, column) {
    const share = this.#share(row, column);
    const value = Number.isNaN(share) ? "not recorded" : `${percent(share)} of the values`;
    return { head: this.#words(row), value, lines: [`step ${whole(this.#shown.data.step[column])}`] };
  }

  /** Draw anew, in the theme of now. */
  redraw() {
    if (this.#shown) this.show(this.#shown);
  }

  /** Width and height of the raster. */
  size() {
    return this.#raster.size();
  }

  /** Draw it at a place of any canvas. */
  paint(ctx, x, y, colors) {
    this.#raster.paint(ctx, x, y, colors);
  }

  /** All octaves, at some of the steps. */
  table() {
    const { bins, columns, data } = this.#shown;
    const chosen = spread(columns, TABLE_COLUMNS);
    const said = (share) => (Number.isNaN(share) ? "" : percent(share));
    return {
      heads: ["values", ...chosen.map((c) => `step ${whole(data.step[c])}`)],
      rows: Array.from({ length: bins }, (_, row) => [this.#words(row), ...chosen.map((c) => said(this.#share(row, c)))]),
    };
  }

  /** All octaves at all steps. */
  numbers() {
    const { data, bins, columns } = this.#shown;
    const rows = [["step", "from", "to", "share"]];
    for (let c = 0; c < columns; c++) {
      for (let bin = 0; bin < bins; bin++) rows.push([data.step[c], ...boundsOf(data, bin), exact(data.share[bin * columns + c])]);
    }
    return rows;
  }
}
