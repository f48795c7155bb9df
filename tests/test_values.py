"The same ground in other types, with holes, and from other sensors: what reaches the network, and what is said."

import warnings
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from unetkit.datasets import Reading
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS
from unetkit.raster import Raster, write_image
from unetkit.rules import Remark
from unetkit.scale import predict_raster
from unetkit.raster import Georeference, open_image, read_label_map
from unetkit.scenes import synthetic_scene
from unetkit.tiles import Tile, read_tile
from unetkit.values import Values, measure

SCENE = synthetic_scene(192, 224, seed=3)
SMALL = dict(
    patch_size=32, width=4, depth=2, epochs=2, batch_size=8, device='cpu', precision='float32', seed=0
)
UTM = Georeference(rasterio.crs.CRS.from_epsg(32632).to_wkt(), (0.5, 0, 5e5, 0, -0.5, 5e6))
AFFINE = {  # Stored number = 8-bit number * gain + offset
    'uint16 of 0 to 3000': ('uint16', 3000 / 255, 0),
    'uint16 of 1000 to 4000': ('uint16', 3000 / 255, 1000),
    'uint16 of 11 bits': ('uint16', 2047 / 255, 0),
    'int16 below 0': ('int16', 10, -1500),
    'int32': ('int32', 1e5, 7),
    'float32 of 0 to 1': ('float32', 1 / 255, 0),
    'float64 in dB': ('float64', 0.1, -25),
}


def stored(name):
    "The scene in another type."
    dtype, gain, offset = AFFINE[name]
    numbers = SCENE.image * np.float64(gain) + offset
    return (numbers if dtype.startswith('float') else np.round(numbers)).astype(dtype)


def remarks(function, *arguments, **named):
    "The remarks that a call makes."
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        function(*arguments, **named)
    return [str(one.message) for one in found if issubclass(one.category, Remark)]


@pytest.fixture(scope='module')
def trained():
    "A model of the 8-bit scene; two epochs, because what it knows does not matter here."
    return ModelPipeline(ISPRS, **SMALL).fit(SCENE)


@pytest.mark.parametrize('name', AFFINE)
def test_every_type_reaches_the_network_on_one_scale(name):
    "A scene whose numbers are stretched is, after scaling, a stretched scene: apart from rounding and clipping, one straight line."
    tile = Tile(stored(name))
    scaled = measure([tile]).scale(tile.image)
    assert scaled.dtype == np.float32 and -0.5 <= scaled.min() and scaled.max() <= 1.5
    _, gain, _ = AFFINE[name]
    for band in range(3):
        eight, here = SCENE.image[..., band].astype(float), scaled[..., band]
        p, q = np.percentile(eight, (0.5, 99.5))  # the percentiles of a sample differ a little from these
        line = np.polyfit(eight.ravel(), here.ravel(), 1)
        assert line[0] == pytest.approx(1 / (q - p), rel=0.1)
        rounding = 0.5 / abs(gain) * line[0] if not AFFINE[name][0].startswith('float') else 1e-4
        inside = (here > -0.49) & (here < 1.49)
        assert np.abs(np.polyval(line, eight) - here)[inside].max() < rounding + 0.02


def test_two_types_of_one_range_train_alike():
    "Types whose scaled numbers agree give the same weights: what is learnt hangs on the numbers, not on the type."
    models = [
        ModelPipeline(ISPRS, **SMALL, limits=(0, 255)).fit(
            replace(SCENE, image=SCENE.image.astype(dtype), dtypes=())
        )
        for dtype in ('int16', 'float32')
    ]
    one, two = (model.model.state_dict() for model in models)
    assert all((one[name] == two[name]).all() for name in one)
    eight = ModelPipeline(ISPRS, **SMALL).fit(SCENE).model.state_dict()
    for name in one:  # divided by 255 before or after the change to float32: the last digit may differ
        np.testing.assert_allclose(one[name], eight[name], rtol=0.05, atol=5e-3)


@pytest.mark.parametrize('name', AFFINE)
def test_a_range_makes_a_stretched_scene_the_scene(name):
    "Told what stands for 0 and 255, the network sees the 8-bit scene, up to half a stored unit."
    dtype, gain, offset = AFFINE[name]
    scaled = measure([Tile(stored(name))], (offset, 255 * gain + offset)).scale(stored(name))
    rounding = 0 if dtype.startswith('float') else 0.5 / (255 * gain)
    np.testing.assert_allclose(scaled, SCENE.image / np.float32(255), atol=rounding + 1e-5)


def test_types_learn_the_same_map():
    "Two stretched copies, each measured by its own percentiles: only rounding differs, to 1/6000 of the range."
    maps = []
    for name in ('uint16 of 0 to 3000', 'float32 of 0 to 1'):
        tile = replace(SCENE, image=stored(name), dtypes=())
        maps.append(ModelPipeline(ISPRS, **SMALL).fit(tile).predict(tile))
    assert (maps[0] == maps[1]).mean() > 0.97


