"The loop: seeds, optimiser, one epoch, validation, early stopping, resume, number formats."

import copy
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unetkit.batches import Batches, to_device
from unetkit.losses import LOSSES, class_weights, make_loss
from unetkit.machine import compiled, prepare
from unetkit.models import History, save_model
from unetkit.patches import grid_windows, random_split
from unetkit.scenes import synthetic_scene
from unetkit.training import (
    EarlyStopping,
    LossNotFinite,
    check_finite,
    epochs,
    make_optimizer,
    make_predictor,
    seed_everything,
    train_epoch,
    validate,
)
from unetkit.unet import UNet

SCENE = synthetic_scene(192, 256, seed=5)
WINDOWS = grid_windows([SCENE.size], 32, 32)
PAIRS = to_device([SCENE])
BATCH, TARGETS = next(iter(Batches(PAIRS, WINDOWS, batch_size=10)))
LOSS = make_loss('cross_entropy')


def new_run(dtype='float32', seed=0, lr=5e-3, count=6, compile=False, **options):
    "The model and the epochs of the same run, built afresh every time."
    seed_everything(seed)
    train, valid = random_split(WINDOWS, 0.2, np.random.default_rng(0))
    model, dtype = prepare(UNet(3, 5, width=8, depth=2), 'cpu'), getattr(torch, dtype)
    train = Batches(PAIRS, train, 4, shuffle=True, augment=True, seed=seed, channels_last=True)
    valid = Batches(PAIRS, valid, once=True, channels_last=True)
    if compile:
        options['forward'] = compiled(model, (4, 3, 32, 32), dtype)
    return model, epochs(model, train, valid, LOSS, make_optimizer(model, lr), count, dtype=dtype, **options)


def equal(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_seeds():
    def first_weights(seed):
        seed_everything(seed)
        return next(UNet(width=4, depth=2).parameters()).detach()

    assert torch.equal(first_weights(3), first_weights(3))
    assert not torch.equal(first_weights(3), first_weights(4))
    with pytest.raises(ValueError, match='seed must be in'):
        seed_everything(-1)


def test_fused_or_not_it_is_the_same_adam():
    ours, plain = (UNet(width=4, depth=2) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    for net, adam in (
        (ours, make_optimizer(ours)),
        (plain, torch.optim.Adam(plain.parameters(), fused=False)),
    ):
        for _ in range(3):
            adam.zero_grad()
            LOSS(net(BATCH), TARGETS).backward()
            adam.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match='lr must be'):
        make_optimizer(ours, lr=0.0)


def test_one_epoch():
    net = UNet(width=4, depth=2)
    before = copy.deepcopy(net)
    assert train_epoch(net, [(BATCH, TARGETS)] * 2, LOSS, make_optimizer(net, lr=1e-6)) > 0
    assert not equal(net, before)  # Adam moves every weight by about the rate, however small its gradient
    assert torch.equal(check_finite(torch.tensor([1.0, 3.0]), 'training'), torch.tensor([1.0, 3.0]))
    with pytest.raises(LossNotFinite, match='training loss became .* at step 2'):
        train_epoch(net, [(BATCH, TARGETS)] * 3, LOSS, make_optimizer(net, lr=1e30))
    with pytest.raises(ValueError, match='no training batch'):
        train_epoch(net, [], LOSS, make_optimizer(net))


class Waits(TorchDispatchMode):
    "Counts the operations that Python has to wait for: where a number, or the length of a result, must be known."

    count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        by_mask = op is torch.ops.aten.index.Tensor and any(
            at is not None and at.dtype == torch.bool for at in args[1]
        )
        self.count += by_mask or op in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        )
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize('name', list(LOSSES))
def test_no_step_waits_for_the_device(name):
    "Two steps wait as often as five: neither cutting and turning, nor the loss, nor the optimiser waits."

    def waits(steps):
        net = UNet(width=4, depth=2)
        batches = Batches(PAIRS, WINDOWS[: 4 * steps], 4, shuffle=True, augment=True, once=True)
        with Waits() as seen:
            train_epoch(net, batches, make_loss(name, class_weights([5, 4, 3, 2, 1])), make_optimizer(net))
        return seen.count

    assert waits(2) == waits(5)


def test_validation_is_its_definition():
    model = UNet(3, 5, width=8, depth=2)
    loss, scores = validate(model, Batches(PAIRS, WINDOWS, 100, once=True), LOSS)
    batch, targets = next(iter(Batches(PAIRS, WINDOWS, 100)))
    logits = model.eval()(batch)
    expected = LOSS(logits, targets).item(), (logits.argmax(1) == targets).float().mean().item()
    assert (loss, scores.accuracy) == pytest.approx(expected, abs=1e-5)
    both = targets.numpy(), logits.argmax(1).numpy()
    f1 = [
        2 * ((both[0] == k) & (both[1] == k)).sum() / sum((one == k).sum() for one in both) for k in range(5)
    ]
    assert scores.mean_f1 == pytest.approx(np.mean([f1[k] for k in range(5) if (both[0] == k).any()]))


