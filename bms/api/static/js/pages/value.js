// One value: shown as text or bytes, changed, deleted, or a new one made. A change is made with If-Match: if somebody else
// wrote meanwhile nothing is lost, and it says so.

import { keyPath, send, url } from "../api.js";
import { announce, h, put, say } from "../dom.js";
import { ask } from "../dialog.js";
import { bytes, hex, textOf } from "../format.js";

const TEXT_SHOWN = 256 * 1024;
const TEXT_EDITED = 1024 * 1024;
const HEX_SHOWN = 16 * 1024;

/** Browsers take these two out of any address, escaped or not. */
const isUnreachable = (key) => key === "." || key === "..";

function head(panel, context, title) {
  return h("div", { class: "card-head" }, h("h2", { class: "break mono" }, title), h("span", { class: "space" }),
    h("button", { type: "button", class: "quiet", on: { click: () => { panel.hidden = true; context.closed(); } } }, "Close"));
}

/** Show the value of `key` in `panel`. */
export async function openValue(panel, context, key, name) {
  const body = h("div", { class: "card-body stack" }, h("p", { class: "note" }, "Reading …"));
  put(panel, head(panel, context, name), body);
  panel.hidden = false;
  panel.focus({ preventScroll: true });
  panel.scrollIntoView({ block: "nearest" });
  await show(panel, body, context, key, name);
}

async function show(panel, body, context, key, name) {
  const mine = (panel.dataset.shown = `${Math.random()}`);
  const isMine = () => panel.dataset.shown === mine;
  if (isUnreachable(key)) return void put(body, h("p", { class: "notice warn" }, "No browser can ask for this key. The command ", h("code", null, "bms get"), " can."));
  let response, data;
  try {
    response = await send("GET", url(keyPath(context.space, key)), { headers: { Accept: "*/*" }, deadlineMs: 60_000 });
    data = new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    if (isMine()) put(body, h("p", { class: "notice bad", role: "alert" }, error.status === 404 ? "This key is gone: it was deleted or has expired." : error.message));
    return;
  }
  if (!isMine()) return;
  const etag = response.headers.get("ETag"), author = response.headers.get("Bms-Author"), version = response.headers.get("Bms-Version") ?? "–";
  const text = data.length <= TEXT_EDITED ? textOf(data) : null;
  const changed = h("p", { class: "notice warn row", role: "status", hidden: true }, h("span", null), h("button", { type: "button", on: { click: () => show(panel, body, context, key, name) } }, "Show it"));
  listen(panel, (event) => {
    if (`"${event.version}"` === etag) return;
    changed.hidden = false;
    say(changed.firstChild, event.deleted ? "It was deleted meanwhile." : "It was changed meanwhile.");
  });
  const view = h("div"), form = text === null ? "hex" : "text";
  const buttons = ["text", "hex"].map((one) => h("button", { type: "button", "aria-pressed": "false", disabled: one === "text" && text === null, on: { click: () => choose(one) } }, one === "text" ? "Text" : "Bytes"));
  function choose(one) {
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(["text", "hex"][at] === one)));
    put(view, one === "text" ? shownText(text) : shownHex(data));
  }
  choose(form);
  const file = new Blob([data], { type: "application/octet-stream" });
  put(body, changed,
    h("dl", { class: "facts" }, h("dt", null, "Size"), h("dd", null, bytes(data.length)),
      h("dt", null, "Written by"), h("dd", null, author ? h("a", { href: `#/nodes/${author}` }, context.model.nameOf(author)) : "–"),
      h("dt", null, "Version"), h("dd", null, h("span", { class: "id", title: version }, version.length > 24 ? `${version.slice(0, 24)}…` : version))),
    h("div", { class: "row" }, h("div", { class: "segments", role: "group", "aria-label": "Shown as" }, buttons), h("span", { class: "space" }),
      h("button", { type: "button", on: { click: () => save(file, name) } }, "Download"),
      context.mayWrite && text !== null ? h("button", { type: "button", on: { click: () => edit(panel, body, context, key, name, text, etag) } }, "Edit") : null,
      context.mayWrite ? h("button", { type: "button", class: "danger", on: { click: () => erase(panel, body, context, key, name, etag) } }, "Delete") : null),
    view, context.mayWrite ? null : h("p", { class: "note" }, "Changing it needs ", h("code", null, "data:write"), "."));
}

/** Hear of changes of what is shown, in place of whoever heard before. */
function listen(panel, listener) {
  if (panel._listener) panel.removeEventListener("changed", panel._listener);
  panel._listener = (event) => listener(event.detail);
  panel.addEventListener("changed", panel._listener);
}

