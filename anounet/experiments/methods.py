"""The methods of an experiment, each asked in the same way: a batch of images in, an Answer for each out."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from anounet import ano_unet
from anounet.anogan import SearchSettings
from anounet.anomaly_map import enlarge, smooth
from anounet.bundle import RIVALS, Bundle
from anounet.center import METRICS, features_of
from anounet.local_centers import patches
from anounet.visualization import Result, visualize, visualize_many, visualize_rival

# In the order of the tables → what people call them.
TITLES = {
    "f-score": "F's score",
    "f-distance": "F's distance from C",
    "anogan": "AnoGAN",
    "f-anogan": "f-AnoGAN",
    "decoder": "decoder",
    "nearest": "distance to local centres",
    "article": "article",
    "fast": "fast",
    "fast-local": "fast, local C",
    "instant": "instant",
    "refined": "instant, refined",
}
BATCH = {"article": 1, "anogan": 16}  # images at a time
USUAL_BATCH = 32
SLOW = ("article", "anogan", "fast", "fast-local", "refined")  # a warm-up would cost more than it saves
_PARTS = {
    "f-score": ("center",),
    "f-distance": ("center",),
    "nearest": ("local",),
    "article": ("center",),
    "fast": ("center", "identity"),
    "fast-local": ("local", "identity"),
    "instant": ("local", "instant"),
    "refined": ("local", "instant"),
} | RIVALS


@dataclass(frozen=True)
class Answer:
    """What a method says of one image.

    Attributes:
        score: higher means more anomalous.
        anomaly_map: its usual map, (H, W), or None.
        scale: the level of that map that is shown as 1.
        y: the normalised image, (3, H, W) in [0, 1], or None.
    """

    score: float
    anomaly_map: Tensor | None = None
    scale: float = 1.0
    y: Tensor | None = None


def methods_of(bundle: Bundle) -> tuple[str, ...]:
    """The methods that a bundle has the parts for, in the order of `TITLES`."""
    there = [m for m in TITLES if all(getattr(bundle, part) is not None for part in _PARTS[m])]
    if bundle.center is not None and bundle.center.metric == "l1":
        there.remove("f-distance")  # the article's score, which F's is then
    return tuple(there)


def described(method: str, bundle: Bundle, refine: int) -> str:
    """A method's settings, for people."""
    if method == "anogan":
        return f"{SearchSettings().steps} latent steps"
    if method in ("f-score", "f-distance"):
        return METRICS[bundle.require_center().metric if method == "f-score" else "l1"]
    settings = settings_of(method, bundle, refine)
    if settings is None or method in ("nearest", "instant"):
        return "one pass"
    return f"β {settings.beta:g}, {settings.steps} steps"


def settings_of(method: str, bundle: Bundle, refine: int) -> ano_unet.Settings | None:
    """Ano-Unet's settings for a method; None for a rival and for F's score."""
    if method == "refined":
        return bundle.settings("instant", steps=refine, stop=0.0)
    if method in ("instant", "nearest"):
        return bundle.settings("instant", steps=0)
    if method in ("article", "fast"):
        return bundle.settings(method, stop=0.0)
    return bundle.settings("fast", center="local", stop=0.0) if method == "fast-local" else None


def ask(
    method: str, x: Tensor, bundle: Bundle, refine: int
) -> Generator[dict[str, float], None, list[Answer | Exception]]:
    """A method's answers for a batch of images, (B, 3, H, W) in [0, 1] at the bundle's size.

    Yields:
        Now and then how far it is, by name, so that a long one can be stopped; the answers are the
        generator's return value, an error in place of the image that it is about.
    """
    if method in ("f-score", "f-distance"):
        center, features = bundle.require_center(), features_of(bundle.f_net, x)
        scores = center.score(features) if method == "f-score" else center.distance(features)
        return [Answer(score) for score in scores.tolist()]
    if method == "nearest":
        return _nearest(x, bundle)
    settings = settings_of(method, bundle, refine)
    found: list[Result | Exception] = []
    try:
        if method in RIVALS:
            search = SearchSettings() if method == "anogan" else None
            found += yield from _counted(visualize_rival(method, x, bundle, search))
        elif method == "article":
            for image in x:
                found.append((yield from _counted(visualize(image, bundle, settings))))
        else:
            for result in visualize_many(x, bundle, settings):
                found.append(result)
                yield {}
    except ArithmeticError as error:
        found += [error] * (len(x) - len(found))
    return [_answer(result) for result in found]


def _counted(stream: Generator) -> Generator[dict[str, float], None, object]:
    """A stream of Steps as how far it is; gives back what the stream does."""
    try:
        while True:
            yield {"step": float(next(stream).index)}
    except StopIteration as end:
        return end.value
    finally:
        stream.close()


def _answer(result: Result | Exception) -> Answer | Exception:
    if not isinstance(result, Result):
        return result
    if not math.isfinite(result.score):
        return ArithmeticError("The score is no number.")
    return Answer(result.score, result.anomaly_map, result.scale, result.y)


@torch.no_grad()
def _nearest(x: Tensor, bundle: Bundle) -> list[Answer | Exception]:
    """The distance map without any G, as `instant` mode takes it."""
    local, settings = bundle.require_local(), bundle.settings("instant", steps=0)
    side, scale = x.shape[-1], bundle.scale("instant", "distance")
    parts: Iterator[Tensor] = (
        local.distance(patches(part.to(bundle.device), bundle.f_net, local.settings)).cpu()
        for part in x.split(8)
    )
    maps = smooth(enlarge(torch.cat(list(parts)), side), settings.smoothing * side / 96)
    return [Answer(float(shown.max()) / scale, shown, scale) for shown in maps]
