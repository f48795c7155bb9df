"The audit of printed tables, and the tables of a report."

from dataclasses import asdict
from itertools import product

import numpy as np
import pytest

from unetkit.labels import ISPRS
from unetkit.records import read_scores
from unetkit.pages import accuracy_table, class_table, percent
from unetkit.report import PUBLISHED_ACCURACY, PUBLISHED_SCORES, REPORT, audit_f1, harmonic_mean

ROWS = {p: [(name, *scores) for name, scores in table.items()] for p, table in PUBLISHED_SCORES.items()}


def test_published_tables():
    assert list(PUBLISHED_ACCURACY) == list(PUBLISHED_SCORES) == [32, 64, 128]
    for table in PUBLISHED_SCORES.values():
        assert set(table) <= set(ISPRS.names)


def test_recipe_is_table_1():
    table_1 = {
        'stride': None,  # the patch size
        'epochs': 20,
        'batch_size': 10,
        'patience': 10,
        'loss': 'weighted_cross_entropy',
        'lr': 0.001,
    }
    assert table_1.items() <= asdict(REPORT).items()


def test_audit_finds_the_four_rows():
    assert audit_f1(ROWS[32]) == []
    assert [(f.name, f.suspect, f.repaired) for f in audit_f1(ROWS[64])] == [
        ('tree', 'precision', 67.39),
        ('low vegetation', 'precision', 65.51),
        ('impervious', 'precision', 54.08),
    ]
    assert [(f.name, f.suspect, f.repaired) for f in audit_f1(ROWS[128])] == [('impervious', 'f1', 64.51)]
    repaired = [(71.62, 67.39, 69.44), (49.53, 65.51, 56.41), (81.82, 54.08, 65.12)]
    for recall, precision, f1 in repaired:
        assert harmonic_mean(recall, precision) == pytest.approx(f1, abs=0.01)


@pytest.mark.parametrize(('digits', 'tolerance'), [(2, 0.005), (1, 0.05)])
def test_audit_passes_honest_rows(digits, tolerance):
    pairs = 100 * np.random.default_rng(0).random((10_000, 2))
    rows = [('row', *(round(float(v), digits) for v in (r, p, harmonic_mean(r, p)))) for r, p in pairs]
    assert audit_f1(rows, tolerance) == []


def test_audit_finds_a_wrong_last_digit_but_one():
    (found,) = audit_f1([('a', 60, 40, 48.1)])
    assert found.reason == 'f1 is not the harmonic mean'
    assert harmonic_mean(0, 0) == 0


@pytest.mark.parametrize(
    ('row', 'message'), [((0.6, 0.4, 0.9), 'pass percent'), ((600, 40, 75), 'between 0 and 100')]
)
def test_audit_wants_percent(row, message):
    with pytest.raises(ValueError, match=message):
        audit_f1([('a', *row)])


def test_which_twin_is_the_copy():
    """Accuracy is the mean of the recalls weighted by the class shares of the tile, and hits over precision must add up to the whole tile. Of the sixteen
    readings of the four faulty rows one keeps both laws; the share of the cars is borrowed from the training tile, and little hangs on it."""
    accuracy = np.array(list(PUBLISHED_ACCURACY.values())) / 100
    printed = np.array([[row[1:3] for row in rows] for rows in ROWS.values()]) / 100
    big = [0, 1, 2, 4]

    def class_shares(recall, car_share):
        equations = np.vstack([recall[:, big], np.ones(4)])
        right = np.append(accuracy - car_share * recall[:, 3], 1 - car_share)
        return np.insert(np.linalg.solve(equations, right), 3, car_share)

    def predicted_total(recall, precision, car_share):
        hits = recall * class_shares(recall, car_share)
        return np.divide(hits, precision, out=np.zeros_like(hits), where=precision > 0).sum(1)

    def reading(twins, last_precision):
        recall, precision = printed[..., 0].copy(), printed[..., 1].copy()
        for (k, repaired), swapped in zip([(1, 0.6739), (2, 0.6551), (4, 0.5408)], twins, strict=True):
            recall[1, k], precision[1, k] = (repaired, recall[1, k]) if swapped else (recall[1, k], repaired)
        precision[2, 4] = last_precision
        return recall, precision

    error = {}
    for *twins, last in product([0, 1], [0, 1], [0, 1], [0.5400, 0.4073]):
        error[(*twins, last)] = abs(predicted_total(*reading(twins, last), 0.0027) - 1).max()
    best, second = sorted(error, key=error.get)[:2]
    assert best == (0, 0, 0, 0.54)
    assert error[best] < 0.001 < 0.01 < error[second]
    for car_share in (0.001, 0.005):
        assert abs(predicted_total(*reading(best[:3], best[3]), car_share) - 1).max() < 0.002
    assert (class_shares(reading(best[:3], best[3])[0], 0.0027) > 0).all()


def model(**changes):
    scores = {'precision': 0.5, 'recall': 0.25, 'f1': 1 / 3, 'iou': 0.2, 'support': 1234}
    empty = dict.fromkeys(scores, None) | {'support': 0}
    per_class = {name: scores for name in ISPRS.names[:5]} | {'clutter': empty}
    numbers = {'accuracy': 0.67921, 'mean_f1': 0.5, 'mean_iou': None}
    return {
        'patch_size': 32,
        'stride': 32,
        'steps': 7,
        'epochs_run': 2,
        'per_class': per_class,
        **numbers,
        **changes,
    }


def test_percent():
    assert [percent(v) for v in (0.67921, 0.0, None)] == ['67.92', '0.00', '–']


def test_published_figures_stand_only_where_they_can_be_compared():
    def last(**changes):
        return accuracy_table({'models': [model(**changes)]})[1][0][-1]

    assert last() == '67.92' and last(patch_size=96) == '–' and last(recipe='recommended') == '–'
    assert 'published accuracy %' in accuracy_table({'models': [model()]})[0]
    other = model(per_class={'land': model()['per_class']['car'], 'building': model()['per_class']['car']})
    for header, rows in (accuracy_table({'models': [other]}), class_table(other)):
        assert not [name for name in header if 'published' in name]
        assert {len(row) for row in rows} == {len(header)}


def test_class_table():
    rows = {row[0]: row for row in class_table(model())[1]}
    assert rows['car'][-1] == '5.63 / 31.78 / 9.57'
    assert [rows['clutter'][i] for i in (1, 3, 4, 5, 6)] == ['–', '–', '–', '0', '–']
    warned = [
        f'{p} {row[0]}'
        for p in PUBLISHED_SCORES
        for row in class_table(model(patch_size=p))[1]
        if 'inconsistent' in row[-1]
    ]
    assert sorted(warned) == ['128 impervious', '64 impervious', '64 low vegetation', '64 tree']
    assert {row[-1] for row in class_table(model(recipe='recommended'))[1]} == {'–'}


def test_what_lesson_10_says_of_dubai():
    "The recommended recipe sees less than a fifth of the pixels, and is ahead by less than a point of mean F1."
    report, best = read_scores('dubai')['models'][0], read_scores('dubai', 'recommended.json')
    scene6 = read_scores('dubai', 'scores_scene6_128.json')
    assert 64**2 * best['steps'] < 128**2 * report['steps'] / 5
    gains = best['scene4']['mean_f1'] - report['mean_f1'], best['scene6']['mean_f1'] - scene6['mean_f1']
    assert 0 < min(gains) and max(gains) < 0.01
