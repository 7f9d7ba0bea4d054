"""The film of an optimisation: its steps, its size, its plane; and how the app offers it."""

from __future__ import annotations

import gc
import io
import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from scipy import ndimage

from anounet import ano_unet, explore, film, optimize
from anounet.anomaly_map import SCALE_TOP, colorize
from anounet.app import film as film_page
from anounet.app import panels
from anounet.app.jobs import Job, JobCancelled
from anounet.app.results import ResultCache
from anounet.app.texts import LANGUAGES, speaking
from anounet.app.work import filming
from anounet.app.work.answers import Picture
from anounet.bundle import Bundle
from anounet.center import features_of
from anounet.datasets import DataError
from anounet.film import Film, Frame, film_settings, loss_chart, moving_picture, record, smallest_loss, spaced
from anounet.images import content_hash, to_pixels
from anounet.storage import WeightsError
from anounet.visualization import drain, visualize

LIMIT = 300_000


@pytest.fixture
def x() -> torch.Tensor:
    return tiny.defective(1)[0]


def whole(x: torch.Tensor, bundle: Bundle, settings: ano_unet.Settings, count: int = film.FRAMES) -> Film:
    *_, last = record(x, bundle, settings, count)
    return last.film


# --- which steps -------------------------------------------------------------------------------------


def test_steps_are_log_spaced_from_first_to_last() -> None:
    for steps in range(1, ano_unet.MAX_STEPS + 1):
        kept = spaced(steps)
        assert kept[0] == 0 and kept[-1] == steps and list(kept) == sorted(set(kept))
        assert min(steps + 1, 18) <= len(kept) <= 21
    assert spaced(200)[:7] == (0, 1, 2, 3, 4, 6, 8)
    far = np.log(np.array(spaced(1000)[4:]) + 1)
    assert np.ptp(np.diff(far)) < 0.15  # from where steps are no longer next to each other
    assert spaced(5) == (0, 1, 2, 3, 4, 5) and spaced(100, 2) == (0, 100)


@pytest.mark.parametrize(("steps", "count"), [(0, 20), (-1, 20), (5, 1)])
def test_no_film_of_nothing(bundle: Bundle, x: torch.Tensor, steps: int, count: int) -> None:
    with pytest.raises(ValueError, match="are no film"):
        spaced(steps, count)
    if steps == 0:
        with pytest.raises(ValueError, match="choose 1 step or more"):
            next(record(x, bundle, bundle.settings("fast", steps=0)))


def test_a_film_is_of_the_optimisation_that_took_steps(bundle: Bundle) -> None:
    for settings in (bundle.settings("fast"), bundle.settings("article"), bundle.settings(steps=4)):
        assert film_settings(bundle, settings) is settings
    assert film_settings(bundle, bundle.settings()) == bundle.settings("fast", center="local")
    alone = film_settings(replace(bundle, identity=None), bundle.settings(precision="bfloat16"))
    assert alone == bundle.settings(steps=film.REFINING)


# --- the film is the optimisation --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("fast", {"steps": 30}),
        ("fast", {"steps": 24, "center": "local"}),
        ("fast", {"steps": 40, "stop": 0.3}),  # ends before its time
        ("instant", {"steps": 6}),
        ("article", {"steps": 3, "seed": 5}),
    ],
)
def test_it_ends_where_the_result_does(
    bundle: Bundle, x: torch.Tensor, mode: str, changes: dict[str, object]
) -> None:
    settings = bundle.settings(mode, **changes)
    images: list[torch.Tensor] = []
    result = drain(visualize(x, bundle, settings, snapshot_every=1), lambda s: images.append(s.image[0]))
    steps = list(record(x, bundle, settings))
    made = steps[-1].film
    assert [step.index for step in steps] == list(range(result.steps + 1))  # each was computed
    assert all(step.film is None for step in steps[:-1])
    assert [step.frame.step for step in steps if step.frame] == [frame.step for frame in made.frames]
    kept = {step for step in spaced(settings.steps) if step < result.steps} | {result.steps}
    assert [frame.step for frame in made.frames] == sorted(kept)
    for frame in made.frames:
        assert torch.equal(frame.y, images[frame.step])
        assert frame.losses == {name: line[frame.step] for name, line in result.losses.items()}
        seen = features_of(bundle.f_net, frame.y[None])
        assert torch.allclose(frame.features, seen[0], atol=1e-6)
        assert frame.score == pytest.approx(float(bundle.center.score(seen)), abs=1e-6)
    last = made.frames[-1]
    assert torch.equal(last.y, result.y) and torch.equal(last.heat, result.anomaly_map)
    assert made.scale == result.scale and torch.equal(result.maps[made.map], result.anomaly_map)
    assert made.frames[-1].losses["L"] < made.frames[0].losses["L"]
    assert made.features.shape == (len(made.frames), 1280)
    if "stop" in changes:
        assert last.step < settings.steps


