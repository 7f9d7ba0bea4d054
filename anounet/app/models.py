"""What all sessions of the server share: bundles, data sets, the job queue, results. All of it bounded."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
import torch

from anounet import ano_unet
from anounet.app import batching
from anounet.app.batching import Batcher
from anounet.app.jobs import JobManager
from anounet.app.results import ResultCache
from anounet.app.work import exploring, filming, ranking, story, training
from anounet.bundle import (
    PARTS,
    SHIPPED,
    Bundle,
    bundle_folder,
    default_device,
    load_bundle,
    read_info,
    weights_folder,
)
from anounet.bundle import device_name as name_of
from anounet.center import features_of, split_held_back
from anounet.datasets import DataError, ImageSet, available, choose, open_set
from anounet.explore import Cloud as FeatureCloud
from anounet.explore import margin, survey
from anounet.images import ImageError, to_pixels, to_tensor
from anounet.local_centers import LocalCenters, patches
from anounet.memory import give_back, keep_freed
from anounet.prepare import (
    CHECKPOINTS,
    DataChoice,
    Scores,
    begun_f_net,
    choice_of,
    normal_images,
    score_split,
    training_images,
)
from anounet.storage import WeightsError, load_weights
from anounet.visualization import Remembered, Result, cores, remember, visualize_many

MOST_BEGUN = 5  # trainings of f-Nets that are offered to be gone on with
KEPT_JOBS = 32  # ended ones: a link to an older one no longer brings its uploads back
ASIDE = 0.5  # seconds that a step of a job waits at most, so that a job goes on whatever the load
SETTLING = 4.0  # seconds from the first visit on
SCORED = 60  # test images scored a group, for the histogram on the page C

_settled = threading.Lock()  # never let go of


@st.cache_resource(show_spinner=False)
def set_up() -> None:
    """Once a server."""
    keep_freed()
    use_all_cores()
    device_name()
    # As Streamlit does for the first table; while one thread imports it, Plotly fails in the others.
    importlib.import_module("pandas")
    later = threading.Timer(SETTLING, settle)  # 0.2 s of work that the first visitor need not wait for
    later.daemon = True
    later.start()


def settle() -> None:
    """Also once a server, when there is time.

    Streamlit collects garbage after every script run. What was imported is none, but 400,000 objects to look
    through, 0.2 s each time: they are taken out of the search.
    """
    if _settled.acquire(blocking=False):
        gc.collect()
        gc.freeze()


def use_all_cores() -> None:
    """As many threads as there are cores to use, not as the machine has, for the thread that calls this."""
    torch.set_num_threads(cores())


@st.cache_resource(show_spinner=False)
def decoding() -> threading.BoundedSemaphore:
    """Held while an upload is decoded: a photo of 50 megapixels takes 150 MB until it is small."""
    return threading.BoundedSemaphore(2)


@st.cache_resource(show_spinner=False)
def jobs() -> JobManager:
    """The queue of long work. At each of its steps it lets visitors who wait for a moment go first."""
    passes = batcher()
    return JobManager(KEPT_JOBS, give_back, aside=lambda: passes.step_aside(ASIDE))


@st.cache_resource(
    scope="session", max_entries=8, show_spinner=False, on_release=lambda owner: jobs().leave(owner)
)
def present(owner: str) -> str:
    """Keeps a session among the owners of its jobs for as long as its visitor is there."""
    return owner


@st.cache_resource(show_spinner=False)
def results() -> ResultCache:
    return ResultCache()


@st.cache_resource(show_spinner=False)
def rankings() -> ranking.Rankings:
    return ranking.Rankings()


@st.cache_resource(show_spinner=False)
def batcher() -> Batcher[np.ndarray, Result]:
    """The queue of `instant` mode, beside that of the jobs: a short answer does not wait for a training."""
    if os.environ.get("ANOUNET_LOG_PASSES"):
        batching.log.addHandler(logging.StreamHandler())
        batching.log.setLevel(logging.INFO)
    return Batcher(results(), begin=use_all_cores, rested=give_back)


def version_of(name: str) -> str:
    """Names a bundle's very weights and settings: bundle.json holds the SHA-256 of every file.

    Raises:
        WeightsError: there is no such bundle, or its bundle.json cannot be read.
    """
    path = bundle_folder(name) / "bundle.json"
    read_info(name)  # says what is wrong, where something is
    return hashlib.sha256(f"{path}\n".encode() + path.read_bytes()).hexdigest()


def bundle(name: str) -> tuple[Bundle, str]:
    """An opened bundle and its version; a bundle that was saved again is opened again.

    Raises:
        WeightsError: it is missing, damaged or foreign.
    """
    version = version_of(name)
    return _bundle(name, version), version


@st.cache_resource(max_entries=2, show_spinner=False)
def _bundle(name: str, version: str) -> Bundle:
    try:
        bundle = load_bundle(name, default_device())
        if bundle.mode == "instant":
            # Libraries choose their kernels at the first pass: now, rather than while an image waits.
            list(visualize_many([torch.zeros(3, bundle.size, bundle.size)], bundle))
        return bundle
    finally:
        give_back()


@st.cache_data(max_entries=4, show_spinner=False)
def gan_samples(name: str, version: str) -> tuple[np.ndarray, ...]:
    """A few images that a bundle's AnoGAN draws, uint8 (size, size, 3)."""
    return tuple(to_pixels(image) for image in _bundle(name, version).require_anogan().samples())


