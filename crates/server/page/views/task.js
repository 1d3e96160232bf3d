/** An answer that was asked for: the running text, its replay, and what can be done with it. */

import { write } from "../core/file.js";
import { counted, describe, frameAt, frameCount, rounded } from "../core/frames.js";
import { Run } from "../core/run.js";
import { answerText } from "../core/thoughts.js";
import { announce } from "../ui/announce.js";
import { AnswerView } from "../ui/answer.js";
import { CallsView } from "../ui/calls.js";
import { button, download, h, setText } from "../ui/dom.js";
import { notice } from "../ui/notice.js";
import { painter } from "../ui/paint.js";
import { Player } from "../ui/player.js";

export class Task {
  #view;
  /** What it says in the end, where that is not what the canvas shows. */
  #said = h("p", { class: "said" });
  calls = new CallsView();
  #status = h("p", { class: "status" });
  #actions = h("div", { class: "actions", hidden: true });
  #problem = h("div", {});
  /** Canvases that a screen reader was told of. */
  #announced = 0;

  /** @param {App} app @param {Job} job @param {TaskOptions} options */
  constructor(app, job, options) {
    this.app = app;
    this.options = options;
    this.#view = new AnswerView(options.given, options.keys);
    this.run = new Run(app.server, job);
    this.player = new Player(
      (index) => this.showPicture(index),
      (index) => (this.run.answer ? describe(this.run.answer, frameAt(this.run.answer, index)) : "waiting"),
    );
    this.player.element.hidden = true;
    this.element = h(
      "div",
      { class: "task" },
      this.#view.element,
      this.#said,
      this.calls.element,
      options.noReplay ? null : this.player.element,
      this.#status,
      this.#problem,
      this.#actions,
    );
    this.repaint = painter(() => this.#paint());
    this.run.onChange = () => this.repaint(this.run.state !== "running");
  }

  get isRunning() {
    return this.run.state === "running";
  }

  /** Computes the answer. */
  async start() {
    this.element.classList.add("running");
    setText(this.#status, "Waiting for the first draft…");
    await this.run.start();
    this.#finish();
  }

  /**
   * @param {number} index
   * @param {Marks} [marks]
   */
  showPicture(index, marks) {
    const { answer, recording, text, calls } = this.run;
    // At the end, cards say what the canvas spells out, and a gap has its text: its tokens may lie across its edges.
    const { given } = this.options;
    const isEnd = !this.isRunning && index === this.player.last;
    const isSaid = isEnd && (calls.length > 0 || Boolean(given && text));
    this.#view.element.classList.toggle(given ? "filled" : "called", isSaid);
    setText(this.#said, isSaid ? (given?.before ?? "") + text + (given?.after ?? "") : "");
    if (answer) this.#view.show(recording, answer, index, { running: this.isRunning, marks });
  }

  #paint() {
    const { answer, recording, text, calls } = this.run;
    this.calls.show(calls);
    if (!answer?.canvases.length) return this.#view.showText(text);
    this.player.element.hidden = false;
    this.player.setCount(frameCount(answer));
    if (this.isRunning) setText(this.#status, describe(answer, frameAt(answer, frameCount(answer) - 1)));
    const done = answer.canvases.filter((canvas) => canvas.done).length;
    if (done > this.#announced) {
      this.#announced = done;
      this.#sayNew(answerText(recording, answer));
    }
  }

  #heard = "";

  /** @param {string} text */
  #sayNew(text) {
    announce(text.slice(this.#heard.length));
    this.#heard = text;
  }

  #finish() {
    const { error, recording, answer, state, calls } = this.run;
    this.element.classList.remove("running");
    setText(this.#status, figures(this.run));
    if (state === "stopped") announce("Stopped.");
    for (const { function: called } of calls) announce(`Call to ${called.name}`);
    if (error) this.#problem.replaceChildren(notice(error, this.app.server, () => this.options.again(this.run.seed)));
    const text = () => this.run.text || (answer ? answerText(recording, answer) : "");
    const copy = button("Copy", async () => {
      await navigator.clipboard.writeText(text());
      announce("Copied.");
    });
    this.#actions.replaceChildren(
      text() ? copy : "",
      button("Next seed", () => this.options.again(this.run.seed + 1), { title: "Answer again with the next seed" }),
      answer ? button("Save recording", () => download("recording.jsonl", "application/jsonl", write(recording))) : "",
      answer && !this.options.isLab ? button("Open in the lab", () => this.app.inspect(recording, answer)) : "",
    );
    this.#actions.hidden = false;
    this.options.onEnd?.(this.run);
  }
}

/** The figures of an answer. @param {Run} run */
function figures(run) {
  const { answer, seed, state } = run;
  const canvases = answer?.canvases ?? [];
  const steps = canvases.reduce((sum, canvas) => sum + canvas.drafts.length, 0);
  const end = /** @type {Record<string, number | undefined>} */ (answer?.end ?? {});
  const time = (end.prefill_ms ?? 0) + (end.denoise_ms ?? 0) + (end.commit_ms ?? 0);
  const parts = [
    state === "stopped" ? "stopped" : "",
    canvases.length ? counted(canvases.length, "canvas", "canvases") : "",
    steps ? counted(Number(end.steps ?? steps), "step", "steps") : "",
    end.tokens_per_step ? counted(Number(rounded(end.tokens_per_step)), "token per step", "tokens per step") : "",
    time ? `${Math.round(time)}\u00a0ms` : "",
    `seed ${seed}`,
  ];
  return parts.filter(Boolean).join(" · ");
}
