"""Files of every kind that an image, a reference or a height model may come in: types, no data, opacity, places, mosaics, and files that lead elsewhere."""

import select
import socket
import warnings

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from unetkit.palettes import ISPRS
from unetkit.raster import (
    Georeference,
    Raster,
    Stack,
    lay_onto,
    map_path,
    open_image,
    read_image,
    write_image,
)
from unetkit.references import ReferenceFile
from unetkit.rules import Remark

CRS_WKT = CRS.from_epsg(32632).to_wkt()
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)


def place(transform=NORTH_UP, crs=CRS_WKT):
    return Georeference(crs, tuple(transform)[:6])


def write(path, array, **profile):
    "Write an array (H, W, C) with any options of the raster library."
    height, width, count = array.shape
    profile = dict(driver='GTiff', height=height, width=width, count=count, dtype=array.dtype) | profile
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with rasterio.open(path, 'w', **profile) as file:
            file.write(array.transpose(2, 0, 1))
    return path


def noise(*shape, low=1, high=255, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8)


@pytest.fixture
def image(tmp_path):
    "An open image of 40 x 60 pixels of half a metre."
    with Raster(write_image(tmp_path / 'image.tif', noise(40, 60, 3), place())) as raster:
        yield raster


@pytest.fixture
def remarks():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        yield said


def texts(said):
    return [str(one.message) for one in said if issubclass(one.category, Remark)]


# Types

