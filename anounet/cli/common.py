"""What the commands share: progress, JSON, and flags made from the settings' dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import time
import types
import typing
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import torch

from anounet import distributed
from anounet.bundle import (
    PARTS,
    RIVALS,
    SHIPPED,
    bundle_folder,
    default_device,
    has_general_identity,
    read_info,
)
from anounet.prepare import Stage

S = TypeVar("S")


class Progress:
    """A progress bar on a terminal, plain lines elsewhere, on standard error."""

    def __init__(self, quiet: bool = False) -> None:
        self._tty = sys.stderr.isatty()
        self._quiet = quiet
        self._stage, self._last = "", 0.0
        self._start, self._first = 0.0, 0

    def update(self, stage: str, done: int, total: int, **metrics: float) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            # The pace is taken from here on: what a training that goes on had done before took no time now.
            self._stage, self._start, self._first = stage, now, done
        # A terminal is redrawn five times a second; a log gets a line every ten seconds.
        if self._quiet or (done < total and now - self._last < (0.2 if self._tty else 10.0)):
            return
        self._last = now
        figures = [f"{name} {value:.4g}" for name, value in metrics.items()]
        if done > self._first:
            figures.append(_left((now - self._start) / (done - self._first) * (total - done)))
        text = "  ".join([stage, f"{done}/{total}", *figures])
        if self._tty:
            bar = "█" * round(20 * done / max(total, 1))
            print(f"\r\x1b[K{bar:░<20} {text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        self.close()
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._tty and self._last:
            print(file=sys.stderr)
        self._last = 0.0


def _left(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


def add_settings(parser: argparse.ArgumentParser, kind: type, helps: dict[str, str]) -> None:
    """Adds a flag for each field of a dataclass that `helps` names; the default stands there only.

    A default of None is for the help to explain.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in helps:
            default = "" if field.default is None else f" (default: {field.default})"
            if hints[field.name] is bool:
                default = f" (default: {'yes' if field.default else 'no'})"
                parser.add_argument(
                    "--" + field.name.replace("_", "-"),
                    action=argparse.BooleanOptionalAction,
                    default=None,
                    help=helps[field.name] + default,
                )
                continue
            parser.add_argument(
                "--" + field.name.replace("_", "-"),
                type=_plain(hints[field.name]),
                default=None,
                metavar="N" if _plain(hints[field.name]) in (int, float) else "NAME",
                help=helps[field.name] + default,
            )


def settings_from(given: argparse.Namespace, kind: type[S], base: S | None = None, **more: Any) -> S:
    """The dataclass with the flags that were given, over `base` or its defaults."""
    named = {
        field.name: getattr(given, field.name)
        for field in dataclasses.fields(kind)
        if getattr(given, field.name, None) is not None
    }
    return dataclasses.replace(base, **named, **more) if base is not None else kind(**named, **more)


def _plain(hint: Any) -> type:
    """int for `int | None`."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def add_bundle(parser: argparse.ArgumentParser, default: str | None = SHIPPED) -> None:
    shown = f" (default: {default})" if default else ""
    parser.add_argument(
        "--bundle",
        default=default,
        required=default is None,
        metavar="NAME",
        help=f"bundle in weights/, or the path of one{shown}",
    )


def add_fresh(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fresh", action="store_true", help="start anew, whatever was begun before")


def resumes(given: argparse.Namespace) -> bool:
    """Whether to go on with what was begun: not with --fresh, but for what this very command began."""
    return not given.fresh or distributed.restarted()


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda or cuda:1 (default: cuda where there is one)"
    )


def add_common(parser: argparse.ArgumentParser, *, seed: bool = False) -> None:
    if seed:
        parser.add_argument("--seed", type=int, default=None, metavar="N", help="seed (default: 0)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON on standard output")


def device_of(given: argparse.Namespace) -> torch.device:
    """The device asked for, or the best one there is, of several processes each its own.

    Says so where it is missing.
    """
    if given.device is None:
        return distributed.own_device(default_device())
    try:
        device = distributed.own_device(torch.device(given.device))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"There is no device '{given.device}' here: use --device cpu.") from error
    return device


def modes_of(files: Iterable[str]) -> list[str]:
    """The modes that a bundle of these files has the parts for, the default one first; rivals last."""
    has = {part for part, file in PARTS.items() if file in set(files)}
    if has_general_identity():
        has.add("identity")
    needs = {
        "instant": [{"local", "instant"}],
        "fast": [{"identity", "center"}, {"identity", "local"}],
        "article": [{"center"}, {"local"}],
        **{rival: [set(parts)] for rival, parts in RIVALS.items()},
    }
    return [mode for mode, ways in needs.items() if any(way <= has for way in ways)]


def command_of(given: argparse.Namespace) -> str:
    """The command line as typed; of files outside this folder only the names."""

    def plain(word: str) -> str:
        flag, equals, value = word.rpartition("=")
        return flag + equals + (Path(value).name if value.startswith(("/", "..")) else value)

    return shlex.join(["python", "-m", "anounet", *map(plain, given.words)])


def report(given: argparse.Namespace, value: Any, text: str) -> None:
    """Prints the value as JSON where --json was given, else the text."""
    print(json.dumps(value, indent=2, ensure_ascii=False) if given.json else text)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as an aligned text table in Markdown."""
    if not rows:
        return "nothing to show"
    cells = [list(rows[0])] + [["–" if v is None else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def follow(stages: Iterable[Stage]) -> dict[str, dict[str, float]]:
    """Shows the stages' progress and gives back the last figures of each; of several processes one speaks."""
    progress, last = Progress(quiet=not distributed.first()), {}
    try:
        for stage in stages:
            for note in stage.notes:
                progress.note(note)
            progress.update(stage.name, stage.done, stage.total, **stage.metrics)
            last[stage.name] = stage.metrics
    finally:
        progress.close()
    return last


def report_bundle(given: argparse.Namespace, name: str, figures: dict[str, dict[str, float]]) -> int:
    """Says what a bundle holds now, and what the stages measured."""
    if not distributed.first():
        return 0
    files = sorted(read_info(name)["files"])
    folder, modes = bundle_folder(name), modes_of(files)
    value = {"bundle": name, "files": files, "modes": modes, "figures": figures}
    shown = f" ({', '.join(modes)})" if modes else ""
    report(given, value, f"{name}{shown}: {', '.join(files)} in {folder}")
    return 0


def together(device: torch.device, stages: Iterator[Stage]) -> Iterator[Stage]:
    """Stages that all processes that `torchrun` started go through together, a single one by itself."""
    with distributed.group(device), closing(stages):
        yield from stages


def resumable(given: argparse.Namespace, name: str, stages: Iterator[Stage]) -> int:
    """Runs stages that the same command can go on with after Ctrl-C, and says so then."""
    try:
        with closing(stages):
            figures = follow(stages)
    except KeyboardInterrupt:
        if not distributed.first():
            return 130
        print(
            f"anounet: stopped; what was finished is kept in '{name}', and the same command goes on from "
            "the last checkpoint.",
            file=sys.stderr,
        )
        return 130
    return report_bundle(given, name, figures)
