"""Ano-Unet: a U-Net redraws one image until the f-Net takes it for a normal one (shinmura0 2019).

    L = L_R + β · L_C
    L_R = mean over pixels and channels of abs(x − y)          y = G(x)
    L_C = mean over the 1280 features of abs(F(y) − C)         global C: the article's
    L_C = mean over patches of max(0, d(y) − τ)                local C: see `local_centers`

With a slack s a global C is content as a local one is: L_C = max(0, mean abs(F(y) − C) − τ_s), τ_s the
quantile s of held-back normal images. abs(F(y) − C) pulls as strongly near C as far from it: without slack a
normal image is changed nearly as much as an anomalous one, and F is fooled long after it was satisfied.

The article writes sums; its notebook, and its β of 50 and 80, are for means, and so are ours
(β for sums = β · 27648 / 1280 at 96×96). β of a global C and of a local one are not of one unit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from anounet.center import Center
from anounet.feature_net import FeatureNet
from anounet.images import content_seed
from anounet.independent import IndependentNets
from anounet.local_centers import LocalCenters, patches, seen_distances
from anounet.optimize import Step, descend, side_by_side
from anounet.training import mixed_precision
from anounet.unet import GatedUNet, UNet

MODES = ("instant", "fast", "article")
CENTERS = ("local", "global")
MAX_STEPS = 1000
MAX_BETA = 10_000.0
MAX_SMOOTHING = 16.0
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """How an image is redrawn; `DEFAULTS` has each mode's, chosen on validation data."""

    # Where G starts: "article" at random, "fast" at a net that redraws images unchanged, "instant" at a net
    # trained once on L over normal images with patches pasted in.
    mode: str = "fast"
    beta: float = 50.0  # β, the weight of L_C, for means
    steps: int = 20  # updates of G per image; for instant mode refining steps
    learning_rate: float = 3e-3  # of Adam (fast, instant) or of SGD with momentum 0.9 (article)
    center: str = "global"  # "global": the article's C, one for the image; "local": one for every patch
    smoothing: float = 2.0  # σ of the Gaussian over the map, in pixels at a side of 96; the article has none
    # Of a global C: F asks for no more than this quantile of held-back normal images; 0: the article's L_C.
    slack: float = 0.0
    seed: int = 0  # of G's random start in article mode, together with the image's content
    # An image's steps end where the last five took no more than this share off L of all that was taken off
    # it; 0: never, as in the article.
    stop: float = 0.0
    # Of the instant U-Net's one pass. bfloat16 is faster where the hardware has it (AVX-512 BF16, GPUs); maps
    # are then within some 1 % of float32's, and an image's depend on its batch by as much.
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"Unknown mode {self.mode!r}: choose one of {', '.join(MODES)}.")
        if self.center not in CENTERS:
            raise ValueError(f"Unknown kind of C {self.center!r}: choose one of {', '.join(CENTERS)}.")
        if self.mode == "instant" and self.center == "global":
            raise ValueError("instant mode was trained with local centres: use them, or another mode.")
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

        if not 0 <= self.slack <= 1:
            raise ValueError(f"The slack is a share of normal images, 0 to 1, not {self.slack}.")
        if not 0 <= self.stop < 1:
            raise ValueError(f"Where L no longer falls is a share from 0 to below 1, not {self.stop}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Unknown precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}.")
        if self.precision != "float32" and self.mode != "instant":
            raise ValueError(f"{self.mode} mode computes in float32: bfloat16 is for instant mode.")

    @property
    def method(self) -> str:
        """What scales and thresholds are kept under: the mode, and the kind of C where it has two."""
        return self.mode if self.center == _USUAL_CENTER[self.mode] else f"{self.mode}-{self.center}"


