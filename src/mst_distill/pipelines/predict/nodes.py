"""The node of `predict`: new samples are read as in training, and classified."""

from __future__ import annotations

import logging

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.provenance import depends_on, texts_in
from mst_distill.artifacts.student_input import StudentInput
from mst_distill.deploy.prediction import Predictions
from mst_distill.plan import Plan

log = logging.getLogger(__name__)


@depends_on("benchmark", "predict", "runtime")
def predict_new_samples(
    student: ModelBundle,
    student_input: StudentInput,
    validation_predictions: pd.DataFrame,
    plan: Plan,
) -> Predictions:
    """Open new data of the student's modality; they are read and classified while they are saved.

    Args:
        student: The student.
        student_input: How its input is read.
        validation_predictions: The student's on the validation split, with scaled confidence.
        plan: All parameters.

    Raises:
        ValueError: No source is named, the student and the description of its input do not belong
            together, the source of the benchmark has no readers, or the wanted accuracy is not
            reached; the message says what to do.
        FileNotFoundError: The source does not exist or has no file to read.
    """
    from mst_distill.deploy.new_samples import NewSamples
    from mst_distill.deploy.predictor import Predictor

    settings = plan.predict
    if settings.source is None:
        raise ValueError(
            f"predict.source is missing: add --params=predict.source=PATH, a folder of files or a "
            f"table (.csv or .parquet) with the {student_input.modality} of new samples"
        )
    if student.sha256 != student_input.weights:
        raise ValueError(
            "the student has other weights than the description of its input: run again with "
            "--from-nodes=evaluate.build_student_input"
        )
    if student_input.reader is None:
        raise ValueError(
            f"{plan.benchmark.type} has no readers, so that it is not known how a raw value of "
            f"{student_input.modality} becomes a tensor: derive it from ReaderSource (see the "
            f"document on your own data) and run again"
        )
    reader = student_input.reader.open(*texts_in(plan.benchmark.model_dump(mode="json")))
    samples = NewSamples(settings.source, reader, student_input.modality, settings.column)
    threshold = settings.least_confidence
    if settings.wanted_accuracy is not None:
        threshold = accuracy_threshold(
            validation_predictions, settings.wanted_accuracy, student_input
        )
    predictor = Predictor(student.net, student_input, reader, threshold, plan.runtime)
    return Predictions(predictor, samples, settings.batch_size, settings.name)


def accuracy_threshold(
    predictions: pd.DataFrame, wanted_accuracy: float, student_input: StudentInput
) -> float:
    """Return the confidence from which on validation samples have the wanted accuracy.

    Raises:
        ValueError: They do not have it at any confidence, or the labels are dense.
    """
    from mst_distill.evaluate.calibration import threshold_for_accuracy

    if student_input.dense:
        raise ValueError(
            "predict.wanted_accuracy is for labels of whole samples: with a label for each pixel, "
            "set predict.least_confidence"
        )
    confidence, correct = (
        predictions[name].to_numpy() for name in ("confidence_scaled", "correct")
    )
    threshold = threshold_for_accuracy(confidence, correct, wanted_accuracy)
    if threshold is None:
        raise ValueError(
            f"predict.wanted_accuracy is {wanted_accuracy:g}, but the student has it on the "
            f"validation split at no confidence: its accuracy there is {correct.mean():.1%}"
        )
    log.info(
        "From a confidence of %.3f on, the student's answers on the validation split have an "
        "accuracy of at least %.1f%%; it answers %.1f%% of the samples there",
        threshold,
        100 * wanted_accuracy,
        100 * (confidence >= threshold).mean(),
    )
    return threshold
