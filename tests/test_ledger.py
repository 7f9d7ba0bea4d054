"""A folder that was stopped in the middle goes on: what is done stays, what is not is done once."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from anounet.bundle import load_bundle, save_part
from anounet.cli import main, pipeline
from anounet.cli.ledger import REGION_COLUMNS, Ledger
from anounet.visualization import visualize_many

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, image in enumerate(tiny.defective(6)):
        pixels = (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(
    weights: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict]:
    """Visualises the folder and gives the report, with the exit status in it."""

    def run(*words: object, out: Path = tmp_path / "out", command: str = "visualize") -> dict:
        given = [command, parts, "--bundle", "tiny", "--device", "cpu", "--out", out, "--json", *words]
        status = main([str(word) for word in given])
        return json.loads(capsys.readouterr().out) | {"status": status}

    return run


@pytest.fixture
def redrawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each run redraws."""
    counts: list[int] = []

    def counted(images, *a, **b):
        counts.append(0)
        for result in visualize_many(images, *a, **b):
            counts[-1] += 1
            yield result

    monkeypatch.setattr(pipeline, "visualize_many", counted)
    return counts


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_seconds(report: dict) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in report["scores"]]


def cut(out: Path, rows: int, torn: bytes = b"") -> None:
    """What a kill leaves: `rows` whole rows, and part of one that was being written."""
    scores = out / "scores.csv"
    lines = scores.read_bytes().splitlines(keepends=True)
    scores.write_bytes(b"".join(lines[: rows + 1]) + torn)


def test_a_run_that_was_cut_off_does_the_rest(run, redrawn: list[int], tmp_path: Path) -> None:
    save_part("tiny", limits={"instant": 1e-3})  # so that there are regions
    whole, out = run(), tmp_path / "out"
    assert whole["done before"] == 0
    regions, scores = table(out / "regions.csv"), table(out / "scores.csv")
    assert regions
    cut(out, 4, torn=(str(tmp_path / "parts" / "4.png") + ",0.5,0.").encode())
    again = run()
    assert redrawn == [6, 2] and again["done before"] == 4 and again["images"] == 6
    assert without_seconds(again) == without_seconds(whole)
    assert table(out / "regions.csv") == regions
    assert [row["file"] for row in table(out / "scores.csv")] == [row["file"] for row in scores]
    third = run()
    assert redrawn == [6, 2, 0] and third["scores"] == again["scores"] and third["status"] == 0


@pytest.mark.parametrize("words", [("--mode", "fast", "--steps", 2), ("--map", "distance"), ("--fresh",)])
def test_other_settings_do_all_anew(run, redrawn: list[int], words: tuple) -> None:
    run()
    run(*words)
    assert redrawn == [6, 6]


def test_another_bundle_of_the_same_name_does_all_anew(run, redrawn: list[int]) -> None:
    run()
    save_part("tiny", center=tiny.center(load_bundle("tiny", "cpu").f_net, 8))
    run()
    assert redrawn == [6, 6]


def test_images_that_changed_failed_or_lost_a_file_are_done_again(
    run, redrawn: list[int], parts: Path, tmp_path: Path
) -> None:
    good = (parts / "1.png").read_bytes()
    (parts / "1.png").write_bytes(b"damaged")
    assert run()["status"] == 1
    (parts / "1.png").write_bytes(good)
    (tmp_path / "out" / "2_map.npy").unlink()
    later = time.time() + 100
    os.utime(parts / "3.png", (later, later))
    (parts / "6.png").write_bytes(good)  # a new one
    report = run()
    assert redrawn == [5, 4] and report["status"] == 0
    assert [Path(row["file"]).name for row in report["scores"]] == [f"{n}.png" for n in range(7)]
    (parts / "5.png").unlink()
    assert len(run()["scores"]) == 6 and len(table(tmp_path / "out" / "scores.csv")) == 6


def test_what_the_gate_left_out_has_no_files_and_is_done(run, redrawn: list[int]) -> None:
    words = ("--mode", "fast", "--steps", 1, "--gate")
    verdicts = [row["verdict"] for row in run(*words)["scores"]]
    assert "normal" in verdicts
    run(*words)
    assert redrawn == [6, 0]


def test_a_comparison_goes_on_too(run, redrawn: list[int], tmp_path: Path) -> None:
    words = {"command": "compare"}
    whole = run("--search-steps", 1, **words)
    picture = (tmp_path / "out" / "overview.png").read_bytes()
    cut(tmp_path / "out", 3)
    again = run("--search-steps", 1, **words)
    assert redrawn == [6, 3]
    assert [row["anogan_score"] for row in again["scores"]] == [
        row["anogan_score"] for row in whole["scores"]
    ]
    assert (tmp_path / "out" / "overview.png").read_bytes() == picture


@pytest.mark.slow
def test_a_killed_run_goes_on(run, redrawn: list[int], parts: Path, weights: Path, tmp_path: Path) -> None:
    for number in range(6, 60):
        (parts / f"{number}.png").write_bytes((parts / f"{number % 6}.png").read_bytes())
    out = tmp_path / "killed"
    words = ["visualize", parts, "--bundle", "tiny", "--device", "cpu", "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "anounet", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"ANOUNET_WEIGHTS": str(weights)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not (out / "2_map.npy").exists():
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    again = run(out=out)
    assert 0 < redrawn[0] < 60 and again["done before"] + redrawn[0] == again["images"] == 60
    assert without_seconds(again) == without_seconds(run(out=tmp_path / "whole"))
    assert all(np.load(out / f"{n}_map.npy").shape == (tiny.SIZE, tiny.SIZE) for n in range(60))


def test_regions_are_there_before_the_row_that_says_so(tmp_path: Path) -> None:
    image = tmp_path / "1,\n2.png"  # as hard a name as there is
    image.write_bytes(b"")
    columns = ("file", "score", "verdict", "error")
    row = {"file": str(image), "score": 0.5, "verdict": "normal", "error": ""}
    region = dict.fromkeys(REGION_COLUMNS[1:], 1)
    with Ledger(tmp_path, columns, {}, lambda row: True) as ledger:
        seen: list[int] = []
        write = ledger._scores.write
        ledger._scores.write = lambda text: seen.append(len(table(tmp_path / "regions.csv"))) or write(text)
        ledger.add(row, [region])
    assert seen == [1]
    again = Ledger(tmp_path, columns, {}, lambda row: True)
    assert again.rows == {str(image): row}
    assert again.regions == {str(image): [region]}