def choice(opened: Bundle) -> DataChoice:
    """The choice of data that a bundle was made with, at its size.

    Raises:
        DataError: the bundle does not say.
    """
    return choice_of(dict(opened.info) | {"size": opened.size})


def has_data(opened: Bundle) -> bool:
    """Whether the data that a bundle was made with is on this machine."""
    try:
        data = choice(opened).data
    except DataError:
        return False
    return data in data_names() or Path(data).exists()


@st.cache_resource(max_entries=2, show_spinner=False)
def remembered(name: str, version: str) -> Remembered:
    """The normal patches that the rival "nearest-patch" remembers, of the images that C was made from.

    Raises:
        DataError: the bundle's data set is not on this machine.
    """
    opened, _ = bundle(name)
    normals, fit = training_images(opened, choice(opened), None)
    return remember(opened, fit, normals.pixels[normals.held].float() / 255)


@st.cache_resource(show_spinner=False)
def device_name() -> str:
    """Asked once, at the start: while a job runs, PyTorch has the threads of that job."""
    return name_of(default_device())


@st.cache_data(max_entries=8, show_spinner=False)
def f_net_facts(name: str, version: str) -> dict[str, Any]:
    """What a bundle's f-Net says of itself: data, settings, starting weights, when."""
    path = bundle_folder(name) / PARTS["f_net"]
    try:
        return load_weights(path, "f_net")[1]
    except WeightsError:
        return {}


def f_net_width(name: str) -> float | None:
    """The width of a bundle's f-Net, which a training can start from; None where it is not there."""
    try:
        facts = f_net_facts(name, version_of(name))
        return float(facts["backbone"]["width"])
    except (WeightsError, KeyError, TypeError, ValueError):
        return None


@st.cache_data(max_entries=8, show_spinner=False)
def scores_of(name: str, version: str) -> Scores:
    """Scores of a bundle's test images, for its histogram.

    Raises:
        DataError: its data set is not on this machine.
    """
    opened, _ = bundle(name)
    return score_split(opened.f_net, opened.require_center(), choice(opened), limit=SCORED)


# --- explore -----------------------------------------------------------------------------------------


@st.cache_resource(show_spinner=False)
def explored() -> exploring.Explored:
    """Paths in feature space, and rows of grids."""
    return ResultCache(exploring.MAX_BYTES, exploring.size_of)


@st.cache_resource(show_spinner=False)
def films() -> filming.Films:
    return ResultCache(filming.MAX_BYTES, filming.size_of)


@st.cache_resource(show_spinner=False)
def stories() -> story.Stories:
    return ResultCache(story.MAX_BYTES, story.size_of)


@st.cache_data(max_entries=4, show_spinner=False)
def feature_cloud(name: str, version: str) -> FeatureCloud:
    """Feature space as a picture.

    Raises:
        DataError: the bundle's data set is not on this machine.
    """
    opened, _ = bundle(name)
    *_, last = survey(opened, choice(opened))
    return last.cloud


@st.cache_data(max_entries=64, show_spinner=False)
def seen_before(name: str, version: str, key: str, _pixels: np.ndarray) -> tuple[float, float | None]:
    """What is said of an image that nothing was changed in: F's score, and the second classifier's margin.

    Args:
        key: the hash of its pixels.
    """
    opened, _ = bundle(name)
    x = to_tensor(_pixels)
    return float(opened.require_center().score(features_of(opened.f_net, x))), margin(x, opened)


@st.cache_data(max_entries=64, show_spinner=False)
def known_mask(chosen: DataChoice, name: str) -> np.ndarray | None:
    """Where a test image is defective, bool (size, size); None where its data set does not say."""
    try:
        images = image_set(chosen.data, "test")
        index = next((i for i, item in enumerate(images.items) if item.name == name), None)
        return None if index is None else images.mask(index, chosen.size)
    except (DataError, ImageError):
        return None


# --- local centres -----------------------------------------------------------------------------------

SHOWN_PATCHES = 900  # normal patches in the projection, from
SHOWN_IMAGES = 24  # so many normal images


