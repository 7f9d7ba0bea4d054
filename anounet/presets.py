"""Data to try the method on, by name: a normal class, what F never sees, and the settings that fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anounet.datasets import is_here
from anounet.datasets.dagm import DEFECT
from anounet.datasets.download import FOLDER, SIZES
from anounet.datasets.textures import DEFECTS


@dataclass(frozen=True)
class Preset:
    """A data set, its normal class among reference classes, and what to find.

    Attributes:
        name: what the command line calls it, and the bundle made with it.
        data: the data set's name.
        normal: the normal class.
        exclude: classes that F never sees.
        anomalies: what is to be found in the test split: classes, or defects of the normal class.
        f_net_images: images that F learns from, at most.
        center_images: normal images that C and G are made from, at most.
        beta: weight of L_C in `article` mode.
        steps: of `article` mode.
        title: what pages call it.
        f_net: settings of F's training that differ from the usual ones, by their names in `FNetSettings`.
        fast: settings of `fast` mode that differ from the usual ones, by their names in `ano_unet.Settings`.
        score: what C's score goes by, one of `center.METRICS`.
    """

    name: str
    data: str
    normal: str
    exclude: tuple[str, ...]
    anomalies: tuple[str, ...]
    f_net_images: int
    center_images: int
    beta: float
    steps: int
    title: str
    f_net: Mapping[str, float] = field(default_factory=dict)
    fast: Mapping[str, float] = field(default_factory=dict)
    score: str = "l1"

    def missing(self) -> str:
        """What to do to have its data, in one sentence; "" where it is here."""
        if is_here(self.data):
            return ""
        download = f"'python -m anounet download {self.data}' gets it, or " if self.data in SIZES else ""
        return (
            f"The preset '{self.name}' needs the data set '{self.data}': {download}put it as a folder or "
            f"a ZIP of that name into the folder that ANOUNET_DATA names, or into '{FOLDER}'."
        )


# Objects differ as a whole, not by fine detail: all blocks of F are trained, and faster.
OBJECTS = {"epochs": 6, "learning_rate": 5e-4, "frozen_blocks": 0}
# One C for the image decides here: without a slack normal objects change nearly as much as anomalous ones
# (CIFAR-10's validation images, robust F, 32 horses and 32 deer: 0.89 of it, with it 0.42).
CONTENT = {"slack": 0.5}
# Of 400 validation images each: sneaker against boot 0.961 (by l1 0.932), horse against deer 0.942 (0.941).
OBJECTS_SCORE = "mahalanobis"

# β and steps are the article's ("Ano-Unet", shinmura0, Qiita 2019): 50 and 150 for CIFAR-10's photographs,
# taken for Fashion-MNIST too; 80 and 200 for DAGM's textures, taken for the embedded ones too.
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="cifar10-horse",  # the article's split; of 5,000 horses a tenth is kept for validation
            data="cifar10",
            normal="horse",
            exclude=("deer",),
            anomalies=("deer",),
            f_net_images=6000,
            center_images=5000,
            beta=50.0,
            steps=150,
            title="CIFAR-10: horse, and deer to find",
            f_net=OBJECTS,
            fast=CONTENT,
            score=OBJECTS_SCORE,
        ),
        Preset(
            name="fashion-sneaker",
            data="fashion_mnist",
            normal="sneaker",
            exclude=("ankle-boot",),
            anomalies=("ankle-boot",),
            f_net_images=6000,
            center_images=5000,
            beta=50.0,
            steps=150,
            title="Fashion-MNIST: sneaker, and ankle boots to find",
            f_net=OBJECTS,
            fast=CONTENT,
            score=OBJECTS_SCORE,
        ),
        Preset(
            name="dagm-star",
            data="dagm96",
            normal="Class4",
            exclude=(),
            anomalies=(DEFECT,),
            f_net_images=6000,
            center_images=1000,
            beta=80.0,
            steps=200,
            title="DAGM: the star texture and its defects",
        ),
        Preset(
            name="textures-streaks",
            data="textures",
            normal="streaks",
            exclude=(),
            anomalies=DEFECTS,
            f_net_images=6000,
            center_images=1000,
            beta=80.0,
            steps=200,
            title="Textures: streaks and eight kinds of defects",
        ),
    )
}


def fitting(data: str, normal: str, exclude: tuple[str, ...]) -> Preset | None:
    """The preset of a choice of data, if there is one."""
    chosen = (data, normal, frozenset(exclude))
    return next((p for p in PRESETS.values() if (p.data, p.normal, frozenset(p.exclude)) == chosen), None)
