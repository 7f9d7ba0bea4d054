"""Many images judged by one bundle, for a table: small pictures and numbers are kept of each, no maps.

A ranking is found by its id, which stands in the link. It keeps each image as a PNG, so that the whole result
of the one that is looked at can be computed again.
"""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from anounet import ano_unet
from anounet.app import panels
from anounet.app.batching import Batcher, Ticket
from anounet.app.jobs import Job
from anounet.app.results import result_key
from anounet.app.texts import t
from anounet.app.work.answers import Picture, Request, own
from anounet.bundle import Bundle
from anounet.images import ImageError, png_bytes, to_tensor
from anounet.visualization import Result, visualize_distance, visualize_many

MAX_IMAGES = 500  # of one ranking
MAX_BYTES = 160 * 2**20  # of all rankings' images and small pictures: 500 images of 256 px are 110 MB
CHUNK = 16  # images that are asked for at once
MOMENT = 0.25  # seconds between looks whether the job is to stop


@dataclass(frozen=True)
class Basis:
    """What a ranking goes by: rows of another basis are computed anew.

    Attributes:
        key: names the bundle's parts and levels that scores and maps depend on.
        settings: "instant" mode's, or those of `fast` mode with local centres.
        redrawn: whether images are redrawn for it, or only their distance map is looked at.
    """

    key: str
    settings: ano_unet.Settings
    redrawn: bool

    @property
    def map(self) -> str:
        """The map whose regions are counted and drawn over the small picture."""
        return "combined" if self.redrawn else "distance"

    @property
    def view(self) -> panels.View:
        return panels.View(self.map)


def basis_of(bundle: Bundle, version: str, training: bool) -> Basis:
    """`instant` mode where the bundle has it, with its levels; else the distance map, which takes no G.

    Args:
        training: the instant U-Net is in training: what is saved on the way is not judged by.

    Raises:
        WeightsError: the bundle has no local centres.
    """
    local = bundle.require_local()
    if bundle.mode == "instant" and not training and "instant:score" in bundle.limits:
        return Basis(version, bundle.settings("instant", steps=0), True)
    settings = bundle.settings("fast", center="local")
    method = settings.method
    levels = (bundle.scale(method, "distance"), bundle.limit(method, "distance"), bundle.threshold(settings))
    return Basis(f"{local.fingerprint} {levels!r}", settings, False)


@dataclass(frozen=True)
class Row:
    """What the table says of one image."""

    key: str
    name: str
    method: str
    score: float
    threshold: float
    map: str
    top: float  # what the map reaches, in its own unit
    scale: float
    limit: float
    regions: int
    seconds: float
    original: str  # small pictures, as data URIs
    overlay: str

    @property
    def anomalous(self) -> bool:
        return not self.score <= self.threshold

    @property
    def verdict(self) -> str:
        return "anomalous" if self.anomalous else "normal"

    @property
    def ratio(self) -> float:
        return self.score / max(self.threshold, 1e-9)

    @property
    def size(self) -> int:
        return len(self.original) + len(self.overlay)


@dataclass(frozen=True)
class _Kept:
    name: str
    note: str
    png: bytes


class Ranking:
    """The images of one visitor that one bundle judges, and what came out so far; for many threads."""

    def __init__(self, id: str, bundle: str, size: int) -> None:
        self.id, self.bundle, self.side = id, bundle, size
        self._lock = threading.Lock()
        self._images: OrderedDict[str, _Kept] = OrderedDict()
        self._rows: dict[str, Row] = {}
        self._faults: dict[str, str] = {}  # key → why there is no row
        self._basis = ""

    def __len__(self) -> int:
        with self._lock:
            return len(self._images)

    @property
    def bytes(self) -> int:
        with self._lock:
            images = sum(len(kept.png) for kept in self._images.values())
            return images + sum(row.size for row in self._rows.values())

    def add(self, pictures: Sequence[Picture]) -> list[str]:
        """Takes images; gives a sentence for each that was left out."""
        said = []
        for picture in pictures:
            kept = _Kept(picture.name, picture.note, png_bytes(picture.pixels))
            with self._lock:
                known = self._images.get(picture.key)
                if known is not None:
                    said.append(t("images.twice", name=picture.name, other=known.name))
                elif len(self._images) >= MAX_IMAGES:
                    said.append(t("images.too_many", name=picture.name, n=MAX_IMAGES))
                else:
                    self._images[picture.key] = kept
        return said

    def clear(self) -> None:
        with self._lock:
            self._images.clear()
            self._rows.clear()
            self._faults.clear()

    def picture(self, key: str) -> Picture | None:
        with self._lock:
            kept = self._images.get(key)
        if kept is None:
            return None
        return Picture(kept.name, key, np.array(Image.open(io.BytesIO(kept.png)).convert("RGB")), kept.note)

    def begin(self, basis: Basis) -> None:
        """Lets go of what was found on another basis."""
        with self._lock:
            if self._basis != basis.key:
                self._basis = basis.key
                self._rows.clear()
                self._faults.clear()

    def missing(self, basis: Basis) -> list[str]:
        """The images that there is no answer for yet, in the order in which they came."""
        with self._lock:
            if self._basis != basis.key:
                return []  # another basis has taken its place
            return [key for key in self._images if key not in self._rows and key not in self._faults]

    def put(self, basis: Basis, key: str, answer: Row | str) -> None:
        with self._lock:
            if self._basis == basis.key and key in self._images:
                if isinstance(answer, Row):
                    self._rows[key] = answer
                else:
                    self._faults[key] = answer

    def rows(self) -> list[Row]:
        """The highest score first; one that is no number before all."""
        with self._lock:
            rows = list(self._rows.values())
        return sorted(rows, key=lambda row: -math.inf if math.isnan(row.score) else -row.ratio)

    def faults(self) -> dict[str, str]:
        """An image's name → why it has no score."""
        with self._lock:
            return {self._images[key].name: said for key, said in self._faults.items() if key in self._images}


