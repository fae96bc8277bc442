"""Runs of RAVDESS: real talking faces under its file names, and its real action units."""

from __future__ import annotations

import json
import shutil

import av
import numpy as np
import pandas as pd
import pytest
import soundfile

from projects import copy_project, run_session, stages

QUICK = stages({"factor": 10}, epochs=1, batch_size=8)


def write_sound(clip, path):
    """Write the sound of a video as a WAV file."""
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        soundfile.write(path, np.concatenate(frames, axis=1).T, container.streams.audio[0].rate)


@pytest.fixture
def talking(shared_data, tmp_path):
    """Twelve real clips, named as those of four actors with three emotions each."""
    files = sorted((shared_data / "grid_s1" / "clips").glob("*.mp4"))
    if not files:
        pytest.skip(f"{shared_data}/grid_s1/clips holds no clips")
    folder = tmp_path / "raw"
    folder.mkdir()
    names = [
        f"01-{emotion:02d}-01-01-01-{actor:02d}" for actor in range(1, 5) for emotion in (3, 4, 5)
    ]
    for name, file in zip(names, files, strict=False):
        shutil.copyfile(file, folder / f"01-{name}.mp4")
        write_sound(file, folder / f"03-{name}.wav")
    return folder


@pytest.mark.long
def test_faces_and_voices_pass_all_stages(talking, tmp_path):
    project = copy_project(tmp_path / "project")
    (talking / "03-01-03-01-01-01-01.wav").unlink()
    (talking / "01-01-04-01-01-01-01.mp4").write_bytes(b"no video")
    arguments = {"audio": str(talking), "video": str(talking), "tolerated_share": 0.2}
    run_session(project, env="ravdess", benchmark={"arguments": arguments}, **QUICK)

    run = "ravdess/heldout-all/audio/seed-0/main"
    metrics = json.loads((project / f"data/08_reporting/{run}/metrics.json").read_text())
    assert "audio student" in metrics["verdict"]
    index = pd.read_parquet(
        project / "data/05_model_input/ravdess/heldout-all/samples/index.parquet"
    )
    assert len(index) == 10
    assert (index["frames_without_face"] == 0).all()
    assert (index["frames_missing"] == 2).all()
    report = (project / f"data/08_reporting/{run}/samples_report.json").read_text()
    assert "contains no audio of this clip" in report
    assert "01-01-04-01-01-01-01.mp4: contains no video that can be decoded" in report


@pytest.mark.long
def test_two_hundred_real_clips_as_action_units_pass_all_stages(shared_data, tmp_path):
    table = shared_data / "ravdess" / "visual_action_units" / "df_average_AUs_total.csv"
    if not table.is_file():
        pytest.skip(f"{table} is absent")
    project = copy_project(tmp_path / "project")
    arguments = {
        "units": str(table),
        "audio": str(shared_data / "ravdess" / "audio_ogg_22k"),
    }
    benchmark = {"arguments": arguments}
    run_session(project, env="ravdess_units", limit=200, benchmark=benchmark, **QUICK)

    run = "ravdess_units/heldout-200/audio/seed-0/main"
    metrics = json.loads((project / f"data/08_reporting/{run}/metrics.json").read_text())
    assert "audio student" in metrics["verdict"]
    splits = pd.read_parquet(
        project / "data/05_model_input/ravdess_units/heldout-200/seed-0/splits.parquet"
    )
    assert len(splits) == 200
    assert splits.drop_duplicates(["group", "split"])["group"].is_unique


def test_the_error_of_a_missing_folder_names_the_expected_files(tmp_path):
    project = copy_project(tmp_path / "project")
    message = r"data/01_raw/ravdess/audio is not a folder.*Audio_Speech_Actors_01-24\.zip"
    with pytest.raises(FileNotFoundError, match=message):
        run_session(project, env="ravdess")
