"""Nets run as one: each image goes through its own, and no gradient reaches another's."""

from __future__ import annotations

import pytest
import tiny
import torch

from anounet.independent import IndependentNets
from anounet.unet import GatedUNet, UNet


def unet(seed: int, depth: int = 3) -> UNet:
    return UNet.fresh(8, depth, "instance", tiny.generator(seed))


def test_each_image_goes_through_its_own_net() -> None:
    x, asked = tiny.images(3), []
    nets = IndependentNets(3, lambda index: asked.append(index) or unet(index), "cpu")
    y = nets(x)
    assert asked == [0, 1, 2]
    for index in range(3):
        assert torch.allclose(y[index], unet(index)(x[index : index + 1])[0], atol=1e-5)
    assert sum(p.numel() for p in nets.parameters()) == 3 * sum(p.numel() for p in unet(0).parameters())


def test_a_loss_reaches_its_own_net_alone() -> None:
    x = tiny.images(2)
    nets = IndependentNets(2, unet, "cpu")
    nets(x)[1].sum().backward()
    own = unet(1)
    own(x[1:]).sum().backward()
    for stacked, (name, wanted) in zip(nets.parameters(), own.named_parameters(), strict=True):
        assert not stacked.grad[0].any(), name
        assert torch.allclose(stacked.grad[1], wanted.grad, rtol=1e-3, atol=1e-4), name


def test_a_net_may_take_and_give_more_than_one_thing() -> None:
    gated = GatedUNet.shut(8, 2, torch.full((3,), 0.5), tiny.generator())
    x, seen = tiny.images(2), torch.rand(2, 1, 32, 32, generator=tiny.generator())
    y, gate = IndependentNets(2, lambda index: gated, "cpu")(x, seen)
    wanted = gated(x, seen)
    assert torch.allclose(y, wanted[0], atol=1e-5) and torch.allclose(gate, wanted[1], atol=1e-4)


def test_what_can_t_be_run_as_one_is_refused() -> None:
    with pytest.raises(ValueError, match="Net 1 is of another shape"):
        IndependentNets(2, lambda index: unet(0, depth=2 + index), "cpu")
    with pytest.raises(ValueError, match="Nets with buffers"):
        IndependentNets(2, lambda index: torch.nn.BatchNorm2d(3), "cpu")
