"""A picture to look into: original and normalised image under one divider, heat, outlines, values."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from anounet.anomaly_map import colorize
from anounet.app import frontend, panels
from anounet.app.texts import label, t
from anounet.bundle import RIVALS
from anounet.images import png_bytes, to_pixels
from anounet.visualization import NEAREST, Result

HEAT = 0.5  # opacity of the heat over the original at first

_viewer = frontend.component("viewer")


def show(name: str, results: Sequence[Result], view: panels.View, key: str, made: str | None = None) -> None:
    """Draws one image's results, one of them at a time; the browser alone does what changes the view.

    Args:
        name: the image's, for people.
        results: Ano-Unet's first, then rivals' of the same image.
        key: of the component.
        made: what Ano-Unet's image is called; the normalised one by default.
    """
    _viewer(key=key, data=payload(name, results, view, made or t("panel.normalised")))


def payload(name: str, results: Sequence[Result], view: panels.View, made: str) -> dict[str, object]:
    """What the browser gets: PNGs, and maps as 16-bit levels, so that values can be read off them."""
    first, one = results[0], _one(results[0], view)
    methods = [_method(name, result, view, made) for result in results]
    original, level = _png(first.x), view.level(first)
    said = [original, *(f"{m['image']} {m['map']}" for m in methods)]
    x, y, v = "{x}", "{y}", "{v}"  # what the browser fills in
    grey = view.grey and view.name(first) == "residual"
    return {
        "key": hashlib.sha256("".join(said).encode()).hexdigest()[:16],
        "side": first.x.shape[-1],
        "original": original,
        "methods": methods,
        "colours": _base64(colorize(np.linspace(0, 1, 256)[None], view.colormap)[0].tobytes()),
        "top": panels.TOP,
        "opacity": round(100 * HEAT),
        "threshold": round((one if level is None else level) / one, 2),
        "factor": 255 * one if grey else 1.0,
        "words": {
            "divider": t("viewer.divider", name=name),
            "share": t("viewer.share", n="{n}"),
            "original": t("panel.original"),
            "opacity": t("viewer.heat"),
            "threshold": t("viewer.threshold"),
            "level": t("viewer.grey_level", v="{v}") if grey else t("viewer.level", v="{v}"),
            "methods": t("viewer.methods"),
            "hint": t("viewer.hint"),
            "value": t("viewer.grey_value", x=x, y=y, v=v) if grey else t("viewer.value", x=x, y=y, v=v),
        },
    }


def _one(result: Result, view: panels.View) -> float:
    """The map level that is shown as 1."""
    return view.top(result) / panels.TOP


def _method(name: str, result: Result, view: panels.View, made: str) -> dict[str, object]:
    units = panels.shown_map(result, view).numpy() / _one(result, view)
    top = max(float(units.max()), panels.TOP)
    rival = result.method in (*RIVALS, NEAREST)
    called = label(result.method) if rival else t("method.ano_unet")
    return {
        "name": called,
        "made": label(f"made.{result.method}") if rival else made,
        "alt": t("viewer.alt", name=name, method=called),
        "image": None if result.y is None else _png(result.y),
        "map": _base64(np.round(units / top * 65535).astype("<u2").tobytes()),
        "top": top,
    }


def _png(image: Tensor) -> str:
    return "data:image/png;base64," + _base64(png_bytes(to_pixels(image)))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
