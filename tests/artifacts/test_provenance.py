"""Sidecars of artefacts, their verification, the parameters that count, and the git revision."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mst_distill.artifacts.provenance import (
    LARGE,
    Origin,
    counted_parameters,
    depends_on,
    git_revision,
    read_sidecar,
    sha256_of,
    sidecar_path,
    verify,
    write_sidecar,
)
from mst_distill.parameters import Route, Runtime
from toy_runs import make_plan

ORIGIN = Origin(
    "train_student",
    {"seed": 0, "route": {"epochs": 3, "halvings": []}},
    {"samples": "aa", "members": "bb"},
    {"mst_distill.losses": "11", "mine": "22", "torch": "2.11.0"},
)
ROUTE = Route(epochs=3, batch_size=4, learning_rate=0.1)


def write(folder: Path, name: str = "table.csv", content: bytes = b"id,label\na,0\n") -> Path:
    file = folder / name
    file.write_bytes(content)
    write_sidecar(file, [file], ORIGIN)
    return file


def test_the_sidecar_of_a_file_has_its_sha256_and_its_origin(tmp_path: Path) -> None:
    file = write(tmp_path)
    record = json.loads((tmp_path / "table.csv.origin.json").read_text())
    digest = hashlib.sha256(b"id,label\na,0\n").hexdigest()
    assert record["files"] == {"table.csv": digest}
    assert record["origin"] == dataclasses.asdict(ORIGIN)
    assert set(record["versions"]) == {"mst-distill", "torch", "numpy"}
    assert record["git"]
    assert verify(file).origin == ORIGIN
    assert verify(file).identity == read_sidecar(file).identity


def test_equal_content_in_different_folders_has_an_equal_identity(tmp_path: Path) -> None:
    identities = []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        identities.append(verify(write(tmp_path / name, content=content)).identity)
    assert identities[0] == identities[1] != identities[2]


def test_any_flipped_bit_is_detected(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(500)
    file = write(tmp_path, "weights.safetensors", content)
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"weights\.safetensors is damaged: its SHA-256"):
            verify(file)
    file.write_bytes(content)
    verify(file)


def test_a_truncated_or_missing_file_is_detected(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"table\.csv is damaged"):
        verify(file)
    file.unlink()
    with pytest.raises(ValueError, match=r"table\.csv is missing"):
        verify(file)


def test_an_artefact_without_a_complete_sidecar_is_incomplete(tmp_path: Path) -> None:
    file = write(tmp_path)
    sidecar = sidecar_path(file)
    whole = sidecar.read_text()
    for cut in range(0, len(whole) - 1, 7):
        sidecar.write_text(whole[:cut])
        with pytest.raises(ValueError, match=r"table\.csv\.origin\.json is damaged"):
            verify(file)
    sidecar.unlink()
    with pytest.raises(
        ValueError, match=r"table\.csv is incomplete, or was made before artefacts had"
    ):
        verify(file)
    file.unlink()
    with pytest.raises(ValueError, match=r"table\.csv does not exist"):
        verify(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artefact of three files, one of them in a subfolder."""
    folder = tmp_path / "masks"
    (folder / "audio").mkdir(parents=True)
    for name in ("one.json", "one.safetensors", "audio/two.json"):
        (folder / name).write_text(name)
    (folder / ".lock").touch()
    write_sidecar(folder, [file for file in folder.rglob("[!.]*") if file.is_file()], ORIGIN)
    return folder


def test_a_folder_must_hold_exactly_the_files_of_its_sidecar(folder: Path) -> None:
    verify(folder)
    (folder / "audio/three.json").write_text("not in the sidecar")
    with pytest.raises(ValueError, match=r"three\.json was not written together with masks"):
        verify(folder)
    (folder / "audio/three.json").unlink()
    (folder / "audio/two.json").rename(folder / "audio/renamed.json")
    with pytest.raises(ValueError, match=r"two\.json is missing"):
        verify(folder)


