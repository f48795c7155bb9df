"Labels: colours to classes and back, references from files, and what is no label."

import numpy as np
import pytest
import rasterio

from unetkit.datasets import read, read_labelled
from unetkit.labels import (
    DUBAI,
    ISPRS,
    UnknownColour,
    class_counts,
    colour_blind_safe,
    colours_to_labels,
    label_tile,
    labels_to_colours,
    one_hot,
    read_labels,
)
from unetkit.palettes import Palette
from unetkit.scenes import CLASSES, synthetic_scene
from unetkit.tiles import Tile
from unetkit.raster import write_image

BLACK = np.zeros((8, 8, 3), np.uint8)
BLUE = np.broadcast_to(np.uint8(ISPRS.colours[ISPRS.names.index('building')]), BLACK.shape)


def test_errors_about_a_reference_name_its_file(tmp_path):
    image = write_image(tmp_path / 'image.tif', BLACK)
    short = write_image(tmp_path / 'short.tif', BLACK[1:])
    with pytest.raises(ValueError, match='is 8 x 8 but the reference .*short.tif is 7 x 8'):
        read_labelled(image, short, ISPRS)
    odd = write_image(tmp_path / 'odd.tif', BLACK + 7)
    with pytest.raises(UnknownColour, match='odd.tif: unknown colour .7, 7, 7. in 64 pixels'):
        read_labelled(image, odd, ISPRS)
    with pytest.raises(UnknownColour, match='odd.tif, in the window at row 3, column 5: unknown colour'):
        read_labels(odd, ISPRS, (3, 5, 2, 2))


def test_pixels_without_data_are_not_scored(tmp_path):
    place = synthetic_scene(128).georeference
    grey = BLACK + 90
    grey[2:4, 1:7] = 0
    with rasterio.open(write_image(tmp_path / 'holed.tif', grey, place), 'r+') as raster:
        raster.nodata = 0
    (tile,) = read_labelled(tmp_path / 'holed.tif', write_image(tmp_path / 'blue.tif', BLUE, place), ISPRS)
    expected = np.where(grey[..., 0] == 0, 255, ISPRS.names.index('building'))
    np.testing.assert_array_equal(tile.labels, expected)


def test_read_gives_a_tile_for_a_file_and_a_list_for_a_folder(tmp_path):
    for folder, pixels in [('images', BLACK + 90), ('references', BLUE)]:
        (tmp_path / folder).mkdir()
        for name in 'ba':
            write_image(tmp_path / folder / f'{name}.png', pixels)
    tiles = read(tmp_path / 'images', tmp_path / 'references', ISPRS)
    assert [tile.name for tile in tiles] == ['a', 'b']
    assert all((tile.labels == 1).all() and tile.reference is None for tile in tiles)
    assert [tile.labels for tile in read(tmp_path / 'images')] == [None, None]
    assert read(tmp_path / 'images' / 'a.png').name == 'a'
    with pytest.raises(ValueError, match='belong together'):
        read(tmp_path / 'images' / 'a.png', palette=ISPRS)
    with pytest.raises(ValueError, match='belong together'):
        read(tmp_path / 'images' / 'a.png', tmp_path / 'references' / 'a.png')


def test_a_window_of_a_reference_is_a_window_of_its_labels(tmp_path):
    rng = np.random.default_rng(0)
    colours = np.array([*DUBAI.colours, *DUBAI.ignored], np.uint8)[rng.integers(0, 7, (40, 50))]
    path = write_image(tmp_path / 'reference.tif', colours)
    whole = read_labels(path, DUBAI)
    np.testing.assert_array_equal(whole, colours_to_labels(colours, DUBAI))
    np.testing.assert_array_equal(read_labels(path, DUBAI, (3, 5, 20, 30)), whole[3:23, 5:35])


TOY_LABELS = np.array([[0, 0, 1], [3, 4, 1]], np.uint8)
TOY = np.array(ISPRS.colours, np.uint8)[TOY_LABELS]


def eroded_scene():
    "A scene, its labels with the class borders ignored, and the reference in colours."
    scene = synthetic_scene(256, seed=3)
    labels = scene.labels.copy()
    labels[:, :-1][scene.labels[:, :-1] != scene.labels[:, 1:]] = 255
    return scene, labels, labels_to_colours(labels, ISPRS)


