"Model files and checkpoints: damaged, hostile and foreign files raise an error of one line, before memory is taken."

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import child_environment
from safetensors.torch import save_file

from unetkit import models
from unetkit.machine import prepare
from unetkit.models import (
    Epoch,
    History,
    load_checkpoint,
    load_model,
    load_tensors,
    save_checkpoint,
    save_model,
    save_tensors,
)
from unetkit.training import EarlyStopping, Run, make_optimizer, train_epoch
from unetkit.unet import UNet


@pytest.fixture
def saved(tmp_path):
    return save_tensors(
        tmp_path / 'a.safetensors', {'x': torch.arange(6.0).reshape(2, 3).T}, {'note': ['façade', 1]}
    )


def test_permissions_are_those_of_any_new_file(saved):
    mask = os.umask(0)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_header_of_any_length(tmp_path):
    "A safetensors file begins with the length of its header, whose first two bytes may be those of a pickle."
    starts = set()
    for n in range(500, 600):
        path = save_tensors(tmp_path / 'a.safetensors', {'x': torch.zeros(2)}, {'note': '-' * n})
        starts.add(path.read_bytes()[:2])
        assert load_tensors(path)[1] == {'note': '-' * n}
    assert b'\x80\2' in starts


def test_missing_and_unwritable(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match='train a model first'):
        load_tensors(tmp_path / 'none.safetensors')
    with pytest.raises(OSError, match='cannot write'):  # a file stands where the folder should be
        save_tensors(saved / 'model.safetensors', {}, {})


def test_cut_off_after_every_byte(tmp_path, saved):
    whole, torn = saved.read_bytes(), tmp_path / 'torn.safetensors'
    for size in range(len(whole)):
        torn.write_bytes(whole[:size])
        with pytest.raises(ValueError, match='not a whole unetkit file'):
            load_tensors(torn)
    for announced in (2**60, 2**63, 2**64 - 1, len(whole)):
        torn.write_bytes(announced.to_bytes(8, 'little') + whole[8:])
        with pytest.raises(ValueError, match='not a whole unetkit file'):
            load_tensors(torn)


@pytest.mark.parametrize(
    'text, said',
    [
        ('[1]', 'no JSON object'),
        ('no', 'Expecting value'),
        ('\x1b[2J', 'Expecting value'),
        ('[' * 100_000, 'recursion'),
        ('{"a": ' + '9' * 5000 + '}', 'Exceeds the limit'),
    ],
)
def test_strange_headers(tmp_path, text, said):
    path = tmp_path / 'strange.safetensors'
    save_file({'x': torch.zeros(2)}, path, metadata={'unetkit': text})
    with pytest.raises(ValueError, match=f'not a whole unetkit file .*{said}') as error:
        load_tensors(path)
    assert str(error.value).isprintable()


def test_no_header(tmp_path):
    save_file({'x': torch.zeros(2)}, tmp_path / 'x')
    with pytest.raises(ValueError, match="not a whole unetkit file .'unetkit'"):
        load_tensors(tmp_path / 'x')


MODEL = UNet(3, 5, width=4, depth=2)
WEIGHTS = MODEL.state_dict()


def with_header(folder, change, weights=WEIGHTS):
    "The error for a model file whose arguments were changed."
    about = {'network': 'unet', 'args': {**MODEL.settings, **change}}
    path = save_tensors(folder / 'liar.safetensors', weights, about)
    try:
        load_model(path)
    except ValueError as error:
        assert '\n' not in str(error)
        return str(error).split('this version ')[1]
    return 'accepted'


@pytest.mark.parametrize(
    'change, said',
    [
        ({'width': 10**9}, 'the settings ask for|overflow'),
        ({'depth': 10**9}, 'depth must be in'),
        ({'depth': 16}, 'lacks the weight'),
        ({'width': 10**40}, 'verflow'),
        ({'in_channels': 4}, 'the settings ask for'),
        ({'in_channels': 10**18}, 'verflow'),
        ({'num_classes': 10**12}, 'num_classes must be in'),
        ({'up': ['transposed']}, 'up must be of type str'),
        ({'width': 4.0}, 'width must be of type int'),
        ({'pad': 'no'}, 'pad must be of type bool'),
        ({'batch_norm': True}, 'lacks the weight|unknown weight'),
        ({'more': 1}, 'unexpected keyword'),
    ],
)
def test_impossible_arguments(tmp_path, change, said):
    assert with_header(tmp_path, {}) == 'accepted'
    import re

    assert re.search(said, with_header(tmp_path, change))


