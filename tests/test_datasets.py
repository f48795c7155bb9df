"Files of a data set: who belongs to whom, what is left out, and what is read when it does not fit into memory."

import warnings
from pathlib import Path

import pytest

from unetkit.datasets import image_pairs


def touch(top, *names):
    "Empty files."
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return top


def names(pairs):
    return [' '.join('-' if path is None else Path(path).name for path in pair) for pair in pairs]


TWO_FOLDERS = {  # images, references -> pairs
    'equal stems': ('b.tif a.tif', 'a.png b.png', ['a.tif a.png', 'b.tif b.png']),
    'beginnings': ('image_001.tif image_002.tif', 'mask_001.png mask_002.png', ['image_001.tif mask_001.png', 'image_002.tif mask_002.png']),
    'endings': ('1_sat.jpg 12_sat.jpg', '1_mask.png 12_mask.png', ['12_sat.jpg 12_mask.png', '1_sat.jpg 1_mask.png']),
    'both': ('IMG_a_8bit.tif IMG_b_8bit.tif', 'MSK_a_v2.tif MSK_b_v2.tif', ['IMG_a_8bit.tif MSK_a_v2.tif', 'IMG_b_8bit.tif MSK_b_v2.tif']),
    'one side is plain': ('a1.tif a2.tif', 'a1_labels.tif a2_labels.tif', ['a1.tif a1_labels.tif', 'a2.tif a2_labels.tif']),
    'polygons': ('a.jpg b.jpg', 'a.json b.json', ['a.jpg a.json', 'b.jpg b.json']),
}  # fmt: skip


@pytest.mark.parametrize('images, references, expected', TWO_FOLDERS.values(), ids=TWO_FOLDERS)
def test_two_folders(tmp_path, images, references, expected):
    one = touch(tmp_path / 'one', *images.split())
    other = touch(tmp_path / 'other', *references.split(), 'notes.txt', '.hidden.tif')
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        assert names(image_pairs(one, other)) == expected
    plain = {Path(name).stem for name in images.split()} == {Path(name).stem for name in references.split()}
    assert len(said) == (not plain)  # what was done is said, in one line


APART = {
    'numbers are not cut': ('image_01.tif image_02.tif', 'mask_11.png mask_12.png', 'no partner of'),
    'one is missing': ('image_1.tif image_2.tif', 'mask_1.png', 'no partner of'),
    'two of one stem': ('a.tif a.png', 'a.tif', 'has both a.png and a.tif'),
    'no image': ('a.txt', 'a.tif', 'has no .tif, .png or .jpg file'),
}


@pytest.mark.parametrize('images, references, message', APART.values(), ids=APART)
def test_two_folders_that_do_not_fit(tmp_path, images, references, message):
    one, other = touch(tmp_path / 'one', *images.split()), touch(tmp_path / 'other', *references.split())
    with pytest.raises(ValueError, match=message):
        image_pairs(one, other)


ONE_FOLDER = {
    'endings': ('1_sat.jpg 1_mask.png 10_sat.jpg 10_mask.png', ['10_sat.jpg 10_mask.png', '1_sat.jpg 1_mask.png']),
    'beginnings': ('IMG_1.tif MSK_1.tif IMG_2.tif MSK_2.tif', ['IMG_1.tif MSK_1.tif', 'IMG_2.tif MSK_2.tif']),
    'plain images': ('a.tif a_mask.tif map.tif map_mask.tif', ['a.tif a_mask.tif', 'map.tif map_mask.tif']),
    'formats': ('a.jpg a.png b.jpg b.png', ['a.jpg a.png', 'b.jpg b.png']),
    'polygons': ('a.tif a.json b.tif b.json', ['a.tif a.json', 'b.tif b.json']),
    'words alike': ('x_map.tif x_mask.tif y_map.tif y_mask.tif', ['x_map.tif x_mask.tif', 'y_map.tif y_mask.tif']),
}  # fmt: skip


@pytest.mark.parametrize('files, expected', ONE_FOLDER.values(), ids=ONE_FOLDER)
def test_one_folder(tmp_path, files, expected):
    folder = touch(tmp_path, *files.split())
    assert names(image_pairs(folder, folder)) == expected


@pytest.mark.parametrize(
    'files',
    ['a_1.png b_1.png a_2.png b_2.png', '1.png 2.png', '1.jpg 2.png', 'a.tif a.png', 'a.tif', 'a_mask.tif b_mask.tif'],
)  # fmt: skip
def test_one_folder_that_is_not_clear(tmp_path, files):
    folder = touch(tmp_path, *files.split())
    with pytest.raises(ValueError, match='not clear which files are images.*' + files.split()[-1]):
        image_pairs(folder, folder)


