// Samples of the plots: one out of each "stats" event, whose counters become rates here by an event before, and those of the
// node's own history. Whatever the node does not say is null, and the plot leaves a gap. `span` is over how many seconds
// a sample looks back.

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

/** The sample of `stats` with `before`, an event before it (or null): rates are those between the two. */
export function sample(stats, before) {
  const trips = roundTrips(stats);
  return {
    time: stats.time,
    span: before ? stats.time - before.time : 0,
    received: rateOf(stats, before, (one) => figure(one.bytes_received)),
    sent: rateOf(stats, before, (one) => figure(one.bytes_sent)),
    messagesIn: rateOf(stats, before, (one) => sum(one.messages?.received)),
    messagesOut: rateOf(stats, before, (one) => sum(one.messages?.sent)),
    rttMedian: trips.length ? trips[trips.length >> 1] : null,
    rttMost: trips.length ? trips[trips.length - 1] : null,
    cpu: rateOf(stats, before, (one) => figure(one.resources?.cpu_s)),
  };
}

/** A sample of the node's history (`GET /history`) as one of the plots. */
export function pastSample({ time, rates, rtt_median_s: median, rtt_most_s: most }) {
  return {
    time,
    span: figure(rates.seconds) ?? 0,
    received: figure(rates.bytes_received),
    sent: figure(rates.bytes_sent),
    messagesIn: figure(rates.messages_received),
    messagesOut: figure(rates.messages_sent),
    rttMedian: figure(median),
    rttMost: figure(most),
    cpu: figure(rates.cpu),
  };
}

/** `past` where nothing was seen live, and `live`, in order of time: live ones are finer. Both are sorted already. */
export function merged(past, live) {
  let at = 0;
  const gaps = past.filter((one) => {
    while (at < live.length && live[at].time <= one.time - one.span) at += 1;
    return at >= live.length || live[at].time > one.time + 1;
  });
  return [...gaps, ...live].sort((a, b) => a.time - b.time);
}
