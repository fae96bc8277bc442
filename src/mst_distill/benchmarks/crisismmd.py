"""CrisisMMD v2.0: tweets about seven disasters, text and image (Alam, Ofli and Imran, 2018)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mst_distill.benchmarks.crisismmd_files import HUMANITARIAN, read_features, read_tweets
from mst_distill.benchmarks.photographs import open_image
from mst_distill.benchmarks.raw_files import leads_out
from mst_distill.benchmarks.source import DamagedSampleError, Protocol, SampleSource
from mst_distill.benchmarks.splits import stratified_split
from mst_distill.import_path import resolve
from mst_distill.media.encoders import ImageEncoder, TextEncoder
from mst_distill.media.tweets import clean_tweet, repair


class CrisisMMD(SampleSource):
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
        self._text_encoder_class = resolve(text_encoder, TextEncoder)
        self._image_encoder_class = resolve(image_encoder, ImageEncoder)
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

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return image ``(n, 2048)`` and text ``(n, 768)``; the widths are the default encoders'.

        Raises:
            DamagedSampleError: A photograph cannot be decoded.
            ConnectionError: The weights of an encoder are not on disk and cannot be downloaded.
        """
        photographs = (
            open_image(self._images / image, sample)
            for sample, image in zip(part["id"], part["image"], strict=True)
        )
        return {
            "image": self._image_encoder.encode(photographs),
            "text": self._text_encoder.encode([clean_tweet(text) for text in part["text"]]),
            "text_repaired": np.array([repair(text) != text for text in part["text"]], np.float32),
        }

    # The weights are downloaded and loaded on first use, which is when a store has to be built.
    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return self._text_encoder_class()

    @cached_property
    def _image_encoder(self) -> ImageEncoder:
        return self._image_encoder_class()


class CrisisMMDFeatures(SampleSource):
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
        self._features = read_features(self.files[0])
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

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return image and text, each ``(n, width)``, with the widths of the file.

        Raises:
            DamagedSampleError: All features of an image or of a text have the same value, as where
                the image or the text was missing.
        """
        rows = part["row"].to_numpy()
        features = {
            "image": self._features.image[rows].astype(np.float32),
            "text": self._features.text[rows].astype(np.float32),
        }
        for name, values in features.items():
            constant = np.ptp(values, axis=1) == 0
            if values.shape[1] > 1 and constant.any():
                row = int(np.argmax(constant))
                raise DamagedSampleError(
                    part["id"].iloc[row],
                    f"{self.files[0]}: {name} of row {rows[row]} is {values[row, 0]:g} throughout",
                )
        return features
