/**
 * Runs beside each other on the same layers and steps, and what is different.
 */

import { runColor } from "./color.js";
import { h, refill, reselect, select } from "./dom.js";
import { list, sorted } from "./findings.js";
import { columnOf } from "./draw.js";
import { heat } from "./heat.js";
import { lines } from "./lines.js";
import { layerTools, loadHeat, metricOf, openLayer, parseFold } from "./overview.js";
import { scaleOf, worst } from "./scale.js";

const MOST = 4;

/** The page. `app`: state, set(changes), info, runs, infoOf(name) -> Promise. */
export function compare(app) {
  const chosen = h("div", { class: "row chosen" });
  const add = select("Compare with", [], "", (name) => app.set({ vs: [...others(), name].map(encodeURIComponent).join(",") }));
  const tools = layerTools(app);
  const site = select("Curve of", [], "", (name) => app.set({ site: name }));
  const curve = lines({});
  const hint = h("p", { class: "calm" });
  const title = h("h2", {});
  const charts = h("div", { class: "comparison" });
  const found = h("section", { class: "apart", "aria-label": "Findings that differ" });
  const node = h("div", { class: "compare" }, h("div", { class: "bar2" }, h("div", { class: "row" }, add, chosen), ...tools.nodes), hint, title, charts, h("div", { class: "row" }, site), curve.node, found);
  const made = new Map();

  const others = () => (app.state.vs ? app.state.vs.split(",").map(decodeURIComponent) : []).filter((name) => app.runs.some((run) => run.name === name)).slice(0, MOST);

  const on = {
    open: (name, step) => openLayer(app, name, step),
    fold: (key) => app.set({ fold: [...parseFold(app.state.fold), key].map(encodeURIComponent).join(",") }),
    unfold: (key) => app.set({ fold: [...parseFold(app.state.fold)].filter((other) => other !== key).map(encodeURIComponent).join(",") }),
    zoom: (from, to) => app.set({ from: from === null ? "" : String(from), to: from === null ? "" : String(to) }),
  };

  /** The chart of a name, made once, so that it keeps its cursor when data come. */
  function chartOf(name) {
    if (!made.has(name)) made.set(name, heat(on));
    return made.get(name);
  }

  async function show() {
    const { info, state, runs } = app;
    const rest = runs.map(({ name }) => name).filter((name) => name !== info.name && !others().includes(name));
    reselect(add, [["", rest.length ? "choose a run" : "no other run"], ...rest.map((name) => [name, name])], "");
    refill(chosen, others().map(chip));
    tools.show();
    hint.hidden = others().length > 0;
    hint.textContent = runs.length > 1 ? "Choose a run to compare with." : "There is one run only. Log another one below the same directory.";
    const metric = metricOf(info, state.metric);
    title.textContent = metric.title;
    const infos = [info, ...(await Promise.all(others().map(app.infoOf)))];
    refill(charts, infos.map(({ name }) => chartOf(name).node), infos.slice(1).map(({ name }) => chartOf(`${name} - `).node));
    const data = await Promise.all(infos.map((one) => loadHeat(chartOf(one.name), app, one, metric, { title: one.name })));
    if (data.some((one) => one === null)) return;
    const scale = scaleOf(metric, data.flatMap(({ low, high }) => [low, high]));
    infos.forEach((one, i) => chartOf(one.name).show(base(data[i], metric, one.name, metric.title, scale)));
    infos.slice(1).forEach((one, i) => showDifference(chartOf(`${one.name} - `), data[0], data[i + 1], info.name, one.name, metric, scale));
    showCurve(infos, data, metric);
    showFindings(infos);
  }

  const base = (data, metric, title, note, scale) => ({ data, metric, title, note, scale, folded: parseFold(app.state.fold), filter: app.state.filter, zoomed: Boolean(app.state.from) });

  function chip(name) {
    const drop = () => app.set({ vs: others().filter((other) => other !== name).map(encodeURIComponent).join(",") });
    return h("span", { class: "chip" }, dot(name), name, h("button", { class: "quiet", "aria-label": `Remove ${name}`, onclick: drop }, "×"));
  }

  function showDifference(chart, a, b, nameA, nameB, metric, scale) {
    const data = difference(a, b, metric, scale);
    const unit = metric.scale === "log" ? "log2 of the ratio" : "difference";
    const own = { name: "difference", title: "Difference", doc: "", scale: "signed", healthy: null, worse: "both" };
    const missing = a.rows.length - data.rows.length + (b.rows.length - data.rows.length);
    const left = missing ? `; ${missing} rows that one run lacks are left out` : "";
    chart.show(base(data, own, `${nameB} − ${nameA}`, `${unit}, at the steps of ${nameA}${left}`));
  }

  function showCurve(infos, data, metric) {
    const names = data[0].rows.filter((name) => data.every((one) => hasNumbers(one, name)));
    const name = names.includes(app.state.site) ? app.state.site : names[0];
    curve.node.hidden = site.hidden = !name;
    if (!name) return;
    reselect(site, names.map((one) => [one, one]), name);
    const series = data.map((one, i) => {
      const [r, n] = [one.rows.indexOf(name), one.first.length];
      return { name: infos[i].name, first: one.first, last: one.last, low: one.low.subarray(r * n, (r + 1) * n), high: one.high.subarray(r * n, (r + 1) * n), color: runColor(infos[i].name) };
    });
    curve.show({ title: `${metric.title} of ${name}`, metric, series, step: null });
  }

  function showFindings(infos) {
    const has = infos.map((one) => new Set(one.findings.map((f) => `${f.rule} ${f.layer}`)));
    const apart = infos.map((one, i) => sorted(one.findings.filter((f) => !has.every((set, j) => j === i || set.has(`${f.rule} ${f.layer}`)))));
    refill(
      found,
      infos.length < 2 ? null : h("h2", {}, "Found in one run only"),
      infos.length < 2 ? null : h("div", { class: "grid" }, infos.map((one, i) => h("div", {}, h("h3", {}, dot(one.name), one.name), apart[i].length ? list(apart[i], (f) => app.set({ view: "layer", run: one.name, site: f.layer, step: String(f.step) })) : h("p", { class: "calm" }, "Nothing")))),
    );
  }

  return { node, show, redraw: () => (made.forEach((chart) => chart.redraw()), curve.redraw()) };
}

