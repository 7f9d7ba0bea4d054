"""Feature space, paths in it, and the grid of β × steps, on nets of random weights at 32 px."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from anounet import ano_unet, explore
from anounet.bundle import Bundle
from anounet.center import Center, features_of
from anounet.explore import (
    Features,
    GridSettings,
    arrange,
    columns,
    fit_plane,
    grid,
    margin,
    matrix,
    survey,
    trail,
)
from anounet.feature_net import FeatureNet
from anounet.images import ImageError
from anounet.prepare import DataChoice
from anounet.storage import WeightsError

FAST = ano_unet.Settings(beta=4.0, steps=6)
CHOICE = DataChoice(size=tiny.SIZE)


@pytest.fixture
def x() -> torch.Tensor:
    return tiny.defective(1)[0]


def group(net: FeatureNet, images: torch.Tensor, name: str) -> Features:
    return Features(features_of(net, images), (name,) * len(images))


def test_the_plane_is_that_of_the_largest_variance() -> None:
    drawn = torch.randn(60, 3, generator=tiny.generator()) * torch.tensor([5.0, 2.0, 0.1])
    turned, _ = torch.linalg.qr(torch.randn(8, 8, generator=tiny.generator(1)))
    points = drawn @ turned[:3] + 7
    plane = fit_plane(points)
    assert np.allclose(plane.axes.T @ plane.axes, np.eye(2), atol=1e-9)
    spread = plane.place(points).var(axis=0)
    values = np.linalg.eigvalsh(np.cov(points.double().numpy().T, bias=True))[::-1]
    assert np.allclose(spread, values[:2]) and spread[0] > 4 * spread[1]
    assert np.allclose(plane.explained, values[:2] / values.sum())
    assert np.allclose(plane.place(points).mean(axis=0), 0, atol=1e-5)
    again = fit_plane(points.flip(0))
    assert np.allclose(again.axes, plane.axes)  # its sign too


def test_images_that_are_all_alike_make_a_plane_and_too_few_none() -> None:
    plane = fit_plane(torch.ones(5, 8))
    assert plane.explained == (0.0, 0.0) and np.isfinite(plane.axes).all()
    with pytest.raises(ValueError, match="3 images or more, and there are 2"):
        fit_plane(torch.ones(2, 8))


def test_anomalies_and_c_have_no_say_in_the_plane(f_net: FeatureNet, center: Center) -> None:
    normal, reference = (
        group(f_net, tiny.images(8), "streaks"),
        group(f_net, tiny.images(4, "weave"), "weave"),
    )
    bad = group(f_net, tiny.defective(4), "scratch")
    cloud = arrange(center, normal, reference, bad)
    far = arrange(
        replace(center, vector=center.vector + 9), normal, reference, Features(100 * bad.values, bad.names)
    )
    assert np.array_equal(cloud.plane.axes, far.plane.axes)
    assert np.array_equal(cloud.normal.at, far.normal.at)
    assert not np.allclose(cloud.anomalous.at, far.anomalous.at)
    assert not np.allclose(cloud.center, far.center)
    without = arrange(center, normal, Features(reference.values[:0], ()), bad)
    assert not np.allclose(without.plane.axes, cloud.plane.axes)  # reference classes do
    assert len(without.reference.at) == 0 and len(without.anomalous.scores) == 4


def test_a_bundle_s_data_is_looked_at_as_a_stream(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "NORMALS", 6)
    monkeypatch.setattr(explore, "REFERENCES", 18)
    monkeypatch.setattr(explore, "ANOMALIES", 5)
    steps = list(survey(bundle, replace(CHOICE, reference="nowhere")))
    assert [s.cloud for s in steps[:-1]] == [None] * (len(steps) - 1)
    assert [s.done for s in steps] == sorted(s.done for s in steps) and steps[-1].done == steps[
        -1
    ].total == 29
    cloud = steps[-1].cloud
    assert (len(cloud.normal.at), len(cloud.reference.at), len(cloud.anomalous.at)) == (6, 18, 5)
    assert set(cloud.normal.names) == {"streaks"} and "streaks" not in cloud.reference.names
    assert len(set(cloud.reference.names)) == 9 and "scratch" in cloud.anomalous.names
    assert len(cloud.left_out) == 1 and "nowhere" in cloud.left_out[0]
    left = list(survey(bundle, replace(CHOICE, exclude=("weave",))))[-1].cloud
    assert "weave" not in left.reference.names


def test_a_path_has_a_point_more_than_steps_and_ends_at_y(bundle: Bundle, x: torch.Tensor) -> None:
    *steps, last = trail(x, bundle, FAST)
    assert len(steps) == FAST.steps and all(step.trail is None for step in steps)
    path = last.trail
    assert path.features.shape == (FAST.steps + 1, 1280) and len(path.scores) == FAST.steps + 1
    assert torch.equal(path.features[-1], features_of(bundle.f_net, path.y[None])[0])
    parts = bundle.center, FAST, bundle.identity
    *_, alone = ano_unet.reconstruct(x[None], bundle.f_net, *parts)
    assert torch.equal(path.y, alone.image[0])
    assert path.scores[-1] == pytest.approx(float(alone.losses["L_C"][0]), rel=1e-4)
    difference = (path.features[-1] - path.features[0]).double().abs().sum() / 1280
    assert path.travelled == pytest.approx(float(difference), rel=1e-5) and path.travelled > 0


def test_a_bigger_beta_ends_nearer_c(bundle: Bundle, x: torch.Tensor) -> None:
    ends = [
        list(trail(x, bundle, replace(FAST, beta=beta, steps=12)))[-1].trail.scores[-1]
        for beta in (0.0, 100.0)
    ]
    assert ends[1] < ends[0]


def test_when_f_is_satisfied_is_told_by_the_threshold(bundle: Bundle, x: torch.Tensor) -> None:
    path = list(trail(x, bundle, replace(FAST, beta=100.0, steps=12)))[-1].trail
    assert path.satisfied_after(path.scores[0]) == 0
    assert path.satisfied_after(min(path.scores) / 2) is None
    between = (path.scores[0] + min(path.scores)) / 2
    after = path.satisfied_after(between)
    assert after > 0 and path.scores[after] <= between < path.scores[after - 1]


def test_columns_double_and_end_at_the_most() -> None:
    assert columns(80) == (5, 10, 20, 40, 80)
    assert columns(200) == (12, 25, 50, 100, 200)
    assert columns(3) == (1, 3) and columns(1) == (1,)


@pytest.mark.parametrize("base", [FAST, ano_unet.LOCAL])
def test_a_cell_is_the_run_of_its_beta_and_steps_bit_for_bit(
    bundle: Bundle, x: torch.Tensor, base: ano_unet.Settings
) -> None:
    settings = GridSettings(base, (1.0, 8.0), (1, 3, 6))
    steps = list(grid(x, bundle, settings))
    assert steps[-1].done == steps[-1].total == settings.total == 12
    cells = [step.cells[-1] for step in steps if step.new]
    assert [(c.beta, c.steps) for c in cells] == [(b, s) for b in settings.betas for s in settings.steps]
    center = bundle.local if base.center == "local" else bundle.center
    for cell in cells:
        own = settings.at(cell.beta, cell.steps)
        *_, alone = ano_unet.reconstruct(x[None], bundle.f_net, center, own, bundle.identity)
        assert torch.equal(cell.y, alone.image[0])
        assert cell.losses["L_R"] == float(alone.losses["L_R"][0])
        assert cell.score == float(bundle.center.score(features_of(bundle.f_net, cell.y[None])))
    rows = {step.beta: step.cells for step in steps}
    assert [len(row) for row in rows.values()] == [3, 3]


def test_change_is_measured_inside_and_outside_the_mask(bundle: Bundle, x: torch.Tensor) -> None:
    mask = np.zeros((tiny.SIZE, tiny.SIZE), bool)
    mask[4:12, 6:20] = True
    settings = GridSettings(FAST, (30.0,), (6,))
    (cell,) = list(grid(x, bundle, settings, mask))[-1].cells
    change = (x - cell.y).abs().mean(dim=0).numpy()
    assert cell.inside == pytest.approx(change[mask].mean(), rel=1e-5)
    assert cell.outside == pytest.approx(change[~mask].mean(), rel=1e-5)
    assert cell.background == cell.outside != cell.inside
    share = mask.mean()
    assert share * cell.inside + (1 - share) * cell.outside == pytest.approx(cell.losses["L_R"], rel=1e-4)
    (plain,) = list(grid(x, bundle, settings))[-1].cells
    assert (plain.inside, plain.outside, plain.background) == (None, None, plain.losses["L_R"])
    (good,) = list(grid(x, bundle, settings, np.zeros_like(mask)))[-1].cells
    assert good.inside is None and good.outside == pytest.approx(good.losses["L_R"], rel=1e-4)
    with pytest.raises(ValueError, match="does not fit"):
        next(grid(x, bundle, settings, mask[:8]))


def test_the_second_classifier_is_asked_where_there_is_one(bundle: Bundle, x: torch.Tensor) -> None:
    settings = GridSettings(FAST, (30.0,), (6,))
    (cell,) = list(grid(x, bundle, settings))[-1].cells
    logits = bundle.classifier.logits(cell.y[None])[0]
    assert cell.margin == pytest.approx(float(logits[0] - logits[1]), abs=1e-5)  # streaks, streaks defective
    assert cell.margin != margin(x[None], bundle)
    assert bundle.classifier.away_from("weave", ()) == ()
    for judge in (None, tiny.classifier(("weave", "streaks defective"))):
        without = replace(bundle, classifier=judge)
        assert margin(x[None], without) is None
        assert list(grid(x, without, settings))[-1].cells[0].margin is None


def test_matrix_puts_numbers_in_their_places(bundle: Bundle, x: torch.Tensor) -> None:
    settings = GridSettings(FAST, (1.0, 8.0), (1, 2))
    steps = [step for step in grid(x, bundle, settings) if step.new]
    cells = [step.cells[-1] for step in steps[:3]]
    found = matrix(cells, settings, "score")
    assert found[0].tolist() == [cells[0].score, cells[1].score] and found[1, 0] == cells[2].score
    assert np.isnan(found[1, 1])
    assert np.isnan(matrix([replace(c, margin=None) for c in cells], settings, "margin")).all()


@pytest.mark.parametrize(
    ("betas", "steps", "said"),
    [
        ((), (1,), "1 to 12 values of β"),
        ((2.0, 1.0), (1,), "ascending"),
        ((1.0,), (2, 2), "values of steps"),
        ((-1.0,), (1,), "β must lie between"),
        ((float("nan"),), (1,), "β must lie between"),
        ((1.0,), (5000,), "Steps must be"),
    ],
)
def test_settings_out_of_range_are_refused_in_a_sentence(
    betas: tuple[float, ...], steps: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        GridSettings(FAST, betas, steps)


def test_a_beta_that_fails_is_named_and_the_others_go_on(
    bundle: Bundle, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = ano_unet.losses

    def failing(*args: Any) -> Any:
        objective = losses(*args)
        return lambda y: {k: v * (float("nan") if args[3] == 2.0 else 1) for k, v in objective(y).items()}

    monkeypatch.setattr(ano_unet, "losses", failing)
    steps = list(grid(x, bundle, GridSettings(FAST, (1.0, 2.0, 4.0), (2,))))
    faults = {step.beta: step.fault for step in steps if step.fault}
    assert list(faults) == [2.0] and "stopped being a number" in faults[2.0]
    assert [len(row) for row in {step.beta: step.cells for step in steps}.values()] == [1, 0, 1]
    assert steps[-1].done == steps[-1].total


def test_a_bundle_without_a_part_is_told_what_to_do(bundle: Bundle, x: torch.Tensor) -> None:
    for stream in (
        trail(x, replace(bundle, center=None), FAST),
        grid(x, replace(bundle, center=None), GridSettings(ano_unet.LOCAL, (1.0,), (1,))),
        survey(replace(bundle, center=None), CHOICE),
    ):
        with pytest.raises(WeightsError, match="has no C yet"):
            next(stream)
    with pytest.raises(WeightsError, match="identity U-Net"):
        next(trail(x, replace(bundle, identity=None), FAST))
    with pytest.raises(ImageError, match="NaN"):
        next(grid(x * float("nan"), bundle, GridSettings(FAST, (1.0,), (1,))))


def test_ending_early_ends_the_optimisation_too(
    bundle: Bundle, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, closed, descend = [], [], ano_unet.descend

    def watched(*args: Any, **settings: Any) -> Iterator[Any]:
        opened.append(1)
        try:
            yield from descend(*args, **settings)
        finally:
            closed.append(1)

    monkeypatch.setattr(ano_unet, "descend", watched)
    threads = torch.get_num_threads()
    streams = [trail(x, bundle, FAST), grid(x, bundle, GridSettings(FAST, (1.0, 2.0), (6,)))]
    for number, stream in enumerate(streams, 1):
        next(stream)
        next(stream)
        assert (len(opened), len(closed)) == (number, number - 1)
        stream.close()
        assert len(opened) == len(closed) == number  # the second β was never begun
    assert torch.get_num_threads() == threads


def test_f_stays_as_it_is_and_no_global_seed_is_touched(bundle: Bundle, x: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in bundle.f_net.state().items()}
    start = {name: value.clone() for name, value in bundle.identity.state_dict().items()}
    random = torch.get_rng_state()
    list(trail(x, bundle, FAST))
    list(grid(x, bundle, GridSettings(FAST, (1.0, 50.0), (2, 4))))
    assert all(torch.equal(value, before[name]) for name, value in bundle.f_net.state().items())
    assert all(torch.equal(value, start[name]) for name, value in bundle.identity.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in bundle.f_net.parameters())
    assert torch.equal(torch.get_rng_state(), random)
