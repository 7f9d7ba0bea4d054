"""The app in its languages: no text is missing, and a change of language changes nothing else."""

from __future__ import annotations

import pickle
import re
import string
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from test_app import PATIENCE, ROOT, app, made, no_leftovers, settled, sound, weights, words  # noqa: F401

from anounet.app import english, inputs, japanese, languages, models, routing, texts
from anounet.app.jobs import Job, JobManager
from anounet.app.texts import again, label, speaking, t
from anounet.presets import PRESETS

JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
WORD = re.compile(r"[A-Za-z]{3,}")
# What Japanese engineers write as it is: names, and what stands in formulas and code.
AS_IT_IS = {"Ano", "Unet", "AnoGAN", "Net", "CIFAR", "Fashion", "MNIST", "Inferno", "Jet", "abs", "cos"}


@pytest.fixture(autouse=True)
def nobody_asks() -> Iterator[None]:
    yield
    texts.ask(lambda: None)


def opened(page: str, locale: str = "", **query: str) -> AppTest:
    """A page through the entrypoint; AppTest alone would run the page's file by itself."""
    at = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=PATIENCE)
    at.query_params.update(query)
    if locale:
        at.context["locale"] = locale
    at.session_state[routing._TARGET] = page
    return sound(at.run())


def in_japanese(key: str, **values: object) -> str:
    with speaking("ja"):
        return str(t(key, **values))


def fields(text: str) -> list[tuple[str, str | None, str | None]]:
    return sorted((name, spec, how) for _, name, spec, how in string.Formatter().parse(text) if name)


# --- the tables --------------------------------------------------------------------------------------


def test_both_languages_have_the_same_keys_and_values() -> None:
    assert english.TEXTS.keys() == japanese.TEXTS.keys()
    assert english.LABELS.keys() == japanese.LABELS.keys()
    for key, text in english.TEXTS.items():
        assert fields(text) == fields(japanese.TEXTS[key]), key


def test_no_text_was_left_in_english() -> None:
    for key, text in (japanese.TEXTS | japanese.LABELS).items():
        bare = re.sub(r"\{[^}]*\}|`[^`]*`", "", text)
        strange = set(WORD.findall(bare)) - AS_IT_IS
        assert JAPANESE.search(text) or not strange, f"{key}: {text}"


def test_code_and_bold_are_as_in_english() -> None:
    for key, text in english.TEXTS.items():
        other = japanese.TEXTS[key]
        for code in re.findall(r"`[^`]*`", text):
            assert code in other, key
        assert other.count("**") == text.count("**"), key
        # Markdown ends bold after a full stop or a bracket only where no letter follows.
        pieces = other.split("**")
        for bold, after in zip(pieces[1::2], pieces[2::2], strict=True):
            assert bold[-1] not in "。、？！：」）" or not after.strip() or after[0].isspace(), key


def test_presets_have_names() -> None:
    for name, preset in PRESETS.items():
        assert english.LABELS[f"preset.{name}"] == preset.title


