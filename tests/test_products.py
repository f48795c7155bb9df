"Polygons, areas, objects and confidence of a map: what is written is the map, in every coordinate system."

import csv
import json
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from scipy import ndimage

from unetkit.datasets import read
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS
from unetkit.metrics import Scores
from unetkit.products import (
    Ground,
    adjusted_areas,
    areas,
    read_scores,
    write_areas,
    write_polygons,
    write_scores,
)
from unetkit.raster import Georeference, read_image, write_image, write_label_map
from unetkit.rules import Remark
from unetkit.scale import confidence_file, predict_raster, probabilities_file
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings

UTM = CRS.from_epsg(32632)
OWN = CRS.from_proj4('+proj=laea +lat_0=10 +lon_0=33 +datum=WGS84 +units=m')  # a system without a number
PLACES = {
    'utm': (UTM, (0.09, 0, 496000.1, 0, -0.09, 5420000.3)),
    'turned': (UTM, (0.3, 0.4, 496000.1, 0.4, -0.3, 5420000.3)),
    'south up': (UTM, (0.5, 0, 496000, 0, 0.5, 5420000)),
    'degrees': (CRS.from_epsg(4326), (1e-6, 0, 8.1, 0, -1e-6, 48.3)),
    'feet': (CRS.from_epsg(2263), (1.5, 0, 980000, 0, -1.5, 200000)),
    'mercator': (CRS.from_epsg(3857), (1.0, 0, 1e6, 0, -1.0, 8.4e6)),
    'own': (OWN, (3.7, 0.2, 1000, 0.1, -3.3, 50000)),
    'local': (CRS.from_wkt('LOCAL_CS["x",UNIT["metre",1]]'), (0.5, 0, 7, 0, -0.5, 9)),
    'no system': (None, (0.5, 0, 7, 0, -0.5, 9)),
}
quiet = pytest.mark.filterwarnings('ignore::unetkit.rules.Remark')


def placed(name):
    crs, transform = PLACES[name]
    return Georeference(crs.to_wkt() if crs else None, transform)


def specks(seed=0, size=(30, 40)):
    "A map with objects of every kind: single pixels, holes, corners that touch, no data."
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, size, np.uint8)
    labels[: size[0] // 2] = ndimage.zoom(labels[: size[0] // 2 : 5, ::5], 5, order=0)[
        : size[0] // 2, : size[1]
    ]
    labels[rng.random(size) < 0.1] = 255
    return labels


def rings_of(wkb):
    "The rings of a polygon in well-known binary."
    at, rings = 9, []
    for _ in range(struct.unpack('<I', wkb[5:9])[0]):
        points = struct.unpack('<I', wkb[at : at + 4])[0]
        rings.append(np.frombuffer(wkb, '<f8', 2 * points, at + 4).reshape(-1, 2).tolist())
        at += 4 + 16 * points
    return {'type': 'Polygon', 'coordinates': rings}


def read_polygons(path):
    "The system of a file of polygons, their outlines and their properties, as GDAL reads them."
    raw = pytest.importorskip('pyogrio.raw', reason='pyogrio reads the polygons; it is in [vector] and [dev]')
    about, _, outlines, columns = raw.read(path)
    rows = [dict(zip(about['fields'], row)) for row in zip(*columns)]
    return about['crs'], [rings_of(wkb) for wkb in outlines], rows


def burnt(outlines, rows, size, transform):
    pairs = [(outline, int(row['class_index'])) for outline, row in zip(outlines, rows)]
    return rasterize(pairs, size, fill=255, transform=Affine(*transform), dtype='uint8')


