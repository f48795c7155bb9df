"The front door: cheap to import, a dozen names, and the example of the README."

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

import unetkit as uk
from unetkit.labels import labels_to_colours
from unetkit.palettes import write_palette
from unetkit.raster import write_image

SMALL = dict(
    patch_size=32, epochs=2, batch_size=8, width=4, depth=2, lr=3e-3, device='cpu', precision='float32'
)


def test_import_is_cheap():
    "Processor time, not the clock: other processes may be busy."
    program = (
        'import sys, time; start = time.process_time(); import unetkit; '
        'print(time.process_time() - start, [m for m in ("torch", "numpy", "rasterio") if m in sys.modules])'
    )
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    seconds, loaded = run.stdout.strip().split(' ', 1)
    assert float(seconds) < 0.1 and loaded == '[]'


def test_names():
    for name in uk.__all__:
        assert getattr(uk, name) is not None and name in dir(uk)
    with pytest.raises(AttributeError, match='no attribute .boat.: it has DUBAI, ISPRS, ModelPipeline'):
        uk.boat  # noqa: B018


def test_a_remark_is_one_plain_line(tmp_path):
    "In a script, as in a notebook; other warnings are as always, and filters of warnings hold."
    script = tmp_path / 'script.py'
    script.write_text(
        'import warnings; from unetkit.rules import remark; remark("one"); warnings.warn("two")\n'
    )

    def printed(*options):
        run = subprocess.run([sys.executable, *options, script], capture_output=True, text=True)
        return run.returncode, run.stderr

    code, err = printed()
    first, *rest = err.splitlines()
    assert (code, first) == (0, 'note: one') and 'script.py:1: UserWarning: two' in rest[0]
    assert printed('-W', 'ignore') == (0, '')
    code, err = printed('-W', 'error')
    assert code == 1 and err.endswith('unetkit.rules.Remark: one\n')


def test_nbdev_keeps_what_is_written_by_hand(tmp_path):
    from nbdev.config import update_version

    written = Path(uk.__file__)
    (tmp_path / 'unetkit').mkdir()
    copy = Path(shutil.copy(written, tmp_path / 'unetkit'))
    copy.write_text(copy.read_text().replace(uk.__version__, '0.0.0'))
    update_version(copy.parent)
    assert copy.read_text() == written.read_text()


@pytest.fixture(scope='module')
def model():
    return uk.ModelPipeline(uk.ISPRS, **SMALL).fit(uk.scene(160, 192, seed=1))


def test_one_tile_or_several(model):
    test = uk.scene(96, 128, seed=2)
    one, several = model.evaluate(test), model.evaluate([test, test])
    assert (
        one.accuracy == several.accuracy and 2 * one.confusion_matrix.sum() == several.confusion_matrix.sum()
    )
    assert 'building' in str(one)


def test_palette_by_name_or_file(tmp_path):
    "A palette is a name or a file in Python too, and a path is no tile."
    scene, file = uk.scene(64, 64, seed=3), tmp_path / 'classes.json'
    write_image(tmp_path / 'image.tif', scene.image)
    write_image(tmp_path / 'reference.tif', labels_to_colours(scene.labels, uk.ISPRS))
    write_palette(file, uk.ISPRS)
    for palette in ('isprs', file, uk.ISPRS):
        tile = uk.read(tmp_path / 'image.tif', tmp_path / 'reference.tif', palette)
        assert np.array_equal(tile.labels, scene.labels)
        pipeline = uk.ModelPipeline(palette, **SMALL)
        assert pipeline.palette == uk.ISPRS
    with pytest.raises(ValueError, match='is a path.*read'):
        pipeline.fit('image.tif')


def test_map_in_memory_and_in_a_file(model, tmp_path):
    test = uk.scene(96, 128, seed=2)
    out = model.predict(test, out=tmp_path / 'map.tif')
    with rasterio.open(out) as raster:
        np.testing.assert_array_equal(raster.read(1), model.predict(test))
        assert raster.crs.to_wkt() == test.georeference.crs
        assert raster.colormap(1)[0][:3] == uk.ISPRS.colours[0]


def test_a_file_is_mapped_window_by_window(model, tmp_path):
    from unetkit.raster import write_image

    test = uk.scene(96, 128, seed=2)
    image = write_image(tmp_path / 'image.tif', test.image, test.georeference)
    out = model.predict(image, out=tmp_path / 'map.tif')
    with rasterio.open(out) as raster:
        np.testing.assert_array_equal(raster.read(1), model.predict(image))
    np.testing.assert_array_equal(model.predict(image), model.predict(test))


def test_changes_and_settings():
    plain = uk.ModelPipeline(uk.ISPRS, uk.REPORT, epochs=3, device='cpu')
    assert (plain.settings.epochs, plain.settings.loss) == (3, 'weighted_cross_entropy')
    assert uk.ModelPipeline(uk.ISPRS).settings == uk.Settings()


@pytest.mark.parametrize('kind', ['nodata', 'alpha'])
@pytest.mark.parametrize('method', ['exact', 'patches'])
def test_the_same_map_in_python_and_at_the_command_line(model, tmp_path, kind, method):
    from unetkit.cli import main
    from unetkit.raster import write_image

    test = uk.scene(96, 128, seed=2)
    hole = np.zeros(test.size, bool)
    hole[10:40, 20:50] = True
    pixels = np.where(hole[..., None], 0, np.maximum(test.image, 1))
    if kind == 'alpha':
        pixels = np.dstack([pixels, np.where(hole, 0, 255).astype(np.uint8)])
    image = write_image(tmp_path / 'image.tif', pixels, test.georeference)
    with rasterio.open(image, 'r+') as raster:
        if kind == 'alpha':
            raster.colorinterp = [
                rasterio.enums.ColorInterp[name] for name in ('red', 'green', 'blue', 'alpha')
            ]
        else:
            raster.nodata = 0
    file, out = model.save(tmp_path / 'model.safetensors'), tmp_path / 'map.tif'
    words = [
        'predict',
        file,
        image,
        '--out',
        out,
        '--method',
        method,
        '--device',
        'cpu',
        '--precision',
        'float32',
    ]
    assert main([str(word) for word in words]) == 0
    in_python = model.predict(image, method=method)
    np.testing.assert_array_equal(in_python == 255, hole)
    with rasterio.open(out) as raster:
        np.testing.assert_array_equal(raster.read(1), in_python)
    np.testing.assert_array_equal(model.predict(uk.read(image), method=method), in_python)
