/** Editing, infill, schemas, and the server's own view. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { answered, ask, slider, until, withPage } from "./fixture.js";

test("views whose route the server does not have are not shown", () =>
  withPage({ hash: "#edit", server: { routes: [] } }, async (page) => {
    await page.locator("#server-status", { hasText: "demo" }).waitFor();
    const links = await page.locator("#menu a").allTextContents();
    assert.deepEqual(links, ["Chat", "Canvas lab", "Compare", "JSON Schema", "Recordings", "Server"]);
    await page.getByRole("textbox", { name: "Ask something" }).waitFor();
  }));

test("an edit changes the selected lines, and is accepted or rejected", () =>
  withPage({ hash: "#edit" }, async (page, mock) => {
    const text = page.getByRole("textbox", { name: /^Text\./ });
    await text.fill("one\ntwo\nthree\nfour");
    await text.evaluate((/** @type {HTMLTextAreaElement} */ area) => area.setSelectionRange(5, 9));
    await page.getByRole("slider", { name: "Strength" }).fill("0.8");
    const field = page.getByRole("textbox", { name: "What to change" });
    await field.fill("Tell more");
    await field.press("Enter");
    await page.getByRole("button", { name: "Reject" }).click();
    assert.equal(await text.inputValue(), "one\ntwo\nthree\nfour");
    const { path, body } = mock.requests[0];
    assert.equal(path, "/diffusion/edit");
    assert.deepEqual(body.protected, [[1, 1], [4, 4]]);
    assert.deepEqual([body.text, body.instruction, body.strength], ["one\ntwo\nthree\nfour", "Tell more", 0.8]);
    await field.press("Enter");
    await page.getByRole("button", { name: "Accept" }).click();
    assert.match(await text.inputValue(), /^One Sunday, Grace/);
  }));

test("a gap is filled between its two sides", () =>
  withPage({ hash: "#infill" }, async (page, mock) => {
    const code = page.getByRole("textbox", { name: /^Text with one gap/ });
    await code.fill("no gap");
    await page.getByRole("button", { name: "Fill" }).click();
    await page.getByText("Mark one gap with ▢.").waitFor();
    await code.fill("a ▢ b");
    await page.getByRole("button", { name: "Fill" }).click();
    await page.getByRole("button", { name: "Save recording" }).waitFor();
    assert.match((await page.locator(".answer-text").textContent()) ?? "", /^a One Sunday.* b$/s);
    assert.equal(await page.locator(".answer.filled").count(), 1);
    assert.equal(await page.locator(".answer.called").count(), 0);
    assert.equal(await page.locator(".answer-text").isVisible(), false);
    const { input_prefix, input_suffix, infill_tokens } = mock.requests[0].body;
    assert.deepEqual([input_prefix, input_suffix, infill_tokens], ["a ", " b", undefined]);
    await page.getByRole("combobox", { name: "Length" }).selectOption("16 tokens");
    await page.getByRole("button", { name: "Fill" }).click();
    await until(() => mock.requests.length > 1);
    assert.equal(mock.requests[1].body.infill_tokens, 16);
  }));

test("an answer follows the schema", () =>
  withPage({ hash: "#schema" }, async (page, mock) => {
    const schema = page.getByRole("textbox", { name: "Schema" });
    await schema.fill("{");
    await page.locator(".validity.invalid", { hasText: /^The schema is not valid/ }).waitFor();
    await schema.fill('{"type":"object"}');
    await page.locator(".validity.valid", { hasText: "The schema is valid JSON." }).waitFor();
    await page.getByRole("button", { name: "Answer" }).click();
    await page.getByText("The answer is complete JSON.").waitFor();
    assert.deepEqual(mock.requests[0].body.response_format.json_schema.schema, { type: "object" });
  }));

