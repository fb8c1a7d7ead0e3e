// Memory by step, time by step, and the roofline: canvases with axes.
const MARGIN = { left: 74, right: 18, top: 16, bottom: 38 };

function axes(context, width, height, x, y, xTicks, yTicks, xTitle, yTitle) {
  context.fillStyle = palette.soft;
  context.strokeStyle = palette.line;
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const [value, text] of yTicks) {
    const at = Math.round(y(value)) + 0.5;
    if (at < MARGIN.top - 1 || at > height - MARGIN.bottom + 1) continue;
    context.beginPath(); context.moveTo(MARGIN.left, at); context.lineTo(width - MARGIN.right, at); context.stroke();
    context.fillText(text, MARGIN.left - 8, at);
  }
  context.textAlign = "center";
  for (const [value, text] of xTicks) {
    const at = Math.round(x(value)) + 0.5;
    if (at < MARGIN.left - 1 || at > width - MARGIN.right + 1) continue;
    context.beginPath(); context.moveTo(at, height - MARGIN.bottom); context.lineTo(at, height - MARGIN.bottom + 4); context.stroke();
    context.fillText(text, at, height - MARGIN.bottom + 13);
  }
  context.textAlign = "right";
  context.fillText(xTitle, width - MARGIN.right, height - 8);
  context.textAlign = "left";
  context.fillText(yTitle, 8, 8);
  context.textBaseline = "alphabetic";
}

function insidePlot(context, width, height, paint) {
  context.save();
  context.beginPath();
  context.rect(MARGIN.left, MARGIN.top, Math.max(0, width - MARGIN.left - MARGIN.right), Math.max(0, height - MARGIN.top - MARGIN.bottom));
  context.clip();
  paint();
  context.restore();
}

const integerTicks = (scale, number) => scale.ticks(number).filter(Number.isInteger).map((value) => [value, String(value)]);

// Ticks at powers of two, so that labels are round in KiB and MiB.
function byteTicks(limit) {
  const rough = Math.max(limit, 1) / 6;
  const spacing = 2 ** Math.ceil(Math.log2(rough));
  return Array.from({ length: Math.floor(limit / spacing) + 1 }, (_, place) => [place * spacing, place ? bytes(place * spacing) : "0"]);
}

function revealStep(count, number, surface) {
  const t = surface.transform, inner = surface.width - MARGIN.left - MARGIN.right;
  const place = MARGIN.left + inner * (number + 0.5) / count, at = t.applyX(place);
  if (at >= MARGIN.left && at <= surface.width - MARGIN.right) return;
  surface.transform = d3.zoomIdentity.translate(surface.width / 2 - place * t.k, t.y).scale(t.k);
}

