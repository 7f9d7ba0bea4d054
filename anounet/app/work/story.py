"""What is computed for the page How it works: the article's story on one bundle, a piece for each step of it.

Which images are shown is a rule. The image of the story is the defective test image whose score is the median
one, and the thin fault is the test image whose mask is the smallest. `fast` mode with the article's C stands
for the article's own procedure, which takes minutes an image.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from anounet import ano_unet
from anounet.anogan import SearchSettings
from anounet.anomaly_map import SCALE_TOP, colorize, heat_map
from anounet.app.jobs import Job, closing_stream
from anounet.app.results import ResultCache
from anounet.app.texts import t
from anounet.bundle import Bundle
from anounet.center import features_of
from anounet.datasets import DataError, ImageSet, choose, open_set
from anounet.explore import Cell, Cloud, GridSettings, alone, grid, way
from anounet.film import Film, record
from anounet.images import ImageError, to_pixels
from anounet.metrics import image_auroc, pixel_auroc, pixel_average_precision
from anounet.optimize import Step
from anounet.prepare import DataChoice
from anounet.visualization import Result, drain, visualize, visualize_anogan, visualize_many

R = TypeVar("R")
S = TypeVar("S")

Stories = ResultCache["Piece"]
MAX_BYTES = 16 * 2**20  # of all pieces that are kept; a story at 96 px takes 2 MB
IMAGES = 60  # test images of each kind that are scored at most
NORMALS = 2  # of them shown beside C
FACTORS = (0.01, 1.0, 100.0)  # β: small, the bundle's own, large
MANY = (1, 3, 6)  # times the usual number of steps
GREY = 255
PASSES = 7  # of `instant` mode: their median time is shown
TILE = (20, 64)  # rows and columns that F's 1280 numbers are drawn in
_BATCH = 20  # images that F gets at once


@dataclass(frozen=True)
class Piece:
    """What one step of the story shows.

    Attributes:
        pictures: by name, uint8 (H, W, 3).
        numbers: what was measured, by name.
        series: scores or points, by name.
        words: names of images and defects.
    """

    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, np.ndarray] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


def size_of(piece: Piece) -> int:
    return sum(array.nbytes for array in (*piece.pictures.values(), *piece.series.values()))


def kept_as(version: str, name: str) -> str:
    return f"story {version} {name}"


def missing(version: str, cache: Stories) -> list[str]:
    """The pieces that are not there yet, in the story's order."""
    return [name for name in PIECES if cache.get(kept_as(version, name)) is None]


def tell(
    job: Job,
    version: str,
    cache: Stories,
    open_bundle: Callable[[], Bundle],
    choice: Callable[[Bundle], DataChoice],
    look: Callable[[], Cloud],
    first: str = "",
) -> None:
    """Computes the pieces that are missing, in the story's order; each is kept when it is done.

    One that fails is named in `job.faults`, and the others go on.

    Args:
        look: gives the bundle's feature space; where its data set is not here, the path does without.
        first: the piece that somebody waits for.
    """
    names = sorted(missing(version, cache), key=lambda name: name != first)
    job.stage(t("story.job"), len(names))
    bundle = open_bundle()
    told = _Story(job, bundle, choice(bundle), look)
    for done, name in enumerate(names, 1):
        job.check()
        try:
            cache.put(kept_as(version, name), PIECES[name](told))
        except (ValueError, ArithmeticError) as error:
            job.faults[name] = str(error)
        job.advance(done)
        job.milestone()


