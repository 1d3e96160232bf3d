/** What a screen reader says: finished canvases and outcomes, never drafts. */

const region = document.getElementById("announcer");

/** @param {string} text */
export function announce(text) {
  if (!region || !text.trim()) return;
  const line = document.createElement("p");
  line.textContent = text;
  region.append(line);
  while (region.childElementCount > 4) region.firstElementChild?.remove();
}
