// Overview: is it well, how much is going on, and what happened last.

import { get } from "../api.js";
import { h, put, say, stateBadge } from "../dom.js";
import { age, ago, bytes, bytesParts, clock, countParts, number, percent, perSecond, plural, rate, rateParts, seconds, secondsParts } from "../format.js";
import { Plot } from "../plot.js";
import { pastSample } from "../samples.js";

const HEALTH = { ok: "This node is well", degraded: "Needs a look", failing: "Something does not work" };
const ACTIVITY_SHOWN = 40;
const RANGES = [[180, "3 min"], [600, "10 min"], [3600, "1 h"], [12 * 3600, "12 h"]];
const LIVE_S = 600; // as far back as the page keeps every second; for longer the node's own history is read
const REREAD_MS = 20_000;
let chosenRange = RANGES[0][0]; // kept while other pages are looked at

function tile(name, href = null) {
  const value = h("div", { class: "tile-value" }, "–"), more = h("div", { class: "tile-more" });
  const element = h(href ? "a" : "div", { class: "card tile", href }, h("div", { class: "tile-name" }, name), value, more);
  const show = ([figure, unit], text) => { put(value, figure, unit ? h("span", { class: "unit" }, unit) : null); if (typeof text === "string") say(more, text); };
  return { element, value, more, show };
}

/** Every part that is drawn: {element, draw(model)}. */
function healthCard() {
  const badge = h("span", { class: "note" }, "Reading …"), reasons = h("ul", { class: "health-reasons", hidden: true }), rows = h("ul", { class: "checks" });
  const summary = h("summary"), details = h("details", { hidden: true }, summary, rows);
  const element = h("section", { class: "card health", "aria-label": "Health" },
    h("div", { class: "health-line" }, badge, h("span", { class: "space" }), details), reasons);
  function draw({ health }) {
    if (!health) return;
    details.hidden = false;
    put(badge, h("span", { class: "health-word" }, stateBadge(health.status, HEALTH[health.status] ?? health.status)));
    const bad = health.checks.filter((check) => check.status !== "ok");
    put(reasons, bad.map((check) => h("li", null, stateBadge(check.status, check.name), h("span", null, check.reason))));
    reasons.hidden = bad.length === 0;
    say(summary, `${plural(health.checks.length, "check")}, ${number(health.checks.length - bad.length)} ok`);
    put(rows, health.checks.map((check) => h("li", null, stateBadge(check.status, check.name), h("span", { class: "note" }, check.reason))));
  }
  return { element, draw };
}

function tiles() {
  const all = {
    nodes: tile("Nodes", "#/nodes"), links: tile("Links", "#/map"), traffic: tile("Received"), sent: tile("Sent"),
    data: tile("Entries", "#/data"), rtt: tile("Slowest round trip", "#/map"), memory: tile("Memory"), up: tile("Up"),
  };
  const bar = h("div", { class: "bar", "aria-hidden": "true" });
  all.nodes.element.append(bar);
  const element = h("section", { class: "tiles", "aria-label": "Figures" }, Object.values(all).map((one) => one.element));
  function draw(model) {
    const { stats, status } = model, now = model.samples.last;
    const states = model.nodes.size ? model.countStates() : stats?.nodes ?? status?.nodes ?? {};
    const total = Object.values(states).reduce((a, b) => a + b, 0);
    const others = Object.entries(states).filter(([state, n]) => n && state !== "alive").map(([state, n]) => `${number(n)} ${state}`);
    all.nodes.show([number(states.alive ?? 0), `of ${number(total)} alive`], others.join(", ") || "none is missing");
    put(bar, Object.entries(states).filter(([, n]) => n).map(([state, n]) => { const part = h("i", { class: `is-${state}` }); part.style.setProperty("flex-grow", String(n)); return part; }));
    const figures = stats ?? status;
    if (!figures) return;
    all.links.show(countParts(figures.connections), stats?.queues ? `${number(stats.queues.link_messages)} messages wait` : "");
    all.data.show(countParts(stats?.data.entries ?? status.entries), `${bytes(stats?.data.bytes ?? status.bytes)} of values`);
    all.up.show(age(figures.uptime_s).split(/ (?=[a-z]+$)/), status ? `version ${status.version}` : "");
    if (!stats) return;
    all.traffic.show(rateParts(now?.received), `${bytes(stats.bytes_received)} in all`);
    all.sent.show(rateParts(now?.sent), `${bytes(stats.bytes_sent)} in all`);
    all.rtt.show(secondsParts(now?.rttMost), now?.rttMedian === null ? "no link yet" : `median ${seconds(now?.rttMedian)}`);
    all.memory.show(bytesParts(stats.resources?.rss_bytes), `${percent(now?.cpu)} of a core`);
  }
  return { element, draw };
}

