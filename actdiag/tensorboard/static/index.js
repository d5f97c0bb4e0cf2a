/**
 * The tab: which run, which page, and when there is something new. TensorBoard imports this module and calls render().
 */

import { runColor } from "./color.js";
import { Compare } from "./compare.js";
import { dot, h, refill, reselect, select } from "./dom.js";
import { plural, whole } from "./format.js";
import { isSeen, onReload, onTheme, remember, remembered, theme } from "./host.js";
import { Layer } from "./layer.js";
import { Overview } from "./overview.js";
import { ask, isReport } from "./source.js";
import * as address from "./state.js";
import { hideTip, nodes as tipNodes } from "./tip.js";

const POLL_MS = 5000;
const PAGES = { overview: Overview, layer: Layer, compare: Compare };
const TITLES = { overview: "Overview", layer: "Layer", compare: "Compare" };

/** What the pages see: state of the address, the runs, the run that is looked at. */
const app = { state: address.read(), runs: [], info: null, set, infoOf };
const infos = new Map();
const pages = new Map();
const parts = {};
let turn = 0;
let shown = "";
let dirty = false;

/** Build the page and begin. */
export async function render() {
  document.title = "actdiag: activation health";
  document.documentElement.lang = "en";
  if (!isReport) document.head.append(h("link", { rel: "stylesheet", href: "./static/style.css" }), h("meta", { name: "viewport", content: "width=device-width" }));
  build();
  dress();
  onTheme(() => {
    dress();
    if (!app.info) return;
    showBar(shownView());
    pages.get(shownView())?.redraw();
  });
  document.addEventListener("keydown", keys);
  address.onChange(follow);
  if (!isReport) listen();
  await refresh();
}

function build() {
  const button = ([view, title]) => h("button", { class: "tab", "data-view": view, onclick: () => set({ view }) }, title);
  parts.nav = h("nav", { "aria-label": "Pages" }, Object.entries(TITLES).map(button));
  parts.run = select("Run", [], "", (run) => set({ run, step: "", from: "", to: "" }));
  parts.dot = h("span", { class: "runmark" });
  parts.status = h("p", { class: "status", role: "status" });
  parts.live = h("input", { type: "checkbox", onchange: () => remember("live", String(parts.live.checked)) });
  parts.live.checked = !isReport && remembered("live") !== "false";
  parts.main = h("main", {});
  const live = isReport ? null : h("label", { class: "live" }, parts.live, "Live");
  const bar = h("header", { class: "bar" }, h("h1", {}, "actdiag"), parts.nav, h("div", { class: "row" }, parts.dot, parts.run), parts.status, live);
  refill(document.body, bar, parts.main, tipNodes);
}

const dress = () => (document.documentElement.dataset.theme = theme());

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const view = Object.keys(PAGES)[Number(event.key) - 1];
  const act = pages.get(shownView())?.keys?.[event.key] ?? (view ? () => set({ view }) : null);
  if (!act) return;
  event.preventDefault();
  act();
}

/** Look for something new every few seconds while somebody looks, and when TensorBoard has reloaded. */
function listen() {
  onReload(() => (isSeen() ? refresh() : (dirty = true)));
  window.addEventListener("resize", () => {
    if (dirty && isSeen()) refresh();
  });
  setInterval(() => {
    if (parts.live.checked && isSeen()) refresh();
  }, POLL_MS);
}

/** An address that was pasted or gone back to; what is written here does not call this. */
function follow() {
  const state = address.read();
  if (JSON.stringify(state) === JSON.stringify(app.state)) return;
  hideTip();
  const other = state.run !== app.state.run;
  app.state = state;
  if (other) refresh();
  else show();
}

/** Change the state, in the address too, and show it. */
function set(changes) {
  hideTip();
  app.state = { ...app.state, ...changes };
  address.write(app.state);
  if ("run" in changes && changes.run !== app.info?.name) refresh();
  else show();
}

/** What is known of a run, asked anew when it has something new. */
async function infoOf(name) {
  const run = app.runs.find((one) => one.name === name);
  const known = infos.get(name);
  if (known?.version === run.version) return known.info;
  const info = { ...(await ask("run", { run: run.run, monitor: run.monitor })), version: run.version };
  infos.set(name, { version: run.version, info });
  return info;
}

/** Look for runs and for what is new in them; what is as it was is left alone. */
async function refresh() {
  dirty = false;
  const mine = ++turn;
  try {
    const { runs, problem } = await ask("runs");
    if (mine !== turn) return;
    const told = JSON.stringify(runs);
    app.runs = runs;
    if (!runs.length) return showNothing(problem);
    const chosen = runs.find(({ name }) => name === app.state.run) ?? runs[0];
    if (told === shown && chosen.name === app.info?.name) return;
    const info = await infoOf(chosen.name);
    if (mine !== turn) return; // a later look shows it
    app.info = info;
    shown = told;
    await show();
  } catch (error) {
    if (mine === turn) showFailure(error);
  }
}

function showNothing(problem) {
  app.info = null;
  shown = "";
  parts.status.textContent = "";
  refill(parts.main, nothing(problem));
}

/** What was there stays: it is still true. */
function showFailure({ message }) {
  shown = "";
  if (app.info) parts.status.textContent = message;
  else refill(parts.main, h("p", { class: "problem", role: "alert" }, message));
}

const shownView = () => (Object.hasOwn(PAGES, app.state.view) ? app.state.view : "overview");

async function show() {
  if (!app.info) return;
  const view = shownView();
  showBar(view);
  if (!pages.has(view)) pages.set(view, new PAGES[view](app));
  const page = pages.get(view);
  if (parts.main.firstChild !== page.node) {
    refill(parts.main, page.node);
    window.scrollTo(0, 0);
  }
  await page.show();
}

function showBar(view) {
  const { runs, info } = app;
  for (const button of parts.nav.children) button.setAttribute("aria-current", button.dataset.view === view ? "page" : "false");
  reselect(parts.run, runs.map(({ name }) => [name, name]), info.name);
  refill(parts.dot, dot(runColor(info.name, theme())));
  parts.status.textContent = `step ${whole(info.last_step)} · ${plural(info.count, "recorded step")} · ${plural(info.sites.length, "layer")}`;
}

/** What to do where no run has written anything. */
function nothing(problem) {
  const loop = 'import actdiag\n\nwith actdiag.Monitor(model, optimizer, log_dir="runs/first"):\n    for x, y in loader:\n        ...  # your loop, as it is';
  const trainer = "from actdiag.lightning import ActivationMonitor\n\nTrainer(callbacks=[ActivationMonitor()])";
  return h(
    "section",
    { class: "empty" },
    h("h2", {}, "No activation statistics here yet"),
    problem ? h("p", { class: "problem" }, problem) : null,
    h("p", {}, "Nothing below this log directory was written by actdiag. Add one line to a training, log below this directory, and the run appears here by itself."),
    h("h3", {}, "A plain PyTorch loop"),
    h("pre", { tabindex: 0 }, loop),
    h("h3", {}, "Lightning"),
    h("pre", { tabindex: 0 }, trainer),
    h("p", {}, "No training at hand? ", h("code", {}, "actdiag demo --log-dir runs"), " trains four small networks, three of them sick."),
  );
}
