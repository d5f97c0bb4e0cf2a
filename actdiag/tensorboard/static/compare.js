/**
 * Runs beside each other on the same layers and steps, and what is different.
 */

import { runColors } from "./color.js";
import { difference, hasNumbers } from "./difference.js";
import { dot, h, refill, reselect, select } from "./dom.js";
import { list, sorted } from "./findings.js";
import { plural } from "./format.js";
import { Heat } from "./heat.js";
import { theme } from "./host.js";
import { Lines } from "./lines.js";
import { scaleOf } from "./scale.js";
import { LayerTools, askStat, heatEvents, heatState, joined, metricOf, parted, siteOf } from "./tools.js";

const MOST = 4;
const DIFFERENCE = { name: "difference", title: "Difference", doc: "", scale: "signed", healthy: null, worse: "both" };
const WIDTH_SHARE = 0.5;

/** The page. */
export class Compare {
  #app;
  #chosen = h("div", { class: "row chosen" });
  #add = select("Compare with", [], "", (name) => this.#app.set({ vs: joined([...this.#others(), name]) }));
  #tools;
  #title = h("h2", {});
  #hint = h("p", { class: "calm" });
  #grid = h("div", { class: "comparison" });
  #site = select("Curve of", [], "", (name) => this.#app.set({ site: name }));
  #curve = new Lines();
  #found = h("section", { class: "apart", "aria-label": "Findings that differ" });
  #charts = new Map();

