"""Maps, their smoothing, and the one scale that makes two of them comparable."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from scipy import ndimage

from anounet.anomaly_map import (
    Region,
    colorize,
    contours,
    draw_contours,
    heat_map,
    overlay,
    regions,
    residual_map,
    scale_from_normals,
    smooth,
)


def test_residual_is_the_mean_over_the_channels() -> None:
    x, y = tiny.images(2), tiny.images(2, "wood")
    expected = np.abs(x.numpy() - y.numpy()).sum(axis=1) / 3
    assert residual_map(x, y).shape == (2, 32, 32)
    assert np.allclose(residual_map(x, y).numpy(), expected, atol=1e-7)
    assert torch.equal(residual_map(x, y), residual_map(y, x))


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.0, 3.7, 7.0])
def test_smoothing_is_scipy_s_gaussian(sigma: float) -> None:
    maps = torch.rand(2, 32, 40, generator=tiny.generator())
    expected = [ndimage.gaussian_filter(m.numpy(), sigma, mode="mirror", truncate=4) for m in maps]
    assert np.abs(smooth(maps, sigma).numpy() - np.stack(expected)).max() < 1e-5


def test_smoothing_keeps_the_mean_and_zero_changes_nothing() -> None:
    maps = torch.zeros(1, 32, 32)
    maps[0, 16, 15] = 1.0
    smoothed = smooth(maps, 2.0)
    assert smoothed.mean().item() == pytest.approx(maps.mean().item(), rel=1e-3)
    assert smoothed.max() < 0.1
    assert torch.equal(smooth(maps, 0.0), maps)
    assert torch.allclose(smooth(torch.full((1, 32, 32), 0.3), 5.0), torch.tensor(0.3))


def test_a_wide_kernel_on_a_small_map_is_cut_not_refused() -> None:
    assert smooth(torch.rand(1, 16, 16), 16.0).shape == (1, 16, 16)


def test_heat_map_smooths_in_proportion_to_the_side() -> None:
    x, y = tiny.images(1), tiny.images(1, "wood")
    assert torch.equal(heat_map(x, y, 6.0), smooth(residual_map(x, y), 2.0))  # 6 px at 96 are 2 px at 32
    assert torch.equal(heat_map(x, y, 0.0), residual_map(x, y))


def test_scale_is_the_quantile_of_normal_pixels() -> None:
    maps = torch.rand(3, 8, 8, generator=tiny.generator())
    assert scale_from_normals(maps) == pytest.approx(np.quantile(maps.numpy(), 0.995))
    assert scale_from_normals(list(maps), 0.5) == pytest.approx(np.median(maps.numpy()))
    assert scale_from_normals(torch.zeros(1, 4, 4)) > 0  # a map is divided by it


def test_colours_at_both_ends() -> None:
    ends = np.array([[0.0, 1.0]])
    assert colorize(ends).tolist() == [[[0, 0, 4], [252, 255, 164]]]
    assert colorize(ends, "jet").tolist() == [[[0, 0, 128], [128, 0, 0]]]
    assert colorize(np.array([[-3.0, 9.0]])).tolist() == colorize(ends).tolist()
    assert colorize(np.array([[np.nan]])).tolist() == [[[0, 0, 4]]]
    with pytest.raises(ValueError, match="'grey': choose one of inferno, jet"):
        colorize(ends, "grey")


def test_inferno_grows_brighter_all_the_way() -> None:
    colours = colorize(np.linspace(0, 1, 256)[None])[0] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(colours) > 0).all()


def test_a_value_has_the_same_colour_in_every_image() -> None:
    cold, hot = np.full((4, 4), 0.4), np.linspace(0, 1, 16).reshape(4, 4)
    cold[0, 0], hot[0, 0] = 0.25, 0.25
    assert (colorize(cold)[0, 0] == colorize(hot)[0, 0]).all()
    grey = np.full((4, 4, 3), 90, np.uint8)
    assert (overlay(grey, cold)[0, 0] == overlay(grey, hot)[0, 0]).all()


def test_overlay_heats_the_grey_image_where_the_map_is_hot() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    levels = np.zeros((6, 5))
    levels[2, 3] = 5.0  # beyond the scale
    shown = overlay(pixels, levels)
    assert shown.dtype == np.uint8 and shown.shape == (6, 5, 3)
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    assert np.abs(np.delete(shown - grey, 2, axis=0)).max() <= 0.5
    expected = 0.4 * grey[2, 3] + 0.6 * np.array([252, 255, 164])
    assert np.abs(shown[2, 3] - expected).max() <= 0.5
    assert (overlay(pixels, levels, opacity=1.0, colormap="jet")[2, 3] == [128, 0, 0]).all()


def bumps() -> np.ndarray:
    """Three regions above 2 on a (20, 30) map: a box, a diagonal and a single pixel."""
    levels = np.full((20, 30), 0.5)
    levels[2:5, 3:9] = 3.0
    levels[4, 8] = 5.0
    levels[range(10, 16), range(20, 26)] = 8.0
    levels[18, 2] = 20.0
    return levels


def test_regions_say_where_how_large_and_how_high() -> None:
    diagonal, box = regions(bumps(), 2.0)
    assert diagonal == Region(22.5, 12.5, 20, 10, 6, 6, 6, 4.0)
    assert (box.left, box.top, box.width, box.height, box.area, box.score) == (3, 2, 6, 3, 18, 2.5)
    assert (box.x, box.y) == pytest.approx(ndimage.center_of_mass(bumps()[2:5, 3:9])[::-1] + np.array([3, 2]))
    assert box.x > 5.5 and box.y > 3  # drawn to the corner that is higher


def test_regions_are_sorted_limited_and_not_too_small() -> None:
    all_of_them = regions(bumps(), 2.0, min_area=1)
    assert [region.score for region in all_of_them] == [10.0, 4.0, 2.5]
    assert regions(bumps(), 2.0, min_area=1, limit=2) == all_of_them[:2]
    assert regions(bumps(), 2.0, min_area=7) == all_of_them[2:]
    assert regions(bumps(), 2.0, min_area=6) == all_of_them[1:]
    assert regions(bumps(), 20.0, min_area=1) == []  # above, not at, the threshold
    many = regions(np.random.default_rng(0).random((90, 90)), 0.8, min_area=1)
    assert len(many) == 50
    assert [region.score for region in many] == sorted((region.score for region in many), reverse=True)


def test_regions_of_a_tensor_and_what_has_none() -> None:
    levels = torch.tensor(bumps(), dtype=torch.float32, requires_grad=True)
    assert regions(levels, 2.0) == regions(bumps(), 2.0)
    assert regions(np.full((5, 5), np.nan), 1.0) == []
    (whole,) = regions(torch.ones(6, 4), 0.5)
    assert whole == Region(1.5, 2.5, 0, 0, 4, 6, 24, 2.0)


def test_a_region_inside_another_s_box_keeps_to_itself() -> None:
    levels = np.zeros((9, 9))
    levels[0], levels[:, 0] = 2.0, 2.0
    levels[4:6, 4:6] = 9.0
    inner, corner = regions(levels, 1.0)
    assert (inner.score, inner.area) == (9.0, 4)
    assert (corner.score, corner.area, corner.width, corner.height) == (2.0, 17, 9, 9)
    assert corner.x == pytest.approx(36 / 17)


@pytest.mark.parametrize(("levels", "threshold"), [(np.ones((1, 4, 4)), 1.0), (np.ones((4, 4)), 0.0)])
def test_regions_of_nonsense_are_refused(levels: np.ndarray, threshold: float) -> None:
    with pytest.raises(ValueError, match=r"one map|above 0"):
        regions(levels, threshold)


def test_a_contour_is_the_inner_border() -> None:
    levels = np.zeros((8, 9))
    levels[2:6, 3:8] = 1.5
    expected = levels > 0
    expected[3:5, 4:7] = False
    found = contours(levels, 1.0)
    assert found.dtype == bool and (found == expected).all()
    assert not contours(levels, 1.5).any()
    everywhere = contours(np.ones((4, 5)), 0.5)
    assert everywhere.sum() == 14 and not everywhere[1:-1, 1:-1].any()  # closed at the map's edge


@pytest.mark.parametrize("ground", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("where", ["middle", "corner", "everywhere", "pixel"])
def test_a_drawn_contour_shows_on_any_ground(ground: int, where: str) -> None:
    levels = np.zeros((20, 24))
    levels[
        {
            "middle": np.s_[6:13, 7:16],
            "corner": np.s_[:9, 15:],
            "everywhere": np.s_[:, :],
            "pixel": np.s_[9, 9],
        }[where]
    ] = 2.0
    pixels = np.full((20, 24, 3), ground, np.uint8)
    drawn = draw_contours(pixels, levels, 1.0)
    assert drawn.dtype == np.uint8 and (pixels == ground).all()
    line = contours(levels, 1.0)
    assert (drawn[line] == 255).all()
    beside = ndimage.minimum_filter(drawn[..., 0], 3)
    assert (beside[line] == 0).all()  # every bit of the line has something dark beside it
    far = ~ndimage.binary_dilation(line, np.ones((3, 3)))
    assert far.any() and (drawn[far] == ground).all()
    inner = (levels > 1) & ~line
    if where == "middle":
        assert (drawn[inner] == ground).all()  # the dark edge lies outside


def test_a_contour_has_the_colour_asked_for_and_fits_its_image() -> None:
    pixels, levels = np.zeros((6, 6, 3), np.uint8), np.zeros((6, 6))
    assert (draw_contours(pixels, levels, 1.0) == pixels).all()
    levels[2, 2] = 3
    assert draw_contours(pixels, levels, 1.0, (255, 200, 0))[2, 2].tolist() == [255, 200, 0]
    with pytest.raises(ValueError, match=r"does not fit the image \(6, 6\)"):
        draw_contours(pixels, levels[:5], 1.0)
