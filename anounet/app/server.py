"""The app's server, everything loaded before the first visitor comes: `python -m anounet app`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from streamlit.logger import get_logger
from streamlit.web import cli

import anounet.app
from anounet.bundle import SHIPPED, bundle_names
from anounet.storage import WeightsError

ENTRYPOINT = Path(__file__).resolve().parents[2] / "streamlit_app.py"


def serve(options: Sequence[str]) -> None:
    """Loads what the pages need, then runs the server in this process, until it is stopped.

    Args:
        options: Streamlit's own, e.g. "--server.port=8502".

    Raises:
        ValueError: the package is installed without the app.
    """
    if not ENTRYPOINT.is_file():
        raise ValueError(f"{ENTRYPOINT} is missing: the app runs in a clone of the project.")
    load()
    sys.argv = ["streamlit", "run", str(ENTRYPOINT), *options]
    cli.main(prog_name="streamlit")


def load() -> None:
    """Everything that the first visitor of a cold server would wait for."""
    with _before_the_server():
        for module in pkgutil.walk_packages(anounet.app.__path__, "anounet.app."):
            importlib.import_module(module.name)
    from anounet.app import models

    models.set_up()
    with contextlib.suppress(WeightsError):  # the pages say what is wrong with it
        if SHIPPED in bundle_names():
            models.bundle(SHIPPED)
    models.settle()


@contextlib.contextmanager
def _before_the_server() -> Iterator[None]:
    """Streamlit warns of each cached function that is defined before there is a server."""
    log = get_logger("streamlit.runtime.caching.cache_data_api")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
