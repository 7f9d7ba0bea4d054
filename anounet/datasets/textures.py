"""Procedural textures with exact defect masks: the embedded data set.

A data set that is a function needs no download, has no licence and never runs out: every class is a
recipe for a material and every seed is a fresh piece of that material, photographed under slightly
different light. It follows the spirit of DAGM 2007 (statistically textured surfaces, each image its own
realisation of the texture, one weakly visible defect on the defective ones), but its masks are exact
where DAGM only gives coarse ellipses.

How an image comes about:

1. *Material.* A recipe paints the unit square, from random fields shaped in the frequency domain
   (``_field``), from jittered cells (``_cells``) or from plain functions of the coordinates. All lengths
   are fractions of the image side and all random draws are independent of the resolution, so one seed is
   one piece of material at any ``size``: larger images are sharper, not wider.
2. *Defect.* A soft shape is cut out of the finished surface and something else is blended in. Several kinds
   take their content from the surface itself (turned, magnified, flattened), so that neither brightness
   nor colour gives them away; what is wrong with them is their structure.
3. *Mask.* It holds the pixels within the shape around which the change is visible. All other pixels are
   put back, so that outside the mask the defective image equals the normal image of the same seed.

The module holds no mutable state except bounded caches of read-only arrays; any function may be called
from several threads.
"""

import operator
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

__all__ = [
    "DEFECTS",
    "MAX_SIZE",
    "MIN_SIZE",
    "SPLITS",
    "TEXTURES",
    "defect_of",
    "render",
    "sample",
    "sample_seed",
]

MIN_SIZE, MAX_SIZE = 16, 512
SPLITS = ("train", "validation", "test")

_LATTICE = 128  # side of the lattice of frequencies on which random fields are drawn
_VISIBLE = 8 / 255  # mean change around a pixel, within the defect, from which on it counts as altered
_AREA = (0.01, 0.13)  # wanted share of altered pixels
_ATTEMPTS = 12  # redraws of a defect that hardly shows or covers too much

Array = np.ndarray
Rng = np.random.Generator


# --- building blocks ---------------------------------------------------------------------------------


def _frozen(*arrays: Array) -> tuple[Array, ...]:
    """Return the arrays as float32 or complex64, closed to writing, fit to be shared by a cache."""
    out = tuple(a.astype(np.complex64 if np.iscomplexobj(a) else np.float32) for a in arrays)
    for array in out:
        array.setflags(write=False)
    return out


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Array, Array]:
    """Return x of shape (1, size) and y of shape (size, 1): pixel centres in the unit square."""
    centres = (np.arange(size) + 0.5) / size
    return _frozen(centres[None, :], centres[:, None])


