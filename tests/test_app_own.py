"""Own images in three steps: good ones become a bundle by themselves, suspicious ones are ranked with it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
import time
import zipfile
from pathlib import Path

import pytest
import tiny
import torch
from streamlit.testing.v1 import AppTest
from test_app import (  # noqa: F401 (fixtures)
    PAGES,
    PATIENCE,
    SIZE,
    app,
    job_of,
    made,
    no_leftovers,
    noise,
    png,
    settled,
    sound,
    streaks,
    words,
)

from anounet.app import downloads, forms, models, own, ranking
from anounet.app.jobs import CANCELLED, DONE, QUEUED, Job
from anounet.app.work import centers
from anounet.app.work import ranking as judging
from anounet.app.work.answers import Picture
from anounet.bundle import load_bundle, save_part
from anounet.datasets import TextureSet
from anounet.images import content_hash
from anounet.visualization import Result, drain, visualize, visualize_distance, visualize_many

NAME = "parts"  # the bundle of own images that is there
LEVELS = centers.LEVEL_IMAGES | {"fast": 2, "fast-local": 2}  # normals that `fast` mode's levels are of


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "SIZES", (SIZE,))
    monkeypatch.setattr(centers, "LEVEL_IMAGES", LEVELS)


def pictures(count: int) -> list[Picture]:
    images = TextureSet("train", count)
    pixels = [images.pixels(i, SIZE) for i in images.where("streaks", defective=False)]
    return [Picture(f"{n}.png", content_hash(p), p) for n, p in enumerate(pixels)]


def void(_: object) -> None:
    """In place of what a training hands back."""


def work() -> Job:
    return Job("made", forms.OWN, "made", lambda job: None)


@pytest.fixture(scope="module")
def with_own(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A folder of bundles, one of own images among them."""
    folder = tmp_path_factory.mktemp("own") / "weights"
    shutil.copytree(made, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOUNET_WEIGHTS", str(folder))
        patch.setattr(centers, "LEVEL_IMAGES", LEVELS)
        centers.prepare_own(work(), NAME, pictures(20), SIZE)
    return folder


@pytest.fixture
def weights(with_own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, for this test alone."""
    folder = tmp_path / "weights"
    shutil.copytree(with_own, folder)
    monkeypatch.setenv("ANOUNET_WEIGHTS", str(folder))
    monkeypatch.setenv("ANOUNET_DATA", str(tmp_path / "no-data"))
    monkeypatch.chdir(tmp_path)
    return folder


def suspicious(good: int = 2, defective: int = 4, side: int = 48) -> list[tuple[str, bytes]]:
    images, found = TextureSet("test", 8), []
    for name, count, wanted in (("good", good, False), ("bad", defective, True)):
        indices = images.where("streaks", defective=wanted)[:count]
        found += [(f"{name}{n}.png", png(images.pixels(i, side))) for n, i in enumerate(indices)]
    return found


def drop(at: AppTest, key: str, files: list[tuple[str, bytes]]) -> AppTest:
    field = at.file_uploader(key=key)
    for file, data in files:
        field.upload(file, data)
    return sound(at.run())


def ranked(files: list[tuple[str, bytes]] | None = None, **query: str) -> AppTest:
    at = app(PAGES[4], bundle=NAME, **query)
    return settled(drop(at, "suspects_upload_0", files or suspicious()), ranking.RANK)


def table(at: AppTest) -> list[dict]:
    found = [
        json.loads(e.proto.json) for e in at.get("bidi_component") if "ranking" in e.proto.component_name
    ]
    return found[0]["rows"] if found else []


def link(at: AppTest) -> dict[str, str]:
    return {key: v if isinstance(v, str) else v[0] for key, v in at.query_params.items()}


# --- 1: good images ----------------------------------------------------------------------------------


def test_good_images_become_a_bundle_without_a_click(weights: Path) -> None:
    files = streaks(24)
    files += [("again.png", files[0][1]), ("broken.png", b"no image")]
    at = settled(drop(app(PAGES[4]), "own_upload_0", files), "own")
    assert job_of(at, "own").state == DONE, job_of(at, "own").error
    assert link(at)["bundle"] == "own-1"
    said = words(at)
    assert "“own-1” is ready, made of 24 good images" in said
    assert "again.png shows the same as 0.png" in said and "broken.png" in said
    assert said.count("data:image/png;base64,") == own.SHOWN
    bundle = load_bundle("own-1")
    assert {metric.label: metric.value for metric in at.metric} == {
        "Images in the centres": "19",
        "Held back": "5",
        "Threshold": f"{bundle.limits['fast-local:score']:.2f}",
        "Size in pixels": f"{SIZE} px",
    }
    assert {"fast", "fast-local", "fast-local:distance"} <= bundle.scales.keys()
    assert not at.button(key="own_new").disabled
    other = app(PAGES[4], bundle="own-1")  # another tab
    assert "made of 24 good images" in words(other)


def test_too_few_good_images_are_said_and_further_ones_start_it(weights: Path) -> None:
    files = streaks(21)
    at = drop(app(PAGES[4]), "own_upload_0", files[:12])
    assert "12 good images are here, and 20 are needed: add 8 more" in words(at)
    assert "_job_own" not in at.session_state
    at.text_input(key="own_name").set_value("mine")
    at = settled(drop(at, "own_upload_1", files[12:]), "own")
    assert "“mine” is ready, made of 21 good images" in words(at)


def test_a_name_that_is_taken_is_said_and_costs_nothing(weights: Path) -> None:
    at = app(PAGES[4])
    at.text_input(key="own_name").set_value(NAME)
    at = drop(at, "own_upload_0", streaks(20))
    assert NAME in " ".join(w.value for w in at.warning) and "_job_own" not in at.session_state
    assert "Good images: 20" in words(at)
    at.text_input(key="own_name").set_value("")
    assert "made of 20 good images" in words(settled(sound(at.run()), "own"))


def test_a_stop_keeps_the_images_and_a_click_goes_on(weights: Path) -> None:
    gate = threading.Event()
    models.jobs().submit("busy", "other", "a long training", lambda job: gate.wait(PATIENCE))
    try:
        at = drop(app(PAGES[4]), "own_upload_0", streaks(20))
        assert job_of(at, "own").state == QUEUED
        at.button(key="stop_own").click()
        sound(at.run())
        sound(at.run())
        assert job_of(at, "own").state == CANCELLED
        assert "Good images: 20" in words(at) and "Stopped before it was finished" in words(at)
    finally:
        gate.set()
    at.button(key="prepare_own").click()
    assert "made of 20 good images" in words(settled(sound(at.run()), "own"))


def test_further_good_images_are_said_and_make_the_bundle_anew(weights: Path) -> None:
    bundle = load_bundle(NAME)
    save_part(NAME, instant=tiny.tiny_instant(bundle.f_net, bundle.local), limits={"instant:score": 1.2})
    before = pictures(20)[0]
    files = [("old.png", png(before.pixels)), *streaks(26)[22:]]
    at = drop(app(PAGES[4], bundle=NAME), "own_upload_0", files)
    said = words(at)
    assert "Not in “parts” yet: 4 further good images" in said
    assert "has to be trained again" in said
    assert load_bundle(NAME).local.count == 16  # nothing happens by itself
    at.button(key="extend_own").click()
    at = settled(sound(at.run()), "own")
    assert job_of(at, "own").state == DONE, job_of(at, "own").error
    said = words(at)
    assert "made of 24 good images" in said and "further good images" not in said
    assert len(list((weights / NAME / "normal").iterdir())) == 24
    assert load_bundle(NAME).instant is None  # it belonged to the centres of before


def test_further_images_that_cannot_be_used_leave_the_bundle_as_it_was(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("All normal images look alike, patch by patch.")

    before = (weights / NAME / "bundle.json").read_bytes()
    monkeypatch.setattr(centers, "make_local_centers", refuse)
    with pytest.raises(ValueError, match="look alike"):
        centers.extend_own(work(), NAME, pictures(24)[20:])
    assert (weights / NAME / "bundle.json").read_bytes() == before
    assert len(centers.own_pictures(NAME)) == 20


def test_an_unknown_bundle_in_the_link_is_said(weights: Path) -> None:
    assert "nobody" in " ".join(w.value for w in app(PAGES[4], bundle="nobody").warning)


# --- 2 and 3: suspicious images, ranked --------------------------------------------------------------


def test_suspicious_images_are_ranked_at_once(weights: Path) -> None:
    files = suspicious()
    at = ranked([*files, ("twice.png", files[0][1]), ("torn.png", b"no image")])
    rows = table(at)
    assert len(rows) == 6 and {row["name"] for row in rows} == {name for name, _ in files}
    ratios = [row["ratio"] for row in rows]
    assert ratios == sorted(ratios, reverse=True) and [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    bundle = load_bundle(NAME)
    settings = bundle.settings("fast", center="local")
    for row in rows:
        picture = models.rankings().get(link(at)["ranking"], NAME, SIZE).picture(row["key"])
        x = torch.from_numpy(picture.pixels).permute(2, 0, 1).float() / 255
        result = drain(visualize(x, bundle, settings))
        assert row["ratio"] == pytest.approx(result.score / result.threshold, rel=1e-4)
        assert row["anomalous"] == result.anomalous
        assert row["regions"] == len(result.regions("distance"))
        assert row["original"].startswith("data:image/webp") and row["overlay"] != row["original"]
    said = words(at)
    bad = sum(row["anomalous"] for row in rows)
    assert f"**Images: 6** · anomalous: {bad} · normal: {6 - bad}" in said
    assert "twice.png shows the same as good0.png" in said and "torn.png" in said


def test_the_filter_is_in_the_link_and_holds_for_the_table(weights: Path) -> None:
    at = ranked()
    everything, known = table(at), link(at)["ranking"]
    for verdict, wanted in (("Anomalous", True), ("Normal", False)):
        shown = table(app(PAGES[4], bundle=NAME, ranking=known, verdict=verdict))
        assert shown == [row for row in everything if row["anomalous"] is wanted]


def test_another_tab_finds_the_ranking_and_a_lost_one_is_said(weights: Path) -> None:
    at = ranked()
    assert table(app(PAGES[4], **link(at))) == table(at)
    assert "no longer kept here" in words(app(PAGES[4], bundle=NAME, ranking="lost"))
    at.button(key="suspects_remove").click()
    assert not table(sound(at.run()))


def test_images_are_judged_though_the_queue_is_busy(weights: Path) -> None:
    gate = threading.Event()
    models.jobs().submit("busy", "other", "a long training", lambda job: gate.wait(PATIENCE))
    try:
        assert len(table(ranked())) == 6
    finally:
        gate.set()


def test_images_that_come_later_join_the_table(weights: Path) -> None:
    files = suspicious()
    at = ranked(files[:2])
    assert len(table(at)) == 2
    assert len(table(settled(drop(at, "suspects_upload_1", files[2:]), ranking.RANK))) == 6


def test_a_row_opens_its_full_result(weights: Path) -> None:
    at = ranked()
    first = table(at)[0]
    assert "Choose a row" in words(at)
    other = app(PAGES[4], **link(at), open=first["key"])
    said = words(other)
    assert f"**{first['name']}**" in said and "If it were normal" in said
    assert f"= {first['score']} × the threshold" in said
    assert other.selectbox(key="map").value == "distance"


def test_once_instant_mode_is_trained_the_table_goes_by_it(weights: Path) -> None:
    at = ranked()
    before = table(at)
    assert "By the distance of each patch" in words(at)
    bundle = load_bundle(NAME)
    gate = threading.Event()
    job = models.jobs().submit(
        "training", forms.INSTANT, "training", lambda job: void(gate.wait(PATIENCE)), bundles=(NAME,)
    )
    try:
        save_part(
            NAME, instant=tiny.tiny_instant(bundle.f_net, bundle.local)
        )  # as a training does on its way
        assert table(settled(sound(at.run()), ranking.RANK)) == before
    finally:
        gate.set()
    assert job.wait(PATIENCE)
    save_part(NAME, scales={"instant": 0.1, "instant:distance": 1.0}, limits={"instant:score": 1.1})
    at = settled(sound(at.run()), ranking.RANK)
    assert "By instant mode" in words(at)
    rows, opened = table(at), load_bundle(NAME)
    assert [row["ratio"] for row in rows] != [row["ratio"] for row in before] and len(rows) == 6
    found = models.rankings().get(link(at)["ranking"], NAME, SIZE)
    x = [torch.from_numpy(found.picture(row["key"]).pixels).permute(2, 0, 1).float() / 255 for row in rows]
    for row, result in zip(rows, visualize_many(x, opened), strict=True):
        assert row["ratio"] == pytest.approx(result.score / 1.1, rel=1e-3)


def test_a_training_that_ends_while_the_page_is_drawn_brings_the_new_table(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, bundle, gate = ranked(), load_bundle(NAME), threading.Event()
    job = models.jobs().submit(
        "training", forms.INSTANT, "training", lambda job: void(gate.wait(PATIENCE)), bundles=(NAME,)
    )
    levels = {"scales": {"instant": 0.1, "instant:distance": 1.0}, "limits": {"instant:score": 1.1}}
    save_part(NAME, instant=tiny.tiny_instant(bundle.f_net, bundle.local))
    save_part(NAME, **levels)

    def end(*_: object) -> None:
        gate.set()
        assert job.wait(PATIENCE)

    monkeypatch.setattr(ranking, "show_commands", end)
    assert "By instant mode" in words(settled(sound(at.run()), ranking.RANK))


def test_commands_name_what_differs_from_the_defaults(weights: Path) -> None:
    at = app(PAGES[4], bundle=NAME)
    assert [code.value for code in at.code] == [
        f"python -m anounet prepare --data good --name {NAME} --size {SIZE} --no-instant",
        f"python -m anounet visualize suspicious --bundle {NAME} --out maps "
        "--mode fast --center local --map distance",
    ]
    bundle = load_bundle(NAME)
    save_part(NAME, instant=tiny.tiny_instant(bundle.f_net, bundle.local), limits={"instant:score": 1.2})
    assert [code.value for code in app(PAGES[4], bundle=NAME).code] == [
        f"python -m anounet prepare --data good --name {NAME} --size {SIZE}",
        f"python -m anounet visualize suspicious --bundle {NAME} --out maps",
    ]


def test_the_csv_and_the_zip_hold_the_rows_that_are_shown(weights: Path) -> None:
    at = ranked([("=cmd.png", suspicious()[0][1]), *suspicious()[1:]])
    found = models.rankings().get(link(at)["ranking"], NAME, SIZE)
    rows = found.rows()
    lines = list(csv.DictReader(io.StringIO(ranking.csv_of(rows))))
    assert [line["rank"] for line in lines] == [str(n) for n in range(1, 7)]
    assert [float(line["times_threshold"]) for line in lines] == pytest.approx(
        [row.ratio for row in rows], abs=1e-4
    )
    assert "'=cmd.png" in [line["image"] for line in lines]  # no formula for a spreadsheet
    bundle, version = models.bundle(NAME)
    basis = ranking.basis_of(bundle, version)
    keys = [row.key for row in rows[:2]]
    answers = judging.results(lambda: None, found, keys, basis, models.batcher(), bundle)
    shown = (downloads.Shown(picture.name, result) for picture, result in answers)
    with zipfile.ZipFile(io.BytesIO(downloads.zip_bytes(shown, basis.view, {"bundle": NAME}))) as archive:
        names = archive.namelist()
        scores = list(csv.DictReader(io.StringIO(archive.read("scores.csv").decode())))
        made = [json.loads(archive.read(name)) for name in names if name.endswith("settings.json")]
    assert sum(name.endswith("_overlay.png") for name in names) == 2
    assert sum(name.endswith("_map_distance.npy") for name in names) == 2
    assert [line["score"] for line in scores] == [line["score"] for line in lines[:2]]
    assert [one["score"] for one in made] == [row.score for row in rows[:2]]


# --- what is kept ------------------------------------------------------------------------------------


def test_what_is_kept_is_bounded_and_holds_no_maps(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ranked()
    (row, *_) = models.rankings().get(link(at)["ranking"], NAME, SIZE).rows()
    assert not any(isinstance(value, torch.Tensor | Result) for value in vars(row).values())
    kept = judging.Rankings(most=60_000)
    for number in range(4):
        found = kept.new(str(number), NAME, SIZE)
        assert not found.add([Picture(f"{n}.png", f"{number}-{n}", noise(n, 64)) for n in range(3)])
        kept.bound()
    assert len(kept) == 1 and kept.get("3", NAME, SIZE) is found and kept.get("0", NAME, SIZE) is None
    assert kept.get("3", "other", SIZE) is None
    monkeypatch.setattr(judging, "MAX_IMAGES", 4)
    (said,) = found.add([Picture(f"more{n}.png", f"more{n}", noise(n, 64)) for n in range(2)])
    assert "more1.png was left out: 4 images are the most" in said
    assert (found.picture("3-1").pixels == noise(1, 64)).all()


def test_a_ranking_that_is_stopped_goes_on_where_it_was(weights: Path) -> None:
    bundle, version = models.bundle(NAME)
    basis, found = ranking.basis_of(bundle, version), judging.Ranking("r", NAME, SIZE)
    found.add(pictures(20))
    found.begin(basis)

    class Stop(Exception):
        pass

    def bound() -> None:
        raise Stop

    job = work()
    with pytest.raises(Stop):
        judging.rank(job, found, basis, models.batcher(), bundle, bound)
    assert len(found.rows()) == judging.CHUNK
    assert judging.rank(job, found, basis, models.batcher(), bundle, lambda: None) == 20 - judging.CHUNK
    assert len(found.rows()) == 20 and not found.missing(basis)


def test_the_distance_alone_scores_as_fast_mode_with_local_centres_does(weights: Path) -> None:
    bundle = load_bundle(NAME, "cpu")
    images = [*tiny.defective(9), torch.full((3, SIZE, SIZE), float("nan"))]
    *found, bad = visualize_distance(images, bundle)
    assert "NaN" in str(bad)
    for x, result in zip(images[:2], found, strict=False):
        whole = drain(visualize(x, bundle, bundle.settings("fast", center="local")))
        assert result.score == pytest.approx(whole.score, rel=1e-4)
        assert (result.threshold, result.y) == (whole.threshold, None)
        torch.testing.assert_close(result.anomaly_map, whole.maps["distance"], rtol=1e-4, atol=1e-4)


def test_levels_of_the_distance_map_stay_when_fast_mode_is_measured(weights: Path) -> None:
    choice = models.choice(load_bundle(NAME))
    before = load_bundle(NAME).limits["fast-local:score"]
    given = centers.distance_levels(NAME, choice, "cpu")
    assert given.limits["fast-local:score"] == before  # of all held-back images, not of two
    centers.measure(work(), NAME, choice, ("fast-local",))
    assert load_bundle(NAME).limits["fast-local:score"] != before
    centers.measure(work(), NAME, choice, ("fast-local",), given)
    assert load_bundle(NAME).limits["fast-local:score"] == before


def test_work_that_only_waits_does_not_wait_its_turn() -> None:
    jobs, gate = models.jobs(), threading.Event()
    busy = jobs.submit("busy", "other", "a long training", lambda job: gate.wait(PATIENCE), bundles=("b",))
    try:
        apart = jobs.submit("apart", "rank", "judging", lambda job: 7, apart=True)
        assert apart.wait(PATIENCE) and apart.result == 7 and busy.active
        assert jobs.latest("other", "b") is busy and jobs.latest("other", "c") is None
    finally:
        gate.set()
    deadline = time.monotonic() + PATIENCE
    while busy.active and time.monotonic() < deadline:
        time.sleep(0.01)
