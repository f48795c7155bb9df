"The main path in a few seconds: scene, training, map, scores, from Python and from the command line."

import numpy as np
import pytest

from unetkit.cli import main
from unetkit.experiments import ModelPipeline
from unetkit.settings import Settings
from unetkit.labels import ISPRS
from unetkit.scenes import synthetic_scene
from unetkit.raster import read_image

TINY = dict(
    patch_size=32, epochs=2, batch_size=8, width=4, depth=2, lr=3e-3, device='cpu', precision='float32'
)


@pytest.fixture(scope='module')
def scenes():
    return synthetic_scene(160, 192, seed=1), synthetic_scene(128, 160, seed=2)


def test_python(scenes, tmp_path):
    train, test = scenes
    pipeline = ModelPipeline(ISPRS, Settings(**TINY)).fit([train])
    label_map = pipeline.predict(test)
    assert label_map.shape == test.labels.shape and label_map.dtype == np.uint8
    scores = pipeline.evaluate([test])
    assert 0 < scores.accuracy <= 1
    again = ModelPipeline.load(pipeline.save(tmp_path / 'model.safetensors'), 'cpu', 'float32')
    np.testing.assert_array_equal(again.predict(test), label_map)


def test_command_line(tmp_path, capsys):
    def run(*words):
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    for seed in (1, 2):
        run('scene', '--out', tmp_path / f'scene{seed}', '--height', 128, '--width', 160, '--seed', seed)
    files = [tmp_path / 'scene1' / name for name in ('image.tif', 'reference.tif')]
    options = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", value)]
    model, label_map = tmp_path / 'model.safetensors', tmp_path / 'map.tif'
    run('train', *files, '--out', model, *options)
    run(
        'predict',
        model,
        tmp_path / 'scene2' / 'image.tif',
        '--out',
        label_map,
        '--device',
        'cpu',
        '--precision',
        'float32',
    )
    assert 'accuracy' in run('evaluate', model, *files, '--device', 'cpu', '--precision', 'float32')
    assert read_image(label_map).shape[:2] == (128, 160)
