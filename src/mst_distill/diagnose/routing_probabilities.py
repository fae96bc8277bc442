"""What the router prefers, and what it gives every specialist to weigh."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.data.samples import rows_of
from mst_distill.mst.features import Observed, Observer
from mst_distill.mst.gating import weigh
from mst_distill.mst.losses import at_least_float32
from mst_distill.training.device import autocast
from mst_distill.training.run import Run


def preference(router: nn.Module, student: Observed) -> Tensor:
    """The router's c, ``(B, E)``, of what the student makes of samples."""
    c: Tensor = at_least_float32(router(student.precise())).softmax(dim=1)
    return c


def weights_of(preference: Tensor, picked: int | None) -> Tensor:
    """What the specialists weigh in KD, ``(B, E)``; see `weigh`."""
    heard = weigh(preference, picked)
    return torch.zeros_like(preference).scatter(1, heard.chosen, heard.weights)


def held_out_weights(table: pd.DataFrame, picked: int | None) -> np.ndarray:
    """`weights_of` a table of preferences, ``(n, E)``, in its order."""
    preferences = torch.tensor(table.drop(columns="id").to_numpy(dtype=np.float64))
    return weights_of(preferences, picked).numpy()


@torch.no_grad()
def preference_table(
    run: Run, student: Observer, router: nn.Module, specialists: tuple[str, ...], batch_size: int
) -> pd.DataFrame:
    """The router's preferences for the held-out samples: ``id``, and c, a column a specialist."""
    run.place(student.net).eval()
    run.place(router).eval()
    parts = []
    for batch in run.batches("test", [run.target], batch_size):
        with autocast(run.device, run.runtime):
            observed = student(batch.inputs)
        parts.append(preference(router, observed).cpu())
    table = pd.DataFrame(torch.cat(parts).numpy(), columns=list(specialists))
    table.insert(0, "id", run.splits["id"].to_numpy()[rows_of(run.splits, "test")])
    return table
