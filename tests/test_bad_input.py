"""Everything that can be wrong with a job, given to the real command: one clear line, exit code 2, and a disk that looks as before.

Small tiles are spoilt one way at a time. What is unusual but right works: other numbers of bands, 16 bits, a class that the test tile lacks. A full disk leaves
whole files only, and an interrupted run goes on to exactly the scores of an undisturbed one."""

import contextlib
import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from helpers import (
    TINY,
    check_line,
    check_refusal,
    disk,
    make_tile,
    report_job,
    shell,
    start_process,
    succeeds,
    write_tile,
)
from unetkit.labels import ISPRS, labels_to_colours
from unetkit.raster import Georeference, read_label_map, write_image
from unetkit.models import load_tensors
from unetkit.palettes import Palette, read_palette, write_palette

WHOLE = [
    'label_map_32.tif',
    'label_map_32.tif.aux.xml',
    'label_map_recommended.tif',
    'label_map_recommended.tif.aux.xml',
    'model_32.safetensors',
    'model_recommended.safetensors',
    'report.html',
    'scores.csv',
    'scores.json',
]


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    "A folder of files that tests read and never change."
    return tmp_path_factory.mktemp('shared')


@pytest.fixture(scope='module')
def good(shared):
    "The good tile, the partner of all bad ones: if a job with one of each is refused, it is not for the good one."
    return write_tile(shared / 'good', *make_tile())


@pytest.fixture(scope='module')
def fine(shared, good):
    "The files of an undisturbed report of the good tile."
    succeeds(*report_job(good, good, shared / 'fine'))
    return shared / 'fine'


KINDS = {'3': {}, '1': dict(bands=1), '4': dict(bands=4), '16': dict(dtype=np.uint16)}


@pytest.fixture(scope='module')
def tiles(shared):
    "Tiles of other bands and types, by a short name."
    return {name: write_tile(shared / f'bands-{name}', *make_tile(**kind)) for name, kind in KINDS.items()}


@pytest.fixture(scope='module')
def models(shared, tiles):
    "A model of one epoch of each of them."
    files = {}
    for name, tile in tiles.items():
        files[name] = shared / f'{name}.safetensors'
        succeeds(
            'train',
            tile / 'image.tif',
            tile / 'reference.tif',
            '--out',
            files[name],
            '--patch-size',
            32,
            '--split',
            'random',
            *TINY,
        )
    return files


@pytest.fixture
def refused(shared, tmp_path):
    "A command ends with code 2 and one line that holds the given words, and changes nothing on the disk."
    return lambda *words, said: check_refusal((shared, tmp_path), words, said)


@pytest.fixture
def spoilt(tmp_path):
    "Write a tile with a fault to a folder of this test's own."
    return lambda image, labels, name='bad': write_tile(tmp_path / name, image, labels)


def read_scores(out):
    return json.loads((out / 'scores.json').read_text())['models']


# The good tile


def test_make_tile():
    image, labels = make_tile()
    assert image.shape == (96, 128, 3) and np.unique(labels).tolist() == [0, 1, 2, 3, 4]


def test_report_writes_what_it_promises(fine):
    assert sorted(path.name for path in fine.iterdir()) == WHOLE


# Files that do not fit


def test_sizes_differ(good, spoilt, refused, tmp_path):
    image, labels = make_tile()
    bad = spoilt(image, labels)
    write_image(bad / 'reference.tif', labels_to_colours(labels[:-8], ISPRS))
    said = ['bad/reference.tif', '96 x 128', '88 x 128']
    refused(*report_job(bad, good, tmp_path / 'no'), said=[*said, 'on the same pixels as the image'])
    refused(*report_job(good, bad, tmp_path / 'no'), said=said)


@pytest.fixture
def odd_colours(spoilt):
    "A tile whose reference has two pixels of a colour that no class has."
    image, labels = make_tile()
    bad = spoilt(image, labels, 'colour')
    colours = labels_to_colours(labels, ISPRS)
    colours[3, 5] = colours[40, 7] = (1, 2, 3)
    place = Georeference(None, (0.09, 0, 0, 0, -0.09, 0))
    write_image(bad / 'reference.tif', colours, place)
    return bad


def test_unknown_colour(good, odd_colours, refused, tmp_path):
    said = ['colour/reference.tif', '(1, 2, 3)', '2 pixels', 'row 3, column 5', 'add it to the palette']
    refused(*report_job(odd_colours, good, tmp_path / 'no'), said=said)


