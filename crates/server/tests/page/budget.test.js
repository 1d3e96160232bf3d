/** What the page costs: bytes, and time of the browser's main thread. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { get } from "node:http";
import { extname } from "node:path";
import { buffer } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { ask, slider, withPage } from "./fixture.js";
import { options, startServer } from "./server.js";

const PAGE = fileURLToPath(new URL("../../page/", import.meta.url));

const files = readdirSync(PAGE, { recursive: true, encoding: "utf8" })
  .filter((name) => extname(name))
  .map((name) => PAGE + name);

test("the page takes at most 60 kB compressed", options, async (t) => {
  const server = await startServer();
  try {
    if (!(await fetch(server.url)).ok) return t.skip("the server runs with --no-ui");
    let size = 0;
    for (const path of files) size += await sizeOf(server.url + path.slice(PAGE.length));
    console.log(`# ${files.length} files, ${(size / 1000).toFixed(1)} kB compressed`);
    assert.ok(size <= 60_000, `${size} bytes`);
  } finally {
    server.kill();
  }
});

/** Bytes of a file as it is sent to browsers. @param {string} url @returns {Promise<number>} */
async function sizeOf(url) {
  const [response] = await once(get(url, { headers: { "accept-encoding": "gzip" } }), "response");
  assert.equal(response.statusCode, 200, url);
  assert.equal(response.headers["content-encoding"], "gzip", url);
  return (await buffer(response)).length;
}

test("no text is parsed as HTML, and no script or style is inline", () => {
  for (const path of files) {
    const source = readFileSync(path, "utf8");
    const forbidden = /\b(innerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc)\b/;
    // The saved page is built by a parser that runs no scripts, and is written to a file.
    assert.doesNotMatch(source, path.endsWith(".js") ? forbidden : /$^/, path);
    if (path.endsWith(".html")) assert.doesNotMatch(source, /<style|style=|<script>| on\w+=/, path);
    assert.doesNotMatch(source.replaceAll("http://www.w3.org/", ""), /https?:\/\//, path);
  }
});

/** Modules import from the rows above them. */
const ROWS = [["core"], ["ui"], ["views"], ["."]];

test("imports point one way, without circles", () => {
  const row = (/** @type {string} */ path) => ROWS.findIndex((names) => names.includes(path.includes("/") ? String(path.split("/")[0]) : "."));
  /** @type {Map<string, string[]>} */
  const imports = new Map();
  for (const path of files.filter((file) => file.endsWith(".js"))) {
    const name = path.slice(PAGE.length);
    const found = [...readFileSync(path, "utf8").matchAll(/^import [^;]* from "(\.[^"]*)";$/gm)];
    const targets = found.map(([, target]) => new URL(String(target), `http://x/${name}`).pathname.slice(1));
    for (const target of targets) assert.ok(row(target) <= row(name), `${name} imports ${target}`);
    imports.set(name, targets);
  }
  const visit = (/** @type {string} */ name, /** @type {string[]} */ trail) => {
    assert.ok(!trail.includes(name), `a circle: ${[...trail, name].join(" → ")}`);
    for (const target of imports.get(name) ?? []) visit(target, [...trail, name]);
  };
  visit("main.js", []);
});

test("256 tokens at 30 drafts a second leave time for 60 frames a second", () =>
  withPage({ context: { viewport: { width: 1280, height: 900 } } }, async (page) => {
    const session = await page.context().newCDPSession(page);
    // Processor time: other programs of the machine do not count.
    await session.send("Performance.enable", { timeDomain: "threadTicks" });
    const busy = async () => {
      const { metrics } = await session.send("Performance.getMetrics");
      return (metrics.find(({ name }) => name === "TaskDuration")?.value ?? NaN) * 1000;
    };
    await ask(page, "steady");
    await page.locator(".answer .t").first().waitFor();
    await page.waitForTimeout(300);
    const drafts = async () => Number(await slider(page).getAttribute("max"));
    const [before, first] = [await busy(), await drafts()];
    const { frames, pictures } = await page.evaluate(async () => {
      const text = /** @type {Element} */ (document.querySelector(".answer-text"));
      let pictures = 0;
      new MutationObserver(() => pictures++).observe(text, { characterData: true, subtree: true });
      const start = performance.now();
      let frames = 0;
      while (performance.now() - start < 2000) {
        await new Promise((resolve) => requestAnimationFrame(resolve));
        frames++;
      }
      return { frames, pictures };
    });
    const received = (await drafts()) - first;
    const cost = ((await busy()) - before) / received;
    console.log(`# ${frames / 2} frames, ${pictures / 2} pictures and ${received / 2} drafts a second`);
    console.log(`# ${cost.toFixed(1)} ms of the main thread a draft`);
    assert.ok(pictures > 5, `${pictures} pictures`);
    // On a machine that is busy otherwise, frames are lost whatever the page does: then its own time has to fit.
    assert.ok(frames / 2 >= 55 || cost < 1000 / 60, `${frames / 2} frames a second, ${cost} ms a draft`);
  }));
