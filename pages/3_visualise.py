"""Visualise: images in; normalised images, heat maps and regions out, beside a rival's, on fixed scales."""

import streamlit as st

from anounet.app import cards, components, downloads, inputs, models, panels, rival_forms, routing
from anounet.app.jobs import Job, job_id
from anounet.app.texts import label, t
from anounet.app.work import answers
from anounet.bundle import Bundle
from anounet.visualization import Result

KIND, RIVAL, PAGE_SIZE = "visualise", "compare", 6
PATIENCE = 1.5  # seconds to wait before a progress bar appears
FEW = 4  # pictures that AnoGAN searches for without a click

routing.enter("visualise")
components.header(t("visualise.title"), t("visualise.lead"))


def run(request: answers.Request, bundle: Bundle) -> Job:
    """The job behind Ano-Unet's answer: a quick one by itself, a long one when it is asked for."""
    cache, jobs = models.results(), models.jobs()
    if request.instant and request.settings.steps == 0:
        job = jobs.note(request.key, KIND, t("visualise.job", n=len(request.pictures)), spec=request)
        components.remember(job)
        return job
    job = jobs.get(job_id(request.key))
    if not answers.missing(cache, request):
        return job
    if job is not None and job.active:
        components.remember(job)  # it may be another visitor's
    else:
        again = job is not None
        quick = request.settings.mode != "article"
        if again or not quick:
            components.job_end(job)
            seconds = components.duration(answers.estimated_seconds(request))
            title = t("visualise.again") if again else t("visualise.start", time=seconds)
            if not st.button(title, key="start", type="primary", icon=":material/play_arrow:"):
                return job
        job = jobs.submit(
            request.key,
            KIND,
            t("visualise.job", n=len(request.pictures)),
            lambda j: answers.visualise(j, request, bundle, cache),
            spec=request,
            owner=components.owner(),
            personal=quick and not again,
        )
        components.remember(job)
        if not quick:
            st.rerun()  # without the button
        if not request.instant:
            job.wait(PATIENCE, milestones=len(request.pictures))
    return job


def compare(request: answers.Request, bundle: Bundle) -> Job | None:
    """The rivals' answers, which nothing waits for: by themselves where short, else when asked for."""
    cache = models.results()
    if not request.rivals:
        components.let_go(RIVAL)
        return None
    if not request.instant and answers.missing(cache, request):
        return None
    job = models.jobs().get(job_id(request.rival_key))
    pending = {name: answers.uncompared(cache, request, name) for name in request.rivals}
    if not any(pending.values()):
        return job
    if job is not None and job.active:
        components.remember(job, link=False)
    else:
        names = ", ".join(label(name) for name, pictures in pending.items() if pictures)
        count = max(map(len, pending.values()))
        if job is not None or len(pending.get("anogan", ())) > FEW:
            components.job_end(job)
            seconds = components.duration(answers.estimated_search(count))
            title = t("rival.start", rival=names, n=count, time=seconds)
            if not st.button(title, key="start_rival", icon=":material/compare:"):
                return job
        job = models.jobs().submit(
            request.rival_key,
            RIVAL,
            t("rival.job", rival=names, n=count),
            lambda j: answers.compare(
                j, request, bundle, cache, lambda: models.remembered(request.bundle, request.version)
            ),
            owner=components.owner(),
            personal=True,
        )
        components.remember(job, link=False)
    return job


def show(
    request: answers.Request,
    bundle: Bundle,
    view: panels.View,
    job: Job | None,
    rival: Job | None,
    at_once: dict[str, Result],
) -> None:
    entries = cards.gathered(request, at_once)
    faults = {**(job.faults if job else {}), **(rival.faults if rival else {})}
    for name, fault in faults.items():
        st.warning(f"{name}: {fault}", icon=":material/error:")
    if len(entries) > 1:
        with st.expander(t("visualise.table", n=len(entries)), icon=":material/table_rows:"):
            cards.score_table(entries, view)
            shown = [downloads.Shown(e.picture.name, e.result, e.rivals) for e in entries]
            st.download_button(
                t("download.zip"),
                lambda: downloads.zip_bytes(shown, view, request.facts),
                "ano-unet.zip",
                key="get_zip",
                on_click="ignore",
                icon=":material/folder_zip:",
            )
    redrawn = [entry for entry in entries if entry.result.y is not None]
    first = 0
    if len(redrawn) > PAGE_SIZE:
        numbers = list(range(1, -(-len(redrawn) // PAGE_SIZE) + 1))
        chosen = st.segmented_control(t("visualise.page"), numbers, default=1, required=True, key="part")
        first = (min(chosen or 1, numbers[-1]) - 1) * PAGE_SIZE
    for number, entry in enumerate(redrawn[first : first + PAGE_SIZE], first):
        cards.result_card(
            entry.picture,
            entry.result,
            entry.rivals,
            request,
            view,
            bundle,
            pending=rival is not None and rival.active,
            refining=entry.refining and job is not None and job.active,
            number=number,
        )
    cards.left_out_sheet([(e.picture, e.result) for e in entries if e.result.y is None])


def results(request: answers.Request, bundle: Bundle) -> None:
    view = inputs.choose_view(bundle, request.settings)
    try:
        at_once = components.answer_at_once(request, bundle) if request.instant else {}
        job = run(request, bundle)
    except (ValueError, ArithmeticError) as error:
        st.error(components.sentence(error), icon=":material/error:")
        return
    if job is not None:
        components.job_box(job)
    above, below = st.container(), st.container()
    with below:
        rival = compare(request, bundle)
        if rival is not None:
            components.job_box(rival, curves=False)
    with above:
        show(request, bundle, view, job, rival, at_once)


with st.container(key="visualise_page"):
    left, right = st.columns([1, 2.4], gap="large")
with left:
    opened = components.choose_bundle(t("bundle.choose"))
    modes = inputs.offered_modes(opened[0]) if opened is not None else []
    if opened is not None:
        before = components.current_job(KIND)
        restored = before.spec.pictures if before is not None and before.spec is not None else ()
        pictures = inputs.choose_pictures(opened[0], restored)
    if opened is not None and modes:
        with st.container(key="late_settings_visualise"):
            settings = inputs.choose_settings(opened[0])
            everything, rivals = settings.mode == "instant", ()
            if not everything:
                everything = st.toggle(t("gate.toggle"), key="all", bind="query-params", help=t("gate.help"))
            offered = inputs.offered_rivals(opened[0])
            if offered and st.toggle(
                t("rival.toggle"), True, key="rival", bind="query-params", help=t("rival.toggle_help")
            ):
                rivals = inputs.choose_rivals(opened[0], offered)
            st.caption(t("visualise.device", device=models.device_name()))
with right:
    if opened is None:
        st.info(t("visualise.no_bundle"), icon=":material/arrow_back:")
    elif not modes:
        st.warning(t("visualise.no_center", name=opened[0].name), icon=":material/adjust:")
        routing.link("center", t("home.go_center"), bundle=opened[0].name)
    else:
        bundle, version = opened
        if not pictures:
            st.info(t("visualise.nothing"), icon=":material/add_photo_alternate:")
        else:
            search = answers.SearchSettings() if "anogan" in rivals else None
            request = answers.Request(
                bundle.name, version, pictures, settings, not everything, rivals, search
            )
            results(request, bundle)
        rival_forms.train(bundle)
        if "anogan" in rivals:
            with st.expander(t("anogan.training"), icon=":material/show_chart:"):
                rival_forms.anogan_training(bundle, version)
