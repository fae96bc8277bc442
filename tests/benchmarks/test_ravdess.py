"""Tests of RAVDESS from files with the published names: frames, faces, MFCC and damaged files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.fft
import soundfile

from mst_distill.benchmarks.ravdess import RAVDESS, index_clips
from mst_distill.benchmarks.ravdess_files import EMOTIONS
from mst_distill.benchmarks.source import DamagedSampleError, check_index
from mst_distill.benchmarks.splits import check_splits
from mst_distill.data.samples import SPLITS
from mst_distill.media.face_video import INSTANTS, crop_faces, read_frames
from mst_distill.media.faces import CentreCrop, FaceFinder, HaarFaces, Square
from mst_distill.media.speech_audio import LENGTH, RATE, mfcc, read_speech
from raw_sets import (
    BAR,
    BITS,
    write_audio_only_mp4,
    write_numbered,
    write_ravdess,
    write_tone,
    write_video,
)
from raw_sets import RAVDESS_CLIPS as CLIPS

NTSC = Fraction(30000, 1001)


def number_of(frame: np.ndarray | None) -> int | None:
    if frame is None:
        return None
    bars = frame[:, :, 0].reshape(len(frame), BITS, BAR).mean(axis=(0, 2)) > 128
    return int((bars << np.arange(BITS)).sum())


# Names and pairs


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with 18 clips by six actors, and also songs and silent videos, as published."""
    write_ravdess(tmp_path)
    return tmp_path / "raw"


def open_raw(raw: Path, **arguments: object) -> RAVDESS:
    arguments = {"face_finder": "mst_distill.media.faces.CentreCrop", **arguments}
    return RAVDESS("heldout", str(raw), str(raw), **arguments)


def test_each_sample_is_a_spoken_clip_with_video_and_audio(raw: Path) -> None:
    source = open_raw(raw)
    check_index(source)
    check_splits(source.index)
    assert source.index["id"].tolist() == sorted(CLIPS)
    assert not source.omitted
    for row in source.index.itertuples():
        assert EMOTIONS[row.label] == EMOTIONS[int(row.id[3:5]) - 1]
        assert row.group == row.source == f"Actor_{row.id[-2:]}"
        assert source.files[row.audio].name == f"03-{row.id}.wav"
        assert source.files[row.video].name == f"01-{row.id}.mp4"


def test_samples_have_the_shapes_of_the_inputs_and_do_not_depend_on_the_batch(raw: Path) -> None:
    source = open_raw(raw)
    two, one = source.read(source.index[:2]), source.read(source.index[1:2])
    assert {name: array.shape for name, array in two.items()} == {
        "video": (2, 3, 15, 224, 224),
        "audio": (2, 15, 156),
        "seconds": (2,),
        "frames_without_face": (2,),
        "frames_missing": (2,),
    }
    assert set(source.notes) == set(two) - {"video", "audio"}
    for name, array in two.items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array[1:], one[name])
    assert two["seconds"].tolist() == [0.5, 0.5]
    # A video of 0.4 s has frames at the instants 0.1 s and 0.33 s only.
    assert two["frames_missing"].tolist() == [13, 13]


def test_a_clip_without_video_or_audio_is_omitted_with_the_reason(raw: Path) -> None:
    for name in ("03-01-01-01-01-01-02.wav", "01-01-04-01-01-01-03.mp4"):
        next(raw.rglob(name)).unlink()
    source = open_raw(raw, tolerated_share=0.2)
    assert dict(source.omitted) == {
        "01-01-01-01-01-02": f"{raw} contains no audio of this clip",
        "01-04-01-01-01-03": f"{raw} contains no video of this clip",
    }
    assert len(source.index) == 16
    check_index(source)
    with pytest.raises(ValueError, match=r"2 of 18 samples cannot be used.*contains no audio of"):
        check_index(open_raw(raw))


@pytest.mark.parametrize("seed", range(4))
def test_each_actor_is_in_one_split_and_each_split_has_men_and_women(seed: int) -> None:
    clips = [
        f"01-{emotion:02d}-01-01-01-{actor:02d}" for actor in range(1, 25) for emotion in (1, 2)
    ]
    index = index_clips(clips, seed)
    assert (index.groupby("group")["split"].nunique() == 1).all()
    actors = index.drop_duplicates("group").assign(
        man=lambda rows: rows["id"].str[-1:].astype(int) % 2
    )
    found = actors.groupby("split")["man"].agg(["size", "sum"])
    assert {split: tuple(found.loc[split]) for split in SPLITS} == {
        "train": (14, 7),
        "valid": (5, 2),
        "test": (5, 3),
    }


