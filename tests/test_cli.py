"The command line: names and checks of files, options from signatures, every command once, interruptions, and errors in one line."

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rasterio
import torch
from helpers import child_environment, shell, succeeds

from unetkit import __version__, cli, training
from unetkit.datasets import Reading
from unetkit.labels import ISPRS
from unetkit.products import write_polygons
from unetkit.raster import write_image
from unetkit.report import REPORT
from unetkit.rules import Remark
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.tiles import read_tile

FLOAT = '--device cpu --precision float32'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder with a small scene and a model of it."
    folder = tmp_path_factory.mktemp('cli')
    succeeds('scene', '--height', 160, '--width', 192, '--out', folder / 'scene')
    options = '--recipe report --patch-size 64 --stride 32 --epochs 2 --width 4'
    works(f'train {files(folder)} --out {folder}/model.safetensors {options} {FLOAT}')
    return folder


def works(line):
    return succeeds(*line.split())


def files(folder):
    return f'{folder}/scene/image.tif {folder}/scene/reference.tif'


def report_files(folder):
    return ' '.join(
        f'--{role}-{kind} {folder}/scene/{kind}.tif'
        for role in ('train', 'test')
        for kind in ('image', 'reference')
    )


# Parts


def test_palette_without_classes():
    assert cli._read_palette('isprs', '') == ISPRS
    rest = cli._read_palette('isprs', ' clutter, car')
    assert rest.names == ('impervious', 'building', 'low vegetation', 'tree')


def test_source():
    paths = ('/data/city/tile8/images', 'tile4/images/', 'a.tif', '/a.tif', '.')
    expected = ['tile8/images', 'tile4/images', 'a.tif', 'a.tif', '.']
    assert [cli._source(path) for path in paths] == expected


def test_report_runs():
    "The recommended run sees no more pixels than any other; on a tile too small for a strip its split is random."
    sizes = [(1024, 1280)]
    runs = cli.report_runs(sizes)
    seen = {name: run.epochs * cli._pixels_per_epoch(run, sizes) for name, run in runs.items()}
    assert list(runs) == ['32', '64', '128', 'recommended']
    assert 0.9 * min(seen.values()) < seen['recommended'] == min(seen.values())
    assert runs['recommended'].split == 'blocked'
    assert cli.report_runs([(128, 160)])['recommended'].split == 'random'


def test_report_of_the_smallest_windows():
    "Windows that are one pixel at the lowest level have no batch normalisation, and that is said; others keep it."
    with pytest.warns(Remark, match='normalisation none here: .*depth 4 halves 16 pixels to one'):
        runs = cli.report_runs([(256, 320)], patch_sizes=(16,))
    assert (runs['recommended'].patch_size, runs['recommended'].normalisation) == (16, 'none')
    shallow = cli.report_runs([(256, 320)], replace(REPORT, depth=3), (16,))
    assert shallow['recommended'].normalisation == 'batch'


def test_types_of_options():
    assert cli._kind('lr', 1e-3)['type']('0.01') == 0.01
    assert cli._kind('stride', None)['type']('64') == 64
    assert cli._kind('patch_sizes', (32,))['type']('32,64') == [32, 64]
    assert list(cli._kind('precision', 'auto')['choices']) == ['auto', 'float32', 'bfloat16']
    with pytest.raises(argparse.ArgumentTypeError, match='not a list of whole numbers'):
        cli._whole_numbers('abc')


def test_patch_sizes_and_settings():
    taken, usual = [], Settings()

    def listen(patch_sizes: Sequence[int] = (8,), ignore: str = '', settings: Settings = usual):
        taken.append((patch_sizes, settings))

    for sizes in ('32 64', '64,32', '64 32,64'):
        cli._run(listen, f'--patch-sizes {sizes} --lr 0.5'.split())
    assert taken == [([32, 64], Settings(lr=0.5))] * 3
    cli._run(listen, [])
    assert taken[-1] == ([8], Settings())


def test_bad_input_is_what_the_user_can_fix():
    assert cli._bad_input(ValueError()) and cli._bad_input(RuntimeError("can't allocate memory: 9 bytes"))
    assert not cli._bad_input(RuntimeError('shape')) and not cli._bad_input(KeyError())
    assert 'smaller --width' in cli._sentence(MemoryError())


