/** Two answers to the same prompt, side by side: other seeds, or other parameters. */

import { counted, describe, frameAt, frameCount, shown } from "../core/frames.js";
import { randomSeed } from "../core/settings.js";
import { Composer } from "../ui/composer.js";
import { Controls } from "../ui/controls.js";
import { h, setText } from "../ui/dom.js";
import { painter } from "../ui/paint.js";
import { Player } from "../ui/player.js";
import { Task } from "./task.js";

/** @param {App} app @returns {View} */
export function compareView(app) {
  const sides = ["Left", "Right"].map((name) => ({
    controls: new Controls(name),
    place: h("section", { class: "panel side", "aria-label": name }),
    task: /** @type {Task | null} */ (null),
  }));
  const [left, right] = sides;
  if (left) {
    left.controls.values = app.place.values;
    left.controls.seed = app.place.seed;
  }
  if (right) right.controls.values = app.place.values;
  const answers = () => sides.map(({ task }) => task?.run.answer ?? null);
  const player = new Player(show, (index) => {
    const [first, second] = answers().map((answer) => answer && describe(answer, frameAt(answer, at(answer, index))));
    return first === second ? (first ?? "") : `${first ?? "–"} | ${second ?? "–"}`;
  });
  player.element.hidden = true;
  const difference = h("p", { class: "status", role: "status" });
  const composer = new Composer("Prompt for both", "Compare", {
    send: (prompt) => ask(prompt),
    stop: () => sides.forEach(({ task }) => task?.run.stop()),
  });
  composer.field.value = app.place.prompt;

  /** The picture of an answer; a shorter one stays at its end. @param {Answer} answer @param {number} index */
  function at(answer, index) {
    return Math.min(index, frameCount(answer) - 1);
  }

  /** @param {number} index */
  function show(index) {
    for (const [number, { task }] of sides.entries()) {
      const other = answers()[1 - number];
      const answer = answers()[number];
      if (!answer || !task) continue;
      task.showPicture(at(answer, index), other ? (block, tokens) => marksOf(other, index, block, tokens) : undefined);
    }
  }

  /** Positions whose token differs from the other answer's. @param {Answer} other
   *  @param {number} index @param {number} block @param {Int32Array} tokens */
  function marksOf(other, index, block, tokens) {
    const frame = frameAt(other, at(other, index));
    const canvas = other.canvases[block];
    if (!frame || !canvas || block > frame.block) return new Uint8Array(tokens.length).fill(1);
    const same = block === frame.block ? frame : { canvas, block, draft: 0, done: true };
    const theirs = shown(same).tokens;
    return Uint8Array.from(tokens, (token, position) => Number(token !== theirs[position]));
  }

  const repaint = painter(() => {
    const counts = answers().map((answer) => (answer ? frameCount(answer) : 0));
    const count = Math.max(...counts);
    player.element.hidden = !count;
    if (count) player.setCount(count);
    if (sides.every(({ task }) => task && !task.isRunning)) summarize();
  });

  function summarize() {
    const [first, second] = answers();
    if (!first || !second) return;
    let differ = 0;
    for (const [block, { done }] of first.canvases.entries()) {
      const theirs = second.canvases[block]?.done?.tokens;
      done?.tokens.forEach((token, position) => (differ += Number(token !== theirs?.[position])));
    }
    setText(difference, differ ? `The finished canvases differ at ${counted(differ, "position", "positions")}.` : "Both answers are the same.");
  }

  /** @param {string} prompt */
  function ask(prompt) {
    const seed = Number(sides[0]?.controls.seed || randomSeed());
    app.setPlace({ prompt, seed: String(seed), values: sides[0]?.controls.values ?? {} });
    setText(difference, "");
    composer.setRunning(true);
    for (const [number, side] of sides.entries()) begin(side, prompt, Number(side.controls.seed || seed + number));
  }

  /** @param {(typeof sides)[number]} side @param {string} prompt @param {number} seed */
  function begin(side, prompt, seed) {
    const body = { messages: [{ role: "user", content: prompt }] };
    const job = { path: "v1/chat/completions", body, seed, values: side.controls.values };
    const task = new Task(app, job, {
      again: (next) => begin(side, prompt, next),
      onEnd: () => composer.setRunning(sides.some((each) => each.task?.isRunning)),
      noReplay: true,
    });
    side.task = task;
    // One player moves both.
    task.run.onChange = () => repaint(task.run.state !== "running");
    side.place.replaceChildren(task.element);
    composer.setRunning(true);
    composer.rescueFocus();
    void task.start();
  }

  const setup = h(
    "section",
    { class: "panel setup", "aria-label": "Prompt" },
    composer.element,
    h("div", { class: "columns" }, ...sides.map(({ controls }) => controls.element)),
  );
  const columns = h("div", { class: "columns" }, ...sides.map(({ place }) => place));
  return {
    element: h("div", { class: "view compare" }, h("h1", { class: "hidden" }, "Compare"), setup, player.element, difference, columns),
    setProps: (props) => sides.forEach(({ controls }) => controls.setDefaults(props)),
  };
}
