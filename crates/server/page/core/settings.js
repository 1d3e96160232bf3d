/** What an answer depends on beside its prompt, and how the address bar keeps it. */

/** Parameters of the sampler. @type {Parameter[]} */
export const PARAMETERS = [
  {
    name: "max_steps",
    label: "Maximum steps",
    hint: "denoising steps per canvas",
    min: 1,
    max: 256,
    step: 1,
    initial: 48,
  },
  {
    name: "t_max",
    label: "First temperature",
    hint: "temperature of the first step",
    min: 0.05,
    max: 2,
    step: 0.05,
    initial: 0.8,
  },
  {
    name: "t_min",
    label: "Last temperature",
    hint: "what the temperature approaches; at most the first",
    min: 0,
    max: 2,
    step: 0.05,
    initial: 0.4,
  },
  {
    name: "entropy_bound",
    label: "Entropy bound",
    hint: "nats that the accepted positions of a step may have together",
    min: 1e-6,
    max: 10,
    step: 0.01,
    log: true,
    initial: 0.1,
  },
  {
    name: "stability_threshold",
    label: "Stability threshold",
    hint: "previous steps with the same most likely canvas",
    min: 0,
    max: 10,
    step: 1,
    initial: 1,
  },
  {
    name: "confidence_threshold",
    label: "Confidence threshold",
    hint: "a stable canvas ends below this mean entropy; 0 takes all steps",
    min: 1e-7,
    max: 1,
    step: 0.001,
    log: true,
    initial: 0.005,
  },
];

/** @param {Place} place @returns {string} */
export function writeHash({ view, prompt, seed, values }) {
  const query = new URLSearchParams();
  if (prompt) query.set("prompt", prompt);
  if (seed) query.set("seed", seed);
  for (const [name, value] of Object.entries(values)) query.set(name, String(value));
  const text = query.toString();
  return `#${view}${text ? `?${text}` : ""}`;
}

/** @param {string} hash @returns {Place} */
export function readHash(hash) {
  const [view = "", query = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  const fields = new URLSearchParams(query);
  /** @type {Values} */
  const values = {};
  for (const { name } of [...PARAMETERS, { name: "max_tokens" }]) {
    const text = fields.get(name);
    const value = Number(text);
    if (text && Number.isFinite(value) && value >= 0) values[name] = value;
  }
  const seed = fields.get("seed") ?? "";
  return { view, prompt: fields.get("prompt") ?? "", seed: isSeed(seed) ? seed : "", values };
}

/** Whether a text is a seed that a JSON number holds exactly. @param {string} text */
export function isSeed(text) {
  return /^\d{1,16}$/.test(text) && Number.isSafeInteger(Number(text));
}

/** A seed for an answer that asked for none. */
export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
}
