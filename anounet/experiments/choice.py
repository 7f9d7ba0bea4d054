"""Which experiment: a preset's or a bundle's own, its bundles, and the test images that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from anounet.bundle import Bundle, bundle_folder, bundle_names, load_bundle, read_info
from anounet.datasets import DataError, ImageSet, choose, open_set
from anounet.prepare import DataChoice, choice_of, choice_of_preset
from anounet.presets import PRESETS, Preset
from anounet.storage import WeightsError

ALIASES = {"dagm": "dagm-star"}
PLAIN = "plain"
VARIANTS = {"robust": "--train-fnet --robust"}  # bundles NAME-variant, and what `prepare` needs to make them
MIN_IMAGES = 2  # of each kind
LARGEST = 100_000
REPORTED, CHOOSING = "test", "validation"  # splits: for figures to report, and to choose settings by


@dataclass(frozen=True)
class ExperimentSettings:
    """How many images, and how they are chosen."""

    images: int = 200  # test images of each kind, normal and anomalous, at most
    fast_images: int = 200  # of these where each is optimised for: fast mode, and refining; 0: without them
    article_images: int = 5  # of these in article mode, most of a minute each on a CPU; 0: without it
    anogan_images: int = 50  # of these for AnoGAN, whose search takes seconds each on a CPU; 0: without it
    refine: int = 10  # refining steps after instant mode
    seed: int = 0  # of the choice of images
    only_figure: bool = False  # redraw only the images that the figure shows
    split: str = REPORTED

    def __post_init__(self) -> None:
        if self.split not in (REPORTED, CHOOSING):
            raise ValueError(f"The split must be '{REPORTED}' or '{CHOOSING}', not '{self.split}'.")
        for name, value, low, high in (
            ("test images of each kind", self.images, MIN_IMAGES, LARGEST),
            ("images in fast mode", self.fast_images, 0, LARGEST),
            ("images in article mode", self.article_images, 0, LARGEST),
            ("images for AnoGAN", self.anogan_images, 0, LARGEST),
            ("refining steps", self.refine, 1, 1000),
        ):
            if not low <= value <= high:
                raise ValueError(f"The number of {name} must lie between {low} and {high}, not {value}.")


@dataclass(frozen=True)
class Experiment:
    """One normal class, and what is to be found beside it.

    Attributes:
        name: a preset's, or a bundle's.
        preset: the preset, where there is one.
    """

    name: str
    preset: Preset | None

    @property
    def title(self) -> str:
        return self.preset.title if self.preset else self.name

    def bundles(self, variant: str | None = None) -> list[str]:
        """The bundles to report, the plain one first.

        Args:
            variant: "plain" or one of `VARIANTS` alone; None: all there are.

        Raises:
            WeightsError: there is none, with the command that makes it.
        """
        wanted = [PLAIN, *VARIANTS] if variant is None else [variant]
        names = {each: self.name if each == PLAIN else f"{self.name}-{each}" for each in wanted}
        there = [names[each] for each in wanted if names[each] in bundle_names()]
        if not there:
            raise WeightsError(
                f"There is no bundle '{names[wanted[0]]}' yet: '{self.command(wanted[0])}' makes it."
            )
        return there

    def command(self, variant: str = PLAIN) -> str:
        """The `prepare` command that makes its bundle."""
        words = ["python -m anounet prepare"]
        if self.preset is not None:
            words += ["--preset", self.preset.name]
        else:
            words += ["--data DATASET", "--normal CLASS"]
        own = "--train-fnet" if self.preset is not None and self.preset.exclude else ""
        words += [VARIANTS.get(variant, own), "--anogan --decoder"]
        if variant != PLAIN or self.preset is None:
            words += ["--name", self.name if variant == PLAIN else f"{self.name}-{variant}"]
        return " ".join(filter(None, words))

    def judged(self, bundle: Bundle) -> Bundle:
        """A variant with the plain bundle's second classifier, where it has none of its own."""
        if bundle.classifier is not None or bundle.name == self.name or self.name not in bundle_names():
            return bundle
        plain = load_bundle(self.name, bundle.device)
        same = all(plain.info.get(key) == bundle.info.get(key) for key in ("data", "normal"))
        return replace(bundle, classifier=plain.classifier) if same else bundle

    def choice(self, bundle: str) -> DataChoice:
        """The data that a bundle of it is of, if it is this experiment's.

        Raises:
            DataError: it is not, or its data set is not on this machine.
        """
        choice = choice_of(read_info(bundle))
        if self.preset is not None:
            wanted = choice_of_preset(self.preset)
            if (choice.normal, set(choice.exclude)) != (wanted.normal, set(wanted.exclude)):
                raise DataError(
                    f"The bundle '{bundle}' is of '{choice.normal}' and the experiment '{self.name}' of "
                    f"'{wanted.normal}', or other classes were left out: '{self.command()}' makes the right "
                    "one."
                )
            if choice.data == self.preset.data and self.preset.missing():
                raise DataError(self.preset.missing())
        return choice


def experiment(name: str) -> Experiment:
    """The experiment of a name: a preset's, or else that of a bundle, which says itself what it is of.

    Raises:
        ValueError: neither.
    """
    name = ALIASES.get(name, name)
    if name in PRESETS:
        return Experiment(name, PRESETS[name])
    if "/" not in name and (bundle_folder(name) / "bundle.json").is_file():
        return Experiment(name, None)
    raise ValueError(
        f"There is no experiment '{name}': choose {', '.join(PRESETS)}, or the name of a bundle that is here."
    )


@dataclass(frozen=True)
class TestImages:
    """The images of an experiment; nothing was trained or chosen on those of the test split."""

    images: ImageSet
    normals: Sequence[int]
    anomalies: Sequence[int]
    masks: bool  # whether it is known which pixels are anomalous


def test_images(choice: DataChoice, settings: ExperimentSettings) -> TestImages:
    """Normal images, and the anomalous ones: defects of the normal class, and all of the classes left out.

    Raises:
        DataError: too few of either.
    """
    images = open_set(choice.data, settings.split)
    images.check_classes([choice.normal, *choice.exclude])
    normals = images.where(choice.normal, defective=False)
    anomalies = images.where(choice.normal, defective=True)
    for name in choice.exclude:
        anomalies += images.where(name, defective=False)
    if min(len(normals), len(anomalies)) < MIN_IMAGES:
        raise DataError(
            f"The {settings.split} split of '{choice.data}' has {len(normals)} normal images of "
            f"'{choice.normal}' and {len(anomalies)} anomalous ones, and {MIN_IMAGES} or more of each are "
            "needed: take another class."
        )
    return TestImages(
        images,
        choose(normals, settings.images, settings.seed),
        choose(anomalies, settings.images, settings.seed),
        images.has_masks and not choice.exclude,
    )
