"""Maps, their smoothing, and the one scale that makes two of them comparable."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from scipy import ndimage

from anounet.anomaly_map import colorize, heat_map, overlay, residual_map, scale_from_normals, smooth


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
