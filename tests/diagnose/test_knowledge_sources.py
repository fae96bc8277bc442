"""Sources have the logits of their teacher or specialist, and are differentiable."""

from __future__ import annotations

import pytest
import torch

from mst_distill.mst.networks import forward
from toy_diagnoses import finished
from toy_runs import KINDS

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("kind", KINDS)
def test_sources_have_the_logits_of_teachers_and_ensemble(kind):
    toy = finished(kind)
    arrays = toy.run.samples.modalities
    inputs = {name: torch.from_numpy(array[:4]) for name, array in arrays.items()}
    teachers = list(toy.teachers)
    assert [source.title for source in toy.sources] == [
        *(f"{name} teacher" for name in teachers),
        *toy.ensemble.names,
    ]
    with torch.no_grad():
        specialists = toy.ensemble.logits(inputs)
    for position, source in enumerate(toy.sources):
        seen = {name: inputs[name].clone().requires_grad_() for name in source.modalities}
        logits = source.logits(seen)
        if source.masked:
            expected = specialists[:, position - len(teachers)]
            assert source.title.startswith(f"{source.teacher}/")
        else:
            expected = forward(toy.nets[source.teacher], source.teacher, seen)
        torch.testing.assert_close(logits, expected)
        logits.sum().backward()
        assert all(tensor.grad.any() for tensor in seen.values())
        assert set(source.modalities) == (
            set(inputs) if source.teacher == "multimodal" else {source.teacher}
        )
        (frozen,) = source.frozen().compute(seen)
        torch.testing.assert_close(frozen, expected)
