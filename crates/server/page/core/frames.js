/** The pictures of an answer, in order: each canvas before its first step, after each, and finished. */

import { COMMITTED, DRAWN, NOISE, statesOf } from "./states.js";

/** Pictures of one canvas. @param {Canvas} canvas */
function countOf(canvas) {
  return Number(canvas.start !== null) + canvas.drafts.length + Number(canvas.done !== null);
}

/** The number of pictures of an answer. @param {Answer} answer */
export function frameCount(answer) {
  return answer.canvases.reduce((sum, canvas) => sum + countOf(canvas), 0);
}

/** @param {Answer} answer @param {number} index @returns {Frame | null} */
export function frameAt(answer, index) {
  let rest = index;
  for (const [block, canvas] of answer.canvases.entries()) {
    const count = countOf(canvas);
    if (rest < count) {
      const done = canvas.done !== null && rest === count - 1;
      const draft = done ? canvas.drafts.length - 1 : rest - Number(canvas.start !== null);
      return { canvas, block, draft, done };
    }
    rest -= count;
  }
  return null;
}

/** The picture after a step. @param {Answer} answer @param {number} block @param {number} draft */
export function frameOf(answer, block, draft) {
  const before = answer.canvases.slice(0, block).reduce((sum, canvas) => sum + countOf(canvas), 0);
  return before + Number(answer.canvases[block]?.start != null) + draft;
}

/**
 * The tokens of a picture and their states. A position that is drawn but not accepted has the drawn
 * token, noise its random one.
 * @param {Frame} frame
 * @returns {{ tokens: Int32Array, states: Uint8Array }}
 */
export function shown({ canvas, draft: index, done }) {
  if (done && canvas.done) {
    const { tokens } = canvas.done;
    return { tokens, states: new Uint8Array(tokens.length).fill(COMMITTED) };
  }
  const draft = canvas.drafts[index];
  if (!draft) {
    const tokens = canvas.start ?? new Int32Array();
    return { tokens, states: new Uint8Array(tokens.length).fill(NOISE) };
  }
  const states = statesOf(canvas, index);
  const tokens = draft.canvas.slice();
  for (let at = 0; at < tokens.length; at++) {
    if (states[at] === DRAWN) tokens[at] = /** @type {number} */ (draft.sampled[at]);
  }
  return { tokens, states };
}

/** A picture in words. @param {Answer} answer @param {Frame | null} frame @returns {string} */
export function describe(answer, frame) {
  if (!frame) return "no step yet";
  const { canvas, block, done } = frame;
  const of = answer.canvases.length > 1 ? `canvas ${block + 1} of ${answer.canvases.length}, ` : "";
  const draft = canvas.drafts[frame.draft];
  if (done && canvas.done) {
    const how = canvas.done.converged ? "converged" : "stopped";
    return `${of}${how} after ${counted(canvas.done.steps, "step", "steps")}`;
  }
  if (!draft) return `${of}before step 1 of ${canvas.maxSteps}`;
  const state = draft.progress === "converged" ? ", converged" : draft.stable ? ", stable" : "";
  return `${of}step ${draft.step + 1} of ${canvas.maxSteps}, entropy ${rounded(draft.meanEntropy)}${state}`;
}

/** How many there are, in words. @param {number} count @param {string} one @param {string} many */
export function counted(count, one, many) {
  return `${count} ${count === 1 ? one : many}`;
}

/** A figure with about three digits. @param {number} value */
export function rounded(value) {
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}
