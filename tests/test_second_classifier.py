"""The second classifier: what it learns, how it is kept, and what it says of a change."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor, nn

from anounet import second_classifier, training
from anounet.bundle import PARTS, load_bundle, save_part, verify
from anounet.datasets import Item
from anounet.second_classifier import (
    ClassifierSettings,
    SecondClassifier,
    augmented,
    class_of,
    train_second_classifier,
)
from anounet.storage import WeightsError, load_checkpoint, save_checkpoint

CLASSES = ("dark", "bright")
SETTINGS = ClassifierSettings(steps=80, batch=16, learning_rate=3e-3, shift=2, images=40)
SHORT = replace(SETTINGS, steps=25)


def dark(count: int) -> Tensor:
    return tiny.pixels(count) // 2


def bright(count: int) -> Tensor:
    return 255 - tiny.pixels(count) // 2


def floats(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def data(first: int = 20, second: int = 20) -> tuple[Tensor, Tensor]:
    return torch.cat([dark(first), bright(second)]), torch.arange(first + second).ge(first).long()


def trained(settings: ClassifierSettings = SETTINGS, **options: object) -> list[training.TrainingStep]:
    backbone = tiny.backbone(1)
    return list(train_second_classifier(backbone, *data(), CLASSES, settings, **options))


@pytest.fixture(scope="module")
def steps() -> list[training.TrainingStep]:
    return trained()


@pytest.fixture(scope="module")
def classifier(steps: list[training.TrainingStep]) -> SecondClassifier:
    return steps[-1].model


def test_it_learns_to_tell_classes_apart(steps: list[training.TrainingStep]) -> None:
    losses = [step.metrics["loss"] for step in steps]
    assert len(losses) == 80 and sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert all(step.model is None for step in steps[:-1])
    model = steps[-1].model
    assert model.classes == CLASSES and model.meta["held_back"] == 4 and model.meta["trained_on"] == 36
    images, labels = data()
    right = model.logits(floats(images)).argmax(dim=1) == labels
    assert right.float().mean() > 0.9


def test_its_accuracy_is_that_of_images_it_did_not_learn_from(classifier: SecondClassifier) -> None:
    images, labels = data()
    _, held = second_classifier.split_held_back(40, second_classifier.HELD_BACK, SETTINGS.seed)
    right = (classifier.logits(floats(images[held])).argmax(dim=1) == labels[held]).float()
    assert classifier.meta["accuracy"] == pytest.approx(float(right.mean()), abs=1e-4)
    for number, name in enumerate(CLASSES):
        own = right[labels[held] == number]
        wanted = pytest.approx(float(own.mean()), abs=1e-4) if len(own) else None
        assert classifier.meta["accuracies"].get(name) == wanted


def test_batches_hold_as_many_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def watched(logits: Tensor, target: Tensor) -> Tensor:
        seen.append(target)
        return nn.functional.nll_loss(logits.log_softmax(dim=1), target)

    monkeypatch.setattr(second_classifier.nn.functional, "cross_entropy", watched)
    images, labels = data(36, 6)
    settings = ClassifierSettings(steps=20, batch=16, shift=0, images=42)
    list(train_second_classifier(tiny.backbone(1), images, labels, CLASSES, settings))
    assert torch.cat(seen).float().mean() == pytest.approx(0.5, abs=0.1)  # of the images a seventh


def test_a_training_goes_on_as_if_it_had_not_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 10)
    whole = trained(SHORT)
    checkpoints = [step.checkpoint for step in whole if step.checkpoint is not None]
    assert [checkpoint["step"] for checkpoint in checkpoints] == [10, 20]
    save_checkpoint(tmp_path / "it.progress", checkpoints[1])
    again = trained(SHORT, resume=load_checkpoint(tmp_path / "it.progress"))
    assert [step.step for step in again] == [21, 22, 23, 24, 25]
    for name, tensor in whole[-1].model.state_dict().items():
        assert torch.equal(tensor, again[-1].model.state_dict()[name]), name
    with pytest.raises(ValueError, match="second classifier is of a training with other shift"):
        trained(replace(SHORT, shift=3), resume=checkpoints[0])
    with pytest.raises(ValueError, match="second classifier is of a training with other start"):
        trained(SHORT, resume=checkpoints[0], start="another")


def test_it_is_frozen_and_its_features_are_on_no_sphere(classifier: SecondClassifier) -> None:
    x = tiny.images(3)
    before = classifier.logits(x)
    classifier.train()
    assert not classifier.training and not any(p.requires_grad for p in classifier.parameters())
    assert torch.equal(classifier.logits(x), before)
    features = classifier.features.pooled(x)
    assert torch.allclose(before, classifier.head(features), atol=1e-5)
    assert features.norm(dim=1).std() > 1e-3  # F's would all be α
    assert classifier.logits(x[:0]).shape == (0, 2)


def test_a_change_is_of_the_towards_minus_away_logit(classifier: SecondClassifier) -> None:
    low, high = floats(dark(4)), floats(bright(4))
    there = classifier.change(high, low, "dark", "bright")
    margins = [classifier.logits(x) @ torch.tensor([1.0, -1.0]) for x in (high, low)]
    assert torch.allclose(there.before, margins[0]) and torch.allclose(there.after, margins[1])
    assert torch.allclose(there.difference, margins[1] - margins[0])
    assert there.flips.all() and (there.difference > 0).all()
    back = classifier.change(low, high, "dark", "bright")
    assert not back.flips.any() and (back.difference < 0).all()
    assert not classifier.change(low, low, "dark", "bright").flips.any()  # it was none before
    still = classifier.change(high, high, "dark", "bright")
    assert not still.flips.any() and (still.difference == 0).all()


def test_of_several_classes_to_leave_the_nearest_counts() -> None:
    images = torch.cat([tiny.pixels(10, name) for name in ("streaks", "wood", "weave")])
    labels, classes = torch.arange(3).repeat_interleave(10), ("streaks", "wood", "weave")
    settings = ClassifierSettings(steps=2, batch=4, images=30)
    net = list(train_second_classifier(tiny.backbone(), images, labels, classes, settings))[-1].model
    x, y = tiny.images(2, "wood"), tiny.images(2)
    logits = net.logits(x)
    change = net.change(x, y, "streaks", ("wood", "weave"))
    assert torch.allclose(change.before, logits[:, 0] - torch.maximum(logits[:, 1], logits[:, 2]))
    with pytest.raises(ValueError, match=r"knows no class 'deer': it was trained on streaks, wood, weave"):
        net.change(x, y, "streaks", "deer")


def test_an_augmented_image_is_moved_or_mirrored_and_nothing_else() -> None:
    x = torch.rand(16, 3, 8, 8, generator=tiny.generator())
    draw = tiny.generator(3)
    same = augmented(x, 0, draw)
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(same, x, strict=True)]
    assert 2 < sum(mirrored) < 14
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, same, x, strict=True))
    moved = augmented(x, 2, draw)
    padded = nn.functional.pad(x, (2,) * 4, mode="reflect")
    for image, source in zip(moved, padded, strict=True):
        windows = [source[:, t : t + 8, left : left + 8] for t in range(5) for left in range(5)]
        assert any(torch.equal(image, w) or torch.equal(image, w.flip(2)) for w in windows)
    assert not torch.equal(moved, same)
    assert torch.equal(augmented(x, 2, tiny.generator(5)), augmented(x, 2, tiny.generator(5)))


def test_what_is_defective_is_a_class_of_its_own() -> None:
    assert class_of(Item("a", "wood")) == "wood"
    assert class_of(Item("b", "wood", "scratch")) == "wood defective"


@pytest.mark.parametrize(
    ("labels", "classes", "sentence"),
    [
        (torch.zeros(40, dtype=torch.int64), ("a",), "two classes or more"),
        (torch.zeros(40, dtype=torch.int64), ("a", "b"), "images of each"),
        (torch.arange(10) % 2, ("a", "b"), "needs 20 images or more, and there are 10"),
    ],
)
def test_data_that_it_cannot_learn_from_is_refused(
    labels: Tensor, classes: tuple[str, ...], sentence: str
) -> None:
    images = tiny.pixels(len(labels))
    with pytest.raises(ValueError, match=sentence):
        next(train_second_classifier(tiny.backbone(), images, labels, classes, SETTINGS))


@pytest.mark.parametrize(
    "field", [{"images": 5}, {"steps": 0}, {"batch": 1}, {"learning_rate": 0.0}, {"shift": -1}]
)
def test_settings_out_of_range_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="second classifier's"):
        ClassifierSettings(**field)


# --- in a bundle -------------------------------------------------------------------------------------


def test_a_bundle_keeps_it(weights: Path, classifier: SecondClassifier) -> None:
    save_part("bare", f_net=tiny.f_net(), size=32)
    bare = load_bundle("bare", "cpu")
    assert bare.classifier is None
    with pytest.raises(WeightsError, match="train-classifier --bundle bare"):
        bare.require_classifier()
    save_part("tiny", classifier=classifier)
    kept = load_bundle("tiny", "cpu").require_classifier()
    assert verify("tiny")[PARTS["classifier"]]
    x = tiny.images(3)
    assert torch.allclose(kept.logits(x), classifier.logits(x), atol=1e-4)
    assert kept.classes == CLASSES and kept.meta == classifier.meta


def test_a_new_f_takes_it_away_only_with_another_data_set_or_size(
    weights: Path, classifier: SecondClassifier
) -> None:
    save_part("tiny", classifier=classifier)
    net = tiny.f_net(2)
    save_part("tiny", f_net=net, size=32, data="textures", normal="wood")
    assert load_bundle("tiny", "cpu").classifier is not None
    save_part("tiny", f_net=net, size=32, data="cifar10", normal="wood")
    assert load_bundle("tiny", "cpu").classifier is None
    assert not (weights / "tiny" / PARTS["classifier"]).exists()


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, classifier: SecondClassifier) -> None:
    path = tmp_path / "classifier.pt"
    classifier.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        SecondClassifier.load(path)
    other = copy.deepcopy(classifier)
    other.classes = ("one",)
    other.save(path)
    with pytest.raises(WeightsError, match="no second classifier of this program"):
        SecondClassifier.load(path)
    other.classes = ("one", "two", "three")
    other.save(path)
    with pytest.raises(WeightsError, match="does not fit this net"):
        SecondClassifier.load(path)