def test_unknown_colour_declared_as_ignored(good, odd_colours, tmp_path):
    names = {name: list(colour) for name, colour in zip(ISPRS.names, ISPRS.colours, strict=True)}
    palette = tmp_path / 'palette.json'
    palette.write_text(json.dumps({'classes': names, 'ignored': ['#000000', [1, 2, 3]]}))
    succeeds(*report_job(good, odd_colours, tmp_path / 'ignored', '--palette', palette))
    scored = np.sum(read_scores(tmp_path / 'ignored')[0]['confusion_matrix'])
    assert scored == 96 * 128 - 2


def test_jpeg_reference_under_any_name(good, spoilt, refused, tmp_path):
    image, labels = make_tile()
    bad = spoilt(image, labels, 'jpeg')
    Image.fromarray(labels_to_colours(labels, ISPRS)).save(bad / 'lossy.jpg', quality=100)
    shutil.copy(bad / 'lossy.jpg', bad / 'reference.tif')
    said = ['reference.tif is JPEG-compressed', 'changes its colours', 'as PNG or GeoTIFF']
    refused(*report_job(bad, good, tmp_path / 'no'), said=said)
    train = ['train', bad / 'image.tif', bad / 'lossy.jpg', '--out', tmp_path / 'no.safetensors']
    refused(*train, said=['lossy.jpg is JPEG-compressed'])


@pytest.mark.parametrize('kind', ['image', 'reference'])
def test_truncated_tiff(good, spoilt, refused, tmp_path, kind):
    "Nothing, the first bytes, half, and all but the last ten bytes: the last one still opens in some readers."
    bad = spoilt(*make_tile())
    whole = (bad / f'{kind}.tif').read_bytes()
    for size in (0, 4, len(whole) // 2, len(whole) - 10):
        (bad / f'{kind}.tif').write_bytes(whole[:size])
        refused(*report_job(bad, good, tmp_path / 'no'), said=[f'{kind}.tif', 'copy it again'])


def test_missing_files(good, refused, tmp_path):
    out = tmp_path / 'no'
    said = ['no file', 'nowhere', 'check its name']
    refused(*report_job(tmp_path / 'nowhere', good, out), said=said)
    refused('report', '--train-image', good / 'image.tif', '--out', out, said=['give all four'])


# Other bands and types


@pytest.mark.parametrize('name', KINDS)
def test_bands_and_types_go_the_whole_way(tiles, models, tmp_path, name):
    for method in ('exact', 'blend', 'patches'):
        out = tmp_path / f'{method}.tif'
        succeeds('predict', models[name], tiles[name] / 'image.tif', '--out', out, '--method', method)
        assert read_label_map(out).shape == (96, 128)
    printed = succeeds('evaluate', models[name], tiles[name] / 'image.tif', tiles[name] / 'reference.tif')
    assert 'accuracy' in printed.splitlines()[-1]


@pytest.mark.parametrize(('name', 'bands'), [('1', '1 bands of uint8'), ('4', '4 bands of uint8')])
def test_bands_differ_from_those_of_training(good, tiles, models, refused, tmp_path, name, bands):
    refused(*report_job(good, tiles[name], tmp_path / 'no'), said=[bands, 'the same bands everywhere'])
    predict = ['predict', models['3'], tiles[name] / 'image.tif', '--out', tmp_path / 'no.tif']
    refused(*predict, said=[bands, 'give it the same bands'])


def test_type_differs_from_that_of_training(good, tiles, models, refused, tmp_path):
    said = ['holds uint16 values', '--range LOW,HIGH']
    refused(*report_job(good, tiles['16'], tmp_path / 'no'), said=said)
    refused('predict', models['3'], tiles['16'] / 'image.tif', '--out', tmp_path / 'no.tif', said=said)


def test_evaluate_with_other_bands(tiles, models, refused):
    pair = [tiles['4'] / 'image.tif', tiles['4'] / 'reference.tif']
    said = ['4 bands of uint8', 'give it the same bands, heights with --height']
    refused('evaluate', models['3'], *pair, '--method', 'blend', said=said)


# Windows and settings that do not fit


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ('--stride 48', ['stride must be in [1, 32], got 48', 'leaves pixels uncovered']),
        ('--stride 0', ['stride must be at least 1, got 0', 'leave it out']),
        ('--patch-sizes 64 32 --stride 48', ['[1, 32]']),
        ('--patch-sizes 128', ['patch_size 128 is larger than the tile (96 pixels)', 'at most 96']),
        ('--epochs 0', ['epochs must be at least 1']),
        ('--lr 0', ['lr must be a number above 0']),
        ('--lr nan', ['got nan']),
        ('--seed -1', ['got -1']),
        ('--validation 1.5', ['between 0 and 1, got 1.5']),
        ('--batch-size x', ["invalid int value: 'x'"]),
        ('--loss magic', ['choose from']),
        ('--device moon', ['try auto or cpu']),
        ('--palette rainbow', ["'rainbow'"]),
        ('--ignore sky', ["no class 'sky'"]),
    ],
)
def test_settings_that_cannot_be(good, refused, tmp_path, options, said):
    refused(*report_job(good, good, tmp_path / 'no', *options.split()), said=said)


