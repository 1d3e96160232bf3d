/** The sampler's parameters and the seed, as sliders and fields. */

import { rounded } from "../core/frames.js";
import { PARAMETERS, isSeed } from "../core/settings.js";
import { button, freshId, h, setText } from "./dom.js";

/** Positions of a slider with a logarithmic scale. */
const LOG_STEPS = 200;

export class Controls {
  /** @type {Map<string, (value: number) => void>} */
  #sliders = new Map();
  /** @type {Values} */
  #values = {};
  /** The server's defaults. @type {Values} */
  #defaults = {};
  #seed = h("input", {
    type: "text",
    inputmode: "numeric",
    id: freshId("seed"),
    class: "seed",
    placeholder: "random",
    autocomplete: "off",
    input: () => this.#checkSeed(),
  });

  /** @param {string} label @param {() => void} [onChange] */
  constructor(label, onChange = () => {}) {
    this.onChange = onChange;
    this.element = h(
      "fieldset",
      { class: "controls" },
      h("legend", {}, label),
      h("label", { class: "field" }, h("span", {}, "Seed"), this.#seed),
      ...PARAMETERS.map((parameter) => this.#slider(parameter)),
      button("Reset", () => this.reset(), { class: "quiet" }),
    );
  }

  /** Parameters that differ from the server's. @returns {Values} */
  get values() {
    return { ...this.#values };
  }

  /** @param {Values} values */
  set values(values) {
    this.#values = { ...values };
    this.#refresh();
  }

  /** The seed as text, empty if it is to be random. */
  get seed() {
    return isSeed(this.#seed.value.trim()) ? this.#seed.value.trim() : "";
  }

  set seed(text) {
    this.#seed.value = text;
    this.#checkSeed();
  }

  /** @param {Record<string, unknown>} props The server's `diffusion` properties. */
  setDefaults(props) {
    for (const { name, initial } of PARAMETERS) {
      const value = props[name];
      // The server computes with 32 bits, of which JSON has more digits than the sliders.
      this.#defaults[name] = typeof value === "number" ? Number(value.toPrecision(6)) : initial;
    }
    this.#refresh();
  }

  reset() {
    this.#values = {};
    this.seed = "";
    this.#refresh();
    this.onChange();
  }

  #checkSeed() {
    const text = this.#seed.value.trim();
    this.#seed.setAttribute("aria-invalid", String(text !== "" && !isSeed(text)));
    this.onChange();
  }

  #refresh() {
    for (const { name, initial } of PARAMETERS) {
      this.#sliders.get(name)?.(this.#values[name] ?? this.#defaults[name] ?? initial);
    }
  }

  /** @param {Parameter} parameter */
  #slider(parameter) {
    const { name, label, hint, min, max, step, log } = parameter;
    const id = freshId(name);
    const value = h("output", { for: id, class: "value" });
    const range = h("input", {
      type: "range",
      id,
      name,
      title: hint,
      ...(log ? { min: 0, max: LOG_STEPS, step: 1 } : { min, max, step }),
      input: () => {
        const chosen = fromSlider(parameter, Number(range.value));
        if (chosen === (this.#defaults[name] ?? parameter.initial)) delete this.#values[name];
        else this.#values[name] = chosen;
        show(chosen);
        this.onChange();
      },
    });
    const show = (/** @type {number} */ number) => {
      range.value = String(toSlider(parameter, number));
      range.setAttribute("aria-valuetext", rounded(number));
      setText(value, rounded(number));
    };
    this.#sliders.set(name, show);
    show(parameter.initial);
    return h("div", { class: "field slider" }, h("label", { for: id, title: hint }, label), value, range);
  }
}

/** @param {Parameter} parameter @param {number} value */
function toSlider({ min, max, log }, value) {
  if (!log) return value;
  const at = Math.log(Math.max(value, min) / min) / Math.log(max / min);
  return value === 0 ? 0 : Math.max(1, Math.round(at * LOG_STEPS));
}

/** The lowest position of a logarithmic scale is 0 where 0 has a meaning. @param {Parameter} parameter @param {number} at */
function fromSlider({ name, min, max, log }, at) {
  if (!log) return at;
  if (at === 0 && name === "confidence_threshold") return 0;
  return Number((min * (max / min) ** (at / LOG_STEPS)).toPrecision(2));
}
