"""What `visualize` makes of an image with a bundle: maps, scores, verdicts, alone and in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from anounet import ano_unet, f_anogan, visualization
from anounet.anogan import SearchSettings
from anounet.anomaly_map import MAPS, contours, heat_map, map_set
from anounet.bundle import ENOUGH, Bundle
from anounet.center import features_of
from anounet.decoder import redraw
from anounet.images import ImageError
from anounet.optimize import Step
from anounet.visualization import (
    INSTANT_BATCH,
    batch_size,
    drain,
    peaks,
    visualize,
    visualize_anogan,
    visualize_decoder,
    visualize_many,
    visualize_rival,
)


def test_a_result_has_all_that_belongs_to_the_image(bundle: Bundle) -> None:
    x = tiny.defective(1)[0]
    steps = []
    result = drain(visualize(x, bundle, bundle.settings("fast"), snapshot_every=1), steps.append)
    assert len(steps) == 4 and all(step.image is not None for step in steps)
    assert result.method == "fast" and result.smoothing == 2.0 and result.scale == 0.05
    assert torch.equal(result.x, x)
    assert torch.equal(result.y, steps[-1].image[0])
    assert result.anomaly_map.shape == (32, 32)
    assert torch.equal(result.anomaly_map, heat_map(x[None], result.y[None], 2.0)[0])
    assert result.score == pytest.approx(
        float(bundle.center.score(features_of(bundle.f_net, x[None]))), abs=1e-6
    )
    assert result.threshold == bundle.center.threshold
    assert result.anomalous is (result.score > result.threshold)
    assert result.verdict == ("anomalous" if result.anomalous else "normal")
    assert result.losses.keys() == {"L_R", "L_C", "L"}
    assert result.losses["L_R"] == tuple(float(step.losses["L_R"][0]) for step in steps)
    assert result.losses["L_C"][0] == pytest.approx(result.score, rel=1e-2)  # y is x before the first step
    assert result.seconds > 0
    assert result.maps.keys() == result.scales.keys() == result.limits.keys() == set(MAPS)
    assert torch.equal(result.maps["residual"], result.anomaly_map) and result.limit == 0.06
    assert all(m.shape == (32, 32) and (m >= 0).all() for m in result.maps.values())


def test_an_instant_result_has_all_that_belongs_to_the_image(bundle: Bundle) -> None:
    x = tiny.defective(1)[0]
    steps = []
    result = drain(visualize(x, bundle), steps.append)
    (step,) = steps
    assert torch.equal(step.image[0], result.y) and step.last
    assert result.method == "instant" and result.scale == 0.15 and result.limit == 0.2
    evidence = ano_unet.redraw(x[None], bundle.f_net, bundle.local, bundle.instant)
    assert (result.y - evidence.y[0]).abs().max() < 1e-5
    maps = map_set(x[None], evidence.y, evidence, result.smoothing)
    assert result.maps.keys() == set(MAPS)
    assert all((result.maps[name] - maps[name][0]).abs().max() < 1e-4 for name in MAPS)
    assert torch.equal(result.anomaly_map, result.maps["combined"])
    assert result.score == pytest.approx(float(peaks(result.maps, result.scales))) and result.score > 0
    assert result.threshold == 1.7 and result.anomalous is (result.score > 1.7)
    (l_r,), (l_c,), (total,) = (result.losses[name] for name in ("L_R", "L_C", "L"))
    assert l_r == pytest.approx(float((x - result.y).abs().mean()), rel=1e-3)
    assert l_c == pytest.approx(float(bundle.local.centering(evidence.after)[0]), rel=1e-3, abs=1e-6)
    assert total == pytest.approx(l_r + bundle.settings().beta * l_c, rel=1e-3)


def judged_by_f(bundle: Bundle, threshold: float, held_back: int = ENOUGH) -> Bundle:
    """The bundle, with a C whose threshold is that of as many held-back images."""
    center = replace(bundle.center, threshold=threshold, held_back=(threshold,) * held_back)
    return replace(bundle, center=center)


@pytest.mark.parametrize("steps", [0, 2])
def test_f_is_asked_too_where_its_threshold_is_known(bundle: Bundle, steps: int) -> None:
    x, settings = tiny.defective(1)[0], bundle.settings(steps=steps)
    alone = drain(visualize(x, bundle, settings))
    assert alone.overall is None
    few = drain(visualize(x, judged_by_f(bundle, 1e-6, ENOUGH - 1), settings))
    assert few.overall is None and few.score == alone.score
    own = float(bundle.center.score(features_of(bundle.f_net, x[None])))
    for ratio in (0.01, 20.0):
        result = drain(visualize(x, judged_by_f(bundle, own / ratio), settings))
        assert result.overall == pytest.approx(ratio, rel=1e-4) and result.threshold == alone.threshold
        assert result.score == pytest.approx(max(alone.score, ratio * alone.threshold), rel=1e-4)
        assert torch.equal(result.anomaly_map, alone.anomaly_map)
    assert result.anomalous  # though no place is


def test_what_f_says_does_not_depend_on_the_batch(bundle: Bundle) -> None:
    x = torch.stack([*tiny.defective(2), *tiny.images(3)])
    own = bundle.center.score(features_of(bundle.f_net, x))
    judged = judged_by_f(bundle, float(own.min()) / 5)
    together = list(visualize_many(list(x), judged))
    assert [r.overall for r in together] == pytest.approx((own / judged.center.threshold).tolist(), rel=1e-4)
    for image, result in zip(x, together, strict=True):
        assert drain(visualize(image, judged)).score == pytest.approx(result.score, rel=1e-3)


def test_regions_lie_above_the_map_s_limit(bundle: Bundle) -> None:
    result = drain(visualize(tiny.defective(1)[0], bundle))
    for name in (None, *MAPS):
        shown = result.anomaly_map if name is None else result.maps[name]
        low = float(shown.quantile(0.9))
        for level in (low, None):
            limit = level if level is not None else result.limit if name is None else result.limits[name]
            found = result.regions(name, level)
            assert all(region.score > 1 and region.area >= 4 for region in found)
            assert sum(region.area for region in found) <= int((shown > limit).sum())
    assert result.regions(level=float(result.anomaly_map.quantile(0.9)))
    assert result.regions(level=float(result.anomaly_map.max())) == []
    assert replace(result, anomaly_map=None).regions() == []


def test_without_local_centres_there_is_the_residual_alone(bundle: Bundle) -> None:
    bare = replace(bundle, local=None, instant=None)
    result = drain(visualize(tiny.defective(1)[0], bare))
    assert result.method == "fast" and result.maps.keys() == {"residual"}


def test_fast_mode_with_local_centres(bundle: Bundle) -> None:
    settings = bundle.settings("fast", center="local")
    result = drain(visualize(tiny.defective(1)[0], bundle, settings))
    assert result.method == "fast-local" and result.scale == 0.3 and result.threshold == 1.4
    assert torch.equal(result.anomaly_map, result.maps["combined"])
    distance = result.maps["distance"]
    assert result.score == pytest.approx(float(distance.max()) / result.scales["distance"], rel=1e-4)


def test_without_smoothing_the_map_is_the_article_s(bundle: Bundle) -> None:
    x = tiny.defective(1)[0]
    result = drain(visualize(x, bundle, bundle.settings("fast", smoothing=0.0)))
    assert torch.equal(result.anomaly_map, (x - result.y).abs().mean(dim=0))


@pytest.mark.parametrize("center", ["global", "local"])
def test_the_gate_leaves_a_normal_image_out(bundle: Bundle, center: str) -> None:
    x, settings = tiny.defective(1)[0], bundle.settings("fast", center=center)
    score = drain(visualize(x, bundle, replace(settings, steps=0))).score
    strict, lax = (_with_threshold(bundle, settings.method, score + more) for more in (-1e-3, 1e-3))
    steps = []
    left_out = drain(visualize(x, lax, settings, gate=True), steps.append)
    assert steps == []
    assert left_out.y is None and left_out.anomaly_map is None and left_out.losses == {}
    assert left_out.maps == {} and left_out.regions() == []
    assert left_out.score == pytest.approx(score) and left_out.verdict == "normal"
    redrawn = drain(visualize(x, strict, settings, gate=True), steps.append)
    assert len(steps) == settings.steps + 1
    assert redrawn.y is not None and redrawn.verdict == "anomalous"
    assert drain(visualize(x, lax, settings)).y is not None  # no gate unless asked for


def test_the_gate_of_instant_mode_saves_the_refining(bundle: Bundle) -> None:
    x, settings = tiny.defective(1)[0], bundle.settings(steps=2)
    plain = drain(visualize(x, bundle))
    strict, lax = (_with_threshold(bundle, "instant", plain.score + more) for more in (-1e-3, 1e-3))
    for used, wanted in ((lax, 1), (strict, 3)):
        steps = []
        result = drain(visualize(x, used, settings, gate=True), steps.append)
        assert len(steps) == wanted and result.y is not None
        assert torch.allclose(result.y, plain.y, atol=1e-6) is (used is lax)


def _with_threshold(bundle: Bundle, method: str, threshold: float) -> Bundle:
    limits = dict(bundle.limits) | {f"{method}:score": threshold}
    return replace(bundle, center=replace(bundle.center, threshold=threshold), limits=limits)


@pytest.mark.parametrize("shape", [(3, 48, 48), (1, 32, 32), (2, 3, 32, 32), (3, 32, 31)])
def test_an_image_of_another_shape_is_refused(bundle: Bundle, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="takes images of 3×32×32"):
        drain(visualize(torch.zeros(shape), bundle))


def test_anogan_results(bundle: Bundle) -> None:
    x = tiny.images(3)
    steps = []
    settings = SearchSettings(steps=3)
    results = drain(visualize_anogan(x, bundle, settings), steps.append)
    assert len(steps) == 4 and len(results) == 3
    for i, result in enumerate(results):
        assert result.method == "anogan" and result.threshold is None and result.verdict == "normal"
        assert result.scale == 0.2
        assert torch.equal(result.x, x[i])
        assert torch.equal(result.y, steps[-1].image[i])
        assert (result.anomaly_map - heat_map(x[i : i + 1], result.y[None], 2.0)[0]).abs().max() < 1e-6
        assert result.score == result.losses["L"][-1] == float(steps[-1].losses["L"][i])
        assert len(result.losses["residual"]) == 4
        alone = drain(visualize_anogan(x[i : i + 1], bundle, settings))[0]
        assert (alone.y - result.y).abs().max() < 1e-4
        assert (alone.anomaly_map - result.anomaly_map).abs().max() < 1e-4
        assert alone.score == pytest.approx(result.score, rel=1e-4)
    assert results[0].seconds == results[1].seconds > 0


def test_decoder_results(bundle: Bundle) -> None:
    x = torch.cat([tiny.images(2), tiny.defective(1)])
    results = drain(visualize_rival("decoder", x, bundle))
    drawn = redraw(x, bundle.f_net, bundle.decoder)
    for i, result in enumerate(results):
        assert result.method == "decoder" and result.threshold is None and result.losses == {}
        assert torch.equal(result.x, x[i]) and torch.equal(result.y, drawn[i])
        assert (result.anomaly_map - heat_map(x[i : i + 1], drawn[i : i + 1], 2.0)[0]).abs().max() < 1e-6
        assert result.scale == bundle.scale("decoder") and result.limit == bundle.limit("decoder")
        assert result.score == pytest.approx(float(result.anomaly_map.max()) / result.scale)
        assert result.maps.keys() == result.scales.keys() == result.limits.keys() == {"residual"}
        alone = visualize_decoder(x[i : i + 1], bundle)[0]
        assert (alone.anomaly_map - result.anomaly_map).abs().max() < 1e-5
    assert results[0].seconds == results[1].seconds > 0


def test_f_anogan_results(bundle: Bundle) -> None:
    x = torch.cat([tiny.images(2), tiny.defective(1)])
    results = drain(visualize_rival("f-anogan", x, bundle))
    y, losses = f_anogan.redraw(x, bundle.anogan, bundle.encoder)
    for i, result in enumerate(results):
        assert result.method == "f-anogan" and result.threshold is None
        assert torch.equal(result.x, x[i]) and torch.equal(result.y, y[i])
        assert (result.anomaly_map - heat_map(x[i : i + 1], y[i : i + 1], 2.0)[0]).abs().max() < 1e-6
        assert result.score == float(losses["L"][i]) == result.losses["L"][0]
        assert (result.scale, result.limit) == (0.22, bundle.limit("f-anogan"))


def test_drain_closes_the_stream_whatever_happens() -> None:
    closed = []

    def stream():
        try:
            yield 1
            yield 2
            return "end"
        finally:
            closed.append(True)

    seen = []
    assert drain(stream(), seen.append) == "end"
    assert seen == [1, 2] and closed == [True]

    def stop(step: int) -> None:
        raise KeyboardInterrupt

    kept = stream()  # named, or it would be closed as garbage
    with pytest.raises(KeyboardInterrupt):
        drain(kept, stop)
    assert closed == [True, True]


def test_an_early_stop_of_visualize_ends_the_optimisation(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    reconstruct = visualization.ano_unet.reconstruct

    def watched(*arguments, **options):
        try:
            yield from reconstruct(*arguments, **options)
        finally:
            ended.append(True)

    monkeypatch.setattr(visualization.ano_unet, "reconstruct", watched)
    stream = visualize(tiny.defective(1)[0], bundle, bundle.settings("fast"))
    next(stream)
    assert not ended
    stream.close()
    assert ended == [True]


def test_many_images_give_what_each_gives_alone_in_order(bundle: Bundle) -> None:
    x = tiny.defective(5)
    threads = torch.get_num_threads()
    settings = bundle.settings("fast")
    together = list(visualize_many(iter(x), bundle, settings, gate=False))
    assert torch.get_num_threads() == threads
    for image, result in zip(x, together, strict=True):
        assert torch.equal(result.x, image)
        assert torch.equal(result.y, drain(visualize(image, bundle, settings)).y)


@pytest.mark.parametrize("steps", [0, 2])
def test_many_instant_images_give_what_each_gives_alone_in_order(bundle: Bundle, steps: int) -> None:
    x = torch.cat([tiny.defective(7), tiny.images(4)])
    settings = bundle.settings(steps=steps)
    together = list(visualize_many(iter(x), bundle, settings))
    for image, result in zip(x, together, strict=True):
        alone = drain(visualize(image, bundle, settings))
        assert torch.equal(result.x, image)
        assert (result.y - alone.y).abs().max() < 1e-5
        assert all((result.maps[n] - alone.maps[n]).abs().max() < 1e-4 for n in MAPS)
        assert result.score == pytest.approx(alone.score, rel=1e-4)
        assert (result.method, result.threshold) == (alone.method, alone.threshold)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_instant_images_are_taken_a_batch_for_each_core_at_a_time(bundle: Bundle, workers: int) -> None:
    taken, most = [], workers * INSTANT_BATCH
    images = tiny.defective(20)
    results = visualize_many((taken.append(1) or x for x in images), bundle, workers=workers)
    next(results)
    assert len(taken) == most
    results.close()
    assert len(taken) == most
    with pytest.raises(ValueError, match="takes images of 3×32×32"):
        list(visualize_many([torch.zeros(3, 48, 48)], bundle, workers=workers))


def test_a_core_of_its_own_changes_no_thread_count_but_its_own(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, each = [], visualization._instant_each
    monkeypatch.setattr(
        visualization,
        "_instant_each",
        lambda part, *a: seen.append((len(part), torch.get_num_threads())) or each(part, *a),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        images = tiny.defective(7)
        results = list(visualize_many(iter(images), bundle, workers=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert sorted(seen) == [(3, 1), (4, 1)]  # as evenly as can be
    assert all(torch.equal(result.x, x) for result, x in zip(results, images, strict=True))


def test_many_images_are_taken_from_the_stream_as_they_are_needed(bundle: Bundle) -> None:
    taken = []

    def stream() -> Iterator[torch.Tensor]:
        for image in tiny.defective(12):
            taken.append(image)
            yield image

    results = visualize_many(stream(), bundle, bundle.settings("fast"))
    next(results)
    assert len(taken) <= visualization.cores()
    results.close()
    assert len(taken) <= visualization.cores()


def test_an_image_that_diverges_costs_only_itself(bundle: Bundle) -> None:
    x = tiny.defective(3)
    x[1] = 3e38  # finite, and too large for a loss
    first, second, third = visualize_many(iter(x), bundle, bundle.settings("fast"))
    assert isinstance(second, ArithmeticError)
    assert first.y is not None and third.y is not None


# --- many at once, as on a GPU -------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images are optimised four at a time; how many each optimisation had."""
    sizes: list[int] = []
    reconstruct = ano_unet.reconstruct

    def counted(x: torch.Tensor, *a: object, together: bool | None = None, **b: object) -> Iterator[Step]:
        assert together or len(x) == 1
        sizes.append(len(x))
        return reconstruct(x, *a, together=together, **b)

    monkeypatch.setattr(visualization, "_at_once", lambda bundle: True)
    monkeypatch.setattr(visualization, "batch_size", lambda bundle, settings: 4)
    monkeypatch.setattr(ano_unet, "reconstruct", counted)
    return sizes


