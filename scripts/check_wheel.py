#!/usr/bin/env python3
"""Build the source archive and the wheel, and use the wheel as others do: in fresh environments, outside the checkout.

usage: scripts/check_wheel.py [--dist FOLDER] [PYTHON ...]

PYTHON is 3.11, 3.10, 3.12 or 3.13 (all). What is installed beside the wheel:

  3.10   the oldest versions that it allows: every `>=` of its requirements taken as `==`
  3.11   the versions of .ci/constraints.txt
  3.12   the versions of .ci/constraints.txt
  3.13   the newest versions

On 3.11, and on all with TORCH_INDEX, torch is installed too: then every module is imported, the commands run, and the source archive is installed in
its place. On the others, where torch has only a build of gigabytes, all requirements but torch are
installed, and with torch they are only resolved, by their metadata; the modules that need no torch are imported.

An interpreter is `python3.12` of PATH, of $PYTHONS (files, with colons between) or of pyenv. One that is not there is named and counted as skipped; on
GitHub it is an error. --dist keeps the archives. The last line is `N passed, N failed`, and skipped if any.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / '.ci' / 'constraints.txt'
PYTHONS = {'3.11': 'locked', '3.10': 'oldest', '3.12': 'locked', '3.13': 'newest'}
WANTED = [
    'settings.ini',
    'setup.py',
    'README.md',
    'LICENSE',
    'CHANGELOG.md',
    'CONTRIBUTING.md',
    'CITATION.cff',
    'SECURITY.md',
    'unetkit/*',
]  # in the source archive
TORCHLESS = (
    'rules check plots raster tiles archives scenes palettes labels metrics intervals windows patches'.split()
)  # modules that work without torch


def run(*command, **more):
    "What a command printed; if it fails, an error with the end of that."
    done = subprocess.run(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )
    if done.returncode:
        raise AssertionError(
            f'{" ".join(map(str, command))} ended with {done.returncode}\n{done.stdout[-4000:]}'
        )
    return done.stdout


def clean_environment(folder):
    "The variables of a user who has never seen the checkout."
    lost = ('PYTHON', 'VIRTUAL_ENV', 'JUPYTER', 'IPYTHON', 'UNETKIT')
    kept = {key: value for key, value in os.environ.items() if not key.startswith(lost)}
    return {
        **kept,
        'HOME': str(folder),
        'OMP_NUM_THREADS': '1',
        'MPLBACKEND': 'Agg',
        'PATH': f'{folder / "venv/bin"}:{kept.get("PATH", "")}',
    }


# ---- the archives


def tracked():
    "Files of the checkout that git does not ignore."
    files = run('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', cwd=ROOT).split('\0')
    return sorted(file for file in filter(None, files) if (ROOT / file).is_file())


def wheel_files(wheel):
    "Name and checksum of the files of a wheel; RECORD lists them too."
    with zipfile.ZipFile(wheel) as archive:
        return {
            info.filename: info.CRC
            for info in archive.infolist()
            if not info.filename.endswith(('/', 'RECORD'))
        }


def build(tmp, python):
    "Source archive, the wheel made of it, and the wheel made of a copy of the checkout: the wheels are equal, and no file is missing."
    for file in tracked():
        (tmp / 'copy' / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, tmp / 'copy' / file)
    run(python, '-m', 'venv', tmp / 'build')
    run(tmp / 'build/bin/pip', 'install', '-c', CONSTRAINTS, 'build', 'uv')
    run(tmp / 'build/bin/python', '-m', 'build', '--outdir', tmp / 'dist', tmp / 'copy')
    run(tmp / 'build/bin/python', '-m', 'build', '--wheel', '--outdir', tmp / 'again', tmp / 'copy')
    (sdist,), (wheel,), (again,) = (
        (tmp / 'dist').glob('*.tar.gz'),
        (tmp / 'dist').glob('*.whl'),
        (tmp / 'again').glob('*.whl'),
    )
    check_archives(sdist, wheel, again)
    return sdist, wheel


def check_archives(sdist, wheel, again):
    with tarfile.open(sdist) as archive:
        there = {name.partition('/')[2] for name in archive.getnames()}
    wanted = [file for file in tracked() if any(fnmatch(file, pattern) for pattern in WANTED)]
    missing = sorted(
        {pattern for pattern in WANTED if '*' not in pattern} - there
        | {file for file in wanted if file not in there}
    )
    assert not missing, f'the source archive lacks {", ".join(missing)}: add it to MANIFEST.in'
    files, twin = wheel_files(wheel), wheel_files(again)
    assert files == twin, (
        f'the source archive makes another wheel than the checkout: {sorted(set(files.items()) ^ set(twin.items()))}'
    )
    missing = [file for file in wanted if file.startswith('unetkit/') and file not in files]
    assert not missing, f'the wheel lacks {", ".join(missing)}: add it to package_data in setup.py'
    foreign = [name for name in files if not name.startswith('unetkit/') and '.dist-info/' not in name]
    assert not foreign, f'the wheel brings {", ".join(foreign)}'


def metadata(wheel):
    "Version and requirements of a wheel, without its extras."
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(
            next(name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        ).decode()
    return re.search(r'^Version: (.+)$', text, re.M)[1], [
        line for line in re.findall(r'^Requires-Dist: (.+)$', text, re.M) if 'extra ==' not in line
    ]


# ---- environments


def interpreter(version):
    "A Python of this version that can make environments, or None."
    home = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'))
    named = [
        *filter(None, os.environ.get('PYTHONS', '').split(os.pathsep)),
        shutil.which(f'python{version}'),
        shutil.which('python'),
        *sorted(home.glob(f'versions/{version}.*/bin/python'), reverse=True),
        *sorted(home.glob(f'versions/{version}/bin/python')),
    ]
    for python in (name for name in map(str, filter(None, named)) if Path(name).exists()):
        asked = subprocess.run(
            [python, '-c', 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])'],
            capture_output=True,
            text=True,
        )
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return python
    return None


def versions(kind, requirements, folder):
    "The constraints of one kind of environment, as pip's options."
    if kind == 'newest':
        return []
    if kind == 'locked':
        return ['-c', CONSTRAINTS]
    file = folder / 'oldest.txt'
    file.write_text(
        '\n'.join(requirement.replace('>=', '==') for requirement in requirements), encoding='utf-8'
    )
    return ['-c', file]


def has_torch(version):
    "Is torch installed there too?"
    return version == '3.11' or bool(os.environ.get('TORCH_INDEX'))


def environment(folder, python, kind, wheel, torch):
    "A fresh environment with the wheel and what it needs; nothing may be missing or in conflict, but torch where it is left out."
    folder.mkdir()
    run(python, '-m', 'venv', folder / 'venv')
    pip, (version, requirements) = folder / 'venv/bin/pip', metadata(wheel)
    chosen = versions(kind, requirements, folder)
    if torch:
        if os.environ.get('TORCH_INDEX'):
            run(pip, 'install', '--no-deps', *chosen, '--index-url', os.environ['TORCH_INDEX'], 'torch')
        run(pip, 'install', *chosen, wheel)
        return run(pip, 'check')
    run(pip, 'install', *chosen, *(r for r in requirements if not r.startswith('torch')))
    run(pip, 'install', '--no-deps', wheel)
    said = subprocess.run([pip, 'check'], capture_output=True, text=True).stdout.splitlines()
    assert said == [f'unetkit {version} requires torch, which is not installed.'], '\n'.join(said)


def resolve(tmp, python, kind, requirements):
    "All requirements, torch and what it needs included, resolved for this Python by their metadata, without fetching a build of gigabytes."
    chosen = {'locked': ['-c', CONSTRAINTS], 'oldest': ['--resolution', 'lowest-direct'], 'newest': []}[kind]
    said = run(
        tmp / 'build/bin/uv',
        '--no-cache',
        'pip',
        'compile',
        '--quiet',
        '--python',
        python,
        *chosen,
        '-',
        input='\n'.join(requirements),
    )
    found = dict(re.findall(r'^([\w.-]+)==(\S+)$', said, re.M))
    if kind == 'oldest':  # a floor that no release has would be passed over in silence
        floors = dict(r.lower().split('>=') for r in requirements)
        other = {
            name: version
            for name, version in found.items()
            if name in floors and not (version + '.0.0').startswith(floors[name] + '.')
        }
        assert not other, f'no release is as old as its floor says: the oldest are {other}'
    return f'{len(found)} packages resolve, torch {found["torch"]} among them'


# ---- what is tried


def try_commands(folder, version):
    "The commands, in an empty folder, on tiny settings."
    work, env = folder / 'work', clean_environment(folder)
    work.mkdir()
    program = folder / 'venv/bin/unetkit'
    assert run(program, '--version', cwd=work, env=env).strip() == version
    run(program, 'scene', '--out', 'scene', '--height', 96, '--width', 128, cwd=work, env=env)
    run(
        program,
        'report',
        '--out',
        'report',
        '--patch-sizes',
        32,
        '--epochs',
        1,
        '--stride',
        32,
        '--width',
        4,
        cwd=work,
        env=env,
    )
    missing = {'scores.json', 'scores.csv', 'report.html', 'label_map_32.tif', 'model_32.safetensors'} - {
        file.name for file in (work / 'report').iterdir()
    }
    assert not missing, f'unetkit report wrote no {", ".join(missing)}'
    run(
        program,
        'predict',
        'report/model_32.safetensors',
        'scene/image.tif',
        '--out',
        'map.tif',
        cwd=work,
        env=env,
    )
    (work / 'handed_in').mkdir()
    shutil.copy(ROOT / 'nbs/solutions/receptive.ipynb', work / 'handed_in')
    said = run(program, 'grade', 'handed_in', cwd=work, env=env)
    assert 'view_of: 1 passed' in said and (work / 'grades.csv').exists(), f'unetkit grade said {said}'


def try_imports(folder, names, version):
    "Modules in one fresh process, from the environment and not from the checkout; and the version that the package gives."
    code = 'import importlib, sys, unetkit; [importlib.import_module(name) for name in sys.argv[1:]]; print(unetkit.__version__, unetkit.__file__)'
    found, file = (
        run(folder / 'venv/bin/python', '-c', code, *names, cwd=folder, env=clean_environment(folder))
        .splitlines()[-1]
        .split(' ', 1)
    )
    assert found == version and Path(file).is_relative_to(folder), f'{names}: version {found} from {file}'


def all_modules(wheel):
    return sorted(
        re.sub(r'(/__init__)?\.py$', '', name).replace('/', '.')
        for name in wheel_files(wheel)
        if name.endswith('.py') and '_modidx' not in name
    )


# ---- the whole


def one(version, tmp, sdist, wheel):
    "All that is tried on one Python. Returns what to say."
    kind, torch, folder, start = PYTHONS[version], has_torch(version), tmp / version, time.monotonic()
    number, requirements = metadata(wheel)
    environment(folder, interpreter(version), kind, wheel, torch)
    for name in TORCHLESS:
        try_imports(folder, [f'unetkit.{name}'], number)
    told = []
    if torch:
        try_imports(folder, all_modules(wheel), number)
        try_commands(folder, number)
        run(folder / 'venv/bin/pip', 'install', '--no-deps', '--force-reinstall', sdist)
        try_imports(folder, ['unetkit.cli'], number)
    else:
        told.append(resolve(tmp, interpreter(version), kind, requirements))
    return '; '.join([*told, f'{time.monotonic() - start:.0f} s'])


def attempt(title, work, *arguments):
    "Say whether all went well, and return it."
    try:
        said, well = work(*arguments), True
    except Exception as error:  # whatever it is, the other Pythons are tried too
        said, well = f'{type(error).__name__}: {error}', False
    print(f'{title} {"ok" if well else "FAILED"}: {said}', flush=True)
    return well


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('pythons', nargs='*', metavar='PYTHON', help='versions of Python to try (all)')
    parser.add_argument('--dist', type=Path, help='keep the archives here; older ones of unetkit are removed')
    args = parser.parse_args()
    if unknown := set(args.pythons) - set(PYTHONS):
        parser.error(f'{", ".join(sorted(unknown))} is not one of {", ".join(PYTHONS)}')
    chosen = [version for version in PYTHONS if version in (args.pythons or PYTHONS)]
    absent = [version for version in chosen if not interpreter(version)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the environments are removed
    with tempfile.TemporaryDirectory(prefix='unetkit-wheel.') as tmp:
        tmp = Path(tmp).resolve()
        sdist, wheel = build(tmp, sys.executable)
        print(f'{sdist.name} and {wheel.name}: complete, and equal from both sources', flush=True)
        if args.dist:
            args.dist.mkdir(parents=True, exist_ok=True)
            for old in [*args.dist.glob('unetkit-*.whl'), *args.dist.glob('unetkit-*.tar.gz')]:
                old.unlink()
            for archive in (sdist, wheel):
                shutil.copy2(archive, args.dist)
        there = [version for version in chosen if version not in absent]
        with ThreadPoolExecutor(2) as pool:
            told = list(
                pool.map(
                    lambda version: attempt(
                        f'{version}, {PYTHONS[version]} versions,', one, version, tmp, sdist, wheel
                    ),
                    there,
                )
            )
        passed, failed = told.count(True), told.count(False)
    for version in absent:
        print(f'SKIPPED: there is no Python {version}: install it, or name it in PYTHONS')
    failed += len(absent) * bool(os.environ.get('GITHUB_ACTIONS'))
    print(f'{passed} passed, {failed} failed' + f', {len(absent)} skipped' * bool(absent))
    return bool(failed or not passed)


if __name__ == '__main__':
    sys.exit(main())
