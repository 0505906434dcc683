// The last `capacity` items: what keeps an open page from growing without end.

export class Ring {
  constructor(capacity) {
    this.capacity = capacity;
    this.items = [];
  }

  get length() { return this.items.length; }

  get last() { return this.items[this.items.length - 1]; }

  push(item) {
    this.items.push(item);
    // Cut in larger pieces, so that a push costs the same however long the page has been open.
    if (this.items.length >= this.capacity + Math.max(16, this.capacity >> 2)) this.items.splice(0, this.items.length - this.capacity);
  }

  /** The items, oldest first, at most `capacity`. */
  all() { return this.items.length > this.capacity ? this.items.slice(-this.capacity) : this.items; }

  clear() { this.items = []; }

  /** Hold these instead. */
  set(items) { this.items = items.slice(-this.capacity); }
}
