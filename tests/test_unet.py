"The U-Net: sizes, layouts, number formats, settings, errors, and the memory of a prediction."

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from unetkit.scenes import synthetic_scene
from unetkit.unet import (
    UP,
    DoubleConv,
    Down,
    UNet,
    Up,
    longest_route,
    pad_to_multiple,
    reach,
    receptive_field,
    seen_by,
    start_weights,
)


def numel(module):
    return sum(p.numel() for p in module.parameters())


def test_start_weights():
    torch.manual_seed(0)
    ours = start_weights(nn.Conv2d(64, 64, 3, padding=1), terms=9 * 64, gain=1)
    assert not ours.bias.any()
    signal, default = torch.randn(1, 64, 32, 32), nn.Conv2d(64, 64, 3, padding=1)
    assert abs(ours(signal).square().mean().item() - 1) < 0.1
    assert abs(default(signal).square().mean().item() - 1 / 3) < 0.05
    assert start_weights(nn.Conv2d(4, 4, 3, bias=False), terms=36, gain=2).bias is None


def test_blocks():
    by_hand = (9 * 3 + 1) * 8 + (9 * 8 + 1) * 8
    normed = DoubleConv(3, 8, normalisation='batch')
    assert numel(DoubleConv(3, 8)) == by_hand
    assert numel(normed) == by_hand - 2 * 8 + 4 * 8  # two biases go, two scales and two shifts come
    assert [type(layer).__name__ for layer in normed] == ['Conv2d', 'BatchNorm2d', 'ReLU'] * 2
    assert Down(8, 16)(torch.rand(2, 8, 20, 30)).shape == (2, 16, 10, 15)
    assert Down(8, 16)(torch.rand(2, 8, 21, 30)).shape == (2, 16, 10, 15)


@pytest.mark.parametrize('up, weights', list(zip(UP, (4, 9), strict=True)))
def test_up(up, weights):
    block = Up(16, 8, up)
    assert block.enlarge(torch.rand(2, 16, 10, 15)).shape == (2, 8, 20, 30)
    assert numel(block.enlarge) == weights * 16 * 8 + 8
    skip, below = torch.rand(2, 8, 20, 30), torch.rand(2, 16, 10, 15)
    assert block(below, skip).shape == (2, 8, 20, 30)
    only_skip = block(torch.zeros_like(below), skip)
    assert not torch.equal(only_skip[..., 0::2], only_skip[..., 1::2])
    with pytest.raises(RuntimeError, match='Sizes of tensors must match'):
        block(below, torch.rand(2, 8, 21, 30))
    with pytest.raises(ValueError, match="up must be one of transposed, nearest, got 'bilinear'"):
        Up(16, 8, 'bilinear')


def test_a_transposed_convolution_paints_squares_that_do_not_overlap():
    painter = nn.ConvTranspose2d(1, 1, 2, stride=2, bias=False)
    coarse = torch.zeros(1, 1, 3, 3).index_fill_(2, torch.tensor([1]), 1.0)
    painted = painter(coarse)[0, 0].detach()
    assert (painted != 0).any(dim=1).tolist() == [False, False, True, True, False, False]


def test_padding():
    small = torch.rand(1, 3, 5, 37)
    padded = pad_to_multiple(small, 16)
    assert padded.shape == (1, 3, 16, 48)
    assert torch.equal(padded[..., 15, 47], small[..., 4, 36])
    assert pad_to_multiple(padded, 16) is padded
    model, odd = UNet(width=4), torch.rand(1, 3, 37, 50)
    assert torch.equal(model(odd), model(pad_to_multiple(odd, model.multiple))[..., :37, :50])
    strict = UNet(width=4, pad=False)
    assert strict(torch.rand(1, 3, 32, 48)).shape == (1, 5, 32, 48)
    with pytest.raises(ValueError, match='37 x 50 does not fit: .*use 32 x 48 or 48 x 64'):
        strict(odd)
    with pytest.raises(ValueError, match='5 x 50 does not fit: .*use 16 x 48 or 16 x 64'):
        strict(torch.rand(1, 3, 5, 50))


def test_settings():
    model, batch = UNet(width=4), torch.rand(1, 3, 37, 50)
    twin = UNet(**model.settings)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(batch), model(batch))
    small = UNet(4, 6, width=2, depth=3, up='nearest')
    assert (small.multiple, small.reach, small.in_channels, small.num_classes) == (8, 54, 4, 6)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(depth=0), r'depth must be in \[1, 16\], got 0'),
        (dict(depth=17), r'depth must be in \[1, 16\], got 17'),
        (dict(width=1.5), 'width must be a whole number, got 1.5'),
        (dict(width=0), 'width must be at least 1, got 0'),
        (dict(in_channels=True), 'in_channels must be a whole number, got True'),
        (dict(num_classes=255), r'num_classes must be in \[1, 254\], got 255'),
        (dict(up='cubic'), 'up must be one of'),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        UNet(**settings)


