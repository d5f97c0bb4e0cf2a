/**
 * Curves over the recorded steps, with the healthy band behind them. A column's least and most are both drawn.
 */

import { THEMES } from "./color.js";
import { h } from "./dom.js";
import { AXIS, columnOf, prepare } from "./draw.js";
import { exact, rangeOf, spread, stepsOf, valueOf, whole } from "./format.js";
import { theme } from "./host.js";
import { paintLineCursor, paintLines } from "./linespaint.js";
import { Panel } from "./panel.js";
import { healthyWords, scaleOf } from "./scale.js";
import { hideTip, showTip, showsTip, speak } from "./tip.js";

const LEFT = 62;
const RIGHT = 6;
const HEIGHT = 150;
const TOP = 6;
const NAMES = 16;
const TABLE_ROWS = 20;
const FAR = 10;
const KEYS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -FAR, PageDown: FAR, Home: -Infinity, End: Infinity };

/** A panel of curves. */
export class Lines {
  #on;
  #base = h("canvas", {});
  #overlay = h("canvas", { class: "overlay" });
  #plot = h("div", { class: "lines", tabindex: 0, role: "application", "aria-roledescription": "line chart" }, this.#base, this.#overlay);
  #panel = new Panel(this, this.#plot);
  #shown = null;
  #at = null;

