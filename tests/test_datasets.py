"Files of a data set: who belongs to whom, what is left out, and what is read when it does not fit into memory."

import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from unetkit.batches import Batches, cut_batch, to_device
from unetkit.datasets import (
    LazyTile,
    Reading,
    StreamedBatches,
    ahead,
    ground_counts,
    image_pairs,
    labelled_windows,
    open_labelled,
    read,
    read_labelled,
    training_tiles,
)
from unetkit.experiments import ModelPipeline
from unetkit.jobs import check_job, origin, place_windows
from unetkit.labels import ISPRS, labels_to_colours
from unetkit.patches import grid_windows
from unetkit.raster import write_image
from unetkit.rules import Remark
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.values import measure
from unetkit.windows import Windows, clear_places, coverage


def touch(top, *names):
    "Empty files."
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return top


def names(pairs):
    return [' '.join('-' if path is None else Path(path).name for path in pair) for pair in pairs]


TWO_FOLDERS = {  # images, references -> pairs
    'equal stems': ('b.tif a.tif', 'a.png b.png', ['a.tif a.png', 'b.tif b.png']),
    'beginnings': ('image_001.tif image_002.tif', 'mask_001.png mask_002.png', ['image_001.tif mask_001.png', 'image_002.tif mask_002.png']),
    'endings': ('1_sat.jpg 12_sat.jpg', '1_mask.png 12_mask.png', ['12_sat.jpg 12_mask.png', '1_sat.jpg 1_mask.png']),
    'both': ('IMG_a_8bit.tif IMG_b_8bit.tif', 'MSK_a_v2.tif MSK_b_v2.tif', ['IMG_a_8bit.tif MSK_a_v2.tif', 'IMG_b_8bit.tif MSK_b_v2.tif']),
    'one side is plain': ('a1.tif a2.tif', 'a1_labels.tif a2_labels.tif', ['a1.tif a1_labels.tif', 'a2.tif a2_labels.tif']),
    'polygons': ('a.jpg b.jpg', 'a.json b.json', ['a.jpg a.json', 'b.jpg b.json']),
}  # fmt: skip


@pytest.mark.parametrize('images, references, expected', TWO_FOLDERS.values(), ids=TWO_FOLDERS)
def test_two_folders(tmp_path, images, references, expected):
    one = touch(tmp_path / 'one', *images.split())
    other = touch(tmp_path / 'other', *references.split(), 'notes.txt', '.hidden.tif')
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        assert names(image_pairs(one, other)) == expected
    plain = {Path(name).stem for name in images.split()} == {Path(name).stem for name in references.split()}
    assert len(said) == (not plain)  # what was done is said, in one line


APART = {
    'numbers are not cut': ('image_01.tif image_02.tif', 'mask_11.png mask_12.png', 'no partner of'),
    'one is missing': ('image_1.tif image_2.tif', 'mask_1.png', 'no partner of'),
    'one of three is missing': (
        'image_1.tif image_2.tif image_3.tif',
        'mask_1.png mask_3.png',
        r'no partner of image_2\.tif:',
    ),
    'two of one stem': ('a.tif a.png', 'a.tif', 'has both a.png and a.tif'),
    'no image': ('a.txt', 'a.tif', 'has no .tif, .png, .jpg or other image file'),
}


@pytest.mark.parametrize('images, references, message', APART.values(), ids=APART)
def test_two_folders_that_do_not_fit(tmp_path, images, references, message):
    one, other = touch(tmp_path / 'one', *images.split()), touch(tmp_path / 'other', *references.split())
    with pytest.raises(ValueError, match=message):
        image_pairs(one, other)


