"""A bundle: all that is needed to visualise one normal class, in one folder, checked when it is opened.

    weights/<name>/bundle.json   what it is, its settings and scales, the SHA-256 of every file
                   f_net.pt  center.pt  local_centers.pt  unet_identity.pt  unet_instant.pt  anogan.pt
                   encoder.pt  decoder.pt  classifier.pt

A bundle grows part by part (F on page 1, C on page 2, …); who needs one that is missing is told which. A kill
while parts are saved leaves the old ones or the new ones. One without an identity U-Net of its own uses the
shipped bundle's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from anounet import ano_unet
from anounet.anogan import AnoGAN
from anounet.center import Center
from anounet.decoder import Decoder
from anounet.f_anogan import Encoder
from anounet.feature_net import BackboneSettings, FeatureNet
from anounet.identity import load_unet, save_unet
from anounet.images import check_size
from anounet.instant import load_instant, save_instant
from anounet.local_centers import LocalCenters
from anounet.second_classifier import SecondClassifier
from anounet.storage import (
    WeightsError,
    clear_abandoned,
    file_sha256,
    fingerprint,
    load_weights,
    save_weights,
    settle,
    staged,
    write_json,
)
from anounet.unet import GatedUNet, UNet

SHIPPED = "textures-streaks"
PARTS = {
    "f_net": "f_net.pt",
    "center": "center.pt",
    "local": "local_centers.pt",
    "identity": "unet_identity.pt",
    "instant": "unet_instant.pt",
    "anogan": "anogan.pt",
    "encoder": "encoder.pt",
    "decoder": "decoder.pt",
    "classifier": "classifier.pt",
}
# What Ano-Unet is compared with → the parts needed.
RIVALS = {"anogan": ("anogan",), "f-anogan": ("anogan", "encoder"), "decoder": ("decoder",)}
# Part → the methods whose maps are drawn with it: their levels go with it.
DRAWS = {
    "identity": ("fast", "fast-local"),
    "instant": ("instant",),
    "anogan": ("anogan", "f-anogan"),
    "encoder": ("f-anogan",),
    "decoder": ("decoder",),
}
ENOUGH = 100  # held-back images: of fewer, the score that 99 % stay under is hardly known
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_writing = threading.RLock()

# What stands for a scale that was never measured, in the map's own unit.
STAND_IN = {"residual": 0.1, "combined": 0.5, "distance": 1.8, "gain": 0.5, "change": 1.0, "product": 2.0}
USUAL_MAP = {"instant": "combined", "fast-local": "combined", "article-local": "combined"}


def map_key(method: str, name: str | None) -> str:
    """What a method's map goes by in scales and limits: its usual one by the method's own name."""
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
        identity: the small U-Net that `fast` mode starts from: the bundle's own, else the general one, or
            None where that is not here.
        instant: the small U-Net of `instant` mode, trained with `local`, or None.
        anogan: a rival, or None.
        encoder: f-AnoGAN's, trained with this AnoGAN, or None.
        decoder: another rival, trained with this F, or None.
        classifier: a net apart that says whether a change is real, or None.
        scales: "method" for its usual map, "method:map" for the others → the map level that 99.5 % of
            held-back normal pixels stay under.
        limits: the same names → the level above which a region is reported (99.9 %), and "method:score"
            → the score above which an image is called anomalous, where F's threshold is not the one.
        info: the rest of bundle.json.
        general_identity: the fingerprint of the general identity U-Net, where `identity` is that one.
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
    encoder: Encoder | None
    decoder: Decoder | None
    classifier: SecondClassifier | None
    scales: Mapping[str, float]
    limits: Mapping[str, float] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    general_identity: str | None = None

    @property
    def device(self) -> torch.device:
        return next(self.f_net.parameters()).device

    def to(self, device: torch.device | str) -> Bundle:
        """The bundle with its nets on a device; they are moved, not copied."""
        for net in (
            self.f_net,
            self.identity,
            self.instant,
            self.anogan,
            self.encoder,
            self.decoder,
            self.classifier,
        ):
            if net is not None:
                net.to(device)
        return replace(self, local=self.local.to(device) if self.local is not None else None)

    @property
    def mode(self) -> str:
        """The best mode this bundle has the parts for: "instant", else "fast"."""
        return "instant" if self.instant is not None and self.local is not None else "fast"

    @property
    def rivals(self) -> tuple[str, ...]:
        """Those of `RIVALS` that this bundle has the parts for."""
        return tuple(r for r, parts in RIVALS.items() if all(getattr(self, p) is not None for p in parts))

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
        if own.slack and self.center is not None and not self.center.knows_levels:
            own = replace(own, slack=0.0)  # such a C does not know where normal images' L_C lies
        return replace(own, **changes)

    def scale(self, method: str, name: str | None = None) -> float:
        """The level shown as 1 for a method's map; where it was never measured, a stand-in."""
        key = map_key(method, name)
        if key in self.scales:
            return float(self.scales[key])
        kind = name or USUAL_MAP.get(method, "residual")
        return float(self.scales.get("fast", 0.1)) if kind == "residual" else STAND_IN[kind]

    def limit(self, method: str, name: str | None = None) -> float:
        """The level of a method's map above which a region is reported."""
        return float(self.limits.get(map_key(method, name), 1.5 * self.scale(method, name)))

    def threshold(self, settings: ano_unet.Settings) -> float:
        """The score above which an image is called anomalous: F's for a global C, else the map's."""
        if settings.center == "global":
            return self.require_center().threshold
        return float(self.limits.get(f"{settings.method}:score", 2.0))

    def judge(self, settings: ano_unet.Settings) -> Center | None:
        """The C whose score is asked too in `instant` mode: patches can be normal in an image that is not.

        None where the threshold of that score comes from few images: many normal ones would lie above it.
        """
        known = self.center is not None and len(self.center.held_back) >= ENOUGH
        return self.center if settings.mode == "instant" and known else None

    def require_local(self) -> LocalCenters:
        if self.local is None:
            raise WeightsError(
                f"The bundle '{self.name}' has no local centres yet: compute them on the page C, "
                f"or with 'python -m anounet center --bundle {self.name}'."
            )
        return self.local

    def require_identity(self) -> UNet:
        if self.identity is None:
            raise WeightsError(
                f"fast mode starts from an identity U-Net, the bundle '{self.name}' has none of its own, and "
                f"the general one, in the bundle '{SHIPPED}', is missing or damaged: put that bundle back, "
                f"or make one with 'python -m anounet train-unet --bundle {self.name}'."
            )
        return self.identity

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

    def require_encoder(self) -> Encoder:
        if self.encoder is None:
            raise WeightsError(
                f"The bundle '{self.name}' has no encoder for f-AnoGAN yet: train it on the page Visualise, "
                f"or with 'python -m anounet train-encoder --bundle {self.name}'."
            )
        return self.encoder

    def require_decoder(self) -> Decoder:
        if self.decoder is None:
            raise WeightsError(
                f"The bundle '{self.name}' has no decoder yet: train it on the page Visualise, "
                f"or with 'python -m anounet train-decoder --bundle {self.name}'."
            )
        return self.decoder

    def require_classifier(self) -> SecondClassifier:
        if self.classifier is None:
            raise WeightsError(
                f"The bundle '{self.name}' has no second classifier yet: train one "
                f"with 'python -m anounet train-classifier --bundle {self.name}'."
            )
        return self.classifier

    def require_rival(self, rival: str) -> None:
        """Says what is missing where the bundle lacks a part of one of `RIVALS`."""
        if rival not in RIVALS:
            raise ValueError(f"Unknown rival {rival!r}: choose one of {', '.join(RIVALS)}.")
        for part in RIVALS[rival]:
            getattr(self, f"require_{part}")()


