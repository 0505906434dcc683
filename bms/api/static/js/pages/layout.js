// Where the nodes of the map go: springs along links, with lengths by round trip, and repulsion between all. Plain arithmetic,
// the same picture for the same mesh: it begins on a circle in the order of the ids and uses no chance.

const STEPS = 240;
const RING_MAX = 12; // so few look best on the circle itself

/** Rest length of a link, 1 for the usual: near peers close, far ones further, on a logarithmic scale. */
function restLength(rtt, median) {
  if (typeof rtt !== "number" || !(median > 0)) return 1;
  return Math.min(1.7, Math.max(0.75, 1 + Math.log10(Math.max(rtt, 1e-6) / median) * 0.35));
}

/** Positions {id: [x, y]} in a box of `width` by `height` for `ids` and `links` ({from, to, rtt_s}); `before` are positions to
 * begin with, so that one node more does not turn the picture over. */
export function layout(ids, links, width, height, before = new Map()) {
  const order = [...ids].sort();
  const count = order.length;
  const index = new Map(order.map((id, at) => [id, at]));
  const x = new Float64Array(count), y = new Float64Array(count);
  order.forEach((id, at) => {
    const known = count > RING_MAX ? before.get(id) : null, turn = (at / count) * 2 * Math.PI - Math.PI / 2;
    [x[at], y[at]] = known ?? [Math.cos(turn), Math.sin(turn)];
  });
  if (count === 1) x[0] = y[0] = 0;
  const trips = links.map((link) => link.rtt_s).filter((rtt) => typeof rtt === "number").sort((a, b) => a - b);
  const median = trips[trips.length >> 1];
  const springs = links.filter((link) => index.has(link.from) && index.has(link.to)).map((link) => [index.get(link.from), index.get(link.to), restLength(link.rtt_s, median)]);
  const scale = 2 / Math.max(2, Math.sqrt(count)), steps = count <= RING_MAX ? 0 : count > 80 ? STEPS / 2 : STEPS;
  for (let step = 0; step < steps; step += 1) {
    const heat = 0.12 * scale * (1 - step / steps);
    const dx = new Float64Array(count), dy = new Float64Array(count);
    for (let a = 0; a < count; a += 1) {
      for (let b = a + 1; b < count; b += 1) {
        const ex = x[a] - x[b] || 1e-3 * (a - b), ey = y[a] - y[b] || 1e-3;
        const push = (scale * scale) / (ex * ex + ey * ey + 1e-4);
        dx[a] += ex * push; dy[a] += ey * push; dx[b] -= ex * push; dy[b] -= ey * push;
      }
      dx[a] -= x[a] * 0.4; dy[a] -= y[a] * 0.4;
    }
    // In a mesh where all are linked with all, springs must not pull it into one point.
    const stiff = 2.2 / Math.max(1, springs.length / count);
    for (const [a, b, rest] of springs) {
      const ex = x[a] - x[b], ey = y[a] - y[b], far = Math.hypot(ex, ey) || 1e-3;
      const pull = (stiff * (far - rest * scale * 1.2)) / far;
      dx[a] -= ex * pull; dy[a] -= ey * pull; dx[b] += ex * pull; dy[b] += ey * pull;
    }
    for (let at = 0; at < count; at += 1) {
      const far = Math.hypot(dx[at], dy[at]) || 1, most = Math.min(far, 1) * heat / far;
      x[at] += dx[at] * most; y[at] += dy[at] * most;
    }
  }
  return { raw: new Map(order.map((id, at) => [id, [x[at], y[at]]])), placed: fit(order, x, y, width, height) };
}

/** The positions in pixels: one scale for both directions, stretched a little towards the shape of the box. */
function fit(order, x, y, width, height) {
  const margin = { side: Math.min(90, width * 0.15), end: 54 };
  const range = (list) => { let low = Infinity, high = -Infinity; for (const one of list) { low = Math.min(low, one); high = Math.max(high, one); } return [low, high]; };
  const [left, right] = range(x), [top, bottom] = range(y);
  const across = (width - 2 * margin.side) / Math.max(right - left, 1e-6), down = (height - 2 * margin.end) / Math.max(bottom - top, 1e-6);
  const sx = Math.min(across, down * 1.5), sy = Math.min(down, across * 1.5);
  const mx = (left + right) / 2, my = (top + bottom) / 2;
  return new Map(order.map((id, at) => [id, order.length === 1 ? [width / 2, height / 2 - 10] : [width / 2 + (x[at] - mx) * sx, height / 2 - 10 + (y[at] - my) * sy]]));
}

const RANK = { failed: 0, suspect: 1, left: 3, alive: 2 };

/** At most `most` of the nodes: this one, those that are not well, then the nearest by round trip. */
export function pick(nodes, ownId, suspects, most) {
  if (nodes.length <= most) return nodes;
  const rank = (node) => (node.node_id === ownId ? -1 : suspects.has(node.node_id) ? 1 : RANK[node.state] ?? 2);
  const far = (node) => node.rtt_s ?? Infinity;
  return [...nodes].sort((a, b) => rank(a) - rank(b) || (far(a) === far(b) ? (a.node_id < b.node_id ? -1 : 1) : far(a) - far(b))).slice(0, most);
}
