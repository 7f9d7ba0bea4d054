"""The one image convention, and every way into and out of it.

An image is a float32 tensor (B, 3, H, W), RGB, in [0, 1]. Pixels on their way in or out, in caches and in
files are uint8 arrays (H, W, 3), RGB, in 0 … 255. Whatever a user hands over goes through `decode`, which
answers with exactly that or with an `ImageError` whose one sentence can be shown to the user as it is.
"""

from __future__ import annotations

import hashlib
import operator
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
MIN_SIZE = 32  # side in pixels that the nets work at
MAX_SIZE = 512
SIZE_STEP = 16  # four halvings in the U-Net

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

# Names under which data sets keep their ground truth (MVTec, DAGM): not images to look at.
_MASK_FOLDERS = frozenset({"masks", "ground_truth", "label"})
_MASK_STEMS = ("_mask", "_label")

# JPEG can be decoded at a half, a quarter or an eighth for a fraction of the work. That is done down to this
# many times the size asked for, where the result differs by only a few grey levels of 255.
_DRAFT_GAP = 3

_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})

# EXIF 2.3, tag 0x0112: how the stored picture has to be turned to stand upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """An image that cannot be used; the message is one sentence for the user: which, why, what to do."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image as the nets see it, and what is worth knowing about the file it came from."""

    name: str
    pixels: np.ndarray  # (size, size, 3) uint8, RGB, read-only
    width: int  # of the original, standing upright, in pixels
    height: int
    note: str  # what the user should know about the conversion; "" if nothing


def check_size(size: int) -> int:
    """Gives `size` back as an int if the nets can work at it.

    Args:
        size: side of the square images, in pixels.

    Raises:
        ValueError: not a multiple of 16 between 32 and 512.
    """
    try:
        checked = operator.index(size)
    except TypeError:
        checked = 0
    if isinstance(size, bool) or checked % SIZE_STEP or not MIN_SIZE <= checked <= MAX_SIZE:
        raise ValueError(
            f"The image size must be a multiple of {SIZE_STEP} between {MIN_SIZE} and {MAX_SIZE}, "
            f"not {size!r}."
        )
    return checked


def decode(data: bytes, name: str, size: int) -> Decoded:
    """Decodes one PNG, JPEG, WebP, BMP, TIFF or GIF file and resizes it to a square.

    The picture is turned upright (EXIF), laid on white where it is transparent, brought to 8 bits and RGB,
    and resized bilinearly with antialiasing; its aspect ratio is not kept. No setting of Pillow is changed,
    so threads may decode side by side.

    Args:
        data: the file's bytes, at most `MAX_BYTES`.
        name: what to call the file in messages.
        size: side of the result in pixels; see `check_size`.

    Raises:
        ImageError: empty, too large, damaged, cut short, or not an image of these kinds.
        ValueError: a size that the nets cannot work at.
    """
    check_size(size)
    _check_bytes(len(data), name)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            return _decode_opened(image, name, size)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a readable PNG, JPEG, WebP, BMP, TIFF or GIF image: "
            "save it as one of these and try again."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(name) from error
    except Exception as error:  # Pillow raises a dozen kinds on damaged files, struct.error to KeyError
        raise ImageError(
            f"{name} is damaged or cut short and cannot be decoded: save or copy it again and retry."
        ) from error


