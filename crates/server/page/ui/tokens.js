/** The positions of a canvas as elements, one each, of which only those that change are touched. */

import { FORM } from "../core/form.js";
import { STATES, isSettled } from "../core/states.js";
import { h } from "./dom.js";

export class TokenView {
  /** @type {HTMLElement[]} */
  #spans = [];
  /** @type {Text[]} */
  #nodes = [];
  /** @type {string[]} */
  #texts = [];
  /** @type {string[]} */
  #classes = [];

  /** @param {"text" | "cells"} form */
  constructor(form) {
    this.form = form;
    this.element = h("div", { class: `canvas ${form}` });
  }

  /** @param {number} position @returns {HTMLElement | null} */
  at(position) {
    return this.#spans[position] ?? null;
  }

  /** The position of an element inside, or -1. @param {EventTarget | null} target */
  positionOf(target) {
    const span = target instanceof Element ? target.closest(".t") : null;
    return span instanceof HTMLElement ? this.#spans.indexOf(span) : -1;
  }

  /** @param {Picture} picture */
  show({ texts, states, thought, form, marked, shades }) {
    this.#resize(texts.length);
    for (let at = 0; at < texts.length; at++) {
      const state = states[at] ?? 0;
      const text = this.form === "cells" ? cell(texts[at] ?? "") : inline(texts[at] ?? "", state);
      let name = `t ${shades ? `shade-${shades[at]}` : form?.[at] ? FORM.name : STATES[state]?.name}`;
      if (thought?.[at]) name += " thought";
      if (marked?.[at]) name += " differs";
      if (text !== this.#texts[at]) {
        /** @type {Text} */ (this.#nodes[at]).data = text;
        this.#texts[at] = text;
      }
      if (name !== this.#classes[at]) {
        /** @type {HTMLElement} */ (this.#spans[at]).className = name;
        this.#classes[at] = name;
      }
    }
  }

  /** @param {number} length */
  #resize(length) {
    while (this.#spans.length < length) {
      const node = document.createTextNode("");
      const span = h("span", { class: "t" }, node);
      this.element.append(span);
      this.#spans.push(span);
      this.#nodes.push(node);
      this.#texts.push("");
      this.#classes.push("t");
    }
    while (this.#spans.length > length) {
      this.#spans.pop()?.remove();
      this.#nodes.pop();
      this.#texts.pop();
      this.#classes.pop();
    }
  }
}

/** Text in a line. Noise must not break lines. @param {string} text @param {number} state */
function inline(text, state) {
  return isSettled(state) ? text : text.replace(/\s+/g, " ");
}

/** Text in a cell, with visible white space. @param {string} text */
function cell(text) {
  return text.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "∅";
}
