"Device, number format, layout, processes, compiled networks, progress."

import copy
import io
import os
from contextlib import redirect_stderr
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist

from unetkit import machine
from unetkit.losses import LOSSES, class_weights, make_loss
from unetkit.machine import (
    Chance,
    OneSize,
    OwnPart,
    compiled,
    compute_logits,
    in_step,
    may_draw,
    on_first,
    pick_precision,
    prepare,
    process_group,
    track,
)
from unetkit.models import Epoch
from unetkit.unet import UNet


@pytest.mark.parametrize('told, dtype', [('1', torch.bfloat16), ('0', torch.float32)])
def test_bfloat16_by_environment(monkeypatch, told, dtype):
    monkeypatch.setenv('UNETKIT_BFLOAT16', told)
    assert pick_precision(device='cpu') == dtype
    assert pick_precision('float32', 'cpu') == torch.float32


def test_bfloat16_by_environment_says_what_is_wrong(monkeypatch):
    monkeypatch.setenv('UNETKIT_BFLOAT16', 'yes')
    with pytest.raises(ValueError, match="UNETKIT_BFLOAT16 must be one of 0, 1, got 'yes'"):
        pick_precision()


def test_logits_leave_in_float32():
    model, batch = UNet(width=4, depth=2), torch.rand(1, 3, 16, 16)
    for dtype in (torch.float32, torch.bfloat16):
        assert compute_logits(model, batch, dtype).dtype == torch.float32
    assert compute_logits(model.double(), batch.double()).dtype == torch.float64


RATIOS = {'dice', 'dice_cross_entropy'}  # Losses that are ratios of sums over a batch: they have no parts


@pytest.mark.parametrize('name', list(LOSSES))
def test_the_mean_of_the_parts(name):
    """The gradient of a batch is the mean of its parts' gradients if all parts have equally many scored pixels, for a loss that is a mean
    over scored pixels. The tolerance is that of sums in float32 (2**-24) over a thousand terms."""
    torch.manual_seed(0)
    scores, truth = torch.randn(6, 5, 8, 8), torch.randint(0, 5, (6, 8, 8))
    truth[:, :, 4:] = 255
    loss_fn = make_loss(name, class_weights([5, 4, 3, 2, 1]))

    def gradient(windows):
        logits = scores[windows].clone().requires_grad_()
        loss_fn(logits, truth[windows]).backward()
        return logits.grad

    parts = torch.cat([gradient(slice(n, n + 2)) for n in (0, 2, 4)]) / 3
    whole = gradient(slice(0, 6))
    apart = (parts - whole).abs().max() / whole.abs().max()
    right = apart > 1e-2 if name in RATIOS else apart < 1e-4
    assert right, (
        f'{name} differs by {apart:.2g}: a mean over pixels must not be in RATIOS, any other loss must'
    )


