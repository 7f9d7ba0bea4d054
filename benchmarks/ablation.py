"""How the settings of local centres and of the instant U-Net were chosen, on the validation split.

    python -m anounet bench ablation patches [--data textures dagm96/Class4] [--f-net FILE …]
    python -m anounet bench ablation instant [--data …] [--steps N]

`patches` measures the distance map alone (no U-Net), for one change of `PatchSettings` at a time; `instant`
trains the U-Net once for each change of `InstantSettings` or `PasteSettings`, which takes minutes each. Data
is NAME, or NAME/CLASS for one class. Figures are means over the classes of a data set.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anounet import ano_unet
from anounet.anomaly_map import enlarge, map_set, smooth
from anounet.bundle import SHIPPED, load_bundle
from anounet.center import split_held_back
from anounet.cli.common import table
from anounet.datasets import choose, open_set
from anounet.feature_net import BackboneSettings, FeatureNet
from anounet.instant import InstantSettings, train_instant
from anounet.local_centers import LocalCenters, PatchSettings, compute_local_centers, patches
from anounet.metrics import aupro, image_auroc, pixel_auroc, pixel_average_precision
from anounet.pasting import PasteSettings
from anounet.storage import load_state_file

SIZE, FIT, IMAGES, SMOOTHING = 96, 400, 40, 2.0
EQUAL = (1.0, 1.0, 1.0)
PATCHES: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "one σ for all (plain distance)": {"metric": "euclidean"},
    "the same, layers 3, 6, 13": {"metric": "euclidean", "layers": (3, 6, 13), "weights": EQUAL},
    "layers 3, 6, 13": {"layers": (3, 6, 13), "weights": EQUAL},
    "layers 2, 3, 6": {"layers": (2, 3, 6), "weights": EQUAL},
    "layer 13 at weight 1": {"weights": (1.0, 1.0, 1.0, 1.0)},
    "layer 13 at weight 0.4": {"weights": (1.0, 1.0, 1.0, 0.4)},
    "K 128": {"centers": 128},
    "K 1024": {"centers": 1024},
    "no pooling": {"pooling": 1},
    "pooling 5": {"pooling": 5},
}
INSTANT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as shipped": ({}, {}),
    "400 steps": ({"steps": 400}, {}),
    "F's window not shifted": ({"shift": 0}, {}),
    "F's window shifted from the first step": ({"still": 0.0}, {}),
    "batch 8": ({"batch": 8}, {}),
    "λ_keep 6": ({"keep": 6.0}, {}),
    "without L_C (β = β_in = 0)": ({"beta": 0.0, "beta_foreign": 0.0}, {}),
    "without λ_features and λ_image": ({"features": 0.0, "image": 0.0}, {}),
    "τ' at 75 %": ({"margin": 0.75}, {}),
    "more and thinner patches": ({}, {"thin": 0.6, "share": 0.8}),
    "width 24": ({"width": 24}, {}),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m anounet bench ablation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("part", choices=("patches", "instant"))
    parser.add_argument("--data", nargs="+", default=["textures"], metavar="NAME[/CLASS]")
    parser.add_argument(
        "--f-net", nargs="*", default=[], type=Path, metavar="FILE", help="other backbones too"
    )
    parser.add_argument("--only", nargs="+", default=None, metavar="ROW", help="some of the rows")
    parser.add_argument(
        "--steps", type=int, default=InstantSettings.steps, metavar="N", help="of instant's trainings"
    )
    parser.add_argument(
        "--judge", type=Path, metavar="FILE", help="instant: judged by this backbone too, of another width"
    )
    given = parser.parse_args(arguments)
    if given.part == "patches":
        print(table(_patches(given)))
    else:
        print(table(_instant(given)))
    return 0


def _classes(name: str) -> list[tuple[str, str]]:
    data, _, class_name = name.partition("/")
    return [(data, class_name)] if class_name else [(data, c) for c in open_set(data, "train").classes]


def _read(data: str, class_name: str) -> tuple[Tensor, Tensor, np.ndarray]:
    train, validation = open_set(data, "train"), open_set(data, "validation")
    pixels = train.tensor(choose(train.where(class_name, defective=False), FIT), SIZE)
    good = choose(validation.where(class_name, defective=False), IMAGES)
    bad = choose(validation.where(class_name, defective=True), IMAGES)
    x = torch.cat(list(validation.batches(good + bad, SIZE)))
    masks = validation.masks(good + bad, SIZE)
    if masks is None:
        raise ValueError(f"'{data}' has no masks: an ablation needs them.")
    return pixels, x, masks


def _nets(given: argparse.Namespace) -> dict[str, FeatureNet]:
    nets = {f"F of {SHIPPED}": load_bundle(SHIPPED, "cpu", only_f_net=True).f_net}
    return nets | {path.stem: _net(path) for path in given.f_net}


def _net(path: Path) -> FeatureNet:
    state = load_state_file(path)
    width = 1.0 if state["0.0.weight"].shape[0] == 32 and state["18.0.weight"].shape[1] == 320 else 0.5
    return FeatureNet(state, BackboneSettings(width=width), path)


def _centers(f_net: FeatureNet, pixels: Tensor, settings: PatchSettings) -> LocalCenters:
    batches = (b.float() / 255 for b in pixels.split(32))
    for progress in compute_local_centers(f_net, batches, len(pixels), settings):
        centers = progress.centers
    return centers


@torch.no_grad()
def _distance(f_net: FeatureNet, local: LocalCenters, x: Tensor) -> Tensor:
    return torch.cat([local.distance(patches(b, f_net, local.settings)) for b in x.split(16)])


def _figures(maps: Tensor, masks: np.ndarray) -> np.ndarray:
    scores = maps.amax(dim=(1, 2)).numpy()
    values = maps.numpy()
    return np.array(
        [
            pixel_auroc(values, masks),
            pixel_average_precision(values, masks),
            aupro(values, masks),
            image_auroc(scores, masks.any((1, 2))),
        ]
    )


def _line(data: str, name: str, figures: list[np.ndarray], **more: str | None) -> dict[str, Any]:
    mean = np.mean(figures, axis=0)
    columns = ("pixel AUROC", "pixel AP", "AUPRO", "image AUROC")
    shown = {column: f"{value:.3f}" for column, value in zip(columns, mean, strict=True)}
    print(f"{data}  {name}: {shown}", file=sys.stderr, flush=True)
    return {"data": data, "settings": name, **shown, **more}


def _patches(given: argparse.Namespace) -> list[dict[str, Any]]:
    lines = []
    for data in given.data:
        read = [_read(*pair) for pair in _classes(data)]
        for net_name, f_net in _nets(given).items():
            rows = PATCHES if net_name.startswith("F of") else {"as shipped": {}}
            for name, changes in rows.items():
                if given.only and name not in given.only:
                    continue
                settings = replace(PatchSettings(), **changes)
                figures = []
                for pixels, x, masks in read:
                    local = _centers(f_net, pixels, settings)
                    maps = smooth(enlarge(_distance(f_net, local, x), SIZE), SMOOTHING)
                    figures.append(_figures(maps, masks))
                shown = name if net_name.startswith("F of") else f"{net_name} in F's place"
                lines.append(_line(data, shown, figures))
    return lines


def _instant(given: argparse.Namespace) -> list[dict[str, Any]]:
    lines = []
    f_net = load_bundle(SHIPPED, "cpu", only_f_net=True).f_net
    for data in given.data:
        read = [_read(*pair) for pair in _classes(data)]
        local = [_centers(f_net, pixels, PatchSettings()) for pixels, _, _ in read]
        judge = _net(given.judge) if given.judge else None
        judges = [_centers(judge, pixels, PatchSettings()) for pixels, _, _ in read if judge]
        for name, (changes, pasting) in INSTANT.items():
            if given.only and name not in given.only:
                continue
            settings = InstantSettings(**{"steps": given.steps, **changes})
            figures, within, judged, outside, start = [], [], [], [], time.perf_counter()
            for number, ((pixels, x, masks), centers) in enumerate(zip(read, local, strict=True)):
                fit, _ = split_held_back(len(pixels))
                steps = train_instant(
                    pixels[torch.from_numpy(fit)], f_net, centers, settings, PasteSettings(**pasting)
                )
                for step in steps:
                    net = step.model
                evidence = ano_unet.redraw(x, f_net, centers, net)
                smoothing = ano_unet.DEFAULTS["instant"].smoothing
                figures.append(_figures(map_set(x, evidence.y, evidence, smoothing)["combined"], masks))
                truth = torch.from_numpy(masks)[:, None].float()
                defective = functional.adaptive_avg_pool2d(truth, evidence.after.shape[-2:])[:, 0] >= 0.5
                far = functional.max_pool2d(truth, 9, 1, 4)[:, 0] == 0
                within.append(float((evidence.after[defective] < centers.tau).float().mean()))
                if judge:
                    d = _distance(judge, judges[number], evidence.y)
                    judged.append(float((d[defective] < judges[number].tau).float().mean()))
                outside.append(float((x - evidence.y).abs().mean(dim=1)[far].mean()))
            more = {
                "defective patches within τ": f"{np.mean(within):.2f}",
                "by the other backbone": f"{np.mean(judged):.2f}" if judged else None,
                "abs(x − y) outside": f"{np.mean(outside):.4f}",
                "s": f"{(time.perf_counter() - start) / len(read):.0f}",
            }
            lines.append(_line(data, name, figures, **more))
    return lines


if __name__ == "__main__":
    sys.exit(main())
