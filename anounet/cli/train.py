"""`prepare`, and its stages one at a time: `train-fnet`, `center`, `train-instant` and the others."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from anounet import metric_learning, prepare
from anounet.anogan import AnoGANSettings
from anounet.bundle import SHIPPED, bundle_folder, copy_identity, load_bundle, read_info, save_part
from anounet.cli.common import (
    Progress,
    add_bundle,
    add_common,
    add_settings,
    command_of,
    device_of,
    modes_of,
    report,
    settings_from,
)
from anounet.datasets import DataError, open_set
from anounet.decoder import DecoderSettings
from anounet.experiments import make_classifier
from anounet.f_anogan import EncoderSettings
from anounet.identity import STARTS, UNetSettings
from anounet.images import check_size
from anounet.instant import InstantSettings
from anounet.local_centers import PatchSettings
from anounet.metric_learning import FROZEN_BLOCKS, LEARNING_RATES, ROBUST_EPS, FNetSettings
from anounet.prepare import DataChoice, Plan, Stage
from anounet.presets import PRESETS
from anounet.second_classifier import ClassifierSettings

_F_NET = {
    "width": "MobileNetV2's width, 0.5 or 1.0",
    "alpha": "α, the norm of F(x)",
    "epochs": "epochs",
    "batch": "images a step",
    "learning_rate": f"learning rate (default: {LEARNING_RATES['l2-softmax']:g} of Adam with amsgrad, "
    f"for doc {LEARNING_RATES['doc']:g} of SGD)",
    "frozen_blocks": f"first blocks, of 19, that keep their starting weights (default: {FROZEN_BLOCKS}, of a "
    "robust F none)",
    "objective": "l2-softmax, or doc: the normal class drawn together, the others told apart",
    "compactness": "λ, weight of drawing the normal class together, for doc",
    "robust_eps": "L2 radius of the adversarial images that F learns from, at 96 px; 0: from the images",
    "robust_steps": "steps to an adversarial image",
}
_INSTANT = {
    "steps": "updates",
    "batch": "images a step",
    "learning_rate": "of Adam",
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
}
# Held-back normal images that set the levels of a method's maps.
NORMALS = {"instant": 200, "anogan": 16, "f-anogan": 200, "decoder": 200}
DECODER, ENCODER = DecoderSettings(), EncoderSettings()  # what the flags change


def add_commands(commands: Any) -> None:
    everything = commands.add_parser(
        "prepare", help="make a bundle of normal images: centres, thresholds, and the U-Net of instant mode"
    )
    _add_data(everything, need=True)
    _add_count(everything, "normal images that C and the instant U-Net are made from at most")
    _add_name(everything)
    everything.add_argument(
        "--steps",
        type=int,
        default=None,
        metavar="N",
        help=f"updates of the instant U-Net (default: {InstantSettings.steps})",
    )
    everything.add_argument("--no-instant", action="store_true", help="without the U-Net of instant mode")
    own = everything.add_argument_group("an F of its own (default: the general one, no training)")
    own.add_argument("--train-fnet", action="store_true", help="train F by metric learning on these images")
    add_settings(own, FNetSettings, _F_NET)
    _add_f_net(own)
    everything.add_argument("--anogan", action="store_true", help="train AnoGAN and f-AnoGAN, rivals, too")
    everything.add_argument(
        "--anogan-steps",
        type=int,
        metavar="N",
        default=None,
        help=f"the same, with so many steps (default: {AnoGANSettings.steps})",
    )
    everything.add_argument("--decoder", action="store_true", help="train the decoder, another rival, too")
    everything.add_argument(
        "--article-scale",
        type=int,
        default=Plan.article_scale,
        metavar="N",
        help="normal images redrawn in article mode for its scale, most of a minute each "
        f"on a CPU (default: {Plan.article_scale})",
    )
    everything.set_defaults(run=run_prepare)

    f_net = commands.add_parser(
        "train-fnet", help="train F by metric learning on the normal class; goes on where it was cut off"
    )
    _add_data(f_net, need=True)
    _add_name(f_net)
    add_settings(f_net, FNetSettings, _F_NET)
    _add_f_net(f_net)
    f_net.add_argument("--fresh", action="store_true", help="start anew, whatever was begun before")
    f_net.set_defaults(run=run_f_net)

    center = commands.add_parser("center", help="compute both kinds of C, and thresholds, for a bundle's F")
    add_bundle(center, None)
    _add_data(center, need=False)
    _add_count(center, "normal images that both kinds of C are computed from at most")
    center.set_defaults(run=run_center)

    instant = commands.add_parser(
        "train-instant", help="train the U-Net of instant mode; goes on where it was cut off"
    )
    add_bundle(instant, None)
    _add_data(instant, need=False)
    _add_count(instant, "images to train on at most, of those that the local centres were made from")
    add_settings(instant, InstantSettings, _INSTANT)
    instant.add_argument("--fresh", action="store_true", help="start anew, whatever was begun before")
    instant.set_defaults(run=run_instant)

    unet = commands.add_parser("train-unet", help="make the small U-Net that redraws images unchanged")
    add_bundle(unet, None)
    _add_data(unet, need=False)
    unet.add_argument(
        "--start",
        choices=STARTS,
        default=None,
        help=f"image skip, or trained to copy (default: {UNetSettings.start})",
    )
    add_settings(
        unet,
        UNetSettings,
        {"steps": "updates, for trained", "batch": "images a step", "learning_rate": "of Adam"},
    )
    unet.set_defaults(run=run_unet)

    gan = commands.add_parser(
        "train-anogan", help="train AnoGAN, a rival, on the normal class; goes on where it was cut off"
    )
    add_bundle(gan, None)
    _add_data(gan, need=False)
    add_settings(
        gan,
        AnoGANSettings,
        {"steps": "updates", "batch": "images a step", "learning_rate": "of Adam", "latent": "numbers in z"},
    )
    gan.add_argument("--encoder", action="store_true", help="and then f-AnoGAN's encoder for it")
    gan.add_argument("--fresh", action="store_true", help="start anew, whatever was begun before")
    gan.set_defaults(run=run_anogan)

    decoder = commands.add_parser(
        "train-decoder", help="train the decoder, a rival, on the normal class; goes on where it was cut off"
    )
    add_bundle(decoder, None)
    _add_data(decoder, need=False)
    _add_count(decoder, "images to train on at most, of those that C was made from")
    add_settings(
        decoder,
        DecoderSettings,
        {"steps": "updates", "batch": "images a step", "learning_rate": "of Adam"},
    )
    decoder.add_argument("--fresh", action="store_true", help="start anew, whatever was begun before")
    decoder.set_defaults(run=run_decoder)

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
    add_settings(
        classifier,
        ClassifierSettings,
        {
            "width": "MobileNetV2's width; another one than F's",
            "images": "images of all classes at most, drawn at random",
            "steps": "updates",
            "batch": "images a step",
            "learning_rate": "of Adam",
            "shift": "pixels that an image is moved by at most",
        },
    )
    classifier.add_argument("--fresh", action="store_true", help="start anew, whatever was begun before")
    classifier.set_defaults(run=run_classifier)
    for parser in (everything, f_net, center, instant, unet, gan, decoder, classifier):
        parser.add_argument("--seed", type=int, default=None, metavar="N", help="seed (default: 0)")
        add_common(parser)


def _add_data(parser: argparse.ArgumentParser, need: bool) -> None:
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
    parser.add_argument("--exclude", nargs="+", default=None, metavar="CLASS", help="classes F never sees")
    parser.add_argument(
        "--reference", metavar="DATASET", help="a second data set of classes for F to tell apart"
    )
    parser.add_argument(
        "--limit",
        type=_limit,
        default=None,
        metavar="N|all",
        help=f"images of each data set for F at most, drawn at random (default: {DataChoice.limit}); 0 or "
        "all: every one",
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


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="NAME", help="the bundle's name (default: the preset's)")


def _add_count(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "--count", type=int, default=None, metavar="N", help=f"{text} (default: {DataChoice.count})"
    )


def _add_f_net(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--article", action="store_true", help="the article's settings of F, 30 epochs")
    parser.add_argument(
        "--robust",
        action="store_true",
        help=f"a robust F, the same as --robust-eps {ROBUST_EPS:g}: changes come to lie on the object; takes "
        "twice as long",
    )
    parser.add_argument(
        "--start",
        metavar="FILE|BUNDLE",
        help="F's starting weights: a state dict of MobileNetV2 features, a bundle whose F to go on from, or "
        "'download' (default: torchvision's where they can be downloaded, else the shipped F)",
    )


def _choice(given: argparse.Namespace) -> DataChoice:
    """The choice of data from the flags, over what the bundle says of itself."""
    info = read_info(given.bundle) if getattr(given, "bundle", None) else None
    preset = _preset(given)
    base = prepare.choice_of(info) if info and not given.data else preset
    if base is None and not given.data:
        raise DataError("There is no data to learn from: name it with --data, or choose a --preset.")
    changes: dict[str, Any] = {}
    if given.size is not None or info:
        changes["size"] = check_size(info["size"] if given.size is None else given.size)
    if given.limit == 0:
        changes["limit"] = None
    if given.exclude is not None:
        changes["exclude"] = tuple(given.exclude)
    if base is None and given.normal is None:
        changes["normal"] = _only_class(given.data)
    flags = argparse.Namespace(**{k: v for k, v in vars(given).items() if k not in changes})
    choice = settings_from(flags, DataChoice, base, **changes)
    if given.normal is None and given.exclude is None:
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


def _name(given: argparse.Namespace) -> str:
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


def _f_net_settings(given: argparse.Namespace) -> FNetSettings:
    base = metric_learning.ARTICLE if given.article else FNetSettings()
    return settings_from(given, FNetSettings, replace(base, robust_eps=ROBUST_EPS) if given.robust else base)


def _follow(given: argparse.Namespace, stages: Iterable[Stage]) -> dict[str, dict[str, float]]:
    """Shows the stages' progress and gives back the last figures of each."""
    progress, last = Progress(), {}
    try:
        for stage in stages:
            for note in stage.notes:
                progress.note(note)
            progress.update(stage.name, stage.done, stage.total, **stage.metrics)
            last[stage.name] = stage.metrics
    finally:
        progress.close()
    return last


