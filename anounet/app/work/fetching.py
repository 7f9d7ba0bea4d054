"""Data sets fetched from the network."""

from __future__ import annotations

from pathlib import Path

from anounet.app.jobs import Job, closing_stream
from anounet.app.texts import t
from anounet.datasets.download import FOLDER, download


def fetch(job: Job, name: str) -> str:
    """Downloads a data set into `data/`; a stop keeps what is there, and another download goes on from it."""
    file = ""
    with closing_stream(download(name, FOLDER)) as stream:
        for fetched in stream:
            done, total = fetched.done // 1000, fetched.total // 1000
            if fetched.file != file:
                file = fetched.file
                job.stage(t("job.fetching", file=Path(file).name), total, done)
            job.advance(done, total)
            job.check()
    return name
