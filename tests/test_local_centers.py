"""Local centres: which patches make them, how d is measured, which images set τ, and whose they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from anounet.center import split_held_back
from anounet.feature_net import FeatureNet
from anounet.local_centers import (
    METRICS,
    LocalCenters,
    PatchSettings,
    compute_local_centers,
    lloyd,
    nearest_mean,
    patches,
)
from anounet.storage import WeightsError, load_weights, save_weights

# Named, so that other defaults change no test.
SETTINGS = PatchSettings(
    layers=(2, 3, 6, 13), weights=(1.0, 1.0, 1.0, 0.4), centers=24, metric="spread", shrink=8.0, iterations=4
)
COUNT = 24


def computed(
    f_net: FeatureNet, x: Tensor, settings: PatchSettings = SETTINGS, **options: float
) -> LocalCenters:
    return list(compute_local_centers(f_net, x.split(5), len(x), settings, **options))[-1].centers


def channels(f_net: FeatureNet, settings: PatchSettings = SETTINGS) -> list[int]:
    return [layer.shape[1] for layer in f_net.feature_maps(tiny.images(1), settings.layers)]


def squares(vectors: Tensor, centers: LocalCenters) -> Tensor:
    """Σ_i w_i ((f − c_k)_i / σ_k,i)² for all centres, written out, in float64: (N, D) → (N, K)."""
    means, spreads, weights = (getattr(centers, n).double() for n in ("means", "spreads", "weights"))
    return (((vectors.double()[:, None] - means) / spreads).square() * weights).sum(dim=2)


def as_vectors(features: Tensor) -> Tensor:
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def as_features(vectors: Tensor) -> Tensor:
    return vectors.T[None, :, :, None]


@pytest.fixture(scope="module")
def features(f_net: FeatureNet) -> Tensor:
    """Patches of normal and of defective images."""
    return patches(torch.cat([tiny.images(4, split="test"), tiny.defective(4)]), f_net, SETTINGS)


@pytest.fixture(scope="module", params=METRICS)
def centers(request: pytest.FixtureRequest, f_net: FeatureNet) -> LocalCenters:
    return computed(f_net, tiny.images(COUNT), replace(SETTINGS, metric=request.param))


def test_a_patch_has_norm_1_in_each_layer(f_net: FeatureNet) -> None:
    found = patches(tiny.images(3), f_net, replace(SETTINGS, layers=(2, 3), weights=(1.0, 1.0)))
    assert found.shape == (3, sum(channels(f_net)[:2]), 8, 8)
    for part in found.split(channels(f_net)[:2], dim=1):
        assert torch.allclose(part.norm(dim=1), torch.tensor(1.0), atol=1e-5)
    coarser = patches(tiny.images(3), f_net, SETTINGS)
    assert coarser.shape == (3, sum(channels(f_net)), 8, 8)  # all on the finest layer's grid
    assert torch.equal(coarser[:, : found.shape[1]], found)


def test_a_patch_is_the_mean_of_its_neighbours(f_net: FeatureNet) -> None:
    one_layer = replace(SETTINGS, layers=(2,), weights=(1.0,), pooling=3)
    (layer,) = f_net.feature_maps(tiny.images(2), (2,))
    pooled = layer.unfold(2, 3, 1).unfold(3, 3, 1).mean(dim=(4, 5))
    expected = pooled / pooled.norm(dim=1, keepdim=True)
    assert torch.allclose(patches(tiny.images(2), f_net, one_layer)[..., 1:-1, 1:-1], expected, atol=1e-5)
    bare = patches(tiny.images(2), f_net, replace(one_layer, pooling=1))
    assert torch.allclose(bare, layer / layer.norm(dim=1, keepdim=True), atol=1e-5)


def test_an_iteration_of_k_means_moves_each_centre_to_the_mean_of_its_own() -> None:
    vectors = 3 * torch.rand(200, 5, generator=tiny.generator()).square()
    means = torch.cat([vectors[:6], torch.full((1, 5), 90.0)])  # the last one is nobody's
    nearest = torch.cdist(vectors.double(), means.double()).argmin(dim=1)
    assert torch.equal(nearest_mean(vectors, means), nearest)
    moved, counts = lloyd(vectors, means, tiny.generator())
    assert torch.equal(counts, torch.bincount(nearest, minlength=7))
    for k in range(6):
        assert torch.allclose(moved[k], vectors[nearest == k].mean(dim=0), atol=1e-5)
    assert (vectors == moved[6]).all(dim=1).any()  # it starts anew at a vector


def test_an_exact_centre_lies_at_0(centers: LocalCenters) -> None:
    distances = centers.distance(as_features(centers.means))
    assert distances.shape == (1, len(centers.means), 1)
    assert (distances >= 0).all()
    assert distances.max() < 1e-4


def test_no_distance_is_negative(centers: LocalCenters, features: Tensor) -> None:
    # Beside a centre by rounding alone, where the fast search's own numbers fall below 0.
    beside = centers.means * (1 + 1e-7)
    for some in (features, as_features(beside)):
        distances = centers.distance(some)
        assert torch.isfinite(distances).all()
        assert (distances >= 0).all()
    assert centers.distance(features).min() > 0.01


def test_the_fast_search_finds_the_nearest_by_the_formula(centers: LocalCenters, features: Tensor) -> None:
    vectors = as_vectors(features)
    expected = squares(vectors, centers)
    best, second = expected.topk(2, dim=1, largest=False).values.T
    clear = second - best > 1e-4 * best  # nearer ties are the rounding's to break
    assert clear.float().mean() > 0.95
    assert torch.equal(centers.nearest(vectors)[clear], expected.argmin(dim=1)[clear])
    assert len(centers.nearest(vectors).unique()) > 3
    assert torch.allclose(
        as_vectors(centers.distance(features)[:, None])[:, 0], best.sqrt().float(), rtol=1e-3
    )


def test_each_centre_measures_by_its_own_spread(f_net: FeatureNet) -> None:
    centers = computed(f_net, tiny.images(COUNT))
    assert not torch.allclose(centers.spreads[0], centers.spreads[1])
    one = computed(f_net, tiny.images(COUNT), replace(SETTINGS, metric="euclidean"))
    assert len(one.spreads.unique()) == 1


def test_a_layer_weighs_what_its_weight_says(f_net: FeatureNet) -> None:
    centers = computed(f_net, tiny.images(COUNT), replace(SETTINGS, centers=1, weights=(1.0, 2.0, 3.0, 4.0)))
    assert centers.weights.sum().item() == pytest.approx(1)
    where = torch.repeat_interleave(torch.arange(4), torch.tensor(channels(f_net)))
    for layer, weight in enumerate((1, 2, 3, 4)):
        one_spread_away = centers.means + centers.spreads * (where == layer)
        distance = centers.distance(as_features(one_spread_away)).item()
        assert distance == pytest.approx((weight / 10) ** 0.5, rel=1e-3)


def test_one_centre_is_the_mean_with_the_patches_own_spread(f_net: FeatureNet) -> None:
    x = tiny.images(20)
    fit, _ = split_held_back(20)
    centers = computed(f_net, x, replace(SETTINGS, centers=1))
    vectors = as_vectors(patches(x[fit], f_net, SETTINGS)).double()
    assert torch.allclose(centers.means[0].double(), vectors.mean(dim=0), rtol=2e-3, atol=1e-4)
    variance = vectors.var(dim=0, correction=0)
    expected = variance.clamp_min(0.05 * variance.mean()).sqrt()
    assert torch.allclose(centers.spreads[0].double(), expected, rtol=2e-3)


def test_euclidean_is_in_proportion_to_the_plain_distance(f_net: FeatureNet, features: Tensor) -> None:
    even = tuple(float(n) for n in channels(f_net))  # the same weight for every channel
    centers = computed(f_net, tiny.images(COUNT), replace(SETTINGS, metric="euclidean", weights=even))
    plain = torch.cdist(as_vectors(features), centers.means).min(dim=1).values
    ratio = centers.distance(features).flatten() / plain
    assert ratio.std() / ratio.mean() < 1e-3
    unit = centers.spreads[0, 0] * centers.means.shape[1] ** 0.5
    assert ratio.mean().item() == pytest.approx(1 / unit.item(), rel=1e-3)


def test_a_distance_does_not_depend_on_the_batch(f_net: FeatureNet, centers: LocalCenters) -> None:
    x = torch.cat([tiny.images(3, split="test"), tiny.defective(2)])
    together = centers.distance(patches(x, f_net, centers.settings))
    alone = torch.cat([centers.distance(patches(one[None], f_net, centers.settings)) for one in x])
    assert together.shape == (5, 8, 8)
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0], together[1], rtol=1e-3, atol=1e-4)


def test_the_gradient_is_the_formula_s(centers: LocalCenters, features: Tensor) -> None:
    fast, slow = features.clone().requires_grad_(), features.clone().requires_grad_()
    mix = torch.rand(features[:, 0].shape, generator=tiny.generator())
    (centers.distance(fast) * mix).sum().backward()
    distances = squares(as_vectors(slow), centers).min(dim=1).values.sqrt()
    (distances * mix.flatten()).sum().backward()
    assert slow.grad.abs().max() > 1e-3
    assert torch.allclose(fast.grad, slow.grad, rtol=1e-2, atol=1e-3 * slow.grad.abs().max().item())


def test_the_gradient_reaches_the_image(f_net: FeatureNet, centers: LocalCenters) -> None:
    x = tiny.defective(1).requires_grad_()
    centers.distance(patches(x, f_net, centers.settings)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0


def test_centering_is_the_mean_of_what_lies_above_tau(centers: LocalCenters) -> None:
    distances = centers.tau + torch.tensor([[[-0.5, 0.0], [1.0, 3.0]], [[-0.1, -0.2], [-0.3, -0.4]]])
    assert centers.centering(distances).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_a_normal_patch_takes_no_gradient_from_centering(centers: LocalCenters, features: Tensor) -> None:
    centers = replace(centers, tau=float(centers.distance(features).median()))
    some = features.clone().requires_grad_()
    distances = centers.distance(some)
    centers.centering(distances).sum().backward()
    pull = some.grad.abs().amax(dim=1)
    assert (pull[distances < centers.tau] == 0).all()
    assert (pull[distances > centers.tau] > 0).all()


def test_a_patch_on_a_centre_takes_no_wild_gradient(centers: LocalCenters) -> None:
    some = as_features(centers.means).clone().requires_grad_()
    centers.distance(some).sum().backward()
    assert torch.isfinite(some.grad).all()


def test_tau_is_the_quantile_of_the_held_back_images_alone(f_net: FeatureNet) -> None:
    x = tiny.images(COUNT)
    settings = replace(SETTINGS, quantile=0.7, seed=3)
    fit, held = split_held_back(24, 0.25, seed=3)
    centers = computed(f_net, x, settings, held_back=0.25)
    distances = centers.distance(patches(x, f_net, settings))
    held_back, fitted = distances[held].flatten().numpy(), distances[fit].flatten().numpy()
    assert centers.tau == pytest.approx(np.quantile(held_back, 0.7), rel=2e-3)
    assert abs(np.quantile(fitted, 0.7) / centers.tau - 1) > 0.01  # the test can tell them apart
    assert centers.held_back == pytest.approx(np.quantile(held_back, np.linspace(0, 1, 101)), rel=5e-3)
    assert centers.count == 18

    other_held = x.clone()
    other_held[held] = torch.rand(6, 3, 32, 32, generator=tiny.generator())
    changed = computed(f_net, other_held, settings, held_back=0.25)
    assert torch.equal(changed.means, centers.means) and torch.equal(changed.spreads, centers.spreads)
    assert changed.tau > 1.05 * centers.tau


def test_the_default_quantile_is_the_settings(f_net: FeatureNet) -> None:
    centers = computed(f_net, tiny.images(COUNT), PatchSettings())
    _, held = split_held_back(COUNT)
    distances = centers.distance(patches(tiny.images(COUNT)[held], f_net, PatchSettings()))
    assert centers.tau == pytest.approx(np.quantile(distances.numpy(), PatchSettings().quantile), rel=2e-3)


def test_the_disk_changes_no_distance(centers: LocalCenters, features: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "centers.pt"
    loaded = LocalCenters.load(path, centers.save(path))
    assert torch.equal(loaded.distance(features), centers.distance(features))
    assert torch.equal(
        loaded.centering(loaded.distance(features)), centers.centering(centers.distance(features))
    )
    assert loaded.fingerprint == centers.fingerprint
    tensors = {"means": None, "spreads": None, "weights": None, "held_back": ()}
    assert replace_all(loaded, tensors) == replace_all(centers, tensors)
    assert loaded.held_back == pytest.approx(centers.held_back, abs=1e-5)
    assert {"versions", "made", "held_back_share", "seed", "channels"} <= loaded.meta.keys()


def replace_all(centers: LocalCenters, values: dict[str, object]) -> dict[str, object]:
    return {name: getattr(centers, name) for name in LocalCenters.__dataclass_fields__} | values


class Pooled(torch.nn.Module):
    """Stands for an F whose patches are the image's own colours."""

    fingerprint = "pooled"

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(()))

    def feature_maps(self, x: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        return [torch.nn.functional.avg_pool2d(x, 4) for _ in layers]


def test_the_disk_changes_no_distance_of_patches_that_hardly_vary(tmp_path: Path) -> None:
    """Spreads at their floor, which float16 rounds too."""
    net, x = Pooled(), 0.5 + 1e-5 * torch.rand(20, 3, 32, 32, generator=tiny.generator())
    x[split_held_back(20)[1][0], 0] += 0.01
    centers = computed(net, x)
    assert centers.spreads.max() < 2e-4
    path = tmp_path / "centers.pt"
    centers.save(path)
    some = patches(tiny.images(2), net, SETTINGS)
    assert torch.equal(LocalCenters.load(path).distance(some), centers.distance(some))


def test_another_f_is_refused(f_net: FeatureNet, centers: LocalCenters) -> None:
    assert centers.check(f_net) is centers
    other = tiny.f_net(1)
    with pytest.raises(WeightsError, match=r"centers\.pt were made from another f-Net") as caught:
        centers.check(other, "centers.pt")
    assert centers.f_net[:12] in str(caught.value)
    assert other.fingerprint[:12] in str(caught.value)


def test_a_damaged_or_missing_file_is_refused(centers: LocalCenters, tmp_path: Path) -> None:
    path = tmp_path / "centers.pt"
    with pytest.raises(WeightsError, match=r"centers\.pt is missing"):
        LocalCenters.load(path)
    centers.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"centers\.pt is damaged"):
        LocalCenters.load(path)
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match=r"centers\.pt is damaged or foreign"):
        LocalCenters.load(path, "0" * 64)
    save_weights(path, "center", {"means": centers.means}, {})
    with pytest.raises(WeightsError, match=r"centers\.pt holds a 'center'"):
        LocalCenters.load(path)


