/** A server with the routes that the page uses. It answers with recorded or scripted drafts. */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

import { RECORDED, linesOf, scripted, textOf } from "./drafts.js";

const PAGE = fileURLToPath(new URL("../../page/", import.meta.url));
const TYPES = { html: "text/html; charset=utf-8", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };
const POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/** Pieces that a page which parses them would run. */
export const HOSTILE = [
  "<img src=x onerror=\"window.hacked=1\">",
  "</span><script>window.hacked=1</script>",
  "<svg onload=window.hacked=1>",
  "&lt;b&gt;",
  "javascript:window.hacked=1",
  "\u202egnp.exe",
  "\u0000\u001b[2J",
  [0xf0, 0x9f],
  [0xa6, 0x89],
  [0xff, 0xfe],
];

/**
 * What a prompt asks for.
 * @typedef {object} Script
 * @property {Iterable<Record<string, any>>} lines
 * @property {number} [delay] Between drafts, in milliseconds.
 * @property {number} [dropAfter] Drafts after which the connection is lost.
 * @property {object[][]} [calls] Parts of the calls that are the answer instead of its text.
 */

/** @param {string} prompt @param {number} seed @returns {Script} */
function scriptOf(prompt, seed) {
  if (prompt.includes("hostile")) {
    return { lines: scripted({ length: 40, steps: 6, noise: HOSTILE, words: HOSTILE, seed }) };
  }
  if (prompt.includes("slow")) return { lines: scripted({ steps: 2000, restless: true, seed }), delay: 50 };
  if (prompt.includes("steady")) return { lines: scripted({ steps: 120, restless: true, seed }), delay: 1000 / 30 };
  if (prompt.includes("drop")) return { lines: scripted({ steps: 40, seed }), delay: 10, dropAfter: 8 };
  if (prompt.includes("think")) return { lines: scripted({ length: 48, steps: 8, thinks: true, seed }) };
  if (prompt.includes("long")) return { lines: scripted({ steps: 24, canvases: 2, seed }) };
  return { lines: linesOf(RECORDED) };
}

