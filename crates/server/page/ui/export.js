/** The page as one file with a recording inside, which needs no server and no network. */

/** @typedef {{ path: string, source: string }} Module */

/** An import of a module, all on one line. */
const IMPORT = /^import (\{[^}]*\}) from "(\.[^"]*)";$/gm;
const EXPORT = /^export ((?:async )?function\*?|class|const) (\w+)/gm;

const SHEET = /<link rel="stylesheet" href="([^"]*)" \/>/g;
/** What a file does not need: its styles and scripts are inside. */
const LINKS = /^ *(<link .*>|<script .*<\/script>)\n/gm;

/** @param {string} path @returns {Promise<string>} */
async function load(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: status ${response.status}`);
  return response.text();
}

/** A module and what it imports, dependencies first. @param {string} path @param {Map<string, string>} found */
async function collect(path, found) {
  const source = await load(path);
  for (const [, , target] of source.matchAll(IMPORT)) {
    const url = new URL(String(target), path).href;
    if (!found.has(url)) await collect(url, found);
  }
  found.set(path, source);
}

/** A module as a function of its own, whose result has its exports. @param {string} path @param {string} source */
function wrap(path, source) {
  const names = [...source.matchAll(EXPORT)].map(([, , name]) => name);
  const body = source
    .replace(IMPORT, (_, list, target) => {
      const url = new URL(target, path).href;
      return `const ${list.replace(/ as /g, ": ")} = modules[${JSON.stringify(url)}];`;
    })
    .replace(EXPORT, "$1 $2");
  return `modules[${JSON.stringify(path)}] = (() => {\n${body}\nreturn { ${names.join(", ")} };\n})();`;
}

/** Text inside a script element, which must not end it. @param {string} text */
function inScript(text) {
  return text.replace(/<(?=[/!]|script)/gi, "\\x3c");
}

/** JSON inside a script element. @param {string} text */
function jsonInScript(text) {
  return JSON.stringify(text).replace(/</g, "\\u003c");
}

const POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:";

/** @param {string | null} recording The lines of a recording, or null for a viewer without one. @returns {Promise<string>} */
export async function exportPage(recording) {
  const base = document.baseURI;
  /** @type {Map<string, string>} */
  const found = new Map();
  await collect(new URL("main.js", base).href, found);
  const modules = [...found].map(([path, source]) => wrap(path, source)).join("\n");
  // Addresses of this server do not belong into the file.
  const script = `"use strict";\nconst modules = {};\n${modules.replaceAll(new URL(".", base).href, () => "page:/")}`;
  const page = await load(new URL("index.html", base).href);
  const sheets = [...page.matchAll(SHEET)].map(([, path]) => load(new URL(String(path), base).href));
  const head = [
    `<meta http-equiv="content-security-policy" content="${POLICY}">`,
    `<style>\n${(await Promise.all(sheets)).join("\n")}</style>`,
  ];
  const body = [
    `<script type="application/json" id="recording">${jsonInScript(recording ?? "")}</script>`,
    `<script>\n${inScript(script)}\n</script>`,
  ];
  // Functions, because "$" has a meaning in replacements.
  return page
    .replace(LINKS, "")
    .replace("</head>", () => `${head.join("\n")}\n</head>`)
    .replace("</body>", () => `${body.join("\n")}\n</body>`);
}
