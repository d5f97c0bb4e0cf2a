/**
 * The page of one layer: what is wrong with it, how its values and gradients are spread, its curves, its units.
 */

import { CHARTS, chartOf, metricFor, rowOf, shortName } from "./curves.js";
import { Distribution } from "./distribution.js";
import { h, refill, reselect, select } from "./dom.js";
import { detail, sorted } from "./findings.js";
import { plural, valueOf, whole } from "./format.js";
import { Lines } from "./lines.js";
import { healthyWords } from "./scale.js";
import { frame } from "./source.js";
import { placeOf, zoomed } from "./tools.js";
import { UnitMap } from "./units.js";

const COLUMNS = { layer: 500, histogram: 220, units: 400 };
const NAMES = { activation: "Distribution of activations", gradient: "Distribution of gradients" };

/** The page. */
export class Layer {
  #app;
  #site = select("Layer", [], "", (site) => this.#app.set({ site }));
  #previous = h("button", { class: "quiet", "aria-label": "Previous layer", title: "Previous layer: [", onclick: () => this.#step(-1) }, "←");
  #next = h("button", { class: "quiet", "aria-label": "Next layer", title: "Next layer: ]", onclick: () => this.#step(1) }, "→");
  #reset = h("button", { class: "quiet", onclick: () => this.#app.set(zoomed(null, null)) }, "All steps");
  #title = h("h2", {});
  #facts = h("p", { class: "note" });
  #findings = h("div", { class: "details" });
  #problem = h("p", { class: "problem", role: "status", hidden: true });
  #spread;
  #units;
  #curves;
  #numbers = h("section", { class: "panel numbers" });
  #charts;
  #told = "";

