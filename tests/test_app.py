"""The app through Streamlit's AppTest: a bundle of random weights at 32 px, so each run takes a moment."""

from __future__ import annotations

import ast
import io
import shutil
import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

from anounet.anogan import AnoGAN, AnoGANSettings, Discriminator, Generator
from anounet.app import figures, inputs, models, panels, texts, work
from anounet.app.jobs import CANCELLED, DONE, Job, JobManager
from anounet.bundle import SHIPPED, Bundle, load_bundle, read_info, save_part
from anounet.center import compute_center
from anounet.datasets import TextureSet
from anounet.feature_net import Backbone, BackboneSettings, FeatureNet
from anounet.identity import frozen
from anounet.images import content_hash, png_bytes
from anounet.prepare import DataChoice, describe
from anounet.unet import UNet

ROOT = Path(__file__).resolve().parent.parent
SIZE, PATIENCE = 32, 60.0
PAGES = ("pages/0_home.py", "pages/1_f_net.py", "pages/2_center.py", "pages/3_visualise.py")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small, complete bundle under the shipped one's name."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOUNET_WEIGHTS", str(folder))
        torch.manual_seed(0)  # torchvision's layers draw from the global generator
        f_net = FeatureNet.freeze(Backbone(BackboneSettings(width=0.5)))
        images = TextureSet("train", 12)
        indices = images.where("streaks")
        for progress in compute_center(f_net, images.batches(indices, SIZE), len(indices)):
            center = progress.center
        generator = torch.Generator().manual_seed(0)
        gan_settings = AnoGANSettings(latent=8, width=8, steps=1)
        gan = AnoGAN(Generator(8, 8, SIZE), Discriminator(8, SIZE), SIZE, {"settings": vars(gan_settings)})
        save_part(
            SHIPPED,
            f_net=f_net,
            identity=frozen(UNet.fresh(8, 3, "group", generator)),
            anogan=gan,
            meta={"settings": {"epochs": 1, "batch": 2}},
            scales={"fast": 0.1, "anogan": 0.2},
            settings={"fast": {"steps": 2}, "article": {"steps": 2}},
            **describe(DataChoice(size=SIZE)),
        )
        save_part(SHIPPED, center=center)
        save_part(SHIPPED, scales={"fast": 0.1, "anogan": 0.2})
    return folder


