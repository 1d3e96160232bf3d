/** Plots over the steps of an answer. A click seeks; the slider of the player is for the keyboard. */

import { rounded } from "../core/frames.js";
import { h, setText, svg } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 88;
const MARGIN = 4;

/** Points that a line has at most. */
const POINTS = 1200;

/** A line of figures over pictures. */
export class LinePlot {
  #line = svg("path", { class: "line" });
  #borders = svg("path", { class: "border" });
  #cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT });
  #svg = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    this.#borders,
    this.#line,
    this.#cursor,
  );
  #high = h("span", { class: "high" });
  #low = h("span", { class: "low" });
  #now = h("span", { class: "now" });
  /** @type {(number | null)[]} */
  #values = [];

  /** @param {string} title @param {boolean} log @param {(index: number) => void} onSeek */
  constructor(title, log, onSeek) {
    this.title = title;
    this.log = log;
    this.#svg.addEventListener("click", (event) => {
      const box = this.#svg.getBoundingClientRect();
      onSeek(Math.round(((event.clientX - box.left) / box.width) * Math.max(this.#values.length - 1, 1)));
    });
    this.element = h(
      "figure",
      { class: "plot" },
      h("figcaption", {}, h("span", {}, title), this.#now),
      h("div", { class: "area" }, this.#svg, this.#high, this.#low),
    );
  }

  /** @param {(number | null)[]} values One for each picture; null has none. @param {number[]} borders */
  setValues(values, borders) {
    this.#values = values;
    const present = /** @type {number[]} */ (values.filter((value) => value !== null && (!this.log || value > 0)));
    const low = present.reduce((least, value) => Math.min(least, value), Infinity);
    const high = present.reduce((most, value) => Math.max(most, value), -Infinity);
    const from = this.log ? low : Math.min(0, low);
    const scale = (/** @type {number} */ value) => (this.log ? Math.log(Math.max(value, low)) : value);
    const span = scale(high) - scale(from) || 1;
    const y = (/** @type {number} */ value) => HEIGHT - MARGIN - ((scale(value) - scale(from)) / span) * (HEIGHT - 2 * MARGIN);
    let path = "";
    let pen = "M";
    const stride = Math.max(1, Math.floor(values.length / POINTS));
    for (let at = 0; at < values.length; at += stride) {
      const value = values[at];
      if (value === null || value === undefined) {
        pen = "M";
        continue;
      }
      path += `${pen}${this.#x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    }
    this.#line.setAttribute("d", path);
    const top = borders.map((border) => `M${this.#x(border).toFixed(1)} 0V${HEIGHT}`);
    this.#borders.setAttribute("d", top.join(""));
    setText(this.#high, present.length ? rounded(high) : "");
    setText(this.#low, present.length ? rounded(from) : "");
  }

  /** @param {number} index Of the picture shown. */
  setCursor(index) {
    const x = String(this.#x(index));
    this.#cursor.setAttribute("x1", x);
    this.#cursor.setAttribute("x2", x);
    const value = this.#values[index];
    setText(this.#now, value === null || value === undefined ? "" : rounded(value));
  }

  /** @param {number} index */
  #x(index) {
    return (index / Math.max(this.#values.length - 1, 1)) * WIDTH;
  }
}

/** The entropies of a canvas: a column for each step, a row for each position. */
export class HeatMap {
  #canvas = h("canvas", { width: 1, height: 1, role: "img" });
  #cursor = h("div", { class: "heat-cursor" });
  #area = h("div", { class: "heat-area" }, this.#canvas, this.#cursor);
  /** @type {Draft[]} */
  #drafts = [];

  /** @param {(draft: number, position: number) => void} onSeek */
  constructor(onSeek) {
    this.#canvas.addEventListener("click", (event) => {
      const box = this.#canvas.getBoundingClientRect();
      const draft = Math.floor(((event.clientX - box.left) / box.width) * this.#canvas.width);
      onSeek(draft, Math.floor(((event.clientY - box.top) / box.height) * this.#canvas.height));
    });
    this.element = h(
      "figure",
      { class: "plot heat" },
      h("figcaption", {}, "Entropy, position (down) × step (right)"),
      this.#area,
    );
  }

  /** @param {Canvas} canvas */
  setCanvas({ drafts, length, block }) {
    if (!drafts.length) return;
    if (this.#drafts === drafts && this.#canvas.width === drafts.length) return;
    this.#drafts = drafts;
    this.#canvas.width = drafts.length;
    this.#canvas.height = length;
    this.#canvas.setAttribute(
      "aria-label",
      `Entropies of canvas ${block + 1}: ${length} positions over ${drafts.length} steps; a click seeks`,
    );
    const image = new ImageData(drafts.length, length);
    for (const [column, { entropy }] of drafts.entries()) {
      for (let row = 0; row < length; row++) {
        image.data.set(colourOf(entropy[row] ?? 0), 4 * (row * drafts.length + column));
      }
    }
    this.#canvas.getContext("2d")?.putImageData(image, 0, 0);
  }

  /** @param {number} draft Index of the draft shown. @param {number} position */
  setCursor(draft, position) {
    const { style } = this.#cursor;
    style.setProperty("--column", String((draft + 0.5) / this.#canvas.width));
    style.setProperty("--row", String((position + 0.5) / this.#canvas.height));
  }
}

/** How uncertain an entropy is, from 0 to 9 on a logarithmic scale. @param {number} entropy */
export function shadeOf(entropy) {
  const at = (Math.log10(Math.max(entropy, 1e-6)) + 6) / 7;
  return Math.min(9, Math.floor(at * 10));
}

/** @param {number} entropy */
function colourOf(entropy) {
  const at = Math.min(1, Math.max(0, (Math.log10(Math.max(entropy, 1e-6)) + 6) / 7));
  // From deep blue over violet to warm yellow, of growing lightness.
  const mix = (/** @type {number} */ a, /** @type {number} */ b, /** @type {number} */ c) =>
    at < 0.5 ? a + (b - a) * 2 * at : b + (c - b) * (2 * at - 1);
  return [mix(30, 168, 255), mix(27, 58, 214), mix(75, 140, 92), 255];
}
