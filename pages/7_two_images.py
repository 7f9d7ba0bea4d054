"""Two images: where one is unlike another or a few, and how it would look if it were like them."""

import streamlit as st

from anounet.app import components, inputs, routing, two_images
from anounet.app.texts import t
from anounet.app.work.differences import Request

routing.enter("two_images")
components.header(t("differ.title"), t("differ.lead"))


def results(request: Request) -> None:
    view = two_images.choose_view()
    try:
        opened[0].require_identity()
        job = two_images.run(request, opened[0])
    except ValueError as error:
        st.error(components.sentence(error), icon=":material/error:")
        return
    components.job_box(job)
    two_images.show(request, view, job)


opened = components.choose_bundle(t("bundle.f_net"))
if opened is not None:
    size = opened[0].size
    with st.container(horizontal=True, vertical_alignment="bottom", key="differ_choice"):
        source = inputs.choose_source()
        if source == "samples":
            texture, pair = two_images.choose_pair()
        place = two_images.choose_place()
    before = components.current_job(two_images.KIND)
    spec = before.spec if before is not None else None
    left, right = st.columns(2, gap="large")
    if source == "samples":
        references, pictures = two_images.samples(texture, pair, size)
    with left:
        st.subheader(t("differ.references"), anchor=False)
        if source == "samples":
            two_images.show_pictures(references)
        else:
            st.caption(t("differ.references_note", most=two_images.MOST))
            references = two_images.uploaded(two_images.REFERENCES, size, spec.references if spec else ())
    with right:
        st.subheader(t("differ.images"), anchor=False)
        if source == "samples":
            two_images.show_pictures(pictures)
        else:
            st.caption(t("differ.images_note", most=two_images.MOST))
            pictures = two_images.uploaded(two_images.IMAGES, size, spec.pictures if spec else ())
    two_images.swap_button(source)
    if references and pictures:
        results(Request(opened[0].name, opened[1], references, pictures, place))
    else:
        st.info(t("differ.nothing"), icon=":material/add_photo_alternate:")
