/**
 * Where answers come from: the server, or, in a report of one file, the page itself. And how frames are read.
 */

const KEYS = ["kind", "metric", "monitor", "run", "site"];
const KEPT = 48;
const ARRAYS = { f4: Float32Array, i4: Int32Array, u1: Uint8Array };

const embedded = document.getElementById("actdiag-answers");
const answers = embedded ? JSON.parse(embedded.textContent) : null;
const cache = new Map();

/** Whether the page holds its own answers: nothing is live, and nothing can be zoomed beyond what is there. */
export const isReport = answers !== null;

/** A plain answer. Raises Error with the server's own words. */
export function ask(route, query = {}) {
  return isReport ? told(route, query) : get(route, query).then((response) => response.json());
}

/** A frame: its header, and its arrays by name. `version` says what it is an answer about: the same is not asked twice. */
export function frame(route, query, version) {
  const key = JSON.stringify([route, query, version]);
  if (cache.has(key)) return cache.get(key);
  const answer = isReport
    ? told(route, query).then((text) => decode(bytesOf(text)))
    : get(route, query).then(async (response) => decode(await response.arrayBuffer()));
  cache.set(key, answer);
  answer.catch(() => cache.delete(key));
  if (cache.size > KEPT) cache.delete(cache.keys().next().value);
  return answer;
}

async function get(route, query) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  const response = await fetch(`./${route}?${new URLSearchParams(given)}`).catch(() => {
    throw new Error("TensorBoard does not answer. Is it still running?");
  });
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error ?? `TensorBoard answered with status ${response.status}.`);
}

async function told(route, query) {
  const given = KEYS.filter((key) => key in query).map((key) => `${key}=${encodeURIComponent(query[key])}`);
  const answer = answers[`${route}?${given.join("&")}`];
  if (answer === undefined) throw new Error("This was left out of the report, to keep the file small.");
  return answer;
}

function bytesOf(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
}

/** A frame as the server packs it: the length of the header, the header, arrays that begin at multiples of 8. */
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  for (const { name, dtype, shape, offset } of header.arrays) {
    const size = shape.reduce((a, b) => a * b, 1);
    header[name] = new ARRAYS[dtype](buffer, 4 + length + offset, size);
  }
  return header;
}
