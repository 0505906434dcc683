// The node's recent log. Events only ring the bell: the records themselves are read behind the number of the last one, so
// that none is shown twice and what was lost in between is said.

import { get } from "../api.js";
import { h, put, say } from "../dom.js";
import { clock, moment, plural } from "../format.js";
import { Ring } from "../ring.js";

const LEVELS = ["debug", "info", "warning", "error", "critical"];
const KINDS = { debug: "", info: "", warning: "warn", error: "bad", critical: "bad" };
const SHOWN = 400;

export function logsPage(root, { model }) {
  const records = new Ring(2000);
  let last = null, isPaused = false, isReading = false, isAgain = false, isOver = false, drawn = [];
  const level = h("select", { "aria-label": "Least level", on: { change: () => draw(true) } }, LEVELS.map((one) => h("option", { value: one }, one === "debug" ? "All levels" : `${one} and above`)));
  const find = h("input", { type: "search", placeholder: "Text or logger", "aria-label": "Find in the log", on: { input: () => draw(true) } });
  const pause = h("button", { type: "button", "aria-pressed": "false", on: { click: () => { isPaused = !isPaused; pause.setAttribute("aria-pressed", String(isPaused)); say(pause, isPaused ? "Go on" : "Pause"); if (!isPaused) read(); else say(lead, "paused"); } } }, "Pause");
  const lead = h("span", { class: "note" });
  const trouble = h("p", { class: "notice bad", role: "alert", hidden: true });
  const list = h("ol", { class: "log" });
  const empty = h("p", { class: "empty" }, "Nothing was logged that fits.");
  const box = h("div", { class: "scroll-y log-box", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Log, newest first" }, empty, list);
  root.append(h("div", { class: "page-head" }, h("h1", null, "Logs"), lead, h("span", { class: "space" }), pause),
    h("div", { class: "card" }, h("div", { class: "card-head tools" }, level, find), trouble, box));

  async function read() {
    if (isPaused || isOver) return;
    if (isReading) { isAgain = true; return; }
    isReading = true;
    try {
      const answer = await get("/logs", { since: last, limit: 1000 });
      if (last !== null && answer.records.length && answer.records[0].n > last + 1) records.push({ gap: answer.records[0].n - last - 1 });
      for (const record of answer.records) records.push(record);
      if (last !== null && answer.next < last) { records.clear(); last = null; isAgain = true; } // another life of the node
      else last = answer.next;
      isAgain ||= answer.records.length >= 1000;
      trouble.hidden = true;
      draw(false);
    } catch (error) {
      trouble.hidden = false;
      say(trouble, error.message);
    }
    isReading = false;
    if (isAgain) { isAgain = false; setTimeout(read, 250); }
  }

  function draw(isAnew) {
    const least = LEVELS.indexOf(level.value), word = find.value.trim().toLowerCase();
    const fits = (one) => one.gap || (LEVELS.indexOf(one.level) >= least && (!word || `${one.logger} ${one.text}`.toLowerCase().includes(word)));
    const shown = records.all().filter(fits).slice(-SHOWN).reverse();
    empty.hidden = shown.length > 0;
    say(lead, `${plural(shown.length, "record")}${records.length > shown.length ? ` of ${records.length}` : ""}`);
    const known = isAnew ? new Map() : new Map(drawn);
    drawn = shown.map((one) => [one, known.get(one) ?? line(one)]);
    put(list, drawn.map(([, element]) => element));
  }

  function line(one) {
    if (one.gap) return h("li", { class: "log-line" }, h("span", { class: "notice warn" }, `${plural(one.gap, "record")} came and went unseen`));
    return h("li", { class: "log-line" }, h("time", { class: "note", title: moment(one.time) }, clock(one.time)), h("span", { class: `pill ${KINDS[one.level] ?? ""}` }, one.level),
      h("span", { class: "log-name note" }, one.logger.replace(/^bms\./, "")), h("span", { class: "log-text" }, one.text));
  }

  let bell = 0;
  const ring = () => { if (!bell) bell = setTimeout(() => { bell = 0; read(); }, 250); };
  const ends = [model.on("log", ring), model.on("reload", ring)];
  read();
  return () => { isOver = true; clearTimeout(bell); for (const end of ends) end(); };
}
