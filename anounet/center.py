"""C, the mean feature of normal images, and the score: how far an image's feature lies from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anounet.feature_net import FEATURES, FeatureNet
from anounet.storage import WeightsError, load_weights, provenance, save_weights

MIN_IMAGES = 5
THRESHOLD_QUANTILE = 0.99
HELD_BACK = 0.2
METRICS = {  # what the score goes by
    "l1": "mean abs(F(x) − C)",
    "cosine": "1 − cos(F(x), C)",
    "mahalanobis": "Mahalanobis distance",
}
AXES = 64  # directions in which `Spread` knows how much normal images differ, at most


@dataclass(frozen=True)
class Spread:
    """How far normal images lie around C in which direction.

    Probabilistic PCA (Tipping and Bishop 1999, eq. 7 to 9): the covariance of F(x) over normal images with
    its first q eigenvectors kept and the other eigenvalues replaced by their mean.

    Attributes:
        axes: (q, 1280), orthonormal.
        deviations: standard deviation along each of them.
        rest: along every other direction.
    """

    axes: Tensor
    deviations: tuple[float, ...]
    rest: float

    @classmethod
    def of(cls, features: Tensor, vector: Tensor) -> Spread:
        """That of normal images' features, (N, 1280), around C."""
        off = features.double() - vector.double()
        values, vectors = torch.linalg.eigh(off.T @ off / len(off))
        count = min(AXES, len(off) // 4, off.shape[1] - 1)  # each axis wants a few images
        variances, axes = values.flip(0).clamp_min(0), vectors.T.flip(0)
        rest = max(float(variances[count:].mean()), 1e-12) ** 0.5
        deviations = tuple(round(max(float(v) ** 0.5, rest), 8) for v in variances[:count])
        return cls(axes[:count].half().float(), deviations, round(rest, 8))  # as a file holds them

    def distance(self, off: Tensor) -> Tensor:
        """Mahalanobis distance, of F(x) − C: (B, 1280) → (B,), about 1 for a normal image."""
        along = off @ self.axes.to(off).T
        beside = (off.square().sum(dim=1) - along.square().sum(dim=1)).clamp_min(0)
        known = (along / along.new_tensor(self.deviations)).square().sum(dim=1)
        return ((known + beside / self.rest**2) / off.shape[1]).sqrt()


@dataclass(frozen=True)
class Center:
    """C with its threshold.

    Attributes:
        vector: (1280,) mean of F over the normal images it was computed from.
        f_net: fingerprint of the F it belongs to.
        threshold: score above which an image is called anomalous: the `quantile` of `held_back`.
        quantile: 0.99 by default.
        held_back: scores of normal images that C was *not* computed from.
        count: how many images C was computed from.
        meta: provenance.
        metric: what the score goes by, one of `METRICS`; the article's is l1.
        spread: for mahalanobis.
        distances: L_C of the held-back images, where their scores are something else.
    """

    vector: Tensor
    f_net: str
    threshold: float
    quantile: float
    held_back: tuple[float, ...]
    count: int
    meta: dict[str, Any] = field(default_factory=dict)
    metric: str = "l1"
    spread: Spread | None = None
    distances: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if self.metric == "mahalanobis" and self.spread is None:
            raise ValueError("A score by 'mahalanobis' needs the spread of normal images.")

    def distance(self, features: Tensor) -> Tensor:
        """L_C = ‖F(x) − C‖₁ / 1280: (B, 1280) → (B,) ≥ 0."""
        return (features - self.vector.to(features)).abs().mean(dim=1)

    def score(self, features: Tensor) -> Tensor:
        """The anomaly score, L_C itself, a Mahalanobis distance, or 1 − cos(F(x), C): (B, 1280) → (B,) ≥ 0.

        F(x) has the same norm for all x; C, a mean, is shorter the more normal images differ, and its length
        counts for all but the angle.
        """
        if self.metric == "l1":
            return self.distance(features)
        if self.metric == "mahalanobis":
            return self.spread.distance(features - self.vector.to(features))
        return 1 - torch.cosine_similarity(features, self.vector.to(features)[None], dim=1)

    def level(self, quantile: float) -> float:
        """The L_C that this share of held-back normal images stay under.

        Raises:
            ValueError: no L_C of theirs is kept.
        """
        if not self.knows_levels:
            raise ValueError(
                f"A slack goes by the L_C of normal images, and this C keeps only {METRICS[self.metric]}: "
                "compute C anew, or use no slack."
            )
        return float(np.quantile(self.held_back if self.metric == "l1" else self.distances, quantile))

    @property
    def knows_levels(self) -> bool:
        """Whether `level` can answer."""
        return bool(self.held_back if self.metric == "l1" else self.distances)

    def check(self, f_net: FeatureNet, source: Path | str = "C") -> Center:
        """Refuses an f-Net that C was not made from."""
        if self.f_net != f_net.fingerprint:
            raise WeightsError(
                f"{source} was made from another f-Net ({self.f_net[:12]}) than the one beside it "
                f"({f_net.fingerprint[:12]}): compute C anew for this f-Net, or put the right f-Net back."
            )
        return self

    def save(self, path: Path) -> str:
        described = {
            "f_net": self.f_net,
            "threshold": self.threshold,
            "quantile": self.quantile,
            "held_back": [round(score, 6) for score in self.held_back],
            "count": self.count,
            "meta": self.meta,
            "metric": self.metric,
        }
        state = {"vector": self.vector}
        if self.metric != "l1":
            described["distances"] = [round(distance, 6) for distance in self.distances]
        if self.spread is not None:
            state["axes"] = self.spread.axes
            described |= {"deviations": self.spread.deviations, "rest": self.spread.rest}
        return save_weights(path, "center", state, described)

    @classmethod
    def load(cls, path: Path, sha256: str | None = None) -> Center:
        state, meta = load_weights(path, "center", sha256=sha256)
        try:
            vector, threshold = state["vector"], float(meta["threshold"])
            if vector.shape != (FEATURES,) or not (torch.isfinite(vector).all() and math.isfinite(threshold)):
                raise ValueError("vector or threshold")
            spread = None
            if "axes" in state:
                deviations = tuple(float(value) for value in meta["deviations"])
                spread = Spread(state["axes"], deviations, float(meta["rest"]))
                if spread.axes.shape != (len(deviations), FEATURES) or not min(*deviations, spread.rest) > 0:
                    raise ValueError("spread")
            return cls(
                vector=vector,
                f_net=str(meta["f_net"]),
                threshold=threshold,
                quantile=float(meta["quantile"]),
                held_back=tuple(float(score) for score in meta["held_back"]),
                count=int(meta["count"]),
                meta=dict(meta["meta"]),
                metric=str(meta.get("metric", "l1")),
                spread=spread,
                distances=tuple(float(distance) for distance in meta.get("distances", ())),
            )
        except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
            raise WeightsError(f"{path} is no C of this program: compute C anew.") from error


def check_metric(metric: str) -> str:
    """Gives a name of `METRICS` back; a ValueError for any other."""
    if metric not in METRICS:
        raise ValueError(f"There is no score by '{metric}': choose {', '.join(METRICS)}.")
    return metric


@dataclass(frozen=True)
class CenterProgress:
    """How far the features are; `center` comes with the last one."""

    done: int
    total: int
    center: Center | None = None


def split_held_back(count: int, share: float = HELD_BACK, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices (fit, held back) of `count` images, drawn by a local generator; at least two are held back.

    Raises:
        ValueError: fewer than 5 images.
    """
    if count < MIN_IMAGES:
        raise ValueError(f"C needs {MIN_IMAGES} normal images or more, and there are {count}: add some.")
    order = np.random.default_rng(seed).permutation(count)
    kept = max(2, round(count * share))
    return np.sort(order[kept:]), np.sort(order[:kept])


@torch.no_grad()
def features_of(f_net: FeatureNet, batch: Tensor) -> Tensor:
    """F(x) on F's own device, returned to the CPU: (B, 3, H, W) → (B, 1280)."""
    device = next(f_net.parameters()).device
    return f_net(batch.to(device)).cpu()


def compute_center(
    f_net: FeatureNet,
    batches: Iterable[Tensor],
    count: int,
    *,
    held_back: float = HELD_BACK,
    quantile: float = THRESHOLD_QUANTILE,
    seed: int = 0,
    metric: str = "l1",
    facts: dict[str, Any] | None = None,
) -> Iterator[CenterProgress]:
    """Computes C from a share of `count` normal images and its threshold from the others.

    Args:
        batches: the normal images, (B, 3, H, W) in [0, 1], `count` in all.
        held_back: share of the images that only set the threshold.
        quantile: the threshold is this quantile of their scores.
        metric: what the score goes by, one of `METRICS`.
        facts: what to write down as provenance (data set, class, hash).
    """
    check_metric(metric)  # before the work
    fit, held = split_held_back(count, held_back, seed)
    features: list[Tensor] = []
    for batch in batches:
        features.append(features_of(f_net, batch))
        yield CenterProgress(sum(map(len, features)), count)
    everything = torch.cat(features)
    if len(everything) != count:
        raise ValueError(f"{count} normal images were announced and {len(everything)} came.")
    # Rounded as a file holds it, so that scores before saving and after loading are the same.
    vector = everything[fit].double().mean(dim=0).half().float()
    spread = Spread.of(everything[fit], vector) if metric == "mahalanobis" else None
    bare = Center(vector, f_net.fingerprint, 0.0, quantile, (), len(fit), metric=metric, spread=spread)
    scores = bare.score(everything[held]).tolist()
    distances = bare.distance(everything[held]).tolist() if metric != "l1" else []
    yield CenterProgress(
        count,
        count,
        replace(
            bare,
            threshold=float(np.quantile(scores, quantile)),
            held_back=tuple(sorted(round(score, 6) for score in scores)),
            distances=tuple(sorted(round(distance, 6) for distance in distances)),
            meta=provenance(**(facts or {}) | {"held_back_share": held_back, "seed": seed}),
        ),
    )
