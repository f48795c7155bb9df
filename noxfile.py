"""Every check of the project, by name. `nox -l` lists them, `nox -s lint` runs one; the workflows and `.ci/run` call nothing else.

A session runs in the environment that is active (CONTRIBUTING says how to make it), so that it takes no second copy of torch. `wheel` and `colab` make
environments of their own. What stands behind `--` goes to the command: `nox -s slow -- -k kills`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from tests.processors import PROCESSORS  # noqa: E402

nox.options.default_venv_backend = 'none'
nox.options.stop_on_first_error = False
SINGLE = {'OMP_NUM_THREADS': '1'}  # two processes at a time share two cores better than four threads do
CODE = ['noxfile.py', 'setup.py', 'unetkit', 'scripts', 'tests', 'docs']


def copy_of_checkout(folder):
    "Copy what git knows and does not ignore, and make a repository of it, whose status then says what a command changed."
    listed = subprocess.check_output(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, text=True
    )
    for name in filter(None, listed.split('\0')):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@nox.session
def install(session):
    "README's installation for contributors, with the extras. TORCH_INDEX: an index to take torch from first. VERSIONS=newest: no constraints."
    versions = [] if os.environ.get('VERSIONS') == 'newest' else ['-c', '.ci/constraints.txt']
    if os.environ.get('TORCH_INDEX'):
        session.run(
            'pip', 'install', '--no-deps', *versions, '--index-url', os.environ['TORCH_INDEX'], 'torch'
        )
    session.run(
        'pip', 'install', *versions, '-e', '.[dev,docs,onnx,openvino,pretrained,scale,tensorboard,vector]'
    )
    session.run('pip', 'check')


@nox.session
def lint(session):
    "Names, imports and layout of the code, in notebooks, library and scripts."
    session.run('ruff', 'check', '--no-cache', *CODE)
    session.run('ruff', 'format', '--no-cache', '--check', 'nbs', 'scripts', 'tests', 'noxfile.py')


@nox.session
def current(session):
    "Notebooks are clean; library and README are what the notebooks say."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_checkout(folder)
        git = ['git', '-c', 'user.name=ci', '-c', 'user.email=ci@localhost', '-c', 'commit.gpgsign=false']
        with session.chdir(folder):
            session.run('git', 'init', '-q')
            session.run('git', 'add', '-A')
            session.run(*git, 'commit', '-q', '--no-verify', '-m', 'checkout')
            session.run('nbdev_clean')
            session.run('nbdev_export')
            session.run('python', 'scripts/readme.py')
            changed = session.run('git', 'status', '--porcelain', silent=True)
            if changed:
                session.run('git', '--no-pager', 'diff', '--stat')
                session.error(f'run nbdev_clean, nbdev_export and scripts/readme.py, and commit:\n{changed}')


@nox.session
def tests(session):
    "README's second command, without its installation."
    session.run('nbdev_test', '--timing', env=SINGLE)
    session.run('pytest', *session.posargs, env=SINGLE)


@nox.session
def slow(session):
    "What takes minutes: kills, several processes, runs of the studies trained again."
    how = ['--timeout', '900', '-o', 'faulthandler_timeout=930']
    session.run('pytest', *how, '-m', 'slow', *session.posargs, env=SINGLE | {'UNETKIT_TMPFS': '1'})


@nox.session
@nox.parametrize('processor', [nox.param(name, id=name) for name in PROCESSORS])
def processors(session, processor):
    "The inline tests and `tests/` as another x86-64 processor would run them; `-- quick` takes only what computes most."
    env = SINGLE | PROCESSORS[processor]
    quick = session.posargs == ['quick']
    some = ['--file_re', r'^(05_unet|08_stitching|scale)\.ipynb$'] if quick else []
    session.run('nbdev_test', *some, env=env)
    session.run(
        'pytest',
        *(['tests/test_smoke.py', 'tests/test_training.py', 'tests/test_stitching.py'] if quick else []),
        env=env,
    )


@nox.session
def report(session):
    "README's first command, without its installation, and everything that it promises."
    with tempfile.TemporaryDirectory() as folder:
        session.run('unetkit', 'report', '--out', folder)
        session.run('pytest', 'tests/test_report_folder.py', env={'UNETKIT_REPORT': folder})


@nox.session
def bench(session):
    "Memory and speed against their bounds; `python scripts/bench.py` measures all of it."
    session.run('python', 'scripts/bench.py', *(session.posargs or ['--quick']))


@nox.session
def wheel(session):
    "Archives are complete, and the wheel works in fresh environments on every Python that is there."
    session.run('python', 'scripts/check_wheel.py', *session.posargs)


@nox.session
def colab(session):
    "Every lesson from the wheel, in an environment like Google Colab's."
    wheels = sorted(Path(os.environ.get('DIST', 'dist')).glob('*.whl'))
    session.run(
        'python', 'scripts/colab.py', *(['--wheel', str(wheels[-1])] if wheels else []), *session.posargs
    )


def in_browser(session, *paths):
    "The tests of some files, one per core at a time."
    session.run('pytest', '-m', 'browser', '--dist', 'load', *paths, *session.posargs, env=SINGLE)


@nox.session
def site(session):
    "The site builds without a warning, and every page of it is visited in a browser, where an exported model runs too."
    session.run('python', 'scripts/build_site.py')
    in_browser(session, 'tests/browser/test_site.py', 'tests/browser/test_export.py')


@nox.session
def sliders(session):
    "Every slider of the lessons, moved by keyboard in JupyterLab."
    in_browser(session, 'tests/browser/test_sliders.py')


@nox.session
def version(session):
    "The version is in the changelog; on a tag they agree, and the section has a date."
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    number = parser['DEFAULT']['version']
    text = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    if f'## [{number}]' not in text:
        session.error(f'CHANGELOG.md has no section for {number}')
    if os.environ.get('GITHUB_REF_TYPE') == 'tag':
        tag = os.environ['GITHUB_REF_NAME']
        if tag != f'v{number}':
            session.error(f'the tag is {tag}, but settings.ini says {number}: tag v{number}')
        if not re.search(rf'^## \[{re.escape(number)}\] - \d{{4}}-\d\d-\d\d$', text, re.M):
            session.error(f'CHANGELOG.md has no dated section for {number}')
