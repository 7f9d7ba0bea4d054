"""Pictures on one fixed scale: from Results to panels of PNG in a grid that wraps, and to files.

A map's colours are in units of what it reaches on normal images: 1 is the level that 99.5 % of the pixels of
held-back normal images stay under. No image is ever stretched to its own range. What lies above a threshold
is outlined and numbered.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from anounet.anomaly_map import (
    SCALE_TOP,
    Region,
    colorize,
    draw_contours,
    overlay,
    regions,
    residual_map,
    smooth,
)
from anounet.app.texts import label, t
from anounet.bundle import Bundle, map_key
from anounet.images import png_bytes, to_pixels
from anounet.visualization import NEAREST, Result

TOP = SCALE_TOP  # the colour scale ends at this many times the normal limit
SIGMAS = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0)  # smoothings on offer for abs(x − y), in pixels at 96 px
THRESHOLDS = ("limit", "scale", "off")  # 99.9 %, 99.5 % of normal pixels lie below; no threshold
OPACITY = 0.75
THUMB, THUMB_QUALITY = 128, 85  # side of small pictures
FILE_SIDE = 480  # pictures in files are enlarged to about this, so that lines and numbers are fine

STYLE = """
<style>
[data-testid="stMainBlockContainer"] {padding-top: 4.2rem; padding-bottom: 4rem;}
.js-plotly-plot svg .xtick text, .js-plotly-plot svg .ytick text, .js-plotly-plot svg .xtitle,
.js-plotly-plot svg .ytitle, .js-plotly-plot svg .annotation-text {fill: currentColor !important;}
[data-testid="stSliderThumbValue"], [data-testid="stSliderThumbValue"] * {color: inherit !important;}
button[data-variant][data-selected="true"], [role="tab"][aria-selected="true"] {color: inherit !important;}
.au-grid {display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0.9rem; max-width: 68rem;}
.au-grid.au-two {grid-template-columns: repeat(2, minmax(0, 1fr)); max-width: 26rem;}
.au-grid.au-small {grid-template-columns: repeat(auto-fill, minmax(4.2rem, 1fr)); gap: 0.4rem;}
.au-grid.au-small figcaption {font-size: 0.78rem;}
.au-grid.au-small figcaption b {font-weight: 400;}
.au-grid.au-classes {grid-template-columns: repeat(auto-fill, minmax(6.4rem, 1fr)); gap: 0.5rem;}
.au-grid.au-live {grid-template-columns: repeat(auto-fill, minmax(8rem, 10rem)); gap: 0.5rem;}
.au-grid.au-rows {grid-template-columns: repeat(3, minmax(0, 9rem)); gap: 0.5rem;}
.au-grid.au-sheet {grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr));}
.au-grid figure {margin: 0; min-width: 0;}
.au-grid img {width: 100%; aspect-ratio: 1; object-fit: cover; display: block; border-radius: 0.5rem;
  border: 1px solid color-mix(in srgb, currentColor 16%, transparent); box-sizing: border-box;}
