"""The decoder: a training that learns, stops and goes on, and a net that belongs to one F."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from anounet import training
from anounet.decoder import Decoder, DecoderSettings, redraw, train_decoder
from anounet.feature_net import FEATURES, FeatureNet
from anounet.storage import WeightsError, load_weights, save_weights


@pytest.fixture(scope="module")
def made() -> Decoder:
    """Hardly trained."""
    return tiny.decoder(tiny.f_net())


def test_the_article_s_shapes() -> None:
    net = Decoder(DecoderSettings(), 96)
    assert [tuple(m.weight.shape) for m in net.linear if isinstance(m, torch.nn.Linear)] == [
        (1024, FEATURES),
        (18432, 1024),
    ]
    assert net.start == (128, 12, 12)
    depthwise = [m for m in net.blocks if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert [m.groups for m in depthwise] == [128, 64]
    assert net.blocks[-1].kernel_size == (5, 5) and net.blocks[-1].out_channels == 3
    drawn = net.eval()(torch.randn(2, FEATURES))
    assert drawn.shape == (2, 3, 96, 96) and drawn.min() > 0 and drawn.max() < 1


def test_training_lowers_the_loss_and_ends_with_a_frozen_net(f_net: FeatureNet) -> None:
    settings = replace(tiny.DECODER, steps=60, learning_rate=1e-2)
    steps = list(train_decoder(tiny.pixels(12), f_net, settings, samples_every=20, facts={"data": "here"}))
    assert [s.step for s in steps] == list(range(1, 61))
    first, last = (sum(s.metrics["L1"] for s in part) for part in (steps[:5], steps[-5:]))
    assert last < 0.8 * first
    assert [s.step for s in steps if s.samples is not None] == [20, 40, 60]
    assert steps[-1].samples.shape == (8, 3, 32, 32)
    net = steps[-1].model
    assert [s.model is not None for s in steps] == [False] * 59 + [True]
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert net.f_net == f_net.fingerprint and net.meta["data"] == "here"
    assert net.meta["settings"]["steps"] == 60


def test_an_image_is_drawn_from_its_features_alone(f_net: FeatureNet, made: Decoder) -> None:
    x = torch.cat([tiny.images(3), tiny.defective(2)])
    y = redraw(x, f_net, made)
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
    assert torch.equal(y, made(f_net(x)))
    for i in (0, 4):
        assert (redraw(x[i : i + 1], f_net, made)[0] - y[i]).abs().max() < 1e-5


def test_a_training_cut_off_ends_as_one_without_a_stop(
    f_net: FeatureNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    whole = list(train_decoder(tiny.pixels(9), f_net, tiny.DECODER))
    kept = [s.checkpoint for s in whole]
    assert [k["step"] for k in kept if k] == [2, 4]
    rest = list(train_decoder(tiny.pixels(9), f_net, tiny.DECODER, resume=kept[1]))
    assert [s.step for s in rest] == [3, 4, 5]
    assert [s.metrics for s in rest] == [s.metrics for s in whole[2:]]
    state = whole[-1].model.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in rest[-1].model.state_dict().items())
    for images, net, settings, other in (
        (tiny.pixels(9), f_net, replace(tiny.DECODER, seed=1), "seed"),
        (tiny.pixels(9), tiny.f_net(1), tiny.DECODER, "f-Net"),
        (tiny.pixels(8), f_net, tiny.DECODER, "images"),
    ):
        with pytest.raises(ValueError, match=f"is of a training with other {other}: go on with the same"):
            next(train_decoder(images, net, settings, resume=kept[1]))


def test_the_seed_decides_and_the_global_one_is_left_alone(f_net: FeatureNet) -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        return list(train_decoder(tiny.pixels(8), f_net, replace(tiny.DECODER, seed=seed)))[
            -1
        ].model.state_dict()

    first = trained(0)
    torch.rand(3)
    again, other = trained(0), trained(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["linear.0.weight"], other["linear.0.weight"])


def test_the_disk_changes_nothing(f_net: FeatureNet, made: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "decoder.pt"
    loaded = Decoder.load(path, made.save(path))
    assert (loaded.size, loaded.f_net, loaded.meta) == (made.size, made.f_net, made.meta)
    assert loaded.fingerprint == made.fingerprint
    x = tiny.images(2)
    assert torch.equal(redraw(x, f_net, loaded), redraw(x, f_net, made))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_file_with_other_settings_is_refused(made: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "decoder.pt"
    made.save(path)
    state, meta = load_weights(path, "decoder")
    for wrong in (
        meta | {"size": 36},
        meta | {"size": 4096},
        meta | {"settings": {"colour": 1}},
        {name: value for name, value in meta.items() if name != "f_net"},
    ):
        save_weights(path, "decoder", state, wrong)
        with pytest.raises(WeightsError, match=r"decoder\.pt is no decoder of this program"):
            Decoder.load(path)
    save_weights(path, "decoder", state, meta | {"settings": meta["settings"] | {"hidden": 32}})
    with pytest.raises(WeightsError, match=r"decoder\.pt does not fit"):
        Decoder.load(path)


def test_another_f_is_refused(f_net: FeatureNet, made: Decoder) -> None:
    assert made.check(f_net) is made
    with pytest.raises(WeightsError, match=r"trained with another f-Net .* train it anew"):
        made.check(tiny.f_net(1))


def test_images_that_do_not_fit_are_refused(f_net: FeatureNet, made: Decoder) -> None:
    with pytest.raises(ValueError, match="takes images of 32×32, not 48×48"):
        redraw(torch.zeros(1, 3, 48, 48), f_net, made)
    for shape in ((1, 3, 32, 32), (4, 3, 32, 48)):
        with pytest.raises(ValueError, match="2 normal images or more, square"):
            next(train_decoder(torch.zeros(shape, dtype=torch.uint8), f_net))
    for side in (36, 256):
        with pytest.raises(ValueError, match=f"side from 16 to 208 that 8 divides, not {side}"):
            next(train_decoder(torch.zeros(4, 3, side, side, dtype=torch.uint8), f_net))


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"batch": 1}, {"learning_rate": float("nan")}, {"hidden": 4}, {"width": 10}]
)
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"The decoder's .* must"):
        DecoderSettings(**settings)
