"""DAGM 2007: both versions, from folders and ZIPs; splits, masks, and labels that are damaged."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_datasets import both, write_folder

from anounet.datasets import SPLITS, DataError, layout_of, open_set
from anounet.datasets.dagm import DagmSet
from anounet.datasets.masks import Ellipse
from anounet.images import png_bytes

Tree = dict[str, bytes]
Write = Callable[[Path, Tree], Path]

SIDE = 32


def surface(number: int, width: int = SIDE, height: int = SIDE) -> bytes:
    return png_bytes(np.full((height, width), number % 251, np.uint8))


def truth(number: int) -> np.ndarray:
    """A mask that its image's number fixes."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[number % 20 : number % 20 + 6, 4:11] = 255
    return mask


def ten_class(folder: str, numbers: range, defective: set[int], top: str = "DAGM2007/") -> Tree:
    """The images, the labels and the masks of one Train or Test folder."""
    tree, rows = {}, ["1"]
    for row, number in enumerate(numbers, 1):
        bad = number in defective
        tree[f"{top}{folder}/{number:04d}.PNG"] = surface(number)
        mask = f"{number:04d}_label.PNG" if bad else "0"
        rows.append(f"{row}\t{int(bad)}\t{number:04d}.PNG\t0\t{mask}")
        if bad:
            tree[f"{top}{folder}/Label/{mask}"] = png_bytes(truth(number))
    return tree | {f"{top}{folder}/Label/Labels.txt": "\r\n".join(rows).encode()}


def competition(class_name: str, good: int, ellipses: list[Ellipse], width: int = SIDE) -> Tree:
    tree = {f"{class_name}/{n}.png": surface(n, width) for n in range(1, good + 1)}
    tree |= {f"{class_name}_def/{n}.png": surface(n + 90, width) for n in range(1, len(ellipses) + 1)}
    rows = [
        f"{n}\t  {e.semi_major:.4e}\t{e.semi_minor:.4e} {e.rotation:.6e}\t{e.x}\t{e.y}"
        for n, e in enumerate(ellipses, 1)
    ]
    return tree | {f"{class_name}_def/labels.txt": "\n".join([*rows, ""]).encode()}


def names(path: Path, class_name: str | None = None) -> dict[str, dict[bool, set[str]]]:
    """Split → whether defective → names."""
    found = {}
    for split in SPLITS:
        images = DagmSet(path, split)
        found[split] = {
            bad: {images.items[i].name for i in images.where(class_name, defective=bad)}
            for bad in (False, True)
        }
    return found


def check_no_image_twice(found: dict[str, dict[bool, set[str]]], count: int) -> None:
    every = [name for split in found.values() for some in split.values() for name in some]
    assert len(every) == len(set(every)) == count


# --- 10-class version --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("top", ["", "DAGM2007/"])
def test_train_and_test_are_kept(write: Write, tmp_path: Path, top: str) -> None:
    bad_train, bad_test = {3, 40, 77}, {101, 119}
    tree = ten_class("Class2/Train", range(1, 100), bad_train, top)
    tree |= ten_class("Class2/Test", range(100, 120), bad_test, top)
    path = write(tmp_path, tree)
    found = names(path)
    check_no_image_twice(found, 119)
    assert found["test"][False] | found["test"][True] == {f"Class2/Test/{n:04d}.PNG" for n in range(100, 120)}
    assert found["test"][True] == {f"Class2/Test/{n:04d}.PNG" for n in bad_test}
    assert found["train"][True] == set()
    assert found["validation"][True] == {f"Class2/Train/{n:04d}.PNG" for n in bad_train}
    assert 2 <= len(found["validation"][False]) <= 25  # a tenth of train's good ones
    assert {item.defect for item in DagmSet(path, "test").items} == {"", "defect"}


