/** Asks for the server's key. */

import { button, freshId, h } from "./dom.js";

const STORE = "key";

/** The key of this tab. */
export function storedKey() {
  try {
    return sessionStorage.getItem(STORE) ?? "";
  } catch {
    return "";
  }
}

/** @param {boolean} wasWrong Whether a key was given already. @returns {Promise<string | null>} */
export function askKey(wasWrong) {
  const id = freshId("key");
  const field = h("input", { type: "password", id, required: true, autocomplete: "current-password" });
  const dialog = h("dialog", { class: "panel key", "aria-label": "Key" });
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", {}, "This server asks for a key"),
    h("p", {}, wasWrong ? "That key is not one of the server's." : "It is one of those given with --api-key."),
    h("label", { for: id }, "Key"),
    field,
    h("div", { class: "row" }, button("Cancel", () => dialog.close("")), h("button", { class: "primary" }, "Use")),
  );
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", () => dialog.close(field.value));
    dialog.addEventListener("close", () => {
      const key = dialog.returnValue;
      dialog.remove();
      try {
        if (key) sessionStorage.setItem(STORE, key);
      } catch {
        // The key lasts until the page is left.
      }
      resolve(key || null);
    });
  });
}