_USUAL_CENTER = {"instant": "local", "fast": "global", "article": "global"}
# The article's two experiments; SGD(1e-3, momentum 0.9) and a fresh U-Net for every image.
ARTICLE_PRESETS = {
    "β 50, 150 steps (CIFAR-10, horse and deer)": Settings(
        "article", 50.0, 150, learning_rate=1e-3, smoothing=0.0
    ),
    "β 80, 200 steps (DAGM class 6)": Settings("article", 80.0, 200, learning_rate=1e-3, smoothing=0.0),
}
STOP = 0.02
DEFAULTS = {
    "instant": Settings("instant", 3.0, 0, learning_rate=3e-4, center="local", smoothing=1.5, stop=STOP),
    "fast": Settings(stop=STOP),
    "article": ARTICLE_PRESETS["β 80, 200 steps (DAGM class 6)"],
}

# fast mode with local centres: their L_C is of another unit.
LOCAL = Settings("fast", 3.0, 20, center="local", stop=STOP)


def losses(
    x: Tensor, f_net: FeatureNet, center: Center | LocalCenters, beta: float, slack: float = 0.0
) -> Callable[[Tensor], dict[str, Tensor]]:
    """The objective of the module's docstring: y (B, 3, H, W) → L_R, L_C and L, each (B,)."""
    content = center.level(slack) if isinstance(center, Center) and slack else 0.0

    def objective(y: Tensor) -> dict[str, Tensor]:
        reconstruction = (x - y).abs().mean(dim=(1, 2, 3))
        if isinstance(center, LocalCenters):
            centering = center.centering(center.distance(patches(y, f_net, center.settings)))
        else:
            centering = (center.distance(f_net(y)) - content).clamp_min(0)
        return {"L_R": reconstruction, "L_C": centering, "L": reconstruction + beta * centering}

    return objective


def reconstruct(
    x: Tensor,
    f_net: FeatureNet,
    center: Center | LocalCenters,
    settings: Settings,
    start: UNet | GatedUNet | None = None,
    *,
    snapshot_every: int = 0,
    together: bool | None = None,
) -> Iterator[Step]:
    """Redraws images as if they were normal; every image has a U-Net of its own.

    Args:
        x: (B, 3, H, W) in [0, 1], on any device; the work is done where F is.
        center: C, of the kind that the settings say.
        start: the small U-Net to start from: one that redraws images unchanged for `fast` mode, the trained
            one for `instant` mode; each image has a copy of it.
        snapshot_every: every how many steps a Step carries its image.
        together: run the B U-Nets as one (`independent`), which takes B times their memory, or one after the
            other, bit for bit as alone; None: together on a GPU.

    Yields:
        settings.steps + 1 Steps with L_R, L_C and L, fewer where all images stop early; the last one carries
        y, (B, 3, H, W).
    """
    if isinstance(center, LocalCenters) is not (settings.center == "local"):
        raise ValueError(f"The settings ask for a {settings.center} C, and another kind was given.")
    if settings.mode == "fast" and start is None:
        raise ValueError(
            "fast mode starts from the identity U-Net, and this bundle has none: run train-unet."
        )
    if settings.mode == "instant" and not isinstance(start, GatedUNet):
        raise ValueError("instant mode needs its trained U-Net, and this bundle has none: run train-instant.")
    device = next(f_net.parameters()).device
    if isinstance(center, LocalCenters):
        center = center.to(device)
    x = x.to(device)
    if together is None:
        together = device.type != "cpu"
    parts = [x] if together else x.split(1)
    return side_by_side([_descent(part, f_net, center, settings, start, snapshot_every) for part in parts])


