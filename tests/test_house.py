"""Who may know whom: reads every import of the repository and holds it to the table of levels."""

from __future__ import annotations

import ast
import os
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from anounet.images import MAX_BYTES

ROOT = Path(__file__).resolve().parent.parent

# A room is a module or a package directly under anounet. It imports from rooms of a smaller number only.
LEVELS = {
    0: [
        "images",
        "unet",
        "independent",
        "optimize",
        "metrics",
        "training",
        "sheet",
        "pasting",
        "adversarial",
        "_torchvision",
        "storage",
        "memory",
        "ordered",
        "distributed",
    ],
    1: ["feature_net", "datasets"],
    2: ["center", "anomaly_map", "presets"],
    3: ["local_centers", "anogan"],
    4: [
        "metric_learning",
        "ano_unet",
        "identity",
        "f_anogan",
        "decoder",
        "nearest_patch",
        "instant",
        "second_classifier",
    ],
    5: ["bundle"],
    6: ["visualization"],
    7: ["difference", "film", "prepare"],
    8: ["experiments", "explore"],
    9: ["app"],
    10: ["cli"],
    11: ["__main__"],
}
LEVEL = {room: level for level, rooms in LEVELS.items() for room in rooms}

# Who may import these; a name ending in / stands for all files below it.
DOORS = {
    "torchvision": ("anounet/_torchvision.py",),
    "streamlit": (
        "anounet/app/",
        "pages/",
        "streamlit_app.py",
        "tests/",
        "benchmarks/visitors.py",
        "benchmarks/pages.py",
    ),
    "ray": ("anounet/cli/ray_engine.py", "tests/"),
}


def python_files() -> list[PurePosixPath]:
    """Gives the repository's Python files, relative to its root; hidden folders, .venv too, are left out."""
    found = []
    for parent, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "build")
        relative = PurePosixPath(Path(parent).relative_to(ROOT).as_posix())
        found += [relative / name for name in sorted(names) if name.endswith(".py")]
    return found


