"""Permutation against nets whose logits are written down, on samples counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mst_distill.data.samples import Samples, rows_of
from mst_distill.datasets.rules import check_reliance
from mst_distill.diagnose.knowledge_sources import Source
from mst_distill.diagnose.reliance import COLUMNS, REPEATS, cycle, reliance_table
from mst_distill.diagnose.saliency import attribute
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.parameters import Runtime
from mst_distill.training.batches import Inputs
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed
from toy_diagnoses import finished
from toy_runs import KINDS

BOOTSTRAP = Bootstrap(500, 0.9, 3)
COUNT, CLASSES = 300, 4
SEES = ("small", "large")


def make_run(labels: np.ndarray, ignored: int | None = None, **arrays: np.ndarray) -> Run:
    """Every third sample is held out; the rest trains and validates in turn."""
    index = pd.DataFrame({"id": [f"s{row}" for row in range(len(labels))]})
    index["group"], index["label"] = index["id"], labels if labels.ndim == 1 else -1
    index["split"] = np.resize(["train", "valid", "test"], len(labels))
    names = tuple(f"class {label}" for label in range(CLASSES))
    known = {name: array.astype(np.float32) for name, array in arrays.items()}
    samples = Samples(index, known, labels, names, ignored, "toy")
    return Run(samples, index, "small", 7, Runtime(device="cpu"))


def scaled_run() -> Run:
    """The label is the place of the largest of a few small numbers; many large ones are noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=COUNT)
    small = 0.01 * (np.eye(CLASSES)[labels] + rng.normal(0, 0.4, (COUNT, CLASSES)))
    return make_run(labels, small=small, large=rng.normal(300, 50, (COUNT, 50)))


def say_small(inputs: Inputs) -> Tensor:
    """Logits that differ by the small modality alone: the large one adds alike to all of them."""
    return 100 * inputs["small"] + inputs["large"].sum(dim=1, keepdim=True) / 1000


def test_a_large_modality_that_decides_nothing_costs_nothing_when_it_is_permuted() -> None:
    run = scaled_run()
    source = Source("multimodal teacher", "multimodal", False, SEES, say_small)
    table = reliance_table(run, [source], 32, BOOTSTRAP).set_index("modality")
    assert table.loc["large", "points"] == 0
    assert np.isnan(table.loc["large", "low"])
    assert table.loc["large", "nats"] == pytest.approx(0, abs=1e-5)
    # With another sample's small numbers it is right about as often as labels happen to agree.
    assert table.loc["small", "accuracy"] > 0.8
    assert table.loc["small", "permuted"] == pytest.approx(1 / CLASSES, abs=0.1)
    assert table.loc["small", "low"] > 40

    # Gradient times input, by which it was told, says the opposite.
    inputs = {name: torch.from_numpy(run.samples.modalities[name][:9]) for name in SEES}
    sizes = {name: of.sum() for name, of in attribute(say_small, inputs).items()}
    assert sizes["large"] > 4 * sizes["small"]


