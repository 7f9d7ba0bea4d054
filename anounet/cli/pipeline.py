"""A batch's three kinds of work at the same time: images are read ahead, redrawn, and written behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from anounet import ano_unet
from anounet.bundle import Bundle
from anounet.images import Decoded, ImageError, to_tensor
from anounet.ordered import in_order
from anounet.visualization import Result, visualize_many

F = TypeVar("F")  # a file, by its path or its address
T = TypeVar("T")
R = TypeVar("R")
Done = tuple[F, Decoded | ImageError, Result | ValueError | ArithmeticError]  # file, image, what came out
AHEAD = 32  # images decoded ahead of the one that is being redrawn, and written behind it, at most
DECODERS = 2  # threads that decode
WRITERS = 2  # threads that write: encoding a PNG holds no lock


def decoded(
    files: Iterable[F], decode: Callable[[F], Decoded], threads: int = DECODERS
) -> Iterator[tuple[F, Decoded | ImageError]]:
    """The files decoded, in order, `AHEAD` of them at most before they are asked for."""

    def one(file: F) -> tuple[F, Decoded | ImageError]:
        try:
            return file, decode(file)
        except ImageError as error:
            return file, error

    return in_order(files, one, threads, AHEAD - 1)


def results(
    images: Iterable[tuple[F, Decoded | ImageError]],
    bundle: Bundle,
    settings: ano_unet.Settings,
    *,
    gate: bool = False,
    workers: int | None = None,
) -> Iterator[Done[F]]:
    """Each file, its image and what came out, in order; an image that could not be read is passed on."""
    waiting: deque[tuple[F, Decoded | ImageError]] = deque()

    def stream() -> Iterator[torch.Tensor]:
        for file, image in images:
            waiting.append((file, image))
            if isinstance(image, Decoded):
                yield to_tensor(image.pixels)[0]

    for result in visualize_many(stream(), bundle, settings, gate=gate, workers=workers):
        while isinstance(waiting[0][1], ImageError):
            yield (*waiting[0], waiting.popleft()[1])
        yield (*waiting.popleft(), result)
    for file, error in waiting:
        yield file, error, error
