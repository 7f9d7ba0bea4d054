"""The levels of the maps: what each method's maps reach on held-back normal images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anounet.anogan import SearchSettings
from anounet.anomaly_map import LIMIT_QUANTILE, scale_from_normals
from anounet.bundle import DRAWS, RIVALS, Bundle, load_bundle, map_key, read_info, save_part
from anounet.center import THRESHOLD_QUANTILE
from anounet.prepare.data import DataChoice, held_back_normals
from anounet.prepare.reach import measure_reach
from anounet.prepare.stage import Stage
from anounet.visualization import (
    Result,
    drain,
    peaks,
    visualize_distance,
    visualize_many,
    visualize_rival,
)

RIVAL_BATCH = 16  # images that a rival gets at a time


# Held-back normal images that levels are measured on; none in `article` mode: most of a minute each on a CPU.
NORMALS = {"instant": 200, "fast": 16, "fast-local": 16, "anogan": 16, "f-anogan": 200, "decoder": 200}


@dataclass(frozen=True)
class Levels:
    """What a method's maps reach on held-back normal images; see `Bundle.scales` and `Bundle.limits`."""

    scales: dict[str, float]
    limits: dict[str, float]


def make_scales(
    name: str,
    choice: DataChoice,
    device: torch.device | str,
    counts: Mapping[str, int] = NORMALS,
    given: Levels | None = None,
) -> Iterator[Stage]:
    """Measures and saves the levels of methods' maps on held-back normals, one method after the other.

    In `instant` mode what is found with them is measured too, and saved: see `reach`.

    Args:
        counts: method ("instant", "fast", "fast-local", "article", or a rival) → how many normals to use at
            most; methods that the bundle lacks parts for are left out.
        given: levels that are not measured anew: those of `distance_levels`, which are of more images.
    """
    given = given or Levels({}, {})
    bundle = load_bundle(name, device)
    counts = {method: count for method, count in counts.items() if count and _can(bundle, method)}
    normals: dict[tuple[Any, Any], Tensor] = {}
    images: dict[str, Tensor] = {}
    for method, count in counts.items():
        made = _made(bundle, method)
        known = made.get("limit"), made.get("seed")
        if known not in normals:  # most often all parts were made from the same images
            normals[known] = held_back_normals(choice, max(counts.values()), made)
        images[method] = normals[known][:count]
    done, total = 0, sum(map(len, images.values()))
    for method, chosen in images.items():
        results = []
        for result in _results(bundle, method, chosen):
            results.append(result)
            yield Stage("scales", done + len(results), total, {})
        done += len(results)
        levels, facts = _levels(method, results), {}
        if method in DRAWS["identity"] and bundle.general_identity is not None:
            facts["general_identity"] = bundle.general_identity  # not in this bundle's files: so it is named
        save_part(name, scales=levels.scales | given.scales, limits=levels.limits | given.limits, **facts)
        if method == "instant":
            measured = replace(
                bundle, scales=bundle.scales | levels.scales, limits=bundle.limits | levels.limits
            )
            yield from _reach(measured, choice, chosen)


def distance_levels(name: str, choice: DataChoice, device: torch.device | str) -> Levels:
    """Measures and saves the levels of the distance map and of its score, for which nothing is redrawn.

    It takes moments, so it measures on as many held-back normals as `instant` mode's levels come from.
    """
    bundle = load_bundle(name, device)
    held = held_back_normals(choice, NORMALS["instant"], _made(bundle, "fast-local"))
    results = [result for result in visualize_distance(held, bundle) if isinstance(result, Result)]
    levels = _levels("fast-local", results)
    facts = {"general_identity": bundle.general_identity} if bundle.general_identity is not None else {}
    save_part(name, scales=levels.scales, limits=levels.limits, **facts)
    return levels


def make_reach(name: str, choice: DataChoice, device: torch.device | str) -> Iterator[Stage]:
    """Measures and saves what a bundle finds in `instant` mode: see `reach`.

    Raises:
        WeightsError: it lacks what that mode needs.
    """
    bundle = load_bundle(name, device)
    bundle.require_instant()
    held = held_back_normals(choice, NORMALS["instant"], _made(bundle, "instant"))
    yield from _reach(bundle, choice, held)


def _reach(bundle: Bundle, choice: DataChoice, held: Tensor) -> Iterator[Stage]:
    for step in measure_reach(bundle, choice, held):
        if step.reach is not None:
            save_part(bundle.name, reach={"instant": step.reach.to_json()})
        yield Stage("reach", step.done, step.total, {})


def unmeasured(name: str, *methods: str) -> bool:
    """Whether a method's levels are missing: what draws its maps is new, and was not measured yet."""
    scales = read_info(name).get("scales", {})
    return any(method not in scales for method in methods)


def _levels(method: str, results: Sequence[Result]) -> Levels:
    """A method's maps of normal images → the level shown as 1, and the one of a reported region."""
    scales: dict[str, float] = {}
    limits: dict[str, float] = {}
    for name in results[0].maps:
        maps, key = [r.maps[name] for r in results], map_key(method, name)
        scales[key] = round(scale_from_normals(maps), 6)
        limits[key] = round(scale_from_normals(maps, LIMIT_QUANTILE), 6)
    if method in ("instant", "fast-local"):
        # The score was taken in units of the old scale (or of a stand-in): once more, in the new one.
        units = {name: scales[map_key(method, name)] for name in results[0].maps}
        if method == "instant":
            highest = [float(peaks(r.maps, units)) for r in results]
        else:
            highest = [float(r.maps["distance"].max()) / units["distance"] for r in results]
        limits[f"{method}:score"] = round(float(np.quantile(highest, THRESHOLD_QUANTILE)), 6)
    return Levels(scales, limits)


def _made(bundle: Bundle, method: str) -> Mapping[str, Any]:
    """What a method's part says of the images it was made from: a rival's own, else those of C."""
    center = bundle.local or bundle.center
    made = center.meta if center is not None else {}
    if method in RIVALS:
        own = getattr(bundle, RIVALS[method][-1]).meta
        return own if "limit" in own else made
    return made


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
