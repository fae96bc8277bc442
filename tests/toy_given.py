"""Given teachers for toy runs: the files of a net, and runs that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn

from mst_distill.given_teacher import GivenTeacher
from mst_distill.mst.given_teachers import with_given
from mst_distill.mst.networks import build_member, forward, modalities_of
from mst_distill.plan import Plan
from mst_distill.training.run import Run


def outputs(run: Run, net: nn.Module, member: str) -> np.ndarray:
    """The logits of a net for all samples, batch by batch as a run computes them."""
    reads = modalities_of(member, run.modalities)
    values = {name: torch.from_numpy(np.array(run.samples.modalities[name])) for name in reads}
    with torch.no_grad():
        return forward(net.eval(), member, values).numpy()


def logits_file(path: Path, run: Run, logits: np.ndarray, ids: Any = None) -> Path:
    """Write logits to a Parquet file."""
    table = pd.DataFrame(logits, columns=list(run.samples.classes))
    table.insert(0, "id", run.samples.index["id"].to_numpy() if ids is None else ids)
    table.to_parquet(path)
    return path


def true_logits(run: Run, scale: float = 3.0) -> np.ndarray:
    """Logits of a teacher that is right and not sure, a little different for each sample."""
    rng = np.random.default_rng(5)
    right = np.eye(len(run.samples.classes))[run.samples.labels]
    return scale * right + rng.normal(size=right.shape)


def weights_file(path: Path, net: nn.Module) -> Path:
    """Write the weights of a net."""
    save_file({name: of.contiguous() for name, of in net.state_dict().items()}, path)
    return path


def teaching_net(run: Run, plan: Plan, member: str, epochs: int = 30) -> nn.Module:
    """Train the net of a member a little, with a loop of this test's own."""
    net = build_member(member, plan.members.all_of(run.target)[member], 3, seed=7)
    rows = run.rows("train")
    reads = modalities_of(member, run.modalities)
    values = {
        name: torch.from_numpy(np.array(run.samples.modalities[name][rows])) for name in reads
    }
    labels = torch.from_numpy(run.samples.labels[rows])
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(epochs):
        optimiser.zero_grad()
        nn.functional.cross_entropy(forward(net.train(), member, values), labels).backward()
        optimiser.step()
    return net.eval().requires_grad_(False)


def give(run: Run, plan: Plan, **teachers: dict[str, Any]) -> tuple[Run, Plan]:
    """The run and the plan with given teachers; they have seen no labels unless they say so."""
    given = {
        name: GivenTeacher.model_validate({"seen_labels": "none", **of})
        for name, of in teachers.items()
    }
    plan = plan.model_copy(update={"teachers": plan.teachers.model_copy(update={"given": given})})
    return with_given(run, plan.given), plan
