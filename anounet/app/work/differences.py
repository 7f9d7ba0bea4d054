"""What is computed for two images: C from the references, then each image's answer, kept when it is done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anounet import difference
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

    def result_key(self, picture: Picture) -> str:
        return result_key(picture.key, self.version, self._method, difference.SETTINGS)


def found(cache: ResultCache, request: Request) -> dict[str, Result]:
    """The results there are, by the pictures' keys."""
    kept = {p.key: cache.get(request.result_key(p)) for p in request.pictures}
    return {key: result for key, result in kept.items() if result is not None}


def compare(job: Job, request: Request, bundle: Bundle, cache: ResultCache) -> None:
    """Learns the references, and answers for every picture that has no result yet."""
    references = None
    x = to_tensor([picture.pixels for picture in request.references])
    with closing_stream(learn(x, bundle.f_net, request.place)) as steps:
        for step in steps:
            if references is None and step.done == 1:
                job.stage(t("job.references"), step.total)
            job.advance(step.done)
            job.check()
            references = step.references
    there, total = found(cache, request), difference.SETTINGS.steps + 1
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
            cache.put(request.result_key(picture), drain(stream, on_step))
        except DivergedError as error:
            job.faults[picture.name] = str(error)
        job.advance((number + 1) * total, samples=())
        job.milestone()
