"""Training F: two classes that differ are told apart, and what a checkpoint says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from anounet import prepare
from anounet.feature_net import FeatureNet
from anounet.metric_learning import ARTICLE, BLOCKS, FNetSettings, train_f_net
from anounet.training import TrainingError, shuffled_batches, steps_in_all

QUICK = FNetSettings(width=0.5, epochs=8, batch=12, learning_rate=3e-3)


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
    assert ARTICLE.frozen_blocks == 0 and FNetSettings().frozen_blocks == 14


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


def test_a_checkpoint_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(tmp_path / "none"))
    start = tmp_path / "start.pth"
    torch.save(tiny.backbone().features.state_dict(), start)
    choice = prepare.DataChoice(normal="streaks", exclude=("wood",), limit=20, size=32)
    data = prepare.f_net_data(choice)
    assert data.images.shape == (20, 3, 32, 32)
    assert not any("wood" in name for name in data.classes)
    made = list(prepare.make_f_net(data, FNetSettings(0.5, epochs=1, batch=10), str(start), "cpu"))
    assert made[0][1] == {}
    facts = made[-1][1]
    assert facts["starting_weights"] == "local file start.pth"
    assert facts["method"] == "L2-softmax"
    assert facts["data"] == "textures" and facts["normal"] == "streaks" and facts["exclude"] == ("wood",)
    assert facts["images"] == 20 and facts["limit"] == 20 and facts["size"] == 32
    assert facts["settings"]["epochs"] == 1 and facts["settings"]["width"] == 0.5
    assert len(facts["data_sha256"]) == 64
    assert facts["steps"] == 2 and facts["metrics"].keys() == {"loss", "accuracy"}
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["made"].endswith("+00:00")
    other = prepare.f_net_data(prepare.DataChoice(normal="streaks", limit=20, size=32, seed=1))
    assert other.facts["data_sha256"] != facts["data_sha256"]


def test_a_choice_that_cannot_be_is_refused() -> None:
    with pytest.raises(prepare.DataError, match="'streaks' is the normal class"):
        prepare.DataChoice(exclude=("streaks",))
    with pytest.raises(prepare.DataError, match="10 images or more"):
        prepare.DataChoice(limit=9)
    with pytest.raises(prepare.DataError, match="no class 'silk': choose from streaks"):
        prepare.f_net_data(prepare.DataChoice(normal="silk"))


def test_settings() -> None:
    assert (ARTICLE.width, ARTICLE.alpha, ARTICLE.epochs, ARTICLE.batch) == (0.5, 5.0, 30, 128)
    for wrong in ({"epochs": 0}, {"batch": 1}, {"learning_rate": float("nan")}, {"frozen_blocks": 19}):
        with pytest.raises(ValueError, match="must lie between"):
            FNetSettings(**wrong)
