"""The figures of the method's released implementation, on a set-up that numpy alone can rebuild.

`avmnist.json` holds the set-up, seeds and shapes of all weights, for both targets of AV-MNIST;
`avmnist-float64.json` what the reference computes from it in three steps of every stage.

Everything runs in float64. In float32 no two kinds of processor agree from stage 2 on: Adam's first
steps follow the sign of a gradient, and of some weights float32 does not get the sign right. So
float32, in which the project trains, is tested up to the end of stage 1.
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
from mst_distill.mst.ensemble import Panel, specialist_name
from mst_distill.mst.features import Observed
from mst_distill.mst.masks import mask_class
from mst_distill.mst.networks import freeze
from mst_distill.mst.router import ClassRouter
from mst_distill.mst.split_teacher import specialise
from mst_distill.mst.stage1_teachers import Collaboration
from mst_distill.mst.stage2_masks import STUDENT, Adaptation
from mst_distill.mst.stage3_route import SPECIALISTS, Routing
from mst_distill.nets.avmnist import FusionCNN, LeNet5, ThreeLayerCNN
from mst_distill.parameters import Route
from mst_distill.training.batches import Batch
from mst_distill.training.task import Task

FOLDER = Path(__file__).parent
SETUPS = json.loads((FOLDER / "avmnist.json").read_text())
FIGURES = json.loads((FOLDER / "avmnist-float64.json").read_text())
NETS = {"image": LeNet5, "audio": ThreeLayerCNN}

PRECISIONS = (torch.float32, torch.float64)

EXACT = 1e-9
"""Relative tolerance in float64.

The reference's own figures move by less than 5e-12 with the vector instructions of the processor,
the number of threads, or start weights that differ in their last bits.
"""

LAYERS = {"concat_identity": "concatenation"}
"""The reference's names of layers where ours differ."""


def fill(module: nn.Module, tensors: list) -> nn.Module:
    """Give a module the set-up's weights: both list theirs in the order of the layers."""
    ours = {k: v for k, v in module.state_dict().items() if v.is_floating_point()}
    for (name, shape, seed, scale), tensor in zip(tensors, ours.values(), strict=True):
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
    """One case, built anew and stepped through the three stages.

    Weights and inputs are rounded to float32 first, whatever is computed in.
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.setup = setup = SETUPS[name]
        self.figures = FIGURES[name]
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
        """The batch as a store, for the code that looks at shapes."""
        arrays = {name: tensor.numpy() for name, tensor in self.inputs.items()}
        classes = tuple(str(label) for label in range(self.setup["classes"]))
        return Samples(pd.DataFrame(), arrays, self.label.numpy(), classes, None, "")

    def masks(self) -> dict[str, nn.Module]:
        """All four masks with their start weights, by specialist."""
        masks = {}
        for role, member in (("teacher", "multimodal"), ("crossmodal", self.other)):
            for place, layer in enumerate(self.layers[member]):
                tensors = self.setup["tensors"][f"{role}_mask_{place}"]
                conv = next((t for t in tensors if len(t[1]) == 4), None)
                embed = next(shape for name, shape, *_ in tensors if name == "embed.weight")
                kind = mask_class((1, 8, 8, 8) if conv else (1, 8))
                mask = kind(embed[1], self.setup["mask_factor"], self.setup["heads"])
                masks[specialist_name(member, layer)] = self._filled(mask, tensors)
        return masks

    def panel(self, masks: dict[str, nn.Module], stacked: bool) -> Panel:
        return Panel(
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
        """What every member says in eval mode, by the reference's name of its role."""
        inputs = self.inputs
        multimodal, other, student = self.members.values()
        with torch.no_grad():
            return {
                "teacher": multimodal.eval()(**inputs),
                "crossmodal": other.eval()(inputs[self.other]),
                "student": student.eval()(inputs[self.target]),
            }

    def learn_together(self) -> list[dict[str, float]]:
        """Stage 1; the terms before each step."""
        task = Collaboration(self.members, temperature=4.0, ignored=None)
        return self._steps(task, Batch(self.inputs, self.label))

    def adapt(self) -> tuple[dict[str, nn.Module], list[dict[str, float]]]:
        """Stage 2: the masks, and the terms before each step."""
        freeze(self.members.values())
        masks = self.masks()
        panel = self.panel(masks, stacked=False)
        with torch.no_grad():
            frozen = {
                name: specialised.trunk.compute(self.inputs)
                for name, specialised in panel.teachers.items()
            }
        frozen[STUDENT] = (self.logits()["student"],)
        task = Adaptation(panel.teachers, masks, temperature=4.0)
        return masks, self._steps(task, Batch(self.inputs, self.label, frozen))

    def route(self, masks: dict[str, nn.Module], preset: str) -> list[dict]:
        """Stage 3 of a preset from the student and the router as they are, which stay so.

        Returns:
            The terms before each step, and which specialist is ``chosen`` for each sample.
        """
        student, router = copy.deepcopy(self.members[self.target]), copy.deepcopy(self.router)
        route = Route(preset=preset, epochs=1, batch_size=6, learning_rate=self.setup["lr"])
        freeze(masks.values())
        panel = self.panel(masks, stacked=route.stacked_masks)
        task = Routing(
            student.requires_grad_(True), router, self.target, len(panel.names), 10, route, None
        )
        with torch.no_grad():
            frozen = {SPECIALISTS: (panel.logits(self.inputs),)}

        def chosen() -> dict[str, list[int]]:
            with torch.no_grad():
                preference = router(Observed(student(self.inputs[self.target])))
            return {"chosen": task.weigh(preference.softmax(dim=1)).chosen[:, 0].tolist()}

        return self._steps(task, Batch(self.inputs, self.label, frozen), chosen)

    def _steps(self, task: Task, batch: Batch, note: Callable[[], dict] = dict) -> list[dict]:
        """Three steps on the one batch; the terms before each, with what `note` says then."""
        task.trainable.train()
        optimiser = task.optimiser(self.setup["lr"])
        rows = []
        for _ in range(3):
            noted = note()
            terms = task.descend(batch)
            optimiser.step()
            optimiser.zero_grad()
            rows.append({name: float(value) for name, value in terms.items()} | noted)
        return rows


