// Reconciling: what this node holds, and for each peer what the last reconciliation took and whether both then held the same.
// The node's own rounds are read again every few seconds; one that is asked for here shows at once.

import { get, post } from "../api.js";
import { h, put, say, stateBadge } from "../dom.js";
import { ago, bytes, nodeNow, number, plural, seconds } from "../format.js";
import { Table } from "../table.js";

const REREAD_MS = 5_000;

export function syncPage(root, { model }) {
  const reports = model.syncs;
  let timer = 0, isOver = false;
  const facts = h("dl", { class: "facts" });
  const lead = h("span", { class: "note", role: "status" });
  const may = model.allows("data:write");
  const table = new Table({
    caption: "Peers", empty: "No peer is linked.", key: (row) => row.id, sort: { name: "peer", down: false },
    columns: [
      { name: "peer", title: "Peer", cell: (row) => h("a", { href: `#/nodes/${row.id}` }, model.nameOf(row.id)), sort: (row) => model.nameOf(row.id) },
      { name: "outcome", title: "Outcome", free: true, cell: outcome, sort: (row) => row.report?.state ?? "" },
      { name: "sent", title: "Entries sent", number: true, cell: (row) => figure(row, "entries_sent"), sort: (row) => row.report?.entries_sent },
      { name: "received", title: "Entries taken", number: true, cell: (row) => figure(row, "entries_received"), sort: (row) => row.report?.entries_received },
      { name: "bytes", title: "Bytes both ways", number: true, cell: (row) => (row.report?.rounds === undefined ? "–" : bytes(row.report.bytes_sent + row.report.bytes_received)), sort: (row) => (row.report?.bytes_sent ?? 0) + (row.report?.bytes_received ?? 0) },
      { name: "rounds", title: "Rounds", number: true, cell: (row) => figure(row, "rounds"), sort: (row) => row.report?.rounds },
      { name: "took", title: "Took", number: true, cell: (row) => seconds(row.report?.seconds), sort: (row) => row.report?.seconds },
      { name: "when", title: "When", cell: (row) => ago(row.report?.at), sort: (row) => row.report?.at },
      ...(may ? [{ name: "act", title: "", cell: (row) => h("button", { type: "button", disabled: row.report?.state === "under way", "aria-label": `Reconcile with ${model.nameOf(row.id)}`, on: { click: () => reconcile([row.id]) } }, "Reconcile") }] : []),
    ],
  });
  const all = h("button", { type: "button", class: "primary", on: { click: () => reconcile(peers()) } }, "Reconcile with all now");
  const progress = h("progress", { class: "wide", max: 1, value: 0, hidden: true, "aria-label": "Peers reconciled" });
  root.append(
    h("div", { class: "page-head" }, h("h1", null, "Sync"), h("span", { class: "space" }), may ? all : null,
      h("p", { class: "lead" }, "Nodes reconcile by themselves, in rounds and whenever something is written. How the last round with each peer went stands below; it can be done at once, too.")),
    h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "What this node holds")), h("div", { class: "card-body" }, facts)),
    h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, "Peers"), lead), progress, table.element,
      may ? null : h("p", { class: "table-foot" }, "Reconciling now needs ", h("code", null, "data:write"), ".")));

  function outcome({ report }) {
    if (!report) return h("span", { class: "note" }, model.isSyncsKnown ? "the first round is still to come" : "not known yet");
    if (report.state === "under way") return h("span", { class: "pill accent" }, "under way");
    if (report.error) return stateBadge("failing", report.error);
    return report.equal ? stateBadge("ok", "both hold the same") : stateBadge("degraded", "not equal yet: writes go on");
  }
  const figure = (row, name) => (row.report?.[name] === undefined ? "–" : number(row.report[name]));
  const peers = () => [...new Set(model.links.filter((link) => link.from === model.ownId || link.to === model.ownId).map((link) => (link.from === model.ownId ? link.to : link.from)))];

  async function reconcile(ids) {
    all.disabled = true;
    for (const id of ids) reports.set(id, { state: "under way" });
    progress.hidden = false;
    progress.max = ids.length || 1;
    progress.value = 0;
    draw();
    // A request for each, so that each one's outcome is seen as it comes; a few at once.
    const left = [...ids];
    const worker = async () => {
      while (left.length) {
        const id = left.shift();
        reports.set(id, await one(id));
        progress.value += 1;
        draw();
      }
    };
    await Promise.all([worker(), worker(), worker()]);
    progress.hidden = true;
    all.disabled = false;
    draw();
  }

  /** The node's own rounds, as far as they are newer than what is shown. */
  async function read() {
    clearTimeout(timer);
    const answer = await get("/sync").catch(() => null); // the bar above says when the node is not there
    if (isOver) return;
    model.isSyncsKnown ||= answer !== null;
    for (const { ended_at: at, outcome: last } of answer?.peers ?? []) {
      const known = reports.get(last.node_id);
      if (known?.state !== "under way" && at > (known?.at ?? 0)) reports.set(last.node_id, { ...last, at, state: last.error ? "failed" : last.equal ? "equal" : "other" });
    }
    if (answer) draw();
    timer = setTimeout(read, document.hidden ? 10 * REREAD_MS : REREAD_MS);
  }

  async function one(id) {
    try {
      const report = await post("/sync", { peers: [id] }, { deadlineMs: 75_000 });
      return { ...report.peers[0], at: nodeNow(), state: report.peers[0].equal ? "equal" : "other" };
    } catch (error) {
      return { at: nodeNow(), state: "failed", error: error.message };
    }
  }

  function draw() {
    const data = model.stats?.data ?? model.status, counters = model.stats?.counters ?? {};
    if (data) {
      const rows = [["Entries", `${number(data.entries)}, ${bytes(data.bytes)} of values`], ["Deleted, remembered", number(data.tombstones)], ["Position", `${number(data.position)} in epoch ${data.epoch}`], ["Fingerprint", h("span", { class: "id" }, data.fingerprint)]];
      for (const [name, title] of [["data.sync_rounds", "Rounds since the start"], ["data.sync_entries_received", "Entries taken in rounds"], ["data.sync_entries_sent", "Entries sent in rounds"]]) if (name in counters) rows.push([title, number(counters[name])]);
      put(facts, rows.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
    }
    const rows = peers().map((id) => ({ id, report: reports.get(id) }));
    table.show(rows);
    const done = rows.filter(({ report }) => report && report.state !== "under way"), equal = done.filter(({ report }) => report.equal);
    say(lead, done.length ? `${number(equal.length)} of ${plural(rows.length, "peer")} hold the same` : "");
  }
  const ends = [...["stats", "status", "links", "clock"].map((subject) => model.on(subject, draw)), model.on("reload", read)];
  draw();
  read();
  return () => { isOver = true; clearTimeout(timer); for (const end of ends) end(); };
}
