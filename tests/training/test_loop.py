"""The training loop: what a history says, which weights are kept, and what stops it."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mst_distill.parameters import Runtime, Training
from mst_distill.training.batches import Batch, Batches
from mst_distill.training.loop import Fit, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task
from toys import make_samples

CPU = torch.device("cpu")
RUNTIME = Runtime(device="cpu")


def count_up(n: int, batch_size: int = 3) -> Batches:
    """Batches in order of n samples whose modality ``x`` is 0, 1, 2, ..."""
    samples, _ = make_samples(n, {"x": (1,)})
    arrays = {"x": np.arange(n, dtype=np.float32)[:, None]}
    counted = dataclasses.replace(samples, modalities=arrays)
    return Batches(counted, np.arange(n), ["x"], batch_size, RUNTIME, CPU)


class Scripted(Task):
    """Validation figures as written down, an epoch each; remembers what the loop does with it."""

    def __init__(self, accuracy: list[float], ce: list[float]) -> None:
        self.trainable = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
        self.script = list(zip(accuracy, ce, strict=True))
        self.epoch = 0
        self.modes: list[tuple[str, bool, bool]] = []
        self.states: list[dict[str, Tensor]] = []
        self.ended: list[int] = []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.modes.append(("losses", self.trainable.training, torch.is_grad_enabled()))
        x = batch.inputs["x"]
        return {"loss": (self.trainable(x) - 3 * x).square().mean(), "mean": x.mean()}

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        self.modes.append(("judge", self.trainable.training, torch.is_grad_enabled()))
        if len(self.states) == self.epoch:
            state = self.trainable.state_dict()
            self.states.append({name: tensor.clone() for name, tensor in state.items()})
        accuracy, ce = self.script[self.epoch]
        return {"accuracy": torch.tensor(accuracy), "ce": torch.tensor(ce)}

    def end_epoch(self, epoch: int) -> None:
        self.ended.append(epoch)
        self.epoch += 1


def settings(epochs: int, learning_rate: float = 0.1) -> Training:
    return Training(epochs=epochs, batch_size=3, learning_rate=learning_rate)


def run_script(accuracy: list[float], ce: list[float]) -> tuple[Scripted, Fit]:
    torch.manual_seed(0)
    task = Scripted(accuracy, ce)
    valid = count_up(4, batch_size=2)
    done = fit(Stage("a stage", task, count_up(7), valid, settings(len(ce)), SELECTION), RUNTIME)
    return task, done


@pytest.mark.parametrize(
    ("accuracy", "ce", "expected"),
    [
        ([0.5, 0.8, 0.7], [0.5, 0.6, 0.4], {"accuracy": 1, "ce": 2, "last": 2}),
        ([0.5, 0.8, 0.8, 0.7], [0.1, 0.6, 0.5, 0.9], {"accuracy": 2, "ce": 0, "last": 3}),
        ([0.8, 0.8, 0.8, 0.8], [0.6, 0.5, 0.5, 0.7], {"accuracy": 1, "ce": 1, "last": 3}),
        ([0.5, 0.5], [0.3, 0.3], {"accuracy": 0, "ce": 0, "last": 1}),
        ([0.0], [9.0], {"accuracy": 0, "ce": 0, "last": 0}),
    ],
)
def test_each_rule_keeps_the_epoch_it_prefers_and_of_equals_the_first(
    accuracy: list[float], ce: list[float], expected: dict[str, int]
) -> None:
    task, done = run_script(accuracy, ce)
    assert {rule: int(kept.row["epoch"]) for rule, kept in done.kept.items()} == expected
    for rule, epoch in expected.items():
        kept = done.kept[rule]
        assert kept.row["valid_accuracy"] == pytest.approx(accuracy[epoch])
        assert kept.state.keys() == task.states[epoch].keys()
        for name, tensor in kept.state.items():
            assert torch.equal(tensor, task.states[epoch][name]), name


def test_what_is_kept_is_a_copy_with_the_buffers() -> None:
    task, done = run_script([0.9, 0.1, 0.1], [0.1, 0.9, 0.9])
    kept = {name: tensor.clone() for name, tensor in done.kept["ce"].state.items()}
    assert {"0.running_mean", "1.weight"} <= set(kept)
    for name in ("0.running_mean", "1.weight"):
        assert not torch.equal(kept[name], task.trainable.state_dict()[name])
    with torch.no_grad():
        for tensor in task.trainable.state_dict().values():
            tensor.fill_(0)
    assert all(torch.equal(tensor, done.kept["ce"].state[name]) for name, tensor in kept.items())


def test_the_history_has_a_row_an_epoch() -> None:
    _, done = run_script([0.5, 0.75, 0.25], [3.0, 2.0, 1.0])
    assert list(done.history) == [
        "epoch",
        "train_loss",
        "train_mean",
        "valid_accuracy",
        "valid_ce",
    ]
    assert done.history["epoch"].tolist() == [0, 1, 2]
    assert done.history["valid_accuracy"].tolist() == [0.5, 0.75, 0.25]
    assert done.history["valid_ce"].tolist() == [3.0, 2.0, 1.0]


def test_a_row_is_the_mean_over_samples_not_over_batches() -> None:
    _, done = run_script([0.5], [1.0])
    # 0..6 in batches of 3 and 4: the batches' means are 1 and 4.5, whose plain mean is 2.75.
    assert done.history["train_mean"].tolist() == [3.0]


def test_a_validation_figure_is_the_mean_over_samples_not_over_batches() -> None:
    class Mean(Scripted):
        def judge(self, batch: Batch) -> dict[str, Tensor]:
            return {"ce": batch.inputs["x"].mean()}

    task = Mean([0.0], [0.0])
    done = fit(Stage("a stage", task, count_up(3), count_up(8), settings(1), {}), RUNTIME)
    # Batches of 3, 3 and 2: means 1, 4 and 6.5, whose plain mean is 3.83.
    assert done.history["valid_ce"].tolist() == [3.5]


def test_nets_learn_in_training_mode_and_are_judged_in_eval_mode_without_gradient() -> None:
    task, _ = run_script([0.5, 0.5], [1.0, 1.0])
    epoch = [("losses", True, True)] * 2 + [("judge", False, False)] * 2
    assert task.modes == epoch * 2
    assert task.ended == [0, 1]


def test_the_steps_are_those_of_adam() -> None:
    class Slope(Task):
        def __init__(self) -> None:
            self.trainable = nn.Linear(1, 1, bias=False)
            nn.init.constant_(self.trainable.weight, 2.0)

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": self.trainable(batch.inputs["x"]).square().mean()}

        def judge(self, batch: Batch) -> dict[str, Tensor]:
            return {"ce": self.losses(batch)["loss"]}

    task = Slope()
    done = fit(Stage("a stage", task, count_up(7), count_up(2), settings(2, 0.05), {}), RUNTIME)
    weight, mean, square, losses = 2.0, 0.0, 0.0, []
    for time in range(1, 5):
        x = np.array([[0, 1, 2], [3, 4, 5, 6]][(time - 1) % 2], dtype=np.float64)
        losses.append((len(x), np.mean((weight * x) ** 2)))
        gradient = 2 * weight * np.mean(x**2)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        corrected = mean / (1 - 0.9**time), square / (1 - 0.999**time)
        weight -= 0.05 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    assert task.trainable.weight.item() == pytest.approx(weight, rel=1e-5)
    for epoch, pair in enumerate((losses[:2], losses[2:])):
        expected = sum(size * loss for size, loss in pair) / 7
        assert done.history["train_loss"][epoch] == pytest.approx(expected, rel=1e-5)
    assert done.history["valid_ce"].iloc[-1] == pytest.approx(weight**2 / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("where", "value", "term"),
    [
        ("losses", float("nan"), "kd_image is nan in step 0 of epoch 1"),
        ("losses", float("inf"), "kd_image is inf in step 0 of epoch 1"),
        ("judge", float("nan"), "valid_ce is nan in epoch 1"),
        ("judge", float("-inf"), "valid_ce is -inf in epoch 1"),
    ],
)
def test_a_figure_that_is_no_number_stops_training_and_is_named(
    where: str, value: float, term: str
) -> None:
    class Breaking(Scripted):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            bad = value if where == "losses" and self.epoch == 1 else 0.0
            return {**super().losses(batch), "kd_image": torch.tensor(bad)}

        def judge(self, batch: Batch) -> dict[str, Tensor]:
            bad = value if where == "judge" and self.epoch == 1 else 0.0
            return {**super().judge(batch), "ce": torch.tensor(bad)}

    task = Breaking([0.5] * 3, [1.0] * 3)
    with pytest.raises(FloatingPointError, match=term) as error:
        fit(Stage("masks", task, count_up(7), count_up(4), settings(3), SELECTION), RUNTIME)
    assert "stage 'masks'" in str(error.value)
    assert "learning rate" in str(error.value)
    assert task.ended == [0]


class Labels(Task):
    """A net with dropout that learns the labels."""

    def __init__(self) -> None:
        self.trainable = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable(batch.inputs["image"])
        return {"loss": nn.functional.cross_entropy(logits, batch.label)}

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable(batch.inputs["image"])
        right = logits.argmax(dim=1) == batch.label
        return {"accuracy": right.float().mean(), "ce": self.losses(batch)["loss"]}


def test_a_gradient_that_is_no_number_stops_training_before_a_weight_is_changed() -> None:
    class Steep(Labels):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            terms = super().losses(batch)
            if not self.trainable.training:  # `judge` asks too
                return terms
            if self.steps == 3:  # the root's slope at 0 is infinite, its value is not
                terms["loss"] = terms["loss"] + (self.trainable[1].weight * 0).sum().sqrt()
            self.steps += 1
            self.before = {n: w.clone() for n, w in self.trainable.state_dict().items()}
            return terms

    task = Steep()
    task.steps = 0
    samples, splits = make_samples(60)
    run = Run(samples, splits, "image", 0, RUNTIME)
    chosen = Training(epochs=2, batch_size=12, learning_rate=0.01)
    train, valid = run.train_and_valid("teachers", chosen, ["image"])
    named = r"the gradient of 1\.weight is nan in step 0 of"
    with pytest.raises(FloatingPointError, match=named) as e:
        fit(Stage("teachers", task, train, valid, chosen, SELECTION), RUNTIME)
    said = re.search(r"epoch 1 of stage 'teachers', on the samples (.*) and 7 more:", str(e.value))
    first = said[1].split(", ")
    batches, _ = run.train_and_valid("teachers", chosen, ["image"])
    list(batches)  # the first epoch's
    assert first == batches.ids(next(iter(batches)))[:5]
    assert all(w.equal(task.before[n]) for n, w in task.trainable.state_dict().items())


def test_an_error_names_the_term_first_then_the_learner_and_the_range_of_the_inputs() -> None:
    class Named(Scripted):
        """Two learners; the second's gradient is no number, and a term as well if it is asked."""

        def __init__(self, broken: str) -> None:
            super().__init__([0.5], [1.0])
            self.broken = broken

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            terms = super().losses(batch)
            steep = (self.trainable[1].weight * 0).sum().sqrt()
            terms["loss"] = terms["loss"] + steep
            terms["kd"] = torch.tensor(float("inf") if "kd" in self.broken else 0.0)
            if "loss" in self.broken:
                terms["loss"] = terms["loss"] + torch.tensor(float("nan"))
            return terms

        def learner(self, weight: str) -> str:
            return "the norm" if weight.startswith("0.") else "the linear layer"

    message = {
        "gradient": "^the gradient of the linear layer is nan in step 0 of epoch 0",
        "loss": "^loss is nan in step 0 of epoch 0",
        "kd and loss": "^kd is inf in step 0 of epoch 0",
    }
    for broken, expected in message.items():
        stage = Stage("a", Named(broken), count_up(7), count_up(4), settings(1), SELECTION)
        with pytest.raises(FloatingPointError, match=expected) as error:
            fit(stage, RUNTIME)
        assert "range from 0 to 2 in 'x': bring a modality that is far" in str(error.value)