@both
def test_one_of_train_and_test_is_split_by_names(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, ten_class("Class4/Train", range(576, 601), {576, 580, 581, 590, 600}))
    found = names(path)
    check_no_image_twice(found, 25)
    counts = {split: (len(some[False]), len(some[True])) for split, some in found.items()}
    assert counts == {"train": (16, 0), "validation": (1, 1), "test": (3, 4)}
    good = sorted(set().union(*(some[False] for some in found.values())))
    assert found["train"][False] != set(good[:16])  # drawn, not cut off


@pytest.mark.parametrize(("good", "train"), [(10, 8), (479, 383), (480, 400), (900, 400)])
def test_how_many_are_train(tmp_path: Path, good: int, train: int) -> None:
    found = names(write_folder(tmp_path, ten_class("Class1/Test", range(good), set())))
    rest = good - train
    assert [len(found[split][False]) for split in SPLITS] == [train, rest // 3, rest - rest // 3]


def test_a_split_does_not_depend_on_pixels_nor_on_other_classes(tmp_path: Path) -> None:
    tree = ten_class("Class1/Test", range(30), {4, 7, 9})
    first = names(write_folder(tmp_path / "a", tree))
    repainted = {
        name: surface(9) if "Label" not in name and name.endswith("PNG") else data
        for name, data in tree.items()
    }
    more = repainted | ten_class("Class9/Train", range(30), {1}) | ten_class("Class9/Test", range(5), set())
    assert names(write_folder(tmp_path / "b", more), "Class1") == first


@both
def test_masks_at_their_own_size_are_exact(write: Write, tmp_path: Path) -> None:
    images = DagmSet(write(tmp_path, ten_class("Class1/Test", range(60), set(range(0, 60, 2)))), "test")
    bad, good = images.where(defective=True), images.where(defective=False)
    assert images.has_masks and len(bad) == 20
    for index in bad:
        number = int(images.items[index].name[-8:-4])
        assert (images.mask(index, SIDE) == (truth(number) > 0)).all()
        assert (images.pixels(index, SIDE) == number).all()
    masks = images.masks(good + bad, 2 * SIDE)
    assert masks.shape == (len(images), 64, 64) and masks.dtype == bool
    assert not masks[: len(good)].any() and masks[len(good) :].any((1, 2)).all()


def test_a_defect_without_its_mask_s_file_has_no_mask(tmp_path: Path) -> None:
    tree = ten_class("Class1/Train", range(9), set()) | ten_class("Class1/Test", range(20, 30), {20, 21})
    del tree["DAGM2007/Class1/Test/Label/0021_label.PNG"]
    images = DagmSet(write_folder(tmp_path, tree), "test")
    lacking = next(i for i, item in enumerate(images.items) if "0021" in item.name)
    assert images.items[lacking].defect and images.mask(lacking, SIDE) is None
    assert not images.has_masks and images.masks(range(len(images)), SIDE) is None


def test_classes_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    tree = {}
    for number in (10, 2, 1):
        tree |= ten_class(f"Class{number}/Test", range(5), set())
    assert DagmSet(write_folder(tmp_path, tree), "train").classes == ("Class1", "Class2", "Class10")


@both
def test_the_folder_of_a_class_may_be_the_root(write: Write, tmp_path: Path) -> None:
    tree = ten_class("Train", range(9), {2}, top="") | ten_class("Test", range(10, 19), {12}, top="")
    path = write(tmp_path, tree)
    path = path.rename(path.with_name(f"Class3{path.suffix}"))
    assert layout_of(path) == "dagm"
    images = DagmSet(path, "test")
    assert images.classes == ("Class3",) and images.items[2].name == "Class3/Test/0012.PNG"
    assert images.mask(2, SIDE).any() and len(images) == 9


# --- competition version -----------------------------------------------------------------------------


@both
def test_competition(write: Write, tmp_path: Path) -> None:
    ellipses = [Ellipse(8, 3, 0.5, 10 + n, 14) for n in range(9)]
    path = write(tmp_path, competition("Class5", 20, ellipses) | competition("Class6", 20, ellipses[:3]))
    assert layout_of(path) == "dagm"
    found = names(path, "Class5")
    check_no_image_twice(found, 29)
    counts = {split: (len(some[False]), len(some[True])) for split, some in found.items()}
    assert counts == {"train": (16, 0), "validation": (1, 3), "test": (3, 6)}
    assert all(
        name.startswith("Class5_def/" if bad else "Class5/")
        for s in found.values()
        for bad in s
        for name in s[bad]
    )
    images = DagmSet(path, "test")
    assert images.classes == ("Class5", "Class6") and images.has_masks
    for index in images.where("Class5", defective=True):
        ellipse = ellipses[int(Path(images.items[index].name).stem) - 1]
        assert (images.mask(index, SIDE) == ellipse.draw(SIDE, SIDE)).all()
    assert not images.mask(images.where(defective=False)[0], SIDE).any()


def test_an_ellipse_is_drawn_as_its_numbers_say() -> None:
    ellipse = Ellipse(60, 20, 0.6, 210, 130)
    drawn = ellipse.draw(400, 300)
    assert drawn.shape == (300, 400) and drawn.dtype == bool
    assert drawn.sum() == pytest.approx(math.pi * 60 * 20, rel=0.01)
    y, x = np.nonzero(drawn)
    assert (x.mean(), y.mean()) == pytest.approx((210, 130), abs=0.1)
    for along, inside in ((0.95, True), (1.05, False)):
        tip = 60 * along
        assert drawn[round(130 + tip * math.sin(0.6)), round(210 + tip * math.cos(0.6))] == inside
    assert not drawn[round(130 - 50 * math.sin(0.6)), round(210 + 50 * math.cos(0.6))]  # the other way round
    assert Ellipse(30, 0.01, 0.3, 50.5, 40.5).draw(100, 100).any()  # however thin


def test_an_ellipse_is_drawn_at_the_image_s_own_size_and_then_resized(tmp_path: Path) -> None:
    tree = competition("Class1", 5, [Ellipse(40, 10, 0, 128, 16)] * 3, width=256)
    images = DagmSet(write_folder(tmp_path, tree), "test")
    mask = images.mask(images.where(defective=True)[0], SIDE)
    y, x = np.nonzero(mask)
    assert mask.shape == (SIDE, SIDE)
    assert (np.ptp(x) + 1, np.ptp(y) + 1) == pytest.approx((80 / 8, 20), abs=1)  # 256×32 pressed to 32×32
    assert (x.mean(), y.mean()) == pytest.approx((16, 16), abs=0.6)


def test_a_defective_image_without_a_row_has_no_mask(tmp_path: Path) -> None:
    tree = competition("Class1", 5, [Ellipse(5, 3, 0, 9, 9)] * 3)
    tree["Class1_def/4.png"] = tree["Class1_def/3.png"]
    path = write_folder(tmp_path, tree)
    found = [DagmSet(path, split) for split in SPLITS]
    has = {s.items[i].name: s.mask(i, SIDE) is not None for s in found for i in s.where(defective=True)}
    assert has == {f"Class1_def/{n}.png": n < 4 for n in range(1, 5)}
    assert not all(images.has_masks for images in found)


# --- what is refused ---------------------------------------------------------------------------------

LABELS = "DAGM2007/Class1/Test/Label/Labels.txt"


@both
@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (None, "has no Class1/Test/Label/Labels.txt"),
        (b"1\n1\t0\t0000.PNG\t0\t0\n", "says nothing of 0001.PNG: add its row"),
        (b"1\n1\t0\t0000.PNG\t0\t0\n2\tmaybe\t0001.PNG\t0\t0", "is damaged in row 3, which should hold"),
        (b"1\n1\t0\n", "is damaged in row 2"),
        (b"\xff\xfe\x00\x01", "Labels.txt"),
    ],
)
def test_damaged_labels_are_refused(
    write: Write, tmp_path: Path, labels: bytes | None, sentence: str
) -> None:
    tree = ten_class("Class1/Test", range(3), {1})
    if labels is None:
        del tree[LABELS]
    else:
        tree[LABELS] = labels
    path = write(tmp_path, tree)
    assert layout_of(path) == "dagm"
    with pytest.raises(DataError, match=sentence):
        open_set(str(path), "test")


