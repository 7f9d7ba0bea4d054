"""AnoGAN: a training that ends in a frozen net, and a search that each image makes for itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from anounet import anogan
from anounet.anogan import AnoGAN, AnoGANSettings, SearchSettings, reconstruct, train_anogan
from anounet.storage import WeightsError, load_checkpoint, load_weights, save_checkpoint, save_weights


@pytest.fixture(scope="module")
def gan() -> AnoGAN:
    """Hardly trained: enough to search in."""
    return tiny.anogan()


def test_training_gives_finite_losses_and_a_frozen_net_at_its_end() -> None:
    steps = list(train_anogan(tiny.pixels(9), tiny.GAN, samples_every=2, facts={"data": "textures"}))
    assert [s.step for s in steps] == [1, 2, 3]
    assert all(s.metrics.keys() == {"generator", "discriminator"} for s in steps)
    assert all(abs(value) < 100 for s in steps for value in s.metrics.values())
    assert [s.samples is not None for s in steps] == [False, True, True]
    assert steps[1].samples.shape == (16, 3, 32, 32)
    assert steps[1].samples.min() >= 0 and steps[1].samples.max() <= 1
    assert [s.model is not None for s in steps] == [False, False, True]
    made = steps[-1].model
    assert not any(p.requires_grad for p in made.parameters())
    assert not any(module.training for module in made.train().modules())
    assert made.meta["data"] == "textures" and made.meta["settings"]["latent"] == 8


def test_training_changes_both_nets() -> None:
    short, long = (
        list(train_anogan(tiny.pixels(9), replace(tiny.GAN, steps=n)))[-1].model.state_dict() for n in (1, 4)
    )
    for part in ("generator.project.weight", "discriminator.blocks.0.weight", "discriminator.logit.weight"):
        assert not torch.equal(short[part], long[part]), part


def test_the_same_seed_gives_the_same_net() -> None:
    state = torch.get_rng_state()
    first = tiny.anogan().state_dict()
    torch.rand(3)
    second = tiny.anogan().state_dict()
    other = list(train_anogan(tiny.pixels(8), replace(tiny.GAN, seed=1)))[-1].model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["generator.project.weight"], other["generator.project.weight"])
    torch.set_rng_state(state)


def test_a_training_cut_off_ends_as_one_without_a_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(anogan, "CHECKPOINT_EVERY", 2)
    images, settings = tiny.pixels(9), replace(tiny.GAN, steps=7, batch=4)
    whole = list(train_anogan(images, settings, facts={"data": "here"}))
    kept = {s.step: s.checkpoint for s in whole if s.checkpoint is not None}
    assert list(kept) == [2, 4, 6]
    for step in (2, 6):
        save_checkpoint(tmp_path / "anogan.progress", kept[step])
        torch.rand(3)
        before = load_checkpoint(tmp_path / "anogan.progress")
        rest = list(train_anogan(images, settings, resume=before, facts={"data": "here"}))
        assert [s.step for s in rest] == list(range(step + 1, 8))
        assert [s.metrics for s in rest] == [s.metrics for s in whole[step:]]
        assert torch.equal(rest[-1].samples, whole[-1].samples)
        state = whole[-1].model.state_dict()
        assert all(torch.equal(t, state[name]) for name, t in rest[-1].model.state_dict().items())
        assert rest[-1].model.meta == whole[-1].model.meta


def test_a_checkpoint_of_another_training_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anogan, "CHECKPOINT_EVERY", 2)
    images = tiny.pixels(9)
    kept = list(train_anogan(images, tiny.GAN))[1].checkpoint
    for other, changed, settings in (
        ("images", images.flip(0), tiny.GAN),
        ("seed", images, replace(tiny.GAN, seed=1)),
        ("steps, noise", images, replace(tiny.GAN, steps=9, noise=0.0)),
    ):
        with pytest.raises(ValueError, match=f"of the AnoGAN is of a training with other {other}: go on"):
            next(train_anogan(changed, settings, resume=kept))


def test_the_curves_are_kept_few_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = list(train_anogan(tiny.pixels(9), replace(tiny.GAN, steps=7)))
    curves = steps[-1].model.meta["curves"]
    assert curves["step"] == list(range(1, 8))
    assert curves["generator"] == [round(s.metrics["generator"], 4) for s in steps]
    monkeypatch.setattr(anogan, "CURVE_POINTS", 3)
    curves = list(train_anogan(tiny.pixels(9), replace(tiny.GAN, steps=7)))[-1].model.meta["curves"]
    assert curves["step"] == [3, 6, 7] and len(curves["discriminator"]) == 3


def test_samples_are_the_generator_s(gan: AnoGAN) -> None:
    drawn = gan.samples(5)
    assert drawn.shape == (5, 3, 32, 32) and drawn.min() >= 0 and drawn.max() <= 1
    assert torch.equal(drawn, gan.samples(5)) and not torch.equal(drawn, gan.samples(5, seed=1))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="2 normal images or more"):
        list(train_anogan(tiny.pixels(2)[:count], tiny.GAN))


@pytest.mark.parametrize("shape", [(40, 40), (32, 48)])
def test_training_images_of_another_shape_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="square, with a side that 16 divides"):
        list(train_anogan(torch.zeros(4, 3, *shape, dtype=torch.uint8), tiny.GAN))


def test_search_losses_are_sums_weighed_by_lambda(gan: AnoGAN) -> None:
    x, y = tiny.images(2), tiny.images(2, "wood")
    found = anogan.losses(x, gan, 0.3)(y)
    features = [gan.discriminator.features(image) for image in (x, y)]
    assert features[0].shape == (2, 64, 2, 2)
    for i in range(2):
        residual = sum((x[i] - y[i]).abs().flatten().tolist())
        discrimination = sum((features[0][i] - features[1][i]).abs().flatten().tolist())
        assert found["residual"][i].item() == pytest.approx(residual, rel=1e-4)
        assert found["discrimination"][i].item() == pytest.approx(discrimination, rel=1e-4)
        assert found["L"][i].item() == pytest.approx(0.7 * residual + 0.3 * discrimination, rel=1e-4)
    assert SearchSettings().weight == 0.1 and SearchSettings().steps == 500  # the paper's


def test_the_search_lowers_the_loss_and_ends_at_an_image_of_the_generator(gan: AnoGAN) -> None:
    state = {name: tensor.clone() for name, tensor in gan.state_dict().items()}
    x = tiny.images(3)
    steps = list(reconstruct(x, gan, SearchSettings(steps=25, learning_rate=0.1)))
    assert len(steps) == 26
    assert (steps[-1].losses["L"] < 0.999 * steps[0].losses["L"]).all()
    residual = (x - steps[-1].image).abs().sum(dim=(1, 2, 3))
    assert steps[-1].losses["residual"].tolist() == pytest.approx(residual.tolist(), rel=1e-4)
    assert all(torch.equal(tensor, state[name]) for name, tensor in gan.state_dict().items())
    assert all(p.grad is None for p in gan.parameters())


def test_restarts_never_end_worse_than_their_first_start(gan: AnoGAN) -> None:
    x, settings = tiny.images(3), SearchSettings(steps=4, learning_rate=0.1)
    alone = list(reconstruct(x, gan, settings))
    several = list(reconstruct(x, gan, replace(settings, restarts=4)))
    assert len(several) == len(alone)
    for one, best in zip(alone, several, strict=True):
        assert best.losses["L"].shape == (3,)
        assert (best.losses["L"] <= one.losses["L"] * (1 + 1e-5)).all()
    assert (several[-1].losses["L"] < alone[-1].losses["L"] * (1 - 1e-5)).any()
    # The image and all losses are those of the restart that is kept, and no image's is another's.
    found = anogan.losses(x, gan, settings.weight)(several[-1].image)
    for name, value in several[-1].losses.items():
        assert value.tolist() == pytest.approx(found[name].tolist(), rel=1e-4)
    turned = list(reconstruct(x.flip(0), gan, replace(settings, restarts=4)))[-1]
    assert (turned.image.flip(0) - several[-1].image).abs().max() < 1e-4


def test_an_image_s_search_is_its_own(gan: AnoGAN) -> None:
    x = torch.cat([tiny.images(4), tiny.defective(4)])
    settings = SearchSettings(steps=3)
    together = list(reconstruct(x, gan, settings))[-1]
    turned = list(reconstruct(x.flip(0), gan, settings))[-1]
    assert (together.image - turned.image.flip(0)).abs().max() < 1e-4
    for i in (0, 5):
        alone = list(reconstruct(x[i : i + 1], gan, settings))[-1]
        assert (alone.image[0] - together.image[i]).abs().max() < 1e-4
    starts = list(reconstruct(x, gan, replace(settings, steps=0)))[-1].image
    assert (starts[0] - starts[1]).abs().max() > 1e-3  # and the search starts at a place of its own
    again = list(reconstruct(x, gan, replace(settings, steps=0, seed=1)))[-1].image
    assert (starts[0] - again[0]).abs().max() > 1e-3


def test_the_disk_changes_nothing(tmp_path: Path) -> None:
    made, path = tiny.anogan(), tmp_path / "anogan.pt"
    loaded = AnoGAN.load(path, made.save(path))
    assert (loaded.size, loaded.latent, loaded.meta) == (made.size, made.latent, made.meta)
    x, settings = tiny.images(2), SearchSettings(steps=3)
    first, second = (list(reconstruct(x, gan, settings))[-1] for gan in (made, loaded))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.losses["L"], second.losses["L"])
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_file_with_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "anogan.pt"
    tiny.anogan().save(path)
    state, meta = load_weights(path, "anogan")
    for wrong in (
        meta | {"size": 40},
        meta | {"size": 16 * 1000},
        meta | {"settings": {"latent": 8, "colour": 1}},
        meta | {"settings": meta["settings"] | {"width": 10**6}},
        {"size": 32},
    ):
        save_weights(path, "anogan", state, wrong)
        with pytest.raises(WeightsError, match=r"anogan\.pt is no AnoGAN of this program"):
            AnoGAN.load(path)
    save_weights(path, "anogan", state, meta | {"settings": meta["settings"] | {"latent": 9}})
    with pytest.raises(WeightsError, match=r"anogan\.pt does not fit"):
        AnoGAN.load(path)


def test_images_of_another_size_are_refused(gan: AnoGAN) -> None:
    with pytest.raises(ValueError, match="takes images of 32×32, not 48×48"):
        list(reconstruct(torch.zeros(1, 3, 48, 48), gan))


@pytest.mark.parametrize(
    "settings", [{"steps": -1}, {"steps": 2.0}, {"steps": 5001}, {"restarts": 0}, {"weight": 2}]
)
def test_search_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"AnoGAN's .* not "):
        SearchSettings(**settings)


@pytest.mark.parametrize("settings", [{"latent": 0}, {"steps": 0}, {"batch": 1}, {"learning_rate": -1.0}])
def test_training_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"AnoGAN's .* must lie between"):
        AnoGANSettings(**settings)
