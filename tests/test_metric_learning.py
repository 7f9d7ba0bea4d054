"""Training F: two classes that differ are told apart, and what a checkpoint says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

from anounet import metric_learning, prepare
from anounet.bundle import Bundle, bundle_folder, load_bundle
from anounet.datasets import DataError, open_set
from anounet.feature_net import FeatureNet
from anounet.metric_learning import ARTICLE, BLOCKS, FNetSettings, compactness, train_f_net
from anounet.storage import WeightsError, load_checkpoint, load_weights, save_checkpoint
from anounet.training import TrainingError, shuffled_batches, steps_in_all

QUICK = FNetSettings(width=0.5, epochs=8, batch=12, learning_rate=3e-3)
DOC = FNetSettings(width=0.5, epochs=8, batch=8, learning_rate=0.1, objective="doc", compactness=50.0)


def two_classes(count: int = 12) -> tuple[Tensor, Tensor]:
    """Reddish and bluish noise."""
    noise = torch.randint(0, 120, (2 * count, 3, 32, 32), generator=tiny.generator(), dtype=torch.uint8)
    noise[:count, 0] += 120
    noise[count:, 2] += 120
    return noise, torch.arange(2 * count) // count


def test_the_loss_falls_and_the_accuracy_rises() -> None:
    images, labels = two_classes()
    steps = list(train_f_net(tiny.backbone(), images, labels, QUICK))
    assert [s.step for s in steps] == list(range(1, 17))
    assert {s.total for s in steps} == {16}
    first, last = ([s.metrics for s in part] for part in (steps[:3], steps[-3:]))
    assert sum(m["loss"] for m in last) < 0.7 * sum(m["loss"] for m in first)
    assert sum(m["accuracy"] for m in last) / 3 > 0.85
    assert 0 < first[0]["loss"] < 10

    f_net = steps[-1].model
    features = f_net(images.float() / 255)
    means = torch.stack([features[labels == k].mean(dim=0) for k in (0, 1)])
    assert (torch.cdist(features, means).argmin(dim=1) == labels).float().mean() > 0.95


def test_a_frozen_f_comes_at_the_end_of_each_epoch() -> None:
    images, labels = two_classes(10)
    steps = list(train_f_net(tiny.backbone(), images, labels, FNetSettings(0.5, epochs=3, batch=8)))
    models = {s.step: s.model for s in steps if s.model is not None}
    assert list(models) == [3, 6, 9]
    assert all(isinstance(model, FeatureNet) for model in models.values())
    assert not any(p.requires_grad for model in models.values() for p in model.parameters())
    assert len({model.fingerprint for model in models.values()}) == 3  # the training went on


@pytest.mark.parametrize("frozen", [14, 5, 0])
def test_the_first_blocks_stay_bit_for_bit_as_they_start(frozen: int) -> None:
    images, labels = two_classes(8)
    start = tiny.backbone()
    before = {name: t.clone() for name, t in start.features.state_dict().items()}
    settings = replace(QUICK, epochs=1, frozen_blocks=frozen)
    list(train_f_net(start, images, labels, settings))
    after = start.features.state_dict()
    for block in range(BLOCKS):
        names = [name for name in before if name.startswith(f"{block}.")]
        unchanged = {name: torch.equal(before[name], after[name]) for name in names}
        if block < frozen:
            assert all(unchanged.values()), block
        else:
            assert not any(same for name, same in unchanged.items() if name.endswith("0.weight")), block


def test_the_article_freezes_no_block() -> None:
    assert ARTICLE.resolved().frozen_blocks == 0 and FNetSettings().resolved().frozen_blocks == 14


def test_the_same_seed_gives_the_same_net() -> None:
    images, labels = two_classes(8)

    def trained(seed: int) -> str:
        settings = FNetSettings(0.5, epochs=1, batch=8, seed=seed)
        return list(train_f_net(tiny.backbone(), images, labels, settings))[-1].model.fingerprint

    first = trained(0)
    torch.rand(3)
    assert trained(0) == first
    assert trained(1) != first


@pytest.mark.parametrize("labels", [[], [0, 0, 0, 0], [1, 1, 1, 1], [0, 2, 0, 2]])
def test_fewer_than_two_classes_are_refused(labels: list[int]) -> None:
    images = torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="two classes or more"):
        list(train_f_net(tiny.backbone(), images, torch.tensor(labels, dtype=torch.int64), QUICK))


def test_a_training_that_goes_astray_names_its_step() -> None:
    net = tiny.backbone()
    with torch.no_grad():
        net.features[0][0].weight.fill_(float("nan"))
    images, labels = two_classes(8)
    with pytest.raises(TrainingError, match="f-Net stopped being a number at step 1"):
        list(train_f_net(net, images, labels, QUICK))


def test_a_last_image_alone_is_left_out_of_its_epoch() -> None:
    sizes = [len(indices) for _, indices in shuffled_batches(17, 8, 2, 0)]
    assert sizes == [8, 8, 8, 8]
    assert steps_in_all(17, 8, 2) == 4
    for count, batch in ((1, 8), (8, 8), (9, 8), (10, 8), (18, 8), (3, 2)):
        batches = list(shuffled_batches(count, batch, 2, 0))
        assert len(batches) == steps_in_all(count, batch, 2), (count, batch)
    seen = torch.cat([indices for epoch, indices in shuffled_batches(18, 8, 2, 0) if epoch == 1])
    assert sorted(seen.tolist()) == list(range(18))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundles that is empty."""
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(tmp_path / "made"))
    return tmp_path / "made"


