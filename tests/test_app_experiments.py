"""The page Experiments through Streamlit's AppTest, on a bundle of random weights at 32 px."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
import tiny
from streamlit.testing.v1 import AppTest
from test_app import (  # noqa: F401 (some are fixtures)
    SIZE,
    app,
    job_of,
    made,
    no_leftovers,
    settled,
    sound,
    weights,
    words,
)

from anounet.anogan import SearchSettings
from anounet.app import reports, texts
from anounet.app.jobs import CANCELLED, DONE
from anounet.bundle import SHIPPED, load_bundle, save_part
from anounet.experiments import (
    FILE,
    PICTURE,
    TITLES,
    ExperimentSettings,
    Report,
    experiment,
    findings,
    methods,
    run,
    save_report,
    what_was_found,
)
from anounet.experiments.findings import SENTENCES
from anounet.images import png_bytes
from anounet.prepare import DataChoice, describe
from anounet.presets import PRESETS
from anounet.visualization import drain

PAGE = "pages/5_experiments.py"


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure of few images, and a search of few steps."""
    whole = ExperimentSettings
    monkeypatch.setattr(methods, "SearchSettings", lambda: SearchSettings(steps=2))
    monkeypatch.setattr(
        reports, "ExperimentSettings", lambda **given: whole(**{"images": 6, "refine": 1} | given)
    )


@pytest.fixture(scope="module")
def measured(made: Path) -> Report:  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOUNET_WEIGHTS", str(made))
        settings = ExperimentSettings(images=6, article_images=0, anogan_images=0, refine=1)
        command = f"python -m anounet experiment {SHIPPED} --save"
        chosen = experiment(SHIPPED)
        return drain(run(chosen, load_bundle(SHIPPED, "cpu"), settings, command=command)).report


def page(**query: str) -> AppTest:
    return app(PAGE, **({"experiment": SHIPPED} | query))


def done(at: AppTest) -> AppTest:
    return settled(at, reports.FIGURE)


def test_what_was_measured_is_there_at_once(weights: Path, measured: Report) -> None:  # noqa: F811
    save_report(measured, png_bytes(tiny.pixels(1)[0].permute(1, 2, 0).numpy()))
    at = page()
    said = words(at)
    assert measured.command in said and measured.made[:10] in said
    assert findings(measured).split(".")[0] in said
    methods_table, changed = (element.value for element in at.dataframe)
    assert list(methods_table["Method"]) == [texts.label(TITLES[row.method]) for row in measured.rows]
    assert "AUROC, score" in methods_table and "Ratio" in changed
    assert "other weights" not in said
    assert len(at.get("image")) == 1
    save_part(SHIPPED, identity=load_bundle(SHIPPED).identity, meta={"made": "anew"})
    assert "has other weights now" in words(page())


def test_what_is_here_is_chosen_first(weights: Path) -> None:  # noqa: F811
    assert app(PAGE).selectbox(key="experiment").value == SHIPPED


def test_without_numbers_the_command_that_makes_them_is_named(weights: Path) -> None:  # noqa: F811
    assert f"python -m anounet experiment {SHIPPED} --save" in words(page())
    assert not page().dataframe


def test_a_damaged_report_is_named_and_the_page_goes_on(weights: Path) -> None:  # noqa: F811
    (weights / SHIPPED / FILE).write_text('{"format": 1}', encoding="utf-8")
    at = done(page())
    assert any("is damaged" in element.value for element in at.error)
    assert "Instant" in words(at)


def test_the_figure_s_images_are_computed_by_a_job(weights: Path) -> None:  # noqa: F811
    at = done(page())
    job = job_of(at, reports.FIGURE)
    assert job.state == DONE, job.error
    picks = at.pills(key=f"pick_{SHIPPED}_{SHIPPED}")
    assert picks.options[0] == "Anomalous, 1 %" and picks.options[-1] == "Normal, 99 %"
    said = words(at)
    assert "F’s score" in said and "Instant, refined" in said and "AnoGAN" not in said
    assert said.count("data:image/png") == 2 + 2 * len(
        [d for d in job.result.figure[0].drawn.values() if d.normalised is not None]
    )
    picks.set_value(len(picks.options) - 1)
    assert words(sound(at.run())) != said
    assert job_of(at, reports.FIGURE) is job


