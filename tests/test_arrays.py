"""Data sets of bare pixels in a few files: idx files and CIFAR-10, whole and damaged."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anounet.cli import main
from anounet.datasets import SPLITS, DataError, ImageSet, arrays, cifar, idx, layout_of, open_set
from anounet.datasets.cifar import CifarSet, load_data
from anounet.datasets.idx import FASHION, IdxSet

COUNTS = {"train": 60, "t10k": 20}


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def grey(part: str) -> np.ndarray:
    """Flat images whose brightness is their number: (N, 28, 28)."""
    return np.repeat(np.arange(COUNTS[part], dtype=np.uint8), 28 * 28).reshape(-1, 28, 28)


def idx_tree(folder: str = "FashionMNIST/raw/") -> dict[str, bytes]:
    """A data set in idx files: image n shows class n mod 10."""
    tree = {}
    for part, count in COUNTS.items():
        tree[f"{folder}{part}-images-idx3-ubyte"] = idx_bytes(grey(part))
        tree[f"{folder}{part}-labels-idx1-ubyte"] = idx_bytes((np.arange(count) % 10).astype(np.uint8))
    return tree


def gzipped(tree: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(data) for name, data in tree.items()}


CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def colours(count: int, first: int) -> np.ndarray:
    """Flat images, red as their number, green 100 and blue 200: (count, 3072), a row for each channel."""
    rows = np.full((count, 3, 1024), [[[0], [100], [200]]], np.uint8)
    rows[:, 0] = (first + np.arange(count))[:, None]
    return rows.reshape(count, -1)


def batch(count: int, first: int) -> dict[str, Any]:
    """Image n of a part shows class n mod 10."""
    labels = [(first + n) % 10 for n in range(count)]
    return {"batch_label": "a batch", "labels": labels, "data": colours(count, first), "filenames": ["x.png"]}


def python_2(value: Any) -> bytes:
    """A pickle as Python 2 wrote CIFAR-10's: texts and arrays as byte strings, numpy's old names."""

    def text(data: bytes) -> bytes:
        return b"T" + len(data).to_bytes(4, "little") + data

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def part(value: Any) -> bytes:
        if isinstance(value, dict):
            return b"}(" + b"".join(part(key) + part(item) for key, item in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(part, value)) + b"e"
        if isinstance(value, np.ndarray):
            kind = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
            kind += b"NNN" + 2 * number(-1) + b"K\x00tb"
            empty = (
                b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
            )
            shape = b"".join(map(number, value.shape)) + b"\x86"
            return empty + b"(K\x01" + shape + kind + b"\x89" + text(value.tobytes()) + b"tb"
        return text(value.encode()) if isinstance(value, str) else number(value)

    return b"\x80\x02" + part(value) + b"."


def python_3(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def cifar_tree(write: Callable[[Any], bytes] = python_2) -> dict[str, bytes]:
    """CIFAR-10 with 12 images in each batch."""
    folder = "cifar-10-batches-py/"
    tree = {f"{folder}data_batch_{n}": write(batch(12, 12 * (n - 1))) for n in range(1, 6)}
    meta = {"num_cases_per_batch": 12, "label_names": list(CIFAR), "num_vis": 3072}
    return tree | {f"{folder}test_batch": write(batch(20, 0)), f"{folder}batches.meta": write(meta)}


def tar_gz(tree: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def in_archive(tree: Mapping[str, bytes]) -> dict[str, bytes]:
    return {"cifar-10-python.tar.gz": tar_gz(tree)}


def as_folder(root: Path, tree: Mapping[str, bytes]) -> Path:
    for name, data in tree.items():
        path = root / "clothes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "clothes"


def as_zip(root: Path, tree: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(root / "clothes.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return root / "clothes.zip"


def all_splits(path: Path) -> dict[str, ImageSet]:
    return {split: open_set(str(path), split) for split in SPLITS}


both = pytest.mark.parametrize("write", [as_folder, as_zip])

# --- idx ---------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("pack", [dict, gzipped])
@pytest.mark.parametrize("folder", ["FashionMNIST/raw/", "fashion/", "any/where/fashion_mnist/"])
def test_idx_files_are_a_data_set(write, pack, folder: str, tmp_path: Path) -> None:
    path = write(tmp_path, pack(idx_tree(folder)))
    assert layout_of(path) == "idx"
    sets = all_splits(path)
    assert len(sets["train"]) + len(sets["validation"]) == 60 and len(sets["test"]) == 20
    assert 1 <= len(sets["validation"]) <= 15
    names = [item.name for images in sets.values() for item in images.items]
    assert len(set(names)) == 80
    for images in sets.values():
        assert images.name == "clothes" and images.classes == tuple(FASHION)
        for index, item in enumerate(images.items):
            number = int(item.name.rsplit("/", 1)[1])
            assert item.class_name == images.classes[number % 10]
            pixels = images.pixels(index, 32)
            assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
            assert (pixels == number).all()


def test_a_bare_file_is_taken_before_a_gzipped_one(tmp_path: Path) -> None:
    path = as_folder(tmp_path, idx_tree() | dict.fromkeys(gzipped(idx_tree()), b"broken"))
    assert open_set(str(path), "test").pixels(7, 32).mean() == 7


def test_other_idx_files_have_digits_as_classes(tmp_path: Path) -> None:
    images = open_set(str(as_folder(tmp_path, idx_tree("MNIST/raw/"))), "train")
    assert images.classes == tuple("0123456789")


def test_classes_go_by_their_long_names_too(tmp_path: Path) -> None:
    images = open_set(str(as_folder(tmp_path, idx_tree())), "train")
    assert images.class_named("ankle-boot") == images.class_named("Ankle boot") == "ankle-boot"
    assert images.class_named("T-shirt/top") == "t-shirt-top"
    images.check_classes(["sneaker", "Sneaker", "ankle boot"])
    with pytest.raises(DataError, match="no class 'Boot': choose from t-shirt-top, trouser"):
        images.check_classes(["Boot"])


def test_the_command_line_takes_both_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = as_folder(tmp_path, idx_tree())
    for name in ("ankle-boot", "Ankle boot"):
        words = ["samples", "--data", path, "--normal", name, "--count", "2", "--size", "32"]
        assert main([str(word) for word in (*words, "--out", tmp_path / name)]) == 0
    assert len(list((tmp_path / "Ankle boot").glob("test_ankle-boot_*.png"))) == 2


def cut(data: bytes) -> bytes:
    return data[:-1]


@both
@pytest.mark.parametrize("what", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3"])
@pytest.mark.parametrize("change", [cut, lambda data: data + b"x", lambda data: data[:6], lambda data: b""])
def test_a_file_of_a_wrong_length_is_named(write, what: str, change, tmp_path: Path) -> None:
    tree = idx_tree()
    name = f"FashionMNIST/raw/{what}-ubyte"
    path = write(tmp_path, tree | {name: change(tree[name])})
    with pytest.raises(DataError, match=f"{what}-ubyte is cut short, or longer than its header says"):
        open_set(str(path), "test" if "t10k" in what else "train")


@both
@pytest.mark.parametrize("change", [cut, lambda data: data[: len(data) // 2]])
def test_a_gzipped_file_that_is_cut_short_is_named(write, change, tmp_path: Path) -> None:
    tree = gzipped(idx_tree())
    name = "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    images = open_set(str(write(tmp_path, tree | {name: change(tree[name])})), "train")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is cut short"):
        images.readable([0, 1, 2], 32)  # the whole set's damage, not that of one image


def test_damage_inside_a_gzipped_file_is_named(tmp_path: Path) -> None:
    tree = gzipped(idx_tree())
    name = "FashionMNIST/raw/train-labels-idx1-ubyte.gz"
    data = bytearray(tree[name])
    data[12] ^= 0xFF
    path = as_folder(tmp_path, tree | {name: bytes(data)})
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz is"):
        open_set(str(path), "train")


@pytest.mark.parametrize(
    ("what", "data", "sentence"),
    [
        ("labels-idx1", b"\0\0\x08\x03" + bytes(80), "is no idx file of labels"),
        ("images-idx3", b"\0\0\x0d\x03" + bytes(80), "is no idx file of images"),
        (
            "images-idx3",
            b"\0\0\x08\x03" + b"\xff" * 12,
            "× 4294967295 × 4294967295 values, which is",
        ),
        (
            "images-idx3",
            b"\0\0\x08\x03\0\0\0\2\0\0\0\0\0\0\0\x1c",
            "2 × 0 × 28 values, which is",
        ),
        ("labels-idx1", idx_bytes(np.zeros(59, np.uint8)), "has 59 labels for the 60 images"),
        ("labels-idx1", idx_bytes(np.full(60, 10, np.uint8)), "has a label 10, and only 0 to 9 are known"),
    ],
)
@pytest.mark.parametrize("pack", [dict, gzipped])
def test_a_foreign_idx_file_is_named(pack, what: str, data: bytes, sentence: str, tmp_path: Path) -> None:
    tree = pack(idx_tree() | {f"FashionMNIST/raw/train-{what}-ubyte": data})
    with pytest.raises(DataError, match=sentence) as caught:
        open_set(str(as_folder(tmp_path, tree)), "train")
    assert f"train-{what}-ubyte" in str(caught.value)


@both
def test_what_a_header_does_not_say_is_never_uncompressed(write, tmp_path: Path) -> None:
    tree = gzipped(idx_tree())
    name = "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    bomb = gzip.compress(idx_bytes(grey("train")) + bytes(100 * 2**20))
    images = open_set(str(write(tmp_path, tree | {name: bomb})), "train")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="longer than its header says"):
            images.pixels(0, 32)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_idx_files_without_all_four_are_none(tmp_path: Path) -> None:
    tree = idx_tree()
    del tree["FashionMNIST/raw/t10k-labels-idx1-ubyte"]
    path = as_folder(tmp_path, tree)
    assert layout_of(path) is None
    with pytest.raises(DataError, match="no data set in idx files: it needs train-images-idx3-ubyte"):
        IdxSet(path, "train")


def test_pixels_are_read_once_for_all_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = all_splits(as_zip(tmp_path, idx_tree()))
    read, whole = [], idx._read
    monkeypatch.setattr(idx, "_read", lambda *given: read.append(given[1]) or whole(*given))
    for _ in range(2):
        sets["train"].pixels(0, 32)
        sets["validation"].pixels(0, 32)
    assert len(read) == 1
    sets["test"].pixels(0, 32)
    assert len(read) == 2


def test_what_is_kept_is_bounded() -> None:
    kept: arrays.Kept[int] = arrays.Kept(2)
    made = []
    for number in (1, 2, 1, 3, 1, 2):
        assert kept.get(number, lambda number=number: made.append(number) or number) == number
    assert made == [1, 2, 3, 2]


# --- CIFAR-10 ----------------------------------------------------------------------------------------


def check_cifar(path: Path) -> None:
    assert layout_of(path) == "cifar"
    sets = all_splits(path)
    assert len(sets["train"]) + len(sets["validation"]) == 60 and len(sets["test"]) == 20
    for images in sets.values():
        assert images.classes == CIFAR
        for index, item in enumerate(images.items):
            number = int(item.name.rsplit("/", 1)[1])
            assert item.class_name == CIFAR[number % 10]
            pixels = images.pixels(index, 32)
            assert pixels.shape == (32, 32, 3) and (pixels == [number, 100, 200]).all()


@both
@pytest.mark.parametrize("pickled", [python_2, python_3])
def test_cifar_s_batches_are_a_data_set(write, pickled, tmp_path: Path) -> None:
    check_cifar(write(tmp_path, cifar_tree(pickled)))


def test_the_pickles_of_python_2_are_what_pickle_reads() -> None:
    value = batch(12, 0)
    (read, ours) = pickle.loads(python_2(value), encoding="latin1"), load_data(python_2(value))
    assert read["labels"] == ours["labels"] == value["labels"] and list(read) == list(ours) == list(value)
    assert (read["data"] == value["data"]).all()
    assert ours["data"].data == value["data"].tobytes()


def test_cifar_s_archive_is_read_in_place(tmp_path: Path) -> None:
    path = as_folder(tmp_path, in_archive(cifar_tree() | {"cifar-10-batches-py/readme.html": b"text"}))
    check_cifar(path)
    assert [file.name for file in path.iterdir()] == ["cifar-10-python.tar.gz"]


def test_an_archive_in_a_zip_is_not_opened(tmp_path: Path) -> None:
    assert layout_of(as_zip(tmp_path, in_archive(cifar_tree()))) is None


class Dangerous:
    """What a pickle can do: this one writes a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "run")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("where", ["batches.meta", "test_batch"])
