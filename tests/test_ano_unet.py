"""Ano-Unet: its objective is the README's formula, L falls, and an image's result is its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor

from anounet import ano_unet
from anounet.ano_unet import ARTICLE_PRESETS, DEFAULTS, MAX_BETA, MAX_STEPS, Settings, reconstruct
from anounet.center import Center
from anounet.feature_net import FeatureNet
from anounet.images import content_seed
from anounet.local_centers import LocalCenters, patches
from anounet.optimize import Step
from anounet.unet import GatedUNet, UNet


class Small(UNet):
    """Stands in for the article's net of 31 M parameters: the same kind, small, from the same generator."""

    @staticmethod
    def fresh(width: int, depth: int, norm: str, generator: torch.Generator) -> UNet:
        assert (width, depth, norm) == (64, 5, "instance")
        return UNet.fresh(8, 3, norm, generator)


@pytest.fixture
def small_article(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ano_unet, "UNet", Small)


@pytest.fixture
def run(
    f_net: FeatureNet,
    center: Center,
    local: LocalCenters,
    identity: UNet,
    instant: GatedUNet,
    small_article: None,
):
    def run(
        x: Tensor, mode: str = "fast", every: int = 0, together: bool | None = None, **settings: object
    ) -> Iterator[Step]:
        if mode == "instant":
            settings = {"center": "local", "learning_rate": 3e-4} | settings
        chosen = Settings(mode, **{"steps": 3, "beta": 4.0} | settings)
        start = instant if mode == "instant" else identity
        c = local if chosen.center == "local" else center
        return reconstruct(x, f_net, c, chosen, start, snapshot_every=every, together=together)

    return run


def last(steps: Iterator[Step]) -> Tensor:
    return list(steps)[-1].image


def test_losses_are_means_over_pixels_and_over_features(f_net: FeatureNet, center: Center) -> None:
    x, y = tiny.images(2), tiny.images(2, "wood")
    found = ano_unet.losses(x, f_net, center, beta=7.0)(y)
    for i in range(2):
        l_r = sum((x[i] - y[i]).abs().flatten().tolist()) / (3 * 32 * 32)
        l_c = sum((f_net(y)[i] - center.vector).abs().tolist()) / 1280
        assert found["L_R"][i].item() == pytest.approx(l_r, rel=1e-4)
        assert found["L_C"][i].item() == pytest.approx(l_c, rel=1e-4)
        assert found["L"][i].item() == pytest.approx(l_r + 7 * l_c, rel=1e-4)


def test_with_a_slack_f_asks_for_no_more_than_normal_images_give(f_net: FeatureNet, center: Center) -> None:
    x, y = tiny.images(2), tiny.images(2, "wood")
    before = ano_unet.losses(x, f_net, center, beta=7.0)(y)["L_C"]
    one, other = sorted(before.tolist())
    between = replace(center, held_back=(0.9 * one, (one + other) / 2, 2 * other))
    found = ano_unet.losses(x, f_net, between, beta=7.0, slack=0.5)(y)
    wanted = [max(0.0, d - (one + other) / 2) for d in before.tolist()]
    assert found["L_C"].tolist() == pytest.approx(wanted, rel=1e-3)
    assert min(found["L_C"]) == 0 and torch.allclose(found["L"], found["L_R"] + 7 * found["L_C"])
    with pytest.raises(ValueError, match="compute C anew"):
        ano_unet.losses(x, f_net, replace(center, metric="cosine"), 7.0, 0.5)


def test_with_a_slack_an_image_that_satisfies_f_is_left_alone(
    f_net: FeatureNet, center: Center, identity: UNet
) -> None:
    x = tiny.images(1)
    own = float(center.distance(f_net(x)))
    settings, changes = Settings("fast", 50.0, 6, slack=0.5), []
    for level in (1.01 * own, 0.5 * own):
        near = replace(center, held_back=(level, level))
        steps = list(reconstruct(x, f_net, near, settings, identity))
        changes.append(float((x - steps[-1].image).abs().mean()))
    assert changes[0] < 1 / 255 < changes[1]  # less than a grey level


def test_local_l_c_is_the_mean_over_patches_of_what_lies_beyond_tau(
    f_net: FeatureNet, local: LocalCenters
) -> None:
    x, y = tiny.images(2), tiny.images(2, "wood")
    found = ano_unet.losses(x, f_net, local, beta=3.0)(y)
    distances = local.distance(patches(y, f_net, local.settings))
    for i in range(2):
        beyond = [max(0.0, d - local.tau) for d in distances[i].flatten().tolist()]
        assert found["L_C"][i].item() == pytest.approx(sum(beyond) / 64, rel=1e-4)
        assert found["L"][i].item() == pytest.approx(found["L_R"][i].item() + 3 * sum(beyond) / 64, rel=1e-4)
    assert found["L_C"].min() > 0


