"""Given teachers in a comparison: equal to the same net trained here, and trials that need them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mst_distill.compare.comparison import Comparison
from mst_distill.compare.method import Method
from mst_distill.compare.methods.dist import DIST
from mst_distill.compare.methods.dkd import DKD
from mst_distill.compare.methods.kd import KD
from mst_distill.compare.methods.kd_mean import MeanKD
from mst_distill.compare.methods.mlld import MLLD
from mst_distill.compare.methods.mst import MST
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.compare.teaching import teach, teachers_for
from mst_distill.compare.trial_store import TrialLog
from mst_distill.compare.trials import run_trials
from mst_distill.data.samples import SPLITS
from mst_distill.plan import Plan
from mst_distill.training.run import Run
from toy_comparisons import make_comparison_plan, make_pool
from toy_given import give, logits_file, true_logits, weights_file
from toy_runs import make_run
from toys import assert_same_weights

LOGITS_ALONE: list[type[Method]] = [KD, DKD, DIST, MLLD]
"""OFA is not among them: the start weights of its own layers depend on the teacher's name."""


def prepared(folder: Path) -> tuple[Run, Plan, TeacherPool]:
    """A run with trained teachers, and the audio teacher given twice: as a net and as a file."""
    run, plan = make_run()
    plan = make_comparison_plan().model_copy(update={"runtime": run.runtime})
    trained = make_pool(run, plan)
    net = trained.teacher("audio").net
    run, plan = give(
        run,
        plan,
        net={
            "net": "toy_nets.Audio",
            "modality": "audio",
            "weights": weights_file(folder / "net.safetensors", net),
        },
        file={"logits": logits_file(folder / "t.parquet", run, logits_in_batches(run, trained))},
    )
    nets = {name: trained.teacher(name).net for name in ("multimodal", "audio")}
    return run, plan, TeacherPool(run, nets, plan.members, plan.route.batch_size)


def logits_in_batches(run: Run, pool: TeacherPool) -> np.ndarray:
    """The logits of the audio teacher, from the batches in which a run computes and caches them.

    In float32, those of a sample depend on the other samples of its batch.
    """
    logits = np.empty((len(run.samples), len(run.samples.classes)), np.float32)
    for split in SPLITS:
        for batch in run.batches(split, ["image"], 8, frozen={"teacher": pool.logits("audio")}):
            logits[run.rows(split)[batch.place.numpy()]] = batch.frozen["teacher"][0].numpy()
    return logits


@pytest.mark.parametrize("method", LOGITS_ALONE)
@pytest.mark.parametrize("frozen", ["cached", "online"])
def test_kd_from_a_given_teacher_is_that_from_the_same_net_to_the_bit(tmp_path, method, frozen):
    run, plan, pool = prepared(tmp_path)
    runtime = run.runtime.model_copy(update={"frozen": frozen})
    changed = Run(**{**vars_of(run), "runtime": runtime})
    nets = {name: pool.teacher(name).net for name in ("multimodal", "audio")}
    pool = TeacherPool(changed, nets, plan.members, plan.route.batch_size)
    students = {
        teacher: teach(changed, plan, pool, method, teacher, {}).students
        for teacher in ("audio", "net", "file")
    }
    # Online, the teacher sees other batches than those from which the file was made.
    for teacher in ("net", "file") if frozen == "cached" else ("net",):
        assert students[teacher].keys() == students["audio"].keys()
        for criterion, student in students["audio"].items():
            assert_same_weights(student, students[teacher][criterion])


def vars_of(run: Run) -> dict[str, Any]:
    return {name: getattr(run, name) for name in Run.__dataclass_fields__}