ONE_FOLDER = {
    'endings': ('1_sat.jpg 1_mask.png 10_sat.jpg 10_mask.png', ['10_sat.jpg 10_mask.png', '1_sat.jpg 1_mask.png']),
    'beginnings': ('IMG_1.tif MSK_1.tif IMG_2.tif MSK_2.tif', ['IMG_1.tif MSK_1.tif', 'IMG_2.tif MSK_2.tif']),
    'plain images': ('a.tif a_mask.tif map.tif map_mask.tif', ['a.tif a_mask.tif', 'map.tif map_mask.tif']),
    'formats': ('a.jpg a.png b.jpg b.png', ['a.jpg a.png', 'b.jpg b.png']),
    'polygons': ('a.tif a.json b.tif b.json', ['a.tif a.json', 'b.tif b.json']),
    'words alike': ('x_map.tif x_mask.tif y_map.tif y_mask.tif', ['x_map.tif x_mask.tif', 'y_map.tif y_mask.tif']),
}  # fmt: skip


@pytest.mark.parametrize('files, expected', ONE_FOLDER.values(), ids=ONE_FOLDER)
def test_one_folder(tmp_path, files, expected):
    folder = touch(tmp_path, *files.split())
    assert names(image_pairs(folder, folder)) == expected


@pytest.mark.parametrize(
    'files',
    ['a_1.png b_1.png a_2.png b_2.png', '1.png 2.png', '1.jpg 2.png', 'a.tif a.png', 'a.tif', 'a_mask.tif b_mask.tif'],
)  # fmt: skip
def test_one_folder_that_is_not_clear(tmp_path, files):
    folder = touch(tmp_path, *files.split())
    with pytest.raises(ValueError, match='not clear which files are images.*' + files.split()[-1]):
        image_pairs(folder, folder)


def test_patterns(tmp_path):
    folder = touch(tmp_path, 'images/b1.tif', 'masks/a1.png', 'images/b2.tif', 'masks/a2.png', 'masks/c3.png')
    expected = ['b1.tif a1.png', 'b2.tif a2.png']
    assert names(image_pairs(folder, folder, 'images/b*.tif:masks/a*.png')) == expected
    assert names(image_pairs(folder / 'images', folder / 'masks', 'b*.tif:a*.png')) == expected
    for wrong, message in [
        ('b*.tif', 'IMAGES:REFERENCES'),
        ('b*:a', 'one star'),
        ('b**:a*', 'one star'),
        ('*/b1.tif:a*', 'one star'),
        ('z*:a*', 'has no file z'),
        ('b*:*', 'no partner of b1.tif, b2.tif'),
    ]:
        with pytest.raises(ValueError, match=message):
            image_pairs(folder / 'images', folder / 'masks', wrong)


def test_folders_of_roles(tmp_path):
    inside = touch(
        tmp_path / 'a', 'train/images/1.tif', 'train/masks/1.png', 'Val/images/2.tif', 'Val/masks/2.png'
    )
    above = touch(tmp_path / 'b', *(f'{kind}/{role}/{n}.tif' for kind in ('img', 'labels') for n, role in enumerate(('train', 'validation', 'test'))))  # fmt: skip
    flat = touch(tmp_path / 'c', *(f'{role}/{role}_{kind}' for kind in ('sat.jpg', 'mask.png') for role in ('train', 'valid')))  # fmt: skip
    assert names(image_pairs(inside, inside, role='train')) == ['1.tif 1.png']
    assert names(image_pairs(inside, inside, role='valid')) == ['2.tif 2.png']
    assert names(image_pairs(above, above, role='test')) == ['2.tif 2.tif']
    assert names(image_pairs(above / 'img', above / 'labels', role='valid')) == ['1.tif 1.tif']
    assert names(image_pairs(flat, flat, role='valid')) == ['valid_sat.jpg valid_mask.png']
    plain = touch(tmp_path / 'd', 'a.tif', 'a_mask.tif')
    assert image_pairs(plain, plain, role='valid') == []
    with pytest.raises(ValueError, match='has Val, train, but no folder called test or testing'):
        image_pairs(inside, inside, role='test')
    with pytest.raises(ValueError, match='do not both have folders'):
        image_pairs(above / 'img', plain, role='train')
    touch(inside, 'valid/images/1.tif')
    with pytest.raises(ValueError, match='which mean the same'):
        image_pairs(inside, inside, role='valid')


