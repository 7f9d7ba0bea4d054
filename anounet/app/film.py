"""The film of a result: offered on its card, made by a job, and played in the browser."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import streamlit as st

from anounet.anomaly_map import colorize
from anounet.app import components, downloads, frontend, models, panels
from anounet.app.jobs import DONE, Job, job_id
from anounet.app.texts import label, plain, t
from anounet.app.work import answers, filming
from anounet.app.work.answers import Picture
from anounet.app.work.filming import Reel, Request
from anounet.bundle import Bundle

ASKED = "film"  # in the link: the films that were asked for
MOST_ASKED = 12
PATIENCE = 1.5  # seconds to wait before a progress bar appears
_KIND = "film_"  # a job's kind, with its id: several films of a page may be on their way

_player = frontend.component("film")


def offer(picture: Picture, request: answers.Request, bundle: Bundle, view: panels.View, number: int) -> None:
    """A result's film: a button that makes it, its progress, then the player.

    The link names who asked for it, so that a refresh finds it again.

    Args:
        request: the one whose result is shown; the film's settings follow from it.
        view: the colours and the opacity of the map; nothing is computed anew for them.
        number: the card's.
    """
    _leave_behind(request, bundle)
    wanted = filming.wanted(bundle, request.version, picture, request.settings)
    if wanted is None:
        return
    name = job_id(wanted.key)
    asked = name in st.query_params.get_all(ASKED)
    job, reel = models.jobs().get(name), models.films().get(wanted.key)
    long = wanted.settings.mode == "article"
    if reel is None and (job is None or not job.active):
        if not asked or long or (job is not None and job.state != DONE):
            if asked:
                components.job_end(job)
            seconds = components.duration(filming.estimated_seconds(wanted.settings))
            if not _button(t("film.start", time=seconds), number):
                return
        _ask(name)
        job = _submit(wanted, bundle)
        if not long:
            job.wait(PATIENCE)
        st.rerun()  # without the button
    if not asked:
        if not _button(t("film.title"), number):
            return
        _ask(name)
        st.rerun()
    with st.expander(t("film.title"), expanded=True, icon=":material/movie:"):
        if reel is not None:
            _show(reel, wanted, request, view, number)
        else:
            components.remember(job, link=False)
            components.job_box(job, curves=False)


def _button(title: str, number: int) -> bool:
    return st.button(title, key=f"film_{number}", icon=":material/movie:")


def _ask(name: str) -> None:
    names = dict.fromkeys([*st.query_params.get_all(ASKED), name])
    st.query_params[ASKED] = list(names)[-MOST_ASKED:]


def _submit(wanted: Request, bundle: Bundle) -> Job:
    films = models.films()
    job = models.jobs().submit(
        wanted.key,
        _KIND + job_id(wanted.key),
        t("film.job", name=plain(wanted.picture.name)),
        lambda j: filming.make(
            j, wanted, bundle, films, lambda: models.feature_cloud(wanted.bundle, wanted.version)
        ),
        owner=components.owner(),
        bundles=(wanted.bundle,),
        personal=True,
    )
    components.remember(job, link=False)
    return job


def _leave_behind(request: answers.Request, bundle: Bundle) -> None:
    """Stops this session's films of what is no longer asked for."""
    shown = {
        job_id(wanted.key)
        for picture in request.pictures
        if (wanted := filming.wanted(bundle, request.version, picture, request.settings)) is not None
    }
    for key in [str(key) for key in st.session_state if str(key).startswith(f"_job_{_KIND}")]:
        if key.removeprefix(f"_job_{_KIND}") not in shown:
            components.let_go(key.removeprefix("_job_"))


def _show(reel: Reel, wanted: Request, request: answers.Request, view: panels.View, number: int) -> None:
    st.caption(" ".join(_told(reel, request)))
    _player(key=f"film_player_{number}", data=payload(reel, view, wanted.key))
    st.download_button(
        t("film.download"),
        reel.moving,
        f"{downloads.stem(wanted.picture.name)}_film.webp",
        "image/webp",
        key=f"get_film_{number}",
        on_click="ignore",
        icon=":material/download:",
    )


