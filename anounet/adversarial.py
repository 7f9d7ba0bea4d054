"""Adversarial images: what a small change can do to a net at worst, for training one that withstands it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def adversarial(
    x: Tensor, loss_of: Callable[[Tensor], Tensor], eps: float, steps: int, generator: torch.Generator
) -> Tensor:
    """Images near x, in L2, that raise a loss: projected gradient ascent from a random point of the ball.

        x₀ = Π(x + u),    xₖ₊₁ = Π(xₖ + 2.5 ε/steps · g/‖g‖₂),    g = ∂ loss/∂xₖ

    u is uniform in the ball of radius ε; Π goes to the nearest point of the ball around x, then of [0, 1].
    Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks", and, for the step in
    L2, Engstrom et al. 2019, the library `robustness`.

    Args:
        x: (B, 3, H, W) in [0, 1].
        loss_of: images → a number, of which each image's share depends on that image.
        eps: ε, each image's L2 radius, over all its pixels.
        steps: of the ascent, 1 or more.
        generator: of u; on the CPU.

    Returns:
        (B, 3, H, W) in [0, 1], within ε of x, without a graph. No `.grad` of the net's is touched.

    Raises:
        ValueError: a radius that is negative, or no step.
    """
    if not eps >= 0 or steps < 1:
        raise ValueError(
            f"Adversarial images need a radius of 0 or more and a step or more, not {eps}, {steps}."
        )
    x = x.detach()
    near = (x + _in_ball(x.shape, eps, generator).to(x)).clamp(0, 1)
    for _ in range(steps):
        near.requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(loss_of(near), near)
        change = near.detach() + 2.5 * eps / steps * slope / _norms(slope).clamp_min(1e-12) - x
        change *= (eps / _norms(change).clamp_min(1e-12)).clamp_max(1)
        near = (x + change).clamp(0, 1)  # x is in [0, 1], so this moves no image away from it
    return near


def _in_ball(shape: torch.Size, eps: float, generator: torch.Generator) -> Tensor:
    """Points drawn uniformly from a ball: any direction, and a radius of ε · uniform^(1/dimensions)."""
    direction = torch.randn(shape, generator=generator)
    radius = eps * torch.rand(shape[0], 1, 1, 1, generator=generator) ** (1 / shape[1:].numel())
    return radius * direction / _norms(direction).clamp_min(1e-12)


def _norms(images: Tensor) -> Tensor:
    """‖·‖₂ of each image: (B, 3, H, W) → (B, 1, 1, 1)."""
    return images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
