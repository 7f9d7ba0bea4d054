"""What is computed for pictures: Ano-Unet's answer and a rival's, each kept when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from anounet import ano_unet
from anounet.anogan import SearchSettings
from anounet.app.batching import Batcher, Ticket
from anounet.app.jobs import Job
from anounet.app.results import ResultCache, result_key
from anounet.app.texts import label, t
from anounet.bundle import Bundle
from anounet.datasets import DataError
from anounet.images import ImageError, to_pixels, to_tensor
from anounet.optimize import DivergedError, Step
from anounet.visualization import (
    NEAREST,
    Remembered,
    Result,
    drain,
    visualize,
    visualize_many,
    visualize_nearest,
    visualize_rival,
)

RIVAL_BATCH = 8  # images that a rival gets at once
_SLOWEST = "anogan"  # it comes last


@dataclass(frozen=True)
class Picture:
    """An image to visualise."""

    name: str
    key: str  # hash of its content
    pixels: np.ndarray  # (size, size, 3) uint8
    note: str = ""


@dataclass(frozen=True)
class Request:
    """What a visualisation job is for; enough to show it again after a refresh."""

    bundle: str
    version: str
    pictures: tuple[Picture, ...]
    settings: ano_unet.Settings
    gate: bool
    rivals: tuple[str, ...] = ()  # of RIVALS: what it is compared with
    search: SearchSettings | None = None  # AnoGAN's; None: as it is

    @property
    def _images(self) -> str:
        return " ".join(picture.key for picture in self.pictures)

    @property
    def key(self) -> str:
        return f"visualise {self.version} {self._images} {self.settings!r} {self.gate}"

    @property
    def rival_key(self) -> str:
        """A rival's answer is work of its own: nothing that Ano-Unet is asked for begins it anew."""
        return f"compare {self.version} {self._images} {' '.join(self.rivals)} {self.search!r}"

    @property
    def facts(self) -> dict[str, object]:
        """What its results are made with, for files."""
        return {
            "bundle": self.bundle,
            "bundle_sha256": self.version,
            "settings": asdict(self.settings),
            "gate": self.gate,
            "rivals": list(self.rivals),
        }

    @property
    def at_once(self) -> Request:
        """The same without refining steps: what `instant` mode answers before they are done."""
        return replace(self, settings=replace(self.settings, steps=0))

    @property
    def instant(self) -> bool:
        return self.settings.mode == "instant"

    def full(self, picture: Picture) -> str:
        return result_key(picture.key, self.version, "ano-unet", self.settings)

    def left_out(self, picture: Picture) -> str:
        return result_key(picture.key, self.version, "score", None)

    def compared(self, picture: Picture, rival: str) -> str:
        return result_key(picture.key, self.version, rival, self.search if rival == "anogan" else None)


def find(cache: ResultCache, request: Request, picture: Picture) -> Result | None:
    """The kept result of one picture; without an image where the gate leaves the picture out."""
    result = cache.get(request.full(picture))
    if result is not None:
        if request.gate and not result.anomalous:
            return replace(result, y=None, anomaly_map=None, losses={})
        return result
    return cache.get(request.left_out(picture)) if request.gate else None


