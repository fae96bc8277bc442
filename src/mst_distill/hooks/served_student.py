"""The code that MLflow keeps with a logged student, and runs where the student is loaded.

No other module imports it. MLflow calls this "models from code": no object is pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from mst_distill.deploy.served import ServedStudent


class LoggedStudent(PythonModel):
    """A `ServedStudent` for MLflow."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the exported folder."""
        trusted = context.model_config["trusted"]
        self._student = ServedStudent(Path(context.artifacts["exported"]), trusted)

    # Of any other type of the input, MLflow would derive a schema; tensors come as a dict.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None
    ) -> pd.DataFrame:
        """See `ServedStudent.predict`."""
        return self._student.predict(model_input, **(params or {}))


mlflow.models.set_model(LoggedStudent())