def test_swapped_files_are_detected(folder: Path) -> None:
    one, two = folder / "one.json", folder / "audio/two.json"
    texts = one.read_text(), two.read_text()
    one.write_text(texts[1])
    two.write_text(texts[0])
    with pytest.raises(ValueError, match="is damaged"):
        verify(folder)


def test_a_large_file_is_read_again_only_if_its_size_or_time_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "large.npy", bytes(LARGE))
    before = sha256_of(file)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was read again"))
    assert sha256_of(file) == before
    monkeypatch.undo()
    stat = file.stat()
    file.write_bytes(bytes(LARGE - 1) + b"\1")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert sha256_of(file) != before


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        (
            {"parameters": {"seed": 1, "route": {"epochs": 3, "halvings": []}}},
            "seed was 0 and is 1",
        ),
        (
            {"parameters": {"seed": 0, "route": {"epochs": 9, "halvings": []}}},
            "route.epochs was 3 and is 9",
        ),
        (
            {"parameters": {"seed": 0, "route": {"epochs": 3, "halvings": [0.5]}}},
            "route.halvings was [] and is [0.5]",
        ),
        ({"parameters": {"seed": 0, "route": {"halvings": []}}}, "route.epochs was 3 and is None"),
        (
            {"inputs": {"samples": "aa", "members": "cc"}},
            "its input 'members' has changed",
        ),
        ({"inputs": {"samples": "aa"}}, "its input 'members' has changed"),
        (
            {"code": {**ORIGIN.code, "mine": "23"}},
            "the code has changed (mine)",
        ),
        (
            {"code": {"mine": "22", "torch": "2.12.0", "more": "1"}},
            "the code has changed (torch, more, mst_distill.losses)",
        ),
    ],
)
def test_every_difference_is_named(change: dict[str, Any], clause: str) -> None:
    other = dataclasses.replace(ORIGIN, **change)
    assert ORIGIN.differences(other) == [clause]
    assert other.digest != ORIGIN.digest
    assert ORIGIN.differences(dataclasses.replace(ORIGIN)) == []


def test_only_the_declared_parameters_of_a_node_count() -> None:
    @depends_on("seed", "teachers", "runtime", route=("masked",), masks=())
    def node() -> None:
        """A node."""

    plan = make_plan(runtime=Runtime(device="cpu", precision="tf32"))
    assert counted_parameters(node, plan) == {
        "seed": 0,
        "teachers": plan.teachers.model_dump(mode="json"),
        "route": {"masked": True},
        "runtime": {"precision": "tf32"},
    }
    assert counted_parameters(lambda: None, plan) == {}


def test_a_preset_counts_by_its_values_and_not_by_its_name() -> None:
    @depends_on("route")
    def node() -> None:
        """A node."""

    length = {"epochs": 3, "batch_size": 4, "learning_rate": 0.1}
    routes = Route(**length, preset="paper"), Route(**length, selection="ce")
    one, other = (counted_parameters(node, make_plan(route=route)) for route in routes)
    assert one == other
    assert one["route"]["selection"] == "ce"


def test_a_node_gets_only_the_parameters_that_it_declares() -> None:
    plan = make_plan().only(("seed", "teachers"))
    assert (plan.seed, plan.teachers.epochs) == (0, 2)
    with pytest.raises(AttributeError, match="route"):
        _ = plan.route


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_git_revision_is_the_commit_and_marks_changed_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "provenance.py"
    file.write_text("one\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--no-gpg-sign", "-m", "one")
    git(tmp_path, "tag", "-a", "v1", "-m", "the revision is the commit, not the tag")
    monkeypatch.setattr("mst_distill.artifacts.provenance.__file__", str(file))
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
    monkeypatch.setattr(
        "mst_distill.artifacts.provenance.__file__", str(tmp_path / "provenance.py")
    )
    assert git_revision() == "unknown"
