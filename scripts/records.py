#!/usr/bin/env python3
"""Record the results that lesson 10 and the README show.

usage: scripts/records.py embedded                    `unetkit report` on the built-in scenes
       scripts/records.py demo                        the small model that comes with the package (about five minutes)
       scripts/records.py dubai FOLDER                train on scene 8, test on scenes 4 and 6 of the Dubai imagery in FOLDER

Writes unetkit/recorded/NAME/: scores.json as the command wrote it, and of the built-in scenes the predicted label maps as paletted PNG. Of the Dubai scenes only scores are kept. `embedded` and `demo` also draw nbs/images/report.png and demo.png for the README. `demo` writes the model itself,
and its scores on the built-in test scene; it is trained on other scenes than the built-in ones.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from unetkit.cli import main as unetkit
from unetkit.experiments import ModelPipeline
from unetkit.jobs import SCENE_SIZE, built_in, checksum
from unetkit.settings import Settings
from unetkit.datasets import read_labelled
from unetkit.labels import DUBAI, ISPRS
from unetkit.plots import show_triptych
from unetkit.records import environment
from unetkit.report import model_name
from unetkit.scenes import synthetic_scene
from unetkit.raster import read_label_map

HERE = Path(__file__).resolve().parent.parent
RECORDED, IMAGES = HERE / 'unetkit' / 'recorded', HERE / 'nbs' / 'images'
# What lessons 12 and 15 found best, in a network small enough to be downloaded with a page.
DEMO = Settings(
    split='random',
    patch_size=64,
    epochs=20,
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
    parser.add_argument('name', choices=('embedded', 'demo', 'dubai'))
    parser.add_argument('data', type=Path, nargs='?', help='folder with tile4, tile6 and tile8')
    args = parser.parse_args()
    if args.name == 'dubai' and not (args.data and args.data.is_dir()):
        parser.error('dubai needs the folder that holds tile4, tile6 and tile8')
    with tempfile.TemporaryDirectory() as work:
        {'embedded': embedded, 'demo': demo, 'dubai': dubai}[args.name](Path(work), args)
