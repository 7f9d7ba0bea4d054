"""The work that jobs do: each function takes its `Job`, follows a stream of the core and reports.

No Streamlit here: what a worker needs is handed to it. A stop that was asked for is looked at between steps.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
    copy_f_net,
    copy_identity,
    default_device,
    drain,
    load_bundle,
    load_f_net,
    read_info,
    save_part,
    visualize,
    visualize_anogan,
    visualize_many,
)
from anounet.center import Center
from anounet.feature_net import FeatureNet
from anounet.identity import UNetSettings, make_identity
from anounet.images import png_bytes, to_pixels, to_tensor
from anounet.instant import InstantSettings
from anounet.local_centers import LocalCenters, PatchSettings
from anounet.metric_learning import FNetSettings
from anounet.optimize import DivergedError, Step
from anounet.pasting import PasteSettings, paste
from anounet.prepare import (
    CHECKPOINT,
    DataChoice,
    Normals,
    choice_of,
    describe,
    f_net_data,
    held_back_normals,
    make_anogan,
    make_center,
    make_f_net,
    make_instant,
    make_local_centers,
    measure_levels,
    normal_images,
    read_normals,
)
from anounet.storage import WeightsError, load_checkpoint, load_weights, provenance

GAN_BATCH = 8  # images whose latent codes are searched for at once
# Held-back normals that levels are measured on: where an image takes a second, a few must do.
LEVEL_IMAGES = {"instant": 100, "fast": 12, "fast-local": 12, "anogan": 8}
PASTED = 3  # examples shown while the instant U-Net learns
NORMAL = "normal"  # the folder of a bundle's own images, and with it their class
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


@dataclass(frozen=True)
class CenterOutcome:
    """What was computed from normal images, and which of them could not be read."""

    name: str  # the bundle
    images: int
    skipped: tuple[tuple[str, str], ...]  # (file, why)


def center_choice(source: str, normal: str) -> DataChoice:
    """The choice of data for C: the f-Net's own, with another normal class where that is wanted."""
    own = choice_of(read_info(source))
    return replace(own, normal=normal, exclude=tuple(c for c in own.exclude if c != normal))


def compute_center(job: Job, source: str, target: str, choice: DataChoice) -> CenterOutcome:
    """Computes both kinds of C for the F of `source`, saves them in `target`, and what `fast` mode needs.

    Nothing is saved before both are there, so that images that can't be used leave no half-made bundle.
    """
    job.stage(t("job.loading"))
    info = read_info(source)
    path = bundle_folder(source) / PARTS["f_net"]
    if PARTS["f_net"] not in info["files"]:
        raise WeightsError(t("center.no_f_net", name=source))
    sha256 = str(info["files"][PARTS["f_net"]])
    if source != target:
        check_new_name(target)
    f_net = load_f_net(path, sha256).to(default_device())
    normals, center, local = _both_centers(job, f_net, choice)
    if source != target:
        meta = load_weights(path, "f_net", sha256=sha256)[1]
        save_part(target, f_net=f_net, meta=meta, **describe(choice, command=MADE_BY))
    _save_centers(job, target, choice, center, local)
    return CenterOutcome(target, len(normals.pixels), normals.skipped)


def _both_centers(job: Job, f_net: FeatureNet, choice: DataChoice) -> tuple[Normals, Center, LocalCenters]:
    job.stage(t("job.reading"))
    normals = read_normals(choice)
    job.check()
    job.stage(t("job.features"))
    with closing_stream(make_center(f_net, choice, normals=normals)) as stream:
        for progress in stream:
            job.advance(progress.done, progress.total)
            job.check()
    job.stage(t("job.local"))
    with closing_stream(make_local_centers(f_net, choice, PatchSettings(), normals)) as stream:
        for found in stream:
            job.advance(found.done, found.total)
            job.check()
    return normals, progress.center, found.centers


def _save_centers(job: Job, name: str, choice: DataChoice, center: Center, local: LocalCenters) -> None:
    save_part(name, center=center, **describe(choice))
    there = load_bundle(name, "cpu").local
    if there is None or (there.fingerprint, there.tau) != (local.fingerprint, local.tau):
        save_part(name, local=local)  # the same ones stay, and the instant U-Net trained with them
    if PARTS["identity"] not in read_info(name)["files"]:
        _add_identity(name, choice)
    job.milestone()
    _measure(job, name, choice, ("fast", "fast-local"))