REAL = ['uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'float32', 'float64']


@pytest.mark.parametrize('dtype', REAL)
def test_any_real_type(tmp_path, dtype):
    pixels = (noise(20, 30, 2, high=100) - np.uint8(0)).astype(dtype)
    with Raster(write(tmp_path / 'a.tif', pixels)) as raster:
        assert raster.dtypes == (dtype, dtype)
        assert raster.dtype == ('float32' if dtype == 'float64' else dtype)
        assert raster.read().dtype == raster.dtype
        np.testing.assert_array_equal(raster.read((3, 4, 5, 6)), pixels[3:8, 4:10])
        assert raster.valid().all()


def test_complex_numbers_are_refused(tmp_path):
    path = write(tmp_path / 'a.tif', np.ones((4, 4, 1), np.complex64))
    with pytest.raises(ValueError, match='complex64 values, which are no real numbers'):
        Raster(path)


def mosaic(path, *bands, size=(40, 60), head='', relative='1', extra=''):
    "Write a virtual raster whose bands come from files: pairs of a type and a name."
    lines = [f'<VRTDataset rasterXSize="{size[1]}" rasterYSize="{size[0]}">{head}']
    for number, (kind, name) in enumerate(bands, 1):
        source = (
            f'<SourceFilename relativeToVRT="{relative}">{name}</SourceFilename><SourceBand>1</SourceBand>'
        )
        source = f'<SimpleSource>{source}</SimpleSource>{extra}'
        lines.append(f'<VRTRasterBand dataType="{kind}" band="{number}">{source}</VRTRasterBand>')
    path.write_text('\n'.join([*lines, '</VRTDataset>']))
    return path


def test_bands_of_several_types(tmp_path):
    grey, height = noise(40, 60, 1), np.linspace(-5, 9, 2400, dtype=np.float32).reshape(40, 60, 1)
    write_image(tmp_path / 'grey.tif', grey)
    write_image(tmp_path / 'height.tif', height)
    path = mosaic(tmp_path / 'a.vrt', ('Byte', 'grey.tif'), ('Float32', 'height.tif'))
    with Raster(path) as raster:
        assert (raster.dtypes, raster.dtype) == (('uint8', 'float32'), 'float32')
        np.testing.assert_array_equal(raster.read(), np.dstack([grey, height]))


@pytest.mark.parametrize(
    ('name', 'driver', 'options'),
    [
        ('a.img', 'HFA', {}),
        ('a.dat', 'ENVI', {}),
        ('a.bmp', 'BMP', {}),
        ('a.jp2', 'JP2OpenJPEG', {'QUALITY': '100', 'REVERSIBLE': 'YES'}),
        ('a.webp', 'WEBP', {'LOSSLESS': 'YES'}),
    ],
)
def test_formats(tmp_path, name, driver, options):
    pixels = noise(64, 64, 3)
    with Raster(write(tmp_path / name, pixels, driver=driver, **options)) as raster:
        assert (raster.driver, raster.lossy) == (driver, False)
        np.testing.assert_array_equal(raster.read(), pixels)


def test_one_bit_and_heights_in_ascii(tmp_path):
    black = noise(8, 9) > 100
    Image.fromarray(black).save(tmp_path / 'one.png')
    assert (read_image(tmp_path / 'one.png')[..., 0] == black).all()
    (tmp_path / 'h.asc').write_text(
        'ncols 3\nnrows 2\nxllcorner 0\nyllcorner 0\ncellsize 1\nNODATA_value -9999\n1 2 3.5\n4 -9999 6\n'
    )
    with Raster(tmp_path / 'h.asc') as raster:
        assert raster.read()[0, 2, 0] == 3.5
        assert raster.valid().tolist() == [[True] * 3, [True, False, True]]


def test_header_in_place_of_its_data_says_why(tmp_path):
    write(tmp_path / 'a.dat', noise(8, 8, 1), driver='ENVI')
    with pytest.raises(ValueError, match='header file'):
        Raster(tmp_path / 'a.hdr')


def test_scale_and_offset_are_not_applied_and_said(tmp_path, remarks):
    pixels, height = noise(8, 9, 3), noise(8, 9, 1)
    names = write(tmp_path / 'image.tif', pixels), write(tmp_path / 'h.tif', height)
    with rasterio.open(names[0], 'r+') as file:
        file.scales, file.offsets = (1, 0.5, 0.5), (0, -0.25, 0)
    with rasterio.open(names[1], 'r+') as file:
        file.offsets = (100,)
    with open_image(names[0], height=names[1]) as raster:
        np.testing.assert_array_equal(raster.read(), np.dstack([pixels, height]))
    declared = [text for text in texts(remarks) if 'declares' in text]
    assert ['image.tif: band 2 declares scale 0.5 and offset -0.25' in declared[0], len(declared)] == [
        True,
        2,
    ]
    assert 'h.tif: band 1 declares scale 1 and offset 100' in declared[1]


# No data


def test_numbers_that_are_none(tmp_path):
    pixels = np.ones((4, 6, 2), np.float32)
    pixels[0, 0, 0], pixels[1, 1, 1], pixels[2, 2] = np.nan, np.inf, -np.finfo(np.float32).max
    with Raster(write(tmp_path / 'a.tif', pixels)) as raster:
        holes = ~raster.valid()
    assert sorted(zip(*map(list, holes.nonzero()))) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ('dtype', 'nodata', 'one_is_enough'),
    [
        ('uint8', 0, False),
        ('uint16', 65535, False),
        ('float32', 0, False),
        ('int16', -9999, True),
        ('float32', -1, True),
        ('float32', float('nan'), True),
    ],
)
def test_nodata_in_one_band_and_in_all(tmp_path, dtype, nodata, one_is_enough):
    "A value that may be measured marks no data only where all bands have it."
    pixels = np.full((3, 3, 2), 7, dtype)
    pixels[0, 0, 0] = pixels[1, 1] = nodata
    with Raster(write(tmp_path / 'a.tif', pixels, nodata=nodata)) as raster:
        valid = raster.valid()
    assert not valid[1, 1] and valid[2, 2]
    assert valid[0, 0] != one_is_enough


def test_transparent_entries_of_a_palette(tmp_path):
    numbers = noise(9, 9, low=0, high=4)
    picture = Image.fromarray(numbers).convert('P')
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / 'a.png', transparency=bytes([255, 0, 255, 0]))
    with Raster(tmp_path / 'a.png') as raster:
        assert raster.paletted and raster.bands == ('red', 'green', 'blue')
        assert (raster.valid() == (numbers % 2 == 0)).all()


# Opacity


def drone(full=255, soft=0):
    "A mosaic of four bands whose right half is transparent, with a soft edge of some columns."
    pixels = noise(64, 80, 4)
    pixels[..., 3] = full
    pixels[:, 40:] = 0
    pixels[:, 40 - soft : 40, 3] = np.linspace(full, 0, soft + 2)[1:-1].astype(np.uint8)
    return pixels


@pytest.mark.parametrize(('full', 'soft'), [(255, 0), (255, 9), (1, 0), (100, 5)])
def test_real_opacity(tmp_path, full, soft):
    pixels = drone(full, soft)
    with Raster(write(tmp_path / 'a.tif', pixels, photometric='rgb', alpha='yes')) as raster:
        assert raster.alpha and raster.in_channels == 3
        assert (raster.valid() == (pixels[..., 3] > 0)).all()


