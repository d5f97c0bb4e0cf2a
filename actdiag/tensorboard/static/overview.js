/**
 * The first page: is my run healthy, and where is it not?
 */

import { h, refill, reselect, select } from "./dom.js";
import { list, sorted, verdict } from "./findings.js";
import { plural, stepsOf, whole } from "./format.js";
import { heat } from "./heat.js";
import { frame } from "./source.js";
import { groups } from "./tree.js";

const MOST_COLUMNS = 1500;
const FIRST_SHOWN = 6;

/** The page. `app`: state, set(changes), info. */
export function overview(app) {
  const summary = h("section", { class: "summary", "aria-label": "Findings" });
  const tools = layerTools(app);
  const chart = heat({
    open: (site, step) => openLayer(app, site, step),
    fold: (key) => app.set({ fold: foldedWith(app.state.fold, key) }),
    unfold: (key) => app.set({ fold: foldedWithout(app.state.fold, key) }),
    zoom: (from, to) => app.set({ from: from === null ? "" : String(from), to: from === null ? "" : String(to) }),
  });
  chart.controls.append(...tools.nodes);
  const node = h("div", { class: "overview" }, summary, chart.node);

  async function show() {
    const { info, state } = app;
    showFindings(summary, app);
    tools.show();
    const metric = metricOf(info, state.metric);
    if (!metric) return;
    await loadHeat(chart, app, info, metric);
  }

  return { node, show, redraw: chart.redraw };
}

/** Ask for a metric of a run and show it; the words of a refusal in its place. */
export async function loadHeat(chart, app, info, metric, extra = {}) {
  const { state } = app;
  const columns = Math.min(MOST_COLUMNS, Math.max(200, Math.round(chart.width() * (window.devicePixelRatio || 1)) || 1000));
  const query = { run: info.run, monitor: info.monitor, metric: metric.name, columns, from: state.from || null, to: state.to || null };
  chart.busy(true);
  try {
    const data = await frame("stat", query, info.version);
    chart.show({ title: metric.title, note: noteOf(data, metric), metric, data, folded: parseFold(state.fold), filter: state.filter, zoomed: Boolean(state.from), ...extra });
    chart.fail("");
    return data;
  } catch (error) {
    chart.fail(error.message);
    return null;
  } finally {
    chart.busy(false);
  }
}

function noteOf(data, metric) {
  const span = data.first.length ? stepsOf(data.first[0], data.last[data.last.length - 1]) : "no steps";
  const each = data.exact ? "every recorded step is a column" : `${plural(data.count, "recorded step")} in ${whole(data.first.length)} columns, the worst of each is shown`;
  return `${metric.doc}; ${span}, ${each}`;
}

function showFindings(summary, app) {
  const { info, state } = app;
  const all = sorted(info.findings);
  const open = all.filter((f) => f.resolved_step === null);
  const rest = [...open.slice(FIRST_SHOWN), ...all.filter((f) => f.resolved_step !== null)];
  const was = summary.querySelector("details")?.open ?? false;
  const go = (f) => {
    const site = info.sites.some(({ name }) => name === f.layer) ? f.layer : (info.parameters.find(({ name }) => name === f.layer)?.site ?? info.sites.find(({ name }) => name.startsWith(`${f.layer}#`))?.name);
    if (site) app.set({ view: "layer", site, step: String(f.step) });
  };
  const told = JSON.stringify([state.run, all]);
  if (summary.dataset.told === told) return; // what has the focus keeps it
  summary.dataset.told = told;
  refill(
    summary,
    verdict(info),
    open.length ? list(open.slice(0, FIRST_SHOWN), go) : null,
    rest.length ? h("details", { open: was }, h("summary", {}, restWords(open.length - FIRST_SHOWN, rest.length)), list(rest, go)) : null,
    info.problems.length ? h("p", { class: "problem" }, `Not all of the log could be read: ${info.problems.slice(0, 3).join("; ")}`) : null,
  );
}

