"""C and the score: which images make C, which set the threshold, and whose C it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from anounet.center import METRICS, Center, Spread, compute_center, features_of, split_held_back
from anounet.feature_net import FeatureNet
from anounet.storage import WeightsError, save_weights


def computed(f_net: FeatureNet, x: Tensor, **options: Any) -> Center:
    return list(compute_center(f_net, x.split(4), len(x), **options))[-1].center


def test_score_is_the_mean_absolute_difference() -> None:
    rng = np.random.default_rng(0)
    features, vector = rng.normal(size=(5, 1280)), rng.normal(size=1280)
    center = Center(torch.tensor(vector), "F", 1.0, 0.99, (), 3)
    expected = np.abs(features - vector).sum(axis=1) / 1280
    assert np.allclose(center.score(torch.tensor(features)).numpy(), expected)


def test_the_score_may_go_by_the_angle_while_l_c_stays_what_it_is() -> None:
    rng = np.random.default_rng(0)
    features, vector = rng.normal(size=(5, 1280)), rng.normal(size=1280)
    center = Center(torch.tensor(vector), "F", 1.0, 0.99, (), 3, metric="cosine")
    cosines = features @ vector / np.linalg.norm(features, axis=1) / np.linalg.norm(vector)
    assert np.allclose(center.score(torch.tensor(features)).numpy(), 1 - cosines)
    expected = np.abs(features - vector).sum(axis=1) / 1280
    assert np.allclose(center.distance(torch.tensor(features)).numpy(), expected)
    with pytest.raises(ValueError, match="no score by 'l3': choose l1, cosine, mahalanobis"):
        replace(center, metric="l3")


@pytest.mark.parametrize("metric", list(METRICS))
def test_the_threshold_is_of_the_score_and_both_are_kept(
    f_net: FeatureNet, metric: str, tmp_path: Path
) -> None:
    x = tiny.images(20)
    center = computed(f_net, x, metric=metric)
    _, held = split_held_back(20)
    scores = center.score(f_net(x))[held].numpy()
    assert center.threshold == pytest.approx(np.quantile(scores, 0.99), abs=1e-5)
    center.save(tmp_path / "center.pt")
    kept = Center.load(tmp_path / "center.pt")
    assert kept.metric == metric and torch.equal(kept.score(f_net(x)), center.score(f_net(x)))


def test_the_spread_is_a_mahalanobis_distance_with_a_simpler_covariance() -> None:
    rng = np.random.default_rng(0)
    scales = np.concatenate([np.linspace(3, 1, 20), np.full(30, 0.1)])
    turned = np.linalg.qr(rng.normal(size=(50, 50)))[0]
    features, others = rng.normal(size=(400, 50)) * scales @ turned, rng.normal(size=(7, 50))
    vector = features.mean(axis=0)
    spread = Spread.of(torch.tensor(features), torch.tensor(vector))
    assert spread.axes.shape == (49, 50)  # all but the last, whose variance is the mean of the rest
    covariance = np.cov(features.T, bias=True)
    off = others - vector
    expected = np.sqrt(np.einsum("bi,ij,bj->b", off, np.linalg.inv(covariance), off) / 50)
    found = spread.distance(torch.tensor(off)).numpy()
    assert np.allclose(found, expected, rtol=0.05)  # its axes are rounded to float16

    few = Spread.of(torch.tensor(features[:40]), torch.tensor(vector))
    values, vectors = np.linalg.eigh((features[:40] - vector).T @ (features[:40] - vector) / 40)
    assert len(few.deviations) == 10 and few.rest**2 == pytest.approx(values[:-10].mean(), rel=1e-4)
    simpler = vectors * np.where(np.arange(50) < 40, values[:-10].mean(), values) @ vectors.T
    expected = np.sqrt(np.einsum("bi,ij,bj->b", off, np.linalg.inv(simpler), off) / 50)
    assert np.allclose(few.distance(torch.tensor(off)).numpy(), expected, rtol=0.05)


def test_with_any_score_the_levels_of_l_c_are_known(f_net: FeatureNet, tmp_path: Path) -> None:
    x = tiny.images(20)
    plain = computed(f_net, x)
    for metric in ("cosine", "mahalanobis"):
        center = computed(f_net, x, metric=metric)
        assert center.held_back != plain.held_back and center.distances == plain.held_back
        assert center.level(0.5) == plain.level(0.5)
        center.save(tmp_path / "center.pt")
        assert Center.load(tmp_path / "center.pt").level(0.5) == plain.level(0.5)
        with pytest.raises(ValueError, match="compute C anew"):
            replace(center, distances=()).level(0.5)


def test_a_score_that_lacks_its_spread_is_refused(f_net: FeatureNet, tmp_path: Path) -> None:
    center = computed(f_net, tiny.images(20), metric="mahalanobis")
    with pytest.raises(ValueError, match="needs the spread"):
        replace(center, spread=None)
    broken = replace(center, spread=replace(center.spread, rest=0.0))
    broken.save(tmp_path / "center.pt")
    with pytest.raises(WeightsError, match="compute C anew"):
        Center.load(tmp_path / "center.pt")


def test_c_is_the_mean_of_the_fit_share_alone(f_net: FeatureNet) -> None:
    x = tiny.images(20)
    fit, held = split_held_back(20)
    assert (len(fit), len(held)) == (16, 4)
    assert sorted([*fit, *held]) == list(range(20))
    center = computed(f_net, x)
    assert center.count == 16
    expected = f_net(x)[fit].mean(dim=0)
    assert torch.allclose(center.vector, expected, rtol=1e-3, atol=1e-5)  # rounded as in a file
    assert torch.equal(center.vector, center.vector.half().float())

    other_held = x.clone()
    other_held[held] = torch.rand(4, 3, 32, 32, generator=tiny.generator())
    changed = computed(f_net, other_held)
    assert torch.equal(changed.vector, center.vector)
    assert changed.threshold != center.threshold

    other_fit = x.clone()
    other_fit[fit[0]] = 1 - x[fit[0]]
    assert not torch.equal(computed(f_net, other_fit).vector, center.vector)


def test_threshold_is_the_quantile_of_the_held_back_scores(f_net: FeatureNet) -> None:
    x = tiny.images(20)
    _, held = split_held_back(20, 0.5, seed=3)
    center = computed(f_net, x, held_back=0.5, quantile=0.7, seed=3)
    scores = center.score(f_net(x))[held].numpy()
    assert center.threshold == pytest.approx(np.quantile(scores, 0.7), abs=1e-5)
    assert center.held_back == pytest.approx(sorted(scores), abs=1e-5)
    assert center.quantile == 0.7
    default = computed(f_net, x)
    _, held = split_held_back(20)
    default_scores = default.score(f_net(x))[held].numpy()
    assert default.threshold == pytest.approx(np.quantile(default_scores, 0.99), abs=1e-5)


def test_the_batches_do_not_matter(f_net: FeatureNet) -> None:
    x = tiny.images(9)
    one, many = list(compute_center(f_net, [x], 9))[-1].center, list(compute_center(f_net, x.split(2), 9))
    assert (one.vector - many[-1].center.vector).abs().max() < 2e-3
    assert [p.done for p in many] == [2, 4, 6, 8, 9, 9]
    assert [p.center is not None for p in many] == [False] * 5 + [True]


def test_the_split_is_drawn_by_its_seed_alone() -> None:
    np.random.seed(1)
    first = split_held_back(50)
    np.random.seed(2)
    again, other = split_held_back(50), split_held_back(50, seed=1)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not (first[1] == other[1]).all()


def test_too_few_images_are_refused(f_net: FeatureNet) -> None:
    with pytest.raises(ValueError, match="5 normal images or more, and there are 4"):
        computed(f_net, tiny.images(4))
    assert computed(f_net, tiny.images(5)).count == 3  # two are always held back


def test_a_wrong_announcement_is_refused(f_net: FeatureNet) -> None:
    with pytest.raises(ValueError, match="8 normal images were announced and 6 came"):
        list(compute_center(f_net, [tiny.images(6)], 8))


def test_another_f_is_refused(f_net: FeatureNet, center: Center) -> None:
    assert center.check(f_net) is center
    other = tiny.f_net(1)
    with pytest.raises(WeightsError, match=r"center\.pt was made from another f-Net") as caught:
        center.check(other, "center.pt")
    assert center.f_net[:12] in str(caught.value)
    assert other.fingerprint[:12] in str(caught.value)


def test_the_disk_changes_nothing(f_net: FeatureNet, tmp_path: Path) -> None:
    center = computed(f_net, tiny.images(10))
    path = tmp_path / "center.pt"
    loaded = Center.load(path, center.save(path))
    assert torch.equal(loaded.vector, center.vector)
    assert replace(loaded, vector=None) == replace(center, vector=None)
    features = features_of(f_net, tiny.defective())
    assert torch.equal(loaded.score(features), center.score(features))
    assert {"versions", "made", "held_back_share", "seed"} <= loaded.meta.keys()


@pytest.mark.parametrize("missing", ["f_net", "threshold", "quantile", "held_back", "count", "meta"])
def test_a_file_that_lacks_something_is_refused(center: Center, tmp_path: Path, missing: str) -> None:
    path = tmp_path / "center.pt"
    described = {
        "f_net": "F",
        "threshold": 1.0,
        "quantile": 0.99,
        "held_back": [1.0],
        "count": 4,
        "meta": {},
    }
    save_weights(path, "center", {"vector": center.vector}, described)
    assert Center.load(path).count == 4
    del described[missing]
    save_weights(path, "center", {"vector": center.vector}, described)
    with pytest.raises(WeightsError, match=r"center\.pt is no C"):
        Center.load(path)


def test_a_vector_of_another_shape_or_of_no_numbers_is_refused(center: Center, tmp_path: Path) -> None:
    path = tmp_path / "center.pt"
    for vector in (center.vector[:-1], torch.full((1280,), float("nan"))):
        replace(center, vector=vector).save(path)
        with pytest.raises(WeightsError, match=r"center\.pt"):
            Center.load(path)
    replace(center, threshold=float("nan")).save(path)
    with pytest.raises(WeightsError, match=r"center\.pt"):
        Center.load(path)
