/** A chat whose answers denoise in place. */

import { randomSeed } from "../core/settings.js";
import { CallsView } from "../ui/calls.js";
import { Composer } from "../ui/composer.js";
import { Controls } from "../ui/controls.js";
import { button, h } from "../ui/dom.js";
import { hero } from "../ui/hero.js";
import { legend } from "../ui/legend.js";
import { ToolsField } from "../ui/tools.js";
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
  /** Calls that wait for their results. @type {CallsView | null} */
  let open = null;
  const log = h("div", { class: "log" });
  const controls = new Controls("Sampler", () => app.setPlace({ values: controls.values, seed: controls.seed }));
  controls.values = app.place.values;
  controls.seed = app.place.seed;
  const tools = new ToolsField();
  const toolsFold = fold("Tools", tools.element);
  const clear = button("New chat", () => restart(), { class: "quiet" });
  const composer = new Composer("Ask something", "Send", { send, stop: () => task?.run.stop() }, fold("Sampler", controls.element), toolsFold, clear);
  composer.field.value = app.place.prompt;
  composer.field.placeholder = "Ask something";
  const welcome = h(
    "div",
    { class: "welcome" },
    hero("Text out of noise"),
    h("p", {}, "The model begins with a canvas of random tokens, and in each step keeps what it is sure of."),
    legend(),
    h(
      "div",
      { class: "examples" },
      ...EXAMPLES.map((example) => button(example, () => send(example), { class: "example" })),
    ),
  );

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
      sessionStorage.setItem(STORE, JSON.stringify({ messages, tools: tools.state }));
    } catch {
      // A full or forbidden store: the chat does not survive a reload.
    }
  }

  /** The tools of a request, or null after showing what is wrong with them. */
  function offered() {
    const offer = tools.request(messages.findLast(({ role }) => role !== "assistant")?.role === "tool");
    if (!offer && tools.element.hidden) toolsFold.click();
    if (!offer) tools.focus();
    return offer;
  }

  /** @param {string} prompt */
  function send(prompt) {
    if (task?.isRunning || !offered()) return;
    messages.push({ role: "user", content: prompt });
    composer.field.value = "";
    addBubble("user", h("p", {}, prompt));
    ask(Number(controls.seed || randomSeed()));
  }

  /** Asks for an answer to the last message of the user. @param {number} seed */
  function ask(seed) {
    const offer = offered();
    if (task?.isRunning || !offer) return;
    open?.close();
    if (messages.at(-1)?.role === "assistant") messages.pop();
    save();
    app.setPlace({ prompt: messages.findLast(({ role }) => role === "user")?.content ?? "", seed: String(seed) });
    const body = { messages: [...messages], ...offer };
    const job = { path: "v1/chat/completions", body, seed, values: controls.values };
    task = new Task(app, job, { again: ask, onEnd });
    addBubble("assistant", task.element);
    composer.setRunning(true);
    composer.rescueFocus();
    void task.start();
  }

  /** @param {Run} run */
  function onEnd(run) {
    if (run !== task?.run) return;
    composer.setRunning(false);
    // Calls of an answer that was stopped are not complete.
    const calls = run.state === "done" ? run.calls : [];
    if (!(run.text || calls.length) || !messages.length) return;
    messages.push({ role: "assistant", content: run.text, ...(calls.length && { tool_calls: calls }) });
    save();
    if (calls.length) awaitResults(task.calls, calls);
  }

  /** Lets the user say what the called tools return. @param {CallsView} view @param {Call[]} calls */
  function awaitResults(view, calls) {
    open = view;
    // They would lie over the form in a narrow window.
    if (!tools.element.hidden) toolsFold.click();
    view.show(calls);
    view.ask((results) => {
      if (!offered()) return;
      for (const [at, content] of results.entries()) {
        messages.push({ role: "tool", content, tool_call_id: calls[at]?.id ?? "" });
        view.tell(content);
      }
      ask(Number(controls.seed || randomSeed()));
    });
  }

  /** @param {"user" | "assistant"} role @param {...Child} content */
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
      ({ messages, tools: tools.state } = JSON.parse(sessionStorage.getItem(STORE) ?? ""));
    } catch {
      messages = [];
    }
    let view = new CallsView();
    for (const { role, content, tool_calls = [] } of messages) {
      if (role === "tool") {
        view.tell(content);
        continue;
      }
      view = new CallsView();
      view.show(tool_calls);
      addBubble(role, content ? h("p", { class: "answer-text" }, content) : null, view.element);
    }
    const last = messages.at(-1);
    if (last?.tool_calls) awaitResults(view, last.tool_calls);
    if (last?.role !== "user" && last?.role !== "tool") return;
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
  const dock = h("div", { class: "dock" }, controls.element, tools.element, composer.element);
  return {
    element: h("div", { class: "view chat" }, welcome, log, dock),
    setProps: (props) => controls.setDefaults(props),
    enter: () => composer.field.focus(),
  };
}

/** A button that shows and hides an element, hidden at first. @param {string} label @param {HTMLElement} element */
function fold(label, element) {
  element.hidden = true;
  const toggle = button(
    label,
    () => {
      element.hidden = !element.hidden;
      toggle.setAttribute("aria-expanded", String(!element.hidden));
    },
    { class: "quiet", "aria-expanded": "false" },
  );
  return toggle;
}
