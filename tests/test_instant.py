"""`instant` mode's U-Net: it learns, from a seed alone; it goes on after a stop; it redraws images alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from anounet import ano_unet, instant
from anounet.feature_net import FeatureNet
from anounet.instant import (
    PASTING,
    InstantSettings,
    frozen,
    load_instant,
    save_instant,
    train_instant,
)
from anounet.local_centers import LocalCenters
from anounet.storage import WeightsError, load_checkpoint, rounded, save_checkpoint
from anounet.training import TrainingError, TrainingStep
from anounet.unet import GatedUNet

SETTINGS = tiny.INSTANT


@pytest.fixture
def run(f_net: FeatureNet, local: LocalCenters):
    def run(settings: InstantSettings = SETTINGS, **options: object) -> Iterator[TrainingStep]:
        return train_instant(tiny.pixels(12), f_net, local, settings, **options)

    return run


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every other step."""
    monkeypatch.setattr(instant, "CHECKPOINT_EVERY", 2)


def state(steps: Iterator[TrainingStep]) -> dict[str, Tensor]:
    return list(steps)[-1].model.state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_l_falls(run, f_net: FeatureNet, local: LocalCenters) -> None:
    settings = replace(SETTINGS, steps=150, batch=8, learning_rate=5e-3, shift=0)
    pasting = replace(PASTING, share=1.0, radius=(4.0, 16.0))
    nets = [list(run(replace(settings, steps=n), pasting=pasting))[-1].model for n in (1, 150)]
    x = tiny.images(12)
    pasted, cover = instant.paste(x, x.flip(0), tiny.generator(7), pasting)
    spread = local.spreads.square().mean(dim=0).sqrt()[None, :, None, None]
    before, after = (instant._loss(net, x, pasted, cover, f_net, local, spread, settings) for net in nets)
    for name in ("L", "L_R", "L_C foreign", "gate"):
        assert after[name] < 0.9 * before[name], name


def test_l_is_the_sum_of_its_weighted_parts(run) -> None:
    s = SETTINGS
    weights = {
        "L_R": s.keep,
        "L_C": s.beta,
        "L_C foreign": s.beta_foreign,
        "repair": s.image,
        "features": s.features,
        "gate": s.gate,
    }
    for step in run(replace(s, steps=3)):
        total = sum(weight * step.metrics[name] for name, weight in weights.items())
        assert step.metrics["L"] == pytest.approx(total, rel=1e-4)


