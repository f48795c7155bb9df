"The ONNX file: what raises an error, and that nothing is left behind by it."

import copy
import json
import sys

import numpy as np
import pytest
import torch
from helpers import shell, succeeds

from unetkit import deploy
from unetkit.deploy import export_onnx, export_settings, onnx_predictor, read_onnx_metadata, tile_overlap
from unetkit.engines import onnx_content
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS
from unetkit.raster import read_label_map, write_image
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
