/**
 * Curves over the recorded steps, with the healthy band behind them. A column's least and most are both drawn.
 */

import { THEMES } from "./color.js";
import { h } from "./dom.js";
import { AXIS, FONT, columnOf, drawSteps, prepare, stepTicks } from "./draw.js";
import { exact, rangeOf, stepsOf, valueOf, whole } from "./format.js";
import { theme } from "./host.js";
import { spread } from "./heat.js";
import { panel } from "./panel.js";
import { healthyWords, scaleOf } from "./scale.js";
import { hideTip, showTip, speak } from "./tip.js";

const LEFT = 62;
const HEIGHT = 150;
const TABLE_ROWS = 20;

/**
 * A panel of curves. `show({title, note, metric, series: [{name, first, last, low, high, color, shade: bool}], step})`;
 * each series has its own columns, so that runs recorded at other steps stand beside each other. `on.step(step)` when one is chosen.
 */
export function lines(on = {}) {
  const base = h("canvas", {});
  const overlay = h("canvas", { class: "overlay" });
  const node = h("div", { class: "lines", tabindex: 0, role: "application", "aria-roledescription": "line chart" }, base, overlay);
  const own = panel({ size, paint, table, numbers }, node);
  let shown = null;
  let at = null;

  function size() {
    return { width: node.clientWidth, height: HEIGHT + AXIS };
  }
  const area = () => ({ left: LEFT, top: 6, width: Math.max(20, node.clientWidth - LEFT - 6), height: HEIGHT - 8 });

  function draw() {
    if (!shown || !node.clientWidth) return;
    paint(prepare(base, node.clientWidth, HEIGHT + AXIS), 0, 0, THEMES[theme()]);
    drawCursor();
  }

  function paint(ctx, x, y, colors) {
    const own = area();
    const box = { ...own, left: own.left + x, top: own.top + y };
    drawBand(ctx, box, colors);
    drawValues(ctx, box, colors);
    drawSteps(ctx, box, stepTicks(shown.axis.first, shown.axis.last, box.width), colors);
    for (const one of shown.series) drawSeries(ctx, box, one, colors);
    if (shown.series.length > 1) drawNames(ctx, box, colors);
  }

  const toX = (box, step) => box.left + ((columnOf(shown.axis.first, shown.axis.last, step) + 0.5) / shown.axis.first.length) * box.width;
  const toY = (box, value) => box.top + box.height * (1 - Math.min(Math.max(shown.scale.position(value), -0.02), 1.02));

  function drawBand(ctx, box, colors) {
    if (!shown.scale.healthy) return;
    const [from, to] = shown.scale.healthy;
    ctx.fillStyle = colors.healthy;
    ctx.fillRect(box.left, box.top + box.height * (1 - to), box.width, box.height * (to - from));
  }

  function drawValues(ctx, box, colors) {
    ctx.font = FONT;
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    for (const { at: share, text } of shown.scale.ticks) {
      const y = Math.round(box.top + box.height * (1 - share)) + 0.5;
      ctx.strokeStyle = colors.grid;
      ctx.beginPath();
      ctx.moveTo(box.left, y);
      ctx.lineTo(box.left + box.width, y);
      ctx.stroke();
      ctx.fillStyle = colors.quiet;
      ctx.fillText(text, box.left - 8, y);
    }
  }

  function drawSeries(ctx, box, { first, last, low, high, color, shade }, colors) {
    for (const [from, to] of runs(low)) {
      const xs = Array.from({ length: to - from }, (_, i) => (toX(box, first[from + i]) + toX(box, last[from + i])) / 2);
      ctx.fillStyle = shade ? colors.shade : color;
      ctx.beginPath();
      xs.forEach((x, i) => ctx[i ? "lineTo" : "moveTo"](x, toY(box, high[from + i])));
      for (let i = xs.length - 1; i >= 0; i--) ctx.lineTo(xs[i], toY(box, low[from + i]));
      ctx.closePath();
      ctx.fill();
      if (shade) continue;
      ctx.strokeStyle = color;
      ctx.lineWidth = 1.5;
      ctx.beginPath();
      xs.forEach((x, i) => ctx[i ? "lineTo" : "moveTo"](x, toY(box, high[from + i])));
      if (xs.length === 1) ctx.lineTo(xs[0] + 1.5, toY(box, high[from]));
      ctx.stroke();
      ctx.lineWidth = 1;
    }
  }

  function drawNames(ctx, box, colors) {
    ctx.font = FONT;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    let x = box.left + 8;
    for (const { name, color } of shown.series) {
      ctx.fillStyle = color;
      ctx.fillRect(x, box.top + 8, 10, 3);
      ctx.fillStyle = colors.ink;
      ctx.fillText(name, x + 14, box.top + 4);
      x += 14 + 6.2 * name.length + 14;
    }
  }

  function drawCursor() {
    const ctx = prepare(overlay, node.clientWidth, HEIGHT + AXIS);
    const colors = THEMES[theme()];
    const box = area();
    for (const [column, alpha] of [[shown.held, 0.5], [at, 1]]) {
      if (column === null || column === undefined || column < 0) continue;
      const x = Math.round(box.left + ((column + 0.5) / shown.axis.first.length) * box.width) + 0.5;
      ctx.globalAlpha = alpha;
      ctx.strokeStyle = colors.cursor;
      ctx.setLineDash(alpha < 1 ? [3, 3] : []);
      ctx.beginPath();
      ctx.moveTo(x, box.top);
      ctx.lineTo(x, box.top + box.height);
      ctx.stroke();
    }
    ctx.globalAlpha = 1;
    ctx.setLineDash([]);
  }

  /** What each series says at a column of the axis. */
  function describe(column) {
    const [first, last] = [shown.axis.first[column], shown.axis.last[column]];
    const said = shown.series.map((one) => {
      const i = nearest(one, last);
      return i < 0 ? null : [one.name, rangeOf(shown.metric, one.low[i], one.high[i])];
    });
    const known = said.filter(Boolean);
    const lines = known.length > 1 ? known.map(([name, value]) => `${name}: ${value}`) : [];
    return { head: shown.title, value: known.length === 1 ? known[0][1] : stepsOf(first, last), lines: [...lines, ...(known.length === 1 ? [stepsOf(first, last)] : []), healthyWords(shown.metric)].filter(Boolean) };
  }

  node.addEventListener("pointermove", (event) => {
    if (!shown) return;
    const { left, width } = area();
    const column = Math.floor(((event.clientX - node.getBoundingClientRect().left - left) / width) * shown.axis.first.length);
    at = column >= 0 && column < shown.axis.first.length ? column : null;
    if (at === null) hideTip();
    else showTip(describe(at), event.clientX, event.clientY);
    drawCursor();
  });
  node.addEventListener("pointerleave", () => {
    at = null;
    hideTip();
    if (shown) drawCursor();
  });
  node.addEventListener("click", () => at !== null && on.step?.(shown.axis.last[at]));
  node.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity, PageUp: -10, PageDown: 10 }[event.key];
    if (by === undefined || !shown || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const columns = shown.axis.first.length;
    at = Math.min(Math.max((at ?? (shown.held >= 0 ? shown.held : columns - 1)) + (Number.isFinite(by) ? by : Math.sign(by) * columns), 0), columns - 1);
    drawCursor();
    const box = node.getBoundingClientRect();
    showTip(describe(at), box.left + LEFT + ((at + 0.5) / columns) * area().width, box.top + 40);
    speak(describe(at));
  });
  node.addEventListener("blur", () => {
    at = null;
    hideTip();
    if (shown) drawCursor();
  });

  function table() {
    const chosen = spread(shown.axis.first.length, TABLE_ROWS);
    return {
      heads: ["step", ...shown.series.map(({ name }) => name)],
      rows: chosen.map((c) => [whole(shown.axis.last[c]), ...shown.series.map((one) => said(one, shown.axis.last[c]))]),
    };
  }

  const said = (one, step) => {
    const i = nearest(one, step);
    return i < 0 ? "" : valueOf(shown.metric, one.high[i]);
  };

  function numbers() {
    const rows = [["series", "first_step", "last_step", "low", "high"]];
    for (const { name, first, last, low, high } of shown.series) {
      for (let i = 0; i < first.length; i++) rows.push([name, first[i], last[i], exact(low[i]), exact(high[i])]);
    }
    return rows;
  }

  new ResizeObserver(draw).observe(node);
  return {
    ...own,
    redraw: draw,
    show: (next) => {
      const scale = scaleOf(next.metric, next.series.flatMap(({ low, high }) => [low, high]));
      const axis = next.series.reduce((a, b) => (b.first.length > a.first.length ? b : a));
      const held = next.step === null || next.step === undefined ? -1 : columnOf(axis.first, axis.last, next.step);
      shown = { ...next, scale, axis, held };
      node.style.height = `${HEIGHT + AXIS}px`;
      node.setAttribute("aria-label", `${next.title}: ${next.series.map(({ name }) => name).join(", ")}. Arrow keys move along the steps.`);
      own.title(next.title, next.note ?? healthyWords(next.metric));
      draw();
    },
  };
}

/** Stretches without a gap: [from, to) of columns that hold numbers. */
function runs(values) {
  const found = [];
  let from = -1;
  for (let i = 0; i <= values.length; i++) {
    const there = i < values.length && !Number.isNaN(values[i]);
    if (there && from < 0) from = i;
    if (!there && from >= 0) {
      found.push([from, i]);
      from = -1;
    }
  }
  return found;
}

/** The last column of a series that begins at or before a step; -1 if there is none. */
function nearest({ first }, step) {
  let found = -1;
  for (let i = 0; i < first.length && first[i] <= step; i++) found = i;
  return found;
}
