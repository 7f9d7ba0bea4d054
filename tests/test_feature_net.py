"""F: on its sphere, the same in any batch, frozen whatever happens to it, and told apart by its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from anounet import ano_unet, feature_net
from anounet.bundle import load_f_net
from anounet.center import Center
from anounet.feature_net import FEATURES, Backbone, BackboneSettings, FeatureNet, starting_backbone
from anounet.local_centers import LocalCenters
from anounet.storage import WeightsError, rounded, save_weights
from anounet.unet import GatedUNet, UNet


@pytest.mark.parametrize("count", [1, 2, 7])
def test_norm_is_alpha_for_every_image_whatever_the_batch(f_net: FeatureNet, count: int) -> None:
    norms = f_net(tiny.images(count)).norm(dim=1)
    assert norms.shape == (count,)
    assert norms.tolist() == pytest.approx([5.0] * count, abs=1e-4)
    other = FeatureNet(f_net.state(), BackboneSettings(width=0.5, alpha=2.0))
    assert other(tiny.images(count)).norm(dim=1).tolist() == pytest.approx([2.0] * count, abs=1e-4)


def test_an_image_has_the_same_features_alone_and_in_a_batch(f_net: FeatureNet) -> None:
    x = torch.cat([tiny.images(4), tiny.images(4, "wood"), torch.rand(4, 3, 32, 32)])
    together = f_net(x)
    assert together.shape == (12, FEATURES)
    assert (together - torch.cat([f_net(image[None]) for image in x])).abs().max() < 1e-4
    assert (together[0] - together[5]).abs().mean() > 1e-3  # and they do tell images apart


def test_train_cannot_thaw_it(f_net: FeatureNet) -> None:
    x = tiny.images(3)
    before = f_net(x)
    assert f_net.train() is f_net
    assert not any(module.training for module in f_net.modules())
    assert not any(parameter.requires_grad for parameter in f_net.parameters())
    assert torch.equal(f_net(x), before)
    nn.Sequential(f_net).train()  # nor can a parent
    assert not any(module.training for module in f_net.modules())


def test_freezing_copies(f_net: FeatureNet) -> None:
    net = tiny.backbone()
    frozen = FeatureNet.freeze(net)
    x = tiny.images(2)
    before = frozen(x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
    assert torch.equal(frozen(x), before)
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("mode", ano_unet.MODES)
def test_a_run_leaves_it_bit_for_bit_the_same(
    mode: str,
    f_net: FeatureNet,
    center: Center,
    local: LocalCenters,
    identity: UNet,
    instant: GatedUNet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Small(UNet):
        @staticmethod
        def fresh(width: int, depth: int, norm: str, generator: torch.Generator) -> UNet:
            return UNet.fresh(8, 3, norm, generator)

    monkeypatch.setattr(ano_unet, "UNet", Small)
    state = {name: tensor.clone() for name, tensor in f_net.state_dict().items()}
    settings = replace(ano_unet.DEFAULTS[mode], steps=2)
    c, start = (local, instant) if mode == "instant" else (center, identity)
    list(ano_unet.reconstruct(tiny.images(2), f_net, c, settings, start))
    assert state.keys() == f_net.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in f_net.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in f_net.parameters())


def randomised() -> Backbone:
    """A net whose BatchNorm has statistics, weights and biases of all sizes."""
    net, random = tiny.backbone(), tiny.generator(3)
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:
        part.momentum = 1.0  # the statistics of the batch below: with others the content would be lost
    with torch.no_grad():
        for part in norms:
            part.weight.uniform_(0.5, 1.5, generator=random)
            part.bias.normal_(0, 0.1, generator=random)
        net.train()(nn.functional.interpolate(torch.cat([tiny.images(8), tiny.images(8, "wood")]), 64))
        for part in norms:
            part.running_mean += 0.05 * part.running_var.sqrt()
            part.running_var *= torch.empty(part.num_features).uniform_(0.8, 1.3, generator=random)
    return net.eval()


def test_folding_batchnorm_keeps_the_function() -> None:
    net = randomised()
    folded = FeatureNet.freeze(net)
    net.load_state(rounded(net.state()), "itself")
    x = torch.cat([tiny.images(4), tiny.images(4, "wood")])
    with torch.no_grad():
        expected, found = net(x), folded(x)
    assert (expected - expected.mean(dim=0)).abs().max() > 0.1  # it is no comparison of constants
    assert (expected - found).abs().max() < 1e-3
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    assert any(isinstance(part, nn.BatchNorm2d) for part in net.modules())


def test_fingerprint_survives_the_disk_and_sees_one_weight(f_net: FeatureNet, tmp_path: Path) -> None:
    path = tmp_path / "f_net.pt"
    save_weights(path, "f_net", f_net.state(), {"backbone": f_net.meta()})
    loaded = load_f_net(path)
    assert loaded.fingerprint == f_net.fingerprint
    assert loaded.settings == f_net.settings
    assert all(torch.equal(tensor, f_net.state()[name]) for name, tensor in loaded.state().items())
    x = tiny.images(3)
    assert (loaded(x) - f_net(x)).abs().max() < 1e-4

    state = {name: tensor.clone() for name, tensor in f_net.state().items()}
    state["18.0.weight"][0, 0] += 0.5
    assert FeatureNet(state, f_net.settings).fingerprint != f_net.fingerprint


def test_input_normalisation_is_applied_inside(f_net: FeatureNet) -> None:
    x = tiny.images(3)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    named = FeatureNet(
        f_net.state(), BackboneSettings(0.5, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    )
    bare = FeatureNet(f_net.state(), BackboneSettings(0.5, mean=(0.0,) * 3, std=(1.0,) * 3))
    shifted = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert (named(x) - bare(shifted)).abs().max() < 1e-4
    assert (named(x) - bare(x)).abs().max() > 1e-2
    assert (f_net(x) - bare(2 * x - 1)).abs().max() < 1e-4


def test_feature_maps(f_net: FeatureNet) -> None:
    x = tiny.images(2)
    maps = f_net.feature_maps(x)
    assert [tuple(m.shape[-2:]) for m in maps] == [(8, 8), (4, 4), (2, 2)]  # strides 4, 8, 16
    assert all(len(m) == 2 for m in maps)
    assert torch.equal(f_net.feature_maps(x, layers=(6,))[0], maps[1])
    last = f_net.feature_maps(x, layers=(18,))[0].mean(dim=(2, 3))
    assert (5 * nn.functional.normalize(last, dim=1) - f_net(x)).abs().max() < 1e-4


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \(0\.5, 1\.0\), not 0\.75"):
        BackboneSettings(width=0.75)
    for alpha in (0.0, -1.0, 101.0, float("nan")):
        with pytest.raises(ValueError, match="α is a norm"):
            BackboneSettings(alpha=alpha)


def test_a_state_that_does_not_fit_is_refused(f_net: FeatureNet) -> None:
    with pytest.raises(WeightsError, match=r"other\.pt does not fit"):
        FeatureNet(f_net.state(), BackboneSettings(width=1.0), "other.pt")


# --- where training starts ---------------------------------------------------------------------------


def no_network(settings: BackboneSettings) -> Backbone:
    raise OSError("no network")


def test_starts_from_a_local_file(tmp_path: Path) -> None:
    net = tiny.backbone(5)
    path = tmp_path / "start.pth"
    torch.save(net.features.state_dict(), path)  # torchvision's layout, counters and all
    loaded, source = starting_backbone(path, BackboneSettings(width=0.5))
    assert source == "local file start.pth"
    assert all(torch.equal(tensor, net.state()[name]) for name, tensor in loaded.state().items())


def test_a_local_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "start.pth"
    with pytest.raises(WeightsError, match=r"start\.pth is missing"):
        starting_backbone(path, BackboneSettings(width=0.5))
    torch.save(tiny.backbone().features.state_dict(), path)
    with pytest.raises(WeightsError, match=r"start\.pth does not fit"):
        starting_backbone(path, BackboneSettings(width=1.0))
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match=r"start\.pth is not a state dict"):
        starting_backbone(path, BackboneSettings(width=0.5))


def test_falls_back_on_the_shipped_net_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_net, "_torchvision_imagenet", no_network)
    shipped = FeatureNet.freeze(Backbone(BackboneSettings(1.0, mean=(0.1, 0.2, 0.3))))
    net, source = starting_backbone(None, BackboneSettings(width=1.0, alpha=4.0), shipped)
    assert source == f"shipped f-Net {shipped.fingerprint[:12]}"
    assert net.settings == BackboneSettings(1.0, 4.0, mean=(0.1, 0.2, 0.3))  # its inputs, our α
    assert all(torch.equal(tensor, shipped.state()[name]) for name, tensor in net.state().items())
    with pytest.raises(WeightsError, match=r"could not be downloaded \(OSError\).*--start"):
        starting_backbone(None, BackboneSettings(width=1.0), None)
    with pytest.raises(WeightsError, match="could not be downloaded"):  # asked for by name: no other will do
        starting_backbone("download", BackboneSettings(width=1.0), shipped)


def test_width_one_half_is_never_downloaded(f_net: FeatureNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(settings: BackboneSettings) -> Backbone:
        raise AssertionError("torchvision has no weights of this width")

    monkeypatch.setattr(feature_net, "_torchvision_imagenet", never)
    net, source = starting_backbone(None, BackboneSettings(width=0.5), f_net)
    assert source.startswith("shipped f-Net")
    assert net.settings.width == 0.5
    with pytest.raises(WeightsError, match=r"width 1\.0 only"):
        starting_backbone("download", BackboneSettings(width=0.5), f_net)


def test_the_shipped_net_must_have_the_width_asked_for(
    f_net: FeatureNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_net, "_torchvision_imagenet", no_network)
    with pytest.raises(WeightsError, match=r"the shipped f-Net has width 0\.5"):
        starting_backbone(None, BackboneSettings(width=1.0), f_net)


def test_the_first_choice_is_torchvision_s(monkeypatch: pytest.MonkeyPatch, f_net: FeatureNet) -> None:
    downloaded = Backbone(BackboneSettings(1.0, mean=(0.485, 0.456, 0.406)))
    monkeypatch.setattr(feature_net, "_torchvision_imagenet", lambda settings: downloaded)
    net, source = starting_backbone(None, BackboneSettings(width=1.0), f_net)
    assert net is downloaded
    assert "IMAGENET1K_V2" in source
