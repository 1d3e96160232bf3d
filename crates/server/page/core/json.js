/** JSON as text, of which the end may be missing. */

/** A string with what is inside and its last quote, or a mark between values. */
export const PIECES = /"((?:[^"\\]|\\.)*)("?)|\s*([{[]\s*[}\]]|[{}[\],:])\s*/gs;