def trained(choice: prepare.DataChoice, settings: FNetSettings, start: Path | str, name: str = "f") -> dict:
    """Trains F in a bundle of this name; what F says of itself."""
    info = prepare.describe(choice)
    stages = list(prepare.make_f_net(name, choice, settings, str(start), "cpu", info))
    assert stages[-1].done == stages[-1].total
    return load_weights(bundle_folder(name) / "f_net.pt", "f_net")[1]


def test_an_f_says_where_it_comes_from(made: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.pth"
    torch.save(tiny.backbone().features.state_dict(), start)
    choice = prepare.DataChoice(normal="streaks", exclude=("wood",), limit=20, size=32)
    data = prepare.f_net_data(choice)
    assert data.images.shape == (20, 3, 32, 32)
    assert not any("wood" in name for name in data.classes)
    facts = trained(choice, FNetSettings(0.5, epochs=1, batch=10), start)
    assert facts["starting_weights"] == "local file start.pth"
    assert facts["method"] == "L2-softmax"
    assert facts["data"] == "textures" and facts["normal"] == "streaks" and facts["exclude"] == ["wood"]
    assert facts["images"] == 20 and facts["limit"] == 20 and facts["size"] == 32
    assert facts["settings"]["epochs"] == 1 and facts["settings"]["width"] == 0.5
    assert len(facts["data_sha256"]) == 64
    assert facts["steps"] == facts["total"] == 2 and facts["metrics"].keys() == {"loss", "accuracy"}
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["made"].endswith("+00:00")
    other = prepare.f_net_data(prepare.DataChoice(normal="streaks", limit=20, size=32, seed=1))
    assert other.facts["data_sha256"] != facts["data_sha256"]


def test_f_learns_from_every_image_where_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare.data, "READ_AT_ONCE", 7)
    choice = prepare.DataChoice(normal="streaks", size=32, limit=25)
    few = prepare.f_net_data(choice)
    monkeypatch.setattr(prepare.data, "READ_AT_ONCE", 1000)
    at_once = prepare.f_net_data(choice)
    assert torch.equal(few.images, at_once.images) and torch.equal(few.labels, at_once.labels)
    assert few.facts["data_sha256"] == hashlib.sha256(few.images.numpy().tobytes()).hexdigest()
    whole = open_set("textures", "train")
    exclude = tuple(name for name in whole.classes if name not in ("streaks", "wood"))
    every = prepare.f_net_data(replace(choice, limit=None, exclude=exclude))
    wanted = whole.where(exclude=exclude, defective=False)
    assert len(every.images) == len(every.labels) == len(wanted) > 25
    assert every.images.dtype == torch.uint8


