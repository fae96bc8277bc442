"""What holds of splits and pairs whatever the labels, groups, seeds and limits are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mst_distill.benchmarks.avmnist import _pair as pair_avmnist
from mst_distill.benchmarks.avmnist_files import Mnist, Recordings
from mst_distill.benchmarks.digits import _pair as pair_digits
from mst_distill.benchmarks.nyudepthv2 import NYUDepthV2
from mst_distill.benchmarks.ravdess import index_clips, pair_clips
from mst_distill.benchmarks.splits import (
    assign_splits,
    check_splits,
    deal_groups,
    stratified_limit,
    stratified_split,
)
from mst_distill.data.samples import SPLITS

often = settings(deadline=None, max_examples=60)
seldom = settings(often, max_examples=30)

seeds = st.integers(0, 2**32 - 1)
labels = st.lists(st.integers(0, 4), max_size=60).map(lambda of: np.array(of, int))


@st.composite
def indices(draw: st.DrawFn, groups_hold: bool = True) -> pd.DataFrame:
    """Any index; a group has one split, unless `groups_hold` is False: then it may have several."""
    row = st.tuples(st.integers(0, 4), st.integers(0, 9))
    rows = draw(st.lists(row, max_size=60))
    index = pd.DataFrame(rows, columns=["label", "group"])
    if groups_hold:
        of_group = draw(st.lists(st.sampled_from(SPLITS), min_size=10, max_size=10))
        index["split"] = [of_group[group] for group in index["group"]]
    else:
        some = st.lists(st.sampled_from(SPLITS), min_size=len(rows), max_size=len(rows))
        index["split"] = draw(some)
    index["group"] = [f"g{group}" for group in index["group"]]
    index.insert(0, "id", [f"s{row}" for row in range(len(index))])
    return index.astype({"group": object, "split": object, "id": object, "label": int})


def in_one_split(index: pd.DataFrame, column: str) -> bool:
    return len(index[[column, "split"]].drop_duplicates()) == index[column].nunique()


@often
@given(labels, seeds)
def test_every_sample_is_dealt_once_and_every_class_in_the_shares(
    of: np.ndarray, seed: int
) -> None:
    one, same = (stratified_split(of, np.random.default_rng(seed)) for _ in range(2))
    assert set(one) <= set(SPLITS)
    assert (one == same).all()
    for label in np.unique(of):
        count = (of == label).sum()
        for name, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
            assert abs(((of == label) & (one == name)).sum() - share * count) <= 1


@often
@given(st.integers(0, 60), seeds, st.data())
def test_groups_are_dealt_whole_to_all_splits(count: int, seed: int, data: st.DataObject) -> None:
    kind = st.none() | st.lists(st.integers(0, 2), min_size=count, max_size=count).map(np.array)
    kinds = data.draw(kind)
    if count < 3:
        with pytest.raises(ValueError, match=f"{count} actors: at least 3"):
            deal_groups(count, "actors", np.random.default_rng(seed), kinds)
        return
    one, same = (deal_groups(count, "actors", np.random.default_rng(seed), kinds) for _ in range(2))
    assert (one == same).all()
    assert len(one) == count
    assert set(one) == set(SPLITS)


@often
@given(indices(), seeds, seeds)
def test_heldout_keeps_the_official_splits(index: pd.DataFrame, seed: int, other: int) -> None:
    before = index.copy()
    splits = assign_splits(index, "heldout", seed)
    pd.testing.assert_frame_equal(splits, before[["id", "group", "label", "split"]])
    pd.testing.assert_frame_equal(splits, assign_splits(index, "heldout", other))
    assert in_one_split(splits, "group")


@often
@given(indices(groups_hold=False))
def test_heldout_takes_an_index_exactly_if_no_group_is_torn(index: pd.DataFrame) -> None:
    if in_one_split(index, "group"):
        assert len(assign_splits(index, "heldout", 0)) == len(index)
    else:
        with pytest.raises(ValueError, match=r"group 'g\d' stands in the splits"):
            assign_splits(index, "heldout", 0)


@often
@given(indices(groups_hold=False), seeds)
def test_random_deals_every_sample_once_by_the_seed_alone(index: pd.DataFrame, seed: int) -> None:
    before = index.copy()
    one, same = (assign_splits(index, "random", seed) for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    pd.testing.assert_frame_equal(index, before)
    columns = ["id", "group", "label"]
    pd.testing.assert_frame_equal(one[columns], index[columns])
    # Who is where hangs on the number of samples and the seed, not on what they are.
    elsewhere = assign_splits(index.assign(label=0, group="g", split="test"), "random", seed)
    assert one["split"].tolist() == elsewhere["split"].tolist()
    for name, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        assert abs((one["split"] == name).sum() - share * len(index)) <= 1


@often
@given(indices(groups_hold=False), st.integers(1, 70))
def test_a_limit_keeps_so_many_and_of_every_split_and_class(
    index: pd.DataFrame, limit: int
) -> None:
    kept = stratified_limit(index, limit)
    assert len(kept) == min(limit, len(index))
    rows = index.set_index("id").loc[kept["id"]]
    pd.testing.assert_frame_equal(kept.set_index("id"), rows)
    assert kept["id"].str[1:].astype(int).is_monotonic_increasing
    assert kept["id"].is_unique
    cells, left = (of.groupby(["split", "label"]).size() for of in (index, kept))
    assert len(left) == min(len(cells), len(kept))
    pd.testing.assert_frame_equal(kept, stratified_limit(index, limit))


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Few classes and few of their samples, so that many tables lack something and many do not."""
    labels = st.just(-1) if draw(st.integers(0, 4)) == 0 else st.integers(0, 2)
    rows = draw(st.lists(st.tuples(st.sampled_from([*SPLITS * 8, "val"]), labels), max_size=24))
    table = pd.DataFrame(rows, columns=["split", "label"]).astype({"label": int})
    ids = list(range(len(rows)))
    if ids and draw(st.integers(0, 4)) == 0:
        ids[-1] = 0
    return table.assign(id=ids, group="g")


