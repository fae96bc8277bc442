"""Damaging raw data sets, and checking the errors that ingesting the damaged sets raises."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
from kedro.io import DatasetError
from PIL import Image

from mst_distill.benchmarks.opening import open_source
from mst_distill.benchmarks.source import DamagedSampleError, SampleSource
from mst_distill.data.samples import Samples
from mst_distill.datasets.sample_store import SampleStoreDataset
from mst_distill.parameters import Benchmark

Damage = Callable[[Path], object]
"""A function that damages the file at a path."""

BENCHMARKS = "mst_distill.benchmarks"


@dataclass(frozen=True)
class RawSet:
    """A tiny raw data set and the source that reads it.

    Attributes:
        write: Writes the files to a folder.
        type: Import path of the source.
        paths: Arguments of the source that are paths in the folder.
        arguments: The other arguments of the source.
    """

    write: Callable[[Path], None]
    type: str
    paths: Mapping[str, str]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def open(self, root: Path, **changes: Any) -> SampleSource:
        """Open the source on the files in `root`; `changes` replace arguments."""
        paths = {name: str(root / path) for name, path in self.paths.items()}
        arguments = {**paths, **self.arguments, **changes}
        return open_source(Benchmark(type=self.type, arguments=arguments), "heldout", "all", 0)


@dataclass(frozen=True)
class Case:
    """One fault in a raw set.

    Attributes:
        raw_set: The set.
        file: The damaged file, relative to the folder of the set.
        damage: Damages this file.
        rules: Regular expressions that the error message must match: the row, and the rule.
        sample: Id of the only sample that is omitted if the source tolerates some; None if the
            fault is always an error.
        named: The path in the error message, if it is not `file`.
    """

    raw_set: RawSet
    file: str
    damage: Damage
    rules: Sequence[str]
    sample: str | None = None
    named: str | None = None

    def expected(self) -> list[str]:
        """Return all regular expressions that the error message must match."""
        return [re.escape(self.file if self.named is None else self.named), *self.rules]


Undamaged = Callable[[RawSet], Path]
"""Returns the folder with the undamaged files of a set: the fixture `undamaged`."""


def ingest(raw_set: RawSet, root: Path, folder: Path, **changes: Any) -> Samples:
    """Build the store in `folder`, as the first node of the pipeline and the catalog do."""
    dataset = SampleStoreDataset(filepath=str(folder))
    dataset.save(raw_set.open(root, **changes))
    return dataset.load()


def ingest_error(raw_set: RawSet, root: Path, folder: Path, **changes: Any) -> Exception:
    """Return the error that ingesting raises, after checking that no file of the store is left."""
    with pytest.raises(Exception, match=r".") as caught:
        ingest(raw_set, root, folder, **changes)
    error = caught.value.__cause__ if caught.type is DatasetError else caught.value
    remaining = list(folder.parent.rglob("*")) if folder.parent.is_dir() else []
    assert not remaining, f"{error!r} left {remaining}"
    return error


def check_damage(case: Case, undamaged: Undamaged, folder: Path) -> None:
    """Check that the error names the fault, and that only its sample is omitted if tolerated."""
    root, store = folder / "raw", folder / "stores" / "samples"
    shutil.copytree(undamaged(case.raw_set), root)
    case.damage(root / case.file)
    error = ingest_error(case.raw_set, root, store)
    assert type(error) in {ValueError, FileNotFoundError, TypeError, DamagedSampleError}, repr(
        error
    )
    for pattern in case.expected():
        assert re.search(pattern, str(error)), f"{pattern!r} is not in: {error}"
    if case.sample is None:
        return
    samples = ingest(case.raw_set, root, store, tolerated_share=0.4)
    assert list(samples.omitted) == [case.sample]
    for pattern in (p for p in case.expected() if p != case.sample):
        assert re.search(pattern, samples.omitted[case.sample])
    assert case.sample not in set(samples.index["id"])
    assert [path.name for path in store.parent.iterdir()] == ["samples"]


def check_repair(
    raw_set: RawSet, cases: Iterable[Case], undamaged: Undamaged, folder: Path
) -> None:
    """Check that after an error, the repaired set yields the same store as an undamaged set.

    Of the cases of the set, one is used whose fault is detected as late as possible: if there is
    one, in a single sample.
    """
    of_set = [case for case in cases if case.raw_set is raw_set]
    case = ([case for case in of_set if case.sample] or of_set)[-1]
    root, store = folder / "raw", folder / "stores" / "samples"
    shutil.copytree(undamaged(raw_set), root)
    case.damage(root / case.file)
    ingest_error(raw_set, root, store)
    shutil.rmtree(root)
    shutil.copytree(undamaged(raw_set), root)
    repaired = ingest(raw_set, root, store)
    expected = ingest(raw_set, undamaged(raw_set), folder / "plain" / "samples")
    assert repaired.digest == expected.digest
    assert not repaired.omitted


def check_link(raw_set: RawSet, undamaged: Undamaged, folder: Path) -> None:
    """Check that an undamaged set is read, also through a symbolic link to its folder.

    The first is needed for the errors of damaged sets to prove anything. The second is needed
    because large sets are often on other disks, behind links.
    """
    plain = ingest(raw_set, undamaged(raw_set), folder / "plain" / "samples")
    (folder / "raw").symlink_to(undamaged(raw_set))
    linked = ingest(raw_set, folder / "raw", folder / "linked" / "samples")
    assert len(plain) > 2
    assert not plain.omitted
    assert linked.digest == plain.digest


# Damage to files of any kind


class DamageTests:
    """The tests of sets of raw files; a subclass in a test module has the sets and the damages."""

    cases: ClassVar[dict[str, Case]]
    sets: ClassVar[dict[str, RawSet]]

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_the_error_names_the_fault_and_no_store_is_left(
        self, case: Case, undamaged: Undamaged, tmp_path: Path
    ) -> None:
        check_damage(case, undamaged, tmp_path)

    def test_a_repaired_set_yields_the_same_store_as_an_undamaged_one(
        self, raw_set: RawSet, undamaged: Undamaged, tmp_path: Path
    ) -> None:
        check_repair(raw_set, self.cases.values(), undamaged, tmp_path)

    def test_an_undamaged_set_is_read_also_through_a_link(
        self, raw_set: RawSet, undamaged: Undamaged, tmp_path: Path
    ) -> None:
        check_link(raw_set, undamaged, tmp_path)


def truncate(path: Path) -> None:
    """Remove the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(content: str) -> Damage:
    """Replace the content of a file."""
    return lambda path: path.write_text(content)


