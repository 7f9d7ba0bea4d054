"""Ground truth of data sets made of files: masks as images or as ellipses, brought to the size asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from anounet.datasets.files import Files, FileSet, upright_size
from anounet.datasets.image_set import DataError
from anounet.images import FORMATS, MAX_BYTES, ImageError

_MIN_AXIS = 0.75  # a semi-axis in pixels, so that an ellipse holds a pixel wherever its centre lies
_JPEG_LEVEL = 127  # JPEG leaves faint noise around an edge; in any other format each value above 0 counts


@dataclass(frozen=True)
class Ellipse:
    """A defect's outline as DAGM's competition gave it, in pixels of the image's own size.

    The major axis points along (cos `rotation`, sin `rotation`), with y downwards.
    """

    semi_major: float
    semi_minor: float
    rotation: float  # radians
    x: float  # of the centre; the middle of the first pixel is 0
    y: float

    def draw(self, width: int, height: int) -> np.ndarray:
        """Which pixels' middles lie inside: bool (height, width)."""
        dx = np.arange(width) - self.x
        dy = np.arange(height)[:, None] - self.y
        cos, sin = math.cos(self.rotation), math.sin(self.rotation)
        along = (dx * cos + dy * sin) / max(self.semi_major, _MIN_AXIS)
        across = (dy * cos - dx * sin) / max(self.semi_minor, _MIN_AXIS)
        return along**2 + across**2 <= 1


class MaskedSet(FileSet):
    """A `FileSet` whose good images are known to be good, and whose defective ones have masks.

    The mask of an entry is a file's name or an `Ellipse`, or None for a defect whose place is not known.
    """

    @cached_property
    def has_masks(self) -> bool:
        return all(entry.mask is not None for entry in self._entries if entry.item.defect)

    def mask(self, index: int, size: int) -> np.ndarray | None:
        """Where image `index` is defective: bool (size, size), all False for a good one; see `fit_mask`.

        None for a defective image without ground truth.

        Raises:
            DataError: the mask is of another size than its image.
            ImageError: the image or the mask cannot be read.
        """
        file, item, mask = self._entries[index]
        if not item.defect:
            return np.zeros((size, size), bool)
        if mask is None:
            return None
        width, height = self.files.size_of(file)
        if isinstance(mask, str):
            return fit_mask(_read(self.files, mask, file, (width, height)), size)
        drawn = mask.draw(width, height)
        if not drawn.any():
            raise DataError(
                f"The ellipse of {self.files.full(file)} lies outside its {width}×{height} pixels: "
                "use the image at the size that labels.txt was written for."
            )
        return fit_mask(drawn, size)


def fit_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resizes a mask to (size, size) so that nothing that was marked vanishes.

    A pixel is defective where at least half of its area is. A scratch too thin for that is kept where it
    touches a pixel and no pixel next to it is defective by the first rule, so that blobs keep their area and
    every marked place stays within a pixel of a defective one. A mask already of that size stays as it is;
    where the mask is the smaller one, each pixel takes the nearest.

    Args:
        mask: (H, W) bool.
        size: side of the result in pixels.

    Returns:
        (size, size) bool.
    """
    marked, rows = _bins(mask.astype(np.int64), size, axis=0)
    marked, columns = _bins(marked, size, axis=1)
    areas = rows[:, None] * columns
    solid = 2 * marked >= areas
    near_solid = ndimage.binary_dilation(solid, np.ones((3, 3), bool))
    return solid | ((marked > 0) & ~near_solid)


def _bins(counts: np.ndarray, size: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums along an axis into `size` bins, in integers; gives the bins' lengths, too.

    Each row falls into the bin that its middle lies in, so that each is counted exactly once.
    """
    length = counts.shape[axis]
    if length < size:
        nearest = (2 * np.arange(size) + 1) * length // (2 * size)
        return np.take(counts, nearest, axis), np.ones(size, np.int64)
    starts = (2 * np.arange(size) * length + size) // (2 * size)
    return np.add.reduceat(counts, starts, axis), np.diff(starts, append=length)


def _read(files: Files, name: str, image_name: str, own: tuple[int, int]) -> np.ndarray:
    """The mask in a file, (height, width) bool, which has to be of its image's own size."""
    full, data = files.full(name), files.read(name)
    if len(data) > MAX_BYTES:
        raise ImageError(f"{full} is larger than {MAX_BYTES // 2**20} MB: save it compressed and try again.")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = upright_size(image, full)
            if (width, height) != own:
                raise DataError(
                    f"The mask {full} has {width}×{height} pixels and its image {files.full(image_name)} "
                    f"{own[0]}×{own[1]}: export the mask at the image's size."
                )
            level = _JPEG_LEVEL if image.format in ("JPEG", "MPO") else 0
            upright = ImageOps.exif_transpose(image)
            grey = upright if upright.mode == "F" else upright.convert("L")  # which would make 0 of 0.5
            return np.asarray(grey) > level
    except (DataError, ImageError):
        raise
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise ImageError(f"The mask {full} cannot be decoded: save or copy it again.") from error
