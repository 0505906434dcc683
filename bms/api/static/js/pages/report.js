// The report: all that the node says of itself, to read here or to keep; and a measurement on demand.

import { post, send, url } from "../api.js";
import { h, put, say, stateBadge } from "../dom.js";
import { number, rate, seconds } from "../format.js";
import { Table } from "../table.js";
import { save } from "./value.js";

const FORMS = [["html", "One page with plots (HTML)"], ["json", "For programs (JSON)"], ["text", "Plain text"]];

export function reportPage(root, { model }) {
  const said = h("p", { class: "notice", role: "status", hidden: true });
  const text = h("pre", { class: "value report-text", tabindex: "0", role: "region", "aria-label": "Report as text" }, "Reading …");
  const buttons = FORMS.map(([form, name]) => h("button", { type: "button", on: { click: () => fetchIt(form) } }, name));
  async function fetchIt(form) {
    try {
      const response = await send("GET", url("/report", { format: form }), { headers: { Accept: "*/*" }, deadlineMs: 60_000 });
      const stamp = new Date().toISOString().slice(0, 19).replace(/:/g, "");
      save(await response.blob(), `bms-${model.me.node_name ?? "node"}-${stamp}.${form === "text" ? "txt" : form}`);
      tell("ok", "The report was handed to your browser as a file.");
    } catch (error) {
      tell("bad", error.message);
    }
  }
  function tell(kind, what) {
    said.hidden = false;
    said.className = `notice ${kind}`;
    say(said, what);
  }
  async function read() {
    try {
      say(text, await (await send("GET", url("/report", { format: "text" }), { headers: { Accept: "*/*" } })).text());
    } catch (error) {
      say(text, error.message);
    }
  }
  root.append(h("div", { class: "page-head" }, h("h1", null, "Report"), h("p", { class: "lead" }, "What this node says of itself, to look at later or to send to somebody. It holds names and addresses of nodes, and no secrets.")),
    h("div", { class: "row" }, buttons), said, measureCard(),
    h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "As text"), h("span", { class: "space" }), h("button", { type: "button", on: { click: read } }, "Read again")), text));
  read();
}

function measureCard() {
  const out = h("div", { hidden: true }), said = h("span", { class: "note", role: "status" }, "Sends pings and data to every peer for a moment, and writes to the store.");
  const facts = h("dl", { class: "facts" });
  const table = new Table({
    caption: "Peers, measured", empty: "There is no peer to measure.", key: (peer) => peer.node_id, sort: { name: "p50", down: true },
    columns: [
      { name: "name", title: "Peer", cell: (peer) => peer.name || peer.node_id.slice(0, 8), sort: (peer) => peer.name },
      { name: "p50", title: "Median", number: true, cell: (peer) => seconds(peer.rtt_s.p50), sort: (peer) => peer.rtt_s.p50 },
      { name: "p99", title: "99 % within", number: true, cell: (peer) => seconds(peer.rtt_s.p99), sort: (peer) => peer.rtt_s.p99 },
      { name: "lost", title: "Not answered", number: true, cell: (peer) => number(peer.lost), sort: (peer) => peer.lost },
      { name: "rate", title: "Throughput", number: true, cell: (peer) => rate(peer.bytes_per_s), sort: (peer) => peer.bytes_per_s },
    ],
  });
  put(out, h("div", { class: "card-body" }, facts), table.element);
  const button = h("button", { type: "button", on: { click: measure } }, "Measure now");
  async function measure() {
    button.disabled = true;
    say(said, "Measuring …");
    try {
      const found = await post("/performance", { seconds: 1 }, { deadlineMs: 60_000 });
      out.hidden = false;
      put(facts, [
        ["Durable write", found.store_error ? stateBadge("failing", found.store_error) : `median ${seconds(found.store_write_s.p50)}, 99 % within ${seconds(found.store_write_s.p99)}`],
        ["Scheduler", `99 % of turns within ${seconds(found.scheduler_lag_s.p99)}`],
      ].map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
      table.show(found.peers);
      say(said, `Measured for ${seconds(found.seconds)}.`);
    } catch (error) {
      say(said, error.message);
    }
    button.disabled = false;
  }
  return h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Measure"), said, h("span", { class: "space" }), button), out);
}
