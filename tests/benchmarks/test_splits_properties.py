"""Property tests of splits and pairs for arbitrary labels, groups, seeds and limits."""

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

many_examples = settings(deadline=None, max_examples=60)
few_examples = settings(many_examples, max_examples=30)

seeds = st.integers(0, 2**32 - 1)
labels = st.lists(st.integers(0, 4), max_size=60).map(lambda values: np.array(values, int))


@st.composite
def indices(draw: st.DrawFn, groups_intact: bool = True) -> pd.DataFrame:
    """Draw an index; a group is in one split, or in any if `groups_intact` is False."""
    row = st.tuples(st.integers(0, 4), st.integers(0, 9))
    rows = draw(st.lists(row, max_size=60))
    index = pd.DataFrame(rows, columns=["label", "group"])
    if groups_intact:
        split_of = draw(st.lists(st.sampled_from(SPLITS), min_size=10, max_size=10))
        index["split"] = [split_of[group] for group in index["group"]]
    else:
        splits = st.lists(st.sampled_from(SPLITS), min_size=len(rows), max_size=len(rows))
        index["split"] = draw(splits)
    index["group"] = [f"g{group}" for group in index["group"]]
    index.insert(0, "id", [f"s{row}" for row in range(len(index))])
    return index.astype({"group": object, "split": object, "id": object, "label": int})


def in_one_split(index: pd.DataFrame, column: str) -> bool:
    return len(index[[column, "split"]].drop_duplicates()) == index[column].nunique()


@many_examples
@given(labels, seeds)
def test_each_sample_has_one_split_and_each_class_is_split_in_the_shares(
    labels: np.ndarray, seed: int
) -> None:
    split, again = (stratified_split(labels, np.random.default_rng(seed)) for _ in range(2))
    assert set(split) <= set(SPLITS)
    assert (split == again).all()
    for label in np.unique(labels):
        count = (labels == label).sum()
        for name, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
            assert abs(((labels == label) & (split == name)).sum() - share * count) <= 1


@many_examples
@given(st.integers(0, 60), seeds, st.data())
def test_groups_are_assigned_to_all_splits(count: int, seed: int, data: st.DataObject) -> None:
    values = st.lists(st.integers(0, 2), min_size=count, max_size=count).map(np.array)
    kinds = data.draw(st.none() | values)
    if count < 3:
        with pytest.raises(ValueError, match=f"{count} actors: at least 3"):
            deal_groups(count, "actors", np.random.default_rng(seed), kinds)
        return
    split, again = (
        deal_groups(count, "actors", np.random.default_rng(seed), kinds) for _ in range(2)
    )
    assert (split == again).all()
    assert len(split) == count
    assert set(split) == set(SPLITS)


@many_examples
@given(indices(), seeds, seeds)
def test_heldout_keeps_the_official_splits(index: pd.DataFrame, seed: int, other: int) -> None:
    before = index.copy()
    splits = assign_splits(index, "heldout", seed)
    pd.testing.assert_frame_equal(splits, before[["id", "group", "label", "split"]])
    pd.testing.assert_frame_equal(splits, assign_splits(index, "heldout", other))
    assert in_one_split(splits, "group")


@many_examples
@given(indices(groups_intact=False))
def test_heldout_accepts_an_index_if_and_only_if_each_group_is_in_one_split(
    index: pd.DataFrame,
) -> None:
    if in_one_split(index, "group"):
        assert len(assign_splits(index, "heldout", 0)) == len(index)
    else:
        with pytest.raises(ValueError, match=r"group 'g\d' is in the splits"):
            assign_splits(index, "heldout", 0)


@many_examples
@given(indices(groups_intact=False), seeds)
def test_random_assigns_samples_by_the_seed_only(index: pd.DataFrame, seed: int) -> None:
    before = index.copy()
    splits, again = (assign_splits(index, "random", seed) for _ in range(2))
    pd.testing.assert_frame_equal(splits, again)
    pd.testing.assert_frame_equal(index, before)
    columns = ["id", "group", "label"]
    pd.testing.assert_frame_equal(splits[columns], index[columns])
    # The splits depend on the number of samples and the seed, and not on labels and groups.
    others = assign_splits(index.assign(label=0, group="g", split="test"), "random", seed)
    assert splits["split"].tolist() == others["split"].tolist()
    for name, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        assert abs((splits["split"] == name).sum() - share * len(index)) <= 1


