"""Runs that can be relied on: what a model file says, to whom, and what a run leaves behind."""

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import warnings
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from helpers import before_each_block, check_refusal, child_environment, disk, shell, succeeds
from rasterio.features import rasterize
from safetensors import safe_open
from safetensors.numpy import save_file

from unetkit import inspection, jobs, scale, training
from unetkit.datasets import read_labelled, window_classes
from unetkit.deploy import export_onnx, onnx_predictor
from unetkit.experiments import ModelPipeline, compare
from unetkit.jobs import place_windows
from unetkit.labels import ISPRS, open_labels
from unetkit.losses import make_loss
from unetkit.machine import LossNotFinite, seed_everything
from unetkit.metrics import Scores
from unetkit.models import FORMAT, Epoch, History, load_tensors, save_tensors, take_weights
from unetkit.networks import NETWORKS
from unetkit.palettes import Palette
from unetkit.patches import blocked_split, grid_windows, random_split
from unetkit.plots import plot_history
from unetkit.products import write_polygons
from unetkit.raster import Raster, read_image, read_label_map, write_image
from unetkit.rules import Remark
from unetkit.scale import evaluate_raster, predict_raster
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.stitching import METHODS
from unetkit.tiles import Tile, read_tile
from unetkit.training import validate
from unetkit.unet import UNet

# A network of nothing but convolutions, with the weights of its last step, so that a test can say what each weight is
SMALL = (
    '--width 4 --depth 2 --epochs 3 --patch-size 32 --split random --normalisation none --average 0'.split()
)
SMALL += ['--device', 'cpu', '--precision', 'float32']

TINY = dict(
    width=4,
    depth=2,
    normalisation='none',
    average=0.0,
    epochs=3,
    patch_size=32,
    split='random',
    device='cpu',
    precision='float32',
    compile='off',
)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A scene, a model of it, and the table of its training."
    folder = tmp_path_factory.mktemp('runs')
    succeeds('scene', '--out', folder / 'scene', '--height', 160, '--width', 160, '--seed', 1)
    pair = folder / 'scene/image.tif', folder / 'scene/reference.tif'
    succeeds('train', *pair, '--out', folder / 'model.safetensors', '--log', folder / 'run.csv', *SMALL)
    return folder


def changed(path, out, change):
    "A model file with another header."
    with safe_open(path, 'np') as file:
        about = json.loads(file.metadata()['unetkit'])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    change(about)
    save_file(tensors, out, metadata={'unetkit': json.dumps(about)})
    return out


# The losses of a run (row 11 of what users met)


def test_log(place):
    "A row per epoch, as the model's header has it."
    with open(place / 'run.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    history = ModelPipeline.load(place / 'model.safetensors').history
    assert [int(row['number']) for row in rows] == [1, 2, 3]
    assert [float(row['valid_loss']) for row in rows] == [epoch.valid_loss for epoch in history]


def test_log_of_a_resumed_run(place, tmp_path):
    "An interrupted run that goes on writes the epochs before the interruption too."
    pair = place / 'scene/image.tif', place / 'scene/reference.tif'
    line = ['train', *pair, '--out', tmp_path / 'm.safetensors', '--log', tmp_path / 'run.csv', *SMALL]
    process = subprocess.Popen(
        [sys.executable, '-c', 'import sys; from unetkit.cli import main; sys.exit(main())', *map(str, line)],
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    for printed in process.stdout:
        if printed.startswith('epoch  1'):
            process.kill()
    assert process.wait() == -9 and (tmp_path / 'm.safetensors.checkpoint').exists()
    succeeds(*line)
    assert [row.split(',')[0] for row in (tmp_path / 'run.csv').read_text().splitlines()] == [
        'number',
        '1',
        '2',
        '3',
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'm.safetensors',
        'm.safetensors.checkpoint',
        'run.csv',
    ]


@pytest.mark.parametrize('name', ['run.csv', 'notes.csv'])
def test_log_spares_what_is_there(name, place, tmp_path):
    "A table of one's own is refused; that of an older run is replaced."
    pair = place / 'scene/image.tif', place / 'scene/reference.tif'
    ours = name == 'run.csv'
    text = (place / 'run.csv').read_text() if ours else 'number,name\n1,mine\n'
    (tmp_path / name).write_text(text)
    code, _, err = shell(
        'train', *pair, '--out', tmp_path / 'm.safetensors', '--log', tmp_path / name, *SMALL
    )
    assert (code, ours) in ((0, True), (2, False))
    assert ours or (f'{name} is there already' in err and (tmp_path / name).read_text() == text)


@pytest.mark.parametrize('log', ['m.safetensors', 'm.safetensors.checkpoint'])
def test_log_is_a_file_of_its_own(log, place, tmp_path):
    pair = place / 'scene/image.tif', place / 'scene/reference.tif'
    code, _, err = shell('train', *pair, '--out', tmp_path / 'm.safetensors', '--log', tmp_path / log, *SMALL)
    assert code == 2 and 'two results would be written to' in err and not list(tmp_path.iterdir())


def test_history_as_a_frame(place):
    pandas = pytest.importorskip('pandas', reason='pandas is not installed')
    frame = ModelPipeline.load(place / 'model.safetensors').history.frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame.index) == [1, 2, 3]
    assert frame.valid_f1.idxmax() == ModelPipeline.load(place / 'model.safetensors').history.best.number
    with pytest.raises(KeyError):
        History().frame()


# Going on (row 1)


def pair_of(place):
    return place / 'scene/image.tif', place / 'scene/reference.tif'


def same_weights(one, other):
    "Do two model files hold the same weights, and the same history?"
    (weights, about), (others, there) = load_tensors(one), load_tensors(other)
    records = [file['history'] for file in (about, there)]
    return records[0] == records[1] and all(torch.equal(weights[name], others[name]) for name in weights)


def always_alike(monkeypatch, classes=6):
    "Validation that finds each epoch as good as the first, whatever the processor and the training."
    scores = Scores(np.eye(classes, dtype=int))
    monkeypatch.setattr(training, 'validate', lambda *given: (1.0, scores))


def equal(one, other):
    "Have two networks the same weights? A pipeline stands for its network."
    states = (each.model.state_dict() if isinstance(each, ModelPipeline) else each for each in (one, other))
    return all(torch.equal(*pair) for pair in zip(*map(dict.values, states)))


def test_more_epochs_go_on(place, tmp_path):
    "Three epochs and then five are five at once, bit for bit, and the run says that it goes on."
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    succeeds(*line)
    before = (tmp_path / 'm.safetensors').read_bytes()
    said = succeeds(*line, '--epochs', 3)
    assert said.endswith(
        f'nothing left to do: {tmp_path}/m.safetensors has its 3 epochs; more --epochs go on, --restart begins anew\n'
    )
    assert (tmp_path / 'm.safetensors').read_bytes() == before
    said = succeeds(*line, '--epochs', 5)
    assert f'training goes on from {tmp_path}/m.safetensors.checkpoint\n' in said
    succeeds(*line, '--epochs', 5, '--out', tmp_path / 'at-once.safetensors')
    assert same_weights(tmp_path / 'm.safetensors', tmp_path / 'at-once.safetensors')


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (['--lr', 0.01], 'lr was 0.001 and is 0.01'),
        (['--epochs', 2], 'holds 3 epochs, more than the 2 asked for'),
        ('data', 'of another run: '),
    ],
)
def test_another_run_is_refused(change, said, place, tmp_path):
    "A model is not lost to other data or settings, unless that is asked for."
    pair, line = pair_of(place), ['--out', tmp_path / 'm.safetensors', *SMALL]
    succeeds('train', *pair, *line)
    before = (tmp_path / 'm.safetensors').read_bytes()
    if change == 'data':
        succeeds('scene', '--out', tmp_path / 'scene', '--height', 160, '--width', 160, '--seed', 2)
        pair, change = pair_of(tmp_path), []
    code, _, err = shell('train', *pair, *line, *change)
    assert (code, err.count('\n')) == (2, 1) and said in err and '--restart' in err
    assert (tmp_path / 'm.safetensors').read_bytes() == before
    succeeds('train', *pair, *line, *change, '--overwrite')
    succeeds('train', *pair, *line, *change, '--out', tmp_path / 'fresh.safetensors')
    assert same_weights(tmp_path / 'm.safetensors', tmp_path / 'fresh.safetensors')


def test_patience_at_its_end(place, tmp_path, monkeypatch):
    "The first epoch is never beaten. More epochs alone change nothing, more patience goes on."
    always_alike(monkeypatch)
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    line += ['--epochs', 10, '--patience', 2]
    succeeds(*line)
    assert len(ModelPipeline.load(tmp_path / 'm.safetensors').history) == 3
    said = succeeds(*line, '--epochs', 11)
    assert 'm.safetensors has 3 epochs, when the patience of 2 was at its end' in said
    said = succeeds(*line, '--patience', 10)
    assert 'training goes on from' in said
    assert len(ModelPipeline.load(tmp_path / 'm.safetensors').history) == 10


def test_a_model_without_its_checkpoint(place, tmp_path):
    "It is replaced, as every result of this kit, but not without a word."
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    succeeds(*line)
    (tmp_path / 'm.safetensors.checkpoint').unlink()
    assert 'm.safetensors has no checkpoint beside it: training begins anew' in succeeds(*line, '--epochs', 4)
    assert len(ModelPipeline.load(tmp_path / 'm.safetensors').history) == 4


def test_a_checkpoint_without_its_model(place, tmp_path):
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    succeeds(*line)
    before = (tmp_path / 'm.safetensors').read_bytes()
    (tmp_path / 'm.safetensors').unlink()
    assert 'wrote' in succeeds(*line) and (tmp_path / 'm.safetensors').read_bytes() == before


def test_fit_twice_goes_on():
    "Two epochs and two more are four at once, bit for bit; `fresh` begins anew; other tiles begin with the weights."
    how = dict(TINY, epochs=2)
    tile, other = (synthetic_scene(160, 160, seed=seed) for seed in (1, 2))
    twice, once = ModelPipeline(ISPRS, **how).fit(tile), ModelPipeline(ISPRS, **how | {'epochs': 4}).fit(tile)
    with pytest.warns(Remark, match='goes on after epoch 2; fresh=True begins anew'):
        twice.fit(tile)
    assert [epoch.number for epoch in twice.history] == [1, 2, 3, 4] and equal(twice, once)
    with pytest.warns(
        Remark, match='begins with the weights of this model and a new optimiser: every layer is'
    ):
        twice.fit(other)
    assert len(twice.history) == 2 and not equal(twice, ModelPipeline(ISPRS, **how).fit(other))
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'goes on|begins')
        twice.fit(other, fresh=True)
    assert equal(twice, ModelPipeline(ISPRS, **how).fit(other))


def test_fit_after_the_patience_ran_out(monkeypatch):
    "The first epoch is never beaten, which ends a run early; whoever calls again means it, and has new patience."
    always_alike(monkeypatch)
    pipeline = ModelPipeline(ISPRS, **TINY | {'epochs': 10, 'patience': 2})
    tile = synthetic_scene(160, 160, seed=1)
    assert len(pipeline.fit(tile).history) == 3
    with pytest.warns(Remark, match='goes on after epoch 3'):
        pipeline.fit(tile)
    assert len(pipeline.history) == 5


def test_fit_after_a_stop():
    "Who stops listening after two of three epochs, and calls again, gets three more."
    pipeline, tile = ModelPipeline(ISPRS, **TINY), synthetic_scene(160, 160, seed=1)
    run = pipeline.epochs(tile)
    next(run), next(run)
    run.close()
    with pytest.warns(Remark, match='goes on after epoch 2'):
        pipeline.fit(tile)
    assert equal(pipeline, ModelPipeline(ISPRS, **TINY | {'epochs': 5}).fit(tile))


def test_fit_after_a_failure():
    "A loss that is no number is not gone on with."
    pipeline, tile = ModelPipeline(ISPRS, **TINY), synthetic_scene(160, 160, seed=1)
    pipeline.fit(tile)
    good = pipeline.model.state_dict()
    pipeline.settings = replace(pipeline.settings, lr=1e30)
    with pytest.warns(Remark, match='begins with the weights of this model'), pytest.raises(LossNotFinite):
        pipeline.fit(tile)
    assert equal(pipeline, good) and not pipeline.memory


# A model to begin with


