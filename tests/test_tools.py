"""What `make screenshots` takes pictures of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from anounet.app.routing import PAGES
from anounet.app.story import SLIDES
from anounet.app.texts import LANGUAGES

PATH = Path(__file__).resolve().parent.parent / "tools" / "screenshots.py"


@pytest.fixture(scope="module")
def screenshots() -> ModuleType:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    spec = importlib.util.spec_from_file_location("screenshots", PATH)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_every_page_is_taken_in_every_way_and_no_picture_twice(screenshots: ModuleType) -> None:
    shots = screenshots.shots()
    for page in PAGES.values():
        ways = {(s.language, s.scheme, s.device) for s in shots if s.address == page.url}
        assert len(ways) == len(LANGUAGES) * 2 * len(screenshots.DEVICES), page.url
    names = [shot.name for shot in shots]
    assert len(set(names)) == len(names)
    steps = {shot.address for shot in shots if shot.address.startswith("how_it_works?step=")}
    assert steps == {f"how_it_works?step={number}" for number in range(2, len(SLIDES) + 1)}
