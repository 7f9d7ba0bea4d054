"""What an experiment found, as numbers: rows, their JSON, and the file that is kept beside a bundle."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from anounet.bundle import bundle_folder, read_info
from anounet.storage import WeightsError, write_atomic, write_json

FILE, PICTURE = "experiment.json", "experiment.png"  # in the bundle's folder
FORMAT = 1


@dataclass(frozen=True)
class Judged:
    """A method's normalised images, as the second classifier sees them.

    Attributes:
        change: mean Δ of anomalous images, the change of the normal-minus-anomalous logit.
        towards: share of the anomalous images whose Δ is above 0.
        called: anomalous images that it called anomalous before.
        flips: share of these that it calls normal afterwards; None where there are none.
        called_normal: normal images that it called normal before.
        kept: share of these that it still calls normal; None where there are none.
    """

    change: float
    towards: float
    called: int
    flips: float | None
    called_normal: int
    kept: float | None


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        method: of `methods.TITLES`.
        settings: its settings, for people.
        normals: normal images that were measured.
        anomalies: anomalous ones.
        left_out: images that it had no answer for.
        score_auroc: image AUROC of its score.
        peak_auroc: image AUROC of its map's maximum.
        pixel_auroc: over all pixels of all images, where masks are known.
        pixel_ap: likewise.
        seconds: an image, reading not counted.
        memory_mb: how far the peak rose while it worked.
        change_normal: mean abs(x − y) of normal images.
        change_anomalous: of anomalous ones.
        judged: by the second classifier, where there is one.
    """

    method: str
    settings: str
    normals: int
    anomalies: int
    left_out: int
    score_auroc: float | None
    peak_auroc: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    seconds: float
    memory_mb: float
    change_normal: float | None
    change_anomalous: float | None
    judged: Judged | None

    @property
    def ratio(self) -> float | None:
        """How many times as much it changes anomalous images as normal ones."""
        if self.change_anomalous is None or not self.change_normal:
            return None
        return self.change_anomalous / self.change_normal


@dataclass(frozen=True)
class Judge:
    """The second classifier, before anything was redrawn.

    Attributes:
        towards: the class that changes should lead to.
        away: those that they should lead away from.
        accuracy: on its held-back images, of all classes.
        normal_right: share of the normal test images that it calls normal rather than anomalous.
        anomalous_right: the other way round.
        start: where its starting weights came from.
        width: of its net.
    """

    towards: str
    away: tuple[str, ...]
    accuracy: float | None
    normal_right: float
    anomalous_right: float
    start: str
    width: float


@dataclass(frozen=True)
class Shown:
    """An image that the figure shows, chosen by rule: at a percentile of F's score, of its kind.

    Attributes:
        kind: "normal" or "anomalous".
        percentile: 0 … 100.
        name: the image's, in its data set.
        what: its defect, or its class.
        score: F's.
    """

    kind: str
    percentile: int
    name: str
    what: str
    score: float


@dataclass(frozen=True)
class Report:
    """All of an experiment with one bundle.

    Attributes:
        experiment: its name; `title` is for people.
        bundle: the bundle's name, `files` its files with their SHA-256, `f_net` its F's fingerprint.
        data: the data set, `normal` the normal class, `anomalous` what was to be found.
        size: side of the images in pixels.
        settings: `choice.ExperimentSettings` as JSON.
        normals: normal test images in all, `anomalies` anomalous ones.
        rows: a method each.
        judge: the second classifier; None where the bundle has none.
        shown: the figure's rows.
        notes: sentences on what is missing or was left out.
        command: what made it.
        device: what it was computed on.
        made: when, ISO 8601, UTC; `versions` of the libraries.
    """

    experiment: str
    title: str
    bundle: str
    files: Mapping[str, str]
    f_net: str
    data: str
    normal: str
    anomalous: tuple[str, ...]
    size: int
    settings: Mapping[str, Any]
    normals: int
    anomalies: int
    rows: tuple[Row, ...]
    judge: Judge | None
    shown: tuple[Shown, ...]
    notes: tuple[str, ...]
    command: str
    device: str
    made: str
    versions: Mapping[str, str]

    def row(self, method: str) -> Row | None:
        return next((row for row in self.rows if row.method == method), None)

    def to_json(self) -> dict[str, Any]:
        """JSON types, numbers rounded to six digits."""
        return {"format": FORMAT, **_rounded(asdict(self))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Report:
        """What `to_json` gave.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise ValueError("format")
        return _built(cls, {k: v for k, v in value.items() if k != "format"})


def save_report(report: Report, picture: bytes | None = None) -> None:
    """Puts a report beside its bundle's files, and the figure where its images may be shown to anybody."""
    folder = bundle_folder(report.bundle)
    write_json(folder / FILE, report.to_json())
    if picture is None:
        (folder / PICTURE).unlink(missing_ok=True)
    else:
        write_atomic(folder / PICTURE, picture)


def saved_report(bundle: str) -> Report | None:
    """The report that is kept beside a bundle; None where there is none.

    Raises:
        WeightsError: it is damaged; the sentence says what to do.
    """
    path = bundle_folder(bundle) / FILE
    try:
        return Report.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged ({error}): restore it, or make it anew with "
            f"'python -m anounet experiment {bundle} --save'."
        ) from error


def outdated(report: Report) -> bool:
    """Whether the bundle that is here now has other weights than those that the report is of."""
    return dict(report.files) != read_info(report.bundle)["files"]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def _built(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that a dataclass's field is annotated with; a ValueError if it is none."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            raise ValueError(f"not the fields of a {kind.__name__}")
        return kind(**{name: _checked(name, hint, value[name]) for name, hint in hints.items()})
    if origin is types.UnionType:
        return None if value is None else _built(next(p for p in parts if p is not type(None)), value)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError("not a list")
        return tuple(_built(parts[0], part) for part in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = dict if origin is not None else kind
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"not a {expected.__name__}")
    return value


def _checked(name: str, kind: Any, value: Any) -> Any:
    try:
        return _built(kind, value)
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from error
