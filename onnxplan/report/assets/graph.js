// The plan as a graph: boxes at the places that were computed ahead, drawn only where they can be seen.
const BOX = { width: 190, height: 50, column: 216, row: 82, track: 14 };

function graphModel(found) {
  const { rows, columns, lanes, tracks } = found.layout;
  const starts = [];
  let x = 0;
  for (let gap = 0; gap < tracks.length; gap += 1) {
    const left = x;
    x += tracks[gap] * BOX.track + (tracks[gap] ? 10 : 0);
    starts.push({ gap: left, column: x });
    x += gap < tracks.length - 1 ? BOX.column : 0;
  }
  const first = found.inputs.length;
  const boxes = rows.map((row, number) => {
    const step = number - first;
    const kind = step < 0 ? "input" : step < found.steps.length ? "step" : "output";
    const index = kind === "step" ? step : kind === "input" ? number : step - found.steps.length;
    return { number, kind, index, row, x: starts[columns[number]].column, y: row * BOX.row };
  });
  const centre = (box) => box.x + BOX.width / 2;
  const edges = found.edges.map(([source, target, buffer, size], place) => {
    const from = boxes[source], to = boxes[target], lane = lanes[place];
    const x = lane === null ? null : starts[lane[0]].gap + (lane[1] + 0.5) * BOX.track + 2;
    return {
      source, target, buffer, size, lane: x,
      x0: centre(from), y0: from.y + BOX.height, x1: centre(to), y1: to.y,
      left: Math.min(centre(from), centre(to), x ?? Infinity), right: Math.max(centre(from), centre(to), x ?? -Infinity),
    };
  });
  const byRow = [];
  for (const box of boxes) (byRow[box.row] ??= []).push(box);
  // Edges by blocks of rows, so that drawing looks at few of many.
  const block = 32, blocks = [];
  for (const edge of edges) {
    const last = Math.floor(edge.y1 / BOX.row / block);
    for (let place = Math.floor(edge.y0 / BOX.row / block); place <= last; place += 1) (blocks[place] ??= []).push(edge);
  }
  return { boxes, edges, byRow, block, blocks, width: x, height: (byRow.length - 1) * BOX.row + BOX.height, first };
}

