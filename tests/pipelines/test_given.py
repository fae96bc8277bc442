"""`kedro run` with given teachers: equal to those trained here, checked before training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mst_distill.artifacts.provenance import read_sidecar, sha256_of
from projects import FINISHED, finished_project, kedro, run_session

AUDIO = {
    "net": "mst_distill.nets.digits.DigitAudioNet",
    "modality": "audio",
    "seen_labels": "train",
}
FOLDER = "digits/heldout-all/image/seed-0"


def parameters(**given: dict) -> dict:
    """The parameters of the finished run, with given teachers."""
    return {**FINISHED, "teachers": {**FINISHED["teachers"], "given": given}}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A finished run, and one that has its audio teacher three times: trained, as net, as file."""
    folder = finished_project(tmp_path_factory.mktemp("given") / "project", tmp_path_factory)
    weights = folder / "audio.safetensors"
    shutil.copy(folder / f"data/06_models/{FOLDER}/main/members/audio.safetensors", weights)
    run_session(
        folder,
        run="nets",
        **parameters(
            plain={**AUDIO, "weights": str(weights)},
            masked={**AUDIO, "weights": str(weights), "masked_layers": ["hidden"]},
        ),
    )
    logits = pd.read_parquet(folder / f"data/06_models/{FOLDER}/nets/specialist_logits.parquet")
    own = logits[logits["specialist"] == "plain/unmasked"].drop(columns=["split", "specialist"])
    own.sample(frac=1, random_state=0).to_parquet(folder / "logits.parquet", index=False)
    file = {"logits": str(folder / "logits.parquet"), "seen_labels": "train"}
    run_session(folder, run="file", **parameters(outside=file))
    run_session(
        folder, "diagnose", run="file", diagnose={"samples": 20}, **parameters(outside=file)
    )
    return folder


def predictions(project: Path, run: str) -> dict[str, pd.DataFrame]:
    table = pd.read_parquet(project / f"data/07_model_output/{FOLDER}/{run}/predictions.parquet")
    columns = ["id", "prediction", "confidence", "nll", "confidence_scaled"]
    return {model: of[columns].reset_index(drop=True) for model, of in table.groupby("model")}


def test_a_given_net_has_the_predictions_of_the_same_net_trained_here(project):
    found = predictions(project, "nets")
    for title in ("plain teacher", "masked teacher", "plain/unmasked"):
        pd.testing.assert_frame_equal(found[title], found["audio teacher"])
    metrics = project / f"data/08_reporting/{FOLDER}/nets/metrics.json"
    models = json.loads(metrics.read_text())["models"]
    assert models["plain teacher"] == models["audio teacher"]


def test_a_file_of_its_logits_has_the_same_predictions(project):
    expected, found = predictions(project, "nets")["audio teacher"], predictions(project, "file")
    for title in ("outside teacher", "outside/unmasked"):
        assert found[title][["id", "prediction"]].equals(expected[["id", "prediction"]])
        np.testing.assert_allclose(found[title]["nll"], expected["nll"], atol=1e-5)


def test_stage_1_and_the_baseline_do_not_depend_on_given_teachers(project):
    for run in ("nets", "file"):
        for kind, name in (("members", "audio"), ("members", "image"), ("baselines", "last")):
            files = [
                project / f"data/06_models/{FOLDER}/{each}/{kind}/{name}.safetensors"
                for each in ("main", run)
            ]
            assert sha256_of(files[0]) == sha256_of(files[1])


def test_a_masked_given_net_has_a_mask_and_the_router_knows_all_specialists(project):
    assert (project / f"data/06_models/{FOLDER}/nets/masks/masked").is_dir()
    router = json.loads((project / f"data/06_models/{FOLDER}/nets/router.json").read_text())
    assert router["provenance"]["specialists"][-2:] == ["masked/hidden", "plain/unmasked"]


def test_the_sha256_of_the_file_is_in_the_origin_of_what_is_made_from_it(project):
    digest = sha256_of(project / "logits.parquet")
    for path in ("06_models/{}/file/student.json", "07_model_output/{}/file/predictions.parquet"):
        origin = read_sidecar(project / "data" / path.format(FOLDER)).origin
        assert origin.parameters["given"]["outside"]["logits"] == digest
    members = read_sidecar(project / f"data/06_models/{FOLDER}/file/members").origin
    assert "given" not in members.parameters
    assert digest not in json.dumps(members.parameters)


def test_reports_name_the_teacher_and_what_it_has_seen(project):
    folder = project / f"data/08_reporting/{FOLDER}/file"
    text = "logits from logits.parquet, labels seen: train"
    assert f"given teacher outside: {text}" in (folder / "report.html").read_text()
    assert text in (folder / "model_card.md").read_text()


def test_a_given_teacher_is_a_line_of_the_diagnosis(project):
    folder = project / f"data/08_reporting/{FOLDER}/file"
    paths = pd.read_csv(folder / "paths.csv")
    assert "outside teacher" in set(paths["source"])
    assert "outside/unmasked" not in set(paths["source"])
    similarity = pd.read_csv(folder / "similarity.csv")
    assert set(similarity.loc[similarity["source"] == "outside teacher", "of"]) == {"logits"}
    report = json.loads((folder / "diagnosis.json").read_text())
    assert "outside teacher" in report["paths"]["sources"]


