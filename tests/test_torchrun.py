"""One run, several processes: `torchrun` starts them for real, on the CPU.

What equals what: the mean of the parts' gradients is the gradient of the batch where the loss is a mean over scored pixels and every part
has equally many of them. Then two processes take the steps of one. Only sums are taken in another order, and in float64 that moves a weight
of about 1 by some 1e-16 a step; the tolerance of 1e-9 leaves room for any processor. In float32 with Adam a weight whose gradient is nearly
nothing moves by the full rate, in a direction that the last digit decides: there the validation curves are compared, within 2 % of the first
loss, the tolerance that the kit promises for bfloat16 as well."""

import filecmp
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from unetkit.cli import main
from unetkit.experiments import ModelPipeline
from unetkit.models import load_tensors

RUNS = '''
import sys
import torch
from torch.nn import functional as F
from unetkit.losses import make_loss
from unetkit.machine import OwnPart, in_step, process_group, rank_and_world
from unetkit.models import save_tensors
from unetkit.batches import Batches, to_device
from unetkit.patches import grid_windows
from unetkit.scenes import synthetic_scene
from unetkit.training import epochs, seed_everything
from unetkit.unet import UNet

EVEN = {"order": dict(shuffle=True), "turns": dict(shuffle=True, augment=True), "crops": dict(crops=True), "focus": dict(crops=True, focus=1),
        "average": dict(shuffle=True, average=0.5)}
UNEVEN = {"odd batches": dict(batch_size=7), "a strip without labels": dict(strip=True), "dice": dict(loss="dice"), "large batch": dict(batch_size=100),
          "batch norm": dict(normalisation="batch")}

class Double:
    "Batches in float64."
    def __init__(self, batches): self.batches, self.rng, self.batch_size = batches, batches.rng, batches.batch_size
    def __len__(self): return len(self.batches)
    def __iter__(self): return ((batch.double(), targets) for batch, targets in self.batches)

def descended(batch_size=6, strip=False, loss=None, normalisation="none", average=0.0, **how):
    "Weights and validation losses of two epochs of plain gradient descent in float64, on 20 windows."
    scene = synthetic_scene(128, 160, seed=1)
    if strip: scene.labels[20:50] = 255
    windows, pairs = grid_windows([scene.size], 32, 32), to_device([scene])
    seed_everything(0)
    model = UNet(3, 5, width=4, depth=2, normalisation=normalisation).double()
    train, valid = OwnPart(Double(Batches(pairs, windows, batch_size, **how))), Double(Batches(pairs, windows, 8, once=True))
    loss_fn = make_loss(loss) if loss else lambda logits, targets: F.cross_entropy(logits, targets, ignore_index=255)
    run = list(epochs(model, train, valid, loss_fn, torch.optim.SGD(model.parameters(), 0.05), 2, forward=in_step(model), average=average))
    count = torch.tensor(max(len(batch) for batch, _ in train))
    weights = {name: value.detach() for name, value in model.named_parameters()}
    return weights | {"windows": count, "losses": torch.tensor([[e.valid_loss, e.valid_accuracy] for e in run], dtype=torch.float64)}

if __name__ == "__main__":
    with process_group():
        rank, _ = rank_and_world()
        for name, how in (EVEN | UNEVEN).items(): save_tensors(f"{sys.argv[1]}/{name} {rank}", descended(**how), {})
'''

HOW = (
    '--patch-size 32 --width 4 --depth 2 --batch-size 8 --epochs 20 --patience 20 --precision float32 --device cpu --augment'
).split()


@pytest.fixture(autouse=True)
def interruptible(monkeypatch):
    "Give Ctrl-C its usual meaning: in a shell's background job it has none, and the processes started here would inherit that."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setenv(
        'PYTHONPATH', os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get('PYTHONPATH', '')])
    )
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder with a small scene, and the model of an undisturbed run of one process."
    folder = tmp_path_factory.mktemp('torchrun')
    works('scene', '--height', 128, '--width', 160, '--out', folder / 'scene')
    works('train', *tile(folder), '--out', folder / 'alone.safetensors', *HOW)
    return folder


def tile(folder):
    return [str(folder / 'scene' / name) for name in ('image.tif', 'reference.tif')]


def works(*words):
    "Run a command in this process, which must succeed."
    assert main([str(word) for word in words]) == 0


