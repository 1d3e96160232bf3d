/** JSON as text, of which the end may be missing. */

/** A string with what is inside and its last quote, or a mark between values. */
export const PIECES = /"((?:[^"\\]|\\.)*)("?)|\s*([{[]\s*[}\]]|[{}[\],:])\s*/gs;

/** Sets a text in lines. Unlike parsing and writing it, that keeps its numbers. @param {string} json */
export function indented(json) {
  let depth = 0;
  const line = (/** @type {number} */ change) => `\n${"  ".repeat((depth = Math.max(depth + change, 0)))}`;
  return json.trim().replace(PIECES, (piece, _inside, _quote, mark) => {
    if (!mark) return piece;
    if (mark === "{" || mark === "[") return mark + line(1);
    if (mark === "}" || mark === "]") return line(-1) + mark;
    return mark === "," ? mark + line(0) : mark === ":" ? ": " : mark[0] + mark.at(-1);
  });
}
