/** Debian's Chromium, or the one that CHROMIUM names. */

import { chromium } from "playwright-core";

const FLAGS = [
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
  // Without it, Chromium does not run as root.
  ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
];

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
}