test("what a schema forces is grey, and its values are bold", () =>
  withPage({ hash: "#schema" }, async (page) => {
    const schema = { type: "object", properties: { name: { type: "string" }, likes: { type: "array" } } };
    await page.getByRole("textbox", { name: "Schema" }).fill(JSON.stringify(schema));
    await page.getByRole("button", { name: "Answer" }).click();
    await page.getByText("The answer is complete JSON.").waitFor();
    const positions = () => page.locator(".answer .t").evaluateAll((spans) => spans.map((span) => [span.textContent, span.className.split(" ")[1]]));
    // The schema does not name the key "age", and inside a string nothing is form.
    const words = ['{"', "name", '":"', "Grace", '","', "age", '":', "7", ',"', "likes", '":["', "{owls}", '","name', ":", '"]}'];
    const values = ["Grace", "age", "7", "{owls}", '","name', ":"];
    assert.deepEqual(await positions(), words.map((word) => [word, values.includes(word) ? "committed" : "form"]));
    const weight = (/** @type {string} */ look) => page.locator(`.answer .${look}`).first().evaluate((span) => getComputedStyle(span).fontWeight);
    assert.deepEqual([await weight("form"), await weight("committed")], ["400", "600"]);
    assert.equal(await page.getByRole("listitem").filter({ hasText: "Form" }).count(), 1);
    // Before the first step nothing is settled; later, what is form depends on all the tokens drawn, not on noise.
    await slider(page).fill("0");
    assert.deepEqual(new Set((await positions()).map(([, look]) => look)), new Set(["noise"]));
    let forms = 0;
    for (const step of [2, 4, 6]) {
      await slider(page).fill(String(step));
      for (const [at, [text, look]] of (await positions()).entries()) {
        const settled = ["accepted", "kept", "form"].includes(String(look));
        assert.equal(look === "form", settled && !values.includes(String(words[at])), `step ${step}: ${text} is ${look}`);
        forms += Number(look === "form");
      }
    }
    assert.ok(forms > 5, `${forms} positions`);
  }));

test("the thought before an answer that follows a schema is not grey", () =>
  withPage({ hash: "#schema" }, async (page) => {
    const prompt = page.getByRole("textbox", { name: "Prompt" });
    await prompt.fill("think");
    await prompt.press("Enter");
    await answered(page);
    const looks = (/** @type {string} */ which) =>
      page.locator(`.answer .t${which}`).evaluateAll((spans) => spans.map((span) => span.className.split(" ")[1]));
    for (const step of ["6", "8", "9"]) {
      await slider(page).fill(step);
      assert.ok(!(await looks(".thought")).includes("form"), `step ${step}: ${await looks(".thought")}`);
      assert.ok((await looks(":not(.thought)")).includes("form"), `step ${step}`);
    }
    assert.deepEqual(await looks(".thought"), Array(9).fill("committed"));
    // Nor is it bold, as values are.
    assert.equal(await page.locator(".answer .thought").first().evaluate((span) => getComputedStyle(span).fontWeight), "400");
  }));

test("a server without figures or slots says how to have them, and shows the rest", async () => {
  // Each request for what is turned off would be an error in the console.
  await withPage({ hash: "#server", server: { off: ["/metrics"] } }, async (page) => {
    await page.getByText("Start the server with --metrics to see figures.").waitFor();
    await page.getByText("Slot 1").waitFor();
    // Longer than it waits before it asks again.
    await page.waitForTimeout(1200);
    assert.equal(await page.getByText("Slot 1").count(), 1);
  });
  await withPage({ hash: "#server", server: { off: ["/slots"] } }, async (page) => {
    await page.getByText(/started with --no-slots/).waitFor();
    await page.getByText("91%").waitFor();
  });
});

test("without its key, a server is not asked again until the view is opened again", () =>
  withPage({ hash: "#server", server: { key: "owl" }, expected: /401/ }, async (page) => {
    const cancel = page.getByRole("button", { name: "Cancel" });
    await cancel.click();
    await page.getByText("Invalid API Key").last().waitFor();
    await page.waitForTimeout(1500);
    assert.equal(await cancel.count(), 0);
    await page.getByRole("link", { name: "Server" }).click();
    await cancel.waitFor();
  }));

test("a field that has a text still says what it is for", async () => {
  for (const [hash, label] of [["#lab", "Prompt"], ["#compare", "Prompt for both"], ["#edit", "What to change"], ["#schema", "Prompt"]]) {
    await withPage({ hash }, async (page) => {
      const box = await page.locator(".composer label", { hasText: label }).boundingBox();
      assert.ok(box && box.width > 20 && box.height > 10, `${hash}: ${JSON.stringify(box)}`);
    });
  }
});

test("the server's slots and figures are shown while it works", () =>
  withPage({}, async (page) => {
    await ask(page, "slow");
    await page.locator(".answer .t").first().waitFor();
    await page.getByRole("link", { name: "Server" }).click();
    await page.getByText("canvas 1, step 8, entropy 0.31").waitFor();
    await until(async () => (await page.locator(".server .facts").textContent())?.includes("Requests running1"));
    await page.getByText("7.5", { exact: true }).waitFor();
    await page.getByText("91%").waitFor();
    assert.deepEqual(await page.locator(".bars li > :last-child").allTextContents(), ["5", "12", "5", "2"]);
  }));
