"""Files with an output of a given teacher for every sample: read and checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mst_distill.errors import did_you_mean

FORMATS = (".parquet", ".npz")

LEAST_PROBABILITY = 1e-8
"""Smaller probabilities count as this one, since the logarithm of 0 is not finite."""

ROUNDING = 1e-2
"""The largest difference from 1 that the sum of the probabilities of a sample may have."""

SHOWN = 5
"""The number of ids that a message lists."""

NO_FEATURES = ("label", "split", "group")
"""Columns that no file of embeddings may have, since they would be taken for features."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedOutputs:
    """The content of a file.

    Attributes:
        ids: ``(n,)``, the ids of the samples, as text.
        values: ``(n, F)``, float64.
        columns: What the values of a row are called, ``(F,)``; empty if the file does not say so.
    """

    ids: np.ndarray
    values: np.ndarray
    columns: tuple[str, ...]


def recorded_array(
    path: Path, kind: str, classes: Sequence[str], known: Sequence[str]
) -> np.ndarray:
    """Read what a given teacher returned for every sample.

    A Parquet file has a column ``id`` and, for logits and probabilities, a column for each class,
    in the order of the classes; for embeddings, any other columns. An NPZ file has the arrays
    ``ids`` ``(n,)``, one that is called ``logits``, ``probabilities`` or ``embeddings``
    ``(n, F)`` and, except with embeddings, ``classes`` ``(F,)``.

    Args:
        path: The file.
        kind: ``logits``, ``probabilities`` or ``embeddings``.
        classes: The classes of the benchmark, in order.
        known: The ids of the samples of the store.

    Returns:
        ``(N, F)``, float32, in the order of `known`: logits (for probabilities, their logarithms)
        or embeddings.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, has other classes or another order of them, an id
            twice, no row for a sample, values that are not finite, or no probabilities where these
            are expected; the message has the file and the first ids.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} does not exist")
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} is not in one of the formats {' and '.join(FORMATS)}")
    try:
        content = pd.read_parquet(path) if path.suffix == ".parquet" else _load_npz(path)
    except Exception as error:  # the libraries raise errors of their own for damaged files
        hint = " Write texts as .astype(str)." if "Object arrays" in str(error) else ""
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}{hint}") from error
    if isinstance(content, pd.DataFrame):
        found = _outputs_in_table(path, content, kind)
    else:
        found = _outputs_in_arrays(path, content, kind)
    if kind != "embeddings":
        _check_classes(path, found, classes)
    rows = _rows_by_id(path, found.ids, known)
    used = RecordedOutputs(found.ids[rows], found.values[rows], found.columns)
    _check_finite(path, used)
    if kind != "embeddings":
        _check_scale(path, kind, used)
    values = used.values
    if kind == "probabilities":
        values = np.log(np.maximum(values, LEAST_PROBABILITY))
    return values.astype(np.float32)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _outputs_in_table(path: Path, table: pd.DataFrame, kind: str) -> RecordedOutputs:
    if table.index.name == "id":
        table = table.reset_index()
    if "id" not in table:
        raise ValueError(f"{path}: {did_you_mean('column', 'id', list(map(str, table)))}")
    outputs = table.drop(columns="id")
    if kind == "embeddings" and (known := [name for name in NO_FEATURES if name in outputs]):
        raise ValueError(f"{path}: the column {known[0]!r} would be a feature: remove it")
    for name, dtype in outputs.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype):
            raise ValueError(f"{path}: column {name!r} has values that are not numbers")
    columns = tuple(map(str, outputs))
    return RecordedOutputs(_texts(table["id"]), outputs.to_numpy(np.float64), columns)


def _outputs_in_arrays(path: Path, arrays: dict[str, np.ndarray], kind: str) -> RecordedOutputs:
    needed = ["ids", kind] if kind == "embeddings" else ["ids", kind, "classes"]
    for name in needed:
        if name not in arrays:
            raise ValueError(f"{path}: {did_you_mean('array', name, list(arrays))}")
    for name in {*needed} - {kind}:
        if arrays[name].ndim != 1:
            raise ValueError(f"{path}: the array {name!r} has the shape {arrays[name].shape}")
    ids, values = _texts(arrays["ids"]), arrays[kind]
    columns = tuple(_texts(arrays["classes"])) if "classes" in needed else ()
    if values.ndim != 2 or len(values) != len(ids) or values.dtype.kind not in "iuf":
        raise ValueError(
            f"{path}: the array {kind!r} has the shape {values.shape} and the type "
            f"{values.dtype}; it must have a row of numbers for each of the {len(ids)} ids"
        )
    return RecordedOutputs(ids, values.astype(np.float64), columns)


def _texts(values: object) -> np.ndarray:
    return np.array([str(value) for value in np.asarray(values)], dtype=object)


def _check_classes(path: Path, found: RecordedOutputs, classes: Sequence[str]) -> None:
    """Check names and order of the classes."""
    if found.columns == tuple(classes):
        return
    for name in found.columns:
        if name not in classes:
            raise ValueError(f"{path}: {did_you_mean('class', name, classes)}")
    if len(found.columns) != len(classes) or set(found.columns) != set(classes):
        lacking = [name for name in classes if name not in found.columns]
        raise ValueError(
            f"{path} has {len(found.columns)} classes and the benchmark {len(classes)}; "
            f"lacking: {', '.join(lacking[:SHOWN]) or 'none, one occurs twice'}"
        )
    at = next(i for i, name in enumerate(classes) if found.columns[i] != name)
    raise ValueError(
        f"{path}: class {at} is {found.columns[at]!r}, and in the benchmark it is {classes[at]!r}: "
        f"write the classes in the order of the benchmark, {', '.join(classes[:10])}"
        f"{', ...' if len(classes) > 10 else ''}"
    )


def _rows_by_id(path: Path, ids: np.ndarray, known: Sequence[str]) -> np.ndarray:
    """The row of each known id."""
    at = {name: row for row, name in enumerate(ids)}
    if len(at) != len(ids):
        double = [str(name) for name in pd.unique(ids[pd.Series(ids).duplicated().to_numpy()])]
        raise ValueError(f"{path}: {counted(double, 'more than once')}")
    samples = [str(name) for name in known]
    wanted = set(samples)
    missing = [name for name in samples if name not in at]
    foreign = [str(name) for name in ids if name not in wanted]
    if missing:
        also = f"; {counted(foreign, 'of no sample')}" if foreign else ""
        raise ValueError(f"{path}: {counted(missing, 'without a row')}{also}")
    if foreign:
        log.info("%s: %s", path, counted(foreign, "of no sample of this run"))
    return np.array([at[name] for name in samples], dtype=np.intp)


def counted(names: Sequence[str], what: str) -> str:
    """Count ids and list the first `SHOWN` of them."""
    listed = ", ".join(map(repr, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} id{'s' * (len(names) != 1)} {what} ({listed})"


def _check_finite(path: Path, found: RecordedOutputs) -> None:
    with np.errstate(over="ignore"):  # as float32, large values are infinite
        finite = np.isfinite(found.values.astype(np.float32)).all(axis=1)
    if not finite.all():
        names = [str(name) for name in found.ids[~finite]]
        raise ValueError(f"{path}: {counted(names, 'with values that are not finite')}")


def _check_scale(path: Path, kind: str, found: RecordedOutputs) -> None:
    """Check that the values are what the parameters call them."""
    values = found.values
    sums = np.abs(values.sum(axis=1) - 1)
    between = ((values >= 0) & (values <= 1)).all(axis=1)
    valid = between & (sums <= ROUNDING)
    if kind == "probabilities" and not valid.all():
        names = [str(name) for name in found.ids[~valid]]
        raise ValueError(
            f"{path}: {counted(names, 'with values that are no probabilities')}: these are in "
            f"[0, 1] and sum to 1. If they are logits, name the file under logits"
        )
    if kind == "logits" and valid.all():
        raise ValueError(
            f"{path}: the values of every sample are in [0, 1] and sum to 1, so that they are "
            f"probabilities: name the file under probabilities"
        )
