"""Tuning: the better candidate wins, the time is kept, an interrupted tuning ends like one that was not, and the command leaves what it says."""

import csv
import json
import shlex
import shutil
import signal
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from helpers import check_line, check_refusal, disk, start_process, shell, succeeds

from unetkit import tuning
from unetkit.datasets import LazyTile, Reading
from unetkit.experiments import ModelPipeline
from unetkit.labels import ISPRS, labels_to_colours
from unetkit.machine import LossNotFinite
from unetkit.models import load_tensors
from unetkit.outputs import is_ours
from unetkit.raster import write_image
from unetkit.rules import listening
from unetkit.scenes import synthetic_scene
from unetkit.settings import Settings
from unetkit.tuning import CANDIDATES, COLUMNS, Expected, candidates, divide, tune

SMALL = Settings(width=4, depth=2, patch_size=32, device='cpu', precision='float32', compile='off')
THREE = {'stuck': replace(SMALL, lr=1e-9), 'usual': SMALL, 'fast': replace(SMALL, lr=5e-3)}
QUICK = {name: replace(one, width=2, batch_size=2) for name, one in THREE.items()}
MINUTES = 0.4  # 240 steps of a tenth of a second
SHORT = 0.2  # 120 steps


@pytest.fixture(scope='module')
def scene():
    return synthetic_scene(192, 256, seed=1)


def rate(settings):
    "Seconds of a step; passed in, so that no clock is read."
    return 0.1


def run(scene, folder=None, minutes=SHORT, **more):
    return tune(scene, ISPRS, minutes, runs=QUICK, folder=folder, rate=rate, **more)


@pytest.fixture(scope='module')
def found(scene):
    return tune(scene, ISPRS, MINUTES, runs=THREE, rate=rate)


@pytest.fixture(scope='module')
def state(tmp_path_factory):
    "The folder of a tuning that is finished, and not forgotten."
    return tmp_path_factory.mktemp('state') / 'm.tuning'


@pytest.fixture(scope='module')
def short(scene, state):
    return run(scene, state)


# The candidates


def test_candidates():
    "Eight to twelve, all different, the recommended recipe first; what is set stays."
    made = candidates()
    assert list(made) == list(CANDIDATES) and 8 <= len(made) <= 12
    assert next(iter(made.values())) == Settings() and len(set(made.values())) == len(made)
    assert {one.patch_size for one in made.values()} >= {32, 64, 128}
    assert {one.width for one in made.values()} >= {16, 32}
    assert {one.lr for one in candidates(Settings(lr=0.01)).values()} == {0.01}
    assert {one.patch_size for one in candidates(fixed=['patch_size']).values()} == {64}
    made = candidates()
    assert (
        made['class weights'].weighs and not made['recommended'].weighs
    )  # other weights with a loss that has none are no candidate
    with_weights = candidates(Settings(weights='inverse', loss='weighted_cross_entropy'))
    assert 'class weights' not in with_weights
    assert 'class weights' not in candidates(Settings(weights='none'), fixed=['weights'])
    assert 'no class in focus' not in candidates(Settings(crops=False))


# A legitimate value for every setting of `tune --help`, other than the default
GIVEN = {
    'patch_size': 48,
    'stride': 16,
    'batch_size': 4,
    'augment': False,
    'crops': False,
    'focus': 'car',
    'scale_jitter': 0.3,
    'light_jitter': 0.1,
    'copy_paste': 0.2,
    'seed': 3,
    'network': 'efficientnet_lite0',
    'width': 4,
    'depth': 3,
    'normalisation': 'channel',
    'residual': True,
    'encoder_weights': 'none',
    'loss': 'focal',
    'weights': 'inverse',
    'label_smoothing': 0.1,
    'optimiser': 'adam',
    'lr': 1e-4,
    'weight_decay': 0.0,
    'schedule': 'one_cycle',
    'warmup': 0.0,
    'average': 0.9,
    'keep': 'loss',
    'method': 'blend',
    'match': 'moments',
    'norm_statistics': 'image',
    'device': 'cpu',
    'precision': 'float32',
    'compile': 'off',
    'engine': 'torch',
}


def test_every_setting_is_tried():
    assert GIVEN.keys() == {one.name for one in fields(Settings)} - set(tuning.DECIDED)


