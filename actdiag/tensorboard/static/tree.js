/**
 * Layers as rows: in the order they run, those of a folded module as one row, those that a filter leaves out not at all.
 */

/** The modules around a layer, outermost first: "blocks.0.act1" lies in "blocks" and "blocks.0". */
function around(name) {
  const parts = name.split(".");
  return parts.slice(1).map((_, i) => parts.slice(0, i + 1).join("."));
}

/** Modules that can be folded: around two layers or more, not around all, of nested ones around the same the inner. Module -> indices of its layers. */
export function groups(names) {
  const found = new Map();
  names.forEach((name, i) => {
    for (const key of around(name)) found.set(key, [...(found.get(key) ?? []), i]);
  });
  const inner = (key, members) => [...found].some(([other, own]) => other.startsWith(`${key}.`) && own.length === members.length);
  return new Map([...found].filter(([key, members]) => members.length > 1 && members.length < names.length && !inner(key, members)));
}

/**
 * Rows {label, members: indices of names, key: the folded module or null}, and brackets {from, to, depth, key, text} around
 * the rows of modules that are not folded. `there(i)`: whether a layer is to be shown at all.
 */
export function rowsOf(names, folded, filter, there = () => true) {
  const shown = names.map((name, i) => [name, i]).filter(([name, i]) => fits(name, filter) && there(i));
  const known = groups(names);
  const rows = [];
  const placed = new Map();
  for (const [name, i] of shown) {
    const key = around(name).find((module) => folded.has(module) && known.has(module)) ?? null;
    if (key !== null && placed.has(key)) placed.get(key).members.push(i);
    else {
      const row = { label: name, members: [i], key };
      if (key !== null) placed.set(key, row);
      rows.push(row);
    }
  }
  for (const row of rows) if (row.key !== null) row.label = `▸ ${row.key} (${row.members.length})`;
  return { rows, brackets: bracketsOf(names, rows, known) };
}

/** Whether a name has every word of the filter in it. */
export const fits = (name, filter) => filter.toLowerCase().split(/\s+/).every((word) => name.toLowerCase().includes(word));

const DEEPEST = 3;

function bracketsOf(names, rows, known) {
  const open = [];
  const done = [];
  rows.forEach((row, at) => {
    const modules = row.key === null ? around(names[row.members[0]]).filter((key) => known.has(key)).slice(0, DEEPEST) : [];
    while (open.length && open.at(-1).key !== modules[open.length - 1]) done.push({ ...open.pop(), to: at });
    modules.slice(open.length).forEach((key) => open.push({ key, from: at, depth: open.length, text: "Fold" }));
  });
  while (open.length) done.push({ ...open.pop(), to: rows.length });
  return done.filter(({ from, to }) => to - from > 1);
}

/** Least and most of each row's layers in each column: {low, high}, both rows x columns. NaN where none has a number. */
export function combine(rows, low, high, columns) {
  const out = { low: new Float32Array(rows.length * columns), high: new Float32Array(rows.length * columns) };
  rows.forEach(({ members }, r) => {
    const to = r * columns;
    out.low.set(low.subarray(members[0] * columns, (members[0] + 1) * columns), to);
    out.high.set(high.subarray(members[0] * columns, (members[0] + 1) * columns), to);
    for (const member of members.slice(1)) {
      for (let c = 0; c < columns; c++) {
        const [a, b] = [low[member * columns + c], high[member * columns + c]];
        if (!(out.low[to + c] <= a)) out.low[to + c] = Number.isNaN(a) ? out.low[to + c] : a;
        if (!(out.high[to + c] >= b)) out.high[to + c] = Number.isNaN(b) ? out.high[to + c] : b;
      }
    }
  });
  return out;
}
