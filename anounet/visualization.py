"""What a bundle makes of an image: its normalised one, its maps, its score and the verdict.

`visualize` redraws one image as a stream of Steps that ends in a Result; `drain` runs such a stream to its
end, and `visualize_many` does so for a stream of images. `visualize_anogan`, `visualize_f_anogan` and
`visualize_decoder` are the rivals', and `visualize_rival` the one that is named; `visualize_nearest` is that
of the nearest remembered patch, which finds but does not redraw; nor does `visualize_distance`, which shows
how far each patch lies from the local centres.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from anounet import ano_unet, anogan, decoder, f_anogan, nearest_patch
from anounet.anogan import SearchSettings
from anounet.anomaly_map import (
    LIMIT_QUANTILE,
    SCALE_TOP,
    Region,
    draw_contours,
    enlarge,
    heat_map,
    map_set,
    overlay,
    regions,
    scale_from_normals,
    smooth,
)
from anounet.bundle import USUAL_MAP, Bundle
from anounet.center import Center, features_of
from anounet.images import ImageError, to_pixels, upload
from anounet.local_centers import LocalCenters, patches
from anounet.nearest_patch import NearestPatch, build_memory
from anounet.optimize import Step, cpu_threads
from anounet.ordered import in_order
from anounet.unet import UNet

R = TypeVar("R")
SMOOTHING = 2.0  # σ of the Gaussian over a rival's map, in pixels at a side of 96, as Ano-Unet's
NEAREST = "nearest-patch"  # the rival that remembers patches, and redraws nothing
REMEMBERED = 10_000  # patches, as in `benchmarks/quality.py`
RIVAL_BATCH = 8  # images whose patches are compared at once
# Images of 96 px in one pass of `instant` mode, on each core; 16 are a tenth faster, for 90 MB a core more.
INSTANT_BATCH = 4
INSTANT_GPU_BATCH = 128
DISTANCE_BATCH = 8  # images whose patches are compared with the centres at once
MOST_AT_ONCE = 256  # images that are optimised at once, whatever memory there is


@dataclass(frozen=True)
class Result:
    """What came out for one image.

    Attributes:
        method: "instant", "fast", "fast-local", "article", one of `bundle.RIVALS`, or "nearest-patch".
        score: ‖F(x) − C‖₁ / 1280 with a global C; with local centres how many times the level of normal
            pixels the map reaches (`peaks`; the distance map's peak in `fast` mode), or what F's score of the
            whole image says in that unit, where that is more (`overall`); for AnoGAN the loss where
            its search ended, for f-AnoGAN that of its answer; for the decoder its map's
            peak, in units of the map's scale.
        threshold: above it an image is called anomalous; None for a rival.
        x: (3, H, W) in [0, 1].
        y: the normalised image, as x; None where the gate left the image out, and where none is made
            ("nearest-patch", `visualize_distance`).
        anomaly_map: the method's usual map, smoothed as the settings say, (H, W) ≥ 0; None where the gate
            left the image out.
        smoothing: σ of that smoothing, in pixels at a side of 96.
        scale: the map level that is shown as 1.
        losses: name → its values after 0, 1, … updates.
        seconds: computing time of this image (an equal share, where a batch was computed).
        limit: the map level above which a region is reported.
        maps: every map there is for this image, by name (`anomaly_map.MAPS`), the usual one too.
        scales: each map's scale, by name.
        limits: each map's limit, by name.
        overall: F's score of the whole image, × its own threshold, in `instant` mode where F is asked too
            (`Bundle.judge`); else None.
    """

    method: str
    score: float
    threshold: float | None
    x: Tensor
    y: Tensor | None
    anomaly_map: Tensor | None
    smoothing: float
    scale: float
    losses: Mapping[str, tuple[float, ...]]
    seconds: float
    limit: float = math.inf
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    overall: float | None = None

    @property
    def steps(self) -> int:
        """Updates that the image took: fewer than were allowed where its L fell no more."""
        return max(0, len(self.losses.get("L", ())) - 1)

    @property
    def anomalous(self) -> bool:
        """Whether the score lies above the threshold; a score that is no number never passes as normal."""
        if self.threshold is None:
            return math.isnan(self.score)
        return not self.score <= self.threshold

    @property
    def verdict(self) -> str:
        return "anomalous" if self.anomalous else "normal"

    def regions(self, name: str | None = None, level: float | None = None) -> list[Region]:
        """Connected regions of a map above `level` (its limit by default), the strongest first.

        Args:
            name: one of `maps`; the usual one by default.
            level: in the map's own unit.
        """
        shown = self.anomaly_map if name is None else self.maps[name]
        if shown is None:
            return []
        limit = self.limit if name is None else self.limits[name]
        return regions(shown, limit if level is None else level)

    def levels(self, name: str | None = None) -> np.ndarray:
        """A map on the one fixed scale, (H, W): 0.5 is the level that normal pixels stay under (its scale).

        Args:
            name: one of `maps`; the usual one by default.

        Raises:
            ValueError: the gate left the image out, so there is no map.
        """
        shown = self.anomaly_map if name is None else self.maps[name]
        if shown is None:
            raise ValueError("The image was left out by the gate: it has no map.")
        return shown.numpy() / (SCALE_TOP * (self.scale if name is None else self.scales[name]))

    def overlay(self, name: str | None = None, colormap: str = "inferno") -> np.ndarray:
        """`levels` over the image, and the outline of what lies above the map's limit: uint8 (H, W, 3)."""
        heat = overlay(to_pixels(self.x), self.levels(name), colormap=colormap)
        shown, limit = (
            (self.anomaly_map, self.limit) if name is None else (self.maps[name], self.limits[name])
        )
        return draw_contours(heat, shown.numpy(), limit)


def drain(stream: Generator[Step, None, R], on_step: Callable[[Step], None] | None = None) -> R:
    """Runs a stream of Steps to its end and gives back what it returns; `on_step` sees each Step."""
    try:
        while True:
            step = next(stream)
            if on_step is not None:
                on_step(step)
    except StopIteration as end:
        return end.value
    finally:
        stream.close()


def visualize(
    x: Tensor,
    bundle: Bundle,
    settings: ano_unet.Settings | None = None,
    *,
    gate: bool = False,
    snapshot_every: int = 0,
) -> Generator[Step, None, Result]:
    """Scores one image and redraws it as if it were normal.

    Args:
        x: (3, H, W) float32 in [0, 1] at the bundle's size.
        settings: the bundle's for its best mode by default.
        gate: leave out (no Steps, y None) an image that the score calls normal, as the article does. In
            `instant` mode, where the score is taken from the normalised image, it saves the refining steps.
        snapshot_every: every how many steps a Step carries its image.

    Yields:
        Steps of a batch of one; the Result is the generator's return value (`drain` gives it).

    Raises:
        ImageError: the image holds NaN or infinity.
        ValueError: it is of another shape, or the bundle lacks a part.
        DivergedError: L stopped being a number.
    """
    x, settings = check_image(x, bundle), settings or bundle.settings()
    parts = parts_for(bundle, settings)
    start = time.perf_counter()
    score = math.nan
    if settings.mode == "instant":
        # One pass is the answer without refining, and what the gate goes by; its score comes from y.
        if settings.steps == 0 or gate:
            with cpu_threads(1):  # on a CPU: see `_instant_shared`
                (result,) = _instant([x], bundle, settings)
            if settings.steps == 0 or not result.anomalous:
                losses = {name: torch.tensor(values) for name, values in result.losses.items()}
                yield Step(index=0, total=0, losses=losses, image=result.y[None])
                return result
    else:
        score = _score_before(x, bundle, settings)
        if gate and score <= bundle.threshold(settings):
            return _left_out(x, bundle, settings, score, time.perf_counter() - start)
    steps = ano_unet.reconstruct(x[None], bundle.f_net, *parts, snapshot_every=snapshot_every)
    curves: dict[str, list[float]] = {}
    y = None
    try:
        for step in steps:
            for name, value in step.losses.items():
                curves.setdefault(name, []).append(float(value[0]))
            y = step.image if step.last else None
            yield step
    finally:
        steps.close()
    losses = {name: tuple(values) for name, values in curves.items()}
    maps = maps_of(x[None], y, bundle, settings)
    return _judged(
        x,
        y[0],
        {name: m[0] for name, m in maps.items()},
        bundle,
        settings,
        losses,
        time.perf_counter() - start,
        score,
    )


def maps_of(x: Tensor, y: Tensor, bundle: Bundle, settings: ano_unet.Settings) -> dict[str, Tensor]:
    """Every map that the bundle has what it takes for, smoothed as the settings say and made where it is.

    Args:
        x, y: the images and the normalised ones, (B, 3, H, W) in [0, 1].

    Returns:
        Name (`anomaly_map.MAPS`) → (B, H, W) ≥ 0, on the CPU.
    """
    x, y = upload(x, bundle.device), upload(y, bundle.device)
    evidence = None if bundle.local is None else ano_unet.compare(x, y, bundle.f_net, bundle.local)
    return {name: m.cpu() for name, m in map_set(x, y, evidence, settings.smoothing).items()}


def check_image(x: Tensor, bundle: Bundle) -> Tensor:
    """The image as float32 on the CPU, if it is one for this bundle."""
    if x.shape != (3, bundle.size, bundle.size):
        raise ValueError(
            f"The bundle '{bundle.name}' takes images of 3×{bundle.size}×{bundle.size}, not {tuple(x.shape)}."
        )
    x = x.detach().float().cpu()
    if not torch.isfinite(x).all():
        raise ImageError("The image holds NaN or infinity: give it as finite numbers in [0, 1].")
    return x


def parts_for(
    bundle: Bundle, settings: ano_unet.Settings
) -> tuple[Center | LocalCenters, ano_unet.Settings, UNet | None]:
    """C, the settings and the U-Net to start from, as `reconstruct` takes them; says what is missing."""
    center = bundle.require_local() if settings.center == "local" else bundle.require_center()
    starts = {"instant": bundle.require_instant, "fast": bundle.require_identity}
    start = starts[settings.mode]() if settings.mode in starts else None
    return center, settings, start


def _score_before(x: Tensor, bundle: Bundle, settings: ano_unet.Settings) -> float:
    """The score that needs no normalised image: F's, or for local centres the peak of the distance map."""
    if settings.center == "global":
        return float(bundle.require_center().score(features_of(bundle.f_net, x[None])))
    return float(_distance_maps(x[None], bundle, settings).max()) / bundle.scale(settings.method, "distance")


def _distance_maps(x: Tensor, bundle: Bundle, settings: ano_unet.Settings) -> Tensor:
    """d(x) as a map, smoothed as the settings say: (B, H, W) ≥ 0, on the bundle's device."""
    local = bundle.require_local()
    with torch.no_grad():
        d = local.distance(patches(upload(x, bundle.device), bundle.f_net, local.settings))
    return smooth(enlarge(d, x.shape[-1]), settings.smoothing * x.shape[-1] / 96)


def visualize_distance(
    images: Iterable[Tensor], bundle: Bundle, settings: ano_unet.Settings | None = None
) -> Iterator[Result | ImageError]:
    """Where each image of a stream is not normal, by the distance map alone: nothing is redrawn.

    The score is that of `fast` mode with local centres, which needs no normalised image either. y is None.

    Args:
        images: (3, H, W) in [0, 1] at the bundle's size.
        settings: those of `fast` mode with local centres by default.
    """
    settings = settings or bundle.settings("fast", center="local")
    method, threshold = settings.method, bundle.threshold(settings)
    scale, limit = bundle.scale(method, "distance"), bundle.limit(method, "distance")
    for batch in batched(images, DISTANCE_BATCH):
        start, usable = time.perf_counter(), {}
        faults: dict[int, ImageError] = {}
        for place, x in enumerate(batch):
            try:
                usable[place] = check_image(x, bundle)
            except ImageError as error:
                faults[place] = error
        maps = _distance_maps(torch.stack(list(usable.values())), bundle, settings).cpu() if usable else ()
        found = dict(zip(usable, maps, strict=True))
        seconds = (time.perf_counter() - start) / len(batch)
        for place in range(len(batch)):
            if place in faults:
                yield faults[place]
                continue
            shown = found[place].clone()  # of its own memory: a view would keep all of the batch
            yield Result(
                method=method,
                score=float(shown.max()) / scale,
                threshold=threshold,
                x=usable[place],
                y=None,
                anomaly_map=shown,
                smoothing=settings.smoothing,
                scale=scale,
                losses={},
                seconds=seconds,
                limit=limit,
                maps={"distance": shown},
                scales={"distance": scale},
                limits={"distance": limit},
            )


def _instant(images: Sequence[Tensor], bundle: Bundle, settings: ano_unet.Settings) -> list[Result]:
    """`instant` mode without refining: all images in one pass, all of it where the bundle is."""
    start = time.perf_counter()
    kept, local = torch.stack(list(images)), bundle.require_local()
    x = upload(kept, bundle.device)
    evidence = ano_unet.redraw(x, bundle.f_net, local, bundle.require_instant(), settings.precision)
    y = evidence.y
    reconstruction, centering = (x - y).abs().mean(dim=(1, 2, 3)), local.centering(evidence.after)
    losses = {"L_R": reconstruction, "L_C": centering, "L": reconstruction + settings.beta * centering}
    curves = {name: values.tolist() for name, values in losses.items()}
    maps = map_set(x, y, evidence, settings.smoothing)
    scores = peaks(maps, {name: bundle.scale(settings.method, name) for name in maps}).tolist()
    overall = _overall(x, bundle, settings)
    maps, y = {name: m.cpu() for name, m in maps.items()}, y.cpu()
    seconds = (time.perf_counter() - start) / len(kept)
    return [
        _judged(
            kept[i],
            y[i],
            {name: m[i] for name, m in maps.items()},
            bundle,
            settings,
            {name: (values[i],) for name, values in curves.items()},
            seconds,
            scores[i],
            overall[i],
        )
        for i in range(len(kept))
    ]


def _overall(x: Tensor, bundle: Bundle, settings: ano_unet.Settings) -> list[float | None]:
    """F's score of whole images, (B, 3, H, W), × its own threshold; None for each where it is not asked."""
    center = bundle.judge(settings)
    if center is None:
        return [None] * len(x)
    return (center.score(features_of(bundle.f_net, x)) / max(center.threshold, 1e-12)).tolist()


def _instant_each(
    images: Sequence[Tensor], bundle: Bundle, settings: ano_unet.Settings
) -> list[Result | ImageError]:
    """`_instant` for the images that can be used, in place of the others their errors."""
    found: list[Result | ImageError | None] = []
    usable: list[Tensor] = []
    for x in images:
        try:
            usable.append(check_image(x, bundle))
            found.append(None)
        except ImageError as error:
            found.append(error)
    results = iter(_instant(usable, bundle, settings) if usable else ())
    return [next(results) if error is None else error for error in found]


def _judged(
    x: Tensor,
    y: Tensor,
    maps: dict[str, Tensor],
    bundle: Bundle,
    settings: ano_unet.Settings,
    losses: Mapping[str, tuple[float, ...]],
    seconds: float,
    score: float,
    overall: float | None = None,
) -> Result:
    """The Result for one image; in `instant` mode a score that is no number yet is taken from the maps."""
    method = settings.method
    usual = USUAL_MAP.get(method, "residual")
    scales = {name: bundle.scale(method, name) for name in maps}
    if settings.mode == "instant" and math.isnan(score):
        score = float(peaks(maps, scales))
        (overall,) = _overall(x[None], bundle, settings)
    threshold = bundle.threshold(settings)
    if overall is not None and not overall * threshold <= score:  # nor does one that is no number pass
        score = overall * threshold  # both thresholds are one in this unit
    return Result(
        method=method,
        score=score,
        threshold=threshold,
        x=x,
        y=y,
        anomaly_map=maps[usual],
        smoothing=settings.smoothing,
        scale=scales[usual],
        losses=losses,
        seconds=seconds,
        limit=bundle.limit(method),
        maps=maps,
        scales=scales,
        limits={name: bundle.limit(method, name) for name in maps},
        overall=overall,
    )


def peaks(maps: Mapping[str, Tensor], scales: Mapping[str, float]) -> Tensor:
    """The score of `instant` mode: the highest pixel of √(distance · combined), each in units of its scale.

    The distance alone tells an image with a fault best where faults are small, the combined map where they
    are many-sided; their geometric mean held on all validation data.

    Args:
        maps: of one image, (H, W), or of several, (B, H, W).

    Returns:
        () or (B,).
    """
    product = (maps["distance"] * maps["combined"]).amax(dim=(-2, -1))
    return (product / (scales["distance"] * scales["combined"])).sqrt()


def _left_out(x: Tensor, bundle: Bundle, settings: ano_unet.Settings, score: float, seconds: float) -> Result:
    return Result(
        method=settings.method,
        score=score,
        threshold=bundle.threshold(settings),
        x=x,
        y=None,
        anomaly_map=None,
        smoothing=settings.smoothing,
        scale=bundle.scale(settings.method),
        losses={},
        seconds=seconds,
    )


def visualize_many(
    images: Iterable[Tensor],
    bundle: Bundle,
    settings: ano_unet.Settings | None = None,
    *,
    gate: bool = False,
    workers: int | None = None,
) -> Iterator[Result | ImageError | ArithmeticError]:
    """`visualize` for a stream of images, in order.

    `instant` mode takes some images in one pass, on a CPU every core some; `fast` mode and refining give
    every core an image, on a GPU they and `article` mode optimise as many at once as its memory holds,
    half as many when it was full. Results are the same as one by one (where images share a pass, to
    rounding), and memory does not grow with the number of images: no more are taken from the stream than
    are being worked on. An image that holds NaN or infinity, or whose loss diverged, gives its error
    instead, and the others go on.

    Args:
        workers: cores of a CPU that work apart; all that the process may use, and in `article` mode one, by
            default.
    """
    settings = settings or bundle.settings()
    passes = settings.mode == "instant" and settings.steps == 0
    if _at_once(bundle):
        if passes:
            for batch in batched(images, instant_batch(bundle)):
                yield from _instant_each(batch, bundle, settings)
        else:
            yield from _in_batches(images, bundle, settings, gate, batch_size(bundle, settings))
        return
    workers = workers or (1 if settings.mode == "article" else cores())
    if passes:
        yield from _instant_shared(images, bundle, settings, workers)
        return

    def one(x: Tensor) -> Result | ImageError | ArithmeticError:
        try:
            return drain(visualize(x, bundle, settings, gate=gate))
        except (ImageError, ArithmeticError) as error:
            return error

    if workers == 1:
        yield from map(one, images)
        return
    with _cores_apart(workers) as pool:
        yield from in_order(images, one, pool, workers - 1)


def _instant_shared(
    images: Iterable[Tensor], bundle: Bundle, settings: ano_unet.Settings, workers: int
) -> Iterator[Result | ImageError]:
    """`instant` mode's passes, each core at one of its own.

    Operations on a few small images are too short to share: two cores at one image take 1.7 times as long as
    one core does, and at 32 images each half of them is faster than both all of them.
    """
    size = instant_batch(bundle)
    with _cores_apart(workers) as pool:
        for batch in batched(images, workers * size):
            share = -(-len(batch) // workers)
            parts = [batch[i : i + share] for i in range(0, len(batch), share)]
            for found in pool.map(lambda part: _instant_each(part, bundle, settings), parts):
                yield from found


@contextmanager
def _cores_apart(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose operations have one core each (see `ano_unet`)."""
    threads = torch.get_num_threads()
    # Set once per worker: no worker changes another's count.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(threads)  # MKL's count is the process's, not the worker's


def cores() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _at_once(bundle: Bundle) -> bool:
    """Whether images are best optimised together; a CPU's cores are better off with one each."""
    return bundle.device.type != "cpu"


def instant_batch(bundle: Bundle) -> int:
    """How many images a pass of `instant` mode takes: fewer where they are larger, for as much memory."""
    most = INSTANT_GPU_BATCH if _at_once(bundle) else INSTANT_BATCH
    return max(1, min(most, most * 96**2 // bundle.size**2))


def batch_size(bundle: Bundle, settings: ano_unet.Settings, free: int | None = None) -> int:
    """How many images can be optimised at once.

    Args:
        free: bytes; by default what is free on the bundle's GPU.
    """
    if free is None:
        free = torch.cuda.mem_get_info(bundle.device)[0]
    article = settings.mode == "article"
    width, copies = (64, 3) if article else (16, 4)  # weights, gradients, and SGD's or Adam's state
    start = None if article else parts_for(bundle, settings)[2]
    weights = 31_040_000 if start is None else sum(p.numel() for p in start.parameters())
    # What backward needs again: about 24 images of G's finest level, all levels together, and F's.
    kept = (24 * width + 300) * bundle.size**2
    return max(1, min(MOST_AT_ONCE, int(0.7 * free / (4 * (copies * weights + kept)))))


def _in_batches(
    images: Iterable[Tensor], bundle: Bundle, settings: ano_unet.Settings, gate: bool, size: int
) -> Iterator[Result | ImageError | ArithmeticError]:
    """`visualize_many` by optimisations of `size` images at once, of half as many once memory was full."""
    images = iter(images)
    while batch := list(islice(images, size)):
        waiting = [batch]
        while waiting:
            part, full = waiting.pop(0), False
            try:
                yield from _together(part, bundle, settings, gate)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                full = True
            if full:  # here, where nothing of what was begun is held any more
                torch.cuda.empty_cache()
                size = max(1, len(part) // 2)
                waiting[:0] = [part[i : i + size] for i in range(0, len(part), size)]


def _together(
    images: Sequence[Tensor], bundle: Bundle, settings: ano_unet.Settings, gate: bool
) -> list[Result | ImageError | ArithmeticError]:
    """`visualize` for some images at once; each has a U-Net of its own."""
    begun = time.perf_counter()
    found: dict[int, Result | ImageError | ArithmeticError] = {}
    if gate and settings.mode == "instant":
        first = _instant_each(images, bundle, replace(settings, steps=0))
        found = {i: r for i, r in enumerate(first) if not (isinstance(r, Result) and r.anomalous)}
    usable: dict[int, Tensor] = {}
    for i, x in enumerate(images):
        if i not in found:
            try:
                usable[i] = check_image(x, bundle)
            except ImageError as error:
                found[i] = error
    scores = dict.fromkeys(usable, math.nan)
    if settings.mode != "instant":  # one by one: what the gate goes by is the same alone, bit for bit
        scores = {i: _score_before(x, bundle, settings) for i, x in usable.items()}
    if gate and settings.mode != "instant":
        for i in [i for i, score in scores.items() if score <= bundle.threshold(settings)]:
            seconds = (time.perf_counter() - begun) / len(images)
            found[i] = _left_out(usable[i], bundle, settings, scores.pop(i), seconds)
    if scores:
        found |= _optimised({i: usable[i] for i in scores}, scores, bundle, settings)
    return [found[i] for i in range(len(images))]


def _optimised(
    images: Mapping[int, Tensor],
    scores: Mapping[int, float],
    bundle: Bundle,
    settings: ano_unet.Settings,
) -> dict[int, Result | ArithmeticError]:
    """Number → image as number → Result, by one optimisation of all; an image that diverges costs itself."""
    begun, kept = time.perf_counter(), torch.stack(list(images.values()))
    x = upload(kept, bundle.device)
    steps = ano_unet.reconstruct(x, bundle.f_net, *parts_for(bundle, settings), together=True)
    try:
        history = list(steps)
    except ArithmeticError as error:
        if len(images) == 1:
            return dict.fromkeys(images, error)
        return {
            i: r
            for i, image in images.items()
            for r in _optimised({i: image}, scores, bundle, settings).values()
        }
    finally:
        steps.close()
    last = history[-1]
    y = last.image
    maps = maps_of(kept, y, bundle, settings)
    curves = {name: torch.stack([step.losses[name] for step in history]) for name in history[0].losses}
    seconds = (time.perf_counter() - begun) / len(kept)
    return {
        i: _judged(
            kept[place],
            y[place],
            {name: m[place] for name, m in maps.items()},
            bundle,
            settings,
            {name: tuple(v[: last.updates(place) + 1, place].tolist()) for name, v in curves.items()},
            seconds,
            scores[i],
        )
        for place, i in enumerate(images)
    }


def batched(images: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    images = iter(images)
    while batch := list(islice(images, size)):
        yield batch


def visualize_anogan(
    x: Tensor, bundle: Bundle, settings: SearchSettings | None = None, *, snapshot_every: int = 0
) -> Generator[Step, None, list[Result]]:
    """AnoGAN's answer for a batch of images, searched for all at once: (B, 3, H, W) → B Results."""
    gan, settings = bundle.require_anogan(), settings or SearchSettings()
    start = time.perf_counter()
    steps = anogan.reconstruct(x, gan, settings, snapshot_every=snapshot_every)
    history: list[Step] = []
    try:
        for step in steps:
            history.append(replace(step, image=None))
            yield step
    finally:
        steps.close()
    curves = {name: torch.stack([s.losses[name] for s in history]) for name in step.losses}
    found = _rival_results("anogan", x, step.image, bundle, start, settings.smoothing)
    return [
        replace(
            result,
            score=float(step.losses["L"][i]),
            losses={name: tuple(curve[:, i].tolist()) for name, curve in curves.items()},
        )
        for i, result in enumerate(found)
    ]


def visualize_f_anogan(x: Tensor, bundle: Bundle) -> list[Result]:
    """f-AnoGAN's answer for a batch of images in one pass: (B, 3, H, W) in [0, 1] → B Results."""
    gan, encoder, start = bundle.require_anogan(), bundle.require_encoder(), time.perf_counter()
    y, losses = f_anogan.redraw(x, gan, encoder)
    return [
        replace(
            result,
            score=float(losses["L"][i]),
            losses={name: (float(values[i]),) for name, values in losses.items()},
        )
        for i, result in enumerate(_rival_results("f-anogan", x, y, bundle, start))
    ]


def visualize_decoder(x: Tensor, bundle: Bundle) -> list[Result]:
    """The decoder's answer for a batch of images in one pass: (B, 3, H, W) in [0, 1] → B Results.

    The score is the map's peak, not its mean: a fault covers few pixels, and what the decoder blurs all.
    """
    net, start = bundle.require_decoder(), time.perf_counter()
    y = decoder.redraw(x, bundle.f_net, net)
    return _rival_results("decoder", x, y, bundle, start)


def _rival_results(
    method: str, x: Tensor, y: Tensor, bundle: Bundle, start: float, smoothing: float = SMOOTHING
) -> list[Result]:
    """Results with the one map of a rival, abs(x − y), whose peak is the score; begun at `start`."""
    x, scale, limit = x.cpu(), bundle.scale(method), bundle.limit(method)
    maps = heat_map(x, y, smoothing)
    seconds = (time.perf_counter() - start) / len(x)
    return [
        Result(
            method=method,
            score=float(shown.max()) / scale,
            threshold=None,
            x=x[i],
            y=y[i],
            anomaly_map=shown,
            smoothing=smoothing,
            scale=scale,
            losses={},
            seconds=seconds,
            limit=limit,
            maps={"residual": shown},
            scales={"residual": scale},
            limits={"residual": limit},
        )
        for i, shown in enumerate(maps)
    ]


def visualize_rival(
    rival: str, x: Tensor, bundle: Bundle, search: SearchSettings | None = None
) -> Generator[Step, None, list[Result]]:
    """A rival's answer for a batch of images: (B, 3, H, W) in [0, 1] → B Results.

    Args:
        rival: one of `bundle.RIVALS`; one that takes no steps yields none.
        search: AnoGAN's.

    Raises:
        WeightsError: the bundle lacks the rival.
    """
    bundle.require_rival(rival)
    if rival == "anogan":
        return (yield from visualize_anogan(x, bundle, search))
    return {"f-anogan": visualize_f_anogan, "decoder": visualize_decoder}[rival](x, bundle)


# --- the nearest patch -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remembered:
    """Normal patches, and what their map reaches on normal images that are not among them.

    Attributes:
        nearest: the patches.
        scale: the map level that is shown as 1 (99.5 % of normal pixels stay under it).
        limit: the map level above which a region is reported (99.9 %).
    """

    nearest: NearestPatch
    scale: float
    limit: float


def remember(bundle: Bundle, fit: Tensor, held: Tensor, count: int = REMEMBERED) -> Remembered:
    """The rival PatchCore's memory for a bundle's F, and its levels: see `nearest_patch`.

    Args:
        fit: (N, 3, size, size) uint8, normal: patches are taken from them.
        held: (n, 3, size, size) in [0, 1], other normal images: they set the levels.
        count: how many patches are remembered.
    """
    nearest = build_memory(bundle.f_net, fit, bundle.require_local().settings, count)
    maps = [_nearest_map(x, bundle, nearest) for x in held.split(RIVAL_BATCH)]
    pixels = [shown for batch in maps for shown in batch]
    return Remembered(nearest, scale_from_normals(pixels), scale_from_normals(pixels, LIMIT_QUANTILE))


def visualize_nearest(x: Tensor, bundle: Bundle, remembered: Remembered) -> list[Result]:
    """Each patch's distance from the nearest remembered one, as a map: (B, 3, H, W) in [0, 1] → B Results.

    The score is the map's peak in units of its scale. There is no normalised image: y is None.
    """
    start = time.perf_counter()
    maps = _nearest_map(x, bundle, remembered.nearest)
    seconds = (time.perf_counter() - start) / len(x)
    return [
        Result(
            method=NEAREST,
            score=float(shown.max()) / remembered.scale,
            threshold=None,
            x=x[i].cpu(),
            y=None,
            anomaly_map=shown,
            smoothing=SMOOTHING,
            scale=remembered.scale,
            losses={},
            seconds=seconds,
            limit=remembered.limit,
            maps={"distance": shown},
            scales={"distance": remembered.scale},
            limits={"distance": remembered.limit},
        )
        for i, shown in enumerate(maps)
    ]


def _nearest_map(x: Tensor, bundle: Bundle, nearest: NearestPatch) -> Tensor:
    """d of the nearest patch, smoothed as the other rivals' maps: (B, H, W) ≥ 0, on the CPU."""
    distances = nearest_patch.maps(upload(x, bundle.device), bundle.f_net, nearest)
    return smooth(distances, SMOOTHING * x.shape[-1] / 96).cpu()