# Commands


def test_help():
    assert works('') == works('--help') != works('--version')
    text = works('report --help')
    options = 'patch-sizes stride epochs batch-size patience lr width loss seed device precision'.split()
    assert all(f'--{option} ' in text for option in options)
    assert 'sqrt 1/sqrt(share)' in ' '.join(text.split())  # what a scheme of weights does


def test_predict_and_evaluate(folder, tmp_path):
    "A map is one band of class indices with a colour table, on the ground of the image."
    model = folder / 'model.safetensors'
    works(f'predict {model} {folder}/scene/image.tif --out {tmp_path}/maps/map.tif')
    assert 'accuracy' in works(f'evaluate {model} {files(folder)}')
    with (
        rasterio.open(tmp_path / 'maps/map.tif') as mapped,
        rasterio.open(folder / 'scene/image.tif') as image,
    ):
        assert (mapped.count, mapped.dtypes, mapped.shape) == (1, ('uint8',), (160, 192))
        assert (mapped.transform, mapped.crs) == (image.transform, image.crs)
        assert [mapped.colormap(1)[k][:3] for k in range(6)] == list(ISPRS.colours)
    assert sorted(path.name for path in (tmp_path / 'maps').iterdir()) == ['map.tif', 'map.tif.aux.xml']


def test_nothing_else_is_left(folder):
    names = ['model.safetensors', 'model.safetensors.checkpoint', 'scene']
    assert sorted(path.name for path in folder.iterdir()) == names


def test_options_of_predict(folder, tmp_path):
    model = folder / 'model.safetensors'
    options = '--tta --probabilities --memory 0.01'
    works(f'predict {model} {folder}/scene/image.tif --out {tmp_path}/map.tif {options}')
    names = ['map.tif', 'map.tif.aux.xml', 'map_probabilities.tif']
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    works(f'evaluate {model} {files(folder)} --tta --memory 0.01')


def test_export(folder, tmp_path):
    onnx = pytest.importorskip('onnx', reason='the extra [onnx] is not installed')
    model = folder / 'model.safetensors'
    works(f'export {model} --out {tmp_path}/model.onnx')
    works(f'export {model} --out {tmp_path}/qgis.onnx --tile-size 640 --probabilities --resolution 9')
    said = {path.stem: path.read_bytes() for path in tmp_path.iterdir()}
    for words in (b'"tile_size": null', b'"output": "logits"'):
        assert words in said['model']
    for words in (b'"tile_size": 640', b'"output": "probabilities"'):
        assert words in said['qgis']
    keys = {path.stem: {one.key for one in onnx.load(path).metadata_props} for path in tmp_path.iterdir()}
    assert 'resolution' in keys['qgis'] - keys['model']


@pytest.mark.parametrize('method', ['exact', 'blend', 'patches'])
def test_no_data(method, folder, tmp_path):
    "A corner without data, said by a band of opacity, has no class in the map and no score, whatever the method."
    model, tile = folder / 'model.safetensors', read_tile(folder / 'scene/image.tif')
    opacity = np.full((*tile.size, 1), 255, np.uint8)
    opacity[:50, :70] = 0
    holed = write_image(tmp_path / 'image.tif', np.dstack([tile.image, opacity]), tile.georeference)
    with rasterio.open(holed, 'r+') as raster:
        names = ('red', 'green', 'blue', 'alpha')
        raster.colorinterp = [rasterio.enums.ColorInterp[name] for name in names]
    works(f'predict {model} {holed} --out {tmp_path}/map.tif --method {method}')
    with rasterio.open(tmp_path / 'map.tif') as raster:
        assert ((raster.read(1) == 255) == (opacity[..., 0] == 0)).all()
    scores = works(f'evaluate {model} {holed} {folder}/scene/reference.tif --method {method}')
    support = sum(int(line.split()[-1]) for line in scores.splitlines()[2:-1])
    assert support == np.count_nonzero(opacity)


