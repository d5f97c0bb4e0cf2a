/**
 * The frame of a chart: title, what is said of it, and the same as a table, a picture or numbers.
 */

import { THEMES } from "./color.js";
import { h, refill } from "./dom.js";
import { svgContext } from "./draw.js";
import { theme } from "./host.js";
import { csvOf, save, savePng, saveSvg } from "./save.js";

const PAD = 16;
const HEAD = 34;
const DENSE = 2;

/** A panel around the node of a chart. */
export class Panel {
  #chart;
  #inner;
  #heading = h("h3", {});
  #note = h("p", { class: "note" });
  #problem = h("p", { class: "problem", role: "status", hidden: true });
  #table = h("div", { class: "table", hidden: true, tabindex: 0 });
  #toggle = h("button", { class: "quiet", "aria-pressed": "false", onclick: () => this.#turn(this.#table.hidden) }, "Table");

  /** `chart` has size() -> {width, height}, paint(ctx, x, y, colors), table() -> {heads, rows} and numbers() -> rows of a CSV. */
  constructor(chart, inner) {
    this.#chart = chart;
    this.#inner = inner;
    /** A place for controls below the title. */
    this.controls = h("div", { class: "controls" });
    const header = h("header", {}, h("div", { class: "heading" }, this.#heading, this.#note), this.controls, this.#tools());
    this.node = h("section", { class: "panel" }, header, this.#problem, inner, this.#table);
  }

  #tools() {
    const button = (text, onclick) => h("button", { class: "quiet", onclick }, text);
    return h(
      "div",
      { class: "tools", role: "group", "aria-label": "This chart as" },
      this.#toggle,
      button("CSV", () => save(`${this.#name}.csv`, csvOf(this.#chart.numbers()), "text/csv")),
      button("PNG", () => savePng(this.#name, this.#pictured())),
      button("SVG", () => saveSvg(this.#name, this.#drawn())),
    );
  }

  get #name() {
    return this.#heading.textContent;
  }

  /** The title, and a note below it. */
  title(text, note = "") {
    this.#heading.textContent = text;
    this.#note.textContent = note;
    if (!this.#table.hidden) this.#fill();
  }

  /** Whether something is being asked for. */
  busy(is) {
    this.node.setAttribute("aria-busy", String(is));
  }

  /** Say why there is nothing new; "" takes it back. */
  fail(text) {
    this.#problem.hidden = !text;
    this.#problem.textContent = text;
    this.#inner.classList.toggle("stale", Boolean(text));
  }

  #turn(asTable) {
    this.#toggle.setAttribute("aria-pressed", String(asTable));
    this.#table.hidden = !asTable;
    this.#inner.hidden = asTable;
    if (asTable) this.#fill();
  }

  #fill() {
    const { heads, rows } = this.#chart.table();
    const head = h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)));
    const body = rows.map(([first, ...cells]) => h("tr", {}, h("th", { scope: "row" }, first), cells.map((text) => h("td", {}, text))));
    this.#table.setAttribute("aria-label", `${this.#name}, as a table`);
    refill(this.#table, h("table", {}, h("caption", {}, this.#name), h("thead", {}, head), h("tbody", {}, body)));
  }

  get #size() {
    const { width, height } = this.#chart.size();
    return { width: width + 2 * PAD, height: height + 2 * PAD + HEAD };
  }

  #compose(ctx, { width }, colors) {
    ctx.fillStyle = colors.ink;
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    ctx.font = "600 14px Roboto, system-ui, sans-serif";
    ctx.fillText(this.#name, PAD, PAD + 8);
    ctx.font = "11px Roboto, system-ui, sans-serif";
    ctx.fillStyle = colors.quiet;
    ctx.fillText(this.#note.textContent.slice(0, Math.floor(width / 5.5)), PAD, PAD + 24);
    this.#chart.paint(ctx, PAD, PAD + HEAD, colors);
  }

  #pictured() {
    const { width, height } = this.#size;
    const canvas = h("canvas", { width: DENSE * width, height: DENSE * height });
    const ctx = canvas.getContext("2d");
    ctx.scale(DENSE, DENSE);
    ctx.fillStyle = THEMES[theme()].page;
    ctx.fillRect(0, 0, width, height);
    this.#compose(ctx, { width }, THEMES[theme()]);
    return canvas;
  }

  #drawn() {
    const { width, height } = this.#size;
    const ctx = svgContext(width, height, THEMES[theme()].page);
    this.#compose(ctx, { width }, THEMES[theme()]);
    return ctx.node;
  }
}
