"""The engine of many machines, on a cluster of two actors on this one."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny
from PIL import Image

from anounet.bundle import save_part
from anounet.cli import main
from anounet.images import MAX_BYTES, ImageError
from anounet.visualization import INSTANT_BATCH

ray_engine = pytest.importorskip("anounet.cli.ray_engine", reason="no Ray: pip install -e '.[cluster]'")

from anounet.cli.addresses import Stores  # noqa: E402
from anounet.cli.ray_engine import Job, Pool, RayRun, Redraw, block_size, pool_of  # noqa: E402

pytestmark = pytest.mark.slow
ACTORS = ("--engine", "ray", "--actors", 2)
ONE_ACTOR = ("--engine", "ray", "--actors", 1)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """One for all tests, started as the command starts its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_engine, "OBJECT_STORE", 100 * 2**20)
        with ray_engine.cluster(None) as logs:
            folder = Path(logs).parents[1]
            assert folder.parent in (Path(tempfile.gettempdir()), Path("/tmp")) and folder.is_dir()
            yield
    assert not folder.exists()


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Forty images in two folders that have the same names, and one that is damaged."""
    images = [(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8) for image in tiny.defective(8)]
    for number in range(40):
        path = tmp_path / "parts" / "ab"[number % 2] / f"{number // 2:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(images[number % 8], number, axis=1)).save(path)
    (tmp_path / "parts" / "damaged.png").write_bytes(b"no image")
    return tmp_path / "parts"


@pytest.fixture
def run(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Visualises a folder and gives the report, with the exit status in it."""

    def run(source: object, out: str, *words: object) -> dict:
        given = [
            "visualize",
            source,
            "--bundle",
            "tiny",
            "--device",
            "cpu",
            "--out",
            tmp_path / out,
            "--json",
        ]
        status = main([str(word) for word in (*given, *words)])
        shown = capsys.readouterr()
        return json.loads(shown.out) | {"status": status, "stderr": shown.err}

    return run


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_same(one: Path, other: Path, images: Path) -> None:
    """The same files with the same in them, to the rounding of one pass over other neighbours."""
    tables = {"scores.csv", "regions.csv", "run.json"}
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    names = sorted({path.name for path in images.iterdir()} - tables)
    for name in names:
        if name.endswith(".npy"):
            assert np.abs(np.load(images / name) - np.load(one / name)).max() < 1e-4, name
        elif name.endswith(".png"):
            drawn = [np.asarray(Image.open(folder / name)).astype(int) for folder in (images, one)]
            assert np.abs(drawn[0] - drawn[1]).max() <= 2, name
    assert sum(name.endswith("_map.npy") for name in names) > 20


def assert_same_rows(one: list[dict], other: list[dict]) -> None:
    assert [row["file"] for row in one] == [row["file"] for row in other]
    for first, second in zip(one, other, strict=True):
        for key in first.keys() - {"seconds", "regions"}:
            assert second[key] == (
                pytest.approx(first[key], rel=1e-3, abs=1e-6) if isinstance(first[key], float) else first[key]
            ), key
        assert len(first["regions"]) == len(second["regions"])


def test_the_same_as_one_process(ray_cluster, run, parts: Path, tmp_path: Path, monkeypatch) -> None:
    save_part("tiny", limits={"instant": 1e-3})  # so that there are regions
    one, many = run(parts, "one"), run(parts, "many", *ACTORS)
    assert (many["images"], many["failed"], many["status"], many["device"]) == (41, 1, 1, "2 × cpu, Ray")
    assert_same(tmp_path / "one", tmp_path / "many", tmp_path / "many")
    assert_same_rows(one["scores"], many["scores"])
    assert table(tmp_path / "one" / "regions.csv") and many["map"] == "combined"
    for name in ("scores.csv", "regions.csv"):
        tables = [table(tmp_path / out / name) for out in ("one", "many")]
        assert list(tables[0][0]) == list(tables[1][0])
        keys = ("file",) if name == "scores.csv" else ("image", "number")
        firsts, seconds = (sorted(tuple(row[key] for key in keys) for row in rows) for rows in tables)
        assert firsts == seconds and len(set(seconds)) == len(seconds)
    assert "damaged.png is not a readable" in next(row["error"] for row in many["scores"] if row["error"])

    # Started again, and by the other engine: what is done stays, and no actor is needed.
    (parts / "damaged.png").unlink()
    monkeypatch.setattr(ray_engine, "cluster", None)
    again = run(parts, "many", *ACTORS)
    assert (again["done before"], again["images"], again["status"]) == (40, 40, 0)
    assert run(parts, "many")["done before"] == run(parts, "one", *ACTORS)["done before"] == 40


