/**
 * TensorBoard around us: its theme, its reload button, and whether our tab is in front.
 */

/** "light" or "dark", as TensorBoard has it; as the system has it where there is no TensorBoard around. */
export function theme() {
  const body = hostBody();
  if (body) return body.classList.contains("dark-mode") ? "dark" : "light";
  return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** Call back whenever the theme changes. */
export function onTheme(callback) {
  const body = hostBody();
  if (body) new MutationObserver(callback).observe(body, { attributes: true, attributeFilter: ["class"] });
  else window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", callback);
}

function hostBody() {
  try {
    return window.parent === window ? null : window.parent.document.body;
  } catch {
    return null; // another origin has framed TensorBoard
  }
}

/** Whether anybody can see us: a tab that is not in front keeps its frame, without a height. */
export const isSeen = () => window.innerHeight > 0 && document.visibilityState === "visible";

/** What this browser remembers of a choice; null where it remembers nothing, or may not. */
export function remembered(name) {
  try {
    return localStorage.getItem(`actdiag.${name}`);
  } catch {
    return null; // storage is forbidden
  }
}

/** Remember a choice, where that is allowed. */
export function remember(name, value) {
  try {
    localStorage.setItem(`actdiag.${name}`, value);
  } catch {
    // storage is forbidden, or full: the choice holds until the page is left
  }
}

/** Call back when TensorBoard has reloaded its data. Its messages are JSON on a channel that the guest opens. */
export function onReload(callback) {
  if (window.parent === window) return;
  const channel = new MessageChannel();
  channel.port1.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "experimental.DataReloaded" && !message.isReply) callback();
    if (!message.isReply) channel.port1.postMessage(JSON.stringify({ ...message, payload: null, error: null, isReply: true }));
  };
  window.parent.postMessage("experimental.bootstrap", "*", [channel.port2]);
}