def _report(given: argparse.Namespace, name: str, figures: dict[str, dict[str, float]]) -> int:
    folder = bundle_folder(name)
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    files, modes = sorted(info["files"]), modes_of(info["files"])
    value = {"bundle": name, "files": files, "modes": modes, "figures": figures}
    shown = f" ({', '.join(modes)})" if modes else ""
    report(given, value, f"{name}{shown}: {', '.join(files)} in {folder}")
    return 0


def _resumable(given: argparse.Namespace, name: str, stages: Iterator[Stage]) -> int:
    """Runs stages that the same command can go on with after Ctrl-C, and says so then."""
    try:
        with closing(stages):
            figures = _follow(given, stages)
    except KeyboardInterrupt:
        print(
            f"anounet: stopped; what was finished is kept in '{name}', and the same command goes on from "
            "the last checkpoint.",
            file=sys.stderr,
        )
        return 130
    return _report(given, name, figures)


def run_prepare(given: argparse.Namespace) -> int:
    name = _name(given)
    own_f_net = [flag for flag in (*_F_NET, "start") if getattr(given, flag) is not None]
    own_f_net += [flag for flag in ("article", "robust") if getattr(given, flag)]
    if own_f_net and not given.train_fnet:
        flag = own_f_net[0].replace("_", "-")
        raise ValueError(f"--{flag} is about an F of its own: add --train-fnet.")
    seed = given.seed or 0
    instant = {"seed": seed} if given.steps is None else {"seed": seed, "steps": given.steps}
    anogan = None
    if given.anogan or given.anogan_steps is not None:
        steps = AnoGANSettings.steps if given.anogan_steps is None else given.anogan_steps
        anogan = AnoGANSettings(steps=steps, seed=seed)
    plan = Plan(
        choice=_choice(given),
        f_net=_f_net_settings(given) if given.train_fnet else None,
        instant=None if given.no_instant else InstantSettings(**instant),
        anogan=anogan,
        encoder=replace(ENCODER, seed=seed) if anogan else None,
        decoder=replace(DECODER, seed=seed) if given.decoder else None,
        start=given.start,
        article_scale=given.article_scale,
    )
    stages = prepare.prepare(name, plan, command_of(given), device_of(given))
    return _resumable(given, name, stages)


