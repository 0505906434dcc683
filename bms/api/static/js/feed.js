// What flows into the model: the events as they come, lists that are read again when an event says so, and polling for what
// no event tells (links and round trips). One request of a kind at a time; polling rests while the page is hidden and slows
// down with the node's answers, so that a large mesh or a busy node is not pressed.

import { ApiError, get, pages } from "./api.js";
import { announce } from "./dom.js";
import { plural, setClock } from "./format.js";
import { Live } from "./live.js";
import { NODES_MAX } from "./model.js";
import { pastSample, sample } from "./samples.js";

const TYPES = { node: "nodes:read", data: "data:read", message: "messages:read", health: "status:read", log: "logs:read", stats: "status:read" };
const WORDS = { joined: "joined", suspected: "is suspected", failed: "failed", left: "left", updated: "changed its details", forgotten: "was forgotten" };
const STATES = { joined: "alive", suspected: "suspect", failed: "failed", left: "left", updated: "alive", forgotten: "left" };
const PAST_S = 600;
const RATE_S = 5;
const POLL_MS = { topology: 4_000, status: 15_000, health: 15_000, nodes: 20_000 };
// A cursor of no node: what the node still has of earlier events comes first, so that a page that was just opened is not empty.
const EVERYTHING_KEPT = "none-0";
const CATCH_UP_MS = 2_500; // events that come so soon after "hello" are history: they are listed, and not announced

export class Feed {
  constructor(model, { onRefused }) {
    this.model = model;
    this.isMesh = false; // whether links of other nodes are wanted too
    this.live = new Live({
      onEvent: (event) => this._take(event),
      onState: () => model.changed("connection"),
      onRefused,
      types: Object.keys(TYPES).filter((type) => model.allows(TYPES[type])),
      cursor: EVERYTHING_KEPT,
    });
    this._earlier = []; // "stats" events of the last seconds
    this._helloAt = -Infinity;
    this._hasHistory = false;
    this._timers = new Map();
    this._busy = new Set();
    this._wake = () => { if (!document.hidden && this.live.state === "live") this.soon("topology", 0); };
    document.addEventListener("visibilitychange", this._wake);
  }

  start() {
    if (this.live.types.length) this.live.open();
  }

  get isCatchingUp() { return performance.now() - this._helloAt < CATCH_UP_MS; }

  close() {
    this.live.close();
    document.removeEventListener("visibilitychange", this._wake);
    for (const { timer } of this._timers.values()) clearTimeout(timer);
  }

  /** Let other nodes be asked for their links, or stop that. */
  wantMesh(on) {
    this.isMesh = on;
    this.soon("topology", 0);
  }

  _take(event) {
    const { model } = this;
    model.readAt = Date.now() / 1000;
    switch (event.type) {
      case "hello": return this._hello();
      case "stats": return this._stats(event);
      case "node": return this._node(event);
      case "health": return this._health(event);
      case "message": return model.takeMessage(event);
      case "data": return model.takeChange(event);
      case "log": return model.changed("log");
      case "missed": return this._missed(event);
      default: return undefined; // of a newer node
    }
  }

  _hello() {
    this._helloAt = performance.now();
    this._earlier = [];
    this._readAll();
  }

  _readAll() {
    this.model.changed("reload");
    this.soon("past", 0);
    this.soon("status", 0);
    this.soon("health", 0);
    this.soon("nodes", 0);
    this.soon("topology", 0);
  }

  _missed(event) {
    const isFirst = !this._hasHistory;
    this._hasHistory = true;
    if (isFirst && event.count === null) return;
    this.model.missed += event.count ?? 0;
    const text = event.count === null ? "The node, or a part of it, was started again: what happened before that is not known here" : `${plural(event.count, "event")} missed: all lists are read again`;
    this.model.note(Date.now() / 1000, "missed", text, "degraded");
    this._readAll();
  }

  _stats(event) {
    const { model } = this;
    setClock(event.time);
    // Over as many seconds as the node's own history: single seconds would look busier than what stands beside them.
    this._earlier = this._earlier.filter((one) => one.time > event.time - RATE_S - 0.5);
    model.samples.push(sample(event, this._earlier[0] ?? null));
    this._earlier.push(event);
    model.stats = event;
    model.changed("stats");
  }

  _health(event) {
    const { model } = this;
    const reasons = (event.reasons ?? []).join("; ");
    model.note(event.time, "health", `Health is ${event.status}${reasons ? `: ${reasons}` : ""}`, event.status, "#/");
    if (!this.isCatchingUp) announce(`Health is ${event.status}`);
    this.soon("health", 0);
  }

  _node(event) {
    const { model } = this;
    const name = event.name || model.nameOf(event.node_id);
    const by = () => (event.by && event.what === "suspected" ? ` by ${model.nameOf(event.by)}` : "");
    model.note(event.time, "node", () => `${name} ${WORDS[event.what] ?? event.what}${by()}`, STATES[event.what], `#/nodes/${event.node_id}`);
    if (this.isCatchingUp) return;
    if (event.what === "failed") announce(`Node ${name} failed`);
    const known = model.nodes.get(event.node_id);
    if (event.what === "forgotten") model.nodes.delete(event.node_id);
    else if (known) known.state = STATES[event.what] ?? known.state;
    model.changed("nodes");
    this.soon("nodes", 400);
    this.soon("topology", 600);
  }

  /** Read something again in `ms`, or sooner if that was asked for already: many events are one reading. */
  soon(what, ms) {
    const due = performance.now() + ms, earlier = this._timers.get(what);
    if (earlier && earlier.due <= due) return;
    clearTimeout(earlier?.timer);
    this._timers.set(what, { due, timer: setTimeout(() => this._read(what), ms) });
  }

  async _read(what) {
    this._timers.delete(what);
    if (this.live.state === "ended") return;
    if (this._busy.has(what)) return void this.soon(what, 500);
    this._busy.add(what);
    const begun = performance.now();
    try {
      await this[`_${what}Now`]();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // the stream says whether the node is there
    } finally {
      this._busy.delete(what);
    }
    const pause = (POLL_MS[what] ?? Infinity) * (document.hidden ? 10 : 1);
    if (this.live.state === "live" && pause < Infinity) this.soon(what, Math.max(pause, 20 * (performance.now() - begun)));
  }

  async _statusNow() {
    if (!this.model.allows("status:read")) return;
    this.model.status = await get("/status");
    this.model.changed("status");
  }

  /** Once for each connection: what went on before it. */
  async _pastNow() {
    if (!this.model.allows("status:read")) return;
    const { samples } = await get("/history", { seconds: PAST_S });
    this.model.takePast(samples.map(pastSample));
  }

  async _healthNow() {
    if (!this.model.allows("status:read")) return;
    this.model.health = await get("/health");
    this.model.changed("health");
  }

  async _nodesNow() {
    if (!this.model.allows("nodes:read")) return;
    const { items, isAll } = await pages("/nodes", "nodes", {}, NODES_MAX);
    this.model.takeNodes(items, isAll);
  }

  async _topologyNow() {
    if (!this.model.allows("nodes:read")) return;
    const topology = await get("/topology", this.isMesh ? { scope: "mesh" } : {});
    this.model.takeTopology(topology);
    for (const node of topology.nodes) if (this.model.nodes.has(node.node_id)) this.model.nodes.set(node.node_id, node);
    this.model.changed("nodes");
  }
}
