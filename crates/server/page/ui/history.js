/** The history of one position: its token, state and entropy in each step. */

import { rounded, shown } from "../core/frames.js";
import { ACCEPTED, KEPT, STATES, statesOf } from "../core/states.js";
import { h, svg } from "./dom.js";

/** Entries that are shown at most: the latest. */
const LIMIT = 48;

/** A token in quotes, between which no line ends. @param {Recording} recording @param {number | undefined} token */
export function quoted(recording, token) {
  const text = token === undefined ? "" : (recording.pieces.texts([token])[0] ?? "");
  return text ? `“${text.replace(/\n/g, "⏎").replace(/ /g, "\u00a0")}”` : `control token ${token}`;
}

/**
 * A position in a picture, in words.
 * @param {Recording} recording @param {Frame} frame @param {number} position
 */
export function describePosition(recording, { canvas, draft: index, done }, position) {
  const draft = canvas.drafts[index];
  const where = `Position ${position + 1} of ${canvas.length}`;
  if (done) return `${where}: ${quoted(recording, canvas.done?.tokens[position])}, committed`;
  if (!draft) return `${where}: ${quoted(recording, canvas.start?.[position])}, noise before the first step`;
  const state = STATES[statesOf(canvas, index)[position] ?? 0];
  const probability = draft.probability?.[position];
  const sure = probability === undefined ? "" : ` (probability ${rounded(probability)})`;
  return (
    `${where}, step ${draft.step + 1}: drawn ${quoted(recording, draft.sampled[position])}${sure}, ` +
    `most likely ${quoted(recording, draft.argmax[position])}, ` +
    `entropy ${rounded(draft.entropy[position] ?? 0)} nats, ${state?.meaning}`
  );
}

/**
 * @param {Recording} recording @param {Canvas} canvas @param {number} index Of the draft shown.
 * @param {number} position
 */
export function history(recording, canvas, index, position) {
  /** @type {{ text: string, state: number, from: number, to: number }[]} */
  const entries = [];
  for (const [at, { step }] of canvas.drafts.entries()) {
    const { tokens, states } = shown({ canvas, block: canvas.block, draft: at, done: false });
    const text = quoted(recording, tokens[position]);
    const state = states[position] ?? 0;
    const last = entries.at(-1);
    const continues = last?.text === text && (last.state === state || (last.state === ACCEPTED && state === KEPT));
    if (last && continues) last.to = step;
    else entries.push({ text, state, from: step, to: step });
  }
  const now = canvas.drafts[index]?.step ?? -1;
  const items = entries.slice(-LIMIT).map(({ text, state, from, to }) =>
    h(
      "li",
      { class: now >= from && now <= to ? "now" : null },
      h("small", {}, from === to ? `${from + 1}` : `${from + 1}–${to + 1}`),
      h("span", { class: `t ${STATES[state]?.name}` }, text),
      h("small", { class: "state" }, STATES[state]?.label ?? ""),
    ),
  );
  return h("div", { class: "history" }, sparkline(canvas, index, position), h("ol", {}, ...items));
}

/** The entropy of a position over the steps. @param {Canvas} canvas @param {number} index @param {number} position */
function sparkline(canvas, index, position) {
  const values = canvas.drafts.map(({ entropy }) => Math.log10(Math.max(entropy[position] ?? 0, 1e-6)) + 6);
  const x = (/** @type {number} */ at) => (at / Math.max(values.length - 1, 1)) * 200;
  const points = values.map((value, at) => `${x(at).toFixed(1)},${(38 - value * 5).toFixed(1)}`);
  const marks = canvas.drafts.flatMap(({ accepted }, at) =>
    accepted[position] ? [svg("circle", { cx: x(at), cy: 38 - (values[at] ?? 0) * 5, r: 2.5, class: "mark" })] : [],
  );
  return svg(
    "svg",
    {
      viewBox: "-3 -3 206 46",
      class: "sparkline",
      role: "img",
      "aria-label": "Entropy of this position over the steps, with a dot where it was accepted",
    },
    svg("polyline", { points: points.join(" "), class: "line" }),
    ...marks.slice(-200),
    svg("line", { class: "cursor", x1: x(index), x2: x(index), y1: 0, y2: 40 }),
  );
}
