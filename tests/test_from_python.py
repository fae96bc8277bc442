"""From Python: the example of the documentation, and the same bits as `kedro run`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import mst_distill
from mst_distill.artifacts.bundle import load_bundle
from mst_distill.data.samples import Samples
from mst_distill.from_python import DEFAULTS
from mst_distill.plan import Plan
from projects import ROOT, copy_project, run_session
from toy_nets import Audio, Image
from toys import assert_same_weights, make_samples

Arrays = dict[str, np.ndarray]

PAGE = ROOT / "docs" / "from-python.md"
SHORT = {
    name: {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2}
    for name in ("teachers", "masks", "route")
}

SOURCE = """
import numpy as np
import pandas as pd
from mst_distill.benchmarks.arrays import Arrays

class Own(Arrays):
    def __init__(self, protocol, folder):
        data = np.load(f"{folder}/data.npz")
        index = pd.read_csv(f"{folder}/index.csv", dtype=str)
        super().__init__(
            {"image": data["image"], "audio": data["audio"]}, data["labels"], ["a", "b", "c"], index
        )
"""


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Samples as a user has them."""
    samples, _ = make_samples(60)
    index = samples.index
    return {
        **{name: np.array(array) for name, array in samples.modalities.items()},
        "labels": samples.labels,
        "split": index["split"].to_numpy().astype(str),
        "id": index["id"].to_numpy().astype(str),
    }


def samples_from(arrays: Arrays) -> Samples:
    modalities = {name: arrays[name] for name in ("image", "audio")}
    return mst_distill.samples_of(
        modalities, arrays["labels"], ["a", "b", "c"], ids=arrays["id"], split=arrays["split"]
    )


