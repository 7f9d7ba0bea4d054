"""What a result says and what the browser gets of it: sentences, the viewer, the gallery, notices, files."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
import tiny
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest
from test_app import (  # noqa: F401 (some are fixtures)
    PAGES,
    app,
    made,
    no_leftovers,
    noise,
    png,
    settled,
    short_search,
    sound,
    words,
)
from test_app import weights as app_weights  # noqa: F401

from anounet.anomaly_map import colorize
from anounet.app import components, downloads, findings, gallery, models, panels, routing, uploads, viewer
from anounet.app.jobs import Job
from anounet.app.work.answers import Request
from anounet.bundle import SHIPPED, Bundle, save_part
from anounet.images import content_hash, to_pixels
from anounet.prepare import Reach
from anounet.visualization import Result, remember, visualize_nearest

SIDE = 30
VIEW = panels.View()


def result(
    score: float = 2.0, threshold: float = 1.0, spots: tuple[tuple[int, int, float], ...] = ()
) -> Result:
    """One of `instant` mode, its map 0 but for spots of 5 × 5 px: (x, y, height in units of the scale)."""
    shown = torch.zeros(SIDE, SIDE)
    for x, y, height in spots:
        shown[y - 2 : y + 3, x - 2 : x + 3] = height * 0.5
    x = torch.rand(3, SIDE, SIDE, generator=tiny.generator())
    return Result(
        method="instant",
        score=score,
        threshold=threshold,
        x=x,
        y=1 - x,
        anomaly_map=shown,
        smoothing=0.0,
        scale=0.5,
        losses={},
        seconds=0.1,
        limit=0.75,
        maps={"combined": shown},
        scales={"combined": 0.5},
        limits={"combined": 0.75},
    )


# --- sentences ---------------------------------------------------------------------------------------


def test_what_was_found_is_said_with_its_place_size_and_height() -> None:
    said = findings.found(result(spots=((25, 4, 3.0),)), VIEW)
    assert "One place" in said and "top right" in said and "5 × 5 px" in said and "3.0 ×" in said
    some = findings.found(result(spots=((25, 4, 2.0), (4, 15, 4.0))), VIEW)
    assert "2 places" in some and "at the left:" in some and "4.0 ×" in some
    assert "Nothing stands out" in findings.found(result(0.5), VIEW)
    assert "as a whole" in findings.found(result(2.0), VIEW)
    assert "Nothing certain" in findings.found(result(0.5, spots=((15, 15, 2.0),)), VIEW)


def test_it_is_said_when_f_objects_and_not_the_map() -> None:
    objects, agrees = replace(result(2.0), overall=2.0), replace(result(2.0), overall=1.5)
    assert "as a whole" in findings.found(objects, VIEW)
    assert "F that objects most: its score of the whole image is 2.00 ×" in findings.found(objects, VIEW)
    assert "objects" not in findings.found(agrees, VIEW)
    assert "objects" not in findings.found(replace(result(0.5), overall=0.5), VIEW)


def test_without_an_outline_the_usual_level_is_meant() -> None:
    spotted = result(spots=((15, 15, 1.2),))  # above the scale, below the limit
    assert "as a whole" in findings.found(spotted, VIEW)
    assert "1.2 ×" in findings.found(spotted, replace(VIEW, threshold="scale"))
    assert findings.found(spotted, replace(VIEW, threshold="off")) == findings.found(spotted, VIEW)


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [(0, 0, "top-left"), (15, 15, "middle-middle"), (29, 29, "bottom-right"), (15, 0, "top-middle")],
)
def test_a_place_is_a_third_of_the_image(x: int, y: int, place: str) -> None:
    (region,) = result(spots=((max(2, min(27, x)), max(2, min(27, y)), 3.0),)).regions()
    assert findings.place_of(region, SIDE) == place


def measured(bundle: Bundle, **changes: object) -> Bundle:
    reach = Reach(60, True, 0.05, (4, 8, 16), (0.2, 0.6, 0.95), {"stain": (1, 7), "band": (7, 7)})
    return replace(
        bundle, info=dict(bundle.info) | {"reach": {"instant": replace(reach, **changes).to_json()}}
    )


def test_how_sure_it_is_goes_by_the_distance_from_the_threshold_and_measured_alarms(bundle: Bundle) -> None:
    assert "close call" in findings.certainty(result(1.05), bundle)
    assert "close call" in findings.certainty(result(0.95), bundle)
    assert "clear" in findings.certainty(result(3.0), bundle) and "3.00 ×" in findings.certainty(
        result(3.0), bundle
    )
    assert "clear" in findings.certainty(result(0.3), bundle)
    assert "clear" not in findings.certainty(result(1.3), bundle)
    assert "called anomalous" not in findings.certainty(result(1.3), bundle)  # nothing was measured
    assert "Of 60 good test images 3" in findings.certainty(result(1.3), measured(bundle))
    assert "held-back" in findings.certainty(result(1.3), measured(bundle, tested=False))


def test_what_is_overlooked_is_what_was_measured(bundle: Bundle) -> None:
    assert "not measured" in findings.overlooked(result(), bundle)
    said = findings.overlooked(result(), measured(bundle))
    assert "4 px long it finds 20%" in said and "from 16 px on" in said and "1 of 7" in said
    never = findings.overlooked(result(), measured(bundle, found=(0.2, 0.6, 0.5), defects={}))
    assert "60% at best, of 8 px" in never and "least often" not in never


# --- the viewer --------------------------------------------------------------------------------------


def decoded(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_the_browser_gets_the_very_pixels_and_a_map_to_a_65536th() -> None:
    ours = result(spots=((10, 10, 3.3),))
    sent = viewer.payload("part", [ours], VIEW, "as if normal")
    (method,) = sent["methods"]
    assert np.array_equal(decoded(sent["original"]), to_pixels(ours.x))
    assert np.array_equal(decoded(method["image"]), to_pixels(ours.y))
    levels = np.frombuffer(base64.b64decode(method["map"]), "<u2").reshape(SIDE, SIDE)
    units = levels / 65535 * method["top"]
    assert np.abs(units - ours.anomaly_map.numpy() / 0.5).max() <= method["top"] / 65535
    colours = np.frombuffer(base64.b64decode(sent["colours"]), np.uint8).reshape(256, 3)
    assert np.array_equal(colours, colorize(np.linspace(0, 1, 256)[None], "inferno")[0])
    assert sent["threshold"] == 1.5 and sent["side"] == SIDE  # the limit, in units of the scale
    json.dumps(sent)


def test_a_rival_without_an_image_is_shown_by_its_map_and_under_its_own_name() -> None:
    rival = replace(result(spots=((5, 5, 1.0),)), method="nearest-patch", y=None)
    first, second = viewer.payload("part", [result(), rival], VIEW, "as if normal")["methods"]
    assert first["made"] == "as if normal" and first["image"]
    assert second["image"] is None and second["name"] != first["name"]


def test_another_result_has_another_key_and_the_same_the_same() -> None:
    keys = [
        viewer.payload("part", [r], VIEW, "")["key"] for r in (result(), result(), result(spots=((9, 9, 2),)))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_in_grey_levels_values_are_grey_levels() -> None:
    ours = result()
    ours = replace(
        ours, maps={"residual": ours.anomaly_map}, scales={"residual": 0.5}, limits={"residual": 0.75}
    )
    sent = viewer.payload("part", [ours], replace(VIEW, map="residual", grey=0.2), "")
    assert sent["factor"] == pytest.approx(255 * 0.1) and "grey" in sent["words"]["value"]


# --- files -------------------------------------------------------------------------------------------


def test_settings_say_what_is_needed_to_make_a_result_again(bundle: Bundle) -> None:
    ours = result(spots=((10, 10, 3.3),))
    request = Request(bundle.name, "v" * 64, (), bundle.settings("instant"), False, ("anogan",))
    said = json.loads(downloads.settings_json(downloads.Shown("a.png", ours), VIEW, request.facts))
    assert said["bundle"] == bundle.name and said["bundle_sha256"] == "v" * 64
    assert said["settings"]["mode"] == "instant" and said["rivals"] == ["anogan"]
    assert said["image_sha256"] == content_hash(to_pixels(ours.x)) and said["verdict"] == ours.verdict
    assert (said["map"], said["map_scale"], said["outline_level"]) == ("combined", 0.5, 0.75)


# --- the rival with a memory -------------------------------------------------------------------------


def test_nearest_patch_remembers_normal_patches_and_finds_others_far(bundle: Bundle) -> None:
    fit, held = tiny.pixels(12), tiny.images(8, split="validation")
    memory = remember(bundle, fit, held, count=200)
    assert 0 < memory.scale <= memory.limit
    seen = visualize_nearest(fit[:3].float() / 255, bundle, memory)
    other = visualize_nearest(torch.rand(3, 3, 32, 32, generator=tiny.generator()), bundle, memory)
    assert [r.method for r in seen] == ["nearest-patch"] * 3 and all(r.y is None for r in seen)
    assert max(r.score for r in seen) < min(r.score for r in other)
    alone = visualize_nearest(fit[:1].float() / 255, bundle, memory)[0]
    assert torch.allclose(alone.anomaly_map, seen[0].anomaly_map, atol=1e-5)


def test_nearest_patch_stands_beside_the_others_on_the_page(app_weights: Path) -> None:  # noqa: F811
    at = settled(app(PAGES[3], against="nearest-patch", samples="scratch"))
    said = words(at)
    assert not at.error, [e.value for e in at.error]
    assert "Nearest patch: heat map" in said or "nearest patch" in said.lower()
    (sent,) = shown(at, "anounet.viewer")
    assert [method["image"] is None for method in sent["methods"]] == [False, True]


# --- the gallery, clipboard --------------------------------------------------------------------------


def shown(at: AppTest, name: str) -> list[dict]:
    """What each of our components of a name was given."""
    protos = [element.proto for element in at.get("bidi_component")]
    return [json.loads(proto.json) for proto in protos if proto.component_name == name]


def test_the_gallery_shows_each_kind_once_and_names_it_as_the_link_does(app_weights: Path) -> None:  # noqa: F811
    found = gallery.entries(SHIPPED, models.version_of(SHIPPED))
    assert len(found) == gallery.GOOD + gallery.BAD == len({entry.sample for entry in found})
    assert all(entry.source.startswith("data:image/webp;base64,") for entry in found)
    for entry in (found[0], found[-1]):
        at = settled(app(PAGES[3], samples=entry.sample, against=""))
        assert not at.warning and entry.sample in words(at).replace("No defect", "good")
    (sent,) = shown(app(), "anounet.gallery")
    assert len(sent["items"]) == len(found)


def test_a_bundle_whose_data_is_not_here_shows_nothing(app_weights: Path) -> None:  # noqa: F811
    save_part(SHIPPED, data="nowhere")
    assert gallery.entries(SHIPPED, models.version_of(SHIPPED)) == []
    assert not shown(app(), "anounet.gallery")


def test_large_pictures_of_the_gallery_are_made_small() -> None:
    source = panels.thumbnail(noise(1, 500))
    assert decoded(source).shape == (panels.THUMB, panels.THUMB, 3) and len(source) < 40_000


class Given:
    """What a component gives back."""

    def __init__(self, pasted: object) -> None:
        self.pasted = pasted


@pytest.mark.parametrize(
    "images",
    [[{"name": "a.png"}], [{"data": "!!", "name": "a.png"}], [3], [{"name": "a.png", "data": None}]],
)
def test_nonsense_from_the_browser_is_no_image(monkeypatch: pytest.MonkeyPatch, images: list) -> None:
    good = {"name": "good.png", "data": base64.b64encode(png(noise(2))).decode()}
    monkeypatch.setattr(uploads, "_paste", lambda **_: Given({"images": [*images, good]}))
    assert uploads._pasted("x_", 0, True) == [("good.png", png(noise(2)))]
    monkeypatch.setattr(uploads, "_paste", lambda **_: Given(None))
    assert uploads._pasted("x_", 0, True) == []


# --- notices -----------------------------------------------------------------------------------------


def told(page: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """What the entrypoint draws before a page: AppTest would run the page's file alone."""
    monkeypatch.setattr(routing, "link", lambda key, label, **wanted: st.caption(f"{key} {wanted}"))

    def before(page: str) -> None:
        from anounet.app import notices

        notices.show(page)

    return sound(AppTest.from_function(before, default_timeout=60, kwargs={"page": page}).run())


