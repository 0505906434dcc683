// A table that stays quick with thousands of rows: sorted by its headings, one page of rows in the document at a time.
// Rows are kept by key and refilled in place, so that focus and selection survive a refresh.

import { h, mark, put, say } from "./dom.js";
import { number } from "./format.js";

const PAGE = 50;

export class Table {
  /** `columns`: {name, title, cell(row) -> Node or text, sort?(row), number?, free?, head?}; `key(row)` names a row;
   * `caption` is read out; `empty` is shown instead of no rows; `chosen(row)` marks rows. */
  constructor({ caption, columns, key, empty = "Nothing here.", sort = null, page = PAGE, chosen = null }) {
    Object.assign(this, { columns, key, page, chosen, caption });
    this.rows = [];
    this.at = 0;
    this.sort = sort ?? { name: null, down: false };
    this._drawn = new Map();
    this.body = h("tbody");
    this.heads = columns.map((column) => this._head(column));
    this.table = h("table", null, h("caption", { class: "unseen" }, caption), h("thead", null, h("tr", null, this.heads)), this.body);
    this.box = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, this.table);
    this.empty = h("div", { class: "empty", hidden: true }, empty);
    this.range = h("span");
    this.before = h("button", { type: "button", on: { click: () => this.go(-1) } }, "Previous");
    this.after = h("button", { type: "button", on: { click: () => this.go(1) } }, "Next");
    this.foot = h("nav", { class: "table-foot", "aria-label": `Pages of ${caption}`, hidden: true }, this.range, h("span", { class: "space" }), this.before, this.after);
    this.element = h("div", null, this.box, this.empty, this.foot);
    this._showSort();
  }

  _head(column) {
    const name = column.sort
      ? h("button", { type: "button", class: "sort", on: { click: () => this.sortBy(column.name) } }, column.title)
      : column.title || h("span", { class: "unseen" }, column.label ?? "Actions");
    return h("th", { scope: "col", class: column.number ? "number" : null }, name);
  }

  sortBy(name) {
    this.sort = { name, down: this.sort.name === name ? !this.sort.down : false };
    this.at = 0;
    this._showSort();
    this.draw();
  }

  _showSort() {
    this.columns.forEach((column, at) => {
      if (column.sort && column.name === this.sort.name) this.heads[at].setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else this.heads[at].removeAttribute("aria-sort");
    });
  }

  show(rows) {
    this.rows = rows;
    this.draw();
  }

  go(step) {
    this.at += step * this.page;
    this.draw();
    this.box.focus({ preventScroll: true });
    this.box.scrollIntoView({ block: "nearest" });
  }

  _ordered() {
    const column = this.columns.find((one) => one.name === this.sort.name);
    if (!column?.sort) return this.rows;
    const sign = this.sort.down ? -1 : 1;
    const keyed = this.rows.map((row) => [column.sort(row), row]);
    // What is not known comes last, whichever way it is sorted.
    const lacks = (value) => value === null || value === undefined || Number.isNaN(value);
    keyed.sort(([a], [b]) => (lacks(a) || lacks(b) ? lacks(a) - lacks(b) : a < b ? -sign : a > b ? sign : 0));
    return keyed.map(([, row]) => row);
  }

  draw() {
    this.at = Math.max(0, Math.min(this.at, Math.floor((this.rows.length - 1) / this.page) * this.page));
    const shown = this._ordered().slice(this.at, this.at + this.page);
    const drawn = new Map();
    const wanted = shown.map((row) => {
      const key = this.key(row);
      const line = this._drawn.get(key) ?? h("tr", null, this.columns.map((column, at) => h(at === 0 || column.head ? "th" : "td", { scope: at === 0 || column.head ? "row" : null, class: [column.number && "number", column.free && "free"].filter(Boolean).join(" ") || null })));
      this.columns.forEach((column, at) => this._fill(line.children[at], column.cell(row)));
      if (this.chosen) mark(line, "chosen", this.chosen(row));
      drawn.set(key, line);
      return line;
    });
    this._drawn = drawn;
    // Only what moved is moved: taking a focused element out of the document would lose its focus.
    if (wanted.length !== this.body.children.length || wanted.some((line, at) => line !== this.body.children[at])) this._place(wanted);
    const many = this.rows.length;
    this.empty.hidden = many > 0;
    this.box.hidden = many === 0;
    this.foot.hidden = many <= this.page;
    say(this.range, `${number(this.at + 1)} to ${number(this.at + shown.length)} of ${number(many)}`);
    this.before.disabled = this.at === 0;
    this.after.disabled = this.at + this.page >= many;
  }

  _fill(cell, content) {
    if (content instanceof Node || Array.isArray(content)) {
      // The same look is left alone: a button that has the focus, or is being pressed, stays itself.
      const next = h(cell.tagName, null, content);
      if (next.innerHTML === cell.innerHTML && !cell.querySelector("button, select, input")) return;
      if (cell.contains(document.activeElement) && next.innerHTML === cell.innerHTML) return;
      put(cell, ...next.childNodes);
    } else say(cell, content ?? "");
  }

  _place(wanted) {
    const keep = new Set(wanted);
    for (const line of [...this.body.children]) if (!keep.has(line)) line.remove();
    wanted.forEach((line, at) => { if (this.body.children[at] !== line) this.body.insertBefore(line, this.body.children[at] ?? null); });
  }

  /** Let the row of `key` light up for a moment. */
  flash(key) {
    const line = this._drawn.get(key);
    if (!line) return;
    line.classList.remove("flash");
    void line.offsetWidth; // start the animation again
    line.classList.add("flash");
  }
}
