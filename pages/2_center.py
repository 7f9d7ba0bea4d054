"""C in both kinds, how well its score tells images apart, and the training of instant mode."""

import streamlit as st

from anounet.app import components, data, figures, forms, inputs, models, panels, routing
from anounet.app.texts import label, plain, t
from anounet.bundle import Bundle
from anounet.datasets import DataError
from anounet.images import ImageError

PARTS = ("global", "local", "instant")

routing.enter("center")
components.header(t("center.title"), t("center.lead"))


def show_global(bundle: Bundle, version: str) -> None:
    if bundle.center is None:
        st.info(t("center.none", name=bundle.name), icon=":material/adjust:")
        return
    center = bundle.center
    st.subheader(t("center.shown", name=bundle.name), anchor=False)
    try:
        with st.spinner(t("center.scoring")):
            scores = models.scores_of(bundle.name, version)
    except (DataError, ImageError) as error:
        scores = None
        st.info(t("center.no_test", reason=plain(str(error))))
    components.center_facts(center, scores)
    bad = [value for group in (scores.anomalous if scores else {}).values() for value in group]
    figure = figures.score_histogram(center.held_back, bad, center.threshold, t("chart.held_back"))
    st.plotly_chart(figure, key="histogram", config=figures.CONFIG, alt=t("alt.histogram"))
    if scores is not None and scores.anomalous:
        st.markdown(t("center.groups"))
        groups = {"good": scores.good, **scores.anomalous}
        st.plotly_chart(
            figures.score_groups(groups, center.threshold, center.held_back),
            key="groups",
            config=figures.CONFIG,
            alt=t("alt.groups"),
        )


def show_local(bundle: Bundle, version: str) -> None:
    local = bundle.local
    if local is None:
        st.info(t("local.none", name=bundle.name), icon=":material/adjust:")
        return
    st.subheader(t("local.shown", name=bundle.name), anchor=False)
    st.markdown(t("local.what"))
    components.local_facts(local)
    st.plotly_chart(
        figures.patch_histogram(local.held_back, local.tau),
        key="patch_histogram",
        config=figures.CONFIG,
        alt=t("alt.patch_histogram"),
    )
    show_projection(bundle, version)
    show_held_back(bundle, version)


def show_projection(bundle: Bundle, version: str) -> None:
    """Patches in the plane of their two main directions, and how G moves those of a test image."""
    try:
        found = inputs.sample_pictures(bundle, 0)
        st.markdown(t("local.projection"))
        known = None
        if found:
            first = inputs.DEFAULT_SAMPLE if inputs.DEFAULT_SAMPLE in found else next(iter(found))
            known = st.pills(
                t("local.image"), list(found), default=first, format_func=label, key="patch_image", wrap=True
            )
        picture = found.get(known) if known else None
        with st.spinner(t("local.projecting")):
            cloud = models.projection(bundle.name, version)
            moved = (
                models.moved_patches(bundle.name, version, picture.key, picture.pixels) if picture else None
            )
    except (DataError, ImageError) as error:
        st.info(t("local.no_images", reason=plain(str(error))))
        return
    figure = figures.projection(cloud, moved, bundle.local.tau)
    st.plotly_chart(figure, key="projection", config=figures.CONFIG, alt=t("alt.projection"))
    if moved is not None:
        words = t("local.moved", before=moved.far_before, after=moved.far_after, n=len(moved.before))
        st.caption(
            words if moved.drawn else t("local.not_moved", before=moved.far_before, n=len(moved.before))
        )


def show_held_back(bundle: Bundle, version: str) -> None:
    try:
        found = models.held_back_distances(bundle.name, version)
    except (DataError, ImageError):
        return  # said above
    st.markdown(t("local.held_back", tau=f"{bundle.local.tau:.2f}"))
    cells = [
        panels.figure(
            panels.distance_pixels(pixels, distances, bundle.local.tau),
            t("local.at_most", d=f"{distances.max():.2f}"),
            alt=t("alt.distances"),
        )
        for pixels, distances in found
    ]
    st.html(panels.grid(cells, "au-sheet"))


def center_job() -> None:
    job = components.current_job(forms.CENTER)
    if job is None:
        return
    components.job_box(job)
    components.job_end(job)
    if job.result is not None and not job.active:
        components.prepared(job.result)
        if opened is None or job.result.name != opened[0].name:
            routing.link("center", t("center.show", name=job.result.name), bundle=job.result.name)


left, right = st.columns([1, 1.9], gap="large")
with left:
    opened = components.choose_bundle(t("center.bundle"))
    if opened is not None and (chosen := data.choose_class(opened[0])) is not None:
        forms.compute_center(opened[0], *chosen)
    routing.link("own", t("home.go_own"))
with right:
    center_job()
    forms.instant_job()
    if opened is not None:
        part = inputs.choose_one(t("center.kind"), "kind", PARTS, inputs.part_label, hidden=True)
        if part == "instant":
            forms.train_instant(opened[0])
        elif part == "local":
            show_local(*opened)
        else:
            show_global(*opened)
        routing.link("visualise", t("center.go_visualise"), bundle=opened[0].name)
