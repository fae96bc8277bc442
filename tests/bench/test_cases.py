"""The cases of the bench: their parameters, and a run on data of their shapes."""

from __future__ import annotations

import pytest

from bench.cases import CASES
from mst_distill.mst.networks import build_members
from mst_distill.parameters import Runtime


@pytest.mark.parametrize("name", ["digits-image", "digits-audio", "avmnist-image", "avmnist-audio"])
def test_a_case_has_networks_that_fit_its_samples(name: str) -> None:
    case = CASES[name](Runtime(device="cpu"))
    assert case.run.target == name.partition("-")[2]
    assert case.run.unlabelled is None
    nets = build_members(case.run, case.plan)
    assert set(nets) == {"multimodal", *case.run.modalities}
    assert len(case.run.rows("train")) > 0
