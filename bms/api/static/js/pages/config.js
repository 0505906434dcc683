// The settings in force by dotted name, with what each means and what a change of it does; those that may change are edited
// in place. A change is carried out whole or not at all, and the node says what it restarted.

import { get, patch } from "../api.js";
import { h, put, say } from "../dom.js";
import { ask } from "../dialog.js";
import { plural } from "../format.js";

const shown = (value) => (value === null ? "none" : Array.isArray(value) ? (value.length ? value.join(", ") : "none") : String(value));
const groupOf = (name) => (name.includes(".") ? name.slice(0, name.indexOf(".")) : "node and mesh");

/** What the text of a field stands for, by the value that is there now. */
export function parsed(text, now, values = "") {
  const trimmed = text.trim();
  if (typeof now === "boolean") return trimmed === "true";
  if (Array.isArray(now)) return trimmed === "" || trimmed === "none" ? [] : trimmed.split(",").map((one) => one.trim()).filter(Boolean);
  if (trimmed === "none" || (trimmed === "" && now === null)) return null;
  const isNumber = typeof now === "number" || (now === null && /number|^[\d.,]+ to /.test(values));
  return isNumber && trimmed !== "" && Number.isFinite(Number(trimmed)) ? Number(trimmed) : trimmed;
}

/** Text with `names` and *stress*, as the reference has it. */
const prose = (text) => text.split(/(`[^`]+`|\*[^*]+\*)/).map((part) => (/^`.+`$/.test(part) ? h("code", null, part.slice(1, -1)) : /^\*.+\*$/.test(part) ? h("em", null, part.slice(1, -1)) : part));
const capital = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "");

export function configPage(root, { model }) {
  let settings = {}, about = {};
  const mayWrite = model.allows("config:write");
  const find = h("input", { type: "search", placeholder: "Name or meaning", "aria-label": "Find settings", on: { input: draw } });
  const only = h("input", { type: "checkbox", on: { change: draw } });
  const lead = h("span", { class: "note", role: "status" });
  const said = h("p", { class: "notice", role: "status", hidden: true });
  const groups = h("div", { class: "stack" });
  root.append(h("div", { class: "page-head" }, h("h1", null, "Settings"), lead, h("p", { class: "lead" }, mayWrite ? "Changes hold until the node ends; to keep them, write them into its configuration file." : ["Changing them needs ", h("code", null, "config:write"), "."])),
    h("div", { class: "row" }, find, h("label", { class: "check" }, only, "Only what differs from the default")), said, groups);

  async function load() {
    try {
      const answer = await get("/config");
      settings = answer.settings;
      about = answer.about ?? {};
      draw();
    } catch (error) {
      tell("bad", error.message);
    }
  }
  function tell(kind, text) {
    said.hidden = false;
    said.className = `notice ${kind}`;
    say(said, text);
  }

  function draw() {
    const word = find.value.trim().toLowerCase();
    const names = Object.keys(settings).filter((name) => (!word || `${name} ${about[name]?.meaning ?? ""}`.toLowerCase().includes(word)) && (!only.checked || differs(name)));
    say(lead, plural(names.length, "setting"));
    const byGroup = Map.groupBy ? Map.groupBy(names, groupOf) : names.reduce((map, name) => map.set(groupOf(name), [...(map.get(groupOf(name)) ?? []), name]), new Map());
    put(groups, [...byGroup].map(([group, members]) => h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, group)), h("ul", { class: "settings" }, members.map(row)))),
      names.length ? null : h("p", { class: "card empty" }, "No setting fits."));
  }
  const differs = (name) => about[name] && shown(about[name].default) !== shown(settings[name]);

  function row(name) {
    const fact = about[name] ?? {}, may = mayWrite && fact.effect !== "refused";
    const value = h("span", { class: "setting-value mono" }, shown(settings[name]), fact.unit ? h("span", { class: "note" }, ` ${fact.unit}`) : null);
    return h("li", null,
      h("div", { class: "setting-main" }, h("div", null, h("span", { class: "mono setting-name" }, name), differs(name) ? h("span", { class: "pill" }, `default: ${shown(fact.default)}`) : null),
        fact.meaning ? h("p", { class: "note" }, prose(fact.meaning)) : null),
      h("div", { class: "setting-side" }, value,
        may ? h("button", { type: "button", "aria-label": `Change ${name}`, on: { click: () => change(name) } }, "Change")
          : mayWrite ? h("span", { class: "note", title: fact.what ?? "" }, "fixed") : null));
  }

  async function change(name) {
    const fact = about[name] ?? {}, now = settings[name];
    const field = typeof now === "boolean"
      ? h("select", { class: "wide" }, ["true", "false"].map((one) => h("option", { value: one, selected: one === String(now) }, one)))
      : h("input", { class: "code wide", value: now === null ? "" : Array.isArray(now) ? now.join(", ") : String(now), spellcheck: "false" });
    const consequence = fact.effect === "restarts" ? `Restarts ${fact.what}. ` : "";
    const is = await ask({
      title: `Change ${name}`, action: "Put in force",
      body: h("div", { class: "stack" }, fact.meaning ? h("p", null, prose(fact.meaning)) : null, h("label", { class: "field" }, h("span", null, `Value${fact.values ? ` (${fact.values})` : ""}`), field),
        h("p", { class: "note" }, prose(`${consequence}${capital(fact.note)}`))),
    });
    if (!is) return;
    try {
      const changes = await patch("/config", { settings: { [name]: parsed(field.value, now, fact.values) } });
      const restarted = changes.restarted.length ? `; restarted: ${changes.restarted.join(", ")}` : "";
      tell("ok", changes.fields.length ? `Changed: ${changes.fields.join(", ")}${restarted}.` : "It was like that already.");
      await load();
    } catch (error) {
      tell("bad", error.message);
    }
  }
  load();
  return model.on("reload", load);
}
