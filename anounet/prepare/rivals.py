"""The rivals: AnoGAN, f-AnoGAN's encoder, the decoder.

Each is trained on the normal images that G is trained on, never on held-back ones, which set its map's level;
it is saved at its end, and after a kill the same call goes on from the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import torch

from anounet import distributed
from anounet.anogan import AnoGANSettings, train_anogan
from anounet.bundle import Bundle, load_bundle, save_part
from anounet.decoder import DecoderSettings, train_decoder
from anounet.f_anogan import EncoderSettings, train_encoder
from anounet.prepare.data import DataChoice, Normals, training_images
from anounet.prepare.stage import CHECKPOINTS, Stage, Training
from anounet.storage import provenance
from anounet.training import TrainingStep, images_sha256

LABELS = {"anogan": "AnoGAN", "encoder": "encoder", "decoder": "decoder"}  # part → what its stages are called
RivalSettings = AnoGANSettings | EncoderSettings | DecoderSettings


def make_anogan(
    name: str,
    choice: DataChoice,
    settings: AnoGANSettings,
    device: torch.device | str,
    normals: Normals | None = None,
    *,
    resume: bool = True,
    keep: bool = False,
) -> Iterator[Stage]:
    """Trains AnoGAN.

    Args:
        resume: go on from where a training with the same images and settings was cut off.
        keep: leave the GAN as it is where such a training came to its end.
    """
    bundle, train = load_bundle(name, device), partial(train_anogan, settings=settings, device=device)
    how = {"resume": resume, "keep": keep}
    yield from _stages(name, bundle, "anogan", choice, settings, normals, {}, train, **how)


def make_encoder(
    name: str,
    choice: DataChoice,
    settings: EncoderSettings,
    device: torch.device | str,
    normals: Normals | None = None,
    *,
    resume: bool = True,
    keep: bool = False,
) -> Iterator[Stage]:
    """Trains f-AnoGAN's encoder for the bundle's AnoGAN; the arguments are those of `make_anogan`."""
    bundle = load_bundle(name, device)
    gan = bundle.require_anogan()
    net, train = {"gan": gan.fingerprint}, partial(train_encoder, gan=gan, settings=settings)
    yield from _stages(
        name, bundle, "encoder", choice, settings, normals, net, train, resume=resume, keep=keep
    )


def make_decoder(
    name: str,
    choice: DataChoice,
    settings: DecoderSettings,
    device: torch.device | str,
    normals: Normals | None = None,
    *,
    resume: bool = True,
    keep: bool = False,
) -> Iterator[Stage]:
    """Trains the decoder for the bundle's F; the arguments are those of `make_anogan`."""
    bundle = load_bundle(name, device)
    net = {"f_net": bundle.f_net.fingerprint}
    train = partial(train_decoder, f_net=bundle.f_net, settings=settings)
    yield from _stages(
        name, bundle, "decoder", choice, settings, normals, net, train, resume=resume, keep=keep
    )


def _stages(
    name: str,
    bundle: Bundle,
    part: str,
    choice: DataChoice,
    settings: RivalSettings,
    normals: Normals | None,
    net: dict[str, str],
    train: Callable[..., Iterator[TrainingStep]],
    *,
    resume: bool,
    keep: bool,
) -> Iterator[Stage]:
    """The training of a rival's part, which belongs to `net`; its end is saved in the bundle."""
    normals, images = training_images(bundle, choice, normals)
    own, there = {"images_sha256": images_sha256(images)}, getattr(bundle, part)
    training = Training(LABELS[part], bundle.folder / CHECKPOINTS[part], own | net, asdict(settings))
    # That the part there belongs to the bundle's net was checked when the bundle was opened.
    if distributed.agreed(lambda: keep and there is not None and training.ended(there.meta, **own)):
        yield Stage(training.label, settings.steps, settings.steps, {})
        return
    facts = provenance(**normals.facts | {"images": len(images)} | own)
    yield from training.stages(
        lambda before: train(images, resume=before, facts=facts),
        lambda step: save_part(name, **{part: step.model}),
        resume=resume,
    )
