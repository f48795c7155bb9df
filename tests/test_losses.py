"Losses and weights, compared with PyTorch, MONAI, brute force and algebra; empty cases; what raises an error."

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unetkit.labels import class_counts
from unetkit.losses import (
    LOSSES,
    SCHEMES,
    class_weights,
    cross_entropy,
    decision_threshold,
    dice_cross_entropy,
    dice_loss,
    focal_loss,
    make_loss,
    weighted_binary,
    weighted_cross_entropy,
)
from unetkit.scenes import synthetic_scene

COUNTS = torch.tensor([1132698, 867583, 1255273, 1653521, 13160])  # The report's training tile
SHARE = COUNTS / COUNTS.sum()
WEIGHTS = class_weights(COUNTS)


def near(a, b, eps=1e-5):
    torch.testing.assert_close(torch.as_tensor(a).double(), torch.as_tensor(b).double(), rtol=0, atol=eps)


@pytest.fixture(scope='module')
def batch():
    torch.manual_seed(0)
    logits, targets = 2 * torch.randn(2, 5, 12, 10), torch.randint(0, 5, (2, 12, 10))
    targets[torch.rand(targets.shape) < 0.1] = 255
    return logits, targets


@pytest.fixture(scope='module')
def full():
    return torch.randint(0, 5, (2, 12, 10), generator=torch.Generator().manual_seed(1))


def value_and_gradient(loss_fn, logits, targets):
    "Loss, and the largest gradient it sends back."
    probe = logits.clone().requires_grad_()
    loss = loss_fn(probe, targets)
    loss.backward()
    return loss.item(), probe.grad.abs().max().item()


# Weights


def test_the_weights_of_the_report():
    assert COUNTS.sum() == 2565 * 1919
    near(SHARE[4], 0.0027, 5e-5)
    near(WEIGHTS, [4.35, 5.67, 3.92, 2.98, 374.03], 5e-3)
    near(WEIGHTS * SHARE, torch.ones(5))
    ratios = [class_weights(COUNTS, scheme)[4] / class_weights(COUNTS, scheme)[3] for scheme in SCHEMES]
    near(torch.stack(ratios), [125.65, 11.21, 125.65, 13.58, 1.0], 0.01)
    assert class_weights([1, 10**9], 'log').max() < 50.5


@pytest.mark.parametrize('scheme', SCHEMES)
def test_a_class_that_is_absent_gets_0_and_changes_no_other(scheme):
    with_absent = class_weights([30, 0, 10], scheme)
    assert with_absent[1] == 0
    assert torch.equal(with_absent[[0, 2]], class_weights([30, 10], scheme))


def test_counts_may_be_an_array_and_a_scheme_a_function():
    assert torch.equal(class_weights(np.array([2, 2])), class_weights([1, 1]))
    near(class_weights([3, 1], lambda share: share**-2), [16 / 9, 16])


@pytest.mark.parametrize(
    'counts, scheme, message',
    [
        ([0, 0, 0], 'inverse', 'all 3 classes are 0'),
        ([3, -1], 'inverse', '>= 0 for each class'),
        ([1, 2], 'linear', 'scheme must be one of inverse, sqrt'),
    ],
)
def test_weights_that_cannot_be(counts, scheme, message):
    with pytest.raises(ValueError, match=message):
        class_weights(counts, scheme)


# Weighted cross entropy


@pytest.mark.parametrize('kind', ['pixels', 'weights'])
def test_a_loop_agrees(batch, kind):
    logits, targets = batch
    total = count = mass = 0
    for n, row, col in np.ndindex(*targets.shape):
        true = targets[n, row, col].item()
        if true != 255:
            total -= WEIGHTS[true].item() * logits[n, :, row, col].softmax(0)[true].log().item()
            count, mass = count + 1, mass + WEIGHTS[true].item()
    expected = total / (count if kind == 'pixels' else mass)
    near(weighted_cross_entropy(logits, targets, WEIGHTS, kind), expected, 1e-3)


def test_torch_agrees(batch):
    logits, targets = batch
    by_weights, by_pixels = (
        weighted_cross_entropy(logits, targets, WEIGHTS, kind) for kind in ('weights', 'pixels')
    )
    near(by_weights, F.cross_entropy(logits, targets, WEIGHTS, ignore_index=255))
    near(by_pixels, by_weights * WEIGHTS[targets[targets != 255]].mean(), 1e-3)
    for kind in ('weights', 'pixels'):
        plain = F.cross_entropy(logits, targets, ignore_index=255)
        near(weighted_cross_entropy(logits, targets, normalisation=kind), plain)


