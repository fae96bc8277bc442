"""Tweets as text that an encoder can read."""

from __future__ import annotations

import re
import unicodedata

import emoji
import ftfy

_LINK = re.compile(r"(?:https?:|\bwww\.(?=\w))\S*|\bhttps?(?:…|\.\.\.|$)", re.IGNORECASE)
_USER = re.compile(r"(?<!\w)@\w+")
_HALF = re.compile(r"([\u1f00-\u1fff])([0-9A-F])")
_MANGLED_HALF = re.compile(r"á[¼-¿].(?=[0-9A-F])")


def clean_tweet(text: str) -> str:
    """Make a tweet plain, as BERTweet's training data are (Nguyen et al., 2020).

    Unicode is repaired, an emoji becomes its name (``:folded_hands:``), a user ``@USER``, a link
    ``HTTPURL``, an ellipsis three dots, and any run of white space one space.
    """
    words = emoji.demojize(repair(text), delimiters=(" :", ": "))
    words = _USER.sub("@USER", _LINK.sub(" HTTPURL ", words))
    return " ".join(words.replace("…", "...").split())


def repair(text: str) -> str:
    """Undo what files and forms did to a text: decoding with a wrong code, HTML's entities.

    Beside what ftfy knows, emoji are put together again which CrisisMMD's files hold in two halves:
    U+1F64F was written as if its code had four digits, as U+1F64 and the letter F.
    """
    text = ftfy.fix_text(_MANGLED_HALF.sub(_undo_cp1252, text))
    return _HALF.sub(_join_halves, text)


def _undo_cp1252(mangled: re.Match[str]) -> str:
    """One character of which UTF-8 made three; alone, ftfy does not dare to judge it."""
    try:
        # The codec is ftfy's, which knows the five codes that cp1252 itself leaves out.
        return mangled[0].replace(" ", "\xa0").encode("sloppy-windows-1252").decode()
    except UnicodeError:
        return mangled[0]


def _join_halves(halves: re.Match[str]) -> str:
    whole = chr(ord(halves[1]) * 16 + int(halves[2], 16))
    return halves[0] if unicodedata.category(whole) == "Cn" else whole
