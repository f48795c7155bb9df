"""Files that were made to do harm, given to the real command: one clear line, exit code 2, a disk that looks as before, and no program of theirs that runs.

`test_bad_input` is about mistakes; this is about intent. An aerial image, a model, a palette or a checkpoint may come from anybody. What each reader refuses is
tested where it is written; here the same files arrive where a user meets them, at the commands `report`, `train`, `predict` and `evaluate`."""

import os
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import rasterio
import torch
from helpers import TINY, check_line, check_refusal, disk, make_tile, start_process, succeeds, write_tile
from safetensors.torch import save_file

from unetkit.experiments import ModelPipeline
from unetkit.settings import Settings
from unetkit.datasets import read_labelled
from unetkit.labels import ISPRS
from unetkit.raster import write_image
from unetkit.models import load_tensors, save_tensors

SMALL = ['--patch-size', '32', '--split', 'random', *TINY]


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp('shared')


@pytest.fixture(scope='module')
def tile(shared):
    "A good tile of 64 x 96 pixels: the paths of image and reference."
    folder = write_tile(shared / 'good', *make_tile(height=64, width=96))
    return folder / 'image.tif', folder / 'reference.tif'


@pytest.fixture(scope='module')
def model(shared, tile):
    "A good model of one epoch, tried on its tile."
    path = shared / 'model.safetensors'
    succeeds('train', *tile, '--out', path, *SMALL)
    succeeds('predict', path, tile[0], '--out', shared / 'map.tif')
    return path


@pytest.fixture
def refused(shared, tmp_path):
    "A command ends with code 2 and one printable line that holds the given words, and changes nothing on the disk."
    return lambda *words, said: check_refusal((shared, tmp_path), words, said)


# Images


def announce(path, size, block):
    "A GeoTIFF of `size` x `size` pixels of which nothing but the header is written."
    path.parent.mkdir(exist_ok=True)
    profile = dict(driver='GTiff', height=size, width=size, count=3, dtype='uint8', compress='deflate')
    profile |= dict(tiled=True, blockxsize=block, blockysize=block, sparse_ok=True)
    with rasterio.open(path, 'w', transform=rasterio.Affine(1, 0, 5e6, 0, -1, 5e6), **profile):
        pass
    return path


@pytest.fixture(scope='module')
def bomb(shared):
    "Less than a megabyte that announces 11 GB."
    return announce(shared / 'bomb.tif', 60_000, 256)


def test_predict_refuses_what_announces_too_much(model, refused, tmp_path):
    out = tmp_path / 'no.tif'
    endless = announce(tmp_path / 'endless.tif', 300_000, 4096)
    said = ['endless.tif announces 300000 x 300000 pixels', 'cut it into parts']
    refused('predict', model, endless, '--out', out, said=said)
    block = announce(tmp_path / 'block.tif', 16, 32_768)
    refused('predict', model, block, '--out', out, said=['block.tif is stored in blocks of 32768 x 32768'])
    png = tmp_path / 'bomb.png'
    png.write_bytes(bytes.fromhex('89504e470d0a1a0a0000000d49484452ffffff00ffffff00080200000012345678'))
    refused('predict', model, png, '--out', out, said=['cannot read', 'bomb.png'])


def test_bomb_where_a_tile_is_held_in_memory(model, tile, bomb, refused, tmp_path):
    "`predict` reads a GeoTIFF by windows, so 11 GB are no danger to it; what holds a tile in memory is held to the limit."
    out, image, reference = tmp_path / 'no.tif', *tile
    said = ['bomb.tif announces 60000 x 60000 pixels', 'UNETKIT_MAX_PIXELS=3600000000']
    refused('predict', model, bomb, '--out', out, '--method', 'blend', said=said)
    far = ['bomb.tif', 'do not meet']
    refused('train', bomb, reference, '--out', tmp_path / 'no.safetensors', *SMALL, said=far)
    refused('evaluate', model, image, bomb, '--method', 'patches', said=far)
    four = ['--train-image', image, '--train-reference', bomb, '--test-image', image]
    refused('report', *four, '--test-reference', reference, '--out', tmp_path / 'no', *TINY, said=far)
    refused('evaluate', model, bomb, bomb, '--method', 'patches', said=['bomb.tif announces'])


