/** When to draw: at most once a frame, and with reduced motion at most twice a second. */

const reduced = matchMedia("(prefers-reduced-motion: reduce)");

/** Whether the user asked for less motion. */
export function isCalm() {
  return reduced.matches;
}

const CALM_INTERVAL = 500;

/** @type {Set<() => void>} */
const waiting = new Set();

function paintAll() {
  const jobs = [...waiting];
  waiting.clear();
  for (const job of jobs) job();
}

/** Draws in the next frame, once however often it is asked. @param {() => void} job */
export function paint(job) {
  if (!waiting.size) requestAnimationFrame(paintAll);
  waiting.add(job);
}

/**
 * A function that draws a running answer: in each frame, or calmly.
 * @param {() => void} job
 * @returns {(final?: boolean) => void}
 */
export function painter(job) {
  let last = -Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const draw = () => {
    last = performance.now();
    job();
  };
  return (final = false) => {
    const wait = last + CALM_INTERVAL - performance.now();
    if (final || !isCalm() || wait <= 0) {
      clearTimeout(timer);
      timer = undefined;
      return paint(draw);
    }
    timer ??= setTimeout(() => {
      timer = undefined;
      paint(draw);
    }, wait);
  };
}
