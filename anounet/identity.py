"""The small U-Net that redraws images unchanged: where `fast` mode starts from.

It is made in one of two ways:

- `skip` (the default): the net draws a *change* of x (`UNet.image_skip`) with features drawn at random and a
  head of zeros, so it redraws every image unchanged from the start, with nothing to learn. Random features
  did better than trained ones here; that they act like a deep image prior (Ulyanov et al. 2018), making broad
  changes cheap and pixel noise dear, is a guess that was not tested.
- `trained`: a net without that skip, trained by L_R until it copies its input. It copies worse (mean abs
  error 0.02 against 0), and its map finds less: see benchmarks/README.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anounet.distributed import parallel
from anounet.storage import WeightsError, check_state, load_weights, rounded, save_weights
from anounet.training import TrainingStep, adam_steps, as_images, images_sha256
from anounet.unet import UNet

STARTS = ("skip", "trained")


@dataclass(frozen=True)
class UNetSettings:
    """The small U-Net and how it is made."""

    start: str = "skip"  # how it comes to redraw images unchanged: "skip" or "trained"
    width: int = 16  # channels at the finest level, 16-32-64-128-256 in all
    depth: int = 5
    steps: int = 1200  # updates, for "trained"
    batch: int = 16  # images a step
    learning_rate: float = 2e-3  # of Adam, falling to 0 along a half cosine
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(f"Unknown start {self.start!r} of the U-Net: choose one of {', '.join(STARTS)}.")
        for name, value, low, high in (
            ("width", self.width, 8, 128),
            ("depth", self.depth, 2, 5),
            ("number of steps", self.steps, 1, 1_000_000),
            ("batch", self.batch, 2, 1024),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"The U-Net's {name} must lie between {low} and {high}, not {value}.")


def make_identity(
    images: Tensor,
    settings: UNetSettings,
    device: torch.device | str = "cpu",
    *,
    resume: Mapping[str, Any] | None = None,
    samples_every: int = 100,
) -> Iterator[TrainingStep]:
    """Makes G(x) = x and measures how well it holds.

    Args:
        images: (N, 3, H, W) uint8, of every kind.
        resume: the last `checkpoint` of a training with the same settings and images, to go on from.
        samples_every: every how many steps of a training a TrainingStep carries 8 images as G redraws them.

    Yields:
        TrainingSteps with `L_R` = mean abs(x − G(x)); every 200th of a training carries a checkpoint, and the
        last the UNet.

    Raises:
        TrainingError: the loss stopped being a number; the step is named.
        ValueError: the checkpoint is of another training.
    """
    device = torch.device(device)
    generator = torch.Generator().manual_seed(settings.seed)
    if settings.start == "trained":
        yield from _train(images, settings, device, generator, resume, samples_every)
        return
    net = frozen(UNet.identity(settings.width, settings.depth, generator)).to(device)
    x = as_images(images[: settings.batch], device)
    with torch.no_grad():
        y = net(x)
    yield TrainingStep(1, 1, {"L_R": float((x - y).abs().mean())}, net.cpu(), y[:8].cpu())


def _train(
    images: Tensor,
    settings: UNetSettings,
    device: torch.device,
    generator: torch.Generator,
    resume: Mapping[str, Any] | None,
    samples_every: int,
) -> Iterator[TrainingStep]:
    """Trains a net without an image skip by L_R, on images of which some are in negative or other colours."""
    net = UNet.fresh(settings.width, settings.depth, "group", generator).to(device).train()
    run = parallel(net)

    def loss(chosen: Tensor) -> Tensor:
        x = as_images(images[chosen], device)
        kind = torch.randint(4, (len(x), 1, 1, 1), generator=generator).to(device)
        x = torch.where(kind == 1, 1 - x, torch.where(kind == 2, x.flip(1), x))
        x = x.contiguous(memory_format=torch.channels_last)
        return (x - run(x)).abs().mean()

    @torch.no_grad()
    def samples() -> Tensor:
        return net(as_images(images[:8], device)).cpu()  # its norms are the same in training

    yield from adam_steps(
        net,
        loss,
        len(images),
        settings,
        generator,
        what="U-Net",
        metric="L_R",
        described=asdict(settings) | {"images": images_sha256(images)},
        finish=lambda: frozen(net),
        samples=samples,
        samples_every=samples_every,
        resume=resume,
    )


def frozen(net: UNet) -> UNet:
    """A copy, rounded as a file holds it, that takes no gradient; `fast` mode copies it for each image."""
    kept = copy.deepcopy(net).cpu()
    kept.load_state_dict(rounded(kept.state_dict()))
    return kept.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def save_unet(path: Path, net: UNet, meta: dict[str, Any]) -> str:
    shape = {"width": net.width, "depth": net.depth, "norm": net.norm, "image_skip": net.image_skip}
    return save_weights(path, "unet", net.state_dict(), {"shape": shape, **meta})


def load_unet(path: Path, sha256: str | None = None) -> tuple[UNet, dict[str, Any]]:
    """Loads a small U-Net, frozen, and its provenance.

    Raises:
        WeightsError: missing, damaged, or not a U-Net of this program.
    """
    state, meta = load_weights(path, "unet", sha256=sha256)
    try:
        shape = meta.pop("shape")
        width, depth = int(shape["width"]), int(shape["depth"])
        if not (8 <= width <= 128 and 2 <= depth <= 5):
            raise ValueError("shape")
        net = UNet(width, depth, str(shape["norm"]), bool(shape["image_skip"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is no U-Net of this program: make it anew (train-unet).") from error
    check_state(path, state, net.state_dict())
    net.load_state_dict(state)
    return frozen(net), meta
