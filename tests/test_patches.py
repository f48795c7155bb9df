"Windows on an axis and on tiles, what they cost, and splits; compared with loops, counts and the report's numbers."

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetkit.patches import (
    PatchGrid,
    blocked_split,
    grid_windows,
    overlap_leak,
    patch_views,
    random_split,
    window_cuts,
    window_starts,
)
from unetkit.scenes import synthetic_scene
from unetkit.windows import Windows, coverage, plan

TRAIN, TEST = (2565, 1919), (2558, 2818)  # Sizes of the report's tiles


@pytest.fixture(scope='module')
def scene():
    return synthetic_scene(512, 640, seed=3)


def rng(seed=0):
    return np.random.default_rng(seed)


def check_axis(length, size, stride):
    starts, covered = window_starts(length, size, stride), np.zeros(length, int)
    for s in starts:
        covered[s : s + size] += 1
    assert covered.min() >= 1
    assert starts == sorted(set(starts)) and starts[-1] + size == length


def test_every_short_axis_is_covered():
    for length in range(1, 13):
        for size in range(1, length + 1):
            for stride in range(1, size + 1):
                check_axis(length, size, stride)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000))
def test_long_axes_are_covered(length, size, stride):
    size = min(size, length)
    check_axis(length, size, min(stride, size))


def test_starts_and_cuts_by_hand():
    assert window_starts(10, 4, 3) == [0, 3, 6]
    assert window_starts(11, 4, 3) == [0, 3, 6, 7]
    assert window_cuts([0, 3, 6, 7], 4) == [0, 3, 6, 8, 11]


@pytest.mark.parametrize(
    'axis, message',
    [
        ((10, 4, 5), 'leaves pixels uncovered'),
        ((10, 11, 5), 'larger than the tile'),
        ((10, 0, 1), 'at least 1 pixel'),
        ((10, 4, 0), 'windows must move'),
    ],
)
def test_axes_that_cannot_be_covered(axis, message):
    with pytest.raises(ValueError, match=message):
        window_starts(*axis)


def test_a_grid_covers_every_pixel_and_each_has_one_owner():
    grid = PatchGrid(7, 11, patch_size=4, stride=3)
    counts, painted = np.zeros((7, 11), int), np.zeros((7, 11), int)
    for (r, c), (r0, r1, c0, c1) in zip(grid.origins, grid.owned, strict=True):
        counts[r : r + 4, c : c + 4] += 1
        painted[r0:r1, c0:c1] += 1
    assert len(grid) == 2 * 4
    assert (counts[0, 0], counts.min(), counts.max()) == (1, 1, 4)
    assert (painted == 1).all()


def test_a_grid_on_a_scene(scene):
    grid = PatchGrid(*scene.size, patch_size=256, stride=160)
    assert (grid.rows, grid.cols) == ([0, 160, 256], [0, 160, 320, 384])


def test_a_tile_that_is_too_small_is_an_error():
    with pytest.raises(ValueError, match='larger than the tile'):
        PatchGrid(7, 11, patch_size=8, stride=3)
    with pytest.raises(ValueError, match='larger than the tile'):
        grid_windows([(70, 110), (70, 20)], 32, 32)


def test_windows_on_two_tiles():
    windows = grid_windows([(70, 110), (64, 64)], 32, 32)
    assert len(windows) == len(PatchGrid(70, 110, 32, 32)) + 4
    assert len(windows[windows.tile == 1]) == 4
    assert (len(windows[0]), windows[-1].row.tolist()) == (1, [32])


def test_coverage_of_a_grid_is_that_of_a_loop(scene):
    windows, loop = grid_windows([scene.size], 128, 80), np.zeros(scene.size, int)
    for r, c in zip(windows.row, windows.col, strict=True):
        loop[r : r + 128, c : c + 128] += 1
    np.testing.assert_array_equal(coverage(windows, 0, scene.size), loop)


