"""F's stage: trained, gone on with after a kill, or kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anounet import distributed
from anounet.bundle import PARTS, SHIPPED, bundle_folder, bundle_names, load_bundle, save_part
from anounet.datasets import DataError
from anounet.feature_net import Backbone, BackboneSettings, FeatureNet, starting_backbone
from anounet.metric_learning import FNetSettings, train_f_net
from anounet.prepare.data import DataChoice, FNetData, describe, f_net_data, own_settings
from anounet.prepare.stage import CHECKPOINTS, Stage
from anounet.storage import (
    WeightsError,
    discard,
    file_sha256,
    load_checkpoint,
    load_weights,
    provenance,
    save_checkpoint,
)


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
    kept = load_checkpoint(bundle_folder(name) / CHECKPOINTS["f_net"])
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
    distributed.check_alike(asdict(training), "f-Net")
    if keep and (steps := _steps_of(name, training)):
        discard(bundle_folder(name) / CHECKPOINTS["f_net"])
        yield Stage("f-Net", steps, steps, {})
        return
    if distributed.first() and not resume:
        discard(bundle_folder(name) / CHECKPOINTS["f_net"])
    begun = distributed.agreed(lambda: begun_f_net(name) if resume else None)
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
    training, path = begun.training, bundle_folder(name) / CHECKPOINTS["f_net"]
    first = distributed.first()  # of several processes it alone writes files
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
            if first and step.model is not None:
                meta = provenance(**facts, steps=step.step, total=step.total, metrics=dict(step.metrics))
                save_part(name, f_net=step.model, meta=meta, **info)
            if first and step.checkpoint is not None:
                replace(begun, checkpoint=dict(step.checkpoint)).save(path)
            yield Stage("f-Net", step.step, step.total, dict(step.metrics))
    distributed.wait()
    if first:
        discard(path)


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
