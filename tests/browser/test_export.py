"""What `unetkit export --for web` writes, run by onnxruntime-web in a real browser: its map is that of the program.

The page has nothing but the two files of the command, the numbers of the image and the demo's own script for windows (docs/_static/demo/stitch.js).
"""

import json
import shutil

import numpy as np
import pytest
from helpers import shell, succeeds
from test_deploy import four_bands  # noqa: F401  a fixture
from test_site import BASE, served

from unetkit.raster import read_label_map

CORE = 64  # pixels that a window of the page keeps on each side
PAGE = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>map</title>'
MAP = """async ({height, width, type, core}) => {
  const ort = await import('./ort/ort.wasm.bundle.min.mjs');
  const {planWindows, batches, networkInput, Stitcher} = await import('./stitch.js');
  ort.env.wasm.wasmPaths = {wasm: new URL('ort/ort-wasm-simd-threaded.wasm', location.href).href};
  ort.env.wasm.numThreads = 1;
  const about = await (await fetch('model.json')).json();
  const session = await ort.InferenceSession.create('model.onnx', {executionProviders: ['wasm']});
  const types = {uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array};
  const data = new types[type](await (await fetch('pixels')).arrayBuffer());
  const image = {data, height, width, stored: about.in_channels};
  const stitcher = new Stitcher(image, about.palette.names.length, false, core);
  const windows = planWindows(image, {method: 'exact', patchSize: core}, about);
  for (const group of batches(windows)) {
    const {batch, dims} = networkInput(image, group, about);
    const {logits} = await session.run({image: new ort.Tensor('float32', batch, dims)});
    stitcher.add(logits.data, group, dims);
  }
  return {labels: [...stitcher.labels()], windows: windows.length};
}"""


@pytest.fixture
def folder(site, tmp_path):
    "A folder of a web server: onnxruntime-web, the script for windows, and an empty page."
    folder = tmp_path / BASE.strip('/')
    folder.mkdir()
    shutil.copytree(site / '_static/demo/assets/ort', folder / 'ort')
    shutil.copy(site / '_static/demo/stitch.js', folder)
    (folder / 'index.html').write_text(PAGE)
    return folder


def test_a_page_draws_the_map_of_the_program(four_bands, folder, page, tmp_path):  # noqa: F811
    "Images of 8 bits, 16 bits and floats, in windows with a halo; where two logits are equal but for rounding, either may win."
    _, file, path, image, logits = four_bands
    said = succeeds('export', file, '--for', 'web', '--out', folder / 'model.onnx')
    assert f'{folder / "model.json"}' in said
    about = json.loads((folder / 'model.json').read_text())
    assert set(about['values']['dtypes']) == {str(image.dtype)}
    code, _, err = shell('predict', file, path, '--out', tmp_path / 'map.tif', '--precision', 'float32')
    assert code == 0, err  # numbers far outside are remarked on
    ours = read_label_map(tmp_path / 'map.tif')

    (folder / 'pixels').write_bytes(np.ascontiguousarray(image).tobytes())
    troubles = []
    page.on('console', lambda m: troubles.append(m.text) if m.type in ('error', 'warning') else None)
    page.on('pageerror', lambda error: troubles.append(str(error)))
    size = {'height': image.shape[0], 'width': image.shape[1], 'type': str(image.dtype), 'core': CORE}
    with served(folder) as address:
        page.goto(address)
        answer = page.evaluate(MAP, size)
    assert not troubles
    assert answer['windows'] == np.prod([-(-side // CORE) for side in ours.shape]) > 4
    theirs = np.reshape(answer['labels'], ours.shape)

    first, second = logits.topk(2, dim=0).values
    ties = (first - second <= 2e-4 * logits.abs().max()).numpy()  # the parity that exports are held to
    assert not ((ours != theirs) & ~ties).any()
    assert ties.mean() < 0.02 and np.bincount(ours.ravel()).max() < 0.95 * ours.size