def test_a_list_of_pairs(tmp_path):
    touch(tmp_path, 'a.tif', 'in/b.png')
    listed = tmp_path / 'pairs.csv'
    listed.write_text('\ufeffreference,image,remark\nin/b.png,a.tif,"a, b"\n', encoding='utf-8')
    assert image_pairs(listed) == image_pairs(listed, listed) == [(tmp_path / 'a.tif', tmp_path / 'in/b.png')]
    for text, message in [
        ('image;reference\na.tif;in/b.png\n', 'first line is not image,reference'),
        ('image,reference\n', 'lists no pair'),
        ('image,reference\na.tif\n', 'line 2 lacks an image or a reference'),
        ('image,reference\na.tif,in/c.png\n', 'lists 1 files that are not there: .*c.png'),
        ('image,reference\na.tif,in/b.png\na.tif,in/b.png\n', 'line 3 lists .*a.tif once more'),
        ('image,reference\n"a.tif,in/b.png\n', 'cannot read pairs'),
        ('image,reference\n' + 'a' * 200_000 + ',b\n', 'field larger than field limit'),
        ('image,reference\n\x00,b\n', 'cannot read pairs|not there|NUL|null'),
    ]:
        listed.write_text(text, encoding='utf-8')
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            image_pairs(listed)
    listed.write_bytes(b'image,reference\n\xff\xfe,b\n')
    with pytest.raises(ValueError, match='UTF-8'):
        image_pairs(listed)


def test_a_long_list_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr('unetkit.datasets.MOST_PAIRS', 100)
    listed = tmp_path / 'pairs.csv'
    listed.write_text('image,reference\n' + ''.join(f'{n}.tif,{n}.png\n' for n in range(200)))
    with pytest.raises(ValueError, match='more than 100 lines'):
        image_pairs(listed)
    listed.write_text('image,reference\n' + 'a' * 30_000)
    with pytest.raises(ValueError, match='no list of pairs'):
        image_pairs(listed)


# Windows without a label, validation tiles, chips that are too small

TINY = dict(
    patch_size=32, epochs=1, batch_size=4, width=4, depth=2, device='cpu', precision='float32', compile='off'
)


def labelled_in(scene, rows, cols):
    "A scene whose labels are known in some rows and columns only."
    labels = np.full(scene.size, 255, np.uint8)
    labels[rows, cols] = scene.labels[rows, cols]
    return replace(scene, labels=labels)


SCENE = synthetic_scene(384, 448, seed=1)
PARTLY = {
    'a corner': (slice(0, 100), slice(0, 100)),
    'a strip': (slice(None), slice(200, 240)),
    'a small strip': (slice(350, None), slice(0, 200)),
}


@pytest.mark.parametrize('split', ['blocked', 'random'])
@pytest.mark.parametrize('where', PARTLY.values(), ids=PARTLY)
def test_ground_that_is_labelled_in_part_trains(where, split):
    tile = labelled_in(SCENE, *where)
    pipeline = ModelPipeline(ISPRS, split=split, **TINY)
    with pytest.warns(
        Remark, match=r'windows of 32 pixels hold no label and are left out: \d+ are for'
    ) as said:
        pipeline.fit(tile)
    assert sum('hold no label' in str(one.message) for one in said) == 1
    assert np.isfinite(pipeline.history[0].valid_loss)
    train, valid = place_windows(pipeline.settings, [tile])
    for windows in (train, valid):
        assert len(windows)
        for row, col in zip(windows.row, windows.col):
            assert (tile.labels[row : row + 32, col : col + 32] != 255).any()


def test_all_windows_with_a_label_are_kept():
    tile = labelled_in(SCENE, slice(30, 33), slice(95, 161))
    grid = grid_windows([tile.size], 32, 32)
    kept = labelled_windows(grid, [tile])
    assert sorted(zip(kept.row, kept.col)) == [(r, c) for r in (0, 32) for c in (64, 96, 128, 160)]


