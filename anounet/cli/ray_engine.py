"""`visualize --engine ray`: the same files and tables, from actors of Ray on one machine or many.

The driver, the process of the command, lists the images and puts their names into blocks; Ray Data hands the
blocks to actors, one a device, and the block of an actor that died to another one. An actor holds the bundle,
reads and decodes the images of its block, redraws them, writes their files and gives their rows back. The
driver notes each image once, as they come, and holds the rows of no more than a few blocks.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

# Before Ray is imported, which reads them then: nothing is sent anywhere, and Ray keeps what it has to say.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX", "^"
)  # all that it would print, on standard output, of a death
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without it, a notice of what it will mean

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.exceptions
import torch
from ray.util.annotations import RayDeprecationWarning

from anounet import ano_unet
from anounet.bundle import Bundle
from anounet.cli.addresses import Stores, is_address
from anounet.cli.ledger import RUN
from anounet.cli.pipeline import decoded, results
from anounet.cli.visualize import Run
from anounet.cli.writing import Writer, named, row_of
from anounet.images import Decoded, decode_file, image_files
from anounet.memory import keep_freed
from anounet.visualization import INSTANT_BATCH, Result

OBJECT_STORE = 256 * 2**20  # bytes, of a cluster of our own: names, the bundle and rows are all that is in it
BLOCKS = 4  # for each actor at least, so that all end at about the same time
TRIES = 4  # at a block whose actor dies
CPU_READERS, GPU_READERS = 4, 16  # threads of an actor that read and decode; reading is mostly waiting

# Images in a block at most, by mode: some seconds of work. A block is what is done again when an actor dies.
MOST = {"instant": 128, "fast": 16, "article": 1}
MOST_ON_GPU = {"instant": 512, "fast": 256, "article": 64}

Row = dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """The actors and what each claims of the cluster: `cpus` and `gpus` of one, fractions too."""

    actors: int
    cpus: float
    gpus: float

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True)
class Job:
    """What every actor is told.

    Attributes:
        bundle: on the CPU; Ray carries it to each machine once, so no other needs the weights.
        device: "cpu" or "cuda"; Ray shows an actor its own GPU alone.
        out: where images' files go: a folder or an address.
        home: the driver's folder, where images or `out` are given relative to it.
        proof: a file that the driver has just written, where `out` is a folder.
    """

    bundle: Bundle
    settings: ano_unet.Settings
    map: str
    colormap: str
    gate: bool
    device: str
    stores: Stores
    out: str
    home: str | None
    proof: str | None


class ClusterError(ValueError):
    """Ray or its actors failed, and their logs may say why."""


class Redraw:
    """An actor: block of images → their rows. Its process is its own, so it may set what is the process's."""

    def __init__(self, job: Job) -> None:
        self.job = job
        if job.home is not None:
            _find(job.home, "the folder that the command was given in")
            os.chdir(job.home)
        if job.proof is not None:
            _find(job.proof, "the folder of the results")
        keep_freed()
        if job.device == "cpu":
            torch.set_num_threads(1)  # there is an actor for each core
        self.bundle = job.bundle.to(job.device)
        if is_address(job.out):
            self.writer: Writer = StoreWriter(job.out, job.map, job.colormap, job.stores)
        else:
            self.writer = Writer(Path(job.out), job.map, job.colormap)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Columns number, file, name → number and found, JSON of an image's row and regions.

        What no other image would fare better with, a full disk say, is told as one row with number −1: an
        exception would be one of Ray's, of which nobody could tell whether to go on.
        """
        try:
            found = [json.dumps(pair) for pair in self._pairs(block)]
            return pa.table({"number": block["number"], "found": found})
        except (ValueError, OSError, torch.OutOfMemoryError) as error:
            why = {"sentence": f"{_first_line(error)} (on {socket.gethostname()})"}
        except Exception:
            why = {"traceback": traceback.format_exc()}
        return pa.table({"number": [-1], "found": [json.dumps(why)]})

    def decode(self, file: str) -> Decoded:
        size = self.bundle.size
        return self.job.stores.decode(file, size) if is_address(file) else decode_file(file, size)

    def _pairs(self, block: pa.Table) -> Iterator[tuple[Row, list[Row]]]:
        names = dict(zip(block["file"].to_pylist(), block["name"].to_pylist(), strict=True))
        on_gpu = self.job.device != "cpu"
        images = decoded(names, self.decode, GPU_READERS if on_gpu else CPU_READERS)
        for file, _, result in results(images, self.bundle, self.job.settings, gate=self.job.gate, workers=1):
            row, regions = {"file": file, "error": ""}, []
            if isinstance(result, Result):
                row |= row_of(result)
                regions = self.writer.write(names[file], result)
            else:
                row["error"] = named(result, file)
            yield row, regions


class StoreWriter(Writer):
    """Writes images' files to an address."""

    def __init__(self, out: str, map_name: str, colormap: str, stores: Stores) -> None:
        super().__init__(Path(), map_name, colormap)
        self.address, self.stores = out.rstrip("/"), stores

    def save(self, name: str, data: bytes) -> None:
        self.stores.save(f"{self.address}/{name}", data)