def test_products_of_a_map(folder, tmp_path):
    "Polygons, confidence and areas beside the map; the areas are adjusted by the scores of the same model."
    model, maps = folder / 'model.safetensors', tmp_path / 'maps'
    works(f'evaluate {model} {files(folder)} --out {tmp_path}/scores.json')
    options = f'--polygons {maps}/map.geojson --min-area 1 --confidence --areas {maps}/areas.csv'
    options += f' --errors {tmp_path}/scores.json'
    code, out, err = shell(
        *f'predict {model} {folder}/scene/image.tif --out {maps}/map.tif {options}'.split()
    )
    assert code == 0, err
    assert [line for line in out.splitlines() if line == f'wrote {maps / "map_confidence.tif"}']
    line = f'predict {model} {folder}/scene/image.tif --out {maps}/no.tif --errors {tmp_path}/scores.json'
    code, out, err = shell(*line.split())
    assert (code, out) == (2, '') and 'adjusts the table of --areas' in err
    names = ['areas.csv', 'map.geojson', 'map.tif', 'map.tif.aux.xml', 'map_confidence.tif']
    assert sorted(path.name for path in maps.iterdir()) == names
    polygons = json.loads((maps / 'map.geojson').read_text())['features']
    assert {one['properties']['class'] for one in polygons} <= set(ISPRS.names)
    assert all(0 <= one['properties']['confidence'] <= 1 for one in polygons)
    header, *rows = (maps / 'areas.csv').read_text().splitlines()
    assert header.startswith('class,pixels,area_m2,share,objects,adjusted_area_m2') and len(rows) == 6
    assert sum(int(row.split(',')[1]) for row in rows) == 160 * 192
    digits = [re.sub(r'\D|^0\.0*', '', cell) for row in rows for cell in row.split(',')[2:]]
    assert max(map(len, digits)) <= 12


def test_lists_and_validation_files(folder, tmp_path):
    "A CSV file of pairs stands for images and references; validation files are used as such."
    image, reference = files(folder).split()
    (tmp_path / 'pairs.csv').write_text(f'image,reference\n{image},{reference}\n')
    tiny = f'--patch-size 32 --epochs 1 --width 4 --depth 2 {FLOAT}'
    valid = f'--valid-image {image} --valid-reference {reference}'
    printed = works(f'train {tmp_path}/pairs.csv {valid} --out {tmp_path}/m.safetensors {tiny}')
    assert printed.startswith('training: impervious ') and '0.0 % of 30,720 pixels not scored' in printed
    assert 'accuracy' in works(f'evaluate {tmp_path}/m.safetensors {tmp_path}/pairs.csv')


def test_range(folder, tmp_path):
    "The same scene in 16 bit, with its range, gives the map of the 8-bit file."
    tile = read_tile(folder / 'scene/image.tif')
    write_image(tmp_path / 'wide.tif', tile.image.astype(np.uint16) * 10, tile.georeference)
    model = folder / 'model.safetensors'
    works(f'predict {model} {folder}/scene/image.tif --out {tmp_path}/a.tif')
    line = f'predict {model} {tmp_path}/wide.tif --out {tmp_path}/b.tif'.split()
    code, out, err = shell(*line)
    assert code == 2 and '--range LOW,HIGH' in err
    code, out, err = shell(*line, '--range', '0,2550')
    assert code == 0, err
    with rasterio.open(tmp_path / 'a.tif') as one, rasterio.open(tmp_path / 'b.tif') as other:
        assert (one.read() == other.read()).mean() > 0.999


def test_several_files_are_one_image(folder, tmp_path):
    "Bands in files of their own, with commas between them; no output is one of them."
    tile = read_tile(folder / 'scene/image.tif')
    bands = [tmp_path / f'b{k}.tif' for k in range(3)]
    for k, band in enumerate(bands):
        write_image(band, tile.image[..., k : k + 1], tile.georeference)
    image, model = ','.join(map(str, bands)), folder / 'model.safetensors'
    works(f'predict {model} {folder}/scene/image.tif --out {tmp_path}/a.tif')
    code, out, err = shell('predict', model, image, '--out', tmp_path / 'b.tif')
    assert code == 0, err
    assert (tmp_path / 'a.tif').exists() and read_tile(tmp_path / 'a.tif').image.shape == (160, 192, 3)
    with rasterio.open(tmp_path / 'a.tif') as one, rasterio.open(tmp_path / 'b.tif') as other:
        assert (one.read() == other.read()).all()
    code, out, err = shell('predict', model, image, '--out', bands[1])
    assert code == 2 and 'would be lost' in err


