"""The work that jobs do: each function takes its `Job`, follows a stream of the core and reports.

No Streamlit here: what a worker needs is handed to it. A stop that was asked for is looked at between steps.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from anounet import ano_unet
from anounet.anogan import AnoGANSettings, SearchSettings
from anounet.app.jobs import Job, closing_stream
from anounet.app.results import ResultCache, result_key
from anounet.app.texts import t
from anounet.bundle import (
    PARTS,
    SHIPPED,
    Bundle,
    Result,
    bundle_folder,
    bundle_names,
    copy_identity,
    default_device,
    drain,
    load_bundle,
    load_f_net,
    read_info,
    save_part,
    visualize,
    visualize_anogan,
)
from anounet.identity import UNetSettings, make_identity
from anounet.images import to_pixels, to_tensor
from anounet.metric_learning import FNetSettings
from anounet.optimize import DivergedError, Step
from anounet.prepare import (
    DataChoice,
    choice_of,
    describe,
    f_net_data,
    held_back_normals,
    make_anogan,
    make_center,
    make_f_net,
    measure_scales,
    normal_images,
)
from anounet.storage import WeightsError, load_weights, provenance

GAN_BATCH = 8  # images whose latent codes are searched for at once
SCALE_IMAGES = 8  # held-back normals that a scale is measured on
MADE_BY = "app"


# --- names -------------------------------------------------------------------------------------------


def check_new_name(name: str) -> str:
    """Gives a name for a new bundle back, stripped.

    Raises:
        WeightsError: it can't be a name, or there is a bundle of that name: nothing is ever overwritten.
    """
    name = name.strip()
    if "/" in name or os.sep in name:
        raise WeightsError(t("name.no_paths", name=name))
    folder = bundle_folder(name)
    if name == SHIPPED or (folder / "bundle.json").exists():
        raise WeightsError(t("name.taken", name=name))
    return name


# --- f-Net -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FNetOutcome:
    """What a training left behind."""

    name: str  # the bundle
    epochs: int  # that were kept
    steps: int
    stopped: bool
    accuracy: float  # of the last batches
    curves: dict[str, tuple[float, ...]]


def train_f_net(
    job: Job, name: str, choice: DataChoice, settings: FNetSettings, start: bytes | None, start_name: str = ""
) -> FNetOutcome | None:
    """Trains F and saves it at the end of every epoch, so that a stop keeps the last one."""
    check_new_name(name)
    job.stage(t("job.reading"))
    data = f_net_data(choice)
    job.check()
    job.stage(t("job.starting_weights"))
    path = None
    if start is not None:
        handle, path = tempfile.mkstemp(suffix=Path(start_name).suffix or ".pth")
        with os.fdopen(handle, "wb") as file:
            file.write(start)
    kept, step, accuracy = 0, None, 0.0
    try:
        stream = make_f_net(data, settings, path, default_device())
        with closing_stream(stream):
            for step, facts in stream:
                if step.step == 1:
                    job.stage(t("job.training_f_net"), step.total)
                job.advance(step.step, step.total, step.metrics)
                accuracy = (
                    step.metrics["accuracy"]
                    if step.step == 1
                    else (0.9 * accuracy + 0.1 * step.metrics["accuracy"])
                )
                if step.model is not None:
                    described = describe(choice, command=MADE_BY)
                    save_part(name, f_net=step.model, meta=facts, **described)
                    kept += 1
                    job.milestone()
                if job.cancelled:
                    break
    finally:
        if path is not None:
            os.unlink(path)
    if not kept:
        job.check()
        return None
    stopped = step is not None and step.step < step.total
    return FNetOutcome(name, kept, step.step, stopped, accuracy, dict(job.progress.curves))


# --- C -----------------------------------------------------------------------------------------------


def center_choice(source: str, normal: str) -> DataChoice:
    """The choice of data for C: the f-Net's own, with another normal class where that is wanted."""
    own = choice_of(read_info(source))
    return replace(own, normal=normal, exclude=tuple(c for c in own.exclude if c != normal))


def compute_center(job: Job, source: str, target: str, choice: DataChoice, count: int) -> str:
    """Computes C for the F of `source`, saves it in `target`, and adds the identity U-Net and the scale."""
    device = default_device()
    job.stage(t("job.loading"))
    info = read_info(source)
    path = bundle_folder(source) / PARTS["f_net"]
    if PARTS["f_net"] not in info["files"]:
        raise WeightsError(t("center.no_f_net", name=source))
    sha256 = str(info["files"][PARTS["f_net"]])
    if source != target:
        check_new_name(target)
    f_net = load_f_net(path, sha256).to(device)
    center = None
    job.stage(t("job.features"))
    stream = make_center(f_net, choice, count)
    with closing_stream(stream):
        for progress in stream:
            job.advance(progress.done, progress.total)
            job.check()
            center = progress.center
    if source != target:
        meta = load_weights(path, "f_net", sha256=sha256)[1]
        save_part(target, f_net=f_net, meta=meta, **describe(choice, command=MADE_BY))
    save_part(target, center=center)
    job.milestone()
    if PARTS["identity"] not in read_info(target)["files"]:
        _add_identity(target, choice)
    _measure(job, target, choice, "fast")
    return target


