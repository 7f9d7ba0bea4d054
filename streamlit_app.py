"""Entrypoint of the app: `streamlit run streamlit_app.py`."""

import streamlit as st

from anounet.app import languages, models, notices, panels, routing
from anounet.app.texts import t

languages.begin()
st.set_page_config(page_title=t("app.name"), page_icon=panels.icon(), layout="wide")
models.set_up()
routing.navigate(notices.show)
