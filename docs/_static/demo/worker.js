// Runs the network beside the page, so that the page stays responsive. One request at a time; a newer one ends an older one between two batches.
import * as ort from './assets/ort/ort.wasm.bundle.min.mjs';
import {planWindows, batches, networkInput, Stitcher} from './stitch.js';

const asset = name => new URL(`assets/${name}`, import.meta.url).href;
ort.env.wasm.wasmPaths = {wasm: asset('ort/ort-wasm-simd-threaded.wasm')};
ort.env.wasm.numThreads = 1; // several threads need headers (COOP, COEP) that a plain web server does not send

let session, model, image, whole, latest = 0;
const start = async () => {
  model = await (await fetch(asset('model.json'))).json();
  session = await ort.InferenceSession.create(asset('model.onnx'), {executionProviders: ['wasm']});
};

// A turn of the event loop, in which a newer request can arrive; `setTimeout` would wait 4 ms each time.
const channel = new MessageChannel();
const turn = () => new Promise(go => { channel.port1.onmessage = go; channel.port2.postMessage(0); });

// The label map of the image by one method, or null if a newer request came.
async function predict(settings, id) {
  const begun = performance.now(), windows = planWindows(image, settings, model);
  const stitcher = new Stitcher(image, model.classes.length, settings.method === 'blend', settings.patchSize);
  let done = 0, pixels = 0;
  for (const group of batches(windows)) {
    await turn();
    if (id !== latest) return null;
    const {batch, dims} = networkInput(image, group, model);
    const {logits} = await session.run({image: new ort.Tensor('float32', batch, dims)});
    stitcher.add(logits.data, group, dims);
    logits.dispose();
    pixels += dims[0] * dims[2] * dims[3];
    postMessage({id, progress: (done += group.length) / windows.length});
  }
  return {labels: stitcher.labels(), windows: windows.length, pixels, ms: performance.now() - begun};
}

async function answer({id, settings, image: picture}) {
  if (picture) [image, whole] = [picture, null];
  whole ??= await predict({method: 'whole'}, id);
  const result = whole && await predict(settings, id);
  if (result) postMessage({id, result, whole});
}

const started = start();
let queue = Promise.resolve();
onmessage = ({data}) => {
  latest = data.id;
  queue = queue.then(() => started).then(() => answer(data)).catch(error => postMessage({id: data.id, failed: String(error.message ?? error)}));
};