@pytest.mark.parametrize("missing", ["f_net", "tau", "settings", "held_back", "count", "meta"])
def test_a_file_that_lacks_something_is_refused(centers: LocalCenters, tmp_path: Path, missing: str) -> None:
    path = tmp_path / "centers.pt"
    centers.save(path)
    state, described = load_weights(path, "local_centers")
    del described[missing]
    save_weights(path, "local_centers", state, described)
    with pytest.raises(WeightsError, match=r"centers\.pt holds no local centres"):
        LocalCenters.load(path)


@pytest.mark.parametrize("wrong", ["means", "no number", "spreads", "tau", "channels", "settings"])
def test_a_file_of_wrong_shapes_or_numbers_is_refused(
    centers: LocalCenters, tmp_path: Path, wrong: str
) -> None:
    path = tmp_path / "centers.pt"
    centers.save(path)
    state, described = load_weights(path, "local_centers")
    if wrong == "means":
        state["means"] = state["means"][:-1]
    elif wrong == "no number":
        state["means"][0, 0] = torch.nan
    elif wrong == "spreads":
        state["spreads"][0, 0] = 0
    elif wrong == "tau":
        described["tau"] = float("inf")
    elif wrong == "channels":
        described["meta"]["channels"][0] += 1
    else:
        described["settings"]["metric"] = "cosine"
    save_weights(path, "local_centers", state, described)
    with pytest.raises(WeightsError, match=r"centers\.pt holds no local centres"):
        LocalCenters.load(path)


