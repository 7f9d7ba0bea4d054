"""What F sees while G redraws an image: its path in feature space, and what β and the steps make of it.

The article's picture is a plane in which normal images lie together, anomalies apart, and G draws F(G(x))
towards C. Here it is computed. The plane is that of the two principal components (Pearson 1901) of normal
images' and reference classes' F(x): neither an anomaly nor the image that moves has a say in it. How far an
image went is measured in all 1280 dimensions, as the score is:

    travelled = ‖F(G_n(x)) − F(G_0(x))‖₁ / 1280          G_k: G after k updates

"Too many steps give an adversarial example: F is fooled, nothing visible changes; β too large disturbs the
background, too small hides the anomaly" (the article). `grid` shows it: one optimisation a β, looked at after
some numbers of steps. What changed is measured inside and outside a known mask, and a second classifier that
G never saw (`second_classifier`) says whether the change is real.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from anounet import ano_unet
from anounet.anomaly_map import heat_map
from anounet.bundle import Bundle
from anounet.center import Center, features_of
from anounet.datasets import DataError, ImageSet, choose, open_set
from anounet.film import Film, Way
from anounet.optimize import DivergedError, Step, descend
from anounet.prepare import DataChoice, normal_images
from anounet.visualization import check_image, parts_for

NORMALS, REFERENCES, ANOMALIES = 96, 108, 60  # images in the picture, of each kind at most
MIN_POINTS = 3
TERMS = ("L_R", "L_C")
MOST_BETAS = MOST_COLUMNS = 12
_BATCH = 32  # images that F gets at once


# --- feature space -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """The plane of two principal components.

    Attributes:
        mean: (D,), where the axes cross.
        axes: (D, 2), orthonormal; the first is the one of the largest variance.
        explained: share of the variance along each, in [0, 1].
    """

    mean: np.ndarray
    axes: np.ndarray
    explained: tuple[float, float]

    def place(self, features: Tensor) -> np.ndarray:
        """(n, D) → (n, 2)."""
        return (features.double().numpy() - self.mean) @ self.axes


def fit_plane(features: Tensor) -> Plane:
    """The two principal components of (n, D) features, by singular value decomposition (Pearson 1901).

    An axis points to where its largest component is positive, so that the picture is the same each time.

    Raises:
        ValueError: fewer than 3 images.
    """
    if len(features) < MIN_POINTS:
        raise ValueError(
            f"The plane needs {MIN_POINTS} images or more, and there are {len(features)}: add normal images."
        )
    points = features.double().numpy()
    mean = points.mean(axis=0)
    _, strengths, directions = np.linalg.svd(points - mean, full_matrices=False)
    axes = directions[:2].T
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    shares = strengths[:2] ** 2 / max(float((strengths**2).sum()), 1e-12)
    return Plane(mean, axes * np.where(signs == 0, 1, signs), (float(shares[0]), float(shares[1])))


@dataclass(frozen=True)
class Features:
    """What F sees of some images.

    Attributes:
        values: (n, 1280).
        names: each image's class, or its defect.
    """

    values: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Points:
    """Images in the plane.

    Attributes:
        at: (n, 2).
        names: each image's class, or its defect.
        scores: each image's score, ≥ 0.
    """

    at: np.ndarray
    names: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Cloud:
    """Feature space as a picture.

    Attributes:
        plane: fitted on `normal` and `reference` alone.
        center: C in the plane, (2,).
        left_out: data sets that are not on this machine, a sentence each.
    """

    plane: Plane
    normal: Points
    reference: Points
    anomalous: Points
    center: np.ndarray
    left_out: tuple[str, ...] = ()


def arrange(center: Center, normal: Features, reference: Features, anomalous: Features) -> Cloud:
    """Places images in the plane of the normal ones and the reference classes.

    Raises:
        ValueError: fewer than 3 of these two together.
    """
    plane = fit_plane(torch.cat([normal.values, reference.values]))

    def points(group: Features) -> Points:
        scores = center.score(group.values) if len(group.values) else torch.empty(0)
        return Points(plane.place(group.values), group.names, tuple(scores.tolist()))

    at = plane.place(center.vector[None].cpu())[0]
    return Cloud(plane, points(normal), points(reference), points(anomalous), at)


@dataclass(frozen=True)
class CloudStep:
    """How many images F has seen; `cloud` comes with the last step."""

    done: int
    total: int
    cloud: Cloud | None = None


def survey(bundle: Bundle, choice: DataChoice) -> Iterator[CloudStep]:
    """Looks at a bundle's data with F: normal training images, reference classes, and test images' anomalies.

    Images that can't be read are left out. Where the data set of reference or the test split is not here, its
    images are missing from the picture, and `Cloud.left_out` says so.

    Args:
        choice: the bundle's, at its size.

    Raises:
        DataError: the bundle's data set is not on this machine.
        WeightsError: the bundle has no C.
    """
    center = bundle.require_center()
    chosen, left_out = _chosen(choice)
    total = sum(len(indices) for group in chosen for _, indices in group)
    done, groups = 0, []
    for group in chosen:
        values, names = [torch.empty(0, center.vector.numel())], []
        for images, indices in group:
            for start in range(0, len(indices), _BATCH):
                part = indices[start : start + _BATCH]
                pixels, kept, _ = images.readable(part, choice.size)
                if kept:
                    values.append(features_of(bundle.f_net, pixels.float() / 255))
                names += [images.items[i].defect or images.items[i].class_name for i in kept]
                done += len(part)
                yield CloudStep(done, total)
        groups.append(Features(torch.cat(values), tuple(names)))
    yield CloudStep(total, total, replace(arrange(center, *groups), left_out=left_out))


_Group = list[tuple[ImageSet, list[int]]]


def _chosen(choice: DataChoice) -> tuple[tuple[_Group, _Group, _Group], tuple[str, ...]]:
    """Which normal, reference and anomalous images, drawn evenly from their classes; and what is not here."""
    left_out = []
    train, normal = normal_images(choice, NORMALS)
    sets = [(train, [c for c in train.classes if c not in (choice.normal, *choice.exclude)])]
    if choice.reference:
        try:
            second = open_set(choice.reference, "train")
            sets.append((second, list(second.classes)))
        except DataError as error:
            left_out.append(str(error))
    each = max(1, REFERENCES // max(1, sum(len(classes) for _, classes in sets)))
    reference = [
        (images, choose(images.where(name, defective=False), each, choice.seed))
        for images, classes in sets
        for name in classes
    ]
    anomalous: _Group = []
    try:
        test = open_set(choice.data, "test")
        bad = test.where(choice.normal, defective=True)
        bad += [i for name in choice.exclude for i in test.where(name, defective=False)]
        anomalous.append((test, choose(bad, ANOMALIES, choice.seed)))
    except DataError as error:
        left_out.append(str(error))
    return ([(train, normal)], reference, anomalous), tuple(left_out)


@dataclass(frozen=True)
class Trail:
    """An image's path through feature space.

    Attributes:
        features: F(G_k(x)) for k = 0 … n, (n + 1, 1280).
        scores: F's score of each, ≥ 0.
        y: the image at its end, (3, H, W) in [0, 1].
    """

    features: Tensor
    scores: tuple[float, ...]
    y: Tensor

    @property
    def travelled(self) -> float:
        """From the first point to the last, ‖·‖₁ / 1280: in all dimensions, in the unit of L_C."""
        return float((self.features[-1] - self.features[0]).abs().mean())

    def satisfied_after(self, threshold: float) -> int | None:
        """Steps after which F first calls the image normal; None where it never does."""
        return next((k for k, score in enumerate(self.scores) if score <= threshold), None)


@dataclass(frozen=True)
class TrailStep:
    """One step of a path.

    Attributes:
        index: updates of G so far, 0 … total.
        feature: F(G_k(x)), (1280,).
        score: F's, ≥ 0.
        trail: with the last step.
    """

    index: int
    total: int
    feature: Tensor
    score: float
    trail: Trail | None = None


def trail(x: Tensor, bundle: Bundle, settings: ano_unet.Settings) -> Iterator[TrailStep]:
    """Follows F(G_k(x)) while G redraws one image.

    Args:
        x: (3, H, W) float32 in [0, 1] at the bundle's size.

    Yields:
        settings.steps + 1 TrailSteps; the last one carries the Trail.

    Raises:
        ValueError: the image does not fit, or the bundle lacks a part (C too, for the score).
        DivergedError: L stopped being a number.
    """
    center = bundle.require_center()
    features, scores = [], []
    with closing(_steps(x, bundle, settings)) as steps:
        for step in steps:
            features.append(features_of(bundle.f_net, step.image)[0])
            scores.append(float(center.score(features[-1][None])))
            end = Trail(torch.stack(features), tuple(scores), step.image[0]) if step.last else None
            yield TrailStep(step.index, step.total, features[-1], scores[-1], end)


def way(film: Film, center: Center, cloud: Cloud | None = None) -> Way:
    """A film's path in the plane of a cloud, beside its normal images.

    Args:
        cloud: None where the data set is not here: the plane is then that of the path itself and C.
    """
    vector = center.vector[None].cpu()
    plane = cloud.plane if cloud is not None else fit_plane(torch.cat([film.features, vector]))
    normal = cloud.normal.at if cloud is not None else np.empty((0, 2))
    return Way(plane.place(film.features), plane.place(vector)[0], normal, plane.explained)


def _steps(x: Tensor, bundle: Bundle, settings: ano_unet.Settings) -> Iterator[Step]:
    """The optimisation of one image, each Step with its image: all steps, whether L still falls or not."""
    x = check_image(x, bundle)
    parts = parts_for(bundle, replace(settings, stop=0.0))
    with closing(ano_unet.reconstruct(x[None], bundle.f_net, *parts, snapshot_every=1)) as steps:
        yield from steps


# --- one term alone ----------------------------------------------------------------------------------


def alone(x: Tensor, bundle: Bundle, settings: ano_unet.Settings, term: str) -> Iterator[Step]:
    """The optimisation of one image with only one of the objective's two terms, for seeing what it does.

    All else is as in `fast` mode: the same start, the same optimiser, and all steps.

    Args:
        x: (3, H, W) float32 in [0, 1] at the bundle's size.
        settings: of `fast` mode; β does not count.
        term: "L_R" or "L_C".

    Yields:
        settings.steps + 1 Steps, whose L is that term; the last one carries y, (1, 3, H, W).

    Raises:
        ValueError: the image does not fit, the bundle lacks a part, or there is no such term or mode.
        DivergedError: L stopped being a number.
    """
    if term not in TERMS or settings.mode != "fast":
        raise ValueError(
            f"One term alone is {' or '.join(TERMS)} in fast mode, not {term} in {settings.mode}."
        )
    x = check_image(x, bundle)[None].to(bundle.device)
    center, _, start = parts_for(bundle, settings)
    objective = ano_unet.losses(x, bundle.f_net, center, settings.beta, settings.slack)
    g = copy.deepcopy(start).to(bundle.device).requires_grad_(True)

    def single(y: Tensor) -> dict[str, Tensor]:
        losses = objective(y)
        return losses | {"L": losses[term]}

    return descend(
        g.parameters(),
        lambda: g(x),
        single,
        lambda parameters: torch.optim.Adam(parameters, settings.learning_rate, fused=True),
        steps=settings.steps,
        threads=1,
    )


# --- steps and β -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GridSettings:
    """Which values of β, and after which numbers of steps one looks; the rest is `base`'s."""

    base: ano_unet.Settings
    betas: tuple[float, ...]
    steps: tuple[int, ...]  # ascending

    def __post_init__(self) -> None:
        for what, values, most in (("β", self.betas, MOST_BETAS), ("steps", self.steps, MOST_COLUMNS)):
            if not 1 <= len(values) <= most or list(values) != sorted(set(values)):
                raise ValueError(f"Choose 1 to {most} values of {what}, ascending, none twice.")
        for beta in self.betas:
            for steps in self.steps:
                self.at(beta, steps)  # says what is out of range

    def at(self, beta: float, steps: int) -> ano_unet.Settings:
        """The settings of one cell."""
        return replace(self.base, beta=beta, steps=steps)

    @property
    def total(self) -> int:
        """Updates of G in all: one optimisation a β."""
        return len(self.betas) * self.steps[-1]