def torchrun(*command, processes=2):
    "Start a command in several processes; the launcher."
    launcher = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        f'--nproc-per-node={processes}',
        '--rdzv-backend=c10d',
    ]
    words = [*launcher, '--rdzv-endpoint=127.0.0.1:0', *map(str, command)]
    return subprocess.Popen(
        words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


CONSOLE = [sys.executable, '-c', 'import sys; from unetkit.cli import main; sys.exit(main())']


def unetkit(*words):
    return ['--no-python', *CONSOLE, *map(str, words)]


def finished(launcher):
    "Exit code of a launcher, and the lines that unetkit wrote; the launcher's own report is long."
    text, _ = launcher.communicate(timeout=300)
    ours = re.compile(r'epoch |wrote |unetkit \w+: |torch\.compile ')
    return launcher.returncode, [line for line in text.splitlines() if ours.match(line)]


def epochs_in(checkpoint):
    "Number of epochs that a checkpoint holds."
    return len(load_tensors(checkpoint)[1]['epochs']) if checkpoint.exists() else 0


def stopped(start, stop, checkpoint, least):
    "Start a run and stop it when its checkpoint holds `least` epochs; a run that was over first is started again."
    for _ in range(5):
        run, end = start(), time.time() + 180
        while epochs_in(checkpoint) < least and run.poll() is None:
            assert time.time() < end, 'timed out'
            time.sleep(0.02)
        with suppress(StopIteration, ProcessLookupError):
            stop(run)
        code, lines = finished(run)
        if code:
            return code, lines
        checkpoint.with_suffix('').unlink()
    raise AssertionError('every run was over before it could be stopped')


def worker(launcher, rank):
    "Process number of a rank: the workers are the launcher's children."
    children = subprocess.run(
        ['pgrep', '-P', str(launcher.pid)], capture_output=True, text=True
    ).stdout.split()
    named = {int(pid): '\0' + Path(f'/proc/{pid}/environ').read_text() for pid in children}
    return next(pid for pid, environment in named.items() if f'\0RANK={rank}\0' in environment)


def same_model(path, other):
    "Have two models the same epochs and steps, and validation losses within 2 % of the first?"
    one, two = (ModelPipeline.load(p, 'cpu', 'float32') for p in (path, other))
    assert [e.steps for e in one.history] == [e.steps for e in two.history]
    curves = [np.array([e.valid_loss for e in pipeline.history]) for pipeline in (one, two)]
    return abs(curves[0] - curves[1]).max() < 0.02 * curves[0][0]


def test_the_steps_of_one_process(tmp_path, monkeypatch):
    (tmp_path / 'runs.py').write_text(RUNS)
    monkeypatch.syspath_prepend(tmp_path)
    launcher = torchrun(tmp_path / 'runs.py', tmp_path)
    from runs import EVEN, UNEVEN, descended

    alone = {name: descended(**how) for name, how in EVEN.items()}
    text, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, text
    for name in EVEN | UNEVEN:  # the processes never drift apart, whatever their parts are
        assert filecmp.cmp(tmp_path / f'{name} 0', tmp_path / f'{name} 1', shallow=False), name
    for name, expected in alone.items():
        shared, _ = load_tensors(tmp_path / f'{name} 0')
        assert shared.pop('windows') == expected.pop('windows') / 2
        apart = {key: (expected[key] - shared[key]).abs().max().item() for key in expected}
        assert max(apart.values()) < 1e-9, (name, apart)
    odd, _ = load_tensors(tmp_path / 'odd batches 0')
    assert odd['windows'] == 4 and all(value.isfinite().all() for value in odd.values())


@pytest.mark.slow
def test_a_killed_process(folder):
    path = folder / 'shared.safetensors'
    checkpoint = Path(f'{path}.checkpoint')
    code, lines = stopped(
        lambda: torchrun(*unetkit('train', *tile(folder), '--out', path, *HOW)),
        lambda launcher: os.kill(worker(launcher, 1), signal.SIGKILL),
        checkpoint,
        3,
    )
    said = [line for line in lines if not line.startswith('epoch')]
    assert code != 0 and 3 <= epochs_in(checkpoint) < 20 and not path.exists()
    assert len(said) == 1 and 'the same command goes on from' in said[0]
    works(
        'train', *tile(folder), '--out', path, *HOW
    )  # a checkpoint knows nothing of processes: one is enough to go on
    assert same_model(path, folder / 'alone.safetensors') and epochs_in(checkpoint) == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    'arguments, reason',
    [
        ('train {0}/$RANK.tif {0}/scene/reference.tif --patch-size 32', 'there is no file'),
        ('train {0}/scene/image.tif {0}/scene/reference.tif --epochs 0', 'epochs must be at least 1'),
        (
            'train {0}/scene/image.tif {0}/scene/reference.tif --patch-size 32 --batch-size 1',
            'cannot be shared by 2 processes',
        ),
        ('report', 'only train can share its work'),
        ('train {0}/scene/image.tif {0}/scene/reference.tif --speed 9', 'unrecognized arguments: --speed 9'),
    ],
)
def test_one_voice(folder, arguments, reason):
    "What one process cannot do, or none, is said once; the run ends."
    shutil.copy(folder / 'scene' / 'image.tif', folder / '1.tif')
    line = f"{shlex.join(CONSOLE)} {arguments.format(folder)} --out {folder}/x.safetensors"
    code, lines = finished(torchrun('--no-python', 'bash', '-c', line))
    assert code != 0 and len(lines) == 1 and lines[0].startswith('unetkit ') and reason in lines[0], lines


