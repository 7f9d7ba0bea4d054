"""Files that survive: written whole or not at all, and weights that are checked before they are used."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import platform
import tempfile
import time
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anounet import __version__

MAX_WEIGHTS_BYTES = 200 * 2**20
ABANDONED = 600  # seconds without a change, after which a temporary file's writer must be dead
_FORMAT = "anounet-weights-1"
_TEMPORARY = ".tmp"


class WeightsError(ValueError):
    """A weights file that is missing, damaged or foreign; the message says which and what to do."""


def write_atomic(path: Path, data: bytes) -> None:
    """Writes data under a temporary name, flushes it to the disk and renames it: never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _temporaries(path: Path) -> list[Path]:
    """Files that `write_atomic` writes `path` under, now or before it was killed."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.*{_TEMPORARY}"))


def clear_abandoned(path: Path) -> None:
    """Deletes what killed writers of a file left long ago: nobody else would."""
    for temporary in (staged(path), *_temporaries(path)):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - temporary.stat().st_mtime > ABANDONED:
                temporary.unlink()


def discard(path: Path) -> None:
    """Deletes a file that only this process writes, if it is there, and what its killed writers left."""
    for file in (path, *_temporaries(path)):
        file.unlink(missing_ok=True)


def staged(path: Path) -> Path:
    """Where a file's next version waits, until the file that lists it says so: see `settle`."""
    return path.with_name(f".{path.name}.new")


def settle(folder: Path, files: Mapping[str, str]) -> None:
    """Puts staged files into their places: those that a list of names and SHA-256 now names.

    Files that belong together change at once: each is staged, then the file that lists them is written, then
    they are put into their places. A kill at any point leaves all old or all new ones, since whoever
    reads the list ends here what was begun.
    """
    for name, sha256 in files.items():
        waiting = staged(folder / name)
        with contextlib.suppress(FileNotFoundError):  # another reader was quicker
            if waiting.is_file() and file_sha256(waiting) == sha256:
                os.replace(waiting, folder / name)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(**facts: Any) -> dict[str, Any]:
    """What every checkpoint carries: the caller's facts, the library versions, and when."""
    return {
        **facts,
        "versions": {
            "anounet": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state as it comes back from the disk: through float16 and back to float32, on the CPU.

    A net is rounded before anything is computed from it, so that C and the maps belong to the very weights
    that are shipped. A tensor that float16 cannot hold (a variance beyond 65,504) stays as it is.
    """
    return {name: _to_half(tensor).float() for name, tensor in state.items()}


def _to_half(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    half = tensor.half()
    return half if torch.isfinite(half).all() or not torch.isfinite(tensor).all() else tensor.float()


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and (float16-rounded) values: the same before saving and after loading."""
    digest = hashlib.sha256()
    for name in sorted(state):
        half = _to_half(state[name])
        digest.update(f"{name}{tuple(half.shape)}{half.dtype}".encode())
        digest.update(half.numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: Path, kind: str, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """Saves a state as float16 with its provenance; returns the file's SHA-256.

    Args:
        kind: what it is ("f_net", "unet", …); `load_weights` refuses another kind.
        meta: settings and provenance; JSON types only.
    """
    payload = {
        "format": _FORMAT,
        "kind": kind,
        "meta": json.dumps(dict(meta)),
        "state": {name: _to_half(tensor) for name, tensor in state.items()},
    }
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    clear_abandoned(path)
    write_atomic(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_weights(
    path: Path, kind: str, *, sha256: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Loads what `save_weights` wrote: (state as float32 on the CPU, meta). Never runs code from the file.

    Raises:
        WeightsError: the file is missing, too large, damaged, of another kind, or not the one that
            `sha256` names.
    """
    payload = _load_pickle_free(path, sha256)
    if not isinstance(payload, dict) or payload.get("format") != _FORMAT:
        raise WeightsError(f"{path} is not a weights file of Ano-Unet: make it anew with 'prepare'.")
    if payload.get("kind") != kind:
        raise WeightsError(
            f"{path} holds a '{payload.get('kind')}', not a '{kind}': put the right file there."
        )
    state = payload.get("state")
    if not _is_state(state):
        raise WeightsError(f"{path} is damaged (its weights are not named float tensors): make it anew.")
    try:
        meta = json.loads(payload["meta"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is damaged (its description cannot be read): make it anew.") from error
    return {name: tensor.float() for name, tensor in state.items()}, meta


def save_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Saves what a training goes on from (tensors as they are, numbers, strings), whole or not at all."""
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    clear_abandoned(path)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote; None where there is nothing, or nothing that can be read."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged checkpoint is worth as much as none: the training starts anew
        return None
    return checkpoint if isinstance(checkpoint, dict) else None


def load_state_file(path: Path) -> dict[str, Tensor]:
    """Loads a plain PyTorch state dict (starting weights named by the user), with the same care."""
    payload = _load_pickle_free(path, None)
    if not _is_state(payload, floats_only=False):
        raise WeightsError(f"{path} is not a state dict of named tensors.")
    return payload


def check_state(path: Path | str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuses a state whose names or shapes are not those of the net that is to take it."""
    missing, foreign = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or foreign:
        name, what = (missing[0], "lacks") if missing else (foreign[0], "has an unknown")
        raise WeightsError(f"{path} does not fit this net: it {what} '{name}'. Make it anew with 'prepare'.")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise WeightsError(
                f"{path} does not fit this net: '{name}' has shape {tuple(state[name].shape)}, "
                f"{tuple(tensor.shape)} is needed. Make it anew with 'prepare'."
            )
        if not torch.isfinite(state[name]).all():
            raise WeightsError(f"{path} is damaged: '{name}' holds values that are no numbers. Make it anew.")


def _is_state(state: Any, floats_only: bool = True) -> bool:
    return (
        isinstance(state, dict)
        and bool(state)
        and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items())
        and (not floats_only or all(t.dtype in (torch.float16, torch.float32) for t in state.values()))
    )


def _load_pickle_free(path: Path, sha256: str | None) -> Any:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(
            f"{path} is missing: restore it, or make the bundle anew with 'prepare'."
        ) from error
    if size > MAX_WEIGHTS_BYTES:
        raise WeightsError(f"{path} is larger than {MAX_WEIGHTS_BYTES >> 20} MB and was not opened.")
    if sha256 is not None and file_sha256(path) != sha256:
        raise WeightsError(
            f"{path} is damaged or foreign (its SHA-256 is not the one in bundle.json): "
            "restore the file, or make the bundle anew with 'prepare'."
        )
    try:
        with zipfile.ZipFile(path) as archive:  # torch stores, never compresses: anything else is a bomb
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise WeightsError(f"{path} is not a file that PyTorch wrote, and was not opened.")
        return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # torch raises a different type for every kind of damage
        raise WeightsError(
            f"{path} is damaged or not a weights file (it was not run as code): restore or remake it."
        ) from error
