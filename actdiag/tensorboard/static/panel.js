/**
 * The frame of a chart: title, what is said of it, and the same as a table, a picture or numbers.
 */

import { h, refill } from "./dom.js";
import { csvOf, save, savePng, saveSvg } from "./save.js";
import { svgContext } from "./draw.js";
import { THEMES } from "./color.js";
import { theme } from "./host.js";

const PAD = 16;
const HEAD = 34;

/**
 * A panel around the node of a chart. `chart` has `size() -> {width, height}`, `paint(ctx, x, y, colors)`, `table() ->
 * {heads, rows}` for people and `numbers() -> rows` for a CSV. Returns `{node, title(text, note), controls, busy(bool), fail(text)}`.
 */
export function panel(chart, node) {
  const heading = h("h3", {});
  const note = h("p", { class: "note" });
  const controls = h("div", { class: "controls" });
  const problem = h("p", { class: "problem", role: "status", hidden: true });
  const table = h("div", { class: "table", hidden: true, tabindex: 0 });
  const toggle = h("button", { class: "quiet", "aria-pressed": "false", onclick: () => show(table.hidden) }, "Table");
  const name = () => heading.textContent;
  const tools = h(
    "div",
    { class: "tools", role: "group", "aria-label": "This chart as" },
    toggle,
    h("button", { class: "quiet", onclick: () => save(`${name()}.csv`, csvOf(chart.numbers()), "text/csv") }, "CSV"),
    h("button", { class: "quiet", onclick: () => savePng(name(), pictured()) }, "PNG"),
    h("button", { class: "quiet", onclick: () => saveSvg(name(), drawn()) }, "SVG"),
  );

  function show(asTable) {
    toggle.setAttribute("aria-pressed", String(asTable));
    table.hidden = !asTable;
    node.hidden = asTable;
    if (asTable) fill();
  }

  function fill() {
    const { heads, rows } = chart.table();
    table.setAttribute("aria-label", `${name()}, as a table`);
    refill(
      table,
      h(
        "table",
        {},
        h("caption", {}, name()),
        h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, rows.map(([first, ...cells]) => h("tr", {}, h("th", { scope: "row" }, first), cells.map((text) => h("td", {}, text))))),
      ),
    );
  }

  function compose(ctx, { width }, colors) {
    ctx.fillStyle = colors.ink;
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    ctx.font = "600 14px Roboto, system-ui, sans-serif";
    ctx.fillText(name(), PAD, PAD + 8);
    ctx.font = "11px Roboto, system-ui, sans-serif";
    ctx.fillStyle = colors.quiet;
    ctx.fillText(note.textContent.slice(0, Math.floor(width / 5.5)), PAD, PAD + 24);
    chart.paint(ctx, PAD, PAD + HEAD, colors);
  }

  const whole = () => {
    const { width, height } = chart.size();
    return { width: width + 2 * PAD, height: height + 2 * PAD + HEAD };
  };

  function pictured() {
    const { width, height } = whole();
    const canvas = h("canvas", { width: 2 * width, height: 2 * height });
    const ctx = canvas.getContext("2d");
    ctx.scale(2, 2);
    ctx.fillStyle = THEMES[theme()].page;
    ctx.fillRect(0, 0, width, height);
    compose(ctx, { width }, THEMES[theme()]);
    return canvas;
  }

  function drawn() {
    const { width, height } = whole();
    const ctx = svgContext(width, height, THEMES[theme()].page);
    compose(ctx, { width }, THEMES[theme()]);
    return ctx.node;
  }

  const figure = h("section", { class: "panel" }, h("header", {}, h("div", { class: "heading" }, heading, note), controls, tools), problem, node, table);
  return {
    node: figure,
    controls,
    title: (text, said = "") => {
      heading.textContent = text;
      note.textContent = said;
      if (!table.hidden) fill();
    },
    busy: (is) => figure.setAttribute("aria-busy", String(is)),
    fail: (text) => {
      problem.hidden = !text;
      problem.textContent = text;
      node.classList.toggle("stale", Boolean(text));
    },
  };
}