@quiet
@pytest.mark.parametrize('ending', ['.geojson', '.gpkg'])
@pytest.mark.parametrize('place', PLACES)
def test_polygons_are_the_map_for_every_reader(tmp_path, place, ending):
    labels, where = specks(), placed(place)
    path = write_polygons(tmp_path / f'map{ending}', labels, ISPRS, georeference=where)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    crs, outlines, rows = read_polygons(path)
    if PLACES[place][0] is not None:
        assert CRS.from_user_input(crs) == PLACES[place][0]
    np.testing.assert_array_equal(burnt(outlines, rows, labels.shape, where.transform), labels)
    assert len(rows) == sum(ndimage.label(labels == index)[1] for index in range(6))
    assert {row['class'] for row in rows} == set(ISPRS.names)
    unit = 'px' if place in ('local', 'no system') else 'm2'
    per_class = areas(labels, ISPRS, georeference=where)
    check_same(per_class, rows, unit)


@quiet
@pytest.mark.parametrize('ending', ['.geojson', '.gpkg'])
@pytest.mark.parametrize('place', [*PLACES, None])
def test_polygons_are_read_back_as_a_reference(tmp_path, place, ending):
    labels, where = specks(), placed(place) if place else None
    path = write_polygons(tmp_path / f'map{ending}', labels, ISPRS, georeference=where)
    image = write_image(tmp_path / 'image.tif', np.ones((*labels.shape, 3), np.uint8), where)
    if place is None and ending == '.gpkg':  # it cannot say that its coordinates are pixels
        with pytest.raises(ValueError, match='does not say where it lies'):
            read(image, path, ISPRS, label_column='class')
        return
    np.testing.assert_array_equal(read(image, path, ISPRS, label_column='class').labels, labels)


def test_polygons_in_pixels_belong_to_an_image_of_their_size(tmp_path):
    path = write_polygons(tmp_path / 'map.geojson', specks(), ISPRS)
    image = write_image(tmp_path / 'image.tif', np.ones((40, 30, 3), np.uint8))
    with pytest.raises(ValueError, match='is drawn on 30 x 40 pixels, but .* has 40 x 30'):
        read(image, path, ISPRS, label_column='class')
    for size in (7, {'rows': 30}, {'rows': -1, 'columns': 2}, [30, 40]):
        found = json.loads(path.read_text()) | {'image_size': size}
        (tmp_path / 'bad.geojson').write_text(json.dumps(found))
        with pytest.raises(ValueError, match='bad.geojson announces an image of'):
            read(image, tmp_path / 'bad.geojson', ISPRS, label_column='class')


@settings(max_examples=25, deadline=None)
@given(
    arrays(
        np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2, 255])
    )
)
def test_any_map(labels):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_polygons(f'{folder}/map.geojson', labels, ISPRS, confidence=np.full(labels.shape, 0.25))
        features = json.loads(path.read_text())['features']
    rows = [feature['properties'] for feature in features]
    outlines = [feature['geometry'] for feature in features]
    if rows:
        np.testing.assert_array_equal(burnt(outlines, rows, labels.shape, Affine.identity()[:6]), labels)
    assert sum(row['area_px'] for row in rows) == (labels != 255).sum()
    assert all(row['confidence'] == 0.25 for row in rows)


def test_area_of_degrees_and_of_mercator_is_that_of_the_ground():
    "Against the formula of a zone of the ellipsoid, and against UTM, whose scale is known."
    a, f = 6378137.0, 1 / 298.257223563
    e = np.sqrt(f * (2 - f))

    def zone(latitude):  # area from the equator to a latitude, for one degree of longitude
        s = np.sin(np.radians(latitude))
        return np.radians(1) * a**2 * (1 - e**2) * (s / (1 - e**2 * s**2) + np.arctanh(e * s) / e) / 2

    ground = Ground(Georeference(CRS.from_epsg(4326).to_wkt(), (1, 0, 170, 0, -1, 80)), (100, 20))
    expected = -np.diff([zone(latitude) for latitude in range(80, -21, -1)])
    found = ground.strip(0, 100) * np.ones((100, 20))  # across the date line
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 20, 1), rtol=1e-9)

    with pytest.warns(Remark, match='on the plane of the map they are off by'):
        mercator = Ground(Georeference(CRS.from_epsg(3857).to_wkt(), (10, 0, 1e6, 0, -10, 8.4e6)), (50, 50))
    latitude = np.degrees(np.arctan(np.sinh((8.4e6 - 250) / a)))
    scale = np.sqrt(1 - (e * np.sin(np.radians(latitude))) ** 2) / np.cos(np.radians(latitude))
    # Web Mercator's scale along a parallel; along a meridian it lacks the curvature of the ellipsoid
    along = (1 - e**2) / (1 - (e * np.sin(np.radians(latitude))) ** 2) ** 1.5
    across = along * np.cos(np.radians(latitude))
    assert mercator.pixel == pytest.approx(100 * across / scale, rel=2e-4)