@pytest.mark.parametrize('name', GIVEN)
def test_any_setting_can_be_given(name):
    "A candidate that does not go together with it is named; the others stand, and each has it."
    base = replace(Settings(), **{name: GIVEN[name]})
    found, refused = tuning._possible(base, [name])
    assert next(iter(found.values())) == base and len(found) >= 5
    assert {getattr(one, name) for one in found.values()} == {GIVEN[name]}
    assert refused.keys() == {
        'scale_jitter': {'report, patch 32'},
        'focus': {'report, patch 32'},
        'optimiser': {'AdamW, one cycle'},
    }.get(name, set())


def test_an_impossible_candidate_is_named(scene, monkeypatch):
    monkeypatch.setattr(tuning, 'CANDIDATES', {'usual': {}, 'whole tiles': {'crops': False}})
    found = tune(scene, ISPRS, SHORT, replace(QUICK['usual'], scale_jitter=0.3), rate=rate)
    assert [row['candidate'] for row in found.rows] == ['usual', 'whole tiles']
    assert found.rows[1]['left'].startswith('not tried: scale_jitter must be 0 unless crops are drawn')
    assert 'scale_jitter must be 0' in found.table() and found.rows[1]['steps'] == 0


# The ground


@pytest.mark.parametrize('size, parts', [((1024, 1024), 3), ((192, 256), 2), ((500, 2000), 3)])
def test_strips_share_no_pixel(size, parts):
    numbers = np.arange(np.prod(size), dtype=np.float32).reshape(*size, 1)
    tile = replace(synthetic_scene(*size, seed=1), image=numbers)
    ground = divide([tile], 6, [32, 64])
    pieces = [piece for piece in (ground.train, ground.valid, ground.test) if piece]
    assert len(pieces) == parts
    seen = np.concatenate([tile.image.ravel() for piece in pieces for tile in piece])
    assert len(np.unique(seen)) == len(seen)
    assert ground.train[0].image.size >= numbers.size / 2 and min(ground.valid[0].size) >= 32
    for piece in pieces:  # its place is that of its first pixel
        row, col = divmod(int(piece[0].image[0, 0, 0]), size[1])
        assert piece[0].georeference.xy(0, 0) == pytest.approx(tile.georeference.xy(row, col))
        assert (piece[0].labels == tile.labels[row:, col:][: piece[0].size[0], : piece[0].size[1]]).all()


def test_the_ground_is_the_same_for_all_patch_sizes():
    "A split of windows would differ; candidates on different ground could not be compared."
    tile = synthetic_scene(256, 384, seed=1)
    two = {'32': QUICK['usual'], '64': replace(QUICK['usual'], patch_size=64)}
    found = tune(tile, ISPRS, 0.4, runs=two, rate=rate)
    assert {row['patch_size'] for row in found.rows if row['steps']} == {32, 64}
    assert len(found.ground.valid) == 1
    assert found.model.evaluate(found.ground.valid).mean_f1 == pytest.approx(found.valid.mean_f1)


def test_whole_tiles(tmp_path):
    chips = [synthetic_scene(64, 64, seed=seed) for seed in range(8)]
    ground = divide(chips, 6, [32])
    assert [len(part) for part in (ground.train, ground.valid, ground.test)] == [6, 1, 1]
    assert ground.rule.endswith('tiles that touch are not kept apart, and flatter the scores')
    assert len({id(tile) for part in (ground.train, ground.valid, ground.test) for tile in part}) == 8
    mine = divide(chips[:4], 6, [32], valid=chips[4:])
    assert (mine.train, mine.valid, mine.test) == (chips[:4], chips[4::2], chips[5::2])
    assert divide(chips[:4], 6, [32], valid=chips[4:5]).test == []
    write_image(tmp_path / 'a.tif', chips[0].image)
    write_image(tmp_path / 'b.png', labels_to_colours(chips[0].labels, ISPRS))
    lazy = LazyTile(tmp_path / 'a.tif', tmp_path / 'b.png', ISPRS, Reading())
    with pytest.raises(ValueError, match='is not cut into parts: give images to validate on'):
        divide([lazy], 6, [32])
    assert len(divide([lazy, lazy], 6, [32]).valid) == 1