def test_own_part():
    batches = [(torch.arange(n * 4.0).view(n, 1, 2, 2), torch.arange(n)) for n in (6, 6, 1)]
    found = []
    for rank in (0, 1):
        part = OwnPart(SimpleNamespace(batch_size=6, rng='rng'))
        part.batches, part.rank, part.world = batches, rank, 2
        assert len(part) == 3 and part.rng == 'rng'
        found.append([targets.tolist() for _, targets in part])
    assert found == [[[0, 2, 4]] * 2 + [[0]], [[1, 3, 5]] * 2 + [[0]]]
    last = torch.rand(7, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    part.batches = [(last, torch.arange(7))]
    assert next(iter(part))[0].is_contiguous(memory_format=torch.channels_last)


def test_own_part_needs_a_window_for_each_process(monkeypatch):
    monkeypatch.setattr(machine, 'rank_and_world', lambda: (0, 4))
    with pytest.raises(ValueError, match='a batch_size of 3 cannot be shared by 4 processes'):
        OwnPart(SimpleNamespace(batch_size=3, rng=None))


def test_alone_nothing_happens():
    model = UNet(width=2, depth=1)
    assert in_step(model) is model
    with process_group():
        assert machine.rank_and_world() == (0, 1)
    assert on_first(lambda *, a: a)(a=3) == 3


def test_an_error_leaves_the_group(monkeypatch):
    "A world of one, told by the environment: an error passes, and the group is left."
    store = dist.HashStore()
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr(dist, 'rendezvous', lambda *_: iter([(store, 0, 1)]))
    with pytest.raises(KeyError):
        with process_group():
            raise KeyError('lost')
    assert not dist.is_initialized()
    with pytest.raises(SystemExit):
        with process_group():
            raise KeyError('the second to fail')


def batch_of(model, shape=(4, 3, 32, 32)):
    torch.manual_seed(1)
    return torch.rand(shape).contiguous(memory_format=torch.channels_last)


def test_one_size_only():
    model = UNet(width=2, depth=1)
    forward = OneSize(model, lambda batch: 'program', (2, 3, 8, 8))
    assert forward(torch.rand(2, 3, 8, 8)) == 'program'
    assert forward(torch.rand(1, 3, 8, 8)).shape == (1, 5, 8, 8)


@pytest.mark.slow
def test_compiled_gradients():
    "Gradients agree to the last digits, and so do running means, on which the trial batch has left no trace."
    plain = prepare(UNet(3, 5, width=8, depth=2, normalisation='batch'), 'cpu').train()
    twin, found = copy.deepcopy(plain), []
    batch, targets = batch_of(plain), torch.randint(0, 5, (4, 32, 32))
    forward = compiled(twin, tuple(batch.shape))
    for run, net in ((plain, plain), (forward, twin)):
        make_loss('cross_entropy')(run(batch), targets).backward()
        found.append([p.grad for p in net.parameters()] + list(net.buffers()))
    assert forward is not twin
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_no_compiler():
    "Where compiling fails, what comes back is the network, and there is one line about it."
    import torch._inductor.config as inductor

    with (
        redirect_stderr(io.StringIO()) as told,
        inductor.patch({'cpp.cxx': ('no-such-compiler',), 'fx_graph_cache': False}),
    ):
        net = prepare(UNet(3, 5, width=2, depth=1), 'cpu')
        assert compiled(net, (2, 3, 32, 32)) is net
    assert told.getvalue().count('\n') == 1
    assert 'training goes on without' in told.getvalue()
    assert {p.grad for p in net.parameters()} == {None}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_track_in_a_log(capsys):
    epoch = Epoch(2, 8, 1.0, 1.0, 0.5, 5.0)
    with redirect_stderr(io.StringIO()):
        assert list(track([epoch], 20, 'demo: ')) == [epoch]
    line = capsys.readouterr().out
    assert (
        line.startswith('demo: epoch  2/20') and '5.0 s, at most 90 s left' in line and line.count('\n') == 1
    )


def test_track_in_a_terminal(capsys):
    records = [Epoch(n, 4 * n, 1.0, 1 / n, n / 4, 0.1) for n in (1, 2)]
    with redirect_stderr(Terminal()) as terminal:
        assert list(track(records, 2, 'demo: ')) == records
    last = terminal.getvalue().strip().split('\r')[-1]
    for text in ('demo: 100%', '2/2', 'validation loss 0.500, accuracy 50.0%'):
        assert text in last
    assert 'train loss' not in terminal.getvalue() and capsys.readouterr().out == ''


def test_track_closes_what_it_tracks():
    closed = []

    def run():
        try:
            yield Epoch(1, 4, 1.0, 1.0, 0.5, 0.1)
            yield Epoch(2, 8, 1.0, 1.0, 0.5, 0.1)
        finally:
            closed.append(True)

    shown = track(run(), 2)
    next(shown)
    shown.close()
    assert closed == [True]


def test_processor_of_this_machine(monkeypatch):
    "Without the variable, torch is asked; a device that is neither processor nor CUDA gets float32."
    monkeypatch.delenv('UNETKIT_BFLOAT16', raising=False)
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'avx512_bf16': True}, raising=False)
    assert machine.computes_bfloat16('cpu') and not machine.computes_bfloat16('mps')
    monkeypatch.setattr(torch.cpu, 'get_capabilities', dict, raising=False)
    assert not machine.computes_bfloat16('cpu')
    assert os.environ.get('UNETKIT_BFLOAT16') is None


def test_a_network_that_draws_is_not_compiled(capsys):
    "One that draws nothing is asked once; the kit's own is not asked."
    dropping, quiet = (
        torch.nn.Sequential(UNet(width=2, depth=1), torch.nn.Dropout(0.5)),
        UNet(width=2, depth=1),
    )
    assert (may_draw(dropping), may_draw(quiet)) == (True, False)
    before, state = copy.deepcopy(dropping.state_dict()), torch.get_rng_state()
    assert compiled(dropping, (2, 3, 16, 16)) is dropping
    assert 'the network draws random numbers while it trains: it is not compiled' in capsys.readouterr().err
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in dropping.state_dict().items())


