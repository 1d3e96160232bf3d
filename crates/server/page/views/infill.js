/** Fills a gap in a text, which its two sides decide. */

import { randomSeed } from "../core/settings.js";
import { freshId, h, rescueFocus, setText } from "../ui/dom.js";
import { announce } from "../ui/announce.js";
import { Task } from "./task.js";

/** Marks the gap. */
const GAP = "▢";
const SAMPLE = `Today Mia found a ${GAP} in the park. It was old, but it was nice. In the evening Mia told everyone about the red lamp.\n`;
/** A gap ends in time, also where a model finds no end. */
const LIMIT = 256;

/** @param {App} app @returns {View} */
export function infillView(app) {
  const id = freshId("code");
  const code = h("textarea", { id, rows: 10, class: "document code", spellcheck: "false" });
  code.value = SAMPLE;
  const lengthId = freshId("length");
  const length = h(
    "select",
    { id: lengthId },
    h("option", { value: "" }, "automatic"),
    ...[8, 16, 32, 64, 128].map((tokens) => h("option", { value: tokens }, `${tokens} tokens`)),
  );
  const message = h("p", { class: "status", role: "status" });
  const fill = h("button", { type: "submit", class: "primary" }, "Fill");
  const result = h("section", { class: "panel result code", "aria-label": "Filled text", hidden: true });
  /** @type {Task | null} */
  let task = null;

  /** @param {number} [seed] */
  function ask(seed = randomSeed()) {
    const sides = code.value.split(GAP);
    if (sides.length !== 2) return setText(message, `Mark one gap with ${GAP}.`);
    setText(message, "");
    const [input_prefix, input_suffix] = sides;
    const infill_tokens = Number(length.value) || undefined;
    const body = { input_prefix, input_suffix, input_extra: [], prompt: "", infill_tokens, n_predict: LIMIT };
    const current = new Task(app, { path: "infill", body, seed, values: {} }, {
      again: ask,
      given: { before: input_prefix, after: input_suffix },
      onEnd: (run) => {
        if (task !== current) return;
        setText(fill, "Fill");
        if (run.text) announce(`Filled: ${run.text}`);
      },
    });
    task = current;
    result.replaceChildren(current.element);
    result.hidden = false;
    setText(fill, "Stop");
    // The button that asked again is gone.
    rescueFocus(fill);
    void current.start();
  }

  return {
    element: h(
      "div",
      { class: "view infill" },
      h("h1", {}, "Infill"),
      h(
        "form",
        {
          class: "panel",
          submit: (event) => {
            event.preventDefault();
            if (task?.isRunning) task.run.stop();
            else ask();
          },
        },
        h("label", { for: id }, `Text with one gap, marked with ${GAP}`),
        code,
        h("div", { class: "row" }, h("label", { for: lengthId }, "Length"), length, fill),
        message,
      ),
      result,
    ),
  };
}
