"""Images in object stores, and results that go there: s3://…, gs://… and what else pyarrow can open.

An image's address is its store's scheme, "://", and its path there, with nothing escaped in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath, PurePosixPath

from pyarrow import fs

from anounet.images import MAX_BYTES, Decoded, ImageError, decode, is_looked_at


def is_address(path: str | PurePath) -> bool:
    return "://" in str(path)


class Stores:
    """The object stores of some addresses. It can be pickled: each process opens its own connections.

    Args:
        addresses: those that will be used, or folders above them.

    Raises:
        ImageError: an address that pyarrow cannot open.
    """

    def __init__(self, addresses: Iterable[str]) -> None:
        self._systems: dict[str, fs.FileSystem] = {}
        for address in addresses:
            try:
                system, path = fs.FileSystem.from_uri(address)
            except (OSError, ValueError) as error:
                raise _no_access(address, "opened", error) from error
            self._systems[_root(_address(address, path))] = system

    def images(self, address: str) -> dict[str, float]:
        """Address → when it was changed last, in seconds since the epoch, of the images under one address.

        They are chosen as `images.image_files` does and sorted by address; the address of a file gives that
        file, whatever it is called.

        Raises:
            ImageError: there is nothing, no image, or no access.
        """
        try:
            system, top = fs.FileSystem.from_uri(address)
            found = system.get_file_info(top)
            if found.type == fs.FileType.NotFound:
                raise ImageError(f"{address} does not exist: check its name.")
            if found.type == fs.FileType.File:
                files = [found]
            else:
                listed = system.get_file_info(fs.FileSelector(top, recursive=True))
                files = [
                    file
                    for file in listed
                    if file.type == fs.FileType.File
                    and is_looked_at(PurePosixPath(file.path).relative_to(PurePosixPath(top)))
                ]
        except OSError as error:
            raise _no_access(address, "listed", error) from error
        if not files:
            raise ImageError(
                f"{address} holds no images: name a folder with PNG, JPEG, WebP, BMP or TIFF files."
            )
        return {_address(address, f.path): f.mtime_ns / 1e9 for f in sorted(files, key=lambda f: f.path)}

    def make_folder(self, address: str) -> None:
        """Makes a folder in a file system; an object store needs none."""
        system = self._of(address)
        if isinstance(system, fs.LocalFileSystem):
            system.create_dir(_path(address), recursive=True)

    def names(self, folder: str) -> set[str]:
        """The names of the files in a folder; none where there is no such folder."""
        selector = fs.FileSelector(_path(folder), allow_not_found=True)
        return {file.base_name for file in self._of(folder).get_file_info(selector)}

    def decode(self, address: str, size: int) -> Decoded:
        """As `images.decode_file`: no more is read than a file may have."""
        try:
            with self._of(address).open_input_stream(_path(address), compression=None) as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError as error:
            raise ImageError(f"{address} does not exist: check its name.") from error
        except OSError as error:
            raise _no_access(address, "read", error) from error
        return decode(data, address, size)

    def save(self, address: str, data: bytes) -> None:
        """Writes a file; an object store shows it when it is whole."""
        with self._of(address).open_output_stream(_path(address), compression=None) as file:
            file.write(data)

    def _of(self, address: str) -> fs.FileSystem:
        return self._systems[_root(address)]


def _address(like: str, path: str) -> str:
    return f"{like.partition('://')[0]}://{path}"


def _path(address: str) -> str:
    return address.partition("://")[2]


def _root(address: str) -> str:
    """Scheme and bucket: buckets may lie in different regions."""
    return _address(address, _path(address).partition("/")[0])


def _no_access(address: str, what: str, error: Exception) -> ImageError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return ImageError(f"{address} cannot be {what} ({why}): check the address and what gives access to it.")
