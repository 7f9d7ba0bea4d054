"""Visualise: images in; normalised images and heat maps out, beside AnoGAN's, on one scale."""

import streamlit as st

from anounet.app import components, forms, inputs, models, panels, routing, work
from anounet.app.jobs import Job, job_id
from anounet.app.texts import t
from anounet.bundle import Bundle

KIND, PAGE_SIZE, PATIENCE = "visualise", 6, 1.5  # PATIENCE: seconds to wait before a progress bar appears

routing.enter("visualise")
components.header(t("visualise.title"), t("visualise.lead"))


def run(request: work.Request, bundle: Bundle) -> Job | None:
    """The job for a request: a quick one starts by itself, a long one when it is asked for."""
    job = models.jobs().get(job_id(request.key))
    if not work.missing(models.results(), request):
        return job
    if job is None or not job.active:
        again = job is not None
        quick = request.settings.mode == "fast"
        if again or not quick:
            components.job_end(job)
            seconds = components.duration(work.estimated_seconds(request))
            title = t("visualise.again") if again else t("visualise.start", time=seconds)
            if not st.button(title, key="start", type="primary", icon=":material/play_arrow:"):
                return job
        cache = models.results()
        job = models.jobs().submit(
            request.key,
            KIND,
            t("visualise.job", n=len(request.pictures)),
            lambda j: work.visualise(j, request, bundle, cache),
            spec=request,
            owner=components.owner(),
        )
        components.remember(job)
        if not quick:
            st.rerun()  # without the button
        job.wait(PATIENCE, milestones=len(request.pictures))
    return job


def show(request: work.Request, bundle: Bundle, view: panels.View, job: Job | None) -> None:
    entries = components.gathered(request)
    for name, fault in (job.faults if job else {}).items():
        st.warning(f"{name}: {fault}", icon=":material/error:")
    if len(entries) > 1:
        with st.expander(t("visualise.table", n=len(entries)), icon=":material/table_rows:"):
            components.score_table(entries)
            shown = [panels.Shown(p.name, r, g) for p, r, g in entries]
            st.download_button(
                t("download.zip"),
                lambda: panels.zip_bytes(shown, view, bundle),
                "ano-unet.zip",
                on_click="ignore",
                icon=":material/folder_zip:",
            )
    redrawn = [entry for entry in entries if entry[1].y is not None]
    first = 0
    if len(redrawn) > PAGE_SIZE:
        numbers = list(range(1, -(-len(redrawn) // PAGE_SIZE) + 1))
        chosen = st.segmented_control(t("visualise.page"), numbers, default=1, required=True, key="part")
        first = (min(chosen or 1, numbers[-1]) - 1) * PAGE_SIZE
    for number, (picture, result, rival) in enumerate(redrawn[first : first + PAGE_SIZE], first):
        pending = job is not None and job.active
        components.result_card(picture, result, rival, request, view, bundle, pending=pending, number=number)
    components.left_out_sheet([(p, r) for p, r, _ in entries if r.y is None])


left, right = st.columns([1, 2.4], gap="large")
with left:
    opened = components.choose_bundle(t("bundle.choose"))
    ready = opened is not None and opened[0].center is not None
    if opened is not None:
        before = components.current_job(KIND)
        pictures = inputs.choose_pictures(opened[0], before.spec.pictures if before else ())
        settings = inputs.choose_settings(opened[0])
        everything = st.toggle(t("gate.toggle"), key="all", bind="query-params", help=t("gate.help"))
        st.caption(t("visualise.device", device=models.device_name()))
with right:
    if opened is None:
        st.info(t("visualise.no_bundle"), icon=":material/arrow_back:")
    elif not ready:
        st.warning(t("visualise.no_center", name=opened[0].name), icon=":material/adjust:")
        routing.link("center", t("home.go_center"), bundle=opened[0].name)
    else:
        bundle, version = opened
        rival = work.SearchSettings() if bundle.anogan is not None else None
        if not pictures:
            st.info(t("visualise.nothing"), icon=":material/add_photo_alternate:")
        else:
            request = work.Request(bundle.name, version, tuple(pictures), settings, not everything, rival)
            view = inputs.choose_view()
            job = run(request, bundle)
            if job is not None:
                components.job_box(job)
            show(request, bundle, view, job)
        if bundle.anogan is None:
            forms.train_rival(bundle)
