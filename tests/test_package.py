"""The package keeps its promises: one version, floors and no caps, modules in their order, modules that work without torch, types that a client sees, notebooks
that say what they are, and an extension in one place.

What only shows in a fresh environment, outside the checkout, is tested by `nox -s wheel`."""

import ast
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections import defaultdict
from configparser import ConfigParser
from importlib.metadata import entry_points, metadata, version
from pathlib import Path

import pytest
from helpers import ROOT, child_environment
from packaging.requirements import Requirement

import unetkit
from unetkit.records import demo_model

yaml = pytest.importorskip('yaml', reason='PyYAML reads the workflows; it comes with jupyterlab in [dev]')
PACKAGE = Path(unetkit.__file__).parent


def read_settings():
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


SETTINGS = read_settings()


# One version


def test_version_stands_in_one_place():
    "settings.ini holds it; nbdev writes it into the package, and setup.py into what pip knows."
    assert {unetkit.__version__, version('unetkit')} == {SETTINGS['version']}
    for pattern in ('*.cff', '*.py', '*.toml', '*.in', '*.cfg'):
        for path in ROOT.glob(pattern):
            assert SETTINGS['version'] not in path.read_text(encoding='utf-8'), path.name
    assert f"## [{SETTINGS['version']}]" in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')


def test_console_script():
    scripts = entry_points(group='console_scripts', name='unetkit')
    assert [entry.value for entry in scripts] == ['unetkit.cli:main']


# Floors, never caps: a cap on torch or numpy would replace what somebody has, in Colab under a running kernel

EXTRAS = {
    key.removesuffix('_requirements'): text.split()
    for key, text in SETTINGS.items()
    if key.endswith('_requirements')
}


def not_a_floor(texts):
    "Requirements that have more than a floor, or none."
    wrong = []
    for text in texts:
        r = Requirement(text)
        if [clause.operator for clause in r.specifier] != ['>='] or r.marker or r.url:
            wrong.append(str(r))
    return wrong


def test_floors():
    found = not_a_floor(['a>=1', 'b>=1,<2', 'c', 'd==1', 'e[x]>=2', "f>=1; python_version<'3.11'"])
    assert found == ['b<2,>=1', 'c', 'd==1', 'f>=1; python_version < "3.11"']
    assert not_a_floor(SETTINGS['requirements'].split()) == []
    assert {'dev', 'docs', 'scale', 'onnx'} <= EXTRAS.keys()
    for name, texts in EXTRAS.items():
        if name != 'dev':  # contributors work in an environment of their own, with nbdev pinned
            assert not_a_floor(texts) == [], name


def test_no_requirement_replaces_torch():
    "These bring a build of torch of their own."
    texts = sum(EXTRAS.values(), SETTINGS['requirements'].split())
    replace = 'segmentation-models-pytorch timm torchvision torchgeo fastai lightning albumentations'
    assert {Requirement(text).name.lower() for text in texts} & set(replace.split()) == set()


# Modules in their order. The order is read off the imports: a module stands above all that it imports, so an order exists if nothing goes in a circle; what is
# more than that is said here, as rules.


def imported(text):
    "Modules of the package that a text imports, inside functions as well."
    found = set()
    for node in ast.walk(ast.parse(text)):
        names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            path = 'unetkit.' + (node.module or '') if node.level else node.module
            whole = path.rstrip('.') == 'unetkit'
            names = [f'unetkit.{name}' for name in names] if whole else [path]
        found |= {name.split('.')[1] for name in names if name.startswith('unetkit.')}
    return {name for name in found if not name.startswith('__')}


MODULES = {
    '.'.join(path.relative_to(PACKAGE).with_suffix('').parts): path.read_text(encoding='utf-8')
    for path in sorted(PACKAGE.rglob('*.py'))
    if path.name[0] != '_'
}
USES = {name: imported(text) for name, text in MODULES.items()}
WITHOUT_TORCH = (
    'rules check plots raster tiles archives scenes palettes labels metrics intervals patches'.split()
)


def test_imported():
    "All ways to write an import."
    text = 'from . import __version__, tiles\nfrom .patches import A\nimport unetkit.cli as c\nfrom unetkit.labels import B\nimport numpy'
    assert imported(text) == {'tiles', 'patches', 'cli', 'labels'}
    text = 'def f():\n    from ..check import Checker\n    from unetkit import scenes'
    assert imported(text) == {'check', 'scenes'}


