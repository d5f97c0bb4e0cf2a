/**
 * What is looked at, in the address of TensorBoard's own page: it survives a reload and can be sent to a colleague.
 */

const FRONT = "p.actdiag.";
const DEFAULTS = { view: "overview", run: "", vs: "", metric: "", site: "", step: "", from: "", to: "", fold: "", filter: "" };

/** The page whose address is seen: TensorBoard's, or, in a report of one file, our own. */
function page() {
  try {
    return window.parent.location.hash === undefined ? window : window.parent;
  } catch {
    return window; // another origin has framed TensorBoard
  }
}

/** The state in the address. */
export function read() {
  const state = { ...DEFAULTS };
  for (const part of page().location.hash.replace(/^#/, "").split("&")) {
    const [name, value = ""] = part.split("=");
    const key = name.startsWith(FRONT) ? name.slice(FRONT.length) : "";
    if (key in DEFAULTS) state[key] = decoded(value);
  }
  return state;
}

/** Call back when the address has changed by other hands while our tab is in front. */
export function onChange(callback) {
  const host = page();
  host.addEventListener("hashchange", () => {
    const [plugin] = host.location.hash.replace(/^#/, "").split("&");
    if (host === window || plugin === "actdiag") callback();
  });
}

/** Replace the state in the address; what is as by default is left out, and so are other plugins' parts kept. */
export function write(state) {
  const host = page();
  const others = host.location.hash.replace(/^#/, "").split("&").filter((part) => part && !part.startsWith(FRONT));
  if (!others.length) others.push("actdiag");
  if (host !== window && others[0] !== "actdiag") return; // another tab is in front
  const own = Object.entries(state)
    .filter(([key, value]) => key in DEFAULTS && value !== DEFAULTS[key])
    .map(([key, value]) => `${FRONT}${key}=${encodeURIComponent(value)}`);
  const hash = `#${[...others, ...own].join("&")}`;
  if (hash === host.location.hash) return;
  const [before] = host.location.href.split("#"); // a mere hash would be resolved against the page's <base>
  host.history.replaceState(host.history.state, "", before + hash);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a stray percent sign
  }
}
