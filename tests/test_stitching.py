"Stitching: every method against predictors whose answer is known, against the whole-image forward, and against MONAI."

import math

import numpy as np
import pytest
import torch

from unetkit.batches import as_batch, dihedral
from unetkit.scenes import synthetic_scene
from unetkit.stitching import (
    METHODS,
    blend_window,
    blended,
    dihedral_average,
    exact_halo,
    exact_windows,
    halo_windows,
    predict_tile,
    whole_patches,
)
from unetkit.tiling import best_core, image_tensor, logits_to_labels, seam_energy
from unetkit.unet import UNet, pad_to_multiple, reach


def by_brightness(batch):
    "Logits of a predictor that looks at single pixels: bright is class 1, dark is class 0."
    grey = batch.mean(1, keepdim=True)
    return torch.cat([1 - grey, grey], 1)


@pytest.fixture(scope='module')
def scene():
    return synthetic_scene(300, 420, seed=2)


@pytest.fixture(scope='module')
def image(scene):
    return as_batch(image_tensor(scene.image)[None])


@pytest.fixture(scope='module')
def wide(scene):
    "The same picture in 16 bits."
    return scene.image.astype(np.uint16) * 257


@pytest.fixture(scope='module')
def truth(scene):
    return (scene.image.mean(2) / 255 > 0.5).astype(np.uint8)


@pytest.fixture(scope='module')
def predict():
    "A U-Net of depth 3 with random weights, in float64, in which no ties fall another way on another machine."
    torch.manual_seed(0)
    network = UNet(width=8, depth=3).double().eval()

    @torch.inference_mode()
    def predict(batch):
        return network(batch.double())

    return predict


def test_a_tile_in_8_and_16_bits_is_one_batch_and_shares_its_memory(scene, image, wide):
    by_hand = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 255
    torch.testing.assert_close(image, by_hand, rtol=0, atol=0)
    torch.testing.assert_close(as_batch(image_tensor(wide)[None]), image, rtol=0, atol=1e-6)
    assert image_tensor(scene.image).data_ptr() == scene.image.ctypes.data


def test_labels_hold_254_classes():
    one_pixel = torch.zeros(254, 1, 1)
    one_pixel[253] = 1
    np.testing.assert_array_equal(logits_to_labels(one_pixel), [[253]])
    with pytest.raises(ValueError, match='255 classes do not fit'):
        logits_to_labels(torch.zeros(1, 255, 2, 2))


@pytest.mark.parametrize('patch_size, stride', [(32, None), (64, 48), (300, 7), (17, 5)])
def test_whole_patches_give_the_truth_of_single_pixels(scene, truth, patch_size, stride):
    np.testing.assert_array_equal(whole_patches(by_brightness, scene.image, patch_size, stride), truth)


@pytest.mark.parametrize('patch_size, stride', [(32, None), (64, 20), (17, 5)])
def test_blending_gives_the_truth_of_single_pixels(scene, truth, patch_size, stride):
    np.testing.assert_array_equal(blended(by_brightness, scene.image, patch_size, stride), truth)


def test_16_bits_give_the_same_map(wide, truth):
    np.testing.assert_array_equal(whole_patches(by_brightness, wide, 32), truth)
    np.testing.assert_array_equal(exact_halo(by_brightness, wide, 0, 1, 100), truth)


@pytest.mark.parametrize(
    'patch_size, stride, message', [(301, None, 'larger than the tile'), (32, 0, 'stride must be in')]
)
def test_windows_that_do_not_fit_raise(scene, patch_size, stride, message):
    with pytest.raises(ValueError, match=message):
        whole_patches(by_brightness, scene.image, patch_size, stride)


def test_an_image_of_another_type_raises(scene):
    with pytest.raises(ValueError, match='got torch.int32'):
        whole_patches(by_brightness, np.int32(scene.image), 32)
    scaled = np.float32(scene.image) / 255  # floats are scaled already
    same = whole_patches(by_brightness, scene.image, 32)
    assert (whole_patches(by_brightness, scaled, 32) == same).all()


