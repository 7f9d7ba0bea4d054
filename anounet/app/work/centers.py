"""What is made of normal images without training: both kinds of C and the levels of maps, own images too."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from anounet.app.jobs import Job, closing_stream
from anounet.app.texts import t
from anounet.app.work.answers import Picture
from anounet.bundle import (
    PARTS,
    SHIPPED,
    bundle_folder,
    bundle_names,
    copy_f_net,
    default_device,
    delete_bundle,
    has_general_identity,
    load_bundle,
    load_f_net,
    read_info,
    save_part,
)
from anounet.center import Center
from anounet.feature_net import FeatureNet
from anounet.identity import UNetSettings, make_identity
from anounet.images import ImageError, content_hash, decode, png_bytes
from anounet.local_centers import LocalCenters, PatchSettings
from anounet.prepare import (
    DataChoice,
    Levels,
    Normals,
    choice_of,
    describe,
    distance_levels,
    make_center,
    make_local_centers,
    make_scales,
    normal_images,
    read_normals,
)
from anounet.storage import WeightsError, load_weights, provenance

# Held-back normals that levels are measured on: where an image takes a second, a few must do.
LEVEL_IMAGES = {"instant": 100, "fast": 12, "fast-local": 12, "anogan": 8, "f-anogan": 100, "decoder": 100}
NORMAL = "normal"  # the folder of a bundle's own images, and with it their class
MAX_OWN = 20  # bundles of own images on the server: 100 MB each at most
MADE_BY = "app"


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


def compute_center(
    job: Job, source: str, target: str, choice: DataChoice, metric: str = "l1"
) -> CenterOutcome:
    """Computes both kinds of C for the F of `source`, saves them in `target`, and what `fast` mode needs.

    The score goes by `metric`, one of `center.METRICS`. Nothing is saved before both are there, so that
    images that can't be used leave no half-made bundle.
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
    normals, center, local = _both_centers(job, f_net, choice, metric)
    if source != target:
        meta = load_weights(path, "f_net", sha256=sha256)[1]
        save_part(target, f_net=f_net, meta=meta, **describe(choice, command=MADE_BY))
    _save_centers(job, target, choice, center, local)
    return CenterOutcome(target, len(normals.pixels), normals.skipped)


def _both_centers(
    job: Job, f_net: FeatureNet, choice: DataChoice, metric: str = "l1"
) -> tuple[Normals, Center, LocalCenters]:
    job.stage(t("job.reading"))
    normals = read_normals(choice)
    job.check()
    job.stage(t("job.features"))
    with closing_stream(make_center(f_net, choice, normals, metric)) as stream:
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
    if PARTS["identity"] not in read_info(name)["files"] and not has_general_identity():
        _add_identity(name, choice)
    given = distance_levels(name, choice, default_device())
    job.milestone()
    measure(job, name, choice, ("fast", "fast-local"), given)


def _add_identity(name: str, choice: DataChoice) -> None:
    """Makes a bundle's own U-Net that redraws images unchanged, which `fast` mode needs."""
    images, indices = normal_images(choice, 16)
    for step in make_identity(images.tensor(indices, choice.size), UNetSettings()):
        if step.model is not None:
            save_part(name, identity=step.model, meta=provenance(settings=asdict(UNetSettings())))


def measure(
    job: Job, name: str, choice: DataChoice, methods: Sequence[str], given: Levels | None = None
) -> None:
    """Measures and saves the levels of methods' maps, on held-back normals; `given` ones stay."""
    job.stage(t("job.scale"))
    counts = {method: LEVEL_IMAGES[method] for method in methods}
    with closing_stream(make_scales(name, choice, default_device(), counts, given)) as stream:
        for stage in stream:
            job.advance(stage.done, stage.total)
            if "instant" not in methods:  # what a stopped training saved gets its levels: they take a moment
                job.check()


# --- own images --------------------------------------------------------------------------------------