/** @param {{ key?: string, routes?: string[], off?: string[], port?: number }} [options] `off` has what is turned off. */
export async function startMock({ key = "", routes = ["/infill", "/diffusion/edit"], off = [], port: wanted = 0 } = {}) {
  const mock = {
    url: "",
    /** Answers that are being computed. */
    active: 0,
    /** Bodies of the requests. @type {any[]} */
    requests: [],
    /** Whether answers are refused because the queue is full. */
    isFull: false,
    /** Ends the server and its connections. */
    kill() {
      server.closeAllConnections();
      server.close();
    },
  };

  const server = createServer(async (request, response) => {
    const path = new URL(request.url ?? "/", "http://mock").pathname;
    response.setHeader("content-security-policy", POLICY);
    response.setHeader("x-content-type-options", "nosniff");
    if (request.method === "GET" && (await servePage(path, response))) return;
    if (path === "/health") return json(response, 200, { status: "ok" });
    if (key && request.headers.authorization !== `Bearer ${key}`) {
      return problem(response, 401, "authentication_error", "Invalid API Key");
    }
    if (path === "/props") return json(response, 200, props(routes, off));
    if (off.includes(path)) return problem(response, 501, "not_supported_error", "this endpoint is turned off");
    if (path === "/slots") return json(response, 200, slots(mock.active));
    if (path === "/metrics") return metrics(response, mock.active);
    if (request.method !== "POST") return problem(response, 404, "not_found_error", "File Not Found");
    await answer(path, request, response);
  });

  /** @param {string} path @param {import("node:http").IncomingMessage} request
   *  @param {import("node:http").ServerResponse} response */
  async function answer(path, request, response) {
    let text = "";
    for await (const part of request) text += part;
    const body = JSON.parse(text);
    mock.requests.push({ path, body });
    if (mock.isFull) {
      response.setHeader("retry-after", "2");
      return problem(response, 503, "unavailable_error", "The queue is full.");
    }
    const prompt = body.messages?.at(-1)?.content ?? body.instruction ?? body.input_prefix ?? "";
    const isCalled = body.messages?.at(-1)?.role === "tool";
    const script = body.response_format ? jsonScript(prompt.includes("think")) : body.tools && !isCalled ? callScript(prompt) : scriptOf(prompt, body.seed ?? 0);
    mock.active++;
    response.on("close", () => mock.active--);
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    await stream(script, path.endsWith("chat/completions"), body, response);
  }

  await new Promise((resolve) => server.listen(wanted, "127.0.0.1", () => resolve(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  mock.url = `http://127.0.0.1:${port}/`;
  return mock;
}

/** @param {Script} script @param {boolean} isChat @param {any} body @param {import("node:http").ServerResponse} response */
async function stream({ lines, delay = 0, dropAfter = Infinity, calls }, isChat, body, response) {
  const send = (/** @type {any} */ delta, /** @type {any} */ diffusion, /** @type {string | null} */ end = null) => {
    const chat = { object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason: end }] };
    const native = { content: delta.content ?? "", stop: end !== null };
    response.write(`data: ${JSON.stringify({ id: "x", ...(isChat ? chat : native), ...(diffusion && { diffusion }) })}\n\n`);
  };
  send({ role: "assistant", content: null }, null);
  response.write(": ping\n\n");
  /** @type {Map<number, number[]>} */
  const pieces = new Map();
  let drafts = 0;
  for (const original of lines) {
    if (response.closed || response.destroyed) return;
    const line = original.event === "start" ? { ...original, seed: body.seed } : original;
    for (const [token, bytes] of line.pieces ?? []) pieces.set(token, bytes);
    if (body.diffusion?.drafts === "full") send({}, line);
    if (line.event === "canvas" && !calls) send({ content: textOf(pieces, line.answer) }, null);
    if (line.event !== "draft") continue;
    if (++drafts >= dropAfter) {
      // What was written may arrive.
      setTimeout(() => response.destroy(), 200);
      return;
    }
    await new Promise((resolve) => (delay ? setTimeout(resolve, delay) : setImmediate(resolve)));
  }
  for (const tool_calls of calls ?? []) {
    send({ tool_calls }, null);
    if (delay) await new Promise((resolve) => setTimeout(resolve, delay));
  }
  send({}, null, calls ? "tool_calls" : "stop");
  response.end(isChat ? "data: [DONE]\n\n" : "");
}

/** @param {boolean} thinks */
function jsonScript(thinks) {
  // The scripted drafts put the tokens around a thought at its places 0 and 8.
  const thought = thinks ? ["", "An", " owl", ":", " {", "name", "}", ".", ""] : [];
  const words = [...thought, '{"', "name", '":"', "Grace", '","', "age", '":', "7", ',"', "likes", '":["', "{owls}", '","name', ":", '"]}'];
  return { lines: scripted({ length: words.length, steps: 8, words, thinks, follows: true }) };
}

/** Two calls in parts, whose borders are anywhere. @param {string} prompt @returns {Script} */
function callScript(prompt) {
  const city = prompt.includes("hostile") ? "<img src=x onerror=window.hacked=1>\u202e" : "Lima";
  const words = ["call:", "get_weather", "{city:", "Lima", "}", "call:", "get_time", "{}"];
  const part = (/** @type {number} */ index, /** @type {string} */ text) => ({ index, function: { arguments: text } });
  const calls = [
    [{ index: 0, id: "call_0", type: "function", function: { name: "get_weather", arguments: "" } }],
    [part(0, '{"city":"')],
    [part(0, `${city}","days":[1,`)],
    [part(0, '12345678901234567890],"units":{}}'), { index: 1, id: "call_1", type: "function", function: { name: "get_time", arguments: "{}" } }],
  ];
  return { lines: scripted({ length: words.length, steps: 8, words }), delay: prompt.includes("slow") ? 300 : 0, calls };
}

/** @param {string} path @param {import("node:http").ServerResponse} response */
async function servePage(path, response) {
  const name = path === "/" ? "index.html" : path.slice(1);
  const type = TYPES[/** @type {keyof TYPES} */ (name.split(".").at(-1))];
  if (!type || name.includes("..")) return false;
  try {
    const content = await readFile(PAGE + name);
    response.writeHead(200, { "content-type": type }).end(content);
    return true;
  } catch {
    return false;
  }
}

/** @param {import("node:http").ServerResponse} response @param {number} status @param {any} value */
function json(response, status, value) {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
}

/** @param {import("node:http").ServerResponse} response @param {number} code @param {string} type @param {string} message */
function problem(response, code, type, message) {
  json(response, code, { error: { code, type, message, param: null } });
}

/** @param {string[]} routes @param {string[]} off */
function props(routes, off) {
  return {
    endpoint_slots: !off.includes("/slots"),
    endpoint_metrics: !off.includes("/metrics"),
    total_slots: 2,
    model_path: "/models/demo-q8_0.gguf",
    model_alias: "demo",
    diffusion: { family: "canvas", canvas_length: 256, max_steps: 48, t_min: 0.4, t_max: 0.8, entropy_bound: 0.1, stability_threshold: 1, confidence_threshold: 0.005, routes },
  };
}

/** @param {number} active */
function slots(active) {
  return [0, 1].map((id) => ({
    id,
    n_ctx: 4096,
    is_processing: id < active,
    diffusion: id < active ? { block: 0, step: 7, max_steps: 48, mean_entropy: 0.31 } : null,
  }));
}

/** @param {import("node:http").ServerResponse} response @param {number} active */
function metrics(response, active) {
  const text = `# HELP llamacpp:requests_processing Requests at work.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing ${active}
llamacpp:requests_deferred 0
llamacpp:prompt_tokens_total 1234
llamacpp:tokens_predicted_total 5678
llamacpp:prompt_tokens_seconds 812.5
llamacpp:predicted_tokens_seconds 166.02
llama_diffusion_prefix_cache_queries_total 1000
llama_diffusion_prefix_cache_hits_total 912
llama_diffusion_steps_per_canvas_bucket{le="4"} 5
llama_diffusion_steps_per_canvas_bucket{le="8"} 17
llama_diffusion_steps_per_canvas_bucket{le="16"} 22
llama_diffusion_steps_per_canvas_bucket{le="+Inf"} 24
llama_diffusion_steps_per_canvas_sum 180
llama_diffusion_steps_per_canvas_count 24
llama_diffusion_step_seconds_sum 3.2
llama_diffusion_step_seconds_count 180
`;
  response.writeHead(200, { "content-type": "text/plain; version=0.0.4" }).end(text);
}
