"Maps that use the statistics of the unlabelled image: what is matched, what stays, and that it is said."

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY, check_refusal, shell, succeeds
from torch import nn

from unetkit.experiments import ModelPipeline
from unetkit.jobs import origin
from unetkit.labels import ISPRS, labels_to_colours
from unetkit.models import load_tensors, save_tensors
from unetkit.networks import NETWORKS
from unetkit.pipelines import TrainedModel
from unetkit.raster import Georeference, open_image, read_label_map, write_image
from unetkit.rules import Remark
from unetkit.scale import _from_job, raster_job
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.unet import UNet
from unetkit.values import match_values, measure

HOW = dict(patch_size=32, width=4, depth=2, epochs=2, device='cpu', precision='float32', split='random')
HOW |= dict(normalisation='none', average=0.0)  # normalisation stands where a test puts it
SCENE = synthetic_scene(256, 320, seed=3)
HAZY = replace(SCENE, image=(SCENE.image * 0.5 + 90).astype(np.uint8), name='hazy')


class Normed(UNet):
    "A U-Net whose first layer normalises the batch."

    def __init__(self, in_channels=3, num_classes=5, width=64, depth=4):
        super().__init__(in_channels, num_classes, width=width, depth=depth)
        self.first = nn.BatchNorm2d(in_channels)

    def forward(self, batch):
        return super().forward(self.first(batch))

    @property
    def settings(self):
        return {name: getattr(self, name) for name in ('in_channels', 'num_classes', 'width', 'depth')}


@pytest.fixture(scope='module')
def trained():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return ModelPipeline(ISPRS, Settings(**HOW)).fit(SCENE)


