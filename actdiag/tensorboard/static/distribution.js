/**
 * The distribution of a layer's values, or of their gradient, over time: octaves of both signs, small ones in the middle.
 */

import { ramp } from "./color.js";
import { SPECIAL } from "./color.js";
import { exact, number, percent, whole } from "./format.js";
import { theme } from "./host.js";
import { spread } from "./heat.js";
import { panel } from "./panel.js";
import { raster } from "./raster.js";

const HEIGHT = 216;
const TABLE_COLUMNS = 8;

/** A panel of a `histogram` frame: `show({title, note, data, step})`. `on`: step(step), zoom(from, to). */
export function distribution(on = {}) {
  let shown = null;
  const picture = raster("distribution over time", { open: (_row, column) => on.step?.(shown.data.step[column]), zoom: on.zoom });
  const own = panel({ size: picture.size, paint: picture.paint, table, numbers }, picture.node);

  const binOf = (row) => shown.bins - 1 - row;

  /** [from, to] of the values that a bin holds. */
  function bounds(bin) {
    const { bottom, top } = shown.data;
    const side = top - bottom;
    const k = bin - side;
    if (k === 0) return [-(2 ** bottom), 2 ** bottom];
    return k > 0 ? [2 ** (bottom + k - 1), 2 ** (bottom + k)] : [-(2 ** (bottom - k)), -(2 ** (bottom - k - 1))];
  }

  function label(row) {
    const [from, to] = bounds(binOf(row));
    if (from < 0 && to > 0) return "near 0";
    return number(Number((from < 0 ? to : from).toPrecision(2)));
  }

  function show(next) {
    const { data } = next;
    const bins = 2 * (data.top - data.bottom) + 1;
    const columns = data.step.length;
    shown = { ...next, bins, columns };
    own.title(next.title, next.note);
    picture.name(`${next.title}: ${bins} octaves, ${columns} steps. Arrow keys move.`);
    picture.show({
      rows: bins, columns, first: data.step, last: data.step, pixels: colored(), rowHeight: HEIGHT / bins, label, labels: labelled(),
      strong: (row) => label(row) === "near 0", describe, marks: next.step === null ? [] : [{ step: next.step, text: "" }], zoomed: next.zoomed,
    });
  }

  /** The root of a share, so that thin tails are seen; darkest is the largest share there is. */
  function colored() {
    const { data, bins, columns } = shown;
    const most = data.share.reduce((a, b) => (b > a ? b : a), 1e-9);
    const colors = ramp("depth", theme());
    const pixels = new Uint32Array(bins * columns);
    for (let row = 0; row < bins; row++) {
      for (let c = 0; c < columns; c++) {
        const share = data.share[binOf(row) * columns + c];
        pixels[row * columns + c] = Number.isNaN(share) ? SPECIAL[theme()].none : colors[Math.round(255 * Math.sqrt(share / most))];
      }
    }
    return pixels;
  }

  /** Rows that have a label: the middle, and octaves at the same distance to both sides of it. */
  function labelled() {
    const side = shown.data.top - shown.data.bottom;
    const every = Math.max(1, Math.ceil(14 / (HEIGHT / shown.bins)));
    return Array.from({ length: shown.bins }, (_, row) => row).filter((row) => (row - side) % every === 0);
  }

  function words(bin) {
    const [from, to] = bounds(bin).map((v) => number(Number(v.toPrecision(3))));
    return `${from} to ${to}`;
  }

  function describe(row, column) {
    const share = shown.data.share[binOf(row) * shown.columns + column];
    return { head: words(binOf(row)), value: Number.isNaN(share) ? "not recorded" : `${percent(share)} of the values`, lines: [`step ${whole(shown.data.step[column])}`] };
  }

  function table() {
    const chosen = spread(shown.columns, TABLE_COLUMNS);
    const cells = (row) => chosen.map((c) => shown.data.share[binOf(row) * shown.columns + c]).map((v) => (Number.isNaN(v) ? "" : percent(v)));
    return {
      heads: ["values", ...chosen.map((c) => `step ${whole(shown.data.step[c])}`)],
      rows: Array.from({ length: shown.bins }, (_, row) => [words(binOf(row)), ...cells(row)]),
    };
  }

  function numbers() {
    const rows = [["step", "from", "to", "share"]];
    for (let c = 0; c < shown.columns; c++) {
      for (let bin = 0; bin < shown.bins; bin++) rows.push([shown.data.step[c], ...bounds(bin), exact(shown.data.share[bin * shown.columns + c])]);
    }
    return rows;
  }

  return { ...own, show, redraw: () => shown && show(shown) };
}
