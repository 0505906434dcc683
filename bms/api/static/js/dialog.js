// Modal questions, on the browser's own <dialog>: focus stays inside, Escape says no, focus goes back to where it was.

import { h } from "./dom.js";

/** Show `body` with a heading and two buttons; true if the action was chosen. */
export function ask({ title, body, action, danger = false }) {
  return new Promise((resolve) => {
    const heading = h("h2", { id: "dialog-title" }, title);
    const no = h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
    const yes = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
    const form = h("form", { method: "dialog", on: { submit: (event) => { event.preventDefault(); dialog.close("yes"); } } },
      h("div", { class: "dialog-body" }, heading, body), h("div", { class: "dialog-foot" }, no, yes));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", on: { close: () => { const is = dialog.returnValue === "yes"; dialog.remove(); resolve(is); } } }, form);
    document.body.append(dialog);
    dialog.showModal();
    (form.querySelector("input, textarea, select") ?? (danger ? no : yes)).focus();
  });
}
