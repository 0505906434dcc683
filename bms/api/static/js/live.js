// The stream of events: one WebSocket, opened again with backoff when it ends, resumed at the cursor of what was seen last.
//
//   state         meaning
//   connecting    the first attempt
//   live          said hello, and something was heard in the last seconds
//   down          not connected; `since` says since when, `retryAt` when the next attempt is
//   ended         closed by `close`, or the token was refused
//
// A node that hangs keeps its connection: "stats" come once a second and "bookmark" every 15 s, so silence counts as down.

import { token } from "./api.js";

const SILENCE_MS = 8_000;
const QUIET_SILENCE_MS = 40_000; // without stats
const CONNECT_MS = 10_000;
const BACKOFF_MS = [500, 1_000, 2_000, 4_000, 8_000, 15_000];

export class Live {
  /** `onEvent(event)`, `onState()`, `onRefused(reason)`; `types` are the events that are asked for; messages on `topics` are
   * taken away from the node's program, which needs messages:take. `cursor` is where to begin: null is now. */
  constructor({ onEvent, onState = () => {}, onRefused = () => {}, types, topics = [], cursor = null }) {
    Object.assign(this, { onEvent, onState, onRefused, types, topics, cursor });
    this.state = "connecting";
    this.since = null;
    this.reason = "";
    this.retryAt = null;
    this._attempt = 0;
    this._socket = null;
    this._timer = 0;
    this._silence = 0;
    this._again = () => { if (!document.hidden) this.retry(); };
    window.addEventListener("online", this._again);
    document.addEventListener("visibilitychange", this._again);
  }

  open() {
    clearTimeout(this._timer);
    const query = new URLSearchParams({ types: this.types.join(",") });
    if (this.topics.length) {
      query.set("topics", this.topics.join(","));
      query.set("take", "true");
    }
    if (this.cursor) query.set("since", this.cursor);
    const place = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/api/v1/events?${query}`;
    const socket = new WebSocket(place, ["bms.events.v1", `bms.token.${token()}`]);
    this._socket = socket;
    this._watch(CONNECT_MS);
    socket.onmessage = (message) => { if (socket === this._socket) this._take(message.data); };
    socket.onclose = (close) => { if (socket === this._socket) this._down(close.reason || this._why(close.code), close.code); };
  }

  _why(code) {
    if (code === 1013) return "the node has too many connections";
    return code === 1008 ? "the token was refused" : "the connection ended";
  }

  _take(text) {
    this._watch(this.types.includes("stats") ? SILENCE_MS : QUIET_SILENCE_MS);
    const event = JSON.parse(text);
    if (event.cursor) this.cursor = event.cursor;
    if (event.type === "hello") {
      this._attempt = 0;
      this._become("live", null, "");
    }
    this.onEvent(event);
  }

  _watch(ms) {
    clearTimeout(this._silence);
    this._silence = setTimeout(() => this._down(`nothing was heard for ${ms / 1000} s`), ms);
  }

  _down(reason, code) {
    this._drop();
    if (code === 1008) {
      this._become("down", this.since ?? Date.now(), reason);
      this.onRefused(reason);
      if (this.state === "ended") return;
    }
    const wait = BACKOFF_MS[Math.min(this._attempt, BACKOFF_MS.length - 1)] * (0.75 + Math.random() / 2);
    this._attempt += 1;
    this.retryAt = Date.now() + wait;
    this._timer = setTimeout(() => this.open(), wait);
    // Why it began says more than that the attempts since then failed.
    this._become("down", this.since ?? Date.now(), this.state === "down" ? this.reason : reason);
  }

  _drop() {
    clearTimeout(this._silence);
    const socket = this._socket;
    this._socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  _become(state, since, reason) {
    if (this.state === "ended") return;
    Object.assign(this, { state, since, reason });
    this.onState();
  }

  get isTrying() { return this._socket !== null; }

  /** Try now, if it is down. */
  retry() {
    if (this.state === "down" && !this._socket) this.open();
  }

  close() {
    this._become("ended", null, "");
    clearTimeout(this._timer);
    window.removeEventListener("online", this._again);
    document.removeEventListener("visibilitychange", this._again);
    this._drop();
  }
}
