"""The film of an optimisation: what G made of one image after some of its steps, and what F thought of it.

Every step is computed, about twenty are kept, each about the same factor after the one before it: most
happens at the start. It is the optimisation that `visualize` runs, from the same start to the same end.
`moving_picture` makes a file of it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from anounet import ano_unet
from anounet.anomaly_map import SCALE_TOP, overlay
from anounet.bundle import USUAL_MAP, Bundle
from anounet.center import features_of
from anounet.images import to_pixels
from anounet.optimize import Step
from anounet.sheet import LINE, beside, words
from anounet.visualization import check_image, maps_of, parts_for

FRAMES = 20
REFINING = 20  # steps from the instant U-Net, where there is no other optimisation to show
FILE_BYTES = 300_000  # of a moving picture at most
OPACITY = 0.75  # of the heat over the grey image
_DECADES = 3  # of the losses' axis at most
_TICKS = (0, 1, 3, 10, 30, 100, 300, 1000)
_SIDE = 192  # pixels of a panel of a moving picture
_SECONDS, _LAST_SECONDS = 0.4, 2.4  # that a moving picture shows a frame, and the last one
_L_R, _L_C, _C, _PATH, _NORMAL = "#0f9488", "#d9622b", "#7c6fd0", "#c0392b", "#8a9a97"


def spaced(steps: int, count: int = FRAMES) -> tuple[int, ...]:
    """The steps that are kept: 0, 1, 2, 3, 4, 6, … `steps`, rising, `count` of them at most; all, if few.

    Raises:
        ValueError: fewer than 1 step, or fewer than 2 to keep.
    """
    if steps < 1 or count < 2:
        raise ValueError(f"{count} frames of {steps} steps are no film: choose 1 step or more, and 2 frames.")
    if steps <= count:
        return tuple(range(steps + 1))
    found: tuple[int, ...] = (0, steps)
    for points in range(3, 4 * count):  # near 0 several points are the same step
        at = np.geomspace(1, steps + 1, points).round().astype(int) - 1
        new = tuple(dict.fromkeys(at.tolist()))
        if len(new) > count:
            break
        found = new
    return found


def film_settings(bundle: Bundle, settings: ano_unet.Settings) -> ano_unet.Settings:
    """The optimisation that is filmed for a result: its own, where it took steps.

    For `instant` mode's single pass it is `fast` mode's with the same C; where the bundle has no identity
    U-Net, refining.
    """
    if settings.mode != "instant" or settings.steps:
        return settings
    if bundle.identity is None:
        return replace(settings, steps=REFINING, precision="float32")
    return bundle.settings("fast", center="local")


@dataclass(frozen=True)
class Frame:
    """What was there after some steps.

    Attributes:
        step: updates of G.
        y: (3, H, W) in [0, 1].
        heat: the method's usual map, smoothed as the settings say, (H, W) ≥ 0.
        losses: L_R, L_C and L of this y.
        features: F(y), (1280,).
        score: F's, of this y, ≥ 0.
    """

    step: int
    y: Tensor
    heat: Tensor
    losses: Mapping[str, float]
    features: Tensor
    score: float


@dataclass(frozen=True)
class Film:
    """Some steps of one image's optimisation.

    Attributes:
        x: (3, H, W) in [0, 1].
        frames: by their steps; the first is of step 0, the last is the result.
        settings: of the optimisation.
        map: which map the frames' `heat` is, one of `anomaly_map.MAPS`.
        scale: the level of that map that is shown as 1.
        threshold: F's: a score above it is anomalous.
    """

    x: Tensor
    frames: tuple[Frame, ...]
    settings: ano_unet.Settings
    map: str
    scale: float
    threshold: float

    @property
    def features(self) -> Tensor:
        """The path in feature space, (frames, 1280)."""
        return torch.stack([frame.features for frame in self.frames])

    def levels(self, frame: Frame) -> np.ndarray:
        """A frame's map on the one fixed scale, (H, W) in [0, 1]: 0.5 is what normal pixels stay under."""
        return (frame.heat / (SCALE_TOP * self.scale)).clamp(0, 1).numpy()


@dataclass(frozen=True)
class FilmStep:
    """One step of the optimisation.

    Attributes:
        index: updates of G so far, 0 … total.
        frame: where this step is kept.
        film: with the last step, which can come before `total`.
    """

    index: int
    total: int
    frame: Frame | None = None
    film: Film | None = None


