#!/usr/bin/env python3
"""Record the results that lesson 10 and the README show.

usage: scripts/records.py embedded                    `unetkit report` on the built-in scenes
       scripts/records.py demo                        the small model that comes with the package (about five minutes)
       scripts/records.py dubai FOLDER                train on scene 8, test on scenes 4 and 6 of the Dubai imagery in FOLDER
       scripts/records.py dubai_recommended FOLDER    the same with the recommended recipe for 4 epochs
       scripts/records.py vaihingen_crop FOLDER       both recipes on the crop of Vaihingen in FOLDER: left part for training, right part for the test

Writes unetkit/recorded/NAME/: scores.json as the command wrote it, and of the built-in scenes the predicted label maps as paletted PNG. Of the Dubai scenes only scores are kept. `embedded` and `demo` also draw nbs/images/report.png and demo.png for the README. `demo` writes the model itself,
and its scores on the built-in test scene; it is trained on other scenes than the built-in ones.
"""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from unetkit.cli import main as unetkit
from unetkit.experiments import ModelPipeline
from unetkit.jobs import SCENE_SIZE, built_in, checksum
from unetkit.settings import Settings
from unetkit.datasets import read_labelled
from unetkit.labels import DUBAI, ISPRS, label_tile
from unetkit.plots import show_triptych
from unetkit.records import environment
from unetkit.pages import model_name
from unetkit.report import REPORT
from unetkit.scenes import synthetic_scene
from unetkit.raster import read_label_map
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


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    makers = {make.__name__: make for make in (embedded, demo, dubai, dubai_recommended, vaihingen_crop)}
    parser.add_argument('name', choices=makers)
    parser.add_argument('data', type=Path, nargs='?', help='folder of the imagery')
    args = parser.parse_args()
    if args.name not in ('embedded', 'demo') and not (args.data and args.data.is_dir()):
        parser.error(f'{args.name} needs the folder of its imagery')
    with tempfile.TemporaryDirectory() as work:
        makers[args.name](Path(work), args)