def test_a_range_is_kept_by_checkpoints_and_refused_for_8_bits(tmp_path):
    tile = replace(SCENE, image=stored('int16 below 0'), dtypes=())
    kept = tmp_path / 'run.safetensors'
    ModelPipeline(ISPRS, **SMALL, limits=(-1500, 1050)).fit(tile, checkpoint=kept)
    ModelPipeline(ISPRS, **SMALL, limits=(-1500, 1050)).fit(tile, checkpoint=kept)  # nothing left to do
    with pytest.raises(ValueError, match='values'):
        ModelPipeline(ISPRS, **SMALL, limits=(-1500, 2000)).fit(tile, checkpoint=kept)
    with pytest.raises(ValueError, match='8 bits, whose range is 0 to 255 always'):
        ModelPipeline(ISPRS, **SMALL, limits=(0, 100)).fit(SCENE)


def test_a_range_of_the_image(trained, tmp_path):
    "A model of 8 bits maps an image of 12 bits, from a file and in memory."
    path = write_image(tmp_path / 'deep.tif', stored('uint16 of 0 to 3000'))
    model = trained.save(tmp_path / 'model.safetensors')
    wide = ModelPipeline.load(model, 'cpu', 'float32', (0, 3000))
    assert remarks(wide.predict, path) == []
    out = predict_raster(wide, path, tmp_path / 'map.tif')
    np.testing.assert_array_equal(read_label_map(out), wide.predict(path))


def test_plugins_scale_as_we_do():
    "Deepness divides by 255, whatever the type, subtracts the mean and divides by the standard deviation."
    from unetkit.deploy import _for_deepness

    pipeline = ModelPipeline(ISPRS, **SMALL)
    pipeline.make([Tile(stored('uint16 of 1000 to 4000'))])
    about, pixels = _for_deepness(pipeline, None, None), stored('uint16 of 1000 to 4000')
    seen = (pixels / 255 - about['standardization_mean']) / about['standardization_std']
    np.testing.assert_allclose(np.clip(seen, -0.5, 1.5), pipeline.values.scale(pixels), atol=1e-4)


def test_nan_in_an_array_is_no_data(trained):
    image = SCENE.image.astype(np.float32)
    image[20:40, 30:60, 1] = np.nan
    tile = Tile(image, labels=SCENE.labels)
    assert not tile.valid[20:40, 30:60].any() and tile.valid.sum() == tile.valid.size - 600
    assert ((trained.predict(tile) == 255) == ~tile.valid).all()
    with pytest.raises(ValueError, match='no pixel holds data'):
        trained.predict(Tile(image * np.nan))


def test_models_of_earlier_versions():
    assert Values.of_type('uint16', 3).high == (65535,) * 3
    assert Values.of_type('uint8', 3).plain


def test_image_of_another_type(trained):
    assert remarks(trained.predict, SCENE) == []
    same = replace(SCENE, image=SCENE.image.astype(np.int32), dtypes=())
    (said,) = remarks(trained.predict, same)
    assert 'is of the type int32' in said
    with pytest.raises(ValueError, match='--range LOW,HIGH'):
        trained.predict(replace(SCENE, image=stored('uint16 of 0 to 3000'), dtypes=()))
    values = trained.values
    trained.values = values.with_range(0, 3000)
    try:
        again = trained.predict(replace(SCENE, image=stored('uint16 of 0 to 3000'), dtypes=()))
    finally:
        trained.values = values
    assert (again == trained.predict(SCENE)).mean() > 0.99  # rounding to 1/3000 decides a few close pixels


