// The map: who is there, who is linked with whom and how fast, who suspects whom. State is a shape, a colour and a word.
// The same facts stand in a table below, which is what a screen reader or a telephone may like better.

import { h, put, s, say, shape, stateBadge } from "../dom.js";
import { age, number, percent, plural, seconds, short } from "../format.js";
import { Table } from "../table.js";
import { Labels, textWidth } from "./labels.js";
import { layout, pick } from "./layout.js";

const NODES_SHOWN = 150;
const LABELS_MAX = 24;
const NAME_MAX = 24;
const RTT_WIDTH = 52; // of any round trip, so that labels stay where they are when a figure changes
const RTT_PLACES = [0.23, 0.77, 0.34, 0.66, 0.42, 0.58]; // not in the middle, where the lines of a full mesh cross
const LINKS_SHOWN = 1500;

const LEGEND = [["alive", "alive"], ["suspect", "suspect"], ["failed", "failed"], ["left", "left"]];

function legend() {
  const line = (look, text) => h("li", null, s("svg", { class: "legend-line", viewBox: "0 0 28 8", "aria-hidden": "true" }, s("path", { class: look, d: "M1 4H27" })), text);
  return h("ul", { class: "legend" }, LEGEND.map(([state, text]) => h("li", null, stateBadge(state, text))),
    line("map-link", "link"), line("map-link slow", "slowest tenth"), line("map-link lossy", "loses probes"), line("map-suspicion", "gets no answer"));
}

/** What stands beside a node: its name, cut where it is long. */
const nameOf = (node) => [...(node.name || short(node.node_id))].slice(0, NAME_MAX).join("");

