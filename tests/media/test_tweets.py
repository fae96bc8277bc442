"""Normalisation of tweets, on texts such as those in CrisisMMD's files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mst_distill.media.tweets import clean_tweet, repair


@pytest.mark.parametrize(
    ("damaged", "repaired"),
    [
        ("PLS SHARE: Weâ€™re capturing", "PLS SHARE: We're capturing"),
        ("suffers burns â€” now", "suffers burns — now"),
        ("Scary &amp; creepy", "Scary & creepy"),
        ("photos &gt;&gt; here", "photos >> here"),
        ("I â\x9d¤ï¸\x8f her!", "I ❤️ her!"),
        ("plain text stays, Σίσυφος and こんにちは too", None),
        ("ἀγάπη is Greek", None),  # accented Greek is unchanged if no hexadecimal digit follows
        ("Hope ὤF", "Hope 🙏"),
        ("How did it start? á½£3á½£3á½ƒ9", "How did it start? 😳😳🐹"),
        ("California is on fire! á½’5", "California is on fire! 🔥"),
        ("it feels goodá½ A", "it feels good😊"),
        ("#\u1f1fA\u1f1f8#Gulfport", "#🇺🇸#Gulfport"),
    ],
)
def test_text_is_repaired(damaged: str, repaired: str | None) -> None:
    assert repair(damaged) == (damaged if repaired is None else repaired)


@pytest.mark.parametrize(
    ("tweet", "normalised"),
    [
        ("RT @Cal_OES: go https://t.co/r89LKp https://t.co/HiA1", "RT @USER: go HTTPURL HTTPURL"),
        ("cut off http:/… and https…", "cut off HTTPURL and HTTPURL"),
        ("see www.fema.gov now", "see HTTPURL now"),
        ("Awww... that's so cute", "Awww... that's so cute"),
        ("(www.fema.gov) or WWW.cdc.gov", "( HTTPURL or HTTPURL"),
        ("www... what?", "www... what?"),
        ("seehttps://t.co/a", "see HTTPURL"),
        ("awwww, mail me@home.org", "awwww, mail me@home.org"),
        ("Pray🙏🙏 now", "Pray :folded_hands: :folded_hands: now"),
        ("á½’5 on fire", ":fire: on fire"),
        ("  two\n lines\t and\u00a0more ", "two lines and more"),
        ("to be continued…", "to be continued..."),
        ("", ""),
    ],
)
def test_a_tweet_is_normalised(tweet: str, normalised: str) -> None:
    assert clean_tweet(tweet) == normalised
    assert clean_tweet(normalised) == normalised


def test_no_misdecoded_text_is_left_in_the_files_of_crisismmd(shared_data: Path) -> None:
    files = sorted((shared_data / "crisismmd" / "crisismmd_datasplit_all").glob("*humanitarian*"))
    if not files:
        pytest.skip(f"{shared_data} has no CrisisMMD")
    lines = [line for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    tweets = [line.decode().split("\t")[3] for line in lines]
    marks = ("â€", "ðŸ", "á½", "&amp;")
    assert sum(any(mark in tweet for mark in marks) for tweet in tweets) > 400
    normalised = [clean_tweet(tweet) for tweet in tweets]
    assert not [tweet for tweet in normalised if any(mark in tweet for mark in marks)]
    assert not [tweet for tweet in normalised if "http" in tweet or not tweet]
