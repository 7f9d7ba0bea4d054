"""`visualize` and `compare`: images in; heat maps, normalised images, scores.csv and regions.csv out."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from anounet import ano_unet
from anounet.anogan import SearchSettings
from anounet.anomaly_map import COLORMAPS, MAPS
from anounet.bundle import RIVALS, USUAL_MAP, Bundle, load_bundle
from anounet.cli.common import (
    Progress,
    add_bundle,
    add_common,
    add_fresh,
    add_settings,
    device_of,
    report,
    settings_from,
    table,
)
from anounet.cli.ledger import Ledger, write_parquet
from anounet.cli.pipeline import AHEAD, WRITERS, Done, decoded, in_order, results
from anounet.cli.writing import (
    COLUMNS,
    ENDS,
    Writer,
    distinct_names,
    named,
    overview,
    row_of,
    six_digits,
    strip,
)
from anounet.experiments import TITLES
from anounet.explore import way
from anounet.film import film_settings, moving_picture, record, spaced
from anounet.images import Decoded, ImageError, decode_file, image_files, png_bytes
from anounet.storage import file_sha256
from anounet.visualization import Result, drain, visualize_rival

BATCH = 16  # images that a rival gets at a time
OVERVIEW_ROWS = 8


def add_commands(commands: Any) -> None:
    for name, run, text in (
        ("visualize", run_visualize, "heat map, normalised image and score of every image"),
        ("compare", run_compare, "the same, with the rivals' beside it: AnoGAN, f-AnoGAN, the decoder"),
    ):
        parser = commands.add_parser(name, help=text, description=text)
        parser.add_argument("paths", nargs="+", metavar="PATH", help="images, or folders of images")
        add_bundle(parser)
        parser.add_argument(
            "--mode",
            choices=ano_unet.MODES,
            default=None,
            help="default: instant where the bundle has it, else fast",
        )
        parser.add_argument(
            "--center",
            choices=ano_unet.CENTERS,
            default=None,
            help="C for every patch, or the article's, one for the image (default: the mode's own)",
        )
        parser.add_argument(
            "--map",
            choices=MAPS,
            default=None,
            help="which map is written, drawn and cut into regions (default: the mode's own, combined for "
            "local centres, residual else)",
        )
        parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
        add_settings(
            parser,
            ano_unet.Settings,
            {
                "beta": "β, the weight of L_C, for means; the mode's and the bundle's own default may differ",
                "steps": "updates of G for each image, in instant mode refining ones; likewise",
                "learning_rate": "learning rate; likewise",
                "smoothing": "σ of the Gaussian over the map, px at a side of 96",
                "slack": "of a global C: F asks for no more than this quantile of normal images",
                "seed": "seed of G's random start in article mode",
                "stop": "an image's steps end where the last five took no more than this share off L of all "
                "that was taken off it; 0: never; the mode's own default may differ",
                "precision": "of the instant U-Net's one pass: float32, or bfloat16, faster where the "
                "hardware has it",
            },
        )
        parser.add_argument(
            "--gate",
            action="store_true",
            help="map only images that the score calls anomalous; in instant mode refine only those",
        )
        parser.add_argument("--colormap", choices=COLORMAPS, default="inferno", help="default: inferno")
        if name == "visualize":
            parser.add_argument(
                "--film",
                action="store_true",
                help="NAME_film.webp too: about 20 steps of the optimisation, which is run anew for it; of "
                "instant mode's single pass, fast mode's with the same C",
            )
            _add_engine(parser)
        else:
            parser.add_argument(
                "--rivals",
                nargs="+",
                choices=tuple(RIVALS),
                default=None,
                help="which are beside it (default: those the bundle has)",
            )
            parser.add_argument(
                "--search-steps",
                type=int,
                default=None,
                metavar="N",
                help=f"AnoGAN's latent steps (default: {SearchSettings.steps})",
            )
            parser.add_argument(
                "--search-restarts",
                type=int,
                default=None,
                metavar="N",
                help=f"AnoGAN's starts of z for each image (default: {SearchSettings.restarts})",
            )
        add_fresh(parser)
        add_common(parser)
        parser.set_defaults(run=run)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=("process", "ray"),
        default="process",
        help="what redraws the images: this process, or actors of Ray on this machine or many, which needs "
        "anounet[cluster] and reads s3:// and gs:// too: see docs/MANY_MACHINES.md (default: process)",
    )
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="with --engine ray: the cluster, auto or HOST:PORT (default: one of this machine's own)",
    )
    parser.add_argument(
        "--actors",
        type=int,
        metavar="N",
        help="with --engine ray: processes that redraw (default: one a GPU, or without any one a core)",
    )
    parser.add_argument(
        "--files",
        metavar="ADDRESS",
        help="with --engine ray: where in an object store the images' files go (default: --out, where the "
        "tables always are)",
    )
    parser.add_argument(
        "--rows",
        choices=("csv", "parquet"),
        default="csv",
        help="parquet: scores.parquet and regions.parquet too, beside the CSV (default: csv)",
    )


def run_visualize(given: argparse.Namespace) -> int:
    if given.engine == "ray":
        if given.film:
            raise ValueError("--film is of --engine process alone: leave one of them out.")
        return _ray_engine().RayRun(given).each()
    named = [f"--{flag}" for flag in ("address", "actors", "files") if getattr(given, flag) is not None]
    if named:
        raise ValueError(f"{named[0]} is of --engine ray alone: add that, or leave it out.")
    return Run(given).each()


def _ray_engine() -> ModuleType:
    try:
        from anounet.cli import ray_engine  # here, since whoever does not ask for it need not have Ray
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "anounet":
            raise
        raise ValueError(
            f"--engine ray needs Ray, and '{error.name}' is missing: install it with "
            "pip install 'anounet[cluster]' (in a clone: pip install -e '.[cluster]')."
        ) from error
    return ray_engine


def run_compare(given: argparse.Namespace) -> int:
    return Run(given, compare=True).each()


class Run:
    """One batch: streams the files, so that memory does not grow with their number."""

    def __init__(self, given: argparse.Namespace, compare: bool = False) -> None:
        self._open(given)
        # The article's C belongs to no instant net: who asks for it and for no mode means fast.
        mode = given.mode or ("fast" if given.center == "global" else self.bundle.mode)
        base = self.bundle.settings(mode, center=given.center)
        self.settings = settings_from(given, ano_unet.Settings, base)
        self._check_parts()
        self.map = self._map_name()
        if not compare and given.film:
            self.filmed = film_settings(self.bundle, self.settings)
            spaced(self.filmed.steps)  # says so where there are none
            self.bundle.require_center()
        if compare:
            self.rivals = self._chosen_rivals()
            named = {"steps": given.search_steps, "restarts": given.search_restarts}
            self.search = SearchSettings(**{k: v for k, v in named.items() if v is not None})
        self.out.mkdir(parents=True, exist_ok=True)

    def _open(self, given: argparse.Namespace) -> None:
        self.given = given
        self.files = self._listed()
        self.bundle: Bundle = load_bundle(given.bundle, self._device())
        self.rivals: tuple[str, ...] = ()
        self.search: SearchSettings | None = None
        self.filmed: ano_unet.Settings | None = None
        self.out: Path = given.out
        self.names = distinct_names(self.files)
        self.strips: list[np.ndarray] = []
        self.progress = Progress()

    def _listed(self) -> list[Path]:
        return image_files(self.given.paths)

    def _device(self) -> torch.device:
        return device_of(self.given)

    def _check_parts(self) -> None:
        """Says what the bundle lacks before the first image is read."""
        if self.settings.center == "local":
            self.bundle.require_local()
        else:
            self.bundle.require_center()
        if self.settings.mode == "instant":
            self.bundle.require_instant()

    def _chosen_rivals(self) -> tuple[str, ...]:
        """Those asked for, or those there are; says what the bundle lacks before the first image is read."""
        rivals = tuple(dict.fromkeys(self.given.rivals or self.bundle.rivals or ("anogan",)))
        for rival in rivals:
            self.bundle.require_rival(rival)
        return rivals

    def _map_name(self) -> str:
        usual = USUAL_MAP.get(self.settings.method, "residual")
        name = self.given.map or usual
        if name != "residual" and self.bundle.local is None:
            raise ValueError(
                f"The map '{name}' needs local centres, and the bundle '{self.bundle.name}' has none: choose "
                f"--map residual, or run 'python -m anounet center --bundle {self.bundle.name}'."
            )
        return name

    def each(self) -> int:
        """Redraws all images that an earlier run of the same command has not; gives the exit status."""
        columns = (*COLUMNS, *(f"{r}_{what}" for r in self.rivals for what in ("score", "seconds")))
        ledger = Ledger(
            self.out,
            columns,
            self._depends_on(),
            self._is_whole,
            modified=self._modified,
            fresh=self.given.fresh,
        )
        every, kept = [str(path) for path in self.files], ledger.rows
        self.files = [path for path in self.files if str(path) not in kept]
        if kept and self.files:
            self.progress.note(f"{len(kept)} of {len(every)} images are done: going on with the others")
        self.strips = self._earlier_strips(every, kept)
        self.writer = Writer(self.out, self.map, self.given.colormap)
        rows: dict[str, dict[str, Any]] = {}
        start, failed, taken, allowed = time.perf_counter(), 0, 0, 0
        with ledger:
            for done, (row, found) in enumerate(self._rows(), 1):
                ledger.add(row, found)  # what is finished is on disk, whatever comes next
                failed += bool(row["error"])
                if row.get("steps"):
                    taken, allowed = taken + row["steps"], allowed + self.settings.steps
                if self.given.json:
                    rows[row["file"]] = row | {"regions": found}
                elif row["error"]:
                    self.progress.close()
                    print(f"left out: {row['error']}")
                pace = done / (time.perf_counter() - start)
                self.progress.update("images", len(kept) + done, len(every), **{"a second": pace})
        self.progress.close()
        if getattr(self.given, "rows", "csv") == "parquet":
            write_parquet(self.out, columns)
        if self.strips:
            self.writer.save("overview.png", png_bytes(overview(self.strips, self._methods())))
        summary = {
            "images": len(every),
            "done before": len(kept),
            "failed": failed,
            "seconds": round(time.perf_counter() - start, 3),
            **({"steps": f"{taken} of {allowed}"} if allowed else {}),
            "device": self._computed_on(),
            "bundle": self.bundle.name,
            **self._kind(),
            "map": self.map,
            "size": self.bundle.size,
            "out": str(self.out),
        }
        rows |= {file: row | {"regions": ledger.regions.get(file, [])} for file, row in kept.items()}
        scores = [rows[file] for file in every if file in rows]
        report(self.given, summary | {"scores": scores}, table([summary]))
        return 1 if failed else 0

    def _depends_on(self) -> dict[str, Any]:
        """All that the results depend on beside the images, for `run.json`."""
        return {
            "bundle": self.bundle.name,
            "bundle.json": file_sha256(self.bundle.folder / "bundle.json"),  # which names its files' hashes
            "settings": asdict(self.settings),
            **self._kind(),
            "map": self.map,
            "gate": getattr(self.given, "gate", False),
            "colormap": self.given.colormap,
            "size": self.bundle.size,
            "rivals": list(self.rivals),
            "search": asdict(self.search) if self.search else None,
        }

    def _is_whole(self, row: dict[str, Any]) -> bool:
        """Whether all files of an image of an earlier run are there."""
        name = self.names.get(row["file"])
        if name is None:
            return False
        left_out = self._gated and row["verdict"] == "normal"
        needed = [f"{name}_{end}" for end in (*ENDS, *(["film.webp"] if self.filmed else []))]
        if self.rivals:
            needed += [f"{name}_compare.png", *(f"{name}_{rival}_map.npy" for rival in self.rivals)]
        return left_out or all(map(self._is_there, needed))

    def _is_there(self, name: str) -> bool:
        return (self.out / name).is_file()

    def _modified(self, file: str) -> float:
        return os.path.getmtime(file)

    def _computed_on(self) -> str:
        return str(self.bundle.device)

    @property
    def _gated(self) -> bool:
        return getattr(self.given, "gate", False) and self.settings.mode != "instant"

    def _earlier_strips(self, every: list[str], kept: dict[str, Any]) -> list[np.ndarray]:
        """The first rows of the overview, from the pictures of an earlier run."""
        if not self.rivals:
            return []
        names = [self.names[file] for file in every[:OVERVIEW_ROWS] if file in kept]
        paths = [self.out / f"{name}_compare.png" for name in names]
        return [np.asarray(Image.open(path).convert("RGB")) for path in paths]

    def _kind(self) -> dict[str, Any]:
        """What the report says of how the images were redrawn."""
        return {"mode": self.settings.mode, "center": self.settings.center}

    def _rows(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """For each file, in order, its row of scores.csv and its regions."""
        if not self.rivals:
            # Where an image takes long its row waits for no other.
            quick = self.settings.mode == "instant" and not self.settings.steps
            yield from in_order(self._results(), self._written, WRITERS, AHEAD if quick else 0, eager=True)
            return
        rows: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        redrawn: list[tuple[dict[str, Any], Path, Decoded, Result]] = []
        for path, image, result in self._results():
            row, found = self._written((path, image, result))
            rows.append((row, found))
            if isinstance(result, Result) and result.y is not None:
                redrawn.append((row, path, image, result))
            if len(rows) == BATCH:
                self._compare(redrawn)
                yield from rows
                rows, redrawn = [], []
        self._compare(redrawn)
        yield from rows

    def _written(self, done: Done[Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Writes what came out for an image; its row and its regions."""
        path, _, result = done
        row, found = {"file": str(path), "error": ""}, []
        if isinstance(result, Result):
            row |= self._row(result)
            found = self.writer.write(self.names[str(path)], result)
            try:
                if self.filmed is not None and result.y is not None:
                    *_, last = record(result.x, self.bundle, self.filmed)
                    moving = moving_picture(last.film, way(last.film, self.bundle.require_center()))
                    self.writer.save(f"{self.names[str(path)]}_film.webp", moving)
            except ArithmeticError as error:  # the film's optimisation may be another than the result's
                row["error"] = named(error, path)
        else:
            row["error"] = named(result, path)
        return row, found

    def _row(self, result: Result) -> dict[str, Any]:
        return row_of(result)

    def _results(self) -> Iterator[Done[Path]]:
        """Each file, its image and what came out, in order."""
        return results(self._images(), self.bundle, self.settings, gate=self.given.gate)

    def _images(self) -> Iterator[tuple[Path, Decoded | ImageError]]:
        return decoded(self.files, lambda path: decode_file(path, self.bundle.size))

    def _methods(self) -> list[str]:
        """What a strip's columns show, for people."""
        return [f"Ano-Unet, {self.settings.mode}", *(TITLES[rival] for rival in self.rivals)]

    def _compare(self, redrawn: list[tuple[dict[str, Any], Path, Decoded, Result]]) -> None:
        """Asks the rivals for a batch at once, writes their files and completes the rows."""
        if not redrawn:
            return
        x = torch.stack([result.x for *_, result in redrawn])
        answers = [drain(visualize_rival(rival, x, self.bundle, self.search)) for rival in self.rivals]
        for (row, path, image, ours), *theirs in zip(redrawn, *answers, strict=True):
            name = self.names[str(path)]
            for rival in theirs:
                self.writer.save_map(f"{name}_{rival.method}_map.npy", rival, "residual")
                row[f"{rival.method}_score"] = six_digits(rival.score)
                row[f"{rival.method}_seconds"] = six_digits(rival.seconds)
            panels = [(ours, self.map), *((rival, "residual") for rival in theirs)]
            drawn = strip(image.pixels, panels, self.given.colormap)
            self.writer.save(f"{name}_compare.png", png_bytes(drawn))
            if len(self.strips) < OVERVIEW_ROWS:
                self.strips.append(drawn)
