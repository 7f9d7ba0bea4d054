"""kill -9: every training goes on after it, from the command line, to the net of one without a stop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from anounet import ano_unet
from anounet.anogan import SearchSettings
from anounet.bundle import PARTS, load_bundle, verify
from anounet.cli import main
from anounet.cli.common import Progress
from anounet.experiments import judge
from anounet.prepare import CHECKPOINTS, levels
from anounet.storage import load_checkpoint, load_weights

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120.0  # seconds until the first checkpoint

TEXTURES = "--data textures --normal streaks --size 32 --limit 24 --width 0.5 --frozen-blocks 0 --epochs 6"
F_NET = f"train-fnet --name NAME {TEXTURES} --batch 12 --start START"
FOLDER = "--bundle NAME --data FOLDER --batch 2"
# Each with the fewest steps that go beyond its first checkpoint, so that there is something to go on with.
TRAININGS = {
    "F": ("f_net", F_NET),
    "F by DOC": ("f_net", f"{F_NET} --objective doc"),
    "robust F": ("f_net", f"{F_NET} --robust"),
    "identity": ("identity", f"train-unet {FOLDER} --start trained --width 8 --depth 2 --steps 260"),
    "instant": ("instant", f"train-instant {FOLDER} --width 8 --depth 2 --steps 80"),
    "AnoGAN": ("anogan", f"train-anogan {FOLDER} --steps 130"),
    "encoder": ("encoder", f"train-encoder {FOLDER} --steps 260"),
    "decoder": ("decoder", f"train-decoder {FOLDER} --steps 260"),
    "second classifier": (
        "classifier",
        "train-classifier --bundle NAME --images 60 --batch 2 --steps 260 --start START",
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads' parts are rounded differently from one run to the next."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels that are measured in a moment: they are not what is compared."""
    monkeypatch.setitem(ano_unet.DEFAULTS, "fast", ano_unet.Settings(steps=1))
    monkeypatch.setattr(levels, "SearchSettings", lambda: SearchSettings(steps=1))


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS)
def test_a_killed_training_goes_on_to_the_same_net(
    weights: Path, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch, training: str
) -> None:
    part, line = TRAININGS[training]
    start, folder, seen = tmp_path / "start.pth", tmp_path / "parts", []
    torch.save(tiny.backbone().features.state_dict(), start)
    if part != "f_net":
        folder.mkdir()
        for number, image in enumerate(tiny.pixels(12).permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image).save(folder / f"{number}.png")
        for name in ("killed", "whole"):
            shutil.copytree(weights / "tiny", weights / name)

    def words(name: str) -> list[str]:
        named = {"NAME": name, "FOLDER": str(folder), "START": str(start)}
        return [*(named.get(word, word) for word in line.split()), "--device", "cpu"]

    checkpoint = weights / "killed" / {**CHECKPOINTS, "classifier": judge.CHECKPOINT}[part]
    kill_once_there(words("killed"), checkpoint, weights)
    load_bundle("killed", "cpu")
    assert all(verify("killed").values())
    kept = load_checkpoint(checkpoint)
    kept = kept.get("checkpoint", kept)
    # A writer may be killed in the middle of any file too.
    names = (f".{checkpoint.name}.half.tmp", f".{PARTS[part]}.new")
    halves = [checkpoint.with_name(name) for name in names]
    for half in halves:
        half.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])

    update = Progress.update
    monkeypatch.setattr(Progress, "update", lambda *a, **b: seen.append((a[1], a[2])) or update(*a, **b))
    assert main(words("killed")) == 0
    assert seen[0][1] == kept["step"] + 1
    assert not checkpoint.exists() and not any(half.exists() for half in halves)
    assert all(verify("killed").values())
    assert main(words("whole")) == 0
    kind = {"identity": "unet", "instant": "unet_instant"}.get(part, part)
    net, wanted = (load_weights(weights / name / PARTS[part], kind)[0] for name in ("killed", "whole"))
    assert net.keys() == wanted.keys() and all(torch.equal(net[name], wanted[name]) for name in wanted)


def kill_once_there(words: list[str], checkpoint: Path, weights: Path) -> None:
    """Starts a command, and kills it as soon as there is a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "anounet", *words],
        cwd=ROOT,
        env=os.environ | {"ANOUNET_WEIGHTS": str(weights), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL and checkpoint.exists(), said
