"""A run that uses a share of the labels: its files, and what it has seen."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from html_pages import check_is_one_file
from projects import copy_project, run_session, stages

RUN = "digits/heldout-300/image/seed-0-labelled-0.1/main"


def test_a_run_with_a_tenth_of_the_labels_has_its_own_files(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    run_session(project, limit=300, labelled=0.1, **stages(epochs=1))
    splits = pd.read_parquet(
        project / "data/05_model_input/digits/heldout-300/seed-0-labelled-0.1/splits.parquet"
    )
    used = splits.groupby("split")["labelled"].sum()
    total = splits["split"].value_counts()
    assert used["test"] == total["test"]
    for split in ("train", "valid"):
        assert used[split] == max(10, round(0.1 * total[split]))
    report = json.loads((project / f"data/08_reporting/{RUN}/samples_report.json").read_text())
    assert report["labels"] == used.to_dict()
    summary = pd.read_csv(
        project / f"data/08_reporting/{RUN}/samples_summary.csv", index_col="class"
    )
    assert summary.loc["(no label)", "train"] == total["train"] - used["train"]
    metrics = json.loads((project / f"data/08_reporting/{RUN}/metrics.json").read_text())
    seen = f"the labels of {used['train']} of {total['train']} training samples and "
    seen += f"{used['valid']} of {total['valid']} validation samples"
    assert seen in metrics["verdict"]
    validation = pd.read_parquet(
        project / f"data/07_model_output/{RUN}/validation_predictions.parquet"
    )
    assert len(validation) == used["valid"]
    # The store is that of all runs with these samples.
    assert (project / "data/05_model_input/digits/heldout-300/samples/store.json").is_file()
    run_session(project, "diagnose", limit=300, labelled=0.1, **stages(epochs=1))


def test_the_curve_over_the_share_of_labels_has_its_own_files(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    settings = {
        "limit": 200,
        "compare": {"seeds": 1, "targets": "audio"},
        "label_curve": {"shares": [1, 0.1], "methods": "baseline mst"},
        **stages({"factor": 10}, epochs=1),
    }
    run_session(project, "label_curve", **settings)
    folder = project / "data/08_reporting/digits/heldout-200/label_curve/main"
    curve = pd.read_csv(folder / "label_curve.csv")
    assert curve["labelled"].tolist() == [0.1, 0.1, 1, 1]
    assert curve["title"].tolist() == ["baseline", "mst"] * 2
    assert curve["accuracy"].between(0, 1).all()
    assert (folder / "label_curve_figure.png").read_bytes().startswith(b"\x89PNG")
    page = check_is_one_file((folder / "label_curve_web_page.html").read_text())
    assert page.text.startswith("Digits: the audio student over the share of labels")
    assert "cannot be determined from 1 seed: intervals need at least 3." in page.text
    kept = "data/06_models/digits/heldout-200/label_curve/main/label_curve_log/labelled-0.1"
    assert (project / kept / "audio/seed-0/mst.safetensors").is_file()
