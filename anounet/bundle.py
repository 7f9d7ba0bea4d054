"""A bundle: all that is needed to visualise one normal class, in one folder, checked when it is opened.

    weights/<name>/bundle.json   what it is, its settings and scales, the SHA-256 of every file
                   f_net.pt  center.pt  local_centers.pt  unet_identity.pt  unet_instant.pt  anogan.pt

A bundle grows part by part (F on page 1, C on page 2, …); `visualize` says which part is missing.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from anounet import ano_unet, anogan
from anounet.anogan import AnoGAN, SearchSettings
from anounet.anomaly_map import Region, enlarge, heat_map, map_set, regions, smooth
from anounet.center import Center, features_of
from anounet.feature_net import BackboneSettings, FeatureNet
from anounet.identity import load_unet, save_unet
from anounet.images import check_size
from anounet.instant import load_instant, save_instant
from anounet.local_centers import LocalCenters, patches
from anounet.optimize import Step
from anounet.storage import WeightsError, file_sha256, load_weights, save_weights, write_json
from anounet.unet import GatedUNet, UNet

R = TypeVar("R")
SHIPPED = "textures-streaks"
PARTS = {
    "f_net": "f_net.pt",
    "center": "center.pt",
    "local": "local_centers.pt",
    "identity": "unet_identity.pt",
    "instant": "unet_instant.pt",
    "anogan": "anogan.pt",
}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_writing = threading.RLock()
INSTANT_BATCH = 8  # images in one pass of `instant` mode: more is no faster on a CPU


# What stands for a scale that was never measured, in the map's own unit.
STAND_IN = {"residual": 0.1, "combined": 0.5, "distance": 1.8, "gain": 0.5, "change": 1.0, "product": 2.0}
USUAL_MAP = {"instant": "combined", "fast-local": "combined", "article-local": "combined"}


def _map_key(method: str, name: str | None) -> str:
    """A method's usual map goes by the method's own name."""
    return method if name in (None, USUAL_MAP.get(method, "residual")) else f"{method}:{name}"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, frozen and safe to share between threads.

    Attributes:
        name: its folder's name.
        folder: where it lies.
        size: side of the images it works on, in pixels.
        f_net: F.
        center: the article's C, or None where it was not computed yet.
        local: C for every patch, or None.
        identity: the small U-Net that `fast` mode starts from, or None.
        instant: the small U-Net of `instant` mode, trained with `local`, or None.
        anogan: the rival, or None.
        scales: "method" for its usual map, "method:map" for the others → the map level that 99.5 % of
            held-back normal pixels stay under.
        limits: the same names → the level above which a region is reported (99.9 %), and "method:score"
            → the score above which an image is called anomalous, where F's threshold is not the one.
        info: the rest of bundle.json.
    """

    name: str
    folder: Path
    size: int
    f_net: FeatureNet
    center: Center | None
    local: LocalCenters | None
    identity: UNet | None
    instant: GatedUNet | None
    anogan: AnoGAN | None
    scales: Mapping[str, float]
    limits: Mapping[str, float] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(self.f_net.parameters()).device

    @property
    def mode(self) -> str:
        """The best mode this bundle has the parts for: "instant", else "fast"."""
        return "instant" if self.instant is not None and self.local is not None else "fast"

    def settings(self, mode: str | None = None, **changes: Any) -> ano_unet.Settings:
        """The settings this bundle carries for a mode (else the program's), with changes."""
        mode = mode or self.mode
        if mode not in ano_unet.MODES:
            raise ValueError(f"Unknown mode {mode!r}: choose one of {', '.join(ano_unet.MODES)}.")
        changes = {name: value for name, value in changes.items() if value is not None}
        local = mode == "fast" and changes.get("center") == "local"  # its β is of another unit
        base, key = (ano_unet.LOCAL, "fast-local") if local else (ano_unet.DEFAULTS[mode], mode)
        try:
            own = replace(base, **self.info.get("settings", {}).get(key, {}))
        except (TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"{self.folder / 'bundle.json'} has wrong settings for {mode} ({error}): correct them."
            ) from error
        return replace(own, **changes)

    def scale(self, method: str, name: str | None = None) -> float:
        """The level shown as 1 for a method's map; where it was never measured, a stand-in."""
        key = _map_key(method, name)
        if key in self.scales:
            return float(self.scales[key])
        kind = name or USUAL_MAP.get(method, "residual")
        return float(self.scales.get("fast", 0.1)) if kind == "residual" else STAND_IN[kind]

    def limit(self, method: str, name: str | None = None) -> float:
        """The level of a method's map above which a region is reported."""
        return float(self.limits.get(_map_key(method, name), 1.5 * self.scale(method, name)))

    def threshold(self, settings: ano_unet.Settings) -> float:
        """The score above which an image is called anomalous: F's for a global C, else the map's."""
        if settings.center == "global":
            return self.require_center().threshold
        return float(self.limits.get(f"{settings.method}:score", 2.0))

    def require_local(self) -> LocalCenters:
        if self.local is None:
            raise WeightsError(
                f"The bundle '{self.name}' has no local centres yet: compute them on the page C, "
                f"or with 'python -m anounet center --bundle {self.name}'."
            )
        return self.local

    def require_instant(self) -> GatedUNet:
        if self.instant is None:
            raise WeightsError(
                f"The bundle '{self.name}' has no instant U-Net yet: train it on the page C, "
                f"or with 'python -m anounet train-instant --bundle {self.name}'."
            )
        return self.instant

    def require_center(self) -> Center:
        if self.center is None:
            raise WeightsError(
                f"The bundle '{self.name}' has no C yet: compute it on the page C, "
                f"or with 'python -m anounet center --bundle {self.name}'."
            )
        return self.center

    def require_anogan(self) -> AnoGAN:
        if self.anogan is None:
            raise WeightsError(
                f"The bundle '{self.name}' has no AnoGAN yet: train it on the page Visualise, "
                f"or with 'python -m anounet train-anogan --bundle {self.name}'."
            )
        return self.anogan


