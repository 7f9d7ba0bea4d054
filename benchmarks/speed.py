"""Seconds, peak memory and pixel AUROC of every mode and of the rivals, on the same test images in one run.

    python -m anounet bench speed [--bundle NAME] [--images N] [--methods instant fast …] [--json FILE]

Every method runs in a process of its own, so that its peak memory is its own; what it loads is part of it.
Times are computing alone (no decoding, no writing), after a warm-up: of one image at a time, and of the
best of a few batches, the images being shown again until one is full. What takes less than a tenth of a
second an image is taken several times over, and the median counts. `fast` gives each core an image,
`article` uses all cores for one; nearest patch remembers 10,000 patches of a coreset, whose making is not
timed. The images are the test split of the bundle's class, which no setting was chosen on; all figures pool
all pixels, good images included: AUROC of the bare map abs(x − y) and of the same smoothed by 2 px, for
every method alike, and AUROC and AP of the method's own map.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from anounet import visualization
from anounet.anogan import SearchSettings
from anounet.anomaly_map import residual_map, smooth
from anounet.bundle import RIVALS, SHIPPED, Bundle, load_bundle, read_info
from anounet.cli.common import modes_of, table
from anounet.datasets import open_set
from anounet.experiments import TITLES
from anounet.metrics import pixel_auroc, pixel_average_precision
from anounet.nearest_patch import build_memory, maps
from anounet.prepare import choice_of, read_normals
from anounet.storage import write_json
from anounet.visualization import Result, drain, visualize_many, visualize_rival

# Method → batches to try beside one image at a time; the fastest is shown.
BATCHES = {
    "instant": (8, 16, 32),
    "instant-bfloat16": (8, 16, 32),
    "refined": (0,),  # 0: as many at a time as `visualize_many` takes by itself
    "fast": (0,),
    "fast-local": (0,),
    "nearest": (8, 32),
    "anogan": (16,),
    "f-anogan": (8, 32),
    "decoder": (8, 32),
    "article": (),
}
METHODS = tuple(BATCHES)
NEEDS = {"instant-bfloat16": "instant", "refined": "instant", "fast-local": "fast", "nearest": "fast"}
NAMES = {
    **TITLES,
    "instant-bfloat16": "instant, bfloat16",
    "refined": "instant, 10 refining steps",
    "fast-local": "fast, local C",
    "nearest": "nearest patch",
}
QUICK, ROUNDS = 0.1, 5  # seconds an image under which a measurement is repeated, and how often
REFINING, REMEMBERED = 10, 10_000
SMOOTHING = 2.0
Maps = tuple[torch.Tensor | None, torch.Tensor]  # y (B, 3, H, W), if there is one, and the method's own map


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m anounet bench speed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bundle", default=SHIPPED, metavar="NAME", help=f"default: {SHIPPED}")
    parser.add_argument(
        "--images", type=int, default=12, metavar="N", help="a third of them good (default: 12)"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=None, help="default: those the bundle has"
    )
    parser.add_argument("--device", default=None, help="default: cuda where there is one")
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write the figures to FILE too"
    )
    parser.add_argument("--one", choices=METHODS, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.images < 3:
        raise ValueError(f"A benchmark needs 3 images or more (one of them good), not {given.images}.")
    if given.one:
        print(json.dumps(measure(given.one, given.bundle, given.images, given.device)))
        return 0
    there = modes_of(read_info(given.bundle)["files"])
    measured = []
    for method in given.methods or [m for m in METHODS if NEEDS.get(m, m) in there]:
        print(f"measuring {method} …", file=sys.stderr, flush=True)
        measured.append(_in_own_process(method, given))
    print(report(measured))
    if given.json:
        write_json(given.json, {"date": date.today().isoformat(), "machine": machine(), "methods": measured})
    return 0


def _in_own_process(method: str, given: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "anounet", "bench", "speed", "--one", method]
    command += ["--bundle", given.bundle, "--images", str(given.images)]
    command += ["--device", given.device] if given.device else []
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ValueError(f"Measuring {method} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def test_images(bundle: Bundle, count: int) -> tuple[torch.Tensor, np.ndarray]:
    """(x, masks): a third of `count` good, the others showing each kind of defect in turn."""
    choice = choice_of(dict(bundle.info))
    images = open_set(choice.data, "test")
    good = images.where(choice.normal, defective=False)[: count // 3]
    bad = images.where(choice.normal, defective=True)[: count - len(good)]
    masks = images.masks(good + bad, bundle.size)
    if len(good) + len(bad) < count or masks is None or not masks.any():
        raise ValueError(
            f"The test split of '{choice.data}' has no {count} images of '{choice.normal}' with masks."
        )
    return torch.cat(list(images.batches(good + bad, bundle.size))), masks


def measure(method: str, name: str, count: int, device: str | None) -> dict[str, Any]:
    """One method's row: seconds per image, peak memory, pixel AUROC bare and smoothed, pixel AP smoothed."""
    bundle = load_bundle(name, device)
    x, masks = test_images(bundle, count)
    run, settings = runner(method, bundle)
    list(run(x[:1], 2))  # warm-up: libraries choose their kernels
    alone = seconds(lambda: run(x[:1], None), 1, bundle)
    batches = {1: alone} if not BATCHES[method] else {}
    for batch in BATCHES[method]:
        shown = x.repeat(-(-batch // len(x)), 1, 1, 1)[:batch] if batch else x
        with patch.object(visualization, "instant_batch", lambda bundle, batch=batch: batch or 1):
            batches[batch] = seconds(lambda shown=shown: run(shown, None), len(shown), bundle)
    best = min(batches, key=batches.get)
    found = list(run(x, None))
    y, own = found[0][0], torch.cat([maps for _, maps in found]).numpy()
    row = {
        "method": method,
        "settings": settings,
        "images": count,
        "seconds_alone": alone,
        "seconds": batches[best],
        "batch": best,
        "peak_mb": _peak_megabytes(bundle.device),
        "device": torch.cuda.get_device_name() if bundle.device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "pixel_auroc": pixel_auroc(own, masks),
        "pixel_ap": pixel_average_precision(own, masks),
    }
    if y is not None:
        bare = residual_map(x, torch.cat([images for images, _ in found]))
        smoothed = smooth(bare, SMOOTHING * bundle.size / 96).numpy()
        row["pixel_auroc_bare"] = pixel_auroc(bare.numpy(), masks)
        row["pixel_auroc_smoothed"] = pixel_auroc(smoothed, masks)
    return row


def seconds(run: Callable[[], Iterable[Maps]], count: int, bundle: Bundle) -> float:
    """Seconds an image of a run over `count` images: the median of several where one is short."""
    taken: list[float] = []
    while len(taken) < (ROUNDS if not taken or taken[0] < QUICK else 1):
        start = time.perf_counter()
        for _ in run():
            pass
        if bundle.device.type == "cuda":
            torch.cuda.synchronize(bundle.device)
        taken.append((time.perf_counter() - start) / count)
    return statistics.median(taken)


def runner(method: str, bundle: Bundle) -> tuple[Callable[[torch.Tensor, int | None], Iterable[Maps]], str]:
    """What a method makes of images, with its own number of steps or so many; its settings in words."""
    if method == "nearest":
        normals = read_normals(choice_of(dict(bundle.info)))
        memory = build_memory(bundle.f_net, normals.pixels[normals.fit], count=REMEMBERED)

        def near(x: torch.Tensor, steps: int | None) -> Iterable[Maps]:
            distances = maps(x.to(bundle.device), bundle.f_net, memory)
            yield None, smooth(distances, SMOOTHING * bundle.size / 96).cpu()

        return near, f"coreset of {len(memory.memory):,} patches of {len(normals.fit)} images"
    if method in RIVALS:
        anogan = method == "anogan"

        def rival(x: torch.Tensor, steps: int | None) -> Iterable[Maps]:
            search = SearchSettings(steps=steps) if anogan and steps else SearchSettings() if anogan else None
            return map(_maps, drain(visualize_rival(method, x, bundle, search)))

        return rival, f"{SearchSettings.steps} latent steps" if anogan else "one pass"
    mode = NEEDS.get(method, method)
    own = {
        "instant-bfloat16": {"precision": "bfloat16"},
        "refined": {"steps": REFINING},
        "fast-local": {"center": "local"},
    }.get(method, {})
    settings = bundle.settings(mode, **own)

    def ours(x: torch.Tensor, steps: int | None) -> Iterable[Maps]:
        chosen = replace(settings, steps=min(steps or settings.steps, settings.steps))
        return map(_maps, visualize_many(x, bundle, chosen))

    return ours, f"β {settings.beta:g}, {settings.steps} steps" if settings.steps else "one pass"


def _maps(result: Result) -> Maps:
    return result.y[None], result.anomaly_map[None]


def _peak_megabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def machine() -> str:
    return f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def report(measured: list[dict[str, Any]]) -> str:
    """Ratios first: how many times slower than the first method, then the figures themselves."""
    first = measured[0]["seconds"]
    rows = [
        {
            "method": NAMES.get(m["method"], m["method"]),
            "times slower": f"{m['seconds'] / first:,.{1 if m['seconds'] < 10 * first else 0}f}×",
            "s/image, one at a time": f"{m['seconds_alone']:.3g}",
            "best batch": f"{m['seconds']:.3g}",
            "of": m["batch"] or "a core each",
            "peak MB": f"{m['peak_mb']:.0f}",
            "pixel AUROC, bare abs(x − y)": _figure(m, "pixel_auroc_bare"),
            "smoothed": _figure(m, "pixel_auroc_smoothed"),
            "its own map": _figure(m, "pixel_auroc"),
            "pixel AP of it": _figure(m, "pixel_ap"),
            "settings": m["settings"],
        }
        for m in measured
    ]
    head = f"{date.today()}, {measured[0]['images']} test images, {measured[0]['device']}, {machine()}"
    return f"{head}\n\n{table(rows)}"


def _figure(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.3f}" if name in row else "–"


if __name__ == "__main__":
    sys.exit(main())