class Picture {
  constructor(model) {
    this.model = model;
    this.raw = new Map();
    this.shapeOf = "";
    this.placed = new Map();
    this.wires = s("g"), this.doubts = s("g"), this.dots = s("g");
    const tip = s("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, s("path", { class: "map-tip", d: "M0 0L8 4L0 8z" }));
    this.svg = s("svg", { class: "map", role: "group", "aria-label": "Map of the mesh: each node is a link to its page" }, s("defs", null, tip), this.wires, this.doubts, this.dots);
    this.note = h("p", { class: "note" });
    this.element = h("div", { class: "map-box" }, this.svg);
    this.groups = new Map();
    this._observer = new ResizeObserver(() => this.draw());
    this._observer.observe(this.element);
  }

  close() { this._observer.disconnect(); }

  draw() {
    const { model } = this, width = this.element.clientWidth, height = this.element.clientHeight;
    if (!width) return;
    const suspects = new Set(model.suspicions.map((one) => one.node_id));
    const nodes = pick(model.nodeList, model.ownId, suspects, NODES_SHOWN);
    const shown = new Set(nodes.map((node) => node.node_id));
    const links = model.links.filter((link) => shown.has(link.from) && shown.has(link.to)).slice(0, LINKS_SHOWN);
    this._place(shown, links, width, height);
    const r = nodes.length > 40 ? 6 : 10, labels = new Labels(width, height);
    const names = this._nameLabels(nodes, suspects, labels, r);
    say(this.note, nodes.length < model.nodes.size ? `Shown are ${number(nodes.length)} of ${number(model.nodes.size)} nodes: those that are not well, then the nearest. The table has them all.` : "");
    this._drawLinks(links, nodes.length, labels);
    this._drawNodes(nodes, links, names, r);
  }

  /** Where each node's name stands, as {dx, dy, anchor, word} from its middle: below, beside or above it, wherever it lies on
   * nothing else. One that fits nowhere has no label, unless it is this node or not well; its name shows when pointed at. */
  _nameLabels(nodes, suspects, labels, r) {
    for (const node of nodes) labels.block(...this.placed.get(node.node_id), 2 * r + 4, 2 * r + 4);
    const found = new Map();
    const isWell = (node) => node.state === "alive" && !suspects.has(node.node_id) && node.node_id !== this.model.ownId;
    for (const node of [...nodes].sort((a, b) => isWell(a) - isWell(b))) {
      const [x, y] = this.placed.get(node.node_id);
      const word = node.state !== "alive" ? node.state : node.node_id === this.model.ownId ? "this node" : "";
      const width = Math.max(textWidth(nameOf(node), 13), textWidth(word, 11.5)) + 6, height = word ? 31 : 17;
      // The middle of a label that begins `top` below the node's middle, at its right (1), at its left (-1), or centred (0).
      const at = (way, top) => [x + way * (r + 5 + width / 2), y + top + height / 2, { dx: way * (r + 7), dy: top + 13, anchor: ["end", "middle", "start"][way + 1] }];
      const middle = -height / 2, places = [at(0, r + 4), at(0, -r - 4 - height), at(1, middle), at(-1, middle)];
      for (const way of [1, -1]) places.push(at(way, 0), at(way, -height));
      const place = labels.place(places, width, height, !isWell(node));
      if (place) found.set(node.node_id, { ...place[2], word });
    }
    return found;
  }

  /** Lay out again only when nodes or links came or went, or the box changed: figures alone do not move anything. */
  _place(shown, links, width, height) {
    const wanted = `${width} ${height} ${[...shown].sort().join()} ${links.map((link) => `${link.from}${link.to}`).sort().join()}`;
    if (wanted === this.shapeOf) return;
    this.shapeOf = wanted;
    const found = layout(shown, links, width, height, this.raw);
    this.raw = found.raw;
    this.placed = found.placed;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }

  _drawLinks(links, count, free) {
    const at = (id) => this.placed.get(id);
    const trips = links.map((link) => link.rtt_s).filter((rtt) => typeof rtt === "number").sort((a, b) => a - b);
    const slow = trips[Math.floor(trips.length * 0.9)] ?? Infinity;
    const lines = links.map((link) => {
      const [ax, ay] = at(link.from), [bx, by] = at(link.to);
      const isBad = (link.loss ?? 0) > 0.1, isSlow = count > 3 && link.rtt_s > slow * 1.0001;
      return s("path", { class: `map-link${isBad ? " lossy" : isSlow ? " slow" : ""}`, d: `M${ax} ${ay}L${bx} ${by}` });
    });
    const labels = links.length > LABELS_MAX ? [] : links.filter((link) => typeof link.rtt_s === "number").map((link) => {
      const [ax, ay] = at(link.from), [bx, by] = at(link.to);
      const place = free.place(RTT_PLACES.map((share) => [ax + (bx - ax) * share, ay + (by - ay) * share]), RTT_WIDTH, 15);
      return place && s("text", { class: "map-rtt", x: place[0], y: place[1] + 4 }, seconds(link.rtt_s));
    }).filter(Boolean);
    put(this.wires, ...lines, ...labels);
    const doubts = this.model.suspicions.filter((one) => at(one.node_id) && at(one.by)).map((one) => {
      const [ax, ay] = at(one.by), [bx, by] = at(one.node_id);
      const far = Math.hypot(bx - ax, by - ay) || 1, [ux, uy] = [(bx - ax) / far, (by - ay) / far];
      return s("path", { class: "map-suspicion", "marker-end": "url(#tip)", d: `M${ax + ux * 16 - uy * 5} ${ay + uy * 16 + ux * 5}L${bx - ux * 18 - uy * 5} ${by - uy * 18 + ux * 5}` });
    });
    put(this.doubts, ...doubts);
  }

  _drawNodes(nodes, links, names, r) {
    const groups = new Map();
    const degree = new Map();
    for (const link of links) for (const id of [link.from, link.to]) degree.set(id, (degree.get(id) ?? 0) + 1);
    for (const node of nodes) {
      const id = node.node_id, isOwn = id === this.model.ownId, doubted = this.model.suspectedBy(id);
      const group = this.groups.get(id) ?? s("a", { class: "map-node", href: `#/nodes/${id}` });
      const name = names.get(id), look = `${node.state} ${node.name} ${isOwn} ${r} ${doubted.length} ${degree.get(id)} ${JSON.stringify(name)}`;
      const [x, y] = this.placed.get(id);
      group.setAttribute("transform", `translate(${x} ${y})`);
      if (group.dataset.look !== look) {
        group.dataset.look = look;
        group.setAttribute("class", `map-node is-${node.state}`);
        group.setAttribute("aria-label", `${node.name || short(id)}${isOwn ? ", this node" : ""}: ${node.state}, ${plural(degree.get(id) ?? 0, "link")}${doubted.length ? `, suspected by ${doubted.map((by) => this.model.nameOf(by)).join(", ")}` : ""}`);
        const mark = shape(node.state, r);
        const label = name ? [
          s("text", { class: "map-name", x: name.dx, y: name.dy, "text-anchor": name.anchor }, nameOf(node)),
          name.word ? s("text", { class: "map-word", x: name.dx, y: name.dy + 14, "text-anchor": name.anchor }, name.word) : null] : [];
        put(group, s("title", null, node.name || short(id)), s("circle", { class: "map-hit", r: r + 8 }), isOwn ? s("circle", { class: "map-own", r: r + 4 }) : null, mark, ...label);
      }
      groups.set(id, group);
    }
    for (const [id, group] of this.groups) if (!groups.has(id)) group.remove();
    for (const group of groups.values()) if (!group.isConnected) this.dots.append(group);
    this.groups = groups;
  }
}

export function mapPage(root, { model, feed }) {
  const picture = new Picture(model);
  const lead = h("span", { class: "note" });
  const nodeLink = (id) => h("a", { href: `#/nodes/${id}` }, model.nameOf(id));
  const table = new Table({
    caption: "Links", empty: "No link is known.", sort: { name: "rtt", down: true },
    key: (link) => `${link.from} ${link.to}`,
    columns: [
      { name: "from", title: "From", cell: (link) => nodeLink(link.from), sort: (link) => model.nameOf(link.from) },
      { name: "to", title: "To", cell: (link) => nodeLink(link.to), sort: (link) => model.nameOf(link.to) },
      { name: "rtt", title: "Round trip", number: true, cell: (link) => seconds(link.rtt_s), sort: (link) => link.rtt_s },
      { name: "loss", title: "Probes lost", number: true, cell: (link) => percent(link.loss), sort: (link) => link.loss },
      { name: "age", title: "Up for", number: true, cell: (link) => age(link.age_s), sort: (link) => link.age_s },
    ],
  });
  const doubts = h("ul", { class: "doubts" });
  const doubtCard = h("section", { class: "card", hidden: true }, h("div", { class: "card-head" }, h("h2", null, "Who gets no answer from whom")), h("div", { class: "card-body" }, doubts));
  root.append(h("div", { class: "page-head" }, h("h1", null, "Map"), lead),
    h("div", { class: "card" }, picture.element, h("div", { class: "table-foot" }, legend(), h("span", { class: "space" }), picture.note)),
    doubtCard,
    h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Links"), h("span", { class: "note" }, "as their own ends see them")), table.element));
  function draw() {
    const states = model.countStates();
    const others = Object.entries(states).filter(([state, n]) => n && state !== "alive").map(([state, n]) => `${number(n)} ${state}`);
    say(lead, model.nodes.size ? [`${number(states.alive)} alive`, ...others, plural(model.links.length, "link")].join(", ") : "");
    picture.draw();
    table.show(model.links);
    doubtCard.hidden = model.suspicions.length === 0;
    put(doubts, model.suspicions.slice(0, 100).map((one) => h("li", null, nodeLink(one.by), " gets no answer from ", nodeLink(one.node_id))));
  }
  const ends = [model.on("nodes", draw), model.on("links", draw)];
  feed.wantMesh(true);
  draw();
  return () => { feed.wantMesh(false); picture.close(); for (const end of ends) end(); };
}