@pytest.mark.parametrize("row", ["1 5 3 0 9", "1 5 3 0 9 9 9", "x 5 3 0 9 9", "1 nan 3 0 9 9", "1 5 0 0 9 9"])
def test_damaged_ellipses_are_refused(tmp_path: Path, row: str) -> None:
    tree = competition("Class1", 5, [Ellipse(5, 3, 0, 9, 9)])
    tree["Class1_def/labels.txt"] = f"1 5 3 0 9 9\n\n{row}\n".encode()
    with pytest.raises(DataError, match=r"labels\.txt is damaged in row 2"):
        DagmSet(write_folder(tmp_path, tree), "test")


def test_an_ellipse_outside_its_image_is_refused(tmp_path: Path) -> None:
    tree = competition("Class1", 5, [Ellipse(50, 30, 0, 400, 300)])
    images = DagmSet(write_folder(tmp_path, tree), "test")
    with pytest.raises(DataError, match=r"1\.png lies outside its 32×32 pixels"):
        images.mask(images.where(defective=True)[0], SIDE)


@both
@pytest.mark.parametrize("shape", [(48, 48), (32, 40)])
def test_a_mask_of_another_size_is_refused(write: Write, tmp_path: Path, shape: tuple[int, int]) -> None:
    tree = ten_class("Class1/Test", range(3), {1})
    tree["DAGM2007/Class1/Test/Label/0001_label.PNG"] = png_bytes(np.full(shape, 255, np.uint8))
    images = DagmSet(write(tmp_path, tree), "test")
    with pytest.raises(DataError) as caught:
        images.mask(images.where(defective=True)[0], SIDE)
    sentence = str(caught.value)
    assert "0001_label.PNG" in sentence and "0001.PNG" in sentence
    assert f"{shape[1]}×{shape[0]}" in sentence and "32×32" in sentence
    assert "export the mask at the image's size" in sentence


