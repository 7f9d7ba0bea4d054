"""`bench speed|quality`: runs the scripts in `benchmarks/`, which print tables."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any


def add_commands(commands: Any) -> None:
    bench = commands.add_parser("bench", help="measure, side by side, in one run; prints a table")
    kinds = bench.add_subparsers(title="benchmarks", metavar="NAME", required=True)
    speed = kinds.add_parser("speed", help="seconds, memory and pixel AUROC: article, fast and AnoGAN")
    speed.add_argument("rest", nargs=argparse.REMAINDER)
    speed.set_defaults(run=lambda given: _script("speed").main(given.rest))


def _script(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"{path} is missing: benchmarks run in a clone of the project.")
    spec = importlib.util.spec_from_file_location(f"anounet_benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
