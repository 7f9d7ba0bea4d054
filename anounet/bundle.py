"""A bundle: all that is needed to visualise one normal class, in one folder, checked when it is opened.

    weights/<name>/bundle.json   what it is, its settings and scales, the SHA-256 of every file
                   f_net.pt  center.pt  unet_identity.pt  anogan.pt

A bundle grows part by part (F on page 1, C on page 2, …); `visualize` says which part is missing.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from anounet import ano_unet, anogan
from anounet.anogan import AnoGAN, SearchSettings
from anounet.anomaly_map import heat_map
from anounet.center import Center, features_of
from anounet.feature_net import BackboneSettings, FeatureNet
from anounet.identity import load_unet, save_unet
from anounet.images import check_size
from anounet.optimize import Step
from anounet.storage import WeightsError, file_sha256, load_weights, save_weights, write_json
from anounet.unet import UNet

R = TypeVar("R")
SHIPPED = "textures-streaks"
PARTS = {"f_net": "f_net.pt", "center": "center.pt", "identity": "unet_identity.pt", "anogan": "anogan.pt"}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_writing = threading.RLock()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, frozen and safe to share between threads.

    Attributes:
        name: its folder's name.
        folder: where it lies.
        size: side of the images it works on, in pixels.
        f_net: F.
        center: C, or None where it was not computed yet.
        identity: the small U-Net that `fast` mode starts from, or None.
        anogan: the rival, or None.
        scales: method → the map level that 99.5 % of held-back normal pixels stay under.
        info: the rest of bundle.json.
    """

    name: str
    folder: Path
    size: int
    f_net: FeatureNet
    center: Center | None
    identity: UNet | None
    anogan: AnoGAN | None
    scales: Mapping[str, float]
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(self.f_net.parameters()).device

    def settings(self, mode: str = "fast", **changes: Any) -> ano_unet.Settings:
        """The settings this bundle carries for a mode (else the program's), with changes."""
        if mode not in ano_unet.MODES:
            raise ValueError(f"Unknown mode {mode!r}: choose one of {', '.join(ano_unet.MODES)}.")
        try:
            own = replace(ano_unet.DEFAULTS[mode], **self.info.get("settings", {}).get(mode, {}))
        except (TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"{self.folder / 'bundle.json'} has wrong settings for {mode} ({error}): correct them."
            ) from error
        return replace(own, **{name: value for name, value in changes.items() if value is not None})

    def scale(self, method: str) -> float:
        """The level shown as 1 for a method ("fast", "article", "anogan"); `fast`'s where it has none."""
        return float(self.scales.get(method, self.scales.get("fast", 0.1)))

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
        method: "fast", "article" or "anogan".
        score: ‖F(x) − C‖₁ / 1280 for Ano-Unet; for AnoGAN the loss where its search ended.
        threshold: F's, for Ano-Unet; None for AnoGAN.
        x: (3, H, W) in [0, 1].
        y: the normalised image, as x; None where the gate left the image out.
        anomaly_map: abs(x − y) averaged over the channels and smoothed as the settings say, (H, W) in
            [0, 1]; None as y.
        smoothing: σ of that smoothing, in pixels at a side of 96.
        scale: the map level that is shown as 1.
        losses: name → its values at steps 0 … total.
        seconds: computing time of this image (an equal share, where a batch was computed).
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

    @property
    def anomalous(self) -> bool:
        return self.threshold is not None and self.score > self.threshold

    @property
    def verdict(self) -> str:
        return "anomalous" if self.anomalous else "normal"


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
        settings: the bundle's for `fast` mode by default.
        gate: leave out (no Steps, y None) an image that F's score calls normal, as the article does.
        snapshot_every: every how many steps a Step carries its image.

    Yields:
        Steps of a batch of one; the Result is the generator's return value (`drain` gives it).
    """
    if x.shape != (3, bundle.size, bundle.size):
        raise ValueError(
            f"The bundle '{bundle.name}' takes images of 3×{bundle.size}×{bundle.size}, not {tuple(x.shape)}."
        )
    x, settings = x.detach().float().cpu(), settings or bundle.settings()
    center, scale = bundle.require_center(), bundle.scale(settings.mode)
    start = time.perf_counter()
    score = float(center.score(features_of(bundle.f_net, x[None])))
    if gate and score <= center.threshold:
        return Result(
            method=settings.mode,
            score=score,
            threshold=center.threshold,
            x=x,
            y=None,
            anomaly_map=None,
            smoothing=settings.smoothing,
            scale=scale,
            losses={},
            seconds=time.perf_counter() - start,
        )
    steps = ano_unet.reconstruct(
        x[None], bundle.f_net, center, settings, bundle.identity, snapshot_every=snapshot_every
    )
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
    return Result(
        method=settings.mode,
        score=score,
        threshold=center.threshold,
        x=x,
        y=y[0],
        anomaly_map=heat_map(x[None], y, settings.smoothing)[0],
        smoothing=settings.smoothing,
        scale=scale,
        losses={name: tuple(values) for name, values in curves.items()},
        seconds=time.perf_counter() - start,
    )


def visualize_many(
    images: Iterable[Tensor], bundle: Bundle, settings: ano_unet.Settings | None = None, *, gate: bool = False
) -> Iterator[Result | ArithmeticError]:
    """`visualize` for a stream of images, in order; in `fast` mode on a CPU every core takes an image.

    Results are the same as one by one, and memory does not grow with the number of images: no more are taken
    from the stream than are being worked on. An image whose loss diverged gives its error instead.
    """
    settings = settings or bundle.settings()
    spread = bundle.device.type == "cpu" and settings.mode == "fast"
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
    identity = part("identity", lambda path, sha: load_unet(path, sha)[0])
    gan = part("anogan", AnoGAN.load)
    try:
        size = check_size(info["size"])
        scales = {str(method): float(level) for method, level in info.get("scales", {}).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{folder / 'bundle.json'} is damaged ({error}): restore it.") from error
    if gan is not None and gan.size != size:
        raise WeightsError(
            f"{folder / PARTS['anogan']} works at {gan.size} px and the bundle at {size}: train AnoGAN anew."
        )
    for net in (f_net, identity, gan):
        if net is not None:
            net.to(device)
    rest = {key: value for key, value in info.items() if key not in ("files", "scales")}
    return Bundle(folder.name, folder, size, f_net, center, identity, gan, scales, rest)


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
    identity: UNet | None = None,
    anogan: AnoGAN | None = None,
    meta: Mapping[str, Any] | None = None,
    scales: Mapping[str, float] | None = None,
    **info: Any,
) -> Path:
    """Adds parts to a bundle, or replaces them, and writes bundle.json last.

    A new F takes away the C and the scales that were made from the old one, and where it is for another
    normal class, data set or size, AnoGAN too.

    Args:
        meta: provenance of the F or the U-Net that is saved (C and AnoGAN carry their own).
        scales: methods' scales, added to those there are.
        info: further fields of bundle.json; `size` is needed for a new bundle.
    """
    folder = bundle_folder(name)
    with _writing:
        path = folder / "bundle.json"
        now = read_info(name) if path.is_file() else {"format": 1, "files": {}, "scales": {}}
        files = now["files"]
        if f_net is not None:
            outdated = [PARTS["center"]]
            if any(key in info and now.get(key) != info[key] for key in ("data", "normal", "size")):
                outdated.append(PARTS["anogan"])
            for file in outdated:
                files.pop(file, None)
                (folder / file).unlink(missing_ok=True)
            now["scales"] = {}
            described = {"backbone": f_net.meta(), "fingerprint": f_net.fingerprint, **(meta or {})}
            files[PARTS["f_net"]] = save_weights(folder / PARTS["f_net"], "f_net", f_net.state(), described)
        if center is not None:
            files[PARTS["center"]] = center.save(folder / PARTS["center"])
        if identity is not None:
            files[PARTS["identity"]] = save_unet(folder / PARTS["identity"], identity, dict(meta or {}))
        if anogan is not None:
            files[PARTS["anogan"]] = anogan.save(folder / PARTS["anogan"])
        now["scales"] = now.get("scales", {}) | dict(scales or {})
        now |= info
        check_size(now.get("size"))
        write_json(path, now)
    return folder


def copy_identity(name: str, source: str = SHIPPED) -> None:
    """Gives a bundle the general identity U-Net of another, byte for byte."""
    taken = bundle_folder(source) / PARTS["identity"]
    net, meta = load_unet(taken, read_info(source)["files"].get(PARTS["identity"]))
    save_part(name, identity=net, meta=meta)


def verify(name: str) -> dict[str, bool]:
    """File → whether it is there with the SHA-256 that bundle.json names."""
    folder, files = bundle_folder(name), read_info(name)["files"]
    return {f: (folder / f).is_file() and file_sha256(folder / f) == sha for f, sha in files.items()}