@pytest.mark.parametrize(
    ("mode", "changes"), [("fast", {}), ("fast", {"center": "local"}), ("instant", {"steps": 2})]
)
@pytest.mark.parametrize("gate", [False, True])
def test_images_optimised_at_once_give_what_each_gives_alone(
    bundle: Bundle, at_once: list[int], mode: str, changes: dict, gate: bool
) -> None:
    x, settings = torch.cat([tiny.defective(4), tiny.images(3)]), bundle.settings(mode, **changes)
    scores = [drain(visualize(image, bundle, settings)).score for image in x]
    half = replace(bundle, center=replace(bundle.center, threshold=sorted(scores)[3]))
    half = (
        half
        if settings.center == "global"
        else replace(bundle, limits=bundle.limits | {f"{settings.method}:score": sorted(scores)[3]})
    )
    at_once.clear()
    together = list(visualize_many(iter(x), half, settings, gate=gate))
    assert gate or at_once == [4, 3]
    alone = [drain(visualize(image, half, settings, gate=gate)) for image in x]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.x, other.x) and (one.y is None) == (other.y is None)
        assert one.score == pytest.approx(other.score, rel=0.02) and one.method == other.method
        assert one.losses.keys() == other.losses.keys()
        if one.y is not None:
            assert (one.y - other.y).abs().mean() < 1e-3
            assert one.maps.keys() == other.maps.keys()
    if gate:
        assert {result.anomalous for result in together} == {True, False}
        assert sum(at_once[: -len(x)]) < len(x)