def _add_identity(name: str, choice: DataChoice) -> None:
    """Gives a bundle the shipped U-Net that redraws images unchanged, or makes one where none is shipped."""
    if SHIPPED in bundle_names() and PARTS["identity"] in read_info(SHIPPED)["files"]:
        copy_identity(name)
        return
    images, indices = normal_images(choice, 16)
    for step in make_identity(images.tensor(indices, choice.size), UNetSettings()):
        if step.model is not None:
            save_part(name, identity=step.model, meta=provenance(settings=asdict(UNetSettings())))


def _measure(job: Job, name: str, choice: DataChoice, methods: Sequence[str]) -> None:
    """Measures and saves the levels of methods' maps, on held-back normals."""
    bundle = load_bundle(name, default_device())
    normals = held_back_normals(choice, max(LEVEL_IMAGES[method] for method in methods), bundle.center)
    for method in methods:
        job.stage(t("job.scale"), min(len(normals), LEVEL_IMAGES[method]))

        def on_image(method: str, done: int, total: int) -> None:
            job.advance(done, total)
            if method != "instant":  # what a stopped training saved gets its levels: they take a moment
                job.check()

        if method != "instant":
            job.check()

        levels = measure_levels(bundle, normals, {method: LEVEL_IMAGES[method]}, on_image)
        save_part(name, scales=levels.scales, limits=levels.limits)


# --- own images --------------------------------------------------------------------------------------


def images_folder(name: str) -> Path:
    """Where a bundle keeps the normal images it was given."""
    return bundle_folder(name) / NORMAL