@pytest.mark.parametrize('nodata', [None, 0])
@pytest.mark.parametrize('empty', [0, 40, 70])
def test_infrared_that_is_declared_opacity(tmp_path, nodata, empty):
    "However much of the image is empty, what is there spreads over many values."
    pixels = noise(64, 80, 4)
    pixels[:, :empty] = 0
    path = write(tmp_path / 'a.tif', pixels, photometric='rgb', alpha='yes', nodata=nodata)
    with Raster(path) as raster:
        assert not raster.alpha and raster.in_channels == 4
        expected = pixels.any(2) if nodata == 0 else np.ones((64, 80), bool)
        assert (raster.valid() == expected).all()


def test_opacity_that_is_not_declared(tmp_path, remarks):
    pixels = drone()
    with Raster(write(tmp_path / 'a.tif', pixels, photometric='minisblack', alpha='no')) as raster:
        assert raster.in_channels == 3 and (raster.valid() == (pixels[..., 3] > 0)).all()
    assert 'band 4 is taken as opacity' in texts(remarks)[0]
    pixels[:, 40:, :3] = noise(64, 40, 3)
    with Raster(write(tmp_path / 'b.tif', pixels, photometric='minisblack', alpha='no')) as raster:
        assert raster.in_channels == 4


def test_a_large_image_is_judged_in_places(tmp_path):
    "Its middle is opaque and its rim is not; the other one's infrared is dark in the middle."
    pixels = np.full((1200, 1000, 4), 255, np.uint8)
    pixels[..., :3] = noise(1, 1, 3)
    pixels[:300] = 0
    options = dict(photometric='rgb', alpha='yes', compress='deflate', tiled=True)
    with Raster(write(tmp_path / 'a.tif', pixels, **options)) as raster:
        assert raster.alpha and not raster.valid((0, 0, 300, 1000)).any()
    pixels[..., 3] = noise(1200, 1000)
    pixels[300:900, 200:800, 3] = 0
    with Raster(write(tmp_path / 'b.tif', pixels, **options)) as raster:
        assert not raster.alpha


# Places


def reference(path, transform, shape=(40, 60), dtype=np.uint8, crs=CRS_WKT, **profile):
    "A one-band file whose numbers are all different within a small square."
    rows, cols = np.indices(shape)
    numbers = ((7 * rows + cols) % 200).astype(dtype)
    write(path, numbers[..., None], transform=transform, crs=crs and CRS.from_wkt(crs), **profile)
    return numbers


def laid(path, image, **options):
    with lay_onto(path, image, **options) as raster:
        assert raster.size == image.size
        np.testing.assert_allclose(raster.georeference.transform, image.georeference.transform, rtol=1e-9)
        return raster.stored()[..., 0], raster.valid()


def test_equal_grid_is_used_as_it_is(tmp_path, image, remarks):
    for name, shift in (('a.tif', 0), ('b.tif', 1e-4)):
        numbers = reference(tmp_path / name, NORTH_UP * Affine.translation(shift, -shift))
        found, valid = laid(tmp_path / name, image)
        assert (found == numbers).all() and valid.all()
    assert texts(remarks) == []


def test_south_up(tmp_path, image, remarks):
    numbers = reference(tmp_path / 'a.tif', NORTH_UP * Affine.translation(0, 40) * Affine.scale(1, -1))
    found, valid = laid(tmp_path / 'a.tif', image)
    assert (found == numbers[::-1]).all() and valid.all()
    assert 'rows run the other way' in texts(remarks)[0]


@pytest.mark.parametrize(('down', 'right'), [(0, 20), (1, 0), (-3, -5)])
def test_offset(tmp_path, image, remarks, down, right):
    numbers = reference(tmp_path / 'a.tif', NORTH_UP * Affine.translation(right, down))
    found, valid = laid(tmp_path / 'a.tif', image)
    rows, cols = np.indices((40, 60))
    inside = (rows >= down) & (rows < 40 + down) & (cols >= right) & (cols < 60 + right)
    assert (valid == inside).all()
    assert (found[inside] == numbers[rows[inside] - down, cols[inside] - right]).all()
    assert f'top left corner lies at row {down:.2f}, column {right:.2f}' in texts(remarks)[0]
    assert 'of the image' in texts(remarks)[0].split('it covers')[1]


def test_one_pixel_more(tmp_path, image, remarks):
    numbers = reference(tmp_path / 'a.tif', NORTH_UP, (41, 61))
    found, valid = laid(tmp_path / 'a.tif', image)
    assert (found == numbers[:40, :60]).all() and valid.all()
    assert '41 x 61 pixels instead of 40 x 60' in texts(remarks)[0]


