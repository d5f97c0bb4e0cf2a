/**
 * Elements from plain values. Text stays text: nothing of a log is ever parsed as markup.
 */

const SVG = "http://www.w3.org/2000/svg";

/** An element: h("button", {class: "quiet", onclick: open}, "Open"). Null, false and undefined children are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in the namespace of SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Put children in the place of what is there. */
export function refill(node, ...children) {
  node.replaceChildren(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
}

/** A labelled select; `options` are [value, text] or [value, text, group]. */
export function select(label, options, value, onchange) {
  const list = h("select", { onchange: () => onchange(list.value) }, grouped(options));
  list.value = value;
  return h("label", { class: "field" }, h("span", {}, label), list);
}

/** Other options in a select that stays where it is; the chosen value is kept if it is among them. */
export function reselect(field, options, value) {
  const list = field.querySelector("select");
  const told = JSON.stringify(options);
  if (list.dataset.told !== told) {
    list.dataset.told = told;
    list.replaceChildren(...grouped(options));
  }
  list.value = value;
}

function grouped(options) {
  const groups = new Map();
  for (const [value, text, group = ""] of options) {
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(h("option", { value }, text));
  }
  return [...groups].flatMap(([group, found]) => (group ? [h("optgroup", { label: group }, found)] : found));
}

/** A mark of a severity: its shape tells it apart as well as its color. */
export function mark(severity) {
  const shapes = {
    error: s("path", { d: "M5 1h6l4 4v6l-4 4H5l-4-4V5z" }),
    warning: s("path", { d: "M8 1.2 15.6 15H.4z" }),
    info: s("circle", { cx: 8, cy: 8, r: 7 }),
    healthy: s("path", { d: "M2 8.5 6.2 13 14 3.6", class: "stroke" }),
  };
  return s("svg", { class: `mark ${severity}`, viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" }, shapes[severity]);
}

/** A dot in the color of a run. */
export function dot(color) {
  const node = h("i", { class: "dot", "aria-hidden": "true" });
  node.style.background = color;
  return node;
}