@pytest.fixture(scope='module')
def files(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp('hazy')
    place = Georeference(None, (0.09, 0, 0, 0, -0.09, 0))
    write_image(folder / 'image.tif', HAZY.image, place)
    write_image(folder / 'reference.tif', labels_to_colours(HAZY.labels, ISPRS), place)
    trained.save(folder / 'model.safetensors')
    return folder


def said(function, *args, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        result = function(*args, **kwargs)
    return result, [str(one.message) for one in caught if issubclass(one.category, Remark)]


def logits(pipeline, tile):
    pixels = torch.from_numpy(np.ascontiguousarray(pipeline.prepared(tile).image)).permute(2, 0, 1)[None]
    return pipeline.predictor()(pixels if pixels.is_floating_point() else pixels / 255)


def distances(pipeline, **use):
    "How far the logits of the hazy image are from those of the clear one, as it is and adapted."
    clear, hazy = (said(pipeline.with_use(**use).for_image, tile)[0] for tile in (SCENE, HAZY))
    wanted = logits(clear, SCENE)
    return [(logits(one, HAZY) - wanted).abs().mean() for one in (clear, hazy)]


@pytest.mark.parametrize('how', ['moments', 'histogram'])
def test_a_hazy_image_is_seen_like_the_clear_one(trained, how):
    plain, matched = distances(trained, match=how)
    assert matched < plain / 4
    _, texts = said(trained.predict, HAZY, match=how)
    assert len(texts) == 1 and 'hazy: its bands are matched' in texts[0] and how in texts[0]
    assert trained.for_image(HAZY) is trained and trained.values.plain  # the model is as it was


@pytest.mark.parametrize('how', ['moments', 'histogram'])
def test_heights_are_metres_whatever_is_matched(how):
    "A tile on higher ground keeps its heights, beyond those of training too; the colours are matched."
    height = 100 + SCENE.labels[..., None].astype(np.float32)
    bands, dtypes = ('red', 'green', 'blue', 'height'), ('uint8',) * 3 + ('float32',)
    clear, hazy = (
        replace(tile, image=np.concatenate([tile.image, height + high], axis=2), bands=bands, dtypes=dtypes)
        for tile, high in ((SCENE, 0), (HAZY, 30))
    )
    values = measure([clear])
    matched = match_values(values, hazy, how)
    scaled = matched.scale(hazy.image)
    assert (scaled[..., 3] == values.scale(hazy.image)[..., 3]).all()
    wanted = values.scale(clear.image)[..., :3]
    assert abs(scaled[..., :3] - wanted).mean() < abs(values.scale(hazy.image)[..., :3] - wanted).mean() / 4


def test_several_parts_are_matched_alone_and_that_is_said(trained, files, tmp_path):
    model, folder, references = files / 'model.safetensors', tmp_path / 'parts', tmp_path / 'references'
    for place in (folder, references):
        place.mkdir()
    for name in ('a', 'b'):
        shutil.copy(files / 'image.tif', folder / f'{name}.tif')
        shutil.copy(files / 'reference.tif', references / f'{name}.tif')
    text = 'each of the 2 images is adapted by its own statistics'
    for words in (
        ['predict', model, folder, '--out', tmp_path / 'm.tif'],
        ['evaluate', model, folder, references],
    ):
        code, _, err = shell(*words, '--match', 'moments')
        assert code == 0 and err.count(text) == 1
        assert text not in shell(*words, '--overwrite')[2]
    one = ['predict', model, files / 'image.tif', '--match', 'moments', '--out', tmp_path / 'one.tif']
    assert text not in shell(*one)[2]


def test_windows_of_the_map_are_those_of_the_whole(trained, files, tmp_path):
    for how in ('moments', 'histogram'):
        whole, _ = said(trained.predict, HAZY, match=how)
        one = tmp_path / f'{how}.tif'
        said(trained.predict, files / 'image.tif', out=one, match=how)
        assert (read_label_map(one) == whole).all()


def test_the_command_matches_scores_and_says_so(trained, files, tmp_path):
    words, exact = (
        [files / 'model.safetensors', files / 'image.tif'],
        ['--device', 'cpu', '--precision', 'float32'],
    )
    code, _, err = shell('predict', *words, *exact, '--match', 'moments', '--out', tmp_path / 'map.tif')
    assert code == 0 and err.count('its bands are matched') == 1 and 'may be wrong' not in err
    expected, _ = said(trained.predict, HAZY, match='moments')
    assert (read_label_map(tmp_path / 'map.tif') == expected).all()
    scores = {}
    for how in ('none', 'moments'):
        out = tmp_path / f'{how}.json'
        code, _, _ = shell('evaluate', *words, files / 'reference.tif', *exact, '--match', how, '--out', out)
        assert code == 0
        scores[how] = np.array(json.loads(out.read_text())['confusion_matrix'])
    assert (scores['none'] != scores['moments']).any()


def test_settings_of_the_model_hold_unless_others_are_given(files, tmp_path):
    words = [
        'train',
        files / 'image.tif',
        files / 'reference.tif',
        *TINY,
        '--patch-size',
        32,
        '--match',
        'moments',
    ]
    model = tmp_path / 'm.safetensors'
    assert shell(*words, '--out', model)[0] == 0
    text = succeeds('info', model)
    assert 'maps use the unlabelled image as a whole: match moments' in text
    for option, count in (([], 1), (['--match', 'none'], 0)):
        _, _, err = shell('predict', model, files / 'image.tif', *option, '--out', tmp_path / 'o.tif')
        assert err.count('its bands are matched') == count


def test_a_model_without_statistics_is_refused(files, tmp_path):
    tensors, about = load_tensors(files / 'model.safetensors')
    about['values'].pop('quantiles')
    about['settings'] = {k: v for k, v in about['settings'].items() if k not in ('match', 'norm_statistics')}
    save_tensors(tmp_path / 'old.safetensors', tensors, about)
    words = ['predict', tmp_path / 'old.safetensors', files / 'image.tif', '--out', tmp_path / 'o.tif']
    assert shell(*words)[0] == 0
    (tmp_path / 'o.tif').unlink()
    check_refusal(
        [tmp_path], [*words, '--match', 'moments'], ['match moments needs the statistics', '--match']
    )
    about['values']['quantiles'] = [[1, 2]] * 3
    save_tensors(tmp_path / 'odd.safetensors', tensors, about)
    check_refusal(
        [tmp_path], ['info', tmp_path / 'odd.safetensors'], ['quantiles must be', 'train the model again']
    )


def test_norm_statistics_are_those_of_the_image(files, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, 'normed', Normed)
    network, _ = said(ModelPipeline(ISPRS, Settings(**HOW, network='normed')).fit, SCENE)
    before = network.fingerprint()
    adapted, texts = said(network.with_use(norm_statistics='image').for_image, HAZY)
    assert any('batch normalisation has its statistics' in text for text in texts)
    mean = HAZY.image.reshape(-1, 3).mean(0) / 255
    assert np.allclose(
        adapted.model.first.running_mean.numpy(), mean, atol=2e-3
    )  # 80 windows of the whole image
    plain, matched = distances(network, norm_statistics='image')
    assert matched < plain / 4
    anew, _ = said(network.predict, HAZY, norm_statistics='image')
    assert network.fingerprint() == before
    said(network.predict, files / 'image.tif', out=tmp_path / 'map.tif', norm_statistics='image')
    assert (read_label_map(tmp_path / 'map.tif') == anew).all()
    network.save(tmp_path / 'n.safetensors')
    words = ['predict', tmp_path / 'n.safetensors', files / 'image.tif', '--out', tmp_path / 'o.tif']
    check_refusal([], [*words, '--norm-statistics', 'image', '--scheduler', 'tcp://127.0.0.1:1'], ['cluster'])


def test_a_network_without_batch_normalisation_is_refused(files, tmp_path):
    words = ['predict', files / 'model.safetensors', files / 'image.tif', '--out', tmp_path / 'o.tif']
    check_refusal(
        [tmp_path], [*words, '--norm-statistics', 'image'], ['this one has none', '--norm-statistics']
    )


def test_quantiles_do_not_stop_an_older_checkpoint(trained):
    deep = replace(SCENE, image=SCENE.image.astype(np.uint16) * 9, dtypes=())
    pipeline = ModelPipeline(ISPRS, Settings(**HOW))
    pipeline.make([deep])
    about = origin(
        pipeline.settings, pipeline.device, torch.float32, [deep], np.ones(6, int), None, pipeline.values
    )
    assert set(about['values']) == {'dtypes', 'low', 'high', 'mean', 'std', 'bands', 'resolution'}
    assert 'match' not in about and 'norm_statistics' not in about


def test_workers_of_a_cluster_match_as_well(files):
    model = files / 'model.safetensors'
    with open_image(files / 'image.tif') as raster:
        adapted, _ = said(TrainedModel.load(model, 'cpu', 'float32').with_use('histogram').for_image, raster)
        job = raster_job(adapted, raster, model)
    worker, image, _ = _from_job(job, 'a thread of its own')
    image.close()
    assert worker.values == adapted.values and worker.values.matched
