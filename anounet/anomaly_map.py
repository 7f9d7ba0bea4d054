"""Anomaly maps: from a pair of images to a heat map, on one scale fixed by normal images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SCALE_QUANTILE = 0.995  # share of normal pixels that lie under 1 on a map's scale
LIMIT_QUANTILE = 0.999  # share of normal pixels that lie under the level at which a region is reported
SCALE_TOP = 2.0  # the colours end at twice the level that SCALE_QUANTILE of normal pixels stay under
MAPS = ("combined", "residual", "distance", "gain", "change", "product")
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
_EIGHT_CONNECTED = np.ones((3, 3), bool)


class PatchEvidence(Protocol):
    """What F sees of x and y, patch by patch, each (B, h, w) ≥ 0: see `ano_unet.Evidence`."""

    before: Tensor
    after: Tensor
    change: Tensor


def residual_map(x: Tensor, y: Tensor) -> Tensor:
    """The article's map, abs(x − y) averaged over the channels: twice (B, 3, H, W) → (B, H, W) in [0, 1]."""
    return (x - y).abs().mean(dim=1)


def heat_map(x: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """`residual_map`, smoothed by σ = `smoothing` pixels at a side of 96 (as much more at larger sides)."""
    return smooth(residual_map(x, y), smoothing * x.shape[-1] / 96)


def enlarge(grids: Tensor, side: int) -> Tensor:
    """Patches' values at the image's size, bilinearly: (B, h, w) → (B, side, side)."""
    return torch.nn.functional.interpolate(
        grids[:, None], size=(side, side), mode="bilinear", align_corners=False
    )[:, 0]


def map_set(x: Tensor, y: Tensor, evidence: PatchEvidence | None, smoothing: float) -> dict[str, Tensor]:
    """Every map by its name (`MAPS`), each smoothed by σ = `smoothing` pixels at a side of 96.

    - residual: abs(x − y), the article's.
    - distance: d(x), how far each patch lies from the normal ones, in standard deviations. Without G: this
      is the nearest-patch map with local centres.
    - gain: max(0, d(x) − d(y)), how much more normal G made the patch.
    - change: ‖(f(x) − f(y)) / σ‖, how far G moved the patch.
    - product: distance × change.
    - combined: distance × √residual. The distance knows what is abnormal, on F's grid of patches; the
      residual knows where, to the pixel. Chosen on validation data.

    Args:
        x, y: (B, 3, H, W) in [0, 1].
        evidence: without it there is the residual alone.
    """
    sigma, side = smoothing * x.shape[-1] / 96, x.shape[-1]
    residual = residual_map(x, y)
    maps = {"residual": residual}
    if evidence is not None:
        distance, change = enlarge(evidence.before, side), enlarge(evidence.change, side)
        maps["distance"] = distance
        maps["gain"] = enlarge((evidence.before - evidence.after).clamp_min(0), side)
        maps["change"] = change
        maps["product"] = distance * change
        maps["combined"] = distance * smooth(residual, side / 96).clamp_min(0).sqrt()
    return {name: smooth(m, sigma) for name, m in maps.items()}


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (B, H, W) by σ pixels, edges mirrored; σ = 0 changes nothing."""
    if sigma <= 0:
        return maps
    rows, columns = (_blur(side, sigma, min(maps.shape[-2:]), str(maps.device)) for side in maps.shape[-2:])
    return rows @ maps @ columns.T


@lru_cache(maxsize=32)
def _blur(side: int, sigma: float, smaller: int, device: str) -> Tensor:
    """The Gaussian along one axis, mirrored edges and all, as a matrix: (side, side).

    Two matrix products a map are many times faster than a convolution of one channel, which no library is
    made for.
    """
    radius = min(int(4 * sigma + 0.5), smaller - 1)
    taps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    mirrored = torch.nn.functional.pad(torch.eye(side)[None], (radius, radius), mode="reflect")[0]
    # Row i of `mirrored` says where pixel i stands in the mirrored line; a window of it is an output.
    return mirrored.unfold(1, len(kernel), 1).matmul(kernel).T.contiguous().to(device)


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


@dataclass(frozen=True)
class Region:
    """A connected part of a map that lies above the threshold; pixel (0, 0) is centred at x = y = 0.

    Attributes:
        x: column of its centre of mass, the map's values being the mass.
        y: row of it.
        left: first column of its box.
        top: first row of its box.
        width: columns of its box, in pixels.
        height: rows of its box, in pixels.
        area: its pixels.
        score: its highest value in units of the threshold, > 1.
    """

    x: float
    y: float
    left: int
    top: int
    width: int
    height: int
    area: int
    score: float


def regions(
    anomaly_map: Tensor | np.ndarray, threshold: float, min_area: int = 4, limit: int = 50
) -> list[Region]:
    """The 8-connected regions of (H, W) above `threshold`, those of the highest peak first.

    Args:
        anomaly_map: (H, W), in any unit.
        threshold: in the same unit, > 0.
        min_area: regions of fewer pixels are left out.
        limit: how many to give at most.

    Raises:
        ValueError: a map that is not (H, W), or a threshold that is not above 0.
    """
    levels = anomaly_map.detach().cpu().numpy() if isinstance(anomaly_map, Tensor) else anomaly_map
    levels = np.asarray(levels, np.float64)
    if levels.ndim != 2:
        raise ValueError(f"Regions are found in one map (H, W), not in {levels.shape}.")
    if not threshold > 0:
        raise ValueError(f"The threshold of regions must lie above 0, not at {threshold}.")
    labels, _ = ndimage.label(levels > threshold, structure=_EIGHT_CONNECTED)
    found = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[box] == label
        if np.count_nonzero(inside) < min_area:
            continue
        mass = np.where(inside, levels[box], 0)
        y, x = ndimage.center_of_mass(mass)
        top, left = box[0].start, box[1].start
        height, width = inside.shape
        area, score = int(np.count_nonzero(inside)), float(mass.max() / threshold)
        found.append(Region(float(x + left), float(y + top), left, top, width, height, area, score))
    return sorted(found, key=lambda region: -region.score)[:limit]


def contours(levels: np.ndarray, threshold: float) -> np.ndarray:
    """The outline of what lies above the threshold: its pixels that have one beside them that does not.

    (H, W) → bool (H, W). What lies beyond the map's edge counts as below, so that every outline is closed.
    """
    above = np.asarray(levels) > threshold
    return above & ~ndimage.binary_erosion(above)


def draw_contours(
    pixels: np.ndarray, levels: np.ndarray, threshold: float, colour: tuple[int, int, int] = (255, 255, 255)
) -> np.ndarray:
    """`contours` in `colour` over an image, with a black edge outside: it shows on bright and dark ground.

    Args:
        pixels: uint8 (H, W, 3).
        levels: (H, W), in the unit of `threshold`.
        colour: of the line; a light one.

    Returns:
        A new image, uint8 (H, W, 3).

    Raises:
        ValueError: the map is not of the image's size.
    """
    levels = np.asarray(levels)
    if levels.shape != pixels.shape[:2]:
        raise ValueError(
            f"The map {levels.shape} does not fit the image {pixels.shape[:2]}: bring it to the same size."
        )
    above, line = levels > threshold, contours(levels, threshold)
    rim = line.copy()
    rim[1:-1, 1:-1] = False
    # Along the image's own edge there is no room outside: there the dark edge runs inside.
    dark = ndimage.binary_dilation(line, _EIGHT_CONNECTED) & ~above
    dark |= ndimage.binary_dilation(rim, _EIGHT_CONNECTED) & above & ~line
    drawn = np.array(pixels, np.uint8)
    drawn[dark] = 0
    drawn[line] = colour
    return drawn


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
