// Light, dark, or as the system has it: a choice of this browser, kept in localStorage.

import { announce, h, icon, put } from "./dom.js";

const KEY = "bms.theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

function chosen() {
  return document.documentElement.dataset.theme ?? "auto";
}

function choose(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    if (theme === "auto") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, theme);
  } catch {
    // No storage: the choice lasts as long as this page.
  }
}

/** The button that goes through the three. */
export function themeButton() {
  const button = h("button", { type: "button", class: "icon quiet", on: { click: () => { choose(NEXT[chosen()]); show(); announce(`Colours: ${NAMES[chosen()]}`); } } });
  function show() {
    put(button, icon(chosen()));
    button.setAttribute("aria-label", `Colours: ${NAMES[chosen()]}. Change`);
    button.title = `Colours: ${NAMES[chosen()]}`;
  }
  show();
  return button;
}
