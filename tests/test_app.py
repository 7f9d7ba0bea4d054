"""The app through Streamlit's AppTest: a bundle of random weights at 32 px, so each run takes a moment."""

from __future__ import annotations

import ast
import csv
import io
import json
import shutil
import string
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

from anounet import prepare
from anounet.anogan import AnoGAN, AnoGANSettings, Discriminator, Generator
from anounet.anomaly_map import MAPS
from anounet.app import downloads, figures, inputs, models, panels, texts
from anounet.app.jobs import CANCELLED, DONE, QUEUED, Job, JobManager
from anounet.app.work import answers, centers, training
from anounet.bundle import SHIPPED, Bundle, bundle_folder, load_bundle, read_info, save_part
from anounet.center import compute_center
from anounet.datasets import TextureSet
from anounet.feature_net import Backbone, BackboneSettings, FeatureNet
from anounet.identity import frozen
from anounet.images import content_hash, png_bytes
from anounet.instant import InstantSettings
from anounet.prepare import CHECKPOINTS, DataChoice, begun_f_net, describe
from anounet.storage import WeightsError, load_checkpoint, load_weights, save_checkpoint
from anounet.unet import UNet

ROOT = Path(__file__).resolve().parent.parent
SIZE, PATIENCE = 32, 60.0
PAGES = (
    "pages/0_home.py",
    "pages/1_f_net.py",
    "pages/2_center.py",
    "pages/3_visualise.py",
    "pages/4_own_images.py",
    "pages/5_experiments.py",
    "pages/6_explore.py",
    "pages/7_two_images.py",
    "pages/8_how_it_works.py",
)
# Far below what nets of random weights reach, so that there are regions to see.
SCALES = {"fast": 0.1, "anogan": 0.2, "instant": 0.05, "instant:residual": 0.05, "instant:distance": 0.5}
LIMITS = {"instant": 0.06, "instant:residual": 0.06, "instant:distance": 0.6, "instant:score": 1.5}


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
        local = tiny.tiny_local_centers(f_net)
        save_part(SHIPPED, center=center, local=local, instant=tiny.tiny_instant(f_net, local))
        save_part(SHIPPED, scales=SCALES, limits=LIMITS)
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
    whole = answers.SearchSettings
    for module in (answers, prepare.levels):
        monkeypatch.setattr(module, "SearchSettings", lambda: whole(steps=3))


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


def settled(at: AppTest, *kinds: str) -> AppTest:
    """Waits for the jobs of a page and draws the page again, as the browser's timer would."""
    for kind in kinds or ("visualise", "compare"):
        if f"_job_{kind}" in at.session_state:
            assert job_of(at, kind).wait(PATIENCE)
            sound(at.run())
    return at


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
        PAGES[4]: texts.t("own.title"),
        PAGES[5]: texts.t("experiments.title"),
        PAGES[6]: texts.t("explore.title"),
        "pages/7_two_images.py": texts.t("differ.title"),
        "pages/8_how_it_works.py": texts.t("story.question.title"),
    }
    assert at.title[0].value == titles[page]


@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens_without_any_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(tmp_path / "none"))
    said = words(app(page))
    there_is_none = "There is no bundle" if page == PAGES[5] else "no bundle of weights here"
    assert page == PAGES[4] or there_is_none in said


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


def test_an_f_net_can_be_trained_by_doc(weights: Path, no_download: None) -> None:
    at = prepared_training(1, "drawn")
    assert "the normal one among them" in words(at) and at.number_input(key="rate").value == 1e-4
    at.segmented_control(key="objective").set_value("doc")
    sound(at.run())
    assert "normal images are drawn together" in words(at) and at.number_input(key="rate").value == 5e-5
    at.number_input(key="limit").set_value(60)
    sound(at.run())
    at.button(key="train").click()
    sound(at.run())
    settled(at, "f_net")
    assert job_of(at, "f_net").state == DONE, job_of(at, "f_net").error
    facts = load_weights(load_bundle("drawn").folder / "f_net.pt", "f_net")[1]
    assert facts["method"] == "DOC" and facts["settings"]["objective"] == "doc"
    others = at.multiselect(key="exclude_textures_streaks").options
    at.multiselect(key="exclude_textures_streaks").set_value(others[1:])
    sound(at.run())
    assert "two classes or more apart beside the normal one" in words(at)
    assert at.button(key="train").disabled