@dataclass(frozen=True)
class Result:
    """What came out for one image.

    Attributes:
        method: "instant", "fast", "fast-local", "article" or "anogan".
        score: ‖F(x) − C‖₁ / 1280 with a global C; with local centres how many times the level of normal
            pixels the map reaches (`peak`; the distance map's peak in `fast` mode); for AnoGAN the loss where
            its search ended.
        threshold: above it an image is called anomalous; None for AnoGAN.
        x: (3, H, W) in [0, 1].
        y: the normalised image, as x; None where the gate left the image out.
        anomaly_map: the method's usual map, smoothed as the settings say, (H, W) ≥ 0; None as y.
        smoothing: σ of that smoothing, in pixels at a side of 96.
        scale: the map level that is shown as 1.
        losses: name → its values at steps 0 … total.
        seconds: computing time of this image (an equal share, where a batch was computed).
        limit: the map level above which a region is reported.
        maps: every map there is for this image, by name (`anomaly_map.MAPS`), the usual one too.
        scales: each map's scale, by name.
        limits: each map's limit, by name.
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

    @property
    def anomalous(self) -> bool:
        return self.threshold is not None and self.score > self.threshold

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
    """
    x, settings = _check_image(x, bundle), settings or bundle.settings()
    parts = _parts(bundle, settings)
    start = time.perf_counter()
    score = math.nan
    if settings.mode == "instant":
        # One pass is the answer without refining, and what the gate goes by; its score comes from y.
        if settings.steps == 0 or gate:
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
    evidence = None
    if bundle.local is not None:
        evidence = ano_unet.compare(x[None], y, bundle.f_net, bundle.local)
    losses = {name: tuple(values) for name, values in curves.items()}
    maps = map_set(x[None], y, evidence, settings.smoothing)
    return _judged(
        x,
        y[0],
        {k: m[0] for k, m in maps.items()},
        bundle,
        settings,
        losses,
        time.perf_counter() - start,
        score,
    )


def _check_image(x: Tensor, bundle: Bundle) -> Tensor:
    if x.shape != (3, bundle.size, bundle.size):
        raise ValueError(
            f"The bundle '{bundle.name}' takes images of 3×{bundle.size}×{bundle.size}, not {tuple(x.shape)}."
        )
    return x.detach().float().cpu()


def _parts(
    bundle: Bundle, settings: ano_unet.Settings
) -> tuple[Center | LocalCenters, ano_unet.Settings, UNet | None]:
    """C, the settings and the U-Net to start from, as `reconstruct` takes them; says what is missing."""
    center = bundle.require_local() if settings.center == "local" else bundle.require_center()
    start = bundle.require_instant() if settings.mode == "instant" else bundle.identity
    return center, settings, start


def _score_before(x: Tensor, bundle: Bundle, settings: ano_unet.Settings) -> float:
    """The score that needs no normalised image: F's, or for local centres the peak of the distance map."""
    if settings.center == "global":
        return float(bundle.require_center().score(features_of(bundle.f_net, x[None])))
    local = bundle.require_local()
    with torch.no_grad():
        d = local.distance(patches(x[None].to(bundle.device), bundle.f_net, local.settings)).cpu()
    shown = smooth(enlarge(d, x.shape[-1]), settings.smoothing * x.shape[-1] / 96)
    return float(shown.max()) / bundle.scale(settings.method, "distance")


