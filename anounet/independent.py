"""B nets of one shape, each with weights of its own, run as one: image i goes through net i alone.

Their weights are stacked, and a convolution of B nets becomes one convolution of B groups (`torch.func.vmap`
over `functional_call`), so that a GPU is as busy with B images as with one large net. A stateless optimiser's
update is the same element by element, and so is the sum of the losses' gradient: nothing of an image reaches
another one's weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class IndependentNets:
    """B nets in one.

    Args:
        count: B, 1 or more.
        net: i → the i-th net; all of one shape, without buffers. Asked one after the other, so that no more
            than one of them lies beside the stack.
        device: where the stack is.

    Raises:
        ValueError: the nets differ in shape, or hold buffers.
    """

    def __init__(self, count: int, net: Callable[[int], nn.Module], device: torch.device | str) -> None:
        self._stack: dict[str, Tensor] = {}
        for index in range(count):
            one = net(index)
            if next(one.buffers(), None) is not None:
                raise ValueError("Nets with buffers can't be run as one: their state is no weight.")
            own = dict(one.named_parameters())
            if index == 0:
                self._net = copy.deepcopy(one).to("meta")
                self._stack = {
                    name: torch.empty(count, *value.shape, dtype=value.dtype, device=device)
                    for name, value in own.items()
                }
            if {name: value.shape for name, value in own.items()} != {
                name: value.shape[1:] for name, value in self._stack.items()
            }:
                raise ValueError(f"Net {index} is of another shape than the first one.")
            for name, value in own.items():
                self._stack[name][index] = value.detach()
        for value in self._stack.values():
            value.requires_grad_(True)

    def parameters(self) -> list[Tensor]:
        """The stacked weights, (B, …) each."""
        return list(self._stack.values())

    def __call__(self, *inputs: Tensor) -> Any:
        """What each net makes of its own image: (B, C, H, W) each → the same, or a tuple of such."""

        def one(weights: dict[str, Tensor], *images: Tensor) -> Any:
            made = functional_call(self._net, weights, tuple(image[None] for image in images))
            return tuple(part[0] for part in made) if isinstance(made, Sequence) else made[0]

        return vmap(one)(self._stack, *inputs)