def test_a_robust_f_net_can_be_asked_for(weights: Path, no_download: None) -> None:
    at = prepared_training(1, "robust")
    assert "adversarial" not in words(at)
    at.toggle(key="robust").set_value(True)
    sound(at.run())
    assert "moves onto the object" in words(at)
    at.button(key="train").click()
    sound(at.run())
    settled(at, "f_net")
    assert job_of(at, "f_net").state == DONE, job_of(at, "f_net").error
    facts = load_weights(load_bundle("robust").folder / "f_net.pt", "f_net")[1]
    assert facts["settings"]["robust_eps"] == 1.5 and facts["settings"]["frozen_blocks"] == 0
    at.button(key="article").click()
    assert at.run().toggle(key="robust").value is False


def test_stopping_a_training_keeps_the_last_epoch_and_it_can_go_on(weights: Path, no_download: None) -> None:
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
    begun = begun_f_net("stopped")
    assert begun.step >= job.result.steps - 1
    at = app(PAGES[1])
    assert f"was cut off at step {begun.step} of 400" in words(at)
    # From here on it is short: what it goes on to is compared elsewhere.
    ending = dict(begun.checkpoint) | {"step": 397}
    replace(begun, checkpoint=ending).save(weights / "stopped" / CHECKPOINTS["f_net"])
    at = app(PAGES[1])
    at.button(key="continue_stopped").click()
    sound(at.run())
    settled(at, "f_net")
    assert job_of(at, "f_net").state == DONE, job_of(at, "f_net").error
    outcome = job_of(at, "f_net").result
    assert (outcome.name, outcome.epochs, outcome.steps, outcome.stopped) == ("stopped", 200, 400, False)
    assert "was cut off" not in words(app(PAGES[1]))


def test_an_f_net_can_go_on_from_another_bundles(weights: Path, no_download: None) -> None:
    at = prepared_training(1, "next")
    options = at.selectbox(key="start").options
    assert options[-1] == f"f-Net of {SHIPPED}" and options[1] == "A file of weights"
    at.selectbox(key="start").set_value(SHIPPED)
    at.selectbox(key="width").set_value(1.0)
    sound(at.run())
    assert at.button(key="train").disabled and "has width 0.5: choose that width" in words(at)
    at.selectbox(key="width").set_value(0.5)
    sound(at.run())
    at.button(key="train").click()
    settled(sound(at.run()), "f_net")
    assert job_of(at, "f_net").state == DONE, job_of(at, "f_net").error
    facts = load_weights(load_bundle("next").folder / "f_net.pt", "f_net")[1]
    own = load_bundle(SHIPPED).f_net.fingerprint
    assert (
        facts["starting_weights"] == f"f-Net of the bundle '{SHIPPED}' {own[:12]}" and facts["start"] == own
    )
    assert job_of(at, "f_net").bundles == {"next", SHIPPED}


def test_an_f_net_can_start_from_a_file(weights: Path, no_download: None) -> None:
    at = prepared_training(1, "filed")
    at.selectbox(key="start").set_value(":file")
    sound(at.run())
    assert at.button(key="train").disabled and "Add the file of starting weights" in words(at)
    data = io.BytesIO()
    torch.save(tiny.backbone().features.state_dict(), data)
    at.file_uploader(key="start_weights").upload("mobile.pth", data.getvalue())
    sound(at.run())
    at.button(key="train").click()
    settled(sound(at.run()), "f_net")
    assert job_of(at, "f_net").state == DONE, job_of(at, "f_net").error
    facts = load_weights(load_bundle("filed").folder / "f_net.pt", "f_net")[1]
    assert facts["starting_weights"] == "local file mobile.pth"


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
    assert at.number_input(key="frozen").value == 0
    assert [at.toggle(key=key).value for key in ("augment", "decay")] == [False, False]


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
    at.button(key="compute").click()
    sound(at.run())
    settled(at, "center")
    job = job_of(at, "center")
    assert job.state == DONE, job.error
    assert job.result.name == "textures-wood"
    bundle, shipped = load_bundle("textures-wood"), load_bundle(SHIPPED)
    assert bundle.center.count == bundle.local.count == 320  # of 400: a fifth is held back
    assert bundle.info["normal"] == "wood"
    assert bundle.identity is not None
    assert {"fast", "fast-local"} <= bundle.scales.keys() & bundle.limits.keys()
    assert not torch.equal(shipped.center.vector, bundle.center.vector)
    assert shipped.instant is not None
    assert bundle.instant is None


