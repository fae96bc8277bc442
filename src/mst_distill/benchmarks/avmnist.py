"""AV-MNIST: handwritten digits reduced by PCA, with spoken digits in noise (Vielzeuf et al., 2018).

Two sources read it: from the raw files, and from MultiBench's prepared arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mst_distill.benchmarks.avmnist_files import (
    Mnist,
    Recordings,
    open_multibench,
    read_clips,
    read_mnist,
    read_recordings,
)
from mst_distill.benchmarks.reader_source import ReaderSource
from mst_distill.benchmarks.source import DamagedSampleError, Protocol
from mst_distill.benchmarks.splits import SHARES, deal_groups
from mst_distill.data.samples import SPLITS
from mst_distill.media.feature_files import Features
from mst_distill.media.pca_reduction import ReducedImageFile
from mst_distill.media.sound import refuse_silence
from mst_distill.media.spoken_digits import LENGTH, RATE, SIZE, DigitSpectrogram


class AVMNIST(ReaderSource):
    """One pair of an image and a spoken digit in noise for each MNIST image, from the raw files.

    `ReducedImageFile` removes most of the variance of the images. The audio is the spectrogram (see
    `DigitSpectrogram`) of a recording of the same digit mixed with an excerpt of a noise clip; 0.7
    % of the Free Spoken Digit Dataset is longer than the part that is used. In use, a student reads
    recordings as they are: the noise is part of the task, not of the reading.

    The leak-free split keeps MNIST's own test set and uses a fifth of the training images of each
    digit for validation. Speakers and noise clips are assigned 60 / 20 / 20 to the splits, at least
    one to each, and are drawn with replacement within their split. In `index`, ``group`` and
    ``source`` are the speaker; ``image``, ``recording`` and ``noise`` count the images, the
    recordings and the noise clips in file order; ``offset`` is the audio sample of the clip at
    which the noise starts. An offset at which the noise would be digital silence is not used.

    Args:
        protocol: ``heldout`` fits the projection on the training split, ``random`` on all samples.
        mnist: Folder with MNIST's four idx .gz files.
        speech: Folder with ``{digit}_{speaker}_{take}.wav`` files of any sampling rate.
        noise: Folder with noise clips (wav, flac, ogg, mp3) of any sampling rate.
        kept_energy: Share of the variance of the images that the projection keeps, in (0, 1].
        snr_db: Signal-to-noise ratio: power of the recording over power of the noise, in dB.
        pair_seed: Seed of the split and of the pairs. It does not depend on the seed of the run, so
            that runs with different seeds use the same pairs.

    Raises:
        FileNotFoundError: A folder or one of MNIST's files is missing; the message states which
            files belong there.
        ValueError: A file is damaged or invalid (see `avmnist_files`), there are fewer than three
            speakers or clips, a digit has no recording by the speakers of a split, or `kept_energy`
            is out of range.
    """

    classes = tuple(str(digit) for digit in range(10))
    shared_by_groups = "clips of noise"

    def __init__(
        self,
        protocol: Protocol,
        mnist: str,
        speech: str,
        noise: str,
        kept_energy: float = 0.25,
        snr_db: float = 0.0,
        pair_seed: int = 0,
    ) -> None:
        images, recordings = read_mnist(mnist), read_recordings(speech)
        clip_files, clips = read_clips(noise)
        self.files = [*images.files, *recordings.files, *clip_files]
        self.protocol = protocol
        # Image (1, 28, 28) and audio (1, 112, 112), low frequencies first, both in [0, 1].
        self.readers = {
            "image": ReducedImageFile(28, 28, kept_energy),
            "audio": DigitSpectrogram(),
        }
        self._snr_db = snr_db
        self._recordings = [wave[:LENGTH] for wave in recordings.waves]
        for file, wave in zip(recordings.files, self._recordings, strict=True):
            refuse_silence(file, wave, f"the part that is used, {len(wave) / RATE:g} s,")
        self._clips = [np.resize(clip, max(len(clip), LENGTH)) for clip in clips]
        offsets = np.array([len(clip) - LENGTH + 1 for clip in self._clips])
        rng = np.random.default_rng(pair_seed)
        self.index = _pair(images, recordings, offsets, rng)
        self._redraw_silent_offsets(rng)
        self._images = images.images

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[np.ndarray]:
        """Return the pixels of each image, ``(n, 784)``, or each mixture, ``(n, LENGTH)``."""
        return list(self._images[part["image"]] if modality == "image" else self._mix(part))

    def _redraw_silent_offsets(self, rng: np.random.Generator) -> None:
        """Draw a new `offset` where the noise would be silent; the other offsets stay unchanged."""
        offset = self.index["offset"].to_numpy().copy()
        noise = self.index["noise"].to_numpy()
        for number, clip in enumerate(self._clips):
            audible = _audible_offsets(clip)
            silent = np.flatnonzero(noise == number)
            silent = silent[~np.isin(offset[silent], audible)]
            offset[silent] = rng.choice(audible, len(silent))
        self.index["offset"] = offset

    def _mix(self, part: pd.DataFrame) -> np.ndarray:
        """Return recordings plus noise, ``(n, LENGTH)`` float32."""
        speech = np.zeros((len(part), LENGTH), np.float32)
        noise = np.empty_like(speech)
        gain = np.empty((len(part), 1), np.float32)
        draws = zip(part["recording"], part["noise"], part["offset"], strict=True)
        for row, (recording, clip, offset) in enumerate(draws):
            wave = self._recordings[recording]
            speech[row, : len(wave)] = wave
            noise[row] = self._clips[clip][offset : offset + LENGTH]
            # The power is measured without the padding, which would make a short word count as
            # quiet.
            gain[row] = np.sqrt(np.mean(wave**2) / np.mean(noise[row] ** 2))
        return speech + noise * gain * np.float32(10 ** (-self._snr_db / 20))


class MultiBenchAVMNIST(ReaderSource):
    """AV-MNIST as MultiBench distributes it: arrays that are already reduced, mixed and paired.

    Both modalities are scaled to [0, 1] for each sample, so nothing is fitted. The leak-free split
    keeps MultiBench's test set. The arrays do not record the speakers, so a speaker may be in
    several splits. In `index`, ``row`` counts the training samples and then the test samples.

    Args:
        protocol: Has no effect.
        folder: Folder with ``image/train_data.npy`` (60000, 784), ``audio/train_data.npy`` (60000,
            112, 112), ``train_labels.npy``, and the same files for test.
        split_seed: Seed of the choice of validation samples. It does not depend on the seed of the
            run, so that runs with different seeds use the same split.
        tolerated_share: See `SampleSource`.

    Raises:
        FileNotFoundError: The folder or a file is missing; the message states which files belong
            there.
        ValueError: An array is damaged or has the wrong shape or length, or a label is not a digit.
    """

    classes = tuple(str(digit) for digit in range(10))
    shared_by_groups = "recordings"

    def __init__(
        self,
        protocol: Protocol,
        folder: str,
        split_seed: int = 0,
        tolerated_share: float = 0.0,
    ) -> None:
        self.protocol = protocol
        self.tolerated_share = tolerated_share
        # Image (1, 28, 28) and audio (1, 112, 112), both in [0, 1].
        self.readers = {
            "image": Features((1, 28, 28), scaled=True),
            "audio": Features((1, SIZE, SIZE), scaled=True),
        }
        self._train = open_multibench(folder, "train")
        self._test = open_multibench(folder, "test")
        self.files = [*self._train.files, *self._test.files]
        train_count, test_count = len(self._train.labels), len(self._test.labels)
        labels = np.concatenate([self._train.labels, self._test.labels])
        rng = np.random.default_rng(split_seed)
        ids = [f"train-{row:05d}" for row in range(train_count)]
        ids += [f"test-{row:05d}" for row in range(test_count)]
        self.index = pd.DataFrame(
            {
                "id": ids,
                "group": ids,
                "split": _hold_out_valid(labels, train_count, rng),
                "label": labels,
                "row": np.arange(len(labels)),
            }
        )

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[np.ndarray]:
        """Return the images ``(n, 784)`` or the spectrograms ``(n, 112, 112)``.

        Raises:
            DamagedSampleError: An image or a spectrogram contains NaN or infinity or is constant
                (an empty image, or digital silence).
        """
        rows = part["row"].to_numpy()
        values = _gather(getattr(self._train, modality), getattr(self._test, modality), rows)
        flat, position = values.reshape(len(part), -1), list(self.readers).index(modality)
        self._reject(~np.isfinite(flat).all(axis=1), part, position, "contains NaN or infinity")
        self._reject(np.ptp(flat, axis=1) == 0, part, position, "has the same value throughout")
        return list(values)

    def _reject(self, invalid: np.ndarray, part: pd.DataFrame, position: int, fault: str) -> None:
        """Raise an error for the first sample that is `invalid`, if any.

        Args:
            invalid: ``(n,)`` booleans.
            part: The rows of `index` of the n samples.
            position: Position of the array file in `MultiBenchSplit.files`.
            fault: What is wrong with an invalid row.
        """
        if invalid.any():
            first = part.iloc[int(np.argmax(invalid))]
            row, count = first["row"], len(self._train.labels)
            source, row = (self._train, row) if row < count else (self._test, row - count)
            raise DamagedSampleError(first["id"], f"{source.files[position]}: row {row} {fault}")


def _pair(
    mnist: Mnist, recordings: Recordings, offsets: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Split images, speakers and clips, then draw a recording and a clip for each image.

    Args:
        mnist: The N images and their digits.
        recordings: The recordings, their digits and their speakers.
        offsets: ``(clips,)`` number of audio samples of each clip at which the noise can start.
        rng: Generator of the splits and of the draws.

    Returns:
        The index of `AVMNIST`, N rows.

    Raises:
        ValueError: There are fewer than three speakers or clips, or the speakers of a split have
            no recording of a digit.
    """
    labels = mnist.labels
    split = _hold_out_valid(labels, mnist.train_count, rng)
    speakers = np.unique(recordings.speakers)
    split_of = dict(
        zip(speakers, deal_groups(len(speakers), "speakers in `speech`", rng), strict=True)
    )
    recording_split = np.array([split_of[speaker] for speaker in recordings.speakers])
    clip_split = deal_groups(len(offsets), "clips in `noise`", rng)
    recording = np.empty(len(labels), np.int64)
    noise = np.empty(len(labels), np.int64)
    for name in SPLITS:
        images = np.flatnonzero(split == name)
        noise[images] = rng.choice(np.flatnonzero(clip_split == name), len(images))
        for digit in range(10):
            choices = np.flatnonzero((recording_split == name) & (recordings.digits == digit))
            if not len(choices):
                assigned = [speaker for speaker in speakers if split_of[speaker] == name]
                raise ValueError(
                    f"{recordings.files[0].parent}: there is no wav of digit {digit} by the "
                    f"speakers of the split {name!r} ({', '.join(assigned)})"
                )
            rows = images[labels[images] == digit]
            recording[rows] = rng.choice(choices, len(rows))
    return pd.DataFrame(
        {
            "id": [f"image-{i:05d}_{recordings.files[r].stem}" for i, r in enumerate(recording)],
            "group": recordings.speakers[recording],
            "split": split,
            "label": labels,
            "source": recordings.speakers[recording],
            "image": np.arange(len(labels)),
            "recording": recording,
            "noise": noise,
            "offset": rng.integers(0, offsets[noise]),
        }
    )


