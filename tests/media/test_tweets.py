"""Tweets made plain, on text as it stands in CrisisMMD's files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mst_distill.media.tweets import clean_tweet, repair


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("PLS SHARE: Weâ€™re capturing", "PLS SHARE: We're capturing"),
        ("suffers burns â€” now", "suffers burns — now"),
        ("Scary &amp; creepy", "Scary & creepy"),
        ("photos &gt;&gt; here", "photos >> here"),
        ("I â\x9d¤ï¸\x8f her!", "I ❤️ her!"),
        ("plain text stays, Σίσυφος and こんにちは too", None),
        ("ἀγάπη is Greek", None),  # Greek with accents stays where no digit follows it
        ("Hope ὤF", "Hope 🙏"),
        ("How did it start? á½£3á½£3á½ƒ9", "How did it start? 😳😳🐹"),
        ("California is on fire! á½’5", "California is on fire! 🔥"),
        ("it feels goodá½ A", "it feels good😊"),
        ("#\u1f1fA\u1f1f8#Gulfport", "#🇺🇸#Gulfport"),
    ],
)
def test_text_is_repaired(written: str, meant: str | None) -> None:
    assert repair(written) == (written if meant is None else meant)


@pytest.mark.parametrize(
    ("tweet", "plain"),
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
def test_a_tweet_is_made_plain(tweet: str, plain: str) -> None:
    assert clean_tweet(tweet) == plain
    assert clean_tweet(plain) == plain


def test_nothing_garbled_is_left_in_crisismmds_own_files(shared_data: Path) -> None:
    files = sorted((shared_data / "crisismmd" / "crisismmd_datasplit_all").glob("*humanitarian*"))
    if not files:
        pytest.skip(f"{shared_data} has no CrisisMMD")
    lines = [line for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    tweets = [line.decode().split("\t")[3] for line in lines]
    garbled = ("â€", "ðŸ", "á½", "&amp;")
    assert sum(any(mark in tweet for mark in garbled) for tweet in tweets) > 400
    plain = [clean_tweet(tweet) for tweet in tweets]
    assert not [tweet for tweet in plain if any(mark in tweet for mark in garbled)]
    assert not [tweet for tweet in plain if "http" in tweet or not tweet]
