/**
 * What one run has more than another, cell by cell.
 */

import { columnOf } from "./draw.js";
import { worst } from "./scale.js";

/**
 * What b has more than a, a frame like theirs: rows that both have, columns of the one that was recorded at fewer steps; the
 * other is taken as it was last by that step. Differences are of the worse of a column's least and most; of a logarithmic
 * metric, log2 of the ratio.
 */
export function difference(a, b, metric, scale) {
  const base = baseOf(a, b);
  const rows = a.rows.filter((name) => b.rows.includes(name));
  const values = [a, b].map((one) => valuesAt(one, rows, Array.from(base.last, (step) => placeOf(one, step)), scale));
  const out = values[0].map((from, i) => (metric.scale === "log" ? Math.log2(values[1][i] / from) : values[1][i] - from));
  return { rows, first: base.first, last: base.last, low: out, high: out, exact: a.exact && b.exact, count: base.count };
}

/** The one with fewer columns in the steps that both have: each column of it has a counterpart in the other. */
export function baseOf(a, b) {
  const [from, to] = [Math.max(a.first[0], b.first[0]), Math.min(a.last.at(-1), b.last.at(-1))];
  const within = ({ last }) => last.filter((step) => step >= from && step <= to).length;
  return within(b) < within(a) ? b : a;
}

/** The worse value of each named row in each of the given columns; NaN in column -1. */
function valuesAt(one, names, places, scale) {
  const out = new Float32Array(names.length * places.length);
  names.forEach((name, r) => {
    const row = one.rows.indexOf(name) * one.first.length;
    places.forEach((place, c) => {
      out[r * places.length + c] = place < 0 ? NaN : worst(scale, one.low[row + place], one.high[row + place]);
    });
  });
  return out;
}

/** The column of a run that a step falls into, or the last before it; -1 where the run had not begun, or was over. */
function placeOf({ first, last }, step) {
  const at = columnOf(first, last, step);
  if (at >= first.length) return -1;
  return first[at] <= step ? at : at - 1;
}

/** Whether a frame has a row of a name with a number in it. */
export function hasNumbers({ rows, first, high }, name) {
  const [r, n] = [rows.indexOf(name), first.length];
  return r >= 0 && high.subarray(r * n, (r + 1) * n).some((value) => !Number.isNaN(value));
}
