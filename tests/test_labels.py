"Labels: references from files, and what is no label."

import numpy as np
import pytest
import rasterio

from unetkit.labels import DUBAI, ISPRS, UnknownColour, colours_to_labels, read, read_labelled, read_labels
from unetkit.scenes import synthetic_scene
from unetkit.tiles import write_image

BLACK = np.zeros((8, 8, 3), np.uint8)
BLUE = np.broadcast_to(np.uint8(ISPRS.colours[ISPRS.names.index('building')]), BLACK.shape)


def test_errors_about_a_reference_name_its_file(tmp_path):
    image = write_image(tmp_path / 'image.tif', BLACK)
    short = write_image(tmp_path / 'short.tif', BLACK[1:])
    with pytest.raises(ValueError, match='short.tif: the image is 8 x 8 but the reference is 7 x 8'):
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
