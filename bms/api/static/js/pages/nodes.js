// The nodes in a table, and one node in detail (`#/nodes/<id>`).

import { post } from "../api.js";
import { h, say, stateBadge } from "../dom.js";
import { ago, number, plural, seconds, short } from "../format.js";
import { spark } from "../plot.js";
import { Table } from "../table.js";
import { nodePage } from "./node.js";

const WORST = { failed: 0, suspect: 1, left: 2, alive: 3 };
const collator = new Intl.Collator("en", { numeric: true });

/** Tags as small labels; they are text of other nodes. */
export function tagList(tags) {
  const pairs = Object.entries(tags ?? {});
  return pairs.length ? pairs.map(([name, value]) => h("span", { class: "tag" }, h("b", null, `${name} `), value)) : h("span", { class: "note" }, "–");
}

export function nodesPage(root, context) {
  return context.rest ? nodePage(root, context) : listPage(root, context);
}

function listPage(root, { model }) {
  const find = h("input", { type: "search", placeholder: "Name, id, address or tag", "aria-label": "Find nodes", on: { input: draw } });
  const state = h("select", { "aria-label": "State", on: { change: draw } }, ["", "alive", "suspect", "failed", "left"].map((one) => h("option", { value: one }, one || "Any state")));
  const lead = h("span", { class: "note", role: "status" });
  const order = new Map();
  const table = new Table({
    caption: "Nodes", empty: "No node fits.", key: (node) => node.node_id, sort: { name: "state", down: false },
    columns: [
      { name: "name", title: "Name", cell: (node) => [h("a", { href: `#/nodes/${node.node_id}` }, node.name || short(node.node_id)), node.node_id === model.ownId ? h("span", { class: "pill accent own" }, "this node") : null], sort: (node) => order.get(node.node_id) },
      { name: "state", title: "State", cell: (node) => stateBadge(node.state), sort: (node) => WORST[node.state] * 1e6 + (order.get(node.node_id) ?? 0) },
      { name: "rtt", title: "Round trip", number: true, cell: (node) => (node.node_id === model.ownId ? "–" : seconds(node.rtt_s)), sort: (node) => (node.node_id === model.ownId ? null : node.rtt_s) },
      { name: "trend", title: "Trend", cell: (node) => trend(model, node) },
      { name: "address", title: "Address", cell: (node) => node.address ?? "–", sort: (node) => node.address },
      { name: "seen", title: "Last heard", number: true, cell: (node) => ago(node.last_seen), sort: (node) => node.last_seen },
      { name: "tags", title: "Tags", free: true, cell: (node) => tagList(node.tags) },
      { name: "id", title: "Id", cell: (node) => h("span", { class: "id" }, short(node.node_id)), sort: (node) => node.node_id },
    ],
  });
  root.append(h("div", { class: "page-head" }, h("h1", null, "Nodes"), lead),
    h("div", { class: "card" }, h("div", { class: "card-head tools" }, find, state), table.element),
    model.allows("nodes:write") ? connectCard() : "");
  function draw() {
    const all = model.nodeList;
    order.clear();
    [...all].sort((a, b) => collator.compare(a.name, b.name) || (a.node_id < b.node_id ? -1 : 1)).forEach((node, at) => order.set(node.node_id, at));
    const words = find.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const text = (node) => `${node.name} ${node.node_id} ${node.address ?? ""} ${Object.entries(node.tags ?? {}).flat().join(" ")}`.toLowerCase();
    const shown = all.filter((node) => (!state.value || node.state === state.value) && words.every((word) => text(node).includes(word)));
    table.show(shown);
    say(lead, shown.length === all.length ? `${plural(all.length, "node")}${model.isAllNodes ? "" : ", and more that are not shown"}` : `${number(shown.length)} of ${plural(all.length, "node")}`);
  }
  const ends = [model.on("nodes", draw), model.on("links", draw), model.on("clock", draw)];
  draw();
  return () => { for (const end of ends) end(); };
}

function trend(model, node) {
  const ring = model.rtt.get(node.node_id);
  if (!ring || ring.length < 2) return h("span", { class: "note" }, "–");
  const recent = ring.all().slice(-40).map((one) => one.rtt);
  return spark(recent, `Round trip lately: ${seconds(Math.min(...recent))} to ${seconds(Math.max(...recent))}`);
}

function connectCard() {
  const field = h("input", { class: "code", placeholder: "host:port", required: true, "aria-label": "Address", spellcheck: "false" });
  const button = h("button", { type: "submit" }, "Connect");
  const said = h("p", { class: "notice", role: "status", hidden: true });
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    said.hidden = false;
    said.className = "notice";
    say(said, `Connecting to ${field.value} …`);
    try {
      const node = await post("/nodes", { address: field.value.trim() }, { deadlineMs: 40_000 });
      said.className = "notice ok";
      say(said, `Connected to ${node.name || short(node.node_id)}.`);
    } catch (error) {
      said.className = "notice bad";
      say(said, error.message);
    }
    button.disabled = false;
  }
  return h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Connect to a node")),
    h("form", { class: "card-body stack", on: { submit } }, h("div", { class: "row" }, field, button), said));
}
