"""OpenVINO as the engine of maps: the same map as torch's, alone, in blocks, after a kill, on a cluster and from the command.

Two engines round differently, so their logits differ by a little, *d*. A label can differ only where the two highest logits are closer than 2 *d*, a tie
(`deploy.parity`); where the tests compare maps, a pixel that is no tie must have the same label. The windows are the same, so no pixel may differ
between a map in memory and one in blocks by the same engine."""

import json
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from helpers import TINY as FLAGS
from helpers import SLOW_BLOCKS, check_line, child_environment, shell, succeeds
from torch import nn

from unetkit import engines, scale
from unetkit.deploy import parity
from unetkit.engines import LARGE, PARITY, openvino_predictor, pick_engine
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS, labels_to_colours
from unetkit.networks import make_network
from unetkit.raster import Raster, read_image, read_label_map, write_image
from unetkit.records import demo_model
from unetkit.rules import Remark
from unetkit.scale import evaluate_raster, predict_raster
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.stitching import exact_halo
from unetkit.tiles import Tile, read_tile
from unetkit.tiling import logits_to_labels, make_predictor
from unetkit.unet import UNet

for name in ('onnx', 'openvino'):
    pytest.importorskip(name, reason="needs pip install 'unetkit[openvino]'")
FLOAT = dict(device='cpu', precision='float32')
SMALL = dict(memory=5e6, **FLOAT)  # many windows, of several sizes
SCENE = synthetic_scene(300, 420, seed=2)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "A model with batch normalisation, an image with a hole and its reference."
    folder = tmp_path_factory.mktemp('engines')
    settings = dict(patch_size=32, epochs=2, width=8, depth=2, lr=3e-3, split='random', **FLOAT)
    pipeline = ModelPipeline(ISPRS, Settings(**settings)).fit([synthetic_scene(96, 128, seed=1)])
    batch = torch.from_numpy(pipeline.prepared(SCENE).image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():  # a head that tells places apart, as a few steps of training may not
        pipeline.model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
        pipeline.model.head.bias -= pipeline.predictor()(batch).mean((0, 2, 3))
    valid = np.full(SCENE.size, True)
    valid[100:140, 200:300] = False
    image = write_image(folder / 'image.tif', SCENE.image, SCENE.georeference)
    with_mask(image, valid)
    reference = labels_to_colours(SCENE.labels, ISPRS)
    return (
        pipeline.save(folder / 'model.safetensors'),
        image,
        write_image(folder / 'reference.tif', reference, SCENE.georeference),
    )


def with_mask(path, valid):
    "Give a GeoTIFF a mask of its own."
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, 'r+') as file:
        file.write_mask(valid)


def load(path, engine):
    return ModelPipeline.load(path, **FLOAT, engine=engine)


def trained_network(model):
    "The same network, with batch normalisation that has seen something."
    with torch.no_grad():
        model.train()(torch.rand(8, model.in_channels, 64, 64))
    return model.eval()


NETWORKS = {
    'none': lambda: UNet(3, 5, width=8, depth=3),
    'batch': lambda: UNet(4, 6, width=8, depth=3, normalisation='batch'),
    'channel': lambda: UNet(3, 5, width=16, depth=2, normalisation='channel'),
    'nearest': lambda: UNet(3, 5, width=8, depth=2, normalisation='batch', up='nearest', residual=True),
    'two classes': lambda: UNet(1, 2, width=8, depth=1, normalisation='batch'),
    'lite0': lambda: make_network('efficientnet_lite0', 3, 5, width=4),
}


def check_refusal_without_avx2(name, error):
    "Without AVX2 OpenVINO cannot run two kinds of layers: the normalisation by channels, and enlarging by the nearest."
    assert name in ('channel', 'nearest') and torch.backends.cpu.get_cpu_capability() == 'DEFAULT', error
    assert 'OpenVINO cannot run this network' in str(error) and 'choose --engine torch' in str(error)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('threads', [1, 2])
