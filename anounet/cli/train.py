"""`prepare`, and its stages one at a time: `train-fnet`, `center`, `train-unet`, `train-anogan`."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anounet import metric_learning, prepare
from anounet.anogan import AnoGANSettings
from anounet.bundle import bundle_folder, copy_identity, load_bundle, read_info, save_part
from anounet.cli.common import (
    Progress,
    add_bundle,
    add_common,
    add_settings,
    device_of,
    report,
    settings_from,
)
from anounet.identity import STARTS, UNetSettings
from anounet.images import check_size
from anounet.metric_learning import FNetSettings
from anounet.prepare import DataChoice, Plan, Stage

_F_NET = {
    "width": "MobileNetV2's width, 0.5 or 1.0",
    "alpha": "α, the norm of F(x)",
    "epochs": "epochs",
    "batch": "images a step",
    "learning_rate": "learning rate of Adam with amsgrad",
}


def add_commands(commands: Any) -> None:
    everything = commands.add_parser(
        "prepare", help="make a bundle: F, C, U-Net and AnoGAN of a normal class"
    )
    _add_data(everything, need=True)
    everything.add_argument("--name", required=True, metavar="NAME", help="the bundle's name")
    add_settings(everything, FNetSettings, _F_NET)
    _add_f_net(everything)
    everything.add_argument(
        "--anogan-steps",
        type=int,
        metavar="N",
        default=AnoGANSettings.steps,
        help=f"steps of AnoGAN (default: {AnoGANSettings.steps})",
    )
    everything.add_argument(
        "--article-scale",
        type=int,
        default=Plan.article_scale,
        metavar="N",
        help="normal images redrawn in article mode for its scale, most of a minute each "
        f"on a CPU (default: {Plan.article_scale})",
    )
    everything.set_defaults(run=run_prepare)

    f_net = commands.add_parser("train-fnet", help="train F by metric learning on the normal class")
    _add_data(f_net, need=True)
    f_net.add_argument("--name", required=True, metavar="NAME", help="the bundle's name")
    add_settings(f_net, FNetSettings, _F_NET)
    _add_f_net(f_net)
    f_net.set_defaults(run=run_f_net)

    center = commands.add_parser("center", help="compute C and its threshold for a bundle's F")
    add_bundle(center, None)
    _add_data(center, need=False)
    center.set_defaults(run=run_center)

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

    gan = commands.add_parser("train-anogan", help="train AnoGAN, the rival, on the normal class")
    add_bundle(gan, None)
    _add_data(gan, need=False)
    add_settings(
        gan,
        AnoGANSettings,
        {"steps": "updates", "batch": "images a step", "learning_rate": "of Adam", "latent": "numbers in z"},
    )
    gan.set_defaults(run=run_anogan)
    for parser in (everything, f_net, center, unet, gan):
        parser.add_argument("--seed", type=int, default=None, metavar="N", help="seed (default: 0)")
        add_common(parser)


def _add_data(parser: argparse.ArgumentParser, need: bool) -> None:
    bundles = "" if need else " (default: the bundle's)"
    parser.add_argument("--data", required=need, metavar="DATASET", help=f"data set, folder or ZIP{bundles}")
    parser.add_argument("--normal", required=need, metavar="CLASS", help=f"the normal class{bundles}")
    parser.add_argument("--exclude", nargs="+", default=None, metavar="CLASS", help="classes F never sees")
    parser.add_argument(
        "--reference", metavar="DATASET", help="a second data set of classes for F to tell apart"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=None,
        metavar="N",
        help=f"images of each data set for F at most (default: {DataChoice.limit})",
    )
    parser.add_argument("--size", type=int, default=None, metavar="N", help="side in pixels (default: 96)")


def _add_f_net(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--article", action="store_true", help="the article's settings of F, 30 epochs")
    parser.add_argument(
        "--start",
        metavar="FILE",
        help="F's starting weights: a state dict of MobileNetV2 features, or 'download' "
        "(default: torchvision's where they can be downloaded, else the shipped F)",
    )


def _choice(given: argparse.Namespace) -> DataChoice:
    """The choice of data from the flags, over what the bundle says of itself."""
    base = (
        prepare.choice_of(read_info(given.bundle))
        if getattr(given, "bundle", None) and not given.data
        else None
    )
    if base is None and not (given.data and given.normal):
        raise ValueError("Name the normal class too: --data DATASET --normal CLASS.")
    exclude = {"exclude": tuple(given.exclude)} if given.exclude is not None else {}
    flags = argparse.Namespace(**{k: v for k, v in vars(given).items() if k != "exclude"})
    choice = settings_from(flags, DataChoice, base, **exclude)
    check_size(choice.size)
    return choice


def _f_net_settings(given: argparse.Namespace) -> FNetSettings:
    return settings_from(given, FNetSettings, metric_learning.ARTICLE if given.article else None)


def _command(given: argparse.Namespace) -> str:
    """The command line as typed; of files outside this folder only the names."""

    def plain(word: str) -> str:
        flag, equals, value = word.rpartition("=")
        return flag + equals + (Path(value).name if value.startswith(("/", "..")) else value)

    return shlex.join(["python", "-m", "anounet", *map(plain, given.words)])


def _follow(given: argparse.Namespace, stages: Iterable[Stage]) -> dict[str, dict[str, float]]:
    """Shows the stages' progress and gives back the last figures of each."""
    progress, last = Progress(), {}
    for stage in stages:
        progress.update(stage.name, stage.done, stage.total, **stage.metrics)
        last[stage.name] = stage.metrics
    progress.close()
    return last


