// One node: what it is, how it is linked, how its round trip went, what happened to it.

import { get, patch, remove } from "../api.js";
import { h, icon, put, say, stateBadge } from "../dom.js";
import { ask } from "../dialog.js";
import { age, ago, bytes, clock, moment, percent, plural, seconds, short } from "../format.js";
import { Plot } from "../plot.js";
import { Table } from "../table.js";
import { tagList } from "./nodes.js";

export function nodePage(root, { model, feed, rest: id }) {
  const title = h("h1", null, model.nameOf(id)), state = h("span"), said = h("p", { class: "notice", role: "status", hidden: true });
  const actions = h("div", { class: "row" });
  const facts = h("dl", { class: "facts" });
  const plot = new Plot({ title: "Round trip", show: seconds, least: 0.001, windowS: 300, gapS: 60, series: [{ name: "to this node", read: (one) => one.rtt }] });
  const events = h("ul", { class: "activity" });
  const other = (link) => (link.from === id ? link.to : link.from);
  const links = new Table({
    caption: "Links of this node", empty: "No link of this node is known here.", key: other, sort: { name: "rtt", down: false },
    columns: [
      { name: "peer", title: "With", cell: (link) => h("a", { href: `#/nodes/${other(link)}` }, model.nameOf(other(link))), sort: (link) => model.nameOf(other(link)) },
      { name: "rtt", title: "Round trip", number: true, cell: (link) => seconds(link.rtt_s), sort: (link) => link.rtt_s },
      { name: "loss", title: "Probes lost", number: true, cell: (link) => percent(link.loss), sort: (link) => link.loss },
      { name: "age", title: "Up for", number: true, cell: (link) => age(link.age_s), sort: (link) => link.age_s },
      { name: "by", title: "As seen by", cell: (link) => model.nameOf(link.from) },
    ],
  });
  const isOwn = id === model.ownId;
  root.append(
    h("div", { class: "page-head" }, h("a", { class: "button quiet", href: "#/nodes", "aria-label": "Back to all nodes" }, icon("back")), title, state, h("span", { class: "space" }), actions), said,
    h("div", { class: "grid halves" },
      h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Facts")), h("div", { class: "card-body" }, facts)),
      h("div", { class: "stack" }, isOwn ? tagsCard(model, feed) : plot.element,
        h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "What happened to it")), h("div", { class: "scroll-y short" , tabindex: "0", role: "region", "aria-label": "What happened to it, newest first" }, events)))),
    h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Links")), links.element));

  async function forget(node) {
    const is = await ask({ title: `Have all nodes forget ${node.name}?`, action: "Forget", danger: true, body: h("p", null, "It is taken out of every node's list. One that is there after all comes back by itself.") });
    if (!is) return;
    try {
      await remove(`/nodes/${id}`);
      location.hash = "#/nodes";
    } catch (error) {
      said.hidden = false;
      said.className = "notice bad";
      say(said, error.message);
    }
  }

  let shownActions = "";
  function drawActions(node) {
    const wanted = `${node?.state}`;
    if (wanted === shownActions) return;
    shownActions = wanted;
    const isGone = node && ["failed", "left"].includes(node.state);
    put(actions,
      node && !isOwn && model.allows("messages:write") ? h("a", { class: "button", href: `#/messages/${id}` }, "Send a message") : null,
      isGone && model.allows("nodes:write") ? h("button", { type: "button", class: "danger", on: { click: () => forget(node) } }, "Forget it") : null);
  }

  function draw() {
    const node = model.nodes.get(id);
    drawActions(node);
    if (!node) {
      put(state, h("span", { class: "note" }, model.nodes.size ? "is not known here (any more)" : ""));
      put(facts, h("dt", null, "Id"), h("dd", null, h("span", { class: "id" }, id)));
      return;
    }
    say(title, node.name || short(id));
    put(state, stateBadge(node.state), isOwn ? h("span", { class: "pill accent own" }, "this node") : null);
    const doubted = model.suspectedBy(id), peer = model.stats?.peers?.find((one) => one.node_id === id);
    const rows = [
      ["Id", h("span", { class: "id" }, id)], ["Address", node.address ?? "–"],
      ["Last heard", isOwn ? "–" : node.last_seen ? `${ago(node.last_seen)} (${moment(node.last_seen)})` : "not yet"],
      ["Round trip", isOwn ? "–" : seconds(node.rtt_s)], ["Incarnation", String(node.incarnation)], ["Tags", tagList(node.tags)],
    ];
    if (doubted.length) rows.push(["Suspected by", doubted.map((by, at) => [at ? ", " : "", h("a", { href: `#/nodes/${by}` }, model.nameOf(by))])]);
    if (peer) {
      rows.push(["Traffic", `${bytes(peer.bytes_received)} received, ${bytes(peer.bytes_sent)} sent`], ["Waiting", `${plural(peer.queued_messages, "message")}, ${bytes(peer.queued_bytes)}`]);
      if (typeof peer.clock_offset_s === "number") rows.push(["Its clock", `${seconds(Math.abs(peer.clock_offset_s))} ${peer.clock_offset_s < 0 ? "behind" : "ahead"}`]);
    }
    put(facts, rows.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
    links.show(model.linksOf(id));
    plot.update(model.rtt.get(id)?.all() ?? [], { isNow: feed.live.state !== "down" });
    const mine = model.activity.all().filter((one) => one.href === `#/nodes/${id}`).slice(-20).reverse();
    put(events, mine.length ? mine.map((one) => h("li", null, h("time", { class: "note" }, clock(one.time)), stateBadge(one.state, one.text))) : h("li", { class: "note" }, "Nothing since the events that are kept began."));
  }
  const ends = ["nodes", "links", "activity", "connection", "clock"].map((subject) => model.on(subject, draw));
  feed.wantMesh(true);
  draw();
  if (!model.nodes.has(id)) get(`/nodes/${encodeURIComponent(id)}`).then((node) => { if (!model.nodes.has(id)) model.takeNode(node); }, () => {});
  return () => { feed.wantMesh(false); plot.close(); for (const end of ends) end(); };
}

