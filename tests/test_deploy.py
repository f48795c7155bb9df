"The ONNX file: what raises an error, and that nothing is left behind by it."

import copy
import json
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from helpers import shell, succeeds

from unetkit import deploy
from unetkit.deploy import about_int8, calibration_windows, parity
from unetkit.deploy import export_onnx, export_settings, onnx_predictor, read_onnx_metadata, tile_overlap
from unetkit.engines import onnx_content
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS
from unetkit.raster import read_image, read_label_map, write_image
from unetkit.records import demo_model
from unetkit.settings import Settings
from unetkit.rules import Remark
from unetkit.scenes import synthetic_scene
from unetkit.tiles import Tile

onnx = pytest.importorskip('onnx', reason="needs pip install 'unetkit[onnx]'")
onnxruntime = pytest.importorskip('onnxruntime', reason="needs pip install 'unetkit[onnx]'")


@pytest.fixture(scope='module')
def trained():
    settings = Settings(
        patch_size=32, epochs=1, width=4, depth=2, split='random', precision='float32', device='cpu'
    )
    return ModelPipeline(ISPRS.ignoring('clutter'), settings).fit([synthetic_scene(96, 128, seed=5)])


@pytest.fixture(scope='module')
def file(trained, tmp_path_factory):
    return export_onnx(trained, tmp_path_factory.mktemp('onnx') / 'model.onnx')


@pytest.mark.parametrize('tile_size', range(256, 1300, 16))
def test_the_overlap_fits_the_halo_and_the_pooling_grid(tile_size):
    percent = deploy._smallest_overlap(tile_size, 96, 16)
    overlap = tile_size * (percent or 0) // 100
    assert percent is None or (overlap >= 2 * 96 and overlap % 16 == 0)


@pytest.mark.parametrize(
    'tile_size, message',
    [
        (192, 'multiple of 16 with room for a halo of 96 pixels, got 192: the next that fits is'),
        (650, 'multiple of 16'),
        (640.0, 'a whole number'),
        (True, 'a whole number'),
        (0, 'at least 1'),
    ],
)
def test_a_tile_size_that_does_not_fit_raises(tile_size, message):
    with pytest.raises(ValueError, match=message):
        tile_overlap(tile_size)


@pytest.mark.parametrize(
    'shape, message',
    [
        ((1, 3, 66, 64), 'multiples of 4, got 66 x 64'),
        ((1, 3, 64, 66), 'got 64 x 66'),
        ((1, 4, 64, 64), 'give it 3 bands'),
        ((3, 64, 64), 'the batch has shape'),
    ],
)
def test_a_batch_that_does_not_fit_raises(file, shape, message):
    with pytest.raises(ValueError, match=message):
        onnx_predictor(file)(torch.zeros(shape))