def test_how_many_images_c_is_made_from_and_what_its_score_goes_by_can_be_chosen(weights: Path) -> None:
    at = app(PAGES[2])
    at.selectbox(key=f"center_normal_{SHIPPED}").set_value("wood")
    sound(at.run())
    field = at.number_input(key=f"center_count_{SHIPPED}_wood")
    assert (field.label, field.value, field.min, field.max) == ("Normal images", 400, 5, 400)
    field.set_value(20)
    score = at.selectbox(key=f"center_score_{SHIPPED}")
    assert (score.value, score.options) == ("l1", ["Distance (article)", "Angle", "Mahalanobis"])
    score.set_value("mahalanobis")
    sound(at.run())
    at.button(key="compute").click()
    settled(sound(at.run()), "center")
    assert job_of(at, "center").result.images == 20
    bundle = load_bundle("textures-wood")
    assert bundle.center.metric == "mahalanobis"
    assert load_bundle(SHIPPED).center.metric == "l1"
    assert bundle.center.count == bundle.local.count == 16
    at = app(PAGES[2], bundle="textures-wood", kind="instant")
    field = at.number_input(key="instant_count_textures-wood")
    assert (field.label, field.value, field.max) == ("Normal images", 16, 16)


@pytest.fixture
def mine(weights: Path, tmp_path: Path) -> str:
    """A bundle that may be changed, of a folder of few images, without an instant U-Net."""
    bundle, folder = load_bundle(SHIPPED), tmp_path / "few"
    folder.mkdir()
    for name, data in streaks(10):
        (folder / name).write_bytes(data)
    choice = DataChoice(data=str(folder), normal="few", size=SIZE)
    save_part("mine", f_net=bundle.f_net, identity=bundle.identity, **describe(choice))
    save_part("mine", center=bundle.center, local=bundle.local, scales=SCALES, limits=LIMITS)
    return "mine"


def test_local_centres_show_how_they_were_made_and_where_patches_lie(weights: Path) -> None:
    at = app(PAGES[2], kind="local")
    metrics = {metric.label: metric.value for metric in at.metric}
    local = load_bundle(SHIPPED).local
    assert metrics["Centres K"] == str(len(local.means))
    assert (metrics["Images in the centres"], metrics["Held back"]) == ("10", "2")
    histogram, cloud = (chart.proto.spec for chart in at.get("plotly_chart"))
    assert f"{local.tau:.3f}" in histogram
    for name in ("normal patches", "centres", "abnormal, before G", "after G"):
        assert f'"name":"{name}"' in cloud
    assert "lie beyond τ" in words(at)
    assert words(at).count("d at most") == 6
    before = words(at)
    at.pills(key="patch_image").set_value("good")
    assert words(sound(at.run())) != before


def test_instant_mode_is_trained_stopped_and_continued(mine: str) -> None:
    at = app(PAGES[2], bundle=mine, kind="instant")
    for field in fields(InstantSettings):
        assert at.number_input(key=f"instant_mine_{field.name}").value == getattr(
            InstantSettings(), field.name
        )
    assert at.number_input(key="instant_count_mine").value == 10
    at.number_input(key="instant_count_mine").set_value(6)
    for name, value in (("steps", 5000), ("batch", 2), ("width", 8), ("depth", 2)):
        at.number_input(key=f"instant_mine_{name}").set_value(value)
    sound(at.run())
    at.button(key="train_instant").click()
    sound(at.run())
    job = job_of(at, "instant")
    deadline = time.monotonic() + PATIENCE
    while not job.progress.samples and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(job.progress.samples) == 2 * training.PASTED  # pasted, then redrawn
    sound(at.run())
    at.button(key="stop_instant").click()
    sound(at.run())
    assert job.wait(PATIENCE)
    assert job.error is None
    saved = job.result.steps
    assert 50 <= saved < 5000
    assert saved % 50 == 0
    bundle = load_bundle(mine)
    assert bundle.mode == "instant"
    assert bundle.scales["instant"] != SCALES["instant"]  # measured anew
    assert load_weights(bundle.folder / "unet_instant.pt", "unet_instant")[1]["images"] == 6
    at = app(PAGES[2], bundle=mine, kind="instant")
    assert f"continues at step {saved} of 5000" in words(at)
    assert at.button(key="train_instant").label.startswith(f"Continue at step {saved}")
    assert at.number_input(key="instant_count_mine").value == 6
    for key, value in (("instant_mine_steps", saved + 10), ("instant_count_mine", 8)):
        before = at.number_input(key=key).value
        at.number_input(key=key).set_value(value)
        assert "starts anew" in words(sound(at.run()))
        at.number_input(key=key).set_value(before)
        assert "continues at step" in words(sound(at.run()))


