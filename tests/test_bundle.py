"""A bundle: opened only if every part of it is right, whatever it grew by."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

from anounet import ano_unet
from anounet.anomaly_map import MAPS
from anounet.bundle import (
    PARTS,
    RIVALS,
    SHIPPED,
    Bundle,
    bundle_folder,
    bundle_names,
    copy_f_net,
    delete_bundle,
    load_bundle,
    read_info,
    save_part,
    verify,
)
from anounet.storage import WeightsError, write_json
from anounet.visualization import drain, visualize, visualize_anogan, visualize_many, visualize_rival


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
    local = tiny.tiny_local_centers(tiny.f_net())
    assert bundle.local.fingerprint == local.fingerprint and bundle.local.tau == pytest.approx(local.tau)
    trained = tiny.tiny_instant(tiny.f_net(), local).state_dict()
    assert all(torch.equal(t, trained[name]) for name, t in bundle.instant.state_dict().items())
    assert bundle.scales == tiny.SCALES and bundle.limits == tiny.LIMITS
    assert bundle.info["normal"] == "streaks" and bundle.info["data"] == "textures"
    assert set(read_info("tiny")["files"]) == set(PARTS.values())
    assert verify("tiny") == dict.fromkeys(PARTS.values(), True)
    assert bundle_names() == ["tiny"]
    nets = (bundle.f_net, bundle.identity, bundle.instant)
    assert not any(p.requires_grad for net in nets for p in net.parameters())
    with pytest.raises(FrozenInstanceError):
        bundle.size = 64


def test_a_bundle_can_be_opened_by_its_path(weights: Path) -> None:
    assert load_bundle(str(weights / "tiny"), "cpu").name == "tiny"


def test_only_f_can_be_opened(weights: Path) -> None:
    (weights / "tiny" / PARTS["center"]).write_bytes(b"damaged")
    opened = load_bundle("tiny", "cpu", only_f_net=True)
    assert opened.center is opened.local is opened.identity is opened.instant is opened.anogan is None


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


@pytest.mark.parametrize("part", [part for part in PARTS if part != "f_net"])
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


def test_local_centres_of_another_f_and_a_net_of_others_are_refused(weights: Path) -> None:
    other = tiny.tiny_local_centers(tiny.f_net(1))
    path = weights / "tiny" / PARTS["local"]
    own = load_bundle("tiny", "cpu").local
    edit(weights / "tiny", files=read_info("tiny")["files"] | {PARTS["local"]: other.save(path)})
    with pytest.raises(WeightsError, match=r"local_centers\.pt were made from another f-Net"):
        load_bundle("tiny", "cpu")
    moved = replace(own, means=own.means + 0.1)
    edit(weights / "tiny", files=read_info("tiny")["files"] | {PARTS["local"]: moved.save(path)})
    with pytest.raises(WeightsError, match=r"unet_instant\.pt was trained with other local centres"):
        load_bundle("tiny", "cpu")


def test_an_anogan_of_another_size_is_refused(weights: Path) -> None:
    save_part("tiny", anogan=tiny.anogan(48))
    with pytest.raises(WeightsError, match=r"anogan\.pt works at 48 px and the bundle at 32"):
        load_bundle("tiny", "cpu")


def test_a_decoder_of_another_f_or_size_is_refused(weights: Path) -> None:
    save_part("tiny", decoder=tiny.decoder(tiny.f_net(1)))
    with pytest.raises(WeightsError, match=r"decoder\.pt was trained with another f-Net"):
        load_bundle("tiny", "cpu")
    save_part("tiny", decoder=tiny.decoder(tiny.f_net(), 48))
    with pytest.raises(WeightsError, match=r"decoder\.pt works at 48 px and the bundle at 32"):
        load_bundle("tiny", "cpu")


def test_an_encoder_of_another_gan_is_refused(weights: Path) -> None:
    other = tiny.anogan()
    other.generator.project.bias.add_(0.5)
    save_part("tiny", encoder=tiny.encoder(other))
    with pytest.raises(WeightsError, match=r"encoder\.pt was trained with another AnoGAN"):
        load_bundle("tiny", "cpu")


def test_a_new_gan_drops_its_encoder(weights: Path) -> None:
    save_part("tiny", anogan=tiny.anogan())
    changed = load_bundle("tiny", "cpu")
    assert changed.encoder is None and changed.rivals == ("anogan", "decoder")
    assert "f-anogan" not in changed.scales and not (weights / "tiny" / PARTS["encoder"]).exists()
    with pytest.raises(WeightsError, match=r"'tiny' has no encoder for f-AnoGAN yet: .*train-encoder --bun"):
        drain(visualize_rival("f-anogan", tiny.images(1), changed))


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


@pytest.mark.parametrize(
    "fields",
    [{"size": 33}, {"size": 16}, {"scales": {"fast": "wide"}}, {"scales": []}, {"limits": {"fast": None}}],
)
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
    with pytest.raises(WeightsError, match=r"'young' has no decoder yet: .*train-decoder --bundle young"):
        drain(visualize_rival("decoder", x, young))
    with pytest.raises(ValueError, match="Unknown rival 'judge': choose one of anogan, "):
        drain(visualize_rival("judge", x, young))
    assert young.rivals == ()
    local = young.settings("fast", center="local")
    for run in (lambda: drain(visualize(x[0], young, local)), lambda: list(visualize_many(x, young, local))):
        with pytest.raises(WeightsError, match=r"'young' has no local centres yet: .*center --bundle young"):
            run()
    save_part("young", local=tiny.tiny_local_centers(young.f_net))
    half = load_bundle("young", "cpu")
    assert half.mode == "fast"  # centres alone are not enough
    with pytest.raises(WeightsError, match=r"'young' has no instant U-Net yet: .*train-instant --bundle you"):
        list(visualize_many(x, half, half.settings("instant")))
    save_part("young", center=tiny.center(young.f_net))
    with pytest.raises(ValueError, match=r"none of its own, and the general one.*train-unet --bundle young"):
        drain(visualize(x[0], load_bundle("young", "cpu")))


def test_a_new_f_drops_c_and_the_scales(weights: Path) -> None:
    save_part("tiny", f_net=tiny.f_net(1))
    changed = load_bundle("tiny", "cpu")
    assert changed.f_net.fingerprint == tiny.f_net(1).fingerprint
    assert changed.center is changed.local is changed.instant is changed.decoder is None
    assert not (weights / "tiny" / PARTS["decoder"]).exists()
    assert dict(changed.scales) == dict(changed.limits) == {}
    assert changed.mode == "fast"
    assert changed.identity is not None and changed.anogan is not None  # they know nothing of F
    assert changed.info["normal"] == "streaks"


def test_parts_and_scales_are_added_to_those_there_are(weights: Path) -> None:
    save_part("tiny", scales={"article": 0.3, "fast": 0.07}, limits={"fast": 0.08}, note="changed")
    changed = load_bundle("tiny", "cpu")
    assert changed.scales == tiny.SCALES | {"fast": 0.07, "article": 0.3}
    assert changed.limits == tiny.LIMITS | {"fast": 0.08}
    assert changed.info["note"] == "changed" and changed.info["normal"] == "streaks"
    assert changed.anogan is not None


def test_new_local_centres_drop_the_net_of_the_old_ones(weights: Path) -> None:
    f_net = load_bundle("tiny", "cpu").f_net
    save_part("tiny", local=tiny.tiny_local_centers(f_net, 10))
    changed = load_bundle("tiny", "cpu")
    assert changed.instant is None and not (weights / "tiny" / PARTS["instant"]).exists()
    assert changed.scales == {"fast": 0.05, "anogan": 0.2, "f-anogan": 0.22, "decoder": 0.25}
    assert changed.limits == {"fast": 0.06}
    assert changed.center is not None and changed.identity is not None
    assert changed.rivals == tuple(RIVALS)  # they know nothing of local centres


class Killed(BaseException):
    """In place of a signal that no program hears."""


@pytest.mark.parametrize("what", ["f_net", "local", "anogan"])
def test_a_kill_while_parts_are_saved_leaves_the_old_ones_or_the_new(
    weights: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    old = load_bundle("tiny", "cpu")
    if what == "f_net":
        parts = {"f_net": tiny.f_net(1), "center": tiny.center(tiny.f_net(1))}
    elif what == "local":
        local = tiny.tiny_local_centers(old.f_net, 10)
        parts = {"local": local, "instant": tiny.tiny_instant(old.f_net, local)}
    else:
        gan = tiny.anogan()
        gan.generator.project.bias.add_(0.5)
        parts = {"anogan": gan, "encoder": tiny.encoder(gan)}
    replaced, unlinked, calls, found = os.replace, os.unlink, 0, []

    def counted(change: Callable[..., None], *arguments: object, **names: object) -> None:
        nonlocal calls
        calls += 1
        if calls > left:
            raise Killed
        change(*arguments, **names)

    for left in range(30):  # so many changes of the disk, and then a kill
        shutil.copytree(weights / "tiny", weights / "killed")
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", partial(counted, replaced))
            patch.setattr(os, "unlink", partial(counted, unlinked))
            with contextlib.suppress(Killed):
                save_part("killed", **parts)
        opened = load_bundle("killed", "cpu")  # every file is the one that is named, and fits the others
        assert all(verify("killed").values()) and opened.rivals
        found.append(getattr(opened, what).fingerprint == parts[what].fingerprint)
        shutil.rmtree(weights / "killed")
        if calls <= left:
            break
    assert calls == left and len(found) > 4 and found == sorted(found) and found[0] != found[-1]


def test_copy_f_net_keeps_what_was_made_from_it(weights: Path) -> None:
    save_part(SHIPPED, f_net=tiny.f_net(), meta={"origin": "here"}, size=32)
    same = {"size": 32, "data": "textures", "normal": "streaks"}
    copy_f_net("tiny", note="again", **same)
    kept = load_bundle("tiny", "cpu")
    assert kept.rivals == tuple(RIVALS)
    assert kept.mode == "instant" and kept.scales == tiny.SCALES and kept.info["note"] == "again"
    for changes in ({"normal": "wood"}, {"size": 48}):
        copy_f_net("tiny", **(same | changes))
        other = load_bundle("tiny", "cpu")
        assert other.center is other.local is other.instant is None and other.rivals == ()
        same |= changes
    copy_f_net("young", **same)
    assert load_bundle("young", "cpu").f_net.fingerprint == tiny.f_net().fingerprint


def test_a_new_bundle_needs_a_size(weights: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 16 between 32 and 512, not None"):
        save_part("young", f_net=tiny.f_net())
    assert bundle_names() == ["tiny"]


def test_a_bundle_can_be_deleted_and_the_shipped_one_can_not(weights: Path) -> None:
    save_part(SHIPPED, f_net=tiny.f_net(), size=32)
    delete_bundle("tiny")
    assert bundle_names() == [SHIPPED] and not (weights / "tiny").exists()
    for name, sentence in (
        (SHIPPED, "comes with the program"),
        (str(weights / SHIPPED), "comes with the program"),
        ("tiny", "There is no bundle 'tiny' to delete"),
        ("..", "can't be a bundle's name"),
    ):
        with pytest.raises(WeightsError, match=sentence):
            delete_bundle(name)
    assert all(verify(SHIPPED).values())


# --- settings and scales -----------------------------------------------------------------------------


def test_settings_are_the_bundle_s_then_the_caller_s(bundle: Bundle) -> None:
    fast = bundle.settings("fast")
    assert (fast.beta, fast.steps, fast.center) == (4.0, 3, "global")
    assert bundle.settings("fast", steps=7, beta=None).steps == 7
    assert bundle.settings("fast", steps=7, beta=None).beta == 4.0
    local = bundle.settings("fast", center="local")  # β of a global C is of another unit
    assert (local.beta, local.steps, local.center) == (ano_unet.LOCAL.beta, 2, "local")
    assert bundle.settings("article").mode == "article" and bundle.settings("article").beta == 80.0
    with pytest.raises(ValueError, match="Unknown mode 'slow'"):
        bundle.settings("slow")
    with pytest.raises(ValueError, match="β must lie"):
        bundle.settings(beta=-1.0)
    with pytest.raises(ValueError, match="instant mode was trained with local centres"):
        bundle.settings("instant", center="global")
    eased = replace(bundle, info=bundle.info | {"settings": {"fast": {"slack": 0.5}}})
    assert eased.settings("fast").slack == 0.5 and eased.settings("article").slack == 0
    other = replace(eased, center=replace(bundle.center, metric="cosine"))
    assert other.settings("fast").slack == 0  # such a C's held-back scores are no L_C


def test_the_best_mode_is_the_default(bundle: Bundle) -> None:
    assert bundle.mode == bundle.settings().mode == "instant"
    for lacking in ({"instant": None}, {"local": None}):
        assert replace(bundle, **lacking).mode == replace(bundle, **lacking).settings().mode == "fast"


def test_methods_have_names_of_their_own(bundle: Bundle) -> None:
    names = {
        ("instant", None): "instant",
        ("fast", None): "fast",
        ("fast", "local"): "fast-local",
        ("article", None): "article",
        ("article", "local"): "article-local",
    }
    for (mode, center), name in names.items():
        assert bundle.settings(mode, center=center).method == name


def test_scales_have_a_value_for_every_method(bundle: Bundle) -> None:
    assert bundle.scale("fast") == 0.05 and bundle.scale("anogan") == 0.2
    assert bundle.scale("article") == 0.05
    assert bundle.scale("instant") == bundle.scale("instant", "combined") == 0.15
    assert bundle.scale("instant", "distance") == 1.2
    assert bundle.limit("instant") == 0.2 and bundle.limit("fast", "residual") == 0.06
    assert bundle.limit("instant", "distance") == pytest.approx(1.5 * 1.2)  # never measured
    bare = replace(bundle, scales={}, limits={})
    for method in ("instant", "fast", "fast-local", "article", *RIVALS):
        for name in (None, *MAPS):
            assert 0 < bare.scale(method, name) < bare.limit(method, name) < math.inf


def test_each_kind_of_c_has_its_threshold(bundle: Bundle) -> None:
    assert bundle.threshold(bundle.settings("fast")) == bundle.center.threshold
    assert bundle.threshold(bundle.settings("instant")) == 1.7
    assert bundle.threshold(bundle.settings("fast", center="local")) == 1.4