def test_a_loaded_model_is_gone_on_with(place):
    loaded = ModelPipeline.load(place / 'model.safetensors', device='cpu', precision='float32')
    before = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
    loaded.settings = replace(
        loaded.settings, lr=1e-12
    )  # one step moves a weight by less than a part in a million
    with pytest.warns(
        Remark, match='begins with the weights of this model and a new optimiser: every layer is'
    ):
        loaded.fit(synthetic_scene(160, 160, seed=1))
    for name, weight in loaded.model.named_parameters():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-9)


def fresh_of(pipeline, tile):
    "The network that a pipeline begins with on a tile without another model."
    seed_everything(pipeline.settings.seed)
    pipeline.make([tile])
    return {name: value.clone() for name, value in pipeline.model.state_dict().items()}


def begun(pipeline, tile, init, part=''):
    "The network that it begins with when it has another model, and what it says."
    fresh_of(pipeline, tile)
    with pytest.warns(Remark) as said:
        pipeline.begin(ModelPipeline(pipeline.palette), {}, init, part)
    return pipeline.model.state_dict(), ' '.join(str(one.message) for one in said)


def test_other_classes(place):
    "Rows of the head go with the names: kept, in another order, or new."
    source = ModelPipeline.load(place / 'model.safetensors', device='cpu', precision='float32')
    old = source.model.state_dict()
    names = ['pool', 'tree', 'building']
    palette = Palette(names, [(0, 0, 1), (0, 255, 0), (0, 0, 255)])
    pipeline, tile = ModelPipeline(palette, **TINY), synthetic_scene(64, 64, seed=1)
    drawn = fresh_of(pipeline, tile)
    weights, said = begun(pipeline, tile, place / 'model.safetensors')
    rows = [source.palette.names.index(name) for name in names[1:]]
    assert torch.equal(weights['head.weight'][1:], old['head.weight'][rows])
    assert torch.equal(weights['head.bias'][1:], old['head.bias'][rows])
    assert torch.equal(weights['head.weight'][0], drawn['head.weight'][0]) and weights['head.bias'][0] == 0
    assert all(torch.equal(weights[name], old[name]) for name in old if not name.startswith('head'))
    assert '12 of 13 layers are kept; the head is new for pool and keeps the other classes; ' in said
    assert 'impervious, low vegetation, car, clutter are left out' in said


def test_the_same_classes_in_another_order(place):
    "Equal numbers of classes are no equal classes."
    source = ModelPipeline.load(place / 'model.safetensors', device='cpu', precision='float32')
    order = [3, 1, 0, 2, 5, 4]
    palette = Palette(
        *([part[index] for index in order] for part in (source.palette.names, source.palette.colours))
    )
    weights, said = begun(ModelPipeline(palette, **TINY), synthetic_scene(64, 64, seed=1), source)
    assert torch.equal(weights['head.weight'], source.model.state_dict()['head.weight'][order])
    assert 'the head keeps its classes' in said


@pytest.mark.parametrize(
    ('old', 'new', 'expected'),
    [
        (3, 4, lambda w: torch.stack([w[:, 0], w[:, 1], w[:, 2], w.mean(1)], 1) * 3 / 4),
        (3, 1, lambda w: w[:, :1] * 3),
        (('nir', 'red', 'green'), ('red', 'green', 'blue'), lambda w: torch.stack([w[:, 1], w[:, 2], w.mean(1)], 1)),
        (('red', 'green'), ('green', 'red'), lambda w: w[:, [1, 0]]),
        (('red', ''), ('', 'red'), lambda w: w[:, [1, 0]]),
        (('red', '', ''), ('', 'green', 'red'), lambda w: torch.stack([w[:, 1], w.mean(1), w[:, 0]], 1)),
        (('red', 'green'), ('red', ''), lambda w: torch.stack([w[:, 0], w.mean(1)], 1)),
        (('red', 'green'), ('', ''), lambda w: w),
        (('grey', 'grey', 'red'), ('red', 'grey', 'grey'), lambda w: w[:, [2, 0, 1]]),
    ],
)  # fmt: skip
def test_other_bands(old, new, expected):
    "By name, without names by place; a band without a name is none of those with one. With more bands the sum of a filter is kept."
    names = [('',) * bands if isinstance(bands, int) else bands for bands in (new, old)]
    model, source = (UNet(len(bands), 5, width=2, depth=1) for bands in names)
    classes = list('abcde')
    said = take_weights(model, source, (classes, classes), names)
    weights, before = model.state_dict(), source.state_dict()
    torch.testing.assert_close(weights['entry.0.weight'], expected(before['entry.0.weight']))
    if len(names[0]) > len(names[1]):
        sums = (one['entry.0.weight'].sum(1) for one in (weights, before))
        torch.testing.assert_close(next(sums), next(sums))
    kept = [name for name in before if name != 'entry.0.weight']
    assert all(torch.equal(weights[name], before[name]) for name in kept)
    same = all(torch.equal(weights[name], before[name]) for name in before)
    assert said.startswith('every layer is kept' if same else '7 of 8 layers are kept; the first layer')
    unnamed = [any(not name or bands.count(name) > 1 for name in bands) for bands in names]
    assert ('bands are paired by' in said) is (any(unnamed) and any(map(any, names))), said


def add_one(model, train, loss_fn, optimizer, dtype, *rest):
    "An epoch that adds 1 to each weight that is trained."
    with torch.no_grad():
        for weight in model.parameters():
            weight += weight.requires_grad
    return 1.0


def test_train_init(place, tmp_path, monkeypatch):
    "The command: a head for five classes, 16-bit images of four bands, the encoder frozen; then more epochs."
    always_alike(monkeypatch, classes=5)
    monkeypatch.setattr(training, 'train_epoch', add_one)
    image, reference = pair_of(place)
    pixels = read_image(image)
    wide = np.concatenate([pixels, pixels[..., :1]], 2).astype(np.uint16) * 10
    write_image(tmp_path / 'wide.tif', wide)
    line = ['train', tmp_path / 'wide.tif', reference, '--out', tmp_path / 'm.safetensors', *SMALL]
    line += ['--init', place / 'model.safetensors', '--freeze', 'encoder', '--ignore', 'clutter']
    code, _, err = shell(*line)
    notes = [text for text in err.splitlines() if 'begins with' in text]
    assert code == 0 and len(notes) == 1 and 'fresh=True' not in err, err
    for said in (
        '11 of 13 layers are kept',
        'clutter is left out',
        'fitted to 4 bands in place of 3, band 4 with the mean',
        'had values of 0 to 255, the new ones have',
    ):
        assert said in notes[0], said
    (weights, _), (before, _) = (
        load_tensors(path) for path in (tmp_path / 'm.safetensors', place / 'model.safetensors')
    )
    assert all(torch.equal(weights[name], before[name]) for name in before if name.startswith('downs'))
    assert all(torch.equal(weights[name], before[name] + 1) for name in before if name.startswith('ups'))
    stem = torch.cat([before['entry.0.weight'], before['entry.0.weight'].mean(1, keepdim=True)], 1) * 3 / 4
    torch.testing.assert_close(weights['entry.0.weight'], stem)

    code, out, err = shell(*line, '--epochs', 4)
    assert code == 0 and 'training goes on from' in out and 'begins with' not in err
    code, _, err = shell(*[word for word in line if word not in ('--freeze', 'encoder')], '--epochs', 4)
    assert code == 2 and "freeze was 'encoder' and is 'none'" in err


def test_what_a_training_began_with(place, tmp_path):
    "The model file names the other model, its weights and what was frozen, whatever the folder; info shows it."
    first = tmp_path / 'somewhere' / 'first.safetensors'
    first.parent.mkdir()
    shutil.copy(place / 'model.safetensors', first)
    line = ['train', *pair_of(place), *SMALL, '--init', first, '--freeze', 'encoder']
    assert shell(*line, '--epochs', 2, '--out', tmp_path / 'm.safetensors')[0] == 0
    about = load_tensors(tmp_path / 'm.safetensors')[1]
    checksum = ModelPipeline.load(first).fingerprint()
    assert about['init'] == {'name': 'first.safetensors', 'checksum': checksum}
    assert about['freeze'] == 'encoder' and str(tmp_path) not in json.dumps(about)
    assert f'checksum of the weights: {checksum}\n' in succeeds('info', first)
    said = succeeds('info', tmp_path / 'm.safetensors')
    assert f'began with the weights of first.safetensors, checksum {checksum}\n' in said
    assert 'kept the weights of its encoder\n' in said

    assert shell(*line, '--out', tmp_path / 'm.safetensors')[0] == 0  # goes on from the checkpoint
    again = load_tensors(tmp_path / 'm.safetensors')[1]
    assert len(again['history']) == 3 and (again['init'], again['freeze']) == (about['init'], 'encoder')
    plain = load_tensors(place / 'model.safetensors')[1]
    assert 'init' not in plain and 'freeze' not in plain

    tile = read_labelled(*pair_of(place), ISPRS)
    loaded = ModelPipeline.load(tmp_path / 'm.safetensors', 'cpu', 'float32')
    before = loaded.fingerprint()
    with pytest.warns(Remark, match='weights of this model'):
        loaded.fit(tile)
    assert loaded.begun == {'init': {'name': 'm.safetensors', 'checksum': before}}
    with pytest.warns(Remark, match='goes on after epoch 3'):
        assert loaded.fit(tile).begun['init']['checksum'] == before
    assert loaded.fit(tile, fresh=True).begun == {}


@pytest.mark.parametrize(
    'strange',
    [{'init': 'first'}, {'init': {'name': 'first'}}, {'freeze': 3}, {'init': {'name': 1, 'checksum': ''}}],
)
def test_a_strange_beginning_is_refused(strange, place, tmp_path):
    model = changed(
        place / 'model.safetensors', tmp_path / 'm.safetensors', lambda about: about.update(strange)
    )
    check_refusal([tmp_path], ['info', model], ['m.safetensors', 'train the model again'])


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--width', 8], 'has width 4, the new one 8: its weights fit a network of the same kind only; choose width 4 (--width 4)'),
        (['--depth', 3], 'has depth 2, the new one 3'),
        (['--init', ''], 'freeze keeps the weights that a model begins with: give one (--init)'),
        (['--freeze', 'head'], 'freeze must be one of'),
        (['--init', 'absent.safetensors'], 'no file absent.safetensors'),
        (['--out', 'the model'], 'is an input and would be lost'),
    ],
)  # fmt: skip
def test_init_that_does_not_fit(options, said, place, tmp_path):
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--freeze', 'encoder']
    line += ['--init', place / 'model.safetensors']
    before = (place / 'model.safetensors').read_bytes()
    options = [place / 'model.safetensors' if word == 'the model' else word for word in options]
    code, out, err = shell(*line, *options)
    assert (code, err.count('\n')) == (2, 1) and said in err, err
    assert 'epoch  1' not in out and not list(tmp_path.iterdir())
    assert (place / 'model.safetensors').read_bytes() == before


def test_an_older_model_to_begin_with(place, tmp_path):
    "The first versions noted no format, and the type of the images in place of their values."

    def older(about):
        for name in ('format', 'version', 'values'):
            about.pop(name)
        about['images'] = 'uint8'

    model = changed(place / 'model.safetensors', tmp_path / 'old.safetensors', older)
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    code, _, err = shell(*line, '--init', model)
    assert (
        code == 0
        and err
        == 'note: begins with the weights of another model and a new optimiser: every layer is kept; '
        'bands are paired by place, because those of one model have no names\n'
    )


# What a model file says (rows 11 and 14)


def test_info(place):
    code, out, err = shell('info', place / 'model.safetensors')
    assert (code, err) == (0, '')
    for said in (
        'network: unet, 3 bands, 6 classes',
        '#0000ff building',
        'red: uint8, 0 to 255',
        '0.09 m on the ground',
    ):
        assert said in out, said
    for said in ('width 4', 'depth 2', 'epochs 3', 'split random'):
        assert said in out.split('recipe: ')[1].splitlines()[0], said
    assert (
        out.count('  kept\n') + out.endswith('  kept\n') >= 1
        and len(out.split('validation loss', 1)[1].splitlines()) == 4
    )


@pytest.mark.parametrize('content', ['a picture', 'nothing', 'absent'])
def test_info_of_something_else(content, place, tmp_path):
    path = tmp_path / 'm.safetensors'
    if content != 'absent':
        path.write_bytes((place / 'scene/image.tif').read_bytes() if content == 'a picture' else b'')
    code, out, err = shell('info', path)
    assert (code, out, err.count('\n')) == (2, '', 1) and 'm.safetensors' in err


