"""The levels of the maps: what each method's maps reach on held-back normal images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anounet.anogan import SearchSettings
from anounet.anomaly_map import LIMIT_QUANTILE, scale_from_normals
from anounet.bundle import RIVALS, Bundle, load_bundle, map_key, save_part
from anounet.center import THRESHOLD_QUANTILE
from anounet.prepare.data import DataChoice, held_back_normals
from anounet.prepare.stage import Stage
from anounet.visualization import Result, drain, peak, visualize_many, visualize_rival

RIVAL_BATCH = 16  # images that a rival gets at a time


@dataclass(frozen=True)
class Levels:
    """What a method's maps reach on held-back normal images; see `Bundle.scales` and `Bundle.limits`."""

    scales: dict[str, float]
    limits: dict[str, float]


def measure_levels(
    bundle: Bundle,
    normals: Tensor,
    counts: dict[str, int],
    on_image: Callable[[str, int, int], None] | None = None,
) -> Levels:
    """Each method's maps on held-back normals → the level shown as 1, and the one of a reported region.

    Args:
        normals: (n, 3, H, W) in [0, 1].
        counts: method ("instant", "fast", "fast-local", "article", or a rival) → how many normals to use;
            methods that the bundle lacks parts for are left out.
        on_image: told (method, done, total).
    """
    scales: dict[str, float] = {}
    limits: dict[str, float] = {}
    for method, count in counts.items():
        chosen = normals[:count]
        if not len(chosen) or not _can(bundle, method):
            continue
        results = []
        for result in _results(bundle, method, chosen):
            results.append(result)
            if on_image:
                on_image(method, len(results), len(chosen))
        for name in results[0].maps:
            maps, key = [r.maps[name] for r in results], map_key(method, name)
            scales[key] = round(scale_from_normals(maps), 6)
            limits[key] = round(scale_from_normals(maps, LIMIT_QUANTILE), 6)
        if method in ("instant", "fast-local"):
            # The score was taken in units of the old scale (or of a stand-in): once more, in the new one.
            units = {name: scales[map_key(method, name)] for name in results[0].maps}
            if method == "instant":
                peaks = [peak(r.maps, units) for r in results]
            else:
                peaks = [float(r.maps["distance"].max()) / units["distance"] for r in results]
            limits[f"{method}:score"] = round(float(np.quantile(peaks, THRESHOLD_QUANTILE)), 6)
    return Levels(scales, limits)


def _can(bundle: Bundle, method: str) -> bool:
    if method in RIVALS:
        return method in bundle.rivals
    needs = {
        "instant": (bundle.local, bundle.instant),
        "fast-local": (bundle.local, bundle.identity),
        "fast": (bundle.center, bundle.identity),
        "article": (bundle.center,),
    }
    return all(part is not None for part in needs[method])


def _results(bundle: Bundle, method: str, images: Tensor) -> Iterator[Result]:
    if method in RIVALS:
        for batch in images.split(RIVAL_BATCH):
            yield from drain(visualize_rival(method, batch, bundle, SearchSettings()))
        return
    mode, _, center = method.partition("-")
    for result in visualize_many(images, bundle, bundle.settings(mode, center=center or None)):
        if not isinstance(result, Result):
            raise result
        yield result


def make_scales(name: str, choice: DataChoice, article: int, device: torch.device | str) -> Iterator[Stage]:
    """Measures and saves the levels of each method's maps on held-back normals."""
    bundle = load_bundle(name, device)
    counts = {"instant": 200, "fast": 16, "fast-local": 16, "anogan": 16, "f-anogan": 200, "decoder": 200}
    counts["article"] = article
    normals = held_back_normals(choice, max(counts.values()), bundle.local or bundle.center)
    for done, (method, count) in enumerate(counts.items()):
        yield Stage("scales", done, len(counts), {})
        levels = measure_levels(bundle, normals, {method: count})
        save_part(name, scales=levels.scales, limits=levels.limits)
    yield Stage("scales", len(counts), len(counts), {})
