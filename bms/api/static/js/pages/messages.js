// Messages that pass to this node's program, by topic, and a composer. Looking takes no message from the program; naming
// topics to take does: this node then counts as their subscriber, as long as this page is open.

import { post } from "../api.js";
import { h, mark, put, say } from "../dom.js";
import { clock, fromBase64, bytes, hex, number, plural } from "../format.js";
import { Live } from "../live.js";

const SHOWN = 200;
const BODY_SHOWN = 2000;

const topicName = (topic) => topic || "(no topic)";

export function messagesPage(root, { model, rest }) {
  let chosen = null, isPaused = false, frozen = [], taking = null;
  const topics = h("ul", { class: "topics" });
  const list = h("ul", { class: "messages" });
  const empty = h("p", { class: "empty" }, h("strong", null, "No message yet"), "What passes to this node's program is shown here as it comes.");
  const pause = h("button", { type: "button", "aria-pressed": "false", on: { click: () => { isPaused = !isPaused; frozen = model.messages.all().slice(); pause.setAttribute("aria-pressed", String(isPaused)); say(pause, isPaused ? "Go on" : "Pause"); draw(); } } }, "Pause");
  const lead = h("span", { class: "note" });
  const rows = new Map();

  function draw() {
    const all = isPaused ? frozen : model.messages.all();
    const counts = new Map();
    for (const one of all) counts.set(one.topic, (counts.get(one.topic) ?? 0) + 1);
    const shown = all.filter((one) => chosen === null || one.topic === chosen).slice(-SHOWN).reverse();
    const held = isPaused ? model.messages.length - frozen.length : 0;
    say(lead, `${plural(shown.length, "message")}${held > 0 ? `, ${number(held)} more since it was paused` : ""}`);
    drawTopics(all.length, counts);
    empty.hidden = shown.length > 0;
    const wanted = shown.map((one) => (rows.has(one) && rows.get(one).held === one.held ? rows.get(one).element : messageRow(one)));
    const keep = new Set(shown);
    for (const one of rows.keys()) if (!keep.has(one)) rows.delete(one);
    shown.forEach((one, at) => rows.set(one, { held: one.held, element: wanted[at] }));
    if (wanted.length !== list.children.length || wanted.some((element, at) => element !== list.children[at])) put(list, wanted);
  }

  let topicsDrawn = "";
  function drawTopics(total, counts) {
    const look = JSON.stringify([chosen, total, [...counts]]);
    if (look === topicsDrawn) return;
    topicsDrawn = look;
    const focused = topics.contains(document.activeElement) ? document.activeElement.dataset.topic : null;
    const one = (topic, text, n) => h("li", null, h("button", { type: "button", "data-topic": text, "aria-pressed": String(chosen === topic), on: { click: () => { chosen = topic; draw(); } } }, h("span", { class: "clip" }, text), h("span", { class: "count" }, number(n))));
    put(topics, one(null, "All topics", total), [...counts].sort(([a], [b]) => (a < b ? -1 : 1)).slice(0, 100).map(([topic, n]) => one(topic, topicName(topic), n)));
    if (focused !== null) [...topics.querySelectorAll("button")].find((button) => button.dataset.topic === focused)?.focus();
  }

  function messageRow(one) {
    const raw = one.body === undefined ? fromBase64(one.body_base64 ?? "") ?? new Uint8Array() : null;
    const text = raw ? hex(raw, 512) : one.body.slice(0, BODY_SHOWN);
    const isCut = one.truncated || (raw ? raw.length > 512 : one.body.length > BODY_SHOWN);
    return h("li", { class: "message" },
      h("div", { class: "message-head" }, h("time", { class: "note" }, clock(one.time)), h("a", { href: `#/nodes/${one.sender}` }, model.nameOf(one.sender)),
        h("span", { class: "pill" }, topicName(one.topic)), one.held ? h("span", { class: "pill warn", title: "Nobody has subscribed to its topic yet" }, "waits") : null,
        h("span", { class: "space" }), h("span", { class: "note" }, bytes(one.size))),
      h("pre", null, text || " "), isCut ? h("p", { class: "note" }, "Cut here.") : null);
  }

  function take(wanted) {
    taking?.close();
    taking = wanted.length ? new Live({ types: ["message"], topics: wanted, onEvent: () => {} }) : null;
    taking?.open();
  }
  const send = model.allows("messages:write") ? composer(model, rest) : null;
  root.append(h("div", { class: "page-head" }, h("h1", null, "Messages"), lead, h("span", { class: "space" }), pause),
    h("div", { class: "grid messages-split" },
      h("div", { class: "stack" }, send ? send.element : h("p", { class: "notice" }, "Sending needs ", h("code", null, "messages:write"), "."),
        h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Topics")), h("div", { class: "card-body flush" }, topics), model.allows("messages:take") ? takeForm(take) : h("p", { class: "table-foot note" }, "Taking what waits needs ", h("code", null, "messages:take"), "."))),
      h("div", { class: "card" }, h("div", { class: "scroll-y log-box", tabindex: "0", role: "region", "aria-label": "Messages, newest first" }, empty, list))));
  const ends = [model.on("message", draw), model.on("nodes", () => { send?.offer(); })];
  draw();
  return () => { take([]); for (const end of ends) end(); };
}

/** Topics that this node shall subscribe to for this page. */
function takeForm(take) {
  const field = h("input", { class: "wide", placeholder: "a, b", spellcheck: "false" });
  const said = h("p", { class: "note", role: "status" }, "Messages to a topic that nobody subscribes to wait for a subscriber. Here this page can be one.");
  function submit(event) {
    event.preventDefault();
    const wanted = [...new Set(field.value.split(",").map((one) => one.trim()).filter(Boolean))];
    take(wanted);
    say(said, wanted.length ? `This node takes messages on ${wanted.join(", ")} while this page is open.` : "Nothing is taken.");
  }
  return h("form", { class: "table-foot stack", on: { submit } }, h("div", { class: "row nowrap end" }, h("label", { class: "field grow" }, h("span", null, "Take messages on topics"), field), h("button", { type: "submit" }, "Take")), said);
}

function composer(model, to) {
  const EVERYBODY = "";
  const who = h("select", { class: "wide" });
  const topic = h("input", { class: "wide", maxlength: 255, spellcheck: "false", placeholder: "may be empty" });
  const body = h("textarea", { rows: 3, required: true });
  const said = h("p", { class: "notice", role: "status", hidden: true });
  const button = h("button", { type: "submit", class: "primary" }, "Send");
  let offered = "";
  function offer() {
    const nodes = model.nodeList.filter((node) => node.state !== "left" && node.state !== "failed").slice(0, 1000);
    const look = nodes.map((node) => node.node_id + node.name).join();
    if (look === offered) return;
    offered = look;
    const value = who.value || to;
    put(who, h("option", { value: EVERYBODY }, "All linked nodes"), nodes.map((node) => h("option", { value: node.node_id }, `${model.nameOf(node.node_id)}${node.node_id === model.ownId ? " (this node)" : ""}`)));
    who.value = value;
    if (who.selectedIndex < 0) who.value = EVERYBODY;
  }
  offer();
  who.addEventListener("focus", offer);
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    const name = who.value === EVERYBODY ? null : model.nameOf(who.value);
    try {
      const message = { topic: topic.value, body: body.value };
      const answer = name === null ? await post("/broadcast", message) : await post("/messages", { ...message, to: who.value });
      tell(true, name === null ? `On its way to ${plural(answer.queued_for, "other node")}; nobody acknowledges a broadcast.` : `${name} has it.`);
      body.value = "";
    } catch (error) {
      tell(false, error.status === 504 ? `${error.message} It may have arrived all the same.` : error.message);
    }
    button.disabled = false;
    body.focus();
  }
  function tell(isGood, text) {
    said.hidden = false;
    mark(said, "ok", isGood);
    mark(said, "bad", !isGood);
    say(said, text);
  }
  const element = h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Send")),
    h("form", { class: "card-body stack", on: { submit } }, h("label", { class: "field" }, h("span", null, "To"), who), h("label", { class: "field" }, h("span", null, "Topic"), topic),
      h("label", { class: "field" }, h("span", null, "Body"), body), h("div", { class: "row" }, button), said));
  return { element, offer: () => { if (document.activeElement !== who) offer(); } };
}
