"""The figure of an experiment: images at percentiles of F's score, and what each method makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from anounet.anomaly_map import SCALE_TOP, colorize
from anounet.experiments.methods import TITLES, Answer
from anounet.experiments.report import Shown
from anounet.images import to_pixels
from anounet.sheet import LINE, below, beside, heading, words

# Percentiles of F's score, in the order in which a method takes the images where it has time for few only.
PERCENTILES = {"anomalous": (50, 1, 99, 25, 75), "normal": (50, 99, 1)}
_SIDE_WIDTH = 124  # of a row's label, in pixels
_ORDINALS = {1: "1st", 2: "2nd", 3: "3rd"}


@dataclass(frozen=True)
class Drawn:
    """What a method makes of an image that the figure shows.

    Attributes:
        normalised: the redrawn image, uint8 (H, W, 3); None for a method that redraws nothing.
        heat: its map on its fixed scale, whose colours end at `SCALE_TOP` times the normal limit, as above.
        peak: the map's maximum, in units of the normal limit.
    """

    normalised: np.ndarray | None
    heat: np.ndarray
    peak: float

    @classmethod
    def of(cls, answer: Answer) -> Drawn:
        levels = answer.anomaly_map / answer.scale
        y = None if answer.y is None else to_pixels(answer.y)
        return cls(y, colorize((levels / SCALE_TOP).numpy()), float(levels.max()))


@dataclass
class FigureRow:
    """An image of the figure: what it is, its pixels, and method → what the method makes of it."""

    shown: Shown
    original: np.ndarray
    drawn: dict[str, Drawn] = field(default_factory=dict)


def picks(scores: Mapping[int, float], percentiles: Sequence[int]) -> dict[int, int]:
    """Image → percentile, of those that lie nearest to the percentiles of a score, in their order.

    Args:
        scores: image → score; where there are few, one image is taken once only.
    """
    ranked = sorted(scores, key=lambda image: (scores[image], image))
    chosen: dict[int, int] = {}
    for percentile in percentiles:
        chosen.setdefault(ranked[round(percentile / 100 * (len(ranked) - 1))], percentile)
    return chosen


def draw_figure(rows: Sequence[FigureRow]) -> np.ndarray:
    """All rows as one picture, labels drawn on it: uint8 (height, width, 3).

    Columns: the original, then for each method the redrawn image and its map. Where a method did not get to
    an image, its place is empty.
    """
    there = {method for row in rows for method in row.drawn}
    methods = [method for method in TITLES if method in there]
    redrawn = {m: any(r.drawn[m].normalised is not None for r in rows if m in r.drawn) for m in methods}
    side = len(rows[0].original)
    empty = np.full((side, side, 3), 240, np.uint8)
    titles: list[tuple[str, str]] = [("", "image")]
    for method in methods:
        name = _short(TITLES[method])
        titles += [(name, "as normal"), ("", "map")] if redrawn[method] else [(name, "map")]
    lines = []
    for row in rows:
        cells = [row.original]
        for method in methods:
            drawn = row.drawn.get(method)
            if redrawn[method]:
                cells.append(empty if drawn is None else drawn.normalised)
            cells.append(empty if drawn is None else drawn.heat)
        lines.append(beside([words(_label(row.shown), _SIDE_WIDTH, side), *cells]))
    corner = np.full((2 * LINE + 2, _SIDE_WIDTH, 3), 255, np.uint8)
    head = beside([corner, heading(titles, side)])
    text = (
        f"Rows: percentiles of F's score. Maps: from 0, black, to {SCALE_TOP:g} times the level that 99.5 % "
        "of normal pixels stay under."
    )
    return np.concatenate([head, below(lines), words([text], head.shape[1], LINE + 4)])


def _short(title: str) -> str:
    """A title that fits above one picture."""
    return {"distance to local centres": "distance"}.get(title, title)


def _label(shown: Shown) -> list[str]:
    ordinal = _ORDINALS.get(shown.percentile, f"{shown.percentile}th")
    return [shown.kind, shown.what, f"{ordinal} percentile", f"F's score {shown.score:.4f}"]