def test_validation_without_scored_pixels():
    "A batch without a scored pixel changes nothing, even with a loss that answers nan to it, as torch's own does."
    model, torch_loss = UNet(3, 5, width=8, depth=2), torch.nn.CrossEntropyLoss(ignore_index=255)
    nothing = (BATCH, torch.full_like(TARGETS, 255))
    alone, scores = validate(model, [(BATCH, TARGETS)], torch_loss)
    loss, same = validate(model, [(BATCH, TARGETS), nothing], torch_loss)
    assert (loss, same.accuracy) == pytest.approx((alone, scores.accuracy))
    assert (same.confusion_matrix == scores.confusion_matrix).all()
    for batches in ([nothing], []):
        with pytest.raises(ValueError, match='no scored pixel'):
            validate(model, batches, LOSS)
    with pytest.raises(LossNotFinite, match='validation loss became nan at step 3'):
        validate(model, [(BATCH, TARGETS), nothing, (BATCH * math.nan, TARGETS)], torch_loss)


def test_early_stopping():
    "An equal loss is no improvement, and a loss that is not a number never counts as the best."
    stopper = EarlyStopping()
    updates = [stopper.update(loss, n) for n, loss in enumerate([0.5, 0.5, math.nan, 0.4], 1)]
    assert updates == [True, False, False, True]
    assert (stopper.best_epoch, stopper.waited) == (4, 0)


def test_the_weights_that_remain_are_the_best():
    model, run = new_run(count=12)
    history = History(run)
    train, valid = random_split(WINDOWS, 0.2, np.random.default_rng(0))
    assert history[-1].train_loss < history[0].train_loss
    assert history[-1].steps == 12 * -(-len(train) // 4)
    assert validate(model, Batches(PAIRS, valid, once=True), LOSS)[0] == pytest.approx(
        history.best.valid_loss, rel=1e-4
    )


def test_out_of_patience():
    "With a rate forty times too high the run ends early, two epochs after its best."
    _, run = new_run(lr=0.2, count=40, patience=2)
    history = History(run)
    assert len(history) < 40
    assert history.best.number == len(history) - 2


def test_interrupted(tmp_path):
    "A run that is cut off and continued in a fresh model ends at the same weights, bit for bit."
    path = tmp_path / 'run.safetensors'
    undisturbed, run = new_run()
    first = list(run)
    _, run = new_run(checkpoint=path)
    for epoch in run:
        if epoch.number == 3:
            break
    run.close()
    resumed, run = new_run(checkpoint=path)
    second = list(run)
    assert equal(undisturbed, resumed)
    compared = [[(e.number, e.train_loss, e.valid_loss) for e in records] for records in (first, second)]
    assert compared[0] == compared[1]

    early, run = new_run(checkpoint=path)  # whoever stops listening gets the best weights so far
    next(run)
    run.close()
    assert equal(early, resumed)

    for options, message in [
        (dict(settings={'lr': 1e-3}), 'of another run: lr was None'),
        (dict(count=4), '6 epochs, more than the 4'),
        (dict(count=0), 'epochs must be at least 1'),
        (dict(patience=0), 'patience must be at least 1'),
    ]:
        with pytest.raises(ValueError, match=message):
            next(new_run(checkpoint=path, **options)[1])
    save_model(path, early, {})
    with pytest.raises(ValueError, match='no checkpoint of this network'):
        next(new_run(checkpoint=path)[1])


def test_bfloat16_moves_a_run_less_than_another_seed():
    "At the report's rate: 2 % of the first loss at most, in every epoch."
    runs = [new_run(lr=1e-3), new_run('bfloat16', lr=1e-3), new_run(seed=1, lr=1e-3)]
    exact, rounded, other = (np.array([epoch.train_loss for epoch in run]) for _, run in runs)
    assert 0 < abs(rounded - exact).max() < abs(other - exact).max()
    assert abs(rounded - exact).max() < 0.02 * exact[0]


@pytest.mark.slow
def test_a_run_continued_with_a_compiled_network(tmp_path):
    "Adam moves weights whose gradient is almost nothing by whole steps, in a direction that the last digit decides."
    expected = [epoch.train_loss for epoch in new_run(count=4)[1]]
    list(new_run(count=2, checkpoint=tmp_path / 'both.safetensors')[1])
    model, run = new_run(count=4, compile=True, checkpoint=tmp_path / 'both.safetensors')
    assert np.abs(np.subtract(expected, [epoch.train_loss for epoch in run])).max() < 5e-3
    assert list(model.state_dict()) == list(UNet(3, 5, width=8, depth=2).state_dict())


def test_a_predictor():
    "In float32 it is the network itself, without a graph of gradients; in bfloat16 it is close."
    model, run = new_run(count=2)
    list(run)
    predict = make_predictor(model)
    torch.testing.assert_close(predict(BATCH), model(BATCH).detach(), atol=1e-4, rtol=1e-4)
    assert predict(BATCH).dtype == torch.float32 and not predict(BATCH).requires_grad
    agreement = (
        (make_predictor(model, torch.bfloat16)(BATCH).argmax(1) == predict(BATCH).argmax(1)).float().mean()
    )
    assert agreement > 0.9