def test_tiles_smaller_than_the_windows(good, spoilt, refused, tmp_path):
    small, out = spoilt(*make_tile(height=32, width=32)), tmp_path / 'no'
    said = ['patch_size 64', '(32 x 32 pixels)', 'at most 32']
    refused(*report_job(good, small, out, '--patch-sizes', 64), said=said)
    refused(*report_job(small, good, out), said=['1 window cannot be split', 'smaller patch_size'])


# Classes


@pytest.fixture
def one_class(spoilt):
    image, labels = make_tile()
    return spoilt(image, np.full_like(labels, 3), 'one')


def test_training_tile_with_one_class(good, one_class, refused, tmp_path):
    "Nothing can be told apart, and a model would score 100 % by saying the same everywhere."
    said = ['one class only (tree)', 'choose another tile']
    refused(*report_job(one_class, good, tmp_path / 'no'), said=said)


def test_test_tile_with_one_class(good, one_class, tmp_path):
    "Its scores are poor in meaning but true."
    succeeds(*report_job(good, one_class, tmp_path / 'out'))
    per_class = read_scores(tmp_path / 'out')[0]['per_class']
    assert [scores['support'] for scores in per_class.values()] == [0, 0, 0, 96 * 128, 0, 0]


def test_class_absent_from_the_test_tile(good, spoilt, tmp_path):
    "Its recall, F1 and IoU are null, and the means are over the other classes alone."
    lacking = spoilt(*make_tile(classes=[0, 1, 2]))
    succeeds(*report_job(good, lacking, tmp_path / 'out'))
    model = read_scores(tmp_path / 'out')[0]
    for name in ('tree', 'car', 'clutter'):
        scores = model['per_class'][name]
        assert [scores[key] for key in ('support', 'recall', 'f1', 'iou')] == [0, None, None, None]
    for mean, key in (('mean_f1', 'f1'), ('mean_iou', 'iou')):
        present = [model['per_class'][name][key] for name in ISPRS.names[:3]]
        assert model[mean] == pytest.approx(np.mean(present), abs=1e-12)


def test_all_pixels_ignored(good, models, spoilt, refused, tmp_path):
    "No score exists, and none is invented."
    image, labels = make_tile()
    black, out = spoilt(image, np.full_like(labels, 255)), tmp_path / 'no'
    said = ['training reference has no scored pixel', 'check palette, reference and image']
    refused(*report_job(black, good, out), said=said)
    refused(*report_job(good, black, out), said=['test reference has no scored pixel'])
    pair = [black / 'image.tif', black / 'reference.tif']
    refused('evaluate', models['3'], *pair, said=['no scored pixel'])


# Nowhere to write


def test_output_below_a_file(good, models, refused):
    "A path below a regular file can be made by no user, not even by root; every command finds out before it starts to work."
    below = good / 'image.tif' / 'out'
    pair = [good / 'image.tif', good / 'reference.tif']
    said = ['cannot write', str(below), 'choose another one (--out)']
    refused(*report_job(good, good, 'no', '--out', below), said=said)
    train = ['train', *pair, '--out', below / 'm.safetensors', '--patch-size', 32, '--split', 'random', *TINY]
    predict = ['predict', models['3'], pair[0], '--out', below / 'map.tif']
    scene = ['scene', '--height', 64, '--width', 64, '--out', below]
    for words in (train, predict, scene):
        refused(*words, said=['cannot write', '--out'])


def test_folder_for_a_file_and_file_for_a_folder(good, models, refused):
    pair = [good / 'image.tif', good / 'reference.tif']
    train = ['train', *pair, '--out', good, '--patch-size', 32, '--split', 'random', *TINY]
    refused(*train, said=['it is a folder', 'name of a file'])
    refused('predict', models['3'], pair[0], '--out', good, said=['it is a folder', 'name of a file'])
    refused(*report_job(good, good, 'no', '--out', pair[0]), said=['cannot write', 'File exists'])


