"""The page for two images through Streamlit's AppTest, on a bundle of random weights at 32 px."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest
from test_app import (  # noqa: F401 (some are fixtures)
    SIZE,
    app,
    job_of,
    made,
    no_leftovers,
    noise,
    png,
    settled,
    sound,
    weights,
    words,
)

from anounet import difference
from anounet.app import models, texts, two_images
from anounet.app.jobs import DONE
from anounet.app.work import differences
from anounet.bundle import SHIPPED, load_bundle, save_part
from anounet.images import content_hash

PAGE = "pages/7_two_images.py"
PICTURE = "data:image/png;base64,"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "SETTINGS", replace(difference.SETTINGS, steps=2))


def page(**query: str) -> AppTest:
    return settled(app(PAGE, **query), two_images.KIND)


def test_two_samples_are_compared_without_a_click(weights) -> None:  # noqa: F811
    at = page()
    said = words(at)
    assert said.count(PICTURE) == 2 + 4 and "Leather, No defect" in said
    assert texts.t("differ.redrawn") in said and "like the references" in said
    job = job_of(at, two_images.KIND)
    assert job.state == DONE, job.error
    assert (len(job.spec.references), len(job.spec.pictures), job.spec.place) == (1, 1, "anywhere")
    assert job.spec.references[0].key != job.spec.pictures[0].key
    assert len(at.get("download_button")) == 5
    assert not at.warning and not at.error


def test_a_view_computes_nothing_anew(weights, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    at = page()
    job, before = job_of(at, two_images.KIND), words(at)
    monkeypatch.setattr(differences, "compare", None)
    for key, value in (("level", "off"), ("colours", "jet")):
        at.segmented_control(key=key).set_value(value)
        after = words(sound(at.run()))
        assert after != before
        before = after
    at.slider(key="opacity").set_value(20)
    assert words(sound(at.run())) != before
    assert job_of(at, two_images.KIND) is job


def test_the_map_comes_before_the_image_is_redrawn(weights, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    whole, go_on = differences.differ, threading.Event()

    def held_up(x, references, bundle, settings, **options):
        if settings.steps:
            assert go_on.wait(60)
        return whole(x, references, bundle, settings, **options)

    monkeypatch.setattr(differences, "differ", held_up)
    at = app(PAGE)
    job = job_of(at, two_images.KIND)
    assert job.wait(60, milestones=1) and job.active
    said = words(sound(at.run()))
    assert said.count(PICTURE) == 2 + 3 and texts.t("differ.redrawing") in said
    go_on.set()
    said = words(settled(at, two_images.KIND))
    assert said.count(PICTURE) == 2 + 4 and texts.t("differ.redrawing") not in said


def test_sides_are_swapped(weights) -> None:  # noqa: F811
    at = page()
    before = job_of(at, two_images.KIND).spec
    at.button(key="swap_sides").click()
    at = settled(sound(at.run()), two_images.KIND)
    after = job_of(at, two_images.KIND).spec
    keys = [[p.key for p in side] for side in (before.references, before.pictures)]
    assert [[p.key for p in side] for side in (after.pictures, after.references)] == keys
    assert at.query_params["swap"] in ("true", ["true"])
    at.button(key="swap_sides").click()
    sound(at.run())
    assert "swap" not in at.query_params


def test_a_link_chooses_texture_pair_place_and_view(weights) -> None:  # noqa: F811
    at = page(texture="wood", pair="same", place="same", swap="true", level="off", opacity="40")
    spec = job_of(at, two_images.KIND).spec
    assert spec.place == "same" and spec.references[0].name.startswith("Wood")
    assert not spec.references[0].name.endswith("No defect") and spec.pictures[0].name.endswith("No defect")
    assert at.slider(key="opacity").value == 40
    for wrong in ({"texture": "gold", "place": "there", "pair": "?"}, {"opacity": "900", "level": "high"}):
        assert not page(**wrong).error


def test_uploads_are_compared_and_refused_ones_are_named(weights) -> None:  # noqa: F811
    at = page(source="upload")
    assert texts.t("differ.nothing") in words(at) and PICTURE not in words(at)
    uploader = at.file_uploader(key="ref_upload_0")
    uploader.upload("one.png", png(noise(1)))
    uploader.upload("two.png", png(noise(2)))
    uploader.upload("text.png", b"no image at all")
    at = sound(at.run())
    assert texts.t("differ.nothing") in words(at)
    at.file_uploader(key="img_upload_0").upload("third.png", png(noise(3, 60)))
    at.file_uploader(key="img_upload_0").upload("one-again.png", png(noise(1)))
    at = settled(sound(at.run()), two_images.KIND)
    (warning,) = at.warning
    assert "text.png is not a readable" in warning.value
    job = job_of(at, two_images.KIND)
    assert [p.name for p in job.spec.references] == ["one.png", "two.png"]
    assert [p.name for p in job.spec.pictures] == ["third.png", "one-again.png"]
    said = words(at)
    assert f"**one-again.png** · {texts.t('differ.like')}" in said and "**third.png**" in said
    results = differences.found(models.results(), job.spec)
    own = results[content_hash(job.spec.pictures[1].pixels)]
    assert float(own.anomaly_map.max()) < 0.1 * own.limit
    assert "one.png" in words(settled(app(PAGE, source="upload", job=job.id), two_images.KIND))  # by its link
    at.button(key="swap_sides").click()
    at = settled(sound(at.run()), two_images.KIND)
    assert [p.name for p in job_of(at, two_images.KIND).spec.references] == ["third.png", "one-again.png"]


def test_without_an_identity_net_the_page_says_so(weights) -> None:  # noqa: F811
    save_part("young", f_net=load_bundle(SHIPPED).f_net, size=SIZE)
    save_part(SHIPPED, without=("identity",))
    at = page(bundle="young")
    (error,) = at.error
    assert "identity U-Net" in error.value
