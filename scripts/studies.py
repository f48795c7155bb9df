#!/usr/bin/env python3
"""Run the repeated trainings that lessons 00, 03, 07, 11 to 17 and 19 read, and save what each of them scored, beside two baselines for some.

usage: scripts/studies.py NAME [--seeds N ...] [--arms ARM ...] [--data FOLDER] [--out FILE]

NAME is a key of `unetkit.records.STUDIES`, which says what is trained (`neighbours_dubai` remembers pixels and trains nothing). Those with real images need --data, the folder with tile1, tile3, tile4,
tile6 and tile8 of the Dubai imagery, or that with image.tif and reference_eroded.tif of a crop of Vaihingen; of both only scores are kept. Every arm is trained with the first seed, then with
the next, and so on. Writes unetkit/recorded/studies/NAME.json after each run. Runs that the file holds already, with the
same settings, are not repeated, so that a study can be stopped and continued, or split over several calls. Each run uses one thread: start two calls with
different seeds and files to use two cores.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'

import numpy as np  # noqa: E402
import torch  # noqa: E402

from unetkit.jobs import checksum  # noqa: E402
from unetkit.metrics import Scores  # noqa: E402
from unetkit.records import STUDIES, environment, baseline_matrices, cross_validate, pool_trials, trial  # noqa: E402
from unetkit.outputs import atomic_path
from unetkit.machine import pick_device, pick_precision  # noqa: E402

FOLDER = Path(__file__).resolve().parent.parent / 'unetkit' / 'recorded' / 'studies'


def facts(tiles):
    sizes = [(tile.name, *tile.size, checksum(tile)) for tile in tiles]
    return [{'name': n, 'height': h, 'width': w, 'checksum': c} for n, h, w, c in sizes]


def baselines(study, train, test):
    "Matrices of the maps that need no network, one for each test tile."
    num_classes = study.palette.num_classes
    if not study.folds:
        return baseline_matrices(train, test, num_classes)
    found = cross_validate(baseline_matrices, train, num_classes)
    return {name: [matrix for one in found for matrix in one[name]] for name in found[0]}


def document(name, study, train, test):
    "What a study's file says before its first run."
    device = pick_device()
    return {
        'study': name,
        'environment': environment(device, pick_precision('auto', device)),
        'date': time.strftime('%Y-%m-%d'),
        'classes': list(study.palette.names),
        'train': facts(train),
        'test': facts(test),
        **({'baselines': baselines(study, train, test)} if study.baselines else {}),
        'runs': [],
    }


def save(path, found):
    "One line per run, all or nothing."
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({key: value for key, value in found.items() if key != 'runs'})
    lines = ',\n'.join(json.dumps(run, separators=(',', ':')) for run in found['runs'])
    with atomic_path(path) as temporary:
        temporary.write_text(f'{head[:-1]}, "runs": [\n{lines}\n]}}\n')


def same_settings(run, study):
    "Whether a saved run had the settings that are wanted; a setting that did not exist then is no difference."
    wanted = replace(study.arms[run['arm']], seed=run['seed']).as_dict()
    same = all(wanted.get(name) == value for name, value in run['settings'].items())
    return same and run.get('freeze', '') == study.freeze.get(run['arm'], '')


def line(run):
    "A run in one line, scored on its first test tile as a user would get it."
    found = run['kept']['matrices']
    scores = Scores(np.array(found.get('exact', next(iter(found.values())))[0]))
    return (
        f'{run["arm"]:28} seed {run["seed"]}: {run["steps"]} steps, {run["seconds"]:.0f} s, accuracy {scores.accuracy:.3f}, '
        f'mean F1 {scores.mean_f1:.3f}, F1 of class 5 {scores.f1[4]:.3f}'
    )


def keys(runs):
    return {(run['arm'], run['seed']) for run in runs}


def trials(study, train, test, seeded, done):
    "Lists of runs that are not done yet: one each, or all arms of a seed where these depend on each other."
    if study.together:
        for seed in sorted({seed for arm, seed in seeded}):
            arms = {arm: settings for (arm, own), settings in seeded.items() if own == seed}
            if not done.issuperset((arm, seed) for arm in arms):
                yield study.together(train[0], test, study.palette, arms)
        return
    for (arm, seed), settings in seeded.items():
        if (arm, seed) not in done:
            own = [train[study.only[arm]]] if arm in study.only else train
            view = study.views.get(arm, lambda tile: tile)
            sides = list(map(view, own)), list(map(view, test))
            how = dict(methods=study.methods, objects=study.objects, freeze=study.freeze.get(arm, ''))
            if study.folds:
                run = pool_trials(cross_validate(trial, sides[0], study.palette, settings, **how))
            else:
                run = trial(*sides, study.palette, settings, **how)
            yield [{'arm': arm, 'seed': seed, **run}]


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
    study, path = STUDIES[args.name], args.out or FOLDER / f'{args.name}.json'
    if study.data and not (args.data and args.data.is_dir()):
        parser.error(f'{args.name} needs --data, the folder that holds {study.data}')
    arms = args.arms or list(study.arms)
    if args.arms and study.together:
        parser.error(f'the arms of {args.name} depend on each other: leave out --arms')
    if unknown := set(arms) - set(study.arms):
        parser.error(f'no arm {", ".join(unknown)}: choose among {", ".join(study.arms)}')
    torch.set_num_threads(1)
    train, test = study.tiles(args.data)
    fresh = document(args.name, study, train, test)
    found = json.loads(path.read_text()) if path.exists() else fresh
    if any(found[key] != fresh[key] for key in ('environment', 'train', 'test')):
        parser.error(
            f'{path} was begun on another machine, with other versions or on other tiles: '
            'go on there, or write to another file with --out'
        )
    if study.baselines:  # they cost seconds, and an older file lacks them
        found = fresh | {'date': found['date'], 'runs': found['runs']}
        save(path, found)
    seeded = {(arm, seed): replace(study.arms[arm], seed=seed) for seed in args.seeds for arm in arms}
    order = list(study.arms)
    found['runs'] = [run for run in found['runs'] if same_settings(run, study)]
    done = keys(found['runs'])
    for runs in trials(study, train, test, seeded, done):
        found['runs'] = [run for run in found['runs'] if (run['arm'], run['seed']) not in keys(runs)] + runs
        found['runs'].sort(key=lambda run: (order.index(run['arm']), run['seed']))
        save(path, found)
        for run in runs:
            print(line(run), flush=True)


if __name__ == '__main__':
    sys.exit(main())
