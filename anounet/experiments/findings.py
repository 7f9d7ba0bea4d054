"""What there is to see in an experiment, in a few sentences made of its numbers, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from anounet.experiments.methods import TITLES
from anounet.experiments.report import Report, Row

# The first that is there is spoken of: a C for every patch finds defects, one C for the image other objects.
OURS = ("instant", "refined", "fast-local", "fast", "article")
OURS_OBJECTS = ("fast", "article", "instant", "refined", "fast-local")
FEW = 10  # images of which a share says something
LEAST = 5  # images of each kind of which an AUROC says something
# Below both the decoder is said to fail: it changes normal images as much as others, and its map ranks badly.
FAILS_RATIO, FAILS_AUROC = 1.25, 0.7


# What is said, by key; pages have these sentences in other languages.
SENTENCES = {
    "images": "{anomalies} anomalous {split} images ({names}) and {normals} normal ones of '{normal}'.",
    "score": "F's score tells them apart with an image AUROC of {auroc}.",
    "changed": "Ano-Unet ({method}) changes anomalous images {ratio} times as much as normal ones (mean "
    "abs(x − y) {anomalous} against {normals}); its map's maximum has an AUROC of {auroc}.",
    "pixels": "To the pixel its map has an AUROC of {auroc} and an AP of {ap}.",
    "pixels_beside": "To the pixel its map has an AUROC of {auroc} and an AP of {ap}, the distance without "
    "any redrawing {other_auroc} and {other_ap}.",
    "judged": "The second classifier, which G never saw, is right about {normals} of the normal and "
    "{anomalies} of the anomalous images; it sees {towards} of the changes go towards '{normal}'.",
    "judged_flips": "The second classifier, which G never saw, is right about {normals} of the normal and "
    "{anomalies} of the anomalous images; it sees {towards} of the changes go towards '{normal}', and of the "
    "{called} images it called anomalous {flips} flip.",
    "flips": "Of all methods {best} flips most ({most} of {most_of}) and {worst} fewest ({fewest} of "
    "{fewest_of}).",
    "decoder_blurs": "The decoder fails here (it changes them {ratio} times as much as normal ones, AUROC "
    "{auroc}): F(x), one vector for the whole image, holds no fine detail, and so it blurs all of '{normal}' "
    "and not the defects alone.",
    "decoder_varies": "The decoder fails here (it changes them {ratio} times as much as normal ones, AUROC "
    "{auroc}): size, direction and background vary from one '{normal}' to the next, F(x) does not hold them, "
    "and so it redraws normal images as something else too.",
    "decoder_finds": "The decoder finds anomalies here (it changes them {ratio} times as much as normal "
    "ones, AUROC {auroc}): one '{normal}' is enough like another for it.",
}


@dataclass(frozen=True)
class Said:
    """A sentence of `SENTENCES`.

    Attributes:
        values: numbers as they are written.
        names: a class, a split, or a title of a method, likewise; "names" are several.
    """

    key: str
    values: dict[str, str]
    names: dict[str, str | tuple[str, ...]] = field(default_factory=dict)


def findings(report: Report) -> str:
    """A paragraph: what was found, by whom, and whether it is real."""
    return " ".join(
        SENTENCES[said.key].format(**said.values, **{name: listed(v) for name, v in said.names.items()})
        for said in what_was_found(report)
    )


def listed(names: str | Sequence[str]) -> str:
    """Names in a sentence, the first few of many."""
    if isinstance(names, str):
        return names
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def what_was_found(report: Report) -> list[Said]:
    """The same, sentence by sentence."""
    split = str(report.settings.get("split", "test"))
    counts = {"anomalies": str(report.anomalies), "normals": str(report.normals)}
    names = {"split": split, "names": tuple(report.anomalous), "normal": report.normal}
    told = [Said("images", counts, names)]
    score = report.row("f-score")
    if score is not None and score.score_auroc is not None:
        told.append(Said("score", {"auroc": f"{score.score_auroc:.2f}"}))
    defects = any(row.pixel_auroc is not None for row in report.rows)
    ours = next(filter(None, map(report.row, OURS if defects else OURS_OBJECTS)), None)
    if ours is not None:
        told += [*_changed(ours), *_pixels(ours, report.row("nearest"))]
    told += _real(report, ours)
    decoder = report.row("decoder")
    if decoder is not None and decoder.ratio is not None and decoder.peak_auroc is not None:
        told.append(_decoder(decoder, report.normal, defects))
    return told


def _changed(row: Row) -> list[Said]:
    if row.ratio is None or row.peak_auroc is None:
        return []
    values = {
        "ratio": f"{row.ratio:.1f}",
        "anomalous": f"{row.change_anomalous:.4f}",
        "normals": f"{row.change_normal:.4f}",
        "auroc": f"{row.peak_auroc:.2f}",
    }
    return [Said("changed", values, {"method": TITLES[row.method]})]


def _pixels(row: Row, nearest: Row | None) -> list[Said]:
    if row.pixel_auroc is None or row.pixel_ap is None:
        return []
    values = {"auroc": f"{row.pixel_auroc:.3f}", "ap": f"{row.pixel_ap:.2f}"}
    if nearest is None or nearest.pixel_ap is None:
        return [Said("pixels", values)]
    beside = {"other_auroc": f"{nearest.pixel_auroc:.3f}", "other_ap": f"{nearest.pixel_ap:.2f}"}
    return [Said("pixels_beside", values | beside)]


def _real(report: Report, ours: Row | None) -> list[Said]:
    """What the second classifier says of the changes."""
    judge = report.judge
    if judge is None or ours is None or ours.judged is None:
        return []
    judged = ours.judged
    values = {
        "normals": f"{judge.normal_right:.0%}",
        "anomalies": f"{judge.anomalous_right:.0%}",
        "towards": f"{judged.towards:.0%}",
    }
    if judged.flips is not None:
        flips = {"called": str(judged.called), "flips": f"{judged.flips:.0%}"}
        told = [Said("judged_flips", values | flips, {"normal": judge.towards})]
    else:
        told = [Said("judged", values, {"normal": judge.towards})]
    known = [row for row in report.rows if row.judged and row.judged.called >= FEW]
    flips = [(row.judged.flips, row) for row in known if row.judged.flips is not None]
    if len(flips) > 1:
        (most, best), (fewest, worst) = max(flips, key=_first), min(flips, key=_first)
        if most > fewest:
            values = {
                "most": f"{most:.0%}",
                "most_of": str(best.judged.called),
                "fewest": f"{fewest:.0%}",
                "fewest_of": str(worst.judged.called),
            }
            told.append(Said("flips", values, {"best": TITLES[best.method], "worst": TITLES[worst.method]}))
    return told


def _first(pair: tuple[float, Row]) -> float:
    return pair[0]


def _decoder(row: Row, normal: str, defects: bool) -> Said:
    key = "decoder_finds"
    if row.ratio < FAILS_RATIO and row.peak_auroc < FAILS_AUROC:
        key = "decoder_blurs" if defects else "decoder_varies"
    return Said(key, {"ratio": f"{row.ratio:.2f}", "auroc": f"{row.peak_auroc:.2f}"}, {"normal": normal})


# --- tables ------------------------------------------------------------------------------------------


def method_rows(report: Report) -> list[dict[str, Any]]:
    """The table of methods, a dict of equal keys a row; None where there is no figure."""
    return [
        {
            "method": TITLES[row.method],
            "settings": row.settings,
            "images": f"{row.normals} + {row.anomalies}",
            "AUROC, score": _fixed(_of_enough(row, row.score_auroc)),
            "AUROC, map's maximum": _fixed(_of_enough(row, row.peak_auroc)),
            "pixel AUROC": _fixed(row.pixel_auroc),
            "pixel AP": _fixed(row.pixel_ap),
            "s/image": f"{row.seconds:.3g}",
            "memory, MB": f"+{row.memory_mb:.0f}",
        }
        for row in report.rows
    ]


def judged_rows(report: Report) -> list[dict[str, Any]]:
    """The table of what was changed, and of what the second classifier says of it where there is one."""
    rows = []
    for row in report.rows:
        if row.change_anomalous is None and row.change_normal is None:
            continue
        line = {
            "method": TITLES[row.method],
            "images": f"{row.normals} + {row.anomalies}",
            "abs(x − y), anomalous": _fixed(row.change_anomalous, 4),
            "normal": _fixed(row.change_normal, 4),
            "ratio": _fixed(row.ratio, 2),
        }
        if report.judge is not None:
            judged = row.judged
            line |= {
                "change of the logit": f"{judged.change:+.2f}" if judged else None,
                "towards normal": _share(judged.towards if judged else None),
                "flip": _share(judged.flips if judged else None, judged.called if judged else 0),
                "normals kept": _share(
                    judged.kept if judged else None, judged.called_normal if judged else 0
                ),
            }
        rows.append(line)
    return rows


def _of_enough(row: Row, auroc: float | None) -> float | None:
    """An image AUROC, where there are images enough that it says something."""
    return auroc if min(row.normals, row.anomalies) >= LEAST else None


def _fixed(value: float | None, digits: int = 3) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _share(value: float | None, of: int | None = None) -> str | None:
    if value is None:
        return None
    return f"{value:.0%}" if of is None else f"{value:.0%} of {of}"
