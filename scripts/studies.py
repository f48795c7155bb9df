#!/usr/bin/env python3
"""Run the repeated trainings behind lessons 12 and 15 to 17, and save what each of them scored.

usage: scripts/studies.py NAME [--seeds N ...] [--arms ARM ...] [--data FOLDER] [--out FILE]

NAME is a key of STUDIES below: `fair` and `fair_plain` (lesson 15), `rare` (lesson 12), `leaks` (lessons 15 and 16), `dubai` (lesson 17; needs --data, the folder with
tile4 and tile8 of the Dubai imagery, of which only scores are kept). An arm is a variant of the settings; every arm is trained with every seed.
Writes unetkit/recorded/studies/NAME.json after each run. Runs that the file holds already, with the same settings, are not repeated, so that a study can be stopped and
continued, or split over several calls. Each run uses one thread: start two calls with different seeds and files to use two cores.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'

import numpy as np  # noqa: E402
import torch  # noqa: E402

from unetkit.experiments import Settings, built_in, checksum, read_labelled, trial  # noqa: E402
from unetkit.labels import DUBAI, ISPRS  # noqa: E402
from unetkit.metrics import Scores  # noqa: E402
from unetkit.report import environment  # noqa: E402
from unetkit.scenes import synthetic_scene  # noqa: E402
from unetkit.tiles import atomic_path  # noqa: E402
from unetkit.machine import pick_device, pick_precision  # noqa: E402

FIVE = ISPRS.ignoring('clutter')
FOLDER = Path(__file__).resolve().parent.parent / 'unetkit' / 'recorded' / 'studies'


def scenes(data):
    "The built-in training scene, and two scenes to test on, the built-in one first."
    (train,), (test,) = built_in(FIVE)
    return [train], [test, synthetic_scene(*test.size, seed=3)]


def small_scenes(data):
    "A quarter of the ground to train on, so that a network can learn it by heart, and three scenes to test on."
    train, *test = (synthetic_scene(512, 640, seed=seed) for seed in (1, 2, 3, 4))
    return [train], test


def dubai(data):
    "1024 x 1280 pixels of the first part of scene 8 to train on, the first two parts of scene 4 to test on."
    (train, *_), test = (
        read_labelled(data / f'tile{n}' / 'images', data / f'tile{n}' / 'masks', DUBAI) for n in (8, 4)
    )
    return [replace(train, image=train.image[:1024, :1280], labels=train.labels[:1024, :1280])], test[:2]


def grid(**changes):
    "Patch 64, as in the report."
    return Settings(**{'patch_size': 64, 'epochs': 20, **changes})


def fair(**changes):
    """Patch 32, 64 and 128 for equal epochs, as in the report; for about 210 optimiser steps with batches of ten; and for as many steps with batches of
    equal area (where patch 128 is as before)."""
    epochs = {f'epochs {p}': dict(patch_size=p, epochs=20) for p in (32, 64, 128)}
    steps = {f'steps {p}': dict(patch_size=p, epochs=epochs) for p, epochs in ((32, 2), (64, 8), (128, 30))}
    pixels = {
        f'pixels {p}': dict(patch_size=p, epochs=30, batch_size=batch) for p, batch in ((32, 160), (64, 40))
    }
    return {arm: Settings(**settings, **changes) for arm, settings in (epochs | steps | pixels).items()}


def strides(split):
    "Patch 64 at three strides, for about the same number of optimiser steps, without class weights."
    return {
        f'{split} {stride}': Settings(
            patch_size=64, stride=stride, epochs=epochs[split], split=split, loss='cross_entropy'
        )
        for stride, epochs in {
            64: {'random': 62, 'blocked': 86},
            32: {'random': 19, 'blocked': 25},
            16: {'random': 5, 'blocked': 7},
        }.items()
    }


STUDIES = {
    'fair': {'tiles': scenes, 'palette': FIVE, 'methods': ('patches', 'exact'), 'arms': fair()},
    'fair_plain': {
        'tiles': scenes,
        'palette': FIVE,
        'methods': ('patches', 'exact'),
        'arms': fair(loss='cross_entropy'),
    },
    'rare': {
        'tiles': scenes,
        'palette': FIVE,
        'methods': ('patches', 'blend', 'exact'),
        'arms': {
            'report': grid(),
            'sqrt weights': grid(weights='sqrt'),
            'no weights': grid(loss='cross_entropy'),
            'crops': grid(crops=True),
            'crops on cars': grid(crops=True, focus='car'),
            'crops on cars, no weights': grid(crops=True, focus='car', loss='cross_entropy'),
            'three times the steps': grid(epochs=60),
            'together': grid(epochs=60, crops=True, focus='car', loss='cross_entropy'),
        },
    },
    'leaks': {
        'tiles': small_scenes,
        'palette': FIVE,
        'methods': ('patches', 'exact'),
        'arms': strides('random') | strides('blocked'),
    },
    'dubai': {
        'tiles': dubai,
        'palette': DUBAI,
        'methods': ('patches', 'exact'),
        'arms': {f'epochs {p}': Settings(patch_size=p, epochs=20) for p in (32, 64, 128)},
    },
}


def facts(tiles):
    return [
        {'name': tile.name, 'height': tile.size[0], 'width': tile.size[1], 'checksum': checksum(tile)}
        for tile in tiles
    ]


def document(name, study, train, test):
    "What a study's file says before its first run."
    device = pick_device()
    return {
        'study': name,
        'environment': environment(device, pick_precision('auto', device)),
        'date': time.strftime('%Y-%m-%d'),
        'classes': list(study['palette'].names),
        'train': facts(train),
        'test': facts(test),
        'runs': [],
    }


def save(path, found):
    "One line per run, all or nothing."
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({key: value for key, value in found.items() if key != 'runs'})
    lines = ',\n'.join(json.dumps(run, separators=(',', ':')) for run in found['runs'])
    with atomic_path(path) as temporary:
        temporary.write_text(f'{head[:-1]}, "runs": [\n{lines}\n]}}\n')


def line(run):
    "A run in one line, scored on its first test tile as a user would get it."
    scores = Scores(np.array(run['kept']['matrices']['exact'][0]))
    return f"{run['arm']:28} seed {run['seed']}: {run['steps']} steps, {run['seconds']:.0f} s, accuracy {scores.accuracy:.3f}, mean F1 {scores.mean_f1:.3f}, F1 of class 5 {scores.f1[4]:.3f}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', choices=STUDIES)
    parser.add_argument('--seeds', type=int, nargs='+', default=list(range(5)))
    parser.add_argument('--arms', nargs='+', help='default: all')
    parser.add_argument('--data', type=Path)
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    if args.name == 'dubai' and not (args.data and args.data.is_dir()):
        parser.error('dubai needs --data, the folder that holds tile4 and tile8')
    study, path = STUDIES[args.name], args.out or FOLDER / f'{args.name}.json'
    arms = args.arms or list(study['arms'])
    if unknown := set(arms) - set(study['arms']):
        parser.error(f"no arm {', '.join(unknown)}: choose among {', '.join(study['arms'])}")
    torch.set_num_threads(1)
    train, test = study['tiles'](args.data)
    fresh = document(args.name, study, train, test)
    found = json.loads(path.read_text()) if path.exists() else fresh
    if (found['environment'], found['train'], found['test']) != (
        fresh['environment'],
        fresh['train'],
        fresh['test'],
    ):
        parser.error(
            f'{path} was begun on another machine, with other versions or on other tiles: go on there, or write to another file with --out'
        )
    wanted = lambda arm, seed: Settings(**{**vars(study['arms'][arm]), 'seed': seed})
    found['runs'] = [
        run for run in found['runs'] if run['settings'] == asdict(wanted(run['arm'], run['seed']))
    ]  # an arm may have been changed since
    done = {(run['arm'], run['seed']) for run in found['runs']}
    for seed in args.seeds:
        for arm in arms:
            if (arm, seed) in done:
                continue
            run = trial(train, test, study['palette'], wanted(arm, seed), study['methods'])
            found['runs'].append({'arm': arm, 'seed': seed, **run})
            found['runs'].sort(key=lambda run: (list(study['arms']).index(run['arm']), run['seed']))
            save(path, found)
            print(
                line(
                    found['runs'][
                        next(i for i, r in enumerate(found['runs']) if (r['arm'], r['seed']) == (arm, seed))
                    ]
                ),
                flush=True,
            )


if __name__ == '__main__':
    sys.exit(main())
