/** Edits a text in place: the canvas begins with the text, and what is selected may change. */

import { randomSeed } from "../core/settings.js";
import { Composer } from "../ui/composer.js";
import { button, freshId, h, setText } from "../ui/dom.js";
import { Task } from "./task.js";

const SAMPLE = "Dear Anna,\nTom takes a red fox.\nThe red fox is in the park.";

/** @param {App} app @returns {View} */
export function editView(app) {
  const id = freshId("text");
  const text = h("textarea", { id, rows: 8, class: "document", spellcheck: "false" });
  text.value = SAMPLE;
  const strengthId = freshId("strength");
  const strengthValue = h("output", { for: strengthId }, "0.3");
  const strength = h("input", {
    type: "range",
    id: strengthId,
    min: 0.05,
    max: 1,
    step: 0.05,
    value: 0.3,
    input: () => setText(strengthValue, strength.value),
  });
  const result = h("section", { class: "panel result", "aria-label": "Edited text", hidden: true });
  const verdict = h("div", { class: "actions", hidden: true });
  /** @type {Task | null} */
  let task = null;
  const composer = new Composer("What to change", "Edit", { send: (instruction) => ask(instruction), stop: () => task?.run.stop() });
  composer.field.value = "Rewrite in the past tense";

  /** Lines outside the selection stay; without a selection all may change. @returns {[number, number][]} */
  function protectedLines() {
    const { value, selectionStart, selectionEnd } = text;
    if (selectionStart === selectionEnd) return [];
    const lineAt = (/** @type {number} */ offset) => value.slice(0, offset).split("\n").length;
    const first = lineAt(selectionStart);
    const last = lineAt(Math.max(selectionStart, selectionEnd - 1));
    const count = value.replace(/\n$/, "").split("\n").length;
    /** @type {[number, number][]} */
    const ranges = [];
    if (first > 1) ranges.push([1, first - 1]);
    if (last < count) ranges.push([last + 1, count]);
    return ranges;
  }

  /** @param {string} instruction @param {number} [seed] */
  function ask(instruction, seed = randomSeed()) {
    const body = { text: text.value, instruction, strength: Number(strength.value), protected: protectedLines() };
    const current = new Task(app, { path: "diffusion/edit", body, seed, values: {} }, {
      again: (next) => ask(instruction, next),
      onEnd: (run) => {
        if (task !== current) return;
        composer.setRunning(false);
        verdict.hidden = !run.text;
      },
    });
    task = current;
    verdict.hidden = true;
    result.replaceChildren(current.element, verdict);
    result.hidden = false;
    composer.setRunning(true);
    composer.rescueFocus();
    void current.start();
  }

  verdict.append(
    button("Accept", () => {
      text.value = task?.run.text ?? text.value;
      result.hidden = true;
      text.focus();
    }),
    button("Reject", () => {
      result.hidden = true;
      text.focus();
    }),
  );
  return {
    element: h(
      "div",
      { class: "view edit" },
      h("h1", {}, "Edit in place"),
      h(
        "section",
        { class: "panel", "aria-label": "Text" },
        h("label", { for: id }, "Text. Select the lines that may change; if none are selected, all may change."),
        text,
        h("div", { class: "field slider" }, h("label", { for: strengthId }, "Strength"), strengthValue, strength),
        composer.element,
      ),
      result,
    ),
  };
}