# The race


def test_the_better_one_wins(found):
    "One candidate cannot learn; it leaves first, and the winner is the one whose score is highest."
    assert found.chosen != 'stuck' and found.rows[-1]['candidate'] == 'stuck'
    assert [row['left'] for row in found.rows] == ['chosen', 'after round 2', 'after round 1']
    assert found.rows[0]['mean_f1'] > found.rows[1]['mean_f1'] > found.rows[2]['mean_f1']
    assert found.compared == 5  # three scores in the first round, two in the second


def test_the_time_is_kept(found):
    "By the rate that was passed in; the winner has all that the others leave, but for an epoch."
    steps = [row['steps'] for row in found.rows]
    pace = found.model.history[0].steps
    assert 240 - pace < sum(steps) <= 240
    assert steps[2] == 24 and steps[0] > 2 * steps[1]
    assert found.model.history[-1].steps == steps[0]
    assert found.seconds == pytest.approx(sum(steps) / 10)


def test_the_table(found, tmp_path):
    path = found.write(tmp_path / 'a.csv')
    with open(path, newline='') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS and [row['candidate'] for row in rows] == [
        row['candidate'] for row in found.rows
    ]
    assert float(rows[0]['mean_f1']) == found.valid.mean_f1
    assert is_ours(path)
    heading, *lines = found.table().splitlines()
    assert len(lines) == 3 and f'{100 * found.valid.mean_f1:.1f}' in lines[0]
    for word in ('candidate', 'patch', 'width', 'steps', 'seconds', 'mean F1', 'accuracy'):
        assert word in heading


def test_what_is_said(found):
    text = '; '.join(found.said)
    assert found.model.tuning == text
    for words in (found.chosen, '3 candidates', '5 scores', 'optimistic', 'strip'):
        assert words in text
    assert found.test is None and 'too little labelled ground' in text


def test_a_large_tile_has_an_honest_figure():
    tile = synthetic_scene(400, 1280, seed=1)
    found = tune(tile, ISPRS, 0.2, runs={'usual': replace(SMALL, width=2)}, rate=rate)
    assert found.test is not None and 'no choice has seen' in found.said[-1]
    again = found.model.evaluate(found.ground.test)
    assert found.test.mean_f1 == pytest.approx(again.mean_f1)
    assert found.test.low <= found.test.mean_f1 <= found.test.high


def test_one_block_has_no_interval():
    one = Expected.of(np.eye(3, dtype=np.int64)[None] * 5, 96, 'abc')
    assert np.isnan(one.low) and '[' not in str(one)


def test_the_interval_is_over_the_same_classes():
    "A class of F1 0 in 3 of 40 blocks: draws without it would have a mean F1 of 1."
    easy, hard = np.diag([50, 0]), np.array([[50, 0], [5, 0]])
    expected = Expected.of(np.stack([easy] * 37 + [hard] * 3), 96, ['lawn', 'car'])
    assert expected.mean_f1 < 0.5 and expected.high < 0.51 and not expected.why
    fewer = Expected.of(np.stack([easy] * 38 + [hard] * 2), 96, ['lawn', 'car'])
    assert np.isnan(fewer.low)
    assert 'mean F1 49.9 % (no interval: too few blocks of 96 pixels have car, 2)' in str(fewer)


def test_a_handful_of_pixels_is_no_class_to_choose_by():
    labels = np.zeros((1000, 200), np.uint8)
    labels[400:600] = 1
    labels[2, :5] = labels[-3:, :] = 1
    tile = replace(synthetic_scene(1000, 200, seed=1), labels=labels)
    ground = divide([tile], 2, [32])
    assert (ground.valid[0].labels == 1).sum() > 5  # the strip with 600 of them, whatever the seed
    assert (divide([tile], 2, [32], seed=1).valid[0].labels == 1).sum() > 5
    few, said = tuning._cut(tile, 0, 0, 200), []
    with listening(said.append):
        tuning.say_lacks(replace(ground, valid=[few]), ['lawn', 'roof'])
    assert len(said) == 1 and 'has few pixels of roof (5): the choice may hang on them' in said[0]


