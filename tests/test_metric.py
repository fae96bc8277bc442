"""The metric that decides, against scikit-learn and direct loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    jaccard_score,
    log_loss,
    recall_score,
    roc_auc_score,
)

from mst_distill.metric import KNOWN, Terms, metric_of
from mst_distill.parameters import Evaluate, metric_name

TERMED = [setting for setting in KNOWN if setting != "accuracy"]
IGNORED = 255


def draw(classes: int, count: int = 60, seed: int = 0, ties: bool = False):
    """Logits that know a little, labels of all classes, and how often samples are drawn."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    logits = rng.normal(size=(count, classes)) + 1.2 * np.eye(classes)[labels]
    if ties:
        logits = logits.round()
    weights = rng.multinomial(count, np.full(count, 1 / count), size=5).astype(float)
    return torch.from_numpy(logits), torch.from_numpy(labels), weights


def by_scikit_learn(setting: str, logits, labels, weight) -> float:
    """The metric of a resample; classes that it lacks are left out."""
    # Those of the metric: rounding must not break ties in another way.
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    predicted, classes = logits.argmax(1), logits.shape[1]
    present = [c for c in range(classes) if weight[labels == c].sum()]
    known = {"sample_weight": weight, "labels": present, "average": "macro"}
    if setting == "macro_f1":
        return f1_score(labels, predicted, **known)
    if setting == "macro_recall":
        return recall_score(labels, predicted, **known)
    if setting == "mean_iou":
        return jaccard_score(labels, predicted, **known)
    if setting == "nll":
        every = {"sample_weight": weight, "labels": range(classes)}
        return -log_loss(labels, probabilities, **every)
    score = {"auroc": roc_auc_score, "average_precision": average_precision_score}[setting]
    positives = [1] if classes == 2 else present
    return float(
        np.mean([score(labels == c, probabilities[:, c], sample_weight=weight) for c in positives])
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("setting", TERMED)
def test_a_metric_is_that_of_scikit_learn_on_samples_and_on_resamples(setting, classes, ties):
    logits, labels, weights = draw(classes, ties=ties)
    metric = metric_of(setting)
    terms = metric.terms_of(logits, labels, None).numpy()
    values = metric.values(terms, np.vstack([np.ones(len(labels)), weights]))
    expected = [
        by_scikit_learn(setting, logits.numpy(), labels.numpy(), weight)
        for weight in (np.ones(len(labels)), *weights)
    ]
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert metric.value(terms) == pytest.approx(values[0], rel=1e-12)


@pytest.mark.parametrize("setting", TERMED)
def test_a_class_that_a_resample_lacks_is_left_out(setting):
    logits, labels, _ = draw(3)
    weight = (labels != 2).double().numpy()
    metric = metric_of(setting)
    terms = metric.terms_of(logits, labels, None).numpy()
    kept = labels != 2
    (value,) = metric.values(terms, weight[None])
    alone = metric.value(metric.terms_of(logits[kept], labels[kept], None).numpy())
    assert value == pytest.approx(alone, rel=1e-12)
    assert value == pytest.approx(
        by_scikit_learn(setting, logits.numpy(), labels.numpy(), weight), rel=1e-12
    )


@pytest.mark.parametrize("setting", TERMED)
def test_samples_that_are_no_target_do_not_count(setting):
    logits, labels, _ = draw(4)
    some = labels.clone()
    some[::3] = IGNORED
    kept = some != IGNORED
    metric = metric_of(setting)
    value = metric.value(metric.terms_of(logits, some, IGNORED).numpy())
    alone = metric.value(metric.terms_of(logits[kept], labels[kept], IGNORED).numpy())
    assert value == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("setting", [s for s in TERMED if KNOWN[s].dense])
def test_pixels_count_as_samples_do(setting):
    logits, labels, _ = draw(4, count=60)
    metric = metric_of(setting)
    image = logits.reshape(5, 3, 4, 4).movedim(3, 1), labels.reshape(5, 3, 4)
    dense = metric.terms_of(*image, IGNORED)
    assert dense.shape[0] == 5
    flat = metric.value(metric.terms_of(logits, labels, IGNORED).numpy())
    assert metric.value(dense.numpy()) == pytest.approx(flat, rel=1e-12)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    logits, labels, _ = draw(2, count=30, ties=True)
    scores = logits.softmax(1)[:, 1].numpy()
    pairs = [
        (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
        for i in np.flatnonzero(labels == 1)
        for j in np.flatnonzero(labels == 0)
    ]
    metric = metric_of("auroc")
    value = metric.value(metric.terms_of(logits, labels, None).numpy())
    assert value == pytest.approx(np.mean(pairs), rel=1e-12)


@pytest.mark.parametrize("setting", TERMED)
def test_terms_of_parts_join_to_those_of_the_whole(setting):
    logits, labels, _ = draw(3)
    metric = metric_of(setting)
    parts = [
        Terms(metric, metric.terms_of(logits[rows], labels[rows], None))
        for rows in (slice(0, 7), slice(7, 8), slice(8, None))
    ]
    whole = metric.value(metric.terms_of(logits, labels, None).numpy())
    assert Terms.join(parts).value() == pytest.approx(whole, rel=1e-14)


def share_of_confident(labels, probabilities):
    """A metric of a user: how much probability the labels have."""
    return probabilities[np.arange(len(labels)), labels].mean()


def of_two_classes(labels, probabilities):
    """A metric of a user that needs two classes."""
    if len(set(labels)) < 2:
        raise ValueError("one class")
    return roc_auc_score(labels == 1, probabilities[:, 1])


def a_loss(labels, probabilities):
    """No metric, since it is smaller for a better model."""
    return log_loss(labels, probabilities, labels=range(probabilities.shape[1]))


def of_a_missing_key(labels, probabilities):
    """No metric."""
    return {}["key"]


def a_text(labels, probabilities):
    """No metric."""
    return "good"


def test_a_function_of_the_user_gets_resamples():
    logits, labels, weights = draw(3)
    metric = metric_of("test_metric.share_of_confident")
    assert (metric.name, metric.percent) == ("metric_share_of_confident", False)
    terms = metric.terms_of(logits, labels, None).numpy()
    each = logits.softmax(1).numpy()[np.arange(60), labels.numpy()]
    assert metric.values(terms, weights) == pytest.approx(weights @ each / 60)
    metric.check(3, dense=False)


def test_a_resample_on_which_a_function_is_not_defined_has_no_value():
    logits, labels, _ = draw(2)
    metric = metric_of("test_metric.of_two_classes")
    terms = metric.terms_of(logits, labels, None).numpy()
    weights = np.stack([np.ones(60), 2.0 * (labels == 0).numpy()])
    assert np.isnan(metric.values(terms, weights)).tolist() == [False, True]
    with pytest.raises(ValueError, match="one class"):
        metric.value(terms[(labels == 0).numpy()])


def test_what_cannot_be_computed_is_rejected():
    with pytest.raises(ValueError, match=r"auroc needs the probabilities of all labels.*mean_iou"):
        metric_of("auroc").check(3, dense=True)
    with pytest.raises(ValueError, match=r"a_text, which is evaluate\.metric, has returned str"):
        metric_of("test_metric.a_text").check(3, dense=False)
    logits, _, _ = draw(3)
    metric = metric_of("auroc")
    one = metric.terms_of(logits, torch.zeros(60, dtype=torch.long), None).numpy()
    with pytest.raises(ValueError, match="'auroc' is nan on 60 samples: it is not defined there"):
        metric.value(one)
    with pytest.raises(ValueError, match="share_of_confident"):
        metric_of("test_metric.share_of_confidnt")


def test_settings_are_checked_with_the_plan():
    assert [metric_name(setting) for setting in ("nll", "auroc", "my.metrics.cost")] == [
        "log_likelihood",
        "auroc",
        "metric_cost",
    ]
    with pytest.raises(ValueError, match="macro_f1"):
        Evaluate(metric="macro_f")


def test_a_loss_in_place_of_its_negative_is_an_error():
    with pytest.raises(ValueError, match=r"a_loss is 0\.\d+ where all predictions are right and 3"):
        metric_of("test_metric.a_loss").check(3, dense=False)
    for setting in TERMED:
        metric_of(setting).check(3, dense=False)


def test_an_error_of_a_function_names_the_setting_and_the_samples():
    with pytest.raises(KeyError, match="key") as error:
        metric_of("test_metric.of_a_missing_key").check(3, dense=False)
    (note,) = error.value.__notes__
    assert "evaluate.metric=test_metric.of_a_missing_key, on 6 samples of 3 classes" in note


def test_values_are_written_in_percent_only_if_they_are_shares():
    texts = [metric_of(setting).text(0.1234) for setting in ("auroc", "nll")]
    assert texts == ["12.3%", "0.123"]