def check_same(per_class, polygons, unit):
    "The table of areas is about the polygons: as many objects, and their areas."
    for index, row in enumerate(per_class):
        own = [one[f'area_{unit}'] for one in polygons if one['class_index'] == index]
        assert (row['objects'], sum(own)) == (len(own), pytest.approx(row[f'area_{unit}'], rel=1e-9))


@pytest.mark.parametrize('pixels', [1, 2, 5, 30, 4000])
@pytest.mark.parametrize('seed', range(3))
def test_areas_are_those_of_the_polygons(tmp_path, seed, pixels):
    "Whatever joins a neighbour or has none is counted and measured as it is drawn; adjusted areas stay those of the map."
    labels = specks(seed, (60, 50))
    labels[labels == 5] = 255
    labels[20:40] = 255
    labels[25:27, 3:6], labels[30, 30] = 2, 1  # islands
    where, scores = placed('utm'), Scores(np.diag([50] * 6) + 1, ISPRS.names)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Remark)
        path = write_polygons(
            tmp_path / 'a.geojson', labels, ISPRS, georeference=where, min_area=pixels * 0.09**2
        )
        rows = areas(labels, ISPRS, georeference=where, min_area=pixels * 0.09**2, errors=scores)
        whole = areas(labels, ISPRS, georeference=where, errors=scores)
    polygons = [one['properties'] for one in json.loads(path.read_text())['features']]
    check_same(rows, polygons, 'm2')
    for key in ('adjusted_area_m2', 'standard_error_m2'):
        assert [row[key] for row in rows] == [row[key] for row in whole]


def test_small_objects_join_their_largest_neighbour(tmp_path):
    labels = np.zeros((30, 40), np.uint8)
    labels[:, 20:] = 1
    labels[5, 5], labels[6, 30:32], labels[10:13, 3:6] = 2, 2, 2  # 1, 2 and 9 pixels
    labels[20:, :10], labels[25, 5] = 255, 3  # an island
    where = placed('utm')
    with pytest.warns(Remark, match='1 objects smaller than min_area'):
        path = write_polygons(tmp_path / 'a.geojson', labels, ISPRS, georeference=where, min_area=3 * 0.09**2)
    features = json.loads(path.read_text())['features']
    expected = labels.copy()
    expected[5, 5], expected[6, 30:32], expected[25, 5] = 0, 1, 255
    pairs = [(one['geometry'], one['properties']['class_index']) for one in features]
    grid = Affine(*where.transform)
    found = rasterize(pairs, labels.shape, fill=255, transform=grid, dtype='uint8')
    np.testing.assert_array_equal(found, expected)
    for wrong in (-1, float('nan'), 'much'):
        with pytest.raises(ValueError, match='min_area must be'):
            write_polygons(tmp_path / 'b.geojson', labels, ISPRS, min_area=wrong)
    assert [file.name for file in tmp_path.iterdir()] == ['a.geojson']