@pytest.fixture
def server():
    "A server on this machine that writes down what it is asked for."
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *words):
            pass

    running = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    running.asked = asked
    Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def test_no_file_calls_a_server(model, server, refused, tmp_path):
    "A text that makes the raster library fetch its image, and a path that does."
    address, out = f'http://127.0.0.1:{server.server_port}', tmp_path / 'no.tif'
    caller = tmp_path / 'caller.tif'
    caller.write_text(f'<GDAL_WMTS><GetCapabilitiesUrl>{address}/caller</GetCapabilitiesUrl></GDAL_WMTS>')
    refused('predict', model, caller, '--out', out, said=['caller.tif', 'of no format that is read'])
    far = f'/vsizip//vsicurl/{address}/far.zip/image.tif'
    refused('predict', model, far, '--out', out, said=['is an address', '--remote'])
    assert server.asked == []


def test_limit_can_be_raised_and_lowered(model, refused, tmp_path, monkeypatch):
    "A word that is no number does not switch it off."
    large = write_image(
        tmp_path / 'large.tif', np.random.default_rng(0).integers(0, 190, (256, 300, 3), np.uint8)
    )
    words = ['predict', model, large, '--out', tmp_path / 'map.tif', '--method', 'blend']
    for limit, said in [
        ('76799', '256 x 300 pixels of 3 bytes, but at most 76799'),
        ('off', "must be a whole number above 0, got 'off'"),
    ]:
        monkeypatch.setenv('UNETKIT_MAX_PIXELS', limit)
        refused(*words, said=[said, 'UNETKIT_MAX_PIXELS'])
    monkeypatch.setenv('UNETKIT_MAX_PIXELS', '76800')
    succeeds(*words)


# Models


@pytest.fixture
def trap(tmp_path):
    "An object whose pickle makes a folder when it is loaded, and the path of that folder."

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'trapped'),)

    return Trap(), tmp_path / 'trapped'


def test_pickle_is_not_run(model, tile, trap, refused, tmp_path):
    weights, _ = load_tensors(model)
    path = tmp_path / 'pickle.safetensors'
    torch.save({next(iter(weights)): trap[0]}, path)
    said = ['pickle.safetensors', 'is a pickle, which may run any program']
    refused('predict', path, tile[0], '--out', tmp_path / 'no.tif', said=said)
    assert not trap[1].exists()


@pytest.mark.parametrize('kind', ['half', 'giant', 'foreign'])
def test_files_that_are_no_model(model, tile, refused, tmp_path, kind):
    path = tmp_path / f'{kind}.safetensors'
    if kind == 'half':
        path.write_bytes(model.read_bytes()[:3000])
    if kind == 'giant':
        path.write_bytes((2**60).to_bytes(8, 'little') + model.read_bytes()[8:])
    if kind == 'foreign':
        save_file(load_tensors(model)[0], path, {'format': 'pt'})
    said = [path.name, 'not a whole unetkit file']
    refused('predict', path, tile[0], '--out', tmp_path / 'no.tif', said=said)


LIES = {
    'wide': (lambda about: {'args': about['args'] | {'width': 10**9}}, 'does not hold a network'),
    'deep': (lambda about: {'args': about['args'] | {'depth': 10**9}}, 'depth must be in [1, 16]'),
    'classes': (
        lambda about: {'palette': asdict(ISPRS.ignoring('clutter'))},
        'its palette has 5 classes, its network 6',
    ),
    'colours': (
        lambda about: {'palette': about['palette'] | {'colours': 'red'}},
        'was not written by this version',
    ),
    'history': (lambda about: {'history': {'best': 1}}, 'a history is a list'),
    'settings': (
        lambda about: {'settings': about['settings'] | {'patch_size': [32]}},
        'patch_size must be a whole number',
    ),
}


