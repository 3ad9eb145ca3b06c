"use strict";
// Filters, sorts and opens. Without scripts every table stays whole. Text from data is only ever set as text.
const SVG = (document.querySelector("svg") || {}).namespaceURI; // the dialog has one
const SIDE = 224; // px of a crop, the unit of all places
const FRESH = 200; // rows whose thumbnails are made for paper though nobody has scrolled there

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const draw = (tag, attributes = {}, ...children) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

// --- clips: JSON blocks, parsed when asked for ------------------------------------------------------

const blocks = new Map();
for (const block of document.querySelectorAll("script[data-clip]")) blocks.set(block.dataset.clip, block);
const clipOf = (id) => (blocks.has(id) ? JSON.parse(blocks.get(id).textContent) : null);

const fillThumbs = (row) => {
  if (row.dataset.filled) return;
  row.dataset.filled = "1";
  const clip = clipOf(row.dataset.clip);
  for (const cell of row.querySelectorAll("td.thumb")) {
    const source = clip && clip[cell.dataset.view];
    if (source) cell.append(make("img", { src: source, alt: `${cell.dataset.view} of ${clip.name}`, decoding: "async" }));
  }
};

// --- tables: filter, sort, keys --------------------------------------------------------------------

class ClipTable {
  constructor(table) {
    this.table = table;
    this.body = table.tBodies[0];
    this.rows = [...this.body.rows];
    this.order = [...this.rows];
    this.form = document.querySelector(`form[data-table="${table.id}"]`);
    this.heads();
    if (this.form) this.controls();
    this.watch();
    this.keys();
    this.focusable(this.shown()[0]);
  }

  shown() {
    return this.order.filter((row) => !row.hidden);
  }

  heads() {
    for (const head of this.table.querySelectorAll("th[data-sort]")) {
      const button = make("button", { type: "button", class: "sort" }, ...head.childNodes);
      button.addEventListener("click", () => this.sort(head));
      head.append(button);
    }
  }

  // First click: words A to Z, numbers smallest first; second click: the other way; third: as the page came.
  sort(head) {
    const states = { none: "ascending", ascending: "descending", descending: "none" };
    const state = states[head.getAttribute("aria-sort") || "none"];
    for (const other of this.table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    const { sort: field, kind } = head.dataset;
    this.order = [...this.rows];
    if (state !== "none") {
      head.setAttribute("aria-sort", state);
      const value = (row) => (kind === "number" ? parseFloat(row.dataset[field]) : row.dataset[field]);
      const keyed = this.rows.map((row) => [value(row), row]);
      const sign = state === "ascending" ? 1 : -1;
      const words = new Intl.Collator("en", { numeric: true });
      const empty = (v) => (kind === "number" ? Number.isNaN(v) : v === "");
      keyed.sort(([a], [b]) => {
        if (empty(a) || empty(b)) return empty(a) - empty(b); // what has no value comes last, both ways
        return sign * (kind === "number" ? a - b : words.compare(a, b));
      });
      this.order = keyed.map(([, row]) => row);
    }
    this.body.append(...this.order);
    this.focusable(this.shown()[0]);
  }

  controls() {
    this.fields = [...this.form.querySelectorAll("[data-field]")];
    this.output = this.form.querySelector("output");
    this.form.hidden = false;
    this.form.addEventListener("input", () => this.filter());
    this.form.addEventListener("reset", () => setTimeout(() => this.filter()));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.filter();
  }

  filter() {
    const tests = this.fields.map((field) => this.test(field)).filter(Boolean);
    let count = 0;
    for (const row of this.rows) {
      const fits = tests.every((test) => test(row.dataset));
      row.hidden = !fits;
      count += fits;
    }
    this.output.textContent = `${count} of ${this.rows.length} clips`;
    this.focusable(this.shown()[0]);
  }

  test(field) {
    const { field: name, test } = field.dataset;
    const value = field.type === "checkbox" ? (field.checked ? field.value : "") : field.value.trim();
    if (!value) return null;
    if (test === "words") {
      const words = value.toLowerCase().split(/\s+/);
      return (data) => words.every((word) => data[name].toLowerCase().includes(word));
    }
    if (test === "has") return (data) => (value === "*" ? data[name] !== "" : data[name].split(",").includes(value));
    if (test === "most") return (data) => data[name] !== "" && parseFloat(data[name]) <= parseFloat(value);
    return (data) => data[name] === value;
  }

  // Sets the form to exactly `wanted` and shows what is left.
  follow(wanted) {
    this.form.reset();
    for (const field of this.fields) if (wanted[field.name] !== undefined) field.value = wanted[field.name];
    for (const field of this.fields) if (field.type === "checkbox") field.checked = wanted[field.name] !== undefined;
    setTimeout(() => {
      this.filter();
      const first = this.shown()[0];
      this.table.closest("section").scrollIntoView();
      if (first) first.focus({ preventScroll: true });
    });
  }

  watch() {
    const seen = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) fillThumbs(target);
    }, { rootMargin: "300px" });
    for (const row of this.rows) seen.observe(row);
    window.addEventListener("beforeprint", () => this.shown().slice(0, FRESH).forEach(fillThumbs));
  }

  focusable(row) {
    if (this.current) this.current.removeAttribute("tabindex");
    this.current = row;
    if (row) row.tabIndex = 0;
  }

  go(row) {
    if (!row) return;
    this.focusable(row);
    row.focus();
    row.scrollIntoView({ block: "nearest" });
  }

  keys() {
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (!row || event.target.closest("a, button") || getSelection().toString()) return;
      this.focusable(row);
      openClip(this, row);
    });
    this.body.addEventListener("keydown", (event) => {
      const shown = this.shown();
      const at = shown.indexOf(event.target.closest("tr"));
      const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1, PageDown: at + 8, PageUp: at - 8 };
      if (event.key in moves && at >= 0) {
        event.preventDefault();
        this.go(shown[Math.max(0, Math.min(shown.length - 1, moves[event.key]))]);
      } else if (event.key === "Enter" && at >= 0) {
        event.preventDefault();
        openClip(this, shown[at]);
      }
    });
  }
}