def test_map_that_would_fall_on_an_input(good, models, refused, tmp_path):
    "The image itself, or one of the parts, when the maps are named like further parts: `plot` would give `map_plot`."
    (tmp_path / 'parts').mkdir()
    for part in ('a', 'plot', 'map_plot'):
        shutil.copy(good / 'image.tif', tmp_path / 'parts' / f'{part}.tif')
    image = good / 'image.tif'
    said = ['image.tif is an input', 'would be lost', '--out']
    refused('predict', models['3'], image, '--out', image, said=said)
    words = ['predict', models['3'], tmp_path / 'parts', '--out', tmp_path / 'parts' / 'map.tif']
    refused(*words, said=['map_plot.tif is an input', 'would be lost'])


def test_folder_without_permission(good, refused, tmp_path):
    locked = tmp_path / 'locked'
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        pytest.skip('permission bits do not bind this user (an administrator)')
    refused(*report_job(good, good, locked), said=['cannot write', 'choose another'])


def test_refusals_of_real_processes(good, odd_colours, shared, tmp_path):
    "Exit code 2 from the operating system, nothing on the output stream, no traceback."
    below = good / 'image.tif' / 'out'
    before = disk(shared, tmp_path)
    jobs = {
        '(1, 2, 3)': report_job(odd_colours, good, tmp_path / 'no'),
        'cannot write': report_job(good, good, below),
    }
    runs = {said: start_process(*words) for said, words in jobs.items()}
    for said, run in runs.items():
        out, err = run.communicate(timeout=300)
        assert (run.returncode, out) == (2, '')
        check_line(err, said)
    assert disk(shared, tmp_path) == before


# No space left


@contextlib.contextmanager
def file_limit(size):
    "No file of this process may grow beyond so many bytes: for the program a disk that is full within that file."
    resource = pytest.importorskip('resource', reason='this system cannot limit the size of files')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def only_whole(folder, like):
    "Models and checkpoints load, maps equal those of the undisturbed run, and there is no other name; the names."
    for path in folder.iterdir():
        if path.suffix == '.safetensors':
            load_tensors(path)
        elif path.suffix == '.tif':
            assert path.read_bytes() == (like / path.name).read_bytes()
        else:
            assert path.name in WHOLE and path.stat().st_size, path
    return sorted(path.name for path in folder.iterdir())


def timeless(folder):
    "The scores of a report without the seconds that it took."
    models = read_scores(folder)
    for model in models:
        del model['seconds']
        for epoch in model['history']:
            del epoch['seconds']
    return models


def test_python_survives_the_limit(tmp_path):
    "It gets an error from the write, instead of the signal that would end it."
    with file_limit(100), pytest.raises(OSError):
        (tmp_path / 'probe').write_bytes(bytes(1000))


def test_predict_on_a_full_disk(good, models, shared, tmp_path):
    "Nothing is left, and an older map of that name stays as it was."
    succeeds('predict', models['3'], good / 'image.tif', '--out', tmp_path / 'old.tif')
    before = disk(shared, tmp_path)
    for name in ('new.tif', 'old.tif'):
        with file_limit(100):
            code, _, err = shell('predict', models['3'], good / 'image.tif', '--out', tmp_path / name)
        assert code == 2
        check_line(err, 'cannot write', name, 'space')
    assert disk(shared, tmp_path) == before


