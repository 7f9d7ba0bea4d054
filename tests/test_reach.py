"""What a bundle is measured to find and to overlook."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch

from anounet.bundle import Bundle, load_bundle, read_info, save_part
from anounet.prepare import DataChoice, Reach, make_reach, measure_reach
from anounet.prepare.reach import SIZES

CHOICE = DataChoice(size=tiny.SIZE)
COUNT = 20  # good test images: the fewest that are taken


def measured(bundle: Bundle, choice: DataChoice = CHOICE, held: torch.Tensor | None = None) -> Reach:
    held = tiny.images(6) if held is None else held
    *steps, last = measure_reach(bundle, choice, held, COUNT)
    assert [step.done for step in steps] == list(range(1, last.total + 1))
    assert all(step.reach is None for step in steps) and last.done == last.total
    return last.reach


def at_level(bundle: Bundle, level: float) -> Bundle:
    """The bundle with one level for its map's regions and its score."""
    return replace(bundle, limits={"instant": level, "instant:score": level})


def test_a_level_that_nothing_reaches_finds_nothing_and_none_finds_everything(bundle: Bundle) -> None:
    never, always = measured(at_level(bundle, 1e9)), measured(at_level(bundle, -1.0))
    assert never.false_alarms == 0 and set(never.found) == {0.0} and never.reliable is None
    assert always.false_alarms == 1 and set(always.found) == {1.0}
    assert always.reliable == min(always.sizes)
    assert never.defects.keys() == always.defects.keys() == set(tiny_defects())
    assert all(caught == 0 for caught, _ in never.defects.values())
    assert all(caught == count > 0 for caught, count in always.defects.values())


def tiny_defects() -> list[str]:
    return ["band", "blob", "foreign", "frequency", "missing", "orientation", "scratch", "stain"]


def test_a_spot_outside_of_the_region_is_not_found(bundle: Bundle) -> None:
    """Each image is called anomalous, but its map never lies above the limit."""
    blind = replace(bundle, limits={"instant": 1e9, "instant:score": -1.0})
    reach = measured(blind)
    assert reach.false_alarms == 1 and set(reach.found) == {0.0}


def test_good_test_images_are_taken_where_there_are_any(bundle: Bundle) -> None:
    assert (measured(bundle).images, measured(bundle).tested) == (COUNT, True)
    nowhere = measured(bundle, replace(CHOICE, data="nowhere"))
    assert (nowhere.images, nowhere.tested, nowhere.defects) == (6, False, {})


def test_it_is_the_same_each_time_and_survives_bundle_json(bundle: Bundle) -> None:
    reach = measured(bundle)
    assert measured(bundle) == reach
    save_part(bundle.name, reach={"instant": reach.to_json()})
    assert Reach.of(load_bundle(bundle.name, "cpu"), "instant") == reach
    assert reach.sizes == tuple(round(size * tiny.SIZE / 96) for size in SIZES)


def test_sizes_are_reliable_from_where_no_larger_one_fails() -> None:
    def reliable(*found: float) -> int | None:
        return Reach(9, True, 0.0, (4, 8, 16), found).reliable

    assert reliable(0.95, 0.9, 1.0) == 4
    assert reliable(0.95, 0.5, 1.0) == 16
    assert reliable(1.0, 1.0, 0.8) is None


@pytest.mark.parametrize("said", [None, [], {"instant": 3}, {"instant": {"images": "many"}}, {"fast": {}}])
def test_what_cannot_be_read_was_not_measured(bundle: Bundle, said: object) -> None:
    assert Reach.of(replace(bundle, info={"reach": said}), "instant") is None


def test_a_new_instant_net_is_not_what_was_measured(bundle: Bundle) -> None:
    list(make_reach(bundle.name, CHOICE, "cpu"))
    assert read_info(bundle.name)["reach"]["instant"]["images"] > 0
    save_part(bundle.name, instant=tiny.tiny_instant(bundle.f_net, bundle.local))
    assert read_info(bundle.name)["reach"] == {}
