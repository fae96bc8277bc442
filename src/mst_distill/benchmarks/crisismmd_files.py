"""Reading the files of CrisisMMD: the publisher's tables, and precomputed features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from mst_distill.errors import did_you_mean

HUMANITARIAN = (
    "not_humanitarian",
    "affected_individuals",
    "infrastructure_and_utility_damage",
    "injured_or_dead_people",
    "missing_or_found_people",
    "rescue_volunteering_or_donation_effort",
    "vehicle_damage",
    "other_relevant_information",
)
"""The classes, in the order of the released implementation of the method."""

PUBLISHED = {"train": "train", "dev": "valid", "test": "test"}
"""The publisher's names of the splits, and the names in this project."""

_COLUMNS = ("event_name", "tweet_id", "tweet_text", "image", "label")
_LONGEST_NAME = 255
"""Maximum length of the name of a file or folder, in bytes."""

_SPLITS = (
    "the three files task_humanitarian_text_img_{train,dev,test}.tsv of CrisisMMD v2.0 (the "
    "publisher's crisismmd_datasplit_all, crisisnlp.qcri.org/crisismmd)"
)


@dataclass(frozen=True)
class Features:
    """Precomputed features of N samples.

    Attributes:
        image: ``(N, width)``, floating-point.
        text: ``(N, width)``, floating-point.
        label: ``(N,)`` indices into `HUMANITARIAN`.
    """

    image: np.ndarray
    text: np.ndarray
    label: np.ndarray


def read_tweets(path: str | Path) -> tuple[list[Path], pd.DataFrame]:
    """Read the tables of the humanitarian task from the folder `path`, one row for each tweet.

    The files have one row for each photograph, and a tweet may have several. The first row of a
    tweet is used, in the order train, dev, test: one tweet of version 2.0 is in two files.

    Returns:
        The three files, and a table with ``id`` and ``group`` (both the tweet's id), ``split``,
        ``label``, ``source`` (the disaster), ``text`` and ``image`` (a relative path).

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: A file is not UTF-8, lacks a column or contains no row; a row and the header
            differ in the number of fields; the id of a tweet is not a number, its text is empty or
            its label unknown; or the path of its image leaves the folder, is too long or belongs to
            another tweet. The message names the file and the line.
    """
    folder = Path(path)
    files = {name: folder / f"task_humanitarian_text_img_{name}.tsv" for name in PUBLISHED}
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(f"{file.absolute()} is missing: put {_SPLITS} there")
    rows = pd.concat(
        [
            _read_table(file).assign(split=PUBLISHED[name], file=str(file))
            for name, file in files.items()
        ]
    )
    _reject_shared_images(rows)
    tweets = rows.drop_duplicates("tweet_id").reset_index(drop=True)
    label_of = {name: label for label, name in enumerate(HUMANITARIAN)}
    return list(files.values()), pd.DataFrame(
        {
            "id": tweets["tweet_id"],
            "group": tweets["tweet_id"],
            "split": tweets["split"],
            "label": tweets["label"].map(label_of).astype(np.int64),
            "source": tweets["event_name"],
            "text": tweets["tweet_text"],
            "image": tweets["image"],
        }
    )


