"""Which images: those F learns from, the normal ones of C and G, and those that are held back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from anounet.bundle import Bundle
from anounet.center import HELD_BACK, MIN_IMAGES, split_held_back
from anounet.datasets import DataError, ImageSet, choose, open_set
from anounet.presets import Preset, fitting
from anounet.training import images_sha256

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
    if preset is None:
        return {}
    own = {"article": {"beta": preset.beta, "steps": preset.steps}}
    return own | ({"fast": dict(preset.fast)} if preset.fast else {})


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


def normal_images(choice: DataChoice, count: int | None) -> tuple[ImageSet, list[int]]:
    """The normal class's good training images, `count` of them at most: (set, indices)."""
    images = open_set(choice.data, "train")
    images.check_classes([choice.normal])
    return images, choose(images.where(choice.normal, defective=False), count, choice.seed)


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
        "seed": choice.seed,
        "data_sha256": images_sha256(pixels),
        "skipped": [name for name, _ in skipped],
    }
    return Normals(pixels, torch.from_numpy(fit), torch.from_numpy(held), tuple(skipped), facts)


def normals_of(choice: DataChoice, made: Mapping[str, Any]) -> Normals:
    """The normal images that a part was made from, by what it says of them in its `meta`.

    With another seed or number others would be held back, some of which the part has learned from.
    """
    used = {"seed": made.get("seed", choice.seed), "count": made.get("limit", DataChoice.count)}
    return read_normals(replace(choice, **used))


def training_images(bundle: Bundle, choice: DataChoice, normals: Normals | None) -> tuple[Normals, Tensor]:
    """The normal images, and those of them to train on: (N, 3, H, W) uint8, `choice.count` at most.

    The images that set τ or C's threshold are kept apart, whatever seed and number are asked for now.
    """
    center = bundle.local or bundle.center
    normals = normals or normals_of(choice, center.meta if center is not None else {})
    return normals, normals.pixels[normals.fit[: choice.count]]


def held_back_normals(choice: DataChoice, limit: int, made: Mapping[str, Any]) -> Tensor:
    """Normal images that a part was *not* made from, for scales: (n, 3, size, size) in [0, 1].

    Args:
        limit: so many at most.
        made: the part's `meta`.
    """
    normals = normals_of(choice, made)
    return normals.pixels[choose(normals.held.tolist(), limit, choice.seed)].float() / 255


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


def identity_images(choice: DataChoice, count: int = 3000) -> Tensor:
    """Images of every kind for the identity U-Net: all classes of the data set, and of the reference."""
    sets = [open_set(name, "train") for name in (choice.data, choice.reference) if name]
    share = count // len(sets)
    return torch.cat(
        [s.readable(choose(s.where(defective=False), share, choice.seed), choice.size)[0] for s in sets]
    )