// --- one clip, large -------------------------------------------------------------------------------

const dialog = document.getElementById("clip");
let open = null; // {table, row}
let blinking = 0;

const picture = (href, ...over) => draw("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, role: "img" },
  draw("image", { href, width: SIDE, height: SIDE, preserveAspectRatio: "none" }), ...over);

const panel = (caption, drawn, legend) => {
  const title = draw("title");
  title.textContent = caption;
  drawn.prepend(title);
  const figure = make("figure", {}, make("figcaption", {}, caption), drawn);
  if (legend) figure.append(make("p", { class: "scale" }, ...legend));
  return figure;
};

const marks = (clip) => {
  const points = draw("g", { class: "points" });
  for (const [x, y] of clip.points || []) points.append(draw("circle", { cx: x, cy: y, r: 1.5 }));
  const box = draw("g", { class: "box" });
  if (clip.box) box.append(draw("polygon", { points: clip.box.map((p) => p.join(",")).join(" ") }));
  return [box, points];
};

// The onset frame as it was: face box and landmarks where the detector put them, and what the crop was cut from.
const sourceOf = (clip) => {
  const [width, height] = clip.size;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, draw("image", { href: clip.source, width, height }));
  if (clip.place) {
    const [[x, y], [ax, ay], , [bx, by]] = clip.place; // the crop's corners: its two sides give the way back from crop px
    const back = [ax - x, ay - y, bx - x, by - y].map((side) => side / SIDE);
    const outline = draw("polygon", { class: "cut", points: clip.place.map((p) => p.join(",")).join(" ") });
    svg.append(outline, draw("g", { transform: `matrix(${back.join(" ")} ${x} ${y})` }, ...marks(clip)));
  }
  return panel(`source, frame ${clip.frames[0]}: face box, landmarks and the crop (dashed)`, svg);
};

const arrowsOf = (clip) => {
  const bytes = Uint8Array.from(atob(clip.arrows), (c) => c.charCodeAt(0));
  const steps = new Int8Array(bytes.buffer);
  const n = steps.length / 2;
  const columns = Math.floor(SIDE / clip.step);
  const group = draw("g", { class: "arrows" });
  for (let i = 0; i < n; i += 1) {
    const [u, v] = [steps[i], steps[n + i]];
    if (u === -128 || Math.hypot(u, v) * clip.unit < 0.08 * 40 * clip.unit) continue; // would be a dot
    const x = ((i % columns) + 0.5) * clip.step - 0.5;
    const y = (Math.floor(i / columns) + 0.5) * clip.step - 0.5;
    group.append(arrow(x, y, u * clip.unit * clip.times, v * clip.unit * clip.times));
  }
  return group;
};

