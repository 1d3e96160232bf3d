/** Recordings as files: of `llama-diffusion-cli --record`, or saved by this page. */

import { parse, write } from "../core/file.js";
import { counted } from "../core/frames.js";
import { answerText } from "../core/thoughts.js";
import { announce } from "../ui/announce.js";
import { button, download, h, setText } from "../ui/dom.js";
import { exportPage } from "../ui/export.js";
import { Inspector } from "../ui/inspector.js";

/**
 * @param {App} app
 * @returns {View & { open: (name: string, text: string) => Promise<void> }}
 */
export function recordingsView(app) {
  const inspector = new Inspector();
  inspector.element.hidden = true;
  const message = h("p", { class: "status", role: "status" });
  const list = h("ol", { class: "answers" });
  const actions = h("div", { class: "actions" });
  const file = h("input", {
    type: "file",
    accept: ".jsonl,application/jsonl",
    "aria-label": "Recording",
    change: () => void openFile(file.files?.[0]),
  });
  const drop = h(
    "section",
    {
      class: "panel drop",
      "aria-label": "Open a recording",
      dragover: (event) => {
        event.preventDefault();
        drop.classList.add("over");
      },
      dragleave: () => drop.classList.remove("over"),
      drop: (event) => {
        event.preventDefault();
        drop.classList.remove("over");
        void openFile(event.dataTransfer?.files[0]);
      },
    },
    h("h1", {}, "Recordings"),
    h("p", {}, "Drop a recording here: a .jsonl file from ", h("code", {}, "llama-diffusion-cli --record"), ", or one saved by this page. It does not leave the browser."),
    h("label", { class: "file" }, h("span", {}, "Choose a file"), file),
    app.isFile
      ? null
      : button("Save this viewer", () => void save("viewer.html", null), {
          class: "quiet",
          title: "One HTML file that shows recordings without a server",
        }),
    message,
  );

  /** @param {File | undefined} chosen */
  async function openFile(chosen) {
    if (chosen) await open(chosen.name, await chosen.text());
  }

  /** @param {string} name @param {string} text */
  async function open(name, text) {
    setText(message, `Reading ${name}…`);
    inspector.element.hidden = true;
    try {
      show(name, await parse(text, preview));
    } catch (error) {
      inspector.element.hidden = true;
      list.replaceChildren();
      actions.replaceChildren();
      const problem = error instanceof Error ? error.message : String(error);
      setText(message, `${name} is not a recording: ${problem}.`);
    }
  }

  /** Shows the beginning of a long recording. @param {Recording} recording */
  function preview(recording) {
    const [first] = recording.answers;
    if (!first?.canvases[0]?.length || !inspector.element.hidden) return;
    inspector.element.hidden = false;
    inspector.show(recording, first);
  }

  /** @param {string} name @param {Recording} recording */
  function show(name, recording) {
    const answers = recording.answers.filter(({ canvases }) => canvases[0]?.length);
    const count = counted(answers.length, "answer", "answers");
    const note = recording.missing ? ` It is not complete: ${recording.missing}.` : "";
    setText(message, `${name}: ${count}.${note}`);
    announce(`${name}: ${count}`);
    list.replaceChildren(...answers.map((answer) => h("li", {}, entry(recording, answer))));
    list.hidden = answers.length < 2;
    const base = name.replace(/\.[^.]*$/, "");
    actions.replaceChildren(
      button("Save as .jsonl", () => download(`${base}.jsonl`, "application/jsonl", write(recording))),
      app.isFile ? "" : button("Save as one HTML file", () => void save(`${base}.html`, write(recording))),
    );
    inspector.element.hidden = !answers.length;
    if (answers[0]) inspector.show(recording, answers[0]);
  }

  /** @param {Recording} recording @param {Answer} answer */
  function entry(recording, answer) {
    const text = answerText(recording, answer).trim();
    return button(text.slice(0, 80) || "An answer without text", () => inspector.show(recording, answer), { class: "quiet" });
  }

  /** @param {string} name @param {string | null} recording */
  async function save(name, recording) {
    try {
      download(name, "text/html", await exportPage(recording));
    } catch (error) {
      setText(message, `The page cannot be saved: ${error instanceof Error ? error.message : error}`);
    }
  }

  return { element: h("div", { class: "view recordings" }, drop, list, actions, inspector.element), open };
}
