"""Files to take away: maps, pictures, scores and regions of what a page shows."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

import anounet
from anounet.app import panels
from anounet.images import content_hash, png_bytes, to_pixels
from anounet.visualization import Result

NUMBERS = ("map_max", "map_scale", "map_limit", "regions", "seconds")
SCORES = ("image", "method", "score", "threshold", "verdict", "map", *NUMBERS)
PLACES = ("x", "y", "left", "top", "width", "height", "area", "score")
REGIONS = ("image", "method", "map", "threshold", "region", *PLACES)


@dataclass(frozen=True)
class Shown:
    """What a page shows of one picture, to be written into files."""

    name: str
    result: Result
    rivals: Mapping[str, Result] = field(default_factory=dict)  # by their methods


def npy_bytes(values: Tensor) -> bytes:
    """A map as float32 (H, W), in its own unit."""
    buffer = io.BytesIO()
    np.save(buffer, values.numpy().astype(np.float32), allow_pickle=False)
    return buffer.getvalue()


def zip_bytes(everything: Iterable[Shown], view: panels.View, facts: Mapping[str, object]) -> bytes:
    """Every picture's files in a folder of its own, scores.csv, regions.csv; `facts`: see `settings_json`.

    Each is let go of before the next is taken, so they may be computed on the way.
    """
    buffer, scores, found = io.BytesIO(), [], []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, shown in enumerate(everything, 1):
            scores.append(_score_row(shown, view))
            found += _region_rows(shown, view)
            if shown.result.anomaly_map is None:
                continue
            folder = f"{number:03d}_{stem(shown.name)}"
            archive.writestr(f"{folder}/settings.json", settings_json(shown, view, facts))
            for method, result in {"ano-unet": shown.result, **shown.rivals}.items():
                base, name = f"{folder}/{method}", view.name(result)
                archive.writestr(f"{base}_overlay.png", png_bytes(panels.marked_overlay(result, view)))
                if result.y is not None:
                    archive.writestr(f"{base}_normalised.png", png_bytes(to_pixels(result.y)))
                    archive.writestr(f"{base}_map.npy", npy_bytes(panels.raw_map(result)))
                if name != "residual":
                    archive.writestr(f"{base}_map_{name}.npy", npy_bytes(result.maps[name]))
        archive.writestr("scores.csv", csv_text(SCORES, scores))
        archive.writestr("regions.csv", csv_text(REGIONS, found))
    return buffer.getvalue()


def settings_json(shown: Shown, view: panels.View, facts: Mapping[str, object]) -> str:
    """What a picture's files were made with: enough to make them again.

    Args:
        facts: the request's own.
    """
    result = shown.result
    made = {
        "image": shown.name,
        "image_sha256": content_hash(to_pixels(result.x)),
        "size": result.x.shape[-1],
        **facts,
        "method": result.method,
        "steps_taken": result.steps,
        "score": result.score,
        "threshold": result.threshold,
        "verdict": result.verdict,
        "map": view.name(result),
        "map_scale": view.top(result) / panels.TOP,
        "outline_level": view.level(result),
        "anounet": anounet.__version__,
    }
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def _score_row(shown: Shown, view: panels.View) -> list[object]:
    """An image's line: its score and verdict, and what the shown map reaches."""
    result = shown.result
    there, name = result.anomaly_map is not None, view.name(result)
    return [
        cell(shown.name),
        result.method,
        f"{result.score:.6f}",
        f"{result.threshold:.6f}",
        result.verdict,
        name if there else "",
        f"{float(panels.shown_map(result, view).max()):.6f}" if there else "",
        f"{result.scales[name]:.6f}" if there else "",
        f"{result.limits[name]:.6f}" if there else "",
        len(panels.shown_regions(result, view)) if there else "",
        f"{result.seconds:.3f}",
    ]


def regions_csv(everything: Sequence[Shown], view: panels.View) -> str:
    """A line a region: place and size in pixels of the resized image, score in units of the threshold."""
    return csv_text(REGIONS, (row for shown in everything for row in _region_rows(shown, view)))


def _region_rows(shown: Shown, view: panels.View) -> list[list[object]]:
    rows = []
    for result in (shown.result, *shown.rivals.values()):
        for number, r in enumerate(panels.shown_regions(result, view), 1):
            place = [f"{r.x:.2f}", f"{r.y:.2f}", r.left, r.top, r.width, r.height, r.area]
            named = [cell(shown.name), result.method, view.name(result), f"{view.level(result):.6f}"]
            rows.append([*named, number, *place, f"{r.score:.4f}"])
    return rows


def cell(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def stem(name: str) -> str:
    """A file name's stem, safe in any file system."""
    kept = [c if c.isalnum() or c in "-_" else "_" for c in name.rsplit("/", 1)[-1].rsplit(".", 1)[0]]
    return "".join(kept)[:60] or "image"