def test_maps_are_on_the_fixed_scale_and_never_stretched(bundle: Bundle, x: torch.Tensor) -> None:
    made = whole(x, bundle, bundle.settings("fast", steps=6))
    for frame in made.frames:
        assert np.allclose(made.levels(frame), np.clip(frame.heat.numpy() / (SCALE_TOP * made.scale), 0, 1))
    halved = replace(made, scale=2 * made.scale)
    assert made.levels(made.frames[-1]).max() == pytest.approx(2 * halved.levels(made.frames[-1]).max())


def test_f_stays_as_it_was_to_the_bit(bundle: Bundle, x: torch.Tensor) -> None:
    before = {name: t.clone() for name, t in bundle.f_net.state_dict().items()}
    whole(x, bundle, bundle.settings("fast", steps=3))
    after = bundle.f_net.state_dict()
    assert all(torch.equal(after[name], t) for name, t in before.items())
    assert all(p.grad is None and not p.requires_grad for p in bundle.f_net.parameters())


def test_frames_alone_are_held_and_an_early_end_frees_all(
    bundle: Bundle, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[weakref.ref[torch.Tensor]] = []
    closed: list[bool] = []
    streams: list[Iterator[optimize.Step]] = []  # held, so that nothing but `close` closes them
    reconstruct = ano_unet.reconstruct

    def watched(*given: object, **named: object) -> Iterator[optimize.Step]:
        try:
            for step in reconstruct(*given, **named):
                images.append(weakref.ref(step.image))
                yield step
                del step
        finally:
            closed.append(True)

    def held(*given: object, **named: object) -> Iterator[optimize.Step]:
        streams.append(watched(*given, **named))
        return streams[-1]

    monkeypatch.setattr(ano_unet, "reconstruct", held)
    stream = record(x, bundle, bundle.settings("fast", steps=40, stop=0.0), count=6)
    for step in stream:
        if step.index == 30:
            break
    del step
    gc.collect()
    kept = [k for k, image in enumerate(images) if image() is not None]
    assert len(images) == 31 and set(kept) <= {*spaced(40, 6), 30}  # the last one is at hand still
    assert not closed
    stream.close()
    assert closed
    del stream
    gc.collect()
    assert not [image for image in images if image() is not None]


def test_a_film_needs_c(bundle: Bundle, x: torch.Tensor) -> None:
    with pytest.raises(WeightsError, match="has no C yet"):
        next(record(x, replace(bundle, center=None), bundle.settings("fast", center="local", steps=3)))
    with pytest.raises(ValueError, match="takes images of 3×32×32"):
        next(record(x[:, :16], bundle, bundle.settings("fast", steps=3)))


# --- what is drawn -----------------------------------------------------------------------------------


def test_the_path_lies_in_a_plane_without_any_data(bundle: Bundle, x: torch.Tensor) -> None:
    made = whole(x, bundle, bundle.settings("fast", steps=5))
    way = explore.way(made, bundle.center)
    assert way.at.shape == (6, 2) and len(way.normal) == 0
    points = torch.cat([made.features, bundle.center.vector[None]]).double().numpy()
    off = points - points.mean(axis=0)
    placed = np.concatenate([way.at, way.center[None]])
    assert sum(way.explained) == pytest.approx((placed**2).sum() / (off**2).sum())
    short = whole(x, bundle, bundle.settings("fast", steps=1))  # two frames and C make a plane too
    assert np.isfinite(explore.way(short, bundle.center).at).all()


def test_the_path_lies_among_normal_images_where_they_are_here(bundle: Bundle, x: torch.Tensor) -> None:
    made = whole(x, bundle, bundle.settings("fast", steps=5))

    def group(images: torch.Tensor) -> explore.Features:
        return explore.Features(features_of(bundle.f_net, images), ("streaks",) * len(images))

    cloud = explore.arrange(
        bundle.center, group(tiny.images(8)), group(tiny.images(4, "weave")), group(x[None])
    )
    way = explore.way(made, bundle.center, cloud)
    assert np.allclose(way.at, cloud.plane.place(made.features)) and np.allclose(way.center, cloud.center)
    assert np.array_equal(way.normal, cloud.normal.at)
    boxed = way.boxed()
    everything = np.concatenate([boxed.at, boxed.center[None], boxed.normal])
    assert ((everything >= 0) & (everything <= 1)).all() and len(boxed.normal) >= 4
    spans = np.ptp(boxed.at, axis=0) / np.ptp(way.at, axis=0)
    assert spans[0] == pytest.approx(spans[1])  # one scale for both axes


def test_losses_are_drawn_on_logarithmic_axes() -> None:
    made = painted(96, [0, 1, 3, 100], l_r=[0.0, 1e-3, 1e-2, 0.1], l_c=[2.0, 0.2, 0.02, 0.0])
    chart = loss_chart(made)
    low, high = 0.1, 100.0  # β is 50; what lies more than three decades below is on the edge
    assert [float(name) for name, _ in chart.values] == [0.1, 1, 10, 100]
    for name, values in (("L_R", [0.0, 1e-3, 1e-2, 0.1]), ("β · L_C", [100.0, 10.0, 1.0, 0.0])):
        line = chart.lines[name]
        assert np.allclose(line[:, 0], np.log([1, 2, 4, 101]) / np.log(101))
        wanted = np.log(np.clip(values, low, None) / low) / np.log(high / low)
        assert np.allclose(line[:, 1], wanted)
    assert chart.steps[0] == ("0", 0.0) and chart.steps[-1] == ("100", 1.0)


# --- files and sizes ---------------------------------------------------------------------------------


def painted(
    size: int, steps: list[int], l_r: list[float] | None = None, l_c: list[float] | None = None
) -> Film:
    """A film as hard to make small as one can be: each frame has grain of its own, in colour."""
    drawn = np.random.default_rng(0)

    def grain(height: float, *shape: int) -> np.ndarray:
        return ndimage.gaussian_filter(drawn.normal(0, height, shape), (0,) * (len(shape) - 2) + (0.7, 0.7))

    base = 0.5 + grain(0.3, 3, size, size)
    settings = ano_unet.Settings("article", 50.0, steps[-1])
    l_r, l_c = l_r or [0.1] * len(steps), l_c or [1 / (1 + k) for k in steps]
    frames = tuple(
        Frame(
            step=step,
            y=torch.from_numpy((base + grain(0.08, 3, size, size)).clip(0, 1)).float(),
            heat=torch.from_numpy(np.abs(grain(0.3, size, size))).float(),
            losses={"L_R": l_r[number], "L_C": l_c[number], "L": l_r[number] + 50 * l_c[number]},
            features=torch.from_numpy(drawn.normal(size=1280)).float(),
            score=1 / (1 + step),
        )
        for number, step in enumerate(steps)
    )
    return Film(torch.from_numpy(base.clip(0, 1)).float(), frames, settings, "residual", 0.1, 0.5)


def in_plane(made: Film) -> film.Way:
    drawn = np.random.default_rng(1)
    count = len(made.frames)
    return film.Way(drawn.normal(size=(count, 2)), np.zeros(2), drawn.normal(size=(96, 2)), (0.5, 0.2))


@pytest.mark.parametrize("size", [32, 96, 256])
def test_a_film_stays_under_300_kb(size: int) -> None:
    made = painted(size, list(spaced(20)))
    reel = filming.reel(made, in_plane(made))
    for language in LANGUAGES:
        with speaking(language):
            sent = film_page.payload(reel, panels.View(), "key")
        assert len(json.dumps(sent).encode()) < LIMIT
        assert len(sent["frames"]) == len(sent["way"]) == len(sent["losses"][0]) == 21
    assert reel.side >= min(size, 96)  # and yet there is something to see
    assert len(reel.moving) < LIMIT and filming.size_of(reel) < 2 * LIMIT
    with Image.open(io.BytesIO(reel.moving)) as moving:
        assert moving.format == "WEBP" and moving.n_frames == 21


def test_what_the_player_gets_is_what_was_computed(bundle: Bundle, x: torch.Tensor) -> None:
    made = whole(x, bundle, bundle.settings("fast", steps=6))
    reel = filming.reel(made, explore.way(made, bundle.center))
    sent = film_page.payload(reel, panels.View(colormap="jet", opacity=0.5), "key")
    assert sent["side"] == sent["mapSide"] == 32 and sent["opacity"] == 0.5
    colours = np.frombuffer(bytes.fromhex(sent["colours"]), np.uint8).reshape(256, 3)
    assert np.array_equal(colours, colorize(np.arange(256)[None] / 255, "jet")[0])
    images = np.asarray(Image.open(io.BytesIO(reel.images)).convert("RGB")).reshape(-1, 32, 32, 3)
    maps = np.asarray(Image.open(io.BytesIO(reel.maps)).convert("RGB")).reshape(-1, 32, 32, 3)
    assert len(images) == 8 and len(maps) == 7
    assert np.abs(images[0].astype(int) - to_pixels(made.x)).mean() < 6
    for frame, image, level in zip(made.frames, images[1:], maps, strict=True):
        assert np.abs(image.astype(int) - to_pixels(frame.y)).mean() < 6
        assert np.abs(level[..., 0] - 255 * made.levels(frame)).mean() < 4
    assert [f["step"] for f in sent["frames"]] == [f"Step {k} of 6" for k in range(7)]
    last = made.frames[-1]
    assert sent["frames"][-1]["centering"] == f"{made.settings.beta * last.losses['L_C']:.4f}"
    assert f"{last.score / made.threshold:.2f} × threshold" in sent["frames"][-1]["said"]


def test_finer_qualities_go_before_the_side() -> None:
    tried = []

    def encode(side: int, quality: int) -> bytes:
        tried.append((side, quality))
        return bytes(side * quality)

    assert smallest_loss(encode, (4, 2), (9, 5), 11) == (bytes(10), 2)
    assert tried == [(4, 9), (4, 5), (2, 9), (2, 5)]
    with pytest.raises(ValueError, match="10 bytes were the fewest, and 9 are allowed"):
        smallest_loss(encode, (4, 2), (9, 5), 9)


def test_a_moving_picture_shows_each_frame_and_stays_within_bounds(bundle: Bundle, x: torch.Tensor) -> None:
    made = whole(x, bundle, bundle.settings("fast", steps=6))
    panelled = Image.open(io.BytesIO(moving_picture(made, explore.way(made, bundle.center))))
    bare = Image.open(io.BytesIO(moving_picture(made)))
    assert panelled.n_frames == bare.n_frames == 7 and panelled.width > bare.width
    assert len(moving_picture(made, most=20_000)) <= 20_000
    frames = []
    for number in range(7):
        bare.seek(number)
        frames.append(np.asarray(bare.convert("RGB")).astype(int))
    assert all(np.abs(a - b).max() > 50 for a, b in pairwise(frames))


# --- the job -----------------------------------------------------------------------------------------


def picture(x: torch.Tensor) -> Picture:
    pixels = to_pixels(x)
    return Picture("part.png", content_hash(pixels), pixels)


def job_for(work: object) -> Job:
    return Job("film", "film", "film", work)


def test_the_job_makes_a_film_even_without_the_data(bundle: Bundle, x: torch.Tensor) -> None:
    def nowhere() -> explore.Cloud:
        raise DataError("not here")

    cache: filming.Films = ResultCache(filming.MAX_BYTES, filming.size_of)
    request = filming.wanted(bundle, "version", picture(x), bundle.settings("fast", steps=4))
    job = job_for(lambda job: filming.make(job, request, bundle, cache, nowhere))
    job.run()
    assert job.error is None
    reel = cache.get(request.key)
    assert reel.steps == (0, 1, 2, 3, 4) and len(reel.way.normal) == 0
    assert job.progress.milestones == 1
    other = replace(request, settings=replace(request.settings, seed=1))
    assert cache.get(other.key) is None


def test_the_job_stops_at_its_next_step(bundle: Bundle, x: torch.Tensor) -> None:
    cache: filming.Films = ResultCache(filming.MAX_BYTES, filming.size_of)
    request = filming.wanted(bundle, "version", picture(x), bundle.settings("fast", steps=400, stop=0.0))
    job = job_for(None)
    advance = job.advance

    def stopping(done: int, **more: object) -> None:
        advance(done, **more)
        if done == 3:
            job.cancel()

    job.advance = stopping
    with pytest.raises(JobCancelled):
        filming.make(job, request, bundle, cache, lambda: pytest.fail("nobody looks any more"))
    assert job.progress.done == 3 and len(cache) == 0


def test_no_film_is_offered_where_none_can_be_made(bundle: Bundle, x: torch.Tensor) -> None:
    settings = bundle.settings("fast")
    assert filming.wanted(replace(bundle, center=None), "version", picture(x), settings) is None
    assert filming.wanted(bundle, "version", picture(x), replace(settings, steps=0)) is None
    assert filming.estimated_seconds(bundle.settings("article", steps=200), cuda=False) > 50