def test_blend_weights_by_hand():
    along = torch.tensor([0.1464, 0.8536, 0.8536, 0.1464])  # sin^2 of pi/8, 3 pi/8, 5 pi/8, 7 pi/8
    torch.testing.assert_close(blend_window(4)[1], along * 0.8536, rtol=0, atol=1e-3)
    torch.testing.assert_close(blend_window(5), blend_window(5).flip(0).T)
    assert blend_window(64).min() > 0 and blend_window(64).max() <= 1


def test_blend_weights_add_up_to_one_at_half_overlap():
    axis = blend_window(8).diagonal().sqrt()
    torch.testing.assert_close(axis[:4] + axis[4:], torch.ones(4), rtol=0, atol=1e-6)


def test_blending_agrees_with_monai(scene, image, predict):
    inferers = pytest.importorskip('monai.inferers', reason='MONAI comes with unetkit[dev]')
    theirs = inferers.sliding_window_inference(
        image,
        64,
        16,
        lambda batch: predict(batch).softmax(1).float(),
        overlap=0.5,
        roi_weight_map=blend_window(64),
    )
    ours = blended(predict, scene.image, 64)
    assert (theirs[0].argmax(0).numpy() == ours).mean() > 0.999  # up to ties in the last digit of float32


def test_halo_windows_by_hand():
    assert halo_windows(80, 32, 16) == [(0, 48, 0, 32), (16, 80, 32, 64), (48, 80, 64, 80)]


@pytest.mark.parametrize('length', [1, 16, 500, 512, 528, 1040])
def test_halo_windows_keep_every_pixel_once_and_bound_the_memory(length):
    windows = halo_windows(length, 512, 96)
    kept = np.concatenate([np.arange(first, last) for _, _, first, last in windows])
    np.testing.assert_array_equal(kept, np.arange(length))
    assert max(last - first for first, last, _, _ in windows) <= 512 + 2 * 96


def test_exact_windows_by_hand():
    windows = exact_windows((50, 70), 32, 8, 8)
    assert len(windows) == 2 * 3 and windows[-1] == ((24, 50, 56, 70), (32, 50, 64, 70))
    covered = np.zeros((50, 70), int)
    for _, (r0, r1, c0, c1) in windows:
        covered[r0:r1, c0:c1] += 1
    assert (covered == 1).all()


def test_windows_off_the_pooling_grid_raise(scene):
    with pytest.raises(ValueError, match='multiples of 8'):
        exact_halo(by_brightness, scene.image, 50, 8)
    with pytest.raises(ValueError, match='multiples of 16'):
        exact_halo(by_brightness, scene.image, 96, 16, core=100)
    with pytest.raises(ValueError, match='the core at least 16'):
        exact_windows((100, 100), 0, 96, 16)
    with pytest.raises(ValueError, match='halo -16 and core 512'):
        exact_windows((100, 100), 512, -16, 16)