@pytest.mark.slow
def test_repeated_bit_for_bit(folder):
    "`--precision float32` repeats a result exactly on one machine, with the same number of threads."
    command = [*CONSOLE, 'train', *tile(folder), '--out', str(folder / 'again.safetensors'), *HOW]
    threads = os.environ | {'OMP_NUM_THREADS': str(torch.get_num_threads())}
    again = subprocess.run(command, capture_output=True, text=True, env=threads)
    assert (again.returncode, again.stderr) == (0, '')
    (weights, about), (weights_again, about_again) = (
        load_tensors(folder / f'{name}.safetensors') for name in ('alone', 'again')
    )
    assert weights.keys() == weights_again.keys()
    assert all(torch.equal(weights[key], weights_again[key]) for key in weights)
    histories = (header['history'] for header in (about, about_again))
    assert next(histories) == next(histories)


@pytest.mark.slow
def test_back_and_forth(folder):
    "A run that one process began is continued by two, stopped by Ctrl-C, and finished by two machines."
    path = folder / 'back and forth.safetensors'
    checkpoint = Path(f'{path}.checkpoint')
    command = ['train', *tile(folder), '--out', str(path), *HOW]
    alone = [*CONSOLE, *command]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stopped(
        lambda: subprocess.Popen(alone, **pipes), lambda run: run.send_signal(signal.SIGINT), checkpoint, 2
    )
    begun = epochs_in(checkpoint)
    assert 2 <= begun < 20
    together = lambda: torchrun(*unetkit(*command))
    code, lines = stopped(
        together, lambda launcher: os.killpg(launcher.pid, signal.SIGINT), checkpoint, begun + 2
    )
    (folder / 'machine 0').mkdir()
    shutil.copy(checkpoint, folder / 'machine 0' / 'm.safetensors.checkpoint')
    assert code != 0 and begun + 2 <= epochs_in(checkpoint) < 20
    assert len([line for line in lines if line.startswith('unetkit')]) <= 1, lines

    code, lines = finished(together())
    assert (code, len(lines)) == (0, 20 + 1)  # every epoch is printed by one of them
    assert same_model(path, folder / 'alone.safetensors') and epochs_in(checkpoint) == 20

    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]

    def machine(number):
        "The launcher of one of two machines; only the first has the checkpoint, and only it writes."
        place = [
            '--nnodes=2',
            f'--node-rank={number}',
            '--master-addr=127.0.0.1',
            f'--master-port={port}',
            '--nproc-per-node=1',
        ]
        words = unetkit('train', *tile(folder), '--out', folder / f'machine {number}' / 'm.safetensors', *HOW)
        return subprocess.Popen([sys.executable, '-m', 'torch.distributed.run', *place, *words], **pipes)

    results = [finished(launcher) for launcher in [machine(0), machine(1)]]
    assert [(code, len(lines)) for code, lines in results] == [(0, 21), (0, 0)]
    assert same_model(folder / 'machine 0' / 'm.safetensors', folder / 'alone.safetensors')
    assert not (folder / 'machine 1').exists()


@pytest.mark.slow
def test_translated(folder):
    "With `--compile on` two processes train translated networks; where there is no compiler, one line says so."
    out = folder / 'translated.safetensors'
    code, lines = finished(torchrun(*unetkit('train', *tile(folder), '--out', out, *HOW, '--compile', 'on')))
    assert (code, len(lines)) == (0, 21)
    assert same_model(out, folder / 'alone.safetensors')
    nowhere = os.environ | {'CXX': '/nowhere', 'TORCHINDUCTOR_CACHE_DIR': str(folder / 'cache')}
    command = ['train', *tile(folder), '--out', str(folder / 'plain.safetensors'), *HOW, '--compile', 'on']
    plain = subprocess.run([*CONSOLE, *command], capture_output=True, text=True, env=nowhere)
    assert (plain.returncode, plain.stderr.count('\n')) == (0, 1)
    assert 'training goes on without' in plain.stderr
    assert same_model(folder / 'plain.safetensors', folder / 'alone.safetensors')
