"""The second classifier: says whether a change is real. It is trained apart, and G never saw it.

G redraws an image until F takes it for a normal one, and a net can be fooled by a change that nobody sees
(Szegedy et al. 2014). Whether what F calls normal now *is* more normal is therefore asked of another net, of
another width, start and objective, that knows the anomalous classes as well:

    logits(x) = W · f(x) + b        f: MobileNetV2's pooled features, not put on a sphere

trained by cross-entropy on every class of a data set, those that F never saw among them; what is defective is
a class of its own beside the good images of its class. The change of an image is

    Δ = (l_t − l_a)(y) − (l_t − l_a)(x)        l_t: logit of the class towards, l_a: away from

and the image flips where l_t − l_a was below 0 and is above it now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anounet.center import split_held_back
from anounet.datasets import Item
from anounet.distributed import parallel
from anounet.feature_net import FEATURES, Backbone, BackboneSettings, FeatureNet
from anounet.storage import WeightsError, check_state, load_weights, rounded, save_weights
from anounet.training import TrainingStep, adam_steps, as_images, images_sha256, reinitialize

HELD_BACK = 0.1  # share of the images that only measure its accuracy
MIN_IMAGES = 20
_BATCH = 64  # images at a time where nothing is trained


@dataclass(frozen=True)
class ClassifierSettings:
    """The second classifier and its training."""

    width: float = 0.5  # MobileNetV2's width multiplier; another one than F's
    images: int = 10_000  # images of all classes at most, drawn at random
    steps: int = 1500  # updates
    batch: int = 64  # images a step, as many of each class
    learning_rate: float = 1e-3  # of Adam, falling to 0 along a half cosine
    shift: int = 6  # pixels that an image is moved by at most; it is mirrored half of the time
    seed: int = 0  # of the choice of images, of the head's start, and of the batches

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("number of images", self.images, MIN_IMAGES, 1_000_000),
            ("number of steps", self.steps, 1, 1_000_000),
            ("batch", self.batch, 2, 1024),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
            ("shift", self.shift, 0, 16),
        ):
            if not low <= value <= high:
                raise ValueError(
                    f"The second classifier's {name} must lie between {low} and {high}, not {value}."
                )


@dataclass(frozen=True)
class Change:
    """What became of images, as the second classifier sees it; each (B,), on the CPU.

    Attributes:
        before: logit towards minus logit away, of x.
        after: the same, of y.
    """

    before: Tensor
    after: Tensor

    @property
    def difference(self) -> Tensor:
        """Δ, the module's formula: above 0 it went towards."""
        return self.after - self.before

    @property
    def flips(self) -> Tensor:
        """Where `away` was the nearer class before, and `towards` is it after."""
        return (self.before < 0) & (self.after > 0)


def class_of(item: Item) -> str:
    """The class that the second classifier says of an image: what is defective is a class of its own."""
    return f"{item.class_name} defective" if item.defect else item.class_name


