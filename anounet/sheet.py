"""Contact sheets: pictures of one size in rows and columns, with words on them, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4  # white pixels between pictures
LINE = 14  # pixels a line of words takes
_FONT = 11


def beside(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, …, 3) side by side, white between them."""
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def below(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (…, W, 3) under each other, white between them."""
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, gap)][:-1])


def words(lines: Sequence[str], width: int, height: int) -> np.ndarray:
    """Lines of words in black on white, from the upper left corner: uint8 (height, width, 3)."""
    block = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(block), ImageFont.load_default(size=_FONT)
    for number, line in enumerate(lines):
        draw.text((0, 1 + LINE * number), line, fill="black", font=font)
    return np.asarray(block)


def heading(titles: Sequence[Sequence[str]], side: int) -> np.ndarray:
    """A head for columns of pictures `side` wide: two lines for each, which may reach into empty ones.

    Args:
        titles: for each column its lines.
    """
    width = len(titles) * (side + GAP) - GAP
    head = Image.new("RGB", (width, 2 * LINE + 2), "white")
    draw, font = ImageDraw.Draw(head), ImageFont.load_default(size=_FONT)
    for column, lines in enumerate(titles):
        for number, line in enumerate(lines):
            draw.text((column * (side + GAP), 1 + LINE * number), line, fill="black", font=font)
    return np.asarray(head)
