"""Making a bundle: from a folder of images to one that can be used, whatever interrupts it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from anounet import ano_unet, anogan, instant, prepare, training
from anounet.anogan import SearchSettings
from anounet.anomaly_map import MAPS
from anounet.bundle import PARTS, RIVALS, SHIPPED, load_bundle, read_info, save_part, verify
from anounet.datasets import DataError
from anounet.identity import UNetSettings
from anounet.prepare import (
    CHECKPOINTS,
    DataChoice,
    Plan,
    Reach,
    Stage,
    levels,
    make_anogan,
    make_centers,
    make_decoder,
    make_encoder,
    make_identity,
    make_instant,
    read_normals,
    rivals,
    unets,
)
from anounet.storage import fingerprint, load_checkpoint, load_weights
from anounet.training import TrainingError
from anounet.visualization import visualize_many

STEPS = replace(tiny.INSTANT, steps=6)
PARTS_MADE = {PARTS[part] for part in ("f_net", "center", "local", "instant")}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings under which the scales are measured in a moment, and a checkpoint every other step."""
    monkeypatch.setitem(ano_unet.DEFAULTS, "fast", ano_unet.Settings(steps=1))
    monkeypatch.setattr(ano_unet, "LOCAL", replace(ano_unet.LOCAL, steps=1))
    monkeypatch.setattr(levels, "SearchSettings", lambda: SearchSettings(steps=1))
    monkeypatch.setattr(instant, "CHECKPOINT_EVERY", 2)


@pytest.fixture
def home(weights: Path) -> Path:
    """A folder of bundles with the general F and the general identity U-Net in it."""
    save_part(SHIPPED, f_net=tiny.f_net(), identity=tiny.identity(), size=32)
    return weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Normal images of several sizes and kinds, and one that is damaged."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, image in enumerate(tiny.pixels(16).permute(0, 2, 3, 1).numpy()):
        picture = Image.fromarray(image).resize((30 + number, 50 - number))
        kind = ("RGB", "L", "RGBA", "P")[number % 4]
        ending = "jpg" if number % 8 == 0 else "png"
        picture.convert(kind).save(folder / f"{number:02}.{ending}")
    deep = np.asarray(picture.convert("L"), np.uint16) * 257
    Image.fromarray(deep).save(folder / "16.png")
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:60])
    return folder


def plan(folder: Path, **changes: object) -> Plan:
    choice = DataChoice(data=str(folder), normal=folder.name, size=32)
    return Plan(**{"choice": choice, "patches": tiny.PATCHES, "instant": STEPS} | changes)


def run(plan: Plan, name: str = "made") -> Iterator[Stage]:
    return prepare.prepare(name, plan, "python -m anounet prepare", "cpu")


def until(stages: Iterator[Stage], name: str, done: int) -> None:
    """Runs stages up to a step, and ends them there."""
    for stage in stages:
        if (stage.name, stage.done) == (name, done):
            break
    stages.close()


def test_a_folder_of_images_becomes_a_bundle(home: Path, folder: Path) -> None:
    stages = list(run(plan(folder)))
    assert list(dict.fromkeys(s.name for s in stages)) == [
        "C",
        "local centres",
        "instant U-Net",
        "scales",
        "reach",
    ]
    (note,) = [note for stage in stages for note in stage.notes]
    assert "05.png" in note and note.startswith("left out: ")
    made = load_bundle("made", "cpu")
    assert set(read_info("made")["files"]) == PARTS_MADE and all(verify("made").values())
    assert made.f_net.fingerprint == tiny.f_net().fingerprint
    assert made.mode == "instant" and made.info["normal"] == "parts" and made.size == 32
    assert made.center.count + len(made.center.held_back) == 16  # 17 files, one of them damaged
    assert not (made.folder / CHECKPOINTS["instant"]).exists()
    assert made.info["seconds_to_prepare"] >= 0
    reach = Reach.of(made, "instant")
    assert reach.images == len(made.center.held_back) and not reach.tested  # a folder has no test split
    x = torch.cat([tiny.images(3), tiny.defective(2)])
    for mode, center in (("instant", "local"), ("fast", "global"), ("fast", "local")):
        results = list(visualize_many(iter(x), made, made.settings(mode, center=center)))
        assert all(r.maps.keys() == set(MAPS) and torch.isfinite(r.anomaly_map).all() for r in results)


