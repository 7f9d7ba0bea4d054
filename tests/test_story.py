"""The page How it works: what each step shows is computed and right, and the steps can be gone through."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from streamlit.testing.v1 import AppTest
from test_app import (  # noqa: F401 (some are fixtures)
    PATIENCE,
    ROOT,
    SIZE,
    app,
    made,
    no_leftovers,
    sound,
    weights,
    words,
)

from anounet.app import models, story
from anounet.app.jobs import FAILED, Job, JobCancelled, job_id
from anounet.app.results import ResultCache
from anounet.app.texts import speaking, t
from anounet.app.work import story as work
from anounet.bundle import SHIPPED, Bundle, load_bundle
from anounet.center import features_of
from anounet.datasets import DataError
from anounet.explore import alone
from anounet.optimize import Step
from anounet.prepare import choice_of
from anounet.visualization import visualize_many

PAGE = "pages/8_how_it_works.py"
NAMES = tuple(work.PIECES)
FACT = '<p class="au-fact">'


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few images, a short search, and nothing kept from the test before."""
    whole = work.SearchSettings
    monkeypatch.setattr(work, "SearchSettings", lambda: whole(steps=3))
    monkeypatch.setattr(work, "IMAGES", 10)
    models.stories.clear()
    yield
    models.jobs().shutdown()


def no_cloud() -> None:
    raise DataError("The data set is not here.")


def told(bundle: Bundle, first: str = "", only: tuple[str, ...] = NAMES) -> tuple[dict[str, work.Piece], Job]:
    """The pieces of a story, without the app."""
    cache = ResultCache(work.MAX_BYTES, work.size_of)
    for name in set(NAMES) - set(only):
        cache.put(work.kept_as("v", name), work.Piece())
    job = Job("story", "story", "", lambda job: None)
    choice = choice_of(dict(bundle.info) | {"size": bundle.size})
    work.tell(job, "v", cache, lambda: bundle, lambda _: choice, no_cloud, first)
    found = {name: cache.get(work.kept_as("v", name)) for name in only}
    return {name: piece for name, piece in found.items() if piece is not None}, job


@pytest.fixture
def opened(weights: Path) -> Bundle:  # noqa: F811
    return load_bundle(SHIPPED, "cpu")


def ready(at: AppTest) -> AppTest:
    """Runs the page until the step's pictures are there."""
    deadline = time.monotonic() + PATIENCE
    while FACT not in words(at):
        assert time.monotonic() < deadline, words(at)
        time.sleep(0.1)
        at = sound(at.run())
    return at


# --- the work ----------------------------------------------------------------------------------------


def test_every_piece_is_computed_and_the_same_seed_gives_the_same_pictures(opened: Bundle) -> None:
    pieces, job = told(opened)
    assert tuple(pieces) == NAMES and not job.faults
    assert job.progress.done == job.progress.milestones == len(NAMES)
    assert [slide.piece for slide in story.SLIDES] == list(NAMES)
    again, _ = told(opened, first="many")  # in another order
    for name, piece in pieces.items():
        for key, pixels in piece.pictures.items():
            assert pixels.dtype == np.uint8 and (pixels == again[name].pictures[key]).all(), (name, key)
    assert sum(map(work.size_of, pieces.values())) < work.MAX_BYTES


