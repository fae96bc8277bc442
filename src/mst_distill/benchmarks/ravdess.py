"""RAVDESS: actors who speak two sentences with eight emotions, seen and heard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mst_distill.benchmarks.ravdess_files import EMOTIONS, find_clips, parse_name
from mst_distill.benchmarks.source import Protocol, SampleSource, damaged, refuse_too_many
from mst_distill.benchmarks.splits import deal_groups
from mst_distill.import_path import resolve
from mst_distill.media.face_video import crop_faces, read_frames
from mst_distill.media.faces import FaceFinder
from mst_distill.media.speech_audio import mfcc, read_speech


class RAVDESS(SampleSource):
    """The spoken clips of RAVDESS (Livingstone and Russo, 2018), from the files as published.

    Audio is MFCC of 3.6 s (see `speech_audio`), video is the face in fifteen frames of the same
    3.6 s (see `face_video`). Neither needs anything fitted, so protocols differ in the split alone.

    The leak-free split deals the 24 actors 14 / 5 / 5, and men and women evenly. In `index`,
    ``group`` and ``source`` are the actor; ``audio`` and ``video`` are places in `files`.

    Args:
        protocol: Without effect here.
        audio: Folder with ``03-01-*.wav`` (or ogg, flac) at any depth.
        video: Folder with ``01-01-*.mp4`` at any depth; may be the same.
        face_finder: Import path of a `FaceFinder`.
        split_seed: Decides who goes to which split; fixed, so that seeds of a run share it.
        tolerated_share: As in `SampleSource`.

    Raises:
        FileNotFoundError: A folder is missing or holds no spoken clip; says what to put there.
        ValueError: A name does not fit (see `ravdess_files`), too many clips lack audio or video,
            there are fewer than three actors, or there is no such finder.
        TypeError: `face_finder` is something else.
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
        self._finder: FaceFinder = resolve(face_finder, FaceFinder)()
        self.tolerated_share = tolerated_share
        heard, seen = find_clips(audio, "audio"), find_clips(video, "video")
        clips, self.omitted = pair_clips(
            {"audio": set(heard), "video": set(seen)}, {"audio": Path(audio), "video": Path(video)}
        )
        refuse_too_many(self.omitted, len(clips) + len(self.omitted), tolerated_share)
        self.files = [*heard.values(), *seen.values()]
        places = {file: place for place, file in enumerate(self.files)}
        self.index = index_clips(clips, split_seed).assign(
            audio=[places[heard[clip]] for clip in clips],
            video=[places[seen[clip]] for clip in clips],
        )

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Video ``(n, 3, 15, 224, 224)`` in RGB and audio ``(n, 15, 156)``, both in [0, 1].

        Beside them the length of the audio in ``seconds``, and of the fifteen frames how many show
        no face (``frames_without_face``) and how many lie behind the clip's end
        (``frames_missing``), all ``(n,)``.
        """
        read = [
            self._read_clip(clip, self.files[audio], self.files[video])
            for clip, audio, video in zip(part["id"], part["audio"], part["video"], strict=True)
        ]
        waves, seconds, faces, without_face, missing = zip(*read, strict=True)
        return {
            "video": np.stack(faces),
            "audio": mfcc(np.stack(waves)),
            "seconds": np.array(seconds, np.float32),
            "frames_without_face": np.array(without_face),
            "frames_missing": np.array(missing),
        }

    def _read_clip(
        self, clip: str, audio: Path, video: Path
    ) -> tuple[np.ndarray, float, np.ndarray, int, int]:
        with damaged(clip):
            return *read_speech(audio), *crop_faces(read_frames(video), self._finder)


def pair_clips(
    found: Mapping[str, set[str]], where: Mapping[str, Path]
) -> tuple[list[str], dict[str, str]]:
    """Keep the clips that every modality has.

    Args:
        found: Modality to the names, as in `Name.clip`, that it has.
        where: Modality to the folder or file that was searched.

    Returns:
        The names of the clips, sorted, and of the others what they lack.
    """
    lacking = {
        clip: [modality for modality, has in found.items() if clip not in has]
        for clip in sorted(set().union(*found.values()))
    }
    omitted = {
        clip: f"{where[modalities[0]]} holds no {modalities[0]} of this clip"
        for clip, modalities in lacking.items()
        if modalities
    }
    return [clip for clip, modalities in lacking.items() if not modalities], omitted


def index_clips(clips: Sequence[str], split_seed: int) -> pd.DataFrame:
    """One row a clip, its actor in one split alone.

    Args:
        clips: Names without their first field, as in `Name.clip`.
        split_seed: Decides which.

    Returns:
        ``id``, ``group``, ``split``, ``label`` and ``source``.

    Raises:
        ValueError: There are fewer than three actors.
    """
    names = [parse_name(f"01-{clip}", clip) for clip in clips]
    actors = np.array([name.actor for name in names])
    all_actors = np.unique(actors)
    rng = np.random.default_rng(split_seed)
    # Men are odd, women even.
    dealt = deal_groups(len(all_actors), "actors", rng, kinds=all_actors % 2)
    group = [f"Actor_{actor:02d}" for actor in actors]
    return pd.DataFrame(
        {
            "id": list(clips),
            "group": group,
            "split": dealt[np.searchsorted(all_actors, actors)],
            "label": [name.emotion - 1 for name in names],
            "source": group,
        }
    )
