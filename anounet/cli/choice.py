"""Which images: flags that choose data, and the bundle that they are for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from anounet import prepare
from anounet.bundle import SHIPPED, bundle_folder, read_info
from anounet.center import METRICS
from anounet.cli.common import settings_from
from anounet.datasets import DataError, open_set
from anounet.images import check_size
from anounet.prepare import DataChoice
from anounet.presets import PRESETS


def add_data(parser: argparse.ArgumentParser, *more: str, need: bool = False) -> None:
    """Adds the flags that choose data.

    Args:
        more: of "exclude", "reference" and "limit" those that mean something to the command.
        need: there is no bundle yet that could say what it is of.
    """
    bundles = "" if need else " (default: the bundle's)"
    usual_class = "" if need else "the bundle's, or "
    usual_size = str(DataChoice.size) if need else "the bundle's"
    if need:
        parser.add_argument(
            "--preset", choices=PRESETS, help="data set, classes and numbers by name; other flags go over it"
        )
    parser.add_argument(
        "--data",
        metavar="DATASET",
        help=f"data set by name, or a folder or ZIP of images, of classes, of MVTec AD or of DAGM{bundles}",
    )
    parser.add_argument(
        "--normal",
        metavar="CLASS",
        help=f"the normal class (default: {usual_class}the only one there is)",
    )
    if "exclude" in more:
        parser.add_argument(
            "--exclude", nargs="+", default=None, metavar="CLASS", help="classes F never sees"
        )
    if "reference" in more:
        parser.add_argument(
            "--reference", metavar="DATASET", help="a second data set of classes for F to tell apart"
        )
    if "limit" in more:
        parser.add_argument(
            "--limit",
            type=_limit,
            default=None,
            metavar="N|all",
            help="images of each data set for F at most, drawn at random "
            f"(default: {DataChoice.limit}); 0 or all: every one",
        )
    parser.add_argument(
        "--size",
        type=int,
        default=None,
        metavar="N",
        help=f"side in pixels, a multiple of 16: 96, 128, 192, 256, … (default: {usual_size})",
    )


def _limit(text: str) -> int:
    """A number of images; 0 for "all"."""
    try:
        return 0 if text == "all" else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a number of images or 'all', not '{text}'") from error


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="NAME", help="the bundle's name (default: the preset's)")


def add_count(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "--count", type=int, default=None, metavar="N", help=f"{text} (default: {DataChoice.count})"
    )


def add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--score",
        choices=METRICS,
        default=None,
        help="what an image's score goes by: "
        + "; ".join(f"{name}, {what}" for name, what in METRICS.items())
        + " (default: the one there is, or the preset's, else l1, the article's)",
    )


def choice_from(given: argparse.Namespace) -> DataChoice:
    """The choice of data from the flags, over what the bundle says of itself."""
    info = read_info(given.bundle) if getattr(given, "bundle", None) else None
    preset, exclude = _preset(given), getattr(given, "exclude", None)
    base = prepare.choice_of(info) if info and not given.data else preset
    if base is None and not given.data:
        raise DataError("There is no data to learn from: name it with --data, or choose a --preset.")
    changes: dict[str, Any] = {}
    if given.size is not None or info:
        changes["size"] = check_size(info["size"] if given.size is None else given.size)
    if getattr(given, "limit", None) == 0:
        changes["limit"] = None
    if exclude is not None:
        changes["exclude"] = tuple(exclude)
    if base is None and given.normal is None:
        changes["normal"] = _only_class(given.data)
    flags = argparse.Namespace(**{k: v for k, v in vars(given).items() if k not in changes})
    choice = settings_from(flags, DataChoice, base, **changes)
    if given.normal is None and exclude is None:
        return choice
    images = open_set(choice.data, "train")
    named = [images.class_named(name) for name in (choice.normal, *choice.exclude)]
    return replace(choice, normal=named[0], exclude=tuple(named[1:]))


def _preset(given: argparse.Namespace) -> DataChoice | None:
    """The choice of data of the preset that was named; other flags go over it."""
    if getattr(given, "preset", None) is None:
        return None
    preset = PRESETS[given.preset]
    if not given.data and preset.missing():
        raise DataError(preset.missing())
    return prepare.choice_of_preset(preset)


def name_from(given: argparse.Namespace) -> str:
    """The new bundle's name: the one given, or else the preset's."""
    name = given.name or given.preset
    if given.name is None and name == SHIPPED:
        raise ValueError(f"'{name}' is the shipped bundle's name too: give another one with --name.")
    if name is None:
        raise ValueError("The new bundle needs a name: give it one with --name.")
    bundle_folder(name)
    return name


def _only_class(data: str) -> str:
    classes = open_set(data, "train").classes
    if len(classes) != 1:
        raise DataError(
            f"'{data}' has {len(classes)} classes: name the normal one with --normal ({', '.join(classes)})."
        )
    return classes[0]


def own_choice(given: argparse.Namespace) -> DataChoice:
    """The choice of data, at the bundle's own size."""
    choice, size = choice_from(given), read_info(given.bundle)["size"]
    if choice.size != size:
        raise ValueError(
            f"The bundle '{given.bundle}' works at {size} px and not at {choice.size}: leave --size out, or "
            "prepare another bundle."
        )
    return choice