def test_the_split_seed_determines_the_split_of_each_actor() -> None:
    clips = [f"01-01-01-01-01-{actor:02d}" for actor in range(1, 25)]
    assert index_clips(clips, 0).equals(index_clips(clips, 0))
    assert not index_clips(clips, 0).equals(index_clips(clips, 1))


# Video


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [
        (108, 30, [3, 10, 17, 24, 31, 39, 46, 53, 60, 67, 75, 82, 89, 96, 103]),
        (108, NTSC, [3, 10, 17, 24, 31, 39, 46, 53, 60, 67, 75, 82, 89, 96, 103]),
        (130, 30, [14, 21, 28, 35, 42, 50, 57, 64, 71, 78, 86, 93, 100, 107, 114]),
        (90, 25, [2, 8, 14, 20, 26, 32, 38, 44, 50, 56, 62, 68, 74, 80, 86]),
        (100, 25, [7, 13, 19, 25, 31, 37, 43, 49, 55, 61, 67, 73, 79, 85, 91]),
        (60, 30, [3, 10, 17, 24, 31, 39, 46, 53, *[None] * 7]),
        (59, NTSC, [3, 10, 17, 24, 31, 39, 46, 53, *[None] * 7]),
        (4, 30, [3, *[None] * 14]),
    ],
)
def test_the_frames_nearest_to_the_instants_are_used(
    tmp_path: Path, count: int, rate: Fraction | int, expected: list[int | None]
) -> None:
    frames = read_frames(write_numbered(tmp_path / "clip.mp4", count, rate))
    found = [number_of(frame) for frame in frames]
    # At 25 Hz two frames may be equally near; both are accepted.
    tie = 1 if rate == 25 else 0
    for number, nearest in zip(found, expected, strict=True):
        assert number == nearest or (number is not None and 0 <= number - (nearest or 0) <= tie)
    start = max(0, (count / rate - 3.6) / 2)
    for number, instant in zip(found, INSTANTS, strict=True):
        if number is not None:
            assert abs(number / rate - start - instant) <= 0.5 / rate + 1e-9


