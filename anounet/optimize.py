"""Gradient descent as a stream of typed steps.

What is optimised (U-Net weights, a GAN's z) is "parameters + a function that renders y"; what is minimised
sees y alone. Ano-Unet and AnoGAN share this one loop; a page, the command line and a test consume its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One step of an optimisation of B images.

    Attributes:
        index: steps taken before these losses were measured, 0 … total.
        total: steps in all.
        losses: name → (B,) float32 on the CPU; "L" is what is minimised. They belong to `image`.
        image: (B, 3, H, W) in [0, 1] on the CPU for snapshots and the last step, else None.
    """

    index: int
    total: int
    losses: Mapping[str, Tensor]
    image: Tensor | None

    @property
    def last(self) -> bool:
        return self.index == self.total


class DivergedError(ArithmeticError):
    """A loss became NaN or infinite; the message names the step."""


def descend(
    parameters: Iterable[Tensor],
    render: Callable[[], Tensor],
    objective: Callable[[Tensor], dict[str, Tensor]],
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    *,
    steps: int,
    snapshot_every: int = 0,
    threads: int | None = None,
) -> Iterator[Step]:
    """Minimises objective(render())["L"], summed over the batch, and yields `steps + 1` Steps.

    Step k carries the losses after k updates, so the last one describes the very image it carries.

    Args:
        parameters: what is optimised; nothing else receives a gradient.
        render: returns y, (B, 3, H, W) in [0, 1].
        objective: y → losses by name, each (B,); "L" among them.
        optimizer: parameters → optimiser.
        steps: updates, 0 or more.
        snapshot_every: every how many steps a Step carries its image (0: only the last one).
        threads: CPU threads for each operation of a step; None leaves PyTorch's number.

    Raises:
        DivergedError: L is no longer a number.
    """
    parameters = list(parameters)
    update = optimizer(parameters)
    for index in range(steps + 1):
        last = index == steps
        with _cpu_threads(threads):  # left before the yield: the consumer's own work keeps its threads
            with torch.set_grad_enabled(not last):
                y = render()
                losses = objective(y)
            if not last:
                update.zero_grad(set_to_none=True)
                # Not autograd.grad: its gradients may lie in memory otherwise than the parameters (the first
                # convolution's do where x is channels_last); fused optimisers on the CPU go by memory alone.
                losses["L"].sum().backward(inputs=parameters)
                update.step()
        snapshot = last or (snapshot_every > 0 and index % snapshot_every == 0)
        # Copied, so that what the consumer keeps is neither a graph nor a view of a reused buffer.
        step = Step(
            index=index,
            total=steps,
            losses={name: value.detach().float().cpu().clone() for name, value in losses.items()},
            image=y.detach().float().cpu().clone(memory_format=torch.contiguous_format) if snapshot else None,
        )
        del y, losses
        if not torch.isfinite(step.losses["L"]).all():
            raise DivergedError(
                f"The loss stopped being a number at step {index} of {steps}: "
                "lower the learning rate or β and run it again."
            )
        yield step


@contextmanager
def _cpu_threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(streams: Sequence[Iterator[Step]]) -> Iterator[Step]:
    """Runs independent one-image optimisations in step and joins their Steps into Steps of B images.

    Each image is computed alone, so its result is the same bit for bit whatever its neighbours are.
    """
    try:
        for steps in zip(*streams, strict=True):
            images = [step.image for step in steps]
            yield Step(
                index=steps[0].index,
                total=steps[0].total,
                losses={name: torch.cat([step.losses[name] for step in steps]) for name in steps[0].losses},
                image=torch.cat(images) if all(image is not None for image in images) else None,
            )
    finally:
        for stream in streams:
            stream.close()  # an early stop ends every one of them
