"""Node of `export`."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.provenance import depends_on
from mst_distill.artifacts.student_input import StudentInput
from mst_distill.data.samples import Samples
from mst_distill.deploy.export import Export, Int8
from mst_distill.plan import Plan

log = logging.getLogger(__name__)


@depends_on("seed", "export", evaluate=("resamples", "confidence", "calibration_bins"))
def export_student(
    student: ModelBundle,
    student_input: StudentInput,
    model_card: str,
    samples: Samples,
    splits: pd.DataFrame,
    plan: Plan,
) -> Export:
    """Put together what is exported; the data set writes and checks the files.

    Args:
        student: The student.
        student_input: How its input is read.
        model_card: The model card, as Markdown.
        samples: The store; it is read for int8 alone.
        splits: The run's splits.
        plan: All parameters.

    Raises:
        ValueError: The student cannot be quantised, or int8 loses too much accuracy; the message
            says which, and what to do.
    """
    export = Export(student, student_input, model_card)
    if not plan.export.int8:
        return export
    int8 = _quantise(export, samples, splits, plan)
    log.info("%s", int8.report["summary"])
    return replace(export, int8=int8)


def _quantise(export: Export, samples: Samples, splits: pd.DataFrame, plan: Plan) -> Int8:
    """Quantise the student on training samples, and evaluate the files on the test split."""
    from mst_distill.artifacts.student_input import save_student_input
    from mst_distill.deploy.export import save_onnx
    from mst_distill.deploy.latency import measure_latency
    from mst_distill.deploy.predict import Student
    from mst_distill.deploy.quantise import quantise
    from mst_distill.evaluate.bootstrap import Bootstrap
    from mst_distill.evaluate.int8 import (
        calibration_rows,
        check_loss,
        compare_int8,
        int8_sentence,
    )

    settings, description = plan.evaluate, export.student_input
    bootstrap = Bootstrap(settings.resamples, settings.confidence, plan.seed)
    rows = calibration_rows(samples, splits, description.modality, plan.seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = {"float32": folder / "student.onnx", "int8": folder / "student_int8.onnx"}
        save_student_input(description, folder / "student_input.json")
        save_onnx(export, files["float32"])
        calibration = samples.modalities[description.modality][rows]
        quantise(files["float32"], calibration, files["int8"])
        models = {name: Student(folder, int8=name == "int8").logits for name in files}
        bins = settings.calibration_bins
        report = compare_int8(samples, splits, description, models, bins, bootstrap)
        check_loss(report, plan.export.tolerated_loss)
        # A batch of whole pictures with a label for each pixel may not fit into the memory.
        batches = (1,) if description.dense else (1, 32)
        for name, file in files.items():
            report[name]["bytes"] = file.stat().st_size
            report[name]["milliseconds"] = measure_latency(file, description.shape, batches)
        report["summary"] = int8_sentence(report)
        report |= {"calibration_samples": len(rows), "tolerated_loss": plan.export.tolerated_loss}
        report["versions"] = {"onnxruntime": version("onnxruntime")}
        return Int8(files["float32"].read_bytes(), files["int8"].read_bytes(), report)