  /** `app`: state, set(changes), info. */
  constructor(app) {
    this.#app = app;
    const on = { step: (step) => app.set({ step: String(step) }), zoom: (from, to) => app.set(zoomed(from, to)) };
    this.#spread = { activation: new Distribution(on), gradient: new Distribution(on) };
    this.#units = new UnitMap(on);
    this.#curves = CHARTS.map(() => new Lines(on));
    const pair = h("div", { class: "pair" }, Object.values(this.#spread).map(({ node }) => node));
    const grid = h("div", { class: "grid" }, this.#curves.map(({ node }) => node));
    const head = h("div", { class: "layerhead" }, h("div", { class: "row" }, this.#site, this.#previous, this.#next, this.#reset), this.#title, this.#facts);
    this.#charts = h("div", { class: "charts", hidden: true }, pair, this.#units.node, grid, this.#numbers);
    this.node = h("div", { class: "layer" }, head, this.#problem, this.#findings, this.#charts);
    /** Key -> what it does on this page. */
    this.keys = { "[": () => this.#step(-1), "]": () => this.#step(1) };
  }

  get #current() {
    const { info, state } = this.#app;
    return info.sites.find(({ name }) => name === state.site) ?? info.sites[0];
  }

  #step(by) {
    const names = this.#app.info.sites.map(({ name }) => name);
    const at = names.indexOf(this.#current?.name) + by;
    if (at >= 0 && at < names.length) this.#app.set({ site: names[at] });
  }

  /** Show the state. */
  async show() {
    const { info, state } = this.#app;
    const here = this.#current;
    if (!here) return refill(this.#facts, "This run has no layers.");
    const at = state.step === "" || !Number.isFinite(Number(state.step)) ? null : Number(state.step);
    this.#showHead(here, at, null);
    this.#showFindings(here);
    const query = { run: info.run, monitor: info.monitor, site: here.name, from: state.from || null, to: state.to || null };
    this.node.setAttribute("aria-busy", "true");
    const parts = await Promise.allSettled([this.#askCurves(query), this.#askSpread("activation", query), this.#askSpread("gradient", query), this.#askUnits(query)]);
    if (state !== this.#app.state) return; // something else has been asked for meanwhile
    const failed = parts.find(({ status }) => status === "rejected");
    this.#problem.hidden = !failed;
    this.#problem.textContent = failed ? failed.reason.message : "";
    this.#charts.hidden = parts[0].status === "rejected";
    const [curves, activation, gradient, units] = parts.map(({ value }) => value ?? null);
    this.#showSpread("activation", activation, at);
    this.#showSpread("gradient", gradient, at);
    this.#showUnits(units, at);
    this.#showHead(here, at, units?.units || null);
    if (curves) this.#showCurves(curves, at);
    this.node.setAttribute("aria-busy", "false");
  }

  #showHead(here, at, units) {
    const { info, state } = this.#app;
    reselect(this.#site, info.sites.map(({ name, kind }) => [name, `${name} (${kind})`]), here.name);
    this.#reset.hidden = !state.from && !state.to;
    this.#previous.disabled = here === info.sites[0];
    this.#next.disabled = here === info.sites.at(-1);
    if (this.#title.textContent !== here.name) this.#title.textContent = here.name;
    const marked = at === null ? "" : `marked: step ${whole(at)}`;
    const role = ["layer", "other", here.kind.toLowerCase()].includes(here.role) ? "" : here.role;
    this.#facts.textContent = [here.kind, role, units ? plural(units, "unit") : "", marked].filter(Boolean).join(" · ");
  }

  #showFindings(here) {
    const { info } = this.#app;
    const parameters = info.parameters.filter(({ site }) => site === here.name).map(({ name }) => name);
    const own = new Set([here.name, here.name.split("#")[0], ...parameters]);
    const found = sorted(info.findings.filter((f) => own.has(f.layer) || placeOf(info, f) === here.name));
    const told = JSON.stringify([info.name, here.name, found, found.length ? 0 : info.count]);
    if (told === this.#told) return; // what is unfolded stays so
    this.#told = told;
    const calm = `Nothing has been found at this layer in ${plural(info.count, "recorded step")}.`;
    refill(this.#findings, found.length ? found.map(detail) : h("p", { class: "calm" }, calm));
  }

  #askCurves(query) {
    return frame("layer", { ...query, columns: COLUMNS.layer }, this.#app.info.version);
  }

  async #askSpread(kind, query) {
    const { info } = this.#app;
    return info.histograms.includes(kind) ? frame("histogram", { ...query, kind, columns: COLUMNS.histogram }, info.version) : null;
  }

  async #askUnits(query) {
    const { info } = this.#app;
    return info.units ? frame("units", { ...query, columns: COLUMNS.units }, info.version) : null;
  }

  #showSpread(kind, data, step) {
    const chart = this.#spread[kind];
    chart.node.hidden = !data || data.share.every(Number.isNaN);
    if (chart.node.hidden) return;
    const part = data.exact ? "" : `; ${whole(data.step.length)} of ${plural(data.count, "recorded step")}`;
    chart.show({ title: NAMES[kind], note: `share of the values in each octave${part}`, data, step, zoomed: Boolean(this.#app.state.from) });
  }

  #showUnits(data, step) {
    this.#units.node.hidden = !data || data.shown === 0;
    if (!this.#units.node.hidden) this.#units.show({ title: "Units", data, step, zoomed: Boolean(this.#app.state.from) });
  }

  #showCurves(data, step) {
    CHARTS.forEach(([title, metrics, note], k) => {
      const chart = chartOf(this.#app.info, data, metrics);
      this.#curves[k].node.hidden = !chart;
      if (chart) this.#curves[k].show({ title, note, step, ...chart });
    });
    this.#showNumbers(data);
  }

  #showNumbers(data) {
    const last = data.first.length - 1;
    const heading = h("div", { class: "heading" }, h("h3", {}, "All numbers"), h("p", { class: "note" }, `at step ${whole(data.last[last] ?? 0)}`));
    const rows = data.curves.map((curve, i) => this.#numberRow(data.site, curve, rowOf(data, i).high[last]));
    const table = h("table", {}, h("caption", {}, "All numbers of this layer"), h("tbody", {}, rows));
    refill(this.#numbers, h("header", {}, heading), h("div", { class: "table", tabindex: 0, "aria-label": "All numbers of this layer" }, table));
  }

  #numberRow(site, { metric: named, of, name }, value) {
    const metric = metricFor(this.#app.info, named);
    const called = of === "parameter" ? `${metric.title} of ${shortName(name, site)}` : metric.title;
    const what = [metric.doc, healthyWords(metric)].filter(Boolean).join("; ");
    return h("tr", {}, h("th", { scope: "row" }, called), h("td", {}, valueOf(metric, value)), h("td", { class: "what" }, what));
  }

  /** Draw anew, in the theme of now. */
  redraw() {
    for (const chart of [this.#units, ...Object.values(this.#spread)]) chart.redraw();
    return this.show();
  }
}