const arrow = (x, y, dx, dy) => {
  const length = Math.hypot(dx, dy);
  const [ux, uy] = [dx / length, dy / length];
  const head = Math.min(4, 0.6 * length);
  const [bx, by] = [x + dx - ux * head, y + dy - uy * head];
  const d = `M${x},${y}L${bx},${by}M${x + dx},${y + dy}L${bx - uy * head * 0.45},${by + ux * head * 0.45}`
    + `L${bx + uy * head * 0.45},${by - ux * head * 0.45}Z`;
  return draw("path", { d });
};

const curveOf = (clip) => {
  const { frames, values, method } = clip.curve;
  const [width, height, left, top] = [520, 150, 8, 22];
  const first = frames[0];
  const last = Math.max(frames[frames.length - 1], clip.offset || 0);
  const x = (frame) => left + ((frame - first) / (last - first || 1)) * (width - 2 * left);
  const y = (value) => top + (1 - value) * (height - top - 22);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const words = (text, at, line, anchor) => {
    const element = draw("text", { x: at, y: line, "text-anchor": anchor });
    element.textContent = text;
    return element;
  };
  const title = draw("title");
  title.textContent = `apex curve of ${method}, frames ${first} to ${last}, chosen ${clip.frames[1]}`;
  svg.append(title, draw("line", { class: "axis", x1: left, x2: width - left, y1: y(0), y2: y(0) }));
  svg.append(draw("polyline", { class: "line", points: frames.map((f, i) => `${x(f)},${y(values[i])}`).join(" ") }));
  const chosen = clip.frames[1];
  svg.append(draw("line", { class: "chosen", x1: x(chosen), x2: x(chosen), y1: top - 6, y2: y(0) }));
  const at = frames.indexOf(chosen);
  if (at >= 0) svg.append(draw("circle", { class: "chosen", cx: x(chosen), cy: y(values[at]), r: 4 }));
  const anchor = x(chosen) < width * 0.2 ? "start" : x(chosen) > width * 0.8 ? "end" : "middle";
  svg.append(words(`apex ${chosen}`, x(chosen), 12, anchor));
  svg.append(words(`onset ${first}`, left, height - 6, "start"), words(`offset ${last}`, width - left, height - 6, "end"));
  return svg;
};

const wheelOf = () => {
  const legend = document.querySelector(".legend img");
  return legend ? [make("img", { src: legend.src, alt: "colour wheel", class: "wheel" })] : [];
};

// As wide as the panel, so that its arrow is as long as one of that length above it.
const keyOf = (clip) => {
  const long = parseFloat(clip.key) * clip.times;
  const words = draw("text", { x: long + 8, y: 17 });
  words.textContent = `${clip.key} px (drawn ×${clip.times})`;
  return draw("svg", { viewBox: `0 0 ${SIDE} 26`, class: "key arrows" }, arrow(1, 13, long, 0), words);
};

