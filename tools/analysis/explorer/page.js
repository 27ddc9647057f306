'use strict';
// Draws two kinds of pictures over an image: regions of cells, and heat maps. Coordinates of the
// pointer are pixels of the model's input; a cell of a grid is `stride` of them wide.
const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const [stage, photo, overlay, list] = ['stage', 'photo', 'overlay', 'list'].map($);
const UNKNOWN = 255, LEVELS = 254, ENTRIES = 6, HEAT_ALPHA = 166;
const RED = [255, 30, 30], CYAN = [0, 225, 225];
const palette = bytes(data.palette);
const state = { image: 0, view: null, map: 0, x: null, y: null, kept: null };

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

async function inflate(text, Type) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Type(await new Response(stream).arrayBuffer());
}

// ---- grids ---------------------------------------------------------------------------------

const cellAt = (grid, x, y) =>
  Math.min(grid.h - 1, Math.floor(y / grid.stride)) * grid.w + Math.min(grid.w - 1, Math.floor(x / grid.stride));
const square = (grid, cell) => box([Math.floor(cell / grid.w), cell % grid.w], grid.stride);
const box = ([row, col, bottom = row + 1, right = col + 1], s) =>
  `M${col * s} ${row * s}H${right * s}V${bottom * s}H${col * s}Z`;

// borders between cells with different labels, around those with `only`, or everywhere
function borders({ h, w, stride: s, values }, only = null) {
  let path = '';
  const differ = (a, b) => values[a] !== values[b] && (only === null || values[a] === only || values[b] === only);
  for (let i = 0; i < h * w; i++) {
    const [y, x] = [Math.floor(i / w), i % w];
    if (x + 1 < w && differ(i, i + 1)) path += `M${(x + 1) * s} ${y * s}v${s}`;
    if (y + 1 < h && differ(i, i + w)) path += `M${x * s} ${(y + 1) * s}h${s}`;
  }
  return path;
}

// level of a cell of one map, 0 to 254, or UNKNOWN
const level = (heats, k, cell) => heats.values[k * heats.h * heats.w + cell];
const number = (heats, k, l) =>
  l === UNKNOWN ? NaN : heats.low[k] + ((heats.high[k] - heats.low[k]) * l) / LEVELS;

// ---- data of a view, unpacked when it is first shown ------------------------------------------

async function open(view) {
  for (const map of view.maps) {
    const parts = map.kind === 'modes' ? [map.queries, map.keys] : [map, map.query].filter(Boolean);
    for (const one of parts) one.values ??= await inflate(one.data, one.kind === 'regions' ? Uint32Array : Uint8Array);
    if (map.kind === 'regions') {
      map.borders ??= borders(map);
      map.sizes ??= map.values.reduce((all, label) => all.set(label, (all.get(label) || 0) + 1), new Map());
    }
  }
}

const image = () => data.images[state.image];
const view = () => image().views.find((one) => one.name === state.view) || image().views[0];
const map = () => view().maps[Math.min(state.map, view().maps.length - 1)];

// ---- drawing -------------------------------------------------------------------------------

function paint(canvas, grid, colour) {
  if (canvas.width !== grid.w || canvas.height !== grid.h) Object.assign(canvas, { width: grid.w, height: grid.h });
  const pixels = new ImageData(grid.w, grid.h);
  for (let i = 0; i < grid.w * grid.h; i++) pixels.data.set(colour(i), 4 * i);
  canvas.getContext('2d').putImageData(pixels, 0, 0);
}

const heatColour = (heats, k, alpha) => (cell) => {
  const l = level(heats, k, cell);
  return l === UNKNOWN ? [0, 0, 0, 0] : [palette[3 * l], palette[3 * l + 1], palette[3 * l + 2], alpha];
};

function modeColour({ queries, keys }, k, grid) {
  return (cell) => {
    const [x, y] = [((cell % grid.w) + 0.5) * grid.stride, (Math.floor(cell / grid.w) + 0.5) * grid.stride];
    const [q, c] = [queries, keys].map((one) => level(one, k, cellAt(one, x, y)) / LEVELS);
    return [0, 1, 2].map((i) => 0.75 * (q * RED[i] + c * CYAN[i])).concat(255);
  };
}

// what is ranked in the list: the maps at the pointer
function ranked(one, x, y) {
  const heats = one.kind === 'modes' ? one.queries : one;
  const cell = x === null ? null : cellAt(heats, x, y);
  const found = heats.labels.map((label, k) => {
    const l = cell === null ? 0 : level(heats, k, cell);
    return { k, label, value: one.kind === 'modes' ? l / LEVELS : number(heats, k, l) };
  });
  const known = found.filter((entry) => !Number.isNaN(entry.value));
  return cell === null ? known : known.sort((a, b) => b.value - a.value);
}

