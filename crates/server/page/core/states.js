/** What happens to the positions of a canvas: their states, and figures of the steps. */

/** States of a position. The numbers are indices of `STATES`. */
export const NOISE = 0;
export const DRAWN = 1;
export const ACCEPTED = 2;
export const KEPT = 3;
export const CHANGED = 4;
export const COMMITTED = 5;

/** Names, and what they mean, for legends and for screen readers. */
export const STATES = [
  { name: "noise", label: "Noise", meaning: "random, the model is unsure" },
  { name: "drawn", label: "Drawn", meaning: "drawn, but not accepted" },
  { name: "accepted", label: "Accepted", meaning: "accepted in this step" },
  { name: "kept", label: "Kept", meaning: "accepted before, and again" },
  { name: "changed", label: "Given up", meaning: "accepted before, noise again" },
  { name: "committed", label: "Committed", meaning: "part of the finished canvas" },
];

/** Whether the token of a position is accepted or committed. @param {number} state */
export function isSettled(state) {
  return state === ACCEPTED || state === KEPT || state === COMMITTED;
}

/**
 * Entropy in nats below which the model is nearly sure: two tokens that are equally likely have
 * 0.69.
 */
const LIKELY = 0.7;

/**
 * The states after a step. A given-up position stays marked for one step.
 * @param {Canvas} canvas @param {number} index Of the draft.
 * @returns {Uint8Array}
 */
export function statesOf(canvas, index) {
  const draft = /** @type {Draft} */ (canvas.drafts[index]);
  const before = canvas.drafts[index - 1];
  const states = new Uint8Array(draft.canvas.length);
  for (let at = 0; at < states.length; at++) {
    const wasAccepted = before?.accepted[at];
    if (draft.accepted[at]) {
      states[at] = wasAccepted && before?.canvas[at] === draft.canvas[at] ? KEPT : ACCEPTED;
    } else if (wasAccepted) states[at] = CHANGED;
    else states[at] = /** @type {number} */ (draft.entropy[at]) < LIKELY ? DRAWN : NOISE;
  }
  return states;
}

/** How many positions a step accepted. @param {Draft} draft */
export function acceptedIn(draft) {
  let count = 0;
  for (const mark of draft.accepted) count += mark;
  return count;
}

/**
 * How many of the most likely tokens differ from those of the step before.
 * @param {Canvas} canvas @param {number} index Of the draft.
 */
export function changedIn(canvas, index) {
  const before = canvas.drafts[index - 1]?.argmax ?? canvas.start;
  const { argmax } = /** @type {Draft} */ (canvas.drafts[index]);
  if (!before) return argmax.length;
  let count = 0;
  for (let at = 0; at < argmax.length; at++) count += Number(argmax[at] !== before[at]);
  return count;
}

/**
 * For each position, the first draft from which its most likely token stays.
 * @param {Canvas} canvas
 */
export function firstStable(canvas) {
  const last = canvas.drafts.length - 1;
  const stable = new Int32Array(canvas.length);
  for (let at = 0; at < stable.length; at++) {
    let index = last;
    while (index > 0 && canvas.drafts[index]?.argmax[at] === canvas.drafts[index - 1]?.argmax[at]) index--;
    stable[at] = index;
  }
  return stable;
}

/**
 * For each position, the latest draft, not after `index`, in which its most likely token changed.
 * @param {Canvas} canvas @param {number} index
 */
export function lastChange(canvas, index) {
  const changed = new Int32Array(canvas.length);
  for (let at = 0; at < changed.length; at++) {
    let draft = index;
    while (draft > 0 && canvas.drafts[draft]?.argmax[at] === canvas.drafts[draft - 1]?.argmax[at]) draft--;
    changed[at] = draft;
  }
  return changed;
}

/** Why the steps of a canvas ended. @param {Canvas} canvas */
export function whyStopped(canvas) {
  const last = canvas.drafts.at(-1);
  if (canvas.done?.converged || last?.progress === "converged") {
    return "Converged: the most likely canvas was stable, and its mean entropy below the threshold.";
  }
  if (last?.progress === "out-of-steps") return `Out of steps: it had ${canvas.maxSteps}.`;
  if (canvas.done) return `Stopped after ${canvas.done.steps} of ${canvas.maxSteps} steps.`;
  return last ? "It was still being denoised." : "No step is complete.";
}
