"""Fingerprints change with whatever a result depends on; the git revision is the tree's."""

from __future__ import annotations

import dataclasses
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mst_distill.parameters import Member, Members, Route, Teachers
from mst_distill.provenance import changes, fingerprint, git_revision, provenance
from mst_distill.samples import Samples
from toys import make_samples

NET = Member(type="a.Net", arguments={"width": 3}, masked_layers=("one", "two"))
PARAMETERS = {
    "target": "image",
    "seed": 0,
    "members": Members(multimodal=NET, modalities={"image": NET, "audio": NET}),
    "teachers": Teachers(epochs=3, batch_size=4, learning_rate=0.1),
    "route": Route(epochs=3, batch_size=4, learning_rate=0.1),
}


@pytest.fixture
def data() -> tuple[Samples, pd.DataFrame]:
    return make_samples(20)


def with_member(**changes: Any) -> Members:
    other = NET.model_copy(update=changes)
    return Members(multimodal=NET, modalities={"image": NET, "audio": other})


CHANGES: list[dict[str, Any]] = [
    {"target": "audio"},
    {"seed": 1},
    {"teachers": Teachers(epochs=3, batch_size=4, learning_rate=0.2)},
    {"teachers": Teachers(epochs=3, batch_size=4, learning_rate=0.1, temperature=2)},
    {"route": Route(epochs=3, batch_size=4, learning_rate=0.1, kd_weight=0.5)},
    {"route": Route(epochs=3, batch_size=4, learning_rate=0.1, preset="paper")},
    {"members": with_member(type="an.OtherNet")},
    {"members": with_member(arguments={"width": 4})},
    {"members": with_member(masked_layers=("two", "one"))},
    {"something": None},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_any_parameter_changes_the_fingerprint(
    data: tuple[Samples, pd.DataFrame], change: dict[str, Any]
) -> None:
    before = fingerprint(*data, **PARAMETERS)
    assert fingerprint(*data, **(PARAMETERS | change)) != before


def test_data_and_splits_change_the_fingerprint(data: tuple[Samples, pd.DataFrame]) -> None:
    samples, splits = data
    before = fingerprint(samples, splits, seed=0)
    other = dataclasses.replace(samples, digest="another")
    moved, renamed = splits.copy(), splits.copy()
    first = splits["split"].iloc[0]
    moved.loc[0, "split"] = "valid" if first == "train" else "train"
    renamed.loc[0, "id"] = "another"
    found = [
        fingerprint(other, splits, seed=0),
        fingerprint(samples, moved, seed=0),
        fingerprint(samples, renamed, seed=0),
        fingerprint(samples, splits.iloc[:-1], seed=0),
    ]
    assert len({before, *found}) == 5


def test_equal_parameters_have_an_equal_fingerprint_however_they_are_written(
    data: tuple[Samples, pd.DataFrame],
) -> None:
    before = fingerprint(*data, **PARAMETERS)
    turned = dict(reversed(PARAMETERS.items()))
    turned["route"] = Route(
        learning_rate=0.1, selection="accuracy", kd_weight=1, batch_size=4, epochs=3
    )
    assert fingerprint(*make_samples(20), **turned) == before


def test_the_fingerprint_is_stable() -> None:
    samples, _ = make_samples(20)
    splits = pd.DataFrame({"id": ["a", "b"], "split": ["train", "test"], "label": [0, 1]})
    # printf '["toy-20-0", {"seed": 1, "target": "image"}]a\ttrain\nb\ttest' | sha256sum
    assert fingerprint(samples, splits, target="image", seed=1) == (
        "456efef99f96af9e892488d5327e1f56bdbbd24929a9a2dbb83a0a2d3c91d3bb"
    )


def test_provenance_says_where_a_result_is_from(data: tuple[Samples, pd.DataFrame]) -> None:
    samples, splits = data
    teachers = PARAMETERS["teachers"]
    found = provenance(samples, splits, 3, teachers=teachers)
    assert found == {
        "seed": 3,
        "parameters": {"teachers": teachers.model_dump(mode="json")},
        "data": "toy-20-0",
        "made_from": {},
        "fingerprint": fingerprint(samples, splits, seed=3, teachers=teachers),
        "versions": {name: version(name) for name in ("mst-distill", "torch", "numpy")},
        "git": git_revision(),
    }
    assert found["fingerprint"] != provenance(samples, splits, 4, teachers=teachers)["fingerprint"]


def git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(
        ["git", *settings, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_git_revision_is_the_commit_and_whether_it_was_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "provenance.py"
    file.write_text("one\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--no-gpg-sign", "-m", "one")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag is not to stand for the commit")
    monkeypatch.setattr("mst_distill.provenance.__file__", str(file))
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert git_revision() == commit
    file.write_text("two\n")
    assert git_revision() == f"{commit}-dirty"


def test_without_a_git_program_the_revision_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision() == "unknown"


def test_outside_git_the_revision_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr("mst_distill.provenance.__file__", str(tmp_path / "provenance.py"))
    assert git_revision() == "unknown"


def test_changes_are_named_one_by_one(data: tuple[Samples, pd.DataFrame]) -> None:
    samples, splits = data
    made = provenance(samples, splits, made_from={"masks/a": "1"}, **PARAMETERS)
    assert changes(made, made) == []
    route = Route(epochs=9, batch_size=4, learning_rate=0.1)
    wanted = PARAMETERS | {"route": route, "seed": 2}
    assert changes(made, provenance(samples, splits, made_from={"masks/a": "1"}, **wanted)) == [
        "seed was 0 and is 2",
        "route.epochs was 3 and is 9",
    ]
    anew = provenance(samples, splits, made_from={"masks/a": "2"}, **PARAMETERS)
    assert changes(made, anew) == ["masks/a was made anew"]
    others = dataclasses.replace(samples, digest="others")
    assert changes(anew, provenance(others, splits, made_from={"masks/a": "2"}, **PARAMETERS)) == [
        "the samples are others"
    ]
    dealt = splits.assign(split=splits["split"].to_numpy()[::-1])
    assert changes(anew, provenance(samples, dealt, made_from={"masks/a": "2"}, **PARAMETERS)) == [
        "the splits are others"
    ]