def decode_file(path: str | Path, size: int) -> Decoded:
    """Decodes the image file at `path`, whose size is checked before it is read; otherwise as `decode`.

    Raises:
        ImageError: also where there is no such file, or it cannot be read.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(f"{path} is {what}: name an image file.")
        _check_bytes(status.st_size, str(path))
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)  # it may have grown since
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read ({error.strerror}): check the file and its permissions."
        ) from error
    return decode(data, str(path), size)


def read_image(source: str | Path | bytes | Image.Image | np.ndarray, size: int) -> Tensor:
    """One image as a bundle takes it, resized as `decode` does, whatever it comes in.

    Args:
        source: a file's path, or its bytes; Pillow's image; or an array, (H, W, 3) uint8 RGB, (H, W) uint8 or
            uint16, or (H, W) float32 in [0, 1]. OpenCV's BGR is `array[..., ::-1]`.
        size: side of the result in pixels, `bundle.size`; see `check_size`.

    Returns:
        (3, size, size) float32 in [0, 1].

    Raises:
        ImageError: it cannot be read, or is no image of these kinds.
        ValueError: a size that the nets cannot work at.
    """
    if isinstance(source, str | Path):
        decoded = decode_file(source, size)
    elif isinstance(source, bytes):
        decoded = decode(source, "The image", size)
    else:
        decoded = _decode_opened(_pillow(source), "The image", check_size(size))
    return to_tensor(decoded.pixels)[0]


def _pillow(source: Image.Image | np.ndarray) -> Image.Image:
    """An image of our own, loaded: decoding changes the one it is given."""
    if isinstance(source, Image.Image):
        try:
            return source.copy()
        except Exception as error:  # as in `decode`: where a file was opened and is read only now
            raise ImageError("The image is damaged or cut short and cannot be decoded.") from error
    dtypes = {2: (np.uint8, np.uint16, np.float32), 3: (np.uint8,)}
    usable = isinstance(source, np.ndarray) and source.size and source.dtype in dtypes.get(source.ndim, ())
    if not usable or source.shape[2:] not in ((), (3,)):
        what = f"{source.shape} {source.dtype}" if isinstance(source, np.ndarray) else type(source).__name__
        raise ImageError(
            "An image is a file's path or bytes, Pillow's, or an array: (H, W, 3) uint8, or (H, W) uint8, "
            f"uint16 or float32, not {what}."
        )
    return Image.fromarray(np.ascontiguousarray(source))


def to_tensor(pixels: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """Makes a batch of one image or several of one size.

    Args:
        pixels: (H, W, 3) uint8, a sequence of such arrays, or (B, H, W, 3) uint8.

    Returns:
        (B, 3, H, W) float32 in [0, 1], contiguous, sharing no memory with `pixels`.
    """
    batch = [pixels] if isinstance(pixels, np.ndarray) and pixels.ndim == 3 else pixels
    stacked = np.stack([_check_pixels(image) for image in batch])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().float().div_(255)


def to_pixels(x: Tensor) -> np.ndarray:
    """Gives the uint8 pixels nearest to an image; values outside [0, 1] are clamped, NaN becomes 0.

    Args:
        x: (3, H, W), floating point, nominally in [0, 1], on any device.

    Returns:
        (H, W, 3) uint8.
    """
    if x.ndim != 3 or x.shape[0] != 3:
        raise ValueError(f"An image has the shape (3, H, W), not {tuple(x.shape)}.")
    levels = x.detach().float().nan_to_num(nan=0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def resize_pixels(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes pixels that come from no image file, in the way in which `decode` does.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8.
        size: side of the result in pixels; see `check_size`.

    Returns:
        (size, size, 3) uint8, RGB, read-only.
    """
    square, _ = _resize(Image.fromarray(np.ascontiguousarray(pixels)), check_size(size))
    resized = np.array(square)
    resized.setflags(write=False)
    return resized


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encodes (H, W, 3) uint8 RGB or (H, W) uint8 grey pixels as a PNG file."""
    buffer = BytesIO()
    # On photographs and overlays zlib's level 2 takes less than half the time of 6, and less space.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def upload(x: Tensor, device: torch.device) -> Tensor:
    """Images to where the work is done; to a GPU from pinned memory, so that nothing waits for the copy."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def content_hash(pixels: np.ndarray) -> str:
    """Gives the SHA-256, in hexadecimal, of the shape and the bytes of (H, W, 3) uint8 pixels."""
    digest = hashlib.sha256(repr(tuple(map(int, _check_pixels(pixels).shape))).encode())
    digest.update(np.ascontiguousarray(pixels))
    return digest.hexdigest()


