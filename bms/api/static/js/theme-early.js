// Puts the chosen theme on the page before it is first drawn, so that nothing flashes. Not a module: modules run late.
"use strict";
try {
  const chosen = localStorage.getItem("bms.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is switched off: the system's theme it is.
}