function activityCard(model) {
  const list = h("ul", { class: "activity" });
  let drawn = "";
  const empty = h("p", { class: "empty" }, "Nothing since this page was opened.");
  const element = h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "What happened")), h("div", { class: "scroll-y", tabindex: "0", role: "region", "aria-label": "What happened, newest first" }, empty, list));
  function draw() {
    const newest = model.activity.all().slice(-ACTIVITY_SHOWN).reverse();
    empty.hidden = newest.length > 0;
    const look = newest.map((one) => `${one.time} ${one.text}`).join("\n");
    if (look === drawn) return; // what is the same stays, and with it the focus
    drawn = look;
    put(list, newest.map((one) => h("li", null, h("time", { class: "note" }, clock(one.time)), one.href ? h("a", { href: one.href, class: "plain-link" }, stateBadge(one.state, one.text)) : stateBadge(one.state, one.text))));
  }
  return { element, draw };
}

function aboutCard() {
  const facts = h("dl", { class: "facts" });
  const element = h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "This node")), h("div", { class: "card-body" }, facts));
  function draw({ status, stats }) {
    if (!status) return;
    const rows = [["Name", status.name], ["Id", h("span", { class: "id" }, status.node_id)], ["Mesh", status.mesh_name], ["Address", status.address ?? "–"],
      ["Folder", status.folder ?? "in memory"], ["Process", String(status.pid)]];
    const last = stats?.store?.commit_s?.p99;
    if (typeof last === "number") rows.push(["Store", `99 % of commits within ${seconds(last)}`]);
    const waits = stats?.messages_waiting;
    if (waits) rows.push(["Inbox", `${number(waits)} messages wait for the program`]);
    const found = (status.discovery ?? []).slice(-1)[0];
    if (found) rows.push(["Looked last", `${found.source}: ${found.outcome}${typeof found.when === "number" ? `, ${ago(found.when)}` : ""}`]);
    put(facts, rows.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
  }
  return { element, draw };
}

/** The plots and the choice of how far back they go: {choice, element, draw(), close()}. */
function plotsPart({ model, feed }) {
  let history = [], asked = 0, timer = 0;
  const onPoint = (time) => { for (const plot of plots) plot.point(time); };
  const plots = [
    new Plot({ onPoint, title: "Throughput", show: rate, base: 1024, least: 1024, series: [{ name: "received", read: (one) => one.received }, { name: "sent", read: (one) => one.sent }] }),
    new Plot({ onPoint, title: "Messages", show: perSecond, least: 1, series: [{ name: "received", read: (one) => one.messagesIn }, { name: "sent", read: (one) => one.messagesOut }] }),
    new Plot({ onPoint, title: "Round trips", show: seconds, least: 0.001, series: [{ name: "slowest peer", read: (one) => one.rttMost }, { name: "median", read: (one) => one.rttMedian }] }),
    new Plot({ onPoint, title: "Processor", show: percent, least: 0.05, series: [{ name: "of one core", read: (one) => one.cpu }] }),
  ];
  const buttons = RANGES.map(([range, text]) => h("button", { type: "button", on: { click: () => choose(range) } }, text));
  const choice = h("div", { class: "segments", role: "group", "aria-label": "How far back the plots go" }, buttons);
  function draw() {
    const isLive = chosenRange <= LIVE_S, samples = isLive ? model.samples.all() : history;
    for (const plot of plots) plot.update(samples, { end: isLive ? null : model.samples.last?.time ?? null, isNow: feed.live.state !== "down" });
  }
  async function read() {
    clearTimeout(timer);
    if (chosenRange <= LIVE_S) return;
    const mine = (asked += 1);
    // What cannot be read stays as it is: the bar above says that the node is not there.
    const answer = await get("/history", { seconds: chosenRange }).catch(() => null);
    if (mine !== asked) return;
    if (answer) history = answer.samples.map(pastSample);
    draw();
    timer = setTimeout(read, REREAD_MS);
  }
  function choose(range) {
    if (range !== chosenRange) history = [];
    chosenRange = range;
    asked += 1;
    for (const plot of plots) plot.windowS = range;
    RANGES.forEach(([one], at) => buttons[at].setAttribute("aria-pressed", String(one === range)));
    draw();
    read();
  }
  choose(chosenRange);
  const ends = [model.on("reload", read), model.on("connection", draw)];
  const close = () => { asked += 1; clearTimeout(timer); for (const end of ends) end(); for (const plot of plots) plot.close(); };
  return { choice, element: h("div", { class: "grid plots" }, plots.map((plot) => plot.element)), draw, close };
}

export function overviewPage(root, context) {
  const { model } = context;
  const health = healthCard(), figures = tiles(), plots = plotsPart(context), activity = activityCard(model), about = aboutCard();
  root.append(h("div", { class: "page-head" }, h("h1", null, "Overview")), health.element, figures.element,
    h("div", { class: "plots-head" }, h("h2", null, "How it went"), h("span", { class: "space" }), plots.choice), plots.element,
    h("div", { class: "grid halves" }, activity.element, about.element));
  const draws = [
    [["health"], () => health.draw(model)],
    [["stats", "status", "nodes"], () => figures.draw(model)],
    [["stats"], plots.draw],
    [["activity", "nodes"], () => activity.draw()],
    [["status", "stats"], () => about.draw(model)],
  ];
  const ends = draws.flatMap(([subjects, draw]) => { draw(); return subjects.map((subject) => model.on(subject, draw)); });
  return () => { for (const end of ends) end(); plots.close(); };
}