def test_half_the_resolution(tmp_path, image, remarks):
    numbers = reference(tmp_path / 'a.tif', NORTH_UP * Affine.scale(2), (20, 30))
    found, valid = laid(tmp_path / 'a.tif', image)
    assert (found == np.kron(numbers, np.ones((2, 2), int))).all() and valid.all()
    assert 'its pixels are 2 of the image' in texts(remarks)[0]


def test_turned_by_a_quarter(tmp_path, image, remarks):
    turned = NORTH_UP * Affine.translation(60, 0) * Affine.rotation(90)
    numbers = reference(tmp_path / 'a.tif', turned, (60, 40))
    found, valid = laid(tmp_path / 'a.tif', image)
    assert (found == np.rot90(numbers, -1)).all() and valid.all()
    assert 'turned by 90.00 degrees' in texts(remarks)[0]


def test_another_zone(tmp_path, image, remarks):
    "Each pixel's middle is looked up in the other zone by hand."
    other = CRS.from_epsg(32633)
    (x,), (y,) = transform_points(CRS.from_wkt(CRS_WKT), other, [500_015], [5_399_990])
    transform = Affine(0.25, 0, x - 20, 0, -0.25, y + 20)
    numbers = reference(tmp_path / 'a.tif', transform, (160, 160), crs=other.to_wkt())
    found, valid = laid(tmp_path / 'a.tif', image)
    rows, cols = np.indices((40, 60))
    xs, ys = NORTH_UP * (cols.ravel() + 0.5, rows.ravel() + 0.5)
    xs, ys = transform_points(CRS.from_wkt(CRS_WKT), other, xs, ys)
    col, row = ~transform * (np.array(xs), np.array(ys))
    expected = numbers[row.astype(int), col.astype(int)].reshape(40, 60)
    near_an_edge = (np.minimum(row % 1, 1 - row % 1) < 0.02) | (np.minimum(col % 1, 1 - col % 1) < 0.02)
    assert (found == expected)[~near_an_edge.reshape(40, 60)].all() and valid.all()
    assert 'its coordinate system is EPSG:32633, the image\'s EPSG:32632' in texts(remarks)[0]


def test_what_does_not_meet(tmp_path, image):
    reference(tmp_path / 'far.tif', NORTH_UP * Affine.translation(20_000, 0))
    with pytest.raises(ValueError, match='do not meet on the ground.*column 20030'):
        lay_onto(tmp_path / 'far.tif', image)
    reference(tmp_path / 'zone.tif', NORTH_UP, crs=CRS.from_epsg(32633).to_wkt())
    with pytest.raises(ValueError, match='do not meet on the ground'):
        lay_onto(tmp_path / 'zone.tif', image)


def test_a_small_part_of_a_large_image(tmp_path, remarks):
    write_image(tmp_path / 'large.tif', np.zeros((3000, 3000, 1), np.uint8), place())
    numbers = reference(tmp_path / 'a.tif', NORTH_UP * Affine.translation(2001, 1003), (8, 8))
    with Raster(tmp_path / 'large.tif') as large, lay_onto(tmp_path / 'a.tif', large) as raster:
        window = (1003, 2001, 8, 8)
        assert (raster.read(window)[..., 0] == numbers).all() and raster.valid(window).all()
        assert raster.valid((990, 1990, 40, 40)).sum() == 64


def test_only_one_has_a_place(tmp_path, image, remarks):
    Image.fromarray(noise(40, 60)).save(tmp_path / 'a.png')
    with lay_onto(tmp_path / 'a.png', image) as raster:
        assert (raster.stored()[..., 0] == noise(40, 60)).all() and raster.valid().all()
    assert 'does not say where it lies' in texts(remarks)[0]
    Image.fromarray(noise(40, 61)).save(tmp_path / 'b.png')
    with pytest.raises(ValueError, match='40 x 61 .* not both say where they lie'):
        lay_onto(tmp_path / 'b.png', image)


def test_no_coordinate_system_on_one_side(tmp_path, image, remarks):
    numbers = reference(tmp_path / 'a.tif', NORTH_UP * Affine.translation(2, 0), crs=None)
    found, _ = laid(tmp_path / 'a.tif', image)
    assert (found[:, 2:] == numbers[:, :-2]).all()
    assert any('names no coordinate system' in text for text in texts(remarks))