def test_the_window_of_f_moves_by_the_seed_and_only_with_a_shift(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    corners: list[tuple[int, ...] | None] = []
    loss = instant._loss

    def watched(*given):
        corners.append(given[-1] and tuple(given[-1]))
        return loss(*given)

    monkeypatch.setattr(instant, "_loss", watched)
    for shift in (4, 4, 0):
        list(run(replace(SETTINGS, shift=shift, still=0.25, steps=12)))
    moved, again, never = corners[:12], corners[12:24], corners[24:]
    assert moved == again and moved[:3] == [None] * 3 and len(set(moved[3:])) > 3
    assert all(0 <= start <= 4 for corner in moved[3:] for start in corner)
    assert set(never) == {None}
    with pytest.raises(ValueError, match="shift must lie between 0 and 8"):
        replace(SETTINGS, shift=9)


def test_the_same_seed_gives_the_same_net_bit_for_bit(run) -> None:
    before = torch.get_rng_state()
    first = state(run())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert same(state(run()), first)
    assert not same(state(run(replace(SETTINGS, seed=1))), first)


def test_f_and_the_centres_stay_bit_for_bit_the_same(run, f_net: FeatureNet, local: LocalCenters) -> None:
    net = {name: t.clone() for name, t in f_net.state_dict().items()}
    means, spreads = local.means.clone(), local.spreads.clone()
    list(run())
    assert same(f_net.state_dict(), net)
    assert all(p.grad is None and not p.requires_grad for p in f_net.parameters())
    assert torch.equal(local.means, means) and torch.equal(local.spreads, spreads)


def test_reference_images_are_used(run) -> None:
    assert not same(state(run(references=tiny.pixels(8, "wood"))), state(run()))


def test_frozen_nets_samples_and_checkpoints_come_now_and_then(run, often) -> None:
    steps = {s.step: s for s in run(replace(SETTINGS, steps=5), samples_every=3)}
    assert [n for n, s in steps.items() if s.model is not None] == [2, 4, 5]
    assert [n for n, s in steps.items() if s.checkpoint is not None] == [2, 4]  # the last is the net itself
    assert [n for n, s in steps.items() if s.samples is not None] == [3, 5]
    assert steps[3].samples.shape == (4, 3, 32, 32)
    model = steps[5].model
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    assert same(model.state_dict(), rounded(model.state_dict()))  # as a file holds it
    assert not same(model.state_dict(), steps[2].model.state_dict())


def test_a_training_goes_on_as_if_it_had_never_stopped(run, often, tmp_path: Path) -> None:
    whole = list(run())
    begun = run()
    for step in begun:
        if step.checkpoint is not None and step.step == 4:
            save_checkpoint(tmp_path / "kept", step.checkpoint)
            break
    begun.close()
    rest = list(run(resume=load_checkpoint(tmp_path / "kept")))
    assert [s.step for s in rest] == [5, 6]
    assert [s.metrics for s in rest] == [s.metrics for s in whole[4:]]
    assert same(rest[-1].model.state_dict(), whole[-1].model.state_dict())


def test_a_checkpoint_of_another_training_is_refused(
    run, often, f_net: FeatureNet, local: LocalCenters
) -> None:
    kept = next(s.checkpoint for s in run() if s.checkpoint is not None)
    for wrong in (
        run(replace(SETTINGS, learning_rate=1e-3), resume=kept),
        run(replace(SETTINGS, steps=7), resume=kept),
        run(pasting=replace(PASTING, share=0.5), resume=kept),
        train_instant(tiny.pixels(12), f_net, replace(local, tau=9.0), SETTINGS, resume=kept),
    ):
        with pytest.raises(ValueError, match="of a training with other settings: delete it"):
            next(wrong)


def test_a_loss_that_is_no_number_names_its_step(run, often, monkeypatch: pytest.MonkeyPatch) -> None:
    paste, calls = instant.paste, []

    def poisoned(*arguments: object) -> tuple[Tensor, Tensor]:
        pasted, cover = paste(*arguments)
        calls.append(True)
        return (pasted * float("nan") if len(calls) == 5 else pasted), cover

    monkeypatch.setattr(instant, "paste", poisoned)
    models = []
    with pytest.raises(TrainingError, match="instant U-Net stopped being a number at step 5"):
        models.extend(s.model for s in run() if s.model is not None)
    assert len(calls) == 5


def test_an_early_stop_ends_the_training(run, f_net: FeatureNet, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    loss = instant._loss
    monkeypatch.setattr(instant, "_loss", lambda *a: done.append(True) or loss(*a))
    steps = run()
    next(steps)
    steps.close()
    assert len(done) == 1
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in f_net.parameters())


@pytest.mark.parametrize("depth", [4, 5])
def test_a_side_that_does_not_fit_the_depth_is_refused(
    f_net: FeatureNet, local: LocalCenters, depth: int
) -> None:
    images = torch.zeros(8, 3, 36, 36, dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"takes sides divisible by {2 ** (depth - 1)}, not 36\.$"):
        next(train_instant(images, f_net, local, InstantSettings(depth=depth)))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("batch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("width", 4),
        ("depth", 6),
        ("margin", 1.5),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"The instant U-Net's .* must lie between .*\.$"):
        InstantSettings(**{setting: value})


# --- redrawing ---------------------------------------------------------------------------------------


def test_an_image_is_redrawn_alone(f_net: FeatureNet, local: LocalCenters, instant: GatedUNet) -> None:
    x = torch.cat([tiny.images(5), tiny.defective(4)])
    together = ano_unet.redraw(x, f_net, local, instant)
    turned = ano_unet.redraw(x.flip(0), f_net, local, instant)
    for name, rounding in (("y", 1e-5), ("gate", 1e-5), ("before", 1e-4), ("after", 1e-4), ("change", 1e-4)):
        found = getattr(together, name)
        assert (getattr(turned, name).flip(0) - found).abs().max() < rounding, name
        for i in (0, 8):
            alone = getattr(ano_unet.redraw(x[i : i + 1], f_net, local, instant), name)[0]
            assert (alone - found[i]).abs().max() < rounding, name
    assert together.y.min() >= 0 and together.y.max() <= 1
    assert together.gate.shape == (9, 32, 32) and together.before.shape == (9, 8, 8)


def test_refining_lowers_l(f_net: FeatureNet, local: LocalCenters, instant: GatedUNet) -> None:
    settings = ano_unet.Settings("instant", 3.0, 15, learning_rate=3e-4, center="local")
    before = {name: t.clone() for name, t in instant.state_dict().items()}
    x = tiny.defective(2)
    steps = list(ano_unet.reconstruct(x, f_net, local, settings, instant))
    assert len(steps) == 16
    assert (steps[-1].losses["L"] < steps[0].losses["L"]).all()
    assert same(instant.state_dict(), before)  # each image has a copy
    drawn = ano_unet.redraw(x, f_net, local, instant)
    assert steps[0].losses["L_R"].tolist() == pytest.approx(
        (x - drawn.y).abs().mean(dim=(1, 2, 3)).tolist(), abs=1e-4
    )


# --- on disk -----------------------------------------------------------------------------------------


def test_the_disk_changes_nothing(instant: GatedUNet, local: LocalCenters, tmp_path: Path) -> None:
    path = tmp_path / "unet_instant.pt"
    sha = save_instant(path, instant, local, {"steps": 6})
    loaded, meta = load_instant(path, local, sha)
    assert same(loaded.state_dict(), instant.state_dict())
    assert (loaded.width, loaded.depth) == (8, 3) and meta == {"steps": 6}
    assert not any(p.requires_grad for p in loaded.parameters())


def test_other_local_centres_are_refused(instant: GatedUNet, local: LocalCenters, tmp_path: Path) -> None:
    path = tmp_path / "unet_instant.pt"
    save_instant(path, instant, local, {})
    for other in (replace(local, means=local.means + 0.1), None):
        with pytest.raises(WeightsError, match=r"unet_instant\.pt was trained with other local centres"):
            load_instant(path, other)


def test_a_damaged_file_is_refused(instant: GatedUNet, local: LocalCenters, tmp_path: Path) -> None:
    path = tmp_path / "unet_instant.pt"
    sha = save_instant(path, instant, local, {})
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    for wanted in (sha, None):
        with pytest.raises(WeightsError, match=r"unet_instant\.pt is damaged"):
            load_instant(path, local, wanted)
    path.unlink()
    with pytest.raises(WeightsError, match=r"unet_instant\.pt is missing"):
        load_instant(path, local)
    broken = frozen(instant)
    broken.head.weight.fill_(float("nan"))
    save_instant(path, broken, local, {})
    with pytest.raises(WeightsError, match="no numbers"):
        load_instant(path, local)