def test_report_on_a_full_disk(good, fine, tmp_path):
    "First the checkpoint does not fit, then the page; with space again the same command finishes without training again."
    out = tmp_path / 'full'
    words = report_job(good, good, out)
    with file_limit(2000):
        code, _, err = shell(*words)
    assert (code, only_whole(out, fine)) == (2, [])
    check_line(err, 'cannot write', 'checkpoint_32.safetensors', 'disk full')
    with file_limit((fine / 'report.html').stat().st_size * 3 // 4):
        code, _, err = shell(*words)
    kept = only_whole(out, fine)
    assert code == 2
    check_line(err, 'cannot write', 'report.html', 'space')
    assert 'report.html' not in kept
    assert {'checkpoint_32.safetensors', 'model_32.safetensors', 'label_map_32.tif'} <= set(kept)
    succeeds(*words)
    assert sorted(path.name for path in out.iterdir()) == WHOLE
    assert timeless(out) == timeless(fine)


@contextlib.contextmanager
def tiny_disk(folder, size):
    "A file system in memory of so many bytes, if this user asked for it and may mount one."
    if os.environ.get('UNETKIT_TMPFS') != '1':
        pytest.skip('a test should not mount anything unasked: set UNETKIT_TMPFS=1 to ask for it')
    folder.mkdir()
    words = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none', str(folder)]
    if not shutil.which('mount') or subprocess.run(words, capture_output=True).returncode:
        pytest.skip('this user may not mount a file system')
    try:
        yield
    finally:
        subprocess.run(['umount', str(folder)], check=True)


def test_real_full_disk(good, fine, models, shared, tmp_path):
    "There is room for all files of the report, but not for the checkpoint beside them; in the second run for nothing."
    where = tmp_path / 'mount'
    with tiny_disk(where, sum((fine / name).stat().st_size for name in WHOLE)):
        code, _, err = shell(*report_job(good, good, where / 'out'))
        assert code == 2
        check_line(err, 'report.html', 'No space left on device')
        only_whole(where / 'out', fine)
        with contextlib.suppress(OSError):
            (where / 'filler').write_bytes(bytes(10_000_000))
        words = ['predict', models['3'], good / 'image.tif', '--out', where / 'map.tif']
        said = ['cannot write', 'No space left on device']
        check_refusal((shared, where), words, said)


# Interrupted and resumed


def interrupt(words, line):
    "Send Ctrl-C to a real process when it prints a line that begins like this."
    run = start_process(*words)
    for printed in run.stdout:
        if printed.startswith(line):
            run.send_signal(signal.SIGINT)
            break
    rest, err = run.communicate(timeout=300)
    assert (run.returncode, 'wrote' in rest) == (130, False), err
    check_line(err, 'interrupted', 'the same command goes on')


# five epochs of some 50 steps: long enough to be caught in the middle, short enough for a test
LONGER = '--epochs 5 --stride 8 --batch-size 2'.split()


def resumed_like_undisturbed(cut, whole, words):
    "The same command goes on to everything but the seconds of a run that was not disturbed, and leaves no checkpoint."
    for out in (cut, whole):
        code, _, err = shell(*words(out))
        assert (code, err) == (0, '')
    assert timeless(cut) == timeless(whole)
    assert {path.name for path in cut.iterdir()} == {path.name for path in whole.iterdir()}
    for path in whole.glob('*.tif'):
        assert path.read_bytes() == (cut / path.name).read_bytes()


def test_interrupted_report_goes_on(good, refused, tmp_path):
    def words(out, *options):
        return report_job(good, good, out, '--patch-sizes', '16,32', *LONGER, *options)

    cut = tmp_path / 'cut'
    interrupt(words(cut), 'patch 32: epoch  2/5')
    checkpoints = ['checkpoint_16.safetensors', 'checkpoint_32.safetensors']
    assert sorted(path.name for path in cut.iterdir()) == checkpoints
    assert 2 <= len(load_tensors(cut / checkpoints[1])[1]['epochs']) < 5
    said = ['lr was 0.001 and is 0.01', 'use the same settings to go on', 'to start anew']
    refused(*words(cut, '--lr', 0.01), said=said)
    again = tmp_path / 'again'
    shutil.copytree(cut, again)
    succeeds(*words(again, '--lr', 0.01, '--epochs', 1, '--restart'))
    assert [model['epochs_run'] for model in timeless(again) if model['recipe'] == 'report'] == [1, 1]
    assert not list(again.glob('*checkpoint*'))
    resumed_like_undisturbed(cut, tmp_path / 'whole', words)


@pytest.mark.slow
def test_interrupted_in_the_precision_of_the_machine(good, tmp_path):
    def words(out):
        return report_job(good, good, out, *LONGER, '--precision', 'auto')

    interrupt(words(tmp_path / 'cut'), 'patch 32: epoch  2/5')
    resumed_like_undisturbed(tmp_path / 'cut', tmp_path / 'whole', words)


def test_damaged_checkpoint(good, refused, tmp_path):
    "It is not taken for a new start; the remedy works."
    out = tmp_path / 'damaged'
    out.mkdir()
    (out / 'checkpoint_32.safetensors').write_bytes(b'half a checkpoint')
    refused(*report_job(good, good, out), said=['checkpoint_32.safetensors', 'not a whole unetkit file'])
    succeeds(*report_job(good, good, out, '--restart'))


def test_numbers_are_ignored_as_numbers(tmp_path):
    "The name that a draft gives to a number says nothing where classes have numbers."
    path = tmp_path / 'palette.json'
    classes = {'road': {'value': 1}, 'roof': {'value': 2}}
    path.write_text(json.dumps({'classes': classes, 'ignored': ['class_0']}))
    with pytest.raises(
        ValueError, match="\"ignored\" holds 'class_0', but these classes have numbers: write 0 instead"
    ):
        read_palette(path)
    path.write_text(json.dumps({'classes': classes, 'ignored': [0]}))
    assert read_palette(path).ignored_values == (0,)
    drafted = Palette(('class_0', 'road', 'roof'), ('#000000', '#ff0000', '#00ff00'), values=range(3))
    without = drafted.ignoring('class_0')
    assert read_palette(write_palette(path, without)) == without
