"""Peak memory of one `visualize` call over few and over many images: it must not grow.

python -m anounet bench memory [--bundle NAME] [--counts 10 200]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from anounet.bundle import SHIPPED
from anounet.cli import main as command_line
from anounet.cli.common import table

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
    given = parser.parse_args(arguments)
    rows, first = [], None
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    for count in given.counts:
        with tempfile.TemporaryDirectory() as folder:
            command_line(["samples", "--count", str(count), "--split", "train", "--out", f"{folder}/in"])
            words = ["visualize", f"{folder}/in", "--bundle", given.bundle, "--out", f"{folder}/out"]
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, *words],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
        kilobytes, status = map(int, done.stdout.split()[-2:])
        first = first or kilobytes
        peak, ratio = f"{kilobytes / 1024:.0f}", f"{kilobytes / first:.2f}×"
        rows.append({"images": count, "peak MB": peak, "ratio": ratio, "exit": status})
    print(f"{date.today()}\n\n{table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
