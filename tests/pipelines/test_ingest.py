"""Invalid splits and classes, which the nodes of `ingest` reject before they read any sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.opening import open_source
from mst_distill.benchmarks.source import Protocol, SampleSource
from mst_distill.parameters import Benchmark
from mst_distill.pipelines.ingest.nodes import assign_splits, build_samples, summarise_samples
from toy_runs import make_plan, vary
from toys import make_samples


class Eight(SampleSource):
    """Eight samples, of which four are in the training split.

    Args:
        protocol: The protocol.
        split: The split of the last sample.
        group: The group of the last sample.
        labels: The class of each sample, as one letter.
        more: The number of further training samples, half of them of class a and half of class b.
    """

    classes = ("a", "b", "c")
    files = ()

    def __init__(
        self,
        protocol: Protocol,
        split: str = "test",
        group: str = "s7",
        labels: str = "abababab",
        more: int = 0,
    ) -> None:
        ids = [f"s{row}" for row in range(8 + more)]
        splits = [*["train"] * 4, "valid", "valid", "test", split, *["train"] * more]
        groups = [*ids[:7], group, *ids[8:]]
        self.index = pd.DataFrame({"id": ids, "group": groups, "split": splits})
        self.index["label"] = ["abc".index(letter) for letter in labels + "ab" * (more // 2)]

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        raise AssertionError("a sample was read")


def build(
    protocol: Protocol = "heldout", limit: Any = "all", seed: int = 0, **arguments: Any
) -> SampleSource:
    benchmark = Benchmark(type=f"{__name__}.Eight", arguments=arguments)
    return open_source(benchmark, protocol, limit, seed)


@pytest.mark.parametrize("limit", ["all", 6])
def test_valid_splits_are_accepted(limit: Any) -> None:
    assert len(build(limit=limit).index) == (8 if limit == "all" else limit)


@pytest.mark.parametrize("limit", ["all", 6])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "unknown split 'val'.*did you mean 'valid'"),
        ({"group": "s0"}, r"group 's0' is in the splits \['test', 'train'\]"),
    ],
)
def test_invalid_splits_are_an_error_whether_or_not_the_limit_drops_the_sample(
    arguments: dict[str, str], message: str, limit: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        build(limit=limit, **arguments)


def test_a_limit_that_empties_a_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="the split 'valid' is empty: raise `limit`"):
        build(limit=2)


def test_with_random_splits_a_group_may_be_in_two_splits() -> None:
    assert len(build("random", group="s0", more=32).index) == 40


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("aaaaaaaa", "'train' contains only one class, 'a'"),
        ("ababaaab", "'valid' contains only one class, 'a'"),
        ("abababbb", "'test' contains only one class, 'b'"),
        ("abababac", r"the class 'c' has no sample in 'train', but 1 in 'test'"),
        ("ababacab", r"the class 'c' has no sample in 'train', but 1 in 'valid'"),
    ],
)
def test_classes_that_cannot_be_evaluated_are_an_error_before_any_sample_is_read(
    labels: str, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^Eight \(\): .*{message}"):
        build(labels=labels)


def test_a_class_with_one_sample_is_accepted_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert len(build(labels="abcbabab").index) == 8
    samples, splits = make_samples(60)
    samples.labels[samples.labels == 2] = 0
    samples.labels[np.flatnonzero(splits["split"] == "train")[0]] = 2
    splits["label"] = samples.labels
    summary, report = summarise_samples(samples, splits)
    warning = (
        "Classes with fewer than 5 training samples, which can hardly be learned: 'class 2' (1)."
    )
    assert warning in report["warnings"]
    assert warning in caplog.messages
    assert summary.set_index("class").loc["class 2"].tolist() == [1, 0, 0, 1]


def test_a_seed_whose_training_split_lacks_a_class_is_named_in_the_error() -> None:
    """The only sample of class c is in the training split with some seeds, and not with others."""
    messages = {}
    for seed in range(12):
        try:
            build("random", seed=seed, labels="abcbabab", more=32)
        except ValueError as error:
            messages[seed] = str(error)
    assert 0 < len(messages) < 12
    for seed, message in messages.items():
        assert "the class 'c' has no sample in 'train', but 1 in" in message
        assert f"by the seed, here {seed}: the splits of another seed" in message


def test_a_limit_that_leaves_one_class_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"only one class.*\(`limit` keeps 5 of 8 samples\)"):
        build(limit=5)


def test_a_store_with_one_class_in_the_test_split_is_an_error() -> None:
    samples, _ = make_samples(60)
    test = samples.index["split"] == "test"
    samples.index.loc[test, "label"] = 1
    with pytest.raises(ValueError, match="'test' contains only one class, 'class 1'"):
        assign_splits(samples, make_plan())


def test_dense_labels_with_one_class_in_the_test_split_are_an_error() -> None:
    samples, _ = make_samples(30, {"image": (1, 4, 4)}, classes=3, dense=(4, 4), ignored=0)
    assert len(assign_splits(samples, make_plan())) == 30
    test = (samples.index["split"] == "test").to_numpy()
    samples.labels[test] = np.where(samples.labels[test] == 2, 0, samples.labels[test])
    with pytest.raises(ValueError, match="'test' contains only one class, 'class 1'"):
        assign_splits(samples, make_plan())


class Grouped(Eight):
    """The same in eight groups, which may be dealt again."""

    def __init__(self, protocol: Protocol) -> None:
        assert protocol == "heldout"
        super().__init__(protocol, more=12)


class Sharing(Grouped):
    """The same with one clip of noise in all groups."""

    shared_by_groups = "clips of noise"


def test_groups_are_dealt_again_before_anything_is_fitted() -> None:
    block = Benchmark(type=f"{__name__}.Grouped")
    own = open_source(block, "heldout", "all", 0).index
    first, second = (open_source(block, "grouped", "all", 0, fold).index for fold in ("1/5", "2/5"))
    assert first["id"].tolist() == own["id"].tolist()
    assert first["split"].tolist() != own["split"].tolist()
    assert set(first.loc[first["split"] == "valid", "id"]) == set(
        second.loc[second["split"] == "test", "id"]
    )
    seeds = [open_source(block, "grouped", "all", seed).index["split"].tolist() for seed in (0, 1)]
    assert seeds[0] != seeds[1]


def test_groups_that_share_something_cannot_be_dealt_again() -> None:
    with pytest.raises(ValueError, match=r"Sharing \(\): its groups share clips of noise, which"):
        open_source(Benchmark(type=f"{__name__}.Sharing"), "grouped", "all", 0)


def test_a_column_of_evaluate_by_is_found_before_samples_are_read() -> None:
    plan = vary(make_plan(), evaluate={"by": ("groups",)})
    plan = plan.model_copy(update={"benchmark": Benchmark(type=f"{__name__}.Grouped")})
    with pytest.raises(ValueError, match=r"column in evaluate\.by 'groups'.*did you mean 'group'"):
        build_samples(plan)


class Unlabelled(Grouped):
    """The same with a second sample of each group, which has no label."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        more = self.index.assign(id=self.index["id"] + "-more", label=-1)
        self.index = pd.concat([self.index, more[more["split"] == "train"]])


def test_samples_without_a_label_go_with_their_group_or_are_left_out() -> None:
    source = open_source(Benchmark(type=f"{__name__}.Unlabelled"), "grouped", "all", 0, "1/5")
    without = source.index[source.index["label"] == -1]
    assert 0 < len(without) < 16
    assert set(without["split"]) == {"train"}
    training = source.index[(source.index["split"] == "train") & (source.index["label"] != -1)]
    assert set(without["group"]) <= set(training["group"])
