"""Runs an experiment with one bundle: a stream of Stages that ends in its numbers and its figure's pictures.

Images are read and redrawn in batches, and nothing of them is kept but two numbers an image and method, and,
for one method at a time, its maps where masks are known (37 kB an image at 96 px): pixel measures rank all
pixels.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from anounet.bundle import Bundle, device_name, read_info
from anounet.experiments.choice import Experiment, ExperimentSettings, TestImages, test_images
from anounet.experiments.figure import PERCENTILES, Drawn, FigureRow, picks
from anounet.experiments.memory import PeakMemory
from anounet.experiments.methods import (
    BATCH,
    SLOW,
    TITLES,
    USUAL_BATCH,
    Answer,
    ask,
    described,
    methods_of,
)
from anounet.experiments.report import Judge, Judged, Report, Row, Shown
from anounet.metrics import image_auroc, pixel_auroc, pixel_average_precision
from anounet.prepare import Stage
from anounet.second_classifier import SecondClassifier
from anounet.storage import WeightsError, provenance

NORMAL, ANOMALOUS = "normal", "anomalous"


@dataclass(frozen=True)
class Outcome:
    """An experiment's numbers, and the pictures of its figure."""

    report: Report
    figure: tuple[FigureRow, ...]


def run(
    experiment: Experiment,
    bundle: Bundle,
    settings: ExperimentSettings,
    *,
    command: str = "",
) -> Generator[Stage, None, Outcome]:
    """Measures every method that the bundle has the parts for, on the same test images.

    Every method takes the images of the figure first and then the others in the order in which they were
    drawn, so that those with time for few have what the figure shows.

    Args:
        bundle: one of the experiment's; its second classifier judges, where it has one.
        command: what asked for it, kept in the report.

    Yields:
        Stages named by the methods; the Outcome is the generator's return value.

    Raises:
        DataError: the data set is not here, or has too few images.
        WeightsError: the bundle has no C.
    """
    bundle.require_center()
    choice = experiment.choice(bundle.name)
    images = test_images(choice, settings)
    judges = _Judging.of(bundle, choice.normal, choice.exclude)
    work = _Work(bundle, images, settings, judges)
    rows = [(yield from work.row("f-score"))]
    work.choose()
    methods = [m for m in methods_of(bundle) if m != "f-score" and work.count(m)]
    for method in methods:
        rows.append((yield from work.row(method)))
    info = read_info(bundle.name)
    facts = provenance()
    report = Report(
        experiment=experiment.name,
        title=experiment.title,
        bundle=bundle.name,
        files=dict(info["files"]),
        f_net=bundle.f_net.fingerprint,
        data=choice.data,
        normal=choice.normal,
        anomalous=tuple(sorted({_what(images, i) for i in images.anomalies})),
        size=bundle.size,
        settings=asdict(settings),
        normals=len(work.order[NORMAL]),
        anomalies=len(work.order[ANOMALOUS]),
        rows=tuple(sorted(rows, key=lambda row: list(TITLES).index(row.method))),
        judge=judges.judge() if judges.net is not None else None,
        shown=tuple(row.shown for row in work.figure.values()),
        notes=(*work.notes, *judges.notes),
        command=command,
        device=device_name(bundle.device),
        made=facts["made"],
        versions=facts["versions"],
    )
    return Outcome(report, tuple(work.figure.values()))


