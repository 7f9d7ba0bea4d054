"""Tiny nets with random weights, and tiny images: what the tests of the core work on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from anounet.anogan import AnoGAN, AnoGANSettings, train_anogan
from anounet.bundle import save_part
from anounet.center import Center, compute_center
from anounet.datasets import TextureSet
from anounet.decoder import Decoder, DecoderSettings, train_decoder
from anounet.f_anogan import Encoder, EncoderSettings, train_encoder
from anounet.feature_net import FEATURES, Backbone, BackboneSettings, FeatureNet
from anounet.identity import frozen
from anounet.instant import InstantSettings, train_instant
from anounet.local_centers import LocalCenters, PatchSettings, compute_local_centers
from anounet.second_classifier import SecondClassifier
from anounet.training import reinitialize
from anounet.unet import GatedUNet, UNet

SIZE = 32
NAME = "tiny"
PATCHES = PatchSettings(centers=16, iterations=3)
INSTANT = InstantSettings(steps=6, batch=4, width=8, depth=3)
SCALES = {"fast": 0.05, "anogan": 0.2, "decoder": 0.25, "instant": 0.15, "instant:distance": 1.2}
SCALES |= {"fast-local": 0.3, "f-anogan": 0.22}
LIMITS = {"fast": 0.06, "instant": 0.2, "instant:score": 1.7, "fast-local:score": 1.4}
GAN = AnoGANSettings(latent=8, width=8, steps=3, batch=8)
DECODER = DecoderSettings(steps=5, batch=8, hidden=16, width=8)
ENCODER = EncoderSettings(steps=5, batch=8, width=8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(count: int = 12, texture: str = "streaks", split: str = "train") -> Tensor:
    """Good images of a texture: (count, 3, 32, 32) uint8."""
    images = TextureSet(split, per_class=count)
    return images.tensor(images.where(texture, defective=False), SIZE)


def images(count: int = 12, texture: str = "streaks", split: str = "train") -> Tensor:
    """The same as the nets see them: float32 in [0, 1]."""
    return pixels(count, texture, split).float() / 255


def defective(count: int = 4, texture: str = "streaks") -> Tensor:
    images = TextureSet("test", per_class=count)
    return images.tensor(images.where(texture, defective=True), SIZE).float() / 255


def backbone(seed: int = 0, **settings: object) -> Backbone:
    """A net of features with random weights: its features tell images apart, and its gradients are smooth."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Backbone(BackboneSettings(width=0.5, **settings)).eval()


def f_net(seed: int = 0) -> FeatureNet:
    return FeatureNet.freeze(backbone(seed))


def identity() -> UNet:
    return frozen(UNet.identity(8, 3, generator()))


def center(net: FeatureNet, count: int = 12) -> Center:
    return list(compute_center(net, images(count).split(5), count))[-1].center


def tiny_local_centers(net: FeatureNet, count: int = 12) -> LocalCenters:
    return list(compute_local_centers(net, images(count).split(5), count, PATCHES))[-1].centers


def tiny_instant(
    net: FeatureNet, local: LocalCenters, settings: InstantSettings = INSTANT, count: int = 12
) -> GatedUNet:
    return list(train_instant(pixels(count), net, local, settings))[-1].model


def anogan(size: int = SIZE) -> AnoGAN:
    side = torch.nn.functional.interpolate(images(8), size).mul(255).to(torch.uint8)
    return list(train_anogan(side, GAN))[-1].model


def decoder(net: FeatureNet, size: int = SIZE) -> Decoder:
    side = torch.nn.functional.interpolate(images(8), size).mul(255).to(torch.uint8)
    return list(train_decoder(side, net, DECODER))[-1].model


def encoder(gan: AnoGAN) -> Encoder:
    return list(train_encoder(pixels(8), gan, ENCODER))[-1].model


def classifier(classes: Sequence[str] = ("streaks", "streaks defective")) -> SecondClassifier:
    """One of random weights: it has an opinion of every change."""
    head = torch.nn.Linear(FEATURES, len(classes))
    reinitialize(head, generator(5))
    return SecondClassifier(f_net(5), head.state_dict(), classes, accuracy=0.5)


def save_bundle(name: str = NAME) -> Path:
    """A bundle with every part, in `$ANOUNET_WEIGHTS`."""
    net = f_net()
    described = {"size": SIZE, "data": "textures", "normal": "streaks", "exclude": [], "reference": None}
    save_part(name, f_net=net, meta={"made": "for tests"}, **described)
    gan = anogan()
    save_part(name, center=center(net), identity=identity(), anogan=gan, encoder=encoder(gan))
    save_part(name, decoder=decoder(net), classifier=classifier())
    local = tiny_local_centers(net)
    save_part(name, local=local, instant=tiny_instant(net, local), meta={"made": "for tests"})
    settings = {"fast": {"beta": 4.0, "steps": 3}, "fast-local": {"steps": 2}}
    return save_part(name, scales=SCALES, limits=LIMITS, settings=settings)