def test_parity_in_float32(name, threads):
    "Of every network, in windows of several sizes and batches, one after the other and back."
    torch.manual_seed(0)
    model, before = trained_network(NETWORKS[name]()), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        try:
            by_torch, by_openvino = make_predictor(model), openvino_predictor(model)
        except ValueError as error:
            check_refusal_without_avx2(name, error)
            pytest.skip('without AVX2 OpenVINO refuses this network')
        for shape in ((1, 64, 64), (1, 160, 96), (3, 32, 64), (1, 64, 64), (1, 32, 32)):
            batch = torch.rand(shape[0], model.in_channels, *shape[1:])
            ours, theirs = by_torch(batch), by_openvino(batch)
            largest, differ, ties = parity(ours, theirs)
            assert theirs.dtype == torch.float32 and largest <= PARITY * ours.abs().max() and differ <= ties
    finally:
        torch.set_num_threads(before)


def test_batches_in_any_layout_and_what_was_returned_stays():
    model = trained_network(UNet(3, 5, width=8, depth=2, normalisation='batch'))
    predict, batch = openvino_predictor(model), torch.rand(2, 48, 32, 3).permute(0, 3, 1, 2)
    first = predict(batch)
    kept = first.clone()
    torch.testing.assert_close(predict(batch.contiguous()), first, rtol=0, atol=0)
    predict(torch.rand(2, 3, 48, 32))
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


def test_new_weights_are_never_mapped_with_the_old_ones():
    "Training goes on after a map, weights are loaded, statistics of batch normalisation are measured anew."
    model = trained_network(UNet(3, 5, width=8, depth=2, normalisation='batch'))
    batch, other = (
        torch.rand(1, 3, 64, 64),
        trained_network(UNet(3, 5, width=8, depth=2, normalisation='batch')),
    )
    changes = [
        lambda: one_step(model, batch),
        lambda: model.load_state_dict(other.state_dict()),
        lambda: model.apply(shift_statistics),
    ]
    for change in changes:
        before = openvino_predictor(model)(batch)
        change()
        ours, theirs = make_predictor(model)(batch), openvino_predictor(model)(batch)
        assert (before - ours).abs().max() > 1e-2
        assert parity(ours, theirs)[0] <= PARITY * ours.abs().max()


def one_step(model, batch):
    model(batch).sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.1).step()


def shift_statistics(layer):
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean += 0.05


def test_threads_of_one_process_share_a_network():
    model = trained_network(UNet(3, 5, width=8, depth=2, normalisation='batch'))
    batches = [torch.rand(1, 3, 32 * (1 + n % 3), 64) for n in range(12)]
    expected, found = [make_predictor(model)(batch) for batch in batches], {}
    work = lambda n: found.update({n: openvino_predictor(model)(batches[n])})
    pool = [threading.Thread(target=work, args=(n,)) for n in range(len(batches))]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert all(parity(expected[n], found[n])[0] <= 1e-3 for n in range(len(batches)))


def test_float32_stays_float32():
    "Left alone, OpenVINO computes in bfloat16 where the processor can."
    model = demo_model(**FLOAT).model
    image = torch.from_numpy(synthetic_scene(128, 192, seed=3).image).permute(2, 0, 1)[None] / 255
    ours, theirs = make_predictor(model)(image), openvino_predictor(model)(image)
    assert parity(ours, theirs)[0] <= PARITY * ours.abs().max()


def test_bfloat16_where_the_processor_has_it_else_an_error():
    "The maps of a trained model in bfloat16 are as far from float32 by one engine as by the other."
    pipeline, tile = demo_model(**FLOAT), synthetic_scene(256, 320, seed=3)
    image = torch.from_numpy(tile.image).permute(2, 0, 1)[None] / 255
    exact = make_predictor(pipeline.model)(image).argmax(1)
    try:
        theirs = openvino_predictor(pipeline.model, torch.bfloat16)(image)
    except ValueError as error:
        assert 'in bfloat16 here' in str(error) and '--precision float32' in str(error)
        return
    ours = make_predictor(pipeline.model, torch.bfloat16)(image)
    off = [(logits.argmax(1) != exact).float().mean().item() for logits in (ours, theirs)]
    assert theirs.dtype == torch.float32 and off[1] <= 2 * off[0] + 1e-3 and off[1] < 0.02


# The choice