function shownText(text) {
  return h("div", null, h("pre", { class: "value", tabindex: "0", role: "region", "aria-label": "Value as text" }, text.slice(0, TEXT_SHOWN) || " "),
    text.length > TEXT_SHOWN ? h("p", { class: "note" }, `The first ${bytes(TEXT_SHOWN)}; download it for the rest.`) : null);
}

function shownHex(data) {
  return h("div", null, h("pre", { class: "value hex", tabindex: "0", role: "region", "aria-label": "Value as bytes" }, hex(data, HEX_SHOWN) || "empty"),
    data.length > HEX_SHOWN ? h("p", { class: "note" }, `The first ${bytes(HEX_SHOWN)} of ${bytes(data.length)}.`) : null);
}

/** Hand a file to the browser. */
export function save(blob, name) {
  const place = URL.createObjectURL(blob);
  const link = h("a", { href: place, download: name.replace(/[^\w.-]+/g, "_").slice(-80) || "value" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(place), 10_000);
}

function problem(error) {
  if (error.status === 412) return "Somebody else changed it meanwhile; nothing was written. Close this and look at the new value first.";
  return error.message;
}

async function erase(panel, body, context, key, name, etag) {
  const is = await ask({ title: "Delete this key everywhere?", action: "Delete", danger: true, body: h("p", null, h("code", { class: "break" }, name), " is deleted on all nodes. This cannot be undone.") });
  if (!is) return;
  try {
    await send("DELETE", url(keyPath(context.space, key)), { headers: etag ? { "If-Match": etag } : {} });
    announce(`${name} was deleted`);
    panel.hidden = true;
    context.closed();
  } catch (error) {
    body.prepend(h("p", { class: "notice bad", role: "alert" }, problem(error)));
  }
}

function edit(panel, body, context, key, name, text, etag) {
  const area = h("textarea", { class: "code", rows: 12, spellcheck: "false", "aria-label": `Value of ${name}` });
  area.value = text;
  const trouble = h("p", { class: "notice bad", role: "alert", hidden: true });
  async function submit(event) {
    event.preventDefault();
    try {
      await write(context, key, area.value, { "If-Match": etag });
      await show(panel, body, context, key, name);
      panel.focus({ preventScroll: true });
    } catch (error) {
      trouble.hidden = false;
      say(trouble, problem(error));
    }
  }
  put(body, h("form", { class: "stack", on: { submit } }, area, trouble, h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Save"),
    h("button", { type: "button", on: { click: () => show(panel, body, context, key, name) } }, "Cancel"))));
  area.focus();
}

async function write(context, key, value, headers = {}, query = {}) {
  await send("PUT", url(keyPath(context.space, key), query), { body: value, headers: { "Content-Type": "application/octet-stream", ...headers }, deadlineMs: 60_000 });
  announce("Written");
}

/** The form for a new key, in `panel`. */
export function newValue(panel, context, prefix) {
  const key = h("input", { class: "code wide", required: true, value: prefix, spellcheck: "false", maxlength: 1024 });
  const area = h("textarea", { class: "code", rows: 8, spellcheck: "false" });
  const file = h("input", { type: "file" });
  const life = h("select", null, [["", "for good"], ["60", "for a minute"], ["3600", "for an hour"], ["86400", "for a day"], ["604800", "for a week"]].map(([value, text]) => h("option", { value }, text)));
  const trouble = h("p", { class: "notice bad", role: "alert", hidden: true });
  async function submit(event) {
    event.preventDefault();
    const name = key.value;
    try {
      if (isUnreachable(name)) throw new Error("No browser can name this key. The command bms put can.");
      await write(context, name, file.files[0] ?? area.value, { "If-None-Match": "*" }, { ttl_s: life.value });
      context.done(name);
      await openValue(panel, context, name, name);
    } catch (error) {
      trouble.hidden = false;
      say(trouble, error.status === 412 ? "There is such a key already: open it to change it." : error.message);
    }
  }
  put(panel, head(panel, context, "New key"), h("form", { class: "card-body stack", on: { submit } },
    h("label", { class: "field" }, h("span", null, "Key"), key),
    h("label", { class: "field" }, h("span", null, "Value"), area),
    h("label", { class: "field" }, h("span", null, "or a file"), file),
    h("label", { class: "field" }, h("span", null, "Kept"), life), trouble,
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Write"))));
  panel.hidden = false;
  key.focus();
}