def test_a_chip_smaller_than_the_patch_is_named():
    chips = [SCENE, replace(synthetic_scene(50, 60, seed=3), name='chip-7')]
    with pytest.raises(
        ValueError, match=r'larger than the tile chip-7 .50 x 60 pixels.: choose at most 50, or leave'
    ):
        check_job(chips, None, ISPRS, [Settings(**TINY | {'patch_size': 64})])


def test_validation_tiles_are_used_whole():
    train, valid = synthetic_scene(96, 128, seed=1), synthetic_scene(80, 96, seed=2)
    pipeline = ModelPipeline(ISPRS, **TINY)
    batches, kept = pipeline.batches([train], [valid])
    assert len(batches.windows) == 3 * 4  # nothing is taken from the training tile
    targets = np.concatenate([targets.numpy().ravel() for _, targets in kept])
    expected = np.bincount(valid.labels.ravel(), minlength=6)
    np.testing.assert_array_equal(np.bincount(targets, minlength=256)[:6], expected)
    pipeline.fit(train, valid=valid)
    assert len(pipeline.history) == 1
    counts = check_job([train], None, ISPRS, [pipeline.settings], [valid])
    about = [
        origin(pipeline.settings, pipeline.device, pipeline.dtype, [train], counts, v)
        for v in (None, [valid], [train])
    ]
    assert about[0] != about[1] != about[2]
    blank = replace(valid, labels=np.full_like(valid.labels, 255))
    with pytest.raises(ValueError, match='the validation reference has no scored pixel'):
        pipeline.fit(train, valid=blank)


# Tiles on the disk


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Images and references of three scenes; the second has ground without data."
    top = tmp_path_factory.mktemp('set')
    for seed, size in enumerate([(150, 200), (96, 130), (64, 70)]):
        scene = synthetic_scene(*size, seed=seed)
        image = write_image(top / 'images' / f'{seed}.tif', scene.image, scene.georeference)
        colours = labels_to_colours(scene.labels, ISPRS)
        write_image(top / 'references' / f'{seed}.tif', colours, scene.georeference)
        if seed == 1:
            with rasterio.open(image, 'r+') as raster:
                raster.write(np.zeros((3, 40, 50), np.uint8), window=rasterio.windows.Window(20, 30, 50, 40))
                raster.nodata = 0
    return top / 'images', top / 'references'


@pytest.fixture
def lazy(folders, monkeypatch):
    "Tiles on the disk, and the same in memory."
    monkeypatch.setattr('unetkit.datasets.CELL', 64)
    tiles = [LazyTile(*pair, ISPRS) for pair in image_pairs(*folders)]
    return tiles, read_labelled(*folders, ISPRS)


def test_a_tile_on_the_disk_is_the_tile_in_memory(lazy):
    for tile, held in zip(*lazy):
        assert (tile.name, tile.size, tile.in_channels) == (held.name, held.size, held.in_channels)
        window = 3, 5, 60, 61
        at = slice(3, 63), slice(5, 66)
        piece, whole = tile.read(window), tile.read()
        np.testing.assert_array_equal(whole.image, held.image)
        np.testing.assert_array_equal(whole.labels, held.labels)
        np.testing.assert_array_equal(piece.image, held.image[at])
        np.testing.assert_array_equal(piece.labels, held.labels[at])
        np.testing.assert_array_equal(tile.read_labels(window), held.labels[at])
        assert whole.georeference == held.georeference


def in_memory(stream, held):
    "The batches of an epoch of a stream, cut from tiles in memory: the windows are noted as they are drawn."
    noted = []
    windows_of = stream._windows_of

    def note(group, *rest):
        windows = windows_of(group, *rest)
        regions = [stream.regions[index] for index in group]
        corner = np.array([region.window[:2] for region in regions])[windows.tile]
        tile = np.array([region.tile for region in regions])[windows.tile]
        row, col = windows.row + corner[:, 0], windows.col + corner[:, 1]
        owned = windows.owned + corner[:, [0, 0, 1, 1]]
        noted.extend(zip(tile, row, col, owned))
        return windows

    stream._windows_of = note
    batches = list(stream)
    tile, row, col, owned = map(np.array, zip(*noted))
    return batches, Windows(stream.windows.patch_size, tile, row, col, owned), held


