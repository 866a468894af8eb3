'use strict';
// What a person sees and does: values at a point, controls, pictures.

function nearest(sorted, x) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > x) high = middle; else low = middle;
  }
  return Math.abs(sorted[high] - x) < Math.abs(sorted[low] - x) ? high : low;
}

function showTip(view, x) {
  hideTip(view);
  const points = (view.toY ? view.curves : [])
    .filter((curve) => curve.pieces[0].x.length)
    .map((curve) => {
      const piece = curve.pieces[0], i = nearest(piece.x, x);
      return {curve, x: piece.x[i], y: piece.y[i], raw: piece.raw[i]};
    });
  if (!points.length) return;
  const at = points.reduce((best, point) =>
    Math.abs(point.x - x) < Math.abs(best.x - x) ? point : best).x;
  view.at = at;
  element(view.cross, 'line', {x1: view.toX(at), x2: view.toX(at), y1: TOP,
    y2: HEIGHT - BOTTOM});
  element(view.tip, 'div', {}, `${state.axis} ${format(at)}`);
  for (const {curve, x: own, y, raw} of points) {
    if (view.toY.has(y)) {
      element(view.cross, 'circle', {cx: view.toX(own), cy: view.toY(y), r: 4,
        fill: colour(curve.run)});
    }
    const row = element(view.tip, 'div');
    const where = own === at ? '' : ` (at ${format(own)})`;
    element(row, 'span', {}, data.runs[curve.run].name + where)
      .style.color = colour(curve.run);
    element(row, 'b', {}, y === raw ? format(y)
      : `${format(y)} (unsmoothed ${format(raw)})`);
  }
  const box = view.svg.getBoundingClientRect();
  const frame = view.figure.getBoundingClientRect();
  const pixel = box.left - frame.left + view.toX(at) * box.width / view.width;
  const right = view.toX(at) > view.width / 2;
  view.tip.style.top = `${box.top - frame.top + 4}px`;
  view.tip.style.left = right ? 'auto' : `${pixel + 10}px`;
  view.tip.style.right = right ? `${frame.width - pixel + 10}px` : 'auto';
}

function hideTip(view) {
  view.tip.replaceChildren();
  if (view.cross) view.cross.replaceChildren();
}

function moveTip(view, key) {
  const xs = [...new Set(view.curves.flatMap((curve) => curve.pieces[0].x))]
    .sort((a, b) => a - b);
  if (!xs.length) return false;
  const i = view.at === undefined ? -1 : nearest(xs, view.at);
  const next = {ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0,
    End: xs.length - 1}[key];
  if (next === undefined) return false;
  showTip(view, xs[Math.max(0, Math.min(xs.length - 1, next))]);
  return true;
}

function makeChart(figure) {
  const index = Number(figure.dataset.chart), chart = data.charts[index];
  const label = element(figure.querySelector('figcaption'), 'label');
  const box = element(label, 'input', {type: 'checkbox'});
  label.append(' log scale');
  const svg = element(figure, 'svg', {role: 'img', tabindex: 0});
  const tip = element(figure, 'div', {class: 'tip', 'aria-live': 'polite'});
  const view = {index, chart, figure, svg, tip, box};
  box.addEventListener('change', () => {
    state.logarithmic[index] = box.checked;
    draw(view);
  });
  svg.addEventListener('pointermove', (event) => {
    if (!view.toY) return;
    const inside = event.clientX - svg.getBoundingClientRect().left;
    showTip(view, view.fromX(inside * view.width / svg.clientWidth));
  });
  svg.addEventListener('pointerleave', () => hideTip(view));
  svg.addEventListener('blur', () => hideTip(view));
  svg.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') hideTip(view);
    else if (moveTip(view, event.key)) event.preventDefault();
  });
  return view;
}

