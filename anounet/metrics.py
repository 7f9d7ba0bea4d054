"""Measures of how well anomaly maps and scores tell the abnormal from the normal.

All measures rank: only the order of the values counts, equal values are one step of the curve, and the
result is exact for the given numbers. No threshold grid is used anywhere. Pixel measures pool the pixels of
all given images, normal images included.

Each measure is one descending sort of the N·H·W values; 500 maps of 96 x 96 take about half a second.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

__all__ = ["aupro", "image_auroc", "pixel_auroc", "pixel_average_precision"]

_EIGHT_CONNECTED = np.zeros((3, 3, 3), bool)
_EIGHT_CONNECTED[1] = True  # within an image only, never from one image to the next


def pixel_auroc(maps: ArrayLike, masks: ArrayLike) -> float:
    """Return the area under the ROC curve over all pixels.

    It is the probability that a random abnormal pixel has a higher value than a random normal one, ties
    counting half (Hanley and McNeil 1982; equal to the Mann-Whitney U statistic with midranks).

    Args:
        maps: Anomaly maps of shape (N, H, W); higher means more abnormal.
        masks: Ground truth of the same shape, true where abnormal.

    Returns:
        A number in 0 ... 1; 0.5 is chance.

    Raises:
        ValueError: If the shapes differ or are not (N, H, W), a value is NaN, or all pixels are of one class.
    """
    return _auroc(*_counts(*_pixels(maps, masks), "pixel"))


def pixel_average_precision(maps: ArrayLike, masks: ArrayLike) -> float:
    """Return the average precision over all pixels.

    It is the sum of precision times step of recall over the distinct thresholds, from the highest down, with
    no interpolation between them: AP = sum_i (R_i - R_{i-1}) P_i (Davis and Goadrich 2006 on why linear
    interpolation flatters; the same sum as scikit-learn's ``average_precision_score``).

    Args:
        maps: Anomaly maps of shape (N, H, W); higher means more abnormal.
        masks: Ground truth of the same shape, true where abnormal.

    Returns:
        A number in 0 ... 1; chance is the share of abnormal pixels.

    Raises:
        ValueError: If the shapes differ or are not (N, H, W), a value is NaN, or all pixels are of one class.
    """
    hits, alarms = _counts(*_pixels(maps, masks), "pixel")
    precision = hits[1:] / (hits[1:] + alarms[1:])
    return float(np.dot(np.diff(hits), precision) / hits[-1])


def aupro(maps: ArrayLike, masks: ArrayLike, max_fpr: float = 0.3) -> float:
    """Return the area under the per-region overlap curve up to a false-positive rate.

    At each threshold, the overlap is the share of a ground-truth region (a set of 8-connected pixels of one
    image) that reaches the threshold, averaged over all regions, so that a small defect counts as much as a
    large one. It is plotted over the share of normal pixels of all images that reach it; the area up to
    ``max_fpr``, the curve being interpolated linearly there, is divided by ``max_fpr`` (Bergmann et al. 2019,
    "MVTec AD", CVPR, and Bergmann et al. 2021, "The MVTec Anomaly Detection Dataset", IJCV).

    Args:
        maps: Anomaly maps of shape (N, H, W); higher means more abnormal.
        masks: Ground truth of the same shape, true where abnormal.
        max_fpr: Where to end, more than 0 and at most 1.

    Returns:
        A number in 0 ... 1; a constant map gets ``max_fpr / 2``.

    Raises:
        ValueError: If the shapes differ or are not (N, H, W), a value is NaN, all pixels are of one class, or
            ``max_fpr`` is out of range.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must be more than 0 and at most 1, got {max_fpr}")
    values, truth = _pixels(maps, masks)
    _require_both(truth, "pixel")
    regions, count = ndimage.label(np.asarray(masks, bool), _EIGHT_CONNECTED)
    regions = regions.ravel()
    share = 1 / (count * np.bincount(regions))  # what one pixel of a region adds to the mean overlap
    share[0] = 0

    order, last = _ranking(values)
    overlap = np.append(0, np.cumsum(share[regions[order]])[last])
    fpr = np.append(0, np.cumsum(~truth[order])[last]) / np.count_nonzero(~truth)

    inside = np.searchsorted(fpr, max_fpr, side="right")  # points up to the limit; (0, 0) is one of them
    x, y = fpr[:inside], overlap[:inside]
    if inside < len(fpr):
        ahead = (max_fpr - x[-1]) / (fpr[inside] - x[-1])
        x, y = np.append(x, max_fpr), np.append(y, y[-1] + ahead * (overlap[inside] - y[-1]))
    return min(1.0, float(np.dot(np.diff(x), y[1:] + y[:-1]) / (2 * max_fpr)))  # 1 + rounding is 1


def image_auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the ROC curve over images.

    As :func:`pixel_auroc`, with one score and one label per image.

    Args:
        scores: Anomaly scores of shape (N,); higher means more abnormal.
        labels: Ground truth of the same shape, true for abnormal images.

    Returns:
        A number in 0 ... 1; 0.5 is chance.

    Raises:
        ValueError: If the shapes differ or are not (N,), a score is NaN, or all images are of one class.
    """
    return _auroc(*_counts(*_checked(scores, labels, ("scores", "labels"), "(N,)", 1), "image"))


def _pixels(maps: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the checked values and truths of all pixels, each of shape (N * H * W,)."""
    values, truth = _checked(maps, masks, ("maps", "masks"), "(N, H, W)", 3)
    return values.ravel(), truth.ravel()


def _checked(
    values: ArrayLike, truth: ArrayLike, names: tuple[str, str], shape: str, dims: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return values and truths as arrays; raise a ValueError if they do not fit each other."""
    values, truth = np.asarray(values), np.asarray(truth, bool)
    if values.ndim != dims or values.shape != truth.shape:
        both, got = " and ".join(names), f"{values.shape} and {truth.shape}"
        raise ValueError(f"{both} must both have the shape {shape}, got {got}")
    if np.isnan(values).any():
        raise ValueError(f"{names[0]} must not contain NaN")
    return values, truth


def _require_both(truth: np.ndarray, what: str) -> None:
    """Raise a ValueError unless both classes occur."""
    abnormal = np.count_nonzero(truth)
    if abnormal in (0, truth.size):
        raise ValueError(
            f"needs at least one normal and one abnormal {what}, got {truth.size - abnormal} and {abnormal}"
        )


def _ranking(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the descending order of values, and the places in it at which a run of equal values ends."""
    order = np.argsort(values)[::-1]
    ranked = values[order]
    return order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)


def _counts(values: np.ndarray, truth: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of abnormal and normal entries at or above each distinct value, from (0, 0) on."""
    _require_both(truth, what)
    order, last = _ranking(values)
    hits = np.append(0, np.cumsum(truth[order], dtype=np.int64)[last])
    return hits, np.append(0, last + 1) - hits


def _auroc(hits: np.ndarray, alarms: np.ndarray) -> float:
    """Return the area under the ROC curve given by counts; exact, as it is summed in whole numbers."""
    twice = np.dot(np.diff(alarms), hits[1:] + hits[:-1])
    return float(twice / (2 * hits[-1] * alarms[-1]))
