// One sample of the plots out of one "stats" event. Counters become rates here, by the event before; whatever the node does
// not say is null, and the plot leaves a gap.

const figure = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const sum = (counts) => (counts ? Object.values(counts).reduce((total, n) => total + (figure(n) ?? 0), 0) : null);

function rateOf(now, before, read) {
  const a = read(now), b = before ? read(before) : null, seconds = before ? now.time - before.time : 0;
  if (a === null || b === null || seconds <= 0 || seconds > 30 || a < b) return null;
  return (a - b) / seconds;
}

/** Round trips to the linked peers in seconds, sorted. */
function roundTrips(stats) {
  return (stats.peers ?? []).map((peer) => figure(peer.rtt_s)).filter((value) => value !== null).sort((a, b) => a - b);
}

/** The sample of `stats` with `before`, the event before it (or null). */
export function sample(stats, before) {
  const trips = roundTrips(stats);
  return {
    time: stats.time,
    received: rateOf(stats, before, (one) => figure(one.bytes_received)),
    sent: rateOf(stats, before, (one) => figure(one.bytes_sent)),
    messagesIn: rateOf(stats, before, (one) => sum(one.messages?.received)),
    messagesOut: rateOf(stats, before, (one) => sum(one.messages?.sent)),
    rttMedian: trips.length ? trips[trips.length >> 1] : null,
    rttMost: trips.length ? trips[trips.length - 1] : null,
    cpu: rateOf(stats, before, (one) => figure(one.resources?.cpu_s)),
    lag: figure(stats.resources?.scheduler_lag_s?.p99),
  };
}
