"""Adversarial images: near the image, in its range, worse for the net, and drawn from a seed alone."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor, nn

from anounet.adversarial import _in_ball, adversarial

EPS = 0.5


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 3))


@pytest.fixture
def x() -> Tensor:
    """Images whose pixels lie all over [0, 1], its ends among them."""
    return (1.6 * torch.rand(6, 3, 16, 16, generator=tiny.generator()) - 0.3).clamp(0, 1)


def loss_of(net: nn.Module):
    target = torch.arange(6) % 3
    return lambda images: nn.functional.cross_entropy(net(images), target[: len(images)])


@pytest.mark.parametrize("steps", [1, 5])
def test_they_stay_in_the_ball_and_in_range_and_raise_the_loss(net: nn.Module, x: Tensor, steps: int) -> None:
    worse = adversarial(x, loss_of(net), EPS, steps, tiny.generator())
    far = (worse - x).flatten(1).norm(dim=1)
    assert (far <= EPS + 1e-5).all() and (far > 0.5 * EPS).all()
    assert worse.min() >= 0 and worse.max() <= 1 and not worse.requires_grad
    with torch.no_grad():
        clean, attacked = loss_of(net)(x), loss_of(net)(worse)
        start = x + _in_ball(x.shape, EPS, tiny.generator())
        noisy = loss_of(net)(start)
    assert attacked > clean + 0.05 and attacked > noisy + 0.05


def test_more_steps_find_worse_ones(net: nn.Module, x: Tensor) -> None:
    first, last = (loss_of(net)(adversarial(x, loss_of(net), EPS, n, tiny.generator())) for n in (1, 10))
    assert last > first


def test_no_gradient_of_the_net_is_touched(net: nn.Module, x: Tensor) -> None:
    adversarial(x, loss_of(net), EPS, 2, tiny.generator())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    loss_of(net)(x).backward()
    before = [p.grad.clone() for p in net.parameters()]
    with torch.no_grad():  # wherever it is called from
        adversarial(x, loss_of(net), EPS, 2, tiny.generator())
    assert all(torch.equal(p.grad, kept) for p, kept in zip(net.parameters(), before, strict=True))
    assert x.grad is None and not x.requires_grad


def test_the_seed_alone_decides(net: nn.Module, x: Tensor) -> None:
    before, kept = torch.get_rng_state(), x.clone()
    first = adversarial(x, loss_of(net), EPS, 1, tiny.generator())
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(x, kept)
    torch.rand(3)
    assert torch.equal(adversarial(x, loss_of(net), EPS, 1, tiny.generator()), first)
    assert not torch.equal(adversarial(x, loss_of(net), EPS, 1, tiny.generator(1)), first)


def test_the_start_is_uniform_in_the_ball() -> None:
    points = _in_ball(torch.Size([4000, 2, 1, 1]), 3.0, tiny.generator())
    radius = points.flatten(1).norm(dim=1)
    assert radius.max() <= 3.0
    assert (radius < 1.5).float().mean() == pytest.approx(0.25, abs=0.03)  # the share of the disc's area


def test_a_radius_of_zero_and_a_flat_loss_change_nothing_that_they_should_not(
    net: nn.Module, x: Tensor
) -> None:
    assert torch.equal(adversarial(x, loss_of(net), 0.0, 1, tiny.generator()), x)
    flat = adversarial(x, lambda images: (0 * images).sum(), EPS, 3, tiny.generator())
    assert torch.isfinite(flat).all() and ((flat - x).flatten(1).norm(dim=1) <= EPS + 1e-5).all()


@pytest.mark.parametrize(("eps", "steps"), [(-1.0, 1), (float("nan"), 1), (1.0, 0)])
def test_what_cannot_be_is_refused(net: nn.Module, x: Tensor, eps: float, steps: int) -> None:
    with pytest.raises(ValueError, match="a radius of 0 or more and a step or more"):
        adversarial(x, loss_of(net), eps, steps, tiny.generator())
