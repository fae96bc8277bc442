"""RAVDESS: actors speak two sentences with eight emotions; video of the face, and audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mst_distill.benchmarks.ravdess_files import EMOTIONS, find_clips, parse_name
from mst_distill.benchmarks.reader_source import ReaderSource
from mst_distill.benchmarks.source import Protocol, refuse_too_many
from mst_distill.benchmarks.splits import deal_groups
from mst_distill.media.face_video import FaceVideo
from mst_distill.media.speech_audio import SpeechMFCC


class RAVDESS(ReaderSource):
    """The spoken clips of RAVDESS (Livingstone and Russo, 2018), from the files as published.

    Audio is the MFCC of 3.6 s (see `speech_audio`). Video is the face in fifteen frames of the same
    3.6 s (see `face_video`). Nothing is fitted, so the protocols differ in the split only.

    The leak-free split assigns 14, 5 and 5 of the 24 actors to train, valid and test, with men and
    women evenly distributed. In `index`, ``group`` and ``source`` are the actor; ``audio`` and
    ``video`` are indices into `files`.

    Args:
        protocol: Not used here, because nothing is fitted.
        audio: Folder with ``03-01-*.wav`` (or ogg, flac), also in subfolders.
        video: Folder with ``01-01-*.mp4``, also in subfolders; may be the same folder as `audio`.
        face_finder: Import path of a `FaceFinder`.
        split_seed: Seed of the assignment of actors to splits. It does not depend on the seed of
            the run, so that runs with different seeds use the same split.
        tolerated_share: See `SampleSource`.

    Raises:
        FileNotFoundError: A folder is missing or contains no spoken clip; the message states which
            files belong there.
        ValueError: A file name is invalid (see `ravdess_files`), too many clips lack audio or
            video, there are fewer than three actors, or `face_finder` does not exist.
        TypeError: `face_finder` is not a `FaceFinder`.
    """

    classes = EMOTIONS
    notes = ("seconds", "frames_without_face", "frames_missing")

    def __init__(
        self,
        protocol: Protocol,
        audio: str,
        video: str,
        face_finder: str = "mst_distill.media.faces.HaarFaces",
        split_seed: int = 0,
        tolerated_share: float = 0.0,
    ) -> None:
        self.protocol = protocol
        # Video (3, 15, 224, 224) in RGB, and audio (15, 156), both in [0, 1].
        self.readers = {"video": FaceVideo(face_finder), "audio": SpeechMFCC()}
        self.tolerated_share = tolerated_share
        audio_files, video_files = find_clips(audio, "audio"), find_clips(video, "video")
        clips, self.omitted = pair_clips(
            {"audio": set(audio_files), "video": set(video_files)},
            {"audio": Path(audio), "video": Path(video)},
        )
        refuse_too_many(self.omitted, len(clips) + len(self.omitted), tolerated_share)
        self.files = [*audio_files.values(), *video_files.values()]
        position_of = {file: position for position, file in enumerate(self.files)}
        self.index = index_clips(clips, split_seed).assign(
            audio=[position_of[audio_files[clip]] for clip in clips],
            video=[position_of[video_files[clip]] for clip in clips],
        )

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[Path]:
        """Return the files of a modality."""
        return [self.files[position] for position in part[modality]]


def pair_clips(
    found: Mapping[str, set[str]], where: Mapping[str, Path]
) -> tuple[list[str], dict[str, str]]:
    """Find the clips that exist in all modalities.

    Args:
        found: The names of the clips (see `Name.clip`) of each modality.
        where: The folder or file that was searched for each modality.

    Returns:
        The sorted names of the complete clips, and for each other clip the reason.
    """
    lacking = {
        clip: [modality for modality, names in found.items() if clip not in names]
        for clip in sorted(set().union(*found.values()))
    }
    omitted = {
        clip: f"{where[modalities[0]]} contains no {modalities[0]} of this clip"
        for clip, modalities in lacking.items()
        if modalities
    }
    return [clip for clip, modalities in lacking.items() if not modalities], omitted


def index_clips(clips: Sequence[str], split_seed: int) -> pd.DataFrame:
    """Return an index with one row for each clip, in which each actor is in one split.

    Args:
        clips: Names of the clips (see `Name.clip`).
        split_seed: Seed of the assignment of actors to splits.

    Returns:
        A table with ``id``, ``group``, ``split``, ``label`` and ``source``.

    Raises:
        ValueError: There are fewer than three actors.
    """
    names = [parse_name(f"01-{clip}", clip) for clip in clips]
    actors = np.array([name.actor for name in names])
    all_actors = np.unique(actors)
    rng = np.random.default_rng(split_seed)
    # Men have odd actor numbers, women have even ones.
    split_of_actor = deal_groups(len(all_actors), "actors", rng, kinds=all_actors % 2)
    group = [f"Actor_{actor:02d}" for actor in actors]
    return pd.DataFrame(
        {
            "id": list(clips),
            "group": group,
            "split": split_of_actor[np.searchsorted(all_actors, actors)],
            "label": [name.emotion - 1 for name in names],
            "source": group,
        }
    )
