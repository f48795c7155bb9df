"Changes of training windows: scale, light and pasted objects keep to the training ground, to their labels and to their seed."

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY, check_refusal, make_tile, shell, write_tile

from unetkit.augmentation import Change, find_objects
from unetkit.batches import Batches, to_device
from unetkit.datasets import Reading, Source, open_labelled
from unetkit.experiments import ModelPipeline
from unetkit.jobs import place_windows
from unetkit.labels import ISPRS
from unetkit.patches import grid_windows
from unetkit.rules import listening
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.windows import coverage

SCENE = synthetic_scene(384, 512, seed=3)
HOW = dict(patch_size=32, width=4, depth=2, device='cpu', precision='float32')
ALL = dict(scale_jitter=0.5, light_jitter=0.2, copy_paste=0.5)


def with_cars(tile):
    "The tile with small cars, one in every square of 64 pixels that has room for it."
    labels, image = tile.labels.copy(), tile.image.copy()
    for row in range(8, tile.size[0] - 16, 48):
        for col in range(8, tile.size[1] - 16, 48):
            labels[row : row + 12, col : col + 14] = 0
            labels[row + 3 : row + 7, col + 3 : col + 11] = 4
            image[row + 3 : row + 7, col + 3 : col + 11] = 250
    return replace(tile, labels=labels, image=image)


CARS = with_cars(SCENE)


def epoch(batches):
    return [torch.cat(part) for part in zip(*batches)]


def test_nothing_asked_for_changes_nothing():
    "The recipe without jitter gives the batches of the loop that it had before there was any, bit for bit."
    pipeline = ModelPipeline(ISPRS, Settings(**HOW, focus=''))
    train = pipeline.batches([SCENE])[0]
    other = replace(train)  # the same seed, and a generator of its own
    windows, found, rng = other.epoch_windows(), epoch(train), other.rng
    turns = np.concatenate(
        [rng.integers(0, 8, len(windows[at : at + 10])) for at in range(0, len(windows), 10)]
    )
    for i, (row, col, turn) in enumerate(zip(windows.row, windows.col, turns, strict=True)):
        image = np.rot90(SCENE.image[row : row + 32, col : col + 32], turn % 4)
        labels = np.rot90(SCENE.labels[row : row + 32, col : col + 32], turn % 4)
        image, labels = (array[:, ::-1] if turn >= 4 else array for array in (image, labels))
        assert (found[0][i].permute(1, 2, 0).numpy() == image.astype(np.float32) / 255).all()
        assert (found[1][i].numpy() == labels).all()


def test_what_lies_outside_the_training_ground_never_enters():
    "Validation, guard and what no window covers is painted white and labelled tree: no batch shows white or a tree."
    settings = Settings(**HOW, **ALL | dict(light_jitter=0.0, scale_jitter=0.9))
    train, kept = place_windows(settings, [CARS])
    outside = coverage(train, 0, CARS.size) == 0
    assert 0.15 < outside.mean() < 0.6 and len(kept)
    image = np.where(outside[..., None], np.uint8(255), np.minimum(CARS.image, 254))
    labels = np.where(CARS.labels == 3, np.uint8(2), CARS.labels)
    labels[outside & (labels != 4)] = 3
    painted = to_device([replace(CARS, image=image, labels=labels)])
    objects = find_objects(painted, train, [4])
    assert 0 < len(objects) < len(find_objects(painted, grid_windows([CARS.size], 32, 32), [4]))
    for seed in range(3):
        change = Change(share=0.9, objects=objects)
        batch, targets = epoch(
            Batches(painted, train, crops=True, focus=4, scale=0.9, seed=seed, change=change)
        )
        assert batch.max() < 254.5 / 255 and not (targets == 3).any()


def test_a_resumed_training_draws_what_an_undisturbed_one_draws(tmp_path):
    def run(epochs, checkpoint=None):
        pipeline = ModelPipeline(ISPRS, Settings(**HOW, **ALL, epochs=epochs))
        return list(pipeline.epochs([CARS], checkpoint)), pipeline

    whole, undisturbed = run(4)
    run(2, tmp_path / 'checkpoint')
    parts, resumed = run(4, tmp_path / 'checkpoint')
    assert [one.train_loss for one in parts] == [one.train_loss for one in whole]
    assert undisturbed.fingerprint() == resumed.fingerprint()
    plain = ModelPipeline(ISPRS, Settings(**HOW, epochs=4))
    assert [one.train_loss for one in plain.epochs([CARS])] != [one.train_loss for one in whole]


def test_a_seed_repeats_and_another_does_not():
    def first(seed):
        return next(
            iter(ModelPipeline(ISPRS, Settings(**HOW, **ALL, seed=seed, split='random')).batches([CARS])[0])
        )

    assert all(torch.equal(one, other) for one, other in zip(first(1), first(1)))
    assert not torch.equal(first(1)[0], first(2)[0])


def test_light_leaves_labels_heights_and_validation_alone():
    four = replace(
        CARS, image=np.concatenate([CARS.image] * 2, 2)[..., :4], bands=('', '', '', 'height'), dtypes=()
    )
    plain, lit = (ModelPipeline(ISPRS, Settings(**HOW, light_jitter=a)).batches([four]) for a in (0.0, 0.3))
    (batch, targets), (changed, same) = (epoch(one[0])[:2] for one in (plain, lit))
    # the light is drawn before the symmetries, so windows are compared by what does not depend on their turn
    assert targets.flatten(1).sort()[0].eq(same.flatten(1).sort()[0]).all(1)[:10].all()
    heights = [one[:10, 3].flatten(1).sort()[0] for one in (batch, changed)]
    assert torch.equal(*heights) and not torch.equal(batch[:, 0], changed[:, 0])
    assert all(torch.equal(*pair) for pair in zip(epoch(plain[1]), epoch(lit[1])))


