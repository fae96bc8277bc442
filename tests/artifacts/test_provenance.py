"""Artefacts say what they were made from, and are verified; the git revision is the tree's."""

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
from mst_distill.parameters import Route, Runtime, Teachers

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


def test_a_file_has_its_sha256_and_its_origin_beside_it(tmp_path: Path) -> None:
    file = write(tmp_path)
    record = json.loads((tmp_path / "table.csv.origin.json").read_text())
    digest = hashlib.sha256(b"id,label\na,0\n").hexdigest()
    assert record["files"] == {"table.csv": digest}
    assert record["origin"] == dataclasses.asdict(ORIGIN)
    assert set(record["versions"]) == {"mst-distill", "torch", "numpy"}
    assert record["git"]
    assert verify(file).origin == ORIGIN
    assert verify(file).identity == read_sidecar(file).identity


def test_equal_content_has_an_equal_identity_wherever_it_is(tmp_path: Path) -> None:
    identities = []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        identities.append(verify(write(tmp_path / name, content=content)).identity)
    assert identities[0] == identities[1] != identities[2]


def test_any_flipped_bit_is_seen(tmp_path: Path) -> None:
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


def test_a_cut_or_missing_file_is_seen(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"table\.csv is damaged"):
        verify(file)
    file.unlink()
    with pytest.raises(ValueError, match=r"table\.csv is missing"):
        verify(file)


def test_without_a_whole_sidecar_nothing_is_whole(tmp_path: Path) -> None:
    file = write(tmp_path)
    sidecar = sidecar_path(file)
    whole = sidecar.read_text()
    for cut in range(0, len(whole) - 1, 7):
        sidecar.write_text(whole[:cut])
        with pytest.raises(ValueError, match=r"table\.csv\.origin\.json is damaged"):
            verify(file)
    sidecar.unlink()
    with pytest.raises(ValueError, match=r"table\.csv is not whole, or from before artefacts said"):
        verify(file)
    file.unlink()
    with pytest.raises(ValueError, match=r"table\.csv does not exist"):
        verify(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artefact of three files, one of them deeper."""
    folder = tmp_path / "masks"
    (folder / "audio").mkdir(parents=True)
    for name in ("one.json", "one.safetensors", "audio/two.json"):
        (folder / name).write_text(name)
    (folder / ".lock").touch()
    write_sidecar(folder, [file for file in folder.rglob("[!.]*") if file.is_file()], ORIGIN)
    return folder


def test_a_folder_is_its_files_and_no_others(folder: Path) -> None:
    verify(folder)
    (folder / "audio/three.json").write_text("a stranger")
    with pytest.raises(ValueError, match=r"three\.json was not written together with masks"):
        verify(folder)
    (folder / "audio/three.json").unlink()
    (folder / "audio/two.json").rename(folder / "audio/renamed.json")
    with pytest.raises(ValueError, match=r"two\.json is missing"):
        verify(folder)


def test_swapped_files_are_seen(folder: Path) -> None:
    one, two = folder / "one.json", folder / "audio/two.json"
    texts = one.read_text(), two.read_text()
    one.write_text(texts[1])
    two.write_text(texts[0])
    with pytest.raises(ValueError, match="is damaged"):
        verify(folder)


def test_a_large_file_is_read_once_and_again_when_it_looks_different(
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
def test_whatever_differs_is_named(change: dict[str, Any], clause: str) -> None:
    other = dataclasses.replace(ORIGIN, **change)
    assert ORIGIN.differences(other) == [clause]
    assert other.digest != ORIGIN.digest
    assert ORIGIN.differences(dataclasses.replace(ORIGIN)) == []


def test_a_node_s_parameters_count_as_far_as_it_depends_on_them() -> None:
    @depends_on(route=("masked",), masks=())
    def node() -> None:
        """It."""

    teachers = Teachers(epochs=3, batch_size=4, learning_rate=0.1)
    blocks = {
        "seed": 0,
        "teachers": teachers,
        "route": ROUTE,
        "masks": {"epochs": 1},
        "runtime": Runtime(device="cpu", precision="tf32"),
    }
    assert counted_parameters(node, blocks) == {
        "seed": 0,
        "teachers": teachers.model_dump(mode="json"),
        "route": {"masked": True},
        "runtime": {"precision": "tf32"},
    }
    whole = counted_parameters(lambda: None, blocks)
    assert whole["route"]["selection"] == "accuracy"
    assert whole["masks"] == {"epochs": 1}


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