/** This node's own tags, to be changed. */
function tagsCard(model, feed) {
  const name = h("input", { required: true, "aria-label": "Tag", placeholder: "Tag", maxlength: 200 }), value = h("input", { "aria-label": "Value", placeholder: "Value", maxlength: 1000 });
  const list = h("ul", { class: "tags-edit" }), said = h("p", { class: "notice bad", role: "alert", hidden: true });
  async function change(tags) {
    said.hidden = true;
    try {
      model.takeNode(await patch(`/nodes/${model.ownId}`, { tags }));
      feed.soon("nodes", 200);
      draw();
      return true;
    } catch (error) {
      said.hidden = false;
      say(said, error.message);
      return false;
    }
  }
  async function submit(event) {
    event.preventDefault();
    if (await change({ [name.value]: value.value })) { name.value = value.value = ""; name.focus(); }
  }
  const mayWrite = model.allows("nodes:write");
  function draw() {
    const tags = Object.entries(model.nodes.get(model.ownId)?.tags ?? {});
    put(list, tags.map(([tag, text]) => h("li", null, h("span", { class: "tag" }, h("b", null, `${tag} `), text),
      mayWrite ? h("button", { type: "button", class: "quiet", "aria-label": `Remove the tag ${tag}`, on: { click: () => change({ [tag]: null }) } }, "Remove") : null)),
    tags.length ? null : h("li", { class: "note" }, "This node has no tags."));
  }
  draw();
  return h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Tags of this node"), h("span", { class: "note" }, "all nodes see them")),
    h("div", { class: "card-body stack" }, list, mayWrite ? h("form", { class: "row", on: { submit } }, name, value, h("button", { type: "submit" }, "Set")) : h("p", { class: "note" }, "Changing them needs ", h("code", null, "nodes:write"), "."), said));
}