.au-pic {position: relative;}
.au-pic i {position: absolute; transform: translate(-50%, -50%); font: 600 0.72rem/1.15rem sans-serif;
  min-width: 1.15rem; text-align: center; border-radius: 0.6rem; color: #10191d; background: #fff;
  box-shadow: 0 0 0 1px #10191d; padding: 0 0.15rem; box-sizing: border-box;}
.au-grid figcaption {font-size: 0.86rem; line-height: 1.3; padding-top: 0.35rem; overflow-wrap: anywhere;}
.au-grid figcaption b {font-weight: 600;}
.au-grid figcaption span {opacity: 0.72; display: block; font-size: 0.8rem;}
.au-wait {aspect-ratio: 1; border-radius: 0.5rem; display: flex; align-items: center; justify-content: center;
  text-align: center; padding: 0.8rem; font-size: 0.85rem; box-sizing: border-box;
  border: 1px dashed color-mix(in srgb, currentColor 35%, transparent);}
.au-wait span {opacity: 0.75;}
.au-note {font-size: 0.86rem; line-height: 1.4; display: flex; flex-direction: column; aspect-ratio: 1;
  justify-content: center;}
.au-note b {font-size: 1rem;}
.au-note p {margin: 0.35rem 0 0; opacity: 0.8; font-size: inherit;}
.au-scale {display: flex; flex-direction: column; justify-content: center; aspect-ratio: 1; font-size: 0.8rem;
  box-sizing: border-box; padding: 0 0.4rem;}
.au-scale .au-bar {height: 0.9rem; border-radius: 0.45rem;
  border: 1px solid color-mix(in srgb, currentColor 16%, transparent);}
.au-scale .au-ticks {display: flex; justify-content: space-between; padding-top: 0.25rem;}
.au-flat .au-scale {aspect-ratio: auto; padding: 0.6rem 0 0; max-width: 34rem;}
.au-scale p {margin: 0.5rem 0 0; opacity: 0.75; line-height: 1.35; font-size: inherit;}
.au-table {overflow-x: auto;}
.au-table table {border-collapse: separate; border-spacing: 0.25rem; width: 100%; max-width: 72rem;
  table-layout: fixed; font-size: 0.82rem;}
.au-table th {font-weight: 600; padding: 0.1rem; text-align: center;}
.au-table th:first-child {width: 3.2rem; text-align: right; padding-right: 0.3rem;}
.au-table td {padding: 0.15rem; border: 2px solid transparent; border-radius: 0.5rem; text-align: center;
  vertical-align: top;}
.au-table td.au-chosen {border-color: #7c6fd0;}
.au-table td div {display: flex; gap: 2px;}
.au-table img {width: 50%; min-width: 0; aspect-ratio: 1; display: block; border-radius: 0.25rem;
  box-sizing: border-box; border: 1px solid color-mix(in srgb, currentColor 16%, transparent);}
.au-table td span {opacity: 0.8; white-space: nowrap;}
@media (max-width: 640px) {
  .au-table table {border-spacing: 0.1rem; font-size: 0.72rem;}
  .au-table th:first-child {width: 2rem; padding-right: 0.1rem;}
  .au-table td {padding: 0;}
  .au-table td div {display: block;}
  .au-table img {width: 100%; margin-bottom: 1px;}
  .au-grid {grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.7rem 0.6rem;}
  .au-grid.au-small {grid-template-columns: repeat(5, minmax(0, 1fr));}
  .au-grid.au-rows, .au-grid.au-classes {grid-template-columns: repeat(3, minmax(0, 1fr));}
  [data-testid="stColumn"]:has(> div > div > [class*="late_settings"]),
  [data-testid="stColumn"] > div:has(> div > [class*="late_settings"]) {display: contents;}
  div:has(> [class*="late_settings"]) {order: 9;}
  [data-testid="stHorizontalBlock"]:has([class*="late_settings"]) {gap: 1rem;}
}
</style>
"""


@dataclass(frozen=True)
class View:
    """How maps are shown; the same for both methods and for every image."""

    map: str = "combined"  # of `anomaly_map.MAPS`; a method that lacks it shows its own
    threshold: str = "limit"  # of THRESHOLDS: what is outlined
    sigma: float | None = None  # smoothing of abs(x − y) in pixels at a side of 96; None: as it was measured
    grey: float = 0.0  # > 0: one range 0 … grey of abs(x − y) for both methods, in place of their own units
    colormap: str = "inferno"
    opacity: float = OPACITY  # of the heat over the grey image

    def name(self, result: Result) -> str:
        """The map that is shown: a rival has one alone."""
        return self.map if self.map in result.maps else next(iter(result.maps))

    def top(self, result: Result) -> float:
        """The map level where the colours end."""
        name = self.name(result)
        return self.grey if self.grey and name == "residual" else TOP * result.scales[name]

    def level(self, result: Result) -> float | None:
        """The map level above which regions are outlined."""
        if self.threshold == "off":
            return None
        return (result.scales if self.threshold == "scale" else result.limits)[self.name(result)]


def raw_map(result: Result) -> Tensor:
    """abs(x − y) averaged over the channels, (H, W) in [0, 1], not smoothed."""
    return residual_map(result.x[None], result.y[None])[0]


def shown_map(result: Result, view: View) -> Tensor:
    """The map that was asked for, (H, W), in its own unit."""
    name = view.name(result)
    if name == "residual" and view.sigma is not None:
        return smooth(raw_map(result)[None], view.sigma * result.x.shape[-1] / 96)[0]
    return result.maps[name]


def shown_regions(result: Result, view: View) -> list[Region]:
    """What is outlined, the strongest first; their numbers are their places in this list, from 1."""
    level = view.level(result)
    return [] if level is None or result.anomaly_map is None else regions(shown_map(result, view), level)


def strongest(result: Result, view: View) -> str:
    """The strongest level that is shown, in units of the normal limit, for people."""
    return f"{float(shown_map(result, view).max() / result.scales[view.name(result)]):.1f}"


def levels(result: Result, view: View) -> np.ndarray:
    """The map as it is shown, (H, W) in [0, 1] of the colour scale."""
    return (shown_map(result, view) / view.top(result)).clamp(0, 1).numpy()


def heat_pixels(result: Result, view: View) -> np.ndarray:
    return _outlined(colorize(levels(result, view), view.colormap), result, view)


def overlay_pixels(result: Result, view: View) -> np.ndarray:
    plain = overlay(to_pixels(result.x), levels(result, view), view.opacity, view.colormap)
    return _outlined(plain, result, view)


def _outlined(pixels: np.ndarray, result: Result, view: View) -> np.ndarray:
    level = view.level(result)
    return pixels if level is None else draw_contours(pixels, shown_map(result, view).numpy(), level)


def marked_overlay(result: Result, view: View) -> np.ndarray:
    """The overlay for a file: enlarged, with fine outlines and their numbers; uint8 (S, S, 3)."""
    side = result.x.shape[-1]
    factor = max(1, round(FILE_SIDE / side))
    plain = overlay(to_pixels(result.x), levels(result, view), view.opacity, view.colormap)
    large = np.asarray(Image.fromarray(plain).resize((side * factor,) * 2, Image.Resampling.BICUBIC))
    level = view.level(result)
    if level is None:
        return large
    fine = Image.fromarray(shown_map(result, view).numpy().astype(np.float32))
    fine = np.asarray(fine.resize((side * factor,) * 2, Image.Resampling.BILINEAR))
    picture = Image.fromarray(draw_contours(large, fine, level))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for number, region in enumerate(shown_regions(result, view), 1):
        left, top = _beside(region, side)
        at = (left * picture.width, top * picture.height)
        draw.text(at, str(number), "white", font, "mm", stroke_width=3, stroke_fill="black")
    return np.asarray(picture)


def _beside(region: Region, side: int) -> tuple[float, float]:
    """Where a region's number stands: at its box's upper right corner, as shares of the side."""
    left, top = (region.left + region.width + 2) / side, (region.top - 1) / side
    return min(max(left, 0.05), 0.95), min(max(top, 0.05), 0.95)


def distance_pixels(pixels: np.ndarray, distances: np.ndarray, tau: float) -> np.ndarray:
    """Patches' distances d over their image, τ at the middle of the colours: uint8 (H, W, 3)."""
    side = len(pixels)
    grid = Image.fromarray(distances.astype(np.float32)).resize((side, side), Image.Resampling.NEAREST)
    return overlay(pixels, np.clip(np.asarray(grid) / (2 * tau), 0, 1), OPACITY)


def icon(size: int = 64) -> bytes:
    """The app's icon: a hot spot, in the colours of the heat maps."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return png_bytes(colorize(0.12 + np.exp(-((x - 0.6) ** 2 + (y - 0.42) ** 2) / 0.045)))


def thumbnail(pixels: np.ndarray) -> str:
    """A picture as a small data URI: uint8 (H, W, 3)."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if image.width > THUMB:
        image = image.resize((THUMB, THUMB), Image.Resampling.LANCZOS)
    image.save(buffer, "WEBP", quality=THUMB_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


# --- HTML --------------------------------------------------------------------------------------------


def figure(
    pixels: np.ndarray, title: str, note: str = "", alt: str = "", marks: Sequence[tuple[float, float]] = ()
) -> str:
    """A picture with its caption; `marks` are the places of numbers on it, as shares of its side."""
    data = base64.b64encode(png_bytes(np.ascontiguousarray(pixels))).decode()
    below = f"<span>{html.escape(note)}</span>" if note else ""
    caption = f"<figcaption><b>{html.escape(title)}</b>{below}</figcaption>" if title else ""
    described = html.escape(alt or title, quote=True)
    picture = f'<img alt="{described}" src="data:image/png;base64,{data}">'
    if marks:
        numbers = "".join(
            f'<i style="left:{100 * x:.1f}%;top:{100 * y:.1f}%" aria-hidden="true">{number}</i>'
            for number, (x, y) in enumerate(marks, 1)
        )
        picture = f'<div class="au-pic">{picture}{numbers}</div>'
    return f"<figure>{picture}{caption}</figure>"


def waiting(title: str, note: str) -> str:
    return (
        f'<figure><div class="au-wait"><span>{html.escape(note)}</span></div>'
        f"<figcaption><b>{html.escape(title)}</b></figcaption></figure>"
    )


def colour_bar(view: View, bundle: Bundle, results: Sequence[Result]) -> str:
    """The scale, and where a method's normal limit is not quite the one for what is shown."""
    if view.grey and all(view.name(result) == "residual" for result in results):
        top = 255 * view.grey
        ticks, words = ("0", f"{top / 2:.0f}", f"{top:.0f}+"), t("scale.grey")
    else:
        ticks, words = ("0", t("scale.one"), f"{TOP:g}+"), t("scale.normal")
        for result in results:
            name = view.name(result)
            if not measured(result, name, bundle):
                words += " " + t("scale.none", method=label(result.method))
            elif name == "residual" and view.sigma not in (None, result.smoothing):
                words += " " + t("scale.measured", method=label(result.method), sigma=f"{result.smoothing:g}")
    if view.threshold != "off":
        words += " " + (t("scale.line_limit") if view.threshold == "limit" else t("scale.line_scale"))
    return scale_bar(view, ticks, words)


def scale_bar(view: View, ticks: Sequence[str], words: str) -> str:
    """The colours from 0 to their end, with ticks and what they mean."""
    stops = colorize(np.linspace(0, 1, 11)[None], view.colormap)[0]
    gradient = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in stops.tolist())
    marks = "".join(f"<span>{html.escape(tick)}</span>" for tick in ticks)
    return (
        f'<div class="au-scale" role="img" aria-label="{html.escape(words, quote=True)}">'
        f'<div class="au-bar" style="background: linear-gradient(90deg, {gradient})"></div>'
        f'<div class="au-ticks">{marks}</div><p>{html.escape(words)}</p></div>'
    )


def measured(result: Result, name: str, bundle: Bundle) -> bool:
    """Whether a map's scale was measured on normal images, not a stand-in."""
    return result.method == NEAREST or map_key(result.method, name) in bundle.scales


def grid(cells: Sequence[str], kind: str = "") -> str:
    return f'<div class="au-grid {kind}">{"".join(cells)}</div>'


def ano_unet_cells(name: str, result: Result, view: View) -> list[str]:
    """Original, normalised image, heat map, overlay."""
    cells = [figure(to_pixels(result.x), t("panel.original"), name, t("alt.original", name=name))]
    if result.y is None:
        return cells
    changed, marks = strongest(result, view), region_marks(result, view)
    return [
        *cells,
        figure(
            to_pixels(result.y), t("panel.normalised"), t("method.ano_unet"), t("alt.normalised", name=name)
        ),
        figure(
            heat_pixels(result, view),
            t("panel.heat"),
            t("panel.heat_note", level=changed),
            t("alt.heat", name=name, level=changed),
            marks,
        ),
        figure(
            overlay_pixels(result, view),
            t("panel.overlay"),
            label(f"map.{view.name(result)}"),
            t("alt.overlay", name=name),
            marks,
        ),
    ]


def rival_note(name: str, rival: Result | None) -> str:
    """The first cell of a rival's row: who it is, and its time."""
    seconds = "" if rival is None else t("panel.seconds", n=f"{rival.seconds:.2f}")
    title, *lines = map(html.escape, (label(name), label(f"about.{name}"), seconds))
    return f'<div class="au-note"><b>{title}</b>{"".join(f"<p>{line}</p>" for line in lines)}</div>'


def rival_waiting(name: str) -> list[str]:
    """In place of a rival's pictures while it works."""
    rival = label(name)
    titles = (
        t("panel.generated", rival=rival),
        t("panel.heat_rival", rival=rival),
        t("panel.overlay_rival", rival=rival),
    )
    return [waiting(title, t("rival.working", rival=rival)) for title in titles]


def region_marks(result: Result, view: View) -> list[tuple[float, float]]:
    return [_beside(region, result.x.shape[-1]) for region in shown_regions(result, view)]


def rival_cells(name: str, result: Result, view: View) -> list[str]:
    """A rival's normal image (where it makes one), heat map, overlay."""
    changed, rival = strongest(result, view), label(result.method)
    return [
        figure(
            to_pixels(result.y),
            t("panel.generated", rival=rival),
            label(f"made.{result.method}"),
            t("alt.generated", rival=rival, name=name),
        )
        if result.y is not None
        else waiting(t("panel.generated", rival=rival), label(f"made.{result.method}")),
        figure(
            heat_pixels(result, view),
            t("panel.heat_rival", rival=rival),
            t("panel.heat_note", level=changed),
            t("alt.heat_rival", rival=rival, name=name, level=changed),
        ),
        figure(
            overlay_pixels(result, view),
            t("panel.overlay_rival", rival=rival),
            label(f"map.{view.name(result)}"),
            t("alt.overlay_rival", rival=rival, name=name),
        ),
    ]