def foreign():
    "A network of one convolution from another program, without our note."
    weights = onnx.numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), 'w')
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 8, 8])
        for name, channels in (('image', 3), ('logits', 2))
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('Conv', ['image', 'w'], ['logits'])], 'toy', ends[:1], ends[1:], [weights]
    )
    opset = [onnx.helper.make_opsetid('', 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


@pytest.mark.parametrize('use', [onnx_predictor, read_onnx_metadata])
def test_files_of_another_kind_raise(file, use, tmp_path):
    for content, message in [
        (file.read_bytes()[:20000], 'not a whole ONNX file'),
        (b'a text', 'not a whole ONNX file'),
        (foreign(), "lacks 'unetkit'"),
    ]:
        (tmp_path / 'bad.onnx').write_bytes(content)
        with pytest.raises(ValueError, match=message):
            use(tmp_path / 'bad.onnx')
    with pytest.raises(FileNotFoundError, match='no file'):
        use(tmp_path / 'none.onnx')


@pytest.mark.parametrize(
    'change',
    [
        {'multiple': 0},
        {'halo': 'wide'},
        {'output': 'probabilities'},
        {'tile_size': -8},
        {'in_channels': True},
    ],
)
def test_a_note_of_another_kind_raises(trained, change, tmp_path):
    about = {'unetkit': deploy._for_unetkit(trained, None, False) | change}
    (tmp_path / 'changed.onnx').write_bytes(onnx_content(trained.model, about))
    with pytest.raises(ValueError, match='metadata of another kind'):
        onnx_predictor(tmp_path / 'changed.onnx')


def test_a_note_that_is_no_json_raises(file, tmp_path):
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {'unetkit': 'no JSON'})
    onnx.save(model, tmp_path / 'changed.onnx')
    with pytest.raises(ValueError, match='metadata of another kind'):
        read_onnx_metadata(tmp_path / 'changed.onnx')


def test_what_cannot_be_exported_leaves_no_file(trained, tmp_path):
    path = tmp_path / 'none.onnx'
    with pytest.raises(ValueError, match='no model yet'):
        export_onnx(ModelPipeline(ISPRS), path)
    with pytest.raises(ValueError, match='got 40: the next that fits is'):
        export_onnx(trained, path, tile_size=40)
    for resolution in (-9, 0, float('nan'), '9'):
        with pytest.raises(ValueError, match='resolution must be a'):
            export_onnx(trained, path, resolution=resolution)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime'])
def test_a_missing_package_is_named_with_its_extra(trained, file, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"takes the package {package} .*pip install 'unetkit\[onnx\]'"):
        export_onnx(trained, tmp_path / 'none.onnx') if package == 'onnx' else onnx_predictor(file)


def test_only_the_note_says_what_an_export_holds(trained, file):
    about = json.loads({p.key: p.value for p in onnx.load(file).metadata_props}['unetkit'])
    assert about['network'] == trained.model.settings and about['values']['dtypes'] == ['uint8'] * 3


def test_exporting_leaves_the_model_as_it_was(trained, tmp_path):
    before = copy.deepcopy(trained.model.state_dict())
    export_onnx(trained, tmp_path / 'model.onnx', probabilities=True)
    assert not trained.model.training
    for name, values in trained.model.state_dict().items():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0)


def test_the_overlap_of_the_note_gives_the_map_of_the_whole_image(tmp_path):
    "With the plugin's squares played by whole patches: the overlap of the note, a smaller one, and one off the pooling grid."
    from unetkit.stitching import predict_tile

    model, image = demo_model('cpu', 'float32'), synthetic_scene(256, 512, seed=21).image
    file = export_onnx(model, tmp_path / 'qgis.onnx', tile_size=256, probabilities=True)
    predict, percent = onnx_predictor(file), read_onnx_metadata(file)['tiles_overlap']
    wrong = {}
    for overlap in (percent, 10, percent + 1):
        stride = 256 - 256 * overlap // 100
        part = np.ascontiguousarray(image[:, : 256 + stride])
        exact = predict_tile(model.predictor(), part, halo=48, multiple=8, core=512)
        wrong[overlap] = (predict_tile(predict, part, 'patches', 256, stride) != exact).sum()
    assert wrong[percent] <= 2 < min(wrong[10], wrong[percent + 1])


# What QGIS draws (rows 2, 3 and 14 of what users met)


