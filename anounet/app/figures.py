"""Charts: losses while something is optimised, and how scores are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from anounet.app.texts import label, t

if TYPE_CHECKING:
    from anounet.app.models import Cloud, Moved
    from anounet.explore import Cloud as FeatureCloud
    from anounet.explore import Trail

NORMAL, ABNORMAL, THRESHOLD = "#0f9488", "#d9622b", "#8a94a0"
LINES = ("#0f9488", "#d9622b", "#7c6fd0", "#8a94a0")
CONFIG = {"displayModeBar": False, "responsive": True}


def _styled(figure: go.Figure, height: int, x: str, y: str) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis_title=x,
        yaxis_title=y,
        hovermode="x unified",
        showlegend=True,
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def _threshold_line(figure: go.Figure, x: float, text: str = "") -> None:
    note = {"annotation_text": text, "annotation_position": "top"} if text else {}
    figure.add_vline(x, line={"color": THRESHOLD, "width": 2, "dash": "dash"}, **note)


def curves(
    values: Mapping[str, Sequence[float]], steps: int, x: str, height: int = 220, log: bool = False
) -> go.Figure:
    """Lines over the steps, thinned values spread evenly from 0 to `steps`."""
    figure = go.Figure()
    for colour, (name, line) in zip(LINES, values.items(), strict=False):
        at = np.linspace(0, max(steps, 1), len(line)) if len(line) > 1 else [0]
        figure.add_scatter(
            x=np.round(at, 1),
            y=np.round(line, 6),
            name=name,
            mode="lines",
            line={"color": colour, "width": 2},
        )
    _styled(figure, height, x, "")
    if log:
        figure.update_yaxes(type="log")
    return figure


def losses(values: Mapping[str, Sequence[float]], beta: float) -> go.Figure:
    """L_R, β·L_C and L of one image, on one axis: they add up."""
    shown: dict[str, Sequence[float]] = {}
    for name, line in values.items():
        if name == "L_C":
            shown["β · L_C"] = [beta * v for v in line]
        else:
            shown[name] = line
    steps = max((len(line) for line in values.values()), default=1) - 1
    return curves(shown, steps, t("chart.step"))


def score_histogram(
    normal: Sequence[float], abnormal: Sequence[float], threshold: float, normal_label: str
) -> go.Figure:
    """Scores of normal images, and of abnormal ones where there are any, with the threshold drawn in."""
    everything = np.asarray([*normal, *abnormal, threshold], float)
    low, high = float(everything.min()), float(everything.max())
    size = max((high - low) / 40, 1e-6)
    bins = {"start": low - size, "end": high + size, "size": size}
    figure = go.Figure()
    figure.add_histogram(
        x=np.round(normal, 6), xbins=bins, name=normal_label, marker_color=NORMAL, opacity=0.8
    )
    if len(abnormal):
        figure.add_histogram(
            x=np.round(abnormal, 6), xbins=bins, name=t("chart.abnormal"), marker_color=ABNORMAL, opacity=0.7
        )
    figure.update_layout(barmode="overlay", bargap=0.05)
    _styled(figure, 320, t("chart.score"), t("chart.images"))
    figure.update_layout(margin_t=56, legend_y=1.1)
    figure.update_xaxes(range=[low - size, high + size])
    _threshold_line(figure, threshold, t("chart.threshold", value=f"{threshold:.4f}"))
    return figure


def score_groups(
    groups: Mapping[str, Sequence[float]], threshold: float, also: Sequence[float] = ()
) -> go.Figure:
    """A row of points a group: good images first, then each defect or class left out.

    Args:
        also: further scores that the axis has to hold, so that it is the histogram's.
    """
    figure = go.Figure()
    for number, (name, scores) in enumerate(groups.items()):
        spread = np.linspace(-0.28, 0.28, len(scores))[np.random.default_rng(0).permutation(len(scores))]
        figure.add_scatter(
            x=np.round(scores, 6),
            y=np.round(number + spread, 3),
            mode="markers",
            name=label(name),
            marker={"color": NORMAL if number == 0 else ABNORMAL, "size": 6, "opacity": 0.65},
            hovertemplate="%{x:.4f}<extra></extra>",
        )
    _styled(figure, 110 + 30 * len(groups), t("chart.score"), "")
    everything = [*(score for scores in groups.values() for score in scores), *also, threshold]
    low, high = min(everything), max(everything)
    figure.update_xaxes(range=[low - (high - low) / 40, high + (high - low) / 40])
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_yaxes(
        tickvals=list(range(len(groups))), ticktext=[label(name) for name in groups], autorange="reversed"
    )
    _threshold_line(figure, threshold)
    return figure


def patch_histogram(percentiles: Sequence[float], tau: float) -> go.Figure:
    """How held-back normal patches' distances are spread, from their 101 percentiles, with τ drawn in."""
    values = np.interp(np.linspace(0, 100, 4001), np.arange(len(percentiles)), percentiles)
    shares, edges = np.histogram(values, bins=60)
    middles, share = (edges[:-1] + edges[1:]) / 2, 100 * shares / len(values)
    colours = np.where(middles > tau, ABNORMAL, NORMAL)
    figure = go.Figure()
    figure.add_bar(
        x=np.round(middles, 4),
        y=np.round(share, 3),
        marker_color=colours.tolist(),
        name=t("chart.normal_patches"),
        hovertemplate="%{y:.1f} %<extra></extra>",
    )
    _styled(figure, 280, t("chart.distance"), t("chart.share"))
    figure.update_layout(showlegend=False, bargap=0.05, margin_t=36)
    _threshold_line(figure, tau, t("chart.tau", value=f"{tau:.3f}"))
    return figure