def record(x: Tensor, bundle: Bundle, settings: ano_unet.Settings, count: int = FRAMES) -> Iterator[FilmStep]:
    """Redraws one image and keeps about `count` of the steps.

    Args:
        x: (3, H, W) float32 in [0, 1] at the bundle's size.
        settings: with 1 step or more; `film_settings` gives those that suit a result.

    Yields:
        A FilmStep for each step; the last one carries the Film.

    Raises:
        ImageError: the image holds NaN or infinity.
        ValueError: it is of another shape, there are no steps, or the bundle lacks a part (C too).
        DivergedError: L stopped being a number.
    """
    x, center = check_image(x, bundle), bundle.require_center()
    kept, frames = frozenset(spaced(settings.steps, count)), []
    shown = USUAL_MAP.get(settings.method, "residual")

    def frame_of(step: Step) -> Frame:
        features = features_of(bundle.f_net, step.image)
        return Frame(
            step=step.index,
            y=step.image[0],
            heat=maps_of(x[None], step.image, bundle, settings)[shown][0],
            losses={name: float(value[0]) for name, value in step.losses.items()},
            features=features[0],
            score=float(center.score(features)),
        )

    parts = parts_for(bundle, settings)
    with closing(ano_unet.reconstruct(x[None], bundle.f_net, *parts, snapshot_every=1)) as steps:
        for step in steps:
            frame = frame_of(step) if step.last or step.index in kept else None
            if frame is not None:
                frames.append(frame)
            film = None
            if step.last:
                scale = bundle.scale(settings.method, shown)
                film = Film(x, tuple(frames), settings, shown, scale, center.threshold)
            yield FilmStep(step.index, step.total, frame, film)


