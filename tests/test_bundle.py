"""A bundle: opened only if every part of it is right, and what `visualize` makes of an image with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import tiny
import torch

from anounet import bundle as bundles
from anounet.anogan import SearchSettings
from anounet.anomaly_map import heat_map
from anounet.bundle import (
    PARTS,
    SHIPPED,
    Bundle,
    bundle_folder,
    bundle_names,
    copy_identity,
    drain,
    load_bundle,
    read_info,
    save_part,
    verify,
    visualize,
    visualize_anogan,
    visualize_many,
)
from anounet.center import features_of
from anounet.storage import WeightsError, file_sha256, write_json


def edit(folder: Path, **fields: object) -> None:
    """Changes bundle.json by hand; a field of None is taken away."""
    path = folder / "bundle.json"
    info = json.loads(path.read_text(encoding="utf-8")) | fields
    write_json(path, {key: value for key, value in info.items() if value is not None})


# --- opening -----------------------------------------------------------------------------------------


def test_everything_saved_comes_back(bundle: Bundle, weights: Path) -> None:
    assert bundle.name == "tiny" and bundle.folder == weights / "tiny" and bundle.size == 32
    assert bundle.f_net.fingerprint == tiny.f_net().fingerprint == bundle.center.f_net
    assert torch.allclose(bundle.center.vector, tiny.center(tiny.f_net()).vector, rtol=1e-3, atol=1e-6)
    wanted = tiny.identity().state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in bundle.identity.state_dict().items())
    assert bundle.anogan.size == 32
    assert bundle.scales == {"fast": 0.05, "anogan": 0.2}
    assert bundle.info["normal"] == "streaks" and bundle.info["data"] == "textures"
    assert set(read_info("tiny")["files"]) == set(PARTS.values())
    assert verify("tiny") == dict.fromkeys(PARTS.values(), True)
    assert bundle_names() == ["tiny"]
    assert not any(p.requires_grad for net in (bundle.f_net, bundle.identity) for p in net.parameters())
    with pytest.raises(FrozenInstanceError):
        bundle.size = 64


def test_a_bundle_can_be_opened_by_its_path(weights: Path) -> None:
    assert load_bundle(str(weights / "tiny"), "cpu").name == "tiny"


def test_only_f_can_be_opened(weights: Path) -> None:
    (weights / "tiny" / PARTS["center"]).write_bytes(b"damaged")
    opened = load_bundle("tiny", "cpu", only_f_net=True)
    assert opened.center is opened.identity is opened.anogan is None


@pytest.mark.parametrize("file", PARTS.values())
def test_a_missing_file_is_named(weights: Path, file: str) -> None:
    (weights / "tiny" / file).unlink()
    assert verify("tiny")[file] is False
    with pytest.raises(WeightsError, match=rf"{file} is missing: restore it"):
        load_bundle("tiny", "cpu")


@pytest.mark.parametrize("file", PARTS.values())
def test_a_damaged_file_is_named(weights: Path, file: str) -> None:
    path = weights / "tiny" / file
    path.write_bytes(path.read_bytes()[:-100])
    assert verify("tiny")[file] is False
    with pytest.raises(WeightsError, match=rf"{file} is damaged or foreign"):
        load_bundle("tiny", "cpu")


@pytest.mark.parametrize("part", ["center", "identity", "anogan"])
def test_a_file_of_another_kind_is_named(weights: Path, part: str) -> None:
    folder = weights / "tiny"
    (folder / PARTS[part]).write_bytes((folder / PARTS["f_net"]).read_bytes())
    files = read_info("tiny")["files"]
    edit(folder, files=files | {PARTS[part]: files[PARTS["f_net"]]})
    with pytest.raises(WeightsError, match=rf"{PARTS[part]} holds a 'f_net'"):
        load_bundle("tiny", "cpu")


def test_a_c_of_another_f_is_refused(weights: Path) -> None:
    other = tiny.f_net(1)
    path = weights / "tiny" / PARTS["center"]
    sha = tiny.center(other).save(path)
    edit(weights / "tiny", files=read_info("tiny")["files"] | {PARTS["center"]: sha})
    with pytest.raises(WeightsError, match=r"center\.pt was made from another f-Net"):
        load_bundle("tiny", "cpu")


def test_an_anogan_of_another_size_is_refused(weights: Path) -> None:
    save_part("tiny", anogan=tiny.anogan(48))
    with pytest.raises(WeightsError, match=r"anogan\.pt works at 48 px and the bundle at 32"):
        load_bundle("tiny", "cpu")


def test_an_unknown_bundle_lists_those_there_are(weights: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no bundle 'other' .*\(there: tiny\)"):
        load_bundle("other", "cpu")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"size": 32}', '{"files": {}}', '{"files": [], "size": 32}']
)
def test_a_damaged_description_is_named(weights: Path, text: str) -> None:
    (weights / "tiny" / "bundle.json").write_text(text)
    with pytest.raises(WeightsError, match=r"bundle\.json is damaged"):
        load_bundle("tiny", "cpu")


@pytest.mark.parametrize("fields", [{"size": 33}, {"size": 16}, {"scales": {"fast": "wide"}}, {"scales": []}])
def test_a_description_with_wrong_values_is_named(weights: Path, fields: dict) -> None:
    edit(weights / "tiny", **fields)
    with pytest.raises(WeightsError, match=r"bundle\.json is damaged"):
        load_bundle("tiny", "cpu")


def test_files_of_a_newer_version_and_a_bundle_without_f_are_refused(weights: Path) -> None:
    files = read_info("tiny")["files"]
    edit(weights / "tiny", files=files | {"judge.pt": "0"})
    with pytest.raises(WeightsError, match=r"unknown file 'judge\.pt': a newer version"):
        load_bundle("tiny", "cpu")
    edit(weights / "tiny", files={})
    with pytest.raises(WeightsError, match="has no f-Net: train one"):
        load_bundle("tiny", "cpu")


@pytest.mark.parametrize("name", ["../x", "/x/y", "A b", "", ".", "..", "-x", "a" * 65, "ä", "a\n"])
def test_a_name_that_is_none_is_refused(weights: Path, name: str) -> None:
    before = sorted(weights.rglob("*"))
    for use in (bundle_folder, load_bundle, lambda n: save_part(n, f_net=tiny.f_net(), size=32)):
        with pytest.raises(WeightsError, match=r"can't be a bundle's name|is no bundle"):
            use(name)
    assert sorted(weights.rglob("*")) == before


def test_good_names(weights: Path) -> None:
    for name in ("a", "0", "textures-streaks", "x.1_b", "a" * 64):
        assert bundle_folder(name) == weights / name


# --- growing -----------------------------------------------------------------------------------------


def test_what_is_missing_is_said_with_what_to_do(weights: Path) -> None:
    save_part("young", f_net=tiny.f_net(), size=32)
    young = load_bundle("young", "cpu")
    x = tiny.images(1)
    with pytest.raises(WeightsError, match=r"'young' has no C yet: .*center --bundle young"):
        drain(visualize(x[0], young))
    with pytest.raises(WeightsError, match=r"'young' has no AnoGAN yet: .*train-anogan --bundle young"):
        drain(visualize_anogan(x, young))
    save_part("young", center=tiny.center(young.f_net))
    with pytest.raises(ValueError, match="this bundle has none: run train-unet"):
        drain(visualize(x[0], load_bundle("young", "cpu")))


def test_a_new_f_drops_c_and_the_scales(weights: Path) -> None:
    save_part("tiny", f_net=tiny.f_net(1))
    changed = load_bundle("tiny", "cpu")
    assert changed.f_net.fingerprint == tiny.f_net(1).fingerprint
    assert changed.center is None
    assert dict(changed.scales) == {}
    assert changed.identity is not None and changed.anogan is not None  # they know nothing of F
    assert changed.info["normal"] == "streaks"


def test_parts_and_scales_are_added_to_those_there_are(weights: Path) -> None:
    save_part("tiny", scales={"article": 0.3, "fast": 0.07}, note="changed")
    changed = load_bundle("tiny", "cpu")
    assert changed.scales == {"fast": 0.07, "anogan": 0.2, "article": 0.3}
    assert changed.info["note"] == "changed" and changed.info["normal"] == "streaks"
    assert changed.anogan is not None


def test_a_new_bundle_needs_a_size(weights: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 16 between 32 and 512, not None"):
        save_part("young", f_net=tiny.f_net())
    assert bundle_names() == ["tiny"]


def test_copy_identity(weights: Path) -> None:
    save_part(SHIPPED, f_net=tiny.f_net(), identity=tiny.identity(), meta={"origin": "here"}, size=32)
    save_part("young", f_net=tiny.f_net(), size=32)
    copy_identity("young")
    source, copy = weights / SHIPPED / PARTS["identity"], weights / "young" / PARTS["identity"]
    assert read_info("young")["files"][PARTS["identity"]] == file_sha256(copy)
    taken, wanted = (load_bundle(name, "cpu").identity.state_dict() for name in ("young", SHIPPED))
    assert all(torch.equal(taken[name], wanted[name]) for name in wanted)
    assert source.is_file()
    assert bundle_names() == [SHIPPED, "tiny", "young"]  # the shipped one first


def test_copy_identity_from_nowhere(weights: Path) -> None:
    with pytest.raises(WeightsError):
        copy_identity("tiny", "absent")
    save_part("young", f_net=tiny.f_net(), size=32)
    with pytest.raises(WeightsError, match=r"unet_identity\.pt is missing"):
        copy_identity("tiny", "young")


# --- settings and scales -----------------------------------------------------------------------------


def test_settings_are_the_bundle_s_then_the_caller_s(bundle: Bundle) -> None:
    assert (bundle.settings().beta, bundle.settings().steps) == (4.0, 3)
    assert bundle.settings(steps=7, beta=None).steps == 7
    assert bundle.settings(steps=7, beta=None).beta == 4.0
    assert bundle.settings("article").mode == "article" and bundle.settings("article").beta == 80.0
    with pytest.raises(ValueError, match="Unknown mode 'slow'"):
        bundle.settings("slow")
    with pytest.raises(ValueError, match="β must lie"):
        bundle.settings(beta=-1.0)


def test_scales_have_a_value_for_every_method(bundle: Bundle) -> None:
    assert bundle.scale("fast") == 0.05 and bundle.scale("anogan") == 0.2
    assert bundle.scale("article") == 0.05
    assert replace(bundle, scales={}).scale("fast") > 0


# --- visualising -------------------------------------------------------------------------------------


def test_a_result_has_all_that_belongs_to_the_image(bundle: Bundle) -> None:
    x = tiny.defective(1)[0]
    steps = []
    result = drain(visualize(x, bundle, snapshot_every=1), steps.append)
    assert len(steps) == 4 and all(step.image is not None for step in steps)
    assert result.method == "fast" and result.smoothing == 2.0 and result.scale == 0.05
    assert torch.equal(result.x, x)
    assert torch.equal(result.y, steps[-1].image[0])
    assert result.anomaly_map.shape == (32, 32)
    assert torch.equal(result.anomaly_map, heat_map(x[None], result.y[None], 2.0)[0])
    assert result.score == pytest.approx(
        float(bundle.center.score(features_of(bundle.f_net, x[None]))), abs=1e-6
    )
    assert result.threshold == bundle.center.threshold
    assert result.anomalous is (result.score > result.threshold)
    assert result.verdict == ("anomalous" if result.anomalous else "normal")
    assert result.losses.keys() == {"L_R", "L_C", "L"}
    assert result.losses["L_R"] == tuple(float(step.losses["L_R"][0]) for step in steps)
    assert result.losses["L_C"][0] == pytest.approx(result.score, rel=1e-2)  # y is x before the first step
    assert result.seconds > 0


def test_without_smoothing_the_map_is_the_article_s(bundle: Bundle) -> None:
    x = tiny.defective(1)[0]
    result = drain(visualize(x, bundle, bundle.settings(smoothing=0.0)))
    assert torch.equal(result.anomaly_map, (x - result.y).abs().mean(dim=0))


def test_the_gate_leaves_a_normal_image_out(bundle: Bundle) -> None:
    x = tiny.defective(1)[0]
    score = drain(visualize(x, bundle, bundle.settings(steps=0))).score
    strict, lax = (
        replace(bundle, center=replace(bundle.center, threshold=score + more)) for more in (-1e-3, 1e-3)
    )
    steps = []
    left_out = drain(visualize(x, lax, gate=True), steps.append)
    assert steps == []
    assert left_out.y is None and left_out.anomaly_map is None and left_out.losses == {}
    assert left_out.score == pytest.approx(score) and left_out.verdict == "normal"
    redrawn = drain(visualize(x, strict, gate=True), steps.append)
    assert len(steps) == 4
    assert redrawn.y is not None and redrawn.verdict == "anomalous"
    assert drain(visualize(x, lax)).y is not None  # no gate unless asked for


@pytest.mark.parametrize("shape", [(3, 48, 48), (1, 32, 32), (2, 3, 32, 32), (3, 32, 31)])
def test_an_image_of_another_shape_is_refused(bundle: Bundle, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="takes images of 3×32×32"):
        drain(visualize(torch.zeros(shape), bundle))


def test_anogan_results(bundle: Bundle) -> None:
    x = tiny.images(3)
    steps = []
    settings = SearchSettings(steps=3)
    results = drain(visualize_anogan(x, bundle, settings), steps.append)
    assert len(steps) == 4 and len(results) == 3
    for i, result in enumerate(results):
        assert result.method == "anogan" and result.threshold is None and result.verdict == "normal"
        assert result.scale == 0.2
        assert torch.equal(result.x, x[i])
        assert torch.equal(result.y, steps[-1].image[i])
        assert (result.anomaly_map - heat_map(x[i : i + 1], result.y[None], 2.0)[0]).abs().max() < 1e-6
        assert result.score == result.losses["L"][-1] == float(steps[-1].losses["L"][i])
        assert len(result.losses["residual"]) == 4
        alone = drain(visualize_anogan(x[i : i + 1], bundle, settings))[0]
        assert (alone.y - result.y).abs().max() < 1e-4
        assert (alone.anomaly_map - result.anomaly_map).abs().max() < 1e-4
        assert alone.score == pytest.approx(result.score, rel=1e-4)
    assert results[0].seconds == results[1].seconds > 0


def test_drain_closes_the_stream_whatever_happens() -> None:
    closed = []

    def stream():
        try:
            yield 1
            yield 2
            return "end"
        finally:
            closed.append(True)

    seen = []
    assert drain(stream(), seen.append) == "end"
    assert seen == [1, 2] and closed == [True]

    def stop(step: int) -> None:
        raise KeyboardInterrupt

    kept = stream()  # named, or it would be closed as garbage
    with pytest.raises(KeyboardInterrupt):
        drain(kept, stop)
    assert closed == [True, True]


def test_an_early_stop_of_visualize_ends_the_optimisation(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    reconstruct = bundles.ano_unet.reconstruct

    def watched(*arguments, **options):
        try:
            yield from reconstruct(*arguments, **options)
        finally:
            ended.append(True)

    monkeypatch.setattr(bundles.ano_unet, "reconstruct", watched)
    stream = visualize(tiny.defective(1)[0], bundle)
    next(stream)
    assert not ended
    stream.close()
    assert ended == [True]


def test_many_images_give_what_each_gives_alone_in_order(bundle: Bundle) -> None:
    x = tiny.defective(5)
    threads = torch.get_num_threads()
    together = list(visualize_many(iter(x), bundle, gate=False))
    assert torch.get_num_threads() == threads
    for image, result in zip(x, together, strict=True):
        assert torch.equal(result.x, image)
        assert torch.equal(result.y, drain(visualize(image, bundle)).y)


def test_many_images_are_taken_from_the_stream_as_they_are_needed(bundle: Bundle) -> None:
    taken = []

    def stream() -> Iterator[torch.Tensor]:
        for image in tiny.defective(12):
            taken.append(image)
            yield image

    results = visualize_many(stream(), bundle)
    next(results)
    assert len(taken) <= (os.cpu_count() or 1)
    results.close()
    assert len(taken) <= (os.cpu_count() or 1)


def test_an_image_that_diverges_costs_only_itself(bundle: Bundle) -> None:
    x = tiny.defective(3)
    x[1] = float("nan")
    first, second, third = visualize_many(iter(x), bundle)
    assert isinstance(second, ArithmeticError)
    assert first.y is not None and third.y is not None
