"""What is trained for a bundle: the f-Net, the U-Net of `instant` mode, rivals."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anounet import ano_unet
from anounet.anogan import AnoGANSettings
from anounet.app.jobs import Job, closing_stream
from anounet.app.texts import t
from anounet.app.work.centers import MADE_BY, check_new_name, measure
from anounet.bundle import (
    PARTS,
    SHIPPED,
    default_device,
    load_bundle,
    read_info,
)
from anounet.decoder import DecoderSettings
from anounet.f_anogan import EncoderSettings
from anounet.images import to_pixels
from anounet.instant import InstantSettings
from anounet.metric_learning import FNetSettings
from anounet.pasting import PasteSettings, paste
from anounet.prepare import (
    DataChoice,
    RivalSettings,
    Stage,
    begun_f_net,
    begun_training,
    describe,
    f_net_data,
    make_anogan,
    make_decoder,
    make_encoder,
    make_f_net,
    make_instant,
    normal_images,
    own_settings,
    resume_f_net,
    unmeasured,
)
from anounet.storage import WeightsError

PASTED = 3  # examples shown while the instant U-Net learns


# --- f-Net -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FNetOutcome:
    """What a training left behind."""

    name: str  # the bundle
    epochs: int  # that were kept
    steps: int
    stopped: bool
    accuracy: float  # of the last batches
    curves: dict[str, tuple[float, ...]]


def train_f_net(
    job: Job,
    name: str,
    choice: DataChoice,
    settings: FNetSettings,
    start: bytes | str | None,
    start_name: str = "",
) -> FNetOutcome | None:
    """Trains F and saves it at the end of every epoch, so that a stop keeps the last one, and can go on.

    Args:
        start: a file of starting weights, or the name of a bundle whose F to go on from; None: the usual
            ones.
        start_name: the file's name.
    """
    check_new_name(name)
    job.stage(t("job.reading"))
    data = f_net_data(choice)
    job.check()
    job.stage(t("job.starting_weights"))
    info = describe(choice, command=MADE_BY, settings=own_settings(choice))
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(start, bytes):
            path = Path(folder) / Path(start_name).name  # the provenance names it
            path.write_bytes(start)
            start = str(path)
        stream = make_f_net(name, choice, settings, start, default_device(), info, data=data)
        return _follow_f_net(job, name, stream, settings.epochs)


def continue_f_net(job: Job, name: str) -> FNetOutcome | None:
    """Goes on with a training of F that was cut off, or stopped."""
    job.stage(t("job.reading"))
    begun = begun_f_net(name)
    if begun is None:
        raise WeightsError(t("train.nothing_begun", name=name))
    stream = resume_f_net(name, default_device(), command=MADE_BY)
    return _follow_f_net(job, name, stream, begun.training.settings.epochs)


def _follow_f_net(job: Job, name: str, stream: Iterator[Stage], epochs: int) -> FNetOutcome | None:
    """Shows a training of F and its end; None where it was stopped before F was saved for the first time."""
    stage, first, kept, accuracy = None, None, 0, 0.0
    with closing_stream(stream):
        for stage in stream:
            if not stage.metrics:  # only a note
                continue
            if first is None:
                first = stage.done
                job.stage(t("job.training_f_net"), stage.total, first=first - 1)
                kept, accuracy = (first - 1) * epochs // stage.total, stage.metrics["accuracy"]
            job.advance(stage.done, stage.total, stage.metrics)
            accuracy = 0.9 * accuracy + 0.1 * stage.metrics["accuracy"]
            if stage.done * epochs // stage.total > kept:  # at the end of an epoch F was saved
                kept += 1
                job.milestone()
            if job.cancelled:
                break
    if not kept:
        job.check()
        return None
    curves = dict(job.progress.curves)
    return FNetOutcome(name, kept, stage.done, stage.done < stage.total, accuracy, curves)


# --- instant -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InstantOutcome:
    """What a training of the instant U-Net left behind."""

    name: str
    steps: int  # that are in the saved net
    total: int
    curves: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Interrupted:
    """A training of the instant U-Net that was cut off and can go on."""

    step: int  # that it goes on from
    images: int  # that it learns from
    settings: InstantSettings


def interrupted(name: str, centers: str) -> Interrupted | None:
    """The training that was cut off; None if there is none.

    Args:
        centers: the fingerprint of the bundle's local centres; a training with others can't go on.
    """
    begun = begun_training(name, "instant")
    try:
        if begun is None or begun.mark["centers"] != centers:
            return None
        return Interrupted(begun.step, int(begun.mark["images"]), InstantSettings(**begun.settings))
    except (KeyError, TypeError, ValueError):
        return None


def train_instant(job: Job, name: str, choice: DataChoice, settings: InstantSettings) -> InstantOutcome:
    """Trains the instant U-Net and measures its maps; a stop keeps what every 50th step saved."""
    job.stage(t("job.reading"))
    if name == SHIPPED and PARTS["instant"] in read_info(name)["files"]:
        raise WeightsError(t("instant.shipped"))
    device, pasted, saved, step = default_device(), _pasted(choice), 0, 0
    stream = make_instant(name, choice, settings, device, keep=unmeasured(name, "instant"))
    with closing_stream(stream):
        for stage in stream:
            if step == 0:
                job.stage(t("job.training_instant"), stage.total, first=stage.done - 1)
            step, samples = stage.done, None
            if not stage.metrics:  # it had come to its end before, and is kept
                saved = step
            if stage.samples is not None:  # at these steps the net was saved, too
                saved, samples = step, _examples(name, pasted, device)
            job.advance(step, stage.total, _main_losses(stage.metrics), samples)
            if job.cancelled:
                break
    if not saved:
        job.check()
    curves = dict(job.progress.curves)
    job.milestone()
    measure(job, name, choice, ("instant",))
    return InstantOutcome(name, saved, settings.steps, curves)


def _pasted(choice: DataChoice) -> Tensor:
    """The same few normal images with foreign patches, to watch the net learn: (n, 3, size, size)."""
    images, indices = normal_images(choice, 2 * PASTED)
    normal = images.readable(indices, choice.size)[0].float() / 255
    half = max(1, len(normal) // 2)
    every = replace(PasteSettings(), share=1.0, thin=0.0, radius=(8.0, 24.0), opacity=(0.8, 1.0))
    return paste(normal[:half], normal[-half:], torch.Generator().manual_seed(0), every)[0]


def _examples(name: str, pasted: Tensor, device: torch.device) -> tuple[np.ndarray, ...]:
    """Pasted images, and then what the net makes of each of them now."""
    bundle = load_bundle(name, device)
    drawn = ano_unet.redraw(pasted, bundle.f_net, bundle.require_local(), bundle.require_instant()).y.cpu()
    return tuple(to_pixels(image) for image in (*pasted, *drawn))


def _main_losses(metrics: dict[str, float]) -> dict[str, float]:
    """Of the parts of L those that say most, so that their charts stay readable."""
    return {name: metrics[name] for name in ("L", "repair") if name in metrics}


def estimated_training(settings: InstantSettings, size: int, steps: int, cuda: bool | None = None) -> float:
    """A rough time for so many steps of a training of the instant U-Net, in seconds."""
    cuda = torch.cuda.is_available() if cuda is None else cuda
    return steps * (0.03 if cuda else 0.7) * settings.batch / 16 * (size / 96) ** 2


# --- rivals ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RivalTraining:
    """How a rival's part is trained, and whose map is measured then."""

    settings: type[RivalSettings]
    make: Callable[..., Iterator[Stage]]
    method: str