@pytest.mark.parametrize('letters', ['ascii', 'latin-1', 'utf-8'])
def test_names_on_any_terminal(letters, place, tmp_path):
    "A class may have a name that the terminal has no letters for: nothing fails, least of all after the work."

    def rename(about):
        about['palette']['names'][0] = 'дорога'
        about['palette']['names'][1] = 'Gebäude'

    model = changed(place / 'model.safetensors', tmp_path / 'm.safetensors', rename)
    image, out = place / 'scene/image.tif', tmp_path / 'scores.json'
    environment = child_environment() | {'PYTHONIOENCODING': letters, 'LC_ALL': 'C', 'PYTHONUTF8': '0'}
    for line in (['evaluate', model, image, place / 'scene/reference.tif', '--out', out],):
        done = subprocess.run(
            [
                sys.executable,
                '-c',
                'import sys; from unetkit.cli import main; sys.exit(main())',
                *map(str, line),
            ],
            capture_output=True,
            env=environment,
        )
        assert (done.returncode, done.stderr) == (0, b''), done.stderr
        text = done.stdout.decode(letters)
        assert ('Gebäude' in text) is (letters != 'ascii') and ('дорога' in text) is (letters == 'utf-8')
    assert 'дорога' in json.loads(out.read_text())['per_class']


# Models of other versions


def later(about):
    about |= {'format': FORMAT + 1, 'version': '9.0'}


UNKNOWN_AND_HARMLESS = {
    'a setting': lambda about: about['settings'].update(momentum=0.9),
    'a choice of a setting': lambda about: about['settings'].update(loss='boundary'),
    'a number per epoch': lambda about: [epoch.update(valid_kappa=0.5) for epoch in about['history']],
    'a part of the header': lambda about: about.update(calibration={'temperature': 1.3}),
}
UNKNOWN_AND_NEEDED = {
    'a network': lambda about: about.update(network='segformer'),
    'an argument of the network': lambda about: about['args'].update(attention=True),
    'what a number means': lambda about: about['values'].update(gamma=[2, 2, 2]),
    'a kind of class': lambda about: about['palette'].update(hierarchy=[0, 0, 1, 1, 2, 2]),
}


@pytest.mark.parametrize('what', UNKNOWN_AND_HARMLESS)
def test_a_newer_model_predicts(what, place, tmp_path):
    "What a map does not depend on is named and left out; the map is the same."
    model = changed(
        place / 'model.safetensors',
        tmp_path / 'm.safetensors',
        lambda about: (later(about), UNKNOWN_AND_HARMLESS[what](about)),
    )
    image = place / 'scene/image.tif'
    assert shell('predict', place / 'model.safetensors', image, '--out', tmp_path / 'a.tif')[0] == 0
    code, _, err = shell('predict', model, image, '--out', tmp_path / 'b.tif')
    assert code == 0 and (tmp_path / 'a.tif').read_bytes() == (tmp_path / 'b.tif').read_bytes()
    assert err.startswith('note: ') and 'written by unetkit 9.0' in err and 'upgrade unetkit' in err


@pytest.mark.parametrize('what', UNKNOWN_AND_NEEDED)
def test_a_newer_model_is_refused(what, place, tmp_path):
    model = changed(
        place / 'model.safetensors',
        tmp_path / 'm.safetensors',
        lambda about: (later(about), UNKNOWN_AND_NEEDED[what](about)),
    )
    code, out, err = shell('predict', model, place / 'scene/image.tif', '--out', tmp_path / 'b.tif')
    assert (code, out, err.count('\n')) == (2, '', 1), err
    assert (
        'upgrade unetkit' in err and 'train the model again' not in err and not (tmp_path / 'b.tif').exists()
    )


def test_models_without_a_format(place, tmp_path):
    "The first versions noted no format."
    model = changed(
        place / 'model.safetensors',
        tmp_path / 'm.safetensors',
        lambda about: (about.pop('format'), about.pop('version')),
    )
    image = place / 'scene/image.tif'
    for path, out in ((place / 'model.safetensors', 'a.tif'), (model, 'b.tif')):
        code, _, err = shell('predict', path, image, '--out', tmp_path / out)
        assert (code, err) == (0, '')
    assert (tmp_path / 'a.tif').read_bytes() == (tmp_path / 'b.tif').read_bytes()


OLDER = {name: Path(__file__).with_name('data') / f'{name}_e29d543.{end}' for name, end in
         {'model': 'safetensors', 'image': 'tif', 'map': 'tif'}.items()}  # fmt: skip
FLOAT32 = '--device cpu --precision float32'.split()


def test_a_model_of_e29d543_gives_its_map(tmp_path):
    "A file that the code of that commit wrote, and the map that its own command made (tests/data/README.md)."
    succeeds('predict', OLDER['model'], OLDER['image'], '--out', tmp_path / 'map.tif', *FLOAT32)
    ours, theirs = (read_label_map(path) for path in (tmp_path / 'map.tif', OLDER['map']))
    assert np.array_equal(ours, theirs) and len(np.unique(theirs)) == 5


def test_a_model_of_e29d543_in_every_command(place, tmp_path):
    "What takes a model takes an older one; its note lacks a version, the criterion, and the mean of its bands."
    model, pair = OLDER['model'], pair_of(place)
    said = succeeds('info', model)
    assert 'band 1: uint8, 0 to 255\n' in said and 'keep loss' in said and said.count('kept') == 1
    assert 'pixels' in succeeds('evaluate', model, *pair, *FLOAT32)
    for program in ('qgis', 'web'):
        code, out, err = shell('export', model, '--for', program, '--out', tmp_path / f'{program}.onnx')
        assert code == 0 and f'{program}.onnx' in out and err.count('\n') == (program == 'qgis'), err
    line = ['train', *pair, '--out', tmp_path / 'm.safetensors', *SMALL, '--width', 2, '--init', model]
    code, _, err = shell(*line)
    assert (code, err.count('\n')) == (0, 1) and 'every layer is kept' in err, err
    again = ModelPipeline.load(model, 'cpu', 'float32')
    again.save(tmp_path / 'again.safetensors')
    assert np.array_equal(again.predict(OLDER['image'], method='exact'), read_label_map(OLDER['map']))
    assert ModelPipeline.load(tmp_path / 'again.safetensors').fingerprint() == again.fingerprint()


# Names, colours and place in QGIS (row 12 of what users met)


def names_in(path, folder):
    "The names of the classes of a map, as GDAL reads them: a virtual copy holds what it knows."
    copy = folder / 'copy.vrt'
    rasterio.shutil.copy(path, copy, driver='VRT')
    names = [one.text for one in ElementTree.parse(copy).iter('Category')]
    copy.unlink()
    return tuple(names)


@pytest.mark.parametrize('method', ['exact', 'blend', 'patches'])
def test_a_map_carries_names(method, place, tmp_path):
    model, image = place / 'model.safetensors', place / 'scene/image.tif'
    succeeds('predict', model, image, '--out', tmp_path / 'map.tif', '--method', method, '--style')
    assert names_in(tmp_path / 'map.tif', tmp_path) == ISPRS.names
    entries = list(ElementTree.parse(tmp_path / 'map.qml').iter('paletteEntry'))
    colours = tuple(tuple(bytes.fromhex(one.get('color')[1:])) for one in entries)
    assert tuple(one.get('label') for one in entries) == ISPRS.names and colours == ISPRS.colours
    assert [int(one.get('value')) for one in entries] == list(range(ISPRS.num_classes))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['map.qml', 'map.tif', 'map.tif.aux.xml']


def test_the_maps_of_parts_carry_names(place, tmp_path):
    (tmp_path / 'parts').mkdir()
    for part in 'ab':
        shutil.copy(place / 'scene/image.tif', tmp_path / 'parts' / f'{part}.tif')
    out = tmp_path / 'maps/map.tif'
    succeeds('predict', place / 'model.safetensors', tmp_path / 'parts', '--out', out, '--style')
    for part in 'ab':
        assert names_in(tmp_path / f'maps/map_{part}.tif', tmp_path) == ISPRS.names
        assert (tmp_path / f'maps/map_{part}.qml').is_file()


@pytest.mark.parametrize('name', ['map.tif.aux.xml', 'map.qml'])
def test_a_style_of_somebody_else_stays(name, place, tmp_path):
    "What a user or QGIS wrote beside a map is not replaced before the user says so."
    line = ['predict', place / 'model.safetensors', place / 'scene/image.tif', '--out', tmp_path / 'map.tif']
    (tmp_path / name).write_text('<mine />')
    code, out, err = shell(*line, '--style')
    assert (code, out, err.count('\n')) == (2, '', 1) and f'{name} is there already' in err
    assert (tmp_path / name).read_text() == '<mine />'
    succeeds(*line, '--style', '--overwrite')
    assert (tmp_path / name).read_text() != '<mine />'


LOOK = """
import json, sys
from qgis.core import QgsApplication, QgsRasterLayer, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
seen = {}
for path in sys.argv[1:]:
    layer = QgsRasterLayer(path, 'map') if path.endswith('.tif') else QgsVectorLayer(path, 'polygons', 'ogr')
    box = layer.extent()
    seen[path] = {
        'valid': layer.isValid(), 'crs': layer.crs().authid(),
        'box': [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()],
    }
    if path.endswith('.tif'):
        seen[path]['classes'] = [[one.value, one.label, one.color.name()] for one in layer.renderer().classes()]
    else:
        seen[path]['objects'] = [feature['class'] for feature in layer.getFeatures()]
    del layer
print(json.dumps(seen), flush=True)
"""


@pytest.fixture(scope='module')
def qgis():
    "Open maps (*.tif) and polygons in QGIS, without a window: what it knows about each."
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    environment['QT_QPA_PLATFORM'] = 'offscreen'
    found = [
        python
        for python in dict.fromkeys([sys.executable, '/usr/bin/python3'])
        if not subprocess.run(
            [python, '-c', 'import qgis.core'], env=environment, capture_output=True
        ).returncode
    ]
    if not found:
        pytest.skip('no Python here has QGIS (in Debian: apt-get install python3-qgis)')

    def look(*paths):
        run = subprocess.run(
            [found[0], '-c', LOOK, *map(str, paths)], env=environment, capture_output=True, text=True
        )
        lines = run.stdout.splitlines()  # QGIS may end with a signal once all is said
        assert lines, run.stderr
        return [json.loads(lines[-1])[str(path)] for path in paths]

    return look


def test_qgis_shows_names_colours_and_place(qgis, place, tmp_path):
    out, plain = tmp_path / 'map.tif', tmp_path / 'plain.tif'
    line = ['predict', place / 'model.safetensors', place / 'scene/image.tif', '--out']
    succeeds(*line, out, '--style', '--polygons', tmp_path / 'map.geojson')
    succeeds(*line, plain)
    styled, bare, polygons = qgis(out, plain, tmp_path / 'map.geojson')
    web = ['#' + bytes(colour).hex() for colour in ISPRS.colours]
    wanted = [[index, name, colour] for index, (name, colour) in enumerate(zip(ISPRS.names, web))]
    assert styled['classes'] == wanted
    assert bare['classes'][: len(wanted)] == wanted
    with rasterio.open(place / 'scene/image.tif') as image:
        box, crs = list(image.bounds), image.crs.to_string()
    for seen in (styled, bare, polygons):
        assert seen['valid'] and seen['crs'] == crs
        assert seen['box'] == pytest.approx(box, abs=1e-6)  # a hundred-thousandth of a pixel
    assert set(polygons['objects']) <= set(ISPRS.names) and polygons['objects']


# Rare classes (rows 4 to 6)


def rare_objects(seed=1, size=256, share=0.01):
    "Bright squares of 6 pixels on noise, on this share of the pixels."
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.uint8)
    while labels.mean() < share:
        row, col = rng.integers(0, size - 6, 2)
        labels[row : row + 6, col : col + 6] = 1
    image = rng.normal(110, 15, (size, size, 3)) + 60 * labels[..., None]
    return Tile(image.clip(0, 255).astype(np.uint8), labels=labels)


TWO = Palette(('background', 'object'), ((0, 0, 0), (255, 0, 0)))
PLAIN = dict(
    patch_size=32,
    width=8,
    depth=2,
    normalisation='none',
    average=0.0,
    split='random',
    crops=False,
    focus='',
    augment=False,
    device='cpu',
    precision='float32',
)