def test_a_damaged_image_is_left_out_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bolt", "nut"):
        folder = tmp_path / "parts" / "train" / name
        folder.mkdir(parents=True)
        for number, image in enumerate(tiny.pixels(12, "streaks" if name == "nut" else "wood")):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:02}.png")
    train = open_set(str(tmp_path / "parts"), "train")
    wanted, kept, _ = train.readable([i for i in range(len(train)) if i != 3], 32)
    damaged = tmp_path / "parts" / "train" / train.items[3].class_name / Path(train.items[3].name).name
    damaged.write_bytes(b"damaged")
    monkeypatch.setattr(prepare.data, "READ_AT_ONCE", 5)
    data = prepare.f_net_data(prepare.DataChoice(str(tmp_path / "parts"), "nut", size=32, limit=None))
    assert len(wanted) == len(train) - 1 == data.facts["images"] and torch.equal(data.images, wanted)
    names = [data.classes[label] for label in data.labels.tolist()]
    assert [name.rpartition("/")[2] for name in names] == [train.items[i].class_name for i in kept]


def test_a_choice_that_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match="'streaks' is the normal class"):
        prepare.DataChoice(exclude=("streaks",))
    with pytest.raises(DataError, match="10 images or more"):
        prepare.DataChoice(limit=9)
    with pytest.raises(DataError, match="no class 'silk': choose from streaks"):
        prepare.f_net_data(prepare.DataChoice(normal="silk"))


def test_settings() -> None:
    assert (ARTICLE.width, ARTICLE.alpha, ARTICLE.epochs, ARTICLE.batch) == (0.5, 5.0, 30, 128)
    assert ARTICLE.resolved().learning_rate == FNetSettings().resolved().learning_rate == 1e-4
    assert FNetSettings(objective="doc").resolved().learning_rate == 5e-5
    assert FNetSettings(objective="doc", learning_rate=1e-3).resolved().learning_rate == 1e-3
    with pytest.raises(ValueError, match="no objective 'triplet' for F: choose l2-softmax or doc"):
        FNetSettings(objective="triplet")
    for wrong in (
        {"compactness": -1.0},
        {"epochs": 0},
        {"batch": 1},
        {"learning_rate": float("nan")},
        {"frozen_blocks": 19},
    ):
        with pytest.raises(ValueError, match="must lie between"):
            FNetSettings(**wrong)


# --- DOC ---------------------------------------------------------------------------------------------


def three_classes(count: int = 12) -> tuple[Tensor, Tensor]:
    """Reddish, greenish and bluish noise; the greenish one, 1, is the normal class."""
    noise = torch.randint(0, 120, (3 * count, 3, 32, 32), generator=tiny.generator(), dtype=torch.uint8)
    for channel in range(3):
        noise[channel * count : (channel + 1) * count, channel] += 120
    return noise, torch.arange(3 * count) // count


def test_compactness_is_the_papers_double_loop() -> None:
    x = torch.randn(5, 7, generator=tiny.generator(), dtype=torch.float64)
    total = 0.0
    for i in range(5):
        others = sum(x[j] for j in range(5) if j != i) / 4
        total += float((x[i] - others) @ (x[i] - others))
    assert float(compactness(x)) == pytest.approx(total / (5 * 7), rel=1e-12)
    assert compactness(x[:1].expand(4, 7)) == pytest.approx(0.0, abs=1e-30)
    assert torch.autograd.gradcheck(compactness, x.requires_grad_())


def test_compactness_has_the_bound_that_it_states() -> None:
    x = torch.zeros(2, 1280)
    x[0, 0], x[1, 0] = 5.0, -5.0
    assert float(compactness(x)) == pytest.approx(4 * 25 / 1280)


@pytest.mark.parametrize("count", [0, 1])
def test_compactness_needs_two_features(count: int) -> None:
    with pytest.raises(ValueError, match=f"two or more, not {count}"):
        compactness(torch.zeros(count, 8))


def test_doc_draws_the_normal_class_together_and_tells_the_others_apart() -> None:
    images, labels = three_classes()
    spread = {}
    for weight in (0.0, 50.0):
        steps = list(train_f_net(tiny.backbone(), images, labels, replace(DOC, compactness=weight), normal=1))
        assert steps[0].metrics.keys() == {"loss", "accuracy", "compactness"}
        assert sum(s.metrics["accuracy"] for s in steps[-3:]) / 3 > 0.85
        spread[weight] = sum(s.metrics["compactness"] for s in steps[-3:])
    assert spread[50.0] < 0.7 * spread[0.0]
    assert len(steps) == 24  # 24 reference images in batches of 8, eight times


