"""Data sets: the embedded textures, and folders and ZIPs in every layout that is promised."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anounet import images as image_module
from anounet.cli import main
from anounet.datasets import SPLITS, DataError, ImageSet, TextureSet, available, choose, layout_of, open_set
from anounet.datasets import files as files_module
from anounet.datasets.folders import FolderSet
from anounet.datasets.masks import fit_mask
from anounet.datasets.plain import PlainSet
from anounet.images import MAX_BYTES, ImageError, png_bytes

Layout = Callable[[Path, Iterable[str]], Path]
Write = Callable[[Path, Mapping[str, bytes]], Path]


def png(name: str) -> bytes:
    """A small image of one colour that its name fixes."""
    colour = np.frombuffer(name.encode().ljust(3, b"x")[-7:-4].ljust(3, b"y"), np.uint8)
    return png_bytes(np.broadcast_to(colour, (8, 8, 3)).copy())


def image_bytes(image: Image.Image, format: str, **settings: Any) -> bytes:
    """The image as a file."""
    buffer = BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def write_folder(root: Path, tree: Mapping[str, bytes]) -> Path:
    """The files by name in the folder `root`/set."""
    for name, data in tree.items():
        path = root / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "set"


def write_zip(root: Path, tree: Mapping[str, bytes]) -> Path:
    """The files by name in `root`/set.zip."""
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return root / "set.zip"


def as_folder(root: Path, names: Iterable[str]) -> Path:
    return write_folder(root, {name: png(name) for name in names})


def as_zip(root: Path, names: Iterable[str]) -> Path:
    return write_zip(root, {name: png(name) for name in names})


both = pytest.mark.parametrize("write", [write_folder, write_zip])
both_by_name = pytest.mark.parametrize("lay_out", [as_folder, as_zip])


def many(pattern: str, count: int = 60) -> list[str]:
    return [pattern.format(f"{number:03d}") for number in range(count)]


def splits(path: Path) -> dict[str, set[str]]:
    return {split: {item.name for item in FolderSet(path, split).items} for split in SPLITS}


def check_disjoint_and_complete(found: dict[str, set[str]], names: Iterable[str]) -> None:
    assert sum(map(len, found.values())) == len(set().union(*found.values()))
    assert set().union(*found.values()) == set(names)


# --- embedded ----------------------------------------------------------------------------------------


def test_textures_have_their_splits_and_no_defects_in_train() -> None:
    sets = {split: TextureSet(split, per_class=4) for split in SPLITS}
    classes = len(TextureSet.classes)
    assert [len(sets[split]) for split in SPLITS] == [4 * classes, 8 * classes, 8 * classes]
    assert not any(item.defect for item in sets["train"].items)
    for split in ("validation", "test"):
        good, bad = (sets[split].where("streaks", defective=wanted) for wanted in (False, True))
        assert len(good) == len(bad) == 4
        assert not set(good) & set(bad)
    names = [item.name for image_set in sets.values() for item in image_set.items]
    assert len(names) == len(set(names))
    images = [sets[s].pixels(i, 32).tobytes() for s in SPLITS for i in sets[s].where("streaks")]
    assert len(images) == len(set(images))  # no image twice, in no two splits


def test_textures_have_exact_masks() -> None:
    images = TextureSet("test", per_class=3)
    good, bad = images.where("wood", defective=False), images.where("wood", defective=True)
    masks = images.masks(good + bad, 32)
    assert masks.shape == (6, 32, 32) and masks.dtype == bool
    assert not masks[:3].any()
    assert all(0 < mask.mean() < 0.5 for mask in masks[3:])


def test_textures_are_the_same_each_time_and_of_their_seed() -> None:
    first, again, other = (TextureSet("test", 2, seed=seed).pixels(0, 32) for seed in (0, 0, 1))
    assert (first == again).all()
    assert not (first == other).all()


def test_wrong_textures_are_refused() -> None:
    with pytest.raises(DataError, match="Unknown split 'all'"):
        TextureSet("all")
    with pytest.raises(DataError, match="1 to 100000 images, not 0"):
        TextureSet("test", 0)


# --- what every set does -----------------------------------------------------------------------------


def test_where_chooses_classes_and_defects() -> None:
    images = TextureSet("test", per_class=2)
    assert images.where() == list(range(len(images)))
    assert {images.items[i].class_name for i in images.where("stars")} == {"stars"}
    rest = images.where(exclude=("stars", "wood"))
    assert {images.items[i].class_name for i in rest} == set(images.classes) - {"stars", "wood"}
    assert all(images.items[i].defect for i in images.where(defective=True))
    assert images.where("stars", exclude=("stars",)) == []
    images.check_classes(["stars"])
    with pytest.raises(DataError, match="'textures' has no class 'silk': choose from streaks"):
        images.check_classes(["stars", "silk"])


def test_batches_and_tensor_hold_the_same_images() -> None:
    images = TextureSet("train", per_class=3)
    indices = [5, 0, 7, 2, 9]
    batches = list(images.batches(indices, 32, batch=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    tensor = images.tensor(indices, 32)
    assert tensor.dtype == torch.uint8 and tensor.shape == (5, 3, 32, 32)
    assert torch.equal(torch.cat(batches), tensor.float() / 255)
    assert (tensor[1].permute(1, 2, 0).numpy() == images.pixels(0, 32)).all()


def test_choose_is_deterministic() -> None:
    numbers = list(range(100, 200))
    np.random.seed(1)
    first = choose(numbers, 10)
    np.random.seed(2)
    assert choose(numbers, 10) == first == sorted(first)
    assert choose(numbers, 10, seed=1) != first
    assert len(set(first)) == 10 and set(first) <= set(numbers)
    assert choose(numbers, None) == choose(numbers, 100) == choose(numbers, 1000) == numbers
    assert all(type(number) is int for number in first)


# --- masks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [96, 112, 496])
@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_a_line_of_one_pixel_survives_shrinking(size: int, slope: float) -> None:
    line = np.zeros((512, 512), bool)
    x = np.arange(40, 470)
    line[(25 + slope * x).astype(int), x] = True
    for mask in (line, line.T):
        shrunk = fit_mask(mask, size)
        assert shrunk.shape == (size, size) and shrunk.dtype == bool
        scale = size / 512
        covered = shrunk.any(0) if mask is line else shrunk.any(1)
        assert covered[round(41 * scale) : int(469 * scale)].all()  # all along, without a gap
        assert shrunk.sum() < 3 * 430 * scale  # and it stays thin


@pytest.mark.parametrize("shape", [(1024, 1024), (700, 1000), (97, 500)])
def test_no_marked_pixel_vanishes(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for y, x in zip(rng.integers(0, shape[0], 200), rng.integers(0, shape[1], 200), strict=True):
        mask = np.zeros(shape, bool)
        mask[y, x] = True
        ((row, column),) = np.argwhere(fit_mask(mask, 96))
        assert abs((row + 0.5) / 96 - (y + 0.5) / shape[0]) < 0.6 / 96 + 0.5 / shape[0]
        assert abs((column + 0.5) / 96 - (x + 0.5) / shape[1]) < 0.6 / 96 + 0.5 / shape[1]


def test_a_blob_keeps_its_area() -> None:
    y, x = np.ogrid[:512, :512]
    blob = (x - 200) ** 2 / 60**2 + (y - 300) ** 2 / 25**2 <= 1
    assert fit_mask(blob, 96).mean() == pytest.approx(blob.mean(), rel=0.05)
    with_tail = blob.copy()
    with_tail[300, 200:460] = True
    tail = fit_mask(with_tail, 96)[:, 55:85]
    assert tail.any(0).all() and tail.sum(0).max() == 1  # thin where the scratch is


@pytest.mark.parametrize("size", [32, 96])
def test_a_mask_of_the_size_asked_for_stays_as_it_is(size: int) -> None:
    mask = np.random.default_rng(0).random((size, size)) < 0.3
    assert (fit_mask(mask, size) == mask).all()
    assert (fit_mask(mask, 2 * size) == mask.repeat(2, 0).repeat(2, 1)).all()
    assert not fit_mask(np.zeros((500, 300), bool), size).any()
    assert fit_mask(np.ones((500, 300), bool), size).all()


# --- layouts of folders and ZIPs ---------------------------------------------------------------------


@both_by_name
@pytest.mark.parametrize("top", ["", "everything/"])
def test_train_and_test(lay_out: Layout, tmp_path: Path, top: str) -> None:
    train, test = many("train/cat/{}.png") + many("train/dog/{}.png"), many("test/cat/{}.png", 5)
    path = lay_out(tmp_path, [top + name for name in train + test])
    found = splits(path)
    check_disjoint_and_complete(found, train + test)
    assert found["test"] == set(test)
    assert 4 <= len(found["validation"]) <= 25  # a tenth of train
    assert FolderSet(path, "test").classes == ("cat", "dog")


@both_by_name
@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_train_and_validation(lay_out: Layout, tmp_path: Path, val: str) -> None:
    train, held = many("train/cat/{}.png"), many(val + "/cat/{}.png", 7)
    found = splits(lay_out(tmp_path, train + held))
    check_disjoint_and_complete(found, train + held)
    assert found["test"] == set(held)  # what val/ holds
    assert 1 <= len(found["validation"]) <= 15 and found["validation"] < set(train)


@both_by_name
def test_train_validation_and_test(lay_out: Layout, tmp_path: Path) -> None:
    layout = {
        s: many(f"{folder}/cat/{{}}.png", 20)
        for s, folder in zip(SPLITS, ("train", "val", "test"), strict=True)
    }
    found = splits(lay_out(tmp_path, [name for names in layout.values() for name in names]))
    assert found == {split: set(names) for split, names in layout.items()}


@both_by_name
@pytest.mark.parametrize("top", ["", "everything/"])
def test_flat_classes_are_split_by_their_names(lay_out: Layout, tmp_path: Path, top: str) -> None:
    names = many("cat/{}.png", 150) + many("dog/{}.jpg", 150)
    found = splits(lay_out(tmp_path, [top + name for name in names]))
    check_disjoint_and_complete(found, names)
    sizes = [len(found[split]) / 300 for split in SPLITS]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.08)


@both_by_name
def test_an_image_stays_in_its_split_when_others_come(lay_out: Layout, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    few, more = many("cat/{}.png", 30) + many("dog/{}.png", 3), many("cat/{}.png", 60) + many("cow/{}.png", 9)
    first, second = splits(lay_out(tmp_path / "a", few)), splits(lay_out(tmp_path / "b", more))
    for split in SPLITS:
        assert first[split] & set(more) == second[split] & set(few)


@both_by_name
def test_one_class_alone(lay_out: Layout, tmp_path: Path) -> None:
    path = lay_out(tmp_path, many("cat/{}.png", 30))
    assert FolderSet(path, "train").classes == ("cat",)
    check_disjoint_and_complete(splits(path), many("cat/{}.png", 30))


@both_by_name
def test_hidden_files_and_other_files_are_passed_over(lay_out: Layout, tmp_path: Path) -> None:
    good = many("train/cat/{}.png", 20) + many("test/cat/{}.JPEG", 3)
    junk = [
        "__MACOSX/train/cat/._000.png",
        "__MACOSX/dog/plain.png",
        "train/cat/.hidden.png",
        ".git/cat/x.png",
        "train/.trash/x.png",
    ]
    junk += ["train/cat/readme.txt", "train/loose.png", "cover.png", "train/cat/deep/er.png", "labels.csv"]
    path = lay_out(tmp_path, good + junk)
    check_disjoint_and_complete(splits(path), good)
    assert FolderSet(path, "train").classes == ("cat",)


def test_macosx_folder_does_not_hide_a_common_top_folder(tmp_path: Path) -> None:
    names = many("photos/cat/{}.png", 20)
    path = as_zip(tmp_path, [*names, "__MACOSX/photos/cat/._000.png", "__MACOSX/dog/plain.png"])
    assert FolderSet(path, "train").classes == ("cat",)
    check_disjoint_and_complete(splits(path), many("cat/{}.png", 20))


@both_by_name
def test_pixels_belong_to_their_item(lay_out: Layout, tmp_path: Path) -> None:
    path = lay_out(tmp_path, [f"train/{c}/{c}{n}.png" for c in ("cat", "dog") for n in range(9)])
    images = FolderSet(path, "train")
    for index, item in enumerate(images.items):
        pixels = images.pixels(index, 32)
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
        expected = image_module.decode(png(item.name), "x", 32).pixels
        assert (pixels == expected).all(), item
        assert item.name.startswith(f"train/{item.class_name}/")
    assert images.masks([0], 32) is None
    assert not any(item.defect for item in images.items)


@both_by_name
@pytest.mark.parametrize("names", [["a.png", "b.png"], ["train/cat/readme.txt"], ["a/b/c/d/e.png"]])
def test_no_class_folders_are_refused(lay_out: Layout, tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(DataError, match="holds no images in class folders: put each class"):
        FolderSet(lay_out(tmp_path, names), "train")


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    for data in (b"", b"no zip", as_zip(tmp_path, many("cat/{}.png")).read_bytes()[:-30]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"set\.zip' is not a ZIP file that can be read"):
            FolderSet(path, "train")
    with pytest.raises(DataError, match="neither a folder nor a ZIP"):
        FolderSet(tmp_path / "absent", "train")
    with pytest.raises(DataError, match="Unknown split 'all'"):
        FolderSet(path, "all")


def index_of(images: ImageSet, name: str) -> int:
    return next(i for i, item in enumerate(images.items) if item.name == name)


def test_a_bomb_ends_one_image_only(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in many("train/cat/{}.png", 20):
            archive.writestr(name, png(name))
        archive.writestr("train/dog/bomb.png", bytes(MAX_BYTES + 10))
        archive.writestr("train/dog/broken.png", b"no image")
        archive.writestr("train/dog/empty.png", b"")
        archive.writestr("test/cat/a.png", png("a"))
    assert path.stat().st_size < MAX_BYTES / 100
    seen = set()
    for split in ("train", "validation"):
        images = FolderSet(path, split)
        for index, item in enumerate(images.items):
            if item.class_name == "dog":
                words = {"bomb": "larger than 20 MB", "empty": "is empty", "broken": "not a readable"}
                stem = Path(item.name).stem
                with pytest.raises(ImageError, match=f"{stem}.*{words[stem]}"):
                    images.pixels(index, 32)
                seen.add(stem)
            else:
                assert images.pixels(index, 32).shape == (32, 32, 3)
    assert seen == {"bomb", "broken", "empty"}


@pytest.mark.parametrize("outside", ["../{}", "/tmp/{}", "train/cat/../../../{}", "..\\{}", "./../{}"])
def test_names_that_lead_outside_are_passed_over(outside: str, tmp_path: Path) -> None:
    good = many("train/cat/{}.png", 20)
    path = as_zip(tmp_path, [*good, outside.format("train/cat/evil.png"), outside.format("evil.png")])
    assert list(files_module.Files(path).names) == good
    check_disjoint_and_complete(splits(path), good)


def test_a_zip_that_says_it_fills_disks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in many("cat/{}.png", 20):
            archive.writestr(name, bytes(2**20))
    assert FolderSet(tmp_path / "set.zip", "train").classes == ("cat",)  # small enough, whatever it is
    monkeypatch.setattr(files_module, "MAX_UNPACKED", 10 * 2**20)
    files_module._zip_names.cache_clear()
    with pytest.raises(DataError, match="would unpack to more than 50 times its size"):
        FolderSet(tmp_path / "set.zip", "train")


def test_what_many_entries_share_counts_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/000.png", bytes(2**20))
        archive.filelist += [copy(archive.filelist[0]) for _ in range(60)]  # all at the same place
        for name, entry in zip(many("cat/{}.png", 61), archive.filelist, strict=True):
            entry.filename = name
    monkeypatch.setattr(files_module, "MAX_UNPACKED", 30 * 2**20)
    with pytest.raises(DataError, match="would unpack to more than 50 times its size"):
        FolderSet(path, "train")


def test_a_zip_in_a_zip_stays_closed(tmp_path: Path) -> None:
    inner = as_zip(tmp_path, many("train/cat/{}.png", 9)).read_bytes()
    path = write_zip(
        tmp_path, {"inner.zip": inner, "train/dog/inner.zip": inner, "train/dog/1.png": png("1")}
    )
    assert FolderSet(path, "train").classes == ("dog",)
    assert sum(len(found) for found in splits(path).values()) == 1


def test_damage_inside_a_zip_ends_one_image_only(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("test/cat/a.png", png_bytes(noise))
            archive.writestr("test/cat/b.png", png("b"))
            start = archive.getinfo("test/cat/a.png").header_offset
        data = bytearray(path.read_bytes())
        for at in range(start + 200, start + 260):
            data[at] ^= 0xFF
        path.write_bytes(bytes(data))
        images = FolderSet(path, "test")
        with pytest.raises(ImageError, match=r"a\.png"):
            images.pixels(index_of(images, "test/cat/a.png"), 32)
        assert images.pixels(index_of(images, "test/cat/b.png"), 32).shape == (32, 32, 3)


def test_an_encrypted_entry_ends_one_image_only(tmp_path: Path) -> None:
    path = as_zip(tmp_path, ["test/cat/a.png"])
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1  # says that it is encrypted
    path.write_bytes(bytes(data))
    with pytest.raises(ImageError, match=r"a\.png"):
        FolderSet(path, "test").pixels(0, 32)


@both_by_name
def test_a_set_is_read_from_another_working_folder(
    lay_out: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, many("test/cat/{}.png", 3))
    monkeypatch.chdir(tmp_path)
    images = FolderSet("set" if lay_out is as_folder else "set.zip", "test")
    monkeypatch.chdir("/")
    assert images.pixels(0, 32).shape == (32, 32, 3)


def test_names_as_some_packers_write_them(tmp_path: Path) -> None:
    names = [*(f"./train/cat/{n}.png" for n in range(9)), *(f"test\\cat\\{n}.png" for n in range(4))]
    images = FolderSet(as_zip(tmp_path, names), "test")
    assert [item.name for item in images.items] == many("test/cat/{}.png", 0) + [
        f"test/cat/{n}.png" for n in range(4)
    ]
    assert (images.pixels(2, 32) == image_module.decode(png(names[11]), "x", 32).pixels).all()
    assert len(FolderSet(tmp_path / "set.zip", "train")) > 4


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MAX_FILES", 20)
    for path in (as_folder(tmp_path, many("cat/{}.png", 21)), as_zip(tmp_path, many("cat/{}.png", 21))):
        with pytest.raises(DataError, match="holds more than 20 files: split it up"):
            FolderSet(path, "train")


# --- a plain folder of normal images -----------------------------------------------------------------


def normals() -> dict[str, bytes]:
    """Images of mixed sizes and modes, whose brightness rises from one to the next."""
    grey = {name: Image.new("L", (40 + 9 * n, 70 - 5 * n), 40 * n) for n, name in enumerate("abcdef")}
    deep = np.full((33, 65), 40 * 2 * 257, np.uint16)
    half = Image.new("RGBA", (50, 60), (120, 120, 120, 255))
    return {
        "a grey.png": image_bytes(grey["a"], "PNG"),
        "b colour.jpg": image_bytes(grey["b"].convert("RGB"), "JPEG", quality=95),
        "c deep.tif": image_bytes(Image.fromarray(deep), "TIFF"),
        "d alpha.png": image_bytes(half, "PNG"),
        "e palette.gif": image_bytes(grey["e"].convert("RGB").convert("P"), "GIF"),
        "f cmyk.JPEG": image_bytes(grey["f"].convert("RGB").convert("CMYK"), "JPEG", quality=95),
    }


@both
def test_a_plain_folder_of_mixed_images(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, normals() | {"notes.txt": b"text", ".hidden.png": b"", "Thumbs.db": b""})
    assert layout_of(path) == "plain"
    images = open_set(str(path), "train")
    assert isinstance(images, PlainSet) and images.classes == ("set",) and images.name == "set"
    assert [item.name for item in images.items] == list(normals())
    assert {(item.class_name, item.defect) for item in images.items} == {("set", "")}
    x, kept, skipped = images.readable(images.where(), 48)
    assert x.shape == (6, 3, 48, 48) and x.dtype == torch.uint8
    assert (kept, skipped) == ([0, 1, 2, 3, 4, 5], [])
    levels = x.float().mean((1, 2, 3)).tolist()
    assert levels == pytest.approx([0, 40, 80, 120, 160, 200], abs=3)
    assert [len(open_set(str(path), split)) for split in SPLITS] == [6, 0, 0]
    assert open_set(str(path), "test").classes == ("set",)
    assert not images.has_masks and images.mask(0, 32) is None


def test_a_zip_s_one_folder_is_its_wrapping(tmp_path: Path) -> None:
    tree = {f"my normals/{name}": data for name, data in normals().items()}
    path = write_zip(tmp_path, tree | {"__MACOSX/my normals/._a grey.png": b""})
    images = open_set(str(path), "train")
    assert isinstance(images, PlainSet) and images.classes == ("set",)
    assert [item.name for item in images.items] == list(normals())
    assert images.pixels(1, 32).mean() == pytest.approx(40, abs=2)


@both
def test_damaged_images_are_named_and_the_others_read(write: Write, tmp_path: Path) -> None:
    damaged = {"aa broken.png": b"no image", "bb empty.jpg": b"", "cc cut.png": normals()["a grey.png"][:60]}
    images = PlainSet(write(tmp_path, normals() | damaged), "train")
    order = list(range(len(images)))[::-1]
    x, kept, skipped = images.readable(order, 32)
    assert [images.items[i].name for i in kept] == sorted(normals(), reverse=True)
    assert torch.equal(x, images.tensor(kept, 32))
    assert [name for name, _ in skipped] == sorted(damaged, reverse=True)
    for name, reason in skipped:
        assert name in reason and reason.endswith((".", "retry.")) and "\n" not in reason
    x, kept, skipped = images.readable([images.where()[1]], 32)
    assert x.shape == (0, 3, 32, 32) and not kept and len(skipped) == 1
    with pytest.raises(ValueError, match="multiple of 16"):  # nobody's damage
        images.readable(order, 33)
    with pytest.raises(ImageError):
        images.tensor(order, 32)


def test_no_images_directly_inside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images directly inside: put the normal images there"):
        PlainSet(as_folder(tmp_path, ["cat/a.png"]), "train")


# --- by name -----------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `$ANOUNET_DATA`, with an empty working folder beside it."""
    folder = tmp_path / "data sets"
    folder.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("ANOUNET_DATA", str(folder))
    return folder