@pytest.mark.parametrize(('dtype', 'nodata'), [('uint8', 3), ('int16', -9999), ('uint16', 0)])
def test_nodata_in_a_laid_file(tmp_path, image, remarks, dtype, nodata):
    transform = NORTH_UP * Affine.translation(10, 0)
    numbers = reference(tmp_path / 'a.tif', transform, dtype=dtype, nodata=nodata)
    with rasterio.open(tmp_path / 'a.tif', 'r+') as file:
        numbers[5:9, 5:9] = nodata
        file.write(numbers, 1)
    found, valid = laid(tmp_path / 'a.tif', image)
    assert not valid[:, :10].any()
    assert (valid[:, 10:] == (numbers[:, :-10] != nodata)).all()
    assert (found[:, 10:] == numbers[:, :-10])[valid[:, 10:]].all()


def test_mask_palette_and_opacity_in_a_laid_file(tmp_path, image, remarks):
    transform = NORTH_UP * Affine.translation(10, 0)
    numbers = reference(tmp_path / 'mask.tif', transform)
    with rasterio.open(tmp_path / 'mask.tif', 'r+') as file:
        file.write_mask(numbers % 3 > 0)
    _, valid = laid(tmp_path / 'mask.tif', image)
    assert (valid[:, 10:] == (numbers % 3 > 0)[:, :-10]).all() and not valid[:, :10].any()
    reference(tmp_path / 'palette.tif', transform)
    with rasterio.open(tmp_path / 'palette.tif', 'r+') as file:
        file.write_colormap(1, {n: (n, 255 - n, 7) for n in range(256)})
    with lay_onto(tmp_path / 'palette.tif', image, resampling='bilinear') as raster:
        shown = numbers[:, :-10]
        assert (raster.read()[:, 10:] == np.dstack([shown, 255 - shown, np.full_like(shown, 7)])).all()
    opaque = np.dstack([numbers, numbers, numbers, np.where(numbers % 3, 255, 0).astype(np.uint8)])
    options = dict(photometric='rgb', alpha='yes', transform=transform, crs=CRS.from_wkt(CRS_WKT))
    write(tmp_path / 'opacity.tif', opaque, **options)
    with lay_onto(tmp_path / 'opacity.tif', image) as raster:
        assert raster.in_channels == 3
        assert (raster.valid()[:, 10:] == (shown % 3 > 0)).all() and not raster.valid()[:, :10].any()


@pytest.mark.parametrize('nodata', [None, -9999, float('nan')])
def test_heights_are_bilinear_and_keep_their_holes(tmp_path, image, remarks, nodata):
    "A plane is laid half a pixel further: what is read is the plane, and no hole reaches into its neighbours."
    rows, cols = np.indices((40, 60))
    plane = (100 + rows + 2 * cols).astype(np.float32)
    plane[10, 10] = np.nan if nodata is None else nodata
    transform, crs = NORTH_UP * Affine.translation(0.5, 0.5), CRS.from_wkt(CRS_WKT)
    write(tmp_path / 'h.tif', plane[..., None], transform=transform, crs=crs, nodata=nodata)
    found, valid = laid(tmp_path / 'h.tif', image, what='height model', resampling='bilinear')
    inner = np.zeros((40, 60), bool)
    inner[1:, 1:] = True
    inner[9:13, 9:13] = False
    assert valid[inner].all()
    np.testing.assert_allclose(found[inner], (100 + rows - 0.5 + 2 * (cols - 0.5))[inner], atol=1e-3)
    assert (np.abs(found[valid] - 160) < 200).all()


# Several files


def test_files_of_one_band(tmp_path, remarks):
    bands = noise(40, 60, 3)
    names = ['red', 'green', 'blue']
    for number, name in enumerate(names):
        write_image(tmp_path / f'{name}.tif', bands[..., number : number + 1], place())
    write_image(tmp_path / 'h.tif', np.ones((20, 30, 1), np.float32), place(NORTH_UP * Affine.scale(2)))
    paths = [tmp_path / f'{name}.tif' for name in names]
    for image in (paths, ','.join(map(str, paths))):
        with open_image(image, height=tmp_path / 'h.tif') as stack:
            assert isinstance(stack, Stack) and stack.bands == (*names, 'height')
            assert stack.dtypes == ('uint8', 'uint8', 'uint8', 'float32') and stack.dtype == 'float32'
            np.testing.assert_array_equal(stack.read((1, 2, 30, 40))[..., :3], bands[1:31, 2:42])
            assert (stack.read()[..., 3] == 1).all() and stack.valid().all()
    assert 'h.tif is laid onto the grid' in texts(remarks)[0]
    odd = write_image(tmp_path / 'a,b.tif', bands)
    with open_image(str(odd)) as raster:
        assert raster.in_channels == 3
    with pytest.raises(ValueError, match='has 3 bands: give one of heights'):
        open_image(odd, height=odd)


