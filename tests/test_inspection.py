"What `inspect` finds in sets with known faults, and how remarks are passed on."

import json
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from helpers import shell, succeeds

from unetkit import inspection
from unetkit.datasets import Reading, ahead, training_tiles
from unetkit.inspection import inspect, remarks_to
from unetkit.labels import ISPRS, labels_to_colours
from unetkit.raster import Georeference, write_image
from unetkit.rules import remark
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings

UTM33 = CRS.from_epsg(32633).to_wkt()
SMALL = Settings(width=4, depth=2, patch_size=32, split='random', device='cpu', precision='float32')
OPTIONS = '--width 4 --depth 2 --patch-size 32 --split random --device cpu --precision float32'.split()


@pytest.fixture(autouse=True)
def no_time(monkeypatch):
    "Steps are not timed here; one test does it."
    monkeypatch.setattr(inspection, 'seconds_per_step', lambda *args: 0.5)


@pytest.fixture(scope='module')
def chips(tmp_path_factory):
    "Twelve chips of 64 x 64 pixels with their references."
    folder = tmp_path_factory.mktemp('chips')
    scene = synthetic_scene(192, 256, seed=5)
    colours = labels_to_colours(scene.labels, ISPRS)
    for number in range(12):
        row, col = divmod(number, 4)
        here = np.s_[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64]
        write_image(folder / 'images' / f'{number:02}.tif', scene.image[here])
        write_image(folder / 'masks' / f'{number:02}.tif', colours[here])
    return folder, scene


def copy(chips, tmp_path):
    shutil.copytree(chips[0], tmp_path / 'set')
    return tmp_path / 'set' / 'images', tmp_path / 'set' / 'masks'