def test_steps_end_where_l_falls_no_more_at_once_as_alone(bundle: Bundle, at_once: list[int]) -> None:
    x, settings = tiny.defective(3), bundle.settings("fast", steps=60, stop=0.5)
    together = list(visualize_many(iter(x), bundle, settings))
    assert at_once == [3]
    for number, (image, one) in enumerate(zip(x, together, strict=True)):
        assert one.steps == drain(visualize(image, bundle, settings)).steps < 60
        assert {len(values) for values in one.losses.values()} == {one.steps + 1}
        short = list(visualize_many(iter(x), bundle, replace(settings, steps=one.steps, stop=0.0)))[number]
        assert torch.equal(one.y, short.y) and one.losses == short.losses
    assert len({one.steps for one in together}) > 1  # the one that stopped first was left as it was


def test_an_early_end_is_the_last_step_of_visualize(bundle: Bundle) -> None:
    settings = bundle.settings("fast", steps=60, stop=0.5)
    steps: list[Step] = []
    result = drain(visualize(tiny.defective(1)[0], bundle, settings), steps.append)
    assert steps[-1].last and steps[-1].index == result.steps == len(steps) - 1 < steps[-1].total
    assert torch.equal(steps[-1].image[0], result.y)
    assert (
        bundle.settings("article").stop == 0 < bundle.settings("fast").stop == bundle.settings("instant").stop
    )


