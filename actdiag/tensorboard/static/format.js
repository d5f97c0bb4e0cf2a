/**
 * Numbers and names as people read them.
 */

const GROUPED = new Intl.NumberFormat("en-US");

/** A step, or a count: 12,345. */
export const whole = (n) => GROUPED.format(n);

/** "1 step", "1,000 steps". */
export const plural = (n, what) => `${whole(n)} ${what}${n === 1 ? "" : "s"}`;

/** Three significant digits; what does not apply is said, never 0. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "not applicable";
  if (!Number.isFinite(value)) return value > 0 ? "infinite" : "minus infinite";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return whole(value).replace(/^-/, "−");
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? scientific(value) : String(Number(value.toPrecision(3)));
  return text.replace(/^-/, "−");
}

/** A share as a percentage: 0 and 100 only if it is exactly that. */
export function percent(value) {
  if (typeof value !== "number" || !(value >= 0 && value <= 1)) return number(value);
  if (value === 0 || value === 1) return `${value * 100} %`;
  return `${Math.min(Math.max(value * 100, 0.1), 99.9).toFixed(1)} %`;
}

/** A power of ten with its digits: 3.2 × 10⁻⁵ would be nicer in print, 3.2e-5 can be read back. */
function scientific(value) {
  return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
}

/** A value of a metric in the metric's own unit. */
export const valueOf = (metric, value) => (metric.scale === "share" ? percent(value) : number(value));

/** Least and most in a column; one value where they are the same. */
export function rangeOf(metric, low, high) {
  const same = low === high || (Number.isNaN(low) && Number.isNaN(high));
  return same ? valueOf(metric, high) : `${valueOf(metric, low)} to ${valueOf(metric, high)}`;
}

/** "step 12", or "steps 12 to 19". */
export const stepsOf = (first, last) => (first === last ? `step ${whole(first)}` : `steps ${whole(first)} to ${whole(last)}`);

/** The number that float32 holds, with as few digits as tell it apart: what a CSV needs. */
export function exact(value) {
  if (Number.isNaN(value)) return "";
  for (let digits = 1; digits <= 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === Math.fround(value)) return String(Number(text));
  }
  return String(value);
}

/** The end of a text that is too long: names of nested modules begin alike. */
export const ending = (text, most) => (text.length <= most ? text : `…${text.slice(text.length - Math.max(1, most - 1))}`);

/** A rule's slug as words. */
export const titleOf = (slug) => slug.replaceAll("-", " ").replace(/^./, (c) => c.toUpperCase());

/** About `n` of so many columns, evenly, the last always. */
export function spread(columns, n) {
  const many = Math.min(columns, n);
  return Array.from({ length: many }, (_, i) => Math.round(((i + 1) * columns) / many) - 1);
}
