// Line charts, drawn as SVG.

import { make, setText } from "./dom.js";
import { short } from "./format.js";

const SPANS_S = [60, 180]; // shown time span at first, and with more data
const HEIGHT = 150;
const EDGE = { left: 52, right: 8, top: 10, bottom: 20 };
const GAP_S = 5; // a line is broken after a longer pause between polls

function svg(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

export class LineChart {
  // series: list of {key, label}; format: text of a value; top: fixed end of the axis, if any;
  // least: minimum of its end.
  constructor({ title, note, series, format, top = null, least = 0 }) {
    Object.assign(this, { title, series, format, top, least });
    this.points = [];
    this.pointed = null;
    this.plot = svg("svg", { role: "img", height: HEIGHT });
    this.legend = make("ul", { className: "legend" });
    this.values = series.map((one, i) => this.legendEntry(one, i));
    const heading = make("h2", {}, title);
    const text = make("p", { className: "note" }, note);
    this.element = make("section", { className: "panel chart" }, heading, text);
    this.element.append(this.plot, this.legend);
    this.listen();
  }

  legendEntry({ label }, i) {
    const value = make("span", { className: "value" }, "–");
    const mark = make("span", { className: `mark line-${i}` });
    this.legend.append(make("li", {}, mark, `${label} `, value));
    return value;
  }

  listen() {
    new ResizeObserver(() => this.draw()).observe(this.element);
    this.plot.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.plot.addEventListener("pointerleave", () => this.point(null));
  }

  point(x) {
    this.pointed = x;
    this.draw();
  }

  show(points) {
    this.points = points;
    this.draw();
  }

  draw() {
    this.width = this.plot.clientWidth;
    if (this.width < EDGE.left + EDGE.right + 20) return;
    const values = this.series.flatMap(({ key }) => this.points.map((point) => point[key]));
    this.end = this.top ?? niceEnd(Math.max(this.least, ...values));
    this.now = this.points.at(-1)?.time ?? 0;
    this.span = this.now - (this.points[0]?.time ?? 0) > SPANS_S[0] ? SPANS_S[1] : SPANS_S[0];
    const nearest = this.nearest();
    this.plot.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.plot.replaceChildren(
      ...this.axes(),
      ...this.series.map(({ key }, i) => this.line(key, i)),
      ...(this.pointed !== null && nearest ? this.cursor(nearest) : []),
    );
    this.showValues(nearest);
  }

  x(time) {
    const inner = this.width - EDGE.left - EDGE.right;
    return EDGE.left + inner * (1 - (this.now - time) / this.span);
  }

  y(value) {
    const inner = HEIGHT - EDGE.top - EDGE.bottom;
    return EDGE.top + inner * (1 - Math.min(1, value / this.end));
  }

  axes() {
    const right = this.width - EDGE.right;
    const rows = [0, 0.5, 1].flatMap((part) => {
      const y = this.y(part * this.end);
      const place = { x: EDGE.left - 6, y: y + 4, class: "tick", "text-anchor": "end" };
      return [
        svg("line", { x1: EDGE.left, x2: right, y1: y, y2: y, class: "grid" }),
        svg("text", place, short(this.format(part * this.end))),
      ];
    });
    const y = HEIGHT - 4;
    return [
      ...rows,
      svg("text", { x: EDGE.left, y, class: "tick" }, `${this.span / 60} min ago`),
      svg("text", { x: right, y, class: "tick", "text-anchor": "end" }, "now"),
    ];
  }

  line(key, i) {
    let path = "";
    let before = null;
    for (const point of this.points) {
      if (point[key] === null) continue;
      const joined = before !== null && point.time - before < GAP_S;
      const place = `${this.x(point.time).toFixed(1)},${this.y(point[key]).toFixed(1)}`;
      path += `${joined ? "L" : "M"}${place}${joined ? "" : "h0"}`;
      before = point.time;
    }
    return svg("path", { d: path || "M0,0", class: `line line-${i}` });
  }

  cursor(point) {
    const x = this.x(point.time);
    const line = { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom, class: "cursor" };
    const dots = this.series.map(({ key }, i) => ({ value: point[key], i }));
    return [
      svg("line", line),
      ...dots
        .filter(({ value }) => value !== null)
        .map(({ value, i }) => dot(x, this.y(value), i)),
    ];
  }

  // The point under the pointer, or the last one.
  nearest() {
    if (this.pointed === null) return this.points.at(-1);
    const distance = (point) => Math.abs(this.x(point.time) - this.pointed);
    const nearer = (best, point) => (distance(point) < distance(best) ? point : best);
    return this.points.reduce(nearer, this.points[0]);
  }

  showValues(point) {
    const texts = this.series.map(({ key }) => this.format(point ? point[key] : null));
    texts.forEach((text, i) => setText(this.values[i], text));
    const all = this.series.map(({ label }, i) => `${label} ${texts[i]}`);
    this.plot.setAttribute("aria-label", `${this.title}: ${all.join(", ")}`);
  }
}

function dot(cx, cy, i) {
  return svg("circle", { cx, cy, r: 3, class: `dot line-${i}` });
}

// The smallest of 1, 2, 4, 6, 8, 10, 20, ... that is not less than the value.
function niceEnd(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((end) => end >= most) ?? 10 * power;
}

// A bar with parts {name, label, value, title}; `length` is its share of the full width.
export function showBar(element, parts, length = 1) {
  const shown = parts.filter(({ value }) => value > 0);
  while (element.children.length > shown.length) element.lastElementChild.remove();
  while (element.children.length < shown.length) element.append(make("span"));
  shown.forEach(({ name, value, title }, i) => {
    const piece = element.children[i];
    piece.className = `part ${name}`;
    piece.style.flexGrow = value;
    piece.title = title;
  });
  element.style.width = `${length * 100}%`;
  element.setAttribute("aria-label", shown.map(({ title }) => title).join(", ") || "nothing");
}
