/** Separates thoughts from the answer: the model marks them with two tokens. */

import { isSettled } from "./states.js";

/**
 * For each position whether it belongs to a thought, and whether one is open at the end. Noise
 * belongs to what surrounds it, and neither begins nor ends a thought.
 * @param {Recording["channel"]} channel @param {ArrayLike<number>} tokens @param {boolean} open
 * @param {Uint8Array | null} [states]
 * @returns {{ thought: Uint8Array, open: boolean }}
 */
export function thoughtsIn(channel, tokens, open, states = null) {
  const thought = new Uint8Array(tokens.length);
  for (let at = 0; at < tokens.length; at++) {
    const counts = channel && (!states || isSettled(/** @type {number} */ (states[at])));
    if (counts && tokens[at] === channel.open) open = true;
    thought[at] = Number(open || (counts && tokens[at] === channel.close));
    if (counts && tokens[at] === channel.close) open = false;
  }
  return { thought, open };
}

/** Whether a canvas begins inside a thought. @param {Recording} recording @param {Answer} answer @param {number} block */
export function opensIn(recording, answer, block) {
  let open = answer.isThought;
  for (const { done } of answer.canvases.slice(0, block)) {
    if (done) open = thoughtsIn(recording.channel, done.answer, open).open;
  }
  return open;
}

/**
 * The text of the finished canvases, without thoughts.
 * @param {Recording} recording @param {Answer} answer @param {number} [count] Canvases at most.
 */
export function answerText(recording, answer, count) {
  let text = "";
  let open = answer.isThought;
  for (const { done } of answer.canvases.slice(0, count)) {
    if (!done) break;
    const split = thoughtsIn(recording.channel, done.answer, open);
    open = split.open;
    text += recording.pieces.texts(done.answer.filter((_, at) => !split.thought[at])).join("");
  }
  return text;
}