@pytest.fixture
def weights(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, for this test alone."""
    folder = tmp_path / "weights"
    shutil.copytree(made, folder)
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(folder))
    monkeypatch.setenv("ANOUNET_DATA", str(tmp_path / "no-data"))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    yield
    manager: JobManager = models.jobs()
    manager.shutdown()


@pytest.fixture(autouse=True)
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """AnoGAN's search takes 500 steps; three show as well that its results arrive."""
    whole = work.SearchSettings
    monkeypatch.setattr(work, "SearchSettings", lambda: whole(steps=3))


def app(page: str = PAGES[0], **query: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=PATIENCE)
    at.query_params.update(query)
    if page != PAGES[0]:
        at.switch_page(page)  # nothing has run yet: a deep link on a cold server
    return sound(at.run())


def sound(at: AppTest) -> AppTest:
    assert not at.exception, [e.value for e in at.exception]
    return at


def job_of(at: AppTest, kind: str) -> Job:
    job = models.jobs().get(at.session_state[f"_job_{kind}"])
    assert job is not None
    return job


def settled(at: AppTest, kind: str = "visualise") -> AppTest:
    """Waits for the job of a page and draws the page again, as the browser's timer would."""
    if f"_job_{kind}" in at.session_state:
        assert job_of(at, kind).wait(PATIENCE)
    return sound(at.run())


def words(at: AppTest) -> str:
    """All that a page says, in one text."""
    kinds = ("title", "markdown", "caption", "success", "info", "warning", "error", "subheader")
    said = [str(element.value) for kind in kinds for element in getattr(at, kind)]
    said += [element.proto.body for element in at.get("html")]
    said += [element.proto.body for element in at.get("badge") if hasattr(element.proto, "body")]
    return "\n".join(said)


def png(pixels: np.ndarray) -> bytes:
    return png_bytes(pixels)


def noise(seed: int, size: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


# --- every page --------------------------------------------------------------------------------------


def test_home_shows_a_computed_result_without_a_click(weights: Path) -> None:
    at = app()
    said = words(at)
    for text in ("If it were normal", "Heat map", "Overlay", "threshold", "CPU"):
        assert text in said
    assert said.count("data:image/png;base64,") == 4
    assert not at.warning
    before = said
    at.button(key="another").click()
    assert words(sound(at.run())) != before


@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens_as_a_deep_link_on_a_cold_server(weights: Path, page: str) -> None:
    at = app(page)
    assert len(at.title) == 1
    assert not at.error
    titles = {
        PAGES[0]: texts.t("app.name"),
        PAGES[1]: texts.t("f_net.title"),
        PAGES[2]: texts.t("center.title"),
        PAGES[3]: texts.t("visualise.title"),
    }
    assert at.title[0].value == titles[page]


@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens_without_any_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(tmp_path / "none"))
    assert "no bundle of weights here" in words(app(page))


# --- f-Net -------------------------------------------------------------------------------------------


def prepared_training(epochs: int, name: str) -> AppTest:
    at = app(PAGES[1])
    at.number_input(key="limit").set_value(20)
    at.selectbox(key="size").set_value(SIZE)
    at.selectbox(key="width").set_value(0.5)
    at.number_input(key="epochs").set_value(epochs)
    at.number_input(key="batch").set_value(10)
    at.multiselect(key="exclude_textures_streaks").set_value(["wood"])
    sound(at.run())
    (field,) = [field for field in at.text_input if field.key.startswith("name_")]
    field.set_value(name)
    return sound(at.run())


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anounet.feature_net._torchvision_imagenet", _no_network)


def _no_network(*_: object) -> None:
    raise OSError("no network")


def test_an_f_net_is_trained_and_saved_under_its_name(weights: Path, no_download: None) -> None:
    at = prepared_training(1, "mine")
    assert "20 images" in words(at)
    at.button(key="train").click()
    sound(at.run())
    settled(at, "f_net")
    assert job_of(at, "f_net").state == DONE, job_of(at, "f_net").error
    assert "after 1 epochs" in words(at)
    info = read_info("mine")
    assert info["exclude"] == ["wood"]
    assert load_bundle("mine").f_net.settings.width == 0.5
    assert "_job_f_net" in at.session_state
    assert at.query_params["job"] == job_of(at, "f_net").id


def test_stopping_a_training_keeps_the_last_epoch(weights: Path, no_download: None) -> None:
    at = prepared_training(200, "stopped")
    at.button(key="train").click()
    sound(at.run())
    job = job_of(at, "f_net")
    assert job.wait(PATIENCE, milestones=1)
    sound(at.run())
    at.button(key="stop_f_net").click()
    sound(at.run())
    assert job.wait(PATIENCE)
    assert job.state == CANCELLED
    assert 1 <= job.result.epochs < 200
    assert load_bundle("stopped").center is None
    assert "last whole epoch is kept" in words(sound(at.run()))


@pytest.mark.parametrize("name", [SHIPPED, "No Spaces", "../elsewhere", ""])
def test_a_name_that_would_overwrite_or_escape_is_refused(weights: Path, name: str) -> None:
    at = prepared_training(1, name)
    assert at.button(key="train").disabled
    assert at.warning


def test_the_articles_values_are_one_click_away(weights: Path) -> None:
    at = app(PAGES[1])
    at.button(key="article").click()
    sound(at.run())
    values = [at.number_input(key=key).value for key in ("epochs", "batch", "rate", "alpha", "limit")]
    assert values == [30, 128, 1e-4, 5.0, 6000]
    assert at.selectbox(key="width").value == 0.5


# --- C -----------------------------------------------------------------------------------------------


def test_a_bundle_with_c_shows_its_scores_at_once(weights: Path) -> None:
    at = app(PAGES[2])
    assert [metric.label for metric in at.metric] == ["Images in C", "Held back", "Threshold", "Image AUROC"]
    charts = at.get("plotly_chart")
    assert len(charts) == 2
    assert "threshold" in charts[0].proto.spec


def test_c_is_computed_for_another_class_into_a_new_bundle(weights: Path) -> None:
    at = app(PAGES[2])
    at.selectbox(key=f"center_normal_{SHIPPED}").set_value("wood")
    sound(at.run())
    at.number_input(key=f"center_count_{SHIPPED}_wood").set_value(10)
    sound(at.run())
    at.button(key="compute").click()
    sound(at.run())
    settled(at, "center")
    job = job_of(at, "center")
    assert job.state == DONE, job.error
    assert job.result == "textures-wood"
    bundle = load_bundle("textures-wood")
    assert bundle.center.count == 8
    assert bundle.info["normal"] == "wood"
    assert bundle.identity is not None
    assert bundle.scales["fast"] > 0
    assert load_bundle(SHIPPED).center.count != 8


# --- visualise ---------------------------------------------------------------------------------------


def test_a_sample_is_redrawn_beside_anogan(weights: Path) -> None:
    at = settled(app(PAGES[3], all="true"))
    said = words(at)
    for text in ("If it were normal", "AnoGAN: nearest normal", "AnoGAN: heat map", "1 = normal limit"):
        assert text in said
    assert "AnoGAN is searching" not in said
    assert len(at.get("plotly_chart")) == 2


def test_good_and_broken_uploads_of_one_go(weights: Path) -> None:
    at = app(PAGES[3], source="upload", all="true")
    whole = png(noise(1))
    jpeg = io.BytesIO()
    Image.fromarray(noise(2)).save(jpeg, "JPEG")
    uploader = at.file_uploader(key="upload_0")
    uploader.upload("good.png", whole)
    uploader.upload("cut.png", whole[: len(whole) // 2])
    uploader.upload("empty.png", b"")
    uploader.upload("text.png", b"no image at all")
    uploader.upload("fine.jpg", jpeg.getvalue())
    at = settled(sound(at.run()))
    warnings = [warning.value for warning in at.warning]
    for name in ("cut.png", "empty.png", "text.png"):
        assert sum(name in warning for warning in warnings) == 1, warnings
    pictures = job_of(at, "visualise").spec.pictures
    assert [picture.name for picture in pictures] == ["good.png", "fine.jpg"]
    said = words(at)
    assert "good.png" in said
    assert "fine.jpg" in said


def test_images_that_the_score_calls_normal_are_listed_but_not_redrawn(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = settled(app(PAGES[3]))
    bundle = load_bundle(SHIPPED)
    assert bundle.center is not None
    known = inputs.sample_pictures(bundle, 0)
    lenient = type(bundle.center)(**(vars(bundle.center) | {"threshold": 1e6}))
    save_part(SHIPPED, center=lenient)
    at = settled(app(PAGES[3], samples=["missing", "good"]))
    said = words(at)
    assert "Normal, not redrawn: 2" in said
    assert known["good"].name in said
    assert "If it were normal" not in said


def test_a_second_session_finds_the_job_of_a_link_and_its_uploads(weights: Path) -> None:
    at = app(PAGES[3], source="upload", all="true")
    at.file_uploader(key="upload_0").upload("mine.png", png(noise(3)))
    at = settled(sound(at.run()))
    job = job_of(at, "visualise")
    other = settled(app(PAGES[3], source="upload", all="true", job=job.id))
    assert "mine.png" in words(other)


def test_article_mode_waits_for_a_click_and_presets_switch_to_it(weights: Path) -> None:
    at = settled(app(PAGES[3], all="true"))
    at.button(key="preset_1").click()
    sound(at.run())
    assert at.session_state["mode"] == "article"
    assert (at.number_input(key="beta").value, at.number_input(key="steps").value) == (80.0, 200)
    assert at.button(key="start").label.startswith("Start (about ")


@pytest.mark.parametrize(
    "query",
    [
        {"beta": "-5", "steps": "100000"},
        {"beta": "1e400", "steps": "nan"},
        {"beta": "nan", "steps": "2.5"},
        {"mode": "instant", "sigma": "99", "unit": "furlong", "samples": "nothing"},
        {"bundle": "../../etc", "source": "camera", "job": "f" * 12},
        {"beta": "", "steps": "", "mode": "", "bundle": "", "samples": "", "all": "perhaps"},
    ],
)
def test_a_link_with_values_out_of_range_still_opens(weights: Path, query: dict[str, str]) -> None:
    at = settled(app(PAGES[3], **query))
    assert 0 <= at.number_input(key="beta").value <= inputs.BETA_TOP
    assert 1 <= at.number_input(key="steps").value <= 500
    assert not at.error


def test_a_damaged_bundle_is_refused_by_name_and_others_stay_usable(weights: Path) -> None:
    shutil.copytree(weights / SHIPPED, weights / "worn")
    data = bytearray((weights / "worn" / "f_net.pt").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (weights / "worn" / "f_net.pt").write_bytes(data)
    (weights / "torn").mkdir()
    (weights / "torn" / "bundle.json").write_text('{"files": ')
    for name in ("worn", "torn"):
        at = app(PAGES[3], bundle=name, all="true")
        (error,) = at.error
        assert f"“{name}” can’t be used" in error.value
        assert "damaged" in error.value
        at.selectbox(key="bundle").set_value(SHIPPED)
        at = settled(sound(at.run()))
        assert not at.error
        assert "If it were normal" in words(at)


def test_anogan_is_trained_where_a_bundle_has_none(weights: Path) -> None:
    bundle = load_bundle(SHIPPED)
    folder = save_part(
        "bare", f_net=bundle.f_net, identity=bundle.identity, **describe(DataChoice(size=SIZE))
    )
    save_part("bare", center=bundle.center, scales={"fast": 0.1})
    assert not (folder / "anogan.pt").exists()
    at = settled(app(PAGES[3], bundle="bare", all="true"))
    assert "has no AnoGAN yet" in words(at)
    at.number_input(key="anogan_steps").set_value(10)
    sound(at.run())
    at.button(key="train_anogan").click()
    sound(at.run())
    job = job_of(at, "anogan")
    job.wait(PATIENCE, milestones=1)
    job.cancel()  # its search for a scale takes 500 steps; that the training is under way is enough here
    assert job.wait(PATIENCE)
    assert job.error is None


# --- pieces ------------------------------------------------------------------------------------------


@pytest.fixture
def redrawn(weights: Path) -> tuple[Bundle, panels.Shown]:
    bundle = load_bundle(SHIPPED)
    pixels = noise(5, SIZE)
    picture = work.Picture("=a.png", content_hash(pixels), pixels)
    request = work.Request(SHIPPED, "v", (picture,), bundle.settings("fast"), False, None)
    return bundle, panels.Shown(picture.name, work.redraw(models.results(), bundle, request, picture))


def test_colours_are_in_fixed_units_whatever_the_image(redrawn: tuple[Bundle, panels.Shown]) -> None:
    bundle, shown = redrawn
    view = panels.View(sigma=0.0)
    raw = panels.raw_map(shown.result).numpy()
    expected = np.clip(raw / (panels.TOP * 0.1), 0, 1)
    np.testing.assert_allclose(panels.levels(shown.result, view, bundle), expected, rtol=1e-5)
    grey = panels.View(sigma=0.0, grey=True)
    expected = np.clip(raw / (panels.TOP * 0.2), 0, 1)  # the larger of both methods' limits
    np.testing.assert_allclose(panels.levels(shown.result, grey, bundle), expected, rtol=1e-5)


def test_downloads_hold_the_raw_map_and_safe_names(redrawn: tuple[Bundle, panels.Shown]) -> None:
    bundle, shown = redrawn
    back = np.load(io.BytesIO(panels.npy_bytes(shown.result)), allow_pickle=False)
    np.testing.assert_array_equal(back, panels.raw_map(shown.result).numpy())
    assert "'=a.png,fast," in panels.scores_csv([shown])  # no formula for a spreadsheet
    assert panels.stem("../../x y.png") == "x_y"
    import zipfile

    with zipfile.ZipFile(io.BytesIO(panels.zip_bytes([shown], panels.View(), bundle))) as archive:
        assert sorted(archive.namelist()) == [
            "001__a/ano-unet_map.npy",
            "001__a/ano-unet_normalised.png",
            "001__a/ano-unet_overlay.png",
            "scores.csv",
        ]


def test_names_of_files_are_shown_as_they_are() -> None:
    cell = panels.figure(noise(6, 8), '<script>"x"</script>')
    assert "<script>" not in cell
    assert texts.plain("a_b*[x](y).png") == r"a\_b\*\[x\](y).png"


def test_the_loss_chart_adds_up() -> None:
    figure = figures.losses({"L_R": [0.1, 0.2], "L_C": [0.01, 0.005], "L": [0.6, 0.45]}, beta=50.0)
    lines = {line.name: list(line.y) for line in figure.data}
    np.testing.assert_allclose(np.add(lines["L_R"], lines["β · L_C"]), lines["L"])


# --- texts -------------------------------------------------------------------------------------------


def used_texts() -> dict[str, set[str]]:
    """Key → names of the values given with it, of every `t(...)` of the app."""
    found: dict[str, set[str]] = {}
    files = [ROOT / "streamlit_app.py", *ROOT.glob("pages/*.py"), *ROOT.glob("anounet/app/*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t":
                key = node.args[0]
                assert isinstance(key, ast.Constant), f"{file.name}:{node.lineno}: a text needs a literal key"
                found.setdefault(key.value, set()).update(str(k.arg) for k in node.keywords)
    return found


@pytest.mark.parametrize("language", sorted(texts.LANGUAGES))
def test_every_text_that_is_used_is_there_with_its_values(language: str) -> None:
    known, _ = texts.LANGUAGES[language]
    used = used_texts()
    assert not used.keys() - known.keys(), "texts used but missing"
    assert not known.keys() - used.keys(), "texts that nothing uses"
    for key, text in known.items():
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name}
        assert fields == used[key], key


# --- the shipped bundle ------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (ROOT / "weights" / SHIPPED / "bundle.json").is_file(), reason="the shipped bundle is not there"
)
@pytest.mark.parametrize("page", PAGES)
def test_the_shipped_bundle_serves_every_page(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANOUNET_WEIGHTS", raising=False)
    at = settled(app(page))
    assert not at.error
    assert not at.warning
