"""The stages of `prepare` one at a time: `center`, `train-instant`, `train-anogan` and the others."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from anounet import distributed, prepare
from anounet.anogan import AnoGANSettings
from anounet.bundle import DRAWS, load_bundle, read_info
from anounet.cli.choice import add_count, add_data, add_score, choice_from, own_choice
from anounet.cli.common import (
    add_bundle,
    add_common,
    add_fresh,
    add_settings,
    device_of,
    follow,
    report_bundle,
    resumable,
    resumes,
    settings_from,
    table,
    together,
)
from anounet.decoder import DecoderSettings
from anounet.experiments import make_classifier
from anounet.f_anogan import EncoderSettings
from anounet.identity import STARTS, UNetSettings
from anounet.instant import InstantSettings
from anounet.local_centers import PatchSettings
from anounet.prepare import NORMALS, DataChoice, Reach, Stage
from anounet.second_classifier import ClassifierSettings

_TRAINING = {"steps": "updates", "batch": "images a step", "learning_rate": "of Adam"}
_UNET = _TRAINING | {
    "steps": "updates, for trained",
    "width": "channels at the finest level",
    "depth": "levels",
}
_INSTANT = _TRAINING | {
    "width": "channels at the finest level",
    "depth": "levels",
    "keep": "weight of keeping what is normal",
    "beta": "β, weight of L_C",
    "beta_foreign": "weight of L_C where something foreign was",
    "margin": "quantile of normal patches that repaired ones come under",
    "image": "weight of the repaired pixels",
    "features": "weight of the repaired patches' features",
    "gate": "weight of where to redraw",
    "shift": "pixels that F's window moves by, at most",
    "still": "share of the steps before it moves",
}
_CLASSIFIER = _TRAINING | {
    "width": "MobileNetV2's width; another one than F's",
    "images": "images of all classes at most, drawn at random",
    "shift": "pixels that an image is moved by at most",
}


@dataclass(frozen=True)
class RivalCommand:
    """A rival's part: what trains it, whose map is measured then, and its settings before the flags."""

    help: str
    make: Callable[..., Iterator[Stage]]
    method: str
    settings: Any
    flags: dict[str, str]


RIVAL_COMMANDS = {
    "train-anogan": RivalCommand(
        "train AnoGAN, a rival, on the normal class",
        prepare.make_anogan,
        "anogan",
        AnoGANSettings(),
        _TRAINING | {"latent": "numbers in z"},
    ),
    "train-encoder": RivalCommand(
        "train f-AnoGAN's encoder, another rival, for the bundle's AnoGAN",
        prepare.make_encoder,
        "f-anogan",
        EncoderSettings(),
        _TRAINING,
    ),
    "train-decoder": RivalCommand(
        "train the decoder, another rival, on the normal class",
        prepare.make_decoder,
        "decoder",
        DecoderSettings(),
        _TRAINING
        | {
            "hidden": "outputs of the first linear layer; the second one makes most of the file's size",
            "width": "channels at an eighth of the side",
        },
    ),
}


def add_commands(commands: Any) -> None:
    center = commands.add_parser("center", help="compute both kinds of C, and thresholds, for a bundle's F")
    add_bundle(center, None)
    add_data(center, "exclude", "reference")
    add_count(center, "normal images that both kinds of C are computed from at most")
    add_score(center)
    center.set_defaults(run=run_center)
    add_common(center, seed=True)

    unet = commands.add_parser(
        "train-unet",
        help="make a small U-Net of the bundle's own that redraws images unchanged; the general one does too",
    )
    add_bundle(unet, None)
    add_data(unet, "reference")
    unet.add_argument(
        "--start",
        choices=STARTS,
        default=None,
        help=f"image skip, or trained to copy (default: {UNetSettings.start})",
    )
    add_settings(unet, UNetSettings, _UNET)
    unet.set_defaults(run=run_unet)
    _add_fresh(unet)

    instant = commands.add_parser(
        "train-instant", help="train the U-Net of instant mode; goes on where it was cut off"
    )
    add_bundle(instant, None)
    add_data(instant)
    add_count(instant, "images to train on at most, of those that the local centres were made from")
    add_settings(instant, InstantSettings, _INSTANT)
    instant.set_defaults(run=run_instant)
    _add_fresh(instant)

    for name, rival in RIVAL_COMMANDS.items():
        parser = commands.add_parser(name, help=f"{rival.help}; goes on where it was cut off")
        add_bundle(parser, None)
        add_data(parser)
        add_count(parser, "images to train on at most, of those that C was made from")
        add_settings(parser, type(rival.settings), rival.flags)
        if name == "train-anogan":
            parser.add_argument("--encoder", action="store_true", help="and then f-AnoGAN's encoder for it")
        parser.set_defaults(run=run_rival, rival=name)
        _add_fresh(parser)

    classifier = commands.add_parser(
        "train-classifier",
        help="train the second classifier, which says whether a change is real; goes on where it was cut off",
    )
    add_bundle(classifier, None)
    classifier.add_argument(
        "--start",
        metavar="FILE",
        help="starting weights: a state dict of MobileNetV2 features, or 'download' for those of width 1.0",
    )
    add_settings(classifier, ClassifierSettings, _CLASSIFIER)
    classifier.set_defaults(run=run_classifier)
    _add_fresh(classifier)

    reach = commands.add_parser(
        "reach", help="measure what a bundle finds in instant mode: false alarms, spots by size, defects"
    )
    add_bundle(reach, None)
    add_data(reach)
    reach.set_defaults(run=run_reach)
    add_common(reach)


