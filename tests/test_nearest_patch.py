"""The nearest remembered patch: what is remembered, and how near a patch lies to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from scipy import ndimage
from torch import Tensor

from anounet import nearest_patch
from anounet.feature_net import FeatureNet
from anounet.local_centers import PatchSettings, patches
from anounet.nearest_patch import NearestPatch, build_memory, coreset, maps
from anounet.storage import WeightsError

SETTINGS = PatchSettings(layers=(2, 3, 6, 13), weights=(1.0, 1.0, 1.0, 0.4), iterations=4)


def clustered(count: int = 600, depth: int = 100) -> Tensor:
    """A few large clusters and some small ones that lie apart: (count, depth)."""
    generator = tiny.generator()
    sizes = torch.tensor([0.5, 0.3, 0.1, 0.05] + [0.005] * 10)
    middles = 3 * torch.randn(len(sizes), depth, generator=generator)
    of = torch.multinomial(sizes, count, replacement=True, generator=generator)
    return middles[of] + 0.2 * torch.randn(count, depth, generator=generator)


def reach(vectors: Tensor, indices: Tensor) -> float:
    """How far the worst vector lies from those taken."""
    return torch.cdist(vectors.double(), vectors[indices].double()).min(dim=1).values.max().item()


def scaled(f_net: FeatureNet, x: Tensor, settings: PatchSettings = SETTINGS) -> Tensor:
    """s ⊙ f_p, written out: (N, D)."""
    channels = [layer.shape[1] for layer in f_net.feature_maps(x[:1], settings.layers)]
    scales = np.repeat(np.sqrt(settings.weights), channels)
    return patches(x, f_net, settings).permute(0, 2, 3, 1).flatten(0, 2).double() * torch.tensor(scales)


@pytest.fixture(scope="module")
def nearest(f_net: FeatureNet) -> NearestPatch:
    return build_memory(f_net, tiny.pixels(8), SETTINGS, count=50)


@pytest.mark.parametrize("depth", [8, 100])
def test_a_coreset_reaches_further_than_chance(depth: int) -> None:
    vectors = clustered(depth=depth)
    taken = coreset(vectors, 20, tiny.generator())
    by_chance = [torch.randperm(600, generator=tiny.generator(seed))[:20] for seed in range(5)]
    assert reach(vectors, taken) < 0.6 * min(reach(vectors, indices) for indices in by_chance)


def test_a_coreset_takes_the_farthest_each_time() -> None:
    vectors = clustered(depth=16)  # few enough dimensions to be chosen in as they are
    taken = coreset(vectors, 30, tiny.generator())
    between = torch.cdist(vectors.double(), vectors.double())
    for place in range(1, 30):
        shortest = between[:, taken[:place]].min(dim=1).values
        assert shortest[taken[place]] == pytest.approx(shortest.max().item(), rel=1e-4)


def test_the_indices_of_a_coreset_differ() -> None:
    for vectors in (clustered(), torch.ones(60, 5), torch.zeros(60, 90), 1e4 + torch.rand(60, 5)):
        for count in (1, 30, 60, 1000):
            taken = coreset(vectors, count, tiny.generator())
            assert taken.shape == (min(count, len(vectors)),)
            assert len(taken.unique()) == len(taken)
            assert taken.min() >= 0 and taken.max() < len(vectors)


def test_a_shorter_coreset_begins_a_longer_and_the_seed_draws_it() -> None:
    vectors = clustered()
    before = torch.get_rng_state()
    taken = coreset(vectors, 40, tiny.generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(coreset(vectors, 10, tiny.generator()), taken[:10])
    assert not torch.equal(coreset(vectors, 40, tiny.generator(1)), taken)


@pytest.mark.parametrize(("vectors", "count"), [(torch.ones(0, 4), 3), (torch.ones(5, 4), 0)])
def test_a_coreset_of_nothing_is_refused(vectors: Tensor, count: int) -> None:
    with pytest.raises(ValueError, match=f"not {count} of {len(vectors)}"):
        coreset(vectors, count, tiny.generator())


@pytest.mark.parametrize("method", nearest_patch.METHODS)
def test_the_distance_is_that_to_the_nearest(f_net: FeatureNet, method: str) -> None:
    nearest = build_memory(f_net, tiny.pixels(8), SETTINGS, count=50, method=method)
    x = torch.cat([tiny.images(3, split="test"), tiny.defective(3)])
    distances = nearest.distance(patches(x, f_net, SETTINGS))
    assert distances.shape == (6, 8, 8)
    expected = torch.cdist(scaled(f_net, x), nearest.memory.double()).min(dim=1).values
    assert torch.allclose(distances.flatten().double(), expected, rtol=1e-4, atol=1e-5)
    assert expected.min() > 0.01 and expected.std() > 0.01


def test_chunks_change_nothing(
    f_net: FeatureNet, nearest: NearestPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = patches(tiny.defective(4), f_net, SETTINGS)
    calls = []
    search = nearest_patch.nearest_mean

    def counted(vectors: Tensor, means: Tensor) -> Tensor:
        calls.append(len(vectors))
        return search(vectors, means)

    monkeypatch.setattr(nearest_patch, "nearest_mean", counted)
    at_once = nearest.distance(features)
    assert calls == [256]
    monkeypatch.setattr(nearest_patch, "_PAIRS", 50 * 30)
    assert torch.allclose(nearest.distance(features), at_once, atol=1e-6)
    assert calls[1:] == [30] * 8 + [16]  # 30 patches against 50 remembered ones
    monkeypatch.setattr(nearest_patch, "_PAIRS", 7)
    assert torch.allclose(nearest.distance(features), at_once, atol=1e-6)


def test_a_coreset_remembers_patches_that_were_seen(f_net: FeatureNet, nearest: NearestPatch) -> None:
    assert nearest.memory.shape == (50, scaled(f_net, tiny.images(1)).shape[1])
    assert nearest.f_net == f_net.fingerprint
    seen = scaled(f_net, tiny.images(8))
    assert torch.cdist(nearest.memory.double(), seen).min(dim=1).values.max() < 1e-4
    own = nearest.distance(patches(tiny.images(8), f_net, SETTINGS)).flatten()
    assert (own < 1e-4).sum() >= 50  # those remembered lie at 0
    assert (own > 1e-2).sum() > 100
    by_chance = build_memory(f_net, tiny.pixels(8), SETTINGS, count=50, patches=50)
    assert own.max() < 0.8 * by_chance.distance(patches(tiny.images(8), f_net, SETTINGS)).max()


def test_k_means_has_as_many_centres_as_asked_for(f_net: FeatureNet) -> None:
    x = tiny.pixels(8)
    means = build_memory(f_net, x, SETTINGS, count=50, method="kmeans")
    assert means.memory.shape == build_memory(f_net, x, SETTINGS, count=50).memory.shape
    seen = scaled(f_net, tiny.images(8))
    drawn = build_memory(f_net, x, SETTINGS, count=600, patches=50)  # 50 patches by chance
    assert len(drawn.memory) == 50
    squares = [
        torch.cdist(seen, some.memory.double()).min(dim=1).values.square().mean() for some in (means, drawn)
    ]
    assert squares[0] < 0.8 * squares[1]


def test_there_is_no_more_to_remember_than_there_are_patches(f_net: FeatureNet) -> None:
    x = tiny.pixels(3)
    for method in nearest_patch.METHODS:
        everything = build_memory(f_net, x, SETTINGS, count=10_000, method=method)
        assert len(everything.memory) == 3 * 64
        assert everything.distance(patches(x.float() / 255, f_net, SETTINGS)).max() < 1e-4
        assert len(build_memory(f_net, x, SETTINGS, 10_000, method, patches=100).memory) == 100


def test_layers_weigh_as_the_settings_say(f_net: FeatureNet) -> None:
    settings = replace(SETTINGS, weights=(1.0, 4.0, 0.25, 0.0))
    nearest = build_memory(f_net, tiny.pixels(2), settings, count=1)
    first = patches(tiny.images(2), f_net, settings)
    channels = [layer.shape[1] for layer in f_net.feature_maps(tiny.images(1), settings.layers)]
    assert torch.allclose(nearest.memory.split(channels, dim=1)[1].norm(), torch.tensor(2.0), rtol=1e-4)
    parts = first.split(channels, dim=1)
    for layer, factor in enumerate((1.0, 2.0, 0.5, 0.0)):
        away = torch.cat([part + (i == layer) * 100 for i, part in enumerate(parts)], dim=1)
        grown = nearest.distance(away).mean().item()
        assert grown == pytest.approx(factor * 100 * channels[layer] ** 0.5, abs=5)


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (40, 56)])
def test_maps_have_the_image_s_size(f_net: FeatureNet, nearest: NearestPatch, size: tuple[int, int]) -> None:
    x = torch.nn.functional.interpolate(tiny.defective(2), size)
    found = maps(x, f_net, nearest)
    assert found.shape == (2, *size)
    distances = nearest.distance(patches(x, f_net, SETTINGS))
    assert distances.min() - 1e-6 <= found.min() and found.max() <= distances.max() + 1e-6
    expected = [ndimage.zoom(d.numpy(), 4, order=1, mode="nearest", grid_mode=True) for d in distances]
    assert np.allclose(found.numpy(), expected, atol=1e-5)
    assert torch.allclose(maps(x[:1], f_net, nearest), found[:1], rtol=1e-3, atol=1e-4)


def test_what_is_foreign_lies_farther(f_net: FeatureNet) -> None:
    fine = replace(SETTINGS, layers=(2, 3), weights=(1.0, 1.0))  # a random F sees little in its coarse layers
    pixels = torch.nn.functional.interpolate(tiny.pixels(4), 96)
    everything = build_memory(f_net, pixels, fine)
    x = pixels[:2].float() / 255
    y = x.clone()
    y[:, 0, 8:40, 8:40], y[:, 1:, 8:40, 8:40] = 1.0, 0.0
    assert maps(x, f_net, everything).max() < 1e-3  # all of it was seen
    foreign = maps(y, f_net, everything)
    assert foreign[:, 12:36, 12:36].mean() > 0.2
    assert foreign[:, 72:, 72:].max() < 1e-3


def test_another_f_is_refused(f_net: FeatureNet, nearest: NearestPatch) -> None:
    assert nearest.check(f_net) is nearest
    with pytest.raises(WeightsError, match="made with another f-Net"):
        maps(tiny.images(1), tiny.f_net(1), nearest)


@pytest.mark.parametrize("method", nearest_patch.METHODS)
def test_the_same_seed_gives_the_same_memory(f_net: FeatureNet, method: str) -> None:
    def memory(seed: int) -> Tensor:
        return build_memory(f_net, tiny.pixels(8), SETTINGS, 20, method, patches=200, seed=seed).memory

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = memory(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(memory(0), first)
    assert not torch.equal(memory(1), first)


def test_patches_are_drawn_from_all_images(f_net: FeatureNet) -> None:
    x = tiny.pixels(8)
    memory = build_memory(f_net, x, SETTINGS, count=80, patches=80).memory.double()
    assert len(memory) == 80
    of = torch.cdist(memory, scaled(f_net, x.float() / 255)).argmin(dim=1) // 64
    assert torch.bincount(of, minlength=8).tolist() == [10] * 8


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "all"}, "'all': choose one of coreset, kmeans"),
        ({"images": tiny.images(2)}, "uint8"),
        ({"images": tiny.pixels(2)[:0]}, "one normal image or more"),
        ({"images": tiny.pixels(2)[0]}, "uint8"),
        ({"count": 0}, "1 patch or more, not 0 of 60000"),
        ({"patches": 0}, "1 patch or more, not 10000 of 0"),
    ],
)
def test_what_cannot_be_remembered_is_refused(
    f_net: FeatureNet, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_memory(f_net, **({"images": tiny.pixels(2), "settings": SETTINGS} | options))
