/** The canvas lab: one prompt, and all that happens to each position of its canvases. */

import { randomSeed } from "../core/settings.js";
import { Composer } from "../ui/composer.js";
import { Controls } from "../ui/controls.js";
import { h } from "../ui/dom.js";
import { Inspector } from "../ui/inspector.js";
import { painter } from "../ui/paint.js";
import { Task } from "./task.js";

/**
 * @param {App} app
 * @returns {View & { inspect: App["inspect"] }}
 */
export function labView(app) {
  const inspector = new Inspector();
  inspector.element.hidden = true;
  const result = h("section", { class: "panel result", "aria-label": "Answer", hidden: true });
  const controls = new Controls("Sampler", () => app.setPlace({ values: controls.values, seed: controls.seed }));
  controls.values = app.place.values;
  controls.seed = app.place.seed;
  /** @type {Task | null} */
  let task = null;
  const composer = new Composer("Prompt", "Denoise", { send: (prompt) => ask(prompt), stop: () => task?.run.stop() });
  composer.field.value = app.place.prompt;

  /** @param {string} prompt @param {number} [seed] */
  function ask(prompt, seed = Number(controls.seed || randomSeed())) {
    app.setPlace({ prompt, seed: String(seed) });
    const body = { messages: [{ role: "user", content: prompt }] };
    const job = { path: "v1/chat/completions", body, seed, values: controls.values };
    const current = new Task(app, job, {
      again: (next) => ask(prompt, next),
      onEnd: () => task === current && composer.setRunning(false),
      noReplay: true,
      isLab: true,
    });
    task = current;
    const { run } = current;
    const show = painter(() => {
      if (task === current && run.answer?.canvases[0]?.length) inspect(run.recording, run.answer);
    });
    const { onChange } = run;
    run.onChange = () => {
      onChange();
      show(run.state !== "running");
    };
    result.replaceChildren(current.element);
    result.hidden = false;
    composer.setRunning(true);
    composer.rescueFocus();
    void current.start();
  }

  /** @type {App["inspect"]} */
  function inspect(recording, answer) {
    inspector.element.hidden = false;
    inspector.show(recording, answer);
  }

  const form = h("section", { class: "panel setup", "aria-label": "Prompt" }, composer.element, controls.element);
  return {
    element: h("div", { class: "view lab" }, h("h1", { class: "hidden" }, "Canvas lab"), form, result, inspector.element),
    setProps: (props) => controls.setDefaults(props),
    inspect(recording, answer) {
      result.hidden = true;
      inspect(recording, answer);
    },
  };
}