# --- on disk -----------------------------------------------------------------------------------------


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What a device is called, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


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
    settle(path.parent, {file: str(sha) for file, sha in info["files"].items() if file in PARTS.values()})
    return info


def general_identity() -> tuple[UNet, str]:
    """The identity U-Net that bundles without one of their own use, and its fingerprint.

    Raises:
        WeightsError: the shipped bundle, whose it is, is missing or damaged.
    """
    file = PARTS["identity"]
    net, _ = load_unet(bundle_folder(SHIPPED) / file, str(read_info(SHIPPED)["files"].get(file)))
    return net, fingerprint(net.state_dict())


def has_general_identity() -> bool:
    """Whether there is an identity U-Net for bundles without one of their own, by what is said of it."""
    with contextlib.suppress(WeightsError):
        return PARTS["identity"] in read_info(SHIPPED)["files"]
    return False


def load_bundle(name: str, device: torch.device | str | None = None, *, only_f_net: bool = False) -> Bundle:
    """Opens a bundle: every file is checked against its SHA-256, and C against F.

    Args:
        only_f_net: leave the other parts unopened, as one does who is about to make them anew.

    Raises:
        WeightsError: a part is missing, damaged or foreign; the sentence names the file and what to do.
    """
    with _writing:  # no part is replaced between bundle.json and the last file
        return _load(name, device, only_f_net)


