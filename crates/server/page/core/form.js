/** The form of an answer that follows a schema: the JSON around its values. */

import { PIECES } from "./json.js";
import { isSettled } from "./states.js";
import { answerText, opensIn, thoughtsIn } from "./thoughts.js";

/** The entry of a legend. */
export const FORM = { name: "form", label: "Form", meaning: "what the schema forces: brackets, quotes, commas, and its keys" };

/** The keys that a schema names, as JSON writes them. @param {object} schema @returns {string[]} */
export function keysOf(schema) {
  /** @type {string[]} */
  const keys = [];
  JSON.stringify(schema, (name, value) => {
    if (name === "properties" && value) keys.push(...Object.keys(value));
    return value;
  });
  return keys.map((key) => JSON.stringify(key).slice(1, -1));
}

/** Marks the characters of a text that are form. @param {string} text @param {string[]} keys */
function marksOf(text, keys) {
  const marks = new Uint8Array(text.length);
  /** @type {string[]} */
  const open = [];
  let last = "";
  for (const { 0: piece, 1: inside = "", 2: quote, 3: mark, index } of text.matchAll(PIECES)) {
    const end = index + piece.length;
    const isKey = open.at(-1) === "{" && last !== ":";
    if (mark || (isKey && keys.some((key) => (quote ? key === inside : key.startsWith(inside))))) marks.fill(1, index, end);
    marks[index] = 1;
    if (quote) marks[end - 1] = 1;
    if (!mark) continue;
    if (mark === "{" || mark === "[") open.push(mark);
    else if (mark === "}" || mark === "]") open.pop();
    last = mark;
  }
  return marks;
}

/**
 * For each position of a picture whether it is settled as form. The tokens drawn in a step are read for that: all
 * of them together follow the schema, while those shown have noise between them.
 * @param {Recording} recording @param {Answer} answer
 * @param {Frame} frame @param {Uint8Array} states @param {string[]} keys
 */
export function formIn(recording, answer, { canvas, block, draft, done }, states, keys) {
  const tokens = (done ? canvas.done?.answer : canvas.drafts[draft]?.sampled) ?? [];
  const { thought } = thoughtsIn(recording.channel, tokens, opensIn(recording, answer, block));
  const texts = recording.pieces.texts(tokens).map((text, at) => (thought[at] ? "" : text));
  const before = answerText(recording, answer, block);
  const marks = marksOf(before + texts.join(""), keys);
  let end = before.length;
  return Uint8Array.from(texts, (text, at) => {
    const start = end;
    end += text.length;
    // Thoughts have no text here, and a schema forces none of them.
    return Number(text !== "" && isSettled(states[at] ?? 0) && marks.subarray(start, end).every(Boolean));
  });
}
