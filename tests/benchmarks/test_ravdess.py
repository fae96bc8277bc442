"""RAVDESS from files named as they are published: the right frames, faces, MFCC, and damage."""

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
    write_numbered,
    write_ravdess,
    write_sound_alone,
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
    """Eighteen clips of six actors in one folder, with songs and video alone as published."""
    write_ravdess(tmp_path)
    return tmp_path / "raw"


def open_raw(raw: Path, **arguments: object) -> RAVDESS:
    arguments = {"face_finder": "mst_distill.media.faces.CentreCrop", **arguments}
    return RAVDESS("heldout", str(raw), str(raw), **arguments)


def test_a_sample_is_a_spoken_clip_that_is_seen_and_heard(raw: Path) -> None:
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


def test_samples_fit_the_nets_and_do_not_hang_on_the_batch(raw: Path) -> None:
    source = open_raw(raw)
    whole, part = source.read(source.index[:2]), source.read(source.index[1:2])
    assert {name: array.shape for name, array in whole.items()} == {
        "video": (2, 3, 15, 224, 224),
        "audio": (2, 15, 156),
        "seconds": (2,),
        "frames_without_face": (2,),
        "frames_missing": (2,),
    }
    assert set(source.notes) == set(whole) - {"video", "audio"}
    for name, array in whole.items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array[1:], part[name])
    assert whole["seconds"].tolist() == [0.5, 0.5]
    assert whole["frames_missing"].tolist() == [13, 13]  # 0.4 s: the instants 0.1 and 0.33


def test_a_clip_without_its_partner_is_left_out_with_the_reason(raw: Path) -> None:
    for name in ("03-01-01-01-01-01-02.wav", "01-01-04-01-01-01-03.mp4"):
        next(raw.rglob(name)).unlink()
    source = open_raw(raw, tolerated_share=0.2)
    assert dict(source.omitted) == {
        "01-01-01-01-01-02": f"{raw} holds no audio of this clip",
        "01-04-01-01-01-03": f"{raw} holds no video of this clip",
    }
    assert len(source.index) == 16
    check_index(source)
    with pytest.raises(ValueError, match=r"2 of 18 samples cannot be used.*holds no audio of"):
        check_index(open_raw(raw))


@pytest.mark.parametrize("seed", range(4))
def test_actors_stand_in_one_split_and_men_and_women_in_all(seed: int) -> None:
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


def test_split_seed_decides_who_goes_where() -> None:
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
def test_the_frames_nearest_to_the_instants_are_taken(
    tmp_path: Path, count: int, rate: Fraction | int, expected: list[int | None]
) -> None:
    frames = read_frames(write_numbered(tmp_path / "clip.mp4", count, rate))
    found = [number_of(frame) for frame in frames]
    # Frames that are equally near: either would do.
    tie = 1 if rate == 25 else 0
    for number, wanted in zip(found, expected, strict=True):
        assert number == wanted or (number is not None and 0 <= number - (wanted or 0) <= tie)
    start = max(0, (count / rate - 3.6) / 2)
    for number, instant in zip(found, INSTANTS, strict=True):
        if number is not None:
            assert abs(number / rate - start - instant) <= 0.5 / rate + 1e-9


