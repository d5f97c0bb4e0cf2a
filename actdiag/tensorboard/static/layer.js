/**
 * The page of one layer: what is wrong with it, how its values and gradients are spread, its curves, its units.
 */

import { THEMES } from "./color.js";
import { distribution } from "./distribution.js";
import { h, refill, reselect, select } from "./dom.js";
import { detail, sorted } from "./findings.js";
import { plural, valueOf, whole } from "./format.js";
import { theme } from "./host.js";
import { lines } from "./lines.js";
import { healthyWords } from "./scale.js";
import { frame } from "./source.js";
import { unitMap } from "./units.js";

/** Charts of curves: the metrics of each, the first gives the scale. */
const CHARTS = [
  ["Mean and spread", ["mean"], "mean of all values; the shade is one standard deviation to each side"],
  ["Activation scale", ["rms"]],
  ["Dead units", ["dead_fraction"]],
  ["Saturation", ["saturated_fraction"]],
  ["Mean energy (centering)", ["mean_energy"]],
  ["Zeros and mean gate", ["zero_fraction", "gate_mean"]],
  ["Gradient scale", ["grad_rms"]],
  ["Zero gradient", ["grad_zero_fraction"]],
  ["Update ratio", ["update_ratio"]],
];
const COLUMNS = { layer: 500, histogram: 220, units: 400 };
const NAMES = { activation: "Distribution of activations", gradient: "Distribution of gradients" };

