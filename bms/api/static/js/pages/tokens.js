// Tokens of this node: who may use its HTTP interface and for what. A new token is shown once; the node keeps its hash.

import { get, post, remove } from "../api.js";
import { announce, h, put, say } from "../dom.js";
import { ask } from "../dialog.js";
import { age, moment, nodeNow } from "../format.js";
import { scopeCovers } from "../model.js";
import { Table } from "../table.js";

const SCOPES = {
  "status:read": "statistics, health, metrics, reports", "nodes:read": "nodes, links, their events", "nodes:write": "connect, forget, set tags",
  "data:read": "keys, values, their events", "data:write": "write, delete, reconcile", "messages:read": "messages to this node's program",
  "messages:take": "take them in the program's place", "messages:write": "send and broadcast", "config:read": "the settings", "config:write": "change settings", "logs:read": "the recent log",
  "tokens:read": "list tokens", "tokens:write": "issue and revoke tokens",
};
const AS_LONG_AS_MINE = ""; // a token is good no longer than the one it was asked for with
const LIVES = [[3600, "an hour"], [86_400, "a day"], [30 * 86_400, "30 days"], [365 * 86_400, "a year"]];

export function tokensPage(root, { model }) {
  const mayWrite = model.allows("tokens:write");
  const trouble = h("p", { class: "notice bad", role: "alert", hidden: true });
  const table = new Table({
    caption: "Tokens in force", empty: "No token is in force.", key: (one) => one.token_id, sort: { name: "expires", down: false },
    columns: [
      { name: "name", title: "Name", cell: (one) => [one.name || h("span", { class: "note" }, "no name"), one.token_id === model.me.token_id ? h("span", { class: "pill accent own" }, "yours") : null], sort: (one) => one.name },
      { name: "scopes", title: "Allows", free: true, cell: (one) => one.scopes.map((scope) => h("span", { class: "tag" }, scope === "*" ? "everything" : scope)) },
      { name: "issued", title: "Issued", cell: (one) => moment(one.issued_at), sort: (one) => one.issued_at },
      { name: "expires", title: "Ends in", cell: (one) => h("span", { title: moment(one.expires_at) }, age(one.expires_at - nodeNow())), sort: (one) => one.expires_at },
      { name: "id", title: "Id", cell: (one) => h("span", { class: "id" }, one.token_id) },
      ...(mayWrite ? [{ name: "act", title: "", cell: (one) => h("button", { type: "button", class: "danger", "aria-label": `Revoke the token ${one.name || one.token_id}`, on: { click: () => revoke(one) } }, "Revoke") }] : []),
    ],
  });
  async function load() {
    try {
      table.show((await get("/tokens")).tokens);
      trouble.hidden = true;
    } catch (error) {
      trouble.hidden = false;
      say(trouble, error.message);
    }
  }
  async function revoke(one) {
    const isMine = one.token_id === model.me.token_id;
    const is = await ask({ title: "Revoke this token?", action: "Revoke", danger: true, body: h("p", null, `${one.name || one.token_id} stops working at once, on open connections too, and so do tokens that were issued with it.${isMine ? " It is the one that you are signed in with." : ""}`) });
    if (!is) return;
    try {
      await remove(`/tokens/${one.token_id}`);
      announce("The token was revoked");
      await load();
    } catch (error) {
      trouble.hidden = false;
      say(trouble, error.message);
    }
  }
  root.append(h("div", { class: "page-head" }, h("h1", null, "Tokens"), h("p", { class: "lead" }, "They are this node's own: a token that was issued here is good at this node alone.")),
    h("div", { class: "card" }, trouble, table.element), mayWrite ? issueCard(model, load) : h("p", { class: "note" }, "Issuing and revoking needs ", h("code", null, "tokens:write"), "."));
  load();
  const end = model.on("reload", load);
  return end;
}

function issueCard(model, load) {
  const mine = model.me.scopes ?? [];
  const isOffered = (scope) => mine.some((has) => scopeCovers(has, scope));
  const name = h("input", { class: "wide", maxlength: 64, placeholder: "what or who it is for" });
  const left = model.me.expires_at - nodeNow();
  const lives = [...LIVES.filter(([value]) => value < left), [AS_LONG_AS_MINE, `as long as yours: ${age(left)}`]];
  const life = h("select", null, lives.map(([value, text]) => h("option", { value }, text)));
  life.value = left > 30 * 86_400 ? 30 * 86_400 : AS_LONG_AS_MINE;
  const boxes = Object.entries(SCOPES).map(([scope, meaning]) => ({ scope, box: h("input", { type: "checkbox", value: scope, disabled: !isOffered(scope), checked: scope === "status:read" || scope === "nodes:read" }), meaning }));
  const out = h("div", { hidden: true, class: "stack" });
  const trouble = h("p", { class: "notice bad", role: "alert", hidden: true });
  const all = (on) => boxes.forEach(({ box, scope }) => { if (!box.disabled) box.checked = on === "all" || (on === "read" && scope.endsWith(":read")); });
  async function submit(event) {
    event.preventDefault();
    trouble.hidden = true;
    const scopes = boxes.filter(({ box }) => box.checked).map(({ scope }) => scope);
    try {
      if (!scopes.length) throw new Error("A token allows at least one thing.");
      const { token } = await post("/tokens", { scopes, ttl_s: life.value === AS_LONG_AS_MINE ? Math.max(1, model.me.expires_at - nodeNow() - 1) : Number(life.value), name: name.value.trim() });
      const field = h("input", { class: "code wide", readonly: true, value: token, "aria-label": "The new token" });
      const copy = h("button", { type: "button", on: { click: async () => { field.select(); try { await navigator.clipboard.writeText(token); say(copy, "Copied"); } catch { say(copy, "Selected: copy it"); } } } }, "Copy");
      put(out, h("p", { class: "notice ok", role: "status" }, "The token is below. It is shown this once."), h("div", { class: "row nowrap" }, field, copy));
      out.hidden = false;
      field.select();
      await load();
    } catch (error) {
      trouble.hidden = false;
      say(trouble, error.message);
    }
  }
  return h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Issue a token")),
    h("form", { class: "card-body stack", on: { submit } },
      h("div", { class: "grid thirds" }, h("label", { class: "field" }, h("span", null, "Name"), name), h("label", { class: "field" }, h("span", null, "Good for"), life)),
      h("fieldset", null, h("legend", { class: "label" }, "Allows"),
        h("div", { class: "scopes" }, boxes.map(({ scope, box, meaning }) => h("label", { class: "check" }, box, h("span", null, h("code", null, scope), h("span", { class: "note" }, ` ${meaning}${box.disabled ? " (yours does not)" : ""}`)))))),
      h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Issue"), h("button", { type: "button", on: { click: () => all("read") } }, "Choose all reading"), h("button", { type: "button", on: { click: () => all("all") } }, "Choose all")),
      trouble, out));
}
