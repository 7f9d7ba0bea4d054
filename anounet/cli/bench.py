"""`bench`: runs the scripts in `benchmarks/`, which print tables and have flags of their own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

SCRIPTS = {
    "speed": "seconds, memory and pixel AUROC: every mode, and the rivals",
    "floor": "where the time goes, and how far that is from what the hardware can do",
    "memory": "peak memory of visualize over few and over many images",
    "pages": "the app's pages, on a server that has just started and on a warm one: how long a visitor waits",
    "visitors": "the app under many visitors at once: their waits, passes of the model, memory",
    "quality": "pixel AUROC, AP, AUPRO, image AUROC of every method, over seeds",
    "ablation": "how local centres' and instant mode's settings were chosen, on the validation split",
    "difference": "pixel AUROC of differ from 1, 5 and 20 reference images, anywhere and on the same place",
    "settings": "how fast mode's settings were chosen, on the validation split",
}


def add_commands(commands: Any) -> None:
    bench = commands.add_parser("bench", help="measure, side by side, in one run; prints a table")
    kinds = bench.add_subparsers(title="benchmarks", metavar="NAME", required=True)
    for name, text in SCRIPTS.items():
        parser = kinds.add_parser(name, help=text, add_help=False)
        parser.set_defaults(run=lambda given, name=name: script(name).main(given.rest), takes_rest=True)


def script(name: str) -> ModuleType:
    """A benchmark as a module.

    Raises:
        ValueError: this is not a clone of the project.
    """
    path = Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"{path} is missing: benchmarks run in a clone of the project.")
    spec = importlib.util.spec_from_file_location(f"anounet_benchmark_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look it up
    spec.loader.exec_module(module)
    return module
