"""The command line. Exit status: 0; 1 after a batch with unusable files; 2 with one line for bad input."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import torch

from anounet import __version__, distributed
from anounet.cli import app, bench, data, differ, experiment, stages, train, visualize
from anounet.memory import keep_freed

LATER = 3.0  # seconds that the others leave the first of several processes to say what is wrong


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line; its subcommands are of this class too."""

    def error(self, message: str) -> NoReturn:
        _say(f"{message} ('{self.prog} --help' lists what there is).")
        self.exit(2)


def parser() -> argparse.ArgumentParser:
    """The whole command line; every command sets `run`, a function of the parsed arguments."""
    top = _Parser(
        prog="python -m anounet",
        description="Ano-Unet: where an image is abnormal, and what it would look like if it were normal.",
    )
    top.add_argument("--version", action="version", version=f"anounet {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (visualize, differ, train, stages, experiment, data, app, bench):
        module.add_commands(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    commands = parser()
    given, given_rest = commands.parse_known_args(arguments)
    if given_rest and not getattr(given, "takes_rest", False):
        commands.error(f"unknown: {' '.join(given_rest)}")
    given.rest, given.words = given_rest, list(sys.argv[1:] if arguments is None else arguments)
    keep_freed()
    try:
        if distributed.launched() > 1 and not getattr(given, "parallel", False):
            raise ValueError(
                f"torchrun is for trainings, as train-fnet is one: start '{given.words[0]}' without it."
            )
        status = given.run(given)
        sys.stdout.flush()  # so that a reader that went away shows here, not at the very end
        return status
    except (
        ValueError,
        ArithmeticError,
    ) as error:  # ImageError, DataError, WeightsError, settings out of range
        _say(str(error))
        return 2
    except torch.OutOfMemoryError:
        _say("the device's memory is full: use --device cpu, or a smaller batch.")
        return 2
    except BrokenPipeError:  # the reader of our output went away; it is an OSError too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _say(f"{error.strerror or error} ({error.filename or 'file system'}).")
        return 2
    except KeyboardInterrupt:
        if distributed.first():
            _say("stopped; what was finished is kept.")
        return 130


def _say(text: str) -> None:
    """One line on standard error.

    Of several processes the first one speaks. What befalls another alone it says itself; where all of them
    failed alike, `torchrun` has ended it by then.
    """
    if not distributed.first():
        time.sleep(LATER)
        text = f"process {distributed.rank()}: {text}"
    print(f"anounet: {text}", file=sys.stderr)
