"""New samples of a folder or of a table: each file and each row is one of them, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.deploy.new_samples import NewSamples
from mst_distill.media.feature_files import Features
from mst_distill.media.numbers import StandardisedNumbers
from mst_distill.media.readers import Reader

NUMBERS = StandardisedNumbers(("a", "b"))


@dataclass
class Words(Reader):
    """The number of words of a text."""

    takes = "text"

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        return np.array([len(value.split())], np.float32), {}


def write_csv(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False)


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    table.to_parquet(path, index=False)


FORMATS = pytest.mark.parametrize(
    ("name", "write"), [("t.csv", write_csv), ("t.PARQUET", write_parquet)]
)


@FORMATS
@pytest.mark.parametrize("size", [1, 2, 7])
def test_every_row_is_a_sample_in_order(
    tmp_path: Path, name: str, write: Callable[[Path, pd.DataFrame], None], size: int
) -> None:
    table = pd.DataFrame({"id": list("vwxyz"), "b": [1.5, 2, 3, 4, 5], "a": range(5), "c": "no"})
    write(tmp_path / name, table)
    samples = NewSamples(str(tmp_path / name), NUMBERS, "numbers")
    assert len(samples) == 5
    batches = list(samples.batches(size))
    assert max(len(batch.ids) for batch in batches) <= size
    assert [id_ for batch in batches for id_ in batch.ids] == list("vwxyz")
    values = [value for batch in batches for value in batch.values]
    assert values == [[0, 1.5], [1, 2], [2, 3], [3, 4], [4, 5]]


@FORMATS
def test_without_an_id_the_number_of_the_row_is_the_id(
    tmp_path: Path, name: str, write: Callable[[Path, pd.DataFrame], None]
) -> None:
    write(tmp_path / name, pd.DataFrame({"text": ["one two", "", "NA"]}))
    batches = list(NewSamples(str(tmp_path / name), Words(), "text").batches(2))
    assert [list(batch.ids) for batch in batches] == [["0", "1"], ["2"]]
    assert batches[0].errors == {1: "the column 'text' is empty"}
    assert batches[1].values == ["NA"]  # a text, not a missing value


def test_a_cell_that_is_no_number_is_the_error_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,\n2,many\n")
    (batch,) = NewSamples(str(tmp_path / "t.csv"), NUMBERS, "numbers").batches(9)
    assert batch.errors == {1: "the column 'b' is 'many', which is not a number"}
    assert batch.values[0][0] == 1
    assert np.isnan(batch.values[0][1])


def test_the_index_of_a_data_frame_is_a_column_like_the_others(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["x", "y"], "a": [1.0, 2.0], "b": [3.0, 4.0]})
    for column, values in (("id", [[1, 3], [2, 4]]), ("a", [[1, 3], [2, 4]])):
        table.set_index(column).to_parquet(tmp_path / "t.parquet")
        (batch,) = NewSamples(str(tmp_path / "t.parquet"), NUMBERS, "m").batches(9)
        assert list(batch.ids) == ["x", "y"]
        assert batch.values == values


def test_a_blank_line_of_one_column_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\nhello\n\nworld\n")
    (batch,) = NewSamples(str(tmp_path / "t.csv"), Words(), "text").batches(9)
    assert batch.values == ["hello", None, "world"]
    (tmp_path / "t.csv").write_text("a,b\n1,2\n\n3,4\n")
    samples = NewSamples(str(tmp_path / "t.csv"), NUMBERS, "m")
    assert len(samples) == 2
    assert next(samples.batches(9)).values == [[1, 2], [3, 4]]


def test_paths_in_a_table_start_at_its_folder(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file\nsub/x.npy\n/y.npy\n")
    (batch,) = NewSamples(str(tmp_path / "t.csv"), Features((2,)), "m", "file").batches(9)
    assert batch.values == [tmp_path / "sub" / "x.npy", Path("/y.npy")]


def test_the_column_of_the_training_table_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("tweet,other\nhello,unused\n")
    reader = Words()
    reader.columns = ("tweet",)
    for column, value in ((None, "hello"), ("other", "unused")):
        samples = NewSamples(str(tmp_path / "t.csv"), reader, "text", column)
        assert next(samples.batches(9)).values == [value]
    with pytest.raises(ValueError, match=r"predict\.column is 'x', but .* numbers.*: a, b"):
        NewSamples(str(tmp_path / "t.csv"), NUMBERS, "numbers", "x")


def test_the_files_of_a_folder_are_samples_named_by_their_paths(tmp_path: Path) -> None:
    for name in ("b.npy", "sub/a.NPY", "notes.txt", ".hidden.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    samples = NewSamples(str(tmp_path), Features((2,)), "m")
    assert len(samples) == 2
    assert [list(batch.ids) for batch in samples.batches(1)] == [["b.npy"], ["sub/a.NPY"]]


@pytest.mark.parametrize(
    ("reader", "source", "rule"),
    [
        (NUMBERS, "none.csv", r"none\.csv is neither a folder nor a table"),
        (NUMBERS, "t.txt", r"t\.txt: a table must be a file \.csv or \.parquet"),
        (NUMBERS, "t.csv", r"reads numbers in the columns a, b, .* no column 'a': .*mean 'aa'"),
        (NUMBERS, "broken.parquet", r"broken\.parquet cannot be read as a table"),
        (NUMBERS, "empty.csv", r"empty\.csv cannot be read as a table"),
        (NUMBERS, "wide.csv", r"wide\.csv cannot be read as a table \(line 2 has 3 cells"),
        (NUMBERS, "short.csv", r"short\.csv cannot be read as a table \(line 3 has 1 cells"),
        (NUMBERS, "", r"is a folder, but the student reads numbers .*: name a table"),
        (Features((2,)), "sub", r"sub has no file \.npy to read"),
    ],
)
def test_the_error_says_what_the_student_reads(
    tmp_path: Path, reader: Reader, source: str, rule: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "t.txt").write_text("a,b\n")
    (tmp_path / "t.csv").write_text("aa,b\n1,2\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "wide.csv").write_text("a,b\n1,2,3\n4,5,6\n")
    (tmp_path / "short.csv").write_text("a,b\n1,2\n4\n")
    with pytest.raises((ValueError, FileNotFoundError), match=rule):
        NewSamples(str(tmp_path / source), reader, "m")
