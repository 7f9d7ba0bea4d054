"""What the stages of a preparation share: how they report, and how a training survives a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from anounet import distributed
from anounet.bundle import PARTS, bundle_folder
from anounet.storage import discard, load_checkpoint, save_checkpoint
from anounet.training import TrainingStep

# Part → the file beside it that its training goes on from, while it runs.
CHECKPOINTS = {part: Path(file).with_suffix(".progress").name for part, file in PARTS.items()}


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
class Training:
    """A part's training: what makes it what it is, and where it keeps what it needs to go on.

    Attributes:
        label: what its stages are called.
        path: its checkpoint.
        mark: hashes of the images that it learns from, and of the nets that it belongs to.
        settings: as JSON types.
    """

    label: str
    path: Path
    mark: Mapping[str, Any]
    settings: Mapping[str, Any]

    def stages(
        self,
        train: Callable[[Mapping[str, Any] | None], Iterator[TrainingStep]],
        save: Callable[[TrainingStep], object],
        *,
        resume: bool,
    ) -> Iterator[Stage]:
        """Runs the training, from its checkpoint where there is one of the same mark and settings.

        Of several processes the first one reads the checkpoint for all, and it alone writes files.

        Args:
            train: a checkpoint or None → the steps from there on.
            save: saves the model that a step carries.
            resume: whether to look for a checkpoint.
        """
        distributed.check_alike({**self.mark, **self.settings}, self.label)
        first = distributed.first()
        if first and not resume:
            discard(self.path)
        before = distributed.agreed(lambda: begun(self.path) if resume else None)
        same = before is not None and (before.mark, before.settings) == (self.mark, self.settings)
        notes: tuple[str, ...] = ()
        if before is not None and not same:
            notes = (f"{self.path.name} is of a training with other settings or images: starts anew.",)
        with closing(train(before.checkpoint if same else None)) as steps:
            for step in steps:
                if first and step.model is not None:
                    save(step)
                if first and step.checkpoint is not None:
                    kept = {"mark": dict(self.mark), "plan": dict(self.settings)}
                    save_checkpoint(self.path, kept | {"checkpoint": dict(step.checkpoint)})
                yield Stage(self.label, step.step, step.total, dict(step.metrics), step.samples, notes)
                notes = ()
        distributed.wait()  # the next training may need what was saved
        if first:
            discard(self.path)

    def ended(self, meta: Mapping[str, Any], **wanted: Any) -> bool:
        """Whether a part says of itself that it is what this training ends with; a checkpoint then goes."""
        wanted["settings"] = dict(self.settings)
        same = all(meta.get(key) == value for key, value in wanted.items())
        if same:
            discard(self.path)
        return same


@dataclass(frozen=True)
class Begun:
    """A training that was cut off: what it was of, and what it goes on from."""

    mark: Mapping[str, Any]
    settings: Mapping[str, Any]
    checkpoint: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.checkpoint["step"])


def begun(path: Path) -> Begun | None:
    """The training that a checkpoint is of; None where there is none, or none that can be read."""
    kept = load_checkpoint(path)
    try:
        found = Begun(dict(kept["mark"]), dict(kept["plan"]), dict(kept["checkpoint"]))
        return found if found.step > 0 else None
    except (KeyError, TypeError, ValueError):
        return None


def begun_training(name: str, part: str) -> Begun | None:
    """The training of a bundle's part, F apart, that was cut off."""
    return begun(bundle_folder(name) / CHECKPOINTS[part])