def _report(given: argparse.Namespace, name: str, figures: dict[str, dict[str, float]]) -> int:
    folder = bundle_folder(name)
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    value = {"bundle": name, "files": sorted(info["files"]), "figures": figures}
    report(given, value, f"{name}: {', '.join(value['files'])} in {folder}")
    return 0


def run_prepare(given: argparse.Namespace) -> int:
    bundle_folder(given.name)
    plan = Plan(
        choice=_choice(given),
        f_net=_f_net_settings(given),
        identity=UNetSettings(seed=given.seed or 0),
        anogan=AnoGANSettings(steps=given.anogan_steps, seed=given.seed or 0),
        start=given.start,
        article_scale=given.article_scale,
    )
    figures = _follow(given, prepare.prepare(given.name, plan, _command(given), device_of(given)))
    return _report(given, given.name, figures)


def run_f_net(given: argparse.Namespace) -> int:
    bundle_folder(given.name)
    choice, settings, device = _choice(given), _f_net_settings(given), device_of(given)

    def stages() -> Iterable[Stage]:
        data = prepare.f_net_data(choice)
        for step, facts in prepare.make_f_net(data, settings, given.start, device):
            if step.model is not None:
                described = prepare.describe(choice, command=_command(given))
                save_part(given.name, f_net=step.model, meta=facts, **described)
            yield Stage("f-Net", step.step, step.total, dict(step.metrics))

    return _report(given, given.name, _follow(given, stages()))


def run_center(given: argparse.Namespace) -> int:
    """Computes C, gives the bundle the general identity U-Net where it has none, and measures the scales."""
    choice, device = _choice(given), device_of(given)
    f_net = load_bundle(given.bundle, device, only_f_net=True).f_net

    def stages() -> Iterable[Stage]:
        for progress in prepare.make_center(f_net, choice):
            if progress.center is not None:
                save_part(given.bundle, center=progress.center, **prepare.describe(choice))
            yield Stage("C", progress.done, progress.total, {})
        if load_bundle(given.bundle, "cpu").identity is None:
            copy_identity(given.bundle)
        yield from prepare.make_scales(given.bundle, choice, 0, device)

    return _report(given, given.bundle, _follow(given, stages()))


def run_unet(given: argparse.Namespace) -> int:
    choice = _choice(given)
    stages = prepare.make_identity(given.bundle, choice, settings_from(given, UNetSettings), device_of(given))
    return _report(given, given.bundle, _follow(given, stages))


def run_anogan(given: argparse.Namespace) -> int:
    choice = _choice(given)
    stages = prepare.make_anogan(given.bundle, choice, settings_from(given, AnoGANSettings), device_of(given))
    return _report(given, given.bundle, _follow(given, stages))
