/** Looks into an answer: a canvas by position, the history of one, and plots over the steps. */

import { describe, frameAt, frameCount, frameOf, rounded, shown } from "../core/frames.js";
import { acceptedIn, changedIn, firstStable, lastChange, whyStopped } from "../core/states.js";
import { freshId, h, setText } from "./dom.js";
import { describePosition, history } from "./history.js";
import { legend, shadeLegend } from "./legend.js";
import { paint } from "./paint.js";
import { Player } from "./player.js";
import { HeatMap, LinePlot, shadeOf } from "./plots.js";
import { TokenView } from "./tokens.js";

/** What the colours may say. */
const COLOURS = [
  { name: "state", label: "State" },
  { name: "entropy", label: "Entropy", low: "sure", high: "unsure" },
  { name: "change", label: "Last change", low: "just changed", high: "long ago" },
  { name: "stable", label: "First stable step", low: "early", high: "late" },
];

/** What the positions may show. */
const TOKENS = [
  { name: "canvas", label: "Canvas" },
  { name: "argmax", label: "Best guess" },
  { name: "sampled", label: "Drawn" },
];

/** How the positions may lie. */
const LAYOUTS = [
  { name: "cells", label: "Cells" },
  { name: "text", label: "Text" },
];

export class Inspector {
  /** @type {Recording | null} */
  #recording = null;
  /** @type {Answer | null} */
  #answer = null;
  #position = 0;
  #colour = "state";
  #tokens = "canvas";
  #views = { cells: new TokenView("cells"), text: new TokenView("text") };
  #view = this.#views.cells;
  #board = h("div", {
    class: "board",
    role: "slider",
    tabindex: 0,
    "aria-label": "Position",
    "aria-valuemin": 1,
    "aria-valuenow": 1,
    "aria-valuemax": 1,
    keydown: (event) => this.#key(event),
    pointerover: (event) => this.#select(this.#view.positionOf(event.target)),
    click: (event) => this.#select(this.#view.positionOf(event.target)),
  });
  #legend = h("div", { class: "legend-place" }, legend());
  #facts = h("dl", { class: "facts" });
  #why = h("p", { class: "why" });
  #summary = h("p", { class: "position" });
  #history = h("div", {});
  #player = new Player(
    (index) => this.#show(index),
    (index) => (this.#answer ? describe(this.#answer, frameAt(this.#answer, index)) : ""),
  );
  #entropy = new LinePlot("Mean entropy, nats (log)", true, (index) => this.seek(index));
  #accepted = new LinePlot("Accepted", false, (index) => this.seek(index));
  #changed = new LinePlot("Changed guesses", false, (index) => this.seek(index));
  #temperature = new LinePlot("Temperature", false, (index) => this.seek(index));
  #heat = new HeatMap((draft, position) => this.#seekTo(draft, position));
  #stale = true;

  constructor() {
    this.#board.append(this.#view.element);
    const choices = h(
      "div",
      { class: "choices" },
      choice("Layout", LAYOUTS, (name) => this.#setLayout(name)),
      choice("Tokens", TOKENS, (name) => this.#set(() => (this.#tokens = name))),
      choice("Colour", COLOURS, (name) => this.#setColour(name)),
    );
    const plots = [this.#entropy, this.#accepted, this.#changed, this.#temperature].map(({ element }) => element);
    this.element = h(
      "div",
      { class: "inspector" },
      h(
        "section",
        { class: "panel stage", "aria-label": "Canvas" },
        choices,
        this.#board,
        this.#legend,
        this.#player.element,
        this.#facts,
        this.#why,
      ),
      h("section", { class: "panel aside", "aria-label": "Position" }, h("h2", {}, "Position"), this.#summary, this.#history),
      h("section", { class: "panel plots", "aria-label": "Plots" }, ...plots, this.#heat.element),
    );
  }

  /** Shows an answer, which may still grow. @param {Recording} recording @param {Answer} answer */
  show(recording, answer) {
    if (answer !== this.#answer) {
      this.#recording = recording;
      this.#answer = answer;
      this.#position = 0;
      this.#player.seek(Infinity);
    }
    this.#stale = true;
    this.#player.setCount(frameCount(answer));
  }

  /** @param {number} index Of a picture. */
  seek(index) {
    this.#player.seek(index);
  }

  /** @param {number} index */
  #show(index) {
    const frame = this.#at(index);
    if (!frame || !this.#answer || !this.#recording) return;
    if (this.#stale) this.#plot(this.#answer);
    this.#stale = false;
    this.#view.show(this.#picture(this.#recording, frame));
    for (const plot of [this.#entropy, this.#accepted, this.#changed, this.#temperature]) plot.setCursor(index);
    this.#heat.setCanvas(frame.canvas);
    this.#showFacts(frame);
    this.#select(Math.min(this.#position, frame.canvas.length - 1), true);
  }

  /** @param {Recording} recording @param {Frame} frame @returns {Picture} */
  #picture(recording, frame) {
    const { canvas, draft: index } = frame;
    const picture = shown(frame);
    const draft = frame.done ? null : canvas.drafts[index];
    const other = this.#tokens === "argmax" ? draft?.argmax : this.#tokens === "sampled" ? draft?.sampled : null;
    const texts = recording.pieces.texts(other ?? picture.tokens);
    return { texts, states: picture.states, shades: this.#shades(frame) };
  }

  /** @param {Frame} frame @returns {number[] | undefined} */
  #shades({ canvas, draft: index }) {
    const draft = canvas.drafts[index];
    if (!draft || this.#colour === "state") return undefined;
    if (this.#colour === "entropy") return Array.from(draft.entropy, shadeOf);
    const last = Math.max(canvas.drafts.length - 1, 1);
    if (this.#colour === "stable") return Array.from(firstStable(canvas), (at) => Math.round((9 * at) / last));
    return Array.from(lastChange(canvas, index), (at) => Math.min(9, index - at));
  }

  /** @param {Frame} frame */
  #showFacts({ canvas, draft: index, done }) {
    const draft = canvas.drafts[index];
    const settled = done ? canvas.length : draft ? acceptedIn(draft) : 0;
    const facts = [
      ["Canvas", String(canvas.block + 1)],
      ["Step", draft ? `${draft.step + 1} of ${canvas.maxSteps}` : `0 of ${canvas.maxSteps}`],
      ["Mean entropy", draft ? `${rounded(draft.meanEntropy)} nats` : "–"],
      ["Temperature", draft ? rounded(draft.temperature) : "–"],
      ["Accepted", `${settled} of ${canvas.length}`],
      ["Stable", draft?.stable ? "yes" : "no"],
    ];
    this.#facts.replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    setText(this.#why, done || index === canvas.drafts.length - 1 ? whyStopped(canvas) : "");
  }

  /** @param {Answer} answer */
  #plot(answer) {
    /** @type {Record<string, (number | null)[]>} */
    const values = { entropy: [], accepted: [], changed: [], temperature: [] };
    const starts = answer.canvases.map(({ start }, block) => frameOf(answer, block, start ? -1 : 0));
    for (const canvas of answer.canvases) {
      if (canvas.start) for (const list of Object.values(values)) list.push(null);
      for (const [index, draft] of canvas.drafts.entries()) {
        values.entropy?.push(draft.meanEntropy);
        values.accepted?.push(acceptedIn(draft));
        values.changed?.push(changedIn(canvas, index));
        values.temperature?.push(draft.temperature);
      }
      if (canvas.done) for (const list of Object.values(values)) list.push(null);
    }
    this.#entropy.setValues(values.entropy ?? [], starts);
    this.#accepted.setValues(values.accepted ?? [], starts);
    this.#changed.setValues(values.changed ?? [], starts);
    this.#temperature.setValues(values.temperature ?? [], starts);
  }

  /** @param {number} index */
  #at(index) {
    return this.#answer && frameAt(this.#answer, index);
  }

  /** @param {number} draft @param {number} position */
  #seekTo(draft, position) {
    const frame = this.#at(this.#player.index);
    if (!frame || !this.#answer) return;
    this.#position = position;
    this.seek(frameOf(this.#answer, frame.block, draft));
  }

  /** @param {number} position @param {boolean} [again] Whether what it shows may have changed. */
  #select(position, again = false) {
    const frame = this.#at(this.#player.index);
    if (!frame || !this.#recording || position < 0 || position >= frame.canvas.length) return;
    if (position === this.#position && !again) return;
    this.#view.at(this.#position)?.classList.remove("selected");
    this.#position = position;
    paint(this.#showPosition);
  }

  #showPosition = () => {
    const frame = this.#at(this.#player.index);
    if (!frame || !this.#recording) return;
    const { canvas, draft } = frame;
    const text = describePosition(this.#recording, frame, this.#position);
    for (const selected of this.#view.element.querySelectorAll(".selected")) selected.classList.remove("selected");
    this.#view.at(this.#position)?.classList.add("selected");
    setText(this.#summary, text);
    this.#board.setAttribute("aria-valuemax", String(canvas.length));
    this.#board.setAttribute("aria-valuenow", String(this.#position + 1));
    this.#board.setAttribute("aria-valuetext", text);
    this.#history.replaceChildren(history(this.#recording, canvas, draft, this.#position));
    this.#heat.setCursor(draft, this.#position);
  };

  /** @param {KeyboardEvent} event */
  #key(event) {
    /** @type {Record<string, number>} */
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.#columns(), ArrowDown: this.#columns() };
    /** @type {Record<string, number>} */
    const steps = { PageUp: -1, PageDown: 1 };
    const move = moves[event.key];
    const step = steps[event.key];
    if (move !== undefined) this.#select(this.#position + move);
    else if (step !== undefined) this.seek(this.#player.index + step);
    else if (event.key === "Home") this.#select(0);
    else if (event.key === "End") this.#select(this.#view.element.childElementCount - 1);
    else return;
    event.preventDefault();
  }

  /** Positions in a row of cells; one in running text. */
  #columns() {
    if (this.#view.form === "text") return 1;
    return getComputedStyle(this.#view.element).gridTemplateColumns.split(" ").length;
  }

  /** @param {() => void} change */
  #set(change) {
    change();
    this.#show(this.#player.index);
  }

  /** @param {string} name */
  #setLayout(name) {
    this.#set(() => {
      this.#view = name === "text" ? this.#views.text : this.#views.cells;
      this.#board.replaceChildren(this.#view.element);
    });
  }

  /** @param {string} name */
  #setColour(name) {
    const { low, high } = COLOURS.find((colour) => colour.name === name) ?? {};
    this.#legend.replaceChildren(low && high ? shadeLegend(low, high) : legend());
    this.#set(() => (this.#colour = name));
  }
}

/** @param {string} label @param {{ name: string, label: string }[]} options @param {(name: string) => void} onChoice */
function choice(label, options, onChoice) {
  const group = freshId("choice");
  return h(
    "fieldset",
    { class: "choice" },
    h("legend", {}, label),
    ...options.map((option, index) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name: group, checked: index === 0, change: () => onChoice(option.name) }),
        h("span", {}, option.label),
      ),
    ),
  );
}
