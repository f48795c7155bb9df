"Open data sets from a server on this machine: interrupted, moved, damaged and hostile; and the table of the real ones."

import json
import zipfile
from dataclasses import replace
from hashlib import md5, sha256

import numpy as np
import pytest

from helpers import CHIPS, TINY, encoded, members_of_chips, serving, shell
from unetkit import fetching
from unetkit.datasets import image_pairs
from unetkit.fetching import SETS, fetch
from unetkit.palettes import Palette
from unetkit.raster import read_label_map


@pytest.fixture
def shop(tmp_path, monkeypatch):
    "Offer archives under the sums that they have; `shop.asked` lists the requests."
    folder = tmp_path / 'shop'
    folder.mkdir()

    with serving(folder) as server:
        monkeypatch.setenv('no_proxy', '127.0.0.1')

        def offer(name, number, members, addresses=('{}',)):
            with zipfile.ZipFile(folder / f'{name}_{number}.zip', 'w') as archive:
                for member, data in members.items():
                    archive.writestr(member, data)
            return offer_bytes(name, number, (folder / f'{name}_{number}.zip').read_bytes(), addresses)

        def offer_bytes(name, number, data, addresses=('{}',)):
            (folder / f'{name}_{number}.zip').write_bytes(data)
            url = f'http://127.0.0.1:{server.server_port}/{name}_{number}.zip'
            one = SETS[name]
            old = one.archives[number]
            total = (sha256 if len(old.checksum) == 64 else md5)(data).hexdigest()
            where = tuple(address.format(url) for address in addresses)
            new = replace(old, addresses=where, checksum=total, size=old.size and len(data))
            archives = (*one.archives[:number], new, *one.archives[number + 1 :])
            monkeypatch.setitem(SETS, name, replace(one, archives=archives))

        server.offer, server.offer_bytes = offer, offer_bytes
        yield server


def test_the_table():
    "Facts are whole: sums have 32 or 64 digits, addresses are of the web, classes have numbers and colours of their own."
    for one in SETS.values():
        assert one.page.startswith('https://') and one.licence and one.volume
        for archive in one.archives:
            assert len(archive.checksum) in (32, 64) and set(archive.checksum) <= set('0123456789abcdef')
            assert all(url.startswith('https://') for url in archive.addresses)
        numbers = [value for value, _ in one.classes.values()]
        assert len({*numbers, *one.ignored}) == len(numbers) + len(one.ignored)


def test_chips_become_folders_that_train_takes(shop, tmp_path, capsys):
    members, numbers = members_of_chips()
    shop.offer('landcoverai100', 0, members)
    out = fetch('landcoverai100', tmp_path / 'deep' / 'poland')
    said = capsys.readouterr().out
    assert said.index('CC BY-NC-SA 4.0') < said.index('download: 9 MB')
    for part, stems in CHIPS.items():
        pairs = image_pairs(out / 'images' / part, out / 'masks' / part)
        assert [image.stem for image, _ in pairs] == stems
        for image, mask in pairs:
            assert image.read_bytes() == members[f'output/{image.name}']
            np.testing.assert_array_equal(read_label_map(mask), numbers[image.stem])
    assert sorted(path.name for path in out.iterdir()) == ['LICENCE.txt', 'images', 'masks', 'palette.json']
    assert 'CC BY-NC-SA 4.0' in (out / 'LICENCE.txt').read_text()
    fetch('landcoverai100', out)
    assert len(shop.asked) == 1


def test_an_interrupted_call_goes_on(shop, tmp_path, monkeypatch):
    "While unpacking: what is there is written again, and nothing is downloaded again."
    shop.offer('landcoverai100', 0, members_of_chips()[0])
    original, calls = fetching._write_mask, []

    def stop(path, data):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(path, data)

    monkeypatch.setattr(fetching, '_write_mask', stop)
    with pytest.raises(KeyboardInterrupt):
        fetch('landcoverai100', tmp_path / 'poland')
    assert not (tmp_path / 'poland/palette.json').exists()
    out = fetch('landcoverai100', tmp_path / 'poland')
    assert len(list(out.rglob('*.jpg'))) == 6 and len(shop.asked) == 1