def test_what_does_not_fit_is_said(trained, tmp_path):
    dark = replace(SCENE, image=SCENE.image // 2)
    (said,) = remarks(trained.predict, dark)
    assert 'the map may be wrong' in said
    other = synthetic_scene(192, 224, seed=4)
    assert remarks(trained.predict, other) == []
    placed = replace(SCENE, georeference=UTM, bands=('red', 'green', 'blue'))
    model = ModelPipeline(ISPRS, **SMALL).fit(placed)
    assert remarks(model.predict, placed) == []
    coarse = replace(placed, georeference=replace(UTM, transform=(2, 0, 5e5, 0, -2, 5e6)))
    (said,) = remarks(model.predict, coarse)
    assert 'pixels of 2 m, the training images of 0.5 m' in said
    (said,) = remarks(model.predict, replace(placed, bands=('blue', 'green', 'red')))
    assert 'the bands blue, green, red' in said


def hole(size):
    "A round hole, and one at the border."
    rows, cols = np.indices(size)
    return (rows - 80) ** 2 + (cols - 100) ** 2 < 30**2, (rows > 150) & (cols < 40)


@pytest.mark.parametrize(
    ('dtype', 'fill'), [('uint8', 0), ('uint8', 255), ('uint16', 65535), ('float32', np.nan)]
)
def test_a_hole_harms_no_neighbour(trained, tmp_path, dtype, fill):
    "From a file, streamed or in memory, the same map; close to the hole nearly that of the whole image."
    empty = np.logical_or(*hole(SCENE.size))
    image = SCENE.image.astype(dtype)
    image[empty] = fill
    path = write_image(tmp_path / 'holed.tif', image)
    with rasterio.open(path, 'r+') as file:
        file.nodata = fill
    with Raster(path) as raster:
        assert (
            raster.valid() == ~empty
        ).all() or dtype == 'uint8'  # 8 bits: other pixels may hold the number too
        empty = ~raster.valid()
    tile = read_tile(path)
    in_memory = trained.predict(tile)
    out = predict_raster(trained, path, tmp_path / 'map.tif', memory=2e6)
    np.testing.assert_array_equal(read_label_map(out), in_memory)
    assert ((in_memory == 255) == empty).all()
    whole, near = trained.predict(SCENE), np.zeros_like(empty)
    near[50:111, 70:131] = True
    near &= ~empty
    assert (in_memory[near] == whole[near]).mean() > 0.85


def test_no_data_is_neither_learnt_nor_scored(tmp_path):
    empty = np.logical_or(*hole(SCENE.size))
    image = SCENE.image.astype(np.float32)
    image[empty] = np.nan
    labels = np.where(empty, 255, SCENE.labels).astype(np.uint8)
    tile = replace(SCENE, image=image, labels=labels, valid=~empty, dtypes=())
    model = ModelPipeline(ISPRS, **SMALL).fit(tile)
    assert np.isfinite([epoch.train_loss for epoch in model.history]).all()
    assert model.evaluate(tile).confusion_matrix.sum() == (labels != 255).sum()
    with pytest.raises(ValueError, match='no pixel holds data'):
        ModelPipeline(ISPRS, **SMALL).make([replace(tile, valid=np.zeros_like(empty))])


def test_a_height_band_beside_colours(tmp_path):
    heights = write_image(tmp_path / 'height.tif', SCENE.image[..., :1] / np.float32(20) + 430, UTM)
    image = write_image(tmp_path / 'image.tif', SCENE.image, UTM)
    with open_image(image, height=heights) as raster:
        tile = replace(read_tile(raster), labels=SCENE.labels)
    assert tile.dtypes == ('uint8', 'uint8', 'uint8', 'float32') and tile.bands[3] == 'height'
    model = ModelPipeline(ISPRS, **SMALL).fit(tile)
    assert model.values.low[:3] == (0, 0, 0) and model.values.high[:3] == (255, 255, 255)
    assert 429 < model.values.low[3] < model.values.high[3] < 444
    saved = ModelPipeline.load(model.save(tmp_path / 'model.safetensors'), precision='float32')
    assert saved.values == model.values
    with open_image(image, height=heights) as raster:
        out = predict_raster(saved, raster, tmp_path / 'map.tif', memory=2e6)
    np.testing.assert_array_equal(read_label_map(out), model.predict(tile))


@pytest.mark.parametrize('long', ['int32', 'uint32', 'int64', 'uint64'])
def test_long_integers_beside_fractions_keep_their_digits(tmp_path, long):
    "float32 has 24 bits: above 2**24 the tile would be a single number."
    numbers = SCENE.image[..., :1].astype(long) + 2**30
    names = write_image(tmp_path / 'long.tif', numbers, UTM), tmp_path / 'fractions.tif'
    write_image(names[1], SCENE.image[..., 1:2] / np.float32(255), UTM)
    with open_image(list(names)) as raster:
        assert raster.dtype == 'float64'
        tile = replace(read_tile(raster), labels=SCENE.labels)
    assert (tile.image[..., :1] == numbers).all() and tile.dtypes == (long, 'float32')
    model = ModelPipeline(ISPRS, **SMALL).fit(tile)
    low, high = model.values.low[0], model.values.high[0]
    scaled = model.values.scale(tile.image)
    np.testing.assert_allclose(
        scaled[..., 0], np.clip((numbers[..., 0] - low) / (high - low), -0.5, 1.5), atol=1e-6
    )
    assert scaled.dtype == np.float32
    with open_image(list(names)) as raster:
        out = predict_raster(model, raster, tmp_path / 'map.tif', memory=2e6)
    np.testing.assert_array_equal(read_label_map(out), model.predict(tile))


@pytest.mark.parametrize('text', ['5', '5,5', '9,3', 'nan,1', '1,inf', '1,2,3'])
def test_a_range_is_checked_when_it_is_given(text):
    with pytest.raises(ValueError, match='range'):
        Reading(range=text)
