"""Comparison with the released implementation of the method, the reference, on AV-MNIST.

`avmnist.json` contains the set-up for both targets: the seeds and shapes of all weights, from which
numpy alone can rebuild them. `avmnist-float64.json` contains the values that the reference computes
from it in three steps of every stage.

All stages run in float64. In float32, different processors give different results from stage 2 on:
the first steps of Adam follow the sign of a gradient, and for some weights the sign is wrong in
float32. For float32, in which the project trains, the comparison therefore ends with stage 1.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from mst_distill.data.samples import Samples
from mst_distill.mst.ensemble import SPECIALISTS, SpecialistEnsemble, specialist_name
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.masks import mask_class
from mst_distill.mst.networks import freeze
from mst_distill.mst.router import ClassRouter
from mst_distill.mst.split_teacher import specialise
from mst_distill.mst.stage1_teachers import Collaboration
from mst_distill.mst.stage2_masks import STUDENT, Adaptation
from mst_distill.mst.stage3_route import Routing
from mst_distill.mst.supervision import Supervision
from mst_distill.nets.avmnist import FusionCNN, LeNet5, ThreeLayerCNN
from mst_distill.parameters import Route, TrainingRecipe
from mst_distill.training.batches import Batch
from mst_distill.training.task import Task

FOLDER = Path(__file__).parent
SETUPS = json.loads((FOLDER / "avmnist.json").read_text())
METRICS = json.loads((FOLDER / "avmnist-float64.json").read_text())
NETS = {"image": LeNet5, "audio": ThreeLayerCNN}

PRECISIONS = (torch.float32, torch.float64)

EXACT = 1e-9
"""Relative tolerance in float64.

