"""A result in plain sentences: what was found and where, how sure that is, and what is overlooked."""

from __future__ import annotations

from anounet.anomaly_map import Region
from anounet.app import panels
from anounet.app.texts import label, t
from anounet.bundle import Bundle
from anounet.prepare import Reach
from anounet.visualization import Result

BARELY, CLEARLY = 1.15, 1.6  # × the threshold: from here on a verdict is less, or more, than a close one
_COLUMNS, _ROWS = ("left", "middle", "right"), ("top", "middle", "bottom")


def found(result: Result, view: panels.View) -> str:
    """What stands out, on the shown map and where, or to F as a whole."""
    said = _on_the_map(result, view)
    by_f = result.overall is not None and result.overall * result.threshold >= result.score
    return f"{said} {t('found.by_f', ratio=f'{result.overall:.2f}')}" if by_f and result.anomalous else said


def _on_the_map(result: Result, view: panels.View) -> str:
    level = view.level(result)
    places = panels.shown_regions(result, view) if level is not None else result.regions()
    if not places:
        return t("found.whole") if result.anomalous else t("found.nothing")
    first, n = places[0], len(places)
    where = label(f"where.{place_of(first, result.x.shape[-1])}")
    peak = f"{first.score * (level or result.limit) / _one(result, view, level):.1f}"
    if not result.anomalous:
        return t("found.faint", n=n, where=where, level=peak)
    if n == 1:
        return t("found.one", where=where, width=first.width, height=first.height, level=peak)
    return t("found.some", n=n, where=where, width=first.width, height=first.height, level=peak)


def _one(result: Result, view: panels.View, level: float | None) -> float:
    """The level that normal pixels stay under, of the map the regions are from."""
    return result.scale if level is None else result.scales[view.name(result)]


def place_of(region: Region, side: int) -> str:
    """The third of the image that a region's centre lies in, as "top-left" … "bottom-right"."""
    column, row = (min(2, int(3 * (at + 0.5) / side)) for at in (region.x, region.y))
    return f"{_ROWS[row]}-{_COLUMNS[column]}"


def certainty(result: Result, bundle: Bundle) -> str:
    """How far the score lies from the threshold, and how often normal images come over it."""
    ratio = result.score / max(result.threshold, 1e-9)
    distance = ratio if result.anomalous else 1 / max(ratio, 1e-9)
    if distance < BARELY:
        said = t("sure.close", ratio=f"{ratio:.2f}")
    elif distance > CLEARLY:
        said = t("sure.clear", ratio=f"{ratio:.2f}")
    else:
        said = t("sure.fair", ratio=f"{ratio:.2f}")
    reach = _reach(result, bundle)
    if reach is None:
        return said
    alarms = round(reach.false_alarms * reach.images)
    return f"{said} " + (
        t("sure.alarms", n=alarms, images=reach.images)
        if reach.tested
        else t("sure.held_back", n=alarms, images=reach.images)
    )


def overlooked(result: Result, bundle: Bundle) -> str:
    """What the bundle was measured to overlook."""
    reach = _reach(result, bundle)
    if reach is None:
        return t("blind.unknown", name=bundle.name)
    sizes = reach.sizes
    small = t("blind.spots", n=f"{reach.found[0]:.0%}", size=sizes[0])
    if reach.reliable is not None:
        small += " " + t("blind.reliable", size=reach.reliable)
    else:
        best = max(range(len(sizes)), key=reach.found.__getitem__)
        small += " " + t("blind.never", n=f"{reach.found[best]:.0%}", size=sizes[best])
    if reach.defects:
        kind, (caught, count) = min(reach.defects.items(), key=lambda item: item[1][0] / max(1, item[1][1]))
        small += " " + t("blind.defects", kind=label(kind), caught=caught, n=count)
    return small


def _reach(result: Result, bundle: Bundle) -> Reach | None:
    """What was measured in the mode of this result."""
    return Reach.of(bundle, result.method)
