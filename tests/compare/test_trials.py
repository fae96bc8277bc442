"""Trials: run once for each origin, recorded if they fail, and never dropped."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch

from mst_distill.artifacts.provenance import Origin, read_sidecar
from mst_distill.benchmarks.splits import assign_splits
from mst_distill.compare import trial_runner as module
from mst_distill.compare import trials as trials_module
from mst_distill.compare.comparison import Comparison
from mst_distill.compare.executors.base import Sequential
from mst_distill.compare.trial_store import Trial, TrialLog, TrialResult
from mst_distill.compare.trials import run_trials
from mst_distill.data.samples import rows_of
from mst_distill.evaluate.calibration import fit_temperature
from toy_comparisons import METHODS, make_comparison_plan
from toy_runs import make_run, route
from toys import in_precision

FEW = {name: METHODS[name] for name in ("baseline", "kd", "c2kd")}
FAILING = {"baseline": METHODS["baseline"], "failing": {"type": "toy_comparisons.Failing"}}


def make_comparison(folder, methods=FEW, kind="two modalities", seeds=1, **changes):
    run, _ = make_run(kind)
    plan = make_comparison_plan(kind, methods, seeds=seeds, targets=changes.pop("targets", "all"))
    if "plan" in changes:
        plan = changes.pop("plan")(plan)
    return Comparison(run.samples, plan, TrialLog(folder))


@pytest.fixture
def forbid_training(monkeypatch):
    def fail(*_arguments):
        raise AssertionError("no training is expected")

    def apply():
        monkeypatch.setattr(module, "teach", fail)
        monkeypatch.setattr(module, "train_teacher", fail)

    return apply


def test_every_method_has_a_trial_with_every_teacher_that_it_can_use(tmp_path):
    trials = make_comparison(tmp_path, seeds=2).trials()
    assert list(trials) == [("image", 0), ("audio", 0), ("image", 1), ("audio", 1)]
    assert [trial.title for trial in trials["image", 0]] == [
        "baseline", "kd <- multimodal", "kd <- audio", "c2kd <- audio",
    ]  # fmt: skip
    three = make_comparison(tmp_path, kind="three modalities", targets="text").trials()
    assert [trial.teacher for trial in three["text", 0]] == [
        "", "multimodal", "image", "audio", "image", "audio",
    ]  # fmt: skip


def test_the_error_of_an_unknown_target_or_method_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"'imag'.*did you mean 'image'"):
        make_comparison(tmp_path, targets="imag").trials()
    wrong = {"kd": {"type": "mst_distill.compare.methods.kd.KDD"}}
    with pytest.raises(ValueError, match="did you mean 'KD'"):
        make_comparison(tmp_path, wrong).trials()


def test_a_seed_without_an_evaluation_is_an_error_before_the_first_trial(tmp_path, forbid_training):
    """A class has a single sample, which a later seed does not assign to the training split."""
    forbid_training()
    comparison = make_comparison(tmp_path, seeds=20)
    samples = comparison.samples
    lone = np.flatnonzero(samples.index["label"] == 2)[1:]
    samples.index.loc[lone, "label"] = 0
    samples.labels[lone] = 0
    shared = assign_splits(samples.index, "random", 0).query("label == 2 and split == 'train'")
    assert len(shared) == 1, "the first seed allows an evaluation"
    plan = comparison.plan.model_copy(update={"protocol": "random"})
    message = r"'class 2' has no sample in 'train'.*the seed, here [1-9]"
    with pytest.raises(ValueError, match=message):
        run_trials(replace(comparison, plan=plan))


@in_precision("float64")
def test_metrics_are_those_of_the_held_out_split(tmp_path):
    comparison = make_comparison(tmp_path, targets="image")
    table = run_trials(comparison).set_index(["title", "selection"])
    bundle = comparison.log.bundle(
        Trial("kd", "audio", "image", 0), comparison.plan.members.net_types()
    )
    run, _ = make_run()
    rows = rows_of(run.splits, "test")
    with torch.no_grad():
        logits = bundle.net(torch.from_numpy(run.samples.modalities["image"][rows]))
    is_correct = logits.argmax(1).numpy() == run.samples.labels[rows]
    row = table.loc[("kd <- audio", "accuracy")]
    assert row["accuracy"] == pytest.approx(is_correct.mean())
    probability = logits.double().softmax(1).numpy()[np.arange(len(rows)), run.samples.labels[rows]]
    assert row["nll"] == pytest.approx(-np.log(probability).mean(), rel=1e-12)
    valid = rows_of(run.splits, "valid")
    with torch.no_grad():
        on_valid = bundle.net(torch.from_numpy(run.samples.modalities["image"][valid]))
    temperature = fit_temperature(on_valid, run.samples.labels[valid])
    assert row["temperature"] == pytest.approx(temperature, rel=1e-6)
    scaled = (logits.double() / row["temperature"]).log_softmax(1).numpy()
    nll = -scaled[np.arange(len(rows)), run.samples.labels[rows]].mean()
    assert row["nll_scaled"] == pytest.approx(nll, rel=1e-12)
    assert {"calibration_error_scaled", "accuracy_at_80"} <= set(table)
    assert row["student_epochs"] == 5
    assert row["seconds"] > 0
    if sys.platform == "linux":  # other systems do not report the peak of one trial
        assert row["peak_bytes"] > 1e6
    assert set(table.index.get_level_values("selection")) == {"accuracy", "ce", "last"}


def test_a_finished_trial_of_the_same_origin_is_not_run_again(tmp_path, forbid_training):
    first = run_trials(make_comparison(tmp_path, seeds=2))
    forbid_training()
    again = run_trials(make_comparison(tmp_path, seeds=2))
    assert again.equals(first)
    fewer = run_trials(make_comparison(tmp_path, {"kd": METHODS["kd"]}))
    assert set(fewer["title"]) == {"kd <- multimodal", "kd <- audio", "kd <- image"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("temperature", "route.temperature was 4.0 and is 2.0"),
        ("weight", "compare.weight was 0.5 and is 0.9"),
        ("limit", "its input 'samples' has changed"),
        ("precision", "runtime.precision was float32 and is bfloat16"),
        ("mst_distill.compare.methods.kd", "the code has changed (mst_distill.compare.methods.kd)"),
        ("mst_distill.evaluate.calibration", "has changed (mst_distill.evaluate.calibration)"),
    ],
)
def test_a_finished_trial_of_another_origin_is_run_again(
    tmp_path, change, reason, monkeypatch, caplog
):
    caplog.set_level("INFO")
    run_trials(make_comparison(tmp_path, {"kd": METHODS["kd"]}, targets="image"))
    comparison = make_comparison(tmp_path, {"kd": METHODS["kd"]}, targets="image")
    plan = comparison.plan
    if change == "temperature":
        object.__setattr__(plan, "route", route(temperature=2.0))
    elif change == "weight":
        object.__setattr__(plan, "compare", plan.compare.model_copy(update={"weight": 0.9}))
    elif change == "limit":
        object.__setattr__(comparison.samples, "digest", "others")
    elif change == "precision":
        changed = plan.runtime.model_copy(update={"precision": "bfloat16"})
        object.__setattr__(plan, "runtime", changed)
    else:
        code_of = module.code_of  # type: ignore[attr-defined]

        def edited(*entries):
            return {
                name: of + "1" if name == change else of for name, of in code_of(*entries).items()
            }

        monkeypatch.setattr(module, "code_of", edited)
    trained, teach = [], module.teach  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "teach", lambda *args: trained.append(args[4]) or teach(*args))
    run_trials(comparison)
    assert trained == ["multimodal", "audio"]
    for teacher in trained:
        message = f"kd <- {teacher} (image/seed-0/kd-{teacher}) is run again: "
        (line,) = [line for line in caplog.messages if line.startswith(message)]
        assert reason in line


def test_teachers_are_trained_once_for_each_seed_and_for_all_targets(tmp_path, monkeypatch):
    trained, train = [], module.train_teacher  # type: ignore[attr-defined]
    monkeypatch.setattr(
        module, "train_teacher", lambda run, *args: trained.append(args[1]) or train(run, *args)
    )
    run_trials(make_comparison(tmp_path, kind="three modalities"))
    assert sorted(trained) == ["audio", "image", "multimodal", "text"]


def test_a_trial_that_fails_is_recorded_and_run_again(tmp_path, caplog):
    table = run_trials(make_comparison(tmp_path, FAILING, targets="image"))
    failed = table[table["error"] != ""]
    assert failed["title"].tolist() == ["failing <- audio"]
    assert failed["error"].tolist() == ["ZeroDivisionError: deliberate failure"]
    assert "failing <- audio (image, seed 0) failed" in caplog.text
    assert set(table.loc[table["error"] == "", "title"]) == {"baseline"}
    record = json.loads((tmp_path / "image/seed-0/failing-audio.result.json").read_text())
    assert record["error"]
    assert not record["metrics"]
    origin = read_sidecar(tmp_path / "image/seed-0/failing-audio.result.json").origin
    assert TrialLog(tmp_path).find(Trial("failing", "audio", "image", 0), origin) is None


def test_if_a_teacher_cannot_be_trained_all_trials_of_the_target_fail_until_it_can(
    tmp_path, monkeypatch
):
    train = module.train_teacher  # type: ignore[attr-defined]

    def fail(run, plan, name):
        if name == "audio":
            raise MemoryError("too little")
        return train(run, plan, name)

    monkeypatch.setattr(module, "train_teacher", fail)
    message = "the audio teacher could not be trained: MemoryError: too little"
    # All trials of a target share one pool of teachers.
    with pytest.raises(RuntimeError, match=f"^all 4 trials failed, the first with: .*{message}"):
        run_trials(make_comparison(tmp_path, targets="image"))
    assert len(list(tmp_path.glob("image/seed-0/*.result.json"))) == 4

    monkeypatch.setattr(module, "train_teacher", train)
    assert (run_trials(make_comparison(tmp_path, targets="image"))["error"] == "").all()


def test_a_method_without_support_for_dense_labels_fails_on_them(tmp_path):
    methods = {name: METHODS[name] for name in ("baseline", "rkd", "dkd")}
    table = run_trials(make_comparison(tmp_path, methods, "dense labels", targets="rgb"))
    unsupported = table[table["error"] != ""]
    assert set(unsupported["title"]) == {"rkd <- multimodal", "rkd <- depth"}
    assert set(unsupported["error"]) == {"the method does not support a label for every pixel"}
    assert "mean_iou" in table


def make_origin(epochs: str) -> Origin:
    return Origin("trial", {"epochs": epochs}, {}, {})


def test_a_result_without_its_net_is_not_found(tmp_path, monkeypatch):
    log, trial = TrialLog(tmp_path), Trial("kd", "audio", "image", 0)
    log.record(TrialResult(trial, {"last": {"accuracy": 1.0}}), make_origin("old"))
    assert log.find(trial, make_origin("old"))
    assert log.find(trial, make_origin("new")) is None

    def fail(*_arguments):
        raise OSError("no space left")

    monkeypatch.setattr("mst_distill.compare.trial_store.save_bundle", fail)
    with pytest.raises(OSError, match="no space left"):
        log.record(
            TrialResult(trial, {"last": {"accuracy": 0.5}}), make_origin("new"), bundle=object()
        )
    assert log.find(trial, make_origin("old")) is None
    assert log.find(trial, make_origin("new")) is None


@pytest.mark.parametrize("suffix", ["result.json", "json", "safetensors"])
def test_a_damaged_trial_is_run_again(tmp_path, suffix, caplog):
    comparison = make_comparison(tmp_path, {"baseline": METHODS["baseline"]}, targets="image")
    first = run_trials(comparison)
    file = tmp_path / f"image/seed-0/baseline.{suffix}"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = run_trials(comparison)
    assert f"baseline.{suffix} is damaged" in caplog.text
    columns = ["title", "selection", "accuracy", "nll"]
    assert again[columns].equals(first[columns])
    caplog.clear()
    assert run_trials(comparison).equals(again)
    assert not caplog.text


def test_a_trial_is_run_again_if_the_weights_of_its_teacher_change(tmp_path):
    """The origin of a trial contains the weights of its teacher, not only its parameters."""
    comparison = make_comparison(tmp_path, {"kd": METHODS["kd"]}, targets="image")
    run_trials(comparison)
    teacher = Trial("teacher", "audio", "teachers", 0)
    bundle = comparison.log.bundle(teacher, comparison.plan.members.net_types())
    sidecar = read_sidecar(tmp_path / "teachers/seed-0/teacher-audio.result.json")
    with torch.no_grad():
        next(bundle.net.parameters()).add_(1)
    student = read_sidecar(tmp_path / "image/seed-0/kd-audio.result.json").origin
    comparison.log.record(TrialResult(teacher, {"ce": {}}), sidecar.origin, bundle)
    run_trials(comparison)
    now = read_sidecar(tmp_path / "image/seed-0/kd-audio.result.json").origin
    assert student.differences(now) == ["its input 'audio teacher' has changed"]


class Shares(Sequential):
    """Runs jobs in this process, and notes the share of a GPU of each."""

    seen: ClassVar[list[tuple[float, str, int]]] = []

    def __init__(self, share, make_work):
        super().__init__(make_work)
        self.share = share

    def run(self, jobs, announce):
        for job, result in super().run(jobs, announce):
            self.seen.append((self.share, job.trial.title, job.trial.seed))
            yield job, result


def test_the_first_trial_of_each_method_has_a_gpu_for_itself(monkeypatch, tmp_path):
    def executor_of(runtime, make_work, folder, share):
        return Shares(share, partial(make_work, threads=None, sharers=1))

    monkeypatch.setattr(trials_module, "executor_of", executor_of)
    memory = [100 * 2**30]
    monkeypatch.setattr(trials_module, "measured_memory", lambda runtime: memory[0])
    few = {"baseline": METHODS["baseline"], "kd": METHODS["kd"]}
    run_trials(make_comparison(tmp_path, few, seeds=2, targets="image"))
    teachers = [f"teacher <- {name}" for name in ("multimodal", "audio")]
    students = ["baseline", "kd <- multimodal", "kd <- audio"]
    expected = [(1, 0, teachers), (0.25, 1, teachers), (1, 0, students), (0.25, 1, students)]
    assert Shares.seen == [
        (share, title, seed) for share, seed, titles in expected for title in titles
    ]
    # A third seed: what is known of the others is enough. The GPU is small.
    Shares.seen.clear()
    memory[0] = 1
    run_trials(make_comparison(tmp_path, few, seeds=3, targets="image"))
    assert Shares.seen == [(1, title, 2) for title in (*teachers, *students)]
