"""The training of a bundle's second classifier, as a stream of Stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anounet import distributed
from anounet.bundle import load_bundle, save_part
from anounet.datasets import choose, open_set
from anounet.feature_net import BackboneSettings, starting_backbone
from anounet.prepare import DataChoice, Stage
from anounet.second_classifier import ClassifierSettings, class_of, description, train_second_classifier
from anounet.storage import discard, file_sha256, load_checkpoint, provenance, save_checkpoint
from anounet.training import images_sha256

CHECKPOINT = "classifier.progress"  # beside the bundle's parts while the training runs
SPLITS = ("train", "validation")  # what is reported comes from the test split; defects are in validation
READ_AT_ONCE = 1000  # images


@dataclass(frozen=True)
class ClassifierData:
    """What the second classifier learns from.

    Attributes:
        images: (N, 3, size, size) uint8.
        labels: (N,) int64, places in `classes`.
        classes: every class of the data set; what is defective is one of its own.
        skipped: why images that could not be read were left out.
        facts: for the provenance.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    skipped: tuple[str, ...]
    facts: dict[str, Any]


def classifier_data(choice: DataChoice, settings: ClassifierSettings) -> ClassifierData:
    """Reads images of all classes, those that F never sees too, from all splits but the test split.

    Raises:
        DataError: the data set is not here.
    """
    sets = [open_set(choice.data, split) for split in SPLITS]
    everything = [(number, index) for number, images in enumerate(sets) for index in range(len(images))]
    chosen = [everything[i] for i in choose(range(len(everything)), settings.images, settings.seed)]
    # Read in parts into one tensor: of all images of a large set there is no memory for a second copy.
    pixels = torch.empty(len(chosen), 3, choice.size, choice.size, dtype=torch.uint8)
    names: list[str] = []
    skipped: list[str] = []
    for number, images in enumerate(sets):
        indices = [index for where, index in chosen if where == number]
        for start in range(0, len(indices), READ_AT_ONCE):
            part, kept, faults = images.readable(indices[start : start + READ_AT_ONCE], choice.size)
            pixels[len(names) : len(names) + len(part)] = part
            names += [class_of(images.items[i]) for i in kept]
            skipped += [why for _, why in faults]
    pixels = pixels[: len(names)]
    classes = tuple(sorted(set(names)))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([numbers[name] for name in names], dtype=torch.int64)
    facts = {"data": choice.data, "splits": list(SPLITS), "images": len(pixels), "size": choice.size}
    facts["data_sha256"] = images_sha256(pixels)
    return ClassifierData(pixels, labels, classes, tuple(skipped), facts)


def make_classifier(
    name: str,
    choice: DataChoice,
    settings: ClassifierSettings,
    start: str | None,
    device: torch.device | str,
    *,
    resume: bool = True,
) -> Iterator[Stage]:
    """Trains the bundle's second classifier and saves it at its end.

    Every 200 steps all that the training needs to go on is saved: after a crash the same call continues
    there.

    Args:
        choice: the bundle's; of it the data set and the size count.
        start: a file of starting weights, or "download"; see `starting_backbone`. Never the bundle's own F.
        resume: go on from where a training with the same data, settings and start was cut off.

    Raises:
        WeightsError: no starting weights can be had.
    """
    bundle = load_bundle(name, device, only_f_net=True)
    path = bundle.folder / CHECKPOINT
    backbone, source = starting_backbone(start, BackboneSettings(width=settings.width))
    mark = file_sha256(Path(start)) if start is not None and Path(start).is_file() else source
    data = classifier_data(choice, settings)
    notes = tuple(f"left out: {why}" for why in data.skipped)
    if bundle.f_net.settings.width == settings.width:
        notes += (f"F of '{name}' has width {settings.width:g} too: another width judges more independently",)
    described = description(data.images, data.labels, data.classes, settings, mark)
    distributed.check_alike(described, "second classifier")
    first = distributed.first()  # of several processes it alone writes files
    if first and not resume:
        discard(path)
    before = distributed.agreed(lambda: load_checkpoint(path) if resume else None)
    if before is not None and before.get("described") != described:
        before, notes = None, (*notes, f"{path.name} is of another training: the classifier is trained anew")
    steps = train_second_classifier(
        backbone,
        data.images,
        data.labels,
        data.classes,
        settings,
        device,
        start=mark,
        resume=before,
        facts=provenance(**data.facts, starting_weights=source),
    )
    with closing(steps):
        for step in steps:
            metrics = dict(step.metrics)
            if step.model is not None:
                if first:
                    save_part(name, classifier=step.model)
                metrics["held-back accuracy"] = step.model.meta["accuracy"]
            if first and step.checkpoint is not None:
                save_checkpoint(path, step.checkpoint)
            yield Stage("second classifier", step.step, step.total, metrics, notes=notes)
            notes = ()
    distributed.wait()
    if first:
        discard(path)
