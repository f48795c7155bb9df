"""Every command and every line of Python in README.md is run as it is printed, on small tiles of the names that it uses.

What trains is made short here; the slow tests run it as it stands. The lines that install are run by CI, and the first of them makes a checkout here."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio
from helpers import ROOT, child_environment, succeeds

from unetkit import cli
from unetkit.cli import COMMANDS
from unetkit.datasets import Reading
from unetkit.experiments import ModelPipeline
from unetkit.palettes import ISPRS
from unetkit.products import write_polygons
from unetkit.raster import write_image
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings

TEXT = (ROOT / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(\w*)\n(.*?)^```$', TEXT, re.M | re.S)
CLONE, *LINES = [
    line for language, body in BLOCKS if language == 'bash' for line in body.splitlines() if line
]
INSTALLS = [line for line in LINES if line.startswith('pip ')]
COMMAND_LINES = [line for line in LINES if line not in INSTALLS]
PYTHON = '\n'.join(body for language, body in BLOCKS if language == 'python')


def command(line):
    return re.search(r'\bunetkit (\w+)', line)[1]


def several(line):
    "Is a line for several processes or machines?"
    return line.startswith('torchrun') or '--scheduler' in line


def test_blocks():
    "Blocks are shell or Python; one without a language is what Python printed."
    assert {language for language, _ in BLOCKS} <= {'bash', 'python', ''}
    assert len(COMMAND_LINES) >= 5 and PYTHON
    assert [line for line in COMMAND_LINES if command(line) not in COMMANDS] == []


def test_order():
    "The two commands come before everything else."
    parts = [*INSTALLS, *re.findall(r'^## .*(?:[Ll]essons|Limits|Licence).*$', TEXT, re.M)]
    places = [TEXT.index(part) for part in parts]
    assert places == sorted(places) and TEXT.index('](nbs/images/') < TEXT.index('## ')


def test_code_within_prose():
    "No command hides in a sentence, where it would escape these tests; options and files exist."
    prose = re.sub(r'^```.*?^```$', '', TEXT, flags=re.M | re.S)
    inline = re.findall(r'`([^`\n]+)`', prose)
    hidden = re.compile(r'(pip|python3?|git|jupyter|torchrun|nbdev_\w+) ')
    assert [code for code in inline if hidden.match(code)] == []
    parameters = set()
    for function in (*COMMANDS.values(), Settings, Reading):
        parameters |= set(inspect.signature(function).parameters)
    assert [c for c in inline if c.startswith('unetkit ') and c.split()[1] not in COMMANDS] == []
    assert [c for c in inline if c.startswith('--') and c[2:].replace('-', '_') not in parameters] == []
    files = [c for c in inline if re.match(r'(\.ci|nbs|tests|scripts)/', c)]
    assert [c for c in files if not (ROOT / c).exists()] == []


def test_lines_that_install():
    "Two lines: the checkout with the main job, and the checkout with everything for contributors, tested by nbdev_test."
    assert [line.split(' && ')[0] for line in INSTALLS] == [
        'pip install -c .ci/constraints.txt -e .',
        "pip install -c .ci/constraints.txt -e '.[dev]'",
    ]
    assert [line.split(' && ')[1] for line in INSTALLS] == ['unetkit report', 'nbdev_test']
    for end in ('unetkit report', 'pytest'):  # .ci/run finds the two commands so
        assert len(re.findall(rf'^pip install .*&& {end}$', TEXT, re.M)) == 1


@pytest.mark.parametrize('line', COMMAND_LINES)
def test_lines_parse(line):
    words = line.split()
    name, *options = words[words.index('unetkit') + 1 :]
    cli._parser(COMMANDS[name]).parse_args(options)


# A folder as README imagines it, and a shell that finds this Python's programs


def run_shell(line, folder):
    "What a line prints; an error with its last words if it fails."
    environment = child_environment()
    environment['PATH'] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(['bash', '-c', line], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{line}: exit code {done.returncode}: {done.stderr[-2000:]}')
    return done.stdout


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Three scenes with their references, small, but larger than the largest patch of the report."
    folder = tmp_path_factory.mktemp('readme')
    for seed, name in enumerate(('a', 'b', 'county'), 1):
        succeeds('scene', '--out', folder / name, '--height', 256, '--width', 320, '--seed', seed)
        shutil.move(folder / name / 'image.tif', folder / f'{name}.tif')
        shutil.move(folder / name / 'reference.tif', folder / f'{name}_ref.tif')
    shutil.copy(folder / 'b.tif', folder / 'ortho.tif')
    (folder / 'submissions').mkdir()
    shutil.copy(ROOT / 'nbs/solutions/receptive.ipynb', folder / 'submissions')
    tile = synthetic_scene(256, 320, seed=2)  # that is b
    write_polygons(folder / 'fields.geojson', tile.labels, ISPRS, georeference=tile.georeference)
    for number in range(8):
        chip = synthetic_scene(128, 128, seed=10 + number)
        write_image(folder / 'chips' / 'images' / f'{number}.tif', chip.image)
        write_image(folder / 'chips' / 'masks' / f'{number}.tif', chip.labels[..., None])
    return folder


def test_a_line_that_fails(folder):
    with pytest.raises(RuntimeError, match='exit code 2'):
        run_shell('exit 2', folder)
    with pytest.raises(RuntimeError, match='exit code 127'):
        run_shell('unetkit-report', folder)


def test_clone(tmp_path):
    "The first line fetches the repository; here it comes from this checkout, so that the line runs without a network."
    address = 'https://github.com/unetkit/unetkit'
    assert CLONE.startswith(f'git clone {address} && cd unetkit && ')
    if not (ROOT / '.git').exists():
        pytest.skip('this checkout is no git repository')
    local = CLONE.replace(f'git clone {address}', f'git clone --quiet --depth 1 file://{ROOT} unetkit')
    run_shell(local.replace('python3 -m venv', 'python3 -m venv --without-pip'), tmp_path)
    assert (tmp_path / 'unetkit/LICENSE').read_bytes() == (ROOT / 'LICENSE').read_bytes()
    assert (tmp_path / 'unetkit/.venv/bin/python').exists()


SHORT = {'train': ' --epochs 1 --width 4 --depth 2'}
SHORT['tune'] = ' --minutes 0.4 --width 2 --depth 2 --patch-size 32 --batch-size 2'
SHORT['report'] = SHORT['train'] + ' --patch-sizes 128'


@pytest.fixture(scope='module')
def printed(folder):
    "What the lines for one process printed, run in their order, for later ones need what earlier ones wrote."
    once = [line for line in COMMAND_LINES if not several(line)]
    once.sort(key=lambda line: command(line) != 'palette')  # an explanation follows the lines that need it
    return {line: run_shell(line + SHORT.get(command(line), ''), folder) for line in once}


def is_map(path, image):
    "Does a file hold one band with colours on the ground of the image?"
    with rasterio.open(path) as made, rasterio.open(image) as given:
        same = (made.shape, made.crs, made.transform) == (given.shape, given.crs, given.transform)
        return same and made.count == 1 and bool(made.colormap(1))


def test_shell_lines(folder, printed):
    assert is_map(folder / 'map.tif', folder / 'b.tif')
    for name in ('report.html', 'scores.json', 'scores.csv', 'label_map_128.tif', 'model_128.safetensors'):
        assert (folder / 'report' / name).exists(), name
    for name in (
        'chips.safetensors',
        'fields.safetensors',
        'page.html',
        'map.geojson',
        'areas.csv',
        'tuned.safetensors',
        'grades.csv',
    ):
        assert (folder / name).exists(), name
    (scores,) = [text for line, text in printed.items() if ' evaluate ' in line]
    assert all(name in scores for name in (*ISPRS.names, 'accuracy'))


QUICK = """
from unetkit import experiments
whole = experiments.ModelPipeline.__init__
def short(self, palette, settings=None, **changes):
    whole(self, palette, settings, **changes | dict(epochs=1, width=4, depth=2))