def test_an_actor_is_killed_and_addresses_are_read_and_written(
    ray_cluster, run, parts: Path, tmp_path: Path, monkeypatch
) -> None:
    killed = tmp_path / "killed"

    class KilledOnce(Redraw):
        def decode(self, file: str):
            if file.endswith("b/11.png") and not killed.exists():
                killed.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return super().decode(file)

    monkeypatch.setattr(RayRun, "actor", KilledOnce)
    words = ("--mode", "fast", "--steps", 1, "--map", "residual", "--colormap", "jet", "--gate")
    one = run(parts, "one", *words)
    to = ("--files", f"file://{tmp_path}/to/images", "--rows", "parquet")
    many = run(f"file://{parts}", "many", *words, *ACTORS, *to)
    assert killed.exists() and int(killed.read_text()) != os.getpid()
    assert (many["images"], many["failed"], many["mode"], many["map"]) == (41, 1, "fast", "residual")
    files = [row["file"] for row in table(tmp_path / "many" / "scores.csv")]
    assert len(files) == len(set(files)) == 41
    here = [row | {"file": row["file"].removeprefix("file://")} for row in many["scores"]]
    here[-1]["error"] = here[-1]["error"].removeprefix("file://")
    assert_same_rows(sorted(one["scores"], key=lambda row: row["file"]), here)
    maps = {path.name for path in (tmp_path / "to" / "images").iterdir()}
    assert maps == {path.name for path in (tmp_path / "one").iterdir() if path.suffix in (".npy", ".png")}
    for name in maps:
        if name.endswith(".npy"):
            pair = [np.load(folder / name) for folder in (tmp_path / "one", tmp_path / "to" / "images")]
            assert np.abs(pair[0] - pair[1]).max() < 1e-5
    assert "normal" in {row.get("verdict") for row in many["scores"]}  # and of these there are no files

    from pyarrow import parquet

    scores = parquet.read_table(tmp_path / "many" / "scores.parquet")
    assert scores["file"].to_pylist() == files and scores["error"].null_count == 0
    assert scores["score"].to_pylist().count(None) == 1 and str(scores["score"].type) == "double"
    regions = parquet.read_table(tmp_path / "many" / "regions.parquet")
    assert regions.num_rows == len(table(tmp_path / "many" / "regions.csv"))


def test_an_image_that_kills_each_time_costs_its_row_alone(
    ray_cluster, run, parts: Path, tmp_path: Path, monkeypatch
) -> None:
    class Poisoned(Redraw):
        def decode(self, file: str):
            if file.endswith("a/19.png"):
                os._exit(1)
            return super().decode(file)

    monkeypatch.setattr(RayRun, "actor", Poisoned)
    monkeypatch.setattr(ray_engine, "TRIES", 1)
    report = run(parts / "a", "out", *ONE_ACTOR)
    assert (report["images"], report["failed"], report["status"]) == (20, 1, 1)
    (wrong,) = [row for row in report["scores"] if row["error"]]
    assert wrong["file"].endswith("a/19.png") and "died 1 times" in wrong["error"]