@pytest.mark.parametrize('loss', ['dice', 'dice_cross_entropy'])
def test_dice_and_cross_entropy_find_what_is_rare(loss):
    "Objects on 1 % of the pixels and a network of one weight and one bias that begins sure of the background: dice alone gets stuck."
    tile = rare_objects()
    grey = torch.tensor(tile.image.mean(2))
    grey, targets = (grey - grey.mean()) / grey.std(), torch.tensor(tile.labels).long()[None]
    weights = torch.tensor([0.0, -12.0], dtype=torch.float64, requires_grad=True)
    optimizer, loss_fn = torch.optim.SGD([weights], lr=10), make_loss(loss)
    for _ in range(300):
        logits = weights[0] * grey + weights[1]
        optimizer.zero_grad()
        loss_fn(torch.stack([torch.zeros_like(logits), logits])[None], targets).backward()
        optimizer.step()
    found, there = (weights[0] * grey + weights[1] > 0).detach().numpy(), tile.labels == 1
    iou = (found & there).sum() / (found | there).sum()
    assert iou == 0 if loss == 'dice' else iou > 0.99


def only_background(model, train, loss_fn, optimizer, dtype, *rest):
    "An epoch after which the network finds the first class everywhere."
    with torch.no_grad():
        *_, head = (layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
        head.weight.zero_()
        head.bias.copy_(torch.tensor([1.0, 0.0]))
    return 1.0


def test_what_the_end_of_a_training_says(monkeypatch):
    "Objects that are never predicted are named, whatever the accuracy; mean F1 shows it as well."
    monkeypatch.setattr(training, 'train_epoch', only_background)
    tile = rare_objects()
    settings = Settings(**PLAIN, loss='cross_entropy', epochs=4, keep='loss')
    with pytest.warns(Remark, match='never predicted on the validation windows: object'):
        pipeline = ModelPipeline(TWO, settings).fit([tile])
    best = pipeline.history.best
    assert best.valid_accuracy > 0.95 and best.valid_f1 < 0.5


def test_classes_never_seen_in_validation():
    "Validation images without the objects: said, and their F1 is left out of the mean."
    tile, plain = rare_objects(), rare_objects(2)
    other = Tile(plain.image, labels=np.zeros_like(plain.labels))
    with pytest.warns(Remark, match='never seen in validation: object'):
        pipeline = ModelPipeline(TWO, Settings(**PLAIN, epochs=1)).fit([tile], valid=[other])
    assert 0 <= pipeline.history.best.valid_f1 <= 1


EPOCHS = [(1.0, 0.3, 0.3), (0.5, 0.33, 0.2), (2.0, 0.83, 0.6), (1.5, 0.7, 0.6), (3.0, 0.8, 0.5)]


def a_history(keep):
    "Epochs as row 4 has them: one class with a large weight drives the loss."
    return History((Epoch(n, n, 1.0, *rest[:2], 0.1, rest[2]) for n, rest in enumerate(EPOCHS, 1)), keep)


def test_the_kept_epoch():
    assert (a_history('f1').best.number, a_history('loss').best.number) == (3, 2)
    assert a_history('f1').outcome() == (
        'kept epoch 3 (validation accuracy 83.0%, mean F1 60.0%); lowest validation loss at epoch 2'
    )
    assert a_history('loss').outcome().endswith('; highest mean F1 at epoch 3')
    older = History(replace(epoch, valid_f1=None) for epoch in a_history('loss'))
    assert older.outcome() == 'kept epoch 2 (validation accuracy 33.0%)'
    records = [asdict(epoch) for epoch in a_history('f1')]
    assert History.read(json.loads(json.dumps(records)), 'f1') == a_history('f1')
    with pytest.raises(ValueError, match="valid_f1 of epoch 3 must be a finite number, got None"):
        History.read(records[:2] + [records[2] | {'valid_f1': None}], 'f1')


@pytest.mark.parametrize('keep', ['f1', 'loss'])
def test_the_kept_weights(keep):
    "The weights in the model are those of the epoch that the criterion chooses, and patience counts from it."
    tile = rare_objects()
    settings = Settings(**PLAIN, lr=0.02, epochs=12, patience=3, keep=keep)
    pipeline = ModelPipeline(TWO, settings).fit([tile])
    history = pipeline.history
    _, batches = pipeline.batches([tile])
    loss, scores = validate(pipeline.model, batches, make_loss('cross_entropy'))
    best = history.best
    assert (loss, scores.mean_f1) == pytest.approx((best.valid_loss, best.valid_f1))
    assert len(history) in (12, best.number + 3)
    rating = [1 - epoch.valid_f1 if keep == 'f1' else epoch.valid_loss for epoch in history]
    assert best.number == 1 + rating.index(min(rating))


def test_models_of_before(place, tmp_path):
    "A model that knows no criterion kept the epoch with the lowest loss."

    def before(about):
        del about['settings']['keep']
        for epoch in about['history']:
            del epoch['valid_f1']

    model = changed(place / 'model.safetensors', tmp_path / 'm.safetensors', before)
    history = ModelPipeline.load(model).history
    assert history.best.valid_loss == min(epoch.valid_loss for epoch in history)
    assert ModelPipeline.load(model).settings.keep == 'loss' and Settings().keep == 'f1'
    out = succeeds('info', model)
    assert 'keep loss' in out and 'kept' in out


def test_each_epoch_says_its_mean_f1(place, tmp_path):
    pair = place / 'scene/image.tif', place / 'scene/reference.tif'
    log = tmp_path / 'run.csv'
    out = succeeds('train', *pair, '--out', tmp_path / 'm.safetensors', '--log', log, *SMALL)
    assert len(re.findall(r'^epoch .*accuracy [0-9.]+%  mean F1 [0-9.]+%', out, re.M)) == 3
    assert re.search(r'm.safetensors: kept epoch \d \(validation accuracy .*, mean F1 .*\)', out)
    with open(log, newline='') as file:
        logged = [float(row['valid_f1']) for row in csv.DictReader(file)]
    assert logged == [epoch.valid_f1 for epoch in ModelPipeline.load(tmp_path / 'm.safetensors').history]
    assert 'accuracy  mean F1\n' in succeeds('info', tmp_path / 'm.safetensors')


# Without validation, and with little to learn from (rows 8 and 9)


def test_no_validation(place, tmp_path):
    "All epochs are trained on all windows, the last is kept, and it is said."
    pair = place / 'scene/image.tif', place / 'scene/reference.tif'
    line = 'train', *pair, '--out', tmp_path / 'm.safetensors', '--log', tmp_path / 'run.csv', *SMALL
    code, out, err = shell(*line, '--validation', 0, '--patience', 1)
    assert (code, err) == (0, 'note: no validation: all 3 epochs are trained, and the last is kept\n')
    assert 'm.safetensors: kept epoch 3, the last, without validation' in out and 'loss nan' not in out
    history = ModelPipeline.load(tmp_path / 'm.safetensors').history
    assert history.best.number == 3 and history[0].steps == 3  # 25 windows in batches of ten
    assert [row.split(',')[3:5] for row in (tmp_path / 'run.csv').read_text().splitlines()[1:]] == [
        ['', '']
    ] * 3
    assert '3 ' in succeeds('info', tmp_path / 'm.safetensors') and plot_history(history)
    code, _, err = shell(*line, '--validation', 0, '--valid-image', pair[0], '--valid-reference', pair[1])
    assert (code, err.count('\n')) == (2, 1) and 'there are images to validate on' in err


@pytest.mark.parametrize('share', ['1', '-0.1', 'nan'])
def test_no_such_share(share, place):
    pair = place / 'scene/image.tif', place / 'scene/reference.tif'
    code, _, err = shell('train', *pair, *SMALL, '--validation', share)
    assert code == 2 and 'validation must be a number between 0 and 1' in err


def corner(size=160, side=32, place=(0, 0)):
    "A tile of two classes; the second one lies in one window."
    tile = rare_objects(3, size, 0)
    labels = tile.labels.copy()
    row, col = place
    labels[row : row + side // 2, col : col + side // 2] = 1
    return replace(tile, labels=labels)


BRIEF = Settings(**PLAIN | {'width': 4, 'epochs': 2})


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('split', ['random', 'blocked'])
def test_both_sides_have_every_class(split, seed):
    "Objects in three windows of 100, in different corners: training and validation have some."
    labels = np.zeros((320, 320), np.uint8)
    for row, col in ((0, 0), (0, 300), (300, 160)):
        labels[row : row + 20, col : col + 20] = 1
    tile = replace(rare_objects(3, 320, 0), labels=labels)
    learnt, kept = place_windows(replace(BRIEF, split=split, seed=seed), [tile])
    for side in (learnt, kept):
        assert window_classes(side, [tile])[:, :2].any(0).all()


@pytest.mark.parametrize('split', ['random', 'blocked'])
def test_a_split_that_was_fine_is_the_same(split):
    tile = rare_objects(size=320, share=0.05)
    for seed in range(3):
        settings = replace(BRIEF, split=split, seed=seed)
        windows = grid_windows([tile.size], 32, 32)
        rng = np.random.default_rng(seed)
        if split == 'random':
            expected = random_split(windows, 0.2, rng)
        else:
            expected = blocked_split(windows, [tile.size], 0.2, rng)
        for found, side in zip(place_windows(settings, [tile]), expected):
            assert (found.row.tolist(), found.col.tolist()) == (side.row.tolist(), side.col.tolist())


@pytest.mark.parametrize('seed', range(4))
def test_a_class_in_one_window_is_learnt(seed):
    "It cannot be on both sides: training has it, and the end says that validation has not."
    tile = corner()
    with pytest.warns(Remark, match='never seen in validation: object'):
        ModelPipeline(TWO, replace(BRIEF, seed=seed, epochs=1)).fit([tile])


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_few_windows(count):
    "One window cannot be split, which is said before the first epoch; more are trained on, with a remark."
    tile = rare_objects(1, 160, 0.05)
    strip = Tile(tile.image[:32, : 32 * count], labels=tile.labels[:32, : 32 * count])
    strip.labels[:, 8::32] = 1
    assert ModelPipeline(TWO, replace(BRIEF, validation=0)).fit([strip]).history.best.number == 2
    if count == 1:
        with pytest.raises(ValueError, match='1 window cannot be split.*--validation 0'):
            ModelPipeline(TWO, BRIEF).fit([strip])
        return
    with pytest.warns(Remark, match=f'only {count} windows, {count - 1} for training and 1 for validation'):
        history = ModelPipeline(TWO, BRIEF).fit([strip]).history
    assert len(history) == 2 and all(epoch.train_loss > 0 for epoch in history)


def test_one_class_in_training_is_refused():
    "Two windows, of one class each: whichever is kept, there is nothing to tell apart; said before the first epoch."
    tile = rare_objects(1, 64, 0)
    strip = Tile(tile.image[:32], labels=np.repeat([[0, 1]], 32, 1).repeat(32, 0).astype(np.uint8))
    with pytest.raises(ValueError, match='the training windows hold one class only .*--validation 0'):
        next(ModelPipeline(TWO, BRIEF).epochs([strip]))
    assert len(ModelPipeline(TWO, replace(BRIEF, validation=0)).fit([strip]).history) == 2


# Thresholds and unknown pixels (row 13)

DECISIONS = {
    'unknown': (0.45, {}),
    'one class': (None, {'low vegetation': 0.5}),
    'two classes': (None, {'low vegetation': 0.5, 'tree': 0.9}),
    'every class': (None, dict.fromkeys(ISPRS.names, 0.1) | {'low vegetation': 0.5, 'tree': 0.9}),
    'both': (0.4, {'low vegetation': 0.45, 'tree': 0.9}),
}


@pytest.fixture(scope='module')
def trained(place):
    "A model that is surer of some pixels than of others, by weights that hang on no training: drawn, and a head to fit."
    image, out = place / 'scene/image.tif', place / 'trained.safetensors'
    succeeds('train', *pair_of(place), '--out', out, *SMALL, '--epochs', 1)
    model, draw = ModelPipeline.load(out, 'cpu', 'float32'), torch.Generator().manual_seed(0)
    pixels = torch.tensor(bands(image))[None].float() / 255
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.zero_() if weight.ndim == 1 else weight.normal_(generator=draw)
        *_, head = (layer for layer in model.model.modules() if isinstance(layer, torch.nn.Conv2d))
        head.weight /= model.predictor()(pixels).std((0, 2, 3))[:, None, None, None] / 1.5
        head.bias -= model.predictor()(pixels).mean((0, 2, 3))
    return model.save(out)


def options(unknown_below, thresholds):
    words = [] if unknown_below is None else ['--unknown-below', unknown_below]
    return words + [word for name, value in thresholds.items() for word in ('--threshold', f'{name}={value}')]


def bands(path):
    with rasterio.open(path) as file:
        return file.read()


@pytest.mark.parametrize('more', [[], ['--tta']], ids=['', 'tta'])
@pytest.mark.parametrize('name', DECISIONS)
def test_thresholds_against_the_probabilities(name, more, trained, place, tmp_path):
    """Many small blocks against the file of probabilities, by a loop over classes.

    A stored number q is the nearest to 254 p, so |254 p - q| is at most 0.5, and 0.001 more by rounding in float32.
    Where no q is so near to its threshold the file decides which classes reach theirs. Among these the label is the most
    probable one, which has the largest q.
    """
    unknown_below, thresholds = DECISIONS[name]
    line = ['predict', trained, place / 'scene/image.tif', '--out', tmp_path / 'map.tif']
    line += [*options(unknown_below, thresholds), '--probabilities', '--memory', 0.001, *more]
    code, _, err = shell(*line)
    assert code == 0 and err.count('\n') == 1, err
    stored, labels = bands(tmp_path / 'map_probabilities.tif').astype(int), bands(tmp_path / 'map.tif')[0]
    reached, sure = np.zeros(stored.shape, bool), np.ones(labels.shape, bool)
    for index, class_name in enumerate(ISPRS.names):
        least = 254 * max(unknown_below or 0, thresholds.get(class_name, 0))
        reached[index] = stored[index] >= least
        if least:
            sure &= np.abs(stored[index] - least) > 0.501
    assert sure.mean() > 0.5
    best = np.where(reached, stored, -1).max(0)
    np.testing.assert_array_equal((labels == 255)[sure], (best == -1)[sure])
    known = sure & (labels != 255)
    own = np.take_along_axis(stored, np.where(known, labels, 0)[None].astype(int), 0)[0]
    assert (own == best)[known].all() and np.take_along_axis(
        reached, np.where(known, labels, 0)[None].astype(int), 0
    )[0][known].all()
    default = stored.argmax(0)
    assert (labels != default)[sure].any(), 'this choice changes nothing'
    assert f'map.tif: {(labels == 255).mean():.1%} of the pixels with data are unknown (255)' in err


@pytest.mark.parametrize('tta', [False, True])
@pytest.mark.parametrize('method', METHODS)
def test_every_method_leaves_the_same_question_open(method, tta, trained, place):
    "What is known has the label of the map without thresholds, and less is known the more is asked."
    pipeline = ModelPipeline.load(trained, 'cpu', 'float32')
    tile = read_tile(place / 'scene/image.tif')
    before = pipeline.predict(tile, method=method, tta=tta)
    known = []
    for least in (1e-6, 0.4, 0.6, 1):
        with pytest.warns(Remark, match='of the pixels with data are unknown'):
            after = pipeline.predict(tile, method=method, tta=tta, unknown_below=least)
        assert (after == before)[after != 255].all()
        known.append(after != 255)
    assert known[0].all() and not known[-1].all()
    assert all((more | ~less).all() for more, less in zip(known, known[1:]))


def test_a_file_and_a_tile_leave_the_same_pixels_open(trained, place, tmp_path):
    pipeline = ModelPipeline.load(trained, 'cpu', 'float32')
    image, wanted = place / 'scene/image.tif', dict(unknown_below=0.4, thresholds={'low vegetation': 0.45})
    with pytest.warns(Remark):
        in_memory = pipeline.predict(read_tile(image), **wanted)
        out = pipeline.predict(image, tmp_path / 'map.tif', **wanted)
    assert pipeline.least is None
    np.testing.assert_array_equal(bands(out)[0], in_memory)


def test_an_interrupted_map_goes_on_with_its_thresholds(trained, place, tmp_path, monkeypatch):
    model, image = trained, place / 'scene/image.tif'
    how = dict(memory=1e6, precision='float32', device='cpu', thresholds={'tree': 0.6})
    with pytest.warns(Remark):
        whole = predict_raster(model, image, tmp_path / 'whole.tif', **how).read_bytes()
    calls, out = [], tmp_path / 'map.tif'

    def stops():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(scale, 'block_predictor', before_each_block(stops))
    with pytest.raises(KeyboardInterrupt):
        predict_raster(model, image, out, **how)
    for other in ({'thresholds': {'tree': 0.7}}, {'thresholds': {}}, {'unknown_below': 0.5}):
        with pytest.raises(ValueError, match='holds blocks of another map: thresholds was .*0.6.* and is '):
            predict_raster(model, image, out, **how | other)
    with pytest.warns(Remark) as said:
        predict_raster(model, image, out, **how)
    assert out.read_bytes() == whole and len(said) == 1


def test_unknown_pixels_are_no_class(trained, place, tmp_path):
    "Polygons and areas leave them out; read as a reference, they are not scored."
    line = ['predict', trained, place / 'scene/image.tif', '--out', tmp_path / 'map.tif']
    line += [
        '--polygons',
        tmp_path / 'map.geojson',
        '--areas',
        tmp_path / 'areas.csv',
        '--unknown-below',
        0.5,
    ]
    assert shell(*line)[0] == 0
    labels = bands(tmp_path / 'map.tif')[0]
    assert 0 < (labels == 255).mean() < 1
    features = json.loads((tmp_path / 'map.geojson').read_text())['features']
    assert {feature['properties']['class'] for feature in features} == {
        ISPRS.names[index] for index in np.unique(labels[labels != 255])
    }
    with rasterio.open(tmp_path / 'map.tif') as file:
        grid, nodata = file.transform, file.nodata
    shapes = [(feature['geometry'], feature['properties']['class_index']) for feature in features]
    drawn = rasterize(shapes, labels.shape, fill=255, transform=grid, dtype='uint8')
    assert nodata == 255
    np.testing.assert_array_equal(drawn, labels)
    with open(tmp_path / 'areas.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [int(row['pixels']) for row in rows] == [(labels == index).sum() for index in range(6)]
    assert sum(float(row['share']) for row in rows) == pytest.approx(1)
    with Raster(place / 'scene/image.tif') as image, open_labels(tmp_path / 'map.tif', ISPRS, image) as read:
        np.testing.assert_array_equal(read.read((0, 0, *labels.shape)), labels)


def test_what_has_no_data_is_not_unknown(trained, place, tmp_path):
    "The share is that of the pixels with data; confidence is that of the class on the map."
    picture = bands(place / 'scene/image.tif').transpose(1, 2, 0)
    opacity = np.full((160, 160, 1), 255, np.uint8)
    opacity[:, :80] = 0
    image = write_image(tmp_path / 'holed.tif', np.dstack([picture, opacity]))
    with rasterio.open(image, 'r+') as file:
        file.colorinterp = [rasterio.enums.ColorInterp[name] for name in ('red', 'green', 'blue', 'alpha')]
    line = ['predict', trained, image, '--out', tmp_path / 'map.tif']
    line += ['--threshold', 'low vegetation=0.45', '--unknown-below', 0.4, '--probabilities', '--confidence']
    code, _, err = shell(*line)
    labels, stored = bands(tmp_path / 'map.tif')[0], bands(tmp_path / 'map_probabilities.tif').astype(int)
    assert code == 0 and (labels[:, :80] == 255).all()
    assert f'map.tif: {(labels[:, 80:] == 255).mean():.1%} of the pixels with data' in err
    sure, margin = bands(tmp_path / 'map_confidence.tif').astype(int)
    known, open_ = labels != 255, (labels == 255) & (opacity[..., 0] == 255)
    own = np.take_along_axis(stored, np.where(known, labels, 0)[None].astype(int), 0)[0]
    assert (sure == own)[known].all() and (sure == stored.max(0))[open_].all()
    second = np.sort(stored, 0)[-2]
    lead = np.where(own == stored.max(0), own - second, 0)
    assert abs(margin - lead)[known].max() <= 2  # three roundings of half a step each
    assert (sure[:, :80] == 255).all() and (margin[:, :80] == 255).all()


def test_a_threshold_that_changes_nothing_is_said(trained, place, tmp_path):
    line = ['predict', trained, place / 'scene/image.tif', '--out']
    succeeds(*line, tmp_path / 'a.tif')
    code, _, err = shell(*line, tmp_path / 'b.tif', '--threshold', 'car=0.1')
    assert code == 0 and 'b.tif: 0.0% of the pixels' in err and 'a threshold of 0.1 changes nothing' in err
    assert (tmp_path / 'a.tif').read_bytes() == (tmp_path / 'b.tif').read_bytes()


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--threshold', 'roof=0.5'], ["no class 'roof'", 'the classes are', 'building']),
        (['--threshold', 'car=0'], ['the threshold of car must be above 0 and at most 1, got 0']),
        (['--threshold', 'car=1.5'], ['the threshold of car must be above 0 and at most 1, got 1.5']),
        (['--threshold', 'car=nan'], ['the threshold of car must be a finite number']),
        (['--threshold', 'car=half'], ["'car=half' ends in no number"]),
        (['--threshold', 'car'], ["must be CLASS=P such as car=0.6, got 'car'"]),
        (['--threshold', '0.5'], ['must be CLASS=P']),
        (['--threshold', 'car=0.5', '--threshold', 'car=0.5'], ["gives 'car' twice"]),
        (['--unknown-below', '0'], ['unknown_below must be above 0 and at most 1, got 0']),
        (['--unknown-below', '60'], ['unknown_below must be above 0 and at most 1, got 60']),
        (['--unknown-below', '-0.5'], ['unknown_below must be above 0 and at most 1']),
        (['--unknown-below', 'inf'], ['unknown_below must be a finite number']),
        (['--unknown-below', 'half'], ["invalid float value: 'half'"]),
    ],
)
def test_thresholds_that_cannot_be(words, said, trained, place, tmp_path):
    line = ['predict', trained, place / 'scene/image.tif', '--out', tmp_path / 'map.tif']
    check_refusal([place, tmp_path], [*line, *words], said)


def test_errors_are_those_of_another_map(trained, place, tmp_path):
    scores = tmp_path / 'scores.json'
    pair = place / 'scene/image.tif', place / 'scene/reference.tif'
    succeeds('evaluate', trained, *pair, '--out', scores)
    line = ['predict', trained, pair[0], '--out', tmp_path / 'map.tif']
    line += ['--areas', tmp_path / 'areas.csv', '--errors', scores, '--unknown-below', 0.5]
    check_refusal([place, tmp_path], line, ['those of a map without --threshold and --unknown-below'])


def test_unknown_pixels_are_never_left_out_of_scores(trained, place):
    "A score over the easy pixels alone would flatter; a hole of no data is not scored as before."
    pipeline = ModelPipeline.load(trained, 'cpu', 'float32')
    pair = place / 'scene/image.tif', place / 'scene/reference.tif'
    (tile,) = read_labelled(*pair, ISPRS)
    with pytest.warns(Remark):
        label_map = pipeline.predict(tile, unknown_below=0.5)
    with pytest.raises(ValueError, match='label_map holds 255 at .*, a scored pixel'):
        pipeline.evaluate(tile, [label_map])
    with pytest.raises(ValueError, match='evaluate the model without thresholds'):
        evaluate_raster(pipeline.with_thresholds(0.5), *pair)


# Calibrated probabilities (row 13)


@pytest.fixture(scope='module')
def calibrated(trained, place):
    "The same model with a temperature."
    model = ModelPipeline.load(trained, 'cpu', 'float32')
    model.temperature = 1.7
    out = model.save(place / 'calibrated.safetensors')
    assert 'calibrated: temperature 1.7' in succeeds('info', out)
    assert 'calibrated' not in succeeds('info', trained)
    return out


@pytest.mark.parametrize('tta', [False, True])
@pytest.mark.parametrize('method', METHODS)
def test_calibration_leaves_the_map(method, tta, calibrated, trained, place):
    tile = read_tile(place / 'scene/image.tif')
    maps = [
        ModelPipeline.load(path, 'cpu', 'float32').predict(tile, method=method, tta=tta)
        for path in (trained, calibrated)
    ]
    np.testing.assert_array_equal(*maps)


def test_calibrated_probabilities_and_thresholds(calibrated, trained, place, tmp_path):
    """Against the network's logits divided by the temperature.

    254 p is stored as the nearest whole number; the windows may add in another order, which can move it by one step.
    """
    pipeline, image = ModelPipeline.load(calibrated, 'cpu', 'float32'), place / 'scene/image.tif'
    line = ['predict', calibrated, image, '--out', tmp_path / 'map.tif', '--probabilities', '--confidence']
    line += ['--unknown-below', 0.5, '--memory', 0.001, '--device', 'cpu', '--precision', 'float32']
    assert shell(*line)[0] == 0
    pixels = torch.tensor(bands(image))[None].float() / 255
    logits = ModelPipeline.load(trained, 'cpu', 'float32').predictor()(pixels)[0].double()
    shares = (logits / pipeline.temperature).softmax(0).numpy()
    stored = bands(tmp_path / 'map_probabilities.tif').astype(int)
    assert abs(stored - 254 * shares).max() <= 1 and abs(stored - 254 * logits.softmax(0).numpy()).max() > 3
    assert abs(bands(tmp_path / 'map_confidence.tif')[0] - 254 * shares.max(0)).max() <= 1
    far = abs(shares.max(0) - 0.5) > 1e-4
    labels = bands(tmp_path / 'map.tif')[0]
    np.testing.assert_array_equal((labels == 255)[far], (shares.max(0) < 0.5)[far])


def test_blocks_of_another_temperature_are_not_mixed_in(calibrated, trained):
    pipelines = [ModelPipeline.load(path, 'cpu', 'float32') for path in (trained, calibrated)]
    for one, other in zip(*(pipeline.model.state_dict().values() for pipeline in pipelines)):
        assert torch.equal(one, other)
    assert scale.model_sum(pipelines[0]) != scale.model_sum(pipelines[1])


def test_a_finished_model_is_calibrated(place, tmp_path, monkeypatch):
    "The same command with --calibrate; without it, or once more, nothing is left to do."
    monkeypatch.setattr(training, 'train_epoch', add_one)  # which makes a network that is far too sure
    out = tmp_path / 'm.safetensors'
    line = ['train', *pair_of(place), '--out', out, *SMALL, '--epochs', 2]
    succeeds(*line)
    plain = ModelPipeline.load(out, 'cpu', 'float32')
    code, said, _ = shell(*line, '--calibrate')
    made = ModelPipeline.load(out, 'cpu', 'float32')
    assert code == 0 and made.temperature > 1 and f'calibrated: temperature {made.temperature:g}' in said
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Remark)  # that the temperature ends at its bound
        plain.calibrate(read_labelled(*pair_of(place), ISPRS))
    assert plain.temperature == made.temperature and scale.model_sum(plain) == scale.model_sum(made)
    content = out.read_bytes()
    for more in ([], ['--calibrate']):
        assert 'nothing left to do' in shell(*line, *more)[1] and out.read_bytes() == content


