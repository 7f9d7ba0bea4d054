"""The one door to torchvision: everything else takes models and data sets from here.

torch's CPU build beside a torchvision compiled for CUDA, an easy mix-up when installing, fails at
``import torchvision`` with ``operator torchvision::nms does not exist``: the compiled library cannot load,
yet torchvision attaches shape rules to two operators which only that library declares. What we use (models,
transforms, data sets) is pure Python, so declaring the two schemas is enough to let the import through. Where
the compiled library does load, nothing is declared and torchvision is exactly as it was shipped.

Importing torchvision brings in all of its parts, ``datasets`` included, and with them ``torch._dynamo``, for
0.8 s and one function that only ``torchvision.ops`` calls. That one is fetched when it is called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

__all__ = ["VERSION", "MobileNet_V2_Weights", "datasets", "mobilenet_v2", "transforms"]

# As declared in torchvision's csrc/ops/nms.cpp and csrc/ops/quantized/cpu/qnms_kernel.cpp.
_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_SCHEMAS = {"nms": _NMS, "qnms": _NMS}


def _open_torchvision() -> ModuleType:
    """Imports torchvision, with or without its compiled library.

    Raises:
        ImportError: torchvision is not installed, or cannot work beside the installed torch.
    """
    try:
        with _without_dynamo():
            return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise ImportError(_advice(error)) from error
    except Exception as error:  # whatever stops the import, the user needs the same advice
        raise ImportError(_advice(error)) from error

    _forget_torchvision()
    try:
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                # Without a `lib`, torch itself keeps the declaration alive until the process ends.
                torch.library.define(f"torchvision::{name}", schema)
        with _without_dynamo():
            return importlib.import_module("torchvision")
    except Exception as error:
        _forget_torchvision()
        raise ImportError(_advice(error)) from error


@contextmanager
def _without_dynamo() -> Iterator[None]:
    """While torchvision is imported, what stands for ``torch._dynamo.utils`` loads it when it is called."""
    # What torchvision/ops/roi_align.py imports.
    name, function = "torch._dynamo.utils", "is_compile_supported"
    if name in sys.modules:
        yield
        return

    def is_compile_supported(device_type: object) -> bool:
        return getattr(importlib.import_module(name), function)(device_type)

    stand_in = ModuleType(name)
    setattr(stand_in, function, is_compile_supported)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


def _forget_torchvision() -> None:
    """Removes what a failed import leaves in ``sys.modules``, so that the next import starts afresh."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _advice(error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"torchvision could not be imported beside torch {torch.__version__} ({reason}): "
        "install torch and torchvision as the pair of versions that requirements.txt names."
    )


_torchvision = _open_torchvision()

VERSION: str = _torchvision.__version__
datasets = _torchvision.datasets
transforms = _torchvision.transforms
mobilenet_v2 = _torchvision.models.mobilenet_v2
MobileNet_V2_Weights = _torchvision.models.MobileNet_V2_Weights