def test_fields_of_dataclasses_are_options():
    "A field of a dataclass is an option; a parameter of the command comes before a field of that name."
    taken = []

    usual, plain = Settings(), Reading()

    def listen(image: str, memory: float = 0.0, settings: Settings = usual, reading: Reading = plain):
        taken.append((memory, settings, reading))

    cli._run(listen, 'a.tif --pairs a*:b* --remote --memory 2 --lr 0.5'.split())
    assert taken == [(2.0, Settings(lr=0.5), Reading(pairs='a*:b*', remote=True))]


def test_as_a_module():
    "`python -m unetkit` is the command, where the script is not on the path."
    words = [sys.executable, '-m', 'unetkit', '--version']
    found = subprocess.run(words, capture_output=True, text=True, env=child_environment())
    assert (found.returncode, found.stdout, found.stderr) == (0, f'{__version__}\n', '')


def test_fetch_lists_the_sets():
    text = works('fetch')
    assert 'landcoverai100: ' in text and 'licence' in text
    code, out, err = shell('fetch', 'moon')
    assert (code, out, err.count('\n')) == (2, '', 1) and 'landcoverai100' in err


def test_palette_of_numbers_and_polygons(folder, tmp_path):
    "A draft of class numbers, and one of polygons, is a palette that train and evaluate take."
    scene = synthetic_scene(96, 128, seed=4)
    write_image(tmp_path / 'image.tif', scene.image, scene.georeference)
    write_image(tmp_path / 'numbers.tif', scene.labels[..., None] + 1, scene.georeference)
    write_polygons(tmp_path / 'fields.geojson', scene.labels, ISPRS, georeference=scene.georeference)
    tiny = f'--patch-size 32 --split random --epochs 1 --width 4 --depth 2 {FLOAT}'
    shares = []
    for name, more in (('numbers.tif', ''), ('fields.geojson', '--label-column class')):
        palette, model = tmp_path / f'{name}.json', tmp_path / f'{name}.safetensors'
        printed = works(f'palette {tmp_path}/{name} --out {palette} {more}')
        assert printed.count('\n') == 1 + len(np.unique(scene.labels))
        pair = f'{tmp_path}/image.tif {tmp_path}/{name}'
        shares.append(works(f'train {pair} --palette {palette} --out {model} {tiny} {more}').splitlines()[0])
        assert 'accuracy' in works(f'evaluate {model} {pair} {more}')
        assert '0.0 % of 12,288 pixels not scored' in shares[-1]
    percents = [sorted(re.findall(r'[\d.]+ %', text)) for text in shares]
    assert percents[0] == percents[1]
    code, out, err = shell('palette', tmp_path / 'numbers.tif', '--out', tmp_path / 'numbers.tif.json')
    assert code == 2 and 'is there already' in err
    write_image(tmp_path / 'zero.tif', scene.labels[..., None], scene.georeference)
    lines = works(f'palette {tmp_path}/zero.tif --out {tmp_path}/zero.json').splitlines()
    assert [line.endswith('perhaps no class') for line in lines] == [True] + [False] * (len(lines) - 1)
    assert lines[-1].endswith('such as "ignored": [0]')  # the form that the file takes
    (tmp_path / 'parts' / 'train').mkdir(parents=True)
    code, out, err = shell('palette', tmp_path / 'parts', '--out', tmp_path / 'y.json')
    assert (
        (code, out) == (2, '') and 'no .tif, .png, .jpg or other reference file' in err and '(train)' in err
    )
    code, out, err = shell('palette', tmp_path / 'image.tif', '--out', tmp_path / 'x.json')
    assert (code, err.count('\n')) == (2, 1) and 'this is an image' in err


def test_parts(folder, tmp_path):
    "A folder of parts gives a map per part, and no map takes the place of a part."
    model, parts = folder / 'model.safetensors', tmp_path / 'parts'
    parts.mkdir()
    for part in 'ab':
        shutil.copy(folder / 'scene/image.tif', parts / f'{part}.tif')
    works(f'predict {model} {parts} --out {tmp_path}/maps/map.tif --method patches')
    names = [f'map_{part}.tif{tail}' for part in 'ab' for tail in ('', '.aux.xml')]
    assert sorted(path.name for path in (tmp_path / 'maps').iterdir()) == names
    shutil.copy(folder / 'scene/image.tif', parts / 'map_a.tif')
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    code, out, err = shell('predict', model, parts, '--out', parts / 'map.tif')
    assert (code, out) == (2, '') and 'map_a.tif is an input' in err
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before