def images_folder(name: str) -> Path:
    """Where a bundle keeps the normal images it was given."""
    return bundle_folder(name) / NORMAL


def own_bundles() -> list[str]:
    """The bundles that were made of images handed in."""
    return [name for name in bundle_names() if name != SHIPPED and images_folder(name).is_dir()]


def delete_own(name: str) -> None:
    """Deletes a bundle that was made of images handed in, with the images.

    Raises:
        WeightsError: it is none of these.
    """
    if name not in own_bundles():
        raise WeightsError(t("own.not_own", name=name))
    delete_bundle(name)


def prepare_own(
    job: Job, name: str, pictures: Sequence[Picture], size: int, metric: str = "l1"
) -> CenterOutcome:
    """A bundle from normal images that were handed in: the general F, both kinds of C, `fast` mode at once.

    The images are kept in the bundle's folder at the bundle's size; where the work ends early, nothing is.
    What the distance map takes comes first, and is a milestone: from then on images can be judged.
    """
    check_new_name(name)
    if len(own_bundles()) >= MAX_OWN:
        raise WeightsError(t("own.full", n=MAX_OWN))
    folder = images_folder(name)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _store(job, folder, pictures)
        choice = DataChoice(data=str(folder.resolve()), normal=NORMAL, size=size)
        job.stage(t("job.loading"))
        general = load_bundle(SHIPPED, default_device(), only_f_net=True)
        normals, center, local = _both_centers(job, general.f_net, choice, metric)
        copy_f_net(name, **describe(choice, command=MADE_BY))
        _save_centers(job, name, choice, center, local)
    finally:
        if not (folder.parent / "bundle.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            if folder.parent.is_dir() and not any(folder.parent.iterdir()):
                folder.parent.rmdir()
    return CenterOutcome(name, len(normals.pixels), normals.skipped)


def extend_own(job: Job, name: str, pictures: Sequence[Picture]) -> CenterOutcome:
    """Both kinds of C anew for a bundle of own images, from its images and further ones.

    Where the work ends before they are there, the bundle is as it was. Other centres than before take the
    instant U-Net away that was trained with the old ones.
    """
    if name not in own_bundles():
        raise WeightsError(t("own.not_own", name=name))
    folder, info, added, saved = images_folder(name), read_info(name), [], False
    try:
        _store(job, folder, pictures, added)
        choice = replace(choice_of(info), data=str(folder.resolve()))  # it may have been moved
        job.stage(t("job.loading"))
        opened = load_bundle(name, default_device())
        metric = opened.center.metric if opened.center is not None else "l1"
        normals, center, local = _both_centers(job, opened.f_net, choice, metric)
        saved = True
        _save_centers(job, name, choice, center, local)
    finally:
        if not saved:
            for path in added:
                path.unlink(missing_ok=True)
    return CenterOutcome(name, len(normals.pixels), normals.skipped)


def _store(job: Job, folder: Path, pictures: Sequence[Picture], written: list[Path] | None = None) -> None:
    """Writes pictures into a folder, numbered on from what is there; `written` is told of each."""
    job.stage(t("job.storing"), len(pictures))
    first = max((int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit()), default=0)
    for number, picture in enumerate(pictures, 1):
        path = folder / f"{first + number:03d}.png"
        if written is not None:
            written.append(path)
        path.write_bytes(png_bytes(picture.pixels))
        job.advance(number)
        job.check()


def own_pictures(name: str, most: int | None = None) -> list[Picture]:
    """The normal images that a bundle was made of, `most` of them; damaged ones are passed over."""
    size, found = int(read_info(name)["size"]), []
    for path in sorted(images_folder(name).glob("*.png"))[:most]:
        with contextlib.suppress(ImageError, OSError):
            pixels = decode(path.read_bytes(), path.name, size).pixels
            found.append(Picture(path.name, content_hash(pixels), pixels))
    return found
