"""Trials: run once on the same terms, told when they die, never dropped."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mst_distill.artifacts.provenance import Origin, read_sidecar
from mst_distill.benchmarks.splits import assign_splits
from mst_distill.compare import trials as module
from mst_distill.compare.trial_store import Outcome, Trial, TrialLog
from mst_distill.compare.trials import Comparison, run_trials
from mst_distill.data.samples import rows_of
from mst_distill.parameters import Evaluate, Runtime
from toy_comparisons import METHODS, make_recipe
from toy_runs import make_run, route
from toys import in_precision

FEW = {name: METHODS[name] for name in ("none", "kd", "c2kd")}
DYING = {"none": METHODS["none"], "dying": {"type": "toy_comparisons.Dying"}}


def make_comparison(folder, methods=FEW, kind="two modalities", seeds=1, **changes):
    run, _ = make_run(kind)
    recipe = make_recipe(kind, methods, seeds=seeds, targets=changes.pop("targets", "all"))
    if "recipe" in changes:
        recipe = changes.pop("recipe")(recipe)
    return Comparison(
        run.samples, "heldout", 0, recipe, Evaluate(), Runtime(device="cpu"), TrialLog(folder)
    )


@pytest.fixture
def refuse_training(monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("nothing was to be trained")

    def begin():
        monkeypatch.setattr(module, "teach", refuse)
        monkeypatch.setattr(module, "train_teacher", refuse)

    return begin


def test_every_method_meets_every_teacher_that_it_can_have(tmp_path):
    plan = make_comparison(tmp_path, seeds=2).plan()
    assert list(plan) == [("image", 0), ("audio", 0), ("image", 1), ("audio", 1)]
    assert [trial.title for trial in plan["image", 0]] == [
        "none", "kd <- multimodal", "kd <- audio", "c2kd <- audio",
    ]  # fmt: skip
    three = make_comparison(tmp_path, kind="three modalities", targets="text").plan()
    assert [trial.teacher for trial in three["text", 0]] == [
        "", "multimodal", "image", "audio", "image", "audio",
    ]  # fmt: skip


def test_an_unknown_target_or_method_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"'imag'.*did you mean 'image'"):
        make_comparison(tmp_path, targets="imag").plan()
    wrong = {"kd": {"type": "mst_distill.compare.methods.kd.KDD"}}
    with pytest.raises(ValueError, match="did you mean 'KD'"):
        make_comparison(tmp_path, wrong).plan()


def test_a_seed_that_cannot_be_judged_is_refused_before_the_first_trial(tmp_path, refuse_training):
    """One sample of a class: a later seed deals it out of the training split."""
    refuse_training()
    comparison = make_comparison(tmp_path, seeds=20)
    samples = comparison.samples
    lone = np.flatnonzero(samples.index["label"] == 2)[1:]
    samples.index.loc[lone, "label"] = 0
    samples.labels[lone] = 0
    shared = assign_splits(samples.index, "random", 0).query("label == 2 and split == 'train'")
    assert len(shared) == 1, "the first seed can be judged"
    with pytest.raises(
        ValueError, match=r"'class 2' has no sample in 'train'.*the seed, here [1-9]"
    ):
        run_trials(replace(comparison, protocol="random"))


@in_precision("float64")
def test_figures_are_those_of_the_held_out_split(tmp_path):
    comparison = make_comparison(tmp_path, targets="image")
    table = run_trials(comparison).set_index(["title", "rule"])
    bundle = comparison.log.bundle(Trial("kd", "audio", "image", 0))
    run, _ = make_run()
    rows = rows_of(run.splits, "test")
    with torch.no_grad():
        logits = bundle.net(torch.from_numpy(run.samples.modalities["image"][rows]))
    right = logits.argmax(1).numpy() == run.samples.labels[rows]
    row = table.loc[("kd <- audio", "accuracy")]
    assert row["accuracy"] == pytest.approx(right.mean())
    chance = logits.double().softmax(1).numpy()[np.arange(len(rows)), run.samples.labels[rows]]
    assert row["nll"] == pytest.approx(-np.log(chance).mean(), rel=1e-12)
    assert row["student_epochs"] == 5
    assert row["seconds"] > 0
    if sys.platform == "linux":  # others do not tell the peak of one trial
        assert row["peak_bytes"] > 1e6
    assert set(table.index.get_level_values("rule")) == {"accuracy", "ce", "last"}


def test_what_is_finished_on_the_same_terms_is_not_trained_again(tmp_path, refuse_training):
    first = run_trials(make_comparison(tmp_path, seeds=2))
    refuse_training()
    again = run_trials(make_comparison(tmp_path, seeds=2))
    assert again.equals(first)
    fewer = run_trials(make_comparison(tmp_path, {"kd": METHODS["kd"]}))
    assert set(fewer["title"]) == {"kd <- multimodal", "kd <- audio", "kd <- image"}


@pytest.mark.parametrize("change", ["temperature", "weight", "limit", "precision", "code"])
def test_on_other_terms_it_is(tmp_path, change, monkeypatch):
    run_trials(make_comparison(tmp_path, {"kd": METHODS["kd"]}, targets="image"))
    comparison = make_comparison(tmp_path, {"kd": METHODS["kd"]}, targets="image")
    recipe = comparison.recipe
    if change == "temperature":
        object.__setattr__(recipe, "route", route(temperature=2.0))
    elif change == "weight":
        object.__setattr__(recipe, "compare", recipe.compare.model_copy(update={"weight": 0.9}))
    elif change == "limit":
        object.__setattr__(comparison.samples, "digest", "others")
    elif change == "precision":
        changed = comparison.runtime.model_copy(update={"precision": "bfloat16"})
        object.__setattr__(comparison, "runtime", changed)
    else:
        code_of, method = module.code_of, "mst_distill.compare.methods.kd"

        def edited(*entries):
            return {
                name: of + "1" if name == method else of for name, of in code_of(*entries).items()
            }

        monkeypatch.setattr(module, "code_of", edited)
    taught, teach = [], module.teach
    monkeypatch.setattr(module, "teach", lambda *args: taught.append(args[4]) or teach(*args))
    run_trials(comparison)
    assert taught == ["multimodal", "audio"]


def test_teachers_are_trained_once_a_seed_for_all_targets(tmp_path, monkeypatch):
    trained, train = [], module.train_teacher
    monkeypatch.setattr(
        module, "train_teacher", lambda run, *args: trained.append(args[1]) or train(run, *args)
    )
    run_trials(make_comparison(tmp_path, kind="three modalities"))
    assert sorted(trained) == ["audio", "image", "multimodal", "text"]


def test_a_trial_that_dies_is_told_and_tried_again(tmp_path, caplog):
    table = run_trials(make_comparison(tmp_path, DYING, targets="image"))
    died = table[table["error"] != ""]
    assert died["title"].tolist() == ["dying <- audio"]
    assert died["error"].tolist() == ["ZeroDivisionError: it was made to"]
    assert "dying <- audio (image, seed 0) died" in caplog.text
    assert set(table.loc[table["error"] == "", "title"]) == {"none"}
    note = json.loads((tmp_path / "image/seed-0/dying-audio.outcome.json").read_text())
    assert note["error"]
    assert not note["figures"]
    origin = read_sidecar(tmp_path / "image/seed-0/dying-audio.outcome.json").origin
    assert TrialLog(tmp_path).find(Trial("dying", "audio", "image", 0), origin) is None


def test_without_a_teacher_its_students_are_missing_and_the_others_are_not(tmp_path, monkeypatch):
    train = module.train_teacher

    def fail(run, recipe, name):
        if name == "audio":
            raise MemoryError("too little")
        return train(run, recipe, name)

    monkeypatch.setattr(module, "train_teacher", fail)
    table = run_trials(make_comparison(tmp_path, targets="image"))
    assert "there is no audio teacher: MemoryError: too little" in table["error"].iloc[-1]
    assert (table["error"] != "").all()  # a pool is all teachers or none

    monkeypatch.setattr(module, "train_teacher", train)
    assert (run_trials(make_comparison(tmp_path, targets="image"))["error"] == "").all()


def test_a_method_for_one_label_a_sample_says_so_where_pixels_have_labels(tmp_path):
    methods = {name: METHODS[name] for name in ("none", "rkd", "dkd")}
    table = run_trials(make_comparison(tmp_path, methods, "dense labels", targets="rgb"))
    refused = table[table["error"] != ""]
    assert set(refused["title"]) == {"rkd <- multimodal", "rkd <- depth"}
    assert set(refused["error"]) == {"not for labels at every pixel"}
    assert "mean_iou" in table


def made_from(what: str) -> Origin:
    return Origin("trial", {"epochs": what}, {}, {})


def test_an_outcome_without_its_net_is_never_there(tmp_path, monkeypatch):
    log, trial = TrialLog(tmp_path), Trial("kd", "audio", "image", 0)
    log.note(Outcome(trial, {"last": {"accuracy": 1.0}}), made_from("old"))
    assert log.find(trial, made_from("old"))
    assert log.find(trial, made_from("new")) is None

    def fail(*_arguments):
        raise OSError("no space left")

    monkeypatch.setattr("mst_distill.compare.trial_store.save_bundle", fail)
    with pytest.raises(OSError, match="no space left"):
        log.note(Outcome(trial, {"last": {"accuracy": 0.5}}), made_from("new"), bundle=object())
    assert log.find(trial, made_from("old")) is None
    assert log.find(trial, made_from("new")) is None


@pytest.mark.parametrize("suffix", ["outcome.json", "json", "safetensors"])
def test_a_damaged_trial_is_run_again(tmp_path, suffix, caplog):
    comparison = make_comparison(tmp_path, {"none": METHODS["none"]}, targets="image")
    first = run_trials(comparison)
    file = tmp_path / f"image/seed-0/none.{suffix}"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = run_trials(comparison)
    assert f"none.{suffix} is damaged" in caplog.text
    figures = ["title", "rule", "accuracy", "nll"]
    assert again[figures].equals(first[figures])
    caplog.clear()
    assert run_trials(comparison).equals(again)
    assert not caplog.text


def test_a_student_of_another_teacher_is_another_trial(tmp_path):
    """The teacher's weights are part of what a trial is made from, not its parameters alone."""
    comparison = make_comparison(tmp_path, {"kd": METHODS["kd"]}, targets="image")
    run_trials(comparison)
    teacher = Trial("teacher", "audio", "teachers", 0)
    bundle = comparison.log.bundle(teacher)
    sidecar = read_sidecar(tmp_path / "teachers/seed-0/teacher-audio.outcome.json")
    with torch.no_grad():
        next(bundle.net.parameters()).add_(1)
    student = read_sidecar(tmp_path / "image/seed-0/kd-audio.outcome.json").origin
    comparison.log.note(Outcome(teacher, {"ce": {}}), sidecar.origin, bundle)
    run_trials(comparison)
    now = read_sidecar(tmp_path / "image/seed-0/kd-audio.outcome.json").origin
    assert student.differences(now) == ["its input 'audio teacher' has changed"]
