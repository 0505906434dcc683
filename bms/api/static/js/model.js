// What the page knows of the mesh: filled by the events and by polling, read by the pages. All of it is bounded.
//
// Pages are told of changes by subject ("nodes", "links", "health", "stats", "log", "message", "data", "activity",
// "connection", "reload", and "clock" each second while the node is not there), at most once a frame, and draw what they need again.

import { Ring } from "./ring.js";
import { merged } from "./samples.js";

export const NODES_MAX = 10_000;

/** Whether the scope `has` ("data:read", "data:*", "*:read", "*") lets `scope` through. */
export function scopeCovers(has, scope) {
  const [subject, action] = scope.split(":");
  return has === "*" || [scope, `${subject}:*`, `*:${action}`].includes(has);
}

export class Model {
  constructor() {
    this.me = null; // whoami: token_id, name, scopes, node_id, …
    this.status = null;
    this.health = null;
    this.stats = null;
    this.nodes = new Map();
    this.isAllNodes = true;
    this.links = [];
    this.suspicions = [];
    this.readAt = null; // when something was heard of the node last, Unix seconds
    this.samples = new Ring(600);
    this.activity = new Ring(200);
    this.messages = new Ring(500);
    this.changes = new Ring(500);
    this.changeCount = 0; // of all data events, those that have left the ring too
    this.rtt = new Map(); // node id -> Ring of [time, seconds]
    this.syncs = new Map(); // node id -> {...PeerSync, at, state} of the last reconciliation with it
    this.isSyncsKnown = false; // whether the node was asked for them
    this.missed = 0;
    this._listeners = new Map();
    this._dirty = new Set();
    this._frame = 0;
  }

  /** Call `listener` after `subject` changed; returns what ends it. */
  on(subject, listener) {
    if (!this._listeners.has(subject)) this._listeners.set(subject, new Set());
    this._listeners.get(subject).add(listener);
    return () => this._listeners.get(subject).delete(listener);
  }

  /** Say that subjects changed. */
  changed(...subjects) {
    for (const subject of subjects) this._dirty.add(subject);
    if (this._frame) return;
    const tell = () => {
      this._frame = 0;
      const dirty = [...this._dirty];
      this._dirty.clear();
      const listeners = new Set(dirty.flatMap((subject) => [...(this._listeners.get(subject) ?? [])]));
      for (const listener of listeners) listener();
    };
    // Frames stop in a hidden page; it goes on, slowly, so that it is right when it is looked at.
    this._frame = document.hidden ? setTimeout(tell, 1000) : requestAnimationFrame(tell);
  }

  allows(scope) {
    if (!scope) return true;
    return (this.me?.scopes ?? []).some((has) => scopeCovers(has, scope));
  }

  get ownId() { return this.me?.node_id ?? this.status?.node_id ?? null; }

  /** A node's name as people know it, with its id where there is none. */
  nameOf(id) {
    const name = this.nodes.get(id)?.name;
    return name || (id ? id.slice(0, 8) : "–");
  }

  /** The nodes in a list, worst first, then by name. */
  get nodeList() { return [...this.nodes.values()]; }

  countStates() {
    const states = { alive: 0, suspect: 0, failed: 0, left: 0 };
    for (const node of this.nodes.values()) states[node.state] = (states[node.state] ?? 0) + 1;
    return states;
  }

  takeNodes(list, isAll = true) {
    this.nodes = new Map(list.map((node) => [node.node_id, node]));
    this.isAllNodes = isAll;
    for (const id of this.rtt.keys()) if (!this.nodes.has(id)) this.rtt.delete(id);
    this.changed("nodes");
  }

  takeNode(node) {
    this.nodes.set(node.node_id, node);
    this.changed("nodes");
  }

  /** Links as {from, to, rtt_s, loss, age_s}: a link that both ends report is kept once, as its own node sees it. */
  takeTopology(topology, now = Date.now() / 1000) {
    const links = new Map();
    for (const link of topology.links) {
      const from = link.by ?? this.ownId, to = link.node_id;
      if (!from || !to || from === to) continue;
      const name = from < to ? `${from} ${to}` : `${to} ${from}`;
      const known = links.get(name);
      if (!known || (known.rtt_s === null && link.rtt_s !== null) || from === this.ownId) links.set(name, { ...link, from, to });
      if (from === this.ownId && typeof link.rtt_s === "number" && this.rtt.size < 512) this._noteRtt(to, now, link.rtt_s);
    }
    this.links = [...links.values()];
    this.suspicions = topology.suspicions ?? [];
    this.changed("links");
  }

  /** Samples of the node's own history, into the gaps between those that were seen live. */
  takePast(samples) {
    this.samples.set(merged(samples, this.samples.all()));
    this.changed("stats");
  }

  _noteRtt(id, time, seconds) {
    if (!this.rtt.has(id)) this.rtt.set(id, new Ring(180));
    this.rtt.get(id).push({ time, rtt: seconds });
  }

  linksOf(id) {
    return this.links.filter((link) => link.from === id || link.to === id);
  }

  suspectedBy(id) {
    return this.suspicions.filter((one) => one.node_id === id).map((one) => one.by);
  }

  /** A message; one that had to wait is told again once somebody takes it, and then replaces itself. */
  takeMessage(event) {
    const earlier = this.messages.items.find((one) => one.id === event.id);
    if (earlier) Object.assign(earlier, { held: undefined }, event);
    else this.messages.push(event);
    this.changed("message");
  }

  takeChange(event) {
    this.changes.push(event);
    this.changeCount += 1;
    this.changed("data");
  }

  /** Something worth a line in the list of what happened. `text` may be a function: what happened earlier is told before
   * the names of nodes are known. */
  note(time, kind, text, state = "", href = null) {
    this.activity.push({ time, kind, get text() { return typeof text === "function" ? text() : text; }, state, href });
    this.changed("activity");
  }
}
