"""Reliance of nets with fixed formulas for their logits, against numpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mst_distill.data.samples import Samples, rows_of
from mst_distill.datasets.validators import check_reliance
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
    """Make a run whose samples are for training, validation and test in turn."""
    index = pd.DataFrame({"id": [f"s{row}" for row in range(len(labels))]})
    index["group"], index["label"] = index["id"], labels if labels.ndim == 1 else -1
    index["split"] = np.resize(["train", "valid", "test"], len(labels))
    names = tuple(f"class {label}" for label in range(CLASSES))
    modalities = {name: array.astype(np.float32) for name, array in arrays.items()}
    samples = Samples(index, modalities, labels, names, ignored, "toy")
    return Run(samples, index, "small", 7, Runtime(device="cpu"))


def scaled_run() -> Run:
    """Make samples whose label is the argmax of a few small numbers; many large ones are noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=COUNT)
    small = 0.01 * (np.eye(CLASSES)[labels] + rng.normal(0, 0.4, (COUNT, CLASSES)))
    return make_run(labels, small=small, large=rng.normal(300, 50, (COUNT, 50)))


def logits_of_small(inputs: Inputs) -> Tensor:
    """Compute logits from the small modality; the large one adds the same to all of them."""
    return 100 * inputs["small"] + inputs["large"].sum(dim=1, keepdim=True) / 1000


def test_permuting_a_large_modality_without_influence_costs_nothing() -> None:
    run = scaled_run()
    source = Source("multimodal teacher", "multimodal", False, SEES, logits_of_small)
    table = reliance_table(run, [source], 32, BOOTSTRAP).set_index("modality")
    assert table.loc["large", "points"] == 0
    assert np.isnan(table.loc["large", "low"])
    assert table.loc["large", "nats"] == pytest.approx(0, abs=1e-5)
    # With the small numbers of another sample, accuracy is the chance that two labels are equal.
    assert table.loc["small", "accuracy"] > 0.8
    assert table.loc["small", "permuted"] == pytest.approx(1 / CLASSES, abs=0.1)
    assert table.loc["small", "low"] > 40

    # Gradient x input would suggest the opposite.
    inputs = {name: torch.from_numpy(run.samples.modalities[name][:9]) for name in SEES}
    sizes = {name: of.sum() for name, of in attribute(logits_of_small, inputs).items()}
    assert sizes["large"] > 4 * sizes["small"]


def log_likelihood(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits[np.arange(len(label)), label] - np.log(np.exp(logits).sum(axis=1))


def test_metrics_are_those_of_numpy_on_arrays_with_permuted_rows() -> None:
    run = scaled_run()
    source = Source("multimodal teacher", "multimodal", False, SEES, logits_of_small)
    row = reliance_table(run, [source], 7, BOOTSTRAP).iloc[0]
    rows = rows_of(run.splits, "test")
    label = run.samples.labels[rows]
    small = 100 * run.samples.modalities["small"][rows]
    before = small.argmax(axis=1) == label
    right, likelihood = np.zeros(len(rows)), np.zeros(len(rows))
    for repeat in range(REPEATS):
        permuted = small[cycle(len(rows), derive_seed(7, "reliance", "small", str(repeat)))]
        right += (permuted.argmax(axis=1) == label) / REPEATS
        likelihood += log_likelihood(permuted, label) / REPEATS
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


def test_dense_labels_count_by_their_labelled_pixels() -> None:
    """The small modality encodes the class of each pixel, and class 0 is no target."""
    rng = np.random.default_rng(1)
    labels = rng.integers(CLASSES, size=(60, 3, 5))
    labels[2] = 0  # a held-out image without labelled pixels
    small = np.moveaxis(np.eye(CLASSES)[labels], -1, 1) + rng.normal(0, 0.5, (60, CLASSES, 3, 5))
    run = make_run(labels, 0, small=small, large=rng.normal(300, 50, (60, 1, 3, 5)))

    def logits_of(inputs: Inputs) -> Tensor:
        return 3 * inputs["small"] + inputs["large"]

    source = Source("multimodal teacher", "multimodal", False, SEES, logits_of)
    table = reliance_table(run, [source], 4, BOOTSTRAP).set_index("modality")
    rows = rows_of(run.splits, "test")
    label = run.samples.labels[rows]
    guess = run.samples.modalities["small"][rows].argmax(axis=1)
    labelled = label != 0
    accuracy = ((guess == label) & labelled).sum() / labelled.sum()
    orders = [cycle(20, derive_seed(7, "reliance", "small", str(at))) for at in range(REPEATS)]
    permuted = np.mean(
        [((guess[order] == label) & labelled).sum() / labelled.sum() for order in orders]
    )
    assert table.loc["small", "accuracy"] == pytest.approx(accuracy)
    assert table.loc["small", "permuted"] == pytest.approx(permuted)
    assert table.loc["small", "points"] == pytest.approx(100 * (accuracy - permuted))
    assert 0 < table.loc["small", "low"] < table.loc["small", "points"] < table.loc["small", "high"]
    assert table.loc["large", "points"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_net_with_several_modalities_has_a_row_for_each(kind: str) -> None:
    toy = finished(kind)
    table = reliance_table(toy.run, toy.sources, 3, BOOTSTRAP)
    check_reliance(table)
    assert list(table.columns) == COLUMNS
    masked = [name for name in toy.ensemble.names if name.startswith("multimodal/")]
    modalities = list(toy.run.samples.modalities)
    assert table[["source", "modality"]].to_numpy().tolist() == [
        [source, name] for source in ("multimodal teacher", *masked) for name in modalities
    ]
    pd.testing.assert_frame_equal(table, reliance_table(toy.run, toy.sources, 3, BOOTSTRAP))


def test_a_single_modality_or_a_single_sample_gives_no_rows() -> None:
    run = scaled_run()
    one = Source("small teacher", "small", False, ("small",), lambda inputs: inputs["small"])
    both = Source("multimodal teacher", "multimodal", False, SEES, logits_of_small)
    splits = run.splits.assign(split="train")
    splits.loc[5, "split"] = "test"
    single = Run(run.samples, splits, "small", 7, run.runtime)
    for run_of_case, sources in ((run, [one]), (single, [both])):
        table = reliance_table(run_of_case, sources, 8, BOOTSTRAP)
        assert table.empty
        check_reliance(table)


@pytest.mark.parametrize("count", [2, 3, 10, 257])
def test_a_cycle_has_no_fixed_point(count: int) -> None:
    orders = [cycle(count, seed) for seed in range(20)]
    for order in orders:
        assert sorted(order) == list(range(count))
        assert (order != np.arange(count)).all()
    assert np.array_equal(orders[0], cycle(count, 0))
    if count > 3:
        assert len({tuple(order) for order in orders}) > 15