@pytest.mark.parametrize('kind', [LossNotFinite, ValueError])
def test_a_candidate_that_fails(kind, scene, monkeypatch):
    "It leaves, with the reason in the table; the others go on."
    usual = tuning._Race.train

    def train(race, name, *rest):
        if name == 'fast':
            raise kind('the training loss became nan')
        return usual(race, name, *rest)

    monkeypatch.setattr(tuning._Race, 'train', train)
    found = run(scene)
    assert found.rows[-1]['candidate'] == 'fast' and found.rows[-1]['mean_f1'] is None
    assert found.rows[-1]['left'] == 'after round 1: the training loss became nan'
    with pytest.raises(ValueError, match='no candidate can be trained; fast: the training loss became nan'):
        tune(scene, ISPRS, SHORT, runs={'fast': SMALL}, rate=rate)


@pytest.mark.parametrize('minutes', [0, -1, float('nan'), float('inf'), 1e9, 'soon', True])
def test_silly_minutes(minutes, scene):
    with pytest.raises(ValueError, match='minutes must be .*give the minutes that you have'):
        tune(scene, ISPRS, minutes)


def test_too_few_minutes(scene):
    "The number that is needed is enough."
    with pytest.raises(ValueError, match='too few to compare two') as error:
        run(scene, minutes=0.01)
    two = float(str(error.value).split('two need at least ')[1].split(',')[0])
    every = float(str(error.value).split(' need ')[-1])
    assert two <= every
    assert sum(row['steps'] > 0 for row in run(scene, minutes=two).rows) == 2
    assert sum(row['steps'] > 0 for row in run(scene, minutes=every).rows) == 3


def test_a_slow_candidate_is_left_out(scene):
    slow = lambda settings: 10.0 if settings.lr == 5e-3 else 0.1
    found = tune(scene, ISPRS, SHORT, runs=QUICK, rate=slow)
    assert found.rows[-1]['candidate'] == 'fast' and found.rows[-1]['steps'] == 0
    assert found.rows[-1]['left'] == 'not tried: no time for its first round'


def test_the_first_candidate_is_never_left_out(scene):
    "The others are compared with it; of two that cost about the same the later one goes."
    slow = {1e-9: 0.2, 1e-3: 0.15, 5e-3: 0.145}
    found = tune(scene, ISPRS, SHORT, runs=QUICK, rate=lambda settings: slow[settings.lr])
    assert {row['candidate'] for row in found.rows if row['steps']} == {'stuck', 'usual'}


def test_a_schedule_does_not_begin_anew(scene):
    "No round goes beyond the epochs that a schedule was made for, whatever time is left."
    runs = {'usual': QUICK['usual'], 'cosine': replace(QUICK['usual'], schedule='cosine')}
    race = tuning._Race(
        *(None, None, runs, None, {'usual': 0.1, 'cosine': 0.1}, {'usual': 10, 'cosine': 10}, 24.0),
        *(None, None, False, 0.0, [], None),
    )
    race.parts = [tuning.Part(1, name, 14, 140, 0.0, 0.5, 0.5) for name in runs]
    assert race.whole('cosine') == 16
    assert race.targets(1, ['cosine', 'usual']) == {'cosine': 16, 'usual': 21}


def test_patches_that_do_not_fit_are_left_out(scene):
    found = tune(scene, ISPRS, SHORT, runs=QUICK | {'large': replace(SMALL, patch_size=128)}, rate=rate)
    assert found.rows[-1]['candidate'] == 'large' and 'not tried: patch_size 128' in found.rows[-1]['left']
    with pytest.raises(ValueError, match='too small to hold out ground for patches of 256 pixels'):
        tune(scene, ISPRS, SHORT, runs={'large': replace(SMALL, patch_size=256)}, rate=rate)


@pytest.mark.slow
def test_the_clock(scene):
    "With a real clock too, the time is about kept: within an epoch and the last scores."
    start = time.perf_counter()
    found = tune(scene, ISPRS, 0.3, runs={'usual': QUICK['usual'], 'fast': QUICK['fast']})
    slowest = max(epoch.seconds for epoch in found.model.history)
    assert found.seconds <= 18 + 3 * slowest + 5
    assert time.perf_counter() - start >= found.seconds > 5


# Resumed


class Killed(Exception):
    "The power is gone."