def content_seed(x: Tensor, seed: int = 0) -> int:
    """Derives the seed of an image's own random generator from what the image shows.

    So an image starts from the same random numbers alone, in a batch, and at any place in it. The image is
    rounded to 8 bits first: the seed is the same on every device and platform.

    Args:
        x: (3, H, W) in [0, 1].
        seed: the run's seed; any int.

    Returns:
        63 bits, as `torch.Generator.manual_seed` takes them.
    """
    digest = hashlib.sha256(f"{content_hash(to_pixels(x))} {int(seed)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Lists the image files that `paths` name, each once.

    A file is taken as named, whatever it is called. A folder is searched with its subfolders, in sorted
    order, for the endings in `ENDINGS`; hidden entries and ground-truth masks (folders `masks`,
    `ground_truth`, `Label`; names ending in `_mask` or `_label`) are passed over.

    Raises:
        ImageError: a path that does not exist, or a folder without a single image.
    """
    found: dict[Path, Path] = {}  # by resolved path, in the order of finding
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if path.is_dir():
            files = list(_search(path))
            if not files:
                raise ImageError(
                    f"{path} holds no images: name a folder with PNG, JPEG, WebP, BMP or TIFF files."
                )
        elif path.exists():
            files = [path]
        else:
            raise _missing(path)
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def is_looked_at(path: PurePath) -> bool:
    """Whether a search of a folder takes the file at `path`, relative to that folder: see `image_files`."""
    return _is_image(path.name) and not any(map(_is_passed_over, path.parts[:-1]))


def _is_image(name: str) -> bool:
    stem, ending = os.path.splitext(name.lower())
    return ending in ENDINGS and not stem.startswith(".") and not stem.endswith(_MASK_STEMS)


def _is_passed_over(folder: str) -> bool:
    return folder.startswith(".") or folder.lower() in _MASK_FOLDERS


def _search(folder: Path) -> Iterator[Path]:
    """Yields the images in `folder`, then those in its subfolders, each sorted by name."""

    def refuse(error: OSError) -> None:
        raise ImageError(
            f"{error.filename} cannot be searched ({error.strerror}): check its permissions."
        ) from error

    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not _is_passed_over(name))
        yield from (Path(parent, name) for name in sorted(names) if _is_image(name))


def _decode_opened(image: Image.Image, name: str, size: int) -> Decoded:
    """Does `decode` for an image whose header has been read and whose pixels have not."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(name)

    notes = []
    if getattr(image, "is_animated", False) and image.format != "MPO":  # in an MPO the others are previews
        is_document = image.format == "TIFF"
        notes.append("several pages: first page shown" if is_document else "animated: first frame shown")

    image.draft(None, (_DRAFT_GAP * size, _DRAFT_GAP * size))  # does nothing for other formats
    image.load()
    turn = _orientation(image)  # after load: Pillow turns a TIFF itself, and then says 1
    if turn >= 5:
        width, height = height, width

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        square, note = _resize_deep(image, name, size)
    elif image.mode in _EIGHT_BIT_MODES:
        square, note = _resize(image, size)
    else:
        raise ImageError(
            f"{name} has colours of the kind {image.mode}: save it as an RGB image and try again."
        )
    if note:
        notes.append(note)
    if turn in _UPRIGHT:
        square = square.transpose(_UPRIGHT[turn])

    pixels = np.array(square)
    pixels.setflags(write=False)
    return Decoded(name=name, pixels=pixels, width=width, height=height, note="; ".join(notes))


def _resize(image: Image.Image, size: int) -> tuple[Image.Image, str]:
    """Resizes an image of 8 bits a channel or less to (size, size), RGB on white; gives a note, too."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("1", "P"):  # Pillow would resize these by picking the nearest pixel
        image = image.convert("RGB")
    # Pillow weighs colours by their alpha while it resizes, so laying the small image on white is exact.
    square = image.resize((size, size), Image.Resampling.BILINEAR)
    if square.mode == "RGBA" and square.getchannel("A").getextrema()[0] < 255:
        white = Image.new("RGBA", square.size, "white")
        return Image.alpha_composite(white, square).convert("RGB"), "transparent: shown on white"
    return square.convert("RGB"), ""


def _resize_deep(image: Image.Image, name: str, size: int) -> tuple[Image.Image, str]:
    """Resizes a grey image of 16 bits, 32 bits or floating point to (size, size), RGB; gives a note, too.

    Integers within 0 … 65535 are divided by 257, floating-point values within [0, 1] multiplied by 255: fixed
    scales, so that two images of one camera stay comparable. Where a value lies outside, no scale is known,
    and the image's own range is stretched. Infinite values count as the nearest finite, NaN as the lowest.
    """
    values = np.asarray(image).astype(np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ImageError(f"{name} holds no finite value: save it again from its source.")
    low, high = float(finite.min()), float(finite.max())
    np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)

    kind = {"F": "floating point", "I": "32-bit"}.get(image.mode, "16-bit")
    black, white = 0.0, (1.0 if image.mode == "F" else 65535.0)
    if black <= low and high <= white:
        note = f"{kind}: scaled to 8 bits"
    else:
        black, white = low, high
        note = f"{kind}: its range {low:g} to {high:g} stretched to 8 bits"

    square = Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR)
    span = (white - black) or 1.0  # a flat image without a scale is black
    share = (np.asarray(square, np.float64) - black) / span
    return Image.fromarray(np.rint(share.clip(0, 1) * 255).astype(np.uint8)).convert("RGB"), note


def _orientation(image: Image.Image) -> int:
    """Gives the EXIF orientation, 1 to 8; damaged EXIF is no reason to refuse a picture, and counts as 1."""
    try:
        turn = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # as above: a dozen kinds
        return 1
    return turn if turn in _UPRIGHT else 1


def _check_bytes(count: int, name: str) -> None:
    if count == 0:
        raise ImageError(f"{name} is empty: choose a file that holds an image.")
    if count > MAX_BYTES:
        raise ImageError(
            f"{name} is larger than {MAX_BYTES // 2**20} MB: save it smaller or compressed and try again."
        )


def _check_pixels(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"Pixels are (H, W, 3) uint8, not {tuple(pixels.shape)} {pixels.dtype}.")
    return pixels


def _too_many_pixels(name: str) -> ImageError:
    return ImageError(
        f"{name} has more than {MAX_PIXELS // 1_000_000} million pixels: make it smaller and try again."
    )


def _missing(path: str | Path) -> ImageError:
    return ImageError(f"{path} does not exist: check its name.")