def test_too_few_images_are_refused(f_net: FeatureNet) -> None:
    with pytest.raises(ValueError, match="5 normal images or more, and there are 4"):
        computed(f_net, tiny.images(4))
    assert computed(f_net, tiny.images(5)).count == 3


@pytest.mark.parametrize("x", [torch.full((8, 3, 32, 32), 0.5), tiny.images(1).expand(60, -1, -1, -1)])
def test_images_all_alike_are_refused(f_net: FeatureNet, x: Tensor) -> None:
    with pytest.raises(ValueError, match="All normal images look alike"):
        computed(f_net, x)


@pytest.mark.parametrize(("announced", "came"), [(8, 6), (6, 8), (8, 0)])
def test_a_wrong_announcement_is_refused(f_net: FeatureNet, announced: int, came: int) -> None:
    batches = [tiny.images(8)[i : i + 2] for i in range(0, came, 2)]
    with pytest.raises(ValueError, match=f"{announced} normal images were announced and {came} came"):
        list(compute_local_centers(f_net, batches, announced, SETTINGS))


def test_progress_ends_with_the_centers(f_net: FeatureNet) -> None:
    steps = list(compute_local_centers(f_net, tiny.images(9).split(2), 9, replace(SETTINGS, iterations=3)))
    assert [step.done for step in steps] == [2, 4, 6, 8, 9, 10, 11, 12, 13]
    assert {step.total for step in steps} == {13}
    assert [step.centers is not None for step in steps] == [False] * 8 + [True]


