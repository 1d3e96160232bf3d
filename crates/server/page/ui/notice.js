/** What went wrong with an answer, and what to do. */

import { LostStream, ServerError } from "../core/api.js";
import { button, h, setText } from "./dom.js";

/** How often a server that does not answer is asked again, in milliseconds. */
const INTERVAL = 1000;

/**
 * @param {Error} error @param {Server} server
 * @param {() => void} again Asks for the answer again.
 */
export function notice(error, server, again) {
  const text = h("span", {}, messageOf(error));
  const element = h("div", { class: "notice", role: "alert" }, text, button("Try again", again));
  if (error instanceof LostStream || (error instanceof ServerError && error.status === 0)) {
    reconnect(server, text, element);
  }
  return element;
}

/** @param {Error} error */
function messageOf(error) {
  if (error instanceof LostStream) return `${error.message} What arrived is kept. Reconnecting…`;
  if (!(error instanceof ServerError)) return `The server sent something unexpected: ${error.message}.`;
  if (error.status === 0) return `${error.message} Reconnecting…`;
  if (error.retryAfter) return `${error.message} Try again in ${error.retryAfter} s.`;
  return error.message;
}

/** @param {Server} server @param {HTMLElement} text @param {HTMLElement} element */
function reconnect(server, text, element) {
  const timer = setInterval(async () => {
    if (!element.isConnected) clearInterval(timer);
    else if (await server.isHealthy()) {
      clearInterval(timer);
      setText(text, "The connection was lost. The server answers again.");
    }
  }, INTERVAL);
}
