"""The exported student as a model of MLflow: raw values in, labels and probabilities out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array

from mst_distill.deploy.served import ServedStudent

NAME = "student"

REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "pandas")
"""What the served code imports, besides this package, which no package index has."""

TYPES = {"numbers": DataType.double, "text": DataType.string, "path": DataType.binary}
"""What a raw value is to the type of its column; the content of a file, not its path, is sent."""

EXAMPLES = {"numbers": 0.0, "text": "a text", "path": b""}
"""Raw values without data of anybody; the answer to an empty file is an error in its row."""

PARAMETERS = ParamSchema([ParamSpec("least_confidence", DataType.double, 0.0)])
"""What a request may set besides the raw values, see `ServedStudent.predict`."""


def log_student(folder: Path, trusted: str, metrics: Mapping[str, float]) -> str:
    """Log an exported student to the active run of MLflow.

    Args:
        folder: The exported folder.
        trusted: The import path of the benchmark; readers of its package are built.
        metrics: Metrics of the student, which are linked to the model.

    Returns:
        The id of the model.
    """
    student = ServedStudent(folder, trusted)
    with _quiet():
        info = mlflow.pyfunc.log_model(
            name=NAME,
            python_model=str(Path(__file__).with_name("served_student.py")),
            artifacts={"exported": str(folder.resolve())},
            model_config={"trusted": trusted},
            signature=ModelSignature(_inputs(student), _outputs(student), PARAMETERS),
            input_example=_example(student),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
    mlflow.log_metrics(dict(metrics), model_id=info.model_id)
    return str(info.model_id)


def _inputs(student: ServedStudent) -> Schema:
    if student.takes is None:
        return Schema([TensorSpec(np.dtype("float32"), (-1, *student.shape), student.modality)])
    return Schema([ColSpec(TYPES[student.takes], name) for name in student.columns])


def _outputs(student: ServedStudent) -> Schema:
    types: dict[str, Any] = dict.fromkeys(student.outputs, DataType.double)
    types |= {"label": DataType.string, "error": DataType.string}
    if student.dense:
        types["pixels"] = Array(Array(DataType.long))
    # An error leaves the other columns empty.
    return Schema([ColSpec(types[name], name, required=name == "error") for name in types])


def _example(student: ServedStudent) -> Any:
    if student.takes is None:
        return {student.modality: np.zeros((1, *student.shape), np.float32)}
    return pd.DataFrame([dict.fromkeys(student.columns, EXAMPLES[student.takes])])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow on what it does, and on a missing pip, which an environment of uv lacks."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
