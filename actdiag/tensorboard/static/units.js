/**
 * The unit map: every unit of a layer over time, the dead first.
 */

import { THEMES, UNIT_COLORS } from "./color.js";
import { h } from "./dom.js";
import { prepare } from "./draw.js";
import { percent, plural, stepsOf, whole } from "./format.js";
import { theme } from "./host.js";
import { spread } from "./heat.js";
import { drawSwatch } from "./legend.js";
import { panel } from "./panel.js";
import { raster } from "./raster.js";

export const STATES = ["unknown", "alive", "rare", "suspect", "dead", "revived"];
const WORST_FIRST = [4, 3, 2, 5, 1, 0];
const MEANING = ["", "fires", "fires on less than 1 % of samples", "silent, too short to be sure", "closed for the whole window", "was dead, fires again"];
const HEIGHT = 300;
const TALL = 16;
const LEGEND = 22;
const TABLE_COLUMNS = 8;

/** A panel of a `units` frame: `show({title, data, step})`. `on`: step(step), zoom(from, to). */
export function unitMap(on = {}) {
  let shown = null;
  const picture = raster("unit map", { open: (_row, column) => on.step?.(shown.data.last[column]), zoom: on.zoom });
  const swatches = h("canvas", { "aria-hidden": "true" });
  const own = panel(
    {
      size: () => ({ width: picture.size().width, height: picture.size().height + LEGEND }),
      paint: (ctx, x, y, colors) => {
        drawStates(ctx, x, y, colors);
        picture.paint(ctx, x, y + LEGEND, colors);
      },
      table,
      numbers,
    },
    h("div", {}, swatches, picture.node),
  );

  function counts() {
    const { data, columns } = shown;
    const found = new Array(STATES.length).fill(0);
    for (let row = 0; row < data.shown; row++) found[data.states[row * columns + columns - 1]]++;
    return found;
  }

  function drawStates(ctx, x, y, colors) {
    const found = counts();
    let at = x;
    for (const state of WORST_FIRST) {
      if (!found[state] && state === 0) continue;
      const text = `${STATES[state]} ${whole(found[state])}`;
      drawSwatch(ctx, at, y + 3, UNIT_COLORS[theme()][state], text, colors);
      at += 34 + 6.2 * text.length;
    }
  }

  function show(next) {
    const { data } = next;
    const columns = data.first.length;
    shown = { ...next, columns };
    const found = counts();
    const part = data.shown < data.units ? `, the ${whole(data.shown)} worst are shown` : "";
    own.title(next.title, `${plural(data.units, "unit")}${part}; at the last step ${found[4]} dead (${percent(found[4] / Math.max(1, data.units))})`);
    picture.name(`${next.title}: ${data.shown} units, ${columns} columns of steps. Arrow keys move.`);
    picture.show({
      rows: data.shown, columns, first: data.first, last: data.last, pixels: colored(), rowHeight: Math.min(TALL, HEIGHT / Math.max(1, data.shown)),
      label: (row) => `unit ${data.unit[row]}`, describe, marks: next.step === null ? [] : [{ step: next.step, text: "" }], zoomed: next.zoomed,
    });
    redrawStates();
  }

  function redrawStates() {
    const width = picture.node.clientWidth;
    if (shown && width) drawStates(prepare(swatches, width, LEGEND), 0, 0, THEMES[theme()]);
  }

  function colored() {
    const colors = UNIT_COLORS[theme()];
    return Uint32Array.from(shown.data.states, (state) => colors[state]);
  }

  function describe(row, column) {
    const { data, columns } = shown;
    const state = data.states[row * columns + column];
    const died = data.died[row];
    const lines = [MEANING[state], stepsOf(data.first[column], data.last[column]), died >= 0 ? `first seen dead at step ${whole(died)}` : ""];
    return { head: `unit ${data.unit[row]}`, value: STATES[state], lines: lines.filter(Boolean) };
  }

  function table() {
    const { data, columns } = shown;
    const chosen = spread(columns, TABLE_COLUMNS);
    return {
      heads: ["unit", "first dead at step", ...chosen.map((c) => `step ${whole(data.last[c])}`)],
      rows: Array.from({ length: data.shown }, (_, row) => [
        String(data.unit[row]), data.died[row] < 0 ? "never" : whole(data.died[row]), ...chosen.map((c) => STATES[data.states[row * columns + c]]),
      ]),
    };
  }

  function numbers() {
    const { data, columns } = shown;
    const rows = [["unit", "first_dead_step", "first_step", "last_step", "state"]];
    for (let row = 0; row < data.shown; row++) {
      const died = data.died[row] < 0 ? "" : data.died[row];
      for (let c = 0; c < columns; c++) rows.push([data.unit[row], died, data.first[c], data.last[c], STATES[data.states[row * columns + c]]]);
    }
    return rows;
  }

  new ResizeObserver(redrawStates).observe(picture.node);
  return { ...own, show, redraw: () => shown && show(shown) };
}
