/** What a recording must look like, computed from its lines alone. */

/** @typedef {{ text: string, states: string[], label: string }} Picture */

/** @param {Map<number, number[]>} pieces @param {number[]} tokens */
function decode(pieces, tokens) {
  return new TextDecoder().decode(Uint8Array.from(tokens.flatMap((token) => pieces.get(token) ?? [])));
}

/** Text without white space, which noise shows as single spaces. @param {string} text */
export function dense(text) {
  // Other control characters than line ends and tabs are shown as U+FFFD.
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd").replace(/\s+/g, "");
}

/** The pictures of the first answer, in order. @param {any[]} lines @returns {Picture[]} */
export function pictures(lines) {
  /** @type {Map<number, number[]>} */
  const pieces = new Map();
  const result = [];
  /** @type {(number | null)[]} */
  let before = [];
  for (const line of lines) {
    for (const [token, bytes] of line.pieces ?? []) pieces.set(token, bytes);
    const picture = (/** @type {number[]} */ tokens, /** @type {string[]} */ states, /** @type {string} */ label) =>
      result.push({ text: dense(decode(pieces, tokens)), states, label });
    if (line.event === "begin") {
      before = line.tokens.map(() => null);
      picture(line.tokens, line.tokens.map(() => "noise"), "before step 1");
    } else if (line.event === "draft") {
      const states = line.accepted.map((/** @type {boolean} */ accepted, /** @type {number} */ at) => {
        const was = before[at];
        before[at] = accepted ? line.canvas[at] : null;
        if (accepted) return was === line.canvas[at] ? "kept" : "accepted";
        if (was !== null) return "changed";
        return line.entropy[at] < 0.7 ? "drawn" : "noise";
      });
      const tokens = line.canvas.map((/** @type {number} */ token, /** @type {number} */ at) =>
        states[at] === "drawn" ? line.sampled[at] : token,
      );
      picture(tokens, states, `step ${line.step + 1} of`);
    } else if (line.event === "canvas") {
      picture(line.answer, line.tokens.map(() => "committed"), `after ${line.steps} steps`);
    } else if (line.event === "end") break;
  }
  return result;
}
