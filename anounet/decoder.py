"""The decoder, a rival: draws an image anew from F(x) alone, and knows how to draw normal ones only.

F is frozen. The decoder, after F(x), (1280,), with a side of 96:

    1280 → 1024 → 18432 (Linear, BatchNorm, ReLU, each)  →  128 × 12 × 12
    → ×2, 128 → 64  → ×2, 64 → 32 (depthwise-separable, BatchNorm, ReLU)  → ×2, 5×5 to 3, sigmoid

Trained on normal images, y = decoder(F(x)), to lower mean abs(x − y); the map is abs(x − y). L1 and not
MSE: it is what the map shows, and its optimum, a median, keeps edges that a mean would blur.
Depthwise-separable convolutions: Chollet 2017.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anounet.center import features_of
from anounet.distributed import parallel
from anounet.feature_net import FEATURES, FeatureNet
from anounet.storage import WeightsError, check_state, fingerprint, load_weights, rounded, save_weights
from anounet.training import TrainingStep, adam_steps, as_images, images_sha256, mixed_precision, reinitialize

MAX_SIDE = 208  # a larger side's second linear layer makes a file that is too large to be opened


@dataclass(frozen=True)
class DecoderSettings:
    """The decoder and its training."""

    steps: int = 1000  # updates: about eight minutes on one core at 96 px
    batch: int = 32  # images a step
    learning_rate: float = 1e-3  # of Adam, falling to 0 along a half cosine
    hidden: int = 1024  # outputs of the first linear layer
    width: int = 128  # channels at side / 8; half as many after each of two doublings
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("number of steps", self.steps, 1, 1_000_000),
            ("batch", self.batch, 2, 1024),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
            ("hidden size", self.hidden, 8, 1024),
            ("width", self.width, 8, 128),
        ):
            if not low <= value <= high:
                raise ValueError(f"The decoder's {name} must lie between {low} and {high}, not {value}.")
        if self.width % 4:
            raise ValueError(f"The decoder's width must be divisible by 4, and {self.width} is not.")


class Decoder(nn.Module):
    """F(x), (B, 1280) → images (B, 3, size, size) in (0, 1); the formula at the top.

    Attributes:
        size: side of its images.
        f_net: fingerprint of the F it was trained with.
        meta: its settings and provenance.
    """

    def __init__(self, settings: DecoderSettings, size: int, f_net: str = "", **facts: Any) -> None:
        super().__init__()
        self.size, self.f_net, self.meta = check_side(size), f_net, {"settings": asdict(settings), **facts}
        width = settings.width
        self.start = (width, size // 8, size // 8)
        self.linear = nn.Sequential(
            *_dense(FEATURES, settings.hidden), *_dense(settings.hidden, math.prod(self.start))
        )
        self.blocks = nn.Sequential(
            *_separable(width, width // 2),
            *_separable(width // 2, width // 4),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width // 4, 3, 5, padding=2),
        )

    def forward(self, features: Tensor) -> Tensor:
        # F(x) of one class lie so near each other that bfloat16 would take some for the same.
        with torch.autocast(features.device.type, enabled=False):
            start = self.linear(features).unflatten(1, self.start)
        return torch.sigmoid(self.blocks(start).float())

    @property
    def fingerprint(self) -> str:
        return fingerprint(_floats(self))

    def frozen(self, **facts: Any) -> Decoder:
        """A copy on the CPU in eval mode, rounded as a file holds it, that takes no gradient."""
        kept = copy.deepcopy(self).cpu()
        kept.meta = self.meta | facts
        kept.load_state_dict(rounded(_floats(kept)), strict=False)
        return kept.requires_grad_(False).eval()

    def check(self, f_net: FeatureNet, source: Path | str = "The decoder") -> Decoder:
        """Refuses an f-Net that the decoder was not trained with."""
        if self.f_net != f_net.fingerprint:
            raise WeightsError(
                f"{source} was trained with another f-Net ({self.f_net[:12]}) than the one beside it "
                f"({f_net.fingerprint[:12]}): train it anew (train-decoder), or put the right f-Net back."
            )
        return self

    def save(self, path: Path) -> str:
        return save_weights(
            path, "decoder", _floats(self), {"size": self.size, "f_net": self.f_net, **self.meta}
        )

    @classmethod
    def load(cls, path: Path, sha256: str | None = None) -> Decoder:
        """Loads a decoder, frozen.

        Raises:
            WeightsError: missing, damaged, or not of this program.
        """
        state, meta = load_weights(path, "decoder", sha256=sha256)
        try:
            settings = DecoderSettings(**meta.pop("settings"))
            net = cls(settings, int(meta.pop("size")), str(meta.pop("f_net")), **meta)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path} is no decoder of this program: train it anew (train-decoder)."
            ) from error
        check_state(path, state, _floats(net))
        net.load_state_dict(state, strict=False)
        return net.frozen()


def check_side(size: int) -> int:
    """A side of images that a decoder can draw, as it is; a ValueError for any other."""
    if size % 8 or not 16 <= size <= MAX_SIDE:
        raise ValueError(
            f"The decoder draws images with a side from 16 to {MAX_SIDE} that 8 divides, not {size}."
        )
    return size


def _dense(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]


def _separable(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Upsample(scale_factor=2),
        nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False),
        nn.Conv2d(before, after, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]


def _floats(net: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}


def train_decoder(
    images: Tensor,
    f_net: FeatureNet,
    settings: DecoderSettings = DecoderSettings(),
    *,
    resume: Mapping[str, Any] | None = None,
    samples_every: int = 100,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[TrainingStep]:
    """Trains a decoder where F is. No image is changed in training, so F(x) is computed once for each.

    Args:
        images: (N, 3, H, H) uint8, normal, N ≥ 2, 8 divides H.
        resume: the last `checkpoint` of a training with the same settings and F, to go on from.
        samples_every: every how many steps a TrainingStep carries 8 images as the decoder draws them.
        facts: provenance to keep in the decoder.

    Yields:
        TrainingSteps with `L1`, the mean abs(x − y) of the batch; every 200th carries a checkpoint, and the
        last a frozen Decoder.

    Raises:
        TrainingError: the loss stopped being a number; the step is named.
        ValueError: wrong images, or the checkpoint is of another training.
    """
    if len(images) < 2 or images.shape[-2] != images.shape[-1]:
        raise ValueError("The decoder needs 2 normal images or more, square.")
    device = next(f_net.parameters()).device
    draw = torch.Generator().manual_seed(settings.seed)
    net = Decoder(settings, images.shape[-1], f_net.fingerprint)
    reinitialize(net, draw)
    net = net.to(device).train()
    run = parallel(net)
    features = torch.cat([features_of(f_net, as_images(part, device)) for part in images.split(32)])

    def loss(chosen: Tensor) -> Tensor:
        with mixed_precision(device):
            drawn = run(features[chosen].to(device))
        return (drawn - as_images(images[chosen], device)).abs().mean()

    @torch.no_grad()
    def samples() -> Tensor:
        drawn = net.eval()(features[:8].to(device)).cpu()
        net.train()
        return drawn

    yield from adam_steps(
        net,
        loss,
        len(images),
        settings,
        draw,
        what="decoder",
        metric="L1",
        described=asdict(settings) | {"images": images_sha256(images), "f-Net": f_net.fingerprint},
        finish=lambda: net.frozen(**(facts or {})),
        samples=samples,
        samples_every=samples_every,
        resume=resume,
    )


@torch.no_grad()
def redraw(x: Tensor, f_net: FeatureNet, decoder: Decoder) -> Tensor:
    """y = decoder(F(x)): (B, 3, H, H) in [0, 1] at the decoder's size → the same on the CPU."""
    if x.shape[-1] != decoder.size or x.shape[-2] != decoder.size:
        raise ValueError(
            f"This decoder takes images of {decoder.size}×{decoder.size}, not {x.shape[-2]}×{x.shape[-1]}."
        )
    device = next(decoder.parameters()).device
    return decoder(f_net(x.to(device))).float().cpu()