HOW = {
    'scores': dict(once=True),
    'shuffled': dict(shuffle=True),
    'crops': dict(crops=True),
    'focus': dict(crops=True, focus=4),
}


@pytest.mark.parametrize('memory', [1, 3e5, 1e9], ids=['one region', 'some regions', 'all'])
@pytest.mark.parametrize('how', HOW.values(), ids=HOW)
def test_windows_of_a_stream_have_the_pixels_that_they_have_in_memory(lazy, how, memory):
    tiles, held = lazy
    windows = grid_windows([tile.size for tile in held], 32, 24)
    stream = StreamedBatches(tiles, windows, 7, memory=memory, seed=3, **how)
    batches, shown, _ = in_memory(stream, held)
    assert len(batches) == len(stream) == -(-len(windows) // 7)
    pairs = to_device(held)
    for index, (batch, targets) in enumerate(batches):
        for at, (one, target) in enumerate(zip(batch, targets)):
            expected = cut_batch(pairs, shown[7 * index + at], how.get('once', False))
            assert (one == expected[0][0]).all() and (target == expected[1][0]).all()
    if 'crops' not in how:
        table = lambda w: sorted(zip(w.tile, w.row, w.col))
        assert table(shown) == table(windows)
    else:
        assert len(shown) == len(windows)
    if 'focus' in how:
        assert sum((targets == 4).any((1, 2)).sum() for _, targets in batches) >= len(windows) // 2


@pytest.mark.parametrize('stored', ['uint8', 'int16'])
def test_holes_are_filled_as_in_memory(lazy, stored):
    "A hole of 40 x 50 pixels lies across the borders of regions."
    tiles, held = lazy
    values = measure(held)
    if stored == 'int16':  # on another scale, as float32
        values = values.with_range(-20, 300)
    prepare = lambda tile: replace(tile, image=values.scale(tile.image, tile.valid), dtypes=())
    assert any(tile.valid is not None for tile in held)
    windows = labelled_windows(grid_windows([tile.size for tile in held], 32, 8), held)
    stream = StreamedBatches(tiles, windows, 7, memory=3e5, shuffle=True, prepare=prepare)
    batches, shown, _ = in_memory(stream, held)
    pairs = to_device([prepare(tile) for tile in held])
    for index, (batch, _) in enumerate(batches):
        for at, one in enumerate(batch):
            assert (one == cut_batch(pairs, shown[7 * index + at])[0][0]).all()


def test_on_one_tile_a_stream_gives_the_batches_of_memory(lazy):
    tiles, held = lazy[0][:1], lazy[1][:1]
    windows = grid_windows([held[0].size], 32, 24)
    stream = StreamedBatches(tiles, windows, 7, augment=True, shuffle=True, seed=3, memory=3e5)
    state = stream.rng.bit_generator.state
    batches, shown, _ = in_memory(stream, held)
    same = Batches(to_device(held), shown, 7, augment=True)
    same.rng.bit_generator.state = state
    turned = 0
    for (batch, targets), (own, own_targets) in zip(batches, Batches(to_device(held), shown, 7)):
        turned += not (batch == own).all()
        key = lambda t: sorted(t.flatten(1).sort(1).values.tolist())
        assert key(targets) == key(own_targets) and key(batch) == key(own)
    assert turned > len(batches) / 2


def test_crops_of_a_stream_are_uniform_over_the_training_ground(lazy):
    "Over many epochs each place is drawn equally often: a chi-squared test over 40 bands of places, at 6 sigma."
    tiles, held = lazy
    ground = grid_windows([tile.size for tile in held], 32, 32)[:20]
    stream = StreamedBatches(tiles, ground, 20, crops=True, memory=3e5, seed=1)
    places = [clear_places(coverage(ground, t, tile.size) == 0, 32) for t, tile in enumerate(held)]
    starts = np.cumsum([0, *(place.size for place in places)])
    weights = np.concatenate([place.ravel() for place in places]).astype(float)
    found = np.zeros(len(weights))
    for _ in range(60):
        stream._windows_of = type(stream)._windows_of.__get__(stream)
        _, shown, _ = in_memory(stream, held)
        wide = np.array([place.shape[1] for place in places])[shown.tile]
        np.add.at(found, starts[shown.tile] + shown.row * wide + shown.col, 1)
    assert not found[weights == 0].any()
    order = np.flatnonzero(weights)
    parts = np.array([found[part].sum() for part in np.array_split(order, 40)])
    expected = np.array([len(part) for part in np.array_split(order, 40)]) / len(order) * found.sum()
    chi = ((parts - expected) ** 2 / expected).sum()
    assert abs(chi - 39) < 6 * (2 * 39) ** 0.5


def test_epochs_of_a_stream_repeat_and_go_on(lazy):
    tiles, _ = lazy
    windows = grid_windows([tile.size for tile in tiles], 32, 32)
    how = dict(crops=True, focus=4, augment=True, seed=5, memory=3e5)
    one, other = (StreamedBatches(tiles, windows, 7, **how) for _ in range(2))
    first = [batch for batch, _ in one]
    state = one.rng.bit_generator.state
    second = [batch for batch, _ in one]
    assert all((a == b).all() for a, b in zip(first, [batch for batch, _ in other]))
    assert not all((a == b).all() for a, b in zip(first, second))
    resumed = StreamedBatches(tiles, windows, 7, **how)
    resumed.rng.bit_generator.state = state
    assert all((a == b).all() for a, b in zip(second, [batch for batch, _ in resumed]))


def test_training_from_the_disk_is_resumed(folders, tmp_path, monkeypatch):
    monkeypatch.setattr('unetkit.datasets.CELL', 64)
    with pytest.warns(Remark, match='3 tiles would take .* GB, more than --memory 0.0002: they are read as'):
        tiles = open_labelled(*folders, ISPRS, Reading(memory=2e-4))
    assert all(isinstance(tile, LazyTile) for tile in tiles)
    held = read_labelled(*folders, ISPRS)
    settings = Settings(**TINY | {'split': 'random', 'epochs': 3})
    np.testing.assert_array_equal(
        check_job(tiles, None, ISPRS, [settings]), check_job(held, None, ISPRS, [settings])
    )
    whole = ModelPipeline(ISPRS, settings).fit(tiles)
    part = ModelPipeline(ISPRS, settings, epochs=1).fit(tiles, tmp_path / 'checkpoint')
    part = ModelPipeline(ISPRS, settings).fit(tiles, tmp_path / 'checkpoint')
    losses = [[epoch.train_loss for epoch in one.history] for one in (whole, part)]
    assert losses[0] == losses[1]
    assert whole.evaluate(tiles).accuracy == whole.evaluate(held).accuracy
    image, _ = next(iter(image_pairs(*folders)))
    image.touch()
    with pytest.raises(ValueError, match='pixels was'):
        fresh = open_labelled(*folders, ISPRS, Reading(memory=2e-4))
        ModelPipeline(ISPRS, settings).fit(fresh, tmp_path / 'checkpoint')


def test_many_windows_of_a_large_tile_cost_little(lazy):
    "The passes over the labels give the same numbers in pieces and at once."
    tiles, held = lazy
    grid = grid_windows([tile.size for tile in held], 32, 24)
    few = labelled_windows(grid, held)
    for name in ('tile', 'row', 'col', 'owned'):
        np.testing.assert_array_equal(getattr(labelled_windows(grid, tiles), name), getattr(few, name))
    covered = [coverage(few[:30], t, tile.size) > 0 for t, tile in enumerate(held)]
    expected = sum(np.bincount(tile.labels[at], minlength=256)[:6] for tile, at in zip(held, covered))
    np.testing.assert_array_equal(ground_counts(few[:30], tiles, 6), expected)


def test_training_and_validation_tiles(folders, tmp_path):
    images, references = folders
    tiles, valid = training_tiles(images, references, ISPRS)
    assert [tile.name for tile in tiles] == ['0', '1', '2'] and valid is None
    one = images / '0.tif', references / '0.tif'
    assert [tile.name for tile in training_tiles(*folders, ISPRS, None, *one)[1]] == ['0']
    for role, name in [('train', '0'), ('train', '1'), ('val', '2')]:
        for kind, folder in zip(('images', 'masks'), folders):
            (tmp_path / kind / role).mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / role / f'{name}.tif').symlink_to(folder / f'{name}.tif')
    for top in [(tmp_path, tmp_path), (tmp_path / 'images', tmp_path / 'masks')]:
        tiles, valid = training_tiles(*top, ISPRS)
        assert [[tile.name for tile in some] for some in (tiles, valid)] == [['0', '1'], ['2']]
    with pytest.raises(ValueError, match='both --valid-image and --valid-reference'):
        training_tiles(*folders, ISPRS, None, one[0])


