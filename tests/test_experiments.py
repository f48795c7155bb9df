"One run as an object and several as a comparison: what lesson 09 does not stop to check."

import json
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from unetkit import training
from unetkit.experiments import ModelPipeline, compare
from unetkit.pipelines import result_record
from unetkit.jobs import model_header
from unetkit.labels import ISPRS, class_counts
from unetkit.models import History, save_model
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.stitching import exact_halo

SMALL = Settings(
    patch_size=64,
    stride=32,
    epochs=8,
    batch_size=4,
    width=8,
    depth=2,
    lr=3e-3,
    crops=False,
    split='random',
    method='patches',
    device='cpu',
    precision='float32',
)
SHORT = replace(SMALL, stride=None, epochs=2)


@pytest.fixture(scope='module')
def scenes():
    return [synthetic_scene(384, 448, seed=seed) for seed in (1, 2)]


@pytest.fixture(scope='module')
def pipeline(scenes):
    return ModelPipeline(ISPRS, SMALL).fit(scenes[0])


@pytest.fixture(scope='module')
def runs(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    settings = {str(p): replace(SHORT, patch_size=p) for p in (32, 64)}
    return folder, list(compare(*scenes, ISPRS, settings, folder))


def test_batches(scenes):
    "A scene of 384 x 448 pixels holds 6 x 7 windows of 64; a fifth is kept for validation."
    train, valid = ModelPipeline(ISPRS, SHORT, batch_size=10).batches(scenes[:1])
    assert (len(train.windows), len(valid.windows), len(train)) == (42 - 8, 8, 4)
    on = ModelPipeline(ISPRS, SHORT, batch_size=10, compile='on')
    assert [len(batch) for batch, _ in on.batches(scenes[:1])[0]] == [10, 10, 10, 4]
    assert (on.compiles, ModelPipeline(ISPRS, device='cpu').compiles) == (True, False)


def test_blocked_split_drops_the_guard_band(scenes):
    parts = ModelPipeline(ISPRS, SHORT, split='blocked').batches(scenes[:1])
    left = [len(part.windows) for part in parts]
    assert min(left) > 0 and sum(left) < 42


def test_a_trained_network_beats_the_commonest_class(pipeline, scenes):
    test = scenes[1]
    scores, label_map = pipeline.evaluate(test), pipeline.predict(test)
    commonest = class_counts(test.labels, 5).max() / test.labels.size
    assert 1 / 3 < commonest < 0.5 and scores.accuracy > 1.4 * commonest
    assert scores.accuracy == pytest.approx((label_map == test.labels).mean(), abs=1e-9)
    assert scores.confusion_matrix.sum() == test.labels.size
    assert np.nanargmin(scores.f1) == ISPRS.names.index('car')


def test_the_best_epoch_is_kept(pipeline):
    first, best = pipeline.history[0], pipeline.history.best
    assert best.valid_f1 == max(epoch.valid_f1 for epoch in pipeline.history)
    by_loss = History(pipeline.history, 'loss').best
    assert by_loss.valid_loss < 0.7 * first.valid_loss
    assert by_loss.valid_loss == min(epoch.valid_loss for epoch in pipeline.history)


def test_saved_and_loaded(pipeline, scenes, tmp_path):
    loaded = ModelPipeline.load(pipeline.save(tmp_path / 'model.safetensors'), 'cpu', 'float32')
    np.testing.assert_array_equal(loaded.predict(scenes[1]), pipeline.predict(scenes[1]))
    assert (loaded.palette, loaded.history, loaded.settings.lr) == (ISPRS, pipeline.history, 3e-3)


def test_windows_follow_from_the_model(pipeline, scenes):
    "Depth 2 reaches 22 pixels, so the halo is 24; less memory means a smaller core."
    sizes, image = pipeline.windows(memory=50e6), scenes[1].image
    assert (sizes['halo'], sizes['multiple'], sizes['core'] % 4) == (24, 4, 0)
    assert pipeline.windows(memory=10e6)['core'] < sizes['core']
    exact = pipeline.predict(scenes[1], method='exact')
    np.testing.assert_array_equal(exact, exact_halo(pipeline.predictor(), image, 24, 4, 128))
    assert (pipeline.predict(scenes[1], method='exact', tta=True) != exact).any()


def test_errors(pipeline, scenes, tmp_path):
    grey = replace(scenes[1], image=scenes[1].image[..., :1], bands=(), dtypes=())
    with pytest.raises(ValueError, match='has 1 bands'):
        pipeline.predict(grey)
    deep = replace(scenes[1], image=scenes[1].image.astype(np.uint16) * 100, dtypes=())
    with pytest.raises(ValueError, match='from 0 to 255: say which of its numbers'):
        pipeline.check_image(deep)
    with pytest.raises(ValueError, match='no model yet'):
        ModelPipeline(ISPRS).predict(scenes[1])
    with pytest.raises(ValueError, match='no model yet'):
        ModelPipeline(ISPRS).save(tmp_path / 'none.safetensors')
    with pytest.raises(ValueError, match='2 tiles but 1 label maps'):
        pipeline.evaluate(scenes, [pipeline.predict(scenes[1])])
    with pytest.raises(ValueError, match='no run'):
        compare(*scenes, ISPRS, {})


@pytest.mark.parametrize(
    'part',
    [{'palette': 'unknown'}, {'values': 'float32'}, {'settings': {'momentum': 1}}, {'history': 'none'}],
)
def test_header_of_something_else(pipeline, tmp_path, part):
    header = model_header(ISPRS, SMALL, pipeline.values, pipeline.history)
    save_model(tmp_path / 'foreign.safetensors', pipeline.model, header | part)
    with pytest.raises(ValueError, match='foreign.safetensors was not written by this version'):
        ModelPipeline.load(tmp_path / 'foreign.safetensors')


def test_comparison(runs):
    folder, results = runs
    records = [result_record(result) for result in results]
    windows = {32: 12 * 14, 64: 6 * 7}
    by_hand = {p: 2 * -(-(n - round(n / 5)) // 4) for p, n in windows.items()}
    assert {record['patch_size']: record['steps'] for record in records} == by_hand
    assert 3.5 < by_hand[32] / by_hand[64] < 4.5
    assert [replace(r.pipeline.settings, patch_size=64) for r in results] == [SHORT] * 2
    assert json.loads(json.dumps(records)) == records
    assert records[0]['per_class']['clutter']['f1'] is None
    assert [record['recipe'] for record in records] == ['report'] * 2
    assert sorted(path.name for path in folder.iterdir()) == [
        'checkpoint_32.safetensors',
        'checkpoint_64.safetensors',
    ]


def test_a_finished_run_is_not_trained_again(runs, scenes):
    folder, results = runs
    again = next(compare(*scenes, ISPRS, {'32': replace(SHORT, patch_size=32)}, folder))
    np.testing.assert_array_equal(again.label_maps[0], results[0].label_maps[0])
    assert again.pipeline.history == results[0].pipeline.history


def test_a_checkpoint_of_another_run(runs, scenes):
    folder, _ = runs
    with pytest.raises(ValueError, match='of another run: lr was'):
        next(compare(*scenes, ISPRS, {'32': replace(SHORT, patch_size=32, lr=1e-4)}, folder))
    changed = replace(scenes[0], labels=scenes[0].labels.copy())
    changed.labels[0, 0] = (changed.labels[0, 0] + 1) % 5
    with pytest.raises(ValueError, match='of another run: class counts was'):
        next(compare(changed, scenes[1], ISPRS, {'32': replace(SHORT, patch_size=32)}, folder))


def test_interrupted_fit_keeps_the_best_weights(scenes, tmp_path):
    train_epoch, left = training.train_epoch, iter(range(2))

    def twice(*args, **kwargs):
        for _ in left:
            return train_epoch(*args, **kwargs)
        raise KeyboardInterrupt

    cut = ModelPipeline(ISPRS, SHORT, epochs=8)
    with mock.patch.object(training, 'train_epoch', twice), pytest.raises(KeyboardInterrupt):
        cut.fit(scenes[0])
    assert [epoch.number for epoch in cut.history] == [1, 2]
    loaded = ModelPipeline.load(cut.save(tmp_path / 'cut.safetensors'), 'cpu', 'float32')
    np.testing.assert_array_equal(loaded.predict(scenes[1]), cut.predict(scenes[1]))


def test_a_job_is_checked_and_counted_once(scenes):
    import unetkit.jobs as jobs

    with mock.patch.object(jobs, 'class_counts', wraps=jobs.class_counts) as counted:
        settings = {str(seed): replace(SHORT, epochs=1, seed=seed) for seed in range(2)}
        finished = compare(*scenes, ISPRS, settings)
        assert counted.call_count == 2  # one training tile, one test tile
        next(finished)
        assert counted.call_count <= 3  # no crops are drawn; `evaluate` looks at the test tile again


def test_a_loss_of_ones_own(scenes, tmp_path):
    def my_loss(logits, targets):
        return training.torch.nn.functional.cross_entropy(logits, targets, ignore_index=255)

    pipeline = ModelPipeline(ISPRS, SHORT, epochs=1, loss=my_loss).fit(scenes[0])
    loaded = ModelPipeline.load(pipeline.save(tmp_path / 'own.safetensors'), 'cpu', 'float32')
    assert loaded.settings.loss == 'custom:my_loss'
