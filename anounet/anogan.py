"""AnoGAN, the rival: a GAN of normal images, and a search for the latent z whose image is nearest to x.

Schlegl et al. 2017: minimise over z, with f the discriminator's last feature map and λ = 0.1,

    (1 − λ) · Σ abs(x − G(z)) + λ · Σ abs(f(x) − f(G(z)))

The loss where the search ends is the score; abs(x − G(z)) is the map. The GAN is a DCGAN (Radford et al.
2016) made stable with spectral norm (Miyato et al. 2018), the hinge loss (Lim and Ye 2017), two learning
rates (Heusel et al. 2017), noise on what the discriminator sees (Sønderby et al. 2017) and a moving average
of the generator. The mode-seeking term (Mao et al. 2019) keeps z's images apart: without it the
generator of a texture draws one grey image for every z, and there is nothing to search.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import remove_parametrizations

from anounet.distributed import parallel
from anounet.images import content_seed
from anounet.optimize import Step, descend
from anounet.storage import WeightsError, check_state, fingerprint, load_weights, rounded, save_weights
from anounet.training import (
    TrainingStep,
    as_images,
    check_loss,
    check_resumed,
    images_sha256,
    mixed_precision,
    on_cpu,
    reinitialize,
    shuffled_batches,
    steps_in_all,
)

CHECKPOINT_EVERY = 100
CURVE_POINTS = 200  # of a training's losses that an AnoGAN keeps


@dataclass(frozen=True)
class AnoGANSettings:
    """How the GAN is trained."""

    latent: int = 100  # numbers in z ~ N(0, I)
    width: int = 32  # channels at the finest level; twice as many at each coarser one
    steps: int = 1500  # generator updates
    batch: int = 32  # images a step
    learning_rate: float = 4e-4  # of the generator's Adam, betas (0, 0.9); falls to 0 over the second half
    discriminator_rate: float = 1e-4  # of the discriminator's, likewise
    noise: float = 0.1  # standard deviation of the noise on the discriminator's input, falling to 0
    seeking: float = 0.05  # weight of the mode-seeking term
    average: float = 0.99  # decay of the generator's moving average
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("latent size", self.latent, 1, 1024),
            ("width", self.width, 8, 128),
            ("number of steps", self.steps, 1, 1_000_000),
            ("batch", self.batch, 2, 1024),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
            ("discriminator's learning rate", self.discriminator_rate, 1e-7, 1.0),
            ("noise", self.noise, 0.0, 1.0),
            ("mode-seeking weight", self.seeking, 0.0, 10.0),
            ("decay of the average", self.average, 0.0, 0.99999),
        ):
            if not low <= value <= high:
                raise ValueError(f"AnoGAN's {name} must lie between {low} and {high}, not {value}.")


@dataclass(frozen=True)
class SearchSettings:
    """How z is searched for."""

    steps: int = 500  # Adam steps (the paper's number)
    learning_rate: float = 0.02  # of Adam
    weight: float = 0.1  # λ, of the discriminator's features
    smoothing: float = 2.0  # σ of the Gaussian over the map, as Ano-Unet's; 0 is the paper's bare residual
    restarts: int = 1  # starts of z for each image, searched from side by side; the one of least loss is kept
    seed: int = 0  # of z's starts, together with the image's content

    def __post_init__(self) -> None:
        if not (isinstance(self.steps, int) and 0 <= self.steps <= 5000):
            raise ValueError(
                f"AnoGAN's search steps must be a whole number from 0 to 5000, not {self.steps}."
            )
        if not (isinstance(self.restarts, int) and 1 <= self.restarts <= 64):
            raise ValueError(f"AnoGAN's restarts must be a whole number from 1 to 64, not {self.restarts}.")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"AnoGAN's λ must lie between 0 and 1, not {self.weight}.")
        if not 0 < self.learning_rate <= 10:
            raise ValueError(f"AnoGAN's learning rate must lie between 0 and 10, not {self.learning_rate}.")


class Generator(nn.Module):
    """z (B, latent) → images (B, 3, size, size) in (0, 1): four doublings up from size / 16."""

    def __init__(self, latent: int, width: int, size: int) -> None:
        super().__init__()
        self.start = (8 * width, size // 16, size // 16)
        self.project = nn.Linear(latent, 8 * width * (size // 16) ** 2)
        blocks: list[nn.Module] = [nn.BatchNorm2d(8 * width), nn.ReLU(inplace=True)]
        for c in (8 * width, 4 * width, 2 * width):
            blocks += [
                nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c // 2),
                nn.ReLU(inplace=True),
            ]
        self.blocks = nn.Sequential(*blocks, nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        # In float32 also where the layers are in bfloat16: its steps of 1/256 are a pixel's own.
        return torch.sigmoid(self.blocks(self.project(z).view(-1, *self.start)).float())


class Discriminator(nn.Module):
    """Images (B, 3, size, size) → logits (B,); `features` is the last feature map before them."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in zip(
            (3, width, 2 * width, 4 * width), (width, 2 * width, 4 * width, 8 * width), strict=True
        ):
            blocks += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        self.blocks = nn.Sequential(*blocks)
        self.logit = nn.Linear(8 * width * (size // 16) ** 2, 1)

    def features(self, x: Tensor) -> Tensor:
        return self.blocks(2 * x - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.logit(self.features(x).flatten(1))[:, 0]


class AnoGAN(nn.Module):
    """A trained GAN, frozen by construction: eval mode always, no parameter takes a gradient."""

    def __init__(self, generator: Generator, discriminator: Discriminator, size: int, meta: dict[str, Any]):
        super().__init__()
        self.generator, self.discriminator = copy.deepcopy(generator), copy.deepcopy(discriminator)
        for part in list(self.discriminator.modules()):
            if hasattr(part, "parametrizations"):  # keep the weight that spectral norm last gave
                remove_parametrizations(part, "weight")
        self.size, self.meta = size, meta
        self.latent = self.generator.project.in_features
        self.load_state_dict(rounded(self.cpu().state_dict()), strict=False)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> AnoGAN:
        """Does nothing: a trained GAN stays as it is."""
        return self

    @property
    def fingerprint(self) -> str:
        """What an encoder names its GAN by."""
        return fingerprint(_floats(self))

    @torch.no_grad()
    def samples(self, count: int = 8, seed: int = 0) -> Tensor:
        """Images of as many z ~ N(0, I): (count, 3, size, size) in [0, 1], on the CPU."""
        z = torch.randn(count, self.latent, generator=torch.Generator().manual_seed(seed))
        return self.generator(z.to(next(self.parameters()).device)).cpu()

    def check_size(self, x: Tensor) -> None:
        """Refuses images (…, H, W) of another size than the GAN's."""
        if x.shape[-1] != self.size or x.shape[-2] != self.size:
            raise ValueError(
                f"This AnoGAN takes images of {self.size}×{self.size}, not {x.shape[-2]}×{x.shape[-1]}."
            )

    def save(self, path: Path) -> str:
        return save_weights(path, "anogan", _floats(self), {"size": self.size, **self.meta})

    @classmethod
    def load(cls, path: Path, sha256: str | None = None) -> AnoGAN:
        state, meta = load_weights(path, "anogan", sha256=sha256)
        try:
            settings, size = AnoGANSettings(**meta["settings"]), int(meta.pop("size"))
            if size % 16 or not 16 <= size <= 1024:
                raise ValueError("size")
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path} is no AnoGAN of this program: train it anew (train-anogan)."
            ) from error
        parts = _bare(settings, size)
        gan = cls(*parts, size, meta)
        check_state(path, state, _floats(gan))
        gan.load_state_dict(state, strict=False)
        return gan


def _bare(settings: AnoGANSettings, size: int) -> tuple[Generator, Discriminator]:
    return Generator(settings.latent, settings.width, size), Discriminator(settings.width, size)


def _floats(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in module.state_dict().items() if not n.endswith("num_batches_tracked")}


def train_anogan(
    images: Tensor,
    settings: AnoGANSettings,
    device: torch.device | str = "cpu",
    *,
    resume: Mapping[str, Any] | None = None,
    samples_every: int = 100,
    facts: dict[str, Any] | None = None,
) -> Iterator[TrainingStep]:
    """Trains a GAN on normal images.

    Args:
        images: (N, 3, H, H) uint8, 16 divides H.
        resume: the last `checkpoint` of a training with the same settings and images, to go on from; the GAN
            that comes out is the one of a training without a stop, bit for bit.
        samples_every: every how many steps a TrainingStep carries 16 samples of the averaged generator.
        facts: provenance to keep in the model.

    Yields:
        A TrainingStep a step with the losses `generator` and `discriminator`; every 100th carries a
        checkpoint, and the last an AnoGAN, whose `meta` holds the losses' curves.

    Raises:
        TrainingError: a loss stopped being a number; the step is named.
        ValueError: wrong images, or the checkpoint is of another training.
    """
    size = images.shape[-1]
    if len(images) < 2 or size % 16 or images.shape[-2] != size:
        raise ValueError("AnoGAN needs 2 normal images or more, square, with a side that 16 divides.")
    run = _Training(settings, size, torch.device(device))
    described, first = asdict(settings) | {"images": images_sha256(images)}, 0
    if resume is not None:
        check_resumed(resume, described, "AnoGAN")
        first = run.go_on(resume)
    epochs = -(-settings.steps // max(1, steps_in_all(len(images), settings.batch, 1)))
    batches = shuffled_batches(len(images), settings.batch, epochs, settings.seed)
    for step, (_, indices) in islice(zip(count(1), batches, strict=False), first, settings.steps):
        metrics = run.step(as_images(images[indices], run.device), step)
        last, model = step == settings.steps, None
        if last:
            meta = {"settings": asdict(settings), "curves": run.curves, **(facts or {})}
            model = AnoGAN(run.average, run.d, size, meta)
        yield TrainingStep(
            step=step,
            total=settings.steps,
            metrics=metrics,
            model=model,
            samples=_samples(run.average, run.fixed) if last or step % samples_every == 0 else None,
            checkpoint={"step": step, "described": described, **run.state()}
            if step % CHECKPOINT_EVERY == 0 and not last
            else None,
        )


class _Training:
    """All that a step of the training changes: both nets, G's average, optimisers, and what is drawn."""

    def __init__(self, settings: AnoGANSettings, size: int, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.draw = torch.Generator().manual_seed(settings.seed)
        g, d = _bare(settings, size)
        for net in (g, d):
            reinitialize(net, self.draw)
        for part in list(d.modules()):
            if isinstance(part, nn.Conv2d | nn.Linear):
                _spectral_norm(part, self.draw)
        self.g, self.d = g.to(device).train(), d.to(device).train()
        self.average = copy.deepcopy(self.g)
        self.run_g, self.run_d = parallel(self.g), parallel(self.d)
        self.update_g = torch.optim.Adam(self.g.parameters(), betas=(0.0, 0.9), fused=True)
        self.update_d = torch.optim.Adam(self.d.parameters(), betas=(0.0, 0.9), fused=True)
        self.fixed = torch.randn(16, settings.latent, generator=self.draw).to(device)
        self.curves: dict[str, list[float]] = {"step": [], "generator": [], "discriminator": []}

    def step(self, real: Tensor, number: int) -> dict[str, float]:
        """One update of both nets, the `number`-th from 1: real images (B, 3, H, H) in [0, 1] → losses."""
        settings, relu = self.settings, nn.functional.relu
        rate = min(1.0, 2 * (1 - (number - 1) / settings.steps))
        self.update_g.param_groups[0]["lr"] = settings.learning_rate * rate
        self.update_d.param_groups[0]["lr"] = settings.discriminator_rate * rate
        level = settings.noise * (1 - number / settings.steps)
        z = torch.randn(2, len(real), settings.latent, generator=self.draw).to(self.device)
        with mixed_precision(self.device):
            with torch.no_grad():
                fake = self.run_g(z[0])
            # Lim and Ye 2017
            loss_d = relu(1 - self.run_d(self._noisy(real, level)).float()).mean()
            loss_d = loss_d + relu(1 + self.run_d(self._noisy(fake, level)).float()).mean()
        self.update_d.zero_grad(set_to_none=True)
        loss_d.backward()
        self.update_d.step()
        self.d.requires_grad_(False)
        with mixed_precision(self.device):
            fake = self.run_g(z[1])
            loss_g = -self.run_d(self._noisy(fake, level)).float().mean()
        self.update_g.zero_grad(set_to_none=True)
        (loss_g + settings.seeking * _mode_seeking(fake, z[1])).backward()
        self.update_g.step()
        self.d.requires_grad_(True)
        metrics = {
            "generator": check_loss(loss_g, number, "generator"),
            "discriminator": check_loss(loss_d, number, "discriminator"),
        }
        _follow(self.average, self.g, min(settings.average, number / (number + 10)))
        if number == settings.steps or number % -(-settings.steps // CURVE_POINTS) == 0:
            for name, value in ({"step": number} | metrics).items():
                self.curves[name].append(round(value, 4))
        return metrics

    def _noisy(self, x: Tensor, level: float) -> Tensor:
        return x + level * torch.randn(x.shape, generator=self.draw).to(self.device)

    def state(self) -> dict[str, Any]:
        nets = {name: on_cpu(getattr(self, name).state_dict()) for name in ("g", "d", "average")}
        updates = {name: copy.deepcopy(getattr(self, name).state_dict()) for name in ("update_g", "update_d")}
        return nets | updates | {"generator": self.draw.get_state(), "curves": copy.deepcopy(self.curves)}

    def go_on(self, checkpoint: Mapping[str, Any]) -> int:
        """Takes a checkpoint's state; gives the steps it has done."""
        for name in ("g", "d", "average", "update_g", "update_d"):
            getattr(self, name).load_state_dict(checkpoint[name])
        self.draw.set_state(checkpoint["generator"])
        self.curves = copy.deepcopy(checkpoint["curves"])
        return int(checkpoint["step"])


def _mode_seeking(images: Tensor, z: Tensor) -> Tensor:
    """d(z₁, z₂) / d(G(z₁), G(z₂)): small where different z give different images (Mao et al. 2019)."""
    half = len(z) // 2
    apart = (images[:half] - images[half : 2 * half]).abs().mean()
    return 1 / (apart / (z[:half] - z[half : 2 * half]).abs().mean() + 1e-5)


@torch.no_grad()
def _spectral_norm(part: nn.Module, generator: torch.Generator) -> None:
    """Miyato et al. 2018, its power iteration started from `generator`; torch draws from the global one."""
    weight = part.weight.flatten(1)
    spectral_norm(part)
    u = torch.randn(len(weight), generator=generator)
    for _ in range(15):  # as many as torch takes
        v = nn.functional.normalize(weight.T @ u, dim=0)
        u = nn.functional.normalize(weight @ v, dim=0)
    norm = part.parametrizations.weight[0]
    norm._u.copy_(u)
    norm._v.copy_(v)


@torch.no_grad()
def _follow(average: nn.Module, g: nn.Module, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), g.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)


@torch.no_grad()
def _samples(average: Generator, z: Tensor) -> Tensor:
    net = copy.deepcopy(average).eval()
    return net(z).cpu()


def losses(x: Tensor, gan: AnoGAN, weight: float) -> Callable[[Tensor], dict[str, Tensor]]:
    """The search's objective (module docstring): y = G(z) → residual, discrimination and L, each (B,)."""
    with torch.no_grad():
        features = gan.discriminator.features(x)

    def objective(y: Tensor) -> dict[str, Tensor]:
        residual = (x - y).abs().sum(dim=(1, 2, 3))
        discrimination = (features - gan.discriminator.features(y)).abs().sum(dim=(1, 2, 3))
        return {
            "residual": residual,
            "discrimination": discrimination,
            "L": (1 - weight) * residual + weight * discrimination,
        }

    return objective


def reconstruct(
    x: Tensor,
    gan: AnoGAN,
    settings: SearchSettings = SearchSettings(),
    *,
    snapshot_every: int = 0,
) -> Iterator[Step]:
    """Latent search for all images of a batch, and all their restarts, at once; no image sees another.

    Args:
        x: (B, 3, H, W) in [0, 1] at the GAN's size; the work is done where the GAN is.

    Yields:
        settings.steps + 1 Steps with `residual`, `discrimination` and `L`, of the restart that has the least
        L then; the last carries y = G(z).
    """
    gan.check_size(x)
    device = next(gan.parameters()).device
    starts = []
    for image in x:
        generator = torch.Generator().manual_seed(content_seed(image, settings.seed))
        # One by one: the first start is the same whatever their number.
        starts += [torch.randn(gan.latent, generator=generator) for _ in range(settings.restarts)]
    z = torch.stack(starts).to(device).requires_grad_(True)
    steps = descend(
        [z],
        lambda: gan.generator(z),
        losses(x.to(device).repeat_interleave(settings.restarts, dim=0), gan, settings.weight),
        lambda p: torch.optim.Adam(p, settings.learning_rate),
        steps=settings.steps,
        snapshot_every=snapshot_every,
    )
    with closing(steps):
        for step in steps:
            yield _best(step, settings.restarts)


def _best(step: Step, restarts: int) -> Step:
    """Of B · restarts searches, in an image's order, the one of least L for each of the B images."""
    each = step.losses["L"].view(-1, restarts)
    chosen = torch.arange(len(each)) * restarts + each.argmin(dim=1)
    image = None if step.image is None else step.image[chosen]
    return replace(step, losses={name: value[chosen] for name, value in step.losses.items()}, image=image)
