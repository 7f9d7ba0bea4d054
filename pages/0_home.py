"""Home: a result computed live, what this is, and where to go next."""

import streamlit as st

from anounet.app import cards, components, findings, gallery, inputs, models, panels, routing, viewer
from anounet.app.texts import label, plain, t
from anounet.app.work import answers
from anounet.bundle import USUAL_MAP, Bundle, bundle_names
from anounet.datasets import DataError

routing.enter("home")
components.header(t("app.name"), t("home.lead"))


def live_result() -> None:
    names = bundle_names()
    if not names:
        st.warning(t("bundle.none"), icon=":material/inventory_2:")
        return
    opened = next(filter(usable, map(components.open_bundle, names)), None)
    if opened is None:
        return
    bundle, version = opened
    try:
        found = inputs.sample_pictures(bundle, st.session_state.get("_home_page", 0), good=1)
    except DataError as error:
        st.info(t("images.no_samples", reason=plain(str(error))))
        return
    first = inputs.DEFAULT_SAMPLE if inputs.DEFAULT_SAMPLE in found else next(iter(found), None)
    if first is None:
        return
    inputs.accept_plain("defect", list(found), label)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        known = st.pills(
            t("home.pick", normal=label(str(bundle.info.get("normal", "")))),
            list(found),
            default=first,
            required=True,
            format_func=label,
            key="defect",
            bind="query-params",
            wrap=True,
        )
        st.button(t("home.another"), key="another", icon=":material/shuffle:", on_click=next_piece)
    picture = found.get(known or first, found[first])
    settings = bundle.settings(inputs.offered_modes(bundle)[0])
    request = answers.Request(bundle.name, version, (picture,), settings, False)
    try:
        with st.spinner(t("home.computing")):
            if request.instant:
                result = components.answer_at_once(request, bundle).get(picture.key)
            else:
                result = answers.redraw(models.results(), bundle, request, picture)
    except (ValueError, ArithmeticError) as error:
        st.error(components.sentence(error), icon=":material/error:")
        return
    if result is None:
        return
    view, name = panels.View(USUAL_MAP.get(settings.method, "residual")), label(known or first)
    look, read = st.columns([1.1, 1], gap="large")
    with look:
        viewer.show(name, [result], view, "home_viewer")
    with read:
        with st.container(horizontal=True, vertical_alignment="center", key="home_verdict"):
            cards.verdict_badge(result)
            st.markdown(cards.score_line(result, {}) + " · " + models.device_name(), width="content")
        st.markdown(findings.found(result, view))
        st.html(panels.grid(panels.ano_unet_cells(name, result, view), "au-two"))
    st.caption(t("home.scale"))


def usable(opened: tuple[Bundle, str] | None) -> bool:
    return opened is not None and bool(set(inputs.offered_modes(opened[0])) & {"instant", "fast"})


def next_piece() -> None:
    st.session_state["_home_page"] = st.session_state.get("_home_page", 0) + 1


live_result()
gallery.show()
st.subheader(t("home.what_title"), anchor=False)
st.markdown(t("home.what"))
st.markdown(t("home.instant"))
routing.link("story", t("home.go_story"))
st.subheader(t("home.next_title"), anchor=False)
steps = (
    ("visualise", t("home.go_visualise"), t("home.about_visualise")),
    ("own", t("home.go_own"), t("home.about_own")),
    ("f_net", t("home.go_f_net"), t("home.about_f_net")),
    ("center", t("home.go_center"), t("home.about_center")),
)
for column, (page, title, about) in zip(st.columns(4), steps, strict=True):
    with column.container(border=True, height="stretch"):
        routing.link(page, title)
        st.caption(about)