def test_a_bottom_without_bytes(tmp_path):
    "A tensor of 2**12 x 2**11 x 0 x 0 has no byte, and only its last two numbers give it away."
    names = UNet(width=1, depth=12).state_dict()
    empty = {
        name: torch.zeros(value.shape[:2] + (0, 0)) if value.ndim == 4 else value
        for name, value in names.items()
    }
    assert 'the settings ask for' in with_header(tmp_path, {'width': 1, 'depth': 12}, empty)


def test_weights_that_do_not_fit(tmp_path):
    name = 'entry.2.weight'
    weight = WEIGHTS[name]
    for odd, said in [
        (weight.double(), 'is torch.float64'),
        (weight.half(), 'is torch.float16'),
        (weight.int(), 'is torch.int32'),
        (weight * math.nan, 'not finite'),
        (weight[:1], 'the settings ask for torch.float32'),
    ]:
        assert said in with_header(tmp_path, {}, WEIGHTS | {name: odd})
    assert f'lacks the weight {name}' in with_header(
        tmp_path, {}, {k: v for k, v in WEIGHTS.items() if k != name}
    )
    assert 'has an unknown weight' in with_header(tmp_path, {}, WEIGHTS | {'a\x1b[2J': weight})


@pytest.mark.parametrize(
    'header',
    [
        {},
        {'network': 'unet'},
        {'network': ['unet'], 'args': {}},
        {'network': 'vnet', 'args': {}},
        {'unet': 3},
    ],
)
def test_no_network_in_the_header(tmp_path, header):
    path = save_tensors(tmp_path / 'm.safetensors', WEIGHTS, header)
    with pytest.raises(ValueError, match='does not hold a network of this version'):
        load_model(path)


def test_files_of_the_first_house(tmp_path):
    "Their header names the arguments `unet`, and no network."
    path = save_tensors(tmp_path / 'm.safetensors', WEIGHTS, {'unet': MODEL.settings, 'images': 'uint8'})
    again, about = load_model(path)
    batch = torch.rand(1, 3, 20, 30)
    assert torch.equal(again(batch), MODEL.eval()(batch)) and not again.training
    assert about['network'] == 'unet' and about['args'] == MODEL.settings and about['images'] == 'uint8'
    demo = Path(models.__file__).parent / 'recorded' / 'demo' / 'model.safetensors'
    assert load_model(demo)[0].num_classes == 5


def test_the_state_of_the_generator_is_left_alone_by_the_check(tmp_path):
    "Building on the meta device draws nothing; only the real network does, which is overwritten."
    with torch.device('meta'), models._NoDraws():
        before = torch.get_rng_state()
        UNet(width=2, depth=1)
        assert torch.equal(before, torch.get_rng_state())


def test_a_model_is_loaded_without_the_compiler():
    "On the meta device the drawing of a weight would load a thousand modules, which takes seconds."
    demo = Path(models.__file__).parent / 'recorded' / 'demo' / 'model.safetensors'
    program = (
        'import sys; from unetkit.models import load_model; load_model(sys.argv[1]); '
        "print([name for name in sys.modules if name.startswith('torch._dynamo')])"
    )
    done = subprocess.run(
        [sys.executable, '-c', program, str(demo)], capture_output=True, text=True, env=child_environment()
    )
    assert (done.stdout, done.stderr) == ('[]\n', '')


RECORDS = [asdict(Epoch(n, 8 * n, 1.1, 1.0, 0.5, 0.5)) for n in (1, 2)]


@pytest.mark.parametrize(
    'change, said',
    [
        ({'valid_loss': '0.5'}, "valid_loss of epoch 1 must be a finite number, got '0.5'"),
        ({'valid_loss': math.nan}, 'must be a finite number, got nan'),
        ({'number': 2}, 'epoch 1 has the number 2'),
        ({'number': True}, 'must be a whole number, got True'),
        ({'steps': 1.5}, 'steps of epoch 1 must be a whole number, got 1.5'),
        ({'steps': True}, 'steps of epoch 1 must be a whole number, got True'),
    ],
)
def test_a_history_from_a_file(change, said):
    assert History.read(json.loads(json.dumps(RECORDS))) == [Epoch(**record) for record in RECORDS]
    with pytest.raises(ValueError, match=said):
        History.read([RECORDS[0] | change])


