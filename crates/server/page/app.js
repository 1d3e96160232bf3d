/** What the views share: the server, what it can do, and where the page is. */

/**
 * @typedef {object} App
 * @property {import("./core/api.js").Server} server
 * @property {import("./core/settings.js").Place} place What the address bar has.
 * @property {(change: Partial<import("./core/settings.js").Place>) => void} setPlace Changes it.
 * @property {(recording: import("./core/model.js").Recording, answer: import("./core/model.js").Answer) => void} inspect
 *   Opens an answer in the lab.
 * @property {boolean} isFile Whether the page is a file with a recording, without a server.
 */

/**
 * A view of the page.
 * @typedef {object} View
 * @property {HTMLElement} element
 * @property {(props: Record<string, unknown>) => void} [setProps] Takes the server's `diffusion` properties.
 * @property {() => void} [enter] Called when it is shown.
 * @property {() => void} [leave] Called when another is shown.
 */

export {};
