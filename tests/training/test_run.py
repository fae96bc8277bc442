"""What a run provides to its stages: seeds, and batches in an order of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mst_distill.data.samples import rows_of
from mst_distill.parameters import Runtime, Training
from mst_distill.training.batches import Batches
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed, generator
from mst_distill.training.selection import SELECTION
from toys import make_samples

NAMES = [("member", "image"), ("member", "audio"), ("router",), ("route", "order"), ("route",), ()]


def make_run(seed: int = 0) -> Run:
    samples, splits = make_samples(30)
    return Run(samples, splits, "image", seed, Runtime(device="cpu"))


def pixels(batches: Batches) -> list[float]:
    return [value for batch in batches for value in batch.inputs["image"][:, 0, 0, 0].tolist()]


def test_a_derived_seed_is_stable() -> None:
    # The first 8 bytes of `printf 0/member/image | sha256sum`, halved.
    assert derive_seed(0, "member", "image") == 0x625E352D94BC8716 // 2


def test_every_seed_and_name_gives_another_seed() -> None:
    seeds = [derive_seed(seed, *names) for seed in range(20) for names in NAMES]
    assert len(set(seeds)) == 20 * len(NAMES)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_order_of_the_names_matters() -> None:
    assert derive_seed(0, "a", "b") != derive_seed(0, "b", "a")


def test_other_names_give_uncorrelated_numbers() -> None:
    streams = [
        torch.randn(4000, generator=generator(seed, *names)).numpy()
        for seed in (0, 1)
        for names in NAMES
    ]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    # Five standard deviations of the correlation of independent samples.
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_a_generator_does_not_change_the_global_one() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    torch.rand(3, generator=generator(5, "member"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"epoch": 3, "valid_accuracy": 0.9, "valid_ce": 0.4}, {"accuracy", "ce", "last"}),
        ({"epoch": 0, "valid_accuracy": 0.9, "valid_ce": 0.6}, {"accuracy"}),
        ({"epoch": 0, "valid_accuracy": 0.8, "valid_ce": 0.4}, {"accuracy", "ce"}),
        ({"epoch": 0, "valid_accuracy": 0.8, "valid_ce": 0.5}, set()),
        ({"epoch": 2, "valid_accuracy": 0.7, "valid_ce": 0.6}, {"last"}),
        # Accuracies that differ by rounding are a tie, which cross-entropy breaks.
        ({"epoch": 0, "valid_accuracy": 0.8 + 2e-16, "valid_ce": 0.6}, set()),
        ({"epoch": 0, "valid_accuracy": 0.8 - 2e-16, "valid_ce": 0.4}, {"accuracy", "ce"}),
    ],
)
def test_a_criterion_ranks_one_epoch_above_another(
    row: dict[str, float], expected: set[str]
) -> None:
    base = {"epoch": 1, "valid_accuracy": 0.8, "valid_ce": 0.5}
    assert {name for name, rank in SELECTION.items() if rank(row) > rank(base)} == expected


def test_the_order_of_a_stage_depends_on_its_name_and_the_seed() -> None:
    orders = {
        (seed, stage): pixels(make_run(seed).batches("train", ["image"], 4, shuffle=stage))
        for seed in (0, 1)
        for stage in ("teachers", "masks", "route")
    }
    assert len({tuple(order) for order in orders.values()}) == 6
    assert len({tuple(sorted(order)) for order in orders.values()}) == 1
    again = make_run(1).batches("train", ["image"], 4, shuffle="masks")
    assert pixels(again) == orders[1, "masks"]


def test_the_order_of_a_stage_depends_neither_on_modalities_nor_on_tables() -> None:
    # The baseline, which has neither, therefore receives the batches of the student.
    run = make_run()
    options = Training(epochs=1, batch_size=4, learning_rate=0.1)
    rows = rows_of(run.splits, "train")
    tables = {"specialists": torch.from_numpy(rows)}
    plain, _ = run.train_and_valid("route", options, ["image"])
    rich = run.batches("train", ["image", "audio"], 4, shuffle="route", tables=tables)
    assert pixels(plain) == pixels(rich)


def test_training_batches_are_shuffled_and_validation_batches_are_not() -> None:
    run = make_run()
    options = Training(epochs=1, batch_size=4, learning_rate=0.1)
    train, valid = run.train_and_valid("masks", options, ["image"])
    assert [len(batch.label) for batch in train] == [4, 4, 4, 4, 2]
    for split, batches in (("train", train), ("valid", valid)):
        rows = rows_of(run.splits, split)
        in_order = run.samples.modalities["image"][rows][:, 0, 0, 0].tolist()
        found = [one for batch in batches for one in batch.inputs["image"][:, 0, 0, 0].tolist()]
        assert sorted(found) == sorted(in_order)
        assert (found == in_order) == (split == "valid")


def test_the_splits_do_not_overlap() -> None:
    run = make_run()
    splits = [pixels(run.batches(split, ["image"], 8)) for split in ("train", "valid", "test")]
    assert [len(split) for split in splits] == [18, 6, 6]
    assert len({value for split in splits for value in split}) == 30


def test_random_layers_have_a_seed_for_each_stage() -> None:
    draws = {}
    for seed in (0, 1):
        for stage in ("teachers", "route", "teachers"):
            make_run(seed).seed_noise(stage)
            drawn = tuple(torch.rand(4).tolist())
            assert draws.setdefault((seed, stage), drawn) == drawn
    assert len(set(draws.values())) == 4


def test_modalities_have_the_order_of_the_store() -> None:
    run = make_run()
    assert run.modalities == ("image", "audio")
    assert run.device == torch.device("cpu")
