/** A prompt with a button to send it, which stops the answer while there is one. */

import { freshId, h, rescueFocus, setText } from "./dom.js";

export class Composer {
  #isRunning = false;
  #send = h("button", { type: "submit", class: "primary" }, "Send");

  /**
   * @param {string} label Of the field.
   * @param {string} verb What the button does.
   * @param {{ send: (text: string) => void, stop: () => void }} actions
   * @param {...(Node | string)} extra Beside the button.
   */
  constructor(label, verb, { send, stop }, ...extra) {
    const id = freshId("prompt");
    this.verb = verb;
    this.field = h("textarea", {
      id,
      rows: 2,
      keydown: (event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        if (!this.#isRunning) this.element.requestSubmit();
      },
    });
    setText(this.#send, verb);
    this.element = h(
      "form",
      {
        class: "composer",
        submit: (event) => {
          event.preventDefault();
          const text = this.field.value.trim();
          if (this.#isRunning) stop();
          else if (text) send(text);
          else this.field.focus();
        },
      },
      h("label", { for: id }, label),
      this.field,
      h("div", { class: "row" }, ...extra, this.#send),
    );
  }

  /** Takes the focus that a removed element had. */
  rescueFocus() {
    rescueFocus(this.#send);
  }

  /** @param {boolean} running */
  setRunning(running) {
    this.#isRunning = running;
    setText(this.#send, running ? "Stop" : this.verb);
    this.#send.classList.toggle("stop", running);
  }
}
