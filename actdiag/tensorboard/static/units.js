/**
 * The unit map: every unit of a layer over time, the dead first.
 */

import { THEMES, UNIT_COLORS } from "./color.js";
import { h } from "./dom.js";
import { prepare } from "./draw.js";
import { percent, plural, spread, stepsOf, whole } from "./format.js";
import { theme } from "./host.js";
import { drawSwatch } from "./legend.js";
import { Panel } from "./panel.js";
import { Raster } from "./raster.js";

/** What the numbers of a `units` frame stand for. */
export const STATES = ["unknown", "alive", "rare", "suspect", "dead", "revived"];
const UNKNOWN = 0;
const DEAD = 4;
const WORST_FIRST = [4, 3, 2, 5, 1, 0];
const MEANING = ["", "fires", "fires on less than 1 % of samples", "silent, too short to be sure", "closed for the whole window", "was dead, fires again"];
const HEIGHT = 300;
const TALL = 16;
const LEGEND = 22;
const TABLE_COLUMNS = 8;

/** A panel with the map of a layer's units. */
export class UnitMap {
  #shown = null;
  #swatches = h("canvas", { "aria-hidden": "true" });
  #raster;
  #panel;

  /** `on`: step(step), zoom(from, to). */
  constructor(on) {
    const open = (_row, column) => on.step(this.#shown.data.last[column]);
    this.#raster = new Raster("unit map", { open, zoom: on.zoom });
    this.#panel = new Panel(this, h("div", {}, h("div", { class: "swatches" }, this.#swatches), this.#raster.node));
    this.node = this.#panel.node;
    new ResizeObserver(() => this.#drawSwatches()).observe(this.#raster.node);
  }

  /** Draw a `units` frame: {title, data, step, zoomed}. */
  show(next) {
    const { data } = next;
    const columns = data.first.length;
    this.#shown = { ...next, columns };
    const dead = this.#counts()[DEAD];
    const part = data.shown < data.units ? `, the ${whole(data.shown)} worst are shown` : "";
    this.#panel.title(next.title, `${plural(data.units, "unit")}${part}; at the last step ${whole(dead)} dead (${percent(dead / Math.max(1, data.units))})`);
    this.#raster.name(`${next.title}: ${plural(data.shown, "unit")}, ${plural(columns, "column")} of steps. Arrow keys move, Enter marks a step.`);
    this.#raster.show({
      rows: data.shown, columns, first: data.first, last: data.last, pixels: this.#colored(),
      rowHeight: Math.min(TALL, HEIGHT / Math.max(1, data.shown)),
      label: (row) => `unit ${data.unit[row]}`,
      keyOf: (row) => data.unit[row],
      rowOf: (unit) => data.unit.indexOf(unit),
      describe: (row, column) => this.#describe(row, column),
      marks: next.step === null ? [] : [{ step: next.step, text: "" }],
      zoomed: next.zoomed,
    });
    this.#drawSwatches();
  }

  /** How many units are in each state at the last step. */
  #counts() {
    const { data, columns } = this.#shown;
    const found = new Array(STATES.length).fill(0);
    for (let row = 0; row < data.shown; row++) found[data.states[row * columns + columns - 1]]++;
    return found;
  }

  #paintSwatches(ctx, x, y, colors) {
    const found = this.#counts();
    let at = x;
    for (const state of WORST_FIRST) {
      if (!found[state] && state === UNKNOWN) continue;
      const text = `${STATES[state]} ${whole(found[state])}`;
      drawSwatch(ctx, at, y + 3, UNIT_COLORS[theme()][state], text, colors);
      at += 34 + 6.2 * text.length;
    }
  }

  #drawSwatches() {
    const width = this.#raster.node.clientWidth;
    if (this.#shown && width) this.#paintSwatches(prepare(this.#swatches, width, LEGEND), 0, 0, THEMES[theme()]);
  }

  #colored() {
    const colors = UNIT_COLORS[theme()];
    return Uint32Array.from(this.#shown.data.states, (state) => colors[state]);
  }

  #describe(row, column) {
    const { data, columns } = this.#shown;
    const state = data.states[row * columns + column];
    const died = data.died[row];
    const dead = died >= 0 ? `first seen dead at step ${whole(died)}` : "";
    const lines = [MEANING[state], stepsOf(data.first[column], data.last[column]), dead].filter(Boolean);
    return { head: `unit ${data.unit[row]}`, value: STATES[state], lines };
  }

  /** Draw anew, in the theme of now. */
  redraw() {
    if (this.#shown) this.show(this.#shown);
  }

  /** Width and height of swatches and raster. */
  size() {
    const { width, height } = this.#raster.size();
    return { width, height: height + LEGEND };
  }

  /** Draw swatches and raster at a place of any canvas. */
  paint(ctx, x, y, colors) {
    this.#paintSwatches(ctx, x, y, colors);
    this.#raster.paint(ctx, x, y + LEGEND, colors);
  }

  /** The units that are shown, at some of the steps. */
  table() {
    const { data, columns } = this.#shown;
    const chosen = spread(columns, TABLE_COLUMNS);
    const died = (row) => (data.died[row] < 0 ? "never" : whole(data.died[row]));
    return {
      heads: ["unit", "first dead at step", ...chosen.map((c) => `step ${whole(data.last[c])}`)],
      rows: Array.from({ length: data.shown }, (_, row) => [String(data.unit[row]), died(row), ...chosen.map((c) => STATES[data.states[row * columns + c]])]),
    };
  }

  /** The units that are shown, in all columns. */
  numbers() {
    const { data, columns } = this.#shown;
    const rows = [["unit", "first_dead_step", "first_step", "last_step", "state"]];
    for (let row = 0; row < data.shown; row++) {
      const died = data.died[row] < 0 ? "" : data.died[row];
      for (let c = 0; c < columns; c++) rows.push([data.unit[row], died, data.first[c], data.last[c], STATES[data.states[row * columns + c]]]);
    }
    return rows;
  }
}