  /** `app`: state, set(changes), info, runs, infoOf(name) -> Promise. */
  constructor(app) {
    this.#app = app;
    this.#tools = new LayerTools(app);
    const bar = h("div", { class: "bar2" }, h("div", { class: "row" }, this.#add, this.#chosen), ...this.#tools.nodes);
    this.#site.hidden = this.#curve.node.hidden = true;
    this.node = h("div", { class: "compare" }, bar, this.#hint, this.#title, this.#grid, h("div", { class: "row" }, this.#site), this.#curve.node, this.#found);
  }

  /** Show the state. */
  async show() {
    const { info, state, runs } = this.#app;
    const others = this.#others();
    this.#showChoice(info, runs, others);
    this.#tools.show();
    const metric = metricOf(info, state.metric);
    const infos = [info, ...(await Promise.all(others.map((name) => this.#app.infoOf(name))))];
    if (!metric || state !== this.#app.state) return;
    this.#title.textContent = metric.title;
    this.#place(infos);
    const data = await this.#ask(infos, metric);
    if (state !== this.#app.state || data.some((one) => one === null)) return;
    this.#showHeat(infos, data, metric);
    this.#showCurve(infos, data, metric);
    this.#showFindings(infos);
  }

  /** Draw anew, in the theme of now. */
  redraw() {
    this.#charts.forEach((chart) => chart.redraw());
    return this.show();
  }

  /** The runs to compare with, as far as they are there. */
  #others() {
    const { state, runs, info } = this.#app;
    const there = new Set(runs.map(({ name }) => name));
    return [...new Set(parted(state.vs))].filter((name) => name !== info.name && there.has(name)).slice(0, MOST);
  }

  #showChoice(info, runs, others) {
    const colors = runColors([info.name, ...others], theme());
    const rest = runs.map(({ name }) => name).filter((name) => name !== info.name && !others.includes(name));
    reselect(this.#add, [["", rest.length ? "choose a run" : "no other run"], ...rest.map((name) => [name, name])], "");
    const told = JSON.stringify([others, theme()]);
    if (this.#chosen.dataset.told !== told) {
      this.#chosen.dataset.told = told;
      refill(this.#chosen, others.map((name) => this.#chip(name, colors.get(name), others)));
    }
    this.#hint.hidden = others.length > 0;
    this.#hint.textContent = runs.length > 1 ? "Choose a run to compare with." : "There is one run only. Log another one below the same directory.";
  }

  #chip(name, color, others) {
    const drop = () => this.#app.set({ vs: joined(others.filter((other) => other !== name)) });
    return h("span", { class: "chip" }, dot(color), name, h("button", { class: "quiet", "aria-label": `Remove ${name}`, onclick: drop }, "×"));
  }

  /** The charts of runs and of differences, each made once, so that it keeps its cursor when data come. */
  #place(infos) {
    const charts = [...infos.map(({ name }) => this.#chart("run", name)), ...infos.slice(1).map(({ name }) => this.#chart("difference", name))];
    const nodes = charts.map(({ node }) => node);
    const same = nodes.length === this.#grid.children.length && nodes.every((node, i) => node === this.#grid.children[i]);
    if (!same) refill(this.#grid, nodes);
  }

  #chart(kind, name) {
    const key = JSON.stringify([kind, name]);
    if (!this.#charts.has(key)) this.#charts.set(key, new Heat(heatEvents(this.#app)));
    return this.#charts.get(key);
  }

  /** The frame of each run; null where there is none, and its chart says why. */
  #ask(infos, metric) {
    return Promise.all(
      infos.map(async (info) => {
        const chart = this.#chart("run", info.name);
        chart.busy(true);
        try {
          const data = await askStat(this.#app, info, metric, chart.width || window.innerWidth * WIDTH_SHARE);
          chart.fail("");
          return data;
        } catch (error) {
          chart.fail(error.message);
          return null;
        } finally {
          chart.busy(false);
        }
      }),
    );
  }

  #showHeat(infos, data, metric) {
    const scale = scaleOf(metric, data.flatMap(({ low, high }) => [low, high]));
    const shared = heatState(this.#app.state);
    const note = infos.length > 1 ? "all runs are on one scale" : metric.doc;
    infos.forEach(({ name }, i) => this.#chart("run", name).show({ title: name, note, metric, data: data[i], scale, ...shared }));
    infos.slice(1).forEach(({ name }, i) => {
      const [a, b] = [data[0], data[i + 1]];
      const apart = difference(a, b, metric, scale);
      const missing = a.rows.length + b.rows.length - 2 * apart.rows.length;
      const left = missing ? `; ${plural(missing, "row")} that one run lacks ${missing === 1 ? "is" : "are"} left out` : "";
      const unit = metric.scale === "log" ? "log2 of the ratio" : "difference";
      const base = apart.first === a.first ? infos[0].name : name;
      const told = { title: `${name} − ${infos[0].name}`, note: `${unit}, at the steps of ${base}${left}` };
      this.#chart("difference", name).show({ ...told, metric: DIFFERENCE, data: apart, ...shared });
    });
  }

  #showCurve(infos, data, metric) {
    const names = data[0].rows.filter((name) => data.every((one) => hasNumbers(one, name)));
    const name = names.includes(this.#app.state.site) ? this.#app.state.site : names[0];
    this.#curve.node.hidden = this.#site.hidden = name === undefined;
    if (name === undefined) return;
    reselect(this.#site, names.map((one) => [one, one]), name);
    const colors = runColors(infos.map((one) => one.name), theme());
    const series = data.map(({ rows, first, last, low, high }, i) => {
      const [from, to] = [rows.indexOf(name) * first.length, (rows.indexOf(name) + 1) * first.length];
      return { name: infos[i].name, first, last, low: low.subarray(from, to), high: high.subarray(from, to), color: colors.get(infos[i].name) };
    });
    this.#curve.show({ title: `${metric.title} of ${name}`, metric, series, step: null });
  }

  #showFindings(infos) {
    const colors = runColors(infos.map(({ name }) => name), theme());
    const has = infos.map(({ findings }) => new Set(findings.map(keyOf)));
    const apart = infos.map(({ findings }, i) => sorted(findings.filter((f) => has.some((keys, j) => j !== i && !keys.has(keyOf(f))))));
    const told = JSON.stringify([infos.map(({ name }) => name), apart, theme()]);
    if (this.#found.dataset.told === told) return; // what has the focus keeps it
    this.#found.dataset.told = told;
    const part = (info, found) => {
      const go = (f) => this.#app.set({ view: "layer", run: info.name, site: siteOf(info, f.layer) ?? "", step: String(f.step) });
      return h("div", {}, h("h3", {}, dot(colors.get(info.name)), info.name), found.length ? list(found, go) : h("p", { class: "calm" }, "Nothing"));
    };
    const grid = h("div", { class: "grid" }, infos.map((info, i) => part(info, apart[i])));
    refill(this.#found, infos.length < 2 ? null : [h("h2", {}, "Found in one run only"), grid]);
  }
}

const keyOf = ({ rule, layer }) => `${rule} ${layer}`;
