"""Runs of NYU-Depth-V2 on 24 random images in the publisher's format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import yaml

from projects import copy_project, run_session

TEST = [4, 8, 12, 16, 20, 24]
"""Every fourth image is a test image, so that the others form groups of three."""

HEIGHT, WIDTH, COUNT = 64, 128, 24
RUN = "nyudepthv2/heldout-all/image/seed-0/main"


def write_nyu(folder: Path) -> np.ndarray:
    """Write the labelled file and the split; returns the labels, ``(24, H, W)``."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    labels = rng.integers(0, 6, (COUNT, HEIGHT // 16, WIDTH // 16)).astype(np.uint8)
    labels = labels.repeat(16, axis=1).repeat(16, axis=2)
    colour = (labels[..., None] * [40, 7, 20] + rng.integers(0, 8, (*labels.shape, 3))).clip(0, 255)
    depth = labels + rng.uniform(1, 1.5, labels.shape)
    with h5py.File(folder / "labeled.mat", "w", userblock_size=512) as file:
        packed = {"chunks": True, "compression": "gzip"}
        file.create_dataset("images", data=colour.transpose(0, 3, 2, 1).astype("u1"), **packed)
        file.create_dataset("depths", data=depth.transpose(0, 2, 1).astype("f4"), **packed)
        file.create_dataset("labels40", data=labels.transpose(0, 2, 1), **packed)
    train = [number for number in range(1, COUNT + 1) if number not in TEST]
    split = {"trainNdxs": np.array([train]).T, "testNdxs": np.array([TEST]).T}
    scipy.io.savemat(folder / "splits.mat", split)
    return labels


VOID_PREDICTOR = """
import torch
from mst_distill.nets.nyudepthv2 import small_xavier

def start(net):
    small_xavier(net)
    torch.nn.init.constant_(net.decoder.logits.bias[:1], 50)
"""


def prepare(project: Path, raw: Path) -> None:
    """Configure the files, small maps, and the initial weights of the released code.

    The depth net is initialised such that it predicts void in every pixel.
    """
    (project / "src" / "void_predictor.py").write_text(VOID_PREDICTOR)
    file = project / "conf" / "nyudepthv2" / "parameters.yml"
    parameters = yaml.safe_load(file.read_text())
    parameters["benchmark"]["arguments"] = {
        "mat": str(raw / "labeled.mat"),
        "splits": str(raw / "splits.mat"),
        "size": [HEIGHT // 2, WIDTH // 2],
    }
    members = parameters["members"]
    for member in (members["multimodal"], *members["modalities"].values()):
        assert member["start"] == "mst_distill.nets.nyudepthv2.imagenet_encoders"
        member["start"] = "mst_distill.nets.nyudepthv2.small_xavier"
    members["modalities"]["depth"]["start"] = "void_predictor.start"
    for stage in ("teachers", "masks", "route"):
        parameters[stage] |= {"epochs": 1, "batch_size": 6}
    parameters["masks"]["factor"] = 40
    file.write_text(yaml.safe_dump(parameters))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A copy of the project, whose models are deleted at the end: they exceed a gigabyte."""
    folder = copy_project(tmp_path / "project")
    yield folder
    shutil.rmtree(folder / "data" / "06_models", ignore_errors=True)


@pytest.mark.long
def test_a_labelled_file_passes_all_stages(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_nyu(tmp_path / "raw")
    prepare(project, tmp_path / "raw")
    monkeypatch.syspath_prepend(project / "src")
    run_session(project, env="nyudepthv2")

    report = project / "data/08_reporting" / RUN
    metrics = json.loads((report / "metrics.json").read_text())
    assert "image student" in metrics["verdict"]
    # The report has no confidence of single pixels, hence no interval of the calibration error.
    assert set(metrics["calibration_over_baseline"]["student"]) == {"difference"}
    assert set(metrics["nll_over_baseline"]["student"]) == {"difference", "low", "high"}
    assert set(metrics["nll_scaled_over_baseline"]["student"]) == {"difference", "low", "high"}
    for model in metrics["models"].values():
        assert model["temperature"] > 0
        assert 0 < model["nll_scaled"] < np.inf
        assert 0 <= model["accuracy_at_80"] <= 1
    described = json.loads((report / "samples_report.json").read_text())
    assert described["splits"] == {"train": 12, "valid": 6, "test": 6}
    shapes = {name: modality["shape"] for name, modality in described["modalities"].items()}
    assert shapes == {"image": "3 x 32 x 64 float32", "depth": "1 x 32 x 64 float32"}
    assert described["groups"] == 12
    samples = project / "data/05_model_input/nyudepthv2/heldout-all"
    splits = pd.read_parquet(samples / "seed-0" / "splits.parquet").set_index("id")["split"]
    assert splits[splits == "test"].index.tolist() == [f"{number:04d}" for number in TEST]

    # The labels are subsampled to every second pixel of every second row.
    held_out = labels[np.array(TEST) - 1, 1::2, 1::2]
    targets = np.bincount(held_out.ravel(), minlength=41)
    assert 0 < targets[0] < held_out.size
    targets[0] = 0  # void pixels are not evaluated
    metric_counts = json.loads(
        (project / "data/07_model_output" / RUN / "metric_counts.json").read_text()
    )
    assert {"student", "baseline", "multimodal teacher", "depth teacher"} <= set(metric_counts)
    for name, accumulator in metric_counts.items():
        confusion = np.array(accumulator["confusion"])
        assert confusion.sum(axis=1).tolist() == targets.tolist(), name
        of_model = metrics["models"][name]
        assert of_model["accuracy"] == pytest.approx(np.trace(confusion) / targets.sum())
        union = confusion.sum(axis=0) + targets - np.diag(confusion)
        shares = np.diag(confusion)[targets > 0] / union[targets > 0]
        assert of_model["mean_iou"] == pytest.approx(shares.mean())
    # A labelled pixel that is predicted as void counts as wrong.
    void = np.array(metric_counts["depth teacher"]["confusion"])
    assert void[:, 0].tolist() == targets.tolist()
    assert metrics["models"]["depth teacher"]["accuracy"] == 0
    assert metrics["models"]["depth teacher"]["mean_iou"] == 0


def test_the_error_of_a_missing_file_names_it(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    file = "data/01_raw/nyudepthv2/nyu_depth_v2_labeled.mat"
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        run_session(project, env="nyudepthv2")
    assert not (project / "data/05_model_input").exists()
