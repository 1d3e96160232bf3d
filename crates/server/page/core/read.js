/** Reads the lines of a recording, one at a time: those of a file, or those of a running answer. */

import { Answer, Canvas, Recording } from "./model.js";

/** @typedef {Record<string, unknown>} Line */

const FORMATS = [1, 2];

/** A line that does not belong into a recording. */
export class BadLine extends Error {}

export class Reader {
  recording = new Recording();
  #started = false;
  /** The answer in progress. @type {Answer | null} */
  #answer = null;

  /** Takes the next line. Unknown events of later versions are ignored. @param {unknown} value */
  take(value) {
    const line = object(value);
    if (!this.#started) return this.#start(line);
    switch (line.event) {
      case "start":
        throw new BadLine("another recording starts");
      case "pieces":
        return this.#pieces(line);
      case "thinking":
        this.#current().isThought = true;
        return;
      case "begin":
        return this.#begin(line);
      case "draft":
        return this.#draft(line);
      case "canvas":
        return this.#canvas(line);
      case "end":
        if (this.#answer) this.#answer.end = line;
        this.#answer = null;
    }
  }

  /** Takes the end of the lines. @param {string | null} cut What is cut off. */
  finish(cut = null) {
    const { recording } = this;
    if (cut) recording.missing = cut;
    else if (this.#answer) recording.missing = "its last answer does not end";
    else if (!recording.answers.length) recording.missing = "it has no answer";
    return recording;
  }

  /** @param {Line} line */
  #start(line) {
    if (line.event !== "start" || !FORMATS.includes(Number(line.format))) {
      throw new BadLine("it does not start a recording of format 1 or 2");
    }
    this.#started = true;
    this.recording.header = line;
    if (line.channel) {
      const { open, close } = object(line.channel);
      this.recording.channel = { open: whole(open, "open"), close: whole(close, "close") };
    }
  }

  /** @param {Line} line */
  #pieces(line) {
    for (const entry of list(line.pieces, "pieces")) {
      const [token, bytes] = list(entry, "pieces");
      this.recording.pieces.set(whole(token, "pieces"), Uint8Array.from(list(bytes, "pieces"), Number));
    }
  }

  /** @param {Line} line */
  #begin(line) {
    const canvas = this.#open(line);
    if (canvas.length) throw new BadLine(`block ${canvas.block} begins twice`);
    canvas.start = this.#tokens(line, "tokens", 0);
  }

  /** @param {Line} line */
  #draft(line) {
    // A server that was asked for texts only sends no tokens.
    if (line.canvas === undefined && line.argmax === undefined) return;
    const canvas = this.#open(line);
    const argmax = this.#tokens(line, "argmax", canvas.length);
    const length = argmax.length;
    const step = whole(line.step, "step");
    const before = canvas.drafts.at(-1);
    if (before && step <= before.step) throw new BadLine(`step ${step} follows step ${before.step}`);
    if (step >= canvas.maxSteps) throw new BadLine(`step ${step} is not one of ${canvas.maxSteps}`);
    canvas.drafts.push({
      step,
      temperature: number(line.temperature ?? 0, "temperature"),
      meanEntropy: number(line.mean_entropy ?? 0, "mean_entropy"),
      stable: line.stable === true,
      progress: String(line.progress ?? "running"),
      argmax,
      canvas: line.canvas === undefined ? argmax : this.#tokens(line, "canvas", length),
      sampled: line.sampled === undefined ? argmax : this.#tokens(line, "sampled", length),
      accepted: marks(line.accepted, length),
      entropy: numbers(line.entropy, "entropy", length),
      probability: list(line.probability ?? [], "probability").length
        ? numbers(line.probability, "probability", length)
        : null,
    });
  }

  /** @param {Line} line */
  #canvas(line) {
    const canvas = this.#open(line);
    canvas.done = {
      steps: whole(line.steps, "steps"),
      converged: line.converged === true,
      tokens: this.#tokens(line, "tokens", canvas.length),
      answer: this.#tokens(line, "answer", 0),
      generated: whole(line.generated ?? 0, "generated"),
      ended: line.ended === true,
    };
  }

  #current() {
    if (!this.#answer) {
      this.#answer = new Answer();
      this.recording.answers.push(this.#answer);
    }
    return this.#answer;
  }

  /** The canvas of a line, which is not finished. @param {Line} line */
  #open(line) {
    const { canvases } = this.#current();
    const block = whole(line.block, "block");
    const last = canvases.at(-1);
    const atWork = last && !last.done ? last : null;
    const expected = atWork?.block ?? canvases.length;
    if (block !== expected) throw new BadLine(`its block is ${block}, but block ${expected} is at work`);
    if (atWork) return atWork;
    const canvas = new Canvas(block, whole(line.max_steps ?? line.steps, "max_steps"));
    canvases.push(canvas);
    return canvas;
  }

  /**
   * Tokens whose bytes are known.
   * @param {Line} line @param {string} name @param {number} length Or 0 if any length will do.
   */
  #tokens(line, name, length) {
    const values = list(line[name], name);
    if (length) checkLength(values, name, length);
    const tokens = new Int32Array(values.length);
    const { pieces } = this.recording;
    for (let at = 0; at < tokens.length; at++) {
      const token = values[at];
      if (!pieces.has(/** @type {number} */ (token))) throw new BadLine(`token ${token} has no bytes`);
      tokens[at] = /** @type {number} */ (token);
    }
    return tokens;
  }
}

/** @param {unknown} value @returns {Line} */
function object(value) {
  if (typeof value !== "object" || value === null) throw new BadLine("it is not a JSON object");
  return /** @type {Line} */ (value);
}

/** @param {unknown} value @param {string} name @returns {unknown[]} */
function list(value, name) {
  if (!Array.isArray(value)) throw new BadLine(`${name} is not a list`);
  return value;
}

/** @param {unknown} value @param {string} name @returns {number} */
function number(value, name) {
  if (typeof value !== "number" || !Number.isFinite(value)) throw new BadLine(`${name} is not a number`);
  return value;
}

/** @param {unknown} value @param {string} name @returns {number} */
function whole(value, name) {
  if (!Number.isInteger(value) || Number(value) < 0 || Number(value) > 0x7fffffff) {
    throw new BadLine(`${name} is not a whole number`);
  }
  return Number(value);
}

/** @param {unknown[]} values @param {string} name @param {number} length */
function checkLength(values, name, length) {
  if (values.length !== length) {
    throw new BadLine(`${name} has ${values.length} entries for a canvas of ${length} tokens`);
  }
}

/** @param {unknown} value @param {string} name @param {number} length */
function numbers(value, name, length) {
  const values = list(value, name);
  checkLength(values, name, length);
  const result = new Float32Array(length);
  for (let at = 0; at < length; at++) result[at] = number(values[at], name);
  return result;
}

/** Marks are booleans in a recording, and 0 or 1 on the wire. @param {unknown} value @param {number} length */
function marks(value, length) {
  const values = list(value, "accepted");
  checkLength(values, "accepted", length);
  const result = new Uint8Array(length);
  for (let at = 0; at < length; at++) result[at] = values[at] ? 1 : 0;
  return result;
}
