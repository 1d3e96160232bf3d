/** The tools that a chat offers to the model. */

import { button, h } from "./dom.js";
import { JsonField } from "./jsonfield.js";

const EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather of a city",
      parameters: { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"] },
    },
  },
];

/** @param {string} text @returns {[object[], string]} */
function read(text) {
  if (!text.trim()) return [[], ""];
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) throw new Error("it is not a list");
  const names = tools.map((tool, at) => {
    if (typeof tool?.function?.name !== "string") throw new Error(`entry ${at + 1} has no function with a name`);
    return tool.function.name;
  });
  return [tools, `Offered: ${names.join(", ")}`];
}

export class ToolsField {
  #json = new JsonField("JSON list of functions, in OpenAI's format", "The list", read);
  #choice = h("select", {}, h("option", { value: "auto" }, "if the model wants to"), h("option", { value: "required" }, "always, then an answer"));

  constructor() {
    this.#json.field.rows = 5;
    const example = button("Example", () => (this.state = [JSON.stringify(EXAMPLE, null, 2), this.#choice.value]), { class: "quiet" });
    const row = h("div", { class: "row" }, h("label", {}, "Call one ", this.#choice), example);
    this.element = h("fieldset", { class: "controls tools" }, h("legend", {}, "Tools"), ...this.#json.parts, row);
  }

  focus() {
    this.#json.field.focus();
  }

  /** What a reload keeps. */
  get state() {
    return [this.#json.field.value, this.#choice.value];
  }

  set state([text = "", choice = "auto"]) {
    this.#json.field.value = text;
    this.#choice.value = choice;
    this.#json.value();
  }

  /**
   * What they add to a request, or null if they are wrong.
   * @param {boolean} called Whether the request has the results of calls, after which none is required.
   */
  request(called) {
    const tools = this.#json.value();
    const choice = this.#choice.value;
    return tools && (tools.length ? { tools, tool_choice: called && choice === "required" ? "none" : choice } : {});
  }
}
