"""Own images: good ones become a bundle by themselves, and suspicious ones are ranked with it."""

import streamlit as st

from anounet.app import components, forms, models, own, ranking, routing
from anounet.app.texts import t
from anounet.bundle import Bundle

routing.enter("own")
components.header(t("own.title"), t("own.lead"))


def sharpen(bundle: Bundle) -> None:
    """The training of `instant` mode: once it is there, the table goes by it."""
    job = models.jobs().latest(forms.INSTANT, bundle.name)
    if job is not None and job.active and components.current_job(forms.INSTANT) is None:
        components.remember(job, link=False)  # begun in another tab
    current = components.current_job(forms.INSTANT)
    if current is not None and bundle.name in current.bundles:
        forms.instant_job()
    if bundle.instant is None and (job is None or not job.active):
        with st.expander(t("own.sharpen"), icon=":material/bolt:"):
            forms.train_instant(bundle)


training = models.jobs().latest(forms.INSTANT, st.query_params.get("bundle", ""))
active = training is not None and training.active
opened = own.good_images()
if opened is None:
    own.show_bundles()
    for later in (t("own.later_suspicious"), t("own.later_ranked")):
        st.caption(later)
else:
    bundle, version = opened
    found = own.suspicious_images(bundle)
    basis = ranking.basis_of(bundle, version)
    st.subheader(t("own.step_ranked"), anchor=False)
    if found is None:
        st.caption(t("rank.nothing"))
    else:
        ranking.show(found, basis, opened)
    sharpen(bundle)
    own.going_on(bundle.name)
    ranking.show_commands(bundle, basis)
    if active and not training.active:
        st.rerun()  # it ended while the page was drawn: the table goes by it now
