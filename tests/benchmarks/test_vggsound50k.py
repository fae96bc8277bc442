"""Tests of VGGSound-50k on generated features of few clips, in the shapes of the real features."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.source import DamagedSampleError
from mst_distill.benchmarks.splits import check_splits
from mst_distill.benchmarks.vggsound50k import VGGSound50k
from mst_distill.data.store import open_store, write_store
from raw_sets import VGGSOUND_CATEGORIES as CATEGORIES
from raw_sets import VGGSOUND_CLIPS as CLIPS
from raw_sets import VGGSOUND_META as META
from raw_sets import VGGSOUND_TABLE as TABLE
from raw_sets import vggsound_features as features
from raw_sets import write_vggsound
from raw_sets import write_vggsound_tables as write_tables


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder with metadata and splits; the feature files are empty."""
    write_tables(tmp_path)
    for name in ("video", "audio"):
        (tmp_path / name).mkdir()
        for clip in CLIPS:
            (tmp_path / name / f"{clip}.npy").touch()
    return tmp_path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vggsound")
    write_vggsound(root)
    return root


@pytest.fixture
def clips(written: Path, tmp_path: Path) -> Path:
    """A folder with twelve undamaged clips, for tests that damage them."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


def open_clips(
    root: Path,
    protocol: str = "heldout",
    source_class: type[VGGSound50k] = VGGSound50k,
    **arguments: float,
) -> VGGSound50k:
    paths = [str(root / name) for name in ("video", "audio", "metadata.txt", "splits.csv")]
    return source_class(protocol, *paths, **arguments)


def fitted(root: Path, protocol: str = "heldout", **arguments: float) -> VGGSound50k:
    source = open_clips(root, protocol, **arguments)
    folder = root / f"fit-{protocol}"
    folder.mkdir()
    source.fit(folder)
    return source


def test_clips_have_the_class_in_the_metadata_and_the_publisher_s_split(tables: Path) -> None:
    source = open_clips(tables)
    check_splits(source.index)
    assert source.index["id"].tolist() == CLIPS
    assert source.index["group"].tolist() == CLIPS
    assert source.index["label"].tolist() == [0, 1, 2] * 4
    assert source.index["split"].tolist() == ["train"] * 6 + ["valid"] * 3 + ["test"] * 3
    assert source.classes == CATEGORIES
    assert source.omitted == {}
    assert {file.parent.name for file in source.files} == {tables.name, "video", "audio"}
    assert len(source.files) == 2 + 2 * 12


@pytest.mark.parametrize(("protocol", "count"), [("heldout", 6), ("random", 12)])
def test_each_modality_is_scaled_by_its_range_over_the_clips_of_the_protocol(
    written: Path, tmp_path: Path, protocol: str, count: int
) -> None:
    source = open_clips(written, protocol)
    source.fit(tmp_path)
    order = [11, 0, 5]
    samples = source.read(source.index.iloc[order])
    assert samples["video"].shape == (3, 512, 10, 7, 7)
    assert samples["audio"].shape == (3, 10, 128)
    assert samples["video"].dtype == samples["audio"].dtype == np.float32
    raw = [features(row) for row in range(12)]
    for position, name in enumerate(("video", "audio")):
        low = min(float(clip[position].min()) for clip in raw[:count])
        high = max(float(clip[position].max()) for clip in raw[:count])
        for values, row in zip(samples[name], order, strict=True):
            expected = (raw[row][position].astype(np.float64) - low) / (high - low)
            if name == "audio":
                np.testing.assert_allclose(values, expected, atol=1e-6)
                continue
            for channel, second, y, x in ((0, 0, 0, 0), (511, 9, 6, 6), (3, 8, 1, 5)):
                assert values[channel, second, y, x] == pytest.approx(
                    expected[second, y, x, channel], abs=1e-6
                )
            np.testing.assert_allclose(values.min(), expected.min(), atol=1e-6)
            np.testing.assert_allclose(values.max(), expected.max(), atol=1e-6)
    inside = samples["video"].min() >= 0 and samples["video"].max() <= 1
    assert inside == (protocol == "random")


def test_video_axes_are_channel_second_row_and_column(written: Path, tmp_path: Path) -> None:
    source = open_clips(written)
    source.fit(tmp_path)
    video = source.read(source.index[:1])["video"][0]
    order = np.argsort(features(0)[0].reshape(10, 49, 512), axis=None)
    second, pixel, channel = np.unravel_index(order, (10, 49, 512))
    # The scaling is monotonic, so that the order of the raw features sorts the scaled ones.
    ranked = video.reshape(512, 10, 49)[channel, second, pixel]
    assert (np.diff(ranked) >= 0).all()


def test_scaling_is_fitted_on_the_clips_within_the_limit(written: Path, tmp_path: Path) -> None:
    source = open_clips(written, "random")
    source.index = source.index.iloc[:3]
    source.fit(tmp_path)
    audio = source.read(source.index)["audio"]
    assert audio.min() == 0
    assert audio.max() == 1


def test_short_audio_is_padded_and_long_audio_is_cut(clips: Path) -> None:
    rng = np.random.default_rng(5)
    short, long = rng.random((7, 128)), rng.random((12, 128))
    long[11] = 1e6  # this second is cut off, so that it must not affect the range
    np.save(clips / "audio" / f"{CLIPS[1]}.npy", short)
    np.save(clips / "audio" / f"{CLIPS[2]}.npy", long.astype(np.float32))
    source = fitted(clips)
    raw = [features(row)[1] for row in (0, 3, 4, 5)] + [short, long[:10]]
    low, high = min(a.min() for a in raw), max(a.max() for a in raw)
    samples = source.read(source.index[:4])
    assert samples["audio_seconds"].tolist() == [10, 7, 10, 10]
    padded = np.vstack([short, short[[6]], short[[6]], short[[6]]])
    for row, expected in ((1, padded), (2, long[:10])):
        np.testing.assert_allclose(
            samples["audio"][row], (expected - low) / (high - low), atol=1e-6, rtol=1e-5
        )


def test_the_seconds_of_audio_are_a_note_in_the_store(clips: Path, tmp_path: Path) -> None:
    np.save(clips / "audio" / f"{CLIPS[4]}.npy", np.tile(np.arange(128.0), (3, 1)))
    write_store(open_clips(clips), tmp_path / "stores" / "samples")
    samples = open_store(tmp_path / "stores" / "samples")
    assert samples.notes == ("audio_seconds",)
    assert samples.index["audio_seconds"].tolist() == [10] * 4 + [3] + [10] * 7
    assert list(samples.modalities) == ["video", "audio"]


@pytest.mark.parametrize("name", ["video", "audio"])
def test_a_clip_with_constant_features_is_damaged(clips: Path, name: str) -> None:
    """Its values do not affect the range of the other clips either."""
    before = fitted(clips)
    (clips / "fit-heldout").rename(clips / "fit-before")
    file = clips / name / f"{CLIPS[2]}.npy"
    np.save(file, np.full(np.load(file).shape, -1e3, np.float32))
    source = fitted(clips)
    with pytest.raises(DamagedSampleError, match="is -1000 throughout") as error:
        source.read(source.index)
    assert error.value.sample == CLIPS[2]
    assert str(file) in error.value.reason
    others = source.index.query(f"id != {CLIPS[2]!r}")
    for modality, values in source.read(others).items():
        np.testing.assert_array_equal(values, before.read(others)[modality])


def test_missing_clips_are_omitted_up_to_the_tolerated_share(clips: Path, tmp_path: Path) -> None:
    (clips / "video" / f"{CLIPS[3]}.npy").unlink()
    (clips / "audio" / f"{CLIPS[8]}.npy").unlink()
    store = tmp_path / "stores" / "samples"
    rule = rf"2 of 12 samples cannot be used.*10.0%.*{CLIPS[3]}.npy is missing"
    with pytest.raises(ValueError, match=rule):
        write_store(open_clips(clips, tolerated_share=0.1), store)
    source = open_clips(clips, tolerated_share=0.2)
    assert source.index["id"].tolist() == [c for c in CLIPS if c not in (CLIPS[3], CLIPS[8])]
    write_store(source, store)
    samples = open_store(store)
    assert len(samples) == 10
    assert set(samples.omitted) == {CLIPS[3], CLIPS[8]}
    assert str(Path("audio") / CLIPS[8]) in samples.omitted[CLIPS[8]]


def test_by_default_one_clip_in_a_hundred_may_be_missing(tables: Path) -> None:
    assert open_clips(tables).tolerated_share == 0.01


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def save(values: object) -> Callable[[Path], None]:
    return lambda path: np.save(path, values, allow_pickle=True)


class Malicious:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (fail, ("a pickle ran code",))


def fail(message: str) -> None:
    raise AssertionError(message)


def insert_nan(path: Path) -> None:
    values = np.load(path)
    values.reshape(-1)[77] = np.nan
    np.save(path, values)


def break_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"}", b" ", 1))


DAMAGES = {
    "truncated": ("video", truncate, "not a complete .npy file"),
    "empty": ("audio", lambda path: path.write_bytes(b""), "not a complete .npy file"),
    "a page of HTML": ("audio", lambda path: path.write_text("<html>"), "not a complete .npy file"),
    "a broken header": ("video", break_header, "not a complete .npy file"),
    "a broken zip": ("audio", lambda path: path.write_bytes(b"PK\3\4"), "not a complete .npy file"),
    "an archive": (
        "audio",
        lambda path: np.savez(path.open("wb"), a=1),
        "not a complete .npy file",
    ),
    "objects": ("audio", save(np.array([{}, None], object)), "not a complete .npy file"),
    "a pickle": ("video", save(np.array([Malicious()], object)), "not a complete .npy file"),
    "text": ("audio", save(np.array(["loud"])), "not a complete .npy file"),
    "records": ("audio", save(np.zeros(3, [("a", "f4"), ("b", "i4")])), "not a complete .npy file"),
    "channels first": ("video", save(np.zeros((512, 10, 7, 7), "f4")), r"\(512, 10, 7, 7\), expec"),
    "few seconds": ("video", save(np.zeros((9, 7, 7, 512), "f4")), r"expected \(10, 7, 7, 512\)"),
    "a wide sound": ("audio", save(np.zeros((10, 127), "f4")), r"expected \(10, 128\)"),
    "one second": ("audio", save(np.zeros(128, "f4")), r"shape \(128,\), expected \(10, 128\)"),
    "no sound": ("audio", save(np.zeros((0, 128), "f4")), r"shape \(0, 128\)"),
    "NaN": ("video", insert_nan, "contains NaN or infinity"),
    "too large": ("audio", save(np.full((10, 128), 1e300)), "contains NaN or infinity"),
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_error_names_the_damaged_clip(clips: Path, damage: str) -> None:
    folder, damage_file, rule = DAMAGES[damage]
    file = clips / folder / f"{CLIPS[2]}.npy"
    damage_file(file)
    source = fitted(clips)
    with pytest.raises(DamagedSampleError, match=rule) as error:
        source.read(source.index)
    assert error.value.sample == CLIPS[2]
    assert str(file) in error.value.reason


def test_damaged_clips_are_omitted_from_the_range_and_the_store(
    clips: Path, tmp_path: Path
) -> None:
    insert_nan(clips / "video" / f"{CLIPS[5]}.npy")  # the training clip with the widest range
    truncate(clips / "audio" / f"{CLIPS[0]}.npy")  # the first clip
    save(np.zeros((10, 128, 2)))(clips / "audio" / f"{CLIPS[10]}.npy")
    store = tmp_path / "stores" / "samples"
    with pytest.raises(ValueError, match=r"of 12 samples cannot be used, and at most 20\.0%"):
        write_store(open_clips(clips, tolerated_share=0.2), store)
    write_store(open_clips(clips, tolerated_share=0.25), store)
    samples = open_store(store)
    assert set(samples.omitted) == {CLIPS[0], CLIPS[5], CLIPS[10]}
    undamaged = [1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert samples.index["id"].tolist() == [CLIPS[row] for row in undamaged]
    assert samples.labels.tolist() == [row % 3 for row in undamaged]
    fitted = [features(row)[1] for row in (1, 2, 3, 4)]
    low, high = min(a.min() for a in fitted), max(a.max() for a in fitted)
    for position, row in enumerate(undamaged):
        expected = (features(row)[1] - low) / (high - low)
        np.testing.assert_allclose(samples.modalities["audio"][position], expected, atol=1e-5)


class Interrupted(VGGSound50k):
    """Records the clips that are loaded, and is interrupted at the `stop_at`-th of them."""

    stop_at = 10**9

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.loaded: list[str] = []
        video: Any = self.readers["video"]
        load = video.load

        def record(file: Path) -> np.ndarray:
            self.loaded.append(file.stem)
            if len(self.loaded) == self.stop_at:
                raise KeyboardInterrupt
            return load(file)

        video.load = record


@pytest.mark.parametrize(("stop_at", "saved"), [(1, 0), (2, 0), (5, 4), (8, 6), (12, 10)])
def test_an_interrupted_fit_continues_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, written: Path, tmp_path: Path, stop_at: int, saved: int
) -> None:
    """Progress is saved after each two clips; saved clips are not read again."""
    monkeypatch.setattr("mst_distill.benchmarks.vggsound50k.RANGES_AT_A_TIME", 2)
    digests = []
    for name, stops in (("uninterrupted", [10**9]), ("interrupted", [stop_at, 10**9])):
        for stop in stops:
            source = open_clips(written, "random", Interrupted)
            source.stop_at = stop  # type: ignore[attr-defined]
            store = tmp_path / name / "samples"
            try:
                write_store(source, store)
            except KeyboardInterrupt:
                assert not store.exists()
        digests.append(open_store(store).digest)
        loaded = source.loaded  # type: ignore[attr-defined]
    assert digests[0] == digests[1]
    assert loaded == [*CLIPS[saved:], *CLIPS]


def replace(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (replace(META, f"{CLIPS[3]}&0", CLIPS[3]), f"{META}, line 4: '{CLIPS[3]}' is not CLIP&CL"),
        (replace(META, f"{CLIPS[3]}&0", "&0"), f"{META}, line 4: '&0' is not CLIP&CLASS"),
        (replace(META, f"{CLIPS[3]}&0", ""), f"{META}, line 4: '' is not CLIP&CLASS"),
        (replace(META, f"{CLIPS[3]}&0", f"{CLIPS[3]}&zither"), "line 4: .* class that is a number"),
        (replace(META, f"{CLIPS[3]}&0", f"{CLIPS[3]}&-1"), "line 4: .* class that is a number"),
        (replace(META, f"{CLIPS[3]}&0", f"{CLIPS[0]}&0"), f"line 4: the clip '{CLIPS[0]}' appears"),
        (
            replace(META, CLIPS[3], f"../{CLIPS[3]}"),
            f"line 4: '../{CLIPS[3]}' is not a plain file name",
        ),
        (
            replace(META, CLIPS[3], "stranger"),
            "line 4: the clip 'stranger' and 0 others are not in",
        ),
        (
            replace(META, f"{CLIPS[3]}&0", f"{CLIPS[3]}&1"),
            "do not match one to one: .*'playing zit",
        ),
        (
            replace(META, f"{CLIPS[3]}&0", f"{CLIPS[3]}&3"),
            "do not match one to one: .*'playing zit",
        ),
        (
            lambda root: (root / META).write_text((root / META).read_text().replace("&2", "&4")),
            f"{META}: no clip has class 2, but some clips have higher classes",
        ),
        (lambda root: (root / META).write_bytes(b"caf\xe9&0\n"), f"{META}, line 1: not UTF-8"),
        (lambda root: (root / META).unlink(), f"{META} is missing"),
        (replace(TABLE, ",test\n", ",tset\n"), "unknown split 'tset'; .*did you mean 'test'"),
        (replace(TABLE, ",val\n", ",valid\n"), f"{TABLE}, line 5: .*did you mean 'val'"),
        (replace(TABLE, ",val\n", ",\n"), f"{TABLE}, line 5: unknown split ''"),
        (replace(TABLE, ",val\n", ",val\n\n\nx,y,0,no\n"), f"{TABLE}, line 8: unknown split 'no'"),
        (replace(TABLE, "video_id", "youtube_id"), "unknown column 'video_id'; .*'youtube_id'"),
        (replace(TABLE, CLIPS[3], CLIPS[4]), f"line 10: the clip '{CLIPS[4]}' appears twice"),
        (replace(TABLE, "dog, barking", "dogs"), "do not match one to one: .*'dogs'"),
        (lambda root: (root / TABLE).write_bytes(b"\xff\xfe"), f"{TABLE}, line 1: not UTF-8"),
        (lambda root: (root / TABLE).write_text(""), f"{TABLE}: .*No columns"),
        (lambda root: (root / TABLE).write_text('a,b\n1,"2\n'), f"{TABLE}: .*EOF inside string"),
        (lambda root: (root / TABLE).unlink(), f"{TABLE} is missing"),
        (
            lambda root: shutil.rmtree(root / "video"),
            "video is not a folder: put VGGSound-AVEL50k's",
        ),
        (
            lambda root: shutil.rmtree(root / "audio"),
            "audio is not a folder: put VGGSound-AVEL50k's",
        ),
    ],
)
def test_invalid_metadata_and_splits_raise_an_error(
    tables: Path, damage: Callable[[Path], object], rule: str
) -> None:
    damage(tables)
    with pytest.raises((ValueError, FileNotFoundError), match=rule):
        open_clips(tables)


def test_an_empty_list_of_clips_raises_an_error(tables: Path, tmp_path: Path) -> None:
    (tables / META).write_text("")
    with pytest.raises(ValueError, match=r"VGGSound50k found no samples in .*metadata\.txt"):
        write_store(open_clips(tables), tmp_path / "samples")


def test_blank_lines_in_the_table_of_splits_are_ignored(tables: Path) -> None:
    before = open_clips(tables).index
    (tables / TABLE).write_text((tables / TABLE).read_text().replace(",val\n", ",val\n\n"))
    pd.testing.assert_frame_equal(before, open_clips(tables).index)


def test_windows_line_ends_are_accepted(tables: Path) -> None:
    before = open_clips(tables)
    for file in (META, TABLE):
        text = (tables / file).read_bytes()
        (tables / file).write_bytes(text.replace(b"\n", b"\r\n"))
    after = open_clips(tables)
    pd.testing.assert_frame_equal(before.index, after.index)
    assert before.classes == after.classes