function memoryView(found) {
  const steps = found.steps.length;
  const blocks = found.buffers
    .map((buffer, number) => ({ ...buffer, number }))
    .filter((buffer) => buffer.space === "arena" && buffer.size > 0);
  const limit = Math.max(found.arena, 1);
  let x = d3.scaleLinear(), y = d3.scaleLinear();
  const writer = (buffer) => found.steps[buffer.first];
  return {
    draw(context, width, height, transform) {
      x = transform.rescaleX(d3.scaleLinear([0, Math.max(steps, 1)], [MARGIN.left, width - MARGIN.right]));
      y = d3.scaleLinear([0, limit * 1.04], [height - MARGIN.bottom, MARGIN.top]);
      axes(context, width, height, x, y, integerTicks(x, 10), byteTicks(limit), "step", "address in the arena");
      insidePlot(context, width, height, () => {
        const chosen = state.step === null ? new Set() : new Set(found.steps[state.step].buffers);
        if (state.step !== null) {
          context.fillStyle = palette.accent;
          context.globalAlpha = 0.16;
          context.fillRect(x(state.step), 0, Math.max(1, x(state.step + 1) - x(state.step)), height);
          context.globalAlpha = 1;
        }
        for (const block of blocks) {
          const left = x(block.first), w = Math.max(1, x(block.last + 1) - left);
          if (left > width || left + w < 0) continue;
          const top = y(block.offset + block.size), h = Math.max(1, y(block.offset) - top);
          const faded = state.matches !== null && !state.matches.has(block.first) && !state.matches.has(block.last);
          context.globalAlpha = faded ? 0.12 : chosen.has(block.number) ? 1 : 0.72;
          context.fillStyle = colour(writer(block));
          context.fillRect(left, top, w, h);
          context.globalAlpha = 1;
          context.strokeStyle = chosen.has(block.number) ? palette.accent : palette.surface;
          context.lineWidth = chosen.has(block.number) ? 2 : 1;
          if (w > 3 && h > 3) context.strokeRect(left + 0.5, top + 0.5, w - 1, h - 1);
          if (w > 60 && h > 16 && block.name) {
            context.fillStyle = palette.surface;
            const from = Math.max(left, MARGIN.left) + 5;
            context.fillText(clip(context, block.name, left + w - from - 4), from, top + h / 2 + 4);
          }
        }
        context.strokeStyle = palette.mark;
        context.setLineDash([6, 4]);
        context.beginPath(); context.moveTo(0, y(found.bound)); context.lineTo(width, y(found.bound)); context.stroke();
        context.setLineDash([]);
      });
    },
    hit(px, py) {
      if (px < MARGIN.left) return null;
      const step = x.invert(px), address = y.invert(py);
      // The later buffer is in front.
      for (let place = blocks.length - 1; place >= 0; place -= 1) {
        const block = blocks[place];
        if (step < block.first || step >= block.last + 1 || address < block.offset || address > block.offset + block.size) continue;
        const nodes = writer(block).nodes.join(", ").slice(0, 300);
        return {
          step: block.first,
          text: `${block.name || "temporary"}\n${bytes(block.size)} at ${block.offset.toLocaleString("en")}\nsteps ${block.first} to ${block.last}\nwritten for ${nodes || "no node"}`,
        };
      }
      return null;
    },
    reveal(surface, number) { revealStep(steps, number, surface); },
  };
}

function timeView(found) {
  const steps = found.steps, top = Math.max(1e-9, ...steps.map((step) => Math.max(step.seconds ?? 0, step.estimated)));
  let x = d3.scaleLinear(), y = d3.scaleLinear();
  return {
    draw(context, width, height, transform) {
      x = transform.rescaleX(d3.scaleLinear([0, Math.max(steps.length, 1)], [MARGIN.left, width - MARGIN.right]));
      y = d3.scaleLinear([0, top * 1.05], [height - MARGIN.bottom, MARGIN.top]);
      axes(context, width, height, x, y, integerTicks(x, 10), y.ticks(6).map((value) => [value, value ? time(value) : "0"]), "step", "time");
      insidePlot(context, width, height, () => {
        const base = y(0), unit = x(1) - x(0);
        const begin = Math.max(0, Math.floor(x.invert(0))), end = Math.min(steps.length, Math.ceil(x.invert(width)));
        for (let number = begin; number < end; number += 1) {
          const step = steps[number], left = x(number);
          context.globalAlpha = state.matches !== null && !state.matches.has(number) ? 0.2 : 1;
          if (number === state.step) {
            context.fillStyle = palette.accent;
            context.globalAlpha = 0.2;
            context.fillRect(left, 0, Math.max(2, unit), height);
            context.globalAlpha = 1;
          }
          const wide = Math.max(1, unit * (step.seconds === null ? 0.8 : 0.44));
          if (step.seconds !== null) {
            context.fillStyle = colour(step);
            context.fillRect(left + unit * 0.06, y(step.seconds), wide, base - y(step.seconds));
          }
          const at = left + unit * (step.seconds === null ? 0.1 : 0.52), tip = y(step.estimated);
          if (unit > 6) {
            context.strokeStyle = palette.soft;
            context.lineWidth = 1.2;
            context.strokeRect(at + 0.5, tip + 0.5, wide - 1, base - tip);
          } else {
            context.fillStyle = palette.soft;
            context.fillRect(left, tip - 1, Math.max(1, unit), 2);
          }
        }
        context.globalAlpha = 1;
      });
    },
    hit(px, py) {
      const number = Math.floor(x.invert(px));
      if (px < MARGIN.left || number < 0 || number >= steps.length) return null;
      return { step: number, text: stepText(number) };
    },
    reveal(surface, number) { revealStep(steps.length, number, surface); },
  };
}

