"""Pasted patches: drawn by their generator alone, and nothing else of the image is touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from anounet.pasting import PasteSettings, noise, paste

# All numbers are named, so that other defaults change no test.
ALWAYS = PasteSettings(share=1.0, most=3, thin=0.4, radius=(2.0, 24.0), width=(0.4, 1.6), opacity=(0.3, 1.0))
SIZES = [(32, 32), (96, 96), (128, 128), (80, 112)]


def images(count: int = 8, size: tuple[int, int] = (32, 32), texture: str = "streaks") -> Tensor:
    return functional.interpolate(tiny.images(count, texture), size, mode="bilinear").clamp(0, 1)


def pasted(
    x: Tensor, seed: int = 0, settings: PasteSettings = ALWAYS, references: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return paste(x, x.flip(0), tiny.generator(seed), settings, references)


@pytest.mark.parametrize("size", SIZES)
def test_shapes_and_ranges(size: tuple[int, int]) -> None:
    x = images(12, size)
    for references in (None, images(12, size, "wood")):
        for settings in (PasteSettings(), ALWAYS):
            y, cover = pasted(x, 1, settings, references)
            assert y.shape == x.shape and cover.shape == (12, 1, *size)
            assert y.dtype == cover.dtype == torch.float32
            for values in (y, cover):
                assert torch.isfinite(values).all()
                assert values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_covered_is_the_input_bit_for_bit(size: tuple[int, int]) -> None:
    x = images(12, size)
    given = x.clone()
    y, cover = pasted(x)
    free = (cover == 0).expand_as(x)
    assert 0.2 < free.float().mean() < 1
    assert torch.equal(y[free], x[free])
    assert torch.equal(x, given)
    changed = ((y - x).abs().amax(dim=1, keepdim=True) * cover).amax(dim=(1, 2, 3))
    assert (changed > 0.02).sum() >= 10  # of 12: a patch may look like what it lies on


def test_a_batch_of_one() -> None:
    x = images(1, (48, 48))
    y, cover = pasted(x)
    assert y.shape == x.shape
    assert cover.max() > 0 and not torch.equal(y, x)


def test_the_same_seed_gives_the_same_patches() -> None:
    x = images()
    torch.manual_seed(1)
    first, again = pasted(x), None
    torch.manual_seed(2)
    again, other = pasted(x), pasted(x, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])


def test_one_generator_goes_on_to_other_patches() -> None:
    x, generator = images(), tiny.generator()
    first, second = (paste(x, x.flip(0), generator, ALWAYS) for _ in range(2))
    assert not torch.equal(first[1], second[1])


def test_the_images_of_a_batch_get_different_patches() -> None:
    x = images(1).expand(6, -1, -1, -1)
    y, cover = pasted(x)
    for i in range(6):
        for j in range(i):
            assert not torch.equal(cover[i], cover[j]) and not torch.equal(y[i], y[j])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    pasted(images(), references=images(8, texture="wood"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("share", [0.0, 0.25, PasteSettings().share, 1.0])
def test_about_the_share_of_images_gets_patches(share: float) -> None:
    x = images(10).repeat(40, 1, 1, 1)
    y, cover = pasted(x, 3, replace(PasteSettings(), share=share))
    covered = cover.amax(dim=(1, 2, 3)) > 0
    margin = 4 * (share * (1 - share) / 400) ** 0.5
    assert abs(covered.float().mean().item() - share) <= margin + 0.01  # a thin one may lie between pixels
    assert torch.equal(y[~covered], x[~covered])
    if share == 0:
        assert torch.equal(y, x)


def test_opacity_is_how_far_a_pixel_goes_to_the_filling() -> None:
    x = images()
    once = replace(ALWAYS, most=1)
    (whole, cover), (third, same), (none, still) = (
        pasted(x, 5, replace(once, opacity=(opacity, opacity))) for opacity in (1.0, 0.3, 0.0)
    )
    assert torch.equal(cover, same) and torch.equal(cover, still)
    assert torch.allclose(third - x, 0.3 * (whole - x), atol=1e-5)
    assert (whole - x).abs().max() > 0.2
    assert torch.equal(none, x)


def test_more_patches_cover_more() -> None:
    x = images(10).repeat(10, 1, 1, 1)
    one, four = (pasted(x, 2, replace(ALWAYS, most=most))[1].mean() for most in (1, 4))
    assert four > 1.4 * one


def test_an_image_gets_one_patch_or_more_up_to_the_most() -> None:
    small = replace(ALWAYS, most=4, radius=(3.0, 4.0), thin=0.0)
    _, cover = pasted(images(10, (96, 96)).repeat(8, 1, 1, 1), 7, small)
    pieces = np.array([ndimage.label(one[0] > 0.5)[1] for one in cover.numpy()])
    # Some come in pieces, some lie on others or half outside.
    assert (pieces <= 1).mean() > 0.15 and (pieces >= 3).mean() > 0.15


def test_lengths_grow_with_the_side() -> None:
    (_, small), (_, large) = pasted(images(16, (64, 64)), 4), pasted(images(16, (128, 128)), 4)
    shrunk = functional.avg_pool2d(large, 2)
    assert small.mean() > 0.02
    assert (shrunk - small).abs().mean() < 0.25 * small.mean()
    wide = pasted(images(16, (64, 64)), 4, replace(ALWAYS, radius=(30.0, 40.0), thin=0.0))[1].mean()
    slim = pasted(images(16, (64, 64)), 4, replace(ALWAYS, radius=(2.0, 4.0), thin=0.0))[1].mean()
    assert wide > 5 * slim


def test_thin_ones_are_thin() -> None:
    x = images(16, (96, 96))
    settings = replace(ALWAYS, most=1, radius=(20.0, 24.0), width=(0.4, 0.6))
    thin, thick = (pasted(x, 6, replace(settings, thin=share))[1] for share in (1.0, 0.0))
    assert 0 < thin.mean() < 0.25 * thick.mean()
    assert (thin.amax(dim=(1, 2, 3)) > 0.3).all()


def test_patches_are_cut_from_the_others_and_from_the_references() -> None:
    x, red = images(40), torch.zeros(40, 3, 32, 32)
    red[:, 0] = 1
    y, cover = paste(x, x.flip(0), tiny.generator(), ALWAYS)
    from_red, same = paste(x, red, tiny.generator(), ALWAYS)
    assert torch.equal(cover, same)
    differ = (y != from_red).any(dim=1).any(dim=2).any(dim=1)
    assert 3 < differ.sum() < 37  # some patches have other fillings

    dark, light = (pasted(x, 0, ALWAYS, torch.full_like(x, level))[0] for level in (0.0, 1.0))
    differ = (dark != light).any(dim=1).any(dim=2).any(dim=1)
    assert 3 < differ.sum() < 37
    free = (pasted(x, 0, ALWAYS, red)[1] == 0).expand_as(x)
    assert torch.equal(dark[free], light[free])


def test_noise_has_unit_spread_and_is_smooth() -> None:
    field = noise(tiny.generator(), 6, 2, 96, 64)
    assert field.shape == (6, 2, 96, 64)
    assert torch.allclose(field.std(dim=(1, 2, 3)), torch.tensor(1.0), atol=1e-4)
    assert field.diff(dim=3).std() < 0.6
    assert torch.equal(field, noise(tiny.generator(), 6, 2, 96, 64))
