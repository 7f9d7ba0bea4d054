"""What the stages of a preparation share: how they report, and how their checkpoints are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from anounet.storage import load_checkpoint, save_checkpoint


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


def checkpoint_at(path: Path, mark: Mapping[str, Any], plan: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a training with these data and settings goes on from; None where there is nothing of the kind."""
    kept = load_checkpoint(path)
    same = kept is not None and kept.get("mark") == mark and kept.get("plan") == plan
    return kept["checkpoint"] if same else None


def keep_checkpoint(
    path: Path, mark: Mapping[str, Any], plan: Mapping[str, Any], checkpoint: Mapping[str, Any]
) -> None:
    save_checkpoint(path, {"mark": mark, "plan": plan, "checkpoint": dict(checkpoint)})
