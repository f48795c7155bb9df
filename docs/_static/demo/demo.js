// The page of the demo: controls, pictures and numbers. The network runs in worker.js.
import {planWindows} from './stitch.js';
import {readFile, readUrl} from './picture.js';

const asset = name => new URL(`assets/${name}`, import.meta.url).href;
const part = name => document.getElementById(`demo-${name}`);
const controls = part('controls').elements;
const STRIDES = [[1 / 4, 'a quarter of the patch'], [1 / 2, 'half of the patch'], [3 / 4, 'three quarters of the patch'], [1, 'the whole patch']];
const RIGHT = 240, WRONG = [214, 30, 40]; // the library's colours of an error map, unetkit.plots
const WAIT = 150; // ms without a move before a slider counts as set

let model, image, worker, timer, sent = 0, loading = 0;
const say = (text, failed = false) => { part('status').textContent = text; part('status').classList.toggle('demo-failed', failed); };
const working = busy => { part('frame').setAttribute('aria-busy', busy); part('progress').value = 0; };
const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.01 ? 2 : 1)} %`;
const duration = ms => `${Math.round(ms).toLocaleString('en')} ms`;
const count = (n, word) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;

// ---- Controls

function settings() {
  const method = controls.method.value, patchSize = 2 ** controls.patch.value;
  return {method, patchSize, stride: method === 'exact' ? patchSize : patchSize * STRIDES[controls.stride.value][0]};
}

function showSettings() {
  const {method, patchSize, stride} = settings(), exact = method === 'exact', [, words] = STRIDES[controls.stride.value];
  controls.stride.disabled = exact;
  part('patch-label').textContent = exact ? 'Core size' : 'Patch size';
  part('patch-value').textContent = exact ? `${patchSize} px, and a halo of ${model.halo} px around it` : `${patchSize} px`;
  part('stride-value').textContent = exact ? 'cores lie side by side' : `${stride} px, ${words}`;
  controls.patch.setAttribute('aria-valuetext', part('patch-value').textContent);
  controls.stride.setAttribute('aria-valuetext', part('stride-value').textContent);
  const sizes = exact ? `core=${patchSize}, halo=${model.halo}, multiple=${model.multiple}` : `patch_size=${patchSize}, stride=${stride}`;
  part('call').textContent = `predict_tile(predict, image, "${method}", ${sizes})`;
}

// Small cores are dear where small patches are cheap: each keeps a position of its own.
const slots = {exact: false, patch: 5, core: 8};
function swapSizes(exact) {
  if (exact === slots.exact) return;
  slots[exact ? 'patch' : 'core'] = controls.patch.value;
  slots.exact = exact;
  controls.patch.value = slots[exact ? 'core' : 'patch'];
}

// The largest power of two that fits into the image limits the slider.
function limitPatch() {
  controls.patch.max = Math.min(8, Math.floor(Math.log2(Math.min(image.height, image.width))));
}

function ask(picture) {
  const id = ++sent; // from now on, answers to older questions are not shown
  clearTimeout(timer);
  showSettings();
  const send = () => {
    working(true);
    worker.postMessage({id, settings: settings(), image: picture && {...picture, reference: null}});
  };
  picture ? send() : timer = setTimeout(send, WAIT);
}

// ---- Pictures

function paint(name, {height, width}, colour) {
  const canvas = part(name), context = canvas.getContext('2d');
  [canvas.width, canvas.height] = [width, height];
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < height * width; i++) pixels.data.set(colour(i), 4 * i);
  context.putImageData(pixels, 0, 0);
  return context;
}

const labelColour = labels => i => [...(model.classes[labels[i]]?.colour ?? [110, 110, 110]), 255];

function paintChanged(labels, whole) {
  // Pixels that stay keep a trace of the image, so that a reader sees where they are.
  const faint = i => { const grey = RIGHT - 60 + image.data[4 * i + 1] / 4.25; return [grey, grey, grey, 255]; };
  const context = paint('changed', image, i => labels[i] === whole[i] ? faint(i) : [...WRONG, 255]);
  const chosen = settings();
  if (Math.min(chosen.stride, chosen.patchSize) < 16) return; // a finer grid would hide the picture
  context.strokeStyle = 'rgb(0 0 0 / 22%)';
  for (const {r0, r1, c0, c1} of planWindows(image, chosen, model)) context.strokeRect(c0 - 0.5, r0 - 0.5, c1 - c0, r1 - r0);
}

function showLegend(labels) {
  const counts = new Array(model.classes.length).fill(0);
  for (const label of labels) counts[label]++;
  part('legend').replaceChildren(...model.classes.map(({name, colour}, k) => {
    const item = document.createElement('li'), swatch = document.createElement('span');
    swatch.style.background = `rgb(${colour})`;
    item.append(swatch, `${name} ${percent(counts[k] / labels.length)}`);
    return item;
  }));
}

// Share of the labels that are equal, of those that are not to be ignored.
function share(labels, others) {
  let equal = 0, all = 0;
  for (let i = 0; i < labels.length; i++) if (others[i] !== 255) { all++; equal += labels[i] === others[i]; }
  return equal / all;
}

function showResult({labels, windows, pixels, ms}, whole) {
  const changed = 1 - share(labels, whole.labels), area = image.height * image.width;
  working(false);
  paint('map', image, labelColour(labels));
  paintChanged(labels, whole.labels);
  showLegend(labels);
  part('n-changed').textContent = changed ? percent(changed) : 'none';
  part('n-windows').textContent = windows.toLocaleString('en');
  part('n-work').textContent = `${(pixels / area).toFixed(1)} × the pixels of the image`;
  part('n-time').textContent = duration(ms);
  part('n-speed').textContent = `${(area / ms / 1000).toPrecision(2)} Mpixel/s; whole image ${duration(whole.ms)}`;
  part('n-accuracy').textContent = image.reference ? percent(share(labels, image.reference)) : '–';
  part('n-best').textContent = image.reference ? `whole image ${percent(share(whole.labels, image.reference))}` : 'no reference for your image';
  const verdict = changed ? `${percent(changed)} of the labels differ from the map of the whole image` : 'every label is that of the whole image';
  part('changed').setAttribute('aria-label', `Pixels whose label differs from the map of the whole image: ${part('n-changed').textContent}`);
  say(`${count(windows, 'window')} in ${duration(ms)}: ${verdict}.${image.note ?? ''}`);
}

// ---- Images

async function show(read, name) {
  const mine = ++loading;
  try {
    const picture = await read();
    if (mine !== loading) return;
    image = picture;
    for (const name of ['image', 'map', 'changed']) paint(name, image, i => image.data.subarray(4 * i, 4 * i + 4)); // until there is a map
    part('reference').closest('figure').hidden = !image.reference;
    if (image.reference) paint('reference', image, labelColour(image.reference));
    part('name').textContent = `${name}, ${image.width} × ${image.height} pixels`;
    part('built-in').hidden = Boolean(image.reference);
    limitPatch();
    ask(image);
  } catch (error) {
    if (mine === loading) say(error.message, true);
  }
}

async function builtIn() {
  const {data, height, width} = await readUrl(asset('scene.png')), colours = await readUrl(asset('reference.png'));
  const index = new Map(model.classes.map(({colour}, k) => [String(colour), k]));
  const reference = Uint8Array.from({length: height * width}, (_, i) => index.get(String(colours.data.slice(4 * i, 4 * i + 3))) ?? 255);
  return {data, height, width, reference};
}

const showBuiltIn = () => show(builtIn, 'Built-in scene');
const showFile = file => file && show(() => readFile(file), file.name);

function listen() {
  for (const name of ['patch', 'stride']) controls[name].addEventListener('input', () => ask());
  for (const choice of controls.method) choice.addEventListener('change', () => { swapSizes(choice.value === 'exact'); ask(); });
  part('file').addEventListener('change', event => { showFile(event.target.files[0]); event.target.value = ''; });
  part('built-in').addEventListener('click', showBuiltIn);
  for (const button of document.querySelectorAll('.demo-views button')) button.addEventListener('click', () => {
    const large = button.closest('figure').classList.toggle('demo-large');
    button.setAttribute('aria-pressed', large);
  });
  // The whole page takes a file: beside the frame, the browser would leave the page and show the file.
  const holdsFile = event => event.dataTransfer?.types.includes('Files');
  addEventListener('dragover', event => { if (holdsFile(event)) { event.preventDefault(); part('frame').classList.add('demo-over'); } });
  addEventListener('dragleave', event => { if (!event.relatedTarget) part('frame').classList.remove('demo-over'); });
  addEventListener('drop', event => {
    part('frame').classList.remove('demo-over');
    if (holdsFile(event)) { event.preventDefault(); showFile(event.dataTransfer.files[0]); }
  });
}

// ---- Start

function hear({data: {id, failed, progress, result, whole}}) {
  if (id !== sent) return; // an answer to a question that nobody asks any more
  if (progress) part('progress').value = progress;
  if (result) showResult(result, whole);
  if (failed) {
    working(false);
    say(`The network stopped: ${failed}. Reload the page, or try a smaller image.`, true);
  }
}

async function start() {
  const reply = await fetch(asset('model.json'));
  if (!reply.ok) throw new Error(`the server says ${reply.status} to model.json`);
  model = await reply.json();
  say(`Loading the network and its runtime, ${(model.bytes / 1e6).toFixed(0)} MB …`);
  worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'});
  worker.onmessage = hear;
  worker.onerror = () => say('The network cannot start here: a browser with WebAssembly and module workers is needed (any of 2023 or later).', true);
  listen();
  controls.fieldset.disabled = part('file').disabled = false;
  await showBuiltIn();
}

start().catch(error => say(`The demo cannot start: ${error.message}.`, true));