class Sized(nn.Conv2d):
    "A network that looks at the size of its windows, which is fixed when it is written down."

    multiple = 4

    def forward(self, batch):
        return super().forward(batch) * int(batch.shape[-1])


def test_a_network_that_depends_on_the_size_is_refused():
    with pytest.raises(
        ValueError, match='OpenVINO cannot run this network in float32 here .*--engine torch$'
    ):
        openvino_predictor(Sized(3, 5, 1))
    with pytest.warns(Remark, match='the map is made by torch: OpenVINO cannot run this network'):
        assert pick_engine('auto', Sized(3, 5, 1), pixels=LARGE) == 'torch'


def test_auto_is_openvino_for_large_images_where_it_is(monkeypatch):
    model = UNet(3, 5, width=4, depth=1)
    assert pick_engine('auto', model, pixels=LARGE) == 'openvino'
    assert pick_engine('auto', model, pixels=LARGE - 1) == 'torch'
    assert pick_engine('torch', model, pixels=LARGE) == 'torch'
    monkeypatch.setitem(sys.modules, 'openvino', None)
    assert pick_engine('auto', model, pixels=LARGE) == 'torch'


def test_an_image_chooses_the_engine_of_auto(files, monkeypatch):
    pipeline = load(files[0], 'auto')
    assert pipeline.for_image(SCENE) is pipeline
    monkeypatch.setattr(engines, 'LARGE', 300 * 420)
    assert pipeline.for_image(SCENE).settings.engine == 'openvino' and pipeline.settings.engine == 'auto'
    with Raster(files[1]) as raster:
        jobs = [scale.raster_job(one, raster) for one in (pipeline, pipeline.for_image(raster))]
    assert [job.engine for job in jobs] == ['torch', 'openvino']


def test_nothing_is_told_over_the_network():
    "OpenVINO's package would tell its makers that it was imported."
    code = """
import sys
from unetkit.engines import openvino_predictor
from unetkit.unet import UNet
openvino_predictor(UNet(3, 5, width=4, depth=1))
print([name for name in sys.modules if name.startswith('openvino_telemetry')])
"""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env=child_environment()
    )
    assert done.stdout == '[]\n', (done.stdout, done.stderr)


