"""Gradient descent as a stream of typed steps.

What is optimised (U-Net weights, a GAN's z) is "parameters + a function that renders y"; what is minimised
sees y alone. Ano-Unet and AnoGAN share this one loop; a page, the command line and a test consume its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

WINDOW = 5  # steps over which L is asked whether it still falls


@dataclass(frozen=True)
class Step:
    """One step of an optimisation of B images.

    Attributes:
        index: steps taken before these losses were measured, 0 … total.
        total: steps in all.
        losses: name → (B,) float32 on the CPU; "L" is what is minimised. They belong to `image`.
        image: (B, 3, H, W) in [0, 1] on the CPU for snapshots and the last step, else None.
        taken: updates behind each image and its losses: fewer than `index` for one that has stopped, whose
            losses and image stay as they were then; empty: `index` for all.
        stopped: all images have stopped: the last Step, though `index` is less than `total`.
    """

    index: int
    total: int
    losses: Mapping[str, Tensor]
    image: Tensor | None
    taken: tuple[int, ...] = ()
    stopped: bool = False

    @property
    def last(self) -> bool:
        return self.stopped or self.index == self.total

    def updates(self, image: int) -> int:
        """How many updates the `image`-th of the batch took."""
        return self.taken[image] if self.taken else self.index


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
    stop: float = 0.0,
) -> Iterator[Step]:
    """Minimises objective(render())["L"], summed over the batch, and yields `steps + 1` Steps at most.

    Step k carries the losses after k updates, so the last one describes the very image it carries.

    Args:
        parameters: what is optimised; nothing else receives a gradient.
        render: returns y, (B, 3, H, W) in [0, 1].
        objective: y → losses by name, each (B,); "L" among them.
        optimizer: parameters → optimiser.
        steps: updates, 0 or more.
        snapshot_every: every how many steps a Step carries its image (0: only the last one).
        threads: CPU threads for each operation of a step; None leaves PyTorch's number.
        stop: an image stops where its L no longer falls (`falls_no_more`), whatever its neighbours do, and
            the stream ends when all have; 0: every step is taken.

    Raises:
        DivergedError: L is no longer a number.
    """
    parameters = list(parameters)
    update, ended = optimizer(parameters), _Ended(stop)
    for index in range(steps + 1):
        last = index == steps
        with cpu_threads(threads):  # left before the yield: the consumer's own work keeps its threads
            with torch.set_grad_enabled(not last):
                y = render()
                losses = objective(y)
            # A GPU is waited for here only where what it found decides whether there is an update.
            if stop and ended.all_have(losses["L"]):
                last = True
            if not last:
                update.zero_grad(set_to_none=True)
                # Not autograd.grad: its gradients may lie in memory otherwise than the parameters (the first
                # convolution's do where x is channels_last); fused optimisers on the CPU go by memory alone.
                losses["L"].sum().backward(inputs=parameters)
                update.step()
        snapshot = last or (snapshot_every > 0 and index % snapshot_every == 0)
        image = y.detach() if snapshot or ended.new else None
        # Copied, so that what the consumer keeps is neither a graph nor a view of a reused buffer.
        step = Step(
            index=index,
            total=steps,
            losses={name: value.detach().float().cpu().clone() for name, value in losses.items()},
            image=None if image is None else image.float().cpu().clone(memory_format=torch.contiguous_format),
        )
        del y, losses, image
        if stop:
            step = ended.kept(step, snapshot, last)
        if not torch.isfinite(step.losses["L"]).all():
            raise DivergedError(
                f"The loss stopped being a number at step {index} of {steps}: "
                "lower the learning rate or β and run it again."
            )
        yield step
        if last:
            return


def falls_no_more(curve: Tensor, stop: float) -> Tensor:
    """Whether the last `WINDOW` steps took no more than the share `stop` off L of all that was taken off it.

    Args:
        curve: L after 0, 1, … updates, (steps, B).

    Returns:
        bool (B,), each of its own curve alone; never before the `WINDOW`-th update.
    """
    if len(curve) <= WINDOW:
        return torch.zeros(curve.shape[1], dtype=torch.bool)
    least = curve.cummin(dim=0).values  # Adam's steps go up now and then
    return least[-1 - WINDOW] - least[-1] <= stop * (curve[0] - least[-1])


class _Ended:
    """The images of a batch that have stopped: the update that each stopped at, its losses and its image.

    The others' updates go on, and change what is rendered for it; what counts is kept here.
    """

    def __init__(self, stop: float) -> None:
        self._stop = stop
        self._curve: list[Tensor] = []
        self._at: dict[int, int] = {}  # image → updates it took
        self._losses: dict[int, dict[str, Tensor]] = {}
        self._images: dict[int, Tensor] = {}
        self.new: list[int] = []  # those that stopped at this step

    def all_have(self, losses: Tensor) -> bool:
        """Takes the L of one more step, (B,); says whether no image goes on."""
        self._curve.append(losses.detach().float().cpu().clone())
        still = falls_no_more(torch.stack(self._curve), self._stop).nonzero()[:, 0].tolist()
        self.new = [image for image in still if image not in self._at]
        self._at |= dict.fromkeys(self.new, len(self._curve) - 1)
        return len(self._at) == len(losses)

    def kept(self, step: Step, snapshot: bool, last: bool) -> Step:
        """The Step as its consumer sees it: what has stopped stays as it was."""
        for image in self.new:
            self._losses[image] = {name: value[image].clone() for name, value in step.losses.items()}
            self._images[image] = step.image[image].clone()
        for image, losses in self._losses.items():
            for name, value in losses.items():
                step.losses[name][image] = value
            if step.image is not None:
                step.image[image] = self._images[image]
        return replace(
            step,
            image=step.image if snapshot or last else None,
            taken=tuple(self._at.get(image, step.index) for image in range(len(step.losses["L"]))),
            stopped=last and step.index < step.total,
        )


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """So many threads for each of PyTorch's operations on a CPU; None leaves their number."""
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

    Each image is computed alone, so its result is the same bit for bit whatever its neighbours are. One that
    stops early stays as it is while the others go on.

    Raises:
        ValueError: a stream ends before the others without having stopped.
    """
    try:
        now: list[Step] = []
        while not now or not all(step.last for step in now):
            going = [k for k in range(len(streams)) if not now or not now[k].stopped]
            steps = [next(streams[k], None) for k in going]
            if not now and all(step is None for step in steps):
                return
            if any(step is None for step in steps) or len({step.total for step in steps}) > 1:
                raise ValueError("Optimisations that are run side by side have the same number of steps.")
            now = [steps[going.index(k)] if k in going else now[k] for k in range(len(streams))]
            images = [step.image for step in now]
            at = max(step.index for step in now)
            yield Step(
                index=at,
                total=now[0].total,
                losses={name: torch.cat([step.losses[name] for step in now]) for name in now[0].losses},
                image=torch.cat(images) if all(image is not None for image in images) else None,
                taken=tuple(n for step in now for n in step.taken or (step.index,) * len(step.losses["L"])),
                stopped=all(step.last for step in now) and at < now[0].total,
            )
    finally:
        for stream in streams:
            stream.close()  # an early stop ends every one of them
