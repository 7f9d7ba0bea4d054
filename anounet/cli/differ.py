"""`differ`: images and a few reference images in; what is unlike them out, in `visualize`'s files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anounet import difference
from anounet.ano_unet import Settings
from anounet.anomaly_map import COLORMAPS
from anounet.cli.common import add_bundle, add_common, add_fresh, add_settings
from anounet.cli.visualize import Run
from anounet.difference import MOST, PLACES, References, learn
from anounet.images import Decoded, ImageError, decode_file, image_files, to_tensor
from anounet.training import images_sha256
from anounet.visualization import Result, drain


def add_commands(commands: Any) -> None:
    text = "where images differ from a few reference images; nothing is trained"
    parser = commands.add_parser("differ", help=text, description=text)
    parser.add_argument("paths", nargs="+", metavar="IMAGE", help="images, or folders of images")
    parser.add_argument(
        "--like",
        nargs="+",
        required=True,
        metavar="REFERENCE",
        help=f"what they should look like: 1 to {MOST} images, or a folder of so many",
    )
    add_bundle(parser)
    parser.add_argument(
        "--place",
        choices=PLACES,
        default=PLACES[0],
        help="what a patch may be like: a patch of any place of the references, or of the same place, for "
        f"parts that lie alike (default: {PLACES[0]})",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    add_settings(parser, Settings, {"steps": "updates of G for each image"})
    parser.add_argument("--colormap", choices=COLORMAPS, default="inferno", help="default: inferno")
    add_fresh(parser)
    add_common(parser)
    parser.set_defaults(run=run_differ)


def run_differ(given: argparse.Namespace) -> int:
    return _Differ(given).each()


class _Differ(Run):
    """One batch against the same references; a reference that cannot be read ends it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._open(given)
        self.settings = replace(
            difference.SETTINGS, **({} if given.steps is None else {"steps": given.steps})
        )
        self.bundle.require_identity()
        self.map = "distance"
        self.references = self._learned(image_files(given.like))
        self.out.mkdir(parents=True, exist_ok=True)

    def _learned(self, files: list[Path]) -> References:
        difference.check_count(len(files))
        x = [decode_file(path, self.bundle.size).pixels for path in files]
        self.like = images_sha256(torch.from_numpy(np.stack(x)))
        for progress in learn(to_tensor(x), self.bundle.f_net, self.given.place):
            self.progress.update("references", progress.done, progress.total)
        self.progress.close()
        return progress.references

    def _depends_on(self) -> dict[str, Any]:
        return super()._depends_on() | {"like": self.like}

    def _kind(self) -> dict[str, Any]:
        return {"references": self.references.centers.count, "place": self.given.place}

    def _row(self, result: Result) -> dict[str, Any]:
        return super()._row(result) | {"verdict": difference.told(result)}

    def _results(self) -> Iterator[tuple[Path, Decoded | ImageError, Result | ValueError | ArithmeticError]]:
        for path, image in self._images():
            if isinstance(image, ImageError):
                yield path, image, image
                continue
            try:
                yield path, image, self._differ(to_tensor(image.pixels)[0])
            except (ImageError, ArithmeticError) as error:
                yield path, image, error

    def _differ(self, x: Tensor) -> Result:
        return drain(difference.differ(x, self.references, self.bundle, self.settings))