def test_the_results_are_those_of_kedro_to_the_bit(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_project(tmp_path / "project")
    image, audio, labels = (arrays[name] for name in ("image", "audio", "labels"))
    np.savez(project / "data.npz", image=image, audio=audio, labels=labels)
    index = {"id": arrays["id"], "group": arrays["id"], "split": arrays["split"]}
    pd.DataFrame(index).to_csv(project / "index.csv", index=False)
    (tmp_path / "own_arrays.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    members = {
        "multimodal": {
            "type": "mst_distill.nets.simple.LateFusionNet",
            "arguments": {"branches": {"image": "map", "audio": "sequence"}},
            "masked_layers": ["fusion", "hidden"],
        },
        "modalities": {
            "image": {"type": "toy_nets.Image"},
            "audio": {"type": "toy_nets.Audio", "masked_layers": ["first", "second"]},
        },
    }
    benchmark = {"type": "own_arrays.Own", "arguments": {"folder": str(project)}}
    (project / "conf/own").mkdir()
    blocks = {"benchmark": benchmark, "members": members, **SHORT}
    (project / "conf/own/parameters.yml").write_text(yaml.safe_dump(blocks, sort_keys=False))
    (project / "conf/own/globals.yml").write_text("benchmark: own\ntarget: image\n")
    run_session(project, env="own")

    samples = samples_from(arrays)
    nets = {"image": Image, "audio": {"type": Audio, "masked_layers": ["first", "second"]}}
    torch.manual_seed(5)  # what the process did before has no influence
    result = mst_distill.distill(samples, mst_distill.make_plan(samples, "image", nets, **SHORT))

    (folder,) = project.glob("data/06_models/own/**/main")
    assert_same_weights(
        result.student, load_bundle(folder / "student.json", allowed={"toy_nets.Image": None}).net
    )
    (metrics,) = project.glob("data/08_reporting/own/**/metrics.json")
    written = yaml.safe_load(metrics.read_text())
    assert written["verdict"] == result.verdict
    assert written == result.metrics


def test_the_example_of_the_documentation_runs(tmp_path: Path, arrays: Arrays) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    two = arrays["labels"] < 2
    np.savez(
        tmp_path / "data.npz",
        images=arrays["image"][two],
        sounds=arrays["audio"][two],
        labels=arrays["labels"][two],
        places=arrays["id"][two],
    )
    (tmp_path / "my_nets.py").write_text(
        "from toy_nets import Audio as SoundNet, Image as ImageNet\n"
    )
    quick = 'route={"epochs": 2}, teachers={"epochs": 2}, masks={"epochs": 1}'
    (tmp_path / "example.py").write_text(code.replace('route={"epochs": 100}', quick))
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "istillation" in done.stdout
    assert "first.weight" in torch.load(tmp_path / "student.pt") or "conv.weight" in torch.load(
        tmp_path / "student.pt"
    )


def test_the_defaults_are_those_of_the_configuration() -> None:
    base = yaml.safe_load(
        re.sub(r"\$\{globals:\w+\}", "null", (ROOT / "conf/base/parameters.yml").read_text())
    )
    for name in ("training", "labelled_per_batch"):
        assert DEFAULTS[name] == base[name]
    for name in ("teachers", "masks", "route"):
        assert DEFAULTS[name].items() <= base[name].items()
    assert set(DEFAULTS) | {"target", "members"} == set(Plan.model_fields)


def test_groups_and_classes_are_split_at_random_without_a_split(arrays: Arrays) -> None:
    modalities = {"image": arrays["image"], "audio": arrays["audio"]}
    groups = np.repeat(np.arange(20), 3)
    made = mst_distill.samples_of(modalities, arrays["labels"], ["a", "b", "c"], groups=groups)
    assert made.index.groupby("group")["split"].nunique().eq(1).all()
    assert set(made.index["split"]) == {"train", "valid", "test"}
    assert made.index["id"].tolist() == [str(row) for row in range(60)]
    labels = np.where(np.arange(60) < 30, -1, arrays["labels"])
    few = mst_distill.samples_of(modalities, labels, ["a", "b", "c"])
    assert set(few.index.loc[labels < 0, "split"]) == {"train"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": 7}, "'image' has 7 samples, and there are 60 labels"),
        ({"nan": True}, r"'image' of sample '3' holds NaN"),
        ({"labels": 3}, "label 3"),
    ],
)
def test_arrays_are_checked(arrays: Arrays, change: dict[str, Any], message: str) -> None:
    image, labels = arrays["image"].copy(), arrays["labels"].copy()
    if "image" in change:
        image = image[: change["image"]]
    if "nan" in change:
        image[3, 0, 0, 0] = np.nan
    if "labels" in change:
        labels[5] = change["labels"]
    with pytest.raises(ValueError, match=message):
        mst_distill.samples_of({"image": image, "audio": arrays["audio"]}, labels, ["a", "b", "c"])


def test_parameters_are_checked_as_those_of_the_configuration(arrays: Arrays) -> None:
    samples = samples_from(arrays)
    nets = {"image": Image, "audio": Audio}
    with pytest.raises(ValueError, match=r"unknown parameter 'epoch'; available: .*'epochs'"):
        mst_distill.make_plan(samples, "image", nets, route={"epoch": 3})
    with pytest.raises(ValueError, match="unknown target 'sound'"):
        mst_distill.make_plan(samples, "sound", nets)


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, mst_distill; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(mst_distill.__all__) <= set(dir(mst_distill))
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = mst_distill.distil


def test_dense_labels(tmp_path: Path) -> None:
    samples, _ = make_samples(30, {"rgb": (3, 8, 8), "depth": (1, 8, 8)}, dense=(8, 8), ignored=0)
    arrays = {name: np.array(array) for name, array in samples.modalities.items()}
    made = mst_distill.samples_of(
        arrays, samples.labels, samples.classes, ignored_label=0, split=samples.index["split"]
    )
    fusion = {"type": "toy_nets.DenseFusion", "masked_layers": ["fused", "middle"]}
    nets = {
        "rgb": {"type": "toy_nets.Dense", "arguments": {"channels": 3}},
        "depth": "toy_nets.Dense",
    }
    plan = mst_distill.make_plan(made, "rgb", nets, fusion, **SHORT)
    result = mst_distill.distill(made, plan)
    assert "mean_iou" in result.metrics["models"]["student"]