def test_half_precision_in_float32_out(batch):
    logits, targets = batch[0].bfloat16(), batch[1]
    half = weighted_cross_entropy(logits, targets, WEIGHTS)
    assert half.dtype == torch.float32
    near(half / weighted_cross_entropy(logits.float(), targets, WEIGHTS), 1, 1e-6)


@pytest.mark.parametrize('kind', ['pixels', 'weights'])
def test_nothing_to_score_is_0_with_gradient_0(batch, kind):
    logits, targets = batch
    nothing, only_cars = torch.full_like(targets, 255), torch.full_like(targets, 4)
    absent = partial(weighted_cross_entropy, weights=class_weights([5, 5, 5, 5, 0]), normalisation=kind)
    assert value_and_gradient(absent, logits, nothing) == (0, 0)
    assert value_and_gradient(absent, logits, only_cars) == (0, 0)
    assert F.cross_entropy(logits, nothing, ignore_index=255).isnan()


def test_an_unknown_normalisation(batch):
    with pytest.raises(ValueError, match='normalisation must be one of pixels, weights'):
        weighted_cross_entropy(*batch, normalisation='mean')


def test_what_the_normalisation_changes():
    kept = []
    for size, cars in [(10_000, 1), (128 * 128, 1000), (64 * 64, 1000), (32 * 32, 640)]:
        trees = WEIGHTS[3] * (size - cars)
        kept.append(trees / (trees + WEIGHTS[4] * cars))
    near(torch.stack(kept), [0.988, 0.109, 0.024, 0.005], 1e-3)
    blank = torch.zeros(1, 5, 1, 100_000)
    chance = torch.Generator().manual_seed(0)
    sample = torch.multinomial(SHARE, 100_000, replacement=True, generator=chance).view(1, 1, -1)
    near(weighted_cross_entropy(blank, sample, WEIGHTS, 'weights'), np.log(5), 1e-4)
    near(weighted_cross_entropy(blank, sample, WEIGHTS), 5 * np.log(5), 0.3)


# Decisions


def test_thresholds():
    assert decision_threshold(class_weights(COUNTS, 'none'), 4, 0) == 0.5
    near(decision_threshold(WEIGHTS, 4, 0), 0.0115, 5e-5)
    near(decision_threshold(class_weights(COUNTS, 'sqrt'), 4, 0), 0.097, 1e-3)
    near(decision_threshold(10 * WEIGHTS, 4, 0), decision_threshold(WEIGHTS, 4, 0), 1e-9)
    near(decision_threshold(WEIGHTS, 4, 0) + decision_threshold(WEIGHTS, 0, 4), 1, 1e-9)
    assert decision_threshold([0, 2], 1, 0) == 0
    with pytest.raises(ValueError, match='both have weight 0'):
        decision_threshold([0, 0, 1], 0, 1)


def cheapest(loss_of):
    "For each P (0, 0.001, ..., 1) the answer q of a thousand with the smallest expected loss."
    grid = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    P = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    return P[:, 0], grid[loss_of(P, grid).argmin(dim=1)]


def flips(loss_of):
    "First P on the grid at which the cheapest answer favours the car."
    P, q = cheapest(loss_of)
    return P[q > 0.5][0].item()


def unweighted(P, q):
    return -P * q.log() - (1 - P) * (1 - q).log()


def test_brute_force_finds_the_thresholds():
    car, road = WEIGHTS[4].item(), WEIGHTS[0].item()
    near(flips(lambda P, q: -P * car * q.log() - (1 - P) * road * (1 - q).log()), 0.012, 1e-9)
    near(flips(unweighted), 0.5, 2e-3)
    P, q = cheapest(lambda P, q: (car + road) * unweighted(P, q))  # the faulty form
    near(flips(lambda P, q: (car + road) * unweighted(P, q)), 0.5, 2e-3)
    near(q, P, 2e-3)


def test_exchanging_the_weights_of_the_faulty_form_changes_nothing():
    pair = torch.tensor([0.8, 0.2]).log().view(1, 2, 1, 1)
    for w in ([3.0, 1.0], [1.0, 3.0]):
        near(weighted_binary(pair, torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor(w)), -4 * np.log(0.8))


def best_constant(loss_fn):
    "Probabilities of the constant answer with the smallest expected loss."
    constant = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [constant], max_iter=150, line_search_fn='strong_wolfe', tolerance_grad=1e-12, tolerance_change=1e-14
    )

    def closure():
        optimizer.zero_grad()
        answer = constant.view(1, 5, 1, 1)
        loss = sum(s * loss_fn(answer, torch.full((1, 1, 1), k)) for k, s in enumerate(SHARE.double()))
        loss.backward()
        return loss

    optimizer.step(closure)
    return constant.detach().softmax(0)


