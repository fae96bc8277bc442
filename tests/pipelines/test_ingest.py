"""What `build_samples` refuses before a sample is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.source import Protocol, SampleSource
from mst_distill.parameters import Benchmark
from mst_distill.pipelines.ingest.nodes import build_samples


class Eight(SampleSource):
    """Eight samples, four to train with; `split` and `group` say otherwise of the last one."""

    classes = ("a", "b")
    files = ()

    def __init__(self, protocol: Protocol, split: str = "test", group: str = "s7") -> None:
        ids = [f"s{row}" for row in range(8)]
        splits = [*["train"] * 4, "valid", "valid", "test", split]
        self.index = pd.DataFrame({"id": ids, "group": [*ids[:7], group], "split": splits})
        self.index["label"] = np.arange(8) % 2

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        raise AssertionError("something was read")


def build(protocol: Protocol = "heldout", limit: Any = "all", **arguments: Any) -> SampleSource:
    return build_samples(Benchmark(type=f"{__name__}.Eight", arguments=arguments), protocol, limit)


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
    assert len(build("random", group="s0").index) == 8
