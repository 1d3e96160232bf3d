/** For everybody: contrast, names, keyboard, motion. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";

import { RECORDED } from "./drafts.js";
import { answered, ask, slider, until, withPage } from "./fixture.js";

/** @typedef {import("playwright-core").Page} Page */

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Findings of axe that are serious. @param {Page} page @returns {Promise<string[]>} */
async function findings(page) {
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const { violations } = await /** @type {any} */ (window).axe.run(document);
    return violations
      .filter((/** @type {any} */ { impact }) => ["serious", "critical"].includes(impact))
      .flatMap((/** @type {any} */ { id, nodes }) => nodes.map((/** @type {any} */ node) => `${id}: ${node.html.slice(0, 200)} ${node.failureSummary}`));
  });
}

/** Each view in the state with the most to show. @type {Record<string, (page: Page) => Promise<unknown>>} */
const VIEWS = {
  welcome: async (page) => page.getByRole("button", { name: "What is the capital of Norway?" }).waitFor(),
  chat: async (page) => {
    await ask(page, "think");
    await answered(page);
    await page.getByRole("button", { name: "Sampler" }).click();
    await page.getByRole("button", { name: "Show thoughts" }).click();
    await slider(page).fill("5");
    // The canvas at a step is hidden from screen readers, not from eyes: its contrast counts, too.
    await page.locator(".answer .canvas").first().evaluate((canvas) => canvas.removeAttribute("aria-hidden"));
  },
  calls: async (page) => {
    await page.getByRole("button", { name: "Tools" }).click();
    await page.getByRole("button", { name: "Example" }).click();
    await ask(page, "The weather in Lima?");
    await page.getByLabel("Result of get_weather").waitFor();
  },
  lab: async (page) => {
    await page.getByRole("textbox", { name: "Prompt", exact: true }).fill("long");
    await page.keyboard.press("Enter");
    await page.getByText(/^2 canvases/).waitFor();
    await slider(page).fill("9");
  },
  compare: async (page) => {
    await page.getByRole("textbox", { name: "Prompt for both" }).fill("long");
    await page.keyboard.press("Enter");
    await page.getByText("Both answers are the same.").waitFor();
    await slider(page).fill("9");
  },
  edit: async (page) => {
    await page.getByRole("textbox", { name: "What to change" }).fill("long");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Accept" }).waitFor();
  },
  infill: async (page) => {
    await page.getByRole("button", { name: "Fill" }).click();
    await answered(page);
  },
  schema: async (page) => {
    await page.getByRole("button", { name: "Answer" }).click();
    await answered(page);
    await slider(page).fill("5");
    await page.locator(".answer .canvas").first().evaluate((canvas) => canvas.removeAttribute("aria-hidden"));
  },
  recordings: async (page) => {
    const file = { name: "run.jsonl", mimeType: "application/jsonl", buffer: Buffer.from(RECORDED) };
    await page.getByLabel("Recording", { exact: true }).setInputFiles(file);
    await page.getByText("run.jsonl: 1 answer.").first().waitFor();
  },
  server: async (page) => page.getByText("Slot 1").waitFor(),
};

/** @param {string} view */
const hashOf = (view) => `#${["welcome", "calls"].includes(view) ? "chat" : view}`;

for (const [view, prepare] of Object.entries(VIEWS)) {
  for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
    test(`axe finds nothing serious: ${view}, ${colorScheme}`, () =>
      withPage({ hash: hashOf(view), context: { colorScheme, reducedMotion: "reduce" } }, async (page) => {
        await prepare(page);
        assert.deepEqual(await findings(page), []);
      }));
  }
}

