"""Entrypoint of the app: `streamlit run streamlit_app.py`."""

import streamlit as st

if __name__ == "__main__":  # Streamlit runs the file anew for every visitor
    from anounet.app import languages, models, notices, panels, routing
    from anounet.app.texts import t

    languages.begin()
    st.set_page_config(page_title=t("app.name"), page_icon=panels.icon(), layout="wide")
    models.set_up()
    routing.navigate(notices.show)
else:  # the server imports it, once, for what is to happen before it listens
    from anounet.app import server

    app = st.App(__file__, lifespan=server.loaded)
