"""Trains the f-Net F to tell classes apart, by one of two objectives.

l2-softmax (Ranjan, Castillo, Chellappa 2017): cross-entropy on W·F(x) + b, F(x) = α f/‖f‖₂.

doc (Perera and Patel 2018, "Learning Deep Features for One-Class Classification"): one step takes a batch of
reference images and a batch of normal ones through the same weights,

    loss = l_D + λ l_C,    l_D: cross-entropy on W·F(x) + b, reference classes only
                           l_C: `compactness` of the normal images' F(x)

A robust F learns from adversarial images in place of the images (Madry et al. 2018): what then changes its
mind is a change of the object, not of a few pixels everywhere (Santurkar et al. 2019).
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from anounet.adversarial import adversarial
from anounet.distributed import parallel
from anounet.feature_net import FEATURES, Backbone, FeatureNet
from anounet.training import TrainingStep, as_images, check_loss, reinitialize, shuffled_batches, steps_in_all

CHECKPOINT_EVERY = 50
BLOCKS = 19  # of MobileNetV2's features
FROZEN_BLOCKS = 14  # patches are judged by the features of early blocks, so these are kept
OBJECTIVES = {"l2-softmax": "L2-softmax", "doc": "DOC"}
LEARNING_RATES = {"l2-softmax": 1e-4, "doc": 5e-5}  # of Adam with amsgrad; of SGD with momentum 0.9
ROBUST_EPS = 1.5  # of a robust F, where no other radius is asked for
NO_CLASS = -100  # what cross-entropy leaves out: DOC's normal images


@dataclass(frozen=True)
class FNetSettings:
    """How F is trained. The defaults suit two cores and a few thousand images; `ARTICLE` is the article's."""

    width: float = 1.0  # MobileNetV2's width multiplier, 0.5 or 1.0
    alpha: float = 5.0  # norm of F(x)
    epochs: int = 3  # times that every image is seen; for doc every reference image
    batch: int = 64  # images a step; for doc so many reference images and as many normal ones
    learning_rate: float | None = None  # None: the objective's of `LEARNING_RATES`
    frozen_blocks: int | None = (
        None  # first blocks, of 19, kept as they start; None: `FROZEN_BLOCKS`, of a robust F none
    )
    objective: str = "l2-softmax"  # or "doc"
    compactness: float = 0.1  # λ, for doc
    robust_eps: float = 0.0  # L2 radius of adversarial images at 96 px, pixels in [0, 1]; × side/96 at others
    robust_steps: int = 1  # of their ascent
    augment: bool = True  # images are mirrored half of the time, and moved by up to an eighth of their side
    decay: bool = True  # the learning rate falls to 0 along a half cosine
    seed: int = 0  # of the classifier's start and of the order of images

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            known = " or ".join(OBJECTIVES)
            raise ValueError(f"There is no objective '{self.objective}' for F: choose {known}.")
        for name, value, low, high in (
            ("epochs", self.epochs, 1, 1000),
            ("batch", self.batch, 2, 1024),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
            ("number of frozen blocks", self.frozen_blocks, 0, BLOCKS - 1),
            ("weight of compactness", self.compactness, 0.0, 1000.0),
            ("radius of adversarial images", self.robust_eps, 0.0, 20.0),
            ("number of steps to an adversarial image", self.robust_steps, 1, 100),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"The {name} must lie between {low} and {high}, not {value}.")

    def resolved(self) -> FNetSettings:
        """The same, with a number wherever None leaves the choice to the other settings.

        A robust F has no frozen block: early ones that a small change upsets can't be mended by later ones.
        """
        rate, frozen = self.learning_rate, self.frozen_blocks
        usual = 0 if self.robust_eps else FROZEN_BLOCKS
        return replace(
            self,
            learning_rate=LEARNING_RATES[self.objective] if rate is None else rate,
            frozen_blocks=usual if frozen is None else frozen,
        )

    @property
    def method(self) -> str:
        """What the training goes by, for people."""
        robust = f", robust (ε = {self.robust_eps:g})" if self.robust_eps else ""
        return OBJECTIVES[self.objective] + robust


ARTICLE = FNetSettings(
    width=0.5, alpha=5.0, epochs=30, batch=128, frozen_blocks=0, augment=False, decay=False
)