def quarters() -> np.ndarray:
    """RGB ``(48, 64, 3)``: red, green, blue and black, each in a quarter."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32, 0] = frame[:24, 32:, 1] = frame[24:, :32, 2] = 255
    return frame


@pytest.mark.parametrize("flip", ["", "hflip", "vflip"])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_a_video_is_turned_as_it_is_to_be_shown(tmp_path: Path, degrees: int, flip: str) -> None:
    turn = {"degrees": degrees, **({flip: True} if flip else {})}
    clip = write_video(tmp_path / "a.mp4", [quarters()] * 12, turn=turn)
    expected = np.rot90(quarters(), degrees // 90)  # counter-clockwise
    if flip:
        expected = np.flip(expected, axis={"vflip": 0, "hflip": 1}[flip])
    frame = read_frames(clip)[0]
    assert frame.shape == expected.shape
    assert frame.flags.c_contiguous
    assert np.abs(frame.astype(int) - expected).mean() < 12  # H.264 blurs where quarters meet


def test_a_video_that_is_to_be_shown_aslant_is_refused(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", [quarters()] * 12, turn={"degrees": 37})
    with pytest.raises(ValueError, match=r"a\.mp4: is to be shown turned by 3[67] degrees"):
        read_frames(clip)


def test_a_video_in_which_nothing_is_seen_is_refused(tmp_path: Path) -> None:
    """Frames of one colour, were it a different one in each."""
    plain = [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(12)]
    clip = write_video(tmp_path / "a.mp4", plain)
    with pytest.raises(ValueError, match=r"a\.mp4: nothing is to be seen, every frame has one"):
        read_frames(clip)
    plain[3] = quarters()
    assert len(read_frames(write_video(tmp_path / "b.mp4", plain))) == 15


class Shown(FaceFinder):
    """Finds a face at the left end of every frame whose number is in `numbers`."""

    def __init__(self, numbers: set[int]) -> None:
        self.numbers = numbers

    def find(self, frame: np.ndarray) -> Square | None:
        number = int(frame[0, 0, 1])
        return Square(number, 0, 10) if number in self.numbers else None


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({10, 20, 30}, [10, 20, 30]),
        ({10}, [10, 10, 10]),
        ({20}, [20, 20, 20]),
        ({10, 30}, [10, 10, 30]),
        (set(), [None, None, None]),
    ],
)
def test_where_no_face_is_found_the_last_one_s_place_is_taken(
    seen: set[int], expected: list[int | None]
) -> None:
    frames = []
    for number in (10, 20, 30):
        # Blue tells the column, so that a crop tells where it was cut.
        frame = np.zeros((20, 60, 3), np.uint8)
        frame[..., 1], frame[..., 2] = number, np.arange(60)
        frames.append(frame)
    cropped, without_face, missing = crop_faces([*frames, None], Shown(seen))
    assert cropped.shape == (3, 4, 224, 224)
    assert cropped.dtype == np.float32
    assert (without_face, missing) == (3 - len(seen), 1)
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
def test_the_centre_crop_is_the_largest_square_in_the_middle(shape: tuple[int, int]) -> None:
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


def test_real_faces_are_found_in_nearly_every_frame(faces: list[Path]) -> None:
    finder = HaarFaces()
    for file in faces[:4]:
        frames = read_frames(file)
        cropped, without_face, missing = crop_faces(frames, finder)
        assert missing == 2  # 3.0 s: the instants 3.2 and 3.43
        assert without_face == 0
        for frame in frames[:-2]:
            height, width, _ = frame.shape
            left, top, side = finder.find(frame)
            assert side > height / 3
            assert left >= 0 <= top
            assert left + side <= width
            assert top + side <= height
        # Skin in the middle of the picture: red above green above blue, and the wall is blue.
        red, green, blue = cropped[:, :-2, 80:176, 80:144].mean(axis=(1, 2, 3))
        assert red > green + 0.05
        assert green > blue


def test_a_face_that_a_phone_stored_on_its_side_is_found(faces: list[Path], tmp_path: Path) -> None:
    with av.open(str(faces[0])) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    lying = [np.rot90(frame) for frame in shown]
    clip = write_video(tmp_path / "a.mp4", map(np.ascontiguousarray, lying), 25)
    assert crop_faces(read_frames(clip), HaarFaces())[1] == 13
    clip = write_video(
        tmp_path / "b.mp4", map(np.ascontiguousarray, lying), 25, turn={"degrees": -90}
    )
    cropped, without_face, missing = crop_faces(read_frames(clip), HaarFaces())
    assert (without_face, missing) == (0, 2)
    upright, _, _ = crop_faces(read_frames(faces[0]), HaarFaces())
    assert np.abs(cropped - upright).mean() < 0.05


@pytest.mark.parametrize("scale", [3, 4])
def test_a_large_frame_shows_the_same_face(faces: list[Path], scale: int) -> None:
    frame = read_frames(faces[0])[0]
    small = HaarFaces().find(frame)
    large = HaarFaces().find(frame.repeat(scale, axis=0).repeat(scale, axis=1))
    np.testing.assert_allclose(np.array(large) / scale, small, atol=frame.shape[0] / 10)


def test_grid_clips_under_ravdess_names_are_samples(faces: list[Path], tmp_path: Path) -> None:
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
    """MFCC by the formulas that librosa documents, ``(15, 156)`` in float64."""
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
def test_mfcc_are_those_of_librosa_s_formulas(gain: float) -> None:
    rng = np.random.default_rng(0)
    time = np.arange(LENGTH) / RATE
    chirp = np.sin(2 * np.pi * (200 + 700 * time) * time) + 0.01 * rng.normal(size=LENGTH)
    # Faint and silent parts, so that the cut at 80 dB matters.
    chirp[30_000:50_000] *= 1e-4
    chirp[60_000:] = 0
    # A loud clip beside it must not raise the cut.
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
    # The phase tells the time: a ramp from 0 to half at the file's end.
    ramp = np.linspace(0, 0.5, round(seconds * rate))
    soundfile.write(tmp_path / "a.wav", np.stack([ramp, ramp], axis=1), rate, subtype="FLOAT")
    wave, noted = read_speech(tmp_path / "a.wav")
    assert wave.shape == (LENGTH,)
    assert wave.dtype == np.float32
    assert noted == pytest.approx(seconds)
    kept = round(expected * RATE)
    assert (wave[kept + 1 :] == 0).all()
    start = max(0.0, (seconds - 3.6) / 2)
    wanted = (start + np.arange(kept) / RATE) / seconds / 2
    np.testing.assert_allclose(wave[200 : kept - 200], wanted[200:-200], atol=1e-3)


@pytest.mark.parametrize("rate", [RATE, 44_100, 48_000])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_speech_that_is_silent_where_it_is_kept_is_refused(
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


def test_an_untouched_wav_sounds_as_its_ogg_does(shared_data: Path) -> None:
    wavs = sorted((shared_data / "ravdess" / "original_wav").rglob("*.wav"))
    if not wavs:
        pytest.skip(f"{shared_data}/ravdess/original_wav is absent")
    for wav in wavs:
        ogg = shared_data / "ravdess" / "audio_ogg_22k" / wav.parent.name / f"{wav.stem}.ogg"
        (original, seconds), (coded, coded_seconds) = read_speech(wav), read_speech(ogg)
        assert seconds == pytest.approx(coded_seconds, abs=0.01)
        assert np.corrcoef(original, coded)[0, 1] > 0.99
        one, other = mfcc(np.stack([original, coded]))
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99


# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def blot(path: Path) -> None:
    """Zeros in place of the frames."""
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def write_cut_movie(path: Path) -> None:
    """The header first, as for streaming, and half of the frames."""
    write_numbered(path, 108, movflags="faststart")
    cut(path)


WAV, MP4 = "03-01-04-01-01-01-03.wav", "01-01-04-01-01-01-03.mp4"


@pytest.mark.parametrize(
    ("file", "damage", "rule"),
    [
        (WAV, lambda file: file.write_bytes(b""), "no audio that soundfile can read"),
        (WAV, lambda file: file.write_bytes(b"<html>"), "no audio that soundfile can read"),
        (WAV, lambda file: soundfile.write(file, [], 8000), "holds 0 audio samples"),
        (WAV, cut, "is cut short, 4022 of 8044 bytes"),
        (
            WAV,
            lambda file: soundfile.write(file, np.full(99, np.nan), 8000, subtype="FLOAT"),
            "NaN or infinite",
        ),
        (MP4, lambda file: file.write_bytes(b""), "no video that can be decoded"),
        (MP4, lambda file: file.write_bytes(b"<html>"), "no video that can be decoded"),
        (MP4, cut, "no video that can be decoded"),
        (MP4, blot, "decoded"),
        (MP4, write_cut_movie, r"is cut short, \d+ of 108 frames are left"),
        (MP4, write_sound_alone, "has no video stream"),
        (MP4, lambda file: write_numbered(file, 2), r"lasts 0.067 s and ends before the first"),
    ],
)
def test_a_file_that_cannot_be_read_damages_its_sample_alone(
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
        ("recording.wav", "the name 'recording' does not fit {modality}-{channel}-{emotion}-"),
        ("03-01-04-01-01-01.wav", "does not fit .*, two digits each"),
        ("03-01-04-01-01-01-3.wav", "does not fit"),
        ("03-01-09-01-01-01-03.wav", "has emotion 09, expected 01 to 08"),
        ("03-01-04-01-01-01-25.wav", "has actor 25, expected 01 to 24"),
        ("04-01-04-01-01-01-03.mp4", "has modality 04, expected 01 to 03"),
        (
            "03-01-04-01-01-01-03.ogg",
            r"is the same clip as \S*03-01-04-01-01-01-03.ogg: remove one",
        ),
    ],
)
def test_a_wrong_name_is_named_with_the_rule(raw: Path, name: str, rule: str) -> None:
    (raw / "Actor_03" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rule) as error:
        open_raw(raw)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("03-01-*.wav", "raw holds no spoken audio: put RAVDESS's speech, 03-01-….wav"),
        ("01-01-*.mp4", "raw holds no spoken video: put RAVDESS's videos with sound"),
        ("01-01-*-0[12].mp4", "6 of 18 samples cannot be used.*raw holds no video of this clip"),
        ("01-01-*-0[1-5].mp4", "15 of 18 samples cannot be used.*raw holds no video of this clip"),
        ("0*-0[3456].*", "2 actors: at least 3 are needed"),
    ],
)
def test_too_few_files_are_told(raw: Path, pattern: str, rule: str) -> None:
    for file in raw.rglob(pattern):
        file.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=rule):
        open_raw(raw)


def test_a_missing_folder_says_what_to_put_there(raw: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none is no folder: put .*Audio_Speech_Actors"):
        RAVDESS("heldout", str(raw / "none"), str(raw))
    with pytest.raises(FileNotFoundError, match=r"none is no folder: put .*Video_Speech_Actor"):
        RAVDESS("heldout", str(raw), str(raw / "none"))


def test_an_unknown_face_finder_is_told_with_the_nearest(raw: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'HaarFaces'"):
        open_raw(raw, face_finder="mst_distill.media.faces.HarFace")