/** The least contrast of text in the lab's canvas, which axe does not read. @param {Page} page @returns {Promise<number>} */
function contrast(page) {
  return page.evaluate(() => {
    const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const luminance = (/** @type {string} */ colour) => {
      if (!pixel) return NaN;
      pixel.fillStyle = colour;
      pixel.fillRect(0, 0, 1, 1);
      const [red = 0, green = 0, blue = 0] = Array.from(pixel.getImageData(0, 0, 1, 1).data, (value) =>
        value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4,
      );
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const background = (/** @type {Element | null} */ element) => {
      while (element && getComputedStyle(element).backgroundColor === "rgba(0, 0, 0, 0)") element = element.parentElement;
      return element ? getComputedStyle(element).backgroundColor : "white";
    };
    return Array.from(document.querySelectorAll(".board .t"), (cell) => {
      const [a, b] = [luminance(getComputedStyle(cell).color), luminance(background(cell))].sort((x, y) => y - x);
      return (Number(a) + 0.05) / (Number(b) + 0.05);
    }).reduce((least, value) => Math.min(least, value), 21);
  });
}

for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
  test(`the lab's canvas has contrast in every colour: ${colorScheme}`, () =>
    withPage({ hash: "#lab", context: { colorScheme, reducedMotion: "reduce" } }, async (page) => {
      await VIEWS.lab?.(page);
      for (const form of ["Text", "Cells"]) {
        await page.getByRole("radio", { name: form }).check();
        for (const colour of ["State", "Last change", "First stable step", "Entropy"]) {
          await page.getByRole("radio", { name: colour }).check();
          const least = await contrast(page);
          assert.ok(least >= 4.5, `${form}, ${colour}: ${least}`);
        }
      }
      const shades = await page.locator(".board .t").evaluateAll((cells) => new Set(cells.map((cell) => getComputedStyle(cell).backgroundColor)).size);
      assert.ok(shades >= 4, `${shades} shades`);
    }));
}

test("the keyboard is enough", () =>
  withPage({}, async (page) => {
    const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent);
    const tabTo = async (/** @type {string} */ name) => {
      for (let tries = 0; tries < 80; tries++) {
        if ((await focused()) === name) return;
        await page.keyboard.press("Tab");
      }
      assert.fail(`no way to ${name}`);
    };
    // The field has the focus at first.
    await until(() => page.evaluate(() => document.activeElement?.tagName === "TEXTAREA"));
    await page.keyboard.type("long");
    await page.keyboard.press("Enter");
    await answered(page);
    await tabTo("Skip to the content");
    await page.keyboard.press("Enter");
    await tabTo("Denoising step");
    await page.keyboard.press("Home");
    await page.keyboard.press("ArrowRight");
    assert.match((await slider(page).getAttribute("aria-valuetext")) ?? "", /step 1 of 24/);
    await tabTo("Open in the lab");
    await page.keyboard.press("Enter");
    await tabTo("Position");
    await page.keyboard.press("ArrowDown");
    await page.getByText(/^Position 17 of 256/).waitFor();
    for (const view of ["Compare", "Edit", "Infill", "JSON Schema", "Recordings", "Server", "Chat"]) {
      await tabTo(view);
      await page.keyboard.press("Enter");
      assert.match(await page.title(), new RegExp(`^${view} `));
    }
  }));

test("a button that goes away hands its focus on", async () => {
  const focused = (/** @type {Page} */ page) => page.evaluate(() => document.activeElement?.tagName);
  for (const view of ["lab", "compare", "edit", "infill", "schema", "calls"]) {
    await withPage({ hash: hashOf(view) }, async (page) => {
      await VIEWS[view]?.(page);
      if (view === "calls") {
        for (const result of await page.getByLabel(/^Result of/).all()) await result.fill("noon");
      }
      await page.getByRole("button", { name: view === "calls" ? "Send the results" : "Next seed" }).first().press("Enter");
      await until(async () => (await focused(page)) === "BUTTON", 2000);
    });
  }
});

test("with reduced motion, drafts come twice a second and nothing moves by itself", () =>
  withPage({ context: { reducedMotion: "reduce" } }, async (page) => {
    assert.equal(await page.locator(".hero > span").last().textContent(), "Text out of noise");
    await ask(page, "steady");
    await page.locator(".answer .t").first().waitFor();
    const pictures = await page.evaluate(async () => {
      const text = /** @type {Element} */ (document.querySelector(".answer-text"));
      let count = 0;
      const observer = new MutationObserver(() => count++);
      observer.observe(text, { characterData: true, subtree: true });
      await new Promise((resolve) => setTimeout(resolve, 2000));
      return count;
    });
    assert.ok(pictures >= 1 && pictures <= 5, `${pictures} pictures in 2 s`);
    const moving = await page.evaluate(() => document.getAnimations().length);
    assert.equal(moving, 0);
  }));

test("nothing is wider than a narrow window", () =>
  withPage({ context: { viewport: { width: 360, height: 740 } } }, async (page, mock) => {
    for (const [view, prepare] of Object.entries(VIEWS)) {
      await page.goto("about:blank");
      await page.goto(mock.url + hashOf(view));
      await prepare(page);
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= 360, `${view}: ${width}`);
    }
  }));
