"The ONNX file: what raises an error, and that nothing is left behind by it."

import copy
import json
import sys

import numpy as np
import pytest
import torch

from unetkit import deploy
from unetkit.deploy import export_onnx, onnx_predictor, read_onnx_metadata, tile_overlap
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS
from unetkit.records import demo_model
from unetkit.settings import Settings
from unetkit.scenes import synthetic_scene

onnx = pytest.importorskip('onnx', reason="needs pip install 'unetkit[onnx]'")
pytest.importorskip('onnxruntime', reason="needs pip install 'unetkit[onnx]'")


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
    (tmp_path / 'changed.onnx').write_bytes(deploy._onnx(trained.model, about, None, None))
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
