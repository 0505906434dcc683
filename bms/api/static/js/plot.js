// Plots of the last minutes or hours, as SVG that the style sheet colours: axis, grid, one or two lines, and a cursor that
// shows what was when, in all plots of a page at once. Gaps in time are gaps in the line. The legend says the newest
// figures as text, which is what somebody who does not see the picture gets.

import { h, put, s, say } from "./dom.js";
import { clock } from "./format.js";

const LEFT = 58, BOTTOM = 18, TOP = 6, RIGHT = 6;
const TICKS_S = [60, 120, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600];
const TICK_WIDTH = 68;
const WHEN_WIDTH = 60; // of a time of day

/** Marks of an axis of time: every how many seconds, and how one that lies `back` seconds back is written. */
function timeTicks(windowS, width) {
  const every = TICKS_S.find((one) => (width - LEFT - RIGHT) * (one / windowS) >= TICK_WIDTH) ?? windowS;
  return [every, (back) => (every < 3600 ? `−${back / 60} min` : `−${back / 3600} h`)];
}

const spanText = (seconds) => (seconds < 3600 ? `${seconds / 60} minutes` : seconds === 3600 ? "an hour" : `${seconds / 3600} hours`);

/** Round steps of an axis from 0 up to at least `most`: [step, steps]. */
export function axis(most, base = 10) {
  if (!(most > 0)) return [1, 1];
  const unit = base === 1024 ? 1024 ** Math.max(0, Math.floor(Math.log(most) / Math.log(1024))) : 1;
  const rough = most / unit / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one * 3 >= (most / unit) * 0.9999) * unit;
  return [step, Math.max(1, Math.ceil((most / step) * 0.9999))];
}

export class Plot {
  /** `series`: [{name, read(sample)}], one or two; `show(value)` writes a figure; `windowS` is how much is seen,
   * `gapS` how far apart two samples may be to be joined, unless one of them says by its `span` that it covers more;
   * `onPoint(time)` is told where the pointer is, null when it leaves. */
  constructor({ title, series, show, windowS = 180, base = 10, least = 0, gapS = 3.5, onPoint = (time) => this.point(time) }) {
    Object.assign(this, { title, series, show, windowS, base, least, gapS });
    this.samples = [];
    this.end = null;
    this.isNow = true;
    this.pointed = null;
    this.values = series.map(() => h("b"));
    this.legend = h("ul", { class: "plot-legend" }, series.map((one, at) => h("li", null,
      s("svg", { viewBox: "0 0 16 8", "aria-hidden": "true" }, s("path", { class: `plot-line s${at}`, d: "M0 4H16" })), one.name, this.values[at])));
    this.svg = s("svg", { role: "img", "aria-label": title });
    this.box = h("div", { class: "plot-area-box" }, this.svg);
    this.element = h("figure", { class: "card plot" }, h("figcaption", null, h("h2", null, title), this.legend), this.box);
    this.svg.addEventListener("pointermove", (event) => onPoint(this._timeAt(event.clientX)));
    this.svg.addEventListener("pointerleave", () => onPoint(null));
    this._observer = new ResizeObserver(() => this.draw());
    this._observer.observe(this.box);
  }

  /** Show these samples up to the moment `end`, which is that of the last one unless it is given; `isNow` says whether that
   * is called so: what stands there while the node is not connected has a time of its own. */
  update(samples, { end = null, isNow = true } = {}) {
    this.samples = samples;
    this.end = end;
    this.isNow = isNow;
    this.draw();
  }

  /** Put the cursor at a moment; null: take it away. */
  point(time) {
    this.pointed = time;
    this.draw();
  }

  get _end() { return this.end ?? this.samples[this.samples.length - 1]?.time ?? Date.now() / 1000; }

  _timeAt(clientX) {
    const { left, width } = this.svg.getBoundingClientRect();
    return this._end - this.windowS * (1 - (clientX - left - LEFT) / (width - LEFT - RIGHT));
  }

