"""Where an image differs from a few reference images: C is made from those alone, and nothing is trained.

The article's last idea, for matching people or parts. Every patch f_p (`local_centers.patches`) of the
references is a centre of its own, and so is every patch of the references moved by up to two pixels: F's
finest stride is 4, so a patch moved by less is another patch to F, though no difference to anybody.

    d_p = min_m √( Σ_i w_i ((f_p − m)_i / σ_i)² )

Two notions of alike: m runs over the patches of any place ("anywhere"), or over those at most one cell of F's
grid away ("same"), for parts that lie alike; only that finds what is missing or has moved. The σ_i are the
references' own spread along each feature, times one number, so that held-out patches have d = 1 in root mean
square: the unit of `local_centers`.

τ, the map's scale and its limit come from patches that have no part in the memory they are compared with:

- references taken anew: moved by parts of pixels and beyond the memory's moves, brighter and darker by 3 %,
  with noise of 1 %; what a second photograph of the same thing changes;
- of two references or more, each against the others;
- of one reference, "anywhere", its patches against those elsewhere in it, beyond the reach of the pooling.

The highest of these levels counts. None is taken from the image in question.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from anounet import ano_unet
from anounet.anomaly_map import LIMIT_QUANTILE, SCALE_QUANTILE, enlarge, scale_from_normals, smooth
from anounet.bundle import Bundle
from anounet.feature_net import FeatureNet
from anounet.images import ImageError, content_seed
from anounet.local_centers import LocalCenters, PatchSettings, layer_weights, patches
from anounet.optimize import Step
from anounet.visualization import Result

METHOD = "differ"
PLACES = ("anywhere", "same")
MOST = 20  # references
SETTINGS = ano_unet.LOCAL  # how the image is redrawn
_PATCH = PatchSettings()
_WINDOW = 1  # cells around a patch's place that "same" looks into
_APART = 4  # cells within which patches of one image are too much alike to be compared with each other
_ALL_MOVES = tuple(itertools.product(range(-2, 3), repeat=2))  # in pixels
# All; every other one, like a chessboard's black squares; four; none: as many as the memory has room for.
_MOVES = (_ALL_MOVES, _ALL_MOVES[::2], tuple(itertools.product((-1, 1), repeat=2)), ((0, 0),))
_PATCHES = 50_000  # patches remembered at most, where the references alone are not more
_PAIRS = 2**23  # distances held at once: 32 MB
_BATCH = 8  # images whose patches are made at once
_TAKEN_ANEW = ((0.5, 0.5, 0.03), (-1.5, 0.5, -0.03), (2.5, -1.5, 0.0))  # pixels right, down; brightness
_NOISE = 0.01
_MOST_ANEW = 3  # references that are taken anew
_FLOOR, _LEAST = 0.05, 0.01  # of a feature's variance, as a share of the mean one; of its σ


@dataclass(frozen=True)
class ReferenceCenters(LocalCenters):
    """Local centres of which each is a patch of a reference, all with one spread.

    Attributes:
        place: one of `PLACES`.
        grid: (h, w) of the patches; centre ((y · w) + x) · M + m is the m-th of the M at place (y, x).
    """

    place: str = "anywhere"
    grid: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        precision = self.weights / self.spreads[0].square()
        object.__setattr__(self, "_precisions", precision.expand_as(self.means))
        object.__setattr__(self, "_offsets", (self.means.square() * precision).sum(dim=1))

    @torch.no_grad()
    def nearest(self, vectors: Tensor, apart: int | None = None) -> Tensor:
        """Index of each patch's nearest centre: (B·h·w, D), image by image and row by row → (B·h·w,).

        Args:
            apart: "anywhere" alone: leave out the centres at most so many cells away.
        """
        pulls = -2 * vectors * self._precisions[0]
        if self.place == "same":
            return self._in_window(pulls)
        cells = self.grid[0] * self.grid[1]
        found = []
        for start in range(0, len(pulls), step := max(1, _PAIRS // len(self.means))):
            chunk = pulls[start : start + step]
            scores = torch.addmm(self._offsets, chunk, self.means.T)
            if apart is not None:
                here = torch.arange(start, start + len(chunk), device=scores.device) % cells
                near = _near(here, self.grid, apart)
                scores = scores.view(len(chunk), cells, -1).masked_fill(near[:, :, None], math.inf).flatten(1)
            found.append(scores.argmin(dim=1))
        return torch.cat(found)

    def _in_window(self, pulls: Tensor) -> Tensor:
        (h, w), depth = self.grid, self.means.shape[1]
        pulls = pulls.view(-1, h, w, depth)
        memory, offsets = self.means.view(h, w, -1, depth), self._offsets.view(h, w, -1)
        index = torch.arange(len(self.means), device=pulls.device).view(h, w, -1)
        best = torch.full(pulls.shape[:3], math.inf, device=pulls.device)
        found = torch.zeros(pulls.shape[:3], dtype=torch.long, device=pulls.device)
        reach = range(-_WINDOW, _WINDOW + 1)
        for dy, dx in itertools.product(reach, reach):
            here = (slice(max(0, -dy), h - max(0, dy)), slice(max(0, -dx), w - max(0, dx)))
            there = (slice(max(0, dy), h + min(0, dy)), slice(max(0, dx), w + min(0, dx)))
            scores = torch.einsum("bhwd,hwmd->bhwm", pulls[:, *here], memory[there]) + offsets[there]
            lowest, which = scores.min(dim=-1)
            at = index[there].expand(len(pulls), -1, -1, -1).gather(3, which[..., None])[..., 0]
            better = lowest < best[:, *here]
            best[:, *here] = torch.where(better, lowest, best[:, *here])
            found[:, *here] = torch.where(better, at, found[:, *here])
        return found.flatten()

    def only(self, kept: Tensor) -> ReferenceCenters:
        """Those of the M patches at each place that `kept`, bool (M,), says."""
        means = self.means.view(self.grid[0] * self.grid[1], len(kept), -1)[:, kept].flatten(0, 1)
        return replace(self, means=means, spreads=self.spreads[:1].expand_as(means))

    def elsewhere(self, features: Tensor) -> Tensor:
        """`distance` to centres that are not near: (1, D, h, w) → (1, h, w)."""
        vectors = features.permute(0, 2, 3, 1).flatten(0, 2)
        nearest = self.nearest(vectors, _APART)
        squares = (vectors - self.means[nearest]).square() * self._precisions[0]
        return squares.sum(dim=1).sqrt().view(len(features), *self.grid)


def _near(cells: Tensor, grid: tuple[int, int], apart: int) -> Tensor:
    """Which cells of a grid lie at most `apart` rows and columns from those given: (n,) → bool (n, h·w)."""
    every = torch.arange(grid[0] * grid[1], device=cells.device)
    rows = (cells[:, None] // grid[1] - every // grid[1]).abs() <= apart
    return rows & ((cells[:, None] % grid[1] - every % grid[1]).abs() <= apart)


@dataclass(frozen=True)
class References:
    """What an image is compared with.

    Attributes:
        centers: the references' patches, with τ.
        scale: the level of the map that 99.5 % of held-out pixels stay under.
        limit: the level above which a place is reported (99.9 %).
        size: side of the references, in pixels.
    """

    centers: ReferenceCenters
    scale: float
    limit: float
    size: int


@dataclass(frozen=True)
class ReferencesProgress:
    """How far; `references` comes with the last one."""

    done: int
    total: int
    references: References | None = None


def learn(
    references: Tensor,
    f_net: FeatureNet,
    place: str = "anywhere",
    patch_settings: PatchSettings = _PATCH,
    smoothing: float = SETTINGS.smoothing,
) -> Iterator[ReferencesProgress]:
    """Makes C, τ and the map's levels from a few reference images.

    Args:
        references: (N, 3, H, H) in [0, 1], 1 to `MOST` of them.
        place: one of `PLACES`.
        patch_settings: what a patch is.
        smoothing: σ of the Gaussian over the map, in pixels at a side of 96.

    Yields:
        One step for each move, a few for the levels, and the last one, which carries the references.

    Raises:
        ValueError: none or too many of them, an unknown place, or images of another shape.
        ImageError: an image holds NaN or infinity.
    """
    if place not in PLACES:
        raise ValueError(f"Unknown place {place!r}: choose one of {', '.join(PLACES)}.")
    check_count(len(references))
    if references.ndim != 4 or references.shape[1] != 3 or references.shape[2] != references.shape[3]:
        raise ValueError(f"Reference images are (N, 3, H, H), not {tuple(references.shape)}.")
    if not torch.isfinite(references).all():
        raise ImageError("A reference image holds NaN or infinity: give it as finite numbers in [0, 1].")
    return _learn(references.detach().float(), f_net, place, patch_settings, smoothing)


def check_count(count: int) -> None:
    """Refuses too many references, or none."""
    if not 1 <= count <= MOST:
        raise ValueError(
            f"An image is compared with 1 to {MOST} reference images, not {count}: choose some of them, or "
            "prepare a bundle from all."
        )


@torch.no_grad()
def _learn(
    references: Tensor, f_net: FeatureNet, place: str, settings: PatchSettings, smoothing: float
) -> Iterator[ReferencesProgress]:
    references = references.to(next(f_net.parameters()).device)
    count, size = len(references), references.shape[-1]
    own = _features(references, f_net, settings)
    depth, *grid = own.shape[1:]
    moves = next((m for m in _MOVES if len(m) * own[:, 0].numel() <= _PATCHES), _MOVES[-1])
    total = len(moves) + (count if count > 1 else 1) + 2
    moved = []
    for number, (dx, dy) in enumerate(moves, 1):
        moved.append(_features(_moved(references, dx, dy), f_net, settings))
        yield ReferencesProgress(number, total)
    memory = torch.stack(moved).flatten(0, 1)  # of reference n, moved the s-th way, at s · count + n
    whose = torch.arange(len(memory), device=memory.device) % count
    means = memory.permute(2, 3, 0, 1).reshape(-1, depth).contiguous()
    del moved, memory
    variances = means.var(dim=0, unbiased=False)
    spread = variances.clamp_min(_FLOOR * float(variances.mean())).sqrt().clamp_min(_LEAST)
    channels = [layer.shape[1] for layer in f_net.feature_maps(references[:1], settings.layers)]
    centers = ReferenceCenters(
        means=means,
        spreads=spread.expand_as(means),
        weights=layer_weights(channels, settings).to(means),
        tau=0.0,
        f_net=f_net.fingerprint,
        settings=settings,
        held_back=(),
        count=count,
        place=place,
        grid=tuple(grid),
    )
    anew = [image for reference in references[:_MOST_ANEW] for image in _taken_anew(reference)]
    held = [torch.cat([centers.distance(_features(image[None], f_net, settings)) for image in anew])]
    yield ReferencesProgress(len(moves) + 1, total)
    others = []
    for number in range(count if count > 1 else 1):
        if count > 1:
            others.append(centers.only(whose != number).distance(own[number : number + 1]))
        elif place == "anywhere":
            others.append(centers.elsewhere(own))
        yield ReferencesProgress(len(moves) + 2 + number, total)
    held += [torch.cat(others)] if others else []
    unit = max(float(d.square().mean().sqrt()) for d in held)
    held = [d.cpu() / max(unit, 1e-6) for d in held]
    maps = [smooth(enlarge(d, size), smoothing * size / 96) for d in held]
    percentiles = [torch.quantile(d.flatten()[:: -(-d.numel() // 4_000_000)], _STEPS) for d in held]
    tau = max(float(torch.quantile(p, settings.quantile)) for p in percentiles)
    yield ReferencesProgress(
        total,
        total,
        References(
            replace(
                centers,
                spreads=(spread * max(unit, 1e-6)).expand_as(means),
                tau=tau,
                held_back=tuple(torch.stack(percentiles).amax(dim=0).tolist()),
            ),
            scale=max(scale_from_normals(m, SCALE_QUANTILE) for m in maps),
            limit=max(scale_from_normals(m, LIMIT_QUANTILE) for m in maps),
            size=size,
        ),
    )


_STEPS = torch.linspace(0, 1, 101)


def learned(steps: Iterator[ReferencesProgress]) -> References:
    """Runs `learn` to its end."""
    *_, last = steps
    return last.references


def _features(images: Tensor, f_net: FeatureNet, settings: PatchSettings) -> Tensor:
    return torch.cat([patches(batch, f_net, settings) for batch in images.split(_BATCH)])


def _moved(images: Tensor, dx: int, dy: int) -> Tensor:
    """Images moved right and down by whole pixels, their edges mirrored."""
    reach, side = max(abs(dx), abs(dy)), images.shape[-1]
    padded = functional.pad(images, (reach,) * 4, mode="reflect")
    return padded[..., reach - dy : reach - dy + side, reach - dx : reach - dx + side]


def _taken_anew(image: Tensor) -> Iterator[Tensor]:
    """The image as another photograph of the same thing would be: (3, H, H) → some like it."""
    generator = torch.Generator().manual_seed(content_seed(image))
    side = image.shape[-1]
    for dx, dy, brighter in _TAKEN_ANEW:
        turn = torch.tensor([[[1.0, 0.0, -2 * dx / side], [0.0, 1.0, -2 * dy / side]]]).to(image)
        places = functional.affine_grid(turn, (1, 3, side, side), align_corners=False)
        moved = functional.grid_sample(image[None], places, padding_mode="reflection", align_corners=False)[0]
        noise = torch.randn(image.shape, generator=generator).to(image)
        yield (moved + brighter + _NOISE * noise).clamp(0, 1)


def differ(
    x: Tensor,
    references: References,
    bundle: Bundle,
    settings: ano_unet.Settings = SETTINGS,
    *,
    snapshot_every: int = 0,
) -> Generator[Step, None, Result]:
    """Finds where an image is unlike its references, and redraws it towards them.

    Args:
        x: (3, H, H) in [0, 1], of the references' side.
        references: made with the bundle's F.
        bundle: its F and its identity U-Net are used, and nothing else of it.
        settings: of `fast` mode with local centres; the smoothing is the one that `learn` was given.
        snapshot_every: every how many steps a Step carries its image.

    Yields:
        Steps of a batch of one; the Result is the generator's return value. Its map is d; its score is the
        map's peak in units of the scale, its threshold the limit in the same unit.

    Raises:
        ImageError: the image holds NaN or infinity.
        ValueError: it is of another shape, or the settings are of another mode.
        WeightsError: the references were made with another F, or there is no identity U-Net.
        DivergedError: L stopped being a number.
    """
    centers, side, start = references.centers.to(bundle.device), references.size, time.perf_counter()
    if x.shape != (3, side, side):
        raise ValueError(f"The references are 3×{side}×{side}, and the image is not: {tuple(x.shape)}.")
    if not torch.isfinite(x).all():
        raise ImageError("The image holds NaN or infinity: give it as finite numbers in [0, 1].")
    if settings.mode != "fast" or settings.center != "local":
        raise ValueError("An image is redrawn towards references in fast mode, with local centres.")
    centers.check(bundle.f_net, "The references")
    x = x.detach().float().cpu()
    steps = ano_unet.reconstruct(
        x[None], bundle.f_net, centers, settings, bundle.require_identity(), snapshot_every=snapshot_every
    )
    curves: dict[str, list[float]] = {}
    try:
        for step in steps:
            for name, value in step.losses.items():
                curves.setdefault(name, []).append(float(value[0]))
            yield step
    finally:
        steps.close()
    found = distance_map(x[None], references, bundle.f_net, settings.smoothing)[0]
    peak = float(found.max())
    return Result(
        method=METHOD,
        score=peak / references.scale,
        threshold=references.limit / references.scale,
        x=x,
        y=step.image[0],
        anomaly_map=found,
        smoothing=settings.smoothing,
        scale=references.scale,
        losses={name: tuple(values) for name, values in curves.items()},
        seconds=time.perf_counter() - start,
        limit=references.limit,
        maps={"distance": found},
        scales={"distance": references.scale},
        limits={"distance": references.limit},
    )


@torch.no_grad()
def distance_map(
    x: Tensor, references: References, f_net: FeatureNet, smoothing: float = SETTINGS.smoothing
) -> Tensor:
    """d at the images' size, smoothed, without redrawing anything: (B, 3, H, H) → (B, H, H) on the CPU."""
    centers, side = references.centers.to(next(f_net.parameters()).device), x.shape[-1]
    found = []
    for image in x.to(centers.means.device).split(1):  # alone: the same to the bit whatever its neighbours
        d = centers.distance(patches(image, f_net, centers.settings)).cpu()
        found.append(smooth(enlarge(d, side), smoothing * side / 96))
    return torch.cat(found)


def told(result: Result) -> str:
    """What was found, in one sentence that says where and not what it means."""
    found = result.regions()
    if not found:
        return "like the references: no place lies above the limit"
    first = found[0]
    places = "1 place" if len(found) == 1 else f"{len(found)} places, the strongest"
    return f"unlike the references: {places} at ({first.x:.0f}, {first.y:.0f})"