def test_the_mean_is_that_of_all_teachers(tmp_path):
    run, plan, pool = prepared(tmp_path)
    assert pool.names == ("multimodal", "audio", "file", "net")
    inputs = {
        name: torch.from_numpy(array[:5].copy()) for name, array in run.samples.inputs.items()
    }
    with torch.no_grad():
        logits = {name: pool.logits(name)(inputs)[0] for name in pool.names}
    assert logits["net"].equal(logits["audio"])
    torch.testing.assert_close(logits["file"], logits["audio"])
    given = teach(run, plan, pool, MeanKD, "", {}).students["last"]
    alone = Run(**{**vars_of(run), "given": {}})
    nets = {name: pool.teacher(name).net for name in ("multimodal", "audio")}
    few = TeacherPool(alone, nets, plan.members, plan.route.batch_size)
    trained = teach(alone, plan, few, MeanKD, "", {}).students["last"]
    with pytest.raises(AssertionError):
        assert_same_weights(given, trained)


def test_methods_that_need_more_than_logits_have_no_trial_with_a_given_teacher(tmp_path):
    run, plan = make_run()
    plan = make_comparison_plan().model_copy(update={"runtime": run.runtime, "labelled": 0.5})
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run))
    _, plan = give(run, plan, outside={"logits": file})
    comparison = Comparison(make_run()[0].samples, plan, SimpleNamespace())
    trials = [trial for of in comparison.trials().values() for trial in of]
    found = {trial.method for trial in trials if trial.teacher == "outside"}
    assert found == {"kd", "dkd", "dist", "mlld", "ofa", "pseudo_labels"}


def test_a_new_teacher_makes_only_those_trials_stale_that_learn_from_it(tmp_path):
    run, plan = make_run()
    kinds: dict[str, type[Method]] = {"kd": KD, "kd_mean": MeanKD, "mst": MST}
    methods = {name: {"type": f"{of.__module__}.{of.__name__}"} for name, of in kinds.items()}
    plan = make_comparison_plan(methods=methods, seeds=1, targets="image")
    plan = plan.model_copy(update={"runtime": run.runtime})
    log = TrialLog(tmp_path / "log")

    def times(plan: Plan) -> dict[str, float]:
        table = run_trials(Comparison(run.samples, plan, log))
        assert (table["error"] == "").all()
        return dict(table.groupby("title")["seconds"].first())

    before = times(plan)
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run))
    _, with_one = give(run, plan, outside={"logits": file})
    after = times(with_one)
    kept = {title for title in before if after[title] == before[title]}
    assert kept == {"kd <- multimodal", "kd <- audio"}
    assert set(after) - set(before) == {"kd <- outside"}
    again = times(with_one)
    assert again == after
    logits_file(file, run, true_logits(run, scale=4))
    changed = times(with_one)
    assert {title for title in changed if changed[title] != after[title]} == {
        "kd <- outside",
        "kd_mean",
        "mst",
    }


def test_a_comparison_checks_given_teachers_for_every_seed_before_its_first_trial(tmp_path):
    run, plan = make_run()
    plan = make_comparison_plan(seeds=1).model_copy(update={"runtime": run.runtime})
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run))
    _, good = give(run, plan, outside={"logits": file, "seen_labels": "train"})
    Comparison(run.samples, good, SimpleNamespace()).check()
    random = good.model_copy(update={"protocol": "random"})
    with pytest.raises(ValueError, match=r"teachers.given.outside: it has seen labels of"):
        Comparison(run.samples, random, SimpleNamespace()).check()


def test_a_method_that_needs_features_gets_no_given_teacher(tmp_path):
    run, plan = make_run()
    plan = make_comparison_plan(methods={"own": {"type": f"{__name__}.WithFeatures"}})
    _, plan = give(
        run, plan, outside={"logits": logits_file(tmp_path / "t.parquet", run, true_logits(run))}
    )
    assert list(teachers_for(WithFeatures, plan, "image")) == ["multimodal", "audio"]
    assert list(teachers_for(KD, plan, "image")) == ["multimodal", "audio", "outside"]


class WithFeatures(KD):
    """A user's method, which is derived from KD and reads features."""

    teacher_inputs = "features"
