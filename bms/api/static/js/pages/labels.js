// Where the labels of the map go, so that none lies on another or on a node: the first of the places that each would take
// that is free. Plain arithmetic on boxes; the caller asks for the most important labels first.

/** About how wide a text is, in pixels: wide scripts take twice the room. */
export function textWidth(text, fontSize) {
  let units = 0;
  for (const letter of text) units += letter.codePointAt(0) > 0x2e7f ? 1.9 : 1;
  return units * fontSize * 0.63;
}

export class Labels {
  constructor(width, height) {
    Object.assign(this, { width, height });
    this.taken = [];
  }

  /** Take the box around (x, y), whatever lies there. */
  block(x, y, width, height) {
    this.taken.push([x - width / 2, y - height / 2, x + width / 2, y + height / 2]);
  }

  /** How much of the box around (x, y) lies on what is taken, or outside. */
  covered(x, y, width, height) {
    const [left, top, right, bottom] = [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
    const shared = (l, t, r, b) => Math.max(0, Math.min(right, r) - Math.max(left, l)) * Math.max(0, Math.min(bottom, b) - Math.max(top, t));
    return this.taken.reduce((sum, box) => sum + shared(...box), width * height - shared(0, 0, this.width, this.height));
  }

  /** The first of `places` ([x, y, …]) where a label of this size is free, taken from now on. If there is none: null, or with
   * `isNeeded` the one where least is covered. */
  place(places, width, height, isNeeded = false) {
    const costs = places.map(([x, y]) => this.covered(x, y, width, height)), least = Math.min(...costs);
    const found = least < 0.5 || isNeeded ? places[costs.findIndex((cost) => cost < 0.5 || cost === least)] : null;
    if (found) this.block(found[0], found[1], width, height);
    return found;
  }
}
