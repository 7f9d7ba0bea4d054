"""How `fast` mode's settings were chosen: variants on the validation split, one table.

    python -m anounet bench settings [--bundle NAME] [--textures NAME …] [--images N] [--trained]

Every texture gets a C of its own from the bundle's F, so that nothing is tuned to the bundle's class alone.
`--trained` adds the small U-Net that was trained to copy (some minutes of training). The test split is not
touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import sys
import time
from datetime import date
from statistics import mean

import numpy as np
import torch

from anounet.ano_unet import Settings, reconstruct
from anounet.anomaly_map import heat_map
from anounet.bundle import SHIPPED, Bundle, load_bundle
from anounet.center import Center
from anounet.cli.common import table
from anounet.datasets import TextureSet
from anounet.identity import UNetSettings, frozen, make_identity
from anounet.metrics import pixel_auroc, pixel_average_precision
from anounet.prepare import DataChoice, identity_images, make_center
from anounet.unet import UNet

TEXTURES = ("streaks", "twill", "wood", "stars")
DEFAULT = Settings()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m anounet bench settings", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bundle", default=SHIPPED, metavar="NAME", help=f"whose F (default: {SHIPPED})")
    parser.add_argument(
        "--textures", nargs="+", default=list(TEXTURES), choices=TextureSet.classes, metavar="NAME"
    )
    parser.add_argument("--images", type=int, default=18, metavar="N", help="of each texture, a third good")
    parser.add_argument("--trained", action="store_true", help="also a U-Net trained to copy")
    parser.add_argument("--device", default=None, help="default: cuda where there is one")
    given = parser.parse_args(arguments)
    bundle = load_bundle(given.bundle, given.device)
    variants = _variants(given.trained, bundle)
    rows = [{"variant": name} for name in variants]
    scores: dict[str, list[tuple[float, float, float]]] = {name: [] for name in variants}
    for texture in given.textures:
        x, masks, center = _case(bundle, texture, given.images)
        for row, (name, (settings, net)) in zip(rows, variants.items(), strict=True):
            print(f"{texture}: {name} …", file=sys.stderr, flush=True)
            figures = _measure(x, masks, bundle, center, settings, net)
            scores[name].append(figures)
            row[texture] = f"{figures[0]:.3f}"
    for row, name in zip(rows, variants, strict=True):
        auroc, ap, seconds = (mean(column) for column in zip(*scores[name], strict=True))
        row |= {"mean pixel AUROC": f"{auroc:.3f}", "mean pixel AP": f"{ap:.3f}", "s/image": f"{seconds:.2f}"}
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {bundle.device}"
    print(f"{date.today()}, validation split, {given.images} images a texture, {machine}\n\n{table(rows)}")
    return 0


def _variants(trained: bool, bundle: Bundle) -> dict[str, tuple[Settings, UNet]]:
    def net(width: int, depth: int) -> UNet:
        return frozen(UNet.identity(width, depth, torch.Generator().manual_seed(0))).to(bundle.device)

    def changed(**changes: float) -> Settings:
        return dataclasses.replace(DEFAULT, **changes)

    usual = net(16, 5)
    variants = {
        f"default: β {DEFAULT.beta:g}, {DEFAULT.steps} steps, rate {DEFAULT.learning_rate:g}": (
            DEFAULT,
            usual,
        ),
        "15 steps": (changed(steps=15), usual),
        "60 steps": (changed(steps=60), usual),
        "rate 1e-3": (changed(learning_rate=1e-3), usual),
        "β 10": (changed(beta=10.0), usual),
        "β 250": (changed(beta=250.0), usual),
        "no smoothing": (changed(smoothing=0.0), usual),
        "smoothing 3 px": (changed(smoothing=3.0), usual),
        "U-Net of 4 levels": (DEFAULT, net(16, 4)),
        "U-Net of half the width": (DEFAULT, net(8, 5)),
    }
    if trained:
        print("training a U-Net to copy …", file=sys.stderr, flush=True)
        for step in make_identity(
            identity_images(DataChoice(), 3000), UNetSettings(start="trained"), bundle.device
        ):
            copying = step.model
        variants[f"U-Net trained to copy (L_R {step.metrics['L_R']:.3f})"] = (
            DEFAULT,
            copying.to(bundle.device),
        )
    return variants


def _case(bundle: Bundle, texture: str, count: int) -> tuple[torch.Tensor, np.ndarray, Center]:
    for progress in make_center(bundle.f_net, DataChoice(normal=texture, size=bundle.size, count=400)):
        center = progress.center
    images = TextureSet("validation")
    chosen = images.where(texture, defective=False)[: count // 3]
    chosen += images.where(texture, defective=True)[: count - len(chosen)]
    return torch.cat(list(images.batches(chosen, bundle.size))), images.masks(chosen, bundle.size), center


def _measure(
    x: torch.Tensor, masks: np.ndarray, bundle: Bundle, center: Center, settings: Settings, net: UNet
) -> tuple[float, float, float]:
    """(pixel AUROC, pixel AP, seconds per image) of one variant on one texture."""
    start, maps = time.perf_counter(), []
    for image in x:
        for step in reconstruct(image[None], bundle.f_net, center, settings, net):
            last = step
        maps.append(heat_map(image[None], last.image, settings.smoothing))
    seconds = (time.perf_counter() - start) / len(x)
    found = torch.cat(maps).numpy()
    return pixel_auroc(found, masks), pixel_average_precision(found, masks), seconds


if __name__ == "__main__":
    sys.exit(main())
