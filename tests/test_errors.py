"""Errors of a map: where they lie, which objects are found, and which patches are labelled next, against plain loops."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unetkit.errors import (
    border_distance,
    doubt,
    errors_by_distance,
    keep_patches,
    next_patches,
    objects_found,
    patch_grid,
    worst_blocks,
)
from unetkit.metrics import confusion_matrix
from unetkit.scenes import synthetic_scene


def random_pair(seed, shape=(14, 19)):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 0, 0, 1, 2], shape).astype(np.uint8)
    labels[rng.random(shape) < 0.1] = 255
    return labels, rng.integers(0, 3, shape).astype(np.uint8)


@pytest.mark.parametrize('seed', range(5))
def test_distance_is_that_of_a_loop(seed):
    labels, _ = random_pair(seed)
    found = border_distance(labels)
    scored = np.argwhere(labels != 255)
    for at in scored:
        others = scored[labels[tuple(scored.T)] != labels[tuple(at)]]
        assert found[tuple(at)] == pytest.approx(np.sqrt(((others - at) ** 2).sum(1)).min())
    assert np.isnan(found[labels == 255]).all()


def test_no_border():
    "One class has no border, unscored pixels are none, and a tile without labels has no distance at all."
    assert np.isinf(border_distance(np.array([[1, 1, 255]]))[0, :2]).all()
    assert np.isnan(border_distance(np.full((2, 2), 255))).all()
    wrong, scored = errors_by_distance(np.array([[1, 1, 255]]), np.array([[1, 0, 0]]), (1, 2))
    assert (wrong.tolist(), scored.tolist()) == ([0, 0, 1], [0, 0, 2])


@pytest.mark.parametrize('seed', range(5))
def test_rings_hold_every_scored_pixel_once(seed):
    labels, label_map = random_pair(seed)
    wrong, scored = errors_by_distance(labels, label_map, (1, 1.5, 3))
    matrix = confusion_matrix(labels, label_map, 3)
    assert scored.sum() == matrix.sum() and wrong.sum() == matrix.sum() - np.trace(matrix)
    distance = border_distance(labels)
    assert scored[1] == ((distance > 1) & (distance <= 1.5)).sum()
    assert wrong[0] == ((distance <= 1) & (labels != label_map)).sum()


def test_worst_blocks():
    "Ranked by their share; a block of which less than half is scored does not count, nor does one that is not there."
    labels, label_map = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    label_map[0, 0] = 1  # a quarter of block (0, 0)
    label_map[2:, 2:4] = 1  # all of block (2, 2)
    label_map[0, 4] = 1  # all that is scored of block (0, 4)
    labels[:2, 4:] = 255
    labels[0, 4] = 0
    assert worst_blocks(labels, label_map, 2, 2, 2) == [(2, 2, 1.0), (0, 0, 0.25)]
    assert len(worst_blocks(labels, label_map, 2, 2, 99)) == 5


def test_objects():
    "Pixels that touch at a corner only are two objects; what the map adds elsewhere finds nothing."
    labels = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 255]])
    pixels, part = objects_found(labels, np.array([[1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]), 1)
    assert (pixels.tolist(), part.tolist()) == ([2, 2], [0.5, 1.0])
    assert [len(one) for one in objects_found(labels, labels, 2)] == [0, 0]


def test_doubt():
    logits = torch.tensor([[0.0, 100, 1], [0, 0, 0], [-100, 0, 0]])[:, None, :]
    found = doubt(logits)
    p = torch.tensor([1.0, 0]).softmax(0)
    third = logits[:, 0, 2].softmax(0)
    assert (found.dtype, found.shape) == (np.uint8, (1, 3))
    assert found[0, :2].tolist() == [254, 0] and p[0] > p[1]
    assert found[0, 2] == round(254 * (1 - float(third[0] - third[1])))


def test_next_patches():
    "Patches with a label are never chosen; of the others the highest mean comes first."
    tile = synthetic_scene(40, 60, seed=1)
    kept = keep_patches(tile, [(0, 0), (20, 40)], 20)
    assert (kept.labels != 255).sum() == 800 and (kept.labels[:20, :20] == tile.labels[:20, :20]).all()
    score = np.zeros((40, 60))
    score[:20, :20], score[:20, 20:40], score[20:, :20] = 9, 1, 2
    assert next_patches(score, kept.labels, 20, 2) == [(20, 0), (0, 20)]
    assert len(next_patches(score, kept.labels, 20, 99)) == 4
    assert patch_grid((45, 79), 20) == [(r, c) for r in (0, 20) for c in (0, 20, 40)]


def test_what_does_not_fit_is_refused():
    "A patch beside the tile would label nothing, unsorted rings would count wrongly, and so would another grid."
    tile, labels = synthetic_scene(40, 60, seed=1), np.zeros((4, 6), np.uint8)
    for at in ((-20, 0), (30, 0), (0, 50)):
        with pytest.raises(ValueError, match='must lie on the tile'):
            keep_patches(tile, [at], 20)
    for edges in ((4, 2), (1, 1)):
        with pytest.raises(ValueError, match='edges must ascend'):
            errors_by_distance(labels, labels, edges)
    with pytest.raises(ValueError, match='score is .* but labels are'):
        next_patches(np.zeros((4, 5)), labels, 2, 1)


def test_arms_that_depend_on_each_other_run_together(tmp_path):
    "A part of them, or another order, would be recorded under wrong names."
    script = Path(__file__).parent.parent / 'scripts' / 'studies.py'
    asked = ['labels', '--arms', '40, at random', '--out', tmp_path / 'labels.json']
    done = subprocess.run([sys.executable, script, *asked], capture_output=True, text=True)
    assert done.returncode == 2 and 'depend on each other: leave out --arms' in done.stderr
