"""`prepare`, which makes a bundle, and `train-fnet`, which trains its F alone."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from anounet import metric_learning, prepare
from anounet.anogan import AnoGANSettings
from anounet.cli.choice import add_count, add_data, add_name, add_score, choice_from, name_from
from anounet.cli.common import (
    add_common,
    add_fresh,
    add_settings,
    command_of,
    device_of,
    resumable,
    resumes,
    settings_from,
    together,
)
from anounet.decoder import DecoderSettings
from anounet.f_anogan import EncoderSettings
from anounet.instant import InstantSettings
from anounet.metric_learning import FROZEN_BLOCKS, LEARNING_RATES, ROBUST_EPS, FNetSettings
from anounet.prepare import Plan
from anounet.presets import PRESETS

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
    "augment": "mirror images half of the time, and move them by up to an eighth of their side",
    "decay": "let the learning rate fall to 0 along a half cosine",
}
DECODER, ENCODER = DecoderSettings(), EncoderSettings()


def add_commands(commands: Any) -> None:
    everything = commands.add_parser(
        "prepare", help="make a bundle of normal images: centres, thresholds, and the U-Net of instant mode"
    )
    add_data(everything, "exclude", "reference", "limit", need=True)
    add_count(everything, "normal images that C, the instant U-Net and the rivals are made from at most")
    add_name(everything)
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
    add_score(everything)
    everything.set_defaults(run=run_prepare)

    f_net = commands.add_parser(
        "train-fnet", help="train F by metric learning on the normal class; goes on where it was cut off"
    )
    add_data(f_net, "exclude", "reference", "limit", need=True)
    add_name(f_net)
    add_settings(f_net, FNetSettings, _F_NET)
    _add_f_net(f_net)
    add_fresh(f_net)
    f_net.set_defaults(run=run_f_net, parallel=True)
    for parser in (everything, f_net):
        add_common(parser, seed=True)


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


def _f_net_settings(given: argparse.Namespace) -> FNetSettings:
    base = FNetSettings(**PRESETS[given.preset].f_net) if given.preset else FNetSettings()
    base = metric_learning.ARTICLE if given.article else base
    return settings_from(given, FNetSettings, replace(base, robust_eps=ROBUST_EPS) if given.robust else base)


def run_prepare(given: argparse.Namespace) -> int:
    name = name_from(given)
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
        choice=choice_from(given),
        f_net=_f_net_settings(given) if given.train_fnet else None,
        instant=None if given.no_instant else InstantSettings(**instant),
        anogan=anogan,
        encoder=replace(ENCODER, seed=seed) if anogan else None,
        decoder=replace(DECODER, seed=seed) if given.decoder else None,
        start=given.start,
        score=given.score,
        article_scale=given.article_scale,
    )
    stages = prepare.prepare(name, plan, command_of(given), device_of(given))
    return resumable(given, name, stages)


def run_f_net(given: argparse.Namespace) -> int:
    name, choice, device = name_from(given), choice_from(given), device_of(given)
    own = prepare.own_settings(choice)
    stages = prepare.make_f_net(
        name,
        choice,
        _f_net_settings(given),
        given.start,
        device,
        prepare.describe(choice, command=command_of(given), settings=own),
        resume=resumes(given),
    )
    return resumable(given, name, together(device, stages))