def test_steps_carry_the_losses_of_their_images(run, f_net: FeatureNet, center: Center) -> None:
    x = tiny.defective(2)
    steps = list(run(x, every=1, beta=9.0))
    assert [s.index for s in steps] == [0, 1, 2, 3]
    for step in steps:
        for name, values in ano_unet.losses(x, f_net, center, 9.0)(step.image).items():
            # y lies in memory another way than inside the loop: the same to rounding
            assert step.losses[name].tolist() == pytest.approx(values.tolist(), abs=1e-4), step.index
    assert steps[0].losses["L_R"].max() < 1e-5  # fast mode begins with the image unchanged
    assert steps[3].losses["L_R"].min() > 1e-5


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("fast", {"steps": 25, "learning_rate": 3e-4}),
        ("fast", {"steps": 25, "learning_rate": 3e-4, "center": "local"}),
        ("instant", {"steps": 15}),
        ("article", {"steps": 12, "learning_rate": 1e-2}),
    ],
)
def test_l_falls(run, mode: str, settings: dict) -> None:
    steps = list(run(tiny.defective(3), mode, **settings))
    first, last = steps[0].losses["L"], steps[-1].losses["L"]
    abnormal = first > 1e-4  # with local centres an image without an abnormal patch is as it should be
    assert abnormal.sum() >= 2 and (last[abnormal] < first[abnormal]).all()


def test_the_centre_pulls(run) -> None:
    x = tiny.defective(1)
    pulled = list(run(x, beta=50.0, steps=25, learning_rate=3e-4))
    assert pulled[-1].losses["L_C"] < pulled[0].losses["L_C"]
    free = list(run(x, beta=0.0, steps=25, learning_rate=3e-4))
    assert pulled[-1].losses["L_R"] > 4 * free[-1].losses["L_R"]  # without it nothing has to change


@pytest.mark.parametrize("mode", ano_unet.MODES)
def test_the_same_seed_gives_the_same_image_bit_for_bit(run, mode: str) -> None:
    x = tiny.defective(1)
    state = torch.get_rng_state()
    first = last(run(x, mode))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(last(run(x, mode)), first)


def test_another_seed_or_another_content_starts_the_article_s_net_elsewhere(run) -> None:
    x = tiny.defective(1)
    assert not torch.equal(last(run(x, "article", seed=0)), last(run(x, "article", seed=1)))
    assert torch.equal(last(run(x, "fast", seed=0)), last(run(x, "fast", seed=1)))
    first, second = last(run(torch.cat([x, 1 - x]), "article", steps=0, beta=0.0))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("mode", ano_unet.MODES)
def test_an_image_s_result_does_not_depend_on_its_neighbours(run, mode: str) -> None:
    x = torch.cat([tiny.images(8), tiny.defective(8)])
    together = list(run(x, mode, steps=2))
    turned = list(run(x.flip(0), mode, steps=2))
    assert torch.equal(together[-1].image, turned[-1].image.flip(0))
    for i in (0, 9, 15):
        alone = list(run(x[i : i + 1], mode, steps=2))
        assert torch.equal(alone[-1].image[0], together[-1].image[i])
        for step, joined in zip(alone, together, strict=True):
            assert all(step.losses[name][0] == joined.losses[name][i] for name in step.losses)


@pytest.mark.parametrize(
    ("mode", "settings"),
    [("article", {}), ("fast", {}), ("fast", {"center": "local"}), ("instant", {})],
)
def test_u_nets_run_as_one_give_what_they_give_alone(run, mode: str, settings: dict) -> None:
    x = torch.cat([tiny.images(3), tiny.defective(2)])
    alone = list(run(x, mode, every=1, steps=4, **settings))
    together = list(run(x, mode, every=1, steps=4, together=True, **settings))
    assert not torch.equal(alone[-1].image, alone[0].image)
    for one, all_ in zip(alone, together, strict=True):
        # Adam takes a step of full length also where a gradient is hardly more than rounding.
        off = (one.image - all_.image).abs()
        assert off.max() < 2 / 255 and off.mean() < 2e-4
        for name, values in one.losses.items():
            assert torch.allclose(values, all_.losses[name], rtol=5e-3, atol=1e-5), name
    others = list(run(torch.cat([x[:1], tiny.images(4, "wood")]), mode, steps=4, together=True, **settings))
    assert (others[-1].image[0] - together[-1].image[0]).abs().mean() < 2e-4


def test_the_identity_net_and_the_image_stay_as_they_are(run, identity: UNet) -> None:
    x = tiny.defective(2)
    image, state = x.clone(), {name: t.clone() for name, t in identity.state_dict().items()}
    list(run(x))
    assert torch.equal(x, image)
    assert all(torch.equal(t, state[name]) for name, t in identity.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in identity.parameters())


