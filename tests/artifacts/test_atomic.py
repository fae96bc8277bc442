"""Files are replaced as a whole or not at all, also after an error, a full disk or a kill."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from mst_distill.artifacts.atomic import pending, replacing, replacing_folder
from mst_distill.artifacts.bundle import ModelBundle, load_bundle, save_bundle
from mst_distill.artifacts.checkpoint import Checkpoints


class Small(nn.Module):
    """A net whose weights all have one value."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2000,), value))


def small() -> dict[str, None]:
    """`Small` may be loaded, also as another process imports it, where this one can as well."""
    names = [Small.__module__, *(["test_atomic"] if find_spec("test_atomic") else [])]
    return {f"{name}.Small": None for name in names}


def bundle(value: float) -> ModelBundle:
    return ModelBundle.of(Small(value), {}, metrics={"value": value})


@pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_gives_new_files(tmp_path, umask, mode):
    """A library that writes weights makes files that only their owner can read."""
    before = os.umask(umask)
    try:
        save_bundle(bundle(1.0), tmp_path / "net.json")
        save_bundle(bundle(2.0), tmp_path / "net.json")
    finally:
        os.umask(before)
    for name in ("net.json", "net.safetensors"):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode, name


def value_of(path) -> float:
    loaded = load_bundle(path, small())
    assert loaded.metrics["value"] == loaded.net.weight[0].item()
    return loaded.metrics["value"]


def run_in_process(code: str, folder) -> subprocess.CompletedProcess[str]:
    """Run code that saves bundles in another process, which may be killed by it."""
    head = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
    head += "from pathlib import Path\nfrom test_atomic import *\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_old_content_stays_until_the_new_is_complete(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with replacing(path) as file:
        file.write_text("first")
    assert path.read_text() == "first"
    with pytest.raises(ZeroDivisionError):
        replace_half(path)
    assert path.read_text() == "first"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


def replace_half(path):
    with replacing(path) as file:
        file.write_text("half of the sec")
        assert path.read_text() == "first"
        raise ZeroDivisionError


def test_the_old_bundle_stays_after_an_exception_in_a_save(tmp_path, monkeypatch):
    path = tmp_path / "net.json"
    save_bundle(bundle(1.0), path)

    def fail(state, file):
        file.write_bytes(b"half")
        raise RuntimeError("the net is on fire")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(RuntimeError, match="on fire"):
        save_bundle(bundle(2.0), path)
    assert value_of(path) == 1.0
    assert {each.name for each in tmp_path.iterdir()} == {"net.json", "net.safetensors"}


def test_files_are_replaced_where_folders_cannot_be_opened(tmp_path, monkeypatch):
    """As on Windows, where in addition a file that was opened only for reading cannot be synced."""
    flags, synced, opened = {}, [], os.open

    def open_as_windows(path, flag, *mode):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        handle = opened(path, flag, *mode)
        flags[handle] = flag
        return handle

    def fsync_as_windows(handle):
        if not flags[handle] & os.O_RDWR:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(handle)

    monkeypatch.setattr(os, "open", open_as_windows)
    monkeypatch.setattr(os, "fsync", fsync_as_windows)
    path = tmp_path / "a.txt"
    for content in ("first", "second"):
        with replacing(path) as file:
            file.write_text(content)
        assert path.read_text() == content
    assert len(synced) == 2