def test_it_is_measured_anew_on_the_visitor_s_choice(weights: Path, measured: Report) -> None:  # noqa: F811
    save_report(measured)
    at = done(page())
    assert "About" in words(at) and "at the pace of the run above" in words(at)
    at.number_input(key="experiment_images").set_value(4)
    at.number_input(key="experiment_anogan").set_value(2)
    sound(at.run())
    at.button(key="run_experiment").click()
    settled(sound(at.run()), reports.RUN)
    job = job_of(at, reports.RUN)
    assert job.state == DONE, job.error
    report = job.result.report
    assert (report.normals, report.anomalies) == (4, 4) and report.row("anogan").normals == 2
    said = words(at)
    assert "by this page" in said and "4 + 4 test images" in said
    assert len(at.dataframe) == 4
    assert "AnoGAN" in "".join(element.proto.body for element in at.get("html"))  # now in the figure too


def test_a_run_can_be_stopped(weights: Path) -> None:  # noqa: F811
    at = done(page())
    at.number_input(key="experiment_images").set_value(1000)
    sound(at.run())
    at.button(key="run_experiment").click()
    sound(at.run())
    job = job_of(at, reports.RUN)
    at.button(key=f"stop_{reports.RUN}").click()
    sound(at.run())
    assert job.wait(60) and job.state == CANCELLED
    assert "Stopped before it was finished" in words(sound(at.run()))


def test_missing_data_is_said_and_missing_bundles_are_told_how_to_make(weights: Path) -> None:  # noqa: F811
    said = words(page(experiment="cifar10-horse"))
    assert "python -m anounet prepare --preset cifar10-horse --train-fnet" in said.replace("\\", "")
    preset = PRESETS["cifar10-horse"]
    choice = DataChoice("cifar10", preset.normal, preset.exclude, size=SIZE)
    save_part("cifar10-horse", f_net=tiny.f_net(), **describe(choice))
    said = words(page(experiment="cifar10-horse"))
    assert "needs the data set 'cifar10'" in said.replace("\\", "")


def test_a_variant_can_be_chosen(weights: Path, measured: Report) -> None:  # noqa: F811
    save_report(measured)
    assert not [each for each in page().segmented_control if each.key == "variant"]
    net = tiny.f_net(1)
    save_part(f"{SHIPPED}-robust", f_net=net, **describe(DataChoice(size=SIZE)))
    save_part(f"{SHIPPED}-robust", center=tiny.center(net))
    at = done(page())
    assert "Measured on" in words(at)
    at.segmented_control(key="variant").set_value("robust")
    at = done(sound(at.run()))
    assert "Measured on" not in words(at)
    assert job_of(at, reports.FIGURE).spec.bundle == f"{SHIPPED}-robust"


def test_other_bundles_with_numbers_are_experiments_too(weights: Path, measured: Report) -> None:  # noqa: F811
    assert reports.experiment_names() == list(PRESETS)
    for name in ("parts", f"{SHIPPED}-robust"):
        save_part(name, f_net=tiny.f_net(), **describe(DataChoice(size=SIZE)))
        kept = measured.to_json() | {"bundle": name, "experiment": name}
        (weights / name / FILE).write_text(json.dumps(kept), encoding="utf-8")
    assert reports.experiment_names() == [*PRESETS, "parts"]
    assert measured.command in words(page(experiment="parts"))
    assert not (weights / SHIPPED / PICTURE).exists()


def test_what_was_found_is_said_in_japanese_too(weights: Path, measured: Report) -> None:  # noqa: F811
    save_report(measured, png_bytes(tiny.pixels(1)[0].permute(1, 2, 0).numpy()))
    said = words(page(lang="ja"))
    assert "Ano-Unet（" in said and "倍変化させます" in said and "テスト画像" in said
    assert "anomalous" not in said
    with texts.speaking("ja"):
        told = reports._told(measured)
    numbers = [part for sentence in what_was_found(measured) for part in sentence.values.values()]
    assert numbers and all(number in told for number in numbers)


def test_every_sentence_is_there_in_every_language() -> None:
    for key, sentence in SENTENCES.items():
        names = {part[1] for part in string.Formatter().parse(sentence) if part[1]}
        for language in texts.LANGUAGES:
            with texts.speaking(language):
                said = texts.label(f"said.{key}")
            assert {part[1] for part in string.Formatter().parse(said) if part[1]} == names, (key, language)
