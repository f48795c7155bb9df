// Windows and stitching, as in unetkit.patches (lesson 03) and unetkit.stitching (lesson 08). Pure functions: no network, no page.
// A window reads the rows top to bottom and the columns left to right, and keeps the rows r0 to r1 and the columns c0 to c1; ends are exclusive.

// Starts of windows that cover every pixel of one axis; the last window is shifted inwards.
export function windowStarts(length, size, stride) {
  const starts = [];
  for (let at = 0; at <= length - size; at += stride) starts.push(at);
  if (starts.at(-1) !== length - size) starts.push(length - size);
  return starts;
}

// Borders that give every pixel of an axis to exactly one window, in the middle of each overlap.
export function windowCuts(starts, size) {
  const middles = starts.slice(1).map((right, i) => Math.floor((starts[i] + size + right) / 2));
  return [starts[0], ...middles, starts.at(-1) + size];
}

const pairs = (rows, cols) => rows.flatMap(([top, bottom, r0, r1]) =>
  cols.map(([left, right, c0, c1]) => ({top, bottom, left, right, r0, r1, c0, c1})));

function gridAxis(length, size, stride) {
  const starts = windowStarts(length, size, stride), cuts = windowCuts(starts, size);
  return starts.map((start, i) => [start, start + size, cuts[i], cuts[i + 1]]);
}

// Laid out on the image as the network pads it, then clipped: windows keep to the pooling grid and end where the image ends.
function haloAxis(length, core, halo, multiple) {
  const padded = Math.ceil(length / multiple) * multiple, windows = [];
  for (let start = 0; start < padded; start += core) {
    const ends = [Math.max(start - halo, 0), start + core + halo, start, start + core];
    windows.push(ends.map(end => Math.min(end, length)));
  }
  return windows;
}

// The windows of one method, row by row; `whole` is the image in one piece, which the others are compared with.
export function planWindows({height, width}, {method, patchSize, stride}, {halo, multiple}) {
  if (method === 'whole') return pairs([[0, height, 0, height]], [[0, width, 0, width]]);
  const axis = method === 'exact' ? length => haloAxis(length, patchSize, halo, multiple) : length => gridAxis(length, patchSize, stride);
  return pairs(axis(height), axis(width));
}

// Neighbours of one size that go through the network together, at most about `most` pixels of them.
export function batches(windows, most = 2 ** 16) {
  const size = w => [w.bottom - w.top, w.right - w.left], groups = [];
  for (const window of windows) {
    const last = groups.at(-1), [rows, cols] = size(window);
    if (last && String(size(last[0])) === String([rows, cols]) && (last.length + 1) * rows * cols <= most) last.push(window);
    else groups.push([window]);
  }
  return groups;
}

// Float32 (N, bands, rows, cols) from the numbers of an image, `stored` of them a pixel (RGBA: 4). Each band is brought from its range to 0 and 1, and the
// last row and column are repeated up to the multiple. `values` and `multiple` are in the JSON file that `unetkit export --for web` writes.
export function networkInput({data, height, width, stored = 4}, windows, {multiple, values: {low, high}}) {
  const [rows, cols] = [windows[0].bottom - windows[0].top, windows[0].right - windows[0].left].map(n => Math.ceil(n / multiple) * multiple);
  const batch = new Float32Array(windows.length * low.length * rows * cols);
  let at = 0;
  for (const {top, bottom, left, right} of windows)
    for (let band = 0; band < low.length; band++) {
      const span = high[band] - low[band];
      for (let row = top; row < top + rows; row++) {
        const line = Math.min(row, bottom - 1) * width;
        for (let col = left; col < left + cols; col++) batch[at++] = (data[stored * (line + Math.min(col, right - 1)) + band] - low[band]) / span;
      }
    }
  return {batch, dims: [windows.length, low.length, rows, cols]};
}

// Weight of each pixel along one side of a window: high in the middle, low but not zero at the edge.
const hann = size => Float32Array.from({length: size}, (_, i) => Math.sin(Math.PI * (i + 0.5) / size) ** 2);

// A map in the making: `add` what the network says of a batch, then take the `labels`.
export class Stitcher {
  constructor({height, width}, numClasses, blend, patchSize) {
    Object.assign(this, {height, width, numClasses, map: new Uint8Array(height * width)});
    if (blend) [this.axis, this.total] = [hann(patchSize), new Float32Array(numClasses * height * width)];
  }

  add(logits, windows, [, , rows, cols]) {
    const put = this.total ? this.#blend : this.#paste, plane = rows * cols;
    windows.forEach((window, n) => put.call(this, logits.subarray(n * this.numClasses * plane), window, cols, plane));
  }

  // The most likely class of every pixel that the window keeps; the first of equals.
  #paste(logits, {top, left, r0, r1, c0, c1}, cols, plane) {
    for (let row = r0; row < r1; row++)
      for (let col = c0; col < c1; col++)
        this.map[row * this.width + col] = largest(logits, (row - top) * cols + col - left, plane, this.numClasses);
  }

  // Probabilities, not logits, are added up: one window's exaggeration cannot outvote the others.
  #blend(logits, {top, bottom, left, right}, cols, plane) {
    const {numClasses, total, width} = this, size = this.height * width, chances = new Float64Array(numClasses);
    for (let row = top; row < bottom; row++)
      for (let col = left; col < right; col++) {
        const from = (row - top) * cols + col - left, to = row * width + col;
        const most = logits[from + plane * largest(logits, from, plane, numClasses)];
        let sum = 0;
        for (let k = 0; k < numClasses; k++) sum += chances[k] = Math.exp(logits[from + k * plane] - most);
        const weight = Math.max(this.axis[row - top] * this.axis[col - left], 1e-4) / sum;
        for (let k = 0; k < numClasses; k++) total[to + k * size] += weight * chances[k];
      }
  }

  labels() {
    if (this.total) this.map.forEach((_, i) => { this.map[i] = largest(this.total, i, this.map.length, this.numClasses); });
    return this.map;
  }
}

function largest(values, at, step, count) {
  let best = 0;
  for (let k = 1; k < count; k++) if (values[at + k * step] > values[at + best * step]) best = k;
  return best;
}
