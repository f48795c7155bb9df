"References of every kind: class numbers, transparent and smoothed colours, polygons of five formats, drafts of palettes, and files made to do harm."

import json
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.warp import transform

from unetkit import vectors
from unetkit.datasets import read
from unetkit.labels import (
    ISPRS,
    UnknownColour,
    UnknownNumber,
    labels_to_colours,
    legend,
    open_labels,
    read_labels,
)
from unetkit.palettes import DUBAI, Palette, read_palette, write_palette
from unetkit.raster import Georeference, Raster, write_image
from unetkit.rules import Remark
from unetkit.vectors import Burner, feature_classes, rasterise, read_features

UTM = CRS.from_epsg(32632).to_wkt()
PLACE = Georeference(UTM, (0.5, 0, 400_000, 0, -0.5, 5_600_000))
NUMBERED = Palette(['a', 'b'], ['#ff0000', '#0000ff'], values=[1, 2], ignored_values=[0])


def save(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def collection(features, **more):
    "GeoJSON of pairs of properties and rings."
    items = [
        {'type': 'Feature', 'properties': own, 'geometry': {'type': 'Polygon', 'coordinates': rings}}
        for own, rings in features
    ]
    return {'type': 'FeatureCollection', 'features': items} | more


def image_file(path, size=(40, 50), place=PLACE):
    return write_image(path, np.full((*size, 3), 90, np.uint8), place)


def on_ground(points):
    "Columns and rows as coordinates of the image."
    return [[400_000 + 0.5 * x, 5_600_000 - 0.5 * y] for x, y in points]


def even_odd(rings, size):
    "Is the centre of a pixel inside? By counting the edges to the left of it."
    inside = np.zeros(size, bool)
    for row in range(size[0]):
        for col in range(size[1]):
            x, y = col + 0.5, row + 0.5
            for ring in rings:
                for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1]):
                    if (y0 > y) != (y1 > y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x:
                        inside[row, col] ^= True
    return inside


@pytest.mark.parametrize('dtype', ['uint8', 'int16', 'uint16', 'int32', 'float32'])
def test_class_numbers_of_any_type(tmp_path, dtype):
    nodata = 255 if dtype == 'uint8' else 9999 if dtype[0] == 'u' else -9999
    numbers = np.array([[0, 1, 2], [nodata, 2, 1]], dtype)
    path = write_image(tmp_path / 'numbers.tif', numbers[..., None])
    with pytest.raises(
        UnknownNumber, match=f'numbers.tif: unknown number {nodata} in 1 pixel, first at row 1, column 0'
    ):
        read_labels(path, NUMBERED)
    with rasterio.open(path, 'r+') as raster:
        raster.nodata = nodata
    np.testing.assert_array_equal(read_labels(path, NUMBERED), [[255, 0, 1], [255, 1, 0]])
    np.testing.assert_array_equal(read_labels(path, NUMBERED, (0, 1, 2, 2)), [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match='unetkit palette .*numbers.tif. drafts a palette'):
        read_labels(path, ISPRS)


def test_one_bit_and_0_255(tmp_path):
    ones = np.array([[0, 1], [1, 1]], bool)
    Image.fromarray(ones).save(tmp_path / 'one_bit.png')
    Image.fromarray(ones.astype(np.uint8) * 255).save(tmp_path / 'full.png')
    for name, high in [('one_bit.png', 1), ('full.png', 255)]:
        draft, counts = legend([tmp_path / name])
        assert (draft.values, counts) == ((0, high), {'pixels': [1, 3]})
        np.testing.assert_array_equal(read_labels(tmp_path / name, draft), ones)


def test_a_colour_table_is_read_by_numbers_if_the_palette_has_values(tmp_path):
    picture = Image.fromarray(np.array([[1, 2]], np.uint8), 'P')
    picture.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / 'table.png')
    np.testing.assert_array_equal(read_labels(tmp_path / 'table.png', NUMBERED), [[0, 1]])
    np.testing.assert_array_equal(read_labels(tmp_path / 'table.png', ISPRS), [[5, 1]])
    draft, _ = legend([tmp_path / 'table.png'])
    assert draft.colours == ((255, 0, 0), (0, 0, 255))


def drawn(path, numbers, *colours):
    "A PNG of numbers with a colour table."
    picture = Image.fromarray(np.array(numbers, np.uint8), 'P')
    picture.putpalette(np.array(colours, np.uint8).tobytes())
    picture.save(path)
    return path


def test_a_draft_of_known_colours(tmp_path):
    "Masks of which some are RGB and some have a colour table: read by colour, and named as the palette they belong to."
    water, road, land, grey = DUBAI.colours[4], DUBAI.colours[2], DUBAI.colours[1], DUBAI.ignored[0]
    table = drawn(tmp_path / 'a.png', [[0, 1, 1, 2]], grey, water, road)
    other = drawn(tmp_path / 'b.png', [[0, 1]], water, (0, 0, 0))  # its numbers mean something else
    rgb = np.array([[land, land, water, grey]], np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'c.png')
    with pytest.warns(Remark) as said:
        draft, counts = legend([table, other, tmp_path / 'c.png'])
    texts = [str(one.message) for one in said if one.category is Remark]
    assert len(texts) == 2 and 'read by their colours' in texts[0] and 'the palette dubai' in texts[1]
    assert (draft.names, draft.values, draft.ignored) == (('land', 'road', 'water'), None, DUBAI.ignored)
    assert counts == {'pixels': [2, 1, 4]}
    np.testing.assert_array_equal(read_labels(other, draft), [[2, 255]])
    whole = drawn(tmp_path / 'd.png', [[0, 1, 2, 3]], grey, water, road, land)
    with pytest.warns(Remark, match='the palette dubai'):
        draft, counts = legend([whole])
    assert (draft.names, draft.values, draft.ignored_values) == (('land', 'road', 'water'), (3, 2, 1), (0,))
    np.testing.assert_array_equal(read_labels(whole, draft), [[255, 2, 1, 0]])
    polygons = save(
        tmp_path / 'a.geojson', collection([({'kind': 2}, [on_ground([(0, 0), (9, 0), (9, 9), (0, 0)])])])
    )
    with pytest.raises(ValueError, match='one palette for each kind'):
        legend([table, polygons])


def test_numbers_whose_colours_are_not_those_of_the_palette(tmp_path):
    "Two files of one picture, whose tables list the colours in different orders."
    clear, red, blue, green = (9, 9, 9), (255, 0, 0), (0, 0, 255), (0, 255, 0)
    good = drawn(tmp_path / 'good.png', [[1, 2]], clear, red, blue)
    swapped = drawn(tmp_path / 'swapped.png', [[2, 1]], clear, blue, red)
    with pytest.raises(
        ValueError, match="swapped.png: number 1 has the colour #0000ff, the colour of 'b', in .* is 'a'"
    ):
        read_labels(swapped, NUMBERED)
    with pytest.warns(
        UserWarning, match='swapped.png: number 1 has the colour .* all are read by their colours'
    ):
        draft, counts = legend([good, swapped])
    assert ({*draft.colours}, draft.values, counts) == ({red, blue}, None, {'pixels': [2, 2]})
    np.testing.assert_array_equal(read_labels(good, draft), read_labels(swapped, draft))
    plain = Palette(['a', 'b'], [red, blue])
    np.testing.assert_array_equal(read_labels(good, plain), read_labels(swapped, plain))
    ignored = drawn(tmp_path / 'ignored.png', [[0, 2]], red, green, blue)
    with pytest.raises(
        ValueError, match="number 0 has the colour #ff0000, the colour of 'a', .* an ignored number"
    ):
        read_labels(ignored, NUMBERED)
    third = drawn(tmp_path / 'third.png', [[1, 2]], clear, red, green)
    with pytest.raises(
        ValueError, match="number 2 has the colour #00ff00, in .* is 'b' of the colour #0000ff"
    ):
        read_labels(third, NUMBERED)
    np.testing.assert_array_equal(
        read_labels(third, NUMBERED, (0, 0, 1, 1)), [[0]]
    )  # no number 2 in this window


def test_a_colour_table_of_another_style_counts_for_nothing(tmp_path):
    own = drawn(tmp_path / 'own.png', [[1, 2]], (0, 0, 0), (1, 2, 3), (4, 5, 6))
    with pytest.warns(UserWarning, match='own.png: its colour table has no colour of the palette'):
        np.testing.assert_array_equal(read_labels(own, NUMBERED), [[0, 1]])
    ground = Palette(['ground', 'house'], ['#000000', '#ff0000'], values=[0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        mask = drawn(tmp_path / 'mask.png', [[0, 1]], (0, 0, 0), (255, 255, 255))
        np.testing.assert_array_equal(read_labels(mask, ground), [[0, 1]])
        grey = drawn(tmp_path / 'grey.png', [[0, 255]], *[(n, n, n) for n in range(256)])
        negative = Palette(['house', 'ground'], ['#ffffff', '#000000'], values=[0, 255])
        np.testing.assert_array_equal(read_labels(grey, negative), [[0, 1]])
    mask = drawn(tmp_path / 'turned.png', [[0, 1]], (255, 255, 255), (0, 0, 0))
    with pytest.raises(
        ValueError, match="number 0 has the colour #ffffff, in .* is 'ground' of the colour #000000"
    ):
        read_labels(mask, ground)


def test_nodata_that_is_a_class_is_said(tmp_path):
    path = write_image(tmp_path / 'numbers.tif', np.ones((2, 2, 1), np.uint8))
    with rasterio.open(path, 'r+') as raster:
        raster.nodata = 1
    with pytest.warns(UserWarning, match="declares 1 as no data, so its pixels of 'a' are not scored"):
        assert (read_labels(path, NUMBERED) == 255).all()


def test_transparent_pixels_are_not_scored(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = (0, 0, 255), 255
    pixels[0] = (1, 2, 3, 0)
    Image.fromarray(pixels).save(tmp_path / 'clear.png')
    expected = np.ones((4, 4))
    expected[0] = 255
    np.testing.assert_array_equal(read_labels(tmp_path / 'clear.png', ISPRS), expected)


def test_the_nearest_colour_is_taken_on_request_only(tmp_path):
    labels = np.repeat(np.uint8([[0, 1, 3, 4]]), 16, 1).repeat(16, 0)
    colours = labels_to_colours(labels, ISPRS)
    Image.fromarray(colours).save(tmp_path / 'lossy.jpg', quality=95)
    with pytest.raises(ValueError, match='JPEG-compressed'):
        read_labels(tmp_path / 'lossy.jpg', ISPRS)
    with open_labels(tmp_path / 'lossy.jpg', ISPRS, reading=SimpleNamespace(nearest_colour=60.0)) as file:
        found = file.read()
    np.testing.assert_array_equal(found[:, 4:12], labels[:, 4:12])
    np.testing.assert_array_equal(found[:, 20:28], labels[:, 20:28])
    spoilt = colours.copy()
    spoilt[0, 0] = (250, 250, 250)
    spoilt[0, 1] = (128, 128, 128)
    path = write_image(tmp_path / 'spoilt.tif', spoilt)
    with pytest.raises(UnknownColour):
        read_labels(path, ISPRS)
    with open_labels(path, ISPRS, reading=SimpleNamespace(nearest_colour=20.0)) as file:
        assert file.read()[0, :3].tolist() == [0, 255, 0]


def test_polygons_as_by_even_odd_and_by_windows_as_whole(tmp_path):
    rng = np.random.default_rng(0)
    polygons = [[rng.uniform(-8, 48, (rng.integers(3, 9), 2)).tolist() for _ in range(2)] for _ in range(12)]
    expected = np.full((40, 50), 255)
    for number, rings in enumerate(polygons):
        expected[even_odd(rings, (40, 50))] = number % 5
    features = [
        ({'name': ISPRS.names[n % 5], 'id': n}, [on_ground(r) for r in p]) for n, p in enumerate(polygons)
    ]
    urn = {'type': 'name', 'properties': {'name': 'urn:ogc:def:crs:EPSG::32632'}}
    file = read_features(save(tmp_path / 'p.geojson', collection(features, crs=urn)))
    with pytest.warns(UserWarning, match="from the column 'name'"):
        classes = feature_classes(file, ISPRS)
    burner = Burner(file, classes, (40, 50), PLACE)
    np.testing.assert_array_equal(burner.read(), expected)
    for touched in (False, True):
        burner = Burner(file, classes, (40, 50), PLACE, touched)
        burner.CELL = 16
        whole = burner.read()
        for window in [(0, 0, 7, 9), (13, 5, 20, 40), (39, 49, 1, 1), (15, 15, 2, 2)]:
            row, col, height, width = window
            np.testing.assert_array_equal(burner.read(window), whole[row : row + height, col : col + width])


def test_polygons_in_degrees_are_moved(tmp_path):
    square = on_ground([(10, 10), (30, 10), (30, 25), (10, 25)])
    degrees = np.transpose(transform(CRS.from_wkt(UTM), CRS.from_epsg(4326), *np.transpose(square))).tolist()
    path = save(tmp_path / 'p.geojson', collection([({'class': 'tree'}, [degrees])]))
    image = image_file(tmp_path / 'image.tif')
    tile = read(image, path, ISPRS)
    expected = np.full((40, 50), 255)
    expected[10:25, 10:30] = 3
    np.testing.assert_array_equal(tile.labels, expected)
    tile = read(image, path, ISPRS, background='building')
    np.testing.assert_array_equal(tile.labels, np.where(expected == 255, 1, expected))
    far = save(tmp_path / 'far.geojson', collection([({'class': 'tree'}, [[[0, 0], [1, 0], [1, 1]]])]))
    with pytest.raises(ValueError, match='do not meet: the polygons would cover rows'):
        read(image, far, ISPRS)
    with pytest.raises(ValueError, match='does not say where it lies'):
        read(image_file(tmp_path / 'nowhere.tif', place=None), path, ISPRS)
    with pytest.raises(ValueError, match="background must be one of .* got 'moor'"):
        read(image, path, ISPRS, background='moor')


def test_the_column_of_the_class(tmp_path):
    ring = [on_ground([(1, 1), (9, 1), (9, 9)])]
    two = save(tmp_path / 'two.geojson', collection([({'kind': 'tree', 'was': 'car'}, ring)], crs=None))
    with pytest.raises(
        ValueError, match=r"2 columns .* say which of 'kind', 'was' names .*--label-column \(label_column\)"
    ):
        rasterise(read_features(two), ISPRS, (40, 50), PLACE)
    with pytest.warns(UserWarning, match='names no coordinate system'):
        assert (rasterise(read_features(two), ISPRS, (40, 50), PLACE, column='was') == 4).sum() == 28
    with pytest.raises(ValueError, match="no column 'x'"):
        rasterise(read_features(two), ISPRS, (40, 50), PLACE, column='x')
    boat = save(tmp_path / 'boat.geojson', collection([({'kind': 'boat'}, ring)], crs=None))
    with pytest.raises(ValueError, match="'boat' in 1 polygons, first in polygon 0"):
        rasterise(read_features(boat), ISPRS, (40, 50), PLACE, column='kind')
    number = save(
        tmp_path / 'number.geojson', collection([({'kind': 2.0}, ring), ({'kind': 0}, ring)], crs=None)
    )
    assert feature_classes(read_features(number), NUMBERED) == [1, 255]
    assert feature_classes(read_features(two), ISPRS.ignoring('tree'), 'kind') == [255]
    draft, counts = legend([number])
    assert (draft.values, draft.names, counts) == ((0, 2), ('class_0', 'class_2'), {'polygons': [1, 1]})
    assert read_palette(write_palette(tmp_path / 'draft.json', draft, counts)) == draft


@pytest.mark.parametrize(('name', 'driver'), [('p.gpkg', 'GPKG'), ('p.shp', 'ESRI Shapefile')])
def test_geopackage_and_shapefile(tmp_path, name, driver):
    pyogrio = pytest.importorskip('pyogrio')
    ring = on_ground([(10, 10), (30, 10), (30, 25), (10, 25), (10, 10)])
    header = np.uint32([3, 1, len(ring)]).tobytes()
    wkb = np.array([b'\x01' + header + np.float64(ring).tobytes()], object)
    pyogrio.raw.write(
        tmp_path / name,
        wkb,
        [np.array(['tree'], object)],
        ['class'],
        geometry_type='Polygon',
        crs='EPSG:32632',
        driver=driver,
    )
    tile = read(image_file(tmp_path / 'image.tif'), tmp_path / name, ISPRS)
    assert (tile.labels[10:25, 10:30] == 3).all() and (tile.labels == 3).sum() == 300
    damaged = tmp_path / f'damaged{name[1:]}'
    damaged.write_bytes((tmp_path / name).read_bytes()[:150])
    with pytest.raises(ValueError, match='cannot read .*damaged'):
        read_features(damaged)
    with pytest.raises(ValueError, match='is no'):
        read_features(save(tmp_path / f'x{name[1:]}', '<OGRVRTDataSource/>'))


def test_labelme_and_coco(tmp_path):
    image = image_file(tmp_path / 'image.tif', (6, 8), None)
    shapes = [
        {'label': 'tree', 'shape_type': 'rectangle', 'points': [[1, 2], [4, 5]]},
        {'label': 'car', 'points': [[3, 3], [8, 3], [8, 6], [3, 6]]},
    ]
    labelme = save(tmp_path / 'a.json', {'shapes': shapes, 'imageHeight': 6, 'imageWidth': 8})
    expected = np.full((6, 8), 255)
    expected[2:5, 1:4] = 3
    expected[3:, 3:] = 4
    np.testing.assert_array_equal(read(image, labelme, ISPRS).labels, expected)
    coco = {
        'images': [
            {'id': 7, 'file_name': 'x/image.png', 'height': 6, 'width': 8},
            {'id': 8, 'file_name': 'b.png'},
        ],
        'categories': [{'id': 1, 'name': 'tree'}, {'id': 2, 'name': 'car'}],
        'annotations': [
            {
                'image_id': 7,
                'category_id': 1,
                'segmentation': {'size': [6, 8], 'counts': [8, 3, 3, 3, 3, 3, 25]},
            },
            {'image_id': 7, 'category_id': 2, 'segmentation': [[3, 3, 8, 3, 8, 6, 3, 6]]},
            {'image_id': 8, 'category_id': 2, 'segmentation': [[0, 0, 8, 0, 8, 6]]},
        ],
    }
    np.testing.assert_array_equal(read(image, save(tmp_path / 'c.json', coco), ISPRS).labels, expected)
    with pytest.raises(ValueError, match='drawn on 6 x 8 pixels, but .* has 8 x 6'):
        read(image_file(tmp_path / 'image.png.tif', (8, 6), None), labelme, ISPRS)


def mask(**segmentation):
    return {
        'images': [{'id': 1, 'height': 4, 'width': 3, 'file_name': 'a'}],
        'categories': [{'id': 1, 'name': 'tree'}],
        'annotations': [{'image_id': 1, 'category_id': 1, 'segmentation': segmentation}],
    }


SQUARE = [[0, 0], [1, 0], [1, 1], [0, 0]]
HOSTILE = {
    'nested': '[' * 200_000,
    'geometry': '{"type": "GeometryCollection", "geometries": [' * 900 + ']}' * 900,
    'nan': '{"type": "Polygon", "coordinates": [[[NaN, 0], [1, 0], [1, 1]]]}',
    'huge': '{"type": "Polygon", "coordinates": [[[1e999, 0], [1, 0], [1, 1]]]}',
    'digits': '{"type": "Polygon", "coordinates": [[[' + '9' * 4000 + ', 0], [1, 0], [1, 1]]]}',
    'text': '{"type": "Polygon", "coordinates": [[["a", 0], [1, 0], [1, 1]]]}',
    'two points': '{"type": "Polygon", "coordinates": [[[0, 0], [1, 0]]]}',
    'no rings': '{"type": "Polygon", "coordinates": 7}',
    'point': '{"type": "Point", "coordinates": [0, 0]}',
    'features': '{"type": "FeatureCollection", "features": 7}',
    'feature': '{"type": "FeatureCollection", "features": [7]}',
    'crs': collection([({}, [SQUARE])], crs={'properties': {'name': '/vsicurl/http://example.org/x'}}),
    'address': collection([({}, [SQUARE])], crs={'properties': {'name': 'http://example.org/x'}}),
    'size': {'shapes': [], 'imageHeight': 10**30, 'imageWidth': 1},
    'shapes': {'shapes': 7, 'imageHeight': 1, 'imageWidth': 1},
    'runs': mask(size=[4, 3], counts=[5, 2]),
    'many runs': mask(size=[4, 3], counts=[10**30, 2]),
    'negative': mask(size=[4, 3], counts=[20, -8]),
    'other size': mask(size=[10**9, 10**9], counts=[10**18]),
    'packed': mask(size=[4, 3], counts='\x7f' * 5000),
    'packed long': mask(size=[4, 3], counts='o' * 5000),
    'nothing': '{}',
    'number': '7',
    'binary': '\x00\x01',
}


@pytest.fixture(params=[1000, 5000])
def recursion(request):
    "A limit of recursion that another library may have set."
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(request.param)
    yield
    sys.setrecursionlimit(usual)


@pytest.mark.parametrize('name', HOSTILE)
def test_files_made_to_do_harm(tmp_path, name, recursion):
    with pytest.raises(ValueError, match='hostile.json') as caught:
        read_features(save(tmp_path / 'hostile.json', HOSTILE[name]))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_limits(tmp_path, monkeypatch):
    path = save(tmp_path / 'p.geojson', collection([({'class': 'tree'}, [on_ground(SQUARE)])] * 9, crs=None))
    monkeypatch.setattr(vectors, 'MAX_VERTICES', 20)
    with pytest.raises(ValueError, match='more than .* 20 vertices'):
        read_features(path)
    far = collection([({'class': 'tree'}, [[[0, 0], [1e300, 0], [1, 1]]])], crs=None)
    with warnings.catch_warnings(), pytest.raises(ValueError, match='vertex further than'):
        warnings.simplefilter('ignore')
        rasterise(read_features(save(tmp_path / 'q.geojson', far)), ISPRS, (40, 50), PLACE)
    monkeypatch.setattr(vectors, 'MAX_BYTES', 10)
    with pytest.raises(ValueError, match='larger than 10 bytes'):
        read_features(path)


def test_a_palette_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_palette(tmp_path / 'palette.json', ISPRS)
    write = type(path).write_text

    def half(self, text, **how):
        write(self, text[: len(text) // 2], **how)
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(type(path), 'write_text', half)
    with pytest.raises(OSError, match='No space left'):
        write_palette(path, DUBAI)
    assert read_palette(path) == ISPRS and list(tmp_path.iterdir()) == [path]


def test_drafts_of_what_is_no_reference(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match='more than 254 different colours'):
        legend([write_image(tmp_path / 'noise.tif', noise)])
    one = write_image(tmp_path / 'one.tif', np.zeros((2, 2, 1), np.uint8))
    three = write_image(tmp_path / 'three.tif', np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match='one palette for each kind'):
        legend([one, three])
    draft, counts = legend([three])
    assert (draft.colours, draft.values, counts) == (((0, 0, 0),), None, {'pixels': [4]})
    with Raster(three) as image, pytest.raises(ValueError, match='are for polygons'):
        open_labels(three, ISPRS, image, SimpleNamespace(background='tree'))


@pytest.mark.parametrize(
    'name', ['EPSG:999999', 'urn:ogc:def:crs:EPSG::999999', 'PROJCRS["x"]', 'GEOGCRS[', 7]
)
def test_an_unknown_coordinate_system_is_one_line(tmp_path, capfd, name):
    found = {'type': 'FeatureCollection', 'features': [], 'crs': {'properties': {'name': name}}}
    (tmp_path / 'a.geojson').write_text(json.dumps(found))
    with pytest.raises(
        ValueError, match='a.geojson names its coordinate system .*: write urn:ogc:def:crs:EPSG::'
    ):
        read_features(tmp_path / 'a.geojson')
    assert capfd.readouterr() == ('', '')