def _told(reel: Reel, request: answers.Request) -> list[str]:
    """Which optimisation it is, and what happens in it."""
    settings, last = reel.settings, reel.steps[-1]
    said = []
    if settings.mode != request.settings.mode:
        said.append(t("film.other", method=label(settings.method)))
    elif settings != request.settings:
        said.append(t("film.refining"))
    said.append(t("film.frames", n=len(reel.steps), last=last, beta=f"{settings.beta:g}"))
    if last < settings.steps:
        said.append(t("card.stopped", n=last, steps=settings.steps))
    if reel.ratios[0] <= 1:
        said.append(t("space.at_once"))
    elif reel.ratios[-1] <= 1:
        first = next(step for step, ratio in zip(reel.steps, reel.ratios, strict=True) if ratio <= 1)
        said.append(t("film.satisfied", n=first))
    else:
        said.append(t("space.never"))
    return said


# --- what the player gets ----------------------------------------------------------------------------


def payload(reel: Reel, view: panels.View, key: str) -> dict[str, Any]:
    """All that the player shows: pictures as data URIs, numbers and places ready to draw, texts.

    Args:
        key: another one is another film, which begins at its first frame.
    """
    return {
        "key": key,
        "images": _uri(reel.images),
        "side": reel.side,
        "maps": _uri(reel.maps),
        "mapSide": reel.map_side,
        "colours": colorize(np.linspace(0, 1, 256)[None], view.colormap).tobytes().hex(),
        "opacity": view.opacity,
        "frames": _frames(reel),
        "losses": [_rounded(line) for line in reel.chart.lines.values()],
        "ticks": {"steps": reel.chart.steps, "values": reel.chart.values},
        "way": _rounded(reel.way.at),
        "center": _rounded(reel.way.center),
        "normal": _rounded(reel.way.normal),
        "texts": _texts(reel),
    }


def _frames(reel: Reel) -> list[dict[str, str]]:
    """Each frame's numbers in words."""
    frames = []
    for number, at in enumerate(reel.steps):
        step, ratio = t("film.step", n=at, last=reel.steps[-1]), reel.ratios[number]
        residual, centering = (f"{line[number]:.4f}" for line in (reel.residuals, reel.centerings))
        score = t("film.ratio", n=f"{ratio:.2f}")
        verdict = label("normal") if ratio <= 1 else label("anomalous")
        said = t("film.said", step=step, residual=residual, centering=centering, score=score, verdict=verdict)
        frames.append(
            {
                "step": step,
                "residual": residual,
                "centering": centering,
                "score": score,
                "verdict": verdict,
                "said": said,
            }
        )
    return frames


def _texts(reel: Reel) -> dict[str, str]:
    if len(reel.way.normal):
        note, described = t("film.way_note"), t("film.alt_way")
    else:
        note, described = t("film.own_way_note"), t("film.alt_own_way")
    return {
        "image": t("film.image"),
        "heat": t("panel.heat"),
        "heatNote": label(f"map.{reel.map}"),
        "losses": t("film.losses"),
        "lossesNote": t("film.losses_note"),
        "way": t("film.way"),
        "wayNote": note,
        "residual": "L_R",
        "centering": "β · L_C",
        "score": t("film.score"),
        "play": t("film.play"),
        "pause": t("film.pause"),
        "scrub": t("film.scrub"),
        "altImage": t("film.alt_image"),
        "altHeat": t("film.alt_heat"),
        "altLosses": t("film.alt_losses"),
        "altWay": described,
    }


def _uri(file: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(file).decode()


def _rounded(points: np.ndarray) -> list[Any]:
    return np.round(points, 4).tolist()
