"""Where the time goes, part by part, and how far that is from what the hardware can do.

    python -m anounet bench floor [--bundle NAME] [--batches 1 32] [--threads N] [--device NAME]

The floor is the part's operations (multiply and add are two; `torch.utils.flop_counter` counts the
convolutions and matrix products that really run) over the peak that a large matrix product reaches here, in
the same run and with as many threads; a large convolution's peak is printed beside it. The parts are timed
alone, the best of several; their sum is not quite the whole, which is timed too. Two steps of `fast` and of
`article` mode are two forward and backward passes and updates, and a last forward pass. On a CPU `fast` has
one thread for an image, so its floor is right with `--threads 1`; on a GPU all images of a batch take their
step at once.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from anounet import ano_unet, visualization
from anounet.anomaly_map import map_set
from anounet.bundle import SHIPPED, Bundle, load_bundle
from anounet.cli.common import table
from anounet.local_centers import patches, seen_distances
from anounet.training import mixed_precision
from anounet.visualization import parts_for, visualize_many

ROUNDS, LONG = 9, 1.0  # a part is timed so often, or once where it takes so many seconds
STEPPED = ("fast", "article")
Parts = dict[str, Callable[[], object]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m anounet bench floor", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bundle", default=SHIPPED, metavar="NAME", help=f"default: {SHIPPED}")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], metavar="N")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="default: PyTorch's number")
    parser.add_argument("--device", default=None, help="default: cuda where there is one")
    given = parser.parse_args(arguments)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    bundle = load_bundle(given.bundle, given.device)
    peaks = {dtype: peaks_of(dtype, bundle.device) for dtype in (torch.float32, torch.bfloat16)}
    products = {dtype: peak["matrix product"] for dtype, peak in peaks.items()}
    rows = [row for count in given.batches for row in profile(bundle, count, products)]
    shown = "; ".join(
        f"{str(dtype).split('.')[1]} "
        + ", ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in both.items())
        for dtype, both in peaks.items()
    )
    print(
        f"{date.today()}, {bundle.device}, {platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} of {os.cpu_count()} cores, '{bundle.name}' at {bundle.size} px; "
        f"measured peaks: {shown}\n\n{table(rows)}"
    )
    return 0


def peaks_of(dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """GFLOP/s that a large matrix product and a large convolution reach."""
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    x = torch.randn(16, 128, 48, 48, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    kernel = (
        torch.randn(128, 128, 3, 3, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    )
    products: Parts = {
        "matrix product": lambda: a @ b,
        "convolution": lambda: torch.conv2d(x, kernel, padding=1),
    }
    return {name: operations(run) / milliseconds(run, device) / 1e6 for name, run in products.items()}


def profile(bundle: Bundle, count: int, peaks: dict[torch.dtype, float]) -> list[dict[str, Any]]:
    """A row for each part of `instant` mode on a batch of `count` images, and for the whole of it."""
    x = torch.rand(count, 3, bundle.size, bundle.size, generator=torch.Generator().manual_seed(0))
    rows = []
    for name, run, dtype in _parts(bundle, x):
        with torch.set_grad_enabled("steps" in name):
            ms = milliseconds(run, bundle.device) / count
            # The whole runs on threads of its own, where nothing is counted: here once more without them.
            counted = partial(visualization._instant, x, bundle, bundle.settings("instant"))
            work = operations(counted if "whole" in name else run) / count / 1e6
            floor = work / peaks[dtype]
            rows.append(
                {
                    "batch": count,
                    "part": name,
                    "ms/image": f"{ms:.2f}",
                    "MFLOP/image": f"{work:.0f}",
                    "GFLOP/s": f"{work / ms:.0f}",
                    "floor, ms": f"{floor:.2f}",
                    "times the floor": f"{ms / floor:.2f}" if work > 1 else "–",
                }
            )
    return rows


def _parts(bundle: Bundle, x: Tensor) -> list[tuple[str, Callable[[], object], torch.dtype]]:
    """(name, what runs, the type that its peak is of); the last ones are the whole."""
    f_net, local, g = bundle.f_net, bundle.require_local(), bundle.require_instant()
    device, settings = bundle.device, bundle.settings("instant")
    on_device = x.to(device).contiguous(memory_format=torch.channels_last)
    features = patches(on_device, f_net, local.settings)
    seen = seen_distances(local.distance(features), local.tau, x.shape[-1])
    evidence = ano_unet.redraw(x, f_net, local, g)

    def drawn(precision: str) -> object:
        with mixed_precision(device) if precision == "bfloat16" else nullcontext():
            return g(on_device, seen)

    def whole(precision: str) -> object:
        with patch.object(visualization, "instant_batch", lambda bundle: len(x)):
            chosen = bundle.settings("instant", precision=precision)
            return list(visualize_many(iter(x), bundle, chosen, workers=torch.get_num_threads()))

    def steps(mode: str) -> object:
        chosen = bundle.settings(mode, steps=2, stop=0.0)
        return list(ano_unet.reconstruct(x, f_net, *parts_for(bundle, chosen)))

    f32, bf16 = torch.float32, torch.bfloat16
    found = [
        ("features of F, blocks 0 to 13 (twice)", lambda: patches(on_device, f_net, local.settings), f32),
        ("distances to the centres (twice)", lambda: local.distance(features), f32),
        ("U-Net", lambda: drawn("float32"), f32),
        ("U-Net, bfloat16", lambda: drawn("bfloat16"), bf16),
        ("maps", lambda: map_set(x, evidence.y, evidence, settings.smoothing), f32),
        ("the whole", lambda: whole("float32"), f32),
        ("the whole, U-Net in bfloat16", lambda: whole("bfloat16"), f32),
    ]
    if len(x) == 1 or device.type == "cuda":
        found += [(f"two steps of {mode} mode", lambda mode=mode: steps(mode), f32) for mode in STEPPED]
    return found


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """The best of several calls, after two that are not counted: other work only adds time."""
    times: list[float] = []
    while len(times) < 2 + (1 if times and times[-1] > LONG else ROUNDS):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 1000 * min(times[2:])


if __name__ == "__main__":
    sys.exit(main())
