"""What people bring, read as it is or refused in one line: types, places, opacity, holes, numbers, polygons, pairs, formats, and data larger than memory.

Every input is made here with rasterio, Pillow, pyogrio and json, from one synthetic scene whose labels are known, so that what is read can be compared pixel by
pixel. Nothing is silent: what was laid, filled or left out is said in a remark, and what does not fit ends in one line with the value, the rule and the remedy."""

import json
import os
import re
import struct
import subprocess
import sys
import warnings
from contextlib import suppress

import numpy as np
import pytest
import rasterio
from affine import Affine
from helpers import check_line, check_refusal, shell
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.warp import reproject, transform_bounds
from scipy.ndimage import maximum_filter, minimum_filter

import unetkit as uk
from unetkit.datasets import Reading, open_labelled, training_tiles
from unetkit.inspection import inspect
from unetkit.labels import ISPRS, labels_to_colours
from unetkit.models import load_tensors
from unetkit.palettes import Palette, read_palette
from unetkit.scale import evaluate_raster
from unetkit.scenes import synthetic_scene

SCENE = synthetic_scene(192, 224, seed=3)
IMAGE, LABELS = SCENE.image, SCENE.labels
SIZE = SCENE.size
GRID = Affine(*SCENE.georeference.transform)
UTM = 'EPSG:32632'
PLACE = dict(crs=UTM, transform=GRID)
RECIPE = '--patch-size 32 --stride 16 --split random --width 8 --depth 2 --lr 0.003 --device cpu --precision float32'
QUICK = [*RECIPE.split(), '--epochs', '1']
NUMBERS = Palette(ISPRS.names, ISPRS.colours, values=range(6))  # class numbers 0 to 5
FROM_1 = Palette(ISPRS.names, ISPRS.colours, values=range(1, 7), ignored_values=(0,))
TWO = Palette(('ground', 'building'), ('#000000', '#ff0000'), values=(0, 1))


# Files


def write(path, array, driver='GTiff', *, alpha=False, mask=None, names=(), colours=None, **profile):
    "Write an array (H, W) or (H, W, bands) with rasterio alone."
    array = np.atleast_3d(array)
    height, width, count = array.shape
    dtype = profile.pop('dtype', array.dtype)
    shape = dict(height=height, width=width, count=count, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, 'w', driver=driver, **shape, **profile) as file:
            if alpha:
                file.colorinterp = (*file.colorinterp[: count - 1], ColorInterp.alpha)
            file.write(array.transpose(2, 0, 1))
            if mask is not None:
                file.write_mask(mask)
            if colours is not None:
                file.write_colormap(1, colours)
            for band, name in enumerate(names, start=1):
                file.set_band_description(band, name)
    return path


def write_reference(path, labels=LABELS, **profile):
    "Write labels in the colours of the palette, black where they are 255."
    return write(path, labels_to_colours(labels, ISPRS), **({'photometric': 'rgb'} | PLACE | profile))