@both
def test_class_folders_that_happen_to_be_called_so_are_no_dagm(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, {f"Class{c}/{n}.png": surface(n) for c in (1, 2) for n in range(9)})
    assert layout_of(path) == "classes"
    with pytest.raises(DataError, match="is not in a layout of DAGM 2007"):
        DagmSet(path, "train")


# --- full data ---------------------------------------------------------------------------------------


@pytest.fixture
def dagm96() -> str:
    folder = os.environ.get("ANOUNET_DATA")
    if not folder:
        pytest.skip("ANOUNET_DATA is not set: no full data sets to read")
    if not (Path(folder) / "dagm96.zip").exists():
        pytest.skip("ANOUNET_DATA holds no dagm96.zip")
    return "dagm96"


def test_dagm96(dagm96: str) -> None:
    sets = {split: open_set(dagm96, split) for split in SPLITS}
    assert all(isinstance(images, DagmSet) and images.has_masks for images in sets.values())
    assert sets["train"].classes == ("Class1", "Class4")
    counts = {
        class_name: [
            len(sets[split].where(class_name, defective=bad)) for bad in (False, True) for split in SPLITS
        ]
        for class_name in ("Class1", "Class4")
    }
    # good in train, validation and test, then defective ones
    assert counts == {"Class1": [400, 40, 80, 0, 18, 37], "Class4": [400, 31, 62, 0, 27, 55]}
    every = [item.name for images in sets.values() for item in images.items]
    assert len(every) == len(set(every)) == 2 * 575
    for images in sets.values():
        for item, mask in zip(images.items, images.masks(range(len(images)), 96), strict=True):
            assert mask.any() == bool(item.defect) and mask.mean() < 0.5, item
    x = next(sets["test"].batches(sets["test"].where("Class4", defective=True)[:4], 96))
    assert 0.1 < x.mean() < 0.9 and x.std() > 0.02
