"""How well every method finds the defects, on the same test images, over seeds; mean ± spread.

    python -m anounet bench quality --data NAME [--normal CLASS …] [--seeds 0 1 2] [--json FILE]

For each class and seed everything is made anew from the class's normal training images with the general F of
`--bundle` (no labelled anomaly, no F trained on the class): both kinds of C, the instant U-Net, the rivals'
memories. Rows:

- instant, and instant with refining steps; its maps one by one
- fast (the article's global C), and article on a stated number of images (most of a minute each on a CPU)
- AnoGAN, trained on the class, for the first seed (--anogan-steps N; it takes minutes)
- nearest patch (PatchCore's idea) on the very same patches: 10,000 of a k-centre greedy coreset, and 1,024
  k-means centres
- abs(x − mean image), the trivial one

Columns: pixel AUROC, pixel AP and AUPRO@0.3 pool the pixels of all test images of a class, good ones too;
image AUROC is of the score (the peak of the smoothed map; F's score for a global C). Seconds and peak memory
are measured on the first class and seed, each method in a process of its own, after a warm-up.

The normalised image is judged apart: the share of defective patches (half of the patch or more lies in the
mask) that lie within τ before and after G, by F and by a backbone that G was not trained against (--judge
FILE: MobileNetV2 features of another width), and mean abs(x − y) outside the mask, dilated by 4 px at 96.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anounet import nearest_patch
from anounet.anogan import AnoGANSettings, train_anogan
from anounet.anomaly_map import MAPS, smooth
from anounet.bundle import SHIPPED, Bundle, load_bundle
from anounet.center import compute_center, split_held_back
from anounet.cli.common import table
from anounet.datasets import choose, open_set
from anounet.feature_net import BackboneSettings, FeatureNet
from anounet.instant import InstantSettings, train_instant
from anounet.local_centers import LocalCenters, PatchSettings, compute_local_centers, patches
from anounet.metrics import aupro, image_auroc, pixel_auroc, pixel_average_precision
from anounet.storage import load_state_file, write_json
from anounet.visualization import drain, visualize_anogan, visualize_many

NEAREST = {
    "nearest patch, coreset 10,000": ("coreset", 10_000),
    "nearest patch, k-means 1,024": ("kmeans", 1024),
}
METHODS = ("instant", "refined", "fast", "article", "anogan", "nearest", "trivial")
SMOOTHING = 2.0  # px at 96, of the rivals' maps; ours as their settings say
ANOGAN_BATCH = 16
COLUMNS = ("pixel AUROC", "pixel AP", "AUPRO", "image AUROC")
Rows = dict[str, dict[tuple[str, int], dict[str, float]]]
Found = tuple[Tensor, Tensor, Tensor | None]  # maps (N, H, W), scores (N,), normalised images or None


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if given.one:
        print(json.dumps(_timed(given)))
        return 0
    data = open_set(given.data, "train")
    classes = given.normal or list(data.classes)
    data.check_classes(classes)
    rows, repairs, costs = _before(given.resume)

    def keep() -> None:
        if given.json:
            value = {
                "date": date.today().isoformat(),
                "command": " ".join(
                    ["python -m anounet bench quality", *map(_named, arguments or sys.argv[3:])]
                ),
                "rows": {n: {f"{c}/{s}": m for (c, s), m in per.items()} for n, per in rows.items()},
                "normalised": {f"{c}/{s}": m for (c, s), m in repairs.items()},
                "costs": costs,
            }
            write_json(given.json, value)

    with tempfile.TemporaryDirectory(prefix="anounet-quality-") as scratch:
        for class_name in classes:
            for seed in given.seeds:
                first = seed == given.seeds[0]
                if all((class_name, seed) in rows.get(name, {}) for name in _wanted(given, first)):
                    continue
                for name, measured in _class(given, class_name, seed, first, Path(scratch), repairs):
                    rows.setdefault(name, {})[class_name, seed] = measured
                    figures = "  ".join(f"{key} {value:.3f}" for key, value in measured.items())
                    print(f"{class_name} seed {seed}  {name}: {figures}", file=sys.stderr, flush=True)
                keep()
        if not given.no_costs and any(Path(scratch).iterdir()):
            costs |= _costs(given, Path(scratch))
    keep()
    print(report(given, classes, rows, repairs, costs))
    return 0


def _named(word: str) -> str:
    """A path of this machine by its last name: results are for others too."""
    return Path(word).name if Path(word).is_absolute() else word


def _before(files: list[Path]) -> tuple[Rows, dict[tuple[str, int], dict[str, float]], dict[str, Any]]:
    """What earlier runs measured and wrote with --json."""
    rows: Rows = {}
    repairs: dict[tuple[str, int], dict[str, float]] = {}
    costs: dict[str, Any] = {}

    def pair(key: str) -> tuple[str, int]:
        class_name, _, seed = key.rpartition("/")
        return class_name, int(seed)

    for file in files:
        kept = json.loads(file.read_text(encoding="utf-8"))
        for name, per in kept["rows"].items():
            rows.setdefault(name, {}).update({pair(key): m for key, m in per.items()})
        repairs |= {pair(key): m for key, m in kept["normalised"].items()}
        costs |= kept["costs"]
    return rows, repairs, costs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anounet bench quality", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--data", default="textures", metavar="NAME", help="data set (default: textures)")
    add("--normal", nargs="+", metavar="CLASS", help="its classes to measure (default: all)")
    add("--split", default="test", choices=("validation", "test"), help="settings are chosen on validation")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--methods", nargs="+", choices=METHODS, default=None, help="default: all but article and anogan")
    add("--bundle", default=SHIPPED, metavar="NAME", help="whose F is taken")
    add("--size", type=int, default=96, metavar="N", help="side in pixels (default: 96)")
    add("--fit", type=int, default=400, metavar="N", help="normal images at most (default: 400)")
    add("--images", type=int, default=None, metavar="N", help="test images of each kind at most")
    add("--article-images", type=int, default=3, metavar="N", help="good and defective each (default: 3)")
    add("--refine", nargs="+", type=int, default=[10], metavar="N", help="refining steps, a row each (10)")
    add("--steps", type=int, default=InstantSettings.steps, metavar="N", help="training of the instant U-Net")
    add("--shift", type=int, default=InstantSettings.shift, metavar="N", help="of F's window, likewise")
    add("--anogan-steps", type=int, default=1500, metavar="N", help="training of AnoGAN")
    add("--judge", type=Path, default=None, metavar="FILE", help="MobileNetV2 features of another width")
    add("--maps", action="store_true", help="a row for each of instant's maps")
    add("--no-costs", action="store_true", help="leave out seconds and memory")
    add(
        "--json",
        type=Path,
        default=None,
        metavar="FILE",
        help="write the figures to FILE too, class by class",
    )
    add("--resume", nargs="+", type=Path, default=[], metavar="FILE", help="take over what these files hold")
    add("--one", default=None, help=argparse.SUPPRESS)
    return parser


# --- one class, one seed -----------------------------------------------------------------------------


def _class(
    given: argparse.Namespace,
    class_name: str,
    seed: int,
    first: bool,
    scratch: Path,
    repairs: dict[tuple[str, int], dict[str, float]],
) -> Iterator[tuple[str, dict[str, float]]]:
    """Makes all that is needed for a class, and yields (row, its figures)."""
    methods = _methods(given)
    train = open_set(given.data, "train")
    indices = choose(train.where(class_name, defective=False), given.fit, seed)
    pixels = train.tensor(indices, given.size)
    x, masks = _test_images(given, class_name)
    bundle = _bundle(given, pixels, seed, methods, first)
    if first and not any(scratch.iterdir()):
        torch.save({"bundle": bundle, "pixels": pixels, "x": x}, scratch / "first.pt")
    labels = masks.any((1, 2)) if masks is not None else _labels(given, class_name)

    def figures(found: Found) -> dict[str, float]:
        return _figures(found[0].numpy(), found[1].numpy(), masks, labels)

    for method in methods:
        if method == "nearest":
            for name, (kind, count) in NEAREST.items():
                yield name, figures(_nearest(bundle, pixels, x, kind, count, seed))
        elif method == "article":
            few = _few(labels, given.article_images)
            maps, scores, _ = _ours("article", bundle, x[few], given)
            part = masks[few] if masks is not None else None
            yield (
                _row(method, given),
                _figures(maps.numpy(), scores.numpy(), part, labels[few]),
            )
        elif method == "anogan":
            if bundle.anogan is not None:
                yield _row(method, given), figures(_anogan(bundle, x))
        elif method == "trivial":
            maps = smooth((x - (pixels.float() / 255).mean(dim=0)).abs().mean(dim=1), _sigma(given.size))
            yield _row(method, given), figures((maps, maps.amax(dim=(1, 2)), None))
        else:
            results = list(visualize_many(x, bundle, _settings(method, bundle, given)))
            maps = torch.stack([r.anomaly_map for r in results])
            scores = torch.tensor([r.score for r in results])
            yield _row(method, given), figures((maps, scores, None))
            if method.startswith(("instant", "refined")) and masks is not None:
                y = torch.stack([r.y for r in results])
                measured = _repair(given, bundle, pixels, x, y, masks, seed)
                if method == "instant":
                    repairs[class_name, seed] = measured
                else:
                    repairs[class_name, seed] |= {f"{key}, {method}": v for key, v in measured.items()}
            if method == "instant" and given.maps:
                for name in MAPS:
                    maps = torch.stack([r.maps[name] for r in results])
                    yield f"instant: {name}", figures((maps, maps.amax(dim=(1, 2)), None))


def _test_images(given: argparse.Namespace, class_name: str) -> tuple[Tensor, np.ndarray | None]:
    images = open_set(given.data, given.split)
    good = choose(images.where(class_name, defective=False), given.images)
    bad = choose(images.where(class_name, defective=True), given.images)
    if not good or not bad:
        raise ValueError(
            f"The {given.split} split of '{given.data}' has {len(good)} good and {len(bad)} defective images "
            f"of '{class_name}': both are needed."
        )
    masks = images.masks(good + bad, given.size)
    return torch.cat(list(images.batches(good + bad, given.size))), masks


def _labels(given: argparse.Namespace, class_name: str) -> np.ndarray:
    images = open_set(given.data, given.split)
    good = choose(images.where(class_name, defective=False), given.images)
    bad = choose(images.where(class_name, defective=True), given.images)
    return np.arange(len(good) + len(bad)) >= len(good)


def _few(labels: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([np.flatnonzero(~labels)[:count], np.flatnonzero(labels)[:count]])


def _bundle(given: argparse.Namespace, pixels: Tensor, seed: int, methods: list[str], first: bool) -> Bundle:
    """A bundle in memory for the class: F and the identity U-Net are general, all else is made here."""
    general = load_bundle(given.bundle, "cpu")
    f_net, batches = general.f_net, [b.float() / 255 for b in pixels.split(32)]
    for progress in compute_local_centers(f_net, batches, len(pixels), PatchSettings(seed=seed)):
        local = progress.centers
    for progress in compute_center(f_net, batches, len(pixels), seed=seed):
        center = progress.center
    fit, _ = split_held_back(len(pixels), seed=seed)
    instant = None
    if any(method.startswith(("instant", "refined")) for method in methods):
        settings = InstantSettings(steps=given.steps, shift=given.shift, seed=seed)
        for step in train_instant(pixels[torch.from_numpy(fit)], f_net, local, settings):
            instant = step.model
    gan = None
    if "anogan" in methods and first:
        for step in train_anogan(pixels, AnoGANSettings(steps=given.anogan_steps, seed=seed), "cpu"):
            gan = step.model if step.model is not None else gan
    return replace(
        general,
        size=given.size,
        center=center,
        local=local,
        instant=instant,
        anogan=gan,
        encoder=None,
        decoder=None,
        scales={},
        limits={},
    )


def _settings(method: str, bundle: Bundle, given: argparse.Namespace) -> Any:
    if method.startswith("refined"):
        return bundle.settings("instant", steps=int(method.split()[1]), stop=0.0)
    return bundle.settings(method, stop=0.0)


def _ours(method: str, bundle: Bundle, x: Tensor, given: argparse.Namespace) -> Found:
    results = list(visualize_many(x, bundle, _settings(method, bundle, given)))
    maps = torch.stack([r.anomaly_map for r in results])
    return maps, torch.tensor([r.score for r in results]), torch.stack([r.y for r in results])


def _anogan(bundle: Bundle, x: Tensor) -> Found:
    results = [r for batch in x.split(ANOGAN_BATCH) for r in drain(visualize_anogan(batch, bundle))]
    return torch.stack([r.anomaly_map for r in results]), torch.tensor([r.score for r in results]), None


def _nearest(bundle: Bundle, pixels: Tensor, x: Tensor, kind: str, count: int, seed: int) -> Found:
    memory = nearest_patch.build_memory(
        bundle.f_net, pixels, bundle.local.settings, count=count, method=kind, seed=seed
    )
    return _nearest_maps(bundle, memory, x)


def _nearest_maps(bundle: Bundle, memory: nearest_patch.NearestPatch, x: Tensor) -> Found:
    maps = torch.cat([nearest_patch.maps(batch, bundle.f_net, memory) for batch in x.split(8)])
    maps = smooth(maps, _sigma(x.shape[-1]))
    return maps, maps.amax(dim=(1, 2)), None


def _sigma(size: int) -> float:
    return SMOOTHING * size / 96


def _figures(
    maps: np.ndarray, scores: np.ndarray, masks: np.ndarray | None, labels: np.ndarray
) -> dict[str, float]:
    figures = {}
    if masks is not None:
        figures["pixel AUROC"] = pixel_auroc(maps, masks)
        figures["pixel AP"] = pixel_average_precision(maps, masks)
        figures["AUPRO"] = aupro(maps, masks)
    figures["image AUROC"] = image_auroc(scores, labels)
    return figures


# --- the normalised image ----------------------------------------------------------------------------


def _repair(
    given: argparse.Namespace,
    bundle: Bundle,
    pixels: Tensor,
    x: Tensor,
    y: Tensor,
    masks: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """How much more normal the defective patches became, and what changed where nothing is wrong."""
    truth = torch.from_numpy(masks)[:, None].float()
    reach = max(1, round(4 * given.size / 96))
    outside = functional.max_pool2d(truth, 2 * reach + 1, 1, reach)[:, 0] == 0
    measured = {"outside": float((x - y).abs().mean(dim=1)[outside].mean())}
    judges: dict[str, tuple[FeatureNet, LocalCenters]] = {"F": (bundle.f_net, bundle.local)}
    if given.judge is not None:
        judges["judge"] = _judge(given, pixels, bundle, seed)
    for name, (f_net, local) in judges.items():
        for when, images in (("before", x), ("after", y)):
            d = _distances(f_net, local, images)
            defective = functional.adaptive_avg_pool2d(truth, d.shape[-2:])[:, 0] >= 0.5
            measured[f"{name} {when}"] = float((d[defective] < local.tau).float().mean())
    return measured


def _judge(
    given: argparse.Namespace, pixels: Tensor, bundle: Bundle, seed: int
) -> tuple[FeatureNet, LocalCenters]:
    state = load_state_file(given.judge)
    width = 0.5 if bundle.f_net.settings.width == 1.0 else 1.0
    f_net = FeatureNet(state, BackboneSettings(width=width), given.judge)
    batches = [b.float() / 255 for b in pixels.split(32)]
    for progress in compute_local_centers(f_net, batches, len(pixels), PatchSettings(seed=seed)):
        local = progress.centers
    return f_net, local


@torch.no_grad()
def _distances(f_net: FeatureNet, local: LocalCenters, images: Tensor) -> Tensor:
    return torch.cat([local.distance(patches(b, f_net, local.settings)) for b in images.split(16)])


# --- seconds and memory ------------------------------------------------------------------------------


def _costs(given: argparse.Namespace, scratch: Path) -> dict[str, dict[str, float]]:
    names = []
    for method in _methods(given):
        names += list(NEAREST) if method == "nearest" else [] if method == "trivial" else [method]
    costs = {}
    for name in names:
        command = [sys.executable, "-m", "anounet", "bench", "quality", "--one", name]
        command += ["--data", str(scratch / "first.pt")]
        paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise ValueError(f"Measuring {name} failed: {(done.stderr.strip() or '?').splitlines()[-1]}")
        costs[_row(name, given)] = json.loads(done.stdout)
    return costs


def _timed(given: argparse.Namespace) -> dict[str, float]:
    # Written by this very program a moment ago, into a folder of its own.
    kept = torch.load(given.data, weights_only=False)
    bundle, pixels, x = kept["bundle"], kept["pixels"], kept["x"]
    x = x[: {"article": 1, "fast": 8, "refined": 16, "anogan": 16}.get(given.one.split()[0], len(x))]

    if given.one in NEAREST:
        kind, size = NEAREST[given.one]
        memory = nearest_patch.build_memory(
            bundle.f_net, pixels, bundle.local.settings, count=size, method=kind
        )

        def run(images: Tensor) -> None:
            _nearest_maps(bundle, memory, images)
    elif given.one == "anogan":

        def run(images: Tensor) -> None:
            _anogan(bundle, images)
    else:

        def run(images: Tensor) -> None:
            _ours(given.one, bundle, images, given)

    if given.one not in ("article", "anogan"):
        run(x[:8])  # warm-up: libraries choose their kernels
    start = time.perf_counter()
    run(x)
    seconds = (time.perf_counter() - start) / len(x)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"seconds": seconds, "peak_mb": peak, "images": len(x)}


# --- the table ---------------------------------------------------------------------------------------


def _methods(given: argparse.Namespace) -> list[str]:
    """What to measure: "refined" once for each number of steps, as "refined N"."""
    chosen = given.methods or [m for m in METHODS if m not in ("article", "anogan")]
    each = [[f"refined {n}" for n in given.refine] if m == "refined" else [m] for m in chosen]
    return [method for methods in each for method in methods]


def _row(method: str, given: argparse.Namespace) -> str:
    if method.startswith("refined"):
        return f"instant + {method.split()[1]} refining steps"
    return {
        "anogan": "AnoGAN, 500 steps",
        "article": f"article ({2 * given.article_images} images)",
        "trivial": "abs(x − mean image)",
    }.get(method, method)


def _wanted(given: argparse.Namespace, first: bool) -> list[str]:
    """The rows that a class and a seed have."""
    methods = [m for m in _methods(given) if m != "anogan" or first]
    rows = [list(NEAREST) if m == "nearest" else [_row(m, given)] for m in methods]
    return [name for names in rows for name in names]


def report(
    given: argparse.Namespace,
    classes: list[str],
    rows: Rows,
    repairs: dict[tuple[str, int], dict[str, float]],
    costs: dict[str, dict[str, float]],
) -> str:
    """The tables: a mean over classes for each seed, then mean ± standard deviation over the seeds."""
    lines = []
    fastest = min((cost["seconds"] for cost in costs.values()), default=None)
    for name, per in rows.items():
        line: dict[str, Any] = {"method": name}
        for column in COLUMNS:
            line[column] = _over_seeds(per, column)
        if costs:
            cost = costs.get(name)
            line["s/image"] = f"{cost['seconds']:.3g} ({cost['seconds'] / fastest:.0f}×)" if cost else None
            line["peak MB"] = f"{cost['peak_mb']:.0f}" if cost else None
        plain = name.startswith(("nearest", "abs"))
        line["normalised image"] = "no" if plain else "yes"
        lines.append(line)
    seeds = ", ".join(map(str, given.seeds))
    head = (
        f"{date.today()}, {given.data}, {', '.join(classes)}: {given.split} split, {given.size} px, "
        f"up to {given.fit} normals to fit, {given.steps} training steps, seeds {seeds}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    text = f"{head}\n\n{table(lines)}"
    if repairs:
        keys = dict.fromkeys(key for measured in repairs.values() for key in measured)
        summary = {key: _over_seeds(repairs, key, 4 if "outside" in key else 3) for key in keys}
        text += "\n\nDefective patches within τ, and mean abs(x − y) outside the mask:\n\n" + table([summary])
    return text


def _over_seeds(per: dict[tuple[str, int], dict[str, float]], column: str, digits: int = 3) -> str | None:
    by_seed: dict[int, list[float]] = {}
    for (_, seed), measured in per.items():
        if column in measured:
            by_seed.setdefault(seed, []).append(measured[column])
    if not by_seed:
        return None
    means = [float(np.mean(values)) for values in by_seed.values()]
    spread = f" ± {np.std(means, ddof=1):.{digits}f}" if len(means) > 1 else ""
    return f"{np.mean(means):.{digits}f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