def _audible_offsets(clip: np.ndarray) -> np.ndarray:
    """Return all offsets at which the next `LENGTH` samples are not constant, ascending."""
    changes = np.concatenate([[0], np.cumsum(np.diff(clip) != 0)])
    audible: np.ndarray = np.flatnonzero(changes[LENGTH - 1 :] > changes[: len(clip) - LENGTH + 1])
    return audible


def _hold_out_valid(labels: np.ndarray, train_count: int, rng: np.random.Generator) -> np.ndarray:
    """Return split names: a fifth of each digit in the first `train_count` rows is ``valid``.

    The rest of these rows is ``train``, and all later rows are ``test``.
    """
    split = np.repeat(np.array(["train", "test"]), [train_count, len(labels) - train_count])
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels[:train_count] == digit))
        split[rows[: round(SHARES["valid"] * len(rows))]] = "valid"
    return split


def _gather(train: np.ndarray, test: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return some rows of the concatenation of `train` and `test`, float32.

    Only these rows are read: both arrays are memory-mapped.
    """
    gathered = np.empty((len(rows), *train.shape[1:]), np.float32)
    in_train = rows < len(train)
    gathered[in_train] = train[rows[in_train]]
    gathered[~in_train] = test[rows[~in_train] - len(train)]
    return gathered
