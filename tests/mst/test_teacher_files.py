"""Files of what a given teacher returned: order, names, and everything that is rejected."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mst_distill.mst.teacher_files import LEAST_PROBABILITY, recorded_array

CLASSES = ("cat", "dog")
IDS = ["a", "b", "c"]
LOGITS = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 2.5]])


def parquet(folder: Path, values: np.ndarray = LOGITS, ids=IDS, columns=CLASSES) -> Path:
    table = pd.DataFrame(values, columns=list(columns))
    table.insert(0, "id", list(ids))
    path = folder / "teacher.parquet"
    table.to_parquet(path)
    return path


def npz(folder: Path, **arrays: object) -> Path:
    path = folder / "teacher.npz"
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return path


def test_rows_are_found_by_id_whatever_their_order(tmp_path):
    path = parquet(tmp_path, LOGITS[::-1], IDS[::-1])
    found = recorded_array(path, "logits", CLASSES, IDS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, LOGITS.astype(np.float32))
    few = recorded_array(path, "logits", CLASSES, ["c", "a"])
    np.testing.assert_array_equal(few, LOGITS[[2, 0]].astype(np.float32))


def test_both_formats_hold_the_same(tmp_path):
    path = npz(tmp_path, ids=IDS, logits=LOGITS, classes=CLASSES)
    of_npz = recorded_array(path, "logits", CLASSES, IDS)
    np.testing.assert_array_equal(of_npz, recorded_array(parquet(tmp_path), "logits", CLASSES, IDS))


def test_ids_that_are_numbers_are_compared_as_text(tmp_path):
    path = npz(tmp_path, ids=[3, 1], embeddings=[[1.0], [2.0]])
    found = recorded_array(path, "embeddings", CLASSES, ["1", "3"])
    np.testing.assert_array_equal(found, [[2.0], [1.0]])


def test_probabilities_become_logits_with_the_same_softmax(tmp_path):
    probabilities = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    found = recorded_array(parquet(tmp_path, probabilities), "probabilities", CLASSES, IDS)
    softmax = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, probabilities, atol=1e-6)
    assert found[1, 1] == pytest.approx(np.log(LEAST_PROBABILITY))


def test_embeddings_have_any_columns(tmp_path):
    values = np.arange(9.0).reshape(3, 3)
    path = parquet(tmp_path, values, columns=("0", "1", "2"))
    np.testing.assert_array_equal(recorded_array(path, "embeddings", CLASSES, IDS), values)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "b"], r"1 id more than once \('b'\)"),
        (["a", "b", "x"], r"1 id without a row \('c'\); 1 id of no sample \('x'\)"),
        (["x", "y", "z"], r"3 ids without a row \('a', 'b', 'c'\); 3 ids of no sample"),
    ],
)
def test_ids_that_are_missing_foreign_or_double_are_counted(tmp_path, ids, message):
    with pytest.raises(ValueError, match=f"teacher.parquet: {message}"):
        recorded_array(parquet(tmp_path, ids=ids), "logits", CLASSES, IDS)


def test_a_message_lists_five_ids(tmp_path):
    known = [f"s{number}" for number in range(9)]
    with pytest.raises(
        ValueError, match=re.escape("9 ids without a row ('s0', 's1', 's2', 's3', 's4', ...")
    ):
        recorded_array(parquet(tmp_path), "logits", CLASSES, known)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("dog", "cat"), "class 0 is 'dog', and in the benchmark it is 'cat'"),
        (("cat", "dogs"), "unknown class 'dogs'.*'dog'"),
    ],
)
def test_classes_are_compared_by_name_and_order(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        recorded_array(parquet(tmp_path, columns=columns), "logits", CLASSES, IDS)
    path = npz(tmp_path, ids=IDS, logits=LOGITS, classes=columns)
    with pytest.raises(ValueError, match=message):
        recorded_array(path, "logits", CLASSES, IDS)


def test_a_class_that_is_lacking_is_named(tmp_path):
    with pytest.raises(ValueError, match="has 1 classes and the benchmark 2; lacking: dog"):
        recorded_array(parquet(tmp_path, LOGITS[:, :1], columns=("cat",)), "logits", CLASSES, IDS)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (
            np.where(LOGITS == 3, np.nan, LOGITS),
            "logits",
            r"1 id with values that are not finite \('b'\)",
        ),
        (np.where(LOGITS == 3, np.inf, LOGITS), "embeddings", "not finite"),
        (
            LOGITS,
            "probabilities",
            r"3 ids with values that are no probabilities.*name the file under logits",
        ),
        (np.full((3, 2), 0.5), "logits", "name the file under probabilities"),
        (np.full((3, 2), 0.4), "probabilities", "sum to 1"),
    ],
)
def test_values_must_be_what_they_are_called(tmp_path, values, kind, message):
    with pytest.raises(ValueError, match=message):
        recorded_array(parquet(tmp_path, values), kind, CLASSES, IDS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"id": IDS, "logits": LOGITS, "classes": CLASSES}, "unknown array 'ids'; available: id"),
        ({"ids": IDS, "logits": LOGITS}, "unknown array 'classes'"),
        (
            {"ids": IDS, "logit": LOGITS, "classes": CLASSES},
            "unknown array 'logits'.*did you mean 'logit'",
        ),
        ({"ids": IDS, "logits": LOGITS[:2], "classes": CLASSES}, r"shape \(2, 2\)"),
        ({"ids": IDS, "logits": LOGITS[:, 0], "classes": CLASSES}, r"shape \(3,\)"),
    ],
)
def test_arrays_that_are_lacking_or_of_another_shape_are_named(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        recorded_array(npz(tmp_path, **arrays), "logits", CLASSES, IDS)


def test_other_files_are_rejected_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npz does not exist"):
        recorded_array(tmp_path / "gone.npz", "logits", CLASSES, IDS)
    (tmp_path / "teacher.csv").write_text("id,cat,dog\n")
    with pytest.raises(ValueError, match=r"teacher.csv is not in one of the formats .parquet and"):
        recorded_array(tmp_path / "teacher.csv", "logits", CLASSES, IDS)
    for name in ("damaged.npz", "damaged.parquet"):
        (tmp_path / name).write_bytes(b"no such format")
        with pytest.raises(ValueError, match=name):
            recorded_array(tmp_path / name, "logits", CLASSES, IDS)
    table = pd.DataFrame({"id": IDS, "cat": ["x", "y", "z"], "dog": 0.5})
    table.to_parquet(tmp_path / "texts.parquet")
    with pytest.raises(ValueError, match="column 'cat' has values that are not numbers"):
        recorded_array(tmp_path / "texts.parquet", "logits", CLASSES, IDS)
    table.rename(columns={"id": "ID"}).to_parquet(tmp_path / "texts.parquet")
    with pytest.raises(ValueError, match="unknown column 'id'; available: ID"):
        recorded_array(tmp_path / "texts.parquet", "logits", CLASSES, IDS)


def test_an_npz_file_with_pickled_objects_is_not_opened(tmp_path):
    ids = np.array(IDS, dtype=object)
    np.savez(tmp_path / "objects.npz", ids=ids, embeddings=LOGITS)
    with pytest.raises(ValueError, match=r"objects.npz cannot be read"):
        recorded_array(tmp_path / "objects.npz", "embeddings", CLASSES, IDS)


def test_ids_that_are_the_index_of_a_table_are_found(tmp_path):
    path = tmp_path / "teacher.parquet"
    pd.DataFrame(LOGITS, columns=list(CLASSES), index=pd.Index(IDS, name="id")).to_parquet(path)
    np.testing.assert_array_equal(recorded_array(path, "logits", CLASSES, IDS), LOGITS)


def test_a_label_is_no_feature(tmp_path):
    table = pd.DataFrame({"id": IDS, "first": 0.5, "label": [0, 1, 1]})
    table.to_parquet(tmp_path / "teacher.parquet")
    with pytest.raises(ValueError, match="the column 'label' would be a feature: remove it"):
        recorded_array(tmp_path / "teacher.parquet", "embeddings", CLASSES, IDS)


def test_values_that_are_infinite_as_float32_are_named(tmp_path):
    values = np.where(LOGITS == 3, 1e39, LOGITS)
    with pytest.raises(ValueError, match=r"1 id with values that are not finite \('b'\)"):
        recorded_array(parquet(tmp_path, values), "logits", CLASSES, IDS)


def test_values_of_samples_that_are_not_used_do_not_count(tmp_path):
    values = np.where(LOGITS == 3, np.nan, LOGITS)
    found = recorded_array(parquet(tmp_path, values), "logits", CLASSES, ["a", "c"])
    np.testing.assert_array_equal(found, LOGITS[[0, 2]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": "a", "logits": LOGITS, "classes": CLASSES}, r"array 'ids' has the shape \(\)"),
        ({"ids": IDS, "logits": LOGITS, "classes": "cat"}, r"array 'classes' has the shape \(\)"),
        ({"ids": IDS, "logits": LOGITS + 1j, "classes": CLASSES}, "complex128"),
    ],
)
def test_arrays_of_a_wrong_kind_are_named(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        recorded_array(npz(tmp_path, **arrays), "logits", CLASSES, IDS)


def test_ids_that_are_objects_are_named_with_the_way_out(tmp_path):
    np.savez(tmp_path / "objects.npz", ids=np.array(IDS, dtype=object), embeddings=LOGITS)
    with pytest.raises(ValueError, match=r"objects.npz cannot be read.*astype\(str\)"):
        recorded_array(tmp_path / "objects.npz", "embeddings", CLASSES, IDS)


def test_probabilities_may_be_rounded(tmp_path):
    rounded = np.array([[0.335, 0.66], [0.5, 0.5], [0.1, 0.906]])
    assert recorded_array(parquet(tmp_path, rounded), "probabilities", CLASSES, IDS).shape == (3, 2)
