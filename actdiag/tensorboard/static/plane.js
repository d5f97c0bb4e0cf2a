/**
 * Where the rows, columns, labels and brackets of a raster lie, in a window of some width.
 */

import { AXIS } from "./draw.js";

/** Room between labels and cells. */
export const GAP = 8;
/** Width of a bracket. */
export const BRACKET = 9;
/** Height of a line of labels. */
export const LABEL = 13;
/** Width of a letter of labels. */
export const LETTER = 6.7;

const TOP = 2;
const LEAST_ROOM = 30;
const MOST_ROOM = 230;
const LARGEST_SHARE = 0.34;

/** The places of a raster's model. */
export class Plane {
  constructor(model, width) {
    this.model = model;
    /** Brackets that are tall enough to be seen and hit. */
    this.brackets = model.brackets.filter(({ from, to }) => (to - from) * model.rowHeight >= LABEL);
    this.depth = Math.max(0, ...this.brackets.map((b) => b.depth + 1));
    const longest = Math.max(0, ...sample(model.rows).map((row) => model.label(row).length));
    const room = Math.min(Math.max(longest * LETTER, LEAST_ROOM), MOST_ROOM, width * LARGEST_SHARE);
    /** How many letters of a label there is room for. */
    this.letters = Math.floor(room / LETTER + 1e-6);
    this.left = Math.ceil(room + this.depth * BRACKET + 2 * GAP);
    this.top = TOP;
    this.width = Math.max(40, width - this.left - 2);
    this.height = Math.max(1, Math.round(model.rows * model.rowHeight));
    /** Width and height of everything, the axis too. */
    this.size = { width, height: this.height + AXIS + 4 };
  }

  /** What lies at a place: a cell (`inside`), or what labels a row (`inGutter`). */
  at(x, y) {
    const { left, top, width, height, model } = this;
    const tall = y >= top && y < top + height;
    return {
      x,
      inside: tall && x >= left && x < left + width,
      inGutter: tall && x < left,
      row: Math.min(Math.floor((y - top) / model.rowHeight), model.rows - 1),
      column: this.columnAt(x),
    };
  }

  /** The column at a place, the nearest one outside of all. */
  columnAt(x) {
    const column = Math.floor(((x - this.left) / this.width) * this.model.columns);
    return Math.min(Math.max(column, 0), this.model.columns - 1);
  }

  /** The bracket at a place of the gutter. */
  bracketAt({ x, row }) {
    return this.brackets.find((b) => row >= b.from && row < b.to && x >= b.depth * BRACKET && x < (b.depth + 1) * BRACKET);
  }

  /** The edges of a cell. */
  cell(row, column) {
    const { left, top, width, model } = this;
    return {
      x0: left + (column / model.columns) * width,
      x1: left + ((column + 1) / model.columns) * width,
      y0: top + row * model.rowHeight,
      y1: top + (row + 1) * model.rowHeight,
    };
  }

  /** A place kept among the cells. */
  clamped(x) {
    return Math.min(Math.max(x, this.left), this.left + this.width);
  }
}

/** Rows whose labels tell how wide labels are: all of few, some of many. */
function sample(rows) {
  const every = Math.max(1, Math.floor(rows / 300));
  return Array.from({ length: Math.ceil(rows / every) }, (_, i) => i * every);
}
