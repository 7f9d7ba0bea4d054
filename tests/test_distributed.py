"""Training by several processes: each step is that of a single one, and a kill of one costs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, multiprocessing, nn

from anounet import (
    anogan,
    cli,
    decoder,
    distributed,
    f_anogan,
    identity,
    instant,
    metric_learning,
    second_classifier,
    training,
)
from anounet.bundle import load_bundle, verify
from anounet.cli import main
from anounet.distributed import processes
from anounet.metric_learning import FNetSettings
from anounet.prepare import CHECKPOINTS
from anounet.storage import load_checkpoint, load_weights
from anounet.training import TrainingStep

ROOT = Path(__file__).resolve().parent.parent
RANKS = 2
PATIENCE = 120.0  # seconds until there is a checkpoint
CUT = 2  # steps, after which a training goes on with another number of processes
F_NET = FNetSettings(width=0.5, epochs=1, batch=5, frozen_blocks=3)
F_NET_WORDS = (
    "train-fnet --data textures --normal streaks --size 32 --limit 24 --width 0.5 --frozen-blocks 0 "
    "--epochs 5 --batch 12 --device cpu"
)

pytestmark = pytest.mark.slow

# --- the trainings, as a single process and as each of several run them ---------------------------------


def trainings() -> dict[str, Callable[..., Iterator[TrainingStep]]]:
    """Short trainings of every kind; their batches can't be shared evenly."""
    pixels = torch.cat([tiny.pixels(6, texture) for texture in ("streaks", "wood", "checks")])
    labels = torch.arange(3).repeat_interleave(6)
    f_net, gan = tiny.f_net(), tiny.anogan()
    local = tiny.tiny_local_centers(f_net)

    def f(**changes: Any) -> Callable[..., Iterator[TrainingStep]]:
        settings = replace(F_NET, **changes)
        return lambda **k: metric_learning.train_f_net(
            tiny.backbone(), pixels, labels, settings, normal=0, **k
        )

    copying = identity.UNetSettings(start="trained", width=8, depth=3, steps=5, batch=5)
    classifier = second_classifier.ClassifierSettings(steps=3, batch=5)
    return {
        "F": f(),
        "F by DOC": f(objective="doc", compactness=2.0),
        "robust F": f(robust_eps=1.5),
        "U-Net": lambda **k: identity.make_identity(pixels, copying, **k),
        "AnoGAN": lambda **k: anogan.train_anogan(pixels, replace(tiny.GAN, steps=4, batch=5), **k),
        "encoder": lambda **k: f_anogan.train_encoder(pixels, gan, replace(tiny.ENCODER, batch=5), **k),
        "decoder": lambda **k: decoder.train_decoder(pixels, f_net, replace(tiny.DECODER, batch=5), **k),
        "instant": lambda **k: instant.train_instant(
            pixels[:6], f_net, local, replace(tiny.INSTANT, batch=5, steps=5), **k
        ),
        "second classifier": lambda **k: second_classifier.train_second_classifier(
            tiny.backbone(), pixels.repeat(2, 1, 1, 1), labels.repeat(2), ["a", "b", "c"], classifier, **k
        ),
    }


GO_ON = ("F", "U-Net", "AnoGAN", "instant")  # one of each loop


def in_double(patch: pytest.MonkeyPatch) -> None:
    """Double precision: in single, Adam makes a step of the rounding of a slope that should be 0."""
    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
    for module in (metric_learning, identity, anogan, f_anogan, decoder, instant, second_classifier):
        patch.setattr(module, "as_images", lambda pixels, device: pixels.to(device).double() / 255)
        if hasattr(module, "mixed_precision"):
            patch.setattr(module, "mixed_precision", lambda device: nullcontext())
    for module in (training, metric_learning, anogan, instant):
        patch.setattr(module, "CHECKPOINT_EVERY", CUT)


@dataclass(frozen=True)
class Run:
    """What came out of a training."""

    metrics: list[dict[str, float]]
    state: dict[str, Tensor]
    checkpoint: Any = None


def run_of(steps: Iterator[TrainingStep]) -> Run:
    steps = list(steps)
    net = steps[-1].model
    parts = [net.features, net.head] if isinstance(net, second_classifier.SecondClassifier) else [net]
    state = {f"{i}.{n}": t.clone() for i, part in enumerate(parts) for n, t in part.state_dict().items()}
    checkpoints = [step.checkpoint for step in steps if step.checkpoint is not None]
    return Run([dict(step.metrics) for step in steps], state, checkpoints[0] if checkpoints else None)


