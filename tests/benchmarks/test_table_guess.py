"""Guessed types of the columns of a table, written for a person to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mst_distill.benchmarks.table import Table
from mst_distill.benchmarks.table_guess import write_parameters
from raw_sets import write_tone


def write_set(root: Path) -> Path:
    rows = 30
    for row in range(rows):
        write_tone(root / f"{row}.wav", 300, 0.31 + row / 100, 4000)
        np.save(root / f"{row}.npy", np.arange(6.0).reshape(2, 3) + row)
    table = pd.DataFrame(
        {
            "id": [f"s{row}" for row in range(rows)],
            "Photo file": [f"{row}.JPG" for row in range(rows)],
            "sound": [f"{row}.wav" for row in range(rows)],
            "features": [f"{row}.npy" for row in range(rows)],
            "text": [f"the text number {row}" for row in range(rows)],
            "kind": ["a", "b"] * 15,
            "left_1": range(rows),
            "left_2": range(rows),
            "age": [*range(rows - 1), ""],
            "student": range(rows),
            "empty": "",
            "label": ["x", "y", "z"] * 10,
        }
    )
    table.to_csv(root / "index.csv", index=False)
    return root / "index.csv"


def test_types_are_guessed_from_suffixes_and_values(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    files = write_parameters(path, tmp_path / "conf", "mine", "label", str(path))
    assert [file.name for file in files] == ["globals.yml", "parameters.yml"]
    text = files[1].read_text()
    parameters = yaml.safe_load(text)
    assert yaml.safe_load(files[0].read_text()) == {"benchmark": "mine", "target": "Photo_file"}
    assert parameters["members"] == "auto"
    assert parameters["benchmark"]["arguments"]["modalities"] == {
        "Photo_file": {"type": "photo", "column": "Photo file"},
        "sound": {"type": "audio", "seconds": 0.5, "column": "sound"},
        "features": {"type": "array", "shape": [2, 3], "column": "features"},
        "text": {"type": "text", "column": "text"},
        "left": {"type": "numbers", "column": ["left_1", "left_2"]},
        "numbers": {"type": "numbers", "column": ["age", "student"]},
    }
    assert "# kind is left out: it is a category with 2 values, such as 'a'" in text
    assert "# empty is left out: it is empty" in text
    assert "the longest of the first 20 has 0.5 s" in text


def test_what_is_written_opens_the_table(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    table = pd.read_csv(path).drop(columns="Photo file")
    table.to_csv(path, index=False)
    write_parameters(path, tmp_path, "mine", "label", str(path))
    arguments = yaml.safe_load((tmp_path / "mine/parameters.yml").read_text())["benchmark"]
    source = Table("heldout", **{**arguments["arguments"], "tolerated_share": 0.0})
    assert len(source.index) == 30


def test_names_that_yaml_reads_as_other_values_remain_names(tmp_path: Path) -> None:
    words = ["one", "two", "three", "four", "five", "six"]
    table = pd.DataFrame({"no": words, "null": words[::-1], "1e3": words, "label": list("ababab")})
    table.to_csv(tmp_path / "set.csv", index=False)
    path = tmp_path / "set.csv"
    globals_, parameters = write_parameters(path, tmp_path, "mine", "label", str(path))
    assert yaml.safe_load(globals_.read_text())["target"] == "no"
    modalities = yaml.safe_load(parameters.read_text())["benchmark"]["arguments"]["modalities"]
    assert list(modalities) == ["no", "null", "of_1e3"]
    assert [of["column"] for of in modalities.values()] == ["no", "null", "1e3"]


def test_an_existing_environment_is_not_overwritten(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match=r"mine exists and is not overwritten"):
        write_parameters(path, tmp_path, "mine", "label", str(path))
    assert not list((tmp_path / "mine").iterdir())


def test_a_wrong_label_and_too_few_modalities_are_errors(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    with pytest.raises(ValueError, match=r"unknown column 'labels'; .* 'label'\?; name .* --label"):
        write_parameters(path, tmp_path, "mine", "labels", str(path))
    table = pd.DataFrame({"a": range(9), "label": ["x", "y", "z"] * 3})
    table.to_csv(tmp_path / "small.csv", index=False)
    with pytest.raises(ValueError, match=r"at least two modalities .* numbers \(numbers\)"):
        write_parameters(tmp_path / "small.csv", tmp_path, "mine", "label", "small.csv")
    with pytest.raises(ValueError, match=r"the environment '../mine' is part of paths"):
        write_parameters(path, tmp_path, "../mine", "label", str(path))
    assert not (tmp_path / "mine").exists()
