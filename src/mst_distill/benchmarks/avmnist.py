"""AV-MNIST: weakened handwritten digits with spoken digits in noise (Vielzeuf et al., 2018)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mst_distill.benchmarks.avmnist_files import (
    RATE,
    Mnist,
    Recordings,
    open_multibench,
    read_clips,
    read_mnist,
    read_recordings,
)
from mst_distill.benchmarks.source import DamagedSampleError, Protocol, SampleSource
from mst_distill.benchmarks.splits import SHARES, deal_groups
from mst_distill.data.samples import SPLITS
from mst_distill.media.sound import refuse_silence
from mst_distill.media.unit_scale import scale_to_unit
from mst_distill.media.weakening import weaken

SIZE = 112
"""Frequencies and frames of a spectrogram."""

LENGTH = RATE // (SIZE - 1) * (SIZE - 1)
"""Audio samples of a recording: 0.999 s."""

DYNAMIC_RANGE = 80
"""Decibels below a spectrogram's peak at which it is cut off, so that gaps do not set the scale."""


class AVMNIST(SampleSource):
    """One pair of an image and a spoken digit in noise for every image of MNIST, from raw files.

    Images are weakened by `weaken`. Audio is a recording of the same digit, padded or cut at its
    end to 0.999 s at 8 kHz (7,992 samples, 0.7 % of the Free Spoken Digit Dataset are longer), plus
    as much of a noise clip, as the logarithm of its power spectrogram: Hann windows of 222 samples
    give 112 frequencies from 0 to 4 kHz, a hop of 72 samples gives 112 frames. It is cut off 80 dB
    below its peak and scaled to [0, 1] for each sample.

    The leak-free split keeps MNIST's own test set and takes a fifth of every digit's training
    images for validation; speakers and noise clips are dealt 60 / 20 / 20, at least one to each
    split, and drawn with replacement within the split. `index` says who with whom: ``group``
    and ``source`` are the speaker; ``image``, ``recording`` and ``noise`` are rows, images and
    files in order, and ``offset`` is the sample at which the noise starts. It starts nowhere that
    a clip then has nothing but digital silence: that would be no noise.

    Args:
        protocol: ``heldout`` fits the projection on train alone, ``random`` on all.
        mnist: Folder of the four MNIST idx .gz files.
        speech: Folder of ``{digit}_{speaker}_{take}.wav``, of any sampling rate.
        noise: Folder of noise clips (wav, flac, ogg, mp3), of any sampling rate.
        kept_energy: Share of the images' variance that stays, in (0, 1].
        snr_db: Power of the recording over that of the noise beside it, in dB.
        pair_seed: Decides split and pairs; fixed, so that seeds of a run share them.

    Raises:
        FileNotFoundError: A folder or one of MNIST's files is missing; says what to put where.
        ValueError: A file is damaged or does not fit (see `avmnist_files`), there are fewer than
            three speakers or clips, a split's speakers never say a digit, or `kept_energy` is no
            such share.
    """

    classes = tuple(str(digit) for digit in range(10))

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
        written, spoken = read_mnist(mnist), read_recordings(speech)
        clip_files, clips = read_clips(noise)
        self.files = [*written.files, *spoken.files, *clip_files]
        self._snr_db = snr_db
        self._recordings = [wave[:LENGTH] for wave in spoken.waves]
        for file, wave in zip(spoken.files, self._recordings, strict=True):
            refuse_silence(file, wave, f"what is used of it, {len(wave) / RATE:g} s,")
        self._clips = [np.resize(clip, max(len(clip), LENGTH)) for clip in clips]
        offsets = np.array([len(clip) - LENGTH + 1 for clip in self._clips])
        rng = np.random.default_rng(pair_seed)
        self.index = _pair(written, spoken, offsets, rng)
        self._leave_silence(rng)
        fit = self.index if protocol == "random" else self.index.query("split == 'train'")
        self._images = weaken(written.images, written.images[fit["image"]], kept_energy)

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Image ``(n, 1, 28, 28)`` and audio ``(n, 1, 112, 112)``, low frequencies first."""
        return {
            "image": self._images[part["image"]].reshape(-1, 1, 28, 28),
            "audio": scale_to_unit(_log_power(self._mix(part))),
        }

    def _leave_silence(self, rng: np.random.Generator) -> None:
        """Draw `offset` again where all of the noise would be silent; the others stay."""
        offset = self.index["offset"].to_numpy().copy()
        noise = self.index["noise"].to_numpy()
        for place, clip in enumerate(self._clips):
            heard = _heard_starts(clip)
            silent = np.flatnonzero(noise == place)
            silent = silent[~np.isin(offset[silent], heard)]
            offset[silent] = rng.choice(heard, len(silent))
        self.index["offset"] = offset

    def _mix(self, part: pd.DataFrame) -> np.ndarray:
        """Recordings plus noise, ``(n, LENGTH)`` float32."""
        speech = np.zeros((len(part), LENGTH), np.float32)
        noise = np.empty_like(speech)
        gain = np.empty((len(part), 1), np.float32)
        draws = zip(part["recording"], part["noise"], part["offset"], strict=True)
        for row, (recording, clip, offset) in enumerate(draws):
            spoken = self._recordings[recording]
            speech[row, : len(spoken)] = spoken
            noise[row] = self._clips[clip][offset : offset + LENGTH]
            # Over the recording alone: its padding would make a short word a faint one.
            gain[row] = np.sqrt(np.mean(spoken**2) / np.mean(noise[row] ** 2))
        return speech + noise * gain * np.float32(10 ** (-self._snr_db / 20))


class MultiBenchAVMNIST(SampleSource):
    """AV-MNIST as MultiBench ships it: ready arrays, already weakened, mixed and paired.

    Both modalities are scaled to [0, 1] for each sample, so nothing is fitted. The leak-free split
    keeps MultiBench's test part; speakers are not told in it, so they are not held apart. In
    `index`, ``row`` counts train and test as one array.

    Args:
        protocol: Without effect here.
        folder: Holds ``image/train_data.npy`` (60000, 784), ``audio/train_data.npy`` (60000, 112,
            112), ``train_labels.npy`` and the same for test.
        split_seed: Decides which training samples validate; fixed, so that seeds of a run share it.
        tolerated_share: As in `SampleSource`.

    Raises:
        FileNotFoundError: The folder or a file is missing; says what to put where.
        ValueError: An array is damaged, of the wrong shape or length, or a label is no digit.
    """

    classes = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        protocol: Protocol,
        folder: str,
        split_seed: int = 0,
        tolerated_share: float = 0.0,
    ) -> None:
        self.tolerated_share = tolerated_share
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

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Image ``(n, 1, 28, 28)`` and audio ``(n, 1, 112, 112)``.

        Raises:
            DamagedSampleError: One of them holds NaN or infinity, or is constant: digital silence,
                or an empty image.
        """
        rows = part["row"].to_numpy()
        image = _gather(self._train.image, self._test.image, rows)
        audio = _gather(self._train.audio, self._test.audio, rows)
        for place, values in enumerate((image, audio)):
            flat = values.reshape(len(part), -1)
            self._refuse_rows(~np.isfinite(flat).all(axis=1), part, place, "NaN or infinity")
            self._refuse_rows(np.ptp(flat, axis=1) == 0, part, place, "one number throughout")
        return {
            "image": scale_to_unit(image).reshape(-1, 1, 28, 28),
            "audio": scale_to_unit(audio)[:, None],
        }

    def _refuse_rows(self, wrong: np.ndarray, part: pd.DataFrame, place: int, what: str) -> None:
        """Refuse the first sample that is `wrong`, of the file at a `place` among a part's."""
        if wrong.any():
            first = part.iloc[int(np.argmax(wrong))]
            row, count = first["row"], len(self._train.labels)
            of, row = (self._train, row) if row < count else (self._test, row - count)
            raise DamagedSampleError(first["id"], f"{of.files[place]}: row {row} holds {what}")