def test_the_second_address_is_asked(shop, tmp_path):
    shop.offer('landcoverai100', 0, members_of_chips()[0], addresses=('{}.gone', '{}'))
    assert (fetch('landcoverai100', tmp_path / 'poland') / 'palette.json').is_file()


def test_what_arrives_changed_is_not_kept(shop, tmp_path, monkeypatch):
    shop.offer('landcoverai100', 0, members_of_chips()[0])
    one = SETS['landcoverai100']
    archive = replace(one.archives[0], checksum='0' * 64)
    monkeypatch.setitem(SETS, 'landcoverai100', replace(one, archives=(archive,)))
    with pytest.raises(ValueError, match='has the SHA-256 .* nothing is kept'):
        fetch('landcoverai100', tmp_path / 'poland')
    assert [path.name for path in (tmp_path / 'poland').iterdir()] == ['LICENCE.txt']


def test_two_archives_are_parts(shop, tmp_path):
    rng = np.random.default_rng(0)
    for number, part in enumerate(('Train', 'Val')):
        members = {}
        for group in ('Urban', 'Rural'):
            for kind, shape in (('images_png', (16, 16, 3)), ('masks_png', (16, 16))):
                members[f'{part}/{group}/{kind}/7.png'] = encoded(rng.integers(0, 8, shape, np.uint8), 'PNG')
        shop.offer('loveda', number, members)
    out = fetch('loveda', tmp_path / 'china')
    for part in ('train', 'val'):
        found = image_pairs(out / 'images' / part, out / 'masks' / part)
        assert [image.name for image, _ in found] == ['rural_7.png', 'urban_7.png']
    palette = json.loads((out / 'palette.json').read_text())
    assert palette['ignored'] == [0] and palette['classes']['road']['value'] == 3


GRID = encoded(np.zeros((8, 8), np.uint8), 'TIFF')
PAIR = {'images/a.tif': encoded(np.zeros((8, 8, 3), np.uint8), 'TIFF'), 'masks/a.tif': GRID}
COLOURED = encoded(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), 'TIFF')
HOSTILE = {
    'climbs': ({**PAIR, '../images/b.tif': GRID}, 'no plain path inside the archive'),
    'from the root': ({**PAIR, '/images/b.tif': GRID}, 'no plain path inside the archive'),
    'no partner': ({**PAIR, 'images/b.tif': GRID}, r'1 files without a partner \(b\)'),
    'nothing': ({'readme.md': 'no images'}, '0 files without a partner'),
    'colours': ({**PAIR, 'masks/a.tif': COLOURED}, 'has colours where class numbers were expected'),
    'no image': ({**PAIR, 'masks/a.tif': b'not an image'}, 'a.tif'),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_a_strange_archive_is_refused(shop, tmp_path, case):
    members, said = HOSTILE[case]
    shop.offer('landcoverai', 0, members)
    with pytest.raises(ValueError, match=said):
        fetch('landcoverai', tmp_path / 'out')
    assert not (tmp_path / 'out/palette.json').exists()
    assert {path.name for path in tmp_path.iterdir()} == {'shop', 'out'}


def test_no_archive_at_all(shop, tmp_path):
    shop.offer_bytes('landcoverai', 0, b'<html>404</html>')
    with pytest.raises(ValueError, match='is not a whole zip archive'):
        fetch('landcoverai', tmp_path / 'out')


def test_folders_of_others_are_left_alone(shop, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/notes.txt').write_text('mine')
    (tmp_path / 'file').write_text('mine')
    for out in ('mine', 'file'):
        with pytest.raises(ValueError, match='is there already, and not from fetching loveda'):
            fetch('loveda', tmp_path / out)
    with pytest.raises(ValueError, match="must be one of landcoverai100, landcoverai, loveda, got 'potsdam'"):
        fetch('potsdam', tmp_path / 'mine')
    assert shop.asked == []


@pytest.mark.skipif(
    'values' not in Palette.__dataclass_fields__, reason='palettes do not know class numbers yet'
)
def test_train_takes_the_folder(shop, tmp_path):
    shop.offer('landcoverai100', 0, members_of_chips()[0])
    out = fetch('landcoverai100', tmp_path / 'poland')
    words = ['train', out / 'images', out / 'masks', '--palette', out / 'palette.json', '--patch-size', 32]
    code, _, err = shell(*words, '--out', tmp_path / 'model.safetensors', *TINY)
    assert code == 0, err