def test_the_image_is_the_one_of_the_median_score(opened: Bundle) -> None:
    pieces, _ = told(opened, only=("question", "score"))
    score = pieces["score"]
    values = np.sort(score.series["anomalous"])
    assert score.numbers["sample"] == pytest.approx(values[(len(values) - 1) // 2], rel=1e-5)
    limit = opened.center.threshold
    assert score.numbers["found"] == (values > limit).sum() and 0 <= score.numbers["auroc"] <= 1
    x = torch.from_numpy(pieces["question"].pictures["x"]).permute(2, 0, 1).float() / 255
    assert float(opened.center.score(features_of(opened.f_net, x[None]))) == pytest.approx(
        score.numbers["sample"], rel=1e-4
    )
    (result,) = visualize_many([x], opened)
    assert pieces["question"].numbers["ratio"] == pytest.approx(result.score / result.threshold, rel=1e-3)


def test_one_term_alone_minimises_it_and_nothing_else(opened: Bundle) -> None:
    settings = opened.settings("fast", center="global", steps=12)
    x = tiny.defective(1)[0]
    last: dict[str, Step] = {}
    for term in ("L_R", "L_C"):
        steps = list(alone(x, opened, settings, term))
        assert len(steps) == 13 and all(float(s.losses["L"]) == float(s.losses[term]) for s in steps)
        again = list(alone(x, opened, settings, term))[-1]
        assert torch.equal(again.image, steps[-1].image)
        last[term] = steps[-1]
    assert last["L_R"].losses["L_R"] < last["L_C"].losses["L_R"]
    assert last["L_C"].losses["L_C"] < last["L_R"].losses["L_C"]
    for term, mode in (("L", "fast"), ("L_C", "article")):
        with pytest.raises(ValueError, match="alone"):
            alone(x, opened, opened.settings(mode), term)
    with pytest.raises(ValueError, match="takes images"):
        alone(x[:, :8], opened, settings, "L_R")


@pytest.mark.skipif(not (ROOT / "weights" / SHIPPED).is_dir(), reason="the shipped bundle is not here")
def test_the_shipped_bundle_tells_the_story_that_the_words_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "IMAGES", 60)  # as it is shown
    bundle = load_bundle(SHIPPED, "cpu")
    names = ("score", "mean", "residual", "centering", "beta", "path", "local")
    pieces, job = told(bundle, only=names)
    assert tuple(pieces) == names and not job.faults
    residual, centering = pieces["residual"].numbers, pieces["centering"].numbers
    assert residual["all"] < 0.2 and residual["all"] < centering["all"] / 10
    assert residual["score"] == pytest.approx(residual["before"], rel=0.02) and centering["score"] < 1
    beta = pieces["beta"].numbers
    assert beta["outside 0"] < beta["outside 1"] < beta["outside 2"]
    assert beta["inside 0"] < beta["inside 1"]
    assert pieces["mean"].numbers["normal"] < 1 < pieces["mean"].numbers["sample"]
    path = pieces["path"].numbers
    assert path["before"] > 1 > path["after"] and 0 < path["satisfied"] < path["steps"]
    local = pieces["local"].numbers
    assert local["ap distance"] > local["ap pooled"] and local["found distance"] > local["found pooled"]
    assert pieces["score"].numbers["auroc"] > 0.8


def test_a_piece_that_fails_is_named_and_the_others_go_on(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(story: object) -> work.Piece:
        raise ValueError("It diverged: use a smaller learning rate.")

    monkeypatch.setitem(work.PIECES, "residual", broken)
    pieces, job = told(opened)
    assert set(pieces) == set(NAMES) - {"residual"}
    assert job.faults == {"residual": "It diverged: use a smaller learning rate."}


def test_what_somebody_waits_for_comes_first_and_a_stop_keeps_what_is_there(opened: Bundle) -> None:
    class Cache(ResultCache):
        def put(self, key: str, piece: work.Piece) -> None:
            super().put(key, piece)
            job.cancel()

    cache = Cache(work.MAX_BYTES, work.size_of)
    job = Job("story", "story", "", lambda job: None)
    job.state = "running"
    choice = choice_of(dict(opened.info) | {"size": SIZE})
    with pytest.raises(JobCancelled):
        work.tell(job, "v", cache, lambda: opened, lambda _: choice, no_cloud, "local")
    assert work.missing("v", cache) == [name for name in NAMES if name != "local"]


def test_measured_figures_are_those_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = json.loads((ROOT / "benchmarks/results/speed-textures-streaks.json").read_text())["methods"]
    seconds = {row["method"]: row["seconds"] for row in measured}
    for method, shown in story.SPEED.items():
        assert shown == pytest.approx(seconds[method], rel=0.01)
    said = re.search(r"`instant` is ([\d,]+) times faster than AnoGAN's search and ([\d,]+) times", readme)
    assert [int(n.replace(",", "")) for n in said.groups()] == list(story.FASTER.values())
    textures, star = readme.index("**On textures**"), readme.index("**What the map finds on DAGM")
    for start, (ours, nearest) in ((textures, story.FOUND["textures"]), (star, story.FOUND["star"])):
        table = readme[start : start + 2500]
        assert f"**{ours:.3f}**" in re.search(r"\| `instant` \|.*", table)[0]
        assert f"| {nearest:.3f}" in re.search(r"\| nearest patch, coreset.*", table)[0]
    table = readme[readme.index("### DAGM's star texture") :]
    pooled, patches = (f"| {value:.3f} |" for value in story.SCRATCHES)
    assert pooled in re.search(r"\| F's score \|.*", table)[0]
    assert patches in re.search(r"\| distance to local centres.*", table)[0]


# --- the page ----------------------------------------------------------------------------------------


def test_every_step_is_shown_in_both_languages(weights: Path) -> None:  # noqa: F811
    titles = set()
    for number, slide in enumerate(story.SLIDES, 1):
        for language in ("en", "ja"):
            at = ready(app(PAGE, step=str(number), lang=language))
            with speaking(language):
                assert at.title[0].value == str(slide.title())
            said = words(at)
            assert f"{number} / 12" in said and not at.error and not at.warning
            assert all(chart.proto.alt for chart in at.get("plotly_chart"))
            assert all('alt=""' not in part for part in re.findall(r"<img[^>]*>", said))
            titles.add(at.title[0].value)
    assert len(titles) == 2 * len(NAMES)
    job = models.jobs().get(job_id(f"story {models.version_of(SHIPPED)}"))
    assert job.progress.milestones == len(NAMES)  # one job, once for everybody


def test_next_and_back_and_what_the_link_says(weights: Path) -> None:  # noqa: F811
    at = app(PAGE)
    assert at.title[0].value == t("story.question.title")
    assert at.button(key="story_back").disabled and not at.button(key="story_next").disabled
    at.button(key="story_next").click()
    at = sound(at.run())
    assert at.title[0].value == t("story.score.title") and at.query_params["step"] == "2"
    at.button(key="story_back").click()
    at = sound(at.run())
    assert at.title[0].value == t("story.question.title") and at.query_params["step"] == "1"
    at = app(PAGE, step="12")
    assert at.title[0].value == t("story.instant.title") and at.button(key="story_next").disabled


@pytest.mark.parametrize(
    ("asked", "shown"),
    [("0", 1), ("-3", 1), ("99", 12), ("3.9", 3), ("nan", 1), ("inf", 12), ("x", 1), ("", 1)],
)
def test_a_bad_step_is_brought_into_its_range(weights: Path, asked: str, shown: int) -> None:  # noqa: F811
    at = app(PAGE, step=asked)
    assert at.title[0].value == str(story.SLIDES[shown - 1].title())


def test_a_step_that_failed_says_why(
    weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(story: object) -> work.Piece:
        raise ValueError("It diverged: use a smaller learning rate.")

    monkeypatch.setitem(work.PIECES, "question", broken)
    at = app(PAGE)
    deadline = time.monotonic() + PATIENCE
    while not at.error:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        at = sound(at.run())
    assert "It diverged" in at.error[0].value
    at.button(key="story_next").click()
    at = ready(sound(at.run()))
    at.button(key="story_back").click()
    at = sound(at.run())
    assert "It diverged" in at.error[0].value
    monkeypatch.undo()
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(weights))
    at.button(key=story.AGAIN).click()
    assert not ready(sound(at.run())).error


def test_a_job_that_failed_is_not_begun_anew_by_itself(
    weights: Path,  # noqa: F811
) -> None:
    (weights / SHIPPED / "f_net.pt").write_bytes(b"no weights")
    at = app(PAGE)
    deadline = time.monotonic() + PATIENCE
    while not at.error:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        at = sound(at.run())
    job = models.jobs().get(job_id(f"story {models.version_of(SHIPPED)}"))
    assert "damaged or foreign" in at.error[0].value and job.state == FAILED
    sound(at.run())
    assert models.jobs().get(job.id) is job
    at.button(key=story.AGAIN).click()
    sound(at.run())
    assert models.jobs().get(job.id) is not job


def test_home_leads_there(weights: Path) -> None:  # noqa: F811
    said = [link.proto.label for link in app().get("page_link")]
    assert str(t("home.go_story")) in said