def _instant(images: Sequence[Tensor], bundle: Bundle, settings: ano_unet.Settings) -> list[Result]:
    """`instant` mode without refining: all images in one pass."""
    start = time.perf_counter()
    x, local = torch.stack(list(images)), bundle.require_local()
    evidence = ano_unet.redraw(x, bundle.f_net, local, bundle.require_instant())
    maps = map_set(x, evidence.y, evidence, settings.smoothing)
    reconstruction = (x - evidence.y).abs().mean(dim=(1, 2, 3))
    centering = local.centering(evidence.after)
    losses = {"L_R": reconstruction, "L_C": centering, "L": reconstruction + settings.beta * centering}
    seconds = (time.perf_counter() - start) / len(x)
    return [
        _judged(
            x[i],
            evidence.y[i],
            {name: m[i] for name, m in maps.items()},
            bundle,
            settings,
            {name: (float(values[i]),) for name, values in losses.items()},
            seconds,
        )
        for i in range(len(x))
    ]


def _judged(
    x: Tensor,
    y: Tensor,
    maps: dict[str, Tensor],
    bundle: Bundle,
    settings: ano_unet.Settings,
    losses: Mapping[str, tuple[float, ...]],
    seconds: float,
    score: float = math.nan,
) -> Result:
    method = settings.method
    usual = USUAL_MAP.get(method, "residual")
    scales = {name: bundle.scale(method, name) for name in maps}
    if settings.mode == "instant":
        score = peak(maps, scales)
    return Result(
        method=method,
        score=score,
        threshold=bundle.threshold(settings),
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
    )


def peak(maps: Mapping[str, Tensor], scales: Mapping[str, float]) -> float:
    """The score of `instant` mode: the highest pixel of √(distance · combined), each in units of its scale.

    The distance alone tells an image with a fault best where faults are small, the combined map where they
    are many-sided; their geometric mean held on all validation data.
    """
    return (
        float((maps["distance"] * maps["combined"]).max() / (scales["distance"] * scales["combined"])) ** 0.5
    )


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
    images: Iterable[Tensor], bundle: Bundle, settings: ano_unet.Settings | None = None, *, gate: bool = False
) -> Iterator[Result | ArithmeticError]:
    """`visualize` for a stream of images, in order.

    `instant` mode takes eight images in one pass; on a CPU `fast` mode and refining give every core an image.
    Results are the same as one by one (in `instant` mode to float rounding), and memory does not grow with
    the number of images: no more are taken from the stream than are being worked on. An image whose loss
    diverged gives its error instead.
    """
    settings = settings or bundle.settings()
    if settings.mode == "instant" and settings.steps == 0:
        for batch in batched((_check_image(x, bundle) for x in images), INSTANT_BATCH):
            yield from _instant(batch, bundle, settings)
        return
    spread = bundle.device.type == "cpu" and settings.mode != "article"
    workers = (os.cpu_count() or 1) if spread else 1

    def one(x: Tensor) -> Result | ArithmeticError:
        try:
            return drain(visualize(x, bundle, settings, gate=gate))
        except ArithmeticError as error:
            return error

    if workers == 1:
        yield from map(one, images)
        return
    threads = torch.get_num_threads()
    # One thread for each operation (see ano_unet), set once per worker: no worker changes another's count.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[Future[Result | ArithmeticError]] = deque()
        try:
            for x in images:
                waiting.append(pool.submit(one, x))
                if len(waiting) >= workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(threads)  # MKL's count is the process's, not the worker's


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
            history.append(Step(step.index, step.total, step.losses, None))
            yield step
    finally:
        steps.close()
    y, maps = step.image, heat_map(x.cpu(), step.image, settings.smoothing)
    seconds = (time.perf_counter() - start) / len(x)
    curves = {name: torch.stack([s.losses[name] for s in history]) for name in step.losses}
    return [
        Result(
            method="anogan",
            score=float(step.losses["L"][i]),
            threshold=None,
            x=x[i].cpu(),
            y=y[i],
            anomaly_map=maps[i],
            smoothing=settings.smoothing,
            scale=bundle.scale("anogan"),
            losses={name: tuple(curve[:, i].tolist()) for name, curve in curves.items()},
            seconds=seconds,
            limit=bundle.limit("anogan"),
            maps={"residual": maps[i]},
            scales={"residual": bundle.scale("anogan")},
            limits={"residual": bundle.limit("anogan")},
        )
        for i in range(len(x))
    ]