The values of the reference itself change by less than 5e-12 with the vector instructions of the
processor, the number of threads, or start weights that differ in their last bits.
"""

LAYERS = {"concat_identity": "concatenation"}
"""The name of a layer in the reference to its name in the project, where they differ."""


def fill(module: nn.Module, tensors: list) -> nn.Module:
    """Set the weights of a module to those of the set-up, which lists them in the same order."""
    weights = {k: v for k, v in module.state_dict().items() if v.is_floating_point()}
    for (name, shape, seed, scale), tensor in zip(tensors, weights.values(), strict=True):
        assert tuple(tensor.shape) == tuple(shape), name
        random = np.random.RandomState(seed)
        if name.endswith("running_var"):
            values = random.uniform(0.5, 1.5, shape)
        elif name.endswith("weight") and len(shape) == 1:
            values = 1 + random.standard_normal(shape) * scale
        else:
            values = random.standard_normal(shape) * scale
        tensor.copy_(torch.from_numpy(values.astype(np.float32)))
    return module


class Case:
    """One case: networks, masks and inputs, and methods that take three steps of a stage.

    Weights and inputs are rounded to float32 first, also for computations in float64.
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.setup = setup = SETUPS[name]
        self.reference_values = METRICS[name]
        self.dtype = dtype
        self.target = {"m1": "image", "m2": "audio"}[setup["target"]]
        self.other = "audio" if self.target == "image" else "image"
        classes, tensors = setup["classes"], setup["tensors"]
        self.members = {
            "multimodal": self._filled(FusionCNN(classes), tensors["teacher"]),
            self.other: self._filled(NETS[self.other](classes), tensors["crossmodal"]),
            self.target: self._filled(NETS[self.target](classes), tensors["student"]),
        }
        self.router = self._filled(ClassRouter(classes, 4), tensors["router"])
        self.layers = {
            "multimodal": [LAYERS.get(name, name) for name in setup["teacher_layers"]],
            self.other: [LAYERS.get(name, name) for name in setup["crossmodal_layers"]],
        }
        self.inputs = {
            name: self._input(seed, setup[f"{which}_shape"], slope)
            for name, which, seed, slope in (
                ("image", "m1", 9001, 1.0),
                ("audio", "m2", 9002, 1.5),
            )
        }
        self.label = torch.tensor(setup["labels"])

    def _filled(self, module: nn.Module, tensors: list) -> nn.Module:
        return fill(module.to(self.dtype), tensors)

    def _input(self, seed: int, shape: list[int], slope: float) -> Tensor:
        batch = self.setup["batch"]
        values = np.random.RandomState(seed).uniform(0, 1, [batch, *shape]).astype(np.float32)
        scale = torch.tensor([0.2 + slope * sample for sample in range(batch)])
        return (torch.from_numpy(values) * scale.view(-1, *[1] * len(shape))).to(self.dtype)

    @property
    def samples(self) -> Samples:
        """The batch as a store, for the code that reads shapes from one."""
        arrays = {name: tensor.numpy() for name, tensor in self.inputs.items()}
        classes = tuple(str(label) for label in range(self.setup["classes"]))
        return Samples(pd.DataFrame(), arrays, self.label.numpy(), classes, None, "")

    def masks(self) -> dict[str, nn.Module]:
        """All four masks with their start weights, by specialist name."""
        masks = {}
        for role, member in (("teacher", "multimodal"), ("crossmodal", self.other)):
            for index, layer in enumerate(self.layers[member]):
                tensors = self.setup["tensors"][f"{role}_mask_{index}"]
                conv = next((t for t in tensors if len(t[1]) == 4), None)
                embed = next(shape for name, shape, *_ in tensors if name == "embed.weight")
                kind = mask_class((1, 8, 8, 8) if conv else (1, 8))
                mask = kind(embed[1], self.setup["mask_factor"], self.setup["heads"])
                masks[specialist_name(member, layer)] = self._filled(mask, tensors)
        return masks

    def ensemble(self, masks: dict[str, nn.Module], stacked: bool) -> SpecialistEnsemble:
        return SpecialistEnsemble(
            {
                name: specialise(
                    name,
                    self.members[name],
                    {layer: masks[specialist_name(name, layer)] for layer in layers},
                    self.samples,
                    stacked,
                )
                for name, layers in self.layers.items()
            }
        )

    def logits(self) -> dict[str, Tensor]:
        """The logits of every member in eval mode, by the name of its role in the reference."""
        inputs = self.inputs
        multimodal, other, student = self.members.values()
        with torch.no_grad():
            return {
                "teacher": multimodal.eval()(**inputs),
                "crossmodal": other.eval()(inputs[self.other]),
                "student": student.eval()(inputs[self.target]),
            }

    def train_members(self) -> list[dict[str, float]]:
        """Run stage 1 and return the loss terms before each step."""
        task = Collaboration(self.members, temperature=4.0, supervision=Supervision())
        return self._steps(task, Batch(self.inputs, self.label))

    def train_masks(self) -> tuple[dict[str, nn.Module], list[dict[str, float]]]:
        """Run stage 2 and return the masks and the loss terms before each step."""
        freeze(self.members.values())
        masks = self.masks()
        ensemble = self.ensemble(masks, stacked=False)
        with torch.no_grad():
            frozen = {
                name: specialised.trunk.compute(self.inputs)
                for name, specialised in ensemble.teachers.items()
            }
        frozen[STUDENT] = (self.logits()["student"],)
        task = Adaptation(ensemble.teachers, masks, temperature=4.0)
        return masks, self._steps(task, Batch(self.inputs, self.label, frozen))

    def train_student(self, masks: dict[str, nn.Module], preset: str) -> list[dict]:
        """Run stage 3 with a preset on copies of the student and the router.

        Returns:
            The loss terms before each step, and ``chosen``, the specialist selected for each
            sample.
        """
        student, router = copy.deepcopy(self.members[self.target]), copy.deepcopy(self.router)
        route = Route(preset=preset, epochs=1, batch_size=6, learning_rate=self.setup["lr"])
        freeze(masks.values())
        ensemble = self.ensemble(masks, stacked=route.stacked_masks)
        student.requires_grad_(True)
        task = Routing(
            student,
            router,
            lambda inputs: ModelOutput(student(inputs[self.target])),
            ensemble,
            (10, len(ensemble.names)),
            route,
            Supervision(),
        )
        with torch.no_grad():
            frozen = {SPECIALISTS: (ensemble.logits(self.inputs),)}

        def chosen() -> dict[str, list[int]]:
            with torch.no_grad():
                router_logits = router(ModelOutput(student(self.inputs[self.target])))
            return {"chosen": task.weigh(router_logits.softmax(dim=1)).specialists[:, 0].tolist()}

        return self._steps(task, Batch(self.inputs, self.label, frozen), chosen)

    def _steps(self, task: Task, batch: Batch, extra: Callable[[], dict] = dict) -> list[dict]:
        """Take three steps on the batch; return the loss terms and `extra()` before each step."""
        task.trainable.train()
        optimiser = task.optimiser(self.setup["lr"], TrainingRecipe())
        rows = []
        for _ in range(3):
            extra_values = extra()
            terms = task.descend(batch)
            optimiser.step()
            optimiser.zero_grad()
            rows.append({name: float(value) for name, value in terms.items()} | extra_values)
        return rows