@pytest.mark.parametrize('after', [1, 3, 4, 6])
def test_an_interrupted_tuning_ends_like_one_that_was_not(after, scene, short, tmp_path, monkeypatch):
    "Killed after some epochs, within a part or between two."
    folder, usual, count = tmp_path / 'm.tuning', tuning.track, 0

    def track(epochs, *rest):
        nonlocal count
        for epoch in usual(epochs, *rest):
            yield epoch
            count += 1
            if count == after:
                raise Killed

    monkeypatch.setattr(tuning, 'track', track)
    with pytest.raises(Killed):
        run(scene, folder)
    assert (folder / 'tuning.json').exists()
    again = run(scene, folder)
    assert again.rows == short.rows
    for name, weight in short.model.model.state_dict().items():
        assert (again.model.model.state_dict()[name] == weight).all(), name
    pace = short.model.history[0].steps
    assert count == sum(row['steps'] for row in short.rows) / pace  # no epoch is trained twice
    tuning.forget(folder)
    assert not folder.exists()


def test_a_finished_tuning_trains_nothing(scene, short, state, tmp_path, monkeypatch):
    shutil.copytree(state, tmp_path / 'm.tuning')
    monkeypatch.setattr('unetkit.training.train_epoch', lambda *args: pytest.fail('it trains'))
    assert run(scene, tmp_path / 'm.tuning').rows == short.rows


@pytest.mark.parametrize('what', ['minutes', 'data', 'candidates'])
def test_the_state_of_another_job_is_refused(what, scene, short, state, tmp_path):
    folder = tmp_path / 'm.tuning'
    shutil.copytree(state, folder)
    changed = {
        'minutes': lambda **more: run(scene, folder, minutes=0.25, **more),
        'data': lambda **more: run(synthetic_scene(192, 256, seed=2), folder, **more),
        'candidates': lambda **more: tune(
            scene, ISPRS, SHORT, runs=QUICK | {'usual': SMALL}, folder=folder, rate=rate, **more
        ),
    }[what]
    with pytest.raises(ValueError, match='of another job: .*begin anew'):
        changed()
    if what == 'minutes':
        assert sum(row['steps'] for row in changed(restart=True).rows) > sum(
            row['steps'] for row in short.rows
        )


@pytest.mark.parametrize('content', ['', '{}', '[1]', '{"kind": "other", "parts": []}'])
@pytest.mark.parametrize('restart', [False, True])
def test_a_foreign_folder_is_not_touched(content, restart, scene, tmp_path):
    folder = tmp_path / 'm.tuning'
    folder.mkdir()
    (folder / 'thesis.txt').write_text('years of work')
    if content:
        (folder / 'tuning.json').write_text(content)
    before = disk(tmp_path)
    with pytest.raises(ValueError, match='is no state of a tuning'):
        run(scene, folder, restart=restart)
    assert disk(tmp_path) == before


def test_forget_leaves_what_is_not_of_the_tuning(short, state, tmp_path):
    folder = tmp_path / 'm.tuning'
    tuning.forget(folder)
    shutil.copytree(state, folder)
    (folder / 'note.txt').write_text('mine')
    tuning.forget(folder)
    assert [path.name for path in folder.iterdir()] == ['note.txt']


# The command

OPTIONS = '--width 2 --depth 2 --patch-size 32 --batch-size 4 --device cpu --precision float32'.split()


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tuning')
    succeeds('scene', '--out', folder, '--height', 192, '--width', 256)
    return folder


def command(place, out, *more):
    return ['tune', place / 'image.tif', place / 'reference.tif', '--out', out, *OPTIONS, *more]