def test_a_machine_without_the_folder_is_told(
    ray_cluster, weights: Path, parts: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    class Lost(Redraw):
        def __init__(self, job: Job) -> None:
            super().__init__(replace(job, proof=str(tmp_path / "elsewhere" / "run.json")))

    monkeypatch.setattr(RayRun, "actor", Lost)
    monkeypatch.setattr(ray_engine, "TRIES", 1)
    words = ["visualize", parts, "--bundle", "tiny", "--out", tmp_path / "out", *ONE_ACTOR]
    assert main([str(word) for word in words]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("anounet: ") and "elsewhere/run.json, the folder of the results" in line


def test_a_full_disk_stops_the_run_and_a_fault_of_the_program_is_shown(bundle, tmp_path: Path) -> None:
    job = Job(
        bundle, bundle.settings(), "combined", "jet", False, "cpu", Stores([]), str(tmp_path), None, None
    )
    block = pa.table({"number": [7], "file": ["a.png"], "name": ["a"]})
    for error, kind, words in (
        (OSError(28, "No space left on device", "a_map.npy"), ValueError, "No space left on device"),
        (KeyError("oops"), RuntimeError, "in decode"),
    ):

        class Failing(Redraw):
            def decode(self, file: str, error: Exception = error):
                raise error

        told = Failing(job)(block).to_pylist()
        assert [row["number"] for row in told] == [-1]
        with pytest.raises(kind, match=words):
            ray_engine._stop(json.loads(told[0]["found"]))


def test_without_ray_one_sentence_says_what_to_install(
    weights: Path, parts: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "anounet.cli.ray_engine")
    monkeypatch.delattr("anounet.cli.ray_engine")
    words = ["visualize", str(parts), "--bundle", "tiny", "--out", str(tmp_path / "out")]
    assert main([*words, "--engine", "ray"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'anounet[cluster]'" in line and "'ray' is missing" in line
    assert main(words) == 1  # a damaged image; nobody missed Ray


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--actors", 2), "--actors is of --engine ray alone"),
        (("--files", "s3://b/x"), "--files is of --engine ray alone"),
        (("--engine", "ray", "--actors", 0), "must be 1 or more, not 0"),
        (("--engine", "ray", "--files", "here"), "--files takes an address"),
        (("--engine", "ray", "--device", "cuda:1"), "Ray says which GPU"),
    ],
)
def test_bad_flags_are_told(weights: Path, parts: Path, tmp_path: Path, capsys, words, sentence) -> None:
    given = ["visualize", str(parts), "--bundle", "tiny", "--out", str(tmp_path / "out"), *map(str, words)]
    assert main(given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line


def nodes(*resources: dict[str, float]) -> list[dict]:
    return [{"Alive": True, "Resources": each} for each in resources]


def test_each_machine_keeps_a_cpu_free() -> None:
    assert pool_of(nodes({"CPU": 2.0}), None, None) == Pool(2, 0.5, 0)
    assert pool_of(nodes({"CPU": 1.0}), None, None) == Pool(1, 0.5, 0)
    assert pool_of(nodes({"CPU": 2.0}), None, 8) == Pool(8, 0.125, 0)
    sixteen = nodes({"CPU": 16.0}, {"CPU": 16.0}, {"memory": 1e9})  # a head with no CPU
    assert pool_of(sixteen, None, None) == Pool(32, 0.9375, 0)
    assert pool_of(sixteen, None, 4).cpus <= 15 / 16
    gone = [*nodes({"CPU": 4.0}), {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    assert pool_of(gone, None, None) == Pool(4, 0.75, 0)
    two = nodes({"CPU": 16.0, "GPU": 2.0})
    assert pool_of(two, None, None) == Pool(2, 0.9375, 1)
    assert pool_of(two, None, 3).gpus == 0.5  # three of 2/3 would not fit
    assert pool_of(two, "cpu", None) == Pool(16, 0.9375, 0)
    for wrong, device in (({"CPU": 4.0}, "cuda"), ({"GPU": 1.0}, None)):
        with pytest.raises(ValueError, match="The cluster has no"):
            pool_of(nodes(wrong), device, None)


def test_every_actor_gets_blocks(bundle) -> None:
    two, many = Pool(2, 0.5, 0), Pool(64, 0.9, 0)
    instant, fast, article = (bundle.settings(mode) for mode in ("instant", "fast", "article"))
    assert block_size(1_000_000, two, instant) == 128 and block_size(1_000_000, two, fast) == 16
    assert block_size(1_000_000, many, article) == 1 and block_size(3, two, instant) == INSTANT_BATCH
    assert block_size(300, two, instant) == 40 and block_size(20, two, fast) == 3
    assert block_size(1_000_000, two, replace(instant, steps=10)) == 16
    assert block_size(1_000_000, replace(two, gpus=1), instant) == 512


def test_an_address_is_searched_and_read_within_bounds(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for name in (
        "b.png",
        "a/x y#.PNG",
        "a/.hidden.png",
        "masks/b.png",
        "a_mask.png",
        "words.txt",
        ".git/c.png",
    ):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), "red").save(top / name, "PNG")
    stores = Stores([f"file://{top}"])
    found = stores.images(f"file://{top}")
    assert list(found) == [f"file://{top}/a/x y#.PNG", f"file://{top}/b.png"]
    assert found[f"file://{top}/b.png"] == pytest.approx((top / "b.png").stat().st_mtime)
    assert stores.decode(f"file://{top}/a/x y#.PNG", 32).pixels.shape == (32, 32, 3)
    assert list(stores.images(f"file://{top}/words.txt")) == [f"file://{top}/words.txt"]
    (top / "b.png").write_bytes(bytes(MAX_BYTES + 1))
    for name, sentence in (("b.png", "is larger than 20 MB"), ("gone.png", "does not exist")):
        with pytest.raises(ImageError, match=sentence):
            stores.decode(f"file://{top}/{name}", 32)
    (top / "none").mkdir()
    for name, sentence in (("none", "holds no images"), ("gone", "does not exist")):
        with pytest.raises(ImageError, match=sentence):
            stores.images(f"file://{top}/{name}")
    with pytest.raises(ImageError, match="cannot be opened"):
        Stores(["nowhere://x/y"])


def test_a_block_that_comes_twice_is_noted_once(monkeypatch) -> None:
    class Twice:
        def __init__(self, blocks: list[pa.Table]) -> None:
            self.blocks = blocks

        def map_batches(self, *_: object, **__: object) -> Twice:
            return self

        def iter_batches(self, **_: object) -> Iterator[pa.Table]:
            for block in [*self.blocks, self.blocks[0]]:
                found = [json.dumps([{"file": file}, []]) for file in block["file"].to_pylist()]
                yield pa.table({"number": block["number"], "found": found})

    monkeypatch.setattr(ray_engine.ray.data, "from_blocks", Twice)
    run = object.__new__(RayRun)
    run.files = [f"{number}.png" for number in range(5)]
    run.names, run.pool, run._job = (
        dict(zip(run.files, run.files, strict=True)),
        Pool(2, 0.5, 0),
        lambda: None,
    )
    missing = np.array([True, False, True, True, True])
    assert [row["file"] for row, _ in run._pass(missing, 2)] == ["0.png", "2.png", "3.png", "4.png"]
    assert not missing.any()