def test_an_instant_pass_in_bfloat16_is_near_float32_and_leaves_distances_alone(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(  # on any machine: emulated where there is no instruction for it
        ano_unet, "mixed_precision", lambda device: torch.autocast(device.type, torch.bfloat16)
    )
    x = tiny.defective(5)
    exact, rounded = (
        list(visualize_many(iter(x), bundle, bundle.settings("instant", precision=precision)))
        for precision in ano_unet.PRECISIONS
    )
    for one, other in zip(exact, rounded, strict=True):
        assert not torch.equal(one.y, other.y) and (one.y - other.y).abs().max() < 0.02
        assert other.y.dtype == torch.float32
        assert torch.equal(one.maps["distance"], other.maps["distance"])
        assert (one.maps["combined"] - other.maps["combined"]).norm() < 0.05 * one.maps["combined"].norm()
        assert one.score == pytest.approx(other.score, rel=0.05)
    with pytest.raises(ValueError, match="fast mode computes in float32"):
        bundle.settings("fast", precision="bfloat16")
    with pytest.raises(ValueError, match="Unknown precision"):
        bundle.settings("instant", precision="float16")


def test_full_memory_halves_the_batch_and_nothing_is_lost(
    bundle: Bundle, at_once: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, settings, counted = tiny.defective(7), bundle.settings("fast"), ano_unet.reconstruct

    def small(x: torch.Tensor, *a: object, **b: object) -> Iterator[Step]:
        if len(x) > most:
            raise torch.OutOfMemoryError("full")
        return counted(x, *a, **b)

    monkeypatch.setattr(ano_unet, "reconstruct", small)
    most = 2
    results = list(visualize_many(iter(x), bundle, settings))
    assert at_once == [2, 2, 2, 1]  # never four again
    for image, result in zip(x, results, strict=True):
        assert torch.equal(result.x, image) and result.y is not None
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        list(visualize_many(iter(x), bundle, settings))


def test_at_once_a_bad_image_costs_only_itself(bundle: Bundle, at_once: list[int]) -> None:
    x = tiny.defective(4)
    x[1], x[2, 0, 0, 0] = 3e38, float("nan")
    results = list(visualize_many(iter(x), bundle, bundle.settings("fast")))
    assert isinstance(results[1], ArithmeticError) and isinstance(results[2], ImageError)
    assert all(results[i].y is not None for i in (0, 3))


def test_more_memory_holds_more_images_and_the_article_s_net_takes_most(bundle: Bundle) -> None:
    article, fast = bundle.settings("article"), bundle.settings("fast")
    sizes = [batch_size(bundle, article, free) for free in (10**8, 10**10, 10**11)]
    assert sizes[0] == 1 < sizes[1] < sizes[2]
    # Weights, gradients and momentum of 31 M parameters are 372 MB an image, before anything is computed.
    assert sizes[1] <= 0.7 * 10**10 / 372e6
    assert batch_size(bundle, fast, 10**10) > sizes[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("mode", "steps"), [("instant", 0), ("instant", 1), ("fast", 1), ("article", 0)])
def test_an_image_that_is_not_finite_is_refused_and_costs_only_itself(
    bundle: Bundle, mode: str, steps: int, value: float
) -> None:
    x, settings = tiny.defective(3), bundle.settings(mode, steps=steps)
    whole = list(visualize_many(x[[0, 2]], bundle, settings))
    x[1, 2, 5, 7] = value
    with pytest.raises(ImageError, match="NaN or infinity"):
        drain(visualize(x[1], bundle, settings, gate=True))
    first, second, third = visualize_many(iter(x), bundle, settings)
    assert isinstance(second, ImageError) and "NaN or infinity" in str(second)
    for result, wanted in zip((first, third), whole, strict=True):
        assert (result.y - wanted.y).abs().max() < 1e-5
    (alone,) = visualize_many(x[1:2], bundle, settings)
    assert isinstance(alone, ImageError)


@pytest.mark.parametrize("threshold", [1.7, None])
def test_a_score_that_is_no_number_never_reads_normal(bundle: Bundle, threshold: float | None) -> None:
    result = drain(visualize(tiny.images(1)[0], bundle))
    assert replace(result, score=0.0, threshold=threshold).verdict == "normal"
    assert replace(result, score=float("nan"), threshold=threshold).verdict == "anomalous"
    assert replace(result, score=1.0, threshold=float("nan")).verdict == "anomalous"


def test_an_overlay_is_on_the_fixed_scale_of_its_map(bundle: Bundle) -> None:
    result = drain(visualize(tiny.defective(1)[0], bundle))
    assert np.allclose(result.levels(), result.anomaly_map.numpy() / (2 * result.scale))
    assert np.allclose(
        result.levels("residual"), result.maps["residual"].numpy() / (2 * result.scales["residual"])
    )
    assert result.overlay().shape == (*result.x.shape[1:], 3)
    weak, strong = (
        replace(result, maps={"residual": result.maps["residual"]}, limits={"residual": limit})
        for limit in (math.inf, float(result.maps["residual"].median()))
    )
    drawn = (weak.overlay("residual") != strong.overlay("residual")).any(axis=-1)
    assert (
        drawn[contours(result.maps["residual"].numpy(), strong.limits["residual"])].mean() > 0.9
    )  # the line


def test_an_image_that_was_left_out_has_no_overlay(bundle: Bundle) -> None:
    result = replace(drain(visualize(tiny.defective(1)[0], bundle)), y=None, anomaly_map=None, maps={})
    with pytest.raises(ValueError, match="left out"):
        result.overlay()
