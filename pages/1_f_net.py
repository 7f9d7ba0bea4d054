"""f-Net: choose the data, then load an f-Net or train one."""

import streamlit as st

from anounet.app import components, data, f_net_forms, forms, models, routing
from anounet.app.texts import t
from anounet.bundle import SHIPPED

routing.enter("f_net")
components.header(t("f_net.title"), t("f_net.lead"))


def show_job() -> None:
    job = components.current_job(forms.F_NET)
    if job is None:
        return
    components.job_box(job)
    components.job_end(job)
    done = job.result
    if done is not None and not job.active:
        kept = t("train.kept") if done.stopped else t("train.done")
        st.success(
            t("train.saved", what=kept, name=done.name, epochs=done.epochs, accuracy=f"{done.accuracy:.0%}"),
            icon=":material/check_circle:",
        )
        components.final_curves(done.curves, done.steps, t("chart.step"), "f_net_final")
        routing.link("center", t("f_net.go_center"), bundle=done.name)


def load() -> None:
    opened = components.choose_bundle(t("bundle.f_net"))
    if opened is None:
        return
    bundle, version = opened
    components.f_net_facts(bundle, models.f_net_facts(bundle.name, version), bundle.name == SHIPPED)
    routing.link("center", t("f_net.go_center"), bundle=bundle.name)


left, right = st.columns([1, 1.5], gap="large")
with left:
    st.subheader(t("f_net.data"), anchor=False)
    chosen = data.choose_data()
    forms.offer_downloads()
with right:
    st.subheader(t("f_net.net"), anchor=False)
    show_job()
    loading, training = st.tabs([t("f_net.tab_load"), t("f_net.tab_train")])
    with loading:
        load()
    with training:
        f_net_forms.continue_f_net()
        f_net_forms.train_f_net(chosen)
