"""A net that several processes run together: each takes its rows of the batch, and gets all that come out.

    rows of the batch ─► own rows ─► net ─► own rows of what comes out ─► all rows ─► loss of the whole batch
                     _Own           DDP                             _Gathered

The loss is the same number on every process. Its gradient with respect to what came out is known to each in
full, of which it takes its own rows back through the net; the weights' gradients are then *summed* by
`DistributedDataParallel`, while the backward pass still runs. So means, cross-entropies with left-out rows,
and terms that compare images with each other are right for any shares, even or not, none at all too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from anounet.distributed.batch_norm import synchronised
from anounet.distributed.processes import rank, world


def parallel(net: nn.Module) -> nn.Module | Parallel:
    """The net as all processes run it together; a single process gets the net itself.

    The net's BatchNorms look at the whole batch from now on (`synchronised`), and its weights are those of
    the first process.
    """
    return Parallel(net) if world() > 1 else net


class Parallel:
    """Runs a net on this process's rows of a batch, and gives the rows of all.

    Called with tensors (B, …), the same on every process, it gives what the net gives for them: a tensor
    (B, …) or a tuple of such, rows of which depend on the same rows alone, BatchNorm apart. Gradients reach
    the tensors, whole, and the weights, summed, on every process alike.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = synchronised(net)
        # BatchNorm's statistics and spectral norm's vectors are the same on all processes already.
        self._summing = DistributedDataParallel(net, forward_sync_buffers=False)
        self._summing.register_comm_hook(None, _summed)

    def __call__(self, *batch: Tensor) -> Any:
        count = len(batch[0])
        out = self.share(*(_Own.apply(rows) for rows in batch))
        if isinstance(out, tuple):
            return tuple(_Gathered.apply(part, count) for part in out)
        return _Gathered.apply(out, count)

    def share(self, *own: Tensor) -> Any:
        """The net run on own rows alone, see `run_own`."""
        trains = torch.is_grad_enabled() and self.net.training
        # Where only the input takes a gradient there is none to sum, and DDP would wait for one.
        trains = trains and any(p.requires_grad for p in self.net.parameters())
        return self._summing(*own) if trains else self.net(*own)


def run_own(net: nn.Module) -> Callable[..., Any]:
    """As `parallel`, for a loss that is computed of own rows alone and put together by `shared_mean`."""
    return Parallel(net).share if world() > 1 else net


def own_rows(batch: Tensor) -> Tensor:
    """This process's rows of a batch: (B, …) → B / `world()` of them, the first processes one more."""
    return batch.tensor_split(world())[rank()] if world() > 1 else batch


def shared_mean(own: Tensor, count: int, total: int) -> Tensor:
    """Means over own rows → those over the batch, whose gradients are this process's part of a sum.

    Args:
        own: means over this process's `count` rows, 1 or more, of `total`; any shape.
    """
    return _Mean.apply(own, count / total) if world() > 1 else own


def _summed(_, bucket):  # type: (None, distributed.GradBucket) -> Future[Tensor]; DDP takes no strings
    """DDP's own way but for its mean: the loss is the whole batch's on every process, not its share's."""
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


class _Own(torch.autograd.Function):
    """All rows → own rows; going back, each process's rows of the gradient → all rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return own_rows(rows).clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return _all_rows(slope, ctx.count)


class _Gathered(torch.autograd.Function):
    """Own rows → all rows; going back, own rows of the gradient, which each process has in full."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, count: int) -> Tensor:
        return _all_rows(own, count)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return own_rows(slope), None


class _Mean(torch.autograd.Function):
    """A mean over own rows, and their share of the batch → the batch's mean."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: float) -> Tensor:
        ctx.share = share
        whole = own * share
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope * ctx.share, None


def _all_rows(own: Tensor, count: int) -> Tensor:
    """Every process's rows, (B_r, …) → (count, …), in the order of `own_rows`."""
    most = -(-count // world())  # shares differ by a row: each is filled up to the longest for the way
    filled = own.new_zeros(most, *own.shape[1:])
    filled[: len(own)] = own
    every = filled.new_empty(world() * most, *own.shape[1:])
    distributed.all_gather_single(every, filled)
    longer = count % world() or world()  # so many processes have the longest share
    shares = every.split(most)
    return torch.cat([s[: most - (r >= longer)] for r, s in enumerate(shares)])
