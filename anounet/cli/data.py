"""`samples`, `datasets`, `download` and `bundles`: what there is, and test images to try things on."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np

from anounet.bundle import bundle_names, read_info
from anounet.cli.common import Progress, modes_of, report, table
from anounet.datasets import SPLITS, DataError, ImageSet, TextureSet, discover, find, open_set
from anounet.datasets.download import FOLDER, SIZES, download
from anounet.images import check_size, png_bytes
from anounet.storage import WeightsError, write_atomic


def add_commands(commands: Any) -> None:
    samples = commands.add_parser("samples", help="test images and their masks, to try things on")
    samples.add_argument("--data", default="textures", metavar="DATASET", help="default: textures")
    samples.add_argument("--normal", metavar="CLASS", help="class to draw from (default: streaks, or all)")
    samples.add_argument("--count", type=int, default=16, metavar="N", help="images, half of them defective")
    samples.add_argument("--split", choices=SPLITS, default="test", help="default: test")
    samples.add_argument("--size", type=int, default=96, metavar="N", help="side in pixels (default: 96)")
    samples.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the images")
    samples.set_defaults(run=run_samples)
    for name, run, text in (
        ("datasets", run_datasets, "the data sets that can be used here"),
        ("bundles", run_bundles, "the bundles in weights/"),
    ):
        parser = commands.add_parser(name, help=text)
        parser.set_defaults(run=run)
        parser.add_argument("--json", action="store_true", help="print the report as JSON")
    fetch = commands.add_parser(
        "download", help="CIFAR-10 or Fashion-MNIST, from where torchvision gets them"
    )
    fetch.add_argument("name", choices=SIZES, help="the data set")
    fetch.add_argument("--to", type=Path, metavar="DIR", help=f"folder of data sets (default: {FOLDER})")
    fetch.set_defaults(run=run_download)
    for parser in (samples, fetch):
        parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run_samples(given: argparse.Namespace) -> int:
    """Writes NAME.png, masks/NAME_mask.png and samples.csv (file, class, defect, mask)."""
    check_size(given.size)
    if given.count < 1:
        raise ValueError(f"The number of samples must be 1 or more, not {given.count}.")
    if given.data == TextureSet.name:  # drawn on demand: as many as are asked for
        images = TextureSet(given.split, given.count)
    else:
        images = open_set(given.data, given.split)
    normal = given.normal or ("streaks" if given.data == "textures" else None)
    normal = normal and images.class_named(normal)
    bad = images.where(normal, defective=True)
    good = images.where(normal, defective=False)
    wanted_bad = min(len(bad), given.count // 2)
    chosen = sorted(bad[:wanted_bad] + good[: given.count - wanted_bad])
    if len(chosen) < given.count:
        what = f"{given.data}, {given.split}" + (f", class {normal}" if normal else "")
        raise ValueError(f"There are only {len(chosen)} such images in {what}: ask for fewer.")
    rows = []
    for index in chosen:
        item = images.items[index]
        name = item.name.replace("/", "_").rsplit(".", 1)[0]
        write_atomic(given.out / f"{name}.png", png_bytes(images.pixels(index, given.size)))
        mask, mask_name = images.mask(index, given.size), ""
        if mask is not None:
            mask_name = f"masks/{name}_mask.png"
            write_atomic(given.out / mask_name, png_bytes(mask.astype(np.uint8) * 255))
        rows.append(
            {"file": f"{name}.png", "class": item.class_name, "defect": item.defect, "mask": mask_name}
        )
    with (given.out / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    report(
        given, {"out": str(given.out), "samples": rows}, f"{len(rows)} images and their masks in {given.out}"
    )
    return 0


def run_datasets(given: argparse.Namespace) -> int:
    columns = ("kind", "where", "classes", *SPLITS, "defective", "masks", "error")
    rows = []
    for found in discover():
        row = {"name": found.name} | dict.fromkeys(columns)
        row |= {"where": "embedded" if found.path is None else str(found.path), "error": ""}
        try:
            row |= _described({split: found.open(split) for split in SPLITS})
        except DataError as error:  # one damaged set does not hide the others
            row["error"] = str(error)
        rows.append(row)
    report(given, rows, table(rows))
    return 0


def run_download(given: argparse.Namespace) -> int:
    """Fetches a data set that is not here yet, or goes on where that was broken off."""
    there = None if given.to else find(given.name)
    if there is not None:
        report(given, {"name": given.name, "where": str(there)}, f"{given.name} is here already: {there}")
        return 0
    progress, folder = Progress(), given.to or FOLDER
    try:
        for fetched in download(given.name, folder):
            progress.update(f"{fetched.file} (kB)", fetched.done // 1000, fetched.total // 1000)
    finally:
        progress.close()
    where = str(folder / given.name)
    report(given, {"name": given.name, "where": where}, f"{given.name} is in {where}")
    return 0


def _described(splits: dict[str, ImageSet]) -> dict[str, Any]:
    """What a data set holds: its layout, classes, images in each split, how many of all are defective."""
    defective = sum(len(images.where(defective=True)) for images in splits.values())
    return {
        "kind": splits["train"].kind,
        "classes": ", ".join(splits["train"].classes),
        **{split: len(images) for split, images in splits.items()},
        "defective": defective,
        "masks": "yes" if defective and all(images.has_masks for images in splits.values()) else "no",
    }


def run_bundles(given: argparse.Namespace) -> int:
    rows = []
    for name in bundle_names():
        try:
            info = read_info(name)
            rows.append(
                {
                    "name": name,
                    "data": info.get("data"),
                    "normal": info.get("normal"),
                    "size": info["size"],
                    "modes": ", ".join(modes_of(info["files"])) or "none yet",
                    "files": ", ".join(info["files"]),
                    "error": "",
                }
            )
        except WeightsError as error:  # one damaged bundle does not hide the others
            rows.append(
                dict.fromkeys(("name", "data", "normal", "size", "modes", "files"))
                | {"name": name, "error": str(error)}
            )
    report(given, rows, table(rows))
    return 0