def test_report(folder, tmp_path):
    "A map and a model per run, the page, and the scores twice; scripts rely on the keys of scores.json."
    options = f'--patch-sizes 32,64 --epochs 1 --width 4 --batch-size 30 {FLOAT}'
    works(f'report {report_files(folder)} {options} --out {tmp_path}')
    runs = ('32', '64', 'recommended')
    expected = [f'label_map_{run}.tif{tail}' for run in runs for tail in ('', '.aux.xml')]
    expected += [f'model_{run}.safetensors' for run in runs]
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [*expected, 'report.html', 'scores.csv', 'scores.json']
    document = json.loads((tmp_path / 'scores.json').read_text())
    assert set(document) == {'program', 'settings', 'environment', 'models'}
    wanted = set('recipe patch_size stride epochs_run steps seconds accuracy mean_f1 mean_iou'.split())
    for entry in document['models']:
        assert wanted | {'per_class', 'confusion_matrix'} <= set(entry) and 0 <= entry['accuracy'] <= 1
        assert set(entry['per_class']['car']) == {'precision', 'recall', 'f1', 'iou', 'support'}
        assert np.sum(entry['confusion_matrix']) == 160 * 192
    settings = document['settings']
    assert settings['sources'] == {'train': 'scene/image.tif', 'test': 'scene/image.tif'}
    assert settings['train'] == settings['test'] and len(settings['train'][0]['checksum']) == 8


# Interruptions


def test_interrupted_and_continued(folder, tmp_path):
    "Ctrl-C in the second epoch, then SIGTERM hidden behind an error; the checkpoint belongs to this run only."
    first = iter([training.train_epoch])

    def then_interrupted(*args):
        for train_epoch in first:
            return train_epoch(*args)
        raise KeyboardInterrupt

    def then_terminated(*args):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ValueError("a library's own opinion")

    options = f'--recipe report --patch-size 64 --epochs 3 --width 4 {FLOAT}'
    long = f'train {files(folder)} --out {tmp_path}/long.safetensors {options}'
    with mock.patch.object(training, 'train_epoch', then_interrupted):
        code, out, err = shell(*long.split())
    assert (code, err.count('\n')) == (130, 1)
    assert [path.name for path in tmp_path.iterdir()] == ['long.safetensors.checkpoint']

    handler = signal.getsignal(signal.SIGTERM)
    with mock.patch.object(training, 'train_epoch', then_terminated):
        code, out, err = shell(*long.split())
    assert (code, out.count('epoch'), signal.getsignal(signal.SIGTERM)) == (143, 1, handler)
    kept = 'finished epochs are kept, the same command goes on from there'
    assert err == f'unetkit train: terminated; {kept}\n'

    code, out, err = shell(*f'{long} --lr 0.1'.split())
    assert code == 2 and 'lr was 0.001 and is 0.1' in err
    works(long)
    names = ['long.safetensors', 'long.safetensors.checkpoint']
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with mock.patch.object(training, 'train_epoch', then_terminated):
        _, _, err = shell(*long.split(), '--restart')
    assert 'the same command without --restart goes on from there' in err


def test_closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    program = "import sys; from unetkit.cli import main; sys.exit(main(['--help']))"
    command = [sys.executable, '-c', program]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=child_environment())
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b'')


# Errors: REPORT, FOLDER and MODEL stand for what the fixture made; no output is left

