"""Data sets whose images are bare pixels in a few files: Fashion-MNIST's idx files, whole and damaged."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from anounet.cli import main
from anounet.datasets import SPLITS, DataError, ImageSet, arrays, idx, layout_of, open_set
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
