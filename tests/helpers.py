"Run the commands of unetkit from a test, and look at what they print and what they leave on the disk."

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

import unetkit
from unetkit import scale
from unetkit.cli import main
from unetkit.labels import ISPRS, labels_to_colours
from unetkit.raster import Georeference, write_image

ROOT = Path(__file__).resolve().parent.parent
# how often what is tried at random is tried, beside once; weekly.yml asks for more
ROUNDS = int(os.environ.get('UNETKIT_ROUNDS', '1'))
# a network so small that a command takes a second, with everything set that decides a result
TINY = '--width 4 --depth 2 --epochs 1 --device cpu --precision float32'.split()


def shell(*words):
    "Run a command in this process, as the console script does: exit code, standard output, standard error."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def succeeds(*words):
    "Run a command that must end with code 0 and an empty standard error; return what it printed."
    code, out, err = shell(*words)
    assert (code, err) == (0, '')
    return out


# for a child: every block of a map takes so many seconds more
SLOW_BLOCKS = """
import time, unetkit.scale as scale
def slowly(*how, make=scale.block_predictor, **more):
    predict = make(*how, **more)
    return lambda *block: (time.sleep({seconds}), predict(*block))[1]
scale.block_predictor = slowly
"""


def before_each_block(act):
    "What replaces `scale.block_predictor` so that `act` is called before a block is predicted."

    def make(*how, make=scale.block_predictor, **more):
        predict = make(*how, **more)
        return lambda *block: (act(), predict(*block))[1]

    return make


def start_process(*words, program='from unetkit.cli import main; sys.exit(main())', **variables):
    "Start a command in an interpreter of its own, with the usual meaning of Ctrl-C."
    usual = 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); '
    return subprocess.Popen(
        [sys.executable, '-c', usual + program, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(**variables),
    )


def child_environment(**variables):
    "The environment of this process, in which a child imports the same unetkit and has as many threads (tests/conftest.py)."
    paths = os.pathsep.join([str(Path(unetkit.__file__).parent.parent), os.environ.get('PYTHONPATH', '')])
    return os.environ | {'PYTHONPATH': paths} | variables


def disk(*folders):
    "All paths below some folders, hidden ones included, each with the checksum of its content. Sparse giants count by size."

    def fingerprint(path):
        if not path.is_file():
            return ''
        size = path.stat().st_size
        return size if size > 2**27 else hashlib.md5(path.read_bytes()).hexdigest()

    return {path.as_posix(): fingerprint(path) for folder in folders for path in Path(folder).rglob('*')}


def check_line(err, *said):
    "Standard error must be one printable line of the program that holds the given words; notes may stand above it."
    *notes, err = err.splitlines(keepends=True)
    assert all(note.startswith('note: ') and note[:-1].isprintable() for note in notes), notes
    assert err.startswith('unetkit') and err.endswith('\n') and err[:-1].isprintable() and len(err) < 900, err
    for words in said:
        assert words in err, f'{words!r} is not in: {err}'


def check_refusal(folders, words, said):
    "A command must end with code 2 and one line that holds the words `said`, and change nothing on the disk."
    before = disk(*folders)
    code, out, err = shell(*words)
    shares = all(line.startswith(('training: ', 'test: ')) for line in out.splitlines())  # of the labels
    assert code == 2 and shares, (code, out, err)
    check_line(err, *said)
    assert disk(*folders) == before


def make_tile(bands=3, dtype=np.uint8, classes=range(5), height=96, width=128):
    "Squares of 16 pixels with a class each, whose number sets the brightness of all bands, under noise: image, labels."
    rng = np.random.default_rng(0)
    labels = rng.choice(classes, (height // 16, width // 16)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    image = labels[..., None] % 8 * 30 + rng.integers(0, 60, (height, width, bands))
    return (image * (np.iinfo(dtype).max // 255)).astype(dtype), labels


def write_tile(folder, image, labels):
    "Write a tile as two GeoTIFF files; labels of 255 become black, which the palette does not score."
    folder.mkdir(parents=True, exist_ok=True)
    place = Georeference(None, (0.09, 0, 0, 0, -0.09, 0))
    write_image(folder / 'image.tif', image, place)
    write_image(folder / 'reference.tif', labels_to_colours(labels, ISPRS), place)
    return folder


def report_job(train, test, out, *options):
    "The words of `unetkit report` on two tiles, for one tiny model."
    files = []
    for role, tile in (('train', train), ('test', test)):
        for kind in ('image', 'reference'):
            files += [f'--{role}-{kind}', tile / f'{kind}.tif']
    return ['report', *files, '--out', out, '--patch-sizes', '32', *TINY, *options]


@contextlib.contextmanager
def serving(folder):
    "A server of a folder on this machine; its `asked` lists the requests."

    class Shop(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            server.asked.append(self.path)

    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Shop, directory=folder))
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


CHIPS = {part: [f'N-33_{part}_{number}' for number in range(2)] for part in ('train', 'val', 'test')}


def encoded(pixels, kind):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def members_of_chips():
    "What landcoverai100.zip holds, small: chips, masks with three equal bands as OpenCV writes them, and lists."
    rng, members, numbers = np.random.default_rng(0), {}, {}
    for part, stems in CHIPS.items():
        members[f'{part}.txt'] = '\n'.join(stems) + '\n'
        for stem in stems:
            numbers[stem] = rng.integers(0, 5, (64, 64), np.uint8)
            members[f'output/{stem}.jpg'] = encoded(numbers[stem][..., None].repeat(3, 2) * 50, 'JPEG')
            members[f'output/{stem}_m.png'] = encoded(numbers[stem][..., None].repeat(3, 2), 'PNG')
    return members, numbers
