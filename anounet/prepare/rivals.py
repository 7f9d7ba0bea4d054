"""The rivals: AnoGAN, f-AnoGAN's encoder, the decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from anounet.anogan import AnoGANSettings, train_anogan
from anounet.bundle import bundle_folder, load_bundle, save_part
from anounet.decoder import DecoderSettings, train_decoder
from anounet.f_anogan import EncoderSettings, train_encoder
from anounet.prepare.data import DataChoice, Normals, normal_images
from anounet.prepare.stage import Stage, checkpoint_at, keep_checkpoint
from anounet.prepare.unets import training_images
from anounet.storage import provenance
from anounet.training import TrainingStep, images_sha256

# Beside the bundle's parts while their training runs.
ANOGAN_CHECKPOINT, ENCODER_CHECKPOINT = "anogan.progress", "encoder.progress"
DECODER_CHECKPOINT = "decoder.progress"


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
    before = checkpoint_at(path, mark, asdict(settings)) if resume else None
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
    normals, images = training_images(bundle, choice, normals)
    mark = {"images_sha256": images_sha256(images), "gan": gan.fingerprint}
    before = checkpoint_at(path, mark, asdict(settings)) if resume else None
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
    normals, images = training_images(bundle, choice, normals)
    mark = {"images_sha256": images_sha256(images), "f_net": bundle.f_net.fingerprint}
    before = checkpoint_at(path, mark, asdict(settings)) if resume else None
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
                keep_checkpoint(path, mark, asdict(settings), step.checkpoint)
            yield Stage(label, step.step, step.total, dict(step.metrics), step.samples, notes)
            notes = ()
    path.unlink(missing_ok=True)