def test_a_map_without_data_and_a_map_of_one_class(tmp_path):
    nothing, one = np.full((5, 6), 255, np.uint8), np.full((5, 6), 2, np.uint8)
    path = write_polygons(tmp_path / 'a.geojson', nothing, ISPRS, georeference=placed('utm'), min_area=2)
    assert json.loads(path.read_text())['features'] == []
    assert all(row['pixels'] == row['objects'] == 0 for row in areas(nothing, ISPRS))
    path = write_polygons(tmp_path / 'a.geojson', one, ISPRS, min_area=1e9)
    assert [row['properties']['area_px'] for row in json.loads(path.read_text())['features']] == [30]


def test_confidence_of_a_map(tmp_path):
    "Beside the map, and its mean in every polygon; a run that was interrupted knows that it was asked for."
    tiny = dict(patch_size=32, epochs=1, width=4, depth=1, split='random', precision='float32', device='cpu')
    model = ModelPipeline(ISPRS, Settings(**tiny)).fit([synthetic_scene(96, 96, seed=1)])
    scene = synthetic_scene(40, 48, seed=2)
    image = write_image(tmp_path / 'image.tif', scene.image, scene.georeference)
    out = predict_raster(model, image, tmp_path / 'map.tif', confidence=True, probabilities=True, memory=5e6)
    sure, shares = read_image(confidence_file(out)), read_image(probabilities_file(out))
    np.testing.assert_array_equal(sure[..., 0], shares.max(-1))
    second = np.sort(shares, -1)[..., -2]
    assert np.abs(sure[..., 0].astype(int) - second - sure[..., 1]).max() <= 2  # each is rounded
    path = write_polygons(tmp_path / 'map.geojson', out, ISPRS, confidence=confidence_file(out))
    grid = Affine(*scene.georeference.transform)
    for one in json.loads(path.read_text())['features']:
        own = rasterize([one['geometry']], scene.size, transform=grid) == 1
        assert one['properties']['confidence'] == pytest.approx(sure[own, 0].mean() / 254, abs=6e-5)
    for other in (image, probabilities_file(out)):
        with pytest.raises(ValueError, match='is no confidence of a map of 40 x 48 pixels'):
            write_polygons(tmp_path / 'other.geojson', out, ISPRS, confidence=other)


def test_adjusted_areas_are_unbiased_and_their_errors_honest():
    "A map with errors and its truth, sampled by strata a thousand times: mean and spread are as stated."
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 60_000, p=[0.7, 0.25, 0.05])
    confused = rng.choice(3, (3, 60_000), p=[0.2, 0.5, 0.3])[truth, np.arange(60_000)]
    label_map = np.where(rng.random(60_000) < 0.85, truth, confused)
    mapped = np.bincount(label_map, minlength=3)
    strata = [np.flatnonzero(label_map == index) for index in range(3)]
    found, errors = [], []
    for _ in range(1000):
        sample = np.concatenate([rng.choice(pixels, 80) for pixels in strata])
        matrix = np.zeros((3, 3), int)
        np.add.at(matrix, (truth[sample], label_map[sample]), 1)
        area, error = adjusted_areas(matrix, mapped)
        found.append(area)
        errors.append(error)
    found, errors = np.array(found), np.array(errors)
    actual = np.bincount(truth, minlength=3)
    spread = found.std(0, ddof=1)
    assert (np.abs(found.mean(0) - actual) < 5 * spread / np.sqrt(1000)).all()  # five standard errors
    assert (np.abs(mapped - actual) > 5 * spread / np.sqrt(1000)).all()  # the map itself is biased
    # the spread of 1000 values is known to 2.2 %; five times that
    np.testing.assert_allclose(np.sqrt((errors**2).mean(0)), spread, rtol=0.11)
    np.testing.assert_allclose(found.sum(1), 60_000)


def test_what_is_not_sampled_is_not_known(tmp_path):
    matrix = np.array([[5, 0, 0], [1, 0, 0], [0, 0, 1]])
    area, error = adjusted_areas(matrix, [60, 0, 0])  # classes without area need no sample
    np.testing.assert_allclose(area, [50, 10, 0])
    area, error = adjusted_areas(matrix, [60, 30, 10])
    assert np.isnan(area).all() and np.isnan(error).all()
    area, error = adjusted_areas(matrix, [60, 0, 10])  # one sampled pixel gives an area, and no error
    np.testing.assert_allclose(area, [50, 10, 10])
    assert np.isnan(error).all()
    with pytest.raises(ValueError, match=r'the error matrix is \(3, 3\), the map has 2 classes'):
        adjusted_areas(matrix, [1, 2])


