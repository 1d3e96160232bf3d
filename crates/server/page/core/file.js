/** A recording as the text of a file. */

import { BadLine, Reader } from "./read.js";

/** How long the page may be busy before it draws again, in milliseconds. */
const SLICE = 40;

/**
 * Reads the text of a recording. The page stays responsive meanwhile; a truncated recording is read
 * up to its last complete line.
 * @param {string} text
 * @param {(recording: Recording) => void} [onSlice] Called while it is read, with what there is.
 * @returns {Promise<Recording>}
 */
export async function parse(text, onSlice = () => {}) {
  if (!text.trim()) throw new BadLine("it is empty");
  const reader = new Reader();
  let until = performance.now() + SLICE;
  for (let start = 0, number = 1; start < text.length; number++) {
    const found = text.indexOf("\n", start);
    const end = found < 0 ? text.length : found;
    const line = text.slice(start, end);
    start = end + 1;
    try {
      reader.take(JSON.parse(line));
    } catch (error) {
      if (error instanceof SyntaxError && number > 1 && found < 0) {
        return reader.finish(`line ${number} is cut off`);
      }
      const problem = error instanceof Error ? error.message : String(error);
      throw new BadLine(`line ${number}: ${problem}`);
    }
    if (performance.now() > until) {
      onSlice(reader.recording);
      await new Promise((resolve) => setTimeout(resolve));
      until = performance.now() + SLICE;
    }
  }
  return reader.finish();
}

/**
 * Writes a recording as `llama-diffusion-cli --record` does.
 * @param {Recording} recording
 * @returns {string}
 */
export function write(recording) {
  /** @type {string[]} */
  const lines = [];
  /** @type {Set<number>} */
  const known = new Set();
  const add = (/** @type {object} */ line, /** @type {ArrayLike<number>[]} */ ...used) => {
    /** @type {[number, number[]][]} */
    const pieces = [];
    for (const tokens of used) {
      for (const token of Array.from(tokens)) {
        if (!known.has(token)) pieces.push([token, [...recording.pieces.bytes(token)]]);
        known.add(token);
      }
    }
    if (pieces.length) lines.push(JSON.stringify({ event: "pieces", pieces }));
    lines.push(JSON.stringify(line));
  };
  add(recording.header);
  for (const answer of recording.answers) {
    if (answer.isThought) add({ event: "thinking" });
    for (const canvas of answer.canvases) writeCanvas(canvas, add);
    if (answer.end) add(answer.end);
  }
  return lines.join("\n") + "\n";
}

/**
 * @param {Canvas} canvas
 * @param {(line: object, ...used: ArrayLike<number>[]) => void} add
 */
function writeCanvas(canvas, add) {
  const { block, maxSteps: max_steps, start, done } = canvas;
  if (start) add({ event: "begin", block, max_steps, tokens: [...start] }, start);
  for (const draft of canvas.drafts) {
    const { step, temperature, stable, progress, argmax, sampled } = draft;
    add(
      {
        event: "draft",
        block,
        step,
        max_steps,
        temperature,
        mean_entropy: draft.meanEntropy,
        stable,
        progress,
        canvas: [...draft.canvas],
        argmax: [...argmax],
        sampled: [...sampled],
        accepted: Array.from(draft.accepted, Boolean),
        entropy: Array.from(draft.entropy, shortest),
        ...(draft.probability && { probability: Array.from(draft.probability, shortest) }),
      },
      draft.canvas,
      argmax,
      sampled,
    );
  }
  if (done) {
    const { steps, converged, generated, ended } = done;
    const tokens = [...done.tokens];
    add({ event: "canvas", block, steps, converged, tokens, answer: [...done.answer], generated, ended }, tokens);
  }
}

/** The shortest decimal of a 32-bit number. @param {number} value */
function shortest(value) {
  let digits = 3;
  while (digits < 9 && Math.fround(Number(value.toPrecision(digits))) !== value) digits++;
  return Number(value.toPrecision(digits));
}