PAIRS = pd.DataFrame({"id": range(6), "split": [*SPLITS * 2], "label": [0, 0, 0, 1, 1, 1]})


@often
@given(tables())
@example(PAIRS)
@example(PAIRS.assign(label=-1))
@example(PAIRS.assign(id=[0, 1, 2, 3, 4, 0]))
@example(PAIRS.assign(id=[0, 1, 2, 0, 4, 5]))
@example(PAIRS.assign(label=[0, 0, 0, 0, 1, 1]))
@example(PAIRS.assign(label=[0, 0, 0, 1, 1, 0]))
@example(PAIRS.assign(label=[0, 0, 0, 1, 1, 2]))
@example(PAIRS.assign(label=[0, 0, 0, 1, 2, 1]))
@example(PAIRS.assign(label=[0, 1, 1, 2, 2, 2]))
def test_a_table_of_splits_passes_exactly_if_it_keeps_the_rules(table: pd.DataFrame) -> None:
    train, valid, test = (set(table.loc[table["split"] == split, "label"]) for split in SPLITS)
    dense = set(table["label"]) <= {-1}
    rules = {
        "unknown split": set(table["split"]) <= set(SPLITS),
        "times, in the splits": table["id"].is_unique,
        "is empty": set(SPLITS) <= set(table["split"]),
        "at least two classes": dense or min(len(train), len(valid), len(test)) > 1,
        "no sample in 'train'": dense or valid | test <= train,
    }
    broken = [message for message, holds in rules.items() if not holds]
    if not broken:
        check_splits(table)
    else:
        with pytest.raises(ValueError, match="|".join(broken)):
            check_splits(table)