def test_the_best_constant_of_three_losses():
    "The double precision of the answer needs losses in double precision: torch's own, and the faulty form."
    exact = WEIGHTS.double()

    def true_weighted(logits, targets, w=exact):
        return F.cross_entropy(logits, targets, w, reduction='sum')

    near(best_constant(partial(true_weighted, w=torch.ones_like(exact)))[4], 0.0027, 5e-5)
    near(best_constant(partial(weighted_binary, weights=exact))[4], 0.0027, 5e-5)
    near(best_constant(true_weighted), torch.full((5,), 0.20), 2e-3)


# Dice and focal


def test_dice_by_hand():
    answers = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).T.log().view(1, 2, 1, 2)
    by_hand = 1 - (2 * 0.8 / (1.2 + 1) + 2 * 0.6 / (0.8 + 1)) / 2
    near(dice_loss(answers, torch.tensor([[[0, 1]]])), by_hand, 1e-6)
    weighted = 1 - (3 * 2 * 0.8 / (1.2 + 1) + 2 * 0.6 / (0.8 + 1)) / 4
    near(dice_loss(answers, torch.tensor([[[0, 1]]]), torch.tensor([3.0, 1.0])), weighted, 1e-6)


def test_monai_agrees(batch, full):
    losses = pytest.importorskip('monai.losses')
    logits = batch[0]
    dice = losses.DiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0)
    near(dice_loss(logits, full), dice(logits, full[:, None]))
    focal = losses.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)
    near(focal_loss(logits, full), 5 * focal(logits, full[:, None]))  # its mean is over pixels and classes
    both = losses.DiceCELoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0)
    near(dice_cross_entropy(logits, full), both(logits, full[:, None]))


def test_properties_of_dice(batch, full):
    logits, targets = batch
    perfect = 50 * F.one_hot(full, 5).movedim(-1, 1).float()
    near(dice_loss(perfect, full), 0)
    near(dice_loss(perfect[..., :1], full[..., :1]), 0)  # some classes are absent
    noisy = logits + 9 * torch.rand_like(logits) * (targets == 255).unsqueeze(1)
    assert dice_loss(noisy, targets) == dice_loss(logits, targets)
    nothing = torch.full_like(targets, 255)
    assert value_and_gradient(dice_loss, logits, nothing) == (0, 0)
    assert value_and_gradient(partial(dice_loss, weights=torch.zeros(5)), logits, targets) == (0, 0)


def test_dice_and_cross_entropy_are_added(batch):
    "Ignored pixels and weights count as in the two that are added: cross entropy has no weights."
    logits, targets = batch
    added = dice_loss(logits, targets, WEIGHTS) + F.cross_entropy(logits, targets, ignore_index=255)
    near(dice_cross_entropy(logits, targets, WEIGHTS), added)
    assert value_and_gradient(dice_cross_entropy, logits, torch.full_like(targets, 255)) == (0, 0)


def test_focal_discounts_what_is_right_already(batch, full):
    logits, targets = batch
    given = torch.tensor([0.9, 0.6, 0.1])
    toy = torch.stack([given, 1 - given]).log().view(1, 2, 1, 3)
    by_hand = ((1 - given) ** 2 * -given.log()).mean()
    near(focal_loss(toy, torch.zeros(1, 1, 3, dtype=torch.long)), by_hand, 1e-6)
    near((1 - given[[0, 2]]) ** 2, [0.01, 0.81], 1e-6)
    near(focal_loss(logits, targets, gamma=0), weighted_cross_entropy(logits, targets))
    near(
        focal_loss(logits, targets, WEIGHTS, gamma=0), weighted_cross_entropy(logits, targets, WEIGHTS), 1e-3
    )
    assert value_and_gradient(focal_loss, logits, torch.full_like(targets, 255)) == (0, 0)
    sure = (50 * F.one_hot(full, 5).movedim(-1, 1).float()).requires_grad_()
    focal_loss(sure, full, gamma=0.5).backward()
    assert sure.grad.isfinite().all()
    with pytest.raises(ValueError, match='gamma must be at least 0, got -1'):
        focal_loss(logits, targets, gamma=-1)


# By name