def quarters() -> np.ndarray:
    """Return RGB ``(48, 64, 3)`` with red, green, blue and black quarters."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32, 0] = frame[:24, 32:, 1] = frame[24:, :32, 2] = 255
    return frame


@pytest.mark.parametrize("flip", ["", "hflip", "vflip"])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_a_video_is_rotated_as_its_file_states(tmp_path: Path, degrees: int, flip: str) -> None:
    rotation = {"degrees": degrees, **({flip: True} if flip else {})}
    clip = write_video(tmp_path / "a.mp4", [quarters()] * 12, rotation=rotation)
    expected = np.rot90(quarters(), degrees // 90)  # counter-clockwise
    if flip:
        expected = np.flip(expected, axis={"vflip": 0, "hflip": 1}[flip])
    frame = read_frames(clip)[0]
    assert frame.shape == expected.shape
    assert frame.flags.c_contiguous
    assert np.abs(frame.astype(int) - expected).mean() < 12  # H.264 blurs the edges of the quarters


def test_a_rotation_by_other_than_a_multiple_of_90_degrees_raises_an_error(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", [quarters()] * 12, rotation={"degrees": 37})
    with pytest.raises(ValueError, match=r"a\.mp4: is to be displayed rotated by 3[67] degrees"):
        read_frames(clip)


def test_a_video_of_uniform_frames_raises_an_error(tmp_path: Path) -> None:
    """Each frame has one colour, although the colours of the frames differ."""
    plain = [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(12)]
    clip = write_video(tmp_path / "a.mp4", plain)
    with pytest.raises(ValueError, match=r"a\.mp4: is blank, every frame has one"):
        read_frames(clip)
    plain[3] = quarters()
    assert len(read_frames(write_video(tmp_path / "b.mp4", plain))) == 15


class NumberedFaces(FaceFinder):
    """Finds a face in the frames whose number, their green value, is in `numbers`.

    The left edge of the face is at the column with this number.
    """

    def __init__(self, numbers: set[int]) -> None:
        self.numbers = numbers

    def find(self, frame: np.ndarray) -> Square | None:
        number = int(frame[0, 0, 1])
        return Square(number, 0, 10) if number in self.numbers else None


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ({10, 20, 30}, [10, 20, 30]),
        ({10}, [10, 10, 10]),
        ({20}, [20, 20, 20]),
        ({10, 30}, [10, 10, 30]),
        (set(), [None, None, None]),
    ],
)
def test_a_frame_without_a_face_is_cropped_at_the_position_of_the_last_face(
    visible: set[int], expected: list[int | None]
) -> None:
    frames = []
    for number in (10, 20, 30):
        # Blue is the column, so that a crop shows where it was cut.
        frame = np.zeros((20, 60, 3), np.uint8)
        frame[..., 1], frame[..., 2] = number, np.arange(60)
        frames.append(frame)
    cropped, without_face, missing = crop_faces([*frames, None], NumberedFaces(visible))
    assert cropped.shape == (3, 4, 224, 224)
    assert cropped.dtype == np.float32
    assert (without_face, missing) == (3 - len(visible), 1)
    assert (cropped[:, 3] == 0).all()
    for picture, number, left in zip(
        cropped[:, :3].transpose(1, 0, 2, 3), (10, 20, 30), expected, strict=True
    ):
        red, green, blue = picture * 255
        assert (red == 0).all()
        assert np.allclose(green, number)
        middle = 29.5 if left is None else left + 4.5
        assert blue.mean() == pytest.approx(middle, abs=0.3)
        assert np.ptp(blue) == pytest.approx(19 if left is None else 9, abs=0.6)


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (30, 30)])
def test_the_centre_crop_is_the_largest_centred_square(shape: tuple[int, int]) -> None:
    square = CentreCrop().find(np.zeros((*shape, 3), np.uint8))
    side = min(shape)
    assert square == ((shape[1] - side) / 2, (shape[0] - side) / 2, side)


def test_haar_finds_no_face_in_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    assert HaarFaces().find(noise) is None


@pytest.fixture(scope="module")
def faces(shared_data: Path) -> list[Path]:
    files = sorted((shared_data / "grid_s1" / "clips").glob("*.mp4"))
    if not files:
        pytest.skip(f"{shared_data}/grid_s1/clips holds no real faces")
    return files


def test_real_faces_are_found_in_all_frames(faces: list[Path]) -> None:
    finder = HaarFaces()
    for file in faces[:4]:
        frames = read_frames(file)
        cropped, without_face, missing = crop_faces(frames, finder)
        assert missing == 2  # the video ends at 3.0 s, before the instants 3.2 s and 3.43 s
        assert without_face == 0
        for frame in frames[:-2]:
            height, width, _ = frame.shape
            left, top, side = finder.find(frame)
            assert side > height / 3
            assert left >= 0 <= top
            assert left + side <= width
            assert top + side <= height
        # The centre shows skin, with more red than green and more green than blue; the wall is
        # blue.
        red, green, blue = cropped[:, :-2, 80:176, 80:144].mean(axis=(1, 2, 3))
        assert red > green + 0.05
        assert green > blue


def test_a_face_in_a_rotated_video_is_found(faces: list[Path], tmp_path: Path) -> None:
    with av.open(str(faces[0])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    rotated = [np.rot90(frame) for frame in frames]
    clip = write_video(tmp_path / "a.mp4", map(np.ascontiguousarray, rotated), 25)
    assert crop_faces(read_frames(clip), HaarFaces())[1] == 13
    clip = write_video(
        tmp_path / "b.mp4", map(np.ascontiguousarray, rotated), 25, rotation={"degrees": -90}
    )
    cropped, without_face, missing = crop_faces(read_frames(clip), HaarFaces())
    assert (without_face, missing) == (0, 2)
    upright, _, _ = crop_faces(read_frames(faces[0]), HaarFaces())
    assert np.abs(cropped - upright).mean() < 0.05


@pytest.mark.parametrize("scale", [3, 4])
def test_the_same_face_is_found_in_an_enlarged_frame(faces: list[Path], scale: int) -> None:
    frame = read_frames(faces[0])[0]
    small = HaarFaces().find(frame)
    large = HaarFaces().find(frame.repeat(scale, axis=0).repeat(scale, axis=1))
    np.testing.assert_allclose(np.array(large) / scale, small, atol=frame.shape[0] / 10)


def test_clips_of_grid_with_names_of_ravdess_are_read(faces: list[Path], tmp_path: Path) -> None:
    for clip, file in zip(CLIPS[::3], faces, strict=False):
        shutil.copy(file, tmp_path / f"01-{clip}.mp4")
        write_tone(tmp_path / f"03-{clip}.wav", 440, 3, 48_000)
    source = RAVDESS("random", str(tmp_path), str(tmp_path))
    samples = source.read(source.index[:2])
    assert samples["video"].min() == 0
    assert samples["video"].max() <= 1
    assert samples["frames_without_face"].tolist() == [0, 0]
    assert samples["frames_missing"].tolist() == [2, 2]


# Audio


def librosa_mfcc(wave: np.ndarray) -> np.ndarray:
    """Compute MFCC ``(15, 156)`` in float64 by the formulas that librosa documents."""
    padded = np.pad(wave.astype(np.float64), 1024)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2048)[::512]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    power = np.abs(scipy.fft.rfft(windows * hann, axis=1)) ** 2

    def to_mel(hertz: np.ndarray) -> np.ndarray:
        return np.where(
            hertz < 1000,
            hertz * 3 / 200,
            15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4),
        )

    hertz = np.linspace(0, 11_025, 200_001)
    edges = np.interp(np.linspace(0, to_mel(hertz)[-1], 130), to_mel(hertz), hertz)
    bins = np.arange(1025) * RATE / 2048
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    bank = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    decibels = 10 * np.log10(np.maximum(bank @ power.T, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    return scipy.fft.dct(decibels, axis=0, norm="ortho")[:15]


def to_unit(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("gain", [1, 1e-4])
def test_mfcc_agree_with_the_formulas_of_librosa(gain: float) -> None:
    rng = np.random.default_rng(0)
    time = np.arange(LENGTH) / RATE
    chirp = np.sin(2 * np.pi * (200 + 700 * time) * time) + 0.01 * rng.normal(size=LENGTH)
    # Quiet and silent intervals, so that the clipping at 80 dB has an effect.
    chirp[30_000:50_000] *= 1e-4
    chirp[60_000:] = 0
    # A loud clip in the same batch must not raise the level of clipping.
    waves = np.stack([gain * chirp, rng.normal(size=LENGTH)]).astype(np.float32)
    found = mfcc(waves)
    assert found.shape == (2, 15, 156)
    assert found.dtype == np.float32
    for coefficients, wave in zip(found, waves, strict=True):
        np.testing.assert_allclose(coefficients, to_unit(librosa_mfcc(wave)), atol=2e-4)


@pytest.mark.parametrize("rate", [RATE, 48_000])
@pytest.mark.parametrize(("seconds", "expected"), [(2.0, 2.0), (3.6, 3.6), (5.0, 3.6)])
def test_a_clip_is_padded_at_its_end_or_cut_to_its_middle(
    tmp_path: Path, rate: int, seconds: float, expected: float
) -> None:
    # The value of an audio sample encodes its time: a ramp from 0 to 0.5 at the end of the file.
    ramp = np.linspace(0, 0.5, round(seconds * rate))
    soundfile.write(tmp_path / "a.wav", np.stack([ramp, ramp], axis=1), rate, subtype="FLOAT")
    wave, found_seconds = read_speech(tmp_path / "a.wav")
    assert wave.shape == (LENGTH,)
    assert wave.dtype == np.float32
    assert found_seconds == pytest.approx(seconds)
    count = round(expected * RATE)
    assert (wave[count + 1 :] == 0).all()
    start = max(0.0, (seconds - 3.6) / 2)
    values = (start + np.arange(count) / RATE) / seconds / 2
    np.testing.assert_allclose(wave[200 : count - 200], values[200:-200], atol=1e-3)


@pytest.mark.parametrize("rate", [RATE, 44_100, 48_000])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_speech_that_is_silent_in_the_used_part_raises_an_error(
    tmp_path: Path, rate: int, value: float
) -> None:
    wave = np.full(6 * rate, value)
    wave[:rate] = wave[-rate:] = np.sin(np.arange(rate)) / 10
    soundfile.write(tmp_path / "a.wav", wave, rate)
    with pytest.raises(ValueError, match=r"a\.wav: the middle 3.6 s is silent throughout"):
        read_speech(tmp_path / "a.wav")
    wave[3 * rate : 3 * rate + 100] += np.sin(np.arange(100)) / 10
    soundfile.write(tmp_path / "a.wav", wave, rate)
    assert np.ptp(read_speech(tmp_path / "a.wav")[0]) > 0.1


def test_an_original_wav_and_its_ogg_yield_similar_features(shared_data: Path) -> None:
    wavs = sorted((shared_data / "ravdess" / "original_wav").rglob("*.wav"))
    if not wavs:
        pytest.skip(f"{shared_data}/ravdess/original_wav is absent")
    for wav in wavs:
        ogg = shared_data / "ravdess" / "audio_ogg_22k" / wav.parent.name / f"{wav.stem}.ogg"
        (original, seconds), (coded, coded_seconds) = read_speech(wav), read_speech(ogg)
        assert seconds == pytest.approx(coded_seconds, abs=0.01)
        assert np.corrcoef(original, coded)[0, 1] > 0.99
        wav_mfcc, ogg_mfcc = mfcc(np.stack([original, coded]))
        assert np.corrcoef(wav_mfcc.ravel(), ogg_mfcc.ravel())[0, 1] > 0.99


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_frames(path: Path) -> None:
    """Overwrite the frames with zeros."""
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def write_truncated_mp4(path: Path) -> None:
    """Write an mp4 with its header first, as for streaming, and only half of its frames."""
    write_numbered(path, 108, movflags="faststart")
    truncate(path)


WAV, MP4 = "03-01-04-01-01-01-03.wav", "01-01-04-01-01-01-03.mp4"


@pytest.mark.parametrize(
    ("file", "damage", "rule"),
    [
        (WAV, lambda file: file.write_bytes(b""), "no audio that soundfile can read"),
        (WAV, lambda file: file.write_bytes(b"<html>"), "no audio that soundfile can read"),
        (WAV, lambda file: soundfile.write(file, [], 8000), "holds 0 audio samples"),
        (WAV, truncate, "is cut short, 4022 of 8044 bytes"),
        (
            WAV,
            lambda file: soundfile.write(file, np.full(99, np.nan), 8000, subtype="FLOAT"),
            "NaN or infinite",
        ),
        (MP4, lambda file: file.write_bytes(b""), "no video that can be decoded"),
        (MP4, lambda file: file.write_bytes(b"<html>"), "no video that can be decoded"),
        (MP4, truncate, "no video that can be decoded"),
        (MP4, zero_frames, "decoded"),
        (MP4, write_truncated_mp4, r"is cut short, \d+ of 108 frames are left"),
        (MP4, write_audio_only_mp4, "has no video stream"),
        (MP4, lambda file: write_numbered(file, 2), r"lasts 0.067 s and ends before the first"),
    ],
)
def test_an_unreadable_file_damages_only_its_sample(
    raw: Path, file: str, damage: Callable[[Path], object], rule: str
) -> None:
    damage(next(raw.rglob(file)))
    source = open_raw(raw)
    broken = source.index["id"] == file[3:-4]
    with pytest.raises(DamagedSampleError, match=rule) as error:
        source.read(source.index)
    assert error.value.sample == file[3:-4]
    assert file in error.value.reason
    assert len(source.read(source.index[~broken][:3])["audio"]) == 3


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("recording.wav", "the name 'recording' does not match {modality}-{channel}-{emotion}-"),
        ("03-01-04-01-01-01.wav", "does not match .* of two digits each"),
        ("03-01-04-01-01-01-3.wav", "does not match"),
        ("03-01-09-01-01-01-03.wav", "has emotion 09, expected 01 to 08"),
        ("03-01-04-01-01-01-25.wav", "has actor 25, expected 01 to 24"),
        ("04-01-04-01-01-01-03.mp4", "has modality 04, expected 01 to 03"),
        (
            "03-01-04-01-01-01-03.ogg",
            r"is the same clip as \S*03-01-04-01-01-01-03.ogg: remove one",
        ),
    ],
)
def test_the_error_for_an_invalid_name_states_the_rule(raw: Path, name: str, rule: str) -> None:
    (raw / "Actor_03" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rule) as error:
        open_raw(raw)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("03-01-*.wav", "raw contains no spoken audio: put RAVDESS's speech, 03-01-….wav"),
        ("01-01-*.mp4", "raw contains no spoken video: put RAVDESS's videos with sound"),
        ("01-01-*-0[12].mp4", "6 of 18 samples cannot be used.*raw contains no video of this clip"),
        (
            "01-01-*-0[1-5].mp4",
            "15 of 18 samples cannot be used.*raw contains no video of this clip",
        ),
        ("0*-0[3456].*", "2 actors: at least 3 are needed"),
    ],
)
def test_too_few_files_raise_an_error(raw: Path, pattern: str, rule: str) -> None:
    for file in raw.rglob(pattern):
        file.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=rule):
        open_raw(raw)


def test_the_error_for_a_missing_folder_states_its_contents(raw: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none is not a folder: put .*Audio_Speech_Actors"):
        RAVDESS("heldout", str(raw / "none"), str(raw))
    with pytest.raises(FileNotFoundError, match=r"none is not a folder: put .*Video_Speech_Actor"):
        RAVDESS("heldout", str(raw), str(raw / "none"))


def test_the_error_for_an_unknown_face_finder_suggests_the_nearest(raw: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'HaarFaces'"):
        open_raw(raw, face_finder="mst_distill.media.faces.HarFace")