def imported(source: str, file: PurePosixPath) -> set[str]:
    """Gives the dotted names that `source` imports anywhere, inside functions too.

    ``from a import b`` counts as ``a.b``, since b may be a module; relative imports are resolved by `file`.
    """
    package = list(file.parent.parts)
    names = set()
    for node in ast.walk(ast.parse(source, str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += [node.module] if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def room_of(file: PurePosixPath) -> str | None:
    """Gives the room that a file belongs to; none outside anounet, nor for anounet/__init__.py."""
    if file.parts[0] != "anounet" or file.parts == ("anounet", "__init__.py"):
        return None
    return PurePosixPath(file.parts[1]).stem


def faults(source: str, file: PurePosixPath) -> list[str]:
    """Gives one sentence for each import of `source` that the tables do not allow."""
    room = room_of(file)
    if room is not None and room not in LEVEL:
        return [f"{file} has no place in the table of levels: give '{room}' a line in LEVELS."]
    sentences = set()
    for name in imported(source, file):
        top, _, rest = name.partition(".")
        allowed = DOORS.get(top)
        if allowed and not any(str(file).startswith(door) for door in allowed):
            sentences.add(f"{file} imports {top}, which only {', '.join(allowed)} may.")
        target = rest.partition(".")[0]
        if top != "anounet" or target not in LEVEL or target == room:
            continue
        if file.parts == ("anounet", "__init__.py"):
            sentences.add(f"{file} imports {target}: the package itself stays quick to import.")
        elif room is not None and LEVEL[target] >= LEVEL[room]:
            sentences.add(
                f"{file} (level {LEVEL[room]}) imports {target} (level {LEVEL[target]}): "
                "only rooms of smaller levels are open to it."
            )
    return sorted(sentences)


def test_every_import_keeps_to_the_table() -> None:
    files = python_files()
    assert PurePosixPath("anounet/images.py") in files
    found = [fault for file in files for fault in faults((ROOT / file).read_text(encoding="utf-8"), file)]
    assert not found, "\n".join(found)


def test_what_jobs_do_knows_no_streamlit() -> None:
    app = ROOT / "anounet/app"
    for file in (app / "jobs.py", app / "batching.py", *sorted((app / "work").glob("*.py"))):
        relative = PurePosixPath(file.relative_to(ROOT).as_posix())
        names = imported(file.read_text(encoding="utf-8"), relative)
        assert not [name for name in names if name.partition(".")[0] == "streamlit"], file


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("anounet/unet.py", "from anounet.images import decode", "(level 0) imports images (level 0)"),
        ("anounet/images.py", "import anounet.bundle", "imports bundle (level 5)"),
        ("anounet/center.py", "from anounet import anomaly_map", "imports anomaly_map (level 2)"),
        ("anounet/center.py", "from . import bundle", "imports bundle (level 5)"),
        ("anounet/center.py", "from .ano_unet import visualize", "imports ano_unet (level 4)"),
        ("anounet/center.py", "def later():\n    from anounet import cli", "imports cli (level 10)"),
        ("anounet/pasting.py", "from anounet.images import decode", "(level 0) imports images (level 0)"),
        ("anounet/center.py", "from anounet.local_centers import patches", "imports local_centers (level 3)"),
        ("anounet/nearest_patch.py", "from . import instant", "(level 4) imports instant (level 4)"),
        ("anounet/bundle.py", "from .visualization import drain", "imports visualization (level 6)"),
        ("anounet/datasets/folders.py", "from ..center import Center", "imports center (level 2)"),
        ("anounet/datasets/folders.py", "from .. import center", "imports center (level 2)"),
        ("anounet/app/jobs.py", "from anounet.cli import main", "imports cli (level 10)"),
        ("anounet/attic.py", "", "no place in the table"),
        ("anounet/__init__.py", "from anounet.visualization import drain", "stays quick to import"),
        ("anounet/feature_net.py", "from torchvision.models import mobilenet_v2", "imports torchvision"),
        ("benchmarks/speed.py", "import torchvision.datasets as sets", "imports torchvision"),
        ("anounet/bundle.py", "import streamlit as st", "imports streamlit"),
        ("anounet/cli/main.py", "from streamlit import cache_data", "imports streamlit"),
        ("anounet/cli/visualize.py", "def later():\n    import ray.data", "imports ray"),
    ],
)
def test_a_wrong_import_is_found(file: str, line: str, complaint: str) -> None:
    (sentence,) = faults(line, PurePosixPath(file))
    assert complaint in sentence


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("anounet/center.py", "from anounet.feature_net import FeatureNet"),
        ("anounet/nearest_patch.py", "from anounet.local_centers import patches"),
        ("anounet/f_anogan.py", "from anounet.anogan import AnoGAN"),
        ("anounet/local_centers.py", "from anounet.center import split_held_back"),
        ("anounet/storage.py", "from anounet import __version__"),
        ("anounet/datasets/folders.py", "from anounet.datasets.image_set import ImageSet"),
        ("anounet/datasets/__init__.py", "from .folders import FolderSet"),
        ("anounet/app/pages.py", "import streamlit as st\nfrom . import texts\nfrom .. import bundle"),
        ("anounet/__main__.py", "from anounet.cli import main"),
        ("pages/1_home.py", "import streamlit as st\nfrom anounet.app import texts"),
        ("tests/test_app.py", "from streamlit.testing.v1 import AppTest"),
        ("anounet/_torchvision.py", "import torchvision"),
        ("anounet/unet.py", "import torchvision_like"),
        ("anounet/cli/ray_engine.py", "import ray\nimport ray.data"),
        ("anounet/cli/visualize.py", "from anounet.cli import ray_engine"),
    ],
)
def test_a_right_import_is_let_through(file: str, line: str) -> None:
    assert faults(line, PurePosixPath(file)) == []


def test_upload_limit_is_the_one_that_decode_holds() -> None:
    config = tomllib.loads((ROOT / ".streamlit/config.toml").read_text(encoding="utf-8"))
    assert config["server"]["maxUploadSize"] * 2**20 == MAX_BYTES
