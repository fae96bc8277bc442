"""CrisisMMD v2.0: tweets about seven disasters, text and image (Alam, Ofli and Imran, 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.benchmarks.crisismmd_files import HUMANITARIAN, read_features, read_tweets
from mst_distill.benchmarks.raw_files import leads_out
from mst_distill.benchmarks.reader_source import ReaderSource
from mst_distill.benchmarks.source import DamagedSampleError, Protocol
from mst_distill.benchmarks.splits import stratified_split
from mst_distill.media.encoded import EncodedPhotograph, EncodedTweet
from mst_distill.media.feature_files import Features


class CrisisMMD(ReaderSource):
    """Tweets and the first photograph of each, encoded as vectors by two frozen encoders.

    The task is the humanitarian one: the column ``label`` of the three files of the publisher's
    split. This split is kept; it does not share tweets between splits. In `index`, ``source`` is
    the disaster. The note ``text_repaired`` is 1 where `repair` changed the text of the tweet.

    A tweet whose photograph is missing is omitted, and one whose photograph cannot be decoded is
    damaged; both count towards `tolerated_share`.

    Args:
        protocol: Has no effect, because nothing is fitted.
        images: Folder that contains ``data_image/`` (the publisher's ``CrisisMMD_v2.0``).
        splits: Folder with ``task_humanitarian_text_img_{train,dev,test}.tsv`` (the publisher's
            ``crisismmd_datasplit_all``).
        text_encoder: Import path of a `TextEncoder`.
        image_encoder: Import path of an `ImageEncoder`.
        tolerated_share: Maximum share of all tweets that may be left out, in [0, 1).

    Raises:
        FileNotFoundError: A folder or file is missing; the message states which files belong there.
        ValueError: A row is invalid (see `read_tweets`), a photograph is a symbolic link to a file
            outside ``data_image``, or an encoder cannot be imported.
        TypeError: An import path does not name an encoder of the right kind.
    """

    classes = HUMANITARIAN
    notes = ("text_repaired",)

    def __init__(
        self,
        protocol: Protocol,
        images: str,
        splits: str,
        text_encoder: str = "mst_distill.media.encoders.BERTweet",
        image_encoder: str = "mst_distill.media.encoders.ResNet50",
        tolerated_share: float = 0.0,
    ) -> None:
        self.protocol = protocol
        # Image (2048,) and text (768,); the widths are the default encoders'.
        self.readers = {
            "image": EncodedPhotograph(image_encoder),
            "text": EncodedTweet(text_encoder),
        }
        self.tolerated_share = tolerated_share
        self._images = Path(images)
        tables, tweets = read_tweets(splits)
        if not (self._images / "data_image").is_dir():
            raise FileNotFoundError(
                f"{(self._images / 'data_image').absolute()} is not a folder: put the photographs "
                f"of CrisisMMD v2.0 there, data_image/<event>/<date>/<image_id>.jpg "
                f"(crisisnlp.qcri.org/crisismmd)"
            )
        present = np.array([(self._images / image).is_file() for image in tweets["image"]], bool)
        self.omitted = {
            tweet: f"{self._images / image} is missing"
            for tweet, image in tweets.loc[~present, ["id", "image"]].itertuples(index=False)
        }
        self.index = tweets[present].reset_index(drop=True)
        self._reject_links_out()
        # The photographs are listed, too, so that the store is rebuilt after a damaged one was
        # downloaded again.
        self.files = [*tables, *(self._images / image for image in self.index["image"])]

    def _reject_links_out(self) -> None:
        for tweet, image in self.index[["id", "image"]].itertuples(index=False):
            file = self._images / image
            # data_image itself, or the whole folder, may be a link to another disk.
            if leads_out(file, self._images) and leads_out(file, self._images / "data_image"):
                raise ValueError(
                    f"{file}: the photograph of tweet {tweet} is a link to a file outside "
                    f"{self._images}; put the file there, or make the whole folder a link"
                )

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[Any]:
        """Return the files of the photographs, or the texts of the tweets."""
        if modality == "text":
            return part["text"].tolist()
        return [self._images / image for image in part["image"]]


class CrisisMMDFeatures(ReaderSource):
    """CrisisMMD as precomputed features: one ``.pth`` file of images, texts and labels.

    Such a file contains neither tweet ids nor the publisher's split. The samples are therefore
    split 60 / 20 / 20 within each class, and ``group`` is the row.

    Args:
        protocol: Has no effect, because nothing is fitted.
        file: File written by ``torch.save`` with (image, text, label) or with a dict of these keys,
            as numpy arrays or tensors of shape ``(N, width)``, ``(N, width)`` and ``(N,)``.
        split_seed: Seed of the split. It does not depend on the seed of the run, so that runs with
            different seeds use the same split.
        tolerated_share: See `SampleSource`.

    Raises:
        FileNotFoundError: `file` is missing.
        ValueError: The file is invalid (see `read_features`).
    """

    classes = HUMANITARIAN

    def __init__(
        self, protocol: Protocol, file: str, split_seed: int = 0, tolerated_share: float = 0.0
    ) -> None:
        self.tolerated_share = tolerated_share
        self.files = [Path(file)]
        self.protocol = protocol
        self._features = read_features(self.files[0])
        self.readers = {
            name: Features(getattr(self._features, name).shape[1:]) for name in ("image", "text")
        }
        labels = self._features.label
        ids = [f"row-{row:05d}" for row in range(len(labels))]
        self.index = pd.DataFrame(
            {
                "id": ids,
                "group": ids,
                "split": stratified_split(labels, np.random.default_rng(split_seed)),
                "label": labels,
                "row": np.arange(len(labels)),
            }
        )

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[np.ndarray]:
        """Return the features of a modality, ``(n, width)``.

        Raises:
            DamagedSampleError: All features of an image or of a text have the same value, as where
                the image or the text was missing.
        """
        rows = part["row"].to_numpy()
        values: np.ndarray = getattr(self._features, modality)[rows].astype(np.float32)
        constant = np.ptp(values, axis=1) == 0
        if values.shape[1] > 1 and constant.any():
            row = int(np.argmax(constant))
            raise DamagedSampleError(
                part["id"].iloc[row],
                f"{self.files[0]}: {modality} of row {rows[row]} is {values[row, 0]:g} throughout",
            )
        return list(values)