@pytest.mark.parametrize('name', LIES)
def test_header_that_lies(model, tile, refused, tmp_path, name):
    lie, said = LIES[name]
    weights, about = load_tensors(model)
    path = tmp_path / f'{name}.safetensors'
    save_tensors(path, weights, about | lie(about))
    refused('predict', path, tile[0], '--out', tmp_path / 'no.tif', said=[path.name, said])


WEIGHTS = {
    'nan': (lambda tensor: tensor * np.nan, 'not finite'),
    'double': (lambda tensor: tensor.double(), 'is torch.float64'),
    'shape': (lambda tensor: tensor[..., :1], 'the settings ask for'),
}


@pytest.mark.parametrize('name', WEIGHTS)
def test_weights_of_another_kind(model, tile, refused, tmp_path, name):
    change, said = WEIGHTS[name]
    weights, about = load_tensors(model)
    first = next(iter(weights))
    path = tmp_path / f'{name}.safetensors'
    save_tensors(path, weights | {first: change(weights[first])}, about)
    refused('predict', path, tile[0], '--out', tmp_path / 'no.tif', said=[path.name, said])
    refused('evaluate', path, *tile, said=[path.name, said])


# Palettes


def test_palettes(tile, refused, tmp_path):
    "One that never ends, a nest of brackets, and one whose names hold the code that clears a terminal."
    with open(tmp_path / 'endless.json', 'wb') as file:
        file.truncate(2**32)
    (tmp_path / 'nest.json').write_text('{"classes": ' * 50_000)
    (tmp_path / 'screen.json').write_text('{"classes": {"\\u001b[2J": [1]}}')
    words = {
        'endless': 'larger than 1048576 bytes',
        'nest': 'recursion',
        'screen': 'class names must be',
    }
    for name, said in words.items():
        path, out = tmp_path / f'{name}.json', tmp_path / 'no.safetensors'
        refused('train', *tile, '--palette', path, '--out', out, *SMALL, said=[path.name, said])


def test_name_of_a_command_is_masked(refused):
    refused('\x1b[2J\n', said=["no command '\\x1b[2J\\n'"])


# Checkpoints


@pytest.fixture(scope='module')
def checkpoint(tile, tmp_path_factory):
    "A good checkpoint, as a run leaves it that was stopped after the first of two epochs: its tensors and records."
    path = tmp_path_factory.mktemp('checkpoint') / 'checkpoint'
    small = dict(patch_size=32, width=4, depth=2, device='cpu', precision='float32')
    pipeline = ModelPipeline(ISPRS, Settings(**small, epochs=2, patience=2, split='random'))
    run = pipeline.epochs(read_labelled(*tile, ISPRS), path)
    next(run)
    run.close()
    return load_tensors(path)


@pytest.fixture
def training(tile, tmp_path):
    "The command that such a checkpoint belongs to, and where the checkpoint lies."
    out = tmp_path / 'next.safetensors'
    words = ['train', *tile, '--out', out, *SMALL, '--epochs', 2, '--patience', 2]
    return words, tmp_path / 'next.safetensors.checkpoint'


def best_without_one(state):
    best = next(name for name in state if name.startswith('best.'))
    return {name: tensor for name, tensor in state.items() if name != best}


def best_not_finite(state):
    best = next(name for name in state if name.startswith('best.'))
    return state | {best: state[best] * np.nan}


def moment_of_another_shape(state):
    moment = next(name for name in state if name.endswith('.exp_avg'))
    return state | {moment: torch.zeros(3)}


