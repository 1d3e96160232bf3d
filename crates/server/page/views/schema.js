/** Answers that follow a JSON Schema by construction. */

import { FORM, keysOf } from "../core/form.js";
import { randomSeed } from "../core/settings.js";
import { Composer } from "../ui/composer.js";
import { h } from "../ui/dom.js";
import { JsonField, setValidity, validityLine } from "../ui/jsonfield.js";
import { legend } from "../ui/legend.js";
import { Task } from "./task.js";

const SAMPLE = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 20 },
    age: { type: "integer", minimum: 0, maximum: 120 },
    city: { type: "string", maxLength: 20 },
  },
  required: ["name", "age", "city"],
  additionalProperties: false,
};

/** @param {string} text @returns {[object, string]} */
function read(text) {
  const schema = JSON.parse(text);
  if (typeof schema !== "object" || schema === null) throw new Error("a schema is a JSON object");
  return [schema, "The schema is valid JSON."];
}

/** @param {App} app @returns {View} */
export function schemaView(app) {
  const source = new JsonField("Schema", "The schema", read);
  source.field.value = JSON.stringify(SAMPLE, null, 2);
  const result = h("section", { class: "panel result code", "aria-label": "Answer", hidden: true });
  const outcome = validityLine();
  /** @type {Task | null} */
  let task = null;
  const composer = new Composer("Prompt", "Answer", { send: (prompt) => ask(prompt), stop: () => task?.run.stop() });
  composer.field.value = "Anna from Lima is 42 years old. Write that as JSON.";

  /** @param {string} prompt @param {number} [seed] */
  function ask(prompt, seed = randomSeed()) {
    const schema = source.value();
    if (!schema) return source.field.focus();
    const body = {
      messages: [{ role: "user", content: prompt }],
      response_format: { type: "json_schema", json_schema: { name: "answer", schema } },
    };
    const current = new Task(app, { path: "v1/chat/completions", body, seed, values: {} }, {
      again: (next) => ask(prompt, next),
      keys: keysOf(schema),
      onEnd: (run) => {
        if (task !== current) return;
        composer.setRunning(false);
        check(run.text);
      },
    });
    task = current;
    setValidity(outcome, "", "");
    result.replaceChildren(current.element, outcome, legend(FORM));
    result.hidden = false;
    composer.setRunning(true);
    composer.rescueFocus();
    void current.start();
  }

  /** @param {string} text */
  function check(text) {
    try {
      JSON.parse(text);
      setValidity(outcome, "valid", "The answer is complete JSON.");
    } catch {
      setValidity(outcome, "invalid", "The answer is not complete.");
    }
  }

  source.value();
  return {
    element: h(
      "div",
      { class: "view schema" },
      h("h1", {}, "JSON Schema"),
      h(
        "div",
        { class: "columns" },
        h("section", { class: "panel", "aria-label": "Schema" }, ...source.parts),
        h("div", { class: "stack" }, h("section", { class: "panel", "aria-label": "Prompt" }, composer.element), result),
      ),
    ),
  };
}
