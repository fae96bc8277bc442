"""A sample store whose files were damaged after it was built."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from array_sources import file_contents, make_source
from mst_distill.data.store import open_store, write_store


@pytest.mark.parametrize("name", ["image.npy", "audio.npy", "index.parquet"])
def test_any_flipped_bit_of_a_file_is_detected(raw: Path, folder: Path, name: str) -> None:
    write_store(make_source(raw), folder)
    file = folder / name
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 61):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name} is missing or damaged \(its SHA-256"):
            open_store(folder)
    file.write_bytes(whole)
    open_store(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("classes", ["a", "c", "b"]), ("arrays", ["audio", "image"])]
)
def test_a_card_with_other_classes_or_arrays_is_rejected(
    raw: Path, folder: Path, key: str, value: list[str]
) -> None:
    write_store(make_source(raw), folder)
    card = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({**card, key: value}))
    with pytest.raises(ValueError, match=r"store\.json is damaged"):
        open_store(folder)


def test_a_store_from_before_files_had_a_sha256_is_rejected(raw: Path, folder: Path) -> None:
    write_store(make_source(raw), folder)
    card = json.loads((folder / "store.json").read_text())
    del card["files"]
    (folder / "store.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="was built before stores had a SHA-256 of each file"):
        open_store(folder)


def test_a_damaged_store_is_built_again(
    raw: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_store(make_source(raw), folder)
    before = file_contents(folder)
    with (folder / "image.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    source = make_source(raw)
    write_store(source, folder)
    assert sum(source.reads) == 7
    assert file_contents(folder) == before
    assert "image.npy is missing or damaged" in caplog.text
    assert "is damaged and is built again" in caplog.text


@pytest.mark.parametrize("name", ["store.json", "index.parquet", "audio.npy"])
@pytest.mark.parametrize("remaining_bytes", [0, 40])
def test_a_truncated_file_is_named(
    raw: Path, folder: Path, name: str, remaining_bytes: int
) -> None:
    write_store(make_source(raw), folder)
    with (folder / name).open("r+b") as file:
        file.truncate(remaining_bytes)
    with pytest.raises(ValueError, match=f"{folder / name} is missing or damaged .* `ingest`"):
        open_store(folder)


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOMEM, errno.EMFILE])
def test_a_store_that_cannot_be_read_now_is_not_called_damaged(
    raw: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """For example without permission or memory: nobody is to delete it, or to build it again."""
    write_store(make_source(raw), folder)
    before = file_contents(folder)

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, "no")

    with monkeypatch.context() as patched:
        patched.setattr(np, "load", fail)
        for use in (lambda: open_store(folder), lambda: write_store(make_source(raw), folder)):
            with pytest.raises(OSError, match=r"cannot be read .*image\.npy") as error:
                use()
            assert error.value.errno == code
            assert "delete" not in str(error.value)
    assert file_contents(folder) == before
