/** A chat whose answers denoise in place. */

import { randomSeed } from "../core/settings.js";
import { Composer } from "../ui/composer.js";
import { Controls } from "../ui/controls.js";
import { button, h } from "../ui/dom.js";
import { hero } from "../ui/hero.js";
import { legend } from "../ui/legend.js";
import { Task } from "./task.js";

const EXAMPLES = [
  "Tell a story about Grace and a white owl.",
  "What is the capital of Norway?",
  "Anna from Lima is 42 years old. Write that as JSON.",
];
const STORE = "chat";

/** @param {App} app @returns {View} */
export function chatView(app) {
  /** @type {Message[]} */
  let messages = [];
  /** @type {Task | null} */
  let task = null;
  const log = h("div", { class: "log" });
  const controls = new Controls("Sampler", () => app.setPlace({ values: controls.values, seed: controls.seed }));
  controls.element.hidden = true;
  controls.values = app.place.values;
  controls.seed = app.place.seed;
  const settings = button("Sampler", () => toggle(), { class: "quiet", "aria-expanded": "false" });
  const clear = button("New chat", () => restart(), { class: "quiet" });
  const composer = new Composer("Ask something", "Send", { send, stop: () => task?.run.stop() }, settings, clear);
  composer.field.value = app.place.prompt;
  const welcome = h(
    "div",
    { class: "welcome" },
    hero("Text out of noise"),
    h("p", {}, "The model begins with a canvas of random tokens, and keeps in each step what it is sure of."),
    legend(),
    h(
      "div",
      { class: "examples" },
      ...EXAMPLES.map((example) => button(example, () => send(example), { class: "example" })),
    ),
  );

  function toggle() {
    controls.element.hidden = !controls.element.hidden;
    settings.setAttribute("aria-expanded", String(!controls.element.hidden));
  }

  function restart() {
    task?.run.stop();
    messages = [];
    save();
    log.replaceChildren();
    welcome.hidden = false;
    composer.field.focus();
  }

  function save() {
    try {
      sessionStorage.setItem(STORE, JSON.stringify(messages));
    } catch {
      // A full or forbidden store: the chat does not survive a reload.
    }
  }

  /** @param {string} prompt */
  function send(prompt) {
    if (task?.isRunning) return;
    messages.push({ role: "user", content: prompt });
    composer.field.value = "";
    addBubble("user", h("p", {}, prompt));
    ask(Number(controls.seed || randomSeed()));
  }

  /** Asks for an answer to the last message of the user. @param {number} seed */
  function ask(seed) {
    if (task?.isRunning) return;
    if (messages.at(-1)?.role === "assistant") messages.pop();
    save();
    app.setPlace({ prompt: messages.at(-1)?.content ?? "", seed: String(seed) });
    const body = { messages: [...messages] };
    const job = { path: "v1/chat/completions", body, seed, values: controls.values };
    task = new Task(app, job, { again: ask, onEnd });
    addBubble("assistant", task.element);
    composer.setRunning(true);
    void task.start();
  }

  /** @param {Run} run */
  function onEnd(run) {
    if (run !== task?.run) return;
    composer.setRunning(false);
    if (!run.text || !messages.length) return;
    messages.push({ role: "assistant", content: run.text });
    save();
  }

  /** @param {"user" | "assistant"} role @param {...HTMLElement} content */
  function addBubble(role, ...content) {
    welcome.hidden = true;
    const name = role === "user" ? "You" : "The model";
    const bubble = h("article", { class: `bubble ${role}`, "aria-label": name }, ...content);
    log.append(bubble);
    if (role === "user") bubble.scrollIntoView({ block: "start" });
  }

  /** Shows the chat of before a reload. */
  function restore() {
    try {
      messages = JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
    } catch {
      messages = [];
    }
    for (const { role, content } of messages) addBubble(role, h("p", { class: "answer-text" }, content));
    if (messages.at(-1)?.role !== "user") return;
    const seed = Number(app.place.seed || randomSeed());
    const resume = button("Answer again", () => {
      interrupted.remove();
      ask(seed);
    });
    const text = h("span", {}, "The page was loaded again before the answer was complete.");
    const interrupted = h("div", { class: "notice", role: "status" }, text, resume);
    log.append(interrupted);
  }

  restore();
  if (messages.length) composer.field.value = "";
  const dock = h("div", { class: "dock" }, controls.element, composer.element);
  return {
    element: h("div", { class: "view chat" }, welcome, log, dock),
    setProps: (props) => controls.setDefaults(props),
    enter: () => composer.field.focus(),
  };
}
