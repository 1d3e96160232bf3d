/** What the looks of a position mean. */

import { STATES } from "../core/states.js";
import { h } from "./dom.js";

/** A legend of the states. @param {...{ name: string, label: string, meaning: string }} more */
export function legend(...more) {
  const entries = [...STATES, ...more].map(({ name, label, meaning }) =>
    h("li", { title: meaning }, h("span", { class: `t ${name} sample` }, label)),
  );
  return h("ul", { class: "legend", "aria-label": "States of a position" }, ...entries);
}

/** A legend of shades. @param {string} low @param {string} high */
export function shadeLegend(low, high) {
  const shades = Array.from({ length: 10 }, (_, shade) => h("span", { class: `t shade-${shade} swatch` }));
  return h("p", { class: "legend shades" }, low, h("span", { "aria-hidden": "true" }, ...shades), high);
}