function clip(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let low = 0, high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${text.slice(0, middle)}…`).width <= width) low = middle; else high = middle - 1;
  }
  return `${text.slice(0, low)}…`;
}

function graphView(found) {
  const model = graphModel(found);
  let current = d3.zoomIdentity;
  const selectedBox = () => state.step === null ? -1 : model.first + state.step;
  const buffers = found.buffers;
  const tensor = (edge) => buffers[edge.buffer].name || `${buffers[edge.buffer].space} ${edge.buffer}`;
  const label = (box) => box.kind === "step" ? title(found.steps[box.index]) : (box.kind === "input" ? found.inputs : found.outputs)[box.index];

  function path(context, edge) {
    const middle = BOX.row - BOX.height;
    context.moveTo(edge.x0, edge.y0);
    if (edge.lane === null) {
      const bend = Math.max(middle / 2, (edge.y1 - edge.y0) / 2);
      context.bezierCurveTo(edge.x0, edge.y0 + bend, edge.x1, edge.y1 - bend, edge.x1, edge.y1);
      return;
    }
    const top = edge.y0 + middle, bottom = edge.y1 - middle;
    context.bezierCurveTo(edge.x0, edge.y0 + middle / 2, edge.lane, top - middle / 2, edge.lane, top);
    context.lineTo(edge.lane, bottom);
    context.bezierCurveTo(edge.lane, bottom + middle / 2, edge.x1, edge.y1 - middle / 2, edge.x1, edge.y1);
  }

  function visibleEdges(top, bottom) {
    const seen = new Set();
    const size = model.block * BOX.row;
    for (let place = Math.max(0, Math.floor(top / size)); place <= Math.floor(bottom / size); place += 1) {
      for (const edge of model.blocks[place] ?? []) seen.add(edge);
    }
    return seen;
  }

  function draw(context, width, height, transform) {
    current = transform;
    const [left, top] = transform.invert([0, 0]), [right, bottom] = transform.invert([width, height]);
    const chosen = selectedBox(), small = transform.k < 0.3;
    context.save();
    context.translate(transform.x, transform.y);
    context.scale(transform.k, transform.k);
    const strong = [];
    context.lineWidth = 1.3 / Math.max(transform.k, 0.5);
    context.strokeStyle = palette.soft;
    context.globalAlpha = 0.55;
    context.beginPath();
    for (const edge of visibleEdges(top, bottom)) {
      if (edge.right < left || edge.left > right) continue;
      if (edge.source === chosen || edge.target === chosen) strong.push(edge); else path(context, edge);
    }
    context.stroke();
    context.globalAlpha = 1;
    context.lineWidth = 2.6 / Math.max(transform.k, 0.5);
    context.strokeStyle = palette.accent;
    context.beginPath();
    for (const edge of strong) path(context, edge);
    context.stroke();
    const last = Math.min(model.byRow.length - 1, Math.ceil(bottom / BOX.row));
    for (let row = Math.max(0, Math.floor(top / BOX.row) - 1); row <= last; row += 1) {
      for (const box of model.byRow[row] ?? []) {
        if (box.x + BOX.width >= left && box.x <= right) drawBox(context, box, box.number === chosen, small);
      }
    }
    context.restore();
  }

  function drawBox(context, box, chosen, small) {
    const step = box.kind === "step" ? found.steps[box.index] : null;
    const faded = state.matches !== null && !(step && state.matches.has(box.index));
    context.globalAlpha = faded ? 0.25 : 1;
    const shade = step ? colour(step) : palette.soft;
    context.beginPath();
    context.roundRect(box.x, box.y, BOX.width, BOX.height, step ? 7 : 25);
    context.fillStyle = small && step ? shade : palette.surface;
    context.fill();
    context.lineWidth = chosen ? 3.5 : 1.3;
    context.strokeStyle = chosen ? palette.accent : small ? shade : palette.line;
    if (!step) context.setLineDash([5, 4]);
    context.stroke();
    context.setLineDash([]);
    if (!small) {
      if (step) {
        context.fillStyle = shade;
        context.beginPath();
        context.roundRect(box.x, box.y, 7, BOX.height, [7, 0, 0, 7]);
        context.fill();
      }
      context.fillStyle = palette.ink;
      context.font = '600 13px system-ui, "DejaVu Sans", sans-serif';
      context.fillText(clip(context, label(box), BOX.width - 26), box.x + 15, box.y + 20);
      context.fillStyle = palette.soft;
      context.font = '12px system-ui, "DejaVu Sans", sans-serif';
      const detail = step ? `${box.index} · ${step.family} · ${time(cost(step))}` : box.kind;
      context.fillText(clip(context, detail, BOX.width - 26), box.x + 15, box.y + 39);
    }
    context.globalAlpha = 1;
  }

  function hit(px, py) {
    const [x, y] = current.invert([px, py]);
    for (const box of model.byRow[Math.floor(y / BOX.row)] ?? []) {
      if (x >= box.x && x <= box.x + BOX.width && y >= box.y && y <= box.y + BOX.height) {
        return box.kind === "step" ? { step: box.index, text: stepText(box.index) } : { text: `${box.kind} ${label(box)}` };
      }
    }
    const reach = 6 / current.k;
    for (const edge of visibleEdges(y, y)) {
      if (y < edge.y0 || y > edge.y1) continue;
      const part = (y - edge.y0) / (edge.y1 - edge.y0);
      const at = edge.lane ?? edge.x0 + (edge.x1 - edge.x0) * part * part * (3 - 2 * part);
      if (Math.abs(x - at) < reach) {
        const name = (number) => model.boxes[number].kind === "step" ? `step ${number - model.first}` : label(model.boxes[number]);
        return { text: `${tensor(edge)}\n${bytes(edge.size)}, ${name(edge.source)} → ${name(edge.target)}` };
      }
    }
    return null;
  }

  return {
    draw, hit,
    fit(surface) {
      const whole = Math.min(1, (surface.width - 40) / model.width, (surface.height - 40) / model.height);
      // A long plan begins at its top, large enough to be read.
      const scale = Math.max(whole, Math.min(0.8, (surface.width - 40) / Math.min(model.width, 5 * BOX.column)));
      const target = model.boxes[selectedBox() < 0 ? 0 : selectedBox()];
      const centred = model.width * scale <= surface.width || !target
        ? (surface.width - model.width * scale) / 2 : surface.width / 2 - (target.x + BOX.width / 2) * scale;
      surface.transform = d3.zoomIdentity.translate(centred, 20).scale(scale);
    },
    reveal(surface, number) {
      const box = model.boxes[model.first + number], t = surface.transform;
      const x = t.applyX(box.x), y = t.applyY(box.y);
      const inside = x > 0 && y > 0 && x + BOX.width * t.k < surface.width && y + BOX.height * t.k < surface.height;
      if (inside && t.k > 0.3) return;
      const scale = Math.max(t.k, 0.6);
      surface.transform = d3.zoomIdentity
        .translate(surface.width / 2 - (box.x + BOX.width / 2) * scale, surface.height / 2 - (box.y + BOX.height / 2) * scale)
        .scale(scale);
    },
  };
}
