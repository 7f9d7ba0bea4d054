"""The U-Net that redraws images unchanged, drawn or trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch

from anounet import training
from anounet.identity import UNetSettings, make_identity

TRAINED = UNetSettings(start="trained", width=8, depth=3, steps=7, batch=4)


def test_a_net_with_an_image_skip_copies_at_once() -> None:
    (step,) = make_identity(tiny.pixels(8), UNetSettings(width=8, depth=3))
    assert (step.step, step.total) == (1, 1) and step.metrics["L_R"] < 1e-6
    assert step.model.image_skip and not any(p.requires_grad for p in step.model.parameters())


def test_a_trained_net_learns_to_copy() -> None:
    settings = replace(TRAINED, steps=40)
    steps = list(make_identity(tiny.pixels(12), settings))
    first, last = steps[0].metrics["L_R"], steps[-1].metrics["L_R"]
    assert [step.step for step in steps] == list(range(1, 41)) and last < first / 2
    assert not steps[-1].model.image_skip and steps[-1].samples.shape == (8, 3, 32, 32)


def test_a_training_that_goes_on_ends_with_the_same_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 3)
    images = tiny.pixels(12)
    whole = list(make_identity(images, TRAINED))
    assert [step.step for step in whole if step.checkpoint] == [3, 6]
    rest = list(make_identity(images, TRAINED, resume=whole[2].checkpoint))
    assert [step.step for step in rest] == [4, 5, 6, 7]
    assert [step.metrics for step in rest] == [step.metrics for step in whole[3:]]
    state = whole[-1].model.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in rest[-1].model.state_dict().items())
    for other in ((images, replace(TRAINED, seed=1)), (images[1:], TRAINED)):
        with pytest.raises(ValueError, match="This checkpoint of the U-Net is of a training with other"):
            next(make_identity(*other, resume=whole[2].checkpoint))


@pytest.mark.parametrize(("name", "value"), [("width", 4), ("depth", 6), ("steps", 0), ("start", "copied")])
def test_settings_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"U-Net"):
        UNetSettings(**{name: value})
