/** The server at work: its slots, its queue, and figures of its steps. */

import { ServerError } from "../core/api.js";
import { rounded } from "../core/frames.js";
import { buckets, mean, parseMetrics, total } from "../core/metrics.js";
import { h, setText } from "../ui/dom.js";

/** How often it is asked, in milliseconds. */
const INTERVAL = 1000;

/** @param {App} app @returns {View} */
export function serverView(app) {
  const slots = h("ul", { class: "slots" });
  const figures = h("dl", { class: "facts" });
  const histogram = h("div", { class: "histograms" });
  const message = h("p", { class: "status", role: "status" });
  const noSlots = h("p", { class: "status" });
  const noFigures = h("p", { class: "status" });
  /** What the server has: to ask for what is turned off would be an error. @type {Json | null} */
  let props = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let isShown = false;
  let busy = false;

  async function refresh() {
    if (busy) return;
    busy = true;
    let isLocked = false;
    try {
      await ask();
      setText(message, "");
    } catch (error) {
      setText(message, error instanceof Error ? error.message : String(error));
      // A server that comes back may have other options.
      props = null;
      isLocked = error instanceof ServerError && error.status === 401;
    }
    busy = false;
    clearTimeout(timer);
    // Who gave no key is not asked for it every second.
    if (isShown && !isLocked) timer = setTimeout(refresh, INTERVAL);
  }

  async function ask() {
    props ??= /** @type {Json} */ (await app.server.json("props"));
    setText(noSlots, props.endpoint_slots ? "" : "The server was started with --no-slots. Start it without that option to see its slots.");
    setText(noFigures, props.endpoint_metrics ? "" : "Start the server with --metrics to see figures.");
    const [found, metrics] = await Promise.all([
      props.endpoint_slots ? app.server.json("slots") : [],
      props.endpoint_metrics ? app.server.text("metrics") : null,
    ]);
    slots.replaceChildren(...found.map(slot));
    if (metrics !== null) showMetrics(parseMetrics(metrics));
  }

  /** @param {Sample[]} samples */
  function showMetrics(samples) {
    const queries = total(samples, "llama_diffusion_prefix_cache_queries_total");
    const hits = total(samples, "llama_diffusion_prefix_cache_hits_total");
    const rows = [
      ["Requests running", whole(total(samples, "llamacpp:requests_processing"))],
      ["Requests waiting", whole(total(samples, "llamacpp:requests_deferred"))],
      ["Prompt tokens read", whole(total(samples, "llamacpp:prompt_tokens_total"))],
      ["Answer tokens", whole(total(samples, "llamacpp:tokens_predicted_total"))],
      ["Prompt tokens per second", figure(total(samples, "llamacpp:prompt_tokens_seconds"))],
      ["Answer tokens per second", figure(total(samples, "llamacpp:predicted_tokens_seconds"))],
      ["Tokens per step", figure(mean(samples, "llama_diffusion_tokens_per_step"))],
      ["Steps per canvas", figure(mean(samples, "llama_diffusion_steps_per_canvas"))],
      ["Time per step", milliseconds(mean(samples, "llama_diffusion_step_seconds"))],
      ["Prompt tokens found in the cache", queries ? `${Math.round((100 * (hits ?? 0)) / queries)}%` : "–"],
    ];
    figures.replaceChildren(...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    histogram.replaceChildren(
      bars("Steps per canvas", buckets(samples, "llama_diffusion_steps_per_canvas")),
      bars("Canvases per step", buckets(samples, "llama_diffusion_canvases_per_step")),
    );
  }

  return {
    element: h(
      "div",
      { class: "view server" },
      h("h1", {}, "Server"),
      message,
      h("section", { class: "panel", "aria-label": "Slots" }, h("h2", {}, "Slots"), noSlots, slots),
      h("section", { class: "panel", "aria-label": "Figures" }, h("h2", {}, "Figures"), noFigures, figures, histogram),
    ),
    enter() {
      isShown = true;
      props = null;
      void refresh();
    },
    leave() {
      isShown = false;
      clearTimeout(timer);
    },
  };
}

/** @param {Record<string, any>} slot */
function slot({ id, is_processing, n_ctx, diffusion = {} }) {
  const { block, step, max_steps, mean_entropy } = diffusion ?? {};
  const at = [
    block == null ? "" : `canvas ${block + 1}`,
    step == null ? "" : `step ${step + 1}`,
    mean_entropy == null ? "" : `entropy ${rounded(mean_entropy)}`,
  ].filter(Boolean);
  const work = is_processing ? at.join(", ") || "reading a prompt" : "free";
  return h(
    "li",
    { class: is_processing ? "busy" : null },
    h("strong", {}, `Slot ${id}`),
    h("span", {}, work),
    max_steps && is_processing
      ? h("progress", { max: max_steps, value: (step ?? 0) + 1, "aria-label": `Steps of slot ${id}` })
      : null,
    h("small", {}, `context of ${whole(n_ctx ?? null)} tokens`),
  );
}

/** @param {string} title @param {{ below: string, count: number }[]} counts */
function bars(title, counts) {
  const last = counts.findLastIndex(({ count }) => count);
  if (last < 0) return "";
  const used = counts.slice(counts.findIndex(({ count }) => count), last + 1);
  const highest = Math.max(...used.map(({ count }) => count));
  return h(
    "figure",
    { class: "plot bars" },
    h("figcaption", {}, title),
    h(
      "ul",
      {},
      ...used.map(({ below, count }) => {
        const bar = h("span", { class: "bar" });
        bar.style.setProperty("--share", String(count / highest));
        const label = below === "+Inf" ? "more" : `≤ ${below}`;
        return h("li", {}, h("span", {}, label), bar, h("span", {}, String(count)));
      }),
    ),
  );
}

/** @param {number | null} value */
function whole(value) {
  return value === null ? "–" : value.toLocaleString("en");
}

/** @param {number | null} value */
function figure(value) {
  return value === null ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

/** @param {number | null} seconds */
function milliseconds(seconds) {
  return seconds === null ? "–" : `${rounded(seconds * 1000)} ms`;
}
