"""VGGSound-50k: clips as VGG-19 and VGGish features, one file each (Zhou et al., 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from mst_distill.artifacts import signed_json
from mst_distill.artifacts.atomic import replacing
from mst_distill.artifacts.progress import progress
from mst_distill.benchmarks.raw_files import leads_out, read_text
from mst_distill.benchmarks.reader_source import ReaderSource
from mst_distill.benchmarks.source import Protocol
from mst_distill.errors import did_you_mean
from mst_distill.media.feature_files import AudioSeconds, RangedFeatures, VideoSeconds

SPLIT_NAMES = {"train": "train", "val": "valid", "test": "test"}
"""The publisher's names of the splits, and the names in this project."""

MOST_DIGITS = 9
"""Maximum number of digits of a class."""

RANGES_AT_A_TIME = 64
"""Number of clips that `fit` reads before it saves its progress."""


class VGGSound50k(ReaderSource):
    """Clips of VGGSound-AVEL50k as shared by its users: one .npy for each clip and modality.

    These are features of the publishers' nets. A student of this benchmark needs such features,
    because the step from a clip to its features is not part of this project.

    The clips, the 141 categories and the leak-free split are those of Zhou et al., "Contrastive
    Positive Sample Propagation along the Audio-Visual Event Line", TPAMI 2022. Each modality is
    scaled by one minimum and one maximum. Under ``heldout`` these are taken over the training
    clips, so that the values of other clips may be slightly outside [0, 1]; under ``random`` they
    are taken over all clips.

    Args:
        protocol: ``heldout`` fits the scaling on the training split, ``random`` on all samples.
        video: Folder of VGG-19 pool5 features, ``CLIP.npy`` of (10, 7, 7, 512), one feature map for
            each second.
        audio: Folder of VGGish features, ``CLIP.npy`` of (10, 128). If the sound ends early, its
            last second is repeated, as the publishers do; seconds after the tenth are cut off.
        metadata: File with lines ``CLIP&CLASS``, where the class is a number from 0.
        splits: The publishers' table, a CSV file with the columns ``video_id`` (the clip),
            ``category`` and ``split`` (train, val, test).
        tolerated_share: Maximum share of all clips that may be missing or damaged, in [0, 1).

    Raises:
        FileNotFoundError: A file or folder is missing.
        ValueError: A line of `metadata` or `splits` is invalid, the file of a clip is a link to a
            file outside its folder, or too many clips are missing.
    """

    notes = ("audio_seconds",)

    def __init__(
        self,
        protocol: Protocol,
        video: str,
        audio: str,
        metadata: str,
        splits: str,
        tolerated_share: float = 0.01,
    ) -> None:
        self.tolerated_share = tolerated_share
        self.protocol = protocol
        # Video (512, 10, 7, 7) and audio (10, 128).
        self._kinds: dict[str, RangedFeatures] = {"video": VideoSeconds(), "audio": AudioSeconds()}
        self.readers = self._kinds
        self._folders = {"video": Path(video), "audio": Path(audio)}
        listed, table = _read_metadata(Path(metadata)), _read_splits(Path(splits))
        clips, self.classes = _join(listed, table, Path(metadata), Path(splits))
        available = {name: _clips_in(folder) for name, folder in self._folders.items()}
        self._reject_links_out(listed, Path(metadata))
        self.omitted = {
            clip: f"{self._folders[name] / clip}.npy is missing"
            for name, names in available.items()
            for clip in clips["id"][~clips["id"].isin(names)]
        }
        self.index = clips[~clips["id"].isin(list(self.omitted))].reset_index(drop=True)
        self.files = [Path(metadata), Path(splits)]
        for folder in self._folders.values():
            self.files += [folder / f"{clip}.npy" for clip in self.index["id"]]

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[Path]:
        """Return the files of a modality."""
        return [self._folders[modality] / f"{clip}.npy" for clip in part["id"]]

    def fit(self, folder: Path) -> None:
        """Find the range of each modality, reading all clips on which the scaling is fitted.

        The pass over the clips takes long, so its progress is kept in `folder`.
        """
        clips = self.rows_to_fit()["id"].tolist()
        ranges = _ranges(clips, folder / "ranges.json", self._range_of)
        for reader, (low, high) in zip(self._kinds.values(), ranges.T, strict=True):
            reader.fitted = {"range": np.array([low, high])}

    def _reject_links_out(self, clips: pd.DataFrame, metadata: Path) -> None:
        for folder in self._folders.values():
            links = {file.stem for file in folder.iterdir() if file.is_symlink()}
            for clip, line in clips.loc[clips["id"].isin(links), ["id", "line"]].to_numpy():
                if leads_out(file := folder / f"{clip}.npy", folder):
                    raise ValueError(
                        f"{metadata}, line {line}: {file} is a link to a file outside its folder; "
                        f"put the file there, or make the whole folder a link"
                    )

    def _range_of(self, clip: str) -> np.ndarray:
        """Return the minima (first row) and maxima of video and audio of one clip.

        All are NaN if the clip is damaged; `read` reports the damage later.
        """
        try:
            features = [
                reader.load(self._folders[name] / f"{clip}.npy")
                for name, reader in self._kinds.items()
            ]
        except ValueError:
            return np.full((2, 2), np.nan)
        return np.array([[f.min() for f in features], [f.max() for f in features]])


