"""Students of other sizes: each has its own trials, with the teachers that all share."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mst_distill.compare.comparison import Comparison
from mst_distill.compare.trial_store import TrialLog
from mst_distill.compare.trials import run_trials
from mst_distill.mst.networks import check_definitions
from mst_distill.parameters import Members
from mst_distill.plan import Plan
from toy_comparisons import make_comparison_plan
from toy_runs import KINDS, make_run

METHODS = {
    name: {"type": f"mst_distill.compare.methods.{path}"}
    for name, path in {"baseline": "baseline.Baseline", "kd": "kd.KD", "mst": "mst.MST"}.items()
}
MEMBERS: dict[str, Any] = KINDS["two modalities"][1]
SMALL = {"type": "toy_nets.Small", "modality": "image"}


def plan_with(students: dict[str, Any], **compare: Any) -> Plan:
    plan = make_comparison_plan(methods=METHODS, seeds=1, **compare)
    members = Members.model_validate({**MEMBERS, "students": students})
    return plan.model_copy(update={"members": members, "runtime": make_run()[0].runtime})


def test_every_student_has_all_trials_and_its_own_baseline(tmp_path):
    samples = make_run()[0].samples
    table = run_trials(Comparison(samples, plan_with({"small": SMALL}), TrialLog(tmp_path)))
    assert (table["error"] == "").all()
    assert list(dict.fromkeys(table["target"])) == ["image", "audio", "small"]
    titles = table.groupby("target")["title"].unique().map(set)
    assert (
        titles["small"]
        == titles["image"]
        == {
            *("baseline", "kd <- multimodal", "kd <- audio", "mst"),
        }
    )
    assert (tmp_path / "small/seed-0/baseline.safetensors").is_file()


def test_a_student_is_the_same_net_in_the_place_of_its_modality(tmp_path):
    samples = make_run()[0].samples
    apart = run_trials(Comparison(samples, plan_with({"small": SMALL}), TrialLog(tmp_path / "a")))
    swapped = plan_with({}, targets="image")
    modalities = {**swapped.members.modalities, "image": swapped.members.modalities["image"]}
    plan = plan_with({"small": SMALL})
    modalities["image"] = plan.members.with_student("small").modalities["image"]
    members = swapped.members.model_copy(update={"modalities": modalities})
    swapped = swapped.model_copy(update={"members": members})
    alone = run_trials(Comparison(samples, swapped, TrialLog(tmp_path / "b")))
    columns = ["title", "selection", "accuracy", "nll", "valid_ce", "extra_parameters"]
    of_small = apart.loc[apart["target"] == "small", columns].reset_index(drop=True)
    assert of_small.equals(alone[columns].reset_index(drop=True))


def test_further_students_make_no_trial_stale(tmp_path):
    samples, log = make_run()[0].samples, TrialLog(tmp_path)
    before = run_trials(Comparison(samples, plan_with({}), log))
    after = run_trials(Comparison(samples, plan_with({"small": SMALL}), log))
    kept = after[after["target"] != "small"].reset_index(drop=True)
    assert kept["seconds"].equals(before["seconds"])


def test_only_one_student_is_compared_on_request(tmp_path):
    comparison = Comparison(
        make_run()[0].samples, plan_with({"small": SMALL}, targets="small"), TrialLog(tmp_path)
    )
    assert {target for target, _ in comparison.trials()} == {"small"}


def test_a_student_that_does_not_fit_is_an_error_before_the_first_trial(tmp_path):
    wrong = {"type": "toy_nets.Audio", "modality": "image"}
    samples = make_run()[0].samples
    with pytest.raises(ValueError, match="member 'image' cannot be called"):
        run_trials(Comparison(samples, plan_with({"wrong": wrong}), TrialLog(tmp_path)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "student", "message"),
    [
        ("image", SMALL, "no student may be named 'image'"),
        ("teachers", SMALL, "no student may be named 'teachers'"),
        ("a/b", SMALL, "no student may be named 'a/b'"),
        ("small", {**SMALL, "modality": "picture"}, "unknown modality of the student 'small'"),
        ("small", {"type": "toy_nets.Small"}, "modality"),
    ],
)
def test_names_and_modalities_are_checked(name, student, message):
    with pytest.raises(ValidationError, match=message):
        Members.model_validate({**MEMBERS, "students": {name: student}})


def test_classes_of_students_are_checked_without_samples():
    plan = plan_with({"small": {"type": "toy_nets.Smal", "modality": "image"}})
    with pytest.raises(ValueError, match=r"member 'small'.*did you mean 'Small'"):
        check_definitions(plan.members, plan.masks)