@dataclass(frozen=True)
class Started:
    """A case after stage 1."""

    case: Case
    logits: dict[str, Tensor]
    preference: Tensor
    stage1: list[dict[str, float]]


@dataclass(frozen=True)
class Trained:
    """A case after all stages, with both presets of the last."""

    case: Case
    stage2: list[dict[str, float]]
    stage3: dict[str, list[dict]]


def start(name: str, dtype: torch.dtype) -> Started:
    case = Case(name, dtype)
    logits = case.logits()
    with torch.no_grad():
        preference = case.router(Observed(logits["student"]))
    return Started(case, logits, preference, case.learn_together())


@pytest.fixture(scope="module", params=product(sorted(SETUPS), PRECISIONS), ids=str)
def started(request: pytest.FixtureRequest) -> Started:
    return start(*request.param)


@pytest.fixture(scope="module", params=sorted(SETUPS))
def trained(request: pytest.FixtureRequest) -> Trained:
    case = start(request.param, torch.float64).case
    masks, stage2 = case.adapt()
    stage3 = {preset: case.route(masks, preset) for preset in ("reference", "paper")}
    return Trained(case, stage2, stage3)


def assert_near(found: Tensor, expected: list) -> None:
    """Logits are the reference's: of float32 but for 1e-5 of the largest of them."""
    theirs = torch.tensor(expected, dtype=torch.float64)
    if found.dtype == torch.float64:
        torch.testing.assert_close(found, theirs, rtol=EXACT, atol=1e-12)
    else:
        assert (found - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def approximately(figures: Any, dtype: torch.dtype = torch.float64) -> Any:
    return pytest.approx(figures, rel=EXACT if dtype == torch.float64 else 1e-4)


def test_the_nets_have_the_reference_s_number_of_weights(started: Started) -> None:
    roles = ("teacher", "crossmodal", "student")
    counts = {
        role: sum(weight.numel() for weight in net.parameters())
        for role, net in zip(roles, started.case.members.values(), strict=True)
    }
    assert counts == started.case.setup["parameters"]


def test_the_nets_give_the_reference_s_logits(started: Started) -> None:
    theirs = started.case.figures["eval_logits"]
    assert started.logits.keys() == theirs.keys()
    for role, logits in started.logits.items():
        assert_near(logits, theirs[role])


def test_the_router_gives_the_reference_s_preferences(started: Started) -> None:
    assert_near(started.preference, started.case.figures["router_logits"])


def test_stage_1_steps_as_the_reference(started: Started) -> None:
    case = started.case
    names = {"loss": "loss", "ce_teacher": "ce_multimodal"}
    names |= {"ce_crossmodal": f"ce_{case.other}", "ce_student": f"ce_{case.target}"}
    for step, (ours, theirs) in enumerate(zip(started.stage1, case.figures["stage1"], strict=True)):
        found = {theirs_name: ours[name] for theirs_name, name in names.items()}
        assert found == approximately(theirs, case.dtype), f"step {step}"


def test_stage_2_steps_as_the_reference(trained: Trained) -> None:
    for step, (ours, theirs) in enumerate(
        zip(trained.stage2, trained.case.figures["stage2"], strict=True)
    ):
        kd = [value for name, value in ours.items() if name.startswith("kd_")]
        assert kd == approximately(theirs), f"step {step}"


@pytest.mark.parametrize("preset", ["reference", "paper"])
def test_stage_3_steps_as_the_reference(trained: Trained, preset: str) -> None:
    rows = zip(trained.stage3[preset], trained.case.figures[f"stage3_{preset}"], strict=True)
    for step, (ours, theirs) in enumerate(rows):
        assert ours["chosen"] == theirs["chosen"], f"step {step}"
        terms, expected = (
            {name: value for name, value in row.items() if name != "chosen"}
            for row in (ours, theirs)
        )
        assert terms == approximately(expected), f"step {step}"
