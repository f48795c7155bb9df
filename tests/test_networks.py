"Networks by name; parameters, operations, sizes and reach, compared with what flows through the layers."

from dataclasses import replace

import pytest
import torch
from torch import nn

from unetkit import networks
from unetkit.jobs import check_job
from unetkit.labels import ISPRS
from unetkit.models import load_model, save_model
from unetkit.networks import (
    freeze,
    count_flops,
    count_parameters,
    make_network,
    measured_reach,
    measured_view,
    summary,
)
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.unet import UP, UNet, longest_route, reach, receptive_field, seen_by


class Pixelwise(nn.Conv2d):
    "The smallest network: one score per class from the bands of the pixel alone."

    multiple, reach = 1, 0

    def __init__(self, in_channels=3, num_classes=5, gain=1):
        super().__init__(in_channels, num_classes, 1)
        self.num_classes = num_classes
        self.settings = dict(in_channels=in_channels, num_classes=num_classes, gain=gain)

    def bytes_per_pixel(self, itemsize=4):
        return 4 * (self.in_channels + self.num_classes)


def test_a_network_of_ones_own_in_one_place(monkeypatch, tmp_path):
    monkeypatch.setitem(networks.NETWORKS, 'pixelwise', Pixelwise)
    model = make_network('pixelwise', 4, 6, gain=2)
    again, about = load_model(save_model(tmp_path / 'm.safetensors', model, {}))
    assert about['network'] == 'pixelwise' and about['args'] == dict(in_channels=4, num_classes=6, gain=2)
    batch = torch.rand(1, 4, 7, 5)
    assert type(again) is Pixelwise and torch.equal(again(batch), model(batch))


def test_an_unknown_network(tmp_path):
    with pytest.raises(ValueError, match="network must be one of unet, .*, got 'vnet'"):
        make_network('vnet', 3, 5)
    with pytest.raises(ValueError, match='got a Pixelwise: add its class to unetkit.networks.NETWORKS'):
        save_model(tmp_path / 'm.safetensors', Pixelwise(), {})
    with pytest.raises(
        TypeError, match='a Conv2d has no num_classes, multiple, reach, settings, bytes_per_pixel'
    ):
        make_network(lambda in_channels, num_classes: nn.Conv2d(in_channels, num_classes, 1), 3, 5)


def on_paper(width, depth, bands=3, classes=5):
    "The parameters of a U-Net, without torch."

    def conv(a, b, taps=9):
        return (taps * a + 1) * b

    total, c = conv(bands, width) + conv(width, width) + conv(width, classes, taps=1), width
    for _ in range(depth):
        total += conv(c, 2 * c) + conv(2 * c, 2 * c)  # down
        total += 4 * 2 * c * c + c + conv(2 * c, c) + conv(c, c)  # enlarge, up
        c = 2 * c
    return total


def test_parameters():
    standard = UNet(width=64)
    assert count_parameters(standard) == on_paper(64, 4)
    assert count_parameters(UNet(width=16)) == on_paper(16, 4)
    assert count_parameters(UNet(width=2).requires_grad_(False)) == 0  # frozen weights are not trained
    assert abs(count_parameters(standard) / count_parameters(UNet(width=32)) - 4) < 0.01
    assert abs(count_parameters(standard.downs[-1]) / count_parameters(standard) - 0.456) < 1e-3


@pytest.mark.parametrize('up', UP)
def test_summary_is_what_flows_through_the_network(up):
    net, sizes = UNet(width=2, depth=3, up=up), []
    for block in [net.entry, *net.downs, *net.ups, net.head]:
        block.register_forward_hook(lambda _, __, out: sizes.append(out.shape))
    net(torch.rand(1, 3, 50, 70))
    lines = summary(net, (50, 70)).splitlines()
    for line, shape in zip(lines[1:], sizes):
        assert f'{shape[2]} x {shape[3]} ' in line and f' {shape[1]} ' in line
    assert len(sizes) == len(lines) - 3
    assert f'receptive field {receptive_field(3, up)} px; reach {reach(3, up)} px' in lines[-1]
    assert (
        lines[-3].split()[-1] == lines[-4].split()[-1] == str(receptive_field(3, up))
    )  # head and last block
    assert [line.split()[-1] for line in lines[1:3]] == ['5', '14']


def by_hooks(model, size):
    "The forward FLOP of a U-Net, by its layers: a convolution uses each weight once per pixel of its smaller side."
    pixels = {}

    def look(layer, came, went):
        pixels[layer] = min(came[0][0, 0].numel(), went[0, 0].numel())

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(look)
    model(torch.rand(1, model.in_channels, *size))
    return sum(2 * layer.weight.numel() * n for layer, n in pixels.items())


@pytest.mark.parametrize('up', UP)
@pytest.mark.parametrize('size', [(64, 96), (50, 70)])
def test_flops(up, size):
    model = UNet(width=4, depth=3, up=up)
    assert count_flops(model, size) == by_hooks(UNet(width=4, depth=3, up=up), size)
    assert model.training and {p.device.type for p in model.parameters()} == {'cpu'}


@pytest.mark.parametrize(
    'depth, up', [(2, 'transposed'), (3, 'transposed'), (2, 'nearest'), (3, 'nearest'), (4, 'transposed')]
)
def test_reach_by_gradients(depth, up):
    probe = UNet(1, 1, width=1, depth=depth, up=up)
    for aligned in (True, False):
        assert measured_reach(probe, 2**depth * 18, aligned) == reach(depth, up, aligned)


def test_view_by_gradients():
    probe = UNet(1, 1, width=1, depth=3, normalisation='batch')
    views = [measured_view(probe, 160, pixel) for pixel in range(80, 88)]
    assert views == [seen_by(longest_route(3), pixel) for pixel in range(80, 88)]
    assert max(last - first + 1 for first, last in views) == receptive_field(3)


def test_reach_by_max_pooling():
    "One bright pixel on black, positive weights, real max pooling: which output pixels change?"
    model = networks._transparent(UNet(1, 1, width=1))
    for down in model.downs:
        down[0] = nn.MaxPool2d(2)
    distances = []
    for pixel in range(128, 144):
        image = torch.zeros(1, 1, 256, 256, dtype=torch.float64)
        dark = model(image)
        image[..., pixel, pixel] = 1
        changed = (model(image) != dark)[0, 0].any(dim=1).nonzero()
        distances.append((changed - pixel).abs().max().item())
    assert max(distances) == reach(4, aligned=False)


def test_the_part_to_freeze_is_named():
    with pytest.raises(ValueError, match="freeze must be one of encoder, got 'head'"):
        freeze(UNet(width=2, depth=1), 'head')


def test_statistics_of_the_image_need_batch_normalisation():
    "It is said before a training, and not by the first map."
    scene, classes = synthetic_scene(96, 96, seed=5), ISPRS.ignoring('clutter')
    settings = Settings(
        patch_size=32, width=2, depth=2, split='random', norm_statistics='image', normalisation='none'
    )
    with pytest.raises(ValueError, match='norm_statistics image is for networks with batch normalisation'):
        check_job([scene], None, classes, [settings])
    check_job([scene], None, classes, [replace(settings, normalisation='batch')])