def test_sets_are_found_by_name_in_the_folder_of_data(data: Path) -> None:
    as_zip(data, many("train/cat/{}.png", 12)).rename(data / "pets.zip")
    as_folder(data, many("dog/{}.png", 12)).rename(data / "dogs")
    (data / "notes.txt").write_text("not a data set")
    (data / "broken.zip").write_bytes(b"no zip")
    (data / "empty").mkdir()
    (data / ".hidden").mkdir()
    assert available() == {"textures": None, "pets": data / "pets.zip", "dogs": data / "dogs"}
    pets = open_set("pets", "train")
    assert pets.name == "pets" and pets.classes == ("cat",) and len(pets) > 5
    assert open_set("dogs", "train").classes == ("dog",)
    assert isinstance(open_set("textures", "test"), TextureSet)
    by_path = open_set(str(data / "pets.zip"), "train")
    assert by_path.classes == ("cat",) and by_path.name == "pets"


def test_the_working_folder_s_data_comes_second(data: Path, tmp_path: Path) -> None:
    here = tmp_path / "work" / "data"
    as_folder(here, many("dog/{}.png", 5))
    assert open_set("set", "train").classes == ("dog",)
    as_folder(data, many("cat/{}.png", 5))
    assert open_set("set", "train").classes == ("cat",)
    assert available()["set"] == data / "set"


