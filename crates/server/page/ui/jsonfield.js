/** A field for JSON, with a line below it that says whether it is what it has to be. */

import { freshId, h, setText } from "./dom.js";

/** A line that says whether something is valid; empty at first. */
export function validityLine() {
  return h("p", { class: "validity", role: "status" });
}

/** @param {HTMLElement} line @param {"valid" | "invalid" | ""} state @param {string} text */
export function setValidity(line, state, text) {
  line.className = `validity ${state}`;
  setText(line, text);
}

/** @template T */
export class JsonField {
  #validity = validityLine();

  /**
   * @param {string} label @param {string} what Names its value in a sentence.
   * @param {(text: string) => [T, string]} read The value of a text, and what to say of it; throws if it has none.
   */
  constructor(label, what, read) {
    const id = freshId("json");
    this.what = what;
    this.read = read;
    this.field = h("textarea", { id, rows: 16, class: "document code", spellcheck: "false", input: () => void this.value() });
    this.parts = [h("label", { for: id }, label), this.field, this.#validity];
  }

  /** Its value, or null if it has none, which the line says. @returns {T | null} */
  value() {
    try {
      const [value, text] = this.read(this.field.value);
      setValidity(this.#validity, text ? "valid" : "", text);
      return value;
    } catch (error) {
      setValidity(this.#validity, "invalid", `${this.what} is not valid: ${error instanceof Error ? error.message : error}`);
      return null;
    }
  }
}