def order_of(uses):
    "Names so that each comes after all that it uses; raises ValueError with a circle."
    order, path = [], []

    def visit(name):
        if name in path:
            raise ValueError(' -> '.join([*path[path.index(name) :], name]))
        if name not in order:
            path.append(name)
            for other in sorted(uses[name]):
                visit(other)
            path.pop()
            order.append(name)

    for name in uses:
        visit(name)
    return order


def test_no_circles():
    with pytest.raises(ValueError, match='a -> b -> a'):
        order_of({'a': {'b'}, 'b': {'a'}})
    assert order_of({'b': {'a'}, 'a': set()}) == ['a', 'b']
    assert set(order_of(USES)) == set(USES)


def test_order_of_the_lessons():
    "A module of a lesson does not use the module of a later one."
    homes = defaultdict(lambda: -1)  # modules of the library's notebooks stand anywhere between
    for path in (ROOT / 'nbs').glob('[0-9]*.ipynb'):
        found = re.search(r'#\| default_exp (\w+)', path.read_text(encoding='utf-8'))
        if found:
            homes[found[1]] = int(path.name[:2])
    assert len(homes) >= 8
    late = {name: [u for u in used if homes[u] > homes[name] >= 0] for name, used in USES.items()}
    assert {name: found for name, found in late.items() if found} == {}


def test_table_of_the_modules():
    "CONTRIBUTING names every module once, with its notebook, and each imports only from those above it."
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| `(\w+)` \| (library|lesson \d\d) \|', text, re.M)
    names = [name for name, _ in rows]
    assert sorted(names) == sorted(name for name in USES if '.' not in name), (
        'the table of CONTRIBUTING has a row for every module, once'
    )
    below = {name: USES[name] - set(names[:place]) for place, name in enumerate(names)}
    assert {name: found for name, found in below.items() if found} == {}
    for name, home in rows:
        notebook = f'library/{name}' if home == 'library' else f'{home[-2:]}_*'
        (path,) = (ROOT / 'nbs').glob(f'{notebook}.ipynb')
        assert f'#| default_exp {name}' in path.read_text(encoding='utf-8')


def borrowed_privately(text):
    "Private names that a module takes from another of the package."
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    own = [node for node in nodes if node.level or (node.module or '').startswith('unetkit')]
    return [name for node in own for name in (one.name for one in node.names) if re.match('_[^_]', name)]


def test_private_names_stay_at_home():
    "What a second module needs is public, and so documented."
    found = borrowed_privately(
        'from . import __version__\nfrom .tiles import Tile, _one\nfrom os import _exit'
    )
    assert found == ['_one']
    borrowed = {name: borrowed_privately(text) for name, text in MODULES.items()}
    assert {name: found for name, found in borrowed.items() if found} == {}


def test_ends_of_the_order():
    "Nothing stands on `widgets` or `cli`; `check`, `plots` and `rules` stand on nothing but `rules`."
    used = set().union(*USES.values())
    assert used & {'widgets', 'cli'} == set()
    for name in ('rules', 'check', 'plots'):
        assert USES[name] <= {'rules'}, name


def test_checkers_are_not_used():
    assert 'checkers' not in set().union(*USES.values())
    assert any(name.startswith('checkers.') for name in USES)


# Without torch

