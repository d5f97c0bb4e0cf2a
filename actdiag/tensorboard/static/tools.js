/**
 * What pages with heatmaps share: which metric, which layers, folding, zoom, and asking for the numbers.
 */

import { h, refill, reselect, select } from "./dom.js";
import { sorted } from "./findings.js";
import { plural, stepsOf, whole } from "./format.js";
import { frame } from "./source.js";
import { groups } from "./tree.js";

const MOST_COLUMNS = 1500;
const LEAST_COLUMNS = 200;
const USUAL_COLUMNS = 1000;

/** The metric in which a rule's findings are seen. */
const SEEN_IN = {
  "dead-units": "dead_fraction",
  "dying-units": "dead_fraction",
  "saturated-activation": "saturated_fraction",
  "off-center": "mean_energy",
  "exploding-activation": "rms",
  "collapsed-activation": "mean_energy",
  "poor-initialization": "rms",
  "non-finite": "nonfinite",
  "vanishing-gradient": "grad_rms",
  "exploding-gradient": "grad_rms",
  "no-gradient": "grad_zero_fraction",
  "gradient-underflow": "grad_zero_fraction",
  "stalled-update": "update_ratio",
  "oversized-update": "update_ratio",
};

/** Which metric is meant: the one asked for, else that of the worst open finding, else the first. */
export function metricOf(info, name) {
  const open = sorted(info.findings).filter((f) => f.resolved_step === null);
  const wanted = [name, ...open.map((f) => SEEN_IN[f.rule])].find((one) => info.metrics.some((m) => m.name === one));
  return info.metrics.find((m) => m.name === wanted) ?? info.metrics[0];
}

/** The site at which something of a name is looked at: itself, that of its parameter, the first call of its module. */
export function siteOf(info, name) {
  if (info.sites.some((site) => site.name === name)) return name;
  const owner = info.parameters.find((parameter) => parameter.name === name)?.site;
  return owner ?? info.sites.find((site) => site.name.startsWith(`${name}#`))?.name ?? null;
}

/** Where a finding is seen: at the site its message begins with, which may be the input of its layer. */
export const placeOf = (info, { message, layer }) => info.sites.find(({ name }) => message.startsWith(`${name}: `))?.name ?? layer;

/** Open the page of a layer, or of the owner of a parameter, at a step; at the one of before where that is null. */
export function openLayer(app, name, step) {
  const site = siteOf(app.info, name);
  if (site) app.set({ view: "layer", site, step: step === null ? app.state.step : String(step) });
}

/** The state of a zoom to steps, or to all for null. */
export const zoomed = (from, to) => ({ from: from === null ? "" : String(from), to: to === null ? "" : String(to) });

/** Names in one text, for the address. */
export const joined = (names) => [...names].map(encodeURIComponent).join(",");

/** The inverse of `joined`. */
export const parted = (text) => (text ? text.split(",").map(decoded) : []);

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a stray percent sign
  }
}

/** What the heatmap of a page is told to do when something in it is chosen. */
export const heatEvents = (app) => ({
  open: (name, step) => openLayer(app, name, step),
  fold: (key) => app.set({ fold: joined([...parted(app.state.fold), key]) }),
  unfold: (key) => app.set({ fold: joined(parted(app.state.fold).filter((other) => other !== key)) }),
  zoom: (from, to) => app.set(zoomed(from, to)),
});

/** What the state says of every heatmap. */
export const heatState = ({ fold, filter, from }) => ({ folded: new Set(parted(fold)), filter, zoomed: Boolean(from) });

/** The `stat` frame of a metric of a run, in as many columns as a chart has pixels. */
export function askStat({ state }, info, metric, width) {
  const pixels = Math.round(width * (window.devicePixelRatio || 1)) || USUAL_COLUMNS;
  const columns = Math.min(MOST_COLUMNS, Math.max(LEAST_COLUMNS, pixels));
  const { run, monitor, version } = info;
  return frame("stat", { run, monitor, metric: metric.name, columns, from: state.from || null, to: state.to || null }, version);
}

/** What is said of a `stat` frame. */
export function noteOf(data, metric) {
  const span = data.first.length ? stepsOf(data.first[0], data.last.at(-1)) : "no steps";
  const many = `${plural(data.count, "recorded step")} in ${whole(data.first.length)} columns, the worst of each is shown`;
  return `${metric.doc}; ${span}, ${data.exact ? "every recorded step is a column" : many}`;
}

/** Metric, filter and folding. */
export class LayerTools {
  #app;
  #metrics = h("div", { class: "segments", role: "group", "aria-label": "Metric" });
  #more = select("More numbers", [], "", (metric) => this.#app.set({ metric }));
  #filter = h("input", { type: "search", placeholder: "Filter layers", "aria-label": "Filter layers", oninput: () => this.#app.set({ filter: this.#filter.value }) });
  #fold = h("button", { class: "quiet", onclick: () => this.#app.set({ fold: this.#app.state.fold ? "" : joined(this.#outer()) }) }, "Fold modules");
  #reset = h("button", { class: "quiet", onclick: () => this.#app.set(zoomed(null, null)) }, "All steps");

  /** `app`: state, set(changes), info. */
  constructor(app) {
    this.#app = app;
    /** To be put into the page. */
    this.nodes = [this.#metrics, h("div", { class: "row" }, this.#more, this.#filter, this.#fold, this.#reset)];
  }

  /** Modules that lie in no other. */
  #outer() {
    const { info, state } = this.#app;
    const rows = metricOf(info, state.metric)?.of === "parameter" ? info.parameters : info.sites;
    const keys = [...groups(rows.map(({ name }) => name)).keys()];
    const within = (key, among) => among.some((other) => key.startsWith(`${other}.`));
    const outermost = keys.filter((key) => !within(key, keys));
    if (outermost.length > 1) return outermost;
    const inner = keys.filter((key) => !outermost.includes(key)); // one module around nearly all says nothing when it is folded
    const next = inner.filter((key) => !within(key, inner));
    return next.length ? next : outermost;
  }

  /** Show the state. */
  show() {
    const { info, state } = this.#app;
    const current = metricOf(info, state.metric)?.name;
    this.#showMetrics(info.metrics.filter((m) => m.main), current);
    reselect(this.#more, info.metrics.map((m) => [m.name, m.title, m.main ? "Main" : "All other numbers"]), current);
    if (document.activeElement !== this.#filter) this.#filter.value = state.filter;
    this.#fold.textContent = state.fold ? "Unfold modules" : "Fold modules";
    this.#fold.disabled = !state.fold && this.#outer().length === 0;
    this.#reset.hidden = !state.from && !state.to;
  }

  #showMetrics(main, current) {
    const told = JSON.stringify(main.map((m) => m.name));
    if (this.#metrics.dataset.told !== told) {
      this.#metrics.dataset.told = told;
      refill(this.#metrics, main.map((m) => h("button", { "data-metric": m.name, title: m.doc, onclick: () => this.#app.set({ metric: m.name }) }, m.title)));
    }
    for (const button of this.#metrics.children) button.setAttribute("aria-pressed", String(button.dataset.metric === current));
  }
}
