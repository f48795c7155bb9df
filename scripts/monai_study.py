#!/usr/bin/env python3
"""Train MONAI's U-Net on the tile of the study `ablation`, for the leaderboard of lesson 14.

usage: scripts/monai_study.py [--seeds N ...] [--out FILE]

The network is MONAI's (channels 32 to 512, two residual units per step), with the loss, optimiser and schedule that its
tutorials use: Dice + cross entropy, AdamW, cosine. Windows, pixels seen, tiles and scores are those of the study. Writes
unetkit/recorded/studies/ablation_monai.json after each run. MONAI comes with unetkit[dev].
"""

import argparse
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'

import torch  # noqa: E402
from monai.networks.nets import UNet  # noqa: E402
from studies import FOLDER, document, line, save  # noqa: E402

from unetkit.layers import Network  # noqa: E402
from unetkit.records import STUDIES, trial  # noqa: E402
from unetkit.settings import Settings  # noqa: E402

CHANNELS = (32, 64, 128, 256, 512)


class MonaiUNet(Network):
    "MONAI's U-Net behind the attributes that a `ModelPipeline` asks of a network."

    def __init__(self, in_channels, num_classes, width=32, depth=4):
        super().__init__()
        self.in_channels, self.num_classes, self.width, self.depth = in_channels, num_classes, width, depth
        self.reach = 256  # not used: instance normalisation sees the whole window, so maps are blended
        self.net = UNet(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=num_classes,
            channels=CHANNELS,
            strides=(2, 2, 2, 2),
            num_res_units=2,
        )

    def forward(self, x):
        return self.net(x)


SETTINGS = Settings(
    network=MonaiUNet,
    width=32,
    depth=4,
    normalisation='none',  # of this kit: the network has its own
    average=0.0,
    patch_size=64,
    batch_size=10,
    crops=True,
    focus='',
    augment=True,
    validation=0,
    epochs=20,
    loss='dice_cross_entropy',
    weights='none',
    optimiser='adamw',
    weight_decay=0.01,
    schedule='cosine',
    lr=1e-3,
    method='blend',
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=list(range(3)))
    parser.add_argument('--out', type=Path, default=FOLDER / 'ablation_monai.json')
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = STUDIES['ablation']
    train, test = study['tiles'](None)
    found = document('ablation_monai', study, train, test)
    found['environment']['monai'] = version('monai')
    for seed in args.seeds:
        settings = replace(SETTINGS, seed=seed)
        run = trial(train, test, study['palette'], settings, ('blend', 'patches'))
        found['runs'].append({'arm': 'MONAI UNet', 'seed': seed, **run})
        save(args.out, found)
        print(line(found['runs'][-1], 'blend'), flush=True)


if __name__ == '__main__':
    main()