BLOCK = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'torch': raise ModuleNotFoundError('there is no torch', name=name)
sys.meta_path.insert(0, NoTorch())
"""
WORK = """
import matplotlib; matplotlib.use('Agg')
from unetkit import labels, metrics, patches, plots, scenes
tile = scenes.synthetic_scene(96, 128, seed=1)
windows = patches.grid_windows([tile.size], 32, 16)
assert patches.coverage(windows, 0, tile.size).min() >= 1
assert metrics.Scores(metrics.confusion_matrix(tile.labels, tile.labels, 5)).accuracy == 1
plots.show_labels(tile.labels, labels.ISPRS)
"""


def run_python(program):
    return subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, env=child_environment()
    )


def importing(names):
    return 'import sys, ' + ', '.join(f'unetkit.{name}' for name in names if name in MODULES)


def test_works_without_torch():
    "An interpreter is told that there is none; a module that needs it shows that the interpreter obeys."
    assert 'there is no torch' in run_python(BLOCK + importing(['losses'])).stderr
    done = run_python(BLOCK + importing(WITHOUT_TORCH) + '\n' + WORK)
    assert (done.returncode, done.stderr) == (0, '')


def test_torch_is_not_loaded_unasked():
    "It takes seconds."
    free = "\nassert 'torch' not in sys.modules"
    assert 'AssertionError' in run_python(importing(['losses']) + free).stderr
    done = run_python(importing(WITHOUT_TORCH) + free)
    assert (done.returncode, done.stderr) == (0, '')


def test_front_door_is_light():
    "`import unetkit` loads neither numpy nor torch, and every name of it leads somewhere."
    done = run_python("import sys, unetkit\nassert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)")
    assert (done.returncode, done.stderr) == (0, '')
    for name in unetkit.__all__:
        assert getattr(unetkit, name) is not None


# Typed, complete, documented


def test_all_data_are_packed():
    "py.typed, and the recorded results: what setup.py does not pack would be missing in the wheel and in no test of the checkout."
    setup = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
    keywords = [k for node in ast.walk(setup) if isinstance(node, ast.Call) for k in node.keywords]
    (packed,) = (k.value for k in keywords if k.arg == 'package_data')
    patterns = [node.value for node in ast.walk(packed) if isinstance(node, ast.Constant)]
    found = {path for pattern in patterns if pattern != 'lib_path' for path in PACKAGE.glob(pattern)}
    data = {path for path in PACKAGE.rglob('*') if path.is_file() and path.suffix not in ('.py', '.pyc')}
    assert data - found == set()
    assert PACKAGE / 'py.typed' in data and len(data) > 10


def test_links_of_the_package_page():
    "A page outside the repository shows README too, and a link into the checkout leads nowhere there: setup.py makes them absolute."
    shown = metadata('unetkit').get_payload() or metadata('unetkit')['Description']
    assert re.search(r'/blob/main/nbs/\d\d_\w+\.ipynb\)', shown) and '/raw/main/nbs/images/' in shown
    assert re.findall(r'\]\(nbs/[^)]*\)', shown) == []


def documented(function, lines):
    "Parameters of a function without a comment on their line, and 'return' if the returned value has none."
    args = function.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    bare = [a.arg for a in every if a and a.arg not in ('self', 'cls') and '#' not in lines[a.end_lineno - 1]]
    returns = function.returns
    silent = returns is None or (isinstance(returns, ast.Constant) and returns.value is None)
    below = '' if silent else ''.join(lines[returns.lineno - 1 : function.body[0].lineno - 1])
    return bare + (['return'] if not silent and '#' not in below else [])


@pytest.mark.parametrize('module', [name for name in MODULES if not name.startswith('checkers.')])
def test_docments(module):
    "Every parameter and return value of an exported function has a comment beside it, and every function a docstring."
    tree, lines = ast.parse(MODULES[module]), MODULES[module].splitlines()
    exported = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__'
        ),
        [],
    )
    faults = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in exported:
            missing = documented(node, lines) + ([] if ast.get_docstring(node) else ['docstring'])
            if missing:
                faults[node.name] = missing
    assert faults == {}


def test_comments_over_several_lines(monkeypatch, tmp_path):
    "The site shows the comment of a parameter or result whose annotation takes several lines."
    pytest.importorskip('docutils', reason='docutils comes with the tools that build the site')
    monkeypatch.setenv('UNETKIT_SITE', str(tmp_path))
    comments = runpy.run_path(str(ROOT / 'docs' / 'conf.py'))['comments']

    # fmt: off
    def pick(
        image: str
        | Path,  # An image
        *,
        side: int = 64,  # Its side
    ) -> tuple[
        int, int
    ]:  # Two numbers
        "Pick."
    # fmt: on

    assert comments(pick) == {'image': 'An image', 'side': 'Its side', 'return': 'Two numbers'}


# Notebooks

NOTEBOOKS = {
    path.relative_to(ROOT / 'nbs').as_posix(): path
    for path in sorted((ROOT / 'nbs').rglob('*.ipynb'))
    if not any(part.startswith(('.', '_')) for part in path.relative_to(ROOT / 'nbs').parts)
}


def test_code_is_executed_once_and_in_form():
    "No execution counts, no widget state, no error among the outputs, and none of a cell that is the reader's to fill."
    for name, path in NOTEBOOKS.items():
        notebook = json.loads(path.read_text(encoding='utf-8'))
        assert 'widgets' not in notebook['metadata'], f'{name}: delete "widgets" from its metadata'
        for cell in notebook['cells']:
            if cell['cell_type'] == 'code':
                assert cell['execution_count'] is None, (name, cell['id'])
                waits = '#| eval: false' in ''.join(cell['source'])
                assert not (waits and cell['outputs']), (name, cell['id'], 'clear its output')
                assert all(o['output_type'] != 'error' for o in cell['outputs']), (name, cell['id'])


# A path of one's own machine, or the host of a package index: what is written there helps nobody else
PRIVATE = re.compile(r'(?<![\w.])/(?:home|root|Users|tmp)/\w+|https?://\S*/simple\b')


def test_no_machine_in_the_files():
    assert PRIVATE.search('/home/anna/data') and PRIVATE.search('http://mirror.local/simple/torch')
    listed = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split('\0')
    faults = []
    for name in filter(None, listed):
        path = ROOT / name
        if name.startswith('tests/') or not path.is_file() or path.suffix in ('.png', '.tif', '.safetensors'):
            continue
        for found in PRIVATE.findall(path.read_text(encoding='utf-8', errors='replace')):
            faults.append((name, found))
    assert faults == []


# Workflows


def read_yaml(path):
    return yaml.safe_load(path.read_text(encoding='utf-8'))


FLOWS = {path.stem: read_yaml(path) for path in sorted((ROOT / '.github/workflows').glob('*.yml'))}
PINNED = re.compile(
    r'((actions|lycheeverse)/[\w-]+@v\d+|pypa/gh-action-pypi-publish@release/v\d+)|\./\.github/workflows/\w+\.yml'
)


def flow_faults(flow):
    "What is wrong with a workflow: actions are pinned by their major version, every job ends at some time, runs do not pile up, and the default is to read."
    faults = []
    if flow.get('permissions') not in ({}, {'contents': 'read'}):
        faults.append('a job may do more than read by default')
    if 'concurrency' not in flow:
        faults.append('runs pile up')
    for name, job in flow['jobs'].items():
        if 'uses' not in job and 'timeout-minutes' not in job:
            faults.append(f'{name} may run for ever')
        for step in [job, *job.get('steps', [])]:
            if 'uses' in step and not PINNED.fullmatch(step['uses']):
                faults.append(f"{name}: {step['uses']} is not pinned by its major version")
    return faults


def test_flow_faults():
    bad = (
        'permissions: write-all\njobs: {a: {steps: [{uses: actions/checkout@main}, {uses: someone/else@v1}]}}'
    )
    assert len(flow_faults(yaml.safe_load(bad))) == 5


@pytest.mark.parametrize('name', FLOWS)
def test_workflow(name):
    assert flow_faults(FLOWS[name]) == []
    text = (ROOT / f'.github/workflows/{name}.yml').read_text(encoding='utf-8')
    assert not re.search(r'\bsecrets\b', text)


def sessions():
    text = (ROOT / 'noxfile.py').read_text(encoding='utf-8')
    return set(re.findall(r'^@nox\.session.*?^def (\w+)', text, re.M | re.S))


def test_workflows_call_sessions():
    "What runs on GitHub can be run at home: a check is a session of nox."
    called = set()
    for flow in FLOWS.values():
        for job in flow['jobs'].values():
            for step in job.get('steps', []):
                for words in re.findall(
                    r'\bnox -s ([^\n|&;]+)', re.sub(r'\$\{\{.*?\}\}', '', step.get('run', ''))
                ):
                    called |= {
                        re.split(r'\W', word.strip('\'"'))[0] for word in words.split(' -- ')[0].split()
                    }
    assert called and called - {''} <= sessions()
    assert {'lint', 'tests', 'slow', 'processors'} <= called


def test_every_python_is_tested():
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    named = ast.literal_eval(re.search(r'^PYTHONS = (.+)$', setup, re.M)[1])
    assert FLOWS['ci']['jobs']['tests']['strategy']['matrix']['python'] == named
    assert named[0] == SETTINGS['min_python']


def test_other_files_can_be_read():
    for path in [*(ROOT / '.github').rglob('*.yml'), ROOT / '.pre-commit-config.yaml', ROOT / 'CITATION.cff']:
        assert isinstance(read_yaml(path), dict), path
    hooks = read_yaml(ROOT / '.pre-commit-config.yaml')['repos']
    assert {hook['language'] for repo in hooks for hook in repo['hooks']} == {'system'}
    citation = read_yaml(ROOT / 'CITATION.cff')
    assert {'cff-version', 'message', 'title', 'authors'} <= citation.keys()
    assert (citation['repository-code'], citation['license']) == (SETTINGS['git_url'], 'Apache-2.0')


# An extension in one place

LOSS = '''
def squared_error(logits, targets, weights=None):
    "A loss that nobody needs."
    scored = targets != 255
    shares = logits.softmax(1).movedim(1, -1)[scored]
    return ((1 - shares.gather(1, targets[scored][:, None])) ** 2).mean()


LOSSES['squared_error'] = squared_error
'''
NETWORK = '''
from torch import nn


class OnePixel(nn.Module):
    "A network that looks at one pixel."

    def __init__(self, in_channels=3, num_classes=6, width=8, depth=1):
        super().__init__()
        self.settings = dict(in_channels=in_channels, num_classes=num_classes, width=width, depth=depth)
        self.in_channels, self.num_classes, self.multiple, self.reach = in_channels, num_classes, 1, 0
        self.layers = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.ReLU(), nn.Conv2d(width, num_classes, 1))

    def bytes_per_pixel(self, itemsize=4):
        return itemsize * 2 * self.settings['width']

    def forward(self, batch):
        return self.layers(batch)


NETWORKS['one_pixel'] = OnePixel
'''
LESSON = {
    'cells': [
        {'cell_type': 'markdown', 'id': 'x-title', 'metadata': {}, 'source': '# Another lesson\n\n> One more.'},
        {'cell_type': 'code', 'id': 'x-exp', 'metadata': {}, 'source': '#| default_exp another', 'execution_count': None, 'outputs': []},
        {'cell_type': 'code', 'id': 'x-export', 'metadata': {}, 'source': '#| exports\ndef answer():\n    return 42', 'execution_count': None, 'outputs': []},
    ],
    'metadata': {
        'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'},
        'unetkit': {'part': 'course', 'minutes': 20, 'panels': []},
    },
    'nbformat': 4,
    'nbformat_minor': 5,
}  # fmt: skip
USE = """
import sys, unetkit as uk
from unetkit.another import answer
assert answer() == 42
train, test = uk.scene(96, 96, seed=1), uk.scene(64, 64, seed=2)
tiny = dict(patch_size=16, epochs=1, width=4, depth=1, device='cpu', precision='float32', split='random')
for change in (dict(loss='squared_error'), dict(network='one_pixel')):
    model = uk.ModelPipeline(uk.ISPRS, **tiny, **change).fit(train)
    path = model.save('m.safetensors')
    assert (uk.ModelPipeline.load(path, 'cpu', 'float32').predict(test) == model.predict(test)).all()
    assert 0 <= model.evaluate(test).accuracy <= 1