def test_every_window_of_another_scale_is_as_large_as_before():
    windows = grid_windows([SCENE.size], 32, 32)
    batches = Batches(to_device([SCENE]), windows, crops=True, scale=0.5, seed=1)
    drawn = batches.epoch_windows()
    share = [np.mean(drawn.side < 32), np.mean(drawn.side > 32)]
    assert min(share) > 0.4 and drawn.side.min() >= 21 and drawn.side.max() <= 48
    assert {tuple(one.shape[1:]) for one, _ in batches} == {(3, 32, 32)}


def test_pixels_without_a_label_are_never_covered_and_never_mixed():
    holes = np.where(np.random.default_rng(0).random(CARS.size) < 0.001, np.uint8(255), CARS.labels)
    windows = grid_windows([CARS.size], 64, 64)
    pairs = to_device([replace(CARS, labels=holes)])
    objects = find_objects(pairs, windows, [4])
    (_, targets), (_, pasted) = (
        epoch(Batches(pairs, windows, change=Change(share=share, objects=objects))) for share in (0.0, 0.99)
    )
    assert torch.equal(targets == 255, pasted == 255)
    new = (targets != pasted) & (pasted == 4)
    assert torch.equal(new, targets != pasted) and new.sum() > 300
    assert set(targets[new].tolist()) <= set(np.flatnonzero(objects.ground[4]).tolist())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_tile(tmp_path_factory.mktemp('jitter'), *make_tile(height=192, width=256))


def streamed(folder, **how):
    tiles = open_labelled(folder / 'image.tif', folder / 'reference.tif', ISPRS, Reading(memory=1e-4))
    assert Source(tiles).streamed
    return tiles, Source(tiles).batches(grid_windows([tiles[0].size], 32, 32), 7, crops=True, **how)


def test_streamed_batches_are_jittered_alike(folder):
    _, batches = streamed(folder, scale=0.5, focus=4, augment=True, seed=2, change=Change(light=0.2))
    batch, targets = epoch(batches)
    again, same = epoch(
        streamed(folder, scale=0.5, focus=4, augment=True, seed=2, change=Change(light=0.2))[1]
    )
    assert torch.equal(batch, again) and torch.equal(targets, same) and batch.shape[1:] == (3, 32, 32)
    assert (targets == 4).flatten(1).any(1).float().mean() >= 0.45
    plain = epoch(streamed(folder, seed=2)[1])
    assert plain[0].shape == batch.shape


@pytest.mark.parametrize('focus', [None, 1])
def test_streamed_crops_keep_to_the_training_ground(tmp_path, focus):
    "As above, read from files: what lies outside the training ground is white and tree."
    settings = Settings(**HOW, scale_jitter=0.9)
    train, kept = place_windows(settings, [SCENE])
    outside = coverage(train, 0, SCENE.size) == 0
    assert 0.15 < outside.mean() < 0.6 and len(kept)
    image = np.where(outside[..., None], np.uint8(255), np.minimum(SCENE.image, 200))
    labels = np.where(SCENE.labels == 3, np.uint8(2), SCENE.labels)
    labels[outside] = 3
    folder = write_tile(tmp_path, image, labels)
    tiles = open_labelled(folder / 'image.tif', folder / 'reference.tif', ISPRS, Reading(memory=1e-4))
    source = Source(tiles)
    assert source.streamed
    for seed in range(3):
        batch, targets = epoch(source.batches(train, 10, crops=True, scale=0.9, focus=focus, seed=seed))
        assert batch.max() < 200.5 / 255 and not (targets == 3).any()


def test_a_ground_without_room_for_larger_windows_is_named():
    for height, patch_size, named in ((384, 32, False), (64, 64, True), (72, 64, True)):
        tile = synthetic_scene(height, 512, seed=3)
        settings = Settings(**HOW | dict(patch_size=patch_size), scale_jitter=0.5, epochs=1, validation=0)
        found = []
        with listening(found.append):
            next(ModelPipeline(ISPRS, settings).epochs([tile]))
        assert any('scale_jitter 0.5 makes' in text for text in found) == named


def test_the_command_jitters_and_says_what_it_pastes(folder, tmp_path):
    words = [
        'train',
        folder / 'image.tif',
        folder / 'reference.tif',
        *TINY,
        '--patch-size',
        32,
        '--split',
        'random',
    ]
    more = ['--scale-jitter', 0.3, '--light-jitter', 0.1, '--copy-paste', 0.3, '--focus', 'car']
    code, out, err = shell(*words, *more, '--out', tmp_path / 'a.safetensors')
    assert code == 0 and 'note: copy_paste: objects that lie whole on the training ground: ' in err
    assert ' of car onto ' in err
    code, out, err = shell('info', tmp_path / 'a.safetensors')
    assert 'scale_jitter 0.3, light_jitter 0.1, copy_paste 0.3' in out


def test_what_cannot_be_is_refused(folder, tmp_path):
    words = ['train', folder / 'image.tif', folder / 'reference.tif', *TINY, '--patch-size', 32]
    words += ['--out', tmp_path / 'b.safetensors']
    check_refusal([tmp_path], [*words, '--copy-paste', 0.3, '--memory', 1e-4], ['copy_paste 0.3', '--memory'])
    check_refusal(
        [tmp_path], [*words, '--scale-jitter', 0.3, '--no-crops', '--focus', ''], ['scale_jitter', '--crops']
    )
    check_refusal([tmp_path], [*words, '--light-jitter', 1.5], ['light_jitter must be'])