@lru_cache(maxsize=1)
def _frequencies() -> tuple[Array, Array, Array]:
    """Return kx and ky in cycles per image, and how many frequencies each place of that half plane holds.

    With kx > 0 it is two, k and -k; in the column kx = 0 each has a place of its own; the mean has no part.
    """
    kx = np.arange(_LATTICE // 2 + 1)[None, :]
    ky = np.fft.fftfreq(_LATTICE, 1 / _LATTICE)[:, None]
    count = np.where(kx == 0, 1.0, 2.0) * np.ones_like(ky)
    count[0, 0] = 0.0
    return _frozen(kx, ky, count)


@lru_cache(maxsize=8)
def _half_pixel(size: int) -> tuple[Array, Array]:
    """Return the phases along x and y that move a spectrum's samples to the pixel centres."""
    keep = (min(size, _LATTICE) - 1) // 2
    x = np.exp(1j * np.pi * np.arange(keep + 1) / size)
    y = np.exp(1j * np.pi * np.r_[0 : keep + 1, -keep:0] / size)
    return _frozen(x[None, :], y[:, None])


def _field(rng: Rng, size: int, gain: Array) -> Array:
    """Draw a periodic Gaussian random field of mean 0 and variance 1 (before the cut at ``size``).

    Args:
        rng: Source of the coefficients; how many are drawn does not depend on ``size``.
        size: Side of the field in pixels. Frequencies that it cannot hold are left out.
        gain: Real amplitude of each frequency, of the shape of the ``_frequencies`` grid.

    Returns:
        float32 array of shape (size, size).
    """
    count = _frequencies()[2]
    noise = rng.standard_normal((*count.shape, 2), np.float32).view(np.complex64)[..., 0]
    power = np.vdot(gain * gain, count)
    gain = gain * np.sqrt(1 / (count.clip(1) * power), dtype=np.float32) * (count > 0)
    keep = (min(size, _LATTICE) - 1) // 2
    rows = np.r_[0 : keep + 1, -keep:0]
    phase_x, phase_y = _half_pixel(size)
    spectrum = np.zeros((size, size // 2 + 1), np.complex64)
    spectrum[rows, : keep + 1] = noise[rows, : keep + 1] * gain[rows, : keep + 1] * phase_x * phase_y
    return fft.irfft2(spectrum, s=(size, size), norm="forward", overwrite_x=True)


def _grain(rng: Rng, size: int, along: float, across: float, angle: float = 0.0) -> Array:
    """Draw a field whose low-pass band reaches ``along`` and ``across`` cycles per image, turned by angle."""
    kx, ky, _ = _frequencies()
    u, v = _turn(kx, ky, angle)
    return _field(rng, size, np.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2)))


def _turn(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Return the coordinates along and across a direction, ``angle`` radians from the x axis."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def _smoothstep(low: float, high: float, x: Array) -> Array:
    """Return the cubic step that is 0 up to ``low`` and 1 from ``high`` on."""
    t = np.clip((x - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def _waves(rng: Rng, t: Array, amplitude: float, cycles: tuple[float, ...] = (1.3, 3.1)) -> Array:
    """Return a gentle random displacement along ``t``, a sum of sines of the given rates."""
    phases = rng.uniform(0, 2 * np.pi, len(cycles))
    sines = (
        np.sin(np.float32(2 * np.pi * k) * t + np.float32(p)) / k for k, p in zip(cycles, phases, strict=True)
    )
    return np.float32(amplitude) * sum(sines)


def _cells(rng: Rng, u: Array, v: Array) -> tuple[Array, Array, Array]:
    """Return Worley noise: one jittered point in each cell of the integer grid.

    Args:
        rng: Source of the points.
        u: Coordinates of shape (size, size) in units of a cell.
        v: As ``u``, along the other axis.

    Returns:
        Distance to the nearest point, distance to the second nearest, and a number in 0 ... 255 that tells
        which point is the nearest; each of shape (size, size).
    """
    side = 16  # the table repeats after so many cells
    jitter = rng.uniform(0.08, 0.92, (2, side * side)).astype(np.float32)
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    first = np.full(u.shape, np.float32(9))
    second = first.copy()
    which = np.zeros(u.shape, np.int32)
    du, dv = u - column, v - row
    for j in (-1, 0, 1):
        for i in (-1, 0, 1):
            key = ((row + j) % side) * side + (column + i) % side
            d = (du - i - jitter[0].take(key)) ** 2 + (dv - j - jitter[1].take(key)) ** 2
            np.minimum(second, np.maximum(first, d), out=second)
            np.copyto(which, key, where=d < first)
            np.minimum(first, d, out=first)
    return np.sqrt(first), np.sqrt(second), which


def _blend(t: Array, *colours: tuple[float, float, float]) -> Array:
    """Map t in 0 ... 1 of shape (H, W) onto a ramp of evenly spaced RGB colours; shape (H, W, 3)."""
    ramp = np.array(colours, np.float32)
    table = np.stack([np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(ramp)), c) for c in ramp.T], -1)
    return table.astype(np.float32)[(np.clip(t, 0, 1) * np.float32(255)).astype(np.uint8)]


# --- materials: each paints (size, size) grey or (size, size, 3) colour, about 0 ... 1 ----------------


def _streaks(rng: Rng, size: int) -> Array:
    """Noisy grey with horizontal streaks, after DAGM class 6."""
    tilt = rng.normal(0, 0.02)
    image = 0.48 + 0.13 * _grain(rng, size, 2.5, 34, tilt)
    return image + 0.08 * _grain(rng, size, 40, 40)


def _brushed(rng: Rng, size: int) -> Array:
    """Brushed metal: fine slanted hairlines under a broad band of reflected light."""
    x, y = _grid(size)
    angle = 1.15 + rng.normal(0, 0.03)
    image = 0.56 + 0.12 * _grain(rng, size, 4, 60, angle) + 0.06 * _grain(rng, size, 1.5, 8, angle)
    _, across = _turn(x, y, angle)
    return image + 0.07 * np.sin(np.float32(2 * np.pi * 0.8) * across + np.float32(rng.uniform(0, 6.3)))


def _weave(rng: Rng, size: int) -> Array:
    """Plain linen weave of uneven threads, alternately over and under."""
    x, y = _grid(size)
    count = 13 * rng.uniform(0.94, 1.06)
    u = count * x + _waves(rng, y, 0.25) + np.float32(rng.uniform(0, 2))
    v = count * y + _waves(rng, x, 0.25) + np.float32(rng.uniform(0, 2))
    tone = rng.normal(0, 0.07, (2, 32)).astype(np.float32)
    su, sv = np.sin(np.float32(np.pi) * u), np.sin(np.float32(np.pi) * v)
    over = _smoothstep(-0.15, 0.15, su * sv)
    au, av = np.abs(su), np.abs(sv)
    weft = av * (0.55 + 0.45 * au) + tone[0].take(np.floor(v).astype(np.int32) % 32)
    warp = au * (0.55 + 0.45 * av) * np.float32(0.82) + tone[1].take(np.floor(u).astype(np.int32) % 32)
    shade = 0.18 + 0.68 * (over * weft + (1 - over) * warp) + 0.07 * _grain(rng, size, 40, 40)
    return _blend(shade, (0.16, 0.13, 0.10), (0.62, 0.55, 0.44), (0.95, 0.91, 0.82))


def _twill(rng: Rng, size: int) -> Array:
    """Denim: blue warp floats in steep diagonal ribs over a pale weft."""
    x, y = _grid(size)
    count = 9 * rng.uniform(0.95, 1.05)
    u = count * x + _waves(rng, y, 0.3) + np.float32(rng.uniform(0, 2))
    v = count * y + _waves(rng, x, 0.3) + np.float32(rng.uniform(0, 2))
    rib = np.sin(np.float32(2 * np.pi) * (u + np.float32(0.75) * v))
    thread = np.sin(np.float32(4 * np.pi) * u + np.float32(1.5) * rib)
    shade = 0.45 + 0.21 * rib + 0.08 * thread + 0.12 * _grain(rng, size, 10, 45, 1.57)
    return _blend(shade, (0.06, 0.09, 0.20), (0.24, 0.34, 0.55), (0.78, 0.82, 0.86))


def _checks(rng: Rng, size: int) -> Array:
    """Grey checked plate: a board of squares with light joints, hardly turned."""
    x, y = _grid(size)
    u, v = _turn(x, y, rng.normal(0, 0.03))
    count = 6.5 * rng.uniform(0.94, 1.06)
    u, v = count * u + np.float32(rng.uniform(0, 2)), count * v + np.float32(rng.uniform(0, 2))
    su, sv = np.sin(np.float32(np.pi) * u), np.sin(np.float32(np.pi) * v)
    board = np.tanh(6 * su) * np.tanh(6 * sv)
    joint = 1 - _smoothstep(0.08, 0.22, np.minimum(np.abs(su), np.abs(sv)))
    tone = rng.normal(0, 0.04, 256).astype(np.float32)
    key = (np.floor(u).astype(np.int32) % 16) * 16 + np.floor(v).astype(np.int32) % 16
    image = 0.47 + 0.14 * board + tone.take(key) + 0.07 * _grain(rng, size, 30, 30)
    return image + joint * (0.74 - image)


def _wood(rng: Rng, size: int) -> Array:
    """Planed wood: bent growth rings along the board, with pores."""
    _, y = _grid(size)
    bend = _grain(rng, size, 1.2, 2.5)
    rings = 5.5 * rng.uniform(0.9, 1.1) * y + 0.75 * bend + np.float32(rng.uniform(0, 1))
    saw = rings - np.floor(rings)
    late = saw**2 * (1 - _smoothstep(0.86, 1.0, saw))
    fibre = _grain(rng, size, 3, 50)
    shade = 0.72 - 0.52 * late + 0.13 * fibre - 0.22 * _smoothstep(1.1, 1.6, _grain(rng, size, 6, 40))
    return _blend(shade, (0.22, 0.11, 0.05), (0.60, 0.37, 0.19), (0.88, 0.70, 0.46))


def _leather(rng: Rng, size: int) -> Array:
    """Pebbled leather, lit from the upper left."""
    x, y = _grid(size)
    bend = 0.2 * _grain(rng, size, 4, 4)
    first, second, _ = _cells(rng, 6.5 * x + bend + 4, 15 * y - bend + 4)
    height = _smoothstep(0.0, 0.5, second - first)
    slope = np.zeros_like(height)
    slope[:, 1:] += np.diff(height, axis=1)
    slope[1:] += np.diff(height, axis=0)
    shade = 0.36 + 0.26 * height + np.float32(0.0055 * size) * slope + 0.07 * _grain(rng, size, 35, 35)
    return _blend(shade, (0.10, 0.03, 0.02), (0.50, 0.22, 0.12), (0.93, 0.66, 0.50))


def _terrazzo(rng: Rng, size: int) -> Array:
    """Terrazzo: flat chips of several stones, all lying about one way, in pale cement."""
    x, y = _grid(size)
    u, v = _turn(x, y, 0.5 + rng.normal(0, 0.05))
    bend = 0.12 * _grain(rng, size, 10, 10)
    first, second, which = _cells(rng, 4.6 * u + bend + 8, 14 * v - bend + 8)
    stones = np.array(
        [(0.76, 0.74, 0.70), (0.34, 0.35, 0.37), (0.66, 0.40, 0.31), (0.90, 0.88, 0.84), (0.45, 0.55, 0.50)],
        np.float32,
    )
    table = stones[rng.integers(0, len(stones), 256)] + rng.normal(0, 0.04, (256, 1)).astype(np.float32)
    chip = _smoothstep(0.10, 0.22, second - first)[..., None]
    image = stones[0] + chip * (table[which] - stones[0])
    return image + 0.055 * _grain(rng, size, 45, 45)[..., None]


def _marble(rng: Rng, size: int) -> Array:
    """Marble: dark veins that fan out along one diagonal, in clouded stone."""
    kx, ky, _ = _frequencies()
    u, v = _turn(kx, ky, 0.8 + rng.normal(0, 0.1))
    radius = np.sqrt((1.9 * u) ** 2 + (0.8 * v) ** 2) + np.float32(0.7)
    coarse, fine = (_field(rng, size, radius ** np.float32(-p)) for p in (2.4, 1.7))
    vein = np.exp(-np.abs(coarse) / 0.07)
    thread = np.exp(-np.abs(fine + 0.3) / 0.09)
    shade = 0.70 + 0.16 * fine - 0.50 * vein - 0.26 * thread
    return _blend(shade, (0.12, 0.15, 0.16), (0.50, 0.55, 0.53), (0.93, 0.93, 0.88))


def _stars(rng: Rng, size: int) -> Array:
    """Small bright stars, drawn out sideways, on a dark grey ground; after DAGM class 4."""
    count = 95
    cx, cy = rng.uniform(-0.05, 1.05, (2, count, 1, 1)).astype(np.float32)
    glow = rng.uniform(0.25, 0.75, (count, 1, 1)).astype(np.float32)
    span = rng.uniform(0.8, 1.3, (count, 1, 1)).astype(np.float32)
    reach = max(2, round(0.05 * size))
    steps = np.arange(-reach, reach + 1)
    column, row = (
        np.floor(cx * size).astype(np.int32) + steps,
        np.floor(cy * size).astype(np.int32) + steps[:, None],
    )
    blur = 0.35 / size
    dx = np.abs((column + np.float32(0.5)) / size - cx) / span
    dy = np.abs((row + np.float32(0.5)) / size - cy) / span
    ray = np.exp(-((dx / (0.034 + blur)) ** 2) - (dy / (0.005 + blur)) ** 2)
    ray += np.exp(-((dx / (0.007 + blur)) ** 2) - (dy / (0.010 + blur)) ** 2)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    pixel = (row * size + column)[inside]
    light = np.bincount(pixel, (glow * ray)[inside], size * size).reshape(size, size).astype(np.float32)
    ground = 0.27 + 0.075 * _grain(rng, size, 9, 40) + 0.03 * _grain(rng, size, 40, 40)
    return ground + 0.68 * (1 - np.exp(-light))


class _Material(NamedTuple):
    """A recipe, and two ranges of angles in degrees.

    Attributes:
        paint: The recipe.
        turn: By how much a patch must be turned to look out of place.
        stroke: Directions, from the x axis to the y axis, in which a stroke does not hide along the grain.
    """

    paint: Callable[[Rng, int], Array]
    turn: tuple[float, float] = (65, 115)
    stroke: tuple[float, float] = (0, 180)


_MATERIALS = {
    "streaks": _Material(_streaks, stroke=(30, 150)),
    "brushed": _Material(_brushed, stroke=(96, 216)),
    "weave": _Material(_weave, (35, 55)),
    "twill": _Material(_twill),
    "checks": _Material(_checks, (35, 55)),
    "wood": _Material(_wood, stroke=(20, 160)),
    "leather": _Material(_leather, (80, 170)),
    "terrazzo": _Material(_terrazzo),
    "marble": _Material(_marble),
    "stars": _Material(_stars, stroke=(20, 160)),
}

TEXTURES: tuple[str, ...] = tuple(_MATERIALS)


def _surface(texture: str, rng: Rng, size: int) -> Array:
    """Paint a material and light it: float32 in 0 ... 1 of shape (size, size, 1) or (size, size, 3)."""
    image = _MATERIALS[texture].paint(rng, size)
    image = image.reshape(size, size, -1).astype(np.float32, copy=False)
    contrast, exposure = rng.uniform(0.88, 1.08), rng.uniform(0.92, 1.06)
    slope, angle = rng.uniform(0, 0.16), rng.uniform(0, 2 * np.pi)
    x, y = _grid(size)
    along, _ = _turn(x - np.float32(0.5), y - np.float32(0.5), angle)
    light = np.float32(exposure) * (1 + np.float32(slope) * along)
    image = (np.float32(0.5) + np.float32(contrast) * (image - np.float32(0.5))) * light[..., None]
    return np.clip(image, 0, 1, out=image)


# --- shapes: soft outlines in 0 ... 1 of shape (size, size) -------------------------------------------


def _edge(size: int, feather: float) -> float:
    """Return the width of a soft edge: ``feather`` of the image side, at least about a pixel."""
    return max(feather, 1.2 / size)


def _patch(rng: Rng, size: int, radius: tuple[float, float], feather: float = 0.03) -> Array:
    """Draw an uneven ellipse of a random position, direction and proportion."""
    x, y = _grid(size)
    cx, cy = rng.uniform(0.16, 0.84, 2).astype(np.float32)
    u, v = _turn(x - cx, y - cy, rng.uniform(0, np.pi))
    r, stretch = rng.uniform(*radius), np.sqrt(rng.uniform(1, 1.8))
    u = u + _waves(rng, v, 0.22 * r, (0.35 / r, 0.8 / r))
    v = v + _waves(rng, u, 0.22 * r, (0.35 / r, 0.8 / r))
    distance = r - np.sqrt((u / np.float32(stretch)) ** 2 + (v * np.float32(stretch)) ** 2)
    edge = _edge(size, feather)
    return _smoothstep(-edge / 2, edge / 2, distance)


def _line(
    rng: Rng,
    size: int,
    direction: tuple[float, float],
    length: tuple[float, float],
    width: tuple[float, float],
    feather: float,
) -> Array:
    """Draw a slightly bent stroke of a random position; direction (degrees) and extent lie in the ranges."""
    x, y = _grid(size)
    cx, cy = rng.uniform(0.25, 0.75, 2).astype(np.float32)
    u, v = _turn(x - cx, y - cy, np.deg2rad(rng.uniform(*direction)))
    bow = np.float32(rng.normal(0, 0.25))
    half, reach = rng.uniform(*width) / 2, rng.uniform(*length) / 2
    edge = _edge(size, feather)
    half = max(half, 0.6 / size)
    across = _smoothstep(-edge / 2, edge / 2, half - np.abs(v - bow * u * u))
    return across * _smoothstep(-edge, edge, reach - np.abs(u))


# --- defects: each returns a shape and what fills it --------------------------------------------------


def _mean_within(image: Array, shape: Array) -> Array:
    """Return the mean of each channel within a soft shape; shape (channels,)."""
    return np.tensordot(shape, image, 2) / (shape.sum() + np.float32(1e-6))


def _resample(rng: Rng, image: Array, shape: Array, angle: float, zoom: float) -> Array:
    """Fill a shape with the surface itself, turned and magnified about a point next to its centre."""
    size = len(image)
    (box,) = ndimage.find_objects((shape > 0).view(np.uint8))
    rows, columns = (np.arange(s.start, s.stop, dtype=np.float32) for s in box)
    cy, cx = rows.mean(), columns.mean()
    shift_x, shift_y = rng.uniform(-0.08, 0.08, 2).astype(np.float32) * size
    u, v = _turn(columns[None, :] - cx, rows[:, None] - cy, angle)
    where = np.stack([v / np.float32(zoom) + cy + shift_y, u / np.float32(zoom) + cx + shift_x])
    out = image.copy()
    for channel in range(image.shape[2]):
        out[(*box, channel)] = ndimage.map_coordinates(image[..., channel], where, order=1, mode="mirror")
    return out


def _band(rng: Rng, image: Array, texture: str) -> tuple[Array, Array]:
    """A dark band across the surface."""
    shape = _line(rng, len(image), _MATERIALS[texture].stroke, (0.7, 1.6), (0.035, 0.075), 0.015)
    return shape, image * np.float32(rng.uniform(0.42, 0.60))


def _blob(rng: Rng, image: Array, texture: str) -> tuple[Array, Array]:
    """A bright blob that lets the texture shine through."""
    shape = _patch(rng, len(image), (0.07, 0.12), 0.06)
    return shape, image + np.float32(rng.uniform(0.42, 0.60)) * (1 - image)


def _scratch(rng: Rng, image: Array, texture: str) -> tuple[Array, Array]:
    """A thin scratch, bright on dark ground and dark on bright ground."""
    shape = _line(rng, len(image), _MATERIALS[texture].stroke, (0.45, 0.95), (0.014, 0.024), 0.008)
    target = np.float32(0.92 if _mean_within(image, shape).mean() < 0.5 else 0.05)
    return shape, image + np.float32(rng.uniform(0.70, 0.90)) * (target - image)


def _missing(rng: Rng, image: Array, texture: str) -> tuple[Array, Array]:
    """A place where the texture is missing: flat, of the local mean colour."""
    shape = _patch(rng, len(image), (0.10, 0.17))
    mean = _mean_within(image, shape)
    return shape, mean + np.float32(0.12) * (image - mean)


def _orientation(rng: Rng, image: Array, texture: str) -> tuple[Array, Array]:
    """A patch of the same texture that runs the wrong way."""
    shape = _patch(rng, len(image), (0.12, 0.18))
    angle = np.deg2rad(rng.uniform(*_MATERIALS[texture].turn)) * rng.choice((-1, 1))
    return shape, _resample(rng, image, shape, angle, 1.0)


def _frequency(rng: Rng, image: Array, texture: str) -> tuple[Array, Array]:
    """A patch of the same texture, magnified."""
    shape = _patch(rng, len(image), (0.13, 0.18))
    return shape, _resample(rng, image, shape, 0.0, rng.uniform(2.2, 3.0))


def _stain(rng: Rng, image: Array, texture: str) -> tuple[Array, Array]:
    """A low-contrast stain: a faint darkening, tinted on coloured ground."""
    shape = _patch(rng, len(image), (0.11, 0.18), 0.05)
    depth = rng.uniform(0.24, 0.34) + rng.uniform(-0.06, 0.06, image.shape[2])
    return shape, image * (1 - depth.astype(np.float32))


def _foreign(rng: Rng, image: Array, texture: str) -> tuple[Array, Array]:
    """A patch of another material, half matched in mean colour."""
    size, channels = len(image), image.shape[2]
    shape = _patch(rng, size, (0.11, 0.17), 0.015)
    other = rng.choice([name for name in TEXTURES if name != texture])
    patch = _surface(other, rng, size)
    if channels == 1:
        patch = patch.mean(2, keepdims=True)
    shift = _mean_within(image, shape) - _mean_within(patch, shape)
    return shape, patch + np.float32(0.5) * shift


_RECIPES: dict[str, Callable[[Rng, Array, str], tuple[Array, Array]]] = {
    "band": _band,
    "blob": _blob,
    "scratch": _scratch,
    "missing": _missing,
    "orientation": _orientation,
    "frequency": _frequency,
    "stain": _stain,
    "foreign": _foreign,
}

DEFECTS: tuple[str, ...] = tuple(_RECIPES)


def _damage(rng: Rng, image: Array, texture: str, defect: str) -> tuple[Array, Array]:
    """Put a defect on a surface.

    A draw that hardly shows or covers too much of the image is drawn anew; of all draws the one whose area
    is the nearest to the wanted range is taken.

    Returns:
        The altered surface, of the shape of ``image`` and equal to it outside the mask, and the mask.
    """
    size = len(image)
    window = round(size / 16) | 1
    best, best_miss = None, np.inf
    for _ in range(_ATTEMPTS):
        shape, content = _RECIPES[defect](rng, image, texture)
        shape[shape < 0.3] = 0
        altered = image + shape[..., None] * (np.clip(content, 0, 1) - image)
        inside = shape > 0
        change = ndimage.uniform_filter(np.abs(altered - image).max(2), window, mode="constant")
        share = ndimage.uniform_filter(inside.astype(np.float32), window, mode="constant")
        mask = inside & (change > np.float32(_VISIBLE) * share)
        area = mask.mean()
        miss = np.inf if area == 0 else max(_AREA[0] - area, area - _AREA[1], 0)
        if best is None or miss < best_miss:
            best, best_miss = (altered, mask), miss
        if miss == 0:
            break
    altered, mask = best
    return np.where(mask[..., None], altered, image), mask


# --- public functions ---------------------------------------------------------------------------------


def _require(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Raise a ValueError if ``name`` is none of the known ones."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")


def _within(what: str, value: int, low: int, high: int) -> int:
    """Return value as an int; raise a ValueError if it lies outside low ... high (both included)."""
    value = operator.index(value)
    if not low <= value <= high:
        raise ValueError(f"{what} must lie between {low} and {high}, got {value}")
    return value


def _stream(seed: int, *names: str) -> Rng:
    """Return a fresh generator for a seed and a path of names, the same on every machine."""
    words = [seed & 0xFFFFFFFF, seed >> 32, *(zlib.crc32(name.encode()) for name in names)]
    return np.random.Generator(np.random.PCG64(words))


def _to_bytes(image: Array) -> Array:
    """Quantise a surface to uint8 of shape (size, size, 3)."""
    levels = (image * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels


def render(texture: str, seed: int, size: int = 96, defect: str | None = None) -> tuple[Array, Array]:
    """Render one image of a texture, and the mask of its defect.

    The result depends on the arguments alone. The same texture, seed and size give the same background
    with and without a defect; another size shows the same piece of material at another resolution.

    Args:
        texture: One of ``TEXTURES``.
        seed: Which piece of the material, 0 ... 2**64 - 1.
        size: Side of the image in pixels, ``MIN_SIZE`` ... ``MAX_SIZE``.
        defect: One of ``DEFECTS``, or None for a normal image.

    Returns:
        The image, uint8 of shape (size, size, 3) in RGB, grey textures having three equal channels; and the
        mask, bool of shape (size, size). The mask is True where the defect visibly altered the surface: never
        empty with a defect, all False without. Outside the mask the image equals the normal one.

    Raises:
        ValueError: If a name is unknown, or seed or size is out of range.
    """
    _require("texture", texture, TEXTURES)
    if defect is not None:
        _require("defect", defect, DEFECTS)
    size = _within("size", size, MIN_SIZE, MAX_SIZE)
    seed = _within("seed", seed, 0, 2**64 - 1)
    image = _surface(texture, _stream(seed, texture), size)
    mask = np.zeros((size, size), bool)
    if defect is not None:
        image, mask = _damage(_stream(seed, texture, defect), image, texture, defect)
    return _to_bytes(image), mask


def sample_seed(texture: str, split: str, index: int, seed: int = 0) -> int:
    """Return the seed of one sample of the data set.

    The four arguments are written side by side into separate bits, so that different arguments give
    different seeds: no image of one split can occur in another.

    Args:
        texture: One of ``TEXTURES``.
        split: One of ``SPLITS``.
        index: Number of the sample within its split, 0 ... 2**24 - 1.
        seed: Number of the data set, 0 ... 2**32 - 1; each one is a data set of its own.

    Returns:
        A seed for :func:`render`, 0 ... 2**63 - 1, the same in every run.

    Raises:
        ValueError: If a name is unknown, or index or seed is out of range.
    """
    _require("texture", texture, TEXTURES)
    _require("split", split, SPLITS)
    index = _within("index", index, 0, 2**24 - 1)
    seed = _within("seed", seed, 0, 2**32 - 1)
    return SPLITS.index(split) << 61 | TEXTURES.index(texture) << 56 | index << 32 | seed


def defect_of(texture: str, split: str, index: int, seed: int = 0) -> str:
    """Return the kind of defect of a defective sample, without rendering it.

    The kinds take turns: any ``len(DEFECTS)`` successive samples of a texture show each kind once.

    Args:
        texture: One of ``TEXTURES``.
        split: One of ``SPLITS``.
        index: Number of the sample within its split, 0 ... 2**24 - 1.
        seed: Number of the data set, 0 ... 2**32 - 1.

    Returns:
        One of ``DEFECTS``.

    Raises:
        ValueError: If a name is unknown, or index or seed is out of range.
    """
    sample_seed(texture, split, index, seed)  # checks the arguments
    return DEFECTS[(index + seed + TEXTURES.index(texture)) % len(DEFECTS)]


def sample(
    texture: str, split: str, index: int, *, size: int = 96, seed: int = 0, defective: bool = False
) -> tuple[Array, Array, str]:
    """Return one sample of the data set.

    The normal and the defective sample of one index share their background.

    Args:
        texture: One of ``TEXTURES``.
        split: One of ``SPLITS``.
        index: Number of the sample within its split, 0 ... 2**24 - 1.
        size: Side of the image in pixels, ``MIN_SIZE`` ... ``MAX_SIZE``.
        seed: Number of the data set, 0 ... 2**32 - 1.
        defective: Whether the sample has a defect.

    Returns:
        Image and mask as of :func:`render`, and the kind of the defect as of :func:`defect_of`, "" if none.

    Raises:
        ValueError: If a name is unknown or a number is out of range.
    """
    defect = defect_of(texture, split, index, seed) if defective else None
    image, mask = render(texture, sample_seed(texture, split, index, seed), size, defect)
    return image, mask, defect or ""