def _add_identity(name: str, choice: DataChoice) -> None:
    """Gives a bundle the shipped U-Net that redraws images unchanged, or makes one where none is shipped."""
    if SHIPPED in bundle_names() and PARTS["identity"] in read_info(SHIPPED)["files"]:
        copy_identity(name)
        return
    images, indices = normal_images(choice, 16)
    for step in make_identity(images.tensor(indices, choice.size), UNetSettings()):
        if step.model is not None:
            save_part(name, identity=step.model, meta=provenance(settings=asdict(UNetSettings())))


def _measure(job: Job, name: str, choice: DataChoice, method: str) -> None:
    """Measures and saves the scale of one method's maps, on held-back normals."""
    bundle = load_bundle(name, default_device())
    normals = held_back_normals(choice, SCALE_IMAGES, bundle.center)
    job.stage(t("job.scale"), len(normals))

    def on_image(_: str, done: int, total: int) -> None:
        job.advance(done, total)
        job.check()

    save_part(name, scales=measure_scales(bundle, normals, {method: SCALE_IMAGES}, on_image))


# --- AnoGAN ------------------------------------------------------------------------------------------


def train_anogan(job: Job, name: str, choice: DataChoice, settings: AnoGANSettings) -> str:
    """Trains AnoGAN for a bundle and measures the scale of its maps; a stop keeps nothing."""
    job.stage(t("job.reading"))
    stream = make_anogan(name, choice, settings, default_device())
    with closing_stream(stream):
        for stage in stream:
            if stage.done == 1:
                job.stage(t("job.training_anogan"), stage.total)
            samples = None if stage.samples is None else tuple(to_pixels(x) for x in stage.samples[:8])
            job.advance(stage.done, stage.total, stage.metrics, samples)
            job.check()
    _measure(job, name, choice, "anogan")
    return name


# --- visualise ---------------------------------------------------------------------------------------


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
    anogan: SearchSettings | None

    @property
    def key(self) -> str:
        images = " ".join(picture.key for picture in self.pictures)
        return f"visualise {self.version} {images} {self.settings!r} {self.gate} {self.anogan!r}"

    def full(self, picture: Picture) -> str:
        return result_key(picture.key, self.version, "ano-unet", self.settings)

    def left_out(self, picture: Picture) -> str:
        return result_key(picture.key, self.version, "score", None)

    def rival(self, picture: Picture) -> str:
        return result_key(picture.key, self.version, "anogan", self.anogan)


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
        every = 5 if request.settings.mode == "article" else 0
        stream = visualize(x, bundle, request.settings, gate=request.gate, snapshot_every=every)
        return drain(stream, on_step)

    if not request.gate:
        return cache.compute(request.full(picture), make)
    result = make()
    cache.put(request.left_out(picture) if result.y is None else request.full(picture), result)
    return result


def missing(cache: ResultCache, request: Request) -> bool:
    """Whether anything of a request has still to be computed."""
    for picture in request.pictures:
        result = find(cache, request, picture)
        if result is None:
            return True
        if request.anogan and result.y is not None and cache.get(request.rival(picture)) is None:
            return True
    return False


def visualise(job: Job, request: Request, bundle: Bundle, cache: ResultCache) -> None:
    """Ano-Unet for every picture, then AnoGAN for those that were redrawn; each is kept when it is done."""
    count, steps = len(request.pictures), request.settings.steps
    job.stage(t("job.ano_unet"), count * (steps + 1))
    chosen: list[Picture] = []
    for number, picture in enumerate(request.pictures):
        job.check()
        job.new_curves()

        def on_step(step: Step, number: int = number, original: np.ndarray = picture.pixels) -> None:
            picture_now = None if step.image is None else (original, to_pixels(step.image[0]))
            values = {name: float(value[0]) for name, value in step.losses.items()}
            job.advance(number * (steps + 1) + step.index, values=values, samples=picture_now)
            job.check()

        try:
            result = redraw(cache, bundle, request, picture, on_step)
        except DivergedError as error:
            job.faults[picture.name] = str(error)
        else:
            if result.y is not None:
                chosen.append(picture)
        job.advance((number + 1) * (steps + 1), samples=())
        job.milestone()
    if request.anogan is None:
        return
    chosen = [picture for picture in chosen if cache.get(request.rival(picture)) is None]
    for start in range(0, len(chosen), GAN_BATCH):
        batch = chosen[start : start + GAN_BATCH]
        job.stage(t("job.anogan"), request.anogan.steps)
        x = to_tensor([picture.pixels for picture in batch])

        def on_search(step: Step) -> None:
            job.advance(step.index)
            job.check()

        try:
            found = drain(visualize_anogan(x, bundle, request.anogan), on_search)
        except DivergedError as error:
            job.faults["AnoGAN"] = str(error)
            continue
        for picture, result in zip(batch, found, strict=True):
            cache.put(request.rival(picture), result)
        job.milestone()


def estimated_seconds(request: Request, cuda: bool | None = None) -> float:
    """A rough time for a request in article mode, so that nobody starts an hour's work by accident."""
    cuda = torch.cuda.is_available() if cuda is None else cuda
    a_step = 0.01 if cuda else 0.25
    return len(request.pictures) * request.settings.steps * a_step