/** The page. `app`: state, set(changes), info. */
export function layer(app) {
  const on = { step: (step) => app.set({ step: String(step) }), zoom: (from, to) => app.set({ from: from === null ? "" : String(from), to: from === null ? "" : String(to) }) };
  const head = h("div", { class: "layerhead" });
  const site = select("Layer", [], "", (name) => app.set({ site: name }));
  const previous = h("button", { class: "quiet", "aria-label": "Previous layer", title: "Previous layer: [", onclick: () => step(-1) }, "←");
  const next = h("button", { class: "quiet", "aria-label": "Next layer", title: "Next layer: ]", onclick: () => step(1) }, "→");
  const reset = h("button", { class: "quiet", onclick: () => app.set({ from: "", to: "" }) }, "All steps");
  const title = h("h2", {});
  const facts = h("p", { class: "note" });
  const told = h("div", { class: "details" });
  const rasters = { activation: distribution(on), gradient: distribution(on) };
  const units = unitMap(on);
  const curves = CHARTS.map(() => lines(on));
  const table = h("section", { class: "panel numbers" });
  const problem = h("p", { class: "problem", role: "status", hidden: true });
  head.append(h("div", { class: "row" }, site, previous, next, reset), title, facts);
  const charts = h("div", { class: "charts", hidden: true }, h("div", { class: "pair" }, rasters.activation.node, rasters.gradient.node), units.node, h("div", { class: "grid" }, curves.map((c) => c.node)), table);
  const node = h("div", { class: "layer" }, head, problem, told, charts);

  const current = () => app.info.sites.find(({ name }) => name === app.state.site) ?? app.info.sites[0];

  function step(by) {
    const names = app.info.sites.map(({ name }) => name);
    const at = names.indexOf(current()?.name) + by;
    if (at >= 0 && at < names.length) app.set({ site: names[at] });
  }

  async function show() {
    const { info, state } = app;
    const here = current();
    if (!here) return refill(facts, "This run has no layers.");
    reselect(site, info.sites.map(({ name, kind }) => [name, `${name} (${kind})`]), here.name);
    reset.hidden = !state.from;
    previous.disabled = here === info.sites[0];
    next.disabled = here === info.sites.at(-1);
    const at = state.step === "" ? null : Number(state.step);
    title.textContent = here.name;
    facts.textContent = [here.kind, here.role === "layer" ? "" : here.role, at === null ? "" : `marked: step ${whole(at)}`].filter(Boolean).join(" · ");
    const own = new Set([here.name, here.name.split("#")[0], ...info.parameters.filter((p) => p.site === here.name).map((p) => p.name)]);
    const found = sorted(info.findings.filter((f) => own.has(f.layer)));
    refill(told, found.length ? found.map(detail) : h("p", { class: "calm" }, `Nothing has been found at this layer in ${plural(info.count, "recorded step")}.`));
    const query = { run: info.run, monitor: info.monitor, site: here.name, from: state.from || null, to: state.to || null };
    const answers = await Promise.allSettled([showCurves(query, at), ...Object.keys(rasters).map((kind) => showRaster(kind, query, at)), showUnits(query, at)]);
    charts.hidden = false;
    const failed = answers.find(({ status }) => status === "rejected");
    problem.hidden = !failed;
    problem.textContent = failed ? failed.reason.message : "";
  }

  async function showRaster(kind, query, at) {
    const there = app.info.histograms.includes(kind);
    rasters[kind].node.hidden = !there;
    if (!there) return;
    try {
      const data = await frame("histogram", { ...query, kind, columns: COLUMNS.histogram }, app.info.version);
      rasters[kind].show({ title: NAMES[kind], note: `share of the values in each octave${data.exact ? "" : `; ${whole(data.step.length)} of ${plural(data.count, "recorded step")}`}`, data, step: at, zoomed: Boolean(app.state.from) });
      rasters[kind].node.hidden = data.share.every(Number.isNaN);
    } catch (error) {
      rasters[kind].node.hidden = true;
      if (error.absent !== true) throw error;
    }
  }

  async function showUnits(query, at) {
    units.node.hidden = !app.info.units;
    if (!app.info.units) return;
    const data = await frame("units", { ...query, columns: COLUMNS.units }, app.info.version);
    units.node.hidden = data.shown === 0;
    if (data.shown) units.show({ title: "Units", data, step: at, zoomed: Boolean(app.state.from) });
  }

  async function showCurves(query, at) {
    const data = await frame("layer", { ...query, columns: COLUMNS.layer }, app.info.version);
    const columns = data.first.length;
    const row = (i) => ({ first: data.first, last: data.last, low: data.low.subarray(i * columns, (i + 1) * columns), high: data.high.subarray(i * columns, (i + 1) * columns) });
    const find = (metric) => data.curves.flatMap((curve, i) => (curve.metric === metric ? [{ ...row(i), name: curve.of === "parameter" ? shortName(curve.name, query.site) : titleFor(metric), curve }] : []));
    const colors = THEMES[theme()];
    CHARTS.forEach(([title, metrics, note], k) => {
      const series = metrics.flatMap(find).map((one, i) => ({ ...one, color: i % 2 ? colors.second : colors.curve }));
      const chart = curves[k];
      chart.node.hidden = !series.length;
      if (!series.length) return;
      const shade = metrics[0] === "mean" ? around(series[0], find("std")[0]) : null;
      chart.show({ title, note, metric: metricFor(series[0].curve.metric), series: shade ? [shade, ...series] : series, step: at });
    });
    showNumbers(data, row);
  }

  const metricFor = (name) => app.info.metrics.find((m) => m.name === name) ?? { name, title: name, doc: "", scale: "linear", healthy: null, worse: "both" };
  const titleFor = (name) => metricFor(name).title;

  /** One standard deviation to each side of the mean, as a series that is only shaded. */
  function around(mean, std) {
    if (!std) return null;
    return { ...mean, name: "one standard deviation", shade: true, color: THEMES[theme()].curve, low: mean.low.map((m, i) => m - std.high[i]), high: mean.high.map((m, i) => m + std.high[i]) };
  }

  function showNumbers(data, row) {
    const last = data.first.length - 1;
    const rows = data.curves.map((curve, i) => [curve, row(i).high[last]]);
    refill(
      table,
      h("header", {}, h("div", { class: "heading" }, h("h3", {}, "All numbers"), h("p", { class: "note" }, `at step ${whole(data.last[last] ?? 0)}`))),
      h("div", { class: "table", tabindex: 0, "aria-label": "All numbers of this layer" }, h("table", {}, h("tbody", {}, rows.map(([curve, value]) => numberRow(curve, value))))),
    );
  }

  function numberRow(curve, value) {
    const metric = metricFor(curve.metric);
    const called = curve.of === "parameter" ? `${metric.title} of ${shortName(curve.name, current().name)}` : metric.title;
    return h("tr", {}, h("th", { scope: "row" }, called), h("td", {}, valueOf(metric, value)), h("td", { class: "what" }, [metric.doc, healthyWords(metric)].filter(Boolean).join("; ")));
  }

  const redraw = () => [units, ...Object.values(rasters)].forEach((chart) => chart.redraw());
  return { node, show, redraw: () => (redraw(), show()), keys: { "[": () => step(-1), "]": () => step(1) } };
}

/** "features.1.weight" of "features.1" is "weight". */
const shortName = (name, site) => (name.startsWith(`${site.split("#")[0]}.`) ? name.slice(site.split("#")[0].length + 1) : name);