class SecondClassifier(nn.Module):
    """Images (B, 3, H, W) in [0, 1] → logits of `classes`; frozen by construction, as its features are.

    Attributes:
        classes: the names of its classes, in the order of the logits.
        meta: settings and provenance; `accuracy` is the one on held-back images.
    """

    def __init__(
        self, features: FeatureNet, head: Mapping[str, Tensor], classes: Sequence[str], **meta: Any
    ) -> None:
        super().__init__()
        self.classes, self.meta = tuple(classes), meta
        self.features, self.head = features, nn.Linear(FEATURES, len(self.classes))
        self.head.load_state_dict(rounded(head))
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> SecondClassifier:
        """Does nothing: what judges stays as it is."""
        return self

    def away_from(self, normal: str, exclude: Sequence[str]) -> tuple[str, ...]:
        """The classes that a change of an anomalous image should lead away from.

        Args:
            normal: the class it should lead towards.
            exclude: classes that were left out as anomalous.

        Returns:
            Those left out and the normal class's defective images, as far as they are its classes; none where
            it does not know the normal class.
        """
        if normal not in self.classes:
            return ()
        return tuple(name for name in (*exclude, f"{normal} defective") if name in self.classes)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], on any device → (B, classes), on the CPU."""
        device = self.head.weight.device
        parts = [self.head(self.features.pooled(part.to(device))).cpu() for part in images.split(_BATCH)]
        return torch.cat(parts) if parts else torch.empty(0, len(self.classes))

    def change(self, x: Tensor, y: Tensor, towards: str, away: str | Sequence[str]) -> Change:
        """How far images went from one class towards another.

        Args:
            x: before, (B, 3, H, W) in [0, 1].
            y: after, as x.
            towards: a class.
            away: another, or several: then the nearest of them (the highest logit) counts.

        Raises:
            ValueError: a class that it does not know; the sentence says which.
        """
        away = (away,) if isinstance(away, str) else tuple(away)
        unknown = [name for name in (towards, *away) if name not in self.classes]
        if unknown or not away:
            raise ValueError(
                f"The second classifier knows no class '{', '.join(unknown)}': it was trained on "
                f"{', '.join(self.classes)}."
            )
        others = [self.classes.index(name) for name in away]

        def margin(images: Tensor) -> Tensor:
            logits = self.logits(images)
            return logits[:, self.classes.index(towards)] - logits[:, others].amax(dim=1)

        return Change(margin(x), margin(y))

    def save(self, path: Path) -> str:
        described = {"backbone": self.features.meta(), "classes": list(self.classes), **self.meta}
        return save_weights(path, "classifier", _joined(self.features, self.head), described)

    @classmethod
    def load(cls, path: Path, sha256: str | None = None) -> SecondClassifier:
        """Loads a second classifier, frozen.

        Raises:
            WeightsError: missing, damaged, or not of this program.
        """
        state, meta = load_weights(path, "classifier", sha256=sha256)
        try:
            settings = BackboneSettings.from_json(meta.pop("backbone"))
            classes = [str(name) for name in meta.pop("classes")]
            if len(classes) < 2:
                raise ValueError("classes")
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path} is no second classifier of this program: train it anew (train-classifier)."
            ) from error
        check_state(path, state, _joined(Backbone(settings), nn.Linear(FEATURES, len(classes))))
        parts: dict[str, dict[str, Tensor]] = {"features": {}, "head": {}}
        for name, tensor in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        features = FeatureNet(parts["features"], settings, path).to(memory_format=torch.channels_last)
        return cls(features, parts["head"], classes, **meta)


def _joined(features: Backbone | FeatureNet, head: nn.Linear) -> dict[str, Tensor]:
    """One state of the features' weights and the head's."""
    return {f"features.{n}": t for n, t in features.state().items()} | {
        f"head.{n}": t for n, t in head.state_dict().items()
    }


class _Training(nn.Module):
    """The net while it trains."""

    def __init__(self, backbone: Backbone, classes: int, draw: torch.Generator) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(FEATURES, classes)
        reinitialize(self.head, draw)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone.pooled(x.contiguous(memory_format=torch.channels_last)))


def train_second_classifier(
    backbone: Backbone,
    images: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    settings: ClassifierSettings,
    device: torch.device | str = "cpu",
    *,
    start: str = "",
    resume: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[TrainingStep]:
    """Trains a second classifier by cross-entropy, on as many images of each class.

    A tenth of the images is held back, and measures its accuracy at the end.

    Args:
        backbone: starting weights; trained in place.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, each class's place in `classes`.
        start: what the starting weights are known by; a training with others is not gone on with.
        resume: the last `checkpoint` of a training with the same images, settings and start: the same net
            comes out, bit for bit.
        facts: provenance to keep in the classifier.

    Yields:
        TrainingSteps with the `loss`; every 200th carries a checkpoint, and the last a SecondClassifier,
        whose `meta` holds `accuracy`, `accuracies` by class, and how many images measured them.

    Raises:
        ValueError: fewer than two classes, too few images, or a checkpoint of another training.
        TrainingError: the loss stopped being a number; the step is named.
    """
    device = torch.device(device)
    fit, held = _split(images, labels, classes, settings.seed)
    draw = torch.Generator().manual_seed(settings.seed)
    net = _Training(backbone, len(classes), draw)
    net = net.to(device, memory_format=torch.channels_last).train()
    run = parallel(net)
    # Batches are drawn evenly from the classes: of some there are many more images than of others.
    own = [fit[labels[fit] == number] for number in range(len(classes))]
    most = max(map(len, own))

    def loss(chosen: Tensor) -> Tensor:
        kinds, places = (chosen % len(own)).tolist(), (chosen // len(own)).tolist()
        picked = torch.stack([own[k][p % len(own[k])] for k, p in zip(kinds, places, strict=True)])
        x = augmented(as_images(images[picked], device), settings.shift, draw)
        return nn.functional.cross_entropy(run(x), labels[picked].to(device))

    def finish() -> SecondClassifier:
        frozen = SecondClassifier(
            FeatureNet.freeze(net.backbone).to(device), net.head.state_dict(), classes
        ).to(device)
        parts = held.split(_BATCH)
        said = torch.cat([frozen.logits(as_images(images[part], device)).argmax(dim=1) for part in parts])
        right = said == labels[held]
        accuracies = {
            name: round(float(right[labels[held] == number].float().mean()), 4)
            for number, name in enumerate(classes)
            if bool((labels[held] == number).any())
        }
        frozen.meta |= {
            "accuracy": round(float(right.float().mean()), 4),
            "accuracies": accuracies,
            "held_back": len(held),
            "trained_on": len(fit),
            "settings": asdict(settings),
            "start": start,
            **(facts or {}),
        }
        return frozen.cpu()

    yield from adam_steps(
        net,
        loss,
        len(own) * most,
        settings,
        draw,
        what="second classifier",
        metric="loss",
        described=description(images, labels, classes, settings, start),
        finish=finish,
        resume=resume,
    )


def description(
    images: Tensor, labels: Tensor, classes: Sequence[str], settings: ClassifierSettings, start: str
) -> dict[str, Any]:
    """What a training must have in common with one that it goes on with; JSON types."""
    return asdict(settings) | {
        "images_sha256": images_sha256(images),
        "labels": images_sha256(labels),
        "classes": list(classes),
        "start": start,
    }


def augmented(x: Tensor, shift: int, draw: torch.Generator) -> Tensor:
    """Each image mirrored or not, and moved by up to `shift` pixels: (B, 3, H, W) → the same shape.

    What lies beyond the edge is reflected in.
    """
    mirrored = torch.rand(len(x), generator=draw) < 0.5
    corners = torch.randint(2 * shift + 1, (len(x), 2), generator=draw).tolist()
    height, width = x.shape[-2:]
    padded = nn.functional.pad(x, (shift,) * 4, mode="reflect") if shift else x
    moved = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(padded, corners, strict=True)
    ]
    return torch.stack([m.flip(2) if flip else m for m, flip in zip(moved, mirrored.tolist(), strict=True)])


def _split(images: Tensor, labels: Tensor, classes: Sequence[str], seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the images to learn from, and of those held back: at least one of each class is learned."""
    there = set(labels.tolist())
    if len(images) < MIN_IMAGES:
        raise ValueError(
            f"The second classifier needs {MIN_IMAGES} images or more, and there are {len(images)}: add some."
        )
    if len(classes) < 2 or there != set(range(len(classes))):
        raise ValueError(
            "The second classifier tells classes apart: use a data set with two classes or more, and images "
            "of each."
        )
    fit, held = (torch.from_numpy(part) for part in split_held_back(len(images), HELD_BACK, seed))
    lost = sorted(there - set(labels[fit].tolist()))
    if lost:
        raise ValueError(
            f"There are too few images of '{classes[lost[0]]}' for the second classifier: use more of them."
        )
    return fit, held