  /** `on`: step(step), if a step can be chosen. */
  constructor(on = {}) {
    this.#on = on;
    this.node = this.#panel.node;
    this.#plot.style.height = `${HEIGHT + AXIS}px`;
    this.#listen();
    new ResizeObserver(() => this.redraw()).observe(this.#plot);
  }

  /**
   * Draw {title, note, metric, series: [{name, first, last, low, high, color, shade: bool}], step}. Each series has its own
   * columns, so that runs recorded at other steps stand beside each other.
   */
  show(next) {
    const scale = scaleOf(next.metric, next.series.flatMap(({ low, high }) => [low, high]));
    const axis = axisOf(next.series);
    const held = next.step === null ? -1 : columnOf(axis.first, axis.last, next.step);
    const moved = this.#shown && axis.first.length !== this.#shown.axis.first.length;
    this.#shown = { ...next, scale, axis, held: held < axis.first.length ? held : -1 };
    if (moved) this.#leave();
    const names = next.series.map(({ name }) => name).join(", ");
    this.#plot.setAttribute("aria-label", `${next.title}: ${names}. Arrow keys move along the steps${this.#on.step ? ", Enter marks one" : ""}.`);
    this.#panel.title(next.title, next.note ?? healthyWords(next.metric));
    this.redraw();
  }

  /** Draw anew, in the size and the theme of now. */
  redraw() {
    const { width, height } = this.size();
    if (!this.#shown || !width) return;
    this.paint(prepare(this.#base, width, height), 0, 0, THEMES[theme()]);
    this.#drawCursor();
  }

  /** Width and height as drawn. */
  size() {
    return { width: this.#plot.clientWidth, height: HEIGHT + AXIS };
  }

  /** Draw everything but the cursor at a place of any canvas. */
  paint(ctx, x, y, colors) {
    const box = this.#box;
    paintLines(ctx, { ...box, left: box.left + x, top: box.top + y }, this.#shown, colors);
  }

  get #box() {
    const top = this.#shown.series.length > 1 ? TOP + NAMES : TOP;
    return { left: LEFT, top, width: Math.max(20, this.#plot.clientWidth - LEFT - RIGHT), height: HEIGHT - top - 2 };
  }

  #drawCursor() {
    const { width, height } = this.size();
    const ctx = prepare(this.#overlay, width, height);
    const columns = this.#shown.axis.first.length;
    ctx.strokeStyle = THEMES[theme()].cursor;
    if (this.#shown.held >= 0) paintLineCursor(ctx, this.#box, this.#shown.held, columns, false);
    if (this.#at !== null) paintLineCursor(ctx, this.#box, this.#at, columns, true);
  }

  #listen() {
    const on = (type, listener) => this.#plot.addEventListener(type, (event) => this.#shown && listener(event));
    on("pointermove", (event) => this.#hover(event));
    on("pointerleave", () => this.#leave());
    on("blur", () => this.#leave());
    on("click", () => this.#choose());
    on("keydown", (event) => this.#type(event));
  }

  #hover({ clientX, clientY }) {
    const { left, width } = this.#box;
    const columns = this.#shown.axis.first.length;
    const column = Math.floor(((clientX - this.#plot.getBoundingClientRect().left - left) / width) * columns);
    this.#at = column >= 0 && column < columns ? column : null;
    if (this.#at === null) hideTip(this);
    else showTip(this, this.#describe(this.#at), clientX, clientY);
    this.#drawCursor();
  }

  #leave() {
    this.#at = null;
    hideTip(this);
    this.#drawCursor();
  }

  #choose() {
    if (this.#at !== null) this.#on.step?.(this.#shown.axis.last[this.#at]);
  }

  #type(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in KEYS) this.#move(KEYS[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.#choose();
    else if (event.key === "Escape" && showsTip(this)) this.#leave();
    else return;
    event.preventDefault();
  }

  #move(by) {
    const columns = this.#shown.axis.first.length;
    const from = this.#at ?? (this.#shown.held >= 0 ? this.#shown.held : columns - 1);
    this.#at = Math.min(Math.max(from + by, 0), columns - 1);
    this.#drawCursor();
    const { left, width } = this.#box;
    const box = this.#plot.getBoundingClientRect();
    const told = this.#describe(this.#at);
    showTip(this, told, box.left + left + ((this.#at + 0.5) / columns) * width, box.top + 40);
    speak(told);
  }

  /** What each series says at a column of the axis. */
  #describe(column) {
    const { axis, series, metric, title } = this.#shown;
    const steps = stepsOf(axis.first[column], axis.last[column]);
    const known = series.map((one) => [one, nearest(one, axis.last[column])]).filter(([, i]) => i >= 0);
    const said = known.map(([one, i]) => [one.name, rangeOf(metric, one.low[i], one.high[i])]);
    const healthy = healthyWords(metric);
    if (said.length === 1) return { head: title, value: said[0][1], lines: [steps, healthy].filter(Boolean) };
    return { head: title, value: steps, lines: [...said.map(([name, value]) => `${name}: ${value}`), healthy].filter(Boolean) };
  }

  /** All series, at some of the steps. */
  table() {
    const { axis, series, metric } = this.#shown;
    const said = (one, step) => {
      const i = nearest(one, step);
      return i < 0 ? "" : valueOf(metric, one.high[i]);
    };
    return {
      heads: ["step", ...series.map(({ name }) => name)],
      rows: spread(axis.first.length, TABLE_ROWS).map((c) => [whole(axis.last[c]), ...series.map((one) => said(one, axis.last[c]))]),
    };
  }

  /** All series in all of their columns. */
  numbers() {
    const rows = [["series", "first_step", "last_step", "low", "high"]];
    for (const { name, first, last, low, high } of this.#shown.series) {
      for (let i = 0; i < first.length; i++) rows.push([name, first[i], last[i], exact(low[i]), exact(high[i])]);
    }
    return rows;
  }
}

/** The columns that series are drawn over: their own where they share them, else one for each step at which one of them ends. */
export function axisOf(series) {
  const [one, ...others] = series;
  const same = others.every(({ last }) => last.length === one.last.length && last.every((step, i) => step === one.last[i]));
  if (same) return { first: one.first, last: one.last };
  const steps = [...new Set(series.flatMap(({ last }) => [...last]))].sort((a, b) => a - b);
  return { first: steps, last: steps };
}

/** The column of a series that holds a step, or the last one before it; -1 before its first and after its last. */
function nearest({ first, last }, step) {
  const at = columnOf(first, last, step);
  if (at >= first.length) return -1;
  return first[at] <= step ? at : at - 1;
}
