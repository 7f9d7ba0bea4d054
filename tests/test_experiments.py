"""Experiments: which images, what is measured on them, how it is kept, drawn and told; and their commands."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from anounet import training
from anounet.anogan import SearchSettings
from anounet.anomaly_map import SCALE_TOP, colorize
from anounet.bundle import Bundle, load_bundle, read_info, save_part, verify
from anounet.center import compute_center, features_of
from anounet.cli import main
from anounet.datasets import DataError, ImageSet, TextureSet, open_set
from anounet.experiments import (
    FILE,
    PICTURE,
    TITLES,
    ExperimentSettings,
    Outcome,
    Report,
    choice,
    draw_figure,
    experiment,
    findings,
    judge,
    judged_rows,
    measure,
    method_rows,
    methods,
    outdated,
    run,
    save_report,
    saved_report,
)
from anounet.experiments.choice import test_images as images_of
from anounet.experiments.figure import PERCENTILES, Drawn, FigureRow, picks
from anounet.experiments.memory import PeakMemory
from anounet.experiments.report import Judge, Judged, Row, Shown
from anounet.images import ImageError, to_pixels
from anounet.metrics import image_auroc, pixel_auroc
from anounet.prepare import DataChoice, Stage, choice_of
from anounet.presets import PRESETS
from anounet.sheet import GAP
from anounet.storage import WeightsError
from anounet.training import TrainingStep
from anounet.visualization import drain, visualize_many

METHODS = {method: title for method, title in TITLES.items() if method != "f-distance"}  # F's score is it
SETTINGS = ExperimentSettings(images=6, fast_images=5, article_images=2, anogan_images=3, refine=1)
WITHOUT_SLOW = replace(SETTINGS, article_images=0, anogan_images=0)
STEPS = {"article": {"steps": 1}, "fast": {"steps": 1}, "fast-local": {"steps": 1}}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "SearchSettings", lambda: SearchSettings(steps=2))


@pytest.fixture
def quick(weights: Path) -> Bundle:
    """The bundle "tiny" with few steps in every mode."""
    save_part("tiny", settings=STEPS)
    return load_bundle("tiny", "cpu")


def outcome_of(bundle: Bundle, settings: ExperimentSettings = WITHOUT_SLOW) -> Outcome:
    return drain(run(experiment("tiny"), bundle, settings, command="python -m anounet …"))


@pytest.fixture(scope="module")
def everything(_made_once: Path) -> tuple[Outcome, list[Stage]]:
    """All methods with the bundle "tiny", and what was said meanwhile."""
    stages: list[Stage] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOUNET_WEIGHTS", str(_made_once))
        patch.setattr(methods, "SearchSettings", lambda: SearchSettings(steps=2))
        bundle = load_bundle("tiny", "cpu")
        bundle = replace(bundle, info=dict(bundle.info) | {"settings": STEPS})
        return drain(run(experiment("tiny"), bundle, SETTINGS), stages.append), stages


@pytest.fixture
def outcome(everything: tuple[Outcome, list[Stage]]) -> Outcome:
    return everything[0]


# --- which ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_an_experiment(weights: Path, name: str) -> None:
    chosen = experiment(name)
    assert chosen.preset is PRESETS[name] and chosen.title == PRESETS[name].title
    with pytest.raises(
        WeightsError, match=f"no bundle '{name}' yet: '.* prepare --preset {name} .*' makes it"
    ):
        chosen.bundles()


def test_a_bundle_is_an_experiment_too_and_dagm_the_star_s(weights: Path) -> None:
    assert experiment("tiny").preset is None and experiment("tiny").bundles() == ["tiny"]
    assert experiment("dagm").name == "dagm-star"
    for name in ("nothing", str(weights / "tiny")):
        with pytest.raises(ValueError, match=r"no experiment|is no bundle"):
            experiment(name)


def test_the_command_that_makes_a_bundle_trains_f_where_classes_are_left_out(weights: Path) -> None:
    assert "--train-fnet" in experiment("cifar10-horse").command()
    assert "--train-fnet" not in experiment("dagm-star").command()
    robust = experiment("dagm-star").command("robust")
    assert "--train-fnet --robust" in robust and robust.endswith("--name dagm-star-robust")


def test_variants_are_the_bundles_of_that_name(weights: Path) -> None:
    chosen = experiment("tiny")
    with pytest.raises(WeightsError, match="no bundle 'tiny-robust' yet"):
        chosen.bundles("robust")
    save_part("tiny-robust", f_net=tiny.f_net(1), size=32)
    assert chosen.bundles() == ["tiny", "tiny-robust"]
    assert chosen.bundles("plain") == ["tiny"] and chosen.bundles("robust") == ["tiny-robust"]


def test_a_bundle_of_another_class_is_not_the_experiment_s(weights: Path) -> None:
    save_part("textures-streaks", f_net=tiny.f_net(), size=32, data="textures", normal="wood", exclude=[])
    with pytest.raises(DataError, match="is of 'wood' and the experiment 'textures-streaks' of 'streaks'"):
        experiment("textures-streaks").choice("textures-streaks")


def test_data_that_is_missing_is_said_in_one_sentence(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOUNET_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_part("cifar10-horse", f_net=tiny.f_net(), size=32, data="cifar10", normal="horse", exclude=["deer"])
    with pytest.raises(DataError, match="needs the data set 'cifar10'"):
        experiment("cifar10-horse").choice("cifar10-horse")


def test_images_come_from_the_test_split_and_anomalies_are_defects_or_classes_left_out() -> None:
    defects = images_of(DataChoice(size=32), SETTINGS)
    items = defects.images.items
    assert defects.images.split == "test" and defects.masks
    assert all((items[i].class_name, items[i].defect) == ("streaks", "") for i in defects.normals)
    assert all(items[i].class_name == "streaks" and items[i].defect for i in defects.anomalies)
    assert len(defects.normals) == len(defects.anomalies) == 6
    other = images_of(DataChoice(size=32), replace(SETTINGS, seed=1))
    assert other.anomalies != defects.anomalies
    left_out = images_of(DataChoice(size=32, exclude=("wood",)), replace(SETTINGS, images=120))
    kinds = {(items[i].class_name, bool(items[i].defect)) for i in left_out.anomalies}
    assert kinds == {("streaks", True), ("wood", False)} and not left_out.masks
    assert left_out.normals == images_of(DataChoice(size=32), replace(SETTINGS, images=120)).normals


def test_a_split_with_nothing_to_find_is_refused(tmp_path: Path) -> None:
    for number, pixels in enumerate(tiny.pixels(12)):
        (tmp_path / "one").mkdir(exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "one" / f"{number}.png")
    choice = DataChoice(str(tmp_path / "one"), open_set(str(tmp_path / "one"), "test").classes[0], size=32)
    with pytest.raises(DataError, match="0 anomalous ones, and 2 or more of each are needed"):
        images_of(choice, SETTINGS)


@pytest.mark.parametrize(
    "field", [{"images": 1}, {"article_images": -1}, {"anogan_images": -1}, {"refine": 0}]
)
def test_numbers_of_images_out_of_range_are_refused(field: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        ExperimentSettings(**field)


# --- what is measured -------------------------------------------------------------------------------


def test_every_method_is_measured_and_says_on_how_many_images(outcome: Outcome, weights: Path) -> None:
    report = outcome.report
    assert [row.method for row in report.rows] == list(METHODS)
    counts = {row.method: (row.normals, row.anomalies) for row in report.rows}
    assert counts.pop("article") == (2, 2) and counts.pop("anogan") == (3, 3)
    assert {counts.pop(method) for method in ("fast", "fast-local", "refined")} == {(5, 5)}
    assert set(counts.values()) == {(6, 6)}
    for row in report.rows:
        assert 0 <= row.score_auroc <= 1 and row.seconds > 0 and row.memory_mb >= 0 and not row.left_out
        assert (row.peak_auroc is None) is (row.pixel_ap is None) is (row.method == "f-score")
        redraws = row.method not in ("f-score", "nearest")
        assert (row.change_anomalous is not None) is (row.judged is not None) is redraws
    assert report.row("article").settings == "β 80, 1 steps"
    assert (report.normals, report.anomalies, report.size) == (6, 6, 32)
    assert report.files == read_info("tiny")["files"] and report.notes == ()


def test_numbers_are_those_of_the_images(quick: Bundle, outcome: Outcome) -> None:
    images = images_of(choice_of(read_info("tiny")), SETTINGS)
    chosen = [*images.normals, *images.anomalies]
    x, labels = torch.cat(list(images.images.batches(chosen, 32))), np.arange(12) >= 6
    results = list(visualize_many(x, quick, quick.settings("instant")))
    row = outcome.report.row("instant")
    assert row.score_auroc == pytest.approx(image_auroc([r.score for r in results], labels))
    peaks = [float(r.anomaly_map.max()) for r in results]
    assert row.peak_auroc == pytest.approx(image_auroc(peaks, labels))
    maps = torch.stack([r.anomaly_map for r in results]).numpy()
    assert row.pixel_auroc == pytest.approx(pixel_auroc(maps, images.images.masks(chosen, 32)), abs=1e-3)
    changes = [float((r.x - r.y).abs().mean()) for r in results]
    assert row.change_normal == pytest.approx(np.mean(changes[:6]), rel=1e-3)
    assert row.change_anomalous == pytest.approx(np.mean(changes[6:]), rel=1e-3)
    assert row.ratio == pytest.approx(np.mean(changes[6:]) / np.mean(changes[:6]), rel=1e-3)
    y = torch.stack([r.y for r in results])
    change = quick.classifier.change(x, y, "streaks", "streaks defective")
    bad, good = slice(6, 12), slice(0, 6)
    assert row.judged.change == pytest.approx(float(change.difference[bad].mean()), abs=1e-4)
    assert row.judged.towards == pytest.approx(float((change.difference[bad] > 0).float().mean()))
    called = change.before[bad] < 0
    assert row.judged.called == int(called.sum())
    fine = change.before[good] > 0
    assert row.judged.called_normal == int(fine.sum())
    for value, flags, among in (
        (row.judged.flips, change.flips[bad], called),
        (row.judged.kept, change.after[good] > 0, fine),
    ):
        assert value == (pytest.approx(float(flags[among].float().mean())) if among.any() else None)
    assert outcome.report.judge.normal_right == pytest.approx(float(fine.float().mean()))
    assert outcome.report.judge.anomalous_right == pytest.approx(float(called.float().mean()))
    distance = torch.stack([r.maps["distance"] for r in results])
    assert outcome.report.row("nearest").peak_auroc == pytest.approx(
        image_auroc(distance.amax(dim=(1, 2)).numpy(), labels)
    )
    scores = quick.center.score(features_of(quick.f_net, x)).numpy()
    assert outcome.report.row("f-score").score_auroc == pytest.approx(image_auroc(scores, labels))


def test_flips_are_among_those_that_were_called_anomalous() -> None:
    tally = measure._Tally()
    tally.judged("anomalous", torch.tensor([-1.0, -1.0, 1.0, -3.0]), torch.tensor([1.0, -2.0, 2.0, -1.0]))
    tally.judged("normal", torch.tensor([1.0, -1.0, 2.0]), torch.tensor([-1.0, 1.0, 2.0]))
    judged = tally.row("instant", "", 0.0).judged
    assert (judged.called, judged.flips) == (3, pytest.approx(1 / 3))
    assert (judged.called_normal, judged.kept) == (2, 0.5)
    assert judged.change == pytest.approx((2 - 1 + 1 + 2) / 4) and judged.towards == 0.75


def test_the_distance_map_is_that_of_instant_mode(quick: Bundle) -> None:
    x = torch.cat([tiny.images(2), tiny.defective(2)])
    answers = drain(methods.ask("nearest", x, quick, 1))
    for answer, result in zip(answers, visualize_many(x, quick, quick.settings("instant")), strict=True):
        assert torch.allclose(answer.anomaly_map, result.maps["distance"], atol=1e-4)
        assert answer.scale == result.scales["distance"] and answer.y is None
        assert answer.score == pytest.approx(float(answer.anomaly_map.max()) / answer.scale)


def test_a_search_that_diverges_and_a_score_that_is_no_number_are_no_answers(
    quick: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: object) -> Iterator[object]:
        raise ArithmeticError("diverged")
        yield

    whole, x = methods.visualize_many, tiny.images(3)

    def without_a_number(*arguments: object) -> Iterator[object]:
        return (replace(result, score=float("nan")) for result in whole(*arguments))

    monkeypatch.setattr(methods, "visualize_rival", diverges)
    monkeypatch.setattr(methods, "visualize_many", without_a_number)
    for method in ("decoder", "instant"):
        answers = drain(methods.ask(method, x, quick, 1))
        assert len(answers) == 3 and all(isinstance(answer, ArithmeticError) for answer in answers)


def test_the_figure_s_images_are_picked_by_rule() -> None:
    scores = {10 + i: float(100 - i) for i in range(101)}
    assert picks(scores, (50, 1, 99)) == {60: 50, 109: 1, 11: 99}
    assert picks({1: 0.5, 2: 0.1}, (50, 1, 99, 25, 75)) == {2: 50, 1: 99}
    assert picks({1: 0.5}, (50, 1)) == {1: 50}


def test_a_method_with_time_for_few_takes_the_figure_s_images(outcome: Outcome) -> None:
    by_kind = {
        kind: [row for row in outcome.figure if row.shown.kind == kind] for kind in ("anomalous", "normal")
    }
    assert [row.shown.percentile for row in by_kind["anomalous"]] == [1, 25, 50, 75, 99]
    assert [row.shown.percentile for row in by_kind["normal"]] == [1, 50, 99]
    for rows in by_kind.values():
        assert all(a.shown.score <= b.shown.score for a, b in pairwise(rows))
        article = {row.shown.percentile for row in rows if "article" in row.drawn}
        assert article == set(PERCENTILES[rows[0].shown.kind][:2])
        assert all(row.drawn.keys() >= {"instant", "refined", "fast", "decoder", "nearest"} for row in rows)
    assert outcome.report.shown == tuple(row.shown for row in outcome.figure)


def test_the_figure_alone_takes_its_images_alone(quick: Bundle) -> None:
    settings = replace(WITHOUT_SLOW, images=12, only_figure=True)
    outcome = outcome_of(quick, settings)
    report = outcome.report
    assert report.row("article") is None and report.row("anogan") is None
    assert (report.row("f-score").normals, report.row("f-score").anomalies) == (12, 12)
    assert (report.row("instant").normals, report.row("instant").anomalies) == (5, 5)
    assert all("instant" in row.drawn for row in outcome.figure)


def test_settings_are_chosen_on_other_images_than_the_reported_ones(
    quick: Bundle, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    whole = choice.open_set
    monkeypatch.setattr(choice, "open_set", lambda *a, **b: opened.append(a[1]) or whole(*a, **b))
    without = ("--fast-images", 0, "--article-images", 0, "--anogan-images", 0, "--device", "cpu")
    status, shown, _ = command("experiment", "tiny", "--images", 4, *without, "--split", "validation")
    assert status == 0 and opened == ["validation"]
    assert "textures, validation split" in shown and "4 anomalous validation images" in shown


def test_the_article_s_score_stands_beside_another_one(quick: Bundle) -> None:
    x = tiny.images(20)
    *_, found = compute_center(quick.f_net, [x], len(x), metric="mahalanobis")
    other = replace(quick, center=found.center, local=None, instant=None)
    settings = replace(WITHOUT_SLOW, fast_images=0, anogan_images=0)
    report = outcome_of(replace(other, anogan=None, encoder=None, decoder=None), settings).report
    assert [row.method for row in report.rows] == ["f-score", "f-distance"]
    assert [row.settings for row in report.rows] == ["Mahalanobis distance", "mean abs(F(x) − C)"]
    assert all(row.peak_auroc is None and row.change_normal is None for row in report.rows)
    assert "f-distance" not in methods.methods_of(quick)  # whose score is the article's


def test_a_bundle_is_asked_for_what_it_has(quick: Bundle) -> None:
    bare = replace(quick, local=None, instant=None, anogan=None, encoder=None, decoder=None, classifier=None)
    report = outcome_of(bare, replace(WITHOUT_SLOW, images=2, article_images=2)).report
    assert [row.method for row in report.rows] == ["f-score", "article", "fast"]
    assert report.judge is None and all(row.judged is None for row in report.rows)
    assert any("train-classifier" in note for note in report.notes)
    with pytest.raises(WeightsError, match="has no C yet"):
        outcome_of(replace(quick, center=None))


def test_a_second_classifier_of_other_classes_is_not_asked(quick: Bundle) -> None:
    other = replace(quick, classifier=tiny.classifier(("streaks", "wood")))
    report = outcome_of(other).report
    assert report.judge is None and "does not know 'streaks'" in report.notes[0]


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(
    quick: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = images_of(choice_of(read_info("tiny")), SETTINGS).anomalies[2]
    whole = TextureSet.pixels

    def pixels(self: TextureSet, index: int, size: int) -> np.ndarray:
        if index == broken:
            raise ImageError("broken.png is damaged.")
        return whole(self, index, size)

    monkeypatch.setattr(TextureSet, "pixels", pixels)
    report = outcome_of(quick).report
    assert report.notes == ("Left out: broken.png is damaged.",)
    counts = {row.method: (row.normals, row.anomalies) for row in report.rows}
    assert {counts.pop(method) for method in ("fast", "fast-local", "refined")} == {(5, 5)}  # have fewer
    assert set(counts.values()) == {(6, 5)} and report.anomalies == 5


def test_an_image_without_an_answer_costs_only_itself(quick: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = methods.visualize_many

    def one_diverges(images: object, *rest: object) -> Iterator[object]:
        for number, result in enumerate(whole(images, *rest)):
            yield ArithmeticError("diverged") if number == 1 else result

    monkeypatch.setattr(methods, "visualize_many", one_diverges)
    report = outcome_of(quick).report
    row = report.row("instant")
    assert (row.left_out, row.normals, row.anomalies) == (2, 5, 5)  # one of each batch
    assert report.row("decoder").left_out == 0


def test_batches_are_read_as_they_are_needed_and_a_stop_ends_the_work(
    quick: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = ImageSet.readable

    def watched(self: ImageSet, indices: list[int], size: int) -> tuple:
        sizes.append(len(indices))
        return whole(self, indices, size)

    monkeypatch.setattr(ImageSet, "readable", watched)
    monkeypatch.setattr("anounet.experiments.measure.USUAL_BATCH", 4)
    stream = run(experiment("tiny"), quick, SETTINGS)
    seen = [next(stream) for _ in range(3)]
    assert {stage.name for stage in seen} == {"F's score"} and max(sizes) == 4 and len(sizes) <= 4
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_progress_ends_each_method_with_its_figure(everything: tuple[Outcome, list[Stage]]) -> None:
    _, stages = everything
    names = list(dict.fromkeys(stage.name for stage in stages))
    assert set(names) == set(METHODS.values()) and names[0] == "F's score"
    for name in names:
        own = [stage for stage in stages if stage.name == name]
        assert all(a.done <= b.done for a, b in pairwise(own))
        assert own[-1].done == own[-1].total and "image AUROC" in own[-1].metrics


def test_memory_that_is_taken_is_seen() -> None:
    gc.collect()
    memory = PeakMemory(torch.device("cpu"))
    taken = torch.ones(200 * 2**18)
    assert taken.sum() > 0
    del taken
    assert 100 < memory.growth < 300
    if os.access("/proc/self/clear_refs", os.W_OK):
        assert PeakMemory(torch.device("cpu")).growth < 50  # what was taken before does not count


# --- how it is kept, drawn and told -------------------------------------------------------------------


def test_a_report_comes_back_from_its_json(outcome: Outcome) -> None:
    value = json.loads(json.dumps(outcome.report.to_json(), allow_nan=False))
    again = Report.from_json(value)
    assert again.to_json() == outcome.report.to_json()
    assert again.shown == tuple(replace(s, score=float(f"{s.score:.6g}")) for s in outcome.report.shown)
    assert again.row("instant").judged.called == outcome.report.row("instant").judged.called


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"rows": None},
        {"rows": [{"method": "instant"}]},
        {"normals": "many"},
        {"normals": True},
        {"unknown": 1},
        {"judge": 5},
    ],
)
def test_a_damaged_report_is_named(weights: Path, outcome: Outcome, change: dict[str, object]) -> None:
    save_report(outcome.report)
    path = weights / "tiny" / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"json is damaged .* 'python -m anounet experiment tiny"):
        saved_report("tiny")


def test_what_is_kept_beside_a_bundle_is_no_part_of_it(weights: Path, outcome: Outcome) -> None:
    assert saved_report("tiny") is None
    save_report(outcome.report, b"a picture")
    assert (weights / "tiny" / PICTURE).read_bytes() == b"a picture"
    assert saved_report("tiny").to_json() == outcome.report.to_json()
    assert all(verify("tiny").values()) and FILE not in verify("tiny")
    assert not outdated(saved_report("tiny"))
    save_part("tiny", identity=tiny.identity(), center=tiny.center(tiny.f_net(), 10))
    assert outdated(saved_report("tiny"))
    save_report(outcome.report)
    assert not (weights / "tiny" / PICTURE).exists()  # it would be of other numbers
    (weights / "tiny" / FILE).write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match="is damaged"):
        saved_report("tiny")


def test_the_figure_shows_each_image_and_what_each_method_makes_of_it() -> None:
    def row(value: int, **drawn: Drawn) -> FigureRow:
        shown = Shown("anomalous", 50, "a", "band", 0.5)
        return FigureRow(shown, np.full((32, 32, 3), value, np.uint8), drawn)

    y, heat = np.full((32, 32, 3), 90, np.uint8), np.full((32, 32, 3), 120, np.uint8)
    full, bare = Drawn(y, heat, 1.0), Drawn(None, heat, 1.0)
    picture = draw_figure([row(10, instant=full, nearest=bare), row(20, nearest=bare)])
    at = 124 + GAP + (32 + GAP) * np.arange(4)  # image, distance, instant as normal, its map
    assert picture.shape[1] == at[-1] + 32
    first, second = 30 + 16, 30 + 32 + GAP + 16
    assert [int(picture[first, x + 16, 0]) for x in at] == [10, 120, 90, 120]
    assert [int(picture[second, x + 16, 0]) for x in at] == [20, 120, 240, 240]
    assert (picture[:30] == 0).any() and (picture[30:62, :124] < 255).any()  # words above, words beside


def test_a_map_is_drawn_on_its_fixed_scale(quick: Bundle) -> None:
    outcome = outcome_of(quick)
    images = images_of(choice_of(read_info("tiny")), SETTINGS)
    names = {images.images.items[i].name: i for i in (*images.normals, *images.anomalies)}
    for row in outcome.figure:
        pixels = images.images.pixels(names[row.shown.name], 32)
        assert np.array_equal(row.original, pixels)
        x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
        (result,) = visualize_many([x], quick, quick.settings("instant"))
        drawn = row.drawn["instant"]
        assert np.abs(drawn.normalised.astype(int) - to_pixels(result.y)).max() <= 1
        heat = colorize((result.anomaly_map / (SCALE_TOP * result.scale)).numpy())
        assert np.abs(drawn.heat.astype(int) - heat).mean() < 1
        assert drawn.peak == pytest.approx(float(result.anomaly_map.max()) / result.scale, rel=1e-3)


def report_of(**rows: dict[str, float]) -> Report:
    empty = Row(
        "", "", 50, 50, 0, 0.8, 0.7, None, None, 0.1, 1.0, 0.01, 0.02, Judged(1.5, 0.9, 40, 0.5, 48, 1.0)
    )
    return Report(
        experiment="x",
        title="X",
        bundle="x",
        files={},
        f_net="",
        data="d",
        normal="horse",
        anomalous=("deer",),
        size=96,
        settings={},
        normals=50,
        anomalies=50,
        rows=tuple(replace(empty, method=method, **changes) for method, changes in rows.items()),
        judge=Judge("horse", ("deer",), 0.9, 0.97, 0.93, "", 0.5),
        shown=(),
        notes=(),
        command="",
        device="CPU",
        made="",
        versions={},
    )


def test_the_text_is_made_of_the_numbers() -> None:
    less = Judged(0.2, 0.6, 40, 0.1, 48, 1.0)
    score = {"score_auroc": 0.88, "change_anomalous": None, "judged": None}
    few = {"judged": replace(less, called=2, flips=1.0)}
    rows = {"f-score": score, "article": few, "fast": {"peak_auroc": 0.71}, "instant": {"judged": less}}
    told = findings(report_of(**rows))
    assert "50 anomalous test images (deer) and 50 normal ones of 'horse'" in told
    assert "image AUROC of 0.88" in told
    assert "fast) changes anomalous images 2.0 times as much" in told and "AUROC of 0.71" in told
    assert "right about 97% of the normal and 93% of the anomalous images" in told
    assert "90% of the changes go towards 'horse', and of the 40 images it called anomalous 50% flip" in told
    assert "fast flips most (50% of 40) and instant fewest (10% of 40)" in told
    assert "decoder" not in told and "To the pixel" not in told
    pixels = findings(report_of(fast={}, instant={"pixel_auroc": 0.99, "pixel_ap": 0.5}))
    assert "instant) changes" in pixels and "To the pixel its map has an AUROC of 0.990" in pixels
    assert "classifier" not in findings(replace(report_of(**rows), judge=None))
    why = findings(
        report_of(instant={"pixel_auroc": 0.99}, decoder={"change_anomalous": 0.0102, "peak_auroc": 0.55})
    )
    assert "The decoder fails here" in why and "it blurs all of 'horse'" in why and "direction" not in why


def test_an_auroc_of_few_images_is_not_shown() -> None:
    report = report_of(article={"normals": 4, "score_auroc": 1.0}, fast={"normals": 5, "score_auroc": 1.0})
    assert [row["AUROC, score"] for row in method_rows(report)] == [None, "1.000"]


@pytest.mark.parametrize(
    ("anomalous", "auroc", "sentence"),
    [
        (
            0.0102,
            0.55,
            "The decoder fails here (it changes them 1.02 times as much as normal ones, AUROC 0.55)",
        ),
        (0.03, 0.55, "The decoder finds anomalies here"),
        (0.0102, 0.95, "The decoder finds anomalies here"),
    ],
)
def test_the_text_says_where_the_decoder_fails(anomalous: float, auroc: float, sentence: str) -> None:
    told = findings(report_of(decoder={"change_anomalous": anomalous, "peak_auroc": auroc}))
    assert sentence in told


def test_tables_have_a_row_a_method_and_dashes_where_nothing_is_known(outcome: Outcome) -> None:
    rows = method_rows(outcome.report)
    assert [row["method"] for row in rows] == list(METHODS.values())
    assert rows[0]["pixel AP"] is None and rows[0]["images"] == "6 + 6" and rows[-1]["images"] == "5 + 5"
    judged = judged_rows(outcome.report)
    assert len(judged) == len(METHODS) - 2 and judged[-1]["towards normal"].endswith("%")
    without = judged_rows(replace(outcome.report, judge=None))
    assert "flip" not in without[0] and "flip" in judged[0]


# --- the commands -------------------------------------------------------------------------------------


@pytest.fixture
def command(weights: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*words: object) -> tuple[int, str, str]:
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return command


FEW = ("--images", 4, "--article-images", 0, "--anogan-images", 2, "--refine", 1, "--device", "cpu")


def test_an_experiment_is_one_command(quick: Bundle, command: Callable, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "numbers.json"
    status, shown, progress = command("experiment", "tiny", *FEW, "--out", out, "--json", file)
    assert status == 0, progress
    titles = [title for method, title in METHODS.items() if method != "article"]
    assert all(f"| {title}" in shown for title in titles) and "4 anomalous test images" in shown
    assert {path.name for path in out.iterdir()} == {"figure.png", "result.json", "result.md"}
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result == json.loads(file.read_text(encoding="utf-8"))
    (own,) = result["runs"]
    assert own["settings"] == {
        "images": 4,
        "fast_images": 200,
        "article_images": 0,
        "anogan_images": 2,
        "refine": 1,
        "seed": 0,
        "only_figure": False,
        "split": "test",
    }
    assert own["command"].startswith("python -m anounet experiment tiny") and own["text"] in shown
    assert own["made"].startswith("20") and "torch" in own["versions"]
    assert str(tmp_path) not in json.dumps(own)
    picture = Image.open(out / "figure.png")
    assert picture.height > 8 * 32 and picture.width > 14 * 32
    assert not (quick.folder / FILE).exists()


def test_what_is_saved_is_kept_beside_the_bundle(quick: Bundle, command: Callable) -> None:
    assert command("experiment", "tiny", *FEW, "--save")[0] == 0
    assert saved_report("tiny").command.endswith("--save")
    assert (quick.folder / PICTURE).exists()  # textures are the program's own
    info = read_info("tiny")
    save_part("tiny", data="elsewhere")
    assert load_bundle("tiny", "cpu").info["data"] == "elsewhere" and info["data"] == "textures"


def test_pictures_of_others_data_are_not_kept(
    quick: Bundle, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "mine"
    for split in ("train", "test"):
        for name, texture in (("streaks", "streaks"), ("wood", "wood")):
            (folder / split / name).mkdir(parents=True)
            for number, pixels in enumerate(tiny.pixels(4, texture)):
                picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
                picture.save(folder / split / name / f"{number}.png")
    monkeypatch.setenv("ANOUNET_DATA", str(folder.parent))
    save_part("tiny", data="mine", exclude=["wood"])
    status, shown, progress = command("experiment", "tiny", *FEW, "--save")
    assert status == 0, progress
    assert "(wood)" in shown and saved_report("tiny").anomalous == ("wood",)
    assert not (quick.folder / PICTURE).exists()


def test_both_variants_are_reported_and_the_plain_one_s_classifier_judges_both(
    quick: Bundle, command: Callable, tmp_path: Path
) -> None:
    net = tiny.f_net(1)
    described = {key: quick.info[key] for key in ("data", "normal", "exclude", "reference", "settings")}
    save_part("tiny-robust", f_net=net, size=32, **described)
    save_part("tiny-robust", center=tiny.center(net), identity=tiny.identity())
    words = ("experiment", "tiny", *FEW, "--out", tmp_path, "--save")
    status, _, progress = command(*words)
    assert status == 0, progress
    runs = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["runs"]
    assert [run["bundle"] for run in runs] == ["tiny", "tiny-robust"]
    assert all(run["judge"]["towards"] == "streaks" for run in runs)
    assert {"figure.png", "figure-robust.png"} <= {path.name for path in tmp_path.iterdir()}
    assert saved_report("tiny-robust").row("fast") is not None
    assert command(*words[:-2], tmp_path / "one", "--variant", "robust")[0] == 0
    runs = json.loads((tmp_path / "one" / "result.json").read_text(encoding="utf-8"))["runs"]
    assert [run["bundle"] for run in runs] == ["tiny-robust"] and runs[0]["judge"] is not None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "There is no experiment 'nothing': choose cifar10-horse"),
        (["cifar10-horse"], "'python -m anounet prepare --preset cifar10-horse --train-fnet"),
        (["tiny", "--images", "1"], "test images of each kind must lie between 2 and"),
        (["tiny", "--split", "train"], "The split must be 'test' or 'validation', not 'train'."),
        (["tiny", "--split", "validation", "--save"], "--save keeps what is reported"),
        (["tiny", "--variant", "robust"], "There is no bundle 'tiny-robust' yet"),
        (["tiny", "--variant", "plane"], "invalid choice"),
    ],
)
def test_bad_input_ends_in_one_line(command: Callable, words: list[str], sentence: str) -> None:
    status, shown, error = command("experiment", *words)
    assert status == 2 and shown == ""
    (line,) = error.strip().splitlines()
    assert line.startswith("anounet: ") and sentence in line


# --- the second classifier's training -----------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Path:
    path = tmp_path / "start.pth"
    torch.save(tiny.backbone(3).features.state_dict(), path)
    return path


TRAIN = ("train-classifier", "--bundle", "tiny", "--images", 60, "--batch", 4, "--device", "cpu")


def test_train_classifier_learns_all_classes_and_what_is_defective(
    command: Callable, start: Path, weights: Path
) -> None:
    status, shown, progress = command(*TRAIN, "--steps", 3, "--images", 400, "--start", start, "--json")
    assert status == 0, progress
    accuracy = json.loads(shown)["figures"]["second classifier"]["held-back accuracy"]
    made = load_bundle("tiny", "cpu").classifier
    assert made.meta["accuracy"] == accuracy and made.meta["starting_weights"] == "local file start.pth"
    assert {"streaks", "wood", "streaks defective"} <= set(made.classes)
    assert made.meta["splits"] == ["train", "validation"] and made.meta["images"] == 400
    assert "has width 0.5 too" in progress  # as the tiny F has


def test_train_classifier_goes_on_where_it_was_cut_off(
    command: Callable, start: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, firsts = judge.train_second_classifier, []

    def watched(*a: object, **b: object) -> Iterator[TrainingStep]:
        firsts.append(b["resume"]["step"] if b["resume"] else 0)
        for step in steps(*a, **b):
            yield step
            if step.step == 3 and len(firsts) < 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(judge, "train_second_classifier", watched)
    words = (*TRAIN, "--steps", 5, "--start", start)
    assert command(*words)[0] == 130 and (weights / "tiny" / judge.CHECKPOINT).exists()
    assert command(*words, "--fresh")[0] == 130
    assert command(*words)[0] == 0
    assert firsts == [0, 0, 2] and not (weights / "tiny" / judge.CHECKPOINT).exists()
    went_on = load_bundle("tiny", "cpu").classifier.state_dict()
    assert command(*words)[0] == 0
    for name, tensor in load_bundle("tiny", "cpu").classifier.state_dict().items():
        assert torch.equal(tensor, went_on[name]), name


def test_a_checkpoint_of_another_classifier_is_not_used(
    command: Callable, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    whole = judge.train_second_classifier

    def stopped(*a: object, **b: object) -> Iterator[TrainingStep]:
        for step in whole(*a, **b):
            yield step
            if step.step == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(judge, "train_second_classifier", stopped)
    assert command(*TRAIN, "--steps", 5, "--start", start)[0] == 130
    monkeypatch.setattr(judge, "train_second_classifier", whole)
    status, _, progress = command(*TRAIN, "--steps", 4, "--start", start)
    assert status == 0 and "trained anew" in progress


def test_an_image_that_cannot_be_read_is_left_out_of_the_training(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = TextureSet.pixels, []

    def pixels(self: TextureSet, index: int, size: int) -> np.ndarray:
        if not broken or broken == [(self.split, index)]:
            broken[:] = [(self.split, index)]
            raise ImageError("broken.png is damaged.")
        return whole(self, index, size)

    monkeypatch.setattr(TextureSet, "pixels", pixels)
    data = judge.classifier_data(DataChoice(size=32), judge.ClassifierSettings(images=60))
    assert len(data.images) == len(data.labels) == 59 and data.skipped == ("broken.png is damaged.",)
    split, index = broken[0]
    monkeypatch.undo()
    everything = judge.classifier_data(DataChoice(size=32), judge.ClassifierSettings(images=60))
    assert len(everything.images) == 60 and split == "train"
    item = open_set("textures", split).items[index]
    assert everything.classes[everything.labels[0]] == item.class_name  # the first is the one left out
    assert torch.equal(everything.images[1:], data.images)
    assert [everything.classes[n] for n in everything.labels[1:]] == [data.classes[n] for n in data.labels]


def test_without_starting_weights_it_says_how_to_get_some(command: Callable) -> None:
    status, _, error = command(*TRAIN)
    assert status == 2 and "--start FILE" in error.strip().splitlines()[-1]
