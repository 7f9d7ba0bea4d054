"""Pictures on one fixed scale: from Results to panels of PNG in a grid that wraps, and to files.

The colour of a pixel says how far it changed in units of what normal images change: 1 is the level that
99.5 % of the pixels of held-back normal images stay under. No image is ever stretched to its own range.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from anounet.anogan import SearchSettings
from anounet.anomaly_map import colorize, overlay, residual_map, smooth
from anounet.app.texts import label, t
from anounet.bundle import Bundle, Result
from anounet.images import png_bytes, to_pixels

TOP = 2.0  # the colour scale ends at this many times the normal limit
SIGMA = 2.0  # default smoothing of the shown maps in pixels at 96 px
MAX_SIGMA = 4.0
OPACITY = 0.75

STYLE = """
<style>
[data-testid="stMainBlockContainer"] {padding-top: 4.2rem; padding-bottom: 4rem;}
button[data-variant][data-selected="true"], [role="tab"][aria-selected="true"] {color: inherit !important;}
.au-grid {display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0.9rem; max-width: 68rem;}
.au-grid.au-small {grid-template-columns: repeat(auto-fill, minmax(4.2rem, 1fr)); gap: 0.4rem;}
.au-grid.au-small figcaption {font-size: 0.78rem;}
.au-grid.au-small figcaption b {font-weight: 400;}
.au-grid.au-live {grid-template-columns: repeat(auto-fill, minmax(8rem, 10rem)); gap: 0.5rem;}
.au-grid.au-sheet {grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr));}
.au-grid figure {margin: 0; min-width: 0;}
.au-grid img {width: 100%; aspect-ratio: 1; object-fit: cover; display: block; border-radius: 0.5rem;
  border: 1px solid color-mix(in srgb, currentColor 16%, transparent); box-sizing: border-box;}
.au-grid figcaption {font-size: 0.86rem; line-height: 1.3; padding-top: 0.35rem; overflow-wrap: anywhere;}
.au-grid figcaption b {font-weight: 600;}
.au-grid figcaption span {opacity: 0.72; display: block; font-size: 0.8rem;}
.au-wait {aspect-ratio: 1; border-radius: 0.5rem; display: flex; align-items: center; justify-content: center;
  text-align: center; padding: 0.8rem; font-size: 0.85rem; box-sizing: border-box;
  border: 1px dashed color-mix(in srgb, currentColor 35%, transparent);}
.au-wait span {opacity: 0.75;}
.au-scale {display: flex; flex-direction: column; justify-content: center; aspect-ratio: 1; font-size: 0.8rem;
  box-sizing: border-box; padding: 0 0.4rem;}
.au-scale .au-bar {height: 0.9rem; border-radius: 0.45rem;
  border: 1px solid color-mix(in srgb, currentColor 16%, transparent);}
.au-scale .au-ticks {display: flex; justify-content: space-between; padding-top: 0.25rem;}
.au-scale p {margin: 0.5rem 0 0; opacity: 0.75; line-height: 1.35;}
@media (max-width: 640px) {
  .au-grid {grid-template-columns: repeat(2, minmax(0, 1fr));}
}
</style>
"""


@dataclass(frozen=True)
class View:
    """How maps are shown; the same for both methods and for every image."""

    sigma: float = SIGMA  # Gaussian smoothing in pixels at a side of 96, for the eye only
    grey: bool = False  # one range of grey levels for both methods, in place of each method's own unit
    colormap: str = "inferno"

    def limit(self, result: Result, bundle: Bundle) -> float:
        """The map level where the colours end."""
        if not self.grey:
            return TOP * result.scale
        return TOP * max(bundle.scale("fast"), bundle.scale(result.method), bundle.scale("anogan"))


def raw_map(result: Result) -> Tensor:
    """abs(x − y) averaged over the channels, (H, W) in [0, 1], not smoothed."""
    return residual_map(result.x[None], result.y[None])[0]


def shown_map(result: Result, view: View) -> Tensor:
    """The map with the smoothing that was asked for, the same for both methods."""
    return smooth(raw_map(result)[None], view.sigma * result.x.shape[-1] / 96)[0]


def strongest(result: Result, view: View) -> str:
    """The strongest change that is shown, in units of the normal limit, for people."""
    return f"{float(shown_map(result, view).max() / result.scale):.1f}"


def levels(result: Result, view: View, bundle: Bundle) -> np.ndarray:
    """The map as it is shown, (H, W) in [0, 1] of the colour scale."""
    return (shown_map(result, view) / view.limit(result, bundle)).clamp(0, 1).numpy()


def heat_pixels(result: Result, view: View, bundle: Bundle) -> np.ndarray:
    return colorize(levels(result, view, bundle), view.colormap)


def overlay_pixels(result: Result, view: View, bundle: Bundle) -> np.ndarray:
    return overlay(to_pixels(result.x), levels(result, view, bundle), OPACITY, view.colormap)


def icon(size: int = 64) -> bytes:
    """The app's icon: a hot spot, in the colours of the heat maps."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return png_bytes(colorize(0.12 + np.exp(-((x - 0.6) ** 2 + (y - 0.42) ** 2) / 0.045)))


# --- HTML --------------------------------------------------------------------------------------------


def figure(pixels: np.ndarray, title: str, note: str = "", alt: str = "") -> str:
    data = base64.b64encode(png_bytes(np.ascontiguousarray(pixels))).decode()
    below = f"<span>{html.escape(note)}</span>" if note else ""
    caption = f"<figcaption><b>{html.escape(title)}</b>{below}</figcaption>" if title else ""
    described = html.escape(alt or title, quote=True)
    return f'<figure><img alt="{described}" src="data:image/png;base64,{data}">{caption}</figure>'


