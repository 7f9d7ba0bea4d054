"""The app's server, which loads everything before the first visitor comes."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from streamlit.web import cli

import anounet.app
from anounet.bundle import SHIPPED, bundle_names
from anounet.storage import WeightsError

ENTRYPOINT = Path(__file__).resolve().parents[2] / "streamlit_app.py"


def serve(options: Sequence[str]) -> None:
    """Runs the server in this process, until it is stopped: `python -m anounet app`.

    Args:
        options: Streamlit's own, e.g. "--server.port=8502".

    Raises:
        ValueError: the package is installed without the app.
    """
    if not ENTRYPOINT.is_file():
        raise ValueError(f"{ENTRYPOINT} is missing: the app runs in a clone of the project.")
    sys.argv = ["streamlit", "run", str(ENTRYPOINT), *options]
    cli.main(prog_name="streamlit")


@contextlib.asynccontextmanager
async def loaded(app: Any) -> AsyncIterator[None]:
    """The life of the server: it begins to listen when everything is there.

    Args:
        app: the `streamlit.App`.
    """
    load()
    yield


def load() -> None:
    """Everything that the first visitor of a cold server would wait for."""
    for module in pkgutil.walk_packages(anounet.app.__path__, "anounet.app."):
        importlib.import_module(module.name)
    from anounet.app import models

    models.set_up()
    with contextlib.suppress(WeightsError, OSError):  # the pages say what is wrong with it
        if SHIPPED in bundle_names():
            models.bundle(SHIPPED)
    models.settle()