function makeControls(views, gallery) {
  const redraw = () => views.forEach(draw);
  const legend = document.getElementById('legend');
  data.runs.forEach((run, index) => {
    const label = element(legend, 'label');
    const box = element(label, 'input', {type: 'checkbox', checked: ''});
    const sample = element(label, 'svg', {viewBox: '0 0 35 10',
      'aria-hidden': true});
    element(sample, 'line', {x1: 0, x2: 35, y1: 5, y2: 5, 'stroke-width': 3,
      stroke: colour(index), 'stroke-dasharray': dashes(index)});
    element(label, 'span', {}, run.name);
    box.addEventListener('change', () => {
      state.shown[index] = box.checked;
      redraw();
      gallery();
    });
  });
  for (const key of ['smoothing', 'from']) {
    const slider = document.getElementById(key);
    slider.addEventListener('input', () => {
      state[key] = Number(slider.value);
      document.getElementById(`${key}-value`).textContent = key === 'from'
        ? `${Math.round(100 * state.from)}%` : slider.value;
      redraw();
    });
  }
  const axis = document.getElementById('axis');
  for (const option of axis.options) { // all runs have to know it
    option.disabled = !data.runs.every((run) => run.scales[option.value]);
  }
  axis.addEventListener('change', () => {
    state.axis = axis.value;
    redraw();
  });
  const logarithmic = document.getElementById('logarithmic');
  logarithmic.addEventListener('change', () => {
    views.forEach((view) => {
      view.box.checked = state.logarithmic[view.index] = logarithmic.checked;
    });
    redraw();
  });
  let waiting = false;
  window.addEventListener('resize', () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; redraw(); });
  });
}

// One slider for all pictures, so that runs are seen at the same step.
function makeGallery() {
  const slider = document.getElementById('step');
  if (!slider) return () => {};
  const gallery = document.getElementById('gallery'), views = [];
  const names = [...new Set(data.pictures.flatMap(Object.keys))].sort();
  for (const name of names) {
    element(gallery, 'h3', {}, name);
    const row = element(gallery, 'div', {class: 'row'});
    data.pictures.forEach((pictures, run) => {
      if (!pictures[name]) return;
      const figure = element(row, 'figure');
      const caption = element(figure, 'figcaption');
      const image = element(figure, 'img');
      image.addEventListener('load', () => { // small ones keep their pixels
        image.style.imageRendering = image.naturalWidth < image.clientWidth
          ? 'pixelated' : 'auto';
      });
      const steps = Object.keys(pictures[name]).map(Number)
        .sort((a, b) => a - b);
      views.push({name, run, urls: pictures[name], steps, figure, caption,
        image});
    });
  }
  const all = [...new Set(views.flatMap((view) => view.steps))]
    .sort((a, b) => a - b);
  slider.max = all.length - 1;
  slider.value = slider.max;
  const show = () => {
    const step = all[slider.value];
    document.getElementById('step-value').textContent = step;
    slider.setAttribute('aria-valuetext', `step ${step}`);
    for (const view of views) {
      const own = view.steps.filter((one) => one <= step).pop();
      view.figure.hidden = !state.shown[view.run] || own === undefined;
      if (own === undefined) continue;
      const text = `${data.runs[view.run].name}, step ${own}`;
      view.caption.textContent = text;
      view.image.alt = `${view.name} of ${text}`;
      view.image.src = view.urls[own];
    }
  };
  slider.addEventListener('input', show);
  show();
  return show;
}

// Without this, a page that fails would just look empty.
window.addEventListener('error', (event) => {
  const box = document.getElementById('error');
  box.hidden = false;
  box.textContent = `The page's script failed: ${event.message}`;
});
const views = [...document.querySelectorAll('.chart')].map(makeChart);
makeControls(views, makeGallery());
views.forEach(draw);
window.addEventListener('beforeprint', () => {
  document.querySelectorAll('details').forEach((one) => { one.open = true; });
  state.printing = true;
  views.forEach(draw);
});
window.addEventListener('afterprint', () => {
  state.printing = false;
  views.forEach(draw);
});
document.documentElement.dataset.ready = 'yes';
