"""What changes each step of training: schedule, weight decay, averaged weights, label smoothing, normalisation. Each is compared with an independent
reference, and a run that was interrupted ends at the weights of an undisturbed one, bit for bit."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unetkit import jobs
from unetkit.batches import Batches, to_device
from unetkit.experiments import ModelPipeline
from unetkit.jobs import check_job, say_recipe
from unetkit.labels import ISPRS
from unetkit.layers import ChannelNorm
from unetkit.losses import make_loss
from unetkit.machine import compiled, prepare
from unetkit.models import History, load_model, save_tensors
from unetkit.networks import freeze
from unetkit.optimisers import Average, Cycle, cosine, find_lr, make_optimizer
from unetkit.patches import grid_windows, random_split
from unetkit.rules import Remark, listening
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.training import epochs, seed_everything, train_epoch, validate
from unetkit.unet import UNet

SCENE = synthetic_scene(128, 160, seed=5)
WINDOWS = grid_windows([SCENE.size], 32, 32)
PAIRS = to_device([SCENE])
LOSS = make_loss('cross_entropy')
BATCH, TARGETS = next(iter(Batches(PAIRS, WINDOWS, 8)))


def equal(one, two):
    states = one.state_dict(), two.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][k], states[1][k]) for k in states[0]
    )


def new_run(
    count=4,
    normalisation='none',
    residual=False,
    schedule=None,
    warmup=0.0,
    optimiser='adam',
    weight_decay=0.0,
    part='',
    compile=False,
    **options,
):
    "The model and the epochs of the same run, built afresh every time."
    seed_everything(0)
    train, valid = random_split(WINDOWS, 0.2, np.random.default_rng(0))
    model = prepare(UNet(3, 5, width=4, depth=2, normalisation=normalisation, residual=residual), 'cpu')
    freeze(model, part)
    train = Batches(PAIRS, train, 4, shuffle=True, augment=True, channels_last=True)
    valid = Batches(PAIRS, valid, once=True, channels_last=True)
    optimizer = make_optimizer(model, 5e-3, optimiser, weight_decay)
    cycle = Cycle(5e-3, schedule, warmup) if schedule else None
    if compile:
        options['forward'] = compiled(model, (4, 3, 32, 32))
    return model, epochs(model, train, valid, LOSS, optimizer, count, 99, cycle=cycle, **options)


INGREDIENTS = {
    'batch': dict(normalisation='batch'),
    'channel': dict(normalisation='channel'),
    'residual': dict(residual=True),
    'adamw': dict(optimiser='adamw', weight_decay=0.05),
    'cosine': dict(schedule='cosine', warmup=0.2),
    'one_cycle': dict(schedule='one_cycle'),
    'average': dict(average=0.9),
    'all': dict(
        normalisation='batch', optimiser='adamw', weight_decay=0.05, schedule='cosine', average=0.9, keep='f1'
    ),
    'frozen': dict(normalisation='batch', average=0.9, part='encoder'),
}


@pytest.mark.parametrize('name', INGREDIENTS)
def test_interrupted(name, tmp_path):
    "Every ingredient changes the run, and an interruption does not."
    how = INGREDIENTS[name]
    undisturbed, run = new_run(**how)
    first = list(run)
    plain, run = new_run()
    assert [epoch.valid_loss for epoch in run] != [epoch.valid_loss for epoch in first]
    path = tmp_path / 'run.safetensors'
    for epoch in (run := new_run(checkpoint=path, **how)[1]):
        if epoch.number == 2:
            break
    run.close()
    resumed, run = new_run(checkpoint=path, **how)
    second = list(run)
    assert equal(undisturbed, resumed)
    assert [(e.train_loss, e.valid_loss) for e in first] == [(e.train_loss, e.valid_loss) for e in second]


def rates_of(run):
    "Epochs of a run, and the learning rate after each."
    return [(epoch.number, run.gi_frame.f_locals['optimizer'].param_groups[0]['lr']) for epoch in run]


def test_a_new_cycle_where_one_is_over(tmp_path):
    "A cycle that was begun is finished as it was planned; the epochs beyond it are a new one."
    steps, path = 4, tmp_path / 'run.safetensors'
    last = lambda done, total: 5e-3 * cosine(done * steps - 1, total * steps)
    run = new_run(count=4, schedule='cosine', checkpoint=path)[1]
    assert len(run.gi_frame.f_locals['train']) == steps
    for epoch in run:
        if epoch.number == 2:
            break
    run.close()
    more = rates_of(new_run(count=10, schedule='cosine', checkpoint=path)[1])
    expected = {3: last(3, 4), 4: last(4, 4)} | {4 + n: last(n, 6) for n in range(1, 7)}
    assert dict(more[2:]) == pytest.approx(expected)


def test_a_second_fit_is_a_new_cycle():
    settings = Settings(
        patch_size=32,
        width=4,
        depth=2,
        epochs=2,
        schedule='cosine',
        precision='float32',
        device='cpu',
        focus='',
    )
    pipeline = ModelPipeline(ISPRS.ignoring('clutter'), settings).fit(SCENE)
    assert pipeline.memory['about']['cycle'] == [0, 2]
    with pytest.warns(
        Remark, match='a new cycle of the schedule cosine begins after epoch 2, so these 4 epochs are not 4'
    ):
        pipeline.fit(SCENE)
    assert pipeline.memory['about']['cycle'] == [2, 4] and len(pipeline.history) == 4


def remarks_of(call):
    found = []
    with listening(found.append):
        call()
    return found


@pytest.mark.parametrize(
    ('more', 'count'),
    [
        (dict(schedule='cosine', epochs=21), 1),
        (dict(schedule='cosine', epochs=20), 0),
        (dict(schedule='cosine', epochs=21, validation=0), 0),
        (dict(epochs=21), 0),
    ],
)
def test_a_schedule_that_patience_can_cut_is_named(more, count):
    how = dict(patch_size=32, width=4, depth=2, epochs=1, precision='float32', device='cpu', focus='')
    pipeline = ModelPipeline(ISPRS.ignoring('clutter'), Settings(**how | more))
    found = remarks_of(lambda: next(pipeline.epochs([SCENE])))
    assert sum('patience 20 can end the schedule cosine' in text for text in found) == count


@pytest.mark.parametrize(('schedule', 'count'), [('cosine', 1), ('constant', 0)])
def test_a_new_cycle_is_named_and_a_constant_rate_is_not(schedule, count, tmp_path):
    path = tmp_path / 'run.safetensors'
    assert not remarks_of(lambda: list(new_run(count=2, schedule=schedule, checkpoint=path)[1]))
    found = remarks_of(lambda: list(new_run(count=3, schedule=schedule, checkpoint=path)[1]))
    assert sum('begins after epoch 2' in text for text in found) == count == len(found)


def test_processes_normalise_their_own_part_and_that_is_said(monkeypatch):
    windows = grid_windows([SCENE.size], 32, 32)
    settings = Settings(patch_size=32, batch_size=6)
    say = lambda model: remarks_of(lambda: say_recipe(settings, model, [SCENE], windows, scored=True))
    plain, normed = (UNet(width=4, depth=2, normalisation=name) for name in ('channel', 'batch'))
    assert not say(normed)
    monkeypatch.setattr(jobs, 'rank_and_world', lambda: (0, 4))
    assert not say(plain)
    (text,) = say(normed)
    assert 'each of 4 processes normalises its own part of a batch, about 1.5 windows' in text


def test_the_rate_of_the_report_is_constant():
    "Without a schedule nothing is set: the epochs are those of a loop that knows no schedule."
    plain, run = new_run()
    expected = [epoch.train_loss for epoch in run]
    assert expected == [epoch.train_loss for epoch in new_run(schedule='constant')[1]]


def test_weight_decay_is_torchs():
    "Ours leaves vectors alone; on the others it is torch's AdamW, and without decay both are Adam."
    nets = [UNet(width=4, depth=2) for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    matrices = [weight for weight in nets[1].parameters() if weight.ndim > 1]
    vectors = [weight for weight in nets[1].parameters() if weight.ndim < 2]
    ours = make_optimizer(nets[0], 1e-2, 'adamw', 0.1), make_optimizer(nets[2], 1e-2, 'adamw')
    torchs = torch.optim.AdamW(matrices, 1e-2, weight_decay=0.1), torch.optim.Adam(vectors, 1e-2)
    adam = UNet(width=4, depth=2)
    adam.load_state_dict(nets[0].state_dict())
    steps = [
        (nets[0], ours[:1]),
        (nets[1], torchs),
        (nets[2], ours[1:]),
        (adam, [make_optimizer(adam, 1e-2)]),
    ]
    batch, targets = torch.rand(2, 3, 16, 16), torch.randint(0, 5, (2, 16, 16))
    for net, optimizers in steps:
        for optimizer in optimizers:
            optimizer.zero_grad()
        LOSS(net(batch), targets).backward()
        for optimizer in optimizers:
            optimizer.step()
    for one, two in ((nets[0], nets[1]), (nets[2], adam)):
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert not equal(nets[0], adam)


def test_the_average_is_its_definition():
    "Against the recorded weights of every step, blended in float64; buffers too; the network itself is trained as without."
    seed_everything(0)
    model = UNet(3, 5, width=2, depth=2, normalisation='batch')
    plain, average, expected = copy.deepcopy(model), Average(model, 0.7), None
    optimizers = make_optimizer(model), make_optimizer(plain)
    for step in range(15):
        batches = [(torch.rand(2, 3, 16, 16), torch.randint(0, 5, (2, 16, 16)))]
        train_epoch(model, batches, LOSS, optimizers[0], average=average)
        train_epoch(plain, batches, LOSS, optimizers[1])
        now = {name: value.double() for name, value in model.state_dict().items()}
        keep = min(0.7, (1 + step) / (10 + step))
        expected = now if step == 0 else {k: keep * expected[k] + (1 - keep) * now[k] for k in now}
    assert equal(model, plain)
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-5)
        else:
            assert value == 15


def test_the_averaged_weights_are_validated_shown_and_kept():
    model, run = new_run(average=0.9, count=5)
    _, valid = random_split(WINDOWS, 0.2, np.random.default_rng(0))
    seen, history = [], History()
    for epoch in run:
        history.append(epoch)
        loss = validate(model, Batches(PAIRS, valid, once=True, channels_last=True), LOSS)[0]
        assert loss == pytest.approx(epoch.valid_loss, abs=1e-6)
        seen.append(copy.deepcopy(model))
        live = run.gi_frame.f_locals['run'].average
        assert equal(model, live.module)
    assert equal(model, seen[history.best.number - 1])
    with_average, without = (new_run(average=decay, count=5)[1] for decay in (0.9, 0.0))
    assert [e.train_loss for e in with_average] == [e.train_loss for e in without]


@pytest.mark.slow
@pytest.mark.parametrize('normalisation', ['batch', 'channel'])
def test_compiled(normalisation):
    "The compiled network takes the same steps, and its average is that of the network."
    how = dict(normalisation=normalisation, average=0.9, schedule='cosine', count=3)
    expected = [epoch.valid_loss for epoch in new_run(**how)[1]]
    found = [epoch.valid_loss for epoch in new_run(compile=True, **how)[1]]
    assert found == pytest.approx(expected, abs=5e-3)


def test_a_pixel_is_normalised_alone():
    "Against the definition, in every layout and in bfloat16 with statistics in float32."
    norm = ChannelNorm(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    batch = 50 + torch.randn(2, 6, 5, 7)
    wide = batch.double()
    spread = (wide.var(1, keepdim=True, unbiased=False) + norm.eps).sqrt()
    expected = (wide - wide.mean(1, keepdim=True)) / spread * norm.weight.view(1, -1, 1, 1)
    expected = expected + norm.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(batch).double(), expected, atol=1e-3, rtol=1e-3)
    last = norm(batch.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, norm(batch), atol=1e-5, rtol=1e-5)
    short = batch.bfloat16()
    wide = short.double()
    spread = (wide.var(1, keepdim=True, unbiased=False) + norm.eps).sqrt()
    exact = (wide - wide.mean(1, keepdim=True)) / spread * norm.weight.view(1, -1, 1, 1)
    exact = exact + norm.bias.view(1, -1, 1, 1)
    with torch.autocast('cpu', torch.bfloat16):
        rounded = norm(short).double()
    assert ((rounded - exact).abs() <= 2**-8 * exact.abs() + 1e-3).all()


@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('normalisation', ['batch', 'channel'])
def test_windows_are_exact(normalisation, residual):
    "Outside the reach nothing changes an aligned window, just inside it something does."
    seed_everything(1)
    model = UNet(3, 5, width=4, depth=2, normalisation=normalisation, residual=residual).double()
    for _ in range(3):
        model.train()(torch.rand(4, 3, 32, 32, dtype=torch.float64))
    model.eval()
    image = torch.rand(1, 3, 128, 128, dtype=torch.float64)
    start, size, reach = 48, 8, model.reach
    with torch.no_grad():
        whole = model(image)[..., start : start + size, start : start + size]
        halo = -(-reach // 4) * 4
        cut = image[..., start - halo : start + size + halo, start - halo : start + size + halo]
        window = model(cut)[..., halo : halo + size, halo : halo + size]
        torch.testing.assert_close(window, whole, atol=1e-12, rtol=0)
        changes = []
        for distance in (reach, reach + 1):
            other = image.clone()
            other[:, :, start - distance] += 50
            part = model(other)[..., start : start + size, start : start + size]
            changes.append((part - whole).abs().max().item())
    assert changes[0] > 0 and changes[1] == 0


@pytest.mark.parametrize('normalisation, layer', [('batch', nn.BatchNorm2d), ('channel', ChannelNorm)])
def test_blocks_with_a_normalisation(normalisation, layer):
    model = UNet(width=4, depth=2, normalisation=normalisation)
    assert sum(isinstance(one, layer) for one in model.modules()) == 2 * (1 + 2 + 2)
    twin = UNet(**model.settings).eval()
    twin.load_state_dict(model.eval().state_dict())
    batch = torch.rand(1, 3, 21, 30)
    assert torch.equal(twin(batch), model(batch))
    with pytest.raises(ValueError, match='normalisation must be one of none, batch, channel'):
        UNet(width=4, normalisation='group')


def test_a_residual_block_is_the_sum():
    model = UNet(width=4, depth=1, residual=True)
    batch = torch.rand(1, 3, 8, 8)
    by_hand = model.entry.convs(batch) + F.conv2d(batch, model.entry.shortcut.weight)
    torch.testing.assert_close(model.entry(batch), by_hand)
    assert model.bytes_per_pixel() - UNet(width=4, depth=1).bytes_per_pixel() == 4 * 4


def test_models_of_earlier_versions(tmp_path):
    "They say `batch_norm`, true or false, and no settings of this kind."
    for old, new in ((True, 'batch'), (False, 'none')):
        model = UNet(3, 5, width=4, depth=2, normalisation=new).eval()
        args = {k: v for k, v in model.settings.items() if k not in ('normalisation', 'residual')}
        header = {'network': 'unet', 'args': args | {'batch_norm': old}}
        path = save_tensors(tmp_path / 'm.safetensors', model.state_dict(), header)
        again, about = load_model(path)
        assert again.settings == model.settings and about['args']['normalisation'] == new
        batch = torch.rand(1, 3, 20, 30)
        assert torch.equal(again(batch), model(batch))
    before = {'patch_size': 32, 'loss': 'focal'}
    read = Settings.read(before)
    assert (read.normalisation, read.optimiser, read.schedule, read.average) == (
        'none',
        'adam',
        'constant',
        0.0,
    )


def test_batch_normalisation_of_one_pixel():
    "A last batch of one window would have a single pixel at the lowest level, which has no variance."
    settings = Settings(patch_size=16, depth=4, width=1, normalisation='batch')
    said = 'needs more than one pixel .*, and depth 4 halves 16 pixels to one: .*, or normalisation none or channel'
    with pytest.raises(ValueError, match=said):
        check_job([SCENE], None, ISPRS.ignoring('clutter'), [settings])
    for change in (dict(depth=3), dict(normalisation='none'), dict(normalisation='channel')):
        check_job([SCENE], None, ISPRS.ignoring('clutter'), [replace(settings, **change)])


def test_statistics_of_the_image_need_batch_normalisation():
    "Refused before the training, not after it."
    settings = Settings(width=1, split='random', norm_statistics='image', normalisation='none')
    with pytest.raises(ValueError, match='for networks with batch normalisation, and this one has none'):
        check_job([SCENE], None, ISPRS.ignoring('clutter'), [settings])
    check_job([SCENE], None, ISPRS.ignoring('clutter'), [replace(settings, normalisation='batch')])


def states(batches):
    "Every generator that a range test could move."
    found = [
        torch.get_rng_state(),
        batches.rng.bit_generator.state,
        random.getstate(),
        np.random.get_state()[1],
    ]
    return repr([one.tolist() if hasattr(one, 'tolist') else one for one in found])


@pytest.mark.parametrize('normalisation', ['none', 'batch'])
def test_a_range_test_leaves_no_trace(normalisation):
    "Weights, statistics, gradients, the state of the optimiser, the order of the batches and all generators."
    seed_everything(0)
    model = UNet(3, 5, width=4, depth=2, normalisation=normalisation)
    optimizer, batches = make_optimizer(model), Batches(PAIRS, WINDOWS, 4, shuffle=True, augment=True)
    train_epoch(model, batches, LOSS, optimizer)
    before = copy.deepcopy((model, optimizer.state_dict())), states(batches)
    test = find_lr(model, batches, LOSS, optimizer, steps=30)
    assert equal(model, before[0][0]) and states(batches) == before[1]
    assert repr(optimizer.state_dict()) == repr(before[0][1])
    assert test.rates[0] == 1e-6 and len(test.rates) == len(test.losses) <= 30


def test_a_range_test_is_a_training():
    "Against a loop that takes the same steps, and smooths the losses by their definition."
    seed_everything(0)
    model = UNet(3, 5, width=4, depth=2)
    test = find_lr(
        model, [(BATCH, TARGETS)], LOSS, torch.optim.SGD(model.parameters(), 1.0), 1e-3, 1.0, 20, 0.5
    )
    losses = []
    for rate in np.geomspace(1e-3, 1.0, 20):
        loss = LOSS(model(BATCH), TARGETS)
        losses.append(loss.item())
        for weight, slope in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters()))):
            weight.data -= rate * slope
    shares = [0.5 ** np.arange(n)[::-1] for n in range(1, 21)]
    smooth = [np.average(losses[: len(share)], weights=share) for share in shares]
    count = len(test.rates)
    assert count >= 10 and test.losses == pytest.approx(smooth[:count], rel=1e-3)
    assert count == 20 or not smooth[count] <= 4 * min(smooth[:count])
    assert test.rates == pytest.approx(np.geomspace(1e-3, 1.0, 20)[:count])


def test_a_range_test_of_a_pipeline():
    settings = Settings(
        patch_size=32, width=4, depth=2, epochs=1, precision='float32', device='cpu', focus=''
    )
    pipeline = ModelPipeline(ISPRS.ignoring('clutter'), settings)
    before = torch.get_rng_state()
    test = pipeline.find_lr(SCENE, steps=40)
    assert pipeline.model is None and pipeline.values is None and torch.equal(before, torch.get_rng_state())
    assert 1e-5 < test.suggestion < 1
    assert pipeline.find_lr(SCENE, steps=40) == test
    fingerprint = pipeline.fit(SCENE).fingerprint()
    memory = repr(pipeline.memory['about'])
    assert pipeline.find_lr(SCENE, steps=40) != test
    assert pipeline.fingerprint() == fingerprint and repr(pipeline.memory['about']) == memory


def test_a_cycle_that_ends_early_is_said(tmp_path):
    "Fewer epochs than were planned leave the rates high; more are a new cycle; a constant rate is as it should be."
    file = tmp_path / 'run'
    run = new_run(10, schedule='one_cycle', checkpoint=file)[1]
    next(run)
    run.close()
    with pytest.warns(Remark, match=r'planned for 10 epochs \(one_cycle\), and after 3 they are not yet low'):
        list(new_run(3, schedule='one_cycle', checkpoint=file)[1])
    for done in (9, 10):
        (text,) = Cycle(schedule='cosine', last=10).remarks(done, 12, 5)
        assert 'a new cycle of the schedule cosine begins after epoch 10' in text
    assert Cycle(schedule='cosine', last=10).remarks(10, 10, 5) == []
    assert Cycle(schedule='constant', last=10).remarks(10, 12, 5) == []
    assert Cycle(schedule='constant', last=10).remarks(1, 3, 5) == []


def test_a_cycle_of_few_steps_is_said():
    assert 'has 1 of the 10 steps' in Cycle(schedule='one_cycle').remarks(0, 1, 1)[0]
    assert 'has 2 of the 10 steps' in Cycle(schedule='one_cycle', last=10).remarks(4, 11, 2)[0]
    assert Cycle(schedule='one_cycle').remarks(0, 5, 2) == Cycle(schedule='cosine').remarks(0, 1, 1) == []


@pytest.mark.parametrize('average', [0.0, 0.5])
def test_between_two_epochs_the_network_is_in_evaluation_mode(average, tmp_path):
    "Also where training was left there, and in the epochs that a checkpoint holds, which show what is kept."
    model, run = new_run(2, normalisation='batch', average=average, checkpoint=tmp_path / 'run')
    next(run)
    shown, training = copy.deepcopy(model.state_dict()), model.training
    run.close()
    assert not training and not model.training
    model, run = new_run(2, normalisation='batch', average=average, checkpoint=tmp_path / 'run')
    next(run)
    assert all(torch.equal(value, shown[name]) for name, value in model.state_dict().items())
    assert not model.training
    run.close()


def test_a_range_test_begins_as_a_training_does(tmp_path):
    "With the weights of a model, its frozen part, and validation tiles."
    settings = Settings(
        patch_size=32, width=4, depth=2, epochs=1, precision='float32', device='cpu', focus=''
    )
    classes = ISPRS.ignoring('clutter')
    first = ModelPipeline(classes, settings).fit(SCENE)
    fresh, pipeline = (ModelPipeline(classes, settings) for _ in range(2))
    plain = fresh.find_lr(SCENE, steps=20)
    with pytest.warns(Remark, match='begins with the weights of another model'):
        begun = pipeline.find_lr(SCENE, steps=20, init=first)
    with pytest.warns(Remark, match='begins with the weights of another model'):
        frozen = pipeline.find_lr(SCENE, steps=20, init=first, freeze='encoder')
    assert len({tuple(test.losses) for test in (plain, begun, frozen)}) == 3
    assert first.find_lr(SCENE, steps=20, fresh=True) == plain
    assert pipeline.find_lr(SCENE, steps=20, valid=SCENE) != plain
    assert pipeline.model is None and pipeline.begun == {}
    with pytest.raises(ValueError, match='freeze keeps the weights that a model begins with'):
        pipeline.find_lr(SCENE, steps=20, freeze='encoder')


class Dropping(UNet):
    "A U-Net with dropout."

    def forward(self, batch):
        return F.dropout(super().forward(batch), 0.5, self.training)


def test_a_range_test_with_dropout_has_its_own_chance():
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model = Dropping(3, 5, width=2, depth=1)
        for weight in model.parameters():
            nn.init.constant_(weight, 0.1)
        before = torch.get_rng_state()
        runs.append(find_lr(model, [(BATCH, TARGETS)], LOSS, make_optimizer(model), steps=12))
        assert torch.equal(torch.get_rng_state(), before)
    assert runs[0] == runs[1]