def bands(count=4):
    "The scene with more bands, the last of which holds many values, as infrared does."
    more = [255 - IMAGE[..., 0], IMAGE[..., 1] // 2 + 40][: count - 3]
    return np.dstack([IMAGE, *more])


@pytest.fixture
def image(tmp_path):
    "The 8-bit image with its place."
    return write(tmp_path / 'image.tif', IMAGE, **PLACE)


@pytest.fixture
def reference(tmp_path):
    return write_reference(tmp_path / 'reference.tif')


# Readers and commands


def reads(image, reference=None, palette=None, **reading):
    "Read a tile: the tile, and the remarks made meanwhile as one text."
    if reference is not None and palette is None:
        palette = ISPRS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        tile = uk.read(image, reference, palette, **reading)
    assert all(issubclass(one.category, UserWarning) for one in caught), [one.category for one in caught]
    texts = [str(one.message) for one in caught]
    assert all(text.isprintable() and len(text) < 900 for text in texts), texts
    return tile, '\n'.join(texts)


def refuses(said, *args, **reading):
    "What is read must be refused in one line that holds the words `said`."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises((ValueError, OSError)) as error:
            uk.read(*args, **reading)
    text = str(error.value)
    assert text.isprintable() and len(text) < 900, text
    for words in said:
        assert words in text, f'{words!r} is not in: {text}'


def command(*words):
    "Run a command that must end with code 0; what it printed, and its notes: the only lines of standard error."
    code, out, err = shell(*words)
    lines = err.splitlines()
    assert code == 0 and all(line.startswith('note: ') and line.isprintable() for line in lines), (code, err)
    return out, lines


def accuracy(model, image, reference, *options):
    "The accuracy in per cent that `evaluate` prints."
    out, _ = command(
        'evaluate', model, image, reference, '--device', 'cpu', '--precision', 'float32', *options
    )
    return float(re.search(r'accuracy (\d+\.\d+)', out.splitlines()[-1])[1])


def predicted(model, image, out, *options):
    "The label map that `predict` writes: classes, 255 where there is no data."
    _, notes = command(
        'predict', model, image, '--out', out, '--device', 'cpu', '--precision', 'float32', *options
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(out) as file:
            return file.read(1), notes


def inside(labels, reach=2):
    "Pixels that are as far as `reach` from the next class: there every way to lay one grid onto another agrees."
    size = 2 * reach + 1
    return maximum_filter(labels, size) == minimum_filter(labels, size)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "What the tests of this module share and never change."
    return tmp_path_factory.mktemp('data')


def trained(folder, name, image, reference, *options):
    "Train with the recipe of this module: the model file, and the notes."
    model = folder / f'{name}.safetensors'
    _, notes = command('train', image, reference, '--out', model, *RECIPE.split(), *options)
    return model, notes


@pytest.fixture(scope='module')
def eight(folder):
    "The 8-bit image, its reference and a model of them."
    image = write(folder / 'eight.tif', IMAGE, **PLACE)
    reference = write_reference(folder / 'reference.tif')
    model, notes = trained(folder, 'eight', image, reference, '--epochs', 12)
    assert notes == []
    return model, image, reference


# 1  Numbers of other types: the accuracy of the 8-bit file

X = IMAGE.astype(np.int64)
STORED = {  # Name -> the stored numbers, the number of each that stands for 0 and for 255 of the 8-bit image, profile
    '0 to 3000': ((X * 3000 // 255).astype(np.uint16), 0, 3000, {}),
    '1000 to 4000': ((1000 + X * 12).astype(np.uint16), 1000, 4060, {}),
    '11 bits': ((X * 8).astype(np.uint16), 0, 2040, {'nbits': 11}),
    '12 bits': ((X * 16).astype(np.uint16), 0, 4080, {'nbits': 12}),
    'big endian': ((X * 16).astype(np.uint16), 0, 4080, {'ENDIANNESS': 'BIG'}),
    'planes': (
        (X * 100).astype(np.uint16),
        0,
        25500,
        {'interleave': 'band', 'compress': 'deflate', 'predictor': 2},
    ),
    'large tiles': (
        (X * 100).astype(np.uint16),
        0,
        25500,
        {'tiled': True, 'blockxsize': 512, 'blockysize': 512},
    ),
    'signed': ((X * 10 - 500).astype(np.int16), -500, 2050, {}),
    'signed bytes': ((X // 2 - 64).astype(np.int8), -64, 63, {}),
    'uint32': ((X * 1000).astype(np.uint32), 0, 255000, {}),
    'int32': ((X * 1000 - 7).astype(np.int32), -7, 254993, {}),
    'float': ((X / 255).astype(np.float32), 0, 1, {}),
    'double': ((X / 255 * 1e4).astype(np.float64), 0, 1e4, {}),
    'float, predictor': ((X / 255).astype(np.float32), 0, 1, {'compress': 'deflate', 'predictor': 3}),
}


@pytest.mark.parametrize('name', STORED)
def test_stored_numbers_are_read(tmp_path, name):
    numbers, _, _, profile = STORED[name]
    tile, said = reads(write(tmp_path / 'a.tif', numbers, **PLACE, **profile))
    assert said == '' and tile.in_channels == 3 and tile.valid is None
    assert np.array_equal(tile.image, numbers.astype(tile.image.dtype))
    assert tile.image.dtype == (np.float32 if numbers.dtype.kind == 'f' else numbers.dtype)


@pytest.mark.parametrize('name', [name for name in STORED if 'bytes' not in name])
def test_a_copy_in_other_numbers_gives_the_map_of_the_8_bit_image(eight, tmp_path, name):
    """With the range that 8 bits stand for, the network sees the same picture, up to half a step of what is stored.

    A pixel changes its class only where two classes are all but equal: in less than one of a hundred."""
    numbers, low, high, profile = STORED[name]
    path = write(tmp_path / 'a.tif', numbers, **PLACE, **profile)
    expected, _ = predicted(eight[0], eight[1], tmp_path / 'expected.tif')
    found, _ = predicted(eight[0], path, tmp_path / 'found.tif', f'--range={low},{high}')
    assert np.mean(found == expected) > 0.99


APART = (X * [10, 20, 5] + [0, 100, 0]).astype(np.uint16)  # each band with numbers of its own
RANGES = '0,2550:100,5200:0,1275'


def test_each_band_may_have_its_own_range(eight, tmp_path):
    "In the commands and in Python; a number of ranges that does not fit is refused."
    model, image, reference = eight
    path = write(tmp_path / 'a.tif', APART, **PLACE)
    expected, _ = predicted(model, image, tmp_path / 'expected.tif')
    found, _ = predicted(model, path, tmp_path / 'found.tif', f'--range={RANGES}')
    assert np.mean(found == expected) > 0.99
    kept = load_tensors(trained(tmp_path, 'apart', path, reference, f'--range={RANGES}', '--epochs', 1)[0])[1]
    assert kept['values']['low'] == [0, 100, 0] and kept['values']['high'] == [2550, 5200, 1275]
    for words in (
        ['predict', model, path, '--out', tmp_path / 'no.tif'],
        ['train', path, reference, '--out', tmp_path / 'no.safetensors', *QUICK],
        ['inspect', path],
    ):
        check_refusal([tmp_path], [*words, '--range=0,1:0,2'], ['2 parts for 3 bands', '0,3000:0,4000'])


def test_python_takes_the_range_of_a_reading(eight, tmp_path):
    "`evaluate_raster` and `inspect` see what the commands see, and `read`, which scales nothing, refuses it."
    model, image, reference = eight
    path, reading = write(tmp_path / 'a.tif', APART, **PLACE), Reading(range=RANGES)
    for loaded in (model, uk.ModelPipeline.load(model, 'cpu', 'float32')):
        plain = evaluate_raster(loaded, image, reference, device='cpu', precision='float32')
        ranged = evaluate_raster(loaded, path, reference, reading=reading, device='cpu', precision='float32')
        assert abs(plain.accuracy - ranged.accuracy) < 0.01
        with pytest.raises(ValueError, match='--range'):
            evaluate_raster(loaded, path, reference)
        assert inspect(path, model=loaded, reading=reading).fits
        assert inspect(path, model=loaded).fits is False
    assert (
        'make the numbers 0 to 2550 of band 1, 100 to 5200 of band 2' in inspect(path, reading=reading).text
    )
    with pytest.raises(ValueError, match='8 bits, whose range is 0 to 255 always'):
        inspect(image, reading=reading)
    refuses([RANGES, 'limits'], path, range=RANGES)


@pytest.mark.parametrize('name', ['0 to 3000', 'signed', 'float'])
def test_other_numbers_without_a_range_are_refused_by_an_8_bit_model(eight, tmp_path, name):
    path, out = write(tmp_path / 'a.tif', STORED[name][0], **PLACE), tmp_path / 'no.tif'
    check_refusal(
        [tmp_path], ['predict', eight[0], path, '--out', out], [str(STORED[name][0].dtype), '--range']
    )
    check_refusal([tmp_path], ['evaluate', eight[0], path, eight[2]], ['--range'])


@pytest.mark.parametrize(
    'name',
    ['0 to 3000', 'float', *(pytest.param(n, marks=pytest.mark.slow) for n in ('1000 to 4000', '11 bits'))],
)
def test_accuracy_beside_the_8_bit_run(eight, tmp_path, name):
    """What is learnt beyond the most frequent class is what the range decides: less than a third of it was left when it was wrong.

    Half of it has to be there, a bound far outside of what the seed or the processor does."""
    numbers, _, _, profile = STORED[name]
    path = write(tmp_path / 'a.tif', numbers, **PLACE, **profile)
    model, _ = trained(tmp_path, 'other', path, eight[2], '--epochs', 12)
    constant = 100 * np.bincount(LABELS.ravel()).max() / LABELS.size
    learnt = accuracy(*eight) - constant
    assert learnt > 10
    assert accuracy(model, path, eight[2]) - constant > learnt / 2


def test_ranges_follow_the_numbers(tmp_path):
    "The range that is measured and kept in the model is the same one in the units of each copy."
    reference, kept = write_reference(tmp_path / 'reference.tif'), {}
    for name, factor, offset in [('a', 1, 0), ('b', 12, 1000), ('c', 3, -700)]:
        path = write(tmp_path / f'{name}.tif', (X * factor + offset).astype(np.int16), **PLACE)
        model, _ = trained(tmp_path, name, path, reference, '--epochs', 1)
        kept[name] = load_tensors(model)[1]['values']
        for edge in ('low', 'high'):
            expected = np.multiply(kept['a'][edge], factor) + offset
            assert np.allclose(kept[name][edge], expected, rtol=0, atol=factor)


def test_8_bit_keeps_its_range_whatever_it_holds(tmp_path):
    "A dark image stays dark: 0 to 255 is the range of 8 bits."
    dark = write(tmp_path / 'dark.tif', IMAGE // 4, **PLACE)
    model, _ = trained(tmp_path, 'dark', dark, write_reference(tmp_path / 'reference.tif'), '--epochs', 1)
    values = load_tensors(model)[1]['values']
    assert list(values['low']) == [0, 0, 0] and list(values['high']) == [255, 255, 255]


@pytest.mark.parametrize('range', ['5', '5,5', '9,3', 'a,b', 'nan,1', '1,inf', '1,2,3', '0,1:', '0,1:2'])
def test_ranges_that_are_none(image, reference, tmp_path, range):
    words = ['train', image, reference, '--out', tmp_path / 'no.safetensors', *QUICK, f'--range={range}']
    check_refusal([tmp_path], words, ['range'])


def test_16_bit_png(tmp_path):
    "Pillow writes one band of 16 bits; three are written by rasterio."
    grey = (X[..., 0] * 12 + 1000).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    tile, said = reads(tmp_path / 'grey.png')
    assert np.array_equal(tile.image[..., 0], grey) and tile.georeference is None and said == ''
    tile, _ = reads(write(tmp_path / 'rgb.png', STORED['12 bits'][0], 'PNG'))
    assert np.array_equal(tile.image, STORED['12 bits'][0])


def test_complex_numbers_are_no_image(tmp_path):
    for dtype in ('complex64', 'complex128'):
        path = write(tmp_path / f'{dtype}.tif', IMAGE.astype(dtype), **PLACE)
        refuses([f'{dtype}.tif', 'complex'], path)


# 2 and 8  References on other ground, of other sizes

COLS, ROWS = SIZE[1], SIZE[0]


def shifted(labels, rows, cols):
    "What lies `rows` further down and `cols` further right in an image: 255 where there is nothing."
    found = np.full(np.add(labels.shape, (2 * abs(rows), 2 * abs(cols))), 255, np.uint8)
    found[abs(rows) + rows :, abs(cols) + cols :][: labels.shape[0], : labels.shape[1]] = labels
    return found[abs(rows) :, abs(cols) :][: labels.shape[0], : labels.shape[1]]


PLACED = {  # Name -> labels as stored, their transform, labels on the image's grid
    'south to north': (LABELS[::-1], GRID @ Affine(1, 0, 0, 0, -1, ROWS), LABELS),
    'east to west': (LABELS[:, ::-1], GRID @ Affine(-1, 0, COLS, 0, 1, 0), LABELS),
    'turned by 90 degrees': (np.rot90(LABELS), GRID @ Affine(0, -1, COLS, 1, 0, 0), LABELS),
    '20 px further': (LABELS, GRID @ Affine.translation(20, 0), shifted(LABELS, 0, 20)),
    '7 px up and 5 left': (LABELS, GRID @ Affine.translation(-5, -7), shifted(LABELS, -7, -5)),
    'two thirds of a pixel': (LABELS, GRID @ Affine.translation(0.66, 0), shifted(LABELS, 0, 1)),
    'one pixel more': (np.pad(LABELS, ((0, 1), (0, 1))), GRID, LABELS),
    'one pixel less': (
        LABELS[:-1, :-1],
        GRID,
        np.pad(LABELS[:-1, :-1], ((0, 1), (0, 1)), constant_values=255),
    ),
    'half a pixel wide': (LABELS.repeat(2, 0).repeat(2, 1), GRID @ Affine.scale(0.5), LABELS),
    'larger': (np.pad(LABELS, 30), GRID @ Affine.translation(-30, -30), LABELS),
    'a part': (
        LABELS[40:90, 50:120],
        GRID @ Affine.translation(50, 40),
        shifted(LABELS[40:90, 50:120], 0, 0),
    ),
}
PLACED['a part'] = (*PLACED['a part'][:2], np.full_like(LABELS, 255))
PLACED['a part'][2][40:90, 50:120] = LABELS[40:90, 50:120]


@pytest.mark.parametrize('name', PLACED)
def test_laid_by_place(image, tmp_path, name):
    "The labels come to lie where they are on the ground, and it is said."
    labels, transform, expected = PLACED[name]
    path = write_reference(tmp_path / 'placed.tif', labels, transform=transform)
    tile, said = reads(image, path)
    assert np.array_equal(tile.labels, expected)
    assert 'placed.tif' in said


@pytest.mark.parametrize('name', ['south to north', '20 px further', 'a part'])
def test_laid_by_the_commands(eight, tmp_path, name):
    "`train` and `evaluate` say so too, and score the labels on the image's grid."
    labels, transform, expected = PLACED[name]
    path = write_reference(tmp_path / 'placed.tif', labels, transform=transform)
    same = write_reference(tmp_path / 'same.tif', expected)
    assert accuracy(*eight[:2], path) == accuracy(*eight[:2], same)
    _, notes = command('train', eight[1], path, '--out', tmp_path / 'm.safetensors', *QUICK)
    assert 'placed.tif' in notes[0] and len(notes) == 1 + (name == 'a part')


@pytest.mark.parametrize('crs', ['EPSG:32633', 'EPSG:4326', 'EPSG:3857', 'EPSG:25832', 'EPSG:31467'])
def test_laid_from_another_coordinate_system(image, tmp_path, crs):
    "Another zone, degrees, the grid of web maps, the same ground under another name, and Gauss-Krueger, whose first axis is north."
    west, south, east, north = transform_bounds(UTM, crs, *rasterio.transform.array_bounds(*SIZE, GRID))
    fine = Affine((east - west) / 900, 0, west, 0, (south - north) / 900, north)
    labels = np.full((900, 900), 255, np.uint8)
    reproject(
        LABELS, labels, src_crs=UTM, src_transform=GRID, dst_crs=crs, dst_transform=fine, dst_nodata=255
    )
    tile, said = reads(image, write_reference(tmp_path / 'far.tif', labels, crs=crs, transform=fine))
    sure = inside(LABELS) & (tile.labels != 255)
    assert np.array_equal(tile.labels[sure], LABELS[sure]) and np.mean(tile.labels != 255) > 0.97
    assert 'far.tif' in said and crs in said


def test_half_the_resolution(image, tmp_path):
    labels = LABELS[::2, ::2]
    path = write_reference(tmp_path / 'coarse.tif', labels, transform=GRID @ Affine.scale(2))
    tile, said = reads(image, path)
    assert np.array_equal(tile.labels, labels.repeat(2, 0).repeat(2, 1)) and 'coarse.tif' in said


@pytest.mark.parametrize(
    'place',
    [
        dict(transform=GRID @ Affine.translation(100_000, 0)),
        dict(crs='EPSG:32633'),
        dict(crs='EPSG:4326', transform=Affine(1e-6, 0, 50, 0, -1e-6, 10)),
        dict(transform=GRID @ Affine.translation(0, 2 * ROWS)),
    ],
    ids=['9 km', 'zone', 'degrees', 'below'],
)
def test_that_do_not_meet(image, tmp_path, place):
    path = write_reference(tmp_path / 'far.tif', **place)
    refuses(['far.tif', 'image.tif', 'do not meet'], image, path, ISPRS)
    words = ['train', image, path, '--out', tmp_path / 'no.safetensors', *QUICK]
    check_refusal([tmp_path], words, ['far.tif', 'do not meet'])


def test_grids_that_are_equal_but_for_rounding(image, tmp_path):
    for n, shift in enumerate((0, 5e-4, -5e-4)):
        path = write_reference(tmp_path / f'{n}.tif', transform=GRID @ Affine.translation(shift, shift))
        tile, said = reads(image, path)
        assert np.array_equal(tile.labels, LABELS) and said == ''


def test_only_one_says_where_it_lies(image, tmp_path):
    "Equal sizes are taken as they are, with a remark; other sizes cannot be laid."
    nowhere = dict(crs=None, transform=None)
    for n, (image_place, place) in enumerate([({}, nowhere), (nowhere, {})]):
        one = write(tmp_path / f'image{n}.tif', IMAGE, **(PLACE | image_place))
        tile, said = reads(one, write_reference(tmp_path / f'reference{n}.tif', **place))
        assert np.array_equal(tile.labels, LABELS) and 'where it lies' in said
    small = write_reference(tmp_path / 'small.tif', LABELS[:-8], **nowhere)
    refuses(['small.tif', f'{ROWS - 8} x {COLS}', f'{ROWS} x {COLS}'], image, small, ISPRS)
    Image.fromarray(labels_to_colours(LABELS[1:], ISPRS)).save(tmp_path / 'small.png')
    refuses(['small.png', f'{ROWS - 1} x {COLS}'], image, tmp_path / 'small.png', ISPRS)


def test_ground_control_points_are_no_grid(image, tmp_path):
    points = [
        rasterio.control.GroundControlPoint(r, c, *(GRID @ (c, r))) for r, c in [(0, 0), (0, COLS), (ROWS, 0)]
    ]
    path = write_reference(tmp_path / 'points.tif', crs=UTM, transform=None, gcps=points)
    tile, said = reads(image, path)
    assert np.array_equal(tile.labels, LABELS) and 'points.tif' in said


def test_world_files(tmp_path):
    "A PNG says where it lies in a file beside it, without a coordinate system: taken to be in that of the image."
    image = write(tmp_path / 'image.tif', IMAGE, **PLACE)
    path = tmp_path / 'world.png'
    Image.fromarray(labels_to_colours(LABELS[::-1], ISPRS)).save(path)
    centre = GRID @ (0.5, ROWS - 0.5)
    lines = GRID.a, 0, 0, -GRID.e, *centre
    path.with_suffix('.pgw').write_text('\n'.join(f'{number:.9f}' for number in lines))
    tile, said = reads(image, path)
    assert np.array_equal(tile.labels, LABELS) and 'coordinate system' in said


def test_image_from_south_to_north(tmp_path, reference):
    "The map of such an image lies on its own rows."
    image = write(tmp_path / 'up.tif', IMAGE[::-1], crs=UTM, transform=GRID @ Affine(1, 0, 0, 0, -1, ROWS))
    tile, said = reads(image, reference)
    assert np.array_equal(tile.image, IMAGE[::-1]) and np.array_equal(tile.labels, LABELS[::-1]) and said


# 3 and 4  Opacity that is none, and opacity

LEFT = np.zeros(SIZE, bool)
LEFT[:, : COLS // 2] = True
RIGHT = ~LEFT


def check_half(tile, count):
    "The left half holds data, the right half does not: in the image, and in the labels."
    assert tile.in_channels == count
    assert np.array_equal(tile.valid, LEFT)
    if tile.labels is not None:
        assert (tile.labels[RIGHT] == 255).all() and np.array_equal(tile.labels[LEFT], LABELS[LEFT])


@pytest.mark.parametrize(
    ('count', 'dtype', 'nodata'),
    [
        (4, 'uint8', 0),
        (4, 'uint8', 255),
        (4, 'uint16', 0),
        (4, 'uint16', 65535),
        (5, 'uint8', 0),
        (4, 'int16', -9999),
    ],
)
def test_infrared_that_is_tagged_as_opacity(reference, tmp_path, count, dtype, nodata):
    "rasterio tags the fourth band by itself; no data stays no data, and the band stays a band."
    pixels = np.clip(bands(count), 1, 254).astype(dtype)
    pixels[RIGHT] = nodata
    path = write(tmp_path / 'infrared.tif', pixels, nodata=nodata, photometric='RGB', **PLACE)
    tile, _ = reads(path, reference)
    check_half(tile, count)
    assert np.array_equal(tile.image[LEFT], pixels[LEFT])


@pytest.mark.parametrize('inner', [True, False])
def test_infrared_with_a_mask(reference, tmp_path, inner):
    "A mask in the file, and a mask in a .msk file beside it."
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inner):
        path = write(tmp_path / 'a.tif', bands(), mask=LEFT, photometric='MINISBLACK', **PLACE)
    assert path.with_name('a.tif.msk').exists() != inner
    check_half(reads(path, reference)[0], 4)


def test_infrared_without_no_data(reference, tmp_path):
    for n, dtype in enumerate(('uint8', 'uint16')):
        path = write(tmp_path / f'{n}.tif', bands().astype(dtype), photometric='RGB', **PLACE)
        tile, _ = reads(path, reference)
        assert tile.in_channels == 4 and tile.valid is None
        assert np.array_equal(tile.image, bands()) and np.array_equal(tile.labels, LABELS)


OPACITY = {
    'RGBA': (3, 'uint8', 255, 'GTiff', {'photometric': 'RGB'}),
    '16 bit': (3, 'uint16', 65535, 'GTiff', {'photometric': 'RGB'}),
    '16 bit with 255': (3, 'uint16', 255, 'GTiff', {'photometric': 'RGB'}),
    'premultiplied': (3, 'uint8', 255, 'GTiff', {'photometric': 'RGB', 'ALPHA': 'PREMULTIPLIED'}),
    'grey': (1, 'uint8', 255, 'GTiff', {}),
    'four bands': (4, 'uint8', 255, 'GTiff', {'photometric': 'RGB'}),
    'planes': (3, 'uint8', 255, 'GTiff', {'photometric': 'RGB', 'interleave': 'band', 'tiled': True}),
    'png': (3, 'uint8', 255, 'PNG', {}),
    'grey png': (1, 'uint8', 255, 'PNG', {}),
    'webp': (3, 'uint8', 255, 'WEBP', {'LOSSLESS': True}),
}


@pytest.mark.parametrize('name', OPACITY)
def test_transparent_is_no_data(reference, tmp_path, name):
    count, dtype, most, driver, more = OPACITY[name]
    pixels = np.dstack([bands()[..., :count], np.where(LEFT, most, 0)]).astype(dtype)
    place = PLACE if driver == 'GTiff' else {}
    path = write(tmp_path / 'a', pixels, driver, alpha=driver == 'GTiff', **place, **more)
    tile, _ = reads(path, reference)
    check_half(tile, count)
    assert np.array_equal(tile.image[LEFT], pixels[LEFT][:, :count])


def test_half_transparent_is_data(reference, tmp_path):
    "The soft edge of a mosaic is seen through: only what is wholly transparent is no data."
    opacity = np.where(LEFT, 255, 0)
    opacity[:5] = np.where(LEFT[:5], 1, 0)
    path = write(tmp_path / 'a.tif', np.dstack([IMAGE, opacity]).astype(np.uint8), alpha=True, **PLACE)
    check_half(reads(path, reference)[0], 3)


def test_maps_of_transparent_images(eight, tmp_path):
    "Nothing is mapped where there is nothing, whatever colour lies beneath, and the other half does not care."
    maps = []
    for colour in (0, 255, 77):
        pixels = np.dstack([IMAGE, np.where(LEFT, 255, 0)]).astype(np.uint8)
        pixels[RIGHT, :3] = colour
        path = write(tmp_path / f'{colour}.tif', pixels, alpha=True, **PLACE)
        maps.append(predicted(eight[0], path, tmp_path / 'map.tif')[0])
        assert (maps[-1][RIGHT] == 255).all() and (maps[-1][LEFT] < 6).all()
    assert np.array_equal(maps[0], maps[1]) and np.array_equal(maps[0], maps[2])


def test_masks_beside_and_in_jpeg(reference, tmp_path):
    "JPEG in GeoTIFF with a mask, and a plain JPEG with a .msk file."
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        inner = write(tmp_path / 'a.tif', IMAGE, mask=LEFT, compress='jpeg', photometric='ycbcr', **PLACE)
    check_half(reads(inner, reference)[0], 3)
    Image.fromarray(IMAGE).save(tmp_path / 'b.jpg', quality=95)
    write(tmp_path / 'b.jpg.msk', (LEFT * 255).astype(np.uint8))
    tile, _ = reads(tmp_path / 'b.jpg')
    assert tile.in_channels == 3


def test_png_with_a_transparent_colour(tmp_path):
    "tRNS names one colour of an RGB image, or one entry of a palette."
    pixels = np.maximum(IMAGE, 1)
    pixels[RIGHT] = 0
    Image.fromarray(pixels).save(tmp_path / 'rgb.png', transparency=(0, 0, 0))
    tile, _ = reads(tmp_path / 'rgb.png')
    assert tile.in_channels == 3 and np.array_equal(tile.valid, LEFT)
    index = Image.fromarray(np.where(LEFT, LABELS + 1, 0).astype(np.uint8), mode='P')
    index.putpalette(np.array([(0, 0, 0), *ISPRS.colours], np.uint8).tobytes())
    index.save(tmp_path / 'index.png', transparency=0)
    tile, _ = reads(tmp_path / 'index.png')
    assert tile.in_channels == 3 and np.array_equal(tile.valid, LEFT)


# 5  Holes

HOLE = np.zeros(SIZE, bool)
HOLE[60:110, 70:140] = True


def holed(fill, dtype=np.uint8, only=None):
    "The scene with a hole of a fill value; in one band only, if one is named."
    pixels = np.clip(IMAGE, 1, 254).astype(dtype)
    if only is None:
        pixels[HOLE] = fill
    else:
        pixels[..., only][HOLE] = fill
    return pixels


def test_the_fill_value_does_not_matter(eight, tmp_path):
    "Around the hole the map is the same for every fill value and every way to tell: its pixels are never looked at."
    files = {}
    for fill in (0, 255):
        files[fill] = write(tmp_path / f'{fill}.tif', holed(fill), nodata=fill, **PLACE)
    files['mask'] = write(tmp_path / 'mask.tif', holed(128), mask=~HOLE, **PLACE)
    files['opacity'] = write(
        tmp_path / 'opacity.tif',
        np.dstack([holed(200), np.where(HOLE, 0, 255)]).astype(np.uint8),
        alpha=True,
        **PLACE,
    )
    maps = {name: predicted(eight[0], path, tmp_path / 'map.tif')[0] for name, path in files.items()}
    for name, found in maps.items():
        assert (found[HOLE] == 255).all() and (found[~HOLE] < 6).all(), name
        assert np.array_equal(found, maps[0]), name


@pytest.mark.parametrize('method', ['blend', 'patches', 'exact'])
def test_holes_in_memory_and_in_windows(eight, tmp_path, method):
    "A map that is made window by window is the map of the whole image, holes included."
    path = write(tmp_path / 'a.tif', holed(0), nodata=0, **PLACE)
    found, _ = predicted(eight[0], path, tmp_path / 'map.tif', '--method', method)
    assert (found[HOLE] == 255).all() and (found[~HOLE] < 6).all()
    if method == 'exact':
        small, _ = predicted(eight[0], path, tmp_path / 'small.tif', '--memory', '0.004')
        assert np.mean(small == found) > 0.9999  # sums in another order


def test_neighbours_of_a_hole_are_unharmed(eight, tmp_path):
    "Near the hole the map stays beside that of the whole image: fill values cost 13 to 63 of a hundred pixels, the nearest pixel few."
    whole, _ = predicted(eight[0], eight[1], tmp_path / 'whole.tif')
    ring = maximum_filter(HOLE, 11) & ~HOLE
    same = {}
    for name, profile in {'told': {'nodata': 0}, 'untold': {}}.items():
        path = write(tmp_path / f'{name}.tif', holed(0), **PLACE, **profile)
        found, _ = predicted(eight[0], path, tmp_path / 'map.tif')
        same[name] = np.mean(found[ring] == whole[ring])
    assert same['told'] > same['untold'] and same['told'] > 0.75


@pytest.mark.parametrize(
    ('dtype', 'fill', 'nodata'),
    [
        ('uint16', 65535, 65535),
        ('uint16', 0, 0),
        ('int16', -9999, -9999),
        ('int32', -2147483648, -2147483648),
        ('float32', -9999, -9999),
        ('float32', np.nan, np.nan),
        ('float32', np.nan, None),
        ('float32', np.inf, None),
        ('float64', -1e30, -1e30),
        ('float32', -3.4028234663852886e38, -3.4028234663852886e38),
    ],
)
def test_holes_of_every_type(reference, tmp_path, dtype, fill, nodata):
    path = write(tmp_path / 'a.tif', holed(fill, dtype), nodata=nodata, **PLACE)
    tile, _ = reads(path, reference)
    assert np.array_equal(tile.valid, ~HOLE)
    assert (tile.labels[HOLE] == 255).all() and np.array_equal(tile.labels[~HOLE], LABELS[~HOLE])


def test_a_hole_does_not_move_the_range(tmp_path):
    "-9999 in a third of the image is not part of its brightness."
    kept, reference = [], write_reference(tmp_path / 'reference.tif')
    for name, pixels in [
        ('holed', holed(-9999, np.int16)),
        ('whole', np.clip(IMAGE, 1, 254).astype(np.int16)),
    ]:
        path = write(tmp_path / f'{name}.tif', pixels, nodata=-9999, **PLACE)
        model, _ = trained(tmp_path, name, path, reference, '--epochs', 1)
        kept.append(load_tensors(model)[1]['values'])
    assert np.allclose(kept[0]['low'], kept[1]['low'], atol=15) and min(kept[0]['low']) > -1
    assert np.allclose(kept[0]['high'], kept[1]['high'], atol=15)


def test_no_data_in_one_band_only(reference, tmp_path):
    "NaN in one band is no data: a network needs all bands."
    path = write(tmp_path / 'a.tif', holed(np.nan, np.float32, only=1), **PLACE)
    tile, _ = reads(path, reference)
    assert np.array_equal(tile.valid, ~HOLE)


def test_nan_everywhere_is_refused(image, reference, tmp_path):
    path = write(tmp_path / 'nan.tif', np.full((*SIZE, 3), np.nan, np.float32), **PLACE)
    words = ['train', path, reference, '--out', tmp_path / 'no.safetensors', *QUICK]
    check_refusal([tmp_path], words, ['no scored pixel'])


# 6  References of one band of class numbers


def numbers(dtype='uint8', add=0):
    return (LABELS.astype(np.int64) + add).astype(dtype)


def _palette_file(path, about):
    path.write_text(json.dumps(about))
    return path


@pytest.mark.parametrize(
    'dtype', ['uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'float32', 'float64']
)
def test_class_numbers_of_every_type(image, tmp_path, dtype):
    path = write(tmp_path / 'numbers.tif', numbers(dtype), **PLACE)
    assert np.array_equal(reads(image, path, NUMBERS)[0].labels, LABELS)


def test_class_numbers_with_no_data(image, tmp_path):
    for n, (dtype, nodata) in enumerate(
        [('int16', -9999), ('uint8', 255), ('int16', -1), ('float32', np.nan)]
    ):
        stored = numbers(dtype)
        stored[HOLE] = nodata
        path = write(tmp_path / f'{n}.tif', stored, nodata=nodata, **PLACE)
        labels = reads(image, path, NUMBERS)[0].labels
        assert (labels[HOLE] == 255).all() and np.array_equal(labels[~HOLE], LABELS[~HOLE])


def test_class_numbers_from_1(image, tmp_path):
    "0 is no class here, whether the file declares it as no data or not; a number that nobody named is refused."
    stored = numbers(add=1)
    stored[HOLE] = 0
    for n, profile in enumerate([{}, {'nodata': 0}]):
        path = write(tmp_path / f'{n}.tif', stored, **PLACE, **profile)
        labels = reads(image, path, FROM_1)[0].labels
        assert (labels[HOLE] == 255).all() and np.array_equal(labels[~HOLE], LABELS[~HOLE])
    unnamed = Palette(ISPRS.names, ISPRS.colours, values=range(1, 7))
    refuses(['0.tif', '0', f'{HOLE.sum()} pixels'], image, tmp_path / '0.tif', unnamed)


BUILDING = (LABELS == 1).astype(np.uint8)


def test_two_classes(image, tmp_path):
    "0/1, 0/255, and one bit in PNG and in GeoTIFF."
    masks = Palette(('ground', 'building'), ('#000000', '#ff0000'), values=(0, 255))
    files = [
        (write(tmp_path / '1.tif', BUILDING, **PLACE), TWO),
        (write(tmp_path / '255.tif', BUILDING * 255, **PLACE), masks),
        (write(tmp_path / 'bit.tif', BUILDING, nbits=1, **PLACE), TWO),
    ]
    Image.fromarray(BUILDING * 255).convert('1').save(tmp_path / 'bit.png')
    Image.fromarray(BUILDING * 255).save(tmp_path / '255.png')
    Image.fromarray(BUILDING).save(tmp_path / '1.png')
    files += [(tmp_path / '255.png', masks), (tmp_path / '1.png', TWO)]
    for path, palette in files:
        assert np.array_equal(reads(image, path, palette)[0].labels, BUILDING), path.name
    for palette in (TWO, masks):  # a bit has no number of its own: GDAL says 0 and 1, Pillow 0 and 255
        with suppress(ValueError):
            assert np.array_equal(reads(image, tmp_path / 'bit.png', palette)[0].labels, BUILDING)


def test_numbers_need_a_palette_that_names_them(image, tmp_path):
    "A palette of colours says nothing about numbers: nothing is guessed, and the remedy is named."
    for name, stored in {'a': numbers(), 'b': BUILDING, 'c': BUILDING * 255, 'd': numbers('int16')}.items():
        path = write(tmp_path / f'{name}.tif', stored, **PLACE)
        refuses([f'{name}.tif', 'unetkit palette'], image, path, ISPRS)


def test_numbers_outside_of_the_palette(image, tmp_path):
    for number, dtype in [(17, 'uint8'), (-3, 'int16'), (70000, 'int32'), (2.5, 'float32')]:
        stored = numbers(dtype)
        stored[5, 7] = number
        path = write(tmp_path / f'{dtype}.tif', stored, **PLACE)
        refuses([f'{dtype}.tif', str(number)], image, path, NUMBERS)


def test_palettes_of_an_indexed_reference(image, tmp_path):
    "By numbers if the palette has numbers, by colours if not; fewer than 256 entries."
    table = {n: colour for n, colour in enumerate(ISPRS.colours)}
    path = write(tmp_path / 'index.tif', numbers(), colours=table, **PLACE)
    index = Image.fromarray(numbers(), mode='P')
    index.putpalette(np.array(ISPRS.colours, np.uint8).tobytes())
    index.save(tmp_path / 'index.png', bits=4)
    other = Palette(ISPRS.names, [(n, n, 9) for n in range(6)], values=range(6))
    for file in (path, tmp_path / 'index.png'):
        for palette in (ISPRS, NUMBERS, other):
            assert np.array_equal(reads(image, file, palette)[0].labels, LABELS)


def test_palette_files_with_numbers(image, tmp_path):
    "From the JSON file through the commands to the map."
    reference = write(tmp_path / 'reference.tif', numbers(add=1), **PLACE)
    classes = {
        name: {'value': n + 1, 'colour': '#%02x%02x%02x' % ISPRS.colours[n]}
        for n, name in enumerate(ISPRS.names)
    }
    palette = _palette_file(tmp_path / 'palette.json', {'classes': classes, 'ignored': [0]})
    model = tmp_path / 'm.safetensors'
    command('train', image, reference, '--palette', palette, '--out', model, *QUICK)
    assert accuracy(model, image, reference) > 0
    for n, fault in enumerate(
        [
            {'classes': {'a': {'value': 1, 'colour': '#000000'}, 'b': {'value': 1, 'colour': '#ffffff'}}},
            {'classes': {'a': {'value': 'x', 'colour': '#000000'}}},
            {'classes': {'a': {'value': 1.5, 'colour': '#000000'}}},
            {'classes': {'a': {'value': 1}, 'b': '#ffffff'}},
            {'classes': {'a': {'value': True, 'colour': '#000000'}}},
            {'classes': {'a': {'value': 1, 'colour': '#000000', 'more': 1}}},
        ]
    ):
        bad = _palette_file(tmp_path / f'bad{n}.json', fault)
        words = ['train', image, reference, '--palette', bad, '--out', tmp_path / 'no.safetensors', *QUICK]
        check_refusal([tmp_path], words, [f'bad{n}.json'])


def test_draft_of_a_palette(image, tmp_path):
    "`unetkit palette` lists what a reference holds, and what it writes can be used."
    files = [
        write(tmp_path / 'numbers.tif', numbers('int16', 1), **PLACE),
        write_reference(tmp_path / 'colours.tif'),
    ]
    for n, reference in enumerate(files):
        out = tmp_path / f'{n}.json'
        command('palette', reference, '--out', out)
        found = json.loads(out.read_text())['classes']
        assert len(found) == len(np.unique(LABELS))
        command('train', image, reference, '--palette', out, '--out', tmp_path / f'{n}.safetensors', *QUICK)


def test_draft_from_colour_tables_in_different_orders(image, tmp_path):
    "A program that saves masks with as few colours as it can numbers them anew in each file: colours decide, and that is said."
    files, orders = [], ([0, 1, 2, 3, 4, 5], [3, 5, 1, 0, 4, 2])
    for n, order in enumerate(orders):
        table = {number: ISPRS.colours[index] for number, index in enumerate(order)}
        stored = np.argsort(order).astype(np.uint8)[LABELS]
        files.append(write(tmp_path / f'{n}.tif', stored, colours=table, **PLACE))
    out = tmp_path / 'palette.json'
    _, notes = command('palette', *files, '--out', out)
    assert '1.tif: number 0 has the colour' in notes[0] and 'all are read by their colours' in notes[0]
    draft = read_palette(out)
    assert draft.values is None and {*draft.names} == {ISPRS.names[index] for index in np.unique(LABELS)}
    for path in files:
        labels = reads(image, path, draft)[0].labels
        assert np.array_equal(np.array([ISPRS.names.index(name) for name in draft.names])[labels], LABELS)
    bare = write(tmp_path / 'bare.tif', numbers(), **PLACE)
    words = ['palette', *files, bare, '--out', tmp_path / 'no.json']
    check_refusal([tmp_path], words, ['1.tif', 'files without a colour table', 'one palette for each kind'])


def test_transparent_reference(image, tmp_path):
    "What can be seen through is not scored, wholly or in part."
    colours = np.dstack([labels_to_colours(LABELS, ISPRS), np.full(SIZE, 255, np.uint8)])
    colours[HOLE] = (9, 9, 9, 0)
    colours[:10, :, 3] = 128
    Image.fromarray(colours).save(tmp_path / 'a.png')
    labels = reads(image, tmp_path / 'a.png')[0].labels
    seen = HOLE.copy()
    seen[:10] = True
    assert (labels[seen] == 255).all() and np.array_equal(labels[~seen], LABELS[~seen])


# 7  Polygons

BOXES = [('building', 20, 30, 60, 80), ('tree', 100, 10, 150, 90), ('low vegetation', 130, 60, 180, 200)]
DRAWN = np.full(SIZE, 255, np.uint8)  # rows, columns: top, left, bottom, right; later ones on top
for box_name, box_top, box_left, box_bottom, box_right in BOXES:
    DRAWN[box_top:box_bottom, box_left:box_right] = ISPRS.names.index(box_name)


def ring(top, left, bottom, right, grid=GRID):
    "The corners of a rectangle of pixels, closed."
    return [
        list(grid @ corner)
        for corner in [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    ]


def collection(features, crs=UTM):
    about = {'type': 'FeatureCollection', 'features': features}
    return about | ({'crs': {'type': 'name', 'properties': {'name': crs}}} if crs else {})


def feature(geometry, **properties):
    return {'type': 'Feature', 'geometry': geometry, 'properties': properties}


def polygon(*rings):
    return {'type': 'Polygon', 'coordinates': list(rings)}


def geojson(path, features, crs=UTM):
    path.write_text(json.dumps(collection(features, crs)))
    return path


def boxes(**more):
    return [feature(polygon(ring(*box)), kind=name, **more) for name, *box in BOXES]


def test_geojson(image, tmp_path):
    path = geojson(tmp_path / 'a.geojson', boxes(id=3))
    tile, said = reads(image, path, label_column='kind')
    assert np.array_equal(tile.labels, DRAWN)
    tile, _ = reads(image, path, label_column='kind', background='impervious')
    assert np.array_equal(tile.labels, np.where(DRAWN == 255, 0, DRAWN))


def test_geojson_in_degrees(image, tmp_path):
    "Without a coordinate system GeoJSON is in degrees, longitude first."

    def degrees(corners):
        xs, ys = rasterio.warp.transform(UTM, 'EPSG:4326', *zip(*corners))
        return [list(pair) for pair in zip(xs, ys)]

    features = [feature(polygon(degrees(ring(*box))), kind=name) for name, *box in BOXES]
    tile, _ = reads(image, geojson(tmp_path / 'a.geojson', features, None), label_column='kind')
    sure = inside(DRAWN, 1)
    assert np.array_equal(tile.labels[sure], DRAWN[sure])


@pytest.mark.parametrize(
    ('suffix', 'driver'), [('gpkg', 'GPKG'), ('shp', 'ESRI Shapefile'), ('geojson', 'GeoJSON')]
)
@pytest.mark.parametrize('crs', [UTM, 'EPSG:4326'])
def test_vector_files(image, tmp_path, suffix, driver, crs):
    write_vectors(tmp_path / f'a.{suffix}', driver, crs, [name for name, *_ in BOXES])
    tile, _ = reads(image, tmp_path / f'a.{suffix}', label_column='kind')
    sure = inside(DRAWN, 1)
    assert np.array_equal(tile.labels[sure], DRAWN[sure])


def write_vectors(path, driver, crs, kinds):
    "Write the boxes with pyogrio."
    pyogrio = pytest.importorskip('pyogrio', reason='unetkit[vector] is not installed')
    corners = [ring(*box) for _, *box in BOXES]
    if crs != UTM:
        corners = [list(zip(*rasterio.warp.transform(UTM, crs, *zip(*one)))) for one in corners]
    geometry = np.array(
        [struct.pack(f'<BIII{2 * 5}d', 1, 3, 1, 5, *np.ravel(one)) for one in corners], object
    )
    data = [np.array(kinds, object if isinstance(kinds[0], str) else None), np.arange(len(kinds))]
    pyogrio.raw.write(path, geometry, data, ['kind', 'n'], geometry_type='Polygon', crs=crs, driver=driver)


def test_class_columns_of_numbers(image, tmp_path):
    "Numbers, and texts that are numbers, name classes by their values."
    values = [NUMBERS.names.index(name) for name, *_ in BOXES]
    for n, kinds in enumerate([values, [str(v) for v in values], [float(v) for v in values]]):
        features = [feature(polygon(ring(*box[1:])), kind=kind) for box, kind in zip(BOXES, kinds)]
        path = geojson(tmp_path / f'{n}.geojson', features)
        assert np.array_equal(reads(image, path, NUMBERS, label_column='kind')[0].labels, DRAWN), kinds


def test_columns_that_do_not_fit(image, tmp_path):
    path = geojson(tmp_path / 'a.geojson', boxes(owner='me'))
    refuses(['a.geojson', 'colour', 'kind', 'owner'], image, path, ISPRS, label_column='colour')
    tile, said = reads(image, path)  # of the two columns only one names classes
    assert np.array_equal(tile.labels, DRAWN) and 'kind' in said
    twice = geojson(tmp_path / 'c.geojson', [*boxes(other='tree')])
    refuses(['c.geojson', 'kind', 'other', 'label-column'], image, twice, ISPRS)
    strange = geojson(tmp_path / 'b.geojson', [*boxes(), feature(polygon(ring(0, 0, 5, 5)), kind='lake')])
    refuses(['b.geojson', 'lake'], image, strange, ISPRS, label_column='kind')
    refuses(['background', 'sea'], image, path, ISPRS, label_column='kind', background='sea')


def test_shapes_of_many_parts(image, tmp_path):
    "A hole, two parts, a collection, an empty and a missing geometry, and corners with heights."
    hole = polygon(ring(20, 30, 60, 80), ring(30, 40, 50, 70))
    both = {
        'type': 'MultiPolygon',
        'coordinates': [[ring(0, 0, 9, 9)], [ring(70, 70, 80, 90), ring(72, 72, 78, 80)]],
    }
    high = polygon([[*corner, 312.5] for corner in ring(160, 160, 170, 170)])
    nest = {'type': 'GeometryCollection', 'geometries': [polygon(ring(180, 0, 190, 10))]}
    features = [feature(one, kind='tree') for one in (hole, both, high, nest, polygon(), None)]
    expected = np.full(SIZE, 255, np.uint8)
    expected[20:60, 30:80] = 3
    expected[30:50, 40:70] = 255
    expected[:9, :9] = expected[160:170, 160:170] = expected[180:190, :10] = 3
    expected[70:80, 70:90] = 3
    expected[72:78, 72:80] = 255
    tile, said = reads(image, geojson(tmp_path / 'a.geojson', features), label_column='kind')
    assert np.array_equal(tile.labels, expected)


def test_one_polygon_file_for_chips_of_which_some_hold_none(tmp_path):
    "Where the ground outside has a class, a chip without polygons is all of that class, which is said once."
    chips = tmp_path / 'chips'
    chips.mkdir()
    for row in (0, 64, 128):
        place = dict(crs=UTM, transform=GRID @ Affine.translation(0, row))
        write(chips / f'{row}.tif', IMAGE[row : row + 64], **place)
    boxes = [feature(polygon(ring(10, 20, 40, 50)), kind='building')]
    path = geojson(tmp_path / 'a.geojson', boxes)
    tiles, said = reads(chips, path, background='tree')
    labels = np.full(SIZE, 3, np.uint8)
    labels[10:40, 20:50] = 1
    assert np.array_equal(np.concatenate([tiles[at].labels for at in (0, 2, 1)]), labels)
    assert said == f"{path} has no polygon on at least 2 of 3 images: all of each is 'tree'"
    with warnings.catch_warnings(record=True):
        found = inspect(chips, path, ISPRS, reading=Reading(background='tree'))
    assert not found.faults and [text for text in found.remarks if 'on at least 2 of 3 images' in text]
    assert found.counts == np.bincount(labels.ravel(), minlength=6).tolist()
    refuses(['a.geojson', 'do not meet', 'columns 20'], chips, path, ISPRS)
    refuses(['a.geojson', 'do not meet', 'columns 20'], chips / '64.tif', path, ISPRS, background='tree')
    far = geojson(tmp_path / 'far.geojson', [feature(polygon(ring(900, 0, 990, 90)), kind='building')])
    refuses(['far.geojson and the 3 images do not meet'], chips, far, ISPRS, background='tree')
    around = [feature(polygon(ring(top, 20, top + 20, 50)), kind='building') for top in (10, 150)]
    path = geojson(tmp_path / 'around.geojson', around)
    tiles, said = reads(chips, path, background='tree')
    assert said == f"{path} has no polygon on at least 1 of 3 images: all of each is 'tree'"
    assert [bool((tiles[at].labels == 1).any()) for at in (0, 2, 1)] == [True, False, True]


def test_points_and_lines_are_no_areas(image, tmp_path):
    for kind, at in [('Point', GRID @ (5, 5)), ('LineString', [GRID @ (5, 5), GRID @ (50, 50)])]:
        path = geojson(
            tmp_path / f'{kind}.geojson', [feature({'type': kind, 'coordinates': at}, kind='tree')]
        )
        refuses([f'{kind}.geojson', kind], image, path, ISPRS, label_column='kind')


def test_polygons_elsewhere(image, tmp_path):
    far = [feature(polygon(ring(*np.add(box, 9000))), kind=name) for name, *box in BOXES]
    path = geojson(tmp_path / 'far.geojson', far)
    words = ['train', image, path, '--label-column', 'kind', '--out', tmp_path / 'no.safetensors', *QUICK]
    check_refusal([tmp_path], words, ['far.geojson'])
    Image.fromarray(IMAGE).save(tmp_path / 'nowhere.png')
    near = geojson(tmp_path / 'near.geojson', boxes())
    refuses(['nowhere.png'], tmp_path / 'nowhere.png', near, ISPRS, label_column='kind')


def test_all_touched(image, tmp_path):
    "A box whose edges cut pixels: by their middles, or all of them."
    path = geojson(tmp_path / 'a.geojson', [feature(polygon(ring(20.8, 30.8, 40.2, 50.2)), kind='tree')])
    for touched, (first, last) in {False: (21, 40), True: (20, 41)}.items():
        labels = reads(image, path, label_column='kind', all_touched=touched)[0].labels
        rows = np.flatnonzero((labels == 3).any(1))
        assert (rows.min(), rows.max() + 1) == (first, last)


def labelme(path, shapes, size=SIZE):
    about = {'version': '5.0', 'imagePath': 'a.png', 'imageHeight': size[0], 'imageWidth': size[1]}
    path.write_text(json.dumps(about | {'shapes': shapes, 'flags': {}, 'imageData': None}))
    return path


def corners(top, left, bottom, right):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_labelme(image, tmp_path):
    "Corners in pixels of the image; rectangles by two of them."
    shapes = [dict(label=name, points=corners(*box), shape_type='polygon') for name, *box in BOXES]
    assert np.array_equal(reads(image, labelme(tmp_path / 'a.json', shapes))[0].labels, DRAWN)
    boxes = [
        dict(label=n, points=[[left, top], [right, low]], shape_type='rectangle')
        for n, top, left, low, right in BOXES
    ]
    assert np.array_equal(reads(image, labelme(tmp_path / 'b.json', boxes))[0].labels, DRAWN)
    refuses(['c.json', 'lake'], image, labelme(tmp_path / 'c.json', [shapes[0] | {'label': 'lake'}]), ISPRS)
    refuses(['d.json', '17 x 19'], image, labelme(tmp_path / 'd.json', shapes, (17, 19)), ISPRS)


def coco(path, annotations, name='image.tif', size=SIZE):
    about = {
        'images': [
            {'id': 7, 'file_name': name, 'height': size[0], 'width': size[1]},
            {'id': 8, 'file_name': 'other.tif', 'height': 10, 'width': 10},
        ],
        'categories': [{'id': n + 1, 'name': name} for n, name in enumerate(ISPRS.names)],
        'annotations': annotations,
    }
    path.write_text(json.dumps(about))
    return path


def annotation(name, *box, image_id=7):
    flat = [number for corner in corners(*box) for number in corner]
    category = ISPRS.names.index(name) + 1
    return dict(id=1, image_id=image_id, category_id=category, segmentation=[flat], iscrowd=0)


def test_coco(image, tmp_path):
    "The polygons of this image only, by the names of their categories."
    found = [annotation(*box) for box in BOXES]
    path = coco(tmp_path / 'a.json', [*found, annotation('car', 0, 0, 9, 9, image_id=8)])
    assert np.array_equal(reads(image, path)[0].labels, DRAWN)
    refuses(['b.json', 'image.tif'], image, coco(tmp_path / 'b.json', found, 'elsewhere.tif'), ISPRS)
    refuses(['c.json', '17 x 19'], image, coco(tmp_path / 'c.json', found, size=(17, 19)), ISPRS)


def test_coco_run_lengths(image, tmp_path):
    "Uncompressed run lengths go down the columns, not-there first."
    box = np.zeros(SIZE, np.uint8)
    box[20:60, 30:80] = 1
    flat = box.T.ravel()
    cuts = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *cuts, flat.size]).tolist()
    one = annotation(*BOXES[0]) | {'segmentation': {'size': list(SIZE), 'counts': counts}, 'iscrowd': 1}
    path = coco(tmp_path / 'a.json', [one])
    try:
        labels = reads(image, path)[0].labels
    except ValueError as error:
        assert 'a.json' in str(error) and 'RLE' in str(error) or 'run' in str(error)
    else:
        assert np.array_equal(labels == 1, box == 1)


def test_polygons_through_the_commands(image, tmp_path):
    "Train on polygons, score against them, and nothing outside them counts."
    path = geojson(tmp_path / 'a.geojson', boxes())
    model = tmp_path / 'm.safetensors'
    words = ['train', image, path, '--label-column', 'kind', '--out', model, *QUICK]
    command(*words)
    out, _ = command('evaluate', model, image, path, '--label-column', 'kind')
    assert 'accuracy' in out
    same = write_reference(tmp_path / 'same.tif', DRAWN)
    assert command('evaluate', model, image, same)[0] == out


# 9  Heights, and layers of different types

HEIGHTS = (np.add.outer(np.arange(ROWS), np.arange(COLS)) / 10 + 300).astype(np.float32)


def test_heights_as_one_more_band(image, reference, tmp_path):
    "On the same grid they are as stored; the hole of the model is no data."
    stored = HEIGHTS.copy()
    stored[HOLE] = -9999
    heights = write(tmp_path / 'dsm.tif', stored, nodata=-9999, **PLACE)
    tile, _ = reads(image, reference, height=str(heights))
    assert tile.in_channels == 4 and np.array_equal(tile.valid, ~HOLE)
    assert np.array_equal(tile.image[..., :3], IMAGE) and np.allclose(tile.image[~HOLE][:, 3], HEIGHTS[~HOLE])
    assert (tile.labels[HOLE] == 255).all() and np.array_equal(tile.labels[~HOLE], LABELS[~HOLE])


def test_heights_of_another_grid(image, tmp_path):
    "Coarser heights are laid onto the image and said; heights of other ground are refused."
    coarse = HEIGHTS.reshape(ROWS // 4, 4, COLS // 4, 4).mean((1, 3))
    heights = write(tmp_path / 'dsm.tif', coarse, nodata=-9999, crs=UTM, transform=GRID @ Affine.scale(4))
    tile, said = reads(image, height=str(heights))
    inner = tile.image[8:-8, 8:-8, 3]
    assert (
        'dsm.tif' in said and np.abs(inner - HEIGHTS[8:-8, 8:-8]).max() < 0.4
    )  # a step of the coarse model is 0.4
    far = write(tmp_path / 'far.tif', HEIGHTS, crs=UTM, transform=GRID @ Affine.translation(0, 5000))
    refuses(['far.tif', 'do not meet'], image, height=str(far))
    refuses(['gone.tif'], image, height=str(tmp_path / 'gone.tif'))


def test_heights_in_a_folder(tmp_path):
    for part in ('a', 'b'):
        for kind, pixels in {'images': IMAGE, 'heights': HEIGHTS}.items():
            (tmp_path / kind).mkdir(exist_ok=True)
            write(tmp_path / kind / f'{part}.tif', pixels, **PLACE)
    tiles, _ = reads(tmp_path / 'images', height=str(tmp_path / 'heights'))
    assert [tile.in_channels for tile in tiles] == [4, 4] and np.allclose(tiles[1].image[..., 3], HEIGHTS)


def test_heights_through_the_commands(image, reference, tmp_path):
    "A model of image and heights asks for the heights again."
    heights = write(tmp_path / 'dsm.tif', HEIGHTS, **PLACE)
    model, out = tmp_path / 'm.safetensors', tmp_path / 'map.tif'
    command('train', image, reference, '--height', heights, '--out', model, *QUICK)
    found, _ = predicted(model, image, out, '--height', heights)
    assert (found < 6).all()
    assert accuracy(model, image, reference, '--height', heights) > 0
    check_refusal([tmp_path], ['predict', model, image, '--out', tmp_path / 'no.tif'], ['bands'])
    check_refusal([tmp_path], ['evaluate', model, image, reference], ['bands'])


def test_bands_of_different_types(image, tmp_path):
    "One file per band: 8 bit, 16 bit and fractions, side by side."
    stored = [IMAGE[..., 0], (X[..., 1] * 16).astype(np.uint16), (X[..., 2] / 255).astype(np.float32)]
    files = [write(tmp_path / f'b{n}.tif', one, **PLACE) for n, one in enumerate(stored)]
    tile, said = reads(','.join(map(str, files)))
    assert tile.in_channels == 3 and said == ''
    for band, one in enumerate(stored):
        assert np.allclose(tile.image[..., band], one)
    comma = write(tmp_path / 'a,b.tif', IMAGE, **PLACE)
    assert np.array_equal(reads(comma)[0].image, IMAGE)


def test_bands_that_do_not_fit(image, tmp_path):
    one = write(tmp_path / 'one.tif', IMAGE[..., 0], **PLACE)
    far = write(tmp_path / 'far.tif', IMAGE[..., 1], crs=UTM, transform=GRID @ Affine.translation(9000, 0))
    small = write(tmp_path / 'small.tif', IMAGE[1:, :, 1])
    refuses(['far.tif', 'do not meet'], f'{one},{far}')
    refuses(['small.tif', f'{ROWS - 1} x {COLS}'], f'{one},{small}')
    refuses(['gone.tif'], f'{one},{tmp_path}/gone.tif')


# 10  Pairs

COLOURS = labels_to_colours(LABELS, ISPRS)
CHIPS = [(slice(row, row + 64), slice(col, col + 64)) for row in (0, 64) for col in (0, 64, 128)]


def chips(folder, image_name, reference_name, at=range(3)):
    "Write chips with names that hold their number."
    for n in at:
        for name, pixels in ((image_name, IMAGE), (reference_name, COLOURS)):
            path = folder / name.format(n)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[CHIPS[n]]).save(path)
    return folder


def check_chips(tiles, at=range(3)):
    "Each chip has the labels of its own place, not of another one."
    assert len(tiles) == len(at)
    for n, tile in zip(at, tiles, strict=True):
        assert np.array_equal(tile.labels, LABELS[CHIPS[n]]), tile.name


NAMES = {  # Name -> names of images and references, how they are given, whether it is said
    'image_001 and mask_001': ('images/image_{:03}.png', 'masks/mask_{:03}.png', {}),
    'one folder by endings': ('all/{}_sat.png', 'all/{}_mask.png', {}),
    'one folder by beginnings': ('all/img_{}.png', 'all/label_{}.png', {}),
    'upper case': ('images/tile {}.PNG', 'masks/tile {}.png', {}),
    'other letters': ('Bilder für Ü/Gebäude {}.png', 'Masken/Gebäude {}.png', {}),
    'by a pattern': ('all/x{}IMG.png', 'all/MSK{}.png', {'pairs': 'x*IMG.png:MSK*.png'}),
    'pattern of folders': ('all/a/{}.png', 'all/b/{}_L.png', {'pairs': 'a/*.png:b/*_L.png'}),
}


@pytest.mark.parametrize('name', NAMES)
def test_pairs(tmp_path, name):
    image_name, reference_name, how = NAMES[name]
    chips(tmp_path, image_name, reference_name)
    folders = [tmp_path / one.split('/')[0] for one in (image_name, reference_name)]
    tiles, _ = reads(*folders, **how)
    check_chips(tiles)


def test_numbers_of_different_lengths(tmp_path):
    "2 and 12 are not the same chip."
    for n, number in enumerate((2, 12, 22)):
        for folder, name, pixels in (('a', f'im{number}', IMAGE), ('b', f'seg{number}', COLOURS)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels[CHIPS[n]]).save(tmp_path / folder / f'{name}.png')
    tiles, _ = reads(tmp_path / 'a', tmp_path / 'b')
    order = sorted(range(3), key=lambda n: f'im{(2, 12, 22)[n]}.png')
    check_chips(tiles, order)


def test_hidden_files_and_links(tmp_path):
    "Hidden files are no chips; a link is the file it leads to."
    chips(tmp_path, 'a/{}.png', 'b/{}.png')
    (tmp_path / 'a' / '._0.png').write_bytes(b'\0' * 40)
    (tmp_path / 'a' / '.DS_Store').write_bytes(b'\0')
    (tmp_path / 'a' / 'Thumbs.db').write_bytes(b'\0')
    (tmp_path / 'far').mkdir()
    os.replace(tmp_path / 'a' / '2.png', tmp_path / 'far' / 'elsewhere.png')
    os.symlink(tmp_path / 'far' / 'elsewhere.png', tmp_path / 'a' / '2.png')
    check_chips(reads(tmp_path / 'a', tmp_path / 'b')[0])


def test_pairs_that_are_not_clear(tmp_path):
    "A chip without a partner, two of one stem, names that say nothing, and a broken link: refused by name."
    chips(tmp_path, 'a/{}.png', 'b/{}.png')
    (tmp_path / 'b' / '1.png').unlink()
    refuses(['1', 'partner'], tmp_path / 'a', tmp_path / 'b', ISPRS)
    chips(tmp_path, 'twice/{}.png', 'twice/{}.tif')
    refuses(['0.png', '0.tif'], tmp_path / 'twice', tmp_path / 'b', ISPRS)
    chips(tmp_path, 'odd/q{}w.png', 'odd/zz{}.png')
    refuses(['--pairs'], tmp_path / 'odd', tmp_path / 'odd', ISPRS)
    refuses(['IMAGES:REFERENCES'], tmp_path / 'a', tmp_path / 'a', ISPRS, pairs='*.png')
    refuses(['no file'], tmp_path / 'a', tmp_path / 'a', ISPRS, pairs='*.jpg:*.png')


def listed(path, text, encoding='utf-8'):
    path.write_bytes(text.encode(encoding))
    return path


def test_pairs_belong_to_folders(image, reference, tmp_path):
    "For a file or a list a pattern means nothing; beside a file to validate on, it is for the folder."
    both, pattern = (
        listed(tmp_path / 'a.csv', f'image,reference\n{image},{reference}\n'),
        'x*IMG.png:MSK*.png',
    )
    for first in (both, image, f'{image},{image}'):
        refuses(['is no folder', pattern, 'leave them out'], first, reference, ISPRS, pairs=pattern)
    chips(tmp_path, 'all/x{}IMG.png', 'all/MSK{}.png')
    tiles, valid = training_tiles(
        tmp_path / 'all', tmp_path / 'all', ISPRS, Reading(pairs=pattern), image, reference
    )
    assert (len(tiles), len(valid)) == (3, 1)


def test_report_refuses_validation_images(tmp_path):
    "They would be left out in silence: the report keeps a part of the training images."
    for role, at in {'train': range(3), 'val': [3], 'test': [4]}.items():
        chips(tmp_path, f'set/{role}/images/{{}}.png', f'set/{role}/masks/{{}}.png', at)
    words = ['report', '--out', tmp_path / 'out', *QUICK[4:]]
    for role in ('train', 'test'):
        words += [f'--{role}-image', tmp_path / 'set', f'--{role}-reference', tmp_path / 'set']
    check_refusal([tmp_path], words, ['a folder of validation images', 'or use train'])


def test_lists_of_pairs(tmp_path):
    "As a spreadsheet saves them: with a mark of its encoding, Windows line ends, quotes."
    chips(tmp_path, 'a/{}.png', 'b/other {}.png')
    rows = [f'a/{n}.png,"b/other {n}.png"' for n in range(3)]
    for n, (text, encoding) in enumerate(
        [
            ('\n'.join(['image,reference', *rows]), 'utf-8-sig'),
            ('\r\n'.join(['image,reference', *rows, '']), 'utf-8'),
        ]
    ):
        path = listed(tmp_path / f'{n}.csv', text, encoding)
        check_chips(reads(path, path)[0])
    extra = listed(
        tmp_path / 'more.csv',
        '\n'.join(['n,reference,image', *(f'{n},b/other {n}.png,a/{n}.png' for n in range(3))]),
    )
    check_chips(reads(extra, extra)[0])


@pytest.mark.parametrize(
    'text',
    ['image;reference\na/0.png;b/0.png\n', 'a/0.png,b/0.png\n', '', 'image,reference\n', 'image,reference\na/0.png\n',
     'image,reference\na/0.png,b/9.png\n', 'image,reference\na/0.png,b/0.png\na/0.png,b/1.png\n', 'image,reference\n\0,b\n'],
    ids=['semicolon', 'no header', 'empty', 'no line', 'half a line', 'no such file', 'twice', 'zero'],
)  # fmt: skip
def test_lists_that_cannot_be_read(tmp_path, text):
    chips(tmp_path, 'a/{}.png', 'b/{}.png')
    path = listed(tmp_path / 'list.csv', text)
    words = ['train', path, path, '--out', tmp_path / 'no.safetensors', *QUICK]
    check_refusal([tmp_path], words, ['list.csv'])


def test_train_val_test_folders(tmp_path):
    "The validation folder is used as such: no window of it is trained on, none of `train` validates."
    for role, at in {'train': range(4), 'val': [4], 'test': [5]}.items():
        chips(tmp_path, f'images/{role}/{{}}.png', f'masks/{role}/{{}}.png', at)
    model = tmp_path / 'm.safetensors'
    words = [tmp_path / 'images', tmp_path / 'masks', '--out', model, *QUICK]
    command('train', *words)
    chips(tmp_path, 'train only/images/{}.png', 'train only/masks/{}.png', range(4))
    chips(tmp_path, 'val only/images/{}.png', 'val only/masks/{}.png', [4])
    train, valid = tmp_path / 'train only', tmp_path / 'val only'
    other = tmp_path / 'other.safetensors'
    given = ['--valid-image', valid / 'images', '--valid-reference', valid / 'masks']
    command('train', train / 'images', train / 'masks', *given, '--out', other, *QUICK)
    left, right = load_tensors(model)[0], load_tensors(other)[0]
    assert all(np.array_equal(left[name], right[name]) for name in left)


# 11  Formats


def test_formats_that_are_read(tmp_path):
    "Without losses in each of them, by the first bytes and not by the name."
    files = {
        'a.jp2': ('JP2OpenJPEG', {'QUALITY': '100', 'REVERSIBLE': 'YES', 'YCBCR420': 'NO'}),
        'a.img': ('HFA', {}),
        'a.dat': ('ENVI', {}),
        'a.bmp': ('BMP', {}),
        'a.webp': ('WEBP', {'LOSSLESS': True}),
        'a.png': ('PNG', {}),
        'cog.tif': ('COG', {}),
        'big.tif': ('GTiff', {'BIGTIFF': 'YES', 'compress': 'zstd'}),
        'no ending': ('GTiff', {}),
        'WRONG.JPG': ('PNG', {}),
    }
    for name, (driver, more) in files.items():
        place = {} if driver in ('BMP', 'WEBP', 'PNG') else PLACE
        tile, _ = reads(write(tmp_path / name, IMAGE, driver, **place, **more))
        assert np.array_equal(tile.image, IMAGE), name
        assert (tile.georeference is not None) == bool(place), name


VRT = """<VRTDataset rasterXSize="{1}" rasterYSize="{0}"><GeoTransform>{2}</GeoTransform>{3}</VRTDataset>"""
BAND = """<VRTRasterBand dataType="Byte" band="{0}" {2}>{3}<SimpleSource>
<SourceFilename relativeToVRT="{4}">{1}</SourceFilename><SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>"""


def virtual(path, source, beside=1, attributes='', inner=''):
    "A virtual raster of three bands of one file."
    grid = ', '.join(map(str, GRID.to_gdal()))
    lines = ''.join(BAND.format(n, source, attributes, inner, beside) for n in (1, 2, 3))
    path.write_text(VRT.format(*SIZE, grid, lines))
    return path


def test_virtual_rasters(image, reference, tmp_path):
    "One that names a file beside it, one below it, and one that names another one."
    (tmp_path / 'below').mkdir()
    write(tmp_path / 'below' / 'b.tif', IMAGE, **PLACE)
    files = [virtual(tmp_path / 'a.vrt', 'image.tif'), virtual(tmp_path / 'b.vrt', 'below/b.tif')]
    files.append(virtual(tmp_path / 'c.vrt', 'a.vrt'))
    for path in files:
        tile, _ = reads(path, reference)
        assert np.array_equal(tile.image, IMAGE) and np.array_equal(tile.labels, LABELS)


def test_formats_that_are_not_read(tmp_path):
    "The reason is true: nothing is damaged."
    about = 'format'
    write(tmp_path / 'a.gif', IMAGE[..., 0], 'GIF')
    (tmp_path / 'a.pdf').write_bytes(b'%PDF-1.7\n' + b'x' * 100)
    (tmp_path / 'a.nc').write_bytes(b'CDF\x01' + bytes(100))
    (tmp_path / 'a.zip').write_bytes(b'PK\x03\x04' + bytes(100))
    (tmp_path / 'a.txt').write_text('some text')
    for path in sorted(tmp_path.iterdir()):
        if path.suffix not in ('.prj', '.xml'):
            refuses([path.name, about], path)


@pytest.fixture
def server(tmp_path_factory):
    """A server that hands out the image: its address, and the file in which it notes what it is asked for.

    It is a process of its own, because a file is opened while Python waits."""
    home, asked = tmp_path_factory.mktemp('served'), tmp_path_factory.mktemp('asked') / 'log'
    write(home / 'far.tif', IMAGE, tiled=True, blockxsize=64, blockysize=64, **PLACE)
    words = [sys.executable, '-u', '-m', 'http.server', '0', '--bind', '127.0.0.1', '--directory', str(home)]
    with (
        open(asked, 'w') as log,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        port = re.search(r'port (\d+)', process.stdout.readline())[1]
        yield f'http://127.0.0.1:{port}', asked
        process.terminate()


def test_addresses_are_read_on_request_only(server, reference, tmp_path):
    address, asked = f'{server[0]}/far.tif', server[1]
    for path in (address, f'/vsicurl/{address}', 's3://bucket/far.tif', '/vsizip/a.zip/b.tif'):
        refuses(['remote'], path)
        check_refusal(
            [tmp_path], ['train', path, reference, '--out', tmp_path / 'no.safetensors', *QUICK], ['--remote']
        )
    refuses(['remote'], virtual(tmp_path / 'a.vrt', f'/vsicurl/{address}', beside=0))
    assert asked.read_text() == ''
    for path in (address, f'/vsicurl/{address}'):
        tile, _ = reads(path, reference, remote=True)
        assert np.array_equal(tile.image, IMAGE) and np.array_equal(tile.labels, LABELS)
    refuses(['gone.tif'], address.replace('far', 'gone'), remote=True)


def test_other_kinds_of_pictures(tmp_path):
    "CMYK is four bands or refused, an EXIF turn is not obeyed as the reference would not be, one bit is one band."
    picture = Image.fromarray(IMAGE)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / 'turned.jpg', exif=exif, quality=95)
    tile, said = reads(tmp_path / 'turned.jpg')
    assert tile.size == SIZE
    picture.convert('CMYK').save(tmp_path / 'cmyk.jpg')
    try:
        tile, _ = reads(tmp_path / 'cmyk.jpg')
    except ValueError as error:
        assert 'CMYK' in str(error)
    else:
        assert tile.size == SIZE and tile.in_channels in (3, 4)
    picture.convert('1').save(tmp_path / 'bit.png')
    picture.convert('1').save(tmp_path / 'bit.tif')
    for name in ('bit.png', 'bit.tif'):
        tile, _ = reads(tmp_path / name)
        assert tile.image.dtype == np.uint8 and len(np.unique(tile.image)) == 2


# 12  The nearest colour


def test_smoothed_masks(image, tmp_path):
    "A mask of half the size, enlarged with soft edges: refused as it is, read on request."
    half = Image.fromarray(COLOURS).resize((COLS // 2, ROWS // 2), Image.NEAREST)
    path = tmp_path / 'soft.png'
    half.resize((COLS, ROWS), Image.BILINEAR).save(path)
    refuses(['soft.png', 'nearest'], image, path, ISPRS)
    labels = reads(image, path, nearest_colour=60)[0].labels
    sure = inside(LABELS, 3)
    assert np.array_equal(labels[sure], LABELS[sure])
    assert 0 < np.mean(labels == 255) < 0.5
    loose = reads(image, path, nearest_colour=441)[0].labels
    assert (labels[labels != 255] == loose[labels != 255]).all() and np.mean(loose == 255) < np.mean(
        labels == 255
    )


def test_jpeg_masks(image, tmp_path):
    path = tmp_path / 'mask.jpg'
    Image.fromarray(COLOURS).save(path, quality=95, subsampling=0)
    refuses(['mask.jpg', 'JPEG'], image, path, ISPRS)
    labels = reads(image, path, nearest_colour=80)[0].labels
    sure = inside(LABELS, 5)
    assert np.mean(labels[sure] == LABELS[sure]) > 0.98


def test_colours_that_are_a_little_off(image, tmp_path):
    "Distances up to the bound, and not beyond it."
    off = COLOURS.copy()
    off[5, 5] = np.where(off[5, 5] > 100, off[5, 5] - 10, off[5, 5] + 10)  # 17.3 away
    Image.fromarray(off).save(tmp_path / 'off.png')
    refuses(['off.png', 'row 5, column 5'], image, tmp_path / 'off.png', ISPRS)
    for distance, expected in [(18, LABELS[5, 5]), (17, 255)]:
        assert reads(image, tmp_path / 'off.png', nearest_colour=distance)[0].labels[5, 5] == expected
    for distance in (-1, 'x', float('nan')):
        refuses(['nearest_colour'], image, tmp_path / 'off.png', ISPRS, nearest_colour=distance)


def test_nearest_colour_is_for_colours(image, tmp_path):
    "Class numbers and polygons have no colours: a distance means nothing, and is refused."
    numbers = write(tmp_path / 'numbers.tif', LABELS, **PLACE)
    refuses(['class numbers', 'nearest_colour 5', 'leave it out'], image, numbers, NUMBERS, nearest_colour=5)
    path = geojson(tmp_path / 'a.geojson', boxes())
    refuses(['polygons', 'nearest_colour 5'], image, path, ISPRS, nearest_colour=5)


# 13  Labels in a part of the image only


@pytest.mark.parametrize(
    'where',
    [np.s_[:96, :96], np.s_[:, 150:], np.s_[80:130, :], np.s_[100:, 120:]],
    ids=['corner', 'side', 'strip', 'low'],
)
@pytest.mark.parametrize('split', ['blocked', 'random'])
def test_partly_labelled(image, tmp_path, where, split):
    "Trained on what is labelled; the windows without a label are counted and left out before the split."
    labels = np.full_like(LABELS, 255)
    labels[where] = LABELS[where]
    path = write_reference(tmp_path / 'part.tif', labels)
    recipe = ' '.join(QUICK).replace('--split random', f'--split {split}').split()
    out, notes = command('train', image, path, '--out', tmp_path / 'm.safetensors', *recipe)
    (note,) = [
        note for note in notes if 'hold no label' in note
    ]  # a class that one side lacks is named in another
    assert 'window' in note and re.search(r'\d', note)
    assert 'nan' not in out.lower()


# 14  Chips smaller than the windows


@pytest.mark.parametrize('size', [(50, 64), (64, 50), (3, 5), (31, 31)])
def test_small_chips_are_named(tmp_path, size):
    chips(tmp_path, 'a/{}.png', 'b/{}.png', range(5))
    small = np.s_[: size[0], : size[1]]
    for folder, pixels in (('a', IMAGE), ('b', COLOURS)):
        Image.fromarray(pixels[small]).save(tmp_path / folder / 'little.png')
    words = ['train', tmp_path / 'a', tmp_path / 'b', '--out', tmp_path / 'm.safetensors', *QUICK]
    words[words.index('--patch-size') + 1] = '64'
    words[words.index('--stride') + 1] = '64'
    code, out, err = shell(*words)
    assert 'little' in err
    if code:
        check_line(err, f'{min(size)}')
    else:
        assert err.startswith('note: ')


def test_small_chips_are_mapped(eight, tmp_path):
    for size in [(1, 1), (3, 5), (50, 20)]:
        Image.fromarray(IMAGE[: size[0], : size[1]]).save(tmp_path / 'little.png')
        found, _ = predicted(eight[0], tmp_path / 'little.png', tmp_path / 'map.tif')
        assert found.shape == size and (found < 6).all()


# 15  Images that differ from those of training

NAMED = {'names': ('red', 'green', 'blue')}


@pytest.fixture(scope='module')
def named(folder):
    "A model of an image whose bands have names."
    image = write(folder / 'named.tif', IMAGE, **NAMED, **PLACE)
    return *trained(folder, 'named', image, write_reference(folder / 'r.tif'), '--epochs', 2), image


DIFFERENT = {
    'coarser': (dict(transform=GRID @ Affine.scale(4)), IMAGE, NAMED, 'pixels of'),
    'finer': (dict(transform=GRID @ Affine.scale(0.25)), IMAGE, NAMED, 'pixels of'),
    'degrees': (
        dict(crs='EPSG:4326', transform=Affine(4e-6, 0, 9, 0, -4e-6, 48)),
        IMAGE,
        NAMED,
        'pixels of',
    ),
    'reversed': ({}, IMAGE[..., ::-1], {'names': ('blue', 'green', 'red')}, 'band'),
    'half as bright': ({}, IMAGE // 3, NAMED, 'mean'),
    'all white': ({}, np.full_like(IMAGE, 255), NAMED, 'mean'),
}


@pytest.mark.parametrize('name', DIFFERENT)
def test_what_differs_is_said(named, tmp_path, name):
    place, pixels, names, said = DIFFERENT[name]
    path = write(tmp_path / 'other.tif', pixels, **names, **(PLACE | place))
    notes = predicted(named[0], path, tmp_path / 'map.tif')[1]
    assert any(said in note for note in notes), notes
    code, _, err = shell('evaluate', named[0], path, write_reference(tmp_path / 'r.tif', **place))
    assert code == 0 and said in err and err.startswith('note: ')


def test_nothing_is_said_of_what_fits(named, tmp_path):
    "The training image, another scene, half of it, and the same ground from south to north."
    other = synthetic_scene(192, 224, seed=5).image
    files = [
        named[2],
        write(tmp_path / 'other.tif', other, **NAMED, **PLACE),
        write(tmp_path / 'half.tif', IMAGE[:, :100], **NAMED, **PLACE),
        write(
            tmp_path / 'up.tif', IMAGE[::-1], **NAMED, crs=UTM, transform=GRID @ Affine(1, 0, 0, 0, -1, ROWS)
        ),
    ]
    for path in files:
        assert predicted(named[0], path, tmp_path / 'map.tif')[1] == [], path.name


def test_numbers_that_differ(tmp_path):
    "16 bits in another range than in training: refused or said, and never silent."
    path = write(tmp_path / 'a.tif', STORED['0 to 3000'][0], **PLACE)
    model, _ = trained(tmp_path, 'a', path, write_reference(tmp_path / 'r.tif'), '--epochs', 1)
    for n, factor in enumerate((8, 0.1)):
        other = write(tmp_path / f'{n}.tif', (STORED['0 to 3000'][0] * factor).astype(np.uint16), **PLACE)
        code, _, err = shell('predict', model, other, '--out', tmp_path / 'map.tif')
        assert code in (0, 2) and err.startswith(('note: ', 'unetkit')) and '.tif' in err, err


# 16  More than memory holds


def test_read_as_needed_is_read_the_same(tmp_path):
    "A tile that is not held gives the pixels of the one that is."
    image = write(tmp_path / 'image.tif', IMAGE, tiled=True, blockxsize=64, blockysize=64, **PLACE)
    reference = write_reference(tmp_path / 'reference.tif', LABELS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        (lazy,) = open_labelled(image, reference, ISPRS, Reading(memory=1e-6))
    assert len(caught) == 1 and '--memory' in str(caught[0].message)
    window = lazy.read((40, 60, 50, 70))
    assert np.array_equal(window.image, IMAGE[40:90, 60:130]) and np.array_equal(
        window.labels, LABELS[40:90, 60:130]
    )
    assert lazy.size == SIZE and lazy.in_channels == 3


def test_training_on_more_than_memory(image, reference, tmp_path):
    "One large tile, and many chips: the same number of epochs, and a model that learnt as much."
    chips(tmp_path, 'a/{}.png', 'b/{}.png', range(6))
    for n, (images, references) in enumerate([(image, reference), (tmp_path / 'a', tmp_path / 'b')]):
        models = []
        for memory in ('1', '0.0002'):
            model, _ = trained(
                tmp_path, f'{n}-{memory}', images, references, '--epochs', 6, '--memory', memory
            )
            models.append(accuracy(model, images, references))
        assert min(models) > 30


def test_a_hundred_chips(tmp_path):
    for n in range(100):
        row, col = 8 * (n % 16), 8 * (n // 16)
        for folder, pixels in (('a', IMAGE), ('b', COLOURS)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels[row : row + 32, col : col + 32]).save(tmp_path / folder / f'{n:04}.png')
    out, notes = command(
        'train',
        tmp_path / 'a',
        tmp_path / 'b',
        '--out',
        tmp_path / 'm.safetensors',
        *QUICK,
        '--memory',
        '0.0003',
    )
    assert len(notes) <= 4


# Looking before training


def test_inspect(eight, image, reference, tmp_path):
    "What is in the files, what fits, and what does not, before an hour of training."
    out, _ = command('inspect', image, reference, '--palette', 'isprs')
    assert '192 x 224' in out and 'uint8' in out and 'building' in out, out
    shifted = write_reference(tmp_path / 'shifted.tif', transform=GRID @ Affine.translation(20, 0))
    out, notes = command('inspect', image, shifted)
    assert 'laid onto' in out + ' '.join(notes)
    page = tmp_path / 'page.html'
    command('inspect', image, reference, '--model', eight[0], '--html', page)
    assert page.stat().st_size > 1000
    check_refusal([tmp_path], ['inspect', tmp_path / 'gone.tif'], ['gone.tif'])


def test_inspect_does_not_stop_at_the_first_fault(tmp_path):
    "Numbers without a palette are shown, not refused."
    path = write(tmp_path / 'numbers.tif', numbers(), **PLACE)
    image = write(tmp_path / 'image.tif', STORED['0 to 3000'][0], **PLACE)
    out, _ = command('inspect', image, path)
    assert 'uint16' in out and '3000' in out
