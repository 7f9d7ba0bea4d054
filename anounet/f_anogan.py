"""f-AnoGAN: an encoder E in place of AnoGAN's search, z = E(x) in one pass (Schlegl et al. 2019).

The GAN is trained and frozen. E is trained on normal images to lower what the paper calls izi_f,

    ‖x − G(E(x))‖² / n  +  κ · ‖f(x) − f(G(E(x)))‖² / n_d        κ = 1,

f the discriminator's last feature map, n and n_d the numbers of values in an image and in f (equation 3). The
same loss of one image is its score; abs(x − G(E(x))) is the map. E mirrors the discriminator. The paper's
RMSprop is Adam here, as everywhere in this program.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anounet.anogan import AnoGAN
from anounet.distributed import parallel
from anounet.storage import WeightsError, check_state, fingerprint, load_weights, rounded, save_weights
from anounet.training import (
    TrainingStep,
    adam_steps,
    as_images,
    images_sha256,
    mixed_precision,
    reinitialize,
)

KAPPA = 1.0  # κ


@dataclass(frozen=True)
class EncoderSettings:
    """The encoder and its training."""

    steps: int = 1000  # updates: about seven minutes on one core at 96 px
    batch: int = 32  # images a step
    learning_rate: float = 1e-3  # of Adam, falling to 0 along a half cosine
    width: int = 32  # channels at the finest level; twice as many at each coarser one
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("number of steps", self.steps, 1, 1_000_000),
            ("batch", self.batch, 2, 1024),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
            ("width", self.width, 8, 128),
        ):
            if not low <= value <= high:
                raise ValueError(f"The encoder's {name} must lie between {low} and {high}, not {value}.")


class Encoder(nn.Module):
    """Images (B, 3, size, size) in [0, 1] → z (B, latent), not bounded, as z ~ N(0, I) is not.

    Attributes:
        size: side of its images, divisible by 16.
        latent: numbers in z.
        gan: fingerprint of the GAN it was trained with.
        meta: its settings and provenance.
    """

    def __init__(
        self, settings: EncoderSettings, size: int, latent: int, gan: str = "", **facts: Any
    ) -> None:
        super().__init__()
        if size % 16 or not 16 <= size <= 1024 or not 1 <= latent <= 1024:
            raise ValueError("The encoder takes images with a side that 16 divides, and z of 1024 at most.")
        self.size, self.latent, self.gan = size, latent, gan
        self.meta = {"settings": asdict(settings), **facts}
        width = settings.width
        blocks: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width), (4 * width, 8 * width)):
            blocks += [
                nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.blocks = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8 * width * (size // 16) ** 2, latent))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(2 * x - 1)

    @property
    def fingerprint(self) -> str:
        return fingerprint(_floats(self))

    def frozen(self, **facts: Any) -> Encoder:
        """A copy on the CPU in eval mode, rounded as a file holds it, that takes no gradient."""
        kept = copy.deepcopy(self).cpu()
        kept.meta = self.meta | facts
        kept.load_state_dict(rounded(_floats(kept)), strict=False)
        return kept.requires_grad_(False).eval()

    def check(self, gan: AnoGAN | None, source: Path | str = "The encoder") -> Encoder:
        """Refuses a GAN that the encoder was not trained with, or none."""
        if gan is None or self.gan != gan.fingerprint:
            there = "none" if gan is None else gan.fingerprint[:12]
            raise WeightsError(
                f"{source} was trained with another AnoGAN ({self.gan[:12]}) than the one beside it "
                f"({there}): train both anew (train-anogan --encoder), or put the right AnoGAN back."
            )
        return self

    def save(self, path: Path) -> str:
        described = {"size": self.size, "latent": self.latent, "gan": self.gan}
        return save_weights(path, "encoder", _floats(self), described | self.meta)

    @classmethod
    def load(cls, path: Path, sha256: str | None = None) -> Encoder:
        """Loads an encoder, frozen.

        Raises:
            WeightsError: missing, damaged, or not of this program.
        """
        state, meta = load_weights(path, "encoder", sha256=sha256)
        try:
            settings = EncoderSettings(**meta.pop("settings"))
            size, latent, gan = int(meta.pop("size")), int(meta.pop("latent")), str(meta.pop("gan"))
            net = cls(settings, size, latent, gan, **meta)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path} is no encoder of this program: train it anew (train-encoder)."
            ) from error
        check_state(path, state, _floats(net))
        net.load_state_dict(state, strict=False)
        return net.frozen()


def _floats(net: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}


def losses(x: Tensor, y: Tensor, gan: AnoGAN) -> dict[str, Tensor]:
    """izi_f (module docstring), x and y = G(E(x)), (B, 3, H, H) → residual, discrimination, L, each (B,)."""
    features = gan.discriminator.features
    residual = (x - y).square().mean(dim=(1, 2, 3))
    discrimination = (features(x).float() - features(y).float()).square().mean(dim=(1, 2, 3))
    return {
        "residual": residual,
        "discrimination": discrimination,
        "L": residual + KAPPA * discrimination,
    }


class _Loss(nn.Module):
    """x, (B, 3, H, H) → L of each image, (B,)."""

    def __init__(self, encoder: Encoder, gan: AnoGAN) -> None:
        super().__init__()
        self.encoder, self.gan = encoder, gan

    def forward(self, x: Tensor) -> Tensor:
        return losses(x, self.gan.generator(self.encoder(x)), self.gan)["L"]


def train_encoder(
    images: Tensor,
    gan: AnoGAN,
    settings: EncoderSettings = EncoderSettings(),
    *,
    resume: Mapping[str, Any] | None = None,
    samples_every: int = 100,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[TrainingStep]:
    """Trains an encoder where the GAN is; the GAN stays as it is.

    Args:
        images: (N, 3, H, H) uint8, normal, N ≥ 2, at the GAN's size.
        resume: the last `checkpoint` of a training with the same settings, images and GAN, to go on from.
        samples_every: every how many steps a TrainingStep carries G(E(x)) of 8 images.
        facts: provenance to keep in the encoder.

    Yields:
        TrainingSteps with the batch's mean loss `L`; every 200th carries a checkpoint, and the last a frozen
        Encoder.

    Raises:
        TrainingError: the loss stopped being a number; the step is named.
        ValueError: wrong images, or the checkpoint is of another training.
    """
    if len(images) < 2:
        raise ValueError("The encoder needs 2 normal images or more.")
    gan.check_size(images)
    device = next(gan.parameters()).device
    draw = torch.Generator().manual_seed(settings.seed)
    net = Encoder(settings, gan.size, gan.latent, gan.fingerprint)
    reinitialize(net, draw)
    net = net.to(device).train()
    run = parallel(_Loss(net, gan))
    shown = as_images(images[:8], device)

    def loss(chosen: Tensor) -> Tensor:
        x = as_images(images[chosen], device)
        with mixed_precision(device):
            return run(x).mean()

    @torch.no_grad()
    def samples() -> Tensor:
        drawn = gan.generator(net.eval()(shown)).cpu()
        net.train()
        return drawn

    yield from adam_steps(
        net,
        loss,
        len(images),
        settings,
        draw,
        what="encoder",
        metric="L",
        described=asdict(settings) | {"images": images_sha256(images), "GAN": gan.fingerprint},
        finish=lambda: net.frozen(**(facts or {})),
        samples=samples,
        samples_every=samples_every,
        resume=resume,
    )


@torch.no_grad()
def redraw(x: Tensor, gan: AnoGAN, encoder: Encoder) -> tuple[Tensor, dict[str, Tensor]]:
    """y = G(E(x)) and its `losses`, on the CPU: (B, 3, H, H) in [0, 1] at the GAN's size."""
    gan.check_size(x)
    x = x.to(next(gan.parameters()).device)
    y = gan.generator(encoder(x))
    return y.cpu(), {name: value.cpu() for name, value in losses(x, y, gan).items()}