def test_the_default_halo_is_the_reach_of_the_standard_network():
    def halo_of(depth, up='transposed'):
        return -(-reach(depth, up) // 2**depth) * 2**depth

    assert (reach(4), reach(4, aligned=False), halo_of(4)) == (94, 107, 96)
    assert halo_of(4, 'nearest') == 112
    assert halo_of(3) == 48


@pytest.mark.parametrize('core', [32, 64, 128])
def test_exact_windows_give_the_whole_image_forward(scene, image, predict, core):
    whole = predict(image)[0].argmax(0).numpy()
    np.testing.assert_array_equal(exact_halo(predict, scene.image, 48, 8, core), whole)


def test_exact_windows_with_a_predictor_of_single_pixels(scene, truth):
    np.testing.assert_array_equal(exact_halo(by_brightness, scene.image, 0, 16, 64), truth)


def test_core_is_the_largest_that_fits():
    assert best_core(400, memory=1e9) == 1280  # 400 bytes per pixel: width 16 in float32
    assert best_core(400, memory=40e6) == 112
    for budget in (2e7, 1e8, 3e9):
        assert 400 * (best_core(400, memory=budget) + 192) ** 2 <= budget
    assert best_core(400) == best_core(400, memory=0.8e9)


@pytest.mark.parametrize(
    'memory, message',
    [
        (1e7, '10.0 MB are not enough'),
        (math.inf, 'memory must be a number of bytes, got inf'),
        (math.nan, 'memory must be a number of bytes, got nan'),
        (-1, 'memory must be a number of bytes, got -1'),
    ],
)
def test_memory_that_does_not_do_raises(memory, message):
    with pytest.raises(ValueError, match=message):
        best_core(400, memory=memory)


def test_eight_looks_treat_all_orientations_alike(image, predict):
    square = image[..., :96, :128]
    averaged = dihedral_average(predict)
    for k in range(8):
        turned = dihedral(averaged(square), k)
        torch.testing.assert_close(averaged(dihedral(square, k)), turned, rtol=1e-4, atol=1e-4)
    assert (predict(dihedral(square, 1)) - dihedral(predict(square), 1)).abs().max() > 0.1
    torch.testing.assert_close(
        averaged(square).exp().sum(1), torch.ones(1, 96, 128).double(), rtol=0, atol=1e-5
    )


def test_eight_looks_in_exact_windows_are_those_of_the_whole_image(scene, image, predict):
    averaged = dihedral_average(predict)
    whole = averaged(pad_to_multiple(image, 8))[0, :, :300, :420].argmax(0).numpy()
    np.testing.assert_array_equal(exact_halo(averaged, scene.image, 48, 8, 128), whole)


@pytest.mark.parametrize('method', METHODS)
def test_every_method_by_name_gives_the_truth_of_single_pixels(scene, truth, method):
    np.testing.assert_array_equal(predict_tile(by_brightness, scene.image, method, 64, core=64), truth)


def test_a_method_is_a_name_or_a_function(scene, truth):
    np.testing.assert_array_equal(predict_tile(by_brightness, scene.image, 'blend', 64, 16), truth)

    def own(predict, image, core, device):
        return image[..., 0] + np.uint8(core)

    np.testing.assert_array_equal(
        predict_tile(by_brightness, scene.image, own, core=1), scene.image[..., 0] + np.uint8(1)
    )
    with pytest.raises(ValueError, match='method must be one of exact, blend, patches'):
        predict_tile(by_brightness, scene.image, 'magic')


def test_seam_energy_by_hand():
    # Windows of 2: three vertical cuts with two pairs each. Labels change at the first cut in both rows, and once elsewhere.
    labels = np.array([[0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 0]])
    assert seam_energy(labels, 2) == pytest.approx((2 / 6) / (2 / 16))


def test_noise_has_no_seams_and_names_of_classes_do_not_count(scene):
    noise = np.random.default_rng(0).integers(0, 5, (256, 320)).astype(np.uint8)
    assert seam_energy(noise, 32) == pytest.approx(1, abs=0.03)
    assert seam_energy(scene.labels, 32) == seam_energy(4 - scene.labels, 32)


def test_seam_energy_of_extremes():
    blocks = np.random.default_rng(0).integers(0, 5, (8, 10)).repeat(32, 0).repeat(32, 1)
    assert seam_energy(blocks, 32) == math.inf
    assert math.isnan(seam_energy(np.zeros((64, 64), np.uint8), 32))
    assert seam_energy(np.arange(9).reshape(3, 3), 1) == math.inf
    with pytest.raises(ValueError, match='choose a smaller patch_size'):
        seam_energy(blocks[:64, :64], 64)


def test_planted_seams_raise_the_energy_before_anyone_sees_them(scene):
    rng = np.random.default_rng(0)

    def with_seams(share):
        "Labels with a share of the pixels left of every vertical cut replaced."
        seamed = scene.labels.copy()
        for col in range(31, seamed.shape[1], 32):
            seamed[rng.random(len(seamed)) < share, col] = 4
        return seamed

    energies = [seam_energy(with_seams(share), 32) for share in (0, 0.1, 0.3)]
    assert energies[0] < 1.5 and 2 * energies[0] < energies[1] < energies[2]
    assert (with_seams(0.1) != scene.labels).mean() < 0.004
