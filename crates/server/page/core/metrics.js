/** Prometheus' text format, as far as the page needs it. */

/** @param {string} text @returns {Sample[]} */
export function parseMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)/.exec(line);
    if (!match || line.startsWith("#")) continue;
    /** @type {Record<string, string>} */
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/([\w]+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[String(name)] = String(value);
    }
    samples.push({ name: String(match[1]), labels, value: Number(match[3]) });
  }
  return samples;
}

/** The sum of all samples with a name, or null if there are none. @param {Sample[]} samples @param {string} name */
export function total(samples, name) {
  const found = samples.filter((sample) => sample.name === name);
  return found.length ? found.reduce((sum, sample) => sum + sample.value, 0) : null;
}

/** The mean of a histogram, or null if nothing was observed. @param {Sample[]} samples @param {string} name */
export function mean(samples, name) {
  const count = total(samples, `${name}_count`);
  const sum = total(samples, `${name}_sum`);
  return count && sum !== null ? sum / count : null;
}

/**
 * The counts of a histogram's buckets, not cumulated.
 * @param {Sample[]} samples @param {string} name
 * @returns {{ below: string, count: number }[]}
 */
export function buckets(samples, name) {
  const found = samples.filter((sample) => sample.name === `${name}_bucket`);
  /** @type {Map<string, number>} */
  const sums = new Map();
  for (const { labels, value } of found) sums.set(labels.le ?? "", (sums.get(labels.le ?? "") ?? 0) + value);
  const sorted = [...sums].sort(([a], [b]) => bound(a) - bound(b));
  return sorted.map(([below, value], index) => ({ below, count: value - (sorted[index - 1]?.[1] ?? 0) }));
}

/** @param {string} le */
function bound(le) {
  return le === "+Inf" ? Infinity : Number(le);
}
