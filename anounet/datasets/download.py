"""CIFAR-10 and Fashion-MNIST from where torchvision gets them; a download that broke off goes on.

The addresses, the checksums and the layout are torchvision's. Its own download begins anew after a break,
prints its progress and cannot be stopped, so the fetching is done here.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from anounet.datasets.image_set import DataError

FOLDER = Path("data")  # of data sets, in the working folder
SIZES = {"cifar10": 170_498_071, "fashion_mnist": 30_878_645}  # bytes of what can be downloaded
MAX_BYTES = 2**30  # of a file: more is not what was asked for
TIMEOUT = 30.0  # seconds without a byte
PAUSE = 1.0  # seconds before a broken connection is opened again

_CHUNK = 2**18
_NOT_SATISFIABLE = 416  # nothing is left to send
_PARTIAL = 206


@dataclass(frozen=True)
class Remote:
    """A file that can be fetched: its place in the data set's folder, its address, and its checksum."""

    file: str
    url: str
    md5: str


@dataclass(frozen=True)
class Fetched:
    """How far a file is, in bytes; `total` is 0 where the server does not say."""

    file: str
    done: int
    total: int


def remotes(name: str) -> list[Remote]:
    """The files of a data set, as torchvision names them.

    Raises:
        DataError: a set that cannot be downloaded.
    """
    if name not in SIZES:
        raise DataError(f"'{name}' cannot be downloaded: choose from {', '.join(SIZES)}.")
    from anounet._torchvision import datasets

    if name == "cifar10":
        known = datasets.CIFAR10
        return [Remote(known.filename, known.url, known.tgz_md5)]
    known = datasets.FashionMNIST
    return [Remote(f"FashionMNIST/raw/{file}", known.mirrors[0] + file, md5) for file, md5 in known.resources]


def download(name: str, folder: Path) -> Iterator[Fetched]:
    """Fetches a data set into `folder`/`name`, where it can be opened; what is there already stays.

    A file is called `.part` until it is whole and its checksum is right. After a break, or when the stream
    was closed, another call goes on from there.

    Raises:
        DataError: unknown set, no network, or not the file that torchvision knows; what to do by hand.
        OSError: the folder cannot be written to.
    """
    for remote in remotes(name):
        yield from _fetch(remote, folder / name / remote.file)


def _fetch(remote: Remote, target: Path) -> Iterator[Fetched]:
    if target.is_file() and _md5(target) == remote.md5:
        size = target.stat().st_size
        yield Fetched(remote.file, size, size)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    while True:
        before = _size(part)
        try:
            yield from _go_on(remote, part)
            break
        except (URLError, HTTPException, ConnectionError, TimeoutError, SSLError) as error:
            if _size(part) <= before:
                raise _unreachable(remote, target, error) from error
            time.sleep(PAUSE)
    if _md5(part) != remote.md5:
        part.unlink()
        raise DataError(
            f"What {remote.url} gave is not the file that torchvision knows (MD5 {remote.md5}) and was "
            f"deleted: try again, or put {target.name} from elsewhere into '{target.parent}'."
        )
    os.replace(part, target)


def _go_on(remote: Remote, part: Path) -> Iterator[Fetched]:
    """Fetches what is missing from a part, or all of it where the server sends no parts."""
    done = _size(part)
    headers = {"User-Agent": "anounet"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        response = urlopen(Request(remote.url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if done and error.code == _NOT_SATISFIABLE:  # it is whole: its checksum is looked at next
            return
        raise
    with response:
        if response.status != _PARTIAL:
            done = 0
        total = done + int(response.headers.get("Content-Length") or 0)
        with part.open("ab" if done else "wb") as file:
            while chunk := response.read(_CHUNK):
                done += len(chunk)
                if max(done, total) > MAX_BYTES:
                    raise DataError(f"{remote.url} gives more than {MAX_BYTES >> 20} MB: it was not fetched.")
                file.write(chunk)
                yield Fetched(remote.file, done, max(done, total))
    if done < total:  # a connection that ends early looks like the end of the file
        raise ConnectionError("the connection was closed")


def _unreachable(remote: Remote, target: Path, error: Exception) -> DataError:
    reason = getattr(error, "reason", None) or error
    kept = _size(target.with_name(f"{target.name}.part"))
    state = f"broke off after {kept / 1e6:.1f} MB, which are kept" if kept else "cannot be reached"
    return DataError(
        f"{remote.url} {state} ({reason}): check the network and try again, or put the file by hand into "
        f"'{target.parent}'."
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:  # a checksum against broken downloads, as torchvision's
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