def _pair(
    written: Mnist, spoken: Recordings, offsets: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Split images, speakers and clips apart, then draw a recording and a clip for every image.

    Args:
        written: The images.
        spoken: The recordings.
        offsets: ``(clips,)``, at how many samples the noise can start.
        rng: Decides the splits and the draws.
    """
    labels = written.labels
    split = _hold_out_valid(labels, written.train_count, rng)
    speakers = np.unique(spoken.speakers)
    split_of = dict(
        zip(speakers, deal_groups(len(speakers), "speakers in `speech`", rng), strict=True)
    )
    recording_split = np.array([split_of[speaker] for speaker in spoken.speakers])
    clip_split = deal_groups(len(offsets), "clips in `noise`", rng)
    recording = np.empty(len(labels), np.int64)
    noise = np.empty(len(labels), np.int64)
    for name in SPLITS:
        images = np.flatnonzero(split == name)
        noise[images] = rng.choice(np.flatnonzero(clip_split == name), len(images))
        for digit in range(10):
            choice = np.flatnonzero((recording_split == name) & (spoken.digits == digit))
            if not len(choice):
                heard = [speaker for speaker in speakers if split_of[speaker] == name]
                raise ValueError(
                    f"{spoken.files[0].parent}: no wav of digit {digit} by the speakers dealt to "
                    f"{name!r} ({', '.join(heard)})"
                )
            said = images[labels[images] == digit]
            recording[said] = rng.choice(choice, len(said))
    return pd.DataFrame(
        {
            "id": [f"image-{i:05d}_{spoken.files[r].stem}" for i, r in enumerate(recording)],
            "group": spoken.speakers[recording],
            "split": split,
            "label": labels,
            "source": spoken.speakers[recording],
            "image": np.arange(len(labels)),
            "recording": recording,
            "noise": noise,
            "offset": rng.integers(0, offsets[noise]),
        }
    )


def _heard_starts(clip: np.ndarray) -> np.ndarray:
    """Where a noise of `LENGTH` samples can start that are not all alike, ascending."""
    changes = np.concatenate([[0], np.cumsum(np.diff(clip) != 0)])
    heard: np.ndarray = np.flatnonzero(changes[LENGTH - 1 :] > changes[: len(clip) - LENGTH + 1])
    return heard


def _hold_out_valid(labels: np.ndarray, train_count: int, rng: np.random.Generator) -> np.ndarray:
    """Split names: ``valid`` for a fifth of every digit in the first `train_count`, then test."""
    split = np.repeat(np.array(["train", "test"]), [train_count, len(labels) - train_count])
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels[:train_count] == digit))
        split[rows[: round(SHARES["valid"] * len(rows))]] = "valid"
    return split


def _log_power(waves: np.ndarray) -> np.ndarray:
    """Spectrograms in dB, ``(n, 1, SIZE, SIZE)`` as (frequency, frame), of ``(n, LENGTH)``."""
    import torch
    from torchaudio.transforms import AmplitudeToDB, Spectrogram

    transform = Spectrogram(n_fft=2 * (SIZE - 1), hop_length=LENGTH // (SIZE - 1))
    power = transform(torch.from_numpy(waves))
    # The channel axis makes torchaudio cut every sample below its own peak, not below the batch's.
    decibels: np.ndarray = AmplitudeToDB("power", top_db=DYNAMIC_RANGE)(power[:, None]).numpy()
    return decibels


def _gather(train: np.ndarray, test: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of `train` followed by `test`, float32, without reading the others."""
    gathered = np.empty((len(rows), *train.shape[1:]), np.float32)
    in_train = rows < len(train)
    gathered[in_train] = train[rows[in_train]]
    gathered[~in_train] = test[rows[~in_train] - len(train)]
    return gathered
