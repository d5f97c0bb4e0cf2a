/**
 * The legend of a scale: its colors, its numbers, the healthy range, and what is no number.
 */

import { SPECIAL, THEMES, css, ramp } from "./color.js";
import { h } from "./dom.js";
import { FONT, prepare } from "./draw.js";
import { theme } from "./host.js";
import { healthyWords } from "./scale.js";

/** Height of a legend. */
export const LEGEND = 46;
const BAR = 10;
const TOP = 16;
const MOST_WIDTH = 340;
const SWATCHES = 190;

/** A canvas that shows a scale. */
export class Legend {
  #canvas = h("canvas", { role: "img" });
  #scale = null;

  constructor() {
    this.node = h("div", { class: "legend" }, this.#canvas);
    new ResizeObserver(() => this.#draw()).observe(this.node);
  }

  /** Show a scale. */
  show(scale) {
    this.#scale = scale;
    const label = `Scale from ${scale.ticks[0].text} to ${scale.ticks.at(-1).text}. ${healthyWords(scale.metric)}`;
    this.#canvas.setAttribute("aria-label", label);
    this.#draw();
  }

  /** Draw it at a place of any canvas. */
  paint(ctx, x, y, width) {
    const scale = this.#scale;
    if (!scale) return;
    const colors = THEMES[theme()];
    const bar = Math.min(MOST_WIDTH, width - SWATCHES);
    paintBar(ctx, x, y + TOP, bar, scale);
    ctx.font = FONT;
    ctx.textBaseline = "top";
    ctx.fillStyle = colors.quiet;
    for (const { at, text } of scale.ticks) {
      ctx.textAlign = at < 0.02 ? "left" : at > 0.98 ? "right" : "center";
      ctx.fillText(text, x + at * bar, y + TOP + BAR + 5);
    }
    if (scale.healthy) paintHealthy(ctx, x, y + TOP, bar, scale, colors);
    drawSwatch(ctx, x + bar + 24, y + TOP, SPECIAL[theme()].none, "not applicable", colors);
    drawSwatch(ctx, x + bar + 24, y + TOP + 16, SPECIAL[theme()].infinite, "not finite", colors);
  }

  #draw() {
    if (this.node.clientWidth) this.paint(prepare(this.#canvas, this.node.clientWidth, LEGEND), 0, 0, this.node.clientWidth);
  }
}

function paintBar(ctx, x, y, width, { kind, flipped }) {
  const pixels = ramp(kind, theme());
  for (let i = 0; i < width; i++) {
    const at = Math.round((255 * (flipped ? width - 1 - i : i)) / Math.max(1, width - 1));
    ctx.fillStyle = css(pixels[at]);
    ctx.fillRect(x + i, y, 1.5, BAR);
  }
}

function paintHealthy(ctx, x, y, width, { healthy, metric }, colors) {
  const [from, to] = healthy.map((at) => x + at * width);
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
  ctx.fillText(healthyWords(metric), from, y - 5);
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
