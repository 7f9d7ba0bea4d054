"""`visualize` and `compare`: images in; heat maps, normalised images and scores.csv out."""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from anounet import ano_unet
from anounet.anogan import SearchSettings
from anounet.anomaly_map import COLORMAPS, colorize, overlay
from anounet.bundle import Bundle, Result, drain, load_bundle, visualize_anogan, visualize_many
from anounet.cli.common import (
    Progress,
    add_bundle,
    add_common,
    add_settings,
    device_of,
    report,
    settings_from,
    table,
)
from anounet.images import Decoded, ImageError, decode_file, image_files, png_bytes, to_pixels, to_tensor
from anounet.storage import write_atomic

COLUMNS = ("file", "score", "threshold", "verdict", "L_R", "L_C", "seconds", "error")
SCALE_TOP = 2.0  # the colours end at twice the level that 99.5 % of normal pixels stay under
BATCH = 16  # images decoded, and searched for by AnoGAN, at a time
OVERVIEW_ROWS = 8
_GAP = 4  # white pixels between panels


def add_commands(commands: Any) -> None:
    for name, run, text in (
        ("visualize", run_visualize, "heat map, normalised image and score of every image"),
        ("compare", run_compare, "the same, with AnoGAN's beside it"),
    ):
        parser = commands.add_parser(name, help=text, description=text)
        parser.add_argument("paths", nargs="+", metavar="PATH", help="images, or folders of images")
        add_bundle(parser)
        parser.add_argument("--mode", choices=ano_unet.MODES, default="fast", help="default: fast")
        parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
        add_settings(
            parser,
            ano_unet.Settings,
            {
                "beta": "β, the weight of L_C, for means; the bundle's own default may differ",
                "steps": "updates of G for each image; likewise",
                "learning_rate": "learning rate; likewise",
                "smoothing": "σ of the Gaussian over the map, px at a side of 96",
                "seed": "seed of G's random start in article mode",
            },
        )
        parser.add_argument(
            "--gate", action="store_true", help="map only images that F's score calls anomalous"
        )
        parser.add_argument("--colormap", choices=COLORMAPS, default="inferno", help="default: inferno")
        if name == "compare":
            parser.add_argument(
                "--search-steps",
                type=int,
                default=None,
                metavar="N",
                help=f"AnoGAN's latent steps (default: {SearchSettings.steps})",
            )
        add_common(parser)
        parser.set_defaults(run=run)


def run_visualize(given: argparse.Namespace) -> int:
    return _Run(given).each()


def run_compare(given: argparse.Namespace) -> int:
    return _Run(given, with_anogan=True).each()


