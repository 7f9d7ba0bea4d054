"""Makes a bundle: data chosen by name → F, C, the identity U-Net, AnoGAN, the maps' scales.

Every stage is a stream; the command line and the app's jobs consume the same ones, so neither has a training
loop of its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from anounet.anogan import AnoGANSettings, SearchSettings, train_anogan
from anounet.anomaly_map import scale_from_normals
from anounet.bundle import (
    SHIPPED,
    Bundle,
    bundle_names,
    drain,
    load_bundle,
    save_part,
    visualize,
    visualize_anogan,
)
from anounet.center import HELD_BACK, Center, CenterProgress, compute_center, features_of, split_held_back
from anounet.datasets import DataError, ImageSet, choose, open_set
from anounet.feature_net import BackboneSettings, FeatureNet, starting_backbone
from anounet.identity import UNetSettings
from anounet.identity import make_identity as identity_steps
from anounet.metric_learning import FNetSettings, train_f_net
from anounet.metrics import image_auroc
from anounet.storage import provenance
from anounet.training import TrainingStep


@dataclass(frozen=True)
class DataChoice:
    """Which images: a normal class among reference classes, with classes left out as anomalous."""

    data: str = "textures"  # data set: "textures", a name in $ANOUNET_DATA, or a folder's or ZIP's path
    normal: str = "streaks"  # the normal class
    exclude: tuple[str, ...] = ()  # classes F must never see: the known anomalies
    limit: int | None = 6000  # images for F's training at most (the article's 6,000); None: all
    reference: str | None = None  # a second data set whose classes F tells apart too
    size: int = 96  # side of the images in pixels
    seed: int = 0  # of the random choice of images

    def __post_init__(self) -> None:
        if self.normal in self.exclude:
            raise DataError(f"'{self.normal}' is the normal class and can't be left out too.")
        if self.limit is not None and self.limit < 10:
            raise DataError(f"F needs 10 images or more to learn from, not {self.limit}.")


@dataclass(frozen=True)
class FNetData:
    """The images F learns from, and what was chosen, for the provenance."""

    images: Tensor  # (N, 3, size, size) uint8
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    facts: dict[str, Any]


def f_net_data(choice: DataChoice) -> FNetData:
    """Reads F's training images: every class of the train split but those left out, good images only.

    Raises:
        DataError: unknown names, or fewer than two classes.
    """
    main = open_set(choice.data, "train")
    main.check_classes([choice.normal, *choice.exclude])
    sets = [(main, choose(main.where(exclude=choice.exclude, defective=False), choice.limit, choice.seed))]
    if choice.reference:
        second = open_set(choice.reference, "train")
        sets.append((second, choose(second.where(defective=False), choice.limit, choice.seed)))
    images, names = [], []
    for image_set, indices in sets:
        images.append(image_set.tensor(indices, choice.size))
        names += [f"{image_set.name}/{image_set.items[i].class_name}" for i in indices]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise DataError(
            f"F learns to tell classes apart, and '{choice.data}' leaves {len(classes)}: leave fewer out, "
            "or name a second data set as reference."
        )
    pixels = torch.cat(images)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([numbers[name] for name in names])
    facts = asdict(choice) | {"images": len(pixels), "classes": classes, "data_sha256": _hash(pixels)}
    return FNetData(pixels, labels, classes, facts)


def normal_images(choice: DataChoice, count: int | None = 1000) -> tuple[ImageSet, list[int]]:
    """The normal class's good training images, `count` of them at most: (set, indices)."""
    images = open_set(choice.data, "train")
    images.check_classes([choice.normal])
    return images, choose(images.where(choice.normal, defective=False), count, choice.seed)


