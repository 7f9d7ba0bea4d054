"""The page Explore through Streamlit's AppTest, on a bundle of random weights at 32 px."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
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

from anounet import explore
from anounet.app import exploring, models, texts
from anounet.app.jobs import CANCELLED, DONE
from anounet.app.work import exploring as work
from anounet.bundle import SHIPPED, load_bundle, save_part
from anounet.prepare import DataChoice, describe

PAGE = "pages/6_explore.py"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images in the picture, few steps in the grid, and nothing kept from the test before."""
    for name in ("NORMALS", "REFERENCES", "ANOMALIES"):
        monkeypatch.setattr(explore, name, 9)
    monkeypatch.setattr(exploring, "MOST_STEPS", {"fast": ("4", "8"), "article": ("2", "4")})
    monkeypatch.setattr(exploring, "USUAL_STEPS", {"fast": "4", "article": "2"})
    models.explored.clear()


def page(**query: str) -> AppTest:
    return app(PAGE, **query)


def charts(at: AppTest) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def values(packed: Any) -> np.ndarray:
    """Numbers of a specification, where Plotly packs arrays."""
    if not isinstance(packed, dict):
        return np.asarray(packed, float)
    found = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"])
    return found.reshape([int(n) for n in packed["shape"].split(",")]) if "shape" in packed else found


