"""Foreign patches pasted into normal images: what G learns to take out again. No labelled anomaly is used.

Each patch has a random shape (ellipse, box or ragged blob, square to thin and curved), a random filling
(another normal image turned and scaled, a flat colour, noise, the image itself blurred or tinted, a reference
image) and an opacity of 30 to 100 %. Cutting and pasting: Li et al. 2021 (CutPaste, with thin "scars"); noise
shapes: Zavrtanik et al. 2021 (DRAEM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FILLINGS = ("other", "flat", "noise", "blurred", "tinted", "reference")


@dataclass(frozen=True)
class PasteSettings:
    """How patches are drawn; lengths are in pixels at a side of 96 and grow with the side."""

    share: float = 0.6  # of the images that get patches
    most: int = 3  # patches an image, 1 … most
    thin: float = 0.4  # share of thin ones
    radius: tuple[float, float] = (2.0, 24.0)  # long half axis, log-uniform
    width: tuple[float, float] = (0.4, 1.6)  # short half axis of thin ones
    opacity: tuple[float, float] = (0.3, 1.0)


def paste(
    images: Tensor,
    others: Tensor,
    generator: torch.Generator,
    settings: PasteSettings = PasteSettings(),
    references: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pastes foreign patches into some of the images.

    Args:
        images: (B, 3, H, W) in [0, 1], normal.
        others: (B, 3, H, W), normal too: what some patches are cut from.
        generator: on the CPU; the only source of randomness.
        references: (B, 3, H, W) of anything else, or None.

    Returns:
        The images with patches (B, 3, H, W), and how much of each pixel is foreign (B, 1, H, W); in [0, 1].
    """
    pasted, cover = images.clone(), torch.zeros_like(images[:, :1])
    chosen = _uniform(generator, len(images)) < settings.share
    count = torch.randint(1, settings.most + 1, (len(images),), generator=generator) * chosen
    for number in range(settings.most):
        rows = torch.nonzero(count > number).flatten()
        if not len(rows):
            break
        ground = pasted[rows]
        shape = _shapes(ground, generator, settings)
        opacity = _between(generator, len(rows), *settings.opacity).to(images).view(-1, 1, 1, 1)
        given = None if references is None else references[rows]
        filling = _fillings(ground, others[rows], given, generator)
        pasted[rows] = torch.lerp(ground, filling, shape * opacity).clamp(0, 1)
        cover[rows] = torch.maximum(cover[rows], shape)
    return pasted, cover


def _shapes(images: Tensor, generator: torch.Generator, settings: PasteSettings) -> Tensor:
    """Soft-edged shapes: (B, 1, H, W) in [0, 1]."""
    batch, _, height, width = images.shape
    unit = max(height, width) / 96
    thin = _uniform(generator, batch) < settings.thin
    long = _between(generator, batch, *map(math.log, settings.radius)).exp() * unit
    long = torch.where(thin, long.clamp_min(5 * unit), long)
    short = torch.where(
        thin, _between(generator, batch, *settings.width) * unit, long * _between(generator, batch, 0.35, 1)
    )
    angle = _between(generator, batch, 0, math.pi)
    bend = torch.where(thin, _between(generator, batch, -0.6, 0.6), torch.zeros(batch))
    power = torch.where(
        _uniform(generator, batch) < 0.6, torch.full((batch,), 2.0), torch.full((batch,), 8.0)
    )
    ragged = torch.where(
        ~thin & (_uniform(generator, batch) < 0.5), _between(generator, batch, 0.3, 1), torch.zeros(batch)
    )
    cy, cx = _uniform(generator, batch) * height, _uniform(generator, batch) * width

    def column(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1)

    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    dy, dx = y - column(cy), x - column(cx)
    cos, sin = column(angle.cos()), column(angle.sin())
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    v = v - column(bend) * u.square() / column(long)
    r = ((u / column(long)).abs() ** column(power) + (v / column(short)).abs() ** column(power)) ** (
        1 / column(power)
    )
    r = r + 0.5 * column(ragged) * noise(generator, batch, 1, height, width)[:, 0]
    edge = ((1 - r) * column(short.clamp_min(0.5)) / (0.7 * unit) + 0.5).clamp(0, 1)
    return edge[:, None].to(images)


