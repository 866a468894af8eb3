'use strict';
// Curves as SVG. The runs and curves never change; `state` is what a person
// has chosen.
const data = JSON.parse(document.getElementById('data').textContent);
const state = {
  shown: data.runs.map(() => true), smoothing: 0, from: 0, axis: 'iteration',
  logarithmic: data.charts.map(() => false), printing: false,
};
const HEIGHT = 220, LEFT = 56, RIGHT = 12, TOP = 10, BOTTOM = 24;
// Runs differ in colour and in dashes, for eyes and printers without colour.
const DASHES = ['', '7 3', '2 3', '9 3 2 3'];
const colour = (run) => `var(--run${run % 7})`;
const dashes = (run) => DASHES[run % DASHES.length];

function element(parent, tag, attributes = {}, text) {
  const made = tag === 'svg' || parent.namespaceURI.endsWith('svg')
    ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}

function format(value) {
  const size = Math.abs(value);
  if (size >= 1e4 && size < 1e7) return value.toFixed(0);
  if (size >= 1e7 || (size && size < 1e-3)) {
    return value.toExponential(3).replace(/\.?0+e/, 'e');
  }
  return String(Number(value.toPrecision(4)));
}

// Exponential mean; divided by the sum of its weights, so that the beginning
// is not drawn towards zero.
function smooth(values, weight) {
  let sum = 0, weights = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    weights = weight * weights + (1 - weight);
    return sum / weights;
  });
}

// The curves of a chart that are shown, in the units of the chosen axis, and
// where the axis begins and ends.
function visibleCurves(chart) {
  const curves = [];
  data.runs.forEach((run, index) => {
    const curve = run.curves[chart.name], scale = run.scales[state.axis];
    if (!state.shown[index] || !curve || !scale) return;
    const pieces = curve.pieces.map(([at, values]) => ({
      x: at.map((iteration) => iteration * scale), raw: values,
      y: chart.smooth ? smooth(values, state.smoothing) : values,
    }));
    const marks = (iterations) => iterations.map((at) => [at, at * scale]);
    curves.push({run: index, pieces, bad: marks(curve.bad),
      resumes: marks(run.resumes)});
  });
  const high = extent(curves.flatMap((curve) => [
    ...curve.pieces.flatMap((piece) => piece.x),
    ...curve.bad.map(([, x]) => x)]))[1];
  const low = state.from * high;
  for (const curve of curves) {
    for (const piece of curve.pieces) {
      const first = piece.x.findIndex((x) => x >= low);
      for (const key of ['x', 'y', 'raw']) {
        piece[key] = first < 0 ? [] : piece[key].slice(first);
      }
    }
    for (const key of ['bad', 'resumes']) {
      curve[key] = curve[key].filter(([, x]) => x >= low);
    }
  }
  return {curves, low, high: high > low ? high : low + 1};
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + step / 1e6; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks(low, high) {
  const factors = high / low < 30 ? [1, 2, 5] : [1], ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const factor of factors) {
      const tick = factor * 10 ** power;
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  }
  const every = Math.ceil(ticks.length / 8);
  return ticks.length > 1 ? ticks.filter((_, i) => i % every === 0)
    : linearTicks(low, high, 4);
}

// From values to pixels, with ticks. A logarithm leaves out what has none.
function verticalScale(curves, logarithmic) {
  const values = curves.flatMap((curve) => curve.pieces.flatMap((piece) =>
    state.smoothing ? piece.y.concat(piece.raw) : piece.y));
  const usable = logarithmic ? values.filter((value) => value > 0) : values;
  let [low, high] = extent(usable);
  if (low > high) return null;
  const to = logarithmic ? Math.log : (value) => value;
  const from = logarithmic ? Math.exp : (value) => value;
  // Rounding errors of a constant are not worth an axis.
  const span = to(high) - to(low);
  const size = Math.max(Math.abs(to(low)), Math.abs(to(high)));
  const room = (span > size * 1e-6 ? span : size) * 0.05 || 1;
  [low, high] = [from(to(low) - room), from(to(high) + room)];
  const pixels = (HEIGHT - TOP - BOTTOM) / (to(high) - to(low));
  const place = (value) => HEIGHT - BOTTOM - (to(value) - to(low)) * pixels;
  place.ticks = logarithmic ? logTicks(low, high) : linearTicks(low, high, 4);
  place.has = (value) => !logarithmic || value > 0;
  return place;
}

