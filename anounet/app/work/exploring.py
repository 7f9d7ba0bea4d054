"""What is computed for the page Explore: paths in feature space and grids of β × steps, kept as they come."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from anounet import ano_unet
from anounet.app.jobs import Job, closing_stream
from anounet.app.results import ResultCache, result_key
from anounet.app.texts import t
from anounet.app.work.answers import Picture
from anounet.bundle import Bundle
from anounet.explore import Cell, GridSettings, Trail, grid, trail
from anounet.images import to_pixels, to_tensor
from anounet.optimize import DivergedError

Explored = ResultCache[Trail | tuple[Cell, ...]]
MAX_BYTES = 48 * 2**20  # of the tensors that are kept; 60 rows of a grid at 96 px
STEP_SECONDS = {"fast": 0.06, "article": 0.25}  # roughly, on a CPU of two cores


@dataclass(frozen=True)
class TrailRequest:
    """Images whose paths are wanted."""

    bundle: str
    version: str
    pictures: tuple[Picture, ...]
    settings: ano_unet.Settings

    @property
    def key(self) -> str:
        return "trail " + " ".join(map(self.kept_as, self.pictures))

    def kept_as(self, picture: Picture) -> str:
        return result_key(picture.key, self.version, "trail", self.settings)

    def missing(self, cache: Explored) -> tuple[Picture, ...]:
        return tuple(picture for picture in self.pictures if cache.get(self.kept_as(picture)) is None)


@dataclass(frozen=True)
class GridRequest:
    """A grid that is wanted."""

    bundle: str
    version: str
    picture: Picture
    settings: GridSettings
    mask: np.ndarray | None = field(default=None, compare=False)  # where it is defective, bool (size, size)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return (self.picture,)

    @property
    def key(self) -> str:
        return "grid " + " ".join(map(self.kept_as, self.settings.betas))

    def kept_as(self, beta: float) -> str:
        """A row goes by itself: with another β beside it, it is not computed again."""
        method = "grid" if self.mask is None else "grid with a mask"
        return result_key(self.picture.key, self.version, method, replace(self.settings, betas=(beta,)))

    def cells(self, cache: Explored) -> list[Cell]:
        """What is there so far."""
        return [cell for beta in self.settings.betas for cell in cache.get(self.kept_as(beta)) or ()]

    def missing(self, cache: Explored) -> tuple[float, ...]:
        """The values of β that have not got all their cells."""
        count = len(self.settings.steps)
        return tuple(b for b in self.settings.betas if len(cache.get(self.kept_as(b)) or ()) < count)


def follow_trails(job: Job, request: TrailRequest, bundle: Bundle, cache: Explored) -> None:
    """The paths that are not kept yet; each is kept when it is done."""
    pictures, steps = request.missing(cache), request.settings.steps
    job.stage(t("job.paths"), len(pictures) * (steps + 1))
    for number, picture in enumerate(pictures):
        try:
            with closing_stream(trail(to_tensor(picture.pixels)[0], bundle, request.settings)) as stream:
                for step in stream:
                    job.advance(number * (steps + 1) + step.index + 1)
                    job.check()
            cache.put(request.kept_as(picture), step.trail)
        except DivergedError as error:
            job.faults[picture.name] = str(error)
        job.milestone()


def fill_grid(job: Job, request: GridRequest, bundle: Bundle, cache: Explored) -> None:
    """The cells that are not kept yet; each is kept when it is there."""
    settings = replace(request.settings, betas=request.missing(cache))
    job.stage(t("job.grid"), settings.total)
    x = to_tensor(request.picture.pixels)[0]
    with closing_stream(grid(x, bundle, settings, request.mask)) as stream:
        for step in stream:
            job.advance(step.done)
            if step.fault:
                job.faults[t("grid.beta", beta=f"{step.beta:g}")] = step.fault
            if step.new:
                key = request.kept_as(step.beta)
                if len(step.cells) > len(cache.get(key) or ()):  # of a run that was stopped there may be more
                    cache.put(key, step.cells)
                job.advance(step.done, samples=(request.picture.pixels, to_pixels(step.cells[-1].y)))
                job.milestone()
            job.check()


def estimated_seconds(mode: str, steps: int, cuda: bool | None = None) -> float:
    """A rough time for so many steps of one image, so that nobody starts long work by accident."""
    cuda = torch.cuda.is_available() if cuda is None else cuda
    return steps * (0.01 if cuda else STEP_SECONDS[mode])


def size_of(kept: Trail | tuple[Cell, ...]) -> int:
    """Bytes of the tensors."""
    if isinstance(kept, Trail):
        tensors = [kept.features, kept.y]
    else:
        tensors = [tensor for cell in kept for tensor in (cell.y, cell.heat)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
