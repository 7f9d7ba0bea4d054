"""Files are written whole or not at all, and a weights file is checked before anything in it is used."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anounet import storage
from anounet.storage import (
    WeightsError,
    check_state,
    discard,
    file_sha256,
    fingerprint,
    load_checkpoint,
    load_state_file,
    load_weights,
    provenance,
    rounded,
    save_checkpoint,
    save_weights,
    settle,
    staged,
    write_atomic,
    write_json,
)

STATE = {"a.weight": torch.linspace(-1, 1, 12).view(3, 4), "b": torch.tensor([1 / 3])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    path = tmp_path / "part.pt"
    save_weights(path, "unet", STATE, {"made by": "hand"})
    return path


def refused(path: Path, words: str, load: Callable[[], Any] | None = None) -> None:
    """Loading ends in one sentence that names the file."""
    with pytest.raises(WeightsError, match=words) as caught:
        (load or (lambda: load_weights(path, "unet")))()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- writing -----------------------------------------------------------------------------------------


def test_what_a_killed_writer_left_is_cleared_away_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "net.progress", tmp_path / "internet.progress"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: os._exit(0))  # no handler of errors runs
        for name in (path, path, other):
            if os.fork() == 0:
                write_atomic(name, b"half")
            os.wait()
    left = sorted(file.name for file in tmp_path.iterdir())
    assert len(left) == 3 and all(name.startswith(".") for name in left)
    save_checkpoint(path, {"step": 1})
    assert len(list(tmp_path.iterdir())) == 4  # its writer may be alive
    old = next(tmp_path.glob(".net.progress.*"))
    os.utime(old, (0, 0))
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 2} and not old.exists()
    discard(path)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith(".internet.progress.")


def test_staged_files_come_into_their_places_where_a_list_names_them(tmp_path: Path) -> None:
    path = tmp_path / "part.pt"
    path.write_bytes(b"old")
    staged(path).write_bytes(b"new")
    settle(tmp_path, {"part.pt": file_sha256(path)})
    assert path.read_bytes() == b"old" and staged(path).exists()
    settle(tmp_path, {"part.pt": file_sha256(staged(path)), "other.pt": "0"})
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_written_with_its_folders_and_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file.bin"
    write_atomic(path, b"old")

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new" * 1000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]  # and no temporary file


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file.bin", b"new")
    assert not list(tmp_path.iterdir())


def test_json_is_readable_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"β": 50, "名": [1, 2]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"β": 50, "名": [1, 2]}
    assert "β" in text and text.endswith("}\n")


# --- what comes back ---------------------------------------------------------------------------------


def test_what_comes_back_is_what_rounded_gives(path: Path) -> None:
    state, meta = load_weights(path, "unet", sha256=file_sha256(path))
    assert meta == {"made by": "hand"}
    expected = rounded(STATE)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert not torch.equal(state["b"], STATE["b"])  # a third is no float16
    assert fingerprint(state) == fingerprint(expected) == fingerprint(STATE)


def test_save_gives_the_file_s_hash(tmp_path: Path) -> None:
    path = tmp_path / "part.pt"
    assert save_weights(path, "unet", STATE, {}) == file_sha256(path)


def test_values_beyond_float16_are_kept_as_they_are(tmp_path: Path) -> None:
    state = {"variance": torch.tensor([1e5 + 1 / 3]), "weight": torch.tensor([0.1])}
    save_weights(tmp_path / "part.pt", "unet", state, {})
    loaded, _ = load_weights(tmp_path / "part.pt", "unet")
    assert torch.equal(loaded["variance"], state["variance"])
    assert torch.equal(rounded(state)["variance"], state["variance"])
    assert torch.equal(rounded(state)["weight"], state["weight"].half().float())
    assert fingerprint(loaded) == fingerprint(state)


def test_fingerprint_sees_names_shapes_and_values_but_no_order() -> None:
    first = fingerprint(STATE)
    assert fingerprint(dict(reversed(STATE.items()))) == first
    assert fingerprint(STATE | {"b": torch.tensor([0.5])}) != first
    assert fingerprint(STATE | {"a.weight": STATE["a.weight"].view(4, 3)}) != first
    assert fingerprint({"c" if name == "b" else name: t for name, t in STATE.items()}) != first


def test_rounding_gives_a_copy() -> None:
    state = {"a": torch.ones(2)}
    rounded(state)["a"].zero_()
    assert state["a"].tolist() == [1, 1]


def test_provenance_has_the_facts_the_versions_and_the_time() -> None:
    facts = provenance(data="textures")
    assert facts["data"] == "textures"
    assert facts["versions"].keys() == {"anounet", "torch", "numpy", "python"}
    json.dumps(facts)


# --- what is refused ---------------------------------------------------------------------------------


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("load", [lambda p: load_weights(p, "unet"), load_state_file])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    path, target = tmp_path / "part.pt", tmp_path / "target"
    torch.save({"format": "anounet-weights-1", "kind": "unet", "state": Malicious(target)}, path)
    refused(path, "not run as code", lambda: load(path))
    assert not target.exists()
    path.write_bytes(pickle.dumps(Malicious(target)))
    refused(path, "not run as code", lambda: load(path))
    assert not target.exists()
    pickle.loads(path.read_bytes()).close()  # the trap itself works
    assert target.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "part.pt", "is missing: restore it")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "is damaged or not a weights file")


def test_another_hash_is_refused(path: Path) -> None:
    sha = file_sha256(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    refused(path, "its SHA-256 is not the one", lambda: load_weights(path, "unet", sha256=sha))


def test_another_kind_is_refused(path: Path) -> None:
    refused(path, "holds a 'unet', not a 'f_net'", lambda: load_weights(path, "f_net"))


def test_another_program_s_file_is_refused(path: Path) -> None:
    torch.save(STATE, path)
    refused(path, "is not a weights file of Ano-Unet")
    torch.save([1, 2, 3], path)
    refused(path, "is not a weights file of Ano-Unet")


def test_a_compressed_archive_is_not_opened(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    refused(path, "is not a file that PyTorch wrote")


def test_a_file_that_is_too_large_is_not_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_WEIGHTS_BYTES", path.stat().st_size)
    load_weights(path, "unet")
    monkeypatch.setattr(storage, "MAX_WEIGHTS_BYTES", path.stat().st_size - 1)
    monkeypatch.setattr(torch, "load", None)
    refused(path, "is larger than")


@pytest.mark.parametrize(
    "state", [{}, {"a": 1}, {1: torch.zeros(1)}, {"a": torch.zeros(1, dtype=torch.int64)}]
)
def test_a_state_that_is_none_is_refused(path: Path, state: dict) -> None:
    torch.save({"format": "anounet-weights-1", "kind": "unet", "meta": "{}", "state": state}, path)
    refused(path, "not named float tensors")


@pytest.mark.parametrize("meta", [{}, {"meta": "{"}, {"meta": None}])
def test_a_description_that_cannot_be_read_is_refused(path: Path, meta: dict) -> None:
    torch.save({"format": "anounet-weights-1", "kind": "unet", "state": STATE} | meta, path)
    refused(path, "its description cannot be read")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a.weight": STATE["a.weight"]}, "it lacks 'b'"),
        (STATE | {"c": torch.zeros(1)}, "it has an unknown 'c'"),
        (STATE | {"b": torch.zeros(2)}, r"'b' has shape \(2,\), \(1,\) is needed"),
        (STATE | {"b": torch.tensor([float("nan")])}, "'b' holds values that are no numbers"),
        (STATE | {"b": torch.tensor([float("-inf")])}, "'b' holds values that are no numbers"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(path: Path, state: dict, words: str) -> None:
    check_state(path, rounded(STATE), STATE)
    save_weights(path, "unet", state, {})  # it goes through the disk as it is
    loaded, _ = load_weights(path, "unet")
    refused(path, words, lambda: check_state(path, loaded, STATE))


def test_a_plain_state_file_keeps_its_integers(path: Path) -> None:
    torch.save(STATE | {"counter": torch.tensor(3)}, path)
    assert load_state_file(path)["counter"] == 3
    torch.save({"model": STATE}, path)
    refused(path, "is not a state dict", lambda: load_state_file(path))
