"""Makes a bundle: data chosen by name → F, C, the small U-Nets, the rivals, the maps' scales.

Every stage is a stream; the command line and the app's jobs consume the same ones, so neither has a training
loop of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anounet.anogan import AnoGANSettings, SearchSettings, train_anogan
from anounet.anomaly_map import LIMIT_QUANTILE, scale_from_normals
from anounet.bundle import (
    PARTS,
    RIVALS,
    SHIPPED,
    Bundle,
    bundle_folder,
    bundle_names,
    copy_f_net,
    copy_identity,
    load_bundle,
    map_key,
    read_info,
    save_part,
)
from anounet.center import (
    HELD_BACK,
    MIN_IMAGES,
    THRESHOLD_QUANTILE,
    Center,
    CenterProgress,
    compute_center,
    features_of,
    split_held_back,
)
from anounet.datasets import DataError, ImageSet, choose, open_set
from anounet.decoder import DecoderSettings, check_side, train_decoder
from anounet.f_anogan import EncoderSettings, train_encoder
from anounet.feature_net import Backbone, BackboneSettings, FeatureNet, starting_backbone
from anounet.identity import UNetSettings
from anounet.identity import make_identity as identity_steps
from anounet.instant import InstantSettings, train_instant
from anounet.local_centers import LocalCenters, LocalCentersProgress, PatchSettings, compute_local_centers
from anounet.metric_learning import FNetSettings, train_f_net
from anounet.metrics import image_auroc
from anounet.presets import Preset, fitting
from anounet.storage import (
    WeightsError,
    file_sha256,
    load_checkpoint,
    load_weights,
    provenance,
    save_checkpoint,
)
from anounet.training import TrainingStep, images_sha256
from anounet.visualization import Result, drain, peak, visualize_many, visualize_rival

CHECKPOINT = "unet_instant.progress"  # beside the bundle's parts while its training runs
F_NET_CHECKPOINT = "f_net.progress"  # likewise
ANOGAN_CHECKPOINT, ENCODER_CHECKPOINT = "anogan.progress", "encoder.progress"
DECODER_CHECKPOINT = "decoder.progress"
RIVAL_BATCH = 16  # images that a rival gets at a time
READ_AT_ONCE = 1000  # images


@dataclass(frozen=True)
class DataChoice:
    """Which images: a normal class among reference classes, with classes left out as anomalous."""

    data: str = "textures"  # data set: "textures", a name in $ANOUNET_DATA, or a folder's or ZIP's path
    normal: str = "streaks"  # the normal class
    exclude: tuple[str, ...] = ()  # classes F must never see: the known anomalies
    limit: int | None = 6000  # images of each set for F's training at most (the article's 6,000); None: all
    reference: str | None = None  # a second data set whose classes F tells apart too
    size: int = 96  # side of the images in pixels
    seed: int = 0  # of the random choice of images
    count: int | None = 1000  # normal images that C and G are made from at most; None: all

    def __post_init__(self) -> None:
        if self.normal in self.exclude:
            raise DataError(f"'{self.normal}' is the normal class and can't be left out too.")
        if self.limit is not None and self.limit < 10:
            raise DataError(f"F needs 10 images or more to learn from, not {self.limit}.")
        if self.count is not None and self.count < MIN_IMAGES:
            raise DataError(f"C needs {MIN_IMAGES} normal images or more, not {self.count}.")


@dataclass(frozen=True)
class FNetData:
    """The images F learns from, and what was chosen, for the provenance."""

    images: Tensor  # (N, 3, size, size) uint8
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    normal: int | None  # the normal class's label; None where no image of it was drawn
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
    # Read in parts into one tensor: of all images of a large set there is no memory for a second copy.
    pixels = torch.empty(sum(len(i) for _, i in sets), 3, choice.size, choice.size, dtype=torch.uint8)
    names: list[str] = []
    for image_set, indices in sets:
        for start in range(0, len(indices), READ_AT_ONCE):
            part, kept, _ = image_set.readable(indices[start : start + READ_AT_ONCE], choice.size)
            pixels[len(names) : len(names) + len(part)] = part
            names += [f"{image_set.name}/{image_set.items[i].class_name}" for i in kept]
    pixels = pixels[: len(names)]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise DataError(
            f"F learns to tell classes apart, and '{choice.data}' leaves {len(classes)}: leave fewer out, "
            "or name a second data set as reference."
        )
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([numbers[name] for name in names])
    facts = asdict(choice) | {"images": len(pixels), "classes": classes, "data_sha256": images_sha256(pixels)}
    return FNetData(pixels, labels, classes, numbers.get(f"{main.name}/{choice.normal}"), facts)


def normal_images(choice: DataChoice, count: int | None) -> tuple[ImageSet, list[int]]:
    """The normal class's good training images, `count` of them at most: (set, indices)."""
    images = open_set(choice.data, "train")
    images.check_classes([choice.normal])
    return images, choose(images.where(choice.normal, defective=False), count, choice.seed)