def notices(at: AppTest) -> list[str]:
    return [button.key for button in at.button if (button.key or "").startswith("close_")]


def begun(at: AppTest, work: Callable[[Job], object]) -> Job:
    """A job of this visitor's, on the page f-Net."""
    job = models.jobs().submit("long", "f_net", "A training", work)
    at.session_state[components._PLACES] = {job.id: ("f_net", {"bundle": ["mine"]})}
    at.session_state[components._UNDER_WAY] = {job.id}
    assert not notices(sound(at.run()))
    return job


def test_a_job_that_ends_elsewhere_is_told_of_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    at, gate = told("home", monkeypatch), threading.Event()
    job = begun(at, lambda job: gate.wait(60))
    gate.set()
    assert job.wait(60)
    assert notices(sound(at.run())) == [f"close_{job.id}"]
    said = words(at)
    assert "A training" in said and "f_net {'bundle': ['mine']}" in said  # where, and what the link says
    assert notices(sound(at.run())) == [f"close_{job.id}"]
    at.button(key=f"close_{job.id}").click()
    assert not notices(sound(at.run())) and not notices(sound(at.run()))


def test_a_job_that_fails_is_told_of_and_one_that_was_stopped_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in (True, False):
        at, gate = told("home", monkeypatch), threading.Event()

        def work(job: Job, gate: threading.Event = gate, wanted: bool = wanted) -> None:
            gate.wait(60)
            if wanted:
                raise ValueError("no good")
            job.check()

        job = begun(at, work)
        if not wanted:
            job.cancel()
        gate.set()
        assert job.wait(60)
        assert bool(notices(sound(at.run()))) == wanted
        models.jobs().shutdown()


def test_the_jobs_own_page_tells_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    at, gate = told("f_net", monkeypatch), threading.Event()
    job = begun(at, lambda job: gate.wait(60))
    gate.set()
    assert job.wait(60)
    assert not notices(sound(at.run()))


def test_a_job_that_ends_while_its_page_is_left_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def page() -> None:
        from anounet.app import components, models

        components.remember(models.jobs().latest("f_net", "mine"), link=False)

    monkeypatch.setattr(routing, "here", lambda: "f_net")
    monkeypatch.setattr(routing, "link", lambda key, label, **wanted: None)
    gate = threading.Event()
    job = models.jobs().submit("long", "f_net", "A training", lambda job: gate.wait(60), bundles=["mine"])
    left = sound(AppTest.from_function(page, default_timeout=60).run())  # nothing was drawn before the page
    gate.set()
    assert job.wait(60)
    at = AppTest.from_function(_before_home, default_timeout=60)
    for key in ("_owner", components._PLACES, components._UNDER_WAY):
        at.session_state[key] = left.session_state[key]
    assert notices(sound(at.run())) == [f"close_{job.id}"]


def _before_home() -> None:
    from anounet.app import notices

    notices.show("home")
