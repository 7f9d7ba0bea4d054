"""Who this process is among those that `torchrun` started, and what they tell each other beside gradients."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)  # that processes wait for each other: one may write a checkpoint meanwhile


def launched() -> int:
    """How many processes `torchrun` started, on all machines; 1 where it did not start this one."""
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        return 1
    return int(os.environ["WORLD_SIZE"])


def restarted() -> bool:
    """Whether `torchrun` starts these processes anew, since one of them failed before."""
    return launched() > 1 and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _at_work() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def world() -> int:
    """Processes of the group that is at work, else 1."""
    return distributed.get_world_size() if _at_work() else 1


def rank() -> int:
    """This process's number in the group, or among those that `torchrun` started, from 0."""
    if _at_work():
        return distributed.get_rank()
    return int(os.environ["RANK"]) if launched() > 1 else 0


def first() -> bool:
    """Whether this is the process that writes files and speaks; a single process is."""
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """This process's own device of the kind asked for: of GPUs, that of its number on this machine.

    Raises:
        ValueError: there are fewer GPUs here than processes, or all would share the one that is named.
    """
    if launched() == 1 or device.type != "cuda":
        return device
    number, local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    count = torch.cuda.device_count()
    if device.index is not None:
        raise ValueError(f"Each process takes a GPU of its own: ask for --device cuda, not {device}.")
    if local > count:
        raise ValueError(
            f"{local} processes need as many GPUs, and there are {count} here: start fewer "
            "(--nproc-per-node), or use --device cpu."
        )
    return torch.device("cuda", number)


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """Has the processes that `torchrun` started work together; a single one goes on by itself.

    Over NCCL on GPUs and gloo on CPUs. Who waits for another longer than `TIMEOUT` fails, and where one
    fails `torchrun` ends the others.
    """
    if launched() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    number, count = int(os.environ["RANK"]), launched()
    store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    own = distributed.PrefixStore(meeting(store, number, count), store)
    distributed.init_process_group(backend, store=own, rank=number, world_size=count, timeout=TIMEOUT)
    yield  # after an error nobody waits for the others: they may be gone
    distributed.barrier()
    distributed.destroy_process_group()


def meeting(store: distributed.Store, number: int, count: int) -> str:
    """A name that the processes of this very start agree on, for what they leave in the store.

    `torchrun` keeps its store when it starts processes anew, and in it the addresses of those that are dead
    (PyTorch's issue 135712): who reads them waits for ever. The number of restarts does not tell starts
    apart, since each machine counts its own. So each process but the first calls itself by a word drawn
    anew, goes by the answer to that word alone, and says that it has it.

    Raises:
        ValueError: some did not come within `TIMEOUT`.
    """
    if number:
        word = uuid.uuid4().hex
        store.set(f"here/{number}", word)
        name = store.get(f"answer/{word}").decode()
        store.set(f"{name}/has/{number}", "")
        return name
    name, until = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    missing = list(range(1, count))
    while missing:
        if time.monotonic() > until:
            raise ValueError(f"Of {count} processes {len(missing)} did not come: look at what they said.")
        for other in missing:
            if store.check([f"here/{other}"]):  # maybe a word of one that is dead: it is asked for again
                store.set(f"answer/{store.get(f'here/{other}').decode()}", name)
        time.sleep(0.02)
        missing = [other for other in missing if not store.check([f"{name}/has/{other}"])]
    return name


def wait() -> None:
    """Returns when every process of the group has come here: what the first one wrote can be read."""
    if world() > 1:
        distributed.barrier()


def agreed(find: Callable[[], T]) -> T:
    """What the first process finds, for all: files may look otherwise from another machine, or later."""
    if world() == 1:
        return find()
    found = [find() if first() else None]
    distributed.broadcast_object_list(found)
    return found[0]


def check_alike(described: Mapping[str, Any], what: str) -> None:
    """Refuses to train together where a process has other images, nets or settings than the first one.

    Raises:
        ValueError: this process is such a one.
    """
    wanted = agreed(lambda: dict(described))
    other = [name for name, value in described.items() if wanted.get(name) != value]
    if other:
        raise ValueError(
            f"On this machine the training of the {what} is of other {', '.join(other)} than on the first "
            "one: all need the same data and weights."
        )