@dataclass(frozen=True)
class FNetTraining:
    """What makes a training of F what it is: one that was cut off goes on where all of this is the same.

    Attributes:
        choice: its images, but for `count`, which is not F's.
        settings: with every number in its place.
        start: which weights it begins with: the SHA-256 of a file or of a bundle's F, or what was asked for.
        data_sha256: of the images.
    """

    choice: DataChoice
    settings: FNetSettings
    start: str
    data_sha256: str

    @classmethod
    def of(
        cls, choice: DataChoice, settings: FNetSettings, start: str | None, data: FNetData
    ) -> FNetTraining:
        chosen = replace(choice, count=DataChoice.count)
        return cls(chosen, settings.resolved(), _start_mark(start), data.facts["data_sha256"])


@dataclass(frozen=True)
class BegunFNet:
    """A training of F that was cut off."""

    training: FNetTraining
    source: str  # where its starting weights came from
    backbone: BackboneSettings
    checkpoint: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.checkpoint["step"])

    def save(self, path: Path) -> None:
        values = {"training": asdict(self.training), "backbone": asdict(self.backbone)}
        save_checkpoint(path, values | {"source": self.source, "checkpoint": self.checkpoint})


def begun_f_net(name: str) -> BegunFNet | None:
    """The bundle's training of F that was cut off; None where there is none, or none that can go on."""
    kept = load_checkpoint(bundle_folder(name) / F_NET_CHECKPOINT)
    try:
        values = dict(kept["training"])
        values["choice"] = DataChoice(**values["choice"])
        values["settings"] = FNetSettings(**values["settings"])
        settings = BackboneSettings.from_json(kept["backbone"])
        begun = BegunFNet(FNetTraining(**values), str(kept["source"]), settings, dict(kept["checkpoint"]))
        return begun if begun.step > 0 else None
    except (KeyError, TypeError, ValueError):
        return None


