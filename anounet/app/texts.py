"""Every text of the app comes from here, by key. A language is a module beside `english`, of the same keys.

`t(key, **values)` gives a text, `label(name)` the display name of a class, a defect, a mode or a curve. Both
are in the visitor's language, which `ask` finds. A job's thread has no visitor: there they are in English,
and `again` says them anew in the language of the page that shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from anounet.app import english, japanese

LANGUAGES = {"en": (english.TEXTS, english.LABELS), "ja": (japanese.TEXTS, japanese.LABELS)}
NAMES = {"en": "English", "ja": "日本語"}  # of the languages, in themselves
DEFAULT_LANGUAGE = "en"

_speaking: ContextVar[str | None] = ContextVar("speaking", default=None)
_asked: Callable[[], str | None] | None = None


class Text(str):
    """A text that knows what it was made of; to all others it is a string."""

    key: str = ""
    values: Mapping[str, object] | None = None  # None: the key is a label's


def _text(said: str, key: str, values: Mapping[str, object] | None = None) -> Text:
    text = Text(said)
    text.key, text.values = key, values
    return text


def ask(language: Callable[[], str | None]) -> None:
    """From now on the language is what `language` gives; None where it does not know."""
    global _asked
    _asked = language


def language() -> str:
    """The language that texts are in now, one of `LANGUAGES`."""
    return _speaking.get() or (_asked and _asked()) or DEFAULT_LANGUAGE


@contextmanager
def speaking(name: str) -> Iterator[None]:
    """Within it, texts are in the language of that name, whoever asks."""
    token = _speaking.set(name)
    try:
        yield
    finally:
        _speaking.reset(token)


def t(key: str, **values: object) -> str:
    """The text of a key, with its values filled in; an unknown key is a fault of the program."""
    return _filled(key, values)


def _filled(key: str, values: Mapping[str, object]) -> Text:
    return _text(LANGUAGES[language()][0][key].format(**values), key, values)


def label(name: str) -> str:
    """What to call a class, a defect, a mode or a curve; names that are not known are tidied up."""
    labels = LANGUAGES[language()][1]
    base, dash, number = name.rpartition("-")
    if dash and number.isdigit() and base:
        return _text(f"{label(base)} {number}", name)
    return _text(labels.get(name, name.replace("_", " ").capitalize() if name.islower() else name), name)


def again(text: str) -> str:
    """A text, and the texts in it, in the language that is asked for now; any other string as it is."""
    if not isinstance(text, Text) or not text.key:
        return text
    if text.values is None:
        return label(text.key)
    values = {name: again(v) if isinstance(v, str) else v for name, v in text.values.items()}
    return _filled(text.key, values)


def in_every_language(shown: Callable[[str], str], name: str) -> set[str]:
    """All that `shown` calls a name."""
    found = set()
    for known in LANGUAGES:
        with speaking(known):
            found.add(str(shown(name)))
    return found


def plain(text: str) -> str:
    """A text from outside (a file's name), so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_\[\]$~<>:])", r"\\\1", text)
