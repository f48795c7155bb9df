"""What a command writes: no input, nothing foreign, whole, and one writer at a time."""

import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from helpers import ROUNDS, child_environment, succeeds
from rasterio.windows import Window

from unetkit.cli import main
from unetkit.deploy import export_onnx
from unetkit.experiments import ModelPipeline
from unetkit.metrics import Scores
from unetkit.models import Epoch, History
from unetkit.outputs import _END, MARK, SIGNED, atomic_path, check_output, claim, is_ours
from unetkit.pages import scores_csv
from unetkit.palettes import ISPRS, write_palette
from unetkit.products import areas, write_areas, write_polygons, write_scores
from unetkit.raster import (
    Georeference,
    write_class_names,
    write_image,
    write_label_map,
    write_mosaic,
    write_style,
)
from unetkit.scenes import synthetic_scene
from unetkit.tuning import COLUMNS, Tuning

SMALL = '--width 4 --depth 2 --epochs 1 --patch-size 32 --device cpu --precision float32'


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A scene and two models that make different maps of it."
    folder = tmp_path_factory.mktemp('outputs')
    succeeds('scene', '--out', folder / 'scene', '--height', 160, '--width', 160, '--seed', 1)
    for seed in (1, 2):
        words = ['train', folder / 'scene/image.tif', folder / 'scene/reference.tif', '--seed', seed]
        succeeds(*words, '--split', 'random', '--out', folder / f'{seed}.safetensors', *SMALL.split())
    return folder


def words(line, place, folder):
    scene, model = place / 'scene', place / '1.safetensors'
    pair = f'{scene}/image.tif {scene}/reference.tif'
    four = f'--train-image {scene}/image.tif --train-reference {scene}/reference.tif --test-image {scene}/image.tif --test-reference {scene}/reference.tif'
    return line.format(
        pair=pair,
        four=four,
        image=scene / 'image.tif',
        reference=scene / 'reference.tif',
        model=model,
        small=SMALL,
        out=folder,
    ).split()


# A line for every command that writes, and the files that it writes
LINES = {
    'train {pair} --split random --out {out}/m.safetensors {small}': ['m.safetensors'],
    'predict {model} {image} --out {out}/map.tif --polygons {out}/map.geojson --areas {out}/areas.csv --confidence': [
        'map.tif', 'map.geojson', 'areas.csv', 'map_confidence.tif',
    ],
    'predict {model} {image} --out {out}/map.tif --probabilities --method exact': ['map_probabilities.tif'],
    'predict {model} {image} --out {out}/map.tif --method patches --style': [
        'map.tif', 'map.tif.aux.xml', 'map.qml',
    ],
    'evaluate {model} {pair} --out {out}/scores.json': ['scores.json'],
    'export {model} --out {out}/m.onnx': ['m.onnx'],
    'inspect {pair} --html {out}/page.html': ['page.html'],
    'report {four} --patch-sizes 16 --split random --out {out} --width 4 --depth 2 --epochs 1': [
        'report.html', 'scores.json', 'scores.csv', 'label_map_16.tif', 'label_map_16.tif.aux.xml', 'model_16.safetensors', 'model_recommended.safetensors',
    ],
}  # fmt: skip
EDITED = {
    'palette {reference} --out {out}/palette.json': ['palette.json'],
    'scene --height 64 --width 64 --out {out}': ['image.tif', 'reference.tif'],
}  # what users edit is never replaced by itself


