"""Runs that can be relied on: what a model file says, to whom, and what a run leaves behind."""

import csv
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import child_environment, shell, succeeds
from safetensors import safe_open
from safetensors.numpy import save_file

from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS, Palette
from unetkit.machine import LossNotFinite, seed_everything
from unetkit.models import FORMAT, History, load_tensors, take_weights
from unetkit.raster import read_image, write_image
from unetkit.rules import Remark
from unetkit.scenes import synthetic_scene
from unetkit.unet import UNet

SMALL = (
    '--width 4 --depth 2 --epochs 3 --patch-size 32 --split random --device cpu --precision float32'.split()
)

TINY = dict(
    width=4,
    depth=2,
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
    assert frame.valid_loss.idxmin() == ModelPipeline.load(place / 'model.safetensors').history.best.number
    with pytest.raises(KeyError):
        History().frame()


# Going on (row 1)


def pair_of(place):
    return place / 'scene/image.tif', place / 'scene/reference.tif'


def same_weights(one, other):
    "Do two model files hold the same weights, and histories that differ in nothing but the seconds?"
    (weights, about), (others, there) = load_tensors(one), load_tensors(other)
    records = [[record | {'seconds': 0} for record in file['history']] for file in (about, there)]
    return records[0] == records[1] and all(torch.equal(weights[name], others[name]) for name in weights)


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


def test_patience_at_its_end(place, tmp_path):
    "A rate that is much too high: the run ends early; more epochs alone change nothing, more patience goes on."
    line = ['train', *pair_of(place), '--out', tmp_path / 'm.safetensors', *SMALL, '--lr', 0.5]
    line += ['--epochs', 30, '--patience', 2]
    succeeds(*line)
    count = len(ModelPipeline.load(tmp_path / 'm.safetensors').history)
    assert count < 30
    said = succeeds(*line, '--epochs', 31)
    assert f'm.safetensors has {count} epochs, when the patience of 2 was at its end' in said
    said = succeeds(*line, '--patience', 30)
    assert 'training goes on from' in said
    assert len(ModelPipeline.load(tmp_path / 'm.safetensors').history) == 30


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
        warnings.simplefilter('error')
        twice.fit(other, fresh=True)
    assert equal(twice, ModelPipeline(ISPRS, **how).fit(other))


def test_fit_after_the_patience_ran_out():
    "A rate that is much too high ends a run early; whoever calls again means it."
    pipeline = ModelPipeline(ISPRS, **TINY | {'lr': 0.5, 'epochs': 30, 'patience': 2})
    tile = synthetic_scene(160, 160, seed=1)
    count = len(pipeline.fit(tile).history)
    assert count < 30
    with pytest.warns(Remark, match=f'goes on after epoch {count}'):
        pipeline.fit(tile)
    assert len(pipeline.history) > count


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
    before = loaded.model.state_dict()
    loaded.settings = replace(
        loaded.settings, lr=1e-12
    )  # one step moves a weight by less than a part in a million
    with pytest.warns(
        Remark, match='begins with the weights of this model and a new optimiser: every layer is'
    ):
        loaded.fit(synthetic_scene(160, 160, seed=1))
    for name, weight in loaded.model.state_dict().items():
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
        (('red', ''), ('', 'red'), lambda w: w),
    ],
)  # fmt: skip
def test_other_bands(old, new, expected):
    "By name where all bands have one, else by place; with more bands the sum of a filter is kept."
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
    assert said.startswith(
        'every layer is kept' if old == ('red', '') else '7 of 8 layers are kept; the first layer'
    )


def test_train_init(place, tmp_path):
    "The command: a head for five classes, 16-bit images of four bands, the encoder frozen; then more epochs."
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
    assert not any(torch.equal(weights[name], before[name]) for name in before if name.startswith('ups'))
    stem = torch.cat([before['entry.0.weight'], before['entry.0.weight'].mean(1, keepdim=True)], 1) * 3 / 4
    torch.testing.assert_close(weights['entry.0.weight'], stem)

    code, out, err = shell(*line, '--epochs', 4)
    assert code == 0 and 'training goes on from' in out and 'begins with' not in err
    code, _, err = shell(*[word for word in line if word not in ('--freeze', 'encoder')], '--epochs', 4)
    assert code == 2 and "freeze was 'encoder' and is None" in err


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
        and err == 'note: begins with the weights of another model and a new optimiser: every layer is kept\n'
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
        and len(out.split('validation loss')[1].splitlines()) == 4
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
    'a number per epoch': lambda about: [epoch.update(valid_f1=0.5) for epoch in about['history']],
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
