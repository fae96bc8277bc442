"""Tests of RAVDESS with action units: the real table and recordings, and damaged tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.ravdess_units import RAVDESSUnits
from mst_distill.benchmarks.source import DamagedSampleError, check_index
from mst_distill.benchmarks.splits import check_splits, stratified_limit
from mst_distill.media.action_units import UNITS
from raw_sets import RAVDESS_CLIPS as CLIPS
from raw_sets import UNITS_TABLE as TABLE
from raw_sets import make_units as make_table
from raw_sets import write_units
from raw_sets import write_units_table as write_table


@pytest.fixture(scope="module")
def real(shared_data: Path) -> RAVDESSUnits:
    folder = shared_data / "ravdess"
    table = folder / "visual_action_units" / TABLE
    if not table.is_file():
        pytest.skip(f"{table} is absent")
    return RAVDESSUnits("heldout", str(table), str(folder / "audio_ogg_22k"))


def test_the_index_contains_all_1440_real_clips(real: RAVDESSUnits) -> None:
    check_index(real)
    check_splits(real.index)
    assert not real.omitted
    assert len(real.index) == 1440
    assert [(real.index["label"] == label).sum() for label in range(8)] == [96, *[192] * 7]
    assert real.index["split"].value_counts().to_dict() == {"train": 840, "valid": 300, "test": 300}
    assert real.index.drop_duplicates(["group", "split"])["group"].is_unique
    assert (real.index.groupby("group").size() == 60).all()


def test_real_samples_have_the_shapes_of_the_networks_inputs(
    real: RAVDESSUnits, tmp_path: Path
) -> None:
    real.fit(tmp_path)
    samples = real.read(real.index.iloc[::96])
    assert samples["units"].shape == (15, 35)
    assert samples["audio"].shape == (15, 15, 156)
    assert samples["units"].dtype == samples["audio"].dtype == np.float32
    assert (samples["audio"].min(axis=(1, 2)) == 0).all()
    assert (samples["audio"].max(axis=(1, 2)) == 1).all()
    assert (samples["seconds"] > 2.9).all()
    assert (samples["seconds"] < 5.3).all()


def test_real_units_distinguish_happy_from_sad_faces(real: RAVDESSUnits, tmp_path: Path) -> None:
    real.fit(tmp_path)
    units = pd.DataFrame(
        real.readers["units"].read(real.values("units", real.index)), columns=list(UNITS)
    )
    smile = units["AU12_r"].groupby(real.index["label"].to_numpy()).mean()
    assert smile[2] == smile.max()
    assert smile[2] > smile[3] + 1


# Small tables


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with 18 clips by six actors; the table also lists a song and a silent video."""
    write_units(tmp_path)
    return tmp_path


def open_raw(raw: Path, protocol: str = "heldout", tolerated_share: float = 0.0) -> RAVDESSUnits:
    return RAVDESSUnits(protocol, str(raw / TABLE), str(raw), tolerated_share=tolerated_share)


def test_names_may_have_the_suffix_of_the_video(raw: Path) -> None:
    write_table(raw, make_table().assign(name=[f"01-{clip}.mp4" for clip in CLIPS]))
    assert open_raw(raw).index["id"].tolist() == sorted(CLIPS)


