"""What is stale, damaged or not whole is never taken for what would be made now."""

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
from projects import copy_project, run_session, stages

SHORT = stages({"factor": 10}, epochs=1)
RUN = "digits/heldout-all/image/seed-0/main"
DATA = "data/05_model_input/digits/heldout-all"
MODELS = f"data/06_models/{RUN}"
OUTPUT = f"data/07_model_output/{RUN}"
REPORT = f"data/08_reporting/{RUN}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy of the project in which a run has been made."""
    folder = copy_project(tmp_path_factory.mktemp("stale") / "project")
    run_session(folder, "distill", **SHORT)
    return folder


@pytest.fixture
def project(made, tmp_path):
    """A copy of the run, to be spoilt."""
    return shutil.copytree(made, tmp_path / "project")


def changed(**blocks):
    return {name: {**SHORT.get(name, {}), **blocks.get(name, {})} for name in {**SHORT, **blocks}}


def written(project: Path) -> dict[Path, int]:
    """When each of a run's files was written."""
    return {path: path.stat().st_mtime_ns for path in (project / "data").rglob("*.json")}


def resign(path: Path) -> None:
    """Let an artefact's sidecar vouch for what is there, as if its node had written it."""
    sidecar = read_sidecar(path)
    files = [path.parent / name for name in sidecar.files]
    write_sidecar(path, files, sidecar.origin)


def test_a_stage_that_fits_is_run_from_what_is_there(project):
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
        ("evaluate", {"route": {"kd_weight": 0.5}}, "students",
         "route.kd_weight was 1.0 and is 0.5", "train_student"),
        ("evaluate", {"runtime": {"precision": "bfloat16"}}, "members",
         "runtime.precision was float32 and is bfloat16", "train_members"),
        ("teachers", {"benchmark": {"arguments": {"kept_energy": 0.4}}}, "samples",
         "benchmark.arguments.kept_energy was 0.3 and is 0.4", "build_samples"),
    ],
)  # fmt: skip
def test_other_parameters_are_named(project, stage, change, name, clause, node):
    message = f"'{name}' is not what would be made now: .*{clause}.* Run again --from-nodes={node}"
    with pytest.raises(ValueError, match=message):
        run_session(project, stage, **changed(**change))


@pytest.mark.parametrize(
    ("node", "change", "clause"),
    [
        ("compare_models", {"route": {"selection": "ce"}}, "selection was accuracy and is ce"),
        ("compare_models", {"teachers": {"epochs": 2}}, "teachers.epochs was 1 and is 2"),
        ("draw_confusion", {"evaluate": {"calibration_bins": 3}}, "bins was 15 and is 3"),
        ("train_student", {"masks": {"factor": 8}}, "masks.factor was 10 and is 8"),
        ("summarise_samples", {"benchmark": {"arguments": {"kept_energy": 0.4}}}, "energy was"),
    ],
)  # fmt: skip
def test_a_node_never_reads_a_table_of_other_parameters(project, node, change, clause):
    pipeline = {"summarise_samples": "ingest", "train_student": "route"}.get(node, "evaluate")
    with pytest.raises(ValueError, match=clause):
        run_session(project, pipeline, [node], **changed(**change))


def test_where_it_is_computed_and_what_a_node_does_not_use_make_nothing_stale(project):
    change = {"route": {"epochs": 2}, "runtime": {"frozen": "online"}}
    run_session(project, "route", ["train_student"], **changed(**change))


def test_other_samples_are_refused(project):
    other = {"benchmark": {"arguments": {"kept_energy": 0.4}}}
    run_session(project, "ingest", **changed(**other))
    with pytest.raises(ValueError, match=r"'samples' is not .*kept_energy was 0.4 and is 0.3"):
        run_session(project, "masks", **SHORT)
    with pytest.raises(ValueError, match=r"'members' is not .*its input 'samples' has changed"):
        run_session(project, "masks", **changed(**other))


def test_masks_of_another_teacher_are_refused(project):
    path = project / MODELS / "members/multimodal.json"
    bundle = load_bundle(path)
    with torch.no_grad():
        next(bundle.net.parameters()).add_(1)
    save_bundle(dataclasses.replace(bundle), path)
    with pytest.raises(ValueError, match=r"multimodal\.json is damaged"):
        run_session(project, "masks", **SHORT)
    resign(project / MODELS / "members")
    with pytest.raises(ValueError, match=r"'masks' is not .*its input 'members' has changed"):
        run_session(project, "route", **SHORT)


def test_logits_of_other_specialists_are_refused(project):
    other = changed(masks={"factor": 8})
    run_session(project, "masks", **other)
    with pytest.raises(ValueError, match=r"'specialist_logits' is .*input 'masks' has changed"):
        run_session(project, "route", ["train_student"], **other)


def test_swapped_strange_and_missing_bundles_are_refused(project):
    students = project / MODELS / "students"
    for suffix in ("json", "safetensors"):
        one, other = students / f"accuracy.{suffix}", students / f"ce.{suffix}"
        one.rename(students / "third")
        other.rename(one)
        (students / "third").rename(other)
    with pytest.raises(ValueError, match=r"accuracy\.\w+ is damaged.*--from-nodes=train_student"):
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
        (f"{OUTPUT}/tallies.json", "compare_models"),
        (f"{REPORT}/teachers_history.csv", "draw_learning_curves"),
        (f"{REPORT}/routing.csv", "draw_routing"),
    ],
)
def test_a_flipped_bit_in_any_artefact_is_refused(project, file, stage):
    content = bytearray((project / file).read_bytes())
    content[len(content) // 2] ^= 4
    (project / file).write_bytes(content)
    nodes = [stage] if "_" in stage else []
    pipeline = "distill" if nodes else stage
    with pytest.raises(ValueError, match=rf"{Path(file).name} is damaged.*--from-nodes="):
        run_session(project, pipeline, nodes, **SHORT)


def test_splits_of_other_samples_are_refused_whoever_signs_them(project):
    path = project / DATA / "seed-0/splits.parquet"
    splits = pd.read_parquet(path)
    order = np.random.default_rng(0).permutation(len(splits))
    for column, told in (("label", "'label' differs in"), ("id", "'id' differs in")):
        splits.assign(**{column: splits[column].to_numpy()[order]}).to_parquet(path)
        resign(path)
        with pytest.raises(ValueError, match=f"the splits are not of these samples: {told}"):
            run_session(project, "teachers", **SHORT)


def test_a_table_without_its_sidecar_is_not_whole(project):
    table = project / OUTPUT / "predictions.parquet"
    sidecar_path(table).unlink()
    message = r"predictions\.parquet is not whole, or from before .*--from-nodes=predict_held_out"
    with pytest.raises(ValueError, match=message):
        run_session(project, "evaluate", ["compare_models"], **SHORT)


def test_a_damaged_store_is_built_anew_by_ingest(project):
    image = project / DATA / "samples/image.npy"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run_session(project, "ingest", **SHORT)
    assert image.read_bytes() == content
    run_session(project, "masks", **SHORT)


def test_what_is_stale_does_not_exist_for_only_missing_outputs(project):
    before = written(project)
    run_session(project, only_missing_outputs=True, **SHORT)
    assert written(project) == before
    run_session(project, only_missing_outputs=True, **changed(route={"epochs": 2}))
    made = {path for path, when in written(project).items() if when != before[path]}
    assert project / MODELS / "student.json" in made
    assert project / REPORT / "metrics.json" in made
    assert not {path for path in made if {"members", "masks", "samples"} & set(path.parts)}