@dataclass(frozen=True)
class AfterStage1:
    """A case after stage 1, with the logits of members and router before it."""

    case: Case
    logits: dict[str, Tensor]
    router_logits: Tensor
    stage1: list[dict[str, float]]


@dataclass(frozen=True)
class AfterAllStages:
    """A case after all stages, with both presets of stage 3."""

    case: Case
    stage2: list[dict[str, float]]
    stage3: dict[str, list[dict]]


def run_stage_1(name: str, dtype: torch.dtype) -> AfterStage1:
    case = Case(name, dtype)
    logits = case.logits()
    with torch.no_grad():
        router_logits = case.router(ModelOutput(logits["student"]))
    return AfterStage1(case, logits, router_logits, case.train_members())


@pytest.fixture(scope="module", params=product(sorted(SETUPS), PRECISIONS), ids=str)
def after_stage_1(request: pytest.FixtureRequest) -> AfterStage1:
    return run_stage_1(*request.param)


@pytest.fixture(scope="module", params=sorted(SETUPS))
def after_all_stages(request: pytest.FixtureRequest) -> AfterAllStages:
    case = run_stage_1(request.param, torch.float64).case
    masks, stage2 = case.train_masks()
    stage3 = {preset: case.train_student(masks, preset) for preset in ("reference", "paper")}
    return AfterAllStages(case, stage2, stage3)


def assert_near(found: Tensor, expected: list) -> None:
    """Assert that logits are those of the reference; in float32, up to 1e-5 of the largest one."""
    reference = torch.tensor(expected, dtype=torch.float64)
    if found.dtype == torch.float64:
        torch.testing.assert_close(found, reference, rtol=EXACT, atol=1e-12)
    else:
        assert (found - reference).abs().max() <= 1e-5 * reference.abs().max()


def approximately(values: Any, dtype: torch.dtype = torch.float64) -> Any:
    return pytest.approx(values, rel=EXACT if dtype == torch.float64 else 1e-4)


def test_the_nets_have_as_many_weights_as_the_reference(after_stage_1: AfterStage1) -> None:
    roles = ("teacher", "crossmodal", "student")
    counts = {
        role: sum(weight.numel() for weight in net.parameters())
        for role, net in zip(roles, after_stage_1.case.members.values(), strict=True)
    }
    assert counts == after_stage_1.case.setup["parameters"]


def test_the_nets_have_the_logits_of_the_reference(after_stage_1: AfterStage1) -> None:
    reference = after_stage_1.case.reference_values["eval_logits"]
    assert after_stage_1.logits.keys() == reference.keys()
    for role, logits in after_stage_1.logits.items():
        assert_near(logits, reference[role])


def test_the_router_has_the_logits_of_the_reference(after_stage_1: AfterStage1) -> None:
    assert_near(after_stage_1.router_logits, after_stage_1.case.reference_values["router_logits"])


def test_stage_1_has_the_loss_terms_of_the_reference(after_stage_1: AfterStage1) -> None:
    case = after_stage_1.case
    names = {"loss": "loss", "ce_teacher": "ce_multimodal"}
    names |= {"ce_crossmodal": f"ce_{case.other}", "ce_student": f"ce_{case.target}"}
    for step, (found, expected) in enumerate(
        zip(after_stage_1.stage1, case.reference_values["stage1"], strict=True)
    ):
        renamed = {reference_name: found[name] for reference_name, name in names.items()}
        assert renamed == approximately(expected, case.dtype), f"step {step}"


def test_stage_2_has_the_loss_terms_of_the_reference(after_all_stages: AfterAllStages) -> None:
    for step, (found, expected) in enumerate(
        zip(after_all_stages.stage2, after_all_stages.case.reference_values["stage2"], strict=True)
    ):
        kd = [value for name, value in found.items() if name.startswith("kd_")]
        assert kd == approximately(expected), f"step {step}"


@pytest.mark.parametrize("preset", ["reference", "paper"])
def test_stage_3_has_the_loss_terms_and_choices_of_the_reference(
    after_all_stages: AfterAllStages, preset: str
) -> None:
    rows = zip(
        after_all_stages.stage3[preset],
        after_all_stages.case.reference_values[f"stage3_{preset}"],
        strict=True,
    )
    for step, (found, expected) in enumerate(rows):
        assert found["chosen"] == expected["chosen"], f"step {step}"
        found_terms, expected_terms = (
            {name: value for name, value in row.items() if name != "chosen"}
            for row in (found, expected)
        )
        assert found_terms == approximately(expected_terms), f"step {step}"
