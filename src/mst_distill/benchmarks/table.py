"""Own data in one table: a row for each sample, a column for each modality, and the labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.benchmarks.raw_files import leads_out
from mst_distill.benchmarks.reader_source import ReaderSource, having
from mst_distill.benchmarks.source import Protocol, refuse_too_many
from mst_distill.benchmarks.splits import stratified_group_split
from mst_distill.benchmarks.table_file import TableFile, header_of, number_in, read_table, text_in
from mst_distill.benchmarks.table_labels import check_training_samples, classes_of
from mst_distill.benchmarks.table_modalities import ModalityType, read_modalities
from mst_distill.data.samples import ABSENT, UNLABELLED
from mst_distill.errors import did_you_mean

log = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
"""What a column of splits may have, in lower case, and the names in this project."""

HINT = " (`incomplete: true` says that such a sample does not have this modality)"
"""What the reason for an omission says of empty cells."""

NETS = "mst_distill.nets.simple"


class Table(ReaderSource):
    """The samples of a CSV or Parquet file, with types of modalities that the parameters state.

    A cell holds what the reader of its type reads: the path of a file, relative to the folder of
    the table, a text, or a number. If the table has no column of ids, the id of a row is its number
    from 0. Without groups, each sample is a group of its own. Without splits, whole groups are
    split 60 / 20 / 20 and stratified by class; if only ``valid`` is missing, it gets a fifth of
    the training samples.

    A row without a label is a training sample without one, unless the column of splits says
    otherwise. If its group is held out, it is not used. A row without a label in ``valid`` or
    ``test`` is omitted, and so is one with an empty cell, a cell that is no number, a missing
    file, or numbers that are all empty. Of others, empty numbers are the mean. With `incomplete`,
    the empty cells of a modality, or its numbers if all are empty, say that the sample does not
    have this modality; only a row without any is omitted.

    Args:
        protocol: ``heldout`` fits the scaling of numbers on the training split, ``random`` on all
            samples.
        table: The file; columns of a CSV are separated by commas.
        modalities: Name to type (see `table_modalities.READERS`), or to a mapping with the keys
            ``type``, ``column`` (by default the name) and the arguments of the type. For
            ``numbers``, ``column`` may be a list, and ``*`` stands for any characters.
        label: The column of classes.
        group: The column of groups, which are not divided between splits; by default ``group``, if
            there is such a column.
        split: The column of splits; by default ``split``, if there is such a column.
        id: The column of ids; by default ``id``, if there is such a column.
        incomplete: Whether samples may lack modalities.
        tolerated_share: Maximum share of all rows that may be left out, in [0, 1).
        split_seed: Seed of the split. It does not depend on the seed of the run.

    Raises:
        FileNotFoundError: The table is missing.
        ValueError: The table cannot be used as it is; the message names the file, the column, the
            lines and the rule.
    """

    def __init__(
        self,
        protocol: Protocol,
        table: str,
        modalities: Mapping[str, Any],
        label: str = "label",
        group: str | None = None,
        split: str | None = None,
        id: str | None = None,  # the name of the key in the parameters
        incomplete: bool = False,
        tolerated_share: float = 0.01,
        split_seed: int = 0,
    ) -> None:
        self.protocol = protocol
        self.tolerated_share = tolerated_share
        path = Path(table)
        types = read_modalities(modalities)
        names = header_of(path)
        columns = _columns_of(path, types, names)
        roles = {
            role: _role_in(path, role, column, names)
            for role, column in {"group": group, "split": split, "id": id}.items()
        }
        _reject_roles(path, {"label": label, **roles}, columns)
        wanted = [*roles.values(), label, *(name for of in columns.values() for name in of)]
        self._table = read_table(path, {name for name in wanted if name is not None})
        if not len(self._table):
            raise ValueError(f"{path} has no row below its header")
        self.readers = {of.name: of.reader(columns[of.name]) for of in types}
        self._label = label
        self.classes, labels = classes_of(self._table, label)
        ids = _ids_of(self._table, roles["id"])
        groups = _groups_of(self._table, roles["group"], ids)
        given = _splits_of(self._table, roles["split"], groups)
        absent = self._find_absent() if incomplete else [()] * len(self._table)
        faults = self._find_faults(labels, given, absent)
        self.omitted = {ids[row]: fault for row, fault in faults.items()}
        refuse_too_many(self.omitted, len(ids), tolerated_share)
        rows = np.array([row for row in range(len(ids)) if row not in faults])
        index = pd.DataFrame(
            {"id": ids, "group": groups, "split": given, "label": labels, "row": range(len(ids))}
        )
        if any(absent):
            index[ABSENT] = [" ".join(names) for names in absent]
        self.index = index.iloc[rows].reset_index(drop=True)
        self.index["split"] = _complete_splits(self._table, self.index, split_seed)
        self._omit_unlabelled_held_out()
        check_training_samples(self._table, label, self.classes, self.index)
        self.files = [path, *self._files()]

    @classmethod
    def default_members(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return small nets of `nets.simple` for the types of the modalities.

        The masked layers are narrow, because a mask has about F^3 / factor weights for a layer of
        width F.

        Raises:
            ValueError: A modality is wrong; the message names it.
        """
        types = read_modalities(arguments.get("modalities"))
        branches = {of.name: of.branch for of in types}
        masked = ["fusion", "hidden"] if len(types) == 2 else ["hidden"]
        return {
            "multimodal": {
                "type": f"{NETS}.LateFusionNet",
                "arguments": {"branches": branches},
                "masked_layers": masked,
            },
            "modalities": {
                name: {
                    "type": f"{NETS}.{branch.capitalize()}Net",
                    "masked_layers": ["hidden"],
                }
                for name, branch in branches.items()
            },
        }

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[Any]:
        """Return the files, the texts or the rows of numbers of a modality."""
        reader, rows = self.readers[modality], part["row"].tolist()
        if reader.takes == "numbers":
            return [self._numbers(row, reader.columns) for row in rows]
        cells = [self._table.cells[reader.columns[0]][row] for row in rows]
        if reader.takes == "path":
            return [self._table.path.parent / cell for cell in cells]
        return cells

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Read each modality of some samples with its reader, without the notes of the readers."""
        read = super().read(part)
        return {name: of for name, of in read.items() if name in self.readers}

    def _numbers(self, row: int, columns: Sequence[str]) -> list[float]:
        return [number_in(column, self._table.cells[column][row]) for column in columns]

    def _files(self) -> list[Path]:
        return [
            file
            for name, reader in self.readers.items()
            if reader.takes == "path"
            for file in self.values(name, having(name, self.index))
        ]

    def _omit_unlabelled_held_out(self) -> None:
        """Leave out rows without a label whose group is not in the training split."""
        useless = (self.index["label"] == UNLABELLED) & (self.index["split"] != "train")
        if useless.any():
            first = self._table.where(self.index.loc[useless, "row"].tolist())
            log.warning(
                "%s, %s: %d rows without a label are not used, because their groups are in 'valid' "
                "or 'test'",
                *(self._table.path, first, useless.sum()),
            )
        self.index = self.index[~useless].reset_index(drop=True)

    def _find_absent(self) -> list[tuple[str, ...]]:
        """Return the modalities whose cells are empty, for each row."""
        return [
            tuple(name for name in self.readers if self._is_empty(name, row))
            for row in range(len(self._table))
        ]

    def _is_empty(self, modality: str, row: int) -> bool:
        cells = (self._table.cells[column][row] for column in self.readers[modality].columns)
        return not any(text_in(cell).strip() for cell in cells)

    def _find_faults(
        self, labels: np.ndarray, given: Sequence[str], absent: Sequence[Sequence[str]]
    ) -> dict[int, str]:
        """Return what is missing or wrong in rows that cannot be used, by row.

        Raises:
            ValueError: A path leads out of the folder of the table.
        """
        table = self._table
        faults: dict[int, str] = {}
        for row in range(len(table)):
            held_out = given[row] not in ("", "train")
            unlabelled = labels[row] == UNLABELLED and held_out
            fault = f"the column {self._label!r} is empty" if unlabelled else ""
            if len(absent[row]) == len(self.readers):
                fault = fault or "it has no value of any modality"
            for name in self.readers:
                fault = fault or ("" if name in absent[row] else self._fault_of(name, row))
            if fault:
                faults[row] = f"{table.path}, {table.where([row])}: {fault}"
        return faults

    def _fault_of(self, modality: str, row: int) -> str:
        columns, table = self.readers[modality].columns, self._table
        if self.readers[modality].takes == "numbers":
            try:
                numbers = self._numbers(row, columns)
            except ValueError as error:
                return str(error)
            empty = bool(np.isnan(numbers).all())
            what = f"columns {', '.join(columns[:3])}" if len(columns) > 1 else repr(columns[0])
            return f"{modality} is empty: no number in the {what}{HINT}" if empty else ""
        cell = table.cells[columns[0]][row]
        if not text_in(cell).strip() or not isinstance(cell, str):
            return f"the column {columns[0]!r} is {'no text' if text_in(cell) else 'empty' + HINT}"
        if self.readers[modality].takes != "path":
            return ""
        folder, file = table.path.parent, table.path.parent / cell
        if leads_out(file, folder):
            raise ValueError(
                f"{table.path}, {table.where([row])}: the path {cell!r} in the column "
                f"{columns[0]!r} leads out of the folder of the table, also after links are "
                f"followed; files must be in {folder.absolute()} or its subfolders"
            )
        return "" if file.is_file() else f"{file} is missing"


def _columns_of(
    path: Path, types: Sequence[ModalityType], names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    try:
        return {of.name: of.columns_in(names) for of in types}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _reject_roles(
    path: Path, roles: Mapping[str, str | None], columns: Mapping[str, Sequence[str]]
) -> None:
    """Raise an error for a modality with a column that has another meaning, as by ``*``."""
    for modality, found in columns.items():
        for role, column in roles.items():
            if column in found:
                raise ValueError(
                    f"{path}: the modality {modality!r} contains the column {column!r}, which is "
                    f"the {role} of a row and may tell the answer: name its columns without it"
                )


def _role_in(path: Path, role: str, column: str | None, names: Sequence[str]) -> str | None:
    """Return the column of a role, by default the column of its name, if there is one."""
    if column is None:
        return role if role in names else None
    if column not in names:
        raise ValueError(f"{path}: {did_you_mean(f'column of {role}s', column, names)}")
    return column


def _ids_of(table: TableFile, column: str | None) -> list[str]:
    """Return the ids of the rows.

    Raises:
        ValueError: An id is empty or appears twice; the message names the lines.
    """
    if column is None:
        return [str(row) for row in range(len(table))]
    ids = table.texts(column)
    _reject_empty(table, column, ids)
    twice = pd.Series(ids).duplicated(keep=False).to_numpy()
    if twice.any():
        first = ids[int(twice.argmax())]
        rows = [row for row, name in enumerate(ids) if name == first]
        more = len({ids[row] for row in np.flatnonzero(twice)}) - 1
        others = f", and {more} other ids appear several times" if more else ""
        raise ValueError(
            f"{table.path}: the id {first!r} in the column {column!r} is in {table.where(rows)}"
            f"{others}; ids must be unique"
        )
    return ids


def _groups_of(table: TableFile, column: str | None, ids: list[str]) -> list[str]:
    if column is None:
        return ids
    groups = table.texts(column)
    _reject_empty(table, column, groups)
    return groups


def _splits_of(table: TableFile, column: str | None, groups: Sequence[str]) -> list[str]:
    """Return the split of each row, or empty texts if the table has no splits.

    Raises:
        ValueError: A split is empty or unknown, ``train`` or ``test`` is missing, or a group is in
            two splits; the message names the lines.
    """
    if column is None:
        return [""] * len(table)
    written = table.texts(column)
    _reject_empty(table, column, written)
    for name in dict.fromkeys(written):
        if name.lower() not in SPLIT_NAMES:
            rows = [row for row, of in enumerate(written) if of == name]
            unknown = did_you_mean(f"split in the column {column!r}", name, SPLIT_NAMES)
            raise ValueError(f"{table.path}, {table.where(rows)}: {unknown}")
    splits = [SPLIT_NAMES[name.lower()] for name in written]
    for needed in ("train", "test"):
        if needed not in splits:
            raise ValueError(
                f"{table.path}: no row of the column {column!r} is {needed!r}; it must have "
                f"'train' and 'test'. Without 'valid', a fifth of 'train' is used for it"
            )
    _reject_torn_groups(table, groups, splits)
    return splits


def _reject_torn_groups(table: TableFile, groups: Sequence[str], splits: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for row, (group, split) in enumerate(zip(groups, splits, strict=True)):
        earlier = first.setdefault(group, row)
        if splits[earlier] != split:
            raise ValueError(
                f"{table.path}, {table.where([earlier, row])}: the group {group!r} is in the "
                f"splits {splits[earlier]!r} and {split!r}; a group must be in one split, or "
                f"samples leak from one into the other"
            )


def _complete_splits(table: TableFile, index: pd.DataFrame, seed: int) -> np.ndarray:
    """Return the splits of the samples that are used, with those that the table lacks."""
    labelled = (index["label"] != UNLABELLED).to_numpy()
    if not labelled.all():
        # The splits follow from the labels that there are; the others join their groups.
        completed = _complete_splits(table, index[labelled].reset_index(drop=True), seed)
        by_group = dict(zip(index.loc[labelled, "group"], completed, strict=True))
        return index["group"].map(by_group).fillna("train").to_numpy(dtype=object)
    split = index["split"].to_numpy(dtype=object).copy()
    fifths = {"train": 3, "valid": 1, "test": 1} if not split.any() else {"train": 4, "valid": 1}
    if split.any() and (split == "valid").any():
        return split
    chosen = ~np.isin(split, ["test"])
    labels, groups = (index[name].to_numpy()[chosen] for name in ("label", "group"))
    try:
        split[chosen] = stratified_group_split(labels, groups, fifths, seed)
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from error
    return split


def _reject_empty(table: TableFile, column: str, cells: Sequence[str]) -> None:
    if rows := [row for row, cell in enumerate(cells) if not cell]:
        raise ValueError(
            f"{table.path}, {table.where(rows)}: the column {column!r} is empty; it must have a "
            f"value in each row, or be left out"
        )
