"""What a bundle finds and what it overlooks, measured: false alarms, spots by their size, defects by kind.

Good test images (where there are none: the held-back normal ones, which set the threshold) show how often a
normal image is called anomalous. With one foreign patch pasted into each, of a known size, they show from
which size on a spot is found, without any defect (`pasting`, from a seed that no net was trained with). A
spot counts as found where the image is called anomalous and a reported region lies on it. Where the data set
has labelled test images, each kind of defect has its own figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from anounet.bundle import Bundle
from anounet.datasets import DataError, choose, open_set
from anounet.pasting import PasteSettings, paste
from anounet.prepare.data import DataChoice
from anounet.visualization import Result, visualize_many

SIZES = (4, 6, 8, 12, 16, 24, 32)  # of spots, in pixels at a side of 96
IMAGES = 60  # normal images, and each kind of defect's, at most
FEWEST = 20  # good test images; of fewer no share is told
SEED = 20_201  # of no training


@dataclass(frozen=True)
class Reach:
    """Shares in [0, 1] on images that nothing was made from.

    Attributes:
        images: how many normal ones.
        tested: whether they are of the test split; else they are those that set the threshold.
        false_alarms: share of them that are called anomalous.
        sizes: longest extents of the pasted spots, in pixels of the image.
        found: share of the spots of each size that were found.
        defects: kind of defect, or class left out → (called anomalous, images), of the test split.
    """

    images: int
    tested: bool
    false_alarms: float
    sizes: tuple[int, ...]
    found: tuple[float, ...]
    defects: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def reliable(self) -> int | None:
        """The smallest size from which on nine of ten spots were found; None where no size is."""
        size = None
        for asked, share in zip(reversed(self.sizes), reversed(self.found), strict=True):
            if share < 0.9:
                break
            size = asked
        return size

    @classmethod
    def of(cls, bundle: Bundle, method: str) -> Reach | None:
        """What bundle.json says for a method; None where it was not measured."""
        said = bundle.info.get("reach", {})
        known = said.get(method) if isinstance(said, dict) else None
        try:
            return cls(
                int(known["images"]),
                bool(known["tested"]),
                float(known["false_alarms"]),
                tuple(map(int, known["sizes"])),
                tuple(map(float, known["found"])),
                {str(name): (int(n), int(of)) for name, (n, of) in known["defects"].items()},
            )
        except (TypeError, KeyError, ValueError, AttributeError):
            return None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class ReachStep:
    """How many images were looked at; `reach` comes with the last step."""

    done: int
    total: int
    reach: Reach | None = None


def measure_reach(
    bundle: Bundle, choice: DataChoice, held: Tensor, count: int = IMAGES
) -> Iterator[ReachStep]:
    """Measures `instant` mode on the bundle's own images.

    Args:
        held: (n, 3, size, size) in [0, 1], held-back normal images, for a data set without test images.
        count: how many of them are used, and of each kind of defect.
    """
    settings, unit = bundle.settings("instant"), bundle.size / 96
    kinds = _test_images(choice, count)
    good = kinds.pop("", held[:0])
    tested = len(good) >= FEWEST
    normal = good if tested else held[:count]
    done, total = 0, (1 + len(SIZES)) * len(normal) + sum(map(len, kinds.values()))

    def answers(images: Tensor) -> Iterator[Result]:
        for answer in visualize_many(images, bundle, settings):
            if not isinstance(answer, Result):
                raise answer
            yield answer

    alarms = 0
    for result in answers(normal):
        alarms, done = alarms + result.anomalous, done + 1
        yield ReachStep(done, total)
    found = []
    for size in SIZES:
        one = PasteSettings(share=1, most=1, thin=0, radius=(size / 2, size / 2), opacity=(1, 1))
        generator = torch.Generator().manual_seed(SEED + size)
        spotted, cover = paste(normal, normal.roll(1, dims=0), generator, one)
        hits, there = 0, cover.flatten(1).amax(dim=1) > 0  # a small one can fall between the pixels
        for result, spot in zip(answers(spotted), cover, strict=True):
            hits, done = hits + _found(result, spot[0]), done + 1
            yield ReachStep(done, total)
        found.append(round(hits / max(1, int(there.sum())), 3))
    defects = {}
    for kind, images in kinds.items():
        caught = 0
        for result in answers(images):
            caught, done = caught + result.anomalous, done + 1
            yield ReachStep(done, total)
        defects[kind] = (caught, len(images))
    sizes = tuple(round(size * unit) for size in SIZES)
    reach = Reach(len(normal), tested, round(alarms / len(normal), 3), sizes, tuple(found), defects)
    yield ReachStep(total, total, reach)


def _found(result: Result, spot: Tensor) -> bool:
    """Whether the image is called anomalous, and its map is above the limit somewhere on the spot."""
    return result.anomalous and bool((result.anomaly_map > result.limit)[spot > 0].any())


def _test_images(choice: DataChoice, count: int) -> dict[str, Tensor]:
    """Kind of defect, or class left out, or "" for good ones → test images; {} where there are none here."""
    try:
        images = open_set(choice.data, "test")
        groups: dict[str, list[int]] = {"": images.where(choice.normal, defective=False)}
        for index in images.where(choice.normal, defective=True):
            groups.setdefault(images.items[index].defect, []).append(index)
        groups |= {name: images.where(name, defective=False) for name in choice.exclude}
        return {
            kind: images.readable(choose(indices, count, choice.seed), choice.size)[0].float() / 255
            for kind, indices in sorted(groups.items())
            if indices
        }
    except (DataError, ValueError):
        return {}