def make_f_net(
    name: str,
    choice: DataChoice,
    settings: FNetSettings,
    start: str | None,
    device: torch.device | str,
    info: dict[str, Any],
    *,
    data: FNetData | None = None,
    resume: bool = True,
    keep: bool = False,
) -> Iterator[Stage]:
    """Trains F and saves it at the end of each epoch.

    Every 50 steps and at the end of each epoch all that the training needs to go on is saved: after a crash
    the same call continues there.

    Args:
        start: F's starting weights, see `Plan.start`.
        info: fields of bundle.json, see `describe`.
        data: what `f_net_data` gave for the choice, where it was read already.
        resume: go on from where a training with the same data and settings was cut off.
        keep: leave F as it is where such a training came to its end.

    Raises:
        WeightsError: the starting weights cannot be had, or are the F that would be replaced.
    """
    if start == name and start in bundle_names():
        raise WeightsError(f"F of '{name}' can't begin with itself: save it under another name.")
    data = data or f_net_data(choice)
    training = FNetTraining.of(choice, settings, start, data)
    if keep and (steps := _steps_of(name, training)):
        (bundle_folder(name) / F_NET_CHECKPOINT).unlink(missing_ok=True)
        yield Stage("f-Net", steps, steps, {})
        return
    begun = begun_f_net(name) if resume else None
    if begun is not None and begun.training == training:
        yield from _f_net_stages(name, data, begun, device, info)
        return
    if begun is not None:
        note = f"a training of F with other data or settings was cut off at step {begun.step}: starts anew"
        yield Stage("f-Net", 0, 1, {}, notes=(note,))
    backbone, source = _starting(start, BackboneSettings(width=settings.width, alpha=settings.alpha))
    fresh = BegunFNet(training, source, backbone.settings, {})
    yield from _f_net_stages(name, data, fresh, device, info, backbone)


def resume_f_net(name: str, device: torch.device | str, command: str) -> Iterator[Stage]:
    """Goes on with the bundle's training of F that was cut off, whatever it was.

    Raises:
        DataError: there is none, or its images are not the same any more.
    """
    begun = begun_f_net(name)
    if begun is None:
        raise DataError(f"There is no training of F to go on with in '{name}': train it anew.")
    data = f_net_data(begun.training.choice)
    if data.facts["data_sha256"] != begun.training.data_sha256:
        raise DataError(
            f"The images of '{begun.training.choice.data}' have changed since the training of F for '{name}' "
            "was cut off: train it anew."
        )
    choice = begun.training.choice
    described = describe(choice, command=command, settings=own_settings(choice))
    yield from _f_net_stages(name, data, begun, device, described)


def _f_net_stages(
    name: str,
    data: FNetData,
    begun: BegunFNet,
    device: torch.device | str,
    info: dict[str, Any],
    backbone: Backbone | None = None,
) -> Iterator[Stage]:
    """Trains F from a checkpoint, or from a backbone; saves F and checkpoints as they come."""
    training, path = begun.training, bundle_folder(name) / F_NET_CHECKPOINT
    facts = data.facts | {
        "starting_weights": begun.source,
        "start": training.start,
        "method": training.settings.method,
        "settings": asdict(training.settings),
    }
    steps = train_f_net(
        backbone or Backbone(begun.backbone),
        data.images,
        data.labels,
        training.settings,
        device,
        normal=data.normal,
        resume=begun.checkpoint or None,
    )
    with closing(steps):
        for step in steps:
            if step.model is not None:
                meta = provenance(**facts, steps=step.step, total=step.total, metrics=dict(step.metrics))
                save_part(name, f_net=step.model, meta=meta, **info)
            if step.checkpoint is not None:
                replace(begun, checkpoint=dict(step.checkpoint)).save(path)
            yield Stage("f-Net", step.step, step.total, dict(step.metrics))
    path.unlink(missing_ok=True)


def _steps_of(name: str, training: FNetTraining) -> int:
    """The steps of the bundle's F where it is what this training ends with; else 0."""
    try:
        _, meta = load_weights(bundle_folder(name) / PARTS["f_net"], "f_net")
    except WeightsError:
        return 0
    wanted = {
        "data_sha256": training.data_sha256,
        "settings": asdict(training.settings),
        "start": training.start,
        "normal": training.choice.normal,
        "total": meta.get("steps"),
    }
    return int(meta["steps"]) if all(meta.get(key, 0) == value for key, value in wanted.items()) else 0


def _start_mark(start: str | None) -> str:
    """Names the starting weights by their content, where they are a file or a bundle's F."""
    if start is not None and Path(start).is_file():
        return file_sha256(Path(start))
    if start in bundle_names():
        return load_bundle(start, "cpu", only_f_net=True).f_net.fingerprint
    return start or "default"


