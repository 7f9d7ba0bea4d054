"""Own images in three steps: good ones become a bundle by themselves, suspicious ones are ranked with it."""

from __future__ import annotations

import csv
import io
import json
import threading
import zipfile
from pathlib import Path

import pytest
import tiny
from streamlit.testing.v1 import AppTest
from test_app import (  # noqa: F401 (fixtures)
    PAGES,
    PATIENCE,
    SIZE,
    app,
    job_of,
    made,
    no_leftovers,
    noise,
    png,
    settled,
    short_search,
    sound,
    streaks,
    weights,
    words,
)

from anounet.app import downloads, models, own, ranking
from anounet.app.jobs import CANCELLED, DONE
from anounet.app.work import centers
from anounet.app.work import ranking as judging
from anounet.app.work.answers import Picture
from anounet.bundle import load_bundle, save_part
from anounet.datasets import TextureSet
from anounet.images import content_hash


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "SIZES", (SIZE,))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The levels of `fast` mode are of two images."""
    counts = centers.LEVEL_IMAGES | {"fast": 2, "fast-local": 2}
    monkeypatch.setattr(centers, "LEVEL_IMAGES", counts)


def suspicious(good: int = 2, defective: int = 4) -> list[tuple[str, bytes]]:
    images = TextureSet("test", 8)
    found = []
    for name, count, wanted in (("good", good, False), ("bad", defective, True)):
        indices = images.where("streaks", defective=wanted)[:count]
        found += [(f"{name}{n}.png", png(images.pixels(i, 48))) for n, i in enumerate(indices)]
    return found


def drop(at: AppTest, key: str, files: list[tuple[str, bytes]]) -> AppTest:
    uploader = at.file_uploader(key=key)
    for file, data in files:
        uploader.upload(file, data)
    return sound(at.run())


def page(**query: str) -> AppTest:
    return app(PAGES[4], **query)


def with_bundle(count: int = 24) -> AppTest:
    """The page after good images were dropped, with the bundle that came of them."""
    at = settled(drop(page(), "own_upload_0", streaks(count)), "own")
    assert job_of(at, "own").state == DONE, job_of(at, "own").error
    return at


@pytest.fixture(scope="module")
def own_bundle(made: Path) -> Path:  # noqa: F811
    """The same folder of bundles, with one of own images in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOUNET_WEIGHTS", str(made))
        images = TextureSet("train", 12)
        pixels = [images.pixels(i, SIZE) for i in images.where("streaks", defective=False)]
        pictures = [Picture(f"{n}.png", content_hash(p), p) for n, p in enumerate(pixels)]
        job = models.Job("made", "own", "made", lambda job: None) if hasattr(models, "Job") else None
        from anounet.app.jobs import Job

        job = Job("made", "own", "made", lambda job: None)
        centers.prepare_own(job, "parts", pictures, SIZE)
    return made


def ranked(files: list[tuple[str, bytes]] | None = None, **query: str) -> AppTest:
    at = drop(page(bundle="parts", **query), "suspects_upload_0", files or suspicious())
    return settled(at, ranking.RANK)