class _Story:
    """What several pieces need, each made when it is first asked for."""

    def __init__(self, job: Job, bundle: Bundle, choice: DataChoice, look: Callable[[], Cloud]) -> None:
        self.job, self.bundle, self.choice, self.look = job, bundle, choice, look
        self.center = bundle.require_center()
        self.settings = replace(bundle.settings("fast", center="global"), stop=0.0)

    @cached_property
    def images(self) -> ImageSet:
        return open_set(self.choice.data, "test")

    @cached_property
    def normal(self) -> tuple[Tensor, Tensor]:
        """Good test images, (n, 3, H, W) in [0, 1], and what F sees of them, (n, 1280)."""
        return self._seen(self.images.where(self.choice.normal, defective=False))[1:]

    @cached_property
    def _bad(self) -> tuple[list[int], Tensor, Tensor]:
        found = self.images.where(self.choice.normal, defective=True)
        if not found:  # no defects here: the classes left out
            found = [i for name in self.choice.exclude for i in self.images.where(name, defective=False)]
        return self._seen(found)

    @property
    def anomalous(self) -> tuple[Tensor, Tensor]:
        """The same of abnormal ones."""
        return self._bad[1:]

    def _seen(self, indices: list[int]) -> tuple[list[int], Tensor, Tensor]:
        chosen = choose(indices, IMAGES, self.choice.seed)
        pixels, kept, _ = self.images.readable(chosen, self.choice.size)
        if not kept:
            raise DataError(f"The data set '{self.choice.data}' has no test images for this: put it back.")
        x = pixels.float() / GREY
        return list(kept), x, torch.cat([features_of(self.bundle.f_net, part) for part in x.split(_BATCH)])

    @cached_property
    def sample(self) -> _Sample:
        """The abnormal image whose score is the median one."""
        kept, x, features = self._bad
        order = self.center.score(features).argsort()
        return self._sample(int(order[(len(order) - 1) // 2]), kept, x)

    @cached_property
    def thinnest(self) -> _Sample:
        """The abnormal image whose mask is the smallest; the sample where no mask is known."""
        kept, x, _ = self._bad
        masks = [self.images.mask(i, self.choice.size) for i in kept]
        areas = [mask.mean() if mask is not None and mask.any() else np.inf for mask in masks]
        at = int(np.argmin(areas))
        return self._sample(at, kept, x) if np.isfinite(areas[at]) else self.sample

    def _sample(self, at: int, kept: list[int], x: Tensor) -> _Sample:
        item = self.images.items[kept[at]]
        mask = self.images.mask(kept[at], self.choice.size)
        if mask is None or not mask.any():
            mask = np.ones(x.shape[-2:], bool)
        return _Sample(item.name, item.defect or item.class_name, x[at], mask)

    @cached_property
    def film(self) -> Film:
        """The article's objective with the bundle's own β, all its steps."""
        return self._run(record(self.sample.x, self.bundle, self.settings, self.settings.steps + 2)).film

    def _run(self, stream: Iterator[S]) -> S:
        """The last of a stream's steps; at each of them, what is more urgent goes first."""
        with closing_stream(stream) as steps:
            for step in steps:
                last = step
                self.job.check()
        return last

    def drain(self, stream: Generator[Step, None, R]) -> R:
        """What a stream of Steps ends in; as `_run`."""
        return drain(stream, lambda step: self.job.check())

    def alone(self, term: str) -> Tensor:
        return self._run(alone(self.sample.x, self.bundle, self.settings, term)).image[0]

    def cells(self, betas: tuple[float, ...], steps: tuple[int, ...]) -> tuple[Cell, ...]:
        """The sample redrawn with every β, looked at after so many steps."""
        found: list[Cell] = []
        wanted = GridSettings(self.settings, betas, steps)
        with closing_stream(grid(self.sample.x, self.bundle, wanted, self.sample.mask)) as stream:
            for step in stream:
                self.job.check()
                if step.fault:
                    raise ValueError(step.fault)
                if step.new:
                    found.append(step.cells[-1])
        return tuple(found)

    def score(self, y: Tensor) -> float:
        """F's score in units of its threshold."""
        return float(self.center.score(features_of(self.bundle.f_net, y[None]))) / self.limit

    @property
    def limit(self) -> float:
        return max(self.center.threshold, 1e-9)

    def auroc(self, result: Result) -> float:
        """How well the method's usual map finds the sample's fault, pixel by pixel."""
        return _or_nan(pixel_auroc, result.anomaly_map, self.sample.mask)

    def heat(self, heat: Tensor, method: str = "fast", name: str = "residual") -> np.ndarray:
        """A map on the method's fixed scale."""
        top = SCALE_TOP * self.bundle.scale(method, name)
        return colorize((heat / top).clamp(0, 1).numpy())

    def change(self, y: Tensor) -> dict[str, float]:
        """What G changed, in grey levels: in the fault, in the rest, and in all of it; and F's score now."""
        change = GREY * (self.sample.x - y).abs().mean(dim=0)
        inside = torch.from_numpy(np.ascontiguousarray(self.sample.mask))
        rest = change[~inside] if (~inside).any() else change
        return {
            "inside": float(change[inside].mean()),
            "outside": float(rest.mean()),
            "all": float(change.mean()),
            "score": self.score(y),
            "before": self.score(self.sample.x),
        }

    def redrawn(self, y: Tensor) -> dict[str, np.ndarray]:
        heat = heat_map(self.sample.x[None], y[None], self.settings.smoothing)[0]
        return {"x": to_pixels(self.sample.x), "y": to_pixels(y), "heat": self.heat(heat)}


@dataclass(frozen=True)
class _Sample:
    """An abnormal test image, (3, H, W) in [0, 1], what its fault is called, and where it is, bool (H, W)."""

    name: str
    defect: str
    x: Tensor
    mask: np.ndarray

    @property
    def words(self) -> dict[str, str]:
        return {"name": self.name, "defect": self.defect}


def _or_nan(measure: Callable[[np.ndarray, np.ndarray], float], found: Tensor, mask: np.ndarray) -> float:
    """A measure of one map; NaN where the mask is the whole image, as when none is known."""
    return float("nan") if mask.all() else measure(found.numpy()[None], mask[None])


# --- the pieces --------------------------------------------------------------------------------------


def _question(story: _Story) -> Piece:
    (result,) = visualize_many([story.sample.x], story.bundle)
    pictures = {"x": to_pixels(result.x), "y": to_pixels(result.y), "heat": result.overlay()}
    numbers = {
        "ratio": result.score / (result.threshold or 1.0),
        "seconds": result.seconds,
        "regions": len(result.regions()),
    }
    return Piece(pictures, numbers, words=story.sample.words)


def _score(story: _Story) -> Piece:
    normal = story.center.score(story.normal[1]).numpy()
    anomalous = story.center.score(story.anomalous[1]).numpy()
    labels = np.arange(len(normal) + len(anomalous)) >= len(normal)
    numbers = {
        "threshold": story.center.threshold,
        "auroc": image_auroc(np.concatenate([normal, anomalous]), labels),
        "found": int((anomalous > story.center.threshold).sum()),
        "alarms": int((normal > story.center.threshold).sum()),
        "sample": float(story.center.score(features_of(story.bundle.f_net, story.sample.x[None]))),
    }
    pictures = {"x": to_pixels(story.sample.x)}
    return Piece(pictures, numbers, {"normal": normal, "anomalous": anomalous}, story.sample.words)


def _mean(story: _Story) -> Piece:
    """F's numbers as pictures, those first that are large in C; and how far they lie from C."""
    images, features = story.normal
    own = features_of(story.bundle.f_net, story.sample.x[None])[0]
    c, order = story.center.vector.cpu(), story.center.vector.cpu().argsort(descending=True)
    shown = features[:NORMALS]
    top = max(float(c.max()), 1e-9)
    off = [(f - c).abs() for f in (*shown, own)]
    most = max(*(float(o.quantile(0.99)) for o in off), 1e-9)
    pictures = {"C": _tile(c[order] / top)}
    for number, (image, feature) in enumerate(zip(images, shown, strict=False)):
        pictures[f"normal {number}"] = to_pixels(image)
        pictures[f"F {number}"] = _tile(feature[order] / top)
        pictures[f"off {number}"] = _tile(off[number][order] / most)
    pictures |= {"x": to_pixels(story.sample.x), "F x": _tile(own[order] / top)}
    pictures["off x"] = _tile(off[-1][order] / most)
    scores = story.center.score(features) / story.limit
    numbers = {
        "images": story.center.count,
        "normal": float(scores.median()),
        "sample": story.score(story.sample.x),
    }
    return Piece(pictures, numbers, words=story.sample.words)


def _tile(values: Tensor) -> np.ndarray:
    """1280 numbers in [0, 1] as a picture, row by row; most are small, so their square roots are drawn."""
    return colorize(values.clamp(0, 1).sqrt().reshape(TILE).numpy())


def _objective(story: _Story) -> Piece:
    film = story.film
    last, beta = film.frames[-1], film.settings.beta
    lines = {
        "L_R": np.array([frame.losses["L_R"] for frame in film.frames]),
        "L_C": np.array([beta * frame.losses["L_C"] for frame in film.frames]),
    }
    numbers = {
        "beta": beta,
        "steps": last.step,
        "before": film.frames[0].losses["L"],
        "after": last.losses["L"],
    }
    steps = np.array([frame.step for frame in film.frames])
    return Piece(story.redrawn(last.y), numbers, lines | {"steps": steps}, story.sample.words)


def _term(term: str) -> Callable[[_Story], Piece]:
    def piece(story: _Story) -> Piece:
        y = story.alone(term)
        numbers = story.change(y) | {"steps": story.settings.steps}
        return Piece(story.redrawn(y), numbers, words=story.sample.words)

    return piece


def _beta(story: _Story) -> Piece:
    own, steps = story.settings.beta, story.settings.steps
    betas = tuple(min(factor * own, ano_unet.MAX_BETA) for factor in FACTORS)
    pictures, numbers = {"x": to_pixels(story.sample.x)}, {"steps": float(steps)}
    found = {cell.beta: cell.y for cell in story.cells((betas[0], betas[2]), (steps,))}
    found[own] = story.film.frames[-1].y
    for number, beta in enumerate(betas):
        made = story.redrawn(found[beta])
        pictures |= {f"y {number}": made["y"], f"heat {number}": made["heat"]}
        numbers |= {f"{name} {number}": value for name, value in story.change(found[beta]).items()}
        numbers[f"beta {number}"] = beta
    return Piece(pictures, numbers, words=story.sample.words)


def _path(story: _Story) -> Piece:
    film = story.film
    try:
        cloud = story.look()
    except (DataError, ImageError, ValueError):
        cloud = None
    path = way(film, story.center, cloud)
    ratios = np.array([frame.score for frame in film.frames]) / story.limit
    satisfied = np.flatnonzero(ratios <= 1)
    numbers = {
        "before": float(ratios[0]),
        "after": float(ratios[-1]),
        "steps": film.frames[-1].step,
        "satisfied": float(satisfied[0]) if len(satisfied) else np.nan,
    }
    series = {"way": path.at, "center": path.center, "normal": path.normal, "ratios": ratios}
    if cloud is not None:
        series["anomalous"] = cloud.anomalous.at
    return Piece(story.redrawn(film.frames[-1].y), numbers, series, story.sample.words)


def _too_many(story: _Story) -> Piece:
    steps = tuple(min(times * story.settings.steps, ano_unet.MAX_STEPS) for times in MANY)
    pictures, numbers = {"x": to_pixels(story.sample.x)}, {"beta": story.settings.beta}
    for number, cell in enumerate(story.cells((story.settings.beta,), tuple(sorted(set(steps))))):
        made = story.redrawn(cell.y)
        pictures |= {f"y {number}": made["y"], f"heat {number}": made["heat"]}
        numbers |= {f"{name} {number}": value for name, value in story.change(cell.y).items()}
        numbers[f"steps {number}"] = cell.steps
    return Piece(pictures, numbers, words=story.sample.words)


def _anogan(story: _Story) -> Piece:
    ours = story.drain(visualize(story.sample.x, story.bundle, story.settings))
    search = SearchSettings()
    (rival,) = story.drain(visualize_anogan(story.sample.x[None], story.bundle, search))
    pictures = {"x": to_pixels(story.sample.x)}
    numbers = {"steps": float(ours.steps), "search": float(search.steps)}
    for name, result in (("ours", ours), ("anogan", rival)):
        pictures |= {f"y {name}": to_pixels(result.y), f"heat {name}": _shown(result)}
        numbers |= {f"seconds {name}": result.seconds, f"auroc {name}": story.auroc(result)}
    return Piece(pictures, numbers, words=story.sample.words)


def _shown(result: Result, name: str | None = None) -> np.ndarray:
    """A map on the method's own fixed scale."""
    return colorize(result.levels(name).clip(0, 1))


def _local(story: _Story) -> Piece:
    """The smallest fault: what the article's one C shows of it, and the distance of every patch."""
    thin = story.thinnest
    pooled = story.drain(visualize(thin.x, story.bundle, story.settings))
    (patches,) = visualize_many([thin.x], story.bundle)
    pictures = {
        "x": to_pixels(thin.x),
        "pooled": _shown(pooled),
        "distance": _shown(patches, "distance"),
        "y": to_pixels(patches.y),
    }
    maps = {"pooled": pooled.maps["residual"], "distance": patches.maps["distance"]}
    numbers = {"area": 100 * float(thin.mask.mean())}
    for name, values in maps.items():
        numbers[f"auroc {name}"] = _or_nan(pixel_auroc, values, thin.mask)
        numbers[f"ap {name}"] = _or_nan(pixel_average_precision, values, thin.mask)
    everything, scores = story.anomalous
    numbers |= {
        "images": len(everything),
        "found pooled": int((story.center.score(scores) > story.center.threshold).sum()),
        "found distance": sum(result.anomalous for result in visualize_many(everything, story.bundle)),
    }
    return Piece(pictures, numbers, words=thin.words)


def _instant(story: _Story) -> Piece:
    x = story.sample.x
    passes = [result for _ in range(PASSES) for result in visualize_many([x], story.bundle)]
    result, seconds = passes[-1], float(np.median([one.seconds for one in passes]))
    pictures = {"x": to_pixels(x), "y": to_pixels(result.y), "heat": _shown(result)}
    numbers = {"seconds": seconds, "auroc": story.auroc(result)}
    return Piece(pictures, numbers, words=story.sample.words)


PIECES: Mapping[str, Callable[[_Story], Piece]] = {
    "question": _question,
    "score": _score,
    "mean": _mean,
    "objective": _objective,
    "residual": _term("L_R"),
    "centering": _term("L_C"),
    "beta": _beta,
    "path": _path,
    "many": _too_many,
    "anogan": _anogan,
    "local": _local,
    "instant": _instant,
}
