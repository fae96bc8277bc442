"""Faults that any source of samples may have, in one like those that users write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from damaged_sets import (
    Case,
    Damage,
    DamageTests,
    RawSet,
    append,
    edit_array,
    replace,
    replace_all,
    set_values,
)
from mst_distill.benchmarks.source import Protocol, SampleSource


class TableSource(SampleSource):
    """Reads ``index.csv`` and one array for each modality."""

    classes = ("no", "yes")

    def __init__(self, protocol: Protocol, folder: str, tolerated_share: float = 0.0) -> None:
        self.files = [Path(folder) / "index.csv"]
        self.tolerated_share = tolerated_share
        self.index = pd.read_csv(self.files[0], dtype={"id": str})
        self._arrays = {name: np.load(Path(folder) / f"{name}.npy") for name in ("image", "audio")}

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        rows = part["row"].to_numpy()
        return {name: array[rows] for name, array in self._arrays.items()}


def write_table(root: Path) -> None:
    rng = np.random.default_rng(0)
    splits = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    index = pd.DataFrame({"id": [f"s{row}" for row in range(10)], "split": splits})
    index.insert(1, "group", index["id"])
    index.assign(label=np.arange(10) % 2, row=np.arange(10)).to_csv(root / "index.csv", index=False)
    for name in ("image", "audio"):
        np.save(root / f"{name}.npy", rng.random((10, 4), np.float32))


OWN = RawSet(write_table, f"{__name__}.TableSource", {"folder": ""})


def own_case(file: str, damage: Damage, rules: Sequence[str], named: str = "") -> Case:
    """Return a case whose error message need not name the damaged file."""
    return Case(OWN, file, damage, rules, named=named)


SETS = {"own": OWN}

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "repeated id": own_case(
            "index.csv", replace("s7,s7", "s6,s7"), ["'s6' of TableSource", "appears twice"]
        ),
        "id in two splits": own_case(
            "index.csv", append("s0,s0,test,0,0"), ["'s0' of TableSource", "appears twice"]
        ),
        "group in two splits": own_case(
            "index.csv", replace("s9,s9", "s9,s0"), ["group 's0'", r"\['test', 'train'\]"]
        ),
        "row without a label": own_case(
            "index.csv", replace("s3,s3,train,1", "s3,s3,train,"), ["row 3", "'label'"]
        ),
        "label out of range": own_case(
            "index.csv", replace("s3,s3,train,1", "s3,s3,train,2"), ["'s3' has label 2"]
        ),
        "unknown split": own_case(
            "index.csv", replace("s9,test", "s9,tset"), ["'tset'", "did you mean 'test'"]
        ),
        "a split without samples": own_case(
            "index.csv",
            replace_all("valid", "train"),
            ["'valid' is empty"],
        ),
        "no rows": own_case(
            "index.csv",
            lambda path: path.write_text(path.read_text().splitlines()[0]),
            ["found no samples"],
        ),
        "missing column": own_case(
            "index.csv", replace("group", "grp"), ["lacks the column 'group'"]
        ),
        "NaN": own_case(
            "image.npy",
            edit_array(set_values((7, 1), np.nan)),
            ["'image'", "'s7'", "finite"],
            named="",
        ),
        "objects": own_case(
            "audio.npy",
            edit_array(lambda values: values.astype("U9")),
            ["'audio'", "<U", "number"],
            named="",
        ),
        "constant": own_case(
            "audio.npy",
            edit_array(lambda values: values * 0),
            ["'audio'", "the same in all 10 samples"],
            named="index.csv",
        ),
    }
)


class TestDamage(DamageTests):
    cases = CASES
    sets = SETS