def log_likelihood(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits[np.arange(len(label)), label] - np.log(np.exp(logits).sum(axis=1))


def test_figures_are_those_of_numpy_on_arrays_whose_rows_were_moved() -> None:
    run = scaled_run()
    source = Source("multimodal teacher", "multimodal", False, SEES, say_small)
    row = reliance_table(run, [source], 7, BOOTSTRAP).iloc[0]
    rows = rows_of(run.splits, "test")
    label = run.samples.labels[rows]
    small = 100 * run.samples.modalities["small"][rows]
    before = small.argmax(axis=1) == label
    right, likelihood = np.zeros(len(rows)), np.zeros(len(rows))
    for repeat in range(REPEATS):
        moved = small[cycle(len(rows), derive_seed(7, "reliance", "small", str(repeat)))]
        right += (moved.argmax(axis=1) == label) / REPEATS
        likelihood += log_likelihood(moved, label) / REPEATS
    assert row["modality"] == "small"
    assert row["accuracy"] == pytest.approx(before.mean())
    assert row["permuted"] == pytest.approx(right.mean())
    assert row["points"] == pytest.approx(100 * (before - right).mean())
    assert row["nll"] == pytest.approx(-log_likelihood(small, label).mean(), rel=1e-4)
    assert row["nats"] == pytest.approx(
        (log_likelihood(small, label) - likelihood).mean(), rel=1e-4
    )
    # The interval of a mean over so many samples is nearly the normal one.
    half = 1.645 * (100 * (before - right)).std() / np.sqrt(len(rows))
    assert row["high"] - row["low"] == pytest.approx(2 * half, rel=0.15)
    assert row["low"] < row["points"] < row["high"]


def test_dense_labels_count_by_their_judged_pixels() -> None:
    """A pixel's class is in the small modality, and class 0 is no target."""
    rng = np.random.default_rng(1)
    labels = rng.integers(CLASSES, size=(60, 3, 5))
    labels[2] = 0  # a held-out image of which no pixel is judged
    small = np.moveaxis(np.eye(CLASSES)[labels], -1, 1) + rng.normal(0, 0.5, (60, CLASSES, 3, 5))
    run = make_run(labels, 0, small=small, large=rng.normal(300, 50, (60, 1, 3, 5)))

    def say(inputs: Inputs) -> Tensor:
        return 3 * inputs["small"] + inputs["large"]

    source = Source("multimodal teacher", "multimodal", False, SEES, say)
    table = reliance_table(run, [source], 4, BOOTSTRAP).set_index("modality")
    rows = rows_of(run.splits, "test")
    label = run.samples.labels[rows]
    guess = run.samples.modalities["small"][rows].argmax(axis=1)
    judged = label != 0
    accuracy = ((guess == label) & judged).sum() / judged.sum()
    permuted = np.mean(
        [
            ((guess[cycle(20, derive_seed(7, "reliance", "small", str(repeat)))] == label) & judged)
            .sum() / judged.sum()
            for repeat in range(REPEATS)
        ]
    )  # fmt: skip
    assert table.loc["small", "accuracy"] == pytest.approx(accuracy)
    assert table.loc["small", "permuted"] == pytest.approx(permuted)
    assert table.loc["small", "points"] == pytest.approx(100 * (accuracy - permuted))
    assert 0 < table.loc["small", "low"] < table.loc["small", "points"] < table.loc["small", "high"]
    assert table.loc["large", "points"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_net_that_sees_several_modalities_has_a_row_each(kind: str) -> None:
    toy = finished(kind)
    table = reliance_table(toy.run, toy.sources, 3, BOOTSTRAP)
    check_reliance(table)
    assert list(table.columns) == COLUMNS
    seeing = [name for name in toy.panel.names if name.startswith("multimodal/")]
    modalities = list(toy.run.samples.modalities)
    assert table[["source", "modality"]].to_numpy().tolist() == [
        [source, name] for source in ("multimodal teacher", *seeing) for name in modalities
    ]
    pd.testing.assert_frame_equal(table, reliance_table(toy.run, toy.sources, 3, BOOTSTRAP))


def test_who_sees_one_modality_and_who_has_one_sample_have_no_rows() -> None:
    run = scaled_run()
    one = Source("small teacher", "small", False, ("small",), lambda inputs: inputs["small"])
    both = Source("multimodal teacher", "multimodal", False, SEES, say_small)
    splits = run.splits.assign(split="train")
    splits.loc[5, "split"] = "test"
    single = Run(run.samples, splits, "small", 7, run.runtime)
    for of, sources in ((run, [one]), (single, [both])):
        table = reliance_table(of, sources, 8, BOOTSTRAP)
        assert table.empty
        check_reliance(table)


@pytest.mark.parametrize("count", [2, 3, 10, 257])
def test_nobody_stays_in_place(count: int) -> None:
    moved = [cycle(count, seed) for seed in range(20)]
    for order in moved:
        assert sorted(order) == list(range(count))
        assert (order != np.arange(count)).all()
    assert np.array_equal(moved[0], cycle(count, 0))
    if count > 3:
        assert len({tuple(order) for order in moved}) > 15
