// Elements, made by calls alone. What a mesh says is put in as text nodes and never parsed as HTML, so whoever names a
// node or a key "<script>" sees just that. There is no way here to set an inline style or a handler as text: the page's
// Content-Security-Policy would refuse both.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. `props`: `class`, `on` (events), everything else an attribute; null, undefined and false are left out. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element; see `h`. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === "on") {
      for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    } else if (name === "value") element.value = value ?? "";
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...flat(children));
  return element;
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** The children of `element` become these. */
export function put(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

/** Set text only where it changed: live regions and selections stay quiet otherwise. */
export function say(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
  return element;
}

/** Set or remove a class. */
export function mark(element, name, on) {
  element.classList.toggle(name, Boolean(on));
}

const PATHS = {
  overview: "M3 12h4l3-8 4 16 3-8h4",
  map: "M12 5 5 11l3 8h8l3-8zM12 5v0M5 11v0M8 19v0M16 19v0M19 11v0",
  nodes: "M4 5h16v5H4zM4 14h16v5H4zM8 7.500v0M8 16.500v0",
  sync: "M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5",
  logs: "M4 6h16M4 10h10M4 14h16M4 18h8",
  report: "M6 3h9l4 4v14H6zM14 3v5h5M9 13h7M9 17h5",
  data: "M4 6c0-4 16-4 16 0v12c0 4-16 4-16 0zM4 6c0 4 16 4 16 0M4 12c0 4 16 4 16 0",
  messages: "M4 5h16v11H11l-5 4v-4H4z",
  tokens: "M15 4a5 5 0 1 1-4 8l-7 7v2h4v-3h3v-3M16.500 7.500v0",
  config: "M4 7h9M17 7h3M4 17h3M11 17h9M13 4.500h4v5h-4zM7 14.500h4v5H7z",
  menu: "M4 7h16M4 12h16M4 17h16",
  auto: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.400 1.400M17.600 17.600 19 19M19 5l-1.400 1.400M6.400 17.600 5 19",
  dark: "M20 14.500A8.500 8.500 0 0 1 9.500 4 8.500 8.500 0 1 0 20 14.500z",
  out: "M14 4h6v16h-6M4 12h11M11 8l4 4-4 4",
  lock: "M6 11h12v9H6zM8.500 11V8a3.500 3.500 0 0 1 7 0v3",
  back: "M15 5l-7 7 7 7",
};

/** A decorative icon by name. */
export function icon(name) {
  return s("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
    s("path", { d: PATHS[name], fill: "none", stroke: "currentColor", "stroke-width": 1.8, "stroke-linecap": "round", "stroke-linejoin": "round" }));
}

// State is told by shape as well as by colour: disc, triangle, diamond, ring.
const SHAPES = {
  alive: (r) => s("circle", { class: "shape", r: r * 0.86 }),
  suspect: (r) => s("path", { class: "shape", d: `M0 ${-r}L${r} ${r * 0.8}H${-r}Z` }),
  failed: (r) => s("path", { class: "shape", d: `M0 ${-r * 1.15}L${r * 1.15} 0L0 ${r * 1.15}L${-r * 1.15} 0Z` }),
  left: (r) => s("circle", { class: "shape", r: r * 0.8 }),
};
const ALIKE = { ok: "alive", degraded: "suspect", failing: "failed" };

/** The shape of a state around (0, 0) with radius `r`, for maps. */
export function shape(state, r) {
  return (SHAPES[ALIKE[state] ?? state] ?? SHAPES.left)(r);
}

/** A state as shape, colour and word. */
export function stateBadge(state, text = state) {
  return h("span", { class: `state is-${state}` },
    s("svg", { class: "glyph", viewBox: "-7 -7 14 14", "aria-hidden": "true" }, shape(state, 5)), text);
}

/** Text for whoever listens rather than looks; `urgent` interrupts. */
export function announce(text, urgent = false) {
  const region = document.getElementById(urgent ? "assertive" : "polite");
  region.textContent = "";
  setTimeout(() => { region.textContent = text; }, 50);
}