def test_every_map_gets_a_scale_and_a_limit(home: Path, folder: Path) -> None:
    list(run(plan(folder, anogan=tiny.GAN, encoder=tiny.ENCODER, decoder=tiny.DECODER)))
    made = load_bundle("made", "cpu")
    for method, usual in (("instant", "combined"), ("fast", "residual"), ("fast-local", "combined")):
        wanted = {method if name == usual else f"{method}:{name}" for name in MAPS}
        assert wanted <= made.scales.keys() and wanted <= made.limits.keys()
    assert made.scales.keys() >= set(RIVALS) == set(made.rivals) and "article" not in made.scales
    assert all(value > 0 for value in (*made.scales.values(), *made.limits.values()))
    scores = {"instant:score", "fast-local:score"}
    assert made.limits.keys() == made.scales.keys() | scores
    assert all(made.limits[key] >= made.scales[key] for key in made.scales)
    for method in ("instant", "fast"):
        assert made.limit(method, "distance") == made.limits[f"{method}:distance"]
    assert made.threshold(made.settings("instant")) == made.limits["instant:score"]


def test_the_threshold_of_instant_mode_lets_held_back_normals_pass(home: Path, folder: Path) -> None:
    list(run(plan(folder)))
    made = load_bundle("made", "cpu")
    normals = prepare.held_back_normals(plan(folder).choice, 200, made.center.meta)
    results = list(visualize_many(iter(normals), made))
    assert len(results) >= 3 and sum(result.anomalous for result in results) <= 1