def _fillings(
    ground: Tensor, others: Tensor, references: Tensor | None, generator: torch.Generator
) -> Tensor:
    """What each image's patch is filled with: (B, 3, H, W)."""
    kinds = torch.randint(len(FILLINGS) - (references is None), (len(ground),), generator=generator)
    filled = torch.empty_like(ground)
    for kind in kinds.unique().tolist():
        rows = torch.nonzero(kinds == kind).flatten()
        filled[rows] = _filling(FILLINGS[kind], ground[rows], others[rows], references, rows, generator)
    return filled.clamp(0, 1)


def _filling(
    kind: str,
    ground: Tensor,
    others: Tensor,
    references: Tensor | None,
    rows: Tensor,
    generator: torch.Generator,
) -> Tensor:
    batch, _, height, width = ground.shape
    if kind == "other":
        return _turned(others, generator)
    if kind == "reference" and references is not None:
        return _turned(references[rows], generator)
    if kind == "blurred":
        side = max(3, height // 12) // 2 * 2 + 1
        return functional.avg_pool2d(ground, side, 1, side // 2, count_include_pad=False)
    grey = (_uniform(generator, batch) < 0.6).view(-1, 1, 1, 1)
    colour = torch.rand(batch, 3, 1, 1, generator=generator)
    colour = torch.where(grey, colour.mean(dim=1, keepdim=True), colour).to(ground)
    if kind == "noise":
        return colour + 0.35 * noise(generator, batch, 3, height, width).to(ground)
    local = ground.mean(dim=(2, 3), keepdim=True)
    sign = torch.where(_uniform(generator, batch) < 0.5, -1.0, 1.0).view(-1, 1, 1, 1).to(ground)
    offset = sign * _between(generator, batch, 0.08, 0.5).view(-1, 1, 1, 1).to(ground)
    if kind == "flat":
        return torch.where(grey.to(ground.device), local + offset, colour).expand_as(ground)
    gain = _between(generator, batch, 0.5, 1.5).view(-1, 1, 1, 1).to(ground)
    return (ground - local) * gain + local + 0.6 * offset * (0.5 + colour)


def _turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned, mirrored, scaled by 0.5 to 2, its contrast and colours a little changed."""
    batch = len(images)
    angle = _between(generator, batch, 0, 2 * math.pi)
    scale = _between(generator, batch, math.log(0.5), math.log(2)).exp()
    mirror = torch.where(_uniform(generator, batch) < 0.5, -1.0, 1.0)
    shift = torch.rand(batch, 2, generator=generator) * 2 - 1
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], dim=1)
    grid = functional.affine_grid(rows.view(batch, 2, 3).to(images), list(images.shape), align_corners=False)
    turned = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = _between(generator, batch, 0.6, 1.4).view(-1, 1, 1, 1).to(images)
    tint = (torch.rand(batch, 3, 1, 1, generator=generator).to(images) - 0.5) * 0.3
    return turned * gain + tint * (_uniform(generator, batch) < 0.5).view(-1, 1, 1, 1).to(images)


def noise(generator: torch.Generator, batch: int, channels: int, height: int, width: int) -> Tensor:
    """Smooth noise of mean 0 and standard deviation 1, coarse to fine by chance: (B, channels, H, W)."""
    total = torch.zeros(batch, channels, height, width)
    for cells in (3, 6, 12, 24):
        weight = torch.rand(batch, 1, 1, 1, generator=generator)
        coarse = torch.randn(batch, channels, cells, cells, generator=generator)
        total += weight * functional.interpolate(
            coarse, size=(height, width), mode="bilinear", align_corners=False
        )
    return total / total.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)


def _uniform(generator: torch.Generator, count: int) -> Tensor:
    return torch.rand(count, generator=generator)


def _between(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