@many_examples
@given(indices(groups_intact=False), st.integers(1, 70))
def test_a_limit_keeps_that_many_samples_and_some_of_each_split_and_class(
    index: pd.DataFrame, limit: int
) -> None:
    limited = stratified_limit(index, limit)
    assert len(limited) == min(limit, len(index))
    rows = index.set_index("id").loc[limited["id"]]
    pd.testing.assert_frame_equal(limited.set_index("id"), rows)
    assert limited["id"].str[1:].astype(int).is_monotonic_increasing
    assert limited["id"].is_unique
    before, after = (table.groupby(["split", "label"]).size() for table in (index, limited))
    assert len(after) == min(len(before), len(limited))
    pd.testing.assert_frame_equal(limited, stratified_limit(index, limit))


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Draw a table with few classes and few samples; many of these tables are invalid."""
    labels = st.just(-1) if draw(st.integers(0, 4)) == 0 else st.integers(0, 2)
    rows = draw(st.lists(st.tuples(st.sampled_from([*SPLITS * 8, "val"]), labels), max_size=24))
    table = pd.DataFrame(rows, columns=["split", "label"]).astype({"label": int})
    ids = list(range(len(rows)))
    if ids and draw(st.integers(0, 4)) == 0:
        ids[-1] = 0
    return table.assign(id=ids, group="g")


PAIRS = pd.DataFrame({"id": range(6), "split": [*SPLITS * 2], "label": [0, 0, 0, 1, 1, 1]})


@many_examples
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
def test_a_table_of_splits_passes_if_and_only_if_it_is_valid(table: pd.DataFrame) -> None:
    train, valid, test = (set(table.loc[table["split"] == split, "label"]) for split in SPLITS)
    dense = set(table["label"]) <= {-1}
    rules = {
        "unknown split": set(table["split"]) <= set(SPLITS),
        "times, in the splits": table["id"].is_unique,
        "is empty": set(SPLITS) <= set(table["split"]),
        "at least two classes": dense or min(len(train), len(valid), len(test)) > 1,
        "no sample in 'train'": dense or valid | test <= train,
    }
    violated = [message for message, satisfied in rules.items() if not satisfied]
    if not violated:
        check_splits(table)
    else:
        with pytest.raises(ValueError, match="|".join(violated)):
            check_splits(table)


@many_examples
@given(labels, labels, seeds)
def test_digits_are_split_before_they_are_paired(
    images: np.ndarray, recordings: np.ndarray, seed: int
) -> None:
    pairs, again = (pair_digits(images, recordings, np.random.default_rng(seed)) for _ in range(2))
    pd.testing.assert_frame_equal(pairs, again)
    assert (images[pairs["image"].to_numpy(int)] == pairs["label"]).all()
    assert (recordings[pairs["recording"].to_numpy(int)] == pairs["label"]).all()
    for column in ("image", "recording", "id", "group"):
        assert pairs[column].is_unique, column
    # For each split and digit there are as many pairs as images or recordings, whichever are fewer.
    rng = np.random.default_rng(seed)
    modalities = [(digits, stratified_split(digits, rng)) for digits in (images, recordings)]
    for name in SPLITS:
        for digit in range(10):
            count = min(
                int(((digits == digit) & (split == name)).sum()) for digits, split in modalities
            )
            assert ((pairs["split"] == name) & (pairs["label"] == digit)).sum() == count


@st.composite
def avmnist_files(draw: st.DrawFn) -> tuple[Mnist, Recordings, np.ndarray]:
    """Draw images, recordings with each digit by each speaker, and numbers of noise offsets."""
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


@few_examples
@given(avmnist_files(), seeds)
def test_avmnist_shares_no_image_speaker_recording_or_noise_between_splits(
    raw: tuple[Mnist, Recordings, np.ndarray], seed: int
) -> None:
    mnist, recordings, offsets = raw
    pairs, again = (pair_avmnist(*raw, np.random.default_rng(seed)) for _ in range(2))
    pd.testing.assert_frame_equal(pairs, again)
    assert pairs["image"].tolist() == list(range(len(mnist.labels)))
    assert (pairs["label"] == mnist.labels).all()
    assert (recordings.digits[pairs["recording"]] == mnist.labels).all()
    assert (recordings.speakers[pairs["recording"]] == pairs["group"]).all()
    for column in ("group", "recording", "noise", "image"):
        assert in_one_split(pairs, column), column
    assert ((pairs["split"] == "test") == (pairs["image"] >= mnist.train_count)).all()
    assert (pairs["offset"] < offsets[pairs["noise"]]).all()
    assert pairs["offset"].min() >= 0


clips = st.sets(
    st.builds("01-{:02d}-01-01-0{}-{:02d}".format, st.integers(1, 8), st.integers(1, 2),
              st.integers(1, 24)),
    max_size=40,
)  # fmt: skip


@many_examples
@given(clips, clips)
def test_a_clip_is_a_sample_or_omitted_with_the_missing_modality(
    audio: set[str], video: set[str]
) -> None:
    where = {"audio": Path("audio"), "video": Path("video")}
    complete, omitted = pair_clips({"audio": audio, "video": video}, where)
    assert complete == sorted(audio & video)
    assert set(omitted) == audio ^ video
    for clip, reason in omitted.items():
        missing = "video" if clip in audio else "audio"
        assert reason == f"{missing} contains no {missing} of this clip"


@many_examples
@given(clips, seeds)
def test_an_actor_is_in_one_split_and_each_split_has_an_actor(clips: set[str], seed: int) -> None:
    assume(len({clip[-2:] for clip in clips}) >= 3)
    index, again = (index_clips(sorted(clips), seed) for _ in range(2))
    pd.testing.assert_frame_equal(index, again)
    assert index["id"].tolist() == sorted(clips)
    assert in_one_split(index, "group")
    assert set(index["split"]) == set(SPLITS)
    assert index["id"].is_unique
    assert [f"{label + 1:02d}" for label in index["label"]] == index["id"].str[3:5].tolist()


class Rooms(NYUDepthV2):
    """Has an index, and raises an error when it is read."""

    files = ()

    def frame(self, number: int) -> Any:
        raise AssertionError("an image was read")

    def locations(self, number: int) -> Any:
        raise AssertionError("an image was read")


@many_examples
@given(
    st.dictionaries(st.integers(1, 40), st.tuples(st.booleans(), st.booleans()), min_size=1), seeds
)
def test_a_room_is_in_one_split_and_the_test_split_is_the_publisher_s(
    images: dict[int, tuple[bool, bool]], seed: int
) -> None:
    """Consecutive training or test images show one room, even if some of them are missing.

    For each number, `images` states whether the image is for training and whether it is available.
    """

    def room(number: int) -> int:
        previous = images.get(number - 1)
        return room(number - 1) if previous and previous[0] == images[number][0] else number

    numbers = np.array(sorted(images))
    train, available = (np.array([images[n][field] for n in sorted(images)]) for field in (0, 1))
    if len({room(n) for n in images if images[n] == (True, True)}) < 2:
        with pytest.raises(ValueError, match="at least 2 are needed"):
            Rooms(numbers, train, available, (32, 32), seed, 0.0)
        return
    index, again = (Rooms(numbers, train, available, (32, 32), seed, 0.0).index for _ in range(2))
    pd.testing.assert_frame_equal(index, again)
    assert index["number"].tolist() == numbers[available].tolist()
    assert index["group"].tolist() == [f"from-{room(n):04d}" for n in index["number"]]
    assert ((index["split"] == "test") == ~train[available]).all()
    assert in_one_split(index, "group")
    assert {"train", "valid"} <= set(index["split"])