def test_colours_to_labels():
    np.testing.assert_array_equal(colours_to_labels(TOY, ISPRS), TOY_LABELS)
    eroded = TOY.copy()
    eroded[0, 1] = 0
    np.testing.assert_array_equal(colours_to_labels(eroded, ISPRS), [[0, 255, 1], [3, 4, 1]])
    np.testing.assert_array_equal(labels_to_colours(colours_to_labels(eroded, ISPRS), ISPRS), eroded)
    assert colours_to_labels(TOY[:0], ISPRS).shape == (0, 3)


def test_unknown_colours_are_errors_with_an_address():
    spoilt = TOY.copy()
    spoilt[1, 1] = (254, 255, 0)
    message = r"\(254, 255, 0\) in 1 pixel, first at row 1, column 1: add it to the palette's classes"
    with pytest.raises(UnknownColour, match=message):
        colours_to_labels(spoilt, ISPRS)
    noisy = np.random.default_rng(0).integers(1, 9, (20, 20, 3), dtype=np.uint8)
    with pytest.raises(UnknownColour, match='more colours: this is an image'):
        colours_to_labels(noisy, ISPRS)
    most = np.full((4, 4, 3), 9, np.uint8)
    most[0, 0] = 8
    with pytest.raises(
        UnknownColour,
        match=r'colour \(9, 9, 9\) in 15 pixels, first at row 0, column 1; \(8, 8, 8\) in 1 pixel,',
    ):
        colours_to_labels(most, ISPRS)


@pytest.mark.parametrize(
    ('reference', 'message'), [(TOY_LABELS, r'\(H, W, 3\) uint8, got \(2, 3\)'), (TOY / 255, 'float')]
)
def test_what_is_no_reference(reference, message):
    with pytest.raises(ValueError, match=message):
        colours_to_labels(reference, ISPRS)


def test_back_to_colours():
    np.testing.assert_array_equal(labels_to_colours(TOY_LABELS, ISPRS), TOY)
    grey, black = DUBAI.ignored
    two = np.array([[grey, black]], np.uint8)
    there_and_back = labels_to_colours(colours_to_labels(two, DUBAI), DUBAI)
    np.testing.assert_array_equal(there_and_back, [[grey, grey]])


@pytest.mark.parametrize(
    ('labels', 'palette', 'message'),
    [
        (np.array([[0, 5]]), DUBAI, r'labels holds 5 at \(0, 1\), which is neither a class in \[0, 4\]'),
        (np.array([[0, -1]]), DUBAI, 'labels holds -1 at'),
        (TOY_LABELS * 1.0, ISPRS, 'integers, got float64'),
        (TOY_LABELS > 0, ISPRS, 'integers, got bool'),
    ],
)
def test_what_is_no_label(labels, palette, message):
    with pytest.raises(ValueError, match=message):
        labels_to_colours(labels, palette)


def test_random_palettes_there_and_back():
    rng = np.random.default_rng(0)
    for num_classes in [1, 2, 254, *rng.integers(1, 255, 17)]:
        codes = rng.choice(2**24, num_classes + 2, replace=False)
        colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in codes]
        palette = Palette([f'class {i}' for i in range(num_classes)], colours[2:], colours[:2])
        labels = rng.integers(0, num_classes + 1, (9, 7)).astype(np.uint8)
        labels[labels == num_classes] = 255
        np.testing.assert_array_equal(colours_to_labels(labels_to_colours(labels, palette), palette), labels)


def test_no_counterexample_is_found():
    hypothesis = pytest.importorskip('hypothesis')
    st = hypothesis.strategies
    colour = st.tuples(*[st.integers(0, 255)] * 3)

    @hypothesis.settings(max_examples=50, deadline=None, database=None, derandomize=True)
    @hypothesis.given(st.lists(colour, min_size=2, max_size=40, unique=True), st.data())
    def search(colours, data):
        palette = Palette([str(i) for i in range(len(colours) - 1)], colours[1:], colours[:1])
        value = st.sampled_from([*range(palette.num_classes), 255])
        labels = np.array([data.draw(st.lists(value, min_size=1, max_size=30))], np.uint8)
        np.testing.assert_array_equal(colours_to_labels(labels_to_colours(labels, palette), palette), labels)

    search()