def test_every_name_gives_its_loss(batch):
    logits, targets = batch
    expected = {
        'cross_entropy': F.cross_entropy(logits, targets, ignore_index=255),
        'weighted_cross_entropy': weighted_cross_entropy(logits, targets, WEIGHTS),
        'dice': dice_loss(logits, targets, WEIGHTS),
        'dice_cross_entropy': dice_loss(logits, targets, WEIGHTS) + cross_entropy(logits, targets),
        'focal': focal_loss(logits, targets, WEIGHTS),
    }
    assert expected.keys() == LOSSES.keys(), 'a value of every loss, by an independent formula'
    for name, value in expected.items():
        near(make_loss(name, WEIGHTS)(logits, targets), value)


@pytest.mark.parametrize('weights', [None, WEIGHTS])
def test_label_smoothing_is_a_soft_target(batch, weights):
    "The truth spread over the classes, written out as probabilities, and given to torch."
    logits, targets = batch
    scored = targets != 255
    soft = 0.9 * F.one_hot(targets.where(scored, 0), 5).movedim(-1, 1).float() + 0.1 / 5
    charge = F.cross_entropy(logits, soft, weights, reduction='none')
    expected = charge[scored].mean()
    name = 'cross_entropy' if weights is None else 'weighted_cross_entropy'
    near(make_loss(name, weights, 0.1)(logits, targets), expected)
    if weights is None:
        both = dice_loss(logits, targets) + expected
        near(make_loss('dice_cross_entropy', label_smoothing=0.1)(logits, targets), both)
    assert abs(expected - make_loss(name, weights)(logits, targets)) > 1e-3


@pytest.mark.parametrize('loss', ['focal', 'dice', lambda logits, targets: logits.mean()])
def test_losses_without_label_smoothing(loss):
    able = 'cross_entropy, weighted_cross_entropy, dice_cross_entropy'
    with pytest.raises(ValueError, match=f'label_smoothing must be 0 .*, got 0.1: choose one of {able}'):
        make_loss(loss, WEIGHTS, 0.1)


@pytest.mark.parametrize('name', LOSSES)
def test_weights_of_1_are_no_weights(batch, name):
    without = cross_entropy if name == 'weighted_cross_entropy' else make_loss(name)
    near(make_loss(name, torch.ones(5))(*batch), without(*batch))


def test_a_function_is_a_loss(batch):
    def mine(logits, targets, weights):
        return weights.sum() + logits.sum() + targets.sum()

    near(make_loss(mine, WEIGHTS)(*batch), mine(*batch, WEIGHTS))
    near(make_loss(lambda logits, targets: logits.mean())(*batch), batch[0].mean())
    near(make_loss(partial(focal_loss, gamma=1), WEIGHTS)(*batch), focal_loss(*batch, WEIGHTS, gamma=1))
    torch_loss = torch.nn.CrossEntropyLoss(ignore_index=255)
    near(make_loss(torch_loss, WEIGHTS)(*batch), torch_loss(*batch))


def test_a_new_loss_is_one_entry(batch, monkeypatch):
    monkeypatch.setitem(LOSSES, 'mine', lambda logits, targets, weights: weights[0])
    assert make_loss('mine', WEIGHTS)(*batch) == WEIGHTS[0]


def test_names_that_do_not_exist():
    with pytest.raises(ValueError, match='loss must be one of cross_entropy'):
        make_loss('hinge')
    with pytest.raises(ValueError, match='pass class_weights'):
        make_loss('weighted_cross_entropy')


# On a scene, with one logit per class and step of brightness


def fit_table(loss_fn, step, truth):
    table = torch.zeros(16, 5, requires_grad=True)
    optimizer = torch.optim.Adam([table], 0.2)
    for _ in range(60):
        optimizer.zero_grad()
        loss_fn(table[step].movedim(-1, 0)[None], truth).backward()
        optimizer.step()
    return table.detach()[step].argmax(-1)


def test_weights_decide_what_is_said():
    scene = synthetic_scene(512, 512, seed=1)
    step, truth = (
        torch.from_numpy(scene.image.mean(axis=2)).long() // 16,
        torch.from_numpy(scene.labels).long()[None],
    )
    weights, cars = class_weights(class_counts(scene.labels, 5)), truth[0] == 4
    assert not (fit_table(make_loss('cross_entropy'), step, truth) == 4).any()
    weighted = fit_table(make_loss('weighted_cross_entropy', weights), step, truth)
    assert ((weighted == 4) & cars).sum() > 0.2 * cars.sum()
    assert (weighted == 3).any()
    weights[3] = 0  # a weight of 0 removes a class from the map
    assert not (fit_table(make_loss('weighted_cross_entropy', weights), step, truth) == 3).any()