def make_f_net(
    data: FNetData, settings: FNetSettings, start: str | None, device: torch.device | str
) -> Iterator[tuple[TrainingStep, dict[str, Any]]]:
    """Trains F; yields each TrainingStep with the provenance that a checkpoint made of it carries."""
    backbone, source = starting_backbone(
        start, BackboneSettings(width=settings.width, alpha=settings.alpha), _shipped_f_net()
    )
    trained = data.facts | {"starting_weights": source, "method": "L2-softmax", "settings": asdict(settings)}
    for step in train_f_net(backbone, data.images, data.labels, settings, device):
        facts = (
            {} if step.model is None else provenance(**trained, steps=step.step, metrics=dict(step.metrics))
        )
        yield step, facts


def _shipped_f_net() -> FeatureNet | None:
    return load_bundle(SHIPPED, "cpu").f_net if SHIPPED in bundle_names() else None


def make_center(f_net: FeatureNet, choice: DataChoice, count: int | None = 1000) -> Iterator[CenterProgress]:
    """Computes C and its threshold from the normal class's training images."""
    images, indices = normal_images(choice, count)
    return compute_center(
        f_net,
        images.batches(indices, choice.size),
        len(indices),
        seed=choice.seed,
        facts={"data": choice.data, "normal": choice.normal, "size": choice.size, "limit": count},
    )


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
        batches = images.batches(choose(indices, limit, choice.seed), choice.size)
        return tuple(torch.cat([center.score(features_of(f_net, batch)) for batch in batches]).tolist())

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


def identity_images(choice: DataChoice, count: int = 3000) -> Tensor:
    """Images of every kind for the identity U-Net: all classes of the data set, and of the reference."""
    sets = [open_set(name, "train") for name in (choice.data, choice.reference) if name]
    share = count // len(sets)
    return torch.cat(
        [s.tensor(choose(s.where(defective=False), share, choice.seed), choice.size) for s in sets]
    )


def held_back_normals(choice: DataChoice, limit: int, center: Center | None = None) -> Tensor:
    """Normal images that `center` was *not* computed from, for scales: (n, 3, size, size) in [0, 1]."""
    made = center.meta if center is not None else {}
    images, indices = normal_images(choice, made.get("limit", 1000))
    _, held = split_held_back(
        len(indices), made.get("held_back_share", HELD_BACK), made.get("seed", choice.seed)
    )
    chosen = choose([indices[i] for i in held], limit, choice.seed)
    return torch.cat(list(images.batches(chosen, choice.size)))


def measure_scales(
    bundle: Bundle,
    normals: Tensor,
    counts: dict[str, int],
    on_image: Callable[[str, int, int], None] | None = None,
) -> dict[str, float]:
    """Each method's map on held-back normals → the level that is shown as 1.

    Args:
        normals: (n, 3, H, W) in [0, 1].
        counts: method → how many of the normals to use; methods that the bundle lacks are left out.
        on_image: told (method, done, total).
    """
    scales = {}
    for method, count in counts.items():
        chosen = normals[:count]
        if not len(chosen) or (method == "anogan" and bundle.anogan is None):
            continue
        if method == "anogan":
            maps = [r.anomaly_map for r in drain(visualize_anogan(chosen, bundle, SearchSettings()))]
        else:
            maps, settings = [], bundle.settings(method)
            for done, x in enumerate(chosen, 1):
                maps.append(drain(visualize(x, bundle, settings)).anomaly_map)
                if on_image:
                    on_image(method, done, len(chosen))
        scales[method] = round(scale_from_normals(maps), 6)
    return scales


@dataclass(frozen=True)
class Stage:
    """Where a preparation is: which stage, how far, and what it measured; `samples` to look at."""

    name: str
    done: int
    total: int
    metrics: dict[str, float]
    samples: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """All settings of `prepare`."""

    choice: DataChoice = field(default_factory=DataChoice)
    f_net: FNetSettings = field(default_factory=FNetSettings)
    identity: UNetSettings = field(default_factory=UNetSettings)
    anogan: AnoGANSettings = field(default_factory=AnoGANSettings)
    start: str | None = None  # F's starting weights (see `starting_backbone`)
    article_scale: int = 2  # normals redrawn in article mode for its scale: most of a minute each on a CPU


