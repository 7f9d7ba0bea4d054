"""What one image leaves behind: its files, its row of scores.csv and its regions."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from anounet.anomaly_map import colorize
from anounet.bundle import RIVALS
from anounet.images import png_bytes, to_pixels
from anounet.sheet import below, beside, heading
from anounet.visualization import Result

COLUMNS = ("file", "score", "threshold", "verdict", "L_R", "L_C", "steps", "seconds", "error")
ENDS = ("normalised.png", "overlay.png", "map.npy")  # of an image's files, in the order of writing


class Writer:
    """Writes images' files into a folder, each whole or not at all.

    Args:
        out: the folder; must exist.
        map_name: the map that is written, drawn and cut into regions.
        colormap: the overlay's.
    """

    def __init__(self, out: Path, map_name: str, colormap: str) -> None:
        self.out, self.map, self.colormap = out, map_name, colormap

    def write(self, name: str, result: Result) -> list[dict[str, Any]]:
        """Writes an image's files; gives its regions, in pixels of the map."""
        if result.y is None:
            return []
        self.save(f"{name}_normalised.png", png_bytes(to_pixels(result.y)))
        self.save(f"{name}_overlay.png", png_bytes(result.overlay(self.map, self.colormap)))
        self.save_map(f"{name}_map.npy", result, self.map)
        return [
            {"number": number} | {k: round(v, 3) for k, v in asdict(region).items()}
            for number, region in enumerate(result.regions(self.map), 1)
        ]

    def save_map(self, name: str, result: Result, map_name: str) -> None:
        buffer = io.BytesIO()
        np.save(buffer, result.maps[map_name].numpy().astype(np.float32))
        self.save(name, buffer.getvalue())

    def save(self, name: str, data: bytes) -> None:
        """Whole or not at all; not flushed to the disk, which would take longer than the image did."""
        path, unfinished = self.out / name, self.out / f".{name}.part"
        try:
            unfinished.write_bytes(data)
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def row_of(result: Result) -> dict[str, Any]:
    """What a row of scores.csv says of an image that could be redrawn: `COLUMNS` but "file" and "error"."""
    last = {name: six_digits(values[-1]) for name, values in result.losses.items() if name in ("L_R", "L_C")}
    return {
        "score": six_digits(result.score),
        "threshold": six_digits(result.threshold),
        "verdict": result.verdict,
        "L_R": last.get("L_R", ""),
        "L_C": last.get("L_C", ""),
        "steps": result.steps,
        "seconds": six_digits(result.seconds),
    }


def named(error: Exception, file: str | PurePath) -> str:
    """The error's sentence with the file that it is about, where it does not say so itself."""
    return str(error) if str(file) in str(error) else f"{file}: {error}"


def six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def distinct_names(files: Iterable[str | PurePath]) -> dict[str, str]:
    """File → name of its results: its own without the ending, numbered where two would be the same."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    following: dict[str, int] = {}  # stem → the next number: a thousand folders may hold a 000.png each
    for file in files:
        stem = PurePath(file).stem
        number = following.get(stem, 1)
        name = stem if number == 1 else f"{stem}-{number}"
        while (ours := {name, *(f"{name}_{r}" for r in RIVALS)}) & taken:  # x_anogan.png is not x.png's rival
            number += 1
            name = f"{stem}-{number}"
        taken |= ours
        following[stem] = number + 1
        names[str(file)] = name
    return names


def strip(pixels: np.ndarray, results: list[tuple[Result, str]], colormap: str) -> np.ndarray:
    """Original, then each method's normalised image, heat map and overlay, side by side."""
    panels = [pixels]
    for result, map_name in results:
        panels += [
            to_pixels(result.y),
            colorize(result.levels(map_name), colormap),
            result.overlay(map_name, colormap),
        ]
    return beside(panels)


def overview(strips: list[np.ndarray], methods: list[str]) -> np.ndarray:
    """The first strips under each other, with a line that names the columns."""
    titles = [("", "image")]
    for who in methods:
        titles += [(who, "as normal"), ("", "heat map"), ("", "overlay")]
    return np.concatenate([heading(titles, strips[0].shape[0]), below(strips)])