def test_g_is_trained_on_none_of_the_images_that_set_thresholds(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    train = unets.train_instant
    monkeypatch.setattr(
        unets, "train_instant", lambda images, *a, **b: seen.append(images) or train(images, *a, **b)
    )
    choice = replace(plan(folder).choice, seed=3)
    list(run(plan(folder, choice=choice)))
    # The bundle does not say its seed: who trains G once more names another.
    list(make_instant("made", replace(choice, seed=0), STEPS, "cpu"))
    made = load_bundle("made", "cpu")
    held = prepare.held_back_normals(replace(choice, seed=0), 200, made.center.meta)
    as_bytes = {image.numpy().tobytes() for image in held.mul(255).round().to(torch.uint8)}
    normals = read_normals(choice)
    assert as_bytes == {normals.pixels[i].numpy().tobytes() for i in normals.held}
    assert len(seen) == 2
    for images in seen:
        assert len(images) == len(normals.fit)
        assert not as_bytes & {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("rival", ["anogan", "encoder", "decoder"])
def test_a_rival_is_trained_on_none_of_the_images_that_set_its_level(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    learned, measured, train = [], [], getattr(rivals, f"train_{rival}")
    results = levels._results
    monkeypatch.setattr(
        rivals, f"train_{rival}", lambda images, **b: learned.append(images) or train(images, **b)
    )
    monkeypatch.setattr(levels, "_results", lambda *a: measured.append(a) or results(*a))
    settings = {"anogan": tiny.GAN, "encoder": tiny.ENCODER, "decoder": tiny.DECODER}
    method = "f-anogan" if rival == "encoder" else rival
    # Another seed and number than C's: a rival's level is measured on the images held back from it.
    choice = replace(plan(folder).choice, count=10, seed=3)
    save_part("made", f_net=tiny.f_net(), size=32)
    for part in ("anogan", "encoder") if rival == "encoder" else (rival,):
        make = {"anogan": make_anogan, "encoder": make_encoder, "decoder": make_decoder}[part]
        list(make("made", choice, settings[part], "cpu"))
    list(make_centers("made", replace(choice, count=16, seed=0), tiny.PATCHES, "cpu"))
    list(prepare.make_scales("made", choice, "cpu", {method: 50}))
    known = {image.numpy().tobytes() for image in learned[0]}
    (_, _, images), *_ = measured
    assert len(images) >= 2 and len(known) == len(learned[0]) >= 8
    assert not known & {image.mul(255).round().to(torch.uint8).numpy().tobytes() for image in images}


def test_an_interrupted_preparation_leaves_a_bundle_and_goes_on(home: Path, folder: Path) -> None:
    whole = list(run(plan(folder), "whole"))
    until(run(plan(folder)), "instant U-Net", 5)
    kept = load_bundle("made", "cpu")
    assert kept.mode == "instant"
    assert next(iter(visualize_many(tiny.images(1), kept))).y is not None
    assert load_checkpoint(kept.folder / CHECKPOINTS["instant"])["checkpoint"]["step"] == 4

    rest = list(run(plan(folder)))
    assert [s.done for s in rest if s.name == "instant U-Net"] == [5, 6]
    made, wanted = load_bundle("made", "cpu"), load_bundle("whole", "cpu")
    state = wanted.instant.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in made.instant.state_dict().items())
    assert dict(made.scales) == pytest.approx(dict(wanted.scales), rel=1e-3)
    assert not (made.folder / CHECKPOINTS["instant"]).exists()
    assert len([s for s in whole if s.name == "instant U-Net"]) == 6


@pytest.mark.parametrize("change", ["nothing", "settings", "images"])
def test_a_decoder_cut_off_goes_on_where_its_training_is_the_same(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    settings = tiny.DECODER
    list(run(plan(folder, instant=None, decoder=settings), "whole"))
    until(run(plan(folder, instant=None, decoder=settings)), "decoder", 4)
    path = home / "made" / CHECKPOINTS["decoder"]
    assert load_checkpoint(path)["checkpoint"]["step"] == 4
    if change == "settings":
        settings = replace(settings, learning_rate=1e-4)
    elif change == "images":
        (folder / "01.png").unlink()
    rest = list(make_decoder("made", plan(folder).choice, settings, "cpu"))
    assert [s.done for s in rest] == ([5] if change == "nothing" else [1, 2, 3, 4, 5])
    assert not path.exists()
    made, whole = (load_bundle(name, "cpu").decoder for name in ("made", "whole"))
    assert (made.fingerprint == whole.fingerprint) is (change == "nothing")
    normals = read_normals(plan(folder).choice)
    assert made.meta["images"] == len(normals.fit)  # and none of those that set thresholds


@pytest.mark.parametrize("change", ["nothing", "settings", "images", "fresh"])
def test_anogan_cut_off_goes_on_where_its_training_is_the_same(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(anogan, "CHECKPOINT_EVERY", 2)
    choice, settings = plan(folder).choice, replace(tiny.GAN, steps=5)
    save_part("made", f_net=tiny.f_net(), size=32)
    stages = make_anogan("made", choice, settings, "cpu")
    until(stages, "AnoGAN", 4)
    path = home / "made" / CHECKPOINTS["anogan"]
    assert load_checkpoint(path)["checkpoint"]["step"] == 4
    if change == "settings":
        settings = replace(settings, noise=0.0)
    elif change == "images":
        (folder / "01.png").unlink()
    rest = list(make_anogan("made", choice, settings, "cpu", resume=change != "fresh"))
    assert [s.done for s in rest] == ([5] if change == "nothing" else [1, 2, 3, 4, 5])
    said = [note for stage in rest for note in stage.notes]
    assert len(said) == (change in ("settings", "images"))
    assert all(
        "anogan.progress is of a training with other settings or images: starts anew" in note for note in said
    )
    assert not path.exists()
    assert load_bundle("made", "cpu").anogan.meta["curves"]["step"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("change", ["nothing", "settings", "gan", "images"])
def test_every_part_is_kept_where_the_same_preparation_was_cut_off_later(
    home: Path, folder: Path, change: str
) -> None:
    trained = UNetSettings(start="trained", width=8, depth=3, steps=2, batch=4)
    parts = {"anogan": tiny.GAN, "encoder": tiny.ENCODER, "decoder": tiny.DECODER, "identity": trained}
    until(run(plan(folder, **parts)), "scales", 1)
    before = read_info("made")["files"]
    if change == "settings":
        parts = {part: replace(settings, learning_rate=3e-4) for part, settings in parts.items()}
    elif change == "gan":
        parts["anogan"] = replace(tiny.GAN, noise=0.0)
    elif change == "images":
        Image.fromarray(tiny.pixels(17)[-1].permute(1, 2, 0).numpy()).save(folder / "17.png")
    stages = list(run(plan(folder, **parts)))
    steps = {"AnoGAN": 3, "encoder": 5, "decoder": 5, "identity U-Net": 2}
    again = {name for name in steps if len([s for s in stages if s.name == name]) > 1}
    wanted = {"nothing": set(), "settings": set(steps), "gan": {"AnoGAN", "encoder"}, "images": set(steps)}
    assert again == wanted[change]
    assert all([s.done for s in stages if s.name == name][-1] == steps[name] for name in steps)
    if change == "nothing":
        after = read_info("made")["files"]
        assert {f for f in before if before[f] != after[f]} <= {PARTS["center"]}
    made = load_bundle("made", "cpu")
    assert made.rivals == tuple(RIVALS) and made.scales.keys() >= {*RIVALS, "instant", "fast"}


@pytest.mark.parametrize("change", ["nothing", "settings", "images"])
def test_an_identity_net_cut_off_goes_on_where_its_training_is_the_same(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    choice, settings = plan(folder).choice, UNetSettings(start="trained", width=8, depth=3, steps=5, batch=4)
    save_part("made", f_net=tiny.f_net(), size=32)
    until(make_identity("made", choice, settings, "cpu"), "identity U-Net", 4)
    if change == "settings":
        settings = replace(settings, learning_rate=1e-4)
    elif change == "images":
        (folder / "01.png").unlink()
    rest = list(make_identity("made", choice, settings, "cpu"))
    assert [s.done for s in rest] == ([5] if change == "nothing" else [1, 2, 3, 4, 5])
    assert not (home / "made" / CHECKPOINTS["identity"]).exists()


def test_the_general_identity_net_is_shared_and_named_with_the_levels(home: Path, folder: Path) -> None:
    save_part("made", f_net=tiny.f_net(), identity=tiny.identity(), size=32)  # of old: with a copy
    list(run(plan(folder)))
    made = load_bundle("made", "cpu")
    general = fingerprint(tiny.identity().state_dict())
    assert (
        not (made.folder / PARTS["identity"]).exists() and PARTS["identity"] not in read_info("made")["files"]
    )
    assert made.general_identity == general == read_info("made")["general_identity"]
    assert {"fast", "fast-local"} <= made.scales.keys()
    x = tiny.images(1)
    assert next(iter(visualize_many(x, made, made.settings("fast")))).y is not None

    changed = tiny.identity()
    changed.head.bias.data += 0.1
    save_part(SHIPPED, identity=changed)  # the levels of `fast` mode are of the one before
    other = load_bundle("made", "cpu")
    assert other.general_identity != general
    assert not [key for key in (*other.scales, *other.limits) if key.startswith("fast")]
    assert other.scales["instant"] == made.scales["instant"]
    list(prepare.make_scales("made", plan(folder).choice, "cpu", {"fast": 3}))
    again = load_bundle("made", "cpu")
    assert "fast" in again.scales and "fast-local" not in again.scales  # of both the old ones went
    assert read_info("made")["general_identity"] == again.general_identity == other.general_identity

    shutil.rmtree(home / SHIPPED)  # a copy alone, on another machine
    alone = load_bundle("made", "cpu")
    assert alone.mode == "instant" and next(iter(visualize_many(x, alone))).y is not None
    with pytest.raises(ValueError, match=rf"'made' has none of its own.*'{SHIPPED}', is missing.*train-unet"):
        list(visualize_many(x, alone, alone.settings("fast")))
    list(make_identity("made", plan(folder).choice, UNetSettings(width=8, depth=3), "cpu"))
    own = load_bundle("made", "cpu")
    assert own.identity is not None and own.general_identity is None
    assert "general_identity" not in read_info("made") and "fast" not in own.scales


@pytest.mark.parametrize("change", ["nothing", "settings", "images", "command", "ended"])
def test_a_net_is_kept_where_the_same_preparation_was_cut_off_later(
    home: Path, folder: Path, change: str
) -> None:
    choice = plan(folder).choice
    if change == "ended":
        list(run(plan(folder)))
    else:
        until(run(plan(folder)), "scales", 2)
    before = read_info("made")["files"][PARTS["instant"]]
    again, command = plan(folder), "python -m anounet prepare"
    if change == "settings":
        again = replace(again, instant=replace(STEPS, learning_rate=1e-3))
    elif change == "images":
        again = replace(again, choice=replace(choice, count=10))
    elif change == "command":
        command += " --seed 0"
    stages = list(prepare.prepare("made", again, command, "cpu"))
    kept = change == "nothing"
    assert [s.done for s in stages if s.name == "instant U-Net"] == ([6] if kept else [1, 2, 3, 4, 5, 6])
    made = load_bundle("made", "cpu")
    assert {"instant", "instant:score", "fast", "fast-local"} <= made.limits.keys()
    assert made.info["seconds_to_prepare"] is not None
    if kept:
        assert read_info("made")["files"][PARTS["instant"]] == before
    alone = list(make_instant("made", again.choice, again.instant, "cpu", resume=False))
    assert alone[-1].done == 6 and len(alone) == 6  # asked for alone, it is trained anew


def test_c_and_g_are_made_from_as_many_images_as_were_asked_for(home: Path, folder: Path) -> None:
    (folder / "05.png").unlink()  # the damaged one
    choice = replace(plan(folder).choice, count=10)
    list(run(plan(folder, choice=choice)))
    made = load_bundle("made", "cpu")
    assert made.center.count == made.local.count == 8 and len(made.center.held_back) == 2

    def trained_on() -> int:
        return load_weights(made.folder / PARTS["instant"], "unet_instant")[1]["images"]

    assert trained_on() == 8
    # Whoever trains G alone, with another number, still gets none of the images that set thresholds.
    for count, wanted in ((6, 6), (1000, 8)):
        list(make_instant("made", replace(choice, count=count), STEPS, "cpu"))
        assert trained_on() == wanted
    held = prepare.held_back_normals(replace(choice, count=1000), 200, made.local.meta)
    normals = read_normals(choice)
    assert torch.equal(held, normals.pixels[normals.held].float() / 255)


def test_held_back_images_are_the_same_whatever_seed_is_named_later(home: Path, folder: Path) -> None:
    choice = replace(plan(folder).choice, count=8, seed=5)
    list(run(plan(folder, choice=choice, instant=None)))
    made = load_bundle("made", "cpu")
    normals = read_normals(choice)
    for seed in (5, 0, 1):  # which 8 of the 16 images, and which of them were held back, the centres say
        held = prepare.held_back_normals(replace(choice, seed=seed, count=1000), 200, made.local.meta)
        assert torch.equal(held, normals.pixels[normals.held].float() / 255)


def test_too_few_images_to_ask_for_are_refused() -> None:
    with pytest.raises(DataError, match="C needs 5 normal images or more, not 4"):
        DataChoice(count=4)


@pytest.mark.parametrize("change", ["settings", "images", "count", "fresh", "damaged"])
def test_a_training_of_something_else_starts_anew(home: Path, folder: Path, change: str) -> None:
    choice, settings = plan(folder).choice, STEPS
    until(run(plan(folder)), "instant U-Net", 5)
    if change == "settings":
        settings = replace(STEPS, learning_rate=1e-3)
    elif change == "count":
        choice = replace(choice, count=8)
    elif change == "images":
        (folder / "01.png").unlink()
    elif change == "damaged":
        (home / "made" / CHECKPOINTS["instant"]).write_bytes(b"damaged")
    stages = list(make_instant("made", choice, settings, "cpu", resume=change != "fresh"))
    assert [s.done for s in stages] == [1, 2, 3, 4, 5, 6]
    assert not (home / "made" / CHECKPOINTS["instant"]).exists()


def test_a_training_that_goes_astray_keeps_the_net_saved_last(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(run(plan(folder, instant=None)))
    paste, calls = instant.paste, []

    def poisoned(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        pasted, cover = paste(*arguments)
        calls.append(True)
        return (pasted * float("nan") if len(calls) == 4 else pasted), cover

    monkeypatch.setattr(instant, "paste", poisoned)
    with pytest.raises(TrainingError, match="stopped being a number at step 4"):
        list(make_instant("made", plan(folder).choice, STEPS, "cpu"))
    made = load_bundle("made", "cpu")
    _, meta = load_weights(made.folder / PARTS["instant"], "unet_instant")
    assert meta["steps"] == 2 and meta["settings"] == asdict(STEPS)
    assert torch.isfinite(next(iter(visualize_many(tiny.images(1), made))).y).all()


def test_centres_computed_once_more_keep_the_instant_net(home: Path, folder: Path) -> None:
    list(run(plan(folder)))
    before = read_info("made")["files"]
    list(make_centers("made", plan(folder).choice, tiny.PATCHES, "cpu"))
    assert read_info("made")["files"][PARTS["instant"]] == before[PARTS["instant"]]
    list(make_centers("made", plan(folder).choice, replace(tiny.PATCHES, centers=8), "cpu"))
    changed = load_bundle("made", "cpu")
    assert changed.instant is None and changed.mode == "fast"
    assert not any(key.startswith(("instant", "fast-local")) for key in (*changed.scales, *changed.limits))
    assert not (changed.folder / PARTS["instant"]).exists()


def test_a_new_f_drops_what_was_made_from_the_old_one(home: Path, folder: Path) -> None:
    list(run(plan(folder)))
    save_part("made", f_net=tiny.f_net(1))
    changed = load_bundle("made", "cpu")
    assert changed.center is changed.local is changed.instant is None
    assert dict(changed.scales) == dict(changed.limits) == {}


def test_a_side_too_large_for_the_decoder_is_said_before_anything_is_made(home: Path, folder: Path) -> None:
    choice = replace(plan(folder).choice, size=256)
    with pytest.raises(ValueError, match="side from 16 to 208 that 8 divides, not 256"):
        list(run(plan(folder, choice=choice, decoder=tiny.DECODER)))
    assert not (home / "made").exists()


def test_another_size_or_class_keeps_nothing_of_the_old_one(home: Path, folder: Path) -> None:
    list(run(plan(folder, anogan=tiny.GAN, decoder=tiny.DECODER)))
    other = plan(folder, choice=replace(plan(folder).choice, size=48))
    list(run(other))
    made = load_bundle("made", "cpu")
    assert made.size == 48 and made.rivals == () and made.mode == "instant"
    assert made.local.f_net == made.f_net.fingerprint


@pytest.mark.parametrize("count", [0, 4])
def test_too_few_images_are_said_before_anything_is_made(home: Path, tmp_path: Path, count: int) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for number, image in enumerate(tiny.pixels(count + 1).permute(0, 2, 3, 1).numpy()[:count]):
        Image.fromarray(image).save(folder / f"{number}.png")
    (folder / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"has {count} normal images .* 5 or more .*x\.png"):
        list(run(plan(folder)))
    assert not (home / "made").exists()


def test_images_all_alike_are_refused_with_a_sentence(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "alike"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32), (90, 120, 60)).save(folder / f"{number}.png")
    with pytest.raises(ValueError, match=r"All normal images look alike.*differ a little\.$"):
        list(run(plan(folder)))


def test_a_bundle_without_the_general_f_says_so(weights: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=f"There is no bundle '{SHIPPED}'"):
        list(run(plan(folder)))