@pytest.mark.parametrize(
    ('dtype', 'nodata'), [('uint8', 0), ('uint16', 65535), ('float32', 0), ('int16', -9999), ('uint8', None)]
)
def test_no_data_of_files_of_one_band_is_that_of_one_file(tmp_path, dtype, nodata):
    pixels = noise(40, 60, 3, high=9).astype(dtype)
    hole = 0 if nodata is None else nodata
    pixels[0, 0, 0] = pixels[1, 1, :2] = pixels[2, 2] = hole
    whole = write(tmp_path / 'whole.tif', pixels, nodata=nodata)
    bands = [write(tmp_path / f'{n}.tif', pixels[..., n : n + 1], nodata=nodata) for n in range(3)]
    window = 0, 1, 30, 40
    with open_image(whole) as one, open_image(bands) as several:
        np.testing.assert_array_equal(several.read(), one.read())
        np.testing.assert_array_equal(several.valid(), one.valid())
        np.testing.assert_array_equal(several.valid(window), one.valid(window))
        assert one.valid()[2, 2] == (nodata is None)


def test_no_data_of_a_file_of_several_bands_beside_one_of_heights(tmp_path):
    "Height 0 is the ground; where the picture is empty, no height makes up for it."
    pixels, height = noise(40, 60, 3), noise(40, 60, 1)
    pixels[3, 4], pixels[5, 6, 0], height[7, 8] = 0, 0, 0
    names = write(tmp_path / 'image.tif', pixels, nodata=0), write(tmp_path / 'h.tif', height, nodata=0)
    with open_image(names[0], height=names[1]) as raster:
        assert sorted(map(tuple, np.argwhere(~raster.valid()).tolist())) == [(3, 4)]
    height[7, 8] = 255
    write(tmp_path / 'h.tif', height, nodata=255)  # a value that is no measurement marks a hole by itself
    with open_image(names[0], height=names[1]) as raster:
        assert (7, 8) in set(map(tuple, np.argwhere(~raster.valid()).tolist()))


def test_a_small_reference_of_a_large_image_is_decoded_only_where_it_lies(tmp_path, image):
    "Beside it, labels are 255 without a look at its colours."
    write(tmp_path / 'ref.tif', np.zeros((9, 8, 3), np.uint8), crs=CRS_WKT, transform=NORTH_UP)
    looked = []

    def lookup(pixels, palette):
        looked.append(pixels.shape[:2])
        return np.zeros(pixels.shape[:2], np.uint8)

    with ReferenceFile(tmp_path / 'ref.tif', ISPRS, lookup, image) as reference:
        assert (reference.read((20, 0, 20, 60)) == 255).all() and not looked
        labels = reference.read((0, 0, 20, 60))
    assert looked == [(20, 60)] and (labels[:9, :8] == 0).all() and (labels == 0).sum() == 72


def test_map_path():
    assert map_path('maps/a.TIF').name == 'a.TIF'
    for name in ('exact', 'map.png'):
        with pytest.raises(ValueError, match=f"'{name}' does not end in .tif"):
            map_path(name)


# Files that lead elsewhere


@pytest.fixture
def server():
    "A socket, and the number of calls that have reached it."
    with socket.create_server(('127.0.0.1', 0)) as waiting:

        def calls():
            return bool(select.select([waiting], [], [], 0)[0])

        yield f'http://127.0.0.1:{waiting.getsockname()[1]}/a.tif', calls


def refused(path, said, **options):
    with pytest.raises((ValueError, OSError), match=said) as error, Raster(path, **options) as raster:
        raster.read()
    assert str(error.value).isprintable() and len(str(error.value)) < 700


@pytest.mark.parametrize('form', ['{}', '/vsicurl/{}', 's3://bucket/a.tif', '/vsizip//vsicurl/{}'])
def test_addresses_need_permission(server, form):
    address, calls = server
    refused(form.format(address), r'an address, which is read only with remote=True \(--remote\)')
    assert not calls()


