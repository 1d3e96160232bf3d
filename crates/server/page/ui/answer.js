/** An answer as running text: finished canvases, and the one at work. Its height only grows. */

import { formIn } from "../core/form.js";
import { frameAt, shown } from "../core/frames.js";
import { opensIn, thoughtsIn } from "../core/thoughts.js";
import { button, h, setText } from "./dom.js";
import { TokenView } from "./tokens.js";

export class AnswerView {
  /** @type {TokenView[]} */
  #views = [];
  /** The picture that each view shows. @type {string[]} */
  #shown = [];
  #body = h("span", {});
  #text;
  /** The greatest height while each canvas was at work. @type {number[]} */
  #heights = [];
  #fold = button("", () => this.#toggle(), { class: "fold", hidden: true });
  #folded = true;

  /**
   * @param {{ before?: string, after?: string }} [given] Text around the answer.
   * @param {string[]} [keys] Those of the schema that it follows.
   */
  constructor({ before, after } = {}, keys) {
    this.keys = keys;
    const given = (/** @type {string | undefined} */ text) => (text ? h("span", { class: "given" }, text) : null);
    this.#text = h("div", { class: "answer-text" }, given(before), this.#body, given(after));
    this.element = h("div", { class: "answer folded" }, this.#fold, this.#text);
    this.#label();
  }

  /** Text without drafts, of a server that sends none. @param {string} text */
  showText(text) {
    if (!this.#views.length) setText(this.#body, text);
  }

  /**
   * Shows a picture of an answer.
   * @param {Recording} recording @param {Answer} answer @param {number} index Of the picture.
   * @param {object} [options]
   * @param {boolean} [options.running] Whether drafts may follow.
   * @param {Marks} [options.marks] Positions to mark.
   */
  show(recording, answer, index, { running = false, marks } = {}) {
    const frame = frameAt(answer, index);
    if (!frame) return;
    if (!this.#views.length) this.#body.replaceChildren();
    for (const [block, canvas] of answer.canvases.entries()) {
      const view = this.#viewOf(block);
      view.element.hidden = block > frame.block;
      if (block > frame.block) continue;
      const at = block < frame.block ? { canvas, block, draft: 0, done: true } : frame;
      const key = `${at.draft} ${at.done}`;
      // Marks depend on another answer, too.
      if (!marks && this.#shown[block] === key) continue;
      this.#shown[block] = key;
      this.#showCanvas(view, recording, answer, at, marks);
    }
    this.#keepHeight(frame.block, running, frame.done && frameAt(answer, index + 1) === null);
  }

  /** @param {TokenView} view @param {Recording} recording @param {Answer} answer
   *  @param {Frame} frame
   *  @param {Marks | undefined} marks */
  #showCanvas(view, recording, answer, frame, marks) {
    const { tokens, states } = shown(frame);
    const texts = recording.pieces.texts(tokens);
    // What follows the end of an answer is padding.
    if (frame.done && frame.canvas.done) texts.fill("", frame.canvas.done.answer.length);
    const open = opensIn(recording, answer, frame.block);
    const { thought } = thoughtsIn(recording.channel, tokens, open, states);
    const form = this.keys && formIn(recording, answer, frame, states, this.keys);
    view.show({ texts, states, thought, form, marked: marks?.(frame.block, tokens) });
    view.element.setAttribute("aria-hidden", String(!frame.done));
    if (thought.includes(1)) this.#fold.hidden = false;
  }

  /** @param {number} block */
  #viewOf(block) {
    let view = this.#views[block];
    if (!view) {
      view = new TokenView("text");
      this.#views[block] = view;
      this.#body.append(view.element);
    }
    return view;
  }

  /**
   * While positions change, the text keeps the height that it had: a running answer all of it, a replay
   * that of the canvas. At the end it settles.
   * @param {number} block @param {boolean} running @param {boolean} isEnd
   */
  #keepHeight(block, running, isEnd) {
    const { style, classList } = this.#text;
    const settles = isEnd && !running;
    classList.toggle("settled", settles);
    const kept = running ? Math.max(0, ...this.#heights) : (this.#heights[block] ?? 0);
    style.minHeight = settles ? "0" : `${kept}px`;
    if (settles) return;
    const height = this.#text.offsetHeight;
    if (height <= kept) return;
    this.#heights[block] = height;
    style.minHeight = `${height}px`;
  }

  #toggle() {
    this.#folded = !this.#folded;
    this.element.classList.toggle("folded", this.#folded);
    this.#label();
  }

  #label() {
    setText(this.#fold, this.#folded ? "Show thoughts" : "Hide thoughts");
    this.#fold.setAttribute("aria-expanded", String(!this.#folded));
  }
}
