"""What there is to see in an experiment, in a few sentences made of its numbers, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
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


def findings(report: Report) -> str:
    """A paragraph: what was found, by whom, and whether it is real."""
    images = f"{report.settings.get('split', 'test')} images"
    sentences = [
        f"{report.anomalies} anomalous {images} ({_some(report.anomalous)}) and {report.normals} normal "
        f"ones of '{report.normal}'."
    ]
    score = report.row("f-score")
    if score is not None and score.score_auroc is not None:
        sentences.append(f"F's score tells them apart with an image AUROC of {score.score_auroc:.2f}.")
    defects = any(row.pixel_auroc is not None for row in report.rows)
    ours = next(filter(None, map(report.row, OURS if defects else OURS_OBJECTS)), None)
    if ours is not None:
        sentences += [_changed(ours), *_pixels(ours, report.row("nearest"))]
    sentences += _real(report, ours)
    decoder = report.row("decoder")
    if decoder is not None and decoder.ratio is not None and decoder.peak_auroc is not None:
        sentences.append(_decoder(decoder, report.normal, defects))
    return " ".join(filter(None, sentences))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _changed(row: Row) -> str:
    if row.ratio is None or row.peak_auroc is None:
        return ""
    return (
        f"Ano-Unet ({TITLES[row.method]}) changes anomalous images {row.ratio:.1f} times as much as normal "
        f"ones (mean abs(x − y) {row.change_anomalous:.4f} against {row.change_normal:.4f}); its map's "
        f"maximum has an AUROC of {row.peak_auroc:.2f}."
    )


def _pixels(row: Row, nearest: Row | None) -> list[str]:
    if row.pixel_auroc is None or row.pixel_ap is None:
        return []
    beside = ""
    if nearest is not None and nearest.pixel_ap is not None:
        beside = f", the distance without any redrawing {nearest.pixel_auroc:.3f} and {nearest.pixel_ap:.2f}"
    return [
        f"To the pixel its map has an AUROC of {row.pixel_auroc:.3f} and an AP of {row.pixel_ap:.2f}{beside}."
    ]


def _real(report: Report, ours: Row | None) -> list[str]:
    """What the second classifier says of the changes."""
    judge = report.judge
    if judge is None or ours is None or ours.judged is None:
        return []
    judged = ours.judged
    sentences = [
        f"The second classifier, which G never saw, is right about {judge.normal_right:.0%} of the normal "
        f"and {judge.anomalous_right:.0%} of the anomalous images; it sees {judged.towards:.0%} of the "
        f"changes go towards '{judge.towards}'"
    ]
    if judged.flips is not None:
        sentences[0] += f", and of the {judged.called} images it called anomalous {judged.flips:.0%} flip"
    sentences[0] += "."
    known = [row for row in report.rows if row.judged and row.judged.called >= FEW]
    flips = [(row.judged.flips, row) for row in known if row.judged.flips is not None]
    if len(flips) > 1:
        (most, best), (fewest, worst) = max(flips, key=_first), min(flips, key=_first)
        if most > fewest:
            sentences.append(
                f"Of all methods {TITLES[best.method]} flips most ({most:.0%} of {best.judged.called}) and "
                f"{TITLES[worst.method]} fewest ({fewest:.0%} of {worst.judged.called})."
            )
    return sentences


def _first(pair: tuple[float, Row]) -> float:
    return pair[0]


def _decoder(row: Row, normal: str, defects: bool) -> str:
    numbers = f"it changes them {row.ratio:.2f} times as much as normal ones, AUROC {row.peak_auroc:.2f}"
    if row.ratio < FAILS_RATIO and row.peak_auroc < FAILS_AUROC:
        if defects:
            return (
                f"The decoder fails here ({numbers}): F(x), one vector for the whole image, holds no fine "
                f"detail, and so it blurs all of '{normal}' and not the defects alone."
            )
        return (
            f"The decoder fails here ({numbers}): size, direction and background vary from one '{normal}' to "
            "the next, F(x) does not hold them, and so it redraws normal images as something else too."
        )
    return f"The decoder finds anomalies here ({numbers}): one '{normal}' is enough like another for it."


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
