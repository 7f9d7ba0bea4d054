"""What is computed for a film: the optimisation, and its frames as small as a page can be sent them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from anounet import ano_unet
from anounet.app.jobs import Job, closing_stream
from anounet.app.results import ResultCache, result_key
from anounet.app.texts import t
from anounet.app.work import exploring
from anounet.app.work.answers import Picture
from anounet.bundle import Bundle
from anounet.datasets import DataError
from anounet.explore import Cloud, way
from anounet.film import (
    Film,
    LossChart,
    Way,
    film_settings,
    loss_chart,
    moving_picture,
    record,
    smallest_loss,
)
from anounet.images import ImageError, to_pixels, to_tensor

Films = ResultCache["Reel"]
MAX_BYTES = 16 * 2**20  # of all that is kept: 30 films or more
# A page gets a film as JSON, where three bytes of a picture take four letters: 273 kB of 300, and the rest,
# numbers and words, takes some 15. Maps are smooth and get by with less than images.
SHEETS, MAPS = 205_000, 75_000
QUALITIES = (90, 70, 50)  # WebP's
SMALLEST = 32
REST = 2.0  # seconds, roughly, that all but the steps takes


@dataclass(frozen=True)
class Request:
    """A film that is wanted."""

    bundle: str
    version: str
    picture: Picture
    settings: ano_unet.Settings  # of an optimisation, with steps

    @property
    def key(self) -> str:
        return result_key(self.picture.key, self.version, "film", self.settings)


@dataclass(frozen=True)
class Reel:
    """A film as it is kept: a few hundred kB.

    Attributes:
        settings: of the optimisation.
        map: which map is shown, one of `anomaly_map.MAPS`.
        steps: of the frames, rising from 0.
        residuals: L_R of the frames.
        centerings: β · L_C.
        ratios: F's score in units of its threshold.
        chart: the losses, and
        way: the path in feature space, both in the unit square.
        images: the original and the frames, one below the other, as WebP.
        maps: the frames' maps, 0 to 255 on the fixed scale, likewise and grey.
        side, map_side: of one of them, in pixels.
        moving: the film as one file, an animated WebP.
    """

    settings: ano_unet.Settings
    map: str
    steps: tuple[int, ...]
    residuals: tuple[float, ...]
    centerings: tuple[float, ...]
    ratios: tuple[float, ...]
    chart: LossChart
    way: Way
    images: bytes
    side: int
    maps: bytes
    map_side: int
    moving: bytes


def wanted(bundle: Bundle, version: str, picture: Picture, settings: ano_unet.Settings) -> Request | None:
    """The film that goes with a result; None where there are no steps, or no C for the path to lead to."""
    filmed = film_settings(bundle, settings)
    if bundle.center is None or filmed.steps < 1:
        return None
    return Request(bundle.name, version, picture, filmed)


def make(job: Job, request: Request, bundle: Bundle, cache: Films, look: Callable[[], Cloud]) -> None:
    """The film, kept when it is done.

    Args:
        look: gives the bundle's feature space; where its data set is not here, the film does without.
    """
    pixels = request.picture.pixels
    job.stage(t("job.film"), request.settings.steps)
    with closing_stream(record(to_tensor(pixels)[0], bundle, request.settings)) as stream:
        for step in stream:
            seen = None if step.frame is None else (pixels, to_pixels(step.frame.y))
            job.advance(step.index, samples=seen)
            job.check()
    job.stage(t("job.film_space"))
    try:
        cloud = look()
    except (DataError, ImageError, ValueError):
        cloud = None
    job.check()
    cache.put(request.key, reel(step.film, way(step.film, bundle.center, cloud)))
    job.milestone()


def reel(film: Film, path: Way) -> Reel:
    """A film made small.

    Args:
        path: the film's, in a plane.
    """
    beta, side = film.settings.beta, film.x.shape[-1]
    sides = [s for s in (side, 192, 160, 128, 96, 64, 48, SMALLEST) if s <= side]
    levels = [(255 * film.levels(frame)).round().astype(np.uint8) for frame in film.frames]
    maps, map_side = smallest_loss(_sheet(levels), sides, QUALITIES, MAPS)
    pictures = [to_pixels(film.x), *(to_pixels(frame.y) for frame in film.frames)]
    images, image_side = smallest_loss(_sheet(pictures), sides, QUALITIES, SHEETS - len(maps))
    return Reel(
        settings=film.settings,
        map=film.map,
        steps=tuple(frame.step for frame in film.frames),
        residuals=tuple(frame.losses["L_R"] for frame in film.frames),
        centerings=tuple(beta * frame.losses["L_C"] for frame in film.frames),
        ratios=tuple(frame.score / max(film.threshold, 1e-9) for frame in film.frames),
        chart=loss_chart(film),
        way=path.boxed(),
        images=images,
        side=image_side,
        maps=maps,
        map_side=map_side,
        moving=moving_picture(film, path),
    )


def _sheet(tiles: Sequence[np.ndarray]) -> Callable[[int, int], bytes]:
    """Encodes pictures of one size, one below the other: (side, WebP's quality) → a file."""

    def encode(side: int, quality: int) -> bytes:
        sized = [tile if len(tile) == side else _resized(tile, side) for tile in tiles]
        file = io.BytesIO()
        Image.fromarray(np.concatenate(sized)).save(file, "WEBP", quality=quality)
        return file.getvalue()

    return encode


def _resized(tile: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(tile).resize((side, side), Image.Resampling.LANCZOS))


def estimated_seconds(settings: ano_unet.Settings, cuda: bool | None = None) -> float:
    """A rough time for a film, so that nobody starts long work by accident."""
    mode = "article" if settings.mode == "article" else "fast"
    return exploring.estimated_seconds(mode, settings.steps, cuda) + REST


def size_of(kept: Reel) -> int:
    return len(kept.images) + len(kept.maps) + len(kept.moving)