class Rankings:
    """All rankings of the server, bounded in bytes: the ones not looked at for longest are let go."""

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._most, self._lock = most, threading.Lock()
        self._kept: OrderedDict[str, Ranking] = OrderedDict()

    def get(self, id: str | None, bundle: str, size: int) -> Ranking | None:
        """The ranking of that id, if it is one of this bundle's."""
        with self._lock:
            ranking = self._kept.get(id or "")
            if ranking is None or (ranking.bundle, ranking.side) != (bundle, size):
                return None
            self._kept.move_to_end(ranking.id)
            return ranking

    def new(self, id: str, bundle: str, size: int) -> Ranking:
        with self._lock:
            self._kept[id] = Ranking(id, bundle, size)
            return self._kept[id]

    def bound(self) -> None:
        """Lets go of the oldest ones, until the others fit; the last one that was looked at stays."""
        with self._lock:
            while len(self._kept) > 1 and sum(ranking.bytes for ranking in self._kept.values()) > self._most:
                self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)


def row_of(picture: Picture, result: Result, basis: Basis) -> Row:
    """What is kept of a result."""
    view = basis.view
    name = view.name(result)
    return Row(
        key=picture.key,
        name=picture.name,
        method=result.method,
        score=result.score,
        threshold=float(result.threshold),
        map=name,
        top=float(result.maps[name].max()),
        scale=float(result.scales[name]),
        limit=float(result.limits[name]),
        regions=len(panels.shown_regions(result, view)),
        seconds=result.seconds,
        original=panels.thumbnail(picture.pixels),
        overlay=panels.thumbnail(panels.overlay_pixels(result, view)),
    )


def ask(
    batcher: Batcher[np.ndarray, Result], bundle: Bundle, basis: Basis, pictures: Sequence[Picture]
) -> Ticket[Result]:
    """Asks the queue of passes for results on a basis, by what `key_in_queue` gives for each picture."""

    def compute(pixels: Sequence[np.ndarray]) -> Iterator[Result | ImageError | ArithmeticError]:
        images = (to_tensor(p)[0] for p in pixels)
        if basis.redrawn:
            for answer in visualize_many(images, bundle, basis.settings):
                yield own(answer) if isinstance(answer, Result) else answer
        else:
            yield from visualize_distance(images, bundle, basis.settings)

    wanted = {key_in_queue(basis, picture): picture.pixels for picture in pictures}
    return batcher.ask((basis.key, basis.redrawn), compute, wanted)


def key_in_queue(basis: Basis, picture: Picture) -> str:
    """In `instant` mode the one by which pages ask for the same result."""
    method = "ano-unet" if basis.redrawn else "distance"
    return result_key(picture.key, basis.key, method, basis.settings)


def ask_redrawn(
    batcher: Batcher[np.ndarray, Result], bundle: Bundle, request: Request, picture: Picture
) -> Ticket[Result]:
    """Asks the queue of passes for one image's whole result, with the steps that it takes."""

    def compute(pixels: Sequence[np.ndarray]) -> Iterator[Result | ImageError | ArithmeticError]:
        return visualize_many((to_tensor(p)[0] for p in pixels), bundle, request.settings)

    return batcher.ask((request.version, request.settings), compute, {request.full(picture): picture.pixels})


def rank(
    job: Job,
    ranking: Ranking,
    basis: Basis,
    batcher: Batcher[np.ndarray, Result],
    bundle: Bundle,
    bound: Callable[[], None],
) -> int:
    """Judges the images of a ranking that have no row yet, those too that come meanwhile; gives their number.

    Args:
        bound: called after each part, as memory has grown.
    """
    done = 0
    job.stage(t("job.ranking"), len(ranking.missing(basis)))
    while missing := ranking.missing(basis):
        for picture, answer in results(job.check, ranking, missing[:CHUNK], basis, batcher, bundle):
            found = row_of(picture, answer, basis) if isinstance(answer, Result) else str(answer)
            ranking.put(basis, picture.key, found)
            done += 1
        bound()
        job.advance(done, done + len(ranking.missing(basis)))
    return done


def results(
    check: Callable[[], object],
    ranking: Ranking,
    keys: Sequence[str],
    basis: Basis,
    batcher: Batcher[np.ndarray, Result],
    bundle: Bundle,
) -> Iterator[tuple[Picture, Result | ImageError | ArithmeticError]]:
    """Results of a ranking's images, some at a time; each is let go of when the next is asked for.

    Args:
        check: called while the queue of passes is waited for; what it raises ends the waiting.

    Raises:
        WeightsError: the bundle lacks a part.
    """
    for start in range(0, len(keys), CHUNK):
        pictures = [p for key in keys[start : start + CHUNK] if (p := ranking.picture(key)) is not None]
        ticket = ask(batcher, bundle, basis, pictures)
        try:
            while not ticket.wait(MOMENT):
                check()
        finally:
            ticket.leave()
        for picture in pictures:
            answer = ticket.answers.pop(key_in_queue(basis, picture))
            if isinstance(answer, Exception) and not isinstance(answer, ImageError | ArithmeticError):
                raise answer
            yield picture, answer
