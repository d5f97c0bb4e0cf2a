/**
 * The first page: is my run healthy, and where is it not?
 */

import { h, refill } from "./dom.js";
import { list, sorted, verdict } from "./findings.js";
import { Heat } from "./heat.js";
import { LayerTools, askStat, heatEvents, heatState, metricOf, noteOf, openLayer, placeOf } from "./tools.js";

const FIRST_SHOWN = 6;
const PROBLEMS_SHOWN = 3;

/** The page. */
export class Overview {
  #app;
  #summary = h("section", { class: "summary", "aria-label": "Findings" });
  #tools;
  #heat;
  #told = "";

  /** `app`: state, set(changes), info. */
  constructor(app) {
    this.#app = app;
    this.#tools = new LayerTools(app);
    this.#heat = new Heat(heatEvents(app));
    this.#heat.controls.append(...this.#tools.nodes);
    this.node = h("div", { class: "overview" }, this.#summary, this.#heat.node);
  }

  /** Show the state. */
  async show() {
    const { info, state } = this.#app;
    this.#showFindings(info);
    this.#tools.show();
    const metric = metricOf(info, state.metric);
    if (!metric) return;
    this.#heat.busy(true);
    try {
      const data = await askStat(this.#app, info, metric, this.#heat.width);
      if (state !== this.#app.state) return; // something else has been asked for meanwhile
      const at = state.site && state.step !== "" ? [state.site, Number(state.step)] : null;
      this.#heat.show({ title: metric.title, note: noteOf(data, metric), metric, data, at, ...heatState(state) });
      this.#heat.fail("");
    } catch (error) {
      this.#heat.fail(error.message);
    } finally {
      if (state === this.#app.state) this.#heat.busy(false);
    }
  }

  /** Draw anew, in the theme of now. */
  redraw() {
    this.#heat.redraw();
  }

  #showFindings(info) {
    const told = JSON.stringify([info.name, info.findings, info.problems, info.findings.length || info.count]);
    if (this.#told === told) return; // what has the focus keeps it
    this.#told = told;
    const all = sorted(info.findings);
    const open = all.filter((f) => f.resolved_step === null);
    const rest = [...open.slice(FIRST_SHOWN), ...all.filter((f) => f.resolved_step !== null)];
    const unfolded = this.#summary.querySelector("details")?.open ?? false;
    const go = (f) => openLayer(this.#app, placeOf(this.#app.info, f), f.step);
    refill(
      this.#summary,
      verdict(info),
      open.length ? list(open.slice(0, FIRST_SHOWN), go) : null,
      rest.length ? h("details", { open: unfolded }, h("summary", {}, restWords(open.length - FIRST_SHOWN, rest.length)), list(rest, go)) : null,
      info.problems.length ? h("p", { class: "problem" }, `Not all of the log could be read: ${info.problems.slice(0, PROBLEMS_SHOWN).join("; ")}`) : null,
    );
  }
}

function restWords(more, all) {
  const resolved = all - Math.max(0, more);
  return [more > 0 ? `${more} more` : "", resolved ? `${resolved} resolved` : ""].filter(Boolean).join(", ");
}
