"""The layout of MVTec AD, from folders and ZIPs: categories, defects, masks, and what is no MVTec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_datasets import both, image_bytes, write_folder

from anounet.datasets import DataError, layout_of, open_set
from anounet.datasets.mvtec import MvtecSet
from anounet.images import ImageError, png_bytes

Tree = dict[str, bytes]
Write = Callable[[Path, Tree], Path]

SIDE = 32


def grey(level: int) -> bytes:
    return png_bytes(np.full((SIDE, SIDE, 3), level, np.uint8))


def truth(number: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[number : number + 5, 3:9] = 255
    return mask


def category(prefix: str = "", defects: tuple[str, ...] = ("broken", "hole"), masks: str = "_mask") -> Tree:
    tree = {f"{prefix}train/good/{n:03d}.png": grey(n) for n in range(7)}
    tree |= {f"{prefix}test/good/{n:03d}.png": grey(50 + n) for n in range(3)}
    for at, defect in enumerate(defects):
        for n in range(4):
            tree[f"{prefix}test/{defect}/{n:03d}.png"] = grey(100 + 10 * at + n)
            tree[f"{prefix}ground_truth/{defect}/{n:03d}{masks}.png"] = png_bytes(truth(10 * at + n))
    return tree | {f"{prefix}license.txt": b"text", f"{prefix}readme.txt": b"text"}


def index_of(images: MvtecSet, name: str) -> int:
    return next(i for i, item in enumerate(images.items) if item.name == name)


@both
@pytest.mark.parametrize("top", ["", "mvtec_anomaly_detection/"])
@pytest.mark.parametrize("masks", ["_mask", ""])
def test_many_categories(write: Write, tmp_path: Path, top: str, masks: str) -> None:
    tree = category(f"{top}bottle/", masks=masks) | category(f"{top}nut/", ("bent",), masks)
    path = write(tmp_path, tree)
    assert layout_of(path) == "mvtec"
    train, validation, test = (open_set(str(path), split) for split in ("train", "validation", "test"))
    assert train.classes == validation.classes == test.classes == ("bottle", "nut")
    assert (len(train), len(validation), len(test)) == (14, 0, 3 + 8 + 3 + 4)
    assert not any(item.defect for item in train.items)
    assert {item.name for item in train.items} >= {"bottle/train/good/000.png", "nut/train/good/006.png"}
    assert {item.defect for item in test.items if item.class_name == "bottle"} == {"", "broken", "hole"}
    assert {item.defect for item in test.items if item.class_name == "nut"} == {"", "bent"}
    assert len(test.where("bottle", defective=False)) == 3
    hole = index_of(test, "bottle/test/hole/002.png")
    assert (test.pixels(hole, SIDE) == 112).all()
    assert (test.mask(hole, SIDE) == (truth(12) > 0)).all()
    assert test.has_masks and train.has_masks
    assert not test.mask(index_of(test, "nut/test/good/001.png"), SIDE).any()
    assert test.masks(test.where("bottle"), SIDE).any((1, 2)).sum() == 8


@both
def test_one_category_is_called_after_its_folder_or_zip(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, category())
    path = path.rename(path.with_name(f"screw{path.suffix}"))
    test = open_set(str(path), "test")
    assert isinstance(test, MvtecSet) and test.classes == ("screw",)
    assert test.name == "screw" and len(test) == 11
    assert test.mask(index_of(test, "screw/test/broken/003.png"), SIDE).sum() == 30


def test_one_category_in_a_zip_s_wrapping(tmp_path: Path) -> None:
    test = open_set(str(write_folder(tmp_path, category("bottle/"))), "test")
    assert test.classes == ("bottle",) and len(test) == 11


@both
def test_a_defect_without_ground_truth_has_no_mask(write: Write, tmp_path: Path) -> None:
    tree = category("nut/")
    del tree["nut/ground_truth/hole/001_mask.png"]
    test = MvtecSet(write(tmp_path, tree), "test")
    lacking = index_of(test, "nut/test/hole/001.png")
    assert test.mask(lacking, SIDE) is None and not test.has_masks
    assert test.masks(test.where(), SIDE) is None
    rest = [index for index in test.where() if index != lacking]
    assert test.masks(rest, SIDE).any((1, 2)).sum() == 7  # the others have theirs


@both
def test_a_mask_of_another_size_is_refused(write: Write, tmp_path: Path) -> None:
    tree = category("nut/")
    tree["nut/ground_truth/hole/001_mask.png"] = png_bytes(np.zeros((64, 64), np.uint8))
    test = MvtecSet(write(tmp_path, tree), "test")
    with pytest.raises(
        DataError, match=r"001_mask\.png has 64×64 pixels and its image .*001\.png 32×32: exp"
    ):
        test.mask(index_of(test, "nut/test/hole/001.png"), SIDE)


@both
def test_a_damaged_mask_is_refused(write: Write, tmp_path: Path) -> None:
    tree = category("nut/")
    tree["nut/ground_truth/hole/000_mask.png"] = b"no image"
    whole = tree["nut/ground_truth/hole/001_mask.png"]
    tree["nut/ground_truth/hole/001_mask.png"] = whole[:-30]
    test = MvtecSet(write(tmp_path, tree), "test")
    for number in (0, 1):
        with pytest.raises(ImageError, match=f"The mask .*00{number}_mask.png cannot be decoded"):
            test.mask(index_of(test, f"nut/test/hole/00{number}.png"), SIDE)


@pytest.mark.parametrize(
    ("mode", "level", "format"),
    [
        ("L", 1, "PNG"),
        ("1", 255, "PNG"),
        ("RGB", 255, "BMP"),
        ("RGBA", 200, "PNG"),
        ("I;16", 9, "TIFF"),
        ("I;16", 0x300, "PNG"),
        ("F", 0.5, "TIFF"),
    ],
)
def test_masks_of_every_mode(tmp_path: Path, mode: str, level: float, format: str) -> None:
    marked = truth(3) > 0
    kind = {"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
    mask = Image.fromarray((marked * level).astype(kind))
    mask = mask if mask.mode == mode else mask.convert(mode)
    tree = category("nut/", ())
    tree["nut/test/hole/000.png"] = grey(9)
    tree[f"nut/ground_truth/hole/000_mask.{format.lower()}"] = image_bytes(mask, format)
    test = MvtecSet(write_folder(tmp_path, tree), "test")
    assert (test.mask(index_of(test, "nut/test/hole/000.png"), SIDE) == marked).all()


def test_a_jpeg_mask_s_noise_is_no_defect(tmp_path: Path) -> None:
    mask = Image.fromarray(truth(3))
    tree = category("nut/", ())
    tree["nut/test/hole/000.png"] = grey(9)
    tree["nut/ground_truth/hole/000_mask.jpg"] = image_bytes(mask, "JPEG")
    test = MvtecSet(write_folder(tmp_path, tree), "test")
    assert (test.mask(index_of(test, "nut/test/hole/000.png"), SIDE) == (truth(3) > 0)).all()


@pytest.mark.parametrize("turned_mask", [False, True])
@pytest.mark.parametrize("format", ["JPEG", "TIFF", "WEBP", "PNG"])
def test_a_photograph_on_its_side_is_compared_upright(tmp_path: Path, format: str, turned_mask: bool) -> None:
    """A phone stores 48×32 and says "turn me"; the mask was drawn on the upright 32×48, or is turned, too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    tree = category("nut/", ())
    photo = image_bytes(Image.new("RGB", (48, 32), "grey"), format, exif=exif)
    tree[f"nut/test/hole/000.{format.lower()}"] = photo
    mask = np.zeros((48, 32), np.uint8)
    mask[:24] = 255  # the upper half
    lying = Image.fromarray(mask).transpose(Image.Transpose.ROTATE_90)
    stored = image_bytes(lying, "PNG", exif=exif) if turned_mask else png_bytes(mask)
    tree["nut/ground_truth/hole/000_mask.png"] = stored
    test = MvtecSet(write_folder(tmp_path, tree), "test")
    found = test.mask(test.where(defective=True)[0], 32)
    assert found[:16].all() and not found[16:].any()


@both
@pytest.mark.parametrize("lacking", ["train/good", "test/"])
def test_without_normal_images_or_a_test_it_is_no_mvtec(write: Write, tmp_path: Path, lacking: str) -> None:
    tree = {name: data for name, data in category("a/").items() if f"a/{lacking}" not in name}
    path = write(tmp_path, tree)
    assert layout_of(path) != "mvtec"
    with pytest.raises(DataError, match="is not in the layout of MVTec AD: normal images belong into"):
        MvtecSet(path, "train")


@both
def test_classes_called_good_and_bad_are_class_folders(write: Write, tmp_path: Path) -> None:
    tree = {
        f"{part}/{name}/{n}.png": grey(n)
        for part in ("train", "test")
        for name in ("good", "bad")
        for n in range(9)
    }
    path = write(tmp_path, tree)
    assert layout_of(path) == "classes"
    assert open_set(str(path), "test").classes == ("bad", "good")
