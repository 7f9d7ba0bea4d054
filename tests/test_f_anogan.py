"""f-AnoGAN: an encoder that learns, stops and goes on, and belongs to one GAN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from anounet import f_anogan, training
from anounet.anogan import AnoGAN
from anounet.f_anogan import Encoder, EncoderSettings, redraw, train_encoder
from anounet.storage import WeightsError, load_weights, save_weights


@pytest.fixture(scope="module")
def gan() -> AnoGAN:
    return tiny.anogan()


@pytest.fixture(scope="module")
def made(gan: AnoGAN) -> Encoder:
    """Hardly trained."""
    return tiny.encoder(gan)


def other_gan() -> AnoGAN:
    gan = tiny.anogan()
    gan.generator.project.bias.add_(0.5)
    return gan


def test_the_loss_is_the_paper_s(gan: AnoGAN) -> None:
    x, y = tiny.images(2), tiny.images(2, "wood")
    found = f_anogan.losses(x, y, gan)
    f = gan.discriminator.features
    for i in range(2):
        residual = float(((x[i] - y[i]) ** 2).sum() / (3 * 32 * 32))
        discrimination = float(((f(x[i : i + 1]) - f(y[i : i + 1])) ** 2).sum() / (64 * 2 * 2))
        assert found["residual"][i].item() == pytest.approx(residual, rel=1e-4)
        assert found["discrimination"][i].item() == pytest.approx(discrimination, rel=1e-4)
        assert found["L"][i].item() == pytest.approx(residual + discrimination, rel=1e-4)


def test_training_lowers_the_loss_and_leaves_the_gan_alone() -> None:
    gan = tiny.anogan()
    gan.generator.blocks[-1].weight.mul_(30)  # so that z matters
    before = gan.fingerprint
    drawn = gan.generator(torch.randn(12, gan.latent, generator=tiny.generator()))
    images = drawn.mul(255).round().to(torch.uint8)
    settings = replace(tiny.ENCODER, steps=40, learning_rate=1e-2)
    steps = list(train_encoder(images, gan, settings, samples_every=20, facts={"data": "here"}))
    first, last = (sum(s.metrics["L"] for s in part) for part in (steps[:5], steps[-5:]))
    assert last < 0.7 * first
    assert gan.fingerprint == before and all(p.grad is None for p in gan.parameters())
    assert [s.step for s in steps if s.samples is not None] == [20, 40]
    assert steps[-1].samples.shape == (8, 3, 32, 32)
    assert [s.model is not None for s in steps] == [False] * 39 + [True]
    net = steps[-1].model
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert (net.gan, net.latent, net.size) == (before, gan.latent, gan.size)
    assert net.meta["data"] == "here" and net.meta["settings"]["steps"] == 40


def test_an_image_s_answer_is_its_own(gan: AnoGAN, made: Encoder) -> None:
    x = torch.cat([tiny.images(3), tiny.defective(2)])
    y, found = redraw(x, gan, made)
    assert torch.equal(y, gan.generator(made(x)))
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(
        ("residual", "discrimination", "L"), (5,)
    )
    for i in (0, 4):
        alone, loss = redraw(x[i : i + 1], gan, made)
        assert (alone[0] - y[i]).abs().max() < 1e-5
        assert loss["L"].item() == pytest.approx(found["L"][i].item(), rel=1e-4)


def test_a_training_cut_off_ends_as_one_without_a_stop(gan: AnoGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    whole = list(train_encoder(tiny.pixels(9), gan, tiny.ENCODER))
    kept = whole[1].checkpoint
    rest = list(train_encoder(tiny.pixels(9), gan, tiny.ENCODER, resume=kept))
    assert [s.step for s in rest] == [3, 4, 5]
    state = whole[-1].model.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in rest[-1].model.state_dict().items())
    for images, net, settings, other in (
        (tiny.pixels(9), gan, replace(tiny.ENCODER, seed=1), "seed"),
        (tiny.pixels(9), other_gan(), tiny.ENCODER, "GAN"),
        (tiny.pixels(8), gan, tiny.ENCODER, "images"),
    ):
        with pytest.raises(ValueError, match=f"is of a training with other {other}: go on with the same"):
            next(train_encoder(images, net, settings, resume=kept))


def test_the_disk_changes_nothing(gan: AnoGAN, made: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    loaded = Encoder.load(path, made.save(path))
    assert (loaded.size, loaded.latent, loaded.gan, loaded.meta) == (
        made.size,
        made.latent,
        made.gan,
        made.meta,
    )
    assert loaded.fingerprint == made.fingerprint
    x = tiny.images(2)
    assert torch.equal(redraw(x, gan, loaded)[0], redraw(x, gan, made)[0])
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_gan_is_the_same_after_the_disk_and_another_is_refused(
    gan: AnoGAN, made: Encoder, tmp_path: Path
) -> None:
    gan.save(tmp_path / "anogan.pt")
    assert made.check(AnoGAN.load(tmp_path / "anogan.pt")) is made
    for other in (other_gan(), None):
        with pytest.raises(WeightsError, match=r"trained with another AnoGAN .* train both anew"):
            made.check(other)


def test_a_file_with_other_settings_is_refused(made: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    made.save(path)
    state, meta = load_weights(path, "encoder")
    for wrong in (
        meta | {"size": 40},
        meta | {"latent": 10**6},
        meta | {"settings": {"colour": 1}},
        {name: value for name, value in meta.items() if name != "gan"},
    ):
        save_weights(path, "encoder", state, wrong)
        with pytest.raises(WeightsError, match=r"encoder\.pt is no encoder of this program"):
            Encoder.load(path)
    save_weights(path, "encoder", state, meta | {"latent": 9})
    with pytest.raises(WeightsError, match=r"encoder\.pt does not fit"):
        Encoder.load(path)


def test_images_that_do_not_fit_are_refused(gan: AnoGAN, made: Encoder) -> None:
    with pytest.raises(ValueError, match="takes images of 32×32, not 48×48"):
        redraw(torch.zeros(1, 3, 48, 48), gan, made)
    with pytest.raises(ValueError, match="takes images of 32×32, not 32×48"):
        next(train_encoder(torch.zeros(4, 3, 32, 48, dtype=torch.uint8), gan))
    with pytest.raises(ValueError, match="2 normal images or more"):
        next(train_encoder(tiny.pixels(2)[:1], gan))


@pytest.mark.parametrize("settings", [{"steps": 0}, {"batch": 1}, {"learning_rate": 0.0}, {"width": 4}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"The encoder's .* must lie"):
        EncoderSettings(**settings)
