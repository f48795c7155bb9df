"""Learn and do semantic segmentation of aerial images with a U-Net.

This file is written by hand. `nbdev_export` replaces the line with the version and leaves the rest.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {  # Name at the front door -> module and name there; a module is imported when its name is first used
    "DUBAI": ("palettes", "DUBAI"),
    "ISPRS": ("palettes", "ISPRS"),
    "ModelPipeline": ("experiments", "ModelPipeline"),
    "Palette": ("palettes", "Palette"),
    "REPORT": ("report", "REPORT"),
    "Scores": ("metrics", "Scores"),
    "Settings": ("settings", "Settings"),
    "Tile": ("tiles", "Tile"),
    "demo": ("records", "demo_model"),
    "read": ("datasets", "read"),
    "scene": ("scenes", "synthetic_scene"),
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'unetkit' has no attribute {name!r}: it has {', '.join(_HOMES)}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(import_module(f"unetkit.{module}"), attribute)
    return value


def __dir__():
    return sorted({*globals(), *_HOMES})
