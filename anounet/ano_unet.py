"""Ano-Unet: a U-Net redraws one image until the f-Net takes it for a normal one (shinmura0 2019).

    L = L_R + β · L_C
    L_R = mean over pixels and channels of abs(x − y)          y = G(x)
    L_C = mean over the 1280 features of abs(F(y) − C)

The article writes sums; its notebook, and its β of 50 and 80, are for means, and so are ours
(β for sums = β · 27648 / 1280 at 96×96).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from anounet.center import Center
from anounet.feature_net import FeatureNet
from anounet.images import content_seed
from anounet.optimize import Step, descend, side_by_side
from anounet.unet import UNet

MODES = ("fast", "article")
MAX_STEPS = 1000
MAX_BETA = 10_000.0
MAX_SMOOTHING = 16.0


@dataclass(frozen=True)
class Settings:
    """How an image is redrawn. The defaults are `fast` mode's, chosen on validation data."""

    mode: str = "fast"  # where G starts: "article" at random, "fast" at a net that redraws images unchanged
    beta: float = 50.0  # β, the weight of L_C, for means
    steps: int = 20  # updates of G per image
    learning_rate: float = 3e-3  # of Adam (fast) or of SGD with momentum 0.9 (article)
    smoothing: float = 2.0  # σ of the Gaussian over the map, in pixels at a side of 96; the article has none
    seed: int = 0  # of G's random start in article mode, together with the image's content

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"Unknown mode {self.mode!r}: choose one of {', '.join(MODES)}.")
        if not 0 <= self.beta <= MAX_BETA:  # also refuses NaN
            raise ValueError(f"β must lie between 0 and {MAX_BETA:g}, not {self.beta}.")
        if not (isinstance(self.steps, int) and 0 <= self.steps <= MAX_STEPS):
            raise ValueError(f"Steps must be a whole number between 0 and {MAX_STEPS}, not {self.steps}.")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"The learning rate must lie between 0 and 1, not {self.learning_rate}.")
        if not 0 <= self.smoothing <= MAX_SMOOTHING:
            raise ValueError(
                f"The smoothing must lie between 0 and {MAX_SMOOTHING:g} px, not {self.smoothing}."
            )


# The article's two experiments; SGD(1e-3, momentum 0.9) and a fresh U-Net for every image.
ARTICLE_PRESETS = {
    "β 50, 150 steps (CIFAR-10, horse and deer)": Settings(
        "article", 50.0, 150, learning_rate=1e-3, smoothing=0.0
    ),
    "β 80, 200 steps (DAGM class 6)": Settings("article", 80.0, 200, learning_rate=1e-3, smoothing=0.0),
}
DEFAULTS = {"fast": Settings(), "article": ARTICLE_PRESETS["β 80, 200 steps (DAGM class 6)"]}


def losses(
    x: Tensor, f_net: FeatureNet, center: Center, beta: float
) -> Callable[[Tensor], dict[str, Tensor]]:
    """The objective of the module's docstring: y (B, 3, H, W) → L_R, L_C and L, each (B,)."""

    def objective(y: Tensor) -> dict[str, Tensor]:
        reconstruction = (x - y).abs().mean(dim=(1, 2, 3))
        centering = center.score(f_net(y))
        return {"L_R": reconstruction, "L_C": centering, "L": reconstruction + beta * centering}

    return objective


def reconstruct(
    x: Tensor,
    f_net: FeatureNet,
    center: Center,
    settings: Settings,
    identity: UNet | None = None,
    *,
    snapshot_every: int = 0,
) -> Iterator[Step]:
    """Redraws images as if they were normal; every image has a U-Net of its own.

    Args:
        x: (B, 3, H, W) in [0, 1], on any device; the work is done where F is.
        identity: the small U-Net that redraws images unchanged; `fast` mode starts from a copy of it.
        snapshot_every: every how many steps a Step carries its image.

    Yields:
        settings.steps + 1 Steps with L_R, L_C and L; the last one carries y, (B, 3, H, W).
    """
    if settings.mode == "fast" and identity is None:
        raise ValueError(
            "fast mode starts from the identity U-Net, and this bundle has none: run train-unet."
        )
    device = next(f_net.parameters()).device
    return side_by_side(
        [_one(image[None].to(device), f_net, center, settings, identity, snapshot_every) for image in x]
    )


def _one(
    x: Tensor, f_net: FeatureNet, center: Center, settings: Settings, identity: UNet | None, every: int
) -> Iterator[Step]:
    if settings.mode == "article":
        generator = torch.Generator().manual_seed(content_seed(x[0], settings.seed))
        g = UNet.fresh(64, 5, "instance", generator)
    else:
        g = copy.deepcopy(identity)
    g = g.to(x.device).requires_grad_(True)
    x = x.contiguous(memory_format=torch.channels_last)
    if settings.mode == "article":

        def optimizer(p: list[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.SGD(p, settings.learning_rate, momentum=0.9, fused=True)
    else:

        def optimizer(p: list[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.Adam(p, settings.learning_rate, fused=True)

    yield from descend(
        g.parameters(),
        lambda: g(x),
        losses(x, f_net, center, settings.beta),
        optimizer,
        steps=settings.steps,
        snapshot_every=every,
        # The small U-Net's operations on one image are too short to share between cores: one thread is as
        # fast where the cores are free, and many times faster where they are not. Cores take whole images.
        threads=1 if settings.mode == "fast" else None,
    )