def compactness(features: Tensor) -> Tensor:
    """l_C: how far features of one class lie from each other (Perera and Patel 2018, section 3).

        l_C = 1/(n k) Σ zᵢᵀ zᵢ,    zᵢ = xᵢ − mean of the others = n/(n − 1) · (xᵢ − mean of all)

    Args:
        features: (n, k), n ≥ 2.

    Returns:
        A number ≥ 0; with F(x) on the sphere of radius α at most 4 α²/k, 0.08 for α = 5.

    Raises:
        ValueError: fewer than two features.
    """
    n = len(features)
    if n < 2:
        raise ValueError(f"Compactness compares normal images with each other: two or more, not {n}.")
    z = n / (n - 1) * (features - features.mean(dim=0))
    return z.square().mean()


class _Classifier(nn.Module):
    """F while it trains, and the head that is thrown away afterwards: the metric is what stays."""

    def __init__(self, backbone: Backbone, classes: int, settings: FNetSettings) -> None:
        super().__init__()
        self.backbone, self.settings = backbone, settings
        self.head = nn.Linear(FEATURES, classes)
        reinitialize(self.head, torch.Generator().manual_seed(settings.seed))
        # Training the early blocks to tell classes apart costs them the fine detail that local centres go by.
        # DOC too trains the last blocks only (Perera and Patel 2018).
        self._frozen().requires_grad_(False)

    def _frozen(self) -> nn.Module:
        return self.backbone.features[: self.settings.frozen_blocks]

    def train(self, mode: bool = True) -> _Classifier:
        super().train(mode)
        self._frozen().eval()  # BatchNorm's statistics of what is frozen stay too
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x), (B, 1280), and the classes' logits."""
        features = self.backbone(x)
        return features, self.head(features)

    def losses(
        self, x: Tensor, target: Tensor, run: Callable[[Tensor], Any] | None = None
    ) -> dict[str, Tensor]:
        """The loss and its parts, for images (B, 3, H, W) and their classes (B,); `run` runs the net."""
        features, logits = (run or self)(x)
        loss = nn.functional.cross_entropy(logits, target, ignore_index=NO_CLASS)
        known = target != NO_CLASS
        parts = {"accuracy": (logits.argmax(dim=1) == target)[known].float().mean()}
        if self.settings.objective == "doc":
            parts["compactness"] = compactness(features[~known])
            loss = loss + self.settings.compactness * parts["compactness"]
        return {"loss": loss, **parts}

    def attacked(
        self,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator,
        run: Callable[[Tensor], Any] | None = None,
    ) -> Tensor:
        """Adversarial images of x for these classes; the radius follows √(number of pixels).

        They are made in eval mode: F is used in that one, an image's change then does not depend on its
        neighbours, and BatchNorm's statistics come from the images of the training step alone.
        """
        eps = self.settings.robust_eps * math.sqrt(x.shape[-2] * x.shape[-1]) / 96
        self.eval()
        try:
            steps = self.settings.robust_steps
            return adversarial(x, lambda near: self.losses(near, target, run)["loss"], eps, steps, generator)
        finally:
            self.train()

    def optimizer(self) -> torch.optim.Optimizer:
        parameters, rate = [p for p in self.parameters() if p.requires_grad], self.settings.learning_rate
        if self.settings.objective == "doc":
            return torch.optim.SGD(parameters, rate, momentum=0.9)
        return torch.optim.Adam(parameters, rate, amsgrad=True, fused=True)