function rooflineView(found) {
  const rate = (step) => step.flops / cost(step);
  const points = found.steps
    .map((step, number) => ({ step, number, x: step.flops / step.bytes, y: rate(step) }))
    .filter((point) => point.step.flops > 0 && point.step.bytes > 0 && cost(point.step) > 0);
  const peak = data.ceilings ?? { flops: data.assumed.flops * (data.device === "cpu" ? data.threads : 1), bandwidth: data.assumed.bandwidth };
  const xs = [...points.map((point) => point.x), peak.flops / peak.bandwidth];
  const ys = [...points.map((point) => point.y), peak.flops, peak.byte_operations ?? peak.flops];
  const longest = Math.max(1e-12, ...points.map((point) => cost(point.step)));
  const span = (values) => [Math.min(...values) / 2, Math.max(...values) * 2];
  const [xSpan, ySpan] = [span(xs), span(ys)];
  let x = d3.scaleLog(), y = d3.scaleLog();
  const radius = (point) => 3.5 + 11 * Math.sqrt(cost(point.step) / longest);
  const powers = (scale) => {
    const [low, high] = scale.domain().map(Math.log10), found = [];
    for (let power = Math.ceil(low); power <= Math.floor(high); power += 1) found.push(10 ** power);
    return found;
  };
  return {
    draw(context, width, height, transform) {
      x = transform.rescaleX(d3.scaleLog(xSpan, [MARGIN.left, width - MARGIN.right]));
      y = transform.rescaleY(d3.scaleLog(ySpan, [height - MARGIN.bottom, MARGIN.top]));
      const number = (value) => String(+value.toPrecision(3));
      axes(context, width, height, x, y, powers(x).map((v) => [v, number(v)]), powers(y).map((v) => [v, number(v / 1e9)]), "FLOP / byte", "GFLOP/s");
      insidePlot(context, width, height, () => {
        const roof = (flops, dash) => {
          context.setLineDash(dash);
          context.beginPath();
          const ridge = flops / peak.bandwidth, [low, high] = x.domain();
          context.moveTo(x(low), y(low * peak.bandwidth));
          context.lineTo(x(ridge), y(flops));
          context.lineTo(x(Math.max(high, ridge)), y(flops));
          context.stroke();
          context.setLineDash([]);
        };
        context.strokeStyle = palette.mark;
        context.lineWidth = 2;
        roof(peak.flops, data.ceilings ? [] : [7, 4]);
        context.lineWidth = 1;
        if (peak.byte_operations && peak.byte_operations > peak.flops * 1.05) roof(peak.byte_operations, [3, 3]);
        context.fillStyle = palette.mark;
        context.textAlign = "right";
        context.fillText(`${count(peak.flops, "FLOP/s")}`, width - MARGIN.right - 6, y(peak.flops) - 7);
        context.textAlign = "left";
        for (const point of points) {
          context.globalAlpha = state.matches !== null && !state.matches.has(point.number) ? 0.12 : 0.72;
          context.fillStyle = colour(point.step);
          context.beginPath();
          context.arc(x(point.x), y(point.y), radius(point), 0, 7);
          context.fill();
          context.globalAlpha = 1;
          if (point.number === state.step) {
            context.strokeStyle = palette.accent;
            context.lineWidth = 3;
            context.stroke();
          }
        }
      });
    },
    hit(px, py) {
      let best = null, nearest = Infinity;
      for (const point of points) {
        const distance = Math.hypot(x(point.x) - px, y(point.y) - py);
        if (distance <= Math.max(8, radius(point)) && distance < nearest) { nearest = distance; best = point; }
      }
      if (!best) return null;
      const work = `${+best.x.toPrecision(3)} FLOP/byte, ${count(best.y, "FLOP/s")}`;
      return { step: best.number, text: `${stepText(best.number)}\n${work}` };
    },
  };
}
