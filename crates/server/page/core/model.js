/** What a recording consists of: answers, their canvases, and the drafts of each canvas. */

import { Pieces } from "./pieces.js";

/**
 * A canvas after a denoising step.
 * @typedef {object} Draft
 * @property {number} step From 0.
 * @property {number} temperature
 * @property {number} meanEntropy In nats.
 * @property {boolean} stable
 * @property {string} progress "running", "converged" or "out-of-steps".
 * @property {Int32Array} canvas The input of the next step: accepted tokens, and noise elsewhere.
 * @property {Int32Array} argmax The most likely tokens.
 * @property {Int32Array} sampled The tokens drawn.
 * @property {Uint8Array} accepted 1 where the drawn token was accepted.
 * @property {Float32Array} entropy In nats.
 * @property {Float32Array | null} probability Of the tokens drawn.
 */

/**
 * A canvas that has been committed.
 * @typedef {object} Finished
 * @property {number} steps
 * @property {boolean} converged
 * @property {Int32Array} tokens The whole canvas.
 * @property {Int32Array} answer What a reader sees of it.
 * @property {number} generated
 * @property {boolean} ended
 */

export class Canvas {
  /** What the first step read. @type {Int32Array | null} */
  start = null;
  /** @type {Draft[]} */
  drafts = [];
  /** @type {Finished | null} */
  done = null;

  /** @param {number} block @param {number} maxSteps */
  constructor(block, maxSteps) {
    this.block = block;
    this.maxSteps = maxSteps;
  }

  /** The number of positions, 0 while it is not known. */
  get length() {
    return this.start?.length ?? this.drafts[0]?.canvas.length ?? this.done?.tokens.length ?? 0;
  }
}

export class Answer {
  /** @type {Canvas[]} */
  canvases = [];
  /** Whether it begins inside a thought. */
  isThought = false;
  /** The line that ended it. @type {Record<string, unknown> | null} */
  end = null;
}

export class Recording {
  /** The first line. @type {Record<string, unknown>} */
  header = { event: "start", format: 1, channel: null };
  /** The tokens around a thought. @type {{ open: number, close: number } | null} */
  channel = null;
  pieces = new Pieces();
  /** @type {Answer[]} */
  answers = [];
  /** What is missing at the end. @type {string | null} */
  missing = null;
}
