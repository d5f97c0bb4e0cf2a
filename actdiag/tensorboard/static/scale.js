/**
 * From values of a metric to places on its scale (0 to 1), and to colors.
 */

import { SPECIAL, ramp } from "./color.js";
import { number } from "./format.js";

const LAST = 255;
const MOST_DECADES = 14;
/** What is in the middle where a scale has a middle: the size that is kept from layer to layer, a healthy step. */
const CENTERS = { rms: 1, std: 1, update_ratio: 1e-3 };

/**
 * A scale that holds all finite values of the arrays.
 *
 * `position(value)` may lie outside of 0 to 1; `ticks` are {at, text}; `healthy` is [from, to] on the scale, or null.
 */
export function scaleOf(metric, arrays) {
  const [from, to] = extent(arrays, metric.scale === "log");
  const make = { share: shareScale, log: logScale, signed: signedScale, linear: linearScale }[metric.scale] ?? linearScale;
  const scale = make(metric, from, to);
  return { ...scale, healthy: healthyOn(scale, metric.healthy), metric };
}

/** Least and largest finite value; of a logarithmic scale, finite and above 0. NaN where there is none. */
function extent(arrays, positive) {
  let from = Infinity;
  let to = -Infinity;
  for (const values of arrays) {
    for (const value of values) {
      if (!Number.isFinite(value) || (positive && value <= 0)) continue;
      if (value < from) from = value;
      if (value > to) to = value;
    }
  }
  return from <= to ? [from, to] : [NaN, NaN];
}

function shareScale(metric) {
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((at) => ({ at, text: `${at * 100} %` }));
  return { kind: "alarm", flipped: metric.worse === "low", position: (value) => value, value: (at) => at, ticks };
}

function logScale(metric, from, to) {
  const center = CENTERS[metric.name];
  let bottom = Number.isNaN(from) ? -1 : Math.floor(Math.log10(from) + 1e-9);
  let top = Number.isNaN(to) ? 1 : Math.ceil(Math.log10(to) - 1e-9);
  if (center !== undefined) {
    const middle = Math.log10(center);
    const reach = Math.min(Math.max(Math.abs(bottom - middle), Math.abs(top - middle), 1), MOST_DECADES / 2);
    [bottom, top] = [middle - reach, middle + reach];
  } else if (top <= bottom) top = bottom + 1;
  bottom = Math.max(bottom, top - MOST_DECADES);
  const position = (value) => (value <= 0 ? -Infinity : (Math.log10(value) - bottom) / (top - bottom));
  const value = (at) => 10 ** (bottom + at * (top - bottom));
  return { kind: center === undefined ? "depth" : "center", flipped: false, position, value, ticks: decades(bottom, top) };
}

function decades(bottom, top) {
  const every = Math.ceil((top - bottom) / 6);
  const ticks = [];
  for (let power = Math.ceil(bottom); power <= top; power++) {
    if ((power - Math.ceil(bottom)) % every === 0) ticks.push({ at: (power - bottom) / (top - bottom), text: `1e${power}` });
  }
  return ticks.map(({ at, text }) => ({ at, text: { "1e0": "1", "1e1": "10", "1e2": "100", "1e-1": "0.1" }[text] ?? text }));
}

/** Both sides of 0 with the same reach, close to linear in the inner tenth: a layer that grew does not hide the others. */
function signedScale(_metric, from, to) {
  const reach = Math.max(Math.abs(from), Math.abs(to)) || 1;
  const bend = reach / 10;
  const most = Math.asinh(reach / bend);
  const position = (value) => 0.5 + Math.asinh(value / bend) / most / 2;
  const value = (at) => bend * Math.sinh((at - 0.5) * 2 * most);
  const ticks = [-reach, -reach / 10, 0, reach / 10, reach].map((v) => ({ at: position(v), text: number(Number(v.toPrecision(2))) }));
  return { kind: "center", flipped: false, position, value, ticks };
}

function linearScale(metric, from, to) {
  const bottom = Math.min(from, 0) || 0;
  const top = to > bottom ? to : bottom + 1;
  const position = (value) => (value - bottom) / (top - bottom);
  const value = (at) => bottom + at * (top - bottom);
  const ticks = nice(bottom, top, 5).map((v) => ({ at: position(v), text: number(v) }));
  return { kind: metric.worse === "high" ? "alarm" : "depth", flipped: false, position, value, ticks };
}

/** Round values in a range, about `n` of them. */
export function nice(bottom, top, n) {
  const rough = (top - bottom) / n;
  if (!(rough > 0)) return [bottom];
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(bottom / step - 1e-9); i * step <= top * (1 + 1e-12) + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

function healthyOn(scale, range) {
  if (!range) return null;
  const [low, high] = range;
  const clamp = (x) => Math.min(Math.max(x, 0), 1);
  return [low === null ? 0 : clamp(scale.position(low)), high === null ? 1 : clamp(scale.position(high))];
}

/** In words: "healthy: at most 45 %". */
export function healthyWords(metric) {
  if (!metric.healthy) return "";
  const say = metric.scale === "share" ? (share) => `${Number((share * 100).toFixed(1))} %` : number;
  const [low, high] = metric.healthy;
  if (low === null) return `healthy: at most ${say(high)}`;
  return high === null ? `healthy: at least ${say(low)}` : `healthy: ${say(low)} to ${say(high)}`;
}

/** A function from a value to its pixel. */
export function painter(scale, theme) {
  const colors = ramp(scale.kind, theme);
  const { none, infinite } = SPECIAL[theme];
  return (value) => {
    if (Number.isNaN(value)) return none;
    if (!Number.isFinite(value)) return infinite;
    const at = Math.min(Math.max(scale.position(value), 0), 1);
    return colors[Math.round((scale.flipped ? 1 - at : at) * LAST)];
  };
}

/** Which of a column's least and most is the one to be seen: the worse, and of both the one further from the middle. */
export function worst(scale, low, high) {
  const { worse } = scale.metric;
  if (worse === "low") return low;
  if (worse === "high" || low === high) return high;
  return Math.abs(scale.position(low) - 0.5) > Math.abs(scale.position(high) - 0.5) ? low : high;
}
