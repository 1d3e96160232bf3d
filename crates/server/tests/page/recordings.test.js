/** Recordings as files, and the page as a file. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { RECORDED, linesOf, scripted } from "./drafts.js";
import { answered, ask, slider, until, withFile, withPage } from "./fixture.js";
import { HOSTILE } from "./mock.js";

/** @typedef {import("playwright-core").Page} Page */

const directory = mkdtempSync(join(tmpdir(), "page-"));

/** @param {Iterable<object>} lines */
function textOf(lines) {
  return Array.from(lines, (line) => `${JSON.stringify(line)}\n`).join("");
}

/** @param {Page} page @param {string} text @param {string} [name] */
async function open(page, text, name = "run.jsonl") {
  const file = { name, mimeType: "application/jsonl", buffer: Buffer.from(text) };
  await page.getByLabel("Recording", { exact: true }).setInputFiles(file);
}

/** Saves what a button offers. @param {Page} page @param {string} name */
async function save(page, name) {
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name }).click()]);
  const path = join(directory, `${Math.random()}-${file.suggestedFilename()}`);
  await file.saveAs(path);
  return path;
}

test("a recording of the command-line tool is shown, and saved as it was", () =>
  withPage({ hash: "#recordings" }, async (page) => {
    await open(page, RECORDED);
    await page.getByText("run.jsonl: 1 answer.", { exact: true }).waitFor();
    assert.equal(await page.locator(".cells .t").count(), 32);
    const saved = readFileSync(await save(page, "Save as .jsonl"), "utf8");
    assert.deepEqual(withoutPieces(saved), withoutPieces(RECORDED));
    assert.deepEqual(piecesOf(saved), piecesOf(RECORDED));
  }));

/** @param {string} text */
function withoutPieces(text) {
  return linesOf(text).filter((line) => line.event !== "pieces");
}

/** Whatever the line on which a piece is first needed. @param {string} text */
function piecesOf(text) {
  return linesOf(text)
    .flatMap((line) => line.pieces ?? [])
    .sort(([a], [b]) => a - b);
}

test(
  "an answer saved by the page replays in the command-line tool",
  { skip: process.env.LLAMA_DIFFUSION_CLI ? false : "LLAMA_DIFFUSION_CLI does not name the tool" },
  () =>
    withPage({}, async (page) => {
      await ask(page, "Tell a story.");
      await answered(page);
      const path = await save(page, "Save recording");
      const text = execFileSync(String(process.env.LLAMA_DIFFUSION_CLI), ["replay", path], { encoding: "utf8" });
      assert.match(text, /One Sunday, Grace went to the forest/);
    }),
);

for (const [name, problem, text] of [
  ["an empty file", "it is empty", ""],
  ["another format", "line 1: it does not start a recording of format 1 or 2", '{"event":"start","format":3}\n'],
  ["another file", "line 1: Unexpected token", "hello\n"],
  ["a token without bytes", "line 2: token 5 has no bytes", '{"event":"start","format":1}\n{"event":"begin","block":0,"max_steps":8,"tokens":[5]}\n'],
  ["a missing canvas", "line 2: its block is 1, but block 0 is at work", '{"event":"start","format":1}\n{"event":"begin","block":1,"max_steps":8,"tokens":[]}\n'],
  ["a list that is none", "line 2: tokens is not a list", '{"event":"start","format":1}\n{"event":"begin","block":0,"max_steps":8,"tokens":{"length":1e9}}\n'],
  ["a line that is not an object", "line 2: it is not a JSON object", '{"event":"start","format":1}\nnull\n'],
]) {
  test(`${name} is refused with its reason`, () =>
    withPage({ hash: "#recordings" }, async (page) => {
      await open(page, String(text));
      const message = page.locator(".drop [role=status]");
      await until(async () => (await message.textContent())?.includes(`run.jsonl is not a recording: ${problem}`));
      assert.match((await message.textContent()) ?? "", /\.$/);
    }));
}