def test_the_loss_of_doc_is_the_sum_of_its_parts() -> None:
    images, labels = three_classes()
    both, alone = (
        next(train_f_net(tiny.backbone(), images, labels, replace(DOC, compactness=weight), normal=1)).metrics
        for weight in (50.0, 0.0)
    )
    assert both["loss"] == pytest.approx(alone["loss"] + 50 * both["compactness"], rel=1e-5)
    assert both["compactness"] == pytest.approx(alone["compactness"], rel=1e-5)


def test_each_step_of_doc_has_reference_and_normal_images() -> None:
    _, labels = three_classes()
    targets = metric_learning._targets(labels, DOC, 1)
    assert targets.tolist() == [0] * 12 + [metric_learning.NO_CLASS] * 12 + [1] * 12
    batches = list(metric_learning._batches(targets, replace(DOC, epochs=2), 6))
    assert len(batches) == 6
    for indices in batches:
        assert (targets[indices[:8]] >= 0).all() and (labels[indices[8:]] == 1).all()
        assert len(indices) > 9
    assert set(torch.cat([b[8:] for b in batches[:2]]).tolist()) == set(range(12, 24))
    first = torch.cat([b[:8] for b in batches[:3]]).tolist()
    assert sorted(first) == [*range(12), *range(24, 36)]


def test_what_doc_cannot_learn_from_is_refused() -> None:
    images, labels = three_classes(4)
    for normal in (None, 3):
        with pytest.raises(ValueError, match="0 of those that F learns from are normal"):
            next(train_f_net(tiny.backbone(), images, labels, DOC, normal=normal))
    with pytest.raises(ValueError, match="1 of those that F learns from"):
        next(train_f_net(tiny.backbone(), images[3:], labels[3:].flip(0), DOC, normal=0))
    with pytest.raises(ValueError, match="two classes or more apart beside the normal one"):
        next(train_f_net(tiny.backbone(), images[:8], labels[:8], DOC, normal=1))


