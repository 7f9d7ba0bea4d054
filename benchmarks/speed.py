"""Seconds, peak memory and pixel AUROC of every mode and of the rivals, on the same test images in one run.

    python -m anounet bench speed [--bundle NAME] [--images N] [--methods instant fast …] [--json FILE]

Every method runs in a process of its own, so that its peak memory is its own. Times are computing alone
(no decoding, no writing), after a warm-up, for all the images together: AnoGAN searches for a batch at once,
f-AnoGAN and the decoder take a batch in one pass and `instant` eight images (all of them five times over, it
is so short), `fast` gives each core an image, `article` uses all cores for one. The images are the test split
of the bundle's class, which no setting was chosen on; all figures pool all pixels, good images included:
AUROC of the bare map abs(x − y) and of the same smoothed by 2 px, for every method alike, and AUROC and AP of
the method's own map.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anounet.anogan import SearchSettings
from anounet.anomaly_map import smooth
from anounet.bundle import RIVALS, SHIPPED, Bundle, load_bundle, read_info
from anounet.cli.common import modes_of, table
from anounet.datasets import open_set
from anounet.metrics import pixel_auroc, pixel_average_precision
from anounet.prepare import choice_of
from anounet.storage import write_json
from anounet.visualization import Result, drain, visualize_many, visualize_rival

METHODS = ("instant", "fast", *RIVALS, "article")
QUICK = ("instant", "f-anogan", "decoder")  # one pass, so short that it is taken five times
SMOOTHING = 2.0
RIVAL_BATCH = 16


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
    for method in given.methods or [method for method in METHODS if method in there]:
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
    run(method, bundle, x[:1], steps=2)  # warm-up: libraries choose their kernels
    before = _peak_megabytes()
    rounds = 5 if method in QUICK else 1
    start = time.perf_counter()
    for _ in range(rounds):
        results = run(method, bundle, x)
    seconds = (time.perf_counter() - start) / (count * rounds)
    bare = torch.stack([(r.x - r.y).abs().mean(dim=0) for r in results])
    smoothed = smooth(bare, SMOOTHING * bundle.size / 96).numpy()
    own = torch.stack([r.anomaly_map for r in results]).numpy()
    on_gpu = bundle.device.type == "cuda"
    return {
        "method": method,
        "settings": _described(method, bundle),
        "images": count,
        "seconds": seconds,
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else _peak_megabytes(),
        "loaded_mb": before,
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "threads": torch.get_num_threads(),
        "pixel_auroc_bare": pixel_auroc(bare.numpy(), masks),
        "pixel_auroc_smoothed": pixel_auroc(smoothed, masks),
        "pixel_auroc": pixel_auroc(own, masks),
        "pixel_ap": pixel_average_precision(own, masks),
    }


def run(method: str, bundle: Bundle, x: torch.Tensor, steps: int | None = None) -> list[Result]:
    """The method's Results for the images, with its own number of steps or with `steps`."""
    if method in RIVALS:
        search = SearchSettings() if steps is None else SearchSettings(steps=steps)
        return [
            result
            for batch in x.split(RIVAL_BATCH)
            for result in drain(visualize_rival(method, batch, bundle, search))
        ]
    settings = bundle.settings(method, steps=None if method == "instant" else steps)
    return list(visualize_many(x, bundle, settings))


def _described(method: str, bundle: Bundle) -> str:
    if method == "anogan":
        return f"{SearchSettings.steps} latent steps, batches of {RIVAL_BATCH}"
    if method in RIVALS:
        return f"one pass, batches of {RIVAL_BATCH}"
    settings = bundle.settings(method)
    if method == "instant":
        return "one pass, batches of 8"
    return f"β {settings.beta:g}, {settings.steps} steps"


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def machine() -> str:
    return f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def report(measured: list[dict[str, Any]]) -> str:
    """Ratios first: how many times slower than the first method, then the figures themselves."""
    first = measured[0]["seconds"]
    rows = [
        {
            "method": m["method"],
            "times slower": f"{m['seconds'] / first:.1f}×",
            "s/image": f"{m['seconds']:.3g}",
            "peak MB": f"{m['peak_mb']:.0f}",
            "pixel AUROC, bare abs(x − y)": f"{m['pixel_auroc_bare']:.3f}",
            "smoothed": f"{m['pixel_auroc_smoothed']:.3f}",
            "its own map": f"{m['pixel_auroc']:.3f}",
            "pixel AP of it": f"{m['pixel_ap']:.3f}",
            "settings": m["settings"],
        }
        for m in measured
    ]
    head = f"{date.today()}, {measured[0]['images']} test images, {measured[0]['device']}, {machine()}"
    return f"{head}\n\n{table(rows)}"


if __name__ == "__main__":
    sys.exit(main())