def test_a_new_training_forgets_the_temperature(calibrated, place):
    pipeline = ModelPipeline.load(calibrated, 'cpu', 'float32')
    tiles = read_labelled(place / 'scene/image.tif', place / 'scene/reference.tif', ISPRS)
    pipeline.make(tiles)
    assert pipeline.temperature == 1


@pytest.mark.parametrize('value', [0, -1, 'warm', None, True, float('nan')])
def test_a_temperature_that_cannot_be(value, calibrated, place, tmp_path):
    model = changed(calibrated, tmp_path / 'm.safetensors', lambda about: about.update(temperature=value))
    line = ['predict', model, place / 'scene/image.tif', '--out', tmp_path / 'map.tif']
    check_refusal([place, tmp_path], line, ['the temperature in', 'must be a', 'train the model again'])


def test_calibration_needs_validation(place, tmp_path):
    pair = place / 'scene/image.tif', place / 'scene/reference.tif'
    line = ['train', *pair, '--out', tmp_path / 'm.safetensors', *SMALL, '--validation', 0, '--calibrate']
    check_refusal([place, tmp_path], line, ['--calibrate needs validation windows'])


def test_exported_probabilities_are_calibrated(calibrated, place, tmp_path):
    pytest.importorskip('onnxruntime', reason="needs pip install 'unetkit[onnx]'")
    pipeline = ModelPipeline.load(calibrated, 'cpu', 'float32')
    out = export_onnx(pipeline, tmp_path / 'model.onnx', probabilities=True)
    pixels = torch.tensor(bands(place / 'scene/image.tif'))[None].float() / 255
    expected = (pipeline.predictor()(pixels) / pipeline.temperature).softmax(1)
    torch.testing.assert_close(onnx_predictor(out)(pixels).exp(), expected, rtol=1e-3, atol=1e-5)