def projection(cloud: Cloud, moved: Moved | None, tau: float) -> go.Figure:
    """Patches in the plane of two main directions: normal ones, centres, and a test image's around G."""
    figure = go.Figure()

    def points(at: np.ndarray, name: str, colour: str, **marker: object) -> None:
        figure.add_scatter(
            x=np.round(at[:, 0], 3),
            y=np.round(at[:, 1], 3),
            mode="markers",
            name=name,
            marker={"color": colour, **marker},
            hoverinfo="skip",
        )

    points(cloud.normal, t("chart.normal_patches"), THRESHOLD, size=4, opacity=0.45)
    points(cloud.centers, t("chart.centres"), LINES[2], size=6, symbol="diamond", opacity=0.75)
    if moved is not None:
        far = moved.distances > tau
        if moved.drawn:
            lines = np.full((3 * int(far.sum()), 2), np.nan)
            lines[0::3], lines[1::3] = moved.before[far], moved.after[far]
            figure.add_scatter(
                x=np.round(lines[:, 0], 3),
                y=np.round(lines[:, 1], 3),
                mode="lines",
                name=t("chart.moves"),
                line={"color": ABNORMAL, "width": 1},
                opacity=0.35,
                hoverinfo="skip",
            )
        points(moved.before[far], t("chart.before"), ABNORMAL, size=7)
        if moved.drawn:
            points(moved.after[far], t("chart.after"), NORMAL, size=7)
    x, y = (f"{share:.0%}" for share in cloud.explained)
    _styled(figure, 460, t("chart.direction", n=1, share=x), t("chart.direction", n=2, share=y))
    figure.update_layout(hovermode=False, margin_t=64)
    figure.update_yaxes(scaleanchor="x", scaleratio=1)
    return figure


# --- explore -----------------------------------------------------------------------------------------

TRAILS = ("#c0392b", "#12807a")  # of the chosen image and of the normal one; they show on both backgrounds
DIVERGING = ((0.0, NORMAL), (0.5, "#f4f1ea"), (1.0, ABNORMAL))  # normal, the limit, anomalous
RISING = ((0.0, "#f4f1ea"), (1.0, LINES[2]))