def _starting(start: str | None, settings: BackboneSettings) -> tuple[Backbone, str]:
    """The net to begin from, and where its weights came from; see `Plan.start`."""
    if start in bundle_names() and not Path(start).is_file():
        f_net = load_bundle(start, "cpu", only_f_net=True).f_net
        source = f"f-Net of the bundle '{start}'"
        return Backbone.thaw(f_net, settings, f"The {source}"), f"{source} {f_net.fingerprint[:12]}"
    return starting_backbone(start, settings, _shipped_f_net())


def _shipped_f_net() -> FeatureNet | None:
    return load_bundle(SHIPPED, "cpu").f_net if SHIPPED in bundle_names() else None


@dataclass(frozen=True)
class Normals:
    """Normal images that could be read, and those that could not.

    Attributes:
        pixels: (N, 3, size, size) uint8.
        fit: indices of those that C and G are made from.
        held: indices of those that set thresholds and scales.
        skipped: (name, why) of the files that could not be read.
        facts: for the provenance.
    """

    pixels: Tensor
    fit: Tensor
    held: Tensor
    skipped: tuple[tuple[str, str], ...]
    facts: dict[str, Any]

    def batches(self, size: int = 32) -> Iterator[Tensor]:
        """All of them in order, (B, 3, size, size) in [0, 1]."""
        for chunk in self.pixels.split(size):
            yield chunk.float() / 255


def read_normals(choice: DataChoice) -> Normals:
    """Reads `choice.count` of the normal class's training images; one that can't be read is left out.

    Raises:
        DataError: fewer than 5 images, with how many there are and what was wrong with the others.
    """
    images, indices = normal_images(choice, choice.count)
    pixels, _, skipped = images.readable(indices, choice.size)
    if len(pixels) < MIN_IMAGES:
        faults = "".join(f" {name}: {why}" for name, why in skipped[:3])
        raise DataError(
            f"'{choice.data}' has {len(pixels)} normal images that can be read, and {MIN_IMAGES} or more are "
            f"needed: add some.{faults}"
        )
    fit, held = split_held_back(len(pixels), HELD_BACK, choice.seed)
    facts = {
        "data": choice.data,
        "normal": choice.normal,
        "size": choice.size,
        "limit": choice.count,
        "data_sha256": images_sha256(pixels),
        "skipped": [name for name, _ in skipped],
    }
    return Normals(pixels, torch.from_numpy(fit), torch.from_numpy(held), tuple(skipped), facts)


def make_center(
    f_net: FeatureNet, choice: DataChoice, normals: Normals | None = None
) -> Iterator[CenterProgress]:
    """Computes the article's C and its threshold from the normal class's training images."""
    normals = normals or read_normals(choice)
    return compute_center(
        f_net, normals.batches(), len(normals.pixels), seed=choice.seed, facts=normals.facts
    )


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


def identity_images(choice: DataChoice, count: int = 3000) -> Tensor:
    """Images of every kind for the identity U-Net: all classes of the data set, and of the reference."""
    sets = [open_set(name, "train") for name in (choice.data, choice.reference) if name]
    share = count // len(sets)
    return torch.cat(
        [s.readable(choose(s.where(defective=False), share, choice.seed), choice.size)[0] for s in sets]
    )


def held_back_normals(choice: DataChoice, limit: int, center: Center | LocalCenters | None = None) -> Tensor:
    """Normal images that `center` was *not* computed from, for scales: (n, 3, size, size) in [0, 1]."""
    made = center.meta if center is not None else {}
    normals = read_normals(replace(choice, count=made.get("limit", DataChoice.count)))
    _, held = split_held_back(
        len(normals.pixels), made.get("held_back_share", HELD_BACK), made.get("seed", choice.seed)
    )
    return normals.pixels[choose(held.tolist(), limit, choice.seed)].float() / 255


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


