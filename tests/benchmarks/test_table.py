"""Own data in a table: what is read, what the table lacks, and every mistake that is an error."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from damaged_sets import BENCHMARKS, RawSet
from mst_distill.benchmarks.source import check_index
from mst_distill.benchmarks.table import Table
from mst_distill.data.store import open_store, write_store
from mst_distill.parameters import Members
from raw_sets import ENCODERS, write_tone

MODALITIES: Mapping[str, Any] = MappingProxyType(
    {
        "picture": {"type": "image", "size": [12, 16]},
        "portrait": {"type": "photo", "column": "picture", "encoder": ENCODERS["image_encoder"]},
        "sound": {"type": "audio", "seconds": 0.5, "rate": 4000},
        "voice": {"type": "speech", "column": "sound"},
        "text": {"type": "text", "encoder": ENCODERS["text_encoder"]},
        "counts": {"type": "numbers", "column": ["a", "n_*"]},
        "track": {"type": "array", "shape": [2, 3]},
    }
)
"""One modality of each type."""

NUMBERS: Mapping[str, Any] = MappingProxyType(
    {
        "left": {"type": "numbers", "column": ["a", "n_1"]},
        "right": {"type": "numbers", "column": ["n_2", "n_3"]},
    }
)


def rows(count: int = 45) -> list[dict[str, Any]]:
    """The rows of a table with three classes in turn; the last number of row 4 is empty."""
    rng = np.random.default_rng(0)
    return [
        {
            "picture": f"files/{row}.png",
            "sound": f"files/{row}.wav",
            "text": f"the word {row},\nand more",
            "a": float(rng.integers(100)),
            "n_1": float(rng.random()),
            "n_2": "" if row == 4 else float(rng.random()),
            "n_3": float(rng.random()),
            "track": f"files/{row}.npy",
            "label": ("cat", "dog", "eel")[row % 3],
        }
        for row in range(count)
    ]


def write_rows(root: Path, table: list[dict[str, Any]]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return root / "index.csv"


def write_table(root: Path) -> None:
    """Write a table with files of each kind."""
    rng = np.random.default_rng(1)
    table = rows(30)
    write_rows(root, table)
    for row in range(len(table)):
        write_tone(root / f"files/{row}.wav", 200 + 40 * row, 0.6, 4000)
        pixels = rng.integers(0, 256, (20, 10, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"files/{row}.png")
        np.save(root / f"files/{row}.npy", rng.random((2, 3)).astype(np.float32))


TABLE = RawSet(
    write_table,
    f"{BENCHMARKS}.table.Table",
    {"table": "index.csv"},
    {"modalities": dict(MODALITIES)},
)


def open_rows(root: Path, table: list[dict[str, Any]], **changes: Any) -> Table:
    """Open a table of numbers alone."""
    path = write_rows(root, table)
    source = Table("heldout", str(path), **{"modalities": NUMBERS, **changes})
    check_index(source)
    return source


def test_a_table_has_the_tensor_of_each_type(tmp_path: Path) -> None:
    write_table(tmp_path)
    source = TABLE.open(tmp_path)
    assert isinstance(source, Table)
    write_store(source, tmp_path / "store")
    samples = open_store(tmp_path / "store")
    shapes = {name: array.shape[1:] for name, array in samples.modalities.items()}
    expected = {
        "picture": (3, 12, 16),
        "sound": (1, 64, 16),  # 0.5 s / 0.032 s = 15.6
        "voice": (15, 156),
        "counts": (4,),
        "track": (2, 3),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert samples.classes == ("cat", "dog", "eel")
    assert samples.index["id"].tolist() == [str(row) for row in range(30)]
    assert samples.index["label"].tolist() == [row % 3 for row in range(30)]
    assert samples.notes == ()
    row = 7
    np.testing.assert_array_equal(
        samples.modalities["track"][row], np.load(tmp_path / f"files/{row}.npy")
    )
    assert source.values("text", source.index.iloc[[row]]) == [f"the word {row},\nand more"]


def test_numbers_are_standardised_on_the_training_split_and_empty_ones_are_the_mean(
    tmp_path: Path,
) -> None:
    source = open_rows(tmp_path, rows())
    source.fit(tmp_path)
    read = source.read(source.index)
    table = rows()
    train = (source.index["split"] == "train").to_numpy()
    a = np.array([row["a"] for row in table])
    expected = (a - a[train].mean()) / a[train].std()
    np.testing.assert_allclose(read["left"][:, 0], expected, rtol=1e-5)
    assert read["right"][4, 0] == 0


def test_without_splits_each_class_is_split_60_20_20(tmp_path: Path) -> None:
    source = open_rows(tmp_path, rows())
    counts = pd.crosstab(source.index["label"], source.index["split"])
    assert counts[["train", "valid", "test"]].to_numpy().tolist() == [[9, 3, 3]] * 3
    other = open_rows(tmp_path, rows(), split_seed=1)
    assert source.index["split"].tolist() != other.index["split"].tolist()


def test_groups_are_whole_and_splits_stratified(tmp_path: Path) -> None:
    table = rows(90)
    for row, cells in enumerate(table):
        cells["group"] = f"g{row // 3}"  # thirty groups with one row of each class
    source = open_rows(tmp_path, table)
    index = source.index
    assert not index.drop_duplicates(["group", "split"])["group"].duplicated().any()
    counts = pd.crosstab(index["label"], index["split"])
    assert counts[["train", "valid", "test"]].to_numpy().tolist() == [[18, 6, 6]] * 3


@pytest.mark.parametrize("name", ["dev", "val", "Validation", "valid"])
def test_names_of_splits(name: str, tmp_path: Path) -> None:
    table = rows()
    for row, cells in enumerate(table):
        cells["split"] = "train" if row < 27 else name if row < 36 else "test"
    index = open_rows(tmp_path, table).index
    assert index["split"].tolist() == ["train"] * 27 + ["valid"] * 9 + ["test"] * 9


def test_without_valid_a_fifth_of_train_is_used(tmp_path: Path) -> None:
    table = rows()
    for row, cells in enumerate(table):
        cells["split"] = "train" if row < 30 else "test"
    index = open_rows(tmp_path, table).index
    counts = pd.crosstab(index["label"], index["split"])
    assert counts[["train", "valid", "test"]].to_numpy().tolist() == [[8, 2, 5]] * 3
    assert (index["split"].iloc[30:] == "test").all()


def test_a_row_without_a_file_is_omitted_with_the_reason(tmp_path: Path) -> None:
    write_table(tmp_path)
    (tmp_path / "files/5.png").unlink()
    source = TABLE.open(tmp_path, tolerated_share=0.1)
    assert list(source.omitted) == ["5"]
    assert re.search(r"line 12: .*5\.png is missing", source.omitted["5"])
    assert "5" not in set(source.index["id"])


def test_empty_cells_can_stand_for_absent_modalities(tmp_path: Path) -> None:
    table = rows()
    for row in (1, 2, 30):
        table[row] |= {"a": "", "n_1": " "}
    table[3] |= {"n_2": "", "n_3": ""}
    table[40]["a"] = ""  # the other number of this modality is there
    table[41] |= {"a": "", "n_1": "", "n_2": "", "n_3": ""}
    source = open_rows(tmp_path, table, incomplete=True, tolerated_share=0.1)
    absent = source.index.set_index("id")["absent"]
    assert absent[absent != ""].to_dict() == {"1": "left", "2": "left", "30": "left", "3": "right"}
    assert list(source.omitted) == ["41"]
    assert "line 84: it has no value of any modality" in source.omitted["41"]
    write_store(source, tmp_path / "store")
    samples = open_store(tmp_path / "store")
    left = samples.modalities["left"]
    assert np.isnan(left).all(axis=1).tolist() == [
        name in ("1", "2", "30") for name in absent.index
    ]
    # What is absent takes no part in the standardisation.
    used = (samples.index["split"] == "train").to_numpy() & samples.have(["left"])
    kept = [float(table[int(name)]["n_1"]) for name in samples.index["id"][used]]
    expected = (np.array(kept) - np.mean(kept)) / np.std(kept)
    np.testing.assert_allclose(left[used, 1], expected, rtol=1e-4, atol=1e-6)


def test_without_that_key_empty_cells_are_omissions(tmp_path: Path) -> None:
    table = rows()
    table[1] |= {"a": "", "n_1": ""}
    source = open_rows(tmp_path, table, tolerated_share=0.1)
    assert "absent" not in source.index
    assert "`incomplete: true` says that such a sample" in source.omitted["1"]
    whole = open_rows(tmp_path, rows(), incomplete=True)
    assert "absent" not in whole.index


def test_rows_without_a_label_are_training_samples_and_change_no_split(tmp_path: Path) -> None:
    table = rows()
    expected = open_rows(tmp_path, table).index.set_index("id")["split"]
    more = [{**cells, "label": ""} for cells in rows(60)[45:]]
    index = open_rows(tmp_path, table + more).index
    assert index["label"].tolist() == [row % 3 for row in range(45)] + [-1] * 15
    assert (index["split"].iloc[45:] == "train").all()
    assert index["split"].iloc[:45].tolist() == expected.tolist()


def test_rows_without_a_label_are_omitted_where_samples_are_held_out(tmp_path: Path) -> None:
    table = rows()
    for row, cells in enumerate(table):
        cells["split"] = "train" if row < 27 else "valid" if row < 36 else "test"
    table[3]["label"] = table[40]["label"] = ""
    with pytest.raises(ValueError, match=r"'40': .*line 82: the column 'label' is empty"):
        open_rows(tmp_path, table)
    source = open_rows(tmp_path, table, tolerated_share=0.1)
    assert list(source.omitted) == ["40"]
    assert source.index.set_index("id").loc["3", ["split", "label"]].tolist() == ["train", -1]


def test_rows_without_a_label_stay_with_their_group(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = rows(90)
    for row, cells in enumerate(table):
        cells["group"] = f"g{row // 3}"
    expected = open_rows(tmp_path, table).index.drop_duplicates("group").set_index("group")["split"]
    more = [{**table[3 * group], "label": ""} for group in range(30)]
    more.append({**table[0], "label": "", "group": "new"})
    source = open_rows(tmp_path, table + more)
    index = source.index
    assert not index.drop_duplicates(["group", "split"])["group"].duplicated().any()
    unlabelled = index[index["label"] == -1]
    assert set(unlabelled["group"]) == {*expected.index[expected == "train"], "new"}
    assert not source.omitted
    unused = (expected != "train").sum()
    assert f"{unused} rows without a label are not used, because their groups are" in caplog.text


def test_a_parquet_table_is_read_as_the_csv(tmp_path: Path) -> None:
    table = rows()
    expected = open_rows(tmp_path, table)
    frame = pd.DataFrame(table)
    frame["n_2"] = pd.to_numeric(frame["n_2"])
    frame.to_parquet(tmp_path / "index.parquet")
    found = Table("heldout", str(tmp_path / "index.parquet"), NUMBERS)
    pd.testing.assert_frame_equal(found.index, expected.index)
    for source in (expected, found):
        source.fit(tmp_path)
    read, again = expected.read(expected.index), found.read(found.index)
    for name in read:
        np.testing.assert_array_equal(read[name], again[name])


def test_whole_numbers_are_classes_in_the_order_of_their_values(tmp_path: Path) -> None:
    table = rows()
    for row, cells in enumerate(table):
        cells["label"] = (10, 9, 2)[row % 3]
    assert open_rows(tmp_path, table).classes == ("2", "9", "10")


Edit = Callable[[list[dict[str, Any]]], object]


def change(rows_: range, key: str, value: Callable[[int], Any]) -> Edit:
    def edit(table: list[dict[str, Any]]) -> None:
        for row in rows_:
            table[row][key] = value(row)

    return edit


def add(key: str, value: Callable[[int], Any]) -> Edit:
    return change(range(45), key, value)


REFUSED: Mapping[str, tuple[Edit, str]] = MappingProxyType(
    {
        "one class": (add("label", lambda _: "cat"), "column 'label' has only one class, 'cat'"),
        "no label": (add("label", lambda _: ""), "column 'label' has no label in 45 rows"),
        "case": (
            change(range(3, 4), "label", lambda _: "Cat"),
            "'label' has 'Cat' in line 5 and 'cat' in 14 rows: write a class in one way",
        ),
        "white space": (
            change(range(3, 7, 3), "label", lambda _: "cat "),
            "'label' has 'cat ' in lines 5, 8 and 'cat' in 13 rows",
        ),
        "format of numbers": (
            add("label", lambda row: "1.0" if row == 5 else row % 2),
            "'label' has '1.0' in line 7 and '1' in 21 rows",
        ),
        "measurement": (
            add("label", lambda row: row + 0.5),
            "45 different numbers in 45 rows, such as 0.5, 1.5, 2.5 .* looks like a measurement",
        ),
        "identifiers": (add("label", lambda row: row // 2), "looks like a measurement"),
        "few training samples": (
            change(range(6, 45), "label", lambda row: ("dog", "eel")[row % 2]),
            r"the class 'cat' .* has 1 training samples out of 2 \(lines 2, 5\); .* at least 5",
        ),
        "ids twice": (
            add("id", lambda row: "x" if row in (2, 8) else row),
            "the id 'x' in the column 'id' is in lines 4, 10; ids must be unique",
        ),
        "empty id": (add("id", lambda row: row if row != 4 else " "), "line 6: the column 'id' is"),
        "unknown split": (
            add("split", lambda row: "tets" if row == 3 else ("train", "test")[row % 2]),
            "line 5: unknown split in the column 'split' 'tets'; .* did you mean 'test'",
        ),
        "no test": (add("split", lambda _: "train"), "no row of the column 'split' is 'test'"),
        "empty group": (add("group", lambda row: "" if row == 1 else row), "line 3: the column"),
        "torn group": (
            lambda table: [
                cells.update(split=("train", "test")[row % 2], group=min(row, 43))
                for row, cells in enumerate(table)
            ],
            "lines 45, 46: the group '43' is in the splits 'test' and 'train'",
        ),
        "two groups": (
            add("group", lambda row: row % 2),
            "there are 2 groups, but 3 are needed, one for each of the splits train, valid, test",
        ),
        "empty numbers": (
            lambda table: [cells.update(n_2="", n_3=" ") for cells in table[2:12]],
            "10 of 45 samples cannot be used, .*'2': .*line 4: right is empty: .* n_2, n_3",
        ),
        "no number": (
            change(range(3), "n_1", lambda _: "x"),
            "3 of 45 samples .*line 2: the column 'n_1' is 'x', which is not a number",
        ),
    }
)  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_mistake_in_the_table_is_an_error_with_file_rule_and_lines(
    name: str, tmp_path: Path
) -> None:
    edit, message = REFUSED[name]
    table = rows()
    for cells in table:
        cells["text"] = "one line"
    open_rows(tmp_path, [dict(cells) for cells in table])  # it is valid before the edit
    edit(table)
    with pytest.raises(ValueError, match=message) as caught:
        open_rows(tmp_path, table)
    assert "index.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "labl"}, "index.csv: unknown column 'labl'; .* did you mean 'label'"),
        ({"group": "speker"}, "index.csv: unknown column of groups 'speker'; available"),
        ({"modalities": {"a": "numbers"}}, "at least two are needed"),
        (
            {"modalities": {"a": "numbers", "b": {"type": "numbers", "column": "*l*"}}},
            "index.csv: the modality 'b' contains the column 'label', which is the label",
        ),
        ({"modalities": {"a": "numbers", "n_1": "number"}}, "modality 'n_1' 'number'; .*'numbers'"),
        ({"modalities": {"a": "numbers", "c": "numbers"}}, "column of modality 'c' 'c'; available"),
        ({"modalities": {"a": "numbers", "n_1": 3}}, "'n_1' is 3; it must be a type"),
        (
            {"modalities": {"a": "numbers", "s": {"type": "audio", "column": "sound"}}},
            "'s' of type 'audio' needs the key 'seconds'",
        ),
        (
            {"modalities": {"a": "numbers", "t": {"type": "text", "columns": "text"}}},
            "key of modality 't' 'columns'; .* did you mean 'column'",
        ),
        (
            {"modalities": {"a": "numbers", "t": {"type": "text", "column": ["text", "a"]}}},
            "only 'numbers' can have several",
        ),
        (
            {"modalities": {"a": "numbers", "picture": {"type": "image", "size": 0}}},
            "modality 'picture': size is",
        ),
        (
            {"modalities": {"a": "numbers", "p": {"type": "image", "column": "picture"}}},
            "45 of 45 samples cannot be used, .*0.png is missing",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_the_arguments_is_an_error(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        open_rows(tmp_path, rows(), **changes)


@pytest.mark.parametrize("cell", ["../outside.png", "link.png"])
def test_a_path_that_leads_out_of_the_folder_is_an_error(cell: str, tmp_path: Path) -> None:
    write_table(tmp_path / "set")
    (tmp_path / "outside.png").write_bytes(b"")
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "outside.png")
    path = tmp_path / "set" / "index.csv"
    path.write_text(path.read_text().replace("files/2.png", cell))
    with pytest.raises(ValueError, match=rf"line 6: the path '{cell}' .* leads out of the folder"):
        TABLE.open(tmp_path / "set")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a;b\n1;2\n", "must be separated by commas"),
        (b"a,a\n1,2\n", "the column 'a' appears twice"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: has 3 cells, but the first line has 2"),
        (b"a,b\n1,\xe9\n", "line 2: not UTF-8"),
        (b'a,b\n1,"2\n', "not a CSV"),
        (b"", "each column must have a name"),
        (b"a,n_1,n_2,n_3,label\n", "has no row below its header"),
    ],
)
def test_a_damaged_table_is_an_error(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Table("heldout", str(path), NUMBERS)
    assert "index.csv" in str(caught.value)


def test_a_missing_table_and_other_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index\.csv is missing: put the table there"):
        Table("heldout", str(tmp_path / "index.csv"), NUMBERS)
    (tmp_path / "index.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"index\.xlsx: a table must be a file \.csv or \.parquet"):
        Table("heldout", str(tmp_path / "index.xlsx"), NUMBERS)
    (tmp_path / "index.parquet").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"index\.parquet cannot be read as Parquet"):
        Table("heldout", str(tmp_path / "index.parquet"), NUMBERS)


def test_an_unknown_argument_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    write_table(tmp_path)
    with pytest.raises(TypeError, match=r"unknown argument 'labels'; .* did you mean 'label'\?"):
        TABLE.open(tmp_path, labels="kind")


def test_the_default_members_are_the_nets_of_the_types() -> None:
    members = Members.model_validate(Table.default_members({"modalities": MODALITIES}))
    kinds = {name: net.type.rpartition(".")[2] for name, net in members.modalities.items()}
    assert kinds == {
        "picture": "MapNet", "portrait": "VectorNet", "sound": "MapNet", "voice": "SequenceNet",
        "text": "VectorNet", "counts": "VectorNet", "track": "SequenceNet",
    }  # fmt: skip
    assert members.multimodal.masked_layers == ("hidden",)
    two = Members.model_validate(Table.default_members({"modalities": NUMBERS}))
    assert two.multimodal.masked_layers == ("fusion", "hidden")
    with pytest.raises(ValueError, match=r"array of shape \[1, 2, 3, 4\]; with `members: auto`"):
        Table.default_members(
            {"modalities": {"a": {"type": "array", "shape": [1, 2, 3, 4]}, "b": "text"}}
        )
