/** The canvas lab, and the comparison. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { slider, until, withPage } from "./fixture.js";

/** @typedef {import("playwright-core").Page} Page */

/** @param {Page} page @param {string} name @param {string} text */
async function send(page, name, text) {
  const field = page.getByRole("textbox", { name, exact: true });
  await field.fill(text);
  await field.press("Enter");
}

/** @param {Page} page */
async function denoise(page) {
  await send(page, "Prompt", "long");
  await page.getByText(/^2 canvases · 48 steps/).waitFor();
  await slider(page).fill("10");
}

test("a canvas has a cell for each position, and its history", () =>
  withPage({ hash: "#lab" }, async (page) => {
    await denoise(page);
    assert.equal(await page.locator(".cells .t").count(), 256);
    const board = page.getByRole("slider", { name: "Position" });
    await board.focus();
    for (const [key, position] of /** @type {[string, number][]} */ ([["ArrowRight", 2], ["ArrowDown", 18], ["ArrowLeft", 17], ["End", 256], ["Home", 1]])) {
      await page.keyboard.press(key);
      await until(async () => (await board.getAttribute("aria-valuenow")) === String(position));
    }
    await page.locator(".cells .t").nth(20).hover();
    await page.getByText(/^Position 21 of 256, step 10: drawn “/).waitFor();
    assert.equal(await page.locator(".history li.now").count(), 1);
    await board.focus();
    await page.keyboard.press("PageDown");
    await page.getByText(/^Position 21 of 256, step 11: /).waitFor();
  }));

test("the lab and the comparison show nothing to no purpose", async () => {
  await withPage({ hash: "#lab" }, async (page) => {
    await denoise(page);
    await page.getByRole("button", { name: "Save recording" }).waitFor();
    assert.equal(await page.getByRole("button", { name: "Open in the lab" }).count(), 0);
  });
  await withPage({ hash: "#compare" }, async (page) => {
    await page.getByRole("textbox", { name: "Prompt for both" }).waitFor();
    assert.equal(await page.locator(".side:visible").count(), 0);
  });
});

test("choices have names in sight", () =>
  withPage({ hash: "#lab" }, async (page) => {
    await denoise(page);
    for (const name of ["Layout", "Tokens", "Colour"]) {
      const box = await page.getByRole("group", { name, exact: true }).locator("legend").boundingBox();
      assert.ok(box && box.width > 20, `${name}: ${JSON.stringify(box)}`);
    }
  }));

test("the scale of a plot hides no line", () =>
  withPage({ hash: "#lab" }, async (page) => {
    await denoise(page);
    const overlaps = await page.locator(".area").evaluateAll((areas) =>
      areas.map((area) => {
        const right = area.querySelector("svg")?.getBoundingClientRect().right ?? 0;
        return Array.from(area.querySelectorAll("span"), (span) => span.getBoundingClientRect().left < right);
      }),
    );
    assert.deepEqual(overlaps, Array(4).fill([false, false]));
    // Nor does a line end after the quote before a space, as of the second word.
    await slider(page).fill("25");
    await page.getByRole("slider", { name: "Position" }).press("ArrowRight");
    await until(async () => /“\u00a0\w+”/.test((await page.locator(".position").textContent()) ?? ""));
  }));

test("colours, forms and tokens can be chosen", () =>
  withPage({ hash: "#lab" }, async (page) => {
    await denoise(page);
    const first = page.locator(".board .t").first();
    for (const name of ["Entropy", "Last change", "First stable step"]) {
      await page.getByRole("radio", { name }).check();
      assert.match((await first.getAttribute("class")) ?? "", /shade-\d/);
    }
    await page.getByRole("radio", { name: "State" }).check();
    await page.getByRole("radio", { name: "Text" }).check();
    assert.equal(await page.locator(".board .text .t").count(), 256);
    const shown = () => page.locator(".board .canvas").textContent();
    const canvas = await shown();
    await page.getByRole("radio", { name: "Best guess" }).check();
    assert.notEqual(await shown(), canvas);
  }));

test("a click on the heat map or a plot seeks", () =>
  withPage({ hash: "#lab" }, async (page) => {
    await denoise(page);
    const map = page.getByRole("img", { name: /^Entropies of canvas 1: 256 positions over 24 steps/ });
    const box = await map.boundingBox();
    assert.ok(box);
    await map.click({ position: { x: (box.width * 20.5) / 24, y: (box.height * 99.5) / 256 } });
    assert.match((await slider(page).getAttribute("aria-valuetext")) ?? "", /step 21 of 24/);
    // A row is less than a pixel high.
    await page.getByText(/^Position (99|100|101) of 256, step 21: /).waitFor();
    const plot = page.locator(".plot .area svg").first();
    const area = await plot.boundingBox();
    assert.ok(area);
    await plot.click({ position: { x: area.width - 1, y: 20 } });
    assert.equal(await slider(page).inputValue(), await slider(page).getAttribute("max"));
    await page.getByText("Converged: the most likely canvas was stable").waitFor();
  }));

test("parameters that were moved are sent, others stay the server's", () =>
  withPage({ hash: "#lab" }, async (page, mock) => {
    await page.getByRole("slider", { name: "Maximum steps" }).fill("12");
    await page.getByRole("slider", { name: "Confidence threshold" }).fill("0");
    await page.getByRole("textbox", { name: "Seed" }).fill("42");
    await denoise(page);
    const { seed, diffusion } = mock.requests[0].body;
    assert.equal(seed, 42);
    assert.deepEqual(diffusion, { max_steps: 12, confidence_threshold: 0, drafts: "full", min_interval_ms: 0, every: 1 });
    const place = "#lab?prompt=long&seed=42&max_steps=12&confidence_threshold=0";
    assert.equal(new URL(page.url()).hash, place);
  }));

test("two seeds move together, and their differences are marked", () =>
  withPage({ hash: "#compare?seed=3" }, async (page, mock) => {
    await send(page, "Prompt for both", "long");
    await page.getByText("Both answers are the same.").waitFor();
    assert.deepEqual(mock.requests.map(({ body }) => body.seed).sort(), [3, 4]);
    assert.equal(await page.locator(".differs").count(), 0);
    await slider(page).fill("5");
    const [left, right] = await page.locator(".side .canvas:visible").evaluateAll((canvases) =>
      canvases.map((canvas) => Array.from(canvas.children, (span) => [span.textContent, span.classList.contains("differs")])),
    );
    assert.ok(left && right);
    assert.equal(left.length, 256);
    assert.ok(left.some(([, differs]) => differs) && left.some(([, differs]) => !differs));
    for (const [at, [text, differs]] of left.entries()) {
      assert.equal(differs, right[at]?.[1], `position ${at}`);
      if (!differs) assert.equal(text?.toString().trim(), right[at]?.[0]?.toString().trim(), `position ${at}`);
    }
  }));
