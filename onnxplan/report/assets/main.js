// Puts the page together: totals, tabs, search, selection and keys.
const byId = (id) => document.getElementById(id);
let view = null;

function surfaceView(make, label, legend, scale) {
  return (container) => {
    let surface;
    container.append(legend(() => surface));
    if (!stage().steps.length) {
      container.append(element("p", { class: "empty" }, "This stage has no steps: everything was computed while planning."));
      return { redraw() {}, search() {}, reveal() {}, close() {} };
    }
    surface = new Surface(container, label, make(stage()), scale);
    return { redraw: () => surface.redraw(), search: () => surface.redraw(), reveal: (step) => surface.reveal(step), close: () => surface.close() };
  };
}
const measured = () => stage().seconds !== null;
const VIEWS = {
  graph: ["Graph", surfaceView(graphView, "Graph of the plan. Arrow keys select steps, plus and minus zoom.", (surface) => familyLegend(fitButton(surface)), [0.005, 4])],
  memory: ["Memory", surfaceView(memoryView, "Arena: address by step.", (surface) => familyLegend(
    element("span", {}, `arena ${bytes(stage().arena)}, dashed: lower bound ${bytes(stage().bound)}`), fitButton(surface)), [1, 4000])],
  time: ["Time", surfaceView(timeView, "Time by step.", (surface) => familyLegend(
    element("span", {}, measured() ? "filled: measured · outlined: estimated on one thread" : "outlined: estimated on one thread"), fitButton(surface)), [1, 4000])],
  roofline: ["Roofline", surfaceView(rooflineView, "FLOP per byte against FLOP per second.", (surface) => familyLegend(
    element("span", {}, data.ceilings ? `measured ceilings, ${plural(data.threads, "thread")}` : "dashed: ceilings that estimates assume"), fitButton(surface)), [0.8, 60])],
  steps: ["Steps", stepsTable],
  nodes: ["Nodes", nodesTable],
};

function show(name) {
  if (view) view.close();
  state.view = name;
  for (const tab of byId("tabs").children) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
  const panel = byId("view");
  panel.replaceChildren();
  panel.setAttribute("aria-labelledby", `tab-${name}`);
  view = VIEWS[name][1](panel);
  if (state.step !== null) view.reveal(state.step);
}

function totals() {
  const found = stage(), flops = found.steps.reduce((sum, step) => sum + step.flops, 0);
  const moved = found.steps.reduce((sum, step) => sum + step.bytes, 0);
  const estimated = found.steps.reduce((sum, step) => sum + step.estimated, 0);
  const without = data.nodes.filter((node) => !node.steps.length).length;
  const many = data.stages.length > 1;
  const cells = [];
  if (data.run) cells.push([many ? "Whole run" : "Run", time(data.run.seconds), `median of ${data.run.runs}`]);
  if (measured() && many) cells.push(["This stage", time(found.seconds), found.host ? `host ${time(found.host)}` : ""]);
  const shared = data.device === "cpu" ? "on one thread" : "on the device";
  cells.push(["Estimate", time(estimated), shared]);
  cells.push(["Work", count(flops, "FLOP"), measured() ? `${count(flops / found.seconds, "FLOP/s")}` : `${bytes(moved)} moved`]);
  cells.push(["Steps", found.steps.length.toLocaleString("en"), plural(found.kernels, "kernel")]);
  const excess = found.bound ? found.arena / found.bound - 1 : 0;
  cells.push(["Arena", bytes(found.arena), excess > 0 ? `${(100 * excess).toFixed(1)} % above the bound` : "at its lower bound"]);
  cells.push(["Constants", bytes(found.constants[1]), plural(found.constants[0], "tensor")]);
  cells.push(["ONNX nodes", data.nodes.length.toLocaleString("en"), `${without.toLocaleString("en")} need no step`]);
  byId("totals").replaceChildren(...cells.map(([name, value, more]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, element("small", {}, more || "\u00a0")))));
  const note = found.ends ? `This stage ends because ${found.ends}.${data.complete || state.stage < data.stages.length - 1 ? "" : " Later stages were not planned."}` : "";
  byId("note").textContent = note;
  byId("note").hidden = !note;
}

