"""Command: app, the server of the pages."""

from __future__ import annotations

import argparse
import importlib
from typing import Any


def add_commands(commands: Any) -> None:
    app = commands.add_parser(
        "app",
        help="start the app in the browser; Streamlit's options go on to it, e.g. --server.port 8502",
    )
    app.set_defaults(run=_run, takes_rest=True)


def _run(given: argparse.Namespace) -> int:
    # Here, for the other commands start without Streamlit.
    importlib.import_module("anounet.app.server").serve(given.rest)
    return 0
