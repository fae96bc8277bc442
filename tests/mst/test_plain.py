"""The training of the project agrees with the plain implementation, by stage and as a whole.

The comparison is in float64, so that rounding cannot be mistaken for a difference: in float32, Adam
makes full steps from gradients that are rounding errors alone, and after some epochs they show in
the metrics.
"""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from bench import nets as plain_nets
from bench.cases import Case
from bench.measure import PLAIN, difference, prepare
from mst_distill.mst.run_stages import run_stages
from mst_distill.nets import avmnist
from mst_distill.training.loop import Row, fit
from tests.reference.plain import run_plainly
from toy_runs import KINDS, make_run, vary

EPOCHS = 3
MODES = ("cached", "online")

pytestmark = pytest.mark.usefixtures("float64")

Schedules = tuple[Case, str, list[Row], list[Row]]


def toy_case(kind: str, frozen: str) -> Case:
    run, plan = make_run(kind, frozen=frozen)
    plan = vary(plan, **{stage: {"epochs": EPOCHS} for stage in PLAIN})
    return Case(run, plan, plan)


@pytest.fixture(
    scope="module",
    params=[(kind, stage, frozen) for kind in KINDS for stage in PLAIN for frozen in MODES],
    ids=", ".join,
)
def schedules(request: pytest.FixtureRequest, float64: None) -> Schedules:
    """The case, the stage, and the epochs of the project's and of the plain schedule."""
    kind, stage, frozen = request.param
    case = toy_case(kind, frozen)
    history = fit(prepare(case, stage), case.run.runtime).history
    project = [
        {str(name): float(value) for name, value in row.items()} for _, row in history.iterrows()
    ]
    plain = list(islice(PLAIN[stage](toy_case(kind, frozen)), EPOCHS))
    return case, stage, project, plain


def test_the_first_epochs_agree(schedules: Schedules) -> None:
    _, _, project, plain = schedules
    assert difference(project[0], plain[0]) < 1e-9


def test_later_epochs_agree(schedules: Schedules) -> None:
    _, _, project, plain = schedules
    differences = [difference(ours, other) for ours, other in zip(project, plain, strict=True)]
    assert max(differences) < 1e-9, differences


def test_the_metrics_change_from_epoch_to_epoch(schedules: Schedules) -> None:
    _, _, _, (first, *_, last) = schedules
    assert difference(first, last) > 1e-3


def test_the_plain_schedule_returns_the_metrics_to_compare(schedules: Schedules) -> None:
    case, stage, _, plain = schedules
    teachers = case.plan.members.teachers_of(case.run.target)
    specialists = [
        f"{name}/{layer}" for name, net in teachers.items() for layer in net.masked_layers
    ]
    expected = {
        "teachers": {"train_loss", *(f"valid_ce_{name}" for name in (*teachers, case.run.target))},
        "masks": {f"{split}_kd_{name}" for split in ("train", "valid") for name in specialists},
        "route": {"train_loss", "train_kd", "train_ce", "train_balance", "valid_ce"},
    }
    assert all(expected[stage] <= row.keys() for row in plain)


@pytest.mark.parametrize("chosen", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_method_agrees(kind: str, chosen: int) -> None:
    """From the initial weights to the distilled student, with enough epochs for w_lb to decay."""
    run, plan = make_run(kind)
    plan = vary(plan, route={"chosen": chosen, "epochs": 12})
    expected = run_plainly(run, plan).state_dict()
    student = run_stages(run, plan).student.students["last"].state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(student[name], tensor, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("project", "plain", "expected"),
    [
        ({"ce": 2.0}, {"ce": 2.0}, 0.0),
        ({"ce": 1.0}, {"ce": 1.25}, 0.2),
        ({"ce": -1.0}, {"ce": 1.0}, 2.0),
        # The difference of small values is relative to 0.1.
        ({"ce": 0.03}, {"ce": 0.01}, 0.2),
        ({"ce": 2.0, "kd": 3.0, "accuracy": 0.5}, {"kd": 4.0, "ce": 2.0}, 0.25),
    ],
)
def test_the_difference_is_that_of_the_worst_metric(
    project: Row, plain: Row, expected: float
) -> None:
    assert difference(project, plain) == pytest.approx(expected)


def test_a_metric_that_the_project_lacks_is_an_error() -> None:
    with pytest.raises(KeyError, match="kd"):
        difference({"ce": 1.0}, {"ce": 1.0, "kd": 1.0})


NETS: dict[str, tuple[type[nn.Module], type[nn.Module], dict[str, tuple[int, ...]]]] = {
    "audio": (avmnist.ThreeLayerCNN, plain_nets.ThreeLayerCNN, {"audio": (1, 112, 112)}),
    "fusion": (
        avmnist.FusionCNN,
        plain_nets.FusionCNN,
        {"image": (1, 28, 28), "audio": (1, 112, 112)},
    ),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooling_before_relu_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    """Neither logits nor gradients change, even with ties and zeros in the windows."""
    project_class, plain_class, shapes = NETS[name]
    torch.manual_seed(0)
    project = project_class(10).to(dtype)
    plain = plain_class(10).to(dtype)
    plain.load_state_dict(project.state_dict())
    inputs = {modality: torch.randn(2, *shape, dtype=dtype) for modality, shape in shapes.items()}
    # Silence: whole windows of a pool have one value, and some are all zeros.
    inputs["audio"][:, :, 40:] = 0
    direction = torch.randn(2, 10, dtype=dtype)
    found, expected = (logits_and_gradients(net, inputs, direction) for net in (project, plain))
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        assert torch.equal(tensor, expected[key]), key
        assert tensor.abs().sum() > 0, key


def logits_and_gradients(
    net: nn.Module, inputs: dict[str, Tensor], direction: Tensor
) -> dict[str, Tensor]:
    """The logits of a net, and the gradients of logits x direction by its weights and inputs."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    logits = net(**leaves)
    (logits * direction).sum().backward()
    differentiated = {**dict(net.named_parameters()), **leaves}
    return {"logits": logits, **{name: tensor.grad for name, tensor in differentiated.items()}}