/** Whether a frame has a row of a name with a number in it. */
function hasNumbers({ rows, first, high }, name) {
  const [r, n] = [rows.indexOf(name), first.length];
  return r >= 0 && high.subarray(r * n, (r + 1) * n).some((value) => !Number.isNaN(value));
}

/** A dot in the color of a run. */
export const dot = (name) => {
  const node = h("i", { class: "dot", "aria-hidden": "true" });
  node.style.background = runColor(name);
  return node;
};

/**
 * What b has more than a, a frame like theirs: rows that both have, columns of a; each with what b had last by that step. The
 * worse of a column's least and most is compared.
 */
export function difference(a, b, metric, scale) {
  const rows = a.rows.filter((name) => b.rows.includes(name));
  const [ca, cb] = [a.first.length, b.first.length];
  const out = new Float32Array(rows.length * ca).fill(NaN);
  const places = Array.from(a.last, (step) => placeOf(b, step));
  rows.forEach((name, r) => {
    const [ra, rb] = [a.rows.indexOf(name) * ca, b.rows.indexOf(name) * cb];
    for (let c = 0; c < ca; c++) {
      if (places[c] < 0) continue;
      const [i, j] = [ra + c, rb + places[c]];
      const [va, vb] = [worst(scale, a.low[i], a.high[i]), worst(scale, b.low[j], b.high[j])];
      out[r * ca + c] = metric.scale === "log" ? Math.log2(vb / va) : vb - va;
    }
  });
  return { rows, first: a.first, last: a.last, low: out, high: out, exact: a.exact && b.exact, count: a.count };
}

/** The column of a run that a step falls into, or the last before it; -1 where the run had not begun, or was over. */
function placeOf({ first, last }, step) {
  const at = columnOf(first, last, step);
  if (at >= first.length) return -1;
  return first[at] <= step ? at : at - 1;
}