const show = (clip) => {
  const views = document.getElementById("clip-views");
  views.replaceChildren();
  const [onset, apex] = clip.frames || [];
  if (clip.onset) views.append(panel(`onset, frame ${onset}`, picture(clip.onset, ...marks(clip))));
  if (clip.apex) views.append(panel(`apex, frame ${apex}`, picture(clip.apex)));
  if (clip.flow) {
    views.append(panel("flow, direction as colour", picture(clip.flow), [...wheelOf(), `full colour: ${clip.limit} px`]));
    const under = draw("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, role: "img" });
    if (clip.onset) under.append(draw("image", { href: clip.onset, width: SIDE, height: SIDE, class: "grey" }));
    under.append(arrowsOf(clip));
    views.append(panel("flow as arrows", under, [keyOf(clip)]));
  }
  const facts = document.getElementById("clip-facts");
  facts.replaceChildren();
  for (const [name, value] of clip.facts || []) facts.append(make("dt", {}, name), make("dd", {}, value));
  if (clip.place) {
    const [cx, cy] = clip.place.reduce(([a, b], [x, y]) => [a + x / 4, b + y / 4], [0, 0]);
    const words = `${(SIDE / clip.scale).toFixed(0)} px wide about (${cx.toFixed(0)}, ${cy.toFixed(0)}) of the source, `
      + `turned by ${Math.abs(clip.turn).toFixed(1)}°, scaled ×${clip.scale.toFixed(2)}`;
    facts.append(make("dt", {}, "crop"), make("dd", {}, words));
  }
  for (const note of clip.notes || []) facts.append(make("dt", {}, "note"), make("dd", {}, note));
  const source = document.getElementById("clip-source");
  source.replaceChildren();
  if (clip.source) source.append(sourceOf(clip));
  const curve = document.getElementById("clip-curve");
  curve.replaceChildren();
  if (clip.curve) {
    const chose = clip.curve.chose ? "" : "; the apex is annotated, not chosen by it";
    curve.append(make("figcaption", {}, `apex curve of “${clip.curve.method}”, lowest to highest${chose}`), curveOf(clip));
  } else if (clip.uncurved) curve.append(make("figcaption", {}, `No apex curve: ${clip.uncurved}.`));
};

const openClip = (table, row) => {
  const clip = clipOf(row.dataset.clip);
  if (!dialog || !clip) return;
  open = { table, row };
  blink(false);
  show(clip);
  document.getElementById("clip-title").textContent = clip.name;
  const shown = table.shown();
  document.getElementById("clip-place").textContent = `${shown.indexOf(row) + 1} of ${shown.length}`;
  if (!dialog.open) dialog.showModal();
  history.replaceState(null, "", `#clip=${encodeURIComponent(row.dataset.clip)}`);
};

const step = (by) => {
  const shown = open.table.shown();
  const row = shown[shown.indexOf(open.row) + by];
  if (row) openClip(open.table, row);
};

// Onset and apex in turn in the first panel, twice a second: what moves is then seen to move.
const blink = (on) => {
  clearInterval(blinking);
  blinking = 0;
  const button = document.getElementById("blink");
  button.setAttribute("aria-pressed", String(on));
  const image = dialog.querySelector(".views image");
  const clip = open && clipOf(open.row.dataset.clip);
  if (!image || !clip || !clip.apex) return;
  image.setAttribute("href", clip.onset);
  let turn = false;
  if (on) {
    blinking = setInterval(() => {
      turn = !turn;
      image.setAttribute("href", turn ? clip.apex : clip.onset);
    }, 500);
  }
};

const dialogKeys = () => {
  document.getElementById("clip-back").addEventListener("click", () => step(-1));
  document.getElementById("clip-next").addEventListener("click", () => step(1));
  document.getElementById("clip-close").addEventListener("click", () => dialog.close());
  document.getElementById("blink").addEventListener("click", () => blink(!blinking));
  for (const name of ["points", "box"]) {
    const box = document.getElementById(`show-${name}`);
    box.addEventListener("change", () => dialog.classList.toggle(`no-${name}`, !box.checked));
  }
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") step(1);
    else if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "b") blink(!blinking);
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("close", () => {
    blink(false);
    history.replaceState(null, "", "#");
    if (open) open.table.go(open.row);
    open = null;
  });
};

// --- begin -----------------------------------------------------------------------------------------

const tables = new Map();
for (const table of document.querySelectorAll("table.sortable")) tables.set(table.id, new ClipTable(table));
if (dialog) dialogKeys();

for (const link of document.querySelectorAll("a[data-filter]")) {
  link.addEventListener("click", (event) => {
    const target = document.querySelector(`${link.getAttribute("href")} table.sortable`);
    if (!target) return;
    event.preventDefault();
    tables.get(target.id).follow(JSON.parse(link.dataset.filter));
  });
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, select, textarea")) return;
  const search = document.querySelector("form.filter input[type=search]");
  if (!search || (dialog && dialog.open)) return;
  event.preventDefault();
  search.focus();
  search.select();
});

const asked = decodeURIComponent(location.hash).match(/^#clip=(.*)$/);
if (asked) {
  for (const table of tables.values()) {
    const row = table.rows.find((each) => each.dataset.clip === asked[1]);
    if (row) openClip(table, row);
  }
}