def redraw(
    cache: ResultCache,
    bundle: Bundle,
    request: Request,
    picture: Picture,
    on_step: Callable[[Step], None] | None = None,
) -> Result:
    """Ano-Unet's result for one picture: the kept one, else a new one, computed once for all who ask."""
    kept = find(cache, request, picture)
    if kept is not None:
        return kept
    x = to_tensor(picture.pixels)[0]

    def make() -> Result:
        every = 5 if request.settings.mode == "article" else max(1, request.settings.steps // 10)
        stream = visualize(x, bundle, request.settings, gate=request.gate, snapshot_every=every)
        return drain(stream, on_step)

    if not request.gate:
        return cache.compute(request.full(picture), make)
    result = make()
    cache.put(request.left_out(picture) if result.y is None else request.full(picture), result)
    return result


def ask_at_once(batcher: Batcher[np.ndarray, Result], bundle: Bundle, request: Request) -> Ticket[Result]:
    """Asks for `instant` mode's answer for every picture: no job, but a place in the queue of passes."""
    request = request.at_once

    def compute(pixels: Sequence[np.ndarray]) -> Iterator[Result | ImageError | ArithmeticError]:
        for answer in visualize_many((to_tensor(p)[0] for p in pixels), bundle, request.settings):
            yield own(answer) if isinstance(answer, Result) else answer

    wanted = {request.full(picture): picture.pixels for picture in request.pictures}
    return batcher.ask((request.version, request.settings), compute, wanted)


def own(result: Result) -> Result:
    """The same in memory of its own: a part of a pass would keep all of the pass, were it kept."""
    maps = {name: tensor.clone() for name, tensor in result.maps.items()}
    usual = next((maps[name] for name, m in result.maps.items() if m is result.anomaly_map), None)
    if usual is None:
        usual = result.anomaly_map.clone()
    return replace(result, x=result.x.clone(), y=result.y.clone(), anomaly_map=usual, maps=maps)


def answered(ticket: Ticket[Result], request: Request) -> tuple[dict[str, Result], dict[str, str]]:
    """The results of a ticket that has all its answers, by the pictures' keys, and what is wrong with others.

    Raises:
        WeightsError: the bundle lacks a part.
    """
    found, faults = {}, {}
    for picture in request.pictures:
        answer = ticket.answers[request.at_once.full(picture)]
        if isinstance(answer, ImageError | ArithmeticError):
            faults[picture.name] = str(answer)
        elif isinstance(answer, Exception):
            raise answer
        else:
            found[picture.key] = answer
    return found, faults


def missing(cache: ResultCache, request: Request) -> bool:
    """Whether any of Ano-Unet's results has still to be computed."""
    return any(find(cache, request, picture) is None for picture in request.pictures)


def visualise(job: Job, request: Request, bundle: Bundle, cache: ResultCache) -> None:
    """Ano-Unet for every picture; each is kept when it is done."""
    count, steps = len(request.pictures), request.settings.steps
    job.stage(t("job.refining") if request.instant else t("job.ano_unet"), count * (steps + 1))
    for number, picture in enumerate(request.pictures):
        job.check()
        job.new_curves()

        def on_step(step: Step, number: int = number, original: np.ndarray = picture.pixels) -> None:
            picture_now = None if step.image is None else (original, to_pixels(step.image[0]))
            values = {name: float(value[0]) for name, value in step.losses.items()}
            job.advance(number * (steps + 1) + step.index, values=values, samples=picture_now)
            job.check()

        try:
            redraw(cache, bundle, request, picture, on_step)
        except DivergedError as error:
            job.faults[picture.name] = str(error)
        job.advance((number + 1) * (steps + 1), samples=())
        job.milestone()


def uncompared(cache: ResultCache, request: Request, rival: str) -> tuple[Picture, ...]:
    """The pictures that a rival has still to answer: not those that the gate leaves out."""
    return tuple(
        picture
        for picture in request.pictures
        if cache.get(request.compared(picture, rival)) is None
        and ((result := find(cache, request, picture)) is None or result.y is not None)
    )


def compare(
    job: Job, request: Request, bundle: Bundle, cache: ResultCache, memory: Callable[[], Remembered]
) -> None:
    """The rivals for the pictures that they have not answered, some at a time; each is kept when it is done.

    Args:
        memory: gives the normal patches that "nearest-patch" remembers.
    """
    for rival in sorted(request.rivals, key=_SLOWEST.__eq__):
        chosen = uncompared(cache, request, rival)
        if rival == NEAREST and chosen:
            job.stage(t("job.memory"))
            try:
                remembered = memory()
            except DataError as error:
                job.faults[label(rival)] = str(error)
                continue
        for start in range(0, len(chosen), RIVAL_BATCH):
            batch = chosen[start : start + RIVAL_BATCH]
            search = (request.search or SearchSettings()) if rival == "anogan" else None
            job.stage(t("job.rival", rival=label(rival)), search.steps if search else 1)
            x = to_tensor([picture.pixels for picture in batch])

            def on_search(step: Step) -> None:
                job.advance(step.index)
                job.check()

            try:
                if rival == NEAREST:
                    found = visualize_nearest(x, bundle, remembered)
                else:
                    found = drain(visualize_rival(rival, x, bundle, search), on_search)
            except DivergedError as error:
                job.faults[label(rival)] = str(error)
                continue
            for picture, result in zip(batch, found, strict=True):
                cache.put(request.compared(picture, rival), result)
            job.milestone()


def estimated_seconds(request: Request, cuda: bool | None = None) -> float:
    """A rough time for a request in article mode, so that nobody starts an hour's work by accident."""
    cuda = torch.cuda.is_available() if cuda is None else cuda
    a_step = 0.01 if cuda else 0.25
    return len(request.pictures) * request.settings.steps * a_step


def estimated_search(count: int, cuda: bool | None = None) -> float:
    """A rough time for AnoGAN's search for so many pictures, in seconds."""
    cuda = torch.cuda.is_available() if cuda is None else cuda
    return -(-count // RIVAL_BATCH) * (5.0 if cuda else 25.0) if count > 2 else 15.0