def test_no_history():
    with pytest.raises(TypeError, match='list of epochs, got str'):
        History.read('none')
    with pytest.raises(TypeError):
        History.read([{'number': 1}])
    with pytest.raises(AttributeError):  # a record is immutable
        History.read(RECORDS)[0].valid_loss = 0.0


def new_run(seed=0, layout='channels_last'):
    torch.manual_seed(seed)
    model = prepare(UNet(3, 5, width=4, depth=2), 'cpu', layout == 'channels_last')
    train = SimpleNamespace(rng=np.random.default_rng(seed))
    return Run(
        model,
        make_optimizer(model),
        train,
        EarlyStopping(3),
        {k: v.clone() for k, v in model.state_dict().items()},
    )


@pytest.fixture
def checkpoint(tmp_path):
    "A checkpoint after one step, and its run."
    run = new_run()
    batch, targets = torch.rand(2, 3, 16, 16), torch.randint(0, 5, (2, 16, 16))
    train_epoch(run.model, [(batch, targets)], torch.nn.CrossEntropyLoss(), run.optimizer)
    run.history.append(Epoch(1, 1, 1.5, 1.4, 0.3, 0.1))
    run.stopper.update(1.4, 1)
    return save_checkpoint(tmp_path / 'run.safetensors', run, {'lr': 1e-3}), run


@pytest.mark.parametrize('layout', ['channels_last', 'contiguous'])
def test_a_checkpoint_comes_back(checkpoint, layout):
    "Weights, moments (laid out like their weights), stopper, records and generators."
    path, one = checkpoint
    two = new_run(seed=1, layout=layout)
    load_checkpoint(path, two, {'lr': 1e-3}, epochs=5)
    assert two.history == one.history and two.stopper == one.stopper
    assert two.train.rng.bit_generator.state == one.train.rng.bit_generator.state
    was, now = one.optimizer.state_dict()['state'], two.optimizer.state_dict()['state']
    for i, (a, b) in enumerate(zip(one.model.parameters(), two.model.parameters(), strict=True)):
        assert torch.equal(a, b)
        for name in ('exp_avg', 'exp_avg_sq', 'step'):
            assert torch.equal(was[i][name], now[i][name])
        assert now[i]['exp_avg'].stride() == b.stride()
    for name, value in one.best.items():
        assert torch.equal(value, two.best[name])


def test_patience_may_be_raised(checkpoint):
    path, _ = checkpoint
    run = new_run()
    run.stopper.patience = 7
    load_checkpoint(path, run, {'lr': 1e-3}, epochs=5)
    assert (run.stopper.patience, run.stopper.best) == (7, 1.4)


def test_no_file_is_no_checkpoint(tmp_path):
    run = new_run()
    load_checkpoint(tmp_path / 'none', run, {}, 5)
    assert run.history == []


def test_another_run(checkpoint):
    path, _ = checkpoint
    with pytest.raises(ValueError, match='of another run: lr was 0.001 and is 0.01'):
        load_checkpoint(path, new_run(), {'lr': 1e-2}, 5)
    with pytest.raises(ValueError, match='of another run: lr was 0.001 and is None'):
        load_checkpoint(path, new_run(), {}, 5)
    with pytest.raises(ValueError, match='of another run: loss was None'):
        load_checkpoint(path, new_run(), {'lr': 1e-3, 'loss': 'dice'}, 5)
    with pytest.raises(ValueError, match='1 epochs, more than the 0'):
        load_checkpoint(path, new_run(), {'lr': 1e-3}, 0)
    with pytest.raises(ValueError, match='no checkpoint of this network'):
        load_checkpoint(save_model(path, MODEL, {}), new_run(), {}, 5)


