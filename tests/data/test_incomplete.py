"""Samples without a modality in the store, in its summary and in its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from array_sources import NotedSource, build_until_stop, digest_of_store, make_source
from mst_distill.data.gallery import gallery
from mst_distill.data.samples import ABSENT
from mst_distill.data.store import open_store, write_store
from mst_distill.data.summary import describe, evaluated_samples
from mst_distill.report.worst_samples import worst_samples

LACKING = ["audio", "", "image", "", "audio", "", ""]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    file = tmp_path / "raw.bin"
    file.write_bytes(b"raw")
    return file


def incomplete(raw: Path, absent=LACKING, **settings):
    """A source of seven samples whose `read` returns no absent modality."""
    base = settings.pop("kind", None)
    source = make_source(raw, **({"kind": base} if base else {}), **settings)
    source.index[ABSENT] = absent
    whole = source.read

    def read(part: pd.DataFrame) -> dict[str, np.ndarray]:
        (lacking,) = part[ABSENT].unique()  # all samples of a call are alike
        return {name: of for name, of in whole(part).items() if name not in lacking.split()}

    source.read = read
    return source


def test_the_store_marks_what_is_absent(raw, tmp_path):
    source = incomplete(raw)
    write_store(source, tmp_path / "samples")
    samples = open_store(tmp_path / "samples")
    for name, array in samples.modalities.items():
        lacks = np.array([name in absent for absent in LACKING])
        assert np.isnan(array[lacks]).all()
        np.testing.assert_array_equal(array[~lacks], source.arrays[name][~lacks])
        np.testing.assert_array_equal(samples.have([name]), ~lacks)
    assert samples.have(["image", "audio"]).tolist() == [absent == "" for absent in LACKING]
    assert set(samples.present) == {"image", "audio"}


def test_complete_samples_have_no_mark(raw, tmp_path):
    write_store(make_source(raw), tmp_path / "samples")
    samples = open_store(tmp_path / "samples")
    assert samples.present == {}
    assert samples.have(["image", "audio"]).all()


def test_integers_are_0_where_they_are_absent(raw, tmp_path):
    source = incomplete(raw)
    source.arrays["audio"] = np.arange(1, 22).reshape(7, 3)
    write_store(source, tmp_path / "samples")
    array = open_store(tmp_path / "samples").modalities["audio"]
    assert array.dtype == np.int64
    assert array[0].tolist() == [0, 0, 0]
    assert array[1].tolist() == [4, 5, 6]


def test_notes_of_absent_modalities_are_missing(raw, tmp_path):
    source = incomplete(raw, kind=NotedSource)
    noted = source.read

    def read(part):
        found = noted(part)
        if "audio" not in found:
            del found["seconds"]
        return found

    source.read = read
    write_store(source, tmp_path / "samples")
    samples = open_store(tmp_path / "samples")
    assert samples.index["seconds"].isna().tolist() == ["audio" in a for a in LACKING]
    report = describe(samples, samples.index)
    assert report["notes"]["seconds"]["samples_not_0"] == 5


def test_the_digest_depends_on_what_is_absent(raw, tmp_path):
    digests = {
        digest_of_store(incomplete(raw, absent), tmp_path / str(number))
        for number, absent in enumerate([LACKING, ["audio", *[""] * 6], [""] * 7])
    }
    assert len(digests) == 3


@pytest.mark.parametrize("stop_at", [2, 3, 4])
def test_a_build_that_was_stopped_is_continued(raw, tmp_path, stop_at):
    from array_sources import StoppableSource

    whole = digest_of_store(incomplete(raw), tmp_path / "whole")
    build_until_stop(incomplete(raw, kind=StoppableSource), tmp_path / "samples", stop_at)
    assert digest_of_store(incomplete(raw, kind=StoppableSource), tmp_path / "samples") == whole


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        (["audio"] * 7, "no sample of .* has the modality 'audio'"),
        (
            ["audio", "image"] * 3 + ["image"],
            "no sample of .* that has all modalities can be read",
        ),
        (["audio image", *[""] * 6], "sample 's0' of .* lacks all modalities: leave it out"),
        (["adio", *[""] * 6], "sample 's0' of .*: unknown modality .*'adio'.*'audio'"),
        (
            [None, *[""] * 6],
            "sample 's0' of .* has (None|nan) in the column 'absent'; it must be a text",
        ),
    ],
)
def test_absence_that_cannot_be_used_is_an_error(raw, tmp_path, absent, message):
    source = incomplete(raw, absent)
    source.modalities = ("image", "audio")
    with pytest.raises(ValueError, match=message):
        write_store(source, tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


def test_a_value_that_is_not_absent_must_be_finite(raw, tmp_path):
    source = incomplete(raw)
    source.arrays["audio"][3, 1] = np.nan
    with pytest.raises(ValueError, match="modality 'audio' of sample 's3' holds NaN"):
        write_store(source, tmp_path / "samples")


def test_a_modality_that_is_equal_wherever_it_is_present_is_an_error(raw, tmp_path):
    source = incomplete(raw)
    source.arrays["audio"][:] = 1
    with pytest.raises(ValueError, match="modality 'audio' is the same in all 5 samples"):
        write_store(source, tmp_path / "samples")


def test_the_summary_shows_the_combinations(raw, tmp_path):
    source = incomplete(raw)
    write_store(source, tmp_path / "samples")
    samples = open_store(tmp_path / "samples")
    splits = samples.index[["id", "group", "label", "split"]]
    report = json.loads(json.dumps(describe(samples, splits)))
    assert report["combinations"] == {
        "audio": {"train": 0, "valid": 1, "test": 0},
        "image": {"train": 2, "valid": 0, "test": 0},
        "image + audio": {"train": 2, "valid": 1, "test": 1},
    }
    values = source.arrays["audio"][[1, 2, 3, 5, 6]]
    assert report["modalities"]["audio"]["mean"] == pytest.approx(float(values.mean()), rel=1e-5)
    assert "combinations" not in describe_complete(raw, tmp_path)


def describe_complete(raw: Path, tmp_path: Path) -> dict:
    write_store(make_source(raw), tmp_path / "complete")
    samples = open_store(tmp_path / "complete")
    return describe(samples, samples.index)


def test_the_verdict_says_on_how_many_samples_the_students_were_evaluated(raw, tmp_path):
    source = incomplete(raw, ["", "", "", "audio", "", "", ""])
    source.index["split"] = ["train", "train", "valid", "test", "test", "test", "train"]
    write_store(source, tmp_path / "samples")
    samples = open_store(tmp_path / "samples")
    teachers = "Teachers and specialists were evaluated on the 2 of 3 with all modalities."
    assert evaluated_samples(samples, samples.index, "image") == teachers
    assert evaluated_samples(samples, samples.index, "audio") == (
        "The students were evaluated on the 2 of 3 test samples with the modality audio. "
        + teachers
    )
    write_store(make_source(raw), tmp_path / "complete")
    complete = open_store(tmp_path / "complete")
    assert evaluated_samples(complete, complete.index, "image") == ""


def test_pictures_say_what_is_absent(raw, tmp_path):
    write_store(incomplete(raw), tmp_path / "samples")
    samples = open_store(tmp_path / "samples")
    figure = gallery(samples)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["absent"] * 2  # s0 has no sound, and s2 no image
    predictions = pd.DataFrame(
        {
            "id": ["s0"],
            "model": ["student"],
            "label": [0],
            "prediction": [1],
            "confidence": [0.9],
            "nll": [2.0],
            "correct": [0],
            "labelled": [1],
        }
    )
    (worst,) = worst_samples(samples, predictions, "image")
    assert worst.picture.startswith(b"\x89PNG")