def test_a_list_of_pairs_is_a_list_of_tiles(folders, tmp_path):
    images, references = folders
    lines = [f'{images}/{n}.tif,{references}/{n}.tif' for n in (2, 0)]
    (tmp_path / 'pairs.csv').write_text('\n'.join(['image,reference', *lines]))
    assert [tile.name for tile in read(tmp_path / 'pairs.csv', palette=ISPRS)] == ['2', '0']
    lone = [images / '2.tif', images / '2.tif']
    assert read(lone).in_channels == 6


MEMORY_OF_AN_EPOCH = """
import sys
from pathlib import Path
from unetkit.datasets import Reading, training_tiles
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS
from unetkit.scenes import synthetic_scene

def peak():
    line = next(one for one in Path('/proc/self/status').read_text().splitlines() if one.startswith('VmHWM'))
    return int(line.split()[1]) / 1000

how = dict(width=2, depth=1, epochs=1, device='cpu', precision='float32')
ModelPipeline(ISPRS, **how).fit(synthetic_scene(512))
before = peak()
tiles, _ = training_tiles(*sys.argv[1:3], ISPRS, Reading(memory=0.1))
ModelPipeline(ISPRS, **how).fit(tiles)
print(peak() - before)
"""


def test_ahead():
    "Results come in order, the next item is begun before the last result is used, and no error is lost."
    assert list(ahead(str, [])) == []
    assert list(ahead(lambda n: n * n, iter(range(20)))) == [n * n for n in range(20)]
    begun, second = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 1:
            second.set()
        if item == 3:
            raise ValueError('three')
        return item

    results = ahead(work, range(10))
    assert next(results) == 0 and second.wait(10)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match='three'):
        next(results)
    assert begun[:4] == [0, 1, 2, 3] and len(begun) <= 5

    def items():
        yield 0
        raise OSError('no more')

    with pytest.raises(OSError, match='no more'):
        list(ahead(str, items()))


def test_ahead_is_closed():
    "Closing waits for what is worked on, and drops what waits."
    ended, second = [], threading.Event()

    def slowly(item):
        if item:
            second.set()
            time.sleep(0.2)
        ended.append(item)

    results = ahead(slowly, range(5))
    next(results)
    assert second.wait(10)
    results.close()
    assert ended == [0, 1]


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak is read from /proc')
def test_training_on_a_tile_that_is_larger_than_the_memory_allowed(tmp_path):
    """36 megapixels would take 800 MB in memory. Two groups of at most 30 MB or one piece (27 MB) each, GDAL's blocks (64 MB), and at most
    40 bytes for a pixel of the piece in hand (180 MB) are 330 MB; half as much again is left for the allocator."""
    scene = synthetic_scene(1024, seed=2)
    for name, pixels in [('image', scene.image), ('reference', labels_to_colours(scene.labels, ISPRS))]:
        write_image(tmp_path / f'{name}.tif', np.tile(pixels, (6, 6, 1))[:6000, :6000])
    files = [str(tmp_path / f'{name}.tif') for name in ('image', 'reference')]
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', MEMORY_OF_AN_EPOCH, *files],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.splitlines()[-1]) < 500
