#!/usr/bin/env python3
"""Measure how fast this machine trains and predicts, how much memory it takes, and what is missing to the machine's limit.

usage: scripts/bench.py [--quick] [--out FILE | --record] [--only PART ...]

Parts, in this order; the ceiling is measured unless nothing is asked for that is compared with it:
  bounds     memory of training at stride 8, times of a scene, of imports and of each panel of sliders, and two speed-ups, against their bounds
  ceiling    best convolution and matrix product of each number format
  training   unetkit beside the plain float32 loop, by width, patch and batch
  peers      MONAI's UNet and BasicUNet and a textbook U-Net, each in the plain loop and in unetkit's
  inference  exact halo, whole patches and blending beside MONAI's sliding window, and how far each is from the whole-image forward
  engines    maps from file to file by torch, by OpenVINO and by MONAI's sliding window at equal precision
  curves     time and memory against core, tile size, stride and width
  profile    where the time of a training step goes
  data       training on more data than memory: 2 000 chips and a tile of 20 000 x 20 000 under 2 GB, and the speed beside memory
  runs       which share of a training, and of the whole report, goes to training, validation and maps

What is compared runs in turn, and medians are reported: trust the ratios of one run, not its absolute values. The memory of a piece of work
is the peak resident set of a fresh process that does only this, libraries included. The plain loop is what a first notebook does: patches
sliced from a numpy array, float32, default memory layout, Adam as it comes. FLOP are counted, not estimated (a multiply-add is two). The
number of threads is torch's choice unless OMP_NUM_THREADS says otherwise.
Writes JSON after every part; --record writes it to unetkit/recorded/bench/, where parts that are not measured stay as they are. Exits with 1
if a bound is exceeded.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rasterio
import sklearn.metrics
import torch
from torch import nn
from torch.nn import functional as F

from unetkit.datasets import LazyTile, Reading, image_pairs, training_tiles
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS, class_counts, colours_to_labels, labels_to_colours
from unetkit.raster import write_image
from unetkit.losses import SCHEMES, class_weights, make_loss
from unetkit.metrics import confusion_matrix
from unetkit.batches import Batches, as_batch, to_device
from unetkit.patches import grid_windows, random_split
from unetkit.windows import plan
from unetkit.records import environment
from unetkit.report import REPORT
from unetkit.scale import predict_raster
from unetkit.machine import pick_precision, prepare, wants_channels_last
from unetkit.networks import count_flops, count_parameters
from unetkit.scenes import synthetic_scene
from unetkit.stitching import exact_halo, image_tensor
from unetkit.tiles import Tile
from unetkit.training import epochs, make_optimizer, make_predictor, seed_everything, train_epoch
from unetkit.unet import UNet
from unetkit.widgets import (
    FIVE,
    border_distance,
    show_leak,
    show_losses,
    show_patch_choice,
    show_protocols,
    show_seams,
)

SIZE, STRIDE = (2565, 1919), 8  # tile of the report: rows and columns, and its stride, in pixels
BOUND_GB = 1.2  # gigabytes
BOUND_SCENE, BOUND_PANEL, BOUND_IMPORT = 3.0, 0.6, 3.0  # seconds where the yardstick takes USUAL
USUAL = 0.1  # seconds of a processor of 2023 at its usual pace
BATCH, TURN = 10, 10 * 128**2  # windows of a step; least pixels that a turn of training takes
BOUND_DATA_GB, BOUND_DATA_SPEED = 2.0, 0.9  # gigabytes, share of the speed in memory
ENGINE_SIDE = int(os.environ.get('UNETKIT_BENCH_SIDE', 2048))  # of the raster that engines map, in pixels
ENGINE_MEMORY = 2e9  # bytes that a window may take there; MONAI's side holds the whole map
AGREEMENT_CORE = (
    256  # side of the exact windows that are held against a forward of the whole image, in pixels
)
PARTS = (
    'bounds',
    'training',
    'peers',
    'inference',
    'engines',
    'agreement',
    'curves',
    'profile',
    'data',
    'runs',
)
ALONE = {'bounds', 'data', 'engines', 'agreement', 'profile', 'runs'}  # parts that need no ceiling


# ---- clocks and processes


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def processor_seconds(work):
    "Seconds of processor that this thread takes: other processes add little to them."
    start = time.thread_time()
    work()
    return time.thread_time() - start


def yardstick():
    "A fixed piece of work, half NumPy and half plain Python: bounds are multiples of it, because the pace of one machine changes by half."
    for _ in range(5):
        pixels = np.random.default_rng(0).random((512, 512), dtype=np.float32)
        np.sort(pixels.ravel())
        (pixels[:-2] + pixels[1:-1] + pixels[2:]).sum()
        total = 0.0
        for row in pixels:
            total += float(row.max() - row.mean())
            for value in row.tolist():
                total += value * value


def at_usual_pace(work, rounds):
    "Seconds that a piece of work would take where the yardstick takes USUAL: median of rounds, each beside the yardstick."
    return statistics.median(work() / processor_seconds(yardstick) for _ in range(rounds)) * USUAL


def race(works, budget, least=3, most=9):
    "Seconds of every piece of work, in turn: rounds until the budget is spent."
    times, start = {name: [] for name in works}, time.perf_counter()
    for done in range(most):
        if done >= least and time.perf_counter() - start > budget:
            break
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def ratio(above, below):
    "Median over the rounds of a race."
    return statistics.median(a / b for a, b in zip(above, below))


def peak_gigabytes():
    "Peak resident set of this process, in 10**9 bytes; Linux's getrusage would count the parent's as well."
    status = Path('/proc/self/status')
    if status.exists():
        return int(re.search(r'VmHWM:\s+(\d+)', status.read_text())[1]) * 1024 / 1e9
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024) / 1e9
    )


def child_output(name, **arguments):
    "What a function of `CHILDREN` prints in a fresh process."
    done = subprocess.run(
        [sys.executable, __file__, '--child', name, json.dumps(arguments)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f'{name} {arguments} failed:\n{done.stderr[-2000:]}')
    return done.stdout


def child(name, **arguments):
    "What a function of `CHILDREN` finds in a fresh process, with the peak of its memory."
    return json.loads(child_output(name, **arguments).splitlines()[-1])


def show(rows, columns):
    "A table: header -> format of a row; what a row lacks stays empty."

    def cell(text, row):
        try:
            return text.format(**row)
        except (KeyError, TypeError):
            return ''

    table = [list(columns), *([cell(text, row) for text in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        print('  '.join(text.rjust(width) for text, width in zip(line, widths)))


# ---- networks and loops


def double_conv(fan_in, fan_out):
    parts = [
        [nn.Conv2d(n, fan_out, 3, padding=1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU(inplace=True)]
        for n in (fan_in, fan_out)
    ]
    return nn.Sequential(*parts[0], *parts[1])


class TextbookUNet(nn.Module):
    "The U-Net as it stands in tutorials: four steps, batch normalisation, transposed convolutions."

    def __init__(self, width=32, num_classes=5):
        super().__init__()
        sizes = [width * 2**level for level in range(5)]
        self.downs = nn.ModuleList(double_conv(*pair) for pair in zip([3, *sizes], sizes))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * size, size, 2, stride=2) for size in sizes[3::-1])
        self.convs = nn.ModuleList(double_conv(2 * size, size) for size in sizes[3::-1])
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        skips = []
        for level, block in enumerate(self.downs):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()
        for up, block in zip(self.ups, self.convs):
            x = block(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def monai(name, *sizes):
    "A network of MONAI; the library is imported where it is measured only, because that takes seconds and memory."
    from monai.networks import nets

    return getattr(nets, name)(2, 3, 5, *sizes)


PEERS = {
    'unetkit, width 16': lambda: UNet(3, 5, 16),
    'unetkit, width 32': lambda: UNet(3, 5, 32),
    'textbook, width 32': TextbookUNet,
    'MONAI UNet, 32 to 512, no residual units': partial(monai, 'UNet', (32, 64, 128, 256, 512), (2, 2, 2, 2)),
    'MONAI BasicUNet, 32 to 256': partial(monai, 'BasicUNet'),
}


def noise_tile(size):
    "Random pixels: speed and memory do not depend on what they show."
    rng = np.random.default_rng(0)
    return Tile(
        rng.integers(0, 256, (*size, 3), np.uint8), labels=rng.integers(0, 5, size, np.uint8), name='noise'
    )


def some_windows(tile, patch, batch):
    "Windows for a turn: whole batches, of `TURN` pixels or more."
    windows, steps = grid_windows([tile.size], patch, patch), max(1, round(TURN / (batch * patch**2)))
    return windows[np.resize(np.arange(len(windows)), steps * batch)]


def plain_batches(tile, windows, batch):
    "Patches as a first notebook makes them."
    p = windows.patch_size
    for start in range(0, len(windows), batch):
        at = list(zip(windows.row[start : start + batch], windows.col[start : start + batch]))
        images = np.stack([tile.image[r : r + p, c : c + p] for r, c in at]).astype(np.float32) / 255
        labels = np.stack([tile.labels[r : r + p, c : c + p] for r, c in at]).astype(np.int64)
        yield torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)


def plain_loop(model, tile, windows, batch):
    "The plain float32 loop as work to be timed."
    model, optimizer = model.train(), torch.optim.Adam(model.parameters(), lr=1e-3)

    def work():
        for images, labels in plain_batches(tile, windows, batch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return work


def unetkit_loop(model, tile, windows, batch, dtype):
    "unetkit's loop as work to be timed."
    last = wants_channels_last(next(model.parameters()).shape[0], 'cpu', dtype)
    model, batches = (
        prepare(model, 'cpu', last),
        Batches(to_device([tile]), windows, batch, channels_last=last),
    )
    return partial(train_epoch, model, batches, make_loss('cross_entropy'), make_optimizer(model), dtype)


# ---- the ceiling

CONVOLUTIONS = [
    (16, 16, 128),
    (32, 32, 128),
    (64, 64, 64),
    (64, 64, 128),
    (128, 128, 32),
    (256, 128, 32),
    (256, 256, 16),
    (512, 512, 8),
]


def convolution(shape, layout, dtype, training):
    "A 3x3 convolution of `BATCH` patches, with its backward pass in training, as work; and its FLOP."
    fan_in, fan_out, side = shape
    x = torch.rand(BATCH, fan_in, side, side).to(dtype, memory_format=layout).requires_grad_(training)
    weight = torch.rand(fan_out, fan_in, 3, 3).to(dtype, memory_format=layout).requires_grad_(training)
    forward = lambda: F.conv2d(x, weight, padding=1)
    upstream, flop = torch.rand_like(forward()), 18 * BATCH * fan_in * fan_out * side**2
    return (
        (lambda: torch.autograd.grad(forward(), (x, weight), upstream), 3 * flop)
        if training
        else (forward, flop)
    )


def product(side, dtype):
    "A matrix product as work, and its FLOP."
    a, b = torch.rand(2, side, side).to(dtype)
    return lambda: a @ b, 2 * side**3


def ceiling_works(dtype, sides):
    "Every candidate for the ceiling: (kind, shape, layout) -> (work, FLOP)."
    works = {('matrix product', (side,) * 3, ''): product(side, dtype) for side in sides}
    for shape in CONVOLUTIONS:
        for name, layout in (('default', torch.contiguous_format), ('channels_last', torch.channels_last)):
            for training, kind in enumerate(('convolution', 'convolution and backward')):
                works[kind, shape, name] = convolution(shape, layout, dtype, bool(training))
    return works


def measure_ceiling(quick):
    "GFLOP/s of every candidate; the best of its kind is marked."
    rows = []
    for dtype in {torch.float32, pick_precision()}:
        works = ceiling_works(dtype, (512, 1024, 2048) if quick else (512, 1024, 2048, 4096))
        for work, _ in works.values():
            work()
        times = race({key: work for key, (work, _) in works.items()}, 3 if quick else 20)
        rows += [
            {
                'kind': kind,
                'dtype': str(dtype)[6:],
                'shape': shape,
                'layout': layout,
                'gflops': works[kind, shape, layout][1] / statistics.median(t) / 1e9,
            }
            for (kind, shape, layout), t in times.items()
        ]
    for row in rows:
        row['best'] = row['gflops'] == max(
            r['gflops'] for r in rows if (r['kind'], r['dtype']) == (row['kind'], row['dtype'])
        )
    return rows


def reference(ceiling, dtype, kind='convolution and backward'):
    "The convolution that is the ceiling, repeated for about 0.2 s, as work; and its FLOP."
    best = next(r for r in ceiling if r['best'] and (r['kind'], r['dtype']) == (kind, str(dtype)[6:]))
    layout = torch.channels_last if best['layout'] == 'channels_last' else torch.contiguous_format
    work, flop = convolution(best['shape'], layout, dtype, kind != 'convolution')
    count = max(1, round(0.2 * best['gflops'] * 1e9 / flop))
    return lambda: [work() for _ in range(count)], count * flop


# ---- training


def training_cell(width, patch, batch, ceiling, budget):
    "One row of the training table: both loops and the ceiling in turn, then the memory of each."
    tile, dtype, model = noise_tile((1024, 1024)), pick_precision(), UNet(3, 5, width)
    windows = some_windows(tile, patch, batch)
    limit, limit_flop = reference(ceiling, dtype)
    works = {'plain': plain_loop(copy.deepcopy(model), tile, windows, batch), 'limit': limit}
    works['unetkit'] = unetkit_loop(model, tile, windows, batch, dtype)
    for work in works.values():
        work()
    times, pixels = race(works, budget, least=2), len(windows) * patch**2
    flop = count_flops(model, (patch, patch), training=True) * len(windows)
    row = {
        'width': width,
        'patch_size': patch,
        'batch_size': batch,
        'dtype': str(dtype)[6:],
        'flop_per_pixel': flop / pixels,
        'step_seconds': statistics.median(times['unetkit']) * batch / len(windows),
        'ratio': ratio(times['plain'], times['unetkit']),
    }
    for who in ('plain', 'unetkit'):
        speed, share = (
            pixels / statistics.median(times[who]) / 1e6,
            flop / limit_flop * ratio(times['limit'], times[who]),
        )
        found = child('training', who=who, width=width, patch=patch, batch=batch)
        row[who] = {'megapixels_per_second': speed, 'ceiling_share': share} | found
    return row


def measure_training(quick, ceiling):
    cells = (
        [(16, 32, 10), (16, 128, 10)]
        if quick
        else [
            *(
                (16, patch, batch)
                for patch, batch in ((32, 10), (32, 160), (64, 10), (64, 40), (128, 10), (256, 10))
            ),
            *(
                (width, patch, 10)
                for width in (32, 64)
                for patch in ((32, 128, 256) if width == 32 else (32, 128))
            ),
        ]
    )
    return [training_cell(*cell, ceiling, 3 if quick else 5) for cell in cells]


def train_here(who, width, patch, batch):
    "Child: the time from the tile to the first batch, and two steps for the memory."
    seed_everything(0)
    tile, model = noise_tile(SIZE), UNet(3, 5, width)
    start = time.perf_counter()
    windows, last = (
        grid_windows([tile.size], patch, patch),
        wants_channels_last(width, 'cpu', pick_precision()),
    )
    batches = (
        plain_batches(tile, windows, batch)
        if who == 'plain'
        else Batches(to_device([tile]), windows, batch, channels_last=last)
    )
    next(iter(batches))
    first, two = time.perf_counter() - start, windows[: 2 * batch]
    (
        plain_loop(model, tile, two, batch)
        if who == 'plain'
        else unetkit_loop(model, tile, two, batch, pick_precision())
    )()
    return {'first_batch_seconds': first}


# ---- peers


def measure_peers(quick, ceiling):
    "Every network in the plain loop and in unetkit's, on the same patches, all in turn."
    tile, dtype, works, batch = noise_tile((512, 512)), pick_precision(), {}, 4 if quick else BATCH
    windows, models = some_windows(tile, 128, BATCH)[:batch], {name: make() for name, make in PEERS.items()}
    for name, model in models.items():
        works[name, 'plain'] = plain_loop(copy.deepcopy(model), tile, windows, batch)
        works[name, 'unetkit'] = unetkit_loop(model, tile, windows, batch, dtype)
    limit, limit_flop = reference(ceiling, dtype)
    for work in works.values():
        work()
    times = race(works | {'limit': limit}, 5 if quick else 25, least=2)

    def row(name, loop):
        flop, precision = (
            count_flops(models[name], training=True),
            'float32' if loop == 'plain' else str(dtype)[6:],
        )
        return {
            'model': name,
            'loop': loop,
            'dtype': precision,
            'batch_size': batch,
            'parameters': count_parameters(models[name]),
            'flop_per_pixel': flop / 128**2,
            'megapixels_per_second': batch * 128**2 / statistics.median(times[name, loop]) / 1e6,
            'ratio_to_plain': ratio(times[name, 'plain'], times[name, loop]),
            'ceiling_share': batch * flop / limit_flop * ratio(times['limit'], times[name, loop]),
        }

    return [row(*key) for key in works]


# ---- inference


def trained(folder, width=16):
    "A file with a network that has learnt a scene a little; made once."
    path, pipeline = (
        Path(folder) / f'model_{width}.safetensors',
        ModelPipeline(ISPRS, replace(REPORT, epochs=6, width=width)),
    )
    if path.exists():
        return path
    for _ in pipeline.epochs([synthetic_scene(640, 768, seed=1)]):
        pass
    return pipeline.save(path)


def monai_map(predict, image, roi, mode, count):
    "MONAI's sliding window with half overlap."
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        batch = as_batch(image_tensor(image)[None])
        return (
            sliding_window_inference(batch, roi, count, predict, overlap=0.5, mode=mode)[0]
            .argmax(0)
            .to(torch.uint8)
            .numpy()
        )


def label_map(pipeline, image, how, *details):
    "A label map (H, W): 'whole', 'monai' with roi, mode and batch, 'core' with its side, or a method of unetkit."
    predict = make_predictor(pipeline.model, pipeline.dtype)
    if how == 'whole':
        return predict(as_batch(image_tensor(image)[None]))[0].argmax(0).to(torch.uint8).numpy()
    if how == 'monai':
        return monai_map(predict, image, *details)
    if how == 'core':
        return exact_halo(predict, image, **pipeline.windows() | {'core': details[0]})
    return pipeline.predict(Tile(image), method=how)


def map_here(model, image, how):
    "Child: one label map, timed."
    pipeline, image = ModelPipeline.load(model), np.load(image)
    return {'seconds': seconds(lambda: label_map(pipeline, image, *how))}


def tuned(pipeline, image):
    "MONAI's settings, each with the batch that is faster on a part of the image."
    for roi in (128, 256, 512):
        part = image[: 2 * roi, : 2 * roi]
        times = race(
            {count: partial(label_map, pipeline, part, 'monai', roi, 'gaussian', count) for count in (1, 4)},
            0,
            least=2,
        )
        count = min(times, key=lambda count: min(times[count]))
        for mode in ('gaussian', 'constant'):
            yield 'monai', roi, mode, count


def measure_inference(quick, folder):
    "Every method on one tile, in turn; labels held against the whole-image forward of the same precision, memory of a process of its own."
    model, (rows, cols), maps = trained(folder), (512, 512) if quick else (1408, 1536), {}
    image, path, pipeline = (
        synthetic_scene(rows, cols, seed=2).image,
        f'{folder}/tile.npy',
        ModelPipeline.load(model),
    )
    np.save(path, image)
    hows = [('exact',), ('patches',), ('blend',), ('whole',), *tuned(pipeline, image)]
    works = {how: lambda how=how: maps.update({how: label_map(pipeline, image, *how)}) for how in hows}
    times = race(works, 5 if quick else 15, least=2)
    best = min((how for how in hows if how[0] == 'monai'), key=lambda how: statistics.median(times[how]))
    memory = {
        how: child('map', model=str(model), image=path, how=how)['peak_gigabytes']
        for how in [*hows[:4], best]
    }
    return [
        {
            'method': ' '.join(map(str, how)),
            'megapixels_per_second': rows * cols / statistics.median(times[how]) / 1e6,
            'best_of_monai': how == best,
            'ratio_to_monai': ratio(times[best], times[how]),
            'labels_differ': float((maps[how] != maps[('whole',)]).mean()),
            'dtype': str(pipeline.dtype)[6:],
            'size': (rows, cols),
            'peak_gigabytes': memory.get(how),
        }
        for how in hows
    ]


# ---- engines


def clocks(work):
    "Seconds of a piece of work by the clock, and of the processor, which other programs cannot take from it."
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def monai_raster(pipeline, image, out, how):
    "A raster from file to file with MONAI's sliding window, which holds all of it in memory."
    with rasterio.open(image) as raster:
        pixels, profile = raster.read().transpose(1, 2, 0), raster.profile
    with rasterio.open(out, 'w', **profile | {'count': 1}) as file:
        file.write(label_map(pipeline, pixels, *how), 1)


def fastest_of_monai(pipeline, image):
    "The setting of MONAI's sliding window that is fastest on a part of a raster."
    with rasterio.open(image) as raster:
        part = raster.read(window=rasterio.windows.Window(0, 0, 1024, 1024)).transpose(1, 2, 0)
    hows = list(tuned(pipeline, part))
    times = race({how: partial(label_map, pipeline, part, *how) for how in hows}, 0, least=2)
    return min(hows, key=lambda how: min(times[how]))


def timed_network(pipeline):
    "Let a pipeline note how many seconds its network takes."
    spent, make = [], pipeline.predictor
    pipeline.predictor = lambda *given: timed(make(*given), spent)
    return spent


def engine_row(width, precision, image, folder, rounds):
    "A raster from file to file by both engines and by MONAI's sliding window in turn: seconds, the medians of their ratios, and the share of the network."
    maker = ModelPipeline(ISPRS, width=width, device='cpu', precision=precision, engine='torch')
    maker.make([synthetic_scene(256, seed=1)])
    model, pipelines = maker.save(f'{folder}/engines.safetensors'), {}
    row = {'width': width, 'dtype': precision, 'rounds': rounds, 'memory': ENGINE_MEMORY}
    for engine in ('torch', 'openvino'):
        pipelines[engine] = ModelPipeline.load(model, 'cpu', precision, engine=engine)
        row[engine] = {'start_seconds': clocks(pipelines[engine].predictor)[1]}
        row[engine]['core'] = pipelines[engine].windows(ENGINE_MEMORY)['core']
    peer = ModelPipeline.load(model, 'cpu', precision, engine='torch')
    how = fastest_of_monai(peer, image)
    row['monai'] = {'setting': how}
    network = {name: timed_network(pipeline) for name, pipeline in pipelines.items()}
    works = {
        name: partial(predict_raster, pipeline, image, f'{folder}/{name}.tif', memory=ENGINE_MEMORY)
        for name, pipeline in pipelines.items()
    }
    works['monai'] = partial(monai_raster, peer, image, f'{folder}/monai.tif', how)
    for name in works:
        row[name] |= {'seconds': [], 'cpu_seconds': []}
    for _ in range(rounds):
        for name, work in works.items():
            for clock, took in zip(('seconds', 'cpu_seconds'), clocks(work)):
                row[name][clock].append(took)
    for name, spent in network.items():
        row[name]['network_share'] = sum(spent) / sum(row[name]['seconds'])
    maps = {name: rasterio.open(f'{folder}/{name}.tif').read(1) for name in works}
    row['labels_differ'] = float((maps['torch'] != maps['openvino']).mean())
    row['monai']['labels_differ'] = float((maps['torch'] != maps['monai']).mean())
    row['size'] = maps['torch'].shape
    for clock in ('seconds', 'cpu_seconds'):
        row[f'ratio_{clock}'] = ratio(row['torch'][clock], row['openvino'][clock])
        for engine in pipelines:
            row[engine][f'monai_ratio_{clock}'] = ratio(row['monai'][clock], row[engine][clock])
    return row


def measure_engines(quick, folder):
    "By width and precision; the start of an engine, which includes reading the package, is the first row's."
    image, side = f'{folder}/engines_image.tif', 256 if quick else ENGINE_SIDE
    write_raster(image, side)
    kinds = list(dict.fromkeys(['float32', str(pick_precision())[6:]]))
    return [
        engine_row(width, precision, image, folder, 1 if quick else 3)
        for width in (16, 32)
        for precision in kinds
    ]


def agreement_row(width, precision, folder, side):
    "How many labels of a scene differ from those of one forward of the whole image, by the same engine and by torch in float32."
    model, scene = trained(folder, width), synthetic_scene(side, seed=2).image
    batch = as_batch(image_tensor(scene)[None])

    def whole(pipeline):
        return pipeline.predictor()(batch)[0].argmax(0).numpy()

    plain = whole(ModelPipeline.load(model, 'cpu', 'float32', engine='torch'))
    row = {'width': width, 'dtype': precision, 'size': (side, side), 'core': AGREEMENT_CORE}
    for engine in ('torch', 'openvino'):
        pipeline = ModelPipeline.load(model, 'cpu', precision, engine=engine)
        sizes = pipeline.windows() | {'core': AGREEMENT_CORE}  # many windows, also of a small scene
        assert AGREEMENT_CORE % sizes['multiple'] == 0 and AGREEMENT_CORE < side
        forward, exact = whole(pipeline), exact_halo(pipeline.predictor(), scene, **sizes)
        row[engine] = {'whole': float((exact != forward).mean()), 'float32': float((exact != plain).mean())}
        if engine == 'torch':
            for roi in (128, 256, 512):
                peer = label_map(pipeline, scene, 'monai', roi, 'gaussian', 4)
                row[f'monai {roi}'] = {
                    'whole': float((peer != forward).mean()),
                    'float32': float((peer != plain).mean()),
                }
    return row


def measure_agreement(quick, folder):
    "By width and precision, with a network that has learnt a little: exact windows of each engine, and MONAI's of half an overlap, weighted by a bell."
    kinds = list(dict.fromkeys(['float32', str(pick_precision())[6:]]))
    side = 512 if quick else 1536
    return [agreement_row(width, precision, folder, side) for width in (16, 32) for precision in kinds]


# ---- cost curves


def write_raster(path, side):
    "A GeoTIFF of side x side pixels in blocks, a scene repeated."
    scene = synthetic_scene(1024, seed=2).image.transpose(2, 0, 1)
    blocks = dict(tiled=True, blockxsize=512, blockysize=512, compress='deflate', bigtiff='if_safer')
    look = dict(
        driver='GTiff',
        height=side,
        width=side,
        count=3,
        dtype='uint8',
        transform=rasterio.Affine(1, 0, 0, 0, -1, side),
        **blocks,
    )
    with rasterio.open(path, 'w', **look) as file:
        for top in range(0, side, 1024):
            strip = np.tile(scene[:, : min(1024, side - top)], (1, 1, -(-side // 1024)))[..., :side]
            file.write(strip, window=rasterio.windows.Window(0, top, side, strip.shape[1]))


def raster_here(model, image, out):
    "Child: a raster from file to file."
    return {'seconds': seconds(lambda: predict_raster(model, image, out))}


def repeated(path, side):
    "An array of side x side pixels, a scene repeated, in a file."
    scene, count = synthetic_scene(1024, seed=2).image, -(-side // 1024)
    np.save(path, np.tile(scene, (count, count, 1))[:side, :side])
    return path


def size_curve(folder, quick):
    "Time and memory against the size of the tile: in memory as far as it is sensible, and from file to file; the largest with a narrow network, to be done in minutes."
    rows, raster = [], f'{folder}/raster.tif'
    for megapixels in (1,) if quick else (1, 16, 400):
        side, width = round((megapixels * 1e6) ** 0.5), 16 if megapixels < 400 else 4
        model, about = str(trained(folder, width)), {'side': side, 'width': width}
        if megapixels <= 16:
            rows.append(
                {'how': 'in memory'}
                | about
                | child('map', model=model, image=repeated(f'{folder}/part.npy', side), how=['exact'])
            )
        write_raster(raster, side)
        rows.append(
            {'how': 'file to file'}
            | about
            | child('raster', model=model, image=raster, out=f'{folder}/map.tif')
        )
    return rows


def core_curve(model, folder, quick):
    "Time and memory against the side of the core."
    side, cores = (512, (128, 384)) if quick else (1536, (128, 256, 512, 768, 1536))
    path = repeated(f'{folder}/part.npy', side)
    return [
        {'core': core, 'side': side} | child('map', model=model, image=path, how=['core', core])
        for core in cores
    ]


def stride_curve(step_seconds):
    "Windows, steps and minutes of an epoch against the stride, at width 16, patch 128 and the measured time of a step."
    plans = {stride: plan([SIZE], 128, stride) for stride in (8, 16, 32, 64, 128)}
    return [
        {
            'stride': stride,
            'windows': p.patches,
            'steps_per_epoch': p.steps_per_epoch,
            'epoch_seconds': p.steps_per_epoch * step_seconds,
            'copied_bytes': p.copied_bytes,
            'view_bytes': p.view_bytes,
        }
        for stride, p in plans.items()
    ]


def width_curve(quick):
    "Speed of prediction against width, on windows of 512 pixels."
    batch, dtype = torch.rand(1, 3, 512, 512), pick_precision()
    models = {width: prepare(UNet(3, 5, width), 'cpu') for width in ((8, 32) if quick else (8, 16, 32, 64))}
    works = {width: partial(make_predictor(model, dtype), batch) for width, model in models.items()}
    for work in works.values():
        work()
    return [
        {
            'width': width,
            'megapixels_per_second': 512**2 / statistics.median(t) / 1e6,
            'flop_per_pixel': count_flops(models[width], (512, 512)) / 512**2,
        }
        for width, t in race(works, 3 if quick else 10).items()
    ]


def measure_curves(quick, folder, training):
    "Cost against one setting at a time; that of the stride needs the time of a step from the table of training."
    model, step = (
        str(trained(folder)),
        [r['step_seconds'] for r in training if (r['width'], r['patch_size']) == (16, 128)],
    )
    return {
        'core': core_curve(model, folder, quick),
        'size': size_curve(folder, quick),
        'width': width_curve(quick),
        'stride': stride_curve(*step) if step else [],
    }


# ---- profile

KINDS = {
    'convolution, backward': 'convolution_backward',
    'convolution, forward': 'mkldnn_convolution|slow_conv|conv2d|conv_transpose',
    'pooling': 'max_pool',
    'concatenation': 'aten::cat|slice_backward|narrow',
    'ReLU': 'relu|clamp_min|threshold_backward',
    'optimiser': 'adam|zero_grad',
    'loss': 'nll_loss|log_softmax|mean',
    'copies and sums': 'copy_|contiguous|clone|_to_copy|aten::add|empty|fill|zero|index|unfold|div',
}


def kind_of(operation):
    "What an operation of torch's profiler belongs to."
    return next(
        (kind for kind, pattern in KINDS.items() if re.search(pattern, operation, re.IGNORECASE)),
        'other operations',
    )


def profiled_loop(width, patch):
    "A turn of training in steps of `BATCH` patches, and the number of its steps."
    tile = noise_tile((512, 512))
    windows = some_windows(tile, patch, BATCH)
    work = unetkit_loop(UNet(3, 5, width), tile, windows, BATCH, pick_precision())
    work()
    return work, len(windows) // BATCH


def profile_step(width, patch, turns=2):
    "Share of the time of training by kind of operation; what no operation takes is Python's. The profiler itself slows small steps down."
    work, steps = profiled_loop(width, patch)
    alone = seconds(lambda: [work() for _ in range(turns)])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        whole = seconds(lambda: [work() for _ in range(turns)])
    share = dict.fromkeys([*KINDS, 'other operations'], 0.0)
    for row in found.key_averages():
        share[kind_of(row.key)] += row.self_cpu_time_total / 1e6 / whole
    share['Python'] = max(0.0, 1 - sum(share.values()))
    return {
        'width': width,
        'patch_size': patch,
        'batch_size': BATCH,
        'step_seconds': alone / turns / steps,
        'slowed_by_profiler': whole / alone,
        'share': share,
        'onednn': onednn_rates(width, patch),
    }


def measure_profile(quick):
    cells = [(16, 128)] if quick else [(16, 32), (16, 64), (16, 128), (64, 128)]
    return [profile_step(*cell) for cell in cells]


def verbose_here(width, patch):
    "Child: a turn of training with oneDNN's own log on standard output, after a first one without."
    work, _ = profiled_loop(width, patch)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        work()
    return {}


def onednn_rates(width, patch):
    "Seconds, FLOP and GFLOP/s of the 3x3 convolutions in oneDNN's log, by direction."
    pattern = re.compile(
        r',exec,cpu,convolution,([^,]+),(\w+),.*mb(\d+)_ic(\d+)oc(\d+)_ih\d+oh(\d+)kh3.*,([\d.e+-]+)$',
        re.MULTILINE,
    )
    rates = {}
    for code, direction, *numbers, milliseconds in pattern.findall(
        child_output('verbose', width=width, patch=patch)
    ):
        n, fan_in, fan_out, side = map(int, numbers)
        row = rates.setdefault(direction, {'seconds': 0, 'flop': 0, 'codes': []})
        row['seconds'], row['flop'] = (
            row['seconds'] + float(milliseconds) / 1e3,
            row['flop'] + 18 * n * fan_in * fan_out * side**2,
        )
        row['codes'] = sorted({*row['codes'], code})
    return {
        direction: row | {'gflops': row['flop'] / row['seconds'] / 1e9} for direction, row in rates.items()
    }


# ---- bounds


def memory_here(steps):
    "Child: train at width 16, patch 128, stride 8; a sample of the 5508 steps of an epoch, because memory does not grow after the first."
    tile, rng = noise_tile(SIZE), np.random.default_rng(0)
    windows = grid_windows([tile.size], 128, STRIDE)
    parts = zip(random_split(windows, 0.2, rng), (steps * BATCH, steps * BATCH // 4))
    pairs = to_device([tile])
    batches = [
        Batches(pairs, part[rng.permutation(len(part))[:count]], BATCH, channels_last=True)
        for part, count in parts
    ]
    model = prepare(UNet(3, 5, 16), 'cpu')
    loss_fn = make_loss('weighted_cross_entropy', class_weights(class_counts(tile.labels, 5)))
    list(epochs(model, *batches, loss_fn, make_optimizer(model), epochs=2, dtype=pick_precision()))
    return {'windows': len(windows), 'steps': 2 * len(batches[0])}


def panels():
    "The five functions behind the sliders, on a tile of 1 Mpixel: name -> picture for a number from 0 to 2."
    scene, counts = synthetic_scene(1024, seed=1), [4000, 3000, 2000, 900, 100]
    guess, distance = np.roll(scene.labels, 3, axis=1), border_distance(scene.labels)
    maps = dict(patches=guess, blend=scene.labels, exact=scene.labels)
    shows = {
        'patch explorer': lambda n: show_patch_choice(scene, 128, (8, 64, 128)[n], 0.1),
        'loss microscope': lambda n: show_losses(counts, list(FIVE.names), list(SCHEMES)[n]),
        'leakage meter': lambda n: show_leak(scene.size, 128, (8, 64, 128)[n], ('blocked', 'random')[n % 2]),
        'protocol lens': lambda n: show_protocols(
            scene.labels, guess, ISPRS, n, 128, (64, 96, 128)[n], distance
        ),
        'seam viewer': lambda n: show_seams(maps, (32, 64, 128)[n], FIVE),
    }
    return {name: lambda n, show=show: show(n).png() for name, show in shows.items()}


def panel_row(name, picture):
    "Seconds from a move to the picture: the fastest of three moves, after what is measured once has been."
    picture(0)
    move = lambda: min(processor_seconds(partial(picture, n)) for n in range(3))
    return {'work': name, 'seconds': at_usual_pace(move, 3), 'most': BOUND_PANEL}


def import_rows():
    "Seconds that imports take in a fresh process beyond that of torch."
    program = 'import importlib, sys, time; import torch; start = time.process_time(); importlib.import_module(sys.argv[1]); print(time.process_time() - start)'
    took = lambda name: float(subprocess.check_output([sys.executable, '-c', program, name]))
    return [
        {
            'work': f'import {name}, beyond torch',
            'seconds': at_usual_pace(partial(took, name), 3),
            'most': BOUND_IMPORT,
        }
        for name in ('unetkit.cli', 'unetkit.widgets')
    ]


def speed_up(name, slow, fast, least):
    "How many times as fast as the other way a piece of work is."
    times = race({'slow': slow, 'fast': fast}, 0)
    return {'work': name, 'ratio': ratio(times['slow'], times['fast']), 'least': least}


def measure_bounds():
    memory = child('memory', steps=10)
    synthetic_scene(64)  # what is loaded once
    scene = at_usual_pace(lambda: processor_seconds(lambda: synthetic_scene(1024)), 5)
    reference = np.tile(labels_to_colours(synthetic_scene(256, seed=3).labels, ISPRS), (2, 2, 1))
    index = dict(zip(ISPRS.colours, range(len(ISPRS.colours))))
    a, b = np.random.default_rng(0).integers(0, 5, (2, 1000, 1500), dtype=np.uint8)
    rows = [
        memory | {'work': 'training at stride 8', 'most_gigabytes': BOUND_GB},
        {'work': 'a scene of 1 Mpixel', 'seconds': scene, 'most': BOUND_SCENE},
        *import_rows(),
        *(panel_row(name, picture) for name, picture in panels().items()),
        speed_up(
            'colours to labels, beside a loop',
            lambda: [[index[tuple(pixel)] for pixel in row] for row in reference.tolist()],
            lambda: colours_to_labels(reference, ISPRS),
            least=3,
        ),
        speed_up(
            'confusion matrix, beside scikit-learn',
            lambda: sklearn.metrics.confusion_matrix(a.ravel(), b.ravel()),
            lambda: confusion_matrix(a, b, 5),
            least=2,
        ),
    ]
    for row in rows:
        row['kept'] = (
            row.get('peak_gigabytes', 0) <= row.get('most_gigabytes', np.inf)
            and row.get('seconds', 0) <= row.get('most', np.inf)
            and row.get('ratio', np.inf) >= row.get('least', 0)
        )
    return rows


# ---- data larger than memory


def write_set(folder, side, count):
    "Images and references of side x side pixels in blocks of 256, a scene repeated: the folders of both."
    scene = synthetic_scene(1024, seed=2)
    kinds = {'images': scene.image, 'references': labels_to_colours(scene.labels, ISPRS)}
    for kind, pixels in kinds.items():
        (Path(folder) / kind).mkdir(parents=True)
        pixels = np.tile(pixels.transpose(2, 0, 1), (1, 1, -(-side // 1024)))[..., :side]
        look = dict(driver='GTiff', height=side, width=side, count=3, dtype='uint8', compress='deflate')
        look |= dict(
            tiled=True, blockxsize=256, blockysize=256, transform=rasterio.Affine(1, 0, 0, 0, -1, side)
        )
        for number in range(count):
            with rasterio.open(f'{folder}/{kind}/{number:04}.tif', 'w', **look) as file:
                for top in range(0, side, 1024):
                    rows = min(1024, side - top)
                    file.write(pixels[:, :rows], window=rasterio.windows.Window(0, top, side, rows))
    return [f'{folder}/{kind}' for kind in kinds]


def epoch_here(images, references, memory):
    "Child: open a data set as the command does, and train for an epoch; a tiny network, for the memory is that of the data."
    tiles, _ = training_tiles(images, references, ISPRS, Reading(memory=memory))
    pipeline = ModelPipeline(ISPRS, width=2, depth=1, epochs=1)
    took = seconds(lambda: pipeline.fit(tiles))
    return {
        'seconds': took,
        'epoch_seconds': pipeline.history[0].seconds,
        'from_disk': isinstance(tiles[0], LazyTile),
        'megapixels': sum(tile.size[0] * tile.size[1] for tile in tiles) / 1e6,
    }


def beside_memory(images, references, memory, budget):
    "Child: epochs of the recommended recipe from the disk and from memory, in turn."
    pairs, works = image_pairs(images, references), {}
    lazy = [LazyTile(*pair, ISPRS, Reading(memory=memory)) for pair in pairs]
    for how, tiles in (('from disk', lazy), ('in memory', [tile.read() for tile in lazy])):
        pipeline = ModelPipeline(ISPRS)
        train, _ = pipeline.batches(tiles)
        pipeline.make(tiles)
        loop = dict(
            loss_fn=make_loss('cross_entropy'), optimizer=make_optimizer(pipeline.model), dtype=pipeline.dtype
        )
        works[how] = partial(train_epoch, pipeline.model, train, **loop)
    times = race(works, budget)
    return {
        'megapixels': sum(tile.size[0] * tile.size[1] for tile in lazy) / 1e6,
        'epoch_seconds': statistics.median(times['from disk']),
        'epoch_seconds_in_memory': statistics.median(times['in memory']),
        'speed_beside_memory': ratio(times['in memory'], times['from disk']),
        'rounds': len(times['from disk']),
    }


def measure_data(quick, folder):
    "Memory of an epoch on sets of the sizes that are promised, and the speed of a smaller tile beside memory."
    sizes = [(768, 1), (128, 40)] if quick else [(20_000, 1), (512, 2000)]
    rows, budget = [], 0.001 if quick else 0
    for number, (side, count) in enumerate(sizes):
        files = write_set(f'{folder}/set{number}', side, count)
        found = child('epoch', images=files[0], references=files[1], memory=budget)
        kept = found['from_disk'] and found['peak_gigabytes'] <= BOUND_DATA_GB
        rows.append({'tiles': count, 'side': side, 'bound_gigabytes': BOUND_DATA_GB, 'kept': kept} | found)
    side, memory, seconds_to_spend = (768, 0.001, 2) if quick else (3072, 0.05, 120)
    files = write_set(f'{folder}/beside', side, 1)
    found = child('beside', images=files[0], references=files[1], memory=memory, budget=seconds_to_spend)
    kept = quick or found['speed_beside_memory'] >= BOUND_DATA_SPEED
    return [*rows, {'tiles': 1, 'side': side, 'bound_speed': BOUND_DATA_SPEED, 'kept': kept} | found]


# ---- whole runs


def timed(work, spent):
    "The same function, which notes how many seconds each call takes."

    def timer(*given, **more):
        start = time.perf_counter()
        try:
            return work(*given, **more)
        finally:
            spent.append(time.perf_counter() - start)

    return timer


def run_here(words, out):
    "Child: a command of the kit, and which share of its time goes to training, to validation and to the networks that draw maps."
    from unetkit import training
    from unetkit.cli import main as command
    from unetkit.pipelines import TrainedModel

    spent = {'training': [], 'validation': [], 'maps': []}
    training.train_epoch = timed(training.train_epoch, spent['training'])
    training.validate = timed(training.validate, spent['validation'])
    make = TrainedModel.predictor
    TrainedModel.predictor = lambda *given, **how: timed(make(*given, **how), spent['maps'])
    with contextlib.redirect_stdout(io.StringIO()):
        took = seconds(lambda: sys.exit(1) if command([*words, '--out', out]) else None)
    return {'seconds': took} | {name: sum(times) / took for name, times in spent.items()}


def measure_runs(quick, folder):
    "The two recipes on one scene, and the whole of `unetkit report`; the program's start is not counted."
    scene = synthetic_scene(256 if quick else 1024, seed=1)
    image = write_image(f'{folder}/image.tif', scene.image)
    reference = write_image(f'{folder}/reference.tif', labels_to_colours(scene.labels, ISPRS))
    train, few = ['train', str(image), str(reference)], ['--epochs', '2'] if quick else ['--epochs', '20']
    works = {
        'train': [*train, *few],
        'train, report, patch 32': [*train, '--recipe', 'report', '--patch-size', '32', *few],
        'report': ['report', *(['--epochs', '1', '--patch-sizes', '64'] if quick else [])],
    }
    return [
        {'work': name, 'words': words} | child('run', words=words, out=f'{folder}/run{number}')
        for number, (name, words) in enumerate(works.items())
    ]


# ---- the whole

CHILDREN = {
    'training': train_here,
    'map': map_here,
    'raster': raster_here,
    'verbose': verbose_here,
    'memory': memory_here,
    'epoch': epoch_here,
    'beside': beside_memory,
    'run': run_here,
}
TABLES = {
    'bounds': {
        'bounds': '{work}',
        'GB': '{peak_gigabytes:.2f}',
        'at most': '{most_gigabytes}',
        's, usual pace': '{seconds:.2f}',
        'at most ': '{most}',
        'times as fast': '{ratio:.1f}',
        'at least': '{least}',
        'kept': '{kept}',
    },
    'ceiling': {
        'ceiling': '{kind}',
        'format': '{dtype}',
        'GFLOP/s': '{gflops:.0f}',
        'shape': '{shape}',
        'layout': '{layout}',
    },
    'training': {
        'width': '{width}',
        'patch': '{patch_size}',
        'batch': '{batch_size}',
        'plain, Mpixel/s': '{plain[megapixels_per_second]:.3f}',
        'unetkit': '{unetkit[megapixels_per_second]:.3f}',
        'ratio': '{ratio:.2f}',
        'plain, of ceiling': '{plain[ceiling_share]:.0%}',
        'unetkit ': '{unetkit[ceiling_share]:.0%}',
        'plain, first batch, s': '{plain[first_batch_seconds]:.3f}',
        'unetkit  ': '{unetkit[first_batch_seconds]:.3f}',
        'plain, GB': '{plain[peak_gigabytes]:.2f}',
        'unetkit   ': '{unetkit[peak_gigabytes]:.2f}',
    },
    'peers': {
        'training, patch 128': '{model}',
        'loop': '{loop}',
        'format': '{dtype}',
        'parameters': '{parameters:,}',
        'FLOP/pixel': '{flop_per_pixel:,.0f}',
        'Mpixel/s': '{megapixels_per_second:.3f}',
        'to plain': '{ratio_to_plain:.2f}',
        'of ceiling': '{ceiling_share:.0%}',
    },
    'inference': {
        'inference': '{method}',
        'format': '{dtype}',
        'Mpixel/s': '{megapixels_per_second:.2f}',
        "to MONAI's best": '{ratio_to_monai:.2f}',
        'labels differ': '{labels_differ:.3%}',
        'GB': '{peak_gigabytes:.2f}',
    },
    'engines': {
        'width': '{width}',
        'format': '{dtype}',
        'torch, s': '{torch[cpu_seconds][0]:.2f}',
        'openvino, s': '{openvino[cpu_seconds][0]:.2f}',
        'its start, s': '{openvino[start_seconds]:.2f}',
        'torch/openvino': '{ratio_cpu_seconds:.2f}',
        'by the clock': '{ratio_seconds:.2f}',
        'labels differ': '{labels_differ:.4%}',
        'MONAI, s': '{monai[cpu_seconds][0]:.2f}',
        'MONAI/torch': '{torch[monai_ratio_cpu_seconds]:.2f}',
        'MONAI/openvino': '{openvino[monai_ratio_cpu_seconds]:.2f}',
        'network, torch': '{torch[network_share]:.0%}',
        'network, OpenVINO': '{openvino[network_share]:.0%}',
        'its labels differ': '{monai[labels_differ]:.4%}',
    },
    'agreement': {
        'width': '{width}',
        'format': '{dtype}',
        **{
            f'{name}, {held}': f'{{{name}[{held}]:.3%}}'
            for name in ('torch', 'openvino', 'monai 128', 'monai 256', 'monai 512')
            for held in ('whole', 'float32')
        },
    },
    'curves': {
        'curve': '{curve}',
        'at': '{at}',
        'seconds': '{seconds:.2f}',
        'GB': '{peak_gigabytes:.2f}',
        'Mpixel/s': '{megapixels_per_second:.3f}',
        'steps of an epoch': '{steps_per_epoch}',
        'its seconds': '{epoch_seconds:.0f}',
    },
    'profile': {
        'width': '{width}',
        'patch': '{patch_size}',
        'seconds of a step': '{step_seconds:.3f}',
        'shares of its time': '{share}',
        'GFLOP/s': '{gflops}',
    },
    'data': {
        'tiles': '{tiles}',
        'side': '{side}',
        'Mpixel': '{megapixels:.0f}',
        'epoch, s': '{epoch_seconds:.1f}',
        'in memory, s': '{epoch_seconds_in_memory:.1f}',
        'speed beside memory': '{speed_beside_memory:.2f}',
        'GB': '{peak_gigabytes:.2f}',
        'bound, GB': '{bound_gigabytes}',
        'kept': '{kept}',
    },
    'runs': {
        'command': '{work}',
        'seconds': '{seconds:.0f}',
        'training': '{training:.1%}',
        'validation': '{validation:.1%}',
        'maps': '{maps:.1%}',
    },
}


def rows_of(part, found):
    "The rows that the table of a part shows."
    if part == 'ceiling':
        return [row for row in found if row['best']]
    if part == 'curves':
        return [
            row
            | {'curve': name, 'at': f'{row.get("how", "")} {row[name if name != "size" else "side"]}'.strip()}
            for name, rows in found.items()
            for row in rows
        ]
    if part != 'profile':
        return found
    return [
        row
        | {
            'share': ', '.join(
                f'{kind} {share:.0%}' for kind, share in row['share'].items() if share > 0.005
            ),
            'gflops': ', '.join(f'{way} {rate["gflops"]:.0f}' for way, rate in row['onednn'].items()),
        }
        for row in found
    ]


def machine():
    "What the figures depend on."
    info = Path('/proc/cpuinfo')
    names = re.findall(r'model name\s*:\s*(.+)', info.read_text()) if info.exists() else []
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') if hasattr(os, 'sysconf') else None
    return {
        'cpu': names[0] if names else platform.processor() or platform.machine(),
        'cpus': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'threads_from': 'OMP_NUM_THREADS' if 'OMP_NUM_THREADS' in os.environ else 'torch',
        'isa': torch.backends.cpu.get_cpu_capability(),
        'limit': os.environ.get(
            'ONEDNN_MAX_CPU_ISA'
        ),  # of torch and OpenVINO, as tests/processors.py sets it
        'bfloat16': pick_precision() == torch.bfloat16,
        'memory_bytes': memory,
    }


def measure(part, quick, folder, document):
    "What a part finds."
    ceiling, training = document.get('ceiling'), document.get('training', [])
    works = {
        'bounds': measure_bounds,
        'ceiling': partial(measure_ceiling, quick),
        'training': partial(measure_training, quick, ceiling),
        'peers': partial(measure_peers, quick, ceiling),
        'inference': partial(measure_inference, quick, folder),
        'engines': partial(measure_engines, quick, folder),
        'agreement': partial(measure_agreement, quick, folder),
        'curves': partial(measure_curves, quick, folder, training),
        'profile': partial(measure_profile, quick),
        'data': partial(measure_data, quick, folder),
        'runs': partial(measure_runs, quick, folder),
    }
    return works[part]()


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--quick', action='store_true', help='fewer turns, cells and pixels, for CI')
    parser.add_argument('--out', default='_bench/bench.json', help='JSON file to write')
    parser.add_argument(
        '--record', action='store_true', help='write to unetkit/recorded/bench/, named after the machine'
    )
    parser.add_argument('--only', nargs='+', choices=PARTS, default=PARTS, help='parts to measure')
    parser.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def new_document(args):
    "What is known before anything is measured."
    versions = {name: version(name) for name in ('torch', 'numpy', 'monai', 'rasterio', 'openvino')}
    return {
        'machine': machine(),
        'versions': versions | {'python': platform.python_version()},
        'environment': environment(torch.device('cpu'), pick_precision()),
        'date': time.strftime('%Y-%m-%d'),
        'settings': {'quick': args.quick, 'batch_size': BATCH, 'turn_pixels': TURN, 'tile': SIZE},
        'seconds': {},
    }


def out_path(args, about):
    if not args.record:
        return Path(args.out)
    name = f'{about["isa"]}{"-bf16" if about["bfloat16"] else ""}-{about["threads"]}-threads'.lower().replace(
        ' ', '-'
    )
    return Path(__file__).parents[1] / f'unetkit/recorded/bench/{name}.json'


def main():
    args = arguments()
    if args.child:
        found = CHILDREN[args.child[0]](**json.loads(args.child[1]))
        return print(json.dumps(found | {'peak_gigabytes': peak_gigabytes()}))
    document = new_document(args)
    out = out_path(args, document['machine'])
    out.parent.mkdir(parents=True, exist_ok=True)
    if args.record and out.exists():
        recorded = json.loads(out.read_text())
        if recorded['machine']['cpu'] == document['machine']['cpu']:
            document = recorded  # parts that are not measured now stay
    print(', '.join(f'{key} {value}' for key, value in document['machine'].items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in TABLES:
            if part not in args.only and (part != 'ceiling' or set(args.only) <= ALONE):
                continue
            start = time.perf_counter()
            document[part] = measure(part, args.quick, folder, document)
            document['seconds'][part] = time.perf_counter() - start
            document.setdefault('dates', {})[part] = time.strftime('%Y-%m-%d')
            out.write_text(json.dumps(document, indent=1) + '\n')
            show(rows_of(part, document[part]), TABLES[part])
            print(f'({part}: {document["seconds"][part]:.0f} s)\n', flush=True)
    print(f'wrote {out}')
    rows = [row for part in ('bounds', 'data') if part in args.only for row in document[part]]
    return not all(row['kept'] for row in rows)


if __name__ == '__main__':
    sys.exit(main())