def test_settings_that_a_training_does_not_take_are_refused(mine: str) -> None:
    at = app(PAGES[2], bundle=mine, kind="instant")
    at.number_input(key="instant_mine_width").set_value(1)
    sound(at.run())
    assert at.button(key="train_instant").disabled
    assert "width must lie between" in words(at)


def test_the_shipped_instant_net_is_never_overwritten(weights: Path) -> None:
    at = app(PAGES[2], kind="instant")
    assert at.button(key="train_instant").disabled


# --- own images --------------------------------------------------------------------------------------


def streaks(count: int) -> list[tuple[str, bytes]]:
    images = TextureSet("train", count)
    return [(f"{i}.png", png(images.pixels(i, 48))) for i in images.where("streaks", defective=False)]


def handed_in(files: list[tuple[str, bytes]], name: str = "mine") -> AppTest:
    at = app(PAGES[4])
    at.text_input(key="own_name").set_value(name)
    uploader = at.file_uploader(key="own_upload_0")
    for file, data in files:
        uploader.upload(file, data)
    return sound(at.run())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anounet.app.own.SIZES", (SIZE,))
    monkeypatch.setattr("anounet.app.own.ENOUGH", 5)


def test_own_images_become_a_bundle_that_works_at_once(weights: Path, small: None) -> None:
    files = streaks(8)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files[4:]:
            archive.writestr(f"photos/{name}", data)
        archive.writestr("photos/torn.png", b"no image")
    at = handed_in([*files[:4], ("broken.png", b"no image"), ("more.zip", packed.getvalue())])
    settled(at, "own")
    said = words(at)
    assert "made of 8 good images" in said
    assert "broken.png" in said
    assert "torn.png" in said
    job = job_of(at, "own")
    assert job.state == DONE, job.error
    bundle = load_bundle("mine")
    assert bundle.f_net.fingerprint == load_bundle(SHIPPED).f_net.fingerprint
    assert bundle.center.count == bundle.local.count == 6
    assert {"fast", "fast-local"} <= bundle.scales.keys()
    assert len(list((weights / "mine" / "normal").iterdir())) == 8
    assert at.button(key="train_instant").label.startswith("Train instant mode")
    other = settled(app(PAGES[3], bundle="mine", source="upload", all="true"))
    other.file_uploader(key="upload_0").upload("part.png", png(noise(1)))
    assert "If it were normal" in words(settled(sound(other.run())))


def test_too_few_own_images_are_refused_in_a_sentence(weights: Path, small: None) -> None:
    at = handed_in(streaks(4))
    assert "4 good images are here, and 5 are needed: add 1 more" in words(at)
    assert "_job_own" not in at.session_state


