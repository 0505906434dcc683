// Live plots of the last minutes, as SVG that the style sheet colours: axis, grid, one or two lines, and a cursor that
// shows what was when. Gaps in time are gaps in the line. The legend says the newest figures as text, which is what
// somebody who does not see the picture gets.

import { h, put, s, say } from "./dom.js";
import { clock } from "./format.js";

const LEFT = 58, BOTTOM = 18, TOP = 6, RIGHT = 6;

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
   * `gapS` how far apart two samples may be to be joined. */
  constructor({ title, series, show, windowS = 180, base = 10, least = 0, gapS = 3.5 }) {
    Object.assign(this, { title, series, show, windowS, base, least, gapS });
    this.samples = [];
    this.hover = null;
    this.values = series.map(() => h("b"));
    this.legend = h("ul", { class: "plot-legend" }, series.map((one, at) => h("li", null,
      s("svg", { viewBox: "0 0 16 8", "aria-hidden": "true" }, s("path", { class: `plot-line s${at}`, d: "M0 4H16" })), one.name, this.values[at])));
    this.svg = s("svg", { role: "img", "aria-label": title });
    this.box = h("div", { class: "plot-area-box" }, this.svg);
    this.element = h("figure", { class: "card plot" }, h("figcaption", null, h("h2", null, title), this.legend), this.box);
    this.svg.addEventListener("pointermove", (event) => { this.hover = event.offsetX; this.draw(); });
    this.svg.addEventListener("pointerleave", () => { this.hover = null; this.draw(); });
    this._observer = new ResizeObserver(() => this.draw());
    this._observer.observe(this.box);
  }

  update(samples) {
    this.samples = samples;
    this.draw();
  }

  close() { this._observer.disconnect(); }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.box;
    if (!width) return;
    const end = this.samples.length ? this.samples[this.samples.length - 1].time : Date.now() / 1000;
    const start = end - this.windowS;
    const seen = this.samples.filter((one) => one.time >= start - 2);
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
    const minutes = (width - LEFT) / (this.windowS / 60) < 68 ? 120 : 60;
    for (let back = 0; back <= this.windowS; back += minutes) {
      const text = back === 0 ? "now" : `−${back / 60} min`;
      parts.push(s("text", { class: "plot-tick", x: x(end - back), y: height - 3, "text-anchor": back === 0 ? "end" : back === this.windowS ? "start" : "middle" }, text));
    }
    if (values.length) this.series.forEach((line, at) => parts.push(...this._line(seen, line, at, x, y, y(0))));
    else parts.push(s("text", { class: "plot-empty", x: (LEFT + width) / 2, y: height / 2 }, "No figures yet"));
    const under = this._under(seen, x);
    if (under) parts.push(s("path", { class: "plot-cursor", d: `M${Math.round(x(under.time)) + 0.5} ${TOP}V${height - BOTTOM}` }));
    put(this.svg, ...parts);
    this._tell(under ?? seen[seen.length - 1], Boolean(under), values);
  }

  _line(seen, line, at, x, y, floor) {
    let path = "", area = "", before = null;
    for (const one of seen) {
      const value = line.read(one);
      if (value === null) continue;
      const place = `${x(one.time).toFixed(1)} ${y(value).toFixed(1)}`;
      if (before !== null && one.time - before < this.gapS) { path += `L${place}`; area += `L${place}`; }
      else {
        if (before !== null) area += `V${floor}Z`;
        path += `M${place}h.01`;
        area += `M${x(one.time).toFixed(1)} ${floor}L${place}`;
      }
      before = one.time;
    }
    if (at > 0) return [s("path", { class: `plot-line s${at}`, d: path })];
    return [s("path", { class: `plot-area s${at}`, d: `${area}V${floor}Z` }), s("path", { class: `plot-line s${at}`, d: path })];
  }

  _under(seen, x) {
    if (this.hover === null || !seen.length) return null;
    return seen.reduce((best, one) => (Math.abs(x(one.time) - this.hover) < Math.abs(x(best.time) - this.hover) ? one : best));
  }

  _tell(one, isPast, values) {
    this.series.forEach((line, at) => {
      const value = one ? line.read(one) : null;
      say(this.values[at], value === null ? "–" : this.show(value));
    });
    this.element.title = isPast ? clock(one.time) : "";
    const most = values.length ? `, at most ${this.show(Math.max(...values))} in ${this.windowS / 60} minutes` : "";
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