def all_runs(patch: pytest.MonkeyPatch, begun: dict[str, Run] | None = None) -> dict[str, Run]:
    """Every training, and some that go on from where those of `begun` were cut off."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        in_double(patch)
        them = trainings()
        runs = {name: run_of(train()) for name, train in them.items()}
        if begun is not None:
            runs |= {f"{n} gone on": run_of(them[n](resume=begun[n].checkpoint)) for n in GO_ON}
        return runs
    finally:
        torch.set_default_dtype(torch.float32)


# --- what each of the processes does ---------------------------------------------------------------------


def work(rank: int, folder: str) -> None:
    there = Path(folder)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS
    )
    found: dict[str, Any] = {"norms": norms(), "alike": alike()}
    as_it_is = anogan.train_anogan(tiny.pixels(9), replace(tiny.GAN, batch=5))
    found["mixed"] = run_of(as_it_is)
    assert main([*F_NET_WORDS.split(), "--name", "calm", "--start", str(there / "start.pth")]) == 0
    begun = torch.load(there / "single.pt", weights_only=False)
    with pytest.MonkeyPatch.context() as patch:
        found["runs"] = all_runs(patch, begun)
    torch.save(found, there / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def norms() -> list[tuple[str, float]]:
    """By how much a BatchNorm of shared batches differs from PyTorch's own on the whole batch."""
    differences = []
    for shape, kind in (
        ((5, 4, 3, 2), nn.BatchNorm2d),
        ((1, 4, 3, 2), nn.BatchNorm2d),
        ((7, 4), nn.BatchNorm1d),
    ):
        drawn = tiny.generator(3)
        # Far from 0 beside its spread: a mean of squares in float32 would not know the variance.
        x = 100 + torch.randn(shape, generator=drawn)
        slopes = torch.randn(shape, generator=drawn)
        whole, shared = kind(4), kind(4)
        for net in (whole, shared):
            with torch.no_grad():
                net.weight.copy_(torch.linspace(0.5, 2, 4))
                net.bias.copy_(torch.linspace(-1, 1, 4))
        distributed.synchronised(shared)
        x_whole, x_own = x.clone().requires_grad_(), distributed.own_rows(x).clone().requires_grad_()
        wanted, own = whole(x_whole), shared(x_own)
        wanted.backward(slopes)
        own.backward(distributed.own_rows(slopes))
        weights = torch.stack([shared.weight.grad, shared.bias.grad])
        torch.distributed.all_reduce(weights)
        for name, left, right in (
            ("y", own, distributed.own_rows(wanted)),
            ("slope of x", x_own.grad, distributed.own_rows(x_whole.grad)),
            ("slopes of weights", weights, torch.stack([whole.weight.grad, whole.bias.grad])),
            ("mean", shared.running_mean, whole.running_mean),
            ("variance", shared.running_var, whole.running_var),
            ("count", shared.num_batches_tracked, whole.num_batches_tracked),
            ("eval", shared.eval()(x), whole.eval()(x)),
        ):
            largest = float(right.abs().max()) if right.numel() else 0.0
            difference = float((left - right).abs().max()) / max(1.0, largest) if right.numel() else 0.0
            differences.append((f"{kind.__name__}{shape} {name}", difference))
    return differences


def alike() -> list[str]:
    """What `check_alike` says of equal images, and of others."""
    distributed.check_alike({"images": "a", "steps": 3}, "net")
    try:
        distributed.check_alike({"images": "ab"[distributed.rank()], "steps": 3}, "net")
    except ValueError as error:
        return [str(error)]
    return []


