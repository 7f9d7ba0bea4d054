"""Every text of the app comes from here, by key. Another language is another module beside `english`.

`t(key, **values)` gives a text, `label(name)` the display name of a class, a defect, a mode or a curve.
"""

from __future__ import annotations

import re

from anounet.app import english

LANGUAGES = {"en": (english.TEXTS, english.LABELS)}
DEFAULT_LANGUAGE = "en"


def t(key: str, **values: object) -> str:
    """The text of a key, with its values filled in; an unknown key is a fault of the program."""
    return LANGUAGES[DEFAULT_LANGUAGE][0][key].format(**values)


def label(name: str) -> str:
    """What to call a class, a defect, a mode or a curve; names that are not known are tidied up."""
    labels = LANGUAGES[DEFAULT_LANGUAGE][1]
    base, dash, number = name.rpartition("-")
    if dash and number.isdigit() and base:
        return f"{label(base)} {number}"
    return labels.get(name, name.replace("_", " ").capitalize() if name.islower() else name)


def plain(text: str) -> str:
    """A text from outside (a file's name), so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_\[\]$~<>:])", r"\\\1", text)
