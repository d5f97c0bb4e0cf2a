/**
 * What is wrong, in words: a verdict of the run, findings as lines that lead to their place, and one in full.
 */

import { h, mark } from "./dom.js";
import { number, percent, plural, titleOf, whole } from "./format.js";

const WEIGHT = { error: 3, warning: 2, info: 1 };

/** Open before resolved, worst first, newest first. */
export function sorted(findings) {
  const weight = (f) => (f.resolved_step === null ? 10 : 0) + WEIGHT[f.severity];
  return [...findings].sort((a, b) => weight(b) - weight(a) || b.step - a.step || a.layer.localeCompare(b.layer));
}

/** One sentence about the run. */
export function verdict(info) {
  const open = info.findings.filter((f) => f.resolved_step === null);
  const of = (severity) => open.filter((f) => f.severity === severity).length;
  const counts = [[of("error"), "error"], [of("warning"), "warning"]].filter(([n]) => n).map(([n, what]) => plural(n, what));
  const worstOpen = of("error") ? "error" : of("warning") ? "warning" : "healthy";
  const layers = new Set(open.filter((f) => f.severity !== "info").map((f) => f.layer)).size;
  const notes = of("info") ? `, ${plural(of("info"), "note")}` : "";
  const words = counts.length
    ? `${counts.join(" and ")} in ${plural(layers, "layer")}${notes}`
    : `Nothing is wrong in ${plural(info.count, "recorded step")}${notes}`;
  return h("h2", { class: `verdict ${worstOpen}` }, mark(worstOpen), words);
}

/** When a finding held: "since step 120", "since step 120, error since 300", "step 120 to 300, resolved". */
export function when({ step, severity, severity_step: risen = null, resolved_step: over }) {
  if (over !== null) return `step ${whole(step)} to ${whole(over)}, resolved`;
  return `since step ${whole(step)}${risen === null ? "" : `, ${severity} since ${whole(risen)}`}`;
}

/** Findings as buttons; `open(finding)` is called with the one chosen. */
export function list(findings, open) {
  return h(
    "ul",
    { class: "findings" },
    findings.map((f) =>
      h(
        "li",
        {},
        h(
          "button",
          { class: `finding ${f.severity}${f.resolved_step === null ? "" : " resolved"}`, onclick: () => open(f) },
          mark(f.severity),
          h("span", { class: "words" }, h("b", {}, titleOf(f.rule)), h("code", {}, f.layer), h("span", { class: "message" }, sentence(f))),
          h("span", { class: "when" }, when(f)),
        ),
      ),
    ),
  );
}

/** The message without the layer that begins it: the layer stands beside it already. */
function sentence({ layer, message }) {
  const text = message.startsWith(`${layer}: `) ? message.slice(layer.length + 2) : message;
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** One finding in full: evidence, cause, what to try, source. */
export function detail(f) {
  return h(
    "article",
    { class: `detail ${f.severity}${f.resolved_step === null ? "" : " resolved"}` },
    h("h3", {}, mark(f.severity), titleOf(f.rule), h("span", { class: "when" }, when(f))),
    h("p", { class: "message" }, sentence(f)),
    f.cause ? h("p", {}, h("b", {}, "Likely cause: "), `${f.cause}.`) : null,
    f.advice.length ? h("div", {}, h("b", {}, "What to try, in this order"), h("ol", {}, f.advice.map((text) => h("li", {}, text)))) : null,
    h("details", {}, h("summary", {}, "Evidence and source"), evidence(f), f.source ? h("p", { class: "source" }, f.source) : null),
  );
}

function evidence({ evidence: told }) {
  const rows = Object.entries(told).filter(([, value]) => value !== null);
  return h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, valueText(name, value))]));
}

function valueText(name, value) {
  if (Array.isArray(value)) return value.length ? value.map((one) => valueText(name, one)).join(", ") : "none";
  if (typeof value !== "number") return String(value);
  return /fraction|share/.test(name) ? percent(value) : number(value);
}
