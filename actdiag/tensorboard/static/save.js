/**
 * Charts as files: a picture (PNG, SVG) or the numbers (CSV).
 */

import { h } from "./dom.js";

const LATER_MS = 30_000;

/** Offer a file; nothing leaves the browser. */
export function save(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = h("a", { href: url, download: fileName(name) });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), LATER_MS); // the download may begin after the click has returned
}

const fileName = (text) => text.replace(/[^A-Za-z0-9._-]+/g, "_").replace(/^[_.]+/, "");

/** Rows of cells as CSV. A cell that a spreadsheet would run as a formula is marked as text. */
export function csvOf(rows) {
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function cell(value) {
  const text = String(value);
  const safe = /^[=+@\t\r]/.test(text) || (/^-/.test(text) && Number.isNaN(Number(text))) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A canvas as PNG. */
export function savePng(name, canvas) {
  canvas.toBlob((blob) => blob && save(`${name}.png`, blob, "image/png"));
}

/** An SVG element as a file. */
export function saveSvg(name, node) {
  save(`${name}.svg`, new XMLSerializer().serializeToString(node), "image/svg+xml");
}