def prepare_own(job: Job, name: str, pictures: Sequence[Picture], size: int) -> CenterOutcome:
    """A bundle from normal images that were handed in: the general F, both kinds of C, `fast` mode at once.

    The images are kept in the bundle's folder at the bundle's size; where the work ends early, nothing is.
    """
    check_new_name(name)
    folder = images_folder(name)
    try:
        job.stage(t("job.storing"), len(pictures))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number, picture in enumerate(pictures, 1):
            (folder / f"{number:03d}.png").write_bytes(png_bytes(picture.pixels))
            job.advance(number)
            job.check()
        choice = DataChoice(data=str(folder.resolve()), normal=NORMAL, size=size)
        job.stage(t("job.loading"))
        general = load_bundle(SHIPPED, default_device(), only_f_net=True)
        normals, center, local = _both_centers(job, general.f_net, choice)
        copy_f_net(name, **describe(choice, command=MADE_BY))
        _save_centers(job, name, choice, center, local)
    finally:
        if not (folder.parent / "bundle.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            if folder.parent.is_dir() and not any(folder.parent.iterdir()):
                folder.parent.rmdir()
    return CenterOutcome(name, len(normals.pixels), normals.skipped)


# --- instant -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InstantOutcome:
    """What a training of the instant U-Net left behind."""

    name: str
    steps: int  # that are in the saved net
    total: int
    curves: dict[str, tuple[float, ...]]


def interrupted(name: str, centers: str) -> tuple[int, InstantSettings] | None:
    """The step that a training which was cut off goes on from, and its settings; None if there is none.

    Args:
        centers: the fingerprint of the bundle's local centres; a training with others can't go on.
    """
    kept = load_checkpoint(bundle_folder(name) / CHECKPOINT)
    try:
        if kept is None or kept["mark"]["centers"] != centers:
            return None
        return int(kept["checkpoint"]["step"]), InstantSettings(**kept["plan"])
    except (KeyError, TypeError, ValueError):
        return None


def train_instant(job: Job, name: str, choice: DataChoice, settings: InstantSettings) -> InstantOutcome:
    """Trains the instant U-Net and measures its maps; a stop keeps what every 50th step saved."""
    job.stage(t("job.reading"))
    if name == SHIPPED and PARTS["instant"] in read_info(name)["files"]:
        raise WeightsError(t("instant.shipped"))
    device, pasted, saved, step = default_device(), _pasted(choice), 0, 0
    stream = make_instant(name, choice, settings, device)
    with closing_stream(stream):
        for stage in stream:
            if step == 0:
                job.stage(t("job.training_instant"), stage.total, first=stage.done - 1)
            step, samples = stage.done, None
            if stage.samples is not None:  # at these steps the net was saved, too
                saved, samples = step, _examples(name, pasted, device)
            job.advance(step, stage.total, _main_losses(stage.metrics), samples)
            if job.cancelled:
                break
    if not saved:
        job.check()
    curves = dict(job.progress.curves)
    job.milestone()
    _measure(job, name, choice, ("instant",))
    return InstantOutcome(name, saved, settings.steps, curves)


def _pasted(choice: DataChoice) -> Tensor:
    """The same few normal images with foreign patches, to watch the net learn: (n, 3, size, size)."""
    images, indices = normal_images(choice, 2 * PASTED)
    normal = images.readable(indices, choice.size)[0].float() / 255
    half = max(1, len(normal) // 2)
    every = replace(PasteSettings(), share=1.0, thin=0.0, radius=(8.0, 24.0), opacity=(0.8, 1.0))
    return paste(normal[:half], normal[-half:], torch.Generator().manual_seed(0), every)[0]


def _examples(name: str, pasted: Tensor, device: torch.device) -> tuple[np.ndarray, ...]:
    """Pasted images, and then what the net makes of each of them now."""
    bundle = load_bundle(name, device)
    drawn = ano_unet.redraw(pasted, bundle.f_net, bundle.require_local(), bundle.require_instant()).y
    return tuple(to_pixels(image) for image in (*pasted, *drawn))


def _main_losses(metrics: dict[str, float]) -> dict[str, float]:
    """Of the parts of L those that say most, so that their charts stay readable."""
    return {name: metrics[name] for name in ("L", "repair") if name in metrics}


# --- AnoGAN ------------------------------------------------------------------------------------------


def train_anogan(job: Job, name: str, choice: DataChoice, settings: AnoGANSettings) -> str:
    """Trains AnoGAN for a bundle and measures the levels of its maps; a stop keeps nothing."""
    job.stage(t("job.reading"))
    stream = make_anogan(name, choice, settings, default_device())
    with closing_stream(stream):
        for stage in stream:
            if stage.done == 1:
                job.stage(t("job.training_anogan"), stage.total)
            samples = None if stage.samples is None else tuple(to_pixels(x) for x in stage.samples[:8])
            job.advance(stage.done, stage.total, stage.metrics, samples)
            job.check()
    _measure(job, name, choice, ("anogan",))
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
    def _images(self) -> str:
        return " ".join(picture.key for picture in self.pictures)

    @property
    def key(self) -> str:
        return f"visualise {self.version} {self._images} {self.settings!r} {self.gate}"

    @property
    def rival_key(self) -> str:
        """AnoGAN's search is work of its own: nothing that Ano-Unet is asked for begins it anew."""
        return f"compare {self.version} {self._images} {self.anogan!r}"

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
        every = 5 if request.settings.mode == "article" else max(1, request.settings.steps // 10)
        stream = visualize(x, bundle, request.settings, gate=request.gate, snapshot_every=every)
        return drain(stream, on_step)

    if not request.gate:
        return cache.compute(request.full(picture), make)
    result = make()
    cache.put(request.left_out(picture) if result.y is None else request.full(picture), result)
    return result


def answer_at_once(cache: ResultCache, bundle: Bundle, request: Request) -> None:
    """`instant` mode for all pictures that have no result yet, in a pass or a few: no job, no queue.

    Raises:
        WeightsError: the bundle lacks a part.
    """
    request = request.at_once
    pending = [p for p in request.pictures if find(cache, request, p) is None]
    images = (to_tensor(picture.pixels)[0] for picture in pending)
    for picture, result in zip(pending, visualize_many(images, bundle, request.settings), strict=True):
        if isinstance(result, Result):
            cache.put(request.full(picture), result)


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


def unsearched(cache: ResultCache, request: Request) -> tuple[Picture, ...]:
    """The pictures that AnoGAN has still to answer: not those that the gate leaves out."""
    if request.anogan is None:
        return ()
    return tuple(
        picture
        for picture in request.pictures
        if cache.get(request.rival(picture)) is None
        and ((result := find(cache, request, picture)) is None or result.y is not None)
    )


def compare(job: Job, request: Request, bundle: Bundle, cache: ResultCache) -> None:
    """AnoGAN for the pictures that it has not answered yet, some at a time; each is kept when it is done."""
    chosen = unsearched(cache, request)
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


def estimated_search(count: int, cuda: bool | None = None) -> float:
    """A rough time for AnoGAN's search for so many pictures, in seconds."""
    cuda = torch.cuda.is_available() if cuda is None else cuda
    return -(-count // GAN_BATCH) * (5.0 if cuda else 25.0) if count > 2 else 15.0


def estimated_training(settings: InstantSettings, size: int, steps: int, cuda: bool | None = None) -> float:
    """A rough time for so many steps of a training of the instant U-Net, in seconds."""
    cuda = torch.cuda.is_available() if cuda is None else cuda
    return steps * (0.03 if cuda else 0.7) * settings.batch / 16 * (size / 96) ** 2
