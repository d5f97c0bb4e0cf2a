/**
 * The legend of a scale: its colors, its numbers, the healthy range, and what is no number.
 */

import { SPECIAL, THEMES, css, ramp } from "./color.js";
import { h } from "./dom.js";
import { FONT, prepare } from "./draw.js";
import { theme } from "./host.js";
import { healthyWords } from "./scale.js";

export const LEGEND = 46;
const BAR = 10;
const TOP = 16;

/** A canvas that shows a scale. `paint(ctx, x, y, width)` draws the same elsewhere. */
export function legend() {
  const canvas = h("canvas", { role: "img" });
  const node = h("div", { class: "legend" }, canvas);
  let scale = null;

  function paint(ctx, x, y, width) {
    if (!scale) return;
    const colors = THEMES[theme()];
    const bar = Math.min(340, width - 190);
    drawBar(ctx, x, y + TOP, bar);
    ctx.font = FONT;
    ctx.textBaseline = "top";
    ctx.fillStyle = colors.quiet;
    for (const { at, text } of scale.ticks) {
      ctx.textAlign = at < 0.02 ? "left" : at > 0.98 ? "right" : "center";
      ctx.fillText(text, x + at * bar, y + TOP + BAR + 5);
    }
    if (scale.healthy) drawHealthy(ctx, x, y + TOP, bar, colors);
    drawSwatch(ctx, x + bar + 24, y + TOP, SPECIAL[theme()].none, "not applicable", colors);
    drawSwatch(ctx, x + bar + 24, y + TOP + 16, SPECIAL[theme()].infinite, "not finite", colors);
  }

  function drawBar(ctx, x, y, width) {
    const pixels = ramp(scale.kind, theme());
    for (let i = 0; i < width; i++) {
      const at = Math.round((255 * (scale.flipped ? width - 1 - i : i)) / Math.max(1, width - 1));
      ctx.fillStyle = css(pixels[at]);
      ctx.fillRect(x + i, y, 1.5, BAR);
    }
  }

  function drawHealthy(ctx, x, y, width, colors) {
    const [from, to] = scale.healthy.map((at) => x + at * width);
    ctx.strokeStyle = colors.edge;
    ctx.lineWidth = 1.5;
    ctx.beginPath();
    ctx.moveTo(from + 0.75, y - 1);
    ctx.lineTo(from + 0.75, y - 4);
    ctx.lineTo(to - 0.75, y - 4);
    ctx.lineTo(to - 0.75, y - 1);
    ctx.stroke();
    ctx.lineWidth = 1;
    ctx.fillStyle = colors.edge;
    ctx.textBaseline = "bottom";
    ctx.textAlign = "left";
    ctx.fillText(healthyWords(scale.metric), from, y - 5);
  }

  function draw() {
    if (node.clientWidth) paint(prepare(canvas, node.clientWidth, LEGEND), 0, 0, node.clientWidth);
  }

  new ResizeObserver(draw).observe(node);
  return {
    node,
    paint,
    show: (next) => {
      scale = next;
      canvas.setAttribute("aria-label", `Scale from ${scale.ticks[0].text} to ${scale.ticks.at(-1).text}. ${healthyWords(scale.metric)}`);
      draw();
    },
  };
}

/** A square of a color and what it stands for. */
export function drawSwatch(ctx, x, y, color, text, colors) {
  ctx.fillStyle = css(color);
  ctx.fillRect(x, y, BAR, BAR);
  ctx.fillStyle = colors.quiet;
  ctx.font = FONT;
  ctx.textAlign = "left";
  ctx.textBaseline = "top";
  ctx.fillText(text, x + BAR + 6, y);
}
