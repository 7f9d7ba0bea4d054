"""Metrics against their definitions, written out pair by pair and threshold by threshold."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from anounet.metrics import aupro, image_auroc, pixel_auroc, pixel_average_precision

PIXEL_METRICS = (pixel_auroc, pixel_average_precision, aupro)


def tied_case(seed):
    """Return small maps with many equal values, and masks with both classes."""
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 5, 4)) < rng.uniform(0.1, 0.6)
    masks[0, 0, :2] = True, False
    return rng.integers(0, rng.integers(2, 12), masks.shape) / 8, masks


def pairwise_auroc(values, truth):
    pairs = [int(a > b) + Fraction(int(a == b), 2) for a in values[truth] for b in values[~truth]]
    return float(sum(pairs) / len(pairs))


def stepwise_average_precision(values, truth):
    area, recall = Fraction(0), Fraction(0)
    for threshold in sorted(set(values), reverse=True):
        found = values >= threshold
        hits = Fraction(int((found & truth).sum()))
        area += (hits / int(truth.sum()) - recall) * hits / int(found.sum())
        recall = hits / int(truth.sum())
    return float(area)


def flooded_regions(mask):
    """Return the 8-connected regions of one mask as sets of pixels."""
    left, regions = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    while left:
        region, front = set(), [left.pop()]
        while front:
            y, x = front.pop()
            region.add((y, x))
            near = {(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)} & left
            left -= near
            front.extend(near)
        regions.append(region)
    return regions


def stepwise_aupro(maps, masks, max_fpr):
    regions = [(n, r) for n, mask in enumerate(masks) for r in flooded_regions(mask)]
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel()), reverse=True):
        found = maps >= threshold
        overlaps = [sum(found[n][p] for p in region) / len(region) for n, region in regions]
        curve.append((found[~masks].mean(), np.mean(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x1 > x0 and x0 < max_fpr:
            end = min(x1, max_fpr)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / max_fpr


@pytest.mark.parametrize("seed", range(20))
def test_metrics_equal_their_definitions_with_ties(seed):
    maps, masks = tied_case(seed)
    values, truth = maps.ravel(), masks.ravel()
    assert pixel_auroc(maps, masks) == pytest.approx(pairwise_auroc(values, truth), abs=1e-12)
    assert image_auroc(values, truth) == pytest.approx(pairwise_auroc(values, truth), abs=1e-12)
    expected = stepwise_average_precision(values, truth)
    assert pixel_average_precision(maps, masks) == pytest.approx(expected, abs=1e-12)
    for limit in (0.05, 0.3, 1.0):
        assert aupro(maps, masks, limit) == pytest.approx(stepwise_aupro(maps, masks, limit), abs=1e-12)


def test_aupro_of_a_case_worked_out_by_hand():
    # Regions: A of two pixels, B of one. Ten normal pixels in the second image, four in the first.
    masks = np.zeros((2, 2, 7), bool)
    masks[0, 0, :2] = masks[0, 0, 6] = True
    maps = np.zeros((2, 2, 7))
    normal = maps[~masks]
    assert normal.size == 25
    normal[0] = 8  # fpr 0.04
    normal[1:5] = 6  # fpr 0.20
    normal[5:10] = 4  # fpr 0.40
    maps[~masks] = normal
    maps[0, 0, :2] = 9, 6  # half of A at fpr 0, all of it at fpr 0.20
    maps[0, 0, 6] = 4  # B at fpr 0.40
    # Curve: (0, 1/4), (0.04, 1/4), (0.20, 1/2), (0.40, 1), (1, 1); at the limit 0.3 it is at 3/4.
    area = 0.04 * 1 / 4 + 0.16 * (1 / 4 + 1 / 2) / 2 + 0.10 * (1 / 2 + 3 / 4) / 2
    assert aupro(maps, masks) == pytest.approx(area / 0.3, abs=1e-12)


def test_aupro_weighs_regions_equally_and_joins_pixels_at_corners():
    masks = np.zeros((2, 6, 6), bool)
    masks[0, :4, :4] = True
    masks[0, 4, 4] = True  # touches the square at its corner: the same region
    masks[1, 5, 5] = True  # a region of one pixel
    maps = np.where(masks, 0.0, 0.5)
    maps[1, 5, 5] = 1.0
    assert aupro(maps, masks) == pytest.approx(0.5)  # one region of two found, before any false alarm
    maps[0, 4, 4] = 1.0
    assert aupro(maps, masks) == pytest.approx((1 + 1 / 17) / 2)


def test_regions_do_not_reach_from_one_image_into_the_next():
    masks = np.zeros((2, 3, 3), bool)
    masks[0, 1, 1] = masks[1, 1, 1] = masks[1, 0, 1] = True
    maps = np.zeros(masks.shape)
    maps[0, 1, 1] = 1.0
    maps[~masks] = 0.5
    assert aupro(maps, masks) == pytest.approx(1 / 2)


@pytest.mark.parametrize("metric", PIXEL_METRICS)
def test_perfect_map_scores_one(metric):
    masks = tied_case(3)[1]
    assert metric(masks.astype(float), masks) == pytest.approx(1.0, abs=1e-12)


def test_inverse_and_constant_maps():
    masks = tied_case(4)[1]
    inverse, constant = 1.0 - masks, np.full(masks.shape, 0.7, np.float32)
    assert pixel_auroc(inverse, masks) == 0.0
    assert aupro(inverse, masks) == 0.0
    assert pixel_average_precision(inverse, masks) == pytest.approx(masks.mean())
    assert pixel_auroc(constant, masks) == 0.5
    assert aupro(constant, masks) == pytest.approx(0.15)
    assert pixel_average_precision(constant, masks) == pytest.approx(masks.mean())


@pytest.mark.parametrize("metric", PIXEL_METRICS)
def test_only_the_order_of_values_counts(metric):
    maps, masks = tied_case(5)
    assert metric(np.exp(5 * maps) - 40, masks) == metric(maps, masks)


def test_normal_images_count():
    maps, masks = tied_case(6)
    loud, quiet = np.full((1, *maps.shape[1:]), 99.0), np.full((1, *maps.shape[1:]), -99.0)
    nothing = np.zeros(loud.shape, bool)
    for metric in (pixel_auroc, aupro):
        with_loud = metric(np.concatenate([maps, loud]), np.concatenate([masks, nothing]))
        with_quiet = metric(np.concatenate([maps, quiet]), np.concatenate([masks, nothing]))
        assert with_loud < metric(maps, masks) < with_quiet


@pytest.mark.parametrize("metric", PIXEL_METRICS)
@pytest.mark.parametrize("fill", [False, True])
def test_one_class_alone_is_an_error(metric, fill):
    with pytest.raises(ValueError, match="at least one normal and one abnormal pixel"):
        metric(np.zeros((2, 4, 4)), np.full((2, 4, 4), fill))


@pytest.mark.parametrize("metric", PIXEL_METRICS)
def test_wrong_shapes_and_nan_are_errors(metric):
    maps, masks = tied_case(7)
    with pytest.raises(ValueError, match="must both have the shape"):
        metric(maps, masks[:, :-1])
    with pytest.raises(ValueError, match="must both have the shape"):
        metric(maps[0], masks[0])
    maps[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        metric(maps, masks)


def test_image_auroc_errors():
    with pytest.raises(ValueError, match="at least one normal and one abnormal image"):
        image_auroc([0.1, 0.2], [True, True])
    with pytest.raises(ValueError, match="must both have the shape"):
        image_auroc([0.1, 0.2], [True, False, True])


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.01, float("nan")])
def test_aupro_limit_out_of_range_is_an_error(limit):
    with pytest.raises(ValueError, match="max_fpr"):
        aupro(*tied_case(8), max_fpr=limit)
