/** Pictures of every view, in both themes and two widths: node shots.js DIRECTORY */

import { mkdirSync } from "node:fs";

import { launch } from "./browser.js";
import { RECORDED } from "./drafts.js";
import { startMock } from "./mock.js";

const directory = process.argv[2] ?? "target/page-shots";
mkdirSync(directory, { recursive: true });
const mock = await startMock();
const browser = await launch();
for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
  for (const width of [1280, 390]) {
    const page = await browser.newPage({ colorScheme, viewport: { width, height: width > 800 ? 860 : 844 } });
    const shot = async (/** @type {string} */ name) => {
      await page.waitForTimeout(250);
      // The header of a whole page is at its top. A chat is seen as it is scrolled.
      const whole = !["chat", "calls", "called"].includes(name);
      if (whole) await page.evaluate(() => scrollTo(0, 0));
      await page.screenshot({ path: `${directory}/${name}-${colorScheme}-${width}.png`, fullPage: whole });
    };
    await page.goto(mock.url);
    await page.waitForTimeout(2500);
    await shot("welcome");
    const prompt = page.getByLabel("Ask something");
    await prompt.fill("A long story, please.");
    await prompt.press("Enter");
    await page.getByRole("button", { name: "Save recording" }).waitFor();
    await page.getByRole("slider", { name: "Denoising step" }).fill("9");
    await shot("chat");
    await page.getByRole("button", { name: "Open in the lab" }).click();
    await shot("lab-done");
    await page.getByRole("slider", { name: "Denoising step" }).last().fill("9");
    await shot("lab");
    await page.getByRole("radio", { name: "Entropy" }).check();
    await shot("lab-entropy");
    await page.getByRole("radio", { name: "Text" }).check();
    await page.getByRole("radio", { name: "State" }).check();
    await shot("lab-text");
    for (const [view, field, text] of [["compare", "Prompt for both", "A long comparison"], ["edit", "What to change", "long"], ["schema", "Prompt", "long"]]) {
      await page.goto("about:blank");
      await page.goto(`${mock.url}#${view}`);
      await page.getByRole("textbox", { name: String(field), exact: true }).fill(String(text));
      await page.getByRole("textbox", { name: String(field), exact: true }).press("Enter");
      await page.waitForTimeout(1200);
      if (view === "compare") await page.getByRole("slider", { name: "Denoising step" }).fill("14");
      await shot(String(view));
    }
    await page.getByRole("slider", { name: "Denoising step" }).fill("3");
    await shot("schema-step");
    await page.goto("about:blank");
    await page.goto(mock.url);
    await page.getByRole("button", { name: "New chat" }).click();
    await page.getByRole("button", { name: "Tools" }).click();
    await page.getByRole("button", { name: "Example" }).click();
    await shot("tools");
    await page.getByRole("button", { name: "Tools" }).click();
    await prompt.fill("What is the weather in Lima?");
    await prompt.press("Enter");
    await page.getByRole("button", { name: "Send the results" }).waitFor();
    await shot("calls");
    await page.getByLabel("Result of get_weather").fill("22 °C, light rain");
    await page.getByLabel("Result of get_time").fill("noon");
    await page.getByRole("button", { name: "Send the results" }).click();
    await page.getByRole("button", { name: "Save recording" }).nth(1).waitFor();
    await shot("called");
    await page.goto("about:blank");
    await page.goto(`${mock.url}#infill`);
    await page.getByRole("button", { name: "Fill" }).click();
    await page.waitForTimeout(600);
    await shot("infill");
    await page.goto("about:blank");
    await page.goto(`${mock.url}#recordings`);
    await page.getByLabel("Recording", { exact: true }).setInputFiles({ name: "canvas.jsonl", mimeType: "application/jsonl", buffer: Buffer.from(RECORDED) });
    await page.waitForTimeout(300);
    await shot("recordings");
    await page.goto("about:blank");
    await page.goto(`${mock.url}#server`);
    await page.waitForTimeout(500);
    await shot("server");
    await page.close();
  }
}
await browser.close();
mock.kill();