@dataclass(frozen=True)
class Both:
    folder: Path
    single: dict[str, Run]
    ranks: list[dict[str, Any]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """The same trainings by one process and by two."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(tiny.backbone().features.state_dict(), folder / "start.pth")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        single = all_runs(patch)
    torch.set_num_threads(threads)
    torch.save(single, folder / "single.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOUNET_WEIGHTS", str(folder / "weights"))
        # A page that ran in this process has left itself as its main module, which each rank would run too.
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        multiprocessing.spawn(work, (str(folder),), nprocs=RANKS)
        ranks = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]
        yield Both(folder, single, ranks)


# --- one process and two ----------------------------------------------------------------------------------

NAMES = (
    "F",
    "F by DOC",
    "robust F",
    "U-Net",
    "AnoGAN",
    "encoder",
    "decoder",
    "instant",
    "second classifier",
)


def assert_same(found: Run, wanted: Run, steps: slice = slice(None)) -> None:
    """The losses to rounding, and the weights to that of the files, float16."""
    assert len(found.metrics) == len(wanted.metrics[steps]) > 1
    for now, then in zip(found.metrics, wanted.metrics[steps], strict=True):
        assert now == pytest.approx(then, rel=1e-6, abs=1e-12)
    assert found.state.keys() == wanted.state.keys()
    for name, tensor in wanted.state.items():
        assert torch.allclose(found.state[name], tensor, rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_do_the_steps_of_one(both: Both, name: str) -> None:
    first, second = (rank["runs"][name] for rank in both.ranks)
    assert_same(first, both.single[name])
    assert first.metrics == second.metrics
    assert all(torch.equal(first.state[n], tensor) for n, tensor in second.state.items())
    losses = [next(iter(step.values())) for step in first.metrics]
    assert len(set(losses)) == len(losses)  # the net did learn


@pytest.mark.parametrize("name", GO_ON)
def test_a_training_goes_on_with_another_number_of_processes(
    both: Both, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same(both.ranks[0]["runs"][f"{name} gone on"], both.single[name], slice(CUT, None))
    begun = both.ranks[0]["runs"][name].checkpoint
    torch.set_default_dtype(torch.float64)
    try:
        in_double(monkeypatch)
        alone = run_of(trainings()[name](resume=begun))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(alone, both.single[name], slice(CUT, None))


def test_batch_norm_looks_at_the_whole_batch(both: Both) -> None:
    for rank in both.ranks:
        assert len(rank["norms"]) == 21
        for name, difference in rank["norms"]:
            assert difference < 1e-4, (name, difference)


def test_mixed_precision_is_shared_too(both: Both) -> None:
    alone = run_of(anogan.train_anogan(tiny.pixels(9), replace(tiny.GAN, batch=5)))
    for rank in both.ranks:
        for now, then in zip(rank["mixed"].metrics, alone.metrics, strict=True):
            assert now == pytest.approx(then, rel=0.05, abs=0.02)


def test_a_process_with_other_images_says_so(both: Both) -> None:
    first, second = (rank["alike"] for rank in both.ranks)
    assert first == [] and len(second) == 1
    assert "training of the net is of other images than on the first" in second[0]


def test_one_process_is_left_as_it_is() -> None:
    net, rows = nn.BatchNorm1d(3), torch.rand(4, 3)
    assert distributed.parallel(net) is net and distributed.run_own(net) is net
    assert type(net) is nn.BatchNorm1d and distributed.own_rows(rows) is rows
    assert distributed.shared_mean(rows, 4, 4) is rows and distributed.agreed(lambda: 3) == 3
    assert (distributed.world(), distributed.rank(), distributed.launched()) == (1, 0, 1)
    with distributed.group(torch.device("cpu")):
        assert not torch.distributed.is_initialized()


# --- torchrun ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the process to kill in /proc")
def test_a_killed_process_costs_nothing(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line under torchrun, one process of two killed once there is something to go on from."""
    weights = both.folder / "weights"
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(weights))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    words = ["-m", "--", "anounet", *F_NET_WORDS.split(), "--name", "killed"]
    process = subprocess.Popen(
        [*torchrun, "--max-restarts", "1", *words, "--start", str(both.folder / "start.pth")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint = weights / "killed" / CHECKPOINTS["f_net"]
    deadline = time.monotonic() + PATIENCE
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    second = worker_of(process.pid, 1)
    os.kill(second, signal.SIGKILL)
    shown, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    kept = load_checkpoint(checkpoint)
    assert kept is None and all(verify("killed").values())
    assert [path.name for path in sorted((weights / "killed").iterdir())] == ["bundle.json", "f_net.pt"]
    assert shown.count("killed: f_net.pt in") == 1 and f"exitcode: -9) local_rank: 1 (pid: {second})" in said
    assert "f-Net  10/10" in said and "f-Net  1/10" in said
    nets = [load_weights(weights / name / "f_net.pt", "f_net")[0] for name in ("killed", "calm")]
    assert all(torch.equal(nets[0][name], tensor) for name, tensor in nets[1].items())
    assert load_bundle("killed", "cpu").f_net.fingerprint == load_bundle("calm", "cpu").f_net.fingerprint


def worker_of(torchrun: int, rank: int) -> int:
    """The process of a rank."""
    for child in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"there is no process {rank}")


def test_each_start_meets_under_a_name_of_its_own() -> None:
    """In one store, where the words of a start that was killed lie."""
    store, names = torch.distributed.HashStore(), []
    store.set("here/1", "a dead one's")
    for _ in range(2):
        met: dict[int, str] = {}

        def meet(number: int, met: dict[int, str] = met) -> None:
            met[number] = processes.meeting(store, number, 3)

        threads = [threading.Thread(target=meet, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=PATIENCE)
        assert len(met) == 3 and len(set(met.values())) == 1
        names.append(met[0])
    assert names[0] != names[1]


def test_who_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TIMEOUT", processes.timedelta(seconds=0.05))
    with pytest.raises(ValueError, match="Of 3 processes 2 did not come"):
        processes.meeting(torch.distributed.HashStore(), 0, 3)


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment in which torchrun starts the second of two processes."""
    numbers = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    for name, value in {"TORCHELASTIC_RUN_ID": "it", "TORCHELASTIC_RESTART_COUNT": 0, **numbers}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(cli, "LATER", 0.0)


@pytest.mark.parametrize(("rank", "speaker"), [("0", "anounet: "), ("1", "anounet: process 1: ")])
def test_a_command_that_is_no_training_is_refused(
    second_of_two: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    speaker: str,
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert main(["bundles"]) == 2
    assert capsys.readouterr().err == (
        f"{speaker}torchrun is for trainings, as train-fnet is one: start 'bundles' without it.\n"
    )


def test_each_process_has_a_gpu_of_its_own(second_of_two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert distributed.own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert distributed.own_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="Each process takes a GPU of its own"):
        distributed.own_device(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes need as many GPUs, and there are 1 here"):
        distributed.own_device(torch.device("cuda"))


def test_a_restart_goes_on_even_with_fresh(second_of_two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not distributed.restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert distributed.restarted()
