"""Fixtures that several tests share; what they are made of stands in tiny.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import cores  # noqa: F401 (before torch, which counts the cores when it is imported)
import pytest
import tiny

from anounet.bundle import Bundle, load_bundle
from anounet.center import Center
from anounet.feature_net import FeatureNet
from anounet.local_centers import LocalCenters
from anounet.unet import GatedUNet, UNet


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first: no worker sits over one of them when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)


@pytest.fixture(scope="session")
def f_net() -> FeatureNet:
    """A tiny F, shared: it is frozen."""
    return tiny.f_net()


@pytest.fixture(scope="session")
def center(f_net: FeatureNet) -> Center:
    """Its C for the streaks."""
    return tiny.center(f_net)


@pytest.fixture(scope="session")
def identity() -> UNet:
    """A tiny U-Net that redraws images unchanged."""
    return tiny.identity()


@pytest.fixture(scope="session")
def local(f_net: FeatureNet) -> LocalCenters:
    """Its C for every patch of the streaks."""
    return tiny.tiny_local_centers(f_net)


@pytest.fixture(scope="session")
def instant(f_net: FeatureNet, local: LocalCenters) -> GatedUNet:
    """A tiny U-Net of `instant` mode, hardly trained."""
    return tiny.tiny_instant(f_net, local)


@pytest.fixture(scope="session")
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOUNET_WEIGHTS", str(folder))
        tiny.save_bundle()
    return folder


@pytest.fixture
def weights(_made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundles of the test's own, named by `$ANOUNET_WEIGHTS`, with the bundle "tiny" in it."""
    folder = tmp_path / "weights"
    shutil.copytree(_made_once, folder)
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(folder))
    return folder


@pytest.fixture
def bundle(weights: Path) -> Bundle:
    """The bundle "tiny", opened."""
    return load_bundle(tiny.NAME, "cpu")
