/** The texts of tokens. A token is a run of bytes, which may begin or end inside a character. */

const whole = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Text that may be shown anywhere: marks that change the direction of what surrounds them, and
 * control characters other than line ends and tabs, are replaced.
 * @param {string} text
 */
export function harmless(text) {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

/** Tokens and their bytes. */
export class Pieces {
  /** @type {Map<number, Uint8Array>} */
  #bytes = new Map();
  /** The text of each token that consists of whole characters. @type {Map<number, string>} */
  #texts = new Map();

  /** @param {number} token @param {Uint8Array} bytes */
  set(token, bytes) {
    this.#bytes.set(token, bytes);
    this.#texts.delete(token);
    try {
      this.#texts.set(token, harmless(whole.decode(bytes).replace(/\r\n?/g, "\n")));
    } catch {
      // A part of a character: its text depends on its neighbours.
    }
  }

  /** @param {number} token */
  has(token) {
    return this.#bytes.has(token);
  }

  /** @param {number} token @returns {Uint8Array} */
  bytes(token) {
    return this.#bytes.get(token) ?? new Uint8Array();
  }

  /**
   * The text of each position of consecutive tokens. A character of several tokens belongs to the
   * last of them; bytes that are no character become U+FFFD.
   * @param {ArrayLike<number>} tokens
   * @returns {string[]}
   */
  texts(tokens) {
    const texts = new Array(tokens.length);
    for (let at = 0; at < tokens.length; ) {
      const text = this.#texts.get(/** @type {number} */ (tokens[at]));
      if (text === undefined) at = this.#decodeParts(tokens, at, texts);
      else texts[at++] = text;
    }
    return texts;
  }

  /**
   * Decodes neighbours that are parts of characters, and returns the position after them.
   * @param {ArrayLike<number>} tokens @param {number} at @param {string[]} texts
   */
  #decodeParts(tokens, at, texts) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    let next = at;
    while (next < tokens.length && !this.#texts.has(/** @type {number} */ (tokens[next]))) {
      const bytes = this.bytes(/** @type {number} */ (tokens[next]));
      texts[next++] = harmless(decoder.decode(bytes, { stream: true }));
    }
    texts[next - 1] += decoder.decode();
    return next;
  }
}