def train_labels(seed: int, precision: str = "float32") -> Fit:
    samples, splits = make_samples(60)
    runtime = Runtime(device="cpu", precision=precision)
    run = Run(samples, splits, "image", seed, runtime)
    torch.manual_seed(0)
    task = Labels()
    chosen = Training(epochs=4, batch_size=8, learning_rate=0.01)
    train, valid = run.train_and_valid("teachers", chosen, ["image"])
    run.seed_noise("teachers")
    return fit(Stage("teachers", task, train, valid, chosen, SELECTION), runtime)


def test_the_same_seed_gives_the_same_weights_to_the_last_bit() -> None:
    one, other = train_labels(seed=1), train_labels(seed=1)
    assert one.history.equals(other.history)
    for rule, kept in one.kept.items():
        for name, tensor in kept.state.items():
            assert torch.equal(tensor, other.kept[rule].state[name]), (rule, name)


def test_another_seed_gives_other_weights_from_the_same_start() -> None:
    one, other = (train_labels(seed).kept["last"].state for seed in (1, 2))
    assert not torch.equal(one["1.weight"], other["1.weight"])


def test_what_can_be_learned_is_learned() -> None:
    history = train_labels(seed=1).history
    assert history["train_loss"].iloc[-1] < 0.7 * history["train_loss"].iloc[0]
    assert history["valid_ce"].iloc[-1] < np.log(3)


def test_bfloat16_reaches_the_forward_passes_but_not_the_weights() -> None:
    dtypes: list[Any] = []
    samples, splits = make_samples(20)
    runtime = Runtime(device="cpu", precision="bfloat16")
    run = Run(samples, splits, "image", 0, runtime)
    task = Labels()
    task.trainable.register_forward_hook(lambda _net, _inputs, output: dtypes.append(output.dtype))
    chosen = Training(epochs=1, batch_size=8, learning_rate=0.01)
    train, valid = run.train_and_valid("teachers", chosen, ["image"])
    fit(Stage("teachers", task, train, valid, chosen, {}), runtime)
    assert set(dtypes) == {torch.bfloat16}
    assert {weight.dtype for weight in task.trainable.parameters()} == {torch.float32}
