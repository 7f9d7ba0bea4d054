"""`instant` mode: one small U-Net, trained once on L, redraws any image of its class in a single pass.

It learns on normal images and on normal images with foreign patches pasted in (see `pasting`); no labelled
anomaly is used. For a pasted image p of a normal image x, m the foreign part, y = G(p, seen):

    L = λ_keep · mean (1 − m) · abs(p − y)                      what is normal stays as it is
      + β · mean over patches of max(0, d(y) − max(τ, d(x)))    L_C with local centres
      + β_in · mean over foreign patches of max(0, d(y) − τ')   what was foreign becomes more than just normal
      + λ_image · mean m · abs(x − y) + λ_features · mean over foreign patches of ‖(f(y) − f(x)) / σ‖
      + λ_gate · cross-entropy of the gate with m               where to redraw

τ' is a lower quantile of normal patches than τ: a margin for images that were not seen in training.

With a `shift`, F looks at x and y through a window that moves a few pixels from step to step, the same for
both. F's strides make it blind to patterns on its own grid, and G finds those: dots every few pixels that are
normal to F and to no other net, nor to the eye. While the window stands still, as it does at first, G
learns faster where to redraw.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from anounet.distributed import own_rows, run_own, shared_mean, world
from anounet.feature_net import FeatureNet
from anounet.local_centers import LocalCenters, patches, seen_distances
from anounet.pasting import PasteSettings, paste
from anounet.storage import WeightsError, check_state, load_weights, rounded, save_weights
from anounet.training import TrainingStep, as_images, check_loss
from anounet.unet import GatedUNet

CHECKPOINT_EVERY = 50
PASTING = PasteSettings()


@dataclass(frozen=True)
class InstantSettings:
    """The U-Net of `instant` mode and its training; the weights were chosen on validation data."""

    steps: int = 1000  # updates: about four minutes on two cores at 96 px; more of them repair better
    batch: int = 16  # images a step
    learning_rate: float = 2e-3  # of Adam, falling to 0 along a half cosine
    width: int = 16  # channels at the finest level
    depth: int = 4  # levels; 2^(depth − 1) divides the image's side
    keep: float = 12.0  # λ_keep
    beta: float = 1.0  # β
    beta_foreign: float = 40.0  # β_in
    margin: float = 0.5  # quantile of normal patches' d that is τ'
    image: float = 0.5  # λ_image
    features: float = 2.0  # λ_features
    gate: float = 0.1  # λ_gate
    shift: int = 4  # pixels that F's window moves by at most; the stride of F's finest patches
    still: float = 0.5  # share of the steps in which F sees the whole image, before its window moves
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("number of steps", self.steps, 1, 1_000_000),
            ("batch", self.batch, 1, 1024),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
            ("width", self.width, 8, 128),
            ("depth", self.depth, 2, 5),
            ("margin", self.margin, 0.0, 1.0),
            ("shift", self.shift, 0, 8),
            ("share of steps without a shift", self.still, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise ValueError(
                    f"The instant U-Net's {name} must lie between {low} and {high}, not {value}."
                )


def train_instant(
    images: Tensor,
    f_net: FeatureNet,
    centers: LocalCenters,
    settings: InstantSettings = InstantSettings(),
    pasting: PasteSettings = PASTING,
    *,
    references: Tensor | None = None,
    resume: Mapping[str, Any] | None = None,
    samples_every: int = 50,
) -> Iterator[TrainingStep]:
    """Trains G where F is.

    Args:
        images: (N, 3, H, W) uint8, normal, H = W divisible by 2^(depth − 1).
        references: (M, 3, H, W) uint8 of anything else, some patches' source; None: none.
        resume: the last `checkpoint` of a training with the same settings, to go on from.

    Yields:
        TrainingSteps with the parts of L; every 50th and the last carry a GatedUNet, and a checkpoint.

    Raises:
        TrainingError: L stopped being a number; the step before is named, its checkpoint is good.
        ValueError: the side does not fit the depth, or the checkpoint is of another training.
    """
    device = next(f_net.parameters()).device
    side, factor = images.shape[-1], 2 ** (settings.depth - 1)
    if side % factor:
        raise ValueError(f"A U-Net of {settings.depth} levels takes sides divisible by {factor}, not {side}.")
    if settings.batch < world():
        raise ValueError(
            f"{world()} processes can't share a batch of {settings.batch}: start fewer, or use a larger one."
        )
    generator = torch.Generator().manual_seed(settings.seed)
    colour = as_images(images[:64], torch.device("cpu")).mean(dim=(0, 2, 3))
    net = GatedUNet.shut(settings.width, settings.depth, colour, generator).to(device)
    net = net.to(memory_format=torch.channels_last).train()
    run = run_own(net)
    optimizer = torch.optim.Adam(net.parameters(), settings.learning_rate, fused=True)
    first = 0
    if resume is not None:
        if resume.get("settings") != _described(settings, pasting, centers):
            raise ValueError("This checkpoint is of a training with other settings: delete it to start anew.")
        net.load_state_dict(resume["net"])
        optimizer.load_state_dict(resume["optimizer"])
        generator.set_state(resume["generator"])
        first = int(resume["step"])
    spread = centers.spreads.square().mean(dim=0).sqrt().to(device)[None, :, None, None]
    centers = centers.to(device)
    for step in range(first + 1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(step - 1, settings.steps)
        chosen = torch.randint(len(images), (2 * settings.batch,), generator=generator)
        x, others = as_images(images[chosen], device).split(settings.batch)
        foreign = None
        if references is not None:
            drawn = torch.randint(len(references), (settings.batch,), generator=generator)
            foreign = as_images(references[drawn], device)
        pasted, cover = paste(x, others, generator, pasting, foreign)
        corner = None
        if settings.shift and step > settings.still * settings.steps:
            corner = torch.randint(settings.shift + 1, (2,), generator=generator).tolist()
        x, pasted, cover = (own_rows(t) for t in (x, pasted, cover))
        metrics = _loss(run, x, pasted, cover, f_net, centers, spread, settings, corner)
        redrawn = metrics.pop("y")
        means = shared_mean(torch.stack(list(metrics.values())), len(x), settings.batch)
        metrics = dict(zip(metrics, means, strict=True))
        loss = metrics.pop("L")
        value = check_loss(loss, step, "instant U-Net")
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(net.parameters()))
        optimizer.step()
        last, shown = step == settings.steps, None
        kept = last or step % CHECKPOINT_EVERY == 0
        if last or step % samples_every == 0:
            shown = redrawn[:8].cpu()
        yield TrainingStep(
            step=step,
            total=settings.steps,
            metrics={"L": value, **{name: float(v.detach()) for name, v in metrics.items()}},
            model=frozen(net) if kept else None,
            samples=shown,
            checkpoint={
                "step": step,
                "settings": _described(settings, pasting, centers),
                "net": {name: t.detach().cpu().clone() for name, t in net.state_dict().items()},
                "optimizer": copy.deepcopy(optimizer.state_dict()),
                "generator": generator.get_state(),
            }
            if kept and not last
            else None,
        )


def _loss(
    run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    pasted: Tensor,
    cover: Tensor,
    f_net: FeatureNet,
    centers: LocalCenters,
    spread: Tensor,
    settings: InstantSettings,
    corner: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """L, the formula at the top, its parts, and y.

    `run` runs G; `corner` is where F's window begins, None: F sees all.
    """
    layers, side = centers.settings, x.shape[-1]
    x, pasted = (t.contiguous(memory_format=torch.channels_last) for t in (x, pasted))
    top, left = corner or (0, 0)
    seen_side = side if corner is None else side - settings.shift

    def window(images: Tensor) -> Tensor:
        part = images[..., top : top + seen_side, left : left + seen_side]
        return part.contiguous(memory_format=torch.channels_last)

    with torch.no_grad():
        clean = patches(window(x), f_net, layers)
        least = centers.distance(clean)
        seen = seen_distances(centers.distance(patches(pasted, f_net, layers)), centers.tau, side)
    y, gate = run(pasted, seen)
    redrawn = patches(window(y), f_net, layers)
    d = centers.distance(redrawn)
    foreign = functional.adaptive_max_pool2d(window(cover), d.shape[-2:])[:, 0]
    margin = centers.held_back[round(100 * settings.margin)]
    off = centers.weights[None, :, None, None] * ((redrawn - clean) / spread).square()
    # A patch that can't be told from what it covers is none.
    visible = cover * (20 * (pasted - x).abs().mean(dim=1, keepdim=True)).clamp(0, 1)
    parts = {
        "L_R": ((1 - cover) * (pasted - y).abs()).mean(),
        "L_C": (d - least.clamp_min(centers.tau)).clamp_min(0).mean(),
        "L_C foreign": ((d - margin).clamp_min(0) * foreign).mean(),
        "repair": (cover * (x - y).abs()).mean(),
        "features": (off.sum(dim=1).clamp_min(1e-12).sqrt() * foreign).mean(),
        "gate": functional.binary_cross_entropy_with_logits(gate, visible),
    }
    weights = (
        settings.keep,
        settings.beta,
        settings.beta_foreign,
        settings.image,
        settings.features,
        settings.gate,
    )
    total = sum(weight * part for weight, part in zip(weights, parts.values(), strict=True))
    return {"L": total, **{name: part.detach() for name, part in parts.items()}, "y": y.detach()}


def _rate(done: int, steps: int, warm_up: int = 20) -> float:
    return min(1.0, (done + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * done / steps))


def _described(settings: InstantSettings, pasting: PasteSettings, centers: LocalCenters) -> dict[str, Any]:
    described = asdict(settings) | {f"paste_{name}": v for name, v in asdict(pasting).items()}
    return described | {"f_net": centers.f_net, "tau": centers.tau}


def frozen(net: GatedUNet) -> GatedUNet:
    """A copy on the CPU, rounded as a file holds it, that takes no gradient."""
    kept = copy.deepcopy(net).cpu()
    kept.load_state_dict(rounded(kept.state_dict()))
    return kept.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def save_instant(path: Path, net: GatedUNet, centers: LocalCenters, meta: dict[str, Any]) -> str:
    described = {"shape": {"width": net.width, "depth": net.depth}, "centers": centers.fingerprint, **meta}
    return save_weights(path, "unet_instant", net.state_dict(), described)


def load_instant(
    path: Path, centers: LocalCenters | None, sha256: str | None = None
) -> tuple[GatedUNet, dict[str, Any]]:
    """Loads the U-Net of `instant` mode, frozen, and its provenance.

    Raises:
        WeightsError: missing, damaged, not of this program, or trained with other local centres.
    """
    state, meta = load_weights(path, "unet_instant", sha256=sha256)
    try:
        shape, trained_with = meta.pop("shape"), str(meta.pop("centers"))
        width, depth = int(shape["width"]), int(shape["depth"])
        if not (8 <= width <= 128 and 2 <= depth <= 5):
            raise ValueError("shape")
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is no instant U-Net of this program: train it anew.") from error
    if centers is None or centers.fingerprint != trained_with:
        raise WeightsError(
            f"{path} was trained with other local centres than the ones beside it: train it anew "
            "(train-instant), or put the right ones back."
        )
    net = GatedUNet(width, depth)
    check_state(path, state, net.state_dict())
    net.load_state_dict(state)
    return frozen(net), meta
