/** The server that LLAMA_DIFFUSION_SERVER names, with the demo model. */

import { spawn } from "node:child_process";

import { until } from "./fixture.js";

export const PROGRAM = process.env.LLAMA_DIFFUSION_SERVER;
/** Of tests that need it. */
export const options = { skip: PROGRAM ? false : "LLAMA_DIFFUSION_SERVER does not name the server" };

/** Starts it, and waits until its model is loaded. */
export async function startServer() {
  const server = spawn(String(PROGRAM), ["--port", "0", "--metrics"], { stdio: ["ignore", "pipe", "pipe"] });
  const log = new Promise((resolve, reject) => {
    let text = "";
    const read = (/** @type {Buffer} */ part) => {
      text += part;
      const found = /listening on (http:\/\/[\w.:]+)/.exec(text);
      if (found) resolve(`${found[1]}/`);
    };
    server.stdout.on("data", read);
    server.stderr.on("data", read);
    server.on("exit", (status) => reject(new Error(`the server ended with status ${status}: ${text}`)));
  });
  const url = String(await log);
  await until(async () => (await fetch(`${url}health`)).ok, 60_000);
  return { url, kill: () => server.kill() };
}