const show = (value) => (Number.isNaN(value) ? 'unknown' : String(Number(value.toPrecision(3))));

function draw() {
  const [one, shown, { x, y }] = [map(), view(), state];
  const listed = one.kind === 'regions' ? shown.maps.find((other) => other.kind === 'heats' && !other.query) : one;
  const entries = listed && !listed.query ? ranked(listed, x, y) : [];
  let [k, path, lines, text, grid] = [null, '', '', '', one];
  if (one.kind === 'regions') {
    const label = x === null ? null : one.values[cellAt(one, x, y)];
    paint(overlay, one, (i) => [0, 0, 0, label === null || one.values[i] === label ? 0 : 140]);
    lines = one.borders;
    if (label !== null) {
      path = borders(one, label);
      const count = one.sizes.get(label);
      const share = (100 * count) / one.values.length;
      text = `Region ${label}: ${count} ${count === 1 ? 'cell' : 'cells'}, ${show(share)} % of the picture.`;
    } else text = `${one.sizes.size} regions.`;
  } else {
    k = one.query ? (x === null ? 0 : one.query.values[cellAt(one.query, x, y)]) : entries[0]?.k ?? 0;
    if (state.kept !== null) k = state.kept;
    const heats = one.kind === 'modes' ? one.queries : one;
    if (one.kind === 'modes') {
      grid = one.keys.stride < one.queries.stride ? one.keys : one.queries;
      paint(overlay, grid, modeColour(one, k, grid));
      text = `${one.queries.labels[k]}. Tokens that ask are red, tokens that are found cyan, both white.`;
    } else {
      paint(overlay, one, heatColour(one, k, HEAT_ALPHA));
      if (one.boxes) path = box(one.boxes[k], one.stride);
      else if (one.query && x !== null) path = borders(one.query, k);
      const here = x === null ? '' : `${show(number(one, k, level(one, k, cellAt(one, x, y))))} at the pointer, `;
      text = `${one.labels[k]}: ${here}${show(one.low[k])} to ${show(one.high[k])} in the picture.`;
    }
    $('low').textContent = one.kind === 'modes' ? 'asks' : show(heats.low[k]);
    $('high').textContent = one.kind === 'modes' ? 'is found' : show(heats.high[k]);
  }
  stage.dataset.kind = one.kind;
  Object.assign(overlay.style, {
    width: `${(100 * grid.w * grid.stride) / image().size[1]}%`,
    height: `${(100 * grid.h * grid.stride) / image().size[0]}%`,
  });
  $('borders').setAttribute('d', lines);
  for (const id of ['halo', 'outline']) $(id).setAttribute('d', path);
  $('cursor').setAttribute('d', x === null ? '' : square(one.query || grid, cellAt(one.query || grid, x, y)));
  $('legend').style.visibility = one.kind === 'regions' ? 'hidden' : 'visible';
  $('scale').style.background =
    one.kind === 'modes'
      ? 'linear-gradient(90deg, rgb(255 30 30), #fff, rgb(0 225 225))'
      : `linear-gradient(90deg, ${[0, 64, 127, 191, 254].map((l) => `rgb(${palette.slice(3 * l, 3 * l + 3).join(' ')})`)})`;
  $('map-title').textContent = one.title;
  $('status').textContent = text;
  fill(listed, entries, k);
}

// the list: the strongest maps at the pointer, each with its maps in all pictures of the stage
function fill(listed, entries, drawn) {
  const top = entries.slice(0, ENTRIES);
  const kin = !listed || listed.kind === 'modes' ? [] : view().maps.filter(
    (one) => one.kind === 'heats' && !one.query && one.labels.length === listed.labels.length);
  const most = Math.max(1e-12, ...top.map((entry) => Math.abs(entry.value)));
  [...list.children].forEach((item, i) => {
    const entry = top[i], button = item.firstChild, [, body, maps] = button.children;
    item.hidden = !entry;
    if (!entry) return;
    button.dataset.k = entry.k;
    button.setAttribute('aria-pressed', String(state.kept === entry.k));
    body.firstChild.textContent = entry.label + (state.x === null ? '' : listed.kind === 'modes'
      ? `, asked ${Math.round(100 * entry.value)} %` : `: ${show(entry.value)}`);
    body.lastChild.style.width = state.x === null ? '0' : `${(100 * Math.abs(entry.value)) / most}%`;
    while (maps.children.length < kin.length) maps.append(document.createElement('canvas'));
    [...maps.children].forEach((canvas, j) => {
      canvas.hidden = j >= kin.length;
      if (canvas.hidden) return;
      canvas.title = kin[j].title;
      paint(canvas, kin[j], heatColour(kin[j], entry.k, 255));
    });
  });
}

// ---- choosing ------------------------------------------------------------------------------