class _Work:
    """The images of an experiment, and what is measured on them method by method."""

    def __init__(
        self, bundle: Bundle, images: TestImages, settings: ExperimentSettings, judging: _Judging
    ) -> None:
        self.bundle, self.images, self.settings, self.judging = bundle, images, settings, judging
        self.order = {NORMAL: list(images.normals), ANOMALOUS: list(images.anomalies)}
        self.scores: dict[str, dict[int, float]] = {NORMAL: {}, ANOMALOUS: {}}  # F's, by image
        self.figure: dict[int, FigureRow] = {}
        self.notes: list[str] = []

    def count(self, method: str) -> int:
        """Images of each kind that a method gets at most."""
        few = {"article": self.settings.article_images, "anogan": self.settings.anogan_images}
        few |= dict.fromkeys(("fast", "fast-local", "refined"), self.settings.fast_images)
        most = min(few.get(method, self.settings.images), self.settings.images)
        if self.settings.only_figure and method != "f-score":
            most = min(most, max(map(len, PERCENTILES.values())))
        return most

    def choose(self) -> None:
        """Takes the figure's images by F's scores, and puts them first; what can't be read is out by now."""
        for kind, percentiles in PERCENTILES.items():
            scores = self.scores[kind]
            if len(scores) < 2:
                raise ValueError(f"Only {len(scores)} of the {kind} test images can be read: 2 are needed.")
            chosen = picks(scores, percentiles)
            self.order[kind] = [*chosen, *(i for i in scores if i not in chosen)]
            for index, percentile in sorted(chosen.items(), key=lambda pick: pick[1]):
                item = self.images.images.items[index]
                shown = Shown(kind, percentile, item.name, _what(self.images, index), scores[index])
                pixels = np.array(self.images.images.pixels(index, self.bundle.size))
                self.figure[index] = FigureRow(shown, pixels)

    def row(self, method: str) -> Generator[Stage, None, Row]:
        """Asks one method for all of its images."""
        tally, title = _Tally(), TITLES[method]
        batches = list(self._batches(method))
        total, done = sum(len(indices) for _, indices in batches), 0
        memory, warm = PeakMemory(self.bundle.device), method in SLOW
        for kind, indices in batches:
            kept, x = self._read(indices)
            if not kept:
                continue
            if not warm:  # libraries choose their kernels at the first pass
                yield from self._asked(method, x[:1], title, done, total)
                warm = True
            start = time.perf_counter()
            answers = yield from self._asked(method, x, title, done, total)
            tally.seconds += time.perf_counter() - start
            self._take(method, kind, kept, x, answers, tally)
            done += len(indices)
            if done < total:
                yield Stage(title, done, total, {})
        row = tally.row(method, described(method, self.bundle, self.settings.refine), memory.growth)
        metrics = {"image AUROC": row.score_auroc} if row.score_auroc is not None else {}
        yield Stage(title, total, total, metrics)
        return row

    def _batches(self, method: str) -> Iterator[tuple[str, Sequence[int]]]:
        """(kind, indices) of each batch, both kinds by turns."""
        size, count = BATCH.get(method, USUAL_BATCH), self.count(method)
        for start in range(0, count, size):
            for kind, order in self.order.items():
                if part := order[start : min(start + size, count)]:
                    yield kind, part

    def _read(self, indices: Sequence[int]) -> tuple[list[int], Tensor]:
        """The images that can be read, (B, 3, size, size) in [0, 1]; the others are noted, once."""
        pixels, kept, skipped = self.images.images.readable(indices, self.bundle.size)
        self.notes += [f"Left out: {why}" for _, why in skipped]
        return kept, pixels.float() / 255

    def _asked(
        self, method: str, x: Tensor, title: str, done: int, total: int
    ) -> Generator[Stage, None, list[Answer | Exception]]:
        """The answers for a batch; Stages in between, so that who consumes them can stop it."""
        stream = ask(method, x, self.bundle, self.settings.refine)
        try:
            while True:
                yield Stage(title, done, total, next(stream))
        except StopIteration as end:
            return end.value
        finally:
            stream.close()

    def _take(
        self,
        method: str,
        kind: str,
        indices: Sequence[int],
        x: Tensor,
        answers: Sequence[Answer | Exception],
        tally: _Tally,
    ) -> None:
        """Takes a batch's answers into the tally, the scores and the figure."""
        if method == "f-score":
            self.judging.before(kind, x)
        for index, image, answer in zip(indices, x, answers, strict=True):
            if not isinstance(answer, Answer):
                tally.left_out += 1
                continue
            mask = None
            if self.images.masks and answer.anomaly_map is not None:
                mask = self.images.images.mask(index, self.bundle.size)
            tally.add(kind, image, answer, mask)
            if method == "f-score":
                self.scores[kind][index] = answer.score
            elif index in self.figure and answer.anomaly_map is not None:
                self.figure[index].drawn[method] = Drawn.of(answer)
        redrawn = [i for i, a in enumerate(answers) if isinstance(a, Answer) and a.y is not None]
        if redrawn and self.judging.net is not None:
            y = torch.stack([answers[i].y for i in redrawn])
            tally.judged(kind, *self.judging.change(x[redrawn], y))


