"""The run that a plan describes."""

from __future__ import annotations

import pandas as pd

from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.data.samples import Samples
from mst_distill.metric import ACCURACY, metric_of
from mst_distill.parameters import TrainingRecipe
from mst_distill.plan import Plan
from mst_distill.training.run import Run


def run_of(
    samples: Samples, splits: pd.DataFrame, plan: Plan, checkpoints: Checkpoints | None = None
) -> Run:
    """Make the run of a plan, without its given teachers.

    Args:
        samples: The store.
        splits: The run's splits.
        plan: The parameters. The plan of a node that trains nothing has no recipe, and need not
            have a metric.
        checkpoints: Where its stages save their state, from which they continue after a stop.

    Raises:
        ValueError: As in `Run` and `metric_of`.
    """
    setting = getattr(plan, "metric", None)
    return Run(
        samples,
        splits,
        plan.target,
        plan.seed,
        plan.runtime,
        checkpoints,
        recipe=getattr(plan, "training", TrainingRecipe()),
        metric=ACCURACY if setting is None else metric_of(setting),
    )