@dataclass(frozen=True)
class Stage:
    """Where a preparation is: which stage, how far, and what it measured; `samples` to look at.

    `notes` are sentences to show once: images that were left out, and why.
    """

    name: str
    done: int
    total: int
    metrics: dict[str, float]
    samples: Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All settings of `prepare`."""

    choice: DataChoice = field(default_factory=DataChoice)
    f_net: FNetSettings | None = None  # how to train an F of its own; None: the general F, no training
    patches: PatchSettings = field(default_factory=PatchSettings)
    identity: UNetSettings | None = None  # None: the general one
    instant: InstantSettings | None = field(default_factory=InstantSettings)  # None: no `instant` mode
    anogan: AnoGANSettings | None = None  # None: without AnoGAN
    encoder: EncoderSettings | None = None  # f-AnoGAN's; None: AnoGAN alone
    decoder: DecoderSettings | None = None  # None: without the decoder
    start: str | None = None  # F's start: a bundle whose F to go on from, else see `starting_backbone`
    article_scale: int = 0  # normals redrawn in article mode for its scale: most of a minute each on a CPU


def prepare(
    name: str, plan: Plan, command: str, device: torch.device | str, *, fast: dict[str, Any] | None = None
) -> Iterator[Stage]:
    """Makes the bundle `name`, saving each part as soon as it is done.

    A training of F, of the instant U-Net or of a rival that was cut off goes on where it was, when all its
    settings are the same; where the same preparation was cut off later than that, the trained net is kept.

    Args:
        command: what made it, kept in bundle.json.
        fast: the bundle's own settings for `fast` mode, where they differ from the program's.
    """
    start, choice = time.time(), plan.choice
    normals = read_normals(choice)  # before anything is made: what is wrong with the data shows here
    if plan.decoder is not None:
        check_side(choice.size)
    cut_off = _was_cut_off(name, command)
    settings = own_settings(choice) | ({"fast": fast} if fast else {})
    described = describe(choice, command=command, seconds_to_prepare=None, settings=settings)
    if plan.f_net is not None:
        yield from make_f_net(name, choice, plan.f_net, plan.start, device, described, keep=cut_off)
    else:
        copy_f_net(name, **described)
    yield from make_centers(name, choice, plan.patches, device, normals)
    if plan.identity is not None:
        yield from make_identity(name, choice, plan.identity, device)
    else:
        copy_identity(name)
    if plan.instant is not None:
        yield from make_instant(name, choice, plan.instant, device, normals, keep=cut_off)
    if plan.anogan is not None:
        yield from make_anogan(name, choice, plan.anogan, device)
    if plan.encoder is not None:
        yield from make_encoder(name, choice, plan.encoder, device, normals)
    if plan.decoder is not None:
        yield from make_decoder(name, choice, plan.decoder, device, normals)
    yield from make_scales(name, choice, plan.article_scale, device)
    save_part(name, seconds_to_prepare=round(time.time() - start))


def _was_cut_off(name: str, command: str) -> bool:
    """Whether the last preparation of the bundle was by this command, and did not come to its end."""
    if not (bundle_folder(name) / "bundle.json").is_file():
        return False
    info = read_info(name)
    return info.get("command") == command and info.get("seconds_to_prepare") is None


def make_centers(
    name: str,
    choice: DataChoice,
    settings: PatchSettings,
    device: torch.device | str,
    normals: Normals | None = None,
) -> Iterator[Stage]:
    """Computes both kinds of C from the normal images, and saves them.

    Local centres that come out as they were stay, and the instant U-Net trained with them.
    """
    bundle, normals = load_bundle(name, device, only_f_net=True), normals or read_normals(choice)
    notes = tuple(f"left out: {why}" for _, why in normals.skipped)
    for progress in make_center(bundle.f_net, choice, normals=normals):
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


def make_instant(
    name: str,
    choice: DataChoice,
    settings: InstantSettings,
    device: torch.device | str,
    normals: Normals | None = None,
    *,
    resume: bool = True,
    keep: bool = False,
) -> Iterator[Stage]:
    """Trains the U-Net of `instant` mode on normals that set no threshold, and saves it as it goes.

    They are those that the local centres were made from, `choice.count` of them at most. Every 50 steps the
    net is saved with all that the training needs to go on: after a crash the same call continues there, and
    what was saved last works.

    Args:
        resume: go on from where a training with the same data and settings was cut off.
        keep: leave the net as it is where such a training came to its end.
    """
    bundle = load_bundle(name, device)
    local, path = bundle.require_local(), bundle.folder / CHECKPOINT
    normals, images = _training_images(bundle, choice, normals)
    if keep and _is_trained(bundle, normals, len(images), settings):
        path.unlink(missing_ok=True)
        yield Stage("instant U-Net", settings.steps, settings.steps, {})
        return
    mark = {
        "data_sha256": normals.facts["data_sha256"],
        "images": len(images),
        "centers": local.fingerprint,
    }
    before = _checkpoint(path, mark, asdict(settings)) if resume else None
    steps = train_instant(images, bundle.f_net, local, settings, resume=before)
    with closing(steps):
        for step in steps:
            if step.model is not None:
                facts = normals.facts | {"images": len(images), "settings": asdict(settings)}
                meta = provenance(**facts, steps=step.step, metrics=dict(step.metrics))
                save_part(name, instant=step.model, meta=meta)
            if step.checkpoint is not None:
                _keep(path, mark, asdict(settings), step.checkpoint)
            yield Stage("instant U-Net", step.step, step.total, dict(step.metrics), step.samples)
    path.unlink(missing_ok=True)


def _training_images(bundle: Bundle, choice: DataChoice, normals: Normals | None) -> tuple[Normals, Tensor]:
    """The normal images, and those of them to train on: (N, 3, H, W), `choice.count` at most.

    The images that set τ or C's threshold are kept apart, whatever seed and number are asked for now.
    """
    center = bundle.local or bundle.center
    made = center.meta if center is not None else {}
    used = {"seed": made.get("seed", choice.seed), "count": made.get("limit", DataChoice.count)}
    normals = normals or read_normals(replace(choice, **used))
    return normals, normals.pixels[normals.fit[: choice.count]]


def _checkpoint(path: Path, mark: Mapping[str, Any], plan: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a training with these data and settings goes on from; None where there is nothing of the kind."""
    kept = load_checkpoint(path)
    same = kept is not None and kept.get("mark") == mark and kept.get("plan") == plan
    return kept["checkpoint"] if same else None