# What a review found


def test_a_refused_fit_leaves_the_model(trained, tmp_path):
    "Of a loaded model nothing is lost when what it is to begin with does not fit."
    pipeline = ModelPipeline.load(trained, 'cpu', 'float32')
    before = [value.clone() for value in pipeline.model.state_dict().values()]
    tile = synthetic_scene(160, 160, seed=1)
    with pytest.raises(FileNotFoundError):
        pipeline.fit([tile], init=tmp_path / 'absent.safetensors')
    with pytest.raises(ValueError, match='no model yet'):
        pipeline.fit([tile], init=ModelPipeline(ISPRS))
    assert all(map(torch.equal, before, pipeline.model.state_dict().values())) and pipeline.history


def test_a_refused_init_leaves_the_checkpoint(tmp_path):
    image, reference = tmp_path / 'scene/image.tif', tmp_path / 'scene/reference.tif'
    succeeds('scene', '--out', tmp_path / 'scene', '--height', 96, '--width', 96)
    words = ['train', image, reference, '--palette', 'isprs', '--out', tmp_path / 'm.safetensors', *SMALL]
    succeeds(*words, '--epochs', 1)
    checkpoint = (tmp_path / 'm.safetensors.checkpoint').read_bytes()
    code, _, err = shell(*words, '--epochs', 1, '--restart', '--init', tmp_path / 'absent.safetensors')
    assert code == 2 and 'absent.safetensors' in err
    code, _, err = shell(*words, '--epochs', 1, '--restart', '--freeze', 'encoder')
    assert code == 2 and 'freeze keeps the weights' in err
    assert (tmp_path / 'm.safetensors.checkpoint').read_bytes() == checkpoint


def test_the_style_of_an_older_map_goes(trained, place, tmp_path):
    image = place / 'scene/image.tif'
    words = ['predict', trained, image, '--out', tmp_path / 'map.tif', '--device', 'cpu']
    succeeds(*words, '--style')
    assert (tmp_path / 'map.qml').exists()
    succeeds(*words)
    assert not (tmp_path / 'map.qml').exists()


# The caller's chance is the caller's


def states():
    "Where the global generators of Python, NumPy and PyTorch stand."
    python, (kind, keys, *rest) = random.getstate(), np.random.get_state()
    return python, kind, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


def seed_globally(seed):
    "Put the global generators somewhere."
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def bytes_of(pipeline):
    "The weights of a model, as bytes by name."
    return {name: value.numpy().tobytes() for name, value in pipeline.model.state_dict().items()}


class Dropping(UNet):
    "A network of one's own that draws while it trains."

    def __init__(self, in_channels=3, num_classes=5, width=4, depth=2):
        super().__init__(in_channels, num_classes, width, depth)
        self.dropout = torch.nn.Dropout2d(0.5)
        self.scale = torch.nn.Parameter(torch.rand(1))

    def forward(self, batch):
        return super().forward(self.dropout(batch) * self.scale)

    @property
    def settings(self):
        names = 'in_channels', 'num_classes', 'width', 'depth'
        return {name: getattr(self, name) for name in names}


@pytest.fixture
def dropping(monkeypatch):
    monkeypatch.setitem(NETWORKS, 'dropping', Dropping)
    return dict(TINY, network='dropping')


STREET = synthetic_scene(96, 96, seed=1)


def test_what_a_run_leaves_of_the_global_generators(tmp_path, dropping):
    "Splitting, training, calibrating, mapping, saving, loading and inspecting neither move them nor look at them."
    made = []
    for seed in (1, 2):
        seed_globally(seed)
        before = states()
        for settings in (TINY, dropping):
            place_windows(Settings(**settings), [STREET])
            checkpoint = tmp_path / f'{seed}{settings.get("network")}.checkpoint'
            pipeline = ModelPipeline(ISPRS, **settings).fit(STREET, checkpoint)
            pipeline.calibrate(STREET)
            label_map = pipeline.predict(STREET, tta=True)
            pipeline.evaluate(STREET)
            pipeline.save(tmp_path / 'model.safetensors')
            again = ModelPipeline.load(tmp_path / 'model.safetensors', 'cpu', 'float32')
            assert bytes_of(again) == bytes_of(pipeline)
            made.append((bytes_of(pipeline), label_map.tobytes(), pipeline.temperature))
            inspection.seconds_per_step(pipeline.settings, 3, 5, 0.01)
        assert states() == before
    assert made[:2] == made[2:]


def test_a_seed_means_the_weights_that_it_meant():
    "A run begins with the weights that torch draws after its seed was set globally."
    pipeline = ModelPipeline(ISPRS, **TINY, seed=3)
    pipeline.make([STREET])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        usual = UNet(3, 6, width=4, depth=2)
    assert all(torch.equal(a, b) for a, b in zip(pipeline.model.parameters(), usual.parameters()))


def test_dropout_goes_on_where_it_stopped(tmp_path, dropping):
    "A network that draws while it trains: interrupted after an epoch, or not, the weights are equal."
    whole = ModelPipeline(ISPRS, **dropping).fit(STREET)
    part = ModelPipeline(ISPRS, **dropping).epochs(STREET, tmp_path / 'run.checkpoint')
    next(part)
    part.close()
    seed_globally(5)
    rest = ModelPipeline(ISPRS, **dropping).fit(STREET, tmp_path / 'run.checkpoint')
    assert bytes_of(rest) == bytes_of(whole)
    other = ModelPipeline(ISPRS, **dropping | dict(seed=1)).fit(STREET)
    assert bytes_of(other) != bytes_of(whole)


def test_models_in_threads(dropping):
    "Several at a time become what each becomes alone, while the caller's own draws go on undisturbed."
    runs = [dict(TINY), dict(TINY, seed=1), dict(TINY, width=5), dropping]
    alone = [bytes_of(ModelPipeline(ISPRS, **run).fit(STREET)) for run in runs]
    seed_globally(9)
    expected, before = torch.stack([torch.rand(()) for _ in range(2000)]), states()
    seed_globally(9)
    with ThreadPoolExecutor(len(runs)) as pool:
        trained = [pool.submit(ModelPipeline(ISPRS, **run).fit, STREET) for run in runs]
        drawn = torch.stack([torch.rand(()) for _ in range(2000)])
        together = [bytes_of(one.result()) for one in trained]
    assert together == alone and states() == before and torch.equal(drawn, expected)


# Files without clocks


def test_equal_runs_leave_equal_files(place, tmp_path):
    "Two trainings with one seed, two maps with all that goes with them, and two exports, byte for byte."
    first, second = tmp_path / 'first', tmp_path / 'second'
    for folder in (first, second):
        folder.mkdir()
        model, image = folder / 'm.safetensors', place / 'scene/image.tif'
        succeeds('train', *pair_of(place), '--out', model, *SMALL)
        extra = ['--confidence', '--probabilities', '--style', '--areas', folder / 'areas.csv']
        plain = ['--device', 'cpu', '--precision', 'float32']
        succeeds('predict', model, image, '--out', folder / 'map.tif', *extra, *plain)
        ModelPipeline.load(model, 'cpu', 'float32').predict(image, folder / 'patches.tif', 'patches')
        for ending in ('.geojson', '.gpkg') if find_spec('pyogrio') else ('.geojson',):
            write_polygons(folder / f'polygons{ending}', folder / 'map.tif', ISPRS)
        if find_spec('onnx'):
            succeeds('export', model, '--out', folder / 'm.onnx')
        time.sleep(1.1)
    names = sorted(path.name for path in first.iterdir())
    assert len(names) >= 10 and names == sorted(path.name for path in second.iterdir())
    different = [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()]
    assert different == []