from unetkit.cli import main
main(['train', '--help'])
"""


def add_export(path, source):
    "Add one exported cell to a notebook, after its last exported one."
    notebook = json.loads(path.read_text(encoding='utf-8'))
    exported = [n for n, c in enumerate(notebook['cells']) if ''.join(c['source']).startswith('#| export')]
    cell = {'cell_type': 'code', 'id': 'x-added', 'metadata': {}, 'execution_count': None, 'outputs': []}
    notebook['cells'].insert(exported[-1] + 1, cell | {'source': '#| export' + source})
    path.write_text(json.dumps(notebook), encoding='utf-8')


def home_of(name):
    "The notebook that defines a module."
    for path in NOTEBOOKS.values():
        if re.search(rf'#\| default_exp {name}\b', path.read_text(encoding='utf-8')):
            return path.relative_to(ROOT)
    raise AssertionError(f'no notebook exports {name}')


def test_extension_in_one_place(tmp_path):
    "A loss, a network and a lesson are added to a copy of the checkout, each by one place, and are there for Python, for files and for the command line."
    pytest.importorskip('nbdev', reason='nbdev exports the copy; it is in [dev]')
    copy = tmp_path / 'copy'
    shutil.copytree(ROOT / 'nbs', copy / 'nbs', ignore=shutil.ignore_patterns('images', '_*', '.*'))
    shutil.copytree(PACKAGE, copy / 'unetkit', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('settings.ini', 'setup.py'):
        shutil.copy(ROOT / name, copy / name)
    add_export(copy / home_of('losses'), LOSS)
    add_export(copy / home_of('networks'), NETWORK)
    (copy / 'nbs' / '99_another.ipynb').write_text(json.dumps(LESSON), encoding='utf-8')
    environment = child_environment() | {'PYTHONPATH': str(copy)}
    export = [sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()']
    done = subprocess.run(export, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, '-c', USE], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'squared_error' in done.stdout and 'one_pixel' in done.stdout


def test_warnings_are_not_silenced_wholesale():
    "A filter names the category that is meant; another warning is news."
    bare = re.compile(r"""simplefilter\(\s*['"]ignore['"]\s*\)""")
    assert [path.name for path in (ROOT / 'unetkit').rglob('*.py') if bare.search(path.read_text())] == []


def test_the_demo_model_is_what_its_script_trains():
    "Whatever the recommended recipe is by now."
    made = runpy.run_path(str(ROOT / 'scripts' / 'records.py'))['DEMO']
    assert demo_model().settings.decisive() == made.decisive()
    assert demo_model().settings.of_kind('duration', 'use') == made.of_kind('duration', 'use')
