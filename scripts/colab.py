#!/usr/bin/env python3
"""Run every lesson as Google Colab would, without Google: a fresh environment, the wheel, an empty folder for each notebook.

usage: scripts/colab.py [--wheel FILE] [--jobs N] [--limit SECONDS] [--keep FOLDER] [NAME ...]

NAME is a notebook of nbs/ (00_tiles, index); without one all of nbs/*.ipynb run, two at a time. The environment has Colab's own releases
of what Colab brings; then the wheel is installed as a student would, and nothing that was there may change. In the kernel `google.colab`
is there and `%pip` only notes what it was asked for. A lesson that asks for an extra, `unetkit[onnx]`, waits for those that do not; then the extra is
installed too, under the same rule. Cells run from top to bottom, also those that the tests leave out
(`#| eval: false`: Colab knows no directives, so the stubs of exercises run too); only `#| slow` cells are skipped.
The last line is `N lessons ran`, the exit code 1 if any did not. PYTHON names the interpreter, TORCH_INDEX an index to take torch from.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / '.ci' / 'constraints.txt'
# What Colab has before a student types anything: its own releases where they matter, those of constraints.txt otherwise.
COLAB = [
    'ipywidgets==7.7.1',
    'ipython==7.34.0',
    'ipykernel==6.17.1',
    'jupyter_client==7.4.9',
    'notebook==6.5.7',
    'numpy==2.1.*',
    'matplotlib==3.10.*',
    'scikit-learn==1.6.*',
    'fastcore==2.2.*',
    'protobuf==5.29.*',
    'flatbuffers==25.*',
]
FOLLOW = ['widgetsnbextension', 'jupyterlab_widgets', 'contourpy']  # their releases follow from those above
OTHERS = ['torch', 'scipy', 'pillow', 'tqdm', 'safetensors', 'nbclient']
ABSENT = ['nbdev', 'execnb', 'hypothesis', 'monai', 'pytest', 'onnx']  # a lesson may not need them
STUB = re.compile(r'^#\|\s*eval:\s*false', re.M)
SLOW = re.compile(r'^#\|\s*slow\b', re.M)
INSTALL = re.compile(r"%pip (install -q '?unetkit(?:\[(\w+)\])?'?((?: '[^']+')*))$", re.M)
STARTUP = '''
import google.colab, os
def pip(line):
    with open(os.environ['COLAB_PIP'], 'a') as file: print(line, file=file)
get_ipython().register_magic_function(pip, 'line', 'pip')
'''


def run(*command, **kwargs):
    "Run a command, quietly; when it fails, show the end of what it said and stop."
    done = subprocess.run(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
    )
    if done.returncode:
        sys.exit(f'{" ".join(map(str, command))}\n{done.stdout[-4000:]}\n0 lessons ran')
    return done.stdout


def name_of(requirement):
    return re.split(r'[=<>!~;\s\[@]', requirement, maxsplit=1)[0].lower().replace('_', '-')


def constraints_without(names, path):
    "constraints.txt without the lines for `names`, written to `path`."
    lines = CONSTRAINTS.read_text(encoding='utf-8').splitlines()
    path.write_text('\n'.join(line for line in lines if name_of(line) not in names), encoding='utf-8')
    return path


def build_wheel(tmp):
    "The wheel of the checkout, built from a copy: nothing is left in the checkout."
    files = run('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', cwd=ROOT).split('\0')
    for old in ('copy', 'dist'):
        shutil.rmtree(tmp / old, ignore_errors=True)
    for file in filter(None, files):
        if (ROOT / file).is_file():
            target = tmp / 'copy' / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target)
    run(tmp / 'venv/bin/pip', 'wheel', '--no-deps', '-w', tmp / 'dist', tmp / 'copy')
    return next((tmp / 'dist').glob('*.whl'))


def installed(pip):
    return dict(re.findall(r'^([^=\s]+)==(\S+)$', run(pip, 'freeze', '--all'), re.M))


def add(tmp, wheel, *more):
    "Install a wheel, or the wheel and an extra, with `more` that the notebook asks for. Whatever that changes is an error."
    pip = tmp / 'venv/bin/pip'
    before = installed(pip)
    # Only what is new is held to constraints.txt. What Colab has is free to change, so that a change would be seen.
    held = set(map(name_of, before)) | ({'onnx'} if more else set())  # an older onnx goes with what Colab has
    run(pip, 'install', '-c', constraints_without(held, tmp / 'new.txt'), wheel, *more)
    after = installed(pip)
    changed = [
        f'{name} {version} -> {after.get(name)}'
        for name, version in before.items()
        if after.get(name) != version
    ]
    if changed:
        sys.exit(f'the wheel replaced what was there: {", ".join(changed)}\n0 lessons ran')
    new = sorted(f'{name} {after[name]}' for name in after.keys() - before.keys())
    print(
        f'installed beside {len(before)} packages, of which none changed: {", ".join(new) or "nothing"}',
        flush=True,
    )


def make_environment(tmp, wheel):
    "A fresh environment with Colab's packages, the wheel, and the fake of google.colab."
    python = os.environ.get('PYTHON') or next(filter(shutil.which, ['python3.11', 'python3']))
    run(python, '-m', 'venv', tmp / 'venv')
    pip = tmp / 'venv/bin/pip'
    held = constraints_without(set(map(name_of, COLAB + FOLLOW)), tmp / 'colab.txt')
    if os.environ.get('TORCH_INDEX'):
        run(pip, 'install', '--no-deps', '-c', CONSTRAINTS, '--index-url', os.environ['TORCH_INDEX'], 'torch')
    run(pip, 'install', '-c', held, *COLAB, *OTHERS)
    add(tmp, wheel or build_wheel(tmp))
    site = Path(
        run(tmp / 'venv/bin/python', '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip()
    )
    present = [name for name in ABSENT if (site / name).exists()]
    if present:
        sys.exit(f'the environment has {", ".join(present)}, which Colab has not\n0 lessons ran')
    (site / 'google/colab').mkdir(parents=True)
    (site / 'google/colab/__init__.py').write_text('"Stands for Colab\'s own package."\n')
    startup = tmp / 'home/.ipython/profile_default/startup'
    startup.mkdir(parents=True)
    (startup / '00-colab.py').write_text(STARTUP)
    run(
        tmp / 'venv/bin/python', '-c', 'import matplotlib.pyplot', env=environment(tmp)
    )  # makes the font cache once


def environment(tmp):
    "The variables of a kernel: a home of its own, one thread, and nothing that leads back to the checkout."
    lost = ('PYTHON', 'JUPYTER', 'IPYTHON', 'VIRTUAL_ENV', 'MPL', 'UNETKIT', 'XDG_')
    kept = {key: value for key, value in os.environ.items() if not key.startswith(lost)}
    return {
        **kept,
        'HOME': str(tmp / 'home'),
        'OMP_NUM_THREADS': '1',
        'PYDEVD_DISABLE_FILE_VALIDATION': '1',
        'PATH': f'{tmp / "venv/bin"}:{kept.get("PATH", "")}',
    }


def asks_for(path):
    "What the first code cell of a notebook installs, the extra in it ('' if there is none), and what else it asks for."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    found = INSTALL.search(next(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code'))
    return (
        (found[1], found[2] or '', tuple(re.findall(r"'([^']+)'", found[3])))
        if found
        else ('install -q unetkit', '', ())
    )


def lesson(path, tmp, limit):
    "Run one notebook in an empty folder. Returns what was wrong ('' if nothing) and the seconds it took."
    folder = tmp / 'content' / path.stem
    folder.mkdir(parents=True)
    asked = tmp / f'{path.stem}.pip'
    start = time.monotonic()
    process = subprocess.Popen(
        [tmp / 'venv/bin/python', __file__, '--execute', path, '--folder', folder],
        cwd=folder,
        start_new_session=True,
        env={**environment(tmp), 'COLAB_PIP': str(asked)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        text = process.communicate(timeout=limit)[0]
        wrong = re.sub(r'\x1b\[[\d;]*m', '', text)[-4000:] if process.returncode else ''
    except subprocess.TimeoutExpired:
        wrong = f'did not end within {limit} seconds'
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # the kernel too
        except ProcessLookupError:
            pass
    pip = asked.read_text().splitlines() if asked.exists() else []
    if not wrong and pip != [asks_for(path)[0]]:
        wrong = f'its first cell should have asked once for `%pip {asks_for(path)[0]}`, but asked for {pip}'
    return wrong, time.monotonic() - start


def execute(path, folder):
    "In the new environment: the notebook from top to bottom; slow cells are left out."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            cell.outputs = []
            if SLOW.search(cell.source):
                cell.source = ''
    shutil.copy(path, folder)
    try:
        NotebookClient(
            notebook, timeout=None, kernel_name='python3', resources={'metadata': {'path': str(folder)}}
        ).execute()
    except CellExecutionError:
        pass  # its output says so, below
    for cell in notebook.cells:
        outputs = cell.get('outputs', [])
        for output in outputs:
            if output.output_type == 'error':
                sys.exit('\n'.join([cell.source, *output.traceback[-3:]]))
        said = ''.join(output.get('text', '') for output in outputs if output.output_type == 'stream')
        if STUB.search(cell.source) and re.search(r'\bcheck\(', cell.source) and not said.strip():
            sys.exit(f'the checker said nothing about an untouched exercise:\n{cell.source}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help='notebooks to run (all)')
    parser.add_argument('--wheel', type=Path, help='the wheel to install (built from the checkout)')
    parser.add_argument('--jobs', type=int, default=2, help='notebooks at a time (2)')
    parser.add_argument('--limit', type=float, default=240, help='seconds a notebook may take (240)')
    parser.add_argument(
        '--keep',
        type=Path,
        help='keep the environment here, and renew only the wheel in the one that is there',
    )
    parser.add_argument('--execute', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.execute:
        return execute(args.execute, args.folder)
    paths = [ROOT / 'nbs' / f'{Path(name).stem}.ipynb' for name in args.names] or sorted(
        (ROOT / 'nbs').glob('*.ipynb')
    )
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        sys.exit(f'nbs has no {", ".join(missing)}')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tmp = (args.keep or Path(tempfile.mkdtemp(prefix='unetkit-colab.'))).resolve()
    try:
        start = time.monotonic()
        wheel = args.wheel and args.wheel.resolve()
        if (tmp / 'home').exists():
            run(tmp / 'venv/bin/pip', 'install', '--force-reinstall', '--no-deps', wheel or build_wheel(tmp))
        else:
            tmp.mkdir(parents=True, exist_ok=True)
            make_environment(tmp, wheel)
        print(f'environment: {time.monotonic() - start:.0f} s', flush=True)
        shutil.rmtree(tmp / 'content', ignore_errors=True)
        for old in tmp.glob('*.pip'):
            old.unlink()
        failed = 0
        for asked in sorted({asks_for(path)[1:] for path in paths}):  # those without an extra first
            extra, more = asked
            if extra:
                add(tmp, f'{wheel or next((tmp / "dist").glob("*.whl"))}[{extra}]', *more)
            some = [path for path in paths if asks_for(path)[1:] == asked]
            with ThreadPoolExecutor(args.jobs) as pool:
                for path, (wrong, seconds) in zip(
                    some, pool.map(lambda path: lesson(path, tmp, args.limit), some)
                ):
                    failed += bool(wrong)
                    print(f'{path.stem:24} {"FAILED" if wrong else "ok":6} {seconds:5.0f} s', flush=True)
                    print(''.join(f'    {line[:200]}\n' for line in wrong.splitlines()), end='')
        print(
            f'{time.monotonic() - start:.0f} s in all'
            + (f', {failed} of {len(paths)} failed' if failed else '')
        )
        print(f'{len(paths) - failed} lessons ran')
        return bool(failed)
    finally:
        if not args.keep:
            shutil.rmtree(tmp, ignore_errors=True)


if __name__ == '__main__':
    sys.exit(main())