def test_a_run_in_two_parts_leaves_the_files_of_one(place, tmp_path):
    "More epochs go on after those that are there; the table knows the time of the new ones only."
    for count in (1, 3):
        line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--epochs', count]
        succeeds(*line, '--log', tmp_path / 'run.csv')
    # the checkpoint says in addition with which epoch a cycle of learning rates began
    assert (tmp_path / 'm.safetensors').read_bytes() == (place / 'model.safetensors').read_bytes()
    with open(tmp_path / 'run.csv', newline='') as file:
        assert [bool(row['seconds']) for row in csv.DictReader(file)] == [False, True, True]
    history = ModelPipeline.load(tmp_path / 'm.safetensors').history
    assert {epoch.seconds for epoch in history} == {None}


def test_models_with_seconds_are_read(place, tmp_path):
    "Those of before; a time that is no number is refused."

    def timed(seconds):
        return lambda about: [epoch.update(seconds=seconds) for epoch in about['history']]

    old = ModelPipeline.load(changed(place / 'model.safetensors', tmp_path / 'old.safetensors', timed(2.5)))
    assert {epoch.seconds for epoch in old.history} == {2.5}
    with pytest.raises(ValueError, match="seconds of epoch 1 must be a finite number, got '2'"):
        ModelPipeline.load(changed(place / 'model.safetensors', tmp_path / 'bad.safetensors', timed('2')))


def test_a_report_in_two_parts_adds_their_seconds(tmp_path):
    "A checkpoint of a run that has not ended knows its times."
    runs = {'a': Settings(**TINY)}
    checkpoint = tmp_path / 'checkpoint_a.safetensors'
    run = ModelPipeline(ISPRS, runs['a']).epochs(STREET, checkpoint)
    next(run)
    run.close()
    tensors, about = load_tensors(checkpoint)
    about['epochs'][0]['seconds'] += 1000
    save_tensors(checkpoint, tensors, about)
    (result,) = compare(STREET, STREET, ISPRS, runs, tmp_path)
    assert 1000 < result.seconds < 1500


# TensorBoard


tensorboard = pytest.mark.skipif(
    find_spec('tensorboard') is None, reason="needs pip install 'unetkit[tensorboard]'"
)


def scalars(folder):
    "What TensorBoard shows of a run: pairs of epoch and value by name."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()['scalars']}


@tensorboard
def test_log_for_tensorboard(place, tmp_path):
    "A folder gets event files; a run that goes on, and one that begins anew, are shown once."
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    succeeds(*line, '--epochs', 2, '--log', f'{tmp_path}/runs/')
    for options in ([], ['--restart']):
        time.sleep(1.1)  # the names of event files hold the second, by which they are ordered
        succeeds(*line, *options, '--log', tmp_path / 'runs')
        found = scalars(tmp_path / 'runs/m')
        history = ModelPipeline.load(tmp_path / 'm.safetensors').history
        names = {
            'loss/train': 'train_loss',
            'loss/validation': 'valid_loss',
            'validation/accuracy': 'valid_accuracy',
            'validation/mean_f1': 'valid_f1',
        }
        assert found.keys() == names.keys()
        for tag, name in names.items():
            assert [step for step, _ in found[tag]] == [1, 2, 3]
            kept = np.float32([getattr(epoch, name) for epoch in history])
            assert np.array_equal(np.float32([value for _, value in found[tag]]), kept)
    assert [path.name for path in (tmp_path / 'runs').iterdir()] == ['m']


@tensorboard
def test_two_models_of_one_name_do_not_share_events(place, tmp_path):
    "The second would hide the first: it is refused before anything is trained or removed."
    first, second = (tmp_path / name / 'm.safetensors' for name in 'ab')
    line = ['train', *pair_of(place), *SMALL, '--epochs', 1, '--out']
    succeeds(*line, first, '--log', f'{tmp_path}/runs/')
    succeeds(*line, second)
    before = disk(tmp_path)
    code, out, err = shell(*line, second, '--restart', '--log', f'{tmp_path}/runs/')
    assert (code, err.count('\n')) == (2, 1) and 'holds events of another model' in err and 'remove it' in err
    assert 'epoch' not in out and disk(tmp_path) == before
    succeeds(*line, first, '--restart', '--log', f'{tmp_path}/runs/')


@tensorboard
def test_events_among_images_of_the_user(place, tmp_path):
    "A folder of the model's name is made among them; one that has other files is refused, and not to be removed."
    shutil.copytree(place / 'scene', tmp_path / 'scene')
    pair = tmp_path / 'scene/image.tif', tmp_path / 'scene/reference.tif'
    before = disk(tmp_path)
    line = ['train', *pair, *SMALL, '--epochs', 1, '--out', tmp_path / 'scene.safetensors', '--log', tmp_path]
    code, out, err = shell(*line)
    assert (code, err.count('\n')) == (2, 1) and 'it holds files that are not of this model: choose' in err
    assert 'remove' not in err and 'epoch' not in out and disk(tmp_path) == before
    succeeds(*line[:-2], '--log', tmp_path / 'scene')
    assert sorted(path.name for path in (tmp_path / 'scene').iterdir() if path.is_dir()) == ['scene']
    assert before.items() <= disk(tmp_path).items()


@tensorboard
def test_log_for_tensorboard_without_validation(place, tmp_path):
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--validation', 0]
    code, _, _ = shell(*line, '--log', f'{tmp_path}/runs/')
    assert code == 0 and scalars(tmp_path / 'runs/m').keys() == {'loss/train'}


def test_log_without_tensorboard(place, tmp_path, monkeypatch):
    "One line before anything is trained or removed."
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    code, out, err = shell(*line, '--log', f'{tmp_path}/runs/')
    assert (code, err.count('\n')) == (2, 1) and "pip install 'unetkit[tensorboard]'" in err
    assert 'epoch' not in out and not list(tmp_path.iterdir())


def test_a_model_that_is_no_longer_calibrated_says_so(place, tmp_path, monkeypatch):
    "More epochs, or other data, without --calibrate: one line. Another method alone keeps the temperature."
    losses, scores = (
        iter(range(100, 0, -1)),
        Scores(np.eye(6, dtype=int)),
    )  # each epoch is better than the last
    monkeypatch.setattr(training, 'validate', lambda *given: (float(next(losses)), scores))
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--keep', 'loss']
    succeeds(*line, '--epochs', 1)
    model = ModelPipeline.load(tmp_path / 'm.safetensors', 'cpu', 'float32')
    model.temperature = 1.7
    model.save(tmp_path / 'm.safetensors')
    said = succeeds(*line, '--epochs', 1, '--method', 'blend')
    assert 'wrote' in said and 'nothing left' not in said
    kept = ModelPipeline.load(tmp_path / 'm.safetensors', 'cpu', 'float32')
    assert (kept.temperature, kept.settings.method) == (1.7, 'blend')
    assert 'nothing left to do' in succeeds(*line, '--epochs', 1, '--method', 'blend')
    code, _, err = shell(*line, '--epochs', 2)
    assert (code, err.count('\n')) == (0, 1) and 'm.safetensors was calibrated (temperature 1.7)' in err
    assert ModelPipeline.load(tmp_path / 'm.safetensors', 'cpu', 'float32').temperature == 1
    with pytest.warns(Remark, match='its temperature of 1.7 is not taken over'):
        kept.fit(synthetic_scene(96, 96, seed=3))
    assert kept.temperature == 1


def test_exported_logits_are_calibrated(calibrated, place, tmp_path):
    "Their softmax is the program's probabilities, and the command says so."
    pytest.importorskip('onnxruntime', reason="needs pip install 'unetkit[onnx]'")
    pipeline, out = ModelPipeline.load(calibrated, 'cpu', 'float32'), tmp_path / 'model.onnx'
    said = succeeds('export', calibrated, '--out', out)
    assert f'calibrated (temperature {pipeline.temperature:g}) logits' in said
    pixels = torch.tensor(bands(place / 'scene/image.tif'))[None].float() / 255
    expected = pipeline.probabilities(pipeline.predictor()(pixels))
    torch.testing.assert_close(onnx_predictor(out)(pixels).softmax(1), expected, rtol=1e-3, atol=1e-5)


def stops_at(step, monkeypatch):
    "Let Ctrl-C come at one step of a training, counted from now."
    steps = iter(range(1, step + 1))
    original = training.compute_logits

    def compute(model, batch, dtype):
        if model.training and next(steps) == step:
            raise KeyboardInterrupt
        return original(model, batch, dtype)

    monkeypatch.setattr(training, 'compute_logits', compute)


@pytest.mark.parametrize('step', [2, 5, 6])
def test_fit_after_ctrl_c_in_the_middle_of_an_epoch(step, monkeypatch):
    "Two steps an epoch: the run goes on from the last whole epoch, and ends as one that nobody stopped."
    pipeline, tile = ModelPipeline(ISPRS, **TINY), synthetic_scene(160, 160, seed=1)
    with monkeypatch.context() as patch:
        stops_at(step, patch)
        with pytest.raises(KeyboardInterrupt):
            pipeline.fit(tile)
    whole = (step - 1) // 2
    assert [epoch.number for epoch in pipeline.history] == [*range(1, whole + 1)]
    pipeline.settings = replace(pipeline.settings, epochs=3 - whole)
    if whole:
        with pytest.warns(Remark, match=f'goes on after epoch {whole}'):
            pipeline.fit(tile)
    else:  # a network without a finished epoch is no model to begin with
        assert pipeline.model is None
        with warnings.catch_warnings():
            warnings.filterwarnings('error', 'goes on|begins')
            pipeline.fit(tile)
    assert equal(pipeline, ModelPipeline(ISPRS, **TINY).fit(tile)) and not pipeline.begun


def test_a_checkpoint_is_no_model(place, tmp_path):
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    line += ['--init', place / 'model.safetensors.checkpoint']
    said = ['is a checkpoint', 'give the model file, such as', f'{place}/model.safetensors']
    check_refusal([place, tmp_path], line, said)


def test_a_class_between_training_and_validation():
    "Neither side has it, because it lies in the guard between them: what is said is true of that too."
    seen, scored, held = np.array([1, 1, 0], bool), np.array([[1, 1, 0]], bool), np.ones(3, bool)
    with pytest.warns(Remark, match='only in validation windows or too near to them: tree'):
        jobs._check_classes(seen, scored, held, ['road', 'roof', 'tree'])


def test_another_tool_opened_the_map(place, tmp_path):
    "What GDAL and QGIS note beside a map when it is opened goes with the map, also beside one without names."
    line = ['predict', place / 'model.safetensors', place / 'scene/image.tif', '--probabilities']
    line += ['--out', tmp_path / 'map.tif']
    succeeds(*line)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ('map.tif', 'map_probabilities.tif'):
        notes = tmp_path / f'{name}.aux.xml'
        notes.unlink(missing_ok=True)
        with rasterio.open(tmp_path / name) as file:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                file.statistics(1)
        assert 'STATISTICS_' in notes.read_text()
    succeeds(*line)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_somebody_edited_stays(place, tmp_path):
    "A text of ours with another word in it is refused; written as it was, it is replaced."
    line = ['predict', place / 'model.safetensors', place / 'scene/image.tif', '--out', tmp_path / 'map.tif']
    line += ['--style', '--polygons', tmp_path / 'map.geojson']
    succeeds(*line)
    for name, word in (('map.qml', 'building'), ('map.geojson', 'class')):
        original = (tmp_path / name).read_text()
        (tmp_path / name).write_text(original.replace(word, 'mine', 1))
        check_refusal([tmp_path], line, [f'{name} is there already', 'was changed since'])
        (tmp_path / name).write_text(original)
    succeeds(*line)
    (tmp_path / 'map.qml').write_text((tmp_path / 'map.qml').read_text() + ' ')
    code, _, err = shell(*line[:5])
    assert code == 0 and 'map.qml is there, from which QGIS takes' in err


def test_a_run_with_init_is_prepared_once(place, tmp_path, monkeypatch):
    "Begun anew, it takes the weights of the other model, though a checkpoint was there until the run stood."
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--epochs', 1]
    line += ['--init', place / 'model.safetensors']
    assert shell(*line)[0] == 0
    made, prepare = [], ModelPipeline.make
    monkeypatch.setattr(ModelPipeline, 'make', lambda self, tiles: made.append(1) or prepare(self, tiles))
    for how in ('--restart', '--overwrite'):
        code, out, err = shell(*line, how)
        assert code == 0 and 'begins with the weights of another model' in err
        assert 'goes on' not in out and len(made) == 1
        made.clear()


