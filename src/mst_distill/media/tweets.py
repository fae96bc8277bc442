"""Normalisation of tweets for text encoders."""

from __future__ import annotations

import re
import unicodedata

import emoji
import ftfy

_LINK = re.compile(r"(?:https?:|\bwww\.(?=\w))\S*|\bhttps?(?:…|\.\.\.|$)", re.IGNORECASE)
_USER = re.compile(r"(?<!\w)@\w+")
_SPLIT_EMOJI = re.compile(r"([\u1f00-\u1fff])([0-9A-F])")
_MISDECODED_HALF = re.compile(r"á[¼-¿].(?=[0-9A-F])")


def clean_tweet(text: str) -> str:
    """Normalise a tweet like the training data of BERTweet (Nguyen et al., 2020).

    Unicode is repaired. An emoji is replaced by its name (``:folded_hands:``), a user by ``@USER``,
    a link by ``HTTPURL``, an ellipsis by three dots, and each run of white space by one space.
    """
    words = emoji.demojize(repair(text), delimiters=(" :", ": "))
    words = _USER.sub("@USER", _LINK.sub(" HTTPURL ", words))
    return " ".join(words.replace("…", "...").split())


def repair(text: str) -> str:
    """Undo the damage of a wrong decoding and of HTML entities.

    In addition to the repairs of ftfy, emoji are joined that CrisisMMD's files store as two
    characters: U+1F64F was written as if its code point had four digits, as U+1F64 and the letter
    F.
    """
    text = ftfy.fix_text(_MISDECODED_HALF.sub(_undo_cp1252, text))
    return _SPLIT_EMOJI.sub(_join_halves, text)


def _undo_cp1252(misdecoded: re.Match[str]) -> str:
    """Restore one character whose three UTF-8 bytes were decoded as cp1252.

    ftfy leaves such a character unchanged if it occurs alone.
    """
    try:
        # The codec is from ftfy; it defines the five codes that cp1252 leaves undefined.
        return misdecoded[0].replace(" ", "\xa0").encode("sloppy-windows-1252").decode()
    except UnicodeError:
        return misdecoded[0]


def _join_halves(halves: re.Match[str]) -> str:
    joined = chr(ord(halves[1]) * 16 + int(halves[2], 16))
    # Greek letters with accents lie in the same range; "Cn" means that the result is unassigned.
    return halves[0] if unicodedata.category(joined) == "Cn" else joined
