/**
 * Parts of every chart: a canvas that fits its place, the axis of steps, and the same drawing as SVG.
 */

import { s } from "./dom.js";
import { whole } from "./format.js";
import { nice } from "./scale.js";

/** The text of charts. */
export const FONT = "11px Roboto, system-ui, sans-serif";
/** The names of layers in charts. */
export const MONO = "11px ui-monospace, 'Roboto Mono', Menlo, Consolas, monospace";
/** Height of the axis of steps. */
export const AXIS = 26;

/** Size a canvas in CSS pixels, sharp on every screen; its cleared context. */
export function prepare(canvas, width, height) {
  const dense = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * dense), Math.round(height * dense)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(dense, 0, 0, dense, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return ctx;
}

/** Where a step lies among columns, as a number of columns: recorded steps need not be evenly spaced. */
export function columnOf(first, last, step) {
  let [from, to] = [0, first.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (last[middle] < step) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** Ticks of the axis of steps: {x (0 to 1), text}. */
export function stepTicks(first, last, room) {
  if (!first.length) return [];
  const columns = first.length;
  const many = Math.max(2, Math.floor(room / 90));
  const ticks = [];
  for (const step of nice(first[0], last[columns - 1], many)) {
    const column = columnOf(first, last, step);
    if (column >= columns || !Number.isInteger(step)) continue;
    const x = (column + 0.5) / columns;
    if (!ticks.length || (x - ticks.at(-1).x) * room > 50) ticks.push({ x, text: whole(step) });
  }
  return ticks;
}

/** Draw the axis of steps below an area. */
export function drawSteps(ctx, { left, top, width, height }, ticks, colors) {
  ctx.font = FONT;
  ctx.fillStyle = colors.quiet;
  ctx.strokeStyle = colors.line;
  ctx.textBaseline = "top";
  for (const { x, text } of ticks) {
    const at = Math.round(left + x * width) + 0.5;
    ctx.beginPath();
    ctx.moveTo(at, top + height);
    ctx.lineTo(at, top + height + 4);
    ctx.stroke();
    ctx.textAlign = at > left + width - 24 ? "right" : at < left + 12 ? "left" : "center";
    ctx.fillText(text, at, top + height + 7);
  }
  ctx.textAlign = "right";
  ctx.fillText("step", left - 8, top + height + 7);
}

/** What a canvas context can do, as far as charts use it, written down as SVG. `node` is the picture. */
export function svgContext(width, height, background) {
  const root = s("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height });
  root.append(s("rect", { width, height, fill: background }));
  let path = "";
  const ctx = {
    node: root, fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, font: FONT, textAlign: "left", textBaseline: "alphabetic",
    imageSmoothingEnabled: false, dash: [],
    setLineDash: (dash) => (ctx.dash = dash),
    beginPath: () => (path = ""),
    moveTo: (x, y) => (path += `M${round(x)} ${round(y)}`),
    lineTo: (x, y) => (path += `L${round(x)} ${round(y)}`),
    closePath: () => (path += "Z"),
    stroke: () => {
      const dash = ctx.dash.join(" ") || null;
      root.append(s("path", { d: path, fill: "none", stroke: ctx.strokeStyle, "stroke-width": ctx.lineWidth, "stroke-dasharray": dash }));
    },
    fill: () => root.append(s("path", { d: path, fill: ctx.fillStyle })),
    fillRect: (x, y, w, h) => root.append(s("rect", { x: round(x), y: round(y), width: round(w), height: round(h), fill: ctx.fillStyle })),
    fillText: (text, x, y) => root.append(textNode(ctx, text, x, y)),
    drawImage: (image, x, y, w, h) =>
      root.append(s("image", { x, y, width: w, height: h, href: image.toDataURL("image/png"), preserveAspectRatio: "none", style: "image-rendering: pixelated" })),
  };
  return ctx;
}

const round = (x) => Math.round(x * 100) / 100;
const ANCHORS = { left: "start", center: "middle", right: "end" };
const BASELINES = { top: "hanging", middle: "central", alphabetic: "auto", bottom: "text-after-edge" };

function textNode(ctx, text, x, y) {
  const family = ctx.font.replace(/^.*?px /, "");
  const size = Number.parseFloat(ctx.font.match(/([\d.]+)px/)[1]);
  const weight = ctx.font.startsWith("600") ? 600 : null;
  return s("text", {
    x: round(x), y: round(y), fill: ctx.fillStyle, "font-size": size, "font-family": family, "font-weight": weight,
    "text-anchor": ANCHORS[ctx.textAlign], "dominant-baseline": BASELINES[ctx.textBaseline],
  }, text);
}