@pytest.mark.parametrize(
    'change',
    [
        {'epochs': [3]},
        {'epochs': None},
        {'settings': []},
        {'stopper': {'best': 1, 'speed': 9}},
        {'stopper': None},
        {'rng': {'bit_generator': 'MT'}},
        {'rng': 5},
    ],
)
def test_a_checkpoint_with_a_strange_header(checkpoint, change):
    path, _ = checkpoint
    tensors, about = load_tensors(path)
    save_tensors(path, tensors, about | change)
    with pytest.raises(ValueError, match='is no checkpoint of this network .*delete it'):
        load_checkpoint(path, new_run(), {'lr': 1e-3}, 5)


@pytest.mark.parametrize(
    'name',
    [
        'optimizer.0.exp_avg',
        'best.head.weight',
        'model.head.weight',
        'rng',
        'optimizer.99.exp_avg',
        'optimizer.x',
    ],
)
def test_a_checkpoint_with_a_strange_tensor(checkpoint, name):
    path, _ = checkpoint
    tensors, about = load_tensors(path)
    save_tensors(path, tensors | {name: torch.zeros(7)}, about)
    with pytest.raises(ValueError, match='is no checkpoint of this network .*delete it'):
        load_checkpoint(path, new_run(), {'lr': 1e-3}, 5)


@pytest.mark.parametrize(
    'new, old, pairs',
    [
        (['', '', '', 'height'], ['red', 'green', 'blue'], [0, 1, 2, None]),
        (['height', '', '', ''], ['red', 'green', 'blue'], [None, 0, 1, 2]),
        (['red', 'green', 'blue'], ['', '', '', 'height'], [0, 1, 2]),
        (['', '', 'height'], ['red', '', 'height'], [1, None, 2]),
        (['', 'height'], ['', 'red'], [0, None]),
        (['red', 'height'], ['green', 'blue'], [None, None]),
        (['', '', ''], ['red', 'green', 'blue'], [0, 1, 2]),
    ],
)
def test_bands_without_a_name(new, old, pairs):
    "A name that only one model knows does not change what becomes of the others."
    assert models._same_bands(new, old) == pairs


class Before(UNet):
    "A U-Net of an earlier version: its arguments end with those."

    def __init__(
        self, in_channels=3, num_classes=5, width=64, depth=4, up='transposed', batch_norm=False, pad=True
    ):
        super().__init__(in_channels, num_classes, width, depth, up, pad=pad)


def test_older_versions_read_what_is_usual(tmp_path):
    "What they do not know is not written where it is off; where it is on, they are told to upgrade."
    model = UNet(3, 5, width=2, depth=1)
    about = models.load_tensors(models.save_model(tmp_path / 'm', model, {}))[1]
    Before(**about['args'])
    model = UNet(3, 5, width=2, depth=1, normalisation='channel', residual=True)
    about = models.load_tensors(models.save_model(tmp_path / 'm', model, {}))[1]
    assert (about['args']['normalisation'], about['args']['residual']) == ('channel', True)
    assert about['format'] > 2
    assert models.load_model(tmp_path / 'm')[0].settings == model.settings


@pytest.mark.parametrize('name', models.NETWORKS)
@pytest.mark.parametrize('normalisation', ['none', 'batch', 'channel'])
def test_every_normalisation_comes_back(tmp_path, name, normalisation):
    model = models.NETWORKS[name](3, 5, width=2, depth=1, normalisation=normalisation)
    models.save_model(tmp_path / 'm', model, {})
    assert models.load_model(tmp_path / 'm')[0].settings == model.settings


@pytest.mark.parametrize(
    'change, option',
    [
        (dict(residual=True), 'choose residual False (--no-residual)'),
        (dict(normalisation='batch'), 'choose normalisation none (--normalisation none)'),
        (dict(depth=2), 'choose depth 1 (--depth 1)'),
        (None, 'choose network unet (--network unet)'),
    ],
)
def test_what_to_choose_can_be_typed(change, option):
    source = UNet(3, 5, width=2, depth=1)
    build = UNet if change is not None else models.NETWORKS['efficientnet_lite0']
    model = build(**dict(in_channels=3, num_classes=5, width=2, depth=1) | (change or {}))
    with pytest.raises(ValueError) as caught:
        models.take_weights(model, source, ('abcde', 'abcde'), ('rgb', 'rgb'))
    assert option in str(caught.value)