def test_article_mode_is_sgd_with_momentum_on_a_fresh_net(run, f_net: FeatureNet, center: Center) -> None:
    """Against the procedure written down once more, without anything of the package's loop."""
    x, beta, rate = tiny.defective(1), 20.0, 1e-3
    g = UNet.fresh(8, 3, "instance", torch.Generator().manual_seed(content_seed(x[0], 5)))
    velocity = [torch.zeros_like(p) for p in g.parameters()]
    for _ in range(3):
        y = g(x)
        loss = (x - y).abs().mean() + beta * (f_net(y) - center.vector).abs().mean()
        g.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p, v in zip(g.parameters(), velocity, strict=True):
                v.mul_(0.9).add_(p.grad)
                p.sub_(rate * v)
    with torch.no_grad():
        expected = g(x)
    found = list(run(x, "article", beta=beta, steps=3, learning_rate=rate, seed=5, every=1))
    moved = (found[0].image - expected).abs().max()
    assert moved > 0.1  # three steps go somewhere
    assert (found[-1].image - expected).abs().max() < 0.01 * moved


def test_article_mode_s_own_net_has_31_million_parameters(
    f_net: FeatureNet, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets = []

    class Watched(UNet):
        @staticmethod
        def fresh(*settings) -> UNet:
            nets.append(UNet.fresh(*settings))
            return nets[-1]

    monkeypatch.setattr(ano_unet, "UNet", Watched)
    steps = list(reconstruct(tiny.defective(1), f_net, center, Settings("article", beta=0.0, steps=2)))
    (net,) = nets
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(31.04e6, rel=0.01)
    assert steps[-1].losses["L"] < steps[0].losses["L"]


def test_presets_and_defaults() -> None:
    horse, dagm = ARTICLE_PRESETS.values()
    assert (horse.beta, horse.steps, dagm.beta, dagm.steps) == (50, 150, 80, 200)
    assert all(s.mode == "article" and s.learning_rate == 1e-3 and s.smoothing == 0 for s in (horse, dagm))
    assert {mode: settings.mode for mode, settings in DEFAULTS.items()} == {m: m for m in ano_unet.MODES}


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("mode", "slow", "Unknown mode 'slow': choose one of instant, fast, article."),
        ("center", "both", "Unknown kind of C 'both': choose one of local, global."),
        ("beta", float("nan"), "β must lie between 0 and 10000, not nan."),
        ("beta", -1.0, "β must lie"),
        ("beta", MAX_BETA * 2, "β must lie"),
        ("steps", 1.5, "Steps must be a whole number between 0 and 1000, not 1.5."),
        ("steps", -1, "Steps must be"),
        ("steps", 10**6, "Steps must be"),
        ("steps", MAX_STEPS + 1, "Steps must be"),
        ("learning_rate", 0.0, "The learning rate must lie between 0 and 1, not 0.0."),
        ("learning_rate", float("nan"), "The learning rate"),
        ("smoothing", -0.1, "The smoothing must lie between 0 and 16 px, not -0.1."),
        ("smoothing", float("inf"), "The smoothing"),
    ],
)
def test_settings_out_of_range_are_refused_with_a_sentence(
    setting: str, value: object, sentence: str
) -> None:
    with pytest.raises(ValueError) as caught:
        Settings(**{setting: value})
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith(".")


def test_fast_mode_without_its_start_is_refused(f_net: FeatureNet, center: Center) -> None:
    with pytest.raises(ValueError, match="run train-unet"):
        list(reconstruct(tiny.images(1), f_net, center, Settings(), None))


def test_what_a_mode_lacks_is_said(
    f_net: FeatureNet, center: Center, local: LocalCenters, identity: UNet, instant: GatedUNet
) -> None:
    x = tiny.images(1)
    with pytest.raises(ValueError, match="instant mode was trained with local centres"):
        Settings("instant", center="global")
    settings = DEFAULTS["instant"]
    with pytest.raises(ValueError, match="run train-instant"):
        list(reconstruct(x, f_net, local, settings, identity))
    with pytest.raises(ValueError, match="ask for a local C, and another kind was given"):
        list(reconstruct(x, f_net, center, settings, instant))
    with pytest.raises(ValueError, match="ask for a global C"):
        list(reconstruct(x, f_net, local, Settings(), identity))


def test_evidence_is_the_same_whoever_drew_y(
    f_net: FeatureNet, local: LocalCenters, instant: GatedUNet
) -> None:
    x = tiny.defective(3)
    drawn = ano_unet.redraw(x, f_net, local, instant)
    compared = ano_unet.compare(x, drawn.y, f_net, local)
    assert compared.gate is None and drawn.gate.shape == (3, 32, 32)
    for name in ("y", "before", "after", "change"):
        assert (getattr(drawn, name) - getattr(compared, name)).abs().max() < 1e-4, name
    same = ano_unet.compare(x, x, f_net, local)
    assert same.change.max() < 1e-4 and torch.equal(same.before, same.after)
