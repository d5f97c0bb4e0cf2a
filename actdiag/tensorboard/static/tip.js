/**
 * One tooltip for all charts, and one line that a screen reader speaks when the cursor is moved by keys.
 */

import { h, refill } from "./dom.js";

const box = h("div", { class: "tip", "aria-hidden": "true", hidden: true });
const spoken = h("p", { class: "spoken", "aria-live": "polite" });
let owner = null;

/** Both nodes, to be put into the page once. */
export const nodes = [box, spoken];

/** Show what a chart (`whose`) says, {head, value, lines}, beside a place of the window. */
export function showTip(whose, { head, value, lines = [] }, x, y) {
  owner = whose;
  refill(box, h("b", {}, value), h("code", {}, head), lines.map((line) => h("span", {}, line)));
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  const left = x + 16 + width > window.innerWidth ? x - 12 - width : x + 16;
  const top = y + 18 + height > window.innerHeight ? y - 12 - height : y + 18;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${Math.max(4, top)}px`;
}

/** Hide the tooltip, if it is that of a chart; whose ever it is where none is named. */
export function hideTip(whose = owner) {
  if (whose !== owner) return;
  owner = null;
  box.hidden = true;
}

/** Whether a chart's tooltip is seen. */
export const showsTip = (whose) => owner === whose && !box.hidden;

/** Have {head, value, lines} spoken. */
export function speak({ head, value, lines = [] }) {
  spoken.textContent = [head, value, ...lines].join(", ");
}