class _Run:
    """One batch: streams the files, so that memory does not grow with their number."""

    def __init__(self, given: argparse.Namespace, with_anogan: bool = False) -> None:
        self.given, self.with_anogan = given, with_anogan
        self.files = image_files(given.paths)
        self.bundle: Bundle = load_bundle(given.bundle, device_of(given))
        self.bundle.require_center()
        self.settings = settings_from(given, ano_unet.Settings, self.bundle.settings(given.mode))
        self.search = None
        if with_anogan:
            self.bundle.require_anogan()
            steps = SearchSettings.steps if given.search_steps is None else given.search_steps
            self.search = SearchSettings(steps=steps)
        self.out: Path = given.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.names = _distinct_names(self.files)
        self.strips: list[np.ndarray] = []
        self.progress = Progress()

    def each(self) -> int:
        rows: list[dict[str, Any]] = []
        start, failed = time.perf_counter(), 0
        columns = COLUMNS + (("anogan_score", "anogan_seconds") if self.with_anogan else ())
        with (self.out / "scores.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for done, row in enumerate(self._rows(), 1):
                writer.writerow(row)
                file.flush()  # what is finished is on disk, whatever comes next
                failed += bool(row["error"])
                if self.given.json:
                    rows.append(row)
                elif row["error"]:
                    self.progress.close()
                    print(f"left out: {row['error']}")
                self.progress.update("images", done, len(self.files))
        self.progress.close()
        if self.strips:
            self._save("overview.png", png_bytes(_overview(self.strips, self.settings.mode)))
        seconds = time.perf_counter() - start
        summary = {
            "images": len(self.files),
            "failed": failed,
            "seconds": round(seconds, 3),
            "device": str(self.bundle.device),
            "bundle": self.bundle.name,
            "mode": self.settings.mode,
            "out": str(self.out),
        }
        text = table([summary])
        report(self.given, summary | {"scores": rows}, text)
        return 1 if failed else 0

    def _rows(self) -> Iterator[dict[str, Any]]:
        """A row for each file, in order; `BATCH` decoded images at most are held at a time."""
        for at in range(0, len(self.files), BATCH):
            images = [self._decoded(path) for path in self.files[at : at + BATCH]]
            stream = (to_tensor(image.pixels)[0] for image in images if isinstance(image, Decoded))
            results = visualize_many(stream, self.bundle, self.settings, gate=self.given.gate)
            rows: list[dict[str, Any]] = []
            redrawn: list[tuple[dict[str, Any], Path, Decoded, Result]] = []
            for path, image in zip(self.files[at : at + BATCH], images, strict=True):
                result = next(results) if isinstance(image, Decoded) else image
                row = {"file": str(path), "error": ""}
                if isinstance(result, Result):
                    row |= _row(result)
                    self._write(path, image, result)
                    if self.with_anogan and result.y is not None:
                        redrawn.append((row, path, image, result))
                else:
                    row["error"] = str(result)
                if self.with_anogan:
                    rows.append(row)
                else:
                    yield row
            if redrawn:
                self._anogan(redrawn)
            yield from rows

    def _decoded(self, path: Path) -> Decoded | ImageError:
        try:
            return decode_file(path, self.bundle.size)
        except ImageError as error:
            return error

    def _anogan(self, redrawn: list[tuple[dict[str, Any], Path, Decoded, Result]]) -> None:
        """Searches for a batch at once, writes AnoGAN's files and completes the rows."""
        x = torch.stack([result.x for *_, result in redrawn])
        rivals = drain(visualize_anogan(x, self.bundle, self.search))
        for (row, path, image, ours), rival in zip(redrawn, rivals, strict=True):
            name = self.names[path]
            self._save_map(f"{name}_anogan_map.npy", rival)
            strip = _strip(image.pixels, [ours, rival], self.given.colormap)
            self._save(f"{name}_compare.png", png_bytes(strip))
            if len(self.strips) < OVERVIEW_ROWS:
                self.strips.append(strip)
            row |= {"anogan_score": _number(rival.score), "anogan_seconds": _number(rival.seconds)}

    def _write(self, path: Path, image: Decoded, result: Result) -> None:
        if result.y is None:
            return
        name, levels = self.names[path], _levels(result)
        self._save(f"{name}_normalised.png", png_bytes(to_pixels(result.y)))
        self._save(
            f"{name}_overlay.png", png_bytes(overlay(image.pixels, levels, colormap=self.given.colormap))
        )
        self._save_map(f"{name}_map.npy", result)

    def _save_map(self, name: str, result: Result) -> None:
        buffer = io.BytesIO()
        np.save(buffer, result.anomaly_map.numpy().astype(np.float32))
        self._save(name, buffer.getvalue())

    def _save(self, name: str, data: bytes) -> None:
        write_atomic(self.out / name, data)


def _levels(result: Result) -> np.ndarray:
    """The map on the one fixed scale: 0 … 1 for 0 … twice the normal limit."""
    return result.anomaly_map.numpy() / (SCALE_TOP * result.scale)


def _strip(pixels: np.ndarray, results: list[Result], colormap: str) -> np.ndarray:
    """Original, then each method's normalised image, heat map and overlay, side by side."""
    panels = [pixels]
    for result in results:
        levels = _levels(result)
        panels += [
            to_pixels(result.y),
            colorize(levels, colormap),
            overlay(pixels, levels, colormap=colormap),
        ]
    gap = np.full((pixels.shape[0], _GAP, 3), 255, np.uint8)
    spaced = [part for panel in panels for part in (panel, gap)][:-1]
    return np.concatenate(spaced, axis=1)


def _overview(strips: list[np.ndarray], mode: str) -> np.ndarray:
    """The first strips under each other, with a line that names the columns."""
    side, width = strips[0].shape[:2]
    head = Image.new("RGB", (width, 30), "white")
    draw, font = ImageDraw.Draw(head), ImageFont.load_default(size=11)
    titles = [("", "image")]
    titles += [
        (who, what)
        for who in (f"Ano-Unet, {mode}", "AnoGAN")
        for what in ("as normal", "heat map", "overlay")
    ]
    for column, (who, what) in enumerate(titles):
        left = column * (side + _GAP)
        draw.text((left, 1), who if what == "as normal" else "", fill="black", font=font)
        draw.text((left, 15), what, fill="black", font=font)
    gap = np.full((_GAP, width, 3), 255, np.uint8)
    return np.concatenate([np.asarray(head), *(part for strip in strips for part in (strip, gap))][:-1])


def _row(result: Result) -> dict[str, Any]:
    last = {name: _number(values[-1]) for name, values in result.losses.items() if name in ("L_R", "L_C")}
    return {
        "score": _number(result.score),
        "threshold": _number(result.threshold),
        "verdict": result.verdict,
        "L_R": last.get("L_R", ""),
        "L_C": last.get("L_C", ""),
        "seconds": _number(result.seconds),
    }


def _number(value: float) -> float:
    return float(f"{value:.6g}")


def _distinct_names(files: list[Path]) -> dict[Path, str]:
    """File → name of its results: its own without the ending, numbered where two would be the same."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        name, number = file.stem, 2
        while {name, f"{name}_anogan"} & taken:  # "x_anogan.png" must not take the name of x.png's rival
            name, number = f"{file.stem}-{number}", number + 1
        taken |= {name, f"{name}_anogan"}
        names[file] = name
    return names
