"""The whole preparation: a `Plan`, and its stages one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from anounet.anogan import AnoGANSettings
from anounet.bundle import bundle_folder, copy_f_net, default_device, read_info, save_part
from anounet.decoder import DecoderSettings, check_side
from anounet.f_anogan import EncoderSettings
from anounet.identity import UNetSettings
from anounet.instant import InstantSettings
from anounet.local_centers import PatchSettings
from anounet.metric_learning import FNetSettings
from anounet.prepare.centers import make_centers
from anounet.prepare.data import DataChoice, describe, own_settings, read_normals
from anounet.prepare.f_net import make_f_net
from anounet.prepare.levels import NORMALS, make_scales
from anounet.prepare.rivals import make_anogan, make_decoder, make_encoder
from anounet.prepare.stage import Stage
from anounet.prepare.unets import make_identity, make_instant


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
    score: str | None = None  # what C's score goes by, one of `center.METRICS`; None: see `usual_metric`
    article_scale: int = 0  # normals redrawn in article mode for its scale: most of a minute each on a CPU


def prepare(
    name: str,
    plan: Plan,
    command: str = "anounet.prepare",
    device: torch.device | str | None = None,
    *,
    fast: dict[str, Any] | None = None,
) -> Iterator[Stage]:
    """Makes the bundle `name`, saving each part as soon as it is done.

    A training that was cut off goes on where it was, when its images and settings are the same; where the
    same preparation was cut off later than that, the trained net is kept.

    Args:
        command: what made it, kept in bundle.json.
        device: where to train; a GPU where there is one by default.
        fast: the bundle's own settings for `fast` mode, where they differ from the program's.
    """
    start, choice = time.time(), plan.choice
    device = default_device() if device is None else device
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
    yield from make_centers(name, choice, plan.patches, device, normals, plan.score)
    if plan.identity is not None:
        yield from make_identity(name, choice, plan.identity, device, keep=cut_off)
    else:
        save_part(name, without=("identity",))
    for make, chosen in (
        (make_instant, plan.instant),
        (make_anogan, plan.anogan),
        (make_encoder, plan.encoder),
        (make_decoder, plan.decoder),
    ):
        if chosen is not None:
            yield from make(name, choice, chosen, device, normals, keep=cut_off)
    yield from make_scales(name, choice, device, NORMALS | {"article": plan.article_scale})
    save_part(name, seconds_to_prepare=round(time.time() - start))


def _was_cut_off(name: str, command: str) -> bool:
    """Whether the last preparation of the bundle was by this command, and did not come to its end."""
    if not (bundle_folder(name) / "bundle.json").is_file():
        return False
    info = read_info(name)
    return info.get("command") == command and info.get("seconds_to_prepare") is None
