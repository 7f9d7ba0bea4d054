"""Presets: what they name exists, the command line and the page take them, and what is missing is said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from streamlit.testing.v1 import AppTest
from test_arrays import cifar_tree, gzipped, idx_tree

from anounet import prepare
from anounet.app import models
from anounet.app.data import mosaic
from anounet.app.texts import label
from anounet.bundle import SHIPPED, load_bundle, read_info, save_part
from anounet.cli import main
from anounet.datasets import is_here, open_set
from anounet.images import png_bytes
from anounet.prepare import DataChoice, choice_of_preset, f_net_data, own_settings
from anounet.presets import PRESETS, Preset, fitting

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--size", "32", "--device", "cpu", "--json"]


@pytest.fixture
def home(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder without data sets, and without what the app knows of any."""
    monkeypatch.setenv("ANOUNET_DATA", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    models.forget_data()
    yield tmp_path
    models.forget_data()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command: (exit status, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, DataChoice]]:
    """What preparations were asked for: (name, choice of data) of each; none of them is made."""
    found = []

    def noted(name: str, plan: prepare.Plan, *_: object) -> Iterator[prepare.Stage]:
        found.append((name, plan.choice))
        save_part(name, f_net=tiny.f_net(), size=32)
        yield prepare.Stage("C", 1, 1, {})

    monkeypatch.setattr(prepare, "prepare", noted)
    return found


@pytest.fixture
def small_sets(home: Path) -> None:
    """CIFAR-10 and Fashion-MNIST of few images."""
    trees = {"cifar10": cifar_tree(), "fashion_mnist": gzipped(idx_tree())}
    for name, tree in trees.items():
        for file, data in tree.items():
            path = home / "sets" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_what_a_preset_names_exists(preset: Preset) -> None:
    if preset.missing():
        pytest.skip(f"{preset.data} is not here")
    test = open_set(preset.data, "test")
    test.check_classes([preset.normal, *preset.exclude])
    defects = {test.items[i].defect for i in test.where(preset.normal, defective=True)}
    assert preset.anomalies
    for anomaly in preset.anomalies:
        assert anomaly in defects or (anomaly in preset.exclude and test.where(anomaly))
    assert test.where(preset.normal, defective=False)


def test_the_article_s_split() -> None:
    preset = PRESETS["cifar10-horse"]
    assert (preset.data, preset.normal, preset.exclude) == ("cifar10", "horse", ("deer",))
    assert (preset.f_net_images, preset.center_images, preset.beta, preset.steps) == (6000, 5000, 50, 150)
    choice = choice_of_preset(preset)
    assert choice == DataChoice("cifar10", "horse", ("deer",), limit=6000, count=5000)
    assert own_settings(choice) == {"article": {"beta": 50, "steps": 150}, "fast": {"slack": 0.5}}


def test_f_never_sees_what_a_preset_leaves_out(small_sets: None) -> None:
    for name in ("cifar10-horse", "fashion-sneaker"):
        preset = PRESETS[name]
        classes = f_net_data(choice_of_preset(preset)).classes
        assert len(classes) == 9
        assert f"{preset.data}/{preset.normal}" in classes
        assert not {f"{preset.data}/{left_out}" for left_out in preset.exclude} & set(classes)


def test_a_choice_is_known_as_a_preset() -> None:
    assert fitting("cifar10", "horse", ("deer",)) is PRESETS["cifar10-horse"]
    assert fitting("cifar10", "horse", ()) is None
    assert own_settings(DataChoice("cifar10", "deer")) == {}


def test_what_is_missing_is_said(home: Path) -> None:
    assert PRESETS["textures-streaks"].missing() == ""
    assert not is_here("cifar10")
    said = PRESETS["cifar10-horse"].missing()
    assert "'python -m anounet download cifar10' gets it, or put it as a folder or a ZIP" in said
    assert "download" not in PRESETS["dagm-star"].missing()


# --- command line ------------------------------------------------------------------------------------


def test_train_fnet_takes_a_preset(run, home: Path, small_sets: None) -> None:
    torch.save(tiny.backbone().features.state_dict(), home / "start.pth")
    words = ["--width", "0.5", "--epochs", "1", "--batch", "20", "--start", home / "start.pth", *QUICK]
    status, shown, error = run("train-fnet", "--preset", "fashion-sneaker", *words)
    assert status == 0, error
    assert json.loads(shown)["bundle"] == "fashion-sneaker"
    info = read_info("fashion-sneaker")
    assert (info["data"], info["normal"], info["exclude"]) == ("fashion_mnist", "sneaker", ["ankle-boot"])
    settings = load_bundle("fashion-sneaker", "cpu").settings("article")
    assert (settings.beta, settings.steps) == (50, 150)


def test_prepare_takes_a_preset_and_flags_go_over_it(run, home: Path, small_sets: None, plans: list) -> None:
    assert run("prepare", "--preset", "cifar10-horse", *QUICK)[0] == 0
    words = ["--name", "mine", "--normal", "frog", "--exclude", "cat", "--count", "9"]
    assert run("prepare", "--preset", "cifar10-horse", *words, *QUICK)[0] == 0
    assert plans == [
        ("cifar10-horse", DataChoice("cifar10", "horse", ("deer",), 6000, size=32, count=5000)),
        ("mine", DataChoice("cifar10", "frog", ("cat",), 6000, size=32, count=9)),
    ]