RIVALS = {
    "anogan": RivalTraining(AnoGANSettings, make_anogan, "anogan"),
    "encoder": RivalTraining(EncoderSettings, make_encoder, "f-anogan"),
    "decoder": RivalTraining(DecoderSettings, make_decoder, "decoder"),
}


@dataclass(frozen=True)
class RivalOutcome:
    """What the training of a rival's part left behind."""

    name: str  # the bundle
    part: str
    steps: int
    curves: dict[str, tuple[float, ...]]


def begun_rival(name: str, part: str) -> tuple[int, RivalSettings] | None:
    """The step and the settings of a training of a rival's part that was cut off; None if there is none."""
    begun = begun_training(name, part)
    try:
        return None if begun is None else (begun.step, RIVALS[part].settings(**begun.settings))
    except (TypeError, ValueError):
        return None


def train_rival(job: Job, name: str, part: str, choice: DataChoice, settings: RivalSettings) -> RivalOutcome:
    """Trains a rival's part for a bundle and measures its map; stopped, it can be gone on with."""
    job.stage(t("job.reading"))
    rival, begun = RIVALS[part], False
    keep = unmeasured(name, rival.method)
    stream = rival.make(name, choice, settings, default_device(), keep=keep)
    with closing_stream(stream):
        for stage in stream:
            if not begun:
                job.stage(t("job.training_rival"), stage.total, first=stage.done - 1)
                begun = True
            samples = None if stage.samples is None else tuple(to_pixels(x) for x in stage.samples[:8])
            job.advance(stage.done, stage.total, stage.metrics, samples)
            job.check()
    curves = dict(job.progress.curves)
    measure(job, name, choice, (rival.method,))
    return RivalOutcome(name, part, settings.steps, curves)