def test_the_same_seed_gives_the_same_centers(f_net: FeatureNet) -> None:
    x = tiny.images(COUNT)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = computed(f_net, x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = computed(f_net, x)
    assert torch.equal(again.means, first.means) and torch.equal(again.spreads, first.spreads)
    assert again.tau == first.tau
    other = computed(f_net, x, replace(SETTINGS, seed=1))
    assert not torch.equal(other.means, first.means)


def test_more_centres_lie_nearer(f_net: FeatureNet) -> None:
    few, many = (
        computed(f_net, tiny.images(COUNT), replace(SETTINGS, centers=k, metric="euclidean")) for k in (2, 24)
    )
    vectors = as_vectors(patches(tiny.images(COUNT), f_net, SETTINGS))
    assert (len(few.means), len(many.means)) == (2, 24)
    near, far = (torch.cdist(vectors, c.means).min(dim=1).values.mean() for c in (many, few))
    assert near < 0.9 * far


def test_few_patches_make_fewer_centres(f_net: FeatureNet) -> None:
    assert len(computed(f_net, tiny.images(5), PatchSettings()).means) == 3 * 64 // 20
    assert len(computed(f_net, tiny.images(20), PatchSettings(patches=160)).means) == 160 // 20
    assert len(computed(f_net, tiny.images(20), SETTINGS).means) == SETTINGS.centers


def test_the_f_net_stays_as_it_is(f_net: FeatureNet) -> None:
    before = {name: tensor.clone() for name, tensor in f_net.features.state_dict().items()}
    computed(f_net, tiny.images(8))
    after = f_net.features.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not f_net.training
    assert all(p.grad is None and not p.requires_grad for p in f_net.parameters())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"layers": ()}, "need layers, and a weight for each"),
        ({"weights": (1.0,)}, "need layers, and a weight for each"),
        ({"layers": (3, 2, 6, 13)}, "ascending order"),
        ({"layers": (2, 3, 6, 18)}, "blocks 0 to 17"),
        ({"weights": (1.0, 1.0, 1.0, -1.0)}, "weights are 0 or more"),
        ({"weights": (0.0,) * 4}, "weights are 0 or more"),
        ({"metric": "cosine"}, "'cosine': choose one of spread, euclidean"),
        ({"pooling": 0}, "pooling must lie between 1 and 9, not 0"),
        ({"centers": 0}, "number of centres must lie"),
        ({"shrink": 0.0}, "shrinkage must lie"),
        ({"quantile": 1.5}, "quantile must lie"),
        ({"patches": 1}, "number of patches must lie"),
        ({"iterations": 0}, "iterations must lie"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PatchSettings(**wrong)
