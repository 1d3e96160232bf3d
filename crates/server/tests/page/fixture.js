/** A page with a server behind it. Whatever a test does, the page asks nobody else and reports no error. */

import assert from "node:assert/strict";
import { after, before } from "node:test";

import { launch } from "./browser.js";
import { startMock } from "./mock.js";

/** @typedef {import("playwright-core").Page} Page */
/** @typedef {Awaited<ReturnType<typeof startMock>>} Mock */

/** @type {import("playwright-core").Browser} */
let browser;

before(async () => {
  browser = await launch();
});

after(async () => {
  await browser?.close();
});

/**
 * @typedef {object} Options
 * @property {string} [hash] Of the address.
 * @property {Parameters<typeof startMock>[0]} [server]
 * @property {import("playwright-core").BrowserContextOptions} [context]
 * @property {RegExp} [expected] Errors in the console that the test provokes.
 */

/**
 * @param {Options} options
 * @param {(page: Page, mock: Mock) => Promise<void>} test
 */
export async function withPage({ hash = "", server, context, expected }, test) {
  const mock = await startMock(server);
  const page = await browser.newPage({ reducedMotion: "no-preference", ...context });
  /** @type {string[]} */
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !expected?.test(message.text())) problems.push(message.text());
  });
  page.on("request", (request) => {
    if (!/^(blob|data|about):/.test(request.url()) && !request.url().startsWith(mock.url)) {
      problems.push(`asked ${request.url()}`);
    }
  });
  try {
    await page.goto(mock.url + hash);
    await test(page, mock);
    assert.deepEqual(problems, []);
  } finally {
    await page.close();
    mock.kill();
  }
}

/** A page from a file, without a server. @param {string} path @param {(page: Page) => Promise<void>} test */
export async function withFile(path, test) {
  const page = await browser.newPage();
  /** @type {string[]} */
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("request", (request) => {
    if (!/^(blob|data|file):/.test(request.url())) problems.push(`asked ${request.url()}`);
  });
  try {
    await page.goto(`file://${path}`);
    await test(page);
    assert.deepEqual(problems, []);
  } finally {
    await page.close();
  }
}

/** Sends a prompt in the chat. @param {Page} page @param {string} prompt */
export async function ask(page, prompt) {
  const field = page.getByRole("textbox", { name: "Ask something" });
  await field.fill(prompt);
  await field.press("Enter");
}

/** Waits until the last answer is complete. @param {Page} page */
export async function answered(page) {
  await page.getByRole("button", { name: "Save recording" }).last().waitFor();
}

/** Waits until something holds. @param {() => unknown} holds @param {number} [limit] Milliseconds. */
export async function until(holds, limit = 5000) {
  const end = Date.now() + limit;
  while (!(await holds())) {
    assert.ok(Date.now() < end, `not within ${limit} ms: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The slider over the steps. @param {Page} page */
export function slider(page) {
  return page.getByRole("slider", { name: "Denoising step" });
}