@often
@given(labels, labels, seeds)
def test_digits_are_split_before_they_are_paired(
    images: np.ndarray, recordings: np.ndarray, seed: int
) -> None:
    one, same = (pair_digits(images, recordings, np.random.default_rng(seed)) for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    assert (images[one["image"].to_numpy(int)] == one["label"]).all()
    assert (recordings[one["recording"].to_numpy(int)] == one["label"]).all()
    for column in ("image", "recording", "id", "group"):
        assert one[column].is_unique, column
    # As many pairs as the scarcer half of every cell allows: nothing is wasted.
    rng = np.random.default_rng(seed)
    halves = [(of, stratified_split(of, rng)) for of in (images, recordings)]
    for split in SPLITS:
        for digit in range(10):
            wanted = min(int(((of == digit) & (where == split)).sum()) for of, where in halves)
            assert ((one["split"] == split) & (one["label"] == digit)).sum() == wanted


@st.composite
def handwriting_and_speech(draw: st.DrawFn) -> tuple[Mnist, Recordings, np.ndarray]:
    """Images of any digits; speakers who say each digit at least once; where noise may start."""
    digits = draw(st.lists(st.integers(0, 9), min_size=1, max_size=50))
    speakers = draw(st.integers(3, 6))
    takes = draw(st.lists(st.integers(1, 2), min_size=speakers, max_size=speakers))
    spoken = [
        (digit, speaker) for speaker in range(speakers) for digit in range(10)
        for _ in range(takes[speaker])
    ]  # fmt: skip
    order = draw(st.permutations(range(len(spoken))))
    files = [Path(f"{spoken[row][0]}_{spoken[row][1]}_{row}.wav") for row in order]
    recordings = Recordings(
        files,
        [],
        np.array([spoken[row][0] for row in order]),
        np.array([f"speaker {spoken[row][1]}" for row in order]),
    )
    offsets = draw(st.lists(st.integers(1, 9), min_size=3, max_size=12).map(np.array))
    train = draw(st.integers(0, len(digits)))
    return Mnist([], np.empty(0), np.array(digits), train), recordings, offsets


@seldom
@given(handwriting_and_speech(), seeds)
def test_avmnist_shares_no_image_speaker_recording_or_noise_between_splits(
    raw: tuple[Mnist, Recordings, np.ndarray], seed: int
) -> None:
    written, spoken, offsets = raw
    one, same = (pair_avmnist(*raw, np.random.default_rng(seed)) for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    assert one["image"].tolist() == list(range(len(written.labels)))
    assert (one["label"] == written.labels).all()
    assert (spoken.digits[one["recording"]] == written.labels).all()
    assert (spoken.speakers[one["recording"]] == one["group"]).all()
    for column in ("group", "recording", "noise", "image"):
        assert in_one_split(one, column), column
    assert ((one["split"] == "test") == (one["image"] >= written.train_count)).all()
    assert (one["offset"] < offsets[one["noise"]]).all()
    assert one["offset"].min() >= 0


clips = st.sets(
    st.builds("01-{:02d}-01-01-0{}-{:02d}".format, st.integers(1, 8), st.integers(1, 2),
              st.integers(1, 24)),
    max_size=40,
)  # fmt: skip


@often
@given(clips, clips)
def test_a_clip_is_a_sample_or_told_to_lack_something(heard: set[str], seen: set[str]) -> None:
    where = {"audio": Path("audio"), "video": Path("video")}
    both, omitted = pair_clips({"audio": heard, "video": seen}, where)
    assert both == sorted(heard & seen)
    assert set(omitted) == heard ^ seen
    for clip, reason in omitted.items():
        lacks = "video" if clip in heard else "audio"
        assert reason == f"{lacks} holds no {lacks} of this clip"


@often
@given(clips, seeds)
def test_an_actor_is_in_one_split_and_every_split_has_one(of: set[str], seed: int) -> None:
    assume(len({clip[-2:] for clip in of}) >= 3)
    one, same = (index_clips(sorted(of), seed) for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    assert one["id"].tolist() == sorted(of)
    assert in_one_split(one, "group")
    assert set(one["split"]) == set(SPLITS)
    assert one["id"].is_unique
    assert [f"{label + 1:02d}" for label in one["label"]] == one["id"].str[3:5].tolist()


class Rooms(NYUDepthV2):
    """An index alone."""

    files = ()

    def frame(self, number: int) -> Any:
        raise AssertionError("something was read")

    def places(self, number: int) -> Any:
        raise AssertionError("something was read")


@often
@given(
    st.dictionaries(st.integers(1, 40), st.tuples(st.booleans(), st.booleans()), min_size=1), seeds
)
def test_a_room_is_in_one_split_and_what_tests_is_the_publisher_s(
    images: dict[int, tuple[bool, bool]], seed: int
) -> None:
    """Neighbours of one kind show one room, whether or not all are there."""

    def room(number: int) -> int:
        before = images.get(number - 1)
        return room(number - 1) if before and before[0] == images[number][0] else number

    numbers = np.array(sorted(images))
    train, there = (np.array([images[n][of] for n in sorted(images)]) for of in (0, 1))
    if len({room(n) for n in images if images[n] == (True, True)}) < 2:
        with pytest.raises(ValueError, match="at least 2 are needed"):
            Rooms(numbers, train, there, (32, 32), seed, 0.0)
        return
    one, same = (Rooms(numbers, train, there, (32, 32), seed, 0.0).index for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    assert one["number"].tolist() == numbers[there].tolist()
    assert one["group"].tolist() == [f"from-{room(n):04d}" for n in one["number"]]
    assert ((one["split"] == "test") == ~train[there]).all()
    assert in_one_split(one, "group")
    assert {"train", "valid"} <= set(one["split"])