def _keep(
    path: Path, mark: Mapping[str, Any], plan: Mapping[str, Any], checkpoint: Mapping[str, Any]
) -> None:
    save_checkpoint(path, {"mark": mark, "plan": plan, "checkpoint": dict(checkpoint)})


def _is_trained(bundle: Bundle, normals: Normals, images: int, settings: InstantSettings) -> bool:
    """Whether the bundle's instant U-Net is what a training with these images and settings ends with.

    That it belongs to the bundle's local centres was checked when the bundle was opened.
    """
    if bundle.instant is None:
        return False
    _, meta = load_weights(bundle.folder / PARTS["instant"], "unet_instant")
    wanted = {
        "data_sha256": normals.facts["data_sha256"],
        "images": images,
        "settings": asdict(settings),
        "steps": settings.steps,
    }
    return all(meta.get(key) == value for key, value in wanted.items())


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


def choice_of_preset(preset: Preset) -> DataChoice:
    """The choice of data that a preset stands for."""
    return DataChoice(
        data=preset.data,
        normal=preset.normal,
        exclude=preset.exclude,
        limit=preset.f_net_images,
        count=preset.center_images,
    )


def own_settings(choice: DataChoice) -> dict[str, dict[str, Any]]:
    """The settings by method that a bundle of this data carries: those of the preset that it is."""
    preset = fitting(choice.data, choice.normal, choice.exclude)
    return {"article": {"beta": preset.beta, "steps": preset.steps}} if preset else {}


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
    name: str,
    choice: DataChoice,
    settings: AnoGANSettings,
    device: torch.device | str,
    *,
    resume: bool = True,
) -> Iterator[Stage]:
    """Trains AnoGAN on the normal class and saves it at its end; see `make_decoder`."""
    images, indices = normal_images(choice, None)
    pixels, _, _ = images.readable(indices, choice.size)
    facts = provenance(
        data=choice.data, normal=choice.normal, images=len(pixels), data_sha256=images_sha256(pixels)
    )
    path, mark = bundle_folder(name) / ANOGAN_CHECKPOINT, {"images_sha256": images_sha256(pixels)}
    before = _checkpoint(path, mark, asdict(settings)) if resume else None
    notes: tuple[str, ...] = ()
    if resume and before is None and path.exists():
        notes = (f"{path.name} is of a training with other settings or images: AnoGAN is trained anew.",)
    steps = train_anogan(pixels, settings, device, resume=before, facts=facts)
    yield from _saved(name, "anogan", "AnoGAN", steps, settings, path, mark, notes)


