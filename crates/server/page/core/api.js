/** The server's routes. */

/** An error that the server reported, or that kept it from answering. */
export class ServerError extends Error {
  /** @param {string} message @param {number} status 0 if there was no answer. @param {number} retryAfter Seconds. */
  constructor(message, status = 0, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** A stream that ended before its answer did. */
export class LostStream extends Error {}

export class Server {
  /** @param {string} base The address of the page, which the routes are relative to. */
  constructor(base) {
    this.base = base;
    this.key = "";
    /** Asks the user for a key; the answer is null if there is none. @type {() => Promise<string | null>} */
    this.askKey = async () => null;
  }

  /** @param {string} path @param {RequestInit} [init] @returns {Promise<Response>} */
  async #fetch(path, init = {}) {
    for (;;) {
      const headers = new Headers(init.headers);
      if (this.key) headers.set("authorization", `Bearer ${this.key}`);
      let response;
      try {
        response = await fetch(new URL(path, this.base), { ...init, headers });
      } catch (error) {
        if (init.signal?.aborted) throw error;
        throw new ServerError("The server does not answer.");
      }
      if (response.ok) return response;
      const problem = await problemOf(response);
      if (problem.status !== 401) throw problem;
      const key = await this.askKey();
      if (key === null) throw problem;
      this.key = key;
    }
  }

  /** @param {string} path @returns {Promise<any>} */
  async json(path) {
    return (await this.#fetch(path)).json();
  }

  /** @param {string} path @returns {Promise<string>} */
  async text(path) {
    return (await this.#fetch(path)).text();
  }

  /** Whether the server answers, without a key. */
  async isHealthy() {
    try {
      return (await fetch(new URL("health", this.base))).ok;
    } catch {
      return false;
    }
  }

  /**
   * The objects of a stream.
   * @param {string} path @param {Json} body @param {AbortSignal} signal
   * @returns {AsyncGenerator<Json>}
   */
  async *stream(path, body, signal) {
    const response = await this.#fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream: true }),
      signal,
    });
    let finished = false;
    try {
      for await (const data of events(/** @type {ReadableStream<Uint8Array>} */ (response.body))) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ServerError(String(chunk.error.message ?? "The server failed."));
        finished ||= chunk.stop === true || chunk.choices?.[0]?.finish_reason != null;
        yield chunk;
      }
    } catch (error) {
      if (error instanceof ServerError || signal.aborted) throw error;
      throw new LostStream("The connection was lost.");
    }
    if (!finished) throw new LostStream("The connection was lost.");
  }
}

/** @param {Response} response */
async function problemOf(response) {
  let message = `The server answered with status ${response.status}.`;
  try {
    message = String((await response.json()).error.message);
  } catch {
    // The status has to do.
  }
  return new ServerError(message, response.status, Number(response.headers.get("retry-after")) || 0);
}

/**
 * The data of each server-sent event of a response to `fetch`, which unlike `EventSource` may follow a POST. Comments
 * and other fields are ignored.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string>}
 */
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  /** @type {string[]} */
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const ended of lines) {
        const line = ended.endsWith("\r") ? ended.slice(0, -1) : ended;
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (!line && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
