/** An answer that the server is computing: its text, and the recording that grows with its drafts. */

import { Reader } from "./read.js";

export class Run {
  #reader = new Reader();
  #abort = new AbortController();
  /** The answer as the server sent it. */
  text = "";
  /** @type {Call[]} */
  calls = [];
  /** "running", "done", "stopped" or "failed". */
  state = "running";
  /** @type {Error | null} */
  error = null;

  /** @param {Server} server @param {Job} job */
  constructor(server, job) {
    this.server = server;
    this.job = job;
    /** Called after each change. */
    this.onChange = () => {};
  }

  get recording() {
    return this.#reader.recording;
  }

  /** @returns {Answer | null} */
  get answer() {
    return this.recording.answers[0] ?? null;
  }

  /** The seed that the server used. */
  get seed() {
    const { seed } = this.recording.header;
    return typeof seed === "number" ? seed : this.job.seed;
  }

  /** Computes the answer. Never rejects: `state` and `error` have the outcome. */
  async start() {
    const { path, body, seed, values } = this.job;
    const { max_tokens, ...sampler } = values;
    const request = {
      ...body,
      ...(max_tokens && { max_tokens }),
      seed,
      diffusion: { ...sampler, drafts: "full", min_interval_ms: 0, every: 1 },
    };
    try {
      for await (const chunk of this.server.stream(path, request, this.#abort.signal)) this.#take(chunk);
      this.state = "done";
    } catch (error) {
      const isStop = this.#abort.signal.aborted;
      this.state = isStop ? "stopped" : "failed";
      this.error = isStop || !(error instanceof Error) ? null : error;
    }
    this.#reader.finish();
    this.onChange();
  }

  stop() {
    this.#abort.abort();
  }

  /** @param {Json} chunk */
  #take(chunk) {
    if (chunk.diffusion?.event) this.#reader.take(chunk.diffusion);
    const choice = chunk.choices?.[0];
    const part = choice?.delta ?? choice?.message;
    this.text += part?.content ?? chunk.content ?? "";
    for (const call of part?.tool_calls ?? []) this.#takeCall(call);
    this.onChange();
  }

  /** Takes a call, or what follows of one. A call without a place is whole. @param {Json} call */
  #takeCall({ index = this.calls.length, id, function: part }) {
    const { function: call } = (this.calls[index] ??= { id, type: "function", function: { name: "", arguments: "" } });
    call.name += part?.name ?? "";
    call.arguments += part?.arguments ?? "";
  }
}
