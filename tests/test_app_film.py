"""The film on a result's card, through Streamlit's AppTest, on a bundle of random weights at 32 px."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from test_app import (  # noqa: F401 (some are fixtures)
    PAGES,
    app,
    made,
    no_leftovers,
    settled,
    sound,
    weights,
    words,
)

from anounet import explore
from anounet.app import film, models
from anounet.app.jobs import CANCELLED, DONE, Job
from anounet.bundle import SHIPPED, save_part

PAGE = PAGES[3]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images in feature space, and nothing kept from the test before."""
    for name in ("NORMALS", "REFERENCES", "ANOMALIES"):
        monkeypatch.setattr(explore, name, 9)
    monkeypatch.setattr(film, "PATIENCE", 60.0)
    models.films.clear()
    models.feature_cloud.clear()


def page(**query: str) -> AppTest:
    return settled(app(PAGE, rival="false", all="true", **query))


def click(at: AppTest, number: int = 0) -> AppTest:
    at.button(key=f"film_{number}").click()
    return sound(at.run())


def played(at: AppTest) -> list[dict[str, Any]]:
    """What each player on the page was given."""
    components = [e.proto for e in at.get("bidi_component")]
    return [json.loads(proto.json) for proto in components if proto.component_name == "anounet.film"]


def asked(at: AppTest) -> list[str]:
    """The films that the link names."""
    names = at.query_params[film.ASKED]
    return [names] if isinstance(names, str) else list(names)


def film_job(at: AppTest) -> Job:
    (name,) = asked(at)
    job = models.jobs().get(name)
    assert job is not None
    return job


def buttons(at: AppTest) -> list[str]:
    return [button.key for button in at.button if (button.key or "").startswith("film_")]


def test_a_film_is_offered_made_and_played(weights: Path) -> None:  # noqa: F811
    at = page()
    assert "about" in at.button(key="film_0").label and not played(at)
    at = click(at)
    job = film_job(at)
    assert job.state == DONE, job.error
    (sent,) = played(at)
    assert not buttons(at) and len(sent["frames"]) == len(sent["way"]) >= 2
    assert sent["normal"] and sent["images"].startswith("data:image/webp;base64,")
    said = words(at)
    assert "answers in a single pass" in said and "Fast (local C)" in said
    assert film.t("film.download") in [button.proto.label for button in at.get("download_button")]


def test_another_view_computes_nothing_anew(
    weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = click(page(mode="fast"))
    before, job = played(at), film_job(at)
    monkeypatch.setattr(film.filming, "make", lambda *given: pytest.fail("it was there"))
    at.segmented_control(key="level").set_value("off")
    at = sound(at.run())
    assert played(at) == before and film_job(at) is job
    assert job.spec is None and len(models.films()) == 1
    assert "answers in a single pass" not in words(at)  # it is the very optimisation of the result


def test_a_refresh_finds_the_film_and_others_are_not_shown_it(weights: Path) -> None:  # noqa: F811
    at = click(page())
    again = page(film=asked(at)[0])
    assert played(again) == played(at)
    other = page()
    assert not played(other) and other.button(key="film_0").label == film.t("film.title")
    assert played(click(other)) == played(at)  # at once: it is kept
    models.films.clear()
    assert played(page(film=asked(at)[0]))  # and made again, where it no longer is


def test_a_film_that_was_stopped_says_so_and_can_be_made_again(
    weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(film, "PATIENCE", 0.0)
    at = click(page(mode="fast", steps="640", beta="4"))
    job = film_job(at)
    at.button(key=f"stop_film_{job.id}").click()
    sound(at.run())
    assert job.wait(60) and job.state == CANCELLED
    at = sound(at.run())
    assert "Stopped" in words(at) and buttons(at) == ["film_0"] and not played(at)


def test_what_is_no_longer_asked_for_is_stopped(
    weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(film, "PATIENCE", 0.0)
    at = click(page(mode="fast", steps="640"))
    job = film_job(at)
    assert job.active
    at.segmented_control(key="mode").set_value("instant")
    at = sound(at.run())
    assert job.wait(60) and job.state == CANCELLED
    assert buttons(at) == ["film_0"]


def test_article_mode_says_how_long_it_takes_and_waits_for_a_click(weights: Path) -> None:  # noqa: F811
    at = app(PAGE, rival="false", all="true", mode="article")
    at.button(key="start").click()
    at = settled(sound(at.run()))
    assert "about" in at.button(key="film_0").label
    at = click(at)
    assert film_job(at).wait(60)
    (sent,) = played(sound(at.run()))
    assert len(sent["frames"]) == 3
    models.films.clear()
    opened = sound(app(PAGE, rival="false", all="true", mode="article", film=asked(at)[0]))
    assert buttons(opened) == ["film_0"] and not played(opened)


def test_two_films_are_on_their_way_at_once(
    weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(film, "PATIENCE", 0.0)
    at = settled(app(PAGE, rival="false", samples=["scratch", "blob"]))
    at = click(click(at, 0), 1)
    jobs = [models.jobs().get(name) for name in asked(at)]
    assert len(jobs) == 2
    assert all(job.wait(60) and job.state == DONE for job in jobs)
    assert len(played(sound(at.run()))) == 2


def test_without_its_parts_no_film_is_offered_or_refining_is_shown(weights: Path) -> None:  # noqa: F811
    save_part(SHIPPED, without=("identity",))
    at = click(page())
    (sent,) = played(at)
    assert "refining steps" in words(at) and sent["texts"]["heatNote"] == film.label("map.combined")
    save_part(SHIPPED, without=("center",))
    assert not buttons(page())
