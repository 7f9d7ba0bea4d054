"""What is computed for two images: C from the references, every image's map, then every image redrawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from anounet import difference
from anounet.ano_unet import Settings
from anounet.app.jobs import Job, closing_stream
from anounet.app.results import ResultCache, result_key
from anounet.app.texts import t
from anounet.app.work.answers import Picture
from anounet.bundle import Bundle
from anounet.difference import differ, learn
from anounet.images import to_pixels, to_tensor
from anounet.optimize import DivergedError, Step
from anounet.visualization import Result, drain

SNAPSHOTS = 5  # steps between pictures of the work


@dataclass(frozen=True)
class Request:
    """What a comparison is for; enough to show it again after a refresh."""

    bundle: str
    version: str
    references: tuple[Picture, ...]
    pictures: tuple[Picture, ...]
    place: str  # of difference.PLACES

    @property
    def _method(self) -> str:
        return f"{difference.METHOD} {self.place} {' '.join(p.key for p in self.references)}"

    @property
    def key(self) -> str:
        return f"{self._method} {self.version} {' '.join(p.key for p in self.pictures)}"

    @property
    def facts(self) -> dict[str, object]:
        """What its results are made with, for files."""
        return {
            "bundle": self.bundle,
            "bundle_sha256": self.version,
            "settings": asdict(difference.SETTINGS),
            "references": {picture.name: picture.key for picture in self.references},
            "place": self.place,
        }

    def result_key(self, picture: Picture, settings: Settings) -> str:
        return result_key(picture.key, self.version, self._method, settings)


def at_once() -> Settings:
    """The same map without redrawing, which takes twenty times as long."""
    return replace(difference.SETTINGS, steps=0)


def found(cache: ResultCache, request: Request, *, whole: bool = False) -> dict[str, Result]:
    """The results there are, by the pictures' keys; unless `whole`, those too that are not redrawn yet."""
    kept = {}
    for settings in (difference.SETTINGS,) if whole else (at_once(), difference.SETTINGS):
        for picture in request.pictures:
            result = cache.get(request.result_key(picture, settings))
            if result is not None:
                kept[picture.key] = result
    return kept


def compare(job: Job, request: Request, bundle: Bundle, cache: ResultCache) -> None:
    """Learns the references, and answers for every picture that has no result yet."""
    job.stage(t("job.references"))
    x = to_tensor([picture.pixels for picture in request.references])
    with closing_stream(learn(x, bundle.f_net, request.place)) as steps:
        for step in steps:
            job.advance(step.done, step.total)
            job.check()
            references = step.references
    there = found(cache, request)
    first = [picture for picture in request.pictures if picture.key not in there]
    job.stage(t("job.mapping"), len(first))
    for number, picture in enumerate(first, 1):
        job.check()
        stream = differ(to_tensor(picture.pixels)[0], references, bundle, at_once())
        cache.put(request.result_key(picture, at_once()), drain(stream))
        job.advance(number)
    job.milestone()
    there, total = found(cache, request, whole=True), difference.SETTINGS.steps + 1
    pending = [picture for picture in request.pictures if picture.key not in there]
    job.stage(t("job.differ"), len(pending) * total)
    for number, picture in enumerate(pending):
        job.check()
        job.new_curves()

        def on_step(step: Step, number: int = number, original: np.ndarray = picture.pixels) -> None:
            now = None if step.image is None else (original, to_pixels(step.image[0]))
            values = {name: float(value[0]) for name, value in step.losses.items()}
            job.advance(number * total + step.index, values=values, samples=now)
            job.check()

        stream = differ(
            to_tensor(picture.pixels)[0], references, bundle, difference.SETTINGS, snapshot_every=SNAPSHOTS
        )
        try:
            cache.put(request.result_key(picture, difference.SETTINGS), drain(stream, on_step))
        except DivergedError as error:
            job.faults[picture.name] = str(error)
        job.advance((number + 1) * total, samples=())
        job.milestone()