@dataclass(frozen=True)
class Cloud:
    """Normal patches and centres in the plane of the normal patches' two main directions."""

    normal: np.ndarray  # (n, 2)
    centers: np.ndarray  # (K, 2)
    mean: np.ndarray  # (D,) and
    axes: np.ndarray  # (D, 2): what brings a patch, in standard deviations, into the plane
    explained: tuple[float, float]  # share of the normal patches' variance along each


@dataclass(frozen=True)
class Moved:
    """A test image's patches in the same plane, before G and after."""

    before: np.ndarray  # (n, 2)
    after: np.ndarray  # (n, 2); `before`, where there is no G
    distances: np.ndarray  # (n,) d before
    far_before: int  # patches with d > τ
    far_after: int
    drawn: bool  # whether there is a G


@st.cache_data(max_entries=4, show_spinner=False)
def projection(name: str, version: str) -> Cloud:
    """Principal components of normal patches, each feature in standard deviations.

    Raises:
        DataError: the bundle's data set is not on this machine.
    """
    opened, _ = bundle(name)
    local = opened.require_local()
    chosen = choice(opened)
    images, indices = normal_images(chosen, SHOWN_IMAGES)
    x = images.readable(indices, chosen.size)[0].float() / 255
    vectors = _vectors(x, opened, local)
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:SHOWN_PATCHES]
    mean = vectors.mean(dim=0)
    shares, directions = torch.linalg.eigh((vectors - mean).T @ (vectors - mean) / len(vectors))
    axes = directions[:, -2:].flip(1)
    explained = (shares.flip(0)[:2] / shares.sum().clamp_min(1e-12)).tolist()
    centers = local.means.cpu() * _units(local)
    return Cloud(
        ((vectors[order] - mean) @ axes).numpy(),
        ((centers - mean) @ axes).numpy(),
        mean.numpy(),
        axes.numpy(),
        (explained[0], explained[1]),
    )