def columns(most: int, count: int = 5) -> tuple[int, ...]:
    """Numbers of steps up to `most`, each about twice the one before it: 80 → (5, 10, 20, 40, 80)."""
    return tuple(sorted({max(1, most // 2**k) for k in range(count)}))


@dataclass(frozen=True)
class Cell:
    """An image redrawn with one β and one number of steps.

    Attributes:
        y: (3, H, W) in [0, 1].
        heat: abs(x − y) as the settings smooth it, (H, W) ≥ 0.
        losses: L_R, L_C and L of this y.
        score: F's, ‖F(y) − C‖₁ / 1280 (or as C's metric says), ≥ 0.
        satisfied: F calls it normal now: the score is not above C's threshold.
        inside: mean of abs(x − y) over the known mask, in [0, 1]; None where there is none.
        outside: the same over the rest; None where no mask is known.
        margin: the second classifier's logit of the normal class minus the highest of the anomalous ones;
            None where there is no such classifier.
    """

    beta: float
    steps: int
    y: Tensor
    heat: Tensor
    losses: dict[str, float]
    score: float
    satisfied: bool
    inside: float | None = None
    outside: float | None = None
    margin: float | None = None

    @property
    def background(self) -> float:
        """Change where nothing is known to be wrong: outside the mask, or all of it where none is known."""
        return self.losses["L_R"] if self.outside is None else self.outside


@dataclass(frozen=True)
class GridStep:
    """One step of one β's optimisation.

    Attributes:
        done: updates so far, of all values of β; a β that failed counts as done.
        total: of them.
        beta: the one at work.
        cells: those of this β so far, by their steps.
        new: the last of them came with this step.
        fault: why this β ended early, in a sentence; the others go on.
    """

    done: int
    total: int
    beta: float
    cells: tuple[Cell, ...] = field(repr=False)
    new: bool = False
    fault: str = ""


def grid(
    x: Tensor, bundle: Bundle, settings: GridSettings, mask: np.ndarray | None = None
) -> Iterator[GridStep]:
    """Redraws one image with every β, and looks at it after every number of steps.

    A cell is the very image that a run of its β and steps alone ends with: no update knows how many follow.

    Args:
        x: (3, H, W) float32 in [0, 1] at the bundle's size.
        mask: where the image is known to be defective, bool (H, W).

    Yields:
        A GridStep for each step of each β.

    Raises:
        ValueError: the image or the mask does not fit, or the bundle lacks a part (C too, for the score).
    """
    x, center = check_image(x, bundle), bundle.require_center()
    if mask is not None and mask.shape != x.shape[1:]:
        raise ValueError(f"The mask {mask.shape} does not fit the image {tuple(x.shape[1:])}.")
    inside = None if mask is None else torch.from_numpy(np.ascontiguousarray(mask))
    for row, beta in enumerate(settings.betas):
        cells: list[Cell] = []
        own, before = settings.at(beta, settings.steps[-1]), row * settings.steps[-1]
        try:
            with closing(_steps(x, bundle, own)) as steps:
                for step in steps:
                    new = step.index in settings.steps
                    if new:
                        cells.append(_cell(x, step, bundle, center, own, inside))
                    yield GridStep(before + step.index, settings.total, beta, tuple(cells), new)
        except DivergedError as error:
            yield GridStep(before + own.steps, settings.total, beta, tuple(cells), fault=str(error))


def _cell(
    x: Tensor, step: Step, bundle: Bundle, center: Center, settings: ano_unet.Settings, inside: Tensor | None
) -> Cell:
    change = (x - step.image[0]).abs().mean(dim=0)
    score = float(center.score(features_of(bundle.f_net, step.image)))
    return Cell(
        beta=settings.beta,
        steps=step.index,
        y=step.image[0],
        heat=heat_map(x[None], step.image, settings.smoothing)[0],
        losses={name: float(value[0]) for name, value in step.losses.items()},
        score=score,
        satisfied=score <= center.threshold,
        inside=_mean(change, inside),
        outside=_mean(change, None if inside is None else ~inside),
        margin=margin(step.image, bundle),
    )


def _mean(change: Tensor, where: Tensor | None) -> float | None:
    return None if where is None or not where.any() else float(change[where].mean())


def margin(images: Tensor, bundle: Bundle) -> float | None:
    """How much rather normal than anomalous one image looks to the second classifier, in logits.

    (1, 3, H, W) in [0, 1] → logit of the bundle's normal class minus the highest of what is anomalous; None
    where the bundle has no second classifier that knows both.
    """
    judge, normal = bundle.classifier, str(bundle.info.get("normal", ""))
    away = judge.away_from(normal, bundle.info.get("exclude", ())) if judge is not None else ()
    return float(judge.change(images, images[:0], normal, away).before) if away else None


def matrix(cells: Sequence[Cell], settings: GridSettings, what: str) -> np.ndarray:
    """One number of every cell: (betas, steps), NaN where there is none (yet).

    Args:
        what: an attribute of Cell: "score", "background", "margin".
    """
    found = np.full((len(settings.betas), len(settings.steps)), np.nan)
    for cell in cells:
        value = getattr(cell, what)
        if value is not None:
            found[settings.betas.index(cell.beta), settings.steps.index(cell.steps)] = value
    return found
