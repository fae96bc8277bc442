"""What `build_samples` refuses before a sample is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.source import Protocol, SampleSource
from mst_distill.parameters import Benchmark
from mst_distill.pipelines.ingest.nodes import assign_splits, build_samples, summarise_samples
from toys import make_samples


class Eight(SampleSource):
    """Eight samples, four to train with; `split` and `group` say otherwise of the last one.

    `labels` has the class of each, and `more` samples of both classes follow to train with.
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
        self.index["label"] = ["abc".index(of) for of in labels + "ab" * (more // 2)]

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        raise AssertionError("something was read")


def build(
    protocol: Protocol = "heldout", limit: Any = "all", seed: int = 0, **arguments: Any
) -> SampleSource:
    benchmark = Benchmark(type=f"{__name__}.Eight", arguments=arguments)
    return build_samples(benchmark, protocol, limit, seed)


@pytest.mark.parametrize("limit", ["all", 6])
def test_good_splits_pass(limit: Any) -> None:
    assert len(build(limit=limit).index) == (8 if limit == "all" else limit)


@pytest.mark.parametrize("limit", ["all", 6])
@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"split": "val"}, "unknown split 'val'.*did you mean 'valid'"),
        ({"group": "s0"}, r"group 's0' stands in the splits \['test', 'train'\]"),
    ],
)
def test_splits_are_refused_whatever_the_limit_leaves(
    arguments: dict[str, str], rule: str, limit: Any
) -> None:
    with pytest.raises(ValueError, match=rule):
        build(limit=limit, **arguments)


def test_a_limit_that_empties_a_split_is_refused() -> None:
    with pytest.raises(ValueError, match="the split 'valid' is empty: raise `limit`"):
        build(limit=2)


def test_under_random_groups_may_stand_in_two_splits() -> None:
    assert len(build("random", group="s0", more=32).index) == 40


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        ("aaaaaaaa", "'train' holds one class alone, 'a'"),
        ("ababaaab", "'valid' holds one class alone, 'a'"),
        ("abababbb", "'test' holds one class alone, 'b'"),
        ("abababac", r"the class 'c' has no sample in 'train' and 1 in 'test'"),
        ("ababacab", r"the class 'c' has no sample in 'train' and 1 in 'valid'"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_read(labels: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"^Eight \(\): .*{rule}"):
        build(labels=labels)


def test_a_class_of_one_sample_is_read_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert len(build(labels="abcbabab").index) == 8
    samples, splits = make_samples(60)
    samples.labels[samples.labels == 2] = 0
    samples.labels[np.flatnonzero(splits["split"] == "train")[0]] = 2
    splits["label"] = samples.labels
    summary, report = summarise_samples(samples, splits)
    told = "Classes with fewer than 5 training samples, which can hardly be learned: 'class 2' (1)."
    assert told in report["warnings"]
    assert told in caplog.messages
    assert summary.set_index("class").loc["class 2"].tolist() == [1, 0, 0, 1]


def test_a_seed_that_deals_a_class_out_of_train_is_named() -> None:
    """One sample of a third class: in some seeds it trains, and in others it does not."""
    cannot = {}
    for seed in range(12):
        try:
            build("random", seed=seed, labels="abcbabab", more=32)
        except ValueError as error:
            cannot[seed] = str(error)
    assert 0 < len(cannot) < 12
    for seed, message in cannot.items():
        assert "the class 'c' has no sample in 'train' and 1 in" in message
        assert f"by the seed, here {seed}: another seed may" in message


def test_a_limit_that_leaves_one_class_is_named() -> None:
    with pytest.raises(ValueError, match=r"one class alone.*\(`limit` keeps 5 of 8 samples\)"):
        build(limit=5)


def test_splits_of_a_store_are_refused_by_what_was_read() -> None:
    samples, _ = make_samples(60)
    test = samples.index["split"] == "test"
    samples.index.loc[test, "label"] = 1
    with pytest.raises(ValueError, match="'test' holds one class alone, 'class 1'"):
        assign_splits(samples, "heldout", 0)


def test_pixels_of_one_class_are_refused_where_splits_are_assigned() -> None:
    samples, _ = make_samples(30, {"image": (1, 4, 4)}, classes=3, dense=(4, 4), ignored=0)
    assert len(assign_splits(samples, "heldout", 0)) == 30
    test = (samples.index["split"] == "test").to_numpy()
    samples.labels[test] = np.where(samples.labels[test] == 2, 0, samples.labels[test])
    with pytest.raises(ValueError, match="'test' holds one class alone, 'class 1'"):
        assign_splits(samples, "heldout", 0)
