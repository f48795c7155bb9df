#!/usr/bin/env python3
"""Make what the demo page loads: the network, a scene with its reference, and onnxruntime-web.

usage: scripts/demo.py [--node-modules FOLDER] OUT

OUT becomes the site's `_static/demo/`, beside the files of docs/_static/demo; what is made goes to OUT/assets. FOLDER holds the npm packages of
docs/package.json (default: docs/node_modules). It needs the extra [onnx].
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from PIL import Image

from unetkit.deploy import export_onnx, read_onnx_metadata
from unetkit.records import demo_model
from unetkit.jobs import built_in
from unetkit.labels import labels_to_colours

ROOT = Path(__file__).resolve().parent.parent
ROWS, COLS = (
    slice(304, 712),
    slice(304, 848),
)  # A part of the test scene with every class and three cars, 408 x 544 pixels
RUNTIME = (
    'ort.wasm.bundle.min.mjs',
    'ort-wasm-simd-threaded.wasm',
)  # The smallest pair of the package: processor only, no WebGPU


def save(pixels, path):
    "Write a PNG without colour profile, so that a browser reads the very bytes."
    Image.fromarray(pixels).save(path, optimize=True)


def runtime(node_modules, out):
    "Copy what runs the network: a module and its WebAssembly."
    package = node_modules / 'onnxruntime-web'
    if not package.is_dir():
        sys.exit(
            f'{package} does not exist: run `npm install --ignore-scripts` in docs/, or name the folder with --node-modules'
        )
    out.mkdir()
    for name in RUNTIME:
        shutil.copy(package / 'dist' / name, out)


def network(path):
    "Write the ONNX file; return its classes and sizes in the words of the page, and its palette."
    pipeline = demo_model()
    export_onnx(pipeline, path)
    about = read_onnx_metadata(path)[
        'unetkit'
    ]  # what the file says, not what the pipeline says: this is all that others get
    classes = [
        {'name': name, 'colour': colour}
        for name, colour in zip(about['palette']['names'], about['palette']['colours'])
    ]
    facts = {name: about[name] for name in ('multiple', 'halo', 'values')}
    return {'classes': classes} | facts, pipeline.palette


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, metavar='OUT')
    parser.add_argument('--node-modules', type=Path, default=ROOT / 'docs' / 'node_modules', metavar='FOLDER')
    args = parser.parse_args()
    assets = args.out / 'assets'
    shutil.rmtree(assets, ignore_errors=True)
    assets.mkdir(parents=True)
    runtime(args.node_modules, assets / 'ort')
    model, palette = network(assets / 'model.onnx')
    _, (test,) = built_in(palette)
    save(test.image[ROWS, COLS], assets / 'scene.png')
    save(labels_to_colours(test.labels[ROWS, COLS], palette), assets / 'reference.png')
    model['bytes'] = sum(path.stat().st_size for path in assets.rglob('*') if path.is_file())
    (assets / 'model.json').write_text(json.dumps(model), encoding='utf-8')
    for path in sorted(path for path in assets.rglob('*') if path.is_file()):
        print(f'{path.stat().st_size / 1e6:6.2f} MB  {path.relative_to(args.out)}')


if __name__ == '__main__':
    main()