def test_patterns(tmp_path):
    folder = touch(tmp_path, 'images/b1.tif', 'masks/a1.png', 'images/b2.tif', 'masks/a2.png', 'masks/c3.png')
    expected = ['b1.tif a1.png', 'b2.tif a2.png']
    assert names(image_pairs(folder, folder, 'images/b*.tif:masks/a*.png')) == expected
    assert names(image_pairs(folder / 'images', folder / 'masks', 'b*.tif:a*.png')) == expected
    for wrong, message in [
        ('b*.tif', 'IMAGES:REFERENCES'),
        ('b*:a', 'one star'),
        ('b**:a*', 'one star'),
        ('*/b1.tif:a*', 'one star'),
        ('z*:a*', 'has no file z'),
        ('b*:*', 'no partner of 1.tif, 2.tif'),
    ]:
        with pytest.raises(ValueError, match=message):
            image_pairs(folder / 'images', folder / 'masks', wrong)


def test_folders_of_roles(tmp_path):
    inside = touch(
        tmp_path / 'a', 'train/images/1.tif', 'train/masks/1.png', 'Val/images/2.tif', 'Val/masks/2.png'
    )
    above = touch(tmp_path / 'b', *(f'{kind}/{role}/{n}.tif' for kind in ('img', 'labels') for n, role in enumerate(('train', 'validation', 'test'))))  # fmt: skip
    flat = touch(tmp_path / 'c', *(f'{role}/{role}_{kind}' for kind in ('sat.jpg', 'mask.png') for role in ('train', 'valid')))  # fmt: skip
    assert names(image_pairs(inside, inside, role='train')) == ['1.tif 1.png']
    assert names(image_pairs(inside, inside, role='valid')) == ['2.tif 2.png']
    assert names(image_pairs(above, above, role='test')) == ['2.tif 2.tif']
    assert names(image_pairs(above / 'img', above / 'labels', role='valid')) == ['1.tif 1.tif']
    assert names(image_pairs(flat, flat, role='valid')) == ['valid_sat.jpg valid_mask.png']
    plain = touch(tmp_path / 'd', 'a.tif', 'a_mask.tif')
    assert image_pairs(plain, plain, role='valid') == []
    with pytest.raises(ValueError, match='has Val, train, but no folder called test or testing'):
        image_pairs(inside, inside, role='test')
    with pytest.raises(ValueError, match='do not both have folders'):
        image_pairs(above / 'img', plain, role='train')
    touch(inside, 'valid/images/1.tif')
    with pytest.raises(ValueError, match='which mean the same'):
        image_pairs(inside, inside, role='valid')


def test_a_list_of_pairs(tmp_path):
    touch(tmp_path, 'a.tif', 'in/b.png')
    listed = tmp_path / 'pairs.csv'
    listed.write_text('\ufeffreference,image,remark\nin/b.png,a.tif,"a, b"\n', encoding='utf-8')
    assert image_pairs(listed) == image_pairs(listed, listed) == [(tmp_path / 'a.tif', tmp_path / 'in/b.png')]
    for text, message in [
        ('image;reference\na.tif;in/b.png\n', 'first line is not image,reference'),
        ('image,reference\n', 'lists no pair'),
        ('image,reference\na.tif\n', 'line 2 lacks an image or a reference'),
        ('image,reference\na.tif,in/c.png\n', 'lists 1 files that are not there: .*c.png'),
        ('image,reference\na.tif,in/b.png\na.tif,in/b.png\n', 'line 3 lists .*a.tif once more'),
        ('image,reference\n"a.tif,in/b.png\n', 'cannot read pairs'),
        ('image,reference\n' + 'a' * 200_000 + ',b\n', 'field larger than field limit'),
        ('image,reference\n\x00,b\n', 'cannot read pairs|not there|NUL|null'),
    ]:
        listed.write_text(text, encoding='utf-8')
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            image_pairs(listed)
    listed.write_bytes(b'image,reference\n\xff\xfe,b\n')
    with pytest.raises(ValueError, match='UTF-8'):
        image_pairs(listed)


def test_a_long_list_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr('unetkit.datasets.MOST_PAIRS', 100)
    listed = tmp_path / 'pairs.csv'
    listed.write_text('image,reference\n' + ''.join(f'{n}.tif,{n}.png\n' for n in range(200)))
    with pytest.raises(ValueError, match='more than 100 lines'):
        image_pairs(listed)
    listed.write_text('image,reference\n' + 'a' * 30_000)
    with pytest.raises(ValueError, match='no list of pairs'):
        image_pairs(listed)