def test_areas_as_csv(tmp_path):
    labels = specks(3, (60, 50))
    labels[labels == 5] = 255
    file = write_label_map(tmp_path / 'map.tif', labels, ISPRS.colours, placed('utm'))
    matrix = np.diag([50] * 6) + 1
    matrix[:, 4] = 0  # cars are on the map, and not in the sample
    scores = write_scores(tmp_path / 'scores.json', Scores(matrix, ISPRS.names))
    with pytest.warns(
        Remark, match='areas cannot be adjusted: the scores hold no pixel that was mapped as car'
    ):
        rows = areas(file, ISPRS, errors=read_scores(scores, ISPRS.names))
    with open(write_areas(tmp_path / 'areas.csv', rows), newline='') as text:
        read = list(csv.DictReader(text))
    for index, row in enumerate(read):
        own = labels == index
        assert (row['class'], int(row['pixels'])) == (ISPRS.names[index], own.sum())
        assert float(row['area_m2']) == pytest.approx(own.sum() * 0.09**2)
        assert float(row['share']) == pytest.approx(own.sum() / (labels != 255).sum())
        assert int(row['objects']) == ndimage.label(own)[1]
        assert row['adjusted_area_m2'] == row['standard_error_m2'] == ''


HOSTILE = [
    b'',
    b'[]',
    b'{"confusion_matrix": [[1]]}',
    b'{"confusion_matrix": [[1.5]], "per_class": {"a": 1}}',
    b'{"confusion_matrix": [[-1]], "per_class": {"a": 1}}',
    b'{"confusion_matrix": [[1, 2], [3]], "per_class": {"a": 1, "b": 2}}',
    b'{"confusion_matrix": [[1e400]], "per_class": {"a": 1}}',
    b'{"confusion_matrix": [[' + b'9' * 400 + b']], "per_class": {"a": 1}}',
    b'[' * 100_000,
    b'\xff\xfe',
]


@pytest.mark.parametrize('data', HOSTILE, ids=range(len(HOSTILE)))
def test_other_files_are_no_scores(tmp_path, data):
    (tmp_path / 'scores.json').write_bytes(data)
    with pytest.raises(ValueError, match='scores.json'):
        read_scores(tmp_path / 'scores.json')


def test_what_is_no_map_is_refused(tmp_path):
    image = write_image(tmp_path / 'image.tif', np.zeros((8, 8, 3), np.uint8))
    deep = write_image(tmp_path / 'deep.tif', np.zeros((8, 8, 1), np.uint16))
    for wrong, said in [
        (image, '3 bands of uint8'),
        (deep, '1 bands of uint16'),
        (np.zeros((8, 8), int), 'must be uint8'),
        (np.full((8, 8), 6, np.uint8), 'the label map holds the class 6, but the palette has 6 classes'),
    ]:
        for function in (areas, lambda *what: write_polygons(tmp_path / 'a.geojson', *what)):
            with pytest.raises(ValueError, match=said):
                function(wrong, ISPRS)
    with pytest.raises(ValueError, match='nowhere on the Earth'):
        where = Georeference(CRS.from_epsg(4326).to_wkt(), (1, 0, 0, 0, -1, 500))
        write_polygons(tmp_path / 'a.geojson', np.zeros((8, 8), np.uint8), ISPRS, georeference=where)
    with pytest.raises(OSError, match='it is a folder'), warnings.catch_warnings():
        (tmp_path / 'b.geojson').mkdir()
        write_polygons(tmp_path / 'b.geojson', np.zeros((8, 8), np.uint8), ISPRS)