def test_wrong_bands():
    with pytest.raises(ValueError, match='give it 3 bands'):
        UNet(width=4)(torch.rand(1, 4, 32, 32))
    with pytest.raises(ValueError, match='give it 3 bands'):
        UNet(width=4)(torch.rand(3, 32, 32))


def fell_back(model, batch):
    "Types of the modules whose output is not channels last."
    kept = {}

    def look(module, _, out):
        kept[module] = out.is_contiguous(memory_format=torch.channels_last)

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    model(batch)
    for hook in hooks:
        hook.remove()
    return [type(module).__name__ for module, ok in kept.items() if not ok]


@pytest.mark.parametrize('up', UP)
def test_layout_and_number_format(up):
    "No block falls back to the other memory layout, and bfloat16 stays near float32."
    last = dict(memory_format=torch.channels_last)
    form, batch = UNet(width=4, up=up).to(**last), torch.rand(2, 3, 48, 32).to(**last)
    with torch.autocast('cpu', torch.bfloat16):
        fast = form(batch)
    assert fell_back(form, batch) == []
    assert fast.dtype == torch.bfloat16
    assert (fast.float() - form(batch)).abs().max() < 0.1 * form(batch).abs().max()


def strengths(model, batch):
    "Root mean square of the output of every ReLU, from entry to last block."
    found = []
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(
                lambda _, __, out: found.append(out.detach().square().mean().sqrt().item())
            )
    with torch.no_grad():
        model(batch)
    return found


def test_the_signal_keeps_its_strength_on_the_way_down():
    scene = synthetic_scene(64, 64, seed=3)
    batch = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 255
    torch.manual_seed(0)
    default = UNet(width=16)
    for layer in default.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.reset_parameters()
    fall, keep = strengths(default, batch), strengths(UNet(width=16), batch)
    assert len(keep) == 18
    assert fall[9] < 0.2 * fall[0] and keep[9] > 0.2 * keep[0]


def test_views():
    assert longest_route(1) == ['conv', 'conv', 'pool', 'conv', 'conv', 'up', 'conv', 'conv']
    assert seen_by(longest_route(1), 0) == (-8, 9)
    assert seen_by(['conv', 'conv'], 10) == (8, 12)
    views = [seen_by(longest_route(4), pixel) for pixel in range(16)]
    assert {last - first + 1 for first, last in views} == {188, 204}
    with pytest.raises(ValueError, match='depth must be at least 1, got 0'):
        longest_route(0)


def test_receptive_field_and_reach():
    assert [receptive_field(depth) for depth in (1, 2, 3, 4, 5)] == [18, 44, 100, 204, 412]
    assert [receptive_field(depth, 'nearest') for depth in (2, 3, 4, 5)] == [52, 116, 236, 476]
    assert [reach(depth) for depth in (2, 3, 4, 5)] == [22, 46, 94, 190]
    for depth in (2, 3, 4, 5):
        assert reach(depth) == 6 * 2**depth - 2
        assert reach(depth, 'nearest') == 7 * 2**depth - 2
    assert reach(4, aligned=False) == 107
    assert seen_by(longest_route(4), 13)[0] == 13 - 107
    assert [-(-reach(4, up) // 16) * 16 for up in UP] == [96, 112]


PEAK = """
import torch
from unetkit.unet import UNet

def peak(): return int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]) * 1024
net = UNet(width=16).eval().to(memory_format=torch.channels_last)
small, large = (torch.rand(1, 3, n, n).to(memory_format=torch.channels_last) for n in (64, 640))
with torch.inference_mode():
    net(small); before = peak(); net(large)
print((peak() - before) / 640**2)
"""


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak is read from /proc')
def test_bytes_per_pixel():
    """The formula beside the peak of a fresh process, minus what it had before. The allocator is told to give every large block back:
    otherwise glibc keeps blocks of up to 32 MB, and which of them fit the next tensor changes from run to run."""
    environment = os.environ | {'MALLOC_MMAP_THRESHOLD_': '1000000'}
    measured = subprocess.run(
        [sys.executable, '-c', PEAK], env=environment, capture_output=True, text=True, check=True
    )
    activations = UNet(width=16).bytes_per_pixel() - 4 * 11
    assert activations == 5.5 * 16 * 4
    assert abs(float(measured.stdout) / activations - 1) < 0.2
    assert UNet(width=16).bytes_per_pixel(2) == 5.5 * 16 * 2 + 4 * 11
