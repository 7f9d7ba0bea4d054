"""The embedded data set: repeatable, exact in its masks, and not to be solved by a trivial rule."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest

from anounet.datasets.textures import DEFECTS, SPLITS, TEXTURES, defect_of, render, sample, sample_seed
from anounet.metrics import pixel_auroc

SIZES = (32, 96, 160)


def test_names():
    assert len(set(TEXTURES)) == len(TEXTURES) >= 8
    assert len(set(DEFECTS)) == len(DEFECTS) >= 6


@pytest.mark.parametrize("texture", TEXTURES)
def test_normal_images(texture):
    for size in (16, 33, *SIZES, 512):
        image, mask = render(texture, 5, size)
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        assert mask.shape == (size, size) and mask.dtype == bool and not mask.any()
        assert image.std() > 8


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("texture", TEXTURES)
def test_masks_are_exact(texture, size):
    normal = render(texture, 11, size)[0].astype(int)
    for defect in DEFECTS:
        image, mask = render(texture, 11, size, defect)
        change = np.abs(image - normal).max(-1)
        assert not change[~mask].any(), f"{defect} altered pixels outside its mask"
        assert (change[mask] > 0).mean() > 0.9, f"{defect} marks pixels that it did not alter"
        assert change[mask].mean() > 10, f"{defect} is invisible"
        assert 0.005 < mask.mean() < 0.16, f"{defect} covers {mask.mean():.3f} of the image"


@pytest.mark.parametrize("defect", DEFECTS)
def test_no_mask_is_empty_even_at_the_smallest_size(defect):
    for texture, seed in product(TEXTURES, range(12)):
        assert render(texture, seed, 16, defect)[1].any()


def test_rendering_depends_on_the_arguments_alone():
    jobs = list(product(TEXTURES, (3, 2**63 - 1), (32, 96), (None, *DEFECTS)))
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first = [render(*job) for job in jobs]
    assert (np.random.get_state()[1] == state).all()
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda job: render(*job), reversed(jobs)))[::-1]
    for (image, mask), (image_again, mask_again) in zip(first, again, strict=True):
        assert (image == image_again).all() and (mask == mask_again).all()


def test_rendering_is_the_same_in_another_process():
    code = """if True:
        import hashlib
        from anounet.datasets.textures import TEXTURES, render, sample_seed
        digest = hashlib.sha256()
        for texture in TEXTURES:
            for array in render(texture, sample_seed(texture, "test", 4), 32, "foreign"):
                digest.update(array.tobytes())
        print(digest.hexdigest())
    """

    def run(salt):
        environment = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    here = hashlib.sha256()
    for texture in TEXTURES:
        for array in render(texture, sample_seed(texture, "test", 4), 32, "foreign"):
            here.update(array.tobytes())
    assert run("1").strip() == run("2").strip() == here.hexdigest()


@pytest.mark.parametrize("texture", TEXTURES)
def test_each_seed_is_another_piece_of_material(texture):
    a, b = (render(texture, seed)[0].mean(-1).ravel() for seed in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.35


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_larger_image_is_the_same_material_but_sharper(texture):
    small = render(texture, 2, 96)[0].astype(float)
    large = render(texture, 2, 192)[0].reshape(96, 2, 96, 2, 3).mean((1, 3))
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.9


def test_grey_and_colour_occur():
    grey = [np.ptp(render(texture, 0)[0], axis=-1).max() == 0 for texture in TEXTURES]
    assert 3 <= sum(grey) <= len(TEXTURES) - 3


def test_grey_textures_stay_grey_with_a_defect():
    for texture, defect in product(TEXTURES, DEFECTS):
        if np.ptp(render(texture, 0)[0], axis=-1).max() == 0:
            assert np.ptp(render(texture, 0, 96, defect)[0], axis=-1).max() == 0


def test_sample_seeds_are_distinct_and_stable():
    # The corners of every argument's range: any overlap of their bits would show here.
    indices, seeds = (0, 1, 2, 2**23, 2**24 - 1), (0, 1, 2, 2**31, 2**32 - 1)
    jobs = list(product(TEXTURES, SPLITS, indices, seeds))
    numbers = {sample_seed(*job) for job in jobs}
    assert len(numbers) == len(jobs)
    assert all(0 <= number < 2**63 for number in numbers)
    assert sample_seed(TEXTURES[1], "test", 3, 4) == 2 << 61 | 1 << 56 | 3 << 32 | 4


def test_samples():
    for texture, split in product(TEXTURES[:3], SPLITS):
        normal, empty, name = sample(texture, split, 7, size=48, seed=9)
        assert name == "" and not empty.any()
        image, mask, name = sample(texture, split, 7, size=48, seed=9, defective=True)
        assert name == defect_of(texture, split, 7, 9)
        expected = render(texture, sample_seed(texture, split, 7, 9), 48, name)
        assert (image == expected[0]).all() and (mask == expected[1]).all()
        assert (image[~mask] == normal[~mask]).all()


@pytest.mark.parametrize("texture", TEXTURES)
def test_defect_kinds_take_turns(texture):
    kinds = [defect_of(texture, "test", index, seed=5) for index in range(13, 13 + len(DEFECTS))]
    assert sorted(kinds) == sorted(DEFECTS)


def test_distance_from_the_mean_grey_does_not_find_the_defects():
    areas = []
    for texture in TEXTURES:
        samples = [sample(texture, "test", i, defective=bool(i % 2))[:2] for i in range(4 * len(DEFECTS))]
        grey = np.stack([image.mean(-1) / 255 for image, _ in samples])
        maps = np.abs(grey - grey.mean((1, 2), keepdims=True))
        areas.append(pixel_auroc(maps, np.stack([mask for _, mask in samples])))
    assert np.mean(areas) < 0.75
    assert max(areas) < 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: render("velvet", 0), "unknown texture 'velvet'.*streaks"),
        (lambda: render("wood", 0, 96, "hole"), "unknown defect 'hole'.*scratch"),
        (lambda: render("wood", 0, 15), "size must lie between 16 and 512, got 15"),
        (lambda: render("wood", 0, 513), "size must lie between 16 and 512, got 513"),
        (lambda: render("wood", -1), "seed must lie between"),
        (lambda: sample_seed("wood", "dev", 0), "unknown split 'dev'.*train, validation, test"),
        (lambda: sample_seed("wood", "test", 2**24), "index must lie between"),
        (lambda: sample_seed("wood", "test", 0, 2**32), "seed must lie between"),
        (lambda: sample("velvet", "test", 0), "unknown texture"),
        (lambda: defect_of("wood", "dev", 0), "unknown split"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