@pytest.mark.parametrize('line', [*LINES, *EDITED])
def test_nothing_foreign_is_replaced(line, place, tmp_path, capsys):
    "Each file in turn lies there already, with notes of somebody else; then all may go."
    for name in (LINES | EDITED)[line]:
        (tmp_path / name).write_text('mine')
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert main(words(line, place, tmp_path)) == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and name in error and '--overwrite' in error, error
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        (tmp_path / name).unlink()
    for name in (LINES | EDITED)[line]:
        (tmp_path / name).write_text('mine')
    assert main([*words(line, place, tmp_path), '--overwrite']) == 0
    assert all((tmp_path / name).read_bytes() != b'mine' for name in (LINES | EDITED)[line])
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('line', LINES)
def test_a_command_is_repeated(line, place, tmp_path):
    "What a command wrote itself, it may replace."
    for _ in range(2):
        assert main(words(line, place, tmp_path)) == 0
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('line', EDITED)
def test_a_draft_stays(line, place, tmp_path, capsys):
    assert main(words(line, place, tmp_path)) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(words(line, place, tmp_path)) == 2
    assert 'is there already, perhaps with changes of yours' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize('name', ['label_map_16.tif', 'label_map_recommended.tif', 'scores.json'])
def test_a_report_spares_its_inputs(name, place, tmp_path, capsys):
    "A test image that is called as its map will be, in the folder of the report."
    shutil.copy(place / 'scene/image.tif', tmp_path / name)
    line = (
        'report {four} --patch-sizes 16 --split random --out {out} --width 4 --depth 2 --epochs 1 --overwrite'
    )
    given = words(line, place, tmp_path)
    given[given.index('--test-image') + 1] = str(tmp_path / name)
    assert main(given) == 2
    assert f'{name} is an input' in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == (place / 'scene/image.tif').read_bytes()


def test_every_writer_signs(tmp_path):
    "Every result is recognised, also a large one; an image and a palette are not taken for results."
    rng = np.random.default_rng(0)
    label_map = rng.integers(0, 5, (1500, 1700), np.uint8)
    pipeline = ModelPipeline(ISPRS, width=2, depth=1)
    pipeline.make([synthetic_scene(64, 64)])
    pieces = [((0, 1500, 0, 1700), label_map[..., None])]
    results = [
        write_label_map(tmp_path / 'a.tif', label_map, ISPRS.colours),
        write_class_names(tmp_path / 'a.tif', ISPRS.names),
        write_style(tmp_path / 'a.tif', ISPRS.names, ISPRS.colours),
        write_mosaic(tmp_path / 'b.tif', label_map.shape, pieces, ISPRS.colours),
        write_mosaic(tmp_path / 'c.tif', label_map.shape, pieces, names=('one',)),
        write_polygons(tmp_path / 'd.geojson', label_map[:50, :50], ISPRS),
        write_areas(tmp_path / 'e.csv', areas(label_map, ISPRS)),
        write_scores(tmp_path / 'f.json', Scores(np.eye(6, dtype=int), ISPRS.names)),
        pipeline.save(tmp_path / 'g.safetensors'),
        export_onnx(pipeline, tmp_path / 'h.onnx'),
    ]
    assert [path.name for path in results if not is_ours(path)] == []
    others = [
        write_image(tmp_path / 'i.tif', label_map[..., None]),
        write_palette(tmp_path / 'j.json', ISPRS),
    ]
    for name, text in {
        'k.csv': 'class,area\nroad,3\n',
        'l.html': 'how I use unetkit',
        'm.json': '{"unetkit": 1}',
    }.items():
        (tmp_path / name).write_text(text)
        others.append(tmp_path / name)
    assert [path.name for path in others if is_ours(path)] == []


def test_a_geopackage_signs(tmp_path):
    "A small one, and one of many objects, in which the mark must lie near one end."
    pytest.importorskip('pyogrio', reason='the extra [vector] is not installed')
    assert is_ours(write_polygons(tmp_path / 'a.gpkg', np.zeros((9, 9), np.uint8), ISPRS))
    label_map = np.random.default_rng(0).integers(0, 5, (180, 180), np.uint8)
    many = write_polygons(tmp_path / 'many.gpkg', label_map, ISPRS)
    assert many.stat().st_size > 4 * _END and is_ours(many)