def _load(name: str, device: torch.device | str | None, only_f_net: bool) -> Bundle:
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
    identity, general = part("identity", lambda path, sha: load_unet(path, sha)[0]), None
    if identity is None and not only_f_net:
        with contextlib.suppress(WeightsError):  # all but `fast` mode works without: `require_identity`
            identity, general = general_identity()
    instant = part("instant", lambda path, sha: load_instant(path, local, sha)[0])
    gan = part("anogan", AnoGAN.load)
    encoder = part("encoder", Encoder.load)
    if encoder is not None:
        encoder.check(gan, folder / PARTS["encoder"])
    decoder = part("decoder", Decoder.load)
    if decoder is not None:
        decoder.check(f_net, folder / PARTS["decoder"])
    classifier = part("classifier", SecondClassifier.load)
    try:
        size = check_size(info["size"])
        scales = {str(method): float(level) for method, level in info.get("scales", {}).items()}
        limits = {str(method): float(level) for method, level in info.get("limits", {}).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{folder / 'bundle.json'} is damaged ({error}): restore it.") from error
    measured = info.get("general_identity")
    if general is not None and measured is not None and general != measured:
        _forget(scales, *DRAWS["identity"])  # it is another one than they were measured with
        _forget(limits, *DRAWS["identity"])
    for key, net, who in (("anogan", gan, "AnoGAN"), ("decoder", decoder, "the decoder")):
        if net is not None and net.size != size:
            raise WeightsError(
                f"{folder / PARTS[key]} works at {net.size} px and the bundle at {size}: train {who} anew."
            )
    rest = {key: value for key, value in info.items() if key not in ("files", "scales", "limits")}
    return Bundle(
        name=folder.name,
        folder=folder,
        size=size,
        f_net=f_net,
        center=center,
        local=local,
        identity=identity,
        instant=instant,
        anogan=gan,
        encoder=encoder,
        decoder=decoder,
        classifier=classifier,
        scales=scales,
        limits=limits,
        info=rest,
        general_identity=general,
    ).to(device)


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
    encoder: Encoder | None = None,
    decoder: Decoder | None = None,
    classifier: SecondClassifier | None = None,
    meta: Mapping[str, Any] | None = None,
    scales: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
    without: Sequence[str] = (),
    **info: Any,
) -> Path:
    """Adds parts to a bundle, or replaces them: all of it or, after a kill, nothing.

    A new F takes away what was made from the old one (both kinds of C, the instant U-Net, the decoder, scales
    and limits), where it is for another normal class, data set or size, AnoGAN too, and where it is for
    another data set or size, the second classifier. New local centres take away the instant U-Net that was
    trained with the old ones, and a new AnoGAN its encoder. What draws a method's maps takes away
    their scales and limits.

    Args:
        instant: trained with the local centres that are saved with it or are there.
        meta: provenance of the F or the U-Net that is saved (the others carry their own).
        scales: maps' scales, added to those there are; `limits` likewise.
        without: parts to take away.
        info: further fields of bundle.json; `size` is needed for a new bundle.
    """
    folder = bundle_folder(name)
    with _writing:
        path = folder / "bundle.json"
        now = read_info(name) if path.is_file() else {"format": 1, "files": {}, "scales": {}}
        check_size((now | info).get("size"))
        files, dropped = now["files"], set()
        for file in PARTS.values():
            clear_abandoned(folder / file)

        def drop(*parts: str) -> None:
            for part in parts:
                if files.pop(PARTS[part], None) is not None:
                    dropped.add(PARTS[part])
                forget(part)

        def forget(part: str) -> None:
            for kind in ("scales", "limits", "reach"):
                _forget(now.get(kind, {}), *DRAWS.get(part, ()))

        def stage(part: str, save: Callable[[Path], str]) -> None:
            forget(part)
            files[PARTS[part]] = save(staged(folder / PARTS[part]))

        drop(*without)
        if info.get("general_identity") not in (None, now.get("general_identity")):
            forget("identity")
        if f_net is not None:
            drop("center", "local", "instant", "decoder")
            if any(key in info and now.get(key) != info[key] for key in ("data", "normal", "size")):
                drop("anogan", "encoder")
            if any(key in info and now.get(key) != info[key] for key in ("data", "size")):
                drop("classifier")
            now["scales"], now["limits"] = {}, {}
            now.pop("reach", None)
            described = {"backbone": f_net.meta(), "fingerprint": f_net.fingerprint, **(meta or {})}
            stage("f_net", lambda path: save_weights(path, "f_net", f_net.state(), described))
        if center is not None:
            stage("center", center.save)
        if local is not None:
            drop("instant")
            kept = {"fast", "article", *RIVALS}  # their maps know nothing of local centres
            for kind in ("scales", "limits"):
                now[kind] = {k: v for k, v in now.get(kind, {}).items() if k in kept}
            stage("local", local.save)
        if instant is not None:
            trained_with = local or LocalCenters.load(folder / PARTS["local"], files.get(PARTS["local"]))
            stage("instant", lambda path: save_instant(path, instant, trained_with, dict(meta or {})))
        if identity is not None:
            now.pop("general_identity", None)
            stage("identity", lambda path: save_unet(path, identity, dict(meta or {})))
        if anogan is not None:
            drop("encoder")
            stage("anogan", anogan.save)
        if encoder is not None:
            stage("encoder", encoder.save)
        if decoder is not None:
            stage("decoder", decoder.save)
        if classifier is not None:
            stage("classifier", classifier.save)
        now["scales"] = now.get("scales", {}) | dict(scales or {})
        now["limits"] = now.get("limits", {}) | dict(limits or {})
        write_json(path, now | info)
        settle(folder, files)
        for file in dropped - files.keys():
            (folder / file).unlink(missing_ok=True)
    return folder


def _forget(levels: dict[str, float], *methods: str) -> None:
    """Takes the levels of methods' maps out of scales or limits."""
    for key in [key for key in levels if key.partition(":")[0] in methods]:
        del levels[key]


def delete_bundle(name: str) -> None:
    """Deletes a bundle with all that lies in its folder.

    Raises:
        WeightsError: there is no such bundle, or it is the one that comes with the program.
    """
    folder = bundle_folder(name)
    if folder == bundle_folder(SHIPPED):
        raise WeightsError(f"The bundle '{SHIPPED}' comes with the program and can't be deleted.")
    with _writing:
        if not (folder / "bundle.json").is_file():
            raise WeightsError(f"There is no bundle '{name}' to delete in {folder.parent}.")
        (folder / "bundle.json").unlink()  # first: what an interruption leaves behind is no bundle
        shutil.rmtree(folder)


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
