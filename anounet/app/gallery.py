"""The gallery: test images of every bundle whose data is here, each a click from its full result."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from anounet.app import frontend, models, panels, routing
from anounet.app.components import set_label
from anounet.app.texts import label, t
from anounet.bundle import bundle_names, read_info
from anounet.datasets import DataError
from anounet.prepare import choice_of
from anounet.storage import WeightsError

GOOD, BAD = 1, 5  # images of a bundle

_gallery = frontend.component("gallery")


@dataclass(frozen=True)
class Entry:
    """A test image of a bundle: `sample` is its name in the link of the page Visualise."""

    bundle: str
    sample: str
    about: str
    source: str  # a data URI


@st.cache_data(max_entries=8, ttl=1800, show_spinner=False)
def entries(name: str, version: str) -> list[Entry]:
    """A bundle's images; none where its data is not on this machine."""
    try:
        info = read_info(name)
        samples = models.samples(choice_of(info), 0, GOOD, BAD)
    except (DataError, WeightsError):
        return []
    found, taken = [], set()
    for sample in samples:
        base = sample.group or "good"
        if base not in taken:  # the first of a kind goes by its kind's name, see `inputs.sample_pictures`
            taken.add(base)
            found.append(Entry(name, base, str(info.get("normal", "")), panels.thumbnail(sample.pixels)))
    return found


def show() -> None:
    """Draws it; a click opens the page Visualise with that image."""
    everything = [entry for name in bundle_names() for entry in entries(name, models.version_of(name))]
    found = list({entry.source: entry for entry in reversed(everything)}.values())[::-1]  # each picture once
    if not found:
        return
    st.subheader(t("gallery.title"), anchor=False)
    st.markdown(t("gallery.what"))
    items = [
        {"title": label(entry.sample), "note": set_label(entry.about), "source": entry.source}
        for entry in found
    ]
    chosen = _gallery(key="gallery", data={"items": items}, on_chosen_change=lambda: None).chosen
    if isinstance(chosen, int) and 0 <= chosen < len(found):
        entry = found[chosen]
        routing.go("visualise", bundle=entry.bundle, samples=entry.sample)