def feature_space(cloud: FeatureCloud, trails: Mapping[str, Trail], near: bool = False) -> go.Figure:
    """F's feature space in a plane, and the ways of images towards C.

    Args:
        trails: name → path; the chosen image's first, then the normal one's.
        near: only the region of the paths and of C.
    """
    figure = go.Figure()
    groups = (
        (cloud.reference, t("chart.references"), THRESHOLD, 5),
        (cloud.anomalous, t("chart.anomalies"), ABNORMAL, 6),
        (cloud.normal, t("chart.normals"), NORMAL, 6),
    )
    for points, name, colour, size in groups:
        if len(points.at):
            figure.add_scatter(
                x=np.round(points.at[:, 0], 4),
                y=np.round(points.at[:, 1], 4),
                mode="markers",
                name=name,
                marker={"color": colour, "size": size, "opacity": 0.5},
                text=[f"{label(n)}, {s:.4f}" for n, s in zip(points.names, points.scores, strict=True)],
                hovertemplate="%{text}<extra></extra>",
            )
    figure.add_scatter(
        x=[round(float(cloud.center[0]), 4)],
        y=[round(float(cloud.center[1]), 4)],
        mode="markers",
        name="C",
        marker={"color": LINES[2], "size": 14, "symbol": "x", "line": {"color": "#ffffff", "width": 1}},
        hovertemplate="C<extra></extra>",
    )
    ways = {name: cloud.plane.place(trail.features) for name, trail in trails.items()}
    for colour, (name, way) in zip(TRAILS, ways.items(), strict=False):
        sizes = [12, *[9] * (len(way) - 1)]
        figure.add_scatter(
            x=np.round(way[:, 0], 4),
            y=np.round(way[:, 1], 4),
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": sizes, "symbol": ["circle", *["arrow"] * (len(way) - 1)]}
            | {"angleref": "previous"},
            text=[f"{t('chart.step')} {k}, {s:.4f}" for k, s in enumerate(trails[name].scores)],
            hovertemplate="%{text}<extra></extra>",
        )
    x, y = (f"{share:.0%}" for share in cloud.plane.explained)
    _styled(figure, 430, t("chart.component", n=1, share=x), t("chart.component", n=2, share=y))
    figure.update_layout(hovermode="closest", margin_t=16, showlegend=not near)
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0})
    if near:
        shown = np.concatenate([cloud.center[None], *ways.values()])
        low, high = shown.min(axis=0), shown.max(axis=0)
        room = 0.12 * max(float((high - low).max()), 1e-3)
        figure.update_xaxes(range=[low[0] - room, high[0] + room])
        figure.update_yaxes(range=[low[1] - room, high[1] + room])
    figure.update_yaxes(scaleanchor="x", scaleratio=1)
    return figure


def trail_scores(trails: Mapping[str, Trail], threshold: float, y: str) -> go.Figure:
    """F's score along each path, with the threshold; `y` says what the score is."""
    figure = go.Figure()
    for colour, (name, trail) in zip(TRAILS, trails.items(), strict=False):
        figure.add_scatter(
            x=list(range(len(trail.scores))),
            y=np.round(trail.scores, 6),
            mode="lines",
            name=name,
            line={"color": colour, "width": 2},
        )
    _styled(figure, 300, t("chart.step"), y)
    figure.add_hline(
        threshold,
        line={"color": THRESHOLD, "width": 2, "dash": "dash"},
        annotation_text=t("chart.threshold", value=f"{threshold:.4f}"),
        annotation_position="top right",
    )
    figure.update_yaxes(rangemode="tozero")
    return figure


def beta_steps(
    values: np.ndarray,
    betas: Sequence[float],
    steps: Sequence[int],
    chosen: tuple[float, int],
    *,
    middle: float | None = None,
    top: float | None = None,
    upside_down: bool = False,
    digits: int = 1,
) -> go.Figure:
    """One number of every cell of a grid, as colours and as figures.

    Args:
        values: (betas, steps), NaN where there is none yet.
        chosen: the cell that is outlined.
        middle: what the middle of the colours stands for: on this side it is normal, on that it is not.
        top: where the colours end; the largest value by default, or the farthest from the middle.
        upside_down: the more the more normal.
    """
    known = values[np.isfinite(values)]
    reach = float(np.abs(known - (middle or 0.0)).max()) if len(known) else 1.0
    reach = max(reach if top is None else top - (middle or 0.0), 1e-9)
    scale = RISING if middle is None else DIVERGING
    if upside_down:
        scale = tuple((1 - at, colour) for at, colour in reversed(scale))
    words = [["" if v != v else f"{v:.{digits}f}" for v in row] for row in values.tolist()]
    figure = go.Figure(
        go.Heatmap(
            z=[[None if v != v else round(v, 5) for v in row] for row in values.tolist()],
            x=[str(count) for count in steps],
            y=[f"{beta:g}" for beta in betas],
            text=words,
            texttemplate="%{text}",
            colorscale=[list(stop) for stop in scale],
            zmin=0 if middle is None else middle - reach,
            zmax=reach if middle is None else middle + reach,
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate="β %{y}, %{x}: %{text}<extra></extra>",
        )
    )
    column, row = list(steps).index(chosen[1]), list(betas).index(chosen[0])
    figure.add_shape(
        type="rect",
        x0=column - 0.5,
        x1=column + 0.5,
        y0=row - 0.5,
        y1=row + 0.5,
        line={"color": LINES[2], "width": 4},
    )
    _styled(figure, 110 + 30 * len(betas), t("chart.steps"), "β")
    figure.update_layout(hovermode="closest", showlegend=False, margin_t=8)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return figure
