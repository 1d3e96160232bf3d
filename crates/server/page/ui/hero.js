/** A title that comes out of noise, as the answers do. */

import { h } from "./dom.js";
import { isCalm } from "./paint.js";

const LETTERS = "abcdefghijklmnopqrstuvwxyz·+=/<>#%&";
const INTERVAL = 70;

/** @param {string} title */
export function hero(title) {
  const spans = [...title].map((letter) => h("span", { class: "t committed" }, letter));
  const element = h("h1", { class: "hero" }, h("span", { class: "hidden" }, title), h("span", { "aria-hidden": "true" }, ...spans));
  if (!isCalm()) denoise(spans, [...title]);
  return element;
}

/** @param {HTMLElement[]} spans @param {string[]} letters */
function denoise(spans, letters) {
  const waits = letters.map(() => 4 + Math.random() * 14);
  let step = 0;
  const timer = setInterval(() => {
    step++;
    let rest = 0;
    for (const [at, span] of spans.entries()) {
      const letter = letters[at] ?? "";
      const wait = waits[at] ?? 0;
      const isNoise = step < wait && letter !== " ";
      rest += Number(isNoise);
      span.textContent = isNoise ? (LETTERS[Math.floor(Math.random() * LETTERS.length)] ?? "") : letter;
      span.className = `t ${isNoise ? "noise" : step < wait + 1 ? "accepted" : "committed"}`;
    }
    if (!rest && step > 20) clearInterval(timer);
  }, INTERVAL);
}