SPOILT = {
    'lacks a weight': (best_without_one, {}, 'lacks the weight'),
    'not finite': (best_not_finite, {}, 'not finite'),
    'moment': (moment_of_another_shape, {}, 'has the shape (3,)'),
    'short record': (dict, {'epochs': [{'number': 1}]}, 'is no checkpoint'),
    'no records': (dict, {'epochs': 'one'}, 'no record of epochs'),
    'generators': (dict, {'rng': {'state': 1}}, 'is no checkpoint'),
}


@pytest.mark.parametrize('name', SPOILT)
def test_spoilt_checkpoint(checkpoint, training, refused, name):
    "Changed in one place, it is refused; the way out is in the line."
    (state, records), (words, path) = checkpoint, training
    tensors, header, said = SPOILT[name]
    save_tensors(path, tensors(state), records | header)
    refused(*words, said=['next.safetensors.checkpoint', said, '--restart'])


def test_model_in_place_of_a_checkpoint(model, training, refused):
    words, path = training
    path.write_bytes(model.read_bytes())
    said = ['next.safetensors.checkpoint', 'is a model', 'choose another name']
    refused(*words, said=said)
    refused(*words, '--restart', said=said)
    assert path.read_bytes() == model.read_bytes()


def test_good_checkpoint_is_taken_up(checkpoint, training, tmp_path):
    words, path = training
    save_tensors(path, *checkpoint)
    succeeds(*words)
    assert len(load_tensors(path)[1]['epochs']) == 2
    for tensor in load_tensors(tmp_path / 'next.safetensors')[0].values():
        assert torch.isfinite(tensor).all()


# Real processes

PEAK = """
import os
from unetkit.cli import main
code = main()
if os.path.exists('/proc/self/status'):
    with open('/proc/self/status') as status, open(os.environ['PEAK'], 'w') as file:
        file.writelines(line for line in status if line.startswith('VmHWM'))
sys.exit(code)
"""


def test_memory_of_real_processes(model, tile, bomb, shared, tmp_path):
    """The two that ask for most, a bomb of 11 GB and a network of exabytes: exit code 2, no traceback, less than 1.5 GB.

    What a process takes at its height is torch with its libraries, 0.2 to 1 GB by build; what was asked for is more than seven times the bound."""
    weights, about = load_tensors(model)
    wide = tmp_path / 'wide.safetensors'
    save_tensors(wide, weights, about | LIES['wide'][0](about))
    rows = [(model, bomb, 'announces 60000 x 60000'), (wide, tile[0], LIES['wide'][1])]
    peaks = [tmp_path.parent / f'{tmp_path.name}-peak{n}' for n in range(2)]
    before = disk(shared, tmp_path)
    runs = []
    for (file, image, _), peak in zip(rows, peaks, strict=True):
        words = ['predict', file, image, '--out', tmp_path / 'no.tif', '--method', 'blend']
        runs.append(start_process(*words, program=PEAK, PEAK=str(peak)))
    for run, (_, _, said) in zip(runs, rows, strict=True):
        out, err = run.communicate(timeout=300)
        assert (run.returncode, out) == (2, '')
        check_line(err, said)
    assert disk(shared, tmp_path) == before
    if not os.path.exists('/proc/self/status'):
        pytest.skip('this system does not say how much memory a process took: codes and lines were checked')
    for peak in peaks:
        assert int(peak.read_text().split()[1]) * 1024 < 1.5e9


# Virtual rasters

VRT = """<VRTDataset rasterXSize="96" rasterYSize="64" {more}>{inner}<VRTRasterBand dataType="Byte" band="1" {band}>
<SimpleSource><SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
</VRTRasterBand></VRTDataset>"""


def virtual(path, source, more='', inner='', band=''):
    "A text that names an image."
    path.parent.mkdir(exist_ok=True)
    path.write_text(VRT.format(source=source, more=more, inner=inner, band=band))
    return path