# --- on disk -----------------------------------------------------------------------------------------


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def weights_folder() -> Path:
    """`$ANOUNET_WEIGHTS`, else the `weights/` beside the package."""
    named = os.environ.get("ANOUNET_WEIGHTS")
    return Path(named) if named else Path(__file__).resolve().parents[1] / "weights"


def bundle_folder(name: str) -> Path:
    """Where a bundle of this name lies or would lie; a path to a bundle's folder is taken as it is.

    Raises:
        WeightsError: the name is none (it is a folder's name, so no slashes and no spaces).
    """
    if "/" in name or os.sep in name:
        if (Path(name) / "bundle.json").is_file():
            return Path(name)
        raise WeightsError(f"'{name}' is no bundle: a bundle's folder holds a bundle.json.")
    if not _NAME.fullmatch(name):
        raise WeightsError(
            f"'{name}' can't be a bundle's name: use small letters, digits, '-', '_' and '.', "
            "64 at most, a letter or digit first."
        )
    return weights_folder() / name


def bundle_names() -> list[str]:
    """The bundles there are, the shipped one first."""
    folder = weights_folder()
    names = sorted(path.parent.name for path in folder.glob("*/bundle.json")) if folder.is_dir() else []
    return sorted(names, key=lambda name: name != SHIPPED)


def read_info(name: str) -> dict[str, Any]:
    """bundle.json, checked for the fields that everything relies on."""
    path = bundle_folder(name) / "bundle.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(bundle_names()) or "none"
        raise WeightsError(
            f"There is no bundle '{name}' in {path.parent.parent} (there: {known})."
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged and can't be read: restore it, or prepare the bundle anew."
        ) from error
    if not (
        isinstance(info, dict) and isinstance(info.get("files"), dict) and isinstance(info.get("size"), int)
    ):
        raise WeightsError(
            f"{path} is damaged (no 'files' or no 'size'): restore it, or prepare the bundle anew."
        )
    return info


