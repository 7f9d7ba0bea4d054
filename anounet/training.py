"""What every training here shares: its record, and shuffled batches from a local generator."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

CHECKPOINT_EVERY = 200  # steps of `adam_steps`


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
    return hashlib.sha256(pixels.contiguous().numpy()).hexdigest()


def check_loss(loss: Tensor, step: int, what: str) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"The loss of the {what} stopped being a number at step {step}: lower the learning rate. "
            "The last checkpoint is kept."
        )
    return value


def mixed_precision(device: torch.device) -> AbstractContextManager[None]:
    """Convolutions and matrix products in bfloat16 where the device has instructions for it, else nothing.

    For nets of plain convolutions, whose training takes half the time so, on a CPU too (AVX-512 BF16).
    Weights, their gradients and their updates stay in float32 (Micikevicius et al. 2018).
    """
    if device.type == "cuda":
        fits = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fits = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(device.type, torch.bfloat16) if fits else nullcontext()


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


class TrainingSettings(Protocol):
    """What `adam_steps` needs of a training's settings."""

    steps: int
    batch: int
    learning_rate: float


def adam_steps(
    net: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    settings: TrainingSettings,
    draw: torch.Generator,
    *,
    what: str,
    metric: str,
    described: Mapping[str, Any],
    finish: Callable[[], Any],
    samples: Callable[[], Tensor] | None = None,
    samples_every: int = 100,
    resume: Mapping[str, Any] | None = None,
) -> Iterator[TrainingStep]:
    """Trains a net by Adam, its rate falling to 0 along a half cosine, on batches drawn with replacement.

    Args:
        net: in training mode, where it is to be trained.
        loss: indices of a batch, (B,) of 0 … count − 1 → what is minimised, a scalar.
        draw: what batches are drawn from; a checkpoint holds its state.
        what: the net, and `metric` the loss, for people.
        described: JSON types that say what the training is of; a checkpoint of another is refused.
        finish: the frozen net that the last step carries.
        samples: (n, 3, H, W) in [0, 1] to look at, every `samples_every` steps and at the end, if any.
        resume: the last `checkpoint`, to go on from: the same net comes out, bit for bit.

    Raises:
        TrainingError: the loss stopped being a number.
        ValueError: the checkpoint is of another training.
    """
    update = torch.optim.Adam(net.parameters(), settings.learning_rate, fused=True)
    first, total = 0, settings.steps
    if resume is not None:
        check_resumed(resume, described, what)
        net.load_state_dict(resume["net"])
        update.load_state_dict(resume["optimizer"])
        draw.set_state(resume["generator"])
        first = int(resume["step"])
    for step in range(first + 1, total + 1):
        for group in update.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / total))
        now = loss(torch.randint(count, (settings.batch,), generator=draw))
        value = check_loss(now, step, what)
        update.zero_grad(set_to_none=True)
        now.backward()
        update.step()
        last, checkpoint = step == total, None
        if step % CHECKPOINT_EVERY == 0 and not last:
            checkpoint = {
                "step": step,
                "described": dict(described),
                "net": on_cpu(net.state_dict()),
                "optimizer": copy.deepcopy(update.state_dict()),
                "generator": draw.get_state(),
            }
        yield TrainingStep(
            step=step,
            total=total,
            metrics={metric: value},
            model=finish() if last else None,
            samples=samples() if samples and (last or step % samples_every == 0) else None,
            checkpoint=checkpoint,
        )


def check_resumed(checkpoint: Mapping[str, Any], described: Mapping[str, Any], what: str) -> None:
    """Refuses a checkpoint of another training: what it was of is not what is `described` now."""
    before = checkpoint.get("described")
    if before != dict(described):
        known = before if isinstance(before, Mapping) else {}
        other = [name for name, value in described.items() if known.get(name) != value]
        raise ValueError(
            f"This checkpoint of the {what} is of a training with other {', '.join(other) or 'settings'}: "
            "go on with the same ones, or start anew without it."
        )


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that no later step changes."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