def test_a_mask_counts_with_permission_too(tmp_path):
    path = write(tmp_path / 'a.tif', noise(40, 60, 3))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, 'r+') as file:
        file.write_mask(noise(40, 60) > 99)
    with Raster(path, remote=True) as raster:
        assert (raster.valid() == (noise(40, 60) > 99)).all()


def test_mosaic_beside_and_below(tmp_path):
    grey = noise(40, 60, 1)
    (tmp_path / 'below').mkdir()
    write_image(tmp_path / 'below/grey.tif', grey)
    inner = mosaic(tmp_path / 'below/inner.vrt', ('Byte', 'grey.tif'))
    outer = mosaic(tmp_path / 'outer.vrt', ('Byte', 'below/inner.vrt'))
    absolute = mosaic(tmp_path / 'absolute.vrt', ('Byte', inner), relative='0')
    for path in (inner, outer, absolute):
        assert (read_image(path) == grey).all()
    up = mosaic(tmp_path / 'below/up.vrt', ('Byte', '../other.tif'))
    write_image(tmp_path / 'other.tif', grey)
    refused(up, 'not beside or below it.*--remote')
    with Raster(up, remote=True) as raster:
        assert (raster.read() == grey).all()


def test_a_mosaic_of_jpeg_is_lossy(tmp_path):
    Image.fromarray(noise(40, 60)).save(tmp_path / 'a.jpg')
    with Raster(mosaic(tmp_path / 'a.vrt', ('Byte', 'a.jpg'))) as raster:
        assert raster.lossy


def test_mosaics_that_lead_elsewhere(tmp_path, server):
    address, calls = server
    folder = tmp_path / 'here'
    folder.mkdir()
    write_image(folder / 'grey.tif', noise(40, 60, 1))
    write_image(tmp_path / 'outside.tif', noise(40, 60, 1))
    (folder / 'link.tif').symlink_to(tmp_path / 'outside.tif')
    for name in (
        '../outside.tif',
        '/etc/passwd',
        f'/vsicurl/{address}',
        address,
        'link.tif',
        'below/../../outside.tif',
    ):
        refused(mosaic(folder / 'a.vrt', ('Byte', name)), 'not beside or below it')
    for name in ('GTIFF_DIR:1:grey.tif', ' grey.tif', 'vrt:grey.tif'):
        refused(mosaic(folder / 'a.vrt', ('Byte', name)), 'no plain path|no file')
    refused(mosaic(folder / 'a.vrt', ('Byte', 'a.vrt')), 'leads back to itself')
    mosaic(folder / 'b.vrt', ('Byte', 'c.vrt'))
    refused(mosaic(folder / 'c.vrt', ('Byte', 'b.vrt')), 'leads back to itself')
    for number in range(10):
        mosaic(folder / f'n{number}.vrt', ('Byte', f'n{number + 1}.vrt' if number < 9 else 'grey.tif'))
    refused(folder / 'n0.vrt', 'more than 8 others')
    assert not calls()


def test_mosaics_that_compute(tmp_path, server):
    "Formulas, filters, raw files, and spellings that GDAL takes for the same; none is opened."
    address, calls = server
    write_image(tmp_path / 'grey.tif', noise(40, 60, 1))
    good = mosaic(tmp_path / 'a.vrt', ('Byte', 'grey.tif')).read_text()
    for old, new in [
        ('band="1"', 'band="1" subClass="VRTDerivedRasterBand"'),
        ('band="1"', 'band="1" SUBCLASS="VRTRawRasterBand"'),
        ('band="1"', 'band="1" subClass="VRTSourcedRasterBand" subclass="VRTRawRasterBand"'),
        ('<SimpleSource>', '<PixelFunctionType>python</PixelFunctionType><SimpleSource>'),
        ('<SimpleSource>', f'<SimpleSource SourceFilename="/vsicurl/{address}">'),
        ('SourceFilename', 'sourcefilename relativeToVRT="0"'),
        ('grey.tif', f'<x>{address}</x>'),
        ('<SimpleSource>', '<KernelFilteredSource></KernelFilteredSource><SimpleSource>'),
        (
            '<VRTRasterBand',
            '<GDALWarpOptions><SourceDataset>grey.tif</SourceDataset></GDALWarpOptions><VRTRasterBand',
        ),
        (
            '<VRTRasterBand',
            '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">x</MDI></Metadata><VRTRasterBand',
        ),
        ('<VRTDataset', '<!DOCTYPE a [<!ENTITY b "c">]><VRTDataset'),
        ('grey.tif', '<!-- -->grey.tif'),
        ('grey.tif', f'<![CDATA[/vsicurl/{address}]]>'),
        ('</VRTDataset>', ''),
        ('grey.tif', '\x00grey.tif'),
    ]:
        assert old in good
        (tmp_path / 'b.vrt').write_text(good.replace(old, new))
        refused(tmp_path / 'b.vrt', 'only plain mosaics|comments or declarations|cannot read')
    (tmp_path / 'lower.vrt').write_text(good.lower().replace('grey.tif', f'/vsicurl/{address}'))
    refused(tmp_path / 'lower.vrt', 'not beside or below it')
    (tmp_path / 'a.vrt').rename(tmp_path / 'photo.tif')
    refused(tmp_path / 'photo.tif', 'of no format that is read')
    assert not calls()


