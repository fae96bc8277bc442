"""The block `training`: one recipe for every net that the pipelines train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mst_distill.artifacts.provenance import counted_parameters, parameters_read
from mst_distill.mst.networks import build_member
from mst_distill.parameters import Member, TrainingRecipe
from mst_distill.pipelines.compare.nodes import train_methods
from mst_distill.pipelines.evaluate.nodes import train_baseline
from mst_distill.pipelines.masks.nodes import train_masks
from mst_distill.pipelines.route.nodes import train_student
from mst_distill.pipelines.teachers.nodes import train_members
from mst_distill.training import loop
from projects import copy_project, run_session, stages
from toy_runs import make_plan

TRAINING: dict[str, Any] = {
    "preset": "strong",
    "gradient_clip": 2.0,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "views": 2,
    "transforms": {
        "image": [{"type": "torchvision.transforms.v2.RandomAffine", "arguments": {"degrees": 12}}],
        "audio": [
            {"type": "torchaudio.transforms.TimeMasking", "arguments": {"time_mask_param": 8}}
        ],
    },
}
FROZEN: dict[str, Any] = {"learning_rate_scale": {"features.0": 0, "hidden": 0.5}}
SETTINGS: dict[str, Any] = {
    "members": {"modalities": {"image": FROZEN}},
    **stages({"factor": 10}, epochs=1),
    "training": TRAINING,
    "limit": 200,
    "evaluate": {"resamples": 50},
    "diagnose": {"samples": 16},
    "compare": {"only": "baseline kd c2kd", "seeds": 1, "targets": "image"},
    "label_curve": {"shares": "0.5", "methods": "baseline"},
    "runtime": {"tracking": False},
}
IMAGE = "mst_distill.nets.digits.DigitImageNet"
REPORTS = "data/08_reporting/digits/heldout-200/image/seed-0/main"


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, loop._Training]]:
    """A project with finished runs, and every training in them by the name of its stage."""
    project = copy_project(tmp_path_factory.mktemp("training") / "project")
    trainings: dict[str, loop._Training] = {}
    finish = loop._Training.finish

    def record(training: loop._Training) -> loop.FitResult:
        trainings[training._stage.name] = training
        return finish(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Training, "finish", record)
        for pipeline in ("distill", "diagnose", "compare", "label_curve"):
            run_session(project, pipeline, **SETTINGS)
    return project, trainings


def test_every_net_is_trained_by_the_recipe(
    trained: tuple[Path, dict[str, loop._Training]],
) -> None:
    _, trainings = trained
    expected = TrainingRecipe(**TRAINING)
    for name, training in trainings.items():
        assert training._recipe == expected, name
        assert training._stage.train._number_of_views == 2, name
        assert training._stage.valid._number_of_views == 1, name
        kind = type(training._optimiser).__name__
        assert kind == ("SGD" if name.startswith("C2KD") else "AdamW"), name
    names = " ".join(trainings)
    stages_of_a_run = ("teachers", "masks", "route", "baseline (teachers)", "baseline (route)")
    for name in (*stages_of_a_run, "path", "teacher ", "KD image", "Baseline image", "C2KD image"):
        assert name in names, names


def test_the_reports_say_how_the_nets_were_trained(
    trained: tuple[Path, dict[str, loop._Training]],
) -> None:
    project, _ = trained
    summary = (
        "AdamW (weight_decay 0.05), learning rate by a cosine, 5 % of the steps with a rising "
        "rate, gradients of a norm of at most 2, labels smoothed by 0.1, balanced classes, "
        "2 views of a sample (RandomAffine of image, TimeMasking of audio); "
        "image: features.0 frozen, hidden at 0.5 of the learning rate"
    )
    assert summary in (project / REPORTS / "model_card.md").read_text()
    assert TrainingRecipe().summary == "Adam, constant learning rate"


def test_an_origin_has_what_differs_from_the_published_recipe(
    trained: tuple[Path, dict[str, loop._Training]],
) -> None:
    project, _ = trained
    models = project / "data/06_models/digits/heldout-200/image/seed-0/main"
    origin = json.loads((models / "student.json.origin.json").read_text())
    assert origin["origin"]["parameters"]["training"] == {
        "optimizer": {"type": "torch.optim.AdamW", "arguments": {"weight_decay": 0.05}},
        "schedule": "cosine",
        "warmup": 0.05,
        **{key: value for key, value in TRAINING.items() if key != "preset"},
    }
    plan = make_plan()
    for node in (train_members, train_masks, train_student, train_baseline, train_methods):
        assert "training" in parameters_read(node)
        assert "training" not in counted_parameters(node, plan)


def test_a_layer_stays_frozen_in_every_net_that_any_pipeline_trained(
    trained: tuple[Path, dict[str, loop._Training]],
) -> None:
    project, _ = trained
    start = build_member("image", Member(type=IMAGE), classes=10, seed=0).state_dict()
    found = []
    for card in (project / "data").rglob("*.json"):
        weights = card.with_suffix(".safetensors")
        if weights.is_file() and json.loads(card.read_text()).get("type") == IMAGE:
            state = load_file(weights)
            assert state["features.0.weight"].equal(start["features.0.weight"]), card
            assert not state["hidden.weight"].equal(start["hidden.weight"]), card
            found.append(str(card.relative_to(project)))
    for part in ("members", "students", "baseline", "path", "kd", "c2kd"):
        assert any(part in path for path in found), (part, found)
