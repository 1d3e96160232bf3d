/** Answers that follow a JSON Schema by construction. */

import { randomSeed } from "../core/settings.js";
import { Composer } from "../ui/composer.js";
import { freshId, h, setText } from "../ui/dom.js";
import { Task } from "./task.js";

const SAMPLE = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 20 },
    city: { type: "string", maxLength: 20 },
    age: { type: "integer", minimum: 0, maximum: 120 },
  },
  required: ["name", "city", "age"],
  additionalProperties: false,
};

/** @param {App} app @returns {View} */
export function schemaView(app) {
  const id = freshId("schema");
  const light = h("p", { class: "light", role: "status" });
  const source = h("textarea", { id, rows: 16, class: "document code", spellcheck: "false", input: () => void schema() });
  source.value = JSON.stringify(SAMPLE, null, 2);
  const result = h("section", { class: "panel result code", "aria-label": "Answer", hidden: true });
  const outcome = h("p", { class: "light", role: "status" });
  /** @type {Task | null} */
  let task = null;
  const composer = new Composer("Prompt", "Answer", { send: (prompt) => ask(prompt), stop: () => task?.run.stop() });
  composer.field.value = "Anna from Lima is 42 years old. Write that as JSON.";

  /** The schema, if the text is one. @returns {object | null} */
  function schema() {
    try {
      const value = JSON.parse(source.value);
      if (typeof value !== "object" || value === null) throw new Error("a schema is a JSON object");
      show(light, "valid", "The schema is valid JSON.");
      return value;
    } catch (error) {
      show(light, "invalid", `The schema is not valid: ${error instanceof Error ? error.message : error}`);
      return null;
    }
  }

  /** @param {string} prompt @param {number} [seed] */
  function ask(prompt, seed = randomSeed()) {
    const value = schema();
    if (!value) return source.focus();
    const body = {
      messages: [{ role: "user", content: prompt }],
      response_format: { type: "json_schema", json_schema: { name: "answer", schema: value } },
    };
    const current = new Task(app, { path: "v1/chat/completions", body, seed, values: {} }, {
      again: (next) => ask(prompt, next),
      onEnd: (run) => {
        if (task !== current) return;
        composer.setRunning(false);
        check(run.text);
      },
    });
    task = current;
    show(outcome, "", "");
    result.replaceChildren(current.element, outcome);
    result.hidden = false;
    composer.setRunning(true);
    void current.start();
  }

  /** @param {string} text */
  function check(text) {
    try {
      JSON.parse(text);
      show(outcome, "valid", "The answer is complete JSON.");
    } catch {
      show(outcome, "invalid", "The answer is not complete.");
    }
  }

  void schema();
  return {
    element: h(
      "div",
      { class: "view schema" },
      h("h1", {}, "JSON Schema"),
      h(
        "div",
        { class: "columns" },
        h("section", { class: "panel", "aria-label": "Schema" }, h("label", { for: id }, "Schema"), source, light),
        h("div", { class: "stack" }, h("section", { class: "panel", "aria-label": "Prompt" }, composer.element), result),
      ),
    ),
  };
}

/** @param {HTMLElement} light @param {string} state @param {string} text */
function show(light, state, text) {
  light.className = `light ${state}`;
  setText(light, text);
}
