"""Where an image differs from references: on a tiny F, and with the shipped one on textures."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from anounet import difference
from anounet.ano_unet import DEFAULTS
from anounet.anomaly_map import regions
from anounet.bundle import SHIPPED, Bundle, load_bundle
from anounet.datasets import TextureSet
from anounet.difference import PLACES, References, differ, distance_map, learn, learned, told
from anounet.images import ImageError
from anounet.local_centers import patches
from anounet.storage import WeightsError, fingerprint
from anounet.visualization import Result, drain

FEW = replace(difference.SETTINGS, steps=2)


def references(bundle: Bundle, count: int = 2, place: str = "anywhere", texture: str = "wood") -> References:
    return learned(learn(tiny.images(count, texture), bundle.f_net, place))


def answer(x: torch.Tensor, known: References, bundle: Bundle) -> Result:
    return drain(differ(x, known, bundle, FEW))


def pasted(x: torch.Tensor) -> torch.Tensor:
    """The image with a foreign patch at rows 10 … 19, columns 16 … 25."""
    x = x.clone()
    x[:, 10:20, 16:26] = 1 - x[:, 10:20, 16:26].flip(-1)
    return x


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("count", [1, 2])
def test_an_image_is_like_itself_and_a_foreign_patch_is_found(bundle: Bundle, place: str, count: int) -> None:
    known = references(bundle, count, place)
    own = tiny.images(count, "wood")[0]
    same = answer(own, known, bundle)
    assert float(same.anomaly_map.max()) < 0.1 * known.limit
    assert not same.regions() and told(same) == "like the references: no place lies above the limit"
    assert not same.anomalous and same.score < same.threshold
    other = answer(pasted(own), known, bundle)
    first = other.regions()[0]
    assert 12 <= first.x <= 29 and 6 <= first.y <= 23
    assert other.anomalous and other.score == pytest.approx(first.score * other.threshold)
    assert told(other).startswith("unlike the references: ")
    assert told(other).endswith(f"at ({first.x:.0f}, {first.y:.0f})")


def test_what_has_moved_is_unlike_the_same_place_and_like_any(bundle: Bundle) -> None:
    whole = torch.full((3, 32, 32), 0.5)
    part = torch.rand(3, 8, 8, generator=tiny.generator(3))
    reference, image = whole.clone(), whole.clone()
    reference[:, 4:12, 4:12] = part
    image[:, 20:28, 20:28] = part
    at = {}
    for place in PLACES:
        known = learned(learn(reference[None], bundle.f_net, place))
        at[place] = distance_map(image[None], known, bundle.f_net)[0, 20:28, 20:28].mean() / known.limit
    assert at["same"] > 1.5 * at["anywhere"]


@pytest.mark.parametrize("place", PLACES)
def test_a_pixel_to_the_side_is_no_difference(bundle: Bundle, place: str) -> None:
    whole = tiny.images(1, "wood")
    known = learned(learn(whole, bundle.f_net, place))
    for dx, dy in ((1, 0), (-1, 2), (2, -2)):
        moved = difference._moved(whole, dx, dy)
        assert float(distance_map(moved, known, bundle.f_net).max()) < 0.1 * known.limit
    far = distance_map(tiny.images(1, "leather"), known, bundle.f_net)
    assert float(far.max()) > 0.5 * known.limit


def test_a_patch_is_compared_with_its_neighbours_alone(bundle: Bundle) -> None:
    """ "same" takes the nearest of the window, found here one by one."""
    known = references(bundle, 2, "same").centers
    f = patches(tiny.images(3, "leather")[2:], bundle.f_net, known.settings)
    memory = known.means.view(*known.grid, -1, known.means.shape[1])
    h, w = known.grid
    found = known.distance(f)[0]
    for y in range(h):
        for x in range(w):
            window = memory[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].flatten(0, 2)
            squares = (known.weights * ((f[0, :, y, x] - window) / known.spreads[0]).square()).sum(dim=1)
            assert float(found[y, x]) == pytest.approx(float(squares.min().sqrt()), rel=1e-3)
    anywhere = references(bundle, 2).centers
    vectors = f[0].flatten(1).T
    squares = (vectors[:, None] - anywhere.means).square() / anywhere.spreads[0].square() * anywhere.weights
    nearest = squares.sum(dim=2).amin(dim=1).sqrt()
    assert torch.allclose(anywhere.distance(f).flatten(), nearest, rtol=1e-3)


def test_levels_come_from_held_out_references(bundle: Bundle) -> None:
    """Twins are no measure of what may vary; taken anew, they are."""
    one = tiny.images(1, "wood")
    twins = learned(learn(one.repeat(2, 1, 1, 1), bundle.f_net, "same"))
    alone = learned(learn(one, bundle.f_net, "same"))
    assert twins.limit == pytest.approx(alone.limit, rel=0.05) and twins.limit >= twins.scale > 0.5
    again = (difference._moved(one, 3, -1) + 0.02).clamp(0, 1)  # another photograph of the same
    for known in (twins, alone):
        assert 0.1 < float(distance_map(again, known, bundle.f_net).max()) / known.limit < 1.5
    unlike = torch.cat([one, tiny.images(1, "leather")])
    wide = learned(learn(unlike, bundle.f_net))
    # In units of the spread, which is held-out patches' own, the two are as far apart as they are.
    assert float(distance_map(unlike, wide, bundle.f_net).max()) < 0.1 * wide.limit
    d = wide.centers.only(torch.arange(len(wide.centers.means) // 64) % 2 == 0)
    far = d.distance(patches(unlike[1:], bundle.f_net, d.settings))
    assert 0.8 < float(far.square().mean().sqrt()) < 1.2
    assert wide.centers.tau > 1 and len(wide.centers.held_back) == 101


def test_a_result_does_not_depend_on_its_neighbours(bundle: Bundle) -> None:
    known = references(bundle, 2)
    x = tiny.images(3, "leather")
    together = distance_map(x, known, bundle.f_net)
    for image, found in zip(x, together, strict=True):
        assert torch.equal(distance_map(image[None], known, bundle.f_net)[0], found)
    first, again = answer(x[0], known, bundle), answer(x[0], references(bundle, 2), bundle)
    assert torch.equal(first.y, again.y) and torch.equal(first.anomaly_map, together[0])


def test_the_image_is_redrawn_towards_the_references_and_f_stays_as_it_is(bundle: Bundle) -> None:
    before = fingerprint(bundle.f_net.features.state_dict())
    net = fingerprint(bundle.identity.state_dict())
    known, x = references(bundle, 2), tiny.images(1, "leather")[0]
    steps = []
    result = drain(differ(x, known, bundle, replace(FEW, steps=12, stop=0.0), snapshot_every=4), steps.append)
    assert [step.index for step in steps] == list(range(13))
    assert [step.index for step in steps if step.image is not None] == [0, 4, 8, 12]
    assert result.losses["L_C"][-1] < 0.9 * result.losses["L_C"][0]
    assert not torch.equal(result.y, x) and torch.equal(result.y, steps[-1].image[0])
    assert fingerprint(bundle.f_net.features.state_dict()) == before
    assert fingerprint(bundle.identity.state_dict()) == net


def test_closing_early_ends_the_work(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made, whole = [], difference.ano_unet.reconstruct

    def watched(*arguments: object, **options: object) -> object:
        made.append(whole(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(difference.ano_unet, "reconstruct", watched)
    stream, threads = differ(tiny.images(1)[0], references(bundle), bundle, FEW), torch.get_num_threads()
    next(stream)
    stream.close()
    assert inspect.getgeneratorstate(made[0]) == inspect.GEN_CLOSED
    assert torch.get_num_threads() == threads and torch.is_grad_enabled()
    half = learn(tiny.images(2), bundle.f_net)
    next(half)
    assert torch.is_grad_enabled()
    half.close()
    assert torch.is_grad_enabled()


def test_progress_ends_at_its_total(bundle: Bundle) -> None:
    for count in (1, 3):
        for place in PLACES:
            seen = list(learn(tiny.images(count), bundle.f_net, place))
            assert [p.done for p in seen] == list(range(1, seen[-1].total + 1))
            assert [p.references is not None for p in seen] == [False] * (len(seen) - 1) + [True]


def test_flat_references_still_find_what_is_not_flat(bundle: Bundle) -> None:
    flat = torch.full((1, 3, 32, 32), 0.4)
    known = learned(learn(flat, bundle.f_net))
    assert not answer(flat[0], known, bundle).regions()
    assert answer(tiny.images(1, "wood")[0], known, bundle).regions()


def test_what_does_not_fit_is_refused(bundle: Bundle) -> None:
    x = tiny.images(21)
    for wrong, sentence in (
        (x[:0], "1 to 20 reference images, not 0"),
        (x, "1 to 20 reference images, not 21"),
        (x[:1, :, :16], r"Reference images are \(N, 3, H, H\)"),
        (x[:1] * torch.nan, "NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=sentence):
            learn(wrong, bundle.f_net)
    with pytest.raises(ValueError, match="Unknown place 'here'"):
        learn(x[:1], bundle.f_net, "here")
    known = references(bundle)
    with pytest.raises(ImageError, match="NaN or infinity"):
        answer(x[0] * torch.nan, known, bundle)
    with pytest.raises(ValueError, match="The references are 3×32×32"):
        answer(torch.zeros(3, 48, 48), known, bundle)
    with pytest.raises(ValueError, match="in fast mode, with local"):
        drain(differ(x[0], known, bundle, DEFAULTS["fast"]))
    with pytest.raises(WeightsError, match="The references were made from another f-Net"):
        answer(x[0], known, replace(bundle, f_net=tiny.f_net(1)))
    with pytest.raises(WeightsError, match="identity U-Net"):
        answer(x[0], known, replace(bundle, identity=None))


# --- the shipped F -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    folder = Path(__file__).resolve().parent.parent / "weights"
    if not (folder / SHIPPED / "bundle.json").is_file():
        pytest.skip(f"weights/{SHIPPED} is not there: python -m anounet prepare makes it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOUNET_WEIGHTS", str(folder))
        return load_bundle(SHIPPED, "cpu")


def good(split: str, texture: str, count: int, size: int) -> torch.Tensor:
    images = TextureSet(split, count)
    return torch.cat(list(images.batches(images.where(texture, defective=False), size)))


def test_a_patch_of_another_texture_is_found_and_a_good_image_is_not(shipped: Bundle) -> None:
    leather, x = good("train", "leather", 5, shipped.size), good("test", "leather", 5, shipped.size)
    broken = x[0].clone()
    broken[:, 40:60, 30:50] = good("test", "wood", 1, shipped.size)[0][:, 40:60, 30:50]
    result = drain(differ(broken, learned(learn(leather[:1], shipped.f_net)), shipped))
    first = result.regions()[0]
    assert first.left < 50 and first.left + first.width > 30
    assert first.top < 60 and first.top + first.height > 40
    changed = (result.x - result.y).abs().mean(dim=0)
    assert changed[40:60, 30:50].mean() > 3 * changed[:30].mean()
    assert result.losses["L_C"][-1] < 0.5 * result.losses["L_C"][0]
    known = learned(learn(leather, shipped.f_net))
    assert float((distance_map(x, known, shipped.f_net) > known.limit).float().mean()) < 0.001


def test_both_directions_say_where_if_the_place_counts(shipped: Bundle) -> None:
    whole = good("test", "leather", 1, shipped.size)[0]
    broken = whole.clone()
    broken[:, 40:60, 30:50] = 0.5 * whole[:, 40:60, 30:50] + 0.4
    for reference, image in ((whole, broken), (broken, whole)):
        known = learned(learn(reference[None], shipped.f_net, "same"))
        found = distance_map(image[None], known, shipped.f_net)[0]
        (first,) = regions(found, known.limit)
        assert 30 < first.x < 50 and 40 < first.y < 60