def _add_fresh(parser: argparse.ArgumentParser) -> None:
    """The flags of a training; several processes can share its work."""
    parser.set_defaults(parallel=True)
    add_fresh(parser)
    add_common(parser, seed=True)


def run_center(given: argparse.Namespace) -> int:
    """Computes both kinds of C, and measures the scales."""
    choice, device = choice_from(given), device_of(given)

    def stages() -> Iterable[Stage]:
        yield from prepare.make_centers(given.bundle, choice, PatchSettings(), device, metric=given.score)
        yield from prepare.make_scales(given.bundle, choice, device)

    return report_bundle(given, given.bundle, follow(stages()))


def _train(
    given: argparse.Namespace,
    choice: DataChoice,
    trainings: Iterable[tuple[Callable[..., Iterator[Stage]], Any]],
    *methods: str,
) -> int:
    """Trains parts one after the other, and measures the levels of methods' maps.

    What was trained to its end and then not measured is kept: it was cut off after that.
    """
    name, device = given.bundle, device_of(given)
    resume = resumes(given)
    keep = resume and prepare.unmeasured(name, *methods)

    def stages() -> Iterator[Stage]:
        for make, settings in trainings:
            yield from make(name, choice, settings, device, resume=resume, keep=keep)

    def measured() -> Iterator[Stage]:
        yield from together(device, stages())
        if distributed.first():
            levels = {method: NORMALS[method] for method in methods}
            yield from prepare.make_scales(name, choice, device, levels)

    return resumable(given, name, measured())


def run_unet(given: argparse.Namespace) -> int:
    settings = settings_from(given, UNetSettings)
    return _train(given, choice_from(given), [(prepare.make_identity, settings)], *DRAWS["identity"])


def run_instant(given: argparse.Namespace) -> int:
    settings = settings_from(given, InstantSettings)
    return _train(given, own_choice(given), [(prepare.make_instant, settings)], "instant")


def run_rival(given: argparse.Namespace) -> int:
    """Trains a rival's part; f-AnoGAN's encoder after its GAN, where that is wanted."""
    rival = RIVAL_COMMANDS[given.rival]
    settings = settings_from(given, type(rival.settings), rival.settings)
    trainings, methods = [(rival.make, settings)], [rival.method]
    if getattr(given, "encoder", False):
        encoder = RIVAL_COMMANDS["train-encoder"]
        trainings.append((encoder.make, replace(encoder.settings, seed=settings.seed)))
        methods.append(encoder.method)
    return _train(given, own_choice(given), trainings, *methods)


def run_reach(given: argparse.Namespace) -> int:
    """Measures what a bundle finds, saves it in bundle.json, and prints it."""
    follow(prepare.make_reach(given.bundle, own_choice(given), device_of(given)))
    reach = Reach.of(load_bundle(given.bundle, "cpu"), "instant")
    shares = {"good, of the test split" if reach.tested else "held-back normal": reach.false_alarms}
    shares |= {f"spot of {size} px": share for size, share in zip(reach.sizes, reach.found, strict=True)}
    rows = [
        {"image": name, "called anomalous": f"{share:.0%}", "images": reach.images}
        for name, share in shares.items()
    ]
    rows += [
        {"image": kind, "called anomalous": f"{caught / count:.0%}", "images": count}
        for kind, (caught, count) in reach.defects.items()
    ]
    print(table(rows))
    return 0


def run_classifier(given: argparse.Namespace) -> int:
    """Trains the second classifier on all classes of the bundle's data set."""
    device = device_of(given)
    stages = make_classifier(
        given.bundle,
        prepare.choice_of(read_info(given.bundle)),
        settings_from(given, ClassifierSettings),
        given.start,
        device,
        resume=resumes(given),
    )
    return resumable(given, given.bundle, together(device, stages))
