// The form for a token. It says where to get one; the field is a password field, so that a shared screen shows no token.

import { token } from "./api.js";
import { h, say } from "./dom.js";
import { themeButton } from "./theme.js";

export function loginForm({ problem, onToken }) {
  const field = h("input", { type: "password", name: "token", class: "code wide", autocomplete: "off", spellcheck: "false", required: true, value: token() ?? "", "aria-describedby": "login-how" });
  const trouble = h("p", { class: "notice bad", role: "alert", hidden: !problem }, problem);
  const button = h("button", { type: "submit", class: "primary wide" }, "Sign in");
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    try {
      await onToken(field.value.trim());
    } catch (error) {
      trouble.hidden = false;
      say(trouble, error.status === 401 ? "This token is not good here: unknown, ended or revoked." : error.message);
      field.focus();
    } finally {
      button.disabled = false;
    }
  }
  return h("main", { class: "login", id: "content", tabindex: "-1" },
    h("form", { class: "card login-card", on: { submit } },
      h("div", { class: "login-head" }, h("img", { src: "/static/icon.svg", alt: "", width: 40, height: 40 }), h("h1", null, "Sign in to this node"), themeButton()),
      trouble,
      h("label", { class: "field" }, h("span", null, "Token"), field),
      button,
      h("div", { class: "note stack", id: "login-how" },
        h("p", null, "On the machine of the node, ", h("code", null, "bms dashboard"), " opens this page signed in, and ", h("code", null, "bms token issue"), " prints a token."),
        h("p", null, "The token stays in this tab and ends with it."))));
}
