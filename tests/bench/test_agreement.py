"""The fast and the plain schedule agree, stage by stage and epoch by epoch.

In float64, where rounding cannot be mistaken for a difference: in float32 Adam makes steps of full
size of gradients that are nothing but rounding, and epochs later the figures show it.
"""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from bench import nets as plain_nets
from bench.cases import Case
from bench.measure import PLAIN, difference, prepare
from mst_distill.nets import avmnist
from mst_distill.training.loop import Row, fit
from toy_runs import KINDS, MASKS, TEACHERS, make_run, route

EPOCHS = 3
MODES = ("cached", "online")

pytestmark = pytest.mark.usefixtures("float64")

Schedules = tuple[Case, str, list[Row], list[Row]]


def toy_case(kind: str, frozen: str) -> Case:
    run, members = make_run(kind, frozen=frozen)
    longer = {"epochs": EPOCHS}
    return Case(
        run,
        members,
        members,
        TEACHERS.model_copy(update=longer),
        MASKS.model_copy(update=longer),
        route(**longer),
    )


@pytest.fixture(
    scope="module",
    params=[(kind, stage, frozen) for kind in KINDS for stage in PLAIN for frozen in MODES],
    ids=", ".join,
)
def schedules(request: pytest.FixtureRequest, float64: None) -> Schedules:
    """The case, the stage, and the epochs of ours and of the plain schedule."""
    kind, stage, frozen = request.param
    case = toy_case(kind, frozen)
    history = fit(prepare(case, stage), case.run.runtime).history
    ours = [{str(name): float(of) for name, of in row.items()} for _, row in history.iterrows()]
    plainly = list(islice(PLAIN[stage](toy_case(kind, frozen)), EPOCHS))
    return case, stage, ours, plainly


def test_the_first_epochs_agree(schedules: Schedules) -> None:
    _, _, ours, plainly = schedules
    assert difference(ours[0], plainly[0]) < 1e-9


def test_later_epochs_agree(schedules: Schedules) -> None:
    _, _, ours, plainly = schedules
    apart = [difference(one, other) for one, other in zip(ours, plainly, strict=True)]
    assert max(apart) < 1e-9, apart


def test_the_plain_schedule_learns(schedules: Schedules) -> None:
    _, _, _, (first, *_, last) = schedules
    assert difference(first, last) > 1e-3


def test_the_plain_schedule_tells_what_can_be_compared(schedules: Schedules) -> None:
    case, stage, _, plainly = schedules
    teachers = case.members.teachers_of(case.run.target)
    specialists = [f"{of}/{layer}" for of, net in teachers.items() for layer in net.masked_layers]
    expected = {
        "teachers": {"train_loss", *(f"valid_ce_{of}" for of in (*teachers, case.run.target))},
        "masks": {f"{split}_kd_{of}" for split in ("train", "valid") for of in specialists},
        "route": {"train_loss", "train_kd", "train_ce", "train_balance", "valid_ce"},
    }
    assert all(expected[stage] <= row.keys() for row in plainly)


@pytest.mark.parametrize(
    ("ours", "plainly", "expected"),
    [
        ({"ce": 2.0}, {"ce": 2.0}, 0.0),
        ({"ce": 1.0}, {"ce": 1.25}, 0.2),
        ({"ce": -1.0}, {"ce": 1.0}, 2.0),
        # Small figures are held against 0.1.
        ({"ce": 0.03}, {"ce": 0.01}, 0.2),
        ({"ce": 2.0, "kd": 3.0, "accuracy": 0.5}, {"kd": 4.0, "ce": 2.0}, 0.25),
    ],
)
def test_the_figure_that_is_furthest_apart_counts(ours: Row, plainly: Row, expected: float) -> None:
    assert difference(ours, plainly) == pytest.approx(expected)


def test_a_figure_that_ours_lacks_is_an_error() -> None:
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


@pytest.mark.parametrize("which", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_pool_before_relu_changes_no_bit(which: str, dtype: torch.dtype) -> None:
    """Neither of the logits nor of a gradient, ties and zeros included."""
    made, plainly, shapes = NETS[which]
    torch.manual_seed(0)
    net = made(10).to(dtype)
    other = plainly(10).to(dtype)
    other.load_state_dict(net.state_dict())
    inputs = {name: torch.randn(2, *shape, dtype=dtype) for name, shape in shapes.items()}
    # Silence: whole windows of a pool are alike, and some are all zeros.
    inputs["audio"][:, :, 40:] = 0
    towards = torch.randn(2, 10, dtype=dtype)
    found, expected = (slopes(of, inputs, towards) for of in (net, other))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
        assert tensor.abs().sum() > 0, name


def slopes(net: nn.Module, inputs: dict[str, Tensor], towards: Tensor) -> dict[str, Tensor]:
    """A net's logits, and the gradients of its weights and inputs."""
    given = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    logits = net(**given)
    (logits * towards).sum().backward()
    learning = {**dict(net.named_parameters()), **given}
    return {"logits": logits, **{name: tensor.grad for name, tensor in learning.items()}}
