"""Trains the f-Net by L2-softmax: cross-entropy on W·(α f/‖f‖₂) + b (Ranjan, Castillo, Chellappa 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anounet.feature_net import FEATURES, Backbone, FeatureNet
from anounet.training import TrainingStep, as_images, check_loss, reinitialize, shuffled_batches, steps_in_all

BLOCKS = 19  # of MobileNetV2's features


@dataclass(frozen=True)
class FNetSettings:
    """How F is trained. The defaults suit two cores and a few thousand images; `ARTICLE` is the article's."""

    width: float = 1.0  # MobileNetV2's width multiplier, 0.5 or 1.0
    alpha: float = 5.0  # norm of F(x)
    epochs: int = 3  # times that every image is seen
    batch: int = 64  # images a step
    learning_rate: float = 1e-4  # of Adam with amsgrad
    frozen_blocks: int = 14  # first blocks, of 19, kept as they start: patches are judged by their features
    seed: int = 0  # of the classifier's start and of the order of images

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("epochs", self.epochs, 1, 1000),
            ("batch", self.batch, 2, 1024),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
            ("number of frozen blocks", self.frozen_blocks, 0, BLOCKS - 1),
        ):
            if not low <= value <= high:
                raise ValueError(f"The {name} must lie between {low} and {high}, not {value}.")


ARTICLE = FNetSettings(width=0.5, alpha=5.0, epochs=30, batch=128, learning_rate=1e-4, frozen_blocks=0)


def train_f_net(
    backbone: Backbone,
    images: Tensor,
    labels: Tensor,
    settings: FNetSettings,
    device: torch.device | str = "cpu",
) -> Iterator[TrainingStep]:
    """Trains F to tell the normal class from the reference classes.

    Args:
        backbone: starting weights; trained in place.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, 0 … classes − 1, two classes or more.

    Yields:
        A TrainingStep a batch with `loss` and `accuracy`; the last of each epoch carries a FeatureNet.
    """
    classes = int(labels.max()) + 1 if len(labels) else 0
    if classes < 2 or len(torch.unique(labels)) != classes:
        raise ValueError("Metric learning tells classes apart: choose a data set with two classes or more.")
    device = torch.device(device)
    backbone.to(device, memory_format=torch.channels_last).train()
    # Training the early blocks to tell classes apart costs them the fine detail that local centres go by.
    # DOC too trains the last blocks only (Perera and Patel 2018).
    backbone.features[: settings.frozen_blocks].eval().requires_grad_(False)
    # A local head: the metric is what stays, the classifier is thrown away.
    head = nn.Linear(FEATURES, classes)
    reinitialize(head, torch.Generator().manual_seed(settings.seed))
    head.to(device)
    parameters = [p for p in [*backbone.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, settings.learning_rate, amsgrad=True, fused=True)
    total = steps_in_all(len(images), settings.batch, settings.epochs)
    an_epoch = total // settings.epochs
    batches = shuffled_batches(len(images), settings.batch, settings.epochs, settings.seed)
    for step, (_, indices) in enumerate(batches, 1):
        x = as_images(images[indices], device).contiguous(memory_format=torch.channels_last)
        target = labels[indices].to(device)
        logits = head(backbone(x))
        loss = nn.functional.cross_entropy(logits, target)
        value = check_loss(loss, step, "f-Net")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        accuracy = float((logits.argmax(dim=1) == target).float().mean())
        model = FeatureNet.freeze(backbone) if step % an_epoch == 0 else None
        yield TrainingStep(step, total, {"loss": value, "accuracy": accuracy}, model)
