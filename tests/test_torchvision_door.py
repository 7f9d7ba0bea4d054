"""The door to torchvision opens in every state torchvision can be in. (That it is the only door: test_house.)

Each case needs an interpreter in which nothing has been imported, so each runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What stands in for torchvision: enough for the door, with a hole for each test's own first line.
STAND_IN = """
import torch
{first_line}
class models:
    mobilenet_v2 = MobileNet_V2_Weights = None
datasets = transforms = None
__version__ = "stand-in"
"""


def in_fresh_process(script: str, path: Path | None = None) -> str:
    """Runs `script` from the repository's root, with `path` searched for modules first; gives its output."""
    search = os.pathsep.join(str(folder) for folder in (path, ROOT) if folder is not None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def stand_in(folder: Path, first_line: str) -> Path:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN.format(first_line=first_line))
    (package / "leftover.py").write_text("")
    return folder


def test_opens_on_the_installed_torchvision_and_again() -> None:
    output = in_fresh_process("""
        import importlib, torch
        import anounet._torchvision as door
        with torch.no_grad():
            features = door.mobilenet_v2(width_mult=0.5).eval().features(torch.zeros(1, 3, 32, 32))
        print(tuple(features.shape), door.datasets.FakeData.__name__, door.transforms.Resize.__name__)
        importlib.reload(door)
        print(door.mobilenet_v2.__name__)
    """)
    assert output.split("\n")[:2] == ["(1, 1280, 1, 1) FakeData Resize", "mobilenet_v2"]


def test_declares_nothing_when_torchvision_imports_by_itself(tmp_path: Path) -> None:
    output = in_fresh_process(
        """
        import torch, anounet._torchvision as door
        print(door.VERSION, hasattr(torch.ops.torchvision, "nms"))
        """,
        stand_in(tmp_path, "torch.library.define('torchvision::elsewhere', '(Tensor x) -> Tensor')"),
    )
    assert output.split() == ["stand-in", "False"]


def test_declares_missing_operators_and_starts_the_import_afresh(tmp_path: Path) -> None:
    # The stand-in registers shape rules as torchvision does; its submodule must be executed both times.
    first_line = """
import torchvision.leftover, builtins
builtins.leftovers = getattr(builtins, "leftovers", []) + [torchvision.leftover]
for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, iou_threshold: scores)
"""
    output = in_fresh_process(
        """
        import builtins, torch, anounet._torchvision as door
        first, second = builtins.leftovers
        print(door.VERSION, first is not second, torch.ops.torchvision.qnms.default._schema)
        """,
        stand_in(tmp_path, first_line),
    )
    assert output.strip() == (
        "stand-in True torchvision::qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )


def test_other_failures_end_in_one_sentence_of_advice(tmp_path: Path) -> None:
    causes = {
        "missing": "raise ModuleNotFoundError(\"No module named 'torchvision'\")",
        "mismatch": "raise RuntimeError('compiled with different CUDA major versions.\\nSecond line.')",
        "stranger": "torch.library.register_fake('torchvision::new_op')(lambda x: x)",
    }
    for name, cause in causes.items():
        (tmp_path / name).mkdir()
        output = in_fresh_process(
            """
            import sys
            try:
                import anounet._torchvision
            except ImportError as error:
                print(error)
            print([name for name in sys.modules if name.startswith("torchvision")])
            """,
            stand_in(tmp_path / name, cause),
        )
        sentence, left_behind, _ = output.split("\n")
        assert sentence.startswith("torchvision could not be imported beside torch "), name
        assert sentence.endswith("as the pair of versions that requirements.txt names."), name
        assert left_behind == "[]", name


def test_the_compiler_is_loaded_by_who_needs_it_alone() -> None:
    output = in_fresh_process("""
        import sys, torch
        import anounet._torchvision as door
        from torchvision.ops import roi_align
        print("torch._dynamo" in sys.modules, "torch._dynamo.utils" in sys.modules)
        boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
        print(tuple(roi_align(torch.ones(1, 1, 8, 8), boxes, 2).shape))
        from torch._dynamo.utils import is_compile_supported
        print(is_compile_supported.__module__)
    """)
    assert output.split("\n")[0] == "False False"
    assert output.strip().endswith("torch._dynamo.utils")