# --- which language ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        ("ja", "ja"),
        ("ja-JP", "ja"),
        ("JA_jp", "ja"),
        ("en-GB", "en"),
        ("jam", "en"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_the_browser_s_language(locale: str | None, language: str) -> None:
    assert languages.of_browser(locale) == language


def test_link_and_browser_choose_the_language(weights: Path) -> None:  # noqa: F811
    page, key = "explore", "explore.title"
    assert opened(page).title[0].value == t(key)
    assert opened(page, lang="ja").title[0].value == in_japanese(key) != t(key)
    browser = opened(page, locale="ja-JP")
    assert browser.title[0].value == in_japanese(key)
    assert "lang" not in browser.query_params  # a link from there opens in its reader's language
    assert opened(page, locale="ja-JP", lang="en").title[0].value == english.TEXTS[key]
    assert opened(page, lang="xx").title[0].value == english.TEXTS[key]


def choices() -> None:
    """A page with one widget of each kind."""
    import streamlit as st

    from anounet.app import inputs, languages
    from anounet.app.texts import label, t

    languages.begin()
    languages.switch()
    st.title(t("visualise.title"))
    names = ["combined", "residual", "distance"]
    inputs.accept_plain("map", names, inputs.map_label)
    st.selectbox("Map", names, key="map", bind="query-params", format_func=inputs.map_label)
    inputs.choose_one("Level", "level", ("limit", "scale", "off"), inputs.threshold_label)
    inputs.accept_plain("samples", ["good", "scratch", "scratch-2"], label)
    st.pills(
        "Samples",
        ["good", "scratch", "scratch-2"],
        selection_mode="multi",
        format_func=label,
        key="samples",
        bind="query-params",
    )
    st.multiselect("Left out", ["wood", "marble"], key="exclude", format_func=label)
    st.pills("Number", [0, 1, 2], key="number", format_func=lambda n: t("settings.preset", beta=1, steps=n))
    inputs.bound_number("Steps", "steps", 1, 100, 20, 1)
    st.toggle("On", key="on", bind="query-params")
    st.button("Go", key="go")
    st.file_uploader("Files", key="files", accept_multiple_files=True)


def test_the_switch_keeps_what_is_chosen_and_the_link() -> None:
    at = AppTest.from_function(choices, default_timeout=PATIENCE)
    at.query_params.update(samples=["good", "scratch-2"], steps="7", on="true", other="kept")
    sound(at.run())
    at.selectbox(key="map").set_value("distance")
    at.button_group(key="level").set_value("off")
    at.multiselect(key="exclude").set_value(["marble"])
    at.button_group(key="number").set_value(2)
    sound(at.run())
    keys = ("map", "level", "samples", "exclude", "number", "steps", "on")
    before = {key: at.session_state[key] for key in keys}
    assert list(before.values()) == ["distance", "off", ["good", "scratch-2"], ["marble"], 2, 7, True]
    for language in ("ja", "en"):
        at.button_group(key=languages.SWITCH).set_value(language)
        with speaking(
            "en" if language == "ja" else "ja"
        ):  # AppTest itself names what is chosen, as a browser does
            sound(at.run())
        for _ in range(2):  # and it stays so
            known, labels = texts.LANGUAGES[language]
            assert at.title[0].value == known["visualise.title"]
            assert {key: at.session_state[key] for key in keys} == before
            assert at.query_params["lang"] == language
            assert at.query_params["other"] == "kept"
            assert at.query_params["map"] == labels["map.distance"]
            with speaking(language):
                sound(at.run())


@pytest.mark.parametrize(("link", "reader"), [("en", "ja"), ("ja", "en")])
def test_a_link_opens_the_same_in_another_language(link: str, reader: str, weights: Path) -> None:  # noqa: F811
    with speaking(link):
        asked = {"mode": label("fast"), "map": label("map.distance"), "level": label("threshold.off")}
    at = opened("visualise", lang=reader, steps="3", beta="7", **map_str(asked))
    assert at.session_state["mode"] == "fast"
    assert at.selectbox(key="map").value == "distance"
    assert at.session_state["level"] == "off"
    assert (at.session_state["steps"], at.session_state["beta"]) == (3, 7.0)


def map_str(values: dict[str, str]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


@pytest.mark.parametrize("page", ["f_net", "center", "two_images"])
def test_pages_run_in_japanese(page: str, weights: Path) -> None:  # noqa: F811
    at = opened(page, lang="ja")
    assert JAPANESE.search(words(at))
    assert not at.error


# --- texts of jobs -----------------------------------------------------------------------------------


def test_a_job_s_texts_are_in_the_language_of_who_looks() -> None:
    def work(job: Job) -> None:
        job.stage(t("job.rival", rival=label("decoder")))

    with speaking("ja"):
        job = JobManager().submit("key", "kind", t("train.job", name="x"), work)
        assert job.label == in_japanese("train.job", name="x")
    assert job.wait(PATIENCE)
    assert again(job.label) == english.TEXTS["train.job"].format(name="x")
    assert again(job.progress.message) == english.LABELS["decoder"]
    with speaking("ja"):
        assert again(job.progress.message) == japanese.LABELS["decoder"]
        assert again(pickle.loads(pickle.dumps(deepcopy(job.label)))) == job.label
        assert again("horse") == "horse"  # what is no text of the app stays as it is


def test_names_of_numbers_and_strangers() -> None:
    with speaking("ja"):
        assert label("scratch-2") == f"{japanese.LABELS['scratch']} 2"
        assert label("my_class") == "My class"
    assert inputs.in_every_language(label, "scratch") == {"Scratch", japanese.LABELS["scratch"]}
    assert models.jobs() is not None