def test_an_unknown_set_is_refused_with_where_it_was_looked_for(data: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_set("pets", "train")
    assert "no data set 'pets'" in str(caught.value)
    assert str(data) in str(caught.value) and "'data'" in str(caught.value)


@both_by_name
@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["cat/1.png", "dog/1.png"], "classes"),
        (["cat/1.png", "dog/1.png", "cover.png"], "classes"),
        (["train/cat/1.png", "test/cat/1.png"], "classes"),
        (["1.png", "2.png", "masks/1_mask.png", "masks/2_mask.png"], "plain"),  # as `samples` writes them
        (["1.png"], "plain"),
        (["x/train/good/1.png", "x/test/hole/1.png"], "mvtec"),
        (["Class1/1.png", "Class1_def/1.png"], "dagm"),
        (["Class1/Test/1.PNG", "Class1/Train/2.PNG"], "dagm"),
        (["a/b/c/d/1.png"], None),
        (["images-idx3-ubyte", "labels.txt"], None),
        ([], None),
    ],
)
def test_layouts_are_told_apart(
    lay_out: Layout, tmp_path: Path, names: list[str], layout: str | None
) -> None:
    (tmp_path / "set").mkdir()
    path = lay_out(tmp_path, names)
    assert layout_of(path) == layout
    if layout is None:
        with pytest.raises(DataError) as caught:
            open_set(str(path), "train")
        for word in ("DAGM 2007", "MVTec AD", "class folders", "images directly inside", str(path)):
            assert word in str(caught.value)