def test_sources_of_a_mosaic_are_known_by_their_first_bytes(tmp_path, server):
    "Raw data with a header beside them may begin as a text that calls a server."
    address, calls = server
    write(tmp_path / 'a.dat', noise(40, 60, 1), driver='ENVI')
    data = bytearray((tmp_path / 'a.dat').read_bytes())
    call = f'<GDAL_WMTS><GetCapabilitiesUrl>{address}</GetCapabilitiesUrl></GDAL_WMTS>'.encode()
    data[: len(call)] = call
    (tmp_path / 'a.dat').write_bytes(data)
    assert read_image(tmp_path / 'a.dat').shape == (40, 60, 1)
    refused(mosaic(tmp_path / 'a.vrt', ('Byte', 'a.dat')), 'of no format that is read')
    assert not calls()


@pytest.mark.parametrize('ending', ['.msk', '.MSK', '.ovr', '.aux.xml'])
def test_what_lies_beside_an_image(tmp_path, server, ending):
    "GDAL reads masks, overviews and notes with any driver."
    address, calls = server
    path = write_image(tmp_path / 'a.tif', noise(40, 60, 3))
    call = f'<GDAL_WMTS><GetCapabilitiesUrl>{address}</GetCapabilitiesUrl></GDAL_WMTS>'
    if ending == '.aux.xml':
        call = f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW&#95;FILE">{address}</MDI></Metadata></PAMDataset>'
    (tmp_path / f'a.tif{ending}').write_text(call)
    refused(path, 'no format that is read|no plain note')
    assert not calls()


def test_what_is_not_called_exactly_so_is_not_read(tmp_path, server):
    address, calls = server
    path = write_image(tmp_path / 'a.tif', noise(40, 60, 3))
    call = f'<GDAL_WMTS><GetCapabilitiesUrl>{address}</GetCapabilitiesUrl></GDAL_WMTS>'
    for name in ('a.tif.MsK', 'a.tif.Ovr', 'a.tif.ovr.msk', 'a.aux', 'a.msk'):
        (tmp_path / name).write_text(call)
    assert (read_image(path) == noise(40, 60, 3)).all()
    assert not calls()


def test_mosaic_of_too_many_bands(tmp_path):
    write_image(tmp_path / 'grey.tif', noise(4, 6, 1))
    refused(
        mosaic(tmp_path / 'a.vrt', *[('Byte', 'grey.tif')] * 1001, size=(4, 6)),
        '1001 bands, and at most 1000',
    )


def test_mask_and_notes_beside_an_image(tmp_path):
    path = write(tmp_path / 'a.tif', noise(40, 60, 3))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, 'r+') as file:
        file.write_mask(noise(40, 60) > 99)
    assert (tmp_path / 'a.tif.msk').exists()
    (tmp_path / 'a.tif.aux.xml').write_text(
        '<PAMDataset><Metadata><MDI key="A">b</MDI></Metadata></PAMDataset>'
    )
    with Raster(path) as raster:
        assert (raster.valid() == (noise(40, 60) > 99)).all()


def test_stamp_of_any_spelling(tmp_path, monkeypatch):
    "A file is the same file, wherever a command was started: a map that was begun goes on."
    write(tmp_path / 'a.tif', np.zeros((8, 8, 3), np.uint8))
    (tmp_path / 'folder').mkdir()
    monkeypatch.chdir(tmp_path)
    names = ('a.tif', './a.tif', 'folder/../a.tif', tmp_path / 'a.tif')
    assert {open_image(name).stamp for name in names} == {open_image('a.tif').stamp}
    assert str((tmp_path / 'a.tif').stat().st_size) in open_image('a.tif').stamp
