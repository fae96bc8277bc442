"""Runs of VGGSound-50k on random features of the real shapes, of 24 clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mst_distill.data.store import open_store
from projects import copy_project, run_session, stages

CATEGORIES = ("railroad car", "airplane flyby", "zebra braying")
SPLITS = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
TRUNCATED = "clip-05"
RUN = "vggsound50k/heldout-all/audio/seed-0/main"


def write_clips(folder: Path) -> None:
    """Write 24 clips of three classes; the file of one training clip is truncated."""
    rng = np.random.default_rng(0)
    clips = [f"clip-{row:02d}" for row in range(24)]
    for name, shape in (("video", (10, 7, 7, 512)), ("audio", (10, 128))):
        (folder / name).mkdir(parents=True)
        for row, clip in enumerate(clips):
            values = rng.random(shape, np.float32) + row % 3
            np.save(folder / name / f"{clip}.npy", values)
    truncated = folder / "video" / f"{TRUNCATED}.npy"
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    np.save(folder / "audio" / "clip-07.npy", rng.random((6, 128), np.float32))
    lines = [f"{clip}&{row % 3}" for row, clip in enumerate(clips)]
    (folder / "metadata.txt").write_text("\n".join(lines) + "\n")
    categories = [CATEGORIES[row % 3] for row in range(24)]
    table = pd.DataFrame({"video_id": clips, "category": categories, "split": SPLITS})
    table.to_csv(folder / "splits.csv", index=False)


@pytest.mark.long
def test_clips_pass_all_stages_and_the_truncated_one_is_reported(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_clips(raw)
    project = copy_project(tmp_path / "project")
    arguments = {
        "video": str(raw / "video"),
        "audio": str(raw / "audio"),
        "metadata": str(raw / "metadata.txt"),
        "splits": str(raw / "splits.csv"),
        "tolerated_share": 0.1,
    }
    run_session(
        project,
        env="vggsound50k",
        benchmark={"arguments": arguments},
        **stages({"factor": 40}, epochs=1, batch_size=6),
    )

    report = project / "data/08_reporting" / RUN
    metrics = json.loads((report / "metrics.json").read_text())
    assert "audio student" in metrics["verdict"]
    assert set(metrics["models"]["student"]["precision"]) == set(CATEGORIES)
    described = json.loads((report / "samples_report.json").read_text())
    assert described["omitted"]["count"] == 1
    assert list(described["omitted"]["first"]) == [TRUNCATED]
    assert (
        f"video/{TRUNCATED}.npy: not a complete .npy file"
        in described["omitted"]["first"][TRUNCATED]
    )
    assert described["splits"] == {"train": 11, "valid": 6, "test": 6}
    assert {name: modality["shape"] for name, modality in described["modalities"].items()} == {
        "video": "512 x 10 x 7 x 7 float32",
        "audio": "10 x 128 float32",
    }
    seconds = {"min": 6.0, "median": 10.0, "max": 10.0, "sum": 226.0, "samples_not_0": 23}
    assert described["notes"] == {"audio_seconds": seconds}
    summary = pd.read_csv(report / "samples_summary.csv").set_index("class")
    # Clips 2, 5 (truncated), 8 and 11 of the training clips are of the third class.
    assert summary.loc["zebra braying"].tolist() == [3, 2, 2, 7]
    assert summary.loc["all"].tolist() == [11, 6, 6, 23]
    assert (report / "samples_gallery.png").read_bytes().startswith(b"\x89PNG")

    samples = open_store(project / "data/05_model_input/vggsound50k/heldout-all/samples")
    assert samples.classes == CATEGORIES
    train = (samples.index["split"] == "train").to_numpy()
    for name in ("video", "audio"):
        assert samples.modalities[name][train].min() == 0
        assert samples.modalities[name][train].max() == 1


def test_the_error_of_a_missing_file_names_it(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    with pytest.raises(FileNotFoundError, match=r"raw/vggsound50k/metadata\.txt is missing"):
        run_session(project, env="vggsound50k")
    assert not (project / "data/05_model_input").exists()