def test_another_file_makes_stage_3_stale_and_not_stage_1(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    table = pd.read_parquet(folder / "logits.parquet")
    table["0"] += 1e-4
    table.to_parquet(folder / "logits.parquet", index=False)
    file = {"logits": str(folder / "logits.parquet"), "seen_labels": "train"}
    with pytest.raises(Exception, match=r"given.outside.logits"):
        run_session(folder, "evaluate", run="file", **parameters(outside=file))
    # Stages 1 and 2 do not read it: their results stay as they are.
    run_session(folder, "masks", run="file", **parameters(outside=file))
    run_session(folder, "route", run="file", **parameters(outside=file))


def test_another_declaration_changes_the_report_alone(project):
    given = {"logits": str(project / "logits.parquet"), "seen_labels": "none"}
    predictions_of = predictions(project, "file")
    run_session(
        project, "evaluate", nodes=["compare_models"], run="file", **parameters(outside=given)
    )
    assert predictions(project, "file").keys() == predictions_of.keys()


def test_check_tries_given_teachers(project):
    given = {"logits": str(project / "logits.parquet"), "seen_labels": "train"}
    run_session(project, "check", **parameters(outside=given))
    wrong = {"probabilities": str(project / "logits.parquet"), "seen_labels": "train"}
    with pytest.raises(ValueError, match=r"teachers.given.outside: .*name the file under logits"):
        run_session(project, "check", **parameters(outside=wrong))


def test_a_comparison_with_few_labels_states_that_a_teacher_has_seen_more(project):
    given = {"logits": str(project / "few.parquet"), "seen_labels": "train"}
    splits = pd.read_parquet(next(project.rglob("splits.parquet")))
    right = np.eye(10)[splits["label"]] + np.random.default_rng(0).normal(size=(len(splits), 10))
    table = pd.DataFrame(right, columns=[str(number) for number in range(10)])
    table.insert(0, "id", splits["id"])
    table.to_parquet(project / "few.parquet")
    compare = {"seeds": 1, "targets": "image", "only": "baseline kd"}
    run_session(project, "compare", labelled=0.1, compare=compare, **parameters(outside=given))
    page = next((project / "data/08_reporting").rglob("methods_page.md")).read_text()
    assert "the given teacher outside may have seen some" in page
    assert "kd <- outside" in page


def test_labels_that_the_run_hides_are_stated_in_the_verdict(project):
    splits = pd.read_parquet(next(project.rglob("splits.parquet")))
    right = np.eye(10)[splits["label"]] + np.random.default_rng(0).normal(size=(len(splits), 10))
    table = pd.DataFrame(right, columns=[str(number) for number in range(10)])
    table.insert(0, "id", splits["id"])
    table.to_parquet(project / "few.parquet")
    file = {"logits": str(project / "few.parquet"), "seen_labels": "train"}
    run_session(project, run="few", labelled=0.1, **parameters(outside=file))
    folder = project / f"data/08_reporting/{FOLDER}-labelled-0.1/few"
    verdict = json.loads((folder / "metrics.json").read_text())["verdict"]
    assert "The given teacher 'outside' has seen" in verdict
    assert "training labels that neither the student nor the baseline has." in verdict


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("permuted", "by chance: its ids or classes are mixed up"),
        ("fewer", r"5 ids without a row"),
        ("seen", "has seen labels of validation and test samples"),
    ],
)
def test_a_teacher_that_cannot_teach_is_an_error_before_anything_is_trained(
    project, tmp_path, change, message
):
    folder = shutil.copytree(project, tmp_path / "project")
    shutil.rmtree(folder / "data/06_models")
    table = pd.read_parquet(folder / "logits.parquet")
    file = {"logits": "logits.parquet", "seen_labels": "train"}
    if change == "permuted":
        table["id"] = np.random.default_rng(0).permutation(table["id"].to_numpy())
    elif change == "fewer":
        table = table.iloc[5:]
    else:
        table[["id"]].to_csv(folder / "seen.csv", index=False)
        file["seen_labels"] = "seen.csv"
    table.to_parquet(folder / "logits.parquet", index=False)
    with pytest.raises(ValueError, match=f"teachers.given.outside: .*{message}"):
        run_session(folder, **parameters(outside=file))
    assert not list((folder / "data/06_models").rglob("*.safetensors"))


def test_a_file_that_does_not_exist_is_the_last_line_and_costs_nothing(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project", ignore=shutil.ignore_patterns("data"))
    local = folder / "conf/local/parameters.yml"
    local.write_text(
        "teachers:\n  epochs: 1\n  batch_size: 64\n  learning_rate: 0.001\n"
        "  given: {clip: {logits: gone.parquet, seen_labels: none}}\n"
    )
    done = kedro(folder, "run", "--params=runtime.tracking=false", check=False)
    assert done.returncode
    printed = " ".join(done.stdout.split())
    assert printed.endswith("gone.parquet does not exist")
    assert printed.count("teachers.given.clip: ") == 1
    assert not (folder / "data").exists() or not list((folder / "data").rglob("*.npy"))