experiments.ModelPipeline.__init__ = short
"""


def form(scores):
    "The first words of the rows of a table of scores."
    return [line.split('  ')[0] for line in scores[scores.index('class ') :].splitlines()[:-1]]


def check_program(where, prelude=''):
    "All blocks are one program; its scores have the form of those in README, and the numbers depend on the processor."
    where.mkdir(exist_ok=True)
    (where / 'program.py').write_text(prelude + PYTHON, encoding='utf-8')
    scores = run_shell('python program.py', where)
    shown = [body for language, body in BLOCKS if not language and 'class ' in body]
    assert all(form(scores) == form(body) for body in shown)
    assert all(name in scores for name in ISPRS.names)
    assert list(where.glob('*.safetensors')) and (where / 'map.tif').exists()
    return scores


@pytest.mark.slow
def test_python(tmp_path):
    "As printed, on one thread: the map is better than always the commonest class."
    scores = check_program(tmp_path)
    rows = scores[scores.index('class ') :].splitlines()
    pixels = [int(row.split()[-1]) for row in rows[1:-1]]
    accuracy = float(re.search(r'^accuracy ([\d.]+)', rows[-1])[1])
    assert len(pixels) == ISPRS.num_classes and accuracy > 100 * max(pixels) / sum(pixels)
    with rasterio.open(tmp_path / 'map.tif') as raster:
        assert (raster.height * raster.width, raster.count) == (sum(pixels), 1) and raster.colormap(1)
    loaded = ModelPipeline.load(tmp_path / 'model.safetensors')
    assert loaded.palette == ISPRS and len(loaded.history) > 1


def test_python_on_tiles_of_ones_own(folder, tmp_path):
    for path in folder.glob('*.tif'):
        shutil.copy(path, tmp_path)
    check_program(tmp_path, QUICK)


@pytest.mark.slow
def test_several_processes_and_machines(folder, monkeypatch):
    "The scheduler's address is replaced by that of one which is started here; everything else is as printed."
    distributed = pytest.importorskip('dask.distributed', reason='the extra [scale] is not installed')
    if not (folder / 'model.safetensors').exists():
        run_shell(COMMAND_LINES[0] + SHORT['train'], folder)
    monkeypatch.chdir(folder)  # workers look for files where they were started
    local = dict(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50)
    with distributed.LocalCluster(**local) as cluster:
        for line in filter(several, COMMAND_LINES):
            here = re.sub(r'tcp://[\d.:]+', cluster.scheduler_address, line)
            run_shell(here + SHORT.get(command(line), ''), folder)
    assert is_map(folder / 'map.tif', folder / 'county.tif')


@pytest.mark.slow
def test_training_as_it_stands(folder):
    "The first training, without the shortening. The others differ in their files, which the short runs read; `report` in full is a session of its own."
    first = next(line for line in COMMAND_LINES if command(line) == 'train')
    for left in folder.glob('*.safetensors*'):  # of another run, which a training does not replace unasked
        left.unlink()
    assert 'accuracy' in run_shell(first, folder)
