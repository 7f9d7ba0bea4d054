"""The command line, through `main`: what it writes, what it says, and how it ends."""

from __future__ import annotations

import csv
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from anounet import ano_unet, difference, instant, prepare, training, visualization
from anounet.anogan import SearchSettings
from anounet.anomaly_map import MAPS, draw_contours, overlay
from anounet.bundle import PARTS, RIVALS, SHIPPED, load_bundle, read_info, save_part
from anounet.cli import bench, main, pipeline, stages, train
from anounet.cli import visualize as cli_visualize
from anounet.cli.common import Progress
from anounet.datasets import open_set
from anounet.difference import differ, learn, learned, told
from anounet.images import decode_file, png_bytes, to_tensor
from anounet.prepare import choice_of_preset, levels, rivals, unets
from anounet.presets import PRESETS
from anounet.storage import load_weights
from anounet.training import TrainingStep
from anounet.visualization import drain, visualize

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ["file", "score", "threshold", "verdict", "L_R", "L_C", "steps", "seconds", "error"]
WITHOUT_PATHS = ["visualize", "--bundle", "tiny", "--device", "cpu"]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A folder of three images, none of the bundle's size."""
    folder = tmp_path / "samples"
    (folder / "more").mkdir(parents=True)
    for name, image in zip(("a.png", "b.png", "more/c.jpg"), tiny.defective(3), strict=True):
        side = torch.nn.functional.interpolate(image[None], 40)[0]
        Image.fromarray((side.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def run(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    """Runs a command on the CPU: (exit status, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def one_line(text: str) -> str:
    """The one line on standard error that bad input ends with."""
    (line,) = text.strip().splitlines()
    assert line.startswith("anounet: ")
    return line


# --- visualize ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["instant", "fast"])
def test_visualize_writes_maps_images_and_scores(run, samples: Path, tmp_path: Path, mode: str) -> None:
    out = tmp_path / "out"
    words = [] if mode == "instant" else ["--mode", mode]  # the bundle's best is the default
    status, shown, _ = run(*WITHOUT_PATHS, samples, "--out", out, *words)
    assert status == 0
    assert f"| {mode} " in shown
    assert "| images |" in shown and "| 3 " in shown
    names = {f"{stem}_{what}" for stem in "abc" for what in ("map.npy", "overlay.png", "normalised.png")}
    assert {path.name for path in out.iterdir()} == names | {"scores.csv", "regions.csv", "run.json"}
    bundle = load_bundle("tiny", "cpu")
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == COLUMNS
    for row, path in zip(rows(out), ("a.png", "b.png", "more/c.jpg"), strict=True):
        assert Path(row["file"]) == samples / path
        stem = Path(path).stem
        decoded = decode_file(samples / path, 32).pixels
        result = drain(visualize(to_tensor(decoded)[0], bundle, bundle.settings(mode)))
        map_ = np.load(out / f"{stem}_map.npy")
        assert map_.dtype == np.float32 and map_.shape == (32, 32)
        rounding = 0 if mode == "fast" else 1e-5
        assert np.abs(map_ - result.anomaly_map.numpy()).max() <= rounding
        assert float(row["score"]) == pytest.approx(result.score, rel=1e-5)
        assert float(row["threshold"]) == pytest.approx(result.threshold, rel=1e-5)
        assert row["verdict"] == result.verdict
        assert float(row["L_R"]) == pytest.approx(result.losses["L_R"][-1], rel=1e-3)
        assert float(row["L_C"]) == pytest.approx(result.losses["L_C"][-1], rel=1e-3)
        assert float(row["seconds"]) > 0 and row["error"] == ""
        redrawn = np.asarray(Image.open(out / f"{stem}_normalised.png"))
        assert redrawn.shape == (32, 32, 3)
        assert np.abs(redrawn / 255 - result.y.permute(1, 2, 0).numpy()).max() < 0.51 / 255
        heat = overlay(decoded, map_ / (2 * result.scale))
        drawn = np.asarray(Image.open(out / f"{stem}_overlay.png"))
        assert np.array_equal(drawn, draw_contours(heat, map_, result.limit))


def test_a_film_is_written_of_each_image_and_of_those_that_lack_one(
    run, samples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = (*WITHOUT_PATHS, samples, "--out", out)
    assert run(*command)[0] == 0 and not list(out.glob("*_film.webp"))
    assert run(*command, "--film")[0] == 0
    steps = load_bundle("tiny", "cpu").settings("fast", center="local").steps
    for stem in "abc":
        path = out / f"{stem}_film.webp"
        with Image.open(path) as film:
            assert film.n_frames == steps + 1
        assert path.stat().st_size <= 300_000
    before = (out / "a_film.webp").stat().st_mtime_ns
    (out / "b_film.webp").unlink()
    assert "2 of 3 images are done" in run(*command, "--film")[2]
    assert (out / "b_film.webp").is_file() and (out / "a_film.webp").stat().st_mtime_ns == before
    status, _, said = run(
        *WITHOUT_PATHS, samples, "--out", tmp_path / "x", "--film", "--mode", "fast", "--steps", 0
    )
    assert status == 2 and "choose 1 step or more" in said and not (tmp_path / "x").exists()
    status, _, said = run(*command, "--film", "--engine", "ray")
    assert status == 2 and "leave one of them out" in said


def test_regions_are_written_beside_the_scores(run, samples: Path, tmp_path: Path) -> None:
    save_part("tiny", limits={"instant": 1e-3, "instant:residual": 1e9})
    out = tmp_path / "out"
    status, shown, _ = run(*WITHOUT_PATHS, samples, "--out", out, "--json")
    assert status == 0
    with (out / "regions.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [
        "image",
        "number",
        *("x", "y", "left", "top", "width", "height", "area", "score"),
    ]
    report = json.loads(shown)["scores"]
    assert len(table) == sum(len(row["regions"]) for row in report) >= 3
    for row in report:
        own = [line for line in table if line["image"] == row["file"]]
        assert [int(line["number"]) for line in own] == list(range(1, len(own) + 1))
        map_ = np.load(out / f"{Path(row['file']).stem}_map.npy")
        for line, region in zip(own, row["regions"], strict=True):
            assert all(float(line[key]) == value for key, value in region.items())
            box = map_[
                region["top"] : region["top"] + region["height"],
                region["left"] : region["left"] + region["width"],
            ]
            assert box.max() > 1e-3 and region["area"] <= box.size
            assert region["score"] == pytest.approx(box.max() / 1e-3, rel=1e-2)
    assert run(*WITHOUT_PATHS, samples, "--out", out, "--map", "residual")[0] == 0
    assert (out / "regions.csv").read_text(encoding="utf-8").count("\n") == 1  # the heading alone


def test_steps_end_early_and_are_counted(run, samples: Path, tmp_path: Path) -> None:
    words = [*WITHOUT_PATHS, samples, "--mode", "fast", "--steps", 40]
    _, shown, _ = run(*words, "--stop", 0.5, "--out", tmp_path / "early")
    taken = [int(row["steps"]) for row in rows(tmp_path / "early")]
    assert len(taken) == 3 and all(5 <= steps < 40 for steps in taken)
    assert f"| {sum(taken)} of 120 " in shown
    status, _, error = run(*words, "--stop", 1.5, "--out", tmp_path / "wrong")
    assert status == 2 and "a share from 0 to below 1" in one_line(error)
    status, _, error = run(*words, "--precision", "bfloat16", "--out", tmp_path / "wrong")
    assert status == 2 and "bfloat16 is for instant mode" in one_line(error)


@pytest.mark.parametrize("mode", ["instant", "fast"])
def test_an_image_that_is_not_finite_is_named_and_the_others_go_on(
    run, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    made = []

    def second_is_broken(pixels: np.ndarray) -> torch.Tensor:
        made.append(to_tensor(pixels))
        return made[-1] * float("nan") if len(made) == 2 else made[-1]

    monkeypatch.setattr(pipeline, "to_tensor", second_is_broken)
    status, shown, _ = run(*WITHOUT_PATHS, samples, "--out", tmp_path / "out", "--mode", mode)
    assert status == 1
    assert f"left out: {samples / 'b.png'}: The image holds NaN or infinity" in shown
    found = rows(tmp_path / "out")
    assert [bool(row["score"]) for row in found] == [True, False, True]
    assert str(samples / "b.png") in found[1]["error"] and not found[1]["verdict"]


@pytest.mark.parametrize("name", MAPS)
def test_any_map_can_be_had(run, samples: Path, tmp_path: Path, name: str) -> None:
    assert run(*WITHOUT_PATHS, samples / "a.png", "--out", tmp_path / "out", "--map", name)[0] == 0
    bundle = load_bundle("tiny", "cpu")
    result = drain(visualize(to_tensor(decode_file(samples / "a.png", 32).pixels)[0], bundle))
    map_ = np.load(tmp_path / "out" / "a_map.npy")
    assert np.abs(map_ - result.maps[name].numpy()).max() < 1e-4


def test_a_bundle_of_old_is_used_in_fast_mode(run, samples: Path, tmp_path: Path) -> None:
    net = tiny.f_net()
    save_part("young", f_net=net, size=32)
    save_part("young", center=tiny.center(net), identity=tiny.identity())
    words = ["visualize", samples / "a.png", "--bundle", "young", "--out", tmp_path / "out", "--steps", 1]
    status, shown, _ = run(*words, "--json")
    report = json.loads(shown)
    assert status == 0 and (report["mode"], report["center"], report["map"]) == ("fast", "global", "residual")
    for more, sentence in (
        (["--map", "combined"], "The map 'combined' needs local centres, and the bundle 'young' has none"),
        (["--center", "local"], "'young' has no local centres yet"),
        (["--mode", "instant"], "'young' has no local centres yet"),
    ):
        status, _, error = run(*words, *more)
        assert status == 2 and sentence in one_line(error)


def test_the_kind_of_c_can_be_chosen(run, samples: Path, tmp_path: Path) -> None:
    for words, wanted in (
        (["--center", "global"], ("fast", "global", "residual")),
        (["--mode", "fast", "--center", "local"], ("fast", "local", "combined")),
        (["--center", "local"], ("instant", "local", "combined")),
    ):
        status, shown, error = run(*WITHOUT_PATHS, samples / "a.png", "--out", tmp_path, "--json", *words)
        assert status == 0, error
        report = json.loads(shown)
        assert (report["mode"], report["center"], report["map"]) == wanted


def test_a_folder_is_decoded_in_order_a_few_images_ahead(
    run, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(30):
        data = (samples / "ab"[number % 2]).with_suffix(".png").read_bytes()
        (many / f"{number:02}.png").write_bytes(data if number % 7 else b"no image")
    decoded, written = [], []
    for module in (cli_visualize, pipeline):
        monkeypatch.setattr(module, "AHEAD", 4)
    monkeypatch.setattr(visualization, "cores", lambda: 2)  # of four images each
    decode, row = cli_visualize.decode_file, cli_visualize.row_of
    monkeypatch.setattr(cli_visualize, "decode_file", lambda *a: decoded.append(1) or decode(*a))
    monkeypatch.setattr(
        cli_visualize, "row_of", lambda r: written.append(len(decoded) - len(written)) or row(r)
    )
    out = tmp_path / "out"
    assert run(*WITHOUT_PATHS, many, "--out", out)[0] == 1
    assert [Path(line["file"]).name for line in rows(out)] == [f"{n:02}.png" for n in range(30)]
    assert [bool(line["error"]) for line in rows(out)] == [n % 7 == 0 for n in range(30)]
    assert len(decoded) == 30 and len(written) == 25
    # Ahead, one pass of the net, the two damaged ones among them, and behind.
    assert max(written) <= 4 + 8 + 2 + 4


def test_a_batch_goes_on_past_a_bad_file(run, samples: Path, tmp_path: Path) -> None:
    (samples / "aa.png").write_bytes(b"no image")
    (samples / "empty.png").write_bytes(b"")
    out = tmp_path / "out"
    status, shown, _ = run("visualize", samples, "--bundle", "tiny", "--out", out, "--device", "cpu")
    assert status == 1
    found = {Path(row["file"]).name: row for row in rows(out)}
    assert list(found) == ["a.png", "aa.png", "b.png", "empty.png", "c.jpg"]
    assert "aa.png is not a readable" in found["aa.png"]["error"] and found["aa.png"]["score"] == ""
    assert "empty.png is empty" in found["empty.png"]["error"]
    assert found["c.jpg"]["error"] == "" and (out / "c_map.npy").is_file()
    assert "aa.png" in shown and "empty.png" in shown
    assert not (out / "aa_map.npy").exists()


def test_json_is_the_whole_of_standard_output(run, samples: Path, tmp_path: Path) -> None:
    (samples / "d.png").write_bytes(b"no image")
    out = tmp_path / "out"
    status, shown, _ = run(
        "visualize", samples, "--bundle", "tiny", "--out", out, "--device", "cpu", "--json"
    )
    report = json.loads(shown)
    assert status == 1
    assert (report["images"], report["failed"], report["bundle"], report["mode"]) == (4, 1, "tiny", "instant")
    assert [Path(row["file"]).name for row in report["scores"]] == ["a.png", "b.png", "d.png", "c.jpg"]
    assert report["scores"][0]["score"] == float(rows(out)[0]["score"])


def test_files_of_the_same_stem_do_not_overwrite_each_other(run, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("x/a.png", "x/a.bmp", "y/a.png", "y/a-2.png")]
    for path, image in zip(paths, tiny.defective(4), strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(path)
    out = tmp_path / "out"
    status, _, _ = run("visualize", tmp_path / "x", tmp_path / "y", "--bundle", "tiny", "--out", out)
    assert status == 0
    maps = [np.load(path).tobytes() for path in sorted(out.glob("*_map.npy"))]
    assert len(maps) == len(set(maps)) == 4
    assert sorted(Path(row["file"]) for row in rows(out)) == sorted(paths)


def test_settings_are_taken_from_the_flags(run, samples: Path, tmp_path: Path) -> None:
    def residual(*flags: object) -> float:
        out = tmp_path / "out"
        words = [*WITHOUT_PATHS, samples / "a.png", "--mode", "fast", "--out", out, *flags]
        assert run(*words)[0] == 0
        return float(rows(out)[0]["L_R"])

    default = residual()
    assert residual("--steps", 0) < 1e-5 < default
    assert residual("--beta", 40, "--steps", 9) > default
    assert residual("--beta", 4.0, "--steps", 3) == default  # the bundle's own


def test_the_gate_maps_only_what_is_anomalous(run, samples: Path, tmp_path: Path) -> None:
    center = load_bundle("tiny", "cpu").center
    for threshold, verdict, files in ((100.0, "normal", 0), (0.0, "anomalous", 9)):
        save_part("tiny", center=replace(center, threshold=threshold))
        out = tmp_path / verdict
        assert run(*WITHOUT_PATHS, samples, "--mode", "fast", "--out", out, "--gate")[0] == 0
        assert [row["verdict"] for row in rows(out)] == [verdict] * 3
        assert [row["L_R"] == "" for row in rows(out)] == [verdict == "normal"] * 3
        assert len(list(out.iterdir())) == files + 3


def test_article_mode(run, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(ano_unet.UNet):
        @staticmethod
        def fresh(width, depth, norm, generator):
            return ano_unet.UNet.__mro__[1].fresh(8, 3, norm, generator)

    monkeypatch.setattr(ano_unet, "UNet", Small)
    out = tmp_path / "out"
    words = [*WITHOUT_PATHS, samples / "a.png", "--mode", "article", "--steps", 2]
    assert run(*words, "--out", out, "--seed", 0)[0] == 0
    assert run(*words, "--out", tmp_path / "other", "--seed", 1)[0] == 0
    assert rows(out)[0]["L_R"] != rows(tmp_path / "other")[0]["L_R"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--bundle", "absent"], "There is no bundle 'absent'"),
        (["--bundle", "../x"], "is no bundle"),
        (["--beta", "nan"], "β must lie between"),
        (["--beta", "-1"], "β must lie between"),
        (["--steps", "1000000"], "Steps must be a whole number"),
        (["--learning-rate", "0"], "The learning rate must lie"),
        (["--mode", "instant", "--center", "global"], "instant mode was trained with local centres"),
        (["--map", "heat"], "invalid choice: 'heat'"),
        (["--device", "abacus"], "There is no device 'abacus' here: use --device cpu"),
    ],
)
def test_bad_input_ends_with_one_line(
    run, samples: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    status, shown, error = run("visualize", samples, "--bundle", "tiny", "--out", tmp_path / "out", *words)
    assert status == 2
    assert sentence in one_line(error)
    assert shown == ""
    assert not list(tmp_path.glob("out/*.png"))


def test_bad_paths_end_with_one_line(run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    image = tmp_path / "a.png"
    image.write_bytes(png_bytes(np.zeros((40, 40, 3), np.uint8)))
    for path, out, sentence in (
        (tmp_path / "absent.png", tmp_path / "out", "absent.png does not exist"),
        (tmp_path / "empty", tmp_path / "out", "holds no images"),
        (image, tmp_path / "file", "file"),
        (image, tmp_path / "file" / "below", "file"),
    ):
        status, _, error = run(*WITHOUT_PATHS, path, "--out", out)
        assert status == 2
        assert sentence in one_line(error)


def test_a_damaged_part_ends_with_one_line(run, samples: Path, tmp_path: Path, weights: Path) -> None:
    (weights / "tiny" / "center.pt").write_bytes(b"damaged")
    status, _, error = run(*WITHOUT_PATHS, samples, "--out", tmp_path / "out")
    assert status == 2
    assert "center.pt is damaged or foreign" in one_line(error)


@pytest.mark.parametrize("words", [[], ["dance"], ["visualize"], ["visualize", "x", "--out", "y", "--frob"]])
def test_what_is_no_command_is_refused(run, words: list[str]) -> None:
    status, _, error = run(*words)
    assert status == 2
    assert error.startswith("anounet: ") and error.count("\n") == 1


# --- compare -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rivals", [[], ["decoder"], ["decoder", "anogan", "decoder"]])
def test_compare_writes_the_rivals_maps_beside(run, samples: Path, tmp_path: Path, rivals: list[str]) -> None:
    (samples / "bad.png").write_bytes(b"no image")
    out = tmp_path / "out"
    words = ["compare", samples, "--bundle", "tiny", "--out", out, "--device", "cpu", "--search-steps", 2]
    assert run(*words, *(["--rivals", *rivals] if rivals else []))[0] == 1
    found = {Path(row["file"]).name: row for row in rows(out)}
    wanted = list(dict.fromkeys(rivals)) or list(RIVALS)  # all that the bundle has
    assert list(rows(out)[0]) == [*COLUMNS, *(f"{r}_{what}" for r in wanted for what in ("score", "seconds"))]
    for stem, file in (("a", "a.png"), ("b", "b.png"), ("c", "c.jpg")):
        maps = [np.load(out / f"{stem}_{what}map.npy") for what in ("", *(f"{r}_" for r in wanted))]
        assert all(m.dtype == np.float32 and m.shape == (32, 32) for m in maps)
        assert len({m.tobytes() for m in maps}) == 1 + len(wanted)
        assert all(float(found[file][f"{r}_score"]) > 0 for r in wanted)
        assert not any(found["bad.png"][f"{r}_score"] for r in wanted)
        assert not [r for r in RIVALS if r not in wanted and (out / f"{stem}_{r}_map.npy").exists()]
        strip = Image.open(out / f"{stem}_compare.png")
        panels = 4 + 3 * len(wanted)
        assert strip.height == 32 and panels * 32 < strip.width < panels * 40
    assert found["bad.png"]["error"]
    assert Image.open(out / "overview.png").height > 3 * 32


def test_compare_needs_an_anogan(run, samples: Path, tmp_path: Path) -> None:
    net = tiny.f_net()
    save_part("young", f_net=net, size=32)
    save_part("young", center=tiny.center(net), identity=tiny.identity())
    status, _, error = run("compare", samples, "--bundle", "young", "--out", tmp_path / "out")
    assert status == 2
    assert "has no AnoGAN yet" in one_line(error)
    status, _, error = run(
        "compare", samples, "--bundle", "young", "--out", tmp_path / "out", "--rivals", "decoder"
    )
    assert status == 2
    assert "has no decoder yet" in one_line(error)


# --- differ ------------------------------------------------------------------------------------------


def test_differ_writes_what_visualize_writes(run, samples: Path, tmp_path: Path) -> None:
    (samples / "bad.png").write_bytes(b"no image")
    out, like = tmp_path / "out", samples / "a.png"
    words = ["differ", samples, "--like", like, "--bundle", "tiny", "--out", out, "--device", "cpu"]
    status, shown, _ = run(*words, "--steps", 2, "--json")
    report = json.loads(shown)
    assert status == 1 and (report["images"], report["failed"]) == (4, 1)
    assert (report["references"], report["place"], report["map"]) == (1, "anywhere", "distance")
    names = {f"{stem}_{what}" for stem in "abc" for what in ("map.npy", "overlay.png", "normalised.png")}
    assert {path.name for path in out.iterdir()} == names | {"scores.csv", "regions.csv", "run.json"}
    found = {Path(row["file"]).name: row for row in rows(out)}
    assert list(rows(out)[0]) == COLUMNS and "bad.png is not a readable" in found["bad.png"]["error"]
    bundle = load_bundle("tiny", "cpu")
    known = learned(learn(to_tensor(decode_file(like, 32).pixels), bundle.f_net))
    for name in ("a.png", "b.png"):
        x = to_tensor(decode_file(samples / name, 32).pixels)[0]
        result = drain(differ(x, known, bundle, replace(difference.SETTINGS, steps=2)))
        assert np.abs(np.load(out / f"{name[0]}_map.npy") - result.anomaly_map.numpy()).max() < 1e-5
        assert found[name]["verdict"] == told(result)
        assert float(found[name]["L_C"]) == pytest.approx(result.losses["L_C"][-1], rel=1e-3, abs=1e-6)
    assert found["a.png"]["verdict"] == "like the references: no place lies above the limit"


def test_differ_on_the_same_place_by_several_references(run, samples: Path, tmp_path: Path) -> None:
    words = ["differ", samples / "a.png", "--like", samples, "--place", "same", "--steps", 0, "--json"]
    status, shown, _ = run(*words, "--bundle", "tiny", "--out", tmp_path / "out")
    report = json.loads(shown)
    assert status == 0 and (report["references"], report["place"]) == (3, "same")
    assert float(rows(tmp_path / "out")[0]["L_R"]) < 1e-4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--like", "absent.png"], "absent.png does not exist"),
        (["--like", "BAD"], "is not a readable PNG"),
        (["--like", "MANY"], "1 to 20 reference images, not 21"),
        ([], "required: --like"),
        (["--like", "GOOD", "--place", "there"], "invalid choice: 'there'"),
        (["--like", "GOOD", "--steps", "-1"], "Steps must be a whole number"),
        (["--like", "GOOD", "--bundle", "absent"], "There is no bundle 'absent'"),
    ],
)
def test_differ_refuses_bad_input_in_one_line(
    run, samples: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "many").mkdir()
    for number in range(21):
        shutil.copy(samples / "a.png", tmp_path / "many" / f"{number}.png")
    paths = {"BAD": tmp_path / "bad.png", "MANY": tmp_path / "many", "GOOD": samples / "b.png"}
    words = [paths.get(word, word) for word in words]
    status, shown, error = run(
        "differ", samples / "a.png", "--bundle", "tiny", "--out", tmp_path / "out", *words
    )
    assert (status, shown) == (2, "") and sentence in one_line(error)
    assert not list(tmp_path.glob("out/*"))


# --- making bundles ----------------------------------------------------------------------------------


@pytest.fixture
def start(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Starting weights, a general F, and settings under which the scales are measured in a moment."""
    save_part(SHIPPED, f_net=tiny.f_net(), identity=tiny.identity(), size=32)
    path = tmp_path / "start.pth"
    torch.save(tiny.backbone().features.state_dict(), path)
    monkeypatch.setitem(ano_unet.DEFAULTS, "fast", ano_unet.Settings(steps=1))
    monkeypatch.setattr(ano_unet, "LOCAL", replace(ano_unet.LOCAL, steps=1))
    monkeypatch.setattr(levels, "SearchSettings", lambda: SearchSettings(steps=1))
    monkeypatch.setattr(instant, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(train, "DECODER", tiny.DECODER)
    monkeypatch.setattr(train, "ENCODER", tiny.ENCODER)
    for name, settings in (("train-encoder", tiny.ENCODER), ("train-decoder", tiny.DECODER)):
        command = replace(stages.RIVAL_COMMANDS[name], settings=settings)
        monkeypatch.setitem(stages.RIVAL_COMMANDS, name, command)
    return path


DATA = ["--data", "textures", "--normal", "streaks", "--size", "32", "--limit", "40", "--device", "cpu"]
# All blocks are trained: with BatchNorm's statistics of random weights, images would look all the same.
F_NET = ["--width", "0.5", "--epochs", "1", "--batch", "20", "--frozen-blocks", "0"]


def test_prepare_makes_a_bundle_that_can_be_used(
    run, start: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["prepare", "--name", "made", *DATA, *F_NET, "--exclude", "wood", "--start", str(start)]
    words += [
        "--train-fnet",
        "--steps",
        "3",
        "--anogan-steps",
        "2",
        "--decoder",
        "--article-scale",
        "0",
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["anounet", *words])
    status, shown, progress = run(*words)
    assert status == 0, progress
    report = json.loads(shown)
    assert report["bundle"] == "made"
    assert report["files"] == sorted(set(PARTS.values()) - {PARTS["identity"], PARTS["classifier"]})
    assert report["modes"] == ["instant", "fast", "article", *RIVALS]
    stages = [
        "f-Net",
        "C",
        "local centres",
        "instant U-Net",
        "AnoGAN",
        "encoder",
        "decoder",
        "scales",
        "reach",
    ]
    assert list(report["figures"]) == stages
    assert all(stage in progress for stage in report["figures"])

    info = read_info("made")
    command = shlex.split(info["command"])
    assert command[:5] == ["python", "-m", "anounet", "prepare", "--name"]
    assert command[command.index("--start") + 1] == "start.pth"  # not where it lay
    assert (info["size"], info["data"], info["normal"], info["exclude"]) == (
        32,
        "textures",
        "streaks",
        ["wood"],
    )
    made = load_bundle("made", "cpu")
    assert made.center.count == 320 and len(made.center.held_back) == 80
    assert made.scales.keys() >= {"instant", "fast", "fast-local", *RIVALS}
    assert all(v > 0 for v in (*made.scales.values(), *made.limits.values()))
    _, facts = load_weights(made.folder / "f_net.pt", "f_net")
    assert facts["starting_weights"] == "local file start.pth" and facts["images"] == 40
    assert facts["fingerprint"] == made.f_net.fingerprint == made.center.f_net
    assert run("visualize", samples, "--bundle", "made", "--out", tmp_path / "out", "--steps", 1)[0] == 0


def folder_of(tmp_path: Path, layout: str) -> Path:
    """Ten normal images of one class, and what else the layout has."""
    good = {"mvtec": "train/good/", "dagm": "Class1/", "classes": "train/nut/"}.get(layout, "")
    bad = {"mvtec": "test/bent/", "dagm": "Class1_def/"}.get(layout)
    folder = tmp_path / "parts"
    for place, images in ((good, tiny.pixels(10)), (bad, (255 * tiny.defective(2)).to(torch.uint8))):
        for number, image in enumerate(images.permute(0, 2, 3, 1).numpy(), 1):
            if place is not None:
                path = folder / place / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    if layout == "dagm":
        (folder / "Class1_def" / "labels.txt").write_text("1\t9\t5\t0.5\t16\t16\n2\t9\t5\t0.5\t16\t16\n")
    if layout == "zip":
        return Path(shutil.make_archive(str(folder), "zip", folder))
    return folder


@pytest.mark.parametrize("layout", ["plain", "zip", "mvtec", "dagm", "classes"])
def test_prepare_takes_images_as_they_lie(
    run, start: Path, samples: Path, tmp_path: Path, layout: str
) -> None:
    data = folder_of(tmp_path, layout)
    words = ["prepare", "--data", data, "--name", "made", "--size", 32, "--steps", 2, "--device", "cpu"]
    status, shown, error = run(*words)
    assert status == 0, error
    assert "made (instant, fast, article)" in shown
    made = load_bundle("made", "cpu")
    assert made.f_net.fingerprint == tiny.f_net().fingerprint and made.anogan is None
    classes = {"mvtec": "parts", "dagm": "Class1", "classes": "nut"}
    assert made.info["normal"] == classes.get(layout, "parts")
    assert run("visualize", samples, "--bundle", "made", "--out", tmp_path / "out")[0] == 0
    assert {row["verdict"] for row in rows(tmp_path / "out")} <= {"normal", "anomalous"}


def test_damaged_images_are_named_and_left_out(run, start: Path, tmp_path: Path) -> None:
    data = folder_of(tmp_path, "plain")
    (data / "4.png").write_bytes(b"no image")
    words = ["--data", data, "--name", "made", "--size", 32, "--no-instant", "--device", "cpu"]
    status, shown, error = run("prepare", *words)
    assert status == 0
    assert f"left out: {data / '4.png'} is not a readable" in error and error.count("4.png") == 1
    assert "made (fast, article)" in shown
    assert load_bundle("made", "cpu").info["normal"] == "parts"


def test_prepare_goes_on_where_it_was_stopped(
    run, start: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder_of(tmp_path, "plain")
    words = ["prepare", "--data", data, "--name", "made", "--size", 32, "--steps", 5, "--device", "cpu"]
    update, seen = Progress.update, []

    def stopped(self: Progress, stage: str, done: int, total: int, **metrics: float) -> None:
        if stage == "instant U-Net":
            seen.append(done)
            if done == 3 and len(seen) == 3:
                raise KeyboardInterrupt
        update(self, stage, done, total, **metrics)

    monkeypatch.setattr(Progress, "update", stopped)
    status, shown, error = run(*words)
    assert (status, shown) == (130, "")
    assert error.strip().splitlines()[-1] == (
        "anounet: stopped; what was finished is kept in 'made', and the same command goes on from the last "
        "checkpoint."
    )
    assert run("visualize", samples, "--bundle", "made", "--out", tmp_path / "out")[0] == 0
    assert run(*words)[0] == 0
    assert seen == [1, 2, 3, 3, 4, 5]


def test_prepare_that_was_stopped_while_it_measured_does_not_train_again(
    run, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["prepare", "--data", folder_of(tmp_path, "plain"), "--name", "made", "--size", 32, "--steps", 2]
    train, measure, trained = unets.train_instant, levels._levels, []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def watched(*arguments: object, **options: object) -> object:
        trained.append(True)
        return train(*arguments, **options)

    monkeypatch.setattr(unets, "train_instant", watched)
    monkeypatch.setattr(levels, "_levels", interrupted)
    assert run(*words, "--device", "cpu")[0] == 130
    assert load_bundle("made", "cpu").scales == {}
    monkeypatch.setattr(levels, "_levels", measure)
    assert run(*words, "--device", "cpu")[0] == 0
    assert trained == [True] and "instant" in load_bundle("made", "cpu").scales
    assert run(*words, "--device", "cpu")[0] == 0
    assert trained == [True, True]  # what came to its end is made anew when it is asked for


def test_train_instant_goes_on_and_starts_afresh(run, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, firsts = unets.train_instant, []

    def watched(*arguments: object, resume: dict | None = None) -> object:
        firsts.append(resume["step"] if resume else 0)
        steps = train(*arguments, resume=resume)
        for step in steps:
            yield step
            if step.step == 3 and len(firsts) in (1, 2):
                raise KeyboardInterrupt

    monkeypatch.setattr(unets, "train_instant", watched)
    words = ["train-instant", "--bundle", "tiny", "--steps", 5, "--batch", 4, "--width", 8, "--device", "cpu"]
    before = load_bundle("tiny", "cpu")
    assert run(*words)[0] == 130
    assert run(*words, "--fresh")[0] == 130
    assert run(*words)[0] == 0
    assert firsts == [0, 0, 2]
    after = load_bundle("tiny", "cpu")
    assert (after.instant.width, after.instant.depth) == (8, instant.InstantSettings.depth)
    assert after.scales["instant"] != before.scales["instant"]
    assert after.limits["instant:score"] != before.limits["instant:score"]
    assert after.scales["fast"] == before.scales["fast"]


def test_what_was_trained_but_not_measured_is_kept(run, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train-anogan", "--bundle", "tiny", "--steps", 2, "--batch", 4, "--encoder", "--device", "cpu"]
    trained, measure = [], levels._levels
    for kind in ("anogan", "encoder"):
        train = getattr(rivals, f"train_{kind}")
        noted = partial(lambda train, kind, *a, **b: trained.append(kind) or train(*a, **b), train, kind)
        monkeypatch.setattr(rivals, f"train_{kind}", noted)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(levels, "_levels", interrupted)
    assert run(*words)[0] == 130
    opened = load_bundle("tiny", "cpu")
    assert opened.encoder is not None and not {"anogan", "f-anogan"} & opened.scales.keys()  # of the old ones
    monkeypatch.setattr(levels, "_levels", measure)
    assert run(*words)[0] == 0 and trained == ["anogan", "encoder"]
    assert load_bundle("tiny", "cpu").scales.keys() >= {"anogan", "f-anogan"}
    assert run(*words)[0] == 0 and trained == 2 * ["anogan", "encoder"]  # what is whole is made anew
    monkeypatch.setattr(levels, "_levels", interrupted)
    assert run(*words, "--fresh")[0] == 130 and run(*words, "--fresh")[0] == 130
    assert trained == 4 * ["anogan", "encoder"]


def test_flags_that_would_change_nothing_are_not_taken(run, start: Path) -> None:
    for command, flag in (
        ("center", "--limit"),
        ("train-instant", "--exclude"),
        ("train-decoder", "--limit"),
    ):
        status, _, error = run(command, "--bundle", "tiny", flag, "30")
        assert status == 2 and f"unknown: {flag} 30" in one_line(error)


def test_train_decoder_goes_on_where_it_was_cut_off(
    run, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, firsts = rivals.train_decoder, []

    def watched(*a: object, **b: object) -> Iterator[TrainingStep]:
        firsts.append(b["resume"]["step"] if b["resume"] else 0)
        for step in steps(*a, **b):
            yield step
            if step.step == 3 and len(firsts) < 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(rivals, "train_decoder", watched)
    words = ["train-decoder", "--bundle", "tiny", "--steps", 4, "--device", "cpu"]
    assert run(*words)[0] == 130
    assert run(*words, "--fresh")[0] == 130
    assert run(*words)[0] == 0
    assert firsts == [0, 0, 2]
    made = load_bundle("tiny", "cpu")
    assert made.decoder.meta["settings"]["steps"] == 4 and made.decoder.meta["normal"] == "streaks"
    assert made.scales["decoder"] != tiny.SCALES["decoder"]
    assert not (made.folder / prepare.CHECKPOINTS["decoder"]).exists()
    assert run(*words, "--size", 48)[0] == 2


def test_the_stages_one_at_a_time(run, start: Path, weights: Path) -> None:
    assert run("train-fnet", "--name", "young", *DATA, *F_NET, "--start", start)[0] == 0
    young = load_bundle("young", "cpu")
    assert (young.center, young.local, young.instant, young.anogan) == (None,) * 4
    assert young.general_identity is not None
    status, shown, _ = run("train-unet", "--bundle", "young", "--device", "cpu", "--json")
    assert status == 0
    assert json.loads(shown)["figures"]["identity U-Net"]["L_R"] < 2 / 255
    assert load_bundle("young", "cpu").general_identity is None  # it has one of its own now
    assert run("train-anogan", "--bundle", "young", "--steps", 1, "--device", "cpu")[0] == 0
    assert run("train-decoder", "--bundle", "young", "--steps", 1, "--device", "cpu")[0] == 0
    assert load_bundle("young", "cpu").scales.keys() == {"anogan", "decoder"}
    assert run("train-encoder", "--bundle", "young", "--steps", 1, "--device", "cpu")[0] == 0
    assert load_bundle("young", "cpu").scales.keys() == set(RIVALS)
    assert run("train-anogan", "--bundle", "young", "--steps", 1, "--encoder", "--device", "cpu")[0] == 0
    assert load_bundle("young", "cpu").scales.keys() == set(RIVALS)
    assert run("center", "--bundle", "young", "--device", "cpu")[0] == 0
    young = load_bundle("young", "cpu")
    assert young.center.f_net == young.local.f_net == young.f_net.fingerprint
    assert young.identity is not None and young.anogan.size == 32
    assert young.mode == "fast" and "instant" not in young.scales
    assert young.scales.keys() >= {"fast", "fast-local", "anogan"} and "fast-local:score" in young.limits
    assert young.info["normal"] == "streaks"
    assert run("train-instant", "--bundle", "young", "--steps", 2, "--device", "cpu")[0] == 0
    assert load_bundle("young", "cpu").mode == "instant"

    assert run("center", "--bundle", "young", "--data", "textures", "--normal", "wood", "--size", 32)[0] == 0
    other = load_bundle("young", "cpu")
    assert other.info["normal"] == "wood" and other.instant is None
    # This young F, of random weights, is blind once pooled: the two C may be equal, their patches are not.
    assert other.center.meta["normal"] == "wood"
    assert other.local.fingerprint != young.local.fingerprint
    assert run("train-fnet", "--name", "young", *DATA, *F_NET, "--seed", 1, "--start", start)[0] == 0
    assert load_bundle("young", "cpu").center is None  # it was the old F's


def test_what_the_score_goes_by_can_be_chosen_and_stays(run, weights: Path) -> None:
    words = ("center", "--bundle", "tiny", "--count", 24, "--device", "cpu")
    assert run(*words, "--score", "mahalanobis")[0] == 0
    first = load_bundle("tiny", "cpu").center
    assert first.metric == "mahalanobis" and first.spread is not None
    assert run(*words)[0] == 0
    assert load_bundle("tiny", "cpu").center.metric == "mahalanobis"
    assert run(*words, "--score", "l1")[0] == 0
    assert load_bundle("tiny", "cpu").center.metric == "l1"
    bundle = load_bundle("tiny", "cpu")
    assert prepare.usual_metric("none-there", choice_of_preset(PRESETS["cifar10-horse"])) == "mahalanobis"
    horse = choice_of_preset(PRESETS["cifar10-horse"])
    assert prepare.usual_metric(bundle.name, horse) == "l1"  # as it goes by now
    for robust_eps, metric in ((0.0, "mahalanobis"), (1.5, "l1")):
        save_part(
            "young",
            f_net=bundle.f_net,
            meta={"settings": {"robust_eps": robust_eps}},
            **prepare.describe(horse),
        )
        assert prepare.usual_metric("young", horse) == metric


def test_how_many_normal_images_are_used_can_be_chosen(run, start: Path, tmp_path: Path) -> None:
    words = ["--data", folder_of(tmp_path, "plain"), "--device", "cpu"]
    few = ["--size", 32, "--steps", 1, "--count", 8]
    assert run("prepare", "--name", "made", *few, *words)[0] == 0
    made = load_bundle("made", "cpu")
    assert made.center.count == made.local.count == 6
    assert run("center", "--bundle", "made", "--count", 10, *words)[0] == 0
    made = load_bundle("made", "cpu")
    assert made.center.count == made.local.count == 8
    for count, wanted in ((5, 5), (None, 8)):
        more = [] if count is None else ["--count", count]
        assert run("train-instant", "--bundle", "made", "--steps", 1, "--device", "cpu", *more)[0] == 0
        assert load_weights(made.folder / "unet_instant.pt", "unet_instant")[1]["images"] == wanted


def test_how_many_blocks_of_f_stay_frozen_can_be_chosen(run, start: Path) -> None:
    stated = tiny.backbone().state_dict()
    for frozen in (14, 2):
        words = [*DATA, *F_NET, "--start", start, "--frozen-blocks", frozen, "--learning-rate", "1e-2"]
        assert run("train-fnet", "--name", f"f-{frozen}", *words)[0] == 0
        state = load_bundle(f"f-{frozen}", "cpu").f_net.state_dict()
        name = "features.10.conv.0.0.weight"
        assert torch.allclose(state[name], stated[name], rtol=1e-3, atol=1e-6) is (frozen == 14)


def test_f_can_be_trained_by_doc(run, start: Path) -> None:
    words = [*DATA, *F_NET, "--start", start, "--objective", "doc", "--compactness", 2]
    assert run("train-fnet", "--name", "drawn", *words)[0] == 0
    facts = load_weights(load_bundle("drawn", "cpu").folder / "f_net.pt", "f_net")[1]
    assert facts["method"] == "DOC" and facts["settings"]["compactness"] == 2.0
    assert facts["settings"]["learning_rate"] == 5e-5 and "compactness" in facts["metrics"]
    words = [*words, "--train-fnet", "--no-instant"]
    assert run("prepare", "--name", "prepared", *words)[0] == 0
    assert load_weights(load_bundle("prepared", "cpu").folder / "f_net.pt", "f_net")[1]["method"] == "DOC"


def test_f_can_be_trained_to_be_robust(run, start: Path) -> None:
    free = [word for word in F_NET if word not in ("--frozen-blocks", "0")]

    def settings_of(name: str) -> tuple[dict, dict]:
        facts = load_weights(load_bundle(name, "cpu").folder / "f_net.pt", "f_net")[1]
        return facts, facts["settings"]

    assert run("train-fnet", "--name", "a", *DATA, *free, "--start", start, "--robust")[0] == 0
    facts, settings = settings_of("a")
    assert settings["robust_eps"] == 1.5 and settings["frozen_blocks"] == 0
    assert facts["method"] == "L2-softmax, robust (ε = 1.5)"
    words = [
        *free,
        "--start",
        "a",
        "--robust",
        "--robust-eps",
        0.5,
        "--robust-steps",
        2,
        "--frozen-blocks",
        3,
    ]
    assert run("train-fnet", "--name", "b", *DATA, *words)[0] == 0
    facts, settings = settings_of("b")
    assert [settings[key] for key in ("robust_eps", "robust_steps", "frozen_blocks")] == [0.5, 2, 3]
    assert facts["starting_weights"].startswith("f-Net of the bundle 'a' ")


@pytest.mark.parametrize("limit", ["0", "all"])
def test_f_can_learn_from_every_image(run, start: Path, tmp_path: Path, limit: str) -> None:
    data = folder_of(tmp_path, "classes")
    shutil.copytree(data / "train/nut", data / "train/bolt")
    words = ["--data", data, "--normal", "nut", "--size", 32, "--device", "cpu", *F_NET, "--start", start]
    learned = []
    for some in (["--limit", 12], ["--limit", limit]):
        assert run("train-fnet", "--name", "f", *words, *some)[0] == 0
        facts = load_weights(load_bundle("f", "cpu").folder / "f_net.pt", "f_net")[1]
        learned.append((facts["images"], facts["limit"]))
    assert learned == [(12, 12), (len(open_set(str(data), "train")), None)]


def test_prepare_goes_on_with_the_training_of_f(run, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*DATA, *F_NET, "--start", start, "--epochs", 3, "--train-fnet", "--steps", 2]
    update, seen, stop = Progress.update, [], ("f-Net", 5)

    def watched(self: Progress, stage: str, done: int, total: int, **metrics: float) -> None:
        if stage == "f-Net":
            seen.append(done)
        if (stage, done) == stop:
            raise KeyboardInterrupt
        update(self, stage, done, total, **metrics)

    def steps_of_f() -> list[int]:
        found = list(seen)
        seen.clear()
        return found

    monkeypatch.setattr(Progress, "update", watched)
    assert run("prepare", "--name", "made", *words)[0] == 130
    assert steps_of_f() == [1, 2, 3, 4, 5]
    stop = ("instant U-Net", 1)
    assert run("prepare", "--name", "made", *words)[0] == 130
    assert steps_of_f() == [5, 6]
    stop = ("", 0)
    assert run("prepare", "--name", "made", *words)[0] == 0
    assert steps_of_f() == [6]  # it is kept
    assert run("train-fnet", "--name", "made", *words[:-3], "--fresh")[0] == 0
    assert steps_of_f() == [1, 2, 3, 4, 5, 6]


def test_a_trained_identity_net_can_be_had(run, start: Path) -> None:
    status, shown, _ = run(
        "train-unet", "--bundle", "tiny", "--start", "trained", "--steps", 2, "--batch", 4, "--json"
    )
    assert status == 0
    assert math.isfinite(json.loads(shown)["figures"]["identity U-Net"]["L_R"])
    assert not load_bundle("tiny", "cpu").identity.image_skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prepare", "--name", "A b", *DATA], "can't be a bundle's name"),
        (["prepare", "--name", "../x", *DATA], "is no bundle"),
        (["train-fnet", "--name", "n", *DATA, "--width", "0.7"], "MobileNetV2's width is one of"),
        (["train-fnet", "--name", "n", *DATA, "--epochs", "0"], "The epochs must lie between"),
        (["train-fnet", "--name", "n", *DATA, "--limit", "3"], "F needs 10 images or more"),
        (["train-fnet", "--name", "n", *DATA, "--limit", "most"], "a number of images or 'all', not 'most'"),
        (["train-fnet", "--name", "n", *DATA, "--size", "50"], "multiple of 16"),
        (["prepare", "--name", "n", *DATA, "--size", "50"], "multiple of 16 between 32 and 512, not 50"),
        (["prepare", "--name", "n", *DATA, "--size", "1024"], "multiple of 16 between 32 and 512"),
        (["prepare", "--name", "n", "--data", "textures"], "'textures' has 10 classes: name the normal one"),
        (["prepare", "--name", "n", *DATA, "--epochs", "2"], "--epochs is about an F of its own"),
        (["prepare", "--name", "n", *DATA, "--frozen-blocks", "0"], "--frozen-blocks is about an F"),
        (["prepare", "--name", "n", *DATA, "--objective", "doc"], "--objective is about an F of its own"),
        (["prepare", "--name", "n", *DATA, "--robust"], "--robust is about an F of its own"),
        (["train-fnet", "--name", "n", *DATA, "--start", "tiny"], "'tiny' has width 0.5 and not 1"),
        (["train-fnet", "--name", "n", *DATA, "--robust-eps", "-1"], "radius of adversarial images must lie"),
        (["train-fnet", "--name", "n", *DATA, "--objective", "svdd"], "no objective 'svdd' for F: choose"),
        (["prepare", "--name", "n", *DATA, "--steps", "0"], "The instant U-Net's number of steps must lie"),
        (["train-instant", "--bundle", "tiny", "--depth", "9"], "The instant U-Net's depth must lie"),
        (["train-instant", "--bundle", "tiny", "--size", "64"], "works at 32 px and not at 64"),
        (["train-instant", "--bundle", "tiny", "--normal", "silk"], "has no class 'silk'"),
        (["train-fnet", "--name", "n", *DATA, "--exclude", "streaks"], "is the normal class"),
        (["train-fnet", "--name", "n", *DATA, "--exclude", "silk"], "has no class 'silk'"),
        (["train-fnet", "--name", "n", "--data", "absent", "--normal", "x"], "There is no data set 'absent'"),
        (["train-fnet", "--name", "n", *DATA, "--start", "absent.pth"], "absent.pth is missing"),
        (["center", "--bundle", "tiny", "--count", "4"], "C needs 5 normal images or more, not 4"),
        (["center", "--bundle", "absent"], "There is no bundle 'absent'"),
        (["center", "--bundle", "tiny", "--data", "textures"], "name the normal one with --normal (streaks"),
        (["train-anogan", "--bundle", "tiny", "--steps", "0"], "AnoGAN's number of steps must lie"),
        (["train-unet", "--bundle", "tiny", "--batch", "1"], "The U-Net's batch must lie"),
    ],
)
def test_bad_input_for_training_ends_with_one_line(
    run, weights: Path, words: list[str], sentence: str
) -> None:
    status, _, error = run(*words)
    assert status == 2
    assert sentence in one_line(error)
    assert [path.name for path in weights.iterdir()] == ["tiny"]


# --- what there is -----------------------------------------------------------------------------------


def test_samples_are_images_and_their_masks(run, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    status, shown, _ = run("samples", "--count", 6, "--size", 32, "--out", out, "--json")
    assert status == 0
    assert len(json.loads(shown)["samples"]) == 6
    with (out / "samples.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["file", "class", "defect", "mask"]
    assert {row["class"] for row in table} == {"streaks"}
    assert sum(bool(row["defect"]) for row in table) == 3
    for row in table:
        assert Image.open(out / row["file"]).size == (32, 32)
        mask = np.asarray(Image.open(out / row["mask"]))
        assert set(np.unique(mask)) <= {0, 255} and mask.any() == bool(row["defect"])
    assert run("visualize", out, "--bundle", "tiny", "--out", tmp_path / "out", "--steps", 0)[0] == 0
    assert len(rows(tmp_path / "out")) == 6  # the masks are no images to look at


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--count", "0"], "must be 1 or more"),
        (["--count", "200000"], "1 to 100000 images"),
        (["--size", "33"], "multiple of 16"),
        (["--normal", "silk"], "no class 'silk'"),
        (["--data", "absent"], "There is no data set 'absent'"),
    ],
)
def test_samples_that_cannot_be_had(run, tmp_path: Path, words: list[str], sentence: str) -> None:
    status, _, error = run("samples", "--out", tmp_path / "out", *words)
    assert status == 2
    assert sentence in one_line(error)


def test_datasets(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOUNET_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    for number in range(9):
        path = tmp_path / "data" / "pets" / "train" / "cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not read")
    status, shown, _ = run("datasets", "--json")
    assert status == 0
    textures, pets = json.loads(shown)
    assert textures["name"] == "textures" and textures["where"] == "embedded" and textures["test"] > 0
    assert pets["name"] == "pets" and pets["classes"] == "cat"
    assert pets["train"] + pets["validation"] == 9
    assert "| textures |" in run("datasets")[1]


def test_bundles(run, weights: Path) -> None:
    (weights / "broken").mkdir()
    (weights / "broken" / "bundle.json").write_text("{")
    status, shown, _ = run("bundles", "--json")
    assert status == 0
    broken, good = json.loads(shown)
    assert broken["name"] == "broken" and "bundle.json is damaged" in broken["error"]
    assert (good["name"], good["normal"], good["size"], good["error"]) == ("tiny", "streaks", 32, "")
    assert good["modes"] == ", ".join(("instant", "fast", "article", *RIVALS))
    assert "| tiny" in run("bundles")[1]
    save_part("young", f_net=tiny.f_net(), size=32)
    assert json.loads(run("bundles", "--json")[1])[2]["modes"] == "none yet"
    save_part("young", local=tiny.tiny_local_centers(tiny.f_net()), identity=tiny.identity())
    assert json.loads(run("bundles", "--json")[1])[2]["modes"] == "fast, article"


def test_the_time_left_is_counted_from_where_a_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    for done in (50, 51, 60):
        progress.update("training", done, 100, L=0.5)
        now[0] += 20
    progress.update("next", 1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training  50/100  L 0.5"
    assert lines[1].endswith("51/100  L 0.5  16 min left")  # 20 s a step
    assert lines[2].endswith("60/100  L 0.5  3 min left")  # ten steps in 40 s
    assert lines[3] == "next  1/1"


def test_version_and_help(run) -> None:
    status, shown, _ = run("--version")
    assert status == 0 and shown.startswith("anounet ")
    status, shown, _ = run("--help")
    assert status == 0
    assert all(
        command in shown
        for command in ("visualize", "compare", "prepare", "bench", "samples", "train-instant")
    )


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_a_reader_that_went_away_is_no_error(weights: Path, unbuffered: str) -> None:
    """`python -m anounet … | head`, its reader closing before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "anounet", "bundles"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


# --- bench -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_speed_prints_a_table(run, weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    words = ["bench", "speed", "--bundle", "tiny", "--images", 3, "--methods", "fast", "--json", file]
    status, shown, error = run(*words, "--device", "cpu")
    assert status == 0, error
    head, rule, row = [line for line in shown.splitlines() if line.startswith("|")]
    assert "method" in head and "s/image" in head and "peak MB" in head
    assert set(rule) <= {"|", "-"}
    assert row.split("|")[1].strip() == "fast" and "β 4, 3 steps" in row
    (measured,) = json.loads(file.read_text(encoding="utf-8"))["methods"]
    assert measured["images"] == 3 and measured["seconds"] > 0 and measured["peak_mb"] > 50
    assert 0 <= measured["pixel_auroc"] <= 1


def test_bench_speed_measures_what_the_bundle_has(
    run, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = bench.script("speed")
    monkeypatch.setattr(speed, "_in_own_process", lambda m, _: speed.measure(m, "tiny", 3, "cpu"))
    monkeypatch.setattr(speed, "METHODS", ("instant", "nothing", "f-anogan", "decoder"))
    monkeypatch.setattr(bench, "script", lambda name: speed)
    status, shown, error = run("bench", "speed", "--bundle", "tiny", "--images", 3)
    assert status == 0, error
    rows = [line for line in shown.splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == ["instant", "f-AnoGAN", "decoder"]
    assert all(row.split("|")[-2].strip() == "one pass" for row in rows)
    assert {row.split("|")[5].strip() for row in rows} <= {"8", "16", "32"}


def test_bench_speed_refuses_too_few_images(run) -> None:
    status, _, error = run("bench", "speed", "--images", 2)
    assert status == 2
    assert "3 images or more" in one_line(error)
