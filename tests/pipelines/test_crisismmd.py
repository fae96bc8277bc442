"""CrisisMMD in the publisher's layout: real tweets, made-up photographs, through all stages."""

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
    """Forty real rows of each table, and a small random photograph for each.

    What is judged is of a class that is among those to learn from.
    """
    rng = np.random.default_rng(0)
    learned: set[str] = set()
    for part in ("train", "dev", "test"):
        name = f"task_humanitarian_text_img_{part}"
        found = sorted(shared.glob(f"*/{name}*.tsv.gz"))
        if not found:
            pytest.skip(f"{shared} has no {name}")
        header, *rows = gzip.decompress(found[0].read_bytes()).decode().rstrip("\n").split("\n")
        place = header.split("\t").index("label")
        rows = [row for row in rows if not learned or row.split("\t")[place] in learned]
        chosen = rows[:: len(rows) // 39][:40]
        learned = learned or {row.split("\t")[place] for row in chosen}
        (folder / "splits").mkdir(parents=True, exist_ok=True)
        (folder / "splits" / f"{name}.tsv").write_text("\n".join([header, *chosen, ""]))
        for row in chosen:
            file = folder / "CrisisMMD_v2.0" / row.split("\t")[4]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(file)


@pytest.mark.long
def test_real_tweets_go_through_all_stages(shared_data: Path, tmp_path: Path) -> None:
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


def test_missing_files_are_named_with_what_belongs_there(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    file = "task_humanitarian_text_img_train.tsv"
    with pytest.raises(FileNotFoundError, match=f"raw/crisismmd/crisismmd_datasplit_all.*{file}"):
        run_session(project, env="crisismmd")
    assert not (project / "data/05_model_input").exists()
