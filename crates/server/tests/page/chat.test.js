/** The chat. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { RECORDED, linesOf } from "./drafts.js";
import { dense, pictures } from "./expected.js";
import { answered, ask, slider, until, withPage } from "./fixture.js";
import { startMock } from "./mock.js";

const STORY = /^One Sunday, Grace went to the forest\..*the white owl\.$/s;

test("an answer appears", () =>
  withPage({}, async (page, mock) => {
    await ask(page, "Tell a story.");
    await answered(page);
    assert.match((await page.locator(".answer-text").textContent()) ?? "", STORY);
    assert.equal(mock.requests[0].body.messages[0].content, "Tell a story.");
    assert.equal(mock.requests[0].body.diffusion.drafts, "full");
    await ask(page, "And then?");
    await until(() => mock.requests.length === 2);
    assert.deepEqual(
      mock.requests[1].body.messages.map((/** @type {any} */ message) => message.role),
      ["user", "assistant", "user"],
    );
  }));

test("the slider shows each recorded step", () =>
  withPage({}, async (page) => {
    const lines = linesOf(RECORDED);
    const expected = pictures(lines);
    await ask(page, "Tell a story.");
    await answered(page);
    assert.equal(await slider(page).getAttribute("max"), String(expected.length - 1));
    for (const [index, picture] of expected.entries()) {
      await slider(page).fill(String(index));
      const canvas = page.locator(".answer .canvas:visible").last();
      const shown = await canvas.evaluate((element) => ({
        text: element.textContent ?? "",
        states: Array.from(element.children, (span) => span.className.split(" ")[1]),
      }));
      assert.equal(dense(shown.text), picture.text, `picture ${index}`);
      assert.deepEqual(shown.states, picture.states, `picture ${index}`);
      const label = (await slider(page).getAttribute("aria-valuetext")) ?? "";
      assert.ok(label.includes(picture.label), `${label}: ${picture.label}`);
    }
  }));

test("hostile pieces stay text", () =>
  withPage({}, async (page) => {
    await ask(page, "hostile <img src=x onerror=window.hacked=1>");
    await answered(page);
    const check = async () => {
      assert.equal(await page.evaluate("window.hacked"), undefined);
      assert.equal(await page.locator("main img, main script, main .t > *").count(), 0);
    };
    const text = (await page.locator(".answer-text").textContent()) ?? "";
    assert.ok(text.includes("<img src=x onerror=\"window.hacked=1\">"), text);
    assert.ok(text.includes("&lt;b&gt;"), text);
    // Two pieces with half a character each are one; others become U+FFFD, as do marks of direction.
    assert.ok(text.includes("🦉"), text);
    assert.ok(text.includes("\ufffdgnp.exe") && !text.includes("\u202e"), text);
    assert.ok(!text.includes("\u001b"), text);
    for (let index = 0; index < 8; index++) {
      await slider(page).fill(String(index));
      await check();
    }
    await page.getByRole("button", { name: "Open in the lab" }).click();
    await check();
  }));

test("stop frees the slot", () =>
  withPage({}, async (page, mock) => {
    await ask(page, "slow");
    await until(() => mock.active === 1);
    await page.locator(".answer .t.noise").first().waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await until(() => mock.active === 0, 1000);
    await page.getByText(/^stopped · /).waitFor();
    assert.equal(await page.getByRole("button", { name: "Send" }).count(), 1);
  }));

