"Rasters of any size: interrupted runs, damaged folders, clusters and memory."

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from helpers import SLOW_BLOCKS, before_each_block
from rasterio.crs import CRS

from unetkit import scale
from unetkit.datasets import Reading
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS, Palette, labels_to_colours
from unetkit.scale import clear_blocks, evaluate_raster, predict_raster, raster_job
from unetkit.raster import Georeference, Raster, read_image, write_image
from unetkit.rules import Remark
from unetkit.settings import Settings
from unetkit.scenes import synthetic_scene

TINY = dict(
    patch_size=32,
    epochs=1,
    batch_size=8,
    width=8,
    depth=2,
    lr=3e-3,
    split='random',
    augment=False,
    crops=False,
)
SCENE = synthetic_scene(300, 420, seed=2)
SMALL = dict(
    memory=5e6, precision='float32', device='cpu'
)  # windows as small, in relation, as those of a county


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "A model file, an image and its reference."
    folder = tmp_path_factory.mktemp('raster')
    pipeline = ModelPipeline(ISPRS, Settings(**TINY, precision='float32', device='cpu')).fit(
        [synthetic_scene(96, 128, seed=1)]
    )
    return (
        pipeline.save(folder / 'model.safetensors'),
        write_image(folder / 'image.tif', SCENE.image, SCENE.georeference),
        write_image(folder / 'reference.tif', labels_to_colours(SCENE.labels, ISPRS), SCENE.georeference),
    )


@pytest.fixture(scope='module')
def undisturbed(files, tmp_path_factory):
    return predict_raster(*files[:2], tmp_path_factory.mktemp('map') / 'map.tif', **SMALL).read_bytes()


@pytest.fixture
def job(files):
    pipeline = ModelPipeline.load(files[0], 'cpu', 'float32')
    with Raster(files[1]) as raster:
        return raster_job(pipeline, raster, files[0], memory=5e6)


def begun(folder, job, block=None):
    "A folder of blocks of an interrupted run, with one block."
    scale.begin_blocks(folder, job)
    shape = (job.core, job.core, 1)
    write_image(folder / '0000000.tif', np.zeros(shape, np.uint8) if block is None else block)
    return folder


def count_blocks(files):
    pipeline = ModelPipeline.load(files[0], 'cpu', 'float32')
    return len(scale.exact_windows(SCENE.size, **pipeline.windows(5e6)))


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGKILL')
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(files, undisturbed, tmp_path, monkeypatch):
    out, blocks = tmp_path / 'again.tif', tmp_path / 'again.tif.blocks'
    code = (
        f'import sys; from unetkit.scale import predict_raster; predict_raster(*sys.argv[1:4], **{SMALL!r})'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', SLOW_BLOCKS.format(seconds=0.2) + code, *map(str, files[:2]), str(out)]
    )
    while process.poll() is None and len(list(blocks.glob('[0-9]*.tif'))) < 3:
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = sorted(blocks.glob('[0-9]*.tif'))
    assert process.returncode == -signal.SIGKILL and not out.exists()
    assert 3 <= len(kept) < count_blocks(files)
    assert all(read_image(path).shape[2] == 1 for path in kept)
    before = {path: path.stat().st_mtime_ns for path in kept}
    calls = []
    monkeypatch.setattr(scale, 'block_predictor', before_each_block(lambda: calls.append(1)))
    predict_raster(*files[:2], out, **SMALL)
    assert len(calls) == count_blocks(files) - len(before)
    assert out.read_bytes() == undisturbed and not blocks.exists()