def run_f_net(given: argparse.Namespace) -> int:
    name, choice, device = _name(given), _choice(given), device_of(given)
    own = prepare.own_settings(choice)
    stages = prepare.make_f_net(
        name,
        choice,
        _f_net_settings(given),
        given.start,
        device,
        prepare.describe(choice, command=command_of(given), settings=own),
        resume=not given.fresh,
    )
    return _resumable(given, name, stages)


def run_center(given: argparse.Namespace) -> int:
    """Computes C, gives the bundle the general identity U-Net where it has none, and measures the scales."""
    choice, device = _choice(given), device_of(given)

    def stages() -> Iterable[Stage]:
        yield from prepare.make_centers(given.bundle, choice, PatchSettings(), device)
        if load_bundle(given.bundle, "cpu").identity is None:
            copy_identity(given.bundle)
        yield from prepare.make_scales(given.bundle, choice, 0, device)

    return _report(given, given.bundle, _follow(given, stages()))


def run_instant(given: argparse.Namespace) -> int:
    """Trains the U-Net of instant mode, and measures the levels of its maps."""
    choice, settings, device = _own_choice(given), settings_from(given, InstantSettings), device_of(given)
    stages = prepare.make_instant(given.bundle, choice, settings, device, resume=not given.fresh)
    return _resumable(given, given.bundle, _measured(given, choice, stages, "instant"))