class RayRun(Run):
    """A batch whose rows come from a cluster."""

    actor = Redraw

    def each(self) -> int:
        with ExitStack() as self.opened:  # the cluster, if there is an image to redraw
            try:
                return super().each()
            except ray.exceptions.RayError as error:
                raise ClusterError(f"Ray stopped: {_last_line(error)}. More is in {self.logs}.") from error

    def _listed(self) -> list[str]:
        given = self.given
        if given.actors is not None and given.actors < 1:
            raise ValueError(f"The number of actors must be 1 or more, not {given.actors}.")
        if given.files is not None and not is_address(given.files):
            raise ValueError(f"--files takes an address (s3://…, gs://…), not '{given.files}'.")
        self.stores = Stores([path for path in (*given.paths, given.files) if path and is_address(path)])
        self.times: dict[str, float] = {}
        files: list[str] = []
        for path in given.paths:
            if is_address(path):
                self.times |= (there := self.stores.images(path))
                files += there
        local = [path for path in given.paths if not is_address(path)]
        return list(dict.fromkeys([*files, *map(str, image_files(local))]))

    def _device(self) -> torch.device:
        if self.given.device not in (None, "cpu", "cuda"):
            raise ValueError(
                f"With --engine ray a device is cpu or cuda, not '{self.given.device}': Ray says which GPU."
            )
        return torch.device("cpu")  # the driver only looks into the bundle

    def _computed_on(self) -> str:
        pool = self.__dict__.get("pool")
        return f"{pool.actors} × {pool.device}, Ray" if pool else "–"

    @cached_property
    def _there(self) -> set[str]:
        """All names in the folder of the results: one look, where asking for each would take hours."""
        if self.given.files is not None:
            return self.stores.names(self.given.files)
        return {entry.name for entry in os.scandir(self.out)}

    def _is_there(self, name: str) -> bool:
        return name in self._there

    def _modified(self, file: str) -> float:
        if not is_address(file):
            return super()._modified(file)
        if file not in self.times:
            raise FileNotFoundError(file)
        return self.times[file]

    def _rows(self) -> Iterator[tuple[Row, list[Row]]]:
        """Each image's row and regions, as they come, each once."""
        self.__dict__.pop("_there", None)
        if not self.files:
            return
        self.logs = self.opened.enter_context(cluster(self.given.address))
        self.pool = pool_of(ray.nodes(), self.given.device, self.given.actors)
        self.progress.note(f"{self.pool.actors} actors on {self.pool.device} are starting")
        if self.given.files is not None:
            self.stores.make_folder(self.given.files)
        missing = np.ones(len(self.files), dtype=bool)
        size = block_size(len(self.files), self.pool, self.settings)
        yield from self._pass(missing, size)
        if missing.all():
            raise ClusterError(f"Every actor died, at each of {TRIES} tries: {self.logs} may say of what.")
        # It may be one image that the others of its block, and of the next, died with: each is tried alone.
        yield from self._pass(missing, 1, in_flight=1)
        for number in np.flatnonzero(missing):
            file = self.files[number]
            error = f"{file}: the process that read it died {TRIES} times: look at it, and at the memory."
            yield {"file": file, "error": error}, []

    def _pass(
        self, missing: np.ndarray, size: int, in_flight: int | None = None
    ) -> Iterator[tuple[Row, list[Row]]]:
        """The rows of the images that are missing, from blocks of `size`; takes them from `missing`.

        Args:
            in_flight: blocks that an actor holds, and that die with it; Ray Data's choice by default.
        """
        numbers = np.flatnonzero(missing)
        if not len(numbers):
            return
        blocks = [self._block(numbers[i : i + size]) for i in range(0, len(numbers), size)]
        with warnings.catch_warnings():  # of the last argument, which has no heir yet
            warnings.simplefilter("ignore", RayDeprecationWarning)
            rows = ray.data.from_blocks(blocks).map_batches(
                self.actor,
                batch_size=None,
                batch_format="pyarrow",
                fn_constructor_args=(self._job(),),
                compute=ray.data.ActorPoolStrategy(
                    size=min(self.pool.actors, len(blocks)), max_tasks_in_flight_per_actor=in_flight
                ),
                num_cpus=self.pool.cpus,
                num_gpus=self.pool.gpus,
                max_task_retries=TRIES - 1,
            )
        for block in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            for number, found in zip(block["number"].to_pylist(), block["found"].to_pylist(), strict=True):
                if number < 0:
                    _stop(json.loads(found))
                if missing[number]:  # a block that was done again may come twice
                    missing[number] = False
                    yield tuple(json.loads(found))

    def _block(self, numbers: np.ndarray) -> pa.Table:
        files = [self.files[number] for number in numbers]
        return pa.table({"number": numbers, "file": files, "name": [self.names[file] for file in files]})

    def _job(self) -> Job:
        files, out = self.given.files, self.out.absolute()
        relative = any(not is_address(path) and not os.path.isabs(path) for path in self.given.paths)
        return Job(
            bundle=replace(self.bundle, anogan=None, encoder=None, decoder=None, classifier=None),
            settings=self.settings,
            map=self.map,
            colormap=self.given.colormap,
            gate=self.given.gate,
            device=self.pool.device,
            stores=self.stores,
            out=files or str(out),
            home=os.getcwd() if relative else None,
            proof=None if files else str(out / RUN),
        )


