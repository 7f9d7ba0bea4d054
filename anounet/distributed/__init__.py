"""Training by several processes at once, as `torchrun` starts them: one a GPU, or some on a CPU.

Every process draws the same batch from the same generators and takes its share of it through the net; what
comes out is put together again, so that each computes the loss of the whole batch, the very formula of a
single process. Where no group of processes is at work, nothing here does anything.
"""

from anounet.distributed.batch_norm import synchronised
from anounet.distributed.parallel import Parallel, own_rows, parallel, run_own, shared_mean
from anounet.distributed.processes import (
    agreed,
    check_alike,
    first,
    group,
    launched,
    own_device,
    rank,
    restarted,
    wait,
    world,
)

__all__ = [
    "Parallel",
    "agreed",
    "check_alike",
    "first",
    "group",
    "launched",
    "own_device",
    "own_rows",
    "parallel",
    "rank",
    "restarted",
    "run_own",
    "shared_mean",
    "synchronised",
    "wait",
    "world",
]
