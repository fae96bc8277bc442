"""What the router prefers, and what it gives every specialist to weigh."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.samples import rows_of
from mst_distill.training.device import autocast
from mst_distill.training.run import Run


def preference(router: nn.Module, logits: Tensor) -> Tensor:
    """The router's c = softmax(G(S(x))), ``(B, E)``, of the student's logits."""
    c: Tensor = router(logits).float().softmax(dim=1)
    return c


def weights_of(preference: Tensor, chosen: int) -> Tensor:
    """What the specialists weigh in KD: 1 / k for the k of largest preference, ``(B, E)``."""
    places = preference.topk(chosen, dim=1).indices
    return torch.zeros_like(preference).scatter(1, places, 1 / chosen)


def held_out_weights(table: pd.DataFrame, chosen: int) -> np.ndarray:
    """`weights_of` a table of preferences, ``(n, E)``, in its order."""
    preferences = torch.tensor(table.drop(columns="id").to_numpy(dtype=np.float64))
    return weights_of(preferences, chosen).numpy()


@torch.no_grad()
def preference_table(
    run: Run, student: nn.Module, router: nn.Module, specialists: tuple[str, ...], batch_size: int
) -> pd.DataFrame:
    """The router's preferences for the held-out samples: ``id``, and c, a column a specialist."""
    run.place(student).eval()
    run.place(router).eval()
    parts = []
    for batch in run.batches("test", [run.target], batch_size):
        with autocast(run.device, run.runtime):
            logits = student(batch.inputs[run.target])
        parts.append(preference(router, logits.float()).cpu())
    table = pd.DataFrame(torch.cat(parts).numpy(), columns=list(specialists))
    table.insert(0, "id", run.splits["id"].to_numpy()[rows_of(run.splits, "test")])
    return table
