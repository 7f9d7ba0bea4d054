"""The small U-Nets: the one that redraws images unchanged, and the one of `instant` mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace

import torch
from torch import Tensor

from anounet.bundle import PARTS, Bundle, load_bundle, save_part
from anounet.identity import UNetSettings
from anounet.identity import make_identity as identity_steps
from anounet.instant import InstantSettings, train_instant
from anounet.prepare.data import DataChoice, Normals, identity_images, read_normals
from anounet.prepare.stage import Stage, checkpoint_at, keep_checkpoint
from anounet.storage import load_weights, provenance

CHECKPOINT = "unet_instant.progress"  # beside the bundle's parts while its training runs


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
    normals, images = training_images(bundle, choice, normals)
    if keep and _is_trained(bundle, normals, len(images), settings):
        path.unlink(missing_ok=True)
        yield Stage("instant U-Net", settings.steps, settings.steps, {})
        return
    mark = {
        "data_sha256": normals.facts["data_sha256"],
        "images": len(images),
        "centers": local.fingerprint,
    }
    before = checkpoint_at(path, mark, asdict(settings)) if resume else None
    steps = train_instant(images, bundle.f_net, local, settings, resume=before)
    with closing(steps):
        for step in steps:
            if step.model is not None:
                facts = normals.facts | {"images": len(images), "settings": asdict(settings)}
                meta = provenance(**facts, steps=step.step, metrics=dict(step.metrics))
                save_part(name, instant=step.model, meta=meta)
            if step.checkpoint is not None:
                keep_checkpoint(path, mark, asdict(settings), step.checkpoint)
            yield Stage("instant U-Net", step.step, step.total, dict(step.metrics), step.samples)
    path.unlink(missing_ok=True)


def training_images(bundle: Bundle, choice: DataChoice, normals: Normals | None) -> tuple[Normals, Tensor]:
    """The normal images, and those of them to train on: (N, 3, H, W), `choice.count` at most.

    The images that set τ or C's threshold are kept apart, whatever seed and number are asked for now.
    """
    center = bundle.local or bundle.center
    made = center.meta if center is not None else {}
    used = {"seed": made.get("seed", choice.seed), "count": made.get("limit", DataChoice.count)}
    normals = normals or read_normals(replace(choice, **used))
    return normals, normals.pixels[normals.fit[: choice.count]]


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
