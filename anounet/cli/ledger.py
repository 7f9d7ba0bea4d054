"""The files that say what a run over a folder has done, and what of it need not be done again.

`scores.csv` gets a row when all other files of its image are there, so a row is an image that is done.
`run.json` holds what the results depend on: with another bundle or other settings everything is done anew.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from anounet.storage import write_atomic, write_json

SCORES, REGIONS, RUN = "scores.csv", "regions.csv", "run.json"
TEXTS = ("file", "image", "verdict", "error")  # all other columns hold numbers
REGION_COLUMNS = ("image", "number", "x", "y", "left", "top", "width", "height", "area", "score")

Row = dict[str, Any]


class Ledger:
    """Appends to scores.csv and regions.csv of a folder, and knows the rows of the run that it goes on with.

    Args:
        folder: where the results are; must exist.
        columns: of scores.csv; "file" and "error" among them.
        settings: all that the results depend on, fit for JSON.
        complete: row → whether the image's files are there; asked for each row of an earlier run.
        modified: file → when it changed last, in seconds since the epoch; OSError where it is gone.
        fresh: forget what is there.

    Attributes:
        rows: file → its row, of images that are done and have not changed since.
        regions: file → its regions, likewise.
    """

    def __init__(
        self,
        folder: Path,
        columns: Sequence[str],
        settings: Mapping[str, Any],
        complete: Callable[[Row], bool],
        *,
        modified: Callable[[str], float] = os.path.getmtime,
        fresh: bool = False,
    ) -> None:
        self.folder, self.columns = folder, tuple(columns)
        self.rows: dict[str, Row] = {}
        self.regions: dict[str, list[Row]] = {}
        settings = json.loads(json.dumps(settings))  # as it comes back from the file
        begun = time.time()  # what changes from here on is found changed by the next run
        earlier = {} if fresh else _json(folder / RUN)
        if earlier.get("settings") == settings:
            self._read(float(earlier["begun"]), complete, modified)
        self._write(SCORES, self.columns, self.rows.values())
        self._write(
            REGIONS,
            REGION_COLUMNS,
            [{"image": file, **row} for file, rows in self.regions.items() for row in rows],
        )
        write_json(folder / RUN, {"begun": begun, "settings": settings})

    def __enter__(self) -> Ledger:
        with ExitStack() as files:
            self._scores, self._regions = (
                files.enter_context((self.folder / name).open("a", newline="", encoding="utf-8"))
                for name in (SCORES, REGIONS)
            )
            self._files = files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, row: Row, regions: Iterable[Row]) -> None:
        """Notes an image, the row last: whoever finds it finds the regions too."""
        named = [{"image": row["file"], **region} for region in regions]
        self._regions.write(_lines(REGION_COLUMNS, named))
        self._regions.flush()
        self._scores.write(_lines(self.columns, [row]))
        self._scores.flush()

    def _read(self, begun: float, complete: Callable[[Row], bool], modified: Callable[[str], float]) -> None:
        for row in _rows(self.folder / SCORES, self.columns):
            try:
                unchanged = modified(row["file"]) <= begun
            except OSError:
                continue
            if unchanged and not row["error"] and complete(row):
                self.rows[row["file"]] = row
        for row in _rows(self.folder / REGIONS, REGION_COLUMNS):
            file = row.pop("image")
            if file in self.rows:
                self.regions.setdefault(file, []).append(row)

    def _write(self, name: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        head = _lines(columns, [dict(zip(columns, columns, strict=True))])
        write_atomic(self.folder / name, (head + _lines(columns, rows)).encode())


def write_parquet(folder: Path, columns: Sequence[str]) -> None:
    """Makes scores.parquet and regions.parquet of the two tables, a piece at a time."""
    from pyarrow import csv as arrow_csv  # comes with Streamlit and with Ray; half a second to import
    from pyarrow import float64, int64, parquet, string

    counts = {name: int64() for name in ("number", "left", "top", "width", "height", "area")}
    for name, head in ((SCORES, columns), (REGIONS, REGION_COLUMNS)):
        kinds = {column: string() if column in TEXTS else counts.get(column, float64()) for column in head}
        path = (folder / name).with_suffix(".parquet")
        unfinished = path.with_name(f".{path.name}.part")
        rows = arrow_csv.open_csv(
            folder / name,
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(column_types=kinds, null_values=[""]),
        )
        try:
            with rows, parquet.ParquetWriter(unfinished, rows.schema) as file:
                for batch in rows:
                    file.write_batch(batch)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def _lines(columns: Sequence[str], rows: Iterable[Row]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns).writerows(rows)
    return text.getvalue()


def _rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """The whole rows of a table with these columns; the last one may have been cut off by a kill."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(next(reader, ())) != tuple(columns):
        return []
    return [
        {name: cell if name in TEXTS else _number(cell) for name, cell in zip(columns, cells, strict=True)}
        for cells in reader
        if len(cells) == len(columns)
    ]


def _number(cell: str) -> int | float | str:
    """As a number where it is one: it goes into the report."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) and isinstance(value.get("begun"), int | float) else {}
    except (OSError, ValueError):
        return {}
