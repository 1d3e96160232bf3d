/** The calls of an answer as cards, and their results. */

import { indented } from "../core/json.js";
import { harmless } from "../core/pieces.js";
import { freshId, h, setText } from "./dom.js";

export class CallsView {
  /** @type {{ card: HTMLElement, name: HTMLElement, text: HTMLElement }[]} */
  #cards = [];
  /** Those that have a result. */
  #told = 0;
  /** Asks for the results. @type {HTMLFormElement | null} */
  #form = null;
  element = h("div", { class: "calls" });

  /** Shows calls, whose arguments may still grow. @param {Call[]} calls */
  show(calls) {
    for (const [at, call] of calls.entries()) {
      const { card, name, text } = (this.#cards[at] ??= this.#add());
      setText(name, harmless(call.function.name));
      setText(text, harmless(indented(call.function.arguments)));
      card.setAttribute("aria-label", `Call to ${name.textContent}`);
    }
  }

  #add() {
    const name = h("code", {});
    const text = h("pre", {});
    const card = h("div", { class: "call", role: "group" }, h("p", {}, "Call to ", name), text);
    this.element.append(card);
    return { card, name, text };
  }

  /** Shows the result of the next call. @param {string} result */
  tell(result) {
    this.#cards[this.#told++]?.card.append(h("p", {}, "Result"), h("pre", {}, harmless(result)));
  }

  /** Asks for the results. @param {(results: string[]) => void} onResults */
  ask(onResults) {
    const fields = this.#cards.map(() => h("textarea", { id: freshId("result"), rows: 2, required: true }));
    const labels = fields.map(({ id }, at) => h("label", { for: id }, `Result of ${this.#cards[at]?.name.textContent}`));
    this.#form = h(
      "form",
      {
        submit: (event) => {
          event.preventDefault();
          onResults(fields.map(({ value }) => value));
        },
      },
      ...fields.flatMap((field, at) => [/** @type {HTMLElement} */ (labels[at]), field]),
      h("button", { type: "submit" }, fields.length > 1 ? "Send the results" : "Send the result"),
    );
    this.element.append(this.#form);
  }

  /** Asks no longer. */
  close() {
    this.#form?.remove();
  }
}