def refused_as_changed(path):
    "Is a file refused in one line, and left as it is?"
    before = path.read_bytes()
    with pytest.raises(ValueError, match='or it was changed since: choose another name, or replace it'):
        check_output(path)
    check_output(path, overwrite=True)
    return path.read_bytes() == before and not is_ours(path)


@pytest.mark.parametrize('how', ['sqlite', 'write-ahead log', 'GDAL'])
def test_edited_polygons_of_a_geopackage_stay(how, tmp_path):
    "Whoever edits, and wherever the edit lies meanwhile; who only reads changes nothing."
    raw = pytest.importorskip('pyogrio.raw', reason='the extra [vector] is not installed')
    path = write_polygons(tmp_path / 'a.gpkg', np.arange(25, dtype=np.uint8).reshape(5, 5) % 3, ISPRS)
    about, _, outlines, columns = raw.read(path)
    check_output(path)
    if how == 'GDAL':
        one = outlines[:1], [column[:1] for column in columns], list(about['fields'])
        raw.write(path, *one, append=True, layer='a', driver='GPKG', geometry_type='Polygon')
        assert refused_as_changed(path)
        return
    with closing(sqlite3.connect(path)) as file:
        if how == 'write-ahead log':
            file.execute('PRAGMA journal_mode = wal')
        file.execute("UPDATE gpkg_contents SET identifier = 'mine'")
        file.commit()
        if how == 'write-ahead log':  # which another file at this place would take in
            for overwrite in (False, True):
                with pytest.raises(
                    ValueError, match='a.gpkg-wal holds changes of .*a.gpkg that another program'
                ):
                    check_output(path, overwrite=overwrite)
        else:
            assert refused_as_changed(path)
    assert refused_as_changed(path)


def test_a_geopackage_that_was_only_opened_is_ours(tmp_path):
    "Some programs switch to a write-ahead log and back when they open it, which SQLite counts."
    path = write_polygons(tmp_path / 'a.gpkg', np.zeros((9, 9), np.uint8), ISPRS)
    before = path.read_bytes()
    with closing(sqlite3.connect(path)) as file:
        file.execute('PRAGMA journal_mode = wal')
        file.execute('SELECT * FROM gpkg_contents').fetchall()
        file.execute('PRAGMA journal_mode = delete')
    assert path.read_bytes() != before
    check_output(path)


def test_a_mention_is_no_mark(tmp_path):
    "A note about a result of this kit is a file of its author."
    notes = tmp_path / 'notes.csv'
    notes.write_text(f'class,pixels,area_m2,share,objects\ncar,3,0.3,1,1\nas {MARK}; corrected by hand\n')
    assert refused_as_changed(notes)


@pytest.mark.parametrize('kind', ['label map', 'mosaic', 'probabilities'])
def test_a_painted_map_stays(kind, tmp_path):
    "Also one that another program copied, with the mark; who only opens it changes nothing."
    labels = np.random.default_rng(0).integers(0, 5, (600, 700), np.uint8)
    path, pieces = tmp_path / 'map.tif', [((0, 600, 0, 700), labels[..., None])]
    if kind == 'label map':
        write_label_map(path, labels, ISPRS.colours)
    else:
        look = {'colours': ISPRS.colours} if kind == 'mosaic' else {'names': ('one',)}
        write_mosaic(path, labels.shape, pieces, **look)
    with rasterio.open(path) as file:
        file.read()
    check_output(path)
    rasterio.shutil.copy(path, tmp_path / 'copy.tif')
    assert refused_as_changed(tmp_path / 'copy.tif')
    with rasterio.open(path, 'r+', IGNORE_COG_LAYOUT_BREAK='YES') as file:
        file.write(np.uint8([[1 + labels[3, 4]]]), 1, window=Window(4, 3, 1, 1))
    assert refused_as_changed(path)
    statistics = b'<PAMDataset><MDI key="STATISTICS_MEAN">1</MDI></PAMDataset>'
    Path(f'{path}.aux.xml').write_bytes(statistics)
    assert is_ours(f'{path}.aux.xml')  # derived from the painted map, and of no use without it


