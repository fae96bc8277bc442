"""CrisisMMD v2.0: tweets of seven disasters, text and photograph (Alam, Ofli and Imran, 2018)."""

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
    """Tweets with the first of their photographs, as vectors by two frozen encoders.

    The humanitarian task: the column ``label`` of the three files of the publisher's split, which
    is kept; it holds tweets apart. ``source`` in `index` is the disaster. The note
    ``text_repaired`` is 1 where `repair` changed the tweet's text.

    A photograph that is no file is omitted, one that cannot be decoded is damaged; both count
    towards `tolerated_share`.

    Args:
        protocol: Without effect here: nothing is fitted.
        images: Folder that holds ``data_image/`` (the publisher's ``CrisisMMD_v2.0``).
        splits: Folder of ``task_humanitarian_text_img_{train,dev,test}.tsv`` (the publisher's
            ``crisismmd_datasplit_all``).
        text_encoder: A `TextEncoder` by import path.
        image_encoder: An `ImageEncoder` by import path.
        tolerated_share: How much of all tweets may be left out, in [0, 1).

    Raises:
        FileNotFoundError: A folder or file is missing; says what to put where.
        ValueError: A row does not fit (see `read_tweets`), a photograph is a link that leads out of
            ``data_image``, or an encoder cannot be imported.
        TypeError: An encoder is none.
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
                f"{(self._images / 'data_image').absolute()} is no folder: put the photographs of "
                f"CrisisMMD v2.0 there, data_image/<event>/<date>/<image_id>.jpg "
                f"(crisisnlp.qcri.org/crisismmd)"
            )
        there = np.array([(self._images / image).is_file() for image in tweets["image"]], bool)
        self.omitted = {
            tweet: f"{self._images / image} is missing"
            for tweet, image in tweets.loc[~there, ["id", "image"]].itertuples(index=False)
        }
        self.index = tweets[there].reset_index(drop=True)
        self._refuse_links_out()
        # With the photographs: a store must not stay when a damaged one was fetched again.
        self.files = [*tables, *(self._images / image for image in self.index["image"])]

    def _refuse_links_out(self) -> None:
        for tweet, image in self.index[["id", "image"]].itertuples(index=False):
            file = self._images / image
            # data_image may lie on another disk, as the whole folder may.
            if leads_out(file, self._images) and leads_out(file, self._images / "data_image"):
                raise ValueError(
                    f"{file}: the photograph of tweet {tweet} is a link that leads out of "
                    f"{self._images}; put the file there, or make the whole folder a link"
                )

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Image ``(n, 2048)`` and text ``(n, 768)``, by the default encoders.

        Raises:
            DamagedSampleError: A photograph cannot be decoded.
            ConnectionError: An encoder's weights are not there and cannot be fetched.
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

    # Weights are loaded, and fetched, only once a store has to be built.
    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return self._text_encoder_class()

    @cached_property
    def _image_encoder(self) -> ImageEncoder:
        return self._image_encoder_class()


class CrisisMMDFeatures(SampleSource):
    """CrisisMMD as ready features, one ``.pth`` of image, text and label.

    Such a file tells neither tweets nor the publisher's split, so the split is dealt here, 60 / 20
    / 20 within each class, and ``group`` is the row.

    Args:
        protocol: Without effect here: nothing is fitted.
        file: What ``torch.save`` made of (image, text, label) or of a dict with these keys, as
            numpy arrays or tensors: ``(N, width)``, ``(N, width)`` and ``(N,)``.
        split_seed: Decides the split; fixed, so that seeds of a run share it.
        tolerated_share: As in `SampleSource`.

    Raises:
        FileNotFoundError: `file` is missing.
        ValueError: The file holds anything else (see `read_features`).
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
        """Image and text ``(n, width)``, as wide as they are in the file.

        Raises:
            DamagedSampleError: One of them is the same number throughout, as where there was
                nothing to make features of.
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
