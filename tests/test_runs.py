"""Runs that can be relied on: what a model file says, to whom, and what a run leaves behind."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace

import numpy as np
import pytest
import rasterio
from helpers import child_environment, shell, succeeds
from safetensors import safe_open
from safetensors.numpy import save_file

from unetkit.datasets import window_classes
from unetkit.experiments import ModelPipeline
from unetkit.jobs import place_windows
from unetkit.labels import ISPRS
from unetkit.losses import make_loss
from unetkit.models import FORMAT, Epoch, History
from unetkit.palettes import Palette
from unetkit.patches import blocked_split, grid_windows, random_split
from unetkit.plots import plot_history
from unetkit.rules import Remark
from unetkit.settings import Settings
from unetkit.tiles import Tile
from unetkit.training import validate

SMALL = (
    '--width 4 --depth 2 --epochs 3 --patch-size 32 --split random --device cpu --precision float32'.split()
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ['m.safetensors', 'run.csv']


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
    patch_size=32, width=8, depth=2, split='random', crops=False, focus='', augment=False, device='cpu'
)


def test_dice_and_cross_entropy_find_what_is_rare():
    "Objects on 1 % of the pixels, at a learning rate at which dice alone gets stuck (IoU 0 with this seed)."
    tile = rare_objects()
    settings = Settings(**PLAIN, loss='dice_cross_entropy', lr=0.003, epochs=50, patience=50)
    pipeline = ModelPipeline(TWO, settings).fit([tile])
    assert pipeline.evaluate([tile]).iou[1] > 0.5  # 0.94 here


def test_what_the_end_of_a_training_says():
    "Objects that are never predicted are named, whatever the accuracy; mean F1 shows it as well."
    tile = rare_objects()
    settings = Settings(**PLAIN, loss='cross_entropy', lr=0.003, epochs=4, keep='loss')
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
    assert 'accuracy  mean F1  seconds' in succeeds('info', tmp_path / 'm.safetensors')


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


TINY = Settings(**PLAIN | {'width': 4, 'epochs': 2})


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('split', ['random', 'blocked'])
def test_both_sides_have_every_class(split, seed):
    "Objects in three windows of 100, in different corners: training and validation have some."
    labels = np.zeros((320, 320), np.uint8)
    for row, col in ((0, 0), (0, 300), (300, 160)):
        labels[row : row + 20, col : col + 20] = 1
    tile = replace(rare_objects(3, 320, 0), labels=labels)
    learnt, kept = place_windows(replace(TINY, split=split, seed=seed), [tile])
    for side in (learnt, kept):
        assert window_classes(side, [tile])[:, :2].any(0).all()


@pytest.mark.parametrize('split', ['random', 'blocked'])
def test_a_split_that_was_fine_is_the_same(split):
    tile = rare_objects(size=320, share=0.05)
    for seed in range(3):
        settings = replace(TINY, split=split, seed=seed)
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
        ModelPipeline(TWO, replace(TINY, seed=seed, epochs=1)).fit([tile])


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_few_windows(count):
    "One window cannot be split, which is said before the first epoch; more are trained on, with a remark."
    tile = rare_objects(1, 160, 0.05)
    strip = Tile(tile.image[:32, : 32 * count], labels=tile.labels[:32, : 32 * count])
    strip.labels[:, 8::32] = 1
    assert ModelPipeline(TWO, replace(TINY, validation=0)).fit([strip]).history.best.number == 2
    if count == 1:
        with pytest.raises(ValueError, match='1 window cannot be split.*--validation 0'):
            ModelPipeline(TWO, TINY).fit([strip])
        return
    with pytest.warns(Remark, match=f'only {count} windows, {count - 1} for training and 1 for validation'):
        history = ModelPipeline(TWO, TINY).fit([strip]).history
    assert len(history) == 2 and all(epoch.train_loss > 0 for epoch in history)


def test_one_class_in_training_is_refused():
    "Two windows, of one class each: whichever is kept, there is nothing to tell apart; said before the first epoch."
    tile = rare_objects(1, 64, 0)
    strip = Tile(tile.image[:32], labels=np.repeat([[0, 1]], 32, 1).repeat(32, 0).astype(np.uint8))
    with pytest.raises(ValueError, match='the training windows hold one class only .*--validation 0'):
        next(ModelPipeline(TWO, TINY).epochs([strip]))
    assert len(ModelPipeline(TWO, replace(TINY, validation=0)).fit([strip]).history) == 2
