"""Runs of CrisisMMD in the publisher's layout, on real tweets with random photographs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from projects import copy_project, run_session, stages

ENCODERS = {"text_encoder": "MiniLM", "image_encoder": "EfficientNetLite0"}
MEMBERS = {
    "multimodal": {"arguments": {"image": 1280, "text": 384}},
    "modalities": {
        "image": {"arguments": {"width": 1280}},
        "text": {"arguments": {"width": 384}},
    },
}


def write_crisismmd(shared: Path, folder: Path) -> None:
    """Write forty real rows of each table, and a small random photograph for each row.

    The rows of the validation and test tables have only classes that are in the training table.
    """
    rng = np.random.default_rng(0)
    train_classes: set[str] = set()
    for split in ("train", "dev", "test"):
        name = f"task_humanitarian_text_img_{split}"
        found = sorted(shared.glob(f"*/{name}*.tsv.gz"))
        if not found:
            pytest.skip(f"{shared} has no {name}")
        header, *rows = gzip.decompress(found[0].read_bytes()).decode().rstrip("\n").split("\n")
        label = header.split("\t").index("label")
        rows = [row for row in rows if not train_classes or row.split("\t")[label] in train_classes]
        selected = rows[:: len(rows) // 39][:40]
        train_classes = train_classes or {row.split("\t")[label] for row in selected}
        (folder / "splits").mkdir(parents=True, exist_ok=True)
        (folder / "splits" / f"{name}.tsv").write_text("\n".join([header, *selected, ""]))
        for row in selected:
            file = folder / "CrisisMMD_v2.0" / row.split("\t")[4]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(file)


@pytest.mark.long
def test_real_tweets_pass_all_stages(shared_data: Path, tmp_path: Path) -> None:
    write_crisismmd(shared_data / "crisismmd", tmp_path / "raw")
    sorted((tmp_path / "raw").rglob("*.jpg"))[0].unlink()
    sorted((tmp_path / "raw").rglob("*.jpg"))[1].write_bytes(b"no image")
    project = copy_project(tmp_path / "project")
    arguments = {
        "images": str(tmp_path / "raw" / "CrisisMMD_v2.0"),
        "splits": str(tmp_path / "raw" / "splits"),
        "tolerated_share": 0.05,
        **{name: f"mst_distill.media.encoders.{kind}" for name, kind in ENCODERS.items()},
    }
    run_session(
        project,
        env="crisismmd",
        benchmark={"arguments": arguments},
        members=MEMBERS,
        **stages({"factor": 40}, epochs=1),
    )

    run = "crisismmd/heldout-all/image/seed-0/main"
    metrics = json.loads((project / f"data/08_reporting/{run}/metrics.json").read_text())
    assert "distillation" in metrics["verdict"].lower()
    report = json.loads((project / f"data/08_reporting/{run}/samples_report.json").read_text())
    assert report["omitted"]["count"] == 2
    assert sum(report["sources"]["hurricane_maria"].values()) > 20
    assert report["notes"]["text_repaired"]["samples_not_0"] > 10
    samples = project / "data/05_model_input/crisismmd/heldout-all"
    splits = pd.read_parquet(samples / "seed-0" / "splits.parquet")
    assert len(splits) == 118
    assert set(splits["split"].value_counts()) <= {38, 39, 40}
    assert splits["id"].str.fullmatch(r"\d{18}").all()


def test_the_error_of_a_missing_file_names_the_expected_files(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    file = "task_humanitarian_text_img_train.tsv"
    with pytest.raises(FileNotFoundError, match=f"raw/crisismmd/crisismmd_datasplit_all.*{file}"):
        run_session(project, env="crisismmd")
    assert not (project / "data/05_model_input").exists()