def replace(old: str, new: str) -> Damage:
    """Replace the first occurrence of a string in a file."""

    def damage(path: Path) -> None:
        content = path.read_bytes()
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))

    return damage


def replace_all(old: str, new: str) -> Damage:
    """Replace all occurrences of a string in a text file."""
    return lambda path: path.write_text(path.read_text().replace(old, new))


def append(line: str | bytes) -> Damage:
    """Append a line to a file."""
    raw = line if isinstance(line, bytes) else line.encode()
    return lambda path: path.write_bytes(path.read_bytes() + raw + b"\n")


def replace_by_outside_link(path: Path) -> None:
    """Move a file out of the set, and put a link to it in its place."""
    outside = path.parents[len(path.parts) - 4].parent / f"outside{path.suffix}"
    shutil.move(path, outside)
    path.symlink_to(outside)


def replace_by_broken_link(path: Path) -> None:
    """Put a link to a missing file in the place of a file."""
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def replace_by_folder(path: Path) -> None:
    """Put an empty folder in the place of a file."""
    path.unlink()
    path.mkdir()


# Damage to arrays, images and sounds


def edit_array(change: Callable[[np.ndarray], np.ndarray | None]) -> Damage:
    """Save the result of `change` in a .npy file; None means that it changed the array in place."""

    def damage(path: Path) -> None:
        values = np.load(path)
        changed = change(values)
        np.save(path, values if changed is None else changed)

    return damage


def set_values(where: Any, value: Any) -> Callable[[np.ndarray], None]:
    """Return a function that sets some values of an array."""

    def change(values: np.ndarray) -> None:
        values[where] = value

    return change


def write_png_bomb(path: Path) -> None:
    """Write a file of 12 kB with a hundred million pixels."""
    Image.new("1", (10_000, 10_000)).save(path, "PNG")


def write_silence(path: Path) -> None:
    """Write a wav of digital silence."""
    soundfile.write(path, np.zeros(9000), 8000)


def write_opposite_channels(path: Path) -> None:
    """Write a wav of two channels, of which one is the negative of the other."""
    tone = np.sin(np.arange(9000)) / 3
    soundfile.write(path, np.stack([tone, -tone], axis=1), 8000)
