/** The main cases against the server itself, with the demo model. */

import assert from "node:assert/strict";
import { mkdtempSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { launch } from "./browser.js";
import { RECORDED } from "./drafts.js";
import { answered, ask, slider, until, withFile } from "./fixture.js";
import { PROGRAM, options, startServer } from "./server.js";

const PAGE = fileURLToPath(new URL("../../page/", import.meta.url));

/** @type {Awaited<ReturnType<typeof startServer>> | undefined} */
let server;
/** @type {import("playwright-core").Browser} */
let browser;
let url = "";

before(async () => {
  if (!PROGRAM) return;
  server = await startServer();
  url = server.url;
  browser = await launch();
});

after(async () => {
  await browser?.close();
  server?.kill();
});

/** @param {string} hash @param {(page: import("playwright-core").Page) => Promise<void>} run */
async function withServer(hash, run) {
  const page = await browser.newPage();
  /** @type {string[]} */
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  // A server with --no-ui: its routes serve the page of the checkout.
  if (!(await fetch(url)).ok) await page.route(isPage, async (route) => {
    const path = new URL(route.request().url()).pathname.slice(1) || "index.html";
    const type = path.endsWith(".js") ? "text/javascript" : path.endsWith(".css") ? "text/css" : path.endsWith(".svg") ? "image/svg+xml" : "text/html";
    await route.fulfill({ contentType: type, body: await readFile(PAGE + path, "utf8") });
  });
  try {
    await page.goto(url + hash);
    await run(page);
    assert.deepEqual(problems, []);
  } finally {
    await page.close();
  }
}

/** @param {URL} address */
function isPage({ pathname }) {
  return pathname === "/" || /\.(js|css|svg|html)$/.test(pathname);
}

async function busySlots() {
  const slots = await (await fetch(`${url}slots`)).json();
  return slots.filter((/** @type {any} */ slot) => slot.is_processing).length;
}

test("an answer appears, and its steps can be seen again", options, () =>
  withServer("", async (page) => {
    await ask(page, "What is the capital of Norway?");
    await answered(page);
    assert.match((await page.locator(".answer-text").textContent()) ?? "", /Oslo/);
    await slider(page).fill("0");
    assert.match((await slider(page).getAttribute("aria-valuetext")) ?? "", /before step 1 of 48/);
    const seed = /seed (\d+)/.exec((await page.locator(".task > .status").textContent()) ?? "")?.[1];
    assert.ok(page.url().includes(`seed=${seed}`), page.url());
  }));

test("the address repeats a run token for token", options, async () => {
  const place = "#lab?prompt=Tell+a+story+about+Grace+and+a+white+owl.&seed=2&entropy_bound=0.0001&confidence_threshold=0.00005";
  // The page may be too slow for some drafts, in each run for others: those of the same step are compared,
  // by what is said of them, and the last canvas by its text.
  const run = async () => {
    const drafts = new Map();
    let canvas = "";
    await withServer(place, async (page) => {
      await page.getByRole("button", { name: "Denoise" }).click();
      await answered(page);
      const last = Number(await slider(page).getAttribute("max"));
      for (let position = 0; position <= last; position++) {
        await slider(page).fill(String(position));
        const [step, said] = ((await slider(page).getAttribute("aria-valuetext")) ?? "").split(", entropy ");
        drafts.set(step, said);
      }
      canvas = (await page.locator(".board .canvas").textContent()) ?? "";
    });
    return { drafts, canvas };
  };
  const first = await run();
  const second = await run();
  assert.ok(first.canvas.length > 32, first.canvas);
  assert.equal(second.canvas, first.canvas);
  const both = [...first.drafts.keys()].filter((step) => second.drafts.has(step));
  assert.ok(both.length > 5, both.join("; "));
  for (const step of both) assert.equal(second.drafts.get(step), first.drafts.get(step), step);
});

test("stop frees the slot", options, () =>
  withServer("#chat?max_steps=5000&confidence_threshold=0", async (page) => {
    await ask(page, "Tell a story about Grace and a white owl.");
    await page.locator(".answer .t").first().waitFor();
    await until(async () => (await busySlots()) === 1);
    await page.getByRole("button", { name: "Stop" }).click();
    await until(async () => (await busySlots()) === 0, 2000);
  }));

test("an edit keeps the lines that are not selected", options, () =>
  withServer("#edit", async (page) => {
    const text = page.getByRole("textbox", { name: /^Text\./ });
    await text.fill("Anna sees a dog.\nTom takes a red fox.");
    await text.evaluate((/** @type {HTMLTextAreaElement} */ area) => area.setSelectionRange(20, 22));
    const field = page.getByRole("textbox", { name: "What to change" });
    await field.fill("Change red to blue");
    await field.press("Enter");
    await page.getByRole("button", { name: "Accept" }).click();
    assert.equal(await text.inputValue(), "Anna sees a dog.\nTom takes a blue fox.");
    assert.equal(await busySlots(), 0);
  }));

test("a gap is filled between its two sides", options, () =>
  withServer("#infill", async (page) => {
    await page.getByRole("button", { name: "Fill" }).click();
    await page.getByRole("button", { name: "Save recording" }).waitFor();
    // Tokens of the canvas lie across the edges of the gap.
    assert.match((await page.locator(".said").textContent()) ?? "", /^Today Mia found a red lamp in the park\. It was old/);
  }));

test("an answer follows a schema", options, () =>
  withServer("#schema", async (page) => {
    await page.getByRole("button", { name: "Answer" }).click();
    await page.getByRole("button", { name: "Answer" }).click();
    await page.getByText("The answer is complete JSON.").waitFor();
    const answer = JSON.parse((await page.locator(".answer-text .t:not(.thought)").allTextContents()).join(""));
    assert.deepEqual(Object.keys(answer), ["name", "age", "city"]);
    const form = (await page.locator(".answer-text .t.form").allTextContents()).join("").replace(/\s/g, "");
    assert.match(form, /^\{"name":.*"age":.*"city":.*\}$/);
    assert.doesNotMatch(form, /Anna|Lima|42/);
    // Before the end, too, what is drawn is a text of the schema, whatever noise is shown between.
    await slider(page).fill("1");
    assert.match((await page.locator(".answer-text .t.form").allTextContents()).join(""), /^\{\s*"name"/);
  }));

test("a tool is called, and its result goes back", options, () =>
  withServer("", async (page) => {
    await page.getByRole("button", { name: "Tools" }).click();
    await page.getByRole("button", { name: "Example" }).click();
    // The demo model's template has no tools.
    await page.getByLabel("Call one").selectOption("required");
    await ask(page, "What is the weather in Lima?");
    const field = page.getByLabel("Result of get_weather");
    await field.fill("22 degrees");
    const shown = await page.getByRole("group", { name: "Call to get_weather" }).locator("pre").textContent();
    assert.deepEqual(Object.keys(JSON.parse(shown ?? "")), ["city"]);
    await page.getByRole("button", { name: "Send the result" }).click();
    await until(async () => (await page.getByRole("button", { name: "Save recording" }).count()) === 2, 20_000);
  }));

test("the page as it is sent can be saved as one file", options, () =>
  withServer("#recordings", async (page) => {
    const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Save this viewer" }).click()]);
    const path = join(mkdtempSync(join(tmpdir(), "page-")), "viewer.html");
    await file.saveAs(path);
    await withFile(path, async (saved) => {
      const recording = { name: "run.jsonl", mimeType: "application/jsonl", buffer: Buffer.from(RECORDED) };
      await saved.getByLabel("Recording", { exact: true }).setInputFiles(recording);
      await saved.getByText("run.jsonl: 1 answer.", { exact: true }).waitFor();
      assert.equal(await saved.locator(".cells .t").first().evaluate((cell) => getComputedStyle(cell).cursor), "crosshair");
    });
  }));

test("the slots and figures are shown", options, () =>
  withServer("#server", async (page) => {
    await page.getByText("Slot 0").waitFor();
    await page.getByText("Steps per canvas").first().waitFor();
  }));
