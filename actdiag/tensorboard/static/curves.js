/**
 * The curves of a layer: which numbers stand together, out of a `layer` frame.
 */

import { THEMES } from "./color.js";
import { theme } from "./host.js";

/** Charts of curves: title, the metrics of each, the first gives the scale, and what is said of them. */
export const CHARTS = [
  ["Mean and spread", ["mean"], "the shade is one standard deviation to each side"],
  ["Activation scale", ["rms"]],
  ["Dead units", ["dead_fraction"]],
  ["Saturation", ["saturated_fraction"]],
  ["Mean energy", ["mean_energy"]],
  ["Zeros and mean gate", ["zero_fraction", "gate_mean"]],
  ["Gradient scale", ["grad_rms"]],
  ["Zero gradient", ["grad_zero_fraction"]],
  ["Update ratio", ["update_ratio"]],
];

/** The metric of a name, with what is sensible where the run does not describe it. */
export function metricFor(info, name) {
  const unknown = { name, title: name, doc: "", scale: "linear", healthy: null, worse: "both" };
  return info.metrics.find((m) => m.name === name) ?? unknown;
}

/** "features.1.weight" of "features.1" is "weight". */
export function shortName(name, site) {
  const front = `${site.split("#")[0]}.`;
  return name.startsWith(front) ? name.slice(front.length) : name;
}

/** Least and most of one curve of a frame, as a series. */
export function rowOf({ first, last, low, high }, i) {
  const [from, to] = [i * first.length, (i + 1) * first.length];
  return { first, last, low: low.subarray(from, to), high: high.subarray(from, to) };
}

/** What a chart of curves shows: {metric, series}; null where the layer has nothing of it. */
export function chartOf(info, data, metrics) {
  const colors = THEMES[theme()];
  const series = metrics.flatMap((name) => seriesOf(info, data, name)).map((one, i) => ({ ...one, color: i % 2 ? colors.second : colors.curve }));
  if (!series.length) return null;
  const spread = metrics[0] === "mean" ? around(series[0], seriesOf(info, data, "std")[0], colors) : null;
  return { metric: metricFor(info, metrics[0]), series: spread ? [spread, ...series] : series };
}

function seriesOf(info, data, metric) {
  const named = ({ of, name }) => (of === "parameter" ? shortName(name, data.site) : metricFor(info, metric).title);
  return data.curves.flatMap((curve, i) => (curve.metric === metric ? [{ ...rowOf(data, i), name: named(curve) }] : []));
}

/** One standard deviation to each side of the mean, as a series that is only shaded. */
function around(mean, std, colors) {
  if (!std) return null;
  const shade = { low: mean.low.map((m, i) => m - std.high[i]), high: mean.high.map((m, i) => m + std.high[i]) };
  return { ...mean, ...shade, name: "one standard deviation", shade: true, color: colors.curve };
}
