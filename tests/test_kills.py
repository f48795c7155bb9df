"""The program is killed at moments it cannot choose: nothing is lost but the piece of work in hand, and nothing is ever half.

The real commands run on a small scene, in processes of their own, and end by signals that cannot be refused.
1. After a SIGKILL at any moment every file that can be seen is whole, and everything that had been finished is kept.
2. The same command goes on from there, does nothing twice, clears away what the dead process left, and ends with the result of an undisturbed run, bit for bit.
3. Ctrl-C and SIGTERM end a command with one clear line, their own exit code, and no leftovers.
4. A disk that fills up, or becomes read-only, in the middle of the work costs no more than a kill.

When a test needs a certain moment, the process strikes itself there (`At`), so that it is met on a fast and on a slow machine. The slow tests strike at random."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import rasterio
from helpers import CHIPS, ROUNDS, child_environment, members_of_chips, serving
from safetensors import safe_open

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system cannot fork a process')

# A process to kill.
#
# A fresh interpreter takes seconds to load torch, and a kill a moment. So one interpreter, the nursery, loads the program once and then forks: each command runs
# in a child of its own, a whole process with its own memory, files and death. The nursery answers a line with the number of the process, and says how it ended.

NURSERY = """
import fnmatch, gc, json, os, signal, sys, threading
import torch._dynamo  # which the first optimiser would load
from signal import pthread_kill
from unetkit.cli import main
gc.freeze()  # what is shared with the children stays shared

def strike_at(event, path, count, signal, limit):
    left = [count]
    def hook(name, arguments):
        if name == event and any(fnmatch.fnmatch(str(argument), path) for argument in arguments):
            left[0] -= 1
            if left[0] == 0 and limit:
                import resource
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            elif left[0] == 0:
                pthread_kill(threading.get_ident(), signal)  # this thread, which may not be the first, goes no further
    sys.addaudithook(hook)