def numbers(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def choose_betas(at: AppTest, *betas: str) -> AppTest:
    at.pills(key="betas_fast").set_value(list(betas))
    return settled(sound(at.run()), exploring.GRID)


# --- feature space -----------------------------------------------------------------------------------


def test_both_paths_and_the_picture_are_there_without_a_click(weights: Path) -> None:  # noqa: F811
    at = settled(page(image="scratch"), exploring.SPACE)
    job = job_of(at, exploring.SPACE)
    assert job.state == DONE, job.error
    chosen, normal = (models.explored().get(job.spec.kept_as(p)) for p in job.spec.pictures)
    said = words(at)
    assert f"**Scratch** travels {chosen.travelled:.4f}" in said
    assert f"**No defect** travels {normal.travelled:.4f}" in said
    assert "normal images and reference classes" in said and "Component" not in said
    whole, near, scores = charts(at)
    names = ["reference classes", "anomalies", "normal images", "C", "Scratch", "No defect"]
    assert [trace["name"] for trace in whole["data"]] == [trace["name"] for trace in near["data"]] == names
    assert len(values(whole["data"][4]["x"])) == 3  # steps + 1
    assert values(scores["data"][0]["y"]) == pytest.approx(chosen.scores, abs=1e-6)
    limit = load_bundle(SHIPPED, "cpu").center.threshold
    assert scores["layout"]["shapes"][0]["y0"] == pytest.approx(limit)
    assert all(c.proto.alt for c in at.get("plotly_chart"))
    assert said.count("data:image/png") == 10 + 4


def test_other_settings_make_another_path_and_the_same_ones_are_kept(weights: Path) -> None:  # noqa: F811
    at = settled(page(image="scratch", path_steps="5"), exploring.SPACE)
    first = job_of(at, exploring.SPACE)
    assert first.spec.settings.steps == 5
    at.number_input(key="path_beta").set_value(80.0)
    at = settled(sound(at.run()), exploring.SPACE)
    assert job_of(at, exploring.SPACE).spec.settings.beta == 80.0
    at.number_input(key="path_beta").set_value(first.spec.settings.beta)
    at = sound(at.run())
    assert not first.spec.missing(models.explored())
    assert not at.get("progress")
    at = sound(page(image="scratch", path_steps="9999"))
    used = job_of(at, exploring.SPACE).spec.settings.steps
    assert used <= 200 and f"Steps lies between 1 and 200: {used} is used" in words(at)


def test_without_its_data_a_path_is_drawn_over_steps_alone(
    weights: Path,  # noqa: F811
) -> None:
    bundle = load_bundle(SHIPPED, "cpu")
    save_part("own", f_net=bundle.f_net, **describe(DataChoice("gone", "parts", size=SIZE)))
    save_part("own", center=bundle.center)
    at = page(bundle="own")
    assert "There are no samples" in words(at)
    at = page(bundle="own", source="upload")
    at.file_uploader[0].upload("part.png", png(noise(1)))
    at = settled(sound(at.run()), exploring.SPACE)
    said = words(at)
    assert "**part.png** travels" in said and "no normal test image" in said
    assert "Feature space can’t be drawn" in said
    assert len(at.get("plotly_chart")) == 1
    again = page(bundle="own", source="upload", job=job_of(at, exploring.SPACE).id)
    assert "**part.png** travels" in words(again)  # a refresh


# --- steps and β -------------------------------------------------------------------------------------


def test_a_grid_is_computed_shown_and_counted(weights: Path) -> None:  # noqa: F811
    at = settled(page(show="grid", image="scratch"), exploring.GRID)
    job = job_of(at, exploring.GRID)
    assert job.state == DONE, job.error
    settings = job.spec.settings
    assert settings.betas == (0.5, 5.0, 50.0, 500.0, 5000.0) and settings.steps == (1, 2, 4)
    cells = job.spec.cells(models.explored())
    assert len(cells) == 15 and job.progress.milestones == 15
    assert all(cell.inside is not None and cell.margin is None for cell in cells)
    said = words(at)
    assert f"satisfied in {sum(cell.satisfied for cell in cells)} of 15 cells" in said
    assert said.count("data:image/jpeg") == 30 and "no second classifier" in said
    score, change = charts(at)
    limit = load_bundle(SHIPPED, "cpu").center.threshold
    assert values(score["data"][0]["z"])[0, 0] == pytest.approx(cells[0].score / limit, abs=1e-4)
    assert values(change["data"][0]["z"])[4, 2] == pytest.approx(255 * cells[-1].outside, abs=1e-4)


def test_another_cell_is_only_another_view(weights: Path) -> None:  # noqa: F811
    at = settled(page(show="grid", image="scratch"), exploring.GRID)
    job, before = job_of(at, exploring.GRID), numbers(at)
    at.pills(key="cell_beta").set_value("500")
    at.pills(key="cell_steps").set_value("1")
    at = sound(at.run())
    cell = next(c for c in job.spec.cells(models.explored()) if (c.beta, c.steps) == (500.0, 1))
    assert numbers(at)["L_R"] == f"{cell.losses['L_R']:.4f}" != before["L_R"]
    assert numbers(at)["Change outside"] == f"{255 * cell.outside:.1f}"
    assert "Second classifier" not in numbers(at)
    assert job_of(at, exploring.GRID) is job and job.progress.milestones == 15
    assert words(at).count("au-chosen") == 2  # in the style, and the one cell


def test_rows_that_are_there_are_not_computed_again(weights: Path) -> None:  # noqa: F811
    at = choose_betas(settled(page(show="grid", image="scratch"), exploring.GRID), "0.5", "5")
    before = len(models.explored())
    assert words(at).count("data:image/jpeg") == 12
    assert not at.get("progress")
    at = choose_betas(at, "0.5", "5", "150")
    job = job_of(at, exploring.GRID)
    assert job.progress.total == 4 and job.progress.milestones == 3  # the new β alone
    assert len(models.explored()) == before + 1
    at = choose_betas(at)
    assert "the bundle’s own β, 50, is used" in words(at)


def test_the_same_grid_twice_is_one_job_and_a_refresh_finds_it(
    weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exploring, "PATIENCE", 0.0)
    monkeypatch.setattr(exploring, "MOST_STEPS", {"fast": ("640",), "article": ("2",)})
    monkeypatch.setattr(exploring, "USUAL_STEPS", {"fast": "640", "article": "2"})
    at = page(show="grid", image="scratch")
    job = job_of(at, exploring.GRID)
    assert job.active and job.id in at.query_params["job"]
    other = page(show="grid", image="scratch", job=job.id)
    assert job_of(other, exploring.GRID) is job and len(job.owners) == 2
    at.segmented_control(key="show").set_value("space")
    sound(at.run())
    assert job.active and not job.cancelled  # the other session waits for it
    other.button(key="stop_grid").click()
    sound(other.run())
    assert job.wait(60) and job.state == CANCELLED
    assert "Stopped" in words(sound(other.run()))
    assert other.button(key="start_grid").label == texts.t("visualise.again")


def test_article_mode_waits_for_a_click_and_says_how_long(weights: Path) -> None:  # noqa: F811
    at = page(show="grid", image="scratch", method="article", betas_article="80")
    assert "_job_grid" not in at.session_state
    assert "about" in at.button(key="start_grid").label
    assert work.estimated_seconds("article", 1000, cuda=False) == 250


def test_local_centres_have_a_beta_of_their_own(weights: Path) -> None:  # noqa: F811
    at = settled(page(show="grid", image="scratch", method="fast-local"), exploring.GRID)
    job = job_of(at, exploring.GRID)
    assert job.state == DONE and job.spec.settings.base.center == "local"
    assert job.spec.settings.betas == (0.03, 0.3, 3.0, 30.0, 300.0)


def test_the_second_classifier_s_word_is_shown(weights: Path) -> None:  # noqa: F811
    save_part(SHIPPED, classifier=tiny.classifier())
    at = settled(page(show="grid", image="scratch"), exploring.GRID)
    cells = job_of(at, exploring.GRID).spec.cells(models.explored())
    cell = next(c for c in cells if (c.beta, c.steps) == (50.0, 4))
    assert numbers(at)["Second classifier"] == f"{cell.margin:+.1f}"
    said = words(at)
    takes = "normal" if cell.margin > 0 else "anomalous"
    assert f"which G never saw, takes the image for {takes}" in said
    assert ("the change is not a real one" in said) is (cell.satisfied and cell.margin <= 0)
    assert len(at.get("plotly_chart")) == 3


def test_an_upload_has_no_mask(weights: Path) -> None:  # noqa: F811
    at = page(show="grid", source="upload")
    at.file_uploader[0].upload("part.png", png(noise(2)))
    at = settled(sound(at.run()), exploring.GRID)
    assert "Change outside" not in numbers(at) and "grey levels of 255 changed on average" in words(at)


# --- what is missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("show", exploring.SECTIONS)
def test_a_bundle_without_c_is_told_where_to_get_one(weights: Path, show: str) -> None:  # noqa: F811
    save_part("bare", f_net=tiny.f_net(), **describe(DataChoice(size=SIZE)))
    at = page(bundle="bare", show=show)
    assert "has no C for the whole image" in words(at)
    assert not at.get("plotly_chart") and not at.pills
    assert at.get("page_link")


def test_without_an_identity_net_there_is_article_mode_alone(weights: Path) -> None:  # noqa: F811
    save_part(SHIPPED, without=("identity",))
    at = page()
    assert "has no identity U-Net" in words(at) and not at.error
    at = page(show="grid")
    assert "Article mode can, more slowly" in words(at)
    assert at.segmented_control(key="method").options == ["Article"]


def test_nonsense_in_the_link_is_passed_over(weights: Path) -> None:  # noqa: F811
    at = page(
        show="grid", image="nothing", piece="x", betas_fast="-3", cell_beta="7", cell_steps="x", method="?"
    )
    assert not at.error
    settled(at, exploring.GRID)
    assert job_of(at, exploring.GRID).state == DONE