  close() { this._observer.disconnect(); }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.box;
    if (!width) return;
    const end = this._end, start = end - this.windowS;
    const seen = this.samples.filter((one) => one.time >= start && one.time <= end + 1);
    const values = seen.flatMap((one) => this.series.map((line) => line.read(one))).filter((value) => value !== null);
    const [step, steps] = axis(Math.max(this.least, ...values), this.base);
    const top = step * steps;
    const x = (time) => LEFT + ((time - start) / this.windowS) * (width - LEFT - RIGHT);
    const y = (value) => height - BOTTOM - (value / top) * (height - BOTTOM - TOP);
    const parts = [];
    for (let n = 0; n <= steps; n += 1) {
      const at = Math.round(y(n * step)) + 0.5;
      parts.push(s("path", { class: "plot-grid", d: `M${LEFT} ${at}H${width - RIGHT}` }));
      parts.push(s("text", { class: "plot-tick", x: LEFT - 8, y: at + 4, "text-anchor": "end" }, this.show(n * step)));
    }
    const under = this._under(seen), cursor = under && Math.max(LEFT + WHEN_WIDTH / 2 - 8, Math.min(x(under.time), width - WHEN_WIDTH / 2));
    const [every, written] = timeTicks(this.windowS, width);
    for (let back = 0; back <= this.windowS; back += every) {
      if (under && Math.abs(cursor - x(end - back)) < WHEN_WIDTH) continue; // there stands the cursor's time
      parts.push(s("text", { class: "plot-tick", x: x(end - back), y: height - 3, "text-anchor": back === 0 ? "end" : back === this.windowS ? "start" : "middle" }, back > 0 ? written(back) : this.isNow ? "now" : clock(end)));
    }
    if (values.length) this.series.forEach((line, at) => parts.push(...this._line(seen, line, at, x, y, y(0))));
    else parts.push(s("text", { class: "plot-empty", x: (LEFT + width) / 2, y: height / 2 }, "No figures yet"));
    if (under) {
      parts.push(s("path", { class: "plot-cursor", d: `M${Math.round(x(under.time)) + 0.5} ${TOP}V${height - BOTTOM}` }));
      parts.push(s("text", { class: "plot-tick plot-when", x: cursor, y: height - 3, "text-anchor": "middle" }, clock(under.time)));
    }
    put(this.svg, ...parts);
    this._tell(under ?? seen[seen.length - 1], values);
  }

  _line(seen, line, at, x, y, floor) {
    let path = "", area = "", before = null;
    for (const one of seen) {
      const value = line.read(one);
      if (value === null) continue;
      const place = `${x(one.time).toFixed(1)} ${y(value).toFixed(1)}`;
      if (before !== null && one.time - before.time < Math.max(this.gapS, 2 * Math.max(one.span ?? 0, before.span ?? 0))) { path += `L${place}`; area += `L${place}`; }
      else {
        if (before !== null) area += `V${floor}Z`;
        path += `M${place}h.01`;
        area += `M${x(one.time).toFixed(1)} ${floor}L${place}`;
      }
      before = one;
    }
    if (at > 0) return [s("path", { class: `plot-line s${at}`, d: path })];
    return [s("path", { class: `plot-area s${at}`, d: `${area}V${floor}Z` }), s("path", { class: `plot-line s${at}`, d: path })];
  }

  _under(seen) {
    if (this.pointed === null || !seen.length) return null;
    return seen.reduce((best, one) => (Math.abs(one.time - this.pointed) < Math.abs(best.time - this.pointed) ? one : best));
  }

  _tell(one, values) {
    this.series.forEach((line, at) => {
      const value = one ? line.read(one) : null;
      say(this.values[at], value === null ? "–" : this.show(value));
    });
    const most = values.length ? `, at most ${this.show(Math.max(...values))} in ${spanText(this.windowS)}` : "";
    this.svg.setAttribute("aria-label", `${this.title}: ${this.series.map((line, at) => `${line.name} ${this.values[at].textContent}`).join(", ")}${most}`);
  }
}

/** A small line without axes; `values` may hold nulls. */
export function spark(values, label) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return h("span", { class: "note" }, "–");
  const most = Math.max(...known) || 1;
  const step = 86 / (values.length - 1);
  let path = "", on = false;
  values.forEach((value, at) => {
    if (value === null) { on = false; return; }
    path += `${on ? "L" : "M"}${(1 + at * step).toFixed(1)} ${(20 - (value / most) * 18).toFixed(1)}`;
    on = true;
  });
  return s("svg", { class: "spark", viewBox: "0 0 88 22", role: "img", "aria-label": label }, s("path", { class: "spark-line", d: path }));
}
