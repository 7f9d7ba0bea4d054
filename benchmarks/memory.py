"""Peak memory of one `visualize` call over few and over many images: it must not grow.

    python -m anounet bench memory [--bundle NAME] [--counts 10 200] [--methods instant fast anogan …]

Every call runs in a process of its own. A rival's is `compare` with that one rival, so `instant` mode's is
part of it. The images are textures, a few drawn ones under many names; all of them are decoded, redrawn and
written.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from anounet.ano_unet import MODES
from anounet.bundle import RIVALS, SHIPPED
from anounet.cli import main as command_line
from anounet.cli.common import table

DRAWN = 100  # distinct images
_CHILD = """
import resource, sys
from anounet.cli import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, status)
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m anounet bench memory", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bundle", default=SHIPPED, metavar="NAME")
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 200], metavar="N")
    parser.add_argument("--methods", nargs="+", choices=(*MODES, *RIVALS), default=["instant"])
    given = parser.parse_args(arguments)
    rows = []
    for method in given.methods:
        first = None
        for count in given.counts:
            print(f"measuring {method}, {count} images …", file=sys.stderr, flush=True)
            megabytes, seconds, status = measure(method, given.bundle, count)
            first = first or megabytes
            rows.append(
                {
                    "method": method,
                    "images": count,
                    "peak MB": f"{megabytes:.0f}",
                    "ratio": f"{megabytes / first:.2f}×",
                    "images/s": f"{count / seconds:.1f}",
                    "exit": status,
                }
            )
    print(f"{date.today()}, loading included\n\n{table(rows)}")
    return 0


def measure(method: str, bundle: str, count: int) -> tuple[float, float, int]:
    """Peak MB, seconds in all and the exit status of a call over `count` images."""
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        few = ["--count", str(min(count, DRAWN)), "--split", "train", "--out", f"{folder}/in"]
        command_line(["samples", *few])
        drawn = sorted(path for path in Path(folder, "in").glob("*.png") if "mask" not in path.name)
        for number in range(len(drawn), count):
            os.link(drawn[number % len(drawn)], Path(folder, "in", f"more_{number:06}.png"))
        words = ["compare" if method in RIVALS else "visualize", f"{folder}/in", "--out", f"{folder}/out"]
        words += ["--bundle", bundle, "--rivals" if method in RIVALS else "--mode", method]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, *words],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        seconds = time.perf_counter() - start
    kilobytes, status = map(int, done.stdout.split()[-2:])
    return kilobytes / 1024, seconds, status


if __name__ == "__main__":
    sys.exit(main())
