"Scores: agreement with scikit-learn, and input that is no map."

import json

import numpy as np
import pytest
import sklearn.metrics as sk

from unetkit.labels import ISPRS
from unetkit.metrics import Scores, class_of_colours, coarse_colours, confusion_matrix
from unetkit.scenes import CLASSES, synthetic_scene

LABELS = np.array([[0, 0, 0, 1], [0, 2, 0, 1], [0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
LABEL_MAP = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1]], np.uint8)
MATRIX = np.array([[8, 1, 0], [1, 4, 0], [1, 0, 0]])
TOY = Scores(MATRIX)


def test_matrix_of_the_toy():
    np.testing.assert_array_equal(confusion_matrix(LABELS, LABEL_MAP, 3), MATRIX)
    kept = LABELS != 255
    np.testing.assert_array_equal(sk.confusion_matrix(LABELS[kept], LABEL_MAP[kept], labels=range(3)), MATRIX)
    stacked = np.stack([LABELS, LABELS]), np.stack([LABEL_MAP, LABELS * (LABELS < 3)])
    np.testing.assert_array_equal(confusion_matrix(*stacked, 3), MATRIX + np.diag(MATRIX.sum(1)))


@pytest.mark.parametrize(('k', 'dtype'), [(2, 'u1'), (15, 'u1'), (16, 'i2'), (17, 'i8'), (254, 'u1')])
def test_any_number_of_classes_and_integer_type(k, dtype):
    a, b = np.random.default_rng(k).integers(0, k, (2, 40, 30)).astype(dtype)[:, ::2, ::3]
    expected = sk.confusion_matrix(a.ravel(), b.ravel(), labels=range(k))
    np.testing.assert_array_equal(confusion_matrix(a, b, k), expected)


def test_nothing_scored_and_one_class():
    assert confusion_matrix(np.full((4, 4), 255), LABEL_MAP, 3).sum() == 0
    assert confusion_matrix(0 * LABELS, 0 * LABELS, 1) == [[16]]


