"""Wrong input is an error with a helpful message, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from projects import copy_project, run_session


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": {"modalities": {"image": {"type": "no.Net"}}}}, "member 'image'.*no.Net"),
        (
            {"members": {"modalities": {"image": {"arguments": {"width": 3}}}}},
            "member 'image'.*width",
        ),
        (
            {"members": {"multimodal": {"masked_layers": ["fusoin"]}}},
            "unknown layer of member 'multimodal' 'fusoin'.*did you mean 'fusion'",
        ),
        ({"members": {"modalities": {"image": {"start": "math.no"}}}}, "unknown function in math"),
        ({"runtime": {"device": "gpu"}}, "runtime.device 'gpu'.*'auto' or 'cpu'"),
    ],
)
def test_what_needs_no_samples_is_checked_before_any_is_read(tmp_path, changes, message):
    project = copy_project(tmp_path / "project")
    with pytest.raises(Exception, match=message):
        run_session(project, **changes)
    assert not (project / "data/05_model_input/digits").exists()


def test_a_method_is_checked_before_any_sample_is_read(tmp_path):
    project = copy_project(tmp_path / "project")
    methods = {"own": {"type": "mst_distill.compare.methods.kd.KDD"}}
    with pytest.raises(ValueError, match="did you mean 'KD'"):
        run_session(project, "compare", compare={"methods": methods})
    assert not (project / "data/05_model_input/digits").exists()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with the store of samples."""
    folder = copy_project(tmp_path_factory.mktemp("wrong") / "project")
    run_session(folder, "ingest")
    return folder


def assert_error(project: Path, message: str, pipeline: str = "distill", **changes) -> None:
    with pytest.raises(Exception, match=message):
        run_session(project, pipeline, **changes)
    assert not list((project / "data/06_models").rglob("*.safetensors")), "something was trained"


def test_an_unknown_block(project):
    assert_error(
        project, "unknown parameter 'techers'.*did you mean 'teachers'", techers={"epochs": 1}
    )


def test_an_unknown_key_in_a_block(project):
    message = "unknown parameter 'epoch'.*did you mean 'epochs'"
    assert_error(project, message, teachers={"epoch": 1})


def test_no_masked_layer(project):
    members = {
        "multimodal": {"masked_layers": []},
        "modalities": {"audio": {"masked_layers": []}},
    }
    message = "no teacher of 'image' has masked layers.*multimodal, audio"
    assert_error(project, message, members=members)


def test_a_value_out_of_range(project):
    assert_error(project, "(?s)route.*learning_rate.*greater than 0", route={"learning_rate": -1.0})


def test_an_unknown_preset(project):
    assert_error(project, "'default', 'paper', 'reference' or 'merit'", route={"preset": "papers"})


@pytest.mark.parametrize("pipeline", ["distill", "ingest"])
def test_an_unknown_target(project, pipeline):
    message = "unknown target 'video'; available: image, audio"
    assert_error(project, message, pipeline, target="video")


def test_an_unknown_layer(project):
    members = {"modalities": {"audio": {"masked_layers": ["dens"]}}}
    message = "unknown layer of member 'audio' 'dens'.*features.0.*did you mean 'dense'"
    assert_error(project, message, members=members)


def test_a_layer_that_cannot_be_masked(project):
    members = {"modalities": {"audio": {"masked_layers": ["features.0"]}}}
    assert_error(project, "layer 'features.0' of member 'audio'.*cannot be masked", members=members)


def test_a_net_that_is_not_a_module(project):
    members = {"modalities": {"image": {"type": "mst_distill.data.samples.Samples"}}}
    assert_error(
        project,
        r"member 'image'.*must be derived from torch.nn.modules.module.Module",
        members=members,
    )


def test_a_net_whose_logits_do_not_fit_the_classes(project):
    members = {"modalities": {"image": {"type": "torch.nn.Flatten", "arguments": {}}}}
    assert_error(project, "member 'image'", members=members)
    members = {"modalities": {"image": {"type": "toy_nets.Stubborn", "masked_layers": ["last"]}}}
    assert_error(
        project, r"member 'image' outputs logits of shape \(2, 7\).*\(2, 10\)", members=members
    )


def test_missing_and_empty_raw_files(project):
    missing = {"arguments": {"recordings": "nowhere/digits.npz"}}
    assert_error(project, "nowhere/digits.npz is missing", run="m", benchmark=missing)
    empty = project / "empty.npz"
    empty.touch()
    assert_error(project, "empty.npz", benchmark={"arguments": {"recordings": str(empty)}})


def test_an_unknown_argument_of_the_benchmark(project):
    message = "benchmark mst_distill.benchmarks.digits.Digits.*kept_enrgy"
    assert_error(project, message, benchmark={"arguments": {"kept_enrgy": 0.3}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "held-out"}, "unknown protocol 'held-out'.*did you mean 'heldout'"),
        ({"route": {"chosen": 5}}, "route.chosen is 5, but the teachers of 'image' have only 4"),
        ({"masks": {"factor": 40}}, "layer 'hidden' of member 'multimodal'.*width 48.*at most 48"),
        ({"seed": -1}, "seed is -1; it must be an integer of at least 0"),
        ({"seed": "one"}, "seed is 'one'"),
        ({"limit": 0}, "limit is 0; it must be an integer above 0, or 'all'"),
        ({"limit": "some"}, "limit is 'some'"),
        ({"runtime": {"device": "gpu"}}, "runtime.device 'gpu'.*'auto' or 'cpu'"),
    ],
)
def test_other_invalid_values(project, changes, message):
    assert_error(project, message, **changes)


def test_nan_in_a_modality_names_the_recording(project):
    with np.load(project / "data/01_raw/digits/digits.npz") as arrays:
        changed = dict(arrays)
    changed["X"][5] = np.nan
    np.savez(project / "nan.npz", **changed)
    benchmark = {"arguments": {"recordings": str(project / "nan.npz")}}
    store = project / "data/05_model_input/digits/heldout-all/samples/store.json"
    before = store.read_bytes()
    assert_error(project, "nan.npz: recording 0 in X contains NaN", benchmark=benchmark)
    assert store.read_bytes() == before, "the valid store was overwritten"


def test_a_sample_id_in_two_splits(project):
    """The catalog validates every table of splits that it saves."""
    from kedro.io import DataCatalog

    import mst_distill.benchmarks.splits as splits

    bootstrap_project(project)
    with KedroSession.create(project_path=project) as session:
        catalog: DataCatalog = session.load_context().catalog  # type: ignore[attr-defined]
        table = catalog.load("splits")
        table.loc[len(table) - 1, "id"] = table.loc[0, "id"]
        with pytest.raises(Exception, match=r"appears 2 times, in the splits \['test', 'train'\]"):
            catalog.save("splits", table)
    assert splits.check_splits(catalog.load("splits")) is None