@pytest.mark.parametrize('wanted', [{'probabilities': True}, {'probabilities': True, 'confidence': True}])
def test_no_band_of_a_block_is_taken_for_opacity(files, tmp_path, monkeypatch, wanted):
    "A sure network beside a hole: a block's last band is 0 and 255 only, and the others are the same where it is 0."
    classes = 3 - len(wanted) + 1  # four and five bands
    palette = Palette(ISPRS.names[:classes], ISPRS.colours[:classes])
    tile = synthetic_scene(96, 128, seed=1)
    tile = replace(tile, labels=tile.labels % classes)
    pipeline = ModelPipeline(palette, Settings(**TINY, precision='float32', device='cpu')).fit([tile])

    def sure(part, read, kept):
        if interrupted and kept[0] > 0:
            raise KeyboardInterrupt
        height, width = kept[1] - kept[0], kept[3] - kept[2]
        block = np.zeros((height, width, 1 + classes + 2 * ('confidence' in wanted)), np.uint8)
        block[..., 1] = 254
        block[..., -2] += 'confidence' in wanted
        block[: height // 2] = 255
        return block

    monkeypatch.setattr(scale, 'block_predictor', lambda pipeline, **how: sure)
    made = []
    for name, stops in [('whole', [False]), ('stopped', [True, False])]:
        for interrupted in stops:
            with nullcontext() if not interrupted else pytest.raises(KeyboardInterrupt):
                predict_raster(pipeline, files[1], tmp_path / name / 'map.tif', memory=5e6, **wanted)
        made.append([(path.name, path.read_bytes()) for path in sorted((tmp_path / name).iterdir())])
    assert made[0] == made[1] and len(made[0]) == 2 + len(wanted)  # and the names of the classes
    with rasterio.open(tmp_path / 'stopped' / 'map_probabilities.tif') as file:
        assert file.count == classes and set(np.unique(file.read(1))) == {254, 255}
    if 'confidence' in wanted:
        with rasterio.open(tmp_path / 'stopped' / 'map_confidence.tif') as file:
            assert [set(np.unique(band)) for band in file.read()] == [{1, 255}, {0, 255}]


def test_blocks_of_another_map_are_not_mixed_in(files, job, undisturbed, tmp_path):
    out = tmp_path / 'other.tif'
    begun(Path(f'{out}.blocks'), job)
    with pytest.raises(ValueError, match='holds blocks of another map: tta was False and is True'):
        predict_raster(*files[:2], out, tta=True, **SMALL)
    predict_raster(*files[:2], out, tta=True, restart=True, **SMALL)
    assert out.read_bytes() != undisturbed


def test_another_model_is_another_map(files, job, tmp_path):
    out = tmp_path / 'other.tif'
    begun(Path(f'{out}.blocks'), job)
    other = ModelPipeline.load(files[0], 'cpu', 'float32')
    next(other.model.parameters()).data += 1
    with pytest.raises(ValueError, match='holds blocks of another map: model_sum was'):
        predict_raster(other, files[1], out, memory=5e6)


def test_what_is_not_ours_is_not_touched(files, tmp_path):
    folder = tmp_path / 'notes.tif.blocks'
    folder.mkdir()
    (folder / 'notes.txt').write_text('precious')
    with pytest.raises(ValueError, match='notes.txt is no block'):
        predict_raster(*files[:2], tmp_path / 'notes.tif', restart=True, **SMALL)
    with pytest.raises(ValueError, match='notes.txt is no block'):
        clear_blocks(folder)
    assert (folder / 'notes.txt').read_text() == 'precious'


def test_inputs_and_folders_are_not_overwritten(files, tmp_path):
    model, image, _ = files
    twin = Path(shutil.copy(image, tmp_path / 'twin_probabilities.tif'))
    for source, out, probabilities, message in [
        (image, image, False, 'is an input and would be lost'),
        (image, model, False, 'is an input and would be lost'),
        (twin, tmp_path / 'twin.tif', True, 'is an input and would be lost'),
        (image, tmp_path, False, 'it is a folder'),
    ]:
        with pytest.raises((ValueError, OSError), match=message):
            predict_raster(model, source, out, probabilities=probabilities, **SMALL)


def test_damaged_blocks_and_jobs_are_named(files, job, tmp_path):
    out = tmp_path / 'bad.tif'
    folder = begun(Path(f'{out}.blocks'), job, SCENE.image[:5, :5, :1])
    with pytest.raises(ValueError, match='it must be uint8 and fit there'):
        predict_raster(*files[:2], out, precision='float32', device='cpu')
    (folder / '0000000.tif').write_bytes(b'II*')
    with pytest.raises(ValueError, match='0000000.tif is damaged or gone'):
        predict_raster(*files[:2], out, precision='float32', device='cpu')
    with pytest.raises(ValueError, match='too large for this memory'):
        predict_raster(*files[:2], out, **SMALL | {'memory': 3e6})
    about = json.loads((folder / 'job.json').read_text())
    for content in (
        '',
        'no JSON',
        '[1]',
        '7',
        json.dumps(about | {'core': 0}),
        json.dumps(about | {'core': True}),
        json.dumps({'core': 8}),
    ):
        (folder / 'job.json').write_text(content)
        with pytest.raises(ValueError, match='job.json is missing or damaged'):
            predict_raster(*files[:2], out, precision='float32', device='cpu')


def test_windows_of_an_interrupted_run_are_kept(files, job, undisturbed, tmp_path):
    "A run begun with little memory goes on with its windows, and ends with the bytes of those windows."
    out = tmp_path / 'kept.tif'
    scale.begin_blocks(Path(f'{out}.blocks'), job)
    first = scale.predict_block(
        pipeline := ModelPipeline.load(files[0], 'cpu', 'float32'),
        Raster(files[1]),
        *scale.exact_windows(SCENE.size, job.core, job.halo, job.multiple)[0],
    )
    write_image(tmp_path / 'kept.tif.blocks' / '0000000.tif', first)
    predict_raster(pipeline, files[1], out)
    assert out.read_bytes() == undisturbed


# While the network computes


def test_what_is_read_ends_before_the_raster_is_closed(files, tmp_path, monkeypatch):
    "Whatever stops a map, no thread reads from a raster that is closed: GDAL would take the process with it."
    begun, ended, at_close, second = [], [], [], threading.Event()
    scaled, close = scale._scaled, Raster.close

    def slowly(*given):
        begun.append(1)
        if len(begun) == 2:
            second.set()
            time.sleep(0.3)
        pixels = scaled(*given)
        ended.append(1)
        return pixels

    def stops():
        assert second.wait(10)
        raise KeyboardInterrupt

    def closes(raster):
        at_close.append((len(begun), len(ended)))
        close(raster)

    monkeypatch.setattr(scale, '_scaled', slowly)
    monkeypatch.setattr(scale, 'block_predictor', before_each_block(stops))
    monkeypatch.setattr(Raster, 'close', closes)
    works = (
        partial(predict_raster, *files[:2], tmp_path / 'map.tif', **SMALL),
        partial(evaluate_raster, *files, **SMALL),
    )
    for work in works:
        for happened in (begun, ended, at_close, second):
            happened.clear()
        with pytest.raises(KeyboardInterrupt):
            work()
        assert at_close[-1] == (2, 2)


def test_threads_leave_options_and_warnings_as_they_were(files, tmp_path):
    "The options of GDAL and the filters of warnings are those of all threads, and a map reads in one and writes in another."
    from rasterio._env import get_gdal_config

    before = get_gdal_config('GDAL_CACHEMAX')
    with warnings.catch_warnings():
        warnings.simplefilter(
            'error', rasterio.errors.NotGeoreferencedWarning
        )  # blocks have no place, which is no fault
        ours = warnings.filters[0]
        for number in range(5):
            predict_raster(*files[:2], tmp_path / f'{number}.tif', **SMALL)
            assert [one for one in warnings.filters if one[2] is ours[2]] == [ours]
            assert get_gdal_config('GDAL_CACHEMAX') == before


def test_finished_blocks_need_no_network(files, undisturbed, tmp_path, monkeypatch):
    "A run that was stopped before its blocks became a map ends without asking for a network."
    out = tmp_path / 'map.tif'

    def stops(*given, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(scale, 'write_mosaic', stops)
        predict_raster(*files[:2], out, **SMALL)
    monkeypatch.setattr(ModelPipeline, 'predictor', stops)
    predict_raster(*files[:2], out, **SMALL)
    assert out.read_bytes() == undisturbed


def test_a_png_and_its_tiff_give_one_map(files, undisturbed, tmp_path):
    from PIL import Image

    Image.fromarray(SCENE.image).save(tmp_path / 'image.png')
    predict_raster(files[0], tmp_path / 'image.png', tmp_path / 'map.tif', **SMALL)
    (tmp_path / 'undisturbed.tif').write_bytes(undisturbed)
    np.testing.assert_array_equal(read_image(tmp_path / 'map.tif'), read_image(tmp_path / 'undisturbed.tif'))


def test_several_parts_are_scored_together(files, tmp_path):
    model, image, reference = files
    for folder, file in (('images', image), ('references', reference)):
        (tmp_path / folder).mkdir()
        for name in ('a.tif', 'b.tif'):
            shutil.copy(file, tmp_path / folder / name)
    one = evaluate_raster(*files, **SMALL).confusion_matrix
    two = evaluate_raster(model, tmp_path / 'images', tmp_path / 'references', **SMALL).confusion_matrix
    np.testing.assert_array_equal(two, 2 * one)


def test_chips_beside_the_polygons_of_a_test_are_background(files, tmp_path):
    chips, place = tmp_path / 'chips', SCENE.georeference
    chips.mkdir()
    for row in (0, 150):
        a, b, c, d, e, f = place.transform
        own = Georeference(place.crs, (a, b, c + b * row, d, e, f + e * row))
        write_image(chips / f'{row}.tif', SCENE.image[row : row + 150], own)
    corners = [(10, 10), (40, 10), (40, 60), (10, 60)]
    ring = [place.xy(row - 0.5, col - 0.5) for row, col in corners]
    house = {'type': 'Feature', 'properties': {'kind': 'building'}}
    house['geometry'] = {'type': 'Polygon', 'coordinates': [[*ring, ring[0]]]}
    crs = {'type': 'name', 'properties': {'name': f'EPSG:{CRS.from_wkt(place.crs).to_epsg()}'}}
    polygons = tmp_path / 'polygons.geojson'
    polygons.write_text(json.dumps({'type': 'FeatureCollection', 'features': [house], 'crs': crs}))
    with pytest.warns(Remark, match='no polygon on at least 1 of 2 images'):
        scores = evaluate_raster(files[0], chips, polygons, reading=Reading(background='tree'), **SMALL)
    assert scores.confusion_matrix.sum(1).tolist() == [0, 1500, 0, 300 * 420 - 1500, 0, 0]
    with pytest.raises(ValueError, match='do not meet'):
        evaluate_raster(files[0], chips, polygons, **SMALL)


def test_a_reference_without_a_scored_pixel_raises(files, tmp_path):
    red = np.full((*SCENE.size, 3), (255, 0, 0), np.uint8)
    pipeline = ModelPipeline.load(files[0], 'cpu', 'float32')
    pipeline.palette = ISPRS.ignoring('clutter')
    with pytest.raises(ValueError, match='the test reference has no scored pixel'):
        evaluate_raster(pipeline, files[1], write_image(tmp_path / 'red.tif', red))


@pytest.fixture(scope='module')
def cluster():
    "Two workers on this machine, each a process of its own with one thread."
    distributed = pytest.importorskip('dask.distributed', reason="needs pip install 'unetkit[scale]'")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


def on_two(files, out, cluster):
    return predict_raster(*files[:2], out, scheduler=cluster.scheduler_address, **SMALL)


def test_a_cluster_makes_the_same_file(files, cluster, undisturbed, tmp_path):
    assert on_two(files, tmp_path / 'shared.tif', cluster).read_bytes() == undisturbed


def test_a_cluster_has_the_same_thresholds(files, cluster, tmp_path):
    how = SMALL | dict(unknown_below=0.3, thresholds={'tree': 0.5})
    with pytest.warns(Remark, match='are unknown') as said:
        alone = predict_raster(*files[:2], tmp_path / 'map.tif', **how).read_bytes()
        out = predict_raster(
            *files[:2], tmp_path / 'other' / 'map.tif', scheduler=cluster.scheduler_address, **how
        )
    assert out.read_bytes() == alone and str(said[0].message) == str(said[1].message)


@pytest.mark.parametrize('seconds', [0.1, 20])
def test_progress_of_what_takes_time(seconds, monkeypatch, capsys):
    "A file that shows the output has a line for a raster, and none for each of many chips."
    clock = iter([0.0, seconds])
    monkeypatch.setattr(scale.time, 'perf_counter', lambda: next(clock))
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: False, raising=False)
    with scale._progress([(None, (0, 1000, 0, 1000))], [0]) as note:
        note(0)
    assert bool(capsys.readouterr().out) == (seconds > 1)


@pytest.mark.slow
def test_a_dead_worker_costs_what_it_had_in_hand(files, cluster, undisturbed, tmp_path):
    from dask.distributed import Client

    out, before = tmp_path / 'survived.tif', len(cluster.scheduler.transition_log)
    with Client(cluster) as client, ThreadPoolExecutor(1) as pool:
        victim = next(iter(client.run(os.getpid).values()))
        done = pool.submit(on_two, files, out, cluster)
        while len(list(Path(f'{out}.blocks').glob('[0-9]*.tif'))) < 3 and not done.done():
            time.sleep(0.005)
        os.kill(victim, signal.SIGKILL)
        done.result()
    log = list(cluster.scheduler.transition_log)[before:]
    computed = [
        key
        for key, start, finish, *_ in log
        if (start, finish) == ('processing', 'memory') and 'block' in str(key)
    ]
    assert out.read_bytes() == undisturbed
    assert len(set(computed)) == count_blocks(files)
    assert len(computed) - len(set(computed)) <= 4


@pytest.mark.slow
def test_a_scheduler_that_does_not_exist_is_one_line(files, tmp_path):
    pytest.importorskip('dask.distributed', reason="needs pip install 'unetkit[scale]'")
    with pytest.raises(OSError, match='no Dask scheduler answers at tcp://127.0.0.1:9'):
        predict_raster(*files[:2], tmp_path / 'none.tif', scheduler='tcp://127.0.0.1:9', **SMALL)


PEAK = """
import sys
from unetkit.scale import predict_raster

predict_raster(*sys.argv[1:4], memory=2e8, precision='float32', device='cpu')
print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the peak of a process is read from /proc')
def test_memory_does_not_grow_with_the_raster(files, tmp_path):
    """The peak of a process that maps 4 and then 16 megapixels with the same window.

    glibc keeps freed blocks of up to 32 MB for the next request, and how many of them never fit again differs from run to run: 530 to 690 MB were seen
    for one window, in no order of the raster's size. With MALLOC_MMAP_THRESHOLD_ every large block goes back when it is freed (412 MB for 4 megapixels,
    426 for 16, 36 and 100), so that the test sees our memory and not the allocator's.
    """
    tile, peaks = synthetic_scene(500, 500, seed=2).image, []
    for n in (4, 8):
        large = write_image(tmp_path / f'large_{n}.tif', np.tile(tile, (n, n, 1)))
        run = subprocess.run(
            [sys.executable, '-c', PEAK, str(files[0]), str(large), str(tmp_path / 'large_map.tif')],
            env=os.environ | {'MALLOC_MMAP_THRESHOLD_': '1000000'},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(run.stdout.splitlines()[-1]) * 1024)
    assert peaks[1] < 1.08 * peaks[0] < 1e9


def test_scores_need_a_reference(files):
    with pytest.raises(ValueError, match='has no reference: scores need one for every image'):
        evaluate_raster(*files[:2], None)
