"""The small U-Nets: the one that redraws images unchanged, and the one of `instant` mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from anounet import distributed
from anounet.bundle import PARTS, bundle_folder, load_bundle, save_part
from anounet.identity import UNetSettings
from anounet.identity import make_identity as identity_steps
from anounet.instant import InstantSettings, train_instant
from anounet.prepare.data import DataChoice, Normals, identity_images, training_images
from anounet.prepare.stage import CHECKPOINTS, Stage, Training
from anounet.storage import WeightsError, load_weights, provenance
from anounet.training import TrainingStep, images_sha256


def make_identity(
    name: str,
    choice: DataChoice,
    settings: UNetSettings,
    device: torch.device | str,
    *,
    resume: bool = True,
    keep: bool = False,
) -> Iterator[Stage]:
    """Makes an identity U-Net of the bundle's own, and saves it.

    Args:
        resume: go on from where a training with the same images and settings was cut off.
        keep: leave the net as it is where such a training came to its end.
    """
    images, folder = identity_images(choice), bundle_folder(name)
    own = {"images_sha256": images_sha256(images)}
    training = Training("identity U-Net", folder / CHECKPOINTS["identity"], own, asdict(settings))
    if distributed.agreed(lambda: keep and training.ended(_meta(folder, "identity", "unet"), **own)):
        yield Stage(training.label, settings.steps, settings.steps, {})
        return
    facts = {"data": choice.data, "reference": choice.reference, "images": len(images)}
    meta = provenance(**facts, **own, settings=asdict(settings))
    yield from training.stages(
        lambda before: identity_steps(images, settings, device, resume=before),
        lambda step: save_part(name, identity=step.model, meta=meta),
        resume=resume,
    )


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
    local = bundle.require_local()
    normals, images = training_images(bundle, choice, normals)
    own = {"data_sha256": normals.facts["data_sha256"], "images": len(images)}
    mark = own | {"centers": local.fingerprint}
    training = Training("instant U-Net", bundle.folder / CHECKPOINTS["instant"], mark, asdict(settings))
    # That the net there belongs to the bundle's local centres was checked when the bundle was opened.
    there = _meta(bundle.folder, "instant", "unet_instant") if bundle.instant is not None else {}
    if distributed.agreed(lambda: keep and training.ended(there, **own, steps=settings.steps)):
        yield Stage(training.label, settings.steps, settings.steps, {})
        return
    facts = normals.facts | own | {"settings": asdict(settings)}

    def save(step: TrainingStep) -> None:
        meta = provenance(**facts, steps=step.step, metrics=dict(step.metrics))
        save_part(name, instant=step.model, meta=meta)

    yield from training.stages(
        lambda before: train_instant(images, bundle.f_net, local, settings, resume=before),
        save,
        resume=resume,
    )


def _meta(folder: Path, part: str, kind: str) -> Mapping[str, Any]:
    """What a part says of itself; nothing where it is not there."""
    try:
        return load_weights(folder / PARTS[part], kind)[1]
    except WeightsError:
        return {}
