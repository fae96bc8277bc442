"""Stale, damaged and incomplete artefacts are an error, and are never used."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mst_distill.artifacts.bundle import load_bundle, save_bundle
from mst_distill.artifacts.provenance import read_sidecar, sidecar_path, write_sidecar
from projects import copy_project, run_session, session_in, stages

SHORT = stages({"factor": 10}, epochs=1)
RUN = "digits/heldout-all/image/seed-0/main"
DATA = "data/05_model_input/digits/heldout-all"
MODELS = f"data/06_models/{RUN}"
OUTPUT = f"data/07_model_output/{RUN}"
REPORT = f"data/08_reporting/{RUN}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the project with a finished run."""
    folder = copy_project(tmp_path_factory.mktemp("stale") / "project")
    run_session(folder, "distill", **SHORT)
    return folder


@pytest.fixture
def project(finished, tmp_path):
    """A copy of the finished run, which a test may damage."""
    return shutil.copytree(finished, tmp_path / "project")


def changed(**blocks):
    return {name: {**SHORT.get(name, {}), **blocks.get(name, {})} for name in {**SHORT, **blocks}}


def written(project: Path) -> dict[Path, int]:
    """Path of each JSON file of a run, to the time of its last modification."""
    return {path: path.stat().st_mtime_ns for path in (project / "data").rglob("*.json")}


def resign(path: Path) -> None:
    """Rewrite an artefact's sidecar for its present content, as if its node had written that."""
    sidecar = read_sidecar(path)
    files = [path.parent / name for name in sidecar.files]
    write_sidecar(path, files, sidecar.origin)


def test_a_stage_that_ends_leaves_the_checkpoints_of_other_stages(project):
    interrupted = project / MODELS / "checkpoints/route.train_student/other.pt"
    interrupted.parent.mkdir(parents=True)
    interrupted.touch()
    run_session(project, "masks", **SHORT)
    assert [path.name for path in interrupted.parents[1].iterdir()] == ["route.train_student"]
    run_session(project, "route", ["train_student"], **SHORT)
    assert not interrupted.parents[1].exists()


def test_stages_run_on_the_artefacts_of_a_finished_run(project):
    for stage in ("masks", "route", "evaluate"):
        run_session(project, stage, **SHORT)


@pytest.mark.parametrize(
    ("stage", "change", "name", "clause", "node"),
    [
        ("masks", {"teachers": {"epochs": 2}}, "members", "teachers.epochs was 1 and is 2",
         "train_members"),
        ("route", {"teachers": {"epochs": 2}}, "members", "teachers.epochs was 1 and is 2",
         "train_members"),
        ("evaluate", {"masks": {"heads": 2}}, "masks", "masks.heads was 3 and is 2", "train_masks"),
        ("evaluate", {"route": {"kd_weight": 0.5}}, "student",
         "route.kd_weight was 1.0 and is 0.5", "train_student"),
        ("evaluate", {"runtime": {"precision": "bfloat16"}}, "members",
         "runtime.precision was float32 and is bfloat16", "train_members"),
        ("teachers", {"benchmark": {"arguments": {"kept_energy": 0.4}}}, "samples",
         "benchmark.arguments.kept_energy was 0.3 and is 0.4", "build_samples"),
    ],
)  # fmt: skip
def test_the_error_names_the_changed_parameter(project, stage, change, name, clause, node):
    message = f"'{name}' is out of .*{clause}.* Run again with --from-nodes=\\w+.{node}"
    with pytest.raises(ValueError, match=message):
        run_session(project, stage, **changed(**change))


@pytest.mark.parametrize(
    ("node", "change", "clause"),
    [
        ("compare_models", {"route": {"selection": "ce"}}, "selection was metric and is ce"),
        ("compare_models", {"teachers": {"epochs": 2}}, "teachers.epochs was 1 and is 2"),
        ("draw_confusion", {"evaluate": {"calibration_bins": 3}}, "bins was 15 and is 3"),
        ("train_student", {"masks": {"factor": 8}}, "masks.factor was 10 and is 8"),
        ("summarise_samples", {"benchmark": {"arguments": {"kept_energy": 0.4}}}, "energy was"),
    ],
)  # fmt: skip
def test_a_table_of_other_parameters_is_an_error(project, node, change, clause):
    pipeline = {"summarise_samples": "ingest", "train_student": "route"}.get(node, "evaluate")
    with pytest.raises(ValueError, match=clause):
        run_session(project, pipeline, [node], **changed(**change))


def test_runtime_and_parameters_that_a_node_does_not_use_make_nothing_stale(project):
    change = {"route": {"epochs": 2}, "runtime": {"frozen": "online"}}
    run_session(project, "route", ["train_student"], **changed(**change))


def test_other_samples_are_an_error(project):
    other = {"benchmark": {"arguments": {"kept_energy": 0.4}}}
    run_session(project, "ingest", **changed(**other))
    with pytest.raises(ValueError, match=r"'samples' is out of .*kept_energy was 0.4 and is 0.3"):
        run_session(project, "masks", **SHORT)
    with pytest.raises(ValueError, match=r"'members' is out of .*its input 'samples' has changed"):
        run_session(project, "masks", **changed(**other))


