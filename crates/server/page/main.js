/** Puts the page together: views, navigation, and what the address bar keeps. */

import { Server } from "./core/api.js";
import { readHash, writeHash } from "./core/settings.js";
import { button, h, setText } from "./ui/dom.js";
import { askKey, storedKey } from "./ui/key.js";
import { chatView } from "./views/chat.js";
import { compareView } from "./views/compare.js";
import { editView } from "./views/edit.js";
import { infillView } from "./views/infill.js";
import { labView } from "./views/lab.js";
import { recordingsView } from "./views/recordings.js";
import { schemaView } from "./views/schema.js";
import { serverView } from "./views/server.js";

/** The recording inside a saved page. */
const inside = document.getElementById("recording");
const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const menu = /** @type {HTMLElement} */ (document.getElementById("menu"));
const status = /** @type {HTMLElement} */ (document.getElementById("server-status"));

const server = new Server(document.baseURI);
server.key = storedKey();
/** Several requests share one question. @type {Promise<string | null> | null} */
let question = null;
server.askKey = () => (question ??= askKey(server.key !== "").finally(() => (question = null)));

/** @type {App} */
const app = {
  server,
  place: readHash(location.hash),
  setPlace(change) {
    Object.assign(app.place, change);
    history.replaceState(null, "", writeHash(app.place));
  },
  inspect(recording, answer) {
    lab.inspect(recording, answer);
    open("lab");
  },
  isFile: inside !== null,
};

const lab = labView(app);
const recordings = recordingsView(app);

/** Whether the server has a route. @param {string} route */
const has = (route) => () => Array.isArray(props.routes) && props.routes.includes(route);
/** Masked models have no constraints. */
const followsSchemas = () => props.family === "canvas";

/**
 * Each view with its name in the menu, and whether the server has what it needs, if not every server has it.
 * @type {{ name: string, label: string, view: () => View, works?: () => boolean }[]}
 */
const views = [
  { name: "chat", label: "Chat", view: () => chatView(app) },
  { name: "lab", label: "Canvas lab", view: () => lab },
  { name: "compare", label: "Compare", view: () => compareView(app) },
  { name: "edit", label: "Edit", view: () => editView(app), works: has("/diffusion/edit") },
  { name: "infill", label: "Infill", view: () => infillView(app), works: has("/infill") },
  { name: "schema", label: "JSON Schema", view: () => schemaView(app), works: followsSchemas },
  { name: "recordings", label: "Recordings", view: () => recordings },
  { name: "server", label: "Server", view: () => serverView(app) },
];

/** The views that have been opened. @type {Map<string, View>} */
const opened = new Map();
/** @type {Record<string, unknown>} */
let props = {};
/** @type {View | null} */
let shown = null;

/** Whether a view has what it needs. @param {(typeof views)[number]} view */
function isThere({ name, works }) {
  return app.isFile ? name === "recordings" : !works || works();
}

/** @param {string} name */
function open(name) {
  const entry = views.find((each) => each.name === name && isThere(each)) ?? views.find(isThere);
  if (!entry) return;
  app.setPlace({ view: entry.name });
  let view = opened.get(entry.name);
  if (!view) {
    view = entry.view();
    view.setProps?.(props);
    opened.set(entry.name, view);
    main.append(view.element);
  }
  if (view !== shown) shown?.leave?.();
  for (const each of opened.values()) each.element.hidden = each !== view;
  shown = view;
  markMenu();
  document.title = `${entry.label} – llama-diffusion`;
  view.enter?.();
}

function showMenu() {
  const links = views.filter(isThere).map(({ name, label }) => h("a", { href: `#${name}`, "data-view": name }, label));
  menu.replaceChildren(...links);
  markMenu();
}

function markMenu() {
  for (const link of menu.querySelectorAll("a")) {
    const isShown = link.dataset.view === app.place.view;
    if (isShown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    // The menu of a narrow window scrolls.
    if (isShown) link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

/** A link of the menu keeps prompt, seed and parameters. */
menu.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a") : null;
  if (!link?.dataset.view) return;
  event.preventDefault();
  open(link.dataset.view);
});

document.getElementById("skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

// Another place was typed into the address bar.
window.addEventListener("hashchange", () => location.reload());

const THEMES = ["auto", "light", "dark"];
let theme = localValue("theme") ?? "auto";
const themeButton = button("", () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "auto"), { class: "quiet theme" });
document.getElementById("tools")?.append(themeButton);

/** @param {string} name */
function setTheme(name) {
  theme = name;
  document.documentElement.dataset.theme = name;
  setText(themeButton, { auto: "◐", light: "☀", dark: "☾" }[name] ?? "◐");
  themeButton.setAttribute("aria-label", `Theme: ${name}`);
  try {
    localStorage.setItem("theme", name);
  } catch {
    // It lasts until the page is left.
  }
}

/** @param {string} name */
function localValue(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

async function learnProps() {
  try {
    const found = await server.json("props");
    props = { ...found.diffusion };
    const alias = found.model_alias ?? found.model_path ?? "";
    setText(status, String(alias).replace(/^.*[/\\]/, ""));
  } catch (error) {
    setText(status, error instanceof Error ? error.message : "");
  }
  for (const view of opened.values()) view.setProps?.(props);
  showMenu();
}

setTheme(THEMES.includes(theme) ? theme : "auto");
showMenu();
if (inside) {
  open("recordings");
  const text = JSON.parse(inside.textContent ?? '""');
  if (text) void recordings.open("This recording", text);
} else {
  const wanted = app.place.view || "chat";
  // Whether the other views work is not known yet.
  if (views.some(({ name, works }) => name === wanted && !works)) open(wanted);
  void learnProps().then(() => shown ?? open(wanted));
}
