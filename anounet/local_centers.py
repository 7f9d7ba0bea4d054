"""C for every patch: centres of normal patches, each with its own spread, and how far a patch lies from them.

    f_p = F's feature maps at patch p, each 3×3 average-pooled, on one grid, of norm 1 over its channels
    d_p = min_k √( Σ_i w_i ((f_p − c_k)_i / σ_k,i)² ),   Σ_i w_i = 1

The centres c_k come from k-means over normal patches, σ_k,i is the spread of the patches around c_k along
feature i, and w shares the weight between the layers. d is in standard deviations of normal patches: a patch
of a kind that varies a lot is allowed more than one of a kind that never does. With one σ for all
(`metric="euclidean"`) d is the plain distance to the nearest centre.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from anounet.center import HELD_BACK, split_held_back
from anounet.feature_net import FeatureNet
from anounet.storage import WeightsError, fingerprint, load_weights, provenance, rounded, save_weights

METRICS = ("spread", "euclidean")
_CHUNK = 2048  # patches compared at once: 4 MB for 512 centres


@dataclass(frozen=True)
class PatchSettings:
    """What a patch is, and how its centres are made; the defaults were chosen on validation data."""

    layers: tuple[int, ...] = (2, 3, 6, 13)  # MobileNetV2's blocks, strides 4, 4, 8, 16
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 0.2)  # share of each layer in d²
    pooling: int = 3  # side of the average pooling, in cells of the layer's own grid
    centers: int = 512  # K; fewer where there are fewer than 20 patches a centre
    metric: str = "spread"  # "spread": each centre has a σ for every feature; "euclidean": one for all
    shrink: float = 8.0  # patches' worth of the pooled spread mixed into each centre's own
    quantile: float = 0.95  # τ is this quantile of held-back normal patches' d
    patches: int = 60_000  # normal patches k-means sees at most
    iterations: int = 10  # of Lloyd's algorithm
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.layers or len(self.layers) != len(self.weights):
            raise ValueError("Patches need layers, and a weight for each of them.")
        if sorted(set(self.layers)) != list(self.layers) or not 0 <= self.layers[0] <= self.layers[-1] <= 17:
            raise ValueError(f"Layers are blocks 0 to 17 in ascending order, not {self.layers}.")
        if not (all(0 <= w < math.inf for w in self.weights) and sum(self.weights) > 0):
            raise ValueError(f"Layers' weights are 0 or more, and one is more than 0, not {self.weights}.")
        if self.metric not in METRICS:
            raise ValueError(f"Unknown metric {self.metric!r}: choose one of {', '.join(METRICS)}.")
        for name, value, low, high in (
            ("pooling", self.pooling, 1, 9),
            ("number of centres", self.centers, 1, 16_384),
            ("shrinkage", self.shrink, 0.1, 1e6),
            ("quantile", self.quantile, 0.5, 1.0),
            ("number of patches", self.patches, 100, 10_000_000),
            ("iterations", self.iterations, 1, 1000),
        ):
            if not low <= value <= high:
                raise ValueError(f"The {name} must lie between {low} and {high}, not {value}.")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PatchSettings:
        return cls(**value | {"layers": tuple(value["layers"]), "weights": tuple(value["weights"])})


def patches(x: Tensor, f_net: FeatureNet, settings: PatchSettings) -> Tensor:
    """Patch vectors f_p on the finest layer's grid: (B, 3, H, W) in [0, 1] → (B, D, h, w)."""
    maps, size = [], None
    for layer in f_net.feature_maps(x, settings.layers):
        size = size or layer.shape[-2:]
        if settings.pooling > 1:
            side = settings.pooling
            layer = functional.avg_pool2d(layer, side, 1, side // 2, count_include_pad=False)
        if layer.shape[-2:] != size:
            layer = functional.interpolate(layer, size=size, mode="bilinear", align_corners=False)
        maps.append(functional.normalize(layer, dim=1, eps=1e-6))
    return torch.cat(maps, dim=1)


@dataclass(frozen=True)
class LocalCenters:
    """Patch centres with their spreads and τ.

    Attributes:
        means: (K, D) centres c_k.
        spreads: (K, D) σ_k, each > 0.
        weights: (D,) w, of sum 1.
        tau: τ, the `quantile` of d over held-back normal patches; in standard deviations.
        f_net: fingerprint of the F they belong to.
        settings: how they were made.
        held_back: 101 percentiles of d over held-back normal patches, 0 … 100 %.
        count: how many images the centres were computed from.
        meta: provenance.
    """

    means: Tensor
    spreads: Tensor
    weights: Tensor
    tau: float
    f_net: str
    settings: PatchSettings
    held_back: tuple[float, ...]
    count: int
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        precisions = self.weights / self.spreads.square()
        object.__setattr__(self, "_precisions", precisions)
        # Σ w ((f − c) / σ)² = (f, f²) · (−2 c w/σ², w/σ²) + c² · (w/σ²): one matrix product and an offset.
        object.__setattr__(self, "_forms", torch.cat((-2 * self.means * precisions, precisions), dim=1).T)
        object.__setattr__(self, "_offsets", (self.means.square() * precisions).sum(dim=1))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the centres and their spreads: the instant U-Net names the ones it was trained with."""
        return fingerprint({"means": self.means.cpu(), "spreads": self.spreads.cpu()})

    def to(self, device: torch.device | str) -> LocalCenters:
        if self.means.device == torch.device(device):
            return self
        moved = {name: getattr(self, name).to(device) for name in ("means", "spreads", "weights")}
        return replace(self, **moved)

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of each patch's nearest centre: (N, D) → (N,)."""
        found = [
            torch.addmm(self._offsets, torch.cat((chunk, chunk.square()), dim=1), self._forms).argmin(dim=1)
            for chunk in vectors.split(_CHUNK)
        ]
        return torch.cat(found)

    def distance(self, features: Tensor) -> Tensor:
        """d_p, the module's formula: patches (B, D, h, w) → (B, h, w) ≥ 0, differentiable."""
        batch, depth, *grid = features.shape
        vectors = features.permute(0, 2, 3, 1).reshape(-1, depth)
        # In pieces: what they are compared by is several times as large as the patches are.
        squares = [self._squares(chunk, self.nearest(chunk.detach())) for chunk in vectors.split(_CHUNK)]
        return torch.cat(squares).clamp_min(1e-12).sqrt().view(batch, *grid)

    def _squares(self, vectors: Tensor, nearest: Tensor) -> Tensor:
        """d² to the centres named; the search's own has the rounding of large numbers' differences."""
        return ((vectors - self.means[nearest]).square() * self._precisions[nearest]).sum(dim=1)

    def centering(self, distances: Tensor) -> Tensor:
        """L_C = mean over patches of max(0, d − τ): (B, h, w) → (B,). A normal patch takes no gradient."""
        return (distances - self.tau).clamp_min(0).mean(dim=(1, 2))

    def check(self, f_net: FeatureNet, source: Path | str = "These local centres") -> LocalCenters:
        """Refuses an f-Net that the centres were not made from."""
        if self.f_net != f_net.fingerprint:
            raise WeightsError(
                f"{source} were made from another f-Net ({self.f_net[:12]}) than the one beside it "
                f"({f_net.fingerprint[:12]}): compute C anew for this f-Net, or put the right f-Net back."
            )
        return self

    def save(self, path: Path) -> str:
        described = {
            "f_net": self.f_net,
            "tau": self.tau,
            "settings": asdict(self.settings),
            "held_back": [round(d, 5) for d in self.held_back],
            "count": self.count,
            "meta": self.meta,
        }
        state = {"means": self.means, "spreads": self.spreads}
        return save_weights(path, "local_centers", state, described)

    @classmethod
    def load(cls, path: Path, sha256: str | None = None) -> LocalCenters:
        state, meta = load_weights(path, "local_centers", sha256=sha256)
        try:
            settings = PatchSettings.from_json(meta["settings"])
            means, spreads, tau = state["means"], state["spreads"], float(meta["tau"])
            weights = layer_weights([int(n) for n in meta["meta"]["channels"]], settings)
            if means.shape[1:] != weights.shape or means.shape != spreads.shape or not math.isfinite(tau):
                raise ValueError("shape")
            if not (torch.isfinite(means).all() and (spreads > 0).all() and torch.isfinite(spreads).all()):
                raise ValueError("numbers")
            return cls(
                means=means,
                spreads=spreads,
                weights=weights,
                tau=tau,
                f_net=str(meta["f_net"]),
                settings=settings,
                held_back=tuple(float(d) for d in meta["held_back"]),
                count=int(meta["count"]),
                meta=dict(meta["meta"]),
            )
        except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
            raise WeightsError(f"{path} holds no local centres of this program: compute C anew.") from error


def vars_of(centers: LocalCenters) -> dict[str, Any]:
    return {name: getattr(centers, name) for name in LocalCenters.__dataclass_fields__}


def seen_distances(distances: Tensor, tau: float, side: int) -> Tensor:
    """What G sees of d: 2 (d/τ − 1) within −1 … 4, (B, h, w) → (B, 1, side, side); above 0 is abnormal."""
    seen = (2 * (distances / tau - 1)).clamp(-1, 4)[:, None]
    return functional.interpolate(seen, size=(side, side), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class LocalCentersProgress:
    """Which stage, how far; `centers` comes with the last one."""

    done: int
    total: int
    centers: LocalCenters | None = None


def compute_local_centers(
    f_net: FeatureNet,
    batches: Iterable[Tensor],
    count: int,
    settings: PatchSettings = PatchSettings(),
    *,
    held_back: float = HELD_BACK,
    facts: dict[str, Any] | None = None,
) -> Iterator[LocalCentersProgress]:
    """Makes centres from a share of `count` normal images, and τ from the others.

    Args:
        batches: the normal images, (B, 3, H, W) in [0, 1], `count` in all.
        held_back: share of the images that only set τ.
        facts: what to write down as provenance (data set, class, hash).

    Yields:
        One step a batch, one an iteration, and a last one, which carries the centres.

    Raises:
        ValueError: fewer than 5 images, or images all alike.
    """
    fit, held = split_held_back(count, held_back, settings.seed)
    fits = set(fit.tolist())
    generator = torch.Generator().manual_seed(settings.seed)
    device = next(f_net.parameters()).device
    an_image = -(-settings.patches // len(fit))  # patches taken of each image
    held_images = set(held.tolist())
    taken: list[Tensor] = []
    kept: list[Tensor] = []
    seen, total = 0, count + settings.iterations + 1
    first, alike = None, True
    for batch in batches:
        with torch.no_grad():
            features = patches(batch.to(device), f_net, settings).cpu().permute(0, 2, 3, 1)
        for vectors in features.reshape(len(batch), -1, features.shape[-1]):
            first = vectors.clone() if first is None else first
            alike = alike and torch.allclose(vectors, first, rtol=0, atol=1e-4)
            if seen in fits:
                order = torch.randperm(len(vectors), generator=generator)[:an_image]
                taken.append(vectors[order].clone())
            elif seen in held_images:
                kept.append(vectors.half())  # only compared with the centres, once
            seen += 1
        yield LocalCentersProgress(seen, total)
    if seen != count:
        raise ValueError(f"{count} normal images were announced and {seen} came.")
    vectors = torch.cat(taken)
    with torch.no_grad():
        channels = [m.shape[1] for m in f_net.feature_maps(batch[:1].to(device), settings.layers)]
    if alike:
        raise ValueError(
            "All normal images look alike, patch by patch: local centres need images that differ a little."
        )
    k = max(1, min(settings.centers, len(vectors) // 20))
    weights = layer_weights(channels, settings)
    means = vectors[torch.randperm(len(vectors), generator=generator)[:k]].clone()
    for iteration in range(settings.iterations):
        means, _ = lloyd(vectors, means, generator)
        yield LocalCentersProgress(count + iteration + 1, total)
    nearest = nearest_mean(vectors, means)
    spreads = _spreads(vectors, means, nearest, settings)
    # Rounded as a file holds them, so that d before saving and after loading is the same.
    exact = rounded({"means": means, "spreads": spreads.clamp_min(1e-4)})
    bare = LocalCenters(
        means=exact["means"],
        spreads=exact["spreads"],
        weights=weights,
        tau=0.0,
        f_net=f_net.fingerprint,
        settings=settings,
        held_back=(),
        count=len(fit),
    )
    side = kept[0].shape[0]
    distances = torch.cat([bare.distance(v.float().T.reshape(1, -1, side, 1)).flatten() for v in kept])
    percentiles = torch.quantile(_thinned(distances), torch.linspace(0, 1, 101)).tolist()
    tau = float(torch.quantile(_thinned(distances), settings.quantile))
    made = {"held_back_share": held_back, "seed": settings.seed, "channels": channels}
    facts = provenance(**(facts or {}) | made)
    done = vars_of(bare) | {"tau": tau, "held_back": tuple(percentiles), "meta": facts}
    yield LocalCentersProgress(total, total, LocalCenters(**done))


def layer_weights(channels: list[int], settings: PatchSettings) -> Tensor:
    """w: each layer's weight, shared evenly between its channels; the sum is 1."""
    parts = [torch.full((n,), w / n) for n, w in zip(channels, settings.weights, strict=True)]
    weights = torch.cat(parts)
    return weights / weights.sum()


def nearest_mean(vectors: Tensor, means: Tensor) -> Tensor:
    """Index of each vector's nearest mean by plain distance: (N, D), (K, D) → (N,)."""
    offsets = means.square().sum(dim=1)
    return torch.cat(
        [torch.addmm(offsets, chunk, means.T, alpha=-2).argmin(dim=1) for chunk in vectors.split(_CHUNK)]
    )


def lloyd(vectors: Tensor, means: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One iteration of k-means (Lloyd 1982); a centre without patches starts anew at a random one.

    (N, D), (K, D) → the means moved, (K, D), and how many vectors each had, (K,).
    """
    nearest = nearest_mean(vectors, means)
    counts = torch.bincount(nearest, minlength=len(means))
    sums = torch.zeros_like(means).index_add_(0, nearest, vectors)
    moved = sums / counts.clamp_min(1)[:, None]
    empty = counts == 0
    if empty.any():
        moved[empty] = vectors[torch.randint(len(vectors), (int(empty.sum()),), generator=generator)]
    return moved, counts


def _spreads(vectors: Tensor, means: Tensor, nearest: Tensor, settings: PatchSettings) -> Tensor:
    """σ_k per feature, shrunk towards the pooled one: σ_k² = (n_k s_k² + m s²) / (n_k + m), m = `shrink`."""
    squares = (vectors - means[nearest]).square()
    pooled = squares.mean(dim=0)
    if settings.metric == "euclidean":
        return pooled.mean().sqrt().expand_as(means).clone()
    counts = torch.bincount(nearest, minlength=len(means)).to(vectors)[:, None]
    own = torch.zeros_like(means).index_add_(0, nearest, squares)
    # A floor: a feature that never varied here must not outvote all the others.
    floor = 0.05 * pooled.mean()
    return ((own + settings.shrink * pooled) / (counts + settings.shrink)).clamp_min(floor).sqrt()


def _thinned(values: Tensor, most: int = 4_000_000) -> Tensor:
    """torch.quantile takes 16 million values at most."""
    return values[:: -(-len(values) // most)]