def test_a_file_that_cannot_be_synced_is_an_error(tmp_path, monkeypatch):
    def closed(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", closed)
    with pytest.raises(OSError, match=r"a\.txt"), replacing(tmp_path / "a.txt") as file:
        file.write_text("first")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def test_the_old_bundle_stays_when_the_disk_is_full_and_the_file_is_named(tmp_path):
    path = tmp_path / "net.json"
    save_bundle(bundle(1.0), path)
    done = run_in_process(
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        save_bundle(bundle(2.0), Path(sys.argv[1]) / "net.json")
        """,
        tmp_path,
    )
    assert done.returncode == 1
    assert "net.safetensors" in done.stderr.splitlines()[-1]
    assert "File too large" in done.stderr
    assert value_of(path) == 1.0
    assert {each.name for each in tmp_path.iterdir()} == {"net.json", "net.safetensors"}


@pytest.mark.parametrize(("call", "expected"), [(1, 1.0), (2, 2.0), (3, 2.0)])
def test_a_killed_save_leaves_the_old_bundle_or_the_new_one(tmp_path, monkeypatch, call, expected):
    # The bundle names `Small` as the other process imports it.
    monkeypatch.syspath_prepend(Path(__file__).parent)
    path = tmp_path / "net.json"
    save_bundle(bundle(1.0), path)
    done = run_in_process(
        f"""
        import os, signal, pathlib
        calls, replace = [], pathlib.Path.replace
        def dying(self, target):
            calls.append(target)
            if len(calls) == {call}:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)
        pathlib.Path.replace = dying
        save_bundle(bundle(2.0), Path(sys.argv[1]) / "net.json")
        """,
        tmp_path,
    )
    assert done.returncode == (-signal.SIGKILL if call < 3 else 0), done.stderr
    assert value_of(path) == expected
    save_bundle(bundle(3.0), path)
    assert value_of(path) == 3.0


@pytest.mark.parametrize("name", ["net.json", "net.safetensors"])
@pytest.mark.parametrize("remaining_bytes", [0, 100])
def test_a_truncated_file_is_named(tmp_path, name, remaining_bytes):
    save_bundle(bundle(1.0), tmp_path / "net.json")
    with (tmp_path / name).open("r+") as file:
        file.truncate(remaining_bytes)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_bundle(tmp_path / "net.json", small())


def test_missing_weights_are_named(tmp_path):
    save_bundle(bundle(1.0), tmp_path / "net.json")
    (tmp_path / "net.safetensors").unlink()
    with pytest.raises(ValueError, match=r"net\.safetensors is missing; run the node"):
        load_bundle(tmp_path / "net.json", small())


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_in_place_of_weights_is_never_run(tmp_path, write):
    path, trap = tmp_path / "net.json", tmp_path / "trap"
    save_bundle(bundle(1.0), path)
    with (tmp_path / "net.safetensors").open("wb") as file:
        write({"weight": Malicious(trap)}, file)
    with pytest.raises(ValueError, match="SHA-256"):
        load_bundle(path, small())

    from mst_distill.artifacts.provenance import sha256_of

    # An attacker can replace the checksum too.
    card = json.loads(path.read_text())
    card["weights"]["sha256"] = sha256_of(tmp_path / "net.safetensors")
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"net\.safetensors does not fit"):
        load_bundle(path, small())
    assert not trap.exists()
    # The trap works if the file is loaded unsafely.
    with (tmp_path / "net.safetensors").open("rb") as file:
        if write is pickle.dump:
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert trap.exists()


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_in_place_of_a_checkpoint_is_never_run(tmp_path, write):
    checkpoint, trap = Checkpoints(tmp_path, "origin").of("stage"), tmp_path / "trap"
    checkpoint.save({})
    (file,) = tmp_path.iterdir()
    with file.open("wb") as opened:
        write({"terms": "origin stage", "weight": Malicious(trap)}, opened)
    with pytest.raises(ValueError, match=f"{file} is an incomplete or damaged checkpoint"):
        checkpoint.load()
    assert not trap.exists()


def test_a_pending_json_of_other_weights_is_not_used(tmp_path):
    path = tmp_path / "net.json"
    save_bundle(bundle(1.0), path)
    pending(path).write_text(path.read_text().replace('"sha256": "', '"sha256": "0'))
    assert value_of(path) == 1.0
    (tmp_path / "net.safetensors").write_bytes(b"tampered")
    with pytest.raises(ValueError, match="differs from the one in"):
        load_bundle(path, small())


def test_a_folder_is_replaced_as_a_whole_and_a_link_to_it_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").write_text("old")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk")
    with pytest.raises(FileNotFoundError), replacing_folder(link) as folder:
        (folder / "missing" / "half").write_text("half")
    assert [file.name for file in link.iterdir()] == ["old"]
    with replacing_folder(link) as folder:
        (folder / "new").write_text("new")
        assert [file.name for file in link.iterdir()] == ["old"]
    assert link.is_symlink()
    assert [file.name for file in link.iterdir()] == ["new"]
    assert {file.name for file in tmp_path.iterdir()} == {"disk", "link"}