def test_one_folder_is_a_class_in_a_folder_and_a_wrapping_in_a_zip(tmp_path: Path) -> None:
    assert layout_of(as_folder(tmp_path, many("cat/{}.png", 9))) == "classes"
    assert layout_of(as_zip(tmp_path, many("cat/{}.png", 9))) == "plain"


def test_what_is_no_folder_and_no_zip_has_no_layout(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="not a ZIP"):
        layout_of(tmp_path / "a.zip")
    with pytest.raises(DataError, match="neither a folder nor a ZIP"):
        layout_of(tmp_path / "absent")


def test_stray_images_are_no_data_set_to_list(data: Path) -> None:
    as_folder(data, many("{}.png", 4)).rename(data / "stray")
    as_folder(data, many("{}.png", 5)).rename(data / "normals.v2")
    as_zip(data, many("{}.png", 5)).rename(data / "zipped.zip")
    (data / "loose.png").write_bytes(png("loose"))
    assert set(available()) == {"textures", "normals.v2", "zipped"}
    assert [len(open_set(name, "train")) for name in ("stray", "normals.v2", "zipped")] == [4, 5, 5]


def test_a_zip_is_listed_once_until_it_changes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Counting(zipfile.ZipFile):
        def __init__(self, file: Any, *more: Any, **named: Any) -> None:
            opened.append(Path(file).name)
            super().__init__(file, *more, **named)

    path = as_zip(data, many("cat/{}.png", 20) + many("dog/{}.png", 20))
    monkeypatch.setattr(files_module.zipfile, "ZipFile", Counting)
    assert "set" in available()
    sets = [open_set("set", split) for split in SPLITS]
    assert opened == ["set.zip"]
    sets[0].pixels(0, 32)
    sets[0].pixels(1, 32)
    assert opened == ["set.zip"] * 2  # once more, for reading
    path.unlink()
    monkeypatch.undo()
    monkeypatch.setenv("ANOUNET_DATA", str(data))
    as_zip(data, many("cow/{}.png", 20) + many("hen/{}.png", 20))
    assert open_set("set", "train").classes == ("cow", "hen")