def whole_patch_count(p, s):
    return ((TRAIN[0] - p) // s + 1) * ((TRAIN[1] - p) // s + 1)


@given(st.integers(40, 300), st.integers(40, 300), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=50, deadline=None, database=None, derandomize=True)
def test_a_plan_counts_the_windows_of_the_grid(height, width, size, stride):
    stride = min(stride, size)
    assert plan([(height, width)], size, stride).patches == len(grid_windows([(height, width)], size, stride))


def test_steps_of_the_report():
    "Its settings and its own cutting, whole patches only, give these steps; shifted windows and a last batch add a few percent."
    theirs = [whole_patch_count(p, p) * 4 // 5 // 10 * 20 for p in (32, 64, 128)]
    assert theirs == [7540, 1840, 440]
    steps = [plan([TRAIN], p, p).steps for p in (32, 64, 128)]
    more = [round(100 * ours / report - 100) for ours, report in zip(steps, theirs, strict=True)]
    assert more == [3, 8, 18]


@pytest.mark.parametrize('stride, gigabytes', [(16, 9.0), (8, 35.8)])
def test_bytes_of_copies(stride, gigabytes):
    copied = whole_patch_count(128, stride) * 4 * (3 + 5) * 128**2
    assert abs(copied / 1e9 / gigabytes - 1) < 0.005
    assert 1 <= plan([TRAIN], 128, stride).copied_bytes / copied < 1.02


def test_a_view_costs_the_tile_and_whole_patches_leave_a_border_out():
    assert plan([TRAIN], 128, 8).view_bytes == 2565 * 1919 * 4
    uncovered = [plan([TEST], p, p).uncovered for p in (32, 64, 128)]
    np.testing.assert_allclose(uncovered, [0.0124, 0.0249, 0.0499], atol=1e-4)


def test_views_share_memory(scene):
    views = patch_views(scene.image, 128)
    batch = views[[0, 10, 100], [5, 50, 500]]
    assert np.shares_memory(views, scene.image) and views.nbytes > 5000 * scene.image.nbytes
    np.testing.assert_array_equal(batch[1], scene.image[10:138, 50:178].transpose(2, 0, 1))


def test_what_the_stride_changes(scene):
    "Overlapping patches count the middle of the tile more often than its border, where the cars of this scene stand."
    from unetkit.widgets import show_patch_choice

    choices = [(64, 64), (64, 16), (128, 64)]
    whole, quarter, wide = (show_patch_choice(scene, p, s).numbers for p, s in choices)
    assert 13 < quarter['patches'] / whole['patches'] < 16
    assert quarter['view_bytes'] == whole['view_bytes'] == wide['view_bytes']
    assert wide['share_with_rare'] > 1.5 * whole['share_with_rare']
    for moved, least in ((quarter, 0.5), (wide, 0.55)):
        shares, before = dict(moved['class_shares']), dict(whole['class_shares'])
        assert least < shares.pop('car') / before.pop('car') < 2 / 3
        assert max(abs(shares[name] - before[name]) for name in before) < 0.03
    counted = coverage(grid_windows([scene.size], 64, 16), 0, scene.size)
    assert (counted.min(), counted.max()) == (1, 16)
    assert counted[scene.labels == 4].mean() < 0.7 * counted.mean()


def test_a_random_split_loses_no_window(scene):
    windows = grid_windows([scene.size], 128, 80)
    train, valid = random_split(windows, 0.2, rng())
    places = [*zip(train.row, train.col, strict=True), *zip(valid.row, valid.col, strict=True)]
    assert sorted(places) == [*zip(windows.row, windows.col, strict=True)]
    assert -(-len(train) // 10) == plan([scene.size], 128, 80).steps_per_epoch
    with pytest.raises(ValueError, match='between 0 and 1'):
        random_split(windows, 20, rng())
    with pytest.raises(ValueError, match='cannot be split'):
        random_split(windows[:1], 0.2, rng())


def test_the_leak_by_hand():
    toy = Windows.whole(4, np.zeros(2, int), np.zeros(2, int), np.array([0, 2]))
    assert overlap_leak(toy[0], toy[1], [(4, 6)]) == 0.5
    assert overlap_leak(toy[0], toy[1], [(4, 6)], margin=1) == 0.75
    apart = replace(toy, tile=np.array([0, 1]))
    assert overlap_leak(apart[0], apart[1], [(4, 6), (4, 6)]) == 0
    with pytest.raises(ValueError, match='size of every tile'):
        overlap_leak(apart[0], apart[1], [(4, 6)])
    both = grid_windows([(4, 6), (8, 8)], 4, 4)
    assert overlap_leak(both[both.tile == 0], both, [(4, 6), (8, 8)]) == 24 / 88


def test_the_leak_of_a_random_split():
    leaks = {}
    for stride in (128, 64, 32):
        leaks[stride] = overlap_leak(*random_split(grid_windows([TRAIN], 128, stride), 0.2, rng()), [TRAIN])
    assert 0 < leaks[128] < 0.1 and 0.97 < leaks[64] < 1 and leaks[32] > 0.999


def test_a_strip_holds_its_share_on_every_side():
    size, sides = (100, 50), set()
    windows = grid_windows([size], 1, 1)
    for seed in range(12):
        _, valid = blocked_split(windows, [size], 0.2, rng(seed), guard=0)
        assert len(valid) == 0.2 * 100 * 50
        sides.add((valid.row.min(), valid.row.max(), valid.col.min(), valid.col.max()))
    assert sides == {(0, 19, 0, 49), (80, 99, 0, 49), (0, 99, 0, 9), (0, 99, 40, 49)}


def test_a_blocked_split_keeps_its_guard_and_no_more():
    both = [TRAIN, TEST]
    grid = grid_windows(both, 128, 32)
    train, valid = blocked_split(grid, both, 0.2, rng(), guard=96)
    assert overlap_leak(train, valid, both) == overlap_leak(train, valid, both, margin=96) == 0
    assert overlap_leak(train, valid, both, margin=96 + 32) > 0


@pytest.mark.parametrize('guard, message', [(900, 'smaller patch_size or guard'), (-1, 'at least 0')])
def test_guards_that_cannot_be(scene, guard, message):
    with pytest.raises(ValueError, match=message):
        blocked_split(grid_windows([scene.size], 128, 80), [scene.size], 0.2, rng(), guard=guard)


def test_the_meter_of_a_split():
    from unetkit.widgets import show_leak

    apart, mixed, strip = (
        show_leak((1024, 1024), 128, *rest).numbers for rest in [(128,), (64,), (64, 'blocked', 96)]
    )
    assert apart['seen'] == 0 and apart['near'] > 0.9 and mixed['seen'] > 0.9
    assert (strip['seen'], strip['near']) == (0, 0)


def test_ground_resembles_its_neighbour_less_than_a_tenth_beyond_the_guard():
    "The default guard is justified by this measurement of brightness, and not by the reach of a network."
    from unetkit.patches import GUARD

    for seed in (1, 2, 3):
        brightness = synthetic_scene(1024, seed=seed).image.mean(axis=2)
        down = np.corrcoef(brightness[:-GUARD].ravel(), brightness[GUARD:].ravel())[0, 1]
        across = np.corrcoef(brightness[:, :-GUARD].ravel(), brightness[:, GUARD:].ravel())[0, 1]
        assert (down + across) / 2 < 0.1