@pytest.mark.parametrize('package', ['onnx', 'openvino'])
def test_without_the_extra_one_line_says_what_to_install(files, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    pair = [
        f'--{tile}-{kind}={path}'
        for tile in ('train', 'test')
        for kind, path in zip(('image', 'reference'), files[1:])
    ]
    message = rf"the engine openvino takes the package {package} .*: pip install 'unetkit\[openvino\]'$"
    with pytest.raises(ValueError, match=message):
        load(files[0], 'openvino')
    with pytest.raises(ValueError, match=message):
        Settings(engine='openvino') and ModelPipeline(ISPRS, engine='openvino', **FLOAT)
    for words in (
        ['predict', *files[:2], '--out', tmp_path / 'map.tif'],
        ['evaluate', *files],
        ['report', *pair, '--palette', 'isprs', '--epochs', 1, '--out', tmp_path / 'report'],
    ):
        code, out, err = shell(*words, '--engine', 'openvino', '--device', 'cpu')
        assert code == 2 and out == ''
        check_line(err, f'takes the package {package}', "pip install 'unetkit[openvino]'")
    assert not list(tmp_path.iterdir())


def test_a_wrong_engine_is_one_line(files, tmp_path):
    code, _, err = shell('predict', *files[:2], '--out', tmp_path / 'map.tif', '--engine', 'onnx')
    assert code == 2
    check_line(err, 'onnx', 'openvino')
    with pytest.raises(ValueError, match="engine must be one of auto, torch, openvino, got 'tvm'"):
        Settings(engine='tvm')
    with pytest.raises(
        ValueError, match='runs on the CPU, not on cuda: choose --device cpu or --engine torch'
    ):
        engines.check_engine('openvino', 'cuda')


# Maps


def ties_of(path, tile):
    "Where the two highest logits of a tile are so close that the engines may decide otherwise: bool (H, W)."
    logits = {}
    for engine in ('torch', 'openvino'):
        pipeline = load(path, engine)
        keep = lambda found, engine=engine: logits.update({engine: found}) or logits_to_labels(found)
        image = pipeline.prepared(tile).image
        exact_halo(pipeline.predictor(), image, decide=keep, **pipeline.windows() | {'core': 1024})
    ours, theirs = logits.values()
    off = (ours - theirs).abs().max().item()
    assert off <= PARITY * ours.abs().max()
    first, second = ours.topk(2, dim=0).values
    return (first - second <= 2 * off).numpy()


@pytest.mark.parametrize('method', ['exact', 'blend', 'patches'])
def test_the_map_of_torch_up_to_ties(files, method):
    "In memory, on a tile with a hole and sides that no power of two divides."
    tile = Tile(SCENE.image[:251, :333], valid=None)
    maps = [load(files[0], engine).predict(tile, method=method) for engine in ('torch', 'openvino')]
    assert len(np.unique(maps[0])) > 2
    if method == 'exact':
        assert not ((maps[0] != maps[1]) & ~ties_of(files[0], tile)).any()
    assert (maps[0] != maps[1]).mean() < 1e-4


def test_eight_orientations(files):
    tile = Tile(SCENE.image[:100, :140])
    maps = [load(files[0], engine).predict(tile, tta=True) for engine in ('torch', 'openvino')]
    assert (maps[0] != maps[1]).mean() < 1e-3


@pytest.fixture(scope='module')
def mapped(files, tmp_path_factory):
    "Maps of the image in many blocks, by both engines, with probabilities."
    folder = tmp_path_factory.mktemp('maps')
    how = SMALL | dict(probabilities=True)
    return {
        engine: predict_raster(*files[:2], folder / f'{engine}.tif', **how, engine=engine)
        for engine in ('torch', 'openvino')
    }


def test_blocks_give_the_map_of_memory_and_of_torch(files, mapped):
    tile = read_tile(files[1])
    in_blocks = {engine: read_label_map(path) for engine, path in mapped.items()}
    assert (in_blocks['openvino'][100:140, 200:300] == 255).all()
    ties = ties_of(files[0], tile)
    for other in (in_blocks['torch'], load(files[0], 'openvino').predict(tile)):
        assert not ((in_blocks['openvino'] != other) & ~ties).any()
    assert ties.mean() < 0.01
    shares = [read_image(scale.probabilities_file(path)).astype(int) for path in mapped.values()]
    assert np.abs(shares[0] - shares[1]).max() <= 1


def test_scores_are_those_of_torch(files):
    matrices = [
        evaluate_raster(*files, **SMALL, engine=engine).confusion_matrix for engine in ('torch', 'openvino')
    ]
    assert np.abs(matrices[0] - matrices[1]).sum() <= 1e-4 * matrices[0].sum()


def test_from_the_command(files, mapped, tmp_path):
    how = ['--engine', 'openvino', '--precision', 'float32', '--device', 'cpu']
    succeeds('predict', *files[:2], '--out', tmp_path / 'map.tif', '--memory', 0.005, *how)
    np.testing.assert_array_equal(read_label_map(tmp_path / 'map.tif'), read_label_map(mapped['openvino']))
    scores = [
        succeeds('evaluate', *files, '--engine', engine, '--precision', 'float32', '--device', 'cpu')
        for engine in ('openvino', 'torch')
    ]
    assert scores[0].split('\n')[-3:] == scores[1].split('\n')[-3:]


def test_a_report_by_openvino(tmp_path):
    for kind, seed in (('train', 1), ('test', 2)):
        succeeds('scene', '--out', tmp_path / kind, '--height', 160, '--width', 192, '--seed', seed)
    words = []
    for kind in ('train', 'test'):
        words += [f'--{kind}-image', tmp_path / kind / 'image.tif']
        words += [f'--{kind}-reference', tmp_path / kind / 'reference.tif']
    maps = []
    for engine in ('torch', 'openvino'):
        out = tmp_path / engine
        code, _, err = shell('report', *words, *FLAGS, '--patch-sizes', 32, '--out', out, '--engine', engine)
        assert code == 0, err
        document = json.loads((out / 'scores.json').read_text())
        assert document['settings']['engine'] == engine
        assert document['environment']['openvino'] == version('openvino')
        maps.append(read_label_map(out / 'label_map_32.tif'))
    assert (maps[0] != maps[1]).mean() < 1e-3


def test_a_network_that_it_cannot_run_is_refused_before_training(monkeypatch):
    def different(model, predict, dtype):
        raise ValueError('its logits are off by 5')

    monkeypatch.setattr(engines, '_compare', different)
    pipeline = ModelPipeline(
        ISPRS, Settings(width=4, depth=1, engine='openvino', precision='float32'), device='cpu'
    )
    with pytest.raises(
        ValueError, match='OpenVINO cannot run this network in float32 here .its logits are off'
    ):
        pipeline.fit(SCENE)
    assert pipeline.model is None and not len(pipeline.history)


# Interrupted


def test_a_job_of_another_engine_is_refused(files, tmp_path):
    out = tmp_path / 'map.tif'
    with Raster(files[1]) as raster:
        for engine, other in (('torch', 'openvino'), ('openvino', 'torch')):
            job = scale.raster_job(load(files[0], engine), raster, files[0], memory=5e6)
            folder = Path(f'{out}.blocks')
            scale.begin_blocks(folder, job)
            write_image(folder / '0000000.tif', np.zeros((job.core, job.core, 1), np.uint8))
            with pytest.raises(
                ValueError, match=f"engine was '{engine}' and is '{other}'; .* with --engine {engine}"
            ):
                predict_raster(*files[:2], out, **SMALL, engine=other)
            scale.clear_blocks(folder)


def test_a_job_of_an_earlier_version_was_of_torch(files, mapped, tmp_path):
    out = tmp_path / 'map.tif'
    folder = Path(f'{out}.blocks')
    with Raster(files[1]) as raster:
        pipeline = load(files[0], 'torch')
        job = scale.raster_job(pipeline, raster, files[0], memory=5e6)
        scale.begin_blocks(folder, job)
        first = scale.exact_windows(raster.size, job.core, job.halo, job.multiple)[0]
        write_image(folder / '0000000.tif', scale.predict_block(pipeline, raster, *first))
    about = json.loads((folder / 'job.json').read_text())
    del about['engine']
    (folder / 'job.json').write_text(json.dumps(about))
    with pytest.raises(ValueError, match="engine was 'torch' and is 'openvino'"):
        predict_raster(*files[:2], out, **SMALL, engine='openvino')
    predict_raster(*files[:2], out, **SMALL, engine='torch')
    np.testing.assert_array_equal(read_label_map(out), read_label_map(mapped['torch']))


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no SIGKILL')
def test_a_killed_run_goes_on_and_ends_with_the_same_map(files, mapped, tmp_path):
    out = tmp_path / 'map.tif'
    how = SMALL | {'engine': 'openvino', 'probabilities': True}
    code = SLOW_BLOCKS.format(seconds=0.1) + f'import sys; scale.predict_raster(*sys.argv[1:4], **{how!r})'
    process = subprocess.Popen(
        [sys.executable, '-c', code, *map(str, files[:2]), str(out)], env=child_environment()
    )
    blocks = Path(f'{out}.blocks')
    while process.poll() is None and len(list(blocks.glob('[0-9]*.tif'))) < 3:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL and not out.exists()
    kept = len(list(blocks.glob('[0-9]*.tif')))
    assert kept >= 3 and json.loads((blocks / 'job.json').read_text())['engine'] == 'openvino'
    predict_raster(*files[:2], out, **how)
    for name in (lambda path: path, scale.probabilities_file):
        assert Path(name(out)).read_bytes() == Path(name(mapped['openvino'])).read_bytes()


def test_workers_of_a_cluster(files, mapped, tmp_path):
    "Two threads of one process, each with a network of its own."
    distributed = pytest.importorskip('dask.distributed', reason="needs pip install 'unetkit[scale]'")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        out = predict_raster(*files[:2], tmp_path / 'map.tif', **SMALL, engine='openvino', scheduler=address)
    np.testing.assert_array_equal(read_label_map(out), read_label_map(mapped['openvino']))
