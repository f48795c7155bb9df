"""A genuine aerial crop is read, coded and overfitted, and a satellite model maps another scene: the main path on pixels that nobody drew.

Real files bring what synthetic scenes do not: palettes inside PNG files, black borders that mean "do not score", parts of different sizes. The imagery belongs to
others and is no part of the project: it is looked for in `shared/data` beside the checkout, and in UNETKIT_DATA."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, shell, succeeds
from PIL import Image

from unetkit.batches import Batches, to_device
from unetkit.datasets import read, read_labelled
from unetkit.labels import DUBAI, ISPRS, class_counts, colours_to_labels, label_tile, labels_to_colours
from unetkit.losses import class_weights, make_loss
from unetkit.machine import prepare
from unetkit.metrics import Scores, confusion_matrix
from unetkit.palettes import read_palette
from unetkit.patches import grid_windows
from unetkit.rules import IGNORE_INDEX
from unetkit.stitching import predict_tile
from unetkit.raster import read_image, read_label_map, read_reference, write_image
from unetkit.tiles import Tile, read_tile
from unetkit.training import epochs, make_optimizer, make_predictor, seed_everything
from unetkit.unet import UNet

DATA = Path(os.environ.get('UNETKIT_DATA', ROOT.parent / 'shared' / 'data'))
CROP = DATA / 'vaihingen_crop'
SCENES = sorted((DATA / 'dubai').glob('tile*'))
needs_crop = pytest.mark.skipif(not CROP.is_dir(), reason='the Vaihingen crop is not there: set UNETKIT_DATA')
needs_dubai = pytest.mark.skipif(not SCENES, reason='the Dubai scenes are not there: set UNETKIT_DATA')


# The Vaihingen crop: 512 x 512 pixels of infrared, red and green, with a reference whose class borders are eroded to black


@pytest.fixture(scope='module')
def crop():
    files = CROP / 'image.tif', CROP / 'reference_eroded.tif'
    return label_tile(read_tile(*files, name='vaihingen-crop'), ISPRS)


@pytest.fixture(scope='module')
def colours():
    return np.asarray(Image.open(CROP / 'reference_eroded.tif').convert('RGB'))


@needs_crop
def test_crop_is_read_and_coded_exactly(crop, colours):
    "Two independent readers agree on the pixels; turned back into colours, the labels are the reference."
    assert (crop.image.shape, crop.image.dtype, crop.labels.shape) == ((512, 512, 3), np.uint8, (512, 512))
    np.testing.assert_array_equal(crop.image, np.asarray(Image.open(CROP / 'image.tif')))
    np.testing.assert_array_equal(labels_to_colours(crop.labels, ISPRS), colours)


@needs_crop
def test_eroded_pixels_are_in_no_count(crop, colours):
    "The black pixels were counted once, by hand."
    counts = class_counts(crop.labels, ISPRS.num_classes)
    assert (colours == 0).all(-1).sum() == (crop.labels == IGNORE_INDEX).sum() == 21_283
    assert counts.sum() == 512 * 512 - 21_283
    assert (counts > 0).tolist() == [True] * 5 + [False]


def overfit(tile, model, goal, count=150, patch_size=64):
    "Train on every window of a tile until the accuracy on the same windows is above the goal; the last epoch."
    pairs, windows = to_device([tile], 'cpu'), grid_windows([tile.size], patch_size, patch_size)
    train = Batches(pairs, windows, 4, shuffle=True, channels_last=True)
    check = Batches(pairs, windows, 16, once=True, channels_last=True)
    weights = class_weights(class_counts(tile.labels, model.num_classes), 'sqrt')
    optimizer, loss_fn = make_optimizer(model, 2e-3), make_loss('weighted_cross_entropy', weights)
    for epoch in epochs(model, train, check, loss_fn, optimizer, count, patience=count):
        optimizer.param_groups[0]['lr'] *= 0.96
        if epoch.valid_accuracy > goal:
            break
    return epoch


@needs_crop
@pytest.mark.slow
def test_half_a_crop_is_overfitted(crop):
    """A network that cannot learn its own training tile has a fault between reading and stitching: shifted labels, swapped axes, a loss that scores the ignored.

    The goal is 95 % of the scored pixels. 98 % can be had without a single car, since cars are 1.3 % of the upper half; so training goes on to 98.7 %.
    The lower half has more trees, and takes longer."""
    half = slice(0, 256)
    crop = Tile(crop.image[half], labels=crop.labels[half], name='upper half')
    seed_everything(0)
    model = prepare(UNet(3, ISPRS.num_classes, width=16, depth=3), 'cpu')
    overfit(crop, model, 0.987)
    label_map = predict_tile(make_predictor(model), crop.image, 'patches', 64)
    scores = Scores(confusion_matrix(crop.labels, label_map, ISPRS.num_classes))
    counts, car = class_counts(crop.labels, ISPRS.num_classes), ISPRS.names.index('car')
    assert scores.accuracy > 0.95 and scores.recall[car] > 0.2 and counts[car] < counts.sum() / 50
    assert scores.support.tolist() == counts.tolist()
    # unscored means unscored: a class that is nowhere, said on the eroded pixels, moves no score
    ignored = crop.labels == IGNORE_INDEX
    spoilt = np.where(ignored, ISPRS.names.index('clutter'), label_map).astype(np.uint8)
    again = confusion_matrix(crop.labels, spoilt, ISPRS.num_classes)
    np.testing.assert_array_equal(again, scores.confusion_matrix)
    wrong = np.mean((label_map != crop.labels)[~ignored])
    assert scores.accuracy == pytest.approx(1 - wrong, abs=1e-12)


# The Dubai scenes: folders of nine parts, JPEG images with PNG masks


@needs_dubai
@pytest.mark.parametrize('scene', SCENES, ids=lambda path: path.name)
def test_scene_codes_without_an_unknown_colour(scene):
    "No class is missing, none fills more than two thirds, and most pixels count."
    tiles = read_labelled(scene / 'images', scene / 'masks', DUBAI)
    assert len(tiles) == len(list((scene / 'images').iterdir()))
    counts = sum(class_counts(tile.labels, DUBAI.num_classes) for tile in tiles)
    pixels = sum(tile.labels.size for tile in tiles)
    shares = counts / counts.sum()
    assert shares.min() > 0.005 and shares.max() < 0.67, shares
    assert pixels - counts.sum() < 0.05 * pixels


def paletted():
    "Masks whose stored bytes are numbers of colours."
    masks = [path for scene in SCENES for path in sorted((scene / 'masks').iterdir())]
    return [path for path in masks if Image.open(path).mode == 'P']


@needs_dubai
def test_paletted_masks():
    """Read as Pillow reads them. Taken for classes, the stored numbers would be nonsense without an error.

    Each file has the colours in an order of its own, so a program that trusts the numbers works on some parts by luck."""
    masks, agree = paletted(), []
    for path in masks:
        colours = read_reference(path)
        np.testing.assert_array_equal(colours, np.asarray(Image.open(path).convert('RGB')))
        agree.append(np.mean(np.asarray(Image.open(path)) == colours_to_labels(colours, DUBAI)))
    assert len([path for path in masks if path.parent.parent.name == 'tile4']) == 9
    assert min(agree) < 0.05


def best_corner(labels, size):
    "The square in which the rarest class has most pixels."
    corners = []
    for row in range(0, labels.shape[0] - size, size // 2):
        corners += [(row, col) for col in range(0, labels.shape[1] - size, size // 2)]

    def rarest(corner):
        row, col = corner
        square = np.ascontiguousarray(labels[row : row + size, col : col + size])
        return class_counts(square, DUBAI.num_classes).min()

    return max(corners, key=rarest)


@needs_dubai
def test_from_one_scene_to_another(tmp_path):
    """A piece of scene 8 trains a tiny model, which maps and scores a part of scene 4, all by commands on files.

    On the piece itself the model must beat the best constant answer; on another scene, with other light and other roofs, so small a model need not."""
    first, other = (DATA / 'dubai' / name for name in ('tile8', 'tile4'))
    source = label_tile(
        read_tile(first / 'images/image_part_001.jpg', first / 'masks/image_part_001.png'), DUBAI
    )
    row, col = best_corner(source.labels, 384)
    square = slice(row, row + 384), slice(col, col + 384)
    piece = tmp_path / 'image.tif', tmp_path / 'reference.tif'
    write_image(piece[0], np.ascontiguousarray(source.image[square]))
    write_image(piece[1], labels_to_colours(source.labels[square], DUBAI))
    counts = class_counts(np.ascontiguousarray(source.labels[square]), DUBAI.num_classes)
    assert counts.min() > 0
    image, mask = other / 'images/image_part_001.jpg', other / 'masks/image_part_001.png'
    model, label_map = tmp_path / 'm.safetensors', tmp_path / 'map.tif'
    settings = '--palette dubai --patch-size 64 --stride 32 --epochs 12 --width 8 --depth 3 --loss cross_entropy --split random'
    machine = '--device cpu --precision float32'.split()
    succeeds('train', *piece, '--out', model, *settings.split(), *machine)
    succeeds('predict', model, image, '--out', label_map, *machine)
    own = succeeds('evaluate', model, *piece, *machine).splitlines()[-1]
    assert float(own.split()[1].strip(',')) > 100 * counts.max() / counts.sum(), own
    made, truth = read_label_map(label_map), label_tile(read_tile(image, mask), DUBAI).labels
    assert made.shape == read_image(image).shape[:2] and made.max() < DUBAI.num_classes
    accuracy = np.mean((made == truth)[truth != IGNORE_INDEX])
    assert f'accuracy {100 * accuracy:.2f}' in succeeds('evaluate', model, image, mask, *machine)


TINY = (
    '--patch-size 64 --epochs 1 --width 4 --depth 2 --split random --device cpu --precision float32'.split()
)


def said(*words):
    "What a command prints that ends well, with remarks or without."
    code, out, err = shell(*words)
    assert code == 0, err
    return out


def corner(path, folder):
    "The first 160 rows and columns of a file in its own format: a tiny model draws a polygon at every fifth pixel."
    folder.mkdir(exist_ok=True)
    with Image.open(path) as whole:
        whole.crop((0, 0, 160, 160)).save(folder / path.name)
    return folder / path.name


@pytest.mark.parametrize(
    'palette, image, reference',
    [
        pytest.param(ISPRS, CROP / 'image.tif', CROP / 'reference_eroded.tif', marks=needs_crop, id='crop'),
        pytest.param(
            DUBAI,
            *(DATA / 'dubai/tile4' / name for name in ('images', 'masks')),
            marks=needs_dubai,
            id='dubai',
        ),
    ],
)
def test_from_a_first_look_to_polygons(palette, image, reference, tmp_path):
    "All commands in their order, with the palette that one of them drafts; the polygons, drawn again, are the map."
    draft, model, label_map, polygons = (
        tmp_path / name for name in ('p.json', 'm.safetensors', 'map.tif', 'map.geojson')
    )
    said('palette', reference, '--out', draft)
    found = read_palette(draft)
    assert {*found.names} <= {*palette.names} and {*found.colours} <= {*palette.colours}
    look = said('inspect', image, reference, '--palette', draft)
    assert all(name in look for name in found.names) and 'not scored' in look
    said('train', image, reference, '--palette', draft, '--out', model, *TINY)
    whole = (sorted(path.iterdir())[0] if path.is_dir() else path for path in (image, reference))
    one, truth = (corner(path, tmp_path / name) for path, name in zip(whole, ('images', 'masks')))
    said('predict', model, one, '--out', label_map, '--polygons', polygons, '--device', 'cpu')
    drawn = read(one, polygons, found, label_column='class').labels
    np.testing.assert_array_equal(drawn, read_label_map(label_map))
    labels = read(one, truth, found).labels
    accuracy = 100 * np.mean((drawn == labels)[labels != IGNORE_INDEX])
    assert f'accuracy {accuracy:.2f}' in said('evaluate', model, one, truth, '--device', 'cpu')
