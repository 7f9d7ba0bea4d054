"""The bundle that comes with the project: whole, described, and good at what it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from anounet.anomaly_map import MAPS, heat_map
from anounet.bundle import SHIPPED, Bundle, load_bundle, read_info, verify
from anounet.center import features_of
from anounet.datasets import TextureSet, choose, is_here, open_set
from anounet.experiments import FILE, PICTURE, saved_report
from anounet.local_centers import patches
from anounet.metrics import image_auroc, pixel_auroc
from anounet.visualization import drain, visualize, visualize_many

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (WEIGHTS / SHIPPED / "bundle.json").is_file():
        pytest.skip(f"weights/{SHIPPED} is not there: python -m anounet prepare makes it")
    monkeypatch.delenv("ANOUNET_WEIGHTS", raising=False)


@pytest.fixture
def shipped(_here: None) -> Bundle:
    return load_bundle(SHIPPED, "cpu")


def images(bundle: Bundle, good: int, defective: int) -> tuple[torch.Tensor, np.ndarray]:
    """(x, masks) of test images, the good ones first, all kinds of defect among the others."""
    test = TextureSet("test")
    normal = bundle.info["normal"]
    chosen = test.where(normal, defective=False)[:good] + test.where(normal, defective=True)[:defective]
    return torch.cat(list(test.batches(chosen, bundle.size))), test.masks(chosen, bundle.size)


def test_it_is_whole_and_says_how_it_was_made(shipped: Bundle) -> None:
    assert verify(SHIPPED) and all(verify(SHIPPED).values())
    assert shipped.require_center() and shipped.require_anogan() and shipped.identity is not None
    assert shipped.require_local() and shipped.require_instant() and shipped.mode == "instant"
    assert shipped.scales.keys() >= {"instant", "fast", "fast-local", "anogan", "article"}
    for method in ("instant", "fast", "fast-local"):
        keys = {key for key in shipped.scales if key.partition(":")[0] == method}
        assert len(keys) == len(MAPS) and keys <= shipped.limits.keys()
        assert all(0 < shipped.scales[key] <= shipped.limits[key] for key in keys)
    assert {"instant:score", "fast-local:score"} <= shipped.limits.keys()
    assert shipped.info["command"].startswith("python -m anounet ")
    assert SHIPPED in shipped.info["command"]
    assert shipped.info["data"] == "textures" and shipped.info["normal"] == "streaks"


def test_all_weights_are_small_and_listed() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 80 * 10**6
    text = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in files if path.name not in text and path.name != "README.md"]
    for folder in (path for path in WEIGHTS.iterdir() if path.is_dir()):
        assert folder.name in text
        parts = set(read_info(folder.name)["files"])
        there = {path.name for path in folder.iterdir()}
        assert there - {FILE, PICTURE} == parts | {"bundle.json"}
        # Images of others' data are never committed, those in a figure neither.
        assert PICTURE not in there or read_info(folder.name)["data"] == TextureSet.name


def test_kept_experiments_can_be_read_and_are_of_these_weights() -> None:
    for path in WEIGHTS.glob(f"*/{FILE}"):
        report = saved_report(path.parent.name)
        assert report.bundle == path.parent.name and report.files == read_info(report.bundle)["files"]
        assert report.command.startswith("python -m anounet experiment ")


def test_no_path_of_the_machine_it_was_made_on_is_in_it() -> None:
    for path in WEIGHTS.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(root in data for root in (b"/home/", b"/root/", b"/tmp/", b"/Users/"))


def test_the_score_tells_defective_images_from_good_ones(shipped: Bundle) -> None:
    x, _ = images(shipped, 20, 20)
    scores = shipped.require_center().score(features_of(shipped.f_net, x))
    assert image_auroc(scores.numpy(), np.arange(40) >= 20) > 0.8


def test_instant_mode_finds_the_defects(shipped: Bundle) -> None:
    x, masks = images(shipped, 16, 32)
    results = list(visualize_many(iter(x), shipped, shipped.settings("instant")))
    assert {result.method for result in results} == {"instant"}
    found = pixel_auroc(torch.stack([result.anomaly_map for result in results]).numpy(), masks)
    assert found > 0.9
    scores = np.array([result.score for result in results])
    assert image_auroc(scores, np.arange(48) >= 16) > 0.9
    assert sum(result.anomalous for result in results[:16]) <= 2
    assert sum(result.anomalous for result in results[16:]) >= 20
    repaired = results[16:]
    before = _l_c(shipped, torch.stack([result.x for result in repaired]))
    after = _l_c(shipped, torch.stack([result.y for result in repaired]))
    assert after.mean() < 0.9 * before.mean()


def _l_c(bundle: Bundle, x: torch.Tensor) -> torch.Tensor:
    local = bundle.require_local()
    with torch.no_grad():
        return local.centering(local.distance(patches(x, bundle.f_net, local.settings)))


def test_instant_mode_leaves_normal_images_nearly_as_they_are(shipped: Bundle) -> None:
    x, _ = images(shipped, 16, 0)
    results = list(visualize_many(iter(x), shipped, shipped.settings("instant")))
    changes = torch.stack([(result.x - result.y).abs().mean() for result in results])
    assert changes.mean() < 0.01


def test_fast_mode_finds_the_defects(shipped: Bundle) -> None:
    x, masks = images(shipped, 2, 6)
    settings = shipped.settings("fast")
    results = [drain(visualize(image, shipped, settings)) for image in x]
    found = pixel_auroc(torch.stack([result.anomaly_map for result in results]).numpy(), masks)
    assert found > 0.7
    smoothing = results[0].smoothing
    grey = x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x)
    assert found > pixel_auroc(heat_map(x, grey, smoothing).numpy(), masks)
    assert found > pixel_auroc(heat_map(x, grey, 0.0).numpy(), masks)
    assert all(result.losses["L_C"][-1] < result.losses["L_C"][0] for result in results[2:])


def test_what_a_robust_f_changes_is_real_to_a_net_that_g_never_saw(_here: None) -> None:
    name = "cifar10-horse"
    if not (WEIGHTS / f"{name}-robust" / "bundle.json").is_file():
        pytest.skip(f"weights/{name}-robust is not there: weights/README.md has its commands")
    if not is_here("cifar10"):
        pytest.skip("CIFAR-10 is not here: put it into the folder that ANOUNET_DATA names")
    robust, judge = load_bundle(f"{name}-robust", "cpu"), load_bundle(name, "cpu").require_classifier()
    validation, changes, moved = open_set("cifar10", "validation"), {}, None
    for kind in ("horse", "deer"):
        x = validation.tensor(choose(validation.where(kind), 6), 96).float() / 255
        y = torch.stack([r.y for r in visualize_many(x, robust, robust.settings("fast"))])
        changes[kind] = float((x - y).abs().mean())
        moved = judge.change(x, y, "horse", "deer")
    assert (moved.difference > 0).sum() >= 4 and moved.difference.mean() > 1  # the deer's
    assert changes["horse"] < changes["deer"]