def test_an_f_of_doc_says_so(made: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.pth"
    torch.save(tiny.backbone().features.state_dict(), start)
    choice = prepare.DataChoice(normal="streaks", limit=30, size=32)
    data = prepare.f_net_data(choice)
    assert data.classes[data.normal] == "textures/streaks"
    settings = FNetSettings(0.5, epochs=1, batch=30, objective="doc")
    facts = trained(choice, settings, start)
    assert facts["method"] == "DOC"
    assert facts["settings"]["learning_rate"] == 5e-5 and facts["settings"]["frozen_blocks"] == 14
    assert facts["metrics"].keys() == {"loss", "accuracy", "compactness"}


# --- robust ------------------------------------------------------------------------------------------


def loss_at(net: metric_learning._Classifier, x: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        return float(net.eval().losses(x, target)["loss"])


def test_a_robust_f_freezes_no_block_unless_asked_to() -> None:
    assert FNetSettings(robust_eps=1.5).resolved().frozen_blocks == 0
    assert FNetSettings(robust_eps=1.5, frozen_blocks=4).resolved().frozen_blocks == 4
    assert FNetSettings(robust_eps=1.5).method == "L2-softmax, robust (ε = 1.5)"
    assert replace(DOC, robust_eps=0.5).method == "DOC, robust (ε = 0.5)"
    for wrong in ({"robust_eps": -0.1}, {"robust_eps": float("nan")}, {"robust_steps": 0}):
        with pytest.raises(ValueError, match="must lie between"):
            FNetSettings(**wrong)


@pytest.mark.parametrize("objective", ["l2-softmax", "doc"])
def test_attacked_images_raise_the_loss_and_leave_the_net_as_it_is(objective: str) -> None:
    images, labels = three_classes(4)
    settings = replace(DOC, objective=objective, robust_eps=3.0, frozen_blocks=2).resolved()
    targets = metric_learning._targets(labels, settings, 1)
    net = metric_learning._Classifier(tiny.backbone(), int(targets.max()) + 1, settings).train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    x = images.float() / 255
    attacked = net.attacked(x, targets, tiny.generator())
    far = (attacked - x).flatten(1).norm(dim=1)
    assert (far <= 3.0 * 32 / 96 + 1e-5).all() and (far > 0.5).all()  # √(number of pixels) is a third of 96's
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert net.training and not net.backbone.features[1].training and net.backbone.features[2].training
    assert loss_at(net, attacked, targets) > loss_at(net, x, targets)


def test_a_robust_training_learns_from_the_attacked_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = two_classes()
    settings = replace(QUICK, epochs=1, frozen_blocks=0)
    wanted = [s.metrics["loss"] for s in train_f_net(tiny.backbone(), 255 - images, labels, settings)]
    asked = []

    def negatives(x: Tensor, loss_of: object, eps: float, steps: int, _: torch.Generator) -> Tensor:
        asked.append((eps, steps))
        return 1 - x

    monkeypatch.setattr(metric_learning, "adversarial", negatives)
    robust = replace(settings, robust_eps=3.0, robust_steps=4)
    found = [s.metrics["loss"] for s in train_f_net(tiny.backbone(), images, labels, robust)]
    assert found == pytest.approx(wanted, rel=0.02) and found[0] == pytest.approx(wanted[0], rel=1e-4)
    assert asked == [(1.0, 4)] * 2


def test_augmented_images_are_mirrored_and_moved_each_by_its_own_draw() -> None:
    side, count = 32, 64
    columns = torch.arange(float(side)).expand(3, side, side)
    x = torch.stack([torch.cat((columns[:1], columns[:1].transpose(1, 2), columns[:1]))] * count)
    seen = metric_learning.augmented(x, tiny.generator())
    assert seen.shape == x.shape and seen.is_contiguous(memory_format=torch.channels_last)
    across, down = seen[:, 0], seen[:, 1]
    assert torch.equal(across, across[:, :1].expand_as(across))  # a column stays one
    assert torch.equal(down, down[:, :, :1].expand_as(down))
    middle = side // 2
    mirrored = across[:, 0, middle] > across[:, 0, middle + 1]
    assert 0.3 < mirrored.float().mean() < 0.7
    moves = down[:, middle, 0] - middle
    assert set(moves.tolist()) == set(range(-4, 5)) and (down[:, middle + 1, 0] - middle - 1 == moves).all()
    sideways = across[~mirrored, 0, middle] - middle
    assert set(sideways.tolist()) <= set(range(-4, 5)) and len(set(sideways.tolist())) > 5
    assert torch.equal(seen, metric_learning.augmented(x, tiny.generator()))
    assert not torch.equal(seen[0], seen[1])


def test_f_learns_from_augmented_images_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = two_classes()
    monkeypatch.setattr(metric_learning, "augmented", lambda x, _: 1 - x)

    def losses(pixels: Tensor, augment: bool) -> list[float]:
        settings = replace(QUICK, epochs=1, augment=augment)
        return [s.metrics["loss"] for s in train_f_net(tiny.backbone(), pixels, labels, settings)]

    assert losses(images, True) == pytest.approx(losses(255 - images, False), rel=1e-3)
    assert losses(images, True) != pytest.approx(losses(images, False), rel=1e-3)
    assert not ARTICLE.augment and not ARTICLE.decay


def test_the_learning_rate_falls_to_nothing_where_it_is_to(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = two_classes()
    rates: list[float] = []
    step = torch.optim.Adam.step

    def watched(self, *given):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *given)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    for decay in (True, False):
        list(train_f_net(tiny.backbone(), images, labels, replace(QUICK, epochs=4, decay=decay)))
    falling, constant = rates[:8], rates[8:]
    assert falling[0] == QUICK.learning_rate and falling == sorted(falling, reverse=True)
    assert falling[4] == pytest.approx(QUICK.learning_rate / 2) and falling[-1] < 0.05 * QUICK.learning_rate
    assert set(constant) == {QUICK.learning_rate}


def test_a_robust_training_depends_on_its_seed_alone() -> None:
    images, labels = two_classes(8)

    def trained(**changes: object) -> str:
        settings = replace(FNetSettings(0.5, epochs=1, batch=8, robust_eps=1.0), **changes)
        return list(train_f_net(tiny.backbone(), images, labels, settings))[-1].model.fingerprint

    first = trained()
    torch.rand(3)
    assert trained() == first
    assert len({first, trained(robust_eps=0.0, frozen_blocks=0), trained(robust_steps=2)}) == 3


def test_a_training_can_begin_with_the_f_of_a_bundle(bundle: Bundle) -> None:
    choice = prepare.DataChoice(normal="streaks", limit=20, size=32)
    settings = FNetSettings(0.5, alpha=4.0, epochs=1, batch=10, learning_rate=1e-7)
    source = trained(choice, settings, "tiny")["starting_weights"]
    assert source == f"f-Net of the bundle 'tiny' {bundle.f_net.fingerprint[:12]}"
    f_net, name = load_bundle("f", "cpu").f_net, "0.0.weight"
    assert f_net.settings.alpha == 4.0
    assert torch.equal(f_net.state()[name], bundle.f_net.state()[name])  # of a frozen block
    with pytest.raises(WeightsError, match=r"of the bundle 'tiny' has width 0\.5 and not 1: choose"):
        trained(choice, FNetSettings(), "tiny")
    with pytest.raises(WeightsError, match="F of 'tiny' can't begin with itself"):
        trained(choice, settings, "tiny", "tiny")


# --- going on after a stop ---------------------------------------------------------------------------


def kept_at(step: int, settings: FNetSettings, images: Tensor, labels: Tensor, path: Path) -> dict:
    """The checkpoint of a step, by way of the disk."""
    steps = train_f_net(tiny.backbone(), images, labels, settings, normal=1)
    save_checkpoint(path, next(s.checkpoint for s in steps if s.step == step))
    steps.close()
    return load_checkpoint(path)


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("objective", ["l2-softmax", "doc"])
@pytest.mark.parametrize("eps", [0.0, 1.5])
def test_a_training_goes_on_as_if_it_had_never_stopped(
    objective: str, eps: float, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_learning, "CHECKPOINT_EVERY", 4)
    images, labels = three_classes(8)
    settings = FNetSettings(
        0.5, epochs=3, batch=8, learning_rate=1e-3, objective=objective, robust_eps=eps, frozen_blocks=3
    )
    whole = list(train_f_net(tiny.backbone(), images, labels, settings, normal=1))
    an_epoch = len(whole) // 3
    assert [s.step for s in whole if s.checkpoint] == sorted(
        {4, an_epoch, 2 * an_epoch, *range(4, len(whole), 4)}
    )
    at = an_epoch if step == 3 else 4
    kept = kept_at(at, settings, images, labels, tmp_path / "kept")
    for _ in range(2):  # a checkpoint is left as it is
        rest = list(train_f_net(tiny.backbone(7), images, labels, settings, normal=1, resume=kept))
        assert [s.step for s in rest] == [s.step for s in whole[at:]]
        assert [s.metrics for s in rest] == [s.metrics for s in whole[at:]]
        assert rest[-1].model.fingerprint == whole[-1].model.fingerprint
        state = whole[-1].model.state()
        assert all(torch.equal(t, state[name]) for name, t in rest[-1].model.state().items())


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    images, labels = three_classes(8)
    settings = FNetSettings(0.5, epochs=2, batch=8)
    kept = kept_at(3, settings, images, labels, tmp_path / "kept")
    others = {"learning_rate": 1e-3, "robust_eps": 1.0, "objective": "doc", "seed": 1, "epochs": 3}
    for setting, value in others.items():
        with pytest.raises(ValueError, match="of a training with other images or settings: delete it"):
            changed = replace(settings, **{setting: value})
            next(train_f_net(tiny.backbone(), images, labels, changed, normal=1, resume=kept))
    for some in (slice(0, 23), torch.arange(23, -1, -1)):
        with pytest.raises(ValueError, match="of a training with other images"):
            next(train_f_net(tiny.backbone(), images[some], labels[some], settings, normal=1, resume=kept))


CHOICE = prepare.DataChoice(normal="streaks", limit=30, size=32)
SHORT = FNetSettings(0.5, epochs=3, batch=10, learning_rate=1e-3, frozen_blocks=2)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(metric_learning, "CHECKPOINT_EVERY", 2)
    path = tmp_path / "start.pth"
    torch.save(tiny.backbone().features.state_dict(), path)
    return path


def stages(start: Path, name: str = "f", **changes: object) -> Iterator[prepare.Stage]:
    given = {"choice": CHOICE, "settings": SHORT} | changes
    choice, settings = given.pop("choice"), given.pop("settings")
    info = prepare.describe(choice)
    return prepare.make_f_net(name, choice, settings, str(start), "cpu", info, **given)


def cut_off(start: Path, step: int = 5) -> None:
    """A training that ends in the middle of a step, as it does when the machine is switched off."""
    begun = stages(start)
    assert next(stage.done for stage in begun if stage.done == step) == step
    begun.close()


def test_the_same_call_goes_on_where_a_training_was_cut_off(made: Path, start: Path) -> None:
    assert len(list(stages(start, "whole"))) == 9
    cut_off(start)
    assert load_bundle("f", "cpu").f_net is not None  # of the first epoch
    begun = prepare.begun_f_net("f")
    assert begun.step == 4 and begun.training.choice == CHOICE
    renamed = start.rename(start.with_name("other.pth"))  # the same weights by another name
    rest = list(stages(renamed, choice=replace(CHOICE, count=7)))
    assert [s.done for s in rest] == [5, 6, 7, 8, 9]
    assert load_bundle("f", "cpu").f_net.fingerprint == load_bundle("whole", "cpu").f_net.fingerprint
    _, meta = load_weights(made / "f" / "f_net.pt", "f_net")
    assert meta["starting_weights"] == "local file start.pth"
    assert not (made / "f" / prepare.CHECKPOINTS["f_net"]).exists() and prepare.begun_f_net("f") is None


def test_a_training_that_was_cut_off_can_go_on_without_its_start(made: Path, start: Path) -> None:
    list(stages(start, "whole"))
    cut_off(start)
    start.unlink()
    rest = list(prepare.resume_f_net("f", "cpu", "again"))
    assert [s.done for s in rest] == [5, 6, 7, 8, 9]
    assert load_bundle("f", "cpu").f_net.fingerprint == load_bundle("whole", "cpu").f_net.fingerprint
    with pytest.raises(DataError, match="no training of F to go on with in 'f'"):
        next(prepare.resume_f_net("f", "cpu", "again"))


def test_images_that_have_changed_since_are_refused(
    made: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(start)
    data = prepare.f_net_data(CHOICE)
    changed = replace(data, facts=data.facts | {"data_sha256": "0"})
    monkeypatch.setattr(prepare.f_net, "f_net_data", lambda choice: changed)
    with pytest.raises(DataError, match="images of 'textures' have changed since"):
        next(prepare.resume_f_net("f", "cpu", "again"))


@pytest.mark.parametrize("change", ["settings", "images", "start", "fresh", "damaged"])
def test_a_training_of_something_else_starts_anew_and_says_so(made: Path, start: Path, change: str) -> None:
    cut_off(start)
    changes: dict[str, object] = {}
    if change == "settings":
        changes["settings"] = replace(SHORT, learning_rate=2e-3)
    elif change == "images":
        changes["choice"] = replace(CHOICE, seed=1)
    elif change == "start":
        torch.save(tiny.backbone(1).features.state_dict(), start)
    elif change == "fresh":
        changes["resume"] = False
    else:
        (made / "f" / prepare.CHECKPOINTS["f_net"]).write_bytes(b"damaged")
    run = list(stages(start, **changes))
    notes = [note for stage in run for note in stage.notes]
    assert [s.done for s in run if not s.notes] == list(range(1, 10))
    said = ["a training of F with other data or settings was cut off at step 4: starts anew"]
    assert notes == ([] if change in ("fresh", "damaged") else said)
    assert not (made / "f" / prepare.CHECKPOINTS["f_net"]).exists()


@pytest.mark.parametrize("change", ["nothing", "settings", "start", "epoch"])
def test_a_finished_f_is_kept_where_that_is_asked_for(made: Path, start: Path, change: str) -> None:
    settings = SHORT
    if change == "epoch":
        cut_off(start)
        (made / "f" / prepare.CHECKPOINTS["f_net"]).unlink()  # what is left is the F of an early epoch
    else:
        list(stages(start))
    if change == "settings":
        settings = replace(SHORT, seed=1)
    elif change == "start":
        torch.save(tiny.backbone(1).features.state_dict(), start)
    run = list(stages(start, settings=settings, keep=True))
    assert [s.done for s in run] == ([9] if change == "nothing" else list(range(1, 10)))
