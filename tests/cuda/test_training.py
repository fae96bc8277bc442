"""The training loop on a simulated GPU: errors, interruptions, memory, and saved networks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from mst_distill.artifacts.bundle import ModelBundle, load_bundle, save_bundle
from mst_distill.artifacts.checkpoint import Checkpoint
from mst_distill.mst.networks import build_members
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.nets.digits import DigitImageNet
from mst_distill.parameters import Runtime, Training, TrainingRecipe
from mst_distill.plan import Plan, read_plan
from mst_distill.training import batches, loop
from mst_distill.training.batches import Batch
from mst_distill.training.memory import fits
from mst_distill.training.micro_batches import MicroBatcher
from mst_distill.training.run import Run
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task
from simulated_gpu import SimulatedGPU
from toy_runs import TEACHERS, make_plan, make_run
from toys import make_samples


class Dropping(Task):
    """A net with dropout, so that the random numbers of the GPU matter."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        layers = (nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        self.trainable = nn.Sequential(*layers).to(device)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable(batch.inputs["image"])
        return {"loss": nn.functional.cross_entropy(logits, batch.label)}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable(batch.inputs["image"])
        right = logits.argmax(dim=1) == batch.label
        return {"accuracy": right.double().mean(), "ce": self.losses(batch)["loss"]}