test("a reload during an answer frees the slot, and the answer can be asked for again", () =>
  withPage({}, async (page, mock) => {
    await ask(page, "slow");
    await until(() => mock.active === 1);
    const { seed } = mock.requests[0].body;
    await page.reload();
    await until(() => mock.active === 0, 2000);
    await page.getByText("slow", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Answer again" }).click();
    await until(() => mock.requests.length === 2);
    assert.equal(mock.requests[1].body.seed, seed);
    assert.deepEqual(mock.requests[1].body.messages, [{ role: "user", content: "slow" }]);
  }));

test("a server with a key asks for it", () =>
  withPage({ server: { key: "owl" }, expected: /401/ }, async (page) => {
    const key = page.getByLabel("Key", { exact: true }).last();
    await key.fill("cat");
    await key.press("Enter");
    await page.getByText("That key is not one of the server's.").waitFor();
    await key.fill("owl");
    await key.press("Enter");
    await page.locator("#server-status", { hasText: "demo" }).waitFor();
    await ask(page, "Tell a story.");
    await answered(page);
    assert.match((await page.locator(".answer-text").textContent()) ?? "", STORY);
  }));

test("a full queue is reported with the time to wait", () =>
  withPage({ expected: /503/ }, async (page, mock) => {
    mock.isFull = true;
    await ask(page, "Tell a story.");
    await page.getByText("The queue is full. Try again in 2 s.").waitFor();
    mock.isFull = false;
    await page.getByRole("button", { name: "Try again" }).click();
    await answered(page);
    assert.equal(mock.requests[0].body.seed, mock.requests[1].body.seed);
  }));

test("a lost connection keeps what arrived, and says when the server is back", () =>
  withPage({ expected: /ERR_|Failed to load/ }, async (page, mock) => {
    await ask(page, "slow");
    await page.locator(".answer .t.noise").first().waitFor();
    const port = Number(new URL(mock.url).port);
    mock.kill();
    await page.getByText(/The connection was lost\. What arrived is kept\. Reconnecting/).waitFor();
    assert.ok((await page.locator(".answer .t").count()) > 0);
    const again = await startMock({ port });
    await page.getByText("The connection was lost. The server answers again.").waitFor();
    again.kill();
  }));

test("a stream that ends early is not taken for a complete answer", () =>
  withPage({ expected: /ERR_/ }, async (page) => {
    await ask(page, "drop");
    await page.getByText(/The connection was lost/).waitFor();
    await page.getByText("The server answers again.").waitFor();
    assert.equal(await slider(page).getAttribute("max"), "8");
  }));

test("the next seed, and the address, repeat an answer", () =>
  withPage({ hash: "#chat?prompt=long+tale&seed=7&max_steps=12&entropy_bound=0.5" }, async (page, mock) => {
    const field = page.getByRole("textbox", { name: "Ask something" });
    assert.equal(await field.inputValue(), "long tale");
    await field.press("Enter");
    await answered(page);
    const { seed, diffusion } = mock.requests[0].body;
    assert.deepEqual([seed, diffusion.max_steps, diffusion.entropy_bound, diffusion.t_min], [7, 12, 0.5, undefined]);
    await page.getByRole("button", { name: "Next seed" }).click();
    await until(() => mock.requests.length === 2);
    assert.equal(mock.requests[1].body.seed, 8);
    assert.deepEqual(mock.requests[1].body.messages, mock.requests[0].body.messages);
    const { hash } = new URL(page.url());
    assert.equal(hash, "#chat?prompt=long+tale&seed=8&max_steps=12&entropy_bound=0.5");
  }));

test("thoughts are folded until they are asked for", () =>
  withPage({}, async (page) => {
    await ask(page, "think");
    await answered(page);
    const thought = page.locator(".t.thought").nth(3);
    assert.equal(await thought.isVisible(), false);
    const fold = page.getByRole("button", { name: "Show thoughts" });
    assert.equal(await fold.getAttribute("aria-expanded"), "false");
    await fold.click();
    assert.equal(await thought.isVisible(), true);
  }));

/** Offers a tool in the chat. @param {import("playwright-core").Page} page */
async function offerTools(page) {
  await page.getByRole("button", { name: "Tools" }).click();
  await page.getByRole("button", { name: "Example" }).click();
  await page.getByText("Offered: get_weather").waitFor();
}

/** The argument of a card. @param {import("playwright-core").Page} page @param {string} name */
const argumentsOf = (page, name) => page.getByRole("group", { name: `Call to ${name}` }).locator("pre").first();

test("calls of tools are cards, and their results go back to the model", () =>
  withPage({}, async (page, mock) => {
    await offerTools(page);
    await ask(page, "The weather in Lima?");
    await answered(page);
    assert.equal(await page.locator(".tools").isVisible(), false);
    const [tool] = mock.requests[0].body.tools;
    assert.deepEqual([tool.type, tool.function.name, mock.requests[0].body.tool_choice], ["function", "get_weather", "auto"]);
    const expected = '{\n  "city": "Lima",\n  "days": [\n    1,\n    12345678901234567890\n  ],\n  "units": {}\n}';
    assert.equal(await argumentsOf(page, "get_weather").textContent(), expected);
    assert.equal(await argumentsOf(page, "get_time").textContent(), "{}");
    await page.getByText("1 canvas · 8 steps · 1 token per step · 652 ms").waitFor();
    assert.equal(await page.locator(".answer.called").count(), 1);
    assert.equal(await page.locator(".answer.filled").count(), 0);
    // The cards are in the place of the text that spells the calls, whose steps can still be seen.
    assert.equal(await page.locator(".answer-text").isVisible(), false);
    await slider(page).fill("3");
    assert.equal(await page.locator(".answer-text").isVisible(), true);
    await page.getByLabel("Result of get_weather").fill("22 °C");
    await page.getByLabel("Result of get_time").fill("noon");
    await page.getByRole("button", { name: "Send the results" }).press("Enter");
    await until(() => mock.requests.length === 2);
    const [, call, first, second] = mock.requests[1].body.messages;
    assert.deepEqual(call.tool_calls.map((/** @type {any} */ { id }) => id), ["call_0", "call_1"]);
    assert.equal(JSON.parse(call.tool_calls[0].function.arguments).city, "Lima");
    assert.deepEqual(first, { role: "tool", content: "22 °C", tool_call_id: "call_0" });
    assert.deepEqual(second, { role: "tool", content: "noon", tool_call_id: "call_1" });
    // The first answer has the button, too.
    await until(async () => (await page.getByRole("button", { name: "Save recording" }).count()) === 2);
    await page.reload();
    await page.getByText(STORY).waitFor();
    await page.getByRole("group", { name: "Call to get_time" }).getByText("noon").waitFor();
    assert.equal(await page.getByLabel("Result of get_time").count(), 0);
  }));

test("arguments grow while they arrive, and stay text", () =>
  withPage({}, async (page) => {
    await offerTools(page);
    await ask(page, "slow hostile");
    const text = argumentsOf(page, "get_weather");
    await until(async () => (await text.textContent()) === '{\n  "city": "');
    await answered(page);
    assert.match((await text.textContent()) ?? "", /"<img src=x onerror=window\.hacked=1>\ufffd"/);
    assert.equal(await page.evaluate("window.hacked"), undefined);
    assert.equal(await page.locator("main img").count(), 0);
  }));

test("a call without its result waits over a reload, and a new message ends that", () =>
  withPage({}, async (page, mock) => {
    await offerTools(page);
    await page.getByLabel("Call one").selectOption("required");
    await ask(page, "The weather in Lima?");
    await page.getByLabel("Result of get_weather").waitFor();
    assert.equal(mock.requests[0].body.tool_choice, "required");
    await page.reload();
    await page.getByLabel("Result of get_weather").fill("rain");
    await page.getByLabel("Result of get_time").fill("noon");
    await page.getByRole("button", { name: "Send the results" }).click();
    await answered(page);
    // Else the model could not but call again.
    assert.equal(mock.requests[1].body.tool_choice, "none");
    await ask(page, "And in Oslo?");
    await page.getByLabel("Result of get_time").waitFor();
    await ask(page, "Never mind");
    await until(() => mock.requests.length === 4);
    await answered(page);
    // The cards come a moment after the last picture.
    await until(async () => (await page.getByRole("button", { name: "Send the results" }).count()) === 1);
  }));

test("wrong tools are told, and nothing is asked", () =>
  withPage({}, async (page, mock) => {
    const tools = page.getByRole("button", { name: "Tools" });
    await tools.click();
    const field = page.getByLabel(/^JSON list of functions/);
    for (const [text, problem] of [["{}", "it is not a list"], ['[{"name":"f"}]', "entry 1 has no function with a name"], ["[", "JSON"]]) {
      await field.fill(String(text));
      await page.getByText(`The list is not valid: `).filter({ hasText: problem }).waitFor();
    }
    await tools.click();
    await ask(page, "Hello");
    await until(() => field.evaluate((element) => document.activeElement === element));
    assert.equal(await tools.getAttribute("aria-expanded"), "true");
    assert.equal(mock.requests.length, 0);
    assert.equal(await page.getByRole("textbox", { name: "Ask something" }).inputValue(), "Hello");
    await field.fill("");
    await ask(page, "Hello");
    await answered(page);
    assert.equal(mock.requests[0].body.tools, undefined);
  }));

test("the text does not shrink while it is denoised", () =>
  withPage({}, async (page) => {
    await ask(page, "steady");
    await page.locator(".answer .t").first().waitFor();
    const heights = await page.evaluate(async () => {
      const text = /** @type {HTMLElement} */ (document.querySelector(".answer-text"));
      const found = [];
      while (document.querySelector(".running") && found.length < 200) {
        await new Promise((resolve) => requestAnimationFrame(resolve));
        found.push(text.offsetHeight);
      }
      return found;
    });
    for (const [frame, height] of heights.entries()) {
      assert.ok(height >= (heights[frame - 1] ?? 0), `frame ${frame}: ${heights}`);
    }
  }));

test("beside a long answer, the slider stays in sight", () =>
  withPage({ context: { viewport: { width: 390, height: 700 } } }, async (page) => {
    await ask(page, "A long story, please.");
    await answered(page);
    await page.evaluate(() => scrollTo(0, 0));
    const reachable = await slider(page).evaluate((range) => {
      const { left, top, width, height } = range.getBoundingClientRect();
      return document.elementFromPoint(left + width / 2, top + height / 2) === range;
    });
    assert.ok(reachable);
  }));

test("screen readers get finished canvases, never noise", () =>
  withPage({}, async (page) => {
    const said = page.locator("#announcer");
    await ask(page, "steady");
    await page.locator(".answer .t").first().waitFor();
    assert.equal(await page.locator(".answer .canvas").getAttribute("aria-hidden"), "true");
    assert.equal((await said.textContent())?.trim(), "");
    await answered(page);
    assert.match((await said.textContent()) ?? "", /^The owl is white and sits on a tall old tree/);
    assert.equal(await page.locator(".answer .canvas").getAttribute("aria-hidden"), "false");
  }));