def test_a_map_of_many_blocks_signs(tmp_path):
    "The mark of a large map lies behind the places of its blocks."
    path = tmp_path / 'large.tif'
    with atomic_path(path) as temporary:
        how = dict(driver='GTiff', count=1, dtype='uint8', tiled=True, blockxsize=512, blockysize=512)
        with rasterio.open(temporary, 'w', height=60000, width=60000, sparse_ok=True, **how) as file:
            file.update_tags(TIFFTAG_SOFTWARE=SIGNED)
    assert path.read_bytes().index(b'written by unetkit') > 2**16
    check_output(path)
    with open(path, 'ab') as file:
        file.write(b'0')
    assert refused_as_changed(path)


def test_what_somebody_added_to_a_table_stays(tmp_path):
    "A column, a line, or a word among the numbers; a table of each kind as it was written is ours."
    label_map = np.arange(60, dtype=np.uint8).reshape(6, 10) % 6
    scores = Scores(np.eye(6, dtype=int) + 1, ISPRS.names)
    place = Georeference(rasterio.CRS.from_epsg(25832).to_wkt(), (1, 0, 5e5, 0, -1, 58e5))
    for at, how in enumerate([{}, {'errors': scores}]):
        write_areas(tmp_path / f'{at}.csv', areas(label_map, ISPRS, **how))
        write_areas(tmp_path / f'{at}_m2.csv', areas(label_map, ISPRS, georeference=place, **how))
    some = [Epoch(1, 9, 0.5, None, None), Epoch(2, 18, 0.25, 0.5, 0.75, 1.5, 0.625)]
    History(some).write(tmp_path / 'run.csv')
    document = {'recipe': 'r, s', 'patch_size': 32, 'per_class': {'road': {'f1': None}}}
    (tmp_path / 'scores.csv').write_text(scores_csv({'models': [document]}))
    row = dict.fromkeys(COLUMNS) | {'candidate': 'a', 'patch_size': 32, 'left': 'the network, too deep'}
    Tuning(None, 'a', [row], None, None, None, 0, 1, 1.0).write(tmp_path / 'tuning.csv')
    tables = sorted(tmp_path.glob('*.csv'))
    assert len(tables) == 7
    for path in tables:
        check_output(path)
        header, *rows = path.read_text().splitlines()
        changes = {
            'column': [f'{header},note', *(f'{row},' for row in rows)],
            'line': [header, *rows, 'as measured in May'],
            'word': [header, *rows[:-1], rows[-1].rsplit(',', 3)[0] + ',wrong,1,1'],
            'separator': [header.replace(',', ';'), *rows],
            'blank': [header, *rows, ''],
        }
        for lines in changes.values():
            path.write_text('\n'.join(lines) + '\n')
            assert refused_as_changed(path)


def test_areas_do_not_fill_the_folder_of_the_system(place, tmp_path, monkeypatch):
    "What is large meanwhile lies beside the table, and is gone in the end."
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'nowhere'))
    words = ['predict', place / '1.safetensors', place / 'scene/image.tif', '--out', tmp_path / 'map.tif']
    succeeds(*words, '--areas', tmp_path / 'areas.csv', '--min-area', 0.1, *PLAIN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['areas.csv', 'map.tif', 'map.tif.aux.xml']


def test_links_and_spellings(tmp_path, monkeypatch):
    "One file, however its name is written."
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'folder')
    refusals = []
    with claim(['folder/a.tif']):
        for name in ('folder/a.tif', './folder/../folder/a.tif', 'link/a.tif', tmp_path / 'folder/a.tif'):
            thread = threading.Thread(target=lambda name=name: refusals.append(refused(name)))
            thread.start()
            thread.join()
        with claim(['link/a.tif']):  # the claim of the caller
            pass
    assert refusals == [True] * 4 and not refused('folder/a.tif')
    (tmp_path / 'input.tif').write_text('x')
    (tmp_path / 'other.tif').symlink_to(tmp_path / 'input.tif')
    with pytest.raises(ValueError, match='other.tif is an input and would be lost'):
        check_output(tmp_path / 'other.tif', {(tmp_path / 'input.tif').resolve()}, overwrite=True)