def test_own_images_that_cannot_be_used_leave_nothing_behind(
    weights: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("All normal images look alike, patch by patch.")

    monkeypatch.setattr(centers, "make_local_centers", refuse)
    at = settled(handed_in(streaks(6)), "own")
    (error,) = at.error
    assert "look alike" in error.value
    assert not (weights / "mine").exists()
    assert not at.button(key="prepare_own").disabled  # it is tried once by itself, and then by a click


@pytest.fixture
def two_own(weights: Path) -> Path:
    """The folder of bundles with two in it that were made of own images."""
    for name in ("first", "second"):
        shutil.copytree(weights / SHIPPED, weights / name)
        (weights / name / centers.NORMAL).mkdir()
    return weights


def test_only_so_many_bundles_of_own_images_are_kept(
    two_own: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centers, "MAX_OWN", 2)
    at = handed_in(streaks(6))
    assert "2 bundles of own images are here, and no more are kept: delete one" in words(at)
    assert "_job_own" not in at.session_state
    images = TextureSet("train", 6)
    pixels = [images.pixels(i, SIZE) for i in images.where("streaks", defective=False)]
    pictures = [answers.Picture(f"{n}.png", content_hash(p), p) for n, p in enumerate(pixels)]
    with pytest.raises(WeightsError, match="delete one to make room"):  # another session was quicker
        centers.prepare_own(Job("late", "own", "late", lambda job: None), "mine", pictures, SIZE)
    assert not (two_own / "mine").exists()


def test_bundles_of_own_images_can_be_deleted_and_no_others(two_own: Path) -> None:
    at = app(PAGES[4])
    assert at.selectbox(key="own_bundle").options == ["first", "second"]
    at.selectbox(key="own_bundle").set_value("second")
    assert "Delete the bundle “second” with its images?" in words(sound(at.run()))
    at.button(key="own_delete").click()
    sound(at.run())
    assert "The bundle “second” is deleted" in words(at)
    assert not (two_own / "second").exists() and (two_own / "first" / "bundle.json").is_file()
    assert at.selectbox(key="own_bundle").options == ["first"]
    for name in (SHIPPED, "second", ".."):
        with pytest.raises(WeightsError, match="was not made of images handed in"):
            centers.delete_own(name)
    assert load_bundle(SHIPPED).mode == "instant"


def test_a_bundle_that_a_job_needs_is_not_deleted(two_own: Path) -> None:
    gate = threading.Event()
    job = models.jobs().submit("busy", "other", "a job", lambda j: gate.wait(PATIENCE), bundles=("first",))
    try:
        at = app(PAGES[4])
        at.button(key="own_delete").click()
        sound(at.run())
        assert "“first” is in use by a job" in words(at)
        assert load_bundle("first").mode == "instant"
    finally:
        gate.set()
    assert job.wait(PATIENCE)
    at.button(key="own_delete").click()
    sound(at.run())
    assert not (two_own / "first").exists()


def test_more_images_than_are_kept_are_named_and_left_out(
    weights: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anounet.app.own.MAX_IMAGES", 5)
    monkeypatch.setattr("anounet.app.own.ENOUGH", 6)
    files = streaks(8)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files[1:]:
            archive.writestr(name, data)
    at = handed_in([files[0], ("photos.zip", packed.getvalue()), ("more.png", files[0][1])])
    said = words(at)
    assert "Good images: 5" in said
    assert "3 files in photos.zip were left out" in said
    assert "more.png was left out" in said
    at.button(key="own_remove").click()
    assert "Good images:" not in words(sound(at.run()))


def test_a_zip_that_is_none_is_named(weights: Path, small: None) -> None:
    assert "photos.zip is not a ZIP file" in words(handed_in([("photos.zip", b"PK no")]))


# --- visualise ---------------------------------------------------------------------------------------


def test_a_sample_is_redrawn_beside_anogan(weights: Path) -> None:
    at = settled(app(PAGES[3], mode="fast", all="true"))
    said = words(at)
    for text in ("If it were normal", "AnoGAN: nearest normal", "AnoGAN: heat map", "1 = normal limit"):
        assert text in said
    assert "AnoGAN is searching" not in said
    assert len(at.get("plotly_chart")) == 2


def test_an_upload_is_answered_at_once_though_the_queue_is_busy(weights: Path) -> None:
    gate = threading.Event()
    models.jobs().submit("busy", "other", "a long training", lambda job: gate.wait(PATIENCE))
    try:
        at = app(PAGES[3], source="upload")
        at.file_uploader(key="upload_0").upload("mine.png", png(noise(1)))
        sound(at.run())
        said = words(at)
        assert "mine.png" in said
        assert "If it were normal" in said
        assert job_of(at, "visualise").state == DONE
        assert job_of(at, "compare").state == QUEUED
        assert "AnoGAN is searching" in said
        assert not [button for button in at.button if button.key == "start"]
    finally:
        gate.set()
    assert "AnoGAN is searching" not in words(settled(at))


def test_a_rival_can_be_chosen_where_there_are_several(weights: Path) -> None:
    said = words(settled(app(PAGES[3], mode="fast", all="true")))
    assert "Decoder: heat map" not in said  # one alone is no choice
    bundle = load_bundle(SHIPPED)
    save_part(SHIPPED, decoder=tiny.decoder(bundle.f_net))
    at = settled(app(PAGES[3], samples=["missing", "band", "blob", "stain", "scratch"], against="decoder"))
    said = words(at)
    assert said.count("Decoder: heat map") == 5 and "AnoGAN: heat map" not in said  # one pass, no question
    assert "decoder(F(x))" in said
    at.segmented_control(key="against").set_value(["anogan", "decoder"])
    sound(at.run())
    assert "5 images" in at.button(key="start_rival").label
    assert words(at).count("Decoder: heat map") == 5  # it stays, whatever is asked for beside it


def test_anogan_is_left_out_when_it_is_not_wanted(weights: Path) -> None:
    at = app(PAGES[3])
    at.toggle(key="rival").set_value(False)
    sound(at.run())
    assert "AnoGAN: nearest normal" not in words(at)
    assert "_job_compare" not in at.session_state


def test_many_images_ask_before_anogan_searches(weights: Path) -> None:
    at = app(PAGES[3], samples=["missing", "band", "blob", "stain", "scratch"])
    assert "_job_compare" not in at.session_state
    assert words(at).count("If it were normal") == 5
    assert "5 images" in at.button(key="start_rival").label
    at.button(key="start_rival").click()
    sound(at.run())
    assert words(settled(at)).count("AnoGAN: heat map") == 5


def test_refining_goes_on_from_the_instant_answer(weights: Path) -> None:
    at = app(PAGES[3], rival="false")
    assert at.slider(key="refine").value == 0
    before = words(at)
    at.slider(key="refine").set_value(3)
    sound(at.run())
    settled(at)
    assert job_of(at, "visualise").spec.settings.steps == 3
    said = words(at)
    assert said != before
    assert "refining …" not in said
    assert len(at.get("plotly_chart")) == 1  # of the losses, at last


def test_every_map_is_shown_on_its_own_scale_without_computing_anew(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = app(PAGES[3], rival="false")
    assert at.selectbox(key="map").value == "combined"

    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed anew")

    monkeypatch.setattr(answers, "visualize_many", lambda images, *_: [never() for _ in images])
    seen = {words(at)}
    for name in MAPS:
        at.selectbox(key="map").set_value(name)
        sound(at.run())
        seen.add(words(at))
    assert len(seen) == len(MAPS)
    at.selectbox(key="map").set_value("residual")
    sound(at.run())
    at.selectbox(key="sigma").set_value("4")
    at.segmented_control(key="unit").set_value("grey")
    sound(at.run())
    assert "Grey levels of 255" in words(at)


def test_regions_are_outlined_numbered_and_listed(weights: Path) -> None:
    at = app(PAGES[3], rival="false", map="distance")
    assert at.selectbox(key="map").value == "distance"
    (table,) = at.dataframe
    count = len(table.value)
    assert list(table.value.columns) == ["No.", "Centre x, y", "Size w × h", "Area", "Peak / level"]
    assert list(table.value["No."]) == list(range(1, count + 1))
    assert (table.value["Peak / level"] >= 1).all()
    said = words(at)
    assert said.count(f'aria-hidden="true">{count}</i>') == 2  # on the heat map and on the overlay
    at.segmented_control(key="level").set_value("off")
    sound(at.run())
    assert not at.dataframe
    assert "aria-hidden" not in words(at)


def test_fast_mode_takes_either_kind_of_c(weights: Path) -> None:
    at = settled(app(PAGES[3], mode="fast", all="true", rival="false"))
    assert at.segmented_control(key="mode").value == "fast"
    assert job_of(at, "visualise").spec.settings.center == "global"
    at.segmented_control(key="c").set_value("local")
    settled(sound(at.run()))
    settings = job_of(at, "visualise").spec.settings
    assert (settings.center, settings.beta) == ("local", 3.0)
    assert at.selectbox(key="map").value == "combined"


def test_a_bundle_without_instant_mode_says_where_to_get_it(weights: Path) -> None:
    bundle = load_bundle(SHIPPED)
    save_part("older", f_net=bundle.f_net, identity=bundle.identity, **describe(DataChoice(size=SIZE)))
    save_part("older", center=bundle.center)
    at = settled(app(PAGES[3], bundle="older", all="true"))
    assert at.segmented_control(key="mode").options == ["Fast", "Article"]
    assert "no local centres yet" in words(at)
    assert at.selectbox(key="map").options == [texts.label("map.residual")]
    assert "If it were normal" in words(at)


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
    at = settled(app(PAGES[3], mode="fast"))
    bundle = load_bundle(SHIPPED)
    assert bundle.center is not None
    known = inputs.sample_pictures(bundle, 0)
    lenient = type(bundle.center)(**(vars(bundle.center) | {"threshold": 1e6}))
    save_part(SHIPPED, center=lenient)
    at = settled(app(PAGES[3], mode="fast", samples=["missing", "good"]))
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
    at = settled(app(PAGES[3], mode="fast", all="true"))
    at.button(key="preset_1").click()
    sound(at.run())
    assert at.session_state["mode"] == "article"
    assert (at.number_input(key="beta").value, at.number_input(key="steps").value) == (80.0, 200)
    assert at.button(key="start").label.startswith("Start (about ")


@pytest.mark.parametrize(
    "query",
    [
        {"mode": "fast", "beta": "-5", "steps": "100000", "c": "none"},
        {"mode": "fast", "beta": "1e400", "steps": "nan"},
        {"mode": "fast", "beta": "nan", "steps": "2.5"},
        {"mode": "slow", "map": "residual", "sigma": "99", "unit": "furlong", "samples": "nothing"},
        {"bundle": "../../etc", "source": "camera", "job": "f" * 12, "refine": "1000", "level": "high"},
        {"beta": "", "steps": "", "mode": "", "bundle": "", "samples": "", "all": "perhaps", "map": ""},
    ],
)
def test_a_link_with_values_out_of_range_still_opens(weights: Path, query: dict[str, str]) -> None:
    at = settled(app(PAGES[3], **query))
    if query.get("mode") == "fast":
        assert 0 <= at.number_input(key="beta").value <= inputs.BETA_TOP
        assert 1 <= at.number_input(key="steps").value <= 500
    else:
        assert 0 <= at.slider(key="refine").value <= inputs.REFINE_TOP
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


@pytest.fixture
def bare(weights: Path) -> str:
    """A bundle that may be changed, with C and no rival."""
    bundle = load_bundle(SHIPPED)
    save_part("bare", f_net=bundle.f_net, **describe(DataChoice(size=SIZE)))
    save_part("bare", center=bundle.center, scales={"fast": 0.1})
    return "bare"


def test_the_rivals_are_trained_where_a_bundle_has_none(bare: str) -> None:
    at = settled(app(PAGES[3], bundle=bare, all="true"))
    for part, others, method in (
        ("anogan", ["AnoGAN", "Decoder"], "anogan"),
        ("encoder", ["f-AnoGAN’s encoder", "Decoder"], "f-anogan"),
        ("decoder", None, "decoder"),
    ):
        if others is not None:
            assert at.segmented_control(key="rival_part").options == others
        kind = training.RIVALS[part].settings
        for field in fields(kind):
            assert at.number_input(key=f"{part}_bare_{field.name}").value == getattr(kind(), field.name)
        at.number_input(key=f"{part}_bare_steps").set_value(2)
        at.number_input(key=f"{part}_bare_batch").set_value(2)
        at.number_input(key=f"{part}_bare_width").set_value(8)
        sound(at.run())
        at.button(key=f"train_{part}").click()
        at = settled(sound(at.run()), "train_rival")
        assert job_of(at, "train_rival").state == DONE, job_of(at, "train_rival").error
        made = load_bundle(bare)
        assert getattr(made, part) is not None and {method, "fast"} <= made.scales.keys()
        assert "is ready" in words(at)
    assert not [button for button in at.button if button.key.startswith("train_")]
    at = settled(app(PAGES[3], bundle=bare, all="true"))
    (shown,) = [expander for expander in at.expander if expander.label == "AnoGAN’s training"]
    assert len(shown.get("plotly_chart")) == 2
    assert "Images that it draws" in shown.markdown[0].value


def test_the_training_of_a_rival_is_stopped_and_goes_on(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anounet.training.CHECKPOINT_EVERY", 2)
    at = settled(app(PAGES[3], bundle=bare, all="true"))
    at.segmented_control(key="rival_part").set_value("decoder")
    sound(at.run())
    for name, value in (("steps", 5000), ("batch", 2), ("width", 8), ("hidden", 8)):
        at.number_input(key=f"decoder_bare_{name}").set_value(value)
    sound(at.run())
    at.button(key="train_decoder").click()
    sound(at.run())
    job, path = job_of(at, "train_rival"), bundle_folder(bare) / CHECKPOINTS["decoder"]
    deadline = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    sound(at.run())
    at.button(key="stop_train_rival").click()
    sound(at.run())
    assert job.wait(PATIENCE) and job.state == CANCELLED
    assert load_bundle(bare).decoder is None and job.progress.curves["L1"]

    kept = load_checkpoint(path)
    kept["checkpoint"]["step"] = 4998  # from here on it is short: what it goes on to is compared elsewhere
    save_checkpoint(path, kept)
    at = settled(app(PAGES[3], bundle=bare, all="true"))
    at.segmented_control(key="rival_part").set_value("decoder")
    sound(at.run())
    assert "it continues at step 4998 of 5000" in words(at)
    at.number_input(key="decoder_bare_batch").set_value(3)
    sound(at.run())
    assert "was cut off at step 4998: with these it starts anew" in words(at)
    at.number_input(key="decoder_bare_batch").set_value(2)
    sound(at.run())
    at.button(key="train_decoder").click()
    at = settled(sound(at.run()), "train_rival")
    assert job_of(at, "train_rival").state == DONE, job_of(at, "train_rival").error
    assert len(job_of(at, "train_rival").result.curves["L1"]) == 2
    assert load_bundle(bare).decoder is not None and not path.exists()


def test_a_side_that_the_decoder_cannot_draw_is_said(weights: Path) -> None:
    bundle = load_bundle(SHIPPED)
    save_part("large", f_net=bundle.f_net, **describe(DataChoice(size=224)))
    save_part("large", center=bundle.center)
    at = settled(app(PAGES[3], bundle="large", rival="false", mode="article"))
    at.segmented_control(key="rival_part").set_value("decoder")
    assert "side from 16 to 208 that 8 divides, not 224" in words(sound(at.run()))
    assert at.button(key="train_decoder").disabled


# --- pieces ------------------------------------------------------------------------------------------


@pytest.fixture
def redrawn(weights: Path) -> tuple[Bundle, downloads.Shown]:
    bundle = load_bundle(SHIPPED)
    pixels = noise(5, SIZE)
    picture = answers.Picture("=a.png", content_hash(pixels), pixels)
    request = answers.Request(SHIPPED, "v", (picture,), bundle.settings("fast"), False)
    return bundle, downloads.Shown(picture.name, answers.redraw(models.results(), bundle, request, picture))


def test_colours_are_in_fixed_units_whatever_the_image(redrawn: tuple[Bundle, downloads.Shown]) -> None:
    bundle, shown = redrawn
    view = panels.View("residual", sigma=0.0)
    raw = panels.raw_map(shown.result).numpy()
    expected = np.clip(raw / (panels.TOP * bundle.scales["fast"]), 0, 1)
    np.testing.assert_allclose(panels.levels(shown.result, view), expected, rtol=1e-5)
    grey = panels.View("residual", sigma=0.0, grey=0.5)
    np.testing.assert_allclose(panels.levels(shown.result, grey), np.clip(raw / 0.5, 0, 1), rtol=1e-5)
    other = panels.View("distance")
    expected = shown.result.maps["distance"].numpy() / (panels.TOP * shown.result.scales["distance"])
    np.testing.assert_allclose(panels.levels(shown.result, other), np.clip(expected, 0, 1), rtol=1e-5)


def test_downloads_hold_the_raw_map_and_safe_names(redrawn: tuple[Bundle, downloads.Shown]) -> None:
    _, shown = redrawn
    raw, view = panels.raw_map(shown.result), panels.View("distance", threshold="scale")
    back = np.load(io.BytesIO(downloads.npy_bytes(raw)), allow_pickle=False)
    np.testing.assert_array_equal(back, raw.numpy())
    with zipfile.ZipFile(io.BytesIO(downloads.zip_bytes([shown], view, {}))) as archive:
        scores = archive.read("scores.csv").decode()
    assert "'=a.png,fast," in scores  # no formula for a spreadsheet
    lines = list(csv.DictReader(io.StringIO(downloads.regions_csv([shown], view))))
    regions = shown.result.regions("distance", shown.result.scales["distance"])
    assert [(line["map"], int(line["area"])) for line in lines] == [("distance", r.area) for r in regions]
    assert downloads.stem("../../x y.png") == "x_y"

    with zipfile.ZipFile(io.BytesIO(downloads.zip_bytes([shown], view, {"bundle": "b"}))) as archive:
        assert sorted(archive.namelist()) == [
            "001__a/ano-unet_map.npy",
            "001__a/ano-unet_map_distance.npy",
            "001__a/ano-unet_normalised.png",
            "001__a/ano-unet_overlay.png",
            "001__a/settings.json",
            "regions.csv",
            "scores.csv",
        ]
        made = json.loads(archive.read("001__a/settings.json"))
    assert (made["bundle"], made["map"], made["score"]) == ("b", "distance", shown.result.score)


def test_the_pictures_of_files_are_large_with_outlines_and_numbers(
    redrawn: tuple[Bundle, downloads.Shown],
) -> None:
    _, shown = redrawn
    level = 0.5 * float(shown.result.maps["distance"].max())
    result = replace(shown.result, limits=shown.result.limits | {"distance": level})
    view = panels.View("distance")
    assert panels.shown_regions(result, view)
    marked = panels.marked_overlay(result, view)
    assert marked.shape == (480, 480, 3)
    plain = panels.marked_overlay(result, replace(view, threshold="off"))
    assert (marked != plain).any()
    assert (panels.overlay_pixels(result, view) != panels.overlay_pixels(shown.result, view)).any()


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
    files = [ROOT / "streamlit_app.py", *ROOT.glob("pages/*.py"), *ROOT.glob("anounet/app/**/*.py")]
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
