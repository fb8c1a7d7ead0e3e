// What all views share: the data, the selection, words for numbers, and a canvas with zoom and hover.
const data = JSON.parse(document.getElementById("data").textContent);
const state = { stage: 0, step: null, query: "", matches: null };
const root = document.documentElement;

const stage = () => data.stages[state.stage];

function element(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") found.addEventListener("click", value);
    else if (value !== null && value !== false) found.setAttribute(name, value === true ? "" : value);
  }
  found.append(...children);
  return found;
}

function scaled(value, base, units) {
  let size = value, place = 0;
  while (Math.abs(size) >= base && place < units.length - 1) { size /= base; place += 1; }
  return `${place === 0 && Number.isInteger(size) ? size : size.toPrecision(3).replace(/e.*/, "")} ${units[place]}`;
}
const bytes = (value) => scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
const count = (value, unit) => scaled(value, 1000, ["", "k", "M", "G", "T", "P"]) + unit;
function time(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const size = Math.abs(seconds);
  for (const [limit, unit] of [[1e-6, "ns"], [1e-3, "µs"], [1, "ms"]]) {
    if (size < limit) return `${+(seconds / limit * 1000).toPrecision(3)} ${unit}`;
  }
  return `${+seconds.toPrecision(3)} s`;
}
const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const title = (step) => step.operators.length ? step.operators.join(" + ") : step.family;
const cost = (step) => step.seconds ?? step.estimated;

// Colours go to kernel families by their time; what is left shares the last one.
const families = (() => {
  const totals = new Map();
  for (const each of data.stages) for (const step of each.steps) totals.set(step.family, (totals.get(step.family) ?? 0) + cost(step));
  return [...totals.keys()].sort((a, b) => totals.get(b) - totals.get(a));
})();
const familyNumber = new Map(families.map((family, place) => [family, Math.min(place, 8)]));
let palette = {};
function readPalette() {
  const style = getComputedStyle(root);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  palette = { series: Array.from({ length: 9 }, (_, place) => read(`series-${place}`)) };
  for (const name of ["page", "surface", "line", "ink", "soft", "accent", "mark"]) palette[name] = read(name);
}
const colour = (step) => palette.series[familyNumber.get(step.family)];

function familyLegend(...extra) {
  const present = families.filter((family) => stage().steps.some((step) => step.family === family));
  const items = present.slice(0, 9).map((family) => {
    const swatch = element("span", { class: "swatch", style: `background:var(--series-${familyNumber.get(family)})` });
    return element("span", {}, swatch, family);
  });
  if (present.length > 9) items.push(element("span", {}, `and ${present.length - 9} more`));
  return element("div", { class: "legend" }, ...items, element("span", { class: "grow" }), ...extra);
}

const tooltip = document.getElementById("tooltip");
function showTooltip(text, event) {
  tooltip.hidden = !text;
  if (!text) return;
  tooltip.textContent = text;
  const box = tooltip.getBoundingClientRect();
  const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - box.width - 10 : event.clientX + 14;
  const top = event.clientY + 16 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 16;
  tooltip.style.left = `${Math.max(4, left)}px`;
  tooltip.style.top = `${Math.max(4, top)}px`;
}
const stepText = (number) => {
  const step = stage().steps[number];
  const measured = step.seconds === null ? "" : `${time(step.seconds)} measured, `;
  return `step ${number}: ${title(step)}\n${step.kernel}\n${measured}${time(step.estimated)} estimated on one thread\n${step.nodes.join(", ").slice(0, 300)}`;
};

// A canvas that fills its container. `view` draws with a d3.zoom transform, tells what lies under a point
// ({step, text}) and may say how keys move the selection.
class Surface {
  constructor(container, label, view, scale = [0.2, 4000]) {
    this.view = view;
    this.canvas = element("canvas", { tabindex: 0, role: "img", "aria-label": label });
    this.holder = element("div", { class: "stage-canvas" }, this.canvas);
    container.append(this.holder);
    this.context = this.canvas.getContext("2d");
    this.zoom = d3.zoom().scaleExtent(scale).on("zoom", () => this.redraw());
    this.selection = d3.select(this.canvas).call(this.zoom).on("dblclick.zoom", null);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.holder);
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => showTooltip(""));
    this.canvas.addEventListener("click", (event) => {
      const found = this.view.hit(...d3.pointer(event, this.canvas));
      if (found && found.step !== null && found.step !== undefined) select(found.step, false);
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.resize();
    if (view.fit) view.fit(this);
  }
  get transform() { return d3.zoomTransform(this.canvas); }
  set transform(value) { this.selection.call(this.zoom.transform, value); }
  resize() {
    const box = this.holder.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    this.width = box.width; this.height = box.height;
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.zoom.extent([[0, 0], [this.width, this.height]]);
    this.redraw();
  }
  redraw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.context.clearRect(0, 0, this.width, this.height);
      this.context.font = '12px system-ui, "DejaVu Sans", sans-serif';
      this.view.draw(this.context, this.width, this.height, this.transform);
    });
  }
  hover(event) {
    const found = this.view.hit(...d3.pointer(event, this.canvas));
    this.canvas.style.cursor = found ? "pointer" : "grab";
    showTooltip(found ? found.text : "", event);
  }
  key(event) {
    if (event.key === "+" || event.key === "=") this.selection.call(this.zoom.scaleBy, 1.5);
    else if (event.key === "-") this.selection.call(this.zoom.scaleBy, 1 / 1.5);
    else if (event.key === "0") this.fit();
    else if (event.shiftKey && event.key.startsWith("Arrow")) {
      const distance = 80 / this.transform.k;
      const [x, y] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      this.selection.call(this.zoom.translateBy, x * distance, y * distance);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
  fit() {
    if (this.view.fit) this.view.fit(this);
    else this.transform = d3.zoomIdentity;
  }
  reveal(number) { if (this.view.reveal) this.view.reveal(this, number); this.redraw(); }
  close() { this.observer.disconnect(); cancelAnimationFrame(this.pending); showTooltip(""); }
}
const fitButton = (surface) => element("button", { type: "button", onclick: () => surface().fit() }, "Fit");