def test_a_safe_palette_changes_the_paint_and_not_the_labels():
    safe = colour_blind_safe(ISPRS)
    _, labels, _ = eroded_scene()
    np.testing.assert_array_equal(colours_to_labels(labels_to_colours(labels, safe), safe), labels)


def test_greyscale_and_a_label_encoder_lose_the_classes():
    "What lesson 02 says about the report's coding, on its scene."
    encoder = pytest.importorskip('sklearn.preprocessing').LabelEncoder
    weights = np.array([0.299, 0.587, 0.114])

    def grey_encode(reference):
        grey = (reference @ weights).round()
        return encoder().fit_transform(grey.ravel()).reshape(grey.shape)

    brightness = {n: round(float(np.dot(c, weights))) for n, c in zip(ISPRS.names, ISPRS.colours)}
    order = sorted(CLASSES, key=brightness.get)
    assert order == ['building', 'tree', 'low vegetation', 'car', 'impervious']
    assert [brightness[n] for n in order] == [29, 150, 179, 226, 255] and brightness['clutter'] == 76
    labels = synthetic_scene(512, seed=3).labels
    reference = labels_to_colours(labels, ISPRS)
    touched = reference.copy()
    touched[0, 0] = (255, 0, 0)
    moved = grey_encode(reference) != grey_encode(touched)
    np.testing.assert_array_equal(moved[1:, 1:], (labels != CLASSES.index('building'))[1:, 1:])
    assert (colours_to_labels(touched, ISPRS) != labels).sum() == 1
    no_cars = labels_to_colours(np.where(labels == CLASSES.index('car'), 0, labels), ISPRS)
    assert order[int(grey_encode(no_cars)[labels == 0][0])] == 'car'
    assert colours_to_labels(no_cars, ISPRS)[labels == 0].max() == 0
    levels = {n: round(float(np.dot(c, weights))) for n, c in zip(DUBAI.names, DUBAI.colours)}
    assert levels['road'] - levels['water'] == 1
    assert (grey_encode(np.array([[(255, 0, 0), (0, 130, 0)]], np.uint8)) == 0).all()


def test_one_hot():
    planes = one_hot(np.array([[0, 2, 255]], np.uint8), 3)
    np.testing.assert_array_equal(planes, [[[1, 0, 0], [0, 0, 1], [0, 0, 0]]])
    assert planes.argmax(-1)[0, 2] == 0
    labels = synthetic_scene(128).labels
    np.testing.assert_array_equal(one_hot(labels, 5).argmax(-1), labels)
    assert one_hot(labels, 5).astype(np.float32).nbytes == 20 * labels.nbytes
    with pytest.raises(ValueError, match=r'num_classes must be in \[1, 254\], got 0'):
        one_hot(labels, 0)
    with pytest.raises(ValueError, match=r'neither a class in \[0, 2\]'):
        one_hot(np.array([[3]]), 3)


def test_class_counts():
    _, labels, _ = eroded_scene()
    counts = class_counts(labels, 5)
    np.testing.assert_array_equal(counts, [(labels == k).sum() for k in range(5)])
    assert counts.sum() == (labels != 255).sum()
    np.testing.assert_array_equal(class_counts(TOY_LABELS, 5), [2, 2, 0, 1, 1])
    np.testing.assert_array_equal(class_counts(np.full((4, 4), 255, np.uint8), 3), [0, 0, 0])
    stacked = np.stack([TOY_LABELS, TOY_LABELS])
    np.testing.assert_array_equal(class_counts(stacked, 5), 2 * class_counts(TOY_LABELS, 5))
    with pytest.raises(ValueError, match=r'neither a class in \[0, 3\]'):
        class_counts(TOY_LABELS, 4)


def test_label_tile():
    scene, labels, reference = eroded_scene()
    painted = Tile(image=scene.image, reference=reference, name='eroded scene')
    tile = label_tile(painted, ISPRS)
    np.testing.assert_array_equal(tile.labels, labels)
    assert tile.reference is None and tile.image is scene.image
    with pytest.raises(ValueError, match='has no reference'):
        label_tile(tile, ISPRS)
    with pytest.raises(UnknownColour, match="tile 'eroded scene': unknown colour"):
        label_tile(painted, DUBAI)
