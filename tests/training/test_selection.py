"""The metric that decides selects epochs by the validation split alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from mst_distill.data.samples import Samples
from mst_distill.from_python import distill, make_plan
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.plan import Plan
from mst_distill.training.run import Run
from mst_distill.training.selection import criteria, metric_in
from toy_nets import Audio, Image
from toy_runs import make_run, route, vary
from toys import assert_same_weights, make_samples

SHORT = {
    name: {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2}
    for name in ("teachers", "masks", "route")
}


def with_metric(setting: str) -> tuple[Run, Plan]:
    run, plan = make_run()
    from mst_distill.metric import metric_of

    plan = vary(plan, evaluate={"metric": setting}, teachers={"keep": "metric", "epochs": 4})
    return dataclasses.replace(run, metric=metric_of(setting)), plan


@pytest.mark.parametrize("setting", ["macro_f1", "auroc", "nll"])
def test_the_criterion_is_the_metric_of_all_validation_samples(setting: str) -> None:
    run, plan = with_metric(setting)
    _, done = train_baseline(run, plan)
    name = run.metric.name
    assert set(done.best) == {name, "ce", "last"}
    best = max(
        done.history.to_dict(orient="records"),
        key=lambda row: (round(row[f"valid_{name}"], 9), -row["valid_ce"]),
    )
    assert done.best[name].row[f"valid_{name}"] == best[f"valid_{name}"]
    if setting == "nll":
        assert (-done.history["valid_log_likelihood"]).to_numpy() == pytest.approx(
            done.history["valid_ce"].to_numpy(), rel=1e-5
        )


@pytest.mark.parametrize("batch_size", [3, 100])
def test_the_history_has_the_metric_of_the_net_after_each_epoch(batch_size: int) -> None:
    run, plan = with_metric("macro_f1")
    nets, done = train_members(run, plan)
    (batch,) = run.batches("valid", run.modalities, 100)
    assert len(batch.label) > 3
    for name, net in nets.items():
        row = done.best[name].row
        inputs = batch.inputs if name == "multimodal" else {"x": batch.inputs[name]}
        logits = net.eval()(**inputs) if name == "multimodal" else net.eval()(inputs["x"])
        labels = batch.label.numpy()
        expected = f1_score(
            labels, logits.argmax(1).numpy(), average="macro", labels=np.unique(labels)
        )
        assert row[f"valid_macro_f1_{name}"] == pytest.approx(expected, rel=1e-12)
        assert round(row[f"valid_macro_f1_{name}"], 9) == round(
            done.history[f"valid_macro_f1_{name}"].max(), 9
        )


def test_the_test_split_has_no_influence_on_the_student() -> None:
    samples, _ = make_samples(60)
    nets = {"image": Image, "audio": {"type": Audio, "masked_layers": ["first", "second"]}}
    plan = make_plan(samples, "image", nets, **SHORT, evaluate={"metric": "macro_f1"})
    test = (samples.index["split"] == "test").to_numpy()
    labels = samples.labels.copy()
    labels[test] = (labels[test] + 1) % len(samples.classes)
    index = samples.index.assign(label=labels)
    other = dataclasses.replace(samples, labels=labels, index=index)
    one, two = (distill(of, plan) for of in (samples, other))
    assert_same_weights(one.student, two.student)
    assert_same_weights(one.baseline, two.baseline)
    assert one.metrics["models"]["student"] != two.metrics["models"]["student"]


def with_wrong_labels(count: int) -> Samples:
    """Samples of which a third has a random label, so that no net is right on all of them."""
    samples, _ = make_samples(count)
    rng = np.random.default_rng(1)
    drawn = rng.integers(len(samples.classes), size=count)
    labels = np.where(rng.random(count) < 1 / 3, drawn, samples.labels)
    return dataclasses.replace(samples, labels=labels, index=samples.index.assign(label=labels))


@pytest.mark.parametrize("setting", ["macro_f1", "auroc"])
def test_the_verdict_is_by_the_metric(setting: str, caplog: pytest.LogCaptureFixture) -> None:
    samples = with_wrong_labels(120)
    nets = {"image": Image, "audio": {"type": Audio, "masked_layers": ["first", "second"]}}
    plan = make_plan(samples, "image", nets, **SHORT, evaluate={"metric": setting})
    found = distill(samples, plan)
    tables = {name: of.set_index("id") for name, of in found.predictions.groupby("model")}
    values = {}
    for name in ("student", "baseline"):
        labels = tables[name]["label"].to_numpy()
        if setting == "macro_f1":
            predicted = tables[name]["prediction"].to_numpy()
            values[name] = f1_score(
                labels, predicted, average="macro", labels=np.unique(labels), zero_division=0
            )
        else:
            terms = np.stack(list(tables[name]["metric_terms"]))
            assert (terms[:, -1] == labels).all()
            values[name] = roc_auc_score(labels, terms[:, :-1], multi_class="ovr")
        assert found.metrics["models"][name][setting] == pytest.approx(values[name], rel=1e-12)
    gain = found.metrics["gain_over_baseline"]["student"]
    assert gain["difference"] == pytest.approx(values["student"] - values["baseline"], abs=1e-12)
    assert gain["low"] < gain["difference"] < gain["high"]
    title = {"macro_f1": "macro F1", "auroc": "AUROC"}[setting]
    assert f"{title} {100 * gain['difference']:+.2f} points" in found.verdict
    models = found.metrics["models"]
    warned = f"higher test {title} (" in caplog.text
    assert warned == (models["linear model"][setting] > models["baseline"][setting])
    assert (found.metrics["metric"], found.metrics["selection"]) == (setting, setting)
    assert tables["multimodal teacher"]["metric_terms"].isna().all()


def test_criteria_are_named_after_the_metric() -> None:
    row = {"epoch": 2.0, "valid_accuracy": 0.5, "valid_ce": 1.0, "valid_auroc": 0.75}
    assert {name: rank(row) for name, rank in criteria("auroc").items()} == {
        "auroc": (0.75, -1.0),
        "ce": (-1.0,),
        "last": (2.0,),
    }
    assert metric_in({**row, "valid_macro_recall": 0.4}, "auroc") == 0.75
    assert metric_in({**row, "valid_macro_recall": 0.4}, "accuracy") == 0.4
    assert route(selection="ce").selection == "ce"


def test_logits_that_are_not_finite_are_reported_as_that() -> None:
    """A function of the user never sees them; its own error would not name the cause."""
    run, plan = with_metric("test_metric.of_two_classes")
    diverging = {"epochs": 1, "batch_size": 100, "learning_rate": 1e30}
    with pytest.raises(FloatingPointError, match="valid_ce is nan in epoch 0"):
        train_baseline(run, vary(plan, teachers=diverging))