class Failing(Dropping):
    """A loss or a gradient is not finite in step 1 of epoch 1; the weights before it are kept.

    Args:
        device: The device.
        change: Maps the loss and the first weight to the loss of that step.
    """

    def __init__(self, device: torch.device, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(device)
        self.change = change
        self.steps = 0
        self.before: dict[str, Tensor] = {}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        terms = super().losses(batch)
        if self.trainable.training:
            if self.steps == 4:
                terms["loss"] = self.change(terms["loss"], self.trainable[1].weight)
                self.before = {n: w.clone() for n, w in self.trainable.state_dict().items()}
            self.steps += 1
        return terms


def make_stage(
    device: str, task: Task | None = None, batch_size: int = 8
) -> tuple[loop.Stage, Runtime]:
    run, _ = make_run(device=device)
    settings = Training(epochs=3, batch_size=batch_size, learning_rate=0.01)
    train_and_valid = run.train_and_valid("teachers", settings, ["image"])
    task = task or Dropping(run.device)
    run.seed_noise("teachers")
    return loop.Stage("teachers", task, *train_and_valid, settings, SELECTION), run.runtime


NOT_FINITE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "loss": (lambda loss, _: loss / 0, "loss is inf in step 1 of epoch 1"),
    # The root of 0 is finite, and its slope is not.
    "gradient": (
        lambda loss, weight: loss + (weight * 0).sum().sqrt(),
        "the gradient of 1.weight is nan in step 1 of epoch 1",
    ),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("what", NOT_FINITE)
def test_a_step_that_is_not_finite_changes_no_weight_and_is_named(
    what: str, device: str, gpu: SimulatedGPU
) -> None:
    change, message = NOT_FINITE[what]
    task = Failing(torch.device(device), change)
    with pytest.raises(FloatingPointError, match=f"{message} .*on the samples s0.*range from"):
        loop.fit(*make_stage(device, task))
    assert task.steps == (5 if device == "cpu" else 6)  # the host looks at the end of the epoch
    for name, weight in task.trainable.state_dict().items():
        assert weight.equal(task.before[name]), name


def test_a_step_that_is_not_finite_is_found_before_a_checkpoint_is_saved(
    gpu: SimulatedGPU, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Failing(torch.device("cuda"), NOT_FINITE["loss"][0])
    saved: list[int] = []
    monkeypatch.setattr(Checkpoint, "due", property(lambda self: True))
    monkeypatch.setattr(Checkpoint, "save", lambda self, state: saved.append(state["step"]))
    stage, runtime = make_stage("cuda", task)
    with pytest.raises(FloatingPointError, match="step 1 of epoch 1"):
        loop.fit(stage, runtime, Checkpoint(tmp_path / "state.pt", "digest"))
    assert saved == [1, 2, 3, 1]


def test_an_optimiser_that_is_not_fused_is_checked_at_every_step(gpu: SimulatedGPU) -> None:
    class Plain(Failing):
        def optimiser(self, learning_rate: float, recipe: TrainingRecipe) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.trainable.parameters(), learning_rate)

    task = Plain(torch.device("cuda"), NOT_FINITE["loss"][0])
    with pytest.raises(FloatingPointError, match="step 1 of epoch 1"):
        loop.fit(*make_stage("cuda", task))
    assert task.steps == 5


def stop_after(
    steps: int,
    device: str,
    checkpoint: Checkpoint,
    task: type[Dropping] = Dropping,
    batch_size: int = 8,
) -> None:
    stage, runtime = make_stage(device, task(torch.device(device)), batch_size)
    training = loop._Training(stage, runtime, None)
    while True:
        order = stage.train.order
        for _ in training.train_epoch():
            steps -= 1
            if not steps:
                checkpoint.save(training._state(order))
                return
        training.end_epoch()


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_training_continues_on_a_gpu_to_the_bit(
    steps: int, gpu: SimulatedGPU, tmp_path: Path
) -> None:
    expected = loop.fit(*make_stage("cuda:1"))
    checkpoint = Checkpoint(tmp_path / "state.pt", "digest")
    stop_after(steps, "cuda:1", checkpoint)
    found = loop.fit(*make_stage("cuda:1"), checkpoint)
    assert found.history.equals(expected.history)
    for criterion, best in expected.best.items():
        for name, tensor in best.state.items():
            assert found.best[criterion].state[name].cpu().equal(tensor.cpu()), (criterion, name)


@pytest.mark.parametrize(("before", "after"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_training_continues_on_another_device(before: str, after: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.pt", "digest")

    def machine(device: str) -> contextlib.AbstractContextManager[Any]:
        return SimulatedGPU() if device == "cuda" else contextlib.nullcontext()

    with machine(before):
        stop_after(4, before, checkpoint)
    with machine(after):
        assert len(loop.fit(*make_stage(after), checkpoint).history) == 3


def test_the_best_weights_are_on_the_gpu_after_an_interruption(
    gpu: SimulatedGPU, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path / "state.pt", "digest")
    stop_after(4, "cuda", checkpoint)
    done = loop.fit(*make_stage("cuda"), checkpoint)
    assert {
        tensor.device.type for best in done.best.values() for tensor in best.state.values()
    } == {"cuda"}


def test_start_weights_leave_the_generator_of_the_gpu_as_it_is(gpu: SimulatedGPU) -> None:
    run, plan = make_run(device="cuda")
    torch.manual_seed(5)
    expected = torch.rand(3, device="cuda").tolist()
    torch.manual_seed(5)
    build_members(run, plan)
    assert torch.rand(3, device="cuda").tolist() == expected


NETS = "mst_distill.nets.digits."
DIGITS = {
    "multimodal": {"type": f"{NETS}DigitFusionNet", "masked_layers": ["fusion", "hidden"]},
    "modalities": {
        "image": {"type": f"{NETS}DigitImageNet", "masked_layers": ["features.2", "hidden"]},
        "audio": {"type": f"{NETS}DigitAudioNet", "masked_layers": ["dense", "hidden"]},
    },
}


def digits_run(device: str) -> tuple[Run, Plan]:
    samples, splits = make_samples(200, classes=10)
    plan = make_plan()
    members = type(plan.members).model_validate(DIGITS)
    teachers = TEACHERS.model_copy(update={"epochs": 1, "batch_size": 64, "learning_rate": 1e-3})
    plan = plan.model_copy(update={"members": members, "teachers": teachers})
    return Run(samples, splits, "image", 0, Runtime(device=device)), plan


def test_a_failed_attempt_leaves_nothing_in_memory_and_the_history_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = train_members(*digits_run("cpu"))[1].history
    with SimulatedGPU() as gpu:
        train_members(*digits_run("cuda"))
    each, left = MicroBatcher.each, []

    def measured(self: MicroBatcher, count: int, work: Any, undo: Any = None) -> Any:
        before = gpu.allocated[0]

        def and_measure() -> None:
            undo()
            torch.cuda.empty_cache()
            left.append(gpu.allocated[0] - before)

        return each(self, count, work, and_measure if undo else None)

    monkeypatch.setattr(MicroBatcher, "each", measured)
    with SimulatedGPU(memory=int(0.8 * gpu.peak[0])) as gpu:
        found = train_members(*digits_run("cuda"))[1].history
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6)
    assert left
    assert set(left) == {0}


def test_the_error_names_the_stage_if_the_state_of_the_optimiser_does_not_fit() -> None:
    class Wide(Dropping):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            self.trainable = nn.Sequential(nn.Flatten(), nn.Linear(64, 4096), nn.Linear(4096, 3))
            self.trainable.to(device)

    weights = 4 * (64 * 4096 + 4096 + 4096 * 3 + 3)
    with SimulatedGPU(memory=3 * weights):  # weights and gradients, but not two moments of Adam
        stage, runtime = make_stage("cuda", Wide(torch.device("cuda")))
        with pytest.raises(torch.OutOfMemoryError, match=r"stage 'teachers' does not fit .*cpu"):
            loop.fit(stage, runtime)


def test_memory_that_the_allocator_keeps_counts_as_free() -> None:
    with SimulatedGPU(memory=2**20):
        device = torch.device("cuda")
        assert fits(2**18, device)
        torch.empty(2**20 - 2**10, dtype=torch.uint8, device=device)  # freed at once
        assert fits(2**18, device)
        assert not fits(2**20, device)


def test_a_bundle_of_a_net_on_a_gpu_loads_on_a_cpu(tmp_path: Path) -> None:
    net = DigitImageNet(classes=3)
    expected = {name: weight.clone() for name, weight in net.state_dict().items()}
    with SimulatedGPU():
        save_bundle(ModelBundle.of(net.to("cuda"), {"classes": 3}), tmp_path / "net.json")
    found = load_bundle(tmp_path / "net.json").net.state_dict()
    assert all(found[name].equal(weight) for name, weight in expected.items())


def test_batches_on_a_gpu_are_given_back_by_their_places(gpu: SimulatedGPU) -> None:
    run, _ = make_run(device="cuda")
    batches = run.batches("train", ["image"], 8, shuffle="teachers")
    for batch in batches:
        again = batches.at(batch.place)
        assert again.inputs["image"].equal(batch.inputs["image"])
        assert again.label.equal(batch.label)
        assert again.place.equal(batch.place)


def test_a_split_is_copied_in_pieces(gpu: SimulatedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(make_run()[0].batches("train", ["image"], 8))
    monkeypatch.setattr(batches, "PIECE", 5 * 64 * 4)  # 5 of 24 images
    run, _ = make_run(device="cuda:1")
    assert run.device.index == 1
    with gpu.recorded() as record:
        train = run.batches("train", ["image"], 8)
    assert not record.waits
    for batch, on_cpu in zip(train, expected, strict=True):
        assert batch.inputs["image"].cpu().equal(on_cpu.inputs["image"])
        assert batch.label.cpu().equal(on_cpu.label)


@pytest.mark.parametrize(
    ("precision", "channels_last"), [("float32", False), ("tf32", True), ("bfloat16", True)]
)
def test_kernels_are_channels_last_where_tensor_cores_compute(
    precision: str, channels_last: bool, gpu: SimulatedGPU
) -> None:
    run, _ = make_run(device="cuda", precision=precision)
    net = nn.Conv2d(3, 8, 3)
    net.channels_last = True
    run.place(net)
    assert net.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_the_plan_has_the_precision_that_suits_the_gpu(
    capability: tuple[int, int], precision: str
) -> None:
    parameters = make_plan().model_dump()
    with SimulatedGPU(capability=capability):
        for device in ("auto", "cuda"):
            parameters["runtime"] |= {"device": device, "precision": "auto"}
            assert read_plan(parameters).runtime.precision == precision
        parameters["runtime"]["device"] = "cpu"
        assert read_plan(parameters).runtime.precision == "float32"