def read_features(path: Path) -> Features:
    """Read a ``.pth`` file of (image, text, label) or of a dict with exactly these keys.

    Raises:
        FileNotFoundError: `path` is missing.
        ValueError: The file is damaged, asks to run code, or contains anything but these three
            arrays; the shapes do not match; a label is not a class; or a number is not finite.
    """
    loaded = _load_arrays(path)
    if isinstance(loaded, (tuple, list)) and len(loaded) == 3:
        loaded = dict(zip(("image", "text", "label"), loaded, strict=True))
    if not isinstance(loaded, dict) or set(loaded) != {"image", "text", "label"}:
        found = sorted(map(str, loaded)) if isinstance(loaded, dict) else type(loaded).__name__
        raise ValueError(
            f"{path}: contains {found}, expected (image, text, label) or a dict with these keys"
        )
    arrays = {name: _as_array(path, name, value) for name, value in loaded.items()}
    for name in ("image", "text"):
        if arrays[name].ndim != 2 or arrays[name].dtype.kind != "f" or not arrays[name].shape[1]:
            raise ValueError(f"{path}: {name} is {_form(arrays[name])}, expected float (N, width)")
    labels = arrays["label"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: label is {_form(labels)}, expected integers (N,)")
    if len({len(array) for array in arrays.values()}) > 1:
        counts = {name: len(array) for name, array in arrays.items()}
        raise ValueError(f"{path}: image, text and label differ in length: {counts}")
    last = len(HUMANITARIAN) - 1
    if len(invalid := np.flatnonzero((labels < 0) | (labels > last))):
        row = invalid[0]
        raise ValueError(f"{path}: label of row {row} is {labels[row]}, expected 0 to {last}")
    for name in ("image", "text"):
        finite = np.isfinite(arrays[name]).all(axis=1)
        if not finite.all():
            raise ValueError(f"{path}: {name} of row {np.argmin(finite)} contains NaN or infinity")
    return Features(arrays["image"], arrays["text"], labels.astype(np.int64))


def _read_table(path: Path) -> pd.DataFrame:
    """Read the rows of one file; all fields are strings, because a float would round tweet ids."""
    header, *lines = _read_lines(path)
    names = header.split("\t")
    for column in _COLUMNS:
        if column not in names:
            raise ValueError(f"{path}: line 1: {did_you_mean('column', column, names)}")
    if not lines:
        raise ValueError(f"{path}: contains no row below the header")
    rows = []
    for number, line in enumerate(lines, start=2):
        fields = line.split("\t")
        if len(fields) != len(names):
            raise ValueError(
                f"{path}: line {number} has {len(fields)} fields, but the header has {len(names)}"
            )
        row = dict(zip(names, fields, strict=True))
        if fault := _find_fault(row):
            raise ValueError(f"{path}: line {number}: {fault}")
        rows.append({**{column: row[column] for column in _COLUMNS}, "line": number})
    return pd.DataFrame(rows)


def _reject_shared_images(rows: pd.DataFrame) -> None:
    """Raise an error for a photograph of two tweets, because these could be in two splits."""
    first = rows.drop_duplicates("image").set_index("image")["tweet_id"]
    shared = rows[rows["image"].map(first) != rows["tweet_id"]]
    if len(shared):
        row = shared.iloc[0]
        raise ValueError(
            f"{row['file']}: line {row['line']}: {row['image']} is also the photograph of tweet "
            f"{first[row['image']]}; each photograph must belong to one tweet"
        )


def _read_lines(path: Path) -> list[str]:
    # csv would interpret quotes, and splitlines would split at U+2028; both occur within tweets.
    lines = []
    for number, line in enumerate(path.read_bytes().rstrip(b"\r\n").split(b"\n"), start=1):
        try:
            lines.append(line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: line {number} is not UTF-8 ({error})") from error
    return lines


def _find_fault(row: dict[str, str]) -> str | None:
    """Return what is wrong with a row of the publisher's tables, or None."""
    image = PurePosixPath(row["image"])
    if not (row["tweet_id"].isascii() and row["tweet_id"].isdigit()):
        return (
            f"tweet_id {row['tweet_id']!r} does not consist of digits only; a spreadsheet may have "
            f"rounded it"
        )
    if not row["tweet_text"].strip():
        return f"tweet_text of tweet {row['tweet_id']} is empty"
    if row["label"] not in HUMANITARIAN:
        return did_you_mean("label", row["label"], HUMANITARIAN)
    if not image.name or image.is_absolute() or ".." in image.parts:
        return (
            f"image {row['image']!r} must be a path within the folder that contains data_image, "
            f"such as "
            f"data_image/<event>/<date>/<image_id>.jpg"
        )
    if max(len(part.encode()) for part in image.parts) > _LONGEST_NAME:
        return f"the name of image {row['image'][:40]!r}… is too long for a file name"
    return None


def _load_arrays(path: Path) -> object:
    """Unpickle numpy arrays and tensors; a file that calls any other code raises an error."""
    import torch

    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()} is missing: put precomputed features there, a file written by "
            f"torch.save with (image, text, label)"
        )
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: not a .pth file of only numeric numpy arrays and tensors ({reason})"
        ) from error


def _as_array(path: Path, name: str, value: object) -> np.ndarray:
    """Convert an array or tensor to numpy.

    Tensors that require a gradient, and bfloat16, which numpy lacks, are converted as well.
    """
    import torch

    try:
        if isinstance(value, torch.Tensor):
            value = value.detach()
            value = value.float() if value.dtype == torch.bfloat16 else value
        return np.asarray(value)
    except Exception as error:  # such as a ragged list
        raise ValueError(f"{path}: {name} is not an array of numbers ({error})") from error


def _numpy_globals() -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """Return what pickles of numeric arrays refer to, under the paths of numpy 2 and numpy 1."""
    from numpy._core.multiarray import _reconstruct

    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [
        np.ndarray,
        np.dtype,
        *kinds,
        (_reconstruct, "numpy._core.multiarray._reconstruct"),
        (_reconstruct, "numpy.core.multiarray._reconstruct"),
    ]


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