def load_bundle(name: str, device: torch.device | str | None = None, *, only_f_net: bool = False) -> Bundle:
    """Opens a bundle: every file is checked against its SHA-256, and C against F.

    Args:
        only_f_net: leave the other parts unopened, as one does who is about to make them anew.

    Raises:
        WeightsError: a part is missing, damaged or foreign; the sentence names the file and what to do.
    """
    folder, info = bundle_folder(name), read_info(name)
    files = info["files"]
    unknown = files.keys() - set(PARTS.values())
    if unknown:
        raise WeightsError(f"{folder} names an unknown file '{sorted(unknown)[0]}': a newer version made it.")
    device = torch.device(device) if device is not None else default_device()

    def part(key: str, load: Callable[[Path, str], Any]) -> Any:
        file = PARTS[key]
        wanted = file in files and (key == "f_net" or not only_f_net)
        return load(folder / file, str(files[file])) if wanted else None

    f_net = part("f_net", load_f_net)
    if f_net is None:
        raise WeightsError(
            f"The bundle '{name}' has no f-Net: train one on the page f-Net, or with train-fnet."
        )
    center = part("center", Center.load)
    if center is not None:
        center.check(f_net, folder / PARTS["center"])
    local = part("local", LocalCenters.load)
    if local is not None:
        local.check(f_net, folder / PARTS["local"])
    identity = part("identity", lambda path, sha: load_unet(path, sha)[0])
    instant = part("instant", lambda path, sha: load_instant(path, local, sha)[0])
    gan = part("anogan", AnoGAN.load)
    try:
        size = check_size(info["size"])
        scales = {str(method): float(level) for method, level in info.get("scales", {}).items()}
        limits = {str(method): float(level) for method, level in info.get("limits", {}).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{folder / 'bundle.json'} is damaged ({error}): restore it.") from error
    if gan is not None and gan.size != size:
        raise WeightsError(
            f"{folder / PARTS['anogan']} works at {gan.size} px and the bundle at {size}: train AnoGAN anew."
        )
    for net in (f_net, identity, instant, gan):
        if net is not None:
            net.to(device)
    local = local.to(device) if local is not None else None
    rest = {key: value for key, value in info.items() if key not in ("files", "scales", "limits")}
    return Bundle(
        folder.name, folder, size, f_net, center, local, identity, instant, gan, scales, limits, rest
    )


def load_f_net(path: Path, sha256: str | None = None) -> FeatureNet:
    state, meta = load_weights(path, "f_net", sha256=sha256)
    try:
        settings = BackboneSettings.from_json(meta["backbone"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is no f-Net of this program: train it anew.") from error
    return FeatureNet(state, settings, path).to(memory_format=torch.channels_last)


def save_part(
    name: str,
    *,
    f_net: FeatureNet | None = None,
    center: Center | None = None,
    local: LocalCenters | None = None,
    identity: UNet | None = None,
    instant: GatedUNet | None = None,
    anogan: AnoGAN | None = None,
    meta: Mapping[str, Any] | None = None,
    scales: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
    **info: Any,
) -> Path:
    """Adds parts to a bundle, or replaces them, and writes bundle.json last.

    A new F takes away what was made from the old one (both kinds of C, the instant U-Net, scales and limits),
    and where it is for another normal class, data set or size, AnoGAN too. New local centres take away the
    instant U-Net that was trained with the old ones.

    Args:
        instant: trained with the local centres that are saved with it or are there.
        meta: provenance of the F or the U-Net that is saved (C and AnoGAN carry their own).
        scales: maps' scales, added to those there are; `limits` likewise.
        info: further fields of bundle.json; `size` is needed for a new bundle.
    """
    folder = bundle_folder(name)
    with _writing:
        path = folder / "bundle.json"
        now = read_info(name) if path.is_file() else {"format": 1, "files": {}, "scales": {}}
        files = now["files"]

        def drop(*parts: str) -> None:
            for part in parts:
                files.pop(PARTS[part], None)
                (folder / PARTS[part]).unlink(missing_ok=True)

        if f_net is not None:
            drop("center", "local", "instant")
            if any(key in info and now.get(key) != info[key] for key in ("data", "normal", "size")):
                drop("anogan")
            now["scales"], now["limits"] = {}, {}
            described = {"backbone": f_net.meta(), "fingerprint": f_net.fingerprint, **(meta or {})}
            files[PARTS["f_net"]] = save_weights(folder / PARTS["f_net"], "f_net", f_net.state(), described)
        if center is not None:
            files[PARTS["center"]] = center.save(folder / PARTS["center"])
        if local is not None:
            drop("instant")
            for kind in ("scales", "limits"):
                now[kind] = {k: v for k, v in now.get(kind, {}).items() if k in ("fast", "article", "anogan")}
            files[PARTS["local"]] = local.save(folder / PARTS["local"])
        if instant is not None:
            local = local or LocalCenters.load(folder / PARTS["local"], files.get(PARTS["local"]))
            files[PARTS["instant"]] = save_instant(
                folder / PARTS["instant"], instant, local, dict(meta or {})
            )
        if identity is not None:
            files[PARTS["identity"]] = save_unet(folder / PARTS["identity"], identity, dict(meta or {}))
        if anogan is not None:
            files[PARTS["anogan"]] = anogan.save(folder / PARTS["anogan"])
        now["scales"] = now.get("scales", {}) | dict(scales or {})
        now["limits"] = now.get("limits", {}) | dict(limits or {})
        now |= info
        check_size(now.get("size"))
        write_json(path, now)
    return folder


def copy_identity(name: str, source: str = SHIPPED) -> None:
    """Gives a bundle the general identity U-Net of another, byte for byte."""
    taken = bundle_folder(source) / PARTS["identity"]
    net, meta = load_unet(taken, read_info(source)["files"].get(PARTS["identity"]))
    save_part(name, identity=net, meta=meta)


def copy_f_net(name: str, source: str = SHIPPED, **info: Any) -> None:
    """Gives a bundle the general F of another.

    Where it has this F already, for the same data, class and size, what was made from it stays.
    """
    taken = load_bundle(source, "cpu", only_f_net=True)
    if (bundle_folder(name) / "bundle.json").is_file():
        there, now = load_bundle(name, "cpu", only_f_net=True), read_info(name)
        same = all(now.get(key) == info[key] for key in ("data", "normal", "size") if key in info)
        if same and there.f_net.fingerprint == taken.f_net.fingerprint:
            save_part(name, **info)
            return
    _, meta = load_weights(taken.folder / PARTS["f_net"], "f_net")
    save_part(name, f_net=taken.f_net, meta=meta, **info)


def verify(name: str) -> dict[str, bool]:
    """File → whether it is there with the SHA-256 that bundle.json names."""
    folder, files = bundle_folder(name), read_info(name)["files"]
    return {f: (folder / f).is_file() and file_sha256(folder / f) == sha for f, sha in files.items()}
