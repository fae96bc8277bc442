"""Sentiment of tweets with a photograph: `data.csv` and one JPEG for each tweet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.benchmarks.reader_source import ReaderSource
from mst_distill.benchmarks.source import Protocol
from mst_distill.benchmarks.splits import stratified_split
from mst_distill.media.encoded import EncodedPhotograph, EncodedText
from mst_distill.media.tweets import clean_tweet

ENCODERS = "mst_distill.media.encoders"


class TweetSentiment(ReaderSource):
    """Text and photograph of a tweet, encoded as vectors by the two encoders of the installation.

    Tweets with the same cleaned text, which are one in twenty, form one group and are assigned to
    one split. Equal photographs with different texts are not detected.

    Args:
        protocol: Without effect, since nothing is fitted.
        folder: Contains ``data.csv`` (guid, label, text) and ``images_128/<guid>.jpg``.
    """

    classes = ("negative", "neutral", "positive")
    tolerated_share = 0.01

    def __init__(self, protocol: Protocol, folder: str) -> None:
        # Features of the image (1280,) and of the text (384,).
        self.readers = {
            "image": EncodedPhotograph(f"{ENCODERS}.EfficientNetLite0"),
            "text": EncodedText(f"{ENCODERS}.MiniLM", tweets=True),
        }
        self._photographs = Path(folder) / "images_128"
        file = Path(folder) / "data.csv"
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        texts = [_decode(text) for text in table["text"]]
        cleaned = [clean_tweet(text) for text in texts]
        tweets = pd.DataFrame({"id": table["guid"], "group": cleaned, "text": texts})
        tweets["label"] = table["label"].map({name: i for i, name in enumerate(self.classes)})
        first = tweets.drop_duplicates("group")
        split = stratified_split(first["label"].to_numpy(), np.random.default_rng(0))
        tweets["split"] = tweets["group"].map(dict(zip(first["group"], split, strict=True)))
        complete = np.array([self._photograph(guid).is_file() for guid in tweets["id"]])
        self.omitted = dict.fromkeys(tweets.loc[~complete, "id"], "its photograph is missing")
        self.index = tweets[complete].reset_index(drop=True)
        self.files = [file, *map(self._photograph, self.index["id"])]

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[Any]:
        """Return the files of the photographs, or the texts."""
        if modality == "text":
            return part["text"].tolist()
        return [self._photograph(guid) for guid in part["id"]]

    def _photograph(self, guid: str) -> Path:
        return self._photographs / f"{guid}.jpg"


def _decode(text: str) -> str:
    """Undo a wrong decoding: most texts are GB 18030 read as Latin-1, ``¡¯`` is an apostrophe."""
    try:
        return text.encode("latin-1").decode("gb18030")
    except UnicodeError:
        return text