for line in sys.stdin:
    words, at, out, err, before = json.loads(line)
    child = os.fork()
    if not child:
        for number, log in ((1, out), (2, err)):
            os.dup2(os.open(log, os.O_WRONLY), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exec(before)
        if at:
            strike_at(**at)
        code = main(words)
        sys.stdout.flush()
        os._exit(code)  # without taking the whole interpreter apart
    print(child, flush=True)
    while True:
        status = os.waitpid(child, os.WUNTRACED)[1]
        if not os.WIFSTOPPED(status):
            break
        print('stopped', flush=True)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass
class At:
    "The moment at which a process strikes itself: an event of Python's audit hooks whose arguments name a path."

    path: str  # A pattern of the whole path, with * and ?
    count: int = 1  # At which occurrence
    event: str = 'os.rename'  # A finished file is renamed to its place: 'os.rename' is the end of a write, 'open' its beginning
    signal: int = signal.SIGKILL  # What it sends to itself
    limit: int = 0  # If not 0: instead, no file may grow beyond so many bytes from there on


class Nursery:
    "An interpreter that runs commands in forked children."

    def __init__(self, folder):
        self.out, self.err = folder / 'out.txt', folder / 'err.txt'
        self.interpreter = subprocess.Popen(
            [sys.executable, '-c', NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(),
            start_new_session=True,
        )

    def start(self, words, at=None, before=''):
        "Start a command, and a piece of Python before it; the number of its process."
        for log in (self.out, self.err):
            log.write_text('')
        line = [[str(word) for word in words], at and asdict(at), str(self.out), str(self.err), before]
        print(json.dumps(line), file=self.interpreter.stdin, flush=True)
        return int(self.answer())

    def answer(self):
        "How the command ended: its exit code, or the negative number of the signal. 'stopped' if it may go on."
        return self.interpreter.stdout.readline().strip()

    def run(self, words, at=None, before=''):
        "Run a command to its end, whichever that is."
        self.start(words, at, before)
        return int(self.answer())

    def printed(self):
        return self.out.read_text()

    def said(self):
        return self.err.read_text()


# What a command promises


@dataclass
class Task:
    "A command that does its work in pieces and can be interrupted."

    words: Callable  # The words of the command that works in a folder
    pieces: Callable  # The set of pieces that are safe on the disk there
    said: Callable  # How many pieces a text on the output stream says to be finished
    finished: str  # Name of the file that is there when all is done
    kept: bool = True  # Can pieces still be seen when the work is done?


def hidden(folder):
    "Files and folders with a dot in front: those of writers at work, or of dead ones."
    found = set()
    for top, folders, names in os.walk(folder):
        found |= {Path(top, name) for name in folders + names if name.startswith('.')}
    return found


def half(folder):
    "Those in which something is being written, or was, and since when; not the locks, which a command holds from beginning to end."
    found = set()
    for path in hidden(folder):
        with contextlib.suppress(FileNotFoundError):
            found |= {(path, path.stat().st_mtime_ns)} if path.suffix == '.part' else set()
    return found


def visible(folder):
    "What a user sees in a folder."
    paths = [Path(top, name) for top, _, names in os.walk(folder) for name in names]
    return sorted(
        path for path in paths if not any(p.startswith('.') for p in path.relative_to(folder).parts)
    )


def read_tensors(path):
    with safe_open(path, 'np') as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, json.loads(file.metadata()['unetkit'])


def epochs(folder):
    "Epochs that a checkpoint or a model remembers; the seconds tell an epoch from the same one trained again. A finished training has none."
    found = {}
    for path in visible(folder):
        if '.safetensors' in path.name:
            run = re.sub(
                r'^(model|checkpoint)_?|\.safetensors.*$', '', path.name
            )  # the same for a checkpoint and its model
            about = read_tensors(path)[1]
            for epoch in about.get('epochs', about.get('history')):
                found.setdefault((run, epoch['number']), set()).add(epoch.get('seconds'))
    return {(*key, second) for key, times in found.items() for second in times - {None} or {None}}


def lost(before, pieces):
    "What was there before and is not there any more, or was made again."
    return {piece for piece in before - pieces if (*piece[:-1], None) not in pieces}


def blocks(folder):
    "Blocks of a map; one that was made twice would have another time."
    paths = [path for path in visible(folder / 'map.tif.blocks') if path.suffix == '.tif']
    return {(path.name, path.stat().st_mtime_ns) for path in paths}


# A tiny network, so that much of the time is spent with writing; random turns make each epoch depend on the state of the generators.
TINY = '--width 4 --depth 2 --batch-size 10 --augment --device cpu --precision float32 --patience 99'.split()
# Little memory makes many blocks, and with the probabilities there are two maps.
MANY = '--memory 0.001 --probabilities --device cpu --precision float32'.split()


def epochs_said(text):
    return text.count('  train loss ')


def training(scene, count):
    files = [scene / 'image.tif', scene / 'reference.tif']
    tail = ['--patch-size', 32, '--split', 'random', '--epochs', count, *TINY]
    return Task(lambda folder: ['train', *files, '--out', folder / 'model.safetensors', *tail], epochs, epochs_said, 'model.safetensors')  # fmt: skip


def reporting(scene):
    "Two trainings with a map each, and a page at the end."
    files = []
    for role in ('train', 'test'):
        for kind in ('image', 'reference'):
            files += [f'--{role}-{kind}', scene / f'{kind}.tif']
    tail = ['--patch-sizes', '16,32', '--epochs', 24, *TINY]
    return Task(lambda folder: ['report', *files, '--out', folder, *tail], epochs, epochs_said, 'report.html')


def mapping(scene, model):
    words = ['predict', model, scene / 'image.tif', '--out']
    return Task(
        lambda folder: [*words, folder / 'map.tif', *MANY], blocks, lambda text: 0, 'map.tif', kept=False
    )


# What is whole


def timeless(data):
    "Data without the seconds that a run took, and without the checksum of the text that holds them."
    if isinstance(data, dict):
        return {key: timeless(value) for key, value in data.items() if key not in ('seconds', 'program')}
    return [timeless(value) for value in data] if isinstance(data, list) else data


def content(path):
    "The content of a file, which must be whole: what cannot be read in full raises an error."
    if '.safetensors' in path.name:
        tensors, about = read_tensors(path)
        return {name: (str(t.dtype), t.tobytes()) for name, t in tensors.items()}, timeless(about)
    if path.suffix == '.json':
        return timeless(json.loads(path.read_text()))
    if path.suffix == '.tif':
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # blocks have no georeference of their own
            with rasterio.open(path) as raster:
                raster.read()
    if path.suffix == '.html':
        assert path.read_text().endswith('</html>\n'), path
    return path.read_bytes()


def contents(folder):
    return {path.relative_to(folder).as_posix(): content(path) for path in visible(folder)}


# Fixtures: the scene, the undisturbed runs


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('kills')


@pytest.fixture(scope='module')
def nursery(place):
    nursery = Nursery(place)
    yield nursery
    nursery.interpreter.stdin.close()
    try:
        assert nursery.interpreter.wait(timeout=60) == 0
    finally:  # a test that failed may have left a stopped child, for which the nursery waits
        with contextlib.suppress(ProcessLookupError):
            os.killpg(nursery.interpreter.pid, signal.SIGKILL)


@pytest.fixture(scope='module')
def scene(place, nursery):
    "The scene that everything works on; in the end nobody has touched it."
    folder = place / 'scene'
    assert nursery.run(['scene', '--height', 160, '--width', 160, '--seed', 1, '--out', folder]) == 0
    inputs = {path: path.read_bytes() for path in folder.iterdir()}
    yield folder
    assert {path: path.read_bytes() for path in folder.iterdir()} == inputs


@dataclass
class Job:
    "A task, what an undisturbed run of it leaves, and how long that took."

    task: Task
    whole: dict
    seconds: float


def undisturbed(nursery, task, folder):
    began = time.perf_counter()
    assert (nursery.run(task.words(folder)), nursery.said(), hidden(folder)) == (0, '', set())
    return Job(task, contents(folder), time.perf_counter() - began)


@pytest.fixture(scope='module')
def train(nursery, scene, place):
    return undisturbed(nursery, training(scene, 12), place / 'train-whole')


@pytest.fixture(scope='module')
def model(train, place):
    "The model that makes the maps, which stays as it is."
    yield place / 'train-whole' / 'model.safetensors'
    assert contents(place / 'train-whole') == train.whole


@pytest.fixture(scope='module')
def predict(nursery, scene, model, place):
    return undisturbed(nursery, mapping(scene, model), place / 'predict-whole')


@pytest.fixture(scope='module')
def job(request):
    return request.getfixturevalue(request.param)


both = pytest.mark.parametrize('job', ['train', 'predict'], indirect=True)


# What is looked at after each end


def look(nursery, task, folder, before):
    "Every visible file is whole, no piece from before is lost or made twice, and what was said to be finished is kept."
    contents(folder)
    pieces = task.pieces(folder)
    assert not lost(before, pieces)
    assert task.said(nursery.printed()) <= len(pieces), 'said to be finished, but not kept'
    assert len({piece[:-1] for piece in pieces}) == len(pieces)
    return pieces


COUNT = """
from unetkit import training

def counted(*given, whole=training.train_epoch):
    print('trains an epoch')
    return whole(*given)

training.train_epoch = counted
"""


def finish(nursery, job, folder, before=frozenset(), *options):
    "Left in peace, the command arrives at the result of the undisturbed run, with exactly its files."
    task = job.task
    ended = nursery.run([*task.words(folder), *options], before=COUNT)
    assert (ended, nursery.said(), hidden(folder)) == (0, '', set())
    assert contents(folder) == job.whole
    if task.kept:  # nothing lost, and nothing trained twice, which a finished training does not show
        pieces = task.pieces(folder)
        assert not lost(before, pieces)
        assert nursery.printed().count('trains an epoch') == len(pieces) - len(before)


# Killed while it writes


def test_training_killed_in_a_write(nursery, train, tmp_path):
    "Once when the checkpoint of the third epoch is ready but not in its place, once when the seventh is begun."
    task, pieces = train.task, set()
    assert nursery.run(task.words(tmp_path), At('*.checkpoint', 3)) == -signal.SIGKILL
    pieces = look(nursery, task, tmp_path, pieces)
    assert len(pieces) == 2 and hidden(tmp_path)  # what the dead process was writing
    assert nursery.run(task.words(tmp_path), At('*.checkpoint*', 4, 'os.mkdir')) == -signal.SIGKILL
    pieces = look(nursery, task, tmp_path, pieces)
    assert 5 <= len(pieces) < 12
    finish(nursery, train, tmp_path, pieces)
    names = ['model.safetensors', 'model.safetensors.checkpoint']  # from which more epochs would go on
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def count_blocks(folder):
    "How many blocks a map has is written beside them."
    core = json.loads((folder / 'map.tif.blocks' / 'job.json').read_text())['core']
    return len(range(0, 160, core)) ** 2


def test_map_killed_in_a_write(nursery, predict, tmp_path):
    "Between its blocks, and when all of them are there and the map is being put together; every block stays the same file."
    task = predict.task
    assert nursery.run(task.words(tmp_path), At('*/map.tif.blocks/0*', 6)) == -signal.SIGKILL
    first = look(nursery, task, tmp_path, set())
    count = count_blocks(tmp_path)
    assert nursery.run(task.words(tmp_path), At('*/map.tif.blocks/0*', 4)) == -signal.SIGKILL
    second = look(nursery, task, tmp_path, first)
    assert len(first) == 5 and len(second) == 8 and count > 8
    for name in predict.whole:
        assert nursery.run(task.words(tmp_path), At(f'*/{tmp_path.name}/{name}')) == -signal.SIGKILL
        second = look(nursery, task, tmp_path, second)
        assert len(second) == count
    finish(nursery, predict, tmp_path)
    names = ['map.tif', 'map.tif.aux.xml', 'map_probabilities.tif']
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_map_killed_while_blocks_are_removed(nursery, predict, tmp_path):
    "The map is in its place, and some blocks are left; the same command must not stumble over them."
    task = predict.task
    assert nursery.run(task.words(tmp_path), At('*/map.tif.blocks/0*', 5, 'os.remove')) == -signal.SIGKILL
    assert (tmp_path / 'map.tif').exists() and blocks(tmp_path)
    finish(nursery, predict, tmp_path)


def test_blocks_that_belong_to_nothing(nursery, predict, tmp_path):
    "Blocks without the file that says what they belong to are not taken for blocks of this map: here the first lies in the place of the tenth."
    task, orphans = predict.task, tmp_path / 'map.tif.blocks'
    assert nursery.run(task.words(tmp_path), At('*/map.tif.blocks/0*', 2)) == -signal.SIGKILL
    block = next(path for path in visible(orphans) if path.suffix == '.tif').read_bytes()
    finish(nursery, predict, tmp_path)
    orphans.mkdir()
    (orphans / '0000009.tif').write_bytes(block)
    assert nursery.run(task.words(tmp_path)) == 2
    assert 'start anew with --restart' in nursery.said()
    assert {name: kept for name, kept in contents(tmp_path).items() if name in predict.whole} == predict.whole
    finish(nursery, predict, tmp_path, frozenset(), '--restart')


# Asked to end

WORDS = {signal.SIGINT: ('interrupted', 130), signal.SIGTERM: ('terminated', 143)}


def place_of_pieces(task):
    return '*.checkpoint' if task.kept else '*/map.tif.blocks/0*'


@both
def test_asked_to_end(nursery, job, tmp_path):
    "One line on the error stream, the exit code that a shell gives to such an end, and nothing hidden left."
    task, pieces = job.task, set()
    for count, number in ((3, signal.SIGTERM), (4, signal.SIGINT)):
        word, code = WORDS[number]
        assert nursery.run(task.words(tmp_path), At(place_of_pieces(task), count, signal=number)) == code
        err = nursery.said()
        assert err.startswith(f'unetkit {task.words(tmp_path)[0]}: {word}; ') and err.count('\n') == 1, err
        assert 'the same command goes on' in err and hidden(tmp_path) == set()
        pieces = look(nursery, task, tmp_path, pieces)
        assert len(pieces) >= count - 1
    finish(nursery, job, tmp_path, pieces)


# Commands that write one file: the old one is there, or the new one

PLAIN = ['--device', 'cpu', '--precision', 'float32']


def writer(command, scene, model, folder, newer):
    "The words of a command that replaces one file, and the file; `newer` makes another content."
    pair = [scene / 'image.tif', scene / 'reference.tif']
    if command == 'evaluate':
        file = folder / 'scores.json'
        return ['evaluate', model, *pair, '--out', file, *PLAIN, *['--tta'] * newer], file
    if command == 'export':
        file = folder / 'model.onnx'
        return ['export', model, '--out', file, *['--probabilities'] * newer], file
    if command == 'inspect':
        file = folder / 'page.html'
        return ['inspect', pair[0], '--html', file, *['--model', model] * newer], file
    file = folder / 'palette.json'  # users edit it, so that the command must be told to replace it
    return ['palette', pair[1], '--out', file, '--overwrite'], file


writers = pytest.mark.parametrize('command', ['evaluate', 'export', 'inspect', 'palette'])


def needs_packages(command):
    if command == 'export':
        pytest.importorskip('onnx', reason='the extra [deploy] is not installed')


def moments_of_a_write(file):
    "Before anything is written, when the new file is ready but not in its place, and when it is in its place; and whether it is there."
    hidden_folder = f'*/.{file.name}.part'
    return [
        (At(hidden_folder, 1, 'os.mkdir'), False),
        (At(f'*/{file.name}'), False),
        (At(hidden_folder, 2, 'shutil.rmtree'), True),  # the first time, it removes what a dead process left
    ]


@writers
def test_a_writer_is_killed(nursery, scene, model, tmp_path, command):
    "The old file is whole or the new one is, never half; the same command then ends well and leaves nothing hidden."
    needs_packages(command)
    old_words, file = writer(command, scene, model, tmp_path, False)
    words, _ = writer(command, scene, model, tmp_path, True)
    assert nursery.run(words) == 0, nursery.said()
    new = file.read_bytes()
    for moment, there in moments_of_a_write(file):
        assert nursery.run(old_words) == 0, nursery.said()
        assert hidden(tmp_path) == set()
        if command == 'palette':
            file.write_text(file.read_text().replace('tree', 'wood'))
        old = file.read_bytes()
        assert old != new
        assert nursery.run(words, moment) == -signal.SIGKILL
        assert file.read_bytes() == (new if there else old)
        assert hidden(tmp_path)
        assert nursery.run(words) == 0, nursery.said()
        assert (file.read_bytes(), hidden(tmp_path)) == (new, set())
    assert list(tmp_path.iterdir()) == [file]


@writers
@pytest.mark.parametrize('number', WORDS)
def test_a_writer_is_asked_to_end(nursery, scene, model, tmp_path, command, number):
    "One line, the exit code, and either file whole; nothing hidden, also where there was no file."
    needs_packages(command)
    words, file = writer(command, scene, model, tmp_path, True)
    word, code = WORDS[number]
    for moment, _ in moments_of_a_write(file):
        moment.signal = number
        assert nursery.run(words, moment) == code
        *notes, line = nursery.said().splitlines()
        assert line == f'unetkit {command}: {word}; nothing half-written is left'
        assert all(note.startswith('note: ') for note in notes), notes
        assert hidden(tmp_path) == set()
    assert nursery.run(words) == 0, nursery.said()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize('number', WORDS)
def test_a_map_is_asked_to_end(nursery, predict, tmp_path, number):
    "While the finished blocks become one file: the map is in its place or not, nothing hidden is left, and the same command ends it."
    task, code = predict.task, WORDS[number][1]
    for moment, there in moments_of_a_write(tmp_path / 'map.tif'):
        moment.signal = number
        assert nursery.run(task.words(tmp_path), moment) == code
        assert ((tmp_path / 'map.tif').exists(), hidden(tmp_path)) == (there, set())
    finish(nursery, predict, tmp_path)


def test_what_areas_need_is_cleared_away(nursery, scene, model, tmp_path):
    "Killed while small objects are joined to their neighbours: the next run removes what was large meanwhile."
    words = ['predict', model, scene / 'image.tif', '--out', tmp_path / 'map.tif', *PLAIN]
    words += ['--areas', tmp_path / 'areas.csv', '--min-area', 0.1]
    assert nursery.run(words, At('*/sieved.npy', 1, 'open')) == -signal.SIGKILL
    assert [path for path in hidden(tmp_path) if path.suffix == '.part']
    assert nursery.run(words) == 0, nursery.said()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['areas.csv', 'map.tif', 'map.tif.aux.xml']


@pytest.fixture
def shop(tmp_path):
    "A server on this machine with a small data set, and the Python that lets a command ask it; requests are in `asked`."
    folder = tmp_path / 'shop'
    folder.mkdir()
    with zipfile.ZipFile(folder / 'chips.zip', 'w') as archive:
        for member, data in members_of_chips()[0].items():
            archive.writestr(member, data)

    with serving(folder) as server:
        total = sha256((folder / 'chips.zip').read_bytes()).hexdigest()
        server.before = f"""
from dataclasses import replace
from unetkit.fetching import SETS
os.environ['no_proxy'] = '127.0.0.1'
one = SETS['landcoverai100']
there = ('http://127.0.0.1:{server.server_port}/chips.zip',)
archive = replace(one.archives[0], addresses=there, checksum='{total}', size={(folder / 'chips.zip').stat().st_size})
SETS['landcoverai100'] = replace(one, archives=(archive,))
"""
        yield server


# While the licence is written, when the download is whole, at the second mask, when the palette is ready, and when it is in its place
FETCHING = [
    At('*/LICENCE.txt'),
    At('*.zip.part'),
    At('*/masks/*', 2, 'open'),
    At('*/palette.json'),
    At('*/.palette.json.part', 2, 'shutil.rmtree'),
]


def fetched(nursery, shop, out):
    "Left in peace, the command lays out the whole set, and leaves nothing else."
    assert nursery.run(['fetch', 'landcoverai100', '--out', out], before=shop.before) == 0, nursery.said()
    assert hidden(out.parent) == set()
    assert sorted(path.name for path in out.iterdir()) == ['LICENCE.txt', 'images', 'masks', 'palette.json']
    members = members_of_chips()[0]
    for part, stems in CHIPS.items():
        for kind, ending in (('images', '.jpg'), ('masks', '.tif')):
            names = sorted(path.name for path in (out / kind / part).iterdir())
            assert names == sorted(f'{stem}{ending}' for stem in stems)
        for stem in stems:
            assert (out / 'images' / part / f'{stem}.jpg').read_bytes() == members[f'output/{stem}.jpg']
    return contents(out)


def test_fetch_is_killed(nursery, shop, tmp_path):
    "At each moment: there is no palette before all is whole, and the same command goes on without a second download."
    whole = fetched(nursery, shop, tmp_path / 'whole')
    for count, moment in enumerate(FETCHING):
        out = tmp_path / f'{count}'
        shop.asked.clear()
        words = ['fetch', 'landcoverai100', '--out', out]
        assert nursery.run(words, moment, shop.before) == -signal.SIGKILL
        assert (out / 'palette.json').exists() == (count == len(FETCHING) - 1)
        if (out / 'palette.json').exists():
            assert whole.items() <= contents(out).items()
        assert fetched(nursery, shop, out) == whole
        assert len(shop.asked) == 1


@pytest.mark.parametrize('number', WORDS)
def test_fetch_is_asked_to_end(nursery, shop, tmp_path, number):
    "Asked at one moment after the other, the same command gets further each time; the archive is downloaded once."
    word, code = WORDS[number]
    for moment in FETCHING:
        at = At(moment.path, moment.count, moment.event, number)
        words = ['fetch', 'landcoverai100', '--out', tmp_path / 'chips']
        assert nursery.run(words, at, shop.before) == code, nursery.said()
        said = f'unetkit fetch: {word}; finished downloads are kept, the same command goes on from there\n'
        assert (nursery.said(), hidden(tmp_path)) == (said, set())
    fetched(nursery, shop, tmp_path / 'chips')
    assert len(shop.asked) == 1


# No space left


def check_gave_up(nursery, *said):
    "One line that says what could not be written and why. GDAL's library for TIFF says a reason of its own before, and cannot be stopped."
    *library, line = nursery.said().splitlines()
    assert all(words in line.lower() for words in ('unetkit', ': error: cannot write', *said)), line
    assert all(text.startswith('_tiff') for text in library), library


@both
def test_disk_fills_up(nursery, job, tmp_path):
    "From a moment on no file may be larger than 20 kB: the checkpoint is, each block is not, and what is made of the blocks is."
    pytest.importorskip('resource', reason='this system cannot limit the size of files')
    task = job.task
    moment = At(place_of_pieces(task), 4, limit=20_000)
    assert nursery.run(task.words(tmp_path), moment) == 2
    check_gave_up(nursery, '.checkpoint' if task.kept else 'map_probabilities.tif', 'free some space')
    pieces = look(nursery, task, tmp_path, set())
    assert len(pieces) >= 3 and not hidden(tmp_path)
    finish(nursery, job, tmp_path, pieces)


def mount(folder, options):
    words = ['mount', '-t', 'tmpfs', '-o', options, 'none', str(folder)]
    return not subprocess.run(words, capture_output=True).returncode


@pytest.fixture
def small_disk(tmp_path):
    "A file system in memory, if this user asked for it and may mount one."
    if os.environ.get('UNETKIT_TMPFS') != '1':
        pytest.skip('a test should not mount anything unasked: set UNETKIT_TMPFS=1 to ask for it')
    folder = tmp_path / 'disk'
    folder.mkdir()
    if not shutil.which('mount') or not mount(folder, 'size=10m'):
        pytest.skip('this user may not mount a file system')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)


def resize(folder, size):
    assert mount(folder, f'remount,rw,size={size}')


def fill_and_lock(nursery, task, folder, *said):
    "The disk is full; then it has space and becomes read-only between two pieces, as a failing one does. The pieces that are there."
    assert nursery.run(task.words(folder)) == 2
    check_gave_up(nursery, 'space', *said)
    pieces = look(nursery, task, folder, set())
    assert pieces and not hidden(folder)
    resize(folder, '10m')
    # the system refuses to make a disk read-only while a file on it is open to write, so the process stops itself where none is
    process = nursery.start(task.words(folder), At(place_of_pieces(task), 3, signal=signal.SIGSTOP))
    assert nursery.answer() == 'stopped'
    assert mount(folder, 'remount,ro')
    os.kill(process, signal.SIGCONT)
    assert int(nursery.answer()) == 2
    check_gave_up(nursery, 'read-only', *said)
    resize(folder, '10m')
    return look(nursery, task, folder, pieces)


@pytest.mark.slow
def test_training_on_a_small_disk(nursery, train, model, small_disk):
    "There is room for one checkpoint, but not for a second one beside it."
    resize(small_disk, 6 * model.stat().st_size)
    pieces = fill_and_lock(nursery, train.task, small_disk, '.checkpoint')
    finish(nursery, train, small_disk, pieces)


@pytest.mark.slow
def test_map_on_a_small_disk(nursery, predict, small_disk):
    "There is room for half of the blocks, and later for all of them, but not for the map."
    resize(small_disk, '100k')
    pieces = fill_and_lock(nursery, predict.task, small_disk, '.tif')
    resize(small_disk, '230k')
    assert nursery.run(predict.task.words(small_disk)) == 2
    check_gave_up(nursery, 'space', 'map')
    assert len(look(nursery, predict.task, small_disk, pieces)) == count_blocks(small_disk)
    resize(small_disk, '10m')
    finish(nursery, predict, small_disk, pieces)


# Killed again and again, from outside, at random moments


def runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def after(seconds):
    return lambda process, folder: time.sleep(seconds)


def in_a_write(process, folder):
    "Wait until the process begins to write something."
    before = half(folder)
    while runs(process) and not half(folder) - before:
        time.sleep(0.0002)


def strike(nursery, task, folder, moment, number):
    "Start a command, send a signal at a moment, and return how the process ended; one that ended by itself needs no signal."
    process = nursery.start(task.words(folder))
    moment(process, folder)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
    return int(nursery.answer())


CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


def kill_often(nursery, job, folder, kills, seed, number=signal.SIGKILL, in_writes=0):
    """Kill a run, start it again, and so on, until there were so many kills, and so many of them in the middle of a write.

    A run that gets through between two kills is compared and a new one begins. Where the kills fall is chance and counted; how many are wanted is not.
    On a machine that is faster now than for the undisturbed run, signals would come too late: after a run that got through they come earlier."""
    task, pieces, tally = job.task, set(), Counter()
    rng, latest = np.random.default_rng(seed), max(0.5, job.seconds / 2)
    while tally['kills'] < kills or tally['in a write'] < in_writes:
        tally['starts'] += 1
        assert tally['starts'] < 10 * (kills + in_writes), f'too few signals arrived: {tally}'
        before = half(folder)
        moment = after(rng.uniform(0, latest)) if tally['kills'] < kills else in_a_write
        ended = strike(nursery, task, folder, moment, number)
        done = 'wrote' in nursery.printed() or (folder / 'map.tif').exists()
        # before the program has set itself up, and after it has finished, a signal ends it the hard way
        hard = ended == -number and (done or not nursery.printed())
        assert ended in (0, CODES[number]) or hard, (ended, nursery.said())
        assert ended < 0 or not hidden(folder), hidden(folder)
        tally['kills'] += ended != 0
        latest *= 1 if ended else 0.8
        tally['in a write'] += bool(half(folder) - before)
        if not done:
            pieces = look(nursery, task, folder, pieces)
            continue
        assert job.whole.items() <= contents(folder).items()
        if not task.kept:  # some blocks may still lie beside the map
            finish(nursery, job, folder)
        shutil.rmtree(folder)
        pieces = set()
    finish(nursery, job, folder, pieces)


@pytest.fixture(scope='module')
def long(nursery, scene, place):
    return undisturbed(nursery, training(scene, 60), place / 'long-whole')


@pytest.fixture(scope='module')
def report(nursery, scene, place):
    return undisturbed(nursery, reporting(scene), place / 'report-whole')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('job', 'kills', 'in_writes'), [('long', 10, 1), ('report', 4, 0), ('predict', 10, 1)], indirect=['job']
)
def test_killed_again_and_again(nursery, job, kills, in_writes, tmp_path):
    kill_often(nursery, job, tmp_path / 'run', ROUNDS * kills, seed=0, in_writes=ROUNDS * in_writes)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(('job', 'times'), [('long', 2), ('predict', 3), ('report', 1)], indirect=['job'])
def test_asked_again_and_again(nursery, job, times, number, tmp_path):
    kill_often(nursery, job, tmp_path / 'run', ROUNDS * times, number, number)


@pytest.mark.slow
def test_fresh_interpreters(nursery, long, tmp_path):
    "Once more without the nursery: a fresh interpreter each time, as in a terminal."
    console = [sys.executable, '-c', 'import sys; from unetkit.cli import main; sys.exit(main())']
    task, pieces = long.task, set()
    for count, number in ((3, signal.SIGKILL), (20, signal.SIGTERM)):
        with nursery.out.open('w') as out, nursery.err.open('w') as err:
            words = [*console, *map(str, task.words(tmp_path))]
            fresh = subprocess.Popen(words, stdout=out, stderr=err, env=child_environment())
        while fresh.poll() is None and len(task.pieces(tmp_path)) < count:
            time.sleep(0.01)
        fresh.send_signal(number)
        assert (fresh.wait(), nursery.said().count('Traceback')) == (CODES[number], 0)
        pieces = look(nursery, task, tmp_path, pieces)
        assert count <= len(pieces) < 60
    finish(nursery, long, tmp_path, pieces)
