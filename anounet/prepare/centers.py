"""Both kinds of C, and how well the score tells images apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from anounet.bundle import PARTS, load_bundle, save_part
from anounet.center import Center, CenterProgress, compute_center, features_of
from anounet.datasets import choose, open_set
from anounet.feature_net import FeatureNet
from anounet.local_centers import LocalCenters, LocalCentersProgress, PatchSettings, compute_local_centers
from anounet.metrics import image_auroc
from anounet.prepare.data import DataChoice, Normals, describe, read_normals
from anounet.prepare.stage import Stage
from anounet.presets import fitting
from anounet.storage import WeightsError, load_weights


def make_center(
    f_net: FeatureNet, choice: DataChoice, normals: Normals | None = None, metric: str = "l1"
) -> Iterator[CenterProgress]:
    """Computes the article's C and its threshold from the normal class's training images.

    Args:
        metric: what the score goes by, one of `center.METRICS`.
    """
    normals = normals or read_normals(choice)
    return compute_center(
        f_net,
        normals.batches(),
        len(normals.pixels),
        seed=choice.seed,
        metric=metric,
        facts=normals.facts,
    )


def usual_metric(name: str, choice: DataChoice) -> str:
    """What a bundle's score goes by where nothing is said: as it did, or as the preset of its data says.

    Of a robust F it is the article's: on 500 + 500 validation images of CIFAR-10 horse against deer 0.886 by
    l1 and 0.865 by mahalanobis.
    """
    robust = 0.0
    try:
        there = load_bundle(name, "cpu")
        if there.center is not None:
            return there.center.metric
        meta = load_weights(there.folder / PARTS["f_net"], "f_net")[1]
        robust = float(meta.get("settings", {}).get("robust_eps", 0.0))
    except WeightsError:
        pass  # there is none yet
    preset = fitting(choice.data, choice.normal, choice.exclude)
    return preset.score if preset and not robust else "l1"


def make_local_centers(
    f_net: FeatureNet, choice: DataChoice, settings: PatchSettings, normals: Normals | None = None
) -> Iterator[LocalCentersProgress]:
    """Computes C for every patch and τ from the normal class's training images."""
    normals = normals or read_normals(choice)
    return compute_local_centers(
        f_net,
        normals.batches(),
        len(normals.pixels),
        replace(settings, seed=choice.seed),
        facts=normals.facts,
    )


def make_centers(
    name: str,
    choice: DataChoice,
    settings: PatchSettings,
    device: torch.device | str,
    normals: Normals | None = None,
    metric: str | None = None,
) -> Iterator[Stage]:
    """Computes both kinds of C from the normal images, and saves them.

    The score goes by `metric`, one of `center.METRICS`, or by the `usual_metric`. Local centres that come out
    as they were stay, and the instant U-Net trained with them.
    """
    bundle, normals = load_bundle(name, device, only_f_net=True), normals or read_normals(choice)
    notes = tuple(f"left out: {why}" for _, why in normals.skipped)
    metric = metric or usual_metric(name, choice)
    for progress in make_center(bundle.f_net, choice, normals, metric):
        if progress.center is not None:
            save_part(name, center=progress.center, **describe(choice))
        yield Stage(
            "C", progress.done, progress.total, {"left out": float(len(normals.skipped))}, notes=notes
        )
        notes = ()
    for progress in make_local_centers(bundle.f_net, choice, settings, normals):
        if progress.centers is not None and not _same_centers(name, progress.centers):
            save_part(name, local=progress.centers)
        yield Stage("local centres", progress.done, progress.total, {})


def _same_centers(name: str, centers: LocalCenters) -> bool:
    try:
        there = load_bundle(name, "cpu").local
    except WeightsError:
        return False
    return there is not None and there.fingerprint == centers.fingerprint and there.tau == centers.tau


@dataclass(frozen=True)
class Scores:
    """Scores of images C was not made from, by group, and how well the score tells them apart."""

    good: tuple[float, ...]
    anomalous: dict[str, tuple[float, ...]]  # defect or left-out class → scores
    image_auroc: float | None  # of all anomalous groups against the good ones; None where there are none


def score_split(
    f_net: FeatureNet, center: Center, choice: DataChoice, split: str = "test", limit: int = 200
) -> Scores:
    """Scores the good images of a split, its defective ones, and the classes left out."""
    images = open_set(choice.data, split)

    def scores(indices: Sequence[int]) -> tuple[float, ...]:
        if not indices:
            return ()
        pixels, kept, _ = images.readable(choose(indices, limit, choice.seed), choice.size)
        batches = (chunk.float() / 255 for chunk in pixels.split(32))
        found = [center.score(features_of(f_net, batch)) for batch in batches] if kept else []
        return tuple(torch.cat(found).tolist()) if found else ()

    good = scores(images.where(choice.normal, defective=False))
    groups: dict[str, tuple[float, ...]] = {}
    defective = images.where(choice.normal, defective=True)
    for defect in sorted({images.items[i].defect for i in defective}):
        groups[defect] = scores([i for i in defective if images.items[i].defect == defect])
    for name in choice.exclude:
        groups[name] = scores(images.where(name, defective=False))
    bad = [score for group in groups.values() for score in group]
    auroc = None
    if good and bad:
        auroc = image_auroc(
            torch.tensor([*good, *bad]).numpy(), torch.arange(len(good) + len(bad)).numpy() >= len(good)
        )
    return Scores(good, groups, auroc)
