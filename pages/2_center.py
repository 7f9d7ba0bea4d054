"""C: the mean feature of the normal class, its threshold, and how well the score tells images apart."""

import streamlit as st

from anounet.app import components, data, figures, forms, models, routing
from anounet.app.texts import plain, t
from anounet.bundle import Bundle
from anounet.datasets import DataError

routing.enter("center")
components.header(t("center.title"), t("center.lead"))


def show_distribution(bundle: Bundle, version: str) -> None:
    center = bundle.require_center()
    st.subheader(t("center.shown", name=bundle.name), anchor=False)
    try:
        with st.spinner(t("center.scoring")):
            scores = models.scores_of(bundle.name, version)
    except DataError as error:
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
    routing.link("visualise", t("center.go_visualise"), bundle=bundle.name)


left, right = st.columns([1, 1.9], gap="large")
with left:
    opened = components.choose_bundle(t("center.bundle"))
    if opened is not None and (chosen := data.choose_class(opened[0])) is not None:
        forms.compute_center(opened[0], *chosen)
with right:
    job = components.current_job(forms.CENTER)
    if job is not None:
        components.job_box(job)
        components.job_end(job)
        if job.result is not None and not job.active:
            st.success(t("center.saved", name=job.result), icon=":material/check_circle:")
            if opened is None or job.result != opened[0].name:
                routing.link("center", t("center.show", name=job.result), bundle=job.result)
    if opened is not None and opened[0].center is not None:
        show_distribution(*opened)
    elif opened is not None:
        st.info(t("center.none", name=opened[0].name), icon=":material/adjust:")