def _read_metadata(path: Path) -> pd.DataFrame:
    """Return ``id``, ``label`` and line number (``line``) of each line ``CLIP&CLASS``."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        clip, found, label = line.strip().rpartition("&")
        if not found or not clip or not label.isdecimal() or len(label) > MOST_DIGITS:
            raise ValueError(
                f"{path}, line {number}: {line[:99]!r} is not CLIP&CLASS with a class that is a "
                f"number of at most {MOST_DIGITS} digits"
            )
        if Path(clip).name != clip:
            raise ValueError(f"{path}, line {number}: {clip!r} is not a plain file name")
        rows.append((clip, int(label), number))
    clips = pd.DataFrame(rows, columns=["id", "label", "line"])
    if clips["id"].duplicated().any():
        repeated = clips[clips["id"].duplicated()].iloc[0]
        raise ValueError(
            f"{path}, line {repeated['line']}: the clip {repeated['id']!r} appears twice"
        )
    return clips


def _read_splits(path: Path) -> pd.DataFrame:
    """Return ``category``, ``split`` and line number (``line``) of each clip."""
    read_text(path)  # its error message for text that is not UTF-8 is clearer than pandas'
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except ValueError as error:
        raise ValueError(f"{path}: not a CSV table ({error})") from error
    for column in ("video_id", "category", "split"):
        if column not in table:
            raise ValueError(f"{path}: {did_you_mean('column', column, table.columns)}")
    table.index += 2  # the line number: line 1 is the header
    table = table.fillna("")
    table = table[(table != "").any(axis=1)]
    for line, split in table.loc[~table["split"].isin(list(SPLIT_NAMES)), "split"].items():
        raise ValueError(f"{path}, line {line}: {did_you_mean('split', split, SPLIT_NAMES)}")
    for line, clip in table.loc[table["video_id"].duplicated(), "video_id"].items():
        raise ValueError(f"{path}, line {line}: the clip {clip!r} appears twice")
    return table.assign(line=table.index).set_index("video_id")


def _join(
    clips: pd.DataFrame, table: pd.DataFrame, metadata: Path, splits: Path
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the index of all clips, and the category of each class."""
    unlisted = clips[~clips["id"].isin(table.index)]
    if len(unlisted):
        first = unlisted.iloc[0]
        raise ValueError(
            f"{metadata}, line {first['line']}: the clip {first['id']!r} and "
            f"{len(unlisted) - 1} others are not in the table of splits"
        )
    rows = table.loc[clips["id"]]
    if (unnamed := rows["category"].str.strip() == "").any():
        first = rows[unnamed].iloc[0]
        raise ValueError(
            f"{splits}, line {first['line']}: the clip {first.name!r} has no category; it must "
            f"have the name of its class"
        )
    named = pd.DataFrame({"label": clips["label"].to_numpy(), "category": rows["category"]})
    pairs = named.drop_duplicates().sort_values("label")
    mixed = pairs[pairs["label"].duplicated(keep=False) | pairs["category"].duplicated(keep=False)]
    if len(mixed):
        raise ValueError(
            f"{metadata}: the classes and the categories in the table of splits do not match one "
            f"to one: {mixed.to_numpy().tolist()[:4]}"
        )
    if (pairs["label"].to_numpy() != np.arange(len(pairs))).any():
        gap = next(i for i, label in enumerate(pairs["label"]) if i != label)
        raise ValueError(f"{metadata}: no clip has class {gap}, but some clips have higher classes")
    split = rows["split"].map(SPLIT_NAMES).to_numpy()
    index = clips[["id", "label"]].assign(group=clips["id"], split=split)
    return index, tuple(pairs["category"])


def _clips_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder.absolute()} is not a folder: put VGGSound-AVEL50k's features there, one .npy "
            f"for each clip"
        )
    return {file.stem for file in folder.iterdir() if file.suffix == ".npy" and file.is_file()}


def _ranges(clips: list[str], journal: Path, range_of: Callable[[str], np.ndarray]) -> np.ndarray:
    """Return the minimum (first row) and maximum of each modality over some clips.

    Args:
        clips: The clips.
        journal: File with the progress; an interrupted pass continues where it ends.
        range_of: Returns minima and maxima of one clip (see `VGGSound50k._range_of`).
    """
    done, low, high = 0, np.full(2, np.inf), np.full(2, -np.inf)
    if journal.is_file():
        with suppress(ValueError):  # a damaged journal: start from the first clip
            done, low, high = signed_json.load(journal.read_text(encoding="utf-8"))
    with progress(range(0), "ranges", "clip", total=len(clips), done=done) as bar:
        while done < len(clips):
            ranges = np.array([range_of(clip) for clip in clips[done : done + RANGES_AT_A_TIME]])
            low = np.fmin(low, np.fmin.reduce(ranges[:, 0]))
            high = np.fmax(high, np.fmax.reduce(ranges[:, 1]))
            done += len(ranges)
            with replacing(journal) as file:
                file.write_text(
                    signed_json.dump([done, low.tolist(), high.tolist()]), encoding="utf-8"
                )
            bar.update(len(ranges))
    return np.array([low, high], np.float32)
