"Batches: seeds, bits, focus, and what raises an error."

from dataclasses import replace

import numpy as np
import pytest
import torch

from unetkit.batches import Batches, _crops_within, to_device
from unetkit.patches import blocked_split, coverage, grid_windows, overlap_leak
from unetkit.scenes import synthetic_scene


@pytest.fixture(scope='module')
def tiles():
    return [synthetic_scene(512, 640, seed=3), synthetic_scene(256, 384, seed=4)]


@pytest.fixture(scope='module')
def some(tiles):
    return grid_windows([t.size for t in tiles], 64, 50)[::7]


@pytest.fixture(scope='module')
def sixteen(tiles):
    return to_device([replace(t, image=t.image.astype(np.uint16) * 257) for t in tiles])


def test_a_seed_repeats_an_epoch_and_another_does_not(tiles, some):
    pairs = to_device(tiles)
    first, same, other = (
        next(iter(Batches(pairs, some, shuffle=True, augment=True, seed=seed)))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_sixteen_bits_give_the_batch_of_eight(tiles, some, sixteen):
    eight, more = (next(iter(Batches(pairs, some)))[0] for pairs in (to_device(tiles), sixteen))
    assert torch.allclose(eight, more, atol=1e-6)


def test_labels_outside_the_owned_part_are_255_and_the_rest_is_kept(tiles, some):
    pairs = to_device(tiles)
    for (_, once), (_, all_of_it) in zip(
        Batches(pairs, some, 7, once=True), Batches(pairs, some, 7), strict=True
    ):
        assert torch.equal(once[once != 255], all_of_it[once != 255])


def test_focus_keeps_to_its_ground(tiles):
    scene, grid = tiles[0], grid_windows([tiles[0].size], 64, 64)
    pair = to_device([scene])
    with pytest.raises(ValueError, match='no window on the training ground'):
        Batches(pair, grid, crops=True, focus=77).epoch_windows()
    focused = Batches(pair, grid[-30:], crops=True, focus=4).epoch_windows()
    assert len(focused) == 30 and coverage(grid[-30:], 0, scene.size)[focused.row, focused.col].min() == 1


def test_crops_respect_the_split():
    both = [(2565, 1919), (2558, 2818)]
    grid = grid_windows(both, 128, 32)
    train, valid = blocked_split(grid, both, 0.2, np.random.default_rng(0), guard=96)
    crops = _crops_within(train, both, np.random.default_rng(0))
    assert overlap_leak(crops, valid, both, margin=96) == 0
    assert overlap_leak(_crops_within(grid, both, np.random.default_rng(0)), valid, both) > 0.9


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(windows=slice(0)), 'at least one window'),
        (dict(batch_size=0), 'a batch_size of 1'),
        (dict(crops=True, once=True), 'exclude each other'),
        (dict(focus=4), 'set crops=True as well'),
    ],
)
def test_choices_that_make_no_sense(tiles, some, change, message):
    windows = some[change.pop('windows', slice(None))]
    with pytest.raises(ValueError, match=message):
        Batches(to_device(tiles), windows, **change)
