"""AV-MNIST from real raw files: 2,000 samples through all stages."""

from __future__ import annotations

import json

import pandas as pd

from projects import copy_project, kedro


def test_two_thousand_real_samples_go_through_all_stages(shared_data, tmp_path):
    project = copy_project(tmp_path / "project")
    folders = {
        "mnist": shared_data / "mnist",
        "speech": shared_data / "fsdd" / "recordings",
        "noise": shared_data / "esc50_noise" / "audio_8k_flac",
    }
    paths = [f"benchmark.arguments.{name}={path}" for name, path in folders.items()]
    stages = [
        f"{stage}.{key}={value}"
        for stage in ("teachers", "masks", "route")
        for key, value in (("epochs", 1), ("batch_size", 64))
    ]
    settings = ["limit=2000", "masks.factor=10", "runtime.tracking=false", *stages]
    kedro(project, "run", "--env=avmnist", f"--params={','.join([*settings, *paths])}")

    run = "avmnist/heldout-2000/image/seed-0/main"
    metrics = json.loads((project / f"data/08_reporting/{run}/metrics.json").read_text())
    assert metrics["verdict"].startswith("Distillation ")
    splits = pd.read_parquet(
        project / "data/05_model_input/avmnist/heldout-2000/seed-0/splits.parquet"
    )
    assert len(splits) == 2000
    assert splits["split"].value_counts().to_dict() == {"train": 1371, "valid": 343, "test": 286}
    assert not splits.drop_duplicates(["group", "split"])["group"].duplicated().any()
    history = pd.read_csv(project / f"data/08_reporting/{run}/teachers_history.csv")
    assert {"valid_accuracy_multimodal", "valid_accuracy_audio"} <= set(history)


def test_missing_files_are_named_with_what_belongs_there(tmp_path):
    project = copy_project(tmp_path / "project")
    done = kedro(project, "run", "--env=avmnist", "--params=runtime.tracking=off", check=False)
    assert done.returncode
    assert "data/01_raw/avmnist/mnist" in done.stdout
    assert "idx" in done.stdout
    assert not (project / "data/05_model_input").exists()