async function choose(change) {
  stage.setAttribute('aria-busy', 'true');
  Object.assign(state, change);
  if ('view' in change || 'image' in change) state.map = view().maps.length > state.map && !('view' in change) ? state.map : 0;
  state.kept = null;
  await open(view());
  const { name, src, size } = image();
  photo.src = src;
  photo.alt = `Input of the model: ${name}, ${size[1]} x ${size[0]} pixels`;
  stage.style.setProperty('--ratio', size[1] / size[0]);
  $('lines').setAttribute('viewBox', `0 0 ${size[1]} ${size[0]}`);
  stage.setAttribute('aria-label', `${name}, ${view().title}`);
  $('image').value = state.image;
  $('view').value = view().name;
  $('map').replaceChildren(...view().maps.map((one, i) => new Option(one.label, i)));
  $('map').value = view().maps.indexOf(map());
  $('map-label').hidden = view().maps.length < 2;
  if (state.x !== null) point(state.x, state.y);
  else draw();
  stage.setAttribute('aria-busy', 'false');
}

function point(x, y) {
  const [h, w] = image().size;
  [state.x, state.y] = [Math.min(Math.max(x, 0), w - 1e-6), Math.min(Math.max(y, 0), h - 1e-6)];
  draw();
}

const keep = (k) => {
  state.kept = state.kept === k ? null : k;
  if (state.kept !== null && map().kind === 'regions') {
    state.map = view().maps.findIndex((one) => one.kind === 'heats' && !one.query);
    $('map').value = state.map;
  }
  draw();
};

function move(dx, dy) {
  const one = map().query || (map().kind === 'modes' ? map().queries : map());
  const [h, w] = image().size;
  const middle = (value) => (Math.floor(value / one.stride) + 0.5) * one.stride;
  const [x, y] = state.x === null ? [w / 2, h / 2] : [state.x + dx * one.stride, state.y + dy * one.stride];
  const inside = (value, side) => Math.min(Math.max(value, 0), side - 1e-6);
  point(middle(inside(x, w)), middle(inside(y, h)));
}

const step = (select, by) => {
  const count = select.options.length;
  select.selectedIndex = (select.selectedIndex + by + count) % count;
  select.dispatchEvent(new Event('change'));
};

for (const type of ['pointermove', 'pointerdown'])
  stage.addEventListener(type, (event) => {
    const area = stage.getBoundingClientRect(), [h, w] = image().size;
    point(((event.clientX - area.left) / area.width) * w, ((event.clientY - area.top) / area.height) * h);
  });
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('select, [role=tab]') || $('tokens').hidden) return;
  const by = event.shiftKey ? 5 : 1, key = event.key;
  const arrows = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
  const selects = { i: 'image', s: 'view', p: 'map' };
  if (event.target === stage && arrows[key]) move(...arrows[key]);
  else if (key === 'Escape') keep(state.kept);
  else if (selects[key.toLowerCase()]) step($(selects[key.toLowerCase()]), event.shiftKey ? -1 : 1);
  else if (list.children[key - 1] && !list.children[key - 1].hidden) keep(Number(list.children[key - 1].firstChild.dataset.k));
  else return;
  event.preventDefault();
});
$('image').addEventListener('change', (event) => choose({ image: Number(event.target.value) }));
$('view').addEventListener('change', (event) => choose({ view: event.target.value }));
$('map').addEventListener('change', (event) => choose({ map: Number(event.target.value) }));

const tabs = [...document.querySelectorAll('[role=tab]')];
const turn = (tab) => tabs.forEach((one) => {
  one.setAttribute('aria-selected', String(one === tab));
  one.tabIndex = one === tab ? 0 : -1;
  $(one.getAttribute('aria-controls')).hidden = one !== tab;
});
tabs.forEach((tab, i) => {
  tab.addEventListener('click', () => turn(tab));
  tab.addEventListener('keydown', (event) => {
    if (!['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
    turn(tabs[1 - i]);
    tabs[1 - i].focus();
  });
});

for (let i = 0; i < ENTRIES; i++) {
  const item = document.createElement('li');
  item.innerHTML = `<button type="button"><kbd>${i + 1}</kbd><span><span></span><i></i></span><span></span></button>`;
  item.firstChild.addEventListener('click', (event) => keep(Number(event.currentTarget.dataset.k)));
  list.append(item);
}
$('image').append(...data.images.map((one, i) => new Option(one.name, i)));
for (const group of new Set(data.images[0].views.map((one) => one.group))) {
  const part = document.createElement('optgroup');
  part.label = group;
  part.append(...data.images[0].views.filter((one) => one.group === group).map((one) => new Option(one.title, one.name)));
  $('view').append(part);
}
choose({ view: data.images[0].views[0].name });