def drawn_by_deepness(file, image, clip):
    """The map that the plugin makes of an image, by what its documentation and its metadata say.

    It divides by 255 whatever the type, subtracts the mean, divides by the standard deviation, cuts squares from the upper left corner, fills the last ones
    with 0, sets what is below the threshold to 0 and takes the largest; of a square it keeps all but half of the overlap, except at the border of the image.
    Older versions clip the output to 0 and 1 first.
    """
    session = onnxruntime.InferenceSession(str(file))
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert session.get_inputs()[0].shape[2:] == [about['tile_size']] * 2, (
        'the plugin takes the side from here'
    )
    side, overlap = about['tile_size'], about['tile_size'] * about['tiles_overlap'] // 100
    stride, half = side - overlap, overlap // 2
    counts = [max(1, -(-(n - overlap) // stride)) for n in image.shape[:2]]
    rows, cols = (overlap + count * stride for count in counts)
    whole = np.zeros((rows, cols, image.shape[2]), image.dtype)
    whole[: image.shape[0], : image.shape[1]] = image
    drawn = np.zeros((rows, cols), np.uint8)
    mean, std = (np.array(about[f'standardization_{name}'], np.float32) for name in ('mean', 'std'))
    for row in range(0, counts[0] * stride, stride):
        for col in range(0, counts[1] * stride, stride):
            pixels = np.float32(whole[row : row + side, col : col + side] / 255)
            (output,) = session.run(None, {'image': ((pixels - mean) / std).transpose(2, 0, 1)[None]})
            output = np.clip(output[0], 0, 1) if clip else output[0]
            found = np.where(output < about['seg_thresh'], 0, output).argmax(0)
            top, left = half * (row > 0), half * (col > 0)
            drawn[row + top : row + side, col + left : col + side] = found[top:, left:]  # the next overwrites
    return drawn[: image.shape[0], : image.shape[1]]


TYPES = {  # Stored number = 8-bit number * gain + offset, and two numbers far outside
    'uint8': ('uint8', 1, 0, (0, 255)),
    'uint16': ('uint16', 12, 1000, (0, 65535)),
    'float32': ('float32', 0.1, -25, (-300, 900)),
}


@pytest.fixture(scope='module', params=TYPES)
def four_bands(request, tmp_path_factory):
    "A model of four bands whose logits are all negative, its file, an image that it has not seen, and its map."
    dtype, gain, offset, far = TYPES[request.param]
    folder, tiles = tmp_path_factory.mktemp(request.param), []
    for seed in (5, 6):
        tile = synthetic_scene(152, 192, seed=seed)
        bands = np.dstack([tile.image, tile.image.mean(2)])
        pixels = np.round(bands * gain + offset, 0 if dtype != 'float32' else 3).astype(dtype)
        tiles.append(Tile(pixels, labels=tile.labels, georeference=tile.georeference))
    settings = dict(
        patch_size=32, epochs=1, batch_size=4, lr=1e-3, width=8, depth=2, split='random', keep='loss'
    )
    plain = dict(normalisation='none', average=0.0, device='cpu', precision='float32', seed=0)
    model = ModelPipeline(ISPRS, **settings, **plain).fit(tiles[:1])
    image = tiles[1].image
    image[20:24, 30:60], image[90:94, 100:140] = far
    path = write_image(folder / 'image.tif', image, tiles[1].georeference)
    batch = torch.from_numpy(model.values.scale(image)).permute(2, 0, 1)[None].float()
    batch = batch / 255 if model.values.plain else batch
    with torch.no_grad():
        *_, head = (layer for layer in model.model.modules() if isinstance(layer, torch.nn.Conv2d))
        # a head that tells places apart wherever the test runs, as a few steps of training may not
        head.weight.normal_(generator=torch.Generator().manual_seed(0))
        head.bias -= model.predictor()(batch).mean((0, 2, 3))  # so that every class has its part of the map
        head.bias -= model.predictor()(batch).max() + 1
    logits = model.predictor()(batch)[0]
    assert logits.max() < 0
    return model, model.save(folder / 'model.safetensors'), path, image, logits


@pytest.mark.parametrize('clip', [False, True])
def test_qgis_draws_the_map_of_the_program(four_bands, clip, tmp_path):
    "Beyond the right and lower border the plugin sees zeros, so the halo there is left out; ties may fall either way."
    model, file, path, image, logits = four_bands
    said = succeeds('export', file, '--for', 'qgis', '--tile-size', 96, '--out', tmp_path / 'q.onnx')
    assert 'Load default parameters' in said and '9 cm' in said and '50 % overlap' in said
    code, _, err = shell('predict', file, path, '--out', tmp_path / 'map.tif', '--precision', 'float32')
    assert code == 0, err  # numbers far outside are remarked on
    ours, theirs = read_label_map(tmp_path / 'map.tif'), drawn_by_deepness(tmp_path / 'q.onnx', image, clip)
    first, second = logits.topk(2, dim=0).values
    ties = (first - second <= 2e-4 * logits.abs().max()).numpy()  # the parity that exports are held to
    halo = read_onnx_metadata(tmp_path / 'q.onnx')['unetkit']['halo']
    inside = np.s_[:-halo, :-halo]
    assert not ((ours != theirs) & ~ties)[inside].any()
    assert ties[inside].mean() < 0.01 and np.bincount(ours[inside].ravel()).max() < 0.95 * ours[inside].size
    about = read_onnx_metadata(tmp_path / 'q.onnx')
    assert about['class_names'] == {str(index): name for index, name in enumerate(ISPRS.names)}
    assert about['unetkit']['palette']['colours'] == [list(colour) for colour in ISPRS.colours]
    assert about['resolution'] == pytest.approx(9)


def test_logits_that_are_clipped_are_another_map(four_bands, tmp_path):
    "What the settings are for: without probabilities an older plugin draws the first class only."
    model, file, path, image, logits = four_bands
    bare = export_onnx(model, tmp_path / 'bare.onnx', tile_size=96)
    assert (drawn_by_deepness(bare, image, clip=True) == 0).all()


def test_settings_of_the_caller(trained, tmp_path):
    "What is said is kept, unless it would give another map."
    assert export_settings(trained, 'qgis') == {'tile_size': 640, 'probabilities': True, 'resolution': 9}
    kept = export_settings(trained, 'qgis', 1280, True, 20)
    assert kept == {'tile_size': 1280, 'probabilities': True, 'resolution': 20}
    assert export_settings(trained, 'web')['tile_size'] is None
    for clash in ({'tile_size': 640}, {'probabilities': True}):
        with pytest.raises(ValueError, match='leave out --tile-size and --probabilities'):
            export_settings(trained, 'web', **clash)
    with pytest.raises(ValueError, match='must be one of qgis, web'):
        export_settings(trained, 'arcgis')
    file = trained.save(tmp_path / 'model.safetensors')
    code, out, err = shell('export', file, '--for', 'gis', '--out', tmp_path / 'm.onnx')
    assert (code, out, err.count('\n')) == (2, '', 1) and '--for must be one of qgis, web' in err
    code, _, err = shell('export', file, '--for', 'web', '--out', tmp_path / 'm.json')
    assert code == 2 and 'two results would be written' in err
    said = succeeds('export', file, '--for', 'web', '--out', tmp_path / 'm.onnx')
    assert f'are in {tmp_path / "m.json"}' in said
    succeeds('export', file, '--for', 'web', '--out', tmp_path / 'm.onnx')  # both files are known as ours
    about = json.loads((tmp_path / 'm.json').read_text())
    assert about.items() >= read_onnx_metadata(tmp_path / 'm.onnx')['unetkit'].items()
    (tmp_path / 'm.json').write_text('notes of somebody')
    code, _, err = shell('export', file, '--for', 'web', '--out', tmp_path / 'm.onnx')
    assert code == 2 and 'm.json is there already' in err
    assert 'multiples of 4' in said and 'all but 24 pixels' in said and 'divide the pixels by 255' in said


def test_what_the_plugin_cannot_know_is_said(tmp_path):
    tile = synthetic_scene(64, 64, seed=5)
    odd = ModelPipeline(ISPRS, width=4, depth=2, device='cpu')
    odd.make([Tile(tile.image.astype(np.int32) * 1000, labels=tile.labels)])
    with pytest.warns(Remark) as said:
        assert export_settings(odd, 'qgis')['resolution'] is None
    said = ' '.join(str(one.message) for one in said)
    assert 'the training images were int32' in said and '--resolution' in said


def test_facts_of_a_former_network_go(trained, tmp_path):
    "They are removed where they are as written; changed ones stay and are named, and other files are left alone."
    file, out, facts = trained.save(tmp_path / 'm.safetensors'), tmp_path / 'w.onnx', tmp_path / 'w.json'
    succeeds('export', file, '--for', 'web', '--out', out)
    about = json.loads(facts.read_text())
    assert about['fingerprint'] == trained.fingerprint()
    assert read_onnx_metadata(out)['unetkit']['fingerprint'] == trained.fingerprint()
    succeeds('export', file, '--out', out)
    assert not facts.exists()
    succeeds('export', file, '--for', 'web', '--out', out)
    facts.write_text(facts.read_text().replace('"halo": 24', '"halo": 25'))
    code, _, err = shell('export', file, '--for', 'web', '--out', out)
    assert code == 2 and 'w.json is there already' in err and 'changed since' in err
    code, _, err = shell('export', file, '--out', out)
    assert code == 0 and 'w.json was changed since it was written, and stays' in err
    assert '"halo": 25' in facts.read_text()
    for text in ('[]', 'no JSON', '{"about": "mine"}', '{"about": 1}'):
        facts.write_text(text)
        code, _, err = shell('export', file, '--out', out)
        assert code == 0 and facts.read_text() == text and 'w.json' not in err


@pytest.mark.parametrize('options', [[], ['--for', 'web']])
def test_a_folder_is_no_name_of_an_export(trained, tmp_path, options, monkeypatch):
    file = trained.save(tmp_path / 'm.safetensors')
    monkeypatch.chdir(tmp_path)
    code, _, err = shell('export', file, '--out', '.', *options)
    assert (code, err.count('\n')) == (2, 1) and 'it is a folder; give the name of a file' in err


# Eight bits


SCENE = synthetic_scene(384, 512, seed=11)  # one that the demo model was trained on; room for 12 windows


@pytest.fixture(scope='module')
def demo():
    return demo_model('cpu', 'float32')


def labels_of(file, batch):
    return onnx_predictor(file)(batch).argmax(1).numpy()


def test_8_bits_are_said_and_counted(demo, tmp_path):
    "What the file says of its labels is what a second count gives, on windows that calibration has not seen."
    calibrate, compare = calibration_windows(demo, SCENE)
    assert (len(calibrate), len(compare)) == (8, 4)
    starts = {one[0, :, ::31, ::31].tobytes() for one in calibrate + compare}
    assert len(starts) == 12  # no window is there twice
    plain = export_onnx(demo, tmp_path / 'plain.onnx')
    file = export_onnx(demo, tmp_path / 'm.onnx', int8=(calibrate, compare))
    facts = read_onnx_metadata(file)['unetkit']
    said = facts.pop('int8')
    assert facts == read_onnx_metadata(plain)['unetkit']  # nothing else has changed
    batch = torch.from_numpy(np.concatenate(compare))
    ours, theirs = labels_of(plain, batch), labels_of(file, batch)
    assert said == {
        'weights': 'int8',
        'activations': 'uint8',
        'calibrated_on': 8,
        'compared_on': 4,
        'window': 128,
        'pixels': 4 * 128**2,
        'differ': int((ours != theirs).sum()),
    }
    assert about_int8(file).startswith(f'8 bits change {(ours != theirs).mean():.2%} of {ours.size} labels')
    assert about_int8(plain) == ''


def test_8_bits_change_labels_only_where_two_classes_are_close(demo, tmp_path):
    "The rule of ties holds with the largest difference of 8 bits; half of the differing pixels lead by far less than others do."
    windows = calibration_windows(demo, SCENE)
    file = export_onnx(demo, tmp_path / 'm.onnx', int8=windows)
    batch = torch.from_numpy(np.concatenate(windows[1]))
    with torch.no_grad():
        logits = demo.predictor()(batch)
    theirs = onnx_predictor(file)(batch)
    largest, differ, ties = parity(logits, theirs)
    assert 0 < differ <= ties
    first, second = logits.topk(2, dim=1).values.unbind(1)
    lead, wrong = first - second, logits.argmax(1) != theirs.argmax(1)
    assert lead[wrong].median() < lead.median() / 4


def test_what_is_8_bits_in_the_file(demo, tmp_path):
    "Weights of all convolutions but the first and the last are int8 with a scale per channel; activations are uint8."
    model = onnx.load(export_onnx(demo, tmp_path / 'm.onnx', int8=calibration_windows(demo, SCENE)))
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == 'unetkit'
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type in ('Conv', 'ConvTranspose')]
    kinds = [made[n.input[1]].op_type if n.input[1] in made else 'float32' for n in convolutions]
    assert kinds == ['float32', *['DequantizeLinear'] * (len(kinds) - 2), 'float32']
    for node in convolutions[1:-1]:
        weights, scales, zeros = (arrays[name] for name in made[node.input[1]].input)
        channels = weights.shape[0 if node.op_type == 'Conv' else 1]
        assert weights.dtype == np.int8 and scales.shape == (channels,) and not zeros.any()
        image = made[node.input[0]]
        assert arrays[image.input[2]].dtype == np.uint8


def test_a_calibration_is_the_same_every_time(demo, tmp_path):
    "The same bytes from a tile, from its file, and in a process whose sets have another order."
    file = export_onnx(demo, tmp_path / 'tile.onnx', int8=calibration_windows(demo, SCENE))
    model, image = demo.save(tmp_path / 'm.safetensors'), write_image(tmp_path / 'image.tif', SCENE.image)
    words = ['export', str(model), '--int8', str(image), '--out']
    for seed in ('1', '2'):
        out = tmp_path / f'{seed}.onnx'
        call = [sys.executable, '-m', 'unetkit', *words, str(out)]
        subprocess.run(call, env=os.environ | {'PYTHONHASHSEED': seed}, check=True, capture_output=True)
        assert out.read_bytes() == file.read_bytes()


def test_8_bits_for_every_program(demo, tmp_path):
    "A page gets them in its facts; QGIS a size, probabilities and the labels of the file of any size."
    model, image = demo.save(tmp_path / 'm.safetensors'), write_image(tmp_path / 'image.tif', SCENE.image)
    plain, web, qgis = (tmp_path / f'{name}.onnx' for name in ('plain', 'web', 'qgis'))
    said = succeeds('export', model, '--int8', image, '--out', plain)
    assert '8 bits change' in said and '4 windows of 128 x 128 pixels' in said
    succeeds('export', model, '--int8', image, '--for', 'web', '--out', web)
    assert json.loads((tmp_path / 'web.json').read_text())['int8']['weights'] == 'int8'
    assert web.read_bytes() == plain.read_bytes()
    code, _, err = shell('export', model, '--int8', image, '--for', 'qgis', '--tile-size', 256, '--out', qgis)
    assert code == 0, err
    session = onnxruntime.InferenceSession(str(qgis))
    assert [end.shape[2:] for end in (*session.get_inputs(), *session.get_outputs())] == [[256, 256]] * 2
    batch = torch.from_numpy(SCENE.image[:256, :256]).permute(2, 0, 1)[None] / 255
    assert (labels_of(qgis, batch) != labels_of(plain, batch)).sum() <= 2  # a softmax may turn over ties
    with pytest.raises(ValueError, match='tiles of 256 x 256 pixels only'):
        onnx_predictor(qgis)(batch[..., :128, :128])


@pytest.mark.parametrize(
    'network, settings',
    [
        ('unet', {'normalisation': 'batch', 'residual': True}),
        ('unet', {'normalisation': 'channel'}),
        ('efficientnet_lite0', {'encoder_weights': 'none'}),
    ],
)
def test_8_bits_of_every_network(network, settings, tmp_path):
    "Networks with random weights, whose logits are further apart than 8 bits move them: on most pixels the labels stay."
    how = dict(patch_size=64, width=8, depth=2, device='cpu', precision='float32')
    pipeline = ModelPipeline(ISPRS, network=network, **how | settings)
    pipeline.make([SCENE])
    pipeline.model.eval()
    calibrate, compare = calibration_windows(pipeline, SCENE)
    with torch.no_grad():
        *_, head = (layer for layer in pipeline.model.modules() if isinstance(layer, torch.nn.Conv2d))
        head.bias[0] += 2 * pipeline.predictor()(torch.from_numpy(np.concatenate(compare))).abs().max()
    file = export_onnx(pipeline, tmp_path / 'm.onnx', int8=(calibrate, compare))
    batch = torch.from_numpy(compare[0])
    logits, theirs = pipeline.predictor()(batch), onnx_predictor(file)(batch)
    assert (theirs - logits).std() < 0.25 * (logits - logits.mean((2, 3), keepdim=True)).std()


def test_windows_are_on_the_scale_of_the_network_and_hold_data(four_bands, tmp_path):
    "Any number type; a hole of no data is in no window, and no window is cut where it would reach beyond the image."
    model = four_bands[0]
    tile = synthetic_scene(300, 420, seed=6)
    bands = np.dstack([tile.image, tile.image.mean(2)]) / 255
    low, high = (np.array(side) for side in (model.values.low, model.values.high))
    image = (bands * (high - low) + low).astype(model.values.dtypes[0])
    valid = np.ones(tile.size, bool)
    valid[:140, :140] = False
    windows = sum(calibration_windows(model, Tile(image, valid=valid)), [])
    assert len(windows) == 2 * 3 - 1  # of the places 0 and 172 of the rows, 0, 146 and 292 of the columns
    expected = np.float32(model.values.scale(image)) / (255 if model.values.plain else 1)
    places = [(row, col) for row in (0, 172) for col in (0, 146, 292)][1:]
    cut = {expected[r : r + 128, c : c + 128].transpose(2, 0, 1).tobytes() for r, c in places}
    assert {one.tobytes() for one in windows} == cut


def test_a_folder_of_parts_calibrates(trained, tmp_path):
    "Every part gives windows; a PNG, which has no windows to read, as well as a GeoTIFF."
    for name, part in (('a.tif', SCENE.image[:, :256]), ('b.png', SCENE.image[:, 256:])):
        Image.fromarray(np.ascontiguousarray(part)).save(tmp_path / name)
    calibrate, compare = calibration_windows(trained, tmp_path)
    assert (len(calibrate), len(compare)) == (8, 4)
    Image.fromarray(SCENE.image // 4).save(tmp_path / 'dark.tif')
    with warnings.catch_warnings():
        warnings.simplefilter('error', Remark)  # parts differ, and none is remarked on
        calibration_windows(trained, tmp_path)
    with pytest.warns(Remark, match='dark.tif has mean'):
        calibration_windows(trained, tmp_path / 'dark.tif')


def test_what_cannot_be_calibrated_leaves_no_file(demo, tmp_path):
    "One line each, with what was given and what to do; nothing is written, and what was there stays."
    model, made = demo.save(tmp_path / 'm.safetensors'), tmp_path / 'made'
    images = {
        'four': np.dstack([SCENE.image, SCENE.image[..., 0]]),
        'small': SCENE.image[:128, :300],
        'good': SCENE.image,
    }
    files = {name: write_image(tmp_path / f'{name}.tif', pixels) for name, pixels in images.items()}
    empty = tmp_path / 'empty.tif'
    with rasterio.open(empty, 'w', 'GTiff', 512, 384, 3, dtype='uint8', nodata=0) as file:
        file.write(np.zeros((3, 384, 512), np.uint8))
    for options, message in [
        (['--int8', files['four']], 'four.tif has 4 bands'),
        (['--int8', files['small']], '2 windows of 128 x 128 pixels hold data everywhere'),
        (['--int8', empty], 'empty.tif: 0 windows .* or one with fewer holes'),
        (['--int8', tmp_path / 'none.tif'], 'there is no file'),
        (['--int8', model], 'm.safetensors'),
        (['--int8', files['good'], '--tile-size', 100], 'the next that fits is'),
        (['--int8', files['good'], '--for', 'web', '--tile-size', 640], 'leave out --tile-size'),
        (['--int8', files['good'], '--for', 'gis'], '--for must be one of qgis, web'),
        (['--height', files['good']], '--height .*good.tif is for the image of --int8'),
        (['--int8', files['good'], '--height', files['good']], 'has 3 bands: give one of heights'),
    ]:
        code, out, err = shell('export', model, *options, '--out', made / 'q.onnx')
        assert (code, out) == (2, '') and err.splitlines()[-1].count('error') == 1, err
        assert re.search(message, err), err
        assert not made.exists()
    code, _, err = shell('export', model, '--int8', files['good'], '--out', files['good'], '--overwrite')
    assert code == 2 and np.array_equal(read_image(files['good']), SCENE.image), err


def test_a_broken_calibration_writes_nothing(demo, tmp_path):
    "Windows without contrast give ranges that the image leaves; the file that was there stays."
    path = export_onnx(demo, tmp_path / 'm.onnx')
    before = path.read_bytes()
    _, compare = calibration_windows(demo, SCENE)
    flat = [np.zeros((1, 3, 128, 128), np.float32)] * 2
    with pytest.raises(ValueError, match='8 bits change .* at most 10% may change: calibrate on an image'):
        export_onnx(demo, path, int8=(flat, compare))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_8_bits_in_openvino(demo, tmp_path):
    "The other engine computes the same labels from the file, up to what rounding to 8 bits can turn over."
    openvino = pytest.importorskip('openvino', reason="needs pip install 'unetkit[openvino]'")
    calibrate, compare = calibration_windows(demo, SCENE)
    file = export_onnx(demo, tmp_path / 'm.onnx', int8=(calibrate, compare))
    core = openvino.Core()
    program = core.compile_model(
        core.read_model(str(file)), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
    )
    batch = np.concatenate(compare)
    theirs, ours = program([batch])[0].argmax(1), labels_of(file, torch.from_numpy(batch))
    changed = read_onnx_metadata(file)['unetkit']['int8']
    assert (theirs != ours).mean() < changed['differ'] / changed['pixels']  # closer than float32 is to 8 bits
