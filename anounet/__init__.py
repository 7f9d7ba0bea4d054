"""Ano-Unet: where an image is abnormal, and what it would look like if it were normal.

The names below are what it takes to use a bundle (docs/API.md). Each is imported when it is first asked for,
so that the package itself stays quick to import.
"""

from importlib import import_module

__version__ = "0.1.0"

_ROOMS = {
    "Bundle": "bundle",
    "Result": "visualization",
    "Step": "optimize",
    "drain": "visualization",
    "load_bundle": "bundle",
    "read_image": "images",
    "to_pixels": "images",
    "visualize": "visualization",
    "visualize_many": "visualization",
    "visualize_rival": "visualization",
}
__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'anounet' has no attribute {name!r}")
    value = getattr(import_module(f"anounet.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
