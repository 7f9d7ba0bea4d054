"""Explore: how F's feature of an image moves towards C, and what β and the steps make of the image."""

import streamlit as st

from anounet.ano_unet import Settings
from anounet.app import components, exploring, inputs, models, routing
from anounet.app.exploring import GRID, SPACE, Chosen
from anounet.app.texts import t
from anounet.app.work import exploring as work
from anounet.explore import GridSettings

routing.enter("explore")
components.header(t("explore.title"), t("explore.lead"))


def space(chosen: Chosen, settings: Settings) -> None:
    components.let_go(GRID)
    pictures = (chosen.picture, *([chosen.normal[1]] if chosen.normal else []))
    request = work.TrailRequest(bundle.name, version, pictures, settings)
    job = exploring.start(
        SPACE,
        request,
        t("space.job", n=len(pictures)),
        lambda job: work.follow_trails(job, request, bundle, models.explored()),
        work.estimated_seconds(settings.mode, len(pictures) * settings.steps),
    )
    exploring.show_job(job)
    exploring.show_space(chosen, bundle, version, request)


def grid(chosen: Chosen, settings: GridSettings) -> None:
    components.let_go(SPACE)
    st.markdown(t("grid.what"))
    request = work.GridRequest(bundle.name, version, chosen.picture, settings, chosen.mask)
    job = exploring.start(
        GRID,
        request,
        t("grid.job", n=len(settings.betas), steps=settings.steps[-1]),
        lambda job: work.fill_grid(job, request, bundle, models.explored()),
        work.estimated_seconds(settings.base.mode, settings.total),
        ask=settings.base.mode == "article",
    )
    exploring.show_job(job)
    exploring.show_grid(chosen, bundle, version, request)


section = inputs.choose_one(
    t("explore.section"), "show", exploring.SECTIONS, exploring.section_label, hidden=True
)
chosen = opened = None
left, right = st.columns([1, 2.4], gap="large")
with left:
    opened = components.choose_bundle(t("bundle.choose"))
    if opened is not None and exploring.usable(opened[0], section):
        bundle, version = opened
        before = components.current_job(GRID if section == "grid" else SPACE)
        chosen = exploring.choose_image(bundle, before.spec.pictures[:1] if before is not None else ())
        with st.container(key="late_settings_explore"):
            choose = exploring.grid_settings if section == "grid" else exploring.path_settings
            settings = choose(bundle)
            st.caption(t("visualise.device", device=models.device_name()))
with right:
    if chosen is not None:
        try:
            (grid if section == "grid" else space)(chosen, settings)
        except (ValueError, ArithmeticError) as error:
            st.error(components.sentence(error), icon=":material/error:")
    elif opened is None:
        st.info(t("visualise.no_bundle"), icon=":material/arrow_back:")