@dataclass
class _Tally:
    """What is known of a method so far: of an image numbers, and its map where there are masks."""

    seconds: float = 0.0
    left_out: int = 0
    anomalous: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    maps: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    changes: dict[str, list[float]] = field(default_factory=lambda: {NORMAL: [], ANOMALOUS: []})
    margins: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {NORMAL: [], ANOMALOUS: []})

    def add(self, kind: str, x: Tensor, answer: Answer, mask: np.ndarray | None) -> None:
        self.anomalous.append(kind == ANOMALOUS)
        self.scores.append(answer.score)
        if answer.anomaly_map is not None:
            self.peaks.append(float(answer.anomaly_map.max()))
        if mask is not None:
            self.maps.append(answer.anomaly_map.numpy().astype(np.float32))
            self.masks.append(mask)
        if answer.y is not None:
            self.changes[kind].append(float((x - answer.y).abs().mean()))

    def judged(self, kind: str, before: Tensor, after: Tensor) -> None:
        self.margins[kind] += list(zip(before.tolist(), after.tolist(), strict=True))

    def row(self, method: str, settings: str, memory: float) -> Row:
        labels = np.array(self.anomalous, bool)
        both = 0 < labels.sum() < len(labels)
        whole = bool(self.peaks) and both
        masks = np.stack(self.masks) if self.masks else None
        pixels = masks is not None and masks.any() and not masks.all()
        maps = np.stack(self.maps) if pixels else None
        return Row(
            method=method,
            settings=settings,
            normals=int((~labels).sum()),
            anomalies=int(labels.sum()),
            left_out=self.left_out,
            score_auroc=image_auroc(self.scores, labels) if both else None,
            peak_auroc=image_auroc(self.peaks, labels) if whole else None,
            pixel_auroc=pixel_auroc(maps, masks) if pixels else None,
            pixel_ap=pixel_average_precision(maps, masks) if pixels else None,
            seconds=self.seconds / max(1, len(labels) + self.left_out),
            memory_mb=memory,
            change_normal=_mean(self.changes[NORMAL]),
            change_anomalous=_mean(self.changes[ANOMALOUS]),
            judged=self._judged(),
        )

    def _judged(self) -> Judged | None:
        if not self.margins[ANOMALOUS]:
            return None
        bad = np.array(self.margins[ANOMALOUS])
        good = np.array(self.margins[NORMAL]).reshape(-1, 2)
        called, fine = bad[:, 0] < 0, good[:, 0] > 0
        return Judged(
            change=float((bad[:, 1] - bad[:, 0]).mean()),
            towards=float((bad[:, 1] > bad[:, 0]).mean()),
            called=int(called.sum()),
            flips=float((bad[called, 1] > 0).mean()) if called.any() else None,
            called_normal=int(fine.sum()),
            kept=float((good[fine, 1] > 0).mean()) if fine.any() else None,
        )


@dataclass
class _Judging:
    """The second classifier, and what it says of the images before they are redrawn."""

    net: SecondClassifier | None
    towards: str
    away: tuple[str, ...]
    notes: tuple[str, ...]
    right: dict[str, list[bool]] = field(default_factory=lambda: {NORMAL: [], ANOMALOUS: []})

    @classmethod
    def of(cls, bundle: Bundle, normal: str, exclude: Sequence[str]) -> _Judging:
        """The bundle's, if it knows the normal class and what is to be found."""
        try:
            net = bundle.require_classifier()
        except WeightsError as error:
            return cls(None, normal, (), (str(error),))
        away = net.away_from(normal, exclude)
        if away:
            return cls(net, normal, away, ())
        note = (
            f"The second classifier of '{bundle.name}' does not know '{normal}', or nothing that is "
            "anomalous beside it: train it anew."
        )
        return cls(None, normal, away, (note,))

    def before(self, kind: str, x: Tensor) -> None:
        """Counts the images that it is right about."""
        if self.net is not None:
            margin = self.net.change(x, x[:0], self.towards, self.away).before
            self.right[kind] += ((margin > 0) == (kind == NORMAL)).tolist()

    def change(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        change = self.net.change(x, y, self.towards, self.away)
        return change.before, change.after

    def judge(self) -> Judge:
        meta = self.net.meta
        return Judge(
            towards=self.towards,
            away=self.away,
            accuracy=meta.get("accuracy"),
            normal_right=float(np.mean(self.right[NORMAL])),
            anomalous_right=float(np.mean(self.right[ANOMALOUS])),
            start=str(meta.get("starting_weights", "")),
            width=self.net.features.settings.width,
        )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _what(images: TestImages, index: int) -> str:
    """The defect of an image, or its class."""
    item = images.images.items[index]
    return item.defect or item.class_name