function path(xs, ys, toX, toY) {
  let text = '', pen = 'M';
  xs.forEach((x, i) => {
    if (!toY.has(ys[i])) { pen = 'M'; return; }
    text += `${pen}${toX(x).toFixed(1)} ${toY(ys[i]).toFixed(1)}`;
    pen = 'L';
  });
  return text;
}

function drawCurve(svg, curve, toX, toY) {
  const stroke = {stroke: colour(curve.run)};
  const name = data.runs[curve.run].name;
  curve.pieces.forEach((piece, number) => {
    const repeated = number ? ' repeated' : '';
    const look = repeated ? stroke
      : {...stroke, 'stroke-dasharray': dashes(curve.run)};
    if (state.smoothing && piece.y !== piece.raw) {
      element(svg, 'path', {...stroke, class: 'curve raw',
        d: path(piece.x, piece.raw, toX, toY)});
    }
    element(svg, 'path', {...look, class: 'curve' + repeated,
      'data-run': name, d: path(piece.x, piece.y, toX, toY)});
    if (piece.x.length > 30 || number) return;
    piece.x.forEach((x, i) => toY.has(piece.y[i]) && element(svg, 'circle',
      {cx: toX(x), cy: toY(piece.y[i]), r: 2.5, fill: colour(curve.run)}));
  });
  curve.resumes.forEach(([at, value]) => {
    const x = toX(value);
    const line = element(svg, 'line', {...stroke, class: 'resume', x1: x,
      x2: x, y1: TOP, y2: HEIGHT - BOTTOM});
    element(line, 'title', {}, `${name}: resumed after iteration ${at}`);
  });
  curve.bad.forEach(([at, value]) => {
    const mark = element(svg, 'text', {x: toX(value), y: TOP + 10,
      'text-anchor': 'middle', class: 'bad'}, '✕');
    mark.style.fill = colour(curve.run);
    element(mark, 'title', {}, `${name}: not finite at iteration ${at}`);
  });
}

function drawAxes(svg, width, toX, toY, xTicks) {
  for (const tick of toY.ticks) {
    const y = toY(tick);
    element(svg, 'line', {class: 'grid', x1: LEFT, x2: width - RIGHT, y1: y,
      y2: y});
    element(svg, 'text', {x: LEFT - 6, y: y + 4, 'text-anchor': 'end'},
      format(tick));
  }
  for (const tick of xTicks) {
    element(svg, 'text', {x: toX(tick), y: HEIGHT - 6,
      'text-anchor': 'middle'}, format(tick));
  }
}

// Draws a chart anew, and leaves in `view` what the pointer needs.
function draw(view) {
  const {chart, svg} = view;
  hideTip(view);
  svg.replaceChildren();
  // On paper there are two columns, whatever the window's width.
  const width = view.width = state.printing ? 330
    : Math.max(240, svg.clientWidth || 480);
  svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
  const {curves, low, high} = visibleCurves(chart);
  view.curves = curves;
  const toY = view.toY = verticalScale(curves, state.logarithmic[view.index]);
  svg.setAttribute('aria-label', `${chart.name} of ` + (curves.map(
    (curve) => data.runs[curve.run].name).join(', ') || 'no run'));
  if (!toY) {
    const bad = curves.some((curve) => curve.bad.length);
    element(svg, 'text', {x: width / 2, y: HEIGHT / 2,
      'text-anchor': 'middle'}, bad ? 'no finite value'
      : curves.length ? 'no value to draw' : 'in none of the runs shown');
    return;
  }
  const pixels = (width - LEFT - RIGHT) / (high - low);
  const toX = view.toX = (x) => LEFT + (x - low) * pixels;
  view.fromX = (pixel) => low + (pixel - LEFT) / pixels;
  drawAxes(svg, width, toX, toY, linearTicks(low, high, width / 90));
  curves.forEach((curve) => drawCurve(svg, curve, toX, toY));
  view.cross = element(svg, 'g', {class: 'cross'});
}
