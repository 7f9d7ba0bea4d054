"""Anomaly maps: from a pair of images to a heat map, on one scale fixed by normal images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SCALE_QUANTILE = 0.995  # share of normal pixels that lie under 1 on a map's scale
COLORMAPS = ("inferno", "jet")
# Inferno (S. van der Walt and N. Smith, 2015, CC0) at ten even positions: even in lightness, so that it
# reads the same to colour-blind eyes and in grey. Jet is the article's.
_INFERNO = (
    (0, 0, 4),
    (27, 12, 65),
    (74, 12, 107),
    (120, 28, 109),
    (165, 44, 96),
    (207, 68, 70),
    (237, 105, 37),
    (251, 155, 6),
    (247, 209, 61),
    (252, 255, 164),
)


def residual_map(x: Tensor, y: Tensor) -> Tensor:
    """The article's map, abs(x − y) averaged over the channels: twice (B, 3, H, W) → (B, H, W) in [0, 1]."""
    return (x - y).abs().mean(dim=1)


def heat_map(x: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """`residual_map`, smoothed by σ = `smoothing` pixels at a side of 96 (as much more at larger sides)."""
    return smooth(residual_map(x, y), smoothing * x.shape[-1] / 96)


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (B, H, W) by σ pixels, edges mirrored; σ = 0 changes nothing."""
    if sigma <= 0:
        return maps
    radius = min(int(4 * sigma + 0.5), min(maps.shape[-2:]) - 1)
    taps = torch.arange(-radius, radius + 1, dtype=torch.float32, device=maps.device)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = torch.nn.functional.pad(maps[:, None], (radius,) * 4, mode="reflect")
    rows = torch.nn.functional.conv2d(padded, kernel)
    return torch.nn.functional.conv2d(rows, kernel.transpose(2, 3))[:, 0]


def scale_from_normals(maps: Sequence[Tensor] | Tensor, quantile: float = SCALE_QUANTILE) -> float:
    """The level that `quantile` of the pixels of held-back normal images stay under: the map's unit, > 0.

    Two images' maps, and two methods' maps, are comparable only in such a unit. Stretching every image to
    its own minimum and maximum would show a good part as red as a defect.
    """
    pixels = torch.cat([torch.as_tensor(m).flatten() for m in maps]).numpy()
    return max(float(np.quantile(pixels, quantile)), 1e-6)


def colorize(levels: np.ndarray, colormap: str = "inferno") -> np.ndarray:
    """(H, W) in [0, 1], clipped → uint8 (H, W, 3)."""
    index = (np.clip(np.nan_to_num(levels), 0, 1) * 255).round().astype(np.uint8)
    return _table(colormap)[index]


def overlay(
    pixels: np.ndarray, levels: np.ndarray, opacity: float = 0.6, colormap: str = "inferno"
) -> np.ndarray:
    """Heat over the grey image, more opaque where it is hotter: uint8 (H, W, 3), (H, W) in [0, 1] → uint8."""
    grey = np.asarray(pixels, np.float32).mean(axis=2, keepdims=True)
    weight = opacity * np.clip(levels, 0, 1)[..., None] ** 0.5
    return (grey * (1 - weight) + colorize(levels, colormap) * weight).round().astype(np.uint8)


@lru_cache(maxsize=len(COLORMAPS))
def _table(colormap: str) -> np.ndarray:
    at = np.linspace(0, 1, 256)
    if colormap == "inferno":
        anchors = np.array(_INFERNO, np.float64)
        channels = [np.interp(at, np.linspace(0, 1, len(anchors)), anchors[:, c]) for c in range(3)]
    elif colormap == "jet":
        channels = [255 * np.clip(1.5 - np.abs(4 * at - middle), 0, 1) for middle in (3, 2, 1)]
    else:
        raise ValueError(f"Unknown colour map {colormap!r}: choose one of {', '.join(COLORMAPS)}.")
    return np.stack(channels, axis=1).round().astype(np.uint8)