def test_masks_of_another_teacher_are_an_error(project):
    path = project / MODELS / "members/multimodal.json"
    bundle = load_bundle(path)
    with torch.no_grad():
        next(bundle.net.parameters()).add_(1)
    save_bundle(dataclasses.replace(bundle), path)
    with pytest.raises(ValueError, match=r"multimodal\.json is damaged"):
        run_session(project, "masks", **SHORT)
    resign(project / MODELS / "members")
    with pytest.raises(ValueError, match=r"'masks' is out of .*its input 'members' has changed"):
        run_session(project, "route", **SHORT)


def test_logits_of_other_specialists_are_an_error(project):
    other = changed(masks={"factor": 8})
    run_session(project, "masks", **other)
    with pytest.raises(ValueError, match=r"'specialist_logits' is .*input 'masks' has changed"):
        run_session(project, "route", ["train_student"], **other)


def test_swapped_and_foreign_bundles_are_an_error(project):
    students = project / MODELS / "students"
    for suffix in ("json", "safetensors"):
        one, other = students / f"accuracy.{suffix}", students / f"ce.{suffix}"
        one.rename(students / "temporary")
        other.rename(one)
        (students / "temporary").rename(other)
    with pytest.raises(
        ValueError, match=r"accuracy\.\w+ is damaged.*--from-nodes=route.train_student"
    ):
        run_session(project, "evaluate", **SHORT)
    members = project / MODELS / "members"
    for suffix in ("json", "safetensors"):
        shutil.copy(members / f"audio.{suffix}", members / f"text.{suffix}")
    with pytest.raises(ValueError, match=r"text\.json was not written together with members"):
        run_session(project, "masks", **SHORT)


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        (f"{DATA}/seed-0/splits.parquet", "teachers"),
        (f"{DATA}/samples/image.npy", "teachers"),
        (f"{DATA}/samples/index.parquet", "teachers"),
        (f"{DATA}/samples/store.json", "teachers"),
        (f"{MODELS}/members/image.safetensors", "masks"),
        (f"{MODELS}/masks/audio/hidden.safetensors", "evaluate"),
        (f"{MODELS}/specialist_logits.parquet", "train_student"),
        (f"{OUTPUT}/predictions.parquet", "compare_models"),
        (f"{OUTPUT}/metric_counts.json", "compare_models"),
        (f"{REPORT}/teachers_history.csv", "draw_learning_curves"),
        (f"{REPORT}/routing.csv", "draw_routing"),
    ],
)
def test_a_flipped_bit_in_an_artefact_is_an_error(project, file, stage):
    content = bytearray((project / file).read_bytes())
    content[len(content) // 2] ^= 4
    (project / file).write_bytes(content)
    nodes = [stage] if "_" in stage else []
    pipeline = "distill" if nodes else stage
    with pytest.raises(ValueError, match=rf"{Path(file).name} is damaged.*--from-nodes="):
        run_session(project, pipeline, nodes, **SHORT)


def test_splits_of_other_samples_are_an_error_even_with_a_valid_sidecar(project):
    path = project / DATA / "seed-0/splits.parquet"
    splits = pd.read_parquet(path)
    order = np.random.default_rng(0).permutation(len(splits))
    for column, message in (("label", "'label' differs in"), ("id", "'id' differs in")):
        splits.assign(**{column: splits[column].to_numpy()[order]}).to_parquet(path)
        resign(path)
        with pytest.raises(
            ValueError, match=f"the splits do not belong to these samples: {message}"
        ):
            run_session(project, "teachers", **SHORT)


def test_a_table_without_its_sidecar_is_an_error(project):
    table = project / OUTPUT / "predictions.parquet"
    sidecar_path(table).unlink()
    message = (
        r"predictions\.parquet is incomplete, or was made before .*--from-nodes=.*predict_held_out"
    )
    with pytest.raises(ValueError, match=message):
        run_session(project, "evaluate", ["compare_models"], **SHORT)


def test_outside_of_a_run_a_stale_table_is_a_warning_and_a_damaged_one_an_error(project, caplog):
    """As in a notebook, which gets its catalog from the context of a session."""
    with session_in(project, **changed(route={"kd_weight": 0.5})) as session:
        catalog = session.load_context().catalog
        assert len(catalog.load("predictions"))
        assert "route.kd_weight was 1.0 and is 0.5" in caplog.text
        table = project / OUTPUT / "predictions.parquet"
        content = table.read_bytes()
        table.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=r"predictions\.parquet is damaged"):
            catalog.load("predictions")
        table.write_bytes(content)


def test_a_damaged_store_is_rebuilt_by_ingest(project):
    image = project / DATA / "samples/image.npy"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run_session(project, "ingest", **SHORT)
    assert image.read_bytes() == content
    run_session(project, "masks", **SHORT)


def test_only_missing_outputs_replaces_stale_outputs_too(project):
    before = written(project)
    run_session(project, only_missing_outputs=True, **SHORT)
    assert written(project) == before
    run_session(project, only_missing_outputs=True, **changed(route={"epochs": 2}))
    replaced = {path for path, when in written(project).items() if when != before[path]}
    assert project / MODELS / "student.json" in replaced
    assert project / REPORT / "metrics.json" in replaced
    assert not {path for path in replaced if {"members", "masks", "samples"} & set(path.parts)}


@pytest.mark.parametrize("name", ["audio.json", "audio.safetensors"])
def test_half_a_folder_of_bundles_is_an_error_before_anything_is_trained(project, name, caplog):
    (project / MODELS / "members" / name).unlink()
    message = rf"{name} is missing. Run again with --from-nodes=teachers.train_members and without"
    with pytest.raises(ValueError, match=message):
        run_session(project, "evaluate", **SHORT)
    assert "Running node" not in caplog.text