def refused(name):
    try:
        with claim([name]):
            return False
    except OSError as error:
        assert 'another process is writing it' in str(error)
        return True


def test_many_claimants(tmp_path):
    "Threads that come and go: never two at a time, and in the end no lock file is left."
    inside, most, done = [], [], []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(60):
            try:
                with claim([tmp_path / 'a', tmp_path / 'b']):
                    inside.append(seed)
                    most.append(len(inside))
                    time.sleep(rng.random() / 2000)
                    inside.remove(seed)
                done.append(seed)
            except OSError:
                time.sleep(rng.random() / 1000)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(done) > 20 and not list(tmp_path.iterdir())


RACE = """
import gc, json, os, sys, time
import unetkit.scale  # and torch with it, which would take each child a second
from unetkit.cli import main
gc.freeze()  # what is shared with the children stays shared
for line in sys.stdin:
    children = []
    for wait, words, log in json.loads(line):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            time.sleep(wait)
            os._exit(main(words))
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


PLAIN = ['--device', 'cpu', '--precision', 'float32']


@pytest.mark.slow
def test_two_predictions_with_one_output(place, tmp_path):
    "Twenty pairs of commands, or UNETKIT_ROUNDS times as many, begin at random offsets: the map is that of one model or of the other; who came second says so."
    command = lambda seed: [
        'predict',
        f'{place}/{seed}.safetensors',
        f'{place}/scene/image.tif',
        '--memory',
        '0.001',
    ]
    write_image(place / 'small.tif', synthetic_scene(64, 96, seed=3).image)
    pure, spans = set(), []
    for seed in (1, 2):
        began = time.perf_counter()
        succeeds(*command(seed), '--out', tmp_path / f'{seed}.tif')
        spans.append(time.perf_counter() - began)
        pure.add((tmp_path / f'{seed}.tif').read_bytes())
    assert len(pure) == 2
    rng, folder, ends = random.Random(0), tmp_path / 'out', []
    out, logs = folder / 'map.tif', [str(tmp_path / 'a.txt'), str(tmp_path / 'b.txt')]
    inputs = {path: path.read_bytes() for path in place.rglob('*') if path.is_file()}
    racer = subprocess.Popen(
        [sys.executable, '-c', RACE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    for _ in range(20 * ROUNDS):
        shutil.rmtree(folder, ignore_errors=True)
        offset = rng.uniform(-2, 2) * max(spans)  # from one long after the other to both at once
        waits = max(-offset, 0), max(offset, 0)
        jobs = [
            [wait, [*command(seed), '--out', str(out)], log] for seed, wait, log in zip((1, 2), waits, logs)
        ]
        racer.stdin.write(json.dumps(jobs) + '\n')
        racer.stdin.flush()
        codes = json.loads(racer.stdout.readline())
        for code, log in zip(codes, logs):
            error = Path(log).read_text()
            assert (code, error) == (0, '') or (
                code == 2 and error.count('\n') == 1 and 'another process' in error
            ), error
        assert 0 in codes and out.read_bytes() in pure
        assert sorted(path.name for path in folder.iterdir()) == ['map.tif', 'map.tif.aux.xml']
        ends.append(tuple(codes))
    racer.stdin.close()
    assert racer.wait() == 0
    assert {(0, 0), (0, 2), (2, 0)} == set(ends), 'the offsets were too alike'
    assert {path: path.read_bytes() for path in place.rglob('*') if path.is_file()} == inputs