# --- what is drawn beside the pictures ---------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A film's path in a plane of feature space (`explore.way` lays it there).

    Attributes:
        at: the frames' places, (frames, 2).
        center: C's, (2,).
        normal: normal images', (n, 2); none where they are not here.
        explained: the share of the variance along each axis, in [0, 1].
    """

    at: np.ndarray
    center: np.ndarray
    normal: np.ndarray
    explained: tuple[float, float]

    def boxed(self) -> Way:
        """The same in the unit square, one scale for both axes: the path, C, and most normal images.

        Normal images that lie outside are left out.
        """
        corners = [self.at, self.center[None]]
        if len(self.normal):
            corners.append(np.quantile(self.normal, (0.1, 0.9), axis=0))
        points = np.concatenate(corners)
        low, high = points.min(axis=0), points.max(axis=0)
        span = 1.16 * max(float((high - low).max()), 1e-9)
        corner = (low + high - span) / 2
        at, center, normal = ((p - corner) / span for p in (self.at, self.center, self.normal))
        return replace(self, at=at, center=center, normal=normal[((normal >= 0) & (normal <= 1)).all(axis=1)])


@dataclass(frozen=True)
class LossChart:
    """L_R and β · L_C over the steps in the unit square, both axes logarithmic.

    Attributes:
        lines: "L_R" and "β · L_C" → (frames, 2); what is too low, 0 too, lies on the lower edge.
        steps: the ticks of the steps, each with its place.
        values: those of the losses.
    """

    lines: Mapping[str, np.ndarray]
    steps: tuple[tuple[str, float], ...]
    values: tuple[tuple[str, float], ...]


def loss_chart(film: Film) -> LossChart:
    """Draws the losses; the axis of the steps is that of log(1 + step), since a film begins at step 0."""
    last = film.frames[-1].step
    x = np.log1p([frame.step for frame in film.frames]) / math.log1p(last)
    losses = {
        "L_R": np.array([frame.losses["L_R"] for frame in film.frames]),
        "β · L_C": film.settings.beta * np.array([frame.losses["L_C"] for frame in film.frames]),
    }
    everything = np.concatenate(list(losses.values()))
    top = max(float(everything.max()), 1e-9)
    high = math.ceil(math.log10(top))
    least = float(everything[everything > 0].min(initial=top))
    low = min(high - 1, max(math.floor(math.log10(least)), high - _DECADES))

    def place(values: np.ndarray) -> np.ndarray:
        return ((np.log10(values.clip(10.0**low)) - low) / (high - low)).clip(0, 1)

    inner = [step for step in _TICKS if math.log1p(step) < 0.86 * math.log1p(last)]
    return LossChart(
        {name: np.stack([x, place(line)], axis=1) for name, line in losses.items()},
        tuple((str(step), math.log1p(step) / math.log1p(last)) for step in (*inner, last)),
        tuple((f"{10.0**power:g}", (power - low) / (high - low)) for power in range(low, high + 1)),
    )


# --- files -------------------------------------------------------------------------------------------


def smallest_loss(
    encode: Callable[[int, int], bytes], sides: Sequence[int], qualities: Sequence[int], most: int
) -> tuple[bytes, int]:
    """The first of `encode(side, quality)` that has `most` bytes or fewer, and its side.

    All qualities are tried before the next side: fine detail is worth more than the last bit of exactness.

    Raises:
        ValueError: not even the last one fits.
    """
    for side in sides:
        for quality in qualities:
            data = encode(side, quality)
            if len(data) <= most:
                return data, side
    raise ValueError(f"{len(data)} bytes were the fewest, and {most} are allowed: make it of fewer frames.")


def moving_picture(film: Film, way: Way | None = None, most: int = FILE_BYTES) -> bytes:
    """The film as one animated WebP: image, heat over the grey image, losses, and the path in feature space.

    Args:
        way: the path in a plane; without it the file has three panels.
        most: bytes.
    """
    chart, boxed = loss_chart(film), way.boxed() if way is not None else None
    original = to_pixels(film.x)
    pictures = []
    for number, frame in enumerate(film.frames):
        heat = overlay(original, film.levels(frame), OPACITY)
        panels = [_large(to_pixels(frame.y)), _large(heat), _draw_losses(chart, number)]
        if boxed is not None:
            panels.append(_draw_way(boxed, number))
        row = beside(panels)
        said = words([_told(film, frame)], row.shape[1], LINE + 6)
        pictures.append(Image.fromarray(np.concatenate([row, said])))
    seconds = [*[_SECONDS] * (len(pictures) - 1), _LAST_SECONDS]

    def encode(width: int, quality: int) -> bytes:
        first, *rest = (p if p.width == width else _narrowed(p, width) for p in pictures)
        file, duration = io.BytesIO(), [round(1000 * s) for s in seconds]
        first.save(
            file,
            "WEBP",
            save_all=True,
            append_images=rest,
            duration=duration,
            loop=0,
            quality=quality,
            method=2,
        )
        return file.getvalue()

    whole = pictures[0].width
    widths = [whole * share // 4 for share in (4, 3, 2, 1)]
    return smallest_loss(encode, widths, (80, 50, 25), most)[0]


def _told(film: Film, frame: Frame) -> str:
    """A frame's numbers, in letters that Pillow's own font has."""
    centering, ratio = film.settings.beta * frame.losses["L_C"], frame.score / max(film.threshold, 1e-9)
    step = f"step {frame.step} of {film.frames[-1].step}"
    losses = f"L_R {frame.losses['L_R']:.4f},  beta L_C {centering:.4f}"
    return f" {step}:  {losses},  F's score {ratio:.2f} x its threshold"


def _narrowed(picture: Image.Image, width: int) -> Image.Image:
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


def _large(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


class _Drawing:
    """A panel of lines and dots, drawn twice as large so that lines come out smooth."""

    def __init__(self, title: Sequence[tuple[str, str]]) -> None:
        """Takes the words of the title, each with its colour."""
        self._picture = Image.new("RGB", (2 * _SIDE, 2 * _SIDE), "white")
        self._draw, font, x = ImageDraw.Draw(self._picture), ImageFont.load_default(22), 16
        for word, colour in title:
            self._draw.text((x, 8), word, colour, font)
            x += self._draw.textlength(word, font) + 20

    def _at(self, points: np.ndarray) -> list[tuple[float, float]]:
        left, top, side = 28, 44, 2 * _SIDE - 56
        return [(left + x * side, top + (1 - y) * side) for x, y in points]

    def line(self, points: np.ndarray, colour: str, width: int = 4) -> None:
        if len(points) > 1:
            self._draw.line(self._at(points), colour, width, "curve")

    def dots(self, points: np.ndarray, colour: str, radius: int) -> None:
        for x, y in self._at(points):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)

    def cross(self, point: np.ndarray, colour: str, radius: int = 10) -> None:
        ((x, y),) = self._at(point[None])
        for sign in (-1, 1):
            self._draw.line((x - radius, y - sign * radius, x + radius, y + sign * radius), colour, 6)

    def pixels(self) -> np.ndarray:
        return np.asarray(self._picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def _draw_losses(chart: LossChart, number: int) -> np.ndarray:
    drawing = _Drawing([("L_R", _L_R), ("beta L_C", _L_C)])
    for _, y in chart.values:
        drawing.line(np.array([[0, y], [1, y]]), "#e3e9e8", 2)
    for line, colour, faint in zip(chart.lines.values(), (_L_R, _L_C), ("#bfe0dc", "#f3d3c3"), strict=True):
        drawing.line(line, faint)
        drawing.line(line[: number + 1], colour)
    x = next(iter(chart.lines.values()))[number, 0]
    drawing.line(np.array([[x, 0], [x, 1]]), "#8a94a0", 2)
    for line, colour in zip(chart.lines.values(), (_L_R, _L_C), strict=True):
        drawing.dots(line[number][None], colour, 7)
    return drawing.pixels()


def _draw_way(way: Way, number: int) -> np.ndarray:
    title = [("F(y)", _PATH), ("C", _C), ("normal images", _NORMAL)]
    drawing = _Drawing(title if len(way.normal) else title[:2])
    drawing.dots(way.normal, _NORMAL, 4)
    drawing.line(way.at, "#eccdc8")
    drawing.line(way.at[: number + 1], _PATH)
    drawing.cross(way.center, _C)
    drawing.dots(way.at[number][None], _PATH, 9)
    return drawing.pixels()