def waiting(title: str, note: str) -> str:
    return (
        f'<figure><div class="au-wait"><span>{html.escape(note)}</span></div>'
        f"<figcaption><b>{html.escape(title)}</b></figcaption></figure>"
    )


def colour_bar(view: View, bundle: Bundle, methods: Sequence[str] = ()) -> str:
    """The scale, and where a method's normal limit is not quite the one for what is shown."""
    stops = colorize(np.linspace(0, 1, 11)[None], view.colormap)[0]
    gradient = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in stops.tolist())
    if view.grey:
        top = 255 * TOP * max(bundle.scale("fast"), bundle.scale("article"), bundle.scale("anogan"))
        ticks, words = ("0", f"{top / 2:.0f}", f"{top:.0f}+"), t("scale.grey")
    else:
        ticks, words = ("0", t("scale.one"), f"{TOP:g}+"), t("scale.normal")
        for method in methods:
            sigma = SearchSettings().smoothing if method == "anogan" else bundle.settings(method).smoothing
            if method not in bundle.scales:
                words += " " + t("scale.none", method=label(method))
            elif sigma != view.sigma:
                words += " " + t("scale.measured", method=label(method), sigma=f"{sigma:g}")
    marks = "".join(f"<span>{html.escape(tick)}</span>" for tick in ticks)
    return (
        f'<div class="au-scale" role="img" aria-label="{html.escape(words, quote=True)}">'
        f'<div class="au-bar" style="background: linear-gradient(90deg, {gradient})"></div>'
        f'<div class="au-ticks">{marks}</div><p>{html.escape(words)}</p></div>'
    )


def grid(cells: Sequence[str], kind: str = "") -> str:
    return f'<div class="au-grid {kind}">{"".join(cells)}</div>'


def ano_unet_cells(name: str, result: Result, view: View, bundle: Bundle) -> list[str]:
    """Original, normalised image, heat map, overlay."""
    cells = [figure(to_pixels(result.x), t("panel.original"), name, t("alt.original", name=name))]
    if result.y is None:
        return cells
    changed = strongest(result, view)
    return [
        *cells,
        figure(
            to_pixels(result.y), t("panel.normalised"), t("method.ano_unet"), t("alt.normalised", name=name)
        ),
        figure(
            heat_pixels(result, view, bundle),
            t("panel.heat"),
            t("panel.heat_note", level=changed),
            t("alt.heat", name=name, level=changed),
        ),
        figure(
            overlay_pixels(result, view, bundle),
            t("panel.overlay"),
            t("method.ano_unet"),
            t("alt.overlay", name=name),
        ),
    ]


def anogan_cells(name: str, result: Result, view: View, bundle: Bundle) -> list[str]:
    """G(z), heat map, overlay."""
    changed = strongest(result, view)
    return [
        figure(
            to_pixels(result.y),
            t("panel.generated"),
            t("panel.generated_note"),
            t("alt.generated", name=name),
        ),
        figure(
            heat_pixels(result, view, bundle),
            t("panel.heat_anogan"),
            t("panel.heat_note", level=changed),
            t("alt.heat_anogan", name=name, level=changed),
        ),
        figure(
            overlay_pixels(result, view, bundle),
            t("panel.overlay_anogan"),
            t("method.anogan"),
            t("alt.overlay_anogan", name=name),
        ),
    ]


# --- files -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What a page shows of one picture, to be written into files."""

    name: str
    result: Result
    rival: Result | None = None


def npy_bytes(result: Result) -> bytes:
    """The map as float32 (H, W) in [0, 1], neither smoothed nor scaled."""
    buffer = io.BytesIO()
    np.save(buffer, raw_map(result).numpy().astype(np.float32), allow_pickle=False)
    return buffer.getvalue()


def zip_bytes(everything: Sequence[Shown], view: View, bundle: Bundle) -> bytes:
    """Every picture's files in a folder of its own, and scores.csv."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.csv", scores_csv(everything))
        for number, shown in enumerate(everything, 1):
            if shown.result.y is None:
                continue
            folder = f"{number:03d}_{stem(shown.name)}"
            for label, result in (("ano-unet", shown.result), ("anogan", shown.rival)):
                if result is not None:
                    archive.writestr(f"{folder}/{label}_normalised.png", png_bytes(to_pixels(result.y)))
                    archive.writestr(
                        f"{folder}/{label}_overlay.png", png_bytes(overlay_pixels(result, view, bundle))
                    )
                    archive.writestr(f"{folder}/{label}_map.npy", npy_bytes(result))
    return buffer.getvalue()


def scores_csv(everything: Sequence[Shown]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image", "method", "score", "threshold", "verdict", "map_max", "map_scale", "seconds"])
    for shown in everything:
        result = shown.result
        top = "" if result.y is None else f"{float(raw_map(result).max()):.6f}"
        writer.writerow(
            [
                _cell(shown.name),
                result.method,
                f"{result.score:.6f}",
                f"{result.threshold:.6f}",
                result.verdict,
                top,
                f"{result.scale:.6f}",
                f"{result.seconds:.3f}",
            ]
        )
    return buffer.getvalue()


def _cell(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def stem(name: str) -> str:
    """A file name's stem, safe in any file system."""
    kept = [c if c.isalnum() or c in "-_" else "_" for c in name.rsplit("/", 1)[-1].rsplit(".", 1)[0]]
    return "".join(kept)[:60] or "image"
