/** A field for JSON, with a light that says whether it is what it has to be. */

import { freshId, h, setText } from "./dom.js";

/** A light without a state yet. */
export function light() {
  return h("p", { class: "light", role: "status" });
}

/** @param {HTMLElement} light @param {string} state @param {string} text */
export function show(light, state, text) {
  light.className = `light ${state}`;
  setText(light, text);
}

/** @template T */
export class JsonField {
  #light = light();

  /**
   * @param {string} label @param {string} what Names its value in a sentence.
   * @param {(text: string) => [T, string]} read The value of a text, and what to say of it; throws if it has none.
   */
  constructor(label, what, read) {
    const id = freshId("json");
    this.what = what;
    this.read = read;
    this.field = h("textarea", { id, rows: 16, class: "document code", spellcheck: "false", input: () => void this.value() });
    this.parts = [h("label", { for: id }, label), this.field, this.#light];
  }

  /** Its value, or null if it has none, which the light says. @returns {T | null} */
  value() {
    try {
      const [value, text] = this.read(this.field.value);
      show(this.#light, text && "valid", text);
      return value;
    } catch (error) {
      show(this.#light, "invalid", `${this.what} is not valid: ${error instanceof Error ? error.message : error}`);
      return null;
    }
  }
}
