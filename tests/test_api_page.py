"""docs/API.md: every block of Python on the page runs, one after another, as a reader would run them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import anounet
from anounet.bundle import SHIPPED
from anounet.datasets import textures
from anounet.images import png_bytes

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/API.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[int, str]]:
    """The page's blocks of Python, each with the number of its first line."""
    text = PAGE.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in BLOCK.finditer(text)]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder has images in parts/good and parts/new, and the bundles' has the shipped one."""
    weights = tmp_path / "weights"
    shutil.copytree(ROOT / "weights" / SHIPPED, weights / SHIPPED)
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(weights))
    monkeypatch.chdir(tmp_path)
    for kind, count in (("good", 12), ("new", 2)):
        folder = tmp_path / "parts" / kind
        folder.mkdir(parents=True)
        for number in range(count):
            # parts/new/0.png has a fault, parts/new/1.png has none
            pixels, _, _ = textures.sample(
                "streaks", "test", number, size=96, defective=kind == "new" and number == 0
            )
            (folder / f"{number}.png").write_bytes(png_bytes(pixels))


@pytest.mark.slow
def test_every_block_of_the_page_runs(parts: None, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    printed = []
    for line, source in blocks():
        # Behind as many empty lines as there are above it, so that a traceback names the page's own line.
        exec(compile("\n" * line + source, str(PAGE), "exec"), names)
        printed.append(capsys.readouterr().out)
    assert len(printed) >= 8
    assert printed[0].startswith("anomalous")
    assert names["picture"].shape == names["normalised"].shape == (96, 96, 3)
    assert [line.partition(" ")[0] for line in printed[2].splitlines()] == ["anomalous", "normal"]
    assert names["refined"].steps >= 1 and "0/10" in printed[3]
    assert {line.split()[0] for line in printed[4].splitlines()} == set(names["bundle"].rivals) - {"anogan"}
    assert names["own"].mode == "instant" and names["own"].size == 64
    errors = [line.partition(" ")[0] for line in printed[-1].splitlines()]
    assert errors == ["WeightsError", "ImageError", "ValueError"]


def test_the_page_uses_public_names_alone() -> None:
    for line, source in blocks():
        private = re.findall(r"(?:\.|import )(_(?!_)\w+)", source)
        assert not private, f"{PAGE.name}, after line {line}: {private}"


def test_the_package_names_what_it_takes_and_stays_quick_to_import() -> None:
    assert all(getattr(anounet, name) is not None for name in anounet.__all__)
    assert set(anounet.__all__) < set(dir(anounet))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = anounet.no_such_name
    code = "import sys, anounet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
