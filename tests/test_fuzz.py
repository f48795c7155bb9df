"""Inputs that nobody thought of, by the thousand: sizes, palettes, settings, command lines and broken files, each with a rule that has to hold for all of them.

Hypothesis draws the inputs, the same ones each time, and shrinks one that fails to the smallest of its kind. The slow tests draw five times as many from other seeds.
1. Windows cover every pixel once, for any size, and windows with a halo answer as the whole image does.
2. What is written is what is read: labels and colours, maps, palettes, settings.
3. A broken file, a broken model and a senseless command line end in a clear line, and never in a traceback or a dead process.
4. The files of `tests/corpus`, among them every input that once did harm, are read or refused."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROUNDS, child_environment, shell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from unetkit.cli import COMMANDS
from unetkit.experiments import ModelPipeline
from unetkit.labels import Palette, colours_to_labels, labels_to_colours, read_palette
from unetkit.batches import as_batch
from unetkit.patches import PatchGrid, window_starts
from unetkit.stitching import core_logits, exact_windows, halo_windows, image_tensor
from unetkit.raster import read_image, read_label_map, read_reference, write_image, write_label_map
from unetkit.archives import read_vaihingen
from unetkit.models import load_tensors, save_model
from unetkit.settings import Settings
from unetkit.values import Values
from unetkit.training import make_predictor
from unetkit.unet import UNet, pad_to_multiple, reach

CORPUS = Path(__file__).parent / 'corpus'


def holds(examples, **drawn):
    "Make two tests of a property: a quick one whose inputs are the same each time, and a slow one with more, of other seeds."

    def decorate(check):
        lenient = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
        quick = settings(max_examples=examples, derandomize=True, **lenient)(given(**drawn)(check))
        long = settings(max_examples=5 * ROUNDS * examples, **lenient)(given(**drawn)(check))

        @pytest.mark.parametrize(
            'run', [quick, pytest.param(long, marks=pytest.mark.slow)], ids=['quick', 'long']
        )
        def test(run):
            run()

        test.__doc__ = check.__doc__
        return test

    return decorate


@pytest.fixture(scope='module', autouse=True)
def folder():
    "A folder of its own, where the tests of this module also work."
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        os.chdir(name)
        patch.setenv('UNETKIT_MAX_PIXELS', str(2**18))  # small images are tried faster
        yield Path(name)
        os.chdir(here)


def check_clear(error):
    "An error is one printable line that a person can read."
    assert str(error).isprintable() and 0 < len(str(error)) < 700, repr(str(error))[:2000]


# Windows


@holds(300, length=st.integers(1, 500), size=st.integers(1, 500), stride=st.integers(1, 500))
def test_starts_cover(length, size, stride):
    "Sorted, without repeats, from 0 to the last that fits, and no pixel between two windows is left out."
    if not stride <= size <= length:
        with pytest.raises(ValueError):
            window_starts(length, size, stride)
        return
    starts = window_starts(length, size, stride)
    assert starts[0] == 0 and starts[-1] == length - size
    assert all(0 < after - before <= stride for before, after in zip(starts, starts[1:]))


@holds(
    100,
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 40),
    stride=st.integers(1, 40),
)
def test_grid_owns_each_pixel_once(height, width, size, stride):
    "Every pixel belongs to exactly one window, and that window contains it."
    if not stride <= size <= min(height, width):
        with pytest.raises(ValueError):
            PatchGrid(height, width, size, stride)
        return
    grid, owners = PatchGrid(height, width, size, stride), np.zeros((height, width), int)
    for (row, col), (r0, r1, c0, c1) in zip(grid.origins, grid.owned, strict=True):
        assert row <= r0 < r1 <= row + size and col <= c0 < c1 <= col + size
        owners[r0:r1, c0:c1] += 1
    assert (owners == 1).all()


@holds(200, length=st.integers(1, 300), core=st.integers(1, 100), halo=st.integers(0, 100))
def test_halos_reach(length, core, halo):
    "The kept parts are disjoint and add up to the axis; at least the halo around each is read, as far as the image goes."
    kept = []
    for first, last, begin, end in halo_windows(length, core, halo):
        assert first == max(begin - halo, 0) and last >= min(end + halo, length)
        assert first <= begin < end <= last <= length
        kept += range(begin, end)
    assert kept == list(range(length))


torch.manual_seed(0)
NETWORK = make_predictor(UNet(1, 3, width=2, depth=2), torch.float32)
HALO = -(-reach(2) // 4) * 4


@holds(
    25, height=st.integers(1, 90), width=st.integers(1, 90), core=st.integers(1, 16), seed=st.integers(0, 9)
)
def test_windows_answer_as_the_whole(height, width, core, seed):
    """A small network answers to each window, where it counts, as it answers to the whole image.

    The two sum the same numbers in another order: 10 layers of at most 9 x 8 products each in float32 (6e-8 each) stay far below 1e-4."""
    tile = image_tensor(np.random.default_rng(seed).integers(0, 256, (height, width, 1), np.uint8))
    whole = NETWORK(pad_to_multiple(as_batch(tile[None]), 4))[0, :, :height, :width]
    for read, kept in exact_windows((height, width), 4 * core, HALO, 4):
        (top, bottom, left, right), (r0, r1, c0, c1) = read, kept
        part = core_logits(NETWORK, tile[:, top:bottom, left:right], read, kept, 4)
        torch.testing.assert_close(part, whole[:, r0:r1, c0:c1], rtol=1e-4, atol=1e-4)


# There and back

colour = st.tuples(*[st.integers(0, 255)] * 3)
class_name = st.text(st.characters(exclude_categories=['C', 'Z']), min_size=1, max_size=12)


@st.composite
def palettes(draw):
    "Palettes of any size, names in any alphabet and colours without repeats."
    names = draw(st.lists(class_name, min_size=1, max_size=12, unique=True))
    colours = draw(st.lists(colour, min_size=len(names), max_size=len(names) + 3, unique=True))
    return Palette(names, colours[: len(names)], colours[len(names) :])


@st.composite
def label_maps(draw, palette):
    "Labels of a palette; if nothing is ignored, no label is 255."
    values = np.array([*range(palette.num_classes), *[255] * bool(palette.ignored)], np.uint8)
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return np.random.default_rng(draw(st.integers(0, 2**20))).choice(values, size)


@holds(30, data=st.data())
def test_labels_survive(data):
    "From labels to colours and back, and through a file: the numbers for programs, the colours for people."
    palette = data.draw(palettes())
    labels = data.draw(label_maps(palette))
    colours = labels_to_colours(labels, palette)
    assert np.array_equal(colours_to_labels(colours, palette), labels)
    path = write_label_map('map.tif', labels, palette.colours)
    assert np.array_equal(read_label_map(path), labels)
    scored = labels != 255
    assert np.array_equal(read_reference(path)[scored], colours[scored])


@holds(100, palette=palettes())
def test_palettes_survive(palette):
    text = {'classes': dict(zip(palette.names, palette.colours, strict=True)), 'ignored': palette.ignored}
    Path('palette.json').write_text(json.dumps(text))
    assert read_palette('palette.json') == palette


# any JSON of moderate size, and JSON with the outer form of a palette
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
classes = anything | st.dictionaries(st.text(max_size=8), anything | colour, max_size=4)
almost = st.fixed_dictionaries({'classes': classes}, optional={'ignored': anything, 'more': anything})


@holds(200, found=anything | almost)
def test_palettes_are_refused_clearly(found):
    Path('palette.json').write_text(json.dumps(found))
    try:
        read_palette('palette.json')
    except ValueError as error:
        check_clear(error)


choices = st.sampled_from(
    [option for field in fields(Settings) for option in field.metadata.get('choices', ())]
)
value = anything | choices | st.integers(1, 300) | st.floats(0, 1)
names = st.sampled_from([field.name for field in fields(Settings)])


@holds(300, chosen=st.dictionaries(names, value, max_size=3))
def test_settings_survive(chosen):
    "Settings of any kind are refused, or come back from JSON as they were."
    try:
        made = Settings(**chosen)
    except (ValueError, TypeError):
        return
    assert Settings(**json.loads(json.dumps(asdict(made)))) == made


# Broken files. A reader written in C can take its process with it, so the image readers work in a process of their own, which reads names of files from its input
# and answers with a word.

CHILD = '''
import sys, unetkit.raster as tiles
def clear(said): return said.isprintable() and 0 < len(said) < 700
for line in sys.stdin:
    reader, path = line.split()
    try:
        getattr(tiles, reader)(path)
        print('read', flush=True)
    except (ValueError, OSError) as error:
        print('refused' if clear(str(error)) else f'not a clear line: {error!r}', flush=True)
    except Exception as error:
        print(f'{type(error).__name__}: {error}'.replace(chr(10), ' '), flush=True)
'''


class Reader:
    "A process that reads files, and a new one when it is gone."

    def __init__(self):
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, '-c', CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(UNETKIT_MAX_PIXELS=str(2**18)),
        )

    def ask(self, reader, data, path):
        "What a reader makes of a file with these bytes: 'read' or 'refused', or what went wrong."
        Path(path).write_bytes(data)
        with contextlib.suppress(
            BrokenPipeError
        ):  # whether the question still reaches a dead process is chance
            self.process.stdin.write(f'{reader} {path}\n')
            self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if answer:
            return answer
        code = self.process.wait()
        self.start()
        return f'the process ended with {code}'


READER = None


@pytest.fixture(scope='module', autouse=True)
def reader(folder):
    global READER
    READER = Reader()
    yield READER
    READER.process.stdin.close()
    READER.process.wait()


def encode():
    "One random picture in many forms of file: the bytes by name."
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        write_image(here / 'blocks.tif', pixels)
        write_label_map(here / 'labels.tif', pixels[..., 0] % 5, pixels[0, :5])
        Image.fromarray(pixels).save(here / 'strips.tif', compression='tiff_lzw')
        Image.fromarray(pixels).save(here / 'a.png')
        Image.fromarray(pixels).save(here / 'a.jpg')
        Image.fromarray(pixels).save(here / 'b.jpg', progressive=True)
        Image.fromarray(pixels).quantize(5).save(here / 'palette.png')
        return {path.name: path.read_bytes() for path in sorted(here.iterdir())}


IMAGES = encode()


@pytest.mark.parametrize('name', IMAGES)
def test_good_files_are_read(reader, name):
    assert reader.ask('read_image', IMAGES[name], 'good.tif') == 'read'


# half of all changes go into the first bytes, where the header is
place = st.integers(0, 400) | st.integers(0, 2**16)
changes = st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=6)


def broken(data, changes, cut):
    "Bytes with some exchanged and the end cut off."
    data = bytearray(data)
    for at, byte in changes:
        data[at % len(data)] = byte
    return bytes(data[: len(data) * cut // 100])


@holds(
    250,
    name=st.sampled_from(sorted(IMAGES)),
    changes=changes,
    cut=st.sampled_from([100, 100, 100, 99, 60, 10]),
    how=st.sampled_from(['read_image', 'read_reference', 'read_label_map']),
)
def test_images_are_read_or_refused(name, changes, cut, how):
    assert READER.ask(how, broken(IMAGES[name], changes, cut), 'broken.tif') in ('read', 'refused')


def test_a_dead_process_is_noticed(reader):
    "And so is an error that is no refusal: a reader that does not exist stands for it."
    assert reader.ask('os.abort', b'', 'broken.tif').startswith('AttributeError')
    reader.process.kill()
    ended = reader.ask('read_image', IMAGES['a.png'], 'broken.tif')
    assert ended.startswith('the process ended with')
    assert ended.endswith('-9') or sys.platform == 'win32'
    assert reader.ask('read_image', IMAGES['a.png'], 'broken.tif') == 'read'


PIPELINE = ModelPipeline(
    Palette(['a', 'b'], [(0, 0, 0), (1, 1, 1)]),
    Settings(patch_size=16, width=1, depth=1, device='cpu', precision='float32'),
)
PIPELINE.model, PIPELINE.values = UNet(1, 2, width=1, depth=1), Values.of_type('uint8', 1)
with tempfile.TemporaryDirectory() as name:
    MODEL = PIPELINE.save(Path(name) / 'model.safetensors').read_bytes()
    ABOUT = load_tensors(Path(name) / 'model.safetensors')[1]


def load_or_refuse(path):
    try:
        ModelPipeline.load(path, 'cpu', 'float32')
    except ValueError as error:
        check_clear(error)


@holds(300, changes=changes, cut=st.sampled_from([100, 100, 99, 50, 1]))
def test_models_are_loaded_or_refused(changes, cut):
    Path('broken.safetensors').write_bytes(broken(MODEL, changes, cut))
    load_or_refuse('broken.safetensors')


keys = st.text(max_size=4) | st.sampled_from(
    ['width', 'depth', 'up', 'pad', 'names', 'colours', 'lr', 'augment', 'patch_size']
)


@holds(80, part=st.sampled_from(sorted(ABOUT)), key=keys, value=anything, whole=st.booleans())
def test_headers_are_read_or_refused(part, key, value, whole):
    "Random bytes hardly ever leave a header that is JSON, so it is also exchanged part by part, for anything."
    other = value if whole or not isinstance(ABOUT[part], dict) else ABOUT[part] | {key: value}
    save_model('other.safetensors', PIPELINE.model, ABOUT | {part: other})
    load_or_refuse('other.safetensors')


# Command lines

known = '--out --help -h -- --seed 7 -1 nan 1e9 --palette isprs --ignore car --patch-sizes 32, --width --device cuda:99 --restart --method --validation'  # fmt: skip
words = st.lists(
    st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']), max_size=10)
    | st.sampled_from([*known.split(), '9' * 30]),
    max_size=6,
)


@holds(150, command=st.sampled_from([*COMMANDS, '--version', '']) | st.text(max_size=6), more=words)
def test_commands_answer(command, more):
    """Any words after any command, in an empty folder, end with code 2 and a line, or with the help.

    `train`, `predict` and `evaluate` get names of files that are not there, so that nothing begins in earnest, and so does `report`."""
    if command in ('report', 'scene'):
        more = [*more, '--train-image' if command == 'report' else '--height', 'x']
    code, out, line = shell(command, *more)
    refused = code == 2 and line.startswith('unetkit') and line[-1] == '\n' and line[:-1].isprintable()
    assert (code == 0 and out) or refused, (code, line)


# The corpus


def load_with_header(path):
    "The model of the corpus with another header: random bytes hardly ever make a file whose header can be read at all."
    about = {'unetkit': path.read_bytes().decode(errors='replace')}
    save_file(load_file(CORPUS / 'model' / 'whole.safetensors'), path.with_suffix('.safetensors'), about)
    ModelPipeline.load(path.with_suffix('.safetensors'), 'cpu', 'float32')


READERS = {
    'image': ('.bin', [read_image, read_reference]),
    'label_map': ('.tif', [read_label_map]),
    'palette': ('.json', [read_palette]),
    'archive': ('.zip', [lambda path: read_vaihingen(path, path, 1)]),
    'tensors': ('.safetensors', [load_tensors]),
    'model': ('.safetensors', [lambda path: ModelPipeline.load(path, 'cpu', 'float32')]),
    'header': ('.json', [load_with_header]),
}
SEEDS = sorted(path for path in CORPUS.glob('*/*') if path.is_file())


@pytest.mark.parametrize('seed', SEEDS, ids=lambda path: f'{path.parent.name}-{path.name}')
def test_corpus_is_read_or_refused(seed, tmp_path):
    suffix, functions = READERS[seed.parent.name]
    path = tmp_path / f'input{suffix}'
    path.write_bytes(seed.read_bytes())
    for function in functions:
        try:
            function(path)
        except (ValueError, OSError) as error:
            check_clear(error)


def test_corpus_is_complete():
    assert {path.parent.name for path in SEEDS} == set(READERS)
    assert len([path for path in SEEDS if path.name.startswith('found-')]) >= 4
