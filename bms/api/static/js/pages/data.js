// The data browser: keys by prefix, a page at a time, kept up with the events; one key opened beside them (value.js).

import { get } from "../api.js";
import { h, say } from "../dom.js";
import { bytes, fromBase64, plural } from "../format.js";
import { Table } from "../table.js";
import { newValue, openValue } from "./value.js";

const SPACE = "default";
const LOAD = 200;
const ROWS_MAX = 5_000;

const encoder = new TextEncoder();

/** A key of the interface as {key (text or bytes), name (how it is shown and told apart)}. */
function keyOf(info) {
  if (info.key !== null && info.key !== undefined) return { key: info.key, name: info.key };
  const raw = fromBase64(info.key_base64 ?? "") ?? new Uint8Array();
  return { key: raw, name: `0x${Array.from(raw, (byte) => byte.toString(16).padStart(2, "0")).join("")}` };
}

/** Order of keys: by their bytes. */
function before(a, b) {
  const x = typeof a === "string" ? encoder.encode(a) : a, y = typeof b === "string" ? encoder.encode(b) : b;
  for (let at = 0; at < Math.min(x.length, y.length); at += 1) if (x[at] !== y[at]) return x[at] - y[at];
  return x.length - y.length;
}

export function dataPage(root, { model, rest }) {
  let rows = [], next = null, seen = model.changeCount, chosen = null, asked = 0, isLoaded = false;
  const mayWrite = model.allows("data:write");
  const prefix = h("input", { type: "search", class: "code", placeholder: "Prefix, e.g. a/", "aria-label": "Prefix of the keys", value: rest });
  const lead = h("span", { class: "note", role: "status" });
  const trouble = h("p", { class: "notice bad", role: "alert", hidden: true });
  const more = h("button", { type: "button", on: { click: () => load(false) } }, "Load more keys");
  const panel = h("section", { class: "card value-card", "aria-label": "Value", tabindex: "-1", hidden: true });
  const table = new Table({
    caption: "Keys", empty: "There is no key with this prefix.", key: (row) => row.name, chosen: (row) => row.name === chosen,
    columns: [
      { name: "key", title: "Key", cell: (row) => h("button", { type: "button", class: "key", on: { click: () => open(row) } }, row.name), sort: null },
      { name: "size", title: "Size", number: true, cell: (row) => bytes(row.size), sort: (row) => row.size },
      { name: "author", title: "Written by", cell: (row) => model.nameOf(row.author), sort: (row) => model.nameOf(row.author) },
    ],
  });
  const search = h("form", { class: "row grow", role: "search", on: { submit: (event) => { event.preventDefault(); load(true); } } }, prefix, h("button", { type: "submit" }, "Show"));
  const add = h("button", { type: "button", class: "primary", on: { click: () => { chosen = null; table.draw(); newValue(panel, context, prefix.value); } } }, "New key");
  const split = h("div", { class: "grid data-split" },
    h("div", { class: "card" }, h("div", { class: "card-head tools" }, search), trouble, table.element, h("div", { class: "table-foot" }, lead, h("span", { class: "space" }), more)), panel);
  root.append(h("div", { class: "page-head" }, h("h1", null, "Data"), h("span", { class: "note" }, `space “${SPACE}”`), h("span", { class: "space" }), mayWrite ? add : null), split);

  const context = {
    space: SPACE, model, mayWrite,
    done: (key) => { chosen = key; table.draw(); },
    closed: () => { chosen = null; table.draw(); table.box.focus(); },
  };

  function open(row) {
    chosen = row.name;
    table.draw();
    openValue(panel, context, row.key, row.name);
  }

  async function load(isAnew) {
    const mine = (asked += 1);
    trouble.hidden = true;
    if (isAnew) {
      history.replaceState(null, "", `#/data${prefix.value ? `/${encodeURIComponent(prefix.value)}` : ""}`);
      seen = model.changeCount;
    }
    more.disabled = true;
    try {
      const page = await get(`/data/${SPACE}`, { prefix: prefix.value, limit: LOAD, cursor: isAnew ? null : next });
      if (mine !== asked) return;
      const found = page.keys.map((info) => ({ ...info, ...keyOf(info) }));
      const known = new Set(isAnew ? [] : rows.map((row) => row.name));
      rows = isAnew ? found : [...rows, ...found.filter((row) => !known.has(row.name))];
      next = page.next;
      isLoaded = true;
      show();
    } catch (error) {
      trouble.hidden = false;
      say(trouble, error.message);
    }
    more.disabled = false;
  }

  function show() {
    const isFull = rows.length >= ROWS_MAX;
    table.show(rows);
    more.hidden = !next || isFull;
    say(lead, `${plural(rows.length, "key")}${next ? (isFull ? " of more: narrow the prefix" : ", and more") : ""}`);
  }

  /** What changed since the last look, into the rows that are loaded. */
  function follow() {
    const fresh = model.changeCount - seen, events = model.changes.all();
    seen = model.changeCount;
    if (!isLoaded || !fresh) return;
    if (fresh > events.length) return void load(true); // more than the ring keeps
    const touched = new Set();
    for (const event of events.slice(-fresh)) {
      if (event.space !== SPACE) continue;
      const { key, name } = keyOf(event);
      if (prefix.value && !(typeof key === "string" && key.startsWith(prefix.value))) continue;
      const at = rows.findIndex((row) => row.name === name);
      if (at >= 0 && event.deleted) rows.splice(at, 1);
      else if (at >= 0) rows[at] = { ...rows[at], ...event, key, name };
      else if (!event.deleted) {
        const place = rows.findIndex((row) => before(key, row.key) < 0);
        if (place < 0 && next) continue; // beyond what is loaded
        rows.splice(place < 0 ? rows.length : place, 0, { ...event, key, name });
        if (rows.length > ROWS_MAX) rows.length = ROWS_MAX;
      }
      touched.add(name);
      if (name === chosen) panel.dispatchEvent(new CustomEvent("changed", { detail: event }));
    }
    show();
    for (const name of touched) table.flash(name);
  }

  const ends = [model.on("data", follow), model.on("reload", () => load(true)), model.on("nodes", () => table.draw())];
  load(true);
  return () => { asked += 1; for (const end of ends) end(); };
}