# Validation windows are never training windows (checkpoints and models of other versions)


def other_split(monkeypatch):
    "As in a version that splits otherwise."
    split = jobs.random_split
    monkeypatch.setattr(jobs, 'random_split', lambda windows, share, rng: split(windows[::-1], share, rng))


def without_windows(path):
    "The checkpoint or model of a version that did not note its split."

    def older(about):
        assert len(about.get('settings', {}).pop('windows', None) or about.pop('windows')) == 8

    return changed(path, path, older)


def test_a_checkpoint_of_another_split_is_refused(place, tmp_path, monkeypatch):
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--epochs', 2]
    succeeds(*line, '--epochs', 1)
    other_split(monkeypatch)
    said = ['the validation windows are not those of the run in', 'begin anew (--restart)']
    check_refusal([tmp_path], line, said)
    succeeds(*line, '--restart')


def test_a_checkpoint_that_does_not_know_its_split(place, tmp_path):
    "Going on is said each time, and neither checkpoint nor model claims a split; calibration is refused before any epoch."
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    succeeds(*line, '--epochs', 1)
    without_windows(tmp_path / 'm.safetensors.checkpoint')
    for epochs in (2, 3):
        code, _, err = shell(*line, '--epochs', epochs)
        assert (code, err.count('\n')) == (0, 1) and 'of a version that did not note its split' in err
    assert 'windows' not in load_tensors(tmp_path / 'm.safetensors')[1]
    assert 'windows' not in load_tensors(tmp_path / 'm.safetensors.checkpoint')[1]['settings']
    before = (tmp_path / 'm.safetensors.checkpoint').read_bytes()
    code, out, err = shell(*line, '--epochs', 4, '--calibrate')
    assert code == 2 and 'does not say which windows were left for validation' in err and '--restart' in err
    assert (tmp_path / 'm.safetensors.checkpoint').read_bytes() == before
    succeeds(*line, '--epochs', 1, '--calibrate', '--restart')


def test_calibration_on_windows_of_the_training(place, tmp_path, monkeypatch):
    "Another split is refused, an unknown one said, its own is neither."
    path = tmp_path / 'm.safetensors'
    path.write_bytes((place / 'model.safetensors').read_bytes())
    tiles = read_labelled(*pair_of(place), ISPRS)
    load = lambda: ModelPipeline.load(path, 'cpu', 'float32')
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'this model does not say')
        load().calibrate(tiles)
    with monkeypatch.context() as patch:
        other_split(patch)
        model = load()
        with pytest.raises(ValueError, match="are not those of this model's training .checksum .*: give the"):
            model.calibrate(tiles)
        assert model.temperature == 1
    without_windows(path)
    with pytest.warns(Remark, match='this model does not say which windows it was trained on'):
        load().calibrate(tiles)


# One run, one beginning, one temperature


def test_a_restart_that_was_stopped_before_its_model(place, tmp_path, monkeypatch):
    "The checkpoint of another beginning is finished and its model is not written: it is, though the epochs look alike."
    always_alike(monkeypatch)
    monkeypatch.setattr(training, 'train_epoch', add_one)
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--epochs', 2]
    succeeds(*line)
    before, _ = load_tensors(tmp_path / 'm.safetensors')

    def stops(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ModelPipeline, 'calibrate', stops)
        assert shell(*line, '--seed', 1, '--restart', '--calibrate')[0] == 130
    assert 'wrote' in succeeds(*line, '--seed', 1)
    after, about = load_tensors(tmp_path / 'm.safetensors')
    assert about['settings']['seed'] == 1 and not all(
        torch.equal(before[name], after[name]) for name in after
    )
    assert 'nothing left to do' in succeeds(*line, '--seed', 1)


def test_a_finished_run_notes_another_use(place, tmp_path):
    "Each setting that decides how maps are made is written into the model of a finished run, once."
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    line += ['--epochs', 1, '--normalisation', 'batch']
    succeeds(*line)
    for one in fields(Settings):
        if one.metadata['kind'] == 'use':
            other = next(name for name in one.metadata['choices'] if name != one.default)
            more = ['--' + one.name.replace('_', '-'), other]
            assert 'wrote' in succeeds(*line, *more)
            assert load_tensors(tmp_path / 'm.safetensors')[1]['settings'][one.name] == other
            assert 'nothing left to do' in succeeds(*line, *more)


def test_equal_weights_keep_their_temperature(place, tmp_path, monkeypatch):
    "A finished run of a version that left the seconds, and more epochs that bring nothing better: no remark."
    always_alike(monkeypatch)
    out = tmp_path / 'm.safetensors'
    line = ['train', *pair_of(place), '--out', out, *SMALL]
    succeeds(*line, '--epochs', 1)
    model = ModelPipeline.load(out, 'cpu', 'float32')
    model.temperature = 1.7
    model.save(out)
    checkpoint = Path(f'{out}.checkpoint')
    changed(checkpoint, checkpoint, lambda about: [one.update(seconds=1.0) for one in about['epochs']])
    for epochs in (1, 2):
        code, _, err = shell(*line, '--epochs', epochs)
        assert (code, err) == (0, '')
        found = ModelPipeline.load(out, 'cpu', 'float32')
        assert found.temperature == 1.7 and equal(found, model) and len(found.history) == epochs


@pytest.mark.parametrize('name', ['model.safetensors', 'model.safetensors.checkpoint'])
def test_log_spares_models_and_checkpoints(name, place, tmp_path):
    "They are of this kit too, and take longer to make than a table: even --overwrite does not."
    there = tmp_path / name
    there.write_bytes((place / name).read_bytes())
    line = ['train', *pair_of(place), '--out', tmp_path / 'new.safetensors', *SMALL, '--log', there]
    for more in ([], ['--overwrite']):
        check_refusal(
            [place, tmp_path], [*line, *more], ['is there already, and is a', 'choose another name']
        )


@pytest.mark.parametrize('what', ['folder', 'file', 'model'])
def test_what_is_no_checkpoint_is_spared(what, place, tmp_path):
    "Something else at the place of the checkpoint is neither opened nor removed."
    there = tmp_path / 'm.safetensors.checkpoint'
    if what == 'folder':
        there.mkdir()
    else:
        there.write_bytes(b'mine' if what == 'file' else (place / 'model.safetensors').read_bytes())
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL]
    for more in ([], ['--restart']):
        code, out, err = shell(*line, *more)
        assert code == 2 and str(there) in err and 'name' in err and 'epoch' not in out
        assert there.is_dir() or there.read_bytes() in (b'mine', (place / 'model.safetensors').read_bytes())


@tensorboard
def test_a_log_that_cannot_be_leaves_the_checkpoint(place, tmp_path):
    image, reference = pair_of(place)
    line = ['train', image, reference, '--out', tmp_path / 'm.safetensors', *SMALL, '--epochs', 1]
    succeeds(*line)
    said = ['cannot write', 'cannot be made (Not a directory)']
    check_refusal([place, tmp_path], [*line, '--restart', '--log', f'{image}/'], said)


@tensorboard
def test_log_without_an_ending_is_a_folder(place, tmp_path):
    "Whether it is there or not."
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--epochs', 1]
    for _ in range(2):
        succeeds(*line, '--log', tmp_path / 'runs', '--restart')
        assert list((tmp_path / 'runs/m').glob('events*'))


def test_a_command_keeps_no_second_state(place, tmp_path, monkeypatch):
    "Its checkpoint is enough."
    monkeypatch.setattr('unetkit.runs._remember', lambda *given: pytest.fail('it is remembered'))
    succeeds('train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--epochs', 1)


def first_epoch(pipeline, tile, checkpoint):
    "Begin a run, and stop after its first epoch."
    run = pipeline.epochs(tile, checkpoint)
    next(run)
    run.close()


def test_a_checkpoint_knows_the_model_that_its_run_began_with(place, tmp_path):
    "The run of one loaded model is gone on with by this model only, and its file says which one it was."
    tile, path = synthetic_scene(160, 160, seed=1), tmp_path / 'run.checkpoint'
    load = lambda: ModelPipeline.load(place / 'model.safetensors', 'cpu', 'float32')
    first_epoch(load(), tile, path)
    fresh = ModelPipeline(ISPRS, load().settings)
    other = ModelPipeline(ISPRS, load().settings, seed=5).fit(tile)
    other.settings = load().settings
    for one in (fresh, other):
        with pytest.raises(ValueError, match='is of another run: init was'):
            one.fit(tile, path)
    assert fresh.model is None and not fresh.begun and other.settings.seed == load().settings.seed
    ended, name = load().fit(tile, path), {'name': 'model.safetensors', 'checksum': load().fingerprint()}
    assert ended.begun == {'init': name} and len(ended.history) == 3


def test_a_run_that_is_called_again_began_with_nothing(tmp_path):
    "With its checkpoint it is the same run, which trains no more epochs than the settings say; so is its loaded model."
    tile, path = synthetic_scene(160, 160, seed=1), tmp_path / 'run.checkpoint'
    pipeline = ModelPipeline(ISPRS, **TINY).fit(tile, path)
    one = pipeline.save(tmp_path / 'one.safetensors').read_bytes()
    pipeline.fit(tile, path)
    assert pipeline.begun == {} and len(pipeline.history) == 3
    assert pipeline.save(tmp_path / 'two.safetensors').read_bytes() == one
    loaded = ModelPipeline.load(tmp_path / 'one.safetensors', 'cpu', 'float32')
    loaded.settings = replace(loaded.settings, epochs=4)
    assert loaded.fit(tile, path).begun == {} and len(loaded.history) == 4


def test_calibration_on_pixels_of_the_training():
    "The same places on other tiles are other windows."
    tiles = [synthetic_scene(160, 160, seed=seed) for seed in (1, 2, 3)]
    pipeline = ModelPipeline(ISPRS, **TINY | {'epochs': 1}).fit(tiles[0], valid=tiles[1])
    for tile, valid in ((1, 0), (0, 0), (2, 0), (0, 2)):
        with pytest.raises(ValueError, match="are not those of this model's training"):
            pipeline.calibrate(tiles[tile], valid=tiles[valid])
    pipeline.calibrate(tiles[0], valid=tiles[1])


def test_calibration_looks_at_validation_only(monkeypatch):
    "Objects to paste are for training windows, and are not looked for again."
    tile = synthetic_scene(160, 160, seed=1)
    pipeline = ModelPipeline(ISPRS, **TINY | {'epochs': 1}).fit(tile)
    monkeypatch.setattr(ModelPipeline, 'batches', lambda *given: pytest.fail('training batches are made'))
    pipeline.calibrate(tile)


def test_going_on_from_memory_forgets_the_temperature():
    tile = synthetic_scene(160, 160, seed=1)
    pipeline = ModelPipeline(ISPRS, **TINY | {'epochs': 1}).fit(tile)
    pipeline.temperature = 1.7
    with pytest.warns(Remark, match='its temperature of 1.7 is not taken over'):
        pipeline.fit(tile)
    assert pipeline.temperature == 1


def test_a_refused_checkpoint_leaves_the_model(tmp_path):
    tile, path = synthetic_scene(160, 160, seed=1), tmp_path / 'run.checkpoint'
    ModelPipeline(ISPRS, **TINY | {'lr': 0.01}).fit(tile, path)
    pipeline = ModelPipeline(ISPRS, **TINY).fit(tile)
    model, history = pipeline.model, list(pipeline.history)
    with pytest.raises(ValueError, match='is of another run: lr was 0.01 and is'):
        pipeline.fit(tile, path)
    assert pipeline.model is model and pipeline.history == history and pipeline.memory


def test_what_was_off_is_called_by_its_value(place, tmp_path):
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--epochs', 1]
    succeeds(*line)
    for more, said in (
        (['--copy-paste', 0.5], 'copy_paste was 0.0 and is 0.5'),
        (['--normalisation', 'batch'], "normalisation was 'none' and is 'batch'"),
        (['--init', place / 'model.safetensors'], "init was 'none' and is '"),
    ):
        check_refusal([place, tmp_path], [*line, *more], [said])


def test_the_model_of_a_checkpoint_is_named_where_it_is_known(place, tmp_path):
    "A checkpoint of a report has no model of almost its name beside it."
    path = tmp_path / 'checkpoint_32.safetensors'
    path.write_bytes((place / 'model.safetensors.checkpoint').read_bytes())
    check_refusal([place], ['info', path], ['and no model: give the model file\n'])