def train_f_net(
    backbone: Backbone,
    images: Tensor,
    labels: Tensor,
    settings: FNetSettings,
    device: torch.device | str = "cpu",
    *,
    normal: int | None = None,
    resume: Mapping[str, Any] | None = None,
) -> Iterator[TrainingStep]:
    """Trains F to tell the normal class from the reference classes, or the latter from each other (doc).

    Args:
        backbone: starting weights; trained in place.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, 0 … classes − 1, two classes or more; for doc two reference classes or more.
        normal: the normal class's label; doc needs it.
        resume: the last `checkpoint` of a training with the same images and settings, to go on from; the
            backbone's weights are then taken from there.

    Yields:
        A TrainingStep a batch with `loss` and `accuracy`, for doc `compactness`; the last of each epoch
        carries a FeatureNet. An epoch of doc ends when each reference image was seen. Every 50th and the
        last of each epoch but the very last carry a checkpoint.

    Raises:
        ValueError: too few classes, for doc fewer than two normal images; a checkpoint of another training.
        TrainingError: the loss stopped being a number; the step before is named.
    """
    settings, device = settings.resolved(), torch.device(device)
    targets, described = _targets(labels, settings, normal), _described(settings, labels, normal)
    net = _Classifier(backbone, int(targets.max()) + 1, settings)
    net.to(device, memory_format=torch.channels_last).train()
    optimizer, generator = net.optimizer(), torch.Generator().manual_seed(settings.seed)
    run = parallel(net)
    first = 0
    if resume is not None:
        if resume.get("training") != described:
            raise ValueError(
                "This checkpoint is of a training with other images or settings: delete it to start anew."
            )
        net.load_state_dict(resume["net"])
        optimizer.load_state_dict(copy.deepcopy(resume["optimizer"]))
        generator.set_state(resume["generator"])
        first = int(resume["step"])
    total = steps_in_all(int((targets != NO_CLASS).sum()), settings.batch, settings.epochs)
    an_epoch = total // settings.epochs
    batches = enumerate(_batches(targets, settings, total), 1)  # the seed alone decides their order
    for step, indices in islice(batches, first, None):
        x = as_images(images[indices], device).contiguous(memory_format=torch.channels_last)
        target = targets[indices].to(device)
        if settings.augment:
            x = augmented(x, generator)
        if settings.decay:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / total))
        if settings.robust_eps:
            x = net.attacked(x, target, generator, run)
        losses = net.losses(x, target, run)
        check_loss(losses["loss"], step, "f-Net")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
        ended = step % an_epoch == 0
        kept = (ended or step % CHECKPOINT_EVERY == 0) and step != total
        yield TrainingStep(
            step=step,
            total=total,
            metrics={name: float(value.detach()) for name, value in losses.items()},
            model=FeatureNet.freeze(backbone) if ended else None,
            checkpoint={
                "step": step,
                "total": total,
                "training": described,
                "net": {name: t.detach().cpu().clone() for name, t in net.state_dict().items()},
                "optimizer": copy.deepcopy(optimizer.state_dict()),
                "generator": generator.get_state(),
            }
            if kept
            else None,
        )


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """The batch mirrored or not, and moved by up to an eighth of its side, each image by its own draw.

    What a move leaves open is filled by reflection. Mirrored and moved by 4 of 32 pixels: He et al. 2016,
    section 4.2, for CIFAR-10.

    Args:
        x: (B, 3, H, W); H, W ≥ 8.
        generator: on the CPU.
    """
    count, _, height, width = x.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    most = torch.tensor([height // 8, width // 8])
    moves = (torch.rand(count, 2, generator=generator) * (2 * most + 1)).long()
    rows = moves[:, :1] + torch.arange(height)
    columns = moves[:, 1:] + torch.arange(width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = nn.functional.pad(x, (width // 8,) * 2 + (height // 8,) * 2, mode="reflect")
    images = torch.arange(count)[:, None, None]
    picked = padded.permute(0, 2, 3, 1)[
        images.to(x.device), rows[:, :, None].to(x.device), columns[:, None, :].to(x.device)
    ]
    return picked.permute(0, 3, 1, 2)  # channels_last, as the net wants it


def _described(settings: FNetSettings, labels: Tensor, normal: int | None) -> dict[str, Any]:
    """What a training must have in common with one that it goes on with."""
    chosen = hashlib.sha256(labels.cpu().numpy().tobytes()).hexdigest()
    return asdict(settings) | {"images": len(labels), "labels": chosen, "normal": normal}


def _targets(labels: Tensor, settings: FNetSettings, normal: int | None) -> Tensor:
    """The class that the head is to say of each image, (N,); `NO_CLASS` of DOC's normal ones."""
    classes = int(labels.max()) + 1 if len(labels) else 0
    if classes < 2 or len(torch.unique(labels)) != classes:
        raise ValueError("Metric learning tells classes apart: choose a data set with two classes or more.")
    if settings.objective != "doc":
        return labels
    count = 0 if normal is None else int((labels == normal).sum())
    if count < 2:
        raise ValueError(
            f"DOC draws normal images together, and {count} of those that F learns from are normal: use more."
        )
    if classes < 3:
        raise ValueError(
            "DOC tells two classes or more apart beside the normal one: leave fewer out, or name a second "
            "data set as reference."
        )
    targets = labels - (labels > normal).long()
    return targets.masked_fill(labels == normal, NO_CLASS)


def _batches(targets: Tensor, settings: FNetSettings, total: int) -> Iterator[Tensor]:
    """The indices of each step's images: of all classes, then of DOC's normal ones.

    Both go through the net as one batch: BatchNorm would else take off what normal images have in common.
    """
    known, normal = (mask.nonzero()[:, 0] for mask in (targets != NO_CLASS, targets == NO_CLASS))
    batches = shuffled_batches(len(known), settings.batch, settings.epochs, settings.seed)
    if not len(normal):
        yield from (known[indices] for _, indices in batches)
        return
    others = shuffled_batches(len(normal), settings.batch, total, settings.seed + 1)
    for (_, first), (_, second) in zip(batches, others, strict=False):
        yield torch.cat([known[first], normal[second]])
