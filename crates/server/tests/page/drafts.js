/** Lines of recordings: those in the repository, and scripted ones. */

import { readFileSync } from "node:fs";

const encoder = new TextEncoder();

/** The recording of the documentation: 3 canvases of 32 tokens. */
export const RECORDED = readFileSync(new URL("../../../../docs/canvas.jsonl", import.meta.url), "utf8");

/** @param {string} text */
export function linesOf(text) {
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

/** Numbers from 0 to 1, the same for each seed. @param {number} seed */
export function random(seed) {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

const WORDS =
  "The owl is white and sits on a tall old tree near the river . It sees a mouse in the grass , but it does not move . Grace looks up".split(
    " ",
  );

/**
 * A scripted answer, whose every position is noise, then drawn, accepted and kept; some are given up.
 * @param {object} options
 * @param {number} [options.length] Tokens of a canvas.
 * @param {number} [options.steps] Of a canvas.
 * @param {number} [options.canvases]
 * @param {number} [options.seed]
 * @param {(string | number[])[]} [options.noise] Pieces that noise is made of.
 * @param {(string | number[])[]} [options.words] Pieces of the final text, repeated.
 * @param {boolean} [options.restless] Whether no position is kept before the last step.
 * @param {boolean} [options.thinks] Whether the first eight positions are a thought.
 * @param {boolean} [options.follows] Whether what is drawn is the final text, as if a form forced it.
 */
export function* scripted({
  length = 256,
  steps = 24,
  canvases = 1,
  seed = 1,
  noise = ["qu", " zor", "▒", " 42", "\n", "été", " 日本", "{}", "ing", " the"],
  words = WORDS.map((word, at) => (at ? ` ${word}` : word)),
  restless = false,
  thinks = false,
  follows = false,
}) {
  const next = random(seed * 7919 + 17);
  const bytes = (/** @type {string | number[]} */ piece) => (Array.isArray(piece) ? piece : [...encoder.encode(piece)]);
  const first = 2;
  const pieces = [[0, []], [1, []], ...[...words, ...noise].map((piece, at) => [first + at, bytes(piece)])];
  const channel = thinks ? { open: 0, close: 1 } : null;
  yield { event: "start", format: 2, channel, seed, canvas_length: length, max_steps: steps, model: "scripted" };
  yield { event: "pieces", pieces };
  const anyNoise = () => first + words.length + Math.floor(next() * noise.length);
  for (let block = 0; block < canvases; block++) {
    const final = Array.from({ length }, (_, at) => first + ((block * length + at) % words.length));
    if (thinks && block === 0) [final[0], final[8]] = [0, 1];
    const settles = final.map(() => Math.floor(next() ** 0.7 * steps));
    yield { event: "begin", block, max_steps: steps, tokens: final.map(anyNoise) };
    for (let step = 0; step < steps; step++) {
      const last = step === steps - 1;
      const accepted = settles.map((settle, at) => {
        if (last) return true;
        if (restless) return next() < 0.3;
        return step >= settle && !(step === settle + 1 && at % 9 === 0);
      });
      const entropy = settles.map((settle) => Math.max(1e-6, 10 ** (((settle - step) / steps) * 3 - 0.5 - next())));
      const argmax = final.map((token, at) => (last || follows || step >= (settles[at] ?? 0) - 1 ? token : anyNoise()));
      yield {
        event: "draft",
        block,
        step,
        max_steps: steps,
        temperature: 0.8 - (0.4 * step) / steps,
        mean_entropy: entropy.reduce((sum, value) => sum + value, 0) / length,
        stable: step > steps - 3,
        progress: last ? "converged" : "running",
        canvas: argmax.map((token, at) => (accepted[at] ? token : anyNoise())),
        argmax,
        sampled: argmax,
        accepted: accepted.map(Number),
        entropy,
      };
    }
    const ended = block === canvases - 1;
    yield { event: "canvas", block, steps, converged: true, tokens: final, answer: final, generated: length, ended };
  }
  yield { event: "end", canvases, steps: steps * canvases, tokens_per_step: length / steps, denoise_ms: 640, prefill_ms: 12 };
}

/** The text of a finished canvas, from the pieces so far. @param {Map<number, number[]>} pieces @param {number[]} tokens */
export function textOf(pieces, tokens) {
  return new TextDecoder().decode(Uint8Array.from(tokens.flatMap((token) => pieces.get(token) ?? [])));
}
