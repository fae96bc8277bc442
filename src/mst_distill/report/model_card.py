"""The model card of a student: Markdown with a header that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mst_distill.artifacts.student_input import StudentInput
from mst_distill.parameters import Card
from mst_distill.report.limits import limits
from mst_distill.report.rendering import render_markdown
from mst_distill.report.tables import (
    STUDENT,
    RunResults,
    class_table,
    origin_table,
    student_table,
)

TEMPLATE = "---\n{{ card_data }}\n---\n\n{{ body }}"
"""Where the Hub reads the header of a card: between two lines of dashes at the top."""

UNSTATED = "other"
"""The licence in the header if none is stated; the Hub knows no empty one."""

EVALUATED = ("accuracy", "mean_iou", "macro_recall", "nll", "nll_scaled", "calibration_error")
"""The metrics in the header, if the student has them."""


@dataclass(frozen=True)
class CardContents:
    """What a model card states beyond the results.

    Attributes:
        card: The block of the parameters; `Card.of` the benchmark.
        benchmark: Import path of the source of the samples.
        student: Class of the student, number of its weights and SHA-256 of their file.
        training: What the student was trained with, name to text.
        samples_report: From `describe`.
        protocol: ``heldout`` or ``random``.
        limit: The number of samples that were used, or ``all``.
        student_input: How its input is read, and what its logits mean.
    """

    card: Card
    benchmark: str
    student: tuple[str, int, str]
    training: Mapping[str, str]
    samples_report: Mapping[str, Any]
    protocol: str
    limit: int | str
    student_input: StudentInput

    def shape(self, modality: str) -> list[str]:
        """The shape of a sample, one text for each axis."""
        stated: str = self.samples_report["modalities"][modality]["shape"]
        return stated.rpartition(" ")[0].split(" x ")


def model_card(results: RunResults, contents: CardContents) -> str:
    """Write the model card. It contains no sample, no id and no path of this machine.

    The header is that of `huggingface_hub.ModelCardData`; nothing is validated on the Hub.

    Args:
        results: The results on the test split.
        contents: Everything else.
    """
    benchmark = contents.benchmark.rpartition(".")[2]
    report, target = contents.samples_report, results.target
    groups = report["groups_by_split"]
    splits = pd.DataFrame(
        {
            "split": list(report["splits"]),
            "samples": [f"{count:,}" for count in report["splits"].values()],
            "groups": [f"{count:,}" for count in groups.values()],
        }
    )
    body = render_markdown(
        "model_card.md",
        title=f"{benchmark}: the {target} student",
        verdict=results.metrics["verdict"],
        target=target,
        others=[name for name in report["modalities"] if name != target],
        facts=_rows(_facts(results, contents)),
        dense=contents.student_input.dense,
        classes=results.classes,
        card=contents.card,
        benchmark=contents.benchmark,
        confidence=f"{results.bootstrap.confidence:.0%}",
        student_table=student_table(results),
        class_table=class_table(results, "pixels" if contents.student_input.dense else "samples"),
        limits=limits(results, groups["test"], contents.protocol, contents.limit),
        training=_rows(contents.training),
        splits=splits,
        omitted=report["omitted"]["count"],
        warnings=report["warnings"],
        origin=origin_table({"weights, SHA-256": contents.student[2]}),
    )
    header = _header(results, contents, benchmark)
    return str(ModelCard.from_template(header, template_str=TEMPLATE, body=body))


def _rows(texts: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"what": list(texts), "value": list(texts.values())})


def _facts(results: RunResults, contents: CardContents) -> dict[str, str]:
    kind, weights, _ = contents.student
    shape = " x ".join(["batch", *contents.shape(results.target)])
    description = contents.student_input
    reader = description.reader
    return {
        "input": f"{results.target}, float32, {shape}",
        "output": f"logits of {len(results.classes)} classes",
        "network": kind,
        "weights": f"{weights:,}, {4e-6 * weights:.2f} MB as float32",
        "temperature": f"{description.temperature:.3f}; divide the logits by it",
        "reader": reader.type if reader else "none: raw values are read by your own code",
    }


def _header(results: RunResults, contents: CardContents, benchmark: str) -> ModelCardData:
    student = results.models[STUDENT]
    evaluated = [
        EvalResult(
            task_type="image-segmentation" if contents.student_input.dense else "classification",
            dataset_type=benchmark.lower(),
            dataset_name=benchmark,
            dataset_split="test",
            metric_type=metric,
            metric_value=round(student[metric], 5),
        )
        for metric in dict.fromkeys((results.metric.name, *EVALUATED))
        if metric in student
    ]
    return ModelCardData(
        license=contents.card.license or UNSTATED,
        library_name="mst-distill",
        tags=["knowledge-distillation", "cross-modal", results.target],
        model_name=f"{benchmark} {results.target} student",
        eval_results=evaluated,
    )
