"""The router's probabilities on the held-out split, and the routing weights that follow."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.mst.features import FeatureExtractor, ModelOutput
from mst_distill.mst.gating import routing_weights
from mst_distill.mst.losses import at_least_float32
from mst_distill.training.device import autocast
from mst_distill.training.run import Run


def routing_probabilities(router: nn.Module, student: ModelOutput) -> Tensor:
    """Return c, the softmax of the router's output for the student's output, ``(B, E)``."""
    c: Tensor = at_least_float32(router(student.precise())).softmax(dim=1)
    return c


def weights_of(probabilities: Tensor, top_k: int | None) -> Tensor:
    """Return the routing weights of all specialists, ``(B, E)``, from `routing_weights`."""
    routing = routing_weights(probabilities, top_k)
    return torch.zeros_like(probabilities).scatter(1, routing.specialists, routing.weights)


def held_out_weights(table: pd.DataFrame, top_k: int | None) -> np.ndarray:
    """Return `weights_of` the rows of `routing_probability_table`, ``(n, E)``."""
    probabilities = torch.tensor(table.drop(columns="id").to_numpy(dtype=np.float64))
    return weights_of(probabilities, top_k).numpy()


@torch.no_grad()
def routing_probability_table(
    run: Run,
    student: FeatureExtractor,
    router: nn.Module,
    specialists: tuple[str, ...],
    batch_size: int,
) -> pd.DataFrame:
    """Return c for the held-out samples: ``id`` and one column for each specialist.

    The samples are those with all modalities, on which any specialist can be selected.
    """
    run.place(student.net).eval()
    run.place(router).eval()
    batches = []
    for batch in run.batches("test", [run.target], batch_size, needed=run.modalities):
        with autocast(run.device, run.runtime):
            output = student(batch.inputs)
        batches.append(routing_probabilities(router, output).cpu())
    table = pd.DataFrame(torch.cat(batches).numpy(), columns=list(specialists))
    table.insert(0, "id", run.splits["id"].to_numpy()[run.rows("test", run.modalities)])
    return table
