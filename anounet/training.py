"""What every training here shares: its record, and shuffled batches from a local generator."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingStep:
    """One optimiser step of a training.

    Attributes:
        step: steps done, 1 … total.
        total: steps in all.
        metrics: name → value, averaged over this batch.
        model: a frozen copy of what is trained, at the end of each epoch and of the training, else None.
        samples: (n, 3, H, W) in [0, 1] to look at, now and then, else None.
        checkpoint: all that is needed to go on from this step, now and then, else None.
    """

    step: int
    total: int
    metrics: Mapping[str, float]
    model: Any = None
    samples: Tensor | None = None
    checkpoint: Mapping[str, Any] | None = None


class TrainingError(ArithmeticError):
    """A training that went astray; the message names the step, and the last checkpoint stays good."""


def batches_per_epoch(count: int, batch: int) -> int:
    return max(1, math.ceil(count / batch))


def shuffled_batches(count: int, batch: int, epochs: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """(epoch from 0, indices of a batch), each image once an epoch, in an order drawn from `seed`.

    A last batch of one is left out where there are others: BatchNorm cannot train on it.
    """
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        chunks = torch.randperm(count, generator=generator).split(batch)
        for indices in chunks:
            if len(indices) > 1 or len(chunks) == 1:
                yield epoch, indices


def steps_in_all(count: int, batch: int, epochs: int) -> int:
    whole = batches_per_epoch(count, batch)
    return epochs * (whole - 1 if count % batch == 1 and whole > 1 else whole)


def as_images(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) → float32 in [0, 1] on the device."""
    return pixels.to(device, non_blocking=True).float().div_(255)


def images_sha256(pixels: Tensor) -> str:
    """What a training's images are told from others by: SHA-256 of uint8 (N, 3, H, W)."""
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()


def check_loss(loss: Tensor, step: int, what: str) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"The loss of the {what} stopped being a number at step {step}: lower the learning rate. "
            "The last checkpoint is kept."
        )
    return value


def reinitialize(module: nn.Module, generator: torch.Generator, std: float | None = None) -> None:
    """Draws a net's convolutions and linear layers anew from `generator`, so that a seed fixes them.

    Normal, standard deviation `std`, or √(1 / fan-in) where it is None (LeCun et al. 1998); biases zero.
    """
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                weight = part.weight
                fan_in = weight[0].numel()
                drawn = torch.empty(weight.shape).normal_(
                    0.0, std if std is not None else fan_in**-0.5, generator=generator
                )
                weight.copy_(drawn)
                if part.bias is not None:
                    part.bias.zero_()
