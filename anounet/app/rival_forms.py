"""Forms that train what a rival needs, and show how the training went."""

from __future__ import annotations

from functools import partial

import streamlit as st

from anounet.app import components, models, panels
from anounet.app.forms import RIVAL, begin, choose_settings, start_button, training_curves
from anounet.app.inputs import choose_one
from anounet.app.texts import label, plain, t
from anounet.app.work import training
from anounet.bundle import Bundle
from anounet.decoder import check_side


def train(bundle: Bundle) -> None:
    """An offer to train the rivals that the bundle lacks, while everything else works."""
    job, missing = components.current_job(RIVAL), lacking(bundle)
    if job is None and not missing:
        return
    with st.expander(t("rival.train"), icon=":material/compare:", expanded=job is not None):
        if job is not None:
            components.job_box(job)
            components.job_end(job)
            if job.result is not None and not job.active:
                done = job.result
                what = label(f"part.{done.part}")
                st.success(t("rival.trained", part=what, name=done.name), icon=":material/check_circle:")
                training_curves(done.curves, done.steps, "rival_final")
        if missing and (job is None or not job.active):
            part = choose_one(t("rival.part"), "rival_part", missing, part_label, hidden=len(missing) == 1)
            _train_part(bundle, part)


def lacking(bundle: Bundle) -> list[str]:
    """The parts of rivals that the bundle has not and could have: an encoder is one for a GAN."""
    parts = [part for part in training.RIVALS if getattr(bundle, part) is None]
    return [part for part in parts if part != "encoder" or bundle.anogan is not None]


def part_label(part: str) -> str:
    return label(f"part.{part}")


def _train_part(bundle: Bundle, part: str) -> None:
    """What the part is, its training's settings, and the start; a disabled one says why."""
    about = {"anogan": t("anogan.none"), "encoder": t("encoder.none"), "decoder": t("decoder.none")}
    st.markdown(f"**{part_label(part)}** {about[part]}")
    before, kind = training.begun_rival(bundle.name, part), training.RIVALS[part].settings
    fault, settings = "", None
    try:
        if part == "decoder":
            check_side(bundle.size)
        now = before[1] if before else kind()
        settings = choose_settings(now, "rival", f"{part}_{bundle.name}")
        choice = models.choice(bundle)
    except ValueError as error:
        fault = plain(str(error))
        st.info(fault, icon=":material/info:")
    go_on = before is not None and before[1] == settings
    if go_on:
        st.info(t("training.goes_on", step=before[0], total=settings.steps), icon=":material/resume:")
    elif before is not None:
        st.info(t("training.other", step=before[0]), icon=":material/restart_alt:")
    title = t("training.continue", step=before[0]) if go_on else t("rival.go", part=part_label(part))
    if start_button(RIVAL, title, fault, key=f"train_{part}", icon=":material/model_training:"):
        work = partial(training.train_rival, name=bundle.name, part=part, choice=choice, settings=settings)
        begin(
            f"rival {bundle.name} {part} {settings!r}",
            RIVAL,
            t("rival.train_job", part=part_label(part), name=bundle.name),
            work,
            bundle.name,
        )


def anogan_training(bundle: Bundle, version: str) -> None:
    """How AnoGAN's training went, and what it draws: a search finds nothing that it can't draw."""
    curves = dict(bundle.require_anogan().meta.get("curves", {}))
    steps = curves.pop("step", ())
    if steps:
        components.final_curves(curves, steps[-1], t("chart.step"), "anogan_final")
    st.markdown(t("anogan.samples"))
    cells = [
        panels.figure(image, "", alt=t("alt.sample")) for image in models.gan_samples(bundle.name, version)
    ]
    st.html(panels.grid(cells, "au-small"))