def prepare(
    name: str, plan: Plan, command: str, device: torch.device | str, *, fast: dict[str, Any] | None = None
) -> Iterator[Stage]:
    """Makes the bundle `name`, saving each part as soon as it is done.

    Args:
        command: what made it, kept in bundle.json.
        fast: the bundle's own settings for `fast` mode, where they differ from the program's.
    """
    start = time.time()
    data = f_net_data(plan.choice)
    for step, facts in make_f_net(data, plan.f_net, plan.start, device):
        if step.model is not None:
            described = describe(plan.choice, command=command, settings={"fast": fast} if fast else {})
            save_part(name, f_net=step.model, meta=facts, **described)
        yield Stage("f-Net", step.step, step.total, dict(step.metrics))
    f_net = load_bundle(name, device).f_net
    del data
    for progress in make_center(f_net, plan.choice):
        if progress.center is not None:
            save_part(name, center=progress.center)
        yield Stage("C", progress.done, progress.total, {})
    yield from make_identity(name, plan.choice, plan.identity, device)
    yield from make_anogan(name, plan.choice, plan.anogan, device)
    yield from make_scales(name, plan.choice, plan.article_scale, device)
    save_part(name, seconds_to_prepare=round(time.time() - start))


def describe(choice: DataChoice, **info: Any) -> dict[str, Any]:
    """The fields of bundle.json that say what a bundle is for."""
    return {
        "size": choice.size,
        "data": choice.data,
        "normal": choice.normal,
        "exclude": list(choice.exclude),
        "reference": choice.reference,
        **info,
    }


def choice_of(bundle_info: dict[str, Any]) -> DataChoice:
    """The choice of data that a bundle was described with."""
    try:
        return DataChoice(
            data=str(bundle_info["data"]),
            normal=str(bundle_info["normal"]),
            exclude=tuple(bundle_info.get("exclude", ())),
            reference=bundle_info.get("reference"),
            size=int(bundle_info.get("size", 96)),
        )
    except KeyError as error:
        raise DataError(
            f"This bundle does not say what its {error} is: name it (--data, --normal)."
        ) from error


def make_identity(
    name: str, choice: DataChoice, settings: UNetSettings, device: torch.device | str
) -> Iterator[Stage]:
    """Makes the identity U-Net and saves it."""
    images = identity_images(choice)
    for step in identity_steps(images, settings, device):
        if step.model is not None:
            facts = {"data": choice.data, "reference": choice.reference, "images": len(images)}
            save_part(name, identity=step.model, meta=provenance(**facts, settings=asdict(settings)))
        yield Stage("identity U-Net", step.step, step.total, dict(step.metrics), step.samples)


def make_anogan(
    name: str, choice: DataChoice, settings: AnoGANSettings, device: torch.device | str
) -> Iterator[Stage]:
    """Trains AnoGAN on the normal class and saves it."""
    images, indices = normal_images(choice, None)
    pixels = images.tensor(indices, choice.size)
    facts = provenance(data=choice.data, normal=choice.normal, images=len(pixels), data_sha256=_hash(pixels))
    for step in train_anogan(pixels, settings, device, facts=facts):
        if step.model is not None:
            save_part(name, anogan=step.model)
        yield Stage("AnoGAN", step.step, step.total, dict(step.metrics), step.samples)


def make_scales(name: str, choice: DataChoice, article: int, device: torch.device | str) -> Iterator[Stage]:
    """Measures and saves the scale of each method's map on held-back normals."""
    bundle = load_bundle(name, device)
    counts = {"fast": 16, "anogan": 16, "article": article}
    normals = held_back_normals(choice, 16, bundle.center)
    for done, (method, count) in enumerate(counts.items()):
        yield Stage("scales", done, len(counts), {})
        save_part(name, scales=measure_scales(bundle, normals, {method: count}))
    yield Stage("scales", len(counts), len(counts), {})


def _hash(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