CLIMBS = {
    'up': dict(source='../secret.tif'),
    'by a link': dict(source='link.tif'),
    'absolute': dict(source='/etc/passwd'),
    'device': dict(source='/dev/zero'),
    'small letters': dict(
        source='own.tif', inner='<sourcefilename relativetovrt="1">../secret.tif</sourcefilename>'
    ),
    'name space': dict(source='../secret.tif', more='xmlns="any"'),
    'comment': dict(source='../secret.tif<!-- -->/../folder/own.tif'),
    'instruction': dict(source='../secret.tif<?a b?>/../folder/own.tif'),
    'blank': dict(source=' ../secret.tif'),
    'server': dict(source='/vsicurl/http://127.0.0.1/a.tif'),
    'inside of another': dict(source='vrt://../secret.tif'),
    'a text in raw numbers': dict(source='raw.dat'),
    'itself': dict(source='evil.vrt'),
    'each other': dict(source='other.vrt'),
    'program': dict(source='own.tif', band='subClass="VRTDerivedRasterBand"'),
    'program in small letters': dict(source='own.tif', band='subclass="VRTDerivedRasterBand"'),
    'raw bytes': dict(source='own.tif', band='subClass="VRTRawRasterBand"'),
    'warped': dict(source='own.tif', more='subClass="VRTWarpedDataset"'),
    'document type': dict(source='own.tif', inner='<!DOCTYPE a>'),
    'bands': dict(source='own.tif', inner='<VRTRasterBand dataType="Byte"/>' * 50_000),
    'nest': dict(source='own.tif', inner='<a>' * 100_000),
}


@pytest.mark.parametrize('name', CLIMBS)
def test_virtual_rasters_name_nothing_else(model, refused, tmp_path, name):
    "Whatever a virtual raster says, nothing above its folder is read, nothing is fetched or run, and no loop is entered."
    here = tmp_path / 'folder'
    path = virtual(here / 'evil.vrt', **CLIMBS[name])
    for file in (here / 'own.tif', tmp_path / 'secret.tif'):
        write_image(file, np.zeros((64, 96, 1), np.uint8))
    (here / 'link.tif').symlink_to(tmp_path / 'secret.tif')
    virtual(here / 'other.vrt', 'evil.vrt')
    text = virtual(here / 'raw.dat', '../secret.tif').read_bytes()
    (here / 'raw.dat').write_bytes(text.ljust(64 * 96))
    (here / 'raw.hdr').write_text(
        'ENVI\nsamples = 96\nlines = 64\nbands = 1\ndata type = 1\ninterleave = bsq\n'
    )
    refused(
        'predict',
        model,
        path,
        '--out',
        tmp_path / 'no.tif',
        said=['folder/'],
    )


# Lists of pairs, and pixels that are no numbers


def test_lists_without_end(refused, tmp_path):
    "Two million lines, one line of a hundred megabytes, and files that are not there: refused before anything is opened."
    out = tmp_path / 'no.safetensors'
    rows = ''.join(f'a/{n},b\n' for n in range(1_000_001))
    (tmp_path / 'long.csv').write_text('image,reference\n' + rows)
    (tmp_path / 'absent.csv').write_text('image,reference\n' + rows[:100_000].rpartition('\n')[0])
    (tmp_path / 'wide.csv').write_text('image,reference\n' + 'x' * 10**8)
    for name, said in {
        'long': 'more than 1000000',
        'absent': 'not there',
        'wide': 'cannot read pairs',
    }.items():
        refused('train', tmp_path / f'{name}.csv', '--out', out, *SMALL, said=[f'{name}.csv', said])


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(tile, model, refused, tmp_path, value):
    "An image without a single number holds no data; it is neither learnt nor scored."
    path = write_image(tmp_path / 'no.tif', np.full((64, 96, 3), value, np.float32))
    refused('train', path, tile[1], '--out', tmp_path / 'no.safetensors', *SMALL, said=['no scored pixel'])
    refused('predict', model, path, '--out', tmp_path / 'out.tif', said=['no pixel holds data'])
