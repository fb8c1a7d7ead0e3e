// Tables of steps and of nodes: only the rows in sight exist, and keys move through all of them.
const ROW_HEIGHT = 28;

class Grid {
  // `columns`: {title, width, number, value(row) to sort by, text(row)}. `open(row)` follows Enter and clicks.
  constructor(container, label, columns, rows, { open, selected }) {
    Object.assign(this, { columns, rows, open, selected, order: null, descending: false, cursor: 0 });
    const template = `grid-template-columns:${columns.map((column) => column.width).join(" ")}`;
    this.template = template;
    this.head = element("div", { role: "row", class: "head", style: template });
    this.body = element("div", { class: "body", role: "rowgroup" });
    this.root = element("div", { class: "grid", role: "grid", tabindex: 0, "aria-label": label, "aria-rowcount": rows.length + 1 }, this.head, this.body);
    columns.forEach((column, place) => {
      const cell = element("div", { role: "columnheader", class: column.number ? "number" : "" });
      cell.append(element("button", { type: "button", tabindex: -1, onclick: () => this.sort(place) }, column.title));
      this.head.append(cell);
    });
    container.append(this.root);
    this.root.addEventListener("scroll", () => this.draw());
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.root);
    this.fill(rows);
  }
  fill(rows) {
    this.rows = rows;
    this.cursor = Math.min(this.cursor, Math.max(0, rows.length - 1));
    this.body.style.height = `${rows.length * ROW_HEIGHT}px`;
    this.root.setAttribute("aria-rowcount", rows.length + 1);
    if (this.order !== null) this.arrange();
    this.draw(true);
  }
  sort(place) {
    this.descending = this.order === place ? !this.descending : Boolean(this.columns[place].number);
    this.order = place;
    [...this.head.children].forEach((cell, other) => {
      if (other === place) cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    this.arrange();
    this.draw(true);
  }
  arrange() {
    const value = this.columns[this.order].value, sign = this.descending ? -1 : 1;
    this.rows = [...this.rows].sort((a, b) => {
      const [one, other] = [value(a), value(b)];
      return sign * (one < other ? -1 : one > other ? 1 : 0);
    });
  }
  draw() {
    const first = Math.max(0, Math.floor(this.root.scrollTop / ROW_HEIGHT) - 4);
    const last = Math.min(this.rows.length, first + Math.ceil(this.root.clientHeight / ROW_HEIGHT) + 8);
    const shown = [];
    for (let number = first; number < last; number += 1) {
      const row = this.rows[number];
      const line = element("div", {
        role: "row", id: `row-${number}`, "aria-rowindex": number + 2, "aria-selected": String(this.selected(row)),
        style: `top:${number * ROW_HEIGHT}px;${this.template}`,
        onclick: () => { this.cursor = number; this.open(row); },
      });
      for (const column of this.columns) {
        const text = column.text(row);
        line.append(element("div", { role: "gridcell", class: column.number ? "number" : "", title: text }, text));
      }
      shown.push(line);
    }
    this.body.replaceChildren(...shown);
    this.root.setAttribute("aria-activedescendant", `row-${this.cursor}`);
  }
  key(event) {
    const page = Math.max(1, Math.floor(this.root.clientHeight / ROW_HEIGHT) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in moves) this.moveTo(this.cursor + moves[event.key]);
    else if (event.key !== "Enter") return;
    if (this.rows[this.cursor]) this.open(this.rows[this.cursor]);
    event.preventDefault();
    event.stopPropagation();
  }
  moveTo(number) {
    this.cursor = Math.max(0, Math.min(this.rows.length - 1, number));
    const top = this.cursor * ROW_HEIGHT, room = this.root.clientHeight - 32;
    if (top < this.root.scrollTop) this.root.scrollTop = top;
    else if (top + ROW_HEIGHT > this.root.scrollTop + room) this.root.scrollTop = top + ROW_HEIGHT - room;
    this.draw();
  }
  close() { this.observer.disconnect(); }
}

function stepsTable(container) {
  const found = stage();
  const rows = () => found.steps.map((step, number) => ({ step, number })).filter((row) => state.matches === null || state.matches.has(row.number));
  const share = (row) => row.step.seconds === null ? row.step.estimated / total : row.step.seconds / total;
  const total = found.steps.reduce((sum, step) => sum + cost(step), 0) || 1;
  const number = (title, value, text) => ({ title, width: "88px", number: true, value, text });
  const columns = [
    { title: "step", width: "64px", number: true, value: (row) => row.number, text: (row) => String(row.number) },
    { title: "operators", width: "minmax(120px,1.2fr)", value: (row) => title(row.step), text: (row) => title(row.step) },
    { title: "kernel", width: "minmax(120px,1.2fr)", value: (row) => row.step.kernel, text: (row) => row.step.kernel },
    number("measured", (row) => row.step.seconds ?? -1, (row) => time(row.step.seconds)),
    number("share", share, (row) => `${(100 * share(row)).toFixed(1)} %`),
    number("estimated", (row) => row.step.estimated, (row) => time(row.step.estimated)),
    number("FLOP", (row) => row.step.flops, (row) => count(row.step.flops, "")),
    number("bytes", (row) => row.step.bytes, (row) => bytes(row.step.bytes)),
    { title: "nodes", width: "minmax(120px,1.5fr)", value: (row) => row.step.nodes.join(), text: (row) => row.step.nodes.join(", ") },
  ];
  const grid = new Grid(container, "Steps", columns, rows(), { open: (row) => select(row.number, false), selected: (row) => row.number === state.step });
  return { redraw: () => grid.draw(), search: () => grid.fill(rows()), reveal: (step) => { const place = grid.rows.findIndex((row) => row.number === step); if (place >= 0) grid.moveTo(place); else grid.draw(); }, close: () => grid.close() };
}

const FATES = {
  steps: "computed by steps",
  removed: "removed by passes: not needed, or equal to another",
  folded: "folded: computes with constants only",
  shapes: "shape arithmetic, computed while planning",
  view: "view of another tensor",
  inlined: "its subgraph was put in its place",
  question: "ends a stage: its result is awaited",
  "not lowered": "not reached: a branch not taken, or a later stage",
  rewritten: "replaced when the graph was rewritten",
  unknown: "without a step; the artifact does not tell why",
};

function nodesTable(container) {
  const counts = new Map();
  for (const node of data.nodes) counts.set(node.fate, (counts.get(node.fate) ?? 0) + 1);
  const choice = element("select", { "aria-label": "What became of the node" }, element("option", { value: "" }, `all ${plural(data.nodes.length, "node")}`));
  for (const [fate, number] of counts) choice.append(element("option", { value: fate }, `${number} ${FATES[fate]}`));
  container.append(element("div", { class: "legend" }, choice));
  const place = (node) => node.steps.map(([at, step]) => data.stages.length > 1 ? `${at}.${step}` : String(step)).join(", ");
  const matches = (node) => !state.query || `${node.name} ${node.operator}`.toLowerCase().includes(state.query);
  const rows = () => data.nodes.filter((node) => matches(node) && (!choice.value || node.fate === choice.value));
  const columns = [
    { title: "node", width: "minmax(160px,2fr)", value: (node) => node.name, text: (node) => node.name },
    { title: "operator", width: "minmax(100px,.8fr)", value: (node) => node.operator, text: (node) => node.operator },
    { title: "became", width: "minmax(160px,1.4fr)", value: (node) => node.fate, text: (node) => FATES[node.fate] },
    { title: data.stages.length > 1 ? "stage.step" : "step", width: "minmax(70px,.6fr)", value: (node) => node.steps[0]?.[1] ?? Infinity, text: place },
  ];
  const grid = new Grid(container, "ONNX nodes", columns, rows(), {
    open(node) { if (node.steps.length) { if (node.steps[0][0] !== state.stage) setStage(node.steps[0][0]); select(node.steps[0][1], false); } },
    selected: (node) => node.steps.some(([at, step]) => at === state.stage && step === state.step),
  });
  choice.addEventListener("change", () => grid.fill(rows()));
  return { redraw: () => grid.draw(), search: () => grid.fill(rows()), reveal: () => grid.draw(), close: () => grid.close() };
}