def test_shares_and_work(chips):
    folder, scene = chips
    found = inspect(folder / 'images', folder / 'masks', ISPRS, settings=SMALL)
    assert found.counts == np.bincount(scene.labels.ravel(), minlength=6).tolist()
    assert (found.unscored, found.no_data, found.duplicates, found.faults) == (0, 0, [], [])
    assert found.sampled == 'every pixel was read'
    assert found.values[0][0] == scene.image[..., 0].min() and found.values[2][4] == scene.image[..., 2].max()
    assert found.cost.windows + found.cost.validation == 12 * 4
    assert found.cost.steps == -(-found.cost.windows // 10)


def test_odd_chips(chips, tmp_path):
    "A copy, another size, another type, no label, one class: each is named."
    images, masks = copy(chips, tmp_path)
    shutil.copy(images / '00.tif', images / '03.tif')
    write_image(images / '04.tif', np.zeros((40, 64, 3), np.uint8))
    write_image(masks / '04.tif', np.zeros((40, 64, 3), np.uint8))  # black is ignored
    write_image(masks / '05.tif', np.full((64, 64, 3), (0, 255, 0), np.uint8))
    found = inspect(images, masks, ISPRS, settings=SMALL)
    assert [[path.name for path in group] for group in found.duplicates] == [['00.tif', '03.tif']]
    odd = '\n'.join(found.odd)
    assert '1 of 40 x 64 pixels' in odd and 'no scored pixel: 04.tif' in odd
    assert '1 with one class only: 05.tif' in odd
    assert found.unscored == pytest.approx(40 * 64 / (11 * 64 * 64 + 40 * 64))


def test_bands_that_training_refuses(chips, tmp_path):
    "A chip with another number or type of bands: training would refuse it, and so the page says."
    for name, odd in (('band', np.zeros((64, 64, 1), np.uint8)), ('type', np.zeros((64, 64, 3), np.uint16))):
        images, masks = copy(chips, tmp_path / name)
        write_image(images / '02.tif', odd)
        found = inspect(images, masks, ISPRS, settings=SMALL)
        assert '02.tif' in found.cost.problem and 'the same bands everywhere' in found.cost.problem


def test_two_sizes_are_no_majority(tmp_path):
    "Of two images that differ, neither is what most are."
    images = tmp_path / 'images'
    images.mkdir()
    for name, side in (('a', 64), ('b', 48)):
        write_image(images / f'{name}.tif', np.zeros((side, 64, 3), np.uint8))
    (odd,) = inspect(images).odd
    assert 'others are' in odd and 'most' not in odd


def test_a_validation_folder_is_used(chips, tmp_path):
    "Windows are counted as training counts them where a folder val lies beside train."
    for part in ('train', 'val'):
        shutil.copytree(chips[0], tmp_path / part)
    found = inspect(tmp_path, tmp_path, ISPRS, settings=SMALL)
    assert (found.cost.windows, found.cost.validation) == (12 * 4, 12 * 4)
    assert any('validation is on the 12 images of' in text for text in found.remarks)
    with remarks_to((said := []).append):
        train, valid = training_tiles(tmp_path, tmp_path, ISPRS)
    assert len(valid) == 12 and any('validation is on the 12 images of' in text for text in said)


def test_faults_are_listed(chips, tmp_path):
    "Broken files among sound ones are named; if there is no sound one, the command ends with one line."
    images, masks = copy(chips, tmp_path)
    (images / '01.tif').write_bytes(b'no image')
    write_image(masks / '02.tif', np.full((64, 64, 3), 77, np.uint8))
    found = inspect(images, masks, ISPRS, settings=SMALL)
    assert len(found.images) == 10 and len(found.faults) == 2
    assert '01.tif' in found.faults[0] and 'unknown colour (77, 77, 77)' in found.faults[1]
    code, out, err = shell('inspect', images / '01.tif')
    assert (code, out, err.count('\n')) == (2, '', 1)


def test_nan_and_place(tmp_path):
    pixels = np.linspace(0, 1, 50 * 60, dtype=np.float32).reshape(50, 60, 1)
    pixels[:25] = np.nan
    place = Georeference(UTM33, (0.5, 0, 400000, 0, -0.5, 5000000))
    image = write_image(tmp_path / 'a.tif', pixels, place)
    found = inspect(image)
    assert found.no_data == 0.5 and found.values[0][0] == pytest.approx(0.5, abs=1e-3)
    assert 'EPSG:32633' in found.text and 'pixels of 0.5 metres' in found.text
    assert 'x 400000 to 400030, y 4999975 to 5000000' in found.text
    assert found.cost is None


def test_a_large_raster_is_sampled(tmp_path):
    "The sample is stated, and its shares are near those of the whole."
    path = tmp_path / 'large.tif'
    profile = dict(driver='GTiff', count=1, dtype='uint8', transform=rasterio.Affine(1, 0, 5, 0, -1, 5))
    profile |= dict(tiled=True, blockxsize=512, blockysize=512)
    with rasterio.open(path, 'w', height=12000, width=12000, sparse_ok=True, **profile):
        pass
    found = inspect(path)
    assert found.sampled.startswith('a sample: 2.9% of the pixels, in 1 of 1 images')


def test_without_palette(chips, tmp_path):
    folder, scene = chips
    found = inspect(folder / 'images', folder / 'masks', settings=SMALL)
    assert found.unscored is None
    assert found.meanings['#00ff00'] == pytest.approx((scene.labels == 3).mean())
    assert 'give a palette' in found.text


def test_model(chips, tmp_path):
    folder, _ = chips
    model = tmp_path / 'm.safetensors'
    pair = folder / 'images', folder / 'masks'
    succeeds('train', *pair, '--out', model, '--epochs', 1, *OPTIONS)
    assert inspect(*pair, model=model, settings=SMALL).fits
    write_image(tmp_path / 'grey.tif', np.zeros((64, 64, 1), np.uint8))
    found = inspect(tmp_path / 'grey.tif', model=model)
    assert found.fits is False and 'does not fit' in found.text and '1 band' in found.text


def test_what_cannot_be_trained(chips):
    folder, _ = chips
    found = inspect(folder / 'images', folder / 'masks', ISPRS, settings=Settings(patch_size=128))
    assert 'larger than the tile' in found.cost.problem and 'not yet' in found.text


def test_page_and_command(chips, tmp_path):
    folder, _ = chips
    page, pair = tmp_path / 'page.html', (folder / 'images', folder / 'masks')
    printed = succeeds('inspect', *pair, '--palette', 'isprs', '--html', page, *OPTIONS)
    assert 'every pixel was read' in printed and printed.endswith(f'wrote {page}\n')
    text = page.read_text()
    assert '<h1>unetkit inspect: images, 12 images</h1>' in text
    one = inspect(folder / 'images' / '03.tif').html()
    assert '<title>unetkit inspect: 03.tif</title>' in one
    assert text.count('<img') == 6 and 'src="data:' in text and 'http' not in text
    code, out, err = shell('inspect', *pair, '--html', folder / 'masks' / '00.tif')
    assert code == 2 and 'would be lost' in err


def test_time_is_estimated(monkeypatch):
    monkeypatch.undo()
    assert 0 < inspection.seconds_per_step(SMALL, 3, 2, 0.01) < 60


def test_remarks():
    said = []

    def many(count):
        for number in range(count):
            remark(f'chip {number}')

    with remarks_to(said.append), warnings.catch_warnings():
        many(3)
        many(3)
    assert said == ['chip 0', 'chip 1', 'chip 2']
    said.clear()
    with pytest.raises(ValueError), remarks_to(said.append):
        many(1000)
        raise ValueError
    assert said[3:] == ['and 997 more like: chip 0']


def test_remarks_of_threads():
    "Filters of warnings in one thread take nothing from another; what is read ahead speaks to who asked for it."
    said, entered, leave = [], Event(), Event()

    def silent():
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            entered.set()
            leave.wait(10)

    def speaker(name):
        own = []
        with remarks_to(own.append, most=1000):
            for number in range(200):
                remark(f'{name} {number}')
        return own

    with ThreadPoolExecutor(5) as pool:
        pool.submit(silent)
        assert entered.wait(10)
        with remarks_to(said.append):
            remark('heard')
            list(ahead(lambda item: remark(f'read {item}'), [1, 2]))
        leave.set()
        assert said == ['heard', 'read 1', 'read 2']
        for name, own in zip('abcd', pool.map(speaker, 'abcd'), strict=True):
            assert own == [f'{name} {number}' for number in range(200)]


def test_remarks_of_the_command(tmp_path):
    "A reference with its rows south to north is laid onto the image, in one line, by every command that reads it."
    scene = synthetic_scene(96, 96, seed=2)
    colours = labels_to_colours(scene.labels, ISPRS)
    up = Georeference(UTM33, (1, 0, 0, 0, -1, 96))
    down = Georeference(UTM33, (1, 0, 0, 0, 1, 0))
    image = write_image(tmp_path / 'a.tif', scene.image, up)
    reference = write_image(tmp_path / 'r.tif', np.ascontiguousarray(colours[::-1]), down)
    model = tmp_path / 'm.safetensors'
    for line in (
        ['train', image, reference, '--out', model, '--epochs', '1', *OPTIONS],
        ['evaluate', model, image, reference],
        ['inspect', image, reference, '--palette', 'isprs', *OPTIONS],
    ):
        code, out, err = shell(*line)
        assert code == 0, err
        if line[0] == 'inspect':
            assert 'rows run the other way' in out and err == ''
        else:
            assert err.startswith('note: ') and err.count('\n') == 1 and 'rows run the other way' in err
    found = inspect(image, reference, ISPRS, settings=SMALL)
    assert found.counts == np.bincount(scene.labels.ravel(), minlength=6).tolist()


def test_heights_are_a_band(chips, tmp_path):
    folder, scene = chips
    write_image(tmp_path / 'a.tif', scene.image)
    write_image(tmp_path / 'h.tif', np.full((*scene.size, 1), 12.5, np.float32))
    found = inspect(tmp_path / 'a.tif', reading=Reading(height=str(tmp_path / 'h.tif')))
    assert len(found.values) == 4 and found.values[3] == [12.5] * 5
    assert 'band 4 (height)' in found.text
    assert json.dumps(found.values)


def test_a_distance_of_colours_needs_a_palette(chips):
    folder, _ = chips
    with pytest.raises(ValueError, match='nearest_colour 20 is a distance .*: give --palette'):
        inspect(folder / 'images', folder / 'masks', reading=Reading(nearest_colour=20), settings=SMALL)


def test_validation_images_with_other_bands(chips, tmp_path):
    "What training would refuse is said before."
    folder, scene = chips
    for part, bands in (('train', [0, 1, 2]), ('val', [0, 1, 2, 0])):
        write_image(tmp_path / 'images' / part / 'a.tif', scene.image[..., bands])
        write_image(tmp_path / 'masks' / part / 'a.tif', labels_to_colours(scene.labels, ISPRS))
    both = tmp_path / 'images', tmp_path / 'masks'
    found = inspect(*both, ISPRS, settings=SMALL)
    assert (
        'the validation tile a.tif has 4 bands of uint8, the training tile a.tif has 3' in found.cost.problem
    )
    write_image(tmp_path / 'images/val/a.tif', scene.image)
    assert not inspect(*both, ISPRS, settings=SMALL).cost.problem


def test_absent_classes_are_named():
    "A class without any pixel is not one of which there is a little."
    assert inspection.class_summary([0, 99_999, 1], ('car', 'road', 'roof'), 100_000) == (
        'road above 99.95 %, roof below 0.05 %; no pixel of car; 0.0 % of 100,000 pixels not scored'
    )
    assert inspection.class_summary([0, 0], ('car', 'road'), 9) == (
        'no pixel of car, road; 100.0 % of 9 pixels not scored'
    )