test("a truncated recording is shown up to its last complete line", () =>
  withPage({ hash: "#recordings" }, async (page) => {
    await open(page, RECORDED.slice(0, -2000));
    await page.getByText(/run\.jsonl: 1 answer\. It is not complete: line \d+ is cut off\./).waitFor();
    assert.equal(await page.locator(".cells .t").count(), 32);
  }));

test("a recording with 10,000 steps opens within a second", () =>
  withPage({ hash: "#recordings" }, async (page) => {
    const text = textOf(scripted({ length: 32, steps: 100, canvases: 100 }));
    assert.equal(text.match(/"draft"/g)?.length, 10_000);
    const session = await page.context().newCDPSession(page);
    // Processor time: other programs of the machine do not count.
    await session.send("Performance.enable", { timeDomain: "threadTicks" });
    const busy = async () => {
      const { metrics } = await session.send("Performance.getMetrics");
      return (metrics.find(({ name }) => name === "TaskDuration")?.value ?? NaN) * 1000;
    };
    const file = await page.evaluateHandle((content) => new File([content], "long.jsonl"), text);
    const before = await busy();
    await page.evaluate((chosen) => {
      const data = new DataTransfer();
      data.items.add(chosen);
      document.addEventListener("drop", () => performance.mark("dropped"), { capture: true });
      const target = /** @type {Element} */ (document.querySelector(".drop"));
      new MutationObserver(() => document.querySelectorAll(".cells .t").length && performance.mark("shown")).observe(
        /** @type {Node} */ (document.querySelector(".board")),
        { childList: true, subtree: true },
      );
      target.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    }, file);
    await page.getByText("long.jsonl: 1 answer.", { exact: true }).waitFor();
    const time = await page.evaluate(() => {
      const at = (/** @type {string} */ name) => performance.getEntriesByName(name)[0]?.startTime ?? NaN;
      return at("shown") - at("dropped");
    });
    const whole = (await busy()) - before;
    console.log(`# 10,000 steps: the first after ${Math.round(time)} ms, all in ${Math.round(whole)} ms of the main thread`);
    assert.ok(time < 1000, `${time} ms`);
    assert.ok(whole < 1000, `${whole} ms`);
    await slider(page).fill("5000");
    assert.match((await slider(page).getAttribute("aria-valuetext")) ?? "", /^canvas 50 of 100, step 2 of 100/);
  }));

test("a run saved as one HTML file plays without a server", () =>
  withPage({ hash: "#recordings" }, async (page, mock) => {
    const hostile = textOf(scripted({ length: 40, steps: 6, noise: HOSTILE, words: HOSTILE }));
    await open(page, hostile);
    await page.getByText("run.jsonl: 1 answer.", { exact: true }).waitFor();
    const path = await save(page, "Save as one HTML file");
    const html = readFileSync(path, "utf8");
    assert.ok(!html.includes(new URL(mock.url).host), "it has the server's address");
    await withFile(path, async (file) => {
      await file.getByText("This recording: 1 answer.", { exact: true }).waitFor();
      assert.equal(await file.locator(".cells .t").count(), 40);
      await slider(file).fill("3");
      assert.match((await slider(file).getAttribute("aria-valuetext")) ?? "", /^step 3 of 6/);
      assert.equal(await file.evaluate("window.hacked"), undefined);
      assert.equal(await file.locator("img").count(), 0);
      // Other recordings can be dropped on it.
      await open(file, RECORDED, "other.jsonl");
      await file.getByText("other.jsonl: 1 answer.", { exact: true }).waitFor();
      assert.equal(await file.locator(".cells .t").count(), 32);
    });
  }));

test("the viewer is saved without a recording", () =>
  withPage({ hash: "#recordings" }, async (page) => {
    const path = await save(page, "Save this viewer");
    await withFile(path, async (file) => {
      await open(file, RECORDED);
      await file.getByText("run.jsonl: 1 answer.", { exact: true }).waitFor();
    });
  }));