ERRORS = {
    'REPORT --patch-sizes abc': 'not a list of whole numbers',
    'REPORT --epochs 1.5': 'invalid int value',
    'REPORT --epochs 0': 'epochs must be at least 1',
    'REPORT --stride 200': 'stride must be in',
    'REPORT --patch-sizes 161': 'larger than the tile',
    'REPORT --lr nan': 'lr must be a number above 0',
    'REPORT --seed -1': 'seed must be',
    'REPORT --depth 9': 'allows at most 7',
    'REPORT --depth 40': 'depth must be in [1, 12]',
    'REPORT --patch-sizes 64 --split blocked': 'guard of',
    'REPORT --loss magic': 'invalid choice',
    'REPORT --ignore boat': 'boat',
    'REPORT --palette dubai': 'unknown colour',
    'fly': 'no command',
    'train a.tif': 'arguments are required',
    'report --train-image x.tif': 'give all four',
    'predict FOLDER/none.safetensors x.tif': 'no file',
    'predict MODEL FOLDER/x.tif': 'no file',
    'export MODEL --tile-size 650': 'multiple of 16 with room for a halo of 96 pixels, got 650',
    'export MODEL --resolution -1': 'above 0, got -1.0',
    'export FOLDER/scene/image.tif': 'is not a whole unetkit file',
    'REPORT --out FOLDER/scene/image.tif': 'cannot be made',
    'TRAIN --out FOLDER': 'it is a folder',
    'PREDICT --out FOLDER/scene/image.tif': 'would be lost',
    'PREDICT --method blend --probabilities --out FOLDER/m.tif': 'belong to --method exact',
    'PREDICT --polygons FOLDER/m.shp --out FOLDER/m.tif': 'the ending of --polygons',
    'PREDICT --polygons FOLDER/scene/image.geojson --areas FOLDER/m.tif --out FOLDER/m.tif': 'two results',
    'PREDICT --errors FOLDER/scene/image.tif --out FOLDER/m.tif': 'no scores of one model',
    'PREDICT --range 5 --out FOLDER/m.tif': 'must be LOW,HIGH',
    'PREDICT --method patches --confidence --out FOLDER/m.tif': 'belong to --method exact',
    'REPORT --range 0,1': 'leave out --range',
    'REPORT --memory 2': 'leave out --memory',
    'report --height a.tif': 'the built-in scenes are no files',
    'PREDICT --min-area 3 --out FOLDER/m.tif': '--min-area 3 is for --polygons and --areas',
    'TRAIN --pairs x --valid-image FOLDER/scene/image.tif': 'give both --valid-image',
    'TRAIN --memory -1': 'memory must be at least 0',
    'inspect FOLDER/none.tif': 'no file',
    'inspect FOLDER/scene/image.tif --html FOLDER/scene/image.tif': 'would be lost',
    'PREDICT --memory -1 --out FOLDER/m.tif': 'at least 0, got -1',
    'PREDICT --memory 0.0001 --out FOLDER/m.tif': 'are not enough for a window',
    'export MODEL --out MODEL': 'would be lost',
}


@pytest.mark.parametrize('line', ERRORS)
def test_errors(line, folder):
    "One line, exit code 2, before any work."
    if '--out' not in line and not line.startswith('inspect'):
        line += ' --out FOLDER/nowhere/x'
    reason = ERRORS[line.removesuffix(' --out FOLDER/nowhere/x')]
    line = line.replace('REPORT', f'report {report_files(folder)} --width 4')
    line = line.replace('TRAIN', f'train {files(folder)} --recipe report --patch-size 64')
    line = line.replace('PREDICT', 'predict MODEL FOLDER/scene/image.tif')
    line = line.replace('MODEL', 'FOLDER/model.safetensors').replace('FOLDER', str(folder))
    code, out, err = shell(*line.split())
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert reason in err and not Path(folder, 'nowhere').exists() and not Path(folder, 'm.tif').exists()


def test_reference_of_another_size(folder, tmp_path):
    with rasterio.open(folder / 'scene/reference.tif') as raster:
        colours = raster.read().transpose(1, 2, 0)
    write_image(tmp_path / 'short.tif', colours[:150])
    image, model = folder / 'scene/image.tif', folder / 'model.safetensors'
    code, out, err = shell('evaluate', model, image, tmp_path / 'short.tif')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'image.tif is 160 x 192 but the reference' in err and 'short.tif is 150 x 192' in err


def test_threads_of_a_command(monkeypatch):
    "A command computes with the threads that are picked, and leaves the program with those that it had."
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(cli, 'pick_threads', lambda: 1)
    monkeypatch.setattr(cli, '_run', lambda command, rest: seen.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(2)
        assert cli.main(['predict', 'model.safetensors', 'image.tif']) == 0
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