@pytest.mark.parametrize("protocol", ["heldout", "random"])
@pytest.mark.parametrize("limit", [18, 9])
def test_under_heldout_scaling_is_fitted_on_train_only(
    raw: Path, protocol: str, limit: int
) -> None:
    source = open_raw(raw, protocol)
    source.index = stratified_limit(source.index, limit)
    source.fit(raw)
    table = make_table()
    table.index = pd.Index(CLIPS)
    fitted = source.index if protocol == "random" else source.index.query("split == 'train'")
    fit = table.loc[fitted["id"], list(UNITS)].to_numpy()
    raw_units = table.loc[source.index["id"], list(UNITS)].to_numpy()
    expected = (raw_units - fit.mean(axis=0)) / np.where(fit.std(axis=0) > 0, fit.std(axis=0), 1)
    found = source.read(source.index)["units"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert (found[:, UNITS.index("AU28_c")] == 0).all()


def test_a_unit_that_is_constant_in_train_is_set_to_0(raw: Path) -> None:
    index = open_raw(raw).index
    table = make_table()
    in_test = table["name"].str[3:].isin(index.query("split == 'test'")["id"])
    write_table(raw, table.assign(AU45_c=in_test.astype(float)))
    source = open_raw(raw)
    source.fit(raw)
    assert (source.read(source.index)["units"][:, UNITS.index("AU45_c")] == 0).all()


def test_a_clip_without_units_or_audio_is_omitted_with_the_reason(raw: Path) -> None:
    (raw / f"03-{CLIPS[4]}.wav").unlink()
    write_table(raw, make_table()[1:])
    source = open_raw(raw, tolerated_share=0.2)
    assert dict(source.omitted) == {
        CLIPS[0]: f"{raw / TABLE} contains no units of this clip",
        CLIPS[4]: f"{raw} contains no audio of this clip",
    }
    check_index(source)
    with pytest.raises(ValueError, match="2 of 18 samples cannot be used"):
        check_index(open_raw(raw))


def set_cell(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def damage(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        table.loc[3, column] = value
        return table

    return damage


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("AU12_r", "", "AU12_r of 01-.* is empty, expected a number from 0 to 5"),
        ("AU12_r", "n/a", "AU12_r of 01-.* is empty"),
        ("AU12_r", "much", "AU12_r of 01-.* is 'much', expected a number from 0 to 5"),
        ("AU12_r", 5.1, "is '5.1', expected a number from 0 to 5"),
        ("AU12_c", 1.5, "is '1.5', expected a number from 0 to 1"),
        ("AU45_c", -0.1, "is '-0.1', expected a number from 0 to 1"),
        ("AU45_c", "inf", "is 'inf', expected a number from 0 to 1"),
    ],
)
def test_a_damaged_row_is_omitted_or_raises_an_error(
    raw: Path, column: str, value: object, rule: str
) -> None:
    write_table(raw, set_cell(column, value)(make_table()))
    with pytest.raises(ValueError, match=rf"{TABLE}, line 5: .*{rule}"):
        check_index(open_raw(raw))
    tolerant = open_raw(raw, tolerated_share=0.1)
    check_index(tolerant)
    assert list(tolerant.omitted) == [CLIPS[3]]
    assert len(tolerant.index) == 17


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda table: table.drop(columns="AU04_r"), "lacks the columns AU04_r; it must have name"),
        (lambda table: table.drop(columns=["name", "AU45_c"]), "lacks the columns name, AU45_c"),
        (set_cell("name", "01-01-09-01-01-01-02"), "line 5: the name .* has emotion 09"),
        (set_cell("name", None), "line 5: the name 'nan' does not match"),
        (set_cell("name", f"01-{CLIPS[2]}"), f"line 5: 01-{CLIPS[2]} appears a second time"),
        (lambda table: table[:0], "lists no spoken clip"),
    ],
)
def test_an_invalid_table_raises_an_error(
    raw: Path, damage: Callable[[pd.DataFrame], pd.DataFrame], rule: str
) -> None:
    write_table(raw, damage(make_table()))
    with pytest.raises(ValueError, match=rule) as error:
        open_raw(raw)
    assert TABLE in str(error.value)


def test_the_error_for_many_damaged_rows_names_the_first(raw: Path) -> None:
    text = (raw / TABLE).read_text()
    (raw / TABLE).write_text(text.replace("0.", "0,"))
    with pytest.raises(ValueError, match=r"18 of 18 samples cannot be used.*is '0,.*', expected a"):
        open_raw(raw)


def test_blank_lines_are_counted_but_ignored(raw: Path) -> None:
    header, *rows = (raw / TABLE).read_text().splitlines()
    (raw / TABLE).write_text("\n".join([header, "", *rows, "", ""]))
    assert len(open_raw(raw).index) == len(CLIPS)
    write_table(raw, set_cell("AU12_r", "much")(make_table()))
    header, *rows = (raw / TABLE).read_text().splitlines()
    (raw / TABLE).write_text("\n".join([header, "", *rows]))
    with pytest.raises(ValueError, match="line 6: AU12_r"):
        open_raw(raw)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a;b\n1;2\n1;2;3;4\n"])
def test_a_file_that_is_not_a_table_raises_an_error(raw: Path, content: bytes) -> None:
    (raw / TABLE).write_bytes(content)
    with pytest.raises(ValueError, match=f"{TABLE}: not a table with ';'"):
        open_raw(raw)


def test_the_error_for_missing_files_states_which_belong_there(raw: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none is not a folder: put RAVDESS's speech"):
        RAVDESSUnits("heldout", str(raw / TABLE), str(raw / "none"))
    (raw / TABLE).unlink()
    with pytest.raises(FileNotFoundError, match=r"is missing: put the table of action units"):
        open_raw(raw)


def test_an_unreadable_recording_damages_only_its_sample(raw: Path) -> None:
    (raw / f"03-{CLIPS[4]}.wav").write_bytes(b"RIFF")
    source = open_raw(raw)
    source.fit(raw)
    with pytest.raises(DamagedSampleError, match="no audio that soundfile can read") as error:
        source.read(source.index)
    assert error.value.sample == CLIPS[4]
    source.read(source.index[source.index["id"] != CLIPS[4]])
