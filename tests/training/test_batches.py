"""Batches: order, alignment, and equal values in memory and from the store."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mst_distill.data.samples import Samples, rows_of
from mst_distill.parameters import Runtime
from mst_distill.training.batches import Batch, Batches, Frozen, Inputs, Labels
from mst_distill.training.seeding import generator
from toys import make_samples

CPU = torch.device("cpu")


def numbered_samples(n: int = 30) -> tuple[Samples, np.ndarray]:
    """Samples whose modality ``x`` is their store row, and the rows of the training split."""
    samples, splits = make_samples(n, {"x": (1,), "y": (2, 3)})
    arrays = {**samples.modalities, "x": np.arange(n, dtype=np.float32)[:, None]}
    return dataclasses.replace(samples, modalities=arrays), rows_of(splits, "train")


def batches(samples: Samples, rows: np.ndarray, **options: Any) -> Batches:
    settings: dict[str, Any] = {
        "modalities": ("x", "y"),
        "batch_size": 5,
        "runtime": Runtime(device="cpu"),
        "device": CPU,
    }
    return Batches(samples, rows, **{**settings, **options})


def rows_in(batch: Batch) -> list[int]:
    return batch.inputs["x"][:, 0].int().tolist()


def order(of: Batches) -> list[int]:
    return [row for batch in of for row in rows_in(batch)]


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("seed", [None, 7])
def test_batches_hold_the_rows_of_the_store_whether_resident_or_mapped(
    monkeypatch: pytest.MonkeyPatch, resident: bool, seed: int | None
) -> None:
    samples, rows = numbered_samples()
    monkeypatch.setattr("mst_distill.training.batches.fits", lambda *_: resident)
    shuffle = None if seed is None else generator(seed)
    expected = rows if seed is None else rows[torch.randperm(len(rows), generator=generator(seed))]
    found = batches(samples, rows, shuffle=shuffle)
    start = 0
    for batch in found:
        of_batch = expected[start : start + len(batch.label)]
        assert rows_in(batch) == of_batch.tolist()
        np.testing.assert_array_equal(batch.inputs["y"].numpy(), samples.modalities["y"][of_batch])
        np.testing.assert_array_equal(batch.label.numpy(), samples.labels[of_batch])
        start += len(batch.label)
    assert start == len(rows) == found.count


@pytest.mark.parametrize(("resident", "expected"), [(True, 1.0), (False, 0.0)])
def test_a_split_that_does_not_fit_is_read_from_the_store(
    monkeypatch: pytest.MonkeyPatch, resident: bool, expected: float
) -> None:
    samples, rows = numbered_samples()
    monkeypatch.setattr("mst_distill.training.batches.fits", lambda *_: resident)
    samples.modalities["y"][:] = 1
    found = batches(samples, rows)
    samples.modalities["y"][:] = 0
    assert all((batch.inputs["y"] == expected).all() for batch in found)


def test_batches_of_a_memory_map_are_those_of_the_array(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    samples, rows = numbered_samples()
    for name, array in samples.modalities.items():
        np.save(tmp_path / f"{name}.npy", array)
    maps = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in samples.modalities}
    monkeypatch.setattr("mst_distill.training.batches.fits", lambda *_: False)
    mapped = batches(dataclasses.replace(samples, modalities=maps), rows, shuffle=generator(1))
    for one, other in zip(mapped, batches(samples, rows, shuffle=generator(1)), strict=True):
        for name in ("x", "y"):
            assert torch.equal(one.inputs[name], other.inputs[name])
        assert torch.equal(one.label, other.label)


def test_without_a_generator_every_pass_has_the_order_of_the_rows() -> None:
    samples, rows = numbered_samples()
    found = batches(samples, rows)
    assert order(found) == order(found) == rows.tolist()


def test_a_shuffled_pass_has_every_sample_once() -> None:
    samples, rows = numbered_samples()
    found = batches(samples, rows, shuffle=generator(3))
    for _ in range(3):
        assert sorted(order(found)) == rows.tolist()


def test_equal_generators_give_equal_orders_and_each_pass_has_a_new_order() -> None:
    samples, rows = numbered_samples()
    one, other = (batches(samples, rows, shuffle=generator(3, "order")) for _ in range(2))
    passes = [order(one) for _ in range(3)]
    assert [order(other) for _ in range(3)] == passes
    assert passes[0] != passes[1] != passes[2]
    assert order(batches(samples, rows, shuffle=generator(4, "order"))) != passes[0]


def test_a_generator_is_the_only_source_of_the_order() -> None:
    samples, rows = numbered_samples()
    found = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        found.append(order(batches(samples, rows, shuffle=generator(3))))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (9, 3, [3, 3, 3]),
        (8, 3, [3, 3, 2]),
        (7, 3, [3, 4]),
        (4, 3, [4]),
        (2, 5, [2]),
        (1, 3, [1]),
    ],
)
@pytest.mark.parametrize("shuffled", [True, False])
def test_a_last_batch_of_one_sample_is_merged_with_the_one_before(
    count: int, size: int, expected: list[int], shuffled: bool
) -> None:
    samples, _ = numbered_samples()
    shuffle = generator(0) if shuffled else None
    found = batches(samples, np.arange(count), batch_size=size, shuffle=shuffle)
    assert [len(batch.label) for batch in found] == expected
    assert len(found) == len(expected)
    assert sorted(order(found)) == list(range(count))


class CountingFrozen:
    """Computes two tensors of different shapes and counts the samples that it is called with."""

    def __init__(self) -> None:
        self.samples = 0

    def __call__(self, inputs: Inputs) -> tuple[Tensor, ...]:
        self.samples += len(inputs["x"])
        return 2 * inputs["x"][:, 0], inputs["y"] + inputs["x"][:, :, None]


@pytest.mark.parametrize("mode", ["cached", "online"])
@pytest.mark.parametrize("resident", [True, False])
def test_frozen_values_belong_to_the_samples_of_their_batch(
    monkeypatch: pytest.MonkeyPatch, mode: str, resident: bool
) -> None:
    monkeypatch.setattr("mst_distill.training.batches.fits", lambda *_: resident)
    samples, rows = numbered_samples()
    # 16 = 5 + 5 + 6: the cached tables must be correct although the last batch was merged.
    rows = rows[:16]
    found = batches(
        samples,
        rows,
        modalities=("x",),
        runtime=Runtime(device="cpu", frozen=mode),
        frozen={"both": Frozen(("x", "y"), CountingFrozen())},
        shuffle=generator(5),
    )
    passes = [list(found), list(found)]
    assert [rows_in(batch) for batch in passes[0]] != [rows_in(batch) for batch in passes[1]]
    for batch in [*passes[0], *passes[1]]:
        which = np.array(rows_in(batch))
        double, total = batch.frozen["both"]
        assert double.tolist() == (2.0 * which).tolist()
        expected = samples.modalities["y"][which] + which[:, None, None].astype(np.float32)
        np.testing.assert_array_equal(total.numpy(), expected)


def test_cached_values_are_computed_once_and_online_values_for_every_batch() -> None:
    samples, rows = numbered_samples()
    computed = {}
    for mode in ("cached", "online"):
        counter = CountingFrozen()
        found = batches(
            samples,
            rows,
            runtime=Runtime(device="cpu", frozen=mode),
            frozen={"both": Frozen(("x", "y"), counter)},
        )
        before = counter.samples
        for _ in range(3):
            list(found)
        computed[mode] = counter.samples - before
    assert computed == {"cached": 0, "online": 3 * len(rows)}


@pytest.mark.parametrize("enough", [True, False])
def test_auto_caches_frozen_values_only_if_they_fit(
    monkeypatch: pytest.MonkeyPatch, enough: bool
) -> None:
    samples, rows = numbered_samples()
    counter = CountingFrozen()
    # Each sample has two tensors, of 1 and 6 numbers of 4 bytes; they must fit in addition to the
    # split itself.
    total = len(rows) * 4 * (1 + 6)
    sizes: list[int] = []

    def fits(size: int, _device: torch.device) -> bool:
        sizes.append(size)
        return enough or size != total

    monkeypatch.setattr("mst_distill.training.batches.fits", fits)
    found = batches(samples, rows, frozen={"both": Frozen(("x", "y"), counter)})
    assert total in sizes
    before = counter.samples
    list(found)
    assert counter.samples - before == (0 if enough else len(rows))


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_frozen_values_have_no_gradient_and_the_precision_of_the_run(mode: str) -> None:
    samples, rows = numbered_samples()
    net = nn.Linear(1, 4)
    found = batches(
        samples,
        rows,
        runtime=Runtime(device="cpu", frozen=mode, precision="bfloat16"),
        frozen={"net": Frozen(("x",), lambda inputs: (net(inputs["x"]),))},
    )
    (value,) = next(iter(found)).frozen["net"]
    assert not value.requires_grad
    assert value.dtype == torch.bfloat16


def test_tables_are_shuffled_with_the_samples() -> None:
    samples, rows = numbered_samples()
    table = torch.from_numpy(np.stack([rows, 10 * rows], axis=1))
    found = batches(samples, rows, tables={"table": table}, shuffle=generator(2))
    assert order(found) != rows.tolist()
    for batch in found:
        (values,) = batch.frozen["table"]
        assert values.tolist() == [[row, 10 * row] for row in rows_in(batch)]


def test_a_batch_carries_tables_and_frozen_values() -> None:
    samples, rows = numbered_samples()
    table = torch.from_numpy(rows)
    frozen = {"double": Frozen(("x",), lambda inputs: (2 * inputs["x"],))}
    for batch in batches(samples, rows, tables={"table": table}, frozen=frozen):
        assert (2 * batch.frozen["table"][0]).tolist() == batch.frozen["double"][0][:, 0].tolist()


def test_batches_carry_only_the_requested_modalities() -> None:
    samples, rows = numbered_samples()
    cached = Runtime(device="cpu", frozen="cached")
    frozen = {"sum": Frozen(("y",), lambda inputs: (inputs["y"].sum(dim=(1, 2)),))}
    found = batches(samples, rows, modalities=("x",), runtime=cached, frozen=frozen)
    batch = next(iter(found))
    assert set(batch.inputs) == {"x"}
    expected = samples.modalities["y"][rows[:5]].sum(axis=(1, 2))
    np.testing.assert_allclose(batch.frozen["sum"][0].numpy(), expected, rtol=1e-6)


def test_dense_labels_are_int64_maps() -> None:
    samples, splits = make_samples(20, {"x": (1, 4, 4)}, classes=5, dense=(4, 4))
    small = dataclasses.replace(samples, labels=samples.labels.astype(np.uint8))
    rows = rows_of(splits, "valid")
    (batch,) = batches(small, rows, modalities=("x",))
    assert batch.label.dtype == torch.int64
    np.testing.assert_array_equal(batch.label.numpy(), samples.labels[rows])


HIDDEN = np.array([row not in (2, 5, 11) for row in range(18)])
"""Of the 18 training samples of `numbered_samples`, three keep their label."""


@pytest.mark.parametrize(("share", "known"), [(0.2, 1), (0.5, 2), (0.61, 3), (1.0, 5), (0.01, 1)])
def test_every_batch_has_its_share_of_samples_with_a_label(share: float, known: int) -> None:
    samples, rows = numbered_samples()
    labels = Labels(HIDDEN, -1, share)
    found = batches(samples, rows, shuffle=generator(0), labels=labels)
    assert len(found) == 4
    counts: dict[int, int] = dict.fromkeys(rows.tolist(), 0)
    for batch in found:
        assert len(batch.label) == 5
        assert (batch.label >= 0).tolist() == [True] * known + [False] * (5 - known)
        assert batch.label[:known].tolist() == samples.labels[rows_in(batch)[:known]].tolist()
        for row in rows_in(batch):
            counts[row] += 1
    # Each kind comes from whole shuffles: no sample is drawn twice more often than another.
    for kind in (HIDDEN, ~HIDDEN):
        drawn = [counts[row] for row in rows[kind]]
        assert max(drawn) - min(drawn) <= 1


def test_a_pass_with_both_kinds_continues_where_it_was_stopped() -> None:
    samples, rows = numbered_samples()
    labels = Labels(HIDDEN, -1, 0.5)
    whole = batches(samples, rows, shuffle=generator(3), labels=labels)
    state = whole.order
    first = [rows_in(batch) for batch in whole]
    second = [rows_in(batch) for batch in whole]
    assert first != second
    again = batches(samples, rows, shuffle=generator(99), labels=labels)
    again.order = state
    assert [rows_in(batch) for batch in again.start(2)] == first[2:]
    assert [rows_in(batch) for batch in again] == second


def test_without_a_share_both_kinds_are_shuffled_together() -> None:
    samples, rows = numbered_samples()
    plain = batches(samples, rows, shuffle=generator(0))
    mixed = batches(samples, rows, shuffle=generator(0), labels=Labels(HIDDEN, -1, None))
    assert order(plain) == order(mixed)