def test_long_names_of_classes_are_taken(run, home: Path, small_sets: None, plans: list) -> None:
    words = ["--data", "fashion_mnist", "--normal", "T-shirt/top", "--exclude", "Ankle boot", "shirt"]
    assert run("prepare", "--name", "mine", *words, *QUICK)[0] == 0
    assert plans == [("mine", DataChoice("fashion_mnist", "t-shirt-top", ("ankle-boot", "shirt"), size=32))]


def test_the_shipped_bundle_is_not_overwritten_by_default(run, home: Path, plans: list) -> None:
    status, _, error = run("prepare", "--preset", SHIPPED, *QUICK)
    assert status == 2 and not plans
    assert "give another one with --name" in error
    assert run("prepare", "--preset", SHIPPED, "--name", "mine", *QUICK)[0] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--preset", "cifar10-horse"], "The preset 'cifar10-horse' needs the data set 'cifar10'"),
        (["--name", "n"], "There is no data to learn from: name it with --data, or choose a --preset"),
        (["--data", "textures", "--normal", "streaks"], "needs a name: give it one with --name"),
        (["--preset", "horse"], "invalid choice: 'horse'"),
        (["--preset", "textures-streaks", "--name", "n", "--normal", "silk"], "has no class 'silk'"),
    ],
)
@pytest.mark.parametrize("command", ["prepare", "train-fnet"])
def test_what_is_wrong_is_said_in_one_line(
    run,
    home: Path,
    command: str,
    words: list[str],
    sentence: str,
) -> None:
    status, _, error = run(command, *words)
    assert status == 2
    assert sentence in error and len(error.strip().splitlines()) == 1


# --- page --------------------------------------------------------------------------------------------


def page() -> AppTest:
    at = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    at.switch_page("pages/1_f_net.py").run()
    assert not at.exception
    return at


def test_the_page_says_what_presets_miss(home: Path) -> None:
    at = page()
    assert at.button(key="preset_cifar10-horse").disabled
    assert not at.button(key="preset_textures-streaks").disabled
    said = "\n".join(caption.value for caption in at.caption)
    assert "needs the data set 'cifar10'" in said and "needs the data set 'textures'" not in said


def test_a_preset_on_the_page_chooses_all_its_data(home: Path, small_sets: None) -> None:
    at = page()
    for name in ("cifar10-horse", "fashion-sneaker", "textures-streaks"):
        at.button(key=f"preset_{name}").click().run()
        assert not at.exception
        preset = PRESETS[name]
        assert at.selectbox(key="data").value == preset.data
        assert at.selectbox(key="normal").value == preset.normal
        left_out = at.multiselect(key=f"exclude_{preset.data}_{preset.normal}").value
        assert left_out == list(preset.exclude)
        assert at.number_input(key="limit").value == preset.f_net_images


# --- preview -----------------------------------------------------------------------------------------


def shown(at: AppTest) -> str:
    return "".join(element.proto.body for element in at.get("html"))


def test_each_class_is_shown_the_normal_one_first(home: Path, small_sets: None) -> None:
    at = page()
    for name in ("cifar10-horse", "fashion-sneaker", "textures-streaks"):
        at.button(key=f"preset_{name}").click().run()
        preset, page_text = PRESETS[name], shown(at)
        classes = open_set(preset.data, "train").classes
        titles = re.findall(r"<figcaption><b>(.*?)</b>(?:<span>(.*?)</span>)?", page_text)
        assert [title for title, _ in titles[: 1 + len(preset.exclude)]] == [
            label(class_name) for class_name in (preset.normal, *preset.exclude)
        ]
        assert sorted(title for title, _ in titles) == sorted(map(label, classes))
        assert [role for _, role in titles if role] == ["normal", *["left out"] * len(preset.exclude)]


def test_a_damaged_image_hides_no_others(home: Path) -> None:
    folder = home / "sets" / "pets"
    for number in range(6):
        for class_name in ("cat", "dog"):
            path = folder / "train" / class_name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = np.full((40, 40, 3), 40 * number, np.uint8)
            path.write_bytes(b"damaged" if number % 2 and class_name == "cat" else png_bytes(grey))
    readable = sum(int(item.name[-5]) % 2 == 0 for item in open_set("pets", "train").items) // 2
    assert len(models.thumbnails("pets", "cat", count=6)) == readable
    assert len(models.thumbnails("pets", "dog")) == 4


def test_a_set_that_cannot_be_read_is_one_sentence(home: Path) -> None:
    for file, data in gzipped(idx_tree()).items():
        path = home / "sets" / "fashion_mnist" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[:-20] if "train-images" in file else data)
    at = page()
    at.button(key="preset_fashion-sneaker").click().run()
    assert not at.exception
    (said,) = [element.value for element in at.error]
    assert "cut short" in said


@pytest.mark.parametrize(("count", "side"), [(1, 8), (2, 18), (4, 18), (5, 28)])
def test_a_mosaic_holds_every_picture(count: int, side: int) -> None:
    square = mosaic([np.full((8, 8, 3), number, np.uint8) for number in range(count)])
    assert square.shape == (side, side, 3)
    assert [int((square == number).sum()) for number in range(count)] == [8 * 8 * 3] * count


def test_every_preset_has_a_title_and_a_name_of_its_own() -> None:
    assert len({preset.title for preset in PRESETS.values()}) == len(PRESETS)
    assert all(preset.name == name for name, preset in PRESETS.items())