def test_every_way_to_draw():
    "What torch's layers and functions draw on a processor comes from the generator that they are lent."
    nn, before = torch.nn, torch.get_rng_state()
    with Chance(1) as chance:
        batch = torch.randn(2, 3, 8, 8)
        nn.Dropout2d()(batch)
        nn.AlphaDropout()(batch)
        nn.RReLU()(batch)
        nn.FractionalMaxPool2d(2, output_size=2)(batch)
        nn.TransformerEncoderLayer(8, 2)(batch[0])
        nn.functional.gumbel_softmax(batch)
        nn.init.trunc_normal_(batch)
        nn.init.orthogonal_(torch.empty(3, 3))
        torch.randint(5, (2,)), torch.randint(2, 5, (2,)), torch.randperm(4), torch.rand(2)
        torch.multinomial(torch.ones(4), 2), torch.normal(0.0, 1.0, (2,)), torch.poisson(torch.ones(3))
        draws = chance.draws
        torch.rand(2, generator=torch.Generator())  # the caller's own
    assert chance.draws == draws > 15
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_of_a_gpu():
    "Its operator takes no generator; what stands for it drops as many, and has the same gradient."
    batch = torch.ones(10_000, requires_grad=True)
    with Chance():
        found, kept = torch.native_dropout(batch, 0.25, True)
        assert torch.equal(torch.native_dropout(batch, 0.25, False)[0], batch)
        assert not torch.native_dropout(batch, 1.0, True)[0].any()
    found.sum().backward()
    assert torch.equal(batch.grad, found.detach()) and torch.equal(found != 0, kept)
    assert abs(kept.float().mean().item() - 0.75) < 5 * (0.75 * 0.25 / 10_000) ** 0.5
    torch.testing.assert_close(found.max().item(), 1 / 0.75)


def drawing_operators():
    "Every operator of torch that is marked as drawing."
    packets = [getattr(torch.ops.aten, name) for name in dir(torch.ops.aten)]
    packets = [packet for packet in packets if hasattr(packet, 'overloads')]
    found = [getattr(packet, name) for packet in packets for name in packet.overloads()]
    return [one for one in found if torch.Tag.nondeterministic_seeded in one.tags]


def test_every_operator_that_draws():
    "One takes the generator and else the same arguments, or it is lent the global one; the known ones take it."
    found = drawing_operators()
    assert len(found) > 50
    for one in found:
        form = machine._with_generator(one)
        if form is None:
            assert not any(argument.name == 'generator' for argument in one._schema.arguments)
            continue
        names = [argument.name for argument in form._schema.arguments]
        names.remove('generator')
        assert names == [a.name for a in one._schema.arguments if a.name != 'generator'], one
    lent = {one._schema.name.removeprefix('aten::') for one in found if machine._with_generator(one) is None}
    assert not any(
        name.rstrip('_') in {'rand', 'randint', 'randperm', 'normal', 'bernoulli'} for name in lent
    )


@pytest.mark.parametrize(
    'draw',
    [
        lambda: torch.randint_like(torch.ones(3), 1, 5),
        lambda: torch.randint_like(torch.ones(3), 5),
        lambda: torch.rand(3, out=torch.ones(3)),
        lambda: torch.randperm(9, out=torch.ones(9, dtype=torch.int64)),
        lambda: torch.randint(2, 5, (3,), out=torch.ones(3, dtype=torch.int64)),
        lambda: torch.rand_like(torch.ones(3)),
        lambda: torch.ops.aten.dropout.default(torch.ones(99), 0.5, True),
        lambda: torch.ops.aten.native_dropout.out(
            torch.ones(99), 0.5, True, out0=torch.ones(99), out1=torch.ones(99, dtype=torch.bool)
        ),
    ],
)
def test_operators_of_every_form(draw):
    "They give the numbers that the seed gives, the global generator stays, and they are counted."
    torch.manual_seed(3)
    expected = draw()
    before = torch.get_rng_state()
    with torch.inference_mode(), Chance(3) as chance:
        found = draw()
    assert torch.equal(torch.get_rng_state(), before) and chance.draws > 0
    for one, other in zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, expected)), strict=True):
        assert torch.equal(one, other)


def test_an_operator_without_a_generator():
    "It draws from the own one as long as it runs; one that drew nothing is not counted."
    before = torch.get_rng_state()
    with Chance(3) as chance:
        ours = chance.generators['cpu']
        found = chance._lent(ours, lambda: torch.rand(4), (), {})
        assert chance.draws == 1
        chance._lent(ours, lambda: torch.ones(4), (), {})
        assert chance.draws == 1
    assert torch.equal(found, torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(torch.get_rng_state(), before)