def pool_of(nodes: Sequence[Mapping[str, Any]], device: str | None, actors: int | None) -> Pool:
    """How many actors, and what each claims, so that each machine keeps one CPU free for Ray's own tasks.

    Args:
        nodes: as `ray.nodes()` gives them.
        device: "cpu", "cuda", or None for GPUs where there are any.
        actors: their number; by default one for each GPU, or for each CPU.

    Raises:
        ValueError: the cluster has no GPU, or no CPU, at all.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    each = [int(node["CPU"]) for node in alive if node.get("CPU", 0) >= 1]
    gpus, cpus = int(sum(node.get("GPU", 0) for node in alive)), sum(each)
    if not cpus:
        raise ValueError("The cluster has no CPU to spare: start Ray on it with --num-cpus.")
    if device == "cuda" and not gpus:
        raise ValueError("The cluster has no GPU: use --device cpu.")
    on_gpus = bool(gpus) and device != "cpu"
    count = actors or (gpus if on_gpus else cpus)
    # One of four CPUs free: four actors of 3/4 CPU. More actors than CPUs share all but one.
    share = min((n - 1) / n if n > 1 else 0.5 for n in each)
    share = min(share, (cpus - 1 if cpus > 1 else 0.5) / count)
    return Pool(count, _floor(share), _floor(1 / math.ceil(count / gpus)) if on_gpus else 0)


def block_size(count: int, pool: Pool, settings: ano_unet.Settings) -> int:
    """Images in a block: few enough that every actor gets some blocks, and whole passes of `instant` mode."""
    mode = "fast" if settings.mode == "instant" and settings.steps else settings.mode
    most = (MOST_ON_GPU if pool.gpus else MOST)[mode]
    fair = math.ceil(count / (BLOCKS * pool.actors))
    whole = INSTANT_BATCH if mode == "instant" else 1
    return min(most, math.ceil(fair / whole) * whole)


@contextmanager
def cluster(address: str | None) -> Iterator[str]:
    """Joins a cluster, or starts one on this machine; where this process is in one already, uses that.

    Yields:
        Where its logs are, for people. Those of a cluster started here stay after a `ClusterError` alone.

    Raises:
        ValueError: no cluster can be joined at the address, or started.
    """
    if ray.is_initialized():
        _hush()
        yield "Ray's logs"
        return
    # Ray's sockets lie in it, and a socket's path has 107 characters at most.
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) < 25 else "/tmp"
    folder = None if address else tempfile.mkdtemp(prefix="anounet-ray-", dir=short)
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if folder:
        how |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE, "_temp_dir": folder}
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray puts one into the home
    try:
        if address:
            _ask(address)
        with _no_stderr():  # a line that says how much will be said
            ray.init(address=address or "local", **how)
    except (OSError, ValueError, RuntimeError) as error:
        why = _first_line(error)
        if folder:
            raise ValueError(f"Ray could not be started: {why}") from error
        raise ValueError(
            f"The Ray cluster at '{address}' could not be joined ({why}): is it running, by 'ray start "
            "--head', and where it asks for a token, is RAY_AUTH_MODE=token set?"
        ) from error
    try:
        _hush()
        yield f"{folder}/session_latest/logs" if folder else "the logs of the cluster"
    except ClusterError:
        folder = None
        raise
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _ask(address: str) -> None:
    """Finds in seconds that nobody listens at HOST:PORT, which takes Ray ten minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _no_stderr() -> Iterator[None]:
    """What is written to the file descriptor, by C++ too, is lost."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _hush() -> None:
    """Ray Data's bars and lines give way to ours; its log files keep everything."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # `_rows` sees what did not come
    context.max_consecutive_actor_init_deaths = TRIES - 1
    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, logging.FileHandler) and isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.CRITICAL)


def _stop(why: Mapping[str, str]) -> None:
    if "traceback" in why:
        raise RuntimeError(f"An actor failed.\n{why['traceback']}")  # a fault of the program
    raise ValueError(why["sentence"])


def _find(path: str, what: str) -> None:
    if not os.path.exists(path):
        raise ValueError(
            f"{socket.gethostname()} has no {path}, {what}: put images and results on storage that every "
            "machine sees, or at an address."
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    """Ray puts the traceback of the cause into the text of its errors, the cause last."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1].strip().removesuffix(".")


def _floor(share: float) -> float:
    """Ray counts in ten-thousandths."""
    return math.floor(share * 10_000) / 10_000
