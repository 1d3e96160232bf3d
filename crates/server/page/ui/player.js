/** Moves through the pictures of an answer: a slider over all steps, play and pause, and a speed. */

import { button, freshId, h, setText } from "./dom.js";
import { isCalm } from "./paint.js";

/** Time of a picture at normal speed, and the least with reduced motion, in milliseconds. */
const INTERVAL = 200;
const CALM_INTERVAL = 500;

export class Player {
  #count = 0;
  #index = 0;
  /** Whether it shows the latest picture of a running answer. */
  #follows = true;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;

  /**
   * @param {(index: number) => void} onShow
   * @param {(index: number) => string} describe
   */
  constructor(onShow, describe) {
    this.onShow = onShow;
    this.describe = describe;
    const id = freshId("steps");
    this.range = h("input", {
      type: "range",
      id,
      class: "steps",
      "aria-label": "Denoising step",
      min: 0,
      max: 0,
      value: 0,
      input: () => this.seek(Number(this.range.value)),
    });
    this.toggle = button("▶", () => this.#toggle(), { class: "play", "aria-label": "Play" });
    this.label = h("output", { for: id, class: "step-label" });
    this.speed = h(
      "select",
      { "aria-label": "Speed", class: "speed", change: () => this.#restart() },
      ...[0.5, 1, 2, 4].map((speed) => h("option", { value: speed, selected: speed === 1 }, `${speed}×`)),
    );
    this.element = h(
      "div",
      { class: "player", role: "group", "aria-label": "Replay" },
      this.toggle,
      this.range,
      this.speed,
      this.label,
    );
  }

  get index() {
    return this.#index;
  }

  get last() {
    return this.#count - 1;
  }

  /** Takes the number of pictures; a running answer is followed until the user seeks. @param {number} count */
  setCount(count) {
    this.#count = count;
    this.range.max = String(Math.max(count - 1, 0));
    if (this.#follows) this.#show(count - 1);
    else this.#update();
  }

  /** @param {number} index */
  seek(index) {
    this.#pause();
    this.#follows = index >= this.last;
    const before = this.range.getBoundingClientRect().top;
    this.#show(Math.min(Math.max(index, 0), this.last));
    // The slider stays under the pointer, whatever the height of the text above it.
    if (this.#count) scrollBy(0, this.range.getBoundingClientRect().top - before);
  }

  /** @param {number} index */
  #show(index) {
    this.#index = Math.max(index, 0);
    this.onShow(this.#index);
    this.#update();
  }

  #update() {
    const text = this.describe(this.#index);
    this.range.value = String(this.#index);
    this.range.setAttribute("aria-valuetext", text);
    setText(this.label, text);
  }

  #toggle() {
    if (this.#timer) return this.#pause();
    if (this.#index >= this.last) this.#show(0);
    this.#follows = false;
    this.#play();
  }

  #play() {
    const interval = INTERVAL / Number(this.speed.value);
    this.#timer = setInterval(() => this.#next(), isCalm() ? Math.max(interval, CALM_INTERVAL) : interval);
    setText(this.toggle, "❚❚");
    this.toggle.setAttribute("aria-label", "Pause");
  }

  #next() {
    // The element may have left the page.
    if (this.#index >= this.last || !this.element.isConnected) {
      this.#pause();
      this.#follows = true;
      return;
    }
    this.#show(this.#index + 1);
  }

  #pause() {
    clearInterval(this.#timer);
    this.#timer = undefined;
    setText(this.toggle, "▶");
    this.toggle.setAttribute("aria-label", "Play");
  }

  #restart() {
    if (!this.#timer) return;
    clearInterval(this.#timer);
    this.#play();
  }
}