def _descent(
    x: Tensor,
    f_net: FeatureNet,
    center: Center | LocalCenters,
    settings: Settings,
    start: UNet | None,
    every: int,
) -> Iterator[Step]:
    """The optimisation of B images at once, every one by a net of its own."""
    x = x.contiguous(memory_format=torch.channels_last)

    def own(index: int) -> UNet:
        if settings.mode != "article":
            return copy.deepcopy(start)
        generator = torch.Generator().manual_seed(content_seed(x[index], settings.seed))
        return UNet.fresh(64, 5, "instance", generator)

    if len(x) == 1:
        g = own(0).to(x.device).requires_grad_(True)
    else:
        g = IndependentNets(len(x), own, x.device)
    seen = _seen(x, f_net, center) if isinstance(start, GatedUNet) and settings.mode == "instant" else None

    def render() -> Tensor:
        return g(x) if seen is None else g(x, seen)[0]

    def optimizer(p: list[Tensor]) -> torch.optim.Optimizer:
        if settings.mode == "article":
            return torch.optim.SGD(p, settings.learning_rate, momentum=0.9, fused=True)
        return torch.optim.Adam(p, settings.learning_rate, fused=True)

    yield from descend(
        g.parameters(),
        render,
        losses(x, f_net, center, settings.beta, settings.slack),
        optimizer,
        steps=settings.steps,
        snapshot_every=every,
        # The small U-Net's operations on one image are too short to share between cores: one thread is as
        # fast where the cores are free, and many times faster where they are not. Cores take whole images.
        threads=None if settings.mode == "article" else 1,
        stop=settings.stop,
    )


@torch.no_grad()
def _seen(x: Tensor, f_net: FeatureNet, centers: LocalCenters) -> Tensor:
    return seen_distances(centers.distance(patches(x, f_net, centers.settings)), centers.tau, x.shape[-1])


@dataclass(frozen=True)
class Evidence:
    """An image beside its normalised one, as F sees them patch by patch; on the device where F is.

    Attributes:
        y: the normalised images, (B, 3, H, W).
        before: d of the images' patches, (B, h, w), in standard deviations of normal patches.
        after: d of the normalised images' patches, as `before`.
        change: ‖(f(x) − f(y)) / σ‖ per patch, as `before`.
        gate: where the instant U-Net redrew, (B, H, W) in [0, 1]; None for other modes.
    """

    y: Tensor
    before: Tensor
    after: Tensor
    change: Tensor
    gate: Tensor | None = None


@torch.no_grad()
def redraw(
    x: Tensor, f_net: FeatureNet, centers: LocalCenters, g: GatedUNet, precision: str = "float32"
) -> Evidence:
    """`instant` mode without refining, a whole batch in one pass: (B, 3, H, W) in [0, 1] → Evidence.

    An image's y is the same in any batch, to the rounding of `precision`, which is G's alone: distances are
    differences of nearly equal numbers, which bfloat16 can't hold.
    """
    device = next(f_net.parameters()).device
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    features = patches(x, f_net, centers.settings)
    before = centers.distance(features)
    with mixed_precision(device) if precision == "bfloat16" else nullcontext():
        y, gate = g(x, seen_distances(before, centers.tau, x.shape[-1]))
    return _evidence(features, before, y, f_net, centers, torch.sigmoid(gate.float())[:, 0])


@torch.no_grad()
def compare(x: Tensor, y: Tensor, f_net: FeatureNet, centers: LocalCenters) -> Evidence:
    """The Evidence for an image and a normalised one that any mode drew: (B, 3, H, W) twice."""
    device = next(f_net.parameters()).device
    x, y = (t.to(device).contiguous(memory_format=torch.channels_last) for t in (x, y))
    features = patches(x, f_net, centers.settings)
    return _evidence(features, centers.distance(features), y, f_net, centers, None)


def _evidence(
    features: Tensor,
    before: Tensor,
    y: Tensor,
    f_net: FeatureNet,
    centers: LocalCenters,
    gate: Tensor | None,
) -> Evidence:
    redrawn = patches(y, f_net, centers.settings)
    after = centers.distance(redrawn)
    precision = centers.weights / centers.spreads.square().mean(dim=0)
    change = (features - redrawn).square_().permute(0, 2, 3, 1) @ precision
    return Evidence(y.contiguous(), before, after, change.sqrt(), gate)