@pytest.mark.parametrize(
    ('labels', 'label_map', 'k', 'message'),
    [
        (LABELS, LABEL_MAP / 1, 3, 'label_map must be an array of integers, got float'),
        (LABELS > 0, LABEL_MAP, 3, 'labels must be an array of integers, got bool'),
        (LABELS[:2], LABEL_MAP[:2].T, 3, 'transpose one of them'),
        (LABELS, LABEL_MAP[:3], 3, 'without resizing'),
        *((LABELS, LABEL_MAP, k, 'num_classes must be') for k in (0, -1, 255, 3.0, True, None)),
        (LABELS, LABEL_MAP, 2, r'labels holds 2 at \(1, 1\), which is neither a class in \[0, 1\]'),
        (LABELS, LABEL_MAP.astype(int) - 1, 3, r'label_map holds -1 at \(0, 0\)'),
    ],
)
def test_wrong_input(labels, label_map, k, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(labels, label_map, k)


def test_a_scored_pixel_needs_a_prediction_and_an_ignored_one_does_not():
    gap = LABEL_MAP.copy()
    gap[2, 3] = 255
    with pytest.raises(ValueError, match=r'label_map holds 255 at \(2, 3\), a scored pixel.*predict a class'):
        confusion_matrix(LABELS, gap, 3)
    gap[2, 3], gap[3, 3] = 1, 255
    np.testing.assert_array_equal(confusion_matrix(LABELS, gap, 3), MATRIX)


@pytest.mark.parametrize(
    ('matrix', 'message'),
    [
        (np.zeros((3, 3), int), 'no scored pixels'),
        (MATRIX / MATRIX.sum(), 'pass counts, not shares'),
        (MATRIX[:2], r'got \(2, 3\)'),
        (-MATRIX, 'counts >= 0'),
    ],
)
def test_wrong_matrix(matrix, message):
    with pytest.raises(ValueError, match=message):
        Scores(matrix)


def test_scores_of_the_toy():
    np.testing.assert_array_equal(TOY.support, [9, 5, 1])
    assert TOY.mean_f1 == pytest.approx((16 / 19 + 8 / 10 + 0) / 3)
    assert TOY.mean_iou == pytest.approx((8 / 11 + 4 / 6 + 0) / 3)
    assert TOY.kappa == pytest.approx((12 / 15 - 115 / 225) / (1 - 115 / 225))
    kept = LABELS != 255
    assert TOY.accuracy == pytest.approx(sk.accuracy_score(LABELS[kept], LABEL_MAP[kept]))
    assert TOY.kappa == pytest.approx(sk.cohen_kappa_score(LABELS[kept], LABEL_MAP[kept]))
    assert np.isnan(Scores(np.array([[7]])).kappa)


def check_against_scikit_learn(labels, label_map, k):
    scores, kept = Scores(confusion_matrix(labels, label_map, k)), labels != 255
    t, p = labels[kept], label_map[kept]
    options = dict(labels=range(k), average=None, zero_division=np.nan)
    precision, recall, f1, support = sk.precision_recall_fscore_support(t, p, **options)
    iou = sk.jaccard_score(t, p, labels=range(k), average=None, zero_division=0)
    there = support > 0
    np.testing.assert_array_equal(scores.support, support)
    assert scores.accuracy == pytest.approx(sk.accuracy_score(t, p))
    np.testing.assert_allclose(scores.recall, recall)
    np.testing.assert_allclose(scores.precision, precision)
    for ours, theirs in ((scores.f1, f1), (scores.iou, iou)):
        np.testing.assert_allclose(ours[there], theirs[there])
        assert np.isnan(ours[~there]).all()
    means = dict(labels=np.unique(t), average='macro', zero_division=0)
    assert scores.mean_f1 == pytest.approx(sk.f1_score(t, p, **means))
    assert scores.mean_iou == pytest.approx(sk.jaccard_score(t, p, **means))
    if len(np.unique([t, p])) > 1:
        assert scores.kappa == pytest.approx(sk.cohen_kappa_score(t, p, labels=range(k)))


def test_random_maps_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(30):
        k = int(rng.integers(1, 20))
        few = rng.choice(k, (2, k))
        t, p = few[0][rng.integers(0, k, 60)], few[1][rng.integers(0, k, 60)]
        t[rng.random(60) < 0.2] = 255
        check_against_scikit_learn(t, p, k)


def test_no_counterexample_is_found():
    hypothesis = pytest.importorskip('hypothesis')
    st = hypothesis.strategies

    @hypothesis.settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @hypothesis.given(st.integers(1, 6), st.data())
    def search(k, data):
        pair = st.tuples(st.sampled_from([*range(k), 255]), st.integers(0, k - 1))
        pairs = data.draw(st.lists(pair, max_size=40))
        t, p = np.array([(0, 0), *pairs]).T
        check_against_scikit_learn(t, p, k)

    search()


def test_policies_for_an_absent_class():
    labels = synthetic_scene(512, seed=3).labels
    car = CLASSES.index('car')
    carless = np.where(labels == car, 0, labels)
    hidden = Scores(confusion_matrix(labels, carless, 5))
    assert hidden.accuracy > 0.99 and hidden.mean_f1 < 0.81
    assert hidden.recall[car] == hidden.f1[car] == 0
    assert Scores(confusion_matrix(carless, carless, 5)).mean_f1 == 1
    truth, options = carless.ravel(), dict(labels=range(5), average='macro')
    worse = np.where(np.arange(truth.size) % 3 == 0, (truth + 1) % 4, truth)
    present = Scores(confusion_matrix(truth, worse, 5)).mean_f1
    as_zero, as_one = (sk.f1_score(truth, worse, zero_division=z, **options) for z in (0.0, 1.0))
    assert as_zero == pytest.approx(present * 4 / 5)
    assert as_one == pytest.approx((present * 4 + 1) / 5)
    false_car = truth.copy()
    false_car[0] = car
    assert sk.f1_score(truth, false_car, zero_division=np.nan, **options) < 0.801
    assert 0.999 < Scores(confusion_matrix(truth, false_car, 5)).mean_f1 < 1


def test_scores_as_numbers():
    record = json.loads(json.dumps(TOY.as_dict(['road', 'roof', 'car']), allow_nan=False))
    assert record['per_class']['car'] == dict(precision=None, recall=0.0, f1=0.0, iou=0.0, support=1)
    assert record['confusion_matrix'] == MATRIX.tolist()
    assert Scores(np.array([[7]])).as_dict(['all'])['kappa'] is None


def test_scores_as_text():
    lines = TOY.table(['road', 'roof', 'car']).splitlines()
    assert lines[3].split() == ['car', '0.00', '-', '0.00', '0.00', '1']
    assert 'accuracy 80.00, mean F1 54.74' in lines[-1]


def test_names_of_the_classes():
    names = ('road', 'roof', 'car')
    named = Scores(MATRIX, list(names))
    assert named.names == names and TOY.names is None
    assert str(named) == named.table() == TOY.table(names)
    assert named.as_dict() == TOY.as_dict(names)
    assert named.table(['a', 'b', 'c']) == TOY.table(['a', 'b', 'c'])
    assert list(TOY.as_dict()['per_class']) == ['0', '1', '2']
    for names in (['road', 'car'], ['road', 'car', 'car']):
        for use in (TOY.table, TOY.as_dict, named.table, lambda names: Scores(MATRIX, names)):
            with pytest.raises(ValueError, match='2 different names for 3 classes'):
                use(names)


def test_one_map_under_five_protocols():
    "What lesson 16 and the lens say: the protocol alone moves the accuracy of one map by 20 points."
    show_protocols = pytest.importorskip('unetkit.widgets').show_protocols
    scene, train = synthetic_scene(512, seed=3), synthetic_scene(1024, seed=5)
    guess = class_of_colours([train], 5)[coarse_colours(scene.image)]
    site = scene.labels.copy()
    site[330:420, 60:220] = ISPRS.names.index('clutter')
    settings = [(3, 96), (12, 96), (3, 192)]
    near, far, large = (
        show_protocols(site, guess, radius=r, patch_size=p, stride=p // 2).numbers for r, p in settings
    )
    accuracy = lambda view, name: view[name]['accuracy']
    assert accuracy(near, 'full reference') < accuracy(near, 'eroded') < accuracy(far, 'eroded')
    assert np.isnan(far['eroded']['rare_f1'])
    assert accuracy(near, 'without clutter') > accuracy(near, 'full reference')
    assert (
        accuracy(large, 'border left 0') < accuracy(near, 'border left 0') < accuracy(near, 'full reference')
    )
    spread = [scores['accuracy'] for view in (near, far, large) for scores in view.values()]
    assert 0.5 < min(spread) < 0.6 and 0.75 < max(spread) < 0.85
