/** What a recording consists of: answers, their canvases, and the drafts of each canvas. */

import { Pieces } from "./pieces.js";

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
