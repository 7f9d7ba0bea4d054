"""The one loop of gradient descent: what its Steps carry, and that it leaves nothing behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from anounet.optimize import WINDOW, DivergedError, Step, descend, falls_no_more, side_by_side

TARGET = torch.linspace(0.2, 0.8, 2 * 3 * 4 * 4).view(2, 3, 4, 4)


def objective(y: Tensor) -> dict[str, Tensor]:
    square = (y - TARGET).square().mean(dim=(1, 2, 3))
    return {"square": square, "L": 2 * square}


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 0.1)


def stream(
    render: Callable[[Tensor], Tensor] = torch.sigmoid,
    objective: Callable[[Tensor], dict[str, Tensor]] = objective,
    **options: Any,
) -> Iterator[Step]:
    z = torch.zeros(2, 3, 4, 4, requires_grad=True)
    return descend([z], lambda: render(z), objective, adam, **{"steps": 5} | options)


def test_the_loss_falls_over_steps_plus_one_steps() -> None:
    steps = list(stream(steps=30))
    assert [step.index for step in steps] == list(range(31))
    assert {step.total for step in steps} == {30}
    assert [step.last for step in steps] == [False] * 30 + [True]
    assert steps[0].losses.keys() == {"square", "L"}
    assert all(step.losses["L"].shape == (2,) and step.losses["L"].dtype == torch.float32 for step in steps)
    assert (steps[-1].losses["L"] < 0.2 * steps[0].losses["L"]).all()


def test_no_update_is_taken_for_zero_steps() -> None:
    (only,) = stream(steps=0)
    assert only.last
    assert torch.equal(only.image, torch.full((2, 3, 4, 4), 0.5))


def test_losses_belong_to_the_image_of_their_step() -> None:
    for step in stream(snapshot_every=1):
        for name, values in objective(step.image).items():
            assert torch.equal(step.losses[name], values), f"{name} at step {step.index}"


def test_images_come_where_they_were_asked_for_and_at_the_end() -> None:
    def with_image(every: int, steps: int) -> list[int]:
        return [s.index for s in stream(snapshot_every=every, steps=steps) if s.image is not None]

    assert with_image(0, 5) == [5]
    assert with_image(2, 5) == [0, 2, 4, 5]
    assert with_image(3, 6) == [0, 3, 6]


def test_the_consumer_gets_neither_a_graph_nor_a_view() -> None:
    drawn: list[Tensor] = []

    def render(z: Tensor) -> Tensor:
        y = torch.sigmoid(z)
        drawn.append(y.detach())
        return y

    steps = list(stream(render, snapshot_every=1))
    assert not any(t.requires_grad for s in steps for t in [s.image, *s.losses.values()])
    before = [step.image.clone() for step in steps]
    for y in drawn:  # as a net does that uses one buffer for all of its images
        y.zero_()
    assert all(torch.equal(step.image, image) for step, image in zip(steps, before, strict=True))
    assert not any((step.image == 0).any() for step in steps)


def test_gradients_are_on_at_every_yield_and_stay_as_the_consumer_had_them() -> None:
    for _ in stream():
        assert torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_nothing_but_the_parameters_receives_a_gradient() -> None:
    other = torch.ones(1, requires_grad=True)
    z = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for _ in descend([z], lambda: torch.sigmoid(z * other), objective, adam, steps=2):
        assert other.grad is None
    assert z.grad is not None


@pytest.mark.parametrize("channels_last", [False, True])
def test_fused_optimisers_get_gradients_that_lie_as_their_parameters_do(channels_last: bool) -> None:
    """A gradient may come out in another memory layout, and fused updates on the CPU go by memory alone."""
    random = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 8, 8, generator=random)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(8, 3, 3, 3, generator=random, requires_grad=True)

    def render() -> Tensor:
        return torch.nn.functional.conv2d(x, weight)

    def square(y: Tensor) -> dict[str, Tensor]:
        return {"L": y.square().mean(dim=(1, 2, 3))}

    (gradient,) = torch.autograd.grad(square(render())["L"].sum(), [weight])
    expected = weight.detach() - 0.1 * gradient
    list(descend([weight], render, square, lambda p: torch.optim.SGD(p, 0.1, fused=True), steps=1))
    assert (weight - expected).abs().max() < 1e-6
    assert gradient.abs().max() > 0.1


class Token:
    """Something a graph holds on to, whose end can be seen."""


class Held(torch.autograd.Function):
    tokens: list[weakref.ref] = []  # noqa: RUF012 - emptied by the test that reads it

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.token = Token()
        Held.tokens.append(weakref.ref(ctx.token))
        return z.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def test_each_graph_is_gone_before_its_step_is_given_out() -> None:
    Held.tokens.clear()
    for step in stream(lambda z: torch.sigmoid(Held.apply(z)), steps=3):
        gc.collect()
        assert len(Held.tokens) == step.index + 1
        assert all(token() is None for token in Held.tokens)


def test_an_early_close_leaves_nothing_behind() -> None:
    def start() -> tuple[Iterator[Step], weakref.ref]:
        z = torch.zeros(2, 3, 4, 4, requires_grad=True)
        return descend([z], lambda: torch.sigmoid(z), objective, adam, steps=5), weakref.ref(z)

    steps, parameter = start()
    next(steps)
    next(steps)
    assert parameter() is not None
    steps.close()
    gc.collect()
    assert parameter() is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(value: float) -> None:
    calls = iter(range(100))

    def spoilt(y: Tensor) -> dict[str, Tensor]:
        loss = objective(y)["L"]
        return {"L": loss * value if next(calls) == 2 else loss}

    seen = []
    with pytest.raises(DivergedError, match="at step 2 of 5: lower the learning rate"):
        seen.extend(step.index for step in stream(objective=spoilt))
    with pytest.raises(DivergedError, match="step 0 of 0"):
        list(stream(objective=lambda y: {"L": torch.tensor([1.0, value])}, steps=0))


def test_side_by_side_joins_the_steps_of_all_streams() -> None:
    def one(value: float) -> Iterator[Step]:
        for index in range(3):
            image = torch.full((1, 3, 2, 2), value + index) if index != 1 else None
            yield Step(index, 2, {"L": torch.tensor([value * (index + 1)])}, image)

    steps = list(side_by_side([one(1.0), one(10.0)]))
    assert [(s.index, s.total) for s in steps] == [(0, 2), (1, 2), (2, 2)]
    assert [s.losses["L"].tolist() for s in steps] == [[1, 10], [2, 20], [3, 30]]
    assert steps[1].image is None
    assert steps[2].image[:, 0, 0, 0].tolist() == [3, 12]


def test_side_by_side_refuses_streams_of_different_lengths() -> None:
    def one(count: int) -> Iterator[Step]:
        yield from (Step(index, count, {"L": torch.zeros(1)}, None) for index in range(count))

    with pytest.raises(ValueError):
        list(side_by_side([one(2), one(3)]))


def test_side_by_side_closes_every_stream_when_it_is_left_early() -> None:
    closed = []

    def one(name: str) -> Iterator[Step]:
        try:
            for index in range(10):
                yield Step(index, 9, {"L": torch.zeros(1)}, None)
        finally:
            closed.append(name)

    streams = [one("a"), one("b")]  # named, or they would be closed as garbage
    joined = side_by_side(streams)
    next(joined)
    joined.close()
    assert closed == ["a", "b"]

    def broken() -> Iterator[Step]:
        yield Step(0, 9, {"L": torch.zeros(1)}, None)
        raise DivergedError("at step 1")

    closed.clear()
    streams = [one("c"), broken(), one("d")]
    with pytest.raises(DivergedError):
        list(side_by_side(streams))
    assert closed == ["c", "d"]


def slow_and_fast(taken: list[int]) -> Callable[[Tensor], dict[str, Tensor]]:
    """L of the first image falls to the end, that of the second one for `WINDOW` steps only."""

    def objective(y: Tensor) -> dict[str, Tensor]:
        square = (y - TARGET).square().mean(dim=(1, 2, 3))
        held = torch.stack((y[0].mean(), square[1] * float(len(taken) < WINDOW)))
        taken.append(1)
        return {"square": square, "L": held + torch.tensor([0.0, 0.5])}

    return objective


def test_a_curve_that_falls_goes_on_and_one_that_does_not_stops() -> None:
    falling, flat = torch.linspace(1, 0, 12), torch.cat((torch.linspace(1, 0, 6), torch.zeros(6)))
    for length in range(1, 13):
        going, ended = falls_no_more(torch.stack((falling, flat), dim=1)[:length], 0.02).tolist()
        assert not going
        assert ended == (length > 5 + WINDOW)
    upwards = torch.tensor([1.0, 0.5, 0.4, 0.6, 0.3, 0.5, 0.2, 0.5, 0.1])[:, None]
    assert not falls_no_more(upwards, 0.02)  # its least still falls
    still = torch.full((WINDOW + 1, 1), 3.0)
    assert falls_no_more(still, 0.0) and not falls_no_more(still[1:], 0.0)


def test_steps_end_when_no_image_falls_any_more() -> None:
    steps = list(stream(steps=400, stop=0.02, snapshot_every=1))
    last = steps[-1]
    assert last.last and last.stopped and last.index < 400 and last.total == 400
    assert not any(step.last for step in steps[:-1])
    for name, values in objective(last.image).items():
        assert torch.equal(last.losses[name], values)
    assert [step.index for step in steps] == list(range(len(steps)))
    whole = list(stream(steps=400, snapshot_every=1))
    assert len(whole) == 401 and whole[-1].updates(0) == 400
    for taken, image, expected in zip(last.taken, last.image, (0, 1), strict=True):
        assert torch.equal(image, whole[taken].image[expected])


def test_an_image_that_has_stopped_stays_as_it_was_while_the_others_go_on() -> None:
    steps = list(stream(objective=slow_and_fast([]), steps=30, stop=1e-9, snapshot_every=1))
    assert len(steps) == 31 and not steps[-1].stopped
    at = steps[-1].updates(1)
    assert at < 30 == steps[-1].updates(0)
    for step in steps[at:]:
        assert step.taken == (step.index, at)
        assert torch.equal(step.image[1], steps[at].image[1])
        assert torch.equal(step.losses["square"][1], steps[at].losses["square"][1])
    assert not torch.equal(steps[-1].image[0], steps[at].image[0])


def test_side_by_side_keeps_a_stream_that_stopped_until_all_have() -> None:
    def one(value: float, ends: int) -> Iterator[Step]:
        for index in range(ends + 1):
            image = torch.full((1, 3, 2, 2), value + index) if index == ends else None
            losses = {"L": torch.tensor([value + index])}
            yield Step(index, 9, losses, image, (index,), stopped=index == ends < 9)

    steps = list(side_by_side([one(0.0, 2), one(10.0, 4)]))
    assert [(s.index, s.taken) for s in steps] == [
        (0, (0, 0)),
        (1, (1, 1)),
        (2, (2, 2)),
        (3, (2, 3)),
        (4, (2, 4)),
    ]
    assert [s.last for s in steps] == [False, False, False, False, True]
    assert steps[-1].losses["L"].tolist() == [2, 14]
    assert steps[-1].image[:, 0, 0, 0].tolist() == [2, 14]
    whole = list(side_by_side([one(0.0, 2), one(10.0, 9)]))
    assert whole[-1].index == 9 and whole[-1].last and not whole[-1].stopped