@st.cache_data(max_entries=16, show_spinner=False)
def moved_patches(name: str, version: str, key: str, _pixels: np.ndarray) -> Moved:
    """How G moves a test image's patches; `key` is the hash of its pixels."""
    opened, _ = bundle(name)
    local, cloud = opened.require_local(), projection(name, version)
    x = to_tensor(_pixels)

    def placed(image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        vectors = _vectors(image, opened, local)
        features = patches(image.to(opened.device), opened.f_net, local.settings)
        distances = local.distance(features).flatten().cpu().numpy()
        return (vectors.numpy() - cloud.mean) @ cloud.axes, distances

    with torch.no_grad():
        before, distances = placed(x)
        if opened.instant is None:
            return Moved(before, before, distances, int((distances > local.tau).sum()), 0, False)
        y = ano_unet.redraw(x, opened.f_net, local, opened.instant).y
        after, distances_after = placed(y)
    far = [int((d > local.tau).sum()) for d in (distances, distances_after)]
    return Moved(before, after, distances, *far, True)


def _units(local: LocalCenters) -> torch.Tensor:
    """What turns features into standard deviations, weighted as in d: (D,)."""
    return (local.weights.sqrt() / local.spreads.square().mean(dim=0).sqrt()).cpu()


@torch.no_grad()
def _vectors(x: torch.Tensor, opened: Bundle, local: LocalCenters) -> torch.Tensor:
    parts = [patches(chunk.to(opened.device), opened.f_net, local.settings).cpu() for chunk in x.split(8)]
    features = torch.cat(parts).permute(0, 2, 3, 1)
    return features.reshape(-1, features.shape[-1]) * _units(local)


@st.cache_data(max_entries=4, show_spinner=False)
def held_back_distances(name: str, version: str, count: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    """Normal images that the centres were not made from, each with its patches' d, (h, w).

    Raises:
        DataError: the bundle's data set is not on this machine.
    """
    opened, _ = bundle(name)
    local, chosen = opened.require_local(), choice(opened)
    images, indices = normal_images(chosen, local.meta.get("limit", DataChoice.count))
    left_out = set(local.meta.get("skipped", ()))
    indices = [i for i in indices if images.items[i].name not in left_out]
    _, held = split_held_back(
        len(indices), local.meta.get("held_back_share", 0.2), local.meta.get("seed", chosen.seed)
    )
    x = images.readable([indices[i] for i in held[:count]], chosen.size)[0].float() / 255
    with torch.no_grad():
        d = local.distance(patches(x.to(opened.device), opened.f_net, local.settings)).cpu().numpy()
    return [(to_pixels(image), distances) for image, distances in zip(x, d, strict=True)]


def interrupted(opened: Bundle) -> training.Interrupted | None:
    """The training of the bundle's instant U-Net that was cut off, if there is one."""
    path = opened.folder / CHECKPOINTS["instant"]
    if opened.local is None or not path.is_file():
        return None
    return _interrupted(opened.name, opened.local.fingerprint, path.stat().st_mtime_ns)


@st.cache_data(max_entries=4, show_spinner=False)
def _interrupted(name: str, centers: str, changed: int) -> training.Interrupted | None:
    return training.interrupted(name, centers)


@dataclass(frozen=True)
class Begun:
    """A training of an f-Net that was cut off or stopped, and can go on."""

    name: str  # the bundle
    step: int
    total: int


def begun_f_nets() -> list[Begun]:
    """Those trainings that no job is at, the latest first."""
    paths = sorted(weights_folder().glob(f"*/{CHECKPOINTS['f_net']}"), key=_changed, reverse=True)
    free = [path for path in paths if jobs().unless_used(path.parent.name, lambda: None)]
    found = [_begun(path.parent.name, _changed(path)) for path in free[:MOST_BEGUN]]
    return [begun for begun in found if begun is not None]


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # the training has just ended
        return 0


@st.cache_data(max_entries=16, show_spinner=False)
def _begun(name: str, changed: int) -> Begun | None:
    begun = begun_f_net(name)
    return Begun(name, begun.step, int(begun.checkpoint["total"])) if begun is not None else None


# --- data sets ---------------------------------------------------------------------------------------


@st.cache_data(ttl=300, max_entries=1, show_spinner=False)
def data_names() -> list[str]:
    try:
        return list(available())
    finally:
        give_back()


@st.cache_resource(max_entries=2, ttl=1800, show_spinner=False)
def image_set(name: str, split: str) -> ImageSet:
    return open_set(name, split)


@st.cache_data(max_entries=16, show_spinner=False)
def class_counts(name: str) -> dict[str, int]:
    """Class → how many good images there are to train on."""
    images = image_set(name, "train")
    counts = dict.fromkeys(images.classes, 0)
    for item in images.items:
        if not item.defect:
            counts[item.class_name] += 1
    return counts


@st.cache_data(max_entries=128, show_spinner=False)
def thumbnails(name: str, class_name: str, size: int = 64, count: int = 4) -> list[np.ndarray]:
    """Some of a class's good images, (size, size, 3) uint8; damaged ones are passed over.

    Raises:
        DataError: none of the set's images can be read.
    """
    images, found = image_set(name, "train"), []
    for index in choose(images.where(class_name, defective=False), 2 * count):
        with contextlib.suppress(ImageError):  # a training names the damaged file; here it is just not shown
            found.append(images.pixels(index, size))
        if len(found) == count:
            break
    return found


def forget_data() -> None:
    """Lets go of what is known of data sets: one of them is no longer there, or has changed."""
    for kept in (data_names, image_set, class_counts, thumbnails, samples):
        kept.clear()


@dataclass(frozen=True)
class Sample:
    """A test image to look at: "" as its group says that it is a good one."""

    name: str
    group: str  # defect, or the class that it really belongs to
    pixels: np.ndarray  # (size, size, 3) uint8


@st.cache_data(max_entries=12, show_spinner=False)
def samples(chosen: DataChoice, page: int = 0, good: int = 2, bad: int = 8) -> list[Sample]:
    """Test images of a bundle's normal class: abnormal ones of several kinds first, then good ones.

    Args:
        page: another page shows other images.

    Raises:
        DataError: the data set is not on this machine.
    """
    images = image_set(chosen.data, "test")
    images.check_classes([chosen.normal])
    groups: dict[str, list[int]] = {}
    for index in images.where(chosen.normal, defective=True):
        groups.setdefault(images.items[index].defect, []).append(index)
    if not groups:  # no defects here: classes left out as anomalous, else any other class
        others = chosen.exclude or tuple(c for c in images.classes if c != chosen.normal)
        groups = {c: images.where(c, defective=False) for c in others if c in images.classes}
    rounds = -(-bad // max(1, len(groups)))
    picked = [
        (group, indices[(page * rounds + turn) % len(indices)])
        for turn in range(rounds)
        for group, indices in sorted(groups.items())
        if turn < len(indices)
    ][:bad]
    fine = images.where(chosen.normal, defective=False)
    picked += [("", fine[(page * good + turn) % len(fine)]) for turn in range(min(good, len(fine)))]
    return [
        Sample(images.items[index].name, group, images.pixels(index, chosen.size)) for group, index in picked
    ]


def free_name(normal: str, data: str, taken: list[str]) -> str:
    """A bundle name that suits the choice and is not taken."""
    kept = [c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in f"{data}-{normal}".lower()]
    base = "".join(kept).strip("-._")[:56] or "bundle"
    name, number = base, 2
    while name in taken or name == SHIPPED:
        name, number = f"{base}-{number}", number + 1
    return name
