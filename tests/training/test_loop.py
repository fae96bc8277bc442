"""The training loop: the history, the selected epochs, and the errors that stop it."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mst_distill.parameters import Runtime, Training, TrainingRecipe
from mst_distill.training.batches import Batch, Batches
from mst_distill.training.loop import FitResult, Stage, fit
from mst_distill.training.optimisation import rate_factor
from mst_distill.training.run import Run
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task
from toys import make_samples

CPU = torch.device("cpu")
RUNTIME = Runtime(device="cpu")


def count_up(n: int, batch_size: int = 3) -> Batches:
    """Unshuffled batches of n samples whose modality ``x`` is 0, 1, 2, ..."""
    samples, _ = make_samples(n, {"x": (1,)})
    arrays = {"x": np.arange(n, dtype=np.float32)[:, None]}
    counted = dataclasses.replace(samples, modalities=arrays)
    return Batches(counted, np.arange(n), ["x"], batch_size, RUNTIME, CPU)


class Scripted(Task):
    """A task with a given validation metric for each epoch, which records how the loop calls it."""

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

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        self.modes.append(("validate", self.trainable.training, torch.is_grad_enabled()))
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


def run_script(accuracy: list[float], ce: list[float]) -> tuple[Scripted, FitResult]:
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
def test_each_criterion_selects_its_best_epoch_and_the_first_of_equal_ones(
    accuracy: list[float], ce: list[float], expected: dict[str, int]
) -> None:
    task, done = run_script(accuracy, ce)
    assert {name: int(best.row["epoch"]) for name, best in done.best.items()} == expected
    for criterion, epoch in expected.items():
        best = done.best[criterion]
        assert best.row["valid_accuracy"] == pytest.approx(accuracy[epoch])
        assert best.state.keys() == task.states[epoch].keys()
        for name, tensor in best.state.items():
            assert torch.equal(tensor, task.states[epoch][name]), name


def test_the_state_of_the_best_epoch_is_a_copy_with_the_buffers() -> None:
    task, done = run_script([0.9, 0.1, 0.1], [0.1, 0.9, 0.9])
    state = {name: tensor.clone() for name, tensor in done.best["ce"].state.items()}
    assert {"0.running_mean", "1.weight"} <= set(state)
    for name in ("0.running_mean", "1.weight"):
        assert not torch.equal(state[name], task.trainable.state_dict()[name])
    with torch.no_grad():
        for tensor in task.trainable.state_dict().values():
            tensor.fill_(0)
    assert all(torch.equal(tensor, done.best["ce"].state[name]) for name, tensor in state.items())


def test_the_history_has_one_row_for_each_epoch() -> None:
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


def test_a_loss_term_is_the_mean_over_samples_not_over_batches() -> None:
    _, done = run_script([0.5], [1.0])
    # 0 to 6 in batches of 3 and 4: the means of the batches are 1 and 4.5, and their mean is 2.75.
    assert done.history["train_mean"].tolist() == [3.0]


def test_a_validation_metric_is_the_mean_over_samples_not_over_batches() -> None:
    class Mean(Scripted):
        def validate(self, batch: Batch) -> dict[str, Tensor]:
            return {"ce": batch.inputs["x"].mean()}

    task = Mean([0.0], [0.0])
    done = fit(Stage("a stage", task, count_up(3), count_up(8), settings(1), {}), RUNTIME)
    # Batches of 3, 3 and 2: their means are 1, 4 and 6.5, and the mean of these is 3.83.
    assert done.history["valid_ce"].tolist() == [3.5]


def test_training_uses_training_mode_and_validation_eval_mode_without_gradient() -> None:
    task, _ = run_script([0.5, 0.5], [1.0, 1.0])
    epoch = [("losses", True, True)] * 2 + [("validate", False, False)] * 2
    assert task.modes == epoch * 2
    assert task.ended == [0, 1]


def test_the_steps_are_those_of_adam() -> None:
    class SquaredOutput(Task):
        def __init__(self) -> None:
            self.trainable = nn.Linear(1, 1, bias=False)
            nn.init.constant_(self.trainable.weight, 2.0)

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": self.trainable(batch.inputs["x"]).square().mean()}

        def validate(self, batch: Batch) -> dict[str, Tensor]:
            return {"ce": self.losses(batch)["loss"]}

    task = SquaredOutput()
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
        ("validate", float("nan"), "valid_ce is nan in epoch 1"),
        ("validate", float("-inf"), "valid_ce is -inf in epoch 1"),
    ],
)
def test_a_value_that_is_not_finite_stops_training_and_is_named(
    where: str, value: float, term: str
) -> None:
    class Breaking(Scripted):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            bad = value if where == "losses" and self.epoch == 1 else 0.0
            return {**super().losses(batch), "kd_image": torch.tensor(bad)}

        def validate(self, batch: Batch) -> dict[str, Tensor]:
            bad = value if where == "validate" and self.epoch == 1 else 0.0
            return {**super().validate(batch), "ce": torch.tensor(bad)}

    task = Breaking([0.5] * 3, [1.0] * 3)
    with pytest.raises(FloatingPointError, match=term) as error:
        fit(Stage("masks", task, count_up(7), count_up(4), settings(3), SELECTION), RUNTIME)
    assert "stage 'masks'" in str(error.value)
    assert "learning rate" in str(error.value)
    assert task.ended == [0]


class Labels(Task):
    """A net with dropout that is trained to predict the labels."""

    def __init__(self) -> None:
        self.trainable = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable(batch.inputs["image"])
        return {"loss": nn.functional.cross_entropy(logits, batch.label)}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable(batch.inputs["image"])
        right = logits.argmax(dim=1) == batch.label
        return {"accuracy": right.float().mean(), "ce": self.losses(batch)["loss"]}


def test_a_gradient_that_is_not_finite_stops_training_before_a_weight_changes() -> None:
    class Steep(Labels):
        steps = 0

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            terms = super().losses(batch)
            if not self.trainable.training:  # `validate` computes the losses as well
                return terms
            if self.steps == 3:  # the derivative of the root at 0 is infinite, its value is 0
                terms["loss"] = terms["loss"] + (self.trainable[1].weight * 0).sum().sqrt()
            self.steps += 1
            self.before = {n: w.clone() for n, w in self.trainable.state_dict().items()}
            return terms

    task = Steep()
    samples, splits = make_samples(60)
    run = Run(samples, splits, "image", 0, RUNTIME)
    options = Training(epochs=2, batch_size=12, learning_rate=0.01)
    train, valid = run.train_and_valid("teachers", options, ["image"])
    named = r"the gradient of 1\.weight is nan in step 0 of"
    with pytest.raises(FloatingPointError, match=named) as e:
        fit(Stage("teachers", task, train, valid, options, SELECTION), RUNTIME)
    match = re.search(r"epoch 1 of stage 'teachers', on the samples (.*) and 7 more:", str(e.value))
    first = match[1].split(", ")
    batches, _ = run.train_and_valid("teachers", options, ["image"])
    list(batches)  # the batches of the first epoch
    assert first == batches.ids(next(iter(batches)))[:5]
    assert all(w.equal(task.before[n]) for n, w in task.trainable.state_dict().items())


def test_an_error_names_the_term_or_the_module_and_the_range_of_the_inputs() -> None:
    class Named(Scripted):
        """Two modules; the gradient of the second is not finite, nor are the terms in `broken`."""

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
        assert "range from 0 to 2 in 'x': if a modality is far from unit scale" in str(error.value)


def train_labels(seed: int, precision: str = "float32") -> FitResult:
    samples, splits = make_samples(60)
    runtime = Runtime(device="cpu", precision=precision)
    run = Run(samples, splits, "image", seed, runtime)
    torch.manual_seed(0)
    task = Labels()
    options = Training(epochs=4, batch_size=8, learning_rate=0.01)
    train, valid = run.train_and_valid("teachers", options, ["image"])
    run.seed_noise("teachers")
    return fit(Stage("teachers", task, train, valid, options, SELECTION), runtime)


def test_the_same_seed_gives_the_same_weights_to_the_last_bit() -> None:
    one, other = train_labels(seed=1), train_labels(seed=1)
    assert one.history.equals(other.history)
    for criterion, best in one.best.items():
        for name, tensor in best.state.items():
            assert torch.equal(tensor, other.best[criterion].state[name]), (criterion, name)


def test_another_seed_gives_other_weights_from_the_same_start_weights() -> None:
    one, other = (train_labels(seed).best["last"].state for seed in (1, 2))
    assert not torch.equal(one["1.weight"], other["1.weight"])


def test_the_loss_decreases_and_the_labels_are_learned() -> None:
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
    options = Training(epochs=1, batch_size=8, learning_rate=0.01)
    train, valid = run.train_and_valid("teachers", options, ["image"])
    fit(Stage("teachers", task, train, valid, options, {}), runtime)
    assert set(dtypes) == {torch.bfloat16}
    assert {weight.dtype for weight in task.trainable.parameters()} == {torch.float32}


class Rates(Scripted):
    """Records the learning rate of every step."""

    def __init__(self, epochs: int) -> None:
        super().__init__([0.0] * epochs, [0.0] * epochs)
        self.rates: list[float] = []

    def optimiser(self, learning_rate: float, recipe: TrainingRecipe) -> torch.optim.Optimizer:
        optimiser = super().optimiser(learning_rate, recipe)
        optimiser.register_step_pre_hook(lambda of, *_: self.rates.append(of.param_groups[0]["lr"]))
        return optimiser


class Unscheduled(Rates):
    """Sets its own learning rate."""

    follows_schedule = False


@pytest.mark.parametrize("task", [Rates, Unscheduled])
def test_the_learning_rate_follows_the_schedule_over_all_epochs(task: type[Rates]) -> None:
    recipe = TrainingRecipe(schedule="cosine", warmup=0.25)
    rates = task(epochs=3)
    stage = Stage("a", rates, count_up(7), count_up(2), settings(3), {})
    fit(stage, RUNTIME, recipe=recipe)
    # Seven samples in batches of three: the last batch has four.
    expected = [0.1 * rate_factor(recipe, step, 6) for step in range(6)]
    assert rates.rates == (expected if task is Rates else [0.1] * 6)


def test_with_balanced_classes_the_mean_recall_selects_the_epoch() -> None:
    row = {"epoch": 0.0, "valid_accuracy": 0.9, "valid_ce": 0.1}
    better, worse = (SELECTION["accuracy"]({**row, "valid_macro_recall": of}) for of in (0.6, 0.5))
    assert better > worse
    assert SELECTION["accuracy"](row) == (0.9, -0.1)
