/**
 * Colors: scales of uniform lightness, made in OKLCh, and the few named colors of each theme.
 *
 * Nothing wrong looks like the page; what is wrong stands out from it, in both themes.
 */

/** OKLCh (lightness 0 to 1, chroma, hue in degrees) to 8-bit sRGB. Björn Ottosson's matrices. */
export function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const n = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * n,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * n,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * n,
  ].map(gamma);
}

function gamma(linear) {
  const x = Math.min(Math.max(linear, 0), 1);
  return Math.round(255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055));
}

const mix = (a, b, t) => a + (b - a) * t;

/** Chroma that rises to its peak and falls again: the ends of lightness hold little color. */
const swell = (from, peak, to) => (t) => (t < 0.6 ? mix(from, peak, t / 0.6) : mix(peak, to, (t - 0.6) / 0.4));

const SEQUENTIAL = {
  light: {
    alarm: { lightness: [0.955, 0.36], hue: [88, 22], chroma: swell(0.02, 0.17, 0.13) },
    depth: { lightness: [0.955, 0.33], hue: [205, 272], chroma: swell(0.02, 0.12, 0.12) },
  },
  dark: {
    alarm: { lightness: [0.27, 0.9], hue: [12, 88], chroma: swell(0.012, 0.17, 0.13) },
    depth: { lightness: [0.27, 0.9], hue: [275, 190], chroma: swell(0.015, 0.12, 0.08) },
  },
};

const CENTER = { light: 0.955, dark: 0.3 };
const END = { light: 0.42, dark: 0.84 };
const LOW_HUE = 255;
const HIGH_HUE = 50;

const STEPS = 256;

/** 256 colors as 32-bit pixels: "alarm" and "depth" run from nothing to much, "center" to both sides of a middle. */
export function ramp(kind, theme) {
  const pixels = new Uint32Array(STEPS);
  for (let i = 0; i < STEPS; i++) pixels[i] = pixel(at(kind, theme, i / (STEPS - 1)));
  return pixels;
}

function at(kind, theme, t) {
  if (kind === "center") {
    const away = Math.abs(2 * t - 1);
    return oklch(mix(CENTER[theme], END[theme], away), 0.005 + 0.135 * away ** 0.8, t < 0.5 ? LOW_HUE : HIGH_HUE);
  }
  const { lightness, hue, chroma } = SEQUENTIAL[theme][kind];
  return oklch(mix(lightness[0], lightness[1], t), chroma(t), mix(hue[0], hue[1], t));
}

/** Red, green and blue as one opaque pixel of ImageData, which is little endian on every machine browsers run on. */
export const pixel = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

/** A pixel as CSS writes it. */
export const css = (value) => `rgb(${value & 255} ${(value >> 8) & 255} ${(value >> 16) & 255})`;

/** Colors of what is drawn on canvas: the same names as in style.css. */
export const THEMES = {
  light: {
    page: "#ffffff", ink: "#22262b", quiet: "#5d656e", line: "#d9dde1", grid: "#eceef0", healthy: "#e6f1ea", edge: "#3f8f63",
    cursor: "#14171a", curve: "#2f63a8", second: "#b5562a", shade: "rgba(47, 99, 168, 0.18)",
  },
  dark: {
    page: "#1e2023", ink: "#e4e7ea", quiet: "#a2abb4", line: "#3d434a", grid: "#2a2e33", healthy: "#20332a", edge: "#6fbf92",
    cursor: "#ffffff", curve: "#84b1ea", second: "#eb9a6e", shade: "rgba(132, 177, 234, 0.22)",
  },
};

/** What is no color of a scale: not applicable, and not finite. */
export const SPECIAL = {
  light: { none: pixel([226, 229, 232]), infinite: pixel([196, 0, 140]) },
  dark: { none: pixel([52, 56, 61]), infinite: pixel([255, 92, 214]) },
};

/** States of units, in the order of their letters; 0 is unknown. They differ in lightness too. */
export const UNIT_COLORS = {
  light: [
    pixel([226, 229, 232]), pixel(oklch(0.93, 0.03, 160)), pixel(oklch(0.82, 0.09, 175)),
    pixel(oklch(0.74, 0.14, 75)), pixel(oklch(0.42, 0.15, 25)), pixel(oklch(0.6, 0.12, 255)),
  ],
  dark: [
    pixel([52, 56, 61]), pixel(oklch(0.34, 0.03, 160)), pixel(oklch(0.5, 0.07, 175)),
    pixel(oklch(0.68, 0.13, 75)), pixel(oklch(0.76, 0.16, 30)), pixel(oklch(0.62, 0.12, 255)),
  ],
};

const RUN_COLORS = {
  light: ["#2f63a8", "#b5562a", "#3f8f63", "#8a4fa3", "#94761f", "#2f8fa8", "#a83f5f", "#5f6b78"],
  dark: ["#84b1ea", "#eb9a6e", "#6fbf92", "#c795dd", "#d3b65a", "#6cc3da", "#e585a2", "#a9b4c0"],
};

/** The color of a run: made of its name, so that it is the same in every window and on every day. */
export const runColor = (name, theme) => RUN_COLORS[theme][placeOf(name)];

/** Colors of runs beside each other, name -> color: each its own, unless an earlier one has it already. */
export function runColors(names, theme) {
  const colors = RUN_COLORS[theme];
  const found = new Map();
  for (const name of names) {
    const order = colors.map((_, i) => colors[(placeOf(name) + i) % colors.length]);
    const taken = new Set(found.values());
    found.set(name, order.find((color) => !taken.has(color)) ?? order[0]);
  }
  return found;
}

function placeOf(name) {
  let sum = 2166136261;
  for (const letter of name) sum = Math.imul(sum ^ letter.codePointAt(0), 16777619) >>> 0;
  return sum % RUN_COLORS.light.length;
}
