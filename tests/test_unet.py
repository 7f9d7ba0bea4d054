"""The U-Net: its size, its start, and that an image is redrawn alone."""

from __future__ import annotations

import pytest
import tiny
import torch

from anounet.unet import GatedUNet, UNet


def count(net: UNet) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts() -> None:
    with torch.device("meta"):
        article, small = UNet(64, 5, "instance"), UNet(16, 5, "group")
    assert count(article) == pytest.approx(31.04e6, rel=0.01)
    assert count(small) == pytest.approx(1.94e6, rel=0.01)


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("image_skip", [False, True])
def test_shape_and_range(norm: str, image_skip: bool) -> None:
    net = UNet.fresh(8, 3, norm, tiny.generator(), image_skip)
    y = net(torch.rand(2, 3, 48, 32, generator=tiny.generator()))
    assert y.shape == (2, 3, 48, 32)
    assert y.min() > 0 and y.max() < 1


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_fresh_depends_on_its_generator_alone(norm: str) -> None:
    before = torch.get_rng_state()
    first = UNet.fresh(8, 3, norm, tiny.generator(1)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)  # whatever the global generator gave in between
    second = UNet.fresh(8, 3, norm, tiny.generator(1)).state_dict()
    other = UNet.fresh(8, 3, norm, tiny.generator(2)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert all(torch.isfinite(tensor).all() for tensor in first.values())


def test_fresh_weights_have_the_paper_s_spread() -> None:
    net = UNet.fresh(16, 3, "instance", tiny.generator())
    convolution, transposed = net.down[2][0], net.up[0]
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    assert transposed.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert convolution.bias.abs().max() == 0


def test_identity_redraws_images_unchanged() -> None:
    before = torch.get_rng_state()
    net = UNet.identity(8, 3, tiny.generator())
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.cat([tiny.images(4), torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    x = torch.cat([x, (torch.rand(1, 3, 32, 32, generator=tiny.generator()) > 0.5).float()])
    assert (net(x) - x).abs().max() < 2 / 255


def test_identity_can_be_changed_by_a_gradient_everywhere() -> None:
    x = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])  # where a bare sigmoid would be flat
    net = UNet.identity(8, 3, tiny.generator())
    net(x).sum().backward()
    assert net.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_an_image_does_not_see_its_neighbours(norm: str) -> None:
    net = UNet.fresh(8, 3, norm, tiny.generator())
    x = tiny.images(4)
    others = torch.cat([x[:1], tiny.images(3, "wood")])
    with torch.no_grad():
        assert torch.equal(net(x)[0], net(others)[0])
        assert (net(x)[2] - net(x[2:3])[0]).abs().max() < 1e-5


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_nothing_is_remembered_from_the_images_seen(norm: str) -> None:
    net = UNet.fresh(8, 3, norm, tiny.generator()).train()
    x = tiny.images(2)
    with torch.no_grad():
        first = net(x)
        net(tiny.images(2, "wood"))
        assert torch.equal(net(x), first)
        assert torch.equal(net.eval()(x), first)
    assert not list(net.buffers())


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="'batch': choose one of instance, group"):
        UNet(8, 3, "batch")
    for width, depth in ((4, 3), (12, 3), (8, 1)):
        with pytest.raises(ValueError, match=f"not {width}, {depth}"):
            UNet(width, depth)


# --- the gated net -----------------------------------------------------------------------------------


def seen(x: torch.Tensor) -> torch.Tensor:
    return torch.rand(len(x), 1, *x.shape[-2:], generator=tiny.generator(3)) * 4 - 1


def test_a_shut_gate_nearly_passes_the_image() -> None:
    x = tiny.images(4)
    colour = x.mean(dim=(0, 2, 3))
    before = torch.get_rng_state()
    net = GatedUNet.shut(8, 3, colour, tiny.generator())
    assert torch.equal(torch.get_rng_state(), before)
    y, gate = net(x, seen(x))
    assert y.shape == x.shape and gate.shape == (4, 1, 32, 32)
    assert torch.sigmoid(gate).max() < 0.05
    assert (y - x).abs().max() <= 0.05
    assert torch.allclose(y, x + torch.sigmoid(gate) * (colour[:, None, None] - x), atol=1e-5)


def test_an_open_gate_owes_nothing_to_the_image_and_a_closed_one_everything() -> None:
    x = tiny.images(2)
    net = GatedUNet.shut(8, 3, torch.tensor([0.2, 0.4, 0.6]), tiny.generator())
    with torch.no_grad():
        net.head.bias[3] = 20.0
        y, _ = net(x, seen(x))
        assert (y - torch.tensor([0.2, 0.4, 0.6])[:, None, None]).abs().max() < 1e-4
        net.head.bias[3] = -200.0
        assert torch.equal(net(x, seen(x))[0], x)


def test_the_gated_net_sees_the_distances_and_no_neighbours() -> None:
    x = tiny.images(4)
    net = GatedUNet.shut(8, 3, torch.full((3,), 0.5), tiny.generator())
    with torch.no_grad():
        net.head.weight.normal_(0, 0.1, generator=tiny.generator(1))
        y, gate = net(x, seen(x))
        assert not torch.equal(net(x, -seen(x))[1], gate)
        alone, own = net(x[2:3], seen(x)[2:3])
    assert (y[2] - alone[0]).abs().max() < 1e-5 and (gate[2] - own[0]).abs().max() < 1e-4
    assert not list(net.buffers())


def test_a_gated_net_can_be_changed_by_a_gradient_from_the_start() -> None:
    x = tiny.images(2)
    net = GatedUNet.shut(8, 3, torch.full((3,), 0.5), tiny.generator())
    y, gate = net(x, seen(x))
    (y.sum() + gate.sum()).backward()
    assert all(row.abs().max() > 0 for row in net.head.weight.grad)