def test_the_listing_looks_into_each_set_once(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_zip(data, many("cat/{}.png", 20) + many("dog/{}.png", 20)).rename(data / "zipped.zip")
    as_folder(data, many("cat/{}.png", 20) + many("dog/{}.png", 20)).rename(data / "folder")
    listed, whole = [], files_module.Files.__init__
    monkeypatch.setattr(
        files_module.Files, "__init__", lambda self, path: listed.append(Path(path).name) or whole(self, path)
    )
    assert main(["datasets"]) == 0
    assert sorted(listed) == ["folder", "zipped.zip"]
    assert "zipped" in capsys.readouterr().out


def test_the_listing_says_what_each_set_holds(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_folder(data, many("{}.png", 6)).rename(data / "normals")
    as_zip(data, ["Class1/Test/0001.PNG"]).rename(data / "unlabelled.zip")
    as_zip(data, ["train/good/1.png", "test/good/1.png", "test/hole/2.png"]).rename(data / "nut.zip")
    assert main(["datasets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["textures"]["kind"] == "textures" and rows["textures"]["masks"] == "yes"
    assert rows["textures"]["defective"] == 1200
    kept = ("kind", "classes", *SPLITS, "defective", "masks", "error")
    assert [rows["normals"][key] for key in kept] == ["plain", "normals", 6, 0, 0, 0, "no", ""]
    assert [rows["nut"][key] for key in kept] == ["mvtec", "nut", 1, 0, 2, 1, "no", ""]
    assert "Labels.txt" in rows["unlabelled"]["error"] and rows["unlabelled"]["train"] is None
    assert main(["datasets"]) == 0
    assert "| normals" in capsys.readouterr().out


# --- full data ---------------------------------------------------------------------------------------


@pytest.fixture
def cifar10() -> str:
    folder = os.environ.get("ANOUNET_DATA")
    if not folder:
        pytest.skip("ANOUNET_DATA is not set: no full data sets to read")
    if not any((Path(folder) / name).exists() for name in ("cifar10", "cifar10.zip")):
        pytest.skip("ANOUNET_DATA holds no cifar10")
    return "cifar10"


def test_cifar10(cifar10: str) -> None:
    train, test = open_set(cifar10, "train"), open_set(cifar10, "test")
    assert len(train.classes) == 10 and {"horse", "deer"} <= set(train.classes)
    assert len(test) == 10_000
    assert len(test.where("horse")) == 1_000
    assert 44_000 < len(train) < 46_000  # a tenth is validation
    x = next(train.batches(choose(train.where("horse"), 8), 32))
    assert x.shape == (8, 3, 32, 32)
    assert 0.2 < x.mean() < 0.8 and x.std() > 0.1