def test_tune(place, tmp_path):
    "In a process of its own: a model, a table, one line that leads to the same with `train`, and nothing else."
    out = tmp_path / 'm.safetensors'
    reading = ['--ignore', 'clutter', '--memory', '2.0']
    process = start_process(*command(place, out, '--minutes', 0.5, *reading))
    printed, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert {path.name for path in tmp_path.iterdir()} == {'m.safetensors', 'm.safetensors.tuning.csv'}
    with open(f'{out}.tuning.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert rows[0]['left'] == 'chosen' and {row['patch_size'] for row in rows} == {'32'}
    assert {row['width'] for row in rows} == {'2'}
    model = ModelPipeline.load(out)
    assert load_tensors(out)[1]['tuning'] == model.tuning and rows[0]['candidate'] in model.tuning
    assert f'tuning: {model.tuning}\n  validation, split and epochs are those of tune' in succeeds(
        'info', out
    )
    (line,) = [line for line in printed.splitlines() if 'unetkit train IMAGE REFERENCE' in line]
    switches = shlex.split(line.split('REFERENCE ')[1])
    epochs = int(switches[switches.index('--epochs') + 1])
    assert '--width' in switches and switches[:4] == reading
    switches[switches.index('--epochs') + 1] = '1'
    data = [
        place / 'image.tif',
        place / 'reference.tif',
        '--split',
        'random',
        '--out',
        tmp_path / 'b.safetensors',
    ]
    code, _, err = shell('train', *data, *switches)
    assert code == 0, err
    again, length = ModelPipeline.load(tmp_path / 'b.safetensors'), dict(epochs=1, patience=epochs)
    assert again.settings == replace(
        model.settings, split='random', **length
    )  # nothing cuts the epochs short
    assert again.palette == model.palette and 'clutter' not in again.palette.names
    succeeds('predict', out, place / 'image.tif', '--out', tmp_path / 'map.tif')


@pytest.mark.slow
def test_tune_after_ctrl_c(place, tmp_path):
    "The same command goes on; parts that were done are not done again."
    out, state = tmp_path / 'm.safetensors', tmp_path / 'm.safetensors.tuning' / 'tuning.json'
    process = start_process(*command(place, out, '--minutes', 0.5))
    limit = time.monotonic() + 200
    while not state.exists() or not json.loads(state.read_text())['parts']:
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    check_line(err, 'tune: interrupted', 'the same command goes on')
    assert not out.exists()
    first = json.loads(state.read_text())['parts'][0]
    check_refusal(
        [tmp_path], command(place, out, '--minutes', 2), ['of another job: minutes was 0.5 and is 2.0']
    )
    code, printed, err = shell(*command(place, out, '--minutes', 0.5))
    assert code == 0, err
    assert not state.exists() and out.exists()
    assert f', {first["name"]}: epoch  1/' not in printed


def test_tune_spares_what_is_there(place, tmp_path):
    out = tmp_path / 'm.safetensors'
    (tmp_path / 'm.safetensors.tuning.csv').write_text('mine')
    check_refusal(
        [tmp_path], command(place, out), ['m.safetensors.tuning.csv is there already', '--overwrite']
    )
    check_refusal([tmp_path, place], command(place, place / 'image.tif'), ['is an input'])


@pytest.mark.parametrize(
    'more, said',
    [
        (['--minutes', 0], ['minutes must be', 'got 0.0']),
        (['--minutes', 'nan'], ['minutes must be']),
        (['--minutes', 1e-4], ['too few to compare two candidates']),
        (['--epochs', 5], ['unrecognized arguments: --epochs']),
        (['--validation', 0.5], ['unrecognized arguments: --validation']),
        (['--out', ''], ['--out is empty']),
    ],
)
def test_tune_refuses(more, said, place, tmp_path):
    check_refusal([tmp_path], command(place, tmp_path / 'm.safetensors', *more), said)


@pytest.mark.parametrize(
    'words, noted',
    [(['--weights', 'inverse'], True), (['--weights', 'inverse', '--loss', 'focal'], False), ([], False)],
)
def test_weights_without_effect_are_said(words, noted):
    "Of the setting that was given; the default says nothing."
    _, _, err = shell('train', 'none.tif', 'none.tif', *words)
    assert ('note: --weights inverse has no effect: the loss cross_entropy has no weights' in err) == noted


def test_data_are_named_as_for_train():
    "One description of an option for both commands, and every way to read files."
    from unetkit.cli import _parser, train
    from unetkit.cli import tune as command

    texts = [{one.dest: one.help for one in _parser(this)._actions} for this in (train, command)]
    own = {'out', 'restart', 'overwrite', 'minutes'}
    only_train = {'init', 'freeze', 'log', 'calibrate', *tuning.DECIDED}
    assert texts[0].keys() - texts[1].keys() == only_train
    assert {name for name in texts[1] if texts[1][name] != texts[0].get(name)} == own