def test_a_pickle_that_would_run_something_is_refused(where: str, protocol: int, tmp_path: Path) -> None:
    harm = pickle.dumps({"labels": [], "data": Dangerous(tmp_path / "harm")}, protocol)
    pickle.loads(harm)
    assert (tmp_path / "harm").exists()  # it is dangerous indeed
    (tmp_path / "harm").unlink()
    path = as_folder(tmp_path, cifar_tree() | {f"cifar-10-batches-py/{where}": harm})
    with pytest.raises(DataError, match=f"{where} is damaged .*which is no data"):
        open_set(str(path), "test")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "os.system", "numpy._core.multiarray.scalar"])
def test_only_what_arrays_need_can_be_named(name: str) -> None:
    module, _, function = name.rpartition(".")
    with pytest.raises(pickle.UnpicklingError, match=f"it names {name}, which is no data"):
        load_data(f"c{module}\n{function}\n.".encode())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": [10] * 20}, "labels should be numbers from 0 to 9"),
        ({"labels": ["cat"] * 20}, "labels should be numbers from 0 to 9"),
        ({"labels": [1] * 19}, "data should be 19 × 3072 bytes"),
        ({"data": np.zeros((20, 3071), np.uint8)}, "data should be 20 × 3072 bytes"),
        ({"data": np.zeros((20, 3072), np.float32)}, "data should be 20 × 3072 bytes"),
        ({"data": np.zeros((3072, 20), np.uint8).T}, "data should be 20 × 3072 bytes"),
        ({"data": np.array([{}] * 20)}, "data should be"),
        ({"data": [1, 2]}, "is damaged or no part of CIFAR-10"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    tree = cifar_tree() | {"cifar-10-batches-py/test_batch": python_3(batch(20, 0) | change)}
    with pytest.raises(DataError, match=sentence) as caught:
        open_set(str(as_folder(tmp_path, tree)), "train")
    assert "test_batch is damaged" in str(caught.value)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_batch_that_is_cut_short_is_named(share: float, tmp_path: Path) -> None:
    tree = cifar_tree()
    name = "cifar-10-batches-py/data_batch_3"
    path = as_folder(tmp_path, tree | {name: tree[name][: int(share * len(tree[name]))]})
    with pytest.raises(DataError, match="data_batch_3 is damaged or no part of CIFAR-10"):
        open_set(str(path), "train")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_an_archive_that_is_cut_short_is_named(share: float, tmp_path: Path) -> None:
    packed = tar_gz(cifar_tree())
    path = as_folder(tmp_path, {"cifar-10-python.tar.gz": packed[: int(share * len(packed))]})
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz' "):
        open_set(str(path), "train")


def test_an_archive_with_a_batch_missing_is_named(tmp_path: Path) -> None:
    tree = cifar_tree()
    del tree["cifar-10-batches-py/data_batch_4"]
    with pytest.raises(DataError, match="has no data_batch_4: get it anew"):
        open_set(str(as_folder(tmp_path, in_archive(tree))), "train")


@pytest.mark.parametrize("where", ["cifar-10-batches-py/test_batch", "aaa"])
def test_an_archive_that_is_a_bomb_ends_early(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "MAX_UNPACKED", 2**20)
    monkeypatch.setattr(cifar, "MAX_BATCH", 2**20)
    path = as_folder(tmp_path, in_archive(cifar_tree() | {where: bytes(50 * 2**20)}))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="it holds too much"):
            open_set(str(path), "train")
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_a_folder_that_is_not_cifar_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not CIFAR-10 in its Python version: it needs cifar-10-python"):
        CifarSet(as_folder(tmp_path, idx_tree()), "train")


# --- full data ---------------------------------------------------------------------------------------


def test_fashion_mnist() -> None:
    folder = os.environ.get("ANOUNET_DATA")
    if not folder or not (Path(folder) / "fashion_mnist.zip").exists():
        pytest.skip("ANOUNET_DATA holds no fashion_mnist.zip")
    train, validation, test = (open_set("fashion_mnist", split) for split in SPLITS)
    assert len(train) + len(validation) == 60_000 and len(test) == 10_000
    assert 5_500 < len(validation) < 6_500
    assert len(test.where("sneaker")) == len(test.where("ankle-boot")) == 1_000
    boots, trousers = (
        test.tensor(test.where(name)[:50], 32).float().mean(0) for name in ("ankle-boot", "trouser")
    )
    assert boots[:, 24, 4:8].mean() > 2 * trousers[:, 24, 4:8].mean()  # trousers are narrow