function inspect() {
  const panel = byId("inspector"), found = stage();
  if (state.step === null) {
    const list = (heading, items) => [element("h3", {}, heading), element("ul", {}, ...items.map((item) => element("li", {}, element("code", {}, item))))];
    panel.replaceChildren(element("h2", {}, "Nothing selected"), element("p", {}, "Select a step in any view to see what it reads, writes and computes."),
      ...list("Inputs", found.inputs), ...list("Outputs", found.outputs));
    return;
  }
  const step = found.steps[state.step], first = found.inputs.length, box = first + state.step;
  const pairs = [["Measured", time(step.seconds)], ["Estimated", `${time(step.estimated)}, one thread`], ["Work", count(step.flops, "FLOP")], ["Moved", bytes(step.bytes)]];
  if (cost(step) > 0) pairs.push(["Rate", `${count(step.flops / cost(step), "FLOP/s")}, ${bytes(step.bytes / cost(step))}/s`]);
  pairs.push(["Tiles", String(step.tiles)]);
  if (step.scratch) pairs.push(["Scratch", bytes(step.scratch)]);
  const codes = (heading, items) => items.length ? [element("h3", {}, heading), element("ul", {}, ...items.map((item) => element("li", {}, element("code", {}, item))))] : [];
  const jump = (number) => {
    const other = number - first;
    if (other < 0) return `input ${found.inputs[number]}`;
    if (other >= found.steps.length) return `output ${found.outputs[other - found.steps.length]}`;
    return element("button", { type: "button", class: "link", onclick: () => select(other, true) }, `${other} ${title(found.steps[other])}`);
  };
  const neighbours = (heading, numbers) => numbers.length ? [element("h3", {}, heading), element("ul", {}, ...[...new Set(numbers)].map((number) => element("li", {}, jump(number))))] : [];
  const move = (text, label, target) => element("button", { type: "button", "aria-label": label, onclick: () => select(target, true) }, text);
  panel.replaceChildren(
    element("nav", { "aria-label": "Steps" }, move("◀", "Previous step", state.step - 1), move("▶", "Next step", state.step + 1)),
    element("h2", {}, element("span", { class: "swatch", style: `background:${colour(step)}` }), `Step ${state.step}: ${title(step)}`),
    element("code", {}, step.kernel),
    element("dl", { class: "pairs" }, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    ...codes(`From ${plural(step.nodes.length, "ONNX node")}`, step.nodes),
    ...codes("Writes", step.writes), ...codes("Reads", step.reads),
    ...neighbours("After", found.edges.filter((edge) => edge[1] === box).map((edge) => edge[0])),
    ...neighbours("Before", found.edges.filter((edge) => edge[0] === box).map((edge) => edge[1])),
  );
}

function select(number, reveal = true) {
  const steps = stage().steps.length;
  if (!steps) return;
  state.step = number === null ? null : Math.max(0, Math.min(steps - 1, number));
  inspect();
  if (state.step !== null && reveal) view.reveal(state.step);
  view.redraw();
}

function search() {
  state.query = byId("search").value.trim().toLowerCase();
  const found = stage();
  state.matches = null;
  if (state.query) {
    const text = (step) => [step.kernel, ...step.nodes, ...step.operators, ...step.buffers.map((each) => found.buffers[each].name)].join("\n").toLowerCase();
    state.matches = new Set(found.steps.flatMap((step, number) => text(step).includes(state.query) ? [number] : []));
  }
  byId("matches").textContent = state.matches ? plural(state.matches.size, "step") : "";
  view?.search();
}

function nextMatch(direction) {
  const found = [...(state.matches ?? [])];
  if (!found.length) return;
  const from = state.step ?? (direction > 0 ? -1 : Infinity);
  const next = direction > 0 ? found.find((each) => each > from) ?? found[0] : found.findLast((each) => each < from) ?? found.at(-1);
  select(next);
}

function setStage(number) {
  state.stage = number;
  state.step = null;
  byId("stage").value = String(number);
  totals();
  search();
  inspect();
  show(state.view);
}

function setTheme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  readPalette();
  view?.redraw();
}

function keys(event) {
  const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (typing && event.key === "Enter" && event.target.id === "search") return nextMatch(event.shiftKey ? -1 : 1);
  if (typing && event.key === "Escape") return event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return undefined;
  const tab = event.target.closest?.('[role="tab"]');
  const moves = tab ? {} : { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const step = { j: 1, k: -1, ...moves }[event.key];
  if (event.key === "/") byId("search").focus();
  else if (event.key === "Escape") select(null);
  else if (/^[1-6]$/.test(event.key)) show(Object.keys(VIEWS)[event.key - 1]);
  else if (tab && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
    const names = Object.keys(VIEWS), turn = event.key === "ArrowRight" ? 1 : names.length - 1;
    const name = names[(names.indexOf(state.view) + turn) % names.length];
    show(name);
    byId(`tab-${name}`).focus();
  } else if (step && !event.shiftKey && (event.key.length === 1 || event.target instanceof HTMLCanvasElement)) {
    select(state.step === null ? (step > 0 ? 0 : stage().steps.length - 1) : state.step + step);
  } else return undefined;
  event.preventDefault();
  return undefined;
}

function start() {
  byId("model").textContent = data.model;
  byId("target").textContent = data.target;
  byId("version").textContent = `onnxplan ${data.version}`;
  const hints = [["1–6", "views"], ["j k", "steps"], ["/", "search"], ["Enter", "next match"], ["+ − 0", "zoom"], ["Shift+arrows", "pan"]];
  byId("keys").append(...hints.flatMap(([key, what]) => [element("kbd", {}, key), ` ${what}   `]));
  for (const [name, [label]] of Object.entries(VIEWS)) {
    byId("tabs").append(element("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "view", onclick: () => show(name) }, label));
  }
  data.stages.forEach((each, number) => byId("stage").append(element("option", { value: number }, `${number + 1} of ${data.stages.length}: ${plural(each.steps.length, "step")}`)));
  byId("stage-tool").hidden = data.stages.length < 2;
  byId("stage").addEventListener("change", (event) => setStage(Number(event.target.value)));
  byId("search").addEventListener("input", search);
  document.addEventListener("keydown", keys);
  const preference = matchMedia("(prefers-color-scheme: dark)");
  setTheme(preference.matches);
  preference.addEventListener("change", (event) => setTheme(event.matches));
  byId("theme").addEventListener("click", () => { setTheme(root.dataset.theme !== "dark"); inspect(); });
  state.view = "graph";
  setStage(0);
  if (location.hash.length > 1 && location.hash.slice(1) in VIEWS) show(location.hash.slice(1));
}
start();
