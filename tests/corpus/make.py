#!/usr/bin/env python3
"""Write the seeds of the fuzz tests anew: small valid files of every kind. Inputs that once did harm (`found-*`) stay as they are. Runs in any folder."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import rasterio
import torch
from monai.networks.nets import BasicUNet
from PIL import Image

from unetkit.experiments import ModelPipeline, Settings
from unetkit.labels import ISPRS
from unetkit.raster import Georeference, write_image, write_label_map
from unetkit.models import Epoch, History, load_tensors, save_model, save_tensors
from unetkit.unet import UNet

HERE = Path(__file__).resolve().parent
rng = np.random.default_rng(0)


def put(name, data):
    "Write the bytes of one seed."
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def geotiff(name, array, **extra):
    "One GeoTIFF of an array (C, H, W)."
    count, height, width = array.shape
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=array.dtype.name, **extra
    ) as raster:
        raster.write(array)


def pillow(name, array, form, **extra):
    "One file by Pillow."
    memory = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(memory, form, **extra)
    put(name, memory.getvalue())


def images():
    "GeoTIFF in its many ways, PNG and JPEG."
    small = rng.integers(0, 256, (3, 6, 8), np.uint8)
    for compress in ("none", "lzw", "deflate", "packbits", "jpeg"):
        geotiff(f"image/{compress}.tif", small, compress=compress)
    geotiff(
        "image/tiled.tif", small, tiled=True, blockxsize=16, blockysize=16, compress="deflate", predictor=2
    )
    geotiff("image/bands.tif", rng.integers(0, 65536, (4, 6, 8), np.uint16), interleave="band", BIGTIFF="yes")
    geotiff("image/deep.tif", rng.integers(0, 65536, (1, 6, 8), np.uint16), ENDIANNESS="BIG", nbits=11)
    geotiff("image/announced.tif", small[:, :1, :1].repeat(4, 1), sparse_ok=True)
    place = Georeference(
        rasterio.crs.CRS.from_epsg(32632).to_wkt(), (0.09, 0.0, 496000.0, 0.0, -0.09, 5420000.0)
    )
    write_image(HERE / "image/place.tif", np.ascontiguousarray(small.transpose(1, 2, 0)), place)
    picture = np.ascontiguousarray(small.transpose(1, 2, 0))
    pillow("image/rgb.png", picture, "PNG")
    pillow("image/paletted.png", Image.fromarray(picture).quantize(4), "PNG")
    pillow("image/deep.png", rng.integers(0, 65536, (6, 8), np.uint16), "PNG")
    pillow("image/baseline.jpg", picture, "JPEG")
    pillow("image/progressive.jpg", picture, "JPEG", progressive=True)
    pillow("image/pages.tif", picture, "TIFF", save_all=True, append_images=[Image.fromarray(picture)])


def label_maps():
    "A label map as we write it, and one by another program."
    labels = rng.integers(0, 6, (6, 8), np.uint8)
    write_label_map(HERE / "label_map/ours.tif", labels, ISPRS.colours)
    pillow("label_map/grey.png", labels, "PNG")


def palettes():
    "Right and wrong ones."
    put(
        "palette/both.json",
        b'{"classes": {"field": "#d9c36a", "hedge": [20, 120, 40]}, "ignored": ["#000000"]}',
    )
    put("palette/wrong.json", b'{"classes": {"a": [0, 0, 256], "a": null}, "ignore": [1e400, NaN, {}]}')


def archives():
    "The layout of Vaihingen, with stored and deflated members."
    memory = io.BytesIO()
    names = ("top/top_mosaic_09cm_area1.tif", "gts_for_participants/top_mosaic_09cm_area1.tif")
    for compression, name in ((zipfile.ZIP_STORED, "stored"), (zipfile.ZIP_DEFLATED, "deflated")):
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w", compression) as archive:
            for member in names:
                archive.writestr(zipfile.ZipInfo(member), (HERE / "image/lzw.tif").read_bytes(), compression)
        put(f"archive/{name}.zip", memory.getvalue())


def tensors():
    "A model, a file of tensors, and a pickle."
    pipeline = ModelPipeline(ISPRS.ignoring("clutter"), Settings(patch_size=16, width=1, depth=1))
    torch.manual_seed(0)
    pipeline.model, pipeline.image_dtype, pipeline.history = (
        UNet(1, 5, width=1, depth=1),
        "uint8",
        History([Epoch(1, 2, 1.5, 1.25, 0.5, 0.1)]),
    )
    (HERE / "model").mkdir(exist_ok=True)
    pipeline.save(HERE / "model/whole.safetensors")
    (HERE / "tensors").mkdir(exist_ok=True)
    save_tensors(
        HERE / "tensors/three.safetensors",
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0, 4), "c": torch.tensor(3)},
        {"note": ["façade", 1]},
    )
    put("header/whole.json", json.dumps(load_tensors(HERE / "model/whole.safetensors")[1]).encode())
    put(
        "header/lies.json",
        b'{"unet": {"width": 1000000000, "depth": true, "up": null}, "palette": [], "settings": {"lr": 1e999}, "history": [{}], "images": NaN}',
    )
    save_tensors(
        HERE / "model/foreign.safetensors",
        BasicUNet(2, 1, 2, features=(1, 1, 1, 1, 1, 1)).state_dict(),
        {"unet": pipeline.model.settings},
    )
    save_model(HERE / "tensors/foreign.safetensors", UNet(1, 2, width=1, depth=1), {})
    memory = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, memory)
    put("tensors/pickle.safetensors", memory.getvalue())


if __name__ == "__main__":
    for write in (images, label_maps, palettes, archives, tensors):
        write()
    size = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file())
    print(f"{size / 1000:.0f} kB in {HERE.name}")
