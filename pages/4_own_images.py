"""Your own images: normal ones in, a bundle that finds what is not normal out; F is not trained."""

import streamlit as st

from anounet.app import components, forms, own, routing
from anounet.app.texts import t
from anounet.bundle import bundle_names

routing.enter("own")
components.header(t("own.title"), t("own.lead"))


def show_job() -> None:
    job = components.current_job(forms.OWN)
    if job is None:
        return
    components.job_box(job)
    components.job_end(job)
    if job.active or job.result is None or job.result.name not in bundle_names():
        return
    components.prepared(job.result)
    routing.link("visualise", t("own.try"), bundle=job.result.name, source="upload")
    opened = components.open_bundle(job.result.name)
    if opened is not None and opened[0].instant is None and not components.busy(forms.INSTANT):
        st.subheader(t("own.then"), anchor=False)
        forms.train_instant(opened[0])


left, right = st.columns([1, 1.2], gap="large")
with left:
    size = own.choose_size()
    pictures = own.choose_images(size)
    forms.prepare_own(pictures, size)
    own.show_bundles()
with right:
    show_job()
    forms.instant_job()
    if components.current_job(forms.OWN) is None:
        st.markdown(t("own.how"))