function restWords(more, all) {
  const resolved = all - Math.max(0, more);
  return [more > 0 ? `${more} more` : "", resolved ? `${resolved} resolved` : ""].filter(Boolean).join(", ");
}

/** The metric in which a rule's findings are seen. */
const SEEN_IN = {
  "dead-units": "dead_fraction", "dying-units": "dead_fraction", "saturated-activation": "saturated_fraction", "off-center": "mean_energy",
  "exploding-activation": "rms", "collapsed-activation": "rms", "poor-initialization": "rms", "non-finite": "rms",
  "vanishing-gradient": "grad_rms", "exploding-gradient": "grad_rms", "no-gradient": "grad_zero_fraction", "gradient-underflow": "grad_zero_fraction",
  "stalled-update": "update_ratio", "oversized-update": "update_ratio",
};

/** Which metric is meant: the one asked for, else that of the worst open finding, else the first. */
export function metricOf(info, name) {
  const told = sorted(info.findings).filter((f) => f.resolved_step === null).map((f) => SEEN_IN[f.rule]);
  const wanted = [name, ...told].find((one) => info.metrics.some((m) => m.name === one));
  return info.metrics.find((m) => m.name === wanted) ?? info.metrics[0];
}

export const openLayer = (app, site, step) => {
  const known = app.info.sites.some(({ name }) => name === site);
  const owner = known ? site : app.info.parameters.find(({ name }) => name === site)?.site;
  if (owner) app.set({ view: "layer", site: owner, step: step === null ? app.state.step : String(step) });
};

/** Metric, filter and folding: what pages with heatmaps share. */
export function layerTools(app) {
  const metrics = h("div", { class: "segments", role: "group", "aria-label": "Metric" });
  const more = select("More numbers", [], "", (metric) => app.set({ metric }));
  const filter = h("input", { type: "search", placeholder: "Filter layers", "aria-label": "Filter layers", oninput: () => app.set({ filter: filter.value }) });
  const fold = h("button", { class: "quiet", onclick: toggleFold }, "Fold modules");
  const reset = h("button", { class: "quiet", onclick: () => app.set({ from: "", to: "" }) }, "All steps");

  const outer = () => {
    const keys = [...groups(namesOf(app.info, metricOf(app.info, app.state.metric))).keys()];
    return keys.filter((key) => !keys.some((other) => key.startsWith(`${other}.`)));
  };

  function toggleFold() {
    app.set({ fold: app.state.fold ? "" : outer().map(encodeURIComponent).join(",") });
  }

  function show() {
    const { info, state } = app;
    const current = metricOf(info, state.metric)?.name;
    const main = info.metrics.filter((m) => m.main);
    const told = JSON.stringify(main.map((m) => m.name));
    if (metrics.dataset.told !== told) {
      metrics.dataset.told = told;
      refill(metrics, main.map((m) => h("button", { "data-metric": m.name, title: m.doc, onclick: () => app.set({ metric: m.name }) }, m.title)));
    }
    for (const button of metrics.children) button.setAttribute("aria-pressed", String(button.dataset.metric === current));
    reselect(more, info.metrics.map((m) => [m.name, m.title, m.main ? "Main" : "All other numbers"]), current);
    if (document.activeElement !== filter) filter.value = state.filter;
    fold.textContent = state.fold ? "Unfold modules" : "Fold modules";
    fold.disabled = !state.fold && outer().length === 0;
    reset.hidden = !state.from;
  }

  return { nodes: [metrics, h("div", { class: "row" }, more, filter, fold, reset)], show };
}

/** Names of the rows of a metric, in order. */
export const namesOf = (info, metric) => (metric?.of === "parameter" ? info.parameters : info.sites).map(({ name }) => name);

export const parseFold = (text) => new Set(text ? text.split(",").map(decodeURIComponent) : []);
const foldedWith = (text, key) => [...parseFold(text), key].map(encodeURIComponent).join(",");
const foldedWithout = (text, key) => [...parseFold(text)].filter((other) => other !== key).map(encodeURIComponent).join(",");
