"""Runs of AV-MNIST on real raw files, limited to 600 samples."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from projects import copy_project, run_session, stages


@pytest.mark.long
def test_six_hundred_real_samples_pass_all_stages(shared_data, tmp_path):
    project = copy_project(tmp_path / "project")
    folders = {
        "mnist": shared_data / "mnist",
        "speech": shared_data / "fsdd" / "recordings",
        "noise": shared_data / "esc50_noise" / "audio_8k_flac",
    }
    arguments = {name: str(path) for name, path in folders.items()}
    run_session(
        project,
        env="avmnist",
        limit=600,
        benchmark={"arguments": arguments},
        **stages({"factor": 20}, epochs=1, batch_size=64),
    )

    run = "avmnist/heldout-600/image/seed-0/main"
    metrics = json.loads((project / f"data/08_reporting/{run}/metrics.json").read_text())
    assert "image student" in metrics["verdict"]
    splits = pd.read_parquet(
        project / "data/05_model_input/avmnist/heldout-600/seed-0/splits.parquet"
    )
    assert len(splits) == 600
    assert splits["split"].value_counts().to_dict() == {"train": 412, "valid": 102, "test": 86}
    assert not splits.drop_duplicates(["group", "split"])["group"].duplicated().any()
    history = pd.read_csv(project / f"data/08_reporting/{run}/teachers_history.csv")
    assert {"valid_accuracy_multimodal", "valid_accuracy_audio"} <= set(history)


def test_the_error_of_a_missing_file_names_the_expected_files(tmp_path):
    project = copy_project(tmp_path / "project")
    with pytest.raises(FileNotFoundError, match=r"data/01_raw/avmnist/mnist is not a folder.*idx"):
        run_session(project, env="avmnist")
    assert not (project / "data/05_model_input").exists()