def _own_choice(given: argparse.Namespace) -> DataChoice:
    """The choice of data, at the bundle's own size."""
    choice, size = _choice(given), read_info(given.bundle)["size"]
    if choice.size != size:
        raise ValueError(
            f"The bundle '{given.bundle}' works at {size} px and not at {choice.size}: leave --size out, or "
            "prepare another bundle."
        )
    return choice


def _measured(
    given: argparse.Namespace, choice: DataChoice, stages: Iterator[Stage], *methods: str
) -> Iterator[Stage]:
    """The stages of methods' training, and then the levels of their maps, which are saved."""
    yield from stages
    yield Stage("scales", 0, 1, {})
    bundle, counts = load_bundle(given.bundle, device_of(given)), {m: NORMALS[m] for m in methods}
    normals = prepare.held_back_normals(choice, max(counts.values()), bundle.local or bundle.center)
    levels = prepare.measure_levels(bundle, normals, counts)
    save_part(given.bundle, scales=levels.scales, limits=levels.limits)
    yield Stage("scales", 1, 1, {})


def run_unet(given: argparse.Namespace) -> int:
    choice = _choice(given)
    stages = prepare.make_identity(given.bundle, choice, settings_from(given, UNetSettings), device_of(given))
    return _report(given, given.bundle, _follow(given, stages))


def run_anogan(given: argparse.Namespace) -> int:
    """Trains AnoGAN, and f-AnoGAN's encoder where that is wanted, and measures the levels of their maps."""
    choice, settings, device = _own_choice(given), settings_from(given, AnoGANSettings), device_of(given)
    methods = ("anogan", "f-anogan") if given.encoder else ("anogan",)

    def stages() -> Iterator[Stage]:
        again = {"resume": not given.fresh}
        yield from prepare.make_anogan(given.bundle, choice, settings, device, **again)
        if given.encoder:
            encoder = replace(ENCODER, seed=settings.seed)
            yield from prepare.make_encoder(given.bundle, choice, encoder, device, **again)

    return _resumable(given, given.bundle, _measured(given, choice, stages(), *methods))


def run_decoder(given: argparse.Namespace) -> int:
    """Trains the decoder, and measures the levels of its map."""
    choice, settings, device = (
        _own_choice(given),
        settings_from(given, DecoderSettings, DECODER),
        device_of(given),
    )
    stages = prepare.make_decoder(given.bundle, choice, settings, device, resume=not given.fresh)
    return _resumable(given, given.bundle, _measured(given, choice, stages, "decoder"))


def run_classifier(given: argparse.Namespace) -> int:
    """Trains the second classifier on all classes of the bundle's data set."""
    choice = prepare.choice_of(read_info(given.bundle))
    stages = make_classifier(
        given.bundle,
        choice,
        settings_from(given, ClassifierSettings),
        given.start,
        device_of(given),
        resume=not given.fresh,
    )
    return _resumable(given, given.bundle, stages)
