#!/usr/bin/env python3
"""Record the results that the lessons 10 and 20 and the README show.

usage: scripts/records.py embedded                    `unetkit report` on the built-in scenes
       scripts/records.py demo                        the small model that comes with the package (about five minutes)
       scripts/records.py dubai FOLDER                train on scene 8, test on scenes 4 and 6 of the Dubai imagery in FOLDER
       scripts/records.py dubai_recommended FOLDER    the same with the recommended recipe for 4 epochs
       scripts/records.py vaihingen_crop FOLDER       both recipes on the crop of Vaihingen in FOLDER: left part for training, right part for the test
       scripts/records.py int8 FOLDER [--web DIST]    8 bits beside float32: the demo model, and one trained on scenes 1 and 3 of Dubai and tested on 8 (about five minutes);
                                                      with Node.js and the folder dist of onnxruntime-web, also as a page would run them

Writes unetkit/recorded/NAME/: scores.json as the command wrote it, and of the built-in scenes the predicted label maps as paletted PNG. Of the Dubai scenes only scores are kept. `embedded` and `demo` also draw nbs/images/report.png and demo.png for the README. `demo` writes the model itself,
and its scores on the built-in test scene; it is trained on other scenes than the built-in ones.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unetkit.cli import main as unetkit
from unetkit.deploy import calibration_windows, export_onnx, onnx_predictor, quantise_onnx
from unetkit.deploy import read_onnx_metadata
from unetkit.engines import package
from unetkit.experiments import ModelPipeline
from unetkit.jobs import SCENE_SIZE, built_in, checksum
from unetkit.settings import Settings
from unetkit.datasets import read_labelled
from unetkit.labels import DUBAI, ISPRS, label_tile
from unetkit.plots import show_triptych
from unetkit.metrics import Scores, confusion_matrix
from unetkit.records import STUDIES, demo_model, environment
from unetkit.pages import model_name
from unetkit.report import REPORT
from unetkit.scenes import synthetic_scene
from unetkit.raster import read_label_map
from unetkit.stitching import predict_tile
from unetkit.tiles import Tile, read_tile

HERE = Path(__file__).resolve().parent.parent
RECORDED, IMAGES = HERE / 'unetkit' / 'recorded', HERE / 'nbs' / 'images'
# What lessons 12 and 15 found best, without normalisation, in a network small enough to be downloaded with a page.
DEMO = replace(
    REPORT,
    patch_size=64,
    width=12,
    depth=3,
    loss='cross_entropy',
    validation=0.1,
    augment=True,
    crops=True,
    focus='car',
    method='exact',
    precision='float32',
)
DEMO_SEEDS = range(11, 16)


def run(arguments):
    if code := unetkit([str(a) for a in arguments]):
        sys.exit(code)


def save_map(path, label_map, palette):
    "A label map as a small PNG with the colours of its classes."
    picture = Image.fromarray(label_map)
    picture.putpalette(np.uint8(palette.colours).tobytes())
    picture.save(path, optimize=True)


def keep_scores(work, name):
    folder = RECORDED / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(work / 'scores.json', folder)
    return folder


def draw(name, tile, label_map, palette):
    "The picture of a tile, its reference and its map for the README."
    show_triptych(tile.image, tile.labels, label_map, palette).savefig(
        IMAGES / f'{name}.png', dpi=130, bbox_inches='tight'
    )


def embedded(work, args):
    run(['report', '--out', work])
    folder = keep_scores(work, 'embedded')
    for path in sorted(work.glob('label_map_*.tif')):
        save_map(folder / f'{path.stem}.png', read_label_map(path), ISPRS)
    _, (test,) = built_in()
    draw('report', test, read_label_map(work / 'label_map_recommended.tif'), ISPRS)


def dubai(work, args):
    scene = {n: (args.data / f'tile{n}' / 'images', args.data / f'tile{n}' / 'masks') for n in (8, 4, 6)}
    files = {
        'train-image': scene[8][0],
        'train-reference': scene[8][1],
        'test-image': scene[4][0],
        'test-reference': scene[4][1],
    }
    options = [word for name, path in files.items() for word in (f'--{name}', path)]
    run(['report', *options, '--palette', 'dubai', '--width', 16, '--patch-sizes', 128, '--out', work])
    folder = keep_scores(work, 'dubai')
    third = read_labelled(*scene[6], DUBAI)
    for model in json.loads((folder / 'scores.json').read_text())['models']:
        name = model_name(model)
        other = ModelPipeline.load(work / f'model_{name}.safetensors').evaluate(third).as_dict(DUBAI.names)
        (folder / f'scores_scene6_{name}.json').write_text(json.dumps(other, indent=1) + '\n')


def scored(pipeline, tiles, names):
    "Scores on some tiles, and which tiles they are."
    return pipeline.evaluate(tiles).as_dict(names) | {'checksums': [checksum(tile) for tile in tiles]}


def dubai_recommended(work, args):
    tiles = {
        n: read_labelled(args.data / f'tile{n}' / 'images', args.data / f'tile{n}' / 'masks', DUBAI)
        for n in (8, 4, 6)
    }
    settings = Settings(epochs=4, device='cpu', precision='float32')
    pipeline = ModelPipeline(DUBAI, settings).fit(tiles[8])
    found = {
        'recipe': 'recommended',
        'patch_size': settings.patch_size,
        'epochs_run': len(pipeline.history),
        'best_epoch': pipeline.history.best.number,
        'steps': pipeline.history[-1].steps,
        'seconds': round(sum(epoch.seconds for epoch in pipeline.history)),
        'settings': settings.as_dict(),
        'environment': environment(pipeline.device, pipeline.dtype),
        'train': [{'name': tile.name, 'checksum': checksum(tile)} for tile in tiles[8]],
        **{f'scene{n}': scored(pipeline, tiles[n], DUBAI.names) for n in (4, 6)},
    }
    (RECORDED / 'dubai' / 'recommended.json').write_text(json.dumps(found) + '\n')


def vaihingen_crop(work, args):
    palette = ISPRS.ignoring('clutter')
    whole = label_tile(read_tile(args.data / 'image.tif', args.data / 'reference_eroded.tif'), palette)
    train, test = (
        Tile(np.ascontiguousarray(whole.image[:, part]), labels=np.ascontiguousarray(whole.labels[:, part]))
        for part in (slice(0, 320), slice(320, 512))
    )
    common = dict(device='cpu', precision='float32')
    runs = {f'report {p}': replace(REPORT, patch_size=p, **common) for p in (32, 64)}
    runs['recommended'] = Settings(split='random', **common)
    found = {
        'train': 'rows 0 to 511, columns 0 to 319 of the crop',
        'test': 'columns 320 to 511 of the crop',
    }
    for name, settings in runs.items():
        pipeline = ModelPipeline(palette, settings).fit(train)
        run = {'epochs_run': len(pipeline.history), 'steps': pipeline.history[-1].steps}
        found[name] = {
            'settings': settings.as_dict(),
            **run,
            **pipeline.evaluate(test).as_dict(palette.names),
        }
    found['environment'] = environment(pipeline.device, pipeline.dtype)
    (RECORDED / 'vaihingen_crop' / 'scores.json').write_text(json.dumps(found) + '\n')


def demo(work, args):
    palette, folder = ISPRS.ignoring('clutter'), RECORDED / 'demo'
    train, (_, (test,)) = [synthetic_scene(*SCENE_SIZE, seed=seed) for seed in DEMO_SEEDS], built_in(palette)
    pipeline = ModelPipeline(palette, DEMO).fit(train)
    pipeline.save(folder / 'model.safetensors')
    facts = [{'name': tile.name, 'checksum': checksum(tile)} for tile in (*train, test)]
    scores = {
        'environment': environment(pipeline.device, pipeline.dtype),
        'train': facts[:-1],
        'test': facts[-1],
        **pipeline.evaluate([test]).as_dict(palette.names),
    }
    (folder / 'scores.json').write_text(json.dumps(scores, indent=1) + '\n')
    draw('demo', test, pipeline.predict(test), palette)


INT8_SEEDS = range(21, 26)  # Synthetic scenes that neither training nor a choice has seen
SEVEN, ALL = 'int8, weights of 7 bits', 'int8, every layer'
OPENVINO = {  # The number format to compare with, and the instructions that OpenVINO may use
    'openvino': ('f32', {}),
    'openvino bfloat16': ('bf16', {}),
    'openvino avx512': ('f32', {'ONEDNN_MAX_CPU_ISA': 'AVX512_CORE'}),
    'openvino avx2': ('f32', {'ONEDNN_MAX_CPU_ISA': 'AVX2'}),
}
WEB = """
import { readFileSync } from 'fs';
const [dist, side, rounds, classes, ...files] = process.argv.slice(2), n = side * side;
const ort = await import(`${dist}/ort.wasm.bundle.min.mjs`);
ort.env.wasm.wasmBinary = readFileSync(`${dist}/ort-wasm-simd-threaded.wasm`);
ort.env.wasm.wasmPaths = {wasm: `file://${dist}/ort-wasm-simd-threaded.wasm`};
ort.env.wasm.numThreads = 1;
const pixels = new Float32Array(readFileSync(0).buffer.slice(0, 12 * n)), seconds = [[], []], labels = [], sessions = [];
for (const file of files) {
  sessions.push(await ort.InferenceSession.create(readFileSync(file), {executionProviders: ['wasm']}));
}
for (let round = 0; round < rounds; round++) {
  for (const i of [0, 1]) {
    const start = performance.now();
    const {logits} = await sessions[i].run({image: new ort.Tensor('float32', pixels, [1, 3, +side, +side])});
    seconds[i].push((performance.now() - start) / 1000);
    labels[i] = Array.from({length: n}, (_, p) => {
      let best = 0;
      for (let k = 1; k < classes; k++) if (logits.data[k * n + p] > logits.data[best * n + p]) best = k;
      return best;
    });
  }
}
console.log(JSON.stringify({seconds, labels}));
"""


def int8_seconds(files, batch, engine, rounds, hint='f32'):
    "Seconds of each run of two networks in turn, on one thread, and their logits; a number format inside the first."
    if engine == 'openvino':
        openvino = package('openvino', 'this record', 'openvino')
        core = openvino.Core()
        how = dict(INFERENCE_NUM_THREADS=1, NUM_STREAMS=1, ENABLE_CPU_PINNING=False)
        programs = [
            core.compile_model(core.read_model(str(file)), 'CPU', how | {'INFERENCE_PRECISION_HINT': kind})
            for file, kind in zip(files, (hint, 'f32'))
        ]
        runs = [lambda program=program: program([batch])[0] for program in programs]
    else:
        runs = [partial(onnx_predictor(file), torch.from_numpy(batch)) for file in files]
    seconds, logits = [], [np.asarray(run()) for run in runs]  # the first run of each is not timed
    for _ in range(rounds):
        moments = [time.perf_counter()]
        for run in runs:
            run()
            moments.append(time.perf_counter())
        seconds.append(np.diff(moments).tolist())
    return seconds, logits


def int8_speed(seconds, logits, first='float32'):
    "Medians of both, and of how many times as fast 8 bits are in each turn."
    own, other = np.transpose(seconds)
    return {
        first: round(float(np.median(own)), 4),
        'int8': round(float(np.median(other)), 4),
        'times_as_fast': [round(float(np.percentile(own / other, p)), 2) for p in (25, 50, 75)],
        'differ': float((logits[0].argmax(1) != logits[1].argmax(1)).mean()),
    }


def print_int8_seconds(folder, rounds, hint):
    "What a process of its own prints, whose processor is limited by its environment."
    torch.set_num_threads(1)
    folder, first = Path(folder), {'f32': 'float32', 'bf16': 'bfloat16'}[hint]
    files, batch = [folder / f'{name}.onnx' for name in ('float32', 'int8')], np.load(folder / 'batch.npy')
    print(json.dumps(int8_speed(*int8_seconds(files, batch, 'openvino', int(rounds), hint), first)))


def int8_on_the_web(files, batch, dist, rounds, classes):
    "The same by onnxruntime-web in Node.js."
    script = files[0].with_name('web.mjs')
    script.write_text(WEB)
    words = ['node', script, dist.resolve(), batch.shape[-1], rounds, classes, *files]
    told = subprocess.run(
        [str(word) for word in words], input=batch.tobytes(), capture_output=True, check=True
    )
    found = json.loads(told.stdout)
    labels = [np.eye(classes)[one].T[None] for one in found['labels']]
    package = json.loads((dist.resolve().parent / 'package.json').read_text())
    return int8_speed(np.transpose(found['seconds']).tolist(), labels) | {
        'onnxruntime-web': package['version']
    }


def saturated(content, batch):
    """How many sums of two products of neighbours an 8-bit file computes on a batch, and how many do not fit into 16 bits.

    Neighbours are two channels under the same weight of the window, as onnxruntime and oneDNN lay them out."""
    import onnx
    import onnxruntime

    model = onnx.load_from_string(content)
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    layers = []
    for node in model.graph.node:
        sources = [made.get(name) for name in node.input[:2]]
        if node.op_type == 'Conv' and all(one and one.op_type == 'DequantizeLinear' for one in sources):
            image, weights = sources
            layers.append((image.input[0], arrays[image.input[2]], arrays[weights.input[0]]))
    names = sorted({name for name, *_ in layers})
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in names
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    codes = dict(zip(names, session.run(names, {'image': batch})))
    sums = clipped = 0
    for name, zero, weights in layers:
        side = weights.shape[-1]
        image = torch.nn.functional.pad(
            torch.from_numpy(codes[name]).float(), [side // 2] * 4, value=float(zero)
        )
        rows, cols = codes[name].shape[2:]
        for top in range(side):
            for left in range(side):
                seen = image[0, :, top : top + rows, left : left + cols].flatten(1)
                for channel in range(0, weights.shape[1] - 1, 2):
                    pair = torch.from_numpy(np.float32(weights[:, channel : channel + 2, top, left]))
                    total = pair @ seen[channel : channel + 2]
                    sums += total.numel()
                    clipped += int(((total > 32767) | (total < -32768)).sum())
    return {'sums': sums, 'clipped': clipped}


def int8_record(work, pipeline, train, tests, args, rounds=11):
    "Scores of a model in float32 and in 8 bits, and how fast it is in each runtime."
    windows, names = calibration_windows(pipeline, train), pipeline.palette.names
    files = {name: work / f'{name}.onnx' for name in ('float32', 'int8', SEVEN, ALL)}
    export_onnx(pipeline, files['float32'])
    export_onnx(pipeline, files['int8'], int8=windows)
    content = files['float32'].read_bytes()
    files[SEVEN].write_bytes(quantise_onnx(content, windows[0], reduce_range=True))
    files[ALL].write_bytes(quantise_onnx(content, windows[0], ends=True))
    found, truth = {'export': read_onnx_metadata(files['int8'])['unetkit']['int8'], 'variants': {}}, None
    for name, file in files.items():
        how = pipeline.windows()
        maps = [predict_tile(onnx_predictor(file), tile.image, 'exact', **how) for tile in tests]
        truth = truth or maps
        counts = sum(confusion_matrix(tile.labels, one, len(names)) for tile, one in zip(tests, maps))
        differ = sum(int((one != own).sum()) for one, own in zip(maps, truth))
        found['variants'][name] = {
            'bytes': file.stat().st_size,
            'differ': differ / sum(one.size for one in maps),
            **Scores(counts).as_dict(names),
        }
    side = 512
    batch = np.ascontiguousarray(tests[0].image[:side, :side].transpose(2, 0, 1)[None], np.float32) / 255
    np.save(work / 'batch.npy', batch)
    pair, speed = [files['float32'], files['int8']], {}
    speed['onnxruntime'] = int8_speed(*int8_seconds(pair, batch, 'onnxruntime', rounds))
    code = 'import records, sys; records.print_int8_seconds(*sys.argv[1:])'
    for name, (hint, limits) in OPENVINO.items():
        environment = (
            os.environ | limits | {'PYTHONPATH': os.pathsep.join([str(HERE / 'scripts'), str(HERE)])}
        )
        words = [sys.executable, '-c', code, str(work), str(rounds), hint]
        told = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        speed[name] = json.loads(told.stdout)
    if args.web:
        speed['wasm'] = int8_on_the_web(pair, batch, args.web, rounds, len(names))
    small = np.ascontiguousarray(batch[..., :128, :128])
    found |= {'window': side, 'rounds': rounds, 'speed': speed}
    return found | {'saturated': saturated(files['int8'].read_bytes(), small)}


def int8(work, args):
    torch.set_num_threads(1)
    plan = STUDIES['board_dubai_two']
    settings = Settings(epochs=4, validation=0, device='cpu')
    scenes = [synthetic_scene(512, 640, seed=seed) for seed in INT8_SEEDS]
    train, tests = plan.tiles(args.data)
    pipeline = ModelPipeline(DUBAI, settings).fit(train)
    sets = {
        'synthetic': (
            demo_model('cpu', 'float32'),
            [synthetic_scene(*SCENE_SIZE, seed=DEMO_SEEDS[0])],
            scenes,
        ),
        'dubai': (pipeline, train, tests[::4]),  # three of its nine parts
    }
    found = {'environment': environment(pipeline.device, pipeline.dtype)}
    found['environment'] |= {name: version(name) for name in ('onnx', 'onnxruntime', 'openvino')}
    found['environment']['isa'] = sorted(
        name
        for name, there in torch.cpu.get_capabilities().items()
        if there is True and name.startswith(('avx', 'amx'))
    )
    found['settings'] = settings.as_dict()
    for name, (model, shown, unseen) in sets.items():
        found[name] = int8_record(work, model, shown, unseen, args)
        found[name]['calibrated_on'] = [{'name': tile.name, 'checksum': checksum(tile)} for tile in shown]
        found[name]['tested_on'] = [{'name': tile.name, 'checksum': checksum(tile)} for tile in unseen]
    (RECORDED / 'int8').mkdir(exist_ok=True)
    (RECORDED / 'int8' / 'scores.json').write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    makers = {
        make.__name__: make for make in (embedded, demo, dubai, dubai_recommended, vaihingen_crop, int8)
    }
    parser.add_argument('name', choices=makers)
    parser.add_argument('data', type=Path, nargs='?', help='folder of the imagery')
    parser.add_argument('--web', type=Path, help='folder dist of onnxruntime-web, for int8')
    args = parser.parse_args()
    if args.name not in ('embedded', 'demo') and not (args.data and args.data.is_dir()):
        parser.error(f'{args.name} needs the folder of its imagery')
    with tempfile.TemporaryDirectory() as work:
        makers[args.name](Path(work), args)