def make_encoder(
    name: str,
    choice: DataChoice,
    settings: EncoderSettings,
    device: torch.device | str,
    normals: Normals | None = None,
    *,
    resume: bool = True,
) -> Iterator[Stage]:
    """Trains f-AnoGAN's encoder for the bundle's AnoGAN, and saves it at its end; see `make_decoder`."""
    bundle = load_bundle(name, device)
    gan, path = bundle.require_anogan(), bundle.folder / ENCODER_CHECKPOINT
    normals, images = _training_images(bundle, choice, normals)
    mark = {"images_sha256": images_sha256(images), "gan": gan.fingerprint}
    before = _checkpoint(path, mark, asdict(settings)) if resume else None
    facts = provenance(**normals.facts | {"images": len(images)})
    steps = train_encoder(images, gan, settings, resume=before, facts=facts)
    yield from _saved(name, "encoder", "encoder", steps, settings, path, mark)


def make_decoder(
    name: str,
    choice: DataChoice,
    settings: DecoderSettings,
    device: torch.device | str,
    normals: Normals | None = None,
    *,
    resume: bool = True,
) -> Iterator[Stage]:
    """Trains the decoder on normals that set no threshold, and saves it at its end.

    After a crash the same call continues from its last checkpoint.

    Args:
        resume: go on from where a training with the same data, settings and F was cut off.
    """
    bundle = load_bundle(name, device)
    path = bundle.folder / DECODER_CHECKPOINT
    normals, images = _training_images(bundle, choice, normals)
    mark = {"images_sha256": images_sha256(images), "f_net": bundle.f_net.fingerprint}
    before = _checkpoint(path, mark, asdict(settings)) if resume else None
    facts = provenance(**normals.facts | {"images": len(images)})
    steps = train_decoder(images, bundle.f_net, settings, resume=before, facts=facts)
    yield from _saved(name, "decoder", "decoder", steps, settings, path, mark)


def _saved(
    name: str,
    part: str,
    label: str,
    steps: Iterator[TrainingStep],
    settings: AnoGANSettings | EncoderSettings | DecoderSettings,
    path: Path,
    mark: Mapping[str, Any],
    notes: tuple[str, ...] = (),
) -> Iterator[Stage]:
    """A rival's training as Stages; its checkpoints kept at `path`, its end saved as the bundle's `part`."""
    with closing(steps):
        for step in steps:
            if step.model is not None:
                save_part(name, **{part: step.model})
            if step.checkpoint is not None:
                _keep(path, mark, asdict(settings), step.checkpoint)
            yield Stage(label, step.step, step.total, dict(step.metrics), step.samples, notes)
            notes = ()
    path.unlink(missing_ok=True)


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
